"""Read a journal while it is written: `JournalStream` its lines, each once and in order, `GrowingArchive` its records.

Both are strict: a line that is not whole, or not the next one, ends the reading, and whoever needs the journal then
reads it with `Archive`, which names the damage. Neither writes into the run folder.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterator
from typing import IO, Any

from convbatch.journal.index import Archive, Transcript
from convbatch.journal.records import Damage, JournalEnd, JournalLine, checksum_of, read_record, seq_of
from convbatch.journal.run_folder import RunFolder

_LATEST_LINES = 10_000
"""Among them is the record that `run.json` names, which is written just before the last ones."""
_GROUP = 100
"""More records than are written in one piece."""


class BrokenStream(Exception):
    """The journal cannot be read line by line, or a record came that should not have come."""


class JournalStream:
    """The lines of a journal that grows; memory does not grow with it.

    Attributes:
        next_seq: Number of the next record.
        read_bytes: Length of what was read, in whole lines.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._segment = -1
        self._offset = 0
        self.next_seq = 0
        self.read_bytes = 0
        self._latest: deque[JournalEnd] = deque(maxlen=_LATEST_LINES)

    def close(self) -> None:
        """Close the segment that is read."""
        if self._file is not None:
            self._file.close()

    def lines(self, most: int) -> Iterator[JournalLine]:
        """Yield up to so many lines that were appended since the last call.

        Raises:
            BrokenStream: A line is not whole, or not the next one.
            OSError: A segment cannot be read.
        """
        while most > 0:
            line = self._line()
            if line is None:
                # A next segment is made when this one is complete, so what is at its end now is its end.
                is_last = self._segment + 1 >= len(self._folder.segments())
                line = self._line()
                if line is None:
                    if is_last:
                        return
                    self._open_next()
                    continue
            most -= 1
            yield line

    def holds(self, end: JournalEnd | None) -> bool:
        """Return whether this is one of the latest lines; None is in any journal."""
        return end is None or end in self._latest

    def _line(self) -> JournalLine | None:
        if self._file is None:
            return None
        raw = self._file.readline()
        if not raw.endswith(b"\n"):
            if raw:  # a line that is being written
                self._file.seek(0, os.SEEK_END)  # drops what is buffered: a resumed session cuts a torn line off
                self._file.seek(self._offset)
            return None
        if seq_of(raw) != self.next_seq:
            raise BrokenStream(f"line {self.next_seq} of the journal is damaged or missing")
        line = JournalLine(self.next_seq, self._segment, self._offset, raw)
        self._latest.append(JournalEnd(self.next_seq, checksum_of(raw)))
        self.next_seq += 1
        self._offset += len(raw)
        self.read_bytes += len(raw)
        return line

    def _open_next(self) -> None:
        if self._file is not None:
            if self._file.read(1):
                raise BrokenStream("a segment of the journal ends within a line")
            self._file.close()
        self._segment += 1
        self._offset = 0
        self._file = self._folder.segments()[self._segment].open("rb", buffering=1 << 18)


class GrowingArchive(Archive):
    """The records of a journal that grows, of the dialogues that are not forgotten yet."""

    def __init__(self, folder: RunFolder) -> None:
        """Read nothing yet.

        Raises:
            SetupError: As `Archive`.
        """
        self._prepare(folder, by_key=False)
        self._stream = JournalStream(folder)
        self._forgotten = 0
        """Dialogues before this one are forgotten."""
        self.runs: list[dict[str, Any]] = []
        self.damage: list[Damage] = []
        self.damage_count = 0
        self._is_torn = False
        self._in_flight_from = None
        self._create_table()
        self._create_look_up()

    def close(self) -> None:
        """Drop the index; records that were returned stay valid."""
        self._stream.close()
        super().close()

    @property
    def read_bytes(self) -> int:
        """Length of the journal as far as it was read."""
        return self._stream.read_bytes

    def holds(self, end: JournalEnd | None) -> bool:
        """Return whether this is one of the latest records."""
        return self._stream.holds(end)

    def advance(self, most: int) -> int:
        """Read up to so many new records; return how many there were.

        Raises:
            BrokenStream: The journal is damaged, or a record is of a dialogue that was forgotten.
            OSError: It cannot be read, or the index finds no space.
        """
        before = self._stream.next_seq
        try:
            self._insert(self._read_more(most))
        except sqlite3.Error as error:
            raise OSError(str(error)) from error
        segments = self.folder.segments()
        self._files.extend(os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in segments[len(self._files) :])
        return self._stream.next_seq - before

    def dialogue(self, index: int, repeats: int) -> dict[tuple[str, int], Transcript]:
        """Return the transcripts of a dialogue by target and repeat."""
        names = list(self.targets)
        return {(name, k): self.transcript(index, name, k) for name in names for k in range(1, repeats + 1)}

    def is_settled(self, index: int) -> bool:
        """Return whether the latest record of a dialogue is followed by enough others to be the last of its group.

        The record that ends a turn is written together with its reply, but may be read after it.
        """
        (latest,) = self._db.execute("SELECT MAX(seq) FROM records WHERE dialogue = ?", (index,)).fetchone()
        return latest is not None and self._stream.next_seq - latest > _GROUP

    def forget(self, index: int) -> None:
        """Forget the dialogues up to this one; a further record of theirs is refused."""
        self._forgotten = index + 1
        self._db.execute("DELETE FROM records WHERE dialogue <= ?", (index,))

    def _read_more(self, most: int) -> Iterator[JournalLine]:
        for line in self._stream.lines(most):
            if b',"kind":"run",' in line.raw[:60]:
                self.runs.append(read_record(line.raw))
            yield line

    def _check_row(self, row: tuple[Any, ...]) -> None:
        if row[2] < self._forgotten:
            raise BrokenStream(f"dialogue {row[2]} went on after its end")
