"""Tables of two sides → their dialogues side by side, read anew each time, without keeping them.

What a pair is, is `pairing.py`; which tables may be paired, `inputs.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

from convbatch.comparison.pairing import (
    FAILED,
    ComparedConversation,
    ComparedTurn,
    Pair,
    ReasonKey,
    SampleKey,
    Side,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCounts:
    """Which dialogues are compared, and which not."""

    whole: Sequence[str]
    """Dialogues of both sides with nothing pending; only these are measured."""
    pending: Sequence[str]
    only_base: Sequence[str]
    only_candidate: Sequence[str]
    turns: int
    """Number of paired turns."""
    failed_base: int
    """Turns of the paired dialogues that ended in an error or were skipped after one."""
    failed_candidate: int
    is_live: bool
    same_history: bool
    """As in `Pair`."""

    @property
    def lost(self) -> float:
        """Share of all dialogues that cannot be compared because they are unmatched or pending."""
        lost = len(self.pending) + len(self.only_base) + len(self.only_candidate)
        return lost / max(1, lost + len(self.whole))


class SideDialogues(Protocol):
    """The dialogues of one side, in an order that two sides of one dataset share."""

    def __iter__(self) -> Iterator[tuple[str, Side]]:
        """Read them anew."""
        ...

    def names(self) -> Set[str]:
        """Return all their names."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSide:
    """One side in tables whose rows of a dialogue are together: one dialogue at a time is in memory."""

    turns: Callable[[], Iterable[Sequence[Any]]]
    """Reads the rows of `TURN_COLUMNS`."""
    conversations: Callable[[], Iterable[Sequence[Any]]]
    """Reads the rows of `CONVERSATION_COLUMNS`, in the same order of dialogues."""
    reasons: Callable[[], Iterable[tuple[str, ReasonKey, str]]]
    """Reads the reasons of failed checks with their dialogue, in the same order; several of one key are joined."""
    has_targets: bool
    """Whether there are several targets, so that each is a sample."""

    def __iter__(self) -> Iterator[tuple[str, Side]]:
        conversations, reasons = _Following(self.conversations()), _Following(self.reasons())
        for name, rows in groupby(self.turns(), key=itemgetter(0)):
            side = Side(reasons=_joined(reasons.of(name)))
            for row in rows:
                side.add_turn(ComparedTurn(*row), has_targets=self.has_targets)
            for row in conversations.of(name):
                side.add_conversation(ComparedConversation(*row), has_targets=self.has_targets)
            yield name, side

    def names(self) -> Set[str]:
        """Return the names of all dialogues."""
        return {row[0] for row in self.turns()}


class _Following:
    """Rows that begin with a dialogue, in the order of dialogues of a longer table."""

    def __init__(self, rows: Iterable[Sequence[Any]]) -> None:
        self._groups = groupby(rows, key=itemgetter(0))
        self._due = next(self._groups, None)

    def of(self, dialogue: str) -> list[Sequence[Any]]:
        """Return the rows of a dialogue; none where the next rows are of another one."""
        if self._due is None or self._due[0] != dialogue:
            return []
        rows = list(self._due[1])
        self._due = next(self._groups, None)
        return rows


def _joined(reasons: Iterable[Sequence[Any]]) -> Mapping[ReasonKey, str]:
    joined: dict[ReasonKey, str] = {}
    for _, key, reason in reasons:
        joined[key] = f"{joined[key]}; {reason}" if key in joined else reason
    return joined


class LoadedSide:
    """One side in memory."""

    def __init__(self, sides: Mapping[str, Side]) -> None:
        self._sides = sides

    def __iter__(self) -> Iterator[tuple[str, Side]]:
        return iter(self._sides.items())

    def names(self) -> Set[str]:
        """Return the names of all dialogues."""
        return self._sides.keys()


class MergedSides:
    """Several sides as one: the dialogues that all of them have, each side one more sample."""

    def __init__(self, sides: Sequence[SideDialogues]) -> None:
        self._first, *self._others = sides

    def __iter__(self) -> Iterator[tuple[str, Side]]:
        others = [Counterparts(self._first, other) for other in self._others]
        for name, side in self._first:
            found = [other.find(name) for other in others]
            if all(one is not None for one in found):
                yield name, _merged([side, *(one for one in found if one is not None)])

    def names(self) -> Set[str]:
        """Return the names of the dialogues that all sides have."""
        return set(self._first.names()).intersection(*(other.names() for other in self._others))


