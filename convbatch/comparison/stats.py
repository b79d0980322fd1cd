"""Numbers of paired dialogues → intervals, tests, effect sizes, and how many dialogues it would take.

Pure: no frames, no files, no clock; chance comes in as a seed. The unit is the dialogue throughout, because turns of
one dialogue are not independent. What is harmful, which test a metric gets and what a verdict is called is
`compare.py`. Distributions and root finding are scipy's; the paired score interval and the sign-flip test are here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

POWER = 0.8
"""What "detectable" and "needed" mean: found with this probability, at the metric's alpha."""
EXACT_SUMS = 2**17
"""The sign-flip test counts up to so many different sums; beyond, it draws."""
EXACT_WORK = 2 * 10**7
"""And so many sums over all dialogues: about a second."""
DRAWS, DRAWS_OF_MANY, MANY = 99_999, 9_999, 1_000
"""How often it draws; fewer times where more than `MANY` dialogues differ, which takes as long."""
_TIE = 1e-6
MAX_DIALOGUES = 10**15
"""A number of dialogues that nobody has; needing more is told as this."""
_NOISE = 1e-9
"""A mean so much smaller than its standard error is 0, and what rounding left of it."""


class Interval(NamedTuple):
    """Lower and upper limit."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """An estimate from independent dialogues with its standard error; its distribution is t with G - 1 degrees."""

    estimate: float
    se: float | None
    """None from fewer than two dialogues, or when all of them say the same: there is no spread to go by."""
    dialogues: int

    def interval(self, level: float) -> Interval | None:
        """Two-sided t interval; None without a standard error.

        Args:
            level: Coverage, e.g. 0.95.
        """
        if self.se is None:
            return None
        half = _t_quantile(0.5 + level / 2, self.dialogues - 1) * self.se
        return Interval(self.estimate - half, self.estimate + half)

    def p(self) -> float | None:
        """Two-sided p of the t test against 0; None without a standard error."""
        if self.se is None:
            return None
        from scipy.special import stdtr

        return float(2 * stdtr(self.dialogues - 1, -abs(self.estimate / self.se)))


class SignFlip(NamedTuple):
    """What the sign-flip test found, and how."""

    p: float
    draws: int | None
    """None: every assignment of signs was counted; else so many were drawn."""


def mcnemar_midp(only_base: int, only_candidate: int) -> float:
    """Twice the one-sided mid-p of McNemar's test: is a discordant pair as likely to be either kind?

    Args:
        only_base: Pairs that only the base passed.
        only_candidate: Pairs that only the candidate passed.

    Returns:
        1 when both are equal, also when both are 0.

    Source: Fagerland, Lydersen, Laake 2013, BMC Medical Research Methodology 13:91.
    """
    if only_base == only_candidate:
        return 1.0
    from scipy.special import bdtr

    fewer, discordant = min(only_base, only_candidate), only_base + only_candidate
    below = float(bdtr(fewer - 1, discordant, 0.5)) if fewer else 0.0
    return float(bdtr(fewer, discordant, 0.5)) + below


def tango_interval(only_base: int, only_candidate: int, pairs: int, *, level: float) -> Interval:
    """Score interval for the difference of two paired proportions, candidate minus base.

    Args:
        only_base: Pairs that only the base passed.
        only_candidate: Pairs that only the candidate passed.
        pairs: All pairs, n >= 1.
        level: Coverage, e.g. 0.95.

    Returns:
        Lower and upper limit in [-1, 1]; a difference of proportions, no unit. Never a single point, also without any
        discordant pair: then it is z^2 / (n + z^2) to either side.

    Raises:
        ValueError: No pairs, or more discordant pairs than pairs.

    Source: Tango 1998, Statistics in Medicine 17:891, equations of section 2; the constrained estimate in closed form.
    """
    if pairs < 1 or min(only_base, only_candidate) < 0 or only_base + only_candidate > pairs:
        raise ValueError(f"{only_base} + {only_candidate} discordant pairs of {pairs}")
    upper = _tango_upper(only_candidate, only_base, pairs, level)
    return Interval(-_tango_upper(only_base, only_candidate, pairs, level), upper)


def _tango_upper(gained: int, lost: int, n: int, level: float) -> float:
    if gained == n:
        return 1.0
    from scipy.optimize import brentq

    z = _z(0.5 + level / 2)

    def short_of_bound(delta: float) -> float:
        # q: the probability of a loss that is most likely when the difference is delta.
        b = -gained - lost + (2 * n - gained + lost) * delta
        q = (math.sqrt(max(0.0, b * b + 8 * n * lost * delta * (1 - delta))) - b) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        return gained - lost - n * delta + z * math.sqrt(max(0.0, variance))

    # At the estimate itself and no losses or gains the function is 0 as well: begin beside it.
    start = min((gained - lost) / n + 1e-12, 1.0)
    root: Any = brentq(short_of_bound, start, 1.0, xtol=1e-14, maxiter=500)
    return float(root)


def cluster_mean(sums: Sequence[float], sizes: Sequence[float]) -> Mean:
    """Mean of clustered values, each value counting the same, with a cluster-robust standard error.

    The variance is the sandwich of a regression on a constant with the CR1 factor G / (G - 1); its other part,
    (N - 1) / (N - k), is 1 for a single coefficient.

    Args:
        sums: Sum of the values of each dialogue.
        sizes: How many values each dialogue has, > 0.

    Returns:
        The mean over all values; of `Mean.dialogues` dialogues.

    Source: Liang and Zeger 1986, Biometrika 73:13; CR1 and t(G - 1) as in Cameron and Miller 2015, Journal of Human
        Resources 50:317, section II.
    """
    total = math.fsum(sizes)
    mean = math.fsum(sums) / total
    return _mean(mean, [(s - mean * n) / total for s, n in zip(sums, sizes, strict=True)])


def paired_mean(differences: Sequence[float]) -> Mean:
    """Mean of one difference a dialogue: the paired t test.

    Args:
        differences: Candidate minus base, one a dialogue.

    Source: Student 1908, Biometrika 6:1.
    """
    return cluster_mean(differences, [1.0] * len(differences))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The ratio of two totals over the same dialogues, candidate to base; long dialogues count for what they are."""

    base: float
    """Mean of a dialogue, as `candidate`."""
    candidate: float
    base_variance: float
    """Of the mean, as the other two."""
    candidate_variance: float
    covariance: float
    dialogues: int
    difference: Mean
    """Mean of the dialogues' own differences."""
    has_spread: bool
    """False: fewer than two dialogues, or every one has the same ratio. There is nothing to go by then."""

    @property
    def estimate(self) -> float:
        """The ratio."""
        return self.candidate / self.base

    def interval(self, level: float) -> Interval | None:
        """Every ratio r that the t test of candidate - r x base does not reject; never below 0.

        Args:
            level: Coverage, e.g. 0.95.

        Returns:
            None without spread, and where the base is so uneven that no ratio is too large.

        Source: Fieller 1954, Journal of the Royal Statistical Society B 16:175.
        """
        if not self.has_spread:
            return None
        t2 = _t_quantile(0.5 + level / 2, self.dialogues - 1) ** 2
        a = self.base**2 - t2 * self.base_variance
        b = self.base * self.candidate - t2 * self.covariance
        c = self.candidate**2 - t2 * self.candidate_variance
        if a <= 0:
            return None
        root = math.sqrt(max(0.0, b * b - a * c))
        return Interval(max(0.0, (b - root) / a), (b + root) / a)

    @property
    def excess(self) -> Mean:
        """What the candidate has more, as a share of the base's mean; for tests and sample sizes."""
        se = self.difference.se
        return Mean(
            estimate=self.estimate - 1.0,
            se=None if se is None or not self.has_spread else se / self.base,
            dialogues=self.dialogues,
        )


