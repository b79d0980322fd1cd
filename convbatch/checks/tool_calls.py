"""Checks of tool calls: which tools a reply calls, with which arguments, in which order, and whether calls are valid.

Calls are those of all steps of a turn, or of all turns of a dialogue, in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from convbatch.checks.json_schema import first_violation, schema_problem
from convbatch.checks.safe_regex import quote_excerpt
from convbatch.checks.values import CalledTool, CheckInput, CheckSite, Finding
from convbatch.errors import did_you_mean
from convbatch.tools import contains_arguments, equal_as_json

CALL_FORMS = (
    'true, false (no call), a function name, {"name": "…", "arguments": {…}} (with "exact": true: no other arguments), '
    '{"name": "…", "schema": {…}} or {"order": ["…", "…"]}'
)


_NAMED, _LONGEST_NAME = 12, 128
"""A model may call anything, any number of times."""


def call_argument_problem(value: Any) -> str | None:
    """Return a description of the arguments that `tool_call` takes; None for a valid one."""
    if isinstance(value, bool) or _is_name(value):
        return None
    if not isinstance(value, dict):
        return CALL_FORMS
    if set(value) == {"order"}:
        order = value["order"]
        valid = isinstance(order, list) and bool(order) and all(map(_is_name, order))
        return None if valid else '"order" as a list of function names, e.g. {"order": ["find", "book"]}'
    if not _is_name(value.get("name")) or not set(value) <= {"name", "arguments", "exact", "schema"}:
        return CALL_FORMS
    if "schema" in value and ("arguments" in value or "exact" in value):
        return '"arguments" or "schema", not both'
    if not isinstance(value.get("arguments", {}), dict):
        return '"arguments" as an object'
    if "exact" in value and (not isinstance(value["exact"], bool) or "arguments" not in value):
        return '"exact" as true or false beside "arguments"'
    return _schema_problem(value["schema"]) if "schema" in value else None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _schema_problem(schema: Any) -> str | None:
    if not isinstance(schema, dict):
        return '"schema" as a JSON Schema object'
    problem = schema_problem(json.dumps(schema))
    return None if problem is None else f'"schema" as a JSON Schema ({problem})'


def call_site_problem(key: str, argument: Any, site: CheckSite) -> tuple[str, str] | None:
    """Return the problem of a `tool_call` that names a tool which the dialogue does not declare."""
    del key
    if isinstance(argument, bool):
        return None
    names = [argument] if isinstance(argument, str) else argument.get("order", [argument.get("name")])
    unknown = next((name for name in names if name not in site.tools), None)
    if unknown is None:
        return None
    hint = did_you_mean(unknown, site.tools) if site.tools else 'add "tools"'
    return f"tools does not declare {quote_excerpt(unknown)}", hint


def valid_calls_site_problem(key: str, argument: Any, site: CheckSite) -> tuple[str, str] | None:
    """Return the problem of a `tool_calls_valid` in a dialogue without tools."""
    del argument
    return None if site.tools else (f'"{key}" in a dialogue that declares no tools', 'add "tools", or remove the check')


def evaluate_call(argument: Any, check_input: CheckInput) -> Finding:
    """Evaluate `tool_call`."""
    calls = check_input.tool_calls
    called = f"called {_names(calls)}"
    if isinstance(argument, bool):
        return Finding(bool(calls) == argument, called)
    wanted: Mapping[str, Any] = argument if isinstance(argument, dict) else {"name": argument}
    if "order" in wanted:
        holds, order = _in_order(calls, wanted["order"]), ", then ".join(wanted["order"])
        return Finding(holds, f"{called}; expected {order}")
    of_name = [call for call in calls if call.name == wanted["name"]]
    if not of_name:
        return Finding(False, f"{called}, not {wanted['name']}")
    misfits = [_misfit(call.arguments, wanted) for call in of_name]
    if None in misfits:
        return Finding(True, f"called {wanted['name']}{_with(of_name[misfits.index(None)], wanted)}")
    nearest = min((misfit for misfit in misfits if misfit is not None), key=len)
    more = f" ({len(of_name)} calls, none fits)" if len(of_name) > 1 else ""
    return Finding(False, f"called {wanted['name']} {'; '.join(nearest)}{more}")


def _names(calls: Sequence[CalledTool]) -> str:
    names = ", ".join(_name(call) for call in calls[:_NAMED]) or "nothing"
    return f"{names} and {len(calls) - _NAMED} more" if len(calls) > _NAMED else names


def _name(call: CalledTool) -> str:
    return call.name if len(call.name) <= _LONGEST_NAME else quote_excerpt(call.name)


def _with(call: CalledTool, wanted: Mapping[str, Any]) -> str:
    return f" with {_shown(call.arguments)}" if wanted.keys() & {"arguments", "schema"} else ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else quote_excerpt(text)


def _misfit(arguments: Any, wanted: Mapping[str, Any]) -> list[str] | None:
    """Return in what the arguments of a call differ from the wanted ones; None if they fit."""
    if "schema" in wanted:
        if not isinstance(arguments, dict):
            return [_no_object(arguments)]
        violation = first_violation(arguments, json.dumps(wanted["schema"]))
        return None if violation is None else [f"with arguments that do not fit the schema {violation}"]
    required: Mapping[str, Any] = wanted.get("arguments", {})
    exact = wanted.get("exact") is True
    if "arguments" not in wanted or (contains_arguments(arguments, required) and not exact):
        return None
    if exact and equal_as_json(arguments, required):
        return None
    if not isinstance(arguments, dict):
        return [_no_object(arguments)]
    return list(_differences(arguments, required, exact=exact))


def _no_object(arguments: Any) -> str:
    return f"with arguments that are no JSON object: {_shown(arguments)}"


def _differences(arguments: Mapping[str, Any], required: Mapping[str, Any], *, exact: bool) -> Iterator[str]:
    for key, value in required.items():
        if key not in arguments:
            yield f"without {key}, expected {_shown(value)}"
        elif not equal_as_json(arguments[key], value):
            yield f"with {key} {_shown(arguments[key])}, expected {_shown(value)}"
    for key in arguments if exact else ():
        if key not in required:
            yield f"with {key} {_shown(arguments[key])}, which is not expected"


def _in_order(calls: Sequence[CalledTool], order: Sequence[str]) -> bool:
    """Whether the names follow each other in this order, other calls between them allowed."""
    made = iter([call.name for call in calls])
    return all(name in made for name in order)


def evaluate_valid_calls(argument: bool, check_input: CheckInput) -> Finding:
    """Evaluate `tool_calls_valid`."""
    del argument
    calls, tools = check_input.tool_calls, check_input.dialogue.tools
    if not calls:
        return Finding(True, "called nothing")
    flaws = [(number, flaw) for number, call in enumerate(calls, 1) if (flaw := call_flaw(call, tools)) is not None]
    if not flaws:
        return Finding(True, f"called {_names(calls)}; all calls are valid")
    number, flaw = flaws[0]
    where = f"call {number} of {len(calls)}: " if len(calls) > 1 else ""
    return Finding(False, f"{where}{flaw.reason}" + (f"; {len(flaws)} calls are not valid" if len(flaws) > 1 else ""))


class CallFlaw(NamedTuple):
    """Why a call is not valid."""

    kind: Literal["undeclared", "not_json", "schema_errors"]
    reason: str


def call_flaw(call: CalledTool, tools: Sequence[Mapping[str, Any]]) -> CallFlaw | None:
    """Return why a call does not fit the declared tools; None for a valid call."""
    tool = next((tool for tool in tools if tool["name"] == call.name), None)
    if tool is None:
        declared = ", ".join(tool["name"] for tool in tools)
        return CallFlaw("undeclared", f"{_name(call)} is not declared (declared: {declared})")
    if not isinstance(call.arguments, dict):
        return CallFlaw("not_json", f"the arguments of {call.name} are no JSON object: {_shown(call.arguments)}")
    violation = first_violation(call.arguments, json.dumps(tool.get("parameters", {})))
    if violation is None:
        return None
    return CallFlaw("schema_errors", f"the arguments of {call.name} do not fit its parameters {violation}")
