"""Virtual time: an asyncio event loop that jumps to the next timer instead of waiting for it.

Whole runs take milliseconds and are reproducible: nothing here sleeps, reads a real clock, starts a thread or opens a
socket. Executor work runs in the loop's own thread, one iteration later, so that other ready tasks run first, as they
may in real time.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_LEAST_STEP_S = 2e-9
"""Minimum delay of a timer: a callback that reschedules itself for "now" must not stop the clock. More than the
nanosecond by which asyncio may run timers early."""


class VirtualDeadlock(RuntimeError):
    """Nothing is ready to run and nothing is scheduled: in real time the program would hang."""


class _NeverWaits(selectors.SelectSelector):
    """Selector that reports the requested timeout to the loop and returns at once."""

    def __init__(self, idle: Callable[[float | None], None]) -> None:
        super().__init__()
        self._idle = idle

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self.get_map():  # the first is the loop's own wake-up pipe
            raise RuntimeError("virtual time has no sockets or pipes: answer in process instead")
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._idle(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` moves only from timer to timer.

    `run_until_complete` raises `VirtualDeadlock` where a real loop would wait forever.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        super().__init__(_NeverWaits(self._idle))

    def time(self) -> float:
        """Return virtual seconds, counted from `start`."""
        return self._now

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Schedule a callback as asyncio does, but never for the current instant."""
        soonest = self._now + max(_LEAST_STEP_S, 2 * math.ulp(self._now))
        return super().call_at(max(when, soonest), callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> asyncio.Future[T]:
        """Run `func` in this thread in the next iteration of the loop; `executor` is ignored."""
        future: asyncio.Future[T] = self.create_future()
        self.call_soon(_run_into, future, func, args)
        return future

    def _idle(self, timeout: float | None) -> None:
        if timeout is None:
            raise VirtualDeadlock(f"at {self._now} s nothing is ready and nothing is scheduled; {self._stuck()}")
        self._now += timeout

    def _stuck(self) -> str:
        names = sorted(f"{task.get_name()} ({_where(task)})" for task in asyncio.all_tasks(self))
        return "waiting: " + (", ".join(names) if names else "no task at all")


def _run_into(future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if future.cancelled():
        return
    try:
        result = func(*args)
    except Exception as error:  # noqa: BLE001  # the awaiting task receives it
        future.set_exception(error)
    else:
        future.set_result(result)


def _where(task: asyncio.Task[Any]) -> str:
    stack = task.get_stack(limit=1)
    return f"{stack[0].f_code.co_qualname}:{stack[0].f_lineno}" if stack else "not started"


class VirtualClock:
    """The loop's time as a `system.Clock`; the wall clock can be made to jump."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, epoch: float = 1_800_000_000.0) -> None:
        self._loop = asyncio.get_running_loop() if loop is None else loop
        self._epoch = epoch

    def monotonic(self) -> float:
        """Return the loop's time in seconds."""
        return self._loop.time()

    def wall(self) -> float:
        """Return Unix seconds UTC: the epoch plus the loop's time plus all jumps."""
        return self._epoch + self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep in virtual time."""
        await asyncio.sleep(seconds)

    def jump(self, seconds: float) -> None:
        """Move the wall clock forward or back, as a time server would; `monotonic` is not affected."""
        self._epoch += seconds


def run(main: Coroutine[Any, Any, T], *, start: float = 0.0) -> T:
    """Run a coroutine to completion in virtual time, as `asyncio.run` does in real time.

    Args:
        main: The coroutine; `VirtualClock()` inside it follows the loop.
        start: First value of the loop's `time()`.

    Raises:
        VirtualDeadlock: All tasks wait and no timer is scheduled.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(start)) as runner:
        return runner.run(main)
