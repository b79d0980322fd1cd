"""What follows an attempt: was it possibly paid, and is it sent again, given up, or the whole target suspended.

Pure decisions over values; times and random draws are arguments. There are three separate decisions:

- `attempt_class`: what an attempt may have cost. It is journaled and decides what may be sent again.
- `next_step`: how the turn continues.
- `TargetHealth`: whether the target is suspended.

After each attempt the runner calls `health.note`, `next_step`, `limiter.report(signal(...))`, the journal, `release`.
The three meet in one case, doubt: a target that has answered before and now refuses the key or the model, or three
dialogues in a row in the same way, may have a short outage (gateways lose their channels for a minute) or may be gone.
The turn then neither fails nor suspends the target. It is sent again through the limiter, which gets the signal
`doubtful` and admits only probes. A probe that is answered closes the breaker; after three with the same refusal the
target is suspended. A refusal costs nothing, so sending again is free.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from convbatch.engine.refusals import RefusedDialogues, refusal_of
from convbatch.engine.suspension import Address, excerpt, suspension, untrusted
from convbatch.reply import USAGE_COUNTS, Attempt, AttemptClass, ErrorKind, Failure, Reply, Usage

Signal = Literal["replied", "answered", "throttled", "server_error", "transport_failure", "doubtful", "unclear"]
"""The signals of `limiter.RateLimiter.report`."""

BASE_S = 1.0
MAX_BACKOFF_S = 60.0
AMBIGUOUS_RESENDS = 1
MAX_THROTTLED = 100
"""A turn that gets 429 this often is itself the cause: it is larger than the gateway ever accepts."""
PROBES_BEFORE_SUSPENDING = 3
SUSPEND_AFTER_S = 15 * 60.0
MIN_FAILURES = 3
MAX_HINT_S = 24 * 3600.0

_PERMANENT: frozenset[ErrorKind] = frozenset(
    {"quota", "auth", "permission", "not_found", "invalid_request", "context_length", "content_filter"}
)
_DOUBT: frozenset[ErrorKind] = frozenset({"auth", "not_found"})
_SUSPENDING: frozenset[ErrorKind] = frozenset({*_DOUBT, "quota", "permission"})
_OF_ACCOUNT: frozenset[ErrorKind] = frozenset({"quota", "auth", "permission"})
_SERVER_KINDS: frozenset[ErrorKind] = frozenset({"overloaded", "server_error"})
_BUSY: frozenset[ErrorKind] = frozenset({"rate_limit", "overloaded"})
_PASSING: frozenset[ErrorKind] = frozenset({*_BUSY, *_SERVER_KINDS})
"""Kinds of an error object in which the gateway refuses the request for now."""
_REFUSED_5XX = frozenset({500, 503, 529})
_REMAPPED_429 = frozenset({400, 403})
"""Statuses with which some gateways answer a request that a rate limit refuses; its error object says so."""
_ALWAYS_AMBIGUOUS = frozenset({408, 502, 504, *range(520, 525)})


def attempt_class(
    failure: Failure, *, http_status: int | None, sent: bool, own_timeout: bool = False, certificate: bool = False
) -> AttemptClass:
    """Classify a failed attempt by what it may have cost.

    Args:
        failure: As the protocol classified it, or made by the client if there was no answer.
        http_status: None if no status line arrived.
        sent: Whether the first byte of the request may have been sent.
        own_timeout: Whether the attempt timeout ended it.
        certificate: Whether the server's certificate was refused, so that nothing was sent.
    """
    if not sent or certificate:
        return "not_sent"
    if own_timeout:
        return "timeout"
    if http_status is None:
        return "ambiguous"
    if failure.no_model and http_status < 500 and failure.kind not in _BUSY:
        return "final"
    if 200 <= http_status < 300:
        return _inside_a_success(failure)
    return _by_status(http_status, failure.kind, structured=failure.structured)


def _by_status(status: int, kind: ErrorKind, *, structured: bool) -> AttemptClass:
    if status in _ALWAYS_AMBIGUOUS or status < 200:
        return "ambiguous"
    if status == 429 and kind not in _PERMANENT:
        return "refused"
    if status in _REMAPPED_429 and structured and kind == "rate_limit":
        return "refused"
    if status < 500 or (structured and (kind in _PERMANENT or status == 501)):
        # Gateways report a wrong model name as 503 and may map any status: if there is an error object, its kind
        # takes precedence over the status.
        return "final"
    # new-api's `empty_response` with a 500: the upstream generated, and billed, something that it cannot pass on.
    if status in _REFUSED_5XX and structured and kind != "empty_response":
        return "refused"
    return "ambiguous"


def _inside_a_success(failure: Failure) -> AttemptClass:
    if failure.text or _has_tokens(failure.usage):
        return "ambiguous"  # it failed during generation
    if failure.kind in _PERMANENT:
        return "final"
    status = _inner_status(failure.code)
    if status is not None:
        return _by_status(status, failure.kind, structured=True)
    return "refused" if failure.kind in _PASSING else "ambiguous"


def _has_tokens(usage: Usage) -> bool:
    """Whether any token was counted; gateways put a usage of zeros beside an error."""
    return any(getattr(usage, name) for name in USAGE_COUNTS)


def _inner_status(code: str | int | None) -> int | None:
    """Return the HTTP status that an error object inside a 200 gives as its code; None if it gives another code."""
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    return code if isinstance(code, int) and 400 <= code < 600 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryState:
    """Failures of a turn in this session; kills and earlier sessions do not count."""

    counted: int = 0
    """Failures that use up `--max-attempts`."""
    ambiguous: int = 0
    throttled: int = 0
    doubted_at: float | None = None
    """When this turn was first refused by a target that had answered before, monotonic seconds."""


INITIAL_RETRY_STATE = RetryState()


@dataclass(frozen=True, slots=True, kw_only=True)
class SendAgain:
    """Wait, then ask the limiter again; announced pauses are the limiter's."""

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
    of_account: bool = True
    """Whether the reason concerns the account, and so every target with the same key, host and model."""


