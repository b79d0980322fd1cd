"""The rate that a gateway with an unknown quota lets through, learned from its refusals.

`LearnedPace` counts what is sent: requests, or tokens. From the second refusal on it has a rate, which is what went
through in the last minute, or since the refusal before. While less than a minute was measured, this is a lower bound:
the rate grows fast (the search). Afterwards it falls a little below what went through with each refusal, returns to it
between refusals, and then grows slowly beyond it, so that a larger quota is found.

A few refusals in a hundred, each followed by an answer, are no evidence of a quota: gateways with many upstreams refuse
so at any rate, and a rate that fell with each of them would never stop falling. What such a refusal changed is undone.

Nothing here waits or knows what a refusal says; `limiter.py` asks when the next request may be sent. Times are
monotonic seconds. The constants were chosen with `benchmarks/quotas.py`.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

WINDOW_S = 60.0
_REFUSALS_BEFORE_LEARNING = 2
_BACK_OFF = 0.97
"""Share of what went through that is sent after a refusal."""
_FALL = 0.95
"""Share of the rate after a refusal that follows the one before too soon to measure what goes through."""
_DEEPEST_FALL = 0.8
"""Least share that a single measurement over less than a minute leaves of the rate."""
_MEASURED_S = 5.0
_MEASURED_SENDS = 10
"""A span between two refusals measures the rate if it is at least as long, with at least as many requests."""
_SEARCH_SENDS = 5
"""The same number in the search, where a rough measure is better than none."""
_STEADY_GROWTH = 0.004
"""Growth beyond what went through, per cubed minute: the rate is 3 % above it after 4 minutes, doubles after 8."""
_SEARCH_GROWTH = 4.0
"""The same in the search: 15 % after 20 s, five times after a minute."""
_MAX_GROWTH = 1e3
_SEARCH_FALL = 0.85
_SEARCH_ENDS = 0.7
"""The search ends when what went through in the last minute is at least this share of the rate."""
_LONG_RECOVERY_S = 5.0
_WHOLE_RECOVERY_S = 55.0
"""A quota that comes back only after so long is one of a whole minute."""
_MAX_JUMP = 4.0
_FORGIVEN_SHARE = 0.02
"""Share of requests whose refusals change nothing if the next request is answered."""
_MOST_FORGIVEN = 3.0
_FORGIVEN_FROM = 30.0
"""Requests in the last minute from which on refusals are forgiven: of fewer, each is a large share."""
_SLACK_S = 0.1
"""How much earlier than its slot a request may be sent, so that late timers do not lower the rate."""


class Traffic:
    """Amounts sent and not refused: those of the last minute, in bins of a second, and their total."""

    __slots__ = ("_bins", "began_at", "largest", "sends", "total")

    def __init__(self) -> None:
        self._bins: deque[list[float]] = deque()
        self.total = 0.0
        self.sends = 0
        self.largest = 1.0
        self.began_at = math.inf
        """When the first amount was sent."""

    def add(self, amount: float, now: float) -> None:
        """Count an amount that is sent now."""
        second = now // 1
        bins = self._bins
        if bins and bins[-1][0] == second:
            bins[-1][1] += amount
        else:
            bins.append([second, amount])
            self._forget(now)
            self.began_at = min(self.began_at, now)
        self.total += amount
        self.sends += 1
        if amount > self.largest:
            self.largest = amount

    def remove(self, amount: float, sent_at: float) -> None:
        """Take a refused amount out of the counts."""
        self.total -= amount
        self.sends -= 1
        second = sent_at // 1
        for one in reversed(self._bins):
            if one[0] <= second:
                if one[0] == second:
                    one[1] -= amount
                return

    def last_minute(self, now: float) -> float:
        """Return the amount of the last minute."""
        self._forget(now)
        return sum(one[1] for one in self._bins)

    def times(self, now: float) -> list[float]:
        """Return a time for each request of the last minute, not earlier than it was sent."""
        self._forget(now)
        return [min(second + 1.0, now) for second, amount in self._bins for _ in range(round(amount))]

    def _forget(self, now: float) -> None:
        bins = self._bins
        while bins and bins[0][0] + 1.0 <= now - WINDOW_S:
            bins.popleft()


class _Undo(NamedTuple):
    """The state of a `LearnedPace` before a refusal, which changes it; the names are those of its attributes."""

    now: float
    rate: float | None
    since: float
    plateau: float
    is_search: bool
    refusals: int
    mark: tuple[float, float, int] | None


class LearnedPace:
    """The learned rate of one kind of amount."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self._rate: float | None = None
        """Amount a second at `_since`."""
        self._since = 0.0
        self._plateau = 0.0
        """What went through, amount a second; the rate stays near it until it grows beyond it."""
        self._is_search = True
        self._slot = -math.inf
        self._refusals = 0
        self._is_exhausted = False
        """Whether nothing went through since the last refusal."""
        self._refused_at = self._recovered_at = -math.inf
        self._mark: tuple[float, float, int] | None = None
        """Time, total and requests at the refusal from which on the rate is measured."""
        self._at_refusal: tuple[float, float] | None = None
        """In the search: what went through before the last refusal, and the rate at it."""
        self._has_jumped = False
        self._undo: _Undo | None = None
        """None from the second refusal in a row on."""
        self._refused_together = 0
        """Requests refused since the last answer."""
        self._forgivable, self._counted_sends = 0.0, 0
        """How many refusals may be forgiven, and the requests that it counts."""

    @property
    def is_known(self) -> bool:
        """Whether there is a rate."""
        return self._rate is not None

    def per_second(self, now: float) -> float | None:
        """Return the rate; None before it is learned."""
        if self._rate is None:
            return None
        minutes = max(0.0, now - self._since) / 60.0
        if self._is_search:
            return self._rate * min(_MAX_GROWTH, 1.0 + _SEARCH_GROWTH * minutes**3)
        back = (max(0.0, 1.0 - self._rate / self._plateau) / _STEADY_GROWTH) ** (1 / 3)
        return self._plateau * min(_MAX_GROWTH, 1.0 + _STEADY_GROWTH * (minutes - back) ** 3)

    def slot_s(self, now: float) -> float:
        """Return the seconds between two requests; 0 if the rate is unknown or still searched."""
        rate = None if self._is_search else self.per_second(now)
        return 0.0 if rate is None else self.traffic.largest / rate

    def ready_at(self, now: float) -> float | None:
        """Return None if a request may be sent now, else the time of the next slot."""
        if self._rate is None or now >= self._slot - _SLACK_S:
            return None
        return self._slot - _SLACK_S

    def sent(self, amount: float, now: float) -> None:
        """Count an amount that is sent now."""
        self.traffic.add(amount, now)
        if self._rate is not None:
            self.reserve(amount, now)

    def reserve(self, amount: float, now: float) -> None:
        """Move the next slot for an estimated amount that is sent now; `settle` counts it."""
        if (rate := self.per_second(now)) is not None:
            self._slot = max(self._slot, now) + amount / rate

    def settle(self, reserved: float, amount: float, now: float) -> None:
        """Count the amount of a request, which its reply reports."""
        if amount > 0:
            self.traffic.add(amount, now)
        if self._rate is not None and (rate := self.per_second(now)) is not None:
            self._slot += (amount - reserved) / rate

    def passed(self, sent_at: float, now: float) -> None:
        """Record that a request was not refused."""
        if not self._is_exhausted or sent_at <= self._refused_at:
            return
        self._is_exhausted = False
        if not self._forgives(now) and self._rate is not None:
            if self._is_search:
                self._use_recovery(sent_at - self._refused_at)
            self._since = now
        self._recovered_at = sent_at

    def refused_too(self) -> None:
        """Record a further refusal of an episode."""
        self._refused_together += 1
        if not self._is_exhausted:  # it was ended by an answer already
            self._forgivable -= 1

    def _forgives(self, now: float) -> bool:
        """Undo what the refusals before this answer changed, if they are few; return whether they are."""
        sends = self.traffic.sends
        self._forgivable = min(_MOST_FORGIVEN, self._forgivable + _FORGIVEN_SHARE * (sends - self._counted_sends))
        self._counted_sends = sends
        undo, self._undo = self._undo, None
        is_slow = self.traffic.last_minute(now) < _FORGIVEN_FROM * self.traffic.largest
        if undo is None or is_slow or self._refused_together > self._forgivable:
            return False
        self._forgivable -= self._refused_together
        self._rate, self._plateau, self._is_search = undo.rate, undo.plateau, undo.is_search
        self._refusals, self._mark = undo.refusals, undo.mark
        self._since, self._slot = undo.since + now - undo.now, now
        return True

    def refused(self, sent_at: float, now: float) -> float | None:
        """Record the first refusal of an episode; return the rate if it is learned now, or falls."""
        self._keep_for_undo(now)
        self._refusals += 1
        before = self.per_second(now)
        if self._is_exhausted and before is not None:
            return None  # nothing went through since: the pause was too short, and the rate may be right
        through = self._went_through(before, sent_at, now)
        if not self._is_exhausted:
            self._refused_at = sent_at
            if self._mark is None or through is not None:
                self._mark = (sent_at, self.traffic.total, self.traffic.sends)
            self._is_exhausted = True
        if self._refusals < _REFUSALS_BEFORE_LEARNING:
            return None
        if through is not None:
            self._learn(through, now)
        elif before is not None:
            self._rate = max(_FALL * before, min(before, _DEEPEST_FALL * self._plateau))
            self._since = now
        return self._rate

    def _keep_for_undo(self, now: float) -> None:
        self._refused_together = 1 + (self._refused_together if self._is_exhausted else 0)
        state = (self._rate, self._since, self._plateau, self._is_search, self._refusals, self._mark)
        self._undo = None if self._is_exhausted else _Undo(now, *state)

    def _went_through(self, before: float | None, sent_at: float, now: float) -> float | None:
        """Return the rate that went through until a refusal; None if it is not known."""
        marked_at, total, sends = self._mark or (-math.inf, 0.0, 0)
        span_s, sends = sent_at - marked_at, self.traffic.sends - sends
        minute = self.traffic.last_minute(now) / WINDOW_S
        cycle = (self.traffic.total - total) / span_s if span_s > 0 else 0.0
        if before is None or self._is_search:
            is_measured = span_s >= _MEASURED_S and sends >= _SEARCH_SENDS
            measured = max(minute, cycle) if is_measured else minute
            if before is not None:
                return self._search(measured, before)
            knows_enough = self.traffic.sends >= _SEARCH_SENDS or now - self.traffic.began_at >= WINDOW_S
            return measured if measured > 0 and knows_enough else None
        if span_s >= WINDOW_S:
            return min(before, max(minute, cycle))
        if span_s >= _MEASURED_S and sends >= _MEASURED_SENDS:
            return min(before, max(cycle, _DEEPEST_FALL * before))
        return None

    def _search(self, measured: float, before: float) -> float:
        self._at_refusal = (measured, before)
        self._is_search = measured < _SEARCH_ENDS * before
        return min(before, max(measured, _SEARCH_FALL * before))

    def _use_recovery(self, after_s: float) -> None:
        """In the search, use how soon the quota came back: the pause counts as much as the time of sending."""
        assert self._rate is not None
        if after_s >= _WHOLE_RECOVERY_S:
            self._is_search = False
        elif after_s < _LONG_RECOVERY_S:
            return
        elif self._at_refusal is not None:
            measured, before = self._at_refusal
            sending_s = self._refused_at - self._recovered_at
            through = max(measured, before * sending_s / (sending_s + after_s))
            if through < self._plateau:
                self._plateau, self._rate = through, _BACK_OFF * through
                self._is_search = measured < _SEARCH_ENDS * through
        elif not self._has_jumped and self._mark is not None:
            self._has_jumped = True
            self._rate = min(max(self._rate, _BACK_OFF * self._mark[1] / after_s), _MAX_JUMP * self._rate)

    def _learn(self, through: float, now: float) -> None:
        if self._rate is None:
            self._is_search = now - self.traffic.began_at < WINDOW_S
        self._plateau = max(through, self.traffic.largest / WINDOW_S)  # at least one request a minute
        self._rate = _BACK_OFF * self._plateau
        self._since = self._slot = now
