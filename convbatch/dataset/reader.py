"""Read dataset files: a stream of dialogues, and of all problems with their places.

Determines the format of each file, and checks that ids are unique over all files and that media files are inside the
dataset's folder. Reading bytes is `jsonl.py`, validating a dialogue `schema.py`, other formats `formats/`; operations
on the dialogues are in `selection.py`. Memory grows only by one 64-bit digest per dialogue.
"""

from __future__ import annotations

import dataclasses
import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convbatch.dataset.csv_dialogues import CsvDialogues, is_table
from convbatch.dataset.formats.builder import DatasetFormat
from convbatch.dataset.formats.registry import detect, keyed_dialogues, line_id, to_canonical, unknown_format
from convbatch.dataset.in_memory import NAME as in_memory_name
from convbatch.dataset.in_memory import DatasetSource, InMemoryDataset, InMemoryLines
from convbatch.dataset.jsonl import JsonArray, JsonLine, JsonLines, display_json, is_one_document
from convbatch.dataset.media_files import media_issues
from convbatch.dataset.message_lines import MessageLines, holds_message_arrays
from convbatch.dataset.unsent import UnsentKeys
from convbatch.dialogue import Dialogue
from convbatch.errors import InputError, Issue, Place, Problem

PROBLEMS_KEPT = 1_000
"""Most problems in one exception; a scan yields all of them."""
DUPLICATES_LOCATED = 10_000
_PROGRESS_LINES = 256

ProgressCallback = Callable[[int, int, int], None]
"""Called with the bytes read, the total bytes and the dialogues so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A dialogue with its place."""

    place: Place
    dialogue: Dialogue
    folder: Path = Path()
    """What the paths of its media are relative to."""

    def problem(self, issue: Issue) -> Problem:
        """Add the place to an issue of this dialogue."""
        place = dataclasses.replace(self.place, field=issue.field)
        return Problem(what=issue.what, place=place, found=issue.found, hint=issue.hint)


@dataclass(slots=True)
class Problems:
    """Collects problems for one error: keeps the first `PROBLEMS_KEPT` and counts the rest."""

    kept: list[Problem] = field(default_factory=list)
    more: int = 0

    def add(self, problem: Problem) -> None:
        """Keep or count one problem."""
        if len(self.kept) < PROBLEMS_KEPT:
            self.kept.append(problem)
        else:
            self.more += 1

    def extend(self, problems: Iterable[Problem]) -> None:
        """Keep or count several problems."""
        for problem in problems:
            self.add(problem)

    def __bool__(self) -> bool:
        return bool(self.kept)

    def raise_any(self) -> None:
        """Raise `InputError` with all of them, if there are any."""
        if self.more:
            hint = "`convbatch validate` lists them all"
            self.kept.append(Problem(what=f"and {count_of(self.more, 'more problem')}", hint=hint))
        if self.kept:
            raise InputError.of(self.kept)


