"""The scripted results of a dialogue's tools, used up by the model's calls in the order in which they come.

The form of the results is the dataset contract's (`dataset/schema.py` has validated it). Nothing here waits or sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convbatch.dialogue import Dialogue, HistoryMode, ToolResult, media_from_plain
from convbatch.tools import ToolCall, contains_arguments, is_conditional_result


class NoResult(Exception):  # control flow: the turn ends
    """A call has no scripted result; the message says which, and why."""


def is_order_dependent(dialogue: Dialogue, history: HistoryMode) -> bool:
    """Whether the results of a turn's calls depend on calls in other turns that are no part of its question.

    Such a turn with calls cannot be reused: its key does not tell which entries of a list its model was given.
    """
    has_lists = any(isinstance(results, list) for results in dialogue.tool_results.values())
    return has_lists and history != "live" and len(dialogue.asked(history)) > 1


class ToolScript:
    """The scripted results of one conversation that are left."""

    def __init__(self, dialogue: Dialogue) -> None:
        self._declared = {tool["name"] for tool in dialogue.tools}
        self._results = dialogue.tool_results
        self._used: frozenset[tuple[str, int]] = frozenset()

    def answer(self, calls: Sequence[ToolCall]) -> tuple[ToolResult, ...]:
        """Return one result for each of the calls of one step.

        Raises:
            NoResult: One of the calls has none; then no result is used up.
        """
        used = set(self._used)
        results = tuple(self._result(call, used) for call in calls)
        self._used = frozenset(used)
        return results

    def _result(self, call: ToolCall, used: set[tuple[str, int]]) -> ToolResult:
        if call.name not in self._declared:
            raise NoResult(f"the tool {call.name} is not declared")
        if not isinstance(call.arguments, dict):
            raise NoResult(f"the arguments of {call.name} are not a JSON object")
        if call.name not in self._results:
            raise NoResult(f"tool_results has no result for {call.name}")
        scripted = self._results[call.name]
        if not isinstance(scripted, list):
            if not _fits(scripted, call):
                raise NoResult(f"tool_results has no result for these arguments of {call.name}")
            return _to_result(scripted, call)
        for position, entry in enumerate(scripted):
            if (call.name, position) not in used and _fits(entry, call):
                used.add((call.name, position))
                return _to_result(entry, call)
        is_empty = all((call.name, position) in used for position in range(len(scripted)))
        why = "are used up" if is_empty else "have none left for these arguments"
        raise NoResult(f"the results of {call.name} in tool_results {why}")


def _fits(entry: Any, call: ToolCall) -> bool:
    return not is_conditional_result(entry) or contains_arguments(call.arguments, entry.get("match", {}))


def _to_result(entry: Any, call: ToolCall) -> ToolResult:
    if not is_conditional_result(entry):
        return ToolResult(call=call, value=entry)
    is_error = "error" in entry
    value = entry["error"] if is_error else entry["result"]
    return ToolResult(call=call, value=value, is_error=is_error, media=media_from_plain(entry.get("media", ())))
