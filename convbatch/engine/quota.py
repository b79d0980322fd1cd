"""What is left of a quota: the derated request rate, the tokens of the last minute, the requests of the day.

Arithmetic only: nothing here waits, and who comes first is `limiter.py`'s.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo


def derated_rate(rates: Sequence[tuple[int, float]], jitter_s: float) -> tuple[int, float]:
    """Burst and rate under which no window at the server sees more than its limit.

    A leaky bucket lets at most b + r D requests through in any span D. Requests that arrive within one window of W
    seconds left within less than W + J, so with r = (N + 1 - b) / (W + J) there are fewer than N + 1 of them.

    Args:
        rates: Limits as (count N, window W in seconds); all of them hold.
        jitter_s: J, by how much the one-way delay may vary; delays differ by less than this.

    Returns:
        Burst b in requests and rate r in requests per second.
    """
    bursts = [max(1, count // 600) for count, _ in rates]
    slowest = min((count + 1 - b) / (window_s + jitter_s) for b, (count, window_s) in zip(bursts, rates, strict=True))
    return min(bursts), slowest


def seconds_until_drained(
    times: Iterable[float], now: float, rates: Sequence[tuple[int, float]], jitter_s: float
) -> float:
    """Seconds until a bucket that saw these requests is empty, so that a new one, empty too, carries its law on.

    Args:
        times: When requests were sent by somebody before, unix seconds in any order.
        now: Unix seconds; what seems to lie behind it (a clock set back) counts as just now.
        rates: As for `derated_rate`.
        jitter_s: As for `derated_rate`.
    """
    _, per_second = derated_rate(rates, jitter_s)
    level, before = 0.0, -math.inf
    for at in sorted(min(at, now) for at in times):
        level = max(0.0, level - (at - before) * per_second) + 1.0
        before = at
    return max(0.0, level / per_second - (now - before)) if level else 0.0


def day_bounds(resets: str, wall: float) -> tuple[float, float]:
    """The quota day around a moment.

    Args:
        resets: "HH:MM Zone", e.g. "00:00 America/Los_Angeles": local time at which the count starts anew.
        wall: Unix seconds.

    Returns:
        Unix seconds of the latest reset at or before `wall`, and of the next one. A day may have 23 or 25 hours.

    Raises:
        ValueError: Not a time of day and a zone that is known.
    """
    at, zone = _parse_resets(resets)
    today = datetime.fromtimestamp(wall, zone).date()
    edges = [datetime.combine(today + timedelta(days=day), at, zone).timestamp() for day in (-1, 0, 1, 2)]
    return max(edge for edge in edges if edge <= wall), min(edge for edge in edges if edge > wall)


def _parse_resets(resets: str) -> tuple[time, ZoneInfo]:
    clock_time, _, zone = resets.strip().partition(" ")
    try:
        return time.fromisoformat(clock_time), ZoneInfo(zone.strip())
    except (ValueError, KeyError, OSError) as error:  # an unknown zone is a KeyError, a folder's name an OSError
        raise ValueError(f"{resets!r} is not a time and a zone such as '00:00 America/Los_Angeles'") from error


@dataclass(slots=True, eq=False)
class Booking:
    """Tokens that one request counts: an estimate, or what it really used once that is known."""

    tokens: int
    at: float
    counts: bool = True
    """Still inside the window."""


class TokenWindow:
    """Tokens of the last `span_s` seconds against a budget."""

    def __init__(self, budget: int, span_s: float) -> None:
        self._budget = budget
        self._span_s = span_s
        self._booked: deque[Booking] = deque()
        self._total = 0

    def full_until(self, tokens: int, now: float) -> float | None:
        """None when the turn fits, or would be alone; else the earliest moment at which that may change by itself."""
        booked = self._booked
        while booked and now >= booked[0].at + self._span_s:
            gone = booked.popleft()
            gone.counts = False
            self._total -= gone.tokens
        if self._total == 0 or self._total + tokens <= self._budget:
            return None
        return booked[0].at + self._span_s

    def book(self, tokens: int, now: float) -> Booking:
        """Count tokens from now on."""
        booking = Booking(tokens, now)
        self._booked.append(booking)
        self._total += tokens
        return booking

    def amend(self, booking: Booking, tokens: int) -> None:
        """Replace what a booking counts; one that has left the window changes nothing any more."""
        if booking.counts:
            self._total += tokens - booking.tokens
        booking.tokens = tokens


class Day:
    """Requests since the last reset, against a daily limit."""

    def __init__(self, rpd: int, resets: str, used: int, *, wall: float, grace_s: float) -> None:
        self._rpd = rpd
        self._resets = resets
        self._grace_s = grace_s
        self.used = used
        self._begins, self._ends = day_bounds(resets, wall)

    def wait_s(self, wall: float, in_flight: int) -> float | None:
        """None while something is left; else seconds to the next reset. Looked at before every request."""
        # Whoever waits for the reset waits a little longer: the server's clock decides, and it may be behind ours.
        over = self._ends + (self._grace_s if self.used >= self._rpd else 0.0)
        if not self._begins <= wall < over:
            if wall >= over:
                self.used = in_flight  # sent before the reset, but perhaps counted after it
            # Before the day's begin: the clock was set back. The count stands, only its end is found anew.
            self._begins, self._ends = day_bounds(self._resets, wall)
        if self.used < self._rpd:
            return None
        return self._ends + self._grace_s - wall