def _merged(sides: Sequence[Side]) -> Side:
    merged = Side()
    for number, side in enumerate(sides):
        for turn, samples in side.turns.items():
            merged.turns.setdefault(turn, {}).update({(f"{number}", key[1]): one for key, one in samples.items()})
        merged.conversations.update({(f"{number}", key[1]): one for key, one in side.conversations.items()})
    return merged


class PairStream:
    """The dialogues that two sides share, in the order of the base; each iteration reads both sides anew.

    Where both sides are in one order, one dialogue of each is in memory. Where they are not, those that come too early
    wait.

    Attributes:
        only_base: After an iteration, the dialogues that only the base has.
        only_candidate: As `only_base`.
    """

    def __init__(self, base: SideDialogues, candidate: SideDialogues, *, history: tuple[str, str]) -> None:
        self._base, self._candidate = base, candidate
        self.same_history, self.is_live = history[0] == history[1], "live" in history
        self.only_base: list[str] = []
        self.only_candidate: list[str] = []

    def __iter__(self) -> Iterator[Pair]:
        self.only_base = []
        candidates = Counterparts(self._base, self._candidate)
        for name, side in self._base:
            other = candidates.find(name)
            if other is None:
                self.only_base.append(name)
            else:
                yield Pair(
                    dialogue=name,
                    tags=side.tags,
                    base=side,
                    candidate=other,
                    same_history=self.same_history,
                    is_live=self.is_live,
                )
        self.only_candidate = candidates.finish()


class Counterparts:
    """Finds the candidate's side of each dialogue of the base."""

    def __init__(self, base: SideDialogues, candidate: SideDialogues) -> None:
        self._base, self._candidate = base, candidate
        self._coming = iter(candidate)
        self._next = next(self._coming, None)
        self._waiting: dict[str, Side] = {}
        self._unmatched: list[str] = []

    def find(self, name: str) -> Side | None:
        """Return the side of a dialogue; None where the candidate does not have it."""
        if self._next is not None and self._next[0] == name:
            return self._take()
        if name in self._waiting:
            return self._waiting.pop(name)
        if name not in self._candidate_names:
            return None
        while self._next is not None and self._next[0] != name:
            self._put_aside()
        return self._take()

    def finish(self) -> list[str]:
        """Return the dialogues that only the candidate has."""
        while self._next is not None:
            self._put_aside()
        return self._unmatched

    def _put_aside(self) -> None:
        assert self._next is not None
        name = self._next[0]
        side = self._take()
        if name in self._base_names:
            self._waiting[name] = side
        else:
            self._unmatched.append(name)

    def _take(self) -> Side:
        assert self._next is not None
        _, side = self._next
        self._next = next(self._coming, None)
        return side

    @cached_property
    def _base_names(self) -> Set[str]:
        return self._base.names()

    @cached_property
    def _candidate_names(self) -> Set[str]:
        return self._candidate.names()


def load_side(turns: Iterable[Sequence[Any]], conversations: Iterable[Sequence[Any]] | None) -> LoadedSide:
    """Read one side whatever the order of its rows.

    Args:
        turns: Rows of `TURN_COLUMNS`.
        conversations: Rows of `CONVERSATION_COLUMNS`; None: a dialogue passes when its turns do.
    """
    sides: defaultdict[str, Side] = defaultdict(lambda: Side())
    compared = [ComparedTurn(*row) for row in turns]
    has_targets = len({turn.target for turn in compared}) > 1
    for turn in compared:
        sides[turn.dialogue].add_turn(turn, has_targets=has_targets)
    if conversations is None:
        for side in sides.values():
            side.conversations = {sample: _conversation_from_turns(side, sample) for sample in side.samples}
    else:
        for row in conversations:
            one = ComparedConversation(*row)
            if one.dialogue in sides:
                sides[one.dialogue].add_conversation(one, has_targets=has_targets)
    return LoadedSide(dict(sides))


def _conversation_from_turns(side: Side, sample: SampleKey) -> ComparedConversation:
    turns = [samples[sample] for samples in side.turns.values() if sample in samples]
    judged = [turn.passed for turn in turns if turn.passed is not None]
    passed = all(judged) and not any(turn.status in FAILED for turn in turns) if judged else None
    if passed and any(turn.passed is None and turn.checks_without_verdict for turn in turns):
        passed = None
    return ComparedConversation(turns[0].dialogue, turns[0].target, turns[0].repeat, "ok", None, None, None, passed)
