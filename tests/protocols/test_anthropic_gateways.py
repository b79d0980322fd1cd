"""What resellers send on the Anthropic wire: odd messages, counts of other shapes, streams in any order."""

from __future__ import annotations

import json
from typing import Any

from convbatch.protocols import PROTOCOLS
from convbatch.protocols.reading import read_answer
from convbatch.protocols.sse import SseParser
from convbatch.protocols.wire import Draft, encode_json
from convbatch.reply import Failure, Reply, Usage
from tests.support.tables import each

WIRE = PROTOCOLS["anthropic"]

# --- replies

TEXT = [{"type": "text", "text": "Hi"}]
OK = {"id": "msg_1", "type": "message", "role": "assistant", "model": "served", "content": TEXT,
      "stop_reason": "end_turn", "usage": {"input_tokens": 20, "output_tokens": 5}}  # fmt: skip


def read(body: Any, *, status: int = 200, is_cut: bool = False) -> Any:
    encoded = body if isinstance(body, bytes) else encode_json(body)
    return read_answer(WIRE, status, {}, encoded, is_cut=is_cut)


@each(
    ("sent", "known"),
    [
        ({"input_tokens": 3, "output_tokens": 4}, {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}),
        (
            {"input_tokens": 3, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 7, "output_tokens": 4,
             "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 5},
             "output_tokens_details": {"thinking_tokens": 1}},
            {"input_tokens": 20, "cached_input_tokens": 10, "cache_write_input_tokens": 7, "output_tokens": 4,
             "cache_write_1h_input_tokens": 5, "reasoning_tokens": 1, "total_tokens": 24},
        ),
        (  # the sum of the parts, where the gateway leaves it out
            {"input_tokens": 3, "output_tokens": 4, "cache_creation": {"ephemeral_1h_input_tokens": 5}},
            {"input_tokens": 8, "cache_write_input_tokens": 5, "cache_write_1h_input_tokens": 5, "output_tokens": 4,
             "total_tokens": 12},
        ),
        (  # input with cached tokens: the total says so
            {"input_tokens": 20, "cache_read_input_tokens": 10, "output_tokens": 4, "total_tokens": 24},
            {"input_tokens": 20, "cached_input_tokens": 10, "output_tokens": 4, "total_tokens": 24},
        ),
        (  # input with cached tokens: it stands under both names
            {"input_tokens": 20, "prompt_tokens": 20, "cache_read_input_tokens": 10, "output_tokens": 4},
            {"input_tokens": 20, "cached_input_tokens": 10, "output_tokens": 4, "total_tokens": 24},
        ),
        (  # the names of chat completions
            {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24,
             "prompt_tokens_details": {"cached_tokens": 10}},
            {"input_tokens": 20, "cached_input_tokens": 10, "output_tokens": 4, "total_tokens": 24},
        ),
        ({"input_tokens": 0, "output_tokens": 4}, {"output_tokens": 4, "consistent": False}),
        ({"output_tokens": 4}, {"output_tokens": 4}),
        ({"input_tokens": -3, "output_tokens": 4}, {"output_tokens": 4, "consistent": False}),
        ({"input_tokens": None, "output_tokens": None}, {}),
    ],
)  # fmt: skip
def test_usage_is_inclusive_and_unknown_counts_are_none(sent: dict[str, Any], known: dict[str, Any]) -> None:
    usage = read({**OK, "usage": sent}).outcome.usage
    known.setdefault("consistent", usage.consistent and True)
    both = known.get("input_tokens") is not None and known.get("output_tokens") is not None
    assert usage == Usage(**known, source="reported" if both else "partial")