def count_of(number: int, noun: str) -> str:
    """Format a number with its noun, singular or plural."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


# Reading


class Reader:
    """Iterates over the dialogues and problems of several files; determines formats and ids."""

    def __init__(
        self,
        sources: Sequence[DatasetSource],
        *,
        on_progress: ProgressCallback | None = None,
        only: DatasetFormat | None = None,
        reference: bool = False,
        documents: bool = False,
    ) -> None:
        self.blank_lines = 0
        self.notes: list[str] = []
        """What the files read so far have that no model is sent, and their unfilled placeholders."""
        self._sources = sources
        self._on_progress = on_progress
        self._only: DatasetFormat | None = only
        self._reference = reference
        self._documents = documents
        self._ids = _Ids()
        self._sizes = [_size(source) for source in sources]
        self._dialogues = 0

    def __iter__(self) -> Iterator[Located | Problem]:
        done = 0
        read: list[DatasetSource] = []
        for source, size in zip(self._sources, self._sizes, strict=True):
            if (twice := _same_file(source, read)) is not None:
                yield Problem(
                    what="the same file is given twice",
                    place=Place(path=str(source)),
                    found=f"also as {twice}",
                    hint="name each dataset file once; --repeats runs every dialogue several times",
                )
                continue
            read.append(source)
            yield from self._file(source, done)
            done += size
        self._report(done)
        yield from self._duplicates(read)

    def _file(self, source: DatasetSource, done: int) -> Iterator[Located | Problem]:
        lines = self._lines(source)
        file = _FileFormat(source, self._only, in_array=isinstance(lines, JsonArray))
        for count, line in enumerate(self._expanded(lines), 1):
            read = self._line(line, file)
            if isinstance(read, Located):
                self._dialogues += 1
                yield read
            else:
                for issue in read:
                    yield file.problem(line, issue)
            if count % _PROGRESS_LINES == 0:
                self._report(done + lines.consumed)
        self.blank_lines += lines.blank_lines
        if isinstance(lines, CsvDialogues):
            self.notes += lines.notes
        self.notes += file.unsent.notes(file.shown)

    def _lines(self, path: DatasetSource) -> JsonLines | JsonArray | CsvDialogues | MessageLines | InMemoryLines:
        if isinstance(path, InMemoryDataset):
            return InMemoryLines(path)
        if is_table(path):
            return CsvDialogues(path)
        if holds_message_arrays(path):
            return MessageLines(path)
        return JsonArray(path) if self._documents and is_one_document(path) else JsonLines(path)

    def _expanded(self, lines: Iterable[JsonLine]) -> Iterator[JsonLine]:
        """Yield lines; an object with each dialogue under its id as several, where whole documents are read."""
        for line in lines:
            dialogues = keyed_dialogues(line.value) if self._documents and line.issue is None else None
            yield from [line] if dialogues is None else (JsonLine(line.number, one) for one in dialogues)

    def _line(self, line: JsonLine, file: _FileFormat) -> Located | list[Issue]:
        if line.issue is not None:
            return [line.issue]
        form = file.format_of(line)
        if isinstance(form, Issue):
            return [form]
        named = file.name(line, form)
        self._ids.add(named)
        imported = to_canonical(line.value, form, reference=self._reference)
        issues = imported.issues or _issues_of(imported.plain)
        if issues:
            return issues
        imported.plain["id"] = named
        dialogue = Dialogue.from_plain(imported.plain)
        file.unsent.look(imported, dialogue, file.position(line))
        folder = file.folder_of(line)
        return media_issues(dialogue, folder) or Located(place=file.place(line), dialogue=dialogue, folder=folder)

    def _report(self, done: int) -> None:
        if self._on_progress is not None:
            self._on_progress(done, sum(self._sizes), self._dialogues)

    def _duplicates(self, read: Sequence[DatasetSource]) -> Iterator[Problem]:
        suspects = self._ids.seen_twice()
        located = frozenset(suspects[:DUPLICATES_LOCATED])
        if not located:
            return
        first: dict[str, str] = {}
        for file, line, named in self._named_lines(read):
            if hash(named) & _DIGEST not in located:
                continue
            place = str(file.place(line))
            if named not in first:
                first[named] = place
                continue
            yield Problem(
                what=f"id {display_json(named)} is used twice",
                place=file.place(line),
                found=f"first used at {first[named]}",
                hint="ids are unique over all files of a run: rename one of them"
                if "id" in line.value
                else 'a line without an id is named FILE:LINE: give it an "id", or rename one of the files',
                cause="an id is used twice",
            )
        if len(suspects) > len(located):
            more = len(suspects) - len(located)
            yield Problem(what=f"{more} more ids are used more than once", hint="fix those listed above first")

    def _named_lines(self, sources: Iterable[DatasetSource]) -> Iterator[tuple[_FileFormat, JsonLine, str]]:
        for source in sources:
            lines = self._lines(source)
            file = _FileFormat(source, self._only, in_array=isinstance(lines, JsonArray))
            for line in self._expanded(lines):
                if line.issue is None:
                    form = file.format_of(line)
                    if not isinstance(form, Issue):
                        yield file, line, file.name(line, form)

    def ids(self) -> Iterator[str]:
        """Yield the ids of all lines with a known format; reads the files again."""
        return (named for _, _, named in self._named_lines(self._sources))


class _FileFormat:
    """The format of one file: the requested one, else that of its first line; and its places in messages."""

    def __init__(self, source: DatasetSource, only: DatasetFormat | None, *, in_array: bool) -> None:
        in_memory = isinstance(source, InMemoryDataset)
        self.shown = source.label if in_memory else str(source)
        self.folder = Path() if in_memory else source.parent
        self._expression = source.expression if in_memory else None
        self._places = source.places if in_memory else ()
        self._folders = source.folders if in_memory else ()
        self._form: DatasetFormat | None = only
        self._forced = only
        self._first: int | None = None
        self._in_array = in_array
        self.unsent = UnsentKeys()
        name = in_memory_name if in_memory else source.name.removesuffix(".gz")
        self._stem = Path(name).stem or name

    def format_of(self, line: JsonLine) -> DatasetFormat | Issue:
        """Return the format of a line, or why the line is not allowed in this file."""
        form = detect(line.value)
        if form is None:
            return unknown_format(line.value)
        if self._forced is not None and self._forced.read is not None and self._forced.detect(line.value):
            return self._forced
        if self._form is None:
            self._form, self._first = form, line.number
        if form == self._form:
            return form
        if self._first is None:
            what = f"the format of this line is {form.label}, not {self._form.label} as requested"
            hint = "omit --from to detect the format of each file"
        else:
            what = f"this line is {form.label}, the file {self._form.label}"
            hint = (
                f"line {self._first} of this file is {self._form.label}: one format a file; "
                "put the others into a file of their own"
            )
        return Issue(what=what, found="keys " + ", ".join(line.value), hint=hint)

    def name(self, line: JsonLine, form: DatasetFormat) -> str:
        """Return the id of a line; FILE:LINE when it has none."""
        return line_id(line.value, form) or f"{self._stem}:{line.number}"

    def place(self, line: JsonLine, field: str | None = None) -> Place:
        """Return the place of a line."""
        if self._places and line.number is not None:
            return dataclasses.replace(self._places[line.number], field=field)
        if self._expression is None:
            return Place(path=self.shown, line=line.number, field=field)
        path = self.shown if line.number is None else self._expression
        return Place(path=path, index=line.number, field=field)

    def folder_of(self, line: JsonLine) -> Path:
        """Return the folder that the media of a line are in."""
        return self._folders[line.number] if self._folders and line.number is not None else self.folder

    def position(self, line: JsonLine) -> str:
        """Return the line for a note that names the file."""
        return f"line {line.number}" if self._expression is None else str(self.place(line))

    def problem(self, line: JsonLine, issue: Issue) -> Problem:
        """Add the place to an issue."""
        if self._expression is not None:
            return dataclasses.replace(issue.at(self.shown), place=self.place(line, issue.field))
        if not self._in_array or line.number is None:
            return issue.at(self.shown, line.number)
        item = f"item {line.number}"
        where = item if issue.field is None else f"{item}: {issue.field}"
        return dataclasses.replace(issue, field=where).at(self.shown)


_DIGEST = 2**64 - 1


class _Ids:
    """Digests of all ids, eight bytes each, in buckets that are sorted one at a time to find duplicates in place.

    Digests may collide; duplicates are verified by reading the lines again.
    """

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(256)]

    def add(self, name: str) -> None:
        # Python's string hash: 64 bits, keyed with a secret of this process, and cached in the string.
        digest = hash(name) & _DIGEST
        self._buckets[digest & 0xFF].append(digest)

    def seen_twice(self) -> array[int]:
        """Return the digests that were added more than once, each once; empties the buckets."""
        twice = array("Q")
        for index, bucket in enumerate(self._buckets):
            self._buckets[index] = array("Q")
            ordered = sorted(bucket)
            twice.extend(
                digest for digest, group in itertools.groupby(ordered) if next(group) and next(group, None) is not None
            )
        return twice


def _issues_of(plain: dict[str, Any]) -> list[Issue]:
    from convbatch.dataset.schema import issues_of  # many modules: only when a dataset is read

    return issues_of(plain)


def _size(source: DatasetSource) -> int:
    if isinstance(source, InMemoryDataset):
        return source.size
    try:
        return source.stat().st_size
    except (OSError, ValueError):
        return 0


def _same_file(source: DatasetSource, others: Iterable[DatasetSource]) -> DatasetSource | None:
    if isinstance(source, InMemoryDataset):
        return None
    try:
        return next((other for other in others if isinstance(other, Path) and source.samefile(other)), None)
    except (OSError, ValueError):
        return None
