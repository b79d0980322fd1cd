"""When may the next request leave: one `RateLimiter` per quota owner, in front of every first try and every retry.

Callers are let through in the order of their coming, past the shared pause (and the breaker), tokens, the day, the
places in flight and last the request rate. Nothing is taken while waiting: all of it is taken in one step at the moment
of passing, so a cancelled waiter has nothing to give back and nothing can change between passing and sending.

The gate does not know what an answer means or whether it was paid: it is told a `Signal` (`retry.py` finds the word).
It draws no random numbers and reads no clock but the one it is given.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from aiolimiter import AsyncLimiter

from convbatch.engine.quota import Booking, Day, TokenWindow, derated_rate

Signal = Literal["replied", "answered", "throttled", "server_error", "transport_failure", "doubtful", "unclear"]
"""What became of an admitted request. `replied`: a complete reply. `answered`: refused for its own sake (400 ...), so
the gateway works. `throttled`: a 429 that is no quota. `server_error`: 5xx. `transport_failure`: no HTTP answer.
`doubtful`: key, model or channel refused though they worked before. `unclear`: tells nothing about the gateway."""

MAX_HINT_S = 24 * 3600.0
_MAX_BACKOFF_S = 60.0
_TRANSPORT_FAILURES = 5
_SERVER_ERRORS = 20
_FIRST_PROBE_S = 30.0
_MAX_PROBE_S = 300.0
_TOKEN_WINDOW_S = 60.0
_MIN_TIMER_S = 0.001
"""uvloop counts whole milliseconds and would spin on anything shorter."""
_DAY_CHECK_S = 60.0
"""The wait for a reset is looked at again this often, because the wall clock may jump."""
_RATE_SLACK_S = 1e-6
"""Added to the time of the next slot, so that rounding never finds it a hair too early."""

_Obstacle = tuple[Literal["pause", "breaker", "tokens", "day", "concurrency", "rate"], float | None]
"""What stands in the way, and the monotonic time at which to look again; None when something must happen first."""
_BUSY: _Obstacle = ("concurrency", None)
_PROBE_IN_FLIGHT: _Obstacle = ("breaker", None)


class Clock(Protocol):
    """What the gate needs of `outside.Clock`; `monotonic` ticks with the event loop's own time."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def wall(self) -> float:
        """Unix seconds UTC; may jump."""
        ...


class LimiterClosed(Exception):
    """Nobody is admitted any more."""


class LimiterStalled(LimiterClosed):
    """The gateway asked for a wait so long that it amounts to a no (more than 24 hours): the target should park."""


class Permit:
    """Leave to send one request now, and a place in flight until `release`."""

    __slots__ = ("_booking", "_held", "_limiter", "is_probe", "sent_at", "waited_s")

    def __init__(
        self, limiter: RateLimiter, booking: Booking | None, *, sent_at: float, waited_s: float, is_probe: bool
    ) -> None:
        self._limiter = limiter
        self._booking = booking
        self._held = True
        self.sent_at = sent_at
        """The clock's monotonic seconds at which it was given."""
        self.waited_s = waited_s
        """Our own waiting in the gate."""
        self.is_probe = is_probe
        """Given by an open breaker, to see how things stand."""

    def settle(self, tokens: int | None) -> None:
        """Replace the estimate by what was really used; None (unknown) lets the estimate stand."""
        if tokens is not None and self._booking is not None:
            self._limiter.amend(self._booking, tokens)

    def refund(self, *, never_left: bool = False) -> None:
        """Give back its tokens: the request was refused. With `never_left` its place in the day's count too."""
        self.settle(0)
        if never_left:
            self._limiter.uncount()

    def release(self) -> None:
        """Give back the place in flight; a second time does nothing."""
        if self._held:
            self._held = False
            self._limiter.released(self)


