"""The process that serves the page of `run --watch`, so that nothing the page needs can slow or end the run.

It reads lines of JSON from its standard input: first the folder and the token, then what the run tells of itself. The
end of the input without a line that says so means that the run's process died.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import orjson

from convbatch.journal.run_folder import RunFolder
from convbatch.watching.server import WatchServer
from convbatch.watching.watched_run import WatchedRun

DELIVERY_S = 4.0
"""Time for a browser that is watching to get the report once it is ready."""
AFTER_DEATH_S = 5.0
"""Time for it to see that the run's process died."""


def main() -> None:
    """Serve until the run ends; the listening socket is the descriptor named in the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(10)  # where cores are few, they are the run's
    hello = orjson.loads(sys.stdin.buffer.readline())
    listening = socket.socket(fileno=int(sys.argv[1]))
    run = WatchedRun(RunFolder.open(Path(hello["folder"])), is_held=True)
    asyncio.run(_serve(WatchServer(run, listening, hello["token"])))


async def _serve(server: WatchServer) -> None:
    over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    reader = threading.Thread(target=_read, args=(server, asyncio.get_running_loop(), over), daemon=True)
    reader.start()
    async with server.serving():
        has_ended = await server.until(over)
        server.run.settle(is_over=has_ended)
        if not server.is_watched:
            return
        if has_ended:
            with contextlib.suppress(TimeoutError):
                await server.until(server.ended.wait())
                await server.until(asyncio.wait_for(server.delivered.wait(), DELIVERY_S))
        else:
            await asyncio.sleep(AFTER_DEATH_S)


def _read(server: WatchServer, loop: asyncio.AbstractEventLoop, over: asyncio.Future[bool]) -> None:
    has_ended = False
    for line in sys.stdin.buffer:
        message: dict[str, Any] = orjson.loads(line)
        if "end" in message:
            has_ended = True
        elif "target" in message:
            server.run.live[message.pop("target")] = message
        else:
            server.run.live_totals = message
    loop.call_soon_threadsafe(over.set_result, has_ended)
