"""Two runs → the replies that changed between them, turn by turn; no statistics and no verdict.

Sides are chosen as in `compare`, turns are paired by dialogue, repeat and turn (and target, where there are several).
Nothing must be equal but the ids: another system text or history is often the reason for another reply.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from convbatch.comparison.inputs import SelectedRun, select_sides
from convbatch.comparison.word_diff import Piece, word_diff
from convbatch.errors import SetupError, nearest
from convbatch.results.parquet import read_rows
from convbatch.results.several import run_labels

_COLUMNS = ("dialogue", "target", "repeat", "turn", "tags", "status", "finish_reason", "user", "reply", "tool_calls")


_PENDING = b""
"""In place of the digest of a turn that has not been asked yet."""


class TurnKey(NamedTuple):
    """What a turn is paired by."""

    dialogue: str
    target: str
    """Empty where each side has one target."""
    repeat: int
    turn: int


class SideTurn(NamedTuple):
    """A turn of one side."""

    status: str
    finish_reason: str | None
    user: str
    reply: str | None
    tool_calls: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnDiff:
    """A turn on both sides, or on one: then the other is None."""

    key: TurnKey
    base: SideTurn | None
    candidate: SideTurn | None

    @property
    def is_changed(self) -> bool:
        """Whether reply, tool calls or status differ."""
        if self.base is None or self.candidate is None:
            return True
        return _answer(self.base) != _answer(self.candidate)

    @property
    def pieces(self) -> list[Piece]:
        """The replies, word by word."""
        return word_diff(_text(self.base), _text(self.candidate))

    @property
    def call_pieces(self) -> list[Piece]:
        """The tool calls, word by word; empty where neither side has any."""
        return word_diff(*(("" if side is None else side.tool_calls or "") for side in (self.base, self.candidate)))

    @property
    def user_pieces(self) -> list[Piece]:
        """The user messages, where the sides ask different ones; else empty."""
        if self.base is None or self.candidate is None or self.base.user == self.candidate.user:
            return []
        return word_diff(self.base.user, self.candidate.user)


def _answer(side: SideTurn) -> tuple[str, str, str]:
    return (side.status, side.reply or "", side.tool_calls or "")


def _names_of(sides: Sequence[SelectedRun]) -> tuple[str, str]:
    """Return how the runs are called: by `--name` unless both have the same, with the target if it is only one."""
    runs = [side.run for side in sides]
    names = [run.manifest.name or run.name for run in runs]
    if len({run.path.resolve() for run in runs}) > 1 and names[0] == names[1]:
        names = run_labels(runs)
    first, second = (
        f"{name}:{side.targets[0]}" if len(side.targets) == 1 else name for name, side in zip(names, sides, strict=True)
    )
    return first, second


def _text(side: SideTurn | None) -> str:
    return "" if side is None else side.reply or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFilter:
    """Which turns are compared; an empty field lets every turn through."""

    ids: tuple[str, ...] = ()
    """Globs."""
    tags: tuple[str, ...] = ()
    turns: tuple[int, ...] = ()

    def fits(self, row: Sequence[Any]) -> bool:
        """Whether a row of `_COLUMNS` is one of them."""
        return (
            (not self.ids or any(row[0] == glob or fnmatchcase(row[0], glob) for glob in self.ids))
            and (not self.tags or not set(self.tags).isdisjoint(row[4] or ()))
            and (not self.turns or row[3] in self.turns)
        )


class DiffCounts(NamedTuple):
    """How many turns there are of each kind."""

    paired: int
    changed: int
    """Of those that are paired."""
    only_base: int
    only_candidate: int
    pending: int
    """Not asked yet on one of the sides: not compared."""
    dialogues: int
    """Dialogues with a changed pair."""


class ReplyDiff:
    """The replies of two sides.

    >>> convbatch.diff(run, run)
    <convbatch.ReplyDiff ...: 0 of 2 turns changed>

    Attributes:
        names: Of the sides, run and target.
        counts: How many turns there are of each kind.
    """

    def __init__(self, base: Any, candidate: Any, chosen: TurnFilter | None = None) -> None:
        """Read both sides and count.

        Of every turn a digest is kept, not its text; the texts are read again by `turns`.

        Args:
            base: A `Run`, a path or name, `RUN:target`, or a pair of run and target.
            candidate: As `base`.
            chosen: Which turns are compared.

        Raises:
            SetupError: There is no such run or target, several targets have different names, or no turn is chosen.
        """
        self._sides = select_sides(base, candidate)
        self._chosen = chosen or TurnFilter()
        self._is_single = all(len(side.targets) == 1 for side in self._sides)
        self.names = _names_of(self._sides)
        found = [dict(self._digests(side)) for side in self._sides]
        if not any(found):
            raise self._nothing_fits()
        self._digests_of: tuple[dict[TurnKey, bytes], dict[TurnKey, bytes]] = (found[0], found[1])
        both = found[0].keys() & found[1].keys()
        pending = {key for key in both if _PENDING in (found[0][key], found[1][key])}
        both -= pending
        changed = {key for key in both if found[0][key] != found[1][key]}
        self.counts = DiffCounts(
            paired=len(both),
            changed=len(changed),
            only_base=len(found[0].keys() - found[1].keys()),
            only_candidate=len(found[1].keys() - found[0].keys()),
            pending=len(pending),
            dialogues=len({key.dialogue for key in changed}),
        )

    def __repr__(self) -> str:
        changed = f"{self.counts.changed:,} of {self.counts.paired:,} turns changed"
        return f"<convbatch.ReplyDiff {self.names[0]} → {self.names[1]}: {changed}>"

    def turns(self, *, everything: bool = False) -> Iterator[TurnDiff]:
        """Yield the turns that changed, in the order of the base.

        Args:
            everything: Also those that did not change, or have no other side; the candidate's own come last.
        """
        base, candidate = self._digests_of
        wanted = {key for key in candidate if everything or self._is_changed(key)}
        others = {key: turn for key, turn in self._rows(self._sides[1]) if key in wanted}
        for key, turn in self._rows(self._sides[0]):
            if key in base and (everything or key in others):
                yield TurnDiff(key=key, base=turn, candidate=others.pop(key, None))
        for key, turn in others.items():
            yield TurnDiff(key=key, base=None, candidate=turn)

    def _is_changed(self, key: TurnKey) -> bool:
        base, candidate = (digests.get(key, _PENDING) for digests in self._digests_of)
        return base != candidate and _PENDING not in (base, candidate)

    def _rows(self, side: SelectedRun) -> Iterator[tuple[TurnKey, SideTurn]]:
        targets = set(side.targets)
        for row in read_rows(side.run.turns_path, _COLUMNS):
            if row[1] in targets and self._chosen.fits(row):
                yield TurnKey(row[0], "" if self._is_single else row[1], row[2], row[3]), SideTurn(*row[5:])

    def _digests(self, side: SelectedRun) -> Iterator[tuple[TurnKey, bytes]]:
        for key, turn in self._rows(side):
            content = "\0".join(_answer(turn)).encode("utf-8", "surrogatepass")
            yield key, _PENDING if turn.status == "pending" else hashlib.blake2b(content, digest_size=16).digest()

    def _nothing_fits(self) -> SetupError:
        rows = [row for side in self._sides for row in read_rows(side.run.turns_path, ("dialogue",))]
        names = {row[0] for row in rows}
        near = nearest(self._chosen.ids[0], names) if self._chosen.ids else None
        hint = "leave --id, --tag or --turn out" if near is None else f"did you mean --id {near}?"
        return SetupError("no turn of either run fits these options", hint=hint)


def diff(
    base: Any,
    candidate: Any,
    *,
    ids: str | Iterable[str] = (),
    tags: str | Iterable[str] = (),
    turns: int | Iterable[int] = (),
) -> ReplyDiff:
    """Compare the replies of two sides, turn by turn.

    >>> convbatch.diff((both, "sim-good@simulator"), (both, "sim-drift@simulator")).counts.paired
    40

    Args:
        base: A `Run`, a path or name, `RUN:target`, or a pair of run and target.
        candidate: As `base`.
        ids: Only these dialogues (globs allowed).
        tags: Only dialogues with one of these tags.
        turns: Only these turns, from 1.

    Raises:
        SetupError: There is no such run or target, several targets have different names, or no turn is chosen.
    """
    chosen = TurnFilter(
        ids=(ids,) if isinstance(ids, str) else tuple(ids),
        tags=(tags,) if isinstance(tags, str) else tuple(tags),
        turns=(turns,) if isinstance(turns, int) else tuple(turns),
    )
    return ReplyDiff(base, candidate, chosen)
