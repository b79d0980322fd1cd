"""The journal writer: guarantees for kills, power cuts, failing disks, damage and second writers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import gc
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convbatch.errors import JournalDamaged, JournalError, JournalReplaced, SetupError
from convbatch.journal.index import Archive
from convbatch.journal.records import JournalScan, Record, decode_line, encode_head, encode_line
from convbatch.journal.run_folder import RunFolder
from convbatch.journal.writer import Journal
from convbatch.system import BlockingThread, Disk, System
from tests.support.made_runs import manifest_of
from tests.support.tables import each

T = TypeVar("T")


class QuickDisk(Disk):
    """A disk without syncs and waits, for properties that need many journals and no durability."""

    def sync(self, fd: int) -> None:
        pass

    def sync_folder(self, folder: Path) -> None:
        pass

    async def run_blocking(self, thread: BlockingThread, work: Callable[[], T]) -> T:
        return work()


class LazyDisk(QuickDisk):
    """A disk that tracks durable bytes and names; a sync takes five loop iterations and covers earlier bytes only."""

    def __init__(self) -> None:
        self.syncs = 0
        self.durable: dict[Path, int] = {}
        self.named: set[Path] = set()
        self._paths: dict[int, Path] = {}
        self._is_off = False

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        self._check_power()
        fd = super().open(path, flags, mode)
        self._paths[fd] = path
        if not path.is_dir():
            self.durable.setdefault(path, 0)
        return fd

    def write(self, fd: int, data: bytes) -> int:
        self._check_power()
        return super().write(fd, data)

    def sync(self, fd: int) -> None:
        self._check_power()
        self.syncs += 1
        self.durable[self._paths[fd]] = os.fstat(fd).st_size

    def sync_folder(self, folder: Path) -> None:
        self.named.update(folder.iterdir())

    async def run_blocking(self, thread: BlockingThread, work: Callable[[], T]) -> T:
        covered = {path: path.stat().st_size for path in self.durable}
        for _ in range(5):
            await asyncio.sleep(0)
        former = dict(self.durable)
        result = work()
        self.durable = {path: min(size, covered.get(path, former.get(path, 0))) for path, size in self.durable.items()}
        return result

    def cut_power(self, rng: random.Random) -> None:
        """Drop all that is not durable, except a random prefix of the unsynced bytes of each file."""
        self._is_off = True
        for path, synced in self.durable.items():
            if path.suffix == ".jsonl":
                if path not in self.named:
                    path.unlink()
                else:
                    os.truncate(path, rng.randint(synced, path.stat().st_size))

    def _check_power(self) -> None:
        if self._is_off:
            raise OSError(errno.EIO, "the power is off")


class FaultDisk(QuickDisk):
    """A disk whose n-th and later operations of one kind fail; the first failing write may store some bytes."""

    def __init__(self, kind: str, nth: int, code: int, *, short: int = 0) -> None:
        self._kind = kind
        self._left = nth
        self._code = code
        self._short = short

    def _count(self, kind: str) -> bool:
        if kind == self._kind:
            self._left -= 1
        return kind == self._kind and self._left < 0

    def _maybe_fail(self, kind: str) -> None:
        if self._count(kind):
            raise OSError(self._code, os.strerror(self._code))

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        self._maybe_fail("open")
        return super().open(path, flags, mode)

    def write(self, fd: int, data: bytes) -> int:
        if self._count("write"):
            if self._short and self._left == -1:
                return super().write(fd, data[: self._short])
            raise OSError(self._code, os.strerror(self._code))
        return super().write(fd, data[: self._short] if self._short else data)

    def sync(self, fd: int) -> None:
        self._maybe_fail("sync")

    def sync_folder(self, folder: Path) -> None:
        self._maybe_fail("sync_folder")


def ident(index: int, turn: int = 1) -> dict[str, Any]:
    return {
        "index": index, "dialogue": f"d{index}", "target": "m@g", "repeat": 1, "turn": turn,
        "key": f"{index * 100 + turn:032x}",
    }  # fmt: skip


def intent(index: int, turn: int = 1) -> dict[str, Any]:
    return {"kind": "intent", **ident(index, turn), "attempt": 1, "role": "model"}


def outcome(index: int, turn: int = 1, text: str = '你好 \u2028 "quoted" \\ \n') -> dict[str, Any]:
    reply = {"finish_reason": "stop", "usage": {"source": "missing"}, "text": text}
    head = {"kind": "outcome", **ident(index, turn), "attempt": 1, "role": "model", "class": "replied"}
    return {**head, "started_at": 1.0, "reply": reply, "body": "{}"}


def turn_record(index: int, turn: int = 1) -> dict[str, Any]:
    return {"kind": "turn", **ident(index, turn), "status": "ok"}


def append_conversations(journal: Journal, conversations: int) -> None:
    for index in range(conversations):
        for record in (intent(index), outcome(index), turn_record(index)):
            journal.append(record)


def new_folder(path: Path) -> RunFolder:
    folder = RunFolder.create(path, disk=QuickDisk())
    folder.write_manifest(manifest_of("m@g"))
    return folder


def open_quick(folder: RunFolder, **options: Any) -> Journal:
    return Journal.open(folder, system=System(disk=QuickDisk()), version="0.1", **options)


def seqs(folder: RunFolder) -> list[int]:
    return [line.seq for line in JournalScan(folder.segments()).lines()]


def records(folder: RunFolder) -> list[dict[str, Any]]:
    return [decode_line(line.raw) for line in JournalScan(folder.segments()).lines()]


@contextmanager
def journal_of(raw: bytes) -> Generator[RunFolder, None, None]:
    """Create a temporary run folder with one segment of these bytes."""
    with tempfile.TemporaryDirectory() as place:
        folder = new_folder(Path(place) / "run")
        (folder.journal / "000001.jsonl").write_bytes(raw)
        yield folder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return new_folder(tmp_path / "run")


def _journal_bytes(conversations: int) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        folder = new_folder(Path(place) / "run")
        journal = open_quick(folder)
        append_conversations(journal, conversations)
        journal.release()
        return (folder.journal / "000001.jsonl").read_bytes()


WHOLE = _journal_bytes(4)
LINES = WHOLE.splitlines(keepends=True)


async def test_records_are_read_back_in_order_with_consecutive_numbers(folder: RunFolder) -> None:
    journal = open_quick(folder)
    journal.append(intent(0))
    await journal.commit(outcome(0), turn_record(0))
    await journal.close({"reason": "finished"})
    assert [record["kind"] for record in records(folder)] == ["run", "intent", "outcome", "turn", "stop"]
    assert seqs(folder) == [0, 1, 2, 3, 4]


@each(
    "value",
    [
        2**64,
        -(2**63) - 1,
        10**30,
        "\ud800 lone",
        {"deep": [2**70, "\udfff"]},
        float(1 << 60),
        "\x00\x7f\u2028 你好",
        "",
    ],
)
def test_unusual_values_are_read_back_unchanged(value: Any) -> None:
    assert decode_line(encode_line(7, 1.5, {"kind": "outcome", "value": value}))["value"] == value


async def test_each_opening_starts_a_new_session(folder: RunFolder) -> None:
    for session in (1, 2, 3):
        journal = open_quick(folder)
        assert journal.session == session
        await journal.close({"reason": "interrupted"})
    assert [record["session"] for record in records(folder) if record["kind"] == "run"] == [1, 2, 3]


async def test_records_of_one_commit_are_adjacent(folder: RunFolder) -> None:
    disk = LazyDisk()
    journal = Journal.open(folder, system=System(disk=disk), version="0.1")
    await asyncio.gather(*(journal.commit(outcome(index), turn_record(index)) for index in range(20)))
    journal.release()
    found = [(record["kind"], record.get("index")) for record in records(folder)][1:]
    assert all(found[i] == ("outcome", found[i + 1][1]) for i in range(0, 40, 2))


class CountingDisk(QuickDisk):
    """A disk that counts writes."""

    writes = 0

    def write(self, fd: int, data: bytes) -> int:
        self.writes += 1
        return super().write(fd, data)


async def test_records_of_one_round_of_the_loop_share_a_write_that_precedes_what_follows(folder: RunFolder) -> None:
    disk = CountingDisk()
    journal = Journal.open(folder, system=System(disk=disk), version="0.1")
    before, kinds = disk.writes, list[list[str]]()
    refused: list[JournalError] = []

    def follow() -> None:
        kinds.append([record["kind"] for record in records(folder)])

    async def turn(index: int) -> None:
        journal.append_then(intent(index), follow, refused.append)
        await journal.commit(outcome(index))

    turns = asyncio.gather(*(turn(index) for index in range(3)))
    await asyncio.sleep(0)
    assert kinds == []
    await asyncio.sleep(0)
    assert disk.writes == before + 1
    assert kinds == [["run", *["intent", "outcome"] * 3]] * 3
    assert refused == []
    await turns
    await journal.close()
    assert seqs(folder) == list(range(8))


async def test_after_a_replaced_journal_a_staged_record_is_refused_and_replies_are_still_written(
    folder: RunFolder,
) -> None:
    journal = open_quick(folder)
    segment = folder.journal / "000001.jsonl"
    segment.rename(folder.journal / "moved")
    segment.touch()
    refused: list[JournalError] = []
    journal.append_then(intent(0), pytest.fail, refused.append)
    await journal.commit(outcome(0))
    journal.release()
    assert [type(error) for error in refused] == [JournalReplaced]
    (folder.journal / "moved").rename(segment)
    assert [record["kind"] for record in records(folder)] == ["run", "outcome"]
    assert seqs(folder) == [0, 1]


async def test_after_a_failed_write_a_staged_record_is_refused_and_a_commit_fails(folder: RunFolder) -> None:
    journal = Journal.open(folder, system=System(disk=FaultDisk("write", 1, errno.ENOSPC)), version="0.1")
    refused: list[JournalError] = []
    journal.append_then(intent(0), pytest.fail, refused.append)
    with pytest.raises(JournalError, match="No space"):
        await journal.commit(outcome(0))
    assert [type(error) for error in refused] == [JournalError]
    journal.release()


@each(
    ("first", "rest"),
    [
        ({"index": 1, "dialogue": "d"}, {"key": "k", "n": 1}),
        ({"index": 1, "dialogue": "d"}, {"key": "half \ud83d"}),
        ({"index": 1, "dialogue": "d"}, {"n": 2**70}),
        ({"index": 1, "dialogue": "\udfff"}, {"key": "k"}),
    ],
)
def test_a_record_with_an_encoded_head_has_the_bytes_of_a_plain_one(first: Any, rest: Any) -> None:
    whole = encode_line(3, 1.5, Record("turn", encode_head(first), rest))
    assert whole == encode_line(3, 1.5, {"kind": "turn", **first, **rest})


async def test_commits_that_wait_for_a_running_sync_share_the_next_one(folder: RunFolder) -> None:
    disk = LazyDisk()
    journal = Journal.open(folder, system=System(disk=disk), version="0.1")
    before = disk.syncs
    rounds, at_once = 6, 50

    async def one_conversation(index: int) -> None:
        for turn in range(1, rounds + 1):
            await journal.commit(outcome(index, turn), turn_record(index, turn))

    await asyncio.gather(*(one_conversation(index) for index in range(at_once)))
    journal.release()
    assert disk.syncs - before <= 2 * rounds


async def test_a_commit_returns_only_after_a_sync_that_began_after_its_write(folder: RunFolder) -> None:
    disk = LazyDisk()
    journal = Journal.open(folder, system=System(disk=disk), version="0.1")
    segment = folder.journal / "000001.jsonl"
    late: list[int] = []

    async def one_conversation(index: int) -> None:
        for turn in range(1, 5):
            journal.append(intent(index, turn))
            for _ in range(random.Random(index * 10 + turn).randint(0, 7)):
                await asyncio.sleep(0)
            await journal.commit(outcome(index, turn))
            needle = f'"index":{index},"dialogue":"d{index}","target":"m@g","repeat":1,"turn":{turn},'.encode()
            durable = segment.read_bytes()[: disk.durable[segment]]
            if not any(needle in line and b'"outcome"' in line for line in durable.splitlines()):
                late.append(index)

    await asyncio.gather(*(one_conversation(index) for index in range(12)))
    journal.release()
    assert late == []


def test_append_writes_the_record_before_it_returns(folder: RunFolder) -> None:
    journal = open_quick(folder)
    journal.append(intent(3))
    assert records(folder)[-1]["index"] == 3
    journal.release()


async def test_a_cancelled_caller_loses_neither_its_record_nor_those_of_others(folder: RunFolder) -> None:
    journal = Journal.open(folder, system=System(disk=LazyDisk()), version="0.1")
    cancelled, other = asyncio.create_task(journal.commit(outcome(0))), asyncio.create_task(journal.commit(outcome(1)))
    await asyncio.sleep(0)
    cancelled.cancel()
    await other
    await journal.close({"reason": "interrupted"})
    assert [record.get("index") for record in records(folder)] == [None, 0, 1, None]


async def test_a_release_during_a_sync_reports_no_error_to_the_event_loop(folder: RunFolder) -> None:
    """As after a failed write: the run is cancelled while one record is being synced and another waits."""

    class SlowDisk(Disk):
        def sync(self, fd: int) -> None:
            time.sleep(0.02)

    loop_errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: loop_errors.append(context))
    journal = Journal.open(folder, system=System(disk=SlowDisk()), version="0.1")
    waiting = [asyncio.create_task(journal.commit(outcome(0)))]
    await asyncio.sleep(0.005)
    waiting.append(asyncio.create_task(journal.commit(outcome(1))))
    await asyncio.sleep(0.005)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    journal.release()
    await asyncio.sleep(0.03)
    gc.collect()
    assert loop_errors == []


async def test_several_segments_are_read_as_one_journal(folder: RunFolder) -> None:
    journal = open_quick(folder, segment_bytes=2000)
    for index in range(30):
        journal.append(intent(index))
        await journal.commit(outcome(index), turn_record(index))
    journal.release()
    assert len(folder.segments()) > 5
    assert seqs(folder) == list(range(91))
    again = open_quick(folder)
    assert again.notes == ()
    again.release()


@given(cut=st.integers(0, len(WHOLE)))
@example(cut=len(WHOLE) - 1)
@settings(deadline=None)
def test_a_journal_cut_at_any_byte_holds_a_prefix_and_can_be_continued(cut: int) -> None:
    with journal_of(WHOLE[:cut]) as folder:
        whole_lines = WHOLE[:cut].count(b"\n")
        journal = open_quick(folder)
        kept = seqs(folder)[:-1]
        assert kept in (list(range(whole_lines)), list(range(whole_lines + 1)))
        journal.append(intent(9))
        journal.release()
        assert seqs(folder) == list(range(len(kept) + 2))
        after = JournalScan(folder.segments())
        assert [line.raw for line in after.lines()][: len(kept)] == LINES[: len(kept)]
        assert (after.damage, after.torn) == ([], None)


def test_a_torn_last_line_is_reported_with_its_size(folder: RunFolder) -> None:
    segment = folder.journal / "000001.jsonl"
    segment.write_bytes(WHOLE[:-5])
    journal = open_quick(folder)
    journal.release()
    assert journal.notes == (
        f"{segment}: a torn last line was cut off ({len(LINES[-1]) - 5} bytes, never acknowledged)",
    )


def test_zeros_at_the_end_after_a_power_cut_are_a_torn_line(folder: RunFolder) -> None:
    (folder.journal / "000001.jsonl").write_bytes(WHOLE + bytes(4096))
    journal = open_quick(folder)
    journal.release()
    assert seqs(folder) == list(range(len(LINES) + 1))


@given(place=st.integers(0, len(WHOLE) - len(LINES[-1]) - 1), bit=st.integers(0, 7))
@settings(max_examples=120 * settings().max_examples // 100, deadline=None)
def test_any_flipped_bit_is_found_and_salvage_loses_only_that_line(place: int, bit: int) -> None:
    flipped = bytearray(WHOLE)
    flipped[place] ^= 1 << bit
    damaged_line = WHOLE[:place].count(b"\n")
    with journal_of(bytes(flipped)) as folder:
        with pytest.raises(JournalDamaged, match=r"000001\.jsonl:"):
            open_quick(folder)
        with Archive(folder) as archive:
            assert archive.damage_count >= 1
        journal = open_quick(folder, salvage=True)
        journal.release()
        lost = set(range(len(LINES))) - set(seqs(folder)[:-1])
        assert lost <= {damaged_line}
        scan = JournalScan(folder.segments())
        assert list(scan.lines())
        assert (scan.damage, scan.runs[-1].get("accepted_gaps", [])) == (
            [],
            [[damaged_line, damaged_line]] if lost else [],
        )


def _journal_without(number: int) -> bytes:
    return b"".join(LINES[:number] + LINES[number + 1 :])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (_journal_without(3), ":4: records 3 to 3 are missing before this line"),
        (b"".join([*LINES[:4], LINES[3], *LINES[4:]]), ":5: record 3 is repeated or out of order"),
        (b"".join([*LINES[:4], b"\n", *LINES[4:]]), ":5: an empty line"),
        (b"".join([*LINES[:2], LINES[3], LINES[2], *LINES[4:]]), ":4: record 2 is repeated or out of order"),
        (b"".join([*LINES[:2], b'{"hand": "made"}\n', *LINES[2:]]), ":3: the line does not match its checksum"),
        (WHOLE.replace(b"\n", b"\r\n"), ":1: the line is damaged; whole records in it that can still be read: 1"),
    ],
    ids=["missing", "twice", "empty", "swapped", "foreign", "crlf"],
)
def test_damage_is_refused_with_its_position_and_the_salvage_command(
    folder: RunFolder, raw: bytes, message: str
) -> None:
    (folder.journal / "000001.jsonl").write_bytes(raw)
    with pytest.raises(JournalDamaged) as refused:
        open_quick(folder)
    assert message in str(refused.value)
    assert f"convbatch resume {folder.path} --salvage" in str(refused.value)
    assert (folder.journal / "000001.jsonl").read_bytes() == raw


def test_salvage_keeps_damaged_lines_in_a_file_and_reports_it(folder: RunFolder) -> None:
    bad = LINES[5].replace(b'"d1"', b'"dX"')
    (folder.journal / "000001.jsonl").write_bytes(b"".join([*LINES[:5], bad, *LINES[6:]]))
    journal = open_quick(folder, salvage=True)
    journal.release()
    assert (folder.journal / "000001.damaged").read_bytes() == bad
    assert "1 damaged place set aside" in journal.notes[0]
    assert "000001.jsonl:6" in journal.notes[0]


def test_damaged_lines_are_durable_in_their_file_before_the_segment_is_replaced(folder: RunFolder) -> None:
    aside = folder.journal / "000001.damaged"

    class WatchedDisk(LazyDisk):
        seen = ""

        def replace(self, source: Path, target: Path) -> None:
            assert aside in self.named
            self.seen = aside.read_text()[: self.durable[aside]]
            super().replace(source, target)

    disk = WatchedDisk()
    (folder.journal / "000001.jsonl").write_bytes(b"".join([*LINES[:5], b"rubbish\n", *LINES[5:]]))
    reopened = RunFolder.open(folder.path, disk=disk)
    Journal.open(reopened, system=System(disk=disk), version="0.1", salvage=True).release()
    assert disk.seen == "rubbish\n"


def test_a_missing_segment_is_damage_that_salvage_accepts_permanently(folder: RunFolder) -> None:
    for number, part in enumerate((LINES[:4], LINES[4:8], LINES[8:]), 1):
        (folder.journal / f"{number:06}.jsonl").write_bytes(b"".join(part))
    (folder.journal / "000002.jsonl").unlink()
    with pytest.raises(JournalDamaged, match=r"000003\.jsonl:1: .*4 to 7"):
        open_quick(folder)
    open_quick(folder, salvage=True).release()
    open_quick(folder).release()
    assert len(seqs(folder)) == len(LINES) - 4 + 2


def test_salvage_of_an_intact_journal_changes_nothing(folder: RunFolder) -> None:
    (folder.journal / "000001.jsonl").write_bytes(WHOLE)
    journal = open_quick(folder, salvage=True)
    journal.release()
    assert journal.notes == ()
    assert (folder.journal / "000001.jsonl").read_bytes().startswith(WHOLE)


@pytest.mark.parametrize("raw", [b"hello\nworld\n", b"\x89PNG\r\n\x1a\n....", b'{"v": 1}\n', b"no newline at all"])
@pytest.mark.parametrize("salvage", [False, True])
def test_a_file_that_is_not_a_journal_is_refused_and_unchanged(folder: RunFolder, raw: bytes, *, salvage: bool) -> None:
    (folder.journal / "000001.jsonl").write_bytes(raw)
    with pytest.raises(SetupError, match="not a convbatch journal"):
        open_quick(folder, salvage=salvage)
    assert (folder.journal / "000001.jsonl").read_bytes() == raw


def test_a_journal_of_a_newer_version_is_refused_by_writer_and_reader(folder: RunFolder) -> None:
    newer = b'{"v":2,"seq":0,"kind":"run","at":1.0'
    (folder.journal / "000001.jsonl").write_bytes(b'%b,"crc":%d}\n' % (newer, zlib.crc32(newer)))
    with pytest.raises(SetupError, match=r"version 2; this convbatch reads up to version 1"):
        open_quick(folder, salvage=True)
    with pytest.raises(SetupError, match="upgrade convbatch"):
        Archive(folder)


def test_a_hard_linked_segment_is_not_appended_to(folder: RunFolder, tmp_path: Path) -> None:
    (folder.journal / "000001.jsonl").write_bytes(WHOLE)
    (tmp_path / "copy").hardlink_to(folder.journal / "000001.jsonl")
    with pytest.raises(SetupError, match="2 hard links"):
        open_quick(folder)


def test_a_segment_that_is_a_symbolic_link_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(WHOLE)
    (folder.journal / "000001.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SetupError, match="cannot be opened"):
        open_quick(folder)
    assert (tmp_path / "elsewhere").read_bytes() == WHOLE


async def test_complete_records_of_an_incomplete_write_are_kept(folder: RunFolder) -> None:
    into_the_second = len(encode_line(1, 1e9 + 1 / 3, outcome(0))) + 30
    disk = FaultDisk("write", 1, errno.ENOSPC, short=into_the_second)
    journal = Journal.open(folder, system=System(disk=disk), version="0.1")
    with pytest.raises(JournalError):
        await journal.commit(outcome(0), turn_record(0))
    journal.release()
    open_quick(folder).release()
    assert [record["kind"] for record in records(folder)] == ["run", "outcome", "run"]


async def _commit_until_broken(folder: RunFolder, disk: Disk, *, at_once: int) -> list[tuple[int, int]]:
    """Return the (index, turn) pairs that were acknowledged before the disk failed."""
    acknowledged: list[tuple[int, int]] = []
    journal = Journal.open(folder, system=System(disk=disk), version="0.1", segment_bytes=1500)

    async def one_conversation(index: int) -> None:
        for turn in range(1, 6):
            journal.append(intent(index, turn))
            await journal.commit(outcome(index, turn), turn_record(index, turn))
            acknowledged.append((index, turn))

    try:
        ends = await asyncio.gather(*(one_conversation(i) for i in range(at_once)), return_exceptions=True)
        assert all(end is None or isinstance(end, JournalError) for end in ends)
        if any(ends):
            with pytest.raises(JournalError):
                journal.append(intent(99))
            with pytest.raises(JournalError):
                await journal.close({"reason": "journal_error"})
    finally:
        journal.release()
    return acknowledged


@given(
    kind=st.sampled_from(["write", "sync", "open", "sync_folder"]),
    nth=st.integers(0, 40),
    code=st.sampled_from([errno.ENOSPC, errno.EIO, errno.EDQUOT]),
    short=st.sampled_from([0, 1, 50, 300]),
    at_once=st.integers(1, 4),
)
@example(kind="write", nth=38, code=errno.ENOSPC, short=50, at_once=3)  # fails just before the segment is full
@settings(max_examples=120 * settings().max_examples // 100, deadline=None)
def test_a_failing_disk_never_costs_an_acknowledged_record(
    kind: str, nth: int, code: int, short: int, at_once: int
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = new_folder(Path(place) / "run")
        acknowledged: list[tuple[int, int]] = []
        disk = FaultDisk(kind, nth, code, short=short)
        with contextlib.suppress(JournalError):  # the opening failed: no record was acknowledged
            acknowledged = asyncio.run(_commit_until_broken(folder, disk, at_once=at_once))
        open_quick(folder).release()
        kept = {(r["index"], r["turn"]) for r in records(folder) if r["kind"] == "turn"}
        assert kept >= set(acknowledged)


@pytest.mark.parametrize(("kind", "code"), [("write", errno.ENOSPC), ("sync", errno.EIO)])
async def test_a_write_failure_is_reported_with_its_cause_file_and_resume_command(
    folder: RunFolder, kind: str, code: int
) -> None:
    journal = Journal.open(folder, system=System(disk=FaultDisk(kind, 2, code)), version="0.1")
    await journal.commit(outcome(0))
    with pytest.raises(JournalError) as broken:
        await journal.commit(outcome(1))
    journal.release()
    assert os.strerror(code) in str(broken.value)
    assert str(folder.journal / "000001.jsonl") in str(broken.value)
    assert f"convbatch resume {folder.path}" in str(broken.value)
    assert broken.value.exit_code == 5


async def test_after_a_failed_sync_every_later_commit_fails(folder: RunFolder) -> None:
    class FailsOnce(FaultDisk):
        def sync(self, fd: int) -> None:
            if self._left == 0:
                self._left = 10**9
                raise OSError(errno.EIO, "dirty pages dropped")
            self._left -= 1

    journal = Journal.open(folder, system=System(disk=FailsOnce("sync", 2, errno.EIO)), version="0.1")
    await journal.commit(outcome(0))
    for index in (1, 2):
        with pytest.raises(JournalError, match="dirty pages dropped"):
            await journal.commit(outcome(index))
    journal.release()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60 * settings().max_examples // 100, deadline=None)
def test_a_power_cut_keeps_every_acknowledged_record_and_needs_no_salvage(seed: int) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        folder = new_folder(Path(place) / "run")
        disk = LazyDisk()
        journal = Journal.open(folder, system=System(disk=disk), version="0.1", segment_bytes=1500)
        acknowledged: set[tuple[int, int]] = set()

        async def one_conversation(index: int) -> None:
            for turn in range(1, 5):
                journal.append(intent(index, turn))
                for _ in range(rng.randint(0, 6)):
                    await asyncio.sleep(0)
                await journal.commit(outcome(index, turn), turn_record(index, turn))
                acknowledged.add((index, turn))

        async def until_the_power_cut() -> None:
            tasks = [asyncio.create_task(one_conversation(index)) for index in range(5)]
            for _ in range(rng.randint(0, 120)):
                await asyncio.sleep(0)
            disk.cut_power(rng)
            for task in tasks:
                task.cancel()

        asyncio.run(until_the_power_cut())
        journal.release()
        open_quick(folder).release()
        assert {(r["index"], r["turn"]) for r in records(folder) if r["kind"] == "turn"} >= acknowledged


HOLD = """
import sys
from pathlib import Path
from convbatch.journal.run_folder import RunFolder
from convbatch.journal.writer import Journal
from convbatch.system import System
journal = Journal.open(RunFolder.open(Path(sys.argv[1])), system=System(), version="0.1")
print("held", flush=True)
sys.stdin.read()
"""


def _python(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_a_second_process_is_refused_at_once_with_the_pid_of_the_first(folder: RunFolder) -> None:
    with _python(HOLD, str(folder.path)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert folder.is_in_use()
        with pytest.raises(SetupError, match=rf"{folder.path} is in use by another process \(pid {holder.pid}\)"):
            open_quick(folder)
        holder.kill()
    assert not folder.is_in_use()
    open_quick(folder).release()


def test_a_second_writer_in_the_same_process_is_refused(folder: RunFolder) -> None:
    journal = open_quick(folder)
    with pytest.raises(SetupError, match="in use"):
        open_quick(folder)
    journal.release()
    open_quick(folder).release()


def test_checking_whether_a_folder_is_in_use_never_blocks_a_writer(folder: RunFolder) -> None:
    open_quick(folder).release()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            folder.is_in_use()

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(40):
            folder.take_lock().release()
    finally:
        done.set()
        for watcher in watchers:
            watcher.join()


WRITE_ON = """
import asyncio, sys
from pathlib import Path
from tests.journal.test_writer import intent, outcome, turn_record
from convbatch.journal.run_folder import RunFolder
from convbatch.journal.writer import Journal
from convbatch.system import System

