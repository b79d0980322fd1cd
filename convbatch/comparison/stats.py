"""Numbers of paired dialogues → intervals, tests, effect sizes and sample sizes.

Pure: no frames, files or clock; randomness is a seed. The unit is always the dialogue, because turns of one dialogue
are not independent. Tests by metric are chosen in `metrics.py`, verdicts in `compare.py`. Distributions and root
finding are scipy's; the paired score interval and the sign-flip test are here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

POWER = 0.8
"""Probability of detection behind "detectable" and "needed", at the metric's alpha."""
EXACT_SUMS = 2**17
"""Number of different sums up to which the sign-flip test counts all of them; above it, it draws at random."""
EXACT_WORK = 2 * 10**7
"""The same limit for sums over all dialogues: about a second of work."""
DRAWS, DRAWS_OF_MANY, MANY = 99_999, 9_999, 1_000
"""Number of draws; smaller where more than `MANY` dialogues differ, which takes about as long."""
_TIE = 1e-6
MAX_DIALOGUES = 10**15
"""Upper limit of a reported number of dialogues."""
_NOISE = 1e-9
"""A mean below this multiple of its standard error is a rounding error of 0."""


class Interval(NamedTuple):
    """Lower and upper limit."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """An estimate from independent dialogues with its standard error; its distribution is t with G - 1 degrees."""

    estimate: float
    se: float | None
    """None for fewer than two dialogues, or when all have the same value: no spread can be estimated."""
    dialogues: int

    def interval(self, level: float) -> Interval | None:
        """Return the two-sided t interval; None without a standard error.

        Args:
            level: Coverage, e.g. 0.95.
        """
        if self.se is None:
            return None
        half = t_quantile(0.5 + level / 2, self.dialogues - 1) * self.se
        return Interval(self.estimate - half, self.estimate + half)

    def p(self) -> float | None:
        """Return the two-sided p of the t test against 0; None without a standard error."""
        if self.se is None:
            return None
        from scipy.special import stdtr

        return float(2 * stdtr(self.dialogues - 1, -abs(self.estimate / self.se)))


class SignFlip(NamedTuple):
    """Result of the sign-flip test."""

    p: float
    draws: int | None
    """Number of random draws; None where every assignment of signs was counted."""


def mcnemar_midp(only_base: int, only_candidate: int) -> float:
    """Return the mid-p of McNemar's test that both kinds of discordant pairs are equally likely.

    Args:
        only_base: Pairs that only the base passed.
        only_candidate: Pairs that only the candidate passed.

    Returns:
        The two-sided mid-p: where both are equal, 1 - P(this split) / 2; 1 when both are 0.

    Source: Fagerland, Lydersen, Laake 2013, BMC Medical Research Methodology 13:91.
    """
    discordant = only_base + only_candidate
    if not discordant:
        return 1.0
    from scipy.special import bdtr

    fewer = min(only_base, only_candidate)
    below = float(bdtr(fewer - 1, discordant, 0.5)) if fewer else 0.0
    at_most = float(bdtr(fewer, discordant, 0.5))
    return 1 - (at_most - below) / 2 if only_base == only_candidate else at_most + below


def tango_interval(only_base: int, only_candidate: int, pairs: int, *, level: float) -> Interval:
    """Return the score interval for the difference of two paired proportions, candidate minus base.

    Args:
        only_base: Pairs that only the base passed.
        only_candidate: Pairs that only the candidate passed.
        pairs: All pairs, n >= 1.
        level: Coverage, e.g. 0.95.

    Returns:
        Lower and upper limit in [-1, 1]; a difference of proportions, no unit. It is never a single point: without
        discordant pairs it extends z^2 / (n + z^2) to either side.

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
        # q: the constrained maximum-likelihood probability of a loss when the difference is delta.
        b = -gained - lost + (2 * n - gained + lost) * delta
        q = (math.sqrt(max(0.0, b * b + 8 * n * lost * delta * (1 - delta))) - b) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        return gained - lost - n * delta + z * math.sqrt(max(0.0, variance))

    # Without losses or gains the function is also 0 at the estimate itself: start next to it.
    start = min((gained - lost) / n + 1e-12, 1.0)
    root: Any = brentq(short_of_bound, start, 1.0, xtol=1e-14, maxiter=500)
    return float(root)


