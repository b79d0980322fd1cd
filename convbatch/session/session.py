"""One sitting at a run folder: from options to a folder that is closed in good order.

It joins the parts (journal, gates, clients, runner) and owns signals and exit codes. What the options mean and what is
checked before anything is sent is `prepare.py`; limits, retries and wire formats are decided elsewhere.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from convbatch import __version__
from convbatch.errors import ConvbatchError, JournalError, SetupError
from convbatch.exit_codes import ExitCode, worst

if TYPE_CHECKING:
    from convbatch.config.gateways import Gateway, Limits, Target
    from convbatch.engine.budget import Budget
    from convbatch.engine.client import Transport
    from convbatch.engine.limiter import RateLimiter
    from convbatch.engine.plan import Conversation
    from convbatch.engine.runner import BudgetShare, Runner, RunRules, TargetWorker
    from convbatch.journal.index import Archive, TurnHistory
    from convbatch.journal.run_folder import RunFolder
    from convbatch.pricing import Money, PriceTable
    from convbatch.session.progress import Progress
    from convbatch.system import System

SIGTERM_GRACE_S = 25.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """Everything decided before the first request."""

    folder: RunFolder
    meta: Mapping[str, Any]
    """What stands in `run.json`."""
    targets: tuple[Target, ...]
    env: Mapping[str, str]
    """Where keys come from; never written anywhere."""
    rules: RunRules
    resumed: bool = False
    judging: bool = False
    """Only a judge is asked about what was received: its one target is the judge."""
    salvage: bool = False
    reuse: RunFolder | None = None
    max_cost: Money | None = None
    """For the whole run, earlier sessions included."""
    progress: bool = True
    notes: bool = True
    """Say on stderr what happens meanwhile; answers to signals are given in any case."""
    handle_signals: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResult:
    """How a sitting ended."""

    exit_code: ExitCode
    reason: str
    rows: int = 0
    """The turns of the plan, or the questions there were to a judge."""
    open_turns: int = 0
    """Rows still `pending` or `error`."""
    suspended: Mapping[str, str] = field(default_factory=dict)
    budget: str | None = None
    """What of it is spent, in words; None without one."""
    larger_budget: Money | None = None
    """With which the run would go on."""
    bugs: tuple[str, ...] = ()
    error: ConvbatchError | None = None
    """What stopped it after requests had left; None where nothing did."""


def run_session(spec: SessionSpec) -> SessionResult:
    """Play a sitting on an event loop of its own; uvloop where it is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = None
    with asyncio.Runner(loop_factory=new_event_loop) as loop, _reduced_garbage_collection():
        return loop.run(run_session_async(spec))


@contextmanager
def _reduced_garbage_collection() -> Generator[None]:
    """Let the cyclic collector look less often: a turn makes hundreds of objects, next to none of them in cycles."""
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


async def run_session_async(
    spec: SessionSpec, *, system: System | None = None, connect: Callable[[Gateway], Transport] | None = None
) -> SessionResult:
    """Play what is open in the folder, then close the journal and write `run.json`.

    Args:
        spec: What to play; its folder brings its own disk.
        system: Clock, randomness and the journal's disk; default: the real ones.
        connect: How requests travel to a gateway, called once for each quota owner; default: HTTP.

    Returns:
        How it ended. An error after requests may have left is in `SessionResult.error`: no caller loses the tables.

    Raises:
        SetupError: Nothing was sent: the folder is in use, or a setup that held when it was made no longer does.
        JournalDamaged: Nothing was sent: the journal needs `--salvage`.
        JournalError: Nothing was sent: the journal cannot be written.
    """
    from convbatch.engine.runner import Runner
    from convbatch.journal.index import Archive
    from convbatch.journal.writer import Journal
    from convbatch.session.progress import Progress
    from convbatch.system import System

    system = system or System()
    journal = Journal.open(spec.folder, system=system, version=__version__, salvage=spec.salvage)
    async with AsyncExitStack() as stack:
        stack.callback(journal.release)
        past = stack.enter_context(Archive(spec.folder)) if spec.resumed else None
        budget = _open_budget(spec, past)  # before run.json: a budget that is refused must not be remembered
        state = spec.folder.read_meta().get("state") if spec.judging else "running"
        spec.folder.write_meta({**spec.meta, "state": state})
        rows = _count_rows(spec, past)
        unit = "question" if spec.judging else "turn"
        progress = Progress(rows, enabled=spec.progress, notes=spec.notes, unit=unit)
        stack.callback(progress.close)
        for note in journal.notes:
            progress.note(note)
        if spec.resumed and journal.session == 1:
            progress.note("the journal of this run is empty: whatever it once held, every turn is asked anew")
        reuse = None
        if spec.reuse is not None:
            reuse = (spec.reuse.name, stack.enter_context(Archive(spec.reuse)))
        workers = await _build_workers(spec, stack, system, connect or _http_transports(spec.env), past, progress)
        for worker in workers:
            worker.budget_share = None if budget is None else _budget_share(spec, worker.target, budget)
        runner = Runner(
            workers=workers,
            rules=spec.rules,
            journal=journal,
            system=system,
            listener=progress,
            past=None if past is None else _past_turns(spec, past),
            reuse=reuse,
        )
        with (
            _signals(runner, progress) if spec.handle_signals else nullcontext(),
            _watching(runner, progress, budget) if spec.progress else nullcontext(),
        ):
            error = await _run_all(runner, {worker.target.name: _plan(spec, worker.target, past) for worker in workers})
        result = _session_result(rows, runner, budget, error)
        try:
            if not spec.judging:
                # Written before the lock is released, so that no reader sees a closed run in the state `running`.
                spec.folder.write_meta({**spec.meta, "state": _run_state(result)})
            role = "judge" if spec.judging else "model"
            await journal.close({"role": role, "reason": result.reason, "parked": dict(result.suspended)})
        except JournalError as failed:
            result = _session_result(rows, runner, budget, error or failed)
    return result


