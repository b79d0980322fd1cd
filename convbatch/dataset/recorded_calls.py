"""Recorded tool steps of other formats: declarations, calls with their results, and what a live run answers from them.

The calls of a model and their results become `tool_calls` of the turn, as they stand in the record; the same results
become `tool_results`, each for the arguments that it was recorded for. Here is no format: how a message writes a call
is in `formats/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from convbatch.dataset.jsonl import RefusedValue, display_json, parse_value
from convbatch.errors import Issue


class RecordedResult(NamedTuple):
    """The recorded result of a call."""

    value: Any
    id: Any = None
    """Of the call that it answers; None: the name decides, else the order."""
    name: Any = None
    is_error: bool = False
    media: tuple[dict[str, Any], ...] = ()


class RecordedSteps:
    """The tool steps of one dialogue: those of the current turn, and the results of all turns."""

    def __init__(self) -> None:
        self._steps: list[list[dict[str, Any]]] = []
        self._done: list[dict[str, Any]] = []

    def add_step(self, calls: Sequence[dict[str, Any]]) -> None:
        """Add calls that were made at once, after the results of the calls before them."""
        self._steps.append([dict(call) for call in calls])

    def add_parallel(self, calls: Sequence[dict[str, Any]]) -> None:
        """Add calls to the last step."""
        self._steps[-1] += [dict(call) for call in calls]

    def answer(self, result: RecordedResult) -> bool:
        """Give a call of the last step its result; False when no open call fits."""
        waiting = self.waiting
        by_id = [call for call in waiting if result.id is not None and call.get("id") == result.id]
        nameless = result.id is None or not any("id" in call for call in waiting)
        by_name = [call for call in waiting if nameless and result.name in (None, call["name"])]
        if not by_id and not by_name:
            return False
        call = (by_id or by_name)[0]
        call["error" if result.is_error else "result"] = result.value
        if result.media:
            call["media"] = list(result.media)
        return True

    @property
    def waiting(self) -> list[dict[str, Any]]:
        """The calls of the last step that have no result."""
        return [call for call in self._steps[-1] if not _is_answered(call)] if self._steps else []

    def take_unanswered(self) -> list[dict[str, Any]]:
        """Remove the last step if none of its calls has a result, and return its calls."""
        is_open = bool(self._steps) and not any(map(_is_answered, self._steps[-1]))
        return self._steps.pop() if is_open else []

    def take_turn(self) -> list[list[dict[str, Any]]]:
        """Return the steps of the current turn and begin the next one."""
        steps, self._steps = self._steps, []
        self._done += [call for step in steps for call in step if _is_answered(call)]
        return steps

    def results(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the `tool_results` of these tools.

        A tool that gave one result for one set of arguments gives it to every such call; otherwise each result is
        given once, in the recorded order, to a call with at least its recorded arguments.
        """
        found: dict[str, Any] = {}
        for name in names:
            entries = [_entry(call) for call in self._done if call["name"] == name]
            if entries:
                found[name] = entries[0] if all(entry == entries[0] for entry in entries) else entries
        return found


def _is_answered(call: Mapping[str, Any]) -> bool:
    return "result" in call or "error" in call


def _entry(call: Mapping[str, Any]) -> dict[str, Any]:
    match = {"match": call["arguments"]} if call["arguments"] else {}
    return match | {key: call[key] for key in ("result", "error", "media") if key in call}


# Calls


_NAMES, _IDS = ("name", "function_name", "tool_name"), ("id", "call_id", "tool_call_id", "toolUseId")
_ARGUMENTS = ("arguments", "args", "input", "parameters")
_CALL_HINT = 'a call has the name of a function and a JSON object: {"name": "f", "arguments": {"city": "Lima"}}'


def read_calls(value: Any) -> list[dict[str, Any]] | Issue:
    """Return the calls in a list, an object or its JSON text, in any of the known forms; an issue for other values."""
    if isinstance(value, str):
        try:
            value = parse_value(value.encode())
        except RefusedValue:
            return Issue(what="a recorded call that is not JSON", found=display_json(value), hint=_CALL_HINT)
    calls: list[dict[str, Any]] = []
    for one in value if isinstance(value, list) else [value]:
        call = _read_call(one)
        if isinstance(call, Issue):
            return call
        calls.append(call)
    return calls