@each(
    ("changes", "finish", "text", "note"),
    [
        ({"content": "Hi"}, "stop", "Hi", None),
        ({"content": TEXT[0]}, "stop", "Hi", "one block instead of a list"),
        ({"content": ["Hi"]}, "stop", "Hi", None),
        ({"content": [{"text": "Hi"}]}, "stop", "Hi", None),
        ({"content": None, "text": "Hi"}, "stop", "Hi", "the reply is the text 'text'"),
        ({"content": None}, "stop", None, None),
        ({"content": []}, "stop", "", None),
        ({"stop_reason": None}, "other", "Hi", None),
        ({"stop_reason": "stop"}, "stop", "Hi", None),
        ({"stop_reason": "max_tokens"}, "length", "Hi", None),
        ({"stop_reason": "refusal"}, "content_filter", "Hi", None),
        ({"stop_reason": "end_turn", "stop_details": {"type": "refusal"}}, "content_filter", "Hi", None),
        ({"stop_reason": "pause_turn"}, "other", "Hi", None),
        ({"stop_reason": "some_future_reason"}, "other", "Hi", None),
        ({"type": None}, "stop", "Hi", None),
        ({"error": None}, "stop", "Hi", None),
        ({"error": {}}, "stop", "Hi", None),
        ({"content": [*TEXT, {"type": "future", "x": 1}]}, "stop", "Hi", None),
        ({"content": [{"type": "thinking", "thinking": "t"}, *TEXT]}, "stop", "Hi", None),
        ({"input_transformations": [{"type": "thinking_dropped", "reason": "prefix_binding_mismatch"}]}, "stop", "Hi",
         "the provider removed 1 thinking block from the history (prefix_binding_mismatch)"),
    ],
)  # fmt: skip
def test_odd_messages_keep_their_content(changes: dict[str, Any], finish: str, text: str | None, note: str) -> None:
    answer = read({**OK, **changes})
    assert isinstance(answer.outcome, Reply), answer
    assert (answer.outcome.finish_reason, answer.outcome.text) == (finish, text)
    assert note in (answer.note or "") if note else answer.note is None, answer.note
    if text:
        assert answer.outcome.raw_turn in (None, {"role": "assistant", "content": "Hi"}) or all(
            isinstance(block, dict) for block in answer.outcome.raw_turn["content"]
        )


OPENAI = {"choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
          "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}}  # fmt: skip
CHUNK = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
GEMINI = {"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}
RESPONSES = {"object": "response", "status": "completed",
             "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}]}  # fmt: skip


@each(
    ("body", "name", "protocol"),
    [
        (OPENAI, "an OpenAI chat", "openai"),
        (b"data: " + encode_json(CHUNK) + b"\n\ndata: [DONE]\n\n", "an OpenAI chat", "openai"),
        (GEMINI, "a Gemini", "gemini"),
        (RESPONSES, "a Responses", "responses"),
    ],
)
def test_an_answer_of_another_wire_is_named(body: Any, name: str, protocol: str) -> None:
    answer = read(body)
    assert isinstance(answer.outcome, Reply), answer
    assert answer.outcome.text == "Hi"
    assert answer.note is not None
    assert f'{name} answer on the Anthropic wire: protocol = "{protocol}"?' in answer.note


@each("wire", ["openai", "gemini", "responses"])
def test_a_message_on_another_wire_is_named(wire: str) -> None:
    for body in (encode_json(OK), stream(*STREAM)):
        answer = read_answer(PROTOCOLS[wire], 200, {}, body)
        assert isinstance(answer.outcome, Reply), answer
        assert (answer.outcome.text, answer.outcome.usage.input_tokens, answer.outcome.raw_turn) == ("Hi", 20, None)
        assert "an Anthropic answer on the" in (answer.note or "")


@each(
    ("body", "kind"),
    [
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "overloaded"),
        ({"type": "error", "error": {}}, "bad_response"),
        ({"error": {"message": "无效的令牌", "type": "new_api_error"}}, "auth"),
        ({**OK, "content": [], "stop_reason": None, "error": {"type": "api_error", "message": "no"}}, "server_error"),
        ({"id": "msg_1", "type": "message", "usage": {"input_tokens": 3}}, "empty_response"),
        ({"hello": 1}, "bad_response"),
        ([], "bad_response"),
        (b"<html>New API</html>", "bad_response"),
        (encode_json(OK)[:-9], "bad_response"),
    ],
)
def test_what_is_no_message_is_a_failure(body: Any, kind: str) -> None:
    failure = read(body).outcome
    assert isinstance(failure, Failure), failure
    assert failure.kind == kind


# --- streams

MESSAGE: dict[str, Any] = {**OK, "content": [], "stop_reason": None,
                           "usage": {"input_tokens": 20, "output_tokens": 1}}  # fmt: skip
START = {"type": "message_start", "message": MESSAGE}
BEGIN = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}
CLOSE = {"type": "content_block_stop", "index": 0}
END = {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
       "usage": {"output_tokens": 5}}  # fmt: skip
STOP = {"type": "message_stop"}
PING = {"type": "ping"}
BUSY = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
STREAM = (START, BEGIN, DELTA, CLOSE, END, STOP)


def stream(*events: Any, end: str = "\n", space: str = " ", named: bool = True) -> bytes:
    lines: list[str] = []
    for event in events:
        if isinstance(event, str):
            lines += [event, ""]
            continue
        lines += [f"event:{space}{event.get('type')}"] if named else []
        lines += [f"data:{space}{json.dumps(event, ensure_ascii=False)}", ""]
    return (end.join(lines) + end).encode()


def folded(body: bytes) -> Reply:
    parser, draft = SseParser(), Draft()
    for event in (*parser.feed(body), *parser.close()):
        draft = WIRE.parse_event(draft, event)
    return WIRE.finish(draft)


def without(event: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != key}


def thinking(index: int) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": index, "delta": {"type": "thinking_delta", "thinking": "t"}},
        {"type": "content_block_delta", "index": index, "delta": {"type": "signature_delta", "signature": "c2ln"}},
        {"type": "content_block_stop", "index": index},
    ]


