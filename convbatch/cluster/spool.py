"""Replies that a worker has received and that may not be in the journal yet, in a file of its own.

A worker writes each group of records here before it hands it to the coordinator. The file is read again where a worker
was lost, and by the next session where the coordinator was: a reply that was received is never lost with a process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from convbatch.cluster.messages import EncodedRecord
from convbatch.journal.index import Archive
from convbatch.journal.records import decode_line, numbered_line, seq_of
from convbatch.journal.run_folder import RunFolder
from convbatch.journal.writer import Journal

FOLDER = "spool"
_LARGE = 4 * 2**20
"""Bytes from which on a spool is emptied as soon as all of it is durable."""


class Spool:
    """The file of one worker. Lines are those of a journal, whose number is that of their group."""

    def __init__(self, path: Path) -> None:
        """Create the file; raises OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def write(self, group: int, wall: float, records: Sequence[EncodedRecord]) -> None:
        """Keep a group; raises OSError."""
        lines = b"".join(numbered_line(group, record.at(wall)) for record in records)
        done = 0
        while done < len(lines):
            done += os.write(self._fd, lines[done:])
        self._size += len(lines)

    def all_durable(self) -> None:
        """Forget what was written, once it is much."""
        if self._size >= _LARGE:
            os.ftruncate(self._fd, 0)
            self._size = 0

    def remove(self) -> None:
        """Remove the file: all of it is durable."""
        os.close(self._fd)
        self._path.unlink(missing_ok=True)


def groups(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the groups of a spool, without what was cut off while it was written; raises OSError."""
    group: list[dict[str, Any]] = []
    number: int | None = None
    with path.open("rb") as lines:
        for line in lines:
            found = seq_of(line)
            if found is None:
                break
            if group and found != number:
                yield group
                group = []
            number = found
            record = decode_line(line)
            group.append(
                {name: value for name, value in record.items() if name not in ("v", "seq", "at", "crc", "exact")}
            )
    if group:
        yield group


def files(folder: Path) -> list[Path]:
    """Return the spools that were left in a run folder, oldest first."""
    return sorted((folder / FOLDER).glob("*.jsonl"))


def remove(path: Path) -> None:
    """Remove a spool that was read."""
    path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove the folder of spools if none is left."""
    try:
        folder.rmdir()
    except OSError:
        return


async def deliver_spools(folder: RunFolder, journal: Journal) -> list[str]:
    """Write into the journal what workers of a killed session had received; return a note about it.

    Raises:
        JournalError: The journal cannot be written; the spools stay.
    """
    left = files(folder.path)
    if not left:
        return []
    delivered = 0
    with Archive(folder) as past:
        for path in left:
            for group in groups(path):
                if group[0]["kind"] == "outcome" and not _is_known(past, group[0]):
                    delivered += 1
                    await journal.commit(*group)
    for path in left:
        remove(path)
    remove_folder(folder.path / FOLDER)
    return [f"{delivered} replies that workers had received were added to the journal"] if delivered else []


def _is_known(past: Archive, outcome: dict[str, Any]) -> bool:
    """Return whether the journal has the outcome of this attempt, or does not need it: the turn was asked again."""
    turns = past.transcript(outcome["index"], outcome["target"], outcome["repeat"]).turns
    history = turns.get(outcome["turn"])
    if history is None:
        return False
    attempt = (outcome["attempt"], outcome.get("step", 1))
    is_stored = any((known["attempt"], known.get("step", 1)) == attempt for known in history.outcomes)
    return is_stored or history.finished(outcome["key"])
