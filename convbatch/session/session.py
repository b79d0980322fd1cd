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
    from convbatch.engine.limiter import Gate
    from convbatch.engine.plan import Conversation
    from convbatch.engine.runner import Lane, Purse, Rules, Runner
    from convbatch.journal.index import Archive, TurnHistory
    from convbatch.journal.run_folder import RunFolder
    from convbatch.pricing import Money, PriceTable
    from convbatch.session.progress import Progress
    from convbatch.system import Outside

SIGTERM_GRACE_S = 25.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sitting:
    """Everything decided before the first request."""

    folder: RunFolder
    meta: Mapping[str, Any]
    """What stands in `run.json`."""
    targets: tuple[Target, ...]
    env: Mapping[str, str]
    """Where keys come from; never written anywhere."""
    rules: Rules
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
class Ending:
    """How a sitting ended."""

    exit_code: ExitCode
    reason: str
    rows: int = 0
    """The turns of the plan, or the questions there were to a judge."""
    open_turns: int = 0
    """Rows still `pending` or `error`."""
    parked: Mapping[str, str] = field(default_factory=dict)
    budget: str | None = None
    """What of it is spent, in words; None without one."""
    larger_budget: Money | None = None
    """With which the run would go on."""
    bugs: tuple[str, ...] = ()
    error: ConvbatchError | None = None
    """What stopped it after requests had left; None where nothing did."""


