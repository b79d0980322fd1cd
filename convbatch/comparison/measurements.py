"""Paired dialogues, one after another → the values of every metric, and what else a comparison says of all of them.

Only numbers are kept, so that memory hardly grows with the runs: 24 bytes for a metric of a dialogue, and as many for
each of its turns. What a metric is, is `metrics.py`; what is concluded from the values, `compare.py`.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TypeVar

from convbatch.comparison.metrics import (
    METRICS,
    PASS_METRICS,
    Coverage,
    DialogueValue,
    MetricResult,
    TestLevels,
    measure_values,
    reason_without,
    value_of,
    values_on_either_side,
)
from convbatch.comparison.pair_stream import PairCounts, PairStream
from convbatch.comparison.pairing import Pair

_K = TypeVar("_K", int, str)


class Values:
    """A metric of many dialogues, with the samples of each."""

    __slots__ = ("_base", "_candidate", "_size", "samples")

    def __init__(self) -> None:
        self._base, self._candidate, self._size = array("d"), array("d"), array("d")
        self.samples = 1
        """The most samples of a dialogue on either side; 1 also where there is none."""

    def add(self, value: DialogueValue | None, samples: int) -> None:
        """Append the value of a dialogue; None where one side or both do not have the metric."""
        base, candidate, size = value or (0.0, 0.0, 0.0)
        self._base.append(base)
        self._candidate.append(candidate)
        self._size.append(size)
        self.samples = max(self.samples, samples)

    def __iter__(self) -> Iterator[DialogueValue | None]:
        for base, candidate, size in zip(self._base, self._candidate, self._size, strict=True):
            yield DialogueValue(base, candidate, size) if size else None

    def measure(self, metric: str, scale: TestLevels, *, of_a_turn: bool = False) -> MetricResult | None:
        """Measure a metric over these dialogues; None when none has it on both sides."""
        one_a_dialogue = metric == "dialogue_pass" or (metric == "turn_pass" and of_a_turn)
        known = [value for value in self if value is not None]
        return measure_values(metric, known, scale, passes_or_fails=one_a_dialogue and self.samples == 1)

    def has_any(self) -> bool:
        """Return whether any dialogue has the metric on both sides."""
        return any(self._size)


class Measurements:
    """What is known of all pairs so far.

    Args:
        metrics: Those of which values are kept.
        sliced: Those of which values by turn and by target are kept as well.
    """

    def __init__(self, metrics: Sequence[str] = METRICS, *, sliced: Sequence[str] = ()) -> None:
        self.whole: list[str] = []
        """Dialogues with nothing pending on either side, in order; only these are measured."""
        self.divergence: Counter[int | None] = Counter()
        """Dialogues by the turn of their first differing reply; None for those without one."""
        self.values = {name: Values() for name in metrics}
        self.lacking: dict[str, list[str]] = {name: [] for name in metrics if name in PASS_METRICS}
        """Dialogues that lack a metric because a check has no verdict."""
        self._sliced = sliced
        self._by_turn: dict[tuple[str, int], Values] = {}
        self._by_target: dict[tuple[str, str], Values] = {}
        self._tags: list[tuple[str, ...]] = []
        self._known_tags: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._samples = array("L")
        self._either, self._uneven = Counter[str](), Counter[str]()
        self._currencies: set[str | None] = set()
        self._pending: list[str] = []
        self._failed = [0, 0]
        self._turns = 0

    def add(self, pair: Pair) -> bool:
        """Add a dialogue; return whether it is measured, that is, has nothing pending."""
        samples = max(len(pair.base.samples), len(pair.candidate.samples))
        if pair.pending:
            self._pending.append(pair.dialogue)
            return False
        self.whole.append(pair.dialogue)
        self.divergence[pair.diverges_at] += 1
        self._turns += len(pair.turns)
        for number, side in enumerate((pair.base, pair.candidate)):
            self._failed[number] += side.failed_turns
            self._currencies |= {turn.currency for each in side.turns.values() for turn in each.values()}
        self._add_values(pair, samples)
        if self._sliced:
            self._add_slices(pair, samples)
        return True

    def _add_values(self, pair: Pair, samples: int) -> None:
        open_checks = pair.has_check_without_verdict
        for metric, column in self.values.items():
            value = value_of(metric, pair)
            column.add(value, samples)
            lacks = open_checks and metric in self.lacking and pair.lacks_verdict(metric)
            either_side, uneven = values_on_either_side(metric, pair, value)
            self._either[metric] += lacks or either_side
            self._uneven[metric] += lacks or uneven
            if lacks:
                self.lacking[metric].append(pair.dialogue)

    def _add_slices(self, pair: Pair, samples: int) -> None:
        self._tags.append(self._known_tags.setdefault(pair.tags, pair.tags))
        self._samples.append(samples)
        for turn in pair.turns:
            for metric in {of_one_turn(metric) for metric in self._sliced}:
                column = self._by_turn.setdefault((metric, turn.number), Values())
                column.add(value_of(metric, pair, turn), samples)
        targets = {sample[0] for sample in pair.base.samples}
        for target in targets if targets != {""} else ():
            part = pair.of_target(target)
            most = max(len(part.base.samples), len(part.candidate.samples))
            for metric in self._sliced:
                self._by_target.setdefault((metric, target), Values()).add(value_of(metric, part), most)

    def by_dialogue(self, metric: str) -> dict[str, DialogueValue]:
        """Return the value of each dialogue that has a metric on both sides."""
        return {name: one for name, one in zip(self.whole, self.values[metric], strict=True) if one is not None}

    def counts(self, stream: PairStream) -> PairCounts:
        """Return how many of the dialogues of a stream, all of which were added, are compared and not compared."""
        return PairCounts(
            whole=self.whole,
            pending=self._pending,
            only_base=stream.only_base,
            only_candidate=stream.only_candidate,
            turns=self._turns,
            failed_base=self._failed[0],
            failed_candidate=self._failed[1],
            is_live=stream.is_live,
            same_history=stream.same_history,
        )

    def coverage(self, metric: str) -> Coverage:
        """Return how many dialogues have a metric on either side."""
        return Coverage(self._either[metric], self._uneven[metric])

    def why_not(self, metric: str) -> str:
        """Explain why no dialogue has this metric."""
        return reason_without(metric, self._currencies, has_values=self.values[metric].has_any())

    def of_tags(self, metric: str) -> Sequence[tuple[str, Values]]:
        """Return the values of a metric in the dialogues with a tag, for each tag in order."""
        parts: defaultdict[str, Values] = defaultdict(Values)
        for tags, value, samples in zip(self._tags, self.values[metric], self._samples, strict=True):
            for tag in {*tags}:
                parts[tag].add(value, samples)
        return sorted(parts.items(), key=itemgetter(0))

    def of_targets(self, metric: str) -> Sequence[tuple[str, Values]]:
        """Return the values of a metric at each target, in order; none where each side has one target."""
        found = [(target, values) for (name, target), values in _ordered(self._by_target) if name == metric]
        return found if len(found) > 1 else ()

    def of_turns(self, metric: str) -> Sequence[tuple[int, Values]]:
        """Return the values of a metric of turns at each turn number, in order; none where there is one number."""
        found = [(number, values) for (name, number), values in _ordered(self._by_turn) if name == metric]
        return found if len(found) > 1 else ()


def _ordered(by_key: Mapping[tuple[str, _K], Values]) -> list[tuple[tuple[str, _K], Values]]:
    return sorted(by_key.items(), key=itemgetter(0))


def of_one_turn(metric: str) -> str:
    """Return the metric that single turns have in place of a metric."""
    return "turn_pass" if metric == "dialogue_pass" else metric


def measure_stream(stream: PairStream, metrics: Sequence[str]) -> tuple[Measurements, PairCounts]:
    """Read all pairs of a stream once, and keep the values of these metrics."""
    measured = Measurements(metrics)
    for one in stream:
        measured.add(one)
    return measured, measured.counts(stream)
