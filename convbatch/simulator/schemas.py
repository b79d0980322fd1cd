"""JSON that fits a schema, for the models that are asked for structured output; and what each provider refuses.

The value is made from the schema alone: the texts in it are those of the reply, everything else depends on the schema's
bounds. A provider that guarantees the form refuses the schemas that it cannot guarantee; the words are those of its
error messages. Sources: the pages on structured output of OpenAI, Anthropic and Google, read 2026-11-26.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from convbatch.simulator import patterns

Schema = Mapping[str, Any]

_MAX_DEPTH = 12
"""Below it only what is required is built, so that a schema that contains itself ends."""
_FORMATS: dict[str, Callable[[int], str]] = {
    "date-time": lambda n: f"2026-11-{1 + n % 28:02d}T08:00:00Z",
    "date": lambda n: f"2026-11-{1 + n % 28:02d}",
    "time": lambda n: f"08:{n % 60:02d}:00Z",
    "duration": lambda n: f"P{1 + n % 28}D",
    "email": lambda n: f"user{n}@example.com",
    "hostname": lambda n: f"host{n}.example.com",
    "uri": lambda n: f"https://example.com/{n}",
    "ipv4": lambda n: f"192.0.2.{1 + n % 254}",
    "ipv6": lambda n: f"2001:db8::{1 + n % 9999:x}",
    "uuid": lambda n: str(uuid.UUID(int=n % 2**32, version=4)),
}
_OBJECT_KEYS = ("properties", "required", "additionalProperties", "minProperties")
_ARRAY_KEYS = ("items", "prefixItems", "minItems", "maxItems", "contains")
_TEXT_KEYS = ("minLength", "maxLength", "pattern", "format")
_NUMBER_KEYS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


def fit(schema: Schema, text: str) -> str:
    """Return a reply as JSON that fits a schema: the text itself if it does, else a value that contains it."""
    if _fits(schema, text):
        return text
    return json.dumps(_Maker(schema, text).value(schema, 0), ensure_ascii=False)


def as_json(text: str) -> str:
    """Return a reply as a JSON object, for a request that has no schema; the text itself if it is one."""
    try:
        is_object = isinstance(json.loads(text), dict)
    except ValueError:
        is_object = False
    return text if is_object else json.dumps({"reply": text}, ensure_ascii=False)


def _fits(schema: Schema, text: str) -> bool:
    import jsonschema  # imported only for such requests

    try:
        value = json.loads(text)
    except ValueError:
        return False
    try:
        return jsonschema.Draft202012Validator(dict(schema)).is_valid(value)
    except Exception:  # noqa: BLE001  # a schema that the library cannot use: no value is known to fit it
        return False


@dataclass(slots=True)
class _Maker:
    """Makes one value; each part of it has its own number, so that equal parts differ."""

    root: Schema
    text: str
    made: int = field(default=0)

    def value(self, schema: Any, depth: int) -> Any:
        """Return a value that fits a schema."""
        if not isinstance(schema, dict):
            return None if schema is False else self.text
        here = self._resolved(cast("dict[str, Any]", schema))
        self.made += 1
        if "const" in here:
            return here["const"]
        if here.get("enum"):
            return here["enum"][self.made % len(here["enum"])]
        return _MAKERS[_type_of(here)](self, here, depth)

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return a schema without references and alternatives: with the first of each, and all of `allOf`."""
        for _ in range(_MAX_DEPTH):
            if isinstance(name := schema.get("$ref"), str):
                schema = {**_at(self.root, name), **{key: item for key, item in schema.items() if key != "$ref"}}
                continue
            alternatives = schema.get("anyOf") or schema.get("oneOf")
            rest = {key: item for key, item in schema.items() if key not in ("anyOf", "oneOf", "allOf")}
            if alternatives:
                schema = _merged(rest, _simplest(alternatives))
            elif schema.get("allOf"):
                for part in schema["allOf"]:
                    rest = _merged(rest, self._resolved(part))
                schema = rest
            else:
                break
        return schema

    def object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        """Return an object with all its properties; deep down, with the required ones."""
        known: dict[str, Any] = schema.get("properties") or {}
        names = list(known) if depth < _MAX_DEPTH // 2 else list(schema.get("required") or ())
        names += [name for name in schema.get("required") or () if name not in names]
        made = {name: self.value(known.get(name, {"type": "string"}), depth + 1) for name in names}
        other = schema.get("additionalProperties")
        while len(made) < schema.get("minProperties", 0):
            made[f"key{len(made)}"] = self.value(other if isinstance(other, dict) else {"type": "string"}, depth + 1)
        return made

    def array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        """Return an array of two items, or of as many as it must or may have."""
        first: list[Any] = schema.get("prefixItems") or []
        least, most = schema.get("minItems", 0), schema.get("maxItems", 2**31)
        usual = max(2 if schema.get("items") is not False else 0, len(first))
        length = min(max(least, usual if depth < _MAX_DEPTH // 2 else 0), most)
        items = schema.get("items", schema.get("contains", {"type": "string"}))
        return [self.value(first[at] if at < len(first) else items, depth + 1) for at in range(length)]

    def string(self, schema: dict[str, Any], depth: int) -> str:
        """Return a text of the wanted form, else the reply, as long as it may be."""
        del depth
        if isinstance(pattern := schema.get("pattern"), str):
            return patterns.example(pattern)
        if (form := schema.get("format")) in _FORMATS:
            return _FORMATS[form](self.made)
        text = self.text[: schema.get("maxLength", len(self.text))]
        return text.ljust(schema.get("minLength", 0), ".")

    def number(self, schema: dict[str, Any], depth: int) -> int | float:
        """Return a number within its bounds: a whole one where one fits."""
        del depth
        low = max(schema.get("minimum", -(10**9)), schema.get("exclusiveMinimum", -(10**9)))
        high = min(schema.get("maximum", 10**9), schema.get("exclusiveMaximum", 10**9))
        step = schema.get("multipleOf") or 1
        start = max(low, min(self.made, high))
        for value in (start, -(-start // step) * step, start // step * step, (low + high) / 2):
            whole = int(value) if value == int(value) else value
            if _in_bounds(schema, whole):
                return whole
        return low

    def boolean(self, schema: dict[str, Any], depth: int) -> bool:
        """Return true or false by turns."""
        del schema, depth
        return self.made % 2 == 0

    def null(self, schema: dict[str, Any], depth: int) -> None:
        """Return null."""
        del schema, depth


_MAKERS: dict[str, Callable[[_Maker, dict[str, Any], int], Any]] = {
    "object": _Maker.object,
    "array": _Maker.array,
    "string": _Maker.string,
    "number": _Maker.number,
    "integer": _Maker.number,
    "boolean": _Maker.boolean,
    "null": _Maker.null,
}


def _type_of(schema: Schema) -> str:
    """Return the type to build: the first named one that is not null, else the one that the keywords belong to."""
    named = schema.get("type")
    listed = [str(name).lower() for name in (named if isinstance(named, list) else [named]) if name]
    known = [name for name in listed if name in _MAKERS]
    if known:
        return next((name for name in known if name != "null"), "null")
    for kind, keys in (
        ("object", _OBJECT_KEYS),
        ("array", _ARRAY_KEYS),
        ("string", _TEXT_KEYS),
        ("number", _NUMBER_KEYS),
    ):
        if any(key in schema for key in keys):
            return kind
    return "string"


def _in_bounds(schema: Schema, value: float) -> bool:
    is_whole = value == int(value)
    step = schema.get("multipleOf")
    return (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
        and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
        and (_type_of(schema) != "integer" or is_whole)
        and (not step or (value / step) == int(value / step))
    )


def _at(root: Schema, reference: str) -> dict[str, Any]:
    """Return the schema that a reference inside the document names; {} if there is none."""
    here: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        here = here[int(name)] if isinstance(here, list) and name.isdigit() else as_mapping(here).get(name)
    return dict(as_mapping(here))


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return a JSON object as it is, and {} for any other value."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _simplest(alternatives: list[Any]) -> dict[str, Any]:
    """Return the alternative that ends soonest: one without a reference, and not null, if there is one."""
    kept = [one for one in alternatives if isinstance(one, dict) and one.get("type") != "null"] or alternatives
    return min(kept, key=lambda one: "$ref" in json.dumps(one))


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    merged = {**one, **other}
    for key in ("properties", "required"):
        if key in one and key in other:
            merged[key] = {**one[key], **other[key]} if key == "properties" else [*one[key], *other[key]]
    return merged


# --- what a provider refuses -----------------------------------------------------------------------------------------

_SCHEMA_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMA_KEYS = ("items", "additionalProperties", "not", "contains", "if", "then", "else")
_NOT_PERMITTED = ("allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas",
                  "patternProperties")  # fmt: skip
_NOT_SUPPORTED = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"}
    | {"maxItems", "uniqueItems", "contains", "prefixItems", "minProperties", "maxProperties", "oneOf"}
    | {"not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties"}
)
_BESIDE_REFERENCE = re.compile(r"\$")


def strict_problem(schema: Schema) -> str | None:
    """Return what OpenAI's strict mode refuses of a schema, in its words; None if nothing."""
    if _kinds(schema) != {"object"}:
        found = schema.get("type")
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{found}\"'."
    for place, part in _parts(schema):
        context = f"In context=({', '.join(map(repr, place))}{',' if len(place) == 1 else ''})"
        for keyword in _NOT_PERMITTED:
            if keyword in part:
                return f"{context}, '{keyword}' is not permitted."
        if "object" not in _kinds(part):
            continue
        if part.get("additionalProperties") is not False:
            return f"{context}, 'additionalProperties' is required to be supplied and to be false."
        missing = [name for name in part.get("properties") or {} if name not in (part.get("required") or ())]
        if missing:
            rule = "'required' is required to be supplied and to be an array including every key in properties."
            return f"{context}, {rule} Missing '{missing[0]}'."
    return None


def anthropic_problem(schema: Schema) -> str | None:
    """Return what Anthropic refuses of a schema; None if nothing."""
    for _, part in _parts(schema):
        kinds = _kinds(part)
        if "object" in kinds and part.get("additionalProperties") is not False:
            return "For 'object' type, 'additionalProperties' must be explicitly set to false"
        found = sorted(_NOT_SUPPORTED & part.keys())
        if part.get("minItems", 0) not in (0, 1):
            found.append("minItems")
        if found:
            kind = next(iter(sorted(kinds)), "any")
            return f"For '{kind}' type, properties {', '.join(found)} are not supported"
        if "format" in part and part["format"] not in _FORMATS:
            return f"For 'string' type, format '{part['format']}' is not supported"
    return "Recursive schemas are not supported" if _is_recursive(schema) else None


def google_problem(schema: Schema) -> str | None:
    """Return what Google refuses of a `responseJsonSchema`; None if nothing. Unknown keywords are not refused."""
    for place, part in _parts(schema):
        if "$ref" in part and any(not _BESIDE_REFERENCE.match(key) for key in part):
            return f"No other property may be set beside $ref at {'.'.join(place) or 'the root'}."
    return None


def _kinds(schema: Schema) -> set[str]:
    named = schema.get("type")
    kinds = {str(name).lower() for name in (named if isinstance(named, list) else [named]) if name}
    return kinds or ({"object"} if "properties" in schema else set())


def _parts(schema: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield every schema in a schema with its place, the outermost first."""
    if not isinstance(schema, dict) or len(place) > 8 * _MAX_DEPTH:
        return
    here = cast("dict[str, Any]", schema)
    yield place, here
    for key, value in here.items():
        if key in _SCHEMA_MAPS:
            for name, inner in as_mapping(value).items():
                yield from _parts(inner, (*place, key, name))
        elif key in _SCHEMA_LISTS and isinstance(value, list):
            for at, inner in enumerate(cast("list[Any]", value)):
                yield from _parts(inner, (*place, key, str(at)))
        elif key in _SCHEMA_KEYS:
            yield from _parts(value, (*place, key))


def _is_recursive(schema: Schema) -> bool:
    """Return whether following the references of a schema leads back to one of them."""

    def leads_back(part: Schema, seen: tuple[str, ...]) -> bool:
        for _, inner in _parts(part):
            name = inner.get("$ref")
            if isinstance(name, str) and (name in seen or leads_back(_at(schema, name), (*seen, name))):
                return True
        return False

    plain = {key: value for key, value in schema.items() if key not in ("$defs", "definitions")}
    return leads_back(plain, ("#",))
