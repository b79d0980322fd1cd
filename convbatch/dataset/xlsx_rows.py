"""Read the first sheet of an XLSX file: each row as an object of column name and text, or as an issue with its cell.

The first row with content names the columns. Cells become the text that "save as CSV" would write, apart from number
formats. A cell whose text is not stored, such as an error or a formula that was never calculated, is an issue. Rows are
streamed; the texts that a file shares between its cells are in memory. Dialogues are not known here.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from convbatch.dataset.file_kinds import binary_kind, text_kind
from convbatch.dataset.jsonl import MAX_ARRAY_BYTES, JsonLine, RefusedValue, display_json, excerpt, open_regular
from convbatch.errors import Issue

MAX_ROWS = 2**20
"""Of a sheet in this format; a gap before a larger row would be counted row by row."""
_SUFFIXES = (".xlsx", ".xlsm")
_MAX_PARTS = 10_000
_MAX_MERGED = 100_000
_CHUNK = 2**20
_ROW = re.compile(rb"<(?:\w+:)?row\s[^>]*?\br=[\"']([0-9]+)[\"']")
_MERGED = re.compile(rb"<(?:\w+:)?mergeCell\s[^>]*?\bref=[\"']([A-Z]{1,3})([0-9]{1,7}):([A-Z]{1,3})([0-9]{1,7})[\"']")
_FORMULA = re.compile(rb"<(?:\w+:)?f[\s/>]")
_SAVE_AGAIN = "open it in a spreadsheet program and save it again as .xlsx, or as CSV UTF-8"

# What openpyxl and its XML reader raise on files that are damaged or were not written by a spreadsheet program.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    SyntaxError,
    RuntimeError,
)


def is_xlsx(path: Path) -> bool:
    """Whether a file is XLSX by its name."""
    return path.name.lower().endswith(_SUFFIXES)


@dataclass(slots=True)
class _Sheet:
    """The first sheet: what is in the file beside the values of its cells."""

    title: str
    part: str
    merged: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    """(row, column) of a cell in a merged range → (row, column) of the cell that holds its value."""
    has_formulas: bool = False

    def cell(self, row: int, column: int) -> str:
        """Return the name of a cell, e.g. `Sheet1!B3`."""
        return f"{self.title}!{_letters(column)}{row}"


class XlsxRows:
    """Iterates over the rows of the first sheet; has the interface of `CsvLines`.

    Args:
        path: The file.
        fills_down: Whether the value of a merged range holds for all rows of the column with this name; a merged range
            of another column, or of several, is an issue.
    """

    def __init__(self, path: Path, fills_down: Callable[[str], bool] = lambda _: False) -> None:
        self.path = path
        self.consumed = 0
        self.blank_lines = 0
        self.notes: list[str] = []
        """Which sheets are not read."""
        self._fills_down = fills_down
        self._read = 0

    def __iter__(self) -> Iterator[JsonLine]:
        try:
            with open_regular(self.path) as raw:
                _require_xlsx(raw, self.path)
                with _opened(raw, is_formulas=False) as book:
                    yield from self._rows(raw, book)
                self.consumed = raw.seek(0, 2)
        except RefusedValue as refusal:
            yield JsonLine(None, {}, refusal.issue)
        except _DAMAGE as error:
            yield JsonLine(self._read + 1 if self._read else None, {}, _damaged(error))

    def _rows(self, raw: BinaryIO, book: Any) -> Iterator[JsonLine]:
        sheet = _first_sheet(raw, book)
        others = [one.title for one in book.worksheets[1:]]
        names = ", ".join(map(display_json, others[:3])) + (", …" if len(others) > 3 else "")
        self.notes = [f"note: {self.path}: only the first sheet is read, not {names}"] if others else []
        columns: dict[int, str] | None = None
        above: dict[tuple[int, int], str] = {}
        for number, cells in _numbered_rows(raw, book, sheet):
            self._read = number
            texts: dict[int, str] = {}
            issues: list[Issue] = []
            for column, cell in enumerate(cells, 1):
                try:
                    texts[column] = _text(cell)
                except RefusedValue as refusal:
                    issues.append(_at(refusal.issue, sheet.cell(number, column)))
            if columns is None and (issues or any(text.strip() for text in texts.values())):
                columns = _columns(texts, sheet, number)
                continue
            if columns is not None:
                issues += self._fill(texts, columns, sheet, number, above)
            if issues:
                known = {name: texts.get(column, "") for column, name in (columns or {}).items()}
                yield from (JsonLine(number, known, issue) for issue in issues)
            elif not any(text.strip() for text in texts.values()):
                self.blank_lines += 1
            elif columns is not None:
                yield _row(texts, columns, sheet, number)
        if columns is None:
            hint = "a first row with column names, then one row a turn"
            raise RefusedValue(Issue(what=f"the first sheet ({sheet.title}) is empty", hint=hint))

    def _fill(
        self,
        texts: dict[int, str],
        columns: Mapping[int, str],
        sheet: _Sheet,
        number: int,
        above: dict[tuple[int, int], str],
    ) -> Iterator[Issue]:
        """Copy the values of merged ranges into the cells below them; yield an issue for each that is ambiguous."""
        for column in set(columns) if sheet.merged else ():
            first = sheet.merged.get((number, column))
            if first is None:
                continue
            if first[1] != column or not self._fills_down(columns[column]):
                if first == (number, column):
                    issue = Issue(what="merged cells", hint="unmerge them, and write each row's own text into its cell")
                    yield _at(issue, sheet.cell(number, column))
            elif first == (number, column):
                above[first] = texts.get(column, "")
            else:
                texts[column] = above.get(first, "")


def _at(issue: Issue, cell: str) -> Issue:
    return Issue(what=issue.what, field=cell, found=issue.found, hint=issue.hint)


def _columns(texts: Mapping[int, str], sheet: _Sheet, number: int) -> dict[int, str]:
    names = {column: text.strip() for column, text in texts.items() if text.strip()}
    for column, name in names.items():
        if list(names.values()).count(name) > 1:
            issue = Issue(what=f"two columns named {display_json(name)}", hint="the first row names each column once")
            raise RefusedValue(_at(issue, sheet.cell(number, column)))
    return names


def _row(texts: Mapping[int, str], columns: Mapping[int, str], sheet: _Sheet, number: int) -> JsonLine:
    for column, text in texts.items():
        if column not in columns and text.strip():
            issue = Issue(
                what="a cell in a column without a name",
                field=sheet.cell(number, column),
                found=excerpt(text),
                hint="the first row names every column",
            )
            return JsonLine(number, {}, issue)
    return JsonLine(number, {name: texts.get(column, "") for column, name in columns.items()})


# Cells


@dataclass(frozen=True, slots=True)
class _Cell:
    """Stored value of a cell; an uncalculated formula has none."""

    value: Any
    kind: str = "n"
    formula: str | None = None


def _text(cell: _Cell) -> str:
    """Return the text of a cell; raises `RefusedValue` where there is none to rely on."""
    value = cell.value
    if cell.kind == "e":
        raise RefusedValue(Issue(what="the cell holds an error", found=str(value), hint="correct or empty the cell"))
    match value:
        case None if cell.formula is not None and cell.kind != "str":
            hint = "the program that wrote the file did not calculate it: " + _SAVE_AGAIN
            raise RefusedValue(Issue(what="a formula without a stored value", found=excerpt(cell.formula), hint=hint))
        case None:
            return ""
        case bool():
            return "TRUE" if value else "FALSE"
        case float():
            return (
                f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"
            )  # 2.7 is stored in 17
        case datetime.datetime():
            day = value.time() == datetime.time()
            return value.date().isoformat() if day else value.isoformat(sep=" ", timespec="seconds")
        case datetime.date() | datetime.time():
            return value.isoformat()
        case _:
            return str(value).replace("_x000D_", "\r")


# The file


def _require_xlsx(raw: BinaryIO, path: Path) -> None:
    """Refuse what is not a ZIP file of a bounded size, and what could expand when it is parsed.

    Raises:
        RefusedValue: The file is something else, or larger than a table in memory may be.
    """
    head = raw.read(8192)
    raw.seek(0)
    if not head.startswith(b"PK"):
        raise RefusedValue(_another_kind(head, path))
    with zipfile.ZipFile(raw) as archive:
        parts = archive.infolist()
        if len(parts) > _MAX_PARTS or sum(part.file_size for part in parts) > MAX_ARRAY_BYTES:
            what = f"an XLSX file of more than {MAX_ARRAY_BYTES // 2**20} MiB when it is unpacked"
            raise RefusedValue(Issue(what=what, hint="split it, or save it as CSV UTF-8 or JSON lines"))
        for part in parts:
            with archive.open(part) as text:
                has_entities = b"<!DOCTYPE" in text.read(1024)
            if has_entities:
                what = f"a document type declaration in {display_json(part.filename)}"
                raise RefusedValue(Issue(what=what, hint=f"no spreadsheet program writes one: {_SAVE_AGAIN}"))
    raw.seek(0)


def _another_kind(head: bytes, path: Path) -> Issue:
    if head.lstrip()[:1] in (b"{", b"["):
        return Issue(what="not an XLSX file: it looks like JSON", hint=f"name it {path.stem}.jsonl")
    known = binary_kind(head, path) or text_kind(head, path)
    what = "not an XLSX file" + ("" if known is None else f": it {known.what.partition(', not')[0]}")
    return Issue(what=what, found=repr(head[:8]), hint=_SAVE_AGAIN if known is None else known.hint)


@contextlib.contextmanager
def _opened(raw: BinaryIO, *, is_formulas: bool) -> Generator[Any]:
    try:
        import openpyxl
    except ModuleNotFoundError:
        hint = "pip install 'convbatch[xlsx]'; or save the sheet as CSV UTF-8"
        raise RefusedValue(Issue(what="XLSX needs the package openpyxl", hint=hint)) from None
    with _quiet():
        book = openpyxl.load_workbook(raw, read_only=True, data_only=not is_formulas, keep_links=False)
    try:
        yield book
    finally:
        book.close()


def _first_sheet(raw: BinaryIO, book: Any) -> _Sheet:
    if not book.worksheets:
        raise RefusedValue(Issue(what="no sheet with cells in this file", hint="save the table as .xlsx or CSV UTF-8"))
    first = book.worksheets[0]
    sheet = _Sheet(title=str(first.title), part=str(first._worksheet_path))
    with zipfile.ZipFile(raw) as archive, archive.open(sheet.part) as part:
        _scan(part, sheet)
    return sheet


def _scan(part: Any, sheet: _Sheet) -> None:
    """Find merged ranges and formulas, which a streamed sheet does not tell, and check the order of its rows."""
    tail, before = b"", 0
    while chunk := part.read(_CHUNK):
        text, _, tail = (tail + chunk).rpartition(b">")
        text += b">"
        sheet.has_formulas = sheet.has_formulas or _FORMULA.search(text) is not None
        for found in _ROW.finditer(text):
            number = int(found[1][:20])
            if not before < number <= MAX_ROWS:
                hint = f"rows are in order, up to {MAX_ROWS:,}: {_SAVE_AGAIN}"
                raise RefusedValue(Issue(what=f"row {number} after row {before}", field=sheet.title, hint=hint))
            before = number
        for found in _MERGED.finditer(text):
            left, top, right, bottom = (int(at) if at.isdigit() else _column_number(at) for at in found.groups())
            if (bottom - top + 1) * (right - left + 1) + len(sheet.merged) > _MAX_MERGED:
                what = f"more than {_MAX_MERGED:,} merged cells"
                raise RefusedValue(Issue(what=what, field=sheet.title, hint="unmerge all cells of the sheet"))
            for row in range(top, bottom + 1):
                sheet.merged |= {(row, column): (top, left) for column in range(left, right + 1)}


def _numbered_rows(raw: BinaryIO, book: Any, sheet: _Sheet) -> Iterator[tuple[int, list[_Cell]]]:
    """Yield the rows with their numbers; where there are formulas, a second pass over the file reads them."""
    rows = _streamed(book.worksheets[0])
    if not sheet.has_formulas:
        for number, row in rows:
            yield number, [_Cell(cell.value, cell.data_type) for cell in row]
        return
    with _opened(raw, is_formulas=True) as formulas:
        for (number, row), (_, written) in zip(rows, _streamed(formulas.worksheets[0]), strict=True):
            yield (
                number,
                [_Cell(cell.value, cell.data_type, _formula(own)) for cell, own in zip(row, written, strict=True)],
            )


def _formula(cell: Any) -> str | None:
    return str(getattr(cell.value, "text", cell.value)) if cell.data_type == "f" else None


def _streamed(sheet: Any) -> Iterator[tuple[int, Sequence[Any]]]:
    sheet.reset_dimensions()  # some programs write a wrong one, and cells outside it would not be read
    rows = enumerate(sheet.iter_rows(), 1)
    while True:
        with _quiet():
            row = next(rows, None)
        if row is None:
            return
        yield row


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep openpyxl's warnings about features that it does not read away from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _damaged(error: Exception) -> Issue:
    return Issue(what="the XLSX file is damaged", found=excerpt(f"{type(error).__name__}: {error}"), hint=_SAVE_AGAIN)


def _letters(column: int) -> str:
    letters = ""
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters.decode():
        number = number * 26 + ord(letter) - ord("A") + 1
    return number
