"""A chart with its numbers as a table: what the charts of this package are, and what a page shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from convbatch.reporting.charts.drawing import HOW_TO_GET_CHARTS, Chart, draw

Cell: TypeAlias = str | int | float | None
"""A value of a figure's table; None is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart, and its numbers as a table."""

    name: str
    """Unique on a page: letters, digits, `-` and `_`."""
    title: str
    svg: str | None
    """An `<svg>` element that can stand in a page as it is: its text is escaped; it has no style, script or link.

    It takes the width of its box and the colour of its text. None: see `note`."""
    columns: tuple[str, ...]
    """Headings of the table, with units."""
    rows: list[tuple[Cell, ...]]
    """A row per line of the table; texts are whole where the chart shortens them."""
    note: str | None = None
    """One line: what the chart leaves out, or why there is none and how to get it."""


class FigurePlan(NamedTuple):
    """A figure before its chart is drawn."""

    name: str
    title: str
    chart: Chart
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    note: str | None = None

    def drawn(self) -> Figure:
        """Return the figure with its chart, or with a note on how to get charts."""
        svg = draw(self.chart, f"Chart: {self.title}. Its numbers are in the table.")
        note = one_line(HOW_TO_GET_CHARTS if svg is None else None, self.note)
        return Figure(name=self.name, title=self.title, svg=svg, columns=self.columns, rows=self.rows, note=note)


def one_line(*sentences: str | None) -> str | None:
    """Return the sentences there are as one line; None without any."""
    return " ".join(filter(None, sentences)) or None
