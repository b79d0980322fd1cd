"""The canonical copy of a run's dialogues: written once when the run is prepared, read by every later command.

Which dialogues a run takes is `selection.py`; how a dialogue is read and validated is `reader.py` and `schema.py`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import orjson

from convbatch.checks.values import COMPARES_TARGETS, NEEDS_A_JUDGE, Check, parse_check
from convbatch.dataset.in_memory import DatasetSource, InMemoryDataset
from convbatch.dataset.jsonl import encode_json_line
from convbatch.dataset.media_files import FOLDER, MediaSpool, with_sizes
from convbatch.dataset.reader import Located, Problems, ProgressCallback, Reader, count_of
from convbatch.dataset.selection import Selection, SelectionFilter, draw_sample, output_error
from convbatch.dialogue import Dialogue, HistoryMode
from convbatch.errors import InputError, Issue, Place, Problem
from convbatch.system import Disk

PLACES_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A dataset file at the time when it was read."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """Properties of a copy that `write_copy` has written."""

    dialogues: int
    asked_turns: int
    """Rows for one target and repeat."""
    checks: int
    """Checks that are evaluated under this history mode."""
    judges_needed: int
    preferences: int
    """`prefer` checks, which are not among `checks`."""
    """How many of them need a judge."""
    python_checks: tuple[str, ...]
    """Entry points that `python` checks name."""
    sha256: str
    """Digest of the uncompressed canonical lines: equal for equal dialogues, independent of their format."""
    sources: tuple[Source, ...]
    dialogues_read: int
    blank_lines: int
    notes: tuple[str, ...] = ()
    """On keys that are not sent and on unfilled placeholders."""


def write_copy(
    sources: Sequence[DatasetSource],
    selection: Selection,
    out: Path,
    history: HistoryMode,
    *,
    refuse: Callable[[Dialogue, Dialogue], Iterable[Issue]] | None = None,
    on_progress: ProgressCallback | None = None,
    disk: Disk | None = None,
) -> CopyReport:
    """Validate all files and write the selected dialogues, in one pass; in two where a sample is drawn.

    The content of their media is written into `media/` beside `out`.

    Args:
        sources: Dataset files, or dialogues in memory.
        selection: Which dialogues to write.
        out: The gzip file to write; must not exist. Equal dialogues give equal bytes.
        history: Determines which turns are asked and where a scripted reply is required.
        refuse: Takes a dialogue with kept media, and as it was read; returns what a target does not take of it.
        on_progress: As in `scan`.
        disk: File operations of the run folder.

    Raises:
        InputError: A file has problems, or nothing is selected; `out` is removed.
        SetupError: `out` cannot be written.
    """
    disk = disk or Disk()
    found = (item.dialogue for item in Reader(sources) if isinstance(item, Located))
    selected = SelectionFilter(selection, draw_sample(selection, found))
    reader = Reader(sources, on_progress=on_progress)
    try:
        copy = _CanonicalFile(_DiskFile(disk, out))
    except OSError as error:
        raise output_error(out, error) from None
    try:
        with copy:
            rules = _Rules(history, refuse or (lambda _kept, _read: ()), MediaSpool(out.parent / FOLDER))
            with contextlib.ExitStack() as stack:
                order = selection.shuffle
                shuffled = None if order is None else stack.enter_context(_Shuffled(order))
                _write_selected(copy if shuffled is None else shuffled, reader, selected, rules)
                for dialogue in shuffled or ():
                    copy.write(dialogue, history)
    except OSError as error:
        out.unlink(missing_ok=True)
        raise output_error(out, error) from None
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return CopyReport(
        dialogues=copy.dialogues,
        asked_turns=copy.asked_turns,
        checks=copy.checks,
        judges_needed=copy.judges_needed,
        preferences=copy.preferences,
        python_checks=tuple(sorted(copy.python_checks)),
        sha256=copy.sha256.hexdigest(),
        sources=tuple(fingerprint_source(source) for source in sources),
        dialogues_read=selected.seen,
        blank_lines=reader.blank_lines,
        notes=(*reader.notes, *selected.notes()),
    )


class _Rules(NamedTuple):
    """What decides how a selected dialogue is written."""

    history: HistoryMode
    refuse: Callable[[Dialogue, Dialogue], Iterable[Issue]]
    media: MediaSpool


def _write_selected(copy: _CanonicalFile | _Shuffled, reader: Reader, selected: SelectionFilter, rules: _Rules) -> None:
    """Write the selected dialogues; raise `InputError` with all problems of all dialogues at the end."""
    problems, gaps = Problems(), _MissingReplies(rules.history)
    for item in reader:
        if isinstance(item, Problem):
            problems.add(item)
        elif selected.takes(item.dialogue):
            gaps.look(item)
            dialogue, issues = rules.media.keep(item.dialogue, item.folder)
            problems.extend(map(item.problem, issues or rules.refuse(dialogue, item.dialogue)))
            copy.write(dialogue, rules.history)
    if not problems:
        problems.extend(selected.problems(reader))
        problems.extend(gaps.problems())
    problems.raise_any()


_STORED = f'"{FOLDER}/'.encode()


def read_copy(path: Path, *, with_key: str | None = None, with_media: bool = False) -> Iterator[tuple[int, Dialogue]]:
    """Yield the dialogues of a canonical copy with their index from 0; trusts its content.

    Args:
        path: The copy.
        with_key: Only dialogues whose line contains this key (or a text equal to it); other lines are not decoded.
        with_media: Only dialogues whose line may name content in `media/`.

    Raises:
        InputError: The copy is missing or damaged.
    """
    index = 0
    mark = _STORED if with_media else b"" if with_key is None else f'"{with_key}"'.encode()
    try:
        with gzip.open(path, "rb") as lines:
            for line in lines:
                if mark in line:
                    dialogue = Dialogue.from_plain(orjson.loads(line))
                    yield index, with_sizes(dialogue, path.parent) if _STORED in line else dialogue
                index += 1
        if index == 0:
            raise EOFError("the file is empty")
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise _unreadable_copy(path, index + 1, error) from None


def _unreadable_copy(path: Path, line: int | None, error: Exception) -> InputError:
    return InputError(
        "the run's own copy of its dataset cannot be read",
        place=Place(path=str(path), line=line),
        found=str(error)[:200],
        hint=_copy_hint(path),
    )


def _copy_hint(path: Path) -> str:
    if path.name.startswith("checks"):
        return "remove it to use the checks of the start of the run, or replace it: convbatch check RUN --dataset FILE"
    return "start a new run from the original dataset with --reuse and this run's folder"


def copy_digest(path: Path) -> str:
    """Return the digest of a copy's lines, as in `CopyReport.sha256`.

    Raises:
        InputError: The copy is missing or damaged.
    """
    try:
        with gzip.open(path, "rb") as lines:
            return hashlib.file_digest(lines, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]  # GzipFile reads like a binary file
    except (OSError, EOFError, ValueError) as error:
        raise _unreadable_copy(path, None, error) from None


def fingerprint_source(source: DatasetSource) -> Source:
    """Return size and digest of a file, to detect later changes, or of dialogues in memory."""
    if isinstance(source, InMemoryDataset):
        return Source(path=source.label, size=source.size, sha256=source.sha256)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Source(path=str(source), size=os.fstat(file.fileno()).st_size, sha256=digest)


class _MissingReplies:
    """Collects turns without a scripted reply that the history mode requires."""

    def __init__(self, history: HistoryMode) -> None:
        self._history = history
        self._turns = 0
        self._dialogues = 0
        self._places: list[str] = []

    def look(self, item: Located) -> None:
        if self._history == "live":
            return
        dialogue = item.dialogue
        last = dialogue.asked("last")[-1]
        missing = [n for n, turn in enumerate(dialogue.turns[: last - 1], 1) if turn.assistant is None]
        if missing:
            self._turns += len(missing)
            self._dialogues += 1
            room = PLACES_SHOWN - len(self._places)
            self._places += [str(replace(item.place, field=f"turn {n}")) for n in missing[:room]]

    def problems(self) -> Iterator[Problem]:
        if not self._turns:
            return
        more = self._turns - len(self._places)
        places = [*self._places, f"and {more} more"] if more else self._places
        yield Problem(
            what=(
                f"--history {self._history} needs a scripted reply on every turn before the last asked one: "
                f'{count_of(self._turns, "turn")} in {count_of(self._dialogues, "dialogue")} without "assistant"'
            ),
            found="\n         ".join(places),
            hint='add "assistant": "…" there, or use --history live (the model\'s own replies)',
        )


class _Shuffled:
    """Dialogues in a random order, in a database that moves to a temporary file when it is large."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # an order, no secret
        self._lines = sqlite3.connect("", isolation_level=None)
        self._lines.execute("CREATE TABLE lines (place REAL, line BLOB)")

    def write(self, dialogue: Dialogue, history: HistoryMode) -> None:
        line = encode_json_line(dialogue.to_plain())
        self._lines.execute("INSERT INTO lines VALUES (?, ?)", (self._random.random(), line))

    def __iter__(self) -> Iterator[Dialogue]:
        for (line,) in self._lines.execute("SELECT line FROM lines ORDER BY place, rowid"):
            yield Dialogue.from_plain(orjson.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()


class _CanonicalFile:
    """Writes canonical lines to a gzip file whose bytes depend only on them."""

    def __init__(self, sink: _DiskFile) -> None:
        self.dialogues = 0
        self.asked_turns = 0
        self.checks = 0
        self.judges_needed = 0
        self.preferences = 0
        self.python_checks: set[str] = set()
        self.sha256 = hashlib.sha256()
        self._sink = sink
        # No name and no time in the header. Level 1, because higher ones would be slower than validation.
        # Buffered, so that the gzip header is written inside the `with` block that cleans up.
        self._buffer = io.BufferedWriter(sink)
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=self._buffer, mtime=0)

    def write(self, dialogue: Dialogue, history: HistoryMode) -> None:
        line = encode_json_line(dialogue.to_plain())
        self.sha256.update(line)
        self._gzip.write(line)
        asked = dialogue.asked(history)
        self.dialogues += 1
        self.asked_turns += len(asked)
        for checks in (dialogue.checks, *(dialogue.turns[number - 1].checks for number in asked)):
            for check in map(parse_check, checks):
                if check.plain_kind == COMPARES_TARGETS:
                    self.preferences += 1
                else:
                    self.checks += 1
                    self._look(check)

    def _look(self, check: Check) -> None:
        if check.plain_kind == NEEDS_A_JUDGE:
            self.judges_needed += 1
        elif check.plain_kind == "python":
            self.python_checks.add(check.argument)

    def __enter__(self) -> _CanonicalFile:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> Literal[False]:
        try:
            if failed is None:
                self._gzip.close()
                self._buffer.flush()
                self._sink.sync()
            else:
                with contextlib.suppress(
                    OSError
                ):  # otherwise garbage collection would close them and write to a closed descriptor
                    self._gzip.close()
                    self._buffer.close()
        finally:
            self._sink.release()
        return False


class _DiskFile(io.RawIOBase):
    """A file that writes through `Disk`, so that tests can simulate disk errors."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._fd: int | None = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self._fd is None:
            return len(data)  # a gzip stream that was given up is flushed when it is collected
        rest = memoryview(data)
        while rest:
            rest = rest[self._disk.write(self._fd, bytes(rest)) :]
        return len(data)

    def sync(self) -> None:
        if self._fd is not None:
            self._disk.sync(self._fd)

    def release(self) -> None:
        if self._fd is not None:
            self._disk.close(self._fd)
            self._fd = None
