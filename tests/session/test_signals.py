"""Handling of signals at the end of a session; whole runs under signals are `tests/scenarios/test_signals.py`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any, cast

import pytest
import uvloop

from convbatch.session.signals import stop_on_signals


class Stopped:
    """Runner and progress line that record what they are told."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    on_stop = "stopping"
    on_abandon = "abandoning"

    def stop(self, reason: str) -> None:
        self.reasons.append(reason)

    def abandon(self) -> None:
        self.reasons.append("abandoned")

    def answer(self, text: str) -> None:
        assert text


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_signal_that_arrives_just_before_the_end_of_a_session_stops_it(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    stopped = Stopped()

    async def session() -> None:
        async with stop_on_signals(cast("Any", stopped), cast("Any", stopped)):
            os.kill(os.getpid(), signal.SIGINT)

    with asyncio.Runner(loop_factory=loop_factory) as loop:
        loop.run(session())
    assert stopped.reasons == ["interrupted"]
