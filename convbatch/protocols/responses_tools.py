"""Calls of tools and their results on the wire of Responses: items of the input, side by side.

There is no flag for an error, so one travels as `{"error": …}`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from convbatch.dialogue import ToolResult
from convbatch.lazy_regex import lazy_regex
from convbatch.protocols.media_parts import media_part
from convbatch.protocols.tool_history import arguments_text, result_text
from convbatch.tools import ToolCall

CALL_IDS = lazy_regex(r".{1,64}", re.DOTALL)
"""What OpenAI takes as the id of a call."""
_CALLS = ("function_call", "custom_tool_call")


def call_items(calls: Sequence[ToolCall]) -> list[Any]:
    """Return the items of scripted calls."""
    return [
        {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments_text(call)}
        for call in calls
    ]


def result_items(results: Sequence[ToolResult]) -> list[Any]:
    """Return an item for each result; raises `CannotCarry`."""
    return [
        {"type": "function_call_output", "call_id": result.call.id, "output": _output(result)} for result in results
    ]


def _output(result: ToolResult) -> Any:
    if not result.media:
        return result_text(result)
    return [
        {"type": "input_text", "text": result_text(result)},
        *(media_part("responses", part, in_result=True) for part in result.media),
    ]


def name_calls(raw: Any, ids: Sequence[str]) -> Any:
    """Return a model's items with ids for its calls, where a gateway has sent none."""
    if not isinstance(raw, list):
        return raw
    left = list(ids)
    named: list[Any] = []
    for item in raw:
        if isinstance(item, dict) and item.get("type") in _CALLS and left:
            name = left.pop(0)
            item = item if item.get("call_id") else {**item, "call_id": name}
        named.append(item)
    return named
