"""A table that never breaks a number, a name or an amount over two lines; rich measures and prints the text.

Cells stay whole, unless their column is prose, which wraps between words. A table too wide for its terminal is stacked:
names move to a line above their row; if that is not enough, a row becomes a block of `heading value` pairs. In a pipe
or a file a table is as wide as it needs. Importing this imports rich: `tables.make_table` does it late.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple, TypeAlias

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

from convbatch.console.wrapping import WORD, breaks

PROSE_WIDTH = 24
"""Smallest width of a column of prose."""
WHOLE_WORD = 128
"""Prose is wrapped inside a word only if the word is longer: names of targets and ids are shorter."""
INDENT = 2
_GAPS = (2, 1)
_NONE = "–"
_ITEM = re.compile(r".+?(?:, |$)")
"""A name in a list of names, which is never broken."""
Lines: TypeAlias = Iterator[Text]


class Grid(Table):
    """A rich table whose layout depends on the room; with `expand` or a fixed width it is laid out by rich."""

    prose: frozenset[int] = frozenset()
    """Numbers of the columns that wrap between words."""
    lists: frozenset[int] = frozenset()
    """Numbers of the columns that wrap between the names of a list: `a b, c`."""
    whole_words: bool = True
    """Whether prose keeps words of up to `WHOLE_WORD` whole; not replies, which may consist of anything."""
    stack: tuple[int, ...] = (0,)
    """Numbers of the columns that move to the line above when the room is short, in this order."""
    above: int = 0
    """How many of them are always there."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines of the table."""
        if self.expand or any(column.width is not None for column in self.columns):
            yield from super().__rich_console__(console, options)
            return
        columns = [
            _GridColumn.of(column, self._words(number), WHOLE_WORD if self.whole_words else 0)
            for number, column in enumerate(self.columns)
        ]
        yield from _lines(columns, options.max_width if console.file.isatty() else None, self)

    def _words(self, number: int) -> re.Pattern[str] | None:
        return _ITEM if number in self.lists else WORD if number in self.prose else None


@dataclass(slots=True)
class _GridColumn:
    heading: Text
    is_right: bool
    words: re.Pattern[str] | None
    """What it wraps between; None if its cells are never broken."""
    whole: int
    """Longest word that is kept whole in prose."""
    cells: list[Text] = field(repr=False)
    widest: int
    narrowest: int
    holds_numbers: bool
    """Whether each cell is a number, or stands for an unknown one."""

    @classmethod
    def of(cls, column: Column, words: re.Pattern[str] | None, whole: int) -> _GridColumn:
        cells = [_text(cell) for cell in column.cells]
        heading = _text(column.header)
        texts = [heading.plain, *(cell.plain for cell in cells)]
        widest = max(column.min_width or 0, *(_width(text) for text in texts))
        narrowest = widest
        if words is not None:
            lengths = [cell_len(word.rstrip()) for text in texts[1:] for word in words.findall(text)]
            whole = max(lengths, default=0) if words is _ITEM else whole
            longest = max((length for length in lengths if length <= whole), default=0)
            narrowest = min(widest, max(PROSE_WIDTH, cell_len(heading.plain), longest))
        holds_numbers = all(cell.plain.isdecimal() or cell.plain == _NONE for cell in cells)
        return cls(heading, column.justify == "right", words, whole, cells, widest, narrowest, holds_numbers)

    def wrapped(self, cell: Text, width: int) -> list[Text]:
        """Return the lines of a cell."""
        if self.words is None:
            return list(cell.split("\n", allow_blank=True))
        return wrap(cell, width, self.whole, self.words)


class _Layout(NamedTuple):
    """Which columns are above their row, and the widths of the others."""

    above: tuple[int, ...]
    beside: tuple[int, ...]
    widths: tuple[int, ...]
    gap: int

    @property
    def width(self) -> int:
        return sum(self.widths) + self.gap * (len(self.widths) - 1)


def _lines(columns: Sequence[_GridColumn], room: int | None, grid: Grid) -> Lines:
    layout = _layout(columns, grid, room)
    if layout is None:
        yield from _records(columns, grid.stack, room or 0)
        return
    indent = INDENT if layout.above else 0
    if grid.show_header:
        yield from _row([columns[n].heading for n in layout.beside], columns, layout, indent)
    last: list[str] = []
    for row in zip(*(column.cells for column in columns), strict=True):
        if grid.show_lines:
            yield _line("─" * (layout.width + indent), "dim")
        above = [row[n].plain for n in layout.above]
        if above != last:
            yield from _above(layout.above, row, columns, room)
        last = above
        yield from _row([row[n] for n in layout.beside], columns, layout, indent)


def _layout(columns: Sequence[_GridColumn], grid: Grid, room: int | None) -> _Layout | None:
    """Return the layout with the fewest columns above the rows that fits; None if none does."""
    for count in range(grid.above, len(grid.stack) + 1):
        above = grid.stack[:count]
        beside = tuple(n for n in range(len(columns)) if n not in above)
        if not beside:
            return None
        for gap in _GAPS:
            widths = _fit([columns[n] for n in beside], room, gap, INDENT if above else 0)
            if widths is not None:
                return _Layout(above, beside, widths, gap)
    return None


