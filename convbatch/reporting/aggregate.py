"""A run's turns joined with their attempts, in one pass in table order; and input tokens by turn.

The sums themselves are `results/aggregate.py`; which groups there are and what the sums are called is `report.py`.
"""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from convbatch.journal.index import Archive
from convbatch.results.aggregate import CountedAttempt, CountedTurn
from convbatch.results.columns import ATTEMPTS, row_builder
from convbatch.results.parquet import read_rows
from convbatch.results.rows import AttemptRecord, attempts
from convbatch.results.run import Run

_PLACE = itemgetter(0, 1, 2, 3)
_COLUMNS = {column.name: column for column in ATTEMPTS}
_counted_cells = row_builder([_COLUMNS[name] for name in CountedAttempt._fields])


class TurnAttempt(NamedTuple):
    """An attempt of a turn: as sums need it, and its source."""

    counted: CountedAttempt
    source: AttemptRecord


def turns_with_attempts(run: Run) -> Iterator[tuple[CountedTurn, list[CountedAttempt]]]:
    """Read every turn with its attempts."""
    with Archive(run.folder) as archive:
        for turn, made in joined_attempts(run, archive):
            yield turn, [attempt.counted for attempt in made]


def joined_attempts(run: Run, archive: Archive) -> Iterator[tuple[CountedTurn, list[TurnAttempt]]]:
    """Read every turn with its attempts and their sources."""
    by_turn = groupby(_attempts(run, archive), key=lambda attempt: _PLACE(attempt.counted))
    due = next(by_turn, None)
    for row in read_rows(run.turns_path, CountedTurn._fields):
        turn = CountedTurn(*row)
        while due is not None and due[0] < _PLACE(turn):
            due = next(by_turn, None)
        made: list[TurnAttempt] = []
        if due is not None and due[0] == _PLACE(turn):
            made = list(due[1])
            due = next(by_turn, None)
        yield turn, made


def _attempts(run: Run, archive: Archive) -> Iterator[TurnAttempt]:
    for source in attempts(run.folder, run.manifest, archive):
        if source.record.get("role", "model") == "model":
            yield TurnAttempt(CountedAttempt(*_counted_cells(source)), source)


class Sizes:
    """Input tokens of one target's replies to one turn of its dialogues."""

    def __init__(self) -> None:
        self.known = array("q")
        self.unknown = 0

    def add(self, input_tokens: int | None) -> None:
        """Count a reply."""
        if input_tokens is None:
            self.unknown += 1
        else:
            self.known.append(input_tokens)

    @property
    def replies(self) -> int:
        """Number of replies."""
        return len(self.known) + self.unknown

    @property
    def total(self) -> int | None:
        """Sum of the known counts; None without any."""
        return sum(self.known) if self.known else None

    @property
    def mean(self) -> float | None:
        """Mean of the known counts; None without any."""
        return sum(self.known) / len(self.known) if self.known else None

    @property
    def median(self) -> float | None:
        """Median of the known counts; None without any."""
        return float(statistics.median(self.known)) if self.known else None
