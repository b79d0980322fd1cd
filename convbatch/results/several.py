"""Several runs read in step: their dialogues are matched by id, in the order of the first run, then of the others.

Of the first run nothing is kept, of the others the ids. A run in another order is read once more, into a temporary
file in which each dialogue is then found by its position: one number of memory a dialogue.
"""

from __future__ import annotations

import tempfile
import weakref
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import IO, Any, Generic, NamedTuple, TypeAlias, TypeVar

import orjson

from convbatch.errors import SetupError
from convbatch.results.parquet import read_rows
from convbatch.results.run import Run

T = TypeVar("T")
Only: TypeAlias = tuple[str, int] | None
"""An argument of `read_rows`: the rows of one dialogue."""


class Codec(NamedTuple, Generic[T]):
    """How a value is written to the temporary file, and read from it."""

    to_plain: Callable[[T], Any]
    """Returns a JSON value; values that it cannot hold must not be in there."""
    from_plain: Callable[[Any], T]


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Return the name of each run, or its path where several have the same name.

    Raises:
        SetupError: A run is given more than once.
    """
    paths = Counter(run.path.resolve() for run in runs)
    for run in runs:
        if paths[run.path.resolve()] > 1:
            raise SetupError(f"{run.path} is given more than once", hint="name each run once")
    names = Counter(run.name for run in runs)
    return [run.name if names[run.name] == 1 else str(run.path) for run in runs]


def target_names(runs: Sequence[Run]) -> list[list[str]]:
    """Return how the targets of each run are called: `RUN:target` if there are several runs."""
    if len(runs) == 1:
        return [list(runs[0].targets)]
    return [[f"{label}:{name}" for name in run.targets] for label, run in zip(run_labels(runs), runs, strict=True)]


def matched_dialogues(runs: Sequence[Run]) -> Iterator[tuple[str, list[int | None]]]:
    """Yield the id of every dialogue that has turns, and its index in each run, None where a run lacks it."""
    first, *others = runs
    known = [dict(_ids(run)) for run in others]
    for name, index in _ids(first):
        yield name, [index, *(ids.pop(name, None) for ids in known)]
    for number, ids in enumerate(known):
        later = known[number + 1 :]
        for name, index in ids.items():
            before: list[int | None] = [None] * (number + 1)
            yield name, [*before, index, *(other.pop(name, None) for other in later)]


class DialogueReader(Generic[T]):
    """What a run has on a dialogue; at most two passes over the run, in whatever order dialogues are asked for.

    Args:
        read: Yields the index and the value of each dialogue, in order.
        codec: For a run whose dialogues are asked for in another order.
    """

    def __init__(self, read: Callable[[], Iterator[tuple[int, T]]], codec: Codec[T]) -> None:
        self._read = read
        self._codec = codec
        self._stream = read()
        self._due = next(self._stream, None)
        self._passed = -1
        """Index of the last dialogue that the stream has left behind."""
        self._spool: _Spool[T] | None = None

    def find(self, index: int | None) -> T | None:
        """Return the value of the dialogue with this index; None where there is none."""
        if index is None:
            return None
        if self._spool is None and index <= self._passed:
            self._spool = _Spool(self._read(), self._codec)
        if self._spool is not None:
            return self._spool.find(index)
        while self._due is not None and self._due[0] < index:
            self._advance()
        if self._due is None or self._due[0] > index:
            return None
        found = self._due[1]
        self._advance()
        return found

    def _advance(self) -> None:
        if self._due is not None:
            self._passed = self._due[0]
        self._due = next(self._stream, None)


class _Spool(Generic[T]):
    """Values of dialogues in a file without a name, one a line."""

    def __init__(self, values: Iterator[tuple[int, T]], codec: Codec[T]) -> None:
        self._from_plain = codec.from_plain
        self._starts = array("q")
        """Position of each dialogue's line, by index; -1 where a dialogue has no value."""
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="convbatch-")  # noqa: SIM115  # closed with this
        weakref.finalize(self, self._file.close)
        end = 0
        for index, value in values:
            self._starts.extend([-1] * (index + 1 - len(self._starts)))
            self._starts[index] = end
            end += self._file.write(orjson.dumps(codec.to_plain(value), option=orjson.OPT_APPEND_NEWLINE))

    def find(self, index: int) -> T | None:
        start = self._starts[index] if index < len(self._starts) else -1
        if start < 0:
            return None
        self._file.seek(start)
        return self._from_plain(orjson.loads(self._file.readline()))


def _ids(run: Run) -> Iterator[tuple[str, int]]:
    for (index, name), _ in groupby(read_rows(run.turns_path, ("dialogue_index", "dialogue"))):
        yield name, index
