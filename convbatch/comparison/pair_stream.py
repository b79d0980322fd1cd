"""Tables of two sides → their dialogues side by side, read anew each time, without keeping them.

What a pair is, is `pairing.py`; which tables may be paired, `inputs.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, Sized
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
    samples: int
    """Largest number of samples of a dialogue on either side: 1 = one target, one repeat."""
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
        return lost_share(self.whole, self.pending, self.only_base, self.only_candidate)


def lost_share(whole: Sized, *lost: Sized) -> float:
    """Return the share of dialogues that are lost."""
    number = sum(map(len, lost))
    return number / max(1, number + len(whole))


SideRows = tuple[Iterable[Sequence[Any]], Iterable[Sequence[Any]] | None]
"""Rows of `TURN_COLUMNS` and of `CONVERSATION_COLUMNS`; None without dialogue-level checks."""


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
    """One side in memory, whatever the order of its rows."""

    def __init__(self, rows: SideRows) -> None:
        self._sides = _read_side(rows)

    def __iter__(self) -> Iterator[tuple[str, Side]]:
        return iter(self._sides.items())

    def names(self) -> Set[str]:
        """Return the names of all dialogues."""
        return self._sides.keys()


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
        self.only_base, self.only_candidate = [], []
        candidates = _Candidates(self._base, self._candidate, self.only_candidate)
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
        candidates.finish()


class _Candidates:
    """Finds the candidate's side of each dialogue of the base."""

    def __init__(self, base: SideDialogues, candidate: SideDialogues, unmatched: list[str]) -> None:
        self._base, self._candidate = base, candidate
        self._coming = iter(candidate)
        self._next = next(self._coming, None)
        self._waiting: dict[str, Side] = {}
        self._unmatched = unmatched

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

    def finish(self) -> None:
        """Note what is left as unmatched."""
        while self._next is not None:
            self._put_aside()

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs in memory."""

    whole: Sequence[Pair]
    """Dialogues with nothing pending on either side; only these are measured."""
    pending: Sequence[str]
    lost: float
    """As in `PairCounts`."""


def load_pairs(base: SideRows, candidate: SideRows, *, history: tuple[str, str] = ("live", "live")) -> Pairs:
    """Pair the rows of two sides, in any order.

    Args:
        base: Rows of one target.
        candidate: As `base`.
        history: History mode of each side.
    """
    stream = PairStream(LoadedSide(base), LoadedSide(candidate), history=history)
    pairs = list(stream)
    whole = [one for one in pairs if not one.pending]
    pending = [one.dialogue for one in pairs if one.pending]
    return Pairs(whole=whole, pending=pending, lost=lost_share(whole, pending, stream.only_base, stream.only_candidate))


def _read_side(rows: SideRows) -> dict[str, Side]:
    sides: defaultdict[str, Side] = defaultdict(lambda: Side())
    turns = [ComparedTurn(*row) for row in rows[0]]
    has_targets = len({turn.target for turn in turns}) > 1
    for turn in turns:
        sides[turn.dialogue].add_turn(turn, has_targets=has_targets)
    if rows[1] is None:
        for one in sides.values():
            one.conversations = {sample: _conversation_from_turns(one, sample) for sample in one.samples}
    else:
        for values in rows[1]:
            one = ComparedConversation(*values)
            if one.dialogue in sides:
                sides[one.dialogue].add_conversation(one, has_targets=has_targets)
    return dict(sides)


def _conversation_from_turns(side: Side, sample: SampleKey) -> ComparedConversation:
    turns = [samples[sample] for samples in side.turns.values() if sample in samples]
    judged = [turn.passed for turn in turns if turn.passed is not None]
    passed = all(judged) and not any(turn.status in FAILED for turn in turns) if judged else None
    if passed and any(turn.passed is None and turn.checks_without_verdict for turn in turns):
        passed = None
    return ComparedConversation(turns[0].dialogue, turns[0].target, turns[0].repeat, "ok", None, None, None, passed)
