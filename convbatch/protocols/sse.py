"""Parse an event stream, received in chunks of any size, to `SseEvent`s; independent of the protocol.

Lines end at CR, LF or CRLF only (a raw U+2028 is part of its line); comments and unknown fields are skipped; several
`data` lines are joined by newlines; `[DONE]` is returned like other data, for the protocols to interpret. Two
extensions of the standard, which gateways require: an event that the end of the body truncates is still returned, and
JSON lines without `data:` (some gateways send errors in a stream so) form one event up to the next empty line.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html (read 2026-11-21).
"""

from __future__ import annotations

from typing import Any

MAX_EVENT_BYTES = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class SseEvent:
    """One event: its name ("" when the stream gave none) and its data; neither is changed.

    Bytes that are not UTF-8 are kept in `data` as lone surrogates (`surrogateescape`), so that decoding the data can
    detect them.
    """

    __slots__ = ("data", "decoded", "event")

    def __init__(self, *, event: str, data: str) -> None:
        self.event = event
        self.data = data
        self.decoded: Any = ...
        """The decoded data once `decoding.read_event` was asked for them: an event is folded and measured."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SseEvent) and (self.event, self.data) == (other.event, other.data)

    def __hash__(self) -> int:
        return hash((self.event, self.data))

    def __repr__(self) -> str:
        return f"SseEvent(event={self.event!r}, data={self.data!r})"


class EventTooLong(ValueError):
    """One event is larger than allowed; the parser cannot be used any more."""


class SseParser:
    """Splits a stream into events; keeps the incomplete line and event between chunks."""

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._held = 0
        self._pieces: list[bytes] = []
        self._after_cr = False
        self._at_start = True
        self._event = ""
        self._data: list[str] = []
        self._bare = False

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Process the next chunk, split anywhere, and return the events it completes.

        Raises:
            EventTooLong: One event exceeds the limit.
        """
        if (usual := self._usual_event(chunk)) is not None:
            return [usual]
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
        if not chunk:
            return []
        lines = chunk.splitlines()  # of bytes: CR, LF and CRLF, nothing else
        self._after_cr = chunk.endswith(b"\r")
        unfinished = b"" if chunk.endswith((b"\r", b"\n")) else lines.pop()
        events: list[SseEvent] = []
        for line in lines:
            self._line(self._whole_line(line), events)
        if unfinished:
            self._hold(len(unfinished))
            self._pieces.append(unfinished)
        return events

    def _usual_event(self, chunk: bytes) -> SseEvent | None:
        """Return the only event of a chunk that is one `data` line, as most are, and is neither begun nor continued."""
        if chunk[:6] != b"data: " or self._pieces or self._data or self._event or self._at_start or self._after_cr:
            return None
        if chunk[-2:] != b"\n\n" and chunk[-4:] != b"\r\n\r\n":
            return None
        line = chunk[6:].rstrip(b"\r\n")
        if b"\n" in line or b"\r" in line or len(chunk) - len(line) > 10 or len(line) > self._max:
            return None
        return SseEvent(event="", data=line.decode("utf-8", "surrogateescape"))

    def close(self) -> list[SseEvent]:
        """End the body and return the event that was still open."""
        events: list[SseEvent] = []
        if self._pieces:
            self._line(self._whole_line(b""), events)
        self._dispatch(events)
        return events

    def _whole_line(self, last: bytes) -> bytes:
        line = last
        if self._pieces:
            line = b"".join((*self._pieces, last))
            self._held -= len(line) - len(last)
            self._pieces.clear()
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        return line

    def _line(self, line: bytes, events: list[SseEvent]) -> None:
        if not line:
            self._dispatch(events)
            return
        if self._bare:
            self._take(line)
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._take(value[1:] if value[:1] == b" " else value)
        elif name == b"event":
            self._event = value.removeprefix(b" ").decode("utf-8", "surrogateescape")
        elif line[:1] in b"{[" and not self._data:
            self._bare = True
            self._take(line)

    def _take(self, value: bytes) -> None:
        self._hold(len(value) + 1)
        self._data.append(value.decode("utf-8", "surrogateescape"))

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > self._max:
            raise EventTooLong(f"an event of the stream is longer than {self._max} bytes")

    def _dispatch(self, events: list[SseEvent]) -> None:
        if self._data:
            events.append(SseEvent(event=self._event, data="\n".join(self._data)))
        self._event = ""
        self._data.clear()
        self._held = 0
        self._bare = False
