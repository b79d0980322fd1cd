"""Was it possibly paid, and what now: send again, give up, or park the whole target.

Pure decisions over values; times and random draws are arguments. Three things are kept apart, because three things
depend on them:

- `attempt_class` says what an attempt may have cost. It goes into the journal and decides what may be sent again.
- `next_step` says what becomes of the turn.
- `TargetHealth` says what becomes of the target.

The runner's order after each attempt is `standing.note`, `next_step`, `gate.report(signal(...))`, journal, release.
Doubt is the one place where they meet. A target that has answered before and now refuses the key or the model may have
had a hiccup (gateways lose their channels for a minute) or may be gone. The turn is then neither failed nor parked: it
is sent again through the gate, which is told `doubtful` and lets nothing but probes through. A probe that is answered
opens the gate; three that say the same park the target. A refusal costs nothing, so asking again is free.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from convbatch.reply import Attempt, AttemptClass, ErrorKind, Failure, Reply

Signal = Literal["replied", "answered", "throttled", "server_error", "transport_failure", "doubtful", "unclear"]
"""The words `limiter.RateLimiter.report` takes."""

BASE_S = 1.0
MAX_BACKOFF_S = 60.0
AMBIGUOUS_RESENDS = 1
MAX_THROTTLED = 100
"""A turn refused this often by 429 is the trouble itself (larger than the gateway ever takes), not bad luck."""
PROBES_BEFORE_SUSPENDING = 3
SUSPEND_AFTER_S = 15 * 60.0
MIN_FAILURES = 3
MAX_HINT_S = 24 * 3600.0

_PERMANENT: frozenset[ErrorKind] = frozenset(
    {"quota", "auth", "permission", "not_found", "invalid_request", "context_length", "content_filter"}
)
_DOUBT: frozenset[ErrorKind] = frozenset({"auth", "not_found"})
_SUSPENDING: frozenset[ErrorKind] = frozenset({*_DOUBT, "quota", "permission"})
_SERVER_KINDS: frozenset[ErrorKind] = frozenset({"overloaded", "server_error"})
_REFUSED_5XX = frozenset({500, 503, 529})
_ALWAYS_AMBIGUOUS = frozenset({408, 502, 504, *range(520, 525)})
_WORDS_FOR_500 = frozenset({"internal", "server_error", "api_error", "internal_error", "internal_server_error"})


def attempt_class(
    failure: Failure, *, http_status: int | None, sent: bool, own_timeout: bool = False, certificate: bool = False
) -> AttemptClass:
    """What a failed attempt may have cost.

    Args:
        failure: As the protocol classified it, or made by the client for want of an answer.
        http_status: None when no status line came.
        sent: Whether the request's first byte may have left.
        own_timeout: We stopped waiting.
        certificate: The server's certificate was refused, so nothing was sent whatever else is known.
    """
    if not sent or certificate:
        return "not_sent"
    if own_timeout:
        return "timeout"
    if http_status is None:
        return "ambiguous"
    if 200 <= http_status < 300:
        return _inside_a_success(failure)
    return _by_status(http_status, failure.kind, structured=failure.structured)


def _by_status(status: int, kind: ErrorKind, *, structured: bool) -> AttemptClass:
    if status in _ALWAYS_AMBIGUOUS or status < 200:
        return "ambiguous"
    if status == 429 and kind not in _PERMANENT:
        return "refused"
    if status < 500 or (structured and (kind in _PERMANENT or status == 501)):
        # Gateways word a wrong model name as 503 and may map any status: where there is an error object, its kind
        # stands before its status.
        return "final"
    # `empty_response` as a 500 is new-api's word for "the upstream generated, and billed, nothing we can pass on".
    if status in _REFUSED_5XX and structured and kind != "empty_response":
        return "refused"
    return "ambiguous"


def _inside_a_success(failure: Failure) -> AttemptClass:
    if failure.text or failure.usage.source != "missing":
        return "ambiguous"  # it broke while it was generating
    if failure.kind in _PERMANENT:
        return "final"
    status = _inner_status(failure)
    return "ambiguous" if status is None else _by_status(status, failure.kind, structured=True)


def _inner_status(failure: Failure) -> int | None:
    """The status an error object inside a 200 speaks of; None when it cannot be told."""
    code = failure.code
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    if isinstance(code, int) and 400 <= code < 600:
        return code
    if failure.kind == "rate_limit":
        return 429
    if failure.kind == "overloaded":
        return 503
    if isinstance(code, str) and code.lower() in _WORDS_FOR_500:
        return 500
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryState:
    """What a turn has been through in this session; kills and earlier sessions do not count."""

    counted: int = 0
    """Failures that use up `--max-attempts`."""
    ambiguous: int = 0
    throttled: int = 0
    doubted_at: float | None = None
    """When this turn was first refused by a target that had answered before."""


INITIAL_RETRY_STATE = RetryState()


@dataclass(frozen=True, slots=True, kw_only=True)
class SendAgain:
    """Wait, then pass the gate again; the gate holds announced pauses by itself."""

    wait_s: float
    retry_state: RetryState


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """The turn ends as `error`."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendTarget:
    """The turn stays `pending`, like every other open turn of its target."""

    reason: str


