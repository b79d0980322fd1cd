"""Figures of a comparison: changes with their intervals and margins. Plain values in: nothing is compared here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from convbatch.reporting.charts.drawing import Chart, label
from convbatch.reporting.charts.figure import Cell, Figure, FigurePlan, one_line

ROWS_DRAWN = 24
_WIDEST = 4.0
"""Intervals are drawn up to this many times the largest change or margin."""


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


def change_figures(
    changes: Sequence[Change], confidence: float, name: str = "changes", subject: str = ""
) -> list[Figure]:
    """Return a forest plot for rates and scores, and one for ratios, as far as there are any.

    Args:
        changes: In the order of the plot.
        confidence: Of the intervals, as 0.95.
        name: Prefix of the figures' names.
        subject: What the changes are of, for the titles: `" by slice"`.
    """
    return [plan.drawn() for plan in plan_changes(changes, confidence, name, subject)]


def plan_changes(changes: Sequence[Change], confidence: float, name: str, subject: str) -> Iterator[FigurePlan]:
    """Yield the figures of `change_figures` before they are drawn."""
    rates, ratios = ([one for one in changes if one.is_ratio is wanted] for wanted in (False, True))
    yield from _figure(rates, confidence, f"{name}-rates", f"Change of pass rates and scores{subject}")
    yield from _figure(ratios, confidence, f"{name}-ratios", f"Change of tokens, cost and time{subject}")


def _figure(changes: Sequence[Change], confidence: float, name: str, title: str) -> Iterator[FigurePlan]:
    if not changes:
        return
    interval = f"{confidence * 100:.4g} % interval"
    unit = "%" if changes[0].is_ratio else "points"
    columns = ("metric", f"change ({unit})", f"{interval} from", "to", f"margin ({unit})", "verdict")
    rows: list[tuple[Cell, ...]] = [
        (one.name, *(_hundredfold(value) for value in (one.change, one.low, one.high, one.margin)), one.verdict)
        for one in changes
    ]
    drawn = changes[:ROWS_DRAWN]
    reach = _reach(drawn)
    values = [_value(number, one, reach) for number, one in enumerate(drawn)]
    worse = "right is worse" if changes[0].is_ratio else "left is worse"
    settings = {
        "values": values,
        "reference": [{"at": 0}],
        "domain": [-reach, reach],
        "format": "~r",
        "title": f"change ({unit}) with {interval}; {worse}",
    }
    limits = [limit for one in drawn for limit in (one.low, one.high) if limit is not None]
    note = one_line(
        "The short upright line is the accepted margin." if any(one.margin for one in drawn) else None,
        "Without an interval: unknown." if any(one.low is None for one in changes) else None,
        "Wide intervals are cut at the edge; the table has them whole."
        if any(abs(limit) * 100 > reach for limit in limits)
        else None,
        f"The first {ROWS_DRAWN} of {len(changes):,} are drawn; the table has all."
        if len(changes) > ROWS_DRAWN
        else None,
    )
    yield FigurePlan(name, title, Chart("intervals", settings), columns, rows, note)


def _hundredfold(value: float | None) -> float | None:
    return None if value is None else round(value * 100, 10)


def _reach(changes: Sequence[Change]) -> float:
    """Return the largest change that has room, in hundredths."""
    sizes = [abs(value) for one in changes for value in (one.change, one.margin) if value is not None]
    limits = [abs(value) for one in changes for value in (one.low, one.high) if value is not None]
    most = max(max(sizes), min(max(limits, default=0.0), _WIDEST * max(sizes))) or 0.01
    return 100 * most * 1.1


def _value(number: int, one: Change, reach: float) -> dict[str, Any]:
    def place(value: float) -> float:
        return min(max(100 * value, -reach), reach)

    low, high = one.low, one.high
    margin = None if one.margin is None else one.margin if one.is_ratio else -one.margin
    unit = " %" if one.is_ratio else ""
    ends = "interval unknown" if low is None or high is None else f"({100 * low:+.1f} to {100 * high:+.1f})"
    return {
        "row": number,
        "label": label(f"{one.name}: {one.verdict}" if one.verdict else one.name, 36),
        "value": place(one.change),
        "low": None if low is None else place(low),
        "high": None if high is None else place(high),
        "margin": None if margin is None else place(margin),
        "text": f"{100 * one.change:+.1f}{unit} {ends}",
    }
