"""When the simulated server answers 429. Pure: time is an argument.

Four counting models of real servers (`model`): `fixed` windows, a `sliding` log, a token `bucket`, and a limit
`quantised` over sub-windows. Each counts per (key, model). A refused request consumes nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

LimitModel = Literal["fixed", "sliding", "bucket", "quantised"]
Dimension = Literal["requests", "tokens", "day"]

_TICK = 1e-9
"""Tolerance: waiting exactly the announced time must be enough although now + (then - now) may round below then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Limits of one key at one model; None means no limit."""

    rpm: int | None = None
    tpm: int | None = None
    rpd: int | None = None
    model: LimitModel = "sliding"
    window_s: float = 60.0
    """Length of the "minute"; tests shorten it."""
    day_s: float = 86_400.0
    quanta: int = 6
    """Sub-windows of a window in the quantised model."""

    def __post_init__(self) -> None:
        if self.model not in get_args(LimitModel):
            raise ValueError(f"unknown limit model {self.model!r}; known: {', '.join(get_args(LimitModel))}")
        for name in ("rpm", "tpm", "rpd"):
            limit: int | None = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, not {limit}")
        if self.window_s <= 0 or self.day_s <= 0 or self.quanta < 1:
            raise ValueError("window_s and day_s must be above 0, quanta at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A 429 with its reason."""

    dimension: Dimension
    limit: int
    retry_after_s: float
    """A retry after this time is admitted if no other request came first; a request larger than the limit never is."""


class LimitCounter(Protocol):
    """One limit of one (key, model). `now` must not go back."""

    def wait(self, amount: int, now: float) -> float:
        """Return 0 if `amount` may be taken now, else the seconds until then; takes nothing."""
        ...

    def take(self, amount: int, now: float) -> None:
        """Count `amount`, after `wait` returned 0."""
        ...

    def left(self, now: float) -> int:
        """Return how much could be taken now."""
        ...


