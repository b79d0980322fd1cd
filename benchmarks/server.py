"""The benchmark gateway: answers every POST with one fixed reply, whole or streamed, faster than any client.

It uses no HTTP library: a request is a head, up to the blank line, and `Content-Length` bytes, which are not parsed. It
prints its port, serves until its stdin closes, and then prints the number of answered requests, so that the benchmark
can check that all work was done, and when the first and the last one came. The reply is Gemini's, on the path of chat
completions one of those, with the same text and counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping
from typing import cast

import uvloop

from benchmarks.dialogues import padded

TEXT = "明天是2025年12月27日。"


def gemini_reply(text: str = TEXT) -> bytes:
    """Return a reply of `generateContent` as it goes over the wire, head included."""
    reply = {
        "candidates": [
            {
                "content": {"role": "model", "parts": [{"text": text}]},
                "finishReason": "STOP",
                "index": 0,
                "safetyRatings": None,
            }
        ],
        "promptFeedback": {"safetyRatings": None},
        "usageMetadata": {
            "promptTokenCount": 22,
            "candidatesTokenCount": 14,
            "totalTokenCount": 214,
            "thoughtsTokenCount": 178,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 22}],
        },
        "modelVersion": "gemini-2.5-flash",
        "responseId": "awNOaYKaHebfjMcP-dyd4Ao",
    }
    return _answer(reply)


def chat_reply(text: str = TEXT) -> bytes:
    """Return a chat completion as it goes over the wire, head included."""
    reply = {
        "id": "chatcmpl-awNOaYKaHebfjMcP",
        "object": "chat.completion",
        "created": 1766707200,
        "model": "bench-model",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "finish_reason": "stop"}
        ],
        "usage": {
            "prompt_tokens": 22,
            "completion_tokens": 192,
            "total_tokens": 214,
            "completion_tokens_details": {"reasoning_tokens": 178},
        },
    }
    return _answer(reply)


def _answer(reply: Mapping[str, object]) -> bytes:
    body = json.dumps(reply, ensure_ascii=False, indent=2).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


ANSWER = gemini_reply()
EVENTS = 64
"""Events of a streamed reply; each is sent on its own, so that a client may read it on its own."""


def _event(number: int) -> bytes:
    """Return an event of the stream as a chunk of HTTP."""
    candidate: dict[str, object] = {"content": {"role": "model", "parts": [{"text": f"piece {number} of it, "}]}}
    counts = {"promptTokenCount": 22, "candidatesTokenCount": number * 5, "totalTokenCount": 22 + number * 5}
    if number == EVENTS:
        candidate["finishReason"] = "STOP"
    event = {
        "candidates": [{**candidate, "index": 0}],
        "usageMetadata": counts,
        "modelVersion": "gemini-2.5-flash",
        "responseId": "awNOaYKaHebfjMcP-dyd4Ao",
    }
    data = b"data: " + json.dumps(event).encode() + b"\r\n\r\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    *(_event(number) for number in range(1, EVENTS + 1)),
    b"0\r\n\r\n",
)
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"
_LONGEST_PATH = 200


class _Server:
    """State shared by all connections."""

    def __init__(self, latency_s: float, text: str) -> None:
        self.latency_s = latency_s
        self.answered = 0
        self.first_at = self.last_at = 0.0
        self.gemini = gemini_reply(text)
        self.chat = chat_reply(text)


class _Connection(asyncio.Protocol):
    def __init__(self, server: _Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._rest = bytearray()
        self._wanted = 0
        """Bytes until the request that has begun is whole; 0: not known."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
            self._rest.clear()
        requests, rest, self._wanted = _whole_requests(data)
        self._rest += rest
        if not requests:
            return
        self._server.last_at = time.time()
        if not self._server.answered:
            self._server.first_at = self._server.last_at
        self._server.answered += requests
        if data.find(b":streamGenerateContent", 0, _LONGEST_PATH) >= 0:
            self._stream(0)  # clients here never pipeline
            return
        is_chat = data.find(b"/chat/completions", 0, _LONGEST_PATH) >= 0
        answer = self._server.chat if is_chat else self._server.gemini
        answers = answer if requests == 1 else answer * requests
        if self._server.latency_s:
            self._loop.call_later(self._server.latency_s, self._transport.write, answers)
        else:
            self._transport.write(answers)

    def _stream(self, number: int) -> None:
        self._transport.write(STREAM[number])
        if number + 1 < len(STREAM):
            self._loop.call_soon(self._stream, number + 1)


def _whole_requests(data: bytes) -> tuple[int, bytes, int]:
    """Count the complete requests at the start of the data; return the count, the rest, and its length when whole."""
    count = start = wanted = 0
    while (head := data.find(_END_OF_HEAD, start)) >= 0:
        end = head + len(_END_OF_HEAD) + _content_length(data[start : head + 2])
        if end > len(data):
            wanted = end - start
            break
        count += 1
        start = end
    return count, data[start:], wanted


def _content_length(head: bytes) -> int:
    lowered = head.lower()
    begins = lowered.find(_LENGTH)
    if begins < 0:
        return 0
    begins += len(_LENGTH)
    return int(lowered[begins : lowered.find(b"\r\n", begins)])


async def _serve(latency_s: float, text: str) -> None:
    loop = asyncio.get_running_loop()
    state = _Server(latency_s, text)
    server = await loop.create_server(lambda: _Connection(state), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    closed = asyncio.Event()
    loop.add_reader(sys.stdin, closed.set)  # stdin is never written to, so readable means closed
    await closed.wait()
    print(state.answered, state.first_at, state.last_at, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="the gateway of the benchmarks")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before a reply")
    parser.add_argument("--reply-bytes", type=int, default=0, help="length of the reply's text [short]")
    args = parser.parse_args()
    uvloop.run(_serve(args.latency, padded(TEXT, args.reply_bytes)))


if __name__ == "__main__":
    main()
