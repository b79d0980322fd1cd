"""The published JSON Schema of a dataset agrees with the reader: it refuses nothing that the reader accepts."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from convbatch.checks.builtin import CHECKS
from convbatch.checks.values import MODIFIERS
from convbatch.cli.schema import schema_text
from convbatch.config.json_schema import json_schema
from convbatch.dataset.formats.registry import detect
from convbatch.dataset.json_schema import ARGUMENTS, READER_ONLY, dataset_schema
from convbatch.dataset.reader import Reader
from convbatch.dataset.schema import ARGUMENT_EXAMPLES
from convbatch.dialogue import Dialogue
from convbatch.errors import Problem, SetupError
from tests.conftest import Command, examples
from tests.support.mutated import SCALARS, mutated

ROOT = Path(__file__).parent.parent.parent
SCHEMA = Draft202012Validator(dataset_schema())
PIXEL = base64.b64encode((ROOT / "datasets" / "media" / "half.png").read_bytes()).decode()
FULL: dict[str, Any] = {
    "$schema": "dataset.json",
    "id": "full",
    "system": "Be brief.",
    "tags": ["a", "b"],
    "settings": {
        "temperature": 0, "top_p": 0.9, "top_k": 40, "max_output_tokens": 9, "stop": ["END"], "seed": 7,
        "thinking_budget": 0, "thinking_level": "LOW", "reasoning_effort": "low", "include_thoughts": True,
        "response_schema": {"type": "object"}, "safety": {"A": "B"}, "logprobs": 5, "service_tier": "flex",
        "cache": "auto", "extra": {"x": 1},
    },
    "tools": [{"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}],
    "tool_results": {"now": ["12:00", {"match": {}, "result": "1"}, {"error": "no"}]},
    "max_steps": 3,
    "meta": {"x": None},
    "checks": [{"tool_calls_valid": True}],
    "turns": [
        {"user": "Hi", "assistant": "Hello", "ask": False},
        {
            "user": [
                {"text": "What is this?"},
                {"data": PIXEL, "mime_type": "image/png", "detail": "low"},
                {"uri": "https://example.com/cat.png", "mime_type": "image/png"},
            ],
            "assistant": "A cat.",
            "tool_calls": [{"name": "now", "arguments": {}, "id": "1", "result": "12:00"}],
            "settings": {"temperature": 1},
            "checks": [
                *({kind: argument, "weight": 2, "name": kind} for kind, (argument, _) in ARGUMENT_EXAMPLES.items()
                  if kind not in ("tool_call", "prefer")),
                {"prefer": {"rubric": "Is shorter."}, "name": "short"},
                {"not_contains": "x", "normalize": True},
                {"regex": "x", "time_limit": 2},
                {"tool_call": {"name": "now", "arguments": {"a": 1}, "exact": True}},
                {"tool_call": {"name": "now", "schema": {}}},
                {"tool_call": {"order": ["now"]}},
                {"number": {"value": 8, "tolerance": 0.5, "locale": "de", "unit": "km"}},
                {"similar": {"to": "x", "threshold": 0.5}},
                {"finish_reason": ["stop", "length"]},
                {"cost": 0.1},
            ],
        },
        {"user": "Again", "tool_calls": [[{"name": "now", "error": "no"}], [{"name": "now", "result": None}]]},
    ],
}  # fmt: skip
SMALL = [
    {"turns": [{"user": "x"}]},
    {"system": [{"type": "text", "text": "x"}], "turns": [{"user": "x", "checks": [{"contains": "27"}]}]},
]
KEYS = sorted(
    {key for each in json_schema("dataset")["$defs"].values() for key in each["properties"]}
    | {"assert", "x", "$schema"}
)
# What the reader says of a document that only it refuses, by the sentence of READER_ONLY that tells of it.
MESSAGES = {
    READER_ONLY[0]: ("whole number", '"(not_)?image" takes'),
    READER_ONLY[1]: ("is used twice", "have the id"),
    READER_ONLY[2]: ("regular expression", "JSON Schema", "base64"),
    READER_ONLY[3]: (
        "cannot be read", "no file", "no address", "MIME type", '"uri" without', "holds", "no known type", "media",
        "outside",
    ),
    READER_ONLY[4]: (
        "tools does not declare", "declares no tools", "nothing to compare", "declared twice", "no provider takes",
        'beside "match"', 'has a "match"', "has neither", "has both", "that is no image",
    ),
    READER_ONLY[5]: ('"normalize"', '"time_limit"'),
    READER_ONLY[6]: (
        "blank", "without the name of its tool", '"id" must be text', "values are not text", "system",
        "without digits",
    ),
}  # fmt: skip


def problems_of(line: Any, folder: Path) -> list[Problem]:
    path = folder / "d.jsonl"
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    return [read for read in Reader([path]) if isinstance(read, Problem)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("schema")


def test_every_dataset_of_the_repository_is_valid() -> None:
    files = [
        *ROOT.glob("datasets/*.jsonl"),
        *ROOT.glob("docs/examples/*.jsonl"),
        *ROOT.glob("convbatch/cli/starter/*.jsonl"),
    ]
    lines = [line for path in files for line in path.read_text("utf-8").splitlines()]
    assert len(lines) > 200
    assert [error.message for line in lines for error in SCHEMA.iter_errors(json.loads(line))] == []
    SCHEMA.validate([json.loads(line) for line in lines])


def test_a_dialogue_with_every_key_and_every_kind_of_check_is_valid(folder: Path) -> None:
    SCHEMA.validate(FULL)
    assert problems_of(FULL, folder) == []


@hypothesis_settings(max_examples=examples(1_000))
@given(st.one_of(mutated([FULL], KEYS), mutated(SMALL, KEYS)))
def test_the_reader_refuses_what_the_schema_refuses(folder: Path, line: Any) -> None:
    form = detect(line) if isinstance(line, dict) else None
    if form is not None and form.read is not None:
        return  # another format, such as turns of text
    if not isinstance(line, dict):
        return  # a list is a document of lines, and anything else no line
    told = [problem.what for problem in problems_of(line, folder)]
    if not SCHEMA.is_valid(line):
        assert told, "the schema refuses what the reader accepts"
    for what in told if SCHEMA.is_valid(line) else ():
        assert any(re.search(pattern, what) for patterns in MESSAGES.values() for pattern in patterns), (
            "a difference that READER_ONLY lacks"
        )


@hypothesis_settings(max_examples=examples(2_000))
@given(
    st.sampled_from([*CHECKS]),
    st.one_of(
        st.sampled_from(SCALARS),
        st.recursive(
            st.none() | st.booleans() | st.integers(-2, 700) | st.floats(-1, 2) | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(
                    st.sampled_from(("value", "to", "threshold", "name", "order", "exactly", "unit")), inner
                )
            ),
            max_leaves=4,
        ),
    ),
)
def test_an_argument_that_a_check_takes_fits_its_schema(kind: str, argument: Any) -> None:
    if CHECKS[kind].argument(argument) is None:
        assert Draft202012Validator(ARGUMENTS[kind]).is_valid(argument)


def test_every_key_has_a_description_for_editors() -> None:
    for name, form in json_schema("dataset")["$defs"].items():
        for key, schema in form["properties"].items():
            assert schema.get("description"), f"{name}.{key}"
    assert {*json_schema("dataset")["$defs"]["Check"]["properties"]} >= {*CHECKS, *MODIFIERS}


def test_a_schema_of_a_line_is_accepted_and_not_kept(folder: Path) -> None:
    path = folder / "s.jsonl"
    path.write_text('{"$schema": "./x.json", "turns": [{"user": "x"}]}\n')
    (read,) = Reader([path])
    assert not isinstance(read, Problem)
    assert read.dialogue == Dialogue.from_plain({"id": "s:1", "turns": [{"user": "x"}]})
    assert problems_of({"$schema": 1, "turns": [{"user": "x"}]}, folder)[0].what == 'unknown key "$schema"'


@pytest.mark.parametrize("name", ["dataset", "config"])
def test_the_published_schema_is_what_the_command_prints(name: str, convbatch: Command) -> None:
    published = (ROOT / "docs" / "schema" / f"{name}.json").read_text("utf-8")
    assert published == schema_text(name), f"run: convbatch schema {name} > docs/schema/{name}.json"
    assert convbatch("schema", name).out == published
    Draft202012Validator.check_schema(json.loads(published))


def test_an_unknown_schema_is_refused_with_the_known_ones(convbatch: Command) -> None:
    done = convbatch("schema", "datset")
    assert done.code == 2
    assert "there is no schema of 'datset'" in done.err
    assert "did you mean 'dataset'? known: config, dataset" in done.err
    with pytest.raises(SetupError):
        json_schema("x")


def test_the_docs_list_what_only_the_readers_refuse() -> None:
    from convbatch.config.json_schema import LOADER_ONLY

    page = (ROOT / "docs" / "start.md").read_text("utf-8")
    assert [line for line in (*READER_ONLY, *LOADER_ONLY) if f"- {line}\n" not in page] == []
