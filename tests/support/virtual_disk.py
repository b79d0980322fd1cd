"""The disk of a played run: real files, a book of what would survive a power cut, and every way a disk can fail.

What a process writes lies in a cache until it is synced. A kill leaves the cache to the system, which writes it out in
its own time; a power cut keeps, drops, tears or reorders whatever lies in it. The `Platter` outlives the processes, a
`VirtualDisk` is one process's way to it.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from convbatch.system import Disk

T = TypeVar("T")
Call = Literal["open", "write", "sync", "truncate", "replace", "sync_folder"]


class Power:
    """Is the process alive? Once cut, nothing it does reaches a disk or a network."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.alive = True
        self._loop = loop

    def cut(self) -> None:
        """As SIGKILL does: at once, and without a word to anybody."""
        self.alive = False
        self._loop.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """How a process dies: at a moment of its sitting, before its n-th call to the disk, or within its n-th write."""

    after_s: float | None = None
    in_write: int | None = None
    """From 1; only a part of it arrives."""
    in_call: int | None = None
    """From 1; of any kind."""
    power: bool = False
    """The whole machine goes: unsynced writes are left to chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """The n-th call of one kind fails, and perhaps all after it."""

    call: Call
    nth: int
    """From 1."""
    code: int
    lasting: bool = True


@dataclass(eq=False, slots=True, kw_only=True)
class Written:
    """Bytes that a process wrote to a file, and since when they would survive a power cut."""

    session: int
    path: Path
    offset: int
    data: bytes
    durable_at: float = float("inf")

    @property
    def end(self) -> int:
        """Where in the file they end."""
        return self.offset + len(self.data)


@dataclass(eq=False, slots=True, kw_only=True)
class _Named:
    """A name that a folder does not yet hold for sure."""

    path: Path
    source: Path | None = None
    """It was renamed from there; None: created."""
    former: bytes | None = None
    """What had this name before."""

    def undo(self) -> None:
        if self.source is not None:
            self.path.replace(self.source)
        else:
            self.path.unlink(missing_ok=True)
        if self.former is not None:
            self.path.write_bytes(self.former)


class Platter:
    """What outlives the processes."""

    def __init__(self) -> None:
        self.journal: list[Written] = []
        """Every write to the journal's segments, in order, whatever became of it."""
        self._unsynced: dict[Path, list[Written]] = {}
        self._unsure: list[_Named] = []

    def unsynced(self, path: Path) -> list[Written]:
        """What has been written to a file and not synced yet."""
        return list(self._unsynced.get(path, ()))

    def wrote(self, written: Written) -> None:
        """Bytes have arrived in the cache."""
        self._unsynced.setdefault(written.path, []).append(written)
        if written.path.parent.name == "journal" and written.path.suffix == ".jsonl":
            self.journal.append(written)

    def synced(self, path: Path, covered: list[Written], now: float) -> None:
        """These bytes are durable."""
        for written in covered:
            written.durable_at = min(written.durable_at, now)
        self._unsynced[path] = [w for w in self._unsynced.get(path, ()) if w.durable_at > now]

    def truncated(self, path: Path, length: int) -> None:
        """What lies behind that length is gone."""
        for written in self._unsynced.get(path, ()):
            written.data = written.data[: max(0, length - written.offset)]

    def created(self, path: Path) -> None:
        """A new file, whose name is in the cache only."""
        self._unsure.append(_Named(path=path))

    def renamed(self, source: Path, target: Path) -> None:
        """`source` is about to take the name of `target`."""
        former = target.read_bytes() if target.exists() else None
        self._unsynced[target] = self._unsynced.pop(source, [])
        self._unsure = [named for named in self._unsure if named.path != source]
        self._unsure.append(_Named(path=target, source=source, former=former))

    def named(self, folder: Path) -> None:
        """The names in a folder are durable."""
        self._unsure = [named for named in self._unsure if named.path.parent != folder]

    def lose_power(self, chance: random.Random) -> None:
        """Leave to chance whatever lies in the cache."""
        for path, pending in self._unsynced.items():
            if pending and path.exists():
                _tear(path, pending, chance)
        self._unsynced.clear()
        for named in self._unsure[::-1][: chance.randint(0, len(self._unsure))]:
            named.undo()
        self._unsure.clear()


