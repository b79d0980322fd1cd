"""Workbooks for spreadsheet programs (`.xlsx`): a sheet for each table, with a header that stays, filters and formats.

Nothing in a workbook is evaluated: every text is stored as a text, never as a formula, a link or a number. What a sheet
cannot hold is said: a longer text is cut with a note in its cell and one on stderr, and a longer table is refused. Rows
are streamed to a temporary file, so memory does not grow with a table.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, islice
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

from convbatch.console.text import log_note
from convbatch.errors import SetupError
from convbatch.results.columns import Column, Unit, unit_of
from convbatch.results.parquet import Rows, rows_of

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 1_048_576
"""Of a sheet, its header included."""
MAX_COLUMNS = 16_384
MAX_TEXT = 32_767
"""UTF-16 code units of a cell."""
_MAX_EXACT = 2**53
"""Every number of a spreadsheet is a double: integers beyond this would change."""

# The characters that OWASP lists for CSV injection, with their full-width forms: Chinese spreadsheets accept those too.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NOT_IN_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")
_NOT_IN_NAMES = re.compile(r"[\[\]:*?/\\\x00-\x1f]|^'|'$")
_MAX_NAME = 31
_CUT = "… [cut: {:,} characters]"
_WHOLE = "-o FILE.parquet or FILE.json has them whole"

_SAMPLED_ROWS = 200
"""Rows that column widths are taken from."""
_NARROWEST, _WIDEST = 8, 60
"""Characters of a column."""
_LINES_SHOWN = 12
"""Of a row; a taller one scrolls badly. The program that opens the file sizes the others itself."""
_LINE_POINTS = 15
_FILTER_BUTTON = 3

_Format: TypeAlias = Any
"""A format of XlsxWriter."""
_TIME_FORMAT = 'yyyy-mm-dd hh:mm:ss.000"Z"'
_UNIT_FORMATS: Mapping[Unit, str] = {"money": "#,##0.00######", "share": "0.0%", "seconds": "#,##0.000"}
_FORMAT_WIDTHS: Mapping[str, int] = {"timestamp[us, UTC]": 25, "Float64": 12, "Int64": 10, "boolean": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One table of a workbook."""

    name: str
    """Characters that Excel refuses are replaced, and equal names get numbers."""
    table: Rows | pd.DataFrame
    notes: Sequence[str] = ()
    """Lines below the table."""
    row_count: int | None = None
    """If known, so that a table with too many rows is refused before they are read."""


def write_workbook(sheets: Sequence[Sheet], file: IO[bytes]) -> None:
    """Write a workbook; say on stderr how many texts were cut.

    Raises:
        SetupError: A table has more rows or columns than a sheet.
    """
    from xlsxwriter import Workbook
    from xlsxwriter.exceptions import FileCreateError

    for sheet in sheets:
        _require_room(sheet)
    with tempfile.TemporaryDirectory(prefix="convbatch-") as folder:
        output = _Output(file)
        book = Workbook(cast("IO[bytes]", output), {"constant_memory": True, "tmpdir": folder})
        book.use_zip64()
        try:
            cut = _write_sheets(book, sheets)
            book.close()
        except FileCreateError as error:  # it wraps the error of the disk
            raise error.args[0] from error
        finally:
            output.is_open = False
            for worksheet in book.worksheets():  # open after a failure
                with contextlib.suppress(OSError):
                    cast("IO[str]", worksheet.row_data_fh).close()
    if cut:
        texts = "text was longer" if cut == 1 else "texts were longer"
        log_note(f"{cut:,} {texts} than the {MAX_TEXT:,} characters of a cell and cut: {_WHOLE}")


def _write_sheets(book: Any, sheets: Sequence[Sheet]) -> int:
    """Write the sheets; return how many texts were cut."""
    formats = _Formats(book)
    names: list[str] = []
    cut = 0
    try:
        for sheet in sheets:
            names.append(sheet_name(sheet.name, names))
            writer = _SheetWriter(book.add_worksheet(names[-1]), rows_of(sheet.table), formats)
            writer.write(sheet.notes)
            cut += writer.cut
    except OSError as error:
        hint = "free some space there, or set TMPDIR to another folder"
        raise SetupError(f"cannot write to {tempfile.gettempdir()}: {error.strerror or error}", hint=hint) from error
    return cut


