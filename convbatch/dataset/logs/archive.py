"""The JSON members of a zip archive, one at a time and within limits; never extracted to disk.

Also reads members that are compressed with zstd (method 93), as in newer `.eval` logs, which `zipfile` cannot.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from convbatch.dataset.jsonl import MAX_LINE_BYTES, RefusedValue, excerpt, open_regular, parse_object
from convbatch.errors import Issue

_ZSTD = 93
_MOST_RATIO = 1_000
"""Uncompressed to compressed bytes of all members together; honest logs stay below a tenth of it."""
_FREE_BYTES = 64 * 2**20


def archive_entries(path: Path) -> Iterator[tuple[str | None, dict[str, Any] | Issue]]:
    """Yield name and content of `header.json` and of the samples of an inspect_ai log, the header first."""
    try:
        with open_regular(path) as raw, zipfile.ZipFile(raw) as archive:
            names = [name for name in archive.namelist() if name.startswith("samples/") and name.endswith(".json")]
            heads = [name for name in ("header.json", "_journal/start.json") if name in archive.NameToInfo]
            allowed = _FREE_BYTES + _MOST_RATIO * path.stat().st_size
            if not names and not heads:
                yield (
                    None,
                    Issue(
                        what="a zip archive without samples/",
                        hint="a log of inspect_ai (.eval) has them; save a spreadsheet as NAME.xlsx",
                    ),
                )
            for name in (*heads[:1], *names):
                value = _member(archive, raw, name, min(allowed, MAX_LINE_BYTES))
                if isinstance(value, Issue):
                    yield name, value
                else:
                    allowed -= len(value)
                    yield name, _parsed(value)
    except RefusedValue as refusal:
        yield None, refusal.issue
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        hint = "copy it again, or repair it: zip -FF IN --out OUT; a log that is still written has no end yet"
        yield None, Issue(what="the zip archive is damaged or cut off", found=excerpt(str(error)), hint=hint)


def _parsed(content: bytes) -> dict[str, Any] | Issue:
    try:
        return parse_object(content)
    except RefusedValue as refusal:
        return refusal.issue


def _member(archive: zipfile.ZipFile, raw: BinaryIO, name: str, limit: int) -> bytes | Issue:
    """Return the content of a member, or why it is not read."""
    info = archive.getinfo(name)
    if info.flag_bits & 0x1:
        return Issue(what="an encrypted member", hint="write the archive again without a password")
    if limit <= 0 or info.file_size > limit:
        hint = f"a sample has at most {MAX_LINE_BYTES // 2**20} MiB; is this a log?"
        return Issue(what=f"a member of {info.file_size} bytes, more than is read", hint=hint)
    try:
        with _opened(archive, raw, info) as content:
            read = content.read(limit + 1)
    except (NotImplementedError, RuntimeError) as error:
        return Issue(what=f"a member that cannot be unpacked: {excerpt(str(error))}", hint="zip it again with deflate")
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, struct.error) as error:
        return Issue(what="a damaged member", found=excerpt(str(error)), hint="copy the archive again")
    if len(read) > limit:
        return Issue(what="a member that unpacks to more than it declares", hint="is this a log?")
    return read


def _opened(archive: zipfile.ZipFile, raw: BinaryIO, info: zipfile.ZipInfo) -> contextlib.AbstractContextManager[Any]:
    if info.compress_type != _ZSTD:
        return archive.open(info)
    import pyarrow as pa  # 90 MB, and it has zstd

    if info.compress_size > MAX_LINE_BYTES:
        raise OSError("more compressed than uncompressed bytes")
    raw.seek(info.header_offset)
    head = raw.read(30)
    if not head.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile("no member at its place")
    raw.seek(sum(struct.unpack("<HH", head[26:30])), io.SEEK_CUR)
    return pa.CompressedInputStream(pa.BufferReader(raw.read(info.compress_size)), "zstd")
