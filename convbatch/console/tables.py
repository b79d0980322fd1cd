"""Terminal output: the console, plain tables, and the numbers and texts in their cells.

`cli/show.py` and `reporting/render.py` decide the content; all text from outside passes `printable` here.
"""

from __future__ import annotations

import os
import sys
from typing import IO, TYPE_CHECKING, Any

from convbatch.console.text import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

SHOWN_OF_A_TEXT = 50_000
"""Characters: laying out ten million takes minutes."""
NONE = "–"
"""Shown for an unknown value."""


def console(file: IO[str] | None) -> Console:
    """Return a console on a file, default stdout, with colours if the terminal has them."""
    from rich.console import Console

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the process with a code of its own

    # rich's own handling of NO_COLOR keeps bold and dim, which are escape sequences as well.
    colors = None if os.environ.get("NO_COLOR") else "auto"
    return Pipe(file=file or sys.stdout, color_system=colors, highlight=False, markup=False, emoji=False)


def make_table(*headings: str | tuple[str, Any], lines: bool = False) -> Table:
    """Return an empty table; a heading may come with the justification of its column."""
    from rich import box
    from rich.table import Table

    grid = Table(box=box.HORIZONTALS if lines else None, show_lines=lines, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        name, justify = (heading, "left") if isinstance(heading, str) else heading
        grid.add_column(single_line_text(name, "bold"), justify=justify, overflow="fold")
    return grid


def single_line_text(content: str, style: str = "") -> Text:
    """Return one line of untrusted text."""
    from rich.text import Text

    return Text(printable(content), style=style)


def multiline_text(content: str, style: str = "") -> Text:
    """Return several lines of untrusted text, tabs expanded: rich would measure a tab as one column."""
    from rich.text import Text

    more = len(content) - SHOWN_OF_A_TEXT
    if more > 0:
        content = f"{content[:SHOWN_OF_A_TEXT]}\n… and {more:,} more characters: convbatch table RUN -o FILE.json"
    return Text(printable_lines(content).expandtabs(), style=style)


def number_text(value: float | None) -> str:
    """Format a number: counts in full up to seven digits, seconds to two decimals below 10; a dash for None."""
    if value is None:
        return NONE
    if isinstance(value, int):
        return f"{value:,}" if value < 10_000_000 else f"{value / 1e6:,.1f}M"
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}"
