"""The question whether both sides draw their replies from one distribution.

Pure. Only replies at a temperature that is known to be above 0 are used: at 0, repeats are expected to agree, and
honest servers of one model may each agree on another text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convbatch.auditing.distances import SQUARED, STATISTICS, PromptDistances, foreign
from convbatch.auditing.finding import (
    LEVEL,
    Finding,
    Rules,
    evidence,
    exact_limit,
    percent,
    signed_percent,
    untested,
)
from convbatch.auditing.permutation import (
    drawn_labels,
    normal_power,
    share_beyond,
    t_quantile,
    times_needed,
)
from convbatch.auditing.replies import AuditedReply, Both, Side, by_dialogue, by_prompt, pair_up
from convbatch.comparison.stats import Interval, cluster_mean

if TYPE_CHECKING:
    from convbatch.auditing.permutation import Floats

SWAPPED, SWAPPED_FOUND = 0.2, 0.3
"""Share of foreign replies that `distribution` rules out, and the one that its power is for."""
VARIED, VARIED_FOUND = 0.2, 0.25
"""Relative difference of the distances within a side that `distribution` rules out, and the one its power is for."""
LENGTHENED = 0.1
"""Relative difference of lengths that `distribution` rules out, and the one its power is for."""
_NO_SPREAD = 1e-12
"""A standard deviation up to this size is a rounding error of 0."""
MAX_REPLIES = 100
"""Replies to a prompt at each side that are compared: the time grows with their square."""
MIN_REPLIES = 2
"""Replies to a prompt at each side without which no distance within a side is known."""


def _is_drawn(reply: AuditedReply) -> bool:
    """Whether a reply is a draw, and not the most likely one."""
    return reply.is_sampled and bool(reply.text)


def distribution(reference: Side, candidate: Side, rules: Rules) -> Finding | None:
    """Test that both sides draw their replies to each prompt from the same distribution.

    Four statistics (`distances.py`), each a mean over prompts in its own standard deviations: the squared maximum mean
    discrepancy of beginnings and of endings, how varied the replies are, which a forced temperature changes, and how
    long. The largest is compared with permutations within prompts. The effect is a share of foreign replies: the share
    of the reference's replies that, exchanged for its replies to other prompts, would give the same discrepancy.

    Source: Gao, Liang, Guestrin 2024, "Model Equality Testing", arXiv:2410.20247; the weights of places are ours.
    """
    if not _common(reference, candidate, lambda reply: bool(reply.text)):
        return None
    drawn = _common(reference, candidate, _is_drawn)
    if not drawn:
        why = "no reply to a common prompt at a temperature that is known to be above 0"
        return untested("distribution", why, needed="a run with a temperature above 0, e.g. --temperature 1")
    usable = [those for those in drawn if min(len(those[0].reference), len(those[0].candidate)) >= MIN_REPLIES]
    if not usable:
        why = f"one reply to each of {len(drawn)} prompts: no distance within a side is known"
        return untested("distribution", why, needed="a run with repeats, e.g. --repeats 5")
    groups = [[PromptDistances.of(both) for both in those] for those in _at_most(usable, MAX_REPLIES, rules.seed)]
    return _compare_prompts(groups, (reference.name, candidate.name), rules)


_Together = Sequence[Both]
"""Turns of one dialogue, replies at the same place of which are of one conversation; mostly a single prompt."""


def _common(reference: Side, candidate: Side, keep: Callable[[AuditedReply], bool]) -> list[_Together]:
    """Return what both sides were asked: prompts without a live reply in them, and dialogues with live replies.

    A live turn is not the same prompt everywhere, but it is the same turn of a conversation that both sides would lead
    alike, if they were one model.
    """
    sides = reference, candidate
    live = {one.dialogue for side in sides for one in side.replies if keep(one) and not one.is_fixed}
    fixed = pair_up(*sides, by_prompt, lambda reply: keep(reply) and reply.dialogue not in live)
    dialogues = pair_up(*sides, by_dialogue, lambda reply: keep(reply) and reply.dialogue in live)
    together = [[both] for both in fixed.values()]
    return [*together, *(turns for both in dialogues.values() if (turns := _turns_together(both)))]


def _turns_together(both: Both) -> list[Both]:
    """Return the turns that most conversations of both sides have, and the conversations that have all of these."""
    sides = [_by_conversation(replies) for replies in (both.reference, both.candidate)]
    counts = [Counter(turn for turns in side for turn in turns) for side in sides]
    common = [turn for turn in sorted(counts[0]) if all(2 * counts[k][turn] > len(sides[k]) for k in (0, 1))]
    whole = [[turns for turns in side if all(turn in turns for turn in common)] for side in sides]
    if not all(whole):
        return []
    return [Both(*([turns[turn] for turns in side] for side in whole)) for turn in common]


def _by_conversation(replies: Sequence[AuditedReply]) -> list[dict[int, AuditedReply]]:
    found: dict[tuple[str, str, int], dict[int, AuditedReply]] = {}
    for reply in replies:
        found.setdefault(reply.conversation, {})[reply.turn] = reply
    return list(found.values())


def _at_most(groups: Sequence[_Together], most: int, seed: int) -> Iterator[_Together]:
    """Yield the groups with at most so many conversations of a side: drawn at random, so that no run is in all."""
    import numpy as np

    chance = np.random.default_rng(seed)
    for those in groups:
        sizes = len(those[0].reference), len(those[0].candidate)
        if max(sizes) <= most:
            yield those
        else:
            at = [sorted(chance.permutation(size)[:most]) for size in sizes]
            yield [Both([one.reference[k] for k in at[0]], [one.candidate[k] for k in at[1]]) for one in those]


def _compare_prompts(groups: Sequence[Sequence[PromptDistances]], names: tuple[str, str], rules: Rules) -> Finding:
    found = _Discrepancy.of(groups, rules)
    parts = found.parts(rules)
    prompts = [one for those in groups for one in those]
    told = max(parts, key=lambda part: part.score if found.p <= rules.alpha else part.is_share * (1 + part.effect))
    order = sorted(range(len(prompts)), key=lambda at: -found.by_prompt[told.row, at] * (told.effect >= 0 or -1))
    weak = [part for part in parts if not part.is_ruled_out]
    return Finding(
        question="distribution",
        detail=f"{len(prompts)} prompts, {found.replies} replies of {names[1]}, compared with those of {names[0]}: "
        + "; ".join(f"{part.name} {part.told}" for part in parts),
        measure=told.measure,
        effect=told.effect,
        interval=told.interval,
        p=found.p,
        limit=told.limit,
        power=min(part.power for part in parts),
        power_for=told.found,
        needed=_more_prompts([part.times for part in parts], len(prompts)),
        open=", ".join(part.name for part in weak) + ": not decided" if weak else None,
        evidence=evidence([_farthest(prompts[at]) for at in order if found.by_prompt[told.row, at]]),
    )


def _more_prompts(times: Sequence[float | None], prompts: int) -> str | None:
    """Return how many prompts with as many repeats it takes; a statistic's deviation falls with their root.

    Where there are enough, it was chance that left the question open: twice as many settle it.
    """
    known = [one for one in times if one is not None]
    if len(known) < len(times):
        return None
    most = max(known)
    return f"about {max(2, math.ceil((most if most > 1 else 2) * prompts)):,} prompts with as many repeats"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one of the statistics says."""

    row: int
    measure: str
    effect: float
    interval: Interval | None
    score: float
    """In standard deviations."""
    limit: float
    found: float
    """The effect that the power is for."""
    power: float
    times: float | None
    """How many times the prompts it takes; None if no number is known."""

    @property
    def name(self) -> str:
        return STATISTICS[self.row]

    @property
    def is_share(self) -> bool:
        """Whether the effect is a share of foreign replies."""
        return self.row < SQUARED.stop

    @property
    def told(self) -> str:
        return f"as with {percent(self.effect)} foreign replies" if self.is_share else signed_percent(self.effect)

    @property
    def is_ruled_out(self) -> bool:
        """Whether the interval holds no effect as large as the limit."""
        return self.interval is not None and -self.limit < self.interval.low and self.interval.high < self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class _Discrepancy:
    """The statistics of all prompts, and what they are when the sides are drawn anew."""

    by_prompt: Floats
    """(statistic, prompt)."""
    sds: Floats
    """Standard deviation of each mean over prompts, when both sides are the same."""
    p: float
    foreign: Floats
    """Squared discrepancies that count as 100 % foreign replies."""
    within: float
    """Mean distance of two replies of the side that varies more."""
    replies: int
    """Of the candidate."""

    sizes: Sequence[int]
    """Prompts of each group."""

    @classmethod
    def of(cls, groups: Sequence[Sequence[PromptDistances]], rules: Rules) -> _Discrepancy:
        import numpy as np

        prompts = [one for those in groups for one in those]
        drawn = np.zeros((len(STATISTICS), rules.draws))
        sides = [(len(those[0].both.reference), len(those[0].both.candidate)) for those in groups]
        for those, each in zip(groups, drawn_labels(sides, rules.draws, rules.seed), strict=True):
            drawn += each.of(sum(one.statistics(each.labels) for one in those) / len(prompts))
        by_prompt = np.array([one.statistics(one.labels)[:, 0] for one in prompts]).T
        sds = drawn.std(axis=1)
        within = np.mean([one.within() for one in prompts], axis=0).max()
        return cls(
            by_prompt=by_prompt,
            sds=sds,
            p=share_beyond(float(_largest(by_prompt.mean(axis=1, keepdims=True), sds)[0]), _largest(drawn, sds)),
            foreign=foreign(prompts),
            within=float(within),
            replies=sum(len(one.both.candidate) for one in prompts),
            sizes=[len(those) for those in groups],
        )

    def parts(self, rules: Rules) -> list[_Part]:
        """Return what each statistic says; variety only where there is any."""
        level = rules.level / len(STATISTICS)
        parts = [self._share(row, level) for row in range(SQUARED.stop)]
        if self.within > 0:
            words = "relative difference of the distance between a side's replies to one prompt"
            limits = VARIED, VARIED_FOUND
            parts.append(self._mean(2, words, lambda apart: apart / self.within, limits, level, scale=self.within))
        words = "relative difference of the length of replies"
        return [*parts, self._mean(3, words, math.expm1, (LENGTHENED, LENGTHENED), level)]

    def _half(self, row: int) -> float | None:
        """Return half the width of the interval of a mean over prompts; None for a single group of them."""
        if len(self.sizes) < 2:
            return None
        import numpy as np

        starts = np.cumsum([0, *self.sizes[:-1]])
        spread = cluster_mean(np.add.reduceat(self.by_prompt[row], starts).tolist(), self.sizes).se
        return t_quantile(0.5 + LEVEL / 2, len(self.sizes) - 1) * max(spread or 0.0, float(self.sds[row]))

    def _share(self, row: int, level: float) -> _Part:
        mean, sd, foreign = float(self.by_prompt[row].mean()), float(self.sds[row]), float(self.foreign[row])
        half = self._half(row)
        interval = None
        if half is not None and foreign > 0:
            high = max(_as_share(mean + half, foreign), exact_limit(self.replies))
            interval = Interval(_as_share(mean - half, foreign), high)
        squared = SWAPPED_FOUND**2 * foreign
        spread = math.hypot(sd, 2 * foreign * math.sqrt(SWAPPED_FOUND**3 * (1 - SWAPPED_FOUND) / self.replies))
        power = min(normal_power(squared, sd, spread, level=level), 1 - (1 - SWAPPED_FOUND) ** self.replies)
        return _Part(
            row=row,
            measure="share of foreign replies that would differ as much",
            effect=_as_share(mean, foreign),
            interval=interval,
            score=_score(mean, sd),
            limit=SWAPPED,
            found=SWAPPED_FOUND,
            power=power if foreign > 0 else 0.0,
            times=times_needed(squared, sd, level=level),
        )

    def _mean(
        self,
        row: int,
        measure: str,
        relative: Callable[[float], float],
        limits: tuple[float, float],
        level: float,
        *,
        scale: float | None = None,
    ) -> _Part:
        """Return what a mean difference says.

        Args:
            row: Of the statistic.
            measure: What the effect is, in words.
            relative: Makes the effect of the difference.
            limits: The effect that is ruled out, and the one that the power is for.
            level: Of the test.
            scale: Difference that is an effect of 1; None: the difference is one of logarithms.
        """
        limit, found = limits
        change = math.log1p(found) if scale is None else found * scale
        mean, sd = float(self.by_prompt[row].mean()), float(self.sds[row])
        half = self._half(row)
        return _Part(
            row=row,
            measure=measure,
            effect=relative(mean),
            interval=None if half is None else Interval(relative(mean - half), relative(mean + half)),
            score=abs(_score(mean, sd)),
            limit=limit,
            found=found,
            power=normal_power(change, sd, sd, level=level),
            times=times_needed(change, sd, level=level),
        )


