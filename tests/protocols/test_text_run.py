"""Joining the events of a stream that differ only in their text gives the reply that folding each of them gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.protocols import PROTOCOLS
from convbatch.protocols.sse import SseEvent, SseParser
from convbatch.protocols.stream_fold import StreamFold, is_hollow
from convbatch.protocols.stream_text import added_text
from convbatch.protocols.text_run import TextRun
from convbatch.protocols.wire import Draft, ErrorInBody, MalformedReply
from convbatch.reply import Reply
from tests.conftest import examples

TEXTS = st.sampled_from(["a", "b", "", "你", "\ud800", " "])
COUNTS = st.sampled_from([1, 2, 3, None, 10**20, 0])
TEXT_KEYS = ("text", "content", "delta", "thinking", "reasoning_content")


def fields(required: dict[str, Any], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects with some fields always, and others at times."""
    fixed = {key: kind if isinstance(kind, st.SearchStrategy) else st.just(kind) for key, kind in required.items()}
    return st.fixed_dictionaries(fixed, optional=optional)


def rarely(value: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([None, None, value])


PARTS = fields({"text": TEXTS}, thought=st.booleans()) | st.sampled_from(
    [{"text": "a", "thoughtSignature": "s"}, {"functionCall": {"name": "f", "args": {}}}, {"text": None}]
)
GEMINI_CANDIDATE = fields(
    {"content": fields({"role": "model", "parts": st.lists(PARTS, min_size=1, max_size=1) | st.lists(PARTS)})},
    finishReason=rarely("STOP"),
    index=st.sampled_from([0, 0, 0, 1]),
    logprobsResult=rarely({"chosenCandidates": [{"logProbability": -0.5}]})
    | rarely({"chosenCandidates": [{"logProbability": -1}]}),
)
GEMINI = fields(
    {"candidates": st.lists(GEMINI_CANDIDATE, min_size=1, max_size=1) | st.lists(GEMINI_CANDIDATE, max_size=2)},
    usageMetadata=fields({"promptTokenCount": COUNTS}, candidatesTokenCount=COUNTS, totalTokenCount=COUNTS),
    modelVersion=st.sampled_from(["m", "", None]),
)
OPENAI_DELTA = fields(
    {"content": TEXTS},
    role=st.just("assistant"),
    reasoning_content=TEXTS | st.none(),
    refusal=rarely("no"),
    tool_calls=rarely([{"index": 0, "function": {"name": "f", "arguments": "1"}}]),
)
OPENAI_CHOICE = fields(
    {"delta": OPENAI_DELTA | fields({"content": None, "reasoning_content": TEXTS})},
    index=st.sampled_from([0, 0, 0, 1]),
    finish_reason=rarely("stop"),
    logprobs=rarely({"content": [{"logprob": -0.5}]}) | rarely({"content": [{"logprob": -1}]}),
)
OPENAI = fields(
    {"choices": st.lists(OPENAI_CHOICE, min_size=1, max_size=1) | st.lists(OPENAI_CHOICE, max_size=2)},
    id=st.sampled_from(["1", "2"]),
    usage=st.none() | fields({"prompt_tokens": COUNTS}, completion_tokens=COUNTS),
)
BLOCK_DELTAS = st.sampled_from(["text", "thinking"]).flatmap(lambda key: fields({"type": f"{key}_delta", key: TEXTS}))
ANTHROPIC = fields(
    {"type": "content_block_delta", "index": st.sampled_from([0, 1]), "delta": BLOCK_DELTAS}
) | st.sampled_from(
    [
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
        {"type": "ping"},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
    ]
)
RESPONSES = fields(
    {
        "type": st.sampled_from(["response.output_text.delta"] * 2 + ["response.reasoning_summary_text.delta"]),
        "output_index": st.sampled_from([0, 1]),
        "delta": TEXTS,
    },
    item_id=st.sampled_from(["i", "j"]),
    sequence_number=st.integers(0, 9),
    obfuscation=st.sampled_from(["x", "xy"]),
    logprobs=st.just([]),
) | st.just({"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "id": "i"}})
WIRES = {"gemini": GEMINI, "openai": OPENAI, "anthropic": ANTHROPIC, "responses": RESPONSES}
BEGINS = {"anthropic": {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 3}}}}
ENDS = {
    "gemini": {"candidates": [{"finishReason": "STOP"}]},
    "openai": {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    "anthropic": {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    "responses": {"type": "response.completed", "response": {"status": "completed", "output": []}},
}


@st.composite
def streams(draw: st.DrawFn, wire: str) -> list[Any]:
    """Return the events of a stream; many of them are like the one before."""
    values = [BEGINS[wire]] if wire in BEGINS else []
    for value in draw(st.lists(WIRES[wire], min_size=1, max_size=5)):
        more = draw(st.lists(st.tuples(TEXTS, COUNTS), max_size=4))
        values += [value, *(_again(value, text, count) for text, count in more)]
    return [*values, ENDS[wire]] if draw(st.sampled_from([True, True, True, False])) else values


def _again(value: Any, text: str, count: int | None) -> Any:
    """Return an event with other texts and counts."""
    if isinstance(value, list):
        return [_again(item, text, count) for item in value]
    if not isinstance(value, dict):
        return value
    other: dict[str, Any] = {}
    for key, item in value.items():
        if key in TEXT_KEYS and isinstance(item, str) and item:
            other[key] = text
        elif key.endswith(("TokenCount", "_tokens")):
            if count != 3 or key.startswith("prompt"):
                other[key] = count
        else:
            other[key] = _again(item, text, count)
    return other


def one_by_one(protocol: str, events: Sequence[tuple[str, bytes]]) -> Reply | None:
    """Fold events without joining any."""
    wire, draft = PROTOCOLS[protocol], Draft()
    try:
        for name, data in events:
            draft = wire.parse_event(draft, SseEvent(event=name, data=data.decode("utf-8", "surrogateescape")))
        reply = wire.finish(draft)
    except (ErrorInBody, MalformedReply):
        return None
    return None if is_hollow(reply) else reply


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(data=st.data())
@settings(max_examples=examples(120), deadline=None)
def test_joined_events_give_the_reply_of_each_folded_alone(protocol: str, data: st.DataObject):
    wire = data.draw(st.sampled_from([protocol, protocol, protocol, *WIRES]))
    values = data.draw(streams(wire))
    events = [("", json.dumps(value).encode()) for value in values]
    cut = data.draw(st.integers(0, len(events)))
    fold = StreamFold(PROTOCOLS[protocol])
    added = [fold.add(events[:cut]), fold.add(events[cut:])]
    reply = fold.reply()
    expected = one_by_one(protocol, events)
    assert repr(reply) == repr(expected)
    each = [added_text(value) for value in values]
    assert sum(one.chunks for one in added) == sum(bool(one.text or one.thought) for one in each)
    assert "".join(one.text for one in added) == "".join(one.text for one in each)
    assert "".join(one.thought for one in added) == "".join(one.thought for one in each)


def test_a_run_takes_the_usual_deltas_of_each_wire():
    usual = {
        "gemini": '{"candidates": [{"content": {"role": "model", "parts": [{"text": "%s"}]}, "index": 0}], '
        '"usageMetadata": {"totalTokenCount": %d}}',
        "openai": '{"id": "1", "choices": [{"index": 0, "delta": {"content": "%s"}, "finish_reason": null}], "n": %d}',
        "anthropic": '{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "%s"}}',
        "responses": '{"type": "response.output_text.delta", "output_index": 0, "delta": "%s", "sequence_number": %d}',
    }
    for wire, event in usual.items():
        run, number = TextRun(), (7,) if wire == "openai" else (1,)
        values = [json.loads(event % (text, *number) if "%d" in event else event % text) for text in "abc"]
        assert run.begin("", values[0]), wire
        assert [run.take(value) for value in values[1:]] == ["b", "c"], wire
        joined = run.end()
        assert joined is not None
        assert '"abc"' in json.dumps(joined[1])
        assert run.end() is None


def test_events_that_differ_in_more_than_text_are_soon_no_longer_tried():
    run = TextRun()
    event = {"type": "content_block_delta", "index": 0, "delta": {"text": "a"}}
    began = [run.begin("", {**event, "index": number}) and run.end() is not None for number in range(20)]
    assert began.index(False) < 12
    assert not any(began[12:])


def test_the_splitter_finds_usual_and_odd_events_of_one_read():
    body = b"data: 1\n\nevent: e\ndata: 2\n\n: c\n\ndata:3\n\ndata: 4\ndata: 5\n\ndata: 6\r\n\r\ndata: 7"
    parser = SseParser()
    assert [*parser.feed_raw(body), *parser.close_raw()] == [
        ("", b"1"),
        ("e", b"2"),
        ("", b"3"),
        ("", b"4\n5"),
        ("", b"6"),
        ("", b"7"),
    ]