def _fit(columns: Sequence[_GridColumn], room: int | None, gap: int, indent: int) -> tuple[int, ...] | None:
    """Return the widths of the columns; prose gets what the others leave. None if there is too little room."""
    if room is None:
        return tuple(column.widest for column in columns)
    widths = [column.narrowest for column in columns]
    spare = room - indent - gap * (len(columns) - 1) - sum(widths)
    if spare < 0:
        return None
    wanting = sorted(
        (n for n, column in enumerate(columns) if column.widest > widths[n]),
        key=lambda n: columns[n].widest - widths[n],
    )
    for number, n in enumerate(wanting):
        more = min(columns[n].widest - widths[n], spare // (len(wanting) - number))
        widths[n] += more
        spare -= more
    return tuple(widths)


def _row(cells: Sequence[Text], columns: Sequence[_GridColumn], layout: _Layout, indent: int) -> Lines:
    """Yield the lines of one row."""
    shown = [columns[n] for n in layout.beside]
    folded = [column.wrapped(cell, width) for cell, column, width in zip(cells, shown, layout.widths, strict=True)]
    for parts in zip_longest(*folded):
        line = _line(" " * indent)
        for number, (part, column, width) in enumerate(zip(parts, shown, layout.widths, strict=True)):
            text = part or Text()
            blanks = " " * (width - cell_len(text.plain))
            line.append(" " * (layout.gap if number else 0) + (blanks if column.is_right else ""))
            line.append_text(text)
            line.append("" if column.is_right else blanks)
        line.rstrip()
        yield line


def _above(numbers: Sequence[int], row: Sequence[Text], columns: Sequence[_GridColumn], room: int | None) -> Lines:
    """Yield the names of a row on a line of their own, numbers with their heading; only prose breaks between words."""
    items: list[_Item] = []
    for n in numbers:
        parts = columns[n].wrapped(row[n], 1)
        if columns[n].holds_numbers:
            parts = [Text.assemble(columns[n].heading.plain, " ", part) for part in parts]
        items += [_Item(" " if number else "  ", part) for number, part in enumerate(parts) if part.plain]
    return _packed(items, room, first=0, others=2 * INDENT)


def _records(columns: Sequence[_GridColumn], stack: Sequence[int], room: int) -> Lines:
    """Yield every row as a block: its names, then pairs of heading and value, then its prose."""
    for row in zip(*(column.cells for column in columns), strict=True):
        yield from _above(stack, row, columns, room)
        rest = [(column, cell) for n, (column, cell) in enumerate(zip(columns, row, strict=True)) if n not in stack]
        pairs = [pair for column, cell in rest if column.words is None for pair in _pairs(column, cell)]
        yield from _packed(pairs, room, first=INDENT, others=INDENT)
        yield from _prose([(column, cell) for column, cell in rest if column.words is not None and cell.plain], room)


def _prose(cells: Sequence[tuple[_GridColumn, Text]], room: int) -> Lines:
    """Yield prose beside its headings, below them if there is too little room; headings are not broken."""
    beside = max((cell_len(column.heading.plain) for column, _ in cells), default=0) + INDENT + _GAPS[0]
    is_below = beside + PROSE_WIDTH > room
    indent = 2 * INDENT if is_below else beside
    for column, cell in cells:
        head = _line(" " * INDENT).append_text(column.heading)
        if is_below:
            yield head
            head = _line("")
        for part in column.wrapped(cell, max(1, room - indent)):
            yield head.append(" " * (indent - cell_len(head.plain))).append_text(part)
            head = _line("")


def _pairs(column: _GridColumn, cell: Text) -> Iterator[_Item]:
    """Yield the heading with the first line of a cell, and the others."""
    first, *others = cell.split("\n", allow_blank=True)
    if first.plain:
        head = Text.assemble(column.heading.plain, " ", first, "," if others else "")
        yield _Item("   ", head)
    for number, line in enumerate(others, 1):
        yield _Item(" ", Text.assemble(line, "," if number < len(others) else ""))


class _Item(NamedTuple):
    """Something that is not broken, and the gap before it on a line."""

    gap: str
    text: Text


def _packed(items: Sequence[_Item], room: int | None, *, first: int, others: int) -> Lines:
    """Yield lines of as many items as fit."""
    line, used = _line(" " * first), first
    for number, item in enumerate(items):
        width = cell_len(item.gap) + cell_len(item.text.plain)
        if number and room is not None and used + width > room:
            yield line
            line, used = _line(" " * others), others
        elif number:
            line.append(item.gap)
        line.append_text(item.text)
        used = cell_len(line.plain)
    if items:
        yield line


def indented(text: Text, room: int | None, *, first: int, others: int) -> Lines:
    """Yield a text as indented lines, wrapped between words if there is a limit."""
    parts = [text] if room is None else wrap(text, max(1, room - max(first, others)))
    for number, part in enumerate(parts):
        line = _line(" " * (others if number else first))
        line.append_text(part)
        yield line


def wrap(text: Text, width: int, whole: int = WHOLE_WORD, words: re.Pattern[str] = WORD) -> list[Text]:
    """Return a text as lines of at most this width, broken between words; inside a word only if it is above `whole`."""
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        fits = cell_len(line.plain) <= width
        for part in [line] if fits else line.divide(breaks(line.plain, width, whole, words, cell_len)):
            part.rstrip()
            lines.append(part)
    return lines


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ignore")


def _text(cell: Any) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))


def _width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))
