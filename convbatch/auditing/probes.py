"""Questions that probes answer: what the model knows, whether it obeys, and whether its calls and schemas are valid.

Pure. A probe is a dialogue with a tag (`replies.py`) and checks, or an expected answer; own dialogues may carry the
tags. Calls and schemas need no tag.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from convbatch.auditing.finding import LEVEL, Finding, Rules, combine, evidence, percent, untested
from convbatch.auditing.permutation import (
    Stratum,
    difference_test,
    normal_quantile,
)
from convbatch.auditing.replies import (
    BORDER,
    CANARY,
    FACT,
    LIMIT,
    PROBES,
    AuditedReply,
    Both,
    Side,
    by_dialogue,
    pair_up,
    repeats_in_order,
)
from convbatch.auditing.shares import ShareQuestion, compare_shares
from convbatch.comparison.stats import POWER, Interval

ROUTED, ROUTED_FOUND = 0.05, 0.1
"""Share of replies from another model that `knowledge_border` rules out, and the one that its power is for."""
FORGOTTEN = 0.5
"""Share of the answers the reference knows that this other model does not know."""
_SURE = 0.02
"""Added to the variance of a question: no question counts for more than about fifty."""
_UNKNOWN = 0.01
"""Share of right answers below which questions count alike."""
_TINY = 1e-12
_MISSED = 0.2
"""Answers that are added as right and as wrong, so that no question counts as known for certain."""
_SIMULATED = 1_000
"""Simulated sets of answers behind the power, at each share; fewer where a test draws fewer."""
_SHARES = (0.0, 0.01, 0.02, 0.03, 0.04, ROUTED, 0.06, 0.08, ROUTED_FOUND, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Shares of routed replies that are simulated."""
COLD_APART = 0.3
"""Difference in identical repeats at temperature 0 that honest servers of one model may show."""
LONG_TEXT = 80
"""Characters of a reply whose end tells whether it was cut."""
_ENDS = frozenset(".!?。！？…\"'”’」』)）]】}>`*~:：;；|")


# --- knowledge border


def knowledge_border(reference: Side, candidate: Side, rules: Rules) -> Finding | None:
    """Compare the answers to questions at the border of what a model knows, question by question.

    A question that the reference always answers right tells most: there, a single wrong answer is rare by chance. So
    questions are weighted by how often both sides together know them over the variance of that, which a permutation of
    the sides leaves as it is; the answers of a conversation are permuted together. The effect is a share of routed
    replies: the share that, answered by a model that has forgotten much (`FORGOTTEN`), would lose as many right
    answers. Effect, interval and power are of simulated answers.

    Source: Knowledge border fingerprints, arXiv:2605.29524; weights and simulation are ours.
    """
    turns = pair_up(reference, candidate, by_question, lambda reply: BORDER in reply.tags and reply.passed is not None)
    if not turns:
        return None
    questions = list(turns.values())
    strata = [_answers(both) for both in questions]
    known = [_mean([_mean(side) for side in sides]) for sides in _sides(strata)]
    if not any(known):
        why = f"{len(strata)} questions, no right answer at either side"
        return untested("knowledge_border", why, needed="questions that the reference can answer")
    answers = sum(len(one.candidate) for one in strata)
    routing = _Routing.of(questions, rules)
    power = routing.power(rules.level) if known[0] > 0 else 0.0
    enough = math.ceil(routing.times(rules.level) * answers)
    wanted = "questions that the reference can answer" if known[0] < 1 / 4 else f"about {enough:,} answers at each side"
    return Finding(
        question="knowledge_border",
        detail=f"{len(strata)} questions, {answers} answers: right at {reference.name} {percent(known[0])}, "
        f"at {candidate.name} {percent(known[1])}",
        measure="share of answers from a model that knows half of it; negative where the candidate knows more",
        effect=routing.share(0.5),
        interval=Interval(routing.share(1 - (1 - LEVEL) / 2), routing.share((1 - LEVEL) / 2)),
        p=routing.p,
        limit=ROUTED,
        power=power,
        power_for=ROUTED_FOUND,
        needed=wanted,
        evidence=evidence(
            [_right_and_wrong(both) for both in sorted(turns.values(), key=_loss) if abs(_loss(both)) > 0]
        ),
    )


def by_question(reply: AuditedReply) -> tuple[str, int] | bytes:
    """Key of answers to one question: the prompt, or the place of a turn after live replies."""
    return reply.prompt if reply.is_fixed else reply.place