def cluster_mean(sums: Sequence[float], sizes: Sequence[float]) -> Mean:
    """Return the mean of clustered values, equally weighted, with a cluster-robust standard error.

    The variance is the sandwich of a regression on a constant with the CR1 factor G / (G - 1); its other part,
    (N - 1) / (N - k), is 1 for a single coefficient.

    Args:
        sums: Sum of the values of each dialogue.
        sizes: Number of values of each dialogue, > 0.

    Returns:
        The mean over all values.

    Source: Liang and Zeger 1986, Biometrika 73:13; CR1 and t(G - 1) as in Cameron and Miller 2015, Journal of Human
        Resources 50:317, section II.
    """
    total = math.fsum(sizes)
    mean = math.fsum(sums) / total
    return _mean(mean, [(s - mean * n) / total for s, n in zip(sums, sizes, strict=True)])


def paired_mean(differences: Sequence[float]) -> Mean:
    """Return the mean of one difference per dialogue, as in the paired t test.

    Args:
        differences: Candidate minus base, one per dialogue.

    Source: Student 1908, Biometrika 6:1.
    """
    return cluster_mean(differences, [1.0] * len(differences))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The ratio of two totals over the same dialogues, candidate to base; dialogues are weighted by their size."""

    base: float
    """Mean over dialogues, as `candidate`."""
    candidate: float
    base_variance: float
    """Variance of the mean; the other two likewise."""
    candidate_variance: float
    covariance: float
    dialogues: int
    difference: Mean
    """Mean of the differences within dialogues."""
    has_spread: bool
    """False for fewer than two dialogues, or when all have the same ratio: no interval can be estimated."""

    @property
    def estimate(self) -> float:
        """The ratio."""
        return self.candidate / self.base

    def interval(self, level: float) -> Interval | None:
        """Return all ratios r that the t test of candidate - r x base does not reject; never below 0.

        Args:
            level: Coverage, e.g. 0.95.

        Returns:
            None without spread, and where the base varies so much that the interval has no upper limit.

        Source: Fieller 1954, Journal of the Royal Statistical Society B 16:175.
        """
        if not self.has_spread:
            return None
        t2 = t_quantile(0.5 + level / 2, self.dialogues - 1) ** 2
        a = self.base**2 - t2 * self.base_variance
        b = self.base * self.candidate - t2 * self.covariance
        c = self.candidate**2 - t2 * self.candidate_variance
        if a <= 0:
            return None
        root = math.sqrt(max(0.0, b * b - a * c))
        return Interval(max(0.0, (b - root) / a), (b + root) / a)

    @property
    def excess(self) -> Mean:
        """Excess of the candidate as a share of the base's mean, for tests and sample sizes."""
        se = self.difference.se
        return Mean(
            estimate=self.estimate - 1.0,
            se=None if se is None or not self.has_spread else se / self.base,
            dialogues=self.dialogues,
        )


