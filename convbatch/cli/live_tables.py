"""The run's side of `results/live_tables.py`: start the process, tell it the end, wait for the tables, clear up."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from convbatch.journal.run_folder import RunFolder
from convbatch.session.judge import wants_judge
from convbatch.session.spec import SessionSpec

LEAST_ROWS = 5_000
"""Smaller tables are made in a second or two when the run has ended."""
_SILENT_S = 60.0
"""The process works or ends; one that is silent for longer was stopped, and the tables are made without it."""
_CODE = "from convbatch.results.live_tables import main; main()"
_KEPT_VARIABLES = ("HOME", "LANG", "PATH", "SQLITE_TMPDIR", "TMPDIR", "TZ", "VIRTUAL_ENV")
"""The process needs no keys."""
_DRAFT = re.compile(r"\.(?:turns|verdicts)\.parquet\.([0-9]{1,9})\.new")


class TableMaker:
    """The process that makes the tables of a run meanwhile, if there is one."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None without one."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process; without it the tables are made later."""
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _CODE, str(self._folder.path.absolute())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                bufsize=0,
                process_group=0,  # Ctrl-C in the terminal is for the run; in a session of its own, `nice` has no effect
            )

    def finish(self) -> None:
        """Wait until the tables of the closed journal are written; returns also where that failed."""
        from convbatch.results.live_tables import END

        process = self._process
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(OSError):
            _stream(process.stdin).write(END)
            out = _stream(process.stdout).fileno()
            while select.select([out], [], [], _SILENT_S)[0] and os.read(out, 4096):
                pass
        self.close()

    def close(self) -> None:
        """End the process; what it has not finished is removed."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0)
        process.kill()
        with process:  # closes the pipes and waits
            pass
        for path in _drafts(self._folder):
            if path.name.endswith(f".{process.pid}.new"):
                path.unlink(missing_ok=True)


@contextmanager
def table_maker(folder: RunFolder) -> Generator[TableMaker]:
    """Yield a process that is not started yet; it ends with the block. What killed ones left is removed."""
    _remove_old_drafts(folder)
    maker = TableMaker(folder)
    try:
        yield maker
    finally:
        maker.close()


def is_worth_it(spec: SessionSpec) -> bool:
    """Return whether the tables of a session are made while it goes."""
    is_large = spec.manifest.planned.rows >= LEAST_ROWS and _cores() > 1
    # A salvage rewrites the journal, turns that are opened again take back results, and a judge adds to the tables.
    return is_large and not (spec.salvage or spec.retry_failed) and not wants_judge(spec.manifest)


def _stream(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _drafts(folder: RunFolder) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in folder.path.iterdir() if _DRAFT.fullmatch(path.name)]
    return []


def _remove_old_drafts(folder: RunFolder) -> None:
    """Remove the drafts of processes that were killed together with their runs."""
    for path in _drafts(folder):
        found = _DRAFT.fullmatch(path.name)
        if found is not None and not _is_alive(int(found[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    with contextlib.suppress(OSError):  # no such file: not Linux
        # In a container the first process may never ask for the exit code of one that was killed.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    return True


def _environment() -> dict[str, str]:
    import convbatch

    kept = {name: os.environ[name] for name in os.environ if name in _KEPT_VARIABLES or name.startswith("LC_")}
    return {**kept, "PYTHONPATH": str(Path(convbatch.__file__).parent.parent)}
