"""The lines of a job's results: each is read as the answer to the same request by itself would be.

A line is no more trusted than any other body: it may be cut, be there twice, belong to no request, or be missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from convbatch.protocols.envelope import find
from convbatch.protocols.reading import read_answer
from convbatch.protocols.wire import MalformedReply, WireProtocol, decode_json, encode_json
from convbatch.reply import ErrorKind, Failure, Reply

EXPIRED = "batch_expired"
CANCELLED = "batch_cancelled"
_NOT_RUN: Mapping[str, tuple[ErrorKind, str]] = {
    EXPIRED: ("timeout", "the batch job expired before this request was run"),
    CANCELLED: ("connection", "the batch job was cancelled before this request was run"),
}


class ResultLine(NamedTuple):
    """What came of one request of a job."""

    line_id: str
    outcome: Reply | Failure
    status: int | None
    """HTTP status of a single request with this outcome; None: it was not run."""
    body: bytes = b""
    """Of the answer that a single request would have got; encoded again, so its spaces may differ."""
    note: str | None = None
    """What was odd about it; None if nothing was."""
    is_free: bool = False
    """Whether the provider says that it bills nothing for this line."""
    request_id: str | None = None


class MatchedLines(NamedTuple):
    """The results of a job, by request."""

    found: Mapping[str, ResultLine]
    """By line id; of several for one id, the first that is a reply."""
    missing: tuple[str, ...]
    """Ids without a result."""
    strays: tuple[str, ...]
    """Ids that are not of this job."""


def answered_line(
    protocol: WireProtocol,
    line_id: str,
    status: int,
    value: Any,
    *,
    odd: Sequence[str] = (),
    is_free: bool = False,
    request_id: str | None = None,
) -> ResultLine:
    """Return the line of a request that was run.

    Args:
        protocol: The wire format of the request.
        line_id: The id of the line.
        status: The HTTP status of a single request with this outcome.
        value: The body of the answer.
        odd: What was odd about the line.
        is_free: Whether the provider bills nothing for it.
        request_id: The provider's id of the request.
    """
    body = encode_json(value)
    answer = read_answer(protocol, status, {}, body)
    notes = "; ".join(dict.fromkeys([*odd, *([answer.note] if answer.note else ())]))
    return ResultLine(
        line_id=line_id,
        outcome=answer.outcome,
        status=status,
        body=body,
        note=notes or None,
        is_free=is_free,
        request_id=request_id,
    )


def unrun_line(line_id: str, why: str) -> ResultLine:
    """Return the line of a request that was not run, because its job expired or was cancelled."""
    kind, message = _NOT_RUN[why]
    failure = Failure(kind=kind, message=message, code=why, retryable=True)
    return ResultLine(line_id=line_id, outcome=failure, status=None, is_free=True)


def decode_line(content: bytes) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the object in a line, and what was odd about it.

    Raises:
        MalformedReply: The line is not one JSON object.
    """
    odd: tuple[str, ...] = ()
    try:
        value = decode_json(content)
    except MalformedReply:
        try:
            found = find(content, after_text=False)
        except ValueError as error:
            raise MalformedReply(f"an unreadable line of results: {error}") from None
        value, odd = found.value, found.notes
    if not isinstance(value, dict):
        raise MalformedReply("a line of results that is not an object")
    return value, odd


def match_lines(line_ids: Sequence[str], lines: Iterable[ResultLine]) -> MatchedLines:
    """Assign results to the requests of a job.

    A result that comes twice is counted once. Of two that differ, a reply counts rather than a failure, and the note
    says that there was another one.
    """
    known = frozenset(line_ids)
    found: dict[str, ResultLine] = {}
    strays: dict[str, None] = {}
    for line in lines:
        if line.line_id not in known:
            strays[line.line_id] = None
        elif (other := found.get(line.line_id)) is None:
            found[line.line_id] = line
        elif other.body != line.body or other.status != line.status:
            found[line.line_id] = _better(other, line)
    missing = tuple(line_id for line_id in line_ids if line_id not in found)
    return MatchedLines(found, missing, tuple(strays))


def _better(first: ResultLine, second: ResultLine) -> ResultLine:
    has_reply = [isinstance(line.outcome, Reply) for line in (first, second)]
    chosen = second if has_reply == [False, True] else first
    note = "another result with the same id was ignored"
    return chosen._replace(note=note if chosen.note is None else f"{chosen.note}; {note}")