async def _run_all(runner: Runner, plans: Mapping[str, Iterator[Conversation]]) -> ConvbatchError | None:
    """Run the plans of all targets; return what stopped them early."""
    try:
        await runner.run(plans)
    except ConvbatchError as error:
        return error
    return None


def _count_rows(spec: SessionSpec, past: Archive | None) -> int:
    """How many turns, or questions to a judge, are to be seen through."""
    if not spec.judging:
        return spec.meta["planned"]["rows"]
    return sum(1 for _ in _plan(spec, spec.targets[0], past))


def _past_turns(spec: SessionSpec, past: Archive) -> Callable[[Conversation], Mapping[int, TurnHistory]]:
    from convbatch.session.judge_questions import past_judge_turns

    if spec.judging:
        return lambda question: past_judge_turns(past, question)
    return lambda one: past.transcript(one.index, one.target.name, one.repeat).turns


def _open_budget(spec: SessionSpec, past: Archive | None) -> Budget | None:
    """The cap of the run, with what earlier sessions took from it.

    Raises:
        SetupError: An earlier call may have been paid, and nothing says how much it can have cost.
    """
    from convbatch.engine.budget import Budget
    from convbatch.results.costs import paid_attempts, target_prices

    if spec.max_cost is None:
        return None
    budget = Budget(spec.max_cost)
    if past is None:
        return budget
    unbounded = 0
    for plain, history in _all_turns(spec.meta, past):
        prices = target_prices(plain)
        if prices is None and plain.get("simulated"):
            continue
        factor = None if prices is None else _exchange_factor(spec, prices, budget)
        for one in paid_attempts(history, prices):
            most = one.bound if one.cost is None else one.cost
            if most is None or factor is None:
                unbounded += 1
            else:
                budget.spent += most * factor
    if unbounded:
        raise SetupError(
            f"{unbounded} earlier calls of this run may have been paid, and nothing says how much they cost",
            hint="a budget has to be given from the start of a run; go on without --max-cost, or begin a new run "
            "with --reuse of this one",
        )
    return budget


def _all_turns(meta: Mapping[str, Any], past: Archive) -> Iterator[tuple[Mapping[str, Any], TurnHistory]]:
    """Everything that was ever asked in the run, with the target or judge of `run.json` that was asked."""
    targets = {plain["name"]: plain for plain in meta["targets"]}
    judges = {plain["name"]: plain for plain in meta.get("judges") or ()}
    for transcript in past.transcripts():
        for history in transcript.turns.values():
            yield targets.get(transcript.target, {}), history
    for judge_call in past.all_judge_calls():
        yield judges.get(judge_call.judge, {}), judge_call.history


def _budget_share(spec: SessionSpec, target: Target, budget: Budget) -> BudgetShare:
    from convbatch.engine.runner import BudgetShare
    from convbatch.results.costs import target_prices

    asked = spec.meta["judges"] if spec.judging else spec.meta["targets"]
    prices = target_prices(next(plain for plain in asked if plain["name"] == target.name))
    assert prices is not None, target.name  # setup refuses a budget without prices
    factor = _exchange_factor(spec, prices, budget)
    assert factor is not None, target.name  # or without rates
    return BudgetShare(budget=budget, prices=prices, factor=factor)


