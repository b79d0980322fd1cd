"""The output items of a response, as they go back into the history, and which of them are the visible text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from convbatch.protocols.decoding import word

_TEXT_PARTS = frozenset({None, "output_text", "text"})
_FINAL = "final_answer"
_REASONING = "reasoning"
_CALLS: Mapping[str, tuple[str, ...]] = {
    "function_call": ("type", "call_id", "name", "arguments"),
    "custom_tool_call": ("type", "call_id", "name", "input"),
}
"""Items with a call of a tool, and the fields that the API needs of them."""


class ResponsesTurn:
    """`TurnFormat` of Responses; stateless. A turn is the list of output items."""

    def skip_text(self, turn: Any, count: int) -> Any:
        """Return the items without the first characters of the visible text; empty parts are omitted."""
        if not isinstance(turn, list):
            return turn
        shown = list(map(id, text_messages(turn)))
        items: list[Any] = []
        for item in turn:
            if id(item) in shown:
                item, count = _skipped(item, count)
            items.append(item)
        return items

    def only_content(self, turn: Any) -> Any:
        """Return the items without reasoning, ids and annotations.

        An item without its id may be sent back alone; with it, the API asks for the reasoning item that came before.
        """
        if not isinstance(turn, list):
            return turn
        return [_bare(item) for item in turn if not _is_reasoning(item)]

    def without_signatures(self, turn: Any) -> Any:
        """Return the items without encrypted reasoning, and without the ids that refer to it."""
        if not isinstance(turn, list) or not any(map(_is_encrypted, turn)):
            return turn
        return _without_reasoning(turn)


def sendable(turn: list[Any]) -> list[Any]:
    """Return the items that the API takes back.

    It refuses reasoning at the end of a turn, without the item that followed, and reasoning of which a gateway left
    only the id. An item without its id needs no reasoning before it.
    """
    if any(_lacks_call_id(item) for item in turn):
        turn = [_called(item) for item in turn]
    if any(_is_reasoning(item) and not (item.get("encrypted_content") or item.get("content")) for item in turn):
        return _without_reasoning(turn)
    end = len(turn)
    while end and _is_reasoning(turn[end - 1]):
        end -= 1
    return turn if end == len(turn) else turn[:end]


def text_messages(items: Iterable[Any]) -> list[Mapping[str, Any]]:
    """Return the messages whose text is the reply: those of the phase `final_answer`, else all."""
    messages = [item for item in items if is_message(item)]
    final = [message for message in messages if message.get("phase") == _FINAL]
    return final if any(text for message in final for text in texts_of(message)) else messages


def is_message(item: Any) -> bool:
    """Whether an item is a message of the assistant; its type may be missing."""
    return isinstance(item, dict) and item.get("type", "message") == "message"


def texts_of(message: Mapping[str, Any]) -> list[str]:
    """Return the visible texts of a message, one for each part."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    return [text for part in parts if (text := _text_of(part)) is not None]


def _text_of(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    is_text = isinstance(part, dict) and word(part.get("type")) in _TEXT_PARTS and isinstance(part.get("text"), str)
    return part["text"] if is_text else None


def _skipped(message: Mapping[str, Any], count: int) -> tuple[Mapping[str, Any], int]:
    """Return a message without the first characters of its text, and how many are still to be skipped."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": content[count:]}, max(0, count - len(content))
    if not isinstance(content, list):
        return message, count
    parts: list[Any] = []
    for part in content:
        text = _text_of(part)
        if text is None:
            parts.append(part)
            continue
        kept, count = text[count:], max(0, count - len(text))
        if kept or not text:
            parts.append(kept if isinstance(part, str) else {**part, "text": kept})
    return {**message, "content": parts}, count


def _is_reasoning(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == _REASONING


def _is_encrypted(item: Any) -> bool:
    return _is_reasoning(item) and bool(item.get("encrypted_content"))


def _without_reasoning(turn: list[Any]) -> list[Any]:
    kept = [item for item in turn if not _is_reasoning(item)]
    return [_without_id(item) if isinstance(item, dict) else item for item in kept]


def _without_id(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _called(item).items() if key != "id"}


def _lacks_call_id(item: Any) -> bool:
    return isinstance(item, dict) and str(item.get("type")) in _CALLS and not item.get("call_id")


def _called(item: Any) -> Any:
    """Return an item with an id for its call, which some gateways have only for the item."""
    return {**item, "call_id": item["id"]} if _lacks_call_id(item) and item.get("id") else item


def _bare(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    item = _called(item)
    if is_message(item):
        bare: dict[str, Any] = {"role": item.get("role") or "assistant", "content": "".join(texts_of(item))}
        return {**bare, "phase": item["phase"]} if item.get("phase") else bare
    keys = _CALLS.get(str(item.get("type")))
    return item if keys is None else {key: item[key] for key in keys if key in item}
