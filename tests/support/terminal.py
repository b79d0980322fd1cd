"""A terminal for functions that print: a text file that says so, and the lines that a person would see."""

from __future__ import annotations

import io
import re

from rich.cells import cell_len


class Terminal(io.StringIO):
    """A file that is a terminal; its width is that of the variable COLUMNS."""

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """What is on the screen, without colours and blanks at line ends."""
        return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", self.getvalue()).splitlines()]

    @property
    def width(self) -> int:
        """Of the longest line."""
        return max(map(cell_len, self.lines))
