"""A few lines at the bottom of a terminal that are repainted in place, with permanent lines scrolling by above them.

The size of the terminal is read before each painting, so lines never wrap, and a block painted before the window became
narrower is still erased whole. Only a terminal that can move its cursor gets one: `fits`.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple, TextIO

_FALLBACK = (80, 24)
"""A terminal of unknown size: serial lines, and pseudo-terminals that nobody has given one."""


class Size(NamedTuple):
    """Size of a terminal in character cells."""

    columns: int
    rows: int


def can_repaint(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that moves its cursor as told; `TERM=dumb` is none."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def cell_width(text: str) -> int:
    """Return the cells that a text takes on a terminal: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class StatusBlock:
    """The repainted lines; nothing is shown until `paint` is called."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._painted: list[int] = []
        """Widths of the lines on the screen."""
        self._lines: Sequence[str] = ()

    def size(self) -> Size:
        """Return the present size of the terminal."""
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError, AttributeError):
            columns, rows = _FALLBACK
        return Size(columns or _FALLBACK[0], rows or _FALLBACK[1])

    def paint(self, lines: Sequence[str]) -> None:
        """Show these lines instead of those before; each must be narrower than the terminal."""
        if self._in_background():
            return
        self._lines = lines
        self._write(self._rewind() + self._block(lines))

    def print_above(self, text: str) -> None:
        """Print a permanent line above the block."""
        self._write(f"{self._rewind()}\x1b[J{text}\n{self._block(self._lines)}")

    def erase(self) -> None:
        """Remove the block; the cursor is then where it began."""
        if self._painted:
            self._write(self._rewind() + "\x1b[J")
        self._painted, self._lines = [], ()

    def _block(self, lines: Sequence[str]) -> str:
        self._painted = [cell_width(line) for line in lines]
        return "\n".join(f"\x1b[2K{line}" for line in lines) + ("\x1b[J" if lines else "")

    def _rewind(self) -> str:
        """Return what moves the cursor to the start of the block, whose lines may have been wrapped since."""
        columns = self.size().columns
        rows = sum(max(1, -(-width // columns)) for width in self._painted)
        return "\r" + (f"\x1b[{rows - 1}A" if rows > 1 else "")

    def _in_background(self) -> bool:
        """Whether another job owns the terminal (`&`, `bg`): painting would overwrite what it shows."""
        try:
            is_background = os.tcgetpgrp(self._stream.fileno()) != os.getpgrp()
        except (OSError, ValueError, AttributeError):
            return False
        if is_background:
            self._painted, self._lines = [], ()
        return is_background

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
