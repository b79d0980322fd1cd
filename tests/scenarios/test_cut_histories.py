"""A gateway whose provider removes parts of the history: seen in rows, in a comparison and in an audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import convbatch as cb
from tests.conftest import CANARY_ENV, Command
from tests.support.gateway_server import Received, serve_gateway

DROPPED = [{"type": "thinking_dropped", "path": "messages.1.content.0", "reason": "model_binding_mismatch"}]


def answer(received: Received) -> tuple[int, Any]:
    """Answer as Messages, with a call first where there are tools; `/cut` says first that it removed a block."""
    request = json.loads(received.body)
    calls = bool(request.get("tools")) and len(request["messages"]) == 1
    call = {"type": "tool_use", "id": "c1", "name": "clock", "input": {}}
    reply = {
        "type": "message", "role": "assistant", "id": "m1", "model": "m",
        "stop_reason": "tool_use" if calls else "end_turn",
        "content": [call if calls else {"type": "text", "text": "hello"}],
        "usage": {"input_tokens": 9, "output_tokens": 3},
    }  # fmt: skip
    is_cut = received.path.startswith("/cut") and (calls or not request.get("tools"))
    return 200, {**reply, "input_transformations": DROPPED} if is_cut else reply


@pytest.mark.parametrize("with_tools", [False, True], ids=["each turn", "first step of a turn"])
def test_a_cut_history_is_told_by_rows_comparison_and_audit(
    tmp_path: Path, convbatch: Command, with_tools: bool
) -> None:
    users = ("Hi",) if with_tools else ("Hi", "And now?")
    cut = 3 * len(users)
    turns = [{"user": user, "checks": [{"contains": "hello"}]} for user in users]
    tools = {"tools": [{"name": "clock"}], "tool_results": {"clock": "12:00"}} if with_tools else {}
    data = "".join(json.dumps({"id": f"d{n}", "turns": turns, **tools}) + "\n" for n in range(3))
    (tmp_path / "d.jsonl").write_text(data)
    with serve_gateway(answer) as gateway:
        keys = f'protocol = "anthropic"\nkey_env = "{CANARY_ENV}"\n'
        tables = [f'[gateways.{n}]\n{keys}base_url = "{gateway.url}/{n}"\n' for n in ("whole", "cut")]
        (tmp_path / "convbatch.toml").write_text("\n".join(tables))
        assert convbatch("run", "d.jsonl", "-m", "m", "-g", "whole", "-g", "cut", "-o", "out").code == 0
    rows = cb.load(tmp_path / "out").turns
    assert rows["steps"].tolist() == [1 + with_tools] * 2 * cut
    noted = rows[rows["wire_note"].notna()]
    assert noted["gateway"].tolist() == ["cut"] * cut
    compared = convbatch("compare", "out:m@whole", "out:m@cut", "--json")
    plain = json.loads(compared.out)
    assert plain["histories_cut"] == {"base": 0, "candidate": cut}
    assert len(plain["warnings"]) == 1
    assert "WARNING" in convbatch("compare", "out:m@whole", "out:m@cut").out
    assert "convbatch audit" in convbatch("report", "out").out
    audited = convbatch("audit", "out", "--reference", "whole", "--json")
    assert audited.code == 1
    (pair,) = json.loads(audited.out)["pairs"]
    assert [one["question"] for one in pair["questions"] if one["verdict"] == "different"] == ["obedience"]
