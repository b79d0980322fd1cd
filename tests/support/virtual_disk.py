"""The disk of a virtual run: real files, a record of what would survive a power cut, and every kind of disk failure.

Written data is in a cache until it is synced. After a kill the system still writes the cache to the disk; a power cut
keeps, drops, tears or reorders its content. The `Platter` outlives the processes, and each process accesses it through
its own `VirtualDisk`.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from convbatch.system import BlockingThread, Disk

T = TypeVar("T")
Call = Literal["open", "write", "sync", "truncate", "replace", "sync_folder"]


class Power:
    """Power switch of a process; once cut, the process can no longer reach the disk or the network."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.alive = True
        self._loop = loop

    def cut(self) -> None:
        """Stop the process immediately and without notice, as SIGKILL does."""
        self.alive = False
        self._loop.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """When a process is killed: at a time of its session, before its n-th disk call, or within its n-th write."""

    after_s: float | None = None
    in_write: int | None = None
    """Counted from 1; only a part of this write arrives."""
    in_call: int | None = None
    """Counted from 1; calls of any kind."""
    power: bool = False
    """Power cut of the whole machine: the fate of unsynced writes is random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A disk failure: the n-th call of one kind fails, and all later ones when `lasting`."""

    call: Call
    nth: int
    """Counted from 1."""
    code: int
    lasting: bool = True


@dataclass(eq=False, slots=True, kw_only=True)
class Written:
    """Bytes written to a file, and the time since when they would survive a power cut."""

    session: int
    path: Path
    offset: int
    data: bytes
    durable_at: float = float("inf")

    @property
    def end(self) -> int:
        """Return the offset of their end in the file."""
        return self.offset + len(self.data)


@dataclass(eq=False, slots=True, kw_only=True)
class _UnsyncedName:
    """A directory entry that is not durable yet."""

    path: Path
    source: Path | None = None
    """Old path of a renamed file; None for a new file."""
    former: bytes | None = None
    """Content of the file that was replaced."""

    def undo(self) -> None:
        if self.source is not None:
            self.path.replace(self.source)
        else:
            self.path.unlink(missing_ok=True)
        if self.former is not None:
            self.path.write_bytes(self.former)


class Platter:
    """Disk state that outlives the processes."""

    def __init__(self) -> None:
        self.journal: list[Written] = []
        """Every write to the journal's segments, in order, lost ones included."""
        self._unsynced: dict[Path, list[Written]] = {}
        self._unsynced_names: list[_UnsyncedName] = []

    def unsynced(self, path: Path) -> list[Written]:
        """Return the unsynced writes of a file."""
        return list(self._unsynced.get(path, ()))

    def wrote(self, written: Written) -> None:
        """Record bytes that arrived in the cache."""
        self._unsynced.setdefault(written.path, []).append(written)
        if written.path.parent.name == "journal" and written.path.suffix == ".jsonl":
            self.journal.append(written)

    def synced(self, path: Path, covered: list[Written], now: float) -> None:
        """Record that these bytes are durable."""
        for written in covered:
            written.durable_at = min(written.durable_at, now)
        self._unsynced[path] = [w for w in self._unsynced.get(path, ()) if w.durable_at > now]

    def truncated(self, path: Path, length: int) -> None:
        """Record that a file was truncated to this length."""
        for written in self._unsynced.get(path, ()):
            written.data = written.data[: max(0, length - written.offset)]

    def created(self, path: Path) -> None:
        """Record a new file, whose name is only in the cache."""
        self._unsynced_names.append(_UnsyncedName(path=path))

    def renamed(self, source: Path, target: Path) -> None:
        """Record that `source` is about to replace `target`."""
        former = target.read_bytes() if target.exists() else None
        self._unsynced[target] = self._unsynced.pop(source, [])
        self._unsynced_names = [named for named in self._unsynced_names if named.path != source]
        self._unsynced_names.append(_UnsyncedName(path=target, source=source, former=former))

    def named(self, folder: Path) -> None:
        """Record that the names in a folder are durable."""
        self._unsynced_names = [named for named in self._unsynced_names if named.path.parent != folder]

    def lose_power(self, chance: random.Random) -> None:
        """Keep, drop or tear each unsynced write and name at random."""
        for path, pending in self._unsynced.items():
            if pending and path.exists():
                _tear(path, pending, chance)
        self._unsynced.clear()
        for named in self._unsynced_names[::-1][: chance.randint(0, len(self._unsynced_names))]:
            named.undo()
        self._unsynced_names.clear()


def _tear(path: Path, pending: list[Written], chance: random.Random) -> None:
    """Keep, tear or drop the unsynced writes of a file; missing bytes read as zeros."""
    content = bytearray(path.read_bytes())
    size = min(pending[0].offset, len(content))
    fates = _draw_fates(len(pending), chance)
    for written, fate in zip(pending, fates, strict=True):
        arrived = {"kept": len(written.data), "dropped": 0}.get(fate, chance.randrange(len(written.data) + 1))
        end = min(written.end, len(content))
        content[written.offset + arrived : end] = bytes(max(0, end - written.offset - arrived))
        if arrived:
            size = written.offset + arrived
    if chance.random() < 0.3:
        size = len(content)  # the new length arrived, the data did not
    path.write_bytes(content[:size])


