"""Tools on the wire of Responses, from the server's side: declarations, calls and their outputs, and stream events.

Source: https://platform.openai.com/docs/guides/function-calling, read 2026-11-27.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from convbatch.simulator.openai_tools import OWN, check_function
from convbatch.simulator.tools import Call
from convbatch.simulator.wire import as_list, as_object, in_pieces, refuse

CALL_KEYS = {"type", "id", "call_id", "name", "arguments", "status", "namespace"}
OUTPUT_KEYS = {"type", "id", "call_id", "output", "status"}
_OUTPUT_PARTS = ("input_text", "input_image", "input_file")
_LONGEST_ID = 64


def declared(tools: Any) -> tuple[dict[str, Any], ...]:
    """Return the declared functions; other tools are not checked."""
    functions: list[dict[str, Any]] = []
    for at, item in enumerate(as_list(tools) or ()):
        tool = as_object(item) or {}
        if tool.get("type") != "function":
            continue
        if "function" in tool:  # the form of chat completions
            refuse("bad_request", f"Missing required parameter: 'tools[{at}].name'.", field=f"tools[{at}].name")
        function = check_function(tool, f"tools[{at}]")
        if tool.get("strict", True) is not False and not _is_strict(function["parameters"]):
            message = f"Invalid schema for function '{function['name']}': In context=(), 'additionalProperties' is "
            refuse("bad_request", f"{message}required to be supplied and to be false.", field=f"tools[{at}].parameters")
        functions.append(function)
    return tuple(functions)


def _is_strict(schema: Mapping[str, Any]) -> bool:
    properties = as_object(schema.get("properties")) or {}
    return schema.get("additionalProperties") is False and set(schema.get("required") or ()) == set(properties)


def check_call(item: Mapping[str, Any], where: str) -> str:
    """Return the id of a call in the input."""
    for name in ("call_id", "name"):
        if not isinstance(item.get(name), str) or not item[name]:
            refuse("bad_request", f"Missing required parameter: '{where}.{name}'.", field=f"{where}.{name}")
    if not isinstance(item.get("arguments"), str):
        message = f"Invalid type for '{where}.arguments': expected a string, but got an object instead."
        refuse("bad_request", message, field=f"{where}.arguments")
    if len(item["call_id"]) > _LONGEST_ID:
        message = f"Invalid '{where}.call_id': string too long. Expected a string with maximum length {_LONGEST_ID}."
        refuse("bad_request", message, field=f"{where}.call_id")
    return str(item["call_id"])


def check_output(item: Mapping[str, Any], where: str) -> str:
    """Return the id of the call that an output in the input answers."""
    call_id, output = item.get("call_id"), item.get("output")
    if not isinstance(call_id, str):
        refuse("bad_request", f"Missing required parameter: '{where}.call_id'.", field=f"{where}.call_id")
    parts = as_list(output)
    if not isinstance(output, str) and parts is None:
        message = f"Invalid type for '{where}.output': expected one of a string or an array of objects."
        refuse("bad_request", message, field=f"{where}.output")
    for at, part in enumerate(parts or ()):
        kind = (as_object(part) or {}).get("type")
        if kind not in _OUTPUT_PARTS:
            supported = "Supported values are: 'input_text', 'input_image', and 'input_file'."
            refuse("bad_request", f"Invalid value: '{kind}'. {supported}", field=f"{where}.output[{at}].type")
    return call_id


def check_pairs(calls: Sequence[str], outputs: Sequence[tuple[str, int]]) -> None:
    """Refuse calls without an output, and outputs without a call before them.

    Args:
        calls: The ids of all calls, in order.
        outputs: The ids that the outputs answer, each with the number of calls before it.
    """
    for call_id, before in outputs:
        if call_id not in calls[:before]:
            refuse("bad_request", f"No tool call found for function call output with call_id {call_id}.", field="input")
    answered = [call_id for call_id, _ in outputs]
    for call_id in calls:
        if call_id not in answered:
            refuse("bad_request", f"No tool output found for function call {call_id}.", field="input")


def output_text(item: Mapping[str, Any], mark: Callable[[dict[str, Any]], str]) -> str:
    """Return the text of an output, with marks for its media."""
    output = item.get("output")
    if isinstance(output, str):
        return output
    parts = [as_object(part) or {} for part in as_list(output) or ()]
    return "".join(part.get("text") or mark(part) for part in parts)


def call_items(calls: Sequence[Call], item_id: str) -> Iterator[dict[str, Any]]:
    """Yield the calls of a step as items of the output."""
    for at, call in enumerate(calls):
        yield {
            "id": f"{item_id}{at}",
            "type": "function_call",
            "status": "completed",
            **({} if call.id is None else {"call_id": f"{OWN}{call.id}"}),
            "name": call.name,
            "arguments": call.text,
        }


def call_events(index: int, item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of one call; its arguments come in pieces."""
    place = {"item_id": item["id"], "output_index": index}
    begun = {**item, "arguments": "", "status": "in_progress"}
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    for piece in in_pieces(item["arguments"], 3):
        yield {"type": "response.function_call_arguments.delta", **place, "delta": piece, "obfuscation": "x"}
    yield {"type": "response.function_call_arguments.done", **place, "name": item["name"],
           "arguments": item["arguments"]}  # fmt: skip
    yield {"type": "response.output_item.done", "output_index": index, "item": item}
