"""Read dialogues from rows of turns, as in a CSV file; rows with the same id that follow each other are a dialogue.

The columns and what they mean are in `formats/csv_turns.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from convbatch.dataset.csv_lines import CsvLines
from convbatch.dataset.jsonl import JsonLine, display_json
from convbatch.errors import Issue

ID_COLUMNS = ("id", "dialogue_id", "dialog_id", "conversation_id", "question_id")
USER_COLUMNS = ("user", "content", "question", "prompt")


class CsvRows(dict[str, Any]):
    """The rows of one dialogue, as `rows`; a class of its own, so that no JSON line is taken for it."""


class CsvDialogues:
    """Iterates over the dialogues of one file; has the interface of `JsonLines`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = CsvLines(path)

    @property
    def consumed(self) -> int:
        """Bytes read."""
        return self._lines.consumed

    @property
    def blank_lines(self) -> int:
        """Rows without any text, which are skipped."""
        return self._lines.blank_lines

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
        yield from broken
        if not broken:
            turns = [{column.lower(): cell for column, cell in line.value.items()} for line in lines]
            yield JsonLine(first.number, CsvRows({"rows": turns} if name is None else {"id": name, "rows": turns}))
    if empty:
        hint = "one row a turn under the column names"
        yield JsonLine(None, {}, Issue(what="no dialogue: the file has no row", hint=hint))


_Key = tuple[str | None, int | None]


def _grouped(lines: Iterable[JsonLine]) -> Iterator[tuple[_Key, list[JsonLine]]]:
    """Yield the rows of each dialogue; a row that cannot be read belongs to the dialogue before it."""
    key: _Key | None = None
    group: list[JsonLine] = []
    for line in lines:
        own = key if line.issue is not None and key is not None else _dialogue_of(line)
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
