"""Figures of a report: pass rates, cost, time, tokens, how replies end, and the course of each run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from convbatch.reporting.charts.figure import Figure

if TYPE_CHECKING:
    from convbatch.reporting.runs import ReportedRun
    from convbatch.results.filters import Matcher

__all__ = ["Figure", "PassInterval", "chart_figures"]


class PassInterval(NamedTuple):
    """The pass rate of a target with its interval, as the page computes it."""

    name: str
    """The target, with its run where there are several."""
    passed: int
    judged: int
    low: float
    """Ends of the 95 % interval, 0 to 1."""
    high: float
    undecided: int = 0


def chart_figures(
    runs: Sequence[ReportedRun], matcher: Matcher, pass_rates: Sequence[PassInterval] = ()
) -> list[Figure]:
    """Return the figures of a report.

    Args:
        runs: As `load_runs` returns them.
        matcher: Which turns count; the course of a run is of all its attempts.
        pass_rates: Of the targets with judged dialogues.
    """
    raise NotImplementedError