def _exchange_factor(spec: SessionSpec, prices: PriceTable, budget: Budget) -> Decimal | None:
    """Of the budget's currency for one of the prices'; None where no rate says so."""
    from convbatch.pricing import ExchangeRates, Money

    rates = ExchangeRates.from_plain(spec.meta.get("rates", {}))
    one = rates.convert(Money(amount=Decimal(1), currency=prices.currency), budget.cap.currency)
    return None if one is None else one.amount


def _session_result(rows: int, runner: Runner, budget: Budget | None, error: ConvbatchError | None) -> SessionResult:
    closed = sum(n for worker in runner.workers for status, n in worker.counts.items() if status != "error")
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
        larger_budget=None if budget is None else budget.larger,
        bugs=tuple(runner.bugs),
        error=error,
    )


def _run_state(result: SessionResult) -> str:
    if result.open_turns == 0:
        return "finished"
    return "interrupted" if result.reason == "interrupted" else "incomplete"


def _http_transports(env: Mapping[str, str]) -> Callable[[Gateway], Transport]:
    from convbatch.config.credentials import proxy_for
    from convbatch.engine.client import AiohttpTransport

    def connect(gateway: Gateway) -> Transport:
        return AiohttpTransport(ca_file=gateway.ca_file, proxy=proxy_for(gateway.base_url, gateway, env))

    return connect


async def _build_workers(
    spec: SessionSpec,
    stack: AsyncExitStack,
    system: System,
    connect: Callable[[Gateway], Transport],
    past: Archive | None,
    progress: Progress,
) -> list[TargetWorker]:
    """Gates, connection pools and clients; targets that share a quota owner share gate and pool."""
    from convbatch.config.credentials import key_for, secrets_of
    from convbatch.config.gateways import max_in_flight, merge_limits
    from convbatch.engine.client import Client
    from convbatch.engine.limiter import RateLimiter
    from convbatch.engine.retry import TargetHealth
    from convbatch.engine.runner import TargetWorker
    from convbatch.redaction import Redactor, watch

    secrets = secrets_of((target.gateway for target in spec.targets), spec.env)
    watch(secrets)
    redactor = Redactor(secrets)
    simulator_url = await _embedded_simulator(spec, stack)
    shared: dict[tuple[str, str, str], list[Target]] = {}
    for target in spec.targets:
        shared.setdefault(target.quota_owner, []).append(target)
    workers: dict[str, TargetWorker] = {}
    for targets in shared.values():
        gateway = targets[0].gateway
        limits = merge_limits(target.gateway.limits for target in targets)
        cap = sum(max_in_flight(target.gateway.limits, spec.rules.concurrency) for target in targets)
        names = _quota_sharers(spec, targets[0])
        past_requests = _used_today(names, limits, past, system)
        limiter = RateLimiter(
            clock=system.clock,
            concurrency=cap,
            rates=_rates(limits),
            tpm=limits.tpm,
            rpd=limits.rpd,
            rpd_resets=limits.rpd_resets,
            used_today=past_requests,
            jitter_s=limits.jitter_s,
            on_change=_named_notes(progress, targets[0].name),
        )
        if past is not None:
            _carry_over(limiter, names, limits, past, system)
        transport = connect(gateway)
        stack.push_async_callback(transport.close)
        for target in targets:
            places = max_in_flight(target.gateway.limits, spec.rules.concurrency)
            quiet = redactor.marking() if target.gateway.auth == "none" else redactor
            workers[target.name] = TargetWorker(
                target=target,
                client=Client(
                    target,
                    key_for(target.gateway, spec.env),
                    transport=transport,
                    redactor=quiet,
                    clock=system.clock,
                    simulator_url=simulator_url,
                ),
                limiter=limiter,
                health=TargetHealth(answered=_has_answered(past, target)),
                places=places,
                own_places=asyncio.Semaphore(places) if len(targets) > 1 else None,
            )
    return [workers[target.name] for target in spec.targets]


def _has_answered(past: Archive | None, target: Target) -> bool:
    return past is not None and past.has_reply(target.name)


def _rates(limits: Limits) -> list[tuple[int, float]]:
    rates = [(rate.count, rate.window_s) for rate in limits.rates]
    return rates if limits.rpm is None else [(limits.rpm, 60.0), *rates]


