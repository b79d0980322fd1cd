"""Execute one session on a run folder: `run_session`.

It connects journal, workers, runner and progress, and decides how the session ended. What the options mean and what is
checked before the first request is `prepare.py`; limits, retries and wire formats are decided elsewhere.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from convbatch._version import __version__
from convbatch.errors import ConvbatchError, JournalError, naming_memory_errors
from convbatch.exit_codes import ExitCode, worst
from convbatch.session.run_caps import budget_share, open_budget
from convbatch.session.signals import stop_on_signals
from convbatch.session.spec import SessionResult, SessionSpec

if TYPE_CHECKING:
    from convbatch.cluster.crew import Crew
    from convbatch.config.gateways import Gateway
    from convbatch.engine.budget import Budget
    from convbatch.engine.http_values import Transport
    from convbatch.engine.plan import Conversation
    from convbatch.engine.runner import Runner
    from convbatch.journal.index import Archive
    from convbatch.journal.run_folder import RunFolder
    from convbatch.journal.writer import Journal
    from convbatch.session.progress import Progress
    from convbatch.system import System


def run_session(spec: SessionSpec) -> SessionResult:
    """Run a session on a new event loop, with uvloop if it is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = None
    with asyncio.Runner(loop_factory=new_event_loop) as loop, _reduced_garbage_collection():
        return loop.run(run_session_async(spec))


@contextmanager
def _reduced_garbage_collection() -> Generator[None]:
    """Run the cyclic collector less often: a turn creates hundreds of objects, and almost none are in cycles."""
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


async def run_session_async(
    spec: SessionSpec,
    *,
    system: System | None = None,
    connect: Callable[[Gateway], Transport] | None = None,
    crew: Crew | None = None,
) -> SessionResult:
    """Run what is open in the folder, then close the journal and update `run.json`.

    Args:
        spec: What to ask; its folder brings its own disk.
        system: Clock, randomness and the journal's disk; default: the real ones.
        connect: Opens the transport to a gateway, called once for each quota owner; default: HTTP.
        crew: Starts the session's workers; default: what `spec.cluster` says.

    Returns:
        How the session ended. An error after requests may have been sent is in `SessionResult.error`, so that no
        caller loses the tables.

    Raises:
        SetupError: Nothing was sent: the folder is in use, or the setup is no longer valid.
        JournalDamaged: Nothing was sent: the journal needs `--salvage`.
        JournalError: Nothing was sent: the journal cannot be written.
    """
    from convbatch.journal.writer import Journal
    from convbatch.session.open_jobs import make_runner
    from convbatch.session.workers import build_workers, embedded_simulator, http_transports
    from convbatch.system import System

    system = system or System()
    work = spec.work
    async with AsyncExitStack() as stack:
        crew = crew or await _open_crew(spec, stack)
        journal = Journal.open(spec.folder, system=system, version=__version__, salvage=spec.salvage)
        stack.callback(journal.release)
        spooled = await _deliver_spools(spec, journal)
        past = stack.enter_context(_archive(spec.folder)) if spec.resumed else None
        budget = open_budget(spec, past)  # before run.json is written: a refused budget must not be stored
        spec.folder.write_manifest(replace(spec.manifest, state=work.initial_state(spec.folder), journal=journal.end))
        rows = work.count_rows(spec, past)
        progress = _open_progress(spec, stack, system, rows)
        connect = _start_log(spec, stack, system, progress, connect or http_transports(spec.credentials))
        for note in (*_journal_notes(spec, journal), *spooled):
            progress.note(note)
        past = await _reopened(spec, stack, journal, past, progress)
        reuse = None
        if spec.reuse is not None:
            reuse = (spec.reuse.name, stack.enter_context(_archive(spec.reuse, by_key=True)))
        simulator_url = await embedded_simulator(spec, stack)
        workers = await build_workers(spec, stack, system, connect, past, progress, simulator_url)
        for worker in workers:
            worker.budget_share = None if budget is None else budget_share(spec, worker.target, budget)
        parts: dict[str, Any] = {
            "workers": workers,
            "journal": journal,
            "system": system,
            "listener": progress,
            "past": None if past is None else work.past_turns(past),
            "reuse": reuse,
        }
        if crew is None:
            runner = make_runner(spec, past, **parts)
        else:
            runner = await _start_coordinator(spec, past, crew, simulator_url, parts)
        begun = system.clock.monotonic()
        if spec.on_start is not None:
            spec.on_start(runner)
        async with stop_on_signals(runner, progress) if spec.handle_signals else nullcontext():
            plans = {worker.target.name: work.plan(spec, worker.target, past) for worker in workers}
            with _refreshing(progress, runner, budget) if progress.wants_status else nullcontext():
                error = await _run_all(runner, plans)
            result = _session_result(rows, runner, budget, error)
            result = replace(result, unanswered=_unanswered(progress, runner))
            try:
                await _close(spec, journal, result)
            except JournalError as failed:
                result = replace(_session_result(rows, runner, budget, error or failed), unanswered=result.unanswered)
            if progress.log is not None:
                progress.log.write("end", f"{result.reason}, {result.open_turns} of {result.rows} rows open")
    result = replace(result, elapsed_s=system.clock.monotonic() - begun)
    if runner.reason == "interrupted" != result.reason:  # after the last reply
        return replace(result, reason="interrupted", exit_code=worst(result.exit_code, ExitCode.INTERRUPTED))
    return result


