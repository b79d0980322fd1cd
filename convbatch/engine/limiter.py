"""When the next request may be sent: one `RateLimiter` per quota owner, used by every attempt.

Callers are admitted first come, first served. They wait for the shared pause, the circuit breaker, the tokens, the day,
the places in flight and last the request rate, in this order. A waiting caller holds none of these: all are taken in
one step on admission, so a cancelled waiter has nothing to return and nothing changes between admission and sending.

The limiter does not know what a response means or whether it was paid: `report` takes a `Signal`, which `retry.py`
derives. It draws no random numbers and reads only the clock it is given.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from convbatch.engine.pace import WINDOW_S, LearnedPace
from convbatch.engine.quota import Booking, Day, TokenWindow, derated_rate, seconds_until_drained
from convbatch.engine.throttling import Breaker, Dimension, Pause, Signal, Window

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

MAX_HINT_S = 24 * 3600.0
_TOKEN_WINDOW_S = 60.0
_SWING_NOTE_S = 60.0
_MIN_TIMER_S = 0.001
"""uvloop's timers have a resolution of 1 ms; anything shorter would busy-wait."""
_DAY_CHECK_S = 60.0
"""Interval at which the wait for a reset is checked again, because the wall clock may jump."""
_RATE_SLACK_S = 1e-6
"""Added to the time of the next slot, so that rounding never makes it too early."""

_Obstacle = tuple[Literal["pause", "probe", "breaker", "tokens", "day", "concurrency", "rate", "pace"], float | None]
"""What a caller waits for, and the monotonic time of the next check; None if an event must happen first."""
_BUSY: _Obstacle = ("concurrency", None)
_PROBE_IN_FLIGHT: _Obstacle = ("breaker", None)
_SOON = frozenset({"concurrency", "rate", "pace"})
"""Obstacles that pass by themselves while others are answered."""


class Clock(Protocol):
    """The part of `system.Clock` that the limiter uses; `monotonic` must be the event loop's time."""

    def monotonic(self) -> float:
        """Return seconds that never decrease."""
        ...

    def wall(self) -> float:
        """Return Unix seconds; may jump."""
        ...


class LimiterClosed(Exception):
    """The limiter admits no more callers."""


class LimiterStalled(LimiterClosed):
    """The gateway asked for a wait of more than 24 hours: the target should be suspended."""


class Permit:
    """Permission to send one request now, and a place in flight until `release`."""

    __slots__ = ("_booking", "_held", "_limiter", "in_flight", "is_probe", "reserved", "sent_at", "waited_s")

    def __init__(
        self,
        limiter: RateLimiter,
        booking: Booking | None,
        *,
        reserved: int,
        sent_at: float,
        waited_s: float,
        is_probe: bool,
    ) -> None:
        self._limiter = limiter
        self.in_flight = limiter.in_flight + 1
        """Requests in flight, with this one."""
        self.reserved = reserved
        """Estimated tokens."""
        self._booking = booking
        self._held = True
        self.sent_at = sent_at
        """Monotonic seconds at the time of admission."""
        self.waited_s = waited_s
        """Seconds spent waiting for admission."""
        self.is_probe = is_probe
        """Admitted by an open breaker, to test the gateway."""

    def settle(self, tokens: int | None) -> None:
        """Replace the estimate by the tokens used; None (unknown) keeps the estimate."""
        if tokens is not None:
            self._limiter.settled(self, self._booking, tokens)

    def refund(self, *, never_left: bool = False) -> None:
        """Return the tokens of a refused request; with `never_left` also its place in the day's count."""
        self.settle(0)
        if never_left:
            self._limiter.uncount()

    def release(self) -> None:
        """Return the place in flight; a second call has no effect."""
        if self._held:
            self._held = False
            self._limiter.released(self)


Tokens = int | Callable[[], int]
"""What a turn counts against the token limit; a function is called again at each check, as estimates get better."""


