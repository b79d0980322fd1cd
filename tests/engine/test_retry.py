from __future__ import annotations

import asyncio
import math
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.engine.limiter import RateLimiter
from convbatch.engine.refusals import refusal_of
from convbatch.engine.retry import (
    MAX_THROTTLED,
    GiveUp,
    RetryState,
    SendAgain,
    Signal,
    Step,
    SuspendTarget,
    TargetHealth,
    attempt_class,
    next_step,
    signal,
)
from convbatch.reply import Attempt, AttemptClass, ErrorKind, Failure, Reply, Usage
from tests.support.tables import each
from tests.support.virtual_time import VirtualClock, run

REPLY = Attempt(
    outcome=Reply(text="hi", finish_reason="stop", finish_reason_raw="STOP"), cls="replied", http_status=200
)


def failed(kind: ErrorKind, status: int | None = None, *, sent: bool = True, **more: Any) -> Attempt:
    """Return a failed attempt as the client builds it: `attempt_class` determines its class."""
    own = {name: more.pop(name) for name in ("own_timeout", "certificate") if name in more}
    fields: dict[str, Any] = {"message": "message of the gateway", "retryable": True, "structured": True, **more}
    failure = Failure(kind=kind, **fields)
    cls = attempt_class(failure, http_status=status, sent=sent, **own)
    return Attempt(outcome=failure, cls=cls, http_status=status)


def an_answered_target() -> TargetHealth:
    health = TargetHealth()
    health.note(REPLY, dialogue=0, sent_at=0.0, is_probe=False, now=1.0, held_s=0.0)
    return health


FRESH = RetryState()


def decide(
    attempt: Attempt, retry_state: RetryState = FRESH, health: TargetHealth | None = None, **more: Any
) -> Step | None:
    values: dict[str, Any] = {"max_attempts": 5, "now": 10.0, "draw": 0.5, **more}
    return next_step(attempt, retry_state, health or an_answered_target(), **values)


# -- classes of attempts

UNSTRUCTURED = {"structured": False}


@each(
    ("kind", "status", "more", "cls"),
    [
        # Not sent.
        ("connection", None, {"sent": False}, "not_sent"),
        ("timeout", None, {"sent": False, "own_timeout": True}, "not_sent"),
        ("connection", None, {"certificate": True}, "not_sent"),
        # Refused.
        ("rate_limit", 429, {}, "refused"),
        ("rate_limit", 429, UNSTRUCTURED, "refused"),
        ("rate_limit", 403, {}, "refused"),
        ("rate_limit", 400, {}, "refused"),
        ("overloaded", 429, {}, "refused"),
        ("server_error", 500, {}, "refused"),
        ("overloaded", 503, {}, "refused"),
        ("overloaded", 529, {}, "refused"),
        ("rate_limit", 503, {}, "refused"),
        # Ambiguous.
        ("timeout", 408, {}, "ambiguous"),
        ("server_error", 502, {}, "ambiguous"),
        ("timeout", 504, {}, "ambiguous"),
        *[("server_error", status, {}, "ambiguous") for status in (520, 521, 522, 523, 524)],
        ("server_error", 500, UNSTRUCTURED, "ambiguous"),
        ("overloaded", 503, UNSTRUCTURED, "ambiguous"),
        ("overloaded", 529, UNSTRUCTURED, "ambiguous"),
        ("server_error", 507, {}, "ambiguous"),
        ("empty_response", 500, {}, "ambiguous"),
        ("connection", None, {}, "ambiguous"),
        ("connection", 200, UNSTRUCTURED, "ambiguous"),
        ("bad_response", 200, UNSTRUCTURED, "ambiguous"),
        ("stream_truncated", 200, UNSTRUCTURED, "ambiguous"),
        ("empty_response", 200, {}, "ambiguous"),
        ("connection", 503, UNSTRUCTURED, "ambiguous"),
        # Our own timeout.
        ("timeout", None, {"own_timeout": True}, "timeout"),
        ("timeout", 200, {"own_timeout": True}, "timeout"),
        # No model was asked: final under any status that says so.
        ("bad_response", 302, UNSTRUCTURED, "final"),
        ("bad_response", 200, {**UNSTRUCTURED, "no_model": True}, "final"),
        ("bad_response", 404, {**UNSTRUCTURED, "no_model": True}, "final"),
        ("rate_limit", 429, {**UNSTRUCTURED, "no_model": True}, "refused"),
        ("overloaded", 200, {"no_model": True}, "refused"),
        ("bad_response", 502, {**UNSTRUCTURED, "no_model": True}, "ambiguous"),
        # Final.
        ("invalid_request", 400, {}, "final"),
        ("invalid_request", 409, {}, "final"),
        ("auth", 400, {}, "final"),
        ("auth", 401, UNSTRUCTURED, "final"),
        ("quota", 402, {}, "final"),
        ("permission", 403, {}, "final"),
        ("not_found", 404, {}, "final"),
        ("invalid_request", 413, {}, "final"),
        ("invalid_request", 422, {}, "final"),
        ("rate_limit", 403, UNSTRUCTURED, "final"),
        ("rate_limit", 413, {}, "final"),
        ("quota", 429, {}, "final"),
        ("not_found", 503, {}, "final"),
        ("quota", 500, {}, "final"),
        ("invalid_request", 501, {}, "final"),
        ("server_error", 501, {}, "final"),
    ],
)
def test_an_attempt_has_the_class_of_its_failure(
    kind: ErrorKind, status: int | None, more: dict[str, Any], cls: AttemptClass
):
    assert failed(kind, status, **more).cls == cls


