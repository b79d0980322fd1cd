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
    """The dialogues refused since the last answer, by their refusal.

    Requests count in the order in which they were sent: a late answer to an older request says nothing of a refusal.
    """

    def __init__(self) -> None:
        self._sent_at: dict[Refusal, dict[int, float]] = {}
        """When the refused request of each dialogue was sent."""
        self._answered_at = float("-inf")

    def add(self, refusal: Refusal, dialogue: int, sent_at: float) -> None:
        """Record a refusal of a dialogue."""
        if sent_at < self._answered_at:
            return
        if len(self._sent_at) > _MAX_KEPT:
            self._sent_at.clear()
        dialogues = self._sent_at.setdefault(refusal, {})
        dialogues[dialogue] = max(sent_at, dialogues.get(dialogue, sent_at))
        if len(dialogues) > ALIKE:
            del dialogues[min(dialogues, key=dialogues.__getitem__)]

    def answered(self, sent_at: float) -> None:
        """Forget the refusals of requests that were sent before this one, which was answered."""
        self._answered_at = max(self._answered_at, sent_at)
        for refusal, dialogues in [*self._sent_at.items()]:
            kept = {dialogue: at for dialogue, at in dialogues.items() if at > self._answered_at}
            if kept:
                self._sent_at[refusal] = kept
            else:
                del self._sent_at[refusal]

    def has_many(self, refusal: Refusal) -> bool:
        """Return whether so many dialogues got this refusal that it is one of the target."""
        return len(self._sent_at.get(refusal, ())) >= ALIKE
