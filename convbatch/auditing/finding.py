"""What a question of an audit finds, and when that is `different`, `consistent` or `inconclusive`. Pure.

A question measures an effect that is 0 for the same model. `different` needs a p that stays below alpha after Holm's
adjustment. `consistent` needs more than a large p: the interval must rule out the effect that the question states
(`limit`), and the data must have been able to find that effect. Everything else is `inconclusive`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from convbatch.auditing.replies import AuditedReply
from convbatch.comparison.stats import POWER, Interval

AuditVerdict = Literal["consistent", "different", "inconclusive"]
Question = Literal[
    "served_name", "input_counts", "output_counts", "reasoning_tokens", "replay", "distribution", "knowledge_border",
    "obedience", "tools", "money",
]  # fmt: skip
QUESTIONS: tuple[Question, ...] = get_args(Question)
MAX_EVIDENCE = 5
DRAWS = 4_999
"""Random permutations of a test."""
LEVEL = 0.95
"""Coverage of the intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What all questions share."""

    alpha: float = 0.05
    """Of all questions about all pairs together."""
    questions: int = len(QUESTIONS)
    """How many questions share alpha, at most."""
    draws: int = DRAWS
    seed: int = 0

    @property
    def level(self) -> float:
        """The level at which each question can count on being decided: power is computed for it."""
        return self.alpha / max(1, self.questions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A prompt with a reply of each side."""

    dialogue: str
    turn: int
    prompt: str
    reference: str | None
    candidate: str | None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The answer to one question, before its p is adjusted."""

    question: Question
    detail: str
    """In words, with the numbers behind it."""
    measure: str = ""
    """What the effect is, in words."""
    effect: float | None = None
    interval: Interval | None = None
    p: float | None = None
    """None: could not be tested. 0: a fact and not chance, such as another count for the same prompt."""
    limit: float = 0.0
    """The effect that `consistent` rules out."""
    tolerance: float = 0.0
    """Effects up to this size are no difference: honest gateways have them."""
    power: float | None = None
    """Probability that these data find an effect of the size `power_for`."""
    power_for: float | None = None
    """None: the limit."""
    needed: str | None = None
    """What it would take to find such an effect, with power 0.8."""
    open: str | None = None
    """Why this cannot be `consistent` although nothing differs."""
    evidence: Sequence[Evidence] = ()

    @property
    def is_noticeable(self) -> bool:
        """Whether the effect is larger than honest gateways show."""
        return self.p is not None and self.effect is not None and abs(self.effect) > self.tolerance

    @property
    def rules_out_the_limit(self) -> bool:
        """Whether the interval holds no effect as large as the limit, and the data could have found one."""
        if self.open is not None or self.interval is None or self.power is None or self.power < POWER:
            return False
        return -self.limit < self.interval.low and self.interval.high < self.limit


def decide(finding: Finding, p_adjusted: float | None, *, alpha: float) -> AuditVerdict:
    """Return the verdict on one question.

    Args:
        finding: What was measured.
        p_adjusted: Its p after Holm's adjustment; None as `finding.p`.
        alpha: Of all questions together.
    """
    if finding.p is None or p_adjusted is None:
        return "inconclusive"
    if p_adjusted <= alpha and finding.is_noticeable:
        return "different"
    is_quiet = finding.p > alpha or not finding.is_noticeable
    return "consistent" if is_quiet and finding.rules_out_the_limit else "inconclusive"


def untested(question: Question, why: str, *, needed: str | None = None) -> Finding:
    """Return the answer to a question that these data cannot be asked."""
    return Finding(question=question, detail=why, open=why, needed=needed)


def combine(question: Question, parts: Sequence[tuple[str, Finding]]) -> Finding | None:
    """Return one answer from the parts of a question: the most telling part, with a p for having looked at all.

    Args:
        question: Name of the question.
        parts: Name and answer of each part; their p are multiplied by the number of parts that were tested.

    Returns:
        None without parts. It can be `consistent` only if each part can.
    """
    if not parts:
        return None
    tested = [(name, part) for name, part in parts if part.p is not None]
    detail = "; ".join(f"{name}: {part.detail}" for name, part in parts)
    if not tested:
        first = parts[0][1]
        return dataclasses.replace(first, question=question, detail=detail, open=first.open or first.detail)
    name, told = min(tested, key=lambda one: _chance(one[1]))
    undecided = [(other, part) for other, part in parts if not part.rules_out_the_limit]
    weakest = min((part for _, part in parts), key=lambda part: part.power or 0.0)
    return dataclasses.replace(
        told,
        question=question,
        detail=detail,
        measure=f"{name}: {told.measure}",
        p=min(1.0, _chance(told) * len(tested)),
        power=weakest.power,
        needed=next((f"{other}: {part.needed}" for other, part in undecided if part.needed), None),
        open=", ".join(other for other, _ in undecided) + ": not decided" if undecided else None,
    )


def _chance(part: Finding) -> float:
    return 1.0 if part.p is None or not part.is_noticeable else part.p


def evidence(
    pairs: Iterable[tuple[AuditedReply | None, AuditedReply | None]], notes: Iterable[str] = ()
) -> tuple[Evidence, ...]:
    """Return the first `MAX_EVIDENCE` pairs of replies as evidence, at least one of each pair present."""
    found: list[Evidence] = []
    told = iter(notes)
    for ours, theirs in pairs:
        one = theirs or ours
        if one is None or len(found) == MAX_EVIDENCE:
            break
        found.append(
            Evidence(
                dialogue=one.dialogue,
                turn=one.turn,
                prompt=one.user,
                reference=None if ours is None else ours.text,
                candidate=None if theirs is None else theirs.text,
                note=next(told, ""),
            )
        )
    return tuple(found)


def percent(share: float) -> str:
    """Format a share, e.g. `12 %`."""
    return f"{share * 100:.3g} %"


def signed_percent(change: float) -> str:
    """Format a relative change, e.g. `+8 %`."""
    return f"{round(change * 100, 4) + 0.0:+.3g} %"


def exact_limit(count: int) -> float:
    """Return the upper limit of a share that did not show in `count` independent replies (two-sided `LEVEL`).

    Source: Clopper and Pearson 1934, Biometrika 26:404, for no success.
    """
    return 1 - ((1 - LEVEL) / 2) ** (1 / count) if count else 1.0


def replies_for(share: float) -> int:
    """Return how many replies without a finding rule out a share."""
    return math.ceil(math.log((1 - LEVEL) / 2) / math.log(1 - share))
