"""Which request of which turn: for whoever follows a run."""

from __future__ import annotations

from typing import NamedTuple

from convbatch.dialogue import Dialogue


class Call(NamedTuple):
    """One attempt for one turn."""

    target: str
    dialogue: str
    repeat: int
    turn: int
    number: int
    """Of the turn's attempts, from 1."""
    waited_s: float
    """For the rate limiter."""
    in_flight: int
    """Requests of the target in flight, this one included."""
    script: Dialogue

    def __str__(self) -> str:
        repeat = "" if self.repeat == 1 else f" repeat {self.repeat}"
        return f"{self.target}: {self.dialogue}{repeat} turn {self.turn} attempt {self.number}"
