"""Serve one run on loopback: its page, its state as JSON, and its report; GET only, read only, behind a token.

Who is answered is `access.py`, what is shown `watched_run.py`. A thread looks at the run; requests never wait for it,
except those for a report.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import orjson
from aiohttp import web

from convbatch.console.text import printable
from convbatch.errors import ConvbatchError, SetupError
from convbatch.watching.access import HOST, refusal
from convbatch.watching.page import policy, watch_page
from convbatch.watching.watched_run import WatchedRun

T = TypeVar("T")

LOOK_EVERY_S = 0.5
_SEEN_S = 10.0
"""A browser that asked within this time is still there."""
_REPORT_REST = 20
"""A report of a run that goes on is made again after this multiple of the time that it took."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Server": "convbatch",
}


def listen(port: int) -> socket.socket:
    """Return a socket that listens on loopback.

    Args:
        port: 0 = any free one.

    Raises:
        SetupError: The port is taken, or may not be used.
    """
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise SetupError(
            f"cannot listen on port {port}: {why}", hint="leave out --port: any free one is taken"
        ) from None


def address(listening: socket.socket, token: str) -> str:
    """Return the address of the page."""
    return f"http://{HOST}:{listening.getsockname()[1]}/{token}/"


class WatchServer:
    """The server of one run: `async with WatchServer(run, socket, token).serving(): …`."""

    def __init__(self, run: WatchedRun, listening: socket.socket, token: str) -> None:
        self.run = run
        self._socket = listening
        self._port = listening.getsockname()[1]
        self._token = token
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watch")  # a run is looked at by one thread
        self._state = run.to_state()
        self._report: bytes | None = None
        self._report_due = 0.0
        self._report_lock = asyncio.Lock()
        self._is_final = False
        """Whether the report is of a run that has ended."""
        self._asked_at = float("-inf")
        self.running = asyncio.Event()
        """The run goes on."""
        self.ended = asyncio.Event()
        """The run has ended, and its report is ready or cannot be made."""
        self._looking: asyncio.Task[None] | None = None
        self.delivered = asyncio.Event()
        """The report of the ended run was sent."""

    @property
    def is_watched(self) -> bool:
        """Whether a browser asked a short time ago."""
        return time.monotonic() - self._asked_at < _SEEN_S

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Serve, and look at the run, until the block is left."""
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), handle_signals=False)
        await runner.setup()
        await web.SockSite(runner, self._socket).start()
        self._looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            await runner.cleanup()
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def until(self, event: Awaitable[T]) -> T:
        """Wait for an event; raises what ended the look at the run before, which is a bug."""
        assert self._looking is not None
        waiting = asyncio.ensure_future(event)
        await asyncio.wait({waiting, self._looking}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            self._looking.result()
        return await waiting

    async def _look(self) -> None:
        while True:
            await self._in_thread(self.run.refresh)
            self._state = await self._in_thread(self.run.to_state)
            if self._state["state"] == "running":
                self._is_final = False
                self.ended.clear()
                self.running.set()
                if self.is_watched and self.run.is_current:
                    await self._in_thread(self.run.update_passes)
            elif self.run.is_current and not self.ended.is_set():
                await self._finish()
            await asyncio.sleep(LOOK_EVERY_S if self.run.is_current else 0)

    async def _finish(self) -> None:
        """Make the report of a run that has ended; nobody has to wait for it then."""
        self.running.clear()
        await self._in_thread(partial(self.run.update_passes, is_final=True))
        with contextlib.suppress(ConvbatchError, OSError):
            await self._make_report(is_final=True)
        self.ended.set()

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path
        refused = refusal(request.method, path, request.headers, token=self._token, port=self._port)
        if refused is not None:
            return self._text(refused.status, refused.reason)
        self._asked_at = time.monotonic()
        match path.split("/")[2:]:
            case []:
                return web.Response(status=308, headers={**_HEADERS, "Location": f"/{self._token}/"})
            case [""]:
                return self._html(watch_page(), policy())
            case ["state"]:
                # A killed run stays here: its page says how to go on, which its report does not.
                has_report = self._is_final and self._state["state"] != "killed"
                state = orjson.dumps({**self._state, "has_report": has_report})
                return web.Response(body=state, content_type="application/json", headers=_HEADERS)
            case ["report"]:
                return await self._answer_report(request)
            case _:
                return self._text(404, "no such page")

    async def _answer_report(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            is_final = self._is_final
            report = self._report if is_final else await self._make_report(is_final=False)
        except (ConvbatchError, OSError) as error:
            return self._text(503, f"there is no report yet: {printable(str(error))}")
        assert report is not None
        # Its own policy is in the page, and is stricter; a frame can be forbidden in a header only.
        response = self._html(report, "frame-ancestors 'none'")
        await response.prepare(request)
        await response.write_eof()
        if is_final:
            self.delivered.set()
        return response

    async def _make_report(self, *, is_final: bool) -> bytes:
        """Return the report, made again if it is due."""
        async with self._report_lock:
            began = time.monotonic()
            if self._report is None or is_final or began >= self._report_due:
                self._report = await self._in_thread(self.run.report)
                ended = time.monotonic()
                self._report_due = ended + _REPORT_REST * (ended - began)
                self._is_final = is_final
            return self._report

    def _html(self, page: bytes, content_policy: str) -> web.Response:
        headers = {**_HEADERS, "Content-Security-Policy": content_policy}
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=headers)

    def _text(self, status: int, text: str) -> web.Response:
        headers = {**_HEADERS, "Content-Security-Policy": "default-src 'none'"}
        if status == 405:
            headers["Allow"] = "GET"
        return web.Response(status=status, text=text + "\n", headers=headers)