def ratio_of_totals(base: Sequence[float], candidate: Sequence[float]) -> Ratio:
    """Ratio of two totals over the same dialogues, by Fieller's method.

    Of three ways tried by simulation (`benchmarks`) with uneven dialogues, this one keeps its coverage with 10 of them;
    the delta method on the log scale has 90 % where it says 95, the jackknife 93.

    Args:
        base: Total of each dialogue at the base, >= 0.
        candidate: Total of the same dialogues at the candidate.

    Raises:
        ValueError: A side's total is 0.
    """
    n = len(base)
    first, second = math.fsum(base) / max(1, n), math.fsum(candidate) / max(1, n)
    if first <= 0 or second <= 0:
        raise ValueError("a ratio of totals needs totals above 0")
    of_means = max(1, n - 1) * n
    residuals = [c - b * second / first for b, c in zip(base, candidate, strict=True)]
    return Ratio(
        base=first,
        candidate=second,
        base_variance=math.fsum((b - first) ** 2 for b in base) / of_means,
        candidate_variance=math.fsum((c - second) ** 2 for c in candidate) / of_means,
        covariance=math.fsum((b - first) * (c - second) for b, c in zip(base, candidate, strict=True)) / of_means,
        dialogues=n,
        difference=paired_mean([c - b for b, c in zip(base, candidate, strict=True)]),
        has_spread=n > 1 and max(map(abs, residuals)) > 1e-12 * second,
    )


