"""Undo the content encodings and the charset of a response body, as its bytes show them rather than as headers say.

Headers lie about bodies: a proxy unpacks one and leaves `Content-Encoding: gzip`, another packs it twice, a third
writes a charset there. So the bytes decide wherever they can (gzip and zlib begin with magic numbers, and no JSON
does), and a header only where they cannot. The result is UTF-8, because headers are not stored with a body.
"""

from __future__ import annotations

import codecs
import functools
import re
import zlib
from typing import NamedTuple

_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP = frozenset({"gzip", "x-gzip"})
_PACKED = frozenset({*_GZIP, "deflate", "x-deflate"})
_NOT_SUPPORTED = {"br": "br", "zstd": "zstd", "compress": "compress", "x-compress": "compress"}
_MAX_LAYERS = 4
_MAX_MEMBERS = 100_000
_FIRST_PIECE = 256
_SAMPLE_BYTES = 1024
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:+-]{1,40})", re.IGNORECASE)
# Only character sets: Python's codecs also include `zip`, `rot13` and `unicode_escape`.
_CHARACTER_SETS = re.compile(
    r"gb2312|gbk|gb18030|big5(?:hkscs)?|cp\d+|euc_\w+|shift_jis\w*|iso8859-\d+|iso2022_\w+|koi8-\w|utf-(?:16|32)(?:-[bl]e)?"
    r"|johab|hz|mac-\w+|tis-620"
)
_ALSO_GB = frozenset({"gb2312", "gbk"})
_SINGLE_BYTE = re.compile(r"iso8859-\d+|cp(?:125\d|437|85\d|866)|koi8-\w|mac-\w+|tis-620")
_LONG_UTF8 = re.compile(rb"[\xe0-\xf4][\x80-\xbf]{2}")


class Unpacked(NamedTuple):
    """A body without its encodings."""

    body: bytes
    notes: tuple[str, ...] = ()
    """What was odd about the encodings."""
    is_cut: bool = False
    """Whether compressed data ended too early; `body` is what could be decompressed."""


class CannotUnpack(Exception):  # internal; becomes a `Failure`
    """The body is too large, or in an encoding that cannot be undone; the message says which."""


def unpack(body: bytes, content_encoding: str, content_type: str, *, max_bytes: int) -> Unpacked:
    """Undo content encodings and charset.

    Args:
        body: As received.
        content_encoding: All values of that header, joined by commas; "" if there is none, or if it is not known.
        content_type: The value of that header.
        max_bytes: Limit on the result, and on every intermediate one.

    Raises:
        CannotUnpack: The limit is exceeded, or the encoding is not supported.
    """
    if not body:
        return Unpacked(body)
    named = [word for item in content_encoding.lower().split(",") if (word := item.strip()) not in ("", "identity")]
    is_usual = not named and body[:1] in b"{["
    plain = Unpacked(body) if is_usual else _without_compression(body, named, max_bytes)
    if not _names_charset(content_type):
        return plain
    converted, note = _as_utf8(plain.body, content_type)
    return plain if note is None else plain._replace(body=converted, notes=(*plain.notes, note))


def _without_compression(body: bytes, named: list[str], max_bytes: int) -> Unpacked:
    notes: list[str] = []
    layers = 0
    is_cut = False
    while not is_cut and (found := _layer(body, named, max_bytes)) is not None:
        layers += 1
        if layers > _MAX_LAYERS:
            raise CannotUnpack(f"the response body is compressed more than {_MAX_LAYERS} times")
        body, is_cut = found.body, found.is_cut
        notes += found.notes
    if layers == 0:
        _refuse_packed(body, named)
        if named:
            notes.append(f"Content-Encoding {', '.join(named)[:60]!r}, but the body is not encoded")
    elif layers != len(named) or not _PACKED.issuperset(named):
        said = repr(", ".join(named)[:60]) if named else "missing"
        notes.append(f"compressed {_times(layers)}, Content-Encoding is {said}")
    elif layers > 1:
        notes.append(f"compressed {_times(layers)}")
    return Unpacked(body, tuple(notes), is_cut)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _layer(body: bytes, named: list[str], max_bytes: int) -> Unpacked | None:
    """Undo one compression; None if there is none, or none that is known."""
    if body.startswith(_GZIP_MAGIC):
        return _decompressed(body, zlib.MAX_WBITS | 16, max_bytes)
    if _is_text(body):
        return None
    if _has_zlib_header(body) and (found := _decompressed(body, zlib.MAX_WBITS, max_bytes)) is not None:
        return found
    if "deflate" in named or "x-deflate" in named:  # some servers send deflate without the header of zlib
        return _decompressed(body, -zlib.MAX_WBITS, max_bytes)
    return None


