"""The billing ledger: what happened at the server, for tests to compare with a client's records.

An entry starts when a request arrives and ends when its reply was sent or its connection ended. A ledger file gets one
line at each of these moments, so a call is on record even if the server is killed in between. The ledger contains a
short hash of a key, never the key.
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
    """One request as seen by the server. Token counts are the true ones, whatever usage the reply reports."""

    seq: int
    """From 1, in order of arrival."""
    arrived_at: float
    """Seconds on the provider's clock; Unix time for a server."""
    wire: str
    operation: str
    """`generate`, `models`, `model`, an operation on batch jobs, files or background responses, or `unknown`."""
    key: str
    """First 8 hex digits of the key's SHA-256; empty without a key."""
    in_flight: int
    """Requests in flight at arrival, this one included."""
    model: str | None = None
    stream: bool = False
    turn: int = 0
    """Number of user messages in the history."""
    history_sha: str | None = None
    history: list[list[str]] | None = None
    """[role, text] pairs, the system text first; None without histories or for an unreadable request."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    """Includes reasoning; None if nothing was generated."""
    reasoning_tokens: int | None = None
    billed: bool = False
    delivered: bool | None = None
    """Whether a complete reply was passed to the socket while the connection was open; None until then."""
    status: int | None = None
    """None: no status line was sent."""
    fault: str | None = None
    request_id: str | None = None
    """From the header of the reply; None without one."""
    finished_at: float | None = None
    batch: str | None = None
    """The job that a reply was made for, or that the request is about; of a background response its id."""
    price: float = 1.0
    """Of a billed reply, as a share of the usual price."""


_END_FIELDS = ("seq", "delivered", "finished_at")


class Ledger:
    """Entries in memory and, optionally, in a JSONL file."""

    def __init__(self, path: str | Path | None = None, *, history: bool = True, keep: bool = True) -> None:
        """Open a ledger.

        Args:
            path: A file to write as well; an existing one is replaced.
            history: Keep the messages of every request, not only their digest.
            keep: Keep the entries in memory; without it only the counts of requests and billed calls are kept.
        """
        self.entries: list[Entry] = []
        self.keeps_history = history
        self.requests = 0
        self.billed = 0
        self._keep = keep
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)

    def arrived(self, entry: Entry) -> None:
        """Record a request whose answer is decided, and whether it is billed."""
        self.requests += 1
        self.billed += entry.billed
        if self._keep:
            self.entries.append(entry)
        if self._file is not None:
            os.write(self._file, orjson.dumps(entry) + b"\n")

    def ended(self, entry: Entry) -> None:
        """Record whether the reply was delivered."""
        if self._file is not None:
            os.write(self._file, orjson.dumps({name: getattr(entry, name) for name in _END_FIELDS}) + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_ledger(path: str | Path) -> list[Entry]:
    """Return the entries of a ledger file in order of arrival, without a torn last line."""
    found: dict[int, dict[str, Any]] = {}
    for line in Path(path).read_bytes().split(b"\n")[:-1]:
        record: dict[str, Any] = orjson.loads(line)
        found.setdefault(record["seq"], {}).update(record)
    return [Entry(**found[seq]) for seq in sorted(found)]


def busiest_window(times: Iterable[float], window_s: float) -> int:
    """Return the largest number of `times` in any half-open window of this length."""
    inside: deque[float] = deque()
    most = 0
    for time in sorted(times):
        inside.append(time)
        while inside[0] <= time - window_s:
            inside.popleft()
        most = max(most, len(inside))
    return most


def key_hash(key: str) -> str:
    """Return the name of a key in the ledger."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:8] if key else ""
