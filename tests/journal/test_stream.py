"""Reading a journal while it is written: the same lines as a scan of the whole, whatever is there at each look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.journal.records import JournalEnd, JournalScan, checksum_of
from convbatch.journal.run_folder import RunFolder
from convbatch.journal.stream import BrokenStream, GrowingArchive, JournalStream
from tests.conftest import examples
from tests.support.made_runs import GOOD, MadeRun, dialogue
from tests.support.tables import each


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, bytes]:
    run = MadeRun(tmp_path_factory.mktemp("made") / "r", [dialogue(f"d{n}", "x", "y") for n in range(4)], [GOOD])
    for index in range(4):
        for turn in (1, 2):
            run.replied(run.ident(index, turn))
    folder = run.write()
    return folder, folder.segments()[0].read_bytes()


def growing(parent: str | Path, made: RunFolder) -> RunFolder:
    """Return a run folder like this one whose journal is still empty."""
    path = Path(parent) / "growing"
    (path / "journal").mkdir(parents=True)
    (path / "run.json").write_bytes(
        (made.path / "run.json").read_bytes().replace(b'"state": "finished"', b'"state": "running"')
    )
    return RunFolder.open(path)


def append(folder: RunFolder, piece: bytes, segment: int = 1) -> None:
    with (folder.journal / f"{segment:06}.jsonl").open("ab") as file:
        file.write(piece)


def read(stream: JournalStream, most: int = 1_000) -> list[bytes]:
    return [line.raw for line in stream.lines(most)]


@settings(max_examples=examples(200), deadline=None)
@given(cuts=st.lists(st.integers(0, 10_000), max_size=12), roll_at=st.integers(1, 24), most=st.integers(1, 30))
def test_pieces_of_a_journal_are_read_as_the_whole(
    made: tuple[RunFolder, bytes], cuts: Sequence[int], roll_at: int, most: int
) -> None:
    folder, whole = made
    lines = whole.splitlines(keepends=True)
    first = len(b"".join(lines[:roll_at]))
    with TemporaryDirectory() as parent:
        grown = growing(parent, folder)
        stream = JournalStream(grown)
        found: list[bytes] = []
        ends = sorted({*(min(cut, len(whole)) for cut in cuts), first, len(whole)})
        for start, end in zip([0, *ends], ends, strict=False):
            append(grown, whole[start:end], segment=1 if end <= first else 2)
            found += read(stream, most)
        while more := read(stream, most):
            found += more
        assert found == [line.raw for line in JournalScan(grown.segments()).lines()] == lines
        assert stream.read_bytes == len(whole)
        last = lines[-1]
        assert stream.holds(JournalEnd(len(lines) - 1, checksum_of(last)))
        assert not stream.holds(JournalEnd(len(lines) - 1, checksum_of(last) ^ 1))
        stream.close()


def test_a_torn_line_that_a_resumed_session_cuts_off_is_not_read(made: tuple[RunFolder, bytes], tmp_path: Path) -> None:
    folder, whole = made
    lines = whole.splitlines(keepends=True)
    grown = growing(tmp_path, folder)
    with closing(JournalStream(grown)) as stream:
        append(grown, b"".join(lines[:5]) + lines[6][:40])
        assert read(stream) == lines[:5]
        segment = grown.segments()[0]
        segment.write_bytes(b"".join(lines[:5]))
        append(grown, b"".join(lines[5:]))
        assert read(stream) == lines[5:]


def flipped(lines: list[bytes]) -> bytes:
    return b"".join([*lines[:3], lines[3].replace(b"d0", b"d1"), *lines[4:]])


def without_one(lines: list[bytes]) -> bytes:
    return b"".join([*lines[:3], *lines[4:]])


def with_one_twice(lines: list[bytes]) -> bytes:
    return b"".join([*lines[:3], lines[2], *lines[3:]])


@each("damage", [flipped, without_one, with_one_twice])
def test_damage_ends_the_reading(
    damage: Callable[[list[bytes]], bytes], made: tuple[RunFolder, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, whole = made
    grown = growing(tmp_path_factory.mktemp("damage"), folder)
    append(grown, damage(whole.splitlines(keepends=True)))
    with closing(JournalStream(grown)) as stream, pytest.raises(BrokenStream, match="damaged or missing"):
        read(stream)


def test_a_segment_that_ends_within_a_line_ends_the_reading(made: tuple[RunFolder, bytes], tmp_path: Path) -> None:
    folder, whole = made
    lines = whole.splitlines(keepends=True)
    grown = growing(tmp_path, folder)
    append(grown, b"".join(lines[:5]) + lines[5][:20])
    append(grown, b"".join(lines[6:]), segment=2)
    with closing(JournalStream(grown)) as stream, pytest.raises(BrokenStream, match="within a line"):
        read(stream)


def test_a_dialogue_that_goes_on_after_it_was_forgotten_is_refused(
    made: tuple[RunFolder, bytes], tmp_path: Path
) -> None:
    folder, whole = made
    lines = whole.splitlines(keepends=True)
    grown = growing(tmp_path, folder)
    append(grown, b"".join(lines[:6]))
    with closing(GrowingArchive(grown)) as archive:
        assert archive.advance(1_000) == 6
        assert list(archive.dialogue(0, 1)[GOOD, 1].turns) == [1, 2]
        archive.forget(0)
        append(grown, lines[6])
        with pytest.raises(BrokenStream, match="went on after its end"):
            archive.advance(1_000)