Step = SendAgain | GiveUp | SuspendTarget


def next_step(
    attempt: Attempt, retry_state: RetryState, health: TargetHealth, *, max_attempts: int, now: float, draw: float
) -> Step | None:
    """Decide how a turn continues after an attempt that `health` has noted.

    Args:
        attempt: The latest attempt. A `not_sent` one is sent again only if its failure is `retryable`, which
            certificate errors are not.
        retry_state: State of this turn before the attempt.
        health: Health of the turn's target.
        max_attempts: Number of failures after which a turn is given up; 429 and doubt do not count.
        now: Monotonic seconds.
        draw: Uniform in [0, 1).

    Returns:
        The step; None after a complete reply.
    """
    if isinstance(attempt.outcome, Reply):
        return None
    step = _step(attempt, attempt.outcome, retry_state, health, max_attempts=max_attempts, now=now, draw=draw)
    is_of_target = (
        attempt.outcome.kind in _SUSPENDING or health.refuses_all(attempt) or _is_certificate_refused(attempt)
    )
    if health.suspend_reason is not None and (isinstance(step, SendAgain) or is_of_target):
        return SuspendTarget(reason=health.suspend_reason, of_account=health.suspends_account)
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
        case "final" if failure.kind in _DOUBT or health.refuses_all(attempt):
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


def _is_certificate_refused(attempt: Attempt) -> bool:
    failure = attempt.outcome
    return (
        isinstance(failure, Failure)
        and attempt.cls == "not_sent"
        and failure.kind == "connection"
        and not failure.retryable
    )


def _is_throttled(attempt: Attempt, failure: Failure) -> bool:
    return failure.kind == "rate_limit" or attempt.http_status == 429


def _hint(failure: Failure) -> float:
    """Return the seconds that the gateway asked for; zero if missing, negative or NaN."""
    return failure.retry_after_s if failure.retry_after_s is not None and failure.retry_after_s > 0 else 0.0


def signal(attempt: Attempt, step: Step | None) -> Signal:
    """Return the limiter's signal for an attempt, given the decision for its turn."""
    if isinstance(attempt.outcome, Reply):
        return "replied"
    failure = attempt.outcome
    match attempt.cls:
        case "refused" if _is_throttled(attempt, failure):
            return "throttled"
        case "final":
            # A turn that is given up is no evidence against the gateway; after a suspension no doubt is left.
            return "doubtful" if isinstance(step, SendAgain) else "answered"
        case "not_sent" if failure.kind not in _PERMANENT:
            return "transport_failure"
        case "timeout":
            return "transport_failure"
        case "ambiguous" if attempt.http_status is None:
            return "transport_failure"
        case "ambiguous" | "refused" if (attempt.http_status or 0) >= 500 or failure.kind in _SERVER_KINDS:
            return "server_error"
        case "ambiguous" if 200 <= (attempt.http_status or 0) < 300:
            return "server_error"  # nothing in it is a reply; each one may be paid, so many must not follow
        case _:
            return "unclear"


