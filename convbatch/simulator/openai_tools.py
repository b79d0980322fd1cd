"""Tools on the wire of chat completions, from the server's side: declarations, the order of calls and results.

As at DeepSeek, `sim-think` wants the reasoning of its own calls back. Sources:
https://platform.openai.com/docs/guides/function-calling and https://api-docs.deepseek.com/guides/thinking_mode, read
2026-11-27.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from convbatch.simulator.gemini_tools import MISSING, is_signed, sign
from convbatch.simulator.tools import Call, mark_of
from convbatch.simulator.wire import as_list, as_object, encode, in_pieces, refuse

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_AT_ROOT = ("oneOf", "anyOf", "allOf", "enum", "not")
_MOST_TOOLS = 128
_LONGEST_ID = 40
OWN = "call_sim"
"""Start of the ids of the simulator's own calls."""
_UNANSWERED = (
    "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The "
    "following tool_call_ids did not have response messages: {ids}"
)
_ALONE = "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
_NO_REASONING = "Missing `reasoning_content` field in the assistant message at message index {at}."


def declared(tools: Any) -> tuple[dict[str, Any], ...]:
    """Return the declared functions of chat completions; other tools are not checked."""
    listed = as_list(tools) or []
    if len(listed) > _MOST_TOOLS:
        message = f"Invalid 'tools': array too long. Expected an array with maximum length {_MOST_TOOLS}."
        refuse("bad_request", f"{message[:-1]}, but got an array with length {len(listed)} instead.", field="tools")
    functions: list[dict[str, Any]] = []
    for at, item in enumerate(listed):
        tool = as_object(item) or {}
        if tool.get("type") == "function":
            functions.append(check_function(as_object(tool.get("function")), f"tools[{at}].function"))
    return tuple(functions)


def check_function(function: dict[str, Any] | None, where: str) -> dict[str, Any]:
    """Return a declaration as the API takes it."""
    if function is None or not isinstance(function.get("name"), str):
        refuse("bad_request", f"Missing required parameter: '{where}.name'.", field=f"{where}.name")
    name, schema = function["name"], function.get("parameters")
    if not _NAME.fullmatch(name):
        message = f"Invalid '{where}.name': string does not match pattern. Expected a string that matches the pattern"
        refuse("bad_request", f"{message} '^[a-zA-Z0-9_-]+$'.", field=f"{where}.name")
    if schema is not None:
        _check_schema(name, as_object(schema) or {}, f"{where}.parameters")
    return {"name": name, "parameters": schema or {}}


def _check_schema(name: str, schema: Mapping[str, Any], where: str) -> None:
    begin = f"Invalid schema for function '{name}': "
    if schema.get("type") != "object":
        found = encode(schema.get("type")).decode()
        refuse("bad_request", f"{begin}schema must be a JSON Schema of 'type: \"object\"', got 'type: {found}'.",
               field=where)  # fmt: skip
    if any(keyword in schema for keyword in _NOT_AT_ROOT):
        refuse("bad_request", f"{begin}schema must have type 'object' and not have 'oneOf'/'anyOf'/'allOf'/'enum'/'not'"
               " at the top level.", field=where)  # fmt: skip
    for path in _arrays_without_items(schema, ()):
        refuse("bad_request", f"{begin}In context={path}, array schema missing items.", field=where)


def _arrays_without_items(schema: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    part = as_object(schema)
    if part is None:
        return
    if part.get("type") == "array" and "items" not in part and "prefixItems" not in part:
        yield path
    for name, inner in (as_object(part.get("properties")) or {}).items():
        yield from _arrays_without_items(inner, (*path, "properties", name))
    for keyword in ("items", "additionalProperties"):
        yield from _arrays_without_items(part.get(keyword), (*path, keyword))
    for keyword in ("anyOf", "oneOf", "allOf"):
        for at, inner in enumerate(as_list(part.get(keyword)) or ()):
            yield from _arrays_without_items(inner, (*path, keyword, str(at)))


def check_order(messages: Sequence[Mapping[str, Any]], model: str) -> None:
    """Refuse calls whose results do not follow at once, and results without calls."""
    waiting: list[str] = []
    last_user = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=-1)
    for at, message in enumerate(messages):
        if message["role"] == "tool":
            _check_result(message, waiting, at)
            waiting.remove(message["tool_call_id"])
            continue
        _refuse_unanswered(waiting)
        waiting = [_checked_id(call, at, n) for n, call in enumerate(as_list(message.get("tool_calls")) or ())]
        if message["role"] == "assistant" and message.get("tool_calls") == []:
            refuse("bad_request", f"Invalid 'messages[{at}].tool_calls': empty array. Expected an array with minimum "
                   "length 1, but got an empty array instead.", field=f"messages[{at}].tool_calls")  # fmt: skip
        if waiting and model == "sim-signed" and at > last_user:
            _check_signature(message["tool_calls"][0], model, at)
        is_own = at > last_user and any(call.startswith(OWN) for call in waiting)
        if is_own and model == "sim-think" and not message.get("reasoning_content"):
            refuse("bad_request", _NO_REASONING.format(at=at))
    _refuse_unanswered(waiting)


