"""The baseline: the minimal Python program with aiohttp, orjson and uvloop for the same dialogues.

No limits, no retries, no checks of replies: post, read, append the model's turn, write one JSONL line. With `--sync` a
reply is durable before the next turn of its dialogue is sent: all waiting lines are written at once and synced once, in
a thread. Prints one JSON object: the time before the first request, and the time when the last reply was written to the
file (with `--sync`: when it was durable).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import orjson
import uvloop
from yarl import URL

from benchmarks.dialogues import KEY, MODEL, user_text

HEADERS = {"Content-Type": "application/json", "x-goog-api-key": KEY}


class Sink(Protocol):
    """Destination of lines."""

    async def put(self, line: bytes) -> None:
        """Write a line; return when the dialogue may continue."""
        ...

    async def close(self) -> None:
        """Release all resources."""
        ...


class Buffered:
    """An ordinary buffered file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    async def put(self, line: bytes) -> None:
        self._file.write(line)

    async def close(self) -> None:
        self._file.close()


class Synced:
    """File with group commit: all waiting lines share one write and one fdatasync, for which their dialogues wait."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._pool = ThreadPoolExecutor(1)
        self._lines: list[bytes] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._syncing: asyncio.Task[None] | None = None

    async def put(self, line: bytes) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._lines.append(line)
        self._waiters.append(waiter)
        if self._syncing is None:
            self._syncing = loop.create_task(self._sync())
        await waiter

    async def close(self) -> None:
        self._pool.shutdown()
        os.close(self._fd)

    async def _sync(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiters:
            block, self._lines = b"".join(self._lines), []
            group, self._waiters = self._waiters, []
            os.write(self._fd, block)
            await loop.run_in_executor(self._pool, os.fdatasync, self._fd)
            for waiter in group:
                waiter.set_result(None)
        self._syncing = None


async def _read(response: aiohttp.ClientResponse) -> Any:
    return orjson.loads(await response.read())


async def _read_stream(response: aiohttp.ClientResponse) -> Any:
    """Read a stream line by line; return its last event with the text of all."""
    texts: list[str] = []
    event: Any = None
    async for line in response.content:
        if line.startswith(b"data: "):
            event = orjson.loads(line[6:])
            texts.append(event["candidates"][0]["content"]["parts"][0]["text"])
    event["candidates"][0]["content"]["parts"] = [{"text": "".join(texts)}]
    return event


async def _converse(session: aiohttp.ClientSession, url: URL, sink: Sink, dialogue: int, turns: int, size: int) -> None:
    contents: list[Any] = []
    read = _read_stream if url.path.endswith(":streamGenerateContent") else _read
    for turn in range(1, turns + 1):
        contents.append({"role": "user", "parts": [{"text": user_text(dialogue, turn, size)}]})
        async with session.post(url, data=orjson.dumps({"contents": contents}), headers=HEADERS) as response:
            reply = await read(response)
        candidate = reply["candidates"][0]
        contents.append(candidate["content"])
        line = {
            "dialogue": dialogue,
            "turn": turn,
            "reply": candidate["content"]["parts"][0]["text"],
            "finish_reason": candidate["finishReason"],
            "usage": reply["usageMetadata"],
        }
        await sink.put(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


async def _work(
    session: aiohttp.ClientSession, url: URL, sink: Sink, dialogues: Iterator[int], turns: int, size: int
) -> None:
    for dialogue in dialogues:
        await _converse(session, url, sink, dialogue, turns, size)


async def _play(args: argparse.Namespace) -> dict[str, float]:
    method = "streamGenerateContent?alt=sse" if args.stream else "generateContent"
    url = URL(f"{args.url}/v1beta/models/{MODEL}:{method}", encoded=True)
    sink = Synced(args.out) if args.sync else Buffered(args.out)
    dialogues = iter(range(args.dialogues))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        began = time.time()
        async with asyncio.TaskGroup() as group:
            for _ in range(args.concurrency):
                group.create_task(_work(session, url, sink, dialogues, args.turns, args.message_bytes))
        ended = time.time()
    await sink.close()
    return {"began": began, "ended": ended}


def main() -> None:
    parser = argparse.ArgumentParser(description="a bare aiohttp loop")
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dialogues", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--message-bytes", type=int, default=0, help="length of a user's message [short]")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--sync", action="store_true", help="make each reply durable before the dialogue continues")
    parser.add_argument("--stream", action="store_true", help="ask for streamed replies")
    sys.stdout.buffer.write(orjson.dumps(uvloop.run(_play(parser.parse_args()))))


if __name__ == "__main__":
    main()
