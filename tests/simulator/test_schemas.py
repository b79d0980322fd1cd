"""Structured output of the simulator: values that fit a schema, and the schemas that each provider refuses."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

from convbatch.protocols.schema_subset import ANTHROPIC, OPENAI_STRICT, outside
from convbatch.simulator import Provider
from convbatch.simulator.patterns import example
from convbatch.simulator.schemas import anthropic_problem, as_json, fit, strict_problem
from tests.simulator.test_simulator import answer_to, gemini_body, openai_body, plain, reply_text, request
from tests.support.tables import each

SIZES = st.integers(0, 3)
NAMES = st.sampled_from(["a", "b", "c/d", "e~f"])
LEAVES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, {"const": {"x": 1}}, {"enum": ["u", 2, None]}]),
    st.sampled_from([{"type": ["null", "string"]}, {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"}]),
    st.builds(lambda n, k: {"type": "string", "minLength": n, "maxLength": n + k}, st.integers(0, 30), SIZES),
    st.builds(lambda low, k: {"type": "integer", "minimum": low, "maximum": low + k}, st.integers(-99, 99), SIZES),
    st.builds(lambda low: {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": low + 1}, st.integers(-9, 9)),
    st.builds(lambda step, low: {"type": "integer", "multipleOf": step, "minimum": low}, st.integers(1, 9),
              st.integers(-50, 50)),
    st.builds(lambda form: {"type": "string", "format": form}, st.sampled_from(["date", "date-time", "ipv4", "ipv6"])),
)  # fmt: skip


def containers(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.builds(
            lambda parts, needed, size: {
                "type": "object", "properties": parts, "minProperties": size,
                "required": [name for name in parts if needed],
            },
            st.dictionaries(NAMES, inner, max_size=3), st.booleans(), SIZES,
        ),
        st.builds(lambda items, low, k: {"type": "array", "items": items, "minItems": low, "maxItems": low + k},
                  inner, SIZES, SIZES),
        st.builds(lambda first: {"type": "array", "prefixItems": first, "minItems": len(first)},
                  st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda one: {"allOf": [one, {"title": "both"}]}, inner),
        st.builds(lambda one: {"$defs": {"x": one}, "type": "object", "properties": {"y": {"$ref": "#/$defs/x"}}},
                  LEAVES),
    )  # fmt: skip


SCHEMAS = st.recursive(LEAVES, containers, max_leaves=6).filter(lambda schema: '"$ref"' not in json.dumps(schema))
ROOTS = SCHEMAS | st.builds(lambda one: {"$defs": {"x": one}, "type": "array", "items": {"$ref": "#/$defs/x"}}, SCHEMAS)


@given(schema=ROOTS, text=st.text(max_size=20))
def test_a_reply_fits_the_schema_that_was_asked_for(schema: dict[str, Any], text: str) -> None:
    jsonschema.validate(json.loads(fit(schema, text)), schema)


TREE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "below": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["name"],
}


def test_a_schema_that_contains_itself_ends_and_a_reply_that_fits_is_kept() -> None:
    jsonschema.validate(json.loads(fit(TREE, "x")), TREE)
    assert fit(TREE, '{"name": "kept"}') == '{"name": "kept"}'
    assert (as_json('{"a": 1}'), as_json("words")) == ('{"a": 1}', '{"reply": "words"}')


@each("pattern", [r"^\d{4}-\d\d$", r"[A-Z]{3}[0-9]+", r"(yes|no)!", r"^[^a-c]x?$", r"\w+@\w+\.com", r"a.c\s"])
def test_a_pattern_is_matched(pattern: str) -> None:
    assert re.search(pattern, example(pattern))


def closed(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False, **more
    }  # fmt: skip


TEXT = {"type": "string"}
BAD_FOR_OPENAI = {
    "open": ({**closed({"a": TEXT}), "additionalProperties": True}, "'additionalProperties' is required"),
    "optional": (closed({"a": TEXT}, required=[]), "Missing 'a'"),
    "nested": (closed({"a": closed({"b": TEXT}, required=[])}), "In context=('properties', 'a')"),
    "all_of": (closed({"a": {"allOf": [TEXT]}}), "'allOf' is not permitted"),
    "root": ({"type": "array", "items": TEXT}, "got 'type: \"array\"'"),
}
BAD_FOR_ANTHROPIC = {
    "open": ({"type": "object", "properties": {"a": TEXT}}, "must be explicitly set to false"),
    "bounds": (closed({"a": {"type": "integer", "minimum": 1}}), "properties minimum are not supported"),
    "many": (closed({"a": {"type": "array", "items": TEXT, "minItems": 2}}), "properties minItems"),
    "format": (closed({"a": {"type": "string", "format": "phone"}}), "format 'phone' is not supported"),
    "itself": (closed({"a": {"$ref": "#"}}), "Recursive schemas are not supported"),
}


@each(("schema", "words"), BAD_FOR_OPENAI.values())
def test_strict_mode_refuses_what_it_cannot_guarantee(schema: dict[str, Any], words: str) -> None:
    def asked(*, strict: bool) -> Any:
        form = {"type": "json_schema", "json_schema": {"name": "r", "schema": schema, "strict": strict}}
        return answer_to(Provider(), request(openai_body("hi", response_format=form), wire="openai"))

    refused = asked(strict=True)
    assert (refused.status, plain(refused)["error"]["param"]) == (400, "response_format")
    assert words in plain(refused)["error"]["message"]
    jsonschema.validate(json.loads(plain(asked(strict=False))["choices"][0]["message"]["content"]), schema)


@each(("schema", "words"), BAD_FOR_ANTHROPIC.values())
def test_anthropic_refuses_what_it_cannot_guarantee(schema: dict[str, Any], words: str) -> None:
    assert words in str(anthropic_problem(schema))


SUPPORTED = closed({"a": {"type": "integer"}, "b": {"anyOf": [TEXT, {"type": "null"}]}, "c": closed({"d": TEXT})})


@each("schema", [SUPPORTED, *(schema for schema, _ in (*BAD_FOR_OPENAI.values(), *BAD_FOR_ANTHROPIC.values()))])
def test_what_is_refused_before_the_first_request_is_what_the_provider_refuses(schema: dict[str, Any]) -> None:
    """Two witnesses of one rule: the checks of a run, and the simulator's."""
    if schema["type"] == "object":  # strict mode takes no other root
        assert bool(outside(schema, OPENAI_STRICT)) == (strict_problem(schema) is not None)
    assert bool(outside(schema, ANTHROPIC)) == (anthropic_problem(schema) is not None)


