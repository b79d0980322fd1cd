"""The records of a log file, whatever holds them: JSON lines, a JSON document, CSV, Parquet, a zip archive, YAML.

JSON lines, Parquet and the members of an archive are read one after the other; documents and CSV whole, up to 512 MiB.
Nothing is written: members of an archive are read in memory, so their paths cannot lead anywhere.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from convbatch.dataset.csv_lines import CsvLines, is_csv
from convbatch.dataset.jsonl import (
    MAX_ARRAY_BYTES,
    JsonArray,
    JsonLines,
    RefusedValue,
    excerpt,
    is_one_document,
    open_regular,
)
from convbatch.dataset.logs.archive import archive_entries
from convbatch.dataset.logs.yaml_file import read_yaml
from convbatch.errors import Issue

Holder = Literal["lines", "document", "csv", "parquet", "zip", "yaml"]


class Entry(NamedTuple):
    """One record, or what is wrong with it."""

    value: dict[str, Any]
    line: int | None = None
    part: str | None = None
    issue: Issue | None = None


@dataclass(frozen=True, slots=True)
class LogFile:
    """A log file and what holds its records."""

    path: Path
    holder: Holder

    def entries(self) -> Iterator[Entry]:
        """Yield the records in order."""
        match self.holder:
            case "parquet":
                yield from _parquet(self.path)
            case "zip":
                for name, value in archive_entries(self.path):
                    yield Entry({}, None, name, value) if isinstance(value, Issue) else Entry(value, None, name)
            case "yaml":
                value = read_yaml(self.path)
                yield Entry({}, value.line, None, value) if isinstance(value, Issue) else Entry(value)
            case "document":
                yield from _items(self.path)
            case _:
                is_table = self.holder == "csv"
                for line in CsvLines(self.path, repeated_columns=True) if is_table else JsonLines(self.path):
                    yield Entry(line.value, line.number, None, line.issue)


def _items(path: Path) -> Iterator[Entry]:
    for line in JsonArray(path):
        where = None if line.issue is None else line.issue.line
        yield Entry(line.value, where, None if line.number is None else f"item {line.number}", line.issue)


def open_log(path: Path) -> LogFile:
    """Find out what holds the records of a file.

    Raises:
        RefusedValue: The file is missing, no regular file, or unreadable.
    """
    with open_regular(path) as raw:  # refuses a pipe before it is opened
        head = raw.read(8)
    name = path.name.lower().removesuffix(".gz")
    if head.startswith(b"PK\x03\x04"):
        return LogFile(path, "zip")
    if head.startswith(b"PAR1"):
        return LogFile(path, "parquet")
    if is_csv(path):
        return LogFile(path, "csv")
    if name.endswith((".yaml", ".yml")):
        return LogFile(path, "yaml")
    return LogFile(path, "document" if is_one_document(path) else "lines")


_ROWS = 64


def _parquet(path: Path) -> Iterator[Entry]:
    import pyarrow as pa  # 90 MB: only for this kind of file
    import pyarrow.parquet as pq

    number = 0
    try:
        with open_regular(path) as raw, pq.ParquetFile(raw) as file:
            sizes = [file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups)]
            if max(sizes, default=0) > 4 * MAX_ARRAY_BYTES:
                hint = "write it again with smaller row groups"
                yield Entry({}, issue=Issue(what="a Parquet file with row groups of more than 2 GiB", hint=hint))
                return
            for batch in file.iter_batches(batch_size=_ROWS):
                for row in _without_nanoseconds(pa, batch).to_pylist():
                    number += 1
                    yield Entry(row, None, f"row {number}")
    except RefusedValue as refusal:
        yield Entry({}, issue=refusal.issue)
    except (pa.ArrowException, OSError, ValueError) as error:
        hint = "copy or export it again"
        yield Entry({}, issue=Issue(what="the Parquet file is damaged", found=excerpt(str(error)), hint=hint))


def _without_nanoseconds(pa: Any, batch: Any) -> Any:
    """Return a batch with times that Python can hold, without pandas."""
    columns = [
        column.cast(pa.timestamp("us", tz=column.type.tz), safe=False) if pa.types.is_timestamp(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


READ_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile, OSError)
"""Errors of a file that is cut off or damaged."""
