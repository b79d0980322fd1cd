"""`turns.parquet` and `verdicts.parquet` of a run folder: written from the journal, stamped, and rebuilt when stale."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO

import orjson

from convbatch.errors import JournalError, Place
from convbatch.journal.index import Archive
from convbatch.journal.manifest import Manifest
from convbatch.journal.run_folder import RunFolder, shell_quote
from convbatch.results.columns import CONTRACT, TURNS, VERDICTS, Column, Row, row_builder
from convbatch.results.conversations import StoredConversation, stored_conversations
from convbatch.results.parquet import (
    BATCH_ROWS,
    Arrow,
    Rows,
    arrow_table,
    open_writer,
    read_rows,
    read_stamp,
    row_groups,
    schema,
)
from convbatch.results.rows import StoredVerdict, judged_conversations, to_json

_MARK = b"convbatch.journal"
_VERSION = b"convbatch.contract"
DAMAGED_PLACES = b"convbatch.damaged_places"
SUSPENDED = b"convbatch.parked"
CLOSED = b"convbatch.closed"
"""Checksum of a journal without damage that a session closed, and the version that ran the session."""
_CHECKS = b"convbatch.checks"
_TARGETS = b"convbatch.targets"
_SHARED_MEMORY = Path("/dev/shm")
_CONVERSATION_KEY = ("dialogue_index", "target", "repeat")


def write_turns(folder: RunFolder) -> Path:
    """Write both tables from the journal and evaluate the checks; whole or not at all, in bounded memory.

    Raises:
        JournalError: The disk or memory is full; the journal is intact and any reader can rebuild the tables from it.
    """
    import pyarrow as pa

    try:
        with folder.replacing(folder.turns.name) as file, folder.replacing(folder.verdicts.name) as verdicts:
            _write(folder, folder.read_manifest(), file, verdicts)
    except (MemoryError, pa.ArrowException) as error:
        hint = f"raise the memory limit, then: convbatch table {shell_quote(folder.path)}"
        what = f"the tables could not be written: {str(error) or 'not enough memory'}"
        raise JournalError(what, place=Place(path=str(folder.turns)), hint=hint) from error
    return folder.turns


def is_fresh(folder: RunFolder) -> bool:
    """Return whether both tables match journal, targets and current checks, and have this version's columns."""
    stamp = marks_of(folder, folder.read_manifest())
    tables = ((folder.turns, TURNS), (folder.verdicts, VERDICTS))
    return all(stamp.items() <= _stamp_of(path, columns).items() for path, columns in tables)


def marks_of(folder: RunFolder, manifest: Manifest) -> dict[bytes, bytes]:
    """Return the metadata that fresh tables of this folder have."""
    return {
        _MARK: folder.journal_mark().encode(),
        _VERSION: b"%d" % CONTRACT,
        _CHECKS: folder.checks_mark().encode(),
        _TARGETS: to_json(list(manifest.target_names)).encode(),
    }


def _stamp_of(path: Path, columns: Sequence[Column]) -> dict[bytes, bytes]:
    """Read the metadata of a table file; empty where it does not have these columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            found = pq.read_metadata(file)
            has_columns = found.schema.to_arrow_schema().equals(schema(columns))
    except (OSError, pa.ArrowException):
        return {}
    return (found.metadata or {}) if has_columns else {}


@contextmanager
def turns_file(folder: RunFolder) -> Generator[Path]:
    """Yield a fresh `turns.parquet`: the folder's own, rebuilt if stale, or a temporary one if unwritable."""
    if is_fresh(folder):
        yield folder.turns
        return
    try:
        path = write_turns(folder)
    except JournalError:  # a folder of another user, or a full disk: reading must still work
        with scratch_file(folder, folder.read_manifest()) as path:
            yield path
    else:
        yield path


@contextmanager
def scratch_file(folder: RunFolder, manifest: Manifest) -> Generator[Path]:
    """Write both tables into a temporary directory; yield the path of the `turns.parquet`.

    If that directory has no space either, as on a machine with one disk, shared memory is used where there is any.
    """
    with ExitStack() as stack:
        try:
            path = _write_into(stack, None, folder, manifest)
        except OSError:
            if not _SHARED_MEMORY.is_dir():
                raise
            path = _write_into(stack, _SHARED_MEMORY, folder, manifest)
        yield path


