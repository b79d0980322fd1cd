"""What notes on answers mean for those who read tables."""

from __future__ import annotations

from convbatch.reply import HISTORY_CUT


def is_history_cut(note: str | None) -> bool:
    """Whether a note says that the provider removed a part of the history before the model saw it."""
    return note is not None and HISTORY_CUT in note
