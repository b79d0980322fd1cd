"""What a runner tells while it runs, and where else it looks for replies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from convbatch.engine.call import Call
from convbatch.engine.retry import Step
from convbatch.reply import Attempt, Status


class ReplySource(Protocol):
    """Another run whose replies may be reused (`journal.index.Archive`)."""

    def turn_by_key(self, key: str, repeat: int) -> Any:
        """Return a finished turn with this key, or None."""
        ...


class Listener(Protocol):
    """Receiver of durable results and notes; called on the event loop, must not block."""

    def turn_done(self, target: str, status: Status, *, before: bool) -> None:
        """Record that a row reached a terminal state; `before`: in an earlier session."""
        ...

    def sending(self, call: Call) -> None:
        """Record a request that is sent next."""
        ...

    def attempt_done(self, call: Call, attempt: Attempt, step: Step | None) -> None:
        """Record a stored attempt and what follows it; no step after a reply."""
        ...

    def on_text(self, call: Call) -> Callable[[str], None] | None:
        """Return what gets the text of a streamed reply as it arrives; None if nothing does."""
        ...

    def conversation_done(self, target: str, dialogue: str, repeat: int) -> None:
        """Record that a dialogue has no more turns in this session."""
        ...

    def note(self, text: str) -> None:
        """Show a note to the user."""
        ...
