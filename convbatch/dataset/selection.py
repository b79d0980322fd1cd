"""What is done with a dataset: scan it, load it, copy the selected dialogues for a run, convert it.

Decides which dialogues a run takes and what it refuses before anything is sent. Which format a file has and what a good
dialogue is, is decided in `reader.py` and below; nothing here looks at a line's own form.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import fnmatch
import gzip
import hashlib
import io
import itertools
import os
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson

from convbatch.checks.builtin import NEEDS_A_JUDGE, Check, parse_check
from convbatch.dataset.formats import FORMATS, Format
from convbatch.dataset.jsonl import display_json, encode_json_line
from convbatch.dataset.reader import Located, Problems, ProgressCallback, Reader, count_of, media_issues
from convbatch.dialogue import Dialogue, HistoryMode
from convbatch.errors import InputError, Place, Problem, SetupError, did_you_mean
from convbatch.system import Disk

PLACES_SHOWN = 20
_IDS_COMPARED = 20_000
_TAGS_REMEMBERED = 1_000


class DatasetScan:
    """One validating pass over dataset files: an iterator of dialogues and problems.

    Problems with duplicate ids come last, when all ids are known. The counts are final when the iterator is exhausted.
    """

    def __init__(self, paths: Sequence[Path], *, on_progress: ProgressCallback | None = None) -> None:
        self.dialogues = 0
        """Well-formed dialogues."""
        self.turns = 0
        """Their turns that are asked."""
        self.problems = 0
        self._reader = Reader(paths, on_progress=on_progress)
        self._items = iter(self._reader)

    @property
    def blank_lines(self) -> int:
        """Lines that were skipped because nothing is on them."""
        return self._reader.blank_lines

    def __iter__(self) -> Iterator[Dialogue | Problem]:
        return self

    def __next__(self) -> Dialogue | Problem:
        item = next(self._items)
        if isinstance(item, Problem):
            self.problems += 1
            return item
        self.dialogues += 1
        self.turns += len(item.dialogue.asked("live"))
        return item.dialogue


def scan(paths: Sequence[Path], *, on_progress: ProgressCallback | None = None) -> DatasetScan:
    """Validate dataset files, streaming.

    Args:
        paths: Files in any format of `importers.FORMATS`, plain or gzip.
        on_progress: Called now and then with bytes done, bytes in all, dialogues so far.

    Returns:
        An iterator of `Dialogue` and `Problem` in file order, with running counts.
    """
    return DatasetScan(paths, on_progress=on_progress)


def load_dialogues(paths: Sequence[Path]) -> list[Dialogue]:
    """All dialogues of small files, in order.

    Raises:
        InputError: Anything is wrong anywhere; holds every problem.
    """
    dialogues: list[Dialogue] = []
    problems = Problems()
    for item in scan(paths):
        if isinstance(item, Problem):
            problems.add(item)
        else:
            dialogues.append(item)
    problems.raise_any()
    return dialogues


# Selecting


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which dialogues a run takes: any of the ids (exact or glob), any of the tags, then the first `limit` of them."""

    ids: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise SetupError(f"--limit {self.limit} takes no dialogue", hint="at least 1, or leave it out for all")

    def to_plain(self) -> dict[str, Any]:
        """Only what is set, for the run's record."""
        plain: dict[str, Any] = {"ids": list(self.ids), "tags": list(self.tags), "limit": self.limit}
        return {key: value for key, value in plain.items() if value}


EVERYTHING = Selection()


class _SelectionFilter:
    """A selection at work: remembers what it has matched so far."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._patterns = {name: re.compile(fnmatch.translate(name)) for name in selection.ids}
        self._missing = set(selection.ids)
        self._tags: set[str] = set()
        self._taken = 0
        self.seen = 0

    def takes(self, dialogue: Dialogue) -> bool:
        self.seen += 1
        selection = self._selection
        if selection.ids and not self._matches(dialogue.id):
            return False
        if selection.tags:
            if len(self._tags) < _TAGS_REMEMBERED:
                self._tags.update(dialogue.tags)
            if not set(selection.tags) & set(dialogue.tags):
                return False
        if selection.limit is not None and self._taken >= selection.limit:
            return False
        self._taken += 1
        return True

    def _matches(self, name: str) -> bool:
        hits = [wanted for wanted, glob in self._patterns.items() if wanted == name or glob.match(name)]
        self._missing.difference_update(hits)
        return bool(hits)

    def problems(self, reader: Reader) -> Iterator[Problem]:
        for wanted in self._selection.ids:
            if wanted in self._missing:
                yield Problem(what=f"no dialogue has the id {display_json(wanted)}", hint=_nearest_ids(wanted, reader))
        if self._taken or self._missing:
            return
        for tag in self._selection.tags:
            if tag not in self._tags:
                hint = did_you_mean(tag, self._tags) if self._tags else "no dialogue has tags"
                yield Problem(what=f"no dialogue has the tag {display_json(tag)}", hint=hint)
        yield Problem(
            what="no dialogue is left to run",
            found=f"{self.seen} dialogues read, selected by {display_json(self._selection.to_plain())}",
            hint="widen --id or --tag",
        )


def _nearest_ids(wanted: str, reader: Reader) -> str:
    names = list(itertools.islice(reader.ids(), _IDS_COMPARED))
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "ids are like " + ", ".join(repr(name) for name in names[:5])


# The canonical copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A dataset file as it was when it was read."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What `write_copy` wrote."""

    dialogues: int
    asked_turns: int
    """Rows one target and repeat will have."""
    checks: int
    """Those that will be judged under this history."""
    judges_needed: int
    """How many of them ask for a judge's opinion."""
    python_checks: tuple[str, ...]
    """Entry points that they name."""
    sha256: str
    """Of the canonical lines, uncompressed: the same for the same dialogues whatever format they came in."""
    sources: tuple[Source, ...]
    dialogues_read: int
    blank_lines: int


