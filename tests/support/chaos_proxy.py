"""A TCP proxy that does to connections what networks, proxies and tired gateways do; drawn from a seed.

It knows nothing of HTTP: it passes bytes on late, in dribbles, twice, in part or not at all, ends connections by FIN or
RST, or closes one direction only. What the client sends is never doubled: a proxy that asks twice makes the gateway
bill twice, and no client can know.
"""

from __future__ import annotations

import asyncio
import queue
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

_RESET = struct.pack("ii", 1, 0)
_MOST_READ = 64 * 1024
_KINDS = ("delay", "dribble", "cut", "reset", "half", "duplicate", "refuse")


class _Way(NamedTuple):
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class ChaosProxy:
    """Stands before a port; `calm` may be set at any time, and then everything passes."""

    def __init__(self, port: int, *, seed: int, trouble: float) -> None:
        """Prepare a proxy.

        Args:
            port: Of the server behind it.
            seed: What happens to the n-th chunk of the n-th connection.
            trouble: Probability that something happens to a chunk.
        """
        self.port = 0
        self.calm = False
        self.struck: Counter[str] = Counter()
        """How often each kind of trouble was made."""
        self._behind = port
        self._chance = random.Random(seed)
        self._trouble = trouble

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        chance = random.Random(self._chance.random())
        if self._strikes(chance, ("refuse",), self._trouble / 4):
            _reset(to_client)
            return
        server, to_server = await asyncio.open_connection("127.0.0.1", self._behind)
        there, back = _Way(client, to_server), _Way(server, to_client)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(there, back, chance, asks=True))
                group.create_task(self._pass_on(back, there, chance, asks=False))
        except* (OSError, EOFError):
            pass  # either end went away, or was sent away
        finally:
            to_server.close()
            to_client.close()

    async def _pass_on(self, way: _Way, other: _Way, chance: random.Random, *, asks: bool) -> None:
        kinds = ("delay", "dribble", "cut", "reset", "half") if asks else _KINDS[:-1]
        while data := await way.reader.read(_MOST_READ):
            match self._strikes(chance, kinds, self._trouble):
                case "delay":
                    await asyncio.sleep(chance.uniform(0, 0.2))
                case "dribble":
                    data = await _dribble(way.writer, data, chance)
                case "cut":
                    way.writer.write(data[: chance.randrange(len(data))])
                    raise EOFError
                case "reset":
                    way.writer.write(data[: chance.randrange(len(data))])
                    _reset(way.writer)
                    _reset(other.writer)
                    raise EOFError
                case "half":
                    way.writer.write(data[: chance.randrange(len(data))])
                    break
                case "duplicate":
                    way.writer.write(data)
                    await way.writer.drain()
                case _:
                    pass
            way.writer.write(data)
            await way.writer.drain()
        way.writer.write_eof()

    def _strikes(self, chance: random.Random, kinds: tuple[str, ...], probability: float) -> str | None:
        if self.calm or chance.random() >= probability:
            return None
        kind = chance.choice(kinds)
        self.struck[kind] += 1
        return kind


async def _dribble(writer: asyncio.StreamWriter, data: bytes, chance: random.Random) -> bytes:
    """Send some bytes one by one, slowly; what is left."""
    slow = min(len(data), chance.randrange(1, 40))
    for at in range(slow):
        writer.write(data[at : at + 1])
        await writer.drain()
        await asyncio.sleep(0.002)
    return data[slow:]


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@contextmanager
def chaos(port: int, *, seed: int, trouble: float) -> Generator[ChaosProxy]:
    """A proxy before this port, in a thread of its own."""
    proxy = ChaosProxy(port, seed=seed, trouble=trouble)
    started: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = queue.SimpleQueue()

    connections: set[asyncio.Task[None]] = set()  # asyncio itself forgets them while they wait

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    async def run() -> None:
        stop = asyncio.Event()
        server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=4096)
        proxy.port = server.sockets[0].getsockname()[1]
        started.put((asyncio.get_running_loop(), stop))
        await stop.wait()
        server.close()
        for task in connections:
            task.cancel()

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="chaos", daemon=True)
    thread.start()
    loop, stop = started.get()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
