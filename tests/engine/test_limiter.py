from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.engine.limiter import LimiterClosed, LimiterStalled, Permit, RateLimiter
from convbatch.engine.quota import day_bounds, derated_rate
from convbatch.engine.throttling import Signal
from convbatch.simulator.limits import Gatekeeper, LimitModel
from convbatch.simulator.limits import ServerLimits as ServerLimits
from tests.conftest import examples
from tests.support.tables import each
from tests.support.virtual_time import VirtualClock, run

QUICK = settings(max_examples=examples(60), deadline=None)


async def take(limiter: RateLimiter, tokens: int = 0) -> Permit:
    """Get a permit and release it at once."""
    permit = await limiter.admit(tokens)
    permit.release()
    return permit


async def saturate(limiter: RateLimiter, until: float, *, tokens: Callable[[], int] = lambda: 0) -> list[Permit]:
    """Take permits one after the other until this time and return them."""
    permits: list[Permit] = []
    while True:
        permit = await take(limiter, tokens())
        if permit.sent_at > until:
            return permits
        permits.append(permit)


def max_in_window(arrivals: Sequence[float], window_s: float) -> int:
    """Return the largest number of arrivals in any half-open window of this length."""
    ordered = sorted(arrivals)
    best = first = 0
    for last, at in enumerate(ordered):
        while at - ordered[first] >= window_s:
            first += 1
        best = max(best, last - first + 1)
    return best


def in_virtual_time(test: Callable[[VirtualClock], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await test(VirtualClock())

    return run(main())


# -- requests


@QUICK
@given(
    count=st.integers(1, 1300),
    window_s=st.sampled_from([1.0, 7.5, 10.0, 60.0]),
    jitter_s=st.sampled_from([0.05, 0.3, 1.0, 3.0]),
    seed=st.integers(0, 2**32),
)
def test_no_window_at_the_server_holds_more_than_the_limit(count: int, window_s: float, jitter_s: float, seed: int):
    rng = random.Random(seed)

    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=10_000, rates=[(count, window_s)], jitter_s=jitter_s)
        arrivals: list[float] = []
        idle_s = rng.choice([0.0, 0.0, window_s / 50, 2 * window_s])
        for _ in range(min(3 * count, 1400) + 20):
            permit = await take(limiter)
            arrivals.append(permit.sent_at + rng.random() * jitter_s * 0.999_999)
            if rng.random() < 0.05:
                await asyncio.sleep(rng.random() * idle_s)
        return arrivals

    assert max_in_window(in_virtual_time(scenario), window_s) <= count


@QUICK
@given(
    limits=st.lists(st.tuples(st.integers(1, 400), st.sampled_from([1.0, 5.0, 10.0, 60.0])), min_size=2, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_several_limits_hold_at_the_same_time(limits: list[tuple[int, float]], seed: int):
    rng = random.Random(seed)

    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=10_000, rates=limits, jitter_s=0.5)
        return [(await take(limiter)).sent_at + rng.random() * 0.4999 for _ in range(500)]

    arrivals = in_virtual_time(scenario)
    assert all(max_in_window(arrivals, window_s) <= count for count, window_s in limits)


@each("count", [20, 40, 60, 100, 300, 599, 600, 1199, 1200, 3000])
def test_every_minute_uses_95_percent_of_the_limit_at_saturation(count: int):
    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=10_000, rates=[(count, 60.0)])
        return [permit.sent_at for permit in await saturate(limiter, until=130.0)]

    sent = in_virtual_time(scenario)
    used = [sum(begin <= at < begin + 60.0 for at in sent) for begin in (0.0, 13.7, 41.3, 60.0, 69.9)]
    assert min(used) >= 0.95 * count


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10, 19])
def test_small_limits_are_used_to_95_percent_over_200_minutes(count: int):
    async def scenario(clock: VirtualClock) -> int:
        limiter = RateLimiter(clock=clock, concurrency=10, rates=[(count, 60.0)])
        return len(await saturate(limiter, until=200 * 60.0))

    assert in_virtual_time(scenario) >= 0.95 * 200 * count


@pytest.mark.parametrize("count", [60, 600])
@pytest.mark.parametrize(
    ("model", "jitter_s"),
    # A server that counts in sub-windows of ten seconds needs its own `rate`, unless delays hardly vary.
    [("fixed", 1.0), ("sliding", 1.0), ("bucket", 1.0), ("quantised", 0.1)],
)
def test_no_server_model_refuses_a_request(model: LimitModel, jitter_s: float, count: int):
    rng = random.Random(count)

    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=10_000, rates=[(count, 60.0)])
        permits = await saturate(limiter, until=300.0)
        return sorted(permit.sent_at + rng.random() * jitter_s for permit in permits)

    server = Gatekeeper(ServerLimits(rpm=count, model=model))
    arrivals = in_virtual_time(scenario)
    assert [at for at in arrivals if server.admit("key", "model", 0, at) is not None] == []
    assert len(arrivals) >= 0.95 * 5 * count


