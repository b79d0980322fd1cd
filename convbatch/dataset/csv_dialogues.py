"""Read dialogues from rows of turns, as in CSV and XLSX files; rows of one id that follow each other are a dialogue.

The columns and what they mean are in `formats/csv_turns.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from convbatch.dataset.csv_lines import CsvLines, is_csv
from convbatch.dataset.jsonl import JsonLine, display_json
from convbatch.dataset.xlsx_rows import XlsxRows, is_xlsx
from convbatch.errors import Issue

ID_COLUMNS = ("id", "dialogue_id", "dialog_id", "conversation_id", "question_id")
USER_COLUMNS = ("user", "content", "question", "prompt")
REPLY_COLUMNS = ("assistant", "reply", "answer", "response", "reference")
TURN_COLUMNS = ("turn", "turn_id", "turn_number")
_OF_ONE_ROW = (*USER_COLUMNS, *REPLY_COLUMNS, *TURN_COLUMNS, "role")


def is_table(path: Path) -> bool:
    """Whether a file is CSV or XLSX by its name."""
    return is_csv(path) or is_xlsx(path)


def read_table(path: Path) -> CsvLines | XlsxRows:
    """Return the rows of a file; a merged cell of a sheet holds for its rows, if it is no message."""
    return XlsxRows(path, lambda column: column.lower() not in _OF_ONE_ROW) if is_xlsx(path) else CsvLines(path)


class CsvRows(dict[str, Any]):
    """The rows of one dialogue, as `rows`; a class of its own, so that no JSON line is taken for it."""


class CsvDialogues:
    """Iterates over the dialogues of one file; has the interface of `JsonLines`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = read_table(path)

    @property
    def consumed(self) -> int:
        """Bytes read."""
        return self._lines.consumed

    @property
    def blank_lines(self) -> int:
        """Rows without any text, which are skipped."""
        return self._lines.blank_lines

    @property
    def notes(self) -> list[str]:
        """What is in the file and not read."""
        return self._lines.notes if isinstance(self._lines, XlsxRows) else []

    def __iter__(self) -> Iterator[JsonLine]:
        return turn_rows_to_dialogues(self._lines)


def turn_rows_to_dialogues(rows: Iterable[JsonLine]) -> Iterator[JsonLine]:
    """Group rows of column name and text to dialogues; each has the number of its first row."""
    empty = True
    for (name, _), lines in _grouped(rows):
        empty = False
        first = lines[0]
        if first.issue is None and not any(column in USER_COLUMNS for column in map(str.lower, first.value)):
            yield JsonLine(None, {}, _no_column(list(first.value)))
            return
        broken = [line for line in lines if line.issue is not None]
        if name is not None and _ROUNDED.fullmatch(name):
            broken.append(JsonLine(first.number, {}, _rounded(name)))
        yield from broken
        if not broken:
            turns = [{column.lower(): cell for column, cell in line.value.items()} for line in lines]
            yield JsonLine(first.number, CsvRows({"rows": turns} if name is None else {"id": name, "rows": turns}))
    if empty:
        hint = "one row a turn under the column names"
        yield JsonLine(None, {}, Issue(what="no dialogue: the file has no row", hint=hint))


_ROUNDED = re.compile(r"\d[.,]\d{2,}E\+\d{2}")


def _rounded(name: str) -> Issue:
    what = "an id that a spreadsheet has rounded: several ids may have become this one"
    return Issue(what=what, found=display_json(name), hint="export it again with the column formatted as text")


_Key = tuple[str | None, int | None]


def _grouped(lines: Iterable[JsonLine]) -> Iterator[tuple[_Key, list[JsonLine]]]:
    """Yield the rows of each dialogue; a row of which nothing can be read belongs to the dialogue before it."""
    key: _Key | None = None
    group: list[JsonLine] = []
    for line in lines:
        own = key if not line.value and key is not None else _dialogue_of(line)
        if group and key is not None and own != key:
            yield key, group
            group = []
        key = own
        group.append(line)
    if key is not None:
        yield key, group


def _dialogue_of(line: JsonLine) -> _Key:
    """Return the id of a row; a row without one is a dialogue of its own."""
    for column, cell in line.value.items():
        if column.lower() in ID_COLUMNS and cell.strip():
            return cell.strip(), None
    return None, line.number


def _no_column(columns: list[str]) -> Issue:
    hint = "columns: id, turn, user, assistant, tags; `convbatch expand` fills a template from a table of another kind"
    return Issue(what='no column "user"', found=display_json(columns), hint=hint)
