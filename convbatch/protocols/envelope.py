"""Find the JSON of a success body that is not just JSON: among comments, in an event stream, with control characters.

Only for bodies that the strict reader refused. Tolerance ends where the answer would no longer be certain: a value that
is cut, or several values that differ, are not one answer. What the values mean belongs to the protocols.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from convbatch.lazy_regex import lazy_regex
from convbatch.protocols.decoding import DONE
from convbatch.protocols.sse import EventTooLong, SseEvent, SseParser
from convbatch.protocols.wire import encode_json
from convbatch.strict_json import MAX_RECEIVED_DEPTH, TooDeep, refuse_deep

NOT_ASKED = "an event stream that was not asked for"
_BOM = b"\xef\xbb\xbf"
_FIELDS_OF_STREAM = ("data:", "event:", "id:", "retry:")
_STREAM = re.compile(rb"\s*(?::[^\r\n]*[\r\n]\s*)*(?:data|event|id|retry)\s*:")
_SKIPPED = lazy_regex(
    # comments, fields of an event stream that hold no JSON, `[DONE]`
    r'[\s\0]+|:[^\r\n]*|(?:event|id|retry)\s*:[^\r\n]*|(?:data\s*:)?[ \t]*"?\[DONE\]"?|data\s*:[ \t]*(?=[\r\n{\[]|$)'
)
_LINE_OF_JSON = lazy_regex(r"^[ \t]*(?:data\s*:[ \t]*)?([{\[])", re.MULTILINE)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_NESTING = lazy_regex(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a body contains: one value, or the events of a stream."""

    value: Any = None
    events: tuple[SseEvent, ...] = ()
    """Empty if `value` is what was found."""
    notes: tuple[str, ...] = ()


class NotOneAnswer(ValueError):
    """There is no JSON value, a cut one, or several that differ; the message says which."""


def find(body: bytes, *, after_text: bool = True) -> Found:
    """Find the one JSON value of a body, or the events of its stream.

    Args:
        body: Not empty.
        after_text: Whether other text may stand before the JSON, such as the warning of a proxy's script.

    Raises:
        NotOneAnswer: There is not exactly one.
    """
    dechunked = _without_chunk_sizes(body)
    if dechunked is not None:
        found = find(dechunked, after_text=after_text)
        return replace(found, notes=("chunk sizes inside the body", *found.notes))
    text, notes = _to_text(body)
    found = _in_stream(text) if is_stream(body) else None
    if found is None:
        found = _in_text(text, after_text=after_text)
    return replace(found, notes=(*notes, *found.notes))


def is_stream(body: bytes) -> bool:
    """Whether a body begins as an event stream, comments aside."""
    return _STREAM.match(body.removeprefix(_BOM)) is not None


def may_become_stream(body: bytes) -> bool:
    """Whether a body is, or may be the beginning of, an event stream."""
    line = body.removeprefix(_BOM).lstrip()[:8].decode("latin-1")
    return line[:1] == ":" or any(line.startswith(name) or name.startswith(line) for name in _FIELDS_OF_STREAM)


def parse_tolerantly(text: str, start: int = 0) -> tuple[Any, int, tuple[str, ...]]:
    """Parse the JSON value at a place, with raw control characters in strings, and `NaN` and `Infinity` as null.

    Returns:
        The value, its end, and what was odd about it.

    Raises:
        ValueError: It is not JSON, or is nested too deeply.
    """
    _refuse_deep_text(text, start)  # before the parser recurses, at whose depth even a destructor would fail
    words: list[str] = []
    notes: list[str] = []
    try:
        try:
            value, end = json.JSONDecoder(parse_constant=words.append).raw_decode(text, start)
        except json.JSONDecodeError:
            words.clear()
            value, end = json.JSONDecoder(strict=False, parse_constant=words.append).raw_decode(text, start)
            notes.append("raw control characters in a string")
    except RecursionError:
        raise TooDeep from None
    refuse_deep(text[start:end].encode("utf-8", "surrogatepass"), value, MAX_RECEIVED_DEPTH)
    notes += [f"{word} read as null" for word in dict.fromkeys(words)]
    return value, end, tuple(notes)


def _refuse_deep_text(text: str, start: int) -> None:
    """Raise `TooDeep` if the value at a place is nested too deeply."""
    depth = 0
    for found in _NESTING.finditer(text, start):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > MAX_RECEIVED_DEPTH:
            raise TooDeep
        if depth <= 0:
            return