def _check_signature(call: Mapping[str, Any], model: str, at: int) -> None:
    google = as_object((as_object(call.get("extra_content")) or {}).get("google")) or {}
    name = call["function"]["name"]
    if "thought_signature" not in google:
        refuse("bad_request", MISSING.format(name=name, position=at + 1))
    arguments = orjson.loads(call["function"]["arguments"])
    if not is_signed(google["thought_signature"], name, arguments, model):
        refuse("bad_request", "Corrupted thought signature.")


def _refuse_unanswered(waiting: Sequence[str]) -> None:
    if waiting:
        refuse("bad_request", _UNANSWERED.format(ids=", ".join(waiting)), field="messages")


def _check_result(message: Mapping[str, Any], waiting: Sequence[str], at: int) -> None:
    if not isinstance(message.get("tool_call_id"), str):
        refuse("bad_request", f"Missing required parameter: 'messages[{at}].tool_call_id'.", field="messages")
    if message["tool_call_id"] not in waiting:
        refuse("bad_request", _ALONE, field=f"messages.[{at}].role")
    for n, item in enumerate(as_list(message.get("content")) or ()):
        kind = (as_object(item) or {}).get("type")
        if kind != "text":
            refuse("bad_request", f"Invalid value: '{kind}'. Supported values are: 'text'.",
                   field=f"messages[{at}].content[{n}].type")  # fmt: skip


def _checked_id(value: Any, at: int, n: int) -> str:
    where = f"messages[{at}].tool_calls[{n}]"
    call = as_object(value) or {}
    kind = "custom" if call.get("type") == "custom" else "function"
    for name in ("id", "type", kind):
        if not call.get(name):
            refuse("bad_request", f"Missing required parameter: '{where}.{name}'.", field=f"{where}.{name}")
    if len(call["id"]) > _LONGEST_ID:
        message = f"Invalid '{where}.id': string too long. Expected a string with maximum length {_LONGEST_ID}."
        refuse("bad_request", message, field=f"{where}.id")
    if kind == "function" and not isinstance((as_object(call["function"]) or {}).get("arguments"), str):
        field = f"{where}.function.arguments"
        refuse("bad_request", f"Invalid type for '{field}': expected a string, but got an object instead.", field=field)
    return str(call["id"])


def mark(message: Mapping[str, Any]) -> str:
    """Return a mark for the calls of a message, so that histories with other calls differ."""
    calls = [(call["id"], call.get("function") or call["custom"]) for call in message.get("tool_calls") or ()]
    return "".join(mark_of(call_id, said.get("name"), said.get("arguments")) for call_id, said in calls)


def call_plains(calls: Sequence[Call], model: str) -> list[dict[str, Any]]:
    """Return the calls of a step as a message has them; `sim-signed` signs the first as Google's models do."""
    plains: list[dict[str, Any]] = [
        {
            **({} if call.id is None else {"id": f"{OWN}{call.id}"}),
            "type": "function",
            "function": {"name": call.name, "arguments": call.text},
        }
        for call in calls
    ]
    if plains and model == "sim-signed":
        plains[0]["extra_content"] = {"google": {"thought_signature": sign(calls[0], model)}}
    return plains


def call_deltas(calls: Sequence[Call], model: str) -> Iterator[dict[str, Any]]:
    """Yield the deltas of the calls of a step: each begins with its name, and its arguments come in pieces."""
    for index, plain in enumerate(call_plains(calls, model)):
        function = plain["function"]
        begun = {"index": index, **plain, "function": {**function, "arguments": ""}}
        yield {"tool_calls": [begun]}
        for piece in in_pieces(function["arguments"], 3):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
