"""Terminal output: the console, plain tables, and the numbers and texts in their cells.

`cli/show.py` and `reporting/render.py` decide the content; all text from outside passes `printable` here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any, cast

from convbatch.console.text import printable, printable_lines, shorten

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.text import Text

    from convbatch.console.grid import Grid

SHOWN_OF_A_TEXT = 50_000
"""Characters: laying out ten million takes minutes."""
SHOWN_OF_A_LINE = 2_000
NONE = "–"
"""Shown for an unknown value."""
STATUS_STYLES = {
    "ok": "green",
    "blocked": "yellow",
    "empty": "yellow",
    "error": "red",
    "pending": "magenta",
    "skipped": "dim",
}
"""Colours of the statuses of a turn."""


def console(file: IO[str] | None) -> Console:
    """Return a console on a file, default stdout, with colours if the terminal has them."""
    from rich.console import Console

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the process with a code of its own

        def print(self, *objects: Any, **options: Any) -> None:
            options.setdefault("crop", False)  # a name wider than the screen is not cut
            super().print(*objects, **options)

    # rich's own handling of NO_COLOR keeps bold and dim, which are escape sequences as well.
    colors = None if os.environ.get("NO_COLOR") else "auto"
    return Pipe(file=file or sys.stdout, color_system=colors, highlight=False, markup=False, emoji=False)


def screen_width(console: Console) -> int | None:
    """Return the columns of the terminal; None for a pipe or a file, also one that is to get colours (FORCE_COLOR)."""
    return console.width if console.file.isatty() else None


def make_table(
    *headings: str | tuple[str, str],
    lines: bool = False,
    stack: Sequence[int] = (0,),
    above: int = 0,
    prose: Sequence[int] = (),
    lists: Sequence[int] = (),
    whole_words: bool = True,
) -> Grid:
    """Return an empty table whose cells are never broken, except those of prose and lists.

    Args:
        headings: A heading may come with the justification of its column.
        lines: Print a line between rows.
        stack: The columns that move to a line of their own above the row when a terminal is too narrow, in order.
        above: How many of them are always there.
        prose: The columns that wrap between words.
        lists: The columns that wrap between names, separated by `, `.
        whole_words: Whether prose breaks only between words; not in replies, which may consist of anything.
    """
    from convbatch.console.grid import Grid

    grid = Grid(box=None, show_lines=lines, pad_edge=False, padding=(0, 1, 0, 0))
    grid.stack, grid.above = tuple(stack), above
    grid.prose, grid.lists = frozenset(prose), frozenset(lists)
    grid.whole_words = whole_words
    for heading in headings:
        name, justify = (heading, "left") if isinstance(heading, str) else heading
        grid.add_column(single_line_text(name, "bold"), justify=cast("JustifyMethod", justify), overflow="fold")
    return grid


def print_note(console: Console, text: str, style: str = "", *, indent: int = 0) -> None:
    """Print a line of untrusted text, wrapped between words on a terminal and whole elsewhere."""
    from convbatch.console.grid import indented

    room = screen_width(console)
    for line in indented(single_line_text(text, style), room, first=indent, others=indent):
        console.print(line, soft_wrap=True)


def single_line_text(content: str, style: str = "") -> Text:
    """Return one line of untrusted text."""
    from rich.text import Text

    return Text(shorten(printable(content), SHOWN_OF_A_LINE), style=style)


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
