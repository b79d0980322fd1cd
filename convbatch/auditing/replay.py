"""Whether repeats of a prompt have the same text more often than at the reference: a sign of a cache. Pure.

Only prompts without a live reply in them, at a temperature that is known to be above 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convbatch.auditing.finding import LEVEL, Finding, Rules, evidence, untested
from convbatch.auditing.permutation import normal_power, share_beyond, share_interval, times_needed
from convbatch.auditing.replies import AuditedReply, Both, Side, by_prompt, pair_up, repeats_in_order

if TYPE_CHECKING:
    from convbatch.auditing.permutation import Floats

MIN_PAIRS = 60
"""Pairs of repeats at each side below which `replay` is not tested."""
REPLAYED = 0.1
"""Difference of the shares of identical pairs that `replay` rules out, among replies that vary."""


def replay(reference: Side, candidate: Side, rules: Rules) -> Finding | None:
    """Compare how often repeats k and k + 1 of a prompt have the same text.

    Pairs that share a reply are not independent, and some prompts have one likely answer. So all replies to a prompt
    are dealt anew to the repeats of both sides, and the difference counted again: Fisher's exact test is this for pairs
    that are independent and prompts that are alike. A prompt counts by how varied its replies are at both sides
    together: where a model always says the same, a cache cannot show.
    """
    prompts = [_Pairs.of(both) for both in pair_up(reference, candidate, by_prompt, _is_drawn).values()]
    pairs = [one for one in prompts if min(one.counts) > 0 and one.variety > 0]
    if not pairs:
        return None
    counts = [sum(one.counts[side] for one in pairs) for side in (0, 1)]
    alike = [sum(one.alike[side] for one in pairs) for side in (0, 1)]
    detail = "; ".join(
        f"{side.name}: {alike[at]} of {counts[at]} pairs of repeats identical"
        for at, side in enumerate((reference, candidate))
    )
    if min(counts) < MIN_PAIRS:
        return untested("replay", f"fewer than {MIN_PAIRS} pairs; {detail}", needed=f"{MIN_PAIRS} pairs at each side")
    test = _Test.of(pairs, rules)
    times = times_needed(test.change, test.null_sd, level=rules.level)
    told = sorted((one for one in pairs if one.excess * test.effect > 0), key=lambda one: -abs(one.excess * one.weight))
    return Finding(
        question="replay",
        detail=detail,
        measure="difference of the share of identical pairs of repeats; prompts count by how varied their replies are",
        effect=test.effect,
        interval=test.interval,
        p=test.p,
        limit=REPLAYED,
        power=normal_power(test.change, test.null_sd, test.real_sd, level=rules.level),
        needed=_more_pairs(times, min(counts)),
        evidence=evidence(
            [one.telling for one in told],
            [f"pairs identical: {one.alike[0]} of {one.counts[0]}, {one.alike[1]} of {one.counts[1]}" for one in told],
        ),
    )


def _is_drawn(reply: AuditedReply) -> bool:
    return reply.is_fixed and reply.is_sampled and bool(reply.text)


def _more_pairs(times: float | None, pairs: int) -> str | None:
    """Return how many pairs a decision takes; where there are enough, chance left it open: twice as many."""
    if times is None:
        return None
    return f"about {max(MIN_PAIRS, math.ceil((times if times > 1 else 2) * pairs)):,} pairs at each side"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """Pairs of repeats k and k + 1 of one prompt."""

    both: Both
    texts: Any
    """A number for each text, the replies of the reference first."""
    first: Any
    """Places of the first replies of the pairs, those of the reference first."""
    second: Any
    counts: tuple[int, int]
    alike: tuple[int, int]
    variety: float
    """Probability that two replies of both sides together have different texts."""

    @classmethod
    def of(cls, both: Both) -> _Pairs:
        import numpy as np

        replies = [*both.reference, *both.candidate]
        places = {id(reply): place for place, reply in enumerate(replies)}
        known: dict[str, int] = {}
        texts = np.array([known.setdefault(reply.text or "", len(known)) for reply in replies])
        sides = [list(repeats_in_order(side)) for side in (both.reference, both.candidate)]
        first, second = (np.array([places[id(pair[k])] for side in sides for pair in side], dtype=int) for k in (0, 1))
        same = texts[first] == texts[second]
        ours = len(sides[0])
        counts, alike = (ours, len(sides[1])), (int(same[:ours].sum()), int(same[ours:].sum()))
        total = len(replies)
        equal = sum(count * (count - 1) for count in np.bincount(texts).tolist()) / (total * (total - 1))
        return cls(both=both, texts=texts, first=first, second=second, counts=counts, alike=alike, variety=1 - equal)

    @property
    def excess(self) -> float:
        """Share of identical pairs of the candidate above that of the reference."""
        return self.alike[1] / self.counts[1] - self.alike[0] / self.counts[0]

    @property
    def telling(self) -> tuple[AuditedReply, AuditedReply]:
        """A reply of each side, that of the side with more identical pairs being one of them."""
        more = self.both.candidate if self.excess > 0 else self.both.reference
        alike = next((one for one, other in repeats_in_order(more) if one.text == other.text), more[0])
        return (self.both.reference[0], alike) if self.excess > 0 else (alike, self.both.candidate[0])

    @property
    def weight(self) -> float:
        return self.variety * self.pairs

    @property
    def pairs(self) -> float:
        """Pairs at one side, if the other one had as many as it takes to be known exactly."""
        return 1 / sum(1 / count for count in self.counts)

    @property
    def share(self) -> float:
        """Share of identical pairs at both sides."""
        return sum(self.alike) / sum(self.counts)

    def drawn(self, draws: int, chance: Any) -> Floats:
        """Return the excess in each draw."""
        import numpy as np

        texts = self.texts[chance.random((draws, len(self.texts)), dtype=np.float32).argsort(axis=1)]
        same = texts[:, self.first] == texts[:, self.second]
        ours, theirs = self.counts
        return same[:, ours:].sum(axis=1) / theirs - same[:, :ours].sum(axis=1) / ours

    @property
    def can_move(self) -> bool:
        return 1 < len(set(self.texts.tolist())) < len(self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Test:
    effect: float
    p: float
    interval: Any
    change: float
    """What the power is for: the limit, or less where no such change is possible."""
    null_sd: float
    """Standard deviation of the effect where a change of this size is drawn anew to both sides, and as it is."""
    real_sd: float

    @classmethod
    def of(cls, pairs: Sequence[_Pairs], rules: Rules) -> _Test:
        import numpy as np

        total = math.fsum(one.weight for one in pairs)
        shares = [math.fsum(one.weight * one.alike[k] / one.counts[k] for one in pairs) / total for k in (0, 1)]
        effect = shares[1] - shares[0]
        drawn = _drawn(pairs, rules.draws, rules.seed) / total
        p = share_beyond(abs(effect), np.abs(drawn))
        change = min(REPLAYED, max(shares[0], 1 - shares[0]))
        squared = math.fsum(one.weight * one.variety for one in pairs)
        spread = math.sqrt(math.fsum(one.weight * one.variety * one.share * (1 - one.share) for one in pairs)) / total
        tied = max(1.0, float(drawn.std()) / spread) if spread > 0 else 1.0
        effective = total**2 / (squared * math.fsum(one.pairs for one in pairs)) / tied**2
        counts = [sum(one.counts[k] for one in pairs) * effective for k in (0, 1)]
        sds = _spreads(pairs, change / max(1e-9, 1 - shares[0]))
        interval = share_interval(shares[0], shares[1], (counts[0], counts[1]), level=LEVEL)
        return cls(
            effect=effect,
            p=p,
            interval=interval,
            change=change,
            null_sd=tied * sds[0] / total,
            real_sd=tied * sds[1] / total,
        )


def _drawn(pairs: Sequence[_Pairs], draws: int, seed: int) -> Floats:
    import numpy as np

    chance = np.random.default_rng(seed)
    found = np.zeros(draws)
    for one in pairs:
        if one.can_move:
            found += one.weight * one.drawn(draws, chance)
    return found


def _spreads(pairs: Sequence[_Pairs], replayed: float) -> tuple[float, float]:
    """Return standard deviations of the weighted sum of excesses where the candidate replays this share of its pairs.

    Returns:
        When all replies are dealt anew, and as they are; for pairs that do not share replies.
    """
    null = real = 0.0
    for one in pairs:
        ours, theirs = one.counts
        after = one.share + replayed * (1 - one.share)
        among_all = math.comb(theirs + 1, 2) / math.comb(ours + theirs + 2, 2)
        dealt = one.share + (after - one.share) * among_all
        null += one.weight * one.variety * dealt * (1 - dealt)
        real += one.weight**2 * (one.share * (1 - one.share) / ours + after * (1 - after) / theirs)
    return math.sqrt(null), math.sqrt(real)