def play(sitting: Sitting) -> Ending:
    """Play a sitting on an event loop of its own; uvloop where it is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = None
    with asyncio.Runner(loop_factory=new_event_loop) as loop, _rare_collections():
        return loop.run(sit(sitting))


@contextmanager
def _rare_collections() -> Generator[None]:
    """Let the cyclic collector look less often: a turn makes hundreds of objects, next to none of them in cycles."""
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


async def sit(
    sitting: Sitting, *, outside: Outside | None = None, connect: Callable[[Gateway], Transport] | None = None
) -> Ending:
    """Play what is open in the folder, then close the journal and write `run.json`.

    Args:
        sitting: What to play; its folder brings its own disk.
        outside: Clock, randomness and the journal's disk; default: the real ones.
        connect: How requests travel to a gateway, called once for each quota owner; default: HTTP.

    Returns:
        How it ended. An error after requests may have left is in `Ending.error`, so that no caller loses the tables.

    Raises:
        SetupError: Nothing was sent: the folder is in use, or a setup that held when it was made no longer does.
        JournalDamaged: Nothing was sent: the journal needs `--salvage`.
        JournalError: Nothing was sent: the journal cannot be written.
    """
    from convbatch.engine.runner import Runner
    from convbatch.journal.index import Archive
    from convbatch.journal.writer import Journal
    from convbatch.session.progress import Progress
    from convbatch.system import Outside

    outside = outside or Outside()
    journal = Journal.open(sitting.folder, outside=outside, version=__version__, salvage=sitting.salvage)
    async with AsyncExitStack() as stack:
        stack.callback(journal.release)
        past = stack.enter_context(Archive(sitting.folder)) if sitting.resumed else None
        budget = _budget(sitting, past)  # before run.json: a budget that is refused must not be remembered
        state = sitting.folder.read_meta().get("state") if sitting.judging else "running"
        sitting.folder.write_meta({**sitting.meta, "state": state})
        rows = _rows(sitting, past)
        unit = "question" if sitting.judging else "turn"
        progress = Progress(rows, enabled=sitting.progress, notes=sitting.notes, unit=unit)
        stack.callback(progress.close)
        for note in journal.notes:
            progress.note(note)
        if sitting.resumed and journal.session == 1:
            progress.note("the journal of this run is empty: whatever it once held, every turn is asked anew")
        reuse = None
        if sitting.reuse is not None:
            reuse = (sitting.reuse.name, stack.enter_context(Archive(sitting.reuse)))
        lanes = await _lanes(sitting, stack, outside, connect or _over_http(sitting.env), past, progress)
        for lane in lanes:
            lane.purse = None if budget is None else _purse(sitting, lane.target, budget)
        runner = Runner(
            lanes=lanes,
            rules=sitting.rules,
            journal=journal,
            outside=outside,
            listener=progress,
            past=None if past is None else _past(sitting, past),
            reuse=reuse,
        )
        with (
            _signals(runner, progress) if sitting.handle_signals else nullcontext(),
            _watching(runner, progress, budget) if sitting.progress else nullcontext(),
        ):
            error = await _run_all(runner, {lane.target.name: _plan(sitting, lane.target, past) for lane in lanes})
        ending = _ending(rows, runner, budget, error)
        try:
            if not sitting.judging:
                # Written before the lock is released, so that no reader sees a closed run in the state `running`.
                sitting.folder.write_meta({**sitting.meta, "state": _state(ending)})
            role = "judge" if sitting.judging else "model"
            await journal.close({"role": role, "reason": ending.reason, "parked": dict(ending.parked)})
        except JournalError as failed:
            ending = _ending(rows, runner, budget, error or failed)
    return ending


async def _run_all(runner: Runner, plans: Mapping[str, Iterator[Conversation]]) -> ConvbatchError | None:
    """Run the plans of all targets; return what stopped them early."""
    try:
        await runner.play(plans)
    except ConvbatchError as error:
        return error
    return None


def _rows(sitting: Sitting, past: Archive | None) -> int:
    """How many turns, or questions to a judge, are to be seen through."""
    if not sitting.judging:
        return sitting.meta["planned"]["rows"]
    return sum(1 for _ in _plan(sitting, sitting.targets[0], past))


def _past(sitting: Sitting, past: Archive) -> Callable[[Conversation], Mapping[int, TurnHistory]]:
    from convbatch.session.judge_questions import answered_before

    if sitting.judging:
        return lambda question: answered_before(past, question)
    return lambda one: past.transcript(one.index, one.target.name, one.repeat).turns


def _budget(sitting: Sitting, past: Archive | None) -> Budget | None:
    """The cap of the run, with what earlier sessions took from it.

    Raises:
        SetupError: An earlier call may have been paid, and nothing says how much it can have cost.
    """
    from convbatch.engine.budget import Budget
    from convbatch.results.costs import prices_of, spent

    if sitting.max_cost is None:
        return None
    budget = Budget(sitting.max_cost)
    if past is None:
        return budget
    unbounded = 0
    for plain, history in _all_turns(sitting.meta, past):
        prices = prices_of(plain)
        if prices is None and plain.get("simulated"):
            continue
        factor = None if prices is None else _factor(sitting, prices, budget)
        for one in spent(history, prices):
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
    for opinion in past.all_opinions():
        yield judges.get(opinion.judge, {}), opinion.history


def _purse(sitting: Sitting, target: Target, budget: Budget) -> Purse:
    from convbatch.engine.runner import Purse
    from convbatch.results.costs import prices_of

    asked = sitting.meta["judges"] if sitting.judging else sitting.meta["targets"]
    prices = prices_of(next(plain for plain in asked if plain["name"] == target.name))
    assert prices is not None, target.name  # setup refuses a budget without prices
    factor = _factor(sitting, prices, budget)
    assert factor is not None, target.name  # or without rates
    return Purse(budget=budget, prices=prices, factor=factor)


def _factor(sitting: Sitting, prices: PriceTable, budget: Budget) -> Decimal | None:
    """Of the budget's currency for one of the prices'; None where no rate says so."""
    from convbatch.pricing import Exchange, Money

    rates = Exchange.from_plain(sitting.meta.get("rates", {}))
    one = rates.convert(Money(amount=Decimal(1), currency=prices.currency), budget.cap.currency)
    return None if one is None else one.amount


def _ending(rows: int, runner: Runner, budget: Budget | None, error: ConvbatchError | None) -> Ending:
    closed = sum(n for lane in runner.lanes for status, n in lane.counts.items() if status != "error")
    parked = {lane.target.name: lane.parked for lane in runner.lanes if lane.parked is not None}
    reason: str = runner.reason
    if reason == "finished" and closed < rows:
        reason = "incomplete"
    codes = {"interrupted": ExitCode.INTERRUPTED, "budget": ExitCode.BUDGET}
    code = codes.get(runner.reason, ExitCode.OK if closed >= rows else ExitCode.INCOMPLETE)
    if error is not None:
        reason = "error"
        code = worst(code, ExitCode.INCOMPLETE, error.exit_code)
    return Ending(
        exit_code=worst(code, ExitCode.BUG) if runner.bugs else code,
        reason=reason,
        rows=rows,
        open_turns=rows - closed,
        parked=parked,
        budget=None if budget is None else str(budget),
        larger_budget=None if budget is None else budget.larger,
        bugs=tuple(runner.bugs),
        error=error,
    )


def _state(ending: Ending) -> str:
    if ending.open_turns == 0:
        return "finished"
    return "interrupted" if ending.reason == "interrupted" else "incomplete"


def _over_http(env: Mapping[str, str]) -> Callable[[Gateway], Transport]:
    from convbatch.config.credentials import proxy_for
    from convbatch.engine.client import AiohttpTransport

    def connect(gateway: Gateway) -> Transport:
        return AiohttpTransport(ca_file=gateway.ca_file, proxy=proxy_for(gateway.base_url, gateway, env))

    return connect


async def _lanes(
    sitting: Sitting,
    stack: AsyncExitStack,
    outside: Outside,
    connect: Callable[[Gateway], Transport],
    past: Archive | None,
    progress: Progress,
) -> list[Lane]:
    """Gates, connection pools and clients; targets that share a quota owner share gate and pool."""
    from convbatch.config.credentials import key_for, secrets_of
    from convbatch.config.gateways import in_flight, merge_limits
    from convbatch.engine.client import Client
    from convbatch.engine.limiter import Gate
    from convbatch.engine.retry import Standing
    from convbatch.engine.runner import Lane
    from convbatch.redaction import Redactor, watch

    secrets = secrets_of((target.gateway for target in sitting.targets), sitting.env)
    watch(secrets)
    redactor = Redactor(secrets)
    simulator_url = await _embedded_simulator(sitting, stack)
    shared: dict[tuple[str, str, str], list[Target]] = {}
    for target in sitting.targets:
        shared.setdefault(target.quota_owner, []).append(target)
    lanes: dict[str, Lane] = {}
    for targets in shared.values():
        gateway = targets[0].gateway
        limits = merge_limits(target.gateway.limits for target in targets)
        cap = sum(in_flight(target.gateway.limits, sitting.rules.concurrency) for target in targets)
        names = _sharing(sitting, targets[0])
        past_requests = _used_today(names, limits, past, outside)
        gate = Gate(
            clock=outside.clock,
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
            _carry_over(gate, names, limits, past, outside)
        transport = connect(gateway)
        stack.push_async_callback(transport.close)
        for target in targets:
            places = in_flight(target.gateway.limits, sitting.rules.concurrency)
            quiet = redactor.marking() if target.gateway.auth == "none" else redactor
            lanes[target.name] = Lane(
                target=target,
                client=Client(
                    target,
                    key_for(target.gateway, sitting.env),
                    transport=transport,
                    redactor=quiet,
                    clock=outside.clock,
                    simulator_url=simulator_url,
                ),
                gate=gate,
                standing=Standing(answered=_has_answered(past, target)),
                places=places,
                own_places=asyncio.Semaphore(places) if len(targets) > 1 else None,
            )
    return [lanes[target.name] for target in sitting.targets]


def _has_answered(past: Archive | None, target: Target) -> bool:
    return past is not None and past.has_reply(target.name)


def _rates(limits: Limits) -> list[tuple[int, float]]:
    rates = [(rate.count, rate.window_s) for rate in limits.rates]
    return rates if limits.rpm is None else [(limits.rpm, 60.0), *rates]


def _carry_over(gate: Gate, targets: Sequence[str], limits: Limits, past: Archive, outside: Outside) -> None:
    """Limits and pauses know no sessions: what the one before has sent and was told still counts at the server."""
    from convbatch.engine.limiter import LONGEST_HINT_S
    from convbatch.engine.quota import drains_in

    now = outside.clock.wall()
    # Unix seconds are kept to less than a microsecond only; a wait is never cut short, so a little is added.
    left_s = past.asked_to_wait_until(targets) - now + 0.01
    gate.hold(min(left_s, LONGEST_HINT_S), "asked to wait before the resume")
    rates = _rates(limits)
    span_s = max([60.0, *(window_s for _, window_s in rates)]) + limits.jitter_s
    times = past.request_times(targets, now - span_s)
    if rates:
        gate.hold(drains_in(times, now, rates, limits.jitter_s), "earlier requests still count")
    if limits.tpm is not None and times:
        # How many of the minute's tokens a killed session had used is not known to the last one: it is waited out.
        gate.hold(max(times) + 60.0 + limits.jitter_s - now, "earlier tokens still count")


def _sharing(sitting: Sitting, one: Target) -> list[str]:
    """Everybody in the run whose requests count against the same limits: models and judges, whoever is asked now."""
    from convbatch.config.gateways import target_from_plain

    asked = (*sitting.meta["targets"], *(sitting.meta.get("judges") or ()))
    sharing = [plain["name"] for plain in asked if target_from_plain(plain).quota_owner == one.quota_owner]
    return list(dict.fromkeys(sharing))


def _used_today(targets: Sequence[str], limits: Limits, past: Archive | None, outside: Outside) -> int:
    """Requests of this run folder since the quota day began."""
    from convbatch.engine.quota import day_bounds

    if past is None or limits.rpd is None:
        return 0
    begins, _ = day_bounds(limits.rpd_resets, outside.clock.wall())
    sent = past.requests_since(begins)
    return sum(sent.get(target, 0) for target in targets)


def _named_notes(progress: Progress, name: str) -> Callable[[str], None]:
    return lambda text: progress.note(f"{name}: {text}")


async def _embedded_simulator(sitting: Sitting, stack: AsyncExitStack) -> str | None:
    if not any(target.simulated for target in sitting.targets):
        return None
    from convbatch.simulator.ledger import Ledger
    from convbatch.simulator.provider import World
    from convbatch.simulator.replies import Script
    from convbatch.simulator.server import Server

    world = World(
        seed=(sitting.meta.get("simulator") or {"seed": 0})["seed"],
        script=Script.load(sitting.folder.dataset),
        ledger=Ledger(history=False, keep=False),
    )
    server = await stack.enter_async_context(Server(world))
    return server.url


def _plan(sitting: Sitting, target: Target, past: Archive | None) -> Iterator[Conversation]:
    from convbatch.dataset.selection import read_copy
    from convbatch.engine.plan import conversations
    from convbatch.session.judge_questions import questions

    if sitting.judging:
        assert past is not None  # only what was received is judged
        return questions(sitting.folder, sitting.meta, past, target)
    return conversations(read_copy(sitting.folder.dataset), target, sitting.rules.repeats)


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
            f"{lane.target.name}: {why}"
            for lane in runner.lanes
            if lane.parked is None and (why := lane.gate.why_waiting())
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
