"""One HTTP exchange as values: what came in, and how the answer goes out byte by byte.

An `Answer` says everything a transport must do, also the improper: stop in mid-body, reset, fall silent. The server
does it on a socket; in virtual time an in-process transport does the same with `pieces` and its own clock. Whoever
plays an answer ends it with exactly one of `delivered` and `lost`.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Framing = Literal["length", "chunked", "close", "raw"]
ConnectionEnd = Literal["keep", "close", "cut", "reset", "hang"]
Piece = tuple[float, bytes]
"""Seconds to wait before, and bytes to send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client sent. Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""

    @classmethod
    def of(cls, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Request:
        """Build one from a URL, whatever its host."""
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
    """What goes back."""

    status: int | None
    """None: nothing is sent before the ending, not even a status line."""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    pieces: Iterable[Piece] = ()
    """May have no end."""
    wait_s: float = 0.0
    """Before the first byte."""
    framing: Framing = "length"
    """How the client is told where the body ends; `raw`: the pieces are the whole reply, status line included."""
    promised: int | None = None
    """The Content-Length sent, where it is not the true one."""
    ending: ConnectionEnd = "keep"
    """After the last piece: keep the connection; close it when idle; end it at once (`cut`); reset it; send nothing
    more and end it later (`hang`)."""
    ending_wait_s: float = 0.0
    """Before an ending `close`, and before the end of a `hang`."""
    refuse_s: float = 0.0
    """From now on, and for so long, new connections are refused."""
    whole: bool = True
    """Played to its end, this is a complete reply."""
    on_end: Callable[[bool, float], None] | None = None
    """Told once whether the answer was delivered, and when."""

    @property
    def content(self) -> bytes:
        """All pieces joined; never ask this of an answer without end."""
        return b"".join(piece for _, piece in self.pieces)

    def delivered(self, now: float) -> None:
        """Everything was handed over and the connection stood."""
        self._end(self.whole, now)

    def lost(self, now: float) -> None:
        """The client went away before."""
        self._end(False, now)

    def _end(self, delivered: bool, now: float) -> None:
        tell, self.on_end = self.on_end, None
        if tell is not None:
            tell(delivered, now)