Step = SendAgain | GiveUp | SuspendTarget


def next_step(
    attempt: Attempt, retry_state: RetryState, health: TargetHealth, *, max_attempts: int, now: float, draw: float
) -> Step | None:
    """What becomes of a turn after an attempt that `standing` has noted.

    Args:
        attempt: The latest one. A `not_sent` one is sent again only if its failure is `retryable`: certificate errors
            are not, they stay as they are.
        retry_state: Of this turn, before this attempt.
        health: Of the turn's target.
        max_attempts: Failures after which a turn is given up; 429 and doubt do not count.
        now: Monotonic seconds.
        draw: Uniform in [0, 1).

    Returns:
        None after a complete reply: there is nothing to decide.
    """
    if isinstance(attempt.outcome, Reply):
        return None
    step = _step(attempt, attempt.outcome, retry_state, health, max_attempts=max_attempts, now=now, draw=draw)
    if health.suspend_reason is not None and (isinstance(step, SendAgain) or attempt.outcome.kind in _SUSPENDING):
        return SuspendTarget(reason=health.suspend_reason)
    return step


def _step(
    attempt: Attempt,
    failure: Failure,
    retry_state: RetryState,
    health: TargetHealth,
    *,
    max_attempts: int,
    now: float,
    draw: float,
) -> SendAgain | GiveUp:
    match attempt.cls:
        case "final" if failure.kind in _DOUBT:
            return _doubt(failure, retry_state, health, now)
        case "refused" if _is_throttled(attempt, failure):
            if retry_state.throttled + 1 >= MAX_THROTTLED:
                return GiveUp(reason=f"refused {MAX_THROTTLED} times with 429")
            return SendAgain(wait_s=0.0, retry_state=replace(retry_state, throttled=retry_state.throttled + 1))
        case "not_sent" if failure.retryable and failure.kind not in _PERMANENT:
            return _count(failure, retry_state, max_attempts, draw)
        case "refused" if failure.should_retry is not False:
            return _count(failure, retry_state, max_attempts, draw)
        case "ambiguous" if failure.should_retry is not False and retry_state.ambiguous < AMBIGUOUS_RESENDS:
            return _count(failure, replace(retry_state, ambiguous=retry_state.ambiguous + 1), max_attempts, draw)
        case "ambiguous" if retry_state.ambiguous >= AMBIGUOUS_RESENDS:
            return GiveUp(reason=f"{failure.kind}: twice possibly paid without a reply")
        case "timeout":
            return GiveUp(reason="no complete answer within the attempt timeout; possibly paid")
        case _:
            return GiveUp(reason=f"{failure.kind}: not sent again")


def _doubt(failure: Failure, retry_state: RetryState, health: TargetHealth, now: float) -> SendAgain | GiveUp:
    if retry_state.doubted_at is None:
        return SendAgain(wait_s=0.0, retry_state=replace(retry_state, doubted_at=now))
    if health.newest_success_at > retry_state.doubted_at:
        return GiveUp(reason=f"{failure.kind}: refused again while other turns were answered")
    return SendAgain(wait_s=0.0, retry_state=retry_state)


def _count(failure: Failure, retry_state: RetryState, max_attempts: int, draw: float) -> SendAgain | GiveUp:
    counted = retry_state.counted + 1
    if counted >= max_attempts:
        return GiveUp(reason=f"{failure.kind}: {counted} {'attempt' if counted == 1 else 'attempts'} failed")
    longest = min(MAX_BACKOFF_S, BASE_S * 2.0 ** min(counted - 1, 30))
    return SendAgain(wait_s=max(draw * longest, _hint(failure)), retry_state=replace(retry_state, counted=counted))


def _is_throttled(attempt: Attempt, failure: Failure) -> bool:
    return failure.kind == "rate_limit" or attempt.http_status == 429


def _hint(failure: Failure) -> float:
    """Seconds the gateway asked for; zero for none, negative and NaN."""
    return failure.retry_after_s if failure.retry_after_s is not None and failure.retry_after_s > 0 else 0.0


