"""The transport to gateways over HTTP: timeouts, proxies, certificates and size limits.

A plain request goes over a connection directly (`exchange.py`), any other by a `ClientSession`: through a proxy, with a
large body, or with a release of aiohttp that the tests have not tried. What a caller gets is the same.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import io
import ssl
from typing import Any

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from convbatch.engine.connector import NotingConnector, connected, only_new, trusting
from convbatch.engine.exchange import KEEP_ALIVE_S, Exchange, Exchanges, is_tried
from convbatch.engine.http_values import (
    CONNECT_TIMEOUT_S,
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    HttpResponse,
    Intent,
    NotSentCancelled,
    OutgoingRequest,
    ResponseHead,
    SentCancelled,
)
from convbatch.engine.no_response import (
    Silent,
    Unreadable,
    WhereTo,
    abandoned,
    no_response,
    refused_response,
    unpacked_body,
)
from convbatch.engine.raw_response import RawResponse
from convbatch.engine.streaming import StreamWatch
from convbatch.journal.media_store import SharedBody

_LARGE_BODY = 512 * 1024
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError, Unreadable, Silent, ValueError)


# Releases of aiohttp without this parameter have no limit.
_LIMIT_OF_HEADERS: dict[str, Any] = (
    {"max_headers": MAX_HEADERS} if "max_headers" in inspect.signature(aiohttp.ClientSession).parameters else {}
)


class AiohttpTransport:
    """A transport with its own connection pool, so that a slow gateway never holds another one's connections."""

    def __init__(self, *, ca_file: str | None = None, proxy: str | None = None, by_session: bool = False) -> None:
        """Open a transport.

        Args:
            ca_file: PEM file of the certificate authorities to trust; None: those of the system.
            proxy: URL of the proxy.
            by_session: Send every request by a `ClientSession`, not only where that is necessary.
        """
        context: ssl.SSLContext | bool = True
        if ca_file is not None:
            context = trusting(ca_file)
        self._proxy = proxy
        self._proxy_url, self._login = (None, None) if proxy is None else _with_login(proxy)
        # limit=0: only the rate limiter decides how many requests are in flight. Redirects, cookies, netrc and
        # automatic decompression stay off: each of them has leaked keys or memory in other clients.
        connector = NotingConnector(limit=0, ssl=context, keepalive_timeout=KEEP_ALIVE_S)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            **_LIMIT_OF_HEADERS,
        )
        by_session = by_session or proxy is not None or not is_tried(aiohttp.__version__)
        self._exchanges = None if by_session else Exchanges(connector)
        self._urls: dict[str, URL] = {}
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}

    async def send(self, outgoing: OutgoingRequest) -> HttpResponse:
        """Send one request; raises `NoResponse`, which tells whether it may have been sent."""
        return await self.send_with(outgoing, None)

    async def send_with(self, outgoing: OutgoingRequest, intent: Intent | None) -> HttpResponse:
        """Send one request after its intent is written; raises `NoResponse`, and `JournalError` if that failed."""
        route = None if self._exchanges is None else self._exchanges.route(outgoing)
        if self._exchanges is None or route is None:
            if intent is not None:
                intent.write()
            return await self._send_by_session(outgoing)
        exchange = Exchange()
        partial = bytearray()
        try:
            await self._exchanges.begin(exchange, route, outgoing, intent)
            assert exchange.head is not None
            assert exchange.content is not None
            await _read(exchange.content, partial, outgoing)
            self._exchanges.end(exchange, route)
            return _response(exchange.head, partial, outgoing.max_body_bytes)
        except asyncio.CancelledError as cancelled:
            exchange.close()
            if not exchange.is_written:
                raise NotSentCancelled from cancelled
            raise SentCancelled(abandoned(exchange.head, bytes(partial))) from cancelled
        except _FAILURES as error:
            exchange.close()
            answered: ResponseHead | RawResponse | None = exchange.head
            if answered is None and isinstance(error, aiohttp.ClientResponseError):
                answered = refused_response(error, exchange.protocol)
                partial += b"" if answered is None else answered.body
            where = WhereTo(outgoing.url, self._proxy, outgoing.timeout_s)
            raise no_response(error, where, exchange.connection is not None, answered, bytes(partial)) from error
        except BaseException:
            exchange.close()
            raise

    async def _send_by_session(self, outgoing: OutgoingRequest) -> HttpResponse:
        connections: list[Any] = []
        connected.set(connections)
        only_new.set(outgoing.on_new_connection)
        seen: list[ResponseHead] = []
        partial = bytearray()
        try:
            async with self._session.request(
                outgoing.method,
                self._url(outgoing.url),
                data=_payload(outgoing.body),
                headers=outgoing.headers,
                allow_redirects=False,
                timeout=self._timeout(outgoing.timeout_s),
                proxy=self._proxy_url,
                proxy_headers=None if self._login is None else {hdrs.AUTHORIZATION: self._login},
            ) as response:
                seen.append(ResponseHead(response.status, response.headers))
                await _read(response.content, partial, outgoing)
                return _response(seen[0], partial, outgoing.max_body_bytes)
        except asyncio.CancelledError as cancelled:
            if not connections:
                raise NotSentCancelled from cancelled
            raise SentCancelled(abandoned(seen[0] if seen else None, bytes(partial))) from cancelled
        except _FAILURES as error:
            answered: ResponseHead | RawResponse | None = seen[0] if seen else None
            if answered is None and isinstance(error, aiohttp.ClientResponseError) and connections:
                answered = refused_response(error, connections[-1])
                partial += b"" if answered is None else answered.body
            where = WhereTo(outgoing.url, self._proxy, outgoing.timeout_s)
            raise no_response(error, where, bool(connections), answered, bytes(partial)) from error

    async def close(self) -> None:
        """Close every connection."""
        if self._exchanges is not None:
            self._exchanges.close()
        await self._session.close()

    def _url(self, text: str) -> URL:
        url = self._urls.get(text)
        if url is None:
            if len(self._urls) > 1000:
                self._urls.clear()
            url = self._urls[text] = URL(text, encoded=True)
        return url

    def _timeout(self, total_s: float) -> aiohttp.ClientTimeout:
        timeout = self._timeouts.get(total_s)
        if timeout is None:
            timeout = aiohttp.ClientTimeout(total=total_s, connect=CONNECT_TIMEOUT_S)
            self._timeouts[total_s] = timeout
        return timeout


