"""Output files: the registry of formats behind `table -o`, `report -o` and `compare -o`, and the writers of tables.

A command offers its output in parts, a format writes one of them. CSV is made for spreadsheets: it starts with a byte
order mark so that Excel reads Chinese, and a cell that Excel would read as a formula gets an apostrophe in front. JSON
and Parquet carry every value unchanged. What a report or a comparison contains is decided where it is made.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import orjson

from convbatch.errors import Problem, SetupError
from convbatch.journal.run_folder import is_part_of_run
from convbatch.results.parquet import Rows, rows_of, schema
from convbatch.results.xlsx import FORMULA_STARTS, Sheet, meanings, write_workbook

if TYPE_CHECKING:
    import pandas as pd

_QUOTED = frozenset('",\r\n')


Part = Literal["rows", "sheets", "value", "markdown", "junit", "page"]
Content = Mapping[Part, Callable[[], Any]]
"""What a command can write: for each part a function that makes it. `rows` is a table (`Rows` or a frame), `sheets` a
list of `Sheet`, `value` one JSON value, `markdown` the text of a page, `junit` the bytes of JUnit XML, `page` those of
an HTML page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """A file format of `-o`."""

    suffix: str
    doc: str
    writers: Mapping[Part, Callable[[Any, IO[bytes]], object]]
    """By the part of the content that they write; the first part that a command has is used."""


def write_content(content: Content, path: Path) -> None:
    """Write what a command has to a file, in the format of the file name's suffix; whole or not at all.

    Args:
        content: The parts of the output; only the one that the format needs is made.
        path: The file to write; an existing one is replaced.

    Raises:
        SetupError: The suffix is not one of these parts' formats, or the file cannot be written.
    """
    output_format = check_suffix(path, content)
    part = next(filter(content.__contains__, output_format.writers))
    made = content[part]()
    with replacing(path) as file:
        output_format.writers[part](made, file)


def write_files(content: Content, paths: Iterable[Path]) -> None:
    """Write what a command has to each of these files; one that cannot be written does not keep the others from it.

    Raises:
        SetupError: As `write_content`, with every file that could not be written.
    """
    problems: list[Problem] = []
    for path in paths:
        try:
            write_content(content, path)
        except SetupError as error:
            problems += error.problems
    if problems:
        raise SetupError.of(problems)


TABLE_PARTS: tuple[Part, ...] = ("rows", "sheets")
"""What a table can be written as."""


def write_table(table: Rows | pd.DataFrame, path: Path, *, name: str = "rows", row_count: int | None = None) -> None:
    """Write a table, e.g. as `.csv`, `.json`, `.parquet` or `.xlsx`.

    Args:
        table: Rows, or a frame; a named index becomes leading columns.
        path: The file to write; an existing one is replaced.
        name: Of its sheet in a workbook.
        row_count: Of `Rows`, if known.

    Raises:
        SetupError: The suffix is not a table format, or the file cannot be written.
    """
    explained = [meanings(table.columns)] if isinstance(table, Rows) else []
    sheet = Sheet(name=name, table=table, row_count=row_count)
    write_content({"rows": lambda: table, "sheets": lambda: [sheet, *explained]}, path)


def check_suffix(path: Path, parts: Collection[Part]) -> OutputFormat:
    """Return the format of a file name, so that a wrong name is refused before anything is computed.

    Args:
        path: The file to write.
        parts: What the command can write.

    Raises:
        SetupError: None of these parts has a format with this suffix.
    """
    known = {each.suffix: each for each in FORMATS if not each.writers.keys().isdisjoint(parts)}
    found = known.get(path.suffix.lower())
    several = re.split(r"\s*[,，;；]\s*", path.name)
    if len(several) > 1 and all(Path(name).suffix.lower() in known for name in several):
        hint = f"repeat the option: {' '.join(f'-o {path.parent / name}' for name in several)}"
        raise SetupError(f"-o names one file, not {path.name!r}", hint=hint)
    if found is None:
        raise SetupError(
            f"cannot tell the format of {path}",
            found=path.suffix or "no ending",
            hint="known: " + ", ".join(sorted(known)),  # no nearest one: .html and .xml are not alike
        )
    return found


def check_files(paths: Iterable[Path], parts: Collection[Part], *, run_folder: Path | None = None) -> None:
    """Refuse files that could not be written, before anything is sent or computed.

    Args:
        paths: The files to write.
        parts: What the command can write.
        run_folder: A folder that the command is going to make.

    Raises:
        SetupError: An unknown suffix, a folder in the file's place, or a folder that is absent or cannot be written.
    """
    for path in paths:
        check_suffix(path, parts)
        _refuse_part_of_run(path, run_folder)
        if run_folder is not None and path.parent == run_folder:
            continue
        if not path.parent.is_dir():
            raise SetupError(f"cannot write {path}: there is no folder {path.parent}", hint="make the folder first")
        if path.is_dir():
            raise SetupError(f"cannot write {path}: it is a folder", hint="name another file with -o")
        if _is_stream(path):
            continue
        draft = _draft_of(path)
        with _naming(path):
            draft.unlink(missing_ok=True)
            draft.open("xb").close()
            draft.unlink()