def _read_call(value: Any) -> dict[str, Any] | Issue:
    plain: Any = value
    ids: list[Any] = []
    while isinstance(plain, dict):
        ids += [plain[key] for key in _IDS if isinstance(plain.get(key), str) and plain[key]]
        inner = next((plain[key] for key in ("function", "functionCall", "toolUse") if key in plain), None)
        if not isinstance(inner, dict):
            break
        plain = inner
    if not isinstance(plain, dict):
        return Issue(what="a recorded call of an unknown form", found=display_json(value), hint=_CALL_HINT)
    name = next((plain[key] for key in (*_NAMES, "function") if isinstance(plain.get(key), str)), None)
    if name is None or plain.get("type") == "custom":
        return Issue(what="a recorded call of an unknown form", found=display_json(value), hint=_CALL_HINT)
    arguments = _arguments(next((plain[key] for key in _ARGUMENTS if plain.get(key) is not None), None))
    if arguments is None:
        what = f"the arguments of a recorded call of {display_json(name)} are no JSON object"
        return Issue(what=what, found=display_json(value), hint="only objects can be replayed: correct the call")
    return {**({"id": ids[0]} if ids else {}), "name": name, "arguments": arguments}


def _arguments(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str) and value.strip():
        try:
            value = parse_value(value.encode())
        except RefusedValue:
            return None
    if value in (None, ""):
        return {}
    return value if isinstance(value, dict) else None


# Declarations


_TOOLS_HINT = '{"type": "function", "function": {"name": "…", "parameters": {…}}} or {"name": "…", "parameters": {…}}'
_SCHEMAS = ("parameters", "input_schema", "inputSchema", "parametersJsonSchema", "parameters_json_schema")
_DECLARED = ("type", "name", "description", "cache_control", *_SCHEMAS)


class Declarations(NamedTuple):
    """The function declarations of another format."""

    tools: list[dict[str, Any]]
    """In the canonical form."""
    left_out: list[str]
    """Keys that have no canonical form."""


def read_declarations(value: Any) -> Declarations | Issue:
    """Return the declarations in a list, an object or its JSON text; an issue for tools that are no functions."""
    if isinstance(value, str):
        try:
            value = parse_value(value.encode())
        except RefusedValue as refusal:
            what = f'"tools" is {refusal.issue.what}'
            return Issue(what=what, found=display_json(value), hint=f"a list like [{_TOOLS_HINT}]")
    tools: list[dict[str, Any]] = []
    left_out: dict[str, None] = {}
    for row in _rows(value):
        function = row["function"] if isinstance(row, dict) and isinstance(row.get("function"), dict) else row
        if not _is_function(function):
            return Issue(what="tools other than functions", found=display_json(row), hint=_TOOLS_HINT)
        schema = next((function[key] for key in _SCHEMAS if function.get(key) is not None), None)
        if isinstance(schema, dict) and set(schema) == {"json"}:
            schema = schema["json"]  # Bedrock
        kept = {key: function[key] for key in ("name", "description") if function.get(key) is not None}
        tools.append(kept if schema is None else {**kept, "parameters": schema})
        left_out.update(dict.fromkeys(f"{key} of a tool" for key in function if key not in _DECLARED))
    return Declarations(tools, list(left_out))


def _rows(value: Any) -> list[Any]:
    rows: list[Any] = []
    for row in value if isinstance(value, list) else [value]:
        if (
            isinstance(row, dict)
            and set(row) in ({"functionDeclarations"}, {"function_declarations"})
            and isinstance(next(iter(row.values())), list)
        ):
            rows += next(iter(row.values()))
        elif isinstance(row, dict) and set(row) == {"toolSpec"}:
            rows.append(row["toolSpec"])
        else:
            rows.append(row)
    return rows


def _is_function(function: Any) -> bool:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return False
    is_custom = function.get("type") == "custom" and "input_schema" in function  # Anthropic's word for a function
    return is_custom or function.get("type", "function") == "function"


_TYPES = ("STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL")


def is_google_schema(schema: Any) -> bool:
    """Whether a schema of parameters is in Google's form."""
    return isinstance(schema, dict) and schema.get("type") in _TYPES


def google_schema(schema: Any) -> Any:
    """Return a schema in Google's form, with types in capitals and `nullable`, as JSON Schema."""
    if isinstance(schema, list):
        return [google_schema(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: google_schema(value) for key, value in schema.items()}
    if plain.get("type") in _TYPES:
        plain["type"] = plain["type"].lower()
    if plain.get("nullable") is True and isinstance(plain.get("type"), str):
        del plain["nullable"]
        plain["type"] = [plain["type"], "null"]
    return plain
