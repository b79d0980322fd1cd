"""A run's turns joined with their attempts, in one pass in table order; and input tokens by turn.

The sums themselves are `results/aggregate.py`; which groups there are and what the sums are called is `report.py`.
"""

from __future__ import annotations

import statistics
from array import array
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from convbatch.journal.index import Archive
from convbatch.results.aggregate import CountedAttempt, CountedTurn
from convbatch.results.columns import ATTEMPTS, row_builder
from convbatch.results.conversations import ConversationId, judges_by_name
from convbatch.results.parquet import count_values, read_rows
from convbatch.results.rows import AttemptRecord, attempts, conversation_attempts
from convbatch.results.run import Run

_PLACE = itemgetter(0, 1, 2, 3)
_CONVERSATION = itemgetter(0, 1, 2)
_COLUMNS = {column.name: column for column in ATTEMPTS}
_counted_cells = row_builder([_COLUMNS[name] for name in CountedAttempt._fields])


class TurnAttempt(NamedTuple):
    """An attempt of a turn: as sums need it, and its source."""

    counted: CountedAttempt
    source: AttemptRecord


def turns_with_attempts(run: Run) -> Iterator[tuple[CountedTurn, list[CountedAttempt]]]:
    """Read every turn with its attempts.

    Of the journal only those conversations are read in which a turn had other attempts than the one its row is about.

    Raises:
        SetupError: `run.json` does not name a judge that was asked.
    """
    targets = {target.name: target for target in run.manifest.targets}
    names = (*CountedTurn._fields, "limiter_wait_s", "retry_wait_s")
    with ExitStack() as stack:
        archive: Archive | None = None
        named = {judge.name for judge in run.manifest.judges}
        if count_values(run.verdicts_path, "judge").keys() - named - {None}:
            archive = stack.enter_context(Archive(run.folder))
            judges_by_name(run.manifest, archive)  # refuses a run.json without them
        for _, group in groupby(read_rows(run.turns_path, names), key=_CONVERSATION):
            rows = [(CountedTurn(*row[:-2]), row[-2], row[-1]) for row in group]
            if all(_is_one_reply(turn) for turn, _, _ in rows):
                for turn, *waits in rows:
                    yield turn, [_kept_attempt(turn, *waits)] if turn.attempts else []
                continue
            if archive is None:
                archive = stack.enter_context(Archive(run.folder))
            first = rows[0][0]
            place = ConversationId(
                run.name,
                first.dialogue,
                first.dialogue_index,
                first.target,
                first.model,
                first.gateway,
                first.variant,
                first.repeat,
            )
            turns = archive.transcript(first.dialogue_index, first.target, first.repeat).turns
            made: defaultdict[int | None, list[CountedAttempt]] = defaultdict(list)
            for source in conversation_attempts(place, turns, targets[first.target]):
                made[source.turn].append(CountedAttempt(*_counted_cells(source)))
            for turn, _, _ in rows:
                yield turn, made[turn.turn]


def _is_one_reply(turn: CountedTurn) -> bool:
    """Whether a turn is the reply to one request, or was never asked: then its row tells all of its attempts."""
    if turn.possibly_paid or turn.error_kind is not None:
        return False
    if turn.attempts == 0:
        return turn.reused_from is not None or turn.finish_reason is None
    return turn.attempts == 1 and turn.steps == 1 and turn.reused_from is None


def _kept_attempt(turn: CountedTurn, limiter_wait_s: float | None, retry_wait_s: float | None) -> CountedAttempt:
    return CountedAttempt(
        dialogue_index=turn.dialogue_index,
        target=turn.target,
        repeat=turn.repeat,
        turn=turn.turn,
        kept=True,
        possibly_paid=False,
        finish_reason=turn.finish_reason,
        error_kind=None,
        error_message=None,
        input_tokens=turn.input_tokens,
        output_tokens=turn.output_tokens,
        total_tokens=None,
        cost=turn.cost,
        cost_bound=None,
        currency=turn.currency,
        limiter_wait_s=limiter_wait_s,
        retry_wait_s=retry_wait_s,
        started_at=turn.started_at,
    )


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
