"""The numbers of a report's figures, from one pass over each run: sums by target, costs by kind of token, times.

The sums are those of `results/aggregate.py`, as in the tables of the report; costs are those of `results/costs.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from convbatch.journal.index import Archive
from convbatch.journal.manifest import ManifestTarget
from convbatch.reporting.aggregate import Sizes, TurnAttempt, joined_attempts
from convbatch.reporting.charts.course import Course, RunCourse
from convbatch.reporting.latency import StreamTotals
from convbatch.reporting.runs import ReportedRun
from convbatch.results.aggregate import CountedTurn, GroupTotals
from convbatch.results.costs import reply_cost_parts
from convbatch.results.filters import Matcher

PARTS = ("input", "cached_input", "output", "reasoning")


@dataclass(slots=True)
class TargetFigures:
    """The sums of one target of a run."""

    name: str
    """With its run, where there are several."""
    target: ManifestTarget
    totals: GroupTotals = field(default_factory=GroupTotals)
    streams: StreamTotals = field(default_factory=StreamTotals)
    sizes: dict[int, Sizes] = field(default_factory=dict[int, Sizes])
    """Input tokens by turn."""
    parts: dict[tuple[str, str], Decimal] = field(default_factory=dict[tuple[str, str], Decimal])
    """Cost by kind of token and currency; of the replies in `totals.money["cost"]`."""
    reasoning_unknown: int = 0
    """Replies with a cost whose reasoning tokens are unknown: part of `output`."""
    untimed: int = 0
    """Replies without a latency."""

    def add(self, turn: CountedTurn, attempts: Sequence[TurnAttempt]) -> None:
        """Count a turn."""
        self.totals.add(turn, [attempt.counted for attempt in attempts])
        if not turn.is_received:
            return
        self.sizes.setdefault(turn.turn, Sizes()).add(turn.input_tokens)
        self.untimed += turn.latency_s is None
        if turn.chunks is not None:
            self.streams.add(turn)
        if turn.cost is not None and turn.currency is not None:
            self._add_parts(turn.currency, attempts)

    def _add_parts(self, currency: str, attempts: Sequence[TurnAttempt]) -> None:
        for attempt in attempts:
            parts = reply_cost_parts(self.target, attempt.source.record) if attempt.counted.kept else None
            if parts is not None:
                self.reasoning_unknown += parts.reasoning is None
                for name, amount in zip(PARTS, parts, strict=True):
                    self.parts[name, currency] = self.parts.get((name, currency), Decimal(0)) + (amount or 0)


@dataclass(slots=True)
class RunFigures:
    """The sums of a run."""

    reported: ReportedRun
    targets: list[TargetFigures]
    course: Course


def read_figures(runs: Sequence[ReportedRun], names: Sequence[Sequence[str]], matcher: Matcher) -> Iterator[RunFigures]:
    """Read the runs.

    Args:
        runs: In the order of the report.
        names: Of the targets of each run.
        matcher: Which turns count; the course of a run is of all its attempts.
    """
    for reported, of_run in zip(runs, names, strict=True):
        run = reported.run
        found = {one.name: TargetFigures(name, one) for one, name in zip(run.manifest.targets, of_run, strict=True)}
        with Archive(run.folder) as archive:
            course = RunCourse(archive.runs, archive.stops)
            for (turn, attempts), does_count in zip(joined_attempts(run, archive), matcher.mask(run), strict=False):
                course.add(attempts)
                if does_count:
                    found[turn.target].add(turn, attempts)
            yield RunFigures(reported, list(found.values()), course.course())
