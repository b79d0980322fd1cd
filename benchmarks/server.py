"""The benchmark gateway: answers every POST with one fixed Gemini reply, whole or streamed, faster than any client.

It uses no HTTP library: a request is a head, up to the blank line, and `Content-Length` bytes, which are not parsed. It
prints its port, serves until its stdin closes, and then prints the number of answered requests, so that the benchmark
can check that all work was done.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import cast

import uvloop

# The reply of the seed document, in Gemini format.
BODY = """{
  "candidates": [
    {
      "content": {"role": "model", "parts": [{"text": "明天是2025年12月27日。"}]},
      "finishReason": "STOP",
      "index": 0,
      "safetyRatings": null
    }
  ],
  "promptFeedback": {"safetyRatings": null},
  "usageMetadata": {
    "promptTokenCount": 22,
    "candidatesTokenCount": 14,
    "totalTokenCount": 214,
    "thoughtsTokenCount": 178,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 22}]
  },
  "modelVersion": "gemini-2.5-flash",
  "responseId": "awNOaYKaHebfjMcP-dyd4Ao"
}
""".encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
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


class _Server:
    """State shared by all connections."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s
        self.answered = 0


class _Connection(asyncio.Protocol):
    def __init__(self, server: _Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        requests, self._rest = _whole_requests(data)
        if not requests:
            return
        self._server.answered += requests
        if b":streamGenerateContent" in data:
            self._stream(0)  # clients here never pipeline
            return
        answers = ANSWER if requests == 1 else ANSWER * requests
        if self._server.latency_s:
            self._loop.call_later(self._server.latency_s, self._transport.write, answers)
        else:
            self._transport.write(answers)

    def _stream(self, number: int) -> None:
        self._transport.write(STREAM[number])
        if number + 1 < len(STREAM):
            self._loop.call_soon(self._stream, number + 1)


def _whole_requests(data: bytes) -> tuple[int, bytes]:
    """Count the complete requests at the start of the data; return the count and the rest."""
    count = start = 0
    while (head := data.find(_END_OF_HEAD, start)) >= 0:
        end = head + len(_END_OF_HEAD) + _content_length(data[start : head + 2])
        if end > len(data):
            break
        count += 1
        start = end
    return count, data[start:]


def _content_length(head: bytes) -> int:
    lowered = head.lower()
    begins = lowered.find(_LENGTH)
    if begins < 0:
        return 0
    begins += len(_LENGTH)
    return int(lowered[begins : lowered.find(b"\r\n", begins)])


async def _serve(latency_s: float) -> None:
    loop = asyncio.get_running_loop()
    state = _Server(latency_s)
    server = await loop.create_server(lambda: _Connection(state), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    closed = asyncio.Event()
    loop.add_reader(sys.stdin, closed.set)  # stdin is never written to, so readable means closed
    await closed.wait()
    print(state.answered, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="the gateway of the benchmarks")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before a reply")
    uvloop.run(_serve(parser.parse_args().latency))


if __name__ == "__main__":
    main()
