"""What notes on answers mean for those who read tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from convbatch.reply import HISTORY_CUT


def join_notes(records: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the notes of several `outcome` records, each once; None without one."""
    notes = dict.fromkeys(record["wire_note"] for record in records if record.get("wire_note") is not None)
    return "; ".join(notes) or None


def is_history_cut(note: str | None) -> bool:
    """Whether a note says that the provider removed a part of the history before the model saw it."""
    return note is not None and HISTORY_CUT in note
