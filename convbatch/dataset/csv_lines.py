"""Read a CSV file: each row as an object of column name and text, or as an issue with its line number.

The first row names the columns. Commas, tabs, semicolons or bars separate the cells: the mark that cuts the first two
rows into the most cells, or the one in Excel's line `sep=;`. A column without a name is skipped if it is empty. The
file is UTF-8 with or without BOM, plain or gzip. Dialogues are not known here.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from convbatch.dataset.file_kinds import not_utf8
from convbatch.dataset.jsonl import (
    MAX_ARRAY_BYTES,
    MAX_LINE_BYTES,
    JsonLine,
    RefusedValue,
    display_json,
    excerpt,
)
from convbatch.dataset.message_lines import opened
from convbatch.errors import Issue

_BOM = b"\xef\xbb\xbf"
_SUFFIXES = (".csv", ".tsv")


def is_csv(path: Path) -> bool:
    """Whether a file is CSV by its name."""
    return path.name.lower().removesuffix(".gz").endswith(_SUFFIXES)


class CsvLines:
    """Iterates over the rows of one file; has the interface of `JsonLines`, and reads the whole file into memory."""

    def __init__(self, path: Path, *, repeated_columns: bool = False) -> None:
        """Args: path: The file. repeated_columns: Of columns with one name the first counts, as exports have them."""
        self.path = path
        self.consumed = 0
        self.blank_lines = 0
        self._repeated = repeated_columns

    def __iter__(self) -> Iterator[JsonLine]:
        try:
            with opened(self.path) as (raw, binary):
                content = binary.read(MAX_ARRAY_BYTES + 1).removeprefix(_BOM)
                self.consumed = raw.tell()
            yield from self._rows(_text(content))
        except RefusedValue as refusal:
            yield JsonLine(None, {}, refusal.issue)
        except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
            yield JsonLine(None, {}, Issue(what="reading failed", found=excerpt(str(error)), hint="copy it again"))

    def _rows(self, text: str) -> Iterator[JsonLine]:
        csv.field_size_limit(MAX_LINE_BYTES)
        told = _SEPARATOR_LINE.match(text)
        separator = _separator(text) if told is None else told[1]
        if told is not None:
            text = text[told.end(1) :]  # keeps the line break, for the line numbers
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        columns: Sequence[str] | None = None
        end = 0
        try:
            for cells in rows:
                line, end = end + 1, rows.line_num
                if not any(cell.strip() for cell in cells):
                    self.blank_lines += 1
                elif columns is None:
                    columns = _columns(_first_ones(cells) if self._repeated else cells)
                else:
                    yield _row(line, columns, cells)
        except csv.Error as error:
            hint = (
                'a cell with a comma, a quote or a line break is in quotes, and a quote inside it is doubled: "a ""b"""'
            )
            yield JsonLine(end + 1, {}, Issue(what=f"not CSV: {error}", hint=hint))
            return
        if columns is None:
            raise RefusedValue(
                Issue(what="the file is empty", hint="a first row with column names, then one row a line")
            )


_SEPARATOR_LINE = re.compile(r"(?i)sep=([,;|\t])(?=\r?\n)")
_ERROR_VALUE = re.compile(r"#(?:NAME\?|REF!|VALUE!|DIV/0!|NUM!|NULL!|N/A|WERT!|BEZUG!|ZAHL!|NV)")
_SEPARATORS = ",\t;|"
_SNIFFED = 2**20


def _separator(text: str) -> str:
    """Return the mark that separates the cells: best one with as many cells in the second row as in the first."""

    def fit(mark: str) -> tuple[bool, int]:
        rows = csv.reader(io.StringIO(text[:_SNIFFED], newline=""), delimiter=mark)
        try:
            counts = [len(cells) for cells in itertools.islice((cells for cells in rows if any(cells)), 2)]
        except csv.Error:
            return False, 0
        return len(set(counts)) == 1, max(counts[:1], default=0)

    fits = {mark: fit(mark) for mark in _SEPARATORS}
    return max((mark for mark in _SEPARATORS if fits[mark][1] > 1), key=lambda mark: fits[mark], default=",")


def _first_ones(cells: Sequence[str]) -> list[str]:
    """Return the names of columns, of equal ones the first; a nameless column is skipped also with text in it."""
    seen: set[str] = set()
    names: list[str] = []
    for number, cell in enumerate(cells, 1):
        name = cell.strip()
        names.append(f"(column {number})" if name in seen or not name else name)
        seen.add(name)
    return names


def _columns(cells: Sequence[str]) -> Sequence[str]:
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is None and any(names):
        return names
    what = "a column without a name" if twice is None else f"two columns named {display_json(twice)}"
    raise RefusedValue(Issue(what=what, found=display_json(names), hint="the first row names every column, each once"))


def _row(line: int, columns: Sequence[str], cells: Sequence[str]) -> JsonLine:
    failed = next((cell for cell in cells if _ERROR_VALUE.fullmatch(cell.strip())), None)
    if failed is not None:
        hint = "a formula failed, or a text began with = or -: write the text, in the spreadsheet with ' before it"
        return JsonLine(line, {}, Issue(what="an error value of a spreadsheet", found=display_json(failed), hint=hint))
    if len(cells) == len(columns):
        unnamed = next((cell for name, cell in zip(columns, cells, strict=True) if not name and cell.strip()), None)
        named = {name: cell for name, cell in zip(columns, cells, strict=True) if name}
        hint = "name it in the first row, or leave it out (in pandas: to_csv(…, index=False))"
        issue = Issue(what="text in a column without a name", found=display_json(unnamed), hint=hint)
        return JsonLine(line, named) if unnamed is None else JsonLine(line, named, issue)
    return JsonLine(
        line,
        {},
        Issue(
            what=f"{_counted(len(cells), 'cell')} in a file of {_counted(len(columns), 'column')}",
            found=display_json(list(cells)),
            hint="one cell a column; a cell with a comma or a line break is in quotes",
        ),
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _text(content: bytes) -> str:
    if len(content) > MAX_ARRAY_BYTES:
        what = f"a CSV file of more than {MAX_ARRAY_BYTES // 2**20} MiB"
        raise RefusedValue(Issue(what=what, hint="split it, or write JSON lines"))
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        start = content.rfind(b"\n", 0, error.start) + 1
        issue = not_utf8(content[start : error.start + 400].split(b"\n")[0], error.start - start)
        line = content.count(b"\n", 0, error.start) + 1
        hint = f'save it as "CSV UTF-8", or {issue.hint}'
        raise RefusedValue(dataclasses.replace(issue, hint=hint, line=line)) from None
