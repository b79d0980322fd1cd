"""Records of batch jobs: checked when they are read, and found again with their requests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from convbatch.errors import SetupError
from convbatch.journal.index import Archive
from convbatch.journal.records import encode_line, read_record
from convbatch.session.open_jobs import open_jobs
from tests.support.made_runs import MadeRun, append, dialogue
from tests.support.tables import each

JOB: Mapping[str, Any] = {
    "kind": "job",
    "job": "run-w1-00000001",
    "target": "m@g",
    "wave": 1,
    "lines": 2,
    "job_state": "made",
    "job_id": "batch_1",
}
INTENT: Mapping[str, Any] = {
    "kind": "intent",
    "index": 0,
    "dialogue": "a",
    "target": "m@g",
    "repeat": 1,
    "turn": 1,
    "key": "0" * 32,
    "attempt": 1,
    "role": "model",
    "job": "run-w1-00000001",
    "line": 0,
}
WRONG = {
    "an unknown state": ({**JOB, "job_state": "paused"}, "job_state"),
    "no state": ({name: value for name, value in JOB.items() if name != "job_state"}, "job_state"),
    "made without an id": ({name: value for name, value in JOB.items() if name != "job_id"}, "job_id"),
    "an id with a line break": ({**JOB, "job_id": "a\nb"}, "job_id"),
    "a negative number of lines": ({**JOB, "lines": -1}, "lines"),
    "a wave that is text": ({**JOB, "wave": "1"}, "wave"),
    "no target": ({name: value for name, value in JOB.items() if name != "target"}, "target"),
    "a request without its line": ({name: value for name, value in INTENT.items() if name != "line"}, "line"),
    "a line that is a flag": ({**INTENT, "line": True}, "line"),
    "a name that is a number": ({**INTENT, "job": 1}, "job"),
}


@each("case", WRONG)
def test_a_wrong_record_of_a_job_is_refused(case: str) -> None:
    record, field = WRONG[case]
    assert read_record(encode_line(1, 1.0, JOB))["job_id"] == "batch_1"
    assert read_record(encode_line(1, 1.0, INTENT))["line"] == 0
    with pytest.raises(SetupError, match=f"'{field}' is missing or wrong"):
        read_record(encode_line(1, 1.0, record))


def test_an_open_job_is_found_with_the_requests_that_have_no_outcome(tmp_path: Path) -> None:
    folder = MadeRun(tmp_path / "run", [dialogue("a", "one"), dialogue("b", "two")], targets=("m@g",)).write()
    asked = {name: value for name, value in JOB.items() if name != "job_id"} | {"job_state": "asked"}
    second = {**INTENT, "index": 1, "dialogue": "b", "line": 1}
    outcome = {name: value for name, value in INTENT.items() if name not in ("job", "line")} | {
        "kind": "outcome",
        "class": "refused",
        "job": JOB["job"],
        "error": {"kind": "overloaded", "message": "later"},
    }
    records = [asked, INTENT, second, {**asked, "job_state": "creating"}, JOB, outcome]
    asyncio.run(append(folder, map(dict, records)))
    with Archive(folder) as archive:
        (job,) = open_jobs(archive)
        assert (job.state, job.job_id, job.size) == ("made", "batch_1", 2)
        assert [intent["dialogue"] for intent in job.intents] == ["b"]
        assert archive.requests_since(0.0) == {}  # counts against no rate
    asyncio.run(append(folder, [{**JOB, "job_state": "ended"}]))
    with Archive(folder) as archive:
        assert open_jobs(archive) == []