def write_copy(
    paths: Sequence[Path],
    selection: Selection,
    out: Path,
    history: HistoryMode,
    *,
    refuse_unsupported: bool = True,
    on_progress: ProgressCallback | None = None,
    disk: Disk | None = None,
) -> CopyReport:
    """Validate everything and write the selected dialogues, in one pass.

    Args:
        paths: Dataset files.
        selection: Which dialogues to take.
        out: The gzip file to write; must not exist. The same dialogues give the same bytes.
        history: Decides which turns are asked and where a scripted reply is needed.
        refuse_unsupported: Tools and media parts are problems, because no protocol carries them yet.
        on_progress: As in `scan`.
        disk: File operations of the run folder.

    Raises:
        InputError: Anything is wrong anywhere, or nothing is selected; `out` is gone then.
        SetupError: `out` cannot be written.
    """
    disk = disk or Disk()
    problems = Problems()
    sieve = _SelectionFilter(selection)
    gaps = _MissingReplies(history)
    reader = Reader(paths, on_progress=on_progress)
    try:
        copy = _CanonicalFile(_DiskFile(disk, out))
    except OSError as error:
        raise _cannot_write(out, error) from None
    try:
        with copy:
            for item in reader:
                if isinstance(item, Problem):
                    problems.add(item)
                elif sieve.takes(item.dialogue):
                    gaps.look(item)
                    if refuse_unsupported:
                        problems.extend(unsupported_features(item))
                    copy.write(item.dialogue, history)
            if not problems:
                problems.extend(sieve.problems(reader))
                problems.extend(gaps.problems())
            problems.raise_any()
    except OSError as error:
        out.unlink(missing_ok=True)
        raise _cannot_write(out, error) from None
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return CopyReport(
        dialogues=copy.dialogues,
        asked_turns=copy.asked_turns,
        checks=copy.checks,
        judges_needed=copy.judges_needed,
        python_checks=tuple(sorted(copy.python_checks)),
        sha256=copy.sha256.hexdigest(),
        sources=tuple(fingerprint_source(path) for path in paths),
        dialogues_read=sieve.seen,
        blank_lines=reader.blank_lines,
    )


def read_copy(path: Path, *, with_key: str | None = None) -> Iterator[tuple[int, Dialogue]]:
    """The dialogues of a canonical copy with their index from 0; trusts what `write_copy` wrote.

    Args:
        path: The copy.
        with_key: Only dialogues whose line holds this key, perhaps in a text: a sieve that need not decode the rest.

    Raises:
        InputError: The copy is missing or damaged.
    """
    index = 0
    mark = b"" if with_key is None else f'"{with_key}"'.encode()
    try:
        with gzip.open(path, "rb") as lines:
            for line in lines:
                if mark in line:
                    yield index, Dialogue.from_plain(orjson.loads(line))
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
        return "remove it to judge by the checks the run began with, or give other ones: convbatch check RUN --dataset"
    return "start a new run from the original dataset with --reuse and this run's folder"


def copy_digest(path: Path) -> str:
    """Digest of a copy's lines, as `CopyReport.sha256`.

    Raises:
        InputError: The copy is missing or damaged.
    """
    try:
        with gzip.open(path, "rb") as lines:
            return hashlib.file_digest(lines, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]  # reads as any binary file
    except (OSError, EOFError, ValueError) as error:
        raise _unreadable_copy(path, None, error) from None


