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


RawEvent = tuple[str, bytes]
"""Name and data of an event, as `SseEvent` has them, but not decoded."""


class SseParser:
    """Splits a stream into events; keeps the incomplete line and event between chunks."""

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._held = 0
        self._pieces: list[bytes] = []
        self._after_cr = False
        self._at_start = True
        self._event = ""
        self._data: list[bytes] = []
        self._bare = False

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Process the next chunk, split anywhere, and return the events it completes.

        Raises:
            EventTooLong: One event exceeds the limit.
        """
        return [_decoded(event) for event in self.feed_raw(chunk)]

    def feed_raw(self, chunk: bytes) -> list[RawEvent]:
        """Do the same as `feed`; most events are found by splitting the chunk at empty lines, without a look at lines.

        Raises:
            EventTooLong: One event exceeds the limit.
        """
        events: list[RawEvent] = []
        blank = b"\r\n\r\n" if b"\r\n\r\n" in chunk else b"\n\n"
        *blocks, rest = chunk.split(blank)
        start = 0
        if blocks and not self._is_between_events(chunk):
            first = blocks.pop(0) + blank
            start = len(first)
            self._add_lines(first, events)
        usual, lines = _usual_events(blocks, blank)
        if lines == _count_lines(chunk, start, len(chunk) - len(rest), blank) and len(chunk) < self._max:
            events += usual
            blocks = []
        for block in blocks:
            if block[:6] == b"data: " and b"\n" not in block and b"\r" not in block and len(block) < self._max:
                events.append(("", block[6:]))
            else:
                self._add_lines(block + blank, events)
        if rest:
            self._add_lines(rest, events)
        return events

    def close(self) -> list[SseEvent]:
        """End the body and return the event that was still open."""
        return [_decoded(event) for event in self.close_raw()]

    def close_raw(self) -> list[RawEvent]:
        """Do the same as `close`."""
        events: list[RawEvent] = []
        if self._pieces:
            self._line(self._whole_line(b""), events)
        self._dispatch(events)
        return events

    def _is_between_events(self, chunk: bytes) -> bool:
        """Whether nothing is open, so that the chunk begins with the first line of an event."""
        if self._at_start and not self._pieces and chunk[:1] != _BOM[:1]:
            self._at_start = False
        return not (self._at_start or self._after_cr or self._pieces or self._data or self._event or self._bare)

    def _add_lines(self, chunk: bytes, events: list[RawEvent]) -> None:
        """Process bytes, split anywhere, line by line."""
        if self._after_cr:
            self._after_cr = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
        if not chunk:
            return
        lines = chunk.splitlines()  # of bytes: CR, LF and CRLF, nothing else
        self._after_cr = chunk.endswith(b"\r")
        unfinished = b"" if chunk.endswith((b"\r", b"\n")) else lines.pop()
        for line in lines:
            self._line(self._whole_line(line), events)
        if unfinished:
            self._hold(len(unfinished))
            self._pieces.append(unfinished)

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

    def _line(self, line: bytes, events: list[RawEvent]) -> None:
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
        self._data.append(value)

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > self._max:
            raise EventTooLong(f"an event of the stream is longer than {self._max} bytes")

    def _dispatch(self, events: list[RawEvent]) -> None:
        if self._data:
            events.append((self._event, b"\n".join(self._data)))
        self._event = ""
        self._data.clear()
        self._held = 0
        self._bare = False


def _usual_events(blocks: list[bytes], blank: bytes) -> tuple[list[RawEvent], int]:
    """Return the events of blocks that are one line of data each, perhaps below a name, and how many lines these are.

    Returns:
        The number is -1 if a block is anything else, and wrong if there is another line in it.
    """
    mark = blank[: len(blank) // 2] + b"data: "
    events: list[RawEvent] = []
    lines = 2 * len(blocks)
    for block in blocks:
        if block[:6] == b"data: ":
            events.append(("", block[6:]))
        elif block[:7] == b"event: " and mark in block:
            name, _, data = block[7:].partition(mark)
            events.append((name.decode("utf-8", "surrogateescape"), data))
            lines += 1
        else:
            return [], -1
    return events, lines


def _count_lines(chunk: bytes, start: int, end: int, blank: bytes) -> int | None:
    """Return how many lines are in a part of a chunk; None if they do not all end as its empty lines."""
    lines, returns = chunk.count(b"\n", start, end), chunk.count(b"\r", start, end)
    return lines if returns == (lines if blank[:1] == b"\r" else 0) else None


def _decoded(event: RawEvent) -> SseEvent:
    return SseEvent(event=event[0], data=event[1].decode("utf-8", "surrogateescape"))
