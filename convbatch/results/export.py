"""A table as a file for other programs: CSV, JSON or Parquet.

CSV is made for spreadsheets: a byte order mark so that Excel reads Chinese, and cells that Excel would take for a
formula held down with an apostrophe. JSON and Parquet carry every value unchanged. Which columns there are is
`run.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from convbatch.errors import SetupError, did_you_mean
from convbatch.results.columns import Column, Dtype
from convbatch.results.parquet import Arrow, Rows, schema

if TYPE_CHECKING:
    import pandas as pd

# The characters OWASP names for CSV injection, full-width forms included: spreadsheets in Chinese take them, too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_QUOTED = frozenset('",\r\n')


def write_table(table: Rows | pd.DataFrame, path: Path) -> None:
    """Write a table in the form its file name asks for: `.csv`, `.json` or `.parquet`; whole or not at all.

    Args:
        table: Rows, or a frame; a named index goes out as leading columns.
        path: The file to write; an older one is replaced.

    Raises:
        SetupError: Another ending, or the place cannot be written.
    """
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise SetupError(
            f"cannot tell the format of {path}",
            found=path.suffix or "no ending",
            hint=did_you_mean(path.suffix, _WRITERS),
        )
    rows = table if isinstance(table, Rows) else _rows_of(table)
    with replacing(path) as file:
        write(rows, file)


@contextlib.contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """A file that takes its name when it is whole, and leaves nothing behind when it does not get so far.

    Raises:
        SetupError: The place cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        draft.unlink(missing_ok=True)  # of a process that is gone; and a link that somebody laid there is not followed
        with draft.open("xb") as file:
            yield file
        draft.replace(path)
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror or error}", hint="name another file with -o") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def csv_lines(rows: Rows) -> Iterator[str]:
    """The table as CSV lines, header first. Null is an empty cell, an empty text is `""`."""
    yield ",".join(_quoted(_escape_formula(column.name)) for column in rows.columns) + "\n"
    for row in rows.rows:
        yield ",".join(map(_cell, row)) + "\n"


def _write_csv(rows: Rows, file: IO[bytes]) -> None:
    file.write(b"\xef\xbb\xbf")
    for line in csv_lines(rows):
        file.write(line.encode())


def _write_json(rows: Rows, file: IO[bytes]) -> None:
    names = [column.name for column in rows.columns]
    opening = b"[\n"
    for row in rows.rows:
        file.write(opening + orjson.dumps(dict(zip(names, row, strict=True)), option=orjson.OPT_UTC_Z))
        opening = b",\n"
    file.write(b"[]\n" if opening == b"[\n" else b"\n]\n")


def _write_parquet(rows: Rows, file: IO[bytes]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, schema(rows.columns), compression="zstd") as writer:
        for batch in rows.batches():
            writer.write_table(batch)


_WRITERS: dict[str, Callable[[Rows, IO[bytes]], None]] = {
    ".csv": _write_csv,
    ".json": _write_json,
    ".parquet": _write_parquet,
}


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return _quoted(_escape_formula(value))
        case bool():
            return "true" if value else "false"
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        case list():
            return _quoted(_escape_formula(json.dumps(value, ensure_ascii=False)))
        case _:
            return str(value)


def _escape_formula(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _quoted(text: str) -> str:
    if text and _QUOTED.isdisjoint(text):
        return text
    return '"' + text.replace('"', '""') + '"'


def _rows_of(frame: pd.DataFrame) -> Rows:
    import pyarrow as pa

    flat = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
    table = pa.Table.from_pandas(flat, preserve_index=False)
    columns = [Column(field.name, _dtype(field.type), "") for field in table.schema]
    table = table.cast(schema(columns))
    cells = [column.to_pylist() for column in table.columns]
    return Rows(columns=columns, rows=zip(*cells, strict=True))


def _dtype(kind: Arrow) -> Dtype:
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "Int64"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "Float64"
    if pa.types.is_timestamp(kind):
        return "timestamp[us, UTC]"
    return "list[string]" if pa.types.is_list(kind) or pa.types.is_large_list(kind) else "string"