def ratio_of_totals(base: Sequence[float], candidate: Sequence[float]) -> Ratio:
    """Return the ratio of two totals over the same dialogues, by Fieller's method.

    Of three methods simulated (`benchmarks`) with 10 uneven dialogues, this one keeps its 95 % coverage; the delta
    method on the log scale covers 90 %, the jackknife 93 %.

    Args:
        base: Total of each dialogue on the base side, >= 0.
        candidate: Totals of the same dialogues on the candidate side.

    Raises:
        ValueError: The total of a side is 0.
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
    """Return the mean of the logarithms of the dialogues' ratios, candidate to base, equally weighted.

    Args:
        base: Mean of each dialogue, > 0.
        candidate: Means of the same dialogues on the candidate side, > 0.

    Source: paired t test on logarithms; its exponential is the ratio of geometric means.
    """
    return paired_mean([math.log(c / b) for b, c in zip(base, candidate, strict=True)])


def _mean(estimate: float, influences: Sequence[float]) -> Mean:
    """Return a mean from each dialogue's linearised share in the error of the estimate; the shares add up to 0."""
    dialogues = len(influences)
    squares = math.fsum(e * e for e in influences)
    # Rounding errors: without this, equal values would have a spread of 1e-17 and a p near 0.
    if dialogues < 2 or squares <= (1e-12 * max(1.0, abs(estimate)) / dialogues) ** 2 * dialogues:
        return Mean(estimate=estimate, se=None, dialogues=dialogues)
    return Mean(estimate=estimate, se=math.sqrt(dialogues / (dialogues - 1) * squares), dialogues=dialogues)


def sign_flip_midp(values: Sequence[float], *, seed: int = 0) -> SignFlip:
    """Return the mid-p of the sign-flip permutation test that every sum has either sign equally likely.

    Exact unless there are too many different sums (always up to 17 non-zero values; with values on a grid, such as pass
    rates, for thousands). For values that are all 1 or -1 it equals McNemar's mid-p.

    Args:
        values: Candidate minus base, one sum per dialogue.
        seed: Seed of the random draws, where they are needed.

    Returns:
        The p: P(larger sums) + P(sums as large) / 2; 1 where no value differs from 0. And the number of draws.

    Source: Fisher 1935, The Design of Experiments, section 21; mid-p: Lancaster 1961, Journal of the American
        Statistical Association 56:223.
    """
    moved = [value for value in values if value != 0]
    if not moved:
        return SignFlip(1.0, None)
    unit = min(map(abs, moved))
    scaled = sorted((abs(value) / unit for value in moved), reverse=True)
    observed = abs(math.fsum(moved)) / unit
    return _counted(scaled, observed) or _drawn(scaled, observed, seed)


def _counted(values: Sequence[float], observed: float) -> SignFlip | None:
    import numpy as np

    sums, chances = np.zeros(1), np.ones(1)
    work = 0
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
        # Rounding makes equal sums differ: compare six decimal places, keep all.
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
    return SignFlip(
        min(1.0, (beyond + (ties + 1) / 2) / (draws + 1)), draws
    )  # the observed signs count as one more draw