async def _deliver_spools(spec: SessionSpec, journal: Journal) -> list[str]:
    """Write what workers of a killed session had received into the journal; return notes."""
    if not (spec.folder.path / "spool").is_dir():
        return []
    from convbatch.cluster.spool import deliver_spools

    return await deliver_spools(spec.folder, journal)


async def _open_crew(spec: SessionSpec, stack: AsyncExitStack) -> Crew | None:
    """Start what the session's workers run on, if it has any."""
    if spec.cluster is None:
        return None
    from convbatch.session.cluster_setup import open_crew

    return await open_crew(spec, stack)


async def _start_coordinator(
    spec: SessionSpec, past: Archive | None, crew: Crew, simulator_url: str | None, parts: dict[str, Any]
) -> Runner:
    """Start the workers of a session, and return what has the place of its runner."""
    from convbatch.cluster.coordinator import Coordinator
    from convbatch.session.cluster_setup import cluster_setup

    setup = cluster_setup(spec, parts["workers"], past, simulator_url, crew.size)
    coordinator = Coordinator(crew=crew, setup=setup, rules=spec.rules, **parts)
    await coordinator.start()
    return coordinator


def _archive(folder: RunFolder, *, by_key: bool = False) -> Archive:
    from convbatch.journal.index import Archive  # imports sqlite3, which a new run does not need

    return Archive(folder, by_key=by_key)


def _open_progress(spec: SessionSpec, stack: AsyncExitStack, system: System, rows: int) -> Progress:
    from convbatch.session.follow import Follower
    from convbatch.session.progress import Progress

    progress = Progress(
        rows,
        targets=[target.name for target in spec.targets],
        enabled=spec.progress,
        notes=spec.notes,
        unit=spec.work.unit,
        clock=system.clock.monotonic,
    )
    progress.on_status = spec.on_status
    progress.on_turn = spec.on_turn if spec.work.role == "model" else None
    if spec.follow:
        progress.follower = Follower(sys.stdout, targets=len(spec.targets))
    stack.callback(progress.close)
    return progress


async def _reopened(
    spec: SessionSpec, stack: AsyncExitStack, journal: Journal, past: Archive | None, progress: Progress
) -> Archive | None:
    """Open failed turns again, if that is asked for; return the archive that says so."""
    if not spec.retry_failed or past is None:
        return past
    from convbatch.session.reopen import reopen

    reopened = await reopen(journal, past, spec.retry_failed)
    for line in reopened.lines():
        progress.note(line)
    return stack.enter_context(_archive(spec.folder)) if reopened else past


def _journal_notes(spec: SessionSpec, journal: Journal) -> Iterator[str]:
    yield from journal.notes
    if spec.resumed and journal.session == 1:
        yield "the journal of this run is empty: all its content is lost, and every turn is sent again"


