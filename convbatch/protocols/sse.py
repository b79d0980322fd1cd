"""Bytes of an event stream in any chunks → `SseEvent`s; pure, knows no protocol.

Lines end at CR, LF or CRLF only (a raw U+2028 belongs to its line); comments and unknown fields are skipped; several
`data` lines join with a newline; `[DONE]` is handed on, it is the protocols that know what it means.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SseEvent:
    """One event: its name ("" when the stream gave none) and its data."""

    event: str
    data: str
