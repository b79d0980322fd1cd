"""Which models answered a target's requests: counts by the name in the reply, and notes on those that were not asked.

How two names are compared is `served_model.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from convbatch.journal.manifest import ManifestTarget
from convbatch.served_model import ServedMatch, match_served

NAMES_SHOWN = 3
LONGEST_NAME = 100
"""Names in a note, and characters of each: a gateway may invent any number of any length."""


class ServedCount(NamedTuple):
    """Replies of one target that name the same model."""

    served: str | None
    """None: replies without a model name."""
    replies: int
    match: ServedMatch | None
    """None as `served`."""

    @property
    def as_asked(self) -> bool | None:
        """Value of the column `served_as_asked`."""
        return None if self.match is None else self.match != "other"


def served_counts(target: ManifestTarget, replies: Mapping[str | None, int]) -> list[ServedCount]:
    """Compare the model names in a target's replies with the asked one; the most frequent first."""
    counts = sorted(replies.items(), key=lambda item: (-item[1], item[0] or ""))
    return [
        ServedCount(name or None, count, match_served(target.model, name, target.gateway.aliases) if name else None)
        for name, count in counts
    ]


def served_notes(target: ManifestTarget, counts: Sequence[ServedCount]) -> Iterator[str]:
    """Yield a note on replies of another model, and one on what a `-latest` name stands for."""
    total = sum(count.replies for count in counts)
    others = [count for count in counts if count.match == "other"]
    if others:
        yield f"{target.name}: {_served_by(others, total)}, not by {target.model}"
    newest = [count for count in counts if count.match == "latest"]
    if newest:
        yield f"{target.name}: {_served_by(newest, total)}, which {target.model} stands for now"


def _served_by(counts: Sequence[ServedCount], total: int) -> str:
    replies = sum(count.replies for count in counts)
    verb = "was" if replies == 1 else "were"
    head = f"{replies:,} of {total:,} replies {verb} served by"
    if len(counts) == 1:
        return f"{head} {_cut(counts[0].served)}"
    names = [f"{_cut(count.served)} ({count.replies:,})" for count in counts[:NAMES_SHOWN]]
    more = len(counts) - NAMES_SHOWN
    return f"{head} {', '.join(names)}" + (f" and {more:,} other names" if more > 0 else "")


def _cut(name: str | None) -> str:
    line = " ".join((name or "").splitlines())
    return line[:LONGEST_NAME] + ("…" if len(line) > LONGEST_NAME else "")
