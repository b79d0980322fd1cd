"""`resume` reads stored answers by today's rules: a reply found in a body of the journal is not bought again."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import convbatch
from convbatch.cli.main import app
from convbatch.journal.records import decode_line, encode_line
from tests.support.field_answers import MODEL, serve_answers, write_config, write_dialogues

REPLY = {
    "model": "served",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25},
}
WHOLE = json.dumps(REPLY)
REFUSAL = json.dumps({"error": {"message": "The prompt was filtered", "code": "content_filter"}})
STREAM = 'data: {"choices":[{"delta":{"content":"hello"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

STORED: dict[str, tuple[dict[str, Any], tuple[str, float | None]]] = {
    "a stream": ({"http_status": 200, "body": STREAM}, ("ok", None)),
    "a status": ({"http_status": 201, "body": WHOLE}, ("ok", 7e-05)),
    "a refusal": ({"http_status": 400, "class": "final", "body": REFUSAL}, ("blocked", None)),
    "compressed": ({"body_b64": base64.b64encode(gzip.compress(WHOLE.encode())).decode()}, ("ok", 7e-05)),
    "cut": ({"http_status": 200, "body": WHOLE[:-1]}, ("ok", 7e-05)),
}
"""What the journal of an earlier version holds; the status of the row after `resume`, and its cost."""


def rewrite(journal: Path, stored: Mapping[str, Mapping[str, Any]]) -> None:
    """Change the `outcome` records of dialogues to what an earlier version stored."""
    lines: list[bytes] = []
    for line in journal.read_bytes().splitlines():
        record = decode_line(line)
        record.pop("crc")
        if record["kind"] == "outcome":
            record |= {"class": "ambiguous", **stored[record["dialogue"]]}
            record.pop("body" if "body_b64" in record else "body_b64", None)
        lines.append(encode_line(record.pop("seq"), record.pop("at"), record))
    journal.write_bytes(b"".join(lines))


def test_a_reply_in_the_body_of_an_old_journal_is_not_asked_again(tmp_path: Path) -> None:
    names = {f"d{number}": name for number, name in enumerate(STORED)}
    case: dict[str, Any] = {
        "wire": "openai",
        "run": {"dialogues": len(STORED), "turns": 2},
        "serve": {"file2_when": f"request_after:{len(STORED)}"},
        "answers": [{"status": 200, "body": WHOLE[:-2]}, {"status": 200, "body": REPLY}],
    }
    with serve_answers({"old": case}) as server:
        convbatch.run(
            write_dialogues(tmp_path, case["run"]),
            models=[f"{MODEL}@old"],
            config=write_config(tmp_path, server, ["old"]),
            out=tmp_path / "run",
            max_attempts=1,
        )
        assert len(server.requests["old"]) == len(STORED)
        rewrite(tmp_path / "run/journal/000001.jsonl", {dialogue: STORED[name][0] for dialogue, name in names.items()})
        done = CliRunner().invoke(app, ["resume", str(tmp_path / "run"), "--no-progress", "--max-attempts", "1"])
        assert done.exit_code == 0, done.output
        # The cut reply is asked again; of each that was read, only the second turn, unless it was blocked.
        assert len(server.requests["old"]) == len(STORED) + 1 + len(STORED) - 1
        again = convbatch.load(tmp_path / "run").turns.set_index(["dialogue", "turn"])
        CliRunner().invoke(app, ["resume", str(tmp_path / "run"), "--no-progress"])
        assert len(server.requests["old"]) == 2 * len(STORED)
    for dialogue, name in names.items():
        row: Any = again.loc[(dialogue, 1)]
        status, cost = STORED[name][1]
        assert (name, row["status"]) == (name, status)
        assert row["cost"] == pytest.approx(cost) if cost else pd.isna(row["cost"])
        assert row["possibly_paid"] == (1 if name == "cut" else 0)
        assert row["attempts"] == (2 if name == "cut" else 1)
        assert pd.isna(row["wire_note"]) if name == "cut" else "read again from the journal" in row["wire_note"]
    second = [body["messages"] for _, body in server.requests["old"] if len(body["messages"]) == 3]
    assert [messages[1]["content"] for messages in second] == ["hello"] * (len(STORED) - 1)
