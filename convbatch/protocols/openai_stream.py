"""The chunks of a stream of chat completions, merged into one body as it would have come whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.protocols.finish_reasons import is_finish
from convbatch.protocols.growing import Growing, GrowingText, is_text, with_items, with_lists, with_text
from convbatch.protocols.wire import MalformedReply

_TEXT_KEYS = frozenset({"content", "reasoning", "reasoning_content", "refusal"})


class ChatMerge:
    """Adds chunks to a copy of a body."""

    def __init__(self, whole: Mapping[str, Any]) -> None:
        self._whole = dict(whole)
        choices = whole.get("choices")
        self._choice: dict[str, Any] = dict(choices[0]) if choices else {}
        self._has_choice = bool(choices)
        message = self._choice.get("message")
        self._message: dict[str, Any] | None = None if message is None else dict(message)
        self._texts: dict[str, list[str]] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Add a chunk."""
        for key, value in chunk.items():
            if key == "choices":
                self._add_choices(value)
            elif key == "usage" and isinstance(value, dict):
                # Running totals: the last value of each field applies; nothing is added up.
                old = self._whole.get(key)
                new = {name: count for name, count in value.items() if count is not None}
                self._whole[key] = {**(old if isinstance(old, dict) else {}), **new}
            elif value is not None and value != "":
                self._whole[key] = value

    def done(self) -> dict[str, Any]:
        """Return the body."""
        for key in tuple(self._texts):
            self._end_text(key)
        if self._message is not None:
            self._choice["message"] = self._message
        if self._has_choice:
            self._whole["choices"] = [self._choice]
        return self._whole

    def _add_choices(self, new: Any) -> None:
        if not isinstance(new, list | None):
            raise MalformedReply("choices is not a list")
        self._whole.setdefault("choices", [])
        for item in new or ():
            if not isinstance(item, dict):
                raise MalformedReply("choices contains no objects")
            if item.get("index") not in (0, None):
                continue
            self._has_choice = True
            for key, value in item.items():
                self._add_field(key, value)

    def _add_field(self, key: str, value: Any) -> None:
        choice = self._choice
        if key in ("delta", "message"):
            self._add_delta(value)
        elif key == "logprobs" and isinstance(value, dict):
            choice[key] = with_lists(choice.get(key), value)
        elif value is not None and (key != "finish_reason" or is_finish(value) or not choice.get(key)):
            choice[key] = value

    def _add_delta(self, delta: Any) -> None:
        """Add a delta; texts of one field are joined before they are added."""
        if not isinstance(delta, dict | None):
            raise MalformedReply("a delta that is not an object")
        if self._message is None:
            self._message = {}
        for key, value in (delta or {}).items():
            if key in _TEXT_KEYS and isinstance(value, str):
                pieces = self._texts.get(key)
                if pieces is not None:
                    pieces.append(value)
                    continue
                if is_text(self._message.setdefault(key, None)):
                    self._texts[key] = [value]
                    continue
            self._add_other(self._message, key, value)

    def _add_other(self, message: dict[str, Any], key: str, value: Any) -> None:
        if value is None:
            message.setdefault(key, None)
            return
        self._end_text(key)
        if key == "tool_calls":
            message[key] = _with_calls(message.get(key) or [], value)
        elif isinstance(value, list):
            message[key] = with_items(_as_parts(message.get(key)), value)
        else:
            message[key] = value

    def _end_text(self, key: str) -> None:
        pieces = self._texts.pop(key, None)
        if pieces is not None and self._message is not None:
            self._message[key] = with_text(self._message.get(key), "".join(pieces))


def _as_parts(value: Any) -> list[Any] | Growing[Any]:
    """Return the content before a list of parts: parts, or a text as the first part."""
    if isinstance(value, GrowingText):
        value = value.settled()
    if isinstance(value, list | Growing):
        return value
    return [{"type": "text", "text": value}] if isinstance(value, str) and value else []


def _with_calls(calls: list[Any], fragments: Any) -> list[Any]:
    """Join the fragments of tool calls by `index`, which is removed at the end of the stream."""
    if not isinstance(fragments, list) or not all(isinstance(fragment, dict) for fragment in fragments):
        raise MalformedReply("a delta whose tool_calls is not a list of calls")
    grown = list(calls)
    for fragment in fragments:
        at = _position(grown, fragment)
        if at == len(grown):
            grown.append(dict(fragment))
        else:
            grown[at] = _with_fragment(grown[at], fragment)
    return grown


def _position(calls: list[Any], fragment: Mapping[str, Any]) -> int:
    index, call_id = fragment.get("index"), fragment.get("id")
    if isinstance(index, int):
        return next((at for at, call in enumerate(calls) if call.get("index") == index), len(calls))
    # Servers without an index send complete calls, or the id once and then the rest of the call.
    if call_id and all(call.get("id") != call_id for call in calls):
        return len(calls)
    return max(len(calls) - 1, 0)


def _with_fragment(call: Mapping[str, Any], fragment: Mapping[str, Any]) -> dict[str, Any]:
    grown = dict(call)
    for key, value in fragment.items():
        if key == "function" and isinstance(value, dict):
            old = grown.get(key)
            grown[key] = _with_function(old if isinstance(old, dict) else {}, value)
        elif value not in (None, ""):
            grown[key] = value
    return grown


def _with_function(function: Mapping[str, Any], fragment: Mapping[str, Any]) -> dict[str, Any]:
    grown = dict(function)
    for key, value in fragment.items():
        if key == "arguments" and isinstance(value, str) and is_text(old := grown.get(key)):
            grown[key] = with_text(old, value)
        elif value not in (None, ""):
            grown[key] = value
    return grown


def without_call_indexes(whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the body without `index` in its calls, as in a response that is not streamed."""
    choices = whole.get("choices")
    message = choices[0].get("message") if choices else None
    if not choices or not message or not message.get("tool_calls"):
        return whole
    bare = [{key: value for key, value in call.items() if key != "index"} for call in message["tool_calls"]]
    return {**whole, "choices": [{**choices[0], "message": {**message, "tool_calls": bare}}]}
