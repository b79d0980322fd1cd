"""The outside world as parameters: clock, randomness, disk.

Nothing in the package reads the time, sleeps, draws a random number or touches the run folder's files except through
these, so that a whole run can be played in virtual time from one seed, and any disk operation can be made to fail.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Time for the run half. `monotonic` must tick with the running event loop's own `time()`."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def wall(self) -> float:
        """Unix seconds UTC; may jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking other tasks."""
        ...


class RealClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def wall(self) -> float:
        """Unix seconds UTC."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep as asyncio does."""
        await asyncio.sleep(seconds)


class Disk:
    """The file operations the journal needs. Subclass to make the n-th of them fail, or to forget unsynced bytes."""

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """A file descriptor; raises OSError."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def write(self, fd: int, data: bytes) -> int:
        """Bytes written, possibly fewer than given; raises OSError."""
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        """Make everything written to `fd` so far durable; raises OSError."""
        if hasattr(os, "fdatasync"):
            os.fdatasync(fd)
        else:  # macOS has no fdatasync
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

    def truncate(self, fd: int, length: int) -> None:
        """Cut a file; raises OSError."""
        os.ftruncate(fd, length)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over; raises OSError."""
        source.replace(target)

    def sync_folder(self, folder: Path) -> None:
        """Make names in a folder durable; raises OSError."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, fd: int) -> bool:
        """Take the exclusive lock of an open file without waiting; False when another process holds it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    async def run_blocking(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        """Run blocking `work` without stopping the event loop. In virtual time: run it inline."""
        return await asyncio.get_running_loop().run_in_executor(pool, work)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Clock, randomness and disk in one value, handed down from the command line or a test."""

    clock: Clock = field(default_factory=RealClock)
    random: random.Random = field(default_factory=random.Random)
    disk: Disk = field(default_factory=Disk)
