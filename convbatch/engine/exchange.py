"""Send a request on a connection of aiohttp without its `ClientSession`, which costs more than the exchange itself.

The connector opens connections as for a session: addresses, TLS, timeouts. The head of a request is built once for a
URL, its headers and its key, by aiohttp as well; head and body are written at once, and aiohttp's parser reads the
response. Only what a session would do around them is left out. These methods are not documented, so they are used only
with releases of aiohttp that the tests have tried (`is_tried`), and only for plain requests (`Exchanges.route`):
`transport.py` sends everything else by a session.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections import deque
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from convbatch.engine.connector import NotingConnector, only_new
from convbatch.engine.http_values import (
    CONNECT_TIMEOUT_S,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    Intent,
    OutgoingRequest,
    ResponseHead,
)

KEEP_ALIVE_S = 30.0
"""How long a connection may be idle before it is used again."""
_TRIED = ((3, 12), (3, 14))
"""First and last minor release of aiohttp with which the tests have run."""
_LARGEST = 512 * 1024
"""Bytes of a body that is written at once."""
_MAX_ROUTES = 1000
_ANY_BODY = b"-"
_SPARE = 128
"""Ended exchanges that are kept at most, beside as many as wait."""
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_NOT_PLAIN = (
    hdrs.CONTENT_LENGTH,
    hdrs.TRANSFER_ENCODING,
    hdrs.CONTENT_ENCODING,
    hdrs.EXPECT,
    hdrs.CONNECTION,
    hdrs.HOST,
)
"""Headers that change how a request is sent."""
_RESPONSE: dict[str, Any] = {
    "read_until_eof": True,
    "auto_decompress": False,
    "max_line_size": MAX_HEADER_BYTES,
    "max_field_size": MAX_HEADER_BYTES,
    "max_headers": MAX_HEADERS,
}
if "max_headers" not in inspect.signature(ResponseHandler.set_response_params).parameters:
    del _RESPONSE["max_headers"]  # releases without it have no limit


def is_tried(version: str) -> bool:
    """Return whether the tests have run with this release of aiohttp."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and _TRIED[0] <= (int(numbers[1]), int(numbers[2])) <= _TRIED[1]


class Route:
    """Where requests of one URL, with the same headers, go, and their head."""

    __slots__ = ("head", "headers", "idle", "request", "tail")

    def __init__(
        self, request: aiohttp.ClientRequest, headers: Mapping[str, str], head: tuple[bytes, bytes], idle: _Idle
    ) -> None:
        self.request = request
        self.headers = headers
        """The object they were given in, so that its `id` belongs to no other one."""
        self.head, self.tail = head
        """Before and after the length of the body."""
        self.idle = idle


_Idle = deque[tuple[Any, float]]
"""Connections that may be used again, and since when, the longest idle first."""


class Exchange:
    """One request on one connection, and what is known of its response so far."""

    __slots__ = ("connection", "content", "deadline", "head", "is_ended", "is_written", "protocol")

    def __init__(self) -> None:
        self.connection: Any = None
        """None until there is one."""
        self.protocol: Any = None
        self.head: ResponseHead | None = None
        self.content: aiohttp.StreamReader | None = None
        self.deadline = 0.0
        """Loop time at which waiting for the response ends."""
        self.is_ended = False
        """Whether the response was read to its end, or will not be read."""
        self.is_written = False
        """Whether bytes of the request may have been sent."""

    def close(self) -> None:
        """Close the connection, unless the response was read to its end."""
        if self.is_ended:
            return
        self.is_ended = True
        if self.connection is not None:
            self.connection.close()


