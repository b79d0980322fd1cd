"""How much of a hidden quota is used, and how many requests are refused, with no limit in the configuration.

The rate limiter runs in virtual time against the simulator's counting models: workers ask for admission, send, and
report a reply or a 429, as the runner does. Shares are counted from the second minute on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from convbatch.engine.limiter import RateLimiter
from convbatch.simulator.limits import Gatekeeper, LimitModel, ServerLimits
from tests.support.virtual_time import VirtualClock, VirtualLoop

START_S = 17.0
"""Position of the first request in the server's minute."""
TRANSIT_S = 0.01
MODELS: tuple[LimitModel, ...] = ("fixed", "sliding", "bucket", "quantised")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A hidden quota and who uses it."""

    model: LimitModel
    per_minute: int
    hints: bool
    """Whether a refusal says how long to wait."""
    latency_s: float = 0.05
    places: int = 16
    processes: int = 1
    minutes: int = 10
    becomes: int | None = None
    """The quota from the fourth minute on, if it changes."""

    def __str__(self) -> str:
        shared = "" if self.processes == 1 else f", {self.processes} processes"
        return f"{self.model}, {'with' if self.hints else 'without'} hints{shared}"


@dataclass(slots=True)
class Usage:
    """What the server counted from the second minute on."""

    passed: int = 0
    refused: int = 0

    @property
    def refused_share(self) -> float:
        """Refused requests divided by all requests."""
        return self.refused / max(1, self.passed + self.refused)


class _Server:
    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._gate = Gatekeeper(ServerLimits(rpm=quota.per_minute, model=quota.model))
        self.by_minute: dict[int, Usage] = {}

    def asked(self, now: float) -> float | None:
        """Return None for an admitted request, else the seconds until it would be."""
        minute = int(now // 60)
        if self._quota.becomes is not None and minute >= 3:
            self._gate = Gatekeeper(ServerLimits(rpm=self._quota.becomes, model=self._quota.model))
            self._quota = replace(self._quota, becomes=None)
        refusal = self._gate.admit("key", "model", 0, now)
        usage = self.by_minute.setdefault(minute, Usage())
        usage.passed += refusal is None
        usage.refused += refusal is not None
        return None if refusal is None else refusal.retry_after_s


async def _work(limiter: RateLimiter, server: _Server, quota: Quota, chance: random.Random) -> None:
    clock = VirtualClock()
    while clock.monotonic() < 60 * quota.minutes:
        permit = await limiter.admit()
        await clock.sleep(TRANSIT_S * (0.5 + chance.random()))
        wait_s = server.asked(clock.monotonic())
        if wait_s is None:
            await clock.sleep(quota.latency_s * (0.5 + chance.random()))
            limiter.report("replied", permit)
        else:
            await clock.sleep(TRANSIT_S)
            limiter.report("throttled", permit, retry_after_s=wait_s if quota.hints else None)
        permit.release()


async def _play(quota: Quota, seed: int) -> dict[int, Usage]:
    server = _Server(quota)
    chance = random.Random(seed)
    limiters = [RateLimiter(clock=VirtualClock(), concurrency=quota.places) for _ in range(quota.processes)]
    tasks = [
        asyncio.create_task(_work(limiter, server, quota, chance))
        for limiter in limiters
        for _ in range(2 * quota.places)
    ]
    await asyncio.sleep(60.0 * quota.minutes - START_S - 0.001)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return server.by_minute


def played(quota: Quota, seed: int = 1) -> dict[int, Usage]:
    """Return what the server counted in each minute of its clock."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(START_S)) as runner:
        return runner.run(_play(quota, seed))


def steady(by_minute: dict[int, Usage], first: int = 1) -> Usage:
    """Return the sums from minute `first` on, counted from 0."""
    counted = [usage for minute, usage in by_minute.items() if minute >= first]
    return Usage(sum(usage.passed for usage in counted), sum(usage.refused for usage in counted))


def quotas(per_minute: tuple[int, ...] = (20, 100, 600, 3000)) -> Iterator[Quota]:
    """Yield every case of the table."""
    for count in per_minute:
        for model in MODELS:
            for hints in (True, False):
                yield Quota(model=model, per_minute=count, hints=hints)
        yield Quota(model="sliding", per_minute=count, hints=False, processes=2)