class _Pause:
    """The pause all share, and the episodes of 429 that cause it."""

    def __init__(self) -> None:
        self.until = -math.inf
        self.why = ""
        self.episode_began = -math.inf
        self._in_a_row = 0
        self._announced_until = -math.inf
        self._announced_s = 0.0

    def throttled(self, sent_at: float, hint_s: float, now: float) -> bool:
        """Take in a 429; True when it begins a new episode."""
        if sent_at <= self.episode_began:
            # Sent before the pause began: the same news once more. It may lengthen the pause, not count twice.
            self.announced(hint_s, "429", now)
            return False
        self.episode_began = now
        # A hint is taken at its word the first time. If that did not help, our own doubling is the least we wait, so
        # that a gateway which always says "0.1 s" is not asked ten times a second for ever.
        doubled = self._in_a_row if hint_s <= 0 else self._in_a_row - 1
        self._in_a_row = min(self._in_a_row + 1, 64)
        if doubled >= 0:
            self._extend(now + min(2.0**doubled, _MAX_BACKOFF_S), "429")
        self.announced(hint_s, "429", now)
        return True

    def replied(self, sent_at: float) -> bool:
        """Take in a success; True when it is news, sent after the latest episode began."""
        if sent_at <= self.episode_began:
            return False
        self._in_a_row = 0
        return True

    def announced(self, hint_s: float, why: str, now: float) -> None:
        """The gateway said how long to wait."""
        if hint_s > 0:
            self._extend(now + hint_s, why)
            self.known_until(now + hint_s, now)

    def known_until(self, until: float, now: float) -> None:
        """Nothing can be sent before, as we were told; overlapping spans count once."""
        begins = max(now, self._announced_until)
        if until > begins:
            self._announced_s += until - begins
            self._announced_until = until

    def announced_s(self, now: float) -> float:
        """Seconds of announced waiting so far."""
        return self._announced_s - max(0.0, self._announced_until - now)

    def _extend(self, until: float, why: str) -> None:
        if until > self.until:
            self.until = until
            self.why = why


class _Window:
    """How many may be in flight: all at once where a rate is configured, else found out by slow start.

    A round is as many successes as there are places. A clean one doubles the window up to the cap until the first 429;
    from then on an episode of 429 takes a fifth away and a clean round gives one place back.
    """

    def __init__(self, cap: int, *, adaptive: bool) -> None:
        self._cap = cap
        self._adaptive = adaptive
        self._doubling = True
        self._clean = 0
        # Half: a smaller start is gentler, but each doubling more costs a round trip at the head of every run.
        self.size = math.ceil(cap / 2) if adaptive else cap

    @property
    def is_narrow(self) -> bool:
        """Smaller than what was asked for?"""
        return self.size < self._cap

    def replied(self) -> str | None:
        """Count a success; a round is clean after as many of them as there are places."""
        self._clean += 1
        if self._clean < self.size:
            return None
        self._clean = 0
        before = self.size
        self.size = min(self._cap, self.size * 2 if self._doubling else self.size + 1)
        return f"in flight {before} → {self.size}"

    def throttled(self) -> str | None:
        """A new episode of 429."""
        if not self._adaptive:
            return None
        self._doubling = False
        self._clean = 0
        before = self.size
        self.size = max(1, int(self.size * 0.8))
        return f"429: in flight {before} → {self.size}"


class _Breaker:
    """Open after many failures in a row; then one probe at a time, further and further apart, until one goes well."""

    def __init__(self) -> None:
        self.probe_at: float | None = None
        """When the next probe may leave; None while closed."""
        self.probe: Permit | None = None
        """On its way, verdict unknown."""
        self._gap_s = _FIRST_PROBE_S
        self._transport = 0
        self._server = 0
        self._doubted_at = -math.inf
        """When it was opened because the gateway refused what it had taken before."""

    def record(self, signal: Signal, permit: Permit, now: float) -> str | None:
        """Take in a verdict; a text when the breaker opens or closes."""
        self._count(signal)
        if self.probe_at is None:
            return self._open(signal, now)
        if signal in ("replied", "answered") and permit.sent_at > self._doubted_at:
            self.probe_at = self.probe = None
            self._doubted_at = -math.inf
            return "the gateway answers again"
        if permit is self.probe:
            self.probe = None
            if signal == "throttled":  # up again; its pause says when to ask next
                self.probe_at = now
            else:
                self._gap_s = min(2 * self._gap_s, _MAX_PROBE_S)
                self.probe_at = now + self._gap_s
        return None

    def _count(self, signal: Signal) -> None:
        if signal == "transport_failure":
            self._transport += 1
        elif signal == "server_error":
            self._server += 1
            self._transport = 0
        elif signal == "throttled":
            self._transport = 0
        elif signal in ("replied", "answered"):
            self._transport = self._server = 0

    def _open(self, signal: Signal, now: float) -> str | None:
        if signal == "doubtful":
            self._doubted_at = now  # a late reply to an older question says nothing of a key revoked since
            why = "the gateway refuses what it took before"
        elif self._transport >= _TRANSPORT_FAILURES:
            why = f"{self._transport} requests in a row without an HTTP answer"
        elif self._server >= _SERVER_ERRORS:
            why = f"{self._server} server errors without a success"
        else:
            return None
        self._gap_s = _FIRST_PROBE_S
        self.probe_at = now + self._gap_s
        return f"{why}: only a probe every {self._gap_s:.0f} s from now on"


class _Waiter:
    __slots__ = ("called", "event", "tokens")

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.event: asyncio.Future[None] | None = None
        self.called = False


