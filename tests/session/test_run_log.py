"""The log of a session: its lines, and that it never ends a run; a whole run with one is `test_secret_headers.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from convbatch.dialogue import Dialogue
from convbatch.engine.call import Call
from convbatch.engine.http_values import OutgoingRequest
from convbatch.engine.retry import INITIAL_RETRY_STATE, GiveUp, SendAgain, Step, SuspendTarget
from convbatch.errors import SetupError
from convbatch.redaction import Redactor, Secret
from convbatch.reply import Attempt, Failure
from convbatch.session.options import RunOptions
from convbatch.session.progress import Progress, TargetView, attempt_text
from convbatch.session.run_log import RunLog, log_spec
from tests.support.tables import each

KEY = "sk-of-the-log-0123456789"


def log_to(path: Path, notes: list[str]) -> RunLog:
    return RunLog(path, show=None, redactor=Redactor([Secret("KEY", KEY)]), wall=lambda: 0.0, on_failure=notes.append)


def test_each_event_is_one_line_without_keys(tmp_path: Path):
    log = log_to(tmp_path / "log", [])
    log.write("note", f"first line\nsecond {KEY} \x1b[31m")
    log.request(
        OutgoingRequest("POST", f"https://h/v1?key={KEY}", {"Authorization": "Bearer other", "A": KEY}, b'{"a":1}', 1.0)
    )
    log.close()
    assert (tmp_path / "log").read_text().splitlines() == [
        "1970-01-01T00:00:00.000Z note    first line\\nsecond [redacted:KEY] \\x1b[31m",
        "1970-01-01T00:00:00.000Z request POST https://h/v1?key=[redacted:KEY] Authorization: [redacted]; "
        'A: [redacted:KEY]; {"a":1}',
    ]
    log_to(tmp_path / "log", []).write("note", "appended")
    assert (tmp_path / "log").read_text().endswith("note    appended\n")


def test_a_full_disk_ends_the_log_with_one_note_and_nothing_else():
    notes: list[str] = []
    log = log_to(Path("/dev/full"), notes)
    log.write("note", "a")
    log.write("note", "b")
    assert notes == ["the log /dev/full cannot be written any more (No space left on device); the run goes on"]


def test_a_log_is_never_appended_to_another_file(tmp_path: Path):
    dataset = tmp_path / "d.jsonl"
    dataset.write_text("{}\n")
    for wrong in (dataset, tmp_path, tmp_path / "absent" / "x.log", Path("-"), Path("/dev/stderr")):
        with pytest.raises(SetupError, match="--log"):
            log_spec(RunOptions(datasets=(dataset,), log=wrong))
    notes: list[str] = []
    log_to(dataset, notes).write("note", "a")  # the file came after the check
    assert notes == [f"--log {dataset} is a file that is not a log; the run goes on"]
    with pytest.raises(SetupError, match="--log-bodies needs a log"):
        log_spec(RunOptions(datasets=(dataset,), log_bodies=True))
    assert dataset.read_text() == "{}\n"


def test_a_log_in_the_run_folder_is_made_after_the_folder(tmp_path: Path):
    folder = tmp_path / "r"
    assert log_spec(RunOptions(datasets=(), log=folder / "x.log"), run_folder=folder).path == folder / "x.log"
    assert not folder.exists()


@each(
    ("step", "words"),
    [
        (SendAgain(wait_s=0.0, retry_state=INITIAL_RETRY_STATE), "sent again when the limiter admits it"),
        (SendAgain(wait_s=1.25, retry_state=INITIAL_RETRY_STATE), "sent again after 1.250 s"),
        (GiveUp(reason="5 attempts failed"), "given up: 5 attempts failed"),
        (SuspendTarget(reason="no such model"), "the target is suspended: no such model"),
    ],
)
def test_a_failed_attempt_says_what_follows_and_what_the_gateway_asks(step: Step, words: str):
    failure = Failure(kind="rate_limit", message="slow\ndown", retry_after_s=34)
    text = attempt_text(Attempt(failure, "refused", http_status=429, latency_s=0.5), step)
    assert text == f"HTTP 429 in 0.500 s, rate_limit, refused: slow down; asks to wait 34 s; {words}"


def test_waits_are_logged_when_they_begin_and_end(tmp_path: Path):
    progress = Progress(3, targets=["m@g"], enabled=False, notes=False)
    progress.log = log_to(tmp_path / "log", [])
    progress.sending(Call("m@g", "d", 2, 1, 1, 0.25, 3, Dialogue(id="d", turns=())))
    for why in (("pause", 34.0), ("pause", 33.0), None, None):
        progress.refresh(0.0, [TargetView("m@g", 1, why, None if why is None else f"429, {why[1]:.0f} s")])
    lines = [line.split(maxsplit=1)[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == [
        "send    m@g: d repeat 2 turn 1 attempt 1; waited 0.250 s, 3 in flight",
        "wait    m@g: 429, 34 s",
        "wait    m@g: no longer",
    ]