@each(
    ("kind", "code", "more", "cls"),
    [
        ("rate_limit", "RESOURCE_EXHAUSTED", {}, "refused"),
        ("rate_limit", 429, {}, "refused"),
        ("quota", "insufficient_quota", {}, "final"),
        ("auth", "invalid_api_key", {}, "final"),
        ("not_found", "model_not_found", {}, "final"),
        ("invalid_request", 400, {}, "final"),
        ("content_filter", "prompt_blocked", {}, "final"),
        ("overloaded", "UNAVAILABLE", {}, "refused"),
        ("server_error", "INTERNAL", {}, "refused"),
        ("server_error", "server_error", {}, "refused"),
        ("server_error", "500", {}, "refused"),
        ("server_error", 502, {}, "ambiguous"),
        ("timeout", "DEADLINE_EXCEEDED", {}, "ambiguous"),
        ("timeout", 504, {}, "ambiguous"),
        # Without an HTTP status as its code, by its kind: the gateway answered with an error, so no model did.
        ("server_error", "bad_response", {}, "refused"),
        ("server_error", None, {"structured": False}, "refused"),
        ("server_error", 11200, {}, "refused"),
        ("rate_limit", 1002, {}, "refused"),
        ("auth", 1004, {}, "final"),
        ("invalid_request", 336003, {}, "final"),
        ("timeout", 1001, {}, "ambiguous"),
        # A usage of zeros is no generation, one token is.
        ("rate_limit", 1002, {"usage": Usage(input_tokens=0, total_tokens=0, source="partial")}, "refused"),
        ("quota", 1008, {"usage": Usage(output_tokens=0, source="partial")}, "final"),
        ("quota", 1008, {"usage": Usage(total_tokens=1, source="partial")}, "ambiguous"),
        ("overloaded", "UNAVAILABLE", {"text": "half a rep"}, "ambiguous"),
        ("server_error", 500, {"usage": Usage(output_tokens=3, source="partial")}, "ambiguous"),
    ],
)
def test_an_error_object_inside_a_200_is_classified_by_its_code_or_kind(
    kind: ErrorKind, code: str | int | None, more: dict[str, Any], cls: AttemptClass
):
    assert failed(kind, 200, code=code, **more).cls == cls


# -- next step of the turn