@each(
    "body",
    [
        stream(*STREAM),
        stream(*STREAM, end="\r\n"),
        stream(*STREAM, end="\r", space=""),
        stream(*STREAM, named=False),
        stream(": PING", PING, START, PING, BEGIN, ": x", DELTA, CLOSE, PING, END, STOP, "data: [DONE]"),
        stream(START, BEGIN, DELTA, CLOSE, END),
        stream(START, BEGIN, DELTA, END, STOP),
        stream(START, DELTA, END),
        stream(START, *(without(event, "index") for event in (BEGIN, DELTA, CLOSE)), END),
        stream(START, *({**event, "index": 7} for event in (BEGIN, DELTA, CLOSE)), END, STOP),
        stream(START, {**BEGIN, "content_block": TEXT[0]}, CLOSE, END, STOP),
        stream({**START, "message": {**MESSAGE, "content": TEXT}}, END, STOP),
        stream(START, {**BEGIN, "content_block": {"type": "text", "text": [7]}}, DELTA, CLOSE, END, STOP),
        stream(*STREAM[:-1], BUSY),
        stream(*STREAM[:-1], "data: {cut"),
        stream(START, {"type": "future_event", "x": 1}, *STREAM[1:]),
        stream(OK),
    ],
)
def test_a_stream_in_any_order_is_the_same_reply(body: bytes) -> None:
    reply = folded(body)
    assert (reply.text, reply.finish_reason_raw, reply.response_id) == ("Hi", "end_turn", "msg_1")
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.total_tokens) == (20, 5, 25)
    assert reply.raw_turn == {"role": "assistant", "content": TEXT}
    assert read(body).outcome == reply


@each("indexes", [(0, 1), (0, 0), (0, 5)])
def test_blocks_are_told_apart_whatever_their_indexes(indexes: tuple[int, int]) -> None:
    texts = [{**event, "index": indexes[1]} for event in (BEGIN, DELTA, CLOSE)]
    reply = folded(stream(START, *thinking(indexes[0]), *texts, END, STOP))
    assert (reply.text, reply.thought) == ("Hi", "t")
    assert reply.raw_turn["content"] == [{"type": "thinking", "thinking": "t", "signature": "c2ln"}, *TEXT]


