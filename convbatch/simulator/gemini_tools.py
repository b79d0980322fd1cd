"""Tools on Google's wire, from the server's side: declarations, the order of calls and results, signatures of calls.

Signed as Gemini 3 does it: the first call of a step has a signature, which must be on it in every step of the current
turn. Sources: https://ai.google.dev/gemini-api/docs/function-calling and /thought-signatures, read 2026-11-27.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from convbatch.simulator.replies import SimulatedReply
from convbatch.simulator.schemas import google_problem
from convbatch.simulator.tools import Call, mark_of
from convbatch.simulator.wire import as_list, as_object, encode, refuse

_NAME = re.compile(r"[A-Za-z_][\w.:-]{0,127}", re.ASCII)
_DUMMIES = frozenset({"skip_thought_signature_validator", "context_engineering_is_the_way_to_go"})
_BEFORE_3 = re.compile(r"gemini-[12]\b")
_DECLARATION = frozenset(
    {"name", "description", "parameters", "parametersJsonSchema", "response", "responseJsonSchema", "behavior"}
)
_RESPONSE = frozenset({"id", "name", "response", "parts", "willContinue", "scheduling"})
MISSING = (
    "Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly, "
    "and missing thought_signature may lead to degraded model performance. Additional data, function call "
    "`default_api:{name}`, position {position}."
)
_COUNT = (
    "Please ensure that the number of function response parts is equal to the number of function call parts of the "
    "function call turn."
)
_CALL_PLACE = (
    "Please ensure that function call turn comes immediately after a user turn or after a function response turn."
)
_RESPONSE_PLACE = "Please ensure that function response turn comes immediately after a function call turn."

Content = tuple[str, list[dict[str, Any]]]
"""Role and parts, with camelCase keys."""


def declared(tools: Any, config: Mapping[str, Any], model: str) -> tuple[dict[str, Any], ...]:
    """Return the declared functions, each with its JSON Schema as `parameters`."""
    functions: list[dict[str, Any]] = []
    for at, item in enumerate(as_list(tools) or ()):
        tool = as_object(item) or {}
        listed = as_list(tool.get("functionDeclarations", tool.get("function_declarations")))
        for number, function in enumerate(listed or ()):
            functions.append(_function(function, f"tools[{at}].function_declarations[{number}]"))
    if functions and config.get("responseMimeType") == "application/json" and _BEFORE_3.match(model):
        refuse("bad_request", "Function calling with a response mime type: 'application/json' is unsupported")
    return tuple(functions)


def _function(value: Any, where: str) -> dict[str, Any]:
    function = _camel_keys(as_object(value) or {})
    for name in function.keys() - _DECLARATION:
        message = f"Invalid JSON payload received. Unknown name \"{name}\" at '{where}': Cannot find field."
        refuse("bad_request", message, field=where)
    if not isinstance(function.get("name"), str) or not _NAME.fullmatch(function["name"]):
        message = (
            f"Invalid value at '{where}.name': Invalid function name. Must start with a letter or an underscore. Must "
            "be alphanumeric (a-z, A-Z, 0-9), underscores (_), dots (.), colons (:), or dashes (-), with a maximum "
            "length of 128."
        )
        refuse("bad_request", message, field=where)
    if "parameters" in function and "parametersJsonSchema" in function:
        refuse("bad_request", f"* GenerateContentRequest.{where}: only one of parameters and parameters_json_schema.")
    schema = function.get("parametersJsonSchema", function.get("parameters"))
    if schema is not None and "parameters" not in function and (wrong := google_problem(schema)) is not None:
        refuse("bad_request", wrong, field=where)
    if schema is not None and str((as_object(schema) or {}).get("type")).lower() != "object":
        refuse("bad_request", f"* GenerateContentRequest.{where}.parameters: must be an object schema", field=where)
    return {"name": function["name"], "parameters": schema or {}}


def _camel_keys(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {re.sub(r"_([a-z])", lambda found: found[1].upper(), key): value for key, value in fields.items()}


def check_order(contents: Sequence[Content], model: str) -> None:
    """Refuse calls and results that are not in the order of the API, and calls without their signature."""
    waiting: list[dict[str, Any]] = []
    current = max((at for at, (role, parts) in enumerate(contents) if _begins_turn(role, parts)), default=0)
    before = "model"
    for at, (role, parts) in enumerate(contents):
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        results = [_checked_result(part["functionResponse"], at) for part in parts if "functionResponse" in part]
        if (waiting and not results) or (waiting and len(results) != len(waiting)):
            refuse("bad_request", _COUNT)
        if results and (not waiting or role == "model"):
            refuse("bad_request", _RESPONSE_PLACE)
        if calls and (role != "model" or before == "model"):
            refuse("bad_request", _CALL_PLACE)
        if results:
            _match(waiting, results)
        if calls and at > current:
            _check_signatures(parts, model, at)
        waiting, before = calls, role


def _begins_turn(role: str, parts: Sequence[Mapping[str, Any]]) -> bool:
    return role != "model" and not any("functionResponse" in part for part in parts)


def _checked_result(value: Any, at: int) -> dict[str, Any]:
    result = _camel_keys(as_object(value) or {})
    where = f"contents[{at}].parts[0].function_response"
    for name in result.keys() - _RESPONSE:
        message = f"Invalid JSON payload received. Unknown name \"{name}\" at '{where}': Cannot find field."
        refuse("bad_request", message, field=where)
    if not result.get("name"):
        refuse("bad_request", f"* GenerateContentRequest.{where}.name: Name cannot be empty.\n", field=where)
    if as_object(result.get("response")) is None:
        found = encode(result.get("response")).decode()
        message = f"Invalid value at '{where}.response' (type.googleapis.com/google.protobuf.Struct), {found}"
        refuse("bad_request", message, field=where)
    return result


def _match(calls: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
    """Refuse results of other calls; with ids their order is free."""
    if all(call.get("id") for call in calls) and all(result.get("id") for result in results):
        same = sorted((call["id"], call["name"]) for call in calls) == sorted(
            (result["id"], result["name"]) for result in results
        )
    else:
        same = [call.get("name") for call in calls] == [result["name"] for result in results]
    if not same:
        refuse("bad_request", "Function responses do not match the function calls of the function call turn.")


def _check_signatures(parts: Sequence[Mapping[str, Any]], model: str, at: int) -> None:
    calls = [part for part in parts if "functionCall" in part]
    for number, part in enumerate(calls):
        signature = part.get("thoughtSignature")
        name = part["functionCall"].get("name")
        if number == 0 and signature is None:
            refuse("bad_request", MISSING.format(name=name, position=at + 1))
        if signature is not None and not is_signed(signature, str(name), part["functionCall"].get("args") or {}, model):
            refuse("bad_request", "Corrupted thought signature.")


def _is_seal(signature: str, seal: bytes) -> bool:
    plain = signature.translate(str.maketrans("-_", "+/"))  # google-genai decodes and encodes it again
    try:
        return b64decode(plain) == seal
    except ValueError:
        return False


def _seal(name: str, arguments: Any, model: str) -> bytes:
    content = orjson.dumps([name, arguments, model], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(content, key=b"simulator", digest_size=24).digest()


def call_parts(calls: Sequence[Call], model: str) -> list[dict[str, Any]]:
    """Return the parts of the calls of a step, the first one signed."""
    parts: list[dict[str, Any]] = []
    for call in calls:
        made = {} if call.id is None else {"id": call.id}
        part: dict[str, Any] = {"functionCall": {**made, "name": call.name, "args": call.arguments}}
        if not parts:
            part["thoughtSignature"] = sign(call, model)
        parts.append(part)
    return parts


def sign(call: Call, model: str) -> str:
    """Return the signature of a call."""
    return b64encode(_seal(call.name, call.arguments, model)).decode()


def is_signed(signature: object, name: str, arguments: Any, model: str) -> bool:
    """Whether a signature is that of a call, or one of the dummies that the API takes."""
    return signature in _DUMMIES or (isinstance(signature, str) and _is_seal(signature, _seal(name, arguments, model)))


def sayable(reply: SimulatedReply) -> SimulatedReply:
    """Return a reply as Google sends it: without content where a call has no arguments in an object."""
    if all(isinstance(call.arguments, dict) for call in reply.calls):
        return reply
    return replace(reply, text="", calls=(), visible_tokens=0, finish="malformed")


def call_mark(value: Mapping[str, Any]) -> str:
    """Return a mark for a call, without its signature."""
    return mark_of(value.get("id"), value.get("name"), value.get("args") or {})


def result_text(value: Mapping[str, Any], mark: Callable[[dict[str, Any]], str]) -> str:
    """Return a result as the model reads it, with marks for its media."""
    result = _camel_keys(value)
    parts = [_camel_keys(as_object(part) or {}) for part in as_list(result.get("parts")) or ()]
    return encode(result.get("response")).decode() + "".join(map(mark, parts))