def _largest(means: Floats, sds: Floats) -> Floats:
    """Return the largest statistic in its standard deviations, by draw; squared ones count only above 0."""
    import numpy as np

    scores = np.divide(means, sds[:, None], out=np.zeros_like(means), where=sds[:, None] > _NO_SPREAD)
    return np.maximum(scores[SQUARED].max(axis=0), np.abs(scores[SQUARED.stop :]).max(axis=0))


def _score(mean: float, sd: float) -> float:
    return mean / sd if sd > _NO_SPREAD else 0.0


def _as_share(squared: float, foreign: float) -> float:
    """Return the share of foreign replies with this squared discrepancy: a mixture's grows with its square."""
    if squared <= 0:
        return 0.0
    return min(1.0, math.sqrt(squared / foreign)) if foreign > 0 else 1.0


def _farthest(prompt: PromptDistances) -> tuple[AuditedReply | None, AuditedReply | None]:
    """Return the candidate's reply farthest from the reference's, and the reference's nearest to its own."""
    ours = len(prompt.both.reference)
    apart = prompt.beginnings + prompt.endings
    across = apart[:ours, ours:].mean(axis=0)
    inside = apart[:ours, :ours].mean(axis=0)
    return prompt.both.reference[int(inside.argmin())], prompt.both.candidate[int(across.argmax())]
