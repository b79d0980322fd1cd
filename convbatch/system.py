"""Clock, randomness and disk as parameters.

The package reads the time, sleeps, draws random numbers and changes the files of a run folder only through these, so
that a test can execute a whole run in virtual time from one seed, and make any disk operation fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Time for the run side. `monotonic` must advance with the `time()` of the running event loop."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        ...

    def wall(self) -> float:
        """Return Unix seconds UTC; may jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking other tasks."""
        ...


class RealClock:
    """The system clock."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def wall(self) -> float:
        """Return Unix seconds UTC."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep as asyncio does."""
        await asyncio.sleep(seconds)


class BlockingThread:
    """One thread that does blocking work for an event loop, in order; it starts with the first work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._queue: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Return a future of the result of `work`; raises RuntimeError if no thread can be started."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._thread is None:
            # A daemon: a process that ends without `close` does not wait for it.
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
        self._queue.put((future, work))
        return future

    def close(self) -> None:
        """Wait for the work that was given, and end the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (given := self._queue.get()) is not None:
            future, work = given
            try:
                done = functools.partial(_resolve, future, work())
            except BaseException as error:  # noqa: BLE001  # whatever it is, it belongs to the caller
                done = functools.partial(_fail, future, error)
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                future.get_loop().call_soon_threadsafe(done)
            del given, future, work, done


def _resolve(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


class Disk:
    """The file operations of the journal. Tests subclass it to make the n-th fail, or to lose unsynced bytes."""

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """Open a file and return its descriptor; raises OSError."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def write(self, fd: int, data: bytes) -> int:
        """Write and return the number of bytes written, possibly fewer than given; raises OSError."""
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        """Make all bytes written to `fd` durable; raises OSError."""
        if hasattr(os, "fdatasync"):
            os.fdatasync(fd)
        else:  # macOS has no fdatasync
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

    def truncate(self, fd: int, length: int) -> None:
        """Truncate a file; raises OSError."""
        os.ftruncate(fd, length)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file and replace the target; raises OSError."""
        source.replace(target)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable; raises OSError."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, fd: int) -> bool:
        """Take the exclusive lock of an open file without waiting; return False if another process holds it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    async def run_blocking(self, thread: BlockingThread, work: Callable[[], T]) -> T:
        """Run blocking `work` without blocking the event loop; in virtual time it runs inline."""
        return await thread.run(work)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Clock, randomness and disk in one value, passed down from the command line or a test."""

    clock: Clock = field(default_factory=RealClock)
    random: random.Random = field(default_factory=random.Random)
    disk: Disk = field(default_factory=Disk)
