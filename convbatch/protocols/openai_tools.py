"""Calls of tools and their results on the wire of chat completions.

Each result is a message of its own, right behind the message with the calls. There is no flag for an error, so one
travels as `{"error": …}`. Google's models behind this wire refuse a call without a signature as they do on their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from convbatch.dialogue import Message, ToolResult
from convbatch.protocols.media_parts import media_part
from convbatch.protocols.tool_history import (
    DUMMY_NOTE,
    DUMMY_SIGNATURE,
    arguments_text,
    result_text,
)
from convbatch.tools import ToolCall

_CALL_IDS = re.compile(r".{1,40}", re.DOTALL)
_MISTRAL_IDS = re.compile(r"[A-Za-z0-9]{9}")
_MISTRAL = re.compile(r"(?:.*/)?(?:(?:mi|mini|code|magi|dev|vox)stral|pixtral)", re.IGNORECASE)
DUMMY = {"google": {"thought_signature": DUMMY_SIGNATURE}}
"""`extra_content` of a call, as Google's compatible route has it."""
_GEMINI = re.compile(r"(?:.*/)?gemini-", re.IGNORECASE)


def call_ids(model: str) -> re.Pattern[str]:
    """Return what OpenAI, or the provider of the model, takes as the id of a call."""
    return _MISTRAL_IDS if _MISTRAL.match(model) else _CALL_IDS


def is_gemini(model: str) -> bool:
    """Whether a model is one of Google's, by its name."""
    return _GEMINI.match(model) is not None


def call_message(content: Any, calls: Sequence[ToolCall], *, is_google: bool) -> dict[str, Any]:
    """Return the message of scripted calls of one step."""
    made: list[dict[str, Any]] = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments_text(call)}}
        for call in calls
    ]
    if is_google:
        made[0]["extra_content"] = DUMMY
    return {"role": "assistant", "content": content, "tool_calls": made}


def result_messages(results: Sequence[ToolResult]) -> list[Any]:
    """Return a message for each result; raises `CannotCarry`."""
    for part in (part for result in results for part in result.media):
        media_part("openai", part, in_result=True)  # raises
    return [{"role": "tool", "tool_call_id": result.call.id, "content": result_text(result)} for result in results]


def name_calls(raw: Any, ids: Sequence[str]) -> Any:
    """Return a model's message with ids for its calls, where a gateway has sent none."""
    calls = raw.get("tool_calls") if isinstance(raw, dict) else None
    if not isinstance(calls, list) or len(calls) != len(ids):
        return raw
    named = [call if call.get("id") else {"type": "function", **call, "id": name}
             for call, name in zip(calls, ids, strict=True)]  # fmt: skip
    return {**raw, "tool_calls": named}


def dummy_note(messages: Iterable[Message]) -> str | None:
    """Return the note on replies of one of Google's models to a history with a dummy signature."""
    return DUMMY_NOTE if any(message.calls and message.raw is None for message in messages) else None