@each(
    ("attempt", "retry_state"),
    [
        pytest.param(failed("connection", sent=False), RetryState(counted=1), id="no connection"),
        pytest.param(failed("server_error", 500), RetryState(counted=1), id="refused by a 500"),
        pytest.param(failed("overloaded", 503), RetryState(counted=1), id="refused by a 503"),
        pytest.param(failed("connection"), RetryState(counted=1, ambiguous=1), id="reset after sending"),
        pytest.param(failed("server_error", 502), RetryState(counted=1, ambiguous=1), id="502"),
        pytest.param(
            failed("bad_response", 200, structured=False), RetryState(counted=1, ambiguous=1), id="unreadable"
        ),
        pytest.param(failed("rate_limit", 429), RetryState(throttled=1), id="429 uses up no attempt"),
        pytest.param(failed("rate_limit", 200, code=429), RetryState(throttled=1), id="429 inside a 200"),
        pytest.param(
            failed("rate_limit", 429, should_retry=False), RetryState(throttled=1), id="429: the pause decides"
        ),
    ],
)
def test_a_retryable_failure_is_sent_again(attempt: Attempt, retry_state: RetryState):
    step = decide(attempt)
    assert isinstance(step, SendAgain)
    assert step.retry_state == retry_state


@each(
    ("attempt", "reason"),
    [
        pytest.param(failed("connection", sent=False, retryable=False), "not sent again", id="certificate"),
        pytest.param(failed("invalid_request", sent=False), "not sent again", id="cannot be encoded"),
        pytest.param(failed("timeout", own_timeout=True), "attempt timeout", id="own timeout"),
        pytest.param(failed("invalid_request", 400), "not sent again", id="400"),
        pytest.param(failed("bad_response", 302), "not sent again", id="redirect"),
        pytest.param(
            failed("server_error", 500, should_retry=False), "not sent again", id="x-should-retry: false, 500"
        ),
        pytest.param(
            failed("server_error", 502, should_retry=False), "not sent again", id="x-should-retry: false, 502"
        ),
        pytest.param(
            failed("invalid_request", 409, should_retry=True), "not sent again", id="x-should-retry: true, but final"
        ),
        pytest.param(failed("connection")._replace(cls="abandoned"), "not sent again", id="abandoned"),
    ],
)
def test_a_final_failure_is_given_up(attempt: Attempt, reason: str):
    step = decide(attempt)
    assert isinstance(step, GiveUp)
    assert reason in step.reason


def test_a_complete_reply_needs_no_next_step():
    assert decide(REPLY) is None


@each("max_attempts", [1, 2, 5])
@each("attempt", [failed("connection", sent=False), failed("server_error", 500)])
def test_a_turn_is_given_up_after_max_attempts(attempt: Attempt, max_attempts: int):
    retry_state, sent = RetryState(), 1
    while isinstance(step := decide(attempt, retry_state, max_attempts=max_attempts), SendAgain):
        retry_state, sent = step.retry_state, sent + 1
    assert isinstance(step, GiveUp)
    assert sent == max_attempts


def test_a_turn_is_sent_only_once_more_after_an_ambiguous_attempt():
    attempts = [failed("connection"), failed("server_error", 500), failed("rate_limit", 429), failed("connection")]
    retry_state = RetryState()
    steps: list[Step | None] = []
    for attempt in attempts:
        steps.append(step := decide(attempt, retry_state))
        retry_state = step.retry_state if isinstance(step, SendAgain) else retry_state
    assert [type(step) for step in steps] == [SendAgain, SendAgain, SendAgain, GiveUp]


def test_429_uses_up_no_attempts_but_is_limited():
    retry_state, sent = RetryState(), 1
    while isinstance(step := decide(failed("rate_limit", 429), retry_state), SendAgain):
        retry_state, sent = step.retry_state, sent + 1
    assert sent == MAX_THROTTLED
    assert retry_state.counted == 0


@given(counted=st.integers(0, 5000), draw=st.floats(0, 1, exclude_max=True))
def test_backoff_is_full_jitter_up_to_a_minute(counted: int, draw: float):
    step = decide(failed("server_error", 503), RetryState(counted=counted), max_attempts=10_000, draw=draw)
    assert isinstance(step, SendAgain)
    assert step.wait_s == pytest.approx(draw * min(60.0, 2.0 ** min(counted, 10)))


@each(("hint", "wait_s"), [(30.0, 30.0), (0.1, 0.5), (0.0, 0.5), (-3.0, 0.5), (math.nan, 0.5), (None, 0.5)])
def test_a_hint_of_a_5xx_sets_the_wait(hint: float | None, wait_s: float):
    step = decide(failed("overloaded", 503, retry_after_s=hint))
    assert isinstance(step, SendAgain)
    assert step.wait_s == wait_s


