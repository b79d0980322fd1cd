"""One HTTP request and its response as values, and how they fail: what a client and a transport have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from multidict import CIMultiDictProxy

from convbatch.engine.streaming import StreamWatch
from convbatch.errors import JournalError
from convbatch.journal.media_store import SharedBody
from convbatch.reply import Attempt

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Limit on a decoded body; a larger one is unreadable."""
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADERS = 1000
CONNECT_TIMEOUT_S = 10.0


class OutgoingRequest(NamedTuple):
    """One HTTP request as it is sent, including the key; never journaled, never printed."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | SharedBody | None
    timeout_s: float
    watch: StreamWatch | None = None
    """Gets the body of a streamed response piece by piece, and says how long a silence may last."""
    max_body_bytes: int = MAX_BODY_BYTES
    """Limit on the decoded body of the response."""
    on_new_connection: bool = False
    """Whether no connection is used again for it: a server may close those that it has answered on, time and again."""


class HttpResponse(NamedTuple):
    """One complete HTTP response; `body` is decoded, header names are compared without case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    notes: tuple[str, ...] = ()
    """What was odd about its encoding."""


class ResponseHead(NamedTuple):
    """Status and headers of a response."""

    status: int
    headers: CIMultiDictProxy[str]


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


class Intent(Protocol):
    """What must be written before a request is sent."""

    def write(self) -> None:
        """Write it, unless it is written; raises `JournalError`."""
        ...

    def write_then(self, send: Callable[[], None], refuse: Callable[[JournalError], None]) -> None:
        """Write it with others in this round of the event loop, then call `send`; if it cannot be written, `refuse`."""
        ...


class Transport(Protocol):
    """How a request reaches a server: aiohttp, or a simulated provider in the same process."""

    async def send(self, outgoing: OutgoingRequest) -> HttpResponse:
        """Send one request and return the complete response; raises `NoResponse`."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


@runtime_checkable
class IntentTransport(Transport, Protocol):
    """A transport that has an intent written when it sends; for any other one, it is written before."""

    async def send_with(self, outgoing: OutgoingRequest, intent: Intent | None) -> HttpResponse:
        """Send one request as `send`; raises also `JournalError`, and then nothing was sent."""
        ...


class NotSentCancelled(asyncio.CancelledError):
    """Cancelled before any byte was sent."""