@pytest.mark.parametrize(
    ("rates", "jitter_s", "burst", "per_second"),
    [
        ([(1, 60.0)], 1.0, 1, 1 / 61),
        ([(60, 60.0)], 1.0, 1, 60 / 61),
        ([(1200, 60.0)], 1.0, 2, 1199 / 61),
        ([(60_000, 60.0)], 1.0, 100, 59_901 / 61),
        ([(10, 10.0)], 0.25, 1, 10 / 10.25),
        ([(1200, 60.0), (30, 1.0)], 1.0, 1, 15.0),
    ],
)
def test_burst_and_rate_follow_from_the_limit_and_the_jitter(
    rates: list[tuple[int, float]], jitter_s: float, burst: int, per_second: float
):
    assert derated_rate(rates, jitter_s) == (burst, pytest.approx(per_second))


# -- the queue


@QUICK
@given(
    tokens=st.lists(st.integers(0, 120), min_size=2, max_size=40),
    rate=st.sampled_from([(), ((30, 60.0),)]),
    concurrency=st.integers(1, 5),
)
def test_callers_are_admitted_first_come_first_served(
    tokens: list[int], rate: tuple[tuple[int, float], ...], concurrency: int
):
    async def scenario(clock: VirtualClock) -> list[int]:
        limiter = RateLimiter(clock=clock, concurrency=concurrency, rates=rate, tpm=100)
        passed: list[int] = []

        async def caller(number: int, amount: int) -> None:
            permit = await limiter.admit(amount)
            passed.append(number)
            await asyncio.sleep(amount / 10)
            permit.release()

        async with asyncio.TaskGroup() as group:
            for number, amount in enumerate(tokens):
                group.create_task(caller(number, amount))
        return passed

    assert in_virtual_time(scenario) == list(range(len(tokens)))


@settings(max_examples=examples(60), deadline=None)
@given(seed=st.integers(0, 2**32), rate=st.booleans(), tpm=st.booleans())
def test_cancelled_waiters_hold_no_resources(seed: int, rate: bool, tpm: bool):
    rng = random.Random(seed)

    async def scenario(clock: VirtualClock) -> None:
        limiter = RateLimiter(
            clock=clock, concurrency=4, rates=[(120, 60.0)] if rate else [], tpm=500 if tpm else None, rpd=10_000
        )
        admitted = 0
        max_in_flight = 0

        async def caller() -> None:
            nonlocal admitted, max_in_flight
            permit = await limiter.admit(rng.randrange(100))
            admitted += 1
            max_in_flight = max(max_in_flight, limiter.in_flight)
            try:
                await asyncio.sleep(rng.random() * 3)
                limiter.report(rng.choice(["replied", "replied", "answered", "throttled"]), permit)
                permit.settle(rng.randrange(100))
            finally:
                permit.release()

        tasks: list[asyncio.Task[None]] = []
        for _ in range(60):
            tasks.append(asyncio.create_task(caller()))
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random())
            if rng.random() < 0.5:
                rng.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (limiter.in_flight, limiter.waiting, limiter.used_today) == (0, 0, admitted)
        assert max_in_flight <= 4
        # The rate limiter still works when its pause and its windows have passed.
        await clock.sleep(200)
        assert (await asyncio.wait_for(take(limiter, 500), timeout=1)).waited_s == 0

    in_virtual_time(scenario)


def test_small_turns_do_not_starve_a_large_one():
    async def scenario(clock: VirtualClock) -> tuple[float, float]:
        limiter = RateLimiter(clock=clock, concurrency=10_000, rates=[(6000, 60.0)], tpm=100)
        for _ in range(10):
            await take(limiter, 10)
            await clock.sleep(1)
        large = asyncio.create_task(take(limiter, 90))
        await asyncio.sleep(0)
        small = [asyncio.create_task(take(limiter, 1)) for _ in range(50)]
        done = await asyncio.gather(large, *small)
        return done[0].sent_at, min(permit.sent_at for permit in done[1:])

    large_at, small_at = in_virtual_time(scenario)
    assert large_at == pytest.approx(61.0 + 8, abs=0.1)  # nine of the ten no longer count
    assert small_at >= large_at


def test_admission_does_not_suspend_when_no_limit_applies():
    async def scenario(clock: VirtualClock) -> None:
        limiter = RateLimiter(clock=clock, concurrency=8, rates=[(600_000, 60.0)], tpm=10**6, rpd=10**6)
        admission = limiter.admit(10)
        with pytest.raises(StopIteration) as passed:  # it never suspended
            admission.send(None)
        assert isinstance(passed.value.value, Permit)

    in_virtual_time(scenario)


def test_each_released_permit_admits_one_waiter():
    async def scenario(clock: VirtualClock) -> list[int]:
        limiter = RateLimiter(clock=clock, concurrency=16)
        held = [await limiter.admit() for _ in range(8)]
        waiting = [asyncio.create_task(limiter.admit()) for _ in range(24)]
        await asyncio.sleep(0)
        passed: list[int] = []
        for _ in range(3):
            for permit in held:
                permit.release()
            await asyncio.sleep(0)  # one iteration of the event loop admits all eight
            done = [task for task in waiting if task.done()]
            held = [task.result() for task in done]
            waiting = [task for task in waiting if not task.done()]
            passed.append(len(done))
        return passed

    assert in_virtual_time(scenario) == [8, 8, 8]


