"""Tables as Arrow and Parquet: rows are written and read in batches, so memory does not grow with the run.

pandas is imported only to make a frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import orjson

from convbatch.errors import Place, SetupError
from convbatch.journal.run_folder import shell_quote
from convbatch.results.columns import Column, Dtype, Row

if TYPE_CHECKING:
    import pandas as pd

Arrow: TypeAlias = Any
"""A pyarrow object: its classes are not typed."""
BATCH_ROWS = 2048
BATCH_CHARS = 8 * 2**20
"""A batch ends at whichever comes first."""
GROUP_ROWS = 8 * BATCH_ROWS
GROUP_BYTES = 2 * BATCH_CHARS
"""A row group of a file ends with the batch that reaches one of them."""
_PANDAS: Mapping[Dtype, str] = {
    "string": "string",
    "Int64": "Int64",
    "Float64": "Float64",
    "boolean": "boolean",
    "list[string]": "object",
    "timestamp[us, UTC]": "datetime64[us, UTC]",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A table as a stream: its columns, and rows that can be read once."""

    columns: Sequence[Column]
    rows: Iterator[Row]

    def batches(self) -> Iterator[Arrow]:
        """Yield the rows as Arrow tables, each bounded in rows and in text."""
        for rows in _bounded(self.columns, self.rows):
            yield arrow_table(self.columns, rows)
            rows.clear()  # frees them before the next ones are read

    def frame(self) -> pd.DataFrame:
        """Return all rows as a pandas frame."""
        import pyarrow as pa

        return _to_frame(pa.concat_tables([schema(self.columns).empty_table(), *self.batches()]))


def schema(columns: Sequence[Column], metadata: Mapping[bytes, bytes] | None = None) -> Arrow:
    """Return the Arrow schema of a table, with the metadata by which `pandas.read_parquet` finds the dtypes."""
    import pyarrow as pa

    described = [
        {"name": c.name, "field_name": c.name, "pandas_type": c.dtype, "numpy_type": _PANDAS[c.dtype], "metadata": None}
        for c in columns
    ]
    plain = {"index_columns": [], "column_indexes": [], "columns": described, "pandas_version": "2.0.0"}
    fields = [pa.field(column.name, _arrow_type(column.dtype)) for column in columns]
    return pa.schema(fields, metadata={b"pandas": orjson.dumps(plain), **(metadata or {})})


def read_rows(path: Path, names: Sequence[str], *, only: tuple[str, int] | None = None) -> Iterator[Row]:
    """Read columns of a table file row by row, with one row group in memory at a time.

    Args:
        path: The file.
        names: Columns, in the order wanted.
        only: An integer column and the value its rows must have; row groups without the value are not read.
    """
    import pyarrow.parquet as pq

    read = list(names) if only is None else [*names, only[0]]
    with _open_table(path) as opened, pq.ParquetFile(opened, page_checksum_verification=True) as file:
        groups = range(file.num_row_groups) if only is None else _groups_with(file, *only)
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=list(groups), columns=list(set(read))):
            rows = zip(*(_cells(batch.column(name)) for name in read), strict=True)
            yield from rows if only is None else (row[:-1] for row in rows if row[-1] == only[1])


def read_batches(path: Path, columns: Sequence[Column]) -> Arrow:
    """Return a `pyarrow.RecordBatchReader` of a table file, with one row group in memory at a time."""
    import pyarrow as pa

    def batches() -> Iterator[Arrow]:
        import pyarrow.parquet as pq

        with _open_table(path) as opened, pq.ParquetFile(opened, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                yield batch.cast(bare)

    bare = schema(columns).remove_metadata()
    return pa.RecordBatchReader.from_batches(bare, batches())


def batch_reader(rows: Rows) -> Arrow:
    """Return a `pyarrow.RecordBatchReader` of rows, with one batch in memory at a time."""
    import pyarrow as pa

    bare = schema(rows.columns).remove_metadata()
    batches = (batch for table in rows.batches() for batch in table.cast(bare).to_batches())
    return pa.RecordBatchReader.from_batches(bare, batches)


def count_values(path: Path, name: str) -> Counter[str | None]:
    """Count the values of a column of texts, with one row group in memory at a time."""
    import pyarrow.parquet as pq

    found: Counter[str | None] = Counter()
    with _open_table(path) as opened, pq.ParquetFile(opened, page_checksum_verification=True) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[name]):
            for pair in batch.column(0).value_counts().to_pylist():
                found[pair["values"]] += pair["counts"]
    return found


def row_groups(batches: Iterable[Arrow]) -> Iterator[Arrow]:
    """Join batches to row groups: a reader holds what the footer says of every group."""
    import pyarrow as pa

    held: list[Arrow] = []
    for batch in batches:
        held.append(batch)
        if sum(one.num_rows for one in held) >= GROUP_ROWS or sum(one.nbytes for one in held) >= GROUP_BYTES:
            yield pa.concat_tables(held)
            held.clear()
    if held:
        yield pa.concat_tables(held)


def count_rows(path: Path) -> int:
    """Count the rows of a table file."""
    import pyarrow.parquet as pq

    with _open_table(path) as file:
        return pq.read_metadata(file).num_rows


