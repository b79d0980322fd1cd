"""The JSON Schema (2020-12) of a dialogue in the canonical format, for editors and for programs that write datasets.

Types and keys come from the forms of `schema.py`; descriptions, arguments of checks and the rules between keys that
JSON Schema can express are added here. It refuses nothing that the reader accepts. The reader refuses more:
`READER_ONLY` lists what.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from convbatch.checks.builtin import CHECKS, MOST_TIME_S
from convbatch.checks.numbers import LOCALES
from convbatch.checks.values import COMPARES_TARGETS, MODIFIERS
from convbatch.dataset.forms import form_schema
from convbatch.dataset.schema import MOST_WEIGHT
from convbatch.dialogue import MEDIA_KINDS
from convbatch.media import DETAILS
from convbatch.reply import FinishReason

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# As a pattern means it in pydantic; `\S` is another set of characters in each language.
NOT_BLANK = r"[^\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
READER_ONLY = (
    "whole numbers that are written with a point (`1.0`), and keys that a line has twice",
    "ids, of dialogues and of scripted calls, that are used twice",
    "regular expressions, JSON Schemas and base64 that are none",
    "media that do not exist or are not what their key says, types that are none, addresses that no provider fetches",
    "names of tools that the dialogue does not declare, and checks that need something else of their dialogue",
    "`normalize` and `time_limit` of a kind of check that does not have them",
    "blank text in every part of a message, a `system` that is no text, and units with digits",
)
"""What the reader refuses beyond the schema."""

_TEXT: Mapping[str, Any] = {"type": "string", "pattern": NOT_BLANK}
_NONEMPTY: Mapping[str, Any] = {"type": "string", "minLength": 1}
_TEXTS: Mapping[str, Any] = {"type": "array", "items": _NONEMPTY, "minItems": 1}
_COUNT: Mapping[str, Any] = {"type": "integer", "minimum": 0}
_TRUE: Mapping[str, Any] = {"const": True}
_REASONS: Mapping[str, Any] = {"enum": [*get_args(FinishReason)]}
_MONEY = "^[0-9]+(\\.[0-9]+)? ?[A-Z]{3}$"
_SIZES = ("width", "height", "min_width", "min_height", "max_width", "max_height")


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """Return the schema of an object with these keys and no others."""
    needed = {"required": [*required]} if required else {}
    return {"type": "object", "properties": properties, "additionalProperties": False, **needed}


ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "equals": {"type": "string"},
    **dict.fromkeys(("contains", "icontains", "starts_with", "regex", "llm_rubric", "python"), _NONEMPTY),
    **dict.fromkeys(("contains_any", "contains_all"), _TEXTS),
    **dict.fromkeys(("is_json", "tool_calls_valid"), _TRUE),
    "json_schema": {"type": "object"},
    COMPARES_TARGETS: _object(("rubric",), rubric=_NONEMPTY),
    "number": {
        "anyOf": [
            {"type": "number"},
            _object(
                ("value",),
                value={"type": "number"},
                tolerance={"type": "number", "minimum": 0},
                locale={"enum": [*LOCALES]},
                unit=_NONEMPTY,
            ),
        ]
    },
    "similar": {
        "anyOf": [
            _TRUE,
            _NONEMPTY,
            {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            {
                **_object(to=_NONEMPTY, threshold={"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
                "minProperties": 1,
            },
        ]
    },
    "finish_reason": {"anyOf": [_REASONS, {"type": "array", "items": _REASONS, "minItems": 1}]},
    **dict.fromkeys(("max_length", "output_tokens"), _COUNT),
    "latency": {"type": "number", "exclusiveMinimum": 0},
    "cost": {
        "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)? ?[A-Z]{3}$"}]
    },
    "image": {
        "anyOf": [
            _TRUE,
            _COUNT,
            {
                **_object(**dict.fromkeys(("exactly", "at_least", *_SIZES), _COUNT), mime_type={"type": "string"}),
                "minProperties": 1,
                "not": {"required": ["exactly", "at_least"]},
            },
        ]
    },
    "tool_call": {
        "anyOf": [
            {"type": "boolean"},
            _NONEMPTY,
            _object(("order",), order=_TEXTS),
            {
                **_object(("name",), name=_NONEMPTY, arguments={"type": "object"}, exact={"type": "boolean"}),
                "dependentRequired": {"exact": ["arguments"]},
            },
            _object(("name", "schema"), name=_NONEMPTY, schema={"type": "object"}),
        ]
    },
}
"""The argument of each kind of check; none is stricter than `CheckKind.argument`."""

_MODIFIERS: Mapping[str, Any] = {
    "weight": {
        "type": "number",
        "minimum": 0,
        "maximum": MOST_WEIGHT,
        "description": "Weight in the score; default 1.",
    },
    "name": {**_NONEMPTY, "description": "Name in tables and reports; default: the kind."},
    "normalize": {"type": "boolean", "description": "Compare normalized texts: width, quotes, blanks."},
    "time_limit": {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": MOST_TIME_S,
        "description": "Seconds that the check may take.",
    },
}

_DESCRIPTIONS: Mapping[str, Mapping[str, str]] = {
    "Dialogue": {
        "turns": "The exchanges, in order; at least one of them is asked.",
        "id": "Unique over all files of a run; default FILE:LINE.",
        "system": "System text, for the whole dialogue; also a list of text parts.",
        "tags": "For --tag, and a column of the tables.",
        "settings": "Generation settings of the whole dialogue.",
        "checks": "Checks on the whole dialogue.",
        "tools": "Functions that the model may call.",
        "tool_results": "The scripted results for each function name: a value; a list, used up in order; "
        'objects {"match": {arguments}, "result": …} or {"error": "…"}.',
        "max_steps": "Most model calls in one turn with tools; default 8.",
        "meta": "Kept, never sent.",
        "$schema": "The JSON Schema of the file, for editors; nothing reads it.",
    },
    "Turn": {
        "user": "The user message: text, or a list of parts.",
        "assistant": "The scripted reply: history in the modes script and last, reference of similar.",
        "tool_calls": "Scripted calls with their results, before assistant: a list, or a list for each step.",
        "ask": "Whether the model is asked; false: only context, needs assistant. Default true.",
        "checks": "Checks on the reply.",
        "settings": "Generation settings of this turn, over those of the dialogue.",
    },
    "Settings": {
        "temperature": "Sampling temperature.",
        "top_p": "Nucleus sampling, 0 to 1.",
        "top_k": "The most likely tokens to sample from; -1: off, where a gateway knows it.",
        "max_output_tokens": "Most output tokens of one reply.",
        "stop": "Texts that end the reply.",
        "seed": "Repeat k sends seed + k - 1.",
        "thinking_budget": "Thinking tokens; 0: off, -1: the model decides.",
        "thinking_level": "How much the model thinks, in the provider's words.",
        "reasoning_effort": "How much the model thinks: none, minimal, low, medium, high, xhigh or max.",
        "include_thoughts": "Whether the reply contains thoughts, or a summary of them.",
        "response_schema": "JSON Schema of the whole reply, which the provider enforces.",
        "safety": "Harm category to threshold (Gemini).",
        "logprobs": "Log probabilities of the tokens, each with so many alternatives, 0 to 20.",
        "service_tier": "Price and speed class, in the provider's words.",
        "cache": "Prompt caching: auto, off, or 1h.",
        "extra": "Merged unchanged into the request body.",
    },
    "Part": {
        "text": "Text.",
        "image": "Path of a picture, relative to the dataset.",
        "audio": "Path of a sound file.",
        "video": "Path of a video.",
        "document": "Path of a document, such as a PDF.",
        "data": "Content in base64; needs mime_type.",
        "mime_type": "Type of data or uri, e.g. image/png.",
        "uri": "Address that the provider fetches; needs mime_type.",
        "detail": "Resolution of a picture.",
    },
    "Tool": {
        "name": "Name of the function.",
        "description": "What it does, for the model.",
        "parameters": "JSON Schema of its arguments.",
    },
}


def dataset_schema() -> dict[str, Any]:
    """Return the schema of a line of a dataset, and of a JSON document that is a list of such lines."""
    forms: dict[str, Any] = form_schema()
    forms = {name.removesuffix("Form"): form for name, form in forms.pop("$defs").items()} | {"Dialogue": forms}
    definitions: dict[str, Any] = {
        name: _described(name, _plain(forms[name])) for name in ("Dialogue", "Turn", "Part", "Settings", "Tool")
    }
    _add_rules(definitions)
    definitions |= {"Check": _check(), "Call": _call()}
    return {
        "$schema": DIALECT,
        "title": "A dialogue of a convbatch dataset",
        "description": "One line of a JSONL dataset, or a JSON list of such lines, in the canonical format.",
        "if": {"type": "array"},
        "then": {"items": {"$ref": "#/$defs/Dialogue"}},
        "else": {"$ref": "#/$defs/Dialogue"},
        "$defs": definitions,
    }


def settings_schema() -> dict[str, Any]:
    """Return the schema of settings alone, which a config file has too."""
    return dataset_schema()["$defs"]["Settings"]


def _plain(form: Any) -> Any:
    """Return a form of pydantic without titles, with our names and our pattern."""
    if isinstance(form, list):
        return [_plain(item) for item in form]
    if not isinstance(form, dict):
        return form
    plain: dict[str, Any] = {}
    for key, value in form.items():
        if key == "properties":
            plain[key] = {name: _plain(each) for name, each in value.items()}
        elif key == "$ref":
            plain[key] = value.removesuffix("Form")
        elif key == "pattern":
            plain[key] = NOT_BLANK
        elif key not in ("title", "description") and not (key == "additionalProperties" and value is True):
            plain[key] = _plain(value)
    return plain


def _described(name: str, form: dict[str, Any]) -> dict[str, Any]:
    for key, text in _DESCRIPTIONS[name].items():
        form["properties"].setdefault(key, {"type": "string"})["description"] = text
    return form


def _add_rules(definitions: Mapping[str, Any]) -> None:
    """Add the rules between keys, and what the forms leave to functions."""
    dialogue, turn, part, tool = (definitions[name] for name in ("Dialogue", "Turn", "Part", "Tool"))
    not_asked = {"properties": {"ask": {"const": False}}, "required": ["ask"]}
    dialogue["properties"]["turns"]["contains"] = {"not": not_asked}
    system = dialogue["properties"]["system"]
    system |= {"anyOf": [{"type": "string", "pattern": system.pop("pattern")}, {"type": ["array", "object"]}]}
    del system["type"]
    dialogue["properties"]["tool_results"]["additionalProperties"] = {"minItems": 1}
    for form in (dialogue, turn):
        form["properties"]["checks"]["items"] = {"$ref": "#/$defs/Check"}
    calls = {"type": "array", "items": {"$ref": "#/$defs/Call"}, "minItems": 1}
    turn["properties"]["tool_calls"] |= {"minItems": 1, "items": {"anyOf": [{"$ref": "#/$defs/Call"}, calls]}}
    turn |= {
        "if": not_asked,
        "then": {"required": ["assistant"], "properties": {"checks": {"maxItems": 0}}},
    }
    part["oneOf"] = [{"required": [kind]} for kind in ("text", *MEDIA_KINDS, "data", "uri")]
    part["dependentRequired"] = {"data": ["mime_type"], "uri": ["mime_type"]}
    part["dependentSchemas"] = {
        "mime_type": {"anyOf": [{"required": ["data"]}, {"required": ["uri"]}]},
        "detail": {"anyOf": [{"required": ["image"]}, {"required": ["mime_type"]}]},
    }
    part["properties"]["detail"] |= {"enum": [*DETAILS]}
    tool["properties"]["parameters"]["properties"] = {"type": {"const": "object"}}


def _check() -> dict[str, Any]:
    """Return the schema of a check: one kind with its argument, and what may stand beside it."""
    kinds: dict[str, Any] = {}
    for name, kind in CHECKS.items():
        kinds[name] = {**ARGUMENTS[name], "description": f"Passes if {kind.doc}."}
        if name == COMPARES_TARGETS:
            continue
        kinds[f"not_{name}"] = {**ARGUMENTS[name], "description": f"Fails if {kind.doc}."}
    return {
        **_object(**kinds, **{name: _MODIFIERS[name] for name in MODIFIERS}),
        "oneOf": [{"required": [name]} for name in kinds],
        "not": {"required": [COMPARES_TARGETS, "weight"]},
    }


def _call() -> dict[str, Any]:
    """Return the schema of a scripted call."""
    properties = {
        "name": {**_TEXT, "description": "Name of the called function."},
        "arguments": {"type": "object", "description": "Arguments; default none."},
        "id": {**_TEXT, "description": "Id of the call; left out to get one."},
        "result": {"description": "What the function returned."},
        "error": {"description": "Why the function failed."},
        "media": {
            "type": "array",
            "items": {"$ref": "#/$defs/Part"},
            "minItems": 1,
            "description": "Pictures and files of the result.",
        },
    }
    return {**_object(("name",), **properties), "oneOf": [{"required": ["result"]}, {"required": ["error"]}]}