# -- signals to the rate limiter


@each(
    ("attempt", "word"),
    [
        (REPLY, "replied"),
        (failed("rate_limit", 429), "throttled"),
        (failed("overloaded", 429), "throttled"),
        (failed("rate_limit", 200, code="RESOURCE_EXHAUSTED"), "throttled"),
        (failed("server_error", 500), "server_error"),
        (failed("server_error", 502, structured=False), "server_error"),
        (failed("timeout", 524, structured=False), "server_error"),
        (failed("overloaded", 200, code="UNAVAILABLE"), "server_error"),
        (failed("connection"), "transport_failure"),
        (failed("connection", sent=False), "transport_failure"),
        (failed("timeout", own_timeout=True), "transport_failure"),
        (failed("invalid_request", sent=False), "unclear"),
        (failed("bad_response", 200), "server_error"),
        (failed("timeout", 408), "unclear"),
        (failed("invalid_request", 400), "answered"),
        (failed("content_filter", 400), "answered"),
        (failed("permission", 403), "answered"),
        (failed("quota", 429), "answered"),
        (failed("auth", 401), "doubtful"),
        (failed("not_found", 503), "doubtful"),
    ],
)
def test_each_outcome_sends_its_signal_to_the_rate_limiter(attempt: Attempt, word: Signal):
    assert signal(attempt, decide(attempt)) == word


# -- suspension of the target


DIALOGUES = count(1)


def note(health: TargetHealth, attempt: Attempt, at: float = 5.0, **more: Any) -> None:
    """Record an attempt; of a dialogue of its own, unless `dialogue` says which."""
    values: dict[str, Any] = {"dialogue": next(DIALOGUES), "is_probe": False, "held_s": 0.0, **more}
    health.note(attempt, sent_at=at - 1, now=at, **values)


@each("answered", [False, True])
@each(
    ("attempt", "reason"),
    [
        (failed("quota", 429), "quota or balance is used up"),
        (failed("quota", 402), "quota or balance is used up"),
        (failed("rate_limit", 429, retry_after_s=90_000.0), "more than a day"),
        (failed("rate_limit", 429, retry_after_s=math.inf), "more than a day"),
    ],
)
def test_a_target_without_quota_is_suspended_at_once(answered: bool, attempt: Attempt, reason: str):
    health = TargetHealth(answered=answered)
    note(health, attempt)
    assert reason in (health.suspend_reason or "")
    assert decide(attempt, health=health) == SuspendTarget(reason=health.suspend_reason or "")


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        (failed("auth", 401), "the key is refused (message of the gateway)"),
        (failed("not_found", 404), "no such model"),
        (failed("not_found", 503), "no channel"),
    ],
    ids=["key", "model", "channel"],
)
def test_a_target_that_never_answered_is_suspended_at_the_first_refusal(attempt: Attempt, reason: str):
    health = TargetHealth()
    note(health, attempt)
    assert reason in (health.suspend_reason or "")
    assert isinstance(decide(attempt, health=health), SuspendTarget)


def test_permission_denied_suspends_a_target_that_never_answered_whatever_the_words():
    health = TargetHealth()
    for words in ("not for you", "nor for you"):
        note(health, failed("permission", 403, message=words))
        assert isinstance(decide(failed("permission", 403), health=health), GiveUp)
    note(health, failed("permission", 403, message="nor for them"))
    assert isinstance(decide(failed("permission", 403), health=health), SuspendTarget)


# -- dialogues refused in the same way, in words that no table lists

UNLISTED = [
    failed("invalid_request", 400, message="Feature gate closed for tenant 4711"),
    failed("permission", 403, message="Feature gate closed for tenant 4711"),
    failed("bad_response", 200, message="a web page", structured=False, no_model=True),
    failed("bad_response", 307, message="a redirect", structured=False, no_model=True),
    failed("server_error", 501, message="not built"),
]
any_unlisted = st.sampled_from(UNLISTED)


@given(attempt=any_unlisted)
def test_three_dialogues_refused_alike_suspend_a_target_that_never_answered(attempt: Attempt):
    health = TargetHealth()
    for _ in range(2):
        note(health, attempt)
        assert isinstance(decide(attempt, health=health), GiveUp)
    note(health, attempt)
    step = decide(attempt, health=health)
    assert isinstance(step, SuspendTarget)


