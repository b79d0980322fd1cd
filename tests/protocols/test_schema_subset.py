"""What of a JSON Schema a wire format does not take, by keyword and path."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.dialogue import Message, Settings, text_part
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.schema_subset import ANTHROPIC, GEMINI, OPENAI_STRICT, SchemaSubset, outside
from convbatch.protocols.wire import Ask, CannotCarry, Endpoint
from tests.support.tables import each


def closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


TEXT = {"type": "string"}
TREE: dict[str, Any] = {
    "$defs": {"node": closed(kids={"type": "array", "items": {"$ref": "#/$defs/node"}})},
    "$ref": "#/$defs/node",
}
LIST = {"type": "object", "properties": {"next": {"$ref": "#"}}}
NO_OBJECT = 'a reply that need not be an object ("type": "object" is needed, found '


@each(
    ("subset", "schema", "found"),
    [
        (GEMINI, closed(a=TEXT), []),
        (GEMINI, closed(a={"type": "string", "minLength": 2}), ["minLength at #/properties/a"]),
        (GEMINI, {"type": "array", "items": {"pattern": "a"}}, ["pattern at #/items"]),
        (GEMINI, LIST, []),
        (GEMINI, {**LIST, "required": ["next"]}, ["$ref '#' at #/properties/next: a schema that contains itself"]),
        (GEMINI, TREE, ["$ref '#/$defs/node' at #/$defs/node/properties/kids/items: a schema that contains itself"]),
        (OPENAI_STRICT, closed(a=TEXT, b={"type": ["string", "null"]}), []),
        (
            GEMINI,
            closed(a={"$ref": "#/$defs/b", "description": "x"}) | {"$defs": {"b": TEXT}},
            ["description beside $ref at #/properties/a"],
        ),
        (GEMINI, {"enum": ["a", 1, None, True]}, ["null in enum at #", "true in enum at #"]),
        (OPENAI_STRICT, {**TREE, **TREE["$defs"]["node"]}, []),
        (OPENAI_STRICT, TREE, [f"{NO_OBJECT}none) at #"]),
        (OPENAI_STRICT, {"type": "array", "items": TEXT}, [f'{NO_OBJECT}"array") at #']),
        (OPENAI_STRICT, {**closed(), "type": ["object", "null"]}, [f'{NO_OBJECT}["object", "null"]) at #']),
        (OPENAI_STRICT, {"anyOf": [closed(a=TEXT)]}, [f"{NO_OBJECT}none) at #", "anyOf at #"]),
        (
            OPENAI_STRICT,
            {"type": "object", "properties": {"a": TEXT, "b": TEXT}, "required": ["b"]},
            [
                "an object without additionalProperties: false at #",
                "optional properties 'a' (list them in \"required\") at #",
            ],
        ),
        (OPENAI_STRICT, closed(**{"a/b": {"allOf": [TEXT]}}), ["allOf at #/properties/a~1b"]),
        (ANTHROPIC, closed(a={"type": "array", "items": TEXT, "minItems": 1}, b={"allOf": [TEXT]}), []),
        (ANTHROPIC, closed(a={"type": "array", "items": TEXT, "minItems": 2}), ["minItems 2 at #/properties/a"]),
        (ANTHROPIC, closed(a={"type": "number", "maximum": 3}), ["maximum at #/properties/a"]),
        (ANTHROPIC, closed(a={"type": "string", "format": "iri"}), ["format 'iri' at #/properties/a"]),
        (ANTHROPIC, closed(a={"type": "object"}), ["an object without additionalProperties: false at #/properties/a"]),
    ],
)
def test_each_keyword_outside_a_subset_is_named_with_its_path(
    subset: SchemaSubset, schema: dict[str, Any], found: list[str]
) -> None:
    assert list(outside(schema, subset)) == found


def test_a_property_named_like_a_keyword_is_no_keyword() -> None:
    assert outside(closed(pattern=TEXT, minLength=TEXT, oneOf=TEXT), GEMINI) == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "items", "anyOf", "$ref", "$defs", "required", "minItems", "#", "a"]
            ),
            inner | st.sampled_from(["#", "#/$defs/a", "object"]),
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(schema=JSON)
def test_no_schema_however_odd_fails_the_walk(schema: Any) -> None:
    for subset in (GEMINI, OPENAI_STRICT, ANTHROPIC):
        assert all(" at #" in line for line in outside(schema, subset))


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ("gemini", "Gemini does not take pattern at #/properties/a (or send it in extra as generationConfig"),
        (
            "openai",
            "additionalProperties: false at #; optional properties 'a' (list them in \"required\") at # (or write ",
        ),
    ],
)
def test_a_request_with_such_a_schema_is_refused(protocol: str, said: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}
    ask = Ask(
        model="m",
        messages=(Message(role="user", parts=(text_part("?"),)),),
        settings=Settings(response_schema=schema),
    )
    with pytest.raises(CannotCarry) as refused:
        PROTOCOLS[protocol].build_request(ask, Endpoint(base_url="http://localhost"))
    assert said in str(refused.value)
