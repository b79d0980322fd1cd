"""Tool calls as values, and the comparison of their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

DEFAULT_MAX_STEPS = 8
"""Model calls in one turn, where the dialogue does not say `max_steps`."""

RESULT_KEYS = frozenset({"match", "result", "error", "media"})
"""Keys of a scripted result with conditions; an object with other keys is a plain result, as is any other value."""


class ToolCall(NamedTuple):
    """A tool call; `arguments` are parsed, or the raw string if that is not JSON."""

    id: str | None
    name: str
    arguments: Any


def is_conditional_result(entry: Any) -> bool:
    """Return whether an entry of `tool_results` is a result with its conditions, and not a plain value."""
    return isinstance(entry, Mapping) and bool({"result", "error"} & entry.keys()) and entry.keys() <= RESULT_KEYS


def contains_arguments(arguments: Any, required: Mapping[str, Any]) -> bool:
    """Return whether arguments contain all required ones with equal values; others are allowed."""
    return isinstance(arguments, dict) and all(
        key in arguments and equal_as_json(arguments[key], value) for key, value in required.items()
    )


def equal_as_json(left: Any, right: Any) -> bool:
    """Return whether two values are equal as JSON: 1 equals 1.0, and neither equals true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal_as_json(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal_as_json, left, right))
    return bool(left == right)
