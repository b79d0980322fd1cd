"""The canary key: every run of the command in the tests has it, and no file or output may contain it afterwards.

`SPELLINGS` uses the standard library alone, so that it checks `convbatch/redaction.py` independently.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import html
import io
import json
import sqlite3
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.support.pages import unpacked

CANARY_ENV = "CANARY_KEY"
CANARY = "sk-C4n4ry/9f+x&=%<'\"\\~Q7wK2mZ0"
"""Contains every character that JSON, URLs, HTML and base64 escape."""


def _at(offset: int, encode: Callable[[bytes], bytes], value: str) -> str:
    """Return the base64 of the value after `offset` bytes, without the characters that depend on its neighbours."""
    whole = encode(b"\0" * offset + value.encode()).decode()
    return whole[(0, 2, 3)[offset] : (offset + len(value)) * 8 // 6]


FORMS: Mapping[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": lambda key: json.dumps(key)[1:-1],
    "JSON in JSON": lambda key: json.dumps(json.dumps(key)[1:-1])[1:-1],
    "JSON, every character": lambda key: "".join(f"\\u{ord(char):04x}" for char in key),
    "JSON as PHP writes it": lambda key: json.dumps(key)[1:-1].replace("/", "\\/"),
    "URL": lambda key: urllib.parse.quote(key, safe=""),
    "URL, slash kept": urllib.parse.quote,
    "form": urllib.parse.quote_plus,
    "HTML": html.escape,
    "Python": lambda key: repr(key)[1:-1],
    "hex": lambda key: key.encode().hex(),
    "HEX": lambda key: key.encode().hex().upper(),
    **{f"base64 at {at}": lambda key, at=at: _at(at, base64.b64encode, key) for at in range(3)},
    **{f"base64 of Bearer at {at}": lambda key, at=at: _at(at, base64.b64encode, f"Bearer {key}") for at in range(3)},
    **{f"URL base64 at {at}": lambda key, at=at: _at(at, base64.urlsafe_b64encode, key) for at in range(3)},
}


def spellings(key: str = CANARY) -> dict[bytes, str]:
    """Map every spelling of a key to the name of its form."""
    return {form(key).encode(): name for name, form in reversed([*FORMS.items()])}


SPELLINGS = spellings()
KEY_PREFIX = CANARY[:20].encode()
"""A truncated key counts as a leak: the rest could be guessed."""


def find_key(content: bytes, known: Mapping[bytes, str] = SPELLINGS) -> str | None:
    """Return the name of the form in which these bytes contain a key, or None."""
    if known is SPELLINGS and KEY_PREFIX in content:
        return "plain, perhaps cut"
    return next((name for spelling, name in known.items() if spelling in content), None)


def layers(path: Path, searched: set[bytes] | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield a file's bytes and its decoded contents: gzip members, Parquet cells, SQLite rows.

    Skips content whose digest is in `searched`, and adds the digests of all other content to it.
    """
    with contextlib.suppress(OSError):  # a pipe, or a folder without permission: nothing was written there
        if path.is_file():
            content = path.read_bytes()
            if searched is not None:
                digest = hashlib.sha256(content).digest()
                if digest in searched:
                    return
                searched.add(digest)
            yield str(path), content
            yield from _decoded(path, content)


def _decoded(path: Path, content: bytes) -> Iterator[tuple[str, bytes]]:
    if content.startswith(b"\x1f\x8b"):
        with contextlib.suppress(OSError, EOFError, zlib.error), gzip.open(io.BytesIO(content)) as file:
            yield f"{path} (unpacked)", file.read(64 * 2**20)
    if content.startswith(b"<!DOCTYPE html>"):
        yield f"{path} (data)", unpacked(content)
    if content.startswith(b"PAR1"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        with contextlib.suppress(pa.ArrowException, OSError):
            with pq.ParquetFile(io.BytesIO(content)) as file:  # `read_table` takes five times as long for a small one
                table = file.read(use_threads=False)
            cells = table.to_pydict()
            yield f"{path} (cells)", json.dumps([cells, str(table.schema.metadata)], default=str).encode()
            yield f"{path} (texts)", "\n".join(map(str, cells.values())).encode("utf-8", "replace")
    if content.startswith(b"SQLite format 3"):
        with contextlib.suppress(sqlite3.Error), sqlite3.connect(path) as db:
            yield f"{path} (rows)", "\n".join(db.iterdump()).encode("utf-8", "replace")


def find_leaks(folder: Path) -> Iterator[str]:
    """Yield every place below a folder that contains the canary, file names included; equal files are searched once."""
    searched: set[bytes] = set()
    for path in folder.rglob("*"):
        if (name := find_key(bytes(str(path.relative_to(folder)), "utf-8", "surrogateescape"))) is not None:
            yield f"{path}: the file's name, as {name}"
        for where, content in layers(path, searched):
            if (name := find_key(content)) is not None:
                yield f"{where}: as {name}"
