"""Answers of gateways that translate other protocols to Gemini's, as LiteLLM 1.110.2 sent them on 2026-11-27."""

from __future__ import annotations

import json
from typing import Any

from convbatch.protocols import PROTOCOLS
from convbatch.protocols.reading import read_answer
from convbatch.reply import Failure, Reply
from tests.support.tables import each

COUNTS = {"promptTokenCount": 123, "candidatesTokenCount": 24, "totalTokenCount": 147}
MID_ERROR = {
    "message": "litellm.MidStreamFallbackError: litellm.APIConnectionError: APIConnectionError: OpenAIException - busy",
    "type": None,
    "param": None,
    "code": "500",
}


def candidate(finish: str | None, *texts: str) -> dict[str, Any]:
    content = {"parts": [{"text": text} for text in texts], "role": "model"}
    return {"candidates": [{"content": content, "finishReason": finish, "index": 0, "safetyRatings": []}]}


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events)


def read(body: bytes, kind: str, *, streamed: bool) -> Reply | Failure:
    return read_answer(PROTOCOLS["gemini"], 200, {"content-type": kind}, body, streamed=streamed).outcome


@each(("finish", "reason"), [("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter")])
def test_a_translated_reply_is_the_same_whole_and_streamed(finish: str, reason: str) -> None:
    whole = json.dumps({**candidate(finish, "Turn 1"), "usageMetadata": COUNTS}).encode()
    events = (candidate(None, "Turn"), candidate(None, " 1"), {**candidate(finish), "usageMetadata": COUNTS})
    one = read(whole, "application/json", streamed=False)
    other = read(stream(*events), "text/event-stream", streamed=True)
    assert isinstance(one, Reply)
    assert one == other
    assert (one.text, one.finish_reason, one.usage.input_tokens, one.usage.output_tokens) == ("Turn 1", reason, 123, 24)


@each(
    ("events", "text"),
    [((candidate(None, "Turn"), {"error": MID_ERROR}), "Turn"), (({"error": MID_ERROR},), None)],
)
def test_an_error_in_a_translated_stream_keeps_the_text_before_it(
    events: tuple[dict[str, Any], ...], text: str | None
) -> None:
    failure = read(stream(*events), "text/event-stream", streamed=True)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.text) == ("server_error", text)
