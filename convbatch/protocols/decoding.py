"""Shared by all protocols for parsing success bodies: JSON or a description of the problem, and valid counts.

Field names belong to each protocol; error responses are `error_mapping.py`.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import orjson

from convbatch.protocols.sse import SseEvent
from convbatch.protocols.wire import CutReply, MalformedReply, decode_json
from convbatch.reply import Usage
from convbatch.strict_json import MAX_RECEIVED_DEPTH, parse_received, refuse_deep

DONE = "[DONE]"
_MAX_COUNT = 2**53
"""Larger JSON numbers are not exact in every parser, and no count of tokens is that large."""
_COUNT_DIGITS = len(str(_MAX_COUNT))
_SHALLOW = 2 * MAX_RECEIVED_DEPTH
"""Bytes that JSON needs at least for deeper nesting than is allowed."""
_EXCERPT_BYTES = 8192
_EXCERPT_CHARS = 200
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_UNSEEN = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>?")
_NOT_PRINTED = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ufffd]+")


def read_reply(body: bytes) -> Any:
    """Decode the JSON of a success body.

    Raises:
        CutReply: The body is empty, or truncated JSON.
        MalformedReply: Any other body that is not JSON; the message describes it.
    """
    try:
        return decode_json(body)
    except MalformedReply as error:
        _raise_malformed(body, str(error))


def decode_arguments(arguments: Any) -> Any:
    """Return the arguments of a call from their text; what is no text, or no JSON, stays as it is: it is a result.

    Some servers send an empty text for a call without arguments.
    """
    if not isinstance(arguments, str):
        return arguments
    if not arguments.strip():
        return {}
    try:
        return decode_json(arguments.encode("utf-8", "surrogatepass"))
    except MalformedReply:
        return arguments


def read_event(event: SseEvent) -> list[Any] | None:
    """Decode the JSON values of one event: usually one, several for an array, none for `[DONE]`.

    Returns:
        None when the data is not JSON: a truncated line, or garbage.
    """
    if event.decoded is ...:
        event.decoded = _decode_event(event.data.strip())
    return event.decoded


def read_quickly(data: bytes) -> Any:
    """Decode the data of an event in which integers beyond 64 bits do not matter; None for data that are no JSON."""
    try:
        value = orjson.loads(data)
        if len(data) > _SHALLOW:
            refuse_deep(data, value, MAX_RECEIVED_DEPTH)
    except ValueError:
        return None
    return value


def read_data(data: bytes) -> list[Any] | None:
    """Decode the data of an event, which is not decoded, as `read_event`; nearly all are one object."""
    if data[:1] == b"{":
        try:
            return [parse_received(data)]
        except ValueError:  # perhaps only spaces around it that are none in JSON
            pass
    return _decode_event(data.decode("utf-8", "surrogateescape").strip())


def _decode_event(data: str) -> list[Any] | None:
    if data in ("", DONE):
        return []
    try:
        value = decode_json(data.encode("utf-8", "surrogateescape"))
    except MalformedReply:
        return None
    return value if isinstance(value, list) else [value]


def body_excerpt(body: bytes) -> str:
    """Return the start of the visible text of a body as one line, without tags, scripts and control characters."""
    text = body[:_EXCERPT_BYTES].decode("utf-8", "replace")
    if "<" in text:
        text = html.unescape(_TAG.sub(" ", _UNSEEN.sub(" ", text)))
    text = _NOT_PRINTED.sub(" ", text).strip()
    return text if len(text) <= _EXCERPT_CHARS else text[: _EXCERPT_CHARS - 1] + "…"


def word(value: Any) -> str | None:
    """Return a string; None for "", which gateways send for unknown values, and for other types."""
    return value if isinstance(value, str) and value else None


def raw_word(value: Any) -> str | None:
    """Return the gateway's own value as a string, whatever its type; None for null, objects and arrays."""
    if value is None or isinstance(value, dict | list):
        return None
    return str(value)