class _Deadlines:
    """Ends exchanges with one timeout when their time is up, by one timer: nearly all of them end long before it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._exchanges: deque[Exchange] = deque()
        """Those that wait and some that have ended, about in the order of their deadlines."""
        self._most = _SPARE
        self._timer: asyncio.TimerHandle | None = None

    def add(self, exchange: Exchange) -> None:
        """Watch an exchange until it ends."""
        exchanges = self._exchanges
        while exchanges and exchanges[0].is_ended:
            exchanges.popleft()
        if exchanges and exchange.deadline < exchanges[-1].deadline:  # its connection took longer than that of others
            self._loop.call_at(exchange.deadline, _expire, exchange)
            return
        if len(exchanges) >= self._most:  # many have ended behind one that waits for long
            exchanges = self._exchanges = deque(one for one in exchanges if not one.is_ended)
            self._most = 2 * len(exchanges) + _SPARE
        exchanges.append(exchange)
        if self._timer is None:
            self._timer = self._loop.call_at(exchange.deadline, self._look)

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._exchanges.clear()

    def _look(self) -> None:
        self._timer = None
        exchanges, now = self._exchanges, self._loop.time()
        while exchanges and (exchanges[0].is_ended or exchanges[0].deadline <= now):
            _expire(exchanges.popleft())
        if exchanges:
            self._timer = self._loop.call_at(exchanges[0].deadline, self._look)


def _expire(exchange: Exchange) -> None:
    if not exchange.is_ended:
        exchange.protocol.expire()


class Exchanges:
    """Plain requests over the connections of one connector."""

    def __init__(self, connector: NotingConnector) -> None:
        self._connector = connector
        self._loop = asyncio.get_running_loop()
        self._routes: dict[tuple[str, int], Route | None] = {}
        self._idle: dict[Any, _Idle] = {}
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}
        self._cleaning: asyncio.TimerHandle | None = None
        self._waiting: dict[float, _Deadlines] = {}

    def route(self, outgoing: OutgoingRequest) -> Route | None:
        """Return the route of a request; None if it must be sent by a session."""
        body = outgoing.body
        if type(body) is not bytes or not 0 < len(body) <= _LARGEST or outgoing.method != hdrs.METH_POST:
            return None
        key = (outgoing.url, id(outgoing.headers))
        try:
            route = self._routes[key]
        except KeyError:
            pass
        else:
            if route is not None and route.headers is outgoing.headers:
                return route
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        route = self._routes[key] = self._new_route(outgoing)
        return route

    def _new_route(self, outgoing: OutgoingRequest) -> Route | None:
        try:
            url = URL(outgoing.url, encoded=True)
        except ValueError:
            return None
        given = CIMultiDict(outgoing.headers)
        is_plain = url.scheme in ("http", "https") and url.raw_host and not url.raw_fragment
        if not is_plain or url.raw_user is not None or url.raw_password is not None:
            return None
        if any(name in given for name in _NOT_PLAIN):
            return None
        request = aiohttp.ClientRequest(hdrs.METH_POST, url, headers=given, data=_ANY_BODY, loop=self._loop)
        head = _head_of(request)
        if head is None:
            return None
        idle = self._idle.setdefault(request.connection_key, deque())
        return Route(request, outgoing.headers, head, idle)

    async def begin(self, exchange: Exchange, route: Route, outgoing: OutgoingRequest, intent: Intent | None) -> None:
        """Write a request and wait for the head of its response, with a connection that was idle or a new one.

        Args:
            exchange: Gets connection and head as soon as they are there.
            route: Where it goes.
            outgoing: The request; its timeout is for connecting, and for the whole response.
            intent: Is written before the request.

        Raises:
            aiohttp.ClientError: As a session does.
            JournalError: The intent could not be written, and nothing was sent.
            TimeoutError: The time is up.
        """
        exchange.deadline = self._loop.time() + outgoing.timeout_s
        connection = None if outgoing.on_new_connection else self._idle_connection(route.idle)
        if connection is None:
            if intent is not None:
                intent.write()
                intent = None
            connection = await self._connect(route, outgoing)
        protocol = exchange.protocol = connection.protocol
        exchange.connection = connection
        protocol.set_response_params(**_RESPONSE)
        deadlines = self._waiting.get(outgoing.timeout_s)
        if deadlines is None:
            deadlines = self._waiting[outgoing.timeout_s] = _Deadlines(self._loop)
        deadlines.add(exchange)
        assert isinstance(outgoing.body, bytes)
        write = functools.partial(_write, exchange, route, outgoing.body)
        if intent is None:
            write()
        else:
            intent.write_then(write, protocol.set_exception)
        try:
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != 101:
                message, content = await protocol.read()
        except HttpProcessingError as error:
            info = route.request.request_info
            raise aiohttp.ClientResponseError(
                info, (), status=error.code, message=error.message, headers=error.headers
            ) from error
        exchange.content = content
        exchange.head = ResponseHead(message.code, message.headers)

    def end(self, exchange: Exchange, route: Route) -> None:
        """Keep the connection of an exchange whose response was read to its end, if it may be used again."""
        exchange.is_ended = True
        if exchange.protocol.should_close:
            exchange.connection.close()
            return
        route.idle.append((exchange.connection, self._loop.time()))
        if self._cleaning is None:
            self._cleaning = self._loop.call_later(KEEP_ALIVE_S, self._clean)

    def close(self) -> None:
        """Forget the idle connections; the connector closes them."""
        if self._cleaning is not None:
            self._cleaning.cancel()
        for deadlines in self._waiting.values():
            deadlines.close()
        for idle in self._idle.values():
            for connection, _ in idle:
                connection.close()
            idle.clear()

    def _idle_connection(self, idle: _Idle) -> Any:
        """Return an idle connection that is still open, or None."""
        while idle:
            connection, since = idle.popleft()
            protocol = connection.protocol
            is_fresh = protocol.is_connected() and self._loop.time() - since <= KEEP_ALIVE_S
            if is_fresh and self._connector.is_clean(protocol):
                protocol.received.clear()
                return connection
            connection.close()
        return None

    async def _connect(self, route: Route, outgoing: OutgoingRequest) -> Any:
        timeout_s = outgoing.timeout_s
        only_new.set(outgoing.on_new_connection)
        timeout = self._timeouts.get(timeout_s)
        if timeout is None:
            timeout = self._timeouts[timeout_s] = aiohttp.ClientTimeout(total=timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._connector.connect(route.request, [], timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError("connection timeout") from error

    def _clean(self) -> None:
        """Close connections that were idle for too long."""
        self._cleaning = None
        oldest = self._loop.time() - KEEP_ALIVE_S
        for idle in self._idle.values():
            while idle and (idle[0][1] <= oldest or not idle[0][0].protocol.is_connected()):
                idle.popleft()[0].close()
        if any(self._idle.values()):
            self._cleaning = self._loop.call_later(KEEP_ALIVE_S, self._clean)


def _write(exchange: Exchange, route: Route, body: bytes) -> None:
    """Write a request; it fails if its connection was closed meanwhile."""
    if exchange.is_ended:
        return
    protocol = exchange.protocol
    exchange.is_written = True
    if not protocol.is_connected():
        if protocol.exception() is None:
            protocol.set_exception(aiohttp.ClientConnectionResetError("Cannot write to closing transport"))
        return
    protocol.transport.write(b"%b%d%b%b" % (route.head, len(body), route.tail, body))


def _head_of(request: aiohttp.ClientRequest) -> tuple[bytes, bytes] | None:
    """Return the head that aiohttp sends, before and after the length of the body; None if it would refuse it."""
    headers = request.headers
    headers.setdefault(hdrs.CONTENT_TYPE, "application/octet-stream")
    lines = [f"POST {request.url.raw_path_qs} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if any(_CONTROLS.search(line) for line in lines):
        return None
    at = lines.index(f"{hdrs.CONTENT_LENGTH}: {len(_ANY_BODY)}")
    before = "\r\n".join([*lines[:at], f"{hdrs.CONTENT_LENGTH}: "])
    return before.encode(), "".join(f"\r\n{line}" for line in [*lines[at + 1 :], "", ""]).encode()
