"""The only user of aiohttp: send one request, return an `Attempt`.

This file has sockets, timeouts, proxies, certificates and size limits. The protocol decides what a body means,
`retry.py` whether an attempt was possibly paid, and the rate limiter when it is sent. It knows no provider by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import email.utils
import functools
import inspect
import io
import ssl
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from convbatch._version import __version__
from convbatch.config.credentials import apply_auth
from convbatch.config.gateways import SIMULATOR_URL, Target
from convbatch.config.key_command import KeyCommand, Token
from convbatch.dialogue import Message, text_part
from convbatch.engine.connection_errors import certificate_error, connect_error, lost_connection
from convbatch.engine.raw_response import RawResponse, read_raw
from convbatch.engine.retry import attempt_class
from convbatch.engine.split_keys import without_split_keys
from convbatch.engine.streaming import NO_STREAM, SILENCE_S, StreamWatch
from convbatch.engine.suspension import Address
from convbatch.errors import Place, SetupError
from convbatch.journal.media_store import MediaStore, SharedBody
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.content_encoding import CannotUnpack, Unpacked, unpack
from convbatch.protocols.model_details import ModelDetails, model_details, next_page
from convbatch.protocols.reading import Answer, read_answer, with_own_notes
from convbatch.protocols.replay import as_configured, without_refused_signatures, without_signatures
from convbatch.protocols.reply_media import media_of_turn
from convbatch.protocols.stated_limits import stated_limits
from convbatch.protocols.wire import Ask, CannotCarry, MalformedReply, WireRequest, encode_json
from convbatch.redaction import Redactor
from convbatch.reply import Attempt, Failure, Reply, StatedLimits
from convbatch.system import Clock

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Limit on a decoded body; a larger one is unreadable."""
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADERS = 1000
CONNECT_TIMEOUT_S = 10.0
_MAX_PAGES = 100
_KEPT_BYTES = 1024 * 1024
_LARGE_BODY = 512 * 1024
_OWN_HEADERS = {"User-Agent": f"convbatch/{__version__}", "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}
REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-oneapi-request-id", "x-generation-id", "cf-ray")


class OutgoingRequest(NamedTuple):
    """One HTTP request as it is sent, including the key; never journaled, never printed."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | SharedBody | None
    timeout_s: float
    watch: StreamWatch | None = None
    """Gets the body of a streamed response piece by piece, and says how long a silence may last."""


class HttpResponse(NamedTuple):
    """One complete HTTP response; `body` is decoded, header names are compared without case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    notes: tuple[str, ...] = ()
    """What was odd about its encoding."""


class ListedModels(NamedTuple):
    """A gateway's list of models."""

    names: tuple[str, ...]
    details: Mapping[str, ModelDetails]
    """By name; only of models of which the gateway says more than the name."""


class NoResponse(Exception):  # becomes a Failure at once
    """No complete response arrived."""

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        sent: bool,
        own_timeout: bool = False,
        certificate: bool = False,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        partial: bytes = b"",
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.sent = sent
        self.own_timeout = own_timeout
        self.certificate = certificate
        self.status = status
        self.headers = headers or {}
        self.partial = partial
        """What arrived of the body, decoded as far as possible."""
        self.notes = notes
        """What was odd about its encoding."""


class SentCancelled(asyncio.CancelledError):
    """Cancelled after bytes may have been sent."""

    def __init__(self, gone: NoResponse) -> None:
        super().__init__(str(gone))
        self.gone = gone
        """What had arrived by then."""
        self.attempt: Attempt | None = None
        """What `gone` amounts to; the client sets it."""


class Transport(Protocol):
    """How a request reaches a server: aiohttp, or a simulated provider in the same process."""

    async def send(self, outgoing: OutgoingRequest) -> HttpResponse:
        """Send one request and return the complete response; raises `NoResponse`."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


_progress: contextvars.ContextVar[list[Any]] = contextvars.ContextVar("convbatch_sending_connected")
"""The connection of the request that is being sent, when there is one."""


class _KeepingHandler(ResponseHandler):
    """Keeps the beginning of what arrives, for a response that aiohttp refuses to read."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.received = bytearray()

    def data_received(self, data: bytes) -> None:
        if len(self.received) < _KEPT_BYTES:
            self.received += data
        super().data_received(data)

    def resume_reading(self, *args: Any, **options: Any) -> None:
        """Do nothing unless reading was paused: aiohttp calls it for each chunk of HTTP that it hands out."""
        if getattr(self, "_reading_paused", True):
            super().resume_reading(*args, **options)


class _NotingConnector(aiohttp.TCPConnector):
    """Connector that records when a request gets its connection, from which moment bytes may be sent.

    It also never reuses a connection on which unrequested bytes arrived, such as a reply delivered twice: they would be
    read as the response to the next request, possibly of another dialogue. aiohttp checks only when a connection is
    returned, which is too early for bytes that arrive a moment later. After the first such event no connection is
    reused at all: a late copy that arrives during the next request cannot be distinguished from its response.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(_KeepingHandler, loop=self._loop)
        self._used: weakref.WeakSet[Any] = weakref.WeakSet()
        self._trusts_used = True

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)
        while (protocol := connection.protocol) in self._used and not self._is_clean(protocol):
            connection.close()
            connection = await super().connect(*args, **kwargs)
        self._used.add(protocol)
        if isinstance(protocol, _KeepingHandler):
            protocol.received.clear()
        _progress.get().append(protocol)
        return connection

    def _is_clean(self, used: Any) -> bool:
        self._trusts_used = self._trusts_used and not used.should_close
        return self._trusts_used


def _trusting(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # includes ssl.SSLError; the file was readable when the config was loaded
        raise SetupError(
            f"ca_file cannot be read: {error.strerror or error}",
            place=Place(path=ca_file),
            hint="restore the PEM file, or remove ca_file from the config",
        ) from None


# Releases of aiohttp without this parameter have no limit.
_LIMIT_OF_HEADERS: dict[str, Any] = (
    {"max_headers": MAX_HEADERS} if "max_headers" in inspect.signature(aiohttp.ClientSession).parameters else {}
)


class AiohttpTransport:
    """A transport with its own connection pool, so that a slow gateway never holds another one's connections."""

    def __init__(self, *, ca_file: str | None = None, proxy: str | None = None) -> None:
        context: ssl.SSLContext | bool = True
        if ca_file is not None:
            context = _trusting(ca_file)
        self._proxy = proxy
        # limit=0: only the rate limiter decides how many requests are in flight. Redirects, cookies, netrc and
        # automatic decompression stay off: each of them has leaked keys or memory in other clients.
        self._session = aiohttp.ClientSession(
            connector=_NotingConnector(limit=0, ssl=context, keepalive_timeout=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            **_LIMIT_OF_HEADERS,
        )
        self._urls: dict[str, URL] = {}
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}

    async def send(self, outgoing: OutgoingRequest) -> HttpResponse:
        """Send one request; raises `NoResponse`, which tells whether it may have been sent."""
        connections: list[Any] = []
        _progress.set(connections)
        seen: list[aiohttp.ClientResponse] = []
        partial = bytearray()
        try:
            async with self._session.request(
                outgoing.method,
                self._url(outgoing.url),
                data=_payload(outgoing.body),
                headers=outgoing.headers,
                allow_redirects=False,
                timeout=self._timeout(outgoing.timeout_s),
                proxy=self._proxy,
            ) as response:
                seen.append(response)
                await _read(response, partial, outgoing.watch)
                unpacked = _unpacked(bytes(partial), response.headers)
                if unpacked.is_cut:
                    partial[:] = unpacked.body
                    raise _Unreadable("the compressed response body ends too early")
                return HttpResponse(response.status, response.headers, unpacked.body, unpacked.notes)
        except asyncio.CancelledError as cancelled:
            if not connections:
                raise NotSentCancelled from cancelled
            raise SentCancelled(_abandoned(seen[0] if seen else None, bytes(partial))) from cancelled
        except (aiohttp.ClientError, TimeoutError, OSError, _Unreadable, _Silent, ValueError) as error:
            response: aiohttp.ClientResponse | RawResponse | None = seen[0] if seen else None
            if response is None and isinstance(error, aiohttp.ClientResponseError) and connections:
                response = _refused_response(error, connections[-1])
                partial += b"" if response is None else response.body
            route = _Route(outgoing.url, self._proxy, outgoing.timeout_s)
            raise _no_response(error, route, bool(connections), response, bytes(partial)) from error

    async def close(self) -> None:
        """Close every connection."""
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


class NotSentCancelled(asyncio.CancelledError):
    """Cancelled before any byte was sent."""


class _Unreadable(Exception):  # internal signal
    """The body is too large or cannot be decompressed."""


class _Silent(Exception):  # internal signal
    """A stream sent nothing for too long."""

    def __init__(self, seconds: float, size: int, *, is_over: bool) -> None:
        after = "its last event" if is_over else f"{size:,} bytes"
        super().__init__(f"the stream sent nothing for {seconds:g} s after {after}")
        self.is_over = is_over


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


async def _read(response: aiohttp.ClientResponse, into: bytearray, watch: StreamWatch | None) -> None:
    content = response.content
    try:
        if watch is None:
            while chunk := await content.readany():
                _append(chunk, into)
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
                _append(chunk, into)
                watch.received(chunk)
                if (now := loop.time()) > renewed or watch.is_over:
                    renewed = now + min(1.0, watch.silence_s / 8)  # not for each of a thousand chunks
                    silence.reschedule(now + watch.silence_s)
    except TimeoutError:
        if not silence.expired():
            raise  # the timeout of the attempt
        raise _Silent(watch.silence_s, len(into), is_over=watch.is_over) from None


def _append(chunk: bytes, into: bytearray) -> None:
    into += chunk
    if len(into) > MAX_BODY_BYTES:
        raise _Unreadable(f"the response body is larger than {MAX_BODY_BYTES // 2**20} MiB")


def _unpacked(body: bytes, headers: CIMultiDictProxy[str]) -> Unpacked:
    encoding = ",".join(headers.getall("Content-Encoding", ()))
    try:
        return unpack(body, encoding, headers.get("Content-Type", ""), max_bytes=MAX_BODY_BYTES)
    except CannotUnpack as error:
        raise _Unreadable(str(error)) from None


_CERTIFICATE = (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError)
# The words of aiohttp and llhttp, which quote the response after them.
_BROKEN_LIMITS = (
    (f"Got more than {MAX_HEADER_BYTES} bytes", f"a header is longer than {MAX_HEADER_BYTES // 1024} KiB"),
    ("Too many headers received", f"it has more than {MAX_HEADERS:,} headers"),
)
_BROKEN_RULES = (
    *_BROKEN_LIMITS,
    ("Content-Length", "its Transfer-Encoding and Content-Length contradict each other or are invalid"),
    ("Transfer-Encoding", "its Transfer-Encoding is invalid"),
    ("chunk size", "its chunked Transfer-Encoding is broken"),
)
_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


def _proxy_status(error: Exception) -> int | None:
    """Return the status with which a proxy refused a connection; 0 if its answer cannot be read, None without one."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return error.status
    return 0 if isinstance(error, aiohttp.ClientResponseError) else None


class _Route(NamedTuple):
    """Where a request went."""

    url: str
    proxy: str | None
    timeout_s: float


def _no_response(
    error: Exception,
    route: _Route,
    connected: bool,
    response: aiohttp.ClientResponse | RawResponse | None,
    partial: bytes,
) -> NoResponse:
    """Classify an exception of aiohttp by its type and system error; its text may contain URLs and headers."""
    if isinstance(error, _CERTIFICATE):
        return NoResponse("connection", certificate_error(error, route.url), sent=False, certificate=True)
    if isinstance(error, _NEVER_SENT) or not connected:
        kind = "timeout" if isinstance(error, TimeoutError) else "connection"
        timeout_s = min(CONNECT_TIMEOUT_S, route.timeout_s)
        why = connect_error(error, route.url, route.proxy, timeout_s=timeout_s, proxy_status=_proxy_status(error))
        return NoResponse(kind, f"could not connect: {why}", sent=False)
    known = _known_so_far(error, response, partial)
    if isinstance(error, _Unreadable):
        return NoResponse("bad_response", str(error), sent=True, **known)
    if isinstance(error, _Silent):
        return NoResponse("timeout", str(error), sent=True, own_timeout=True, **known)
    if isinstance(error, TimeoutError):
        return NoResponse(
            "timeout",
            f"no complete answer within the attempt timeout of {route.timeout_s:g} s",
            sent=True,
            own_timeout=True,
            **known,
        )
    if (broken := _broken_rule(error)) is not None:
        return NoResponse("bad_response", f"the response cannot be read: {broken}", sent=True, **known)
    return NoResponse(
        "connection", lost_connection(error, route.url, has_begun=response is not None), sent=True, **known
    )


def _abandoned(response: aiohttp.ClientResponse | None, partial: bytes) -> NoResponse:
    known = _known_so_far(None, response, partial)
    return NoResponse("connection", "abandoned on request", sent=True, **known)


def _known_so_far(
    error: Exception | None, response: aiohttp.ClientResponse | RawResponse | None, partial: bytes
) -> dict[str, Any]:
    """Return what is known of a response that broke off, its body decoded as far as possible."""
    if response is None:
        return {}
    notes: tuple[str, ...] = ()
    if not isinstance(error, _Unreadable):
        try:
            unpacked = _unpacked(partial, response.headers)
        except _Unreadable:
            pass
        else:
            partial, notes = unpacked.body, unpacked.notes
    return {"status": response.status, "headers": response.headers, "partial": partial, "notes": notes}


def _refused_response(error: aiohttp.ClientResponseError, connection: Any) -> RawResponse | None:
    """Return a response that aiohttp refused to read, unless its headers are beyond the limits."""
    if not isinstance(connection, _KeepingHandler) or any(words in error.message for words, _ in _BROKEN_LIMITS):
        return None
    return read_raw(bytes(connection.received))


def _broken_rule(error: Exception) -> str | None:
    """Name the rule of HTTP that a response broke, so that aiohttp refused it; None for another error."""
    if not isinstance(error, aiohttp.ClientResponseError):
        return None
    known = next((said for words, said in _BROKEN_RULES if words in error.message), None)
    return known or f"it is not HTTP as it should be ({error.message.partition(':')[0][:60]})"


def _joined(*notes: str | None) -> str | None:
    return "; ".join(filter(None, notes)) or None


def _is_whole(outcome: Reply | Failure, status: int) -> bool:
    """Whether an answer that broke off holds all that matters: a reply, or an error object."""
    if isinstance(outcome, Reply):
        return True
    # An error object in a success is the end of a stream, or all of the body.
    return outcome.structured and outcome.kind != "stream_truncated" and (status >= 400 or 200 <= status < 300)


def _stated_limits(response: HttpResponse, attempt: Attempt) -> StatedLimits | None:
    if isinstance(attempt.outcome, Failure):
        return stated_limits(response.headers, attempt.outcome.message, response.body)
    return stated_limits(response.headers)


class _Sent(NamedTuple):
    """When a request was sent, and what follows its response."""

    started: float
    """Unix seconds UTC."""
    begun: float
    """Monotonic seconds."""
    watch: StreamWatch | None = None
    """None unless a stream was asked for."""


_KeyedAddress = tuple[Mapping[str, str] | None, str | None, str, Mapping[str, str]]
"""Headers from the protocol and the key, and the URL and headers that were derived from them."""
_NO_KEYED_ADDRESS: _KeyedAddress = (None, None, "", {})


class Client:
    """Sends requests to one target; keeps no state between attempts except the transport's connections."""

    def __init__(
        self,
        target: Target,
        key: str | KeyCommand | None,
        *,
        secret_headers: Mapping[str, str] | None = None,
        transport: Transport,
        redactor: Redactor,
        clock: Clock,
        simulator_url: str | None = None,
        silence_s: float = SILENCE_S,
        media: MediaStore | None = None,
    ) -> None:
        """Create a client.

        Args:
            target: The target.
            key: Its key, or the command that prints it; None if the gateway needs none.
            secret_headers: Headers with further secrets, sent with each request.
            transport: Sends the requests.
            redactor: Removes keys from bodies and messages.
            clock: Measures latency.
            simulator_url: URL of the built-in simulator; only for targets at `simulator:`.
            silence_s: How long a stream may send nothing.
            media: Content of the media that messages name.
        """
        self._media = media
        self._target = target
        self._simulator_url = simulator_url
        self._key = None if isinstance(key, KeyCommand) else key
        self._key_command = key if isinstance(key, KeyCommand) else None
        self._secret_headers = secret_headers or {}
        self._transport = transport
        self._redactor = redactor
        self._clock = clock
        self._silence_s = silence_s
        self._protocol = PROTOCOLS[target.gateway.protocol]
        self._endpoint = target.gateway.endpoint
        self._keyed_addresses: dict[str, _KeyedAddress] = {}

    def address(self) -> Address:
        """Return where the requests of this target go, without a key."""
        hello = Message(role="user", parts=(text_part("hello"),))
        ask = Ask(model=self._target.model, messages=(hello,), stream=self._target.gateway.stream)
        url = self._protocol.build_request(ask, self._endpoint).url
        return Address(base_url=self._target.gateway.base_url, path=urlsplit(url).path)

    @property
    def needs_new_key(self) -> bool:
        """Whether `renew_key` must be awaited before the next attempt."""
        return self._key_command is not None and self._key_command.is_due

    async def renew_key(self) -> None:
        """Run the key command if its token was refused or is about to expire.

        Raises:
            SetupError: The command failed, hung, or printed no token.
        """
        if self._key_command is not None:
            await self._key_command.renew_if_due()

    def read_again(self, status: int, body: bytes) -> Reply | Failure:
        """Read a stored answer into a reply with its raw turn, or a failure; for rows and histories of the journal."""
        answer = self._read(status, {}, body)
        outcome = answer.outcome
        return outcome if isinstance(outcome, Failure) else self._without_keys(outcome, body)[0]

    def has_media(self, media: Iterable[Mapping[str, Any]]) -> bool:
        """Return whether the files of a reply are there; reading the reply again writes those that are gone."""
        return self._media is None or all(self._media.has(one["path"]) for one in media)

    def _as_configured(self, outcome: Reply | Failure) -> Reply | Failure:
        """Return an outcome as its gateway is configured, with the media of the turn as it was received."""
        configured = as_configured(outcome, self._protocol, self._endpoint)
        if isinstance(outcome, Failure) or isinstance(configured, Failure) or self._media is None:
            return configured
        if not outcome.has_media:
            return configured
        return configured._replace(media=tuple(self._media.keep(*one) for one in media_of_turn(outcome.raw_turn)))

    def _read(
        self, status: int, headers: Mapping[str, str], body: bytes, *, is_cut: bool = False, streamed: bool = False
    ) -> Answer:
        answer = read_answer(self._protocol, status, headers, body, is_cut=is_cut, streamed=streamed)
        return answer._replace(outcome=self._as_configured(answer.outcome))

    def read_unread(self, status: int, stored: bytes) -> tuple[Answer, bytes]:
        """Read a stored answer, whose headers are gone, in which an earlier version found no reply.

        Returns:
            The answer, and the body to store with it.
        """
        notes: tuple[str, ...] = ()
        with contextlib.suppress(CannotUnpack):
            stored, notes, _ = unpack(stored, "", "", max_bytes=MAX_BODY_BYTES)
        body, _ = self._redactor.body(stored)
        outcome, note = self._read(status, {}, body, is_cut=True)
        if isinstance(outcome, Reply):
            outcome, _ = self._without_keys(outcome, body)
        return Answer(outcome, _joined(*notes, note)), body

    def without_refused_signatures(self, ask: Ask, attempt: Attempt) -> Ask | None:
        """Return the question to ask instead after signatures in its history were refused; else None."""
        if attempt.cls != "final":
            return None
        return without_refused_signatures(ask, attempt.outcome, self._protocol, self._endpoint)

    def without_signatures(self, ask: Ask) -> Ask:
        """Return the question without signatures in its history."""
        return without_signatures(ask, self._protocol)

    async def models(self, *, timeout_s: float = 30.0) -> ListedModels | Attempt:
        """Return the models that the gateway lists on all its pages, or the failed attempt."""
        first = request = self._protocol.build_models_request(self._endpoint)
        names: dict[str, None] = {}
        details: dict[str, ModelDetails] = {}
        for _ in range(_MAX_PAGES):
            page = await self._models_page(request, timeout_s)
            if isinstance(page, Attempt):
                return page
            found, following = page
            known = len(names)
            names.update(dict.fromkeys(found.names))
            details.update(found.details)
            if following is None or len(names) == known:
                break
            request = first._replace(url=str(URL(first.url, encoded=True).update_query([following])))
        return ListedModels(tuple(names), details)

    async def _models_page(
        self, request: WireRequest, timeout_s: float
    ) -> tuple[ListedModels, tuple[str, str] | None] | Attempt:
        """Return one page of the list, and the parameter of the next one."""
        sent = _Sent(self._clock.wall(), self._clock.monotonic())
        try:
            key = self._key if self._key_command is None else self._key_command.token.value
            response = await self._transport.send(self._sending(request, key, timeout_s))
        except NoResponse as gone:
            return self._attempt_without_response(gone, sent)
        if response.status == 200:
            try:
                names = self._protocol.parse_models(response.body)
                return ListedModels(names, model_details(response.body)), next_page(response.body)
            except MalformedReply as malformed:
                attempt = self._attempt_with_answer(response, sent)
                if isinstance(attempt.outcome, Failure) and attempt.outcome.kind != "bad_response":
                    return attempt  # an error object in a 200
                failure = Failure(kind="bad_response", message=f"no list of models: {malformed}")
                return self._attempt(failure, "final", response, sent)
        return self._attempt_with_answer(response, sent)

    async def attempt(self, ask: Ask, on_text: Callable[[str], None] | None = None) -> Attempt:
        """Send one request once.

        Args:
            ask: The question.
            on_text: Gets the text of a streamed reply as it arrives, unredacted; must not block.

        Returns:
            The attempt, with a `Reply` or a `Failure`; waits for the limiter and before a retry are not included.

        Raises:
            CannotCarry: The protocol cannot express the request.
            SentCancelled: The task was cancelled after sending; with the attempt as far as it went.
        """
        if self._media is not None:
            ask = ask._replace(messages=_with_content(self._media, ask.messages))
        request = self._protocol.build_request(ask, self._endpoint)
        token = None if self._key_command is None else self._key_command.token
        key = self._key if token is None else token.value
        outgoing = self._sending(request, key, self._target.gateway.attempt_timeout_s)
        watch = None
        if ask.stream:
            watch = StreamWatch(self._protocol, self._clock, silence_s=self._silence_s, on_text=on_text)
        sent = _Sent(self._clock.wall(), self._clock.monotonic(), watch)
        try:
            response = await self._transport.send(outgoing if watch is None else outgoing._replace(watch=watch))
        except NoResponse as gone:
            attempt = self._attempt_without_response(gone, sent)
        except SentCancelled as cancelled:
            cancelled.attempt = self._abandoned(cancelled.gone, sent)
            raise
        else:
            attempt = self._attempt_with_answer(response, sent)
        if request.note is not None:
            attempt = attempt._replace(wire_note="; ".join(filter(None, (attempt.wire_note, request.note))))
        return attempt if token is None else self._with_verdict_on(token, attempt)

    def _with_verdict_on(self, token: Token, attempt: Attempt) -> Attempt:
        """Tell the key command whether its token was accepted; a refused one may be replaced."""
        assert self._key_command is not None
        if isinstance(attempt.outcome, Reply):
            self._key_command.accepted(token.number)
        elif attempt.outcome.kind == "auth":
            return attempt._replace(renews_key=self._key_command.refused(token.number))
        return attempt

    def _without_keys(self, reply: Reply, body: bytes) -> tuple[Reply, bool]:
        """Redact texts that a stream delivered in pieces: a key may be visible only after they are joined."""
        texts: dict[str, str] = {}
        left = False
        for name in ("text", "thought"):
            text: str | None = getattr(reply, name)
            clean, joined = self._joined_text(text, body)
            left = left or joined
            if clean != text:
                texts[name] = clean or ""
        return reply._replace(**texts) if texts else reply, left

    def _joined_text(self, text: str | None, body: bytes) -> tuple[str | None, bool]:
        """Return a text of a body without keys, and whether one was found and left in it."""
        plain = b"" if not text else text.encode("utf-8", "surrogatepass")
        if plain in body:
            return text, False
        clean, left = self._redactor.body(plain)
        return clean.decode("utf-8", "surrogatepass"), left

    def _has_split_key(self, outcome: Reply | Failure, body: bytes) -> bool:
        """Whether a key is in the joined text of a reply, or of the part of one, and not in one piece in the body."""
        texts = [outcome.text]
        if isinstance(outcome, Reply):
            texts += [outcome.thought, *(encode_json(call.arguments).decode() for call in outcome.tool_calls)]
        return any(self._joined_text(text, body)[0] != text for text in texts)

    def _sending(self, request: WireRequest, key: str | None, timeout_s: float) -> OutgoingRequest:
        # A target uses the same URL, the same headers object and mostly the same key, so the result is cached.
        asked_with, keyed_with, url, headers = self._keyed_addresses.get(request.url, _NO_KEYED_ADDRESS)
        if asked_with is not request.headers or keyed_with != key:
            url, headers = self._keyed_address(request, key)
            self._keyed_addresses[request.url] = (request.headers, key, url, headers)
        body: bytes | SharedBody | None = None if request.json is None else encode_json(request.json)
        if isinstance(body, bytes) and self._media is not None:
            body = _body_with_content(self._media, body)
        return OutgoingRequest(method=request.method, url=url, headers=headers, body=body, timeout_s=timeout_s)

    def _keyed_address(self, request: WireRequest, key: str | None) -> tuple[str, Mapping[str, str]]:
        """Return the URL with its query, and the headers with the key."""
        gateway = self._target.gateway
        headers = {**_OWN_HEADERS, **request.headers, **gateway.headers, **self._secret_headers}
        url = request.url
        if self._simulator_url is not None and url.startswith(SIMULATOR_URL):
            url = self._simulator_url + url.removeprefix(SIMULATOR_URL)
        if gateway.query:
            url = str(URL(url, encoded=True).extend_query(dict(gateway.query)))
        url, headers = apply_auth(url, headers, gateway.auth, key)
        return url, CIMultiDict(headers)

    def _attempt_with_answer(self, response: HttpResponse, sent: _Sent, *, is_cut: bool = False) -> Attempt:
        body, left = self._redactor.body(response.body)
        headers = self._headers(response) if response.status != 200 else {}
        read = functools.partial(self._read, response.status, headers, is_cut=is_cut, streamed=sent.watch is not None)
        folded = None if sent.watch is None else sent.watch.close()
        is_plain = body is response.body and response.status == 200 and not response.notes and not is_cut
        answer = read(body) if folded is None or not is_plain else with_own_notes(Answer(self._as_configured(folded)))
        if self._has_split_key(answer.outcome, body):
            body = without_split_keys(body, self._redactor)
            answer = read(body)
        outcome = answer.outcome
        note = _joined(*response.notes, answer.note)
        if isinstance(outcome, Failure):
            cls = attempt_class(outcome, http_status=response.status, sent=True)
            if cls == "refused" and sent.watch is not None and sent.watch.chunks:
                cls = "ambiguous"  # an error after the model had begun, perhaps to think
            outcome = replace(outcome, text=self._joined_text(outcome.text, body)[0])
        else:
            cls = "replied"
            outcome, joined = self._without_keys(outcome, body)
            left = left or joined
        attempt = self._attempt(outcome, cls, response, sent, body=body, left=left, note=note)
        stated = _stated_limits(response, attempt)
        return attempt if stated is None else attempt._replace(stated_limits=stated)

    def _headers(self, response: HttpResponse) -> dict[str, str]:
        headers = {name.lower(): value for name, value in response.headers.items()}
        # An HTTP-date hint is relative to the server's clock; without a Date header, to ours.
        headers.setdefault("date", email.utils.formatdate(self._clock.wall(), usegmt=True))
        return headers

    def _attempt_without_response(self, gone: NoResponse, sent: _Sent) -> Attempt:
        text: str | None = None
        body, left = None, False
        if gone.status is not None and gone.partial:
            response = HttpResponse(gone.status, gone.headers, gone.partial, (*gone.notes, f"whole, although {gone}"))
            attempt = self._attempt_with_answer(response, sent, is_cut=True)
            if _is_whole(attempt.outcome, gone.status):
                return attempt
            text, body, left = attempt.outcome.text, attempt.body, attempt.key_in_body
        failure = Failure(
            kind=gone.kind,  # pyright: ignore[reportArgumentType]  # NoResponse is raised with these kinds only
            message=str(gone),
            retryable=not gone.certificate,
            text=text,
        )
        cls = attempt_class(
            failure, http_status=gone.status, sent=gone.sent, own_timeout=gone.own_timeout, certificate=gone.certificate
        )
        response = None if gone.status is None else HttpResponse(status=gone.status, headers=gone.headers, body=b"")
        return self._attempt(failure, cls, response, sent, body=body or None, left=left)

    def _abandoned(self, gone: NoResponse, sent: _Sent) -> Attempt:
        """Return what a cancelled attempt had received: all of a reply, or at most a part of one."""
        attempt = self._attempt_without_response(gone, sent)
        return attempt if isinstance(attempt.outcome, Reply) else attempt._replace(cls="abandoned")

    def _attempt(
        self,
        outcome: Reply | Failure,
        cls: Any,
        response: HttpResponse | None,
        sent: _Sent,
        *,
        body: bytes | None = None,
        left: bool = False,
        note: str | None = None,
    ) -> Attempt:
        if isinstance(outcome, Failure):  # shown in tables and notes, where keys under 12 characters are redacted, too
            outcome = replace(outcome, message=self._redactor.text(outcome.message))
        watch = sent.watch
        times = NO_STREAM if watch is None else watch.times(sent.begun)
        ended = None if watch is None else watch.last_at
        return Attempt(
            outcome=outcome,
            cls=cls,
            http_status=None if response is None else response.status,
            request_id=None if response is None else self._request_id(response.headers),
            started_at=sent.started,
            latency_s=(self._clock.monotonic() if ended is None else ended) - sent.begun,
            ttft_s=times.ttft_s,
            chunks=times.chunks,
            itl_p50_s=times.itl_p50_s,
            itl_p95_s=times.itl_p95_s,
            body=body,
            key_in_body=left,
            wire_note=note,
        )

    def _request_id(self, headers: Mapping[str, str]) -> str | None:
        for name in REQUEST_ID_HEADERS:
            value = headers.get(name)
            if value:
                return self._redactor.text(value)[:200]
        return None


def _body_with_content(media: MediaStore, body: bytes) -> bytes | SharedBody:
    """Return a body with the content of media; raises `CannotCarry` if one was lost since the start."""
    try:
        return media.body(body)
    except SetupError as lost:
        raise CannotCarry(str(lost)) from None


def _with_content(media: MediaStore, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the messages with the content of their media; raises `CannotCarry` if one was lost since the start."""
    try:
        return media.filled(messages)
    except SetupError as lost:
        raise CannotCarry(str(lost)) from None
