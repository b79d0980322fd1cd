"""Which refusals of different dialogues are the same one.

One dialogue may be refused for what it contains. Several that are refused in the same words, with no answer between
them, show that the target refuses every request: an account, a setting or an address is wrong, in words that no table
of `protocols/error_mapping.py` lists. What follows from that is `retry.py`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from convbatch.reply import Attempt, ErrorKind, Failure

ALIKE = 3
"""Dialogues refused in the same way, with no answer between them, that make it a refusal of the target."""

_OF_ONE_DIALOGUE: frozenset[ErrorKind] = frozenset({"content_filter", "context_length"})
_READ_CHARS = 500
_MAX_KEPT = 200
"""Different refusals remembered; a target that gives more of them refuses each dialogue in its own words."""
_QUOTED = re.compile(r'"[^"]*"|`[^`]*`|“[^”]*”|「[^」]*」|(?<!\w)\'[^\']*\'(?!\w)')
_NAME = re.compile(r"[A-Za-z_][A-Za-z_.\[\]-]{0,40}")
_WORD = re.compile(r"[A-Za-z0-9_./:\[\]-]+|[^\x00-\x7f]+")
_VARYING = re.compile(r"\d|://|^[A-Za-z_-]{30}")


class Refusal(NamedTuple):
    """What is the same in refusals of different dialogues."""

    kind: ErrorKind
    http_status: int | None
    words: str
    """The message without numbers, identifiers, addresses and quoted texts; empty where no model was asked."""


def refusal_of(attempt: Attempt) -> Refusal | None:
    """Return what to compare of a final refusal; None for other attempts, and for what one dialogue contains."""
    failure = attempt.outcome
    if not isinstance(failure, Failure) or attempt.cls != "final" or failure.kind in _OF_ONE_DIALOGUE:
        return None
    return Refusal(failure.kind, attempt.http_status, "" if failure.no_model else _common_words(failure.message))


def _common_words(message: str) -> str:
    """Return the words of a message that do not depend on the request; a quoted name of a field stays."""
    text = _QUOTED.sub(lambda quoted: f" {inner} " if _NAME.fullmatch(inner := quoted[0][1:-1]) else " ", message)
    words = (word.strip(".:") for word in _WORD.findall(text[:_READ_CHARS]))
    return " ".join(word.lower() for word in words if not _VARYING.search(word))


class RefusedDialogues:
    """The dialogues refused since the last answer, by their refusal."""

    def __init__(self) -> None:
        self._dialogues: dict[Refusal, set[int]] = {}

    def add(self, refusal: Refusal, dialogue: int) -> None:
        """Record a refusal of a dialogue."""
        if len(self._dialogues) > _MAX_KEPT:
            self._dialogues.clear()
        dialogues = self._dialogues.setdefault(refusal, set())
        if len(dialogues) < ALIKE:
            dialogues.add(dialogue)

    def clear(self) -> None:
        """Forget all: the target has answered."""
        self._dialogues.clear()

    def has_many(self, refusal: Refusal) -> bool:
        """Return whether so many dialogues got this refusal that it is one of the target."""
        return len(self._dialogues.get(refusal, ())) >= ALIKE
