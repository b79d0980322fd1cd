"""A gateway whose provider removes parts of the history: seen in rows, in a comparison and in the audit of a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import convbatch as cb
from tests.conftest import CANARY_ENV, Command
from tests.support.gateway_server import Received, serve_gateway

DROPPED = [{"type": "thinking_dropped", "path": "messages.1.content.0", "reason": "model_binding_mismatch"}]


def answer(received: Received) -> tuple[int, Any]:
    """Answer as Messages; a gateway at `/cut` says that it removed a block."""
    reply = {
        "type": "message", "role": "assistant", "id": "m1", "model": "m", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "hello"}], "usage": {"input_tokens": 9, "output_tokens": 3},
    }  # fmt: skip
    return 200, {**reply, "input_transformations": DROPPED} if received.path.startswith("/cut") else reply


def test_a_cut_history_is_told_by_rows_comparison_and_audit(tmp_path: Path, convbatch: Command) -> None:
    turns = [{"user": "Hi", "checks": [{"contains": "hello"}]}, {"user": "And now?", "checks": [{"contains": "hello"}]}]
    data = "".join(json.dumps({"id": f"d{n}", "turns": turns}) + "\n" for n in range(3))
    (tmp_path / "d.jsonl").write_text(data)
    with serve_gateway(answer) as gateway:
        keys = f'protocol = "anthropic"\nkey_env = "{CANARY_ENV}"\n'
        tables = [f'[gateways.{n}]\n{keys}base_url = "{gateway.url}/{n}"\n' for n in ("whole", "cut")]
        (tmp_path / "convbatch.toml").write_text("\n".join(tables))
        assert convbatch("run", "d.jsonl", "-m", "m", "-g", "whole", "-g", "cut", "-o", "out").code == 0
    rows = cb.load(tmp_path / "out").turns
    noted = rows[rows["wire_note"].notna()]
    assert noted["gateway"].tolist() == ["cut"] * 6
    compared = convbatch("compare", "out:m@whole", "out:m@cut", "--json")
    plain = json.loads(compared.out)
    assert plain["histories_cut"] == {"base": 0, "candidate": 6}
    assert len(plain["warnings"]) == 1
    assert "WARNING" in convbatch("compare", "out:m@whole", "out:m@cut").out
    assert convbatch("report", "out", "-o", "r.json").code == 0
    audit = json.loads((tmp_path / "r.json").read_text())
    assert [row["verdict"] for row in audit["audit"]["rows"] if "history_seen" in row.values()] == ["differs"]
