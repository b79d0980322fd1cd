"""Transcripts as the data of a page: what `show` prints of each dialogue, within the size of a page.

A page that would be too large has the dialogues that failed first, and says how many it leaves out.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import orjson

from convbatch.dialogue import Dialogue
from convbatch.reporting.page.page_media import PageMedia
from convbatch.results.filters import EVERYTHING
from convbatch.results.run import Run
from convbatch.results.several import target_names
from convbatch.results.transcripts import (
    TranscriptColumn,
    TranscriptVerdict,
    TurnRow,
    call_lines,
    facts,
    scripted,
    verdict_lines,
)

MOST_CHARACTERS = 50_000
"""Of one text; a reply can have megabytes."""
Flips = Mapping[int | None, str]
"""By turn (None: the dialogue's own checks): `worse` or `better`."""
NO_FLIPS: Flips = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLimits:
    """The most that a page has."""

    turns: int = 20_000
    """Rows: a turn of each target and repeat."""
    characters: int = 48 * 2**20
    """Bytes of JSON, before compression."""
    packed: int = 18 * 2**20
    """Bytes after it; base64 makes them a third more."""


class PageColumn(NamedTuple):
    """A target of a run, side by side with others."""

    place: int
    """Of its run."""
    number: int
    """Of its target in the run."""
    name: str
    role: str = ""
    """In a comparison: base, candidate."""


class PackedTranscripts(NamedTuple):
    """The data of a page."""

    packed: bytes
    """JSON, compressed."""
    seen: int
    """Number of dialogues that could be in it."""
    kept: int
    """Number of those that are."""
    media_left_out: int


class _Packed(NamedTuple):
    """A dialogue as it goes into the page."""

    number: int
    turns: int
    content: bytes
    media: Sequence[tuple[int, str]]
    """Places of runs, and paths."""


class _Group:
    """Dialogues within limits."""

    def __init__(self, limits: PageLimits) -> None:
        self.limits = limits
        """What is left."""
        self.taken: list[_Packed] = []

    def take(self, packed: _Packed) -> None:
        """Keep a dialogue, if it fits."""
        turns, size = self.limits.turns - packed.turns, self.limits.characters - len(packed.content)
        if turns >= 0 and size >= 0:
            self.limits = replace(self.limits, turns=turns, characters=size)
            self.taken.append(packed)


def page_columns(runs: Sequence[Run]) -> list[PageColumn]:
    """Return every target of every run."""
    return [
        PageColumn(place, number, name)
        for place, names in enumerate(target_names(runs))
        for number, name in enumerate(names)
    ]


class TranscriptData:
    """Collects dialogues for a page and keeps no more than fit: flipped ones first, then failed ones, then the others.

    Args:
        runs: The runs, for their media.
        columns: The targets to show, in order.
        limits: The most that the page has.
    """

    def __init__(self, runs: Sequence[Run], columns: Sequence[PageColumn], limits: PageLimits | None = None) -> None:
        self._runs = runs
        self._columns = columns
        self._at = {(column.place, column.number): at for at, column in enumerate(columns)}
        self._limits = limits or PageLimits()
        self._groups = [_Group(self._limits) for _ in range(3)]
        self._seen = 0

    def select(self, columns: Sequence[TranscriptColumn]) -> list[TranscriptColumn]:
        """Return the columns that match the filters and are of the page's targets, in its order."""
        chosen = [column for column in columns if column.matches and column.order[:2] in self._at]
        return sorted(chosen, key=lambda column: (self._at[column.order[:2]], column.order[2]))

    def add(self, dialogue: Dialogue, columns: Sequence[TranscriptColumn], flips: Flips = NO_FLIPS) -> None:
        """Take a dialogue if there is room for it."""
        has_failed = any(column.has_failed(EVERYTHING) for column in columns)
        group = self._groups[0 if flips else 1 if has_failed else 2]
        turns = sum(len(column.turns) for column in columns)
        if turns <= group.limits.turns:
            writer = _Writer()
            content = orjson.dumps(self._dialogue(writer, dialogue, columns, flips))
            group.take(_Packed(self._seen, turns, content, writer.media))
        self._seen += 1

    def pack(self, start: str | None = None) -> PackedTranscripts:
        """Return the data.

        Args:
            start: The address of what the page shows first; None: its first failure.
        """
        limits = self._limits
        while True:
            chosen = _Group(limits)
            for packed in itertools.chain.from_iterable(group.taken for group in self._groups):
                chosen.take(packed)
            media = PageMedia()
            for place, path in itertools.chain.from_iterable(one.media for one in chosen.taken):
                media.add(self._runs[place], path)
            found = gzip.compress(self._json(chosen.taken, media, start), 6, mtime=0)
            if len(found) <= limits.packed or not chosen.taken:
                return PackedTranscripts(found, self._seen, len(chosen.taken), media.left_out)
            size = sum(len(one.content) for one in chosen.taken)
            limits = replace(limits, characters=int(size * 0.9 * limits.packed / len(found)))

    def _json(self, taken: Sequence[_Packed], media: PageMedia, start: str | None) -> bytes:
        columns = [
            {"name": column.name, "role": column.role, "history": self._runs[column.place].manifest.history}
            for column in self._columns
        ]
        head = orjson.dumps({"columns": columns, "media": media.contents, "start": start})
        dialogues = b",".join(packed.content for packed in sorted(taken))
        return head[:-1] + b',"dialogues":[' + dialogues + b"]}"

    def _dialogue(
        self, writer: _Writer, dialogue: Dialogue, columns: Sequence[TranscriptColumn], flips: Flips
    ) -> dict[str, Any]:
        place = columns[0].order[0] if columns else 0
        users = dict(enumerate((turn.user_text for turn in dialogue.turns), 1))
        turns: list[dict[str, Any]] = []
        for turn in dialogue.turns:
            media = [part.path or part.uri for part in turn.user if part.kind != "text"]
            script = [[label.strip(), _text(text)] for label, text in scripted(turn)]
            turns.append(_filled({
                "user": _text(turn.user_text), "media": [writer.medium(place, one) for one in media if one],
                "script": script, "ask": None if turn.ask else False, "assistant": _text(turn.assistant),
            }))  # fmt: skip
        replies = [writer.column(self._at[column.order[:2]], column, users) for column in columns]
        return _filled({
            "id": dialogue.id, "tags": list(dialogue.tags), "system": _text(dialogue.system), "turns": turns,
            "flips": [[turn, change] for turn, change in flips.items()], "line": _line(dialogue), "replies": replies,
        })  # fmt: skip


class _Writer:
    """Writes the replies to a dialogue, and notes their media."""

    def __init__(self) -> None:
        self.media: list[tuple[int, str]] = []

    def column(self, at: int, column: TranscriptColumn, users: Mapping[int, str]) -> dict[str, Any]:
        turns = [self._turn(column, row, users) for row in column.turns.values()]
        return _filled({
            "column": at, "name": column.name, "failed": column.has_failed(EVERYTHING) or None, "turns": turns,
            "verdicts": _verdicts(column.verdicts_on(None)),
        })  # fmt: skip

    def _turn(self, column: TranscriptColumn, row: TurnRow, users: Mapping[int, str]) -> dict[str, Any]:
        place = column.order[0]
        media: list[str] = json.loads(row.media or "[]")
        results = [
            one and [_text(one.line), [self.medium(place, path) for path in one.media]]
            for one in column.results.get(row.turn, ())
        ]
        return _filled({
            "turn": row.turn, "user": None if row.user == users.get(row.turn) else _text(row.user),
            "status": row.status, "finish": row.finish_reason, "error": row.error_kind, "thought": _text(row.thought),
            "calls": [_text(one) for one in call_lines(row)], "results": results, "reply": _text(row.reply),
            "media": [self.medium(place, path) for path in media], "facts": [_text(fact) for fact in facts(row)],
            "verdicts": _verdicts(column.verdicts_on(row.turn)),
        })  # fmt: skip

    def medium(self, place: int, path: str) -> str:
        self.media.append((place, path))
        return path


def _verdicts(verdicts: Sequence[TranscriptVerdict]) -> dict[str, Any] | None:
    """Return which checks there are with what they say, and the lines to print."""
    if not verdicts:
        return None
    return {
        "checks": [[verdict.check, verdict.passed] for verdict in verdicts],
        "lines": [[passed, _text(line)] for passed, line in verdict_lines(verdicts)],
    }


def _line(dialogue: Dialogue) -> str | None:
    """Return the line of a dataset; None for one so long that the page does not have it."""
    line = orjson.dumps(dialogue.to_plain()).decode()
    return line if len(line) <= 2 * MOST_CHARACTERS else None


def _text(text: str | None) -> str | None:
    """Return a text, cut to what a page has of one."""
    if text is None or len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}\n… {len(text) - MOST_CHARACTERS:,} more characters: convbatch show"


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is empty: most fields of most turns are."""
    return {name: value for name, value in fields.items() if value not in (None, [], ())}
