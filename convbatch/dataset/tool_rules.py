"""Rules for the tools of a dialogue: declarations, scripted results, and scripted calls in its turns.

Input has passed the types of `schema.py`. Which results answer which call of a run is `dataset/tool_script.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from convbatch.checks.json_schema import first_violation, schema_problem
from convbatch.checks.safe_regex import CheckError, CheckTimeout
from convbatch.dataset.jsonl import display_json
from convbatch.dialogue import MEDIA_KINDS, Dialogue
from convbatch.errors import Issue, did_you_mean
from convbatch.tools import RESULT_KEYS, is_conditional_result

PartProblem = Callable[[dict[str, Any]], tuple[str, str]]
"""What is wrong with a part of a message, with a hint; empty texts where nothing is."""
_PART_KEYS = (*MEDIA_KINDS, "data", "mime_type", "uri", "detail")
_CALL_KEYS = ("name", "arguments", "id", "result", "error", "media")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}|[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_CALL_EXAMPLE = '{"name": "get_weather", "arguments": {"city": "Lima"}, "result": {"celsius": 21}}'
_TYPE_NAMES = {
    **dict.fromkeys(("dict", "map", "json", "OBJECT"), "object"),
    **dict.fromkeys(("str", "text", "STRING", "date", "datetime"), "string"),
    **dict.fromkeys(("int", "long", "INTEGER"), "integer"),
    **dict.fromkeys(("float", "double", "decimal", "NUMBER"), "number"),
    **dict.fromkeys(("bool", "BOOLEAN"), "boolean"),
    **dict.fromkeys(("list", "tuple", "set", "ARRAY"), "array"),
}
"""Types of programming languages and of Google's schemas → the type of JSON Schema."""
_VALUES = ("type", "enum", "const", "default", "examples")
_NOT_CHECKED = ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "patternProperties")
"""Keywords with which `properties` may not name every argument."""


def declaration_issues(tools: Sequence[Mapping[str, Any]]) -> Iterator[Issue]:
    """Yield the issues of function declarations."""
    names = [tool["name"] for tool in tools]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            what = f"tool {display_json(name)} is declared twice"
            yield Issue(what=what, hint="one declaration for each function name")
        if not _NAME.fullmatch(name):
            yield Issue(
                what=f"no provider takes the tool name {display_json(name)}",
                found=display_json({"name": name}),
                hint="letters, digits, _ and -, at most 64 (Gemini also takes . and :), e.g. get_weather",
            )
    for tool in tools:
        if (problem := _parameters_problem(tool.get("parameters", {}))) is not None:
            what, hint = problem
            name = display_json(tool["name"])
            yield Issue(what=f"tool {name}: {what}", found=display_json(tool["parameters"]), hint=hint)


def _parameters_problem(schema: dict[str, Any]) -> tuple[str, str] | None:
    if schema.get("type", "object") != "object":
        return '"parameters" must have the type "object"', _other_types(schema) or _PARAMETERS_HINT
    problem = None if _is_simple(schema) else schema_problem(json.dumps(schema))
    if problem is None:
        return None
    return f'"parameters" is no JSON Schema: {problem}', _other_types(schema) or _PARAMETERS_HINT