class _Output:
    """A file for XlsxWriter that takes no notice of what comes after a failure.

    Python completes a ZIP archive that was left open when it is collected, and would report that the file is closed.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.is_open = True

    def write(self, data: bytes) -> int:
        """Write, or do nothing after a failure; the others likewise."""
        return self._file.write(data) if self.is_open else len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As `write`."""
        return self._file.seek(offset, whence) if self.is_open else 0

    def tell(self) -> int:
        """As `write`."""
        return self._file.tell() if self.is_open else 0

    def flush(self) -> None:
        """As `write`."""
        if self.is_open:
            self._file.flush()


def meanings(columns: Sequence[Column]) -> Sheet:
    """Return a sheet that explains the columns of a table."""
    head = [Column("column", "string", ""), Column("dtype", "string", ""), Column("meaning", "string", "")]
    rows = iter([(column.name, column.dtype, column.meaning) for column in columns])
    return Sheet(name="columns", table=Rows(columns=head, rows=rows))


def sheet_name(name: str, taken: Sequence[str]) -> str:
    """Return a name that Excel accepts and no other sheet has."""
    valid = _NOT_IN_NAMES.sub("_", _NOT_IN_XML.sub("\ufffd", name))[:_MAX_NAME].strip("'") or "sheet"
    used = {each.casefold() for each in taken} | {"history"}  # reserved by Excel
    candidates = (f"{valid[: _MAX_NAME - 2 - len(str(number))]} ({number})"[:_MAX_NAME] for number in range(2, 10_000))
    return next(each for each in chain([valid], candidates) if each.casefold() not in used)


def _require_room(sheet: Sheet) -> None:
    count = sheet.row_count if isinstance(sheet.table, Rows) else len(sheet.table)
    if count is not None and count >= MAX_ROWS:
        raise _too_many_rows(f"{count:,}")
    width = len(sheet.table.columns)
    if width > MAX_COLUMNS:
        hint = "write .parquet, .csv or .json"
        raise SetupError(f"a sheet of .xlsx has {MAX_COLUMNS:,} columns, the table {width:,}", hint=hint)


def _too_many_rows(count: str) -> SetupError:
    return SetupError(
        f"a sheet of .xlsx has {MAX_ROWS - 1:,} rows below its header, the table {count}",
        hint="choose rows with a filter (--target, --tag, --status …), or write .parquet, .csv or .json",
    )


class _Formats:
    """The formats of a workbook's cells."""

    def __init__(self, book: Any) -> None:
        cell = {"valign": "top"}
        self._book = book
        self._numbers: dict[str, _Format] = {}
        self.plain: _Format = book.add_format(cell)
        self.text: _Format = book.add_format({**cell, "text_wrap": True})
        # As typed with an apostrophe in front: the text stays a text when someone edits the cell or saves it as CSV.
        self.defused: _Format = book.add_format({**cell, "text_wrap": True, "quote_prefix": True})
        self.header: _Format = book.add_format(
            {"bold": True, "bottom": 1, "text_wrap": True, "quote_prefix": True, **cell}
        )
        self.note: _Format = book.add_format({"quote_prefix": True})
        self.time = self._number(_TIME_FORMAT)

    def of(self, column: Column) -> _Format:
        """Return the format of a column's numbers."""
        if (unit := unit_of(column)) is not None:
            return self._number(_UNIT_FORMATS[unit])
        return self._number("#,##0") if column.dtype == "Int64" else self.plain

    def _number(self, pattern: str) -> _Format:
        if pattern not in self._numbers:
            self._numbers[pattern] = self._book.add_format({"valign": "top", "num_format": pattern})
        return self._numbers[pattern]