def _carry_over(limiter: RateLimiter, targets: Sequence[str], limits: Limits, past: Archive, system: System) -> None:
    """Limits and pauses know no sessions: what the one before has sent and was told still counts at the server."""
    from convbatch.engine.limiter import MAX_HINT_S
    from convbatch.engine.quota import seconds_until_drained

    now = system.clock.wall()
    # Unix seconds are kept to less than a microsecond only; a wait is never cut short, so a little is added.
    left_s = past.server_wait_until(targets) - now + 0.01
    limiter.block_for(min(left_s, MAX_HINT_S), "asked to wait before the resume")
    rates = _rates(limits)
    span_s = max([60.0, *(window_s for _, window_s in rates)]) + limits.jitter_s
    times = past.request_times(targets, now - span_s)
    if rates:
        limiter.block_for(seconds_until_drained(times, now, rates, limits.jitter_s), "earlier requests still count")
    if limits.tpm is not None and times:
        # How many of the minute's tokens a killed session had used is not known to the last one: it is waited out.
        limiter.block_for(max(times) + 60.0 + limits.jitter_s - now, "earlier tokens still count")


def _quota_sharers(spec: SessionSpec, one: Target) -> list[str]:
    """Everybody in the run whose requests count against the same limits: models and judges, whoever is asked now."""
    from convbatch.config.gateways import target_from_plain

    asked = (*spec.meta["targets"], *(spec.meta.get("judges") or ()))
    sharing = [plain["name"] for plain in asked if target_from_plain(plain).quota_owner == one.quota_owner]
    return list(dict.fromkeys(sharing))


def _used_today(targets: Sequence[str], limits: Limits, past: Archive | None, system: System) -> int:
    """Requests of this run folder since the quota day began."""
    from convbatch.engine.quota import day_bounds

    if past is None or limits.rpd is None:
        return 0
    begins, _ = day_bounds(limits.rpd_resets, system.clock.wall())
    sent = past.requests_since(begins)
    return sum(sent.get(target, 0) for target in targets)


def _named_notes(progress: Progress, name: str) -> Callable[[str], None]:
    return lambda text: progress.note(f"{name}: {text}")


async def _embedded_simulator(spec: SessionSpec, stack: AsyncExitStack) -> str | None:
    if not any(target.simulated for target in spec.targets):
        return None
    from convbatch.simulator.ledger import Ledger
    from convbatch.simulator.provider import Provider
    from convbatch.simulator.replies import Script
    from convbatch.simulator.server import Server

    provider = Provider(
        seed=(spec.meta.get("simulator") or {"seed": 0})["seed"],
        script=Script.load(spec.folder.dataset),
        ledger=Ledger(history=False, keep=False),
    )
    server = await stack.enter_async_context(Server(provider))
    return server.url


def _plan(spec: SessionSpec, target: Target, past: Archive | None) -> Iterator[Conversation]:
    from convbatch.dataset.snapshot import read_copy
    from convbatch.engine.plan import conversations
    from convbatch.session.judge_questions import judge_conversations

    if spec.judging:
        assert past is not None  # only what was received is judged
        return judge_conversations(spec.folder, spec.meta, past, target)
    return conversations(read_copy(spec.folder.dataset), target, spec.rules.repeats)


@contextmanager
def _watching(runner: Runner, progress: Progress, budget: Budget | None) -> Generator[None]:
    watch = asyncio.create_task(_watch(runner, progress, budget))
    try:
        yield
    finally:
        watch.cancel()


async def _watch(runner: Runner, progress: Progress, budget: Budget | None) -> None:
    """Tell the progress line, a few times a second, what everyone waits for."""
    while True:
        waits = [
            f"{worker.target.name}: {why}"
            for worker in runner.workers
            if worker.suspended is None and (why := worker.limiter.why_waiting())
        ]
        if budget is not None:
            waits.append(str(budget))
        progress.refresh(asyncio.get_running_loop().time(), waits)
        await asyncio.sleep(0.2)


@contextmanager
def _signals(runner: Runner, progress: Progress) -> Generator[None]:
    """The first signal: finish what is in flight, after SIGTERM and SIGHUP for at most 25 s. The second: abandon it."""
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        received.append(number)
        if len(received) == 1:
            stop(number)
        elif number != signal.SIGHUP or signal.SIGHUP not in received[:-1]:
            # A closing terminal says SIGHUP twice: the kernel to the group, the shell to its jobs.
            loop.remove_signal_handler(signal.SIGINT)  # one more ends the process as it would any other
            progress.answer("abandoning what is in flight; it is listed as possibly paid")
            runner.abandon()

    def stop(number: signal.Signals) -> None:
        if number == signal.SIGINT:
            progress.answer("stopping: what is in flight is finished and kept; Ctrl-C again abandons it")
        else:
            progress.answer(f"stopping: what is in flight has {SIGTERM_GRACE_S:.0f} s")
            loop.call_later(SIGTERM_GRACE_S, runner.abandon)
        runner.stop("interrupted")

    handled = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        handled.remove(signal.SIGHUP)  # `nohup` means it
    before = {number: signal.getsignal(number) for number in handled}
    for number in handled:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler or signal.SIG_DFL)  # the loop leaves its own idea of a default
