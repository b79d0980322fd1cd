"""How long a target still needs: its recent speed while nothing held it back, and the pause that holds it back now."""

from __future__ import annotations

import math

_MEMORY_S = 300.0
"""Rows and times older than about this no longer count."""
_MIN_ROWS = 2
_MIN_BUSY_S = 1.0


class Pace:
    """Speed of one target, updated several times a second.

    Time in which the target was paused does not lower its speed, but counts as a share of the time: a target that is
    paused for half of every minute needs twice as long.
    """

    def __init__(self) -> None:
        self._rows = self._busy_s = self._paused_s = 0.0
        self._pauses = 0
        self._is_paused = False
        self._updated_at: float | None = None

    def update(self, now: float, new_rows: int, *, is_paused: bool) -> None:
        """Record the rows finished since the last update, and whether the target is paused now."""
        passed_s = 0.0 if self._updated_at is None else max(0.0, now - self._updated_at)
        self._updated_at = now
        fade = math.exp(-passed_s / _MEMORY_S)
        self._rows = self._rows * fade + new_rows
        # While paused, what went before fades alike, so that the speed stays.
        self._busy_s = self._busy_s * fade + (0.0 if is_paused else passed_s)
        self._paused_s = self._paused_s * fade + (passed_s if is_paused else 0.0)
        self._pauses += self._is_paused and not is_paused
        self._is_paused = is_paused

    @property
    def per_s(self) -> float | None:
        """Rows per second; None if there is too little evidence."""
        enough = self._rows >= _MIN_ROWS and self._busy_s >= _MIN_BUSY_S
        return self._rows / self._busy_s if enough else None

    def left_s(self, rows: int, paused_s: float = 0.0) -> float | None:
        """Return the seconds until so many rows are finished; None if there is too little evidence.

        Args:
            rows: Rows to go.
            paused_s: What is left of the present pause.
        """
        if rows <= 0:
            return 0.0
        per_s = self.per_s
        if per_s is None:
            return None
        share = self._paused_s / self._busy_s if self._pauses > 1 else 0.0
        return paused_s + rows / per_s * (1 + share)
