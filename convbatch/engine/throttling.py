"""What a limiter learns from answers: the shared pause after a 429, the places in flight, and the circuit breaker."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from convbatch.engine.limiter import Permit

Signal = Literal["replied", "answered", "throttled", "server_error", "transport_failure", "doubtful", "unclear"]
"""Result of an admitted request. `replied`: a complete reply. `answered`: the request itself was refused (400 ...), so
the gateway works. `throttled`: a 429 that is not a used-up quota. `server_error`: 5xx, or a success without a reply in
it. `transport_failure`: no HTTP answer. `doubtful`: key, model or channel refused though they worked before, or one
dialogue after the other in the same way. `unclear`: no evidence either way."""

Dimension = Literal["requests", "tokens", "concurrency"]
"""What a gateway counts when it refuses a request."""

_MAX_BACKOFF_S = 60.0
_TRANSPORT_FAILURES = 5
_SERVER_ERRORS = 20
_FIRST_PROBE_S = 30.0
_MAX_PROBE_S = 300.0
_PROBE_PATIENCE = 2.0
"""How many times as long as the slowest refusal the probe after a pause may take before the next request is sent."""
_MIN_PATIENCE_S, _MAX_PATIENCE_S = 1.0, 15.0


class Pause:
    """The shared pause, and the episodes of 429 that cause it."""

    def __init__(self) -> None:
        self.until = -math.inf
        self.why = ""
        self.episode_began = -math.inf
        self.needs_probe = False
        """Whether the next request is sent alone, to find out whether the limit still refuses."""
        self.probe: Permit | None = None
        self.probe_until = -math.inf
        self._slowest_refusal_s = 0.0
        self._in_a_row = 0
        self._announced_until = -math.inf
        self._announced_s = 0.0

    def throttled(self, sent_at: float, hint_s: float, now: float, *, first_s: float = 1.0) -> bool:
        """Record a 429; return whether it begins a new episode. Without a hint it pauses `first_s`, then twice that."""
        self._slowest_refusal_s = max(self._slowest_refusal_s, now - sent_at)
        if sent_at <= self.episode_began:
            # Sent before the pause began, so it belongs to the same episode: it may extend the pause.
            self.announced(hint_s, "429", now)
            return False
        self.episode_began = now
        self.needs_probe = True
        # The first hint of a series is used as it is. If it did not help, the pause is at least our own doubling
        # one, so that a gateway which always hints 0.1 s does not get ten requests a second forever.
        doubled = self._in_a_row if hint_s <= 0 else self._in_a_row - 1
        self._in_a_row = min(self._in_a_row + 1, 64)
        if doubled >= 0:
            self.wait_until(now + min(first_s * 2.0**doubled, _MAX_BACKOFF_S), "429")
        self.announced(hint_s, "429", now)
        return True

    def replied(self, sent_at: float) -> bool:
        """Record a success; return whether it was sent after the latest episode began."""
        if sent_at <= self.episode_began:
            return False
        self._in_a_row = 0
        return True

    def send_probe(self, permit: Permit, now: float) -> None:
        """Let no other request follow until this one is answered, or no refusal is likely any more."""
        self.needs_probe = False
        self.probe = permit
        patience_s = max(_MIN_PATIENCE_S, _PROBE_PATIENCE * self._slowest_refusal_s)
        self.probe_until = now + min(patience_s, _MAX_PATIENCE_S)

    def end_probe(self, permit: Permit, *, is_answered: bool) -> None:
        """Record that this permit is no longer a probe; without an answer another one is needed."""
        if permit is self.probe:
            self.probe = None
            self.needs_probe = self.needs_probe or not is_answered

    def announced(self, hint_s: float, why: str, now: float) -> None:
        """Pause for as long as the gateway asked."""
        if hint_s > 0:
            self.wait_until(now + hint_s, why)
            self.known_until(now + hint_s, now)

    def known_until(self, until: float, now: float) -> None:
        """Count the time until then as announced waiting; overlapping spans count once."""
        begins = max(now, self._announced_until)
        if until > begins:
            self._announced_s += until - begins
            self._announced_until = until

    def announced_s(self, now: float) -> float:
        """Return the seconds of announced waiting so far."""
        return self._announced_s - max(0.0, self._announced_until - now)

    def wait_until(self, until: float, why: str) -> None:
        """Pause until then."""
        if until > self.until:
            self.until = until
            self.why = why


class Window:
    """Number of places in flight: the cap if a rate is configured, else found by slow start.

    A round is as many successes as there are places. Until the first 429, a round without 429 doubles the window up to
    the cap; from then on, an episode of 429 removes a fifth and a round without 429 adds one place.
    """

    def __init__(self, cap: int, *, adaptive: bool) -> None:
        self._cap = cap
        self._adaptive = adaptive
        self._doubling = True
        self._clean = 0
        self._most_passed = 0
        # Half: with a smaller start, every run would begin with more rounds of doubling.
        self.size = math.ceil(cap / 2) if adaptive else cap

    @property
    def is_narrow(self) -> bool:
        """Whether the window is smaller than the cap."""
        return self.size < self._cap

    def replied(self) -> str | None:
        """Count a success; return a note if the window grows."""
        self._clean += 1
        if self._clean < self.size:
            return None
        self._clean = 0
        before = self.size
        self.size = min(self._cap, self.size * 2 if self._doubling else self.size + 1)
        return f"in flight {before} → {self.size}"

    def passed(self, in_flight: int) -> None:
        """Record that a request was not refused, with the number in flight when it was sent."""
        if in_flight > self._most_passed:
            self._most_passed = in_flight

    def throttled(self, in_flight: int, counted: Dimension) -> str | None:
        """Record a new episode of 429; return a note if the window shrinks.

        A limit on requests in flight refuses only requests that were sent with more of them than have ever passed; any
        other refusal is about the rate, after the first, which may be about either.
        """
        if not self._adaptive:
            return None
        is_first, self._doubling = self._doubling, False
        is_crowded = in_flight > self._most_passed and 2 * in_flight > self.size
        if counted == "tokens" or not (is_first or is_crowded or counted == "concurrency"):
            return None
        self._clean = 0
        before = self.size
        self.size = max(1, int(self.size * 0.8))
        return f"429: in flight {before} → {self.size}"


class Breaker:
    """Circuit breaker: after many failures in a row, admits single probes at growing intervals until one succeeds."""

    def __init__(self) -> None:
        self.probe_at: float | None = None
        """When the next probe may be sent; None while closed."""
        self.probe: Permit | None = None
        """The probe in flight."""
        self._gap_s = _FIRST_PROBE_S
        self._transport = 0
        self._server = 0
        self._doubted_at = -math.inf
        """When it opened because the gateway rejected what it had accepted before."""

    def record(self, signal: Signal, permit: Permit, now: float) -> str | None:
        """Record a signal; return a note when the breaker opens or closes."""
        self._count(signal)
        if self.probe_at is None:
            return self._open(signal, now)
        if signal in ("replied", "answered") and permit.sent_at > self._doubted_at:
            self.probe_at = self.probe = None
            self._doubted_at = -math.inf
            return "the gateway answers again"
        if permit is self.probe:
            self.probe = None
            if signal == "throttled":  # the gateway works; the pause decides when to send next
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
            self._doubted_at = now  # a late reply to an older request is no evidence about a key revoked since
            why = "the gateway rejects what it accepted before"
        elif self._transport >= _TRANSPORT_FAILURES:
            why = f"{self._transport} requests in a row without an HTTP answer"
        elif self._server >= _SERVER_ERRORS:
            why = f"{self._server} server errors or unreadable answers without a reply"
        else:
            return None
        self._gap_s = _FIRST_PROBE_S
        self.probe_at = now + self._gap_s
        return f"{why}: only a probe every {self._gap_s:.0f} s from now on"