def test_cancelling_the_first_waiter_admits_the_next():
    async def scenario(clock: VirtualClock) -> float:
        limiter = RateLimiter(clock=clock, concurrency=10, tpm=100)
        await take(limiter, 60)
        large = asyncio.create_task(limiter.admit(90))
        small = asyncio.create_task(limiter.admit(10))
        await clock.sleep(1)
        large.cancel()
        return (await small).sent_at

    assert in_virtual_time(scenario) == pytest.approx(1.0)


def test_waiters_are_admitted_while_permits_are_held():
    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=10, rates=[(60, 60.0)])
        permits = await asyncio.gather(*(limiter.admit() for _ in range(4)))
        return [permit.sent_at for permit in permits]

    assert in_virtual_time(scenario) == pytest.approx([0, 61 / 60, 122 / 60, 183 / 60], abs=1e-3)


def test_a_second_release_of_a_permit_has_no_effect():
    async def scenario(clock: VirtualClock) -> int:
        limiter = RateLimiter(clock=clock, concurrency=2, rates=[(600, 60.0)])
        first = await limiter.admit()
        await limiter.admit()
        first.release()
        first.release()
        return limiter.in_flight

    assert in_virtual_time(scenario) == 1


def test_a_permit_records_how_long_its_caller_waited():
    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=2, rates=[(60, 60.0)])
        return [(await take(limiter)).waited_s for _ in range(3)]

    assert in_virtual_time(scenario) == [0.0, pytest.approx(61 / 60, abs=1e-3), pytest.approx(61 / 60, abs=1e-3)]


# -- tokens


@QUICK
@given(
    turns=st.lists(st.tuples(st.integers(1, 400), st.floats(0, 1)), min_size=5, max_size=80),
    seed=st.integers(0, 2**32),
)
def test_no_minute_at_the_server_holds_more_tokens_than_the_limit(turns: list[tuple[int, float]], seed: int):
    rng = random.Random(seed)
    budget = 500

    async def scenario(clock: VirtualClock) -> list[tuple[float, int]]:
        limiter = RateLimiter(clock=clock, concurrency=1000, tpm=budget)
        arrivals: list[tuple[float, int]] = []

        async def caller(estimate: int, share: float) -> None:
            permit = await limiter.admit(estimate)
            actual = int(estimate * share)
            arrivals.append((permit.sent_at + rng.random() * 0.999, actual))
            await asyncio.sleep(rng.random() * 20)
            permit.settle(actual)
            permit.release()

        async with asyncio.TaskGroup() as group:
            for estimate, share in turns:
                group.create_task(caller(estimate, share))
        return arrivals

    arrivals = in_virtual_time(scenario)
    for begin, _ in arrivals:
        assert sum(tokens for at, tokens in arrivals if begin <= at < begin + 60.0) <= budget


def test_a_turn_larger_than_the_token_limit_is_sent_alone_in_its_window():
    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=100, rates=[(6000, 60.0)], tpm=100)
        tasks = [asyncio.create_task(take(limiter, tokens)) for tokens in (50, 5000, 10)]
        return [(await task).sent_at for task in tasks]

    first, alone, after = in_virtual_time(scenario)
    assert first == 0.0
    assert alone == pytest.approx(61.0, abs=0.01)
    assert after == pytest.approx(122.0, abs=0.01)


@pytest.mark.parametrize(
    ("afterwards", "next_at"),
    [
        pytest.param(lambda permit: permit.settle(40), 5.0, id="settled lower: at once"),
        pytest.param(lambda permit: permit.refund(), 5.0, id="refunded: at once"),
        pytest.param(lambda permit: permit.settle(None), 61.0, id="unknown: the estimate counts"),
        pytest.param(lambda permit: permit.settle(300), 61.0, id="settled higher"),
    ],
)
def test_used_tokens_replace_the_estimate(afterwards: Callable[[Permit], None], next_at: float):
    async def scenario(clock: VirtualClock) -> float:
        limiter = RateLimiter(clock=clock, concurrency=100, rates=[(6000, 60.0)], tpm=100)
        permit = await take(limiter, 90)
        waiting = asyncio.create_task(take(limiter, 50))
        await clock.sleep(5)
        afterwards(permit)
        return (await waiting).sent_at

    assert in_virtual_time(scenario) == pytest.approx(next_at, abs=0.01)


def test_tokens_count_for_a_minute_plus_the_jitter():
    async def scenario(clock: VirtualClock) -> float:
        limiter = RateLimiter(clock=clock, concurrency=100, rates=[(6000, 60.0)], tpm=100)
        await take(limiter, 90)
        await clock.sleep(60.5)
        return (await take(limiter, 50)).sent_at

    assert in_virtual_time(scenario) == pytest.approx(61.0, abs=0.01)