@given(attempt=any_unlisted)
def test_after_an_answer_three_dialogues_refused_alike_need_three_probes_to_suspend_a_target(attempt: Attempt):
    health = an_answered_target()
    for _ in range(2):
        note(health, attempt)
        assert isinstance(decide(attempt, health=health), GiveUp)
    note(health, attempt)
    step = decide(attempt, health=health)
    assert isinstance(step, SendAgain)
    assert signal(attempt, step) == "doubtful"
    for _ in range(2):
        note(health, attempt, is_probe=True)
        assert isinstance(decide(attempt, health=health), SendAgain)
    note(health, attempt, is_probe=True)
    assert isinstance(decide(attempt, health=health), SuspendTarget)


@given(attempts=st.lists(st.tuples(any_unlisted, st.booleans()), min_size=5, max_size=30), answer_at=st.integers(2, 4))
def test_no_refusal_suspends_a_target_that_answers_in_between(attempts: list[tuple[Attempt, bool]], answer_at: int):
    health = an_answered_target()
    for number, (attempt, is_probe) in enumerate(attempts):
        note(health, REPLY if number % answer_at == 0 else attempt, number, is_probe=is_probe)
    if answer_at < 4:
        assert not any(health.refuses_all(attempt) for attempt in UNLISTED)
    assert health.suspend_reason is None


@given(
    events=st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 4)), max_size=20),
    refusal=any_unlisted,
)
def test_what_counts_are_the_dialogues_refused_after_the_newest_answered_request(
    events: list[tuple[bool, int, int]], refusal: Attempt
):
    # Events arrive in any order of sending: (answered?, when it was sent, dialogue).
    health = an_answered_target()
    for is_answer, sent_at, dialogue in events:
        attempt = REPLY if is_answer else refusal
        health.note(
            attempt, dialogue=dialogue, sent_at=sent_at + 0.5 * (not is_answer), is_probe=False, now=20, held_s=0
        )
    newest = max((sent_at for is_answer, sent_at, _ in events if is_answer), default=-1)
    refused = {dialogue for is_answer, sent_at, dialogue in events if not is_answer and sent_at >= newest}
    assert health.refuses_all(refusal) is (len(refused) >= 3)


@given(attempt=any_unlisted, times=st.integers(1, 20))
def test_one_dialogue_does_not_speak_for_its_target(attempt: Attempt, times: int):
    # In `script` history every turn of a dialogue may be refused for its first image, and so may every repeat.
    health = TargetHealth()
    for _ in range(times):
        for dialogue in (1, 2):
            note(health, attempt, dialogue=dialogue)
    assert not health.refuses_all(attempt)


@each(
    ("kind", "status"), [("context_length", 400), ("content_filter", 403), ("server_error", 500), ("rate_limit", 429)]
)
def test_what_one_dialogue_contains_or_what_passes_never_counts_as_refused_alike(kind: ErrorKind, status: int):
    health = TargetHealth()
    for _ in range(10):
        note(health, failed(kind, status))
    assert not health.refuses_all(failed(kind, status))
    assert health.suspend_reason is None


@given(st.permutations(["image is no PNG", "no tool named f", "turn is empty", "seed is negative", "turn is long"]))
def test_dialogues_refused_in_words_of_their_own_are_results(messages: list[str]):
    health = TargetHealth()
    for message in messages:
        attempt = failed("invalid_request", 400, message=message)
        note(health, attempt)
        assert isinstance(decide(attempt, health=health), GiveUp)


@each(
    ("one", "other", "alike"),
    [
        ("no access (request id: 20261127aB3)", "no access (request id: 20261127xY9)", True),
        ("Team 12 is out of 10.5 units", "Team 7 is out of 3 units", True),
        ("cannot take 'Hello, who are you?' here", "cannot take 'What time is it?' here", True),
        ("see https://a.example/1/x", "see https://a.example/2/y", True),
        ("余额 10 元，无法使用", "余额 5 元，无法使用", True),
        ("请求abc1被拒绝", "请求xyz2被拒绝", True),
        ("Unsupported value: 'temperature'", "Unsupported value: 'top_p'", False),
        ("no such tool", "no such part", False),
        ("模型未开通", "参数不正确", False),
        ("", "", True),
    ],
)
def test_refusals_are_alike_if_their_words_are_but_for_what_depends_on_the_request(one: str, other: str, alike: bool):
    first, second = (failed("invalid_request", 400, message=text) for text in (one, other))
    assert (refusal_of(first) == refusal_of(second)) is alike
    assert refusal_of(first) != refusal_of(failed("invalid_request", 422, message=one))