async def main():
    first = int(sys.argv[2])
    journal = Journal.open(RunFolder.open(Path(sys.argv[1])), system=System(), version="0.1", segment_bytes=20_000)
    async def one(index):
        for turn in range(1, 1000):
            journal.append(intent(index, turn))
            await journal.commit(outcome(index, turn), turn_record(index, turn))
            sys.stdout.write(f"{index} {turn}\\n")
            sys.stdout.flush()
    await asyncio.gather(*(one(first + k) for k in range(8)))

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_writer_killed_repeatedly_loses_no_acknowledged_record(folder: RunFolder) -> None:
    acknowledged: set[tuple[int, int]] = set()
    rng = random.Random(5)
    for kill in range(2):
        with _python(WRITE_ON, str(folder.path), str(kill * 10)) as writer:
            assert writer.stdout is not None
            lines = list(itertools.islice(writer.stdout, rng.randint(1, 400)))
            writer.send_signal(signal.SIGKILL)
            lines += [line for line in writer.stdout if line.endswith("\n")]
        acknowledged |= {(int(index), int(turn)) for index, turn in (line.split() for line in lines)}
    journal = open_quick(folder)
    journal.release()
    assert journal.session == 3
    assert {(r["index"], r["turn"]) for r in records(folder) if r["kind"] == "turn"} >= acknowledged
    assert seqs(folder) == list(range(len(seqs(folder))))


