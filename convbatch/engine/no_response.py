"""Why no complete response arrived: exceptions of aiohttp, by type and system error, as `NoResponse`."""

from __future__ import annotations

import ssl
from typing import Any, NamedTuple

import aiohttp
from multidict import CIMultiDictProxy

from convbatch.engine.connection_errors import certificate_error, connect_error, lost_connection
from convbatch.engine.connector import KeepingHandler
from convbatch.engine.http_values import (
    CONNECT_TIMEOUT_S,
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    NoResponse,
    ResponseHead,
)
from convbatch.engine.raw_response import RawResponse, read_raw
from convbatch.protocols.content_encoding import CannotUnpack, Unpacked, unpack


class Unreadable(Exception):  # internal signal
    """The body is too large or cannot be decompressed."""


class Silent(Exception):  # internal signal
    """A stream sent nothing for too long."""

    def __init__(self, seconds: float, size: int, *, is_over: bool) -> None:
        after = "its last event" if is_over else f"{size:,} bytes"
        super().__init__(f"the stream sent nothing for {seconds:g} s after {after}")
        self.is_over = is_over


def unpacked_body(body: bytes, headers: CIMultiDictProxy[str], max_bytes: int = MAX_BODY_BYTES) -> Unpacked:
    """Return a body without compression and charset; raises `Unreadable`."""
    encoding = ",".join(headers.getall("Content-Encoding", ()))
    try:
        return unpack(body, encoding, headers.get("Content-Type", ""), max_bytes=max_bytes)
    except CannotUnpack as error:
        raise Unreadable(str(error)) from None


_CERTIFICATE = (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError)
# The words of aiohttp and llhttp, which quote the response after them.
_BROKEN_LIMITS = (
    (f"Got more than {MAX_HEADER_BYTES} bytes", f"a header is longer than {MAX_HEADER_BYTES // 1024} KiB"),
    ("Too many headers received", f"it has more than {MAX_HEADERS:,} headers"),
)
_BROKEN_RULES = (
    *_BROKEN_LIMITS,
    ("Content-Length", "its Transfer-Encoding and Content-Length contradict each other or are invalid"),
    ("Transfer-Encoding", "its Transfer-Encoding is invalid"),
    ("chunk size", "its chunked Transfer-Encoding is broken"),
)
_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


def _proxy_status(error: Exception) -> int | None:
    """Return the status with which a proxy refused a connection; 0 if its answer cannot be read, None without one."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return error.status
    return 0 if isinstance(error, aiohttp.ClientResponseError) else None


class WhereTo(NamedTuple):
    """Where a request went."""

    url: str
    proxy: str | None
    timeout_s: float


def no_response(
    error: Exception,
    where: WhereTo,
    connected: bool,
    response: ResponseHead | RawResponse | None,
    partial: bytes,
) -> NoResponse:
    """Classify an exception of aiohttp by its type and system error; its text may contain URLs and headers."""
    if isinstance(error, _CERTIFICATE):
        return NoResponse("connection", certificate_error(error, where.url), sent=False, certificate=True)
    if isinstance(error, _NEVER_SENT) or not connected:
        kind = "timeout" if isinstance(error, TimeoutError) else "connection"
        timeout_s = min(CONNECT_TIMEOUT_S, where.timeout_s)
        why = connect_error(error, where.url, where.proxy, timeout_s=timeout_s, proxy_status=_proxy_status(error))
        return NoResponse(kind, f"could not connect: {why}", sent=False)
    known = _known_so_far(error, response, partial)
    if isinstance(error, Unreadable):
        return NoResponse("bad_response", str(error), sent=True, **known)
    if isinstance(error, Silent):
        return NoResponse("timeout", str(error), sent=True, own_timeout=True, **known)
    if isinstance(error, TimeoutError):
        return NoResponse(
            "timeout",
            f"no complete answer within the attempt timeout of {where.timeout_s:g} s",
            sent=True,
            own_timeout=True,
            **known,
        )
    if (broken := _broken_rule(error)) is not None:
        return NoResponse("bad_response", f"the response cannot be read: {broken}", sent=True, **known)
    return NoResponse(
        "connection", lost_connection(error, where.url, has_begun=response is not None), sent=True, **known
    )


def abandoned(response: ResponseHead | RawResponse | None, partial: bytes) -> NoResponse:
    """Return what had arrived when a request was cancelled."""
    known = _known_so_far(None, response, partial)
    return NoResponse("connection", "abandoned on request", sent=True, **known)


def _known_so_far(
    error: Exception | None, response: ResponseHead | RawResponse | None, partial: bytes
) -> dict[str, Any]:
    """Return what is known of a response that broke off, its body decoded as far as possible."""
    if response is None:
        return {}
    notes: tuple[str, ...] = ()
    if not isinstance(error, Unreadable):
        try:
            unpacked = unpacked_body(partial, response.headers)
        except Unreadable:
            pass
        else:
            partial, notes = unpacked.body, unpacked.notes
    return {"status": response.status, "headers": response.headers, "partial": partial, "notes": notes}


def refused_response(error: aiohttp.ClientResponseError, connection: Any) -> RawResponse | None:
    """Return a response that aiohttp refused to read, unless its headers are beyond the limits."""
    if not isinstance(connection, KeepingHandler) or any(words in error.message for words, _ in _BROKEN_LIMITS):
        return None
    return read_raw(bytes(connection.received))


def _broken_rule(error: Exception) -> str | None:
    """Name the rule of HTTP that a response broke, so that aiohttp refused it; None for another error."""
    if not isinstance(error, aiohttp.ClientResponseError):
        return None
    known = next((said for words, said in _BROKEN_RULES if words in error.message), None)
    return known or f"it is not HTTP as it should be ({error.message.partition(':')[0][:60]})"
