"""A property of replies that holds at both sides equally often, or does not: one test for all such questions. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from convbatch.auditing.finding import LEVEL, Finding, Question, Rules, evidence, percent
from convbatch.auditing.permutation import (
    Stratum,
    difference_test,
    least_p,
    normal_power,
    share_interval,
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
    power, times = _power(list(strata.values()), share, change, rules.level)
    told = max(strata, key=lambda name: abs(strata[name].difference))
    order = sorted(strata, key=lambda name: -abs(strata[name].difference)) if strata[told].difference else []
    return Finding(
        question=asked.question,
        detail=f"{asked.words}: {names[0]} {percent(share)}, {names[1]} {percent(share + test.effect)} "
        f"(conversations: {counts[0]}, {counts[1]})",
        measure=f"difference of the share of {asked.words}",
        effect=test.effect,
        interval=share_interval(
            share, min(1.0, max(0.0, share + test.effect)), _effective(strata.values()), level=LEVEL
        ),
        p=test.p,
        limit=asked.limit,
        tolerance=asked.tolerance,
        power=power,
        needed=_more_conversations(times, max(counts)),
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


def _effective(strata: Iterable[Stratum]) -> tuple[float, float]:
    """Return how many conversations, one number for all dialogues, would give a mean over dialogues as exact as this.

    Dialogues count alike: one with few conversations makes the mean uncertain, however many another one has.
    """
    every = list(strata)
    ours = math.fsum(1 / len(one.reference) for one in every)
    theirs = math.fsum(1 / len(one.candidate) for one in every)
    return len(every) ** 2 / ours, len(every) ** 2 / theirs


def _power(strata: Sequence[Stratum], share: float, change: float, level: float) -> tuple[float, float | None]:
    """Return the probability that the test finds this change of the share, and how many times the data 0.8 takes.

    All conversations of the candidate lose the property with the same chance, or gain it; those of a dialogue that all
    have it vary only then.

    Source: Fleiss, Levin, Paik 2003, Statistical Methods for Rates and Proportions, section 4.2, by stratum.
    """
    if change <= 0:
        return 0.0, None
    null = real = 0.0
    for one in strata:
        ours, theirs = len(one.reference), len(one.candidate)
        before = (sum(one.reference) + share) / (ours + 1)  # one more conversation, as all dialogues have them
        after = before * (1 - change / share) if share > 1 / 2 else before + (1 - before) * change / (1 - share)
        middle = (before * ours + after * theirs) / (ours + theirs)
        null += middle * (1 - middle) * (1 / ours + 1 / theirs)
        real += before * (1 - before) / ours + after * (1 - after) / theirs
    sds = math.sqrt(null) / len(strata), math.sqrt(real) / len(strata)
    found = normal_power(change, sds[0], sds[1], level=level)
    return found if least_p(strata) <= level else 0.0, times_needed(change, sds[0], level=level)


def _more_conversations(times: float | None, conversations: int) -> str | None:
    """Return what a decision takes; where there is enough, chance left it open: twice as much settles it."""
    if times is None:
        return None
    return f"about {max(1, math.ceil((times if times > 1 else 2) * conversations)):,} conversations at each side"


def _telling(both: Both, holds: Holds, *, more: bool) -> tuple[AuditedReply | None, AuditedReply | None]:
    """Return a reply of each side that shows the difference: the candidate has the property if it has it more often."""

    def first(replies: list[AuditedReply], wanted: bool) -> AuditedReply | None:
        return next((reply for reply in replies if holds(reply) is wanted), next(iter(replies), None))

    return first(list(both.reference), not more), first(list(both.candidate), more)