def mean_log_ratio(base: Sequence[float], candidate: Sequence[float]) -> Mean:
    """Mean of the logarithms of each dialogue's own ratio, candidate to base: every dialogue counts the same.

    Args:
        base: A mean of each dialogue, > 0.
        candidate: The same dialogues at the candidate, > 0.

    Source: paired t test on logarithms; its exponential is the ratio of geometric means.
    """
    return paired_mean([math.log(c / b) for b, c in zip(base, candidate, strict=True)])


def _mean(estimate: float, influences: Sequence[float]) -> Mean:
    """From each dialogue's linearised share in the estimate's error; the shares add up to 0."""
    dialogues = len(influences)
    squares = math.fsum(e * e for e in influences)
    # What rounding alone can leave: without this, equal values would have a spread of 1e-17 and a p of nothing.
    if dialogues < 2 or squares <= (1e-12 * max(1.0, abs(estimate)) / dialogues) ** 2 * dialogues:
        return Mean(estimate=estimate, se=None, dialogues=dialogues)
    return Mean(estimate=estimate, se=math.sqrt(dialogues / (dialogues - 1) * squares), dialogues=dialogues)


def sign_flip_midp(values: Sequence[float], *, seed: int = 0) -> SignFlip:
    """Twice the one-sided mid-p of the sign-flip permutation test: could each sum as well have the other sign?

    Exact as long as there are not too many different sums (always up to 17 values that are not 0; with values on a
    grid, as pass rates are, for thousands). Of values that are all 1 or -1 it is McNemar's mid-p.

    Args:
        values: Candidate minus base, one sum a dialogue.
        seed: Of the draws, where it has to draw.

    Returns:
        The p, and whether it was drawn.

    Source: Fisher 1935, The Design of Experiments, section 21; mid-p: Lancaster 1961, Journal of the American
        Statistical Association 56:223.
    """
    moved = [value for value in values if value != 0]
    if not moved:
        return SignFlip(1.0, None)
    unit = min(map(abs, moved))
    scaled = sorted((abs(value) / unit for value in moved), reverse=True)
    observed = abs(math.fsum(moved)) / unit
    if observed <= _TIE:
        return SignFlip(1.0, None)  # twice the one-sided mid-p, which is a half
    return _counted(scaled, observed) or _drawn(scaled, observed, seed)


def _counted(values: Sequence[float], observed: float) -> SignFlip | None:
    import numpy as np

    sums, chances = np.zeros(1), np.ones(1)
    work = 0
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
        # Equal sums come out apart by rounding: they are told by six places and kept with all.
        _, first, which = np.unique(np.round(sums, 6), return_index=True, return_inverse=True)
        work += len(first)
        if len(first) > EXACT_SUMS or work > EXACT_WORK:
            return None
        chances = np.bincount(which, weights=np.concatenate([chances, chances]) / 2)
        sums = sums[first]
    beyond, ties = _split_sizes(np.abs(sums), observed)
    return SignFlip(min(1.0, float(chances[beyond].sum() + chances[ties].sum() / 2)), None)


def _drawn(values: Sequence[float], observed: float, seed: int) -> SignFlip:
    import numpy as np

    chance = np.random.default_rng(seed)
    beyond = ties = 0
    sizes = np.asarray(values)
    draws = DRAWS if len(values) <= MANY else DRAWS_OF_MANY
    for left in range(draws, 0, -1000):
        signs = chance.integers(0, 2, size=(min(left, 1000), len(sizes)), dtype=np.int8) * 2 - 1
        far, near = _split_sizes(np.abs(signs @ sizes), observed)
        beyond, ties = beyond + int(far.sum()), ties + int(near.sum())
    return SignFlip(min(1.0, (beyond + (ties + 1) / 2) / (draws + 1)), draws)  # what was observed is a draw as well


