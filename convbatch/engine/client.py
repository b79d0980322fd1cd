"""Send one request, return an `Attempt`.

`transport.py` has sockets, timeouts, proxies, certificates and size limits. The protocol decides what a body means,
`retry.py` whether an attempt was possibly paid, and the rate limiter when it is sent. It knows no provider by name.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson
from multidict import CIMultiDict
from yarl import URL

from convbatch._version import __version__
from convbatch.config.credentials import apply_auth
from convbatch.config.gateways import SIMULATOR_URL, Target
from convbatch.config.key_command import KeyCommand, Token
from convbatch.dialogue import Message, text_part
from convbatch.engine.http_values import (
    MAX_BODY_BYTES,
    HttpResponse,
    Intent,
    IntentTransport,
    NoResponse,
    OutgoingRequest,
    SentCancelled,
    Transport,
)
from convbatch.engine.retry import attempt_class
from convbatch.engine.split_keys import without_split_keys
from convbatch.engine.streaming import NO_STREAM, SILENCE_S, StreamWatch
from convbatch.engine.suspension import Address
from convbatch.errors import SetupError
from convbatch.journal.media_store import MediaStore, SharedBody, has_files
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.batches.jobs import JobCall
from convbatch.protocols.batches.lines import ResultLine
from convbatch.protocols.content_encoding import CannotUnpack, unpack
from convbatch.protocols.model_details import ModelDetails, model_details, next_page
from convbatch.protocols.reading import Answer, read_answer, with_own_notes
from convbatch.protocols.replay import as_configured, without_refused_signatures, without_signatures
from convbatch.protocols.reply_media import media_of_turn
from convbatch.protocols.stated_limits import stated_limits
from convbatch.protocols.wire import (
    Ask,
    CannotCarry,
    Endpoint,
    MalformedReply,
    WireRequest,
    decode_json,
    encode_json,
)
from convbatch.redaction import Redactor
from convbatch.reply import POSSIBLY_PAID, Attempt, Failure, Reply, StatedLimits
from convbatch.system import Clock

_MAX_PAGES = 100
_OWN_HEADERS = {"User-Agent": f"convbatch/{__version__}", "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}
REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-oneapi-request-id", "x-generation-id", "cf-ray")


class LineRequest(NamedTuple):
    """One request of a batch job."""

    body: Mapping[str, Any]
    size: int
    """Bytes of the body."""
    note: str | None = None
    """What was odd about it."""


class ListedModels(NamedTuple):
    """A gateway's list of models."""

    names: tuple[str, ...]
    details: Mapping[str, ModelDetails]
    """By name; only of models of which the gateway says more than the name."""


def _joined(*notes: str | None) -> str | None:
    return "; ".join(filter(None, notes)) or None


