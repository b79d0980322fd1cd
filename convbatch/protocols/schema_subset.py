"""The part of JSON Schema that a wire format takes as `response_schema`, and what of a schema lies outside it.

Sources, read 2026-11-26: ai.google.dev GenerationConfig (responseJsonSchema), platform.openai.com structured outputs
(strict), platform.claude.com structured outputs.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from convbatch.protocols.wire import CannotCarry

STRICT = "strict"
"""A key beside those of JSON Schema at the top of a `response_schema`: false asks for a reply that need not fit."""
_SHOWN = 8
_MAX_DEPTH = 100
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords with an object of schemas."""
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
# Keywords that only describe: they may stand in every schema.
_NOTES = frozenset({"$schema", "$comment", "title", "description", "default", "examples", "deprecated"})
_NOTES_OF_USE = frozenset({"readOnly", "writeOnly"})
_CONDITIONS = frozenset({"not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaSubset:
    """What a wire format takes of JSON Schema."""

    owner: str
    way_out: str
    """How the schema can be sent all the same; "" if it cannot."""
    only: frozenset[str] | None = None
    """The keywords that are taken; None: all but `refused`."""
    refused: frozenset[str] = frozenset()
    formats: frozenset[str] | None = None
    """Values of `format` that are taken; None: any."""
    is_closed: bool = False
    """Whether every object needs `additionalProperties: false`."""
    is_complete: bool = False
    """Whether every object must require all its properties."""
    recursion: str = "any"
    """Where a schema may contain itself: `any`, `optional` (below an optional property only) or `none`."""
    max_min_items: int | None = None
    has_object_root: bool = False
    """Whether the whole reply must be an object, said by `type` and not by `anyOf`."""
    has_lone_references: bool = False
    """Whether only keys with a `$` may stand beside `$ref`."""
    enums: tuple[type, ...] | None = None
    """Types of values in `enum`; None: any."""


GEMINI = SchemaSubset(
    owner="Gemini",
    way_out="or send it in extra as generationConfig.responseSchema",
    only=_NOTES
    | _NOTES_OF_USE
    | {"$id", "$defs", "$ref", "$anchor", "type", "format", "enum", "items", "prefixItems", "minItems", "maxItems"}
    | {"minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties", "required", "propertyOrdering"},
    recursion="optional",
    has_lone_references=True,
    enums=(str, int, float),
)
OPENAI_STRICT = SchemaSubset(
    owner="OpenAI's strict mode",
    way_out='or write "strict": false in the schema',
    refused=_CONDITIONS | {"allOf", "oneOf"},
    is_closed=True,
    is_complete=True,
    has_object_root=True,
)
ANTHROPIC = SchemaSubset(
    owner="Anthropic",
    way_out="",
    refused=_CONDITIONS
    | {"oneOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"}
    | {"maxItems", "uniqueItems", "contains", "prefixItems", "minProperties", "maxProperties"},
    formats=frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}),
    is_closed=True,
    recursion="none",
    max_min_items=1,
)


