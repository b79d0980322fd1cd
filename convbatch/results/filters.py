"""Filters of `table`, `show`, `check` and `report`: which turns of a run are meant.

Values of one filter are alternatives; a turn must match every filter. Everything is read from the table files, one
conversation at a time. What a command does with the turns that match is its own decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple, get_args

from convbatch.errors import SetupError, did_you_mean, nearest, repeat_hint
from convbatch.reply import FinishReason
from convbatch.results.cache import read_with_verdicts
from convbatch.results.columns import STATUSES, Row
from convbatch.results.parquet import read_rows
from convbatch.results.run import Run
from convbatch.results.summary import TargetSummary, summarise
from convbatch.results.verdicts import dialogue_pass

_NAMES_KEPT = 1_000
"""Tags and names of checks that are remembered for a suggestion."""
_NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What a turn must have; an empty filter matches every turn."""

    tag: tuple[str, ...] = ()
    """Its dialogue has one of these tags."""
    status: tuple[str, ...] = ()
    finish_reason: tuple[str, ...] = ()
    check: tuple[str, ...] = ()
    """It has a check of one of these names or kinds, or its dialogue has one on the whole."""
    text: tuple[str, ...] = ()
    """Its user message or reply contains one of these texts, whatever their case."""

    def __post_init__(self) -> None:
        """Refuse values that no turn can have.

        Raises:
            SetupError: An unknown status or finish reason.
        """
        known: dict[str, Sequence[str]] = {"status": STATUSES, "finish_reason": get_args(FinishReason)}
        for name, values in known.items():
            for value in getattr(self, name):
                if value not in values:
                    what = name.replace("_", " ")
                    several = repeat_hint(f"--{name.replace('_', '-')}", value)
                    hint = several or did_you_mean(value, values)
                    raise SetupError(f"no turn has the {what} {value!r}", hint=hint)

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))

    def __str__(self) -> str:
        """Return the filters as options of a command."""
        return " ".join(
            f"--{each.name.replace('_', '-')} {value}" for each in fields(self) for value in getattr(self, each.name)
        )

    def wants_check(self, name: str, kind: str) -> bool:
        """Return whether a check of this name and kind is meant."""
        return not self.check or name in self.check or kind in self.check


EVERYTHING = Filters()


class _Turn(NamedTuple):
    """The columns of a row of `turns` that filters look at."""

    dialogue_index: int
    target: str
    repeat: int
    turn: int
    tags: Sequence[str]
    status: str
    finish_reason: str | None
    user: str = ""
    reply: str | None = None


class _Check(NamedTuple):
    """The columns of a row of `verdicts` that filters look at."""

    turn: int | None
    check: str
    kind: str
    passed: bool | None


class Passes(NamedTuple):
    """Numbers of conversations with a turn that matches, by what their checks say."""

    passed: int = 0
    failed: int = 0
    undecided: int = 0


@dataclass(slots=True)
class Tally:
    """Turns that one pass over a run has seen, and how many of them match."""

    seen: int = 0
    matched: int = 0


