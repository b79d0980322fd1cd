"""Parse replies as JSON, validate JSON Schemas of datasets, and validate replies against them.

Nothing is fetched: a reference to anything but another part of the schema is a problem. A validation has a budget of
steps, because a small schema can ask for more of them than any machine can take; searches of patterns have the time
limit of `safe_regex.py`.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from fractions import Fraction
from typing import Any

from convbatch import strict_json
from convbatch.checks.safe_regex import (
    CheckError,
    CheckTimeout,
    pattern_problem,
    quote_excerpt,
    search,
    time_limit_s,
)

MAX_JSON_CHARS = 4 * 2**20
VALIDATION_LIMIT_S = 5.0
STEPS_PER_S = 10_000_000
"""Steps that count as one second, so that the load of the machine does not change a verdict."""
_KEYWORD_STEPS, _REFERENCE_STEPS = 100, 400


class NotJson(Exception):
    """The reply is not one JSON value."""


def parse_reply_json(reply: str) -> Any:
    """Parse the whole reply as JSON; one code fence around it is allowed.

    Raises:
        NotJson: The reply is not JSON.
        CheckError: The reply is longer than `MAX_JSON_CHARS`.
    """
    text = reply.strip()
    if len(text) > MAX_JSON_CHARS:
        raise CheckError(f"the reply has {len(text):,} characters; at most {MAX_JSON_CHARS:,} are read as JSON")
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        head, _, body = text.partition("\n")
        if "`" not in head[3:]:
            text = body[:-3].strip()
    try:
        return strict_json.parse(text)
    except ValueError as error:
        raise NotJson(f"is not JSON ({error}): {quote_excerpt(reply)}") from None


def first_violation(value: Any, schema: str) -> str | None:
    """Return the most relevant violation of a JSON Schema (as JSON text) with its path; None for a valid value."""
    from jsonschema.exceptions import best_match

    token = _BUDGET.set(_Budget(time_limit_s(VALIDATION_LIMIT_S)))
    try:
        error = best_match(_validator(schema).iter_errors(value))
    except RecursionError:
        raise CheckError("the reply is nested too deeply to be validated against the JSON Schema") from None
    except OverflowError:
        raise CheckError("the reply has a number too large to be validated against the JSON Schema") from None
    finally:
        _BUDGET.reset(token)
    return None if error is None else f"at {error.json_path}: {quote_excerpt(str(error.message))}"


class _Budget:
    """The steps and the CPU time left to one validation."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._steps = int(limit_s * STEPS_PER_S)
        self._ends_at = time.thread_time() + 2 * limit_s

    def spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0 or time.thread_time() > self._ends_at:
            raise CheckTimeout(f"validation against the JSON Schema took longer than its limit of {self._limit_s:g} s")


_BUDGET: ContextVar[_Budget | None] = ContextVar("budget of the validation", default=None)


def _spend(steps: int) -> None:
    if (budget := _BUDGET.get()) is not None:
        budget.spend(steps)


