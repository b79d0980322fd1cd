"""Gates of `compare` in worlds where a candidate breaks few dialogues: bounds on harm, false passes, false regressions.

A dialogue passes a repeat with its own probability (beta distributed, concentration 1, mean `rate`); where it fails, so
do its first turn and each later one with probability 1/2. In the candidate a share of the dialogues is newly broken.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from convbatch.comparison import stats
from convbatch.comparison.compare import decide_verdict
from convbatch.comparison.metrics import DialogueValue, MetricResult, TestLevels, measure_values

ALPHA, MARGINS = 0.05, (0.02, 0.05)
SCALE = TestLevels(alpha=ALPHA, margin=MARGINS[0])
DIALOGUES = (10, 20, 50, 150)
MOST = 400
"""Number of dialogues in worlds of one repeat as well; with repeats the sign flips would take hours."""
MANY = 100
"""From this number of dialogues on, half as many data sets are simulated: they take longer."""
Break = Literal["whole", "part", "at times", "long"]
"""All turns fail; the last third of the turns fails; all turns fail in half of the repeats; only the longest dialogues
break, wholly."""
Lengths = Literal["equal", "uneven"]
METRICS = ("dialogue_pass", "turn_pass", "score")
UNEVEN = np.array([1, 2, 4, 12])
"""Numbers of turns, equally likely; "equal" dialogues have 4."""
EQUAL = np.array([4])
Array = np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is true of base and candidate."""

    broken: float
    """Share of the dialogues that the candidate newly breaks; of the longest only in "long"."""
    breaks: Break = "whole"
    rate: float = 1.0
    """Share of the dialogues that pass in the base."""
    repeats: int = 1
    lengths: Lengths = "equal"

    @property
    def name(self) -> str:
        """Short description for a table."""
        size = "" if self.lengths == "equal" else ", uneven lengths"
        times = f" x {self.repeats}" if self.repeats > 1 else ""
        what = f"{self.broken:.2g} broken {self.breaks}" if self.broken else "equal"
        return f"{what}, rate {self.rate:g}{times}{size}"

    @property
    def turns(self) -> Array:
        """Possible numbers of turns, equally likely."""
        return EQUAL if self.lengths == "equal" else UNEVEN

    def harm(self, metric: str) -> float:
        """Return the true harm of a metric: the expected loss of passes, per dialogue or per turn."""
        chance, turns, failing = self._broken(self.turns)
        if metric == "dialogue_pass":
            return float((chance * self.rate).mean())
        # A dialogue that fails anyway has already lost its first turn, and half of the others.
        first = failing == turns
        lost = chance * (self.rate * failing + (1 - self.rate) * (failing - first) / 2)
        return float((lost / turns).mean() if metric == "score" else lost.sum() / turns.sum())

    def _broken(self, turns: Array) -> tuple[Array, Array, Array]:
        """Return for dialogues of these lengths the chance of a broken repeat, the lengths, and the turns that fail."""
        chance = np.full(turns.shape, self.broken * (0.5 if self.breaks == "at times" else 1.0))
        if self.breaks == "long":
            chance = np.where(turns == turns.max(), self.broken, 0.0)
        return chance, turns, (turns + 2) // 3 if self.breaks == "part" else turns

    def samples(self, dialogues: int, count: int, chance: np.random.Generator) -> Iterator[dict[str, Array]]:
        """Yield for `count` data sets the value of each metric: an array (side, dialogue), and `turns` (dialogue)."""
        for _ in range(count):
            turns = chance.choice(self.turns, dialogues)
            rates = np.ones(dialogues)
            if self.rate < 1:
                rates = chance.beta(self.rate, 1 - self.rate, dialogues)
            passed = [self._passes(turns, rates, chance) for _ in range(2)]
            passed[1] &= ~self._broken_turns(turns, chance)
            real = np.arange(turns.max()) < turns[:, None]
            whole = [(side | ~real[:, None]).all(axis=2).mean(axis=1) for side in passed]
            sums = [(side & real[:, None]).sum(axis=2).mean(axis=1) for side in passed]
            yield {
                "dialogue_pass": np.array(whole),
                "turn_pass": np.array(sums),
                "score": np.array(sums) / turns,
                "turns": turns.astype(float),
            }

    def _passes(self, turns: Array, rates: Array, chance: np.random.Generator) -> Array:
        """Return an array (dialogue, repeat, turn); turns beyond the end of a dialogue are arbitrary."""
        fine = chance.random((len(turns), self.repeats)) < rates[:, None]
        later = chance.random((len(turns), self.repeats, turns.max())) < 0.5
        later[:, :, 0] = False
        return fine[:, :, None] | later

    def _broken_turns(self, turns: Array, chance: np.random.Generator) -> Array:
        of_dialogue = chance.random(len(turns)) < self.broken
        if self.breaks == "long":
            of_dialogue &= turns == self.turns.max()
        broken = np.repeat(of_dialogue[:, None], self.repeats, axis=1)
        if self.breaks == "at times":
            broken &= chance.random(broken.shape) < 0.5
        first = turns - self._broken(turns)[2]
        return broken[:, :, None] & (np.arange(turns.max()) >= first[:, None])[:, None]