def test_settling_a_permit_after_its_window_has_no_effect():
    async def scenario(clock: VirtualClock) -> float:
        limiter = RateLimiter(clock=clock, concurrency=100, rates=[(6000, 60.0)], tpm=100)
        late = await limiter.admit(90)
        await clock.sleep(70)
        await take(limiter, 100)
        late.settle(1)
        return (await take(limiter, 50)).sent_at

    assert in_virtual_time(scenario) == pytest.approx(131.0, abs=0.01)


# -- the day


@pytest.mark.parametrize(
    ("resets", "now", "begins", "ends"),
    [
        ("00:00 UTC", "2026-11-21T23:59:59+00:00", "2026-11-21T00:00:00+00:00", "2026-11-22T00:00:00+00:00"),
        ("00:00 UTC", "2026-11-22T00:00:00+00:00", "2026-11-22T00:00:00+00:00", "2026-11-23T00:00:00+00:00"),
        # Clocks go back on 2026-11-01 and forward on 2026-03-08 in Los Angeles: days of 25 and 23 hours.
        (
            "00:00 America/Los_Angeles",
            "2026-11-01T12:00:00-08:00",
            "2026-11-01T00:00:00-07:00",
            "2026-11-02T00:00:00-08:00",
        ),
        (
            "00:00 America/Los_Angeles",
            "2026-03-08T12:00:00-07:00",
            "2026-03-08T00:00:00-08:00",
            "2026-03-09T00:00:00-07:00",
        ),
        # 02:30 does not exist on 2026-03-08; the reset is at 03:30, the same moment.
        (
            "02:30 America/Los_Angeles",
            "2026-03-08T01:00:00-08:00",
            "2026-03-07T02:30:00-08:00",
            "2026-03-08T03:30:00-07:00",
        ),
        ("08:00 Asia/Shanghai", "2026-11-21T07:59:00+08:00", "2026-11-20T08:00:00+08:00", "2026-11-21T08:00:00+08:00"),
    ],
)
def test_the_quota_day_follows_the_zone(resets: str, now: str, begins: str, ends: str):
    found = day_bounds(resets, datetime.fromisoformat(now).timestamp())
    assert found == (datetime.fromisoformat(begins).timestamp(), datetime.fromisoformat(ends).timestamp())


@given(
    wall=st.floats(1.5e9, 2.2e9),
    resets=st.sampled_from(["00:00 America/Los_Angeles", "02:30 Europe/Berlin", "23:59 Asia/Shanghai", "01:00 UTC"]),
)
def test_quota_days_are_contiguous(wall: float, resets: str):
    begins, ends = day_bounds(resets, wall)
    assert begins <= wall < ends
    assert 23 * 3600 <= ends - begins <= 25 * 3600
    assert day_bounds(resets, ends)[0] == ends


@pytest.mark.parametrize("resets", ["midnight", "25:00 UTC", "00:00", "00:00 Mars/Olympus", "00:00 America", ""])
def test_an_invalid_quota_reset_is_refused(resets: str):
    with pytest.raises(ValueError, match="is not a time and a zone"):
        day_bounds(resets, 1.8e9)


EVENING = datetime(2026, 11, 21, 22, 0, tzinfo=UTC).timestamp()


def test_a_used_up_day_quota_waits_for_the_reset_and_names_it():
    async def main() -> tuple[str | None, float, int | None, float]:
        clock = VirtualClock(epoch=EVENING)
        limiter = RateLimiter(
            clock=clock, concurrency=8, rates=[(600, 60.0)], rpd=5, rpd_resets="00:00 UTC", used_today=3
        )
        for _ in range(2):
            await take(limiter)
        waiting = asyncio.create_task(take(limiter))
        await clock.sleep(1)
        why = limiter.why_waiting()
        permit = await waiting
        return why, permit.sent_at, limiter.used_today, limiter.held_s()

    why, sent_at, used, held_s = run(main())
    assert why == "day quota until 00:00 UTC"
    assert sent_at == pytest.approx(7201.0, abs=0.01)  # plus the jitter: the server's clock may be behind
    assert used == 1
    assert held_s == pytest.approx(7201.0, abs=0.2)


@pytest.mark.parametrize(
    ("jump_s", "sent_at"),
    [pytest.param(3600, 3601.0, id="forward"), pytest.param(-3600, 10_801.0, id="back")],
)
def test_the_end_of_the_quota_day_follows_jumps_of_the_wall_clock(jump_s: float, sent_at: float):
    async def main() -> float:
        clock = VirtualClock(epoch=EVENING)
        limiter = RateLimiter(clock=clock, concurrency=8, rates=[(600, 60.0)], rpd=1)
        await take(limiter)
        waiting = asyncio.create_task(take(limiter))
        await clock.sleep(10)
        clock.jump(jump_s)
        return (await waiting).sent_at

    assert run(main()) == pytest.approx(sent_at, abs=0.01)


