"""Progress on stderr: a bar on a terminal, else one line every 30 s, with the reason for waiting.

Only durable rows are counted: the runner calls `turn_done` after the journal's sync.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, TextIO, cast

from tqdm import tqdm

from convbatch.console.text import printable
from convbatch.redaction import redact
from convbatch.reply import Status

PLAIN_EVERY_S = 30.0
_SHOWN: tuple[Status, ...] = ("blocked", "empty", "error", "skipped")


class _TolerantStream:
    """A stream that ignores its errors: a closed terminal or pipe must not end a paid run."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None if the process has no stderr

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _tolerant(stream: TextIO | None) -> TextIO:
    return cast("TextIO", _TolerantStream(stream if stream is not None else sys.stderr))


class Progress:
    """The listener of a run on a terminal."""

    def __init__(
        self,
        total: int,
        *,
        enabled: bool = True,
        notes: bool = True,
        stream: TextIO | None = None,
        unit: str = "turn",
    ) -> None:
        self._stream = _tolerant(stream)
        self._enabled = enabled
        self._notes = notes
        self._total = total
        self._counts: Counter[Status] = Counter()
        self._before = 0
        self._last_line: float | None = None
        on_terminal = enabled and self._stream.isatty()
        self._bar = (
            tqdm(total=total, unit=unit, file=self._stream, dynamic_ncols=True, leave=False, smoothing=0.1)
            if on_terminal
            else None
        )

    def turn_done(self, target: str, status: Status, *, before: bool) -> None:
        """Count one durable row; rows of earlier sessions move the bar without counting towards its speed."""
        self._counts[status] += 1
        if before:
            self._before += 1
            if self._bar is not None:
                self._bar.initial += 1
                self._bar.n += 1
        elif self._bar is not None:
            self._bar.update(1)

    def note(self, text: str) -> None:
        """Print a permanent line, if notes are enabled."""
        if self._notes:
            self.answer(text)

    def swing(self, text: str) -> None:
        """Print a permanent line about the rate or the requests in flight; like the progress, it can be turned off."""
        if self._enabled:
            self.note(text)

    def answer(self, text: str) -> None:
        """Print a permanent line even if notes are disabled: it responds to what the user just did."""
        line = f"convbatch: {printable(redact(text))}"
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)  # this class writes to stderr

    def refresh(self, now: float, waits: Sequence[str]) -> None:
        """Show counts and reasons for waiting; called several times a second with a monotonic time."""
        if not self._enabled:
            return
        parts = [f"{self._counts[status]} {status}" for status in _SHOWN if self._counts[status]]
        parts += [printable(wait) for wait in waits]
        if self._bar is not None:
            self._bar.set_postfix_str("; ".join(parts), refresh=True)
            return
        if self._last_line is None:
            self._last_line = now
        if now - self._last_line >= PLAIN_EVERY_S:
            self._last_line = now
            done = sum(self._counts.values())
            self.note("; ".join([f"{done} of {self._total} turns", *parts]))

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


class ReadingBar:
    """Progress bar in bytes while a large dataset is read; not shown for small files."""

    def __init__(self, *, enabled: bool = True, stream: TextIO | None = None) -> None:
        self._stream = _tolerant(stream)
        self._enabled = enabled and self._stream.isatty()
        self._bar: tqdm[Any] | None = None

    def show(self, done: int, total: int, dialogues: int) -> None:
        """Update the bar with bytes read, bytes in total, and dialogues so far."""
        if not self._enabled or total < 4_000_000:
            return
        if self._bar is None:
            self._bar = tqdm(total=total, unit="B", unit_scale=True, desc="reading", file=self._stream, leave=False)
        self._bar.set_postfix_str(f"{dialogues:,} dialogues", refresh=False)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> ReadingBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