def cut(folder: RunFolder) -> None:
    os.truncate(folder.segments()[0], 10)


def lengthened(folder: RunFolder) -> None:
    with folder.segments()[0].open("ab") as file:
        file.write(b"x")


def replaced(folder: RunFolder) -> None:
    segment = folder.segments()[0]
    segment.rename(folder.path / "kept")
    shutil.copy(folder.path / "kept", segment)


def deleted(folder: RunFolder) -> None:
    shutil.rmtree(folder.path)


def moved(folder: RunFolder) -> None:
    folder.path.rename(folder.path.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, "another program changed this file during the run: 10 bytes instead of"),
        (lengthened, "another program changed this file during the run"),
        (replaced, "another program replaced this file during the run"),
        (deleted, "it was moved or deleted during the run"),
        (moved, "it was moved or deleted during the run"),
    ],
)
def test_no_request_is_announced_after_a_change_from_outside(
    folder: RunFolder, change: Callable[[RunFolder], None], message: str
) -> None:
    journal = open_quick(folder)
    append_conversations(journal, 1)
    change(folder)
    for _ in range(2):
        with pytest.raises(JournalError, match=message):
            journal.append(intent(1))
    journal.release()


async def test_a_reply_in_flight_is_written_to_a_journal_that_was_moved(folder: RunFolder) -> None:
    journal = open_quick(folder)
    journal.append(intent(0))
    moved(folder)
    with pytest.raises(JournalReplaced):
        journal.append(intent(1))
    await journal.commit(outcome(0), turn_record(0))
    journal.release()
    elsewhere = RunFolder.open(folder.path.with_name("elsewhere"))
    assert [record["kind"] for record in records(elsewhere)] == ["run", "intent", "outcome", "turn"]


