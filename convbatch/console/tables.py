"""How a terminal is written to: its console, its plain tables, numbers and texts in a cell.

What is said in them is `cli/show.py` and `reporting/render.py`; all text from outside passes `printable` here.
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
"""Characters: nobody reads more on a terminal, and to lay out ten million takes minutes."""
NONE = "–"
"""What stands where nothing is known."""


def console(file: IO[str] | None) -> Console:
    """A console on a file, default stdout, in colours if that is a terminal that has any."""
    from rich.console import Console

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the process with a code of its own

    # rich's own reading of NO_COLOR leaves bold and dim, which are escape sequences as well.
    colors = None if os.environ.get("NO_COLOR") else "auto"
    return Pipe(file=file or sys.stdout, color_system=colors, highlight=False, markup=False, emoji=False)


def make_table(*headings: str | tuple[str, Any], lines: bool = False) -> Table:
    """An empty table; a heading may come with its column's justification."""
    from rich import box
    from rich.table import Table

    grid = Table(box=box.HORIZONTALS if lines else None, show_lines=lines, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        name, justify = (heading, "left") if isinstance(heading, str) else heading
        grid.add_column(single_line_text(name, "bold"), justify=justify, overflow="fold")
    return grid


def single_line_text(content: str, style: str = "") -> Text:
    """One line of text from anywhere."""
    from rich.text import Text

    return Text(printable(content), style=style)


def multiline_text(content: str, style: str = "") -> Text:
    """Several lines. Tabs become blanks here: rich measures a tab as one place, and folds what it has made of it."""
    from rich.text import Text

    more = len(content) - SHOWN_OF_A_TEXT
    if more > 0:
        content = f"{content[:SHOWN_OF_A_TEXT]}\n… and {more:,} more characters: convbatch table RUN -o FILE.json"
    return Text(printable_lines(content).expandtabs(), style=style)


def number_text(value: float | None) -> str:
    """Counts in full up to seven places, seconds to what can be told apart; a dash for unknown."""
    if value is None:
        return NONE
    if isinstance(value, int):
        return f"{value:,}" if value < 10_000_000 else f"{value / 1e6:,.1f}M"
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}"
