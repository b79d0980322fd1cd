from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.quotas import MODELS, Quota, played, steady
from convbatch.engine.limiter import RateLimiter
from convbatch.engine.pace import LearnedPace
from convbatch.simulator.limits import LimitModel
from tests.conftest import examples
from tests.engine.test_limiter import max_in_window
from tests.support.tables import each
from tests.support.virtual_time import VirtualClock, run


def in_virtual_time(test: Callable[[VirtualClock], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await test(VirtualClock())

    return run(main())


# -- the rate as a value

_EVENTS = st.lists(st.tuples(st.sampled_from(["sent", "refused", "passed"]), st.floats(0.0, 90.0)), max_size=80)


@settings(max_examples=examples(60), deadline=None)
@given(events=_EVENTS)
def test_the_learned_rate_never_starves(events: list[tuple[str, float]]):
    pace, now, sent_at = LearnedPace(), 0.0, 0.0
    for what, later_s in events:
        now += later_s
        if what == "sent":
            if pace.ready_at(now) is None:
                pace.sent(1.0, now)
                sent_at = now
        elif what == "refused":
            pace.refused(sent_at, now)
        else:
            pace.passed(sent_at, now)
        rate = pace.per_second(now)
        assert rate is None or 0.7 / 60 <= rate < float("inf")
        ready_at = pace.ready_at(now)
        assert ready_at is None or ready_at - now <= 90.0


def test_nothing_is_learned_from_one_refusal_and_the_rate_of_the_last_minute_from_the_second():
    pace = LearnedPace()
    for number in range(100):
        pace.sent(1.0, number / 100)
    assert pace.refused(0.99, 1.0) is None
    assert not pace.is_known
    assert pace.refused(2.0, 2.0) == pytest.approx(0.97 * 100 / 60)


def test_a_rate_without_further_refusals_grows_slowly_and_then_doubles():
    pace = LearnedPace()
    for number in range(121):
        pace.sent(1.0, float(number))
    pace.refused(120.0, 120.0)
    pace.refused(121.0, 121.0)
    pace.passed(122.0, 122.0)
    grown = [round(pace.per_second(122.0 + 60 * minutes) or 0.0, 2) for minutes in (0, 1, 2, 4, 6, 9)]
    assert grown == pytest.approx([0.97, 1.0, 1.0, 1.03, 1.27, 2.4], abs=0.05)


# -- hidden quotas; the table of all sizes is `python -m benchmarks -s quotas`


@each("hints", [True, False])
@each("model", MODELS)
def test_from_the_second_minute_on_a_hidden_quota_is_used_and_hardly_exceeded(model: LimitModel, hints: bool):
    usage = steady(played(Quota(model=model, per_minute=100, hints=hints, minutes=6)))
    assert usage.refused_share <= 0.05
    assert usage.passed >= 0.9 * 5 * 100


def test_two_processes_share_a_hidden_quota():
    usage = steady(played(Quota(model="sliding", per_minute=60, hints=False, processes=2, minutes=6)))
    assert usage.refused_share <= 0.05
    assert usage.passed >= 0.9 * 5 * 60


def test_a_quota_that_falls_is_followed_within_two_minutes():
    by_minute = played(Quota(model="bucket", per_minute=120, hints=True, becomes=40, minutes=8))
    usage = steady(by_minute, first=5)
    assert usage.refused_share <= 0.05
    assert usage.passed >= 0.9 * 3 * 40


@pytest.mark.parametrize(("refused_of", "longest"), [(None, 1.02), (500, 1.2), (100, 1.9)])
def test_refusals_that_are_none_or_few_and_do_not_depend_on_the_rate_hardly_slow_a_run(
    refused_of: int | None, longest: float
):
    turns, latency_s, places = 2_000, 0.5, 8
    chance, left = random.Random(1), [0] * turns

    async def caller(limiter: RateLimiter, clock: VirtualClock) -> None:
        while left:
            permit = await limiter.admit()
            await clock.sleep(latency_s)
            if refused_of is not None and chance.random() < 1 / refused_of:
                limiter.report("throttled", permit)
            else:
                limiter.report("replied", permit)
                left[-1:] = []
            permit.release()

    async def scenario(clock: VirtualClock) -> float:
        limiter = RateLimiter(clock=clock, concurrency=places)
        async with asyncio.TaskGroup() as group:
            for _ in range(2 * places):
                group.create_task(caller(limiter, clock))
        return clock.monotonic()

    assert in_virtual_time(scenario) <= longest * turns * latency_s / places


# -- pauses and notes


def test_one_request_is_sent_after_a_pause_and_the_others_follow_its_reply():
    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=16)
        refused = await limiter.admit()
        limiter.report("throttled", refused, retry_after_s=10)
        refused.release()
        sent: list[float] = []

        async def caller() -> None:
            permit = await limiter.admit()
            sent.append(round(clock.monotonic(), 2))
            await clock.sleep(0.4)
            limiter.report("replied", permit)
            permit.release()

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(caller())
        return sent

    assert in_virtual_time(scenario) == [10.0, 10.4, 10.4, 10.4]


def test_a_slow_reply_after_a_pause_does_not_hold_up_the_others():
    async def scenario(clock: VirtualClock) -> float:
        limiter = RateLimiter(clock=clock, concurrency=16)
        refused = await limiter.admit()
        limiter.report("throttled", refused, retry_after_s=10)
        refused.release()
        await limiter.admit()  # takes minutes to answer; a refusal would have come at once
        return (await limiter.admit()).sent_at

    assert in_virtual_time(scenario) == pytest.approx(11.0, abs=0.01)


def test_a_cancelled_probe_after_a_pause_is_replaced():
    async def scenario(clock: VirtualClock) -> float:
        limiter = RateLimiter(clock=clock, concurrency=16)
        refused = await limiter.admit()
        limiter.report("throttled", refused, retry_after_s=10)
        refused.release()
        (await limiter.admit()).release()  # without a report
        return (await limiter.admit()).sent_at

    assert in_virtual_time(scenario) == pytest.approx(10.0, abs=0.01)


def test_swings_are_noted_at_most_once_a_minute():
    async def scenario(clock: VirtualClock) -> list[float]:
        noted: list[float] = []
        limiter = RateLimiter(clock=clock, concurrency=8, on_swing=lambda text: noted.append(clock.monotonic()))
        while clock.monotonic() < 400:
            for signal in ("replied", "replied", "throttled"):
                permit = await limiter.admit()
                await clock.sleep(0.05)
                limiter.report(signal, permit)
                permit.release()
        return noted

    noted = in_virtual_time(scenario)
    assert len(noted) >= 3
    assert min(later - earlier for earlier, later in pairwise(noted)) >= 60.0


# -- limits that the gateway states


@settings(max_examples=12, deadline=None)
@given(limit=st.integers(20, 200), first=st.integers(1, 16), latency_s=st.floats(0.01, 3.0))
def test_no_window_at_the_server_holds_more_than_a_stated_limit(limit: int, first: int, latency_s: float):
    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=first)
        sent: list[float] = []

        async def caller() -> None:
            while clock.monotonic() < 100.0:
                permit = await limiter.admit()
                sent.append(permit.sent_at)
                await clock.sleep(latency_s)
                limiter.use_stated((limit, 60.0), None)
                limiter.report("replied", permit)
                permit.release()

        async with asyncio.TaskGroup() as group:
            for _ in range(2 * first):
                group.create_task(caller())
        return sent

    assert max_in_window(in_virtual_time(scenario), 60.0) <= limit