@given(st.text(max_size=600))
def test_any_message_can_be_compared(message: str):
    attempt = failed("invalid_request", 400, message=message)
    assert refusal_of(attempt) == refusal_of(attempt)


def test_after_an_answer_three_probes_must_fail_alike_to_suspend_a_target():
    health = an_answered_target()
    attempt = failed("auth", 401)
    for _ in range(50):  # requests in flight when the key was revoked
        note(health, attempt)
    for _ in range(2):
        note(health, attempt, is_probe=True)
    assert health.suspend_reason is None
    note(health, attempt, is_probe=True)
    assert "key is refused" in (health.suspend_reason or "")


@pytest.mark.parametrize("between", [REPLY, failed("not_found", 404)], ids=["a reply", "another refusal"])
def test_probes_with_different_results_do_not_suspend_a_target(between: Attempt):
    health = an_answered_target()
    for attempt in (failed("auth", 401), failed("auth", 401), between, failed("auth", 401), failed("auth", 401)):
        note(health, attempt, is_probe=True)
    assert health.suspend_reason is None


def test_a_turn_whose_target_is_in_doubt_is_sent_again_without_using_up_attempts():
    health = an_answered_target()
    note(health, failed("auth", 401), 20.0)
    step = decide(failed("auth", 401), health=health, now=20.0, max_attempts=1)
    assert step == SendAgain(wait_s=0.0, retry_state=RetryState(doubted_at=20.0))


def test_a_turn_refused_again_while_others_are_answered_is_given_up():
    health = an_answered_target()
    attempt = failed("not_found", 404)
    note(health, attempt, 20.0)
    doubted = decide(attempt, health=health, now=20.0)
    assert isinstance(doubted, SendAgain)
    # Sent before the doubt, so it proves nothing.
    health.note(REPLY, dialogue=0, sent_at=19.0, is_probe=False, now=21.0, held_s=0.0)
    assert isinstance(decide(attempt, doubted.retry_state, health, now=22.0), SendAgain)
    health.note(REPLY, dialogue=0, sent_at=25.0, is_probe=True, now=26.0, held_s=0.0)
    step = decide(attempt, doubted.retry_state, health, now=30.0)
    assert isinstance(step, GiveUp)
    assert signal(attempt, step) == "answered"


@each(
    ("times", "held", "suspended"),
    [
        pytest.param([0, 450, 899], 0, False, id="not yet 15 minutes"),
        pytest.param([0, 450, 900], 0, True, id="15 minutes"),
        pytest.param([0, 900], 0, False, id="two failures are too few"),
        pytest.param([0, 450, 1000], 101, False, id="announced pauses do not count"),
        pytest.param([0, 450, 1001], 101, True, id="the rest of the time counts"),
    ],
)
def test_a_target_without_a_reply_for_15_minutes_is_suspended(times: list[float], held: float, suspended: bool):
    health = an_answered_target()
    for number, at in enumerate(times):
        note(health, failed("server_error", 503), 100.0 + at, held_s=7000 + (held if number else 0))
    assert (health.suspend_reason is not None) is suspended


def test_a_success_restarts_the_15_minutes():
    health = an_answered_target()
    for at in (0, 400, 800):
        note(health, failed("server_error", 503), at)
    note(health, REPLY, 850)
    for at in (900, 1300, 1700):
        note(health, failed("server_error", 503), at)
    assert health.suspend_reason is None


def test_turns_of_a_suspended_target_stay_pending_unless_their_own_failure_is_final():
    health = an_answered_target()
    note(health, failed("quota", 402))
    assert isinstance(decide(failed("server_error", 503), health=health), SuspendTarget)
    assert isinstance(decide(failed("rate_limit", 429), health=health), SuspendTarget)
    assert isinstance(decide(failed("invalid_request", 400), health=health), GiveUp)
    assert isinstance(decide(failed("timeout", own_timeout=True), health=health), GiveUp)


