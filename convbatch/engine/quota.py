"""Arithmetic of quotas: the derated request rate, the tokens of the last minute, the requests of the day.

Nothing here waits; the order of requests is decided by `limiter.py`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo


def derated_rate(rates: Sequence[tuple[int, float]], jitter_s: float) -> tuple[int, float]:
    """Return a burst and a rate that never exceed the limit in any window at the server.

    A leaky bucket lets at most b + r D requests pass in any span D. Requests that arrive within a window of W seconds
    were sent within less than W + J, so with r = (N + 1 - b) / (W + J) there are fewer than N + 1 of them.

    Args:
        rates: Limits as (count N, window W in seconds); all of them apply.
        jitter_s: J, in seconds; one-way delays differ by less than this.

    Returns:
        Burst b in requests and rate r in requests per second.
    """
    bursts = [max(1, count // 600) for count, _ in rates]
    slowest = min((count + 1 - b) / (window_s + jitter_s) for b, (count, window_s) in zip(bursts, rates, strict=True))
    return min(bursts), slowest


def seconds_until_drained(
    times: Iterable[float], now: float, rates: Sequence[tuple[int, float]], jitter_s: float
) -> float:
    """Return the seconds until a leaky bucket that passed these requests is empty and can be replaced by a new one.

    Args:
        times: When earlier sessions sent requests, Unix seconds in any order.
        now: Unix seconds; times later than this (the clock was set back) count as now.
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
    """Return the start and end of the quota day that contains a moment.

    Args:
        resets: "HH:MM Zone", e.g. "00:00 America/Los_Angeles": local time at which the count restarts.
        wall: Unix seconds.

    Returns:
        Unix seconds of the latest reset at or before `wall`, and of the next one. A day may have 23 or 25 hours.

    Raises:
        ValueError: Not a time of day and a known zone.
    """
    at, zone = _parse_resets(resets)
    today = datetime.fromtimestamp(wall, zone).date()
    edges = [datetime.combine(today + timedelta(days=day), at, zone).timestamp() for day in (-1, 0, 1, 2)]
    return max(edge for edge in edges if edge <= wall), min(edge for edge in edges if edge > wall)


def _parse_resets(resets: str) -> tuple[time, ZoneInfo]:
    clock_time, _, zone = resets.strip().partition(" ")
    try:
        return time.fromisoformat(clock_time), ZoneInfo(zone.strip())
    except (ValueError, KeyError, OSError) as error:  # KeyError: unknown zone; OSError: name of a folder
        raise ValueError(f"{resets!r} is not a time and a zone such as '00:00 America/Los_Angeles'") from error


@dataclass(slots=True, eq=False)
class Booking:
    """Tokens that one request counts: first an estimate, then the reported usage."""

    tokens: int
    at: float
    counts: bool = True
    """Still inside the window."""


class TokenWindow:
    """Tokens of the last `span_s` seconds, against a limit."""

    def __init__(self, budget: int, span_s: float) -> None:
        self.budget = budget
        self._span_s = span_s
        self._booked: deque[Booking] = deque()
        self._total = 0

    def full_until(self, tokens: int, now: float) -> float | None:
        """Return None if the turn fits, or nothing else is counted; else the next time at which tokens expire."""
        booked = self._booked
        while booked and now >= booked[0].at + self._span_s:
            gone = booked.popleft()
            gone.counts = False
            self._total -= gone.tokens
        if self._total == 0 or self._total + tokens <= self.budget:
            return None
        return booked[0].at + self._span_s

    def book(self, tokens: int, now: float) -> Booking:
        """Count tokens from `now` on."""
        booking = Booking(tokens, now)
        self._booked.append(booking)
        self._total += tokens
        return booking

    def amend(self, booking: Booking, tokens: int) -> None:
        """Replace the tokens of a booking; has no effect on the window after it expired."""
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
        """Return None while requests are left, else the seconds to the next reset; called before every request."""
        # The wait includes a margin: the server's clock decides, and it may be behind ours.
        over = self._ends + (self._grace_s if self.used >= self._rpd else 0.0)
        if not self._begins <= wall < over:
            if wall >= over:
                self.used = in_flight  # sent before the reset, but possibly counted after it
            # Before the start of the day, the clock was set back: the count stays, only the bounds are computed again.
            self._begins, self._ends = day_bounds(self._resets, wall)
        if self.used < self._rpd:
            return None
        return self._ends + self._grace_s - wall
