"""Several runs read in step: their dialogues are matched by id, in the order of the first run, then of the others.

Of the first run nothing is kept, of the others the ids. A run in another order is read again for each dialogue that was
passed over, one row group at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Generic, TypeAlias, TypeVar

from convbatch.errors import SetupError
from convbatch.results.parquet import read_rows
from convbatch.results.run import Run

T = TypeVar("T")
Only: TypeAlias = tuple[str, int] | None
"""An argument of `read_rows`: the rows of one dialogue."""


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
    """What a run has on a dialogue; dialogues that are asked for in the order of the run are read in one pass.

    Args:
        read: Yields the index and the value of each dialogue in order, or of a single one.
    """

    def __init__(self, read: Callable[[Only], Iterator[tuple[int, T]]]) -> None:
        self._read = read
        self._stream = read(None)
        self._due = next(self._stream, None)

    def find(self, index: int | None) -> T | None:
        """Return the value of the dialogue with this index; None where there is none."""
        if index is None:
            return None
        while self._due is not None and self._due[0] < index:
            self._due = next(self._stream, None)
        if self._due is None or self._due[0] > index:
            return next((value for _, value in self._read(("dialogue_index", index))), None)
        found = self._due[1]
        self._due = next(self._stream, None)
        return found


def _ids(run: Run) -> Iterator[tuple[str, int]]:
    for (index, name), _ in groupby(read_rows(run.turns_path, ("dialogue_index", "dialogue"))):
        yield name, index