def test_a_clock_set_back_by_a_year_does_not_block_requests_for_a_year():
    async def main() -> float:
        clock = VirtualClock(epoch=EVENING)
        limiter = RateLimiter(clock=clock, concurrency=8, rates=[(600, 60.0)], rpd=2)
        clock.jump(365 * 86_400)  # e.g. a dead battery
        await take(limiter)
        clock.jump(-365 * 86_400)
        await take(limiter)
        return (await take(limiter)).sent_at

    assert run(main()) == pytest.approx(7201.0, abs=2)


def test_requests_in_flight_at_the_reset_count_for_the_new_day():
    async def main() -> int | None:
        clock = VirtualClock(epoch=EVENING)
        limiter = RateLimiter(clock=clock, concurrency=8, rates=[(600, 60.0)], rpd=100)
        for _ in range(3):
            await limiter.admit()
        await clock.sleep(7200)
        await take(limiter)
        return limiter.used_today

    assert run(main()) == 4


def test_an_unsent_request_does_not_count_against_the_day_quota():
    async def scenario(clock: VirtualClock) -> int | None:
        limiter = RateLimiter(clock=clock, concurrency=8, rpd=100)
        permit = await limiter.admit()
        permit.refund(never_left=True)
        permit.release()
        return limiter.used_today

    assert in_virtual_time(scenario) == 0


# -- in flight


def test_slow_start_doubles_each_clean_round_up_to_the_cap():
    async def scenario(clock: VirtualClock) -> tuple[list[str], list[int]]:
        changes: list[str] = []
        limiter = RateLimiter(clock=clock, concurrency=16, on_swing=changes.append)
        seen: list[int] = []

        async def caller() -> None:
            for _ in range(10):
                permit = await limiter.admit()
                seen.append(limiter.in_flight)
                await clock.sleep(1)
                limiter.report("replied", permit)
                permit.release()

        async with asyncio.TaskGroup() as group:
            for _ in range(32):
                group.create_task(caller())
        return changes, seen

    changes, seen = in_virtual_time(scenario)
    assert changes == ["in flight 8 → 16"]
    assert (max(seen[:8]), max(seen)) == (8, 16)


def test_a_configured_rate_disables_slow_start():
    async def scenario(clock: VirtualClock) -> int:
        return RateLimiter(clock=clock, concurrency=16, rates=[(600, 60.0)]).places

    assert in_virtual_time(scenario) == 16


def test_slow_start_costs_little_at_400_in_flight():
    async def scenario(clock: VirtualClock) -> float:
        limiter = RateLimiter(clock=clock, concurrency=400)

        async def caller() -> None:
            for _ in range(5):
                permit = await limiter.admit()
                await clock.sleep(0.2)
                limiter.report("replied", permit)
                permit.release()

        async with asyncio.TaskGroup() as group:
            for _ in range(2000):
                group.create_task(caller())
        return clock.monotonic()

    ideal_s = 2000 * 5 * 0.2 / 400
    assert in_virtual_time(scenario) <= 1.05 * ideal_s


def test_a_burst_of_429_reduces_concurrency_once_and_each_clean_round_adds_one():
    async def scenario(clock: VirtualClock) -> tuple[list[int], list[str]]:
        swings: list[str] = []
        limiter = RateLimiter(clock=clock, concurrency=40, on_swing=swings.append)
        permits = [await limiter.admit() for _ in range(3)]
        for permit in permits:  # three refusals of one burst are one episode
            limiter.report("throttled", permit)
            permit.release()
        places = [limiter.places]
        for _ in range(16 + 17):
            permit = await limiter.admit()
            await clock.sleep(0.1)
            limiter.report("replied", permit)
            permit.release()
            places.append(limiter.places)
        return sorted(set(places)), swings

    # The growth is not noted: there is at most one note a minute.
    assert in_virtual_time(scenario) == ([16, 17, 18], ["429: in flight 20 → 16"])


def test_concurrency_never_falls_below_one():
    async def scenario(clock: VirtualClock) -> int:
        limiter = RateLimiter(clock=clock, concurrency=1)
        for _ in range(5):
            permit = await limiter.admit()
            limiter.report("throttled", permit, retry_after_s=1)
            permit.release()
        return limiter.places

    assert in_virtual_time(scenario) == 1


# -- pauses


async def _sent_after(
    limiter: RateLimiter, clock: VirtualClock, signals: Sequence[tuple[Signal, float | None]]
) -> list[float]:
    """Send one request per signal, one after the other; return how long each waited, in seconds."""
    waits: list[float] = []
    for signal, hint in signals:
        permit = await limiter.admit()
        waits.append(round(permit.waited_s, 3))
        await clock.sleep(0.01)
        limiter.report(signal, permit, retry_after_s=hint)
        permit.release()
    return waits