def _tear(path: Path, pending: list[Written], chance: random.Random) -> None:
    """Of the unsynced writes of a file some arrive whole, some in part, some not; what is missing reads as zeros."""
    content = bytearray(path.read_bytes())
    size = min(pending[0].offset, len(content))
    fates = _fates(len(pending), chance)
    for written, fate in zip(pending, fates, strict=True):
        arrived = {"kept": len(written.data), "dropped": 0}.get(fate, chance.randrange(len(written.data) + 1))
        end = min(written.end, len(content))
        content[written.offset + arrived : end] = bytes(max(0, end - written.offset - arrived))
        if arrived:
            size = written.offset + arrived
    if chance.random() < 0.3:
        size = len(content)  # the new length had arrived, not what belongs there
    path.write_bytes(content[:size])


def _fates(count: int, chance: random.Random) -> list[str]:
    """In order up to some point, as most file systems do; or each as it pleases."""
    if chance.random() < 0.5:
        whole = chance.randint(0, count)
        return [*["kept"] * whole, *["torn"] * (whole < count), *["dropped"] * (count - whole - 1)]
    return chance.choices(["kept", "dropped", "torn"], k=count)


class VirtualDisk(Disk):
    """One process's disk: takes virtual time to sync, fails when told to, and dies with its process."""

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
        """Plug it in.

        Args:
            platter: Where everything ends up.
            loop: Whose time it takes.
            power: Dies with it.
            chance: Of all that is drawn.
            session: Number of the process.
            sync_s: Syncs take up to this long.
            kill: When to cut the power.
            trouble: What fails.
            room: Bytes until the disk is full.
            short: Share of writes that take only a part of what they are given.
        """
        self.calls = 0
        self.writes = 0
        self.failed = False
        """Has any call been refused?"""
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
        if not self._may("open"):
            return os.memfd_create("nowhere")  # the dead go on for a moment, and change nothing
        is_new = bool(flags & os.O_CREAT) and not path.exists()
        fd = super().open(path, flags, mode)
        self._paths[fd] = path
        if is_new:
            self._platter.created(path)
        if flags & os.O_TRUNC:
            self._platter.truncated(path, 0)
        return fd

    def write(self, fd: int, data: bytes) -> int:
        if not self._may("write") or fd not in self._paths:
            return len(data)
        self.writes += 1
        if self.writes == self._kill.in_write:
            self._put(fd, data[: self._torn(data)])
            self._power.cut()
            return len(data)
        if self._short and self._chance.random() < self._short:
            data = data[: self._chance.randint(1, len(data))]
        if self._room is not None:
            if data and not self._room:
                raise self._refusal(28)  # ENOSPC
            data = data[: self._room]
            self._room -= len(data)
        return self._put(fd, data)

    def sync(self, fd: int) -> None:
        if self._may("sync") and fd in self._paths:
            path = self._paths[fd]
            covered = self._covered.pop(path, None)
            self._platter.synced(path, self._platter.unsynced(path) if covered is None else covered, self._loop.time())

    def truncate(self, fd: int, length: int) -> None:
        if self._may("truncate") and fd in self._paths:
            super().truncate(fd, length)
            self._platter.truncated(self._paths[fd], length)

    def replace(self, source: Path, target: Path) -> None:
        if self._may("replace"):
            self._platter.renamed(source, target)
            super().replace(source, target)

    def sync_folder(self, folder: Path) -> None:
        if self._may("sync_folder"):
            self._platter.named(folder)

    async def run_blocking(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        """Only syncs are done aside: they cover what was written when they began, and are done when they end."""
        self._covered = {path: self._platter.unsynced(path) for path in self._paths.values()}
        await asyncio.sleep(self._chance.random() * self._longest_sync_s)
        return work()

    def close(self, fd: int) -> None:
        self._paths.pop(fd, None)
        super().close(fd)

    def _may(self, call: Call) -> bool:
        """Is the process alive to make this call? Raises OSError where the disk refuses it."""
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
                raise self._refusal(trouble.code)
        return True

    def _refusal(self, code: int) -> OSError:
        self.failed = True
        return OSError(code, os.strerror(code))

    def _put(self, fd: int, data: bytes) -> int:
        offset = os.fstat(fd).st_size
        done = super().write(fd, data)
        path = self._paths[fd]
        self._platter.wrote(Written(session=self._session, path=path, offset=offset, data=data[:done]))
        return done

    def _torn(self, data: bytes) -> int:
        """Anywhere, or where it is most delicate: nothing, all but the last byte, between two lines."""
        return self._chance.choice([0, len(data) - 1, data.find(b"\n", 0, -1) + 1, self._chance.randrange(len(data))])