def _split_sizes(sizes: Any, observed: float) -> tuple[Any, Any]:
    slack = _TIE * max(1.0, observed)
    beyond = sizes > observed + slack
    return beyond, ~beyond & (sizes > observed - slack)


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for the family-wise error rate.

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    adjusted = [1.0] * len(ps)
    least = 0.0
    for rank, index in enumerate(_ascending(ps)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = least
    return adjusted


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for the false discovery rate.

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
    """Return the number of pairs that McNemar's test needs to detect this difference of proportions.

    n = (z(1 - alpha/2) sqrt(psi) + z(power) sqrt(psi - d^2))^2 / d^2, rounded up.

    Args:
        difference: d, of either sign.
        discordant: psi, the share of pairs that differ; raised to |d| if smaller.
        alpha: Two-sided.
        power: Probability of detection.

    Returns:
        None for a difference of 0, for which no number is enough.

    Source: Connor 1987, Biometrics 43:207; Miettinen 1968, Biometrics 24:339.
    """
    if difference == 0:
        return None
    psi = max(discordant, abs(difference))
    root = _z(1 - alpha / 2) * math.sqrt(psi) + _z(power) * math.sqrt(max(0.0, psi - difference * difference))
    return round_up((root / difference) ** 2)


def smallest_of_pairs(pairs: int, discordant: float, *, alpha: float, power: float = POWER) -> float | None:
    """Return the smallest difference of proportions, in whole pairs, that this many pairs detect by `pairs_needed`.

    Args:
        pairs: Number of pairs.
        discordant: As in `pairs_needed`.
        alpha: Two-sided.
        power: Probability of detection.

    Returns:
        A multiple of 1 / pairs; None when not even a difference of 1 would be detected.
    """
    low, high = 0, pairs + 1
    while high - low > 1:  # the number needed falls as the difference grows
        middle = (low + high) // 2
        needed = pairs_needed(middle / pairs, discordant, alpha=alpha, power=power)
        low, high = (low, middle) if needed is not None and needed <= pairs else (middle, high)
    return None if high > pairs else high / pairs


def mean_needed(mean: Mean, *, alpha: float, power: float = POWER) -> int | None:
    """Return the number of dialogues that a t test needs to detect this estimate, with this spread.

    n = ((z(1 - alpha/2) + z(power)) s / d)^2, rounded up, at least 2; s^2 = n se^2.

    Args:
        mean: The estimate.
        alpha: Two-sided.
        power: Probability of detection.

    Returns:
        None when the estimate is 0 (up to rounding) or has no spread.

    Source: Chow, Shao, Wang 2008, Sample Size Calculations in Clinical Research, section 3.1.
    """
    if mean.se is None or abs(mean.estimate) <= _NOISE * mean.se:
        return None
    z = _z(1 - alpha / 2) + _z(power)
    return max(2, round_up((z * mean.se / mean.estimate) ** 2 * mean.dialogues))


def smallest_of_mean(mean: Mean, *, alpha: float, power: float = POWER) -> float | None:
    """Return the smallest difference that this many dialogues detect: (t(1 - alpha/2) + t(power)) se.

    Args:
        mean: The estimate; t has its G - 1 degrees of freedom.
        alpha: Two-sided.
        power: Probability of detection.

    Returns:
        Positive, in the unit of the estimate; None without a spread.

    Source: Bloom 1995, Evaluation Review 19:547 (minimum detectable effect).
    """
    if mean.se is None:
        return None
    df = mean.dialogues - 1
    return (t_quantile(1 - alpha / 2, df) + t_quantile(power, df)) * mean.se


def mean_for_margin(mean: Mean, margin: float, *, alpha: float, power: float = POWER) -> int | None:
    """Return the number of dialogues needed to call a candidate that equals the base non-inferior, by a t test.

    n = ((z(1 - alpha) + z(power)) s / margin)^2, rounded up, at least 2.

    Args:
        mean: The estimate, for its spread.
        margin: > 0, in the unit of the estimate.
        alpha: One-sided.
        power: Probability of this verdict.

    Returns:
        None without a spread.

    Source: Chow, Shao, Wang 2008, as `mean_needed`, section 3.1 on non-inferiority.
    """
    if mean.se is None:
        return None
    return max(2, round_up(noise_for_margin(mean.se**2 * mean.dialogues, margin, alpha=alpha, power=power)))


def sign_test_minimum(*, alpha: float) -> int:
    """Return the number of dialogues that must all change in the same way for the sign test's mid-p to reach alpha.

    Args:
        alpha: Two-sided.
    """
    return math.ceil(-math.log2(alpha) - 1e-12)


def noise_for_margin(variance: float, margin: float, *, alpha: float, power: float = POWER) -> float:
    """Return the same number before it is rounded, from the variance of a dialogue's difference; 0 without any."""
    return (_z(1 - alpha) + _z(power)) ** 2 * variance / margin**2


def round_up(value: float) -> int:
    """Round a number of dialogues up, to `MAX_DIALOGUES` at most."""
    return math.ceil(min(value, MAX_DIALOGUES) - 1e-9)


def _z(p: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(p))


def t_quantile(p: float, df: float) -> float:
    """Return a quantile of the t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(df, p))