def _counted(rule: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """Let a keyword cost as many steps as it may look at values."""

    @functools.wraps(rule)
    def counting(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        fixed = _REFERENCE_STEPS if isinstance(value, str) and value.startswith("#") else _KEYWORD_STEPS
        _spend(fixed + _size(value) + _size(instance))
        yield from rule(validator, value, instance, schema) or ()

    return counting


def _size(value: Any) -> int:
    return len(value) if isinstance(value, list | dict | str) else 0


@functools.lru_cache(maxsize=128)
def _validator(schema: str) -> Any:
    from jsonschema_specifications import REGISTRY

    plain = json.loads(schema)
    return _validators()[_dialect(plain)](plain, registry=REGISTRY)  # this registry fetches nothing


def _dialect(schema: Mapping[str, Any]) -> Any:
    from jsonschema.validators import Draft202012Validator, validator_for

    return validator_for(schema, default=Draft202012Validator)


class _Validators(dict[Any, Any]):
    """Validator classes by dialect, with pattern searches that have a time limit."""

    def __missing__(self, dialect: Any) -> Any:
        from jsonschema.validators import extend

        ours = {
            "pattern": _pattern_keyword,
            "patternProperties": _pattern_properties_keyword,
            "additionalProperties": _additional_properties_keyword,
            "uniqueItems": _unique_items_keyword,
            "multipleOf": _multiple_of_keyword,
        }
        rules = dialect.VALIDATORS | {key: rule for key, rule in ours.items() if key in dialect.VALIDATORS}
        self[dialect] = limited = extend(dialect, {key: _counted(rule) for key, rule in rules.items()})
        _keep_class(limited)
        return limited


@functools.cache
def _validators() -> _Validators:
    return _Validators()


def _keep_class(limited: Any) -> None:
    """Keep the class for all parts of a schema; jsonschema takes its own, without limits, for a part with `$schema`."""
    evolve = limited.evolve

    def evolve_within(self: Any, **changes: Any) -> Any:
        evolved = evolve(self, **changes)
        if isinstance(evolved, limited):
            return evolved
        registry, resolver = getattr(evolved, "_registry"), getattr(evolved, "_resolver")  # noqa: B009  # private
        return limited(evolved.schema, registry=registry, _resolver=resolver)

    limited.evolve = evolve_within


def _unique_items_keyword(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    del schema
    if unique and validator.is_type(instance, "array") and len(set(map(_hashable, instance))) < len(instance):
        yield ValidationError(f"{instance!r} has non-unique elements")


def _multiple_of_keyword(validator: Any, factor: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """Divide as the numbers are written: in binary, 19.99 is no multiple of 0.01."""
    from jsonschema.exceptions import ValidationError

    del schema
    if not validator.is_type(instance, "number"):
        return
    if math.isinf(instance):
        raise OverflowError
    if (Fraction(str(instance)) / Fraction(str(factor))).denominator != 1:
        yield ValidationError(f"{instance!r} is not a multiple of {factor!r}")


def _hashable(value: Any) -> Any:
    """Return a value that is equal for equal JSON: 1 equals 1.0, and neither equals true."""
    _spend(10)
    if isinstance(value, dict):
        return "object", frozenset((key, _hashable(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return "array", tuple(map(_hashable, value))
    return isinstance(value, bool), value


def _pattern_keyword(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    del schema
    if validator.is_type(instance, "string") and not search(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties_keyword(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[Any]:
    del schema
    if validator.is_type(instance, "object"):
        for pattern, inner in patterns.items():
            for key, value in instance.items():
                _spend(_KEYWORD_STEPS)
                if search(pattern, key):
                    yield from validator.descend(value, inner, path=key, schema_path=pattern)


def _additional_properties_keyword(validator: Any, inner: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if not validator.is_type(instance, "object"):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for key, value in instance.items():
        if key in known or any(search(pattern, key) for pattern in patterns):
            continue
        if inner is False:
            yield ValidationError(f"{key!r} is not allowed")
        elif inner is not True:
            yield from validator.descend(value, inner, path=key)


@functools.lru_cache(maxsize=128)
def schema_problem(schema: str) -> str | None:
    """Return why a JSON Schema (as JSON text) is invalid or not supported; None when it is usable."""
    from jsonschema.exceptions import SchemaError

    plain = json.loads(schema)
    if (unknown := _unknown_dialect(plain)) is not None:
        return unknown
    dialect = _dialect(plain)
    try:
        dialect.check_schema(plain)
    except SchemaError as error:
        return f"at {error.json_path}: {error.message}"[:200]
    except RecursionError:
        return "nested too deeply"
    return _inner_problem(plain, dialect)


def _unknown_dialect(schema: Mapping[str, Any]) -> str | None:
    from jsonschema.validators import validator_for

    find: Any = validator_for
    named = schema.get("$schema")
    if named is None or (isinstance(named, str) and find({"$schema": named}, default=None) is not None):
        return None
    return f"$schema {quote_excerpt(str(named))} is not a known draft; leave it out for 2020-12"


def _inner_problem(schema: Mapping[str, Any], dialect: Any) -> str | None:
    from jsonschema_specifications import REGISTRY
    from referencing.jsonschema import specification_with

    whole = specification_with(dialect.META_SCHEMA["$schema"]).create_resource(schema)
    due = [(REGISTRY.resolver_with_root(whole), whole)]
    keys: set[str] = set()
    same_value: dict[int, set[int]] = {}
    while due:
        resolver, part = due.pop()
        if isinstance(part.contents, dict):
            keys |= part.contents.keys()
            problem = _pattern_problem_in(part.contents) or _reference_problem_in(part.contents, resolver)
            if problem is not None:
                return problem
            same_value[id(part.contents)] = set(map(id, _of_the_same_value(part.contents, resolver)))
        due += [(resolver.in_subresource(inner), inner) for inner in part.subresources()]
    if _has_a_loop(same_value):
        return "a $ref refers to itself without any other keyword between: no reply could be validated"
    if {"unevaluatedProperties", "patternProperties"} <= keys:
        return "unevaluatedProperties together with patternProperties is not supported"
    return None


def _pattern_problem_in(part: Mapping[str, Any]) -> str | None:
    patterns = [part["pattern"]] if "pattern" in part else []
    for pattern in (*patterns, *part.get("patternProperties", ())):
        problem = pattern_problem(pattern)
        if problem is not None:
            return f"the pattern {quote_excerpt(pattern)}: {problem}"
    return None


def _reference_problem_in(part: Mapping[str, Any], resolver: Any) -> str | None:
    from referencing.exceptions import Unresolvable

    for key in _REFERENCES:
        reference = part.get(key)
        try:
            if isinstance(reference, str):
                resolver.lookup(reference)
        except Unresolvable:
            return f"{key} {quote_excerpt(str(reference))} refers to nothing in this schema, and nothing is fetched"
    return None


_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_INNER, _LISTS = ("not", "if", "then", "else"), ("allOf", "anyOf", "oneOf")


def _of_the_same_value(part: Mapping[str, Any], resolver: Any) -> Iterator[Any]:
    """Yield the subschemas that apply to the same value as this schema."""
    for key in _REFERENCES:
        if isinstance(part.get(key), str):
            yield resolver.lookup(part[key]).contents
    yield from (part[key] for key in _INNER if key in part)
    for key in _LISTS:
        yield from part.get(key, ())
    for key in ("dependentSchemas", "dependencies"):
        yield from part.get(key, {}).values()


def _has_a_loop(leads_to: dict[int, set[int]]) -> bool:
    """Whether a graph has a cycle: remove nodes without successors until none or only cycles are left."""
    left = dict(leads_to)
    while leaves := [node for node, successors in left.items() if not successors & left.keys()]:
        for node in leaves:
            del left[node]
    return bool(left)
