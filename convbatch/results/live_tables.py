"""The process that writes the tables of a run while the run goes, so that closing a large run takes seconds.

It follows the journal, and writes the rows of a dialogue when all its turns have a result, in the order of the tables;
what is left when the run tells it that the journal is closed, it writes then. Until then the tables are drafts. It
gives up on anything unexpected; the run then makes its tables as if this process had never been.

It ends with the run's process: the end of its input without the line that says so means that the run died.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from convbatch.dialogue import Dialogue
from convbatch.errors import ConvbatchError
from convbatch.journal.index import Transcript
from convbatch.journal.manifest import Manifest
from convbatch.journal.run_folder import RunFolder
from convbatch.journal.stream import BrokenStream, GrowingArchive
from convbatch.reply import is_open
from convbatch.results.cache import findings_of, marks_of, write_rows
from convbatch.results.columns import TURNS, VERDICTS
from convbatch.results.conversations import StoredConversation, StoredDialogues, dialogues_with_checks
from convbatch.results.parquet import open_writer

END = b"end\n"
"""What the run tells when its journal is closed."""
MADE, GAVE_UP = 0, 1
FREE_BYTES = 512 * 2**20
"""Space that is the journal's: with less of it, nothing is written beside the journal."""
_MOST_RECORDS = 20_000
"""Read at once, then dialogues are looked at again."""
_WAIT_S = 0.5
_OOM_SCORE = b"1000"
"""With no memory left, Linux ends this process first."""


def main() -> None:
    """Write the tables of the run folder that the first argument names."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the run decides; it also dies of them, and then this process does
    os.nice(10)  # where cores are few, they are the run's
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(_OOM_SCORE)
    folder = RunFolder.open(Path(sys.argv[1]))
    over = threading.Event()
    threading.Thread(target=_wait_for_end, args=(folder, over), daemon=True).start()
    try:
        LiveTables(folder, over).write()
    except (BrokenStream, ConvbatchError, OSError, MemoryError):
        os._exit(GAVE_UP)  # the drafts are gone; the thread may still wait
    os._exit(MADE)


def remove_drafts(folder: RunFolder, pid: int) -> None:
    """Remove what a process that was killed left of its tables."""
    for path in drafts(folder, pid):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def drafts(folder: RunFolder, pid: int) -> list[Path]:
    """Return the paths at which a process writes its tables, as `RunFolder.replacing` names them."""
    return [path.with_name(f".{path.name}.{pid}.new") for path in (folder.turns, folder.verdicts)]


def _wait_for_end(folder: RunFolder, over: threading.Event) -> None:
    if sys.stdin.buffer.readline() == END:
        over.set()
        if sys.stdin.buffer.readline() == b"":  # the input stays open until the tables are there
            _die(folder)
    _die(folder)


def _die(folder: RunFolder) -> None:
    remove_drafts(folder, os.getpid())
    os._exit(GAVE_UP)


class LiveTables:
    """The tables of one run, written from its growing journal."""

    def __init__(self, folder: RunFolder, over: threading.Event) -> None:
        """Args: folder: The run folder. over: Is set when the journal is closed."""
        self._folder = folder
        self._over = over
        self._manifest = folder.read_manifest()
        self._checks = folder.checks_mark()
        self._told_at = 0.0

    def write(self) -> None:
        """Write both tables; returns when they have their names.

        Raises:
            BrokenStream: The journal is damaged, or the run changed what the tables are made of.
            ConvbatchError: The run folder cannot be read, or the tables cannot be written.
            OSError: As ConvbatchError.
        """
        folder = self._folder
        with ExitStack() as stack:
            self._archive = stack.enter_context(contextlib.closing(GrowingArchive(folder)))
            file, verdicts = (
                stack.enter_context(folder.replacing(path.name)) for path in (folder.turns, folder.verdicts)
            )
            turn_file = stack.enter_context(open_writer(file, TURNS, {}))
            verdict_file = stack.enter_context(open_writer(verdicts, VERDICTS, {}))
            write_rows(self._conversations(), turn_file, verdict_file)
            marks = self._final_marks()
            turn_file.add_key_value_metadata({**marks, **findings_of(self._archive)})
            verdict_file.add_key_value_metadata(marks)

    def _conversations(self) -> Iterator[StoredConversation]:
        """Yield every conversation of the plan, each when its dialogue has ended."""
        stored = StoredDialogues(self._folder, self._manifest, self._archive)
        for index, dialogue, judged_by in dialogues_with_checks(self._folder):
            found = self._ended(index, dialogue)
            yield from stored.conversations(index, dialogue, judged_by, found)
            self._archive.forget(index)
            if self._over.is_set():
                self._tell()

    def _ended(self, index: int, dialogue: Dialogue) -> dict[tuple[str, int], Transcript]:
        """Wait until all turns of a dialogue have a result, or the journal is closed; return its transcripts."""
        while True:
            found = self._archive.dialogue(index, self._manifest.repeats)
            if self._is_ended(dialogue, found) and self._archive.is_settled(index):
                return found
            is_over = self._over.is_set()
            if not self._archive.advance(_MOST_RECORDS):
                if is_over:
                    return found
                self._refuse_full_disk()
                self._over.wait(_WAIT_S)
            elif is_over:
                self._tell()

    def _is_ended(self, dialogue: Dialogue, found: dict[tuple[str, int], Transcript]) -> bool:
        if len(found) < len(self._manifest.targets) * self._manifest.repeats:
            return False
        asked = dialogue.asked(self._manifest.history)
        for conversation in found.values():
            for number in asked:
                past = conversation.turns.get(number)
                if past is None or past.open_intents or is_open(past.status, past.error_kind):
                    return False
        return True

    def _refuse_full_disk(self) -> None:
        disk = os.statvfs(self._folder.path)
        if disk.f_bavail * disk.f_frsize < FREE_BYTES:
            raise OSError("the space that is left is the journal's")

    def _final_marks(self) -> dict[bytes, bytes]:
        """Return the metadata of the tables, after the journal was read to its end.

        Raises:
            BrokenStream: They do not match the run folder as it is now.
        """
        while not self._over.is_set():
            if not self._archive.advance(_MOST_RECORDS):
                self._over.wait(_WAIT_S)
        marks = marks_of(self._folder, self._folder.read_manifest())
        while self._archive.advance(_MOST_RECORDS):
            self._tell()
        size = sum(path.stat().st_size for path in self._folder.segments())
        if size != self._archive.read_bytes or not self._archive.holds(self._folder.recorded_end()):
            raise BrokenStream("the journal is not as it was read")
        if self._folder.checks_mark() != self._checks or _decides(self._folder.read_manifest()) != _decides(
            self._manifest
        ):
            raise BrokenStream("the run is not as it was when its tables were begun")
        return marks

    def _tell(self) -> None:
        """Tell the run, which waits, that this process works; at most a byte a second."""
        now = time.monotonic()
        if now - self._told_at >= 1.0:
            self._told_at = now
            with contextlib.suppress(OSError):
                os.write(sys.stdout.fileno(), b".")


def _decides(manifest: Manifest) -> tuple[object, ...]:
    """Return what of `run.json` the rows are made of."""
    return manifest.run, manifest.targets, manifest.judges, manifest.rates, manifest.repeats, manifest.history