@each(
    ("started", "ended", "known"),
    [
        ({"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 19, "output_tokens": 2}, (19, None, 2)),
        ({"input_tokens": 19, "output_tokens": 1}, {"input_tokens": 0, "output_tokens": 2}, (19, None, 2)),
        ({"input_tokens": 19, "output_tokens": 9}, {"output_tokens": 0}, (19, None, 9)),
        ({"input_tokens": 19}, {"input_tokens": 0, "cache_read_input_tokens": 19, "output_tokens": 2}, (19, 19, 2)),
        ({"input_tokens": 9, "cache_read_input_tokens": 10}, {"input_tokens": 9, "output_tokens": 2}, (19, 10, 2)),
        ({"input_tokens": 19, "output_tokens": 1}, {"input_tokens": None, "output_tokens": 2}, (19, None, 2)),
        ({"input_tokens": 19, "output_tokens": 1}, None, (19, None, 1)),
        (None, {"input_tokens": 19, "output_tokens": 2}, (19, None, 2)),
        (None, None, (None, None, None)),
    ],
)
def test_zeros_of_a_gateway_never_replace_counts(started: Any, ended: Any, known: tuple[int | None, ...]) -> None:
    start = {**START, "message": {**MESSAGE, "usage": started}}
    usage = folded(stream(start, BEGIN, DELTA, CLOSE, {**END, "usage": ended}, STOP)).usage
    assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens) == known


@each(
    ("started", "ended", "output_tokens"),
    [
        ({"input_tokens": 19, "output_tokens": 1}, {"output_tokens": 0}, 0),
        ({"input_tokens": 19, "output_tokens": 1}, {"output_tokens": None}, 1),
        ({"input_tokens": 19, "output_tokens": 1}, {}, 1),
        (None, {"output_tokens": 0}, 0),
    ],
)
def test_a_stream_without_content_has_the_output_count_of_its_end(started: Any, ended: Any, output_tokens: int) -> None:
    start = {**START, "message": {**MESSAGE, "usage": started}}
    assert folded(stream(start, {**END, "usage": ended}, STOP)).usage.output_tokens == output_tokens


@each(
    ("events", "kind", "text"),
    [
        ((START, BEGIN, DELTA), "stream_truncated", "Hi"),
        ((START, BEGIN, DELTA, CLOSE), "stream_truncated", "Hi"),
        ((START,), "stream_truncated", None),
        ((PING,), "stream_truncated", None),
        ((START, BEGIN, DELTA, BUSY), "overloaded", "Hi"),
        ((START, BUSY), "overloaded", None),
        ((BUSY,), "overloaded", None),
        ((START, BEGIN, DELTA, {"type": "error"}), "stream_truncated", "Hi"),
        ((START, BEGIN, DELTA, '{"error": {"message": "Overloaded", "code": 529}}'), "overloaded", "Hi"),
        ((START, BEGIN, DELTA, "data: {cut"), "stream_truncated", "Hi"),
    ],
)  # fmt: skip
def test_a_broken_stream_keeps_its_text(events: Any, kind: str, text: str | None) -> None:
    failure = read(stream(*events), is_cut=True).outcome
    assert isinstance(failure, Failure), failure
    assert (failure.kind, failure.text) == (kind, text)
    assert failure.usage.source in ("partial", "missing")


def test_arguments_that_are_no_json_are_kept_as_text() -> None:
    call = {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "f",
                                                                         "input": {}}}  # fmt: skip
    for pieces, arguments in ((['{"a":', " 1}"], {"a": 1}), ([""], {}), ([], {}), (["{oops"], "{oops")):
        deltas = [{"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": p}}
                  for p in pieces]  # fmt: skip
        reply = folded(stream(START, call, *deltas, CLOSE, {**END, "delta": {"stop_reason": "tool_use"}}, STOP))
        assert (reply.finish_reason, reply.tool_calls[0].arguments) == ("tool_call", arguments)