def test_a_reply_that_is_cut_is_cut_json_and_a_value_of_an_enum_comes_bare() -> None:
    whole = reply_text(Provider(), "hi", responseMimeType="application/json", responseJsonSchema=SUPPORTED)
    cut = reply_text(Provider(), "hi", responseMimeType="application/json", responseJsonSchema=SUPPORTED,
                     maxOutputTokens=5)  # fmt: skip
    assert whole.startswith(cut)
    assert 0 < len(cut) < len(whole)
    enum = {"type": "STRING", "enum": ["Percussion", "Keyboard"]}
    assert reply_text(Provider(), "hi", responseMimeType="text/x.enum", responseSchema=enum) in enum["enum"]


@each(
    ("config", "words"),
    [
        ({"responseSchema": {"type": "OBJECT", "oneOf": []}}, 'Unknown name "oneOf" at'),
        ({"responseSchema": {"type": "OBJECT", "properties": {"a": {"not": {}}}}}, 'Unknown name "not" at'),
        ({"responseJsonSchema": {"$ref": "#/$defs/x", "title": "x", "$defs": {"x": {}}}}, "beside $ref"),
        ({"responseJsonSchema": {}, "responseSchema": {}}, "Only one of"),
    ],
)
def test_google_refuses_keywords_that_its_schema_does_not_have(config: dict[str, Any], words: str) -> None:
    answer = answer_to(Provider(), request(gemini_body("hi", **config)))
    assert answer.status == 400
    assert words in plain(answer)["error"]["message"]
