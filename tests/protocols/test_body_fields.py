"""Tests of `extra` and `-p`: fields that can never work are refused with what to write; what no table names is sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.config.targets import parse_params
from convbatch.dialogue import Message, Settings, text_part
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.wire import Ask, CannotCarry, Endpoint
from tests.support.tables import each

ENDPOINT = Endpoint(base_url="http://127.0.0.1:1")
QUESTION = (Message(role="user", parts=(text_part("hi"),)),)


def body_of(wire: str, extra: dict[str, Any]) -> Any:
    ask = Ask(model="m", messages=QUESTION, settings=Settings(extra=extra or None))
    return PROTOCOLS[wire].build_request(ask, ENDPOINT).json


REFUSED = [
    ("openai", "messages=1", "write the turns into the dataset"),
    ("openai", "messages.0.content=x", "write the turns into the dataset"),
    ("openai", "Messages=1", "write the turns into the dataset"),
    ("openai", "model.x=1", "name the model with -m"),
    ("openai", "stream=true", "use --stream"),
    ("openai", "contents=1", "write the turns into the dataset"),
    ("openai", "input=x", "write the turns into the dataset"),
    ("openai", "generationConfig.temperature=1", "temperature, top_p, max_tokens"),
    ("openai", "systemInstruction=x", 'as "system" of the dialogue'),
    ("openai", "max_output_tokens=5", "use --max-output-tokens, or -p max_tokens=…"),
    ("openai", "maxTokens=5", "calls max_tokens: use --max-output-tokens"),
    ("openai", "stop_sequences=x", "-p stop=…"),
    ("openai", "tools.0=1", "write -p tools='[{…}]'"),
    ("openai", "tools=[1]", "a list of objects"),
    ("openai", "n=2", "use --repeats"),
    ("openai", "n=true", "a number"),
    ("openai", "temperature=hot", "a number"),
    ("openai", "temperature.a=1", "a number"),
    ("openai", "response_format=json_object", "write -p response_format.type=json_object"),
    ("openai", "metadata=1", "write -p metadata.NAME=…"),
    ("gemini", "contents.0=1", "write the turns into the dataset"),
    ("gemini", "messages=1", "write the turns into the dataset"),
    ("gemini", "model=x", "name the model with -m"),
    ("gemini", "stream=true", "use --stream"),
    ("gemini", "generationConfig=1", "write -p generationConfig.NAME=…"),
    ("gemini", "generation_config=[1]", "an object"),
    ("gemini", "tools.0=1", "write -p tools='[{…}]'"),
    ("gemini", "candidateCount=2", "use --repeats"),
    ("gemini", "n=2", "use --repeats"),
    ("gemini", "generationConfig.candidate_count=2", "use --repeats"),
    ("gemini", "temperature=0.5", "use --temperature, or -p generationConfig.temperature=…"),
    ("gemini", "generationConfig.max_tokens=5", "use --max-output-tokens, or -p generationConfig.maxOutputTokens=…"),
    ("gemini", "generationConfig.temperature=hot", "a number"),
    ("gemini", "generationConfig.temperature.a=1", "a number"),
    ("gemini", "thinkingBudget=0", "-p generationConfig.thinkingConfig.thinkingBudget=…"),
    ("gemini", "generationConfig.thinkingConfig=1", "an object"),
    ("gemini", "generationConfig.safetySettings=1", "-p safetySettings=…"),
    ("gemini", "response_format=x", "-p generationConfig.responseMimeType=…"),
    ("gemini", "parallel_tool_calls=true", "only the openai protocol"),
    ("gemini", "systemInstruction=x", "an object"),
]  # fmt: skip


@each(("wire", "param", "instead"), REFUSED)
def test_a_field_that_can_never_work_is_refused_with_what_to_write(wire: str, param: str, instead: str) -> None:
    with pytest.raises(CannotCarry) as refused:
        body_of(wire, parse_params([param]))
    assert instead in str(refused.value)


@each(
    ("wire", "param"),
    [
        ("openai", "n=1"),
        ("openai", "stop=x"),
        ("openai", 'stop=["x"]'),
        ("openai", "top_k=5"),
        ("openai", "thinking.type=enabled"),
        ("openai", "reasoning.effort=low"),
        ("openai", "provider.order.0=x"),
        ("openai", "logprobs=5"),
        ("openai", "metadata=null"),
        ("openai", 'tools=[{"type": "web_search"}]'),
        ("openai", "extra_body.google.thinking_config.include_thoughts=true"),
        ("gemini", "generation_config.top_k=5"),
        ("gemini", 'generationConfig.maxOutputTokens="5"'),
        ("gemini", 'tools={"googleSearch": {}}'),
        ("gemini", "generationConfig.stopSequences=x"),
        ("gemini", "generationConfig.newField.a=1"),
        ("gemini", 'generationConfig.responseJsonSchema={"properties": {"tools": {"temperature": 1}}}'),
        ("gemini", "labels.temperature=x"),
    ],
)
def test_a_field_that_some_server_reads_is_sent_as_given(wire: str, param: str) -> None:
    extra = parse_params([param])
    assert body_of(wire, extra) == {**body_of(wire, {}), **extra}


NAMES = st.sampled_from(["zone", "thinking_mode", "x-gateway", "推理", "a.b", ""])
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=3)


@settings(max_examples=40)
@given(
    st.sampled_from(sorted(PROTOCOLS)),
    st.dictionaries(
        NAMES, VALUES | st.lists(VALUES, max_size=2) | st.dictionaries(st.text(max_size=3), VALUES), max_size=3
    ),
)
def test_fields_that_no_table_names_are_sent_unchanged_with_any_value(wire: str, extra: dict[str, Any]) -> None:
    assert body_of(wire, extra) == {**body_of(wire, {}), **extra}


def test_all_fields_that_cannot_work_are_named_at_once() -> None:
    with pytest.raises(CannotCarry) as refused:
        body_of("openai", parse_params(["n=2", "contents=1", "top_k=5", "metadata=1"]))
    assert [part.split()[2].strip("',") for part in str(refused.value).split("; ") if part.startswith("extra")] == [
        "n",
        "contents",
        "metadata",
    ]