@each(
    ("signals", "waits"),
    [
        pytest.param([("throttled", None)] * 9, [0, 1, 2, 4, 8, 16, 32, 60, 60], id="doubles to a minute"),
        pytest.param(
            [("throttled", None), ("throttled", None), ("replied", None), ("throttled", None), ("replied", None)],
            [0, 1, 2, 0, 1],
            id="a success resets the doubling",
        ),
        pytest.param([("throttled", 34.0), ("replied", None)], [0, 34], id="a hint is followed exactly"),
        pytest.param([("throttled", 0.2), ("replied", None)], [0, 0.2], id="a short hint too"),
        pytest.param(
            [("throttled", 0.2)] * 5, [0, 0.2, 1, 2, 4], id="a hint that does not help is replaced by doubling"
        ),
        pytest.param([("throttled", 100.0)] * 4, [0, 100, 100, 100], id="doubling never shortens a hint"),
        pytest.param([("throttled", 0.0)] * 3, [0, 1, 2], id="zero is not a hint"),
        pytest.param([("throttled", -5.0)] * 3, [0, 1, 2], id="a negative number is not a hint"),
        pytest.param([("throttled", math.nan)] * 3, [0, 1, 2], id="NaN is not a hint"),
        pytest.param([("server_error", 7.0), ("replied", None)], [0, 7], id="a hint of a 5xx pauses too"),
        pytest.param([("replied", 3.0), ("replied", None)], [0, 3], id="a hint of a reply pauses too"),
        pytest.param([("server_error", None), ("replied", None)], [0, 0], id="a 5xx without a hint does not pause"),
        pytest.param([("throttled", 86_400.0), ("replied", None)], [0, 86_400], id="a hint of one day is accepted"),
    ],
)
def test_the_pause_follows_the_hint_or_doubles(signals: list[tuple[Signal, float | None]], waits: list[float]):
    async def scenario(clock: VirtualClock) -> list[float]:
        return await _sent_after(RateLimiter(clock=clock, concurrency=1), clock, signals)

    assert in_virtual_time(scenario) == pytest.approx(waits, abs=0.002)


def test_a_burst_of_429_causes_a_single_pause():
    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=50, rates=[(100_000, 60.0)])
        burst = [await limiter.admit() for _ in range(50)]
        for permit in burst:
            await clock.sleep(0.01)
            limiter.report("throttled", permit)
            permit.release()
        return [(await take(limiter)).sent_at]

    # The first refusal came at 0.01 s and pauses 1 s; the other 49 add nothing.
    assert in_virtual_time(scenario) == [pytest.approx(1.01, abs=0.01)]


def test_a_longer_hint_extends_the_pause_and_a_shorter_one_does_not_reduce_it():
    async def scenario(clock: VirtualClock) -> float:
        limiter = RateLimiter(clock=clock, concurrency=50, rates=[(100_000, 60.0)])
        burst = [await limiter.admit() for _ in range(3)]
        waiting = asyncio.create_task(take(limiter))
        for permit, hint in zip(burst, (10.0, 30.0, 5.0), strict=True):
            limiter.report("throttled", permit, retry_after_s=hint)
            await clock.sleep(1)
        return (await waiting).sent_at

    assert in_virtual_time(scenario) == pytest.approx(31.0, abs=0.002)


def test_a_success_sent_before_the_pause_does_not_reset_the_doubling():
    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=8, rates=[(100_000, 60.0)])
        waits: list[float] = []
        for _ in range(3):
            slow, refused = await limiter.admit(), await limiter.admit()
            waits.append(round(slow.waited_s, 2))
            limiter.report("throttled", refused)
            limiter.report("replied", slow)  # was in flight when the limit was reached
            refused.release()
            slow.release()
        return waits

    assert in_virtual_time(scenario) == [0, 1, 2]


@settings(max_examples=examples(60), deadline=None)
@given(seed=st.integers(0, 2**32), rate=st.booleans())
def test_no_request_is_sent_during_a_pause(seed: int, rate: bool):
    rng = random.Random(seed)

    async def scenario(clock: VirtualClock) -> tuple[list[float], list[tuple[float, float]]]:
        limiter = RateLimiter(clock=clock, concurrency=6, rates=[(600, 60.0)] if rate else [])
        sent: list[float] = []
        pauses: list[tuple[float, float]] = []

        async def caller() -> None:
            for _ in range(12):
                permit = await limiter.admit()
                sent.append(clock.monotonic())
                await clock.sleep(rng.random() * 2)
                if rng.random() < 0.3:
                    hint = rng.random() * 20
                    pauses.append((clock.monotonic(), clock.monotonic() + hint))
                    limiter.report(rng.choice(["throttled", "server_error", "answered"]), permit, retry_after_s=hint)
                else:
                    limiter.report("replied", permit)
                permit.release()

        async with asyncio.TaskGroup() as group:
            for _ in range(12):
                group.create_task(caller())
        return sent, pauses

    sent, pauses = in_virtual_time(scenario)
    assert not [(at, pause) for at in sent for pause in pauses if pause[0] < at < pause[1]]


def test_the_rate_holds_across_a_pause():
    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=100, rates=[(1200, 60.0)])
        sent: list[float] = []
        for number in range(3000):
            permit = await limiter.admit()
            sent.append(permit.sent_at)
            if number % 40 == 39:
                limiter.report("throttled", permit, retry_after_s=0.9)
            permit.release()
        return sent

    sent = in_virtual_time(scenario)
    assert max_in_window(sent, 61.0) <= 1200