_TYPES = ("object", "string", "integer", "number", "boolean", "array", "null")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_SIMPLE: Mapping[str, Callable[[Any], bool]] = {
    "type": lambda value: value in _TYPES if isinstance(value, str) else False,
    "properties": lambda value: isinstance(value, dict) and all(map(_is_simple, value.values())),
    "items": lambda value: _is_simple(value),
    "additionalProperties": lambda value: isinstance(value, bool) or _is_simple(value),
    "required": lambda value: isinstance(value, list) and all(map(_is_text, value)) and len(set(value)) == len(value),
    "enum": lambda value: isinstance(value, list),
    "default": lambda _: True,
    **dict.fromkeys(("description", "title"), _is_text),
    **dict.fromkeys(("minimum", "maximum"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _is_count),
}
"""The keywords of most declarations. Checking them here takes a hundredth of the time of the whole check."""


def _is_simple(schema: Any) -> bool:
    """Whether a schema is valid and has only the keywords that most declarations have."""
    if not isinstance(schema, dict):
        return False
    return all(key in _SIMPLE and _SIMPLE[key](value) for key, value in schema.items())


_PARAMETERS_HINT = 'e.g. {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}'


def _other_types(schema: Any) -> str | None:
    """Return a hint for the first type that JSON Schema has under another name."""
    due = [schema]
    while due:
        part = due.pop()
        if isinstance(part, list):
            due += part
        elif isinstance(part, dict):
            types = part.get("type")
            for name in types if isinstance(types, list) else [types]:
                if isinstance(name, str) and (ours := _TYPE_NAMES.get(name, _TYPE_NAMES.get(name.lower()))):
                    return f'JSON Schema writes "{ours}" for "{name}"'
            due += [inner for key, inner in part.items() if key not in _VALUES]
    return None


def result_issues(dialogue: Mapping[str, Any], part_problem: PartProblem) -> Iterator[Issue]:
    """Yield the issues of `tool_results`."""
    declared = [tool["name"] for tool in dialogue.get("tools", ())]
    for name, scripted in dialogue.get("tool_results", {}).items():
        if name not in declared:
            yield Issue(
                what=f"tool_results for {display_json(name)}, which tools does not declare",
                found=display_json({name: scripted}),
                hint=did_you_mean(name, declared) if declared else 'declare it: "tools": [{"name": …}]',
            )
            continue
        place = f"tool_results.{name}"
        if scripted == []:
            hint = f'leave {display_json(name)} out: a call without a result ends the turn; or {{"result": []}}'
            yield Issue(what=f'"{place}" is an empty list: it has no result', found="[]", hint=hint)
        for number, entry in enumerate(scripted if isinstance(scripted, list) else [scripted]):
            where = f"{place}[{number}]" if isinstance(scripted, list) else place
            for what, hint in _entry_problems(entry, part_problem):
                yield Issue(what=f'"{where}" {what}', found=display_json(entry), hint=hint)


def _entry_problems(entry: Any, part_problem: PartProblem) -> Iterator[tuple[str, str]]:
    if not isinstance(entry, dict) or not RESULT_KEYS & entry.keys():
        return
    if unknown := entry.keys() - RESULT_KEYS:
        if isinstance(entry.get("match"), dict):
            yield f'has {_quoted(sorted(unknown))} beside "match"', _PLAIN_HINT
        return  # a plain object
    if not isinstance(entry.get("match", {}), dict):
        yield 'has a "match" that is no object', 'the arguments it is for, e.g. "match": {"city": "Lima"}'
    if "result" not in entry and "error" not in entry:
        yield 'has neither "result" nor "error"', _PLAIN_HINT
    yield from _outcome_problems(entry, part_problem)


_PLAIN_HINT = (
    'an entry is {"match": {arguments}, "result": …} or {"match": {arguments}, "error": "…"}; '
    'a result with such a key of its own is written {"result": {…}}'
)


def _outcome_problems(entry: Mapping[str, Any], part_problem: PartProblem) -> Iterator[tuple[str, str]]:
    if "result" in entry and "error" in entry:
        yield 'has both "result" and "error"', "a tool returns a result or fails: keep one of them"
    if "media" not in entry:
        return
    media = entry["media"]
    if not isinstance(media, list) or not media or not all(isinstance(part, dict) for part in media):
        yield 'has "media" that is no list of parts', 'e.g. "media": [{"image": "media/map.png"}]'
        return
    for part in media:
        what, hint = _media_problem(part, part_problem)
        if what:
            yield f"has {what}", hint


def _media_problem(part: dict[str, Any], part_problem: PartProblem) -> tuple[str, str]:
    if "text" in part:
        return 'a text in "media"', 'text belongs to "result"'
    if unknown := [key for key in part if key not in _PART_KEYS]:
        return f"the unknown key {display_json(unknown[0])} in a part", did_you_mean(unknown[0], _PART_KEYS)
    if any(not isinstance(value, str) or not value.strip() for value in part.values()):
        return "a part whose values are not text", 'e.g. "media": [{"image": "media/map.png"}]'
    return part_problem(part)


def call_issues(
    turn: Mapping[str, Any], place: str, tools: Sequence[Mapping[str, Any]], part_problem: PartProblem
) -> Iterator[Issue]:
    """Yield the issues of the scripted calls of one turn."""
    calls: Any = turn["tool_calls"]
    steps = calls if all(isinstance(step, list) for step in calls) else [calls]
    if not calls or not all(steps):
        hint = f'leave "tool_calls" out of a turn without calls; a step is a list like [{_CALL_EXAMPLE}]'
        yield Issue(what='"tool_calls" must not be empty', field=place, found=display_json(calls), hint=hint)
    names = [tool["name"] for tool in tools]
    ids: list[Any] = []
    for call in (call for step in steps for call in step):
        for what, hint in _call_problems(call, names, part_problem):
            yield Issue(what=f"tool_calls: {what}", field=place, found=display_json(call), hint=hint)
        ids += [call["id"]] if isinstance(call, dict) and isinstance(call.get("id"), str) else []
    for repeated in dict.fromkeys(one for one in ids if ids.count(one) > 1):
        what = f"tool_calls: two calls have the id {display_json(repeated)}"
        yield Issue(what=what, field=place, hint='each call has an id of its own; leave "id" out to get one')


def _call_problems(call: Any, names: Sequence[str], part_problem: PartProblem) -> Iterator[tuple[str, str]]:
    if not isinstance(call, dict):
        yield "a call must be an object", f"a call is {_CALL_EXAMPLE}; all calls of a step stand in one list"
        return
    for key in call:
        if key not in _CALL_KEYS:
            yield f"unknown key {display_json(key)}", did_you_mean(key, _CALL_KEYS)
    name, arguments = call.get("name"), call.get("arguments", {})
    if not isinstance(name, str) or not name.strip():
        yield "a call without the name of its tool", f"a call is {_CALL_EXAMPLE}"
    elif name not in names:
        hint = did_you_mean(name, names) if names else 'declare it: "tools": [{"name": …}]'
        yield f"a call of {display_json(name)}, which tools does not declare", hint
    if not isinstance(arguments, dict):
        hint = "the object itself, not its JSON text" if isinstance(arguments, str) else f"a call is {_CALL_EXAMPLE}"
        yield '"arguments" must be an object', hint
    if not isinstance(call.get("id", "x"), str) or not call.get("id", "x").strip():
        yield '"id" must be text', 'leave "id" out to get one'
    if "result" not in call and "error" not in call:
        yield 'a call without "result" or "error"', "the model is sent each call with its result: add one"
    yield from _outcome_problems(call, part_problem)


def tool_doubt(dialogue: Dialogue) -> str | None:
    """Return the first thing in the tools of a valid dialogue that looks like a mistake and may be one of a model.

    Recorded models make calls that do not fit, so that such calls and results for them are no issues.
    """
    schemas = {tool["name"]: tool.get("parameters", {}) for tool in dialogue.tools}
    for number, turn in enumerate(dialogue.turns, 1):
        for call in (result.call for step in turn.tool_calls for result in step):
            if (violation := _violation(call.arguments, schemas[call.name])) is not None:
                return (
                    f"turn {number}: a scripted call of {call.name} is sent with arguments that do not fit: {violation}"
                )
    for name, scripted in dialogue.tool_results.items():
        for entry in scripted if isinstance(scripted, list) else [scripted]:
            if (key := _unknown_argument(entry, schemas[name])) is not None:
                return f"tool_results: {name} does not declare the argument {display_json(key)} of a match"
    return None


def _violation(arguments: Any, schema: Mapping[str, Any]) -> str | None:
    try:
        return first_violation(arguments, json.dumps(schema))
    except (CheckError, CheckTimeout):
        return None


def _unknown_argument(entry: Any, parameters: Mapping[str, Any]) -> str | None:
    if not is_conditional_result(entry) or "match" not in entry:
        return None
    properties = parameters.get("properties")
    is_open = parameters.get("additionalProperties", False) is not False
    if not isinstance(properties, dict) or is_open or any(key in parameters for key in _NOT_CHECKED):
        return None
    return next((key for key in entry["match"] if key not in properties), None)


def _quoted(keys: Sequence[str]) -> str:
    return ", ".join(map(display_json, keys))