def read_frame(path: Path) -> pd.DataFrame:
    """Read a whole table file as a pandas frame."""
    import pyarrow.parquet as pq

    with _open_table(path) as file:
        return _to_frame(pq.read_table(file, page_checksum_verification=True))


def read_stamp(path: Path) -> dict[bytes, bytes]:
    """Read the metadata of a table file."""
    import pyarrow.parquet as pq

    with _open_table(path) as file:
        return pq.read_metadata(file).metadata or {}


@contextmanager
def _open_table(path: Path) -> Generator[IO[bytes]]:
    """Open a table file and report damage as SetupError; yield a handle because pyarrow treats paths as URIs."""
    import pyarrow as pa

    try:
        with path.open("rb") as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise SetupError(
            "the table cannot be read",
            place=Place(path=str(path)),
            found=str(error).strip().split("\n")[0][:200],
            hint=f"remove it; the next command rebuilds it from the journal: rm {shell_quote(path)}",
        ) from error


def _cells(array: Arrow) -> list[Any]:
    import pyarrow as pa

    if not pa.types.is_timestamp(array.type):
        return array.to_pylist()
    # pyarrow's own conversion to datetime imports pandas.
    ticks = array.cast(pa.int64()).to_pylist()
    return [None if tick is None else _EPOCH + timedelta(microseconds=tick) for tick in ticks]


def _groups_with(file: Arrow, name: str, value: int) -> Iterator[int]:
    place = file.schema_arrow.get_field_index(name)
    for number in range(file.num_row_groups):
        found = file.metadata.row_group(number).column(place).statistics
        if found is None or found.min <= value <= found.max:
            yield number


def open_writer(file: IO[bytes], columns: Sequence[Column], stamp: Mapping[bytes, bytes]) -> Arrow:
    """Open a Parquet writer for these columns, with `stamp` as the file's metadata."""
    import pyarrow.parquet as pq

    return pq.ParquetWriter(
        file,
        schema(columns, stamp),
        compression="zstd",
        write_page_checksum=True,
        write_statistics=[column.name for column in columns if not column.is_long],  # pyright: ignore[reportArgumentType]  # names are accepted, its stub has only bool
    )


def _bounded(columns: Sequence[Column], rows: Iterable[Row]) -> Iterator[list[Row]]:
    long = [number for number, column in enumerate(columns) if column.is_long and column.dtype == "string"]
    batch: list[Row] = []
    chars = 0
    for row in rows:
        batch.append(row)
        for number in long:
            chars += len(row[number] or "")
        if len(batch) >= BATCH_ROWS or chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _arrow_type(dtype: Dtype) -> Arrow:
    import pyarrow as pa

    return {
        "string": pa.string(),
        "Int64": pa.int64(),
        "Float64": pa.float64(),
        "boolean": pa.bool_(),
        "list[string]": pa.list_(pa.string()),
        "timestamp[us, UTC]": pa.timestamp("us", tz="UTC"),
    }[dtype]


def arrow_table(columns: Sequence[Column], rows: Sequence[Row]) -> Arrow:
    """Convert rows to Arrow through JSON: `pa.array` would import pandas, which takes two seconds and 80 MB."""
    import pyarrow as pa

    try:
        return _parsed(columns, rows)
    except (TypeError, pa.ArrowException):
        # Gateways have sent both: a meaningless count beyond 64 bits, and a lone surrogate, which has no UTF-8.
        return _parsed(columns, [tuple(map(_encodable, row)) for row in rows])


def _parsed(columns: Sequence[Column], rows: Sequence[Row]) -> Arrow:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    names = [column.name for column in columns]
    text = bytearray()  # no list of lines: each keeps the buffer orjson allocated for it, ten times its length
    for row in rows:
        cells = {name: cell for name, cell in zip(names, row, strict=True) if cell is not None}
        text += orjson.dumps(cells, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
    reading = arrow_json.ReadOptions(use_threads=False, block_size=len(text) + 1)
    parsing = arrow_json.ParseOptions(explicit_schema=schema(columns), unexpected_field_behavior="error")
    return arrow_json.read_json(pa.BufferReader(text), read_options=reading, parse_options=parsing)


def _encodable(cell: Any) -> Any:
    if isinstance(cell, str):
        return cell.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(cell, int) and not -(2**63) <= cell < 2**63:
        return None
    return cell


def _to_frame(table: Arrow) -> pd.DataFrame:
    """Convert an Arrow table to a pandas frame with nullable dtypes, and lists as objects.

    pandas writes a column of `ArrowDtype` lists to Parquet but cannot read it again.
    """
    import pandas as pd
    import pyarrow as pa

    nullable = {pa.int64(): pd.Int64Dtype(), pa.float64(): pd.Float64Dtype(), pa.bool_(): pd.BooleanDtype()}

    def dtype(kind: Arrow) -> Any:
        if pa.types.is_string(kind):
            return pd.StringDtype()
        return nullable.get(kind)

    frame = table.replace_schema_metadata(None).to_pandas(types_mapper=dtype)
    for field in table.schema:
        if pa.types.is_list(field.type):
            frame[field.name] = pd.Series(table.column(field.name).to_pylist(), index=frame.index, dtype=object)
    return frame


def rows_of(frame: Rows | pd.DataFrame) -> Rows:
    """Return a table as rows; a named index becomes leading columns."""
    if isinstance(frame, Rows):
        return frame
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
