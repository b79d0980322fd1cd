"""Recorded bodies to replies and failures; turns to exact requests; properties of arbitrary input."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.dialogue import Message, Part, Settings, text_part
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.growing import settled
from convbatch.protocols.sse import SseEvent, SseParser
from convbatch.protocols.wire import (
    Ask,
    CannotCarry,
    CutReply,
    Draft,
    Endpoint,
    ErrorInBody,
    MalformedReply,
    WireProtocol,
    decode_json,
    encode_json,
)
from convbatch.reply import (
    USAGE_COUNTS,
    Failure,
    Reply,
    Usage,
    failure_from_plain,
    failure_to_plain,
    reply_from_plain,
    reply_to_plain,
    status_of,
)
from tests.conftest import examples
from tests.support.tables import each

BODIES = Path(__file__).parents[1] / "bodies"
FIXTURES: list[dict[str, Any]] = json.loads((BODIES / "index.json").read_text("utf-8"))["fixtures"]
GEMINI, OPENAI = PROTOCOLS["gemini"], PROTOCOLS["openai"]
GOOGLE = Endpoint(base_url="https://generativelanguage.googleapis.com")
OPENAI_COM = Endpoint(base_url="https://api.openai.com/v1", max_output_tokens_field="max_completion_tokens")
LOCAL = Endpoint(base_url="http://127.0.0.1:8000/v1")


def user(text: str) -> Message:
    return Message(role="user", parts=(text_part(text),))


def assistant(text: str, raw: Any = None) -> Message:
    return Message(role="assistant", parts=(text_part(text),), raw=raw)


def body_of(wire: WireProtocol, ask: Ask, endpoint: Endpoint = LOCAL) -> Any:
    return wire.build_request(ask, endpoint).json


def streamed(wire: WireProtocol, chunks: list[bytes]) -> Reply:
    parser, draft = SseParser(), Draft()
    for chunk in chunks:
        for event in parser.feed(chunk):
            draft = wire.parse_event(draft, event)
    for event in parser.close():
        draft = wire.parse_event(draft, event)
    return wire.finish(draft)


def outcome(fixture: Mapping[str, Any], chunks: list[bytes] | None = None) -> Reply | Failure:
    wire = PROTOCOLS[fixture["protocol"]]
    body = (BODIES / fixture["file"]).read_bytes()
    if fixture["status"] != 200:
        return wire.classify_error(fixture["status"], fixture["headers"], body)
    try:
        if fixture["headers"]["content-type"] == "text/event-stream":
            return streamed(wire, chunks or [body])
        return wire.parse_response(body)
    except ErrorInBody as inner:
        return inner.failure


def chosen(wanted: str) -> list[Any]:
    """Return fixtures of one kind as pytest parameters: `reply`, `failure`, `stream` (both)."""

    def kind(fixture: Mapping[str, Any]) -> str:
        error, finish_raw = fixture["expected"]["error"], fixture["expected"]["finish_raw"]
        if not fixture["expected"]["complete"] and error is None:
            return "unfinished"
        # A generation that failed inside a complete reply is a reply with finish reason `error`.
        return "reply" if error is None or (error["kind"] == "malformed_output" and finish_raw) else "failure"

    return [
        pytest.param(fixture, id=fixture["file"])
        for fixture in FIXTURES
        if "endpoint" not in fixture["expected"]
        and "html" not in (fixture["file"] if fixture["status"] == 200 else "")
        and (kind(fixture) == wanted or (wanted == "stream" and fixture["file"].endswith(".sse")))
    ]


def counts(usage: Usage) -> dict[str, int | None]:
    return {name: getattr(usage, name) for name in USAGE_COUNTS}


# --- recorded bodies -------------------------------------------------------------------------------------------------


def test_every_recorded_body_is_read_by_a_test() -> None:
    named = {fixture["file"] for fixture in FIXTURES}
    on_disk = {str(path.relative_to(BODIES)) for path in BODIES.glob("*/*")}
    assert named == on_disk
    read = {param.id for param in chosen("reply") + chosen("failure") + chosen("unfinished")}
    assert named - read == {"gemini/count_tokens.json", "gemini/models_list.json", "gemini/ok_200_html.html"}


@each("fixture", chosen("reply"))
def test_a_recorded_reply_has_the_expected_fields(fixture: dict[str, Any]) -> None:
    expected, reply = fixture["expected"], outcome(fixture)
    assert isinstance(reply, Reply)
    assert {
        "finish": reply.finish_reason,
        "finish_raw": reply.finish_reason_raw,
        "text": reply.text,
        "thought": reply.thought,
        "tool_calls": [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in reply.tool_calls],
        "usage_source": reply.usage.source,
        "model_version": reply.model_version,
        "response_id": reply.response_id,
        "blocked": reply.blocked,
        **counts(reply.usage),
    } == {key: value for key, value in expected.items() if key not in NOT_OF_A_REPLY}
    assert reply.usage.consistent in (True, None)
    raw = json.dumps(reply.raw_turn)
    signed = ('"thoughtSignature"', '"encrypted_content"', '"signature"', '"data"')
    assert sum(map(raw.count, signed)) == expected.get("signatures", 0)


# Not fields of a reply: the status of the row, a response header, content of the raw body only.
NOT_OF_A_REPLY = {
    "complete", "error", "request_id", "signatures", "empty", "resumable", "cost", "refusal", "split_think",
    "commentary",
}  # fmt: skip


@each("fixture", chosen("failure"))
def test_a_recorded_failure_is_classified_as_expected(fixture: dict[str, Any]) -> None:
    expected, failure = fixture["expected"], outcome(fixture)
    assert isinstance(failure, Failure)
    error = expected["error"]
    assert {
        "kind": failure.kind,
        "retryable": failure.retryable,
        "retry_after_s": failure.retry_after_s,
        "code": failure.code,
        "scope": failure.scope,
    } == {key: value for key, value in error.items() if key != "message_contains"}
    assert (error["message_contains"] or "") in failure.message
    assert failure.finish_reason_raw == expected["finish_raw"]
    assert failure.text == expected["text"]
    assert counts(failure.usage) == {name: expected[name] for name in USAGE_COUNTS}
    assert failure.usage.source == expected["usage_source"]
    assert failure_from_plain(failure_to_plain(failure)) == failure


@each("fixture", chosen("unfinished"))
def test_a_response_that_is_not_finished_is_no_reply_and_not_asked_again(fixture: dict[str, Any]) -> None:
    failure = outcome(fixture)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.finish_reason_raw) == ("bad_response", fixture["expected"]["finish_raw"])
    assert failure.should_retry is False


@pytest.mark.parametrize("fixture", chosen("stream"))
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_a_stream_cut_into_any_chunks_is_read_the_same(fixture: dict[str, Any], data: st.DataObject) -> None:
    body = (BODIES / fixture["file"]).read_bytes()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    edges = [0, *cuts, len(body)]
    chunks = [body[a:b] for a, b in itertools.pairwise(edges)]
    assert outcome(fixture, chunks) == outcome(fixture)


@each("fixture", [p for p in chosen("reply") if not str(p.id).endswith(".sse")])
def test_a_whole_body_sent_as_a_single_event_is_the_same_reply(fixture: Any) -> None:
    body = (BODIES / fixture["file"]).read_bytes()
    if fixture["file"].endswith(("array.json", "finish_reason_null.json")):
        return
    wire = PROTOCOLS[fixture["protocol"]]
    reply = wire.finish(wire.parse_event(Draft(), SseEvent(event="", data=body.decode())))
    whole = wire.parse_response(body)
    assert (reply.text, reply.thought, reply.tool_calls) == (whole.text, whole.thought, whole.tool_calls)
    assert (reply.usage, reply.finish_reason, reply.blocked) == (whole.usage, whole.finish_reason, whole.blocked)


def test_the_seed_reply_counts_22_in_192_out_178_of_them_reasoning_214_in_all() -> None:
    reply = GEMINI.parse_response((BODIES / "gemini/ok_seed_dmxapi.json").read_bytes())
    assert reply.usage == Usage(
        input_tokens=22, output_tokens=192, reasoning_tokens=178, total_tokens=214, source="reported", consistent=True
    )
    assert (reply.finish_reason, reply.text, status_of(reply)) == ("stop", "明天是2025年12月27日。", "ok")


def test_a_web_page_with_status_200_is_malformed_and_the_message_describes_it() -> None:
    with pytest.raises(MalformedReply, match=r"web page instead of JSON \('Console'\): is base_url right") as caught:
        GEMINI.parse_response((BODIES / "gemini/ok_200_html.html").read_bytes())
    assert not caught.value.cut


# --- requests --------------------------------------------------------------------------------------------------------

DATES = (user("今天是几号"), assistant("今天是2025年12月26日"), user("明天是几号"))
DOGS = (
    user("Hello"),
    assistant("Great to meet you. What would you like to know?"),
    user("I have two dogs in my house. How many paws are in my house?"),
)


@pytest.mark.parametrize(
    ("base_url", "model", "dialogue", "url"),
    [
        (
            "https://www.dmxapi.cn",
            "gemini-2.5-flash",
            DATES,
            "https://www.dmxapi.cn/v1beta/models/gemini-2.5-flash:generateContent",
        ),
        (
            "https://generativelanguage.googleapis.com",
            "gemini-2.0-flash",
            DOGS,
            "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.0-flash:generateContent",
        ),
    ],
    ids=["dmxapi", "google"],
)
def test_both_documented_gemini_requests_are_reproduced(
    base_url: str, model: str, dialogue: tuple[Message, ...], url: str
) -> None:
    request = GEMINI.build_request(Ask(model=model, messages=dialogue), Endpoint(base_url=base_url))
    assert (request.method, request.url) == ("POST", url)
    assert dict(request.headers) == {"Content-Type": "application/json"}
    assert request.json == {
        "contents": [
            {"role": "model" if message.role == "assistant" else "user", "parts": [{"text": message.text}]}
            for message in dialogue
        ]
    }


@each(
    ("base_url", "version", "model", "stream", "url"),
    [
        ("http://h/", None, "m", False, "http://h/v1beta/models/m:generateContent"),
        ("http://h", "v1", "m", False, "http://h/v1/models/m:generateContent"),
        ("http://h", None, "m", True, "http://h/v1beta/models/m:streamGenerateContent?alt=sse"),
        ("http://h/proxy/gemini/", None, "m", False, "http://h/proxy/gemini/v1beta/models/m:generateContent"),
        ("http://h/v1beta/", None, "m", False, "http://h/v1beta/models/m:generateContent"),
        ("http://h/v1", "v1", "m", False, "http://h/v1/models/m:generateContent"),
        ("http://h/v1", "v1beta", "m", False, "http://h/v1/v1beta/models/m:generateContent"),
        ("http://h", None, "models/m", False, "http://h/v1beta/models/m:generateContent"),
        ("http://h", None, "tunedModels/t-1", False, "http://h/v1beta/tunedModels/t-1:generateContent"),
        ("http://h", None, "google/gemini 2?#%", False, "http://h/v1beta/models/google/gemini%202%3F%23%25:generateContent"),
        ("http://h", None, "模型", False, "http://h/v1beta/models/%E6%A8%A1%E5%9E%8B:generateContent"),
    ],
)  # fmt: skip
def test_a_gemini_url_is_built_from_any_base(
    base_url: str, version: str | None, model: str, stream: bool, url: str
) -> None:
    ask = Ask(model=model, messages=(user("x"),), stream=stream)
    assert GEMINI.build_request(ask, Endpoint(base_url=base_url, api_version=version)).url == url


@pytest.mark.parametrize("base_url", ["https://api.openai.com/v1", "https://api.openai.com/v1/"])
def test_an_openai_request_starts_with_the_system_message_and_omits_unset_fields(base_url: str) -> None:
    request = OPENAI.build_request(Ask(model="m", messages=DATES, system="Be brief."), Endpoint(base_url=base_url))
    assert (request.method, request.url) == ("POST", "https://api.openai.com/v1/chat/completions")
    assert request.json == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "今天是几号"},
            {"role": "assistant", "content": "今天是2025年12月26日"},
            {"role": "user", "content": "明天是几号"},
        ],
        "stream": False,
    }


def test_a_streamed_openai_request_asks_for_usage() -> None:
    request = OPENAI.build_request(Ask(model="m", messages=(user("x"),), stream=True), LOCAL)
    assert request.json["stream"] is True
    assert request.json["stream_options"] == {"include_usage": True}
    assert request.headers["Accept"] == "text/event-stream"


def test_text_parts_are_not_merged() -> None:
    message = Message(role="user", parts=(text_part("a"), text_part("b")))
    ask = Ask(model="m", messages=(message,))
    assert body_of(GEMINI, ask)["contents"] == [{"role": "user", "parts": [{"text": "a"}, {"text": "b"}]}]
    assert body_of(OPENAI, ask)["messages"][0]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
CLOSED = {**SCHEMA, "required": ["a"], "additionalProperties": False}


@each(
    ("set_to", "added"),
    [
        ({"temperature": 0}, {"generationConfig": {"temperature": 0}}),
        ({"top_p": 0.5, "top_k": 3}, {"generationConfig": {"topP": 0.5, "topK": 3}}),
        ({"max_output_tokens": 9, "seed": 0}, {"generationConfig": {"maxOutputTokens": 9, "seed": 0}}),
        ({"stop": ("a", "b")}, {"generationConfig": {"stopSequences": ["a", "b"]}}),
        ({"stop": ()}, {}),
        ({"thinking_budget": 0}, {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}),
        ({"thinking_level": "LOW"}, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}}),
        ({"thinking_level": "deep"}, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "deep"}}}),
        ({"reasoning_effort": "low"}, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}}),
        ({"reasoning_effort": "none"}, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "MINIMAL"}}}),
        ({"include_thoughts": True}, {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}),
        ({"logprobs": 0}, {"generationConfig": {"responseLogprobs": True, "logprobs": 0}}),
        ({"service_tier": "flex", "cache": "auto"}, {"serviceTier": "flex"}),
        (
            {"response_schema": {**SCHEMA, "strict": True}},
            {"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}},
        ),
        (
            {"safety": {"HARM_CATEGORY_HARASSMENT": "OFF"}},
            {"safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]},
        ),
        ({"extra": {"labels": {"a": "b"}}}, {"labels": {"a": "b"}}),
        (
            {"temperature": 1, "extra": {"generationConfig": {"candidateCount": 1}}},
            {"generationConfig": {"temperature": 1, "candidateCount": 1}},
        ),
        (
            {"thinking_budget": 5, "extra": {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}},
            {"generationConfig": {"thinkingConfig": {"thinkingBudget": 5, "includeThoughts": True}}},
        ),
    ],
)
def test_every_setting_has_its_gemini_field(set_to: dict[str, Any], added: dict[str, Any]) -> None:
    plain = {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}
    ask = Ask(model="m", messages=(user("x"),), settings=Settings(**set_to))
    assert body_of(GEMINI, ask) == plain | added


def test_a_gemini_system_text_is_an_instruction_without_a_role() -> None:
    ask = Ask(model="m", messages=(user("x"),), system="Be brief.")
    assert body_of(GEMINI, ask)["systemInstruction"] == {"parts": [{"text": "Be brief."}]}


@each(
    ("set_to", "added"),
    [
        ({"temperature": 0, "top_p": 1.0, "seed": 0}, {"temperature": 0, "top_p": 1.0, "seed": 0}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"thinking_level": "HIGH"}, {"reasoning_effort": "high"}),
        ({"logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"service_tier": "flex", "cache": "auto"}, {"service_tier": "flex"}),
        ({"stop": ("a",)}, {"stop": ["a"]}),
        ({"max_output_tokens": 9}, {"max_tokens": 9}),
        (
            {"response_schema": {**SCHEMA, "strict": False}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA}}},
        ),
        (
            {"response_schema": CLOSED},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "reply", "schema": CLOSED, "strict": True},
                }
            },
        ),
        (
            {
                "response_schema": {**SCHEMA, "strict": False},
                "extra": {"response_format": {"json_schema": {"strict": True}}},
            },
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        ({"extra": {"top_k": 4, "chat_template_kwargs": {"a": 1}}}, {"top_k": 4, "chat_template_kwargs": {"a": 1}}),
    ],
)
def test_every_setting_has_its_openai_field(set_to: dict[str, Any], added: dict[str, Any]) -> None:
    plain = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": False}
    ask = Ask(model="m", messages=(user("x"),), settings=Settings(**set_to))
    assert body_of(OPENAI, ask) == plain | added


def test_the_gateway_sets_the_field_of_the_output_limit() -> None:
    ask = Ask(model="m", messages=(user("x"),), settings=Settings(max_output_tokens=5))
    assert body_of(OPENAI, ask, OPENAI_COM)["max_completion_tokens"] == 5
    assert "max_tokens" not in body_of(OPENAI, ask, OPENAI_COM)


IMAGE = Part(kind="image", path="media/cat.png")


@each(
    ("wire", "set_to", "message"),
    [
        (GEMINI, {"cache": "1h"}, "cache '1h': Gemini caches by itself"),
        (GEMINI, {"thinking_budget": 1, "thinking_level": "LOW"}, "thinking_budget .* or thinking_level .* not both"),
        (GEMINI, {"extra": {"contents": []}}, "'contents'"),
        (GEMINI, {"seed": 1, "extra": {"generationConfig": {"seed": 2}}}, "overrides generationConfig.seed"),
        (GEMINI, {"seed": 1, "extra": {"generationConfig": 3}}, "sets generationConfig to 3, but it is an object"),
        (GEMINI, {"seed": 1, "extra": {"generation_config": {}}}, "write it as 'generationConfig'"),
        (GEMINI, {"top_k": 1, "extra": {"generationConfig": {"top_k": 2}}}, "generationConfig.top_k, .* as 'topK'"),
        (GEMINI, {"extra": {"temperature": 0.5}}, "--temperature, or -p generationConfig.temperature"),
        (GEMINI, {"extra": {"max_tokens": 5}}, "--max-output-tokens, or -p generationConfig.maxOutputTokens"),
        (GEMINI, {"extra": {"response_format": {}}}, "use -p generationConfig.responseMimeType"),
        (OPENAI, {"top_k": 1}, "openai protocol cannot carry top_k .*extra"),
        (OPENAI, {"thinking_budget": 1}, "thinking_budget .*reasoning_effort"),
        (OPENAI, {"thinking_level": "LOW", "reasoning_effort": "high"}, "'LOW' and reasoning_effort 'high' .two names"),
        (OPENAI, {"include_thoughts": True, "top_k": 4}, "top_k .*include_thoughts .*extra"),
        (OPENAI, {"cache": "off"}, "cache 'off': OpenAI caches by itself"),
        (OPENAI, {"safety": {"a": "b"}, "top_k": 1}, "top_k .*; safety .*gemini"),
        (OPENAI, {"extra": {"stream": True}}, "'stream'"),
        (OPENAI, {"extra": {"messages": []}}, "'messages'"),
        (OPENAI, {"temperature": 1.0, "extra": {"temperature": 1.0}}, "overrides temperature"),
        (OPENAI, {"max_output_tokens": 5, "extra": {"max_tokens": 6}}, "overrides max_tokens"),
    ],
)
def test_settings_that_the_protocol_cannot_carry_are_refused_by_name(
    wire: WireProtocol, set_to: dict[str, Any], message: str
) -> None:
    with pytest.raises(CannotCarry, match=message):
        wire.build_request(Ask(model="m", messages=(user("x"),), settings=Settings(**set_to)), LOCAL)


@pytest.mark.parametrize("wire", PROTOCOLS.values(), ids=PROTOCOLS)
def test_media_without_content_is_refused_and_never_dropped(wire: WireProtocol) -> None:
    message = Message(role="user", parts=(text_part("what is this?"), IMAGE))
    with pytest.raises(CannotCarry, match=r"content of media/cat.png was not read"):
        wire.build_request(Ask(model="m", messages=(message,)), LOCAL)


def test_building_a_request_changes_neither_settings_nor_extra() -> None:
    extra = {"generationConfig": {"responseJsonSchema": {"title": "T"}, "candidateCount": 1}}
    chosen_settings = Settings(response_schema=dict(SCHEMA), extra=extra)
    before = encode_json(chosen_settings.to_plain())
    ask = Ask(model="m", messages=(user("x"),), settings=chosen_settings)
    assert body_of(GEMINI, ask)["generationConfig"]["responseJsonSchema"] == {**SCHEMA, "title": "T"}
    assert encode_json(chosen_settings.to_plain()) == before


# --- replay ----------------------------------------------------------------------------------------------------------

ODD_CONTENT = rb"""{"zeta":1,"parts":[{"text":"a","thought":true,"thoughtSignature":"c2ln","x":[1,{"y":null}]},
{"functionCall":{"id":"7","name":"f","args":{"n":12345678901234567890123}}},{"text":"\ud800 ok"}],"role":"model"}"""


def test_a_gemini_turn_is_sent_back_exactly_as_received() -> None:
    body = b'{"candidates":[{"content":' + ODD_CONTENT + b',"finishReason":"STOP"}]}'
    raw = GEMINI.parse_response(body).raw_turn
    sent = body_of(GEMINI, Ask(model="m", messages=(user("x"), assistant("not this", raw), user("y"))))
    assert encode_json(sent["contents"][1]) == encode_json(json.loads(ODD_CONTENT))
    assert list(sent["contents"][1]) == ["zeta", "parts", "role"]


@pytest.mark.parametrize(
    ("received", "sent"),
    [
        ({"role": "model"}, {"role": "model"}),
        ({"role": "model", "parts": []}, {"role": "model", "parts": []}),
        ({"parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "a"}]}),
    ],
    ids=["no parts", "empty parts", "no role"],
)
def test_an_odd_gemini_turn_is_sent_back_with_only_the_role_added(received: Any, sent: Any) -> None:
    ask = Ask(model="m", messages=(user("x"), assistant("", received), user("y")))
    assert body_of(GEMINI, ask)["contents"][1] == sent


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra_content": {"g": 1}}


@each(
    ("received", "sent"),
    [
        ({"role": "assistant", "content": "a", "refusal": None, "audio": None, "annotations": []}, None),
        ({"role": "assistant", "content": None, "reasoning_content": "r", "tool_calls": [CALL]}, None),
        ({"role": "assistant", "content": "a", "reasoning_details": [{"type": "x", "data": "y"}]}, None),
        ({"role": "assistant", "content": "a", "tool_calls": []}, {"role": "assistant", "content": "a"}),
        ({"content": "a"}, {"role": "assistant", "content": "a"}),
        (
            {"role": "assistant", "content": None, "audio": {"id": "au", "data": "AAAA", "transcript": "t"}},
            {"role": "assistant", "content": None, "audio": {"id": "au"}},
        ),
    ],
)
def test_an_openai_turn_is_sent_back_without_fields_that_the_api_rejects(received: Any, sent: Any) -> None:
    whole = {"choices": [{"message": received, "finish_reason": "stop"}]}
    raw = OPENAI.parse_response(encode_json(whole)).raw_turn
    assert raw == received
    replayed = body_of(OPENAI, Ask(model="m", messages=(user("x"), assistant("", raw), user("y"))))["messages"][1]
    assert encode_json(replayed) == encode_json(received if sent is None else sent)


# --- replies ---------------------------------------------------------------------------------------------------------


def gemini_reply(**fields: Any) -> Reply:
    return GEMINI.parse_response(encode_json(fields))


def candidate(*parts: Any, finish: Any = "STOP", **fields: Any) -> dict[str, Any]:
    return {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish, **fields}


def openai_reply(message: Any, finish: Any = "stop", **fields: Any) -> Reply:
    return OPENAI.parse_response(encode_json({"choices": [{"message": message, "finish_reason": finish}], **fields}))


@each(
    ("sent", "input_tokens", "output_tokens", "source", "consistent"),
    [
        ({"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7}, 5, 2, "reported", True),
        ({"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 9}, 5, 2, "reported", False),
        ({"promptTokenCount": 5, "candidatesTokenCount": 2}, 5, 2, "reported", None),
        ({"promptTokenCount": 5, "totalTokenCount": 5}, 5, None, "partial", False),
        ({"promptTokenCount": 5, "totalTokenCount": 6}, 5, None, "partial", None),
        ({"promptTokenCount": 5, "thoughtsTokenCount": 4, "totalTokenCount": 9}, 5, 4, "reported", True),
        (
            {"promptTokenCount": 5, "toolUsePromptTokenCount": 3, "candidatesTokenCount": 1, "totalTokenCount": 9},
            8,
            1,
            "reported",
            True,
        ),
        ({"promptTokenCount": 5}, 5, None, "partial", None),
        ({"candidatesTokenCount": 5, "totalTokenCount": 5}, None, 5, "partial", False),
        ({"promptTokenCount": 5, "candidatesTokenCount": 2, "thoughtsTokenCount": -1}, 5, None, "partial", False),
        ({"promptTokenCount": 5, "candidatesTokenCount": 2.0}, 5, 2, "reported", None),
        ({"promptTokenCount": "many", "candidatesTokenCount": 2}, None, 2, "partial", None),
        ({}, None, None, "missing", None),
        (None, None, None, "missing", None),
        ("12", None, None, "missing", None),
    ],
)
def test_gemini_counts_are_added_only_if_known(
    sent: Any, input_tokens: int | None, output_tokens: int | None, source: str, consistent: bool | None
) -> None:
    usage = gemini_reply(candidates=[candidate({"text": "a"})], usageMetadata=sent).usage
    assert (usage.input_tokens, usage.output_tokens, usage.source) == (input_tokens, output_tokens, source)
    assert usage.consistent is consistent


@each("count", [True, "7.", "-7", "٧", "7" * 17, [7], {"n": 7}])
def test_a_count_that_is_no_number_is_unknown(count: Any) -> None:
    gemini = gemini_reply(candidates=[candidate({"text": "a"})], usageMetadata={"promptTokenCount": count})
    openai = openai_reply({"content": "a"}, usage={"prompt_tokens": count, "completion_tokens": 3})
    for usage in (gemini.usage, openai.usage):
        assert (usage.input_tokens, usage.source, usage.consistent) == (None, "partial", None)


@each("count", [-1, -0.5, 1.5, 2**53 + 1, 2**64 - 6, 10**40, 1e300])
def test_an_implausible_count_is_unknown(count: Any) -> None:
    gemini = gemini_reply(candidates=[candidate({"text": "a"})], usageMetadata={"promptTokenCount": count})
    openai = openai_reply({"content": "a"}, usage={"prompt_tokens": count, "completion_tokens": 3})
    for usage in (gemini.usage, openai.usage):
        assert (usage.input_tokens, usage.source, usage.consistent) == (None, "partial", False)
    hidden = openai_reply({"content": "a"}, usage={"prompt_tokens": 20, "completion_tokens": count, "total_tokens": 25})
    assert (hidden.usage.output_tokens, hidden.usage.consistent) == (None, False)


@each(
    ("sent", "known"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, {"output_tokens": 4, "consistent": True}),
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 9}, {"output_tokens": 4, "consistent": False}),
        ({"prompt_tokens": 3, "total_tokens": 3}, {"output_tokens": None, "source": "partial"}),
        (
            {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1}},
            {"cached_input_tokens": 2, "cache_write_input_tokens": 1, "source": "partial"},
        ),
        ({"prompt_tokens": 3, "prompt_cache_hit_tokens": 2}, {"cached_input_tokens": 2}),
        (
            {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0}, "prompt_cache_hit_tokens": 2},
            {"cached_input_tokens": 0},
        ),
        ({"prompt_tokens": 3, "prompt_tokens_details": "?", "completion_tokens_details": []}, {"input_tokens": 3}),
    ],
)
def test_openai_counts_are_read_from_the_fields_of_each_vendor(sent: dict[str, Any], known: dict[str, Any]) -> None:
    usage = openai_reply({"content": "a"}, usage=sent).usage
    assert {name: getattr(usage, name) for name in known} == known


@each(
    ("body", "finish", "blocked", "text"),
    [
        ({"candidates": [candidate({"text": "a"}, finish=None)]}, "other", None, "a"),
        ({"candidates": [candidate({"text": "a"}, finish="")]}, "other", None, "a"),
        ({"candidates": [candidate({"text": "a"}, finish=7)]}, "other", None, "a"),
        ({"candidates": [candidate({"functionCall": {"name": "f"}}, finish=None)]}, "tool_call", None, None),
        ({"candidates": [candidate({"functionCall": {"name": "f"}}, finish="MAX_TOKENS")]}, "length", None, None),
        ({"candidates": [candidate({"inlineData": {"data": "AA", "mimeType": "image/png"}})]}, "stop", None, None),
        ({"candidates": [candidate({"text": "half"}, finish="SAFETY")]}, "content_filter", "output", "half"),
        ({"promptFeedback": {"blockReason": "JAILBREAK"}, "candidates": None}, "content_filter", "prompt", None),
        (
            {"promptFeedback": {"blockReason": ""}, "candidates": [candidate({"text": "a"})]},
            "stop", None, "a",
        ),
        (
            {"promptFeedback": {"blockReason": "BLOCKED_REASON_UNSPECIFIED"}, "candidates": [candidate({"text": "a"})]},
            "stop", None, "a",
        ),
        ({"promptFeedback": {"blockReason": "BLOCKED_REASON_UNSPECIFIED"}}, "content_filter", "prompt", None),
        ({"candidates": [candidate({"text": "b"}, index=1), candidate({"text": "a"}, index=0)]}, "stop", None, "a"),
        ({"candidates": [{"finishReason": "STOP"}]}, "stop", None, None),
        ({"candidates": [candidate({"text": "t", "thought": True}, finish="MAX_TOKENS")]}, "length", None, ""),
    ],
)  # fmt: skip
def test_odd_gemini_replies_keep_their_content(body: Any, finish: str, blocked: str | None, text: str | None) -> None:
    reply = gemini_reply(**body)
    assert (reply.finish_reason, reply.blocked, reply.text) == (finish, blocked, text)


@each(
    ("message", "finish_raw", "finish", "text", "thought"),
    [
        ({"content": "a"}, "", "other", "a", None),
        ({"content": "a"}, "eos", "stop", "a", None),
        ({"content": "a"}, "error", "error", "a", None),
        ({"content": "a"}, "insufficient_system_resource", "error", "a", None),
        ({"content": None, "tool_calls": [CALL]}, "stop", "tool_call", None, None),
        ({"content": "", "tool_calls": [CALL]}, "tool_calls", "tool_call", None, None),
        ({"content": None, "function_call": {"name": "f"}}, "function_call", "tool_call", None, None),
        ({"content": "", "refusal": "no"}, "stop", "content_filter", None, None),
        ({"content": "a", "reasoning": "r", "reasoning_content": ""}, "stop", "stop", "a", "r"),
        (
            {"content": [{"type": "thinking", "thinking": [{"text": "r"}]}, {"type": "text", "text": "a"}]},
            "stop", "stop", "a", "r",
        ),
        ({"content": []}, "stop", "stop", "", None),
        ({"content": ["a", {"type": "reasoning", "text": "r"}, {"text": "b"}]}, "stop", "stop", "ab", "r"),
        ({"content": [{"type": "thinking", "thinking": 5}, {"type": ["?"]}]}, "stop", "stop", "", None),
        ({"content": [{"type": "image_url", "image_url": {"url": "u"}}]}, "stop", "stop", None, None),
        (None, "length", "length", None, None),
    ],
)  # fmt: skip
def test_odd_openai_replies_keep_their_content(
    message: Any, finish_raw: Any, finish: str, text: str | None, thought: str | None
) -> None:
    reply = openai_reply(message, finish_raw)
    assert (reply.finish_reason, reply.finish_reason_raw) == (finish, finish_raw)
    assert (reply.text, reply.thought) == (text, thought)


@each(
    ("arguments", "read"),
    [('{"a":1}', {"a": 1}), ('{"a":', '{"a":'), ("", {}), ("NaN", "NaN"), ({"a": 1}, {"a": 1}), ("\ud800", "\ud800")],
)
def test_tool_arguments_are_parsed_or_kept_unchanged(arguments: Any, read: Any) -> None:
    call = {"id": "", "function": {"name": "f", "arguments": arguments}}
    (only,) = openai_reply({"content": None, "tool_calls": [call]}, "tool_calls").tool_calls
    assert (only.id, only.name, only.arguments) == (None, "f", read)


@each(
    ("body", "cut"),
    [
        (b"", True),
        (b"  \n", True),
        (b'{"candidates": [{"content": {"par', True),
        (b'{"choices": [{"message": {"content": "a}]', True),
        (b'[{"candidates": []}', True),
        (b"{}", False),
        (b"[]", False),
        (b"null", False),
        (b"7", False),
        (b'"text"', False),
        (b"NaN", False),
        (b'{"candidates": NaN, "choices": NaN}', False),
        (b"\xff\xfe{}", False),
        (b"data: {}\n\n", False),
        (b"upstream says hello", False),
        (b"[" * 300 + b"]" * 300, False),
        (b"[" * 100_000 + b"]" * 100_000, False),
        (b'{"a":' * 1000 + b"1" * 30 + b"}" * 1000, False),
        (b'{"totalTokens": 31}', False),
        (b'{"object": "list", "data": []}', False),
        (b'{"candidates": 5, "choices": 5}', False),
        (b'{"candidates": [5], "choices": [5]}', False),
        (b'{"candidates": [{"content": "a"}], "choices": [{"message": "a"}]}', False),
        (b'{"candidates": [{"content": {"parts": "a"}}], "choices": [{"message": {"content": 5}}]}', False),
    ],
)
def test_a_body_that_is_not_a_reply_is_malformed_and_a_cut_one_is_marked(body: bytes, cut: bool) -> None:
    for wire in PROTOCOLS.values():
        with pytest.raises(MalformedReply) as caught:
            wire.parse_response(body)
        assert isinstance(caught.value, CutReply) is cut
        assert caught.value.cut is cut
        assert len(str(caught.value)) < 600


def test_a_byte_order_mark_before_the_reply_is_ignored() -> None:
    body = b"\xef\xbb\xbf" + (BODIES / "openai/ok.json").read_bytes()
    assert OPENAI.parse_response(body) == OPENAI.parse_response((BODIES / "openai/ok.json").read_bytes())


@each(
    ("wire", "body", "kind", "status", "structured"),
    [
        (GEMINI, {"error": {"code": 503, "message": "m", "status": "UNAVAILABLE"}}, "overloaded", 503, True),
        (GEMINI, [{"error": {"code": 429, "message": "m"}}], "rate_limit", 429, True),
        (GEMINI, {"error": {"message": "m", "status": "INTERNAL"}}, "server_error", 500, True),
        (GEMINI, {"candidates": [{"index": 0}], "modelVersion": "m"}, "empty_response", None, False),
        (GEMINI, {"promptFeedback": {"safetyRatings": None}}, "empty_response", None, False),
        (OPENAI, {"error": {"code": "rate_limit_exceeded", "message": "m"}}, "rate_limit", None, True),
        (OPENAI, {"error": {"code": "insufficient_user_quota", "message": "m"}}, "quota", None, True),
        (OPENAI, {"error": {"code": "bad_response", "message": "m"}}, "server_error", None, True),
        (OPENAI, {"error": "something broke"}, "server_error", None, True),
        (OPENAI, {"error": {"code": "429", "message": "m"}}, "rate_limit", 429, True),
        (OPENAI, {"object": "error", "message": "m", "code": 400}, "invalid_request", 400, True),
        (GEMINI, {"error": {"code": 500}, "candidates": [candidate({"text": "a"})]}, "server_error", 500, True),
        (OPENAI, [{"error": {"code": 500, "message": "m"}}], "server_error", 500, True),
        (OPENAI, {"success": False, "message": "m"}, "server_error", None, True),
        (OPENAI, {"choices": [{"error": {"code": 402, "message": "m"}}]}, "quota", 402, True),
        (OPENAI, {"choices": None, "usage": None}, "empty_response", None, False),
        (OPENAI, {"choices": [{"message": None, "finish_reason": None}]}, "empty_response", None, False),
    ],
)  # fmt: skip
def test_an_error_inside_a_200_has_its_inner_code(
    wire: WireProtocol, body: Any, kind: str, status: int | None, structured: bool
) -> None:
    with pytest.raises(ErrorInBody) as caught:
        wire.parse_response(encode_json(body))
    assert (caught.value.failure.kind, caught.value.status) == (kind, status)
    assert caught.value.failure.structured is structured


# --- failures --------------------------------------------------------------------------------------------------------


def classify(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Failure:
    """Classify an error with both protocols, which must agree: gateways use any format on any route."""
    raw = body if isinstance(body, bytes) else encode_json(body)
    one, other = (wire.classify_error(status, headers or {}, raw) for wire in (GEMINI, OPENAI))
    assert one == other
    return one


def error(**fields: Any) -> dict[str, Any]:
    return {"error": {"message": "m", **fields}}


@each(
    ("status", "body", "kind", "retryable"),
    [
        (400, error(), "invalid_request", False),
        (401, error(), "auth", False),
        (402, error(), "quota", False),
        (402, b"", "quota", False),
        (403, error(), "permission", False),
        (404, error(type="invalid_request_error", message="Invalid URL (POST /v1/x)"), "not_found", False),
        (408, error(), "timeout", True),
        (409, error(), "invalid_request", True),
        (413, error(type="request_too_large"), "invalid_request", False),
        (413, error(message="This model's maximum context length is 8192 tokens"), "context_length", False),
        (413, b"<h1>413 Request Entity Too Large</h1>", "invalid_request", False),
        (422, {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, "invalid_request", False),
        (429, b"", "rate_limit", True),
        (499, error(status="CANCELLED", code=499), "connection", False),
        (500, error(message="The input token count (9) exceeds the maximum number of tokens"), "context_length", False),
        (501, error(code="api_not_implemented"), "not_found", False),
        (503, b"Service Unavailable", "overloaded", True),
        (504, b"", "timeout", True),
        (520, b"<html>", "server_error", True),
        (522, b"", "timeout", True),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "overloaded", True),
        (599, b"", "server_error", True),
        (204, b"", "bad_response", False),
        # balance errors in all forms
        (429, error(type="insufficient_quota", code=None), "quota", False),
        (403, {"type": "error", "error": {"type": "new_api_error", "message": "用户额度不足"}}, "quota", False),
        (403, error(type="v_api_error", code="insufficient_user_quota"), "quota", False),
        (401, error(type="shell_api_error", message="该令牌额度已用尽"), "quota", False),
        (400, {"type": "error", "error": {"message": "Your credit balance is too low to access"}}, "quota", False),
        (429, error(message="Your prepayment credits are depleted.", status="RESOURCE_EXHAUSTED"), "quota", False),
        (429, error(message="Your project has exceeded its monthly spending cap."), "quota", False),
        (429, {"error": {"message": "m", "details": {"error_code": "enforced_spend_limit_reached"}}}, "quota", False),
        (429, error(message="Rate limit exceeded: free-models-per-day"), "quota", False),
        (429, error(message="on requests per day (RPD): Limit 200. Please try again in 7m12s."), "rate_limit", True),
        (500, error(code="pre_consume_token_quota_failed"), "quota", False),
        # DashScope
        (429, error(code="Throttling.RateQuota"), "rate_limit", True),
        (429, {"code": "Throttling.AllocationQuota", "message": "m", "request_id": "r"}, "rate_limit", True),
        (400, error(code="Arrearage", message="Access denied"), "quota", False),
        (403, error(code="AllocationQuota.FreeTierOnly"), "quota", False),
        (400, error(code="DataInspectionFailed"), "content_filter", False),
        (400, error(code="data_inspection_failed"), "content_filter", False),
        (400, error(message="Input data may contain inappropriate content."), "content_filter", False),
        (400, error(message="Range of input length should be [1, 30720]"), "context_length", False),
        # new-api and its forks
        (503, error(type="x_error", code="model_not_found"), "not_found", False),
        (500, error(message="当前分组 default 下对于模型 m 无可用渠道"), "not_found", False),
        (500, error(code="get_channel_failed", message="模型 m 的可用渠道不存在（retry）"), "server_error", True),
        (401, error(code="channel:no_available_key"), "server_error", True),
        (400, error(code="sensitive_words_detected"), "content_filter", False),
        (500, error(code=429, message="Resource exhausted"), "rate_limit", True),
        (429, error(code="do_request_failed"), "rate_limit", True),
        (429, error(code="engine_overloaded_error"), "rate_limit", True),
        # OpenRouter, vLLM, llama.cpp, Azure, Ollama
        (402, error(code=402, message="Insufficient credits"), "quota", False),
        (502, error(code=502, metadata={"raw": "x"}), "server_error", True),
        (403, error(code=403, metadata={"reasons": ["x"], "flagged_input": "y"}), "content_filter", False),
        (400, {"object": "error", "message": "m", "type": "BadRequestError", "code": 400}, "invalid_request", False),
        (400, error(type="exceed_context_size_error", code=400), "context_length", False),
        (400, error(code="content_filter", innererror={}), "content_filter", False),
        (404, {"error": "model 'x' not found, try pulling it first"}, "not_found", False),
        # a flattened Google key error
        (400, error(message="API key not valid. Please pass a valid API key.", code=400), "auth", False),
    ],
)  # fmt: skip
def test_error_responses_are_classified(status: int, body: Any, kind: str, retryable: bool) -> None:
    failure = classify(status, body)
    assert (failure.kind, failure.retryable) == (kind, retryable)


@each(
    ("body", "structured"),
    [
        (error(), True),
        ({"error": "text"}, True),
        ([error()], True),
        ({"message": "m"}, True),
        ({"errors": [{"message": "m"}]}, True),
        ({"error": {"error": {"message": "m"}}}, True),
        ({"detail": "m"}, True),
        ({}, False),
        ([], False),
        ({"error": {}}, False),
        ("text", False),
        (b"", False),
        (b"<html>502</html>", False),
        (b'{"error": {"message": "m"', False),
    ],
)
def test_structured_means_that_the_body_is_a_json_error_object(body: Any, structured: bool) -> None:
    assert classify(500, body).structured is structured


@each(
    ("body", "message"),
    [
        (b"", "HTTP 502 without a body"),
        (b"  Bad\n\tGateway\x00 ", "Bad Gateway"),
        (b"<html><style>p{color:red}</style><script>1<2</script><p>Bad&nbsp;&amp;<br>ugly</p>", "Bad & ugly"),
        (b"<!-- <p>no</p> --><p>yes", "yes"),
        (b"<script>" * 5000, "HTTP 502 without a body"),
        ("错误".encode("gbk"), None),
        (b"x" * 5000, "x" * 199 + "…"),
        ({"error": {"message": "", "code": 7}}, '{"message":"","code":7}'),
        ({"error": {"message": {"a": 1}}}, '{"a":1}'),
        (
            {"error": {"message": "Provider returned error", "metadata": {"provider_name": "G", "raw": '{"e":\n"x"}'}}},
            'Provider returned error (G: {"e": "x"})',
        ),
    ],
)
def test_the_message_is_the_readable_text_of_the_error(body: Any, message: str | None) -> None:
    read = classify(502, body).message
    assert message is None or read == message
    assert "\n" not in read


@each(
    ("status", "word", "kind", "should_retry", "retryable"),
    [
        (500, "true", "server_error", True, True),
        (500, "false", "server_error", False, False),
        (429, "False", "rate_limit", False, False),
        (409, "false", "invalid_request", False, False),
        (400, "true", "invalid_request", True, False),
        (500, "perhaps", "server_error", None, True),
    ],
)
def test_x_should_retry_is_kept_and_never_makes_a_final_failure_retryable(
    status: int, word: str, kind: str, should_retry: bool | None, retryable: bool
) -> None:
    failure = classify(status, error(), {"x-should-retry": word})
    assert (failure.kind, failure.should_retry, failure.retryable) == (kind, should_retry, retryable)


@each(
    ("message", "scope"),
    [
        ("Limit 3 / min. tokens per min (TPM)", "minute"),
        ("您已达到请求数限制：3分钟内最多请求60次", "minute"),
        ("requests per day (RPD). Please try again in 3s", "day"),
        ("slow down", None),
    ],
)
def test_the_window_of_a_limit_is_read_from_the_text(message: str, scope: str | None) -> None:
    assert classify(429, error(message=message)).scope == scope
    assert classify(404, error(message=message)).scope is None


def test_the_hint_of_an_upstream_error_is_read_from_openrouter_errors() -> None:
    raw = '{"error": {"details": [{"retryDelay": "31s"}]}}'
    failure = classify(429, error(code=429, metadata={"raw": raw}))
    assert (failure.kind, failure.retry_after_s) == ("rate_limit", 31.0)


# --- lists of models -------------------------------------------------------------------------------------------------


def test_model_lists_are_requested_and_read() -> None:
    assert GEMINI.build_models_request(GOOGLE).url == f"{GOOGLE.base_url}/v1beta/models?pageSize=1000"
    assert OPENAI.build_models_request(OPENAI_COM).url == "https://api.openai.com/v1/models"
    assert OPENAI.build_models_request(OPENAI_COM).json is None
    assert GEMINI.parse_models((BODIES / "gemini/models_list.json").read_bytes()) == ("gemini-2.5-flash",)
    listed = {"object": "list", "data": [{"id": "a"}, {"id": "b/c"}]}
    assert OPENAI.parse_models(encode_json(listed)) == GEMINI.parse_models(encode_json(listed)) == ("a", "b/c")
    assert OPENAI.parse_models(b'[{"id": "a"}]') == ("a",)


def test_gemini_models_that_cannot_generate_are_omitted() -> None:
    methods = {"supportedGenerationMethods": ["embedContent"]}
    body = encode_json({"models": [{"name": "models/e", **methods}, {"name": "models/g"}, {"name": ""}]})
    assert GEMINI.parse_models(body) == ("g",)


@each("body", [b"", b"<html>", b"{}", b"7", b'{"data": 5, "models": 5}', b'{"data": [5]}', b"[5]"])
def test_a_body_that_is_not_a_model_list_is_malformed(body: bytes) -> None:
    for wire in PROTOCOLS.values():
        with pytest.raises(MalformedReply):
            wire.parse_models(body)


# --- streams ---------------------------------------------------------------------------------------------------------


def events(*chunks: Any) -> list[SseEvent]:
    return [
        SseEvent(event="", data=chunk if isinstance(chunk, str) else encode_json(chunk).decode()) for chunk in chunks
    ]


def folded(wire: WireProtocol, stream: list[SseEvent]) -> Reply:
    draft = Draft()
    for event in stream:
        draft = wire.parse_event(draft, event)
    return wire.finish(draft)


def test_folding_an_event_never_changes_the_previous_draft() -> None:
    for fixture in (p.values[0] for p in chosen("stream") if "error" not in str(p.id)):
        assert isinstance(fixture, dict)
        wire, parser = PROTOCOLS[fixture["protocol"]], SseParser()
        draft = Draft()
        body = (BODIES / fixture["file"]).read_bytes()
        for event in [*parser.feed(body), *parser.close()]:
            before = json.dumps(settled(dict(draft.state)))
            grown = wire.parse_event(draft, event)
            assert json.dumps(settled(dict(draft.state))) == before
            draft = grown


@pytest.mark.parametrize("wire", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_stream_without_an_event_is_truncated(wire: WireProtocol) -> None:
    with pytest.raises(ErrorInBody) as caught:
        wire.finish(Draft())
    assert (caught.value.failure.kind, caught.value.failure.text) == ("stream_truncated", None)


def test_an_invalid_json_line_breaks_a_stream_only_before_its_end() -> None:
    head = {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hi"}]}}]}
    last = {"candidates": [{"finishReason": "STOP"}]}
    assert folded(GEMINI, events(head, last, "{oops")).text == "Hi"
    with pytest.raises(ErrorInBody) as caught:
        folded(GEMINI, events(head, "{oops", last))
    assert (caught.value.failure.kind, caught.value.failure.text) == ("stream_truncated", "Hi")


def test_a_bare_json_error_inside_a_stream_is_found() -> None:
    head = b'data: {"candidates":[{"content":{"parts":[{"text":"Hi"}]}}]}\n\n'
    bare = b'{\n  "error": {\n    "code": 503,\n    "message": "busy",\n    "status": "UNAVAILABLE"\n  }\n}\n'
    with pytest.raises(ErrorInBody) as caught:
        streamed(GEMINI, [head, bare])
    assert (caught.value.failure.kind, caught.value.failure.text, caught.value.status) == ("overloaded", "Hi", 503)


def test_an_array_that_stops_before_its_finish_reason_is_truncated() -> None:
    body = encode_json([{"candidates": [{"content": {"parts": [{"text": "Hi"}]}}]}])
    with pytest.raises(ErrorInBody) as caught:
        GEMINI.parse_response(body)
    assert (caught.value.failure.kind, caught.value.failure.text) == ("stream_truncated", "Hi")


def test_signed_parts_of_a_stream_are_never_merged() -> None:
    parts = [
        {"text": "a"},
        {"text": "b", "thoughtSignature": "1"},
        {"text": "c"},
        {"text": "", "thoughtSignature": "2"},
    ]
    chunks = [{"candidates": [{"content": {"role": "model", "parts": [part]}}]} for part in parts]
    reply = folded(GEMINI, events(*chunks, {"candidates": [{"finishReason": "STOP"}]}))
    assert (reply.text, reply.raw_turn) == ("abc", {"role": "model", "parts": parts})


def test_a_done_marker_ends_an_openai_stream_without_a_finish_reason() -> None:
    reply = folded(OPENAI, events({"choices": [{"delta": {"content": "Hi"}}]}, "[DONE]"))
    assert (reply.text, reply.finish_reason, reply.finish_reason_raw) == ("Hi", "other", None)


def test_tool_calls_without_an_index_are_distinguished_by_id() -> None:
    def call(call_id: str | None, name: str | None, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return {"choices": [{"delta": {"tool_calls": [{"id": call_id, "function": function}]}}]}

    chunks = [call("1", "f", '{"a"'), call(None, None, ":1}"), call("2", "g", "{}")]
    reply = folded(OPENAI, events(*chunks, {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}))
    assert [(c.id, c.name, c.arguments) for c in reply.tool_calls] == [("1", "f", {"a": 1}), ("2", "g", {})]
    assert [call["function"]["arguments"] for call in reply.raw_turn["tool_calls"]] == ['{"a":1}', "{}"]


def test_list_content_of_a_stream_is_joined_as_its_parts() -> None:
    deltas: list[Any] = [{"content": "a"}, {"content": [{"type": "text", "text": "b"}]}, {"content": [{"text": "c"}]}]
    chunks = [{"choices": [{"delta": delta}]} for delta in deltas]
    reply = folded(OPENAI, events(*chunks, {"choices": [{"delta": None, "finish_reason": "stop"}]}))
    assert reply.text == "abc"


def test_late_fields_of_a_tool_call_are_kept_for_the_replay() -> None:
    def chunk(**call: Any) -> dict[str, Any]:
        return {"choices": [{"delta": {"tool_calls": [{"index": 0, **call}]}}]}

    chunks = [chunk(id="1"), chunk(function={"name": "f", "arguments": {"a": 1}}), chunk(extra_content={"s": "sig"})]
    reply = folded(OPENAI, events(*chunks, {"choices": [{"finish_reason": "tool_calls"}]}))
    assert reply.tool_calls[0].arguments == {"a": 1}
    assert reply.raw_turn["tool_calls"][0]["extra_content"] == {"s": "sig"}


@each(
    ("wire", "chunk"),
    [
        (GEMINI, 5),
        (GEMINI, {"candidates": 5}),
        (GEMINI, {"candidates": [5]}),
        (GEMINI, {"candidates": [{"content": 5}]}),
        (OPENAI, 5),
        (OPENAI, {"choices": 5}),
        (OPENAI, {"choices": [5]}),
        (OPENAI, {"choices": [{"delta": 5}]}),
        (OPENAI, {"choices": [{"delta": {"tool_calls": 5}}]}),
    ],
)
def test_a_chunk_of_unexpected_shape_is_malformed(wire: WireProtocol, chunk: Any) -> None:
    with pytest.raises(MalformedReply):
        folded(wire, events(chunk))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PIECES = st.one_of(
    st.builds(lambda text, flag: {"text": text} | ({"thought": True} if flag else {}), texts, st.booleans()),
    st.builds(lambda text: {"text": text, "thoughtSignature": "s"}, texts),
    st.just({"functionCall": {"name": "f", "args": {"n": 1}}}),
)


@given(st.lists(PIECES, min_size=1, max_size=6), st.data())
@settings(max_examples=examples(150), deadline=None)
def test_a_gemini_stream_gives_the_same_reply_for_any_split_of_its_text(parts: list[dict[str, Any]], data: Any) -> None:
    def one(part: dict[str, Any]) -> dict[str, Any]:
        return {"candidates": [{"content": {"role": "model", "parts": [part]}}]}

    last = {"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 1, "totalTokenCount": 1}}
    cut: list[dict[str, Any]] = []
    for part in parts:
        at = data.draw(st.integers(0, len(part.get("text", ""))))
        plain = "text" in part and "thoughtSignature" not in part
        cut += [{**part, "text": part["text"][:at]}, {**part, "text": part["text"][at:]}] if plain else [part]
    whole = GEMINI.parse_response(encode_json({**one(parts[0]), **last, "candidates": [candidate(*parts)]}))
    together = folded(GEMINI, events(*map(one, parts), last))
    apart = folded(GEMINI, events(*map(one, cut), last))
    assert apart == together
    assert (whole.text, whole.thought, whole.tool_calls) == (apart.text, apart.thought, apart.tool_calls)
    assert (whole.finish_reason, whole.usage) == (apart.finish_reason, apart.usage)


@given(texts, st.none() | texts.filter(bool), st.lists(texts, max_size=3), st.data())
@settings(max_examples=examples(150), deadline=None)
def test_an_openai_stream_gives_the_same_reply_as_the_whole_body(
    content: str, reasoning: str | None, calls: list[str], data: Any
) -> None:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        function = [{"name": "f", "arguments": json.dumps({"a": text})} for text in calls]
        message["tool_calls"] = [{"id": f"c{i}", "type": "function", "function": f} for i, f in enumerate(function)]
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    head = {"id": "i", "model": "m"}
    whole = {**head, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}

    deltas: list[dict[str, Any]] = [{"role": "assistant"}]
    for name in ("reasoning_content", "content"):
        if name in message:
            at = data.draw(st.integers(0, len(message[name])))
            deltas += [{name: message[name][:at]}, {name: message[name][at:]}]
    for index, call in enumerate(message.get("tool_calls", ())):
        arguments = call["function"]["arguments"]
        at = data.draw(st.integers(0, len(arguments)))
        first = {**call, "index": index, "function": {**call["function"], "arguments": arguments[:at]}}
        rest = {"index": index, "function": {"arguments": arguments[at:]}}
        deltas += [{"tool_calls": [first]}, {"tool_calls": [rest]}]
    chunks: list[Any] = [{**head, "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": usage}]
    assert folded(OPENAI, events(*chunks, "[DONE]")) == OPENAI.parse_response(encode_json(whole))


# --- properties of arbitrary input -----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
SAMPLES = [decode_json((BODIES / f["file"]).read_bytes()) for f in FIXTURES if f["file"].endswith(".json")
           and "plain_text" not in f["file"]]  # fmt: skip


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += paths_of(inner, (*path, key))
    return found


def with_value(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = with_value(value[path[0]], path[1:], new)
    return changed


@st.composite
def mutated_bodies(draw: st.DrawFn) -> Any:
    """Draw a recorded body with one to three values replaced."""
    value = draw(st.sampled_from(SAMPLES))
    for _ in range(draw(st.integers(1, 3))):
        value = with_value(value, draw(st.sampled_from(paths_of(value))), draw(JSON))
    return value


def check_reply(reply: Reply) -> None:
    for count in counts(reply.usage).values():
        assert count is None or (type(count) is int and count >= 0)
    assert reply.text is None or isinstance(reply.text, str)
    assert reply.usage.source in ("reported", "partial", "missing")
    known = None not in (reply.usage.input_tokens, reply.usage.output_tokens)
    assert known is (reply.usage.source == "reported")
    encode_json(reply.raw_turn)


@pytest.mark.parametrize("wire", PROTOCOLS.values(), ids=PROTOCOLS)
@given(value=mutated_bodies())
@settings(max_examples=examples(150), deadline=None)
def test_a_mutated_body_gives_a_reply_or_one_of_two_exceptions(wire: WireProtocol, value: Any) -> None:
    body = encode_json(value)
    for read in (wire.parse_response, lambda raw: streamed(wire, [b"data: " + raw])):
        try:
            check_reply(read(body))
        except (MalformedReply, ErrorInBody):
            continue
    failure = wire.classify_error(503, {}, body)
    assert failure_from_plain(failure_to_plain(failure)) == failure


@given(
    st.binary(max_size=200),
    st.integers(100, 599),
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "date", "x-ratelimit-remaining-x", "x-ratelimit-reset-x"]),
        st.text(max_size=12),
    ),
)
@settings(max_examples=examples(300), deadline=None)
def test_classify_error_never_raises(body: bytes, status: int, headers: dict[str, str]) -> None:
    failure = classify(status, body, headers)
    assert failure.retry_after_s is None or failure.retry_after_s > 0


@given(st.binary(max_size=120))
@settings(max_examples=examples(300), deadline=None)
def test_arbitrary_bytes_raise_only_documented_exceptions(body: bytes) -> None:
    for wire in PROTOCOLS.values():
        for read in (wire.parse_response, lambda raw, wire=wire: streamed(wire, [raw])):
            with pytest.raises((MalformedReply, ErrorInBody)):
                read(body)


@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=examples(200), deadline=None)
def test_a_body_cut_at_any_byte_is_detected_as_cut(value: Any, data: Any) -> None:
    body = encode_json(value)
    short = body[: data.draw(st.integers(0, len(body) - 1))]
    for wire in PROTOCOLS.values():
        with pytest.raises(CutReply):
            wire.parse_response(short)


@given(JSON)
def test_json_survives_decoding_and_encoding(value: Any) -> None:
    assert decode_json(encode_json(value)) == value


@each("number", [10**30, -(10**20), 2**64, 9223372036854775808, 1234567890123456789])
def test_big_integers_survive_decoding_and_encoding(number: int) -> None:
    assert b'"n":%d' % number in encode_json(decode_json(b'{"n":%d}' % number))


def _openai_body(tokens: Any) -> dict[str, Any]:
    choice = {"message": {"content": "ab"}, "finish_reason": "stop", "logprobs": {"content": tokens}}
    return {"choices": [choice], "service_tier": "flex"}


def _gemini_body(tokens: Any) -> dict[str, Any]:
    result = {"chosenCandidates": tokens}
    candidate = {"content": {"parts": [{"text": "ab"}]}, "finishReason": "STOP", "logprobsResult": result}
    return {"candidates": [candidate], "usageMetadata": {"serviceTier": "flex"}}


@each(
    ("wire", "body", "mean"),
    [
        (OPENAI, _openai_body([{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]), -1.0),
        (OPENAI, _openai_body([{"token": "a", "logprob": -0.5}, {"token": "b"}]), None),
        (OPENAI, _openai_body([{"logprob": True}]), None),
        (OPENAI, _openai_body([]), None),
        (GEMINI, _gemini_body([{"token": "a", "logProbability": -0.25}, {"logProbability": -0.75}]), -0.5),
        (GEMINI, _gemini_body("?"), None),
    ],
)
def test_the_served_tier_and_the_mean_log_probability_are_read(
    wire: WireProtocol, body: dict[str, Any], mean: float | None
) -> None:
    reply = wire.parse_response(json.dumps(body).encode())
    assert (reply.service_tier, reply.mean_logprob) == ("flex", mean)
    assert reply_from_plain(reply_to_plain(reply)) == reply._replace(raw_turn=None)
