"""Read a CSV file: each row as an object of column name and text, or as an issue with its line number.

The first row names the columns. Commas separate the cells, or tabs or semicolons if the first row has no comma. The
file is UTF-8 with or without BOM, plain or gzip. Dialogues are not known here.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
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

    def __init__(self, path: Path) -> None:
        self.path = path
        self.consumed = 0
        self.blank_lines = 0

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
        first = text.split("\n", 1)[0]
        separator = next((mark for mark in ",\t;" if mark in first), ",")
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        columns: Sequence[str] | None = None
        end = 0
        try:
            for cells in rows:
                line, end = end + 1, rows.line_num
                if not any(cell.strip() for cell in cells):
                    self.blank_lines += 1
                elif columns is None:
                    columns = _columns(cells)
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


def _columns(cells: Sequence[str]) -> Sequence[str]:
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is None and all(names):
        return names
    what = "a column without a name" if twice in (None, "") else f"two columns named {display_json(twice)}"
    raise RefusedValue(Issue(what=what, found=display_json(names), hint="the first row names every column, each once"))


def _row(line: int, columns: Sequence[str], cells: Sequence[str]) -> JsonLine:
    if len(cells) == len(columns):
        return JsonLine(line, dict(zip(columns, cells, strict=True)))
    return JsonLine(
        line,
        {},
        Issue(
            what=f"{len(cells)} cells in a file of {len(columns)} columns",
            found=display_json(list(cells)),
            hint="one cell a column; a cell with a comma or a line break is in quotes",
        ),
    )


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
