"""Calls of tools and their results on the Gemini wire.

The results of one step are one content of the user, as many as there were calls. Gemini 3 and later refuse a call of
the current turn without a signature, so the first call of a scripted step has a dummy. It is sent to older models too:
they take none into account, and Google answers requests for some of them with newer ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convbatch.dialogue import Message, ToolResult
from convbatch.protocols.media_parts import media_part
from convbatch.protocols.tool_history import DUMMY_NOTE, DUMMY_SIGNATURE
from convbatch.protocols.wire import CannotCarry
from convbatch.tools import ToolCall

_BEFORE_3 = re.compile(r"(?:.*/)?gemini-(?:[12](?:\.\d+)?(?:-|$)|pro(?:-vision)?$)", re.IGNORECASE)


def is_before_3(model: str) -> bool:
    """Return whether a model is older than Gemini 3, by its name."""
    return _BEFORE_3.match(model) is not None


def refuse_json_beside_tools(body: Mapping[str, Any], model: str) -> None:
    """Raise `CannotCarry` for tools and a reply in JSON in one request, which models before Gemini 3 refuse."""
    config = body.get("generationConfig") or {}
    if body.get("tools") and config.get("responseMimeType") == "application/json" and is_before_3(model):
        raise CannotCarry(
            f"response_schema beside tools ({model} takes one or the other, Gemini 3 and later take both): "
            "remove the setting or the tools, or ask another model"
        )


def call_parts(calls: Sequence[ToolCall]) -> list[Any]:
    """Return the parts of scripted calls of one step."""
    parts: list[Any] = []
    for call in calls:
        made = {} if call.id is None else {"id": call.id}
        part: dict[str, Any] = {"functionCall": {**made, "name": call.name, "args": call.arguments}}
        parts.append(part if parts else {**part, "thoughtSignature": DUMMY_SIGNATURE})
    return parts


def results_content(results: Sequence[ToolResult]) -> dict[str, Any]:
    """Return the content with the results of one step; raises `CannotCarry`."""
    return {"role": "user", "parts": [{"functionResponse": _response(result)} for result in results]}


def _response(result: ToolResult) -> dict[str, Any]:
    value = result.value
    if result.is_error:
        value = {"error": value}
    elif not isinstance(value, dict):
        value = {"output": value}
    made = {} if result.call.id is None else {"id": result.call.id}
    media = {"parts": [media_part("gemini", part, in_result=True) for part in result.media]} if result.media else {}
    return {**made, "name": result.call.name, "response": value, **media}


def dummy_note(messages: Iterable[Message]) -> str | None:
    """Return the note on replies to a history with a dummy signature."""
    return DUMMY_NOTE if any(has_dummy(message) for message in messages) else None


def has_dummy(message: Message) -> bool:
    """Return whether a message has a dummy signature."""
    if message.raw is None:
        return bool(message.calls)
    parts = message.raw.get("parts") if isinstance(message.raw, dict) else None
    return isinstance(parts, list) and any(
        isinstance(part, dict) and part.get("thoughtSignature") == DUMMY_SIGNATURE for part in parts
    )
