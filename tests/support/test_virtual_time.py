from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from aiolimiter import AsyncLimiter

from convbatch.system import Clock
from tests.support.virtual_time import VirtualClock, VirtualDeadlock, run


def test_an_hour_of_virtual_time_passes_at_once_and_exactly():
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    before = time.perf_counter()
    assert run(main(), start=0.0) == 3600.0
    assert time.perf_counter() - before < 1.0


def test_tasks_run_in_the_order_of_their_timers():
    async def main() -> list[str]:
        seen: list[str] = []

        async def note(name: str, after: float) -> None:
            await asyncio.sleep(after)
            seen.append(f"{name}@{asyncio.get_running_loop().time():g}")

        async with asyncio.TaskGroup() as group:
            for name, after in [("c", 30.0), ("a", 0.5), ("b", 2.0), ("b2", 2.0)]:
                group.create_task(note(name, after))
        return seen

    assert run(main()) == ["a@0.5", "b@2", "b2@2", "c@30"]


def test_timeouts_fire_in_virtual_time():
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(120):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(main(), start=1000.0) == pytest.approx(1120.0)


def test_a_deadlock_is_an_error_that_names_the_waiting_task():
    async def never() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(never(), name="the-sleeper")

    with pytest.raises(VirtualDeadlock, match=r"the-sleeper \(.*never"):
        run(main())


def test_a_timer_set_again_for_now_does_not_stop_the_clock():
    async def main() -> float:
        loop = asyncio.get_running_loop()

        def again() -> None:
            if loop.time() < 1000.0 + 1e-6:
                loop.call_at(loop.time(), again)

        again()
        await asyncio.sleep(1)
        return loop.time()

    assert run(main(), start=1000.0) == pytest.approx(1001.0)


def test_aiolimiter_follows_the_virtual_clock():
    async def main() -> float:
        limiter = AsyncLimiter(1, 7 / 3)
        for _ in range(301):
            await limiter.acquire()
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(700.0, abs=1e-3)


def test_executor_work_runs_here_after_other_ready_tasks():
    async def main() -> tuple[list[str], str]:
        seen: list[str] = []
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, lambda: seen.append("work") or "result")
        seen.append("caller goes on")
        return seen, await work

    assert run(main()) == (["caller goes on", "work"], "result")


def test_executor_errors_reach_the_waiter_and_cancelled_work_never_runs():
    async def main() -> list[str]:
        seen: list[str] = []
        loop = asyncio.get_running_loop()
        with pytest.raises(OSError, match="disk full"):
            await loop.run_in_executor(None, _disk_full)
        loop.run_in_executor(None, seen.append, "must not run").cancel()
        await asyncio.sleep(1)
        return seen

    assert run(main()) == []


def _disk_full() -> None:
    raise OSError("disk full")


def test_a_socket_is_refused_with_a_reason():
    async def main() -> None:
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            await asyncio.get_running_loop().sock_recv(left, 1)

    with pytest.raises(RuntimeError, match="no sockets"):
        run(main())


def test_the_wall_clock_can_jump_and_the_monotonic_one_cannot():
    async def main() -> tuple[float, float, float]:
        clock = VirtualClock(epoch=1_000.0)
        as_the_package_sees_it: Clock = clock
        await as_the_package_sees_it.sleep(5)
        before = clock.wall()
        clock.jump(-3600)
        return before, clock.wall(), clock.monotonic()

    assert run(main()) == (1005.0, 1005.0 - 3600, 5.0)


def _interleaved() -> Coroutine[Any, Any, list[tuple[str, float]]]:
    async def main() -> list[tuple[str, float]]:
        seen: list[tuple[str, float]] = []
        lock = asyncio.Lock()

        async def work(name: str, pace: float) -> None:
            for _ in range(20):
                async with lock:
                    await asyncio.sleep(pace)
                    seen.append((name, asyncio.get_running_loop().time()))

        async with asyncio.TaskGroup() as group:
            for k in range(5):
                group.create_task(work(f"w{k}", 0.1 * k))
        return seen

    return main()


def test_two_executions_of_a_program_are_equal():
    assert run(_interleaved()) == run(_interleaved())
