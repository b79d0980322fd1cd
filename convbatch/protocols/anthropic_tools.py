"""Calls of tools and their results on the wire of Messages.

All results of a step stand first in the next message of the user; what the user says then follows in the same message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from convbatch.dialogue import Message, ToolResult
from convbatch.protocols.media_parts import media_part
from convbatch.protocols.tool_history import value_text

CALL_IDS = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What Anthropic takes as the id of a call."""


def call_message(message: Message) -> dict[str, Any]:
    """Return the message of scripted calls of one step."""
    texts = [{"type": "text", "text": part.text} for part in message.parts if part.text]
    made = [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments} for call in message.calls]
    return {"role": "assistant", "content": [*texts, *made]}


def result_message(results: Sequence[ToolResult]) -> dict[str, Any]:
    """Return the message with the results of one step; raises `CannotCarry`."""
    return {"role": "user", "content": [_result(result) for result in results]}


def _result(result: ToolResult) -> dict[str, Any]:
    content: Any = value_text(result.value)
    if result.media:
        texts = [{"type": "text", "text": content}] if content.strip() else []
        content = [*texts, *(media_part("anthropic", part, in_result=True) for part in result.media)]
    flag = {"is_error": True} if result.is_error else {}
    return {"type": "tool_result", "tool_use_id": result.call.id, "content": content, **flag}


def results_first(messages: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the messages with what the user says behind results in the message of the results."""
    joined: list[Any] = []
    for message in messages:
        if joined and message.get("role") == "user" and _has_results(joined[-1]):
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            joined[-1] = {"role": "user", "content": [*joined[-1]["content"], *blocks]}
        else:
            joined.append(message)
    return joined


def _has_results(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) and message.get("role") == "user" else None
    return isinstance(content, list) and bool(content) and content[0].get("type") == "tool_result"


def name_calls(raw: Any, ids: Sequence[str]) -> Any:
    """Return a model's message with ids for its calls, where a gateway has sent none."""
    content = raw.get("content") if isinstance(raw, dict) else None
    if not isinstance(content, list):
        return raw
    left = list(ids)
    named: list[Any] = []
    for block in content:
        if isinstance(block, dict) and block.get("type") == "tool_use" and left:
            name = left.pop(0)
            block = block if block.get("id") else {**block, "id": name}
        named.append(block)
    return {**raw, "content": named}
