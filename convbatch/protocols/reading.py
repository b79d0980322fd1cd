"""Read one complete HTTP answer: is it a reply, a refusal of the content, or a failure?

The same for all protocols and for stored bodies. A status does not decide what an answer is, its body does: a reply is
a reply under any status, and a refusal of the content is a result, whether it comes as a reply or as an error. The
usual body takes the short way; only one in which the protocol finds no reply is searched for one (`envelope.py`,
`shapes.py`), and the row then says what was odd.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from convbatch.protocols.decoding import DONE, body_excerpt, read_event
from convbatch.protocols.envelope import NOT_ASKED, Found, find, is_stream, may_become_stream
from convbatch.protocols.finish_reasons import is_finish
from convbatch.protocols.retry_after import retry_after_s
from convbatch.protocols.shapes import read_shape, read_stream_shape
from convbatch.protocols.sse import EventTooLong, SseEvent, SseParser
from convbatch.protocols.stream_fold import StreamFold, is_hollow, is_whole
from convbatch.protocols.stream_text import added_text
from convbatch.protocols.wire import (
    Draft,
    ErrorInBody,
    MalformedReply,
    WireProtocol,
    decode_json,
    encode_json,
)
from convbatch.reply import ErrorKind, Failure, Reply

_PARTS_OF_REPLIES = (b'"choices"', b'"candidates"', b'"promptFeedback"', b'"output"', b'"stop_reason"')
_ASKED_ALL_THE_SAME = re.compile(
    r"time[d -]*out|upstream|bad gateway|gateway error|\b50[0-9]\b|\b52[0-9]\b|\breset\b|internal (?:server )?error"
    r"|overload|disconnect|connection|\bstream\b|\bclosed\b|cancell?ed|abort|超时",
    re.IGNORECASE,
)
_MAY_END: frozenset[ErrorKind] = frozenset({"rate_limit", "quota", "overloaded", "server_error"})
_JSON_BELOW = re.compile(rb"\A[0-9A-Fa-f]{1,8}\r|^[ \t]*(?:data\s*:[ \t]*)?[{\[]", re.MULTILINE)
_VALUE = re.compile(rb"(?:true|false|null|NaN|-?Infinity|-?[0-9][0-9.eE+-]*)\s*")
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f\x7f]")


_NO_STREAM = "a stream was asked for, and this is none"
_Read = Reply | Failure | MalformedReply


class Answer(NamedTuple):
    """What an HTTP answer is."""

    outcome: Reply | Failure
    note: str | None = None
    """What was odd about it; None if nothing was."""


def read_answer(
    protocol: WireProtocol,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    is_cut: bool = False,
    streamed: bool = False,
) -> Answer:
    """Read an answer; never raises.

    Args:
        protocol: The protocol of the gateway.
        status: The HTTP status.
        headers: Names in lower case; empty for a stored body.
        body: Decoded as its headers say.
        is_cut: Whether more may have followed: the connection broke, or it is not known that it did not.
        streamed: Whether a stream was asked for. It changes only what is noted: a whole reply is read as one, and a
            stream that was not asked for as a stream.
    """
    answer = _read_by_status(protocol, status, headers, body, is_cut)
    if streamed and 200 <= status < 300:
        answer = _as_stream(answer, body)
    return with_own_notes(answer)


def with_own_notes(answer: Answer) -> Answer:
    """Return an answer with what its reply says about itself in the note."""
    outcome = answer.outcome
    if not isinstance(outcome, Reply):
        return answer
    if outcome.history_note or outcome.finish_note or outcome.billing_note:
        notes = [note for note in (outcome.history_note, outcome.finish_note, outcome.billing_note) if note]
        return _noted(answer, *notes)
    return answer


def _as_stream(answer: Answer, body: bytes) -> Answer:
    """Return what was read of a body that should be a stream: only notes differ."""
    if is_stream(body):
        return answer if answer.note is None else _without_note(answer, NOT_ASKED)
    return _noted(answer, _NO_STREAM) if isinstance(answer.outcome, Reply) else answer


def _read_by_status(
    protocol: WireProtocol, status: int, headers: Mapping[str, str], body: bytes, is_cut: bool
) -> Answer:
    if 300 <= status < 400:
        return Answer(_redirected(status, headers))
    if 200 <= status < 300:
        return _with_hint(_with_status(_in_success(protocol, body, is_cut), status), headers)
    if any(part in body for part in _PARTS_OF_REPLIES):
        answer = _in_success(protocol, body, is_cut)
        if isinstance(answer.outcome, Reply) and answer.outcome.finish_reason_raw:
            return _with_status(answer, status)
    return _in_error(protocol, status, headers, body)


def _with_status(answer: Answer, status: int) -> Answer:
    return answer if status == 200 else _noted(answer, f"HTTP status {status}")


def _with_hint(answer: Answer, headers: Mapping[str, str]) -> Answer:
    """Add the wait that the headers ask for, or a date relative to theirs, to an error inside a success."""
    failure = answer.outcome
    if isinstance(failure, Reply) or failure.retry_after_s is not None or failure.kind not in _MAY_END:
        return answer
    wait_s = retry_after_s(headers, None, failure.message)
    if wait_s is None:
        return answer
    if failure.kind == "quota" and failure.scope in ("day", "month"):  # a limit of a window, whose end is now known
        failure = replace(failure, kind="rate_limit", retryable=True)
    return answer._replace(outcome=replace(failure, retry_after_s=wait_s))


def _noted(answer: Answer, *notes: str) -> Answer:
    said = dict.fromkeys([*notes, *(answer.note.split("; ") if answer.note else ())])
    return answer._replace(note="; ".join(said) or None)


def _without_note(answer: Answer, note: str) -> Answer:
    return answer._replace(note="; ".join(said for said in (answer.note or "").split("; ") if said != note) or None)


def _in_success(protocol: WireProtocol, body: bytes, is_cut: bool) -> Answer:
    if not is_cut and is_stream(body) and (plain := _in_plain_stream(protocol, body)) is not None:
        return Answer(plain, NOT_ASKED)
    read = _strictly(protocol, body)
    if isinstance(read, Reply) and not is_hollow(read):
        return Answer(read, "a byte order mark before the JSON" if body[:1] == b"\xef" else None)
    try:
        value = decode_json(body)
    except MalformedReply:
        try:
            return _in_envelope(protocol, body, find(body), is_cut)
        except ValueError:  # no JSON, several different values, or nested too deeply
            return Answer(_failure(body, read))
    if isinstance(value, list) and len(value) > 1 and protocol.name != "gemini":  # whose streams may be arrays
        events = tuple(SseEvent(event="", data=encode_json(item).decode("utf-8")) for item in value)
        return _in_envelope(protocol, body, Found(events=events, notes=("an array of stream events",)), is_cut)
    return _in_value(protocol, body, value, read)


def _in_plain_stream(protocol: WireProtocol, body: bytes) -> Reply | None:
    """Read a stream as the provider documents it; None for one that needs a closer look."""
    parser, fold = SseParser(), StreamFold(protocol)
    try:
        fold.add(parser.feed_raw(body))
        fold.add(parser.close_raw())
    except EventTooLong:
        return None
    return fold.reply()


def _in_value(protocol: WireProtocol, body: bytes, value: Any, read: _Read) -> Answer:
    """Look in a value in which the protocol found no content for a reply of another shape."""
    is_cut = isinstance(read, Failure) and read.kind == "stream_truncated"
    if not is_cut and (not isinstance(read, Reply) or is_hollow(read)):
        shaped = read_shape(protocol, value)
        if shaped is not None:
            return Answer(*shaped)
    return Answer(_failure(body, read))


def _in_envelope(protocol: WireProtocol, body: bytes, found: Found, is_cut: bool) -> Answer:
    """Read what an envelope contained."""
    found = _until_done(found)
    if not found.events:
        read = _strictly(protocol, encode_json(found.value))
        return _noted(_in_value(protocol, body, found.value, read), *found.notes)
    values = [value for event in found.events for value in read_event(event) or ()]
    wholes = [value for index, value in enumerate(values) if is_whole(value) and value not in values[:index]]
    if len(wholes) > 1:
        return Answer(_unreadable(body, MalformedReply(f"{len(wholes)} different replies in one body")))
    if len(wholes) == 1:
        read = _strictly(protocol, encode_json(wholes[0]))
        return _noted(_in_value(protocol, body, wholes[0], read), *found.notes)
    is_ended = any(event.data == DONE for event in found.events)
    if is_cut and not is_ended and sum(map(_says_finished, values)) > 1:
        # some gateways repeat the finish reason in every event, so that the first does not show the end
        return Answer(_uncertain(body, _folded(protocol, found)))
    read = _folded(protocol, found)
    if not isinstance(read, Reply) or is_hollow(read):
        shaped = read_stream_shape(protocol, values)
        if shaped is not None:
            return _noted(Answer(*shaped), *found.notes)
        if len(values) == 1:
            return _noted(_in_value(protocol, body, values[0], read), *found.notes)
    return _noted(Answer(_failure(body, read)), *found.notes)


def _until_done(found: Found) -> Found:
    """Return a stream without text after its end, which is no part of the reply; usage may follow it."""
    kept: list[SseEvent] = []
    is_done = False
    for event in found.events:
        if is_done and any(any(added_text(value)) for value in read_event(event) or ()):
            continue
        kept.append(event)
        is_done = is_done or event.data == DONE
    if len(kept) == len(found.events):
        return found
    return replace(found, events=tuple(kept), notes=(*found.notes, "text after `data: [DONE]` left out"))


def _says_finished(value: Any) -> bool:
    """Whether a piece of a stream says why it ended, and still has content on the wire of chat completions."""
    pieces = (value.get("candidates") or value.get("choices")) if isinstance(value, dict) else None
    first = pieces[0] if isinstance(pieces, list) and pieces else None
    if not isinstance(first, dict):
        return False
    delta = first.get("delta")
    return bool(first.get("finishReason")) or (
        is_finish(first.get("finish_reason")) and isinstance(delta, dict) and bool(delta.get("content"))
    )


def _strictly(protocol: WireProtocol, body: bytes) -> _Read:
    try:
        return protocol.parse_response(body)
    except ErrorInBody as inner:
        return inner.failure
    except MalformedReply as malformed:
        return malformed


def _folded(protocol: WireProtocol, found: Found) -> _Read:
    draft = Draft()
    try:
        for event in found.events:
            draft = protocol.parse_event(draft, event)
        return protocol.finish(draft)
    except ErrorInBody as inner:
        return inner.failure
    except MalformedReply as malformed:
        return malformed


def _failure(body: bytes, read: _Read) -> Reply | Failure:
    if isinstance(read, Reply):
        return read
    if isinstance(read, MalformedReply):
        return _unreadable(body, read)
    if read.kind == "content_filter":
        return _refused(read)
    if read.no_model and not read.text and read.usage.source == "missing":
        message = f"{read.message} (no model was asked: check base_url)"
        return replace(read, kind="bad_response", message=message, no_model=True, retryable=False)
    return read


def _unreadable(body: bytes, malformed: MalformedReply) -> Failure:
    if not malformed.cut and _is_page(body):
        kind = "a web page" if body.lstrip()[:1] == b"<" else "plain text"
        message = f"{kind} instead of JSON ({body_excerpt(body)!r}): no model was asked, check base_url"
        return Failure(kind="bad_response", message=message, no_model=True)
    return Failure(kind="bad_response", message=f"unreadable reply: {malformed}", retryable=malformed.cut)


def _uncertain(body: bytes, read: _Read) -> Failure:
    """Return the failure of a stream that may go on; with the text that it has."""
    failure = _unreadable(body, MalformedReply("an event stream without a certain end"))
    return failure if isinstance(read, MalformedReply) else replace(failure, text=read.text)


def _is_page(body: bytes) -> bool:
    """Whether a body is a page or text of a server that asked no model; not so the page of a proxy that lost one."""
    start = body.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] in b'{["' or may_become_stream(body) or _CONTROLS.search(body, 0, 4096):
        return False  # a cut body may begin like this
    if start[:1] != b"<" and _JSON_BELOW.search(start):
        return False  # a cut body below other text, or below the size of its chunk
    if _VALUE.fullmatch(start):
        return False  # a number, or another JSON value: nothing is known about it
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return start[:1] == b"<"
    return _ASKED_ALL_THE_SAME.search(body_excerpt(body)) is None


def _in_error(protocol: WireProtocol, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    body, notes = _cleaned(body)
    failure = protocol.classify_error(status, headers, body)
    outcome = _refused(failure) if failure.kind == "content_filter" else failure
    return _noted(Answer(outcome), *notes)


def _cleaned(body: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return the JSON of an error, if the strict reader would not find it, and what was odd."""
    start = body[:1]
    if start in (b"", b"<"):
        return body, ()
    try:
        decode_json(body)
    except MalformedReply:
        pass
    else:
        return body, ()
    try:
        found = find(body, after_text=False)
    except ValueError:
        return body, ()
    for event in found.events:
        for value in read_event(event) or ():
            return encode_json(value), found.notes
    return (encode_json(found.value), found.notes) if not found.events else (body, ())


def _refused(failure: Failure) -> Reply:
    """Return the reply that a refusal of the content is."""
    return Reply(
        text=failure.text,
        finish_reason="content_filter",
        finish_reason_raw=failure.finish_reason_raw,
        blocked=failure.blocked or "prompt",
        usage=failure.usage,
    )


def _redirected(status: int, headers: Mapping[str, str]) -> Failure:
    """Return the failure of a redirect; of its location, host and path are named: a query may hold a key."""
    try:
        location = urlsplit(headers.get("location", ""))
    except ValueError:
        location = urlsplit("")
    host = location.netloc.rpartition("@")[2]  # a user's name and password may stand before it
    where = f" to {host}{location.path}" if host or location.path else ""
    message = f"the gateway answered {status} with a redirect{where}, which is never followed"
    return Failure(kind="bad_response", message=message, no_model=True)