def _has_zlib_header(body: bytes) -> bool:
    return len(body) > 2 and body[0] & 0x0F == 8 and body[0] >> 4 <= 7 and (body[0] << 8 | body[1]) % 31 == 0


def _decompressed(body: bytes, window: int, max_bytes: int) -> Unpacked | None:
    """Decompress all members of a body; None if it begins with none.

    A server that flushes often, or a proxy that packs each piece, sends a member for every few bytes.
    """
    plain = bytearray()
    members = at = 0
    is_cut = False
    while at < len(body) and not is_cut:
        try:
            read, is_cut = _member(body, at, window, plain, max_bytes)
        except zlib.error:
            if members == 0:
                return None
            is_cut = body.startswith(_GZIP_MAGIC, at)
            break
        members += 1
        at += read
        if members > _MAX_MEMBERS:
            raise CannotUnpack(f"the response body has more than {_MAX_MEMBERS:,} gzip members")
        if window <= zlib.MAX_WBITS:
            break
    notes: list[str] = []
    if members > 1:
        notes.append(f"{members:,} gzip members")
    if not is_cut and (ignored := len(body[at:])) and body[at:].strip(b"\0"):
        notes.append(f"{ignored} bytes after the compressed body were ignored")
    if is_cut:
        notes.append("the compressed body ends too early")
    return Unpacked(bytes(plain), tuple(notes), is_cut)


def _member(body: bytes, at: int, window: int, plain: bytearray, max_bytes: int) -> tuple[int, bool]:
    """Append one decompressed member to `plain`; return its length, and whether it is cut.

    Read in pieces that grow: what follows a member is copied each time, and there may be many members.
    """
    decoder = zlib.decompressobj(window)
    start, size = at, _FIRST_PIECE
    while not decoder.eof and at < len(body):
        piece = body[at : at + size]
        plain += decoder.decompress(piece, max_bytes - len(plain) + 1)
        if len(plain) > max_bytes:
            raise CannotUnpack(f"the response body decompresses to more than {max_bytes // 2**20} MiB")
        at += len(piece) - len(decoder.unused_data)
        size *= 2
    return at - start, not decoder.eof


def _refuse_packed(body: bytes, named: list[str]) -> None:
    if body.startswith(_ZSTD_MAGIC):
        raise CannotUnpack("the response body is compressed with zstd, which was not asked for and is not supported")
    if not named or _is_text(body):
        return
    for word in named:
        if word in _NOT_SUPPORTED:
            raise CannotUnpack(
                f"the response body is compressed with {_NOT_SUPPORTED[word]},"
                " which was not asked for and is not supported"
            )
    if not _PACKED.isdisjoint(named):
        raise CannotUnpack(f"the response body cannot be decompressed (Content-Encoding {', '.join(named)[:60]!r})")
    raise CannotUnpack(f"the response body has an unknown content encoding {', '.join(named)[:40]!r}")


def _is_text(body: bytes) -> bool:
    """Whether a body has no control characters at its start; compressed data have."""
    return _CONTROLS.search(body, 0, _SAMPLE_BYTES) is None


@functools.lru_cache(maxsize=64)
def _names_charset(content_type: str) -> bool:
    """Whether a header names a charset other than UTF-8."""
    match = _CHARSET.search(content_type)
    return match is not None and match[1].lower() not in ("utf-8", "utf8")


def _as_utf8(body: bytes, content_type: str) -> tuple[bytes, str | None]:
    """Convert a body from the charset that its header names; unchanged, without a note, if that does not apply."""
    match = _CHARSET.search(content_type)
    if match is None:
        return body, None
    try:
        name = codecs.lookup(match[1]).name
    except LookupError:
        return body, None
    if name == "utf-8" or _CHARACTER_SETS.fullmatch(name) is None:
        return body, None
    if _is_utf8(body) and (_SINGLE_BYTE.fullmatch(name) or _LONG_UTF8.search(body)):
        return body, f"the body is UTF-8, not {match[1]}"
    try:
        text = body.decode("gb18030" if name in _ALSO_GB else name)
    except UnicodeDecodeError:
        text = body.decode("gb18030" if name in _ALSO_GB else name, "replace")
        return text.encode(), f"charset {match[1]}, with bytes that are not, which were replaced"
    except (UnicodeError, ValueError):
        return body, None
    return text.encode("utf-8", "surrogatepass"), f"charset {match[1]}"


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
