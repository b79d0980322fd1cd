"""Damaged run folders: moved, edited, incomplete, oddly named. Errors are explained, and intact data is kept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convbatch.cli.main import app
from convbatch.errors import SetupError
from convbatch.journal.run_folder import RunFolder
from convbatch.results.cache import write_turns
from convbatch.results.run import load
from tests.conftest import write_dataset
from tests.support.made_runs import MadeRun, dialogue

READERS = ("table", "show")


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("CONVBATCH_"):
            monkeypatch.delenv(name)


@pytest.fixture
def folder() -> RunFolder:
    """A finished run of one turn, with its table."""
    made = MadeRun(path=Path("run"), dialogues=[dialogue("d", "hello")])
    made.replied(made.ident(0, 1))
    folder = made.write()
    write_turns(folder)
    return folder


def output_of(*args: str | Path, code: int = 2) -> str:
    """Return the output of the command; check that it exits with `code` and without a traceback."""
    done = CliRunner().invoke(app, list(map(str, args)))
    assert (done.exit_code, "Traceback" in done.output) == (code, False), done.output
    return done.output


def _edit(change: Callable[[dict[str, Any]], object]) -> None:
    path = Path("run/run.json")
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "repeats": lambda meta: meta.update(repeats=0),
    "history": lambda meta: meta.update(history="foo"),
    "planned": lambda meta: meta.update(planned={"rows": "many"}),
    "targets": lambda meta: meta["targets"][0].update(name=5),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("key", [*EDITS, "no target", "no flag", "a number"])
@pytest.mark.parametrize("command", [*READERS, "resume"])
def test_an_edited_run_json_is_refused_with_the_wrong_key(command: str, key: str) -> None:
    more: dict[str, Callable[[dict[str, Any]], object]] = {
        "no target": lambda meta: meta.update(targets=[]),
        "no flag": lambda meta: meta["targets"][0].pop("simulated"),
        "a number": lambda meta: meta["targets"].append(3),
    }
    _edit({**EDITS, **more}[key])
    assert f"'{key if key in EDITS else 'targets'}' is missing or wrong" in output_of(command, "run")


@pytest.mark.parametrize("loss", ["folder", "segment", "content"])
def test_a_lost_journal_is_not_read_as_a_run_without_requests(folder: RunFolder, loss: str) -> None:
    table = folder.turns.read_bytes()
    [segment] = folder.segments()
    if loss == "folder":
        shutil.rmtree(folder.journal)
    elif loss == "segment":
        segment.unlink()
    else:
        segment.write_bytes(b"")
    for command in READERS:
        assert "the journal of this run is gone" in output_of(command, "run")
    assert folder.turns.read_bytes() == table


def test_replies_are_not_reused_from_a_run_without_a_journal(folder: RunFolder) -> None:
    shutil.rmtree(folder.journal)
    write_dataset(Path("d.jsonl"), 1, 1)
    assert "the journal of this run is gone" in output_of("run", "d.jsonl", "--reuse", "run", "-o", "new")
    assert not Path("new").exists()


@pytest.mark.parametrize("command", READERS)
def test_an_unreadable_journal_is_reported_as_an_error_not_a_bug(folder: RunFolder, command: str) -> None:
    (folder.journal / "000002.jsonl").mkdir()
    assert "run/journal/000002.jsonl: the journal cannot be read: Is a directory" in output_of(command, "run")


def test_a_file_in_place_of_the_journal_is_refused(folder: RunFolder) -> None:
    shutil.rmtree(folder.journal)
    folder.journal.touch()
    assert "run/journal: the journal cannot be read: Not a directory" in output_of("table", "run")


@pytest.mark.parametrize("command", [("table", "run"), ("show", "run"), ("table", "run", "-o", "t.csv")])
def test_the_error_for_a_damaged_table_says_how_to_rebuild_it(folder: RunFolder, command: tuple[str, ...]) -> None:
    content = bytearray(folder.turns.read_bytes())
    content[200:500] = bytes(300)
    folder.turns.write_bytes(content)
    text = output_of(*command)
    assert "run/turns.parquet: the table cannot be read" in text
    assert "rm run/turns.parquet" in text
    folder.turns.unlink()
    output_of(*command, code=0)


def test_one_flipped_bit_in_the_table_is_detected(folder: RunFolder) -> None:
    content = bytearray(folder.turns.read_bytes())
    content[content.index("今天是2025".encode()) + 12] ^= 1
    folder.turns.write_bytes(content)
    with pytest.raises(SetupError, match="the table cannot be read"):
        _ = load("run").turns


def test_a_transcript_reports_a_damaged_journal(folder: RunFolder) -> None:
    [segment] = folder.segments()
    segment.write_bytes(segment.read_bytes().replace(b"2025", b"2026", 1))
    folder.turns.unlink()
    assert "damaged places in the journal are left out" in output_of("show", "run", code=0)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["~", "~root", "with space", "-dash", "新", b"bad\xff"], ids=repr)
def test_a_run_moved_to_an_odd_path_can_be_read(name: str | bytes) -> None:
    Path("run").rename(os.fsdecode(name))
    Path(os.fsdecode(name), "turns.parquet").unlink()
    run = load(os.fsdecode(name))
    assert run.turns["status"].tolist() == ["ok"]
    assert run.turns_path.is_relative_to(run.path)


@pytest.mark.parametrize("name", ["~odd", "-dash", b"bad\xff"], ids=repr)
def test_a_run_into_an_odd_path_succeeds_and_prints_a_working_command(name: str | bytes) -> None:
    out = os.fsdecode(name)
    write_dataset(Path("d.jsonl"), 1, 1)
    text = output_of("run", "d.jsonl", f"--out={out}", code=0)
    assert "could not be printed" not in text
    assert Path(out, "turns.parquet").is_file()
    assert out != "-dash" or f"convbatch table {Path.cwd()}/-dash" in text


LONG = "a" * 300


@pytest.mark.parametrize(
    "args",
    [
        ("table", LONG),
        ("resume", LONG),
        ("run", "d.jsonl", "-o", LONG),
        ("run", "d.jsonl", "--reuse", LONG),
        ("convert", "d.jsonl", f"{LONG}.jsonl"),
        ("convert", "d.jsonl", f"{LONG[:245]}.jsonl"),
    ],
    ids=lambda args: " ".join(args)[:30],
)
def test_a_file_name_that_is_too_long_is_refused_with_an_explanation(args: tuple[str, ...]) -> None:
    write_dataset(Path("d.jsonl"), 1, 1)
    assert "File name too long" in output_of(*args).replace("\n", " ")