@pytest.mark.parametrize("hint", [86_401.0, 1e12, math.inf])
def test_a_requested_wait_of_more_than_a_day_rejects_all_callers(hint: float):
    async def scenario(clock: VirtualClock) -> str | None:
        limiter = RateLimiter(clock=clock, concurrency=1, rates=[(600, 60.0)])
        permit = await limiter.admit()
        waiting = asyncio.create_task(take(limiter))
        await clock.sleep(1)
        assert limiter.stalled is None
        limiter.report("throttled", permit, retry_after_s=hint)
        permit.release()
        with pytest.raises(LimiterStalled, match="asks to wait"):
            await waiting
        with pytest.raises(LimiterStalled, match="asks to wait"):
            await limiter.admit()
        assert clock.monotonic() == pytest.approx(1.0)
        return limiter.stalled

    assert "asks to wait" in in_virtual_time(scenario)


def test_announced_waiting_counts_overlaps_once_and_only_elapsed_time():
    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=5)
        one, two = [await take(limiter) for _ in range(2)]
        limiter.report("throttled", one, retry_after_s=10)
        await clock.sleep(5)
        seen = [limiter.held_s()]
        limiter.report("throttled", two, retry_after_s=10)
        await clock.sleep(60)
        seen.append(limiter.held_s())
        limiter.report("throttled", await take(limiter))  # our own pause was not announced
        await clock.sleep(60)
        return [*seen, limiter.held_s()]

    assert in_virtual_time(scenario) == pytest.approx([5.0, 15.0, 15.0])


# -- the breaker


def _probe_times(signals: list[Signal], probes: list[Signal]) -> tuple[list[float], list[bool], list[str]]:
    async def scenario(clock: VirtualClock) -> tuple[list[float], list[bool], list[str]]:
        changes: list[str] = []
        limiter = RateLimiter(clock=clock, concurrency=64, rates=[(60_000_000, 60.0)], on_change=changes.append)
        for permit, signal in zip([await limiter.admit() for _ in signals], signals, strict=True):
            limiter.report(signal, permit)
            permit.release()
        times: list[float] = []
        kinds: list[bool] = []

        async def caller(number: int) -> None:
            permit = await limiter.admit()
            times.append(round(permit.sent_at, 2))
            kinds.append(permit.is_probe)
            if number < len(probes):
                limiter.report(probes[number], permit)
            else:
                limiter.report("replied", permit)
            permit.release()

        async with asyncio.TaskGroup() as group:
            for number in range(len(probes) + 3):
                group.create_task(caller(number))
        return times, kinds, changes

    return in_virtual_time(scenario)


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param(["transport_failure"] * 5, id="five without an answer"),
        pytest.param(["server_error"] * 20, id="twenty 5xx"),
        pytest.param(["server_error", "transport_failure"] * 15 + ["server_error"] * 5, id="5xx between failures"),
        pytest.param(["doubtful"], id="one refusal of key or model"),
    ],
)
def test_a_broken_gateway_is_probed_at_growing_intervals(signals: list[Signal]):
    times, kinds, changes = _probe_times(signals, ["server_error"] * 5)
    # 30 s, then 60, 120, 240, 300 and 300 after each failed probe; the last probe succeeds and admits all others.
    assert times == pytest.approx([30, 90, 210, 450, 750, 1050, 1050, 1050], abs=0.02)
    assert kinds == [True] * 6 + [False] * 2
    assert changes[-1] == "the gateway answers again"


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param(["transport_failure"] * 4, id="four failures"),
        pytest.param(["transport_failure"] * 4 + ["replied"] + ["transport_failure"] * 4, id="a reply between"),
        pytest.param(["transport_failure"] * 4 + ["answered"] + ["transport_failure"] * 4, id="an answer between"),
        pytest.param(["server_error"] * 19, id="nineteen 5xx"),
        pytest.param(["server_error"] * 19 + ["replied", "server_error"], id="twenty 5xx with a reply between"),
        pytest.param(["unclear"] * 40, id="unclear results"),
        pytest.param(["server_error", "transport_failure"] * 9, id="failures with an answer between"),
        pytest.param(["transport_failure"] * 4 + ["throttled"] + ["transport_failure"] * 4, id="a 429 between"),
    ],
)
def test_fewer_failures_do_not_open_the_breaker(signals: list[Signal]):
    _, kinds, changes = _probe_times(signals, [])
    assert (kinds, changes) == ([False] * 3, [])


@pytest.mark.parametrize("good", ["replied", "answered"])
def test_a_late_success_of_an_earlier_request_closes_the_breaker(good: Signal):
    async def scenario(clock: VirtualClock) -> float:
        limiter = RateLimiter(clock=clock, concurrency=64, rates=[(60_000_000, 60.0)])
        permits = [await limiter.admit() for _ in range(6)]
        for permit in permits[:5]:
            limiter.report("transport_failure", permit)
        waiting = asyncio.create_task(take(limiter))
        await clock.sleep(3)
        limiter.report(good, permits[5])
        return (await waiting).sent_at

    assert in_virtual_time(scenario) == pytest.approx(3.0)