def _write_into(stack: ExitStack, parent: Path | None, folder: RunFolder, manifest: Manifest) -> Path:
    scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="convbatch-", dir=parent))
    path = Path(scratch, folder.turns.name)
    with path.open("wb") as file, verdicts_beside(path).open("wb") as verdicts:
        _write(folder, manifest, file, verdicts)
    return path


def verdicts_beside(turns: Path) -> Path:
    """Return the path of the `verdicts.parquet` that belongs to a `turns.parquet`."""
    return turns.with_name("verdicts.parquet")


def read_conversations(turns: Path, names: Sequence[str]) -> Iterator[tuple[list[Row], list[StoredVerdict]]]:
    """Read both table files conversation by conversation, as `read_with_verdicts`."""
    for rows, verdicts in read_with_verdicts(turns, names, StoredVerdict._fields):
        yield rows, [StoredVerdict(*verdict) for verdict in verdicts]


def read_with_verdicts(
    turns: Path, names: Sequence[str], of_verdicts: Sequence[str], *, only: tuple[str, int] | None = None
) -> Iterator[tuple[list[Row], list[Row]]]:
    """Read both table files conversation by conversation, with one of them in memory at a time.

    Args:
        turns: The `turns.parquet`; its `verdicts.parquet` is beside it.
        names: Columns of the `turns` rows, in the order wanted; `dialogue_index`, `target` and `repeat` among them.
        of_verdicts: Columns of the `verdicts` rows.
        only: As in `read_rows`.
    """
    key = itemgetter(*(names.index(name) for name in _CONVERSATION_KEY))
    verdict_rows = read_rows(verdicts_beside(turns), (*_CONVERSATION_KEY, *of_verdicts), only=only)
    verdicts = groupby(verdict_rows, key=itemgetter(0, 1, 2))
    due = next(verdicts, None)
    for conversation, rows in groupby(read_rows(turns, names, only=only), key=key):
        found: list[Row] = []
        if due is not None and due[0] == conversation:
            found = [row[3:] for row in due[1]]
            due = next(verdicts, None)
        yield list(rows), found


def _write(folder: RunFolder, manifest: Manifest, file: IO[bytes], verdicts: IO[bytes]) -> None:
    marks = marks_of(folder, manifest)  # read first: records appended from here on make the tables stale, never wrong
    with Archive(folder) as archive:
        stamp = {**marks, **findings_of(archive)}
        with open_writer(file, TURNS, stamp) as turn_file, open_writer(verdicts, VERDICTS, marks) as verdict_file:
            write_rows(stored_conversations(folder, manifest, archive), turn_file, verdict_file)


def findings_of(archive: Archive) -> dict[bytes, bytes]:
    """Return the metadata of `turns.parquet` that says what the journal is like."""
    return {
        DAMAGED_PLACES: b"%d" % archive.damage_count,
        SUSPENDED: to_json(archive.suspended).encode(),
        CLOSED: to_json([archive.closed_checksum, archive.last_version]).encode(),
    }


def is_as_it_was_closed(folder: RunFolder, version: str) -> bool:
    """Return whether the journal is, byte for byte, the whole one that a session of this version closed.

    The tables were made of it then, and every line of it was checked.
    """
    found = orjson.loads(read_stamp(folder.turns).get(CLOSED, b"[null,null]"))
    return found[1] == version and found[0] is not None and found[0] == folder.journal_checksum()


def write_rows(conversations: Iterable[StoredConversation], turn_file: Arrow, verdict_file: Arrow) -> None:
    """Write the rows of `turns` and `verdicts` of these conversations, batch by batch."""
    for group in row_groups(Rows(columns=TURNS, rows=_turn_rows(conversations, verdict_file)).batches()):
        turn_file.write_table(group)


def _turn_rows(conversations: Iterable[StoredConversation], verdict_file: Arrow) -> Iterator[Row]:
    """Yield the rows of `turns`; write those of `verdicts` to their file meanwhile, batch by batch."""
    turn_row, verdict_row = row_builder(TURNS), row_builder(VERDICTS)
    verdict_rows: list[Row] = []
    for turns, verdicts in judged_conversations(conversations):
        verdict_rows += map(verdict_row, verdicts)
        if len(verdict_rows) >= BATCH_ROWS:
            verdict_file.write_table(arrow_table(VERDICTS, verdict_rows))
            verdict_rows.clear()
        yield from map(turn_row, turns)
    if verdict_rows:
        verdict_file.write_table(arrow_table(VERDICTS, verdict_rows))
