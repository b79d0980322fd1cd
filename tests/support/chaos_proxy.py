"""A TCP proxy that disturbs connections as networks, proxies and overloaded gateways do; drawn from a seed.

It does not parse HTTP: it delays bytes, sends them one by one, twice, in part or not at all, ends connections by FIN or
RST, or closes one direction only. Client bytes are never duplicated: a proxy that repeats a request makes the gateway
bill twice, and no client can detect it.
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
_MAX_READ = 64 * 1024
_KINDS = ("delay", "dribble", "cut", "reset", "half", "duplicate", "refuse")


class _Pipe(NamedTuple):
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class ChaosProxy:
    """Proxy in front of a port; set `calm` at any time to forward everything unchanged."""

    def __init__(self, port: int, *, seed: int, fault_rate: float) -> None:
        """Prepare a proxy.

        Args:
            port: Port of the server behind it.
            seed: Decides the fault of the n-th chunk of the n-th connection.
            fault_rate: Probability of a fault per chunk.
        """
        self.port = 0
        self.calm = False
        self.fault_counts: Counter[str] = Counter()
        """Number of faults of each kind."""
        self._behind = port
        self._chance = random.Random(seed)
        self._fault_rate = fault_rate

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Forward one connection until it ends."""
        chance = random.Random(self._chance.random())
        if self._draw_fault(chance, ("refuse",), self._fault_rate / 4):
            _reset(to_client)
            return
        server, to_server = await asyncio.open_connection("127.0.0.1", self._behind)
        there, back = _Pipe(client, to_server), _Pipe(server, to_client)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(there, back, chance, to_server_side=True))
                group.create_task(self._pass_on(back, there, chance, to_server_side=False))
        except* (OSError, EOFError):
            pass  # either end closed the connection, or the proxy did
        finally:
            to_server.close()
            to_client.close()

    async def _pass_on(self, pipe: _Pipe, other: _Pipe, chance: random.Random, *, to_server_side: bool) -> None:
        kinds = ("delay", "dribble", "cut", "reset", "half") if to_server_side else _KINDS[:-1]
        while data := await pipe.reader.read(_MAX_READ):
            match self._draw_fault(chance, kinds, self._fault_rate):
                case "delay":
                    await asyncio.sleep(chance.uniform(0, 0.2))
                case "dribble":
                    data = await _dribble(pipe.writer, data, chance)
                case "cut":
                    pipe.writer.write(data[: chance.randrange(len(data))])
                    raise EOFError
                case "reset":
                    pipe.writer.write(data[: chance.randrange(len(data))])
                    _reset(pipe.writer)
                    _reset(other.writer)
                    raise EOFError
                case "half":
                    pipe.writer.write(data[: chance.randrange(len(data))])
                    break
                case "duplicate":
                    pipe.writer.write(data)
                    await pipe.writer.drain()
                case _:
                    pass
            pipe.writer.write(data)
            await pipe.writer.drain()
        pipe.writer.write_eof()

    def _draw_fault(self, chance: random.Random, kinds: tuple[str, ...], probability: float) -> str | None:
        if self.calm or chance.random() >= probability:
            return None
        kind = chance.choice(kinds)
        self.fault_counts[kind] += 1
        return kind


async def _dribble(writer: asyncio.StreamWriter, data: bytes, chance: random.Random) -> bytes:
    """Send some bytes one by one, slowly, and return the rest."""
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
def chaos(port: int, *, seed: int, fault_rate: float) -> Generator[ChaosProxy]:
    """Run a proxy in front of this port, in its own thread."""
    proxy = ChaosProxy(port, seed=seed, fault_rate=fault_rate)
    started: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = queue.SimpleQueue()

    connections: set[asyncio.Task[None]] = set()  # asyncio keeps only weak references to tasks

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
