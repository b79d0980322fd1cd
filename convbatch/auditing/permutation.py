"""Tests by permutation within strata, and intervals and power of differences of shares. Pure: randomness is a seed.

A stratum holds the replies of both sides to one prompt (or the conversations of one dialogue). If both sides are the
same model, any of them could have come from either side: sides are drawn anew within each stratum, never across.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

from convbatch.comparison.stats import POWER, Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Labels = NDArray[np.bool_]

_TIE = 1e-9
_MANY = 10**9
MANY_WAYS = 512
"""Arrangements of a stratum up to which they are listed: faster than to permute anew in each draw."""
FINER = 10
"""How many times as many draws are made where the first ones cannot tell how small a p is."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """One value of each reply (or conversation), of the reference first."""

    reference: Sequence[float]
    candidate: Sequence[float]
    weight: float = 1.0

    @property
    def difference(self) -> float:
        """Mean of the candidate minus that of the reference."""
        return sum(self.candidate) / len(self.candidate) - sum(self.reference) / len(self.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class PermutationTest:
    """The result of a test."""

    effect: float
    """Weighted mean of the strata's differences."""
    p: float
    """Two-sided."""
    sd: float
    """Standard deviation of the effect when both sides are the same."""


@dataclass(frozen=True, slots=True)
class Draws:
    """Random permutations of the sides of one stratum."""

    labels: Labels
    """(arrangement, reply): whether the reply is one of the candidate."""
    chosen: Any | None
    """The arrangement of each draw; None: one after the other."""

    def of(self, values: Any) -> Any:
        """Return the values of the draws from those of the arrangements, which are the last axis."""
        return values if self.chosen is None else values[..., self.chosen]


def drawn_labels(strata: Sequence[tuple[int, int]], draws: int, seed: int) -> Iterator[Draws]:
    """Yield the permutations of each stratum; of a small one, all arrangements and which of them is drawn.

    Args:
        strata: Number of replies of the reference and of the candidate.
        draws: Number of draws.
        seed: Of the draws.
    """
    import numpy as np

    chance = np.random.default_rng(seed)
    for ours, theirs in strata:
        ways = math.comb(ours + theirs, theirs)
        if ways <= min(MANY_WAYS, draws):
            yield Draws(_all_labels(ours, theirs), chance.integers(ways, size=draws))
        else:
            ranks = chance.random((draws, ours + theirs), dtype=np.float32).argsort(axis=1)
            yield Draws(ranks >= ours, None)


@cache
def _all_labels(ours: int, theirs: int) -> Labels:
    import numpy as np

    found = np.zeros((math.comb(ours + theirs, theirs), ours + theirs), dtype=bool)
    for row, places in enumerate(combinations(range(ours + theirs), theirs)):
        found[row, list(places)] = True
    return found


def difference_test(strata: Sequence[Stratum], *, draws: int, seed: int) -> PermutationTest:
    """Test that within each stratum both sides have the same mean.

    Where no draw is as extreme as what was observed, `FINER` times as many are drawn anew: the p of a clear difference
    has to pass an adjustment for many questions.

    Args:
        strata: At least one, each with a value of both sides. A weight may depend on all values of a stratum, not on
            which side they are from.
        draws: Number of random permutations.
        seed: Of the draws.

    Source: Fisher 1935, The Design of Experiments, section 21; p with the observed labels as one more draw: Phipson and
        Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9:39.
    """
    import numpy as np

    total = math.fsum(stratum.weight for stratum in strata)
    effect = math.fsum(stratum.weight * stratum.difference for stratum in strata) / total
    drawn = _drawn_effects(strata, draws, seed) / total
    p = share_beyond(abs(effect), np.abs(drawn))
    if p <= 1 / (draws + 1):
        p = share_beyond(abs(effect), np.abs(_drawn_effects(strata, FINER * draws, seed + 1) / total))
    return PermutationTest(effect=effect, p=p, sd=float(drawn.std()))


def _drawn_effects(strata: Sequence[Stratum], draws: int, seed: int) -> Floats:
    """Return the weighted sum of the strata's differences in each draw."""
    import numpy as np

    drawn = np.zeros(draws)
    moving = [one for one in strata if len({*one.reference, *one.candidate}) > 1]
    sizes = [(len(one.reference), len(one.candidate)) for one in moving]
    for stratum, each, (ours, theirs) in zip(moving, drawn_labels(sizes, draws, seed), sizes, strict=True):
        values = np.array([*stratum.reference, *stratum.candidate])
        sums = each.labels @ values
        drawn += stratum.weight * each.of(sums / theirs - (values.sum() - sums) / ours)
    return drawn


def share_beyond(observed: float, drawn: Floats) -> float:
    """Return the p of an observed statistic: the share of draws at least as large, the observed one included."""
    return float((1 + (drawn >= observed - _TIE * max(1.0, abs(observed))).sum()) / (len(drawn) + 1))


def least_p(strata: Sequence[Stratum]) -> float:
    """Return the smallest p that these permutations can give: two of all arrangements are the most extreme ones."""
    ways = 1
    for one in strata:
        ways *= math.comb(len(one.reference) + len(one.candidate), len(one.candidate))
        if ways > _MANY:
            return 0.0
    return min(1.0, 2 / ways)


def share_interval(ours: float, theirs: float, counts: tuple[float, float], *, level: float) -> Interval:
    """Return the interval of a difference of two independent shares, candidate minus reference.

    Args:
        ours: Share of the reference.
        theirs: Share of the candidate.
        counts: Number of independent replies behind each, > 0.
        level: Coverage.

    Source: Newcombe 1998, Statistics in Medicine 17:873, method 10 (Wilson's limits squared and added).
    """
    z = normal_quantile(0.5 + level / 2)
    low, high = (wilson(ours, counts[0], z), wilson(theirs, counts[1], z))
    apart = theirs - ours
    return Interval(
        max(-1.0, apart - math.hypot(theirs - high.low, low.high - ours)),
        min(1.0, apart + math.hypot(high.high - theirs, ours - low.low)),
    )


def wilson(share: float, count: float, z: float) -> Interval:
    """Return the score interval of a share.

    Source: Wilson 1927, Journal of the American Statistical Association 22:209.
    """
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(max(0.0, (middle - half) / (1 + z * z / count)), min(1.0, (middle + half) / (1 + z * z / count)))


def normal_power(effect: float, null_sd: float, real_sd: float, *, level: float) -> float:
    """Return the probability that a two-sided test at `level` finds an effect, from its standard deviations."""
    if null_sd <= 0 or real_sd <= 0:
        return 1.0 if effect > 0 else level
    from scipy.special import ndtr

    return float(ndtr((effect - normal_quantile(1 - level / 2) * null_sd) / real_sd))


def times_needed(effect: float, null_sd: float, *, level: float) -> float | None:
    """Return how many times the data a test needs to find an effect with power 0.8; None if no number is enough."""
    if effect <= 0:
        return None
    return ((normal_quantile(1 - level / 2) + normal_quantile(POWER)) * null_sd / effect) ** 2


def t_quantile(p: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, p))


def normal_quantile(p: float) -> float:
    """Return the quantile of the standard normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(p))
