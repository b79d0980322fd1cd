"""False claims of `prefer`, and coverage of its intervals, in simulated worlds of several targets.

A comparison is won by the target with the higher merit: its own, a deviation in the dialogue (sd 1) and noise of the
comparison (logistic); merits that are near each other are a tie. Dialogues have 1, 2, 4 or 8 comparisons of each pair.
Targets are all equal, or each is worse than the one before, or one always loses. A claim is false where the targets are
equal or where it names the worse one; a world counts if any of its claims is.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from convbatch.comparison.bradley_terry import mean_shares, solve
from convbatch.comparison.preferences import Compared, PreferenceRules, summarise
from convbatch.comparison.stats import Interval

DIALOGUE_SD, TIE = 1.0, 0.6
TARGETS, DIALOGUES = (2, 4), (10, 40)
SIZES = np.array([1, 2, 4, 8])
STEP, HOPELESS = 0.75, 8.0
Shape = Literal["equal", "ladder", "one loses"]
SHAPES: tuple[Shape, ...] = ("equal", "ladder", "one loses")
MANY = 400_000
_TINY = 1e-12
Array = np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceRates:
    """Shares of the simulated worlds of a row."""

    shape: Shape
    targets: int
    dialogues: int
    worlds: int
    false: float
    """Worlds with any false claim."""
    pairs_covered: float
    """Worlds in which the intervals of all pairs contain the true shares."""
    targets_covered: float
    """Worlds in which the intervals of all targets contain their true shares."""
    found: float
    """Share of the true differences that are claimed; 0 without any."""


def preference_rates(
    worlds: int, *, targets: Sequence[int] = TARGETS, dialogues: Sequence[int] = DIALOGUES
) -> Iterator[PreferenceRates]:
    """Yield the rates of every row, from this many worlds each."""
    for shape, count, size in itertools.product(SHAPES, targets, dialogues):
        yield _rates(shape, count, size, worlds)


def _merits(shape: Shape, count: int) -> Array:
    if shape == "ladder":
        return -STEP * np.arange(count)
    merits = np.zeros(count)
    if shape == "one loses":
        merits[-1] = -HOPELESS
    return merits


@functools.cache
def _true_score(difference: float) -> float:
    """Return the mean score of the first of two targets."""
    chance = np.random.default_rng(1)
    lead = difference + chance.normal(0, DIALOGUE_SD * 2**0.5, MANY) + chance.logistic(size=MANY)
    return float((lead > TIE).mean() + (lead >= -TIE).mean()) / 2


def _rates(shape: Shape, count: int, dialogues: int, worlds: int) -> PreferenceRates:
    merits = _merits(shape, count)
    names = [f"t{n}" for n in range(count)]
    places = list(itertools.combinations(range(count), 2))
    truth = np.zeros((count, count))
    for a, b in places:
        truth[a, b] = 0.5 if merits[a] == merits[b] else _true_score(float(merits[a] - merits[b]))
        truth[b, a] = 1 - truth[a, b]
    shares = mean_shares(solve(truth[None] * 1e6))[0]
    false = pairs_in = targets_in = claimed = real = 0
    for seed in range(worlds):
        chance = np.random.default_rng((seed, count, dialogues, SHAPES.index(shape)))
        found = summarise(list(_world(merits, dialogues, chance, places)), names, PreferenceRules())
        wrong = False
        covered = True
        for pair in found.pairs:
            a, b = names.index(pair.first), names.index(pair.second)
            ends = pair.ci or Interval(0.0, 1.0)
            covered &= ends.low - _TINY <= truth[a, b] <= ends.high + _TINY
            better = None if merits[a] == merits[b] else names[a] if merits[a] > merits[b] else names[b]
            wrong |= pair.better not in (None, better)
            real += better is not None
            claimed += better is not None and pair.better == better
        false += wrong
        pairs_in += bool(covered)
        targets_in += all(
            ends.low - _TINY <= shares[names.index(one.name)] <= ends.high + _TINY
            for one in found.targets
            for ends in [one.ci or Interval(0.0, 1.0)]
        )
    return PreferenceRates(
        shape=shape,
        targets=count,
        dialogues=dialogues,
        worlds=worlds,
        false=false / worlds,
        pairs_covered=pairs_in / worlds,
        targets_covered=targets_in / worlds,
        found=claimed / real if real else 0.0,
    )


def _world(
    merits: Array, dialogues: int, chance: np.random.Generator, places: Sequence[tuple[int, int]]
) -> Iterator[Compared]:
    for number in range(dialogues):
        here = merits + chance.normal(0, DIALOGUE_SD, len(merits))
        for repeat in range(int(chance.choice(SIZES))):
            for a, b in places:
                lead = here[a] - here[b] + chance.logistic()
                score = 1.0 if lead > TIE else 0.0 if lead < -TIE else 0.5
                yield Compared(f"d{number}", None, repeat, "prefer", f"t{a}", f"t{b}", score)


if __name__ == "__main__":
    import sys

    for row in preference_rates(int(sys.argv[1]), targets=[int(one) for one in sys.argv[2].split(",")]):
        print(row, flush=True)
