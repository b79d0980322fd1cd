"""Dialogues given as Python values, a list of dictionaries or a pandas frame, read as the lines of a file are.

Every value becomes a line of strict JSON first: it is copied, and what a file may not hold is refused here as well.
pandas is not imported.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from convbatch.dataset.csv_dialogues import turn_rows_to_dialogues
from convbatch.dataset.formats.registry import detect
from convbatch.dataset.jsonl import JsonLine, excerpt, parse_line
from convbatch.dialogue import Dialogue
from convbatch.errors import Issue, Place, SetupError

NAME = "dataset"
"""Name of the parameter of `convbatch.run`; dialogues without an id are `dataset:0`, `dataset:1` …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InMemoryDataset:
    """Dialogues, or the rows of a frame with one row a turn, in the order given."""

    lines: tuple[bytes | Issue, ...]
    is_turn_rows: bool = False
    """One row a turn, as in a CSV file."""
    expression: str = NAME
    """What is indexed in messages: `dataset[12]`, or `dataset.iloc[12]` for a frame."""
    name: str = NAME
    """What a run folder is named after."""
    places: tuple[Place, ...] = ()
    """Where each dialogue comes from, if it is known; else its index."""
    folders: tuple[Path, ...] = ()
    """What the paths of each dialogue's media are relative to; else the working directory."""

    @property
    def label(self) -> str:
        """Name in notes and in `run.json`; not the name of a file."""
        return f"{self.name} (in memory)"

    @property
    def size(self) -> int:
        """Bytes of all lines."""
        return sum(len(line) for line in self.lines if isinstance(line, bytes))

    @property
    def sha256(self) -> str:
        """Digest of all lines."""
        return hashlib.sha256(b"\n".join(line for line in self.lines if isinstance(line, bytes))).hexdigest()


DatasetSource: TypeAlias = Path | InMemoryDataset


class InMemoryLines:
    """Iterates over the dialogues of an `InMemoryDataset`; has the interface of `JsonLines`. Numbers are from 0."""

    def __init__(self, dataset: InMemoryDataset) -> None:
        self.consumed = 0
        self.blank_lines = 0
        self._dataset = dataset

    def __iter__(self) -> Iterator[JsonLine]:
        if not self._dataset.lines:
            hint = 'a dialogue is {"turns": [{"user": "…"}]}'
            yield JsonLine(None, {}, Issue(what="the dataset is empty", hint=hint))
        elif self._dataset.is_turn_rows:
            yield from turn_rows_to_dialogues(self._rows())
        else:
            yield from self._rows()

    def _rows(self) -> Iterator[JsonLine]:
        for index, line in enumerate(self._dataset.lines):
            yield JsonLine(index, {}, line) if isinstance(line, Issue) else parse_line(index, line)


def in_memory_dataset(value: Any) -> InMemoryDataset | None:
    """Return the dialogues that a value holds; None when it is paths of files.

    Args:
        value: A path, a dialogue, a frame, or a sequence: an iterator would be used up here.

    Raises:
        SetupError: It is neither, or a mixture of both.
    """
    if isinstance(value, str | Path):
        return None
    if isinstance(value, bytes | bytearray):
        raise _not_a_dataset(value)
    if hasattr(value, "iloc") and hasattr(value, "columns"):
        return _of_frame(value)
    if isinstance(value, Mapping | Dialogue):
        return InMemoryDataset(lines=(_to_line(value),))
    if not isinstance(value, Sequence):
        raise _not_a_dataset(value)
    items = list(value)
    paths = sum(isinstance(item, str | Path) for item in items)
    if paths == len(items) and items:
        return None
    if paths:
        raise SetupError(
            "dataset= holds both names of files and dialogues",
            found=f"{paths} of {len(items)} items are names of files",
            hint="run them one after the other, or read the files into dictionaries",
        )
    if (strange := next((item for item in items if not isinstance(item, Mapping | Dialogue | list)), None)) is not None:
        raise _not_a_dataset(strange)
    return InMemoryDataset(lines=tuple(map(_to_line, items)))


def _not_a_dataset(value: Any) -> SetupError:
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return SetupError(
        f"dataset= does not take a value of the type {module}{kind.__qualname__}",
        hint="a path, several paths, a Dataset, a list of dictionaries, or a frame of pandas, polars or Arrow",
    )


def _of_frame(frame: Any) -> InMemoryDataset:
    """Return the rows of a pandas frame."""
    columns = [str(name) for name in frame.columns]
    refuse_twice(columns)
    rows = [{str(name): cell for name, cell in row.items()} for row in frame.to_dict("records")]
    return of_rows(rows, f"{NAME}.iloc")


def refuse_twice(columns: Sequence[str]) -> None:
    """Refuse a frame with two columns of one name.

    Raises:
        SetupError: It has.
    """
    if (twice := next((name for name in columns if columns.count(name) > 1), None)) is not None:
        raise SetupError(f"dataset= has two columns named {twice!r}", hint="each column has a name of its own")


def of_rows(rows: Sequence[Mapping[str, Any]], expression: str) -> InMemoryDataset:
    """Return the rows of a frame: each a dialogue if its columns have a known format, else a turn."""
    records = [
        {name: _cell_text(cell) if name == "id" else cell for name, cell in row.items() if not _is_missing(cell)}
        for row in rows
    ]
    is_turn_rows = bool(rows) and all(detect(_as_lists(record)) is None for record in records[:1])
    if is_turn_rows:
        records = [{name: _cell_text(cell) for name, cell in row.items()} for row in rows]
    lines = tuple(map(_to_line, records))
    return InMemoryDataset(lines=lines, is_turn_rows=is_turn_rows, expression=expression)


def _is_missing(cell: Any) -> bool:
    """Whether a cell is None, NaN, NaT or NA: the values that are not equal to themselves."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return True
    return type(cell).__name__ in ("NAType", "NaTType")


def _as_lists(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _to_json_type(cell) if hasattr(cell, "tolist") else cell for name, cell in record.items()}


def _cell_text(cell: Any) -> str:
    """Return the text that a cell would have in a CSV file."""
    if _is_missing(cell):
        return ""
    if hasattr(cell, "tolist"):
        cell = cell.tolist()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))  # a column of whole numbers with gaps is one of floats
    return ";".join(map(str, cell)) if isinstance(cell, list | tuple | set) else str(cell)


_NOT_FINITE = "NaN or infinite (for a value that is missing write None)"


def _to_line(value: Any) -> bytes | Issue:
    if isinstance(value, Dialogue):
        value = value.to_plain()
    elif isinstance(value, list):
        value = {"messages": value}
    try:
        return json.dumps(dict(value), allow_nan=False, default=_to_json_type).encode()
    except RecursionError:
        return Issue(what="nested too deeply")
    except (TypeError, ValueError) as error:
        return Issue(
            what=f"not a JSON value: {_NOT_FINITE if 'JSON compliant' in str(error) else error}",
            found=excerpt(repr(value)),
            hint="texts, numbers, true, false, null, lists and dictionaries",
        )


def _to_json_type(value: Any) -> Any:
    """Return a numpy value as a plain one, and a mapping or sequence of another class as a plain one."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # whatever is in it
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # whatever is in it
    raise TypeError(f"a value of the type {type(value).__name__}")
