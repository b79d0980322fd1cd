"""Harm of each dialogue → the largest mean harm that these dialogues leave possible, at any number of dialogues.

Pure arithmetic, for harms that cannot exceed the size of a dialogue, such as pass rates and scores. A bound from the
spread of the observed harms believes that harm which did not occur does not exist: it is wrong where few dialogues
break. Here one more dialogue, broken as badly as the worst could be, is added before the weights are drawn.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convbatch.comparison import stats

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_NODES, _MAX_PANELS = 48, 5_000
"""Nodes of the quadrature in a panel, and a limit on the panels, which is never reached."""
_MAX_DISTINCT, _GRID = 1_000, 1 / 256
"""Above this number of distinct dialogues their harms are put on a grid, in shares of their size."""
_SMALLEST = 1e-300
"""Probabilities are kept between this and 1 - 1e-16, so that their normal quantile is finite."""


def harm_bound(harms: Sequence[float], sizes: Sequence[float], *, alpha: float) -> float:
    """Return the upper bound of the mean harm per value, one-sided at 1 - alpha.

    The bound is the quantile of sum(W s) / sum(W n) over random weights W, uniform on the simplex (Dirichlet of ones),
    of the observed dialogues (harm s, size n) and one dialogue of the largest size, all of whose values were harmed.
    For harms of 0 and 1 it is the bound of Clopper and Pearson: 1 - alpha^(1 / n), about 3 / n, without any harm.

    Args:
        harms: Sum of the harm over the values of each dialogue, in [-n, n].
        sizes: Number of values n of each dialogue, > 0.
        alpha: In (0, 0.5).

    Returns:
        A mean in [-1, 1].

    Source: Gaffke 2005, "Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative
        variable", Mathematical Methods of Statistics 14:451; Learned-Miller and Thomas 2019, arXiv:1905.06208. The
        weighting of dialogues of different sizes is ours (`python -m benchmarks -s gates`).
    """
    import numpy as np

    worst = max(sizes)
    if len({*harms}) == len({*sizes}) == 1:
        return 1 - (1 - harms[0] / worst) * alpha ** (1 / len(harms))
    rows = np.array([*zip(harms, sizes, strict=True), (worst, worst)], dtype=float)
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    sample = _Sample(distinct[:, 0], distinct[:, 1], counts.astype(float))
    if len(distinct) > _MAX_DISTINCT:
        sample = sample.on_grid()
    least, most = float((sample.harms / sample.sizes).min()), 1.0
    if most - least < 1e-12:
        return most
    return _root(sample, least, most, alpha)


def dialogues_for_margin(
    variance: float, sizes: Sequence[float], margin: float, *, alpha: float, power: float = stats.POWER
) -> int:
    """Return the number of dialogues needed to call a candidate that equals the base non-inferior, by `harm_bound`.

    The number needed without any harm, for equal sizes ln(alpha) / ln(1 - margin), plus
    (z(1 - alpha) + z(power))^2 variance / margin^2 for the noise. For pairs it is within 5 % of the exact number where
    that is 100 or more.

    Args:
        variance: Variance of a dialogue's harm per value; for pairs the share that differs.
        sizes: Number of values of each dialogue; only their proportions matter.
        margin: In (0, 1).
        alpha: One-sided.
        power: Probability of this verdict, where there is noise.

    Source: Nam 1997, Biometrics 53:1422, at no difference, for the noise; the rest from `harm_bound`.
    """
    odds = margin / (1 - margin) / max(sizes)
    quiet = -math.log(alpha) * len(sizes) / math.fsum(math.log1p(odds * size) for size in sizes)
    return stats.round_up(quiet + stats.noise_for_margin(variance, margin, alpha=alpha, power=power))


@dataclass(frozen=True, slots=True)
class _Sample:
    """Distinct dialogues and how often each occurs."""

    harms: Floats
    sizes: Floats
    counts: Floats

    def on_grid(self) -> _Sample:
        """Divide each dialogue between the two nearest points of a grid: the mean stays, the spread hardly grows."""
        import numpy as np

        shares = self.harms / self.sizes / _GRID
        below = np.minimum(np.floor(shares), 1 / _GRID - 1)
        points = np.concatenate([below, below + 1]) * _GRID
        sizes = np.concatenate([self.sizes, self.sizes])
        parts = np.concatenate([below + 1 - shares, shares - below]) * np.concatenate([self.counts, self.counts])
        distinct, which = np.unique(np.column_stack([points, sizes]), axis=0, return_inverse=True)
        counts = np.bincount(which.ravel(), weights=parts).astype(float)
        kept = distinct[counts > 0]
        return _Sample(kept[:, 0] * kept[:, 1], kept[:, 1], counts[counts > 0])

    def probability(self, bound: float) -> float:
        """Return the probability that the randomly weighted mean exceeds a bound: it falls as the bound grows."""
        return _probability_above_0(self.harms - bound * self.sizes, self.counts)

    def mean(self) -> tuple[float, float]:
        """Return the mean over all values, and roughly its standard deviation under the random weights."""
        total = float(self.counts @ self.sizes)
        mean = float(self.counts @ self.harms) / total
        return mean, math.sqrt(float(self.counts @ (self.harms - mean * self.sizes) ** 2)) / total


def _root(sample: _Sample, least: float, most: float, alpha: float) -> float:
    """Return the bound that is exceeded with probability alpha, by a search from its normal approximation outwards."""
    from scipy.optimize import brentq
    from scipy.special import ndtri

    wanted = float(ndtri(alpha))

    @functools.cache
    def excess(bound: float) -> float:
        chance = sample.probability(bound)
        return float(ndtri(min(max(chance, _SMALLEST), 1 - 1e-16))) - wanted

    mean, deviation = sample.mean()
    guess = min(most, max(least, mean - wanted * deviation))
    low, high = _bracket(excess, guess, deviation / 2, (least, most))
    root: Any = brentq(excess, low, high, xtol=1e-9)
    return float(root)


def _bracket(
    excess: Callable[[float], float], guess: float, step: float, limits: tuple[float, float]
) -> tuple[float, float]:
    """Return two bounds on either side of the root of a falling function: a guess moved in growing steps."""
    side = 1.0 if excess(guess) > 0 else -1.0
    end = limits[1] if side > 0 else limits[0]
    inner, outer = guess, guess
    while outer != end:
        inner, outer = outer, guess + side * step
        if (outer - end) * side >= 0:
            outer = end
        elif excess(outer) * side <= 0:
            break
        step *= 2
    return (inner, outer) if side > 0 else (outer, inner)


def _probability_above_0(values: Floats, counts: Floats) -> float:
    """Return P(sum of E a > 0) for independent standard exponential E, each value a occurring as often as counted.

    The sum has the moment generating function M(s) = product of 1 / (1 - s a), so that P is the integral of M(s) / s
    over s from c - i infinity to c + i infinity, over 2 pi i, for c between 0 and the first positive pole: here the
    saddle point. Panels of a Gauss-Legendre rule are as long as poles, oscillation and decay allow.

    Source: Lugannani and Rice 1980, Advances in Applied Probability 12:475, equation 2.
    """
    import numpy as np

    moving = values != 0
    values, counts = values[moving], counts[moving]
    if not len(values) or values.max() <= 0:
        return 0.0
    if values.min() >= 0:
        return 1.0
    saddle, pole = _saddle(values, counts), 1 / float(values.max())
    tilted = values / (1 - saddle * values)
    clearance = min(saddle, pole - saddle)
    nodes, weights = _rule()
    start = total = 0.0
    for _ in range(_MAX_PANELS):
        half = _panel(tilted, counts, start, clearance) / 2
        heights = start + half * (nodes + 1)
        turns = np.multiply.outer(heights, tilted)
        ratio = np.exp(1j * (np.arctan(turns) @ counts) - np.log1p(turns * turns) @ counts / 2)
        terms = np.real(ratio / (saddle + 1j * heights))
        total += half * float(weights @ terms)
        start += 2 * half
        if start * abs(ratio[-1] / complex(saddle, start)) <= 1e-11 * abs(total):
            break
    return total / math.pi * math.exp(-float(counts @ np.log1p(-saddle * values)))


def _panel(tilted: Floats, counts: Floats, start: float, clearance: float) -> float:
    """Return the length of a panel: up to three times the distance of the poles, and a few oscillations."""
    import numpy as np

    rates = tilted / (1 - 1j * start * tilted)
    speed = abs(complex(counts @ rates)) + 3 * math.sqrt(float(counts @ np.abs(rates) ** 2))
    return min(3 * math.hypot(start, clearance), 30 / speed)


@functools.cache
def _rule() -> tuple[Floats, Floats]:
    import numpy as np

    return np.polynomial.legendre.leggauss(_NODES)


def _saddle(values: Floats, counts: Floats) -> float:
    """Return roughly where M(s) / s is smallest between 0 and the first positive pole, by guarded Newton steps."""
    pole = 1 / float(values.max())
    low, high, x = 0.0, 1.0, 0.5
    for _ in range(100):
        s = x * pole
        tilted = values / (1 - s * values)
        slope = float(counts @ tilted) - 1 / s
        low, high = (low, x) if slope > 0 else (x, high)
        step = slope / (float(counts @ tilted**2) + 1 / s**2) / pole
        before, x = x, x - step if low < x - step < high else (low + high) / 2
        if abs(x - before) < 0.01 * min(x, 1 - x):
            break
    return x * pole
