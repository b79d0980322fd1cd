"""Tests of `runs --prune`: what it deletes, what stays and why, and the question."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from convbatch.journal.run_folder import RunFolder
from tests.conftest import Command, environment, write_dataset
from tests.support.made_runs import GOOD, MadeRun, dialogue


def make(results: Path, *names: str) -> None:
    for name in names:
        made = MadeRun(results / name, [dialogue("d", "x")], targets=(GOOD,))
        made.replied(made.ident(0, 1))
        made.write()
        manifest = results / name / "run.json"
        manifest.write_text(
            manifest.read_text().replace("2026-11-21T23:30:00Z", f"2026-11-{20 + names.index(name)}T00:00:00Z")
        )


@pytest.fixture
def results(tmp_path: Path) -> Path:
    make(tmp_path / "results", "a", "b", "c")
    return tmp_path / "results"


def left(results: Path) -> list[str]:
    return sorted(path.name for path in results.iterdir())


def test_without_a_rule_nothing_is_deleted(convbatch: Command, results: Path) -> None:
    done = convbatch("runs", "--prune", "--yes")
    assert (done.code, left(results)) == (2, ["a", "b", "c"])
    assert "--prune without a rule would delete every run" in done.err


def test_a_dry_run_lists_sizes_and_deletes_nothing(convbatch: Command, results: Path) -> None:
    done = convbatch("runs", "--prune", "--keep", "1", "--dry-run")
    assert (done.code, left(results)) == (0, ["a", "b", "c"])
    assert "size" in done.out.splitlines()[0]
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == ["a", "b"]
    assert "would delete: 2 runs" in done.err
    assert "with the replies of 2 turns" in done.err


def test_the_rules_name_the_runs_and_keep_the_newest(convbatch: Command, results: Path) -> None:
    done = convbatch("runs", "--prune", "--older-than", "2026-11-22", "--keep", "1", "--yes", "--json")
    plain = json.loads(done.out)
    assert [run["run"] for run in plain["deleted"]] == ["a"]
    assert plain["deleted"][0]["bytes"] > 100
    assert left(results) == ["b", "c"]
    assert convbatch("runs", "--prune", "--name", "x*", "--yes").err.strip() == "no run to delete"


@pytest.mark.parametrize(
    ("answer", "remaining"), [("y\n", ["b", "c"]), ("n\n", ["a", "b", "c"]), ("\n", ["a", "b", "c"])]
)
def test_only_a_yes_deletes(results: Path, answer: str, remaining: list[str]) -> None:
    command = [sys.executable, "-m", "convbatch", "runs", "--prune", "--name", "a"]
    done = subprocess.run(
        command, cwd=results.parent, env=environment(), input=answer, capture_output=True, text=True, check=True
    )
    assert "delete 1 run for good? [y/N]" in done.stderr
    assert ("nothing was deleted" in done.stderr) == (len(remaining) == 3)
    assert left(results) == remaining


def test_no_answer_deletes_nothing(command: Command, results: Path) -> None:
    done = command("runs", "--prune", "--name", "a")
    assert (done.code, left(results)) == (2, ["a", "b", "c"])
    assert "no answer; nothing was deleted" in done.err


def test_ctrl_c_at_the_question_deletes_nothing(results: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "convbatch", "runs", "--prune", "--name", "a"],
        cwd=results.parent,
        env=environment(),
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(theirs)
        assert process.stderr is not None
        seen = b""
        while b"[y/N]" not in seen:
            seen += os.read(process.stderr.fileno(), 1000)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == b"\nnothing was deleted\nconvbatch: interrupted\n"
    os.close(ours)
    assert left(results) == ["a", "b", "c"]


def test_a_run_in_progress_stays(convbatch: Command, results: Path) -> None:
    lock = RunFolder(path=results / "a").take_lock()
    try:
        done = convbatch("runs", "--prune", "--name", "*", "--yes")
    finally:
        lock.release()
    assert (done.code, left(results)) == (0, ["a"])
    assert "note: results/a stays: it is in progress" in done.err


def test_links_lead_nowhere(convbatch: Command, results: Path, tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "r")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (results / "link").symlink_to(tmp_path / "elsewhere" / "r")
    (results / "a" / "media").symlink_to(tmp_path / "precious")
    (results / "b" / "inside").symlink_to(tmp_path / "precious")
    done = convbatch("runs", "--prune", "--name", "*", "--yes")
    assert left(results) == ["a", "link"]
    assert "note: results/link stays: it is a link" in done.err
    assert "note: results/a stays: it cannot be read" in done.err
    assert (tmp_path / "precious" / "file").exists()
    assert (tmp_path / "elsewhere" / "r" / "run.json").exists()


def test_a_run_that_an_unfinished_one_takes_from_stays(convbatch: Command, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d.jsonl", 2, 2)
    convbatch("run", dataset, "-m", GOOD, "-o", "results/first", "--no-progress")
    convbatch("run", dataset, "-m", GOOD, "-o", "results/again", "--reuse", "first", "--no-progress")
    preview = convbatch("runs", "--prune", "--name", "first", "--dry-run")
    assert "note: results/first is named by results/again (--reuse, --only-failed), which has a copy" in preview.err
    manifest = tmp_path / "results" / "again" / "run.json"
    manifest.write_text(manifest.read_text().replace('"state": "finished"', '"state": "interrupted"'))
    done = convbatch("runs", "--prune", "--name", "first", "--yes")
    assert "note: results/first stays: results/again is not finished and takes replies from it" in done.err
    assert left(tmp_path / "results") == ["again", "first"]
    assert convbatch("runs", "--prune", "--name", "*", "--yes").code == 0
    assert left(tmp_path / "results") == []


def test_a_folder_that_cannot_be_moved_is_reported_and_the_others_are_deleted(
    convbatch: Command, results: Path
) -> None:
    (results / "a" / "journal" / "lock").unlink(missing_ok=True)
    (results / "a" / "journal" / "lock").mkdir()  # no file to lock
    done = convbatch("runs", "--prune", "--name", "*", "--yes")
    assert (done.code, left(results)) == (2, ["a"])
    assert "cannot delete results/a: Is a directory" in done.err
    assert "2 runs deleted" in done.err
    assert sorted(path.name for path in (results / "a").iterdir()) != []


def test_what_is_left_of_a_broken_deletion_is_no_run(results: Path, convbatch: Command) -> None:
    (results / "a").rename(results / ".deleted-x")
    assert [run["run"] for run in json.loads(convbatch("runs", "--json").out)["runs"]] == ["b", "c"]