def mean_logprob(tokens: Any, name: str) -> float | None:
    """Return the mean log probability of a list of tokens; None without one, or when a value is no number.

    Args:
        tokens: As received: a list of objects.
        name: Their field with the log probability.
    """
    if not isinstance(tokens, list) or not tokens:
        return None
    values: list[float] = []
    for token in tokens:
        value = token.get(name) if isinstance(token, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        values.append(value)
    return math.fsum(values) / len(values)


def signed_count(value: Any) -> int | None:
    """Return a number as a count, also one written as a string of digits; None for anything that is no number.

    Returns:
        A negative count as it is, and -1 for a number that is no count (1.5, more than 2**53): `usage_of` removes what
        is impossible, and it is not the same as a count that was not sent.
    """
    if type(value) is int:
        return value if -_MAX_COUNT <= value <= _MAX_COUNT else -1
    if isinstance(value, str) and len(value) <= _COUNT_DIGITS and value.isascii() and value.isdigit():
        value = int(value)
    if type(value) is float:
        value = int(value) if value.is_integer() else -1
    if type(value) is not int:
        return None
    return value if -_MAX_COUNT <= value <= _MAX_COUNT else -1


def first_of(items: list[Any], what: str) -> Mapping[str, Any]:
    """Return the item to read: the one with index 0, else the first.

    Raises:
        MalformedReply: The items are not objects.
    """
    for item in items:
        if not isinstance(item, dict):
            raise MalformedReply(f"{what} contains {type(item).__name__} instead of objects")
        if item.get("index") in (0, None):
            return item
    return items[0]


def count_under(counts: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the count under one of the names; gateways that know several fill in the others with 0."""
    known = [count for name in names if (count := signed_count(counts.get(name))) is not None]
    return next((count for count in known if count), known[0] if known else None)


def details_under(counts: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return the object under the first of the names that has one; empty without any."""
    return next((details for name in names if isinstance(details := counts.get(name), dict)), {})


def usage_of(counts: Usage, *, was_read: bool = False, has_output: bool = False) -> Usage:
    """Return the usage of a reply that has a usage object, without the counts that cannot be right.

    A part is never negative or larger than its whole, all parts together are not larger than it, and the total is not
    smaller than input or output. The whole of an impossible part is unknown too: which of the two is wrong cannot be
    told. A total of 0 beside other counts was not filled in.

    `source` is `reported` when both input and output are known, else `partial` (`missing` is for replies without a
    usage object). `consistent` is False if a count was impossible or the total is not input + output, else None unless
    all three are known.

    Args:
        counts: As sent, under our names, and inclusive: input with cached and written tokens, output with reasoning.
        was_read: Whether a model has read the question: then the input is not 0.
        has_output: Whether a reply has text, thought, tool calls or media: then the output is not 0.
    """
    if (usual := _usual(counts, was_read=was_read, has_output=has_output)) is not None:
        return usual
    is_right = True
    if not _is_possible(counts, _INPUT_COUNTS, is_positive=was_read) or not _is_possible(counts, _WRITTEN_COUNTS):
        counts, is_right = _without(counts, (*_INPUT_COUNTS, *_WRITTEN_COUNTS)), False
    if not all(_is_possible(counts, names) for names in _AUDIO_COUNTS):
        counts, is_right = _without(counts, (*_INPUT_COUNTS, *_WRITTEN_COUNTS, *_AUDIO_PARTS)), False
    if not _is_possible(counts, _OUTPUT_COUNTS, is_positive=has_output):
        counts, is_right = _without(counts, _OUTPUT_COUNTS), False
    given, taken, total = counts.input_tokens, counts.output_tokens, counts.total_tokens
    if total == 0 and (was_read or has_output or given or taken):
        counts, total = counts._replace(total_tokens=None), None
    if given is not None and taken is not None:
        least = max(given, taken)
    else:
        least = (was_read if given is None else given) + (has_output if taken is None else taken)
    if total is not None and total < least:
        counts, total, is_right = counts._replace(total_tokens=None), None, False
    is_known = given is not None and taken is not None
    consistent = None if given is None or taken is None or total is None else given + taken == total
    return counts._replace(source="reported" if is_known else "partial", consistent=consistent if is_right else False)


def _usual(counts: Usage, *, was_read: bool, has_output: bool) -> Usage | None:
    """Return the usage of counts that are all possible and have no parts beside cached and reasoning tokens."""
    given, cached, written, taken, reasoned, total = counts[:6]
    if given is None or taken is None or total is None or written is not None or counts[8:13] != _NO_PARTS:
        return None
    if given < was_read or taken < has_output or total < given or total < taken or total == 0:
        return None
    if (cached is not None and not 0 <= cached <= given) or (reasoned is not None and not 0 <= reasoned <= taken):
        return None
    return Usage(given, cached, None, taken, reasoned, total, "reported", given + taken == total, *counts[8:])


_NO_PARTS = (None,) * 5
# A count and its parts, which do not overlap.
_INPUT_COUNTS = ("input_tokens", "cached_input_tokens", "cache_write_input_tokens")
_WRITTEN_COUNTS = ("cache_write_input_tokens", "cache_write_1h_input_tokens")
_OUTPUT_COUNTS = ("output_tokens", "reasoning_tokens", "output_image_tokens", "output_audio_tokens")
_AUDIO_PARTS = ("input_audio_tokens", "cached_input_audio_tokens")
_AUDIO_COUNTS = (
    ("input_tokens", "input_audio_tokens"),
    ("cached_input_tokens", "cached_input_audio_tokens"),
    _AUDIO_PARTS,
)


def _is_possible(counts: Usage, names: tuple[str, ...], *, is_positive: bool = False) -> bool:
    whole, *parts = (getattr(counts, name) for name in names)
    known = [part for part in parts if part is not None]
    if any(part < 0 for part in known) or (whole == 0 and is_positive):
        return False
    return whole is None or (whole >= 0 and sum(known) <= whole)


def _without(counts: Usage, names: tuple[str, ...]) -> Usage:
    return counts._replace(**dict.fromkeys(names))


def _raise_malformed(body: bytes, error: str) -> NoReturn:
    start = body[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:8].lower()
    if not body.strip():
        raise CutReply("the body is empty") from None
    if start.startswith(b"<"):
        raise MalformedReply(f"a web page instead of JSON ({body_excerpt(body)!r}): is base_url right?") from None
    if start.startswith((b"data:", b"event:", b":")):
        raise MalformedReply(f"an event stream instead of one JSON body ({body_excerpt(body)!r})") from None
    if start.startswith((b"{", b"[")) and _is_cut(body):
        raise CutReply(f"JSON that stops after {len(body)} bytes") from None
    raise MalformedReply(f"{error} ({body_excerpt(body)!r})") from None


def _is_cut(body: bytes) -> bool:
    """Whether JSON is truncated: an open string, or more opening than closing brackets."""
    rest = _STRING.sub(b"", body)
    if b'"' in rest:
        return True
    return rest.count(b"{") + rest.count(b"[") > rest.count(b"}") + rest.count(b"]")
