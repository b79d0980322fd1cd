"""Transcripts as the data of a page: what `show` prints of each dialogue, within the size of a page.

A page that would be too large has the dialogues that failed first, and says how many it leaves out.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from convbatch.dialogue import Dialogue
from convbatch.errors import SetupError
from convbatch.journal.media_store import STORED, read_media
from convbatch.media import type_of_path
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
MOST_MEDIA_BYTES, MOST_FILE_BYTES = 6 * 2**20, 2 * 2**20
"""Of all pictures and sound on a page, and of one of them; of the others the page has the path."""
_SHOWN = {
    "image/png": "image/png",
    "image/jpeg": "image/jpeg",
    "image/gif": "image/gif",
    "image/webp": "image/webp",
    "audio/wav": "audio/wav",
    "audio/mp3": "audio/mpeg",
    "audio/ogg": "audio/ogg",
    "audio/flac": "audio/flac",
    "audio/mp4": "audio/mp4",
    "video/mp4": "video/mp4",
    "video/webm": "video/webm",
}
"""Types that a browser shows without running anything, with its name of them; SVG is not among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLimits:
    """The most that a page has."""

    turns: int = 10_000
    """Rows: a turn of each target and repeat."""
    characters: int = 20 * 2**20
    """Bytes of JSON, before compression."""


class _Packed(NamedTuple):
    """A dialogue as it goes into the page."""

    number: int
    dialogue: str
    turns: int
    content: bytes


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
            self.limits = PageLimits(turns=turns, characters=size)
            self.taken.append(packed)


class TranscriptData:
    """Collects dialogues for a page; keeps no more than fit: `first` ones, then those that failed, then the others.

    Args:
        runs: The runs, for their media and names.
        first: Ids of dialogues that go before all others.
        limits: The most that a page has.
    """

    def __init__(self, runs: Sequence[Run], *, first: Collection[str] = (), limits: PageLimits | None = None) -> None:
        self._runs = runs
        self._first = first
        names = target_names(runs)
        self._offsets = list(itertools.accumulate(map(len, names), initial=0))
        self._columns = [
            {"name": name, "history": run.manifest.history}
            for run, of_run in zip(runs, names, strict=True)
            for name in of_run
        ]
        self._limits = limits or PageLimits()
        self._groups = [_Group(self._limits) for _ in range(3)]
        self._media: dict[str, dict[str, str]] = {}
        self._media_room = MOST_MEDIA_BYTES
        self.seen = 0
        """Number of dialogues."""

    def add(self, dialogue: Dialogue, columns: Sequence[TranscriptColumn]) -> None:
        """Take a dialogue if there is room for it."""
        has_failed = any(column.has_failed(EVERYTHING) for column in columns)
        group = self._groups[0 if dialogue.id in self._first else 1 if has_failed else 2]
        turns = sum(len(column.turns) for column in columns)
        if turns <= group.limits.turns:
            group.take(_Packed(self.seen, dialogue.id, turns, orjson.dumps(self._dialogue(dialogue, columns))))
        self.seen += 1

    def pack(self) -> tuple[bytes, frozenset[str]]:
        """Return the data as JSON, and the ids of the dialogues in it."""
        chosen = _Group(self._limits)
        for packed in itertools.chain.from_iterable(group.taken for group in self._groups):
            chosen.take(packed)
        dialogues = b",".join(packed.content for packed in sorted(chosen.taken))
        head = orjson.dumps({"columns": self._columns, "media": self._media})
        return head[:-1] + b',"dialogues":[' + dialogues + b"]}", frozenset(packed.dialogue for packed in chosen.taken)

    def _dialogue(self, dialogue: Dialogue, columns: Sequence[TranscriptColumn]) -> dict[str, Any]:
        run = self._runs[columns[0].order[0]] if columns else self._runs[0]
        turns: list[dict[str, Any]] = []
        for turn in dialogue.turns:
            media = [part.path or part.uri for part in turn.user if part.kind != "text"]
            script = [[label.strip(), _text(text)] for label, text in scripted(turn)]
            turns.append(_filled({
                "user": _text(turn.user_text), "media": [self._medium(run, one) for one in media if one],
                "script": script, "ask": None if turn.ask else False, "assistant": _text(turn.assistant),
            }))  # fmt: skip
        return _filled({
            "id": dialogue.id, "tags": list(dialogue.tags), "system": _text(dialogue.system), "turns": turns,
            "line": _line(dialogue), "replies": [self._column(dialogue, column) for column in columns],
        })  # fmt: skip

    def _column(self, dialogue: Dialogue, column: TranscriptColumn) -> dict[str, Any]:
        place, number, _ = column.order
        run = self._runs[place]
        users = dict(enumerate((turn.user_text for turn in dialogue.turns), 1))
        return _filled({
            "column": self._offsets[place] + number, "name": column.name,
            "failed": column.has_failed(EVERYTHING),
            "turns": [
                self._turn(run, row, column.verdicts_on(row.turn), users.get(row.turn)) for row in column.turns.values()
            ],
            "verdicts": _verdicts(column.verdicts_on(None)),
        })  # fmt: skip

    def _turn(self, run: Run, row: TurnRow, verdicts: Sequence[TranscriptVerdict], user: str | None) -> dict[str, Any]:
        media: list[str] = json.loads(row.media or "[]")
        other = None if row.user == user else _text(row.user)
        return _filled({
            "turn": row.turn, "user": other, "status": row.status, "finish": row.finish_reason,
            "error": row.error_kind, "thought": _text(row.thought), "calls": [_text(one) for one in call_lines(row)],
            "reply": _text(row.reply), "media": [self._medium(run, path) for path in media],
            "facts": [_text(fact) for fact in facts(row)], "verdicts": _verdicts(verdicts),
        })  # fmt: skip

    def _medium(self, run: Run, path: str) -> str:
        """Return the path, after taking the content of a picture, sound or film if there is room for it."""
        kind = type_of_path(path)
        if path in self._media or STORED.fullmatch(path) is None or kind is None or kind.mime_type not in _SHOWN:
            return path
        try:
            content = read_media(run.path, path)
        except SetupError:  # lost: its name stands there
            return path
        if len(content) <= min(MOST_FILE_BYTES, self._media_room):
            self._media_room -= len(content)
            self._media[path] = {"type": _SHOWN[kind.mime_type], "data": base64.b64encode(content).decode()}
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