def _to_text(body: bytes) -> tuple[str, tuple[str, ...]]:
    """Decode a body, and say what was odd about its bytes."""
    encoding = json.detect_encoding(body)
    if encoding.startswith(("utf-16", "utf-32")):
        try:
            return body.decode(encoding), (f"the body is {encoding.upper()}",)
        except UnicodeDecodeError:
            pass
    try:
        return body.decode("utf-8-sig"), ()
    except UnicodeDecodeError:
        text = body.decode("utf-8-sig", "replace")
    bad = text.count("\ufffd")
    if bad > 1 and bad > sum(not character.isascii() for character in text) - bad:
        try:  # more wrong than right: not UTF-8 at all; of other encodings, only this one is seen without its name
            return body.decode("gb18030"), ("the body is not UTF-8, and was read as GB18030",)
        except UnicodeDecodeError:
            pass
    return text, (f"{bad} wrong {'byte' if bad == 1 else 'bytes'} (not UTF-8) replaced",)


def _without_chunk_sizes(body: bytes) -> bytes | None:
    """Return the content of a body that was chunked twice; None for any other."""
    pieces: list[bytes] = []
    at = 0
    while (head := _CHUNK_SIZE.match(body, at)) is not None:
        size = int(head[1], 16)
        if size == 0:
            return b"".join(pieces) if pieces and not body[head.end() :].strip() else None
        at = head.end() + size
        pieces.append(body[head.end() : at])
        if body[at : at + 2] != b"\r\n":
            return None
        at += 2
    return None


def _in_stream(text: str) -> Found | None:
    """Read an event stream; None if none of its events holds JSON."""
    parser = SseParser()
    try:
        events = [*parser.feed(text.encode("utf-8", "surrogatepass")), *parser.close()]
    except EventTooLong as error:
        raise NotOneAnswer(str(error)) from None
    notes: list[str] = [NOT_ASKED]
    kept: list[SseEvent] = []
    is_json = False
    for event in events:
        for data in _data_of(event):
            try:
                value, end, odd = parse_tolerantly(data)
            except ValueError:
                kept.append(SseEvent(event=event.event, data=DONE if data.strip('"') == DONE else data))
                continue
            is_json = True
            notes += odd
            kept.append(
                SseEvent(event=event.event, data=encode_json(value).decode("utf-8") if not data[end:] else data)
            )
    return Found(events=tuple(kept), notes=tuple(dict.fromkeys(notes))) if is_json else None


def _data_of(event: SseEvent) -> list[str]:
    """Return the data of an event; of each of its lines if these are JSON of their own."""
    data = event.data.strip()
    if "\n" not in data:
        return [data] if data else []
    lines = [line.strip() for line in data.split("\n") if line.strip()]
    if all(line.strip('"') == DONE or (line[0] == "{" and line[-1] == "}") for line in lines[:-1]):
        return lines
    return [data]


def _in_text(text: str, *, after_text: bool) -> Found:
    at = _skip(text, 0)
    notes: list[str] = []
    if text[:at].strip():
        notes.append("comments or `data:` before the JSON")
    if text[at : at + 1] not in ("{", "[", '"'):
        place = _LINE_OF_JSON.search(text, at) if after_text else None
        if place is None:
            raise NotOneAnswer("not JSON")
        notes.append(f"other text before the JSON ({_start_of(text[at:])})")
        at = place.start(1)
    values: list[Any] = []
    while text[at : at + 1] in ("{", "[") or (not values and text[at : at + 1] == '"'):
        try:
            value, end, odd = parse_tolerantly(text, at)
        except ValueError as error:
            raise NotOneAnswer(str(error)) from None
        values.append(value)
        notes += odd
        at = _skip(text, end)
        if text[end:at].strip() and at == len(text):
            notes.append("`data: [DONE]` or comments after the JSON")
    if at < len(text):
        notes.append(f"other text after the JSON ({_start_of(text[at:])})")
    return _one_of(values, notes)


def _one_of(values: list[Any], notes: list[str]) -> Found:
    if len(values) == 1:
        return Found(value=values[0], notes=tuple(dict.fromkeys(notes)))
    if all(value == values[0] for value in values):
        notes.append(f"the same JSON {len(values)} times")
        return Found(value=values[0], notes=tuple(dict.fromkeys(notes)))
    notes.append("a stream of JSON values that was not asked for")
    events = tuple(SseEvent(event="", data=encode_json(value).decode("utf-8")) for value in values)
    return Found(events=events, notes=tuple(dict.fromkeys(notes)))


def _skip(text: str, at: int) -> int:
    """Return the place after blanks, comments and fields of an event stream without JSON."""
    while (skipped := _SKIPPED.match(text, at)) is not None and skipped.end() > at:
        at = skipped.end()
    return at


def _start_of(text: str) -> str:
    line = " ".join(text[:80].split())
    return repr(line if len(line) <= 30 else line[:29] + "…")
