"""Tools in datasets: rules for declarations, scripted results and calls, and recorded calls of other formats."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.checks.json_schema import schema_problem
from convbatch.dataset.schema import issues_of
from convbatch.dataset.selection import convert, load_dialogues
from convbatch.dataset.tool_rules import tool_doubt
from convbatch.dataset.tool_script import ToolScript
from convbatch.dialogue import Dialogue
from convbatch.tools import contains_arguments, equal_as_json
from tests.conftest import QUICKSTART, Command, examples
from tests.dataset.test_dataset import written
from tests.dataset.test_more_formats import canonical
from tests.support.tables import each

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
GET = {"name": "get", "parameters": CITY}
CALL = {"name": "get", "arguments": {"city": "Lima"}, "result": 21}


def results(scripted: Any) -> dict[str, Any]:
    return {"turns": [{"user": "u"}], "tools": [GET], "tool_results": {"get": scripted}}


def calls(*steps: Any) -> dict[str, Any]:
    return {"turns": [{"user": "u"}, {"user": "v", "assistant": "a", "tool_calls": list(steps)}], "tools": [GET]}


def declared(**tool: Any) -> dict[str, Any]:
    return {"turns": [{"user": "u"}], "tools": [{"name": "f", **tool}]}


# Each row: a dialogue, and parts of its only issue: place, what, found, hint.
BAD = {
    "name": (declared(name="get weather"), [None, 'no provider takes the tool name "get weather"', "Gemini also"]),
    "long name": (declared(name="f" * 129), [None, "no provider takes the tool name"]),
    "dotted name that begins with a digit": (declared(name="1.a"), [None, "no provider takes"]),
    "schema": (declared(parameters={"properties": 3}), [None, 'tool "f": "parameters" is no JSON Schema: at $.prop']),
    "type of a parameter": (
        declared(parameters={"properties": {"x": {"type": "float"}}}),
        [None, "at $.properties.x.type", 'JSON Schema writes "number" for "float"'],
    ),
    "type in capitals": (
        declared(parameters={"properties": {"x": {"type": ["STRING", "null"]}}}),
        [None, "at $.properties.x.type", 'JSON Schema writes "string" for "STRING"'],
    ),
    "type of the parameters": (declared(parameters={"type": "dict"}), ['must have the type "object"', '"object" for']),
    "reference": (declared(parameters={"$ref": "#/x"}), ["no JSON Schema", "refers to nothing"]),
    "empty list": (results([]), ['"tool_results.get" is an empty list', '{"result": []}']),
    "match of no object": (results({"match": "Lima", "result": 1}), ['"tool_results.get" has a "match" that is no']),
    "match with another key": (results({"match": {}, "resullt": 1}), ['has "resullt" beside "match"', "an entry is"]),
    "match without result": (results({"match": {}}), ['has neither "result" nor "error"']),
    "media without result": (results({"media": [{"image": "a.png"}]}), ['has neither "result" nor "error"']),
    "result and error": (results({"result": 1, "error": "x"}), ['has both "result" and "error"', "keep one"]),
    "media of no list": (results({"result": 1, "media": {}}), ['"media" that is no list of parts']),
    "text in media": (results({"result": 1, "media": [{"text": "x"}]}), ['has a text in "media"']),
    "part in media": (results({"result": 1, "media": [{"image": "a", "audio": "b"}]}), ["has a part of 2 kinds"]),
    "unknown part in media": (results({"result": 1, "media": [{"picture": "a"}]}), ['the unknown key "picture"']),
    "media of numbers": (results({"result": 1, "media": [{"data": 5, "mime_type": "a/b"}]}), ["values are not text"]),
    "no calls": (calls(), ["turn 2", '"tool_calls" must not be empty']),
    "empty step": (calls([CALL], []), ["turn 2", '"tool_calls" must not be empty']),
    "step among calls": (calls(CALL, [CALL]), ["turn 2", "tool_calls: a call must be an object"]),
    "call without name": (calls({"arguments": {}, "result": 1}), ["turn 2", "a call without the name of its tool"]),
    "undeclared": (calls({**CALL, "name": "gett"}), ["turn 2", 'a call of "gett"', "did you mean 'get'?"]),
    "arguments as text": (calls({**CALL, "arguments": "{}"}), ["turn 2", '"arguments" must be', "not its JSON text"]),
    "no result": (calls([CALL, {"name": "get"}]), ["turn 2", 'a call without "result" or "error"']),
    "both": (calls({**CALL, "error": "x"}), ["turn 2", 'has both "result" and "error"']),
    "unknown key": (calls({**CALL, "argument": {}}), ["turn 2", 'unknown key "argument"', "did you mean 'arguments'?"]),
    "id": (calls({**CALL, "id": 5}), ["turn 2", '"id" must be text']),
    "id twice": (calls([{**CALL, "id": "a"}], [{**CALL, "id": "a"}]), ["turn 2", 'two calls have the id "a"']),
    "calls of no list": (
        {"turns": [{"user": "u", "tool_calls": CALL}], "tools": [GET]},
        ["turn 1", '"tool_calls" must be a list'],
    ),
    "max_steps": ({"turns": [{"user": "u"}], "max_steps": 0}, ['"max_steps" must be at least 1']),
}  # fmt: skip


@each(("line", "parts"), BAD.values())
def test_a_mistake_in_tools_is_one_issue_with_its_place_and_a_hint(line: dict[str, Any], parts: list[str]) -> None:
    found = issues_of(line)
    assert len(found) == 1, found
    text = " ".join(map(str, (found[0].field, found[0].what, found[0].found, found[0].hint)))
    assert [part for part in parts if part is not None and part not in text] == []
    assert found[0].hint


@each(
    "line",
    [
        results(None),
        results({"celsius": 21, "result": "ok"}),  # an object with a key of its own is a plain result
        results({"match": True, "groups": []}),
        results({"result": {"match": {}}}),
        results([{"match": {"city": "Lima"}, "result": 1}, {"error": "no such city"}, [], 5]),
        calls(CALL),
        calls([CALL, CALL], [{"name": "get", "error": "x"}]),
        declared(name="a.b:c", parameters={}),
        declared(parameters={"properties": {"type": {"enum": ["list", "OBJECT"]}}}),
        {"turns": [{"user": "u"}], "tools": [GET], "max_steps": 1},
    ],
)
def test_valid_tools_have_no_issue(line: dict[str, Any]) -> None:
    assert issues_of(line) == []


@each(
    ("line", "expected"),
    [
        (calls(CALL, {**CALL, "arguments": {"city": 5}}), "turn 2: a scripted call of get is sent with arguments that"),
        (results([{"match": {"citi": "Lima"}, "result": 1}]), 'get does not declare the argument "citi" of a match'),
        (results([{"match": {"city": "Lima"}, "result": 1}]), None),
    ],
)
def test_arguments_that_do_not_fit_are_a_note(line: dict[str, Any], expected: str | None) -> None:
    found = tool_doubt(Dialogue.from_plain({"id": "d", **line}))
    assert (found is None) == (expected is None)
    assert (expected or "") in (found or "")


some_schemas = st.recursive(
    st.dictionaries(
        st.sampled_from(["type", "description", "required", "enum", "minimum", "minLength", "default", "items"]),
        st.sampled_from(["object", "string", "float", 0, 1.5, -1, True, ["a"], ["a", "a"], [], {}, None]),
        max_size=3,
    ),
    lambda inner: st.fixed_dictionaries(
        {}, optional={"properties": st.dictionaries(st.sampled_from(["a", "type"]), inner, max_size=2), "items": inner}
    ),
    max_leaves=4,
)


@settings(max_examples=examples(60), deadline=None)
@given(schema=some_schemas)
def test_a_declaration_is_refused_where_its_schema_is_no_json_schema(schema: dict[str, Any]) -> None:
    refused = bool(issues_of(declared(parameters={"type": "object", "properties": {"x": schema}})))
    assert refused == (schema_problem(json.dumps(schema)) is not None)


def test_the_calls_of_the_included_dialogues_are_answered_with_their_results() -> None:
    dialogues = load_dialogues([QUICKSTART.parent / "tools.jsonl"])
    assert len(dialogues) == 8
    for dialogue in dialogues:
        script = ToolScript(dialogue)
        for step in (step for turn in dialogue.turns for step in turn.tool_calls):
            answers = script.answer([result.call for result in step])
            assert [(one.value, one.is_error) for one in answers] == [(one.value, one.is_error) for one in step]


# Recorded calls: every format that holds the same conversation gives the same dialogue.


class Recorded(NamedTuple):
    """A call with its result."""

    id: str
    name: str
    arguments: dict[str, Any]
    result: str


Conversation = Sequence[Sequence[Sequence[Recorded]]]
"""Turns of steps of parallel calls."""


def openai(turns: Conversation) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for number, steps in enumerate(turns):
        messages.append({"role": "user", "content": f"u{number}"})
        for step in steps:
            made = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": json.dumps(c.arguments)}}
                for c in step
            ]
            messages.append({"role": "assistant", "content": None, "tool_calls": made})
            messages += [{"role": "tool", "tool_call_id": c.id, "content": c.result} for c in reversed(step)]
        messages.append({"role": "assistant", "content": f"a{number}"})
    return {"messages": messages, "tools": [{"type": "function", "function": tool} for tool in (GET, PUT)]}


def anthropic(turns: Conversation) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for number, steps in enumerate(turns):
        messages.append({"role": "user", "content": f"u{number}"})
        for step in steps:
            made = [{"type": "tool_use", "id": c.id, "name": c.name, "input": c.arguments} for c in step]
            given = [{"type": "tool_result", "tool_use_id": c.id, "content": c.result} for c in step]
            messages += [{"role": "assistant", "content": made}, {"role": "user", "content": given}]
        messages.append({"role": "assistant", "content": f"a{number}"})
    tools = [{"name": tool["name"], "input_schema": tool["parameters"]} for tool in (GET, PUT)]
    return {"params": {"messages": messages, "tools": tools}}


def gemini(turns: Conversation) -> dict[str, Any]:
    contents: list[dict[str, Any]] = []
    for number, steps in enumerate(turns):
        contents.append({"role": "user", "parts": [{"text": f"u{number}"}]})
        for step in steps:
            made = [{"functionCall": {"id": c.id, "name": c.name, "args": c.arguments}} for c in step]
            given = [{"functionResponse": {"id": c.id, "name": c.name, "response": {"output": c.result}}} for c in step]
            contents += [{"role": "model", "parts": made}, {"role": "user", "parts": given}]
        contents.append({"role": "model", "parts": [{"text": f"a{number}"}]})
    capitals = json.loads(json.dumps([GET, PUT]).replace('"object"', '"OBJECT"').replace('"string"', '"STRING"'))
    return {"contents": contents, "tools": [{"function_declarations": capitals}]}


def responses(turns: Conversation) -> dict[str, Any]:
    items: list[dict[str, Any]] = []
    for number, steps in enumerate(turns):
        items.append({"role": "user", "content": [{"type": "input_text", "text": f"u{number}"}]})
        for step in steps:
            items.append({"type": "reasoning", "id": "r", "summary": []})
            items += [
                {"type": "function_call", "call_id": c.id, "name": c.name, "arguments": json.dumps(c.arguments)}
                for c in step
            ]
            items += [{"type": "function_call_output", "call_id": c.id, "output": c.result} for c in step]
        items.append(
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": f"a{number}"}]}
        )
    return {"model": "m", "input": items, "tools": [{"type": "function", **tool} for tool in (GET, PUT)]}


def sharegpt(turns: Conversation) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for number, steps in enumerate(turns):
        messages.append({"from": "human", "value": f"u{number}"})
        for step in steps:
            made = [{"name": c.name, "arguments": c.arguments} for c in step]
            messages.append({"from": "function_call", "value": json.dumps(made[0] if len(made) == 1 else made)})
            given = step[0].result if len(step) == 1 else json.dumps([c.result for c in step])
            messages.append({"from": "observation", "value": given})
        messages.append({"from": "gpt", "value": f"a{number}"})
    return {"conversations": messages, "tools": json.dumps([GET, PUT])}


PUT = {"name": "put", "parameters": {"type": "object", "properties": {"n": {"type": "string"}}}}
FORMATS: list[Callable[[Conversation], dict[str, Any]]] = [openai, anthropic, gemini, responses, sharegpt]
some_calls = st.tuples(
    st.sampled_from(["get", "put"]),
    st.dictionaries(st.sampled_from(["city", "n"]), st.sampled_from(["1", "Lima", "北京"]), max_size=2),
    st.sampled_from(["21", '{"t": 1}', "晴"]),
)
conversations = st.lists(
    st.lists(st.lists(some_calls, min_size=1, max_size=3), max_size=3), min_size=1, max_size=3
).map(
    lambda turns: [
        [[Recorded(f"c{i}{j}{k}", *call) for k, call in enumerate(step)] for j, step in enumerate(steps)]
        for i, steps in enumerate(turns)
    ]
)


@settings(max_examples=examples(20), deadline=None)
@given(turns=conversations)
def test_every_format_of_a_recorded_conversation_gives_the_same_dialogue(turns: Conversation) -> None:
    expected = [[[{"name": c.name, "arguments": c.arguments, "result": c.result} for c in s] for s in t] for t in turns]
    for form in FORMATS:
        plain = canonical(form(turns))
        found = [
            [[{key: value for key, value in call.items() if key != "id"} for call in step] for step in turn]
            for turn in (turn.get("tool_calls", []) for turn in plain["turns"])
        ]
        assert found == expected
        assert [(turn["user"], turn["assistant"]) for turn in plain["turns"]] == [
            (f"u{n}", f"a{n}") for n in range(len(turns))
        ]
        assert [tool["name"] for tool in plain["tools"]] == ["get", "put"]
        assert equal_as_json(plain["tools"][0].get("parameters"), CITY)


@settings(max_examples=examples(20), deadline=None)
@given(turns=conversations)
def test_a_model_that_makes_the_recorded_calls_again_gets_the_recorded_results(turns: Conversation) -> None:
    scripted = canonical(openai(turns)).get("tool_results", {})
    for call in (call for steps in turns for step in steps for call in step):
        entries = scripted[call.name]
        left = entries if isinstance(entries, list) else [entries]
        entry = next(one for one in left if contains_arguments(call.arguments, one.get("match", {})))
        assert entry["result"] == call.result
        if isinstance(entries, list):
            entries.remove(entry)


def test_recorded_calls_without_results_at_the_end_are_kept_and_named(tmp_path: Path, convbatch: Command) -> None:
    recorded = openai([[[Recorded("1", "get", {"city": "Lima"}, "x")]]])
    recorded["messages"] = recorded["messages"][:2]
    assert canonical(recorded)["meta"] == {"tool_calls": [{"id": "1", "name": "get", "arguments": {"city": "Lima"}}]}
    done = convbatch("validate", str(written(tmp_path, json.dumps(recorded))))
    assert 'not sent, kept in "meta": tool_calls' in done.err


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
RESULTS = {
    "an error with a picture": (
        {"content": [{"type": "text", "text": "x"}, PICTURE], "is_error": True},
        {"error": "x", "media": [{"data": "aGk=", "mime_type": "image/png"}]},
    ),
    "two texts": ({"content": [{"type": "text", "text": text} for text in "xy"]}, {"result": "x\ny"}),
    "nothing": ({}, {"result": ""}),
}


@each(("block", "expected"), RESULTS.values())
def test_a_recorded_result_keeps_its_content(block: dict[str, Any], expected: dict[str, Any]) -> None:
    line = anthropic([[[Recorded("1", "get", {"city": "Lima"}, "x")]]])
    line["params"]["messages"][2]["content"] = [{"type": "tool_result", "tool_use_id": "1", **block}]
    plain = canonical(line)
    assert plain["turns"][0]["tool_calls"] == [[{"id": "1", "name": "get", "arguments": {"city": "Lima"}, **expected}]]
    assert plain["tool_results"] == {"get": {"match": {"city": "Lima"}, **expected}}


def test_the_functions_of_2023_are_read_with_their_calls() -> None:
    made = {"name": "get", "arguments": '{"city": "Lima"}'}
    messages = [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "I look.", "function_call": made},
        {"role": "function", "name": "get", "content": "21"},
        {"role": "assistant", "content": "21"},
    ]
    plain = canonical({"messages": messages, "functions": [GET], "function_call": "none"})
    call = {"name": "get", "arguments": {"city": "Lima"}, "result": "21"}
    assert plain["turns"] == [{"user": "u", "assistant": "21", "tool_calls": [[call]]}]
    assert plain["tools"] == [GET]
    assert plain["settings"] == {"extra": {"tool_choice": "none"}}


def test_tools_in_the_system_message_are_declared() -> None:
    messages = [{"role": "system", "content": "s", "tools": [GET]}, {"role": "user", "content": "u"}]
    assert canonical({"messages": messages}) == {"system": "s", "tools": [GET], "turns": [{"user": "u"}]}


def test_a_converted_file_is_read_as_the_same_dialogue(tmp_path: Path) -> None:
    line = openai([[[Recorded("1", "get", {"city": "Lima"}, "21"), Recorded("2", "put", {}, "x")]], []])
    source, out = written(tmp_path, json.dumps(line), "in.jsonl"), tmp_path / "out.jsonl"
    convert(source, out)
    plain = json.loads(out.read_text("utf-8"))
    assert {key: value for key, value in plain.items() if key != "id"} == canonical(line)
    assert canonical(plain) == plain
