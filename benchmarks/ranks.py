"""False claims of `rank`, and coverage of its simultaneous intervals, in simulated worlds of several targets.

A dialogue has a difficulty (logit, sd 1.5) and a deviation at each target (sd 1), which correlates its turns. Targets
are all equal, or the first is better, or each is worse than the one before. A claim is false where the two targets are
equal, or where it names the worse one; a world counts if any of its claims is.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from convbatch.comparison.metrics import DialogueValue, MetricResult, TestLevels, measure_values
from convbatch.comparison.rank import better_of, pair_interval, simultaneous_interval
from convbatch.comparison.stats import Interval

ALPHA, MARGIN = 0.05, 0.02
DIALOGUE_SD, TARGET_SD = 1.5, 1.0
TARGETS, DIALOGUES = (3, 5, 8), (10, 20, 50, 150, 400)
STEP = 0.75
"""Difference in logits of the better target, and of two neighbours on the ladder."""
Shape = Literal["equal", "one better", "ladder"]
SHAPES: tuple[Shape, ...] = ("equal", "one better", "ladder")
CENTRES = (0.5, 4.0)
"""Mean logits: of middling targets, and of targets that hardly ever fail."""
UNEVEN = np.array([1, 2, 4, 12])
FEWER = 10
"""Turns of uneven dialogues take this many times as long as passes and fails, so a tenth of the worlds is simulated."""
Array = np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRates:
    """Shares of the simulated worlds of a row."""

    shape: Shape
    metric: str
    targets: int
    dialogues: int
    centre: float
    worlds: int
    false: float
    """Worlds with any false claim."""
    unadjusted: float
    """The same if each pair were tested at 5 %: the yardstick."""
    pairs_covered: float
    """Worlds in which the intervals of all pairs contain the true differences."""
    targets_covered: float
    """Worlds in which the intervals of all targets contain their true rates."""
    found: float
    """Share of the true differences that are claimed; 0 without any."""


def rank_rates(worlds: int, *, dialogues: Sequence[int] = DIALOGUES) -> Iterator[RankRates]:
    """Yield the rates of every row, from this many worlds each, or a tenth of it for turns of uneven dialogues."""
    for metric, centre, shape, targets, count in itertools.product(
        ("dialogue_pass", "turn_pass"), CENTRES, SHAPES, TARGETS, dialogues
    ):
        chance = np.random.default_rng([targets, count, SHAPES.index(shape), int(centre * 10), metric == "turn_pass"])
        share = worlds if metric == "dialogue_pass" else max(1, worlds // FEWER)
        yield _rates(shape, metric, targets, count, centre, share, chance)


def _rates(
    shape: Shape, metric: str, targets: int, dialogues: int, centre: float, worlds: int, chance: np.random.Generator
) -> RankRates:
    shifts = centre + _shifts(shape, targets)
    truth = [_true_rate(float(shift)) for shift in shifts]
    pairs = list(itertools.combinations(range(targets), 2))
    false = unadjusted = pairs_held = targets_held = found = 0
    different = sum(truth[a] != truth[b] for a, b in pairs)
    for _ in range(worlds):
        sums, sizes = _world(shifts, metric, dialogues, chance)
        wrong, wrong_alone, held = False, False, True
        for a, b in pairs:
            result = _measured(metric, sums[a], sums[b], sizes, ALPHA / len(pairs))
            alone = _measured(metric, sums[a], sums[b], sizes, ALPHA)
            ends = result.ci
            if metric != "dialogue_pass":
                ends = pair_interval(result, _values(sums[a], sums[b], sizes), ALPHA / len(pairs), len(pairs))
            right = None if truth[a] == truth[b] else int(truth[b] > truth[a])
            claim = better_of(ends, min(1.0, (result.p or 0.0) * len(pairs)), ALPHA)
            found += claim is not None and claim == right
            wrong |= claim is not None and claim != right
            claim = better_of(alone.ci, result.p or 0.0, ALPHA)
            wrong_alone |= claim is not None and claim != right
            held &= ends is not None and ends.low <= truth[b] - truth[a] <= ends.high
        own = [_own(metric, side, sizes, ALPHA / targets) for side in sums]
        false, unadjusted, pairs_held = false + wrong, unadjusted + wrong_alone, pairs_held + held
        targets_held += all(ends.low <= rate <= ends.high for ends, rate in zip(own, truth, strict=True))
    return RankRates(
        shape=shape,
        metric=metric,
        targets=targets,
        dialogues=dialogues,
        centre=centre,
        worlds=worlds,
        false=false / worlds,
        unadjusted=unadjusted / worlds,
        pairs_covered=pairs_held / worlds,
        targets_covered=targets_held / worlds,
        found=found / (worlds * different) if different else 0.0,
    )


def _shifts(shape: Shape, targets: int) -> Array:
    if shape == "ladder":
        return -STEP * np.arange(targets)
    return np.where(np.arange(targets) == 0, STEP if shape == "one better" else 0.0, 0.0)


def _world(shifts: Array, metric: str, dialogues: int, chance: np.random.Generator) -> tuple[Array, Array]:
    """Return the passes of each target (target, dialogue), and the number of turns of each dialogue."""
    turns = np.ones(dialogues, dtype=int) if metric == "dialogue_pass" else chance.choice(UNEVEN, dialogues)
    logits = shifts[:, None] + chance.normal(0, DIALOGUE_SD, dialogues)
    logits = logits + chance.normal(0, TARGET_SD, logits.shape)
    return chance.binomial(turns, 1 / (1 + np.exp(-logits))), turns


def _measured(metric: str, base: Array, candidate: Array, sizes: Array, level: float) -> MetricResult:
    if metric == "dialogue_pass":
        return _passes(int((base > candidate).sum()), int((base < candidate).sum()), len(base), level)
    return _result(metric, _values(base, candidate, sizes), level)


def _values(base: Array, candidate: Array, sizes: Array) -> list[DialogueValue]:
    return [DialogueValue(float(a), float(b), float(n)) for a, b, n in zip(base, candidate, sizes, strict=True)]


@functools.lru_cache(maxsize=100_000)
def _passes(worse: int, better: int, count: int, level: float) -> MetricResult:
    """Measure single passes and fails, which only these counts decide."""
    same = [DialogueValue(1.0, 1.0)] * (count - worse - better)
    values = [DialogueValue(1.0, 0.0)] * worse + [DialogueValue(0.0, 1.0)] * better + same
    return _result("dialogue_pass", values, level)


def _result(metric: str, values: Sequence[DialogueValue], level: float) -> MetricResult:
    scale = TestLevels(alpha=level, margin=MARGIN)
    found = measure_values(metric, values, scale, passes_or_fails=metric == "dialogue_pass")
    assert found is not None
    return found


def _own(metric: str, passes: Array, sizes: Array, level: float) -> Interval:
    if metric == "dialogue_pass":
        return _own_passes(int(passes.sum()), len(passes), level)
    values = [DialogueValue(float(one), float(one), float(n)) for one, n in zip(passes, sizes, strict=True)]
    return simultaneous_interval(values, level)


@functools.lru_cache(maxsize=100_000)
def _own_passes(passed: int, count: int, level: float) -> Interval:
    values = [DialogueValue(1.0, 1.0)] * passed + [DialogueValue(0.0, 0.0)] * (count - passed)
    return simultaneous_interval(values, level)


@functools.cache
def _true_rate(mean: float) -> float:
    """Return the expected rate, by quadrature over the logits."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    spread = np.hypot(DIALOGUE_SD, TARGET_SD)
    return float((weights / (1 + np.exp(-mean - spread * nodes))).sum() / weights.sum())