def split_strict(schema: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return a `response_schema` without its key `strict`, and whether the reply must fit; the default is true."""
    return {key: value for key, value in schema.items() if key != STRICT}, schema.get(STRICT) is not False


def named_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the form that OpenAI's protocols give a `response_schema`; raises `CannotCarry` in strict mode."""
    bare, strict = split_strict(schema)
    if not strict:
        return {"name": "reply", "schema": bare}
    refuse_schema(bare, OPENAI_STRICT)
    return {"name": "reply", "schema": bare, "strict": True}


def refuse_schema(schema: Mapping[str, Any], subset: SchemaSubset) -> None:
    """Raise `CannotCarry` with every keyword of a schema that the subset does not have, and its path."""
    found = _outside_of(json.dumps(schema, sort_keys=True), subset.owner)
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        way_out = f" ({subset.way_out})" if subset.way_out else ""
        raise CannotCarry(f"response_schema: {subset.owner} does not take {'; '.join(found[:_SHOWN])}{more}{way_out}")


@functools.lru_cache(maxsize=256)
def _outside_of(schema: str, owner: str) -> tuple[str, ...]:
    subset = next(one for one in (GEMINI, OPENAI_STRICT, ANTHROPIC) if one.owner == owner)
    return outside(json.loads(schema), subset)


def outside(schema: Any, subset: SchemaSubset) -> tuple[str, ...]:
    """Return what of a schema lies outside a subset, each as a keyword with its path from the root `#`."""
    found: list[str] = list(_other_root(schema)) if subset.has_object_root else []
    for path, part in subschemas(schema):
        found += _outside_of_one(path, part, subset)
    if subset.recursion != "any":
        found += _forbidden_recursion(schema, only_required=subset.recursion == "optional")
    return tuple(dict.fromkeys(found))


def subschemas(schema: Any, path: str = "#", depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema in a schema with its path, the outermost first."""
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return
    here = cast("dict[str, Any]", schema)
    yield path, here
    for step, inner in _parts(here):
        yield from subschemas(inner, f"{path}/{step}", depth + 1)


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the schemas directly in a schema, each with its place."""
    for keyword, value in schema.items():
        if keyword in _NAMED and isinstance(value, dict):
            yield from ((f"{keyword}/{_escaped(name)}", inner) for name, inner in value.items())
        elif keyword in _LISTED and isinstance(value, list):
            yield from ((f"{keyword}/{at}", inner) for at, inner in enumerate(value))
        elif keyword in _SINGLE and isinstance(value, dict):
            yield keyword, value


def _outside_of_one(path: str, schema: Mapping[str, Any], subset: SchemaSubset) -> Iterator[str]:
    for keyword, value in schema.items():
        if keyword in subset.refused or (subset.only is not None and keyword not in subset.only):
            yield f"{keyword} at {path}"
        elif keyword == "format" and subset.formats is not None and value not in subset.formats:
            yield f"format {value!r} at {path}"
        elif (
            keyword == "minItems" and subset.max_min_items is not None and value not in range(subset.max_min_items + 1)
        ):
            yield f"minItems {value!r} at {path}"
        elif keyword == "enum" and subset.enums is not None and isinstance(value, list):
            yield from (f"{json.dumps(item)} in enum at {path}" for item in value if not _is_of(item, subset.enums))
        elif subset.has_lone_references and "$ref" in schema and not keyword.startswith("$"):
            yield f"{keyword} beside $ref at {path}"
    if _is_object(schema):
        yield from _open_object(path, schema, subset)


def _other_root(schema: Any) -> Iterator[str]:
    """Yield what keeps the outermost schema from being an object."""
    root: Mapping[str, Any] = schema if isinstance(schema, dict) else {}
    if root.get("type") != "object":
        given = json.dumps(root["type"]) if "type" in root else "none"
        yield f'a reply that need not be an object ("type": "object" is needed, found {given}) at #'
    if "anyOf" in root:
        yield "anyOf at #"


def _is_of(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _open_object(path: str, schema: Mapping[str, Any], subset: SchemaSubset) -> Iterator[str]:
    if subset.is_closed and schema.get("additionalProperties") is not False:
        yield f"an object without additionalProperties: false at {path}"
    properties, required = schema.get("properties"), schema.get("required")
    if subset.is_complete and isinstance(properties, dict):
        listed: list[Any] = required if isinstance(required, list) else []
        optional = [repr(name) for name in properties if name not in listed]
        if optional:
            yield f'optional properties {", ".join(optional)} (list them in "required") at {path}'


def _is_object(schema: Mapping[str, Any]) -> bool:
    kind = schema.get("type")
    return (
        kind == "object" or (isinstance(kind, list) and "object" in kind) or isinstance(schema.get("properties"), dict)
    )


def _forbidden_recursion(schema: Any, *, only_required: bool) -> Iterator[str]:
    """Yield the references that make a schema contain itself; with `only_required`, without an optional property."""
    edges = {path: list(_edges(path, part)) for path, part in subschemas(schema)}
    for start in edges:
        if (closing := _reference_back(start, edges, only_required)) is not None:
            yield f"$ref {closing!r} at {start}: a schema that contains itself"


def _edges(path: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the places that a schema leads to, and whether only through an optional property."""
    required = schema.get("required")
    for step, _ in _parts(schema):
        keyword, _, name = step.partition("/")
        if keyword in ("$defs", "definitions"):
            continue
        is_optional = keyword == "properties" and not (isinstance(required, list) and _unescaped(name) in required)
        yield f"{path}/{step}", is_optional
    if isinstance(reference := schema.get("$ref"), str):
        yield reference.rstrip("/") or "#", False


def _reference_back(start: str, edges: Mapping[str, list[tuple[str, bool]]], only_required: bool) -> str | None:
    """Return the reference at `start` if what it refers to leads back to `start`."""
    references = [to for to, _ in edges[start] if not to.startswith(f"{start}/")]
    for reference in references:
        seen, left = {reference}, [reference]
        while left:
            here = left.pop()
            for to, is_optional in edges.get(here, ()):
                if to not in seen and not (only_required and is_optional):
                    seen.add(to)
                    left.append(to)
        if start in seen:
            return reference
    return None


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _unescaped(name: str) -> str:
    return name.replace("~1", "/").replace("~0", "~")
