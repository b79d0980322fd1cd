"""One HTTP exchange as values: the request, and how the answer is sent byte by byte.

An `Answer` describes everything a transport must do, including faults: stop in mid-body, reset, hang. The server does
it on a socket; in virtual time an in-process transport does the same with `pieces` and its own clock. The transport
ends every answer with exactly one call of `delivered` or `lost`.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Framing = Literal["length", "chunked", "close", "raw"]
ConnectionEnd = Literal["keep", "close", "cut", "reset", "hang"]
Piece = tuple[float, bytes]
"""Seconds to wait first, and bytes to send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A client's request. Header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""

    @classmethod
    def of(cls, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Request:
        """Build a request from a URL; its host is ignored."""
        parts = urllib.parse.urlsplit(url)
        return cls(
            method=method,
            path=urllib.parse.unquote(parts.path),
            query=dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in (headers or {}).items()},
            body=body,
        )


@dataclass(slots=True, kw_only=True)
class Answer:
    """What is sent back."""

    status: int | None
    """None: nothing is sent before the ending, not even a status line."""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    pieces: Iterable[Piece] = ()
    """May be infinite."""
    wait_s: float = 0.0
    """Before the first byte."""
    framing: Framing = "length"
    """How the client finds the end of the body; `raw`: the pieces are the whole response, status line included."""
    promised: int | None = None
    """The Content-Length that is sent, if not the true one."""
    ending: ConnectionEnd = "keep"
    """After the last piece: keep the connection, close it when idle, end it at once (`cut`), reset it, or send nothing
    more and end it later (`hang`)."""
    ending_wait_s: float = 0.0
    """Before the ending `close`, or until a `hang` ends."""
    refuse_s: float = 0.0
    """How long new connections are refused from now on."""
    whole: bool = True
    """Whether the pieces form a complete response."""
    on_end: Callable[[bool, float], None] | None = None
    """Called once with whether the answer was delivered, and the time."""

    @property
    def content(self) -> bytes:
        """All pieces joined; not for infinite answers."""
        return b"".join(piece for _, piece in self.pieces)

    def delivered(self, now: float) -> None:
        """Record that everything was sent while the connection was open."""
        self._end(self.whole, now)

    def lost(self, now: float) -> None:
        """Record that the client disconnected first."""
        self._end(False, now)

    def _end(self, delivered: bool, now: float) -> None:
        callback, self.on_end = self.on_end, None
        if callback is not None:
            callback(delivered, now)
