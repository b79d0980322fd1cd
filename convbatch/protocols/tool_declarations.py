"""Declarations of tools on the four wires, and what a wire does not take of them.

The schema of the parameters goes out as it is written, with its type, which may be left out. What a wire refuses is
named with its tool and place before anything is sent. No wire is asked to hold the arguments to the schema: whether
they fit is a check of the reply.

Sources, read 2026-11-27: the pages and SDK types of each provider, and for schemas the texts of their refusals.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convbatch.protocols.schema_subset import GEMINI, SchemaSubset, outside, subschemas
from convbatch.protocols.wire import CannotCarry

_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
_SHOWN = 8
_Declare = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """What a wire takes as a declaration."""

    owner: str
    names: re.Pattern[str]
    """Of tools."""
    not_at_root: frozenset[str] = frozenset()
    """Keywords that the outermost schema may not have."""
    needs_items: bool = False
    """Whether every array needs `items`."""
    properties: re.Pattern[str] | None = None
    """Names of parameters."""
    subset: SchemaSubset | None = None


_LIMITS = {
    "gemini": _Limits(owner="Gemini", names=re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}"), subset=GEMINI),
    "openai": _Limits(
        owner="OpenAI",
        names=re.compile(r"[A-Za-z0-9_-]{1,64}"),
        not_at_root=frozenset({"oneOf", "anyOf", "allOf", "enum", "not"}),
        needs_items=True,
    ),
    "anthropic": _Limits(
        owner="Anthropic",
        names=re.compile(r"[A-Za-z0-9_-]{1,128}"),
        not_at_root=frozenset({"oneOf", "anyOf", "allOf"}),
        properties=re.compile(r"[A-Za-z0-9_.-]{1,64}"),
    ),
}


def declare(protocol: str, tools: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the field `tools` of a protocol's body; raises `CannotCarry`."""
    return _declared(protocol, json.dumps(tools))


def declaration_problem(protocol: str, tools: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what a protocol does not take of declarations; None if it takes all."""
    try:
        declare(protocol, tools)
    except CannotCarry as limit:
        return str(limit)
    return None


@functools.lru_cache(maxsize=256)
def _declared(protocol: str, tools: str) -> list[Any]:
    """Return the declarations, which belong to the cache: nothing changes a built body."""
    plain = [_with_type(tool) for tool in json.loads(tools)]
    refuse_declarations(plain, _LIMITS["openai" if protocol == "responses" else protocol])
    declared = [_FORMS[protocol](tool) for tool in plain]
    return [{"functionDeclarations": declared}] if protocol == "gemini" else declared


def _with_type(tool: dict[str, Any]) -> dict[str, Any]:
    schema = tool.get("parameters")
    return {**tool, "parameters": {"type": "object", **schema}} if schema else tool


def _described(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tool[key] for key in ("name", "description") if tool.get(key) is not None}


def _for_gemini(tool: Mapping[str, Any]) -> dict[str, Any]:
    parameters = tool.get("parameters")
    return {**_described(tool), **({"parametersJsonSchema": parameters} if parameters else {})}


def _for_openai(tool: Mapping[str, Any]) -> dict[str, Any]:
    parameters = tool.get("parameters")
    return {"type": "function", "function": {**_described(tool), **({"parameters": parameters} if parameters else {})}}


def _for_responses(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function of Responses, where `strict` is true unless it says false."""
    parameters = tool.get("parameters") or _NO_PARAMETERS
    return {"type": "function", **_described(tool), "parameters": parameters, "strict": False}


def _for_anthropic(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {**_described(tool), "input_schema": tool.get("parameters") or _NO_PARAMETERS}


_FORMS: Mapping[str, _Declare] = {
    "gemini": _for_gemini,
    "openai": _for_openai,
    "responses": _for_responses,
    "anthropic": _for_anthropic,
}


def refuse_declarations(tools: Sequence[Mapping[str, Any]], limits: _Limits) -> None:
    """Raise `CannotCarry` with everything that a wire does not take of declarations, each with its tool and place."""
    found = [f"tool {tool['name']!r}: {what}" for tool in tools for what in _refusals(tool, limits)]
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise CannotCarry(f"tools: {limits.owner} does not take {'; '.join(found[:_SHOWN])}{more}")


def _refusals(tool: Mapping[str, Any], limits: _Limits) -> Iterator[str]:
    if not limits.names.fullmatch(tool["name"]):
        yield f"a name that does not match {limits.names.pattern}"
    schema = tool.get("parameters")
    if not schema:
        return
    if schema.get("type") != "object":
        yield f"type {schema.get('type')!r} at #, which must be 'object'"
    yield from (f"{keyword} at #" for keyword in schema if keyword in limits.not_at_root)
    if limits.properties is not None and isinstance(properties := schema.get("properties"), dict):
        wrong = [name for name in properties if not limits.properties.fullmatch(name)]
        yield from (f"{name!r} at #/properties, a name that does not match {limits.properties.pattern}"
                    for name in wrong)  # fmt: skip
    if limits.needs_items:
        yield from (f"an array without items at {path}" for path, part in subschemas(schema) if _lacks_items(part))
    if limits.subset is not None:
        yield from outside(schema, limits.subset)


def _lacks_items(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "array" and not {"items", "prefixItems"} & schema.keys()
