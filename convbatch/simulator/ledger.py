"""The billing ledger: what really happened at the server, for tests to hold a client's story against.

An entry is born when a request arrives and ends when its reply was handed over or its connection died. A file gets
two lines a request, one at each of these moments, so that a call is on record even if the server is killed in between.
The ledger holds a short hash of a key, never the key.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson


@dataclass(slots=True, kw_only=True)
class Entry:
    """One request as the server saw it. Counts are the true ones, whatever the reply's usage says."""

    seq: int
    """From 1, in order of arrival."""
    arrived_at: float
    """Seconds on the clock the world is given; a server gives it Unix time."""
    wire: str
    operation: str
    """`generate`, `models`, or `unknown`."""
    key: str
    """First 8 hex digits of its SHA-256; empty when none was sent."""
    in_flight: int
    """Requests being answered at arrival, this one included."""
    model: str | None = None
    stream: bool = False
    turn: int = 0
    """Number of user messages in the history."""
    history_sha: str | None = None
    history: list[list[str]] | None = None
    """[role, text] from the system text on; None when the ledger keeps no histories or the request was unreadable."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    """Includes reasoning; None where nothing was generated."""
    reasoning_tokens: int | None = None
    billed: bool = False
    delivered: bool | None = None
    """Every byte of a whole reply was handed to the socket while the connection stood; None while it is open."""
    status: int | None = None
    """None: no status line was sent."""
    fault: str | None = None
    request_id: str | None = None
    """As its reply's header named it; None when that had none."""
    finished_at: float | None = None


_END_FIELDS = ("seq", "delivered", "finished_at")


class Ledger:
    """Entries in memory and, if asked for, in a JSONL file."""

    def __init__(self, path: str | Path | None = None, *, history: bool = True, keep: bool = True) -> None:
        """Open a ledger.

        Args:
            path: A file to write through to; an old one is replaced.
            history: Keep the messages of every request, not only their digest.
            keep: Keep the entries in memory; without it only the numbers of requests and billed calls are known.
        """
        self.entries: list[Entry] = []
        self.keeps_history = history
        self.requests = 0
        self.billed = 0
        self._keep = keep
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)

    def arrived(self, entry: Entry) -> None:
        """Record a request whose fate is decided: what it is, and whether it is billed."""
        self.requests += 1
        self.billed += entry.billed
        if self._keep:
            self.entries.append(entry)
        if self._file is not None:
            os.write(self._file, orjson.dumps(entry) + b"\n")

    def ended(self, entry: Entry) -> None:
        """Record how the reply's way ended."""
        if self._file is not None:
            os.write(self._file, orjson.dumps({name: getattr(entry, name) for name in _END_FIELDS}) + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_ledger(path: str | Path) -> list[Entry]:
    """Entries of a ledger file in order of arrival; a torn last line is left out."""
    found: dict[int, dict[str, Any]] = {}
    for line in Path(path).read_bytes().split(b"\n")[:-1]:
        record: dict[str, Any] = orjson.loads(line)
        found.setdefault(record["seq"], {}).update(record)
    return [Entry(**found[seq]) for seq in sorted(found)]


def busiest_window(times: Iterable[float], window_s: float) -> int:
    """The largest number of `times` in any half-open window of this length."""
    inside: deque[float] = deque()
    most = 0
    for time in sorted(times):
        inside.append(time)
        while inside[0] <= time - window_s:
            inside.popleft()
        most = max(most, len(inside))
    return most


def key_hash(key: str) -> str:
    """How a key is named in the ledger."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:8] if key else ""
