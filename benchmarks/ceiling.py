"""Speed of the benchmark gateway: requests are prepared in advance, replies are only counted.

The rate is a lower bound of the server's capacity; a client that builds requests and parses replies is much slower.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import cast

import orjson
import uvloop

from benchmarks.dialogues import MODEL, user_text
from benchmarks.server import ANSWER


class _Tally:
    """State shared by all connections."""

    def __init__(self, requests: int) -> None:
        self.to_send = requests
        self.asked_for = requests
        self.answered = 0
        self.done = asyncio.Event()


class _Asker(asyncio.Protocol):
    def __init__(self, request: bytes, tally: _Tally) -> None:
        self._request = request
        self._tally = tally
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received < len(ANSWER):
            return
        self._received -= len(ANSWER)
        self._tally.answered += 1
        if self._tally.answered == self._tally.asked_for:
            self._tally.done.set()
        self._send()

    def _send(self) -> None:
        if self._tally.to_send:
            self._tally.to_send -= 1
            self._transport.write(self._request)


async def _ask(port: int, connections: int, requests: int) -> tuple[float, int]:
    loop = asyncio.get_running_loop()
    body = orjson.dumps({"contents": [{"role": "user", "parts": [{"text": user_text(0, 1)}]}]})
    request = (
        b"POST /v1beta/models/%b:generateContent HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (MODEL.encode(), port, len(body), body)
    )
    tally = _Tally(requests)
    begun = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: _Asker(request, tally), "127.0.0.1", port)
    await tally.done.wait()
    return tally.answered / (time.perf_counter() - begun), tally.answered


def main() -> None:
    parser = argparse.ArgumentParser(description="requests a second the server of the benchmarks can answer")
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--requests", type=int, default=50_000)
    args = parser.parse_args()
    print(*uvloop.run(_ask(args.port, args.connections, args.requests)))


if __name__ == "__main__":
    main()
