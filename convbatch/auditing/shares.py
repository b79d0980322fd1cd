"""A property of replies that holds at both sides equally often, or does not: one test for all such questions. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from convbatch.auditing.finding import LEVEL, Finding, Question, Rules, evidence, percent
from convbatch.auditing.permutation import (
    Stratum,
    difference_test,
    share_interval,
    share_power,
    times_needed,
)
from convbatch.auditing.replies import AuditedReply, Both, conversation_means

Holds = Callable[[AuditedReply], bool | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareQuestion:
    """A property, and which difference of its shares counts."""

    question: Question
    words: str
    """What the share is of, e.g. `replies with the canary`."""
    holds: Holds
    """None where a reply cannot be tested."""
    limit: float = 0.25
    tolerance: float = 0.0


def compare_shares(
    asked: ShareQuestion, dialogues: Mapping[str, Both], names: tuple[str, str], rules: Rules
) -> Finding | None:
    """Compare the share of conversations that have a property, dialogue by dialogue.

    The conversation is the unit: its value is the share of its replies. Sides are permuted within each dialogue, so
    that dialogues that are hard for both do not count as noise.

    Returns:
        None if no dialogue can be tested at both sides.
    """
    strata: dict[str, Stratum] = {}
    for dialogue, both in dialogues.items():
        ours, theirs = (conversation_means(side, _number(asked.holds)) for side in (both.reference, both.candidate))
        if ours and theirs:
            strata[dialogue] = Stratum(ours, theirs)
    if not strata:
        return None
    test = difference_test(list(strata.values()), draws=rules.draws, seed=rules.seed)
    counts = _counts(strata)
    share = sum(sum(one.reference) / len(one.reference) for one in strata.values()) / len(strata)
    change = min(asked.limit, max(share, 1 - share))
    power = share_power(share, change, counts, level=rules.level)
    enough = needed_to_find(share, change, counts, rules.level)
    told = max(strata, key=lambda name: abs(strata[name].difference))
    order = sorted(strata, key=lambda name: -abs(strata[name].difference)) if strata[told].difference else []
    return Finding(
        question=asked.question,
        detail=f"{asked.words}: {names[0]} {percent(share)}, {names[1]} {percent(share + test.effect)} "
        f"(conversations: {counts[0]}, {counts[1]})",
        measure=f"difference of the share of {asked.words}",
        effect=test.effect,
        interval=share_interval(share, min(1.0, max(0.0, share + test.effect)), counts, level=LEVEL),
        p=test.p,
        limit=asked.limit,
        tolerance=asked.tolerance,
        power=power,
        needed=None if enough is None else f"about {enough:,} conversations at each side",
        evidence=evidence(
            [_telling(dialogues[name], asked.holds, more=test.effect > 0) for name in order if strata[name].difference]
        ),
    )


def _number(holds: Holds) -> Callable[[AuditedReply], float | None]:
    def value(reply: AuditedReply) -> float | None:
        held = holds(reply)
        return None if held is None else float(held)

    return value


def _counts(strata: Mapping[str, Stratum]) -> tuple[int, int]:
    """Return the number of conversations of each side."""
    return sum(len(one.reference) for one in strata.values()), sum(len(one.candidate) for one in strata.values())


def needed_to_find(share: float, change: float, counts: tuple[int, int], level: float) -> int | None:
    """Return how many replies at each side a change of a share takes; None if no number is enough."""
    if change <= 0:
        return None
    other = share - change if share > 0.5 else share + change
    middle = (share + other) / 2
    factor = times_needed(change, (middle * (1 - middle) * sum(1 / count for count in counts)) ** 0.5, level=level)
    return None if factor is None else max(1, math.ceil(factor * min(counts)))


def _telling(both: Both, holds: Holds, *, more: bool) -> tuple[AuditedReply | None, AuditedReply | None]:
    """Return a reply of each side that shows the difference: the candidate has the property if it has it more often."""

    def first(replies: list[AuditedReply], wanted: bool) -> AuditedReply | None:
        return next((reply for reply in replies if holds(reply) is wanted), next(iter(replies), None))

    return first(list(both.reference), not more), first(list(both.candidate), more)
