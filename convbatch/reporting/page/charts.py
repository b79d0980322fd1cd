"""Charts on a page: each with its numbers as a folded table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convbatch.console.html import Markup, element
from convbatch.console.tables import NONE, number_text
from convbatch.reporting.charts.figure import Cell, Figure
from convbatch.reporting.page.tables import Table, table


def charts(figures: Sequence[Figure]) -> Iterator[Markup]:
    """Yield the figures; those without a chart say why, once for all with the same reason."""
    yield element("div", *map(_figure, figures), class_="charts")
    for note in dict.fromkeys(figure.note for figure in figures if figure.svg is None and figure.note is not None):
        yield element("p", note, class_="note")


def _figure(figure: Figure) -> Markup:
    parts = [element("figcaption", figure.title)]
    if figure.svg is not None:
        # Its text is escaped where it is drawn.
        parts.append(element("div", Markup(figure.svg), class_="chart"))
        parts += [] if figure.note is None else [element("p", figure.note, class_="note")]
    numeric = [all(not isinstance(row[n], str) for row in figure.rows) for n in range(len(figure.columns))]
    content = Table(figure.columns, numeric, [[_text(cell) for cell in row] for row in figure.rows])
    numbers = element("details", element("summary", "Numbers"), table(content, figure.title))
    return element("figure", *parts, numbers, id=f"chart-{figure.name}")


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else NONE if cell is None else number_text(cell)