class TargetHealth:
    """Failures and successes of a target in this run, and whether it is suspended.

    Suspended at once: quota or balance used up; a requested wait of more than 24 hours; of a target that has never
    answered, a key or model that it refuses, or a certificate that we refuse. After three without an answer between
    them: probes with the same refusal (see the module's docstring); before any answer, permission denied (a single one
    could be a word filter on the first prompt), or dialogues refused in the same way. After 15 minutes with at least 3
    failures and no success: anything else; time in which the limiter had to wait (`held_s`) does not count.
    """

    def __init__(self, *, answered: bool = False, address: Address | None = None) -> None:
        self._address = address
        self.answered = answered
        """Whether the target has ever given a complete reply in this run, earlier sessions included."""
        self.suspend_reason: str | None = None
        """Reason and remedy, as text; final for this session."""
        self.suspends_account = False
        """Whether the reason is about the account (key, money, a long wait), not about an address or a setting."""
        self.newest_success_at = float("-inf")
        """When the latest request that got a reply was sent, monotonic seconds."""
        self._failures = 0
        self._failing_since = 0.0
        self._refused_last: object = None
        self._refused_in_a_row = 0
        self._refused = RefusedDialogues()

    def note(
        self, attempt: Attempt, *, dialogue: int, sent_at: float, is_probe: bool, now: float, held_s: float
    ) -> None:
        """Record an attempt.

        Args:
            attempt: Any but an abandoned one.
            dialogue: Position of its dialogue in the dataset.
            sent_at: `Permit.sent_at`.
            is_probe: `Permit.is_probe`.
            now: Monotonic seconds.
            held_s: `RateLimiter.held_s()`.
        """
        if isinstance(attempt.outcome, Reply):
            self.answered = True
            self.newest_success_at = max(self.newest_success_at, sent_at)
            self._failures = self._refused_in_a_row = 0
            self._refused.answered(sent_at)
            return
        failure = attempt.outcome
        if (refusal := refusal_of(attempt)) is not None:
            self._refused.add(refusal, dialogue, sent_at)
        if self.suspend_reason is not None or (attempt.cls == "not_sent" and failure.kind in _PERMANENT):
            return
        if self._failures == 0:
            self._failing_since = now - held_s
        self._failures += 1
        self.suspend_reason = self._refusal(attempt, failure, is_probe) or self._silence(failure, now - held_s)
        self.suspends_account = failure.kind in _OF_ACCOUNT or _hint(failure) > MAX_HINT_S

    def refuses_all(self, attempt: Attempt) -> bool:
        """Return whether the target refuses dialogue after dialogue in the way of this attempt."""
        refusal = refusal_of(attempt)
        return refusal is not None and self._refused.has_many(refusal)

    def _refusal(self, attempt: Attempt, failure: Failure, is_probe: bool) -> str | None:
        if failure.kind == "quota":
            return suspension(failure, attempt.http_status, self._address, attempt.body)
        if _hint(failure) > MAX_HINT_S:
            return f"the gateway asks to wait for more than a day ({excerpt(failure)}): resume later"
        if not self.answered and _is_certificate_refused(attempt):
            return untrusted(failure)
        if not self._is_gone(attempt, failure.kind, is_probe):
            return None
        return suspension(failure, attempt.http_status, self._address, attempt.body)

    def _is_gone(self, attempt: Attempt, kind: ErrorKind, is_probe: bool) -> bool:
        """Return whether the target as a whole is refused, for good."""
        refuses_all = self.refuses_all(attempt)
        if kind == "permission" and not self.answered:
            return self._in_a_row(kind) >= PROBES_BEFORE_SUSPENDING or refuses_all
        if kind not in _DOUBT and not refuses_all:
            return False
        if not self.answered:
            return True
        same = kind if kind in _DOUBT else refusal_of(attempt)
        return is_probe and self._in_a_row(same) >= PROBES_BEFORE_SUSPENDING

    def _in_a_row(self, refusal: object) -> int:
        self._refused_in_a_row = self._refused_in_a_row + 1 if refusal == self._refused_last else 1
        self._refused_last = refusal
        return self._refused_in_a_row

    def _silence(self, failure: Failure, outside_pauses: float) -> str | None:
        silent_s = outside_pauses - self._failing_since
        if silent_s < SUSPEND_AFTER_S or self._failures < MIN_FAILURES:
            return None
        return f"no reply in {silent_s / 60:.0f} minutes, {self._failures} failures ({excerpt(failure)}): resume later"
