"""Gateways whose replies need a configuration key: without it the turn goes back as received, with it all is well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import convbatch
from convbatch.results.run import Run
from tests.support.field_answers import (
    ANSWERS,
    CASES,
    MODEL,
    AnswerServer,
    serve_answers,
    write_config,
    write_dialogues,
)

KEYS = {
    "think-tags": 'thinking_tags = "<think>"',
    "think-tag-missing": 'thinking_tags = "<think>"',
    "think-tag-of-mistral": 'thinking_tags = "[THINK]"',
    "mistral-reasoning-content-422": 'replay = "content"',
    "reasoning-details-refused": 'replay = "content"',
    "signature-corrupted": 'replay = "content"',
    "gemma-no-system": 'system_role = "user"',
    "gemma-no-instruction": 'system_role = "user"',
}
"""The key that a case needs."""
EXACT = 'replay = "exact"'


@dataclass(frozen=True)
class Played:
    """One run of every case, once with its key (`NAME`) and once without (`NAME--plain`)."""

    run: Run
    server: AnswerServer

    def rows(self, name: str) -> list[dict[str, Any]]:
        turns: Any = self.run.turns
        return turns[turns["gateway"] == name].to_dict("records")

    def sent(self, name: str) -> list[Any]:
        """Return the messages of the last request of a gateway."""
        body = self.server.requests[name][-1][1]
        return body.get("messages") or body["contents"]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    folder = tmp_path_factory.mktemp("request-keys")
    cases = {f"{name}{way}": CASES[name] for name in KEYS for way in ("", "--plain")}
    cases["signature-corrupted--exact"] = CASES["signature-corrupted"]
    with serve_answers(cases) as server:
        tables = [
            write_config(folder, server, [name], KEYS.get(name, EXACT * name.endswith("exact"))).read_text("utf-8")
            for name in cases
        ]
        config = folder / "convbatch.toml"
        config.write_text("\n".join(tables), "utf-8")
        run = convbatch.run(
            write_dialogues(folder, {"turns": 3, "system": True}),
            models=[f"{MODEL}@{name}" for name in cases],
            config=config,
            out=folder / "run",
            deadline_s=20,
        )
        yield Played(run, server)


@pytest.mark.parametrize("name", KEYS)
def test_with_its_key_both_turns_are_answered(played: Played, name: str) -> None:
    rows = played.rows(name)
    assert [(row["status"], row["error_message"]) for row in rows] == [("ok", None)] * 3
    assert rows[0]["reply"] == "hello"
    assert not any(word in rows[1]["reply"] for word in ("think", "THINK"))


@pytest.mark.parametrize("name", [name for name in KEYS if CASES[name]["wire"] == "openai" and "system" not in name])
def test_without_the_key_a_turn_goes_back_exactly_as_received(played: Played, name: str) -> None:
    case = CASES[name]
    body = case["answers"][0]["body"] if "answers" in case else json_body((ANSWERS / case["files"][0]).read_bytes())
    received = body["choices"][0]["message"]
    assert {key: value for key, value in received.items() if value != []} == next(
        message for message in played.sent(f"{name}--plain") if message.get("role") == "assistant"
    )


def json_body(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def test_thoughts_between_tags_are_judged_and_sent_back_only_without_the_key(played: Played) -> None:
    first, second, third = played.rows("think-tags")
    assert (first["thought"], second["thought"], second["reply"], third["reply"]) == (
        "The user wants hello. The answer is 42.", None, "again", "again",
    )  # fmt: skip
    assert played.sent("think-tags")[2] == {"role": "assistant", "content": "hello"}
    assert "<think>" in played.rows("think-tags--plain")[0]["reply"]
    assert "<think>" in (played.run.folder.path / "journal" / "000001.jsonl").read_text("utf-8")


def test_refused_signatures_are_left_out_once_and_noted_unless_exact_is_written(played: Played) -> None:
    first, second, third = played.rows("signature-corrupted--plain")
    assert [(row["status"], row["attempts"]) for row in (first, second, third)] == [("ok", 1), ("ok", 2), ("ok", 1)]
    assert pd.isna(first["wire_note"])
    assert {second["wire_note"], third["wire_note"]} == {"signatures in the history were refused and left out"}
    assert second["possibly_paid"] == 0
    bodies = [json.dumps(body) for _, body in played.server.requests["signature-corrupted--plain"]]
    assert ["AAAA" in body for body in bodies] == [False, True, False, False]

    first, second, third = played.rows("signature-corrupted--exact")
    assert (second["status"], second["attempts"], third["status"]) == ("error", 1, "skipped")
    assert 'replay = "content"' in second["error_message"]
    assert len(played.server.requests["signature-corrupted"]) == 3  # no signature was sent


def test_a_reused_reply_is_read_with_the_tags_of_the_new_run(played: Played, tmp_path: Path) -> None:
    name, asked = "think-tags--plain", len(played.server.requests["think-tags--plain"])
    again = convbatch.run(
        write_dialogues(tmp_path, {"turns": 2, "system": True}),
        models=[f"{MODEL}@{name}"],
        config=write_config(tmp_path, played.server, [name], KEYS["think-tags"]),
        out=tmp_path / "again",
        reuse=played.run.folder.path,
    )
    rows: Any = again.turns
    assert list(rows["reply"]) == ["hello", "again"]
    assert rows["thought"].iloc[0] == "The user wants hello. The answer is 42."
    assert list(rows["reused_from"].notna()) == [True, False]  # the history of the second turn is another one
    assert len(played.server.requests[name]) == asked + 1


def test_the_system_text_travels_in_the_first_user_message(played: Played) -> None:
    assert played.sent("gemma-no-system")[0] == {"role": "user", "content": "Answer briefly.\n\nQuestion 1?"}
    assert played.sent("gemma-no-instruction")[0]["parts"] == [{"text": "Answer briefly.\n\nQuestion 1?"}]
    assert {row["status"] for row in played.rows("gemma-no-system--plain")} <= {"error", "skipped", "pending"}