def fingerprint_source(path: Path) -> Source:
    """Size and digest of a file, to tell later whether it has changed."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Source(path=str(path), size=os.fstat(file.fileno()).st_size, sha256=digest)


def unsupported_features(item: Located) -> Iterator[Problem]:
    """What in a dialogue this version cannot replay."""
    dialogue = item.dialogue
    hint = "are not replayed by this version; leave the dialogue out with --id or --tag, or remove them"
    if dialogue.tools:
        names = ", ".join(str(tool["name"]) for tool in dialogue.tools)
        place = Place(path=item.path, line=item.line)
        yield Problem(what="the dialogue has tools", place=place, found=names, hint=f"tools {hint}")
    for number, turn in enumerate(dialogue.turns, 1):
        for part in turn.user:
            if part.kind != "text":
                place = Place(path=item.path, line=item.line, field=f"turn {number}")
                found = part.path or part.mime_type
                yield Problem(what=f"the message has {part.kind}", place=place, found=found, hint=f"media {hint}")


class _MissingReplies:
    """Turns whose scripted reply the history mode needs and does not find."""

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
            self._places += [f"{item.path}:{item.line}: turn {n}" for n in missing[:room]]

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


class _CanonicalFile:
    """Canonical lines into a gzip file that depends on nothing but them."""

    def __init__(self, sink: _DiskFile) -> None:
        self.dialogues = 0
        self.asked_turns = 0
        self.checks = 0
        self.judges_needed = 0
        self.python_checks: set[str] = set()
        self.sha256 = hashlib.sha256()
        self._sink = sink
        # No name and no time inside; level 1 keeps up with validation, higher ones would set its pace.
        # Buffered, so that the gzip header is written inside the `with` that cleans up.
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
            self.checks += len(checks)
            for check in checks:
                self._look(parse_check(check))

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
                with contextlib.suppress(OSError):  # else the collector closes them, into a descriptor that is gone
                    self._gzip.close()
                    self._buffer.close()
        finally:
            self._sink.release()
        return False


class _DiskFile(io.RawIOBase):
    """A file that writes through `Disk`, so that tests can make the disk fail."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._fd: int | None = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self._fd is None:
            return len(data)  # an abandoned gzip stream closes itself when it is collected
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


# Converting


def convert(src: Path, dst: Path, *, from_format: str | None = None, reference: bool = False) -> int:
    """Write a dataset in the canonical form.

    Args:
        src: A file in any known format, or a `.json` array of dialogues (read whole, up to 512 MiB).
        dst: `NAME.jsonl` or `NAME.jsonl.gz`; must not exist. Written aside and renamed, so it is whole or absent.
        from_format: The format every line must have; None lets the file say.
        reference: Take MT-Bench `reference` answers as scripted replies.

    Returns:
        Dialogues written.

    Raises:
        InputError: Anything is wrong in `src`; nothing is written.
        SetupError: `dst` exists or cannot be written, or an unknown format.
    """
    only = _known_format(from_format)
    _refuse_target(dst)
    problems = Problems()
    aside = dst.with_name(f".{dst.name}.{os.getpid()}.part")
    reader = Reader([src], only=only, reference=reference, documents=True)
    written = 0
    try:
        with _output(aside, compressed=dst.name.endswith(".gz")) as out:
            for item in reader:
                if isinstance(item, Problem):
                    problems.add(item)
                    continue
                moved = media_issues(item.dialogue, dst.parent)
                problems.extend(dataclasses.replace(issue, hint=_MOVED).at(item.path, item.line) for issue in moved)
                out.write(encode_json_line(item.dialogue.to_plain()))
                written += 1
        problems.raise_any()
        aside.replace(dst)
    except OSError as error:
        raise _cannot_write(dst, error) from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    return written


_MOVED = "media paths are relative to the dataset: write the new file into the same folder"


def _known_format(name: str | None) -> Format | None:
    if name is None:
        return None
    for known in FORMATS:
        if known == name:
            return known
    raise SetupError(f"unknown dataset format {name!r}", hint=did_you_mean(name, FORMATS))


def _refuse_target(dst: Path) -> None:
    if not dst.name.endswith((".jsonl", ".jsonl.gz")):
        raise SetupError(f"{dst} is no name for JSON lines", hint=f"e.g. {dst.with_suffix('.jsonl')}")
    try:
        is_there = dst.exists() or dst.is_symlink()
    except OSError as error:
        raise _cannot_write(dst, error) from None
    if is_there:
        raise SetupError(f"{dst} exists already", hint="remove it, or give another name: nothing is overwritten")
    if not dst.parent.is_dir():
        raise SetupError(f"{dst.parent} is no folder", hint=f"mkdir -p {dst.parent}")


@contextlib.contextmanager
def _output(path: Path, *, compressed: bool) -> Generator[BinaryIO | gzip.GzipFile]:
    path.unlink(missing_ok=True)  # of a process that is gone; and a link that somebody laid there is not followed
    with path.open("xb") as raw:
        if not compressed:
            yield raw
            return
        # Without a name: this one is the temporary file's.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
            yield packed


def _cannot_write(path: Path, error: OSError) -> SetupError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return SetupError(f"cannot write {path}: {reason}", hint="a folder you may write to, with room left")