def _start_log(
    spec: SessionSpec,
    stack: AsyncExitStack,
    system: System,
    progress: Progress,
    connect: Callable[[Gateway], Transport],
) -> Callable[[Gateway], Transport]:
    """Start the log, if one is asked for; return what opens the transports, which log bodies if that is asked for."""
    from convbatch.session.run_log import LoggedTransport, RunLog

    if not spec.log.is_wanted:
        return connect
    log = RunLog(
        spec.log.path,
        show=progress.show if spec.log.is_shown else None,
        redactor=spec.credentials.redactor(),
        wall=system.clock.wall,
        on_failure=progress.show,
    )
    stack.callback(log.close)
    progress.log, progress.shows_log = log, spec.log.is_shown
    names = ", ".join(target.name for target in spec.targets)
    log.write("begin", f"convbatch {__version__}, run folder {spec.folder.path}, {spec.work.role} calls of {names}")
    return (lambda gateway: LoggedTransport(connect(gateway), log)) if spec.log.has_bodies else connect


async def _close(spec: SessionSpec, journal: Journal, result: SessionResult) -> None:
    state = spec.work.final_state(result)
    if state is not None:
        # Written before the lock is released, so that no reader sees a closed run in the state `running`.
        spec.folder.write_manifest(replace(spec.manifest, state=state, journal=journal.end))
    await journal.close({"role": spec.work.role, "reason": result.reason, "parked": dict(result.suspended)})


async def _run_all(runner: Runner, plans: Mapping[str, Iterator[Conversation]]) -> ConvbatchError | None:
    """Run the plans of all targets; return the error that stopped them early, if any."""
    try:
        with naming_memory_errors():
            await runner.run(plans)
    except ConvbatchError as error:
        return error
    return None


def _session_result(rows: int, runner: Runner, budget: Budget | None, error: ConvbatchError | None) -> SessionResult:
    closed = sum(worker.closed for worker in runner.workers)
    suspended = {worker.target.name: worker.suspended for worker in runner.workers if worker.suspended is not None}
    reason: str = runner.reason
    if reason == "finished" and closed < rows:
        reason = "incomplete"
    codes = {"interrupted": ExitCode.INTERRUPTED, "budget": ExitCode.BUDGET}
    code = codes.get(runner.reason, ExitCode.OK if closed >= rows else ExitCode.INCOMPLETE)
    if error is not None:
        reason = "error"
        code = worst(code, ExitCode.INCOMPLETE, error.exit_code)
    return SessionResult(
        exit_code=worst(code, ExitCode.BUG) if runner.bugs else code,
        reason=reason,
        rows=rows,
        open_turns=rows - closed,
        suspended=suspended,
        budget=None if budget is None else str(budget),
        larger_budget=() if budget is None else budget.larger,
        bugs=tuple(runner.bugs),
        error=error,
    )


@contextmanager
def _refreshing(progress: Progress, runner: Runner, budget: Budget | None) -> Generator[None]:
    refresh = asyncio.create_task(_refresh(progress, runner, budget))
    try:
        yield
    finally:
        refresh.cancel()


async def _refresh(progress: Progress, runner: Runner, budget: Budget | None) -> None:
    """Update the status lines a few times a second with what each target waits for."""
    from convbatch.session.progress import TargetView

    while True:
        views: list[TargetView] = []
        for worker in runner.workers:
            obstacle, why = runner.waits_for(worker) if worker.suspended is None else (None, None)
            views.append(
                TargetView(
                    name=worker.target.name,
                    in_flight=worker.in_flight,
                    obstacle=obstacle,
                    why=why,
                    suspended=worker.suspended,
                )
            )
        spent = "" if budget is None else budget.short
        progress.refresh(asyncio.get_running_loop().time(), views, spent=spent, stopping=runner.reason != "finished")
        await asyncio.sleep(0.2)


def _unanswered(progress: Progress, runner: Runner) -> dict[str, str]:
    """Return the latest error of each target that is not suspended and has not answered since."""
    running = {worker.target.name for worker in runner.workers if worker.suspended is None}
    return {name: why for name, why in progress.troubles().items() if name in running}
