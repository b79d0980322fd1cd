"""Tools in requests: declarations, scripted calls, results in the order of each wire, and what a wire cannot carry.

What the wires do with calls of a model is tested with the simulator, `tests/simulator/test_tools.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from convbatch.dialogue import Message, Part, Settings, ToolResult, text_part
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.sse import SseEvent
from convbatch.protocols.tool_history import DUMMY_NOTE, DUMMY_SIGNATURE
from convbatch.protocols.wire import Ask, CannotCarry, Draft, Endpoint, WireRequest, encode_json
from convbatch.tools import ToolCall
from tests.support.tool_talk import TIME, WEATHER, user

each = pytest.mark.parametrize
PICTURE = Part(kind="image", data="AA==", mime_type="image/png")


def request(wire: str, *messages: Message, model: str = "m", **fields: Any) -> WireRequest:
    ask = Ask(model=model, messages=messages, **fields)
    return PROTOCOLS[wire].build_request(ask, Endpoint(base_url="https://h"))


def history(wire: str, *messages: Message, model: str = "m") -> Any:
    body = request(wire, *messages, model=model).json
    return body[{"gemini": "contents", "responses": "input"}.get(wire, "messages")]


def step(*results: ToolResult, text: str = "") -> tuple[Message, Message]:
    parts = (text_part(text),) if text else ()
    calls = Message(role="assistant", parts=parts, calls=tuple(result.call for result in results))
    return calls, Message(role="tool", parts=(), results=results)


# Declarations

SCHEMA = WEATHER["parameters"]
DESCRIBED = {"name": "get_weather", "description": "The weather of a city."}
EMPTY = {"type": "object", "properties": {}}


@each(
    ("wire", "declared"),
    [
        ("gemini", [{"functionDeclarations": [{**DESCRIBED, "parametersJsonSchema": SCHEMA}, {"name": "get_time"}]}]),
        ("openai", [{"type": "function", "function": {**DESCRIBED, "parameters": SCHEMA}},
                    {"type": "function", "function": {"name": "get_time"}}]),
        ("responses", [{"type": "function", **DESCRIBED, "parameters": SCHEMA, "strict": False},
                       {"type": "function", "name": "get_time", "parameters": EMPTY, "strict": False}]),
        ("anthropic", [{**DESCRIBED, "input_schema": SCHEMA}, {"name": "get_time", "input_schema": EMPTY}]),
    ],
)  # fmt: skip
def test_declarations_have_the_form_of_the_wire(wire: str, declared: Any) -> None:
    assert request(wire, user("?"), tools=(WEATHER, TIME)).json["tools"] == declared
    assert "tools" not in request(wire, user("?")).json


@each("wire", PROTOCOLS)
def test_tools_of_the_server_stand_behind_those_of_the_dialogue(wire: str) -> None:
    extra = {"tools": [{"googleSearch": {}}]}
    own = request(wire, user("?"), tools=(TIME,)).json["tools"]
    both = request(wire, user("?"), tools=(TIME,), settings=Settings(extra=extra)).json["tools"]
    assert both == [*own, *extra["tools"]]


@each("wire", PROTOCOLS)
def test_a_schema_without_its_type_is_one_of_an_object(wire: str) -> None:
    untyped = {**WEATHER, "parameters": {key: value for key, value in SCHEMA.items() if key != "type"}}
    assert request(wire, user("?"), tools=(untyped,)).json == request(wire, user("?"), tools=(WEATHER,)).json


@each(
    ("wire", "name", "parameters", "refused"),
    [
        ("gemini", "1st", {}, "Gemini does not take tool '1st': a name that does not match"),
        ("openai", "a.b", {}, "OpenAI does not take tool 'a.b': a name that does not match"),
        ("responses", "x" * 65, {}, "a name that does not match"),
        ("anthropic", "a.b", {}, "Anthropic does not take tool 'a.b': a name that does not match"),
        ("gemini", "f", {"properties": {"a/b": {"pattern": "x"}}}, "tool 'f': pattern at #/properties/a~1b"),
        ("gemini", "f", {"properties": {"a": {"items": {"not": {}}}}}, "tool 'f': not at #/properties/a/items"),
        ("openai", "f", {"anyOf": [{"required": ["a"]}]}, "tool 'f': anyOf at #"),
        ("responses", "f", {"enum": [{}]}, "tool 'f': enum at #"),
        ("openai", "f", {"properties": {"a": {"type": "array"}}}, "an array without items at #/properties/a"),
        ("anthropic", "f", {"oneOf": [{"required": ["a"]}]}, "tool 'f': oneOf at #"),
        ("anthropic", "f", {"properties": {"größe": {}}}, "tool 'f': 'größe' at #/properties, a name that"),
        ("anthropic", "f", {"type": "array"}, "tool 'f': type 'array' at #, which must be 'object'"),
    ],
)
def test_what_a_wire_does_not_take_is_named_with_tool_and_place(
    wire: str, name: str, parameters: Any, refused: str
) -> None:
    with pytest.raises(CannotCarry, match=r"^tools: ") as cannot:
        request(wire, user("?"), tools=({"name": name, "parameters": {"type": "object", **parameters}},))
    assert refused in str(cannot.value)


def test_one_tool_may_be_fine_for_one_wire_and_not_for_another() -> None:
    nested = {"name": "f.g", "parameters": {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}]}}}}
    assert request("gemini", user("?"), tools=(nested,)).json["tools"]
    with pytest.raises(CannotCarry, match=r"'f\.g'"):
        request("anthropic", user("?"), tools=(nested,))


@each(("model", "is_refused"), [
    ("gemini-2.5-flash", True), ("models/gemini-1.5-pro", True), ("gemini-2.0-flash-001", True),
    ("gemini-3-pro", False), ("gemini-3.8-flash", False), ("gemini-flash-latest", False), ("other", False),
])  # fmt: skip
@each("settings", [
    Settings(response_schema={"type": "object"}),
    Settings(extra={"generationConfig": {"responseMimeType": "application/json"}}),
], ids=["schema", "extra"])  # fmt: skip
def test_tools_beside_a_reply_in_json_are_refused_before_gemini_3(
    model: str, is_refused: bool, settings: Settings
) -> None:
    asked: dict[str, Any] = {"model": model, "settings": settings, "tools": (TIME,)}
    if is_refused:
        with pytest.raises(CannotCarry, match="response_schema beside tools"):
            request("gemini", user("?"), **asked)
    else:
        request("gemini", user("?"), **asked)


# Scripted calls and results

ONE = ToolResult(ToolCall("a", "f", {"x": "é"}), {"y": 1})
TWO = ToolResult(ToolCall(None, "g", {}), "gone", is_error=True)
ASKED = user("?")
SCRIPT = (ASKED, *step(ONE, TWO), Message(role="assistant", parts=(text_part("Done."),)), user("And?"))


@each(
    ("wire", "sent"),
    [
        ("gemini", [
            {"role": "user", "parts": [{"text": "?"}]},
            {"role": "model", "parts": [
                {"functionCall": {"id": "a", "name": "f", "args": {"x": "é"}}, "thoughtSignature": DUMMY_SIGNATURE},
                {"functionCall": {"name": "g", "args": {}}}]},
            {"role": "user", "parts": [
                {"functionResponse": {"id": "a", "name": "f", "response": {"y": 1}}},
                {"functionResponse": {"name": "g", "response": {"error": "gone"}}}]},
            {"role": "model", "parts": [{"text": "Done."}]},
            {"role": "user", "parts": [{"text": "And?"}]},
        ]),
        ("openai", [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":"é"}'}},
                {"id": "call_1", "type": "function", "function": {"name": "g", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "a", "content": '{"y":1}'},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"error":"gone"}'},
            {"role": "assistant", "content": "Done."},
            {"role": "user", "content": "And?"},
        ]),
        ("responses", [
            {"role": "user", "content": "?"},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": '{"x":"é"}'},
            {"type": "function_call", "call_id": "call_1", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": '{"y":1}'},
            {"type": "function_call_output", "call_id": "call_1", "output": '{"error":"gone"}'},
            {"role": "assistant", "content": "Done."},
            {"role": "user", "content": "And?"},
        ]),
        ("anthropic", [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": "é"}},
                {"type": "tool_use", "id": "call_1", "name": "g", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": '{"y":1}'},
                {"type": "tool_result", "tool_use_id": "call_1", "content": "gone", "is_error": True}]},
            {"role": "assistant", "content": "Done."},
            {"role": "user", "content": "And?"},
        ]),
    ],
)  # fmt: skip
def test_scripted_calls_and_results_have_the_form_and_order_of_the_wire(wire: str, sent: Any) -> None:
    assert history(wire, *SCRIPT) == sent


@each(("value", "text", "response"), [
    ("as it is", "as it is", {"output": "as it is"}), ("", "", {"output": ""}), (None, "null", {"output": None}),
    (3, "3", {"output": 3}), ([1, "ü"], '[1,"ü"]', {"output": [1, "ü"]}),
    ({"error": "x"}, '{"error":"x"}', {"error": "x"}),
    (2**70, str(2**70), {"output": 2**70}),
])  # fmt: skip
def test_a_text_travels_as_it_is_and_other_values_as_json(value: Any, text: str, response: Any) -> None:
    messages = (ASKED, *step(ToolResult(ToolCall("a", "f", {}), value)))
    assert history("gemini", *messages)[-1]["parts"][0]["functionResponse"]["response"] == response
    assert history("openai", *messages)[-1]["content"] == text
    assert history("responses", *messages)[-1]["output"] == text
    assert history("anthropic", *messages)[-1]["content"][0]["content"] == text


def test_text_beside_scripted_calls_stays_before_them() -> None:
    messages = (ASKED, *step(ONE, text="Hm."))
    assert history("gemini", *messages)[1]["parts"][0] == {"text": "Hm."}
    assert history("openai", *messages)[1]["content"] == "Hm."
    assert history("responses", *messages)[1] == {"role": "assistant", "content": "Hm."}
    assert history("anthropic", *messages)[1]["content"][0] == {"type": "text", "text": "Hm."}


def test_what_the_user_says_behind_results_follows_them_in_one_message_of_anthropic() -> None:
    *_, last = history("anthropic", ASKED, *step(ONE), user("And?"))
    assert [block["type"] for block in last["content"]] == ["tool_result", "text"]


@each(("wire", "given", "sent"), [
    ("openai", ("x" * 41, "b"), ("call_1", "b")), ("responses", ("x" * 65, "b"), ("call_1", "b")),
    ("anthropic", ("functions.f:0", "b"), ("call_1", "b")), ("openai", ("b", "b"), ("b", "call_1")),
    ("openai", (None, "call_1"), ("call_2", "call_1")), ("gemini", (None, "functions.f:0"), (None, "functions.f:0")),
])  # fmt: skip
def test_ids_that_a_wire_does_not_take_are_replaced_in_calls_and_results(
    wire: str, given: tuple[str | None, ...], sent: tuple[str | None, ...]
) -> None:
    items = history(wire, ASKED, *step(*(ToolResult(ToolCall(name, "f", {}), 1) for name in given)))
    places: Mapping[str, Any] = {
        "gemini": lambda: [part[key].get("id") for at, key in ((1, "functionCall"), (2, "functionResponse"))
                           for part in items[at]["parts"]],
        "openai": lambda: [call["id"] for call in items[1]["tool_calls"]]
                          + [item["tool_call_id"] for item in items[2:]],
        "responses": lambda: [item["call_id"] for item in items[1:]],
        "anthropic": lambda: [block["id"] for block in items[1]["content"]]
                             + [block["tool_use_id"] for block in items[2]["content"]],
    }  # fmt: skip
    assert places[wire]() == [*sent, *sent]


@each("model", ["mistral-large-latest", "mistralai/Ministral-8B", "codestral-2508"])
def test_models_of_mistral_get_the_ids_that_they_take(model: str) -> None:
    items = history("openai", ASKED, *step(ONE, TWO), model=model)
    assert [call["id"] for call in items[1]["tool_calls"]] == ["call00001", "call00002"]
    assert [item["tool_call_id"] for item in items[2:]] == ["call00001", "call00002"]


@each("arguments", ["", " \n"])
def test_a_call_with_empty_arguments_has_none(arguments: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    assert PROTOCOLS["openai"].parse_response(encode_json(body)).tool_calls == (ToolCall("c", "f", {}),)
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments}
    response = PROTOCOLS["responses"].parse_response(encode_json({"status": "completed", "output": [item]}))
    assert response.tool_calls == (ToolCall("c", "f", {}),)


def test_a_dummy_signature_is_said() -> None:
    first, plain = SCRIPT, (ASKED, Message(role="assistant", parts=(text_part("Done."),)), user("And?"))
    assert request("gemini", *first).note == DUMMY_NOTE
    assert request("gemini", *plain).note is None
    assert request("openai", *first, model="google/gemini-3-pro").note == DUMMY_NOTE
    assert request("openai", *first).note is None
    call = history("openai", *first, model="gemini-3-pro")[1]["tool_calls"][0]
    assert call["extra_content"] == {"google": {"thought_signature": DUMMY_SIGNATURE}}


# Media in results


def test_a_picture_in_a_result_stands_where_the_wire_has_a_place_for_it() -> None:
    messages = (ASKED, *step(ToolResult(ToolCall("a", "f", {}), "map", media=(PICTURE,))))
    url = "data:image/png;base64,AA=="
    source = {"type": "base64", "media_type": "image/png", "data": "AA=="}

    response = history("gemini", *messages)[-1]["parts"][0]["functionResponse"]
    assert response["parts"] == [{"inlineData": {"mimeType": "image/png", "data": "AA=="}}]
    output = history("responses", *messages)[-1]["output"]
    assert [part["type"] for part in output] == ["input_text", "input_image"]
    assert output[1]["image_url"] == url
    assert history("anthropic", *messages)[-1]["content"][0]["content"] == [
        {"type": "text", "text": "map"},
        {"type": "image", "source": source},
    ]
    with pytest.raises(CannotCarry, match="image"):
        history("openai", *messages)


# A model's turns


def test_reasoning_goes_back_with_the_calls_whole_and_streamed() -> None:
    wire = PROTOCOLS["openai"]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    message = {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call]}
    whole = wire.parse_response(encode_json({"choices": [{"message": message, "finish_reason": "tool_calls"}]}))
    draft = Draft()
    for delta in ({"role": "assistant", "reasoning_content": "Hm."}, {"tool_calls": [{"index": 0, **call}]}, {}):
        chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else "tool_calls"}]}
        draft = wire.parse_event(draft, SseEvent(event="", data=encode_json(chunk).decode()))

    for reply in (whole, wire.finish(draft)):
        results = Message(role="tool", parts=(), results=(ToolResult(reply.tool_calls[0], 1),))
        sent = history("openai", ASKED, Message(role="assistant", parts=(), raw=reply.raw_turn), results)
        assert (sent[1]["reasoning_content"], sent[1]["tool_calls"]) == ("Hm.", [call])
        assert sent[2] == {"role": "tool", "tool_call_id": "c", "content": "1"}


def test_a_paused_turn_is_told_and_goes_back_as_it_is() -> None:
    content = [
        {"type": "text", "text": "Hm."},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
    ]
    body = {"content": content, "stop_reason": "pause_turn"}
    reply = PROTOCOLS["anthropic"].parse_response(encode_json(body))
    assert (reply.is_paused, reply.finish_reason) == (True, "other")
    *_, sent = history("anthropic", ASKED, Message(role="assistant", parts=(), raw=reply.raw_turn))
    assert sent == {"role": "assistant", "content": content}
    ended = PROTOCOLS["anthropic"].parse_response(encode_json({**body, "stop_reason": "end_turn"}))
    assert not ended.is_paused
