"""Figures of a comparison: changes with their intervals and margins. Plain values in: nothing is compared here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from convbatch.reporting.charts.figure import Figure


class Change(NamedTuple):
    """A metric of the candidate against the base."""

    name: str
    change: float
    """A difference (of rates and scores, 0 to 1), or a ratio - 1."""
    low: float | None
    """Ends of the interval; None: unknown."""
    high: float | None
    margin: float | None
    """Accepted harm in the unit of `change`; None: no margin applies."""
    is_ratio: bool
    """Ratios get worse upwards, rates and scores downwards."""
    verdict: str = ""


def change_figures(changes: Sequence[Change], confidence: float, name: str = "changes") -> list[Figure]:
    """Return a forest plot for rates and scores, and one for ratios, as far as there are any.

    Args:
        changes: In the order of the plot.
        confidence: Of the intervals, as 0.95.
        name: Prefix of the figures' names.
    """
    raise NotImplementedError