def _answers(both: Both) -> Stratum:
    ours, theirs = ([float(bool(reply.passed)) for reply in side] for side in (both.reference, both.candidate))
    return Stratum(ours, theirs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Routing:
    """The weighted loss of right answers, and what it is in simulated answers at each share of `_SHARES`."""

    p: float
    observed: float
    simulated: Any
    """Array (share, set of answers); the loss in standard deviations, as `observed`."""

    @classmethod
    def of(cls, questions: Sequence[Both], rules: Rules) -> _Routing:
        """Weight the questions, and simulate candidates that route more and more replies."""
        import numpy as np

        chance = np.random.default_rng(rules.seed)
        sides = _sides([_answers(both) for both in questions])
        ours, theirs = (np.array([len(side) for side in those]) for those in sides)
        right = [np.array([sum(side) for side in those]) for those in sides]
        pooled = (right[0] + right[1] + _MISSED) / (ours + theirs + 2 * _MISSED)
        found: list[Any] = []
        for share in _SHARES:
            loss = share * FORGOTTEN
            base = np.minimum(1.0, pooled / (1 - loss * theirs / (ours + theirs)))
            size = (min(_SIMULATED, rules.draws), len(questions))
            sets = chance.binomial(ours, base, size=size), chance.binomial(theirs, base * (1 - loss), size=size)
            found.append(_score(*sets, ours, theirs).standardised)
        score = _score(right[0][None], right[1][None], ours, theirs)
        conversations = _conversations(questions, score.weights[0])
        test = difference_test(conversations, draws=rules.draws, seed=rules.seed)
        tied = max(1.0, test.sd * sum(one.weight for one in conversations) / max(score.spread[0], _TINY))
        if len(conversations) == len(questions):
            tied = 1.0
        rows = [row - row.mean() * (1 - 1 / tied) for row in found]
        return cls(p=test.p, observed=float(score.standardised[0]) / tied, simulated=np.array(rows))

    def power(self, level: float) -> float:
        """Return how often a test at this level finds a candidate that routes `ROUTED_FOUND` of its replies.

        Few answers give a standard deviation that is too small: what the test needs is one of the simulated sets.
        """
        needed = normal_quantile(1 - level / 2) * max(1.0, float(self.simulated[0].std()))
        return float((self.simulated[_SHARES.index(ROUTED_FOUND)] > needed).mean())

    def times(self, level: float) -> float:
        """Return how many times the answers a decision takes; where there are enough, chance left it open: twice."""
        null, routed = self.simulated[0], self.simulated[_SHARES.index(ROUTED_FOUND)]
        shift = float(routed.mean() - null.mean())
        wanted = (normal_quantile(1 - level / 2) + normal_quantile(POWER)) * max(1.0, float(null.std()))
        return max(2.0, (wanted / max(shift, 0.1)) ** 2)

    def share(self, quantile: float) -> float:
        """Return the share at which the observed loss is this quantile of the simulated ones; negative for a gain.

        A candidate that knows more is taken for the mirror image of a reference that routes.
        """
        import numpy as np

        below = [float((row <= self.observed).mean()) for row in self.simulated]
        mirrored = [1 - float((row <= -self.observed).mean()) for row in self.simulated[:0:-1]]
        shares = [*(-share for share in _SHARES[:0:-1]), *_SHARES]
        return float(np.interp(-quantile, -np.array([*mirrored, *below]), shares))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Score:
    """Of each set of answers: the weighted loss in its standard deviations, these, and the questions' weights."""

    standardised: Any
    spread: Any
    weights: Any


def _score(ours: Any, theirs: Any, of_ours: Any, of_theirs: Any) -> _Score:
    """Return the weighted loss of right answers.

    Args:
        ours: Right answers of the reference, an array (set, question).
        theirs: Right answers of the candidate.
        of_ours: Answers of the reference, by question.
        of_theirs: Answers of the candidate.
    """
    import numpy as np

    share = (ours + theirs) / (of_ours + of_theirs)
    variance = share * (1 - share)
    worth = np.maximum(share, _UNKNOWN)  # what is not known cannot be lost
    weights = worth / ((1 / of_ours + 1 / of_theirs) * (variance + _SURE))
    spread = np.sqrt((weights**2 * variance * (1 / of_ours + 1 / of_theirs)).sum(axis=1))
    loss = (weights * (ours / of_ours - theirs / of_theirs)).sum(axis=1)
    standardised = np.divide(loss, spread, out=np.zeros(len(loss)), where=spread > 0)
    return _Score(standardised=standardised, spread=spread, weights=weights)


def _conversations(questions: Sequence[Both], weights: Sequence[float]) -> list[Stratum]:
    """Return the answers of each dialogue by conversation: those of one conversation are not independent."""
    weight_of = {id(one): float(weight) for both, weight in zip(questions, weights, strict=True)
                 for one in (*both.reference, *both.candidate)}  # fmt: skip
    dialogues: dict[str, tuple[list[AuditedReply], list[AuditedReply]]] = {}
    total: dict[str, float] = {}
    for both, weight in zip(questions, weights, strict=True):
        name = both.reference[0].dialogue
        mine = dialogues.setdefault(name, ([], []))
        mine[0].extend(both.reference)
        mine[1].extend(both.candidate)
        total[name] = total.get(name, 0.0) + float(weight)
    return [
        Stratum(*(_weighted_means(side, weight_of) for side in sides), weight=total[name])
        for name, sides in dialogues.items()
    ]


def _weighted_means(replies: Sequence[AuditedReply], weights: Mapping[int, float]) -> list[float]:
    """Return the share of right answers of each conversation, each question with its weight."""
    sums: dict[tuple[str, str, int], list[float]] = {}
    for reply in replies:
        pair = sums.setdefault(reply.conversation, [0.0, 0.0])
        pair[0] += weights[id(reply)] * bool(reply.passed)
        pair[1] += weights[id(reply)]
    return [right / asked for right, asked in sums.values()]


def _sides(strata: Sequence[Stratum]) -> tuple[list[Sequence[float]], list[Sequence[float]]]:
    return [one.reference for one in strata], [one.candidate for one in strata]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _loss(both: Both) -> float:
    """Return the share of right answers at the candidate minus that at the reference: negative where it knows less."""
    return _mean([float(bool(one.passed)) for one in both.candidate]) - _mean(
        [float(bool(one.passed)) for one in both.reference]
    )


def _right_and_wrong(both: Both) -> tuple[AuditedReply | None, AuditedReply | None]:
    right = next((one for one in both.reference if one.passed), both.reference[0])
    return right, next((one for one in both.candidate if not one.passed), both.candidate[0])


# --- obedience


def obedience(reference: Side, candidate: Side, rules: Rules) -> Finding | None:
    """Compare how often both sides obey: canaries, planted facts, limits and how they are told, temperature 0.

    Each part is a share of replies at both sides; with more than one part, p counts all of them.
    """
    names = reference.name, candidate.name
    parts: list[tuple[str, Finding]] = []
    rules = replace(rules, questions=rules.questions * len(_PARTS))
    for name, keep, asked in _PARTS:
        dialogues = pair_up(reference, candidate, by_dialogue, keep)
        if not _is_worth_asking(dialogues, name, asked.holds):
            continue
        found = compare_shares(asked, dialogues, names, rules)
        if found is not None:
            parts.append((name, found))
    extras = {
        "temperature 0": _alike(reference, candidate, rules, _cold_repeats, "repeats at temperature 0"),
        "seeds": _alike(reference, candidate, rules, _same_seeds, "replies to one prompt and seed"),
        "history": _cut(reference, candidate),
    }
    parts += [(name, found) for name, found in extras.items() if found is not None]
    return combine("obedience", parts)


def _is_worth_asking(dialogues: Mapping[str, Both], name: str, holds: Callable[[AuditedReply], bool | None]) -> bool:
    """Whether a part has data; a property that needs no probe, and that no reply has, is no question."""
    replies = [one for both in dialogues.values() for one in (*both.reference, *both.candidate)]
    return bool(replies) and (name in (CANARY, FACT, LIMIT) or any(holds(reply) for reply in replies))


def _has(tag: str) -> Callable[[AuditedReply], bool]:
    return lambda reply: tag in reply.tags and reply.passed is not None


def _is_no_probe(reply: AuditedReply) -> bool:
    return reply.passed is not None and reply.tags.isdisjoint(PROBES)


def _passed(reply: AuditedReply) -> bool | None:
    return reply.passed


def _is_limited(reply: AuditedReply) -> bool:
    return reply.max_output_tokens is not None


def _is_told(reply: AuditedReply) -> bool | None:
    """Whether the reply says that it was cut at the limit."""
    return reply.finish_reason == "length"


def _exceeds(reply: AuditedReply) -> bool | None:
    """Whether the visible text alone is above the limit: some servers do not limit reasoning."""
    if reply.visible_tokens is None or reply.max_output_tokens is None:
        return None
    return reply.visible_tokens > reply.max_output_tokens


def _is_whole(reply: AuditedReply) -> bool:
    return reply.finish_reason == "stop" and len(reply.text or "") >= LONG_TEXT


def _breaks_off(reply: AuditedReply) -> bool | None:
    """Whether a reply that says it is complete ends in the middle of a sentence."""
    text = (reply.text or "").rstrip()
    return bool(text) and text[-1] not in _ENDS


_PARTS: tuple[tuple[str, Callable[[AuditedReply], bool], ShareQuestion], ...] = (
    (CANARY, _has(CANARY), ShareQuestion(question="obedience", words="canaries that come back", holds=_passed)),
    (FACT, _has(FACT), ShareQuestion(question="obedience", words="planted facts that come back", holds=_passed)),
    (LIMIT, _has(LIMIT), ShareQuestion(question="obedience", words="limits that are kept", holds=_passed)),
    (
        "checks",
        _is_no_probe,
        ShareQuestion(question="obedience", words="replies that pass their checks", holds=_passed),
    ),
    (
        "told limits",
        _is_limited,
        ShareQuestion(question="obedience", words="replies that say they were cut", holds=_is_told),
    ),
    (
        "above limits",
        _is_limited,
        ShareQuestion(question="obedience", words="replies above their limit", holds=_exceeds),
    ),
    (
        "broken off",
        _is_whole,
        ShareQuestion(question="obedience", words="complete replies that break off", holds=_breaks_off),
    ),
)
"""Name, replies that can be tested, and the property, of each part."""


def _cut(reference: Side, candidate: Side) -> Finding | None:
    """Return that a provider says it removed something from the history, where the reference's does not; else None."""
    dialogues = pair_up(reference, candidate, by_dialogue, lambda reply: True)
    odd = [both for both in dialogues.values() if _says_cut(both.candidate) and not _says_cut(both.reference)]
    if not odd:
        return None
    return Finding(
        question="obedience",
        detail=f"in {len(odd)} of {len(dialogues)} dialogues the provider of {candidate.name} removed a part of it",
        measure="share of dialogues whose history was cut",
        effect=len(odd) / len(dialogues),
        interval=Interval(len(odd) / len(dialogues), 1.0),
        p=0.0,
        evidence=evidence([(None, next(one for one in both.candidate if one.is_history_cut)) for both in odd]),
    )


def _says_cut(replies: Sequence[AuditedReply]) -> bool:
    return any(reply.is_history_cut for reply in replies)


_Twins = Iterator[tuple[AuditedReply, AuditedReply]]


def _alike(
    reference: Side,
    candidate: Side,
    rules: Rules,
    twins: Callable[[Sequence[AuditedReply]], _Twins],
    words: str,
) -> Finding | None:
    """Compare how often replies that should be identical are; servers differ in it, so that only much counts."""
    sides = [
        replace(side, replies=[replace(one, passed=one.text == other.text) for one, other in twins(side.replies)])
        for side in (reference, candidate)
    ]
    dialogues = pair_up(sides[0], sides[1], by_dialogue, lambda reply: True)
    asked = ShareQuestion(
        question="obedience", words=f"{words} that are identical", holds=_passed, limit=0.5, tolerance=COLD_APART
    )
    return compare_shares(asked, dialogues, (reference.name, candidate.name), rules) if dialogues else None


def _cold_repeats(replies: Sequence[AuditedReply]) -> _Twins:
    return repeats_in_order([one for one in replies if one.is_fixed and one.temperature == 0])


def _same_seeds(replies: Sequence[AuditedReply]) -> _Twins:
    """Yield pairs of replies to one prompt with one seed: in two dialogues with the same question, or in two runs."""
    first: dict[tuple[bytes, int], AuditedReply] = {}
    for reply in replies:
        if reply.is_fixed and reply.seed is not None and reply.is_sampled:
            earlier = first.setdefault((reply.prompt, reply.seed), reply)
            if earlier is not reply:
                yield earlier, reply


# --- tools


def tools(reference: Side, candidate: Side, rules: Rules) -> Finding | None:
    """Compare the shares of valid tool calls and of outputs that fit the schema they were asked for."""
    names = reference.name, candidate.name
    parts: list[tuple[str, Finding]] = []
    for name, keep, asked in _VALID:
        dialogues = pair_up(reference, candidate, by_dialogue, keep)
        if dialogues and (found := compare_shares(asked, dialogues, names, rules)) is not None:
            parts.append((name, found))
    return combine("tools", parts)


_VALID: tuple[tuple[str, Callable[[AuditedReply], bool], ShareQuestion], ...] = (
    (
        "calls",
        lambda reply: reply.calls_are_valid is not None,
        ShareQuestion(question="tools", words="replies with valid calls", holds=lambda reply: reply.calls_are_valid),
    ),
    (
        "schemas",
        lambda reply: reply.fits_schema is not None,
        ShareQuestion(question="tools", words="replies that fit their schema", holds=lambda reply: reply.fits_schema),
    ),
)