def test_a_configured_rate_comes_before_a_stated_one():
    async def scenario(clock: VirtualClock) -> float:
        limiter = RateLimiter(clock=clock, concurrency=100, rates=[(1200, 60.0)], tpm=100)
        limiter.use_stated((1, 60.0), (1, 60.0))
        assert limiter.tpm == 100
        permits = [await limiter.admit(1) for _ in range(20)]
        return permits[-1].sent_at

    assert in_virtual_time(scenario) < 2.0


def test_stated_tokens_are_kept_and_the_larger_of_two_upstreams_counts():
    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=100)
        limiter.use_stated(None, (1000, 60.0))
        limiter.use_stated(None, (600, 60.0), may_lower=False)
        return [round((await limiter.admit(400)).sent_at) for _ in range(4)]

    assert in_virtual_time(scenario) == [0, 0, 61, 61]


def test_a_turn_that_waits_is_estimated_again_when_a_reply_arrives():
    async def scenario(clock: VirtualClock) -> float:
        limiter = RateLimiter(clock=clock, concurrency=10, tpm=100)
        estimate = 90
        first = await limiter.admit(lambda: estimate)
        waiting = asyncio.create_task(limiter.admit(lambda: estimate))
        await clock.sleep(1)
        estimate = 20
        first.settle(20)
        return (await waiting).sent_at

    assert in_virtual_time(scenario) == pytest.approx(1.0, abs=0.01)
