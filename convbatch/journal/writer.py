"""The journal's only writer: append records, sync them in groups, repair a torn tail, set damaged lines aside.

A record is written before `append` and `commit` return, so it survives a kill; after `commit` it also survives a power
cut. Records of one round of the event loop share one write. The first disk error ends the journal, so that nothing is
reported as durable that may not be. This module does not know what records mean (`index.py` folds them), and its memory
does not grow with the journal.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from convbatch.errors import JournalDamaged, JournalError, JournalReplaced, Place, SetupError, is_out_of_memory
from convbatch.journal.records import (
    JournalEnd,
    JournalLine,
    JournalScan,
    Record,
    Torn,
    checksum_of,
    encode_fields,
    numbered_line,
)
from convbatch.journal.run_folder import FolderLock, RunFolder, cannot_write, shell_quote
from convbatch.system import BlockingThread, Disk, System

SEGMENT_BYTES = 256 * 2**20
_LISTED = 5
_SETUP = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
"""Errors that concern the folder, not the disk."""

_GONE = "it was moved or deleted during the run"
_WAKES_PER_ROUND = 8
"""Waking hundreds at once would build hundreds of requests before the first one is sent."""


class Journal:
    """Append to a run folder's journal, from one thread only: that of the event loop.

    Attributes:
        session: Number of this session, from 1.
        notes: Messages about the opening: a torn tail, damage set aside.
    """

    session: int
    notes: tuple[str, ...]

    def __init__(self, tail: _Tail, found: _Opened, *, system: System, segment_bytes: int) -> None:
        self.session = found.sessions + 1
        self.notes = found.notes
        self._tail = tail
        self._clock = system.clock
        self._disk = system.disk
        self._segment_bytes = segment_bytes
        self._next_seq = found.next_seq
        self._last_crc = 0
        self._end: JournalEnd | None = None
        self._lines: list[_Line] = []
        """Records that are not written yet."""
        self._writing: asyncio.Handle | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._durable: deque[asyncio.Future[None]] = deque()
        """Waiters whose records are synced, not woken yet."""
        self._syncing: asyncio.Task[None] | None = None
        self._thread = BlockingThread("journal-sync")
        self._closed = False

    @classmethod
    def open(
        cls,
        folder: RunFolder,
        *,
        system: System,
        version: str,
        salvage: bool = False,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> Journal:
        """Become the folder's writer: lock it, verify every line, repair the tail, and write the `run` record.

        Args:
            folder: The run folder; its journal may be empty.
            system: Clock and disk.
            version: Version of convbatch, for the `run` record.
            salvage: Set damaged lines aside instead of raising.
            segment_bytes: Size at which a new segment is started.

        Raises:
            SetupError: Another process uses the folder, or a newer convbatch wrote this journal.
            JournalDamaged: Lines are damaged or missing, and `salvage` is false.
            JournalError: The disk reported an error.
        """
        disk = system.disk
        try:
            lock = folder.take_lock()
        except OSError as error:
            raise _cannot_open(folder, error) from error
        try:
            found = _examine(folder, disk, salvage=salvage)
            tail = _Tail.open(folder, disk, lock)
        except OSError as error:
            lock.release()
            raise _cannot_open(folder, error) from error
        except BaseException:
            lock.release()
            raise
        journal = cls(tail, found, system=system, segment_bytes=segment_bytes)
        try:
            journal._begin(folder, found, version)
        except BaseException:
            journal.release()
            raise
        return journal

    @property
    def end(self) -> JournalEnd | None:
        """The last durable record."""
        return self._end

    def append(self, record: Mapping[str, Any] | Record) -> None:
        """Write a record without a sync: it survives a kill, but not a power cut.

        Raises:
            JournalReplaced: The file is no longer in the run folder, or was changed; `commit` still works if it can.
            JournalError: This write or an earlier one failed.
        """
        self._tail.refuse_replaced()
        self._lines.append(_Line(encode_fields(self._clock.wall(), record)))
        if (refused := self._write_lines()) is not None:
            raise refused

    def append_then(
        self,
        record: Mapping[str, Any] | Record,
        then: Callable[[], None],
        refuse: Callable[[JournalError], None],
    ) -> None:
        """Write a record with the others of this round of the event loop, as `append`, and then call a function.

        Args:
            record: The record.
            then: Called once it is written.
            refuse: Called instead, with what `append` would raise.
        """
        self._lines.append(_Line(encode_fields(self._clock.wall(), record), then, refuse))
        self._write_soon()

    def append_encoded(self, records: Iterable[bytes], *, before_sending: bool = False) -> None:
        """Write records that another process encoded, as `append` does; an empty `commit` makes them durable.

        Args:
            records: Each as `encode_fields` returns it.
            before_sending: Whether requests follow, which must not if the file is no longer in the run folder.

        Raises:
            JournalReplaced: As `append`, with `before_sending`.
            JournalError: This write or an earlier one failed.
        """
        if before_sending:
            self._tail.refuse_replaced()
        self._lines += map(_Line, records)
        if (refused := self._write_lines()) is not None:
            raise refused

    async def commit(self, *records: Mapping[str, Any] | Record) -> None:
        """Write records in one piece and return when they, and all earlier ones, are durable.

        All records that are written during a sync share the next one.

        Raises:
            JournalError: They may not be durable; no further record can be written.
        """
        self._tail.refuse_broken()
        at = self._clock.wall()
        self._lines += [_Line(encode_fields(at, record)) for record in records]
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._write_soon()
        await waiter

    async def close(self, stop: Mapping[str, Any] | None = None) -> None:
        """Write the `stop` record, sync, and release the folder; the folder is released even after an error.

        Args:
            stop: Fields of the record: `reason`, and `parked` for suspended targets.

        Raises:
            JournalError: This write or an earlier one failed.
        """
        if self._closed:
            return
        try:
            await self.commit({**(stop or {}), "kind": "stop"})
        finally:
            self.release()

    def release(self) -> None:
        """Release the folder without a `stop` record, as a kill would; does nothing when closed."""
        if self._closed:
            return
        self._write_lines()
        self._closed = True
        self._thread.close()  # a running sync must not outlive its descriptor
        self._tail.close()

    def _begin(self, folder: RunFolder, found: _Opened, version: str) -> None:
        record: dict[str, Any] = {"kind": "run", "session": self.session, "run": folder.name, "convbatch": version}
        if found.accepted_gaps:
            record["accepted_gaps"] = found.accepted_gaps
        self._lines.append(_Line(encode_fields(self._clock.wall(), record)))
        if (refused := self._write_lines()) is not None:
            raise refused
        try:
            self._tail.sync()
        except OSError as error:
            raise self._tail.fail(error) from error
        self._end = self._written

    @property
    def _written(self) -> JournalEnd:
        return JournalEnd(self._next_seq - 1, self._last_crc)

    def _write_soon(self) -> None:
        if self._writing is None:
            self._writing = asyncio.get_running_loop().call_soon(self._write_round)

    def _write_round(self) -> None:
        self._writing = None
        self._write_lines()
        if self._waiters and self._syncing is None and not self._closed:
            self._syncing = asyncio.get_running_loop().create_task(self._sync_groups())

    def _write_lines(self) -> JournalError | None:
        """Write all records that wait for it, in one piece, and call what follows; return why that was not possible."""
        lines, self._lines = self._lines, []
        staged = [line for line in lines if line.then is not None]
        refused: JournalError | None = None
        if staged:
            try:
                self._tail.refuse_replaced()
            except JournalError as error:
                refused = error
                lines = [line for line in lines if line.then is None]
        try:
            self._write(lines)
        except JournalError as error:
            refused = error
            self._fail([])
        for line in staged:
            line.end(refused)
        return refused

    def _write(self, lines: Sequence[_Line]) -> None:
        if not lines:
            return
        encoded = [numbered_line(seq, line.fields) for seq, line in enumerate(lines, self._next_seq)]
        self._tail.write(b"".join(encoded) if len(encoded) != 1 else encoded[0])
        self._next_seq += len(encoded)
        self._last_crc = checksum_of(encoded[-1])

    async def _sync_groups(self) -> None:
        group: list[asyncio.Future[None]] = []
        try:
            while self._waiters and not self._closed:
                self._write_lines()
                group, self._waiters = self._waiters, []
                written = self._written
                await self._disk.run_blocking(self._thread, self._tail.sync)
                self._end = written
                self._wake(group)
                group = []
                if self._tail.size >= self._segment_bytes:
                    self._tail.roll()
        except (OSError, MemoryError, RuntimeError) as error:
            if not isinstance(error, OSError):
                if not is_out_of_memory(error):
                    raise
                error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))  # no thread could be started
            self._tail.fail(error)
            self._fail(group)
        finally:
            self._syncing = None
            for waiter in (*group, *self._waiters):
                waiter.cancel()  # only those that still wait: the loop is being closed

    def _wake(self, group: list[asyncio.Future[None]]) -> None:
        """Wake waiters whose records are durable, a few in each round of the loop, while the next sync runs."""
        wakes_already = bool(self._durable)
        self._durable.extend(group)
        if not wakes_already:
            self._wake_some()

    def _wake_some(self) -> None:
        for _ in range(min(_WAKES_PER_ROUND, len(self._durable))):
            waiter = self._durable.popleft()
            if not waiter.done():
                waiter.set_result(None)
        if self._durable:
            asyncio.get_running_loop().call_soon(self._wake_some)

    def _fail(self, group: list[asyncio.Future[None]]) -> None:
        for waiter in (*group, *self._waiters):
            if not waiter.done():
                waiter.set_exception(self._tail.broken())
        self._waiters = []


class _Line(NamedTuple):
    """A record that is to be written, and what follows."""

    fields: bytes
    """From `encode_fields`."""
    then: Callable[[], None] | None = None
    refuse: Callable[[JournalError], None] | None = None

    def end(self, refused: JournalError | None) -> None:
        """Call what follows."""
        if refused is None:
            assert self.then is not None
            self.then()
        else:
            assert self.refuse is not None
            self.refuse(refused)


class _Tail:
    """The segment that is written: its descriptor, its length, and whether a write has failed."""

    def __init__(self, folder: RunFolder, disk: Disk, lock: FolderLock, path: Path) -> None:
        self._folder = folder
        self._disk = disk
        self._lock = lock
        self._path = path
        self._name = str(path)
        self._failure: OSError | None = None
        self._fd = -1
        self.size = 0

    @classmethod
    def open(cls, folder: RunFolder, disk: Disk, lock: FolderLock) -> _Tail:
        segments = folder.segments()
        tail = cls(folder, disk, lock, segments[-1] if segments else folder.journal / "000001.jsonl")
        tail._open(new=not segments)
        return tail

    def write(self, block: bytes) -> None:
        if self._failure is not None:
            raise self.broken()
        try:
            _write_all(self._disk, self._fd, block)
        except OSError as error:
            # What was written stays: its whole records count, and the next opening cuts the torn rest off.
            raise self.fail(error) from error
        self.size += len(block)

    def refuse_broken(self) -> None:
        """Refuse to go on after a write or sync has failed."""
        if self._failure is not None:
            raise self.broken()

    def refuse_replaced(self) -> None:
        """Refuse to go on after the file or its folder was moved, deleted, replaced or cut from outside.

        An intent is written before its request is sent, so no request follows such a change. Replies are still written:
        the file may only have been moved.
        """
        if self._failure is not None:
            raise self.broken()
        try:
            there = os.stat(self._name, follow_symlinks=False)  # noqa: PTH116  # for every turn: a Path costs more
            own = os.fstat(self._fd)
        except OSError as error:
            gone = FileNotFoundError(errno.ENOENT, _GONE) if isinstance(error, FileNotFoundError) else error
            raise self._replaced(gone) from None
        if (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
            raise self._replaced(OSError("another program replaced this file during the run"))
        if own.st_size != self.size:
            what = f"another program changed this file during the run: {own.st_size} bytes instead of {self.size}"
            raise self._replaced(OSError(what))

    def _replaced(self, error: OSError) -> JournalReplaced:
        problem = cannot_write(self._path, error, self._folder.path).problems[0]
        hint = problem.hint
        if not isinstance(error, FileNotFoundError):
            hint = f"put the journal back as it was, then: convbatch resume {shell_quote(self._folder.path)}"
        return JournalReplaced(problem.what, place=problem.place, hint=hint)

    def sync(self) -> None:
        self._disk.sync(self._fd)
        if os.fstat(self._fd).st_nlink == 0:  # the system still accepts bytes, but they are lost
            raise FileNotFoundError(errno.ENOENT, _GONE)

    def roll(self) -> None:
        """Start a new segment, after the old one is completely durable, so that only the last one can be torn."""
        if self._failure is not None:
            return  # this one may be torn, so it must stay the last
        self._disk.sync(self._fd)
        self._disk.close(self._fd)
        self._fd = -1
        self._path = self._path.with_name(f"{int(self._path.stem) + 1:06}.jsonl")
        self._open(new=True)

    def fail(self, error: OSError) -> JournalError:
        """Refuse all further writes: after a failed sync, a later successful one proves nothing."""
        if self._failure is None:
            self._failure = error
        return self.broken()

    def broken(self) -> JournalError:
        assert self._failure is not None
        return cannot_write(self._path, self._failure, self._folder.path)

    def close(self) -> None:
        if self._fd >= 0:
            self._disk.close(self._fd)
        self._fd = -1
        self._failure = self._failure or OSError("the journal is closed")
        self._lock.release()

    def _open(self, *, new: bool) -> None:
        create = os.O_CREAT | os.O_EXCL if new else 0
        self._name = str(self._path)
        self._fd = self._disk.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | create)
        # Also for an existing segment: its creator may have been killed before the name was durable.
        self._disk.sync_folder(self._folder.journal)
        self.size = os.fstat(self._fd).st_size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """Result of the check at opening."""

    next_seq: int
    sessions: int
    notes: tuple[str, ...]
    accepted_gaps: list[tuple[int, int]]


def _examine(folder: RunFolder, disk: Disk, *, salvage: bool) -> _Opened:
    scan = JournalScan(folder.segments(), folder.recorded_end())
    for _ in scan.lines():
        pass
    if scan.segments:
        _refuse_linked(folder, scan.segments[-1])
    notes: list[str] = []
    if scan.damage_count:
        if not scan.next_seq:
            raise _no_journal(folder, scan)
        if not salvage:
            raise _damaged(folder, scan)
        if scan.lost_end is None:
            _set_aside(folder, disk, scan.damaged_segments)
            notes.append(f"{_count(scan)} set aside, see {folder.journal}/*.damaged; first: {scan.damage[0]}")
        else:
            notes.append(f"{scan.lost_end}; going on without")
    if scan.torn is not None and len(scan.segments) - 1 not in scan.damaged_segments:
        _cut_torn_line(scan.segments[-1], scan.torn, disk)
        notes.append(f"{scan.segments[-1]}: a torn last line was cut off ({scan.torn.cut} bytes, never acknowledged)")
    return _Opened(
        next_seq=scan.next_seq,
        sessions=len(scan.runs),
        notes=tuple(notes),
        accepted_gaps=[(gap.first, gap.last) for gap in scan.open_gaps],
    )


def _cut_torn_line(path: Path, torn: Torn, disk: Disk) -> None:
    fd = disk.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
    try:
        disk.truncate(fd, torn.kept)
        if torn.needs_newline:
            _write_all(disk, fd, b"\n")
        disk.sync(fd)
    finally:
        disk.close(fd)


def _set_aside(folder: RunFolder, disk: Disk, damaged: set[int]) -> None:
    segments = folder.segments()
    left = set(damaged)
    for segment, lines in groupby(JournalScan(segments).lines(), key=lambda line: line.segment):
        if segment in left:
            left.discard(segment)
            _rewrite(folder, disk, segments[segment], lines)
    for segment in left:  # without a whole record
        _rewrite(folder, disk, segments[segment], iter(()))


def _rewrite(folder: RunFolder, disk: Disk, path: Path, lines: Iterator[JournalLine]) -> None:
    """Replace a segment by its intact lines, after all other bytes are durable in a file beside it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    bad = disk.open(path.with_suffix(".damaged"), flags)
    try:
        with path.open("rb") as former, folder.replacing(f"{folder.journal.name}/{path.name}") as clean:
            for line in lines:
                _write_all(disk, bad, former.read(line.offset - former.tell()))
                clean.write(line.raw)
                former.seek(line.offset + len(line.raw))
            rest = former.read()
            _write_all(disk, bad, rest if rest.endswith(b"\n") or not rest else rest + b"\n")
            disk.sync(bad)
            disk.sync_folder(folder.journal)
    finally:
        disk.close(bad)