WORLDS = (
    World(broken=0.0, rate=0.98),
    World(broken=0.0, rate=0.8),
    World(broken=0.0, rate=0.5, repeats=5, lengths="uneven"),
    World(broken=0.02),  # harm equals the margin: no verdict may be earned
    World(broken=0.04, breaks="at times", repeats=5),
    World(broken=0.01, lengths="uneven"),
    World(broken=0.05, repeats=3),
    World(broken=0.1),
    World(broken=0.1, breaks="part", rate=0.8, repeats=3, lengths="uneven"),
    World(broken=0.05, rate=0.8, repeats=5, lengths="uneven"),
    World(broken=0.1, breaks="at times", repeats=5, lengths="uneven"),
    World(broken=0.1, rate=0.5),
    World(broken=0.1, breaks="long", lengths="uneven"),
    World(broken=0.05, breaks="long", rate=0.8, repeats=3, lengths="uneven"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRates:
    """Shares of the simulated data sets of a world, for one metric and number of dialogues."""

    world: World
    metric: str
    dialogues: int
    held: float
    """Share of the bounds on harm that are at least the true harm."""
    refused: dict[str, float]
    """The same for methods that are not used: always the end of the 90 % interval ("t"); others where asked for."""
    regressions: float
    passes: tuple[float, ...]
    """Share of the verdicts with exit code 0 at each of `MARGINS`."""
    passes_by_t: tuple[float, ...]
    """The same if the end of the 90 % interval were the bound."""

    @property
    def harm(self) -> float:
        """The true harm."""
        return self.world.harm(self.metric)


def gate_rates(count: int, *, refused: bool = False) -> Iterator[GateRates]:
    """Yield the rates of every world, number of dialogues and metric, from `count` data sets each, or half of it.

    Args:
        count: Number of data sets.
        refused: Whether to try the refused methods as well.
    """
    for number, world in enumerate(WORLDS):
        for dialogues in (*DIALOGUES, MOST) if world.repeats == 1 else DIALOGUES:
            chance = np.random.default_rng([number, dialogues])
            data = list(world.samples(dialogues, count if dialogues < MANY else count // 2, chance))
            for metric in METRICS if world.lengths == "uneven" else METRICS[:2]:  # a score is then a `turn_pass`
                yield _gate_rates(world, metric, dialogues, data, refused=refused)


def _gate_rates(world: World, metric: str, dialogues: int, data: list[dict[str, Array]], *, refused: bool) -> GateRates:
    truth, held, regressions = world.harm(metric), 0, 0
    passes, by_t = np.zeros(len(MARGINS)), np.zeros(len(MARGINS))
    others = dict.fromkeys(("t", *(REFUSED if refused else ())), 0)
    single = metric == "dialogue_pass" and world.repeats == 1
    for values in data:
        sizes = values["turns"] if metric == "turn_pass" else np.ones(dialogues)
        harms = (values[metric][0] - values[metric][1]).round(12)
        order = np.lexsort((sizes, harms))
        found = _measured(metric, single, tuple(harms[order]), tuple(sizes[order]))
        assert found.ci90 is not None
        assert found.harm_bound is not None
        t_bound = found.harms(found.ci90)[1]
        held += truth <= found.harm_bound + 1e-9
        others["t"] += truth <= t_bound + 1e-9
        for name in REFUSED if refused else ():
            others[name] += REFUSED[name](harms, sizes, truth)
        verdicts = [decide_verdict(found, found.p, alpha=ALPHA, margin=margin) for margin in MARGINS]
        regressions += verdicts[0].startswith("regression")
        passes += [verdict not in ("regression", "inconclusive") for verdict in verdicts]
        by_t += [t_bound <= margin for margin in MARGINS]
    return GateRates(
        world=world,
        metric=metric,
        dialogues=dialogues,
        held=held / len(data),
        refused={name: share / len(data) for name, share in others.items()},
        regressions=regressions / len(data),
        passes=tuple(passes / len(data)),
        passes_by_t=tuple(by_t / len(data)),
    )


@functools.lru_cache(maxsize=20_000)
def _measured(metric: str, single: bool, harms: tuple[float, ...], sizes: tuple[float, ...]) -> MetricResult:
    values = [DialogueValue(harm, 0.0, size) for harm, size in zip(harms, sizes, strict=True)]
    found = measure_values(metric, values, SCALE, passes_or_fails=single)
    assert found is not None
    return found


# --- refused methods: whether their bound is at least the truth ------------------------------------------------------


def _one_more_in_t(harms: Array, sizes: Array, truth: float) -> bool:
    """Return it for the t bound with one more dialogue of the largest size, wholly harmed."""
    worst = sizes.max()
    interval = stats.cluster_mean([*harms, worst], [*sizes, worst]).interval(1 - 2 * ALPHA)
    return interval is None or truth <= interval.high


def _betting(harms: Array, sizes: Array, truth: float) -> bool:
    """Return it for a capital that bets on less harm, with predictable plug-in bets.

    Source: Waudby-Smith and Ramdas 2024, Journal of the Royal Statistical Society B 86:1, section 4.
    """
    worst, count = sizes.max(), len(harms)
    gains = (truth * sizes - harms) / (2 * worst)
    shares = (1 - harms / worst) / 2
    ranks = np.arange(1, count + 1)
    means = (0.5 + shares.cumsum()) / (ranks + 1)
    variances = np.append(0.25, ((0.25 + ((shares - means) ** 2).cumsum()) / (ranks + 1))[:-1])
    bets = np.minimum(np.sqrt(2 * math.log(1 / ALPHA) / (count * variances)), 1 / (1 - truth))
    return bool(np.log1p(bets * gains).cumsum().max() < math.log(1 / ALPHA))


REFUSED = {"t, one dialogue more": _one_more_in_t, "betting": _betting}
