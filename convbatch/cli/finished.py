"""`convbatch resume` of a run that is finished and whose tables match its journal: nothing is opened for writing.

The tables name the checksum of the whole journal that they were made of. A journal that still has it is undamaged, and
what its records say is in the tables. Whatever is not plainly finished takes the usual way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from convbatch._version import __version__
from convbatch.errors import ConvbatchError
from convbatch.exit_codes import ExitCode
from convbatch.session.judge import wants_judge
from convbatch.session.options import ResumeOptions
from convbatch.session.spec import SessionResult, SessionSpec

if TYPE_CHECKING:
    from convbatch.results.run import Run

_ENDED = frozenset(("ok", "blocked", "empty"))
"""States that no session asks again, or reads again."""


def finished_result(spec: SessionSpec) -> SessionResult | None:
    """Return the result of a session that has nothing to do, without running it; None where it may have something.

    Raises:
        SetupError: Another process uses the folder.
    """
    if not _may_be_finished(spec):
        return None
    try:
        lock = spec.folder.take_lock()
    except OSError:
        return None  # the session says why
    try:
        if not _is_finished(spec):
            return None
    except (ConvbatchError, OSError):
        return None  # the session finds it too, and says what to do
    finally:
        lock.release()
    return SessionResult(exit_code=ExitCode.OK, reason="finished", rows=spec.manifest.planned.rows)


def _may_be_finished(spec: SessionSpec) -> bool:
    """Whether neither `run.json` nor an option asks for a session."""
    options = spec.options
    return (
        isinstance(options, ResumeOptions)
        and spec.manifest.state == "finished"
        and not spec.salvage
        and not spec.retry_failed
        and not spec.has_caps
        and not spec.log.is_wanted
        and spec.on_status is None
        and not spec.follow
    )


def _is_finished(spec: SessionSpec) -> bool:
    from convbatch.results.cache import is_as_it_was_closed, is_fresh
    from convbatch.results.run import Run

    if not is_fresh(spec.folder) or not is_as_it_was_closed(spec.folder, __version__):
        return False
    end = spec.folder.recorded_end()
    return end is not None and _has_all(Run(spec.folder, keeps_folder=True), spec)


def _has_all(run: Run, spec: SessionSpec) -> bool:
    """Whether every planned turn has a reply with its files, and every check that a judge decides its verdict."""
    from convbatch.results.missing_verdicts import missing_verdicts
    from convbatch.results.parquet import count_values

    statuses = count_values(run.turns_path, "status")
    if statuses.total() != spec.manifest.planned.rows or not statuses.keys() <= _ENDED or not _has_files(run):
        return False
    if not wants_judge(spec.manifest):
        return True
    missing = missing_verdicts(run)
    return not (missing.open or missing.refused)


def _has_files(run: Run) -> bool:
    """Whether the files of all replies are there; a session makes lost ones again."""
    from convbatch.results.parquet import read_rows

    cells = (text for (text,) in read_rows(run.turns_path, ("media",)) if text is not None)
    return all((run.path / path).exists() for text in cells for path in orjson.loads(text))
