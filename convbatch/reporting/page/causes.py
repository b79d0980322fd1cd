"""Failed turns grouped by cause: the same check with a reason of the same shape, or the same error.

The shape of a reason is the reason without what differs from turn to turn: quoted texts and numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote

from convbatch.console.html import Markup, element
from convbatch.console.text import shorten
from convbatch.dialogue import Dialogue
from convbatch.reporting.page.tables import counted
from convbatch.results.transcripts import TranscriptColumn

CAUSES_TITLE = "Failures by cause"
CAUSES_SHOWN = 30
PLACES_SHOWN = 50
MOST_CAUSES = 5_000
"""Remembered; in a run with more, later new ones are counted together."""
_SHAPE_SHOWN = 200
_REASON_READ = 1_000
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|“[^”]*”|「[^」]*」')
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_BROKEN = frozenset({"error", "skipped"})
"""Turns without a reply fail all their checks: their cause is the error."""


class Cause(NamedTuple):
    """What failures have in common."""

    what: str
    """A check, or a kind of error."""
    shape: str


class Place(NamedTuple):
    """Where something failed."""

    dialogue: str
    turn: int | None
    """None: the dialogue as a whole."""

    @property
    def link(self) -> str:
        """The address of the place in the page."""
        name = quote(self.dialogue, safe="")
        return f"#{name}" if self.turn is None else f"#{name}/{self.turn}"

    def __str__(self) -> str:
        return self.dialogue if self.turn is None else f"{self.dialogue}, turn {self.turn}"


@dataclass(slots=True)
class _Failures:
    example: str
    count: int = 0
    targets: Counter[str] = field(default_factory=Counter[str])
    places: dict[Place, None] = field(default_factory=dict[Place, None])


class Causes:
    """Collects the failures of transcripts."""

    def __init__(self) -> None:
        self._found: dict[Cause, _Failures] = {}

    def add(self, dialogue: Dialogue, columns: Sequence[TranscriptColumn]) -> None:
        """Count the failures of a dialogue."""
        for column in columns:
            for turn, what, reason in _failures(column):
                self._count(Place(dialogue.id, turn), column, what, reason)

    def _count(self, place: Place, column: TranscriptColumn, what: str, reason: str) -> None:
        cause = Cause(what, shape_of(reason))
        if cause not in self._found and len(self._found) >= MOST_CAUSES:
            cause = Cause("other causes", "")
        group = self._found.setdefault(cause, _Failures(reason))
        group.count += 1
        group.targets[column.name] += 1
        if len(group.places) < PLACES_SHOWN:
            group.places[place] = None

    def sections(self) -> Iterator[Markup]:
        """Yield each cause, the most frequent first, with the places where it was met."""
        found = sorted(self._found.items(), key=lambda item: -item[1].count)
        if not found:
            yield element("p", "Nothing failed.")
        for cause, group in found[:CAUSES_SHOWN]:
            yield _section(cause, group)
        if len(found) > CAUSES_SHOWN:
            yield element("p", f"… and {len(found) - CAUSES_SHOWN:,} rarer causes: convbatch show --failed")


def shape_of(reason: str) -> str:
    """Return a reason with `…` for quoted texts and `#` for numbers, without the reply that is quoted at its end."""
    quoted = _QUOTED.sub("“…”", reason[:_REASON_READ]).partition(": “…”")[0]
    return shorten(" ".join(_NUMBER.sub("#", quoted).split()), _SHAPE_SHOWN)


def _failures(column: TranscriptColumn) -> Iterator[tuple[int | None, str, str]]:
    """Yield the turn, what failed, and why."""
    broken: set[int | None] = {number for number, row in column.turns.items() if row.status in _BROKEN}
    for number, row in column.turns.items():
        if row.status == "error":
            yield number, f"error: {row.error_kind}", row.error_message or ""
    for verdict in column.verdicts:
        if verdict.passed is False and verdict.turn not in broken and (verdict.turn is not None or not broken):
            yield verdict.turn, f"check {verdict.check}", verdict.reason


def _section(cause: Cause, group: _Failures) -> Markup:
    by_target = ", ".join(f"{name} {count:,}" for name, count in group.targets.most_common())
    links = [element("li", element("a", str(place), href=place.link)) for place in group.places]
    more = group.count - len(group.places)
    return element(
        "details",
        element("summary", element("b", f"{group.count:,} ×"), " ", element("span", cause.what, class_="what"),
                f" {cause.shape}"),
        element("p", f"By target: {by_target}"),
        element("p", f"For example: {shorten(group.example, _REASON_READ)}"),
        element("ul", *links, class_="places"),
        *([element("p", f"… and {counted(more, 'more failure')} in these and other turns")] if more > 0 else []),
        class_="cause",
    )  # fmt: skip