def _write_all(disk: Disk, fd: int, block: bytes) -> None:
    done = 0
    while done < len(block):
        written = disk.write(fd, block[done:] if done else block)
        if written <= 0:
            raise OSError("the disk accepts no more bytes")
        done += written


def _refuse_linked(folder: RunFolder, segment: Path) -> None:
    links = segment.stat().st_nlink
    if links > 1:
        raise SetupError(
            f"{segment} has {links} hard links: appending to it would change the other copies of this run too",
            hint=f"work on a copy: cp -r {folder.path} NEW, then use NEW",
        )


def _count(scan: JournalScan) -> str:
    return "1 damaged place" if scan.damage_count == 1 else f"{scan.damage_count} damaged places"


def _damaged(folder: RunFolder, scan: JournalScan) -> JournalDamaged:
    listed = [str(damage) for damage in scan.damage[:_LISTED]]
    if scan.damage_count > _LISTED:
        listed.append(f"and {scan.damage_count - _LISTED} more")
    salvage = f"convbatch resume {shell_quote(folder.path)} --salvage"
    return JournalDamaged(
        f"the journal cannot be continued: it has {_count(scan)}",
        place=scan.damage[0].place,
        found="\n    ".join(listed),
        hint=f"{salvage} sets the damaged lines aside and asks only their turns again"
        if scan.lost_end is None
        else f"restore the journal; or {salvage} goes on with this one, and asks and pays what is missing again",
    )


def _no_journal(folder: RunFolder, scan: JournalScan) -> SetupError:
    return SetupError(
        "this is not a convbatch journal: it has no whole record",
        place=scan.damage[0].place,
        found=scan.damage[0].what,
        hint=f"restore {folder.journal} from a copy, or run the dataset again into a new folder",
    )


def _cannot_open(folder: RunFolder, error: OSError) -> SetupError | JournalError:
    if error.errno not in _SETUP:
        return cannot_write(folder.journal, error, folder.path)
    return SetupError(
        f"the journal cannot be opened: {error.strerror}",
        place=Place(path=str(error.filename or folder.journal)),
        hint="check that the run folder is complete, owned by you and writable",
    )