class Matcher:
    """Applies filters to runs, and remembers what there was to choose from."""

    def __init__(self, filters: Filters) -> None:
        self.filters = filters
        self._matched = False
        self._tallies: dict[Path, Tally] = {}
        """The longest pass over each run."""
        self._tags: set[str] = set()
        self._checks: set[str] = set()

    def mask(self, run: Run, *, only: tuple[str, int] | None = None) -> Iterator[bool]:
        """Yield for each row of `turns`, in table order, whether it matches; without filters True without end.

        Args:
            run: The run.
            only: As in `read_rows`, for the same rows.
        """
        if not self.filters:
            yield from repeat(True)
        tally = Tally()
        for turns, checks in self._conversations(run, only):
            yield from self._matches(turns, checks, self._longest(run, tally))

    def conversations(self, run: Run, names: Sequence[str]) -> Iterator[tuple[list[_Turn], list[Row]]]:
        """Yield every conversation with a turn that matches, and the verdicts that are meant.

        Args:
            run: The run.
            names: Columns of the verdicts. Of whole dialogues, those of every conversation that is yielded are meant.
        """
        of_verdicts = (*_Check._fields, *names)
        tally = Tally()
        for rows, verdicts in read_with_verdicts(run.turns_path, self._columns, of_verdicts):
            turns = [_Turn(*row) for row in rows]
            checks = [_Check(*row[: len(_Check._fields)]) for row in verdicts]
            does_match = self._matches(turns, checks, self._longest(run, tally))
            matching: set[int | None] = {turn.turn for turn, does in zip(turns, does_match, strict=True) if does}
            if matching:
                matching.add(None)
                yield (
                    turns,
                    [
                        row[len(_Check._fields) :]
                        for check, row in zip(checks, verdicts, strict=True)
                        if check.turn in matching and self.filters.wants_check(check.check, check.kind)
                    ],
                )

    def verdicts(self, run: Run, names: Sequence[str]) -> Iterator[Row]:
        """Yield these columns of the verdicts that are meant."""
        if not self.filters:
            return read_rows(run.verdicts_path, names)
        return (row for _, verdicts in self.conversations(run, names) for row in verdicts)

    def summary(self, run: Run) -> list[TargetSummary]:
        """Sum up the turns that match, by target; a dialogue with such a turn passes by the checks that are meant."""
        if not self.filters:
            return run.summary()
        passes = self.passes(run)
        totals = summarise(run.turns_path, run.manifest.targets, self.mask(run))
        counts = [passes.get(total.target, Passes()) for total in totals]
        return [
            replace(total, passed=count.passed, judged=count.passed + count.failed, undecided=count.undecided)
            for total, count in zip(totals, counts, strict=True)
        ]

    def passes(self, run: Run) -> dict[str, Passes]:
        """Count by target how many conversations with a turn that matches pass the checks that are meant."""
        counts: dict[str, Passes] = {}
        tally = Tally()
        for turns, checks in self._conversations(run, None):
            does_match = any(self._matches(turns, checks, self._longest(run, tally)))
            meant = [check.passed for check in checks if self.filters.wants_check(check.check, check.kind)]
            if not meant or not does_match:
                continue
            count = counts.get(turns[0].target, Passes())
            passed = dialogue_pass([turn.status for turn in turns], meant)
            name = "undecided" if passed is None else "passed" if passed else "failed"
            counts[turns[0].target] = count._replace(**{name: getattr(count, name) + 1})
        return counts

    @property
    def tally(self) -> Tally:
        """Turns of all runs, and how many of them match; several passes over a run count once."""
        tallies = self._tallies.values()
        return Tally(seen=sum(tally.seen for tally in tallies), matched=sum(tally.matched for tally in tallies))

    def checked(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Yield rows that were chosen by `mask`; fail at their end if no turn matched, as `require_match`."""
        yield from rows
        self.require_match()

    def require_match(self) -> None:
        """Refuse filters that no turn has matched; call when everything is read.

        Raises:
            SetupError: Nothing matched; names the nearest tag or check where the wanted one does not exist.
        """
        if not self.filters or self._matched:
            return
        for what, wanted, known in (("tag", self.filters.tag, self._tags), ("check", self.filters.check, self._checks)):
            for name in wanted:
                if name not in known:
                    near = _near(name, sorted(known)) if known else f"there are no {what}s"
                    hint = repeat_hint(f"--{what}", name) or near
                    raise SetupError(f"no dialogue has the {what} {name!r}", hint=hint)
        raise SetupError(
            f"no turn matches {self.filters}", found=f"{self.tally.seen:,} turns", hint="leave out a filter"
        )

    @property
    def _columns(self) -> tuple[str, ...]:
        return _Turn._fields if self.filters.text else _Turn._fields[:-2]  # texts are long: read if looked at

    def _conversations(self, run: Run, only: tuple[str, int] | None) -> Iterator[tuple[list[_Turn], list[_Check]]]:
        for rows, verdicts in read_with_verdicts(run.turns_path, self._columns, _Check._fields, only=only):
            yield [_Turn(*row) for row in rows], [_Check(*verdict) for verdict in verdicts]

    def _longest(self, run: Run, tally: Tally) -> Tally:
        """Remember a pass over a run if none has seen more."""
        if tally.seen >= self._tallies.setdefault(run.path, tally).seen:
            self._tallies[run.path] = tally
        return tally

    def _matches(self, turns: Sequence[_Turn], checks: Sequence[_Check], tally: Tally) -> list[bool]:
        """Return for each turn of a conversation whether it matches."""
        checked = {check.turn for check in checks if self.filters.wants_check(check.check, check.kind)}
        if len(self._tags) < _NAMES_KEPT:
            self._tags.update(turns[0].tags)
        if len(self._checks) < _NAMES_KEPT:
            self._checks.update(name for check in checks for name in (check.check, check.kind))
        found = [self._fits(turn) and (not self.filters.check or bool(checked & {turn.turn, None})) for turn in turns]
        tally.seen += len(found)
        tally.matched += sum(found)
        self._matched = self._matched or any(found)
        return found

    def _fits(self, turn: _Turn) -> bool:
        filters = self.filters
        fits = not filters.tag or not set(filters.tag).isdisjoint(turn.tags)
        fits = fits and (not filters.status or turn.status in filters.status)
        fits = fits and (not filters.finish_reason or turn.finish_reason in filters.finish_reason)
        return fits and (not filters.text or _contains(turn, filters.text))


def _near(name: str, known: Sequence[str]) -> str:
    close = nearest(name, known)
    listed = f"known: {', '.join(known[:_NAMES_SHOWN])}{', …' if len(known) > _NAMES_SHOWN else ''}"
    return listed if close is None else f"did you mean {close!r}? {listed}"


def _contains(turn: _Turn, texts: Sequence[str]) -> bool:
    said: Any = f"{turn.user}\0{turn.reply or ''}".casefold()
    return any(text.casefold() in said for text in texts)