def test_a_suspend_reason_is_one_short_line():
    health = TargetHealth()
    note(health, REPLY._replace(outcome=Failure(kind="quota", message="a\nb " * 500), cls="final", http_status=402))
    assert "\n" not in (health.suspend_reason or "\n")
    assert len(health.suspend_reason or "") < 300


# -- rate limiter, target health and turns together, called in the same order as by the runner


class _Gateway:
    """A gateway that answers after a second; it refuses during `refuses`, in seconds of the clock."""

    def __init__(self, clock: VirtualClock, refuses: tuple[float, float], refusal: Attempt) -> None:
        self._clock = clock
        self._refuses = refuses
        self._refusal = refusal
        self.arrivals: list[float] = []

    async def ask(self) -> Attempt:
        self.arrivals.append(self._clock.monotonic())
        refused = self._refuses[0] <= self._clock.monotonic() < self._refuses[1]
        await self._clock.sleep(1)
        return self._refusal if refused else REPLY


async def _turn(
    limiter: RateLimiter, health: TargetHealth, gateway: _Gateway, clock: VirtualClock, dialogue: int
) -> str:
    retry_state = RetryState()
    while True:
        if health.suspend_reason is not None:
            return "pending"
        permit = await limiter.admit()
        attempt = await gateway.ask()
        now = clock.monotonic()
        health.note(
            attempt,
            dialogue=dialogue,
            sent_at=permit.sent_at,
            is_probe=permit.is_probe,
            now=now,
            held_s=limiter.held_s(),
        )
        step = next_step(attempt, retry_state, health, max_attempts=5, now=now, draw=0.5)
        limiter.report(signal(attempt, step), permit)
        permit.release()
        if isinstance(step, SuspendTarget):
            return "pending"
        if not isinstance(step, SendAgain):
            return "ok" if step is None else "error"
        retry_state = step.retry_state


def _run_turns(refuses: tuple[float, float], refusal: Attempt, turns: int = 60) -> tuple[list[str], list[float]]:
    async def main() -> tuple[list[str], list[float]]:
        clock = VirtualClock()
        limiter = RateLimiter(clock=clock, concurrency=4, rates=[(6000, 60.0)])
        health, gateway = TargetHealth(), _Gateway(clock, refuses, refusal)
        tasks = [asyncio.create_task(_turn(limiter, health, gateway, clock, n)) for n in range(turns)]
        while health.suspend_reason is None and not all(task.done() for task in tasks):
            await clock.sleep(1)
        for task in tasks:
            if not task.done():
                task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        return ["pending" if isinstance(end, BaseException) else end for end in ended], gateway.arrivals

    return run(main())


def test_a_temporarily_refused_key_costs_time_but_no_turn():
    ended, arrivals = _run_turns((5.0, 50.0), failed("auth", 401))
    assert ended == ["ok"] * 60
    assert len([at for at in arrivals if 7 < at < 50]) == 1  # the probe after 30 s


def test_a_revoked_key_suspends_the_target_and_fails_no_turn():
    ended, arrivals = _run_turns((5.0, math.inf), failed("auth", 401))
    assert set(ended) == {"ok", "pending"}
    assert len([at for at in arrivals if at > 7]) == 3


@each("refusal", UNLISTED)
def test_unlisted_refusals_in_mid_run_fail_two_turns_and_suspend_the_target(refusal: Attempt):
    ended, arrivals = _run_turns((5.0, math.inf), refusal)
    assert (ended.count("error"), set(ended)) == (2, {"ok", "error", "pending"})
    assert len([at for at in arrivals if at >= 5]) <= 4 + 4  # those in flight, one more before the third, three probes
    assert max(arrivals) < 240


@each("refusal", UNLISTED)
def test_a_short_spell_of_unlisted_refusals_fails_two_turns_and_no_other(refusal: Attempt):
    ended, arrivals = _run_turns((5.0, 30.0), refusal)
    assert (ended.count("error"), ended.count("ok")) == (2, 58)
    assert len([at for at in arrivals if 8 < at < 36.9]) == 1
