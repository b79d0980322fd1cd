"""Lines of a transcript: labelled texts, and texts side by side; names, amounts and short words are never broken.

What is said is decided by `results/transcripts.py`. Importing this imports rich.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

from convbatch.console.grid import INDENT, wrap

SIDE_BY_SIDE_WIDTH = 36
"""Columns narrower than this are stacked."""
SHORT_FACT = 32
LABEL_WIDTH = 10
_GAP = 2


class Piece(NamedTuple):
    """A part of what is printed for one target; it begins a new line."""

    text: Text
    is_whole: bool = False
    """Whether it is never broken: a name."""
    between: str = ""
    """What separates its facts; it is broken there, and within a fact only if that is long: an error's message."""

    def folded(self, width: int) -> list[Text]:
        """Return its lines of at most this width; one that is never broken may be longer."""
        if self.is_whole:
            return [self.text]
        style = self.text.style
        groups = [self.text] if not self.between else [Text(group, style=style) for group in self._groups(width)]
        return [line for group in groups for line in wrap(group, width, whole=0)]

    def _groups(self, width: int) -> Iterator[str]:
        """Yield as many facts at a time as fit on a line; a long one follows the one before it, word by word."""
        first, *others = self.text.plain.split(self.between)
        group, mark = first, self.between.rstrip()
        for number, fact in enumerate(others, 1):
            longer = f"{group}{self.between}{fact}"
            needed = cell_len(longer) + (cell_len(mark) if number < len(others) else 0)
            if needed > width and cell_len(fact) <= SHORT_FACT:
                yield group + mark
                longer = fact
            group = longer
        yield group


def title_line(title: Text, width: int) -> Text:
    """Return a title with a line behind it to the end of the screen."""
    rest = width - cell_len(title.plain) - 1
    return Text.assemble(title, " ", Text("─" * rest, "green")) if rest > 0 else title


def labelled(label: Text, text: Text, width: int) -> Iterator[Text]:
    """Yield a label and beside it the lines of a text."""
    for number, line in enumerate(wrap(text, max(1, width - LABEL_WIDTH), whole=0)):
        head = label if number == 0 else Text()
        yield _line([(head, LABEL_WIDTH - 1), (line, 0)], gap=1)


def beside(cells: Sequence[Sequence[Piece]], width: int) -> Iterator[Text]:
    """Yield the lines of several cells: side by side if there is room for that, else one after another."""
    room = width - INDENT
    of_column = room // max(1, len(cells)) - _GAP
    names = [cell_len(piece.text.plain) for cell in cells for piece in cell if piece.is_whole]
    if len(cells) == 1 or of_column < max(SIDE_BY_SIDE_WIDTH, *names):
        for piece in (piece for cell in cells for piece in cell):
            for line in piece.folded(room):
                yield _line([(Text(), INDENT), (line, 0)], gap=0)
        return
    folded = [[line for piece in cell for line in piece.folded(of_column)] for cell in cells]
    for lines in zip_longest(*folded):
        yield _line([(Text(), INDENT - _GAP), *((line or Text(), of_column) for line in lines)], gap=_GAP)


def _line(parts: Sequence[tuple[Text, int]], *, gap: int) -> Text:
    """Return texts in columns of these widths as one line, without blanks at its end."""
    line = Text(no_wrap=True, overflow="ignore")
    for number, (text, width) in enumerate(parts):
        line.append(" " * gap if number else "")
        line.append_text(text)
        line.append(" " * max(0, width - cell_len(text.plain)))
    line.rstrip()
    return line