def _with_login(proxy: str) -> tuple[URL, str | None]:
    """Return the URL of a proxy, and the login that aiohttp would not take from it: it encodes in Latin-1 only.

    aiohttp passes an `Authorization` for a proxy on as `Proxy-Authorization`.
    """
    url = URL(proxy)
    login = f"{url.user or ''}:{url.password or ''}"
    if login.isascii():
        return url, None
    return url.with_user(None), "Basic " + base64.b64encode(login.encode()).decode()


def _response(head: ResponseHead, partial: bytearray, max_bytes: int) -> HttpResponse:
    """Return a response whose body was received to its end; raises `Unreadable`."""
    unpacked = unpacked_body(bytes(partial), head.headers, max_bytes)
    if unpacked.is_cut:
        partial[:] = unpacked.body
        raise Unreadable("the compressed response body ends too early")
    return HttpResponse(head.status, head.headers, unpacked.body, unpacked.notes)


def _payload(body: bytes | SharedBody | None) -> Any:
    if isinstance(body, SharedBody):
        return _SharedPayload(body)
    if body is not None and len(body) > _LARGE_BODY:
        return io.BytesIO(body)  # aiohttp warns about large `bytes`, which it writes at once
    return body


class _SharedPayload(aiohttp.Payload):
    """Writes a body piece by piece, without joining the pieces first."""

    _autoclose = True

    def __init__(self, body: SharedBody) -> None:
        super().__init__(body)
        self._size = len(body)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        for piece in self._value.pieces:
            view = memoryview(piece)
            for at in range(0, len(view), _LARGE_BODY):
                await writer.write(view[at : at + _LARGE_BODY])


async def _read(content: aiohttp.StreamReader, into: bytearray, outgoing: OutgoingRequest) -> None:
    watch, most = outgoing.watch, outgoing.max_body_bytes
    try:
        if watch is None and content.is_eof():  # nearly always: it came with the head
            _append(content.read_nowait(-1), into, most)
        elif watch is None:
            while chunk := await content.readany():
                _append(chunk, into, most)
        else:
            await _read_stream(content, into, watch)
    except (aiohttp.ClientError, OSError):
        # What arrived before the connection broke can no longer be read: aiohttp raises first.
        # There is no public way, and without the attribute only these bytes are lost.
        for chunk in tuple(getattr(content, "_buffer", ())):
            into += chunk
        raise


async def _read_stream(content: aiohttp.StreamReader, into: bytearray, watch: StreamWatch) -> None:
    """Read to the end of the body, not of the stream in it: usage may follow `[DONE]`."""
    loop = asyncio.get_running_loop()
    renewed = 0.0
    silence = asyncio.timeout(watch.silence_s)
    try:
        async with silence:
            while chunk := await content.readany():
                _append(chunk, into, MAX_BODY_BYTES)
                watch.received(chunk)
                if (now := loop.time()) > renewed or watch.is_over:
                    renewed = now + min(1.0, watch.silence_s / 8)  # not for each of a thousand chunks
                    silence.reschedule(now + watch.silence_s)
    except TimeoutError:
        if not silence.expired():
            raise  # the timeout of the attempt
        raise Silent(watch.silence_s, len(into), is_over=watch.is_over) from None


def _append(chunk: bytes, into: bytearray, most: int) -> None:
    into += chunk
    if len(into) > most:
        raise Unreadable(f"the response body is larger than {most // 2**20} MiB")