def signal(attempt: Attempt, step: Step | None) -> Signal:
    """What an attempt tells the gate, given what was decided for its turn."""
    if isinstance(attempt.outcome, Reply):
        return "replied"
    failure = attempt.outcome
    match attempt.cls:
        case "refused" if _is_throttled(attempt, failure):
            return "throttled"
        case "final":
            # A turn given up on its own account says nothing against the gateway; parked, nothing is left to doubt.
            return "doubtful" if failure.kind in _DOUBT and isinstance(step, SendAgain) else "answered"
        case "not_sent" if failure.kind not in _PERMANENT:
            return "transport_failure"
        case "timeout":
            return "transport_failure"
        case "ambiguous" if attempt.http_status is None:
            return "transport_failure"
        case "ambiguous" | "refused" if (attempt.http_status or 0) >= 500 or failure.kind in _SERVER_KINDS:
            return "server_error"
        case _:
            return "unclear"


class TargetHealth:
    """How a target stands in this run, and whether it is parked.

    Parked at once: quota or balance used up; a wait of more than 24 hours asked for; a key or model refused by a target
    that has never answered. After three in a row: probes that say the same (see the module's docstring), or permission
    denied before any answer (once could be a word filter at the first prompt). After 15 minutes, at least 3 failures
    and no success in them: anything else; time that the gate was told to wait (`held_s`) does not count.
    """

    def __init__(self, *, answered: bool = False) -> None:
        self.answered = answered
        """Has it ever given a complete reply in this run, earlier sessions included?"""
        self.suspend_reason: str | None = None
        """A sentence for people, with how to mend it; final for this session."""
        self.newest_success_at = float("-inf")
        """When the latest request that got a reply was sent, monotonic."""
        self._failures = 0
        self._failing_since = 0.0
        self._same_kind: ErrorKind | None = None
        self._same = 0

    def note(self, attempt: Attempt, *, sent_at: float, is_probe: bool, now: float, held_s: float) -> None:
        """Take in an attempt.

        Args:
            attempt: Any but an abandoned one.
            sent_at: `Permit.sent_at`.
            is_probe: `Permit.is_probe`.
            now: Monotonic seconds.
            held_s: `Gate.held_s()`.
        """
        if isinstance(attempt.outcome, Reply):
            self.answered = True
            self.newest_success_at = max(self.newest_success_at, sent_at)
            self._failures = self._same = 0
            return
        failure = attempt.outcome
        if self.suspend_reason is not None or (attempt.cls == "not_sent" and failure.kind in _PERMANENT):
            return
        if self._failures == 0:
            self._failing_since = now - held_s
        self._failures += 1
        self.suspend_reason = self._refusal(failure, is_probe) or self._silence(failure, now - held_s)

    def _refusal(self, failure: Failure, is_probe: bool) -> str | None:
        if failure.kind == "quota":
            return f"quota or balance is used up ({_error_excerpt(failure)}): top up or wait for the reset, then resume"
        if _hint(failure) > MAX_HINT_S:
            return f"the gateway asks to wait for more than a day ({_error_excerpt(failure)}): resume later"
        if failure.kind in _DOUBT:
            enough = not self.answered or (is_probe and self._in_a_row(failure.kind) >= PROBES_BEFORE_SUSPENDING)
        elif failure.kind == "permission" and not self.answered:
            enough = self._in_a_row("permission") >= PROBES_BEFORE_SUSPENDING
        else:
            return None
        return (
            f"{_REFUSED[failure.kind]} ({_error_excerpt(failure)}): {_REMEDY[failure.kind]}, then resume"
            if enough
            else None
        )

    def _in_a_row(self, kind: ErrorKind) -> int:
        self._same = self._same + 1 if kind == self._same_kind else 1
        self._same_kind = kind
        return self._same

    def _silence(self, failure: Failure, outside_pauses: float) -> str | None:
        silent_s = outside_pauses - self._failing_since
        if silent_s < SUSPEND_AFTER_S or self._failures < MIN_FAILURES:
            return None
        excerpt = _error_excerpt(failure)
        return f"no reply in {silent_s / 60:.0f} minutes, {self._failures} failures ({excerpt}): resume later"


_REFUSED: dict[ErrorKind, str] = {
    "auth": "the key is refused",
    "permission": "permission is denied",
    "not_found": "there is no such model, or no channel for it",
}
_REMEDY: dict[ErrorKind, str] = {
    "auth": "check that the key belongs to this gateway",
    "permission": "see what the key may do",
    "not_found": "compare the name with the gateway's list (`convbatch doctor -g`)",
}


def _error_excerpt(failure: Failure) -> str:
    text = " ".join(failure.message.split())
    return text if len(text) <= 160 else text[:159] + "…"
