"""Stored replies and the checks of their dialogue → verdicts, and what they add up to for a turn and a dialogue.

Decides which replies a check looks at: `ok`, `blocked` and `empty` turns are judged (the latter two as `""`), on
`error` and `skipped` ones a check fails, on `pending` ones it has no verdict yet. What a check says is `checks.py`; the
table they stand in is `tables.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

from convbatch.archive import TurnHistory
from convbatch.checks import Check, Judge, Said, ToolCalled, Verdict, parsed
from convbatch.dialogue import Dialogue
from convbatch.pricing import Exchange, Money, PriceTable
from convbatch.spending import cost_of

T = TypeVar("T", int, float, Decimal)
JUDGED = ("ok", "blocked", "empty")


class Played(NamedTuple):
    """A conversation as it came out, with the script whose checks are judged."""

    dialogue: Dialogue
    target: str
    repeat: int
    turns: Mapping[int, TurnHistory]
    """Of every asked turn, in order."""
    prices: PriceTable | None
    rates: Exchange


class Given(NamedTuple):
    """A verdict and the check it is of."""

    turn: int | None
    """None: of the whole dialogue."""
    check: Check
    verdict: Verdict


class Tally(NamedTuple):
    """What verdicts add up to; all None where nothing was judged."""

    passed: int | None
    failed: int | None
    score: float | None
    """Weighted mean; None also where nothing has weight."""


def verdicts_of(played: Played, judge: Judge) -> Iterator[Given]:
    """Turn by turn in order, then of the whole dialogue."""
    for number, past in played.turns.items():
        checks = played.dialogue.turns[number - 1].checks
        if checks:
            trouble = _trouble([(number, past)])
            said = None if trouble else _said(played, [number], number)
            yield from _judged(checks, number, said, trouble, judge)
    if played.dialogue.checks:
        trouble = _trouble(played.turns.items())
        said = None if trouble else _said(played, list(played.turns), None)
        yield from _judged(played.dialogue.checks, None, said, trouble, judge)


def tally(verdicts: Iterable[tuple[bool | None, float | None, float]]) -> Tally:
    """Add up (passed, score, weight); what was not judged is left out."""
    judged = [(passed, score or 0.0, weight) for passed, score, weight in verdicts if passed is not None]
    if not judged:
        return Tally(None, None, None)
    passed = sum(holds for holds, _, _ in judged)
    weights = sum(weight for _, _, weight in judged)
    score = sum(score * weight for _, score, weight in judged) / weights if weights else None
    return Tally(passed, len(judged) - passed, score)


def dialogue_pass(statuses: Sequence[str], passes: Sequence[bool | None]) -> bool | None:
    """Did a conversation pass?

    Args:
        statuses: Of its turns.
        passes: Of all checks of its turns and of itself; None where one was not judged.

    Returns:
        None without any check, while a turn is pending, and where only a check without a verdict could decide.
    """
    if not passes or "pending" in statuses:
        return None
    if False in passes or "error" in statuses or "skipped" in statuses:
        return False
    return None if None in passes else True


def _judged(
    checks: Iterable[Mapping[str, Any]], turn: int | None, said: Said | None, trouble: Verdict | None, judge: Judge
) -> Iterator[Given]:
    for plain in checks:
        check = parsed(plain)
        verdict = trouble if said is None else judge.verdict(check, said)
        assert verdict is not None
        yield Given(turn, check, verdict)


def _trouble(turns: Iterable[tuple[int, TurnHistory]]) -> Verdict | None:
    """The verdict of every check, where there is no reply to judge."""
    statuses = {number: past.status or "pending" for number, past in turns}
    for number, status in statuses.items():
        if status == "pending":
            return Verdict(None, None, f"turn {number} is pending")
    for number, status in statuses.items():
        if status not in JUDGED:
            return Verdict(False, 0.0, f"turn {number} has no reply to judge: {status}")
    return None


def _said(played: Played, numbers: Sequence[int], turn: int | None) -> Said:
    """What the named turns said; they all have a reply."""
    kept = [played.turns[number].kept or {} for number in numbers]
    replies: list[Mapping[str, Any]] = [record["reply"] for record in kept]
    last = played.dialogue.turns[numbers[-1] - 1]
    status = played.turns[numbers[-1]].status
    assert status is not None
    amount = _total(cost_of(played.prices, record) for record in kept)
    return Said(
        dialogue=played.dialogue,
        target=played.target,
        repeat=played.repeat,
        turn=turn,
        user=last.user_text,
        replies=tuple(
            (reply.get("text") or "") if played.turns[number].status == "ok" else ""
            for number, reply in zip(numbers, replies, strict=True)
        ),
        status=status,
        assistant=None if turn is None else last.assistant,
        finish_reason=replies[-1]["finish_reason"],
        tool_calls=tuple(
            ToolCalled(name=call["name"], arguments=call["arguments"])
            for reply in replies
            for call in reply.get("tool_calls", ())
        ),
        output_tokens=_total(reply["usage"].get("output_tokens") for reply in replies),
        latency_s=_total(record.get("latency_s") for record in kept),
        cost=None if amount is None or played.prices is None else Money(amount=amount, currency=played.prices.currency),
        rates=played.rates,
    )


def _total(values: Iterable[T | None]) -> T | None:
    """The sum; None when any is unknown."""
    known = list(values)
    total: T | None = None
    for value in known:
        if value is None:
            return None
        total = value if total is None else total + value
    return total
