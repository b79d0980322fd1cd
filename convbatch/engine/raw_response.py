"""Read a response that breaks a rule of HTTP/1.1 from its raw bytes.

aiohttp refuses such a response as a whole, for example one with both `Transfer-Encoding` and `Content-Length`, or with
bytes after its end. A model was asked and paid all the same, so what the bytes say is still wanted. The result is only
as good as its body: whether that is whole decides the caller, since the rules that mark its end were broken.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from multidict import CIMultiDict, CIMultiDictProxy

_STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})(?: [^\r\n]*)?\r?\n")
_END_OF_HEADERS = re.compile(rb"\r?\n\r?\n")
_CHUNK_SIZE = re.compile(rb"\s*([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")


class RawResponse(NamedTuple):
    """Status, headers and body, without the transfer encoding."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


def read_raw(received: bytes) -> RawResponse | None:
    """Read what arrived on a connection since the request; None without a final status and an end of its headers."""
    at = 0
    while (status := _STATUS_LINE.match(received, at)) is not None:
        end = _END_OF_HEADERS.search(received, status.end() - 2)
        if end is None:
            return None
        if not status[1].startswith(b"1"):  # 100 and 103 come before the final one
            headers = _headers(received[status.end() : end.start()])
            return RawResponse(int(status[1]), headers, _body(received[end.end() :], headers))
        at = end.end()
    return None


def _headers(lines: bytes) -> CIMultiDictProxy[str]:
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines.splitlines():
        name, colon, value = line.decode("latin-1").partition(":")
        if colon:
            headers.add(name.strip(), value.strip())
    return CIMultiDictProxy(headers)


def _body(content: bytes, headers: CIMultiDictProxy[str]) -> bytes:
    """Return all that follows the headers, without the sizes of chunks if it begins with one."""
    if "chunked" not in ",".join(headers.getall("Transfer-Encoding", ())).lower():
        return content
    pieces: list[bytes] = []
    at = 0
    while (head := _CHUNK_SIZE.match(content, at)) is not None and (size := int(head[1], 16)):
        at = head.end() + size
        pieces.append(content[head.end() : at])
    return b"".join(pieces) if pieces else content
