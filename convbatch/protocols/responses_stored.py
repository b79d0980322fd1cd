"""Histories that OpenAI keeps: which of their messages need not be sent, and the id that stands for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from convbatch.dialogue import Message
from convbatch.protocols.replay import STORED_ID, STORED_TURN

NOT_STORED = "a reply in the history has no response id, so it was sent again instead of referred to"
"""Note on replies to a history with a model's turn that could not be referred to."""


class StoredHistory(NamedTuple):
    """What of a history is kept by the provider."""

    id: str | None = None
    """Of the last response that is kept; None: there is none."""
    size: int = 0
    """How many messages it stands for."""
    messages: tuple[Message, ...] = ()
    """The whole history, with its turns as received."""


NOTHING_STORED = StoredHistory()


def last_stored(messages: Sequence[Message]) -> StoredHistory:
    """Find the last turn that the provider keeps; given turns have no id, and are sent."""
    stored = NOTHING_STORED
    plain: list[Message] = []
    for at, message in enumerate(messages, 1):
        raw = message.raw
        if isinstance(raw, dict) and STORED_ID in raw:
            stored = StoredHistory(id=str(raw[STORED_ID]), size=at)
            message = message._replace(raw=raw[STORED_TURN])
        plain.append(message)
    return stored._replace(messages=tuple(plain))
