"""Redact keys that a stream delivers in pieces, which no search of its bytes can find.

Only for bodies in whose joined text a key was found, which is rare: the events are then written anew, with all of the
redacted text in the first of its pieces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple

from convbatch.protocols.envelope import is_stream
from convbatch.protocols.sse import EventTooLong, SseEvent, SseParser
from convbatch.protocols.wire import MalformedReply, decode_json, encode_json
from convbatch.redaction import Redactor

_NAMES_OF_SERIES = ("type", "index", "output_index", "content_index", "thought")
"""Fields that say which text a piece belongs to."""


class _Piece(NamedTuple):
    """One string of an event, in the object or list that holds it."""

    holder: Any
    key: Any
    text: str


def without_split_keys(body: bytes, redactor: Redactor) -> bytes:
    """Return the body of an event stream with keys redacted in the joined strings of each place; other bodies as is."""
    if not is_stream(body):
        return body
    parser = SseParser()
    try:
        events = [*parser.feed(body), *parser.close()]
    except EventTooLong:
        return body
    values = [_value(event) for event in events]
    series: defaultdict[Hashable, list[_Piece]] = defaultdict(list)
    for value in values:
        for place, piece in _pieces(value, (_names(value),)):
            series[place].append(piece)
    if not sum(_redact(pieces, redactor) for pieces in series.values()):
        return body
    return b"".join(_encoded(event, value) for event, value in zip(events, values, strict=True))


def _value(event: SseEvent) -> Any:
    """Return the decoded data of an event; None if it is not JSON."""
    try:
        return decode_json(event.data.encode("utf-8", "surrogateescape"))
    except MalformedReply:
        return None


def _encoded(event: SseEvent, value: Any) -> bytes:
    name = f"event: {event.event}\n" if event.event else ""
    data = event.data.encode("utf-8", "surrogateescape") if value is None else encode_json(value)
    return name.encode("utf-8", "surrogateescape") + b"data: " + b"\ndata: ".join(data.split(b"\n")) + b"\n\n"


def _names(value: Any) -> Hashable:
    if not isinstance(value, Mapping):
        return ()
    return tuple(str(value[name]) for name in _NAMES_OF_SERIES if name in value)


def _pieces(value: Any, place: tuple[Hashable, ...]) -> Iterator[tuple[Hashable, _Piece]]:
    """Yield each string below a value with its place: the same for all pieces of one text."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if isinstance(item, str):
            yield (*place, key), _Piece(value, key, item)
        elif isinstance(item, dict | list):
            yield from _pieces(item, (*place, key, _names(item)))


def _redact(pieces: list[_Piece], redactor: Redactor) -> bool:
    """Redact the joined text of some pieces in their holders; return whether there was anything to redact."""
    joined = "".join(piece.text for piece in pieces).encode("utf-8", "surrogatepass")
    clean, _ = redactor.body(joined)
    if clean == joined:
        return False
    for number, piece in enumerate(pieces):
        piece.holder[piece.key] = "" if number else clean.decode("utf-8", "surrogatepass")
    return True
