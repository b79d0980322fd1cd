"""Tables of a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from convbatch.console.html import Markup, element

ROWS_SHOWN = 500
"""Of one table; JSON and Markdown have all."""


class Table(NamedTuple):
    """A table as texts."""

    headings: Sequence[str]
    numeric: Sequence[bool]
    """By column, whether it has figures."""
    rows: Sequence[Sequence[str]]


def counted(number: int, noun: str) -> str:
    """Format a number with its noun, singular or plural."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def table(content: Table, caption: str | None = None) -> Markup:
    """Return a table in a box that scrolls where the screen is narrow; the first column names the row."""
    sides = ["figure" if figures else None for figures in content.numeric]
    head = [element("th", name, scope="col", class_=side) for name, side in zip(content.headings, sides, strict=True)]
    body = [
        element("tr", *(_cell(n, text, side) for n, (text, side) in enumerate(zip(row, sides, strict=True))))
        for row in content.rows[:ROWS_SHOWN]
    ]
    left = len(content.rows) - ROWS_SHOWN
    more = [element("p", f"… and {left:,} more rows: -o report.md or .json")] if left > 0 else []
    parts = [
        *([element("caption", caption)] if caption else []),
        element("thead", element("tr", *head)),
        element("tbody", *body),
    ]
    # It can be scrolled, so it must be reachable by keyboard, with a name.
    box = {"role": "group", "aria_label": caption} if caption else {}
    return element("div", element("table", *parts), *more, class_="scroll", tabindex="0", **box)


def _cell(number: int, text: str, side: str | None) -> Markup:
    return element("th", text, scope="row") if number == 0 else element("td", text, class_=side)
