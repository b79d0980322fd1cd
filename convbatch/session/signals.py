"""Signal handling during a session: the first signal stops it gently, the second abandons what is in flight."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convbatch.engine.runner import Runner
    from convbatch.session.progress import Progress

SIGTERM_GRACE_S = 25.0


@asynccontextmanager
async def stop_on_signals(runner: Runner, progress: Progress) -> AsyncGenerator[None]:
    """Stop the runner on SIGINT, SIGTERM and SIGHUP.

    After the first signal, requests in flight finish; after SIGTERM and SIGHUP they have at most 25 s. The second
    signal abandons them.
    """
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        received.append(number)
        if len(received) == 1:
            stop(number)
        elif number != signal.SIGHUP or signal.SIGHUP not in received[:-1]:
            # A closing terminal sends SIGHUP twice: the kernel to the group, the shell to its jobs.
            loop.remove_signal_handler(signal.SIGINT)  # one more ends the process as it would any other
            _keep_quiet_about_interrupts(loop)
            progress.answer(runner.on_abandon)
            runner.abandon()

    def stop(number: signal.Signals) -> None:
        if number == signal.SIGINT:
            progress.answer(runner.on_stop)
        else:
            progress.answer(f"stopping: what is in flight has {SIGTERM_GRACE_S:.0f} s")
            loop.call_later(SIGTERM_GRACE_S, runner.abandon)
        runner.stop("interrupted")

    handled = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        handled.remove(signal.SIGHUP)  # set by `nohup`
    before = {number: signal.getsignal(number) for number in handled}
    for number in handled:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
        for _ in range(
            3
        ):  # iterations in which the loop delivers a signal that has arrived; it would be lost otherwise
            await asyncio.sleep(0)
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler or signal.SIG_DFL)  # asyncio does not restore the previous handler


def _keep_quiet_about_interrupts(loop: asyncio.AbstractEventLoop) -> None:
    """Print nothing about the task in which a KeyboardInterrupt is raised: the loop raises it as well."""

    def report_others(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), KeyboardInterrupt):
            loop.default_exception_handler(context)

    if loop.get_exception_handler() is None:
        loop.set_exception_handler(report_others)
