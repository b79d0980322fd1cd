"""The targets of one or several runs side by side: one row per dialogue, repeat and turn, one cell per target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from convbatch.errors import SetupError, did_you_mean
from convbatch.results.cache import read_with_verdicts
from convbatch.results.columns import TURNS, WIDE, WIDE_KEYS, Column
from convbatch.results.filters import Filters, Matcher
from convbatch.results.parquet import Rows
from convbatch.results.rows import StoredVerdict
from convbatch.results.run import Run
from convbatch.results.several import Codec, DialogueReader, matched_dialogues, target_names
from convbatch.results.verdicts import sum_verdicts

OF_VERDICTS = frozenset({"passed", "score"})
"""Values that come from verdicts; dialogues with checks on the whole have a row more, whose turn is null."""
_HEAD = ("dialogue_index", "target", "repeat", "turn", "status")


class Cell(NamedTuple):
    """What a target has in a row."""

    value: Any
    status: str | None
    """Of the turn; None for a whole dialogue."""
    currency: str | None = None
    """Of a cost."""


_Place: TypeAlias = tuple[int, int | None]
"""Repeat and turn."""


class _DialogueCells:
    """The cells of one run in the rows of a dialogue."""

    def __init__(self) -> None:
        self.cells: defaultdict[_Place, dict[str, Cell]] = defaultdict(dict)
        self.matching: set[_Place] = set()
        """Rows in which a turn matches the filters."""

    def to_plain(self) -> list[list[Any]]:
        """Return it as a JSON value."""
        cells = [[*place, name, *cell] for place, of_row in self.cells.items() for name, cell in of_row.items()]
        return [cells, [[*place] for place in self.matching]]

    @classmethod
    def from_plain(cls, plain: list[list[Any]]) -> _DialogueCells:
        """Read what `to_plain` returned."""
        found = cls()
        for number, turn, name, *cell in plain[0]:
            found.cells[number, turn][name] = Cell(*cell)
        found.matching.update((number, turn) for number, turn in plain[1])
        return found


def wide_columns(runs: Sequence[Run], value: str) -> list[Column]:
    """Return the columns of a wide table: the keys, and the targets.

    Raises:
        SetupError: There is no wide table of this value.
    """
    if value not in WIDE:
        raise SetupError(f"the table has no wide form of {value!r}", hint=did_you_mean(value, WIDE))
    names = [name for of_run in target_names(runs) for name in of_run]
    keys = [column for column in TURNS if column.name in WIDE_KEYS]
    unit = "money" if value == "cost" else None
    meaning = f"`{value}` of this target"
    return [*keys, *(Column(name, WIDE[value], meaning, is_long=True, unit=unit) for name in names)]


def wide_rows(runs: Sequence[Run], value: str, matcher: Matcher | None = None) -> Rows:
    """Return a wide table as rows, with one dialogue in memory at a time.

    Raises:
        SetupError: There is no wide table of this value.
    """
    rows = ((*place, *(cell and cell.value for cell in cells)) for place, cells in wide_cells(runs, value, matcher))
    return Rows(columns=wide_columns(runs, value), rows=rows)


def wide_cells(
    runs: Sequence[Run], value: str, matcher: Matcher | None = None
) -> Iterator[tuple[tuple[str, int, int | None], list[Cell | None]]]:
    """Yield the keys of each row and its cells; of filtered rows those in which a turn of any target matches."""
    codec = Codec(_DialogueCells.to_plain, _DialogueCells.from_plain)
    readers = [DialogueReader(partial(_read, run, value, matcher), codec) for run in runs]
    for name, indexes in matched_dialogues(runs):
        found = [reader.find(index) for reader, index in zip(readers, indexes, strict=True)]
        places = {place for each in found if each is not None for place in each.matching}
        for place in sorted(places, key=lambda place: (place[0], place[1] is None, place[1] or 0)):
            of_runs = [{} if each is None else each.cells.get(place, {}) for each in found]
            cells = [cells.get(target) for run, cells in zip(runs, of_runs, strict=True) for target in run.targets]
            yield (name, *place), cells


def _read(run: Run, value: str, matcher: Matcher | None) -> Iterator[tuple[int, _DialogueCells]]:
    """Yield the cells of every dialogue of a run."""
    judged = value in OF_VERDICTS
    names = _HEAD if judged else (*_HEAD, value, "currency") if value == "cost" else (*_HEAD, value)
    matcher = matcher or Matcher(Filters())
    mask, wants_check = matcher.mask(run), matcher.filters.wants_check
    of_verdicts = (*StoredVerdict._fields, "check", "kind")
    conversations = read_with_verdicts(run.turns_path, names, of_verdicts)
    for index, group in groupby(conversations, key=lambda pair: pair[0][0][0]):
        found = _DialogueCells()
        for rows, verdicts in group:
            _, target, number, *_ = rows[0]
            meant = [StoredVerdict(*row[:-2]) for row in verdicts if wants_check(*row[-2:])]
            of_turn = _values_of_verdicts(meant, value) if judged else {}
            matches = False
            for (_, _, _, turn, status, *cell), does_match in zip(rows, mask, strict=False):
                found.cells[number, turn][target] = Cell(of_turn.get(turn) if judged else cell[0], status, *cell[1:])
                if does_match:
                    found.matching.add((number, turn))
                    matches = True
            if None in of_turn:
                found.cells[number, None][target] = Cell(of_turn[None], None)
                if matches:
                    found.matching.add((number, None))
        yield index, found


def _values_of_verdicts(verdicts: Sequence[StoredVerdict], value: str) -> dict[int | None, Any]:
    """Return by turn, None for the whole dialogue, whether all its checks passed, or their score."""
    values: dict[int | None, Any] = {}
    for turn, group in groupby(verdicts, key=itemgetter(0)):
        of_turn = list(group)
        if value == "score":
            values[turn] = sum_verdicts(verdict[1:] for verdict in of_turn).score
        elif any(verdict.passed is False for verdict in of_turn):
            values[turn] = False
        else:
            values[turn] = None if any(verdict.passed is None for verdict in of_turn) else True
    return values