class RateLimiter:
    """All limits of one quota owner, and the line of those who wait for them.

    Args:
        clock: Must tick with the running event loop.
        concurrency: Most requests in flight, at least 1.
        rates: Request limits as (count, window in seconds); all hold. Without any, slow start: the window opens at
            half of `concurrency` and doubles after a clean round; see `_Window`.
        tpm: Tokens per minute; which tokens of a turn count is the caller's to say.
        rpd: Requests per day.
        rpd_resets: When the quota day begins, see `quota.day_bounds`.
        used_today: Requests sent since then, before this gate was made.
        jitter_s: One-way delays vary by less than this, else a window at the server may overflow.
        on_change: Told in a few words when the window narrows or widens and the breaker opens or closes.
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
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._pause = _Pause()
        self._breaker = _Breaker()
        self._ledger = None if tpm is None else TokenWindow(tpm, _TOKEN_WINDOW_S + jitter_s)
        self._day = None if rpd is None else Day(rpd, rpd_resets, used_today, wall=clock.wall(), grace_s=jitter_s)
        self._day_text = f"day quota until {rpd_resets}"
        self._window = _Window(concurrency, adaptive=not rates)
        self._in_flight = 0
        self._rate: AsyncLimiter | None = None
        self._slot_s = self._next_slot = 0.0
        self._rate_text = ""
        if rates:
            burst, per_second = derated_rate(rates, jitter_s)
            self._rate = AsyncLimiter(burst, burst / per_second)
            self._slot_s = 1 / per_second + _RATE_SLACK_S
            self._rate_text = _rate_text(min(rates, key=lambda rate: rate[0] / rate[1]))
        self._queue: deque[_Waiter] = deque()
        self._called = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._now = 0.0
        self._closed: LimiterClosed | None = None

    @property
    def in_flight(self) -> int:
        """Permits not yet released."""
        return self._in_flight

    @property
    def places(self) -> int:
        """How many may be in flight at present."""
        return self._window.size

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._queue)

    @property
    def used_today(self) -> int | None:
        """Requests counted against the day; None without a daily limit."""
        return None if self._day is None else self._day.used

    @property
    def stalled(self) -> str | None:
        """Why nobody will be admitted for more than a day; None normally."""
        return str(self._closed) if isinstance(self._closed, LimiterStalled) else None

    def held_s(self) -> float:
        """Seconds so far in which it was known that nothing could be sent: announced pauses and a used-up day."""
        return self._pause.announced_s(self._clock.monotonic())

    def block_for(self, seconds: float, why: str) -> None:
        """Admit nobody for so long: what an earlier session sent or was told still counts."""
        self._pause.announced(seconds, why, self._clock.monotonic())

    async def admit(self, tokens: int = 0) -> Permit:
        """Wait for one's turn; the request must be sent at once, without another `await` in between.

        Args:
            tokens: What the turn will count against the token limit, as well as can be told beforehand. More than the
                whole budget waits until nothing else is counted and then goes alone.

        Raises:
            GateStalled: The gateway asked for a wait of more than a day, before or meanwhile.
            GateClosed: `close` was called, before or meanwhile.
        """
        self._raise_if_closed()
        if self._queue or self._obstacle(tokens) is not None:
            return await self._wait_in_queue(tokens)
        return await self._pass(tokens, 0.0)

    def report(self, signal: Signal, permit: Permit, *, retry_after_s: float | None = None) -> None:
        """Tell what became of a request, before its `release`; nothing is told of one that was cancelled.

        Args:
            signal: What happened.
            permit: Under which it was sent; its time tells new from old news.
            retry_after_s: The gateway's wish, if it had one. It pauses the whole gate whatever the signal, and is never
                cut short; later and longer ones extend the pause.
        """
        now = self._clock.monotonic()
        hint_s = _usable(retry_after_s)
        if hint_s > MAX_HINT_S:
            self._reject_waiters(LimiterStalled(f"the gateway asks to wait {_span(hint_s)}"))
        elif signal == "throttled":
            if self._pause.throttled(permit.sent_at, hint_s, now):
                self._notify(self._window.throttled())
        else:
            self._pause.announced(hint_s, "asked to wait", now)
        if signal == "replied" and self._pause.replied(permit.sent_at) and self._window.is_narrow:
            self._notify(self._window.replied())
        self._notify(self._breaker.record(signal, permit, now))
        self._call_next()

    def why_waiting(self) -> str | None:
        """Why the first in line waits, in a few words; None when nobody does, or only for a place in a full window."""
        if not self._queue or (obstacle := self._obstacle(self._queue[0].tokens)) is None:
            return None
        match obstacle:
            case ("pause", _):
                return f"{self._pause.why}, {_span(self._pause.until - self._now)}"
            case ("breaker", None):
                return "breaker: probe on its way"
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

    def close(self) -> None:
        """Admit nobody any more; everyone in line is turned away. Permits given stay good."""
        if self._closed is None:
            self._reject_waiters(LimiterClosed("the gate is closed"))

    def _raise_if_closed(self) -> None:
        if self._closed is not None:
            raise type(self._closed)(*self._closed.args)  # one each: a shared one would collect everyone's traceback

    def _reject_waiters(self, reason: LimiterClosed) -> None:
        self._closed = reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for waiter in self._queue:
            if waiter.event is not None and not waiter.event.done():
                waiter.event.set_result(None)

    # What permits do.

    def amend(self, booking: Booking, tokens: int) -> None:
        """For `Permit.settle`."""
        if self._ledger is not None:
            self._ledger.amend(booking, tokens)
            self._call_next()

    def uncount(self) -> None:
        """For `Permit.refund`."""
        if self._day is not None and self._day.used > 0:
            self._day.used -= 1
            self._call_next()

    def released(self, permit: Permit) -> None:
        """For `Permit.release`."""
        self._in_flight -= 1
        if permit is self._breaker.probe:  # a probe without a verdict: the next in line may be one at once
            self._breaker.probe = None
        self._call_next()

    # The line: everyone has a bell; whoever is called looks for himself whether he may pass.

    async def _wait_in_queue(self, tokens: int) -> Permit:
        entered = self._clock.monotonic()
        waiter = _Waiter(tokens)
        self._queue.append(waiter)
        try:
            while True:
                await self._wake(waiter)
                self._raise_if_closed()
                if self._queue[0] is waiter and self._obstacle(tokens) is None:
                    return await self._pass(tokens, self._now - entered)
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
        """Ring for the next who may pass, or set the timer for when to look again.

        Those called but not yet awake stand in front. Many replies are released in one go when their group is synced,
        so each release calls one more: one at a time would cost a round of the event loop for every admission.
        """
        if not self._queue or self._closed is not None:
            return
        head = self._queue[0]
        index = self._called if head.called else 0
        if index >= len(self._queue) or (index and (self._ledger is not None or self._rate is not None)):
            return
        obstacle = self._obstacle(head.tokens)
        if obstacle is not None:
            if obstacle[1] is not None:
                self._look_again_at(obstacle[1])
            return
        waiter = self._queue[index]
        if index < self._window.size - self._in_flight and waiter.event is not None and not waiter.event.done():
            waiter.called = True
            self._called += 1
            waiter.event.set_result(None)

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
        """The first thing in the way, in the order of the contract; remembers when it looked."""
        now = self._now = self._clock.monotonic()
        if now < self._pause.until:
            return ("pause", self._pause.until)
        if self._breaker.probe_at is not None:
            if self._breaker.probe is not None:
                return _PROBE_IN_FLIGHT
            if now < self._breaker.probe_at:
                return ("breaker", self._breaker.probe_at)
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
        return None

    async def _pass(self, tokens: int, waited_s: float) -> Permit:
        """Take everything at once; to be called only where `_obstacle` has just found nothing."""
        if self._rate is not None:
            await self._rate.acquire()  # it has capacity, so this returns without suspending
        now = self._now
        is_probe = self._breaker.probe_at is not None
        booking = None if self._ledger is None else self._ledger.book(tokens, now)
        permit = Permit(self, booking, sent_at=now, waited_s=waited_s, is_probe=is_probe)
        if is_probe:
            self._breaker.probe = permit
        if self._day is not None:
            self._day.used += 1
        self._in_flight += 1
        self._next_slot = now + self._slot_s
        return permit

    def _notify(self, text: str | None) -> None:
        if text is not None and self._on_change is not None:
            self._on_change(text)


def _usable(retry_after_s: float | None) -> float:
    """Zero for no hint and for one that says nothing: none, negative, not a number."""
    return retry_after_s if retry_after_s is not None and retry_after_s > 0 else 0.0


def _rate_text(rate: tuple[int, float]) -> str:
    count, window_s = rate
    named = {1.0: "s", 60.0: "min", 3600.0: "h"}.get(window_s)
    return f"{count}/{named}" if named is not None else f"{count}/{window_s:g} s"


def _span(seconds: float) -> str:
    """A duration for people, rounded up."""
    if seconds == math.inf:
        return "for ever"
    if seconds <= 120:
        return f"{math.ceil(seconds)} s"
    if seconds <= 2 * 3600:
        return f"{math.ceil(seconds / 60)} min"
    hours = math.ceil(seconds / 3600)
    return f"{hours} h" if hours <= 72 else f"{math.ceil(hours / 24)} days"