@contextlib.contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """Open a file that gets its name only when it is complete; a failure leaves nothing behind.

    A device or a pipe, such as /dev/stdout, is written as it is: a file in its place would break it for every program.

    Raises:
        SetupError: The file cannot be written.
    """
    _refuse_part_of_run(path)
    if _is_stream(path):
        with _naming(path), path.open("wb") as stream:
            yield stream
        return
    draft = _draft_of(path)
    try:
        with _naming(path):
            draft.unlink(
                missing_ok=True
            )  # left by a process that was killed; also, a link planted there is not followed
            with draft.open("xb") as file:
                yield file
            draft.replace(path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def _refuse_part_of_run(path: Path, new_run: Path | None = None) -> None:
    """Refuse a file that a run needs: its replies are paid for, and no report may replace them."""
    if is_part_of_run(path, new_run):
        raise SetupError(f"cannot write {path}: it is part of the run in this folder", hint="name another file with -o")


def _is_stream(path: Path) -> bool:
    """Whether there is a device, a pipe or a socket. Links are followed in /dev only, where /dev/stdout is one."""
    is_device = path.absolute().parent in (Path("/dev"), Path("/dev/fd"))
    if path.is_symlink() and not is_device:
        return False
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or (is_device and path.is_symlink())


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.new")


@contextlib.contextmanager
def _naming(path: Path) -> Generator[None]:
    """Turn an error of the disk into one that names the file."""
    try:
        yield
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror or error}", hint="name another file with -o") from error


def csv_lines(rows: Rows) -> Iterator[str]:
    """Yield a table as CSV lines, header first. Null is an empty cell, an empty text is `""`."""
    yield ",".join(_quoted(_escape_formula(column.name)) for column in rows.columns) + "\n"
    for row in rows.rows:
        yield ",".join(map(_cell, row)) + "\n"


def json_bytes(value: Any) -> bytes:
    """Return a value as indented JSON with a newline at the end; times are UTC."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)


def _write_csv(table: Rows | pd.DataFrame, file: IO[bytes]) -> None:
    file.write(b"\xef\xbb\xbf")
    for line in csv_lines(rows_of(table)):
        file.write(line.encode())


def _write_json_rows(table: Rows | pd.DataFrame, file: IO[bytes]) -> None:
    rows = rows_of(table)
    names = [column.name for column in rows.columns]
    opening = b"[\n"
    for row in rows.rows:
        file.write(opening + orjson.dumps(dict(zip(names, row, strict=True)), option=orjson.OPT_UTC_Z))
        opening = b",\n"
    file.write(b"[]\n" if opening == b"[\n" else b"\n]\n")


def _write_parquet(table: Rows | pd.DataFrame, file: IO[bytes]) -> None:
    import pyarrow.parquet as pq

    rows = rows_of(table)
    with pq.ParquetWriter(file, schema(rows.columns), compression="zstd") as writer:
        for batch in rows.batches():
            writer.write_table(batch)


FORMATS = (
    OutputFormat(suffix=".csv", doc="a table for spreadsheets", writers={"rows": _write_csv}),
    OutputFormat(
        suffix=".html",
        doc="one self-contained page for a browser",
        writers={"page": lambda page, file: file.write(page)},
    ),
    OutputFormat(
        suffix=".json",
        doc="everything as one JSON value; a table as a list of objects",
        writers={"value": lambda value, file: file.write(json_bytes(value)), "rows": _write_json_rows},
    ),
    OutputFormat(
        suffix=".md",
        doc="a Markdown page, e.g. for a pull request",
        writers={"markdown": lambda page, file: file.write(page.encode())},
    ),
    OutputFormat(suffix=".parquet", doc="a table with its types", writers={"rows": _write_parquet}),
    OutputFormat(
        suffix=".xlsx", doc="a workbook for Excel, a sheet for each table", writers={"sheets": write_workbook}
    ),
    OutputFormat(suffix=".xml", doc="JUnit XML for CI", writers={"junit": lambda suite, file: file.write(suite)}),
)
"""Every format of `table -o`, `report -o` and `compare -o`."""


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
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def _quoted(text: str) -> str:
    if text and _QUOTED.isdisjoint(text):
        return text
    return '"' + text.replace('"', '""') + '"'