async def ended(folder: RunFolder, conversations: int) -> None:
    """Write a session, and its end into run.json as a session does."""
    journal = open_quick(folder)
    append_conversations(journal, conversations - 1)
    await journal.commit(intent(conversations), outcome(conversations), turn_record(conversations))
    journal.append(intent(99))  # not durable: run.json must not expect it
    folder.write_manifest(dataclasses.replace(folder.read_manifest(), journal=journal.end))
    journal.release()


async def test_a_journal_that_lost_its_end_between_sessions_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    await ended(folder, 3)
    await ended(other := new_folder(tmp_path / "other"), 4)
    segment = folder.segments()[0]
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:-1]))
    open_quick(folder).release()  # only what was not durable is missing, as after a power cut
    for change, message in (
        (b"".join(lines[:-3]), "records 8 to 9 are missing at the end"),
        (other.segments()[0].read_bytes(), "record 9 is not the one of this run"),
    ):
        segment.write_bytes(change)
        with pytest.raises(JournalDamaged, match=message) as refused:
            open_quick(folder)
        assert "asks and pays what is missing again" in str(refused.value)
        with Archive(folder) as archive:
            assert archive.damage_count == 1
        assert message in open_and_close(folder, salvage=True)[0]


def open_and_close(folder: RunFolder, **options: Any) -> tuple[str, ...]:
    journal = open_quick(folder, **options)
    journal.release()
    return journal.notes


async def test_closing_a_broken_journal_releases_the_folder(folder: RunFolder) -> None:
    journal = Journal.open(folder, system=System(disk=FaultDisk("write", 1, errno.ENOSPC)), version="0.1")
    with pytest.raises(JournalError):
        await journal.close({"reason": "finished"})
    await journal.close({"reason": "finished"})
    open_quick(folder).release()


def test_a_missing_journal_folder_is_a_setup_error(folder: RunFolder) -> None:
    shutil.rmtree(folder.journal)
    with pytest.raises(SetupError, match="cannot be opened"):
        open_quick(folder)