def test_a_cancelled_probe_is_replaced_by_the_next_caller():
    async def scenario(clock: VirtualClock) -> list[float]:
        limiter = RateLimiter(clock=clock, concurrency=64, rates=[(60_000_000, 60.0)])
        limiter.report("doubtful", await take(limiter))
        first = await limiter.admit()
        waiting = asyncio.create_task(take(limiter))
        await clock.sleep(5)
        first.release()
        return [first.sent_at, (await waiting).sent_at]

    assert in_virtual_time(scenario) == pytest.approx([30.0, 35.0])


def test_after_a_throttled_probe_the_next_one_waits_for_the_pause_only():
    times, kinds, _ = _probe_times(["doubtful"], ["throttled"])
    assert times == pytest.approx([30, 31, 31, 31], abs=0.02)
    assert kinds == [True, True, False, False]


# -- reasons for waiting, and closing


@pytest.mark.parametrize(
    ("limits", "before", "why"),
    [
        pytest.param({}, [("throttled", 34.0)], "429, 34 s", id="pause"),
        pytest.param({}, [("throttled", 3000.0)], "429, 50 min", id="long pause"),
        pytest.param({}, [("server_error", 8.0)], "asked to wait, 8 s", id="hint without a 429"),
        pytest.param({"rates": [(60, 60.0)]}, [("replied", None)], "request rate 60/min", id="rate"),
        pytest.param({"rates": [(600, 60.0), (2, 10.0)]}, [("replied", None)], "request rate 2/10 s", id="two rates"),
        pytest.param({"tpm": 100}, [("replied", None)], "tokens", id="tokens"),
        pytest.param(
            {"rpd": 1, "rpd_resets": "00:00 America/Los_Angeles"},
            [("replied", None)],
            "day quota until 00:00 America/Los_Angeles",
            id="day",
        ),
        pytest.param({}, [("doubtful", None)], "breaker: probe in 30 s", id="breaker"),
    ],
)
def test_the_rate_limiter_reports_why_it_waits(
    limits: dict[str, Any], before: list[tuple[Signal, float | None]], why: str
):
    async def scenario(clock: VirtualClock) -> tuple[str | None, str | None]:
        limiter = RateLimiter(clock=clock, concurrency=4, **limits)
        for signal, hint in before:
            permit = await limiter.admit(100)
            limiter.report(signal, permit, retry_after_s=hint)
            permit.release()
        idle = limiter.why_waiting()
        waiting = asyncio.create_task(limiter.admit(100))
        await asyncio.sleep(0)
        reason = limiter.why_waiting()
        waiting.cancel()
        return idle, reason

    assert in_virtual_time(scenario) == (None, why)


def test_full_concurrency_is_reported_only_when_it_was_reduced():
    async def scenario(clock: VirtualClock) -> list[str | None]:
        reasons: list[str | None] = []
        for limiter in (
            RateLimiter(clock=clock, concurrency=2, rates=[(6000, 60.0)]),
            RateLimiter(clock=clock, concurrency=4),
        ):
            for _ in range(2):
                await limiter.admit()
            waiting = asyncio.create_task(limiter.admit())
            await clock.sleep(1)
            reasons.append(limiter.why_waiting())
            waiting.cancel()
        return reasons

    assert in_virtual_time(scenario) == [None, "2 in flight for now"]


@pytest.mark.parametrize("limits", [{}, {"rates": [(1, 60.0)]}, {"tpm": 1}, {"rpd": 1}], ids=str)
def test_closing_rejects_all_waiters_at_once_and_permits_stay_valid(limits: dict[str, Any]):
    async def scenario(clock: VirtualClock) -> list[str]:
        limiter = RateLimiter(clock=clock, concurrency=1, **limits)
        permit = await limiter.admit(5)
        waiting = [asyncio.create_task(limiter.admit(5)) for _ in range(4)]
        await clock.sleep(1)
        limiter.close()
        ended = await asyncio.gather(*waiting, limiter.admit(), return_exceptions=True)
        assert clock.monotonic() == pytest.approx(1.0)
        limiter.report("replied", permit)
        permit.settle(3)
        permit.release()
        assert (limiter.in_flight, limiter.waiting) == (0, 0)
        return [type(error).__name__ for error in ended]

    assert in_virtual_time(scenario) == [LimiterClosed.__name__] * 5


def test_admission_times_are_reproducible():
    def admission_times() -> list[float]:
        rng = random.Random(7)

        async def inner(clock: VirtualClock) -> list[float]:
            limiter = RateLimiter(clock=clock, concurrency=5, rates=[(90, 60.0)], tpm=2000, rpd=1000)
            sent: list[float] = []

            async def caller() -> None:
                for _ in range(5):
                    permit = await limiter.admit(rng.randrange(100))
                    sent.append(permit.sent_at)
                    await clock.sleep(rng.random() * 4)
                    limiter.report(rng.choice(["replied", "throttled", "server_error"]), permit)
                    permit.release()

            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(caller())
            return sent

        return in_virtual_time(inner)

    first = admission_times()
    assert first == admission_times()
    assert all(earlier <= later for earlier, later in pairwise(first))
