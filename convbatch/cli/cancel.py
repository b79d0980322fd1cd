"""`convbatch cancel`, and what the commands that run say about batch jobs that are still open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from convbatch.console.text import log_note
from convbatch.dataset.reader import count_of
from convbatch.errors import ConvbatchError
from convbatch.exit_codes import ExitCode
from convbatch.journal.run_folder import RunFolder, find_run
from convbatch.session.next_command import read_line
from convbatch.session.options import CancelOptions, ResumeOptions
from convbatch.session.prepare import RESULTS

if TYPE_CHECKING:
    from convbatch.engine.batches.values import EarlierJob
    from convbatch.session.spec import SessionSpec

SHOWN = 3


def cancel(options: CancelOptions) -> ExitCode:
    """Cancel the open jobs of a run, and store what had been run; return the exit code."""
    from convbatch.cli.run import resume

    folder = RunFolder.open(find_run(options.run, RESULTS))
    if not _open_jobs(folder):
        log_note("this run has no open batch job: nothing to cancel")
        return ExitCode.OK
    return resume(
        ResumeOptions(
            run=options.run,
            env_file=options.env_file,
            progress=options.progress,
            log=options.log,
            log_bodies=options.log_bodies,
            verbose=options.verbose,
            from_environment=options.from_environment,
            cancels=True,
        )
    )


def open_job_lines(spec: SessionSpec) -> list[str]:
    """Return what is still in batch jobs at the end of a session, and how to cancel them; nothing if none is open."""
    if not spec.manifest.options.batch:
        return []
    try:
        jobs = _open_jobs(spec.folder)
    except (ConvbatchError, OSError):
        return []  # what is wrong with the folder is said elsewhere
    if not jobs:
        return []
    requests = sum(len(job.intents) for job in jobs)
    names = ", ".join(job.name for job in jobs[:SHOWN]) + (", ..." if len(jobs) > SHOWN else "")
    return [
        f"{count_of(len(jobs), 'batch job')} with {count_of(requests, 'request')} still open at the provider, and paid "
        f"for as they are run: {names}",
        f"  to cancel them: {read_line('cancel', spec.folder)}",
    ]


def _open_jobs(folder: RunFolder) -> Sequence[EarlierJob]:
    from convbatch.journal.index import Archive
    from convbatch.session.open_jobs import open_jobs

    with Archive(folder) as archive:
        return open_jobs(archive)
