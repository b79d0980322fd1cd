"""Follow a streamed response while it arrives: time to first text, times between its chunks, and the reply itself.

The body is collected by the transport and read by `protocols.reading`, as any other. Only of a stream without anything
odd the reply that was folded here is taken, which is the same: it saves reading the body a second time. A chunk is an
event that adds text or thought; comments, pings and usage are none.
"""

from __future__ import annotations

import itertools
import math
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from convbatch.protocols.envelope import may_become_stream
from convbatch.protocols.sse import EventTooLong, RawEvent, SseParser
from convbatch.protocols.stream_fold import StreamFold
from convbatch.protocols.stream_text import ends_stream
from convbatch.protocols.wire import WireProtocol
from convbatch.reply import Reply
from convbatch.system import Clock

SILENCE_S = 120.0
"""A stream that has begun and sends no byte for so long is given up; any byte counts, a comment too."""
LINGER_S = 5.0
"""The same after the event that ends the reply, for servers that keep the connection open."""
_MAX_EVENT_BYTES = 8 * 1024 * 1024
_MAX_PLAIN_BYTES = 64 * 1024 * 1024
_PIECE_BYTES = 64 * 1024
_HEAD_BYTES = 8


class StreamTimes(NamedTuple):
    """Times of a stream, in seconds; all None for a response that is no event stream."""

    ttft_s: float | None = None
    """From sending the request to the first thought or text that is not empty; None without any."""
    chunks: int | None = None
    itl_p50_s: float | None = None
    """Median of the times between two chunks; None with less than two."""
    itl_p95_s: float | None = None


NO_STREAM = StreamTimes()


class StreamWatch:
    """Follows one streamed response; `received` gets every piece of its body as it comes from the network."""

    def __init__(
        self,
        protocol: WireProtocol,
        clock: Clock,
        *,
        silence_s: float = SILENCE_S,
        linger_s: float = LINGER_S,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        """Begin to follow a response.

        Args:
            protocol: Folds the events.
            clock: For the time of arrival.
            silence_s: See `SILENCE_S`.
            linger_s: See `LINGER_S`.
            on_text: Gets the text of the reply as it arrives, without thoughts.
        """
        self._on_text = on_text
        self._fold = StreamFold(protocol)
        self._clock = clock
        self._silence_s = silence_s
        self._linger_s = linger_s
        self._inflate = _Inflater()
        self._parser: SseParser | None = SseParser(max_event_bytes=_MAX_EVENT_BYTES)
        self._head: bytes | None = b""
        self._events = 0
        self._first_at: float | None = None
        self._chunk_at = 0.0
        self._gaps = array("d")
        self.chunks = 0
        """Events with thought or text so far."""
        self.last_at: float | None = None
        """When the latest byte came, monotonic seconds; None before the first one."""
        self.is_over = False
        """Whether the event that ends the reply has come."""

    @property
    def silence_s(self) -> float:
        """How long to wait for the next byte."""
        return min(self._linger_s, self._silence_s) if self.is_over else self._silence_s

    def received(self, piece: bytes) -> None:
        """Note a piece of the body, compressed or not, of any size."""
        self.last_at = self._clock.monotonic()
        if self._parser is None:
            return
        try:
            if self._inflate.is_plain(piece):
                self._read(piece)
            else:
                for plain in self._inflate.pieces(piece):
                    self._read(plain)
        except (EventTooLong, zlib.error):
            self._parser = None

    def close(self) -> Reply | None:
        """End the body; return its reply, or None if the body must be read to know it. Once is enough."""
        parser, self._parser = self._parser, None
        if parser is None or self.last_at is None:
            return None
        self._note(parser.close_raw())
        return self._fold.reply() if self._events else None

    def times(self, begun: float) -> StreamTimes:
        """Return what was measured.

        Args:
            begun: When the request was sent, monotonic seconds.
        """
        if self._head is not None or not self._events:
            return NO_STREAM
        gaps = sorted(self._gaps)
        return StreamTimes(
            ttft_s=None if self._first_at is None else self._first_at - begun,
            chunks=self.chunks,
            itl_p50_s=_percentile(gaps, 0.5),
            itl_p95_s=_percentile(gaps, 0.95),
        )

    def _read(self, plain: bytes) -> None:
        if self._head is not None and not self._is_stream(plain):
            return
        if self._parser is not None:
            self._note(self._parser.feed_raw(plain))

    def _is_stream(self, plain: bytes) -> bool:
        """Collect the first bytes, which decide; False if the body is no stream, or nothing is known yet."""
        assert self._head is not None
        head = self._head + plain
        if not may_become_stream(head):
            self._parser = None
            return False
        return self._begin(head)

    def _begin(self, head: bytes) -> bool:
        if len(head.lstrip()) < _HEAD_BYTES:
            self._head = head
            return False
        held, self._head = self._head, None
        if held and self._parser is not None:
            self._parser.feed(held)
        return True

    def _note(self, events: list[RawEvent]) -> None:
        """Fold the events of one read, all of which came at the same time."""
        self._events += len(events)
        if not self.is_over:
            self.is_over = ends_stream(events)
        chunks, text, _ = self._fold.add(events)
        if not chunks:
            return
        assert self.last_at is not None
        if self._first_at is None:
            self._first_at = self.last_at
        else:
            self._gaps.append(self.last_at - self._chunk_at)
        self._gaps.extend(itertools.repeat(0.0, chunks - 1))
        self.chunks += chunks
        self._chunk_at = self.last_at
        if self._on_text is not None and text:
            self._on_text(text)


class _Inflater:
    """Undoes gzip or zlib, as the first bytes show it, piece by piece; anything else is passed on."""

    def __init__(self) -> None:
        self._window: int | None = None
        self._decoder: Any = None
        self._total = 0

    def is_plain(self, piece: bytes) -> bool:
        """Whether this piece of the body, the first or a later one, is not compressed."""
        if self._window is None:
            self._window = _window_of(piece)
        return not self._window

    def pieces(self, piece: bytes) -> Iterator[bytes]:
        """Yield what a compressed piece holds, in pieces of limited size."""
        assert self._window is not None
        while piece:
            if self._decoder is None:
                self._decoder = zlib.decompressobj(self._window)
            plain = self._decoder.decompress(piece, _PIECE_BYTES)
            self._total += len(plain)
            if self._total > _MAX_PLAIN_BYTES:
                raise zlib.error("too large")
            if plain:
                yield plain
            piece = self._decoder.unconsumed_tail
            if self._decoder.eof:  # another member may follow
                piece, self._decoder = self._decoder.unused_data, None


def _window_of(start: bytes) -> int:
    """Return the window size of compressed data; 0 if they are not compressed."""
    if start[:2] == b"\x1f\x8b":
        return zlib.MAX_WBITS | 16
    is_zlib = len(start) > 1 and start[0] & 0x0F == 8 and start[0] >> 4 <= 7 and (start[0] << 8 | start[1]) % 31 == 0
    return zlib.MAX_WBITS if is_zlib else 0


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """Nearest rank; None without a value."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None
