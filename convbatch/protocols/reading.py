"""Read one complete HTTP answer: is it a reply, a refusal of the content, or a failure?

The same for all protocols and for stored bodies. A status does not decide what an answer is, its body does: a reply is
a reply under any status, and a refusal of the content is a result, whether it comes as a reply or as an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from convbatch.protocols.wire import CutReply, ErrorInBody, MalformedReply, WireProtocol
from convbatch.reply import Failure, Reply


class Answer(NamedTuple):
    """What an HTTP answer is."""

    outcome: Reply | Failure
    note: str | None = None
    """What was odd about it; None if nothing was."""


def read_answer(protocol: WireProtocol, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """Read an answer; never raises.

    Args:
        protocol: The protocol of the gateway.
        status: The HTTP status.
        headers: Names in lower case; empty for a stored body.
        body: Decoded as its headers say.
    """
    if 300 <= status < 400:
        return Answer(_redirected(status, headers))
    if status >= 300 or status < 200:
        failure = protocol.classify_error(status, headers, body)
        return Answer(_refused(failure) if failure.kind == "content_filter" else failure)
    return Answer(_in_success(protocol, body))


def _in_success(protocol: WireProtocol, body: bytes) -> Reply | Failure:
    try:
        return protocol.parse_response(body)
    except ErrorInBody as inner:
        return _refused(inner.failure) if inner.failure.kind == "content_filter" else inner.failure
    except MalformedReply as malformed:
        retryable = isinstance(malformed, CutReply)
        return Failure(kind="bad_response", message=f"unreadable reply: {malformed}", retryable=retryable)


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
    location = urlsplit(headers.get("location", ""))
    where = f" to {location.netloc}{location.path}" if location.netloc or location.path else ""
    message = f"the gateway answered {status} with a redirect{where}, which is never followed"
    return Failure(kind="bad_response", message=message, no_model=True)
