"""The simulator over HTTP: aiohttp reads requests and writes valid responses, faulty ones go to the raw socket.

`provider.py` decides the answers; this module sends them (with resets, hangs, cut bodies, endless headers, a refusing
port) and records in the ledger how each ended. aiohttp is imported when a server starts.

Besides the wires: GET /__health__, GET /__ledger__, POST /__faults__ (a JSON array of rules that replaces the script).
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import itertools
import queue
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import orjson

from convbatch.simulator.batches.jobs import JobTimes
from convbatch.simulator.cheats import check_models
from convbatch.simulator.fault_script import FaultError, FaultScript
from convbatch.simulator.gateways import GatewayName
from convbatch.simulator.http import Answer, Piece, Request
from convbatch.simulator.ledger import Ledger
from convbatch.simulator.limits import LimitModel, ServerLimits
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script, UnknownModel

if TYPE_CHECKING:
    from aiohttp import web

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 s: closing sends a reset instead of an orderly shutdown."""
_BEFORE_RESET_S = 0.02
"""Time for the client to read what was sent: on some systems a reset discards it."""
_BACKLOG = 4096
_MOST_BUFFERED = 2**20


class Server:
    """A provider on a local port: `async with Server(provider) as server: server.url`."""

    def __init__(self, provider: Provider, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Prepare a server; port 0 selects a free port."""
        self.provider = provider
        self.host = host
        self.port = port
        self._web: web.Server | None = None
        self._listener: asyncio.AbstractServer | None = None
        self._reopening: asyncio.Task[None] | None = None
        # Unix time that never goes back: comparable with a client's records, and safe for the limits.
        self._epoch = time.time() - time.monotonic()

    @property
    def url(self) -> str:
        """Base URL without a trailing slash."""
        return f"http://{self.host}:{self.port}"

    def now(self) -> float:
        """Return the time for the ledger and the limits."""
        return self._epoch + time.monotonic()

    async def __aenter__(self) -> Self:
        from aiohttp import web

        self._web = web.Server(self._handle, handler_cancellation=True, access_log=None)
        await self._listen()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.gather(self._reopening, return_exceptions=True)
        self._stop_listening()
        if self._web is not None:
            await self._web.shutdown(0.1)
        self.provider.advance(self.now())

    async def _listen(self) -> None:
        listening = socket.create_server((self.host, self.port), backlog=_BACKLOG)
        self.port = listening.getsockname()[1]
        if self._web is not None:
            self._listener = await asyncio.get_running_loop().create_server(self._web, sock=listening, backlog=_BACKLOG)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _refuse_for(self, seconds: float) -> None:
        """Close the port and each connection once it is idle; reopen the port later."""
        if self._reopening is not None or self._web is None:
            return
        self._stop_listening()
        for connection in self._web.connections:
            connection.close()
        self._reopening = asyncio.get_running_loop().create_task(self._reopen_after(seconds))

    async def _reopen_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._listen()
        self._reopening = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        from aiohttp import web

        if request.path.startswith("/__"):
            return await self._administer(request)
        head = Request(
            method=request.method,
            path=request.path,
            query=request.query,
            headers=request.headers,  # case-insensitive
        )
        arrival = self.provider.arrive(head, self.now())
        answer = arrival.answer
        if answer is None:
            try:
                body = await request.content.read()
            except (OSError, asyncio.CancelledError, web.RequestPayloadError):
                self.provider.abandon(arrival, self.now())
                raise
            answer = self.provider.answer(arrival, body, self.now())
        try:
            return await self._play(request, answer)
        except asyncio.CancelledError:  # aiohttp cancels the handler when the client disconnects
            answer.lost(self.now())
            raise

    async def _play(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        from aiohttp import web

        if answer.wait_s > 0:
            await asyncio.sleep(answer.wait_s)
        if answer.refuse_s > 0:
            self._refuse_for(answer.refuse_s)
        try:
            if answer.status is None:
                response = web.Response()
            elif answer.framing in {"raw", "close"}:
                response = await _write_raw(request, answer, answer.status)
            else:
                response = await _write(request, answer, answer.status)
            transport = request.transport
            gone = transport is None or transport.is_closing()
        except ConnectionError:
            response, gone = web.Response(), True
        if gone:
            answer.lost(self.now())
            return response
        await self._finish(request, answer)
        return response

    async def _finish(self, request: web.BaseRequest, answer: Answer) -> None:
        """Apply the ending of an answer after its last piece."""
        transport = request.transport
        if answer.ending == "hang":
            await asyncio.sleep(answer.ending_wait_s)
        answer.delivered(self.now())
        if transport is None or answer.ending == "keep":
            return
        if answer.ending == "close":
            asyncio.get_running_loop().call_later(answer.ending_wait_s, transport.close)
            return
        if answer.ending == "reset":
            if answer.status is not None:
                await asyncio.sleep(_BEFORE_RESET_S)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
            return
        transport.close()

    async def _administer(self, request: web.BaseRequest) -> web.Response:
        from aiohttp import web

        self.provider.advance(self.now())
        match request.method, request.path:
            case "GET", "/__health__":
                return _json(
                    {"ok": True, "in_flight": self.provider.in_flight, "requests": self.provider.ledger.requests}
                )
            case "GET", "/__ledger__":
                return _json({"entries": self.provider.ledger.entries})
            case "POST", "/__faults__":
                try:
                    faults = FaultScript.of(orjson.loads(await request.content.read()), source="POST")
                    check_models(faults, self.provider.actor)
                    self.provider.faults = faults
                except (FaultError, UnknownModel, orjson.JSONDecodeError, TypeError) as error:
                    return _json({"error": str(error)}, status=400)
                return _json({"rules": len(self.provider.faults.rules)})
            case _:
                return web.Response(status=404)


def _json(plain: object, *, status: int = 200) -> web.Response:
    from aiohttp import web

    return web.Response(body=orjson.dumps(plain), status=status, content_type="application/json")


async def _write(request: web.BaseRequest, answer: Answer, status: int) -> web.StreamResponse:
    """Send headers and pieces as HTTP, and the end of the body unless the answer is cut."""
    from aiohttp import web

    pieces = answer.pieces
    if answer.framing == "length" and answer.promised is None:
        response = web.Response(status=status, headers=answer.headers, body=answer.content)
        await response.prepare(request)
        await response.write_eof()
        return response
    stream = web.StreamResponse(status=status, headers=answer.headers)
    if answer.framing == "chunked":
        stream.enable_chunked_encoding()
    else:
        stream.content_length = answer.promised
    await stream.prepare(request)
    for wait_s, piece in pieces:
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        await stream.write(piece)
    if answer.ending in {"keep", "close"}:
        await stream.write_eof()
    return stream


def _plain_head(answer: Answer, status: int) -> bytes:
    """Return the head of a response whose body ends with the connection."""
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in {**answer.headers, "connection": "close"}.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _write_raw(request: web.BaseRequest, answer: Answer, status: int) -> web.StreamResponse:
    """Send pieces past aiohttp, which would correct deliberate faults; no faster than the client reads."""
    from aiohttp import web

    transport = request.transport
    head: list[Piece] = [(0.0, _plain_head(answer, status))] if answer.framing == "close" else []
    for wait_s, piece in itertools.chain(head, answer.pieces):
        await asyncio.sleep(wait_s)
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        while transport.get_write_buffer_size() > _MOST_BUFFERED:  # a transport has no event to wait on
            await asyncio.sleep(0.001)
            if transport.is_closing():
                raise ConnectionResetError
        transport.write(piece)
    return web.Response()


@contextlib.contextmanager
def serve_in_thread(provider: Provider, *, host: str = "127.0.0.1", port: int = 0) -> Generator[Server]:
    """Run a server in another thread with its own event loop, for blocking code.

    Raises:
        OSError: The port is taken.
    """
    server = Server(provider, host=host, port=port)
    started: queue.SimpleQueue[OSError | tuple[asyncio.AbstractEventLoop, asyncio.Event]] = queue.SimpleQueue()

    async def run() -> None:
        stop = asyncio.Event()
        async with server:
            started.put((asyncio.get_running_loop(), stop))
            await stop.wait()

    def run_in_thread() -> None:
        try:
            asyncio.run(run())
        except OSError as error:
            started.put(error)

    thread = threading.Thread(target=run_in_thread, name="simulator", daemon=True)
    thread.start()
    outcome = started.get()
    if isinstance(outcome, OSError):
        thread.join()
        raise outcome
    loop, stop = outcome
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def _alias(text: str) -> tuple[str, str]:
    name, _, player = text.rpartition("=") if "=" in text else (text, "", "sim-good")
    return name, player


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    latency_s: float = 0.0,
    rpm: int | None = None,
    tpm: int | None = None,
    rpd: int | None = None,
    limit_model: LimitModel = "sliding",
    window_s: float = 60.0,
    faults: Path | None = None,
    script: Sequence[Path] = (),
    models: Sequence[str] = (),
    ledger: Path | None = None,
    seed: int = 0,
    gateway: GatewayName | None = None,
    served_tier: str | None = None,
    batch_s: float | None = None,
) -> None:
    """Run a simulator until SIGINT or SIGTERM; print `simulator listening on URL` on stdout when it is ready.

    `models` are further names: `NAME`, which answers as sim-good, or `NAME=sim-drift`. The others are those of
    `Provider`.

    Raises:
        ScriptError: A dataset cannot be read.
        FaultError: The fault script is invalid.
        ValueError: A limit below 1.
        UnknownModel: A name for a simulated model that does not exist.
        OSError: The port is taken, or a file cannot be opened.
    """
    limited = rpm is not None or tpm is not None or rpd is not None
    provider = Provider(
        seed=seed,
        script=Script.load(*script),
        limits=ServerLimits(rpm=rpm, tpm=tpm, rpd=rpd, model=limit_model, window_s=window_s) if limited else None,
        faults=FaultScript.load(faults) if faults is not None else None,
        latency_s=latency_s,
        gateway=gateway,
        served_tier=served_tier,
        job_times=None if batch_s is None else JobTimes(run_s=batch_s),
        aliases=dict(_alias(model) for model in models),
        ledger=Ledger(ledger, history=ledger is not None),
    )
    try:
        import uvloop

        uvloop.run(_serve_until_signal(Server(provider, host=host, port=port)))
    finally:
        provider.ledger.close()


async def _serve_until_signal(server: Server) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server:
        sys.stdout.write(f"simulator listening on {server.url}\n")
        sys.stdout.flush()
        await stop.wait()
