"""Tests of reading a growing journal: every record once, whenever it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.journal.records import encode_line
from convbatch.journal.run_folder import RunFolder
from convbatch.watching.tail import JournalTail
from tests.conftest import examples

ALL = 2**30


def folder_at(path: Path) -> RunFolder:
    (path / "journal").mkdir(parents=True)
    return RunFolder(path=path)


def line(seq: int, text: str = "") -> bytes:
    return encode_line(seq, 1.0, {"kind": "note", "text": text})


def seqs(tail: JournalTail, most_bytes: int = ALL) -> list[int]:
    return [record["seq"] for record in tail.read(most_bytes)]


@settings(max_examples=examples(60))
@given(
    texts=st.lists(st.text(max_size=30), max_size=12),
    cuts=st.lists(st.integers(0, 2_000), max_size=8),
    segment_ends=st.sets(st.integers(1, 11), max_size=2),
    most_bytes=st.sampled_from([1, 100, ALL]),
)
def test_every_record_is_read_once_however_the_journal_grows(
    tmp_path_factory: pytest.TempPathFactory,
    texts: Sequence[str],
    cuts: Sequence[int],
    segment_ends: set[int],
    most_bytes: int,
) -> None:
    folder = folder_at(tmp_path_factory.mktemp("j") / "r")
    tail, found, name = JournalTail(folder), [], 1
    for seq, text in enumerate(texts):
        name += seq in segment_ends
        content = line(seq, text)
        at = cuts[seq % len(cuts)] % (len(content) + 1) if cuts else 0
        with (folder.journal / f"{name:06}.jsonl").open("ab", buffering=0) as file:
            file.write(content[:at])
            found += seqs(tail, most_bytes)
            file.write(content[at:])
        found += seqs(tail, most_bytes)
    while more := seqs(tail, most_bytes):
        found += more
    assert found == list(range(len(texts)))
    assert (tail.damaged, tail.generation) == (0, 0)


def test_a_damaged_or_repeated_line_is_counted_and_skipped(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "r")
    spoilt = line(1).replace(b"note", b"nope")
    (folder.journal / "000001.jsonl").write_bytes(line(0) + spoilt + line(2) + line(2) + b"\n" + line(3))
    tail = JournalTail(folder)
    assert seqs(tail) == [0, 2, 3]
    assert tail.damaged == 3


def test_a_journal_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "r")
    path = folder.journal / "000001.jsonl"
    path.write_bytes(line(0) + line(1) + line(2))
    tail = JournalTail(folder)
    assert seqs(tail) == [0, 1, 2]
    path.write_bytes(line(0))
    assert seqs(tail) == [0]
    assert tail.generation == 1


def test_a_run_without_a_journal_yet_has_no_records(tmp_path: Path) -> None:
    assert seqs(JournalTail(folder_at(tmp_path / "r"))) == []
