"""What one event of a stream adds to the reply, and whether it is the last, on every wire; for measuring, not reading.

One table for all protocols, because gateways stream in another wire's form as well; the reply itself is folded by the
protocol (`parse_event`). Text and thought are those of `Reply`: no refusals, no arguments of tool calls.

Sources: https://ai.google.dev/api/generate-content, https://platform.openai.com/docs/api-reference/chat-streaming,
https://platform.openai.com/docs/api-reference/responses-streaming, https://docs.anthropic.com/en/docs/build-with-claude/streaming
(read 2026-11-26).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from convbatch.protocols.decoding import word
from convbatch.protocols.sse import RawEvent

_LAST_EVENTS = frozenset({"message_stop", "response.completed", "response.incomplete", "response.failed"})
_LAST_TYPE = re.compile(rb'\s*\{\s*"type"\s*:\s*"message_stop"')
_SHORT = 64
"""Length of data that may be such an end; longer data is not searched."""
TEXT_DELTAS = frozenset({"response.output_text.delta"})
THOUGHT_DELTAS = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})
_THOUGHT_PARTS = frozenset({"thinking", "reasoning"})
_TEXT_PARTS = frozenset({"text", "output_text", None})


class AddedText(NamedTuple):
    """What an event adds."""

    text: str = ""
    thought: str = ""


NOTHING = AddedText()


def ends_stream(events: Iterable[RawEvent]) -> bool:
    """Whether a server sends nothing of the reply after one of these events."""
    for name, data in events:
        if name in _LAST_EVENTS:
            return True
        if len(data) < _SHORT and (data.strip() == b"[DONE]" or (not name and _LAST_TYPE.match(data))):
            return True
    return False


def added_text(value: Any) -> AddedText:
    """Return the text and thought that the decoded data of an event add; nothing for any other value."""
    if not isinstance(value, dict):
        return NOTHING
    if (choices := value.get("choices")) is not None:
        return _of_choice(_first(choices))
    if (candidates := value.get("candidates")) is not None:
        content = _first(candidates).get("content")
        return _of_parts(content.get("parts")) if isinstance(content, dict) else NOTHING
    kind = _text(value.get("type"))
    if kind == "content_block_delta":
        return _of_block(_object(value.get("delta")))
    if kind == "content_block_start":
        return _of_block(_object(value.get("content_block")))
    if kind in TEXT_DELTAS:
        return AddedText(text=_text(value.get("delta")))
    return AddedText(thought=_text(value.get("delta"))) if kind in THOUGHT_DELTAS else NOTHING


def _first(items: Any) -> Mapping[str, Any]:
    """Return the item with index 0; an empty one without it."""
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and item.get("index") in (0, None):
            return item
    return {}


def _of_choice(choice: Mapping[str, Any]) -> AddedText:
    delta = _object(choice.get("delta") or choice.get("message"))
    content = delta.get("content")
    thought = _text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))
    if isinstance(content, list):
        inner = _of_content(content)
        return AddedText(inner.text, thought or inner.thought)
    return AddedText(_text(content), thought)


def _of_content(parts: Iterable[Any]) -> AddedText:
    texts: list[str] = []
    thoughts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            kind = word(part.get("type"))
            if kind in _THOUGHT_PARTS:
                inner = part.get("thinking") or part.get("text") or part.get("reasoning")
                thoughts += [_text(_object(item).get("text")) for item in inner] if isinstance(inner, list) else []
                thoughts.append(_text(inner))
            elif kind in _TEXT_PARTS:
                texts.append(_text(part.get("text")))
    return AddedText("".join(texts), "".join(thoughts))


def _of_parts(parts: Any) -> AddedText:
    texts = thoughts = ""
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, dict) and isinstance(text := part.get("text"), str):
            if part.get("thought"):
                thoughts += text
            else:
                texts += text
    return AddedText(texts, thoughts)


def _of_block(block: Mapping[str, Any]) -> AddedText:
    return AddedText(_text(block.get("text")), _text(block.get("thinking")))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
