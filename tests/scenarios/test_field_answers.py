"""Answers that real gateways were reported to give, through real sockets, become the rows they must become."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import convbatch
from convbatch.cli.main import app
from convbatch.results.run import Run
from tests.support.field_answers import CASES, MODEL, AnswerServer, serve_answers, write_config, write_dialogues
from tests.support.tables import each

JUDGED = {name: case for name, case in CASES.items() if "expect" in case}
RESUMED = [name for name, case in JUDGED.items() if "resume_requests" in case["expect"]]


@dataclass(frozen=True)
class Played:
    """The runs of all cases, their rows, and what each one sent by `run`; `server` also has what `resume` sent."""

    runs: dict[str, Run]
    rows: dict[str, Any]
    server: AnswerServer
    sent: dict[str, list[tuple[float, dict[str, Any]]]]


async def play(folder: Path, server: AnswerServer, names: list[str]) -> Run:
    """Run the cases of one shape as targets of one run, each with its own model and so its own limits."""
    shape = server.cases[names[0]].get("run", {})
    return await convbatch.replay(
        write_dialogues(folder, shape),
        models=[f"{MODEL}-{name}@{name}" for name in names],
        config=write_config(folder, server, names),
        out=folder / "run",
        concurrency=2,
        max_attempts=2,
        # Only a target that is tested again every 30 s runs to the deadline, where many dialogues are asked.
        deadline_s=5 if shape.get("dialogues", 1) > 1 else 20,
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    by_shape: dict[str, list[str]] = {}
    for name, case in JUDGED.items():
        by_shape.setdefault(json.dumps(case.get("run", {})), []).append(name)
    runs: dict[str, Run] = {}
    rows: dict[str, Any] = {}
    with serve_answers(JUDGED) as server:

        async def play_all() -> list[Run]:  # at the same time: one of them waits for its deadline
            shapes = by_shape.values()
            return await asyncio.gather(*(play(tmp_path_factory.mktemp("answers"), server, names) for names in shapes))

        for names, run in zip(by_shape.values(), asyncio.run(play_all()), strict=True):
            runs |= dict.fromkeys(names, run)
            rows |= {str(name): turns for name, turns in run.turns.groupby("gateway")}
        yield Played(runs, rows, server, {name: [*sent] for name, sent in server.requests.items()})


@each("name", JUDGED)
@pytest.mark.slow
def test_a_field_answer_becomes_its_row_and_a_result_is_not_asked_again(
    played: Played, resumed: dict[str, int], name: str
) -> None:
    expect = dict(JUDGED[name]["expect"])
    assert resumed[name] == expect.pop("resume_requests", resumed[name]), "requests of the resume"
    rows = played.rows[name]
    found = observe(rows, played, name)
    first = rows[(rows["turn"] == 1) & (rows["attempts"] > 0)]
    if "request_after" in JUDGED[name].get("serve", {}).get("file2_when", "") and "ok_rows" in expect:
        first = first[first["status"] != "ok"]
    problems = [
        f"{key}: {value!r} instead of {wanted!r}"
        for key, wanted in expect.items()
        for value in (observed(found, first, key) if key not in ("reply_if_ok", "note", "note_if_error") else ())
        if not fits(value, wanted)
    ]
    said = found["said"]
    for word in expect.get("note", ()):
        if word not in said:
            problems.append(f"{word!r} is not in {said!r}")
    if "reply_if_ok" in expect:
        problems += [
            f"reply {reply!r}"
            for reply, status in zip(first["reply"], first["status"], strict=True)
            if status == "ok" and not fits(reply, expect["reply_if_ok"])
        ]
    if "note_if_error" in expect and (first["status"] == "error").any():
        words = expect["note_if_error"]["any"]
        if not any(word in said.lower() for word in words):
            problems.append(f"none of {words} is in {said!r}")
    assert not problems, f"{problems} ({said})"


def observe(rows: Any, played: Played, name: str) -> dict[str, Any]:
    """Return what is judged about a target as a whole."""
    run, sent = played.runs[name], played.sent.get(name, [])
    suspended = next((why for target, why in run.suspended.items() if target.endswith(f"@{name}")), "")
    second = rows[rows["turn"] == 2]["status"]
    return {
        "requests": len(sent),
        "possibly_paid": int(rows["possibly_paid"].sum()),
        "parks": bool(suspended) and bool((rows["status"] == "pending").any()),
        "ok_rows": int((rows["status"] == "ok").sum()),
        "status2": None if second.empty else second.iloc[0],
        "gap_s": sent[1][0] - sent[0][0] if len(sent) > 1 else None,
        "said": " ".join([suspended, *rows["error_message"].dropna()]),
    }


def observed(found: dict[str, Any], rows: Any, key: str) -> list[Any]:
    """Return the values of a key: one of the target, or one of each row."""
    if key in found:
        return [found[key]]
    if key == "noted":
        return [bool(value) for value in plain(rows["wire_note"])]
    return plain(rows[key]) or ["no row was asked"]


def plain(column: Any) -> list[Any]:
    """Return the cells, with None for a missing value."""
    return [None if pd.isna(value) else value for value in column]


def fits(value: Any, wanted: Any) -> bool:
    """Whether a value is the wanted one, or within what `any`, `max`, `min`, `not`, `prefix` and `contains` allow."""
    if not isinstance(wanted, dict):
        if isinstance(wanted, float) and isinstance(value, float):
            return math.isclose(value, wanted, rel_tol=1e-9)
        return value == wanted
    (rule, limit), *_ = wanted.items()
    match rule:
        case "any":
            return any(fits(value, each) for each in limit)
        case "max":
            return value is not None and value <= limit
        case "min":
            return value is not None and value >= limit
        case "not":
            return not fits(value, limit)
        case "prefix":
            return isinstance(value, str) and value.startswith(limit)
        case "contains":
            return isinstance(value, str) and limit in value
        case _:
            raise AssertionError(f"unknown rule {rule!r}")


@pytest.fixture(scope="module")
def resumed(played: Played) -> dict[str, int]:
    """Resume the runs of these cases; return the further requests of each."""
    for folder in {played.runs[name].folder.path for name in RESUMED}:
        _resume(folder)
    return {name: len(sent) - len(played.sent.get(name, [])) for name, sent in played.server.requests.items()}


def _resume(folder: Path) -> None:
    CliRunner().invoke(app, ["resume", str(folder), "--deadline", "5s", "--no-progress", "--max-attempts", "1"])
