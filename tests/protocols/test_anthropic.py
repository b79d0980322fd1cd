"""The Anthropic wire: exact requests, refused settings, turns that go back, odd replies and streams."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.config.loader import presets
from convbatch.dialogue import Message, Settings, text_part
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.reading import Answer, read_answer
from convbatch.protocols.replay import without_refused_signatures
from convbatch.protocols.sse import SseParser
from convbatch.protocols.wire import Ask, CannotCarry, Draft, Endpoint, encode_json
from convbatch.reply import Failure, Reply
from tests.support.tables import each

WIRE = PROTOCOLS["anthropic"]
COM = Endpoint(base_url="https://api.anthropic.com")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}


def user(text: str) -> Message:
    return Message(role="user", parts=(text_part(text),))


def assistant(raw: Any) -> Message:
    return Message(role="assistant", parts=(), raw=raw)


def body_of(*messages: Message, endpoint: Endpoint = COM, model: str = "m", **fields: Any) -> Any:
    return WIRE.build_request(Ask(model=model, messages=messages or (user("x"),), **fields), endpoint).json


TEXT = {"type": "text", "text": "Hello!"}
THINKING = {"type": "thinking", "thinking": "T", "signature": "c2ln", "x": {"y": None}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}
USAGE = {"input_tokens": 12, "output_tokens": 8}


def message(*content: Any, **fields: Any) -> dict[str, Any]:
    base = {"id": "msg_1", "type": "message", "role": "assistant", "model": "served", "stop_reason": "end_turn"}
    return {**base, "content": list(content or (TEXT,)), "usage": USAGE, **fields}


def read(value: Any) -> Answer:
    return read_answer(WIRE, 200, {}, value if isinstance(value, bytes) else encode_json(value))


def reply_of(value: Any) -> Reply:
    outcome = read(value).outcome
    assert isinstance(outcome, Reply), outcome
    return outcome


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_request_has_its_version_its_limit_and_the_system_text_apart() -> None:
    request = WIRE.build_request(Ask(model="m", messages=(user("x"),), system="Be brief."), COM)
    assert request.url == "https://api.anthropic.com/v1/messages"
    assert request.headers == {"Content-Type": "application/json", "anthropic-version": "2023-06-01"}
    messages = [{"role": "user", "content": "x"}]
    assert request.json == {
        "model": "m", "max_tokens": 8192, "messages": messages, "stream": False, "system": "Be brief.",
    }  # fmt: skip
    newest = Endpoint(base_url="https://h/anthropic/", anthropic_version="2026-10-21", system_role="user")
    other = WIRE.build_request(Ask(model="m", messages=(user("x"),), system="S", stream=True), newest)
    assert (other.url, other.headers["anthropic-version"]) == ("https://h/anthropic/v1/messages", "2026-10-21")
    assert (other.headers["Accept"], other.json["messages"][0]["content"]) == ("text/event-stream", "S\n\nx")


@each(
    ("base_url", "url"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/models?limit=1000"),
        ("https://api.anthropic.com/v1/", "https://api.anthropic.com/v1/models?limit=1000"),
        ("https://h/api/anthropic", "https://h/api/anthropic/v1/models?limit=1000"),
    ],
)
def test_the_version_in_a_base_url_is_not_doubled(base_url: str, url: str) -> None:
    request = WIRE.build_models_request(Endpoint(base_url=base_url))
    assert (request.url, dict(request.headers)) == (url, {"anthropic-version": "2023-06-01"})


@each(
    ("model", "limit"),
    [
        ("claude-opus-5-5", 16_384),
        ("claude-3-5-haiku-20241022", 8_192),
        ("claude-3-haiku-20240307", 4_096),
        ("glm-5", 8_192),
    ],
)
def test_a_gateway_has_a_limit_on_output_which_every_setting_overrides(model: str, limit: int) -> None:
    gateway = presets()["anthropic"].for_model(model)
    assert gateway.settings.max_output_tokens == limit
    assert body_of(model=model, settings=gateway.settings)["max_tokens"] == limit
    assert gateway.settings.under(Settings(max_output_tokens=5)).max_output_tokens == 5
    assert presets()["openai"].for_model(model).settings == Settings()


OPUS, SONNET, OLD = "claude-opus-5-5", "claude-sonnet-4-6", "claude-haiku-4-5"


@each(
    ("model", "given", "added"),
    [
        ("m", {"temperature": 0.5, "top_p": 0.9, "top_k": 3}, {"temperature": 0.5, "top_p": 0.9, "top_k": 3}),
        ("m", {"stop": ("a", "b"), "max_output_tokens": 9}, {"stop_sequences": ["a", "b"], "max_tokens": 9}),
        ("m", {"cache": "auto"}, {"cache_control": {"type": "ephemeral"}}),
        ("m", {"cache": "1h", "service_tier": "auto"},
         {"cache_control": {"type": "ephemeral", "ttl": "1h"}, "service_tier": "auto"}),
        ("m", {"cache": "off"}, {}),
        ("m", {"thinking_budget": 2000}, {"thinking": {"type": "enabled", "budget_tokens": 2000}}),
        ("m", {"thinking_budget": 0}, {"thinking": {"type": "disabled"}}),
        ("m", {"thinking_level": "HIGH"}, {"output_config": {"effort": "high"}}),
        ("m", {"response_schema": SCHEMA}, {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
        ("m", {"extra": {"metadata": {"user_id": "u"}}}, {"metadata": {"user_id": "u"}}),
        (OPUS, {"reasoning_effort": "max"}, {"output_config": {"effort": "max"}}),
        (OPUS, {"include_thoughts": True}, {"thinking": {"type": "adaptive", "display": "summarized"}}),
        (OPUS, {"include_thoughts": False}, {"thinking": {"type": "adaptive", "display": "omitted"}}),
        ("claude-opus-4-8", {"reasoning_effort": "low"},
         {"output_config": {"effort": "low"}, "thinking": {"type": "adaptive"}}),
        ("claude-opus-4-8", {"thinking_budget": 0}, {"thinking": {"type": "disabled"}}),
        ("claude-opus-4-8", {"include_thoughts": False}, {}),
        (SONNET, {"reasoning_effort": "low", "temperature": 0}, {"output_config": {"effort": "low"}, "temperature": 0}),
        (SONNET, {"thinking_budget": 1024, "include_thoughts": True},
         {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "summarized"}}),
    ],
)  # fmt: skip
def test_settings_are_sent_in_their_fields(model: str, given: dict[str, Any], added: dict[str, Any]) -> None:
    plain = body_of(model=model)
    assert body_of(model=model, settings=Settings(**given)) == plain | added


@each(
    ("model", "given", "words"),
    [
        ("m", {"seed": 1, "logprobs": 2, "safety": {"a": "b"}}, ("safety", "logprobs", "seed .*seed_field")),
        ("m", {"stop": ("END", "\n")}, ("stop .Anthropic takes no text of white space alone",)),
        ("m", {"temperature": 1.5}, ("temperature 1.5 .Anthropic takes 0 to 1",)),
        ("m", {"temperature": 0, "thinking_budget": 2000}, ("temperature 0 .Anthropic takes only 1 while",)),
        ("m", {"reasoning_effort": "none", "seed": 1}, ("seed", "reasoning_effort 'none'", "thinking_budget 0 = off")),
        ("m", {"thinking_budget": 9000}, ("thinking_budget 9000 .must be less than max_output_tokens, which is 8192",)),
        (SONNET, {"include_thoughts": True}, ("include_thoughts .claude-sonnet-4-6 does not think unless",)),
        (OPUS, {"temperature": 0, "thinking_budget": 2000}, ("thinking_budget 2000", "temperature 0")),
        (OLD, {"reasoning_effort": "low"}, ("takes thinking_budget",)),
        ("m", {"response_schema": {"type": "object"}}, ("additionalProperties: false at #",)),
        ("m", {"extra": {"max_output_tokens": 5}}, ("'max_output_tokens'", "--max-output-tokens")),
        ("m", {"extra": {"cache": "1h"}}, ("setting .cache",)),
        ("m", {"extra": {"system": "x", "stream": True}}, ("'system'", "'stream'")),
    ],
)
def test_what_the_wire_cannot_carry_is_named_at_once(model: str, given: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(CannotCarry, match=".*".join(words)):
        body_of(model=model, settings=Settings(**given))


def test_sampling_settings_are_refused_with_the_version_that_refuses_them() -> None:
    newest = Endpoint(base_url="https://h", anthropic_version="2026-10-21")
    with pytest.raises(CannotCarry, match=r"temperature .*2026-10-21; 2023-06-01 takes it.*top_k"):
        body_of(endpoint=newest, settings=Settings(temperature=1, top_k=3))
    seeded = Endpoint(base_url="https://h", seed_field="random_seed")
    assert body_of(endpoint=seeded, settings=Settings(seed=7))["random_seed"] == 7


# --- turns that go back ----------------------------------------------------------------------------------------------


def test_a_turn_goes_back_as_received_without_its_empty_texts() -> None:
    given = message(THINKING, {"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": ""}, TEXT, CALL)
    reply = reply_of(given)
    assert reply.raw_turn == {"role": "assistant", "content": given["content"]}
    sent = body_of(user("x"), assistant(reply.raw_turn), user("y"))["messages"][1]
    assert sent == {"role": "assistant", "content": [given["content"][at] for at in (0, 1, 3, 4)]}
    turns = WIRE.turns
    assert turns.without_signatures(reply.raw_turn)["content"] == given["content"][2:]
    assert turns.only_content(reply.raw_turn) == {"role": "assistant", "content": [TEXT, CALL]}
    assert turns.skip_text(reply.raw_turn, 2)["content"][3] == {"type": "text", "text": "llo!"}
    plain = {"role": "assistant", "content": "Hello!"}
    assert turns.without_signatures(plain) is plain
    assert turns.skip_text(plain, 5)["content"] == "!"


@each(
    "text",
    [
        "messages.1.content.0: Invalid `signature` in `thinking` block",
        "messages.1.content.0: Invalid `signature` in `thinking` block. It is bound to a different conversation.",
        "messages.1.content.0.thinking.signature: Field required",
    ],
)
def test_a_refused_signature_is_left_out_once(text: str) -> None:
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
    failure = WIRE.classify_error(400, {}, encode_json(error))
    ask = Ask(model="m", messages=(user("x"), assistant({"role": "assistant", "content": [THINKING, TEXT]}), user("y")))
    again = without_refused_signatures(ask, failure, WIRE, COM)
    assert again is not None
    assert again.messages[1].raw == {"role": "assistant", "content": [TEXT]}
    assert without_refused_signatures(again, failure, WIRE, COM) is None


# --- what resellers send ---------------------------------------------------------------------------------------------


def fields_of(value: Any) -> tuple[Any, ...]:
    reply = reply_of(value)
    return reply.finish_reason, reply.text, reply.usage.input_tokens, reply.usage.output_tokens


@each(
    ("value", "expected"),
    [
        ({key: item for key, item in message().items() if key not in ("type", "role")}, ("stop", "Hello!", 12, 8)),
        ({key: item for key, item in message().items() if key != "stop_reason"}, ("other", "Hello!", 12, 8)),
        (message(usage=None), ("stop", "Hello!", None, None)),
        (message(content="Hello!"), ("stop", "Hello!", 12, 8)),
        (message(content=["Hel", {"text": "lo!"}, None]), ("stop", "Hello!", 12, 8)),
        (message(content=TEXT), ("stop", "Hello!", 12, 8)),
        (message(content=None), ("stop", None, 12, 8)),
        (message(content=[]), ("stop", "", 12, 8)),
        (message(stop_reason="STOP", error=None, code=0, message="success"), ("stop", "Hello!", 12, 8)),
        (message(CALL, stop_reason="end_turn"), ("tool_call", None, 12, 8)),
        ({"code": 200, "data": message()}, ("stop", "Hello!", 12, 8)),
        ([message()], ("stop", "Hello!", 12, 8)),
        (json.dumps(message()), ("stop", "Hello!", 12, 8)),
    ],
)
def test_a_message_in_another_form_is_read(value: Any, expected: tuple[Any, ...]) -> None:
    assert fields_of(value) == expected


@each(
    ("usage", "input_tokens", "cached", "written", "hourly"),
    [
        ({"input_tokens": 12, "output_tokens": 8, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 7},
         24, 5, 7, None),
        ({"input_tokens": 12, "output_tokens": 8, "cache_creation_input_tokens": 12,
          "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 7}}, 24, None, 12, 7),
        ({"input_tokens": 12, "output_tokens": 8, "cache_creation": {"ephemeral_1h_input_tokens": 7}}, 19, None, 7, 7),
        ({"input_tokens": 112, "output_tokens": 8, "cache_read_input_tokens": 100, "total_tokens": 120},
         112, 100, None, None),
        ({"input_tokens": 12, "output_tokens": 8, "cache_read_input_tokens": 100, "total_tokens": 120},
         112, 100, None, None),
        ({"prompt_tokens": 12, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 5}},
         12, 5, None, None),
        ({"input_tokens": 0, "output_tokens": 8, "cache_read_input_tokens": 30}, 30, 30, None, None),
        ({"input_tokens": 0, "output_tokens": 8}, None, None, None, None),
        ({"input_tokens": 12, "output_tokens": 8, "cache_read_input_tokens": -1}, None, None, None, None),
        ({"input_tokens": "12", "output_tokens": 8.0}, 12, None, None, None),
    ],
)  # fmt: skip
def test_the_input_includes_what_the_cache_gave_and_took(
    usage: Any, input_tokens: int | None, cached: int | None, written: int | None, hourly: int | None
) -> None:
    read_usage = reply_of(message(usage=usage)).usage
    assert (read_usage.input_tokens, read_usage.cached_input_tokens) == (input_tokens, cached)
    assert (read_usage.cache_write_input_tokens, read_usage.cache_write_1h_input_tokens) == (written, hourly)
    assert read_usage.total_tokens in (None, (input_tokens or 0) + 8)


def test_notes_say_why_it_refused_and_what_it_left_out_of_the_history() -> None:
    dropped = [{"type": "thinking_dropped", "path": "messages.1.content.0", "reason": "model_binding_mismatch"}]
    details = {"type": "refusal", "category": "cyber", "explanation": "It could harm."}
    answer = read(message(stop_reason="refusal", stop_details=details, input_transformations=dropped))
    assert answer.note == (
        "the provider removed 1 thinking block from the history (model_binding_mismatch); "
        "refused as cyber: It could harm."
    )
    assert read(message()).note is None


COMPLETION = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}
CANDIDATES = {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}
SAYS_HI = message({"type": "text", "text": "Hi"})
OUTPUT = {"status": "completed", "output": [{"type": "message", "role": "assistant", "content": "Hi"}]}


@each(
    ("wire", "value", "note"),
    [
        ("anthropic", COMPLETION, 'an OpenAI chat answer on the Anthropic wire: protocol = "openai"?'),
        ("anthropic", CANDIDATES, 'a Gemini answer on the Anthropic wire: protocol = "gemini"?'),
        ("anthropic", OUTPUT, 'a Responses answer on the Anthropic wire: protocol = "responses"?'),
        ("openai", SAYS_HI, 'an Anthropic answer on the OpenAI chat wire: protocol = "anthropic"?'),
        ("gemini", SAYS_HI, 'an Anthropic answer on the Gemini wire: protocol = "anthropic"?'),
    ],
)  # fmt: skip
def test_an_answer_of_another_protocol_is_named(wire: str, value: Any, note: str) -> None:
    answer = read_answer(PROTOCOLS[wire], 200, {}, encode_json(value))
    assert isinstance(answer.outcome, Reply)
    assert (answer.outcome.text, answer.outcome.raw_turn, answer.note) == ("Hi", None, note)


@each(
    ("status", "code", "kind"),
    [
        (529, "overloaded_error", "overloaded"),
        (402, "billing_error", "quota"),
        (429, "enforced_spend_limit_reached", "quota"),
        (429, "contract_spend_limit_reached", "quota"),
        (429, "linked_organization_spend_limit_reached", "quota"),
        (403, "linked_organization_billing_unavailable", "quota"),
        (429, "ramp_limit_exceeded", "rate_limit"),
        (400, "image_dimensions_too_large", "invalid_request"),
        (400, "tool_name_conflict", "invalid_request"),
        (413, "request_body_too_large_after_decoding", "invalid_request"),
    ],
)
def test_codes_of_errors_decide_their_kind(status: int, code: str, kind: str) -> None:
    error: dict[str, Any] = {"type": "invalid_request_error", "message": "m", "details": {"error_code": code}}
    if code.endswith("_error"):
        error = {"type": code, "message": "m"}
    failure = WIRE.classify_error(status, {"retry-after": "3"}, encode_json({"type": "error", "error": error}))
    assert (failure.kind, failure.code) == (kind, code)


# --- streams ---------------------------------------------------------------------------------------------------------

START = {"type": "message_start", "message": {**message(stop_reason=None), "content": [],
                                               "usage": {"input_tokens": 12, "output_tokens": 1}}}  # fmt: skip
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
THINKS = {**BLOCK, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}
END = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 8}}
STOP = {"type": "message_stop"}
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def delta(index: int | None = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", **fields}}


HELLO = (delta(text="Hel"), delta(text="lo!"))
FULL = (START, BLOCK, *HELLO, END, STOP)


def stream(*values: Any, end: str = "\n", space: str = " ", named: bool = True) -> bytes:
    lines: list[str] = []
    for value in values:
        name = f"event:{space}{value['type']}{end}" if named and isinstance(value, dict) else ""
        text = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"{name}data:{space}{text}{end}{end}")
    return "".join(lines).encode()


def folded(body: bytes, *cuts: int) -> Reply:
    parser, draft = SseParser(), Draft()
    for start, stop in itertools.pairwise([0, *sorted(cuts), len(body)]):
        for event in parser.feed(body[start:stop]):
            draft = WIRE.parse_event(draft, event)
    for event in parser.close():
        draft = WIRE.parse_event(draft, event)
    return WIRE.finish(draft)


@each(
    "body",
    [
        stream(*FULL),
        stream(*FULL, named=False),
        stream(*FULL, end="\r\n", space=""),
        stream(*FULL, "[DONE]"),
        stream(*FULL, ERROR),
        stream(*FULL, *FULL),
        stream(*FULL[:-1]),
        stream(*FULL[:-1], ERROR),
        stream(START, *HELLO, END, STOP),
        stream(START, delta(3, text="Hello!"), END, STOP),
        stream(START, {**BLOCK, "index": None}, delta(None, text="Hello!"), END, STOP),
        stream(START, {**BLOCK, "content_block": {"type": "text", "text": "Hel"}}, HELLO[1], END, STOP),
        stream(START, BLOCK, delta(text="partial"), START, BLOCK, *HELLO, END, STOP),
        stream(START, BLOCK, *HELLO, {**END, "delta": {"stop_reason": None}}, {"type": "ping"}, END, STOP),
        stream(START, BLOCK, *HELLO, {**END, "usage": {"input_tokens": 0, "output_tokens": 8}}, STOP),
        stream(START, BLOCK, *HELLO, {"type": "message_delta", "delta": {"stop_reason": "end_turn", "usage": USAGE}}),
        stream({"type": "message_start", "message": {"usage": {"input_tokens": 0, "output_tokens": 0}}}, BLOCK, *HELLO,
               {**END, "usage": USAGE}, STOP),
        stream(message()),
    ],
)  # fmt: skip
def test_a_stream_in_any_form_is_the_same_reply(body: bytes) -> None:
    reply = folded(body)
    assert (reply.finish_reason, reply.text, reply.usage.input_tokens, reply.usage.output_tokens) == (
        "stop", "Hello!", 12, 8,
    )  # fmt: skip
    assert reply.raw_turn == {"role": "assistant", "content": [TEXT]}


@each(
    ("body", "kind", "text"),
    [
        (stream(ERROR), "overloaded", None),
        (stream(START, ERROR), "overloaded", None),
        (stream(*FULL[:3], ERROR), "overloaded", "Hel"),
        (stream(*FULL[:3], {"error": {"message": "m", "code": 500}}, named=False), "server_error", "Hel"),
        (stream(*FULL[:3]), "stream_truncated", "Hel"),
        (stream(*FULL[:4])[:-9], "stream_truncated", "Hel"),
        (stream(START, STOP), "empty_response", None),
    ],
)
def test_a_broken_stream_is_a_failure_with_the_text_so_far(body: bytes, kind: str, text: str | None) -> None:
    failure = read(body).outcome
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.text) == (kind, text)


def test_thinking_and_text_may_share_an_index() -> None:
    think = delta(thinking="T")
    for events in ((THINKS, think, BLOCK, *HELLO), (THINKS, think, *HELLO), (think, *HELLO)):
        reply = folded(stream(START, *events, END, STOP))
        assert (reply.thought, reply.text) == ("T", "Hello!")


BLOCKS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, st.text(min_size=1)),
    st.builds(lambda text: {"type": "thinking", "thinking": text, "signature": "c2ln"}, st.text()),
    st.builds(
        lambda value: {"type": "tool_use", "id": "t", "name": "f", "input": value},
        st.dictionaries(st.text(), st.integers() | st.text() | st.none()),
    ),
    st.just({"type": "redacted_thinking", "data": "x"}),
)


def streamed(blocks: list[dict[str, Any]], size: int) -> bytes:
    """Return the stream in which Anthropic sends these blocks."""
    events: list[Any] = [START]
    for index, block in enumerate(blocks):
        names = {"text": "text", "thinking": "thinking", "tool_use": "partial_json"}
        key = names.get(block["type"])
        text = json.dumps(block["input"]) if key == "partial_json" else block.get(key or "", "")
        empty = {"input": {}} if key == "partial_json" else {} if key is None else {key: ""}
        signed = {"signature": ""} if key == "thinking" else {}
        events.append({"type": "content_block_start", "index": index, "content_block": {**block, **empty, **signed}})
        if key is not None:
            events += [delta(index, **{key: text[at : at + size]}) for at in range(0, len(text), size)]
        events += [delta(index, signature=block["signature"])] if signed else []
        events.append({"type": "content_block_stop", "index": index})
    return stream(*events, END, STOP)


@given(blocks=st.lists(BLOCKS, max_size=4), size=st.integers(1, 9), data=st.data())
@settings(max_examples=20, deadline=None)
def test_streamed_and_whole_are_the_same_reply(blocks: list[dict[str, Any]], size: int, data: st.DataObject) -> None:
    body = streamed(blocks, size)
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=6))
    whole = WIRE.parse_response(encode_json({**message(), "content": blocks}))
    assert folded(body, *cuts) == whole