@dataclass(slots=True)
class _SheetWriter:
    """Writes one sheet."""

    sheet: Any
    table: Rows
    formats: _Formats
    cut: int = 0
    """Texts that were longer than a cell."""
    _next_row: int = 0
    _widths: list[int] = field(default_factory=list)

    def write(self, notes: Sequence[str]) -> None:
        """Write the header, the rows and the notes."""
        rows = iter(self.table.rows)
        sample = list(islice(rows, _SAMPLED_ROWS))
        self._widths = [_width(column, [row[at] for row in sample]) for at, column in enumerate(self.table.columns)]
        for at, width in enumerate(self._widths):
            self.sheet.set_column(at, at, width)
        self.sheet.freeze_panes(1, 0)
        self.sheet.set_landscape()
        self.sheet.repeat_rows(0)
        for at, column in enumerate(self.table.columns):
            self.sheet.write_string(0, at, self._fitted(column.name), self.formats.header)
        self._write_rows(chain(sample, rows))
        if self.table.columns:
            self.sheet.autofilter(0, 0, max(self._next_row - 1, 0), len(self.table.columns) - 1)
        self._write_notes(notes)

    def _write_rows(self, rows: Iterator[Sequence[Any]]) -> None:
        writers = [self._cell_writer(at, column) for at, column in enumerate(self.table.columns)]
        self._next_row = 1
        for row in rows:
            if self._next_row == MAX_ROWS:
                raise _too_many_rows("more")
            lines = 1
            for value, write in zip(row, writers, strict=True):
                if value is not None:
                    lines = max(lines, write(value))
            if lines > _LINES_SHOWN:
                self.sheet.set_row(self._next_row, _LINES_SHOWN * _LINE_POINTS)
            self._next_row += 1

    def _cell_writer(self, at: int, column: Column) -> Callable[[Any], int]:
        """Return the function that writes a value of a column and returns the lines it takes."""
        of_number = self.formats.of(column)
        width = self._widths[at]

        def write(value: Any) -> int:
            match value:
                case bool():
                    self.sheet.write_boolean(self._next_row, at, value, self.formats.plain)
                case int() if abs(value) <= _MAX_EXACT:
                    self.sheet.write_number(self._next_row, at, value, of_number)
                case float() if math.isfinite(value):
                    self.sheet.write_number(self._next_row, at, value, of_number)
                case datetime() if value.year >= 1900:
                    time = value.astimezone(UTC).replace(tzinfo=None)
                    self.sheet.write_datetime(self._next_row, at, time, self.formats.time)
                case _:
                    return self._write_text(at, _to_text(value), width)
            return 1

        return write

    def _write_text(self, at: int, text: str, width: int) -> int:
        text = self._fitted(text)
        cell_format = self.formats.defused if text.startswith(FORMULA_STARTS) else self.formats.text
        self.sheet.write_string(self._next_row, at, text, cell_format)
        return 1 + text.count("\n") + len(text) // width

    def _write_notes(self, notes: Sequence[str]) -> None:
        self._next_row += 1  # apart from the table: the filter ends there
        for line in chain.from_iterable(note.splitlines() for note in notes):
            if self._next_row < MAX_ROWS:
                self.sheet.write_string(self._next_row, 0, self._fitted(line), self.formats.note)
            self._next_row += 1

    def _fitted(self, text: str) -> str:
        r"""Return a text that a cell can hold; control characters are left to the format's own escape, `_x0007_`."""
        if not text.isascii():
            text = _NOT_IN_XML.sub("\ufffd", text)
        if len(text) <= MAX_TEXT // 2 or _units(text) <= MAX_TEXT:
            return text
        self.cut += 1
        mark = _CUT.format(len(text))
        room = MAX_TEXT - len(mark)
        kept = text.encode("utf-16-le")[: 2 * room].decode("utf-16-le", "ignore")
        return kept + mark


def _units(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


def _to_text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _width(column: Column, values: Sequence[Any]) -> int:
    """Return the width of a column in characters: that of its longest line, within bounds."""
    longest = _FORMAT_WIDTHS.get(column.dtype, _NARROWEST)
    for text in (_to_text(value) for value in values if isinstance(value, str | list)):
        longest = max(longest, *(map(_cells, text[: 4 * _WIDEST].split("\n"))))
        if longest >= _WIDEST:
            return _WIDEST
    return max(_NARROWEST, min(_WIDEST, max(longest + 1, _cells(column.name) + _FILTER_BUTTON)))


def _cells(line: str) -> int:
    return len(line) if line.isascii() else sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)
