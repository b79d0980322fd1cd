"""`resume` of a finished run: its tables are read, its journal is compared, and nothing is written or sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import convbatch as cb
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import Command, config_for, write_dataset

Simulators = Callable[[Provider], Server]


@pytest.fixture
def provider(tmp_path: Path, simulator: Simulators, convbatch: Command) -> Provider:
    """Return the gateway of a finished run in `out`."""
    dataset = write_dataset(tmp_path / "d.jsonl", 5, 2)
    made = Provider(script=Script.load(dataset))
    models = '[run]\nmodels = ["sim-good@at-gemini"]\n'
    (tmp_path / "convbatch.toml").write_text(config_for(simulator(made).url, models=models))
    assert convbatch("run", "d.jsonl", "-o", "out").code == 0
    return made


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_nothing_is_written_and_the_closing_table_is_the_same(
    provider: Provider, tmp_path: Path, convbatch: Command
) -> None:
    first = convbatch("resume", "out")
    before = content(tmp_path / "out")
    again = convbatch("resume", "out")
    assert (again.code, again.out) == (0, first.out)
    assert "10" in again.out
    assert content(tmp_path / "out") == before
    assert provider.ledger.requests == 10


def test_a_journal_with_a_flipped_byte_is_refused_as_ever(
    tmp_path: Path, provider: Provider, convbatch: Command
) -> None:
    segment = tmp_path / "out" / "journal" / "000001.jsonl"
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b'"turn":', b'"tvrn":')
    segment.write_bytes(b"".join(lines))  # its length and its end are those of the tables
    done = convbatch("resume", "out")
    assert done.code != 0
    assert "--salvage" in done.err
    assert convbatch("resume", "out", "--salvage").code == 0
    assert provider.ledger.requests in (10, 11)


def test_tables_that_are_lost_or_damaged_are_made_again(tmp_path: Path, provider: Provider, convbatch: Command) -> None:
    turns = tmp_path / "out" / "turns.parquet"
    first = convbatch("resume", "out").out
    turns.unlink()
    assert convbatch("resume", "out").out == first
    whole = turns.read_bytes()
    turns.write_bytes(whole[:100] + bytes(2_000) + whole[2_100:])
    assert convbatch("resume", "out").out == first
    assert len(cb.load(tmp_path / "out").turns) == 10
    assert provider.ledger.requests == 10


def test_a_run_in_use_is_refused(tmp_path: Path, provider: Provider, convbatch: Command) -> None:
    folder = cb.load(tmp_path / "out").folder
    lock = folder.take_lock()
    try:
        done = convbatch("resume", "out")
    finally:
        lock.release()
    assert done.code == 2
    assert "is in use by another process" in done.err
    assert provider.ledger.requests == 10
