"""Stored replies and the checks of their dialogue → verdicts, and their sums for a turn and a dialogue.

Decides which replies a check gets: `ok`, `blocked` and `empty` turns are judged (the last two as `""`), on `error` and
`skipped` turns every check fails, on `pending` ones it has no verdict yet. Also decides which question a rubric asks a
judge, and which answer counts. What a check means is `checks/builtin.py` and `checks/llm_rubric.py`; what a judge is
shown is `judge_scenes.py`, the columns of the table are `columns.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

from convbatch.checks import llm_rubric
from convbatch.checks.builtin import CheckRunner
from convbatch.checks.values import (
    COMPARES_TARGETS,
    NEEDS_A_JUDGE,
    CalledTool,
    Check,
    CheckInput,
    Finding,
    Verdict,
    parse_check,
    to_verdict,
)
from convbatch.dialogue import Dialogue, HistoryMode
from convbatch.journal.index import JudgeCall, TurnHistory
from convbatch.journal.manifest import ManifestTarget
from convbatch.pricing import ExchangeRates, Money
from convbatch.reply import MediaFile, is_open
from convbatch.results.costs import attempt_cost, prices_of
from convbatch.results.judge_scenes import reply_text, scene

T = TypeVar("T", int, float, Decimal)
JUDGED = ("ok", "blocked", "empty")
NOT_ASKED = "no judge has been asked about it"
NO_ANSWER = "the judge gave no answer"
UNREADABLE = "the judge's answer could not be read"


class ConversationResult(NamedTuple):
    """The replies of a conversation, with the dialogue whose checks are evaluated."""

    dialogue: Dialogue
    target: str
    repeat: int
    turns: Mapping[int, TurnHistory]
    """Every asked turn, in order."""
    history: HistoryMode
    recorded: ManifestTarget
    """The target's entry in `run.json`, for its prices."""
    rates: ExchangeRates
    judge_calls: Mapping[tuple[int | None, str], JudgeCall]
    """Calls to the current judge, by turn (None: the whole dialogue) and digest of the question."""


class CheckOutcome(NamedTuple):
    """A check and its verdict."""

    turn: int | None
    """None: the check is on the whole dialogue."""
    check: Check
    verdict: Verdict
    judge_call: JudgeCall | None = None
    """Call to the judge; only for `llm_rubric` checks."""


class VerdictTotals(NamedTuple):
    """Sums of verdicts; the first three are None where nothing was judged."""

    passed: int | None
    failed: int | None
    score: float | None
    """Weighted mean; None also where all weights are 0, and where a check with a weight has no verdict."""
    without_verdict: int | None
    """None only without checks."""


def evaluate_checks(result: ConversationResult, check_runner: CheckRunner) -> Iterator[CheckOutcome]:
    """Evaluate all checks: turn by turn in order, then those on the whole dialogue; `prefer` checks have no verdict."""
    for number, checks, past in _check_scopes(result):
        trouble = _no_reply_verdict(past.items())
        check_input = None if trouble else _check_input(result, list(past), number)
        for check in map(parse_check, checks):
            if check.plain_kind == COMPARES_TARGETS:
                continue
            if trouble is not None:
                yield CheckOutcome(number, check, trouble)
            elif check.plain_kind == NEEDS_A_JUDGE:
                yield _judge_outcome(result, number, check)
            else:
                assert check_input is not None
                yield CheckOutcome(number, check, check_runner.verdict(check, check_input))


def questions_for_judge(result: ConversationResult) -> Iterator[tuple[int | None, llm_rubric.Question]]:
    """Yield each question to the judge once, with the turn it is about (None: the whole dialogue)."""
    for number, checks, past in _check_scopes(result):
        rubrics = dict.fromkeys(
            check.argument for check in map(parse_check, checks) if check.plain_kind == NEEDS_A_JUDGE
        )
        if rubrics and _no_reply_verdict(past.items()) is None:
            for text in rubrics:
                yield number, llm_rubric.question(text, scene(result, number))


def _check_scopes(
    result: ConversationResult,
) -> Iterator[tuple[int | None, Sequence[Mapping[str, Any]], Mapping[int, TurnHistory]]]:
    """Yield turn number, its checks and the turns they read; the whole dialogue last, as None."""
    for number, past in result.turns.items():
        checks = result.dialogue.turns[number - 1].checks
        if checks:
            yield number, checks, {number: past}
    if result.dialogue.checks:
        yield None, result.dialogue.checks, result.turns


class JudgeAnswer(NamedTuple):
    """What a judge answered to one question, with the question that asks for the form of its answer."""

    finding: Finding | None
    """None: there is no verdict."""
    why: str = ""
    """Why there is no verdict."""
    no_verdict: str | None = None
    """Why a complete answer gives none, in words that are the same for the same cause; None where a judge has still to
    answer."""
    judge_call: JudgeCall | None = None
    """The call that decides; None before the first."""


def read_judge_answer(call_of: Callable[[str], JudgeCall | None], digest: str) -> JudgeAnswer:
    """Read the answers to a question: the first, and where that cannot be read, the one to its repair question.

    Args:
        call_of: Takes the digest of a question; returns the call with it.
        digest: Of the question.
    """
    first = call_of(digest)
    if first is None:
        return JudgeAnswer(None, NOT_ASKED)
    answer = _read_call(first)
    text = repairable_text(first.history)
    if answer.finding is not None or text is None or first.repairs is not None:
        return answer
    repair = call_of(llm_rubric.repair_question(digest, text).digest)
    if repair is None:
        return JudgeAnswer(None, f"{UNREADABLE}; its form has not been asked for yet", None, first)
    return _read_call(repair)