def _has_joined_text(outcome: Reply | Failure, body: bytes) -> bool:
    """Whether an outcome may have a text that is not in the body in one piece, so that no search found keys in it."""
    texts = [outcome.text]
    if isinstance(outcome, Reply):
        if outcome.tool_calls:
            return True
        texts.append(outcome.thought)
    return any(text.encode("utf-8", "surrogatepass") not in body for text in texts if text)


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
        self._with_intents = transport if isinstance(transport, IntentTransport) else None
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
        configured = self._as_configured(answer.outcome)
        return answer if configured is answer.outcome else answer._replace(outcome=configured)

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
            response = await self._transport.send(self._sending(request, key, None, timeout_s))
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

    async def attempt(
        self,
        ask: Ask,
        on_text: Callable[[str], None] | None = None,
        intent: Intent | None = None,
        *,
        is_resent: bool = False,
    ) -> Attempt:
        """Send one request once.

        Args:
            ask: The question.
            on_text: Gets the text of a streamed reply as it arrives, unredacted; must not block.
            intent: Is written before anything is sent.
            is_resent: Whether an earlier answer to it was lost; it gets a new connection then.

        Returns:
            The attempt, with a `Reply` or a `Failure`; waits for the limiter and before a retry are not included.

        Raises:
            CannotCarry: The protocol cannot express the request.
            JournalError: The intent could not be written, and nothing was sent.
            SentCancelled: The task was cancelled after sending; with the attempt as far as it went.
        """
        token = None if self._key_command is None else self._key_command.token
        request, outgoing = self._built(ask, self._key if token is None else token.value)
        watch = None
        if ask.stream:
            watch = StreamWatch(self._protocol, self._clock, silence_s=self._silence_s, on_text=on_text)
        sent = _Sent(self._clock.wall(), self._clock.monotonic(), watch)
        try:
            if watch is not None or is_resent:
                outgoing = outgoing._replace(watch=watch, on_new_connection=is_resent)
            if self._with_intents is not None:
                response = await self._with_intents.send_with(outgoing, intent)
            else:
                if intent is not None:
                    intent.write()
                response = await self._transport.send(outgoing)
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

    def _built(self, ask: Ask, key: str | None) -> tuple[WireRequest, OutgoingRequest]:
        """Build a request; raises `CannotCarry`."""
        if ask.pieces is not None:
            ask.pieces.follow(ask.messages)
            if self._media is None or not ask.pieces.any(has_files):
                request = self._protocol.build_request(ask, self._endpoint)
                try:
                    return request, self._sending(request, key, orjson.dumps(request.json))
                except TypeError:  # what orjson cannot write is beside the messages
                    pass
            ask = ask._replace(pieces=None)
        if self._media is not None:
            ask = ask._replace(messages=_with_content(self._media, ask.messages))
        request = self._protocol.build_request(ask, self._endpoint)
        body: bytes | SharedBody = encode_json(request.json)
        if self._media is not None:
            body = _body_with_content(self._media, body)
        return request, self._sending(request, key, body)

    # -- batch jobs

    @property
    def batch_endpoint(self) -> Endpoint:
        """Where batch jobs are made; that of the built-in simulator is its URL."""
        base_url = self._endpoint.base_url
        if self._simulator_url is None or not base_url.startswith(SIMULATOR_URL):
            return self._endpoint
        return replace(self._endpoint, base_url=self._simulator_url + base_url.removeprefix(SIMULATOR_URL))

    def build_line(self, ask: Ask) -> LineRequest:
        """Return the request of a batch job's line, with the content of its media.

        Raises:
            CannotCarry: The protocol cannot express the request, or a media file was lost since the start.
        """
        ask = ask._replace(pieces=None)
        if self._media is not None:
            ask = ask._replace(messages=_with_content(self._media, ask.messages))
        request = self._protocol.build_request(ask, self._endpoint)
        body = encode_json(request.json)
        filled = body if self._media is None else _body_with_content(self._media, body)
        plain = decode_json(bytes(filled)) if isinstance(filled, SharedBody) else request.json
        return LineRequest(plain, len(filled), request.note)

    async def send_job_call(self, call: JobCall, *, timeout_s: float, max_body_bytes: int) -> HttpResponse:
        """Send a request about a batch job; once more with another key if a key command has one.

        Raises:
            NoResponse: No complete answer came.
            SetupError: The key command failed.
        """
        while True:
            await self.renew_key()
            token = None if self._key_command is None else self._key_command.token
            url, headers = call.url, CIMultiDict({**_OWN_HEADERS, **call.headers})
            if call.has_key:
                request = WireRequest(method=call.method, url=call.url, headers=call.headers, json=None)
                url, headers = self._keyed_address(request, self._key if token is None else token.value)
            outgoing = OutgoingRequest(
                call.method, url, headers, call.body, timeout_s=timeout_s, max_body_bytes=max_body_bytes
            )
            response = await self._transport.send(outgoing)
            if token is None or not call.has_key:
                return response
            assert self._key_command is not None
            if response.status == 401 and self._key_command.refused(token.number):
                continue
            if 200 <= response.status < 300:
                self._key_command.accepted(token.number)
            return response

    def read_result(self, line: ResultLine, started_at: float) -> Attempt:
        """Return the attempt that a result line of a batch job amounts to; it has no latency of its own."""
        if line.status is None:
            cls = "not_sent" if line.is_free else "abandoned"
            return Attempt(outcome=line.outcome, cls=cls, started_at=started_at, wire_note=line.note)
        response = HttpResponse(line.status, {}, line.body)
        attempt = self._attempt_with_answer(response, _Sent(started_at, self._clock.monotonic()))
        attempt = attempt._replace(
            latency_s=None,
            request_id=None if line.request_id is None else self._redactor.text(line.request_id)[:200],
            wire_note=_joined(*dict.fromkeys([line.note, attempt.wire_note])),
            stated_limits=None,
        )
        return attempt._replace(cls="refused") if line.is_free and attempt.cls in POSSIBLY_PAID else attempt

    def redacted(self, failure: Failure) -> Failure:
        """Return a failure whose message has no key."""
        return replace(failure, message=self._redactor.text(failure.message))

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

    def _sending(
        self, request: WireRequest, key: str | None, body: bytes | SharedBody | None, timeout_s: float | None = None
    ) -> OutgoingRequest:
        # A target uses the same URL, the same headers object and mostly the same key, so the result is cached.
        asked_with, keyed_with, url, headers = self._keyed_addresses.get(request.url, _NO_KEYED_ADDRESS)
        if asked_with is not request.headers or keyed_with != key:
            url, headers = self._keyed_address(request, key)
            self._keyed_addresses[request.url] = (request.headers, key, url, headers)
        if timeout_s is None:
            timeout_s = self._target.gateway.attempt_timeout_s
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
        has_joined = _has_joined_text(answer.outcome, body)
        if has_joined and self._has_split_key(answer.outcome, body):
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
        if has_joined and isinstance(outcome, Reply):
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