def _split_sizes(sizes: Any, observed: float) -> tuple[Any, Any]:
    slack = _TIE * max(1.0, observed)
    beyond = sizes > observed + slack
    return beyond, ~beyond & (sizes > observed - slack)


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p of each hypothesis of a family, so that the chance of any false alarm is kept.

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    adjusted = [1.0] * len(ps)
    least = 0.0
    for rank, index in enumerate(_ascending(ps)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = least
    return adjusted


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """Adjusted p of each hypothesis of a family, so that the expected share of false ones among the found is kept.

    Source: Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57:289.
    """
    adjusted = [1.0] * len(ps)
    most = 1.0
    for rank, index in reversed(list(enumerate(_ascending(ps), 1))):
        most = min(most, ps[index] * len(ps) / rank)
        adjusted[index] = most
    return adjusted


def _ascending(ps: Sequence[float]) -> Iterator[int]:
    return iter(sorted(range(len(ps)), key=ps.__getitem__))


def pairs_needed(difference: float, discordant: float, *, alpha: float, power: float = POWER) -> int | None:
    """How many pairs McNemar's test needs to find this difference of proportions.

    n = (z(1 - alpha/2) sqrt(psi) + z(power) sqrt(psi - d^2))^2 / d^2, rounded up.

    Args:
        difference: d, of either sign.
        discordant: psi, the share of pairs that differ; at least |d|, or taken as that.
        alpha: Two-sided.
        power: With which probability it is found.

    Returns:
        None for a difference of 0: no number is enough.

    Source: Connor 1987, Biometrics 43:207; Miettinen 1968, Biometrics 24:339.
    """
    if difference == 0:
        return None
    psi = max(discordant, abs(difference))
    root = _z(1 - alpha / 2) * math.sqrt(psi) + _z(power) * math.sqrt(max(0.0, psi - difference * difference))
    return _up((root / difference) ** 2)


def smallest_of_pairs(pairs: int, discordant: float, *, alpha: float, power: float = POWER) -> float | None:
    """The smallest difference of proportions, in whole pairs, that `pairs_needed` says so many pairs will find.

    Args:
        pairs: How many there are.
        discordant: As of `pairs_needed`.
        alpha: Two-sided.
        power: With which probability it is found.

    Returns:
        A multiple of 1 / pairs; None when not even a difference of 1 would be found.
    """
    low, high = 0, pairs + 1
    while high - low > 1:  # the number needed falls as the difference grows
        middle = (low + high) // 2
        needed = pairs_needed(middle / pairs, discordant, alpha=alpha, power=power)
        low, high = (low, middle) if needed is not None and needed <= pairs else (middle, high)
    return None if high > pairs else high / pairs


def pairs_for_margin(discordant: float, margin: float, *, alpha: float, power: float = POWER) -> int:
    """How many pairs it takes to call a candidate that is as good as the base non-inferior.

    The larger of (z(1 - alpha) + z(power))^2 psi / margin^2 and what the score interval needs without any discordant
    pair, z(1 - alpha)^2 (1 - margin) / margin.

    Args:
        discordant: psi, the share of pairs that differ.
        margin: > 0.
        alpha: One-sided.
        power: With which probability.

    Source: Nam 1997, Biometrics 53:1422, at no difference; the second from `tango_interval`.
    """
    one_sided = _z(1 - alpha)
    normal = (one_sided + _z(power)) ** 2 * discordant / margin**2
    return _up(max(normal, one_sided**2 * (1 - margin) / margin))


def mean_needed(mean: Mean, *, alpha: float, power: float = POWER) -> int | None:
    """How many dialogues a t test needs to find a difference as large as this estimate, with this spread.

    n = ((z(1 - alpha/2) + z(power)) s / d)^2, rounded up, at least 2; s^2 = n se^2.

    Args:
        mean: The estimate at hand.
        alpha: Two-sided.
        power: With which probability it is found.

    Returns:
        None when the estimate is 0 (but for rounding) or has no spread.

    Source: Chow, Shao, Wang 2008, Sample Size Calculations in Clinical Research, section 3.1.
    """
    if mean.se is None or abs(mean.estimate) <= _NOISE * mean.se:
        return None
    z = _z(1 - alpha / 2) + _z(power)
    return max(2, _up((z * mean.se / mean.estimate) ** 2 * mean.dialogues))


def smallest_of_mean(mean: Mean, *, alpha: float, power: float = POWER) -> float | None:
    """The smallest difference that so many dialogues with this spread will find: (t(1 - alpha/2) + t(power)) se.

    Args:
        mean: The estimate at hand; t has its G - 1 degrees of freedom.
        alpha: Two-sided.
        power: With which probability it is found.

    Returns:
        Positive, in the unit of the estimate; None without a spread.

    Source: Bloom 1995, Evaluation Review 19:547 (minimum detectable effect).
    """
    if mean.se is None:
        return None
    df = mean.dialogues - 1
    return (_t_quantile(1 - alpha / 2, df) + _t_quantile(power, df)) * mean.se


def mean_for_margin(mean: Mean, margin: float, *, alpha: float, power: float = POWER) -> int | None:
    """How many dialogues it takes to call a candidate that is as good as the base non-inferior.

    n = ((z(1 - alpha) + z(power)) s / margin)^2, rounded up, at least 2.

    Args:
        mean: The estimate at hand, for its spread.
        margin: > 0, in the unit of the estimate.
        alpha: One-sided.
        power: With which probability.

    Returns:
        None without a spread.

    Source: Chow, Shao, Wang 2008, as `mean_needed`, section 3.1 on non-inferiority.
    """
    if mean.se is None:
        return None
    z = _z(1 - alpha) + _z(power)
    return max(2, _up((z * mean.se / margin) ** 2 * mean.dialogues))


def _up(value: float) -> int:
    return math.ceil(min(value, MAX_DIALOGUES) - 1e-9)


def _z(p: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(p))


def _t_quantile(p: float, df: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, p))
