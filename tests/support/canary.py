"""A key that sings: every run of the command in the tests has it, and nothing that is left behind may hold it.

`SPELLINGS` are made with the standard library alone: they are a witness beside `convbatch/redaction.py`, not its echo.
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

CANARY_ENV = "CANARY_KEY"
CANARY = "sk-C4n4ry/9f+x&=%<'\"\\~Q7wK2mZ0"
"""With every character that JSON, URLs, HTML and base64 write otherwise."""


def _at(offset: int, encode: Callable[[bytes], bytes], value: str) -> str:
    """What base64 makes of the value behind `offset` other bytes, without what depends on its neighbours."""
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
    """Every way to write a key, with its name."""
    return {form(key).encode(): name for name, form in reversed([*FORMS.items()])}


SPELLINGS = spellings()
HALF = CANARY[:20].encode()
"""A key that was cut off is as good as a whole one to whoever guesses the rest."""


def heard(content: bytes, known: Mapping[bytes, str] = SPELLINGS) -> str | None:
    """In which spelling a key stands in these bytes; None = it does not."""
    if known is SPELLINGS and HALF in content:
        return "plain, perhaps cut"
    return next((name for spelling, name in known.items() if spelling in content), None)


def layers(path: Path, searched: set[bytes] | None = None) -> Iterator[tuple[str, bytes]]:
    """A file's bytes, and what they hold packed: gzip members, Parquet cells, SQLite rows.

    Nothing comes of bytes whose digest is in `searched`, to which the others are added.
    """
    with contextlib.suppress(OSError):  # a pipe, a folder without rights: nothing was written there
        if path.is_file():
            content = path.read_bytes()
            if searched is not None:
                digest = hashlib.sha256(content).digest()
                if digest in searched:
                    return
                searched.add(digest)
            yield str(path), content
            yield from _inside(path, content)


def _inside(path: Path, content: bytes) -> Iterator[tuple[str, bytes]]:
    if content.startswith(b"\x1f\x8b"):
        with contextlib.suppress(OSError, EOFError, zlib.error), gzip.open(io.BytesIO(content)) as file:
            yield f"{path} (unpacked)", file.read(64 * 2**20)
    if content.startswith(b"PAR1"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        with contextlib.suppress(pa.ArrowException, OSError):
            with pq.ParquetFile(io.BytesIO(content)) as file:  # `read_table` takes five times as long for a small one
                table = file.read(use_threads=False)
            yield f"{path} (cells)", json.dumps([table.to_pydict(), str(table.schema.metadata)], default=str).encode()
            yield f"{path} (texts)", "\n".join(map(str, table.to_pydict().values())).encode("utf-8", "replace")
    if content.startswith(b"SQLite format 3"):
        with contextlib.suppress(sqlite3.Error), sqlite3.connect(path) as db:
            yield f"{path} (rows)", "\n".join(db.iterdump()).encode("utf-8", "replace")


def left_behind(folder: Path) -> Iterator[str]:
    """Where under a folder the canary is heard, names of files included; what two files hold is searched once."""
    searched: set[bytes] = set()
    for path in folder.rglob("*"):
        if (name := heard(bytes(str(path.relative_to(folder)), "utf-8", "surrogateescape"))) is not None:
            yield f"{path}: the file's name, as {name}"
        for where, content in layers(path, searched):
            if (name := heard(content)) is not None:
                yield f"{where}: as {name}"
