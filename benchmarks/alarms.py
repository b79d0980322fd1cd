"""False alarm rate of `compare`, and coverage of its intervals.

Data with known effects is simulated: dialogues of six turns, each with a difficulty (logit, sd 1.5) and a deviation for
each version (sd 1), which correlates the turns of a dialogue. In half of the data sets both versions are the same; in
the other half the candidate is worse by half a logit, with 1.2 times the tokens and time. The metrics are those of the
command.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from convbatch.comparison.metrics import DialogueValue, MetricResult, TestLevels, measure_values
from convbatch.comparison.stats import mcnemar_midp

DIALOGUES = (10, 20, 50, 100)
TURNS = 6
MEAN, DIALOGUE_SD, VERSION_SD, SCORE_SD, TOKEN_SD = 1.5, 1.5, 1.0, 1.0, 0.5
WORSE, MORE = 0.5, 1.2
SCALE = TestLevels(alpha=0.05, margin=0.02)
CASES = (
    ("dialogue_pass", 1), ("dialogue_pass", 3), ("turn_pass", 1), ("score", 1), ("output_tokens", 1), ("latency", 1),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Rates of one metric and size."""

    metric: str
    repeats: int
    dialogues: int
    alarms: float
    """Share of data sets without an effect that have p <= 0.05, two-sided."""
    turn_alarms: float | None
    """The same for McNemar's test over turns, which `compare` never uses."""
    coverage: float
    """Share of 95 % intervals that contain the true effect, in data sets with an effect."""
    bound: float
    """Share of one-sided 95 % bounds on harm that contain it, in data sets with an effect."""


def alarms(providers: int) -> Iterator[Rates]:
    """Yield rates of every metric at every size, from `providers` data sets without and with an effect each."""
    for dialogues in DIALOGUES:
        for metric, repeats in CASES:
            chance = np.random.default_rng([dialogues, repeats, CASES.index((metric, repeats))])
            yield _rates(metric, repeats, dialogues, providers, chance)


def _rates(metric: str, repeats: int, dialogues: int, providers: int, chance: np.random.Generator) -> Rates:
    truth = _truth(metric)
    false = by_turns = held = bounded = intervals = 0
    for _ in range(providers):
        base, candidate = (_side(metric, chance, *one, repeats) for one in _versions(chance, dialogues, worse=False))
        found = _measured(metric, base, candidate)
        false += found.p is not None and found.p <= SCALE.alpha
        by_turns += metric == "turn_pass" and _mcnemar_over_turns(base, candidate) <= SCALE.alpha
        base, candidate = (_side(metric, chance, *one, repeats) for one in _versions(chance, dialogues, worse=True))
        found = _measured(metric, base, candidate)
        if found.ci95 is not None and found.harm_bound is not None:
            intervals += 1
            held += found.ci95.low <= truth <= found.ci95.high
            bounded += found.harm(truth) <= found.harm_bound
    return Rates(
        metric=metric,
        repeats=repeats,
        dialogues=dialogues,
        alarms=false / providers,
        turn_alarms=by_turns / providers if metric == "turn_pass" else None,
        coverage=held / intervals,
        bound=bounded / intervals,
    )


Array = np.ndarray
"""Axes (dialogue, repeat, turn), or (dialogue,)."""


def _versions(chance: np.random.Generator, dialogues: int, *, worse: bool) -> Iterator[tuple[Array, float]]:
    """Yield for base and candidate the logit of every dialogue, and the factor of tokens and time."""
    shared = MEAN + chance.normal(0, DIALOGUE_SD, dialogues)
    for shift, factor in ((0.0, 1.0), (WORSE, MORE) if worse else (0.0, 1.0)):
        yield shared + chance.normal(0, VERSION_SD, dialogues) - shift, factor


def _side(metric: str, chance: np.random.Generator, logits: Array, factor: float, repeats: int) -> Array:
    shape = (len(logits), repeats, TURNS)
    logit = logits[:, None, None]
    if metric in ("dialogue_pass", "turn_pass"):
        return chance.random(shape) < _expit(logit)
    if metric == "score":
        return _expit(logit + chance.normal(0, SCORE_SD, shape))
    # Easier dialogues are longer; but a worse candidate must differ in size by `factor` only.
    length = logit if factor == 1.0 else logit + WORSE
    return factor * np.exp(4 + TOKEN_SD * (length + chance.normal(0, 1, shape)))


def _measured(metric: str, base: Array, candidate: Array) -> MetricResult:
    sides = [_values(metric, side) for side in (base, candidate)]
    size = TURNS if metric == "turn_pass" else 1
    values = [DialogueValue(float(b), float(c), size) for b, c in zip(*sides, strict=True)]
    single = metric == "dialogue_pass" and base.shape[1] == 1
    found = measure_values(metric, values, SCALE, passes_or_fails=single)
    assert found is not None
    return found


def _values(metric: str, side: Array) -> Array:
    """Return the value of each dialogue: the mean of repeats, then the turns combined as the metric does."""
    if metric == "dialogue_pass":
        return side.all(axis=2).mean(axis=1)
    turns = side.mean(axis=1)
    return turns.mean(axis=1) if metric in ("score", "latency") else turns.sum(axis=1)


def _mcnemar_over_turns(base: Array, candidate: Array) -> float:
    return mcnemar_midp(int((base & ~candidate).sum()), int((candidate & ~base).sum()))


def _truth(metric: str) -> float:
    """Return the true effect in a data set with an effect, by quadrature over the logits."""
    if metric in ("output_tokens", "latency"):
        return MORE
    spread = math.hypot(DIALOGUE_SD, VERSION_SD, SCORE_SD if metric == "score" else 0.0)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    power = TURNS if metric == "dialogue_pass" else 1

    def mean(center: float) -> float:
        return float((weights * _expit(center + spread * nodes) ** power).sum() / weights.sum())

    return mean(MEAN - WORSE) - mean(MEAN)


def _expit(logits: Array) -> Array:
    return 1 / (1 + np.exp(-logits))
