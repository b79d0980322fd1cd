"""What a file holds that no model is sent, or that is sent although it looks wrong: a note of each, once a file."""

from __future__ import annotations

import re
from collections.abc import Iterator

from convbatch.dataset.formats.builder import Imported
from convbatch.dataset.tool_rules import tool_doubt
from convbatch.dialogue import Dialogue

_NAMED = 12
_REMEMBERED = 1_000
_PLACEHOLDER = re.compile(r"\{\{\s*[^\W\d][\w .-]{0,60}\}\}")


class UnsentKeys:
    """Collects the keys of one file that are kept in `meta` or left out, its first placeholder and doubtful tool."""

    def __init__(self) -> None:
        self._kept: dict[str, None] = {}
        self._left_out: dict[str, None] = {}
        self._placeholder: str | None = None
        self._doubt: str | None = None

    def look(self, imported: Imported, dialogue: Dialogue, position: str) -> None:
        """Record what one valid dialogue has."""
        for seen, names in ((self._kept, imported.kept), (self._left_out, imported.left_out)):
            if len(seen) < _REMEMBERED:
                seen.update(dict.fromkeys(names))
        if self._placeholder is None and (found := _first_placeholder(dialogue)) is not None:
            self._placeholder = f"{found} in {position}"
        if self._doubt is None and (where := tool_doubt(dialogue)) is not None:
            self._doubt = f"{position}: {where}"

    def notes(self, path: str) -> Iterator[str]:
        """Yield the notes, after the last line of the file at `path`."""
        if self._kept:
            yield f'note: {path}: not sent, kept in "meta": {_listed(self._kept)}'
        if self._left_out:
            yield f"note: {path}: not sent, left out of messages and tools: {_listed(self._left_out)}"
        if self._placeholder is not None:
            yield f"note: {path}: {self._placeholder} is sent as it stands; `convbatch expand` fills it"
        if self._doubt is not None:
            yield f"note: {path}: {self._doubt}"


def _listed(names: dict[str, None]) -> str:
    shown = ", ".join(list(names)[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _first_placeholder(dialogue: Dialogue) -> str | None:
    texts = [dialogue.system or ""]
    for turn in dialogue.turns:
        texts += (part.text or "" for part in turn.user)
        texts.append(turn.assistant or "")
    found = (_PLACEHOLDER.search(text) for text in texts if "{{" in text)
    return next((match[0] for match in found if match is not None), None)