class _Waiter:
    __slots__ = ("called", "event", "tokens")

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.event: asyncio.Future[None] | None = None
        self.called = False


class RateLimiter:
    """All limits of one quota owner, and the queue of callers that wait for them.

    Args:
        clock: Must tick with the running event loop.
        concurrency: Most requests in flight, at least 1.
        rates: Request limits as (count, window in seconds); all apply. Without any, slow start: the window begins at
            half of `concurrency` and doubles after a round without 429; see `Window`.
        tpm: Tokens per minute; the caller decides which tokens of a turn count.
        rpd: Requests per day.
        rpd_resets: Start of the quota day, see `quota.day_bounds`.
        used_today: Requests sent since then, before this limiter was created.
        jitter_s: One-way delays must vary by less than this, else a window at the server may overflow.
        on_change: Called with a short note when the breaker opens or closes.
        on_swing: Called with a short note when the window shrinks or grows and a rate is learned or falls; at most once
            a minute.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        concurrency: int,
        rates: Sequence[tuple[int, float]] = (),
        tpm: int | None = None,
        rpd: int | None = None,
        rpd_resets: str = "00:00 UTC",
        used_today: int = 0,
        jitter_s: float = 1.0,
        on_change: Callable[[str], None] | None = None,
        on_swing: Callable[[str], None] | None = None,
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._on_swing = on_swing
        self._swing_at = -math.inf
        self._pause = Pause()
        self._breaker = Breaker()
        self._was_throttled = False
        self._pace = LearnedPace()
        self._token_pace = LearnedPace()
        self._ledger = None if tpm is None else TokenWindow(tpm, _TOKEN_WINDOW_S + jitter_s)
        self._jitter_s = jitter_s
        self._day = None if rpd is None else Day(rpd, rpd_resets, used_today, wall=clock.wall(), grace_s=jitter_s)
        self._day_text = f"day quota until {rpd_resets}"
        self._window = Window(concurrency, adaptive=not rates)
        self._in_flight = 0
        self._rate: AsyncLimiter | None = None
        self._slot_s = self._next_slot = 0.0
        self._rate_text = ""
        self.tpm = tpm
        """Limit of tokens a minute, configured or stated by the gateway; None if there is none."""
        self._is_configured = (bool(rates), tpm is not None)
        self._stated: tuple[tuple[int, float] | None, tuple[int, float] | None] = (None, None)
        if rates:
            self._set_rate(rates, jitter_s)
        self._queue: deque[_Waiter] = deque()
        self._called = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._now = 0.0
        self._closed: LimiterClosed | None = None

    @property
    def in_flight(self) -> int:
        """Number of permits not yet released."""
        return self._in_flight

    @property
    def places(self) -> int:
        """Number of requests that may be in flight at present."""
        return self._window.size

    @property
    def counts_tokens(self) -> bool:
        """Whether tokens limit what is sent, so that `admit` needs an estimate."""
        return self._ledger is not None or (self._was_throttled and self._token_pace.is_known)

    def _amount(self, tokens: Tokens) -> int:
        if not self.counts_tokens:
            return 0
        return tokens if isinstance(tokens, int) else tokens()

    @property
    def waiting(self) -> int:
        """Number of callers in the queue."""
        return len(self._queue)

    @property
    def used_today(self) -> int | None:
        """Requests counted for the day; None without a daily limit."""
        return None if self._day is None else self._day.used

    @property
    def stalled(self) -> str | None:
        """Why no caller will be admitted for more than a day; None normally."""
        return str(self._closed) if isinstance(self._closed, LimiterStalled) else None

    def held_s(self) -> float:
        """Return the seconds so far of announced pauses and used-up days, in which nothing could be sent."""
        return self._pause.announced_s(self._clock.monotonic())

    def obstacle(self) -> tuple[str, float | None] | None:
        """Return the kind of what the first caller waits for, and for how many seconds, if known; None if no one waits.

        `why_waiting` says the same to people.
        """
        if not self._queue or (obstacle := self._obstacle(self._amount(self._queue[0].tokens))) is None:
            return None
        kind, until = obstacle
        if kind == "day" and self._day is not None:  # its next check may come before its end
            return kind, self._day.wait_s(self._clock.wall(), self._in_flight)
        return kind, None if until is None else max(0.0, until - self._now)

    def block_for(self, seconds: float, why: str) -> None:
        """Admit no callers for this long, because of requests or pauses of an earlier session."""
        self._pause.announced(seconds, why, self._clock.monotonic())

    async def admit(self, tokens: Tokens = 0) -> Permit:
        """Wait for admission; the caller must send the request at once, without another `await` in between.

        Args:
            tokens: Estimate of what the turn counts against the token limit. A turn larger than the whole limit is
                admitted alone, when nothing else is counted.

        Raises:
            LimiterStalled: The gateway asked for a wait of more than a day, before or during the wait.
            LimiterClosed: `close` was called, before or during the wait.
        """
        self._raise_if_closed()
        if not self._queue and self._obstacle(amount := self._amount(tokens)) is None:
            return await self._pass(amount, 0.0)
        return await self._wait_in_queue(tokens)

    def is_free(self, tokens: Tokens = 0) -> bool:
        """Return whether a caller with these tokens would be admitted without waiting."""
        return self._closed is None and not self._queue and self._obstacle(self._amount(tokens)) is None

    @property
    def is_held_up(self) -> bool:
        """Whether no caller is admitted for a time: a place in flight, or the next turn in a rate, is not enough."""
        if self._closed is not None:
            return True
        obstacle = self._obstacle(0)
        return obstacle is not None and obstacle[0] not in _SOON

    def report(
        self,
        signal: Signal,
        permit: Permit,
        *,
        retry_after_s: float | None = None,
        counted: Dimension = "requests",
    ) -> None:
        """Record the result of a request, before its `release`; a cancelled request is not reported.

        Args:
            signal: What happened.
            permit: The request's permit; its time tells whether the signal is newer than the current pause.
            retry_after_s: The wait that the gateway asked for, if any. It pauses all callers whatever the signal, and
                is never shortened; a longer one extends the pause.
            counted: What the gateway counts, for a 429.
        """
        now = self._clock.monotonic()
        hint_s = _usable(retry_after_s)
        if hint_s > MAX_HINT_S:
            self._reject_waiters(LimiterStalled(f"the gateway asks to wait {_span(hint_s)}"))
        elif signal == "throttled":
            self._throttled(permit, hint_s, counted, now)
        else:
            self._pause.announced(hint_s, "asked to wait", now)
        if self._pause.probe is not None:
            self._pause.end_probe(permit, is_answered=True)
        if signal == "replied":
            self._passed(permit, now)
        self._notify(self._breaker.record(signal, permit, now))
        self._call_next()

    def _passed(self, permit: Permit, now: float) -> None:
        if self._was_throttled:
            self._not_refused(permit, now)
        self._window.passed(permit.in_flight)
        if self._pause.replied(permit.sent_at) and self._window.is_narrow:
            self._swing(self._window.replied(), now)

    def _not_refused(self, permit: Permit, now: float) -> None:
        self._pace.passed(permit.sent_at, now)
        self._token_pace.passed(permit.sent_at, now)

    def _throttled(self, permit: Permit, hint_s: float, counted: Dimension, now: float) -> None:
        self._was_throttled = True
        self._pace.traffic.remove(1.0, permit.sent_at)
        first_s = max(1.0, self._pace.slot_s(now))  # before the next slot nothing is sent anyway
        pace = {"requests": self._pace, "tokens": self._token_pace}.get(counted)
        if not self._pause.throttled(permit.sent_at, hint_s, now, first_s=first_s):
            if pace is not None:
                pace.refused_too()
            return
        notes = [self._window.throttled(permit.in_flight, counted)]
        learned = None if pace is None else pace.refused(permit.sent_at, now)
        if learned is not None:
            notes.append(f"429: at most {60 * learned:,.3g} {counted}/min for now")
        self._swing("; ".join(filter(None, notes)) or None, now)

    def use_stated(
        self, requests: tuple[int, float] | None, tokens: tuple[int, float] | None, *, may_lower: bool = True
    ) -> None:
        """Keep limits that the gateway states, as (count, window in seconds); configured ones come first.

        Args:
            requests: Limit of requests; those that were sent before count, too. One that they exceed is ignored.
            tokens: Limit of tokens; only one of a minute is used.
            may_lower: Whether they replace larger ones. A gateway with several upstreams passes on the limits of each.
        """
        known_requests, known_tokens = self._stated
        has_rates, has_tpm = self._is_configured
        if requests is not None and (has_rates or self._exceeds(requests)):
            requests = None
        if requests is not None and _replaces(requests, known_requests, may_lower=may_lower):
            self._stated = (requests, known_tokens)
            self._use_stated_rate(requests)
        if tokens is None or has_tpm or tokens[1] != _TOKEN_WINDOW_S or tokens[0] < self._token_pace.traffic.largest:
            return  # a limit smaller than a turn that was answered is not one of tokens a minute
        if _replaces(tokens, known_tokens, may_lower=may_lower):
            self._stated = (self._stated[0], tokens)
            self.tpm = tokens[0]
            if self._ledger is None:
                self._ledger = TokenWindow(self.tpm, _TOKEN_WINDOW_S + self._jitter_s)
            self._ledger.budget = self.tpm

    def _exceeds(self, limit: tuple[int, float]) -> bool:
        """Return whether more requests were answered than a gateway with this limit lets through.

        Two windows of a fixed clock, or a full bucket and its refill, let twice the limit pass in the time of one.
        """
        count, window_s = limit
        answered = self._pace.traffic.last_minute(self._clock.monotonic()) - self.in_flight
        return answered > count * (1 + max(1.0, WINDOW_S / window_s))

    def _use_stated_rate(self, limit: tuple[int, float]) -> None:
        now = self._clock.monotonic()
        jitter_s = min(self._jitter_s, limit[1] / 10)
        self._set_rate([limit], jitter_s)
        sent = self._pace.traffic.times(now)
        drained_s = seconds_until_drained(sent, now, [limit], jitter_s)
        self._pause.wait_until(now + drained_s, "earlier requests still count")
        self._rate_text += ", as the gateway states"
        self._swing(f"the gateway allows {_rate_text(limit)}", now)

    def _set_rate(self, rates: Sequence[tuple[int, float]], jitter_s: float) -> None:
        from aiolimiter import AsyncLimiter  # it reads the metadata of its package: only for a configured rate

        burst, per_second = derated_rate(rates, jitter_s)
        self._rate = AsyncLimiter(burst, burst / per_second)
        self._slot_s = 1 / per_second + _RATE_SLACK_S
        self._rate_text = _rate_text(min(rates, key=lambda rate: rate[0] / rate[1]))

    def why_waiting(self) -> str | None:
        """Return why the first caller waits, as a short text; None if no one waits, or only for a full window."""
        if not self._queue or (obstacle := self._obstacle(self._amount(self._queue[0].tokens))) is None:
            return None
        match obstacle:
            case ("pause", _):
                return f"{self._pause.why}, {_span(self._pause.until - self._now)}"
            case ("probe" | "pace" as what, _):
                return f"{self._pause.why}, one request first" if what == "probe" else self._pace_text()
            case ("breaker", None):
                return "breaker: probe in flight"
            case ("breaker", probe_at):
                return f"breaker: probe in {_span(probe_at - self._now)}"
            case ("tokens", _):
                return "tokens"
            case ("day", _):
                return self._day_text
            case ("concurrency", _):
                return f"{self._window.size} in flight for now" if self._window.is_narrow else None
            case ("rate", _):
                return f"request rate {self._rate_text}"

    def _pace_text(self) -> str:
        per_second = self._pace.per_second(self._now)
        return "learned rate" if per_second is None else f"learned rate {60 * per_second:,.3g}/min"

    def close(self) -> None:
        """Reject all waiting and future callers. Existing permits stay valid."""
        if self._closed is None:
            self._reject_waiters(LimiterClosed("the rate limiter is closed"))

    def _raise_if_closed(self) -> None:
        if self._closed is not None:
            raise type(self._closed)(*self._closed.args)  # new: a shared one would collect all tracebacks

    def _reject_waiters(self, reason: LimiterClosed) -> None:
        self._closed = reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for waiter in self._queue:
            if waiter.event is not None and not waiter.event.done():
                waiter.event.set_result(None)

    # Called by permits.

    def settled(self, permit: Permit, booking: Booking | None, tokens: int) -> None:
        """Implement `Permit.settle`."""
        self._token_pace.settle(permit.reserved, tokens, self._clock.monotonic())
        if self._ledger is not None and booking is not None:
            self._ledger.amend(booking, tokens)
            self._call_next()

    def uncount(self) -> None:
        """Implement `Permit.refund`."""
        if self._day is not None and self._day.used > 0:
            self._day.used -= 1
            self._call_next()

    def released(self, permit: Permit) -> None:
        """Implement `Permit.release`."""
        self._in_flight -= 1
        if permit is self._breaker.probe:  # a probe without a signal: the next caller may be a probe at once
            self._breaker.probe = None
        if self._pause.probe is not None:
            self._pause.end_probe(permit, is_answered=False)
        self._call_next()

    # The queue: each waiter has an event; a waiter that is woken checks by itself whether it may pass.

    async def _wait_in_queue(self, tokens: Tokens) -> Permit:
        entered = self._clock.monotonic()
        waiter = _Waiter(tokens)
        self._queue.append(waiter)
        try:
            while True:
                await self._wake(waiter)
                self._raise_if_closed()
                if self._queue[0] is waiter and self._obstacle(amount := self._amount(tokens)) is None:
                    return await self._pass(amount, self._now - entered)
        finally:
            self._uncall(waiter)
            self._queue.remove(waiter)
            self._call_next()

    async def _wake(self, waiter: _Waiter) -> None:
        waiter.event = asyncio.get_running_loop().create_future()
        self._uncall(waiter)
        if self._queue[0] is waiter:
            self._call_next()
        await waiter.event

    def _uncall(self, waiter: _Waiter) -> None:
        if waiter.called:
            waiter.called = False
            self._called -= 1

    def _call_next(self) -> None:
        """Wake the next waiter that may pass, or set the timer for the next check.

        Waiters that were woken but did not run yet are at the head of the queue. Many permits are released together
        when a group of records is synced, so each release wakes one more waiter: waking only one at a time would cost a
        round of the event loop for every admission.
        """
        if not self._queue or self._closed is not None or self._in_flight >= self._window.size:
            return  # without a free place there is nothing to look for: its release calls again
        head = self._queue[0]
        index = self._called if head.called else 0
        if index >= len(self._queue) or (index and self._admits_singly):
            return
        obstacle = self._obstacle(self._amount(head.tokens))
        if obstacle is not None:
            if obstacle[1] is not None:
                self._look_again_at(obstacle[1])
            return
        waiter = self._queue[index]
        if index < self._window.size - self._in_flight and waiter.event is not None and not waiter.event.done():
            waiter.called = True
            self._called += 1
            waiter.event.set_result(None)

    @property
    def _admits_singly(self) -> bool:
        """Whether each admission changes what the next caller waits for."""
        return (
            self._ledger is not None
            or self._rate is not None
            or self._pause.needs_probe
            or (self._was_throttled and (self._pace.is_known or self._token_pace.is_known))
        )

    def _look_again_at(self, when: float) -> None:
        if self._timer is not None:
            if self._timer_at == when:
                return
            self._timer.cancel()
        delay_s = max(when - self._now, _MIN_TIMER_S)
        self._timer_at = when
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._call_next()

    def _obstacle(self, tokens: int) -> _Obstacle | None:
        """Return the first obstacle, in the order of the module's docstring; sets `_now`."""
        now = self._now = self._clock.monotonic()
        if now < self._pause.until:
            return ("pause", self._pause.until)
        if self._pause.probe is not None:
            if now < self._pause.probe_until:
                return ("probe", self._pause.probe_until)
            self._not_refused(self._pause.probe, now)  # a refusal would have come by now, though a reply may take long
            self._pause.probe = None
        if self._breaker.probe_at is not None:
            if self._breaker.probe is not None:
                return _PROBE_IN_FLIGHT
            if now < self._breaker.probe_at:
                return ("breaker", self._breaker.probe_at)
        return self._quota_obstacle(tokens, now)

    def _quota_obstacle(self, tokens: int, now: float) -> _Obstacle | None:
        if self._ledger is not None and (until := self._ledger.full_until(tokens, now)) is not None:
            return ("tokens", until)
        if self._day is not None and (left_s := self._day.wait_s(self._clock.wall(), self._in_flight)) is not None:
            until = now + min(left_s, _DAY_CHECK_S)
            self._pause.known_until(until, now)
            return ("day", until)
        if self._in_flight >= self._window.size:
            return _BUSY
        if self._rate is not None and not self._rate.has_capacity():
            return ("rate", self._next_slot)
        if self._was_throttled and (until := self._pace.ready_at(now) or self._token_pace.ready_at(now)) is not None:
            return ("pace", until)
        return None

    async def _pass(self, tokens: int, waited_s: float) -> Permit:
        """Take everything in one step; call it only right after `_obstacle` returned None."""
        if self._rate is not None:
            await self._rate.acquire()  # it has capacity, so this returns without suspending
        now = self._now
        is_probe = self._breaker.probe_at is not None
        booking = None if self._ledger is None else self._ledger.book(tokens, now)
        permit = Permit(self, booking, reserved=tokens, sent_at=now, waited_s=waited_s, is_probe=is_probe)
        self._pace.sent(1.0, now)
        if self._was_throttled:
            self._token_pace.reserve(tokens, now)
        if self._pause.needs_probe:
            self._pause.send_probe(permit, now)
        if is_probe:
            self._breaker.probe = permit
        if self._day is not None:
            self._day.used += 1
        self._in_flight += 1
        self._next_slot = now + self._slot_s
        return permit

    def _swing(self, text: str | None, now: float) -> None:
        if text is not None and self._on_swing is not None and now - self._swing_at >= _SWING_NOTE_S:
            self._swing_at = now
            self._on_swing(text)

    def _notify(self, text: str | None) -> None:
        if text is not None and self._on_change is not None:
            self._on_change(text)


def _usable(retry_after_s: float | None) -> float:
    """Return the hint in seconds; zero if it is missing, negative or not a number."""
    return retry_after_s if retry_after_s is not None and retry_after_s > 0 else 0.0


def _replaces(limit: tuple[int, float], known: tuple[int, float] | None, *, may_lower: bool) -> bool:
    return known is None or (limit != known and (may_lower or limit[0] / limit[1] > known[0] / known[1]))


def _rate_text(rate: tuple[int, float]) -> str:
    count, window_s = rate
    named = {1.0: "s", 60.0: "min", 3600.0: "h"}.get(window_s)
    return f"{count}/{named}" if named is not None else f"{count}/{window_s:g} s"


def _span(seconds: float) -> str:
    """Format a duration for people, rounded up."""
    if seconds == math.inf:
        return "forever"
    if seconds <= 120:
        return f"{math.ceil(seconds)} s"
    if seconds <= 2 * 3600:
        return f"{math.ceil(seconds / 60)} min"
    hours = math.ceil(seconds / 3600)
    return f"{hours} h" if hours <= 72 else f"{math.ceil(hours / 24)} days"