class FixedWindow:
    """At most `limit` in each window [k W, (k + 1) W)."""

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._window_s = window_s
        self._index = -1
        self._used = 0

    def _turn(self, now: float) -> None:
        index = int((now + _TICK) // self._window_s)
        if index > self._index:
            self._index, self._used = index, 0

    def wait(self, amount: int, now: float) -> float:
        """See `LimitCounter`."""
        self._turn(now)
        return 0.0 if self._used + amount <= self._limit else (self._index + 1) * self._window_s - now

    def take(self, amount: int, now: float) -> None:
        """See `LimitCounter`."""
        self._turn(now)
        self._used += amount

    def left(self, now: float) -> int:
        """See `LimitCounter`."""
        self._turn(now)
        return self._limit - self._used


class SlidingWindow:
    """At most `limit` in every window (t - W, t]."""

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._window_s = window_s
        self._log: deque[tuple[float, int]] = deque()
        self._used = 0

    def _forget(self, now: float) -> None:
        while self._log and self._log[0][0] + self._window_s <= now + _TICK:
            self._used -= self._log.popleft()[1]

    def wait(self, amount: int, now: float) -> float:
        """See `LimitCounter`."""
        self._forget(now)
        excess = self._used + amount - self._limit
        if excess <= 0:
            return 0.0
        for then, taken in self._log:
            excess -= taken
            if excess <= 0:
                return then + self._window_s - now
        return self._window_s

    def take(self, amount: int, now: float) -> None:
        """See `LimitCounter`."""
        self._log.append((now, amount))
        self._used += amount

    def left(self, now: float) -> int:
        """See `LimitCounter`."""
        self._forget(now)
        return self._limit - self._used


class TokenBucket:
    """A bucket that starts full and refills evenly: at most `limit` (1 + t / W) in any time t."""

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._rate = limit / window_s
        self._level = float(limit)
        self._seen: float | None = None

    def _fill(self, now: float) -> None:
        if self._seen is not None:
            self._level = min(float(self._limit), self._level + (now - self._seen) * self._rate)
        self._seen = now

    def wait(self, amount: int, now: float) -> float:
        """See `LimitCounter`."""
        self._fill(now)
        missing = amount - self._level
        return 0.0 if missing <= self._limit * _TICK else missing / self._rate

    def take(self, amount: int, now: float) -> None:
        """See `LimitCounter`."""
        self._fill(now)
        self._level -= amount

    def left(self, now: float) -> int:
        """See `LimitCounter`."""
        self._fill(now)
        return max(0, int(self._level + self._limit * _TICK))


class QuantisedWindow:
    """The limit divided over `quanta` sub-windows of each window; the unused part of a sub-window is lost."""

    def __init__(self, limit: int, window_s: float, quanta: int) -> None:
        self._limit = limit
        self._quanta = min(quanta, limit)
        self._quantum_s = window_s / self._quanta
        self._index = -1
        self._used = 0

    def _turn(self, now: float) -> None:
        index = int((now + _TICK) // self._quantum_s)
        if index > self._index:
            self._index, self._used = index, 0

    def _share(self, index: int) -> int:
        place = index % self._quanta
        return (place + 1) * self._limit // self._quanta - place * self._limit // self._quanta

    def wait(self, amount: int, now: float) -> float:
        """See `LimitCounter`. A request larger than one sub-window always gets a full-window wait."""
        self._turn(now)
        if self._used + amount <= self._share(self._index):
            return 0.0
        for ahead in range(1, self._quanta + 1):
            if amount <= self._share(self._index + ahead):
                return (self._index + ahead) * self._quantum_s - now
        return self._quanta * self._quantum_s

    def take(self, amount: int, now: float) -> None:
        """See `LimitCounter`."""
        self._turn(now)
        self._used += amount

    def left(self, now: float) -> int:
        """See `LimitCounter`."""
        self._turn(now)
        return self._share(self._index) - self._used


class Gatekeeper:
    """All limits of all (key, model) pairs: a request passes all of its limits or consumes none."""

    def __init__(self, limits: ServerLimits) -> None:
        self.limits = limits
        self._counters: dict[tuple[str, str], list[tuple[Dimension, int, LimitCounter]]] = {}

    def admit(self, key: str, model: str, tokens: int, now: float) -> Refusal | None:
        """Admit one request, or return the refusal of the limit with the longest wait."""
        counters = self._of(key, model)
        worst: Refusal | None = None
        for dimension, limit, counter in counters:
            wait = counter.wait(tokens if dimension == "tokens" else 1, now)
            if wait > 0 and (worst is None or wait > worst.retry_after_s):
                worst = Refusal(dimension=dimension, limit=limit, retry_after_s=wait)
        if worst is None:
            for dimension, _, counter in counters:
                counter.take(tokens if dimension == "tokens" else 1, now)
        return worst

    def left(self, key: str, model: str, now: float) -> dict[Dimension, tuple[int, int]]:
        """Return what is left of each limit, and the limit."""
        return {dimension: (counter.left(now), limit) for dimension, limit, counter in self._of(key, model)}

    def _of(self, key: str, model: str) -> list[tuple[Dimension, int, LimitCounter]]:
        counters = self._counters.get((key, model))
        if counters is None:
            counters = self._counters[key, model] = self._build()
        return counters

    def _build(self) -> list[tuple[Dimension, int, LimitCounter]]:
        limits = self.limits
        built: list[tuple[Dimension, int, LimitCounter]] = []
        if limits.rpm is not None:
            built.append(("requests", limits.rpm, self._counter(limits.rpm)))
        if limits.tpm is not None:
            built.append(("tokens", limits.tpm, self._counter(limits.tpm)))
        if limits.rpd is not None:
            built.append(("day", limits.rpd, FixedWindow(limits.rpd, limits.day_s)))
        return built

    def _counter(self, limit: int) -> LimitCounter:
        match self.limits.model:
            case "fixed":
                return FixedWindow(limit, self.limits.window_s)
            case "sliding":
                return SlidingWindow(limit, self.limits.window_s)
            case "bucket":
                return TokenBucket(limit, self.limits.window_s)
            case "quantised":
                return QuantisedWindow(limit, self.limits.window_s, self.limits.quanta)
