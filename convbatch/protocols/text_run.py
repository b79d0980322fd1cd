"""Join the events of a stream in a row that differ in nothing but one piece of text, as nearly all of them do.

Folding the joined event gives the same reply as folding each of them: what is the same in all is written once, and of
running counts the last are valid. So an event costs one comparison instead of a fold. Which events may be joined is one
table for all protocols (as in `stream_text.py`): only those of which each protocol takes the text and nothing that adds
up, such as lists of tokens, and only after the first of them was looked at closely.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from convbatch.protocols.error_bodies import claims_error
from convbatch.protocols.stream_text import TEXT_DELTAS, THOUGHT_DELTAS, added_text

_PARTS = frozenset({"text", "thought"})
_TEXTS = ("content", "reasoning_content", "reasoning")
_MOST_LONE = 8
"""After so many runs of one event in a row, none is begun any more: each event of this stream differs in something."""
_NOT_FOLDED = ("sequence_number", "obfuscation", "logprobs")
"""Fields of the deltas of Responses that no protocol takes into the reply; a run removes them."""
_Holder = dict[str, Any]


class _Place(NamedTuple):
    """Where the text is in an event that adds nothing else."""

    find: Callable[[Any], _Holder]
    """Returns the object that holds the text; raises KeyError, TypeError or ValueError where there is none."""
    key: str
    counts_key: str = ""
    """Where running counts may be."""
    ignored: tuple[str, ...] = ()


class TextRun:
    """The latest events of a stream that are all alike; empty at first."""

    def __init__(self) -> None:
        self.name: str | None = None
        """Name of the events; None when there are none."""
        self._value: Any = None
        """The first event. Others are compared with its text and counts in the place of theirs."""
        self._texts: list[str] = []
        self._counts: dict[str, Any] = {}
        self._lone = 0
        self._find: Callable[[Any], _Holder] = _itself
        self._key = self._counts_key = ""
        self._ignored: tuple[str, ...] = ()
        self.is_thought = False
        """Whether their text is a thought."""

    def take(self, value: Any) -> str | None:
        """Add an event of the same name if it is like those before it, and return its text; None for another event.

        Args:
            value: Its decoded data, which are changed.
        """
        key, counts_key = self._key, self._counts_key
        try:
            holder = self._find(value)
            text = holder[key]
            counts: Any = value[counts_key] if counts_key else None
        except (KeyError, TypeError, ValueError):
            return None
        if type(text) is not str or (counts_key and (type(counts) is not dict or None in counts.values())):
            return None
        holder[key] = self._texts[0]
        if counts_key:
            value[counts_key] = self._value[counts_key]
        for ignored in self._ignored:
            value.pop(ignored, None)
        if value == self._value:
            self._texts.append(text)
            if counts_key:
                self._counts.update(counts)
            return text
        return None

    def begin(self, name: str, value: Any) -> bool:
        """Begin with this event if others may be joined to it; false if not. The run must be empty."""
        if self._lone > _MOST_LONE or not isinstance(value, dict) or claims_error(value):
            return False
        try:
            place = _place(value)
            text = None if place is None else place.find(value)[place.key]
        except (KeyError, TypeError, ValueError, AttributeError):
            return False
        added = added_text(value)
        if place is None or not text or added not in ((text, ""), ("", text)):
            return False
        self._find, self._key, self._counts_key, self._ignored = place
        if isinstance(counts := value.get(self._counts_key), dict):
            self._counts = {key: count for key, count in counts.items() if count is not None}
        else:
            self._counts_key = ""
        for key in self._ignored:
            value.pop(key, None)
        self.name, self._value, self._texts, self.is_thought = name, value, [text], not added.text
        return True

    def end(self) -> tuple[str, Any] | None:
        """Return the name and the value of one event instead of all, and be empty; None if it was."""
        name, value = self.name, self._value
        if name is None:
            return None
        self.name = None
        if len(self._texts) == 1:
            self._lone += 1
            return name, value
        self._lone = 0
        self._find(value)[self._key] = "".join(self._texts)
        if self._counts_key:
            value[self._counts_key] = self._counts
        return name, value


def _place(value: dict[str, Any]) -> _Place | None:
    """Return where the text of an event is; None for one that may add anything else."""
    if "candidates" in value:
        (candidate,), part = value["candidates"], _part(value)
        is_plain = _is_first(candidate, "logprobsResult") and part.keys() <= _PARTS
        return _Place(_part, "text", "usageMetadata") if is_plain else None
    if "choices" in value:
        (choice,), delta = value["choices"], _delta_of_choice(value)
        texts = [key for key, item in delta.items() if item and key != "role"]
        is_plain = _is_first(choice, "logprobs", "error", "message") and len(texts) == 1 and texts[0] in _TEXTS
        return _Place(_delta_of_choice, texts[0], "usage") if is_plain else None
    if value.get("type") == "content_block_delta":
        key = "text" if "text" in value["delta"] else "thinking"
        return _Place(_delta, key) if value["delta"].keys() <= {"type", key} else None
    if value.get("type") in TEXT_DELTAS or value.get("type") in THOUGHT_DELTAS:
        return _Place(_itself, "delta", ignored=_NOT_FOLDED)
    return None


def _is_first(item: dict[str, Any], *without: str) -> bool:
    """Whether an item is the one that is read, and has none of some fields."""
    return item.get("index") in (0, None) and not any(item.get(key) for key in without)


def _part(value: Any) -> _Holder:
    (candidate,) = value["candidates"]
    (part,) = candidate["content"]["parts"]
    return part


def _delta_of_choice(value: Any) -> _Holder:
    (choice,) = value["choices"]
    return choice["delta"]


def _delta(value: Any) -> _Holder:
    return value["delta"]


def _itself(value: Any) -> _Holder:
    return value
