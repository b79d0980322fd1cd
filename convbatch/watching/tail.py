"""Read a growing journal from where the last look ended; nothing is read twice, and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convbatch.journal.records import read_record, seq_of
from convbatch.journal.run_folder import RunFolder


class JournalTail:
    """The records that a journal has gained since the last look.

    Args:
        folder: The run folder; a writer may be active.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._segment = self._offset = self._next_seq = 0
        self.damaged = 0
        """Lines that could not be read."""
        self.generation = 0
        """How often the journal was replaced by a shorter one: everything that was read before is void."""

    def read(self, most_bytes: int) -> Iterator[dict[str, Any]]:
        """Yield new records, in order; stop after this many bytes, and before a line that is not complete yet.

        Raises:
            SetupError: The journal may not be read, or convbatch did not write it.
        """
        segments = self._folder.segments()
        with self._folder.reading_journal():
            if self._has_shrunk(segments):
                self._segment = self._offset = self._next_seq = self.damaged = 0
                self.generation += 1
            while self._segment < len(segments) and most_bytes > 0:
                begun = self._offset
                yield from self._read_segment(segments[self._segment], most_bytes)
                most_bytes -= self._offset - begun
                if self._segment == len(segments) - 1 or most_bytes <= 0:
                    return
                self._segment, self._offset = self._segment + 1, 0

    def _has_shrunk(self, segments: list[Path]) -> bool:
        if self._segment >= len(segments):
            return self._offset > 0
        return segments[self._segment].stat().st_size < self._offset

    def _read_segment(self, path: Path, most_bytes: int) -> Iterator[dict[str, Any]]:
        end = self._offset + most_bytes
        with path.open("rb", buffering=1 << 16) as file:
            file.seek(self._offset)
            while self._offset < end and (line := file.readline()).endswith(b"\n"):
                self._offset += len(line)
                seq = seq_of(line)
                if seq is None or seq < self._next_seq:
                    self.damaged += 1
                    continue
                self._next_seq = seq + 1
                yield read_record(line)