def repairable_text(history: TurnHistory) -> str | None:
    """Return the text of an answer that a judge can be asked to repeat in form; None where there is none."""
    if history.status != "ok" or history.kept is None:
        return None
    text = history.kept["reply"].get("text") or ""
    return text if text.strip() else None


def _read_call(call: JudgeCall) -> JudgeAnswer:
    """Read the answer to one call by itself."""
    past = call.history
    if is_open(past.status, past.error_kind):
        failure = {} if past.last_failure is None else past.last_failure["error"]
        why = " ".join(str(failure.get("message", "its answer was lost")).split())[:200]
        return JudgeAnswer(None, f"the judge has not answered: {why}", None, call)
    reply: Mapping[str, Any] = {} if past.kept is None else past.kept["reply"]
    is_cut = reply.get("finish_reason") == "length"
    text = repairable_text(past)
    if text is None:
        how = past.error_kind or ("empty" if past.status == "ok" else past.status)
        how = f"{how}, {llm_rubric.CUT_OFF}" if is_cut else how
        return JudgeAnswer(None, f"{NO_ANSWER}: {how}", f"{NO_ANSWER}: {how}", call)
    try:
        return JudgeAnswer(llm_rubric.finding(text, call.question, is_cut=is_cut), judge_call=call)
    except llm_rubric.UnreadableAnswer as error:
        return JudgeAnswer(None, f"{UNREADABLE}: {error}: {error.excerpt}", f"{UNREADABLE}: {error}", call)


def _judge_outcome(result: ConversationResult, number: int | None, check: Check) -> CheckOutcome:
    """Return the verdict by the judge's answer, if there is one."""
    asked = llm_rubric.question(check.argument, scene(result, number))
    answer = read_judge_answer(lambda digest: result.judge_calls.get((number, digest)), asked.digest)
    if answer.finding is not None:
        verdict = to_verdict(check, answer.finding)
    else:
        verdict = Verdict(None, None, answer.why, answer.no_verdict)
    return CheckOutcome(number, check, verdict, answer.judge_call)


def sum_verdicts(verdicts: Iterable[tuple[bool | None, float | None, float]]) -> VerdictTotals:
    """Add up (passed, score, weight) of checks."""
    given = list(verdicts)
    judged = [(passed, score or 0.0, weight) for passed, score, weight in given if passed is not None]
    without = len(given) - len(judged)
    if not judged:
        return VerdictTotals(None, None, None, without if given else None)
    passed = sum(holds for holds, _, _ in judged)
    weights = sum(weight for _, _, weight in judged)
    score = sum(score * weight for _, score, weight in judged) / weights if weights else None
    if any(holds is None and weight for holds, _, weight in given):
        score = None
    return VerdictTotals(passed, len(judged) - passed, score, without)


def dialogue_pass(statuses: Sequence[str], passes: Sequence[bool | None]) -> bool | None:
    """Return whether a conversation passed.

    Args:
        statuses: Status of each of its turns.
        passes: Verdict of each check on its turns and on the whole dialogue; None = not judged.

    Returns:
        None without checks, while a turn is pending, and where it depends on a check without a verdict.
    """
    if not passes or "pending" in statuses:
        return None
    if False in passes or "error" in statuses or "skipped" in statuses:
        return False
    return None if None in passes else True


def _no_reply_verdict(turns: Iterable[tuple[int, TurnHistory]]) -> Verdict | None:
    """Return the verdict that every check gets where there is no reply to judge; None where there is one."""
    statuses = {number: past.status or "pending" for number, past in turns}
    for number, status in statuses.items():
        if status == "pending":
            return Verdict(None, None, f"turn {number} is pending")
    for number, status in statuses.items():
        if status not in JUDGED:
            return Verdict(False, 0.0, f"turn {number} has no reply to judge: {status}")
    return None


def _check_input(result: ConversationResult, numbers: Sequence[int], turn: int | None) -> CheckInput:
    """Collect the replies of these turns, which all have one, for the checks on `turn`."""
    kept = [result.turns[number].kept or {} for number in numbers]
    replies = [result.turns[number].reply for number in numbers]
    last = result.dialogue.turns[numbers[-1] - 1]
    status = result.turns[numbers[-1]].status
    assert status is not None
    replied = [record for number in numbers for record in result.turns[number].replied]
    amount = _total(attempt_cost(result.recorded, record) for record in replied)
    prices = prices_of(result.recorded, kept[-1])
    return CheckInput(
        dialogue=result.dialogue,
        target=result.target,
        repeat=result.repeat,
        turn=turn,
        user=last.user_text,
        replies=tuple(reply_text(result, number) for number in numbers),
        status=status,
        assistant=None if turn is None else last.assistant,
        finish_reason=replies[-1]["finish_reason"],
        tool_calls=tuple(
            CalledTool(name=call["name"], arguments=call["arguments"])
            for reply in replies
            for call in reply.get("tool_calls", ())
        ),
        media=tuple(MediaFile(**one) for reply in replies for one in reply.get("media", ())),
        output_tokens=_total(reply["usage"].get("output_tokens") for reply in replies),
        latency_s=_total(record.get("latency_s") for record in kept),
        cost=None if amount is None or prices is None else Money(amount=amount, currency=prices.currency),
        rates=result.rates,
    )


def _total(values: Iterable[T | None]) -> T | None:
    """Return the sum; None when any value is unknown."""
    known = list(values)
    total: T | None = None
    for value in known:
        if value is None:
            return None
        total = value if total is None else total + value
    return total