def _draw_fates(count: int, chance: random.Random) -> list[str]:
    """Keep writes in order up to a random point, as most file systems do, or decide for each one independently."""
    if chance.random() < 0.5:
        whole = chance.randint(0, count)
        return [*["kept"] * whole, *["torn"] * (whole < count), *["dropped"] * (count - whole - 1)]
    return chance.choices(["kept", "dropped", "torn"], k=count)


class VirtualDisk(Disk):
    """Disk of one process: syncs take virtual time, calls fail as configured, and it stops with its process."""

    def __init__(
        self,
        platter: Platter,
        loop: asyncio.AbstractEventLoop,
        power: Power,
        chance: random.Random,
        *,
        session: int = 1,
        sync_s: float = 0.0,
        kill: Kill | None = None,
        trouble: Trouble | None = None,
        room: int | None = None,
        short: float = 0.0,
    ) -> None:
        """Connect a process to the platter.

        Args:
            platter: Shared disk state.
            loop: Event loop that provides the virtual time.
            power: Power switch of the process.
            chance: Source of all random draws.
            session: Number of the process.
            sync_s: Longest duration of a sync.
            kill: When to cut the power.
            trouble: Which calls fail.
            room: Bytes until the disk is full.
            short: Share of writes that accept only a part of their bytes.
        """
        self.calls = 0
        self.writes = 0
        self.failed = False
        """True once a call has failed."""
        self._platter = platter
        self._loop = loop
        self._power = power
        self._chance = chance
        self._session = session
        self._longest_sync_s = sync_s
        self._kill = kill or Kill()
        self._trouble = trouble
        self._struck = 0
        self._room = room
        self._short = short
        self._paths: dict[int, Path] = {}
        self._covered: dict[Path, list[Written]] = {}

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        if not self._can_call("open"):
            return os.memfd_create("nowhere")  # a killed process still runs its last steps, without effect
        is_new = bool(flags & os.O_CREAT) and not path.exists()
        fd = super().open(path, flags, mode)
        self._paths[fd] = path
        if is_new:
            self._platter.created(path)
        if flags & os.O_TRUNC:
            self._platter.truncated(path, 0)
        return fd

    def write(self, fd: int, data: bytes) -> int:
        if not self._can_call("write") or fd not in self._paths:
            return len(data)
        self.writes += 1
        if self.writes == self._kill.in_write:
            self._store(fd, data[: self._torn_size(data)])
            self._power.cut()
            return len(data)
        if self._short and self._chance.random() < self._short:
            data = data[: self._chance.randint(1, len(data))]
        if self._room is not None:
            if data and not self._room:
                raise self._failure(28)  # ENOSPC
            data = data[: self._room]
            self._room -= len(data)
        return self._store(fd, data)

    def sync(self, fd: int) -> None:
        if self._can_call("sync") and fd in self._paths:
            path = self._paths[fd]
            covered = self._covered.pop(path, None)
            self._platter.synced(path, self._platter.unsynced(path) if covered is None else covered, self._loop.time())

    def truncate(self, fd: int, length: int) -> None:
        if self._can_call("truncate") and fd in self._paths:
            super().truncate(fd, length)
            self._platter.truncated(self._paths[fd], length)

    def replace(self, source: Path, target: Path) -> None:
        if self._can_call("replace"):
            self._platter.renamed(source, target)
            super().replace(source, target)

    def sync_folder(self, folder: Path) -> None:
        if self._can_call("sync_folder"):
            self._platter.named(folder)

    async def run_blocking(self, thread: BlockingThread, work: Callable[[], T]) -> T:
        """Run a sync; it covers the bytes written before it began and takes effect when it ends."""
        self._covered = {path: self._platter.unsynced(path) for path in self._paths.values()}
        await asyncio.sleep(self._chance.random() * self._longest_sync_s)
        return work()

    def close(self, fd: int) -> None:
        self._paths.pop(fd, None)
        super().close(fd)

    def _can_call(self, call: Call) -> bool:
        """Return whether the process is alive to make this call; raise OSError where the disk fails it."""
        if not self._power.alive:
            return False
        self.calls += 1
        if self.calls == self._kill.in_call:
            self._power.cut()
            return False
        trouble = self._trouble
        if trouble is not None and call == trouble.call:
            self._struck += 1
            if self._struck == trouble.nth or (trouble.lasting and self._struck > trouble.nth):
                raise self._failure(trouble.code)
        return True

    def _failure(self, code: int) -> OSError:
        self.failed = True
        return OSError(code, os.strerror(code))

    def _store(self, fd: int, data: bytes) -> int:
        offset = os.fstat(fd).st_size
        done = super().write(fd, data)
        path = self._paths[fd]
        self._platter.wrote(Written(session=self._session, path=path, offset=offset, data=data[:done]))
        return done

    def _torn_size(self, data: bytes) -> int:
        """Choose how many bytes of a torn write arrive: random, or an edge case (none, all but one, whole lines)."""
        return self._chance.choice([0, len(data) - 1, data.find(b"\n", 0, -1) + 1, self._chance.randrange(len(data))])
