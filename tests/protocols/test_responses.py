"""The Responses wire: exact requests, turns that go back, odd replies, streams in any order."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.dialogue import Message, Settings, text_part
from convbatch.engine.suspension import Address, other_protocol, suspension
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.reading import Answer, read_answer
from convbatch.protocols.replay import without_refused_signatures
from convbatch.protocols.sse import SseEvent
from convbatch.protocols.wire import (
    Ask,
    CannotCarry,
    Draft,
    Endpoint,
    ErrorInBody,
    MalformedReply,
    SystemRole,
    encode_json,
)
from convbatch.reply import Failure, Reply, status_of
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from tests.simulator.test_simulator import answer_to, request
from tests.support.tables import each

WIRE = PROTOCOLS["responses"]
OPENAI_COM = Endpoint(base_url="https://api.openai.com/v1")
ENCRYPTED = {"include": ["reasoning.encrypted_content"]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def user(text: str) -> Message:
    return Message(role="user", parts=(text_part(text),))


def assistant(text: str, raw: Any = None) -> Message:
    return Message(role="assistant", parts=(text_part(text),), raw=raw)


def body_of(*messages: Message, endpoint: Endpoint = OPENAI_COM, model: str = "m", **fields: Any) -> Any:
    return WIRE.build_request(Ask(model=model, messages=messages, **fields), endpoint).json


def text_item(text: str, **fields: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part], **fields}


REASONING = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "gAAA", "x": {"y": None}}
CALL = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a": 1}'}
IMAGE = {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": "iVBORw0KGgo="}
USAGE = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}


def response(*output: Any, **fields: Any) -> dict[str, Any]:
    base = {"id": "resp_1", "object": "response", "status": "completed", "error": None, "model": "served"}
    return {**base, "output": list(output), "usage": USAGE, **fields}


def read(value: Any, status: int = 200) -> Answer:
    return read_answer(WIRE, status, {}, value if isinstance(value, bytes) else encode_json(value))


def reply_of(value: Any) -> Reply:
    outcome = read(value).outcome
    assert isinstance(outcome, Reply), outcome
    return outcome


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_request_has_the_whole_history_and_stores_nothing() -> None:
    ask = Ask(model="gpt-x", messages=(user("a"), assistant("b"), user("c")), system="Be brief.")
    sent = WIRE.build_request(ask, OPENAI_COM)
    assert (sent.method, sent.url) == ("POST", "https://api.openai.com/v1/responses")
    assert sent.json == {
        "model": "gpt-x",
        "input": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "instructions": "Be brief.",
        "stream": False,
        "store": False,
        **ENCRYPTED,
    }


@each(
    ("role", "first", "instructions"),
    [
        (None, {"role": "user", "content": "a"}, "S"),
        ("system", {"role": "user", "content": "a"}, "S"),
        ("developer", {"role": "developer", "content": "S"}, None),
        ("user", {"role": "user", "content": "S\n\na"}, None),
    ],
)
def test_the_system_text_has_the_configured_place(role: SystemRole | None, first: Any, instructions: str | None):
    body = body_of(user("a"), system="S", endpoint=Endpoint(base_url="http://h/v1", system_role=role))
    assert (body["input"][0], body.get("instructions")) == (first, instructions)


def test_several_parts_of_a_message_are_not_merged() -> None:
    message = Message(role="user", parts=(text_part("a"), text_part("b")))
    content = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert body_of(message)["input"] == [{"role": "user", "content": content}]


@each(
    ("set_to", "added"),
    [
        ({"temperature": 0, "top_p": 0.5, "max_output_tokens": 99}, None),
        ({"service_tier": "flex", "cache": "auto"}, {"service_tier": "flex"}),
        ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
        (
            {"thinking_level": "HIGH", "include_thoughts": True},
            {"reasoning": {"effort": "high", "summary": "auto"}},
        ),
        ({"include_thoughts": False}, {}),
        (
            {"response_schema": {**SCHEMA, "strict": False}},
            {"text": {"format": {"type": "json_schema", "name": "reply", "schema": SCHEMA}}},
        ),
        (
            {"logprobs": 3},
            {"include": ["reasoning.encrypted_content", "message.output_text.logprobs"], "top_logprobs": 3},
        ),
        (
            {"reasoning_effort": "low", "extra": {"reasoning": {"context": "all_turns"}, "tools": []}},
            {"reasoning": {"effort": "low", "context": "all_turns"}, "tools": []},
        ),
    ],
)
def test_every_setting_has_its_field(set_to: dict[str, Any], added: dict[str, Any] | None) -> None:
    body = body_of(user("x"), settings=Settings(**set_to))
    assert body == body_of(user("x")) | (set_to if added is None else added)


@each(
    ("set_to", "named"),
    [
        ({"stop": ("a",), "seed": 1, "top_k": 2, "thinking_budget": 3, "safety": {"a": "b"}},
         ["top_k (", "stop (", "thinking_budget (", "safety (", "seed ("]),
        ({"cache": "1h"}, ["cache '1h'"]),
        ({"extra": {"previous_response_id": "resp_1"}}, ["'previous_response_id'", "the whole history"]),
        ({"extra": {"background": True}}, ["'background'", "not supported"]),
        ({"extra": {"messages": [], "max_tokens": 5, "reasoning_effort": "low"}},
         ["'messages'", "--max-output-tokens", "reasoning.effort"]),
        ({"extra": {"store": True}}, ["'store'"]),
        ({"extra": {"stop": ["a"], "n": 2}}, ["--repeats"]),
        ({"reasoning_effort": "low", "extra": {"reasoning": {"effort": "high"}}}, ["overrides reasoning.effort"]),
    ],
)  # fmt: skip
def test_what_the_wire_cannot_carry_is_refused_by_name(set_to: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(CannotCarry) as refused:
        body_of(user("x"), settings=Settings(**set_to))
    assert [text for text in named if text not in str(refused.value)] == []


def test_a_limit_that_openai_finds_too_small_is_refused_for_its_models_only() -> None:
    with pytest.raises(CannotCarry, match=r"max_output_tokens 15 \(Responses takes 16 or more\)"):
        body_of(user("x"), model="gpt-4.1", settings=Settings(max_output_tokens=15))
    for model, most in (("gpt-4.1", 16), ("llama", 5)):
        assert body_of(user("x"), model=model, settings=Settings(max_output_tokens=most))["max_output_tokens"] == most


def test_a_seed_is_sent_where_the_gateway_names_its_field() -> None:
    endpoint = Endpoint(base_url="http://h/v1", seed_field="random_seed")
    assert body_of(user("x"), endpoint=endpoint, settings=Settings(seed=5))["random_seed"] == 5


@each("model", ["gpt-4o-mini", "gpt-4.1", "openai/gpt-4o", "chatgpt-4o-latest", "gpt-5.2-chat-latest"])
def test_models_that_never_reason_are_not_asked_for_encrypted_reasoning(model: str) -> None:
    assert "include" not in body_of(user("x"), model=model)
    assert body_of(user("x"), model="gpt-5.2") | ENCRYPTED == body_of(user("x"), model="gpt-5.2")


# --- turns that go back ----------------------------------------------------------------------------------------------


def sent_back(*output: Any) -> Any:
    raw = reply_of(response(*output)).raw_turn
    return body_of(user("a"), assistant("not this", raw), user("b"))["input"][1:-1]


@each(
    "output",
    [
        [text_item("a", phase="final_answer", odd=[1])],
        [REASONING, text_item("looking", phase="commentary"), text_item("a", id="msg_2", phase="final_answer")],
        [REASONING, CALL],
        [REASONING, IMAGE, text_item("a")],
        [{"type": "some_future_item", "data": {"k": [None]}}, text_item("a")],
    ],
)
def test_output_items_go_back_in_order_and_as_received(output: list[Any]) -> None:
    assert encode_json(sent_back(*output)) == encode_json(output)


def test_reasoning_without_what_follows_it_stays_out() -> None:
    """The API refuses a reasoning item without its following item; a cut reply may end in one."""
    assert sent_back(REASONING, text_item("a"), {**REASONING, "id": "rs_2"}) == [REASONING, text_item("a")]


def test_reasoning_that_a_gateway_emptied_stays_out_with_the_ids_that_refer_to_it() -> None:
    emptied = {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]}
    bare = text_item("a")
    del bare["id"]
    assert sent_back({**emptied, "encrypted_content": None}, text_item("a")) == [bare]
    shown = {**emptied, "content": [{"type": "reasoning_text", "text": "an open model's own words"}]}
    assert sent_back(shown, text_item("a")) == [shown, text_item("a")]


@each(
    ("message", "is_signature"),
    [
        ("The encrypted content gAAA...5w== could not be verified. Reason: it could not be decrypted.", True),
        ("Item 'rs_1' of type 'reasoning' was provided without its required following item.", False),
        ("Item 'msg_1' of type 'message' was provided without its required 'reasoning' item: 'rs_1'.", False),
        ("Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.", False),
    ],
)
def test_a_refused_history_is_final_and_encrypted_reasoning_is_left_out_once(message: str, is_signature: bool) -> None:
    status = 404 if "not found" in message else 400
    failure = WIRE.classify_error(status, {}, encode_json({"error": {"message": message, "param": "input"}}))
    assert failure.kind == "invalid_request"
    ask = Ask(model="m", messages=(user("a"), assistant("b", [REASONING, text_item("b")]), user("c")))
    again = without_refused_signatures(ask, failure, WIRE, OPENAI_COM)
    assert (again is not None) is is_signature
    if again is not None:
        kinds = [item.get("type") for item in WIRE.build_request(again, OPENAI_COM).json["input"]]
        assert kinds == [None, "message", None]


def test_only_content_is_role_text_phase_calls_and_media() -> None:
    turn = [REASONING, text_item("a", phase="final_answer"), text_item("b"), CALL, IMAGE]
    assert WIRE.turns.only_content(turn) == [
        {"role": "assistant", "content": "a", "phase": "final_answer"},
        {"role": "assistant", "content": "b"},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a": 1}'},
        IMAGE,
    ]


def test_without_signatures_no_item_refers_to_the_reasoning_that_is_left_out() -> None:
    turn = [REASONING, text_item("a")]
    bare = text_item("a")
    del bare["id"]
    assert WIRE.turns.without_signatures(turn) == [bare]
    plain = [{"type": "reasoning", "id": "rs_1", "summary": []}, text_item("a")]
    assert WIRE.turns.without_signatures(plain) is plain


@each(
    ("count", "texts"),
    [(0, ["looking", "abc", "def"]), (2, ["looking", "c", "def"]), (4, ["looking", "ef"]), (9, ["looking"])],
)
def test_skipping_text_counts_only_what_is_visible(count: int, texts: list[str]) -> None:
    final = text_item("abc", phase="final_answer")
    final["content"] = [*final["content"], {"type": "output_text", "text": "def"}]
    skipped = WIRE.turns.skip_text([REASONING, text_item("looking", phase="commentary"), final], count)
    left = [part["text"] for item in skipped[1:] for part in item["content"]]
    assert skipped[0] == REASONING
    assert left == texts


# --- replies ---------------------------------------------------------------------------------------------------------


@each(
    ("body", "finish", "status", "text"),
    [
        (response(text_item("a"), text_item("b")), "stop", "ok", "ab"),
        (response(text_item("c", phase="commentary")), "stop", "ok", "c"),
        (response(text_item("c", phase="commentary"), text_item("", phase="final_answer")), "stop", "ok", "c"),
        (response(text_item("c", phase="commentary"), CALL), "tool_call", "ok", "c"),
        (response({**text_item(""), "content": []}), "stop", "empty", ""),
        (response(REASONING), "stop", "empty", None),
        (response(), "stop", "empty", None),
        (response(REASONING, status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "length",
         "empty", None),
        (response(text_item("a"), status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "length",
         "ok", "a"),
        (response(text_item("a"), status="incomplete", incomplete_details={"reason": "content_filter"}),
         "content_filter", "blocked", "a"),
        (response(text_item("a"), status="incomplete", incomplete_details={"reason": "steered"}), "other", "ok", "a"),
        (response(text_item("a"), status="incomplete"), "other", "ok", "a"),
        (response(text_item("a"), status="cancelled"), "error", "error", "a"),
        (response(CALL, status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "length", "ok", None),
        (response(IMAGE), "stop", "ok", None),
        (response({**IMAGE, "result": None, "status": "failed", "error": {"code": "image_content_policy_violation"}}),
         "content_filter", "blocked", None),
        (response(text_item("a"), {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}),
         "content_filter", "blocked", "a"),
        (response({**text_item(""), "content": [], "refusal": "no"}), "content_filter", "blocked", None),
        (response({**text_item(""), "content": None, "tool_calls": [{"id": "c", "function": {"name": "f"}}]}),
         "tool_call", "ok", None),
        (response({"type": "custom_tool_call", "call_id": "c", "name": "g", "input": "1"}), "tool_call", "ok", None),
    ],
)  # fmt: skip
def test_each_output_has_its_finish_status_and_text(body: Any, finish: str, status: str, text: str | None) -> None:
    reply = reply_of(body)
    assert (reply.finish_reason, status_of(reply), reply.text) == (finish, status, text)


def test_what_stands_beside_the_text_is_read() -> None:
    shown = [{"type": "summary_text", "text": "one"}, {"type": "summary_text", "text": "two"}]
    own = {"type": "reasoning", "summary": [], "content": ["three"]}
    part = {"type": "output_text", "text": "a", "logprobs": [{"token": "a", "logprob": -0.5}, {"logprob": -1.5}]}
    reply = reply_of(response({**REASONING, "summary": shown}, own, text_item("a", content=[part]), CALL, IMAGE,
                              service_tier="flex"))  # fmt: skip
    assert (reply.thought, reply.mean_logprob, reply.service_tier) == ("one\n\ntwo\n\nthree", -1.0, "flex")
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [("call_1", "f", {"a": 1})]
    assert reply.has_media
    assert reply.usage.has_uncounted_media, "images are counted in tool_usage, not in usage"


def test_generated_images_are_billed_apart_and_their_tokens_noted() -> None:
    counts = {"image_gen": {"input_tokens": 50, "output_tokens": 272, "total_tokens": 322}}
    answer = read(response(IMAGE, tool_usage=counts))
    assert isinstance(answer.outcome, Reply)
    assert answer.outcome.usage.has_tools_billed_apart
    assert answer.note == "generated images are billed apart (50 input and 272 output tokens), so the cost is unknown"
    assert "billed apart (unknown)" in str(read(response(IMAGE)).note)
    silent = reply_of(response(IMAGE, usage={"input_tokens": 9, "output_tokens": 0, "total_tokens": 9}))
    assert (silent.usage.output_tokens, silent.usage.consistent) == (0, True), "an image is no output of the model"
    assert read(response(text_item("a"), tool_usage={"web_search": {"num_requests": 1}})).note is None


def test_what_openai_removed_from_the_history_is_noted() -> None:
    removed = [{"type": "reasoning", "id": f"rs_{n}", "action": "removed", "reason": "model_mismatch"} for n in (1, 2)]
    answer = read(response(text_item("a"), input_transformations=removed))
    assert answer.note == "the provider removed 2 reasoning items from the history (model_mismatch)"
    assert read(response(text_item("a"), input_transformations=[])).note is None


@each(
    ("usage", "known"),
    [
        ({"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
          "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 3}, "total_tokens": 14},
         (9, 4, 2, 5, 3, "reported", True)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14,
          "prompt_tokens_details": {"cached_tokens": 4}}, (9, 4, None, 5, None, "reported", True)),
        ({"prompt_tokens": 0, "input_tokens": 9, "completion_tokens": 0, "output_tokens": 5, "total_tokens": 14,
          "input_tokens_details": None, "prompt_tokens_details": {"cached_tokens": 0}},
         (9, 0, None, 5, None, "reported", True)),
        ({"input_tokens": 9, "output_tokens": 5}, (9, None, None, 5, None, "reported", None)),
        ({"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 5},
         (9, 4, None, 5, None, "reported", None)),
        ({"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}, (None, None, None, None, None, "partial", False)),
        (None, (None, None, None, None, None, "missing", None)),
    ],
)  # fmt: skip
def test_counts_are_inclusive_and_known_under_the_names_of_both_apis(usage: Any, known: tuple[Any, ...]) -> None:
    read = reply_of(response(text_item("a"), usage=usage)).usage
    assert (
        read.input_tokens,
        read.cached_input_tokens,
        read.cache_write_input_tokens,
        read.output_tokens,
        read.reasoning_tokens,
        read.source,
        read.consistent,
    ) == known


@each(
    ("code", "kind"),
    [
        ("server_error", "server_error"),
        ("rate_limit_exceeded", "rate_limit"),
        ("vector_store_timeout", "timeout"),
        ("data_residency_mismatch", "invalid_request"),
        *((code, "invalid_request") for code in (
            "invalid_image", "invalid_image_format", "invalid_base64_image", "invalid_image_url", "image_too_large",
            "image_too_small", "image_parse_error", "invalid_image_mode", "image_file_too_large",
            "unsupported_image_media_type", "empty_image_file", "failed_to_download_image", "image_file_not_found",
        )),
    ],
)  # fmt: skip
def test_a_failed_response_is_what_its_code_says(code: str, kind: str) -> None:
    failure = read(response(status="failed", error={"code": code, "message": "It is too large."}, usage=None)).outcome
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code, failure.finish_reason_raw) == (kind, code, "failed")


@each("code", ["invalid_prompt", "bio_policy", "misalignment_policy_violation", "image_content_policy_violation"])
def test_a_failed_response_with_a_policy_code_is_blocked(code: str) -> None:
    reply = reply_of(response(status="failed", error={"code": code, "message": "Not allowed."}))
    assert (status_of(reply), reply.blocked) == ("blocked", "prompt")
    assert reply.usage.input_tokens == 9


# --- what gateways make of it ----------------------------------------------------------------------------------------

CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "served",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
}
CHUNK = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "hi"}}]}
LAST = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
GEMINI = {"candidates": [{"content": {"role": "model", "parts": [{"text": "hi"}]}, "finishReason": "STOP"}]}
CLAUDE = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
}
HI = text_item("hi")


def without(value: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in names}


def lines(*events: Any, done: bool = False) -> bytes:
    data = [f"event: {event.get('type')}\ndata: {json.dumps(event)}\n\n" for event in events]
    return "".join([*data, "data: [DONE]\n\n" if done else ""]).encode()


@each(
    ("body", "note"),
    [
        (response(without(HI, "id")), None),
        (response(without(HI, "type")), None),
        (response(without(HI, "status", "role")), None),
        (without(response(HI), "id", "object", "model", "usage", "error"), None),
        (without(response(HI), "status"), None),
        (response({**HI, "content": "hi"}), None),
        (response({**HI, "content": ["hi"]}), None),
        (response({**HI, "content": [{"text": "hi"}]}), None),
        (response({**HI, "content": [{"type": "text", "text": "hi"}]}), None),
        (response(HI, error={}), None),
        (response(HI, error={"code": "", "message": ""}), None),
        (response(HI, error={"code": 0, "message": "success"}), None),
        (response(HI, status="in_progress"), None),
        (response(HI, usage={}), None),
        (response(HI, output_text="hi"), None),
        (response({**HI, "content": {"text": "hi"}}), "the content is a JSON object; its text was read"),
        (response({**without(HI, "content"), "text": "hi"}), "text in place of content"),
        (response("hi"), "an item is a text"),
        (response(None, HI), None),
        (response([HI]), "a list inside the output"),
        (response({"role": "model", "parts": [{"text": "hi"}]}), "the content is a JSON object with parts"),
        (response({**HI, "content": [{"type": "output_text", "text": {"value": "hi"}}]}), "a text is a JSON object"),
        (response(HI, status="COMPLETED"), None),
        (response(HI, usage="none", incomplete_details={}), None),
        ({**response(HI), "choices": []}, None),
        (response(output=HI), "output is one item instead of a list"),
        (response(output="hi"), "output is a text"),
        (response(output=None, output_text="hi"), "the reply is the text 'output_text'"),
        (response(output=[], output_text="hi"), "the reply is the text 'output_text'"),
        ({"output_text": "hi", "usage": USAGE}, "the reply is the text 'output_text'"),
        ([response(HI)], "the reply is inside an array"),
        ({"code": 0, "data": response(HI)}, "the reply is inside 'data'"),
        ({"response": response(HI)}, "the reply is inside 'response'"),
        (json.dumps(response(HI)), "the reply is JSON inside a JSON string"),
        (CHAT, 'an OpenAI chat answer on the Responses wire: protocol = "openai"?'),
        (
            lines(CHUNK, LAST, done=True),
            'an event stream that was not asked for; an OpenAI chat answer on the Responses wire: protocol = "openai"?',
        ),
        (GEMINI, 'a Gemini answer on the Responses wire: protocol = "gemini"?'),
        (CLAUDE, 'an Anthropic answer on the Responses wire: protocol = "anthropic"?'),
        (b"\xef\xbb\xbf" + encode_json(response(HI)), "a byte order mark before the JSON"),
        (lines({"type": "response.completed", "response": response(HI)}), "an event stream that was not asked for"),
    ],
)
def test_a_reply_in_an_odd_form_is_read_and_the_form_noted(body: Any, note: str | None) -> None:
    answer = read(body)
    assert isinstance(answer.outcome, Reply), answer
    assert (answer.outcome.text, status_of(answer.outcome)) == ("hi", "ok")
    assert answer.note == note


def test_a_response_on_another_wire_is_named() -> None:
    events = ({"type": "response.output_item.done", "item": HI},
              {"type": "response.completed", "response": response()})  # fmt: skip
    for body in (encode_json(response(REASONING, HI)), lines(*events)):
        answer = read_answer(PROTOCOLS["openai"], 200, {}, body)
        assert isinstance(answer.outcome, Reply), answer
        assert (answer.outcome.text, answer.outcome.raw_turn) == ("hi", None)
        assert 'a Responses answer on the OpenAI chat wire: protocol = "responses"?' in (answer.note or "")


@each(
    ("body", "kind"),
    [
        ({"error": {"message": "boom", "type": "server_error", "code": None}}, "server_error"),
        ({"error": {"message": "Rate limit", "code": "rate_limit_exceeded"}, "output": []}, "rate_limit"),
        (response(HI, error={"code": "server_error", "message": "boom"}), "server_error"),
        (response(status="failed"), "server_error"),
        (response(status="queued"), "bad_response"),
        (response(text_item("h", status="in_progress"), status="in_progress"), "bad_response"),
        (response({**HI, "content": 7}, status="in_progress"), "bad_response"),
        (without(response(), "output"), "empty_response"),
        ({"object": "response", "status": "failed", "error": "no channel"}, "server_error"),
        ({}, "bad_response"),
        ({"id": "resp_1", "object": "response"}, "bad_response"),
        (b"<html><title>Console</title></html>", "bad_response"),
        (encode_json(response(HI))[:-20], "bad_response"),
        (b"", "bad_response"),
    ],
)
def test_what_is_no_reply_is_a_failure(body: Any, kind: str) -> None:
    failure = read(body).outcome
    assert isinstance(failure, Failure), failure
    assert failure.kind == kind


def test_a_complete_reply_under_an_error_status_is_a_reply() -> None:
    answer = read(response(HI), status=500)
    assert isinstance(answer.outcome, Reply)
    assert answer.note == "HTTP status 500"


@each(
    ("message", "protocol"),
    [
        ("This model is only supported in v1/responses and not in v1/chat/completions.", "responses"),
        ("This is not a chat model and thus not supported in the v1/chat/completions endpoint. Did you mean to use "
         "v1/completions?", "responses"),
        ("Unsupported legacy protocol: /v1/chat/completions is not supported. Please use /v1/responses.", "responses"),
        ("The requested model 'x' requires the Responses API.", "responses"),
        ("This model is only supported in v1/chat/completions and not in v1/responses.", "openai"),
        ("The requested model 'x' cannot be used with the Responses API.", "openai"),
        ("model x is not supported in /v1/responses", "openai"),
        ("The model `x` does not exist or you do not have access to it.", None),
        ("Use only plain responses, please", None),
    ],
)  # fmt: skip
def test_a_model_of_the_other_api_is_told_with_the_protocol_that_has_it(message: str, protocol: str | None) -> None:
    error = {"error": {"message": message, "type": "invalid_request_error", "param": "model", "code": None}}
    failure = PROTOCOLS["openai"].classify_error(404, {}, encode_json(error))
    told = suspension(failure, 404, Address(base_url="https://api.openai.com/v1", path="/v1/chat/completions"))
    assert (f'protocol = "{protocol}"' in told) is (protocol is not None)
    assert (other_protocol(message) is None) is (protocol is None)


def test_a_gateway_without_the_path_is_told_with_the_other_protocol() -> None:
    failure = WIRE.classify_error(404, {}, b'{"error": {"message": "Invalid URL (POST /v1/responses)"}}')
    told = suspension(failure, 404, Address(base_url="https://h/v1", path="/v1/responses"))
    assert 'if it has chat completions only: protocol = "openai"' in told


# --- streams ---------------------------------------------------------------------------------------------------------


def folded(*events: Any) -> Reply:
    draft = Draft()
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event)
        draft = WIRE.parse_event(draft, SseEvent(event="", data=data))
    return WIRE.finish(draft)


def added(index: int, item: Any) -> dict[str, Any]:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def done(index: int, item: Any) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def delta(index: int, text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": index, "content_index": 0,
            "delta": text}  # fmt: skip


def ended(whole: Any, name: str = "completed") -> dict[str, Any]:
    return {"type": f"response.{name}", "response": whole}


CREATED = {"type": "response.created", "response": response(status="in_progress", usage=None)}
ITEMS = st.lists(
    st.sampled_from([REASONING, CALL, IMAGE, text_item("a"), text_item("bc", phase="final_answer"),
                     text_item("d", phase="commentary"), {"type": "future"}]), max_size=5,
)  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(items=ITEMS, data=st.data())
def test_streamed_and_whole_give_the_same_reply(items: list[Any], data: st.DataObject) -> None:
    whole = response(*items)
    events = [event for index in range(len(items)) for event in (added(index, {}), delta(index, "x"))]
    events = data.draw(st.permutations([*events, *(done(index, item) for index, item in enumerate(items))]))
    if data.draw(st.booleans()):
        events.append({"type": "response.some_future.delta", "delta": "y", "sequence_number": 9})
    final = response() if data.draw(st.booleans()) else whole
    assert folded(CREATED, *events, ended(final)) == WIRE.parse_response(encode_json(whole))


@settings(max_examples=12, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=3), model=st.sampled_from(["sim-good", "sim-think",
       "sim-signed", "sim-safety", "sim-empty", "sim-seed"]), limit=st.sampled_from([None, 16, 400]))  # fmt: skip
def test_simulated_conversations_are_equal_streamed_and_whole(texts: list[str], model: str, limit: int | None) -> None:
    provider = Provider()
    history: list[Message] = []
    for text in texts:
        history.append(user(text))
        chosen = Settings(include_thoughts=True, max_output_tokens=limit)
        answers: list[Reply | Failure] = []
        for stream in (False, True):
            ask = Ask(model=model, messages=tuple(history), system="S", settings=chosen, stream=stream)
            body = WIRE.build_request(ask, OPENAI_COM).json
            answer = answer_to(provider, request(body, url="/v1/responses"))
            answers.append(read(answer.content, answer.status or 0).outcome)
        assert answers[0] == answers[1]
        reply = answers[0]
        assert isinstance(reply, Reply), reply
        if not reply.text:
            return
        history.append(assistant(reply.text, reply.raw_turn))


@each(
    ("events", "text", "source"),
    [
        ([CREATED, done(0, REASONING), done(1, HI), "[DONE]"], "hi", "missing"),
        ([done(0, HI), "[DONE]"], "hi", "missing"),
        ([delta(0, "h"), delta(0, "i"), "[DONE]"], "hi", "missing"),
        ([ended(response(HI, status="in_progress"))], "hi", "reported"),
        ([delta(0, "h"), done(0, HI), ended(response(), "done")], "hi", "reported"),
        ([done(0, HI), {"type": "response.completed"}], "hi", "missing"),
        (
            [{"type": "response.completed", "response": without(response(HI), "usage"), "usage": USAGE}],
            "hi",
            "reported",
        ),
        ([delta(0, "h"), delta(0, "i"), ended(response())], "hi", "reported"),
        ([ended(response(HI)), '{"cut'], "hi", "reported"),
        ([done(1, text_item("i")), done(0, text_item("h")), ended(response())], "hi", "reported"),
        ([response(HI)], "hi", "reported"),
    ],
)
def test_a_stream_is_complete_when_it_says_so(events: list[Any], text: str, source: str) -> None:
    reply = folded(*events)
    assert (reply.text, reply.usage.source) == (text, source)


@each(
    ("events", "kind", "text"),
    [
        ([CREATED, delta(0, "ha"), delta(0, "lf")], "stream_truncated", "half"),
        ([CREATED, done(0, HI)], "stream_truncated", "hi"),
        ([CREATED, added(0, HI), delta(0, "half"), "[DONE]"], "stream_truncated", "half"),
        ([CREATED, delta(0, "half"), '{"type": "resp', "[DONE]"], "stream_truncated", "half"),
        ([CREATED, delta(0, "half"), {"type": "error", "code": "server_error", "message": "boom"}], "server_error",
         "half"),
        ([CREATED, delta(0, "half"), {"type": "error", "error": {"code": "rate_limit_exceeded", "message": "slow"}}],
         "rate_limit", "half"),
        ([CREATED, {"type": "error", "code": None, "message": "boom", "param": None}], "server_error", None),
        ([CREATED, delta(0, "half"), {"error": {"message": "boom", "type": "server_error"}}], "server_error", "half"),
        ([delta(0, "half"), ended(response(status="failed", error={"code": "server_error", "message": "b"}), "failed")],
         "server_error", "half"),
        ([], "stream_truncated", None),
    ],
)  # fmt: skip
def test_a_stream_that_broke_off_keeps_its_text(events: list[Any], kind: str, text: str | None) -> None:
    with pytest.raises(ErrorInBody) as caught:
        folded(*events)
    assert (caught.value.failure.kind, caught.value.failure.text) == (kind, text)


def test_a_stream_of_chat_completions_is_named() -> None:
    with pytest.raises(MalformedReply, match='OpenAI chat stream on the Responses wire: protocol = "openai"'):
        folded(CHUNK, LAST)


def test_scripted_replies_are_the_same_on_every_wire() -> None:
    """The simulator gives a script's replies on the Responses wire as on the others."""
    provider = Provider(script=Script.of([{"id": "d", "turns": [{"user": "a", "assistant": "scripted"}]}]))
    answer = answer_to(provider, request(body_of(user("a"), model="sim-good"), url="/v1/responses"))
    assert reply_of(answer.content).text == "scripted"


@each("odd", [{}, [], 7, None, True])
def test_a_field_of_another_type_never_raises(odd: Any) -> None:
    for field in ("type", "status", "phase", "content", "call_id", "name", "arguments", "summary", "error"):
        for item in (HI, CALL, REASONING, IMAGE):
            assert read(response({**item, field: odd}))
    for field in ("output", "status", "error", "usage", "incomplete_details", "input_transformations", "output_text"):
        assert read({**response(HI), field: odd})
    for field in ("type", "item", "delta", "output_index", "response", "item_id"):
        for event in (delta(0, "a"), done(0, HI), added(0, HI), ended(response(HI))):
            assert read(lines({**event, field: odd}, done=True))
