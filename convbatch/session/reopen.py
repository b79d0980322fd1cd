"""`resume --retry-failed KIND`: turns that ended in a way the user names are open again.

Each gets a `turn` record of the status `pending` before anything is sent. So the journal says it, and any later
session, table or reader sees the turn as one that was never answered; its attempts stay and count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from convbatch.dataset.reader import count_of
from convbatch.errors import SetupError, did_you_mean
from convbatch.reply import ErrorKind

if TYPE_CHECKING:
    from convbatch.journal.index import Archive, Transcript, TurnHistory
    from convbatch.journal.writer import Journal

ANY = "any"
RESULTS = ("blocked", "empty")
"""States that `any` does not include: the turn has a reply."""
KINDS: tuple[str, ...] = (ANY, *RESULTS, *get_args(ErrorKind))
_AT_ONCE = 500
"""Records in one write."""


def parse_kinds(texts: Sequence[str]) -> frozenset[str]:
    """Return the kinds of `--retry-failed`, each a name or several with commas between.

    Raises:
        SetupError: A name is unknown.
    """
    kinds: set[str] = set()
    for name in (name for text in texts for name in re.split(r"[,，、\s]+", text.strip())):
        kind = name.lower().replace("-", "_")
        if kind not in KINDS:
            raise SetupError(f"--retry-failed: unknown kind {name!r}", hint=did_you_mean(kind, KINDS))
        kinds.add(kind)
    return frozenset(kinds)


@dataclass(slots=True)
class Reopened:
    """What was opened again."""

    kinds: frozenset[str]
    counts: Counter[str] = field(default_factory=Counter)
    """Turns by kind."""
    others: Counter[str] = field(default_factory=Counter)
    """Turns that failed in another way."""
    behind: int = 0
    """Turns that were skipped because of one of them."""
    paid: int = 0
    """Of the turns, those that have a reply."""
    possibly_paid: int = 0
    """Of the others, those with an attempt that may have been paid."""

    def __bool__(self) -> bool:
        return bool(self.counts)

    def lines(self) -> Iterator[str]:
        """Yield what is said before anything is sent."""
        if not self.counts:
            others = f"; there are: {_listed(self.others)}" if self.others else ""
            yield f"no turn of this run failed with {' or '.join(sorted(self.kinds))}{others}"
            return
        behind = f", and {count_of(self.behind, 'turn')} skipped behind them" if self.behind else ""
        yield f"asked again: {_listed(self.counts)}{behind}"
        costs = [f"{self.paid} had a reply, which was paid"] if self.paid else []
        costs += [f"{self.possibly_paid} may have been paid"] if self.possibly_paid else []
        if costs:
            yield f"of these turns {' and '.join(costs)}; what is sent now is paid in addition"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


async def reopen(journal: Journal, past: Archive, kinds: frozenset[str]) -> Reopened:
    """Write that the turns of these kinds are pending again, with those that were skipped behind them.

    Raises:
        JournalError: The records may not be durable; nothing was sent.
    """
    found = Reopened(kinds)
    records: list[dict[str, Any]] = []
    for transcript in past.transcripts():
        records += _of_conversation(transcript, found)
        if len(records) >= _AT_ONCE:
            await journal.commit(*records)
            records = []
    if records:
        await journal.commit(*records)
    return found


def _of_conversation(transcript: Transcript, found: Reopened) -> Iterator[dict[str, Any]]:
    is_open = False
    for number, turn in transcript.turns.items():
        kind = failed_kind(turn)
        if is_open and turn.status == "skipped":
            found.behind += 1
        elif kind is None:
            continue
        elif not _is_one_of(kind, found.kinds):
            found.others[kind] += 1
            continue
        else:
            is_open = True
            found.counts[kind] += 1
            found.paid += turn.kept is not None
            found.possibly_paid += turn.kept is None and turn.possibly_paid > 0
        yield {
            "kind": "turn",
            "index": transcript.index,
            "dialogue": transcript.dialogue,
            "target": transcript.target,
            "repeat": transcript.repeat,
            "turn": number,
            "key": turn.key,
            "status": "pending",
            "reopens": turn.status,
        }


def failed_kind(turn: TurnHistory) -> str | None:
    """Return the kind of a turn that failed, was blocked or is empty, as the tables name it; else None."""
    if turn.status in RESULTS:
        return turn.status
    if turn.status != "error":
        return None
    return "malformed_output" if turn.kept is not None else turn.error_kind


def _is_one_of(kind: str, kinds: Iterable[str]) -> bool:
    return kind in kinds or (ANY in kinds and kind not in RESULTS)
