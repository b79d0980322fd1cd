"""Run conversations by batch jobs: the same turns, records and decisions as `engine/runner.py`, asked in waves.

A conversation goes on turn by turn as in any run. Where it would send a request, it puts it into a job and waits for
the result. Retries go into the next wave. Conversations of earlier sessions go on with the jobs they left.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from convbatch.dialogue import Settings
from convbatch.engine.batches.target_jobs import TargetJobs
from convbatch.engine.batches.values import EarlierJob, JobLine, LineResult, OpenJob
from convbatch.engine.budget import BudgetReached, Reservation
from convbatch.engine.call import Call
from convbatch.engine.conversation import ConversationState, TurnEnd
from convbatch.engine.limiter import LimiterClosed
from convbatch.engine.plan import Conversation
from convbatch.engine.retry import INITIAL_RETRY_STATE, GiveUp, RetryState, SendAgain, Step, SuspendTarget, next_step
from convbatch.engine.runner import YIELD_EVERY, Runner, StopReason
from convbatch.engine.turn_records import ATTEMPT_FIELDS, outcome_fields, price_fields
from convbatch.engine.worker import TargetWorker
from convbatch.errors import ConvbatchError, JournalReplaced
from convbatch.journal.records import Record
from convbatch.pricing import PriceTable
from convbatch.protocols.wire import Ask, CannotCarry
from convbatch.reply import Attempt, Failure, Reply, status_of

Mode = Literal["batch", "live", "cancel"]
"""`live`: what is in the jobs of earlier sessions is waited for, all other turns are asked live. `cancel`: those jobs
are cancelled, and nothing else is asked."""

CONVERSATIONS_AT_ONCE = 10_000
"""Of a target: as many as a job has lines; more only take memory."""
_MAX_PAUSE_S = 60.0
_BYTES_PER_TOKEN = 6
_RESULT_FRAME = 4096
_USUAL_MAX_TOKENS = 8192
"""Where the output is not limited."""


class BatchRunner(Runner):
    """Runs the open turns of a plan in batch jobs in one session."""

    def __init__(
        self,
        *,
        run: str,
        mode: Mode,
        earlier: Sequence[EarlierJob],
        waves: Mapping[str, int],
        known: Iterable[str],
        batch_prices: Mapping[str, PriceTable | None],
        **parts: Any,
    ) -> None:
        """Create a runner.

        Args:
            run: Name of the run.
            mode: What is asked by batch jobs.
            earlier: Jobs that earlier sessions left open.
            waves: Number of the last wave of each target, by its name.
            known: Ids of all jobs of the run.
            batch_prices: Of each target, by its name.
            **parts: As for `Runner`.
        """
        super().__init__(**parts)
        self._mode = mode
        self._run_name = run
        self._earlier = earlier
        self._last_waves = waves
        self._known = set(known)
        self._batch_prices = batch_prices
        self._jobs: dict[str, TargetJobs] = {}
        self._running: set[asyncio.Task[None]] = set()

    @property
    def open_jobs(self) -> dict[str, list[OpenJob]]:
        """The jobs that have not ended, by target."""
        return {name: jobs.open_jobs for name, jobs in self._jobs.items() if jobs.open_jobs}

    @property
    def on_stop(self) -> str:
        """What the first Ctrl-C does, in words."""
        return "stopping: batch jobs go on at the provider, and `convbatch resume` fetches their results"

    @property
    def on_abandon(self) -> str:
        """What the second Ctrl-C does, in words."""
        return "abandoning what is being sent; a job whose creation was not answered is looked for by the next session"

    def waits_for(self, worker: TargetWorker) -> tuple[tuple[str, float | None] | None, str | None]:
        """Return what a target waits for."""
        jobs = self._jobs.get(worker.target.name)
        text = None if jobs is None else jobs.status(self._system.clock.monotonic())
        return (("job", None), text) if text is not None else super().waits_for(worker)

    def stop(self, reason: StopReason) -> None:
        """Make no more jobs; after a signal or a deadline, wait for none either. A budget lets those made end."""
        super().stop(reason)
        for jobs in self._jobs.values():
            if reason == "budget":
                jobs.close()
            else:
                jobs.detach()

    def abandon(self) -> None:
        """Cancel what is being sent; a job whose creation is not answered is looked for by the next session."""
        super().abandon()
        for task in list(self._running):
            task.cancel()

    async def _start(self, worker: TargetWorker, plan: Iterator[Conversation], group: asyncio.TaskGroup) -> None:
        if self._stopping.is_set():
            return
        jobs = self._target_jobs(worker, group)
        jobs.begin()  # this task adds conversations
        earlier = [job for job in self._earlier if job.target == worker.target.name]
        jobs.restore(earlier, cancel=self._mode == "cancel")
        self._reopen_budget(worker, jobs)
        if self._mode == "live":
            await super()._start(worker, self._apart(worker, jobs, plan, group), group)
            return
        ended = False
        try:
            ended = await self._feed(worker, jobs, plan, group)
        finally:
            jobs.fed(all_of_plan=ended)
            jobs.rest()

    async def _feed(
        self, worker: TargetWorker, jobs: TargetJobs, plan: Iterator[Conversation], group: asyncio.TaskGroup
    ) -> bool:
        """Begin conversations, as many at once as may be; return whether all of the plan have begun."""
        room = asyncio.Semaphore(CONVERSATIONS_AT_ONCE)
        for number, conversation in enumerate(plan, 1):
            if self._stopping.is_set() or worker.suspended is not None:
                return False
            if room.locked():
                await jobs.resting(room.acquire())
            else:
                await room.acquire()
            jobs.begin()
            self._spawn(group, self._play(worker, jobs, conversation, room))
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return True

    async def _play(
        self, worker: TargetWorker, jobs: TargetJobs, conversation: Conversation, room: asyncio.Semaphore | None
    ) -> None:
        try:
            await self._work(worker, iter((conversation,)))
        finally:
            if room is not None:
                room.release()
            jobs.rest()

    def _apart(
        self, worker: TargetWorker, jobs: TargetJobs, plan: Iterator[Conversation], group: asyncio.TaskGroup
    ) -> Iterator[Conversation]:
        """Yield the conversations that wait for no job; the others begin beside them, and take no place in flight."""
        for conversation in plan:
            if jobs.has_earlier(conversation.index, conversation.repeat):
                jobs.begin()
                self._spawn(group, self._play(worker, jobs, conversation, None))
            else:
                yield conversation
        jobs.fed(all_of_plan=True)

    def _target_jobs(self, worker: TargetWorker, group: asyncio.TaskGroup) -> TargetJobs:
        name = worker.target.name
        jobs = self._jobs[name] = TargetJobs(
            worker,
            run=self._run_name,
            journal=self._journal,
            system=self._system,
            note=self._listener.note,
            suspend=lambda reason: self._suspend(worker, reason),
            spawn=lambda work: self._spawn(group, self._guarded(work)),
            known=self._known,
            first_wave=self._last_waves.get(name, 0) + 1,
            window=self._rules.batch_window,
        )
        return jobs

    def _spawn(self, group: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
        task = group.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task about a job; what stops the session is handled as in a conversation."""
        try:
            await work
        except (JournalReplaced, BudgetReached) as end:
            self._stop_after(end)
        except LimiterClosed:
            return
        except ConvbatchError:
            raise
        except Exception:  # noqa: BLE001  # outermost frame of a job: a bug must not lose the results of others
            self.bugs.append(traceback.format_exc())
            self._listener.note("internal error in a batch job; its turns stay pending")
            self.stop("interrupted")

    def _reopen_budget(self, worker: TargetWorker, jobs: TargetJobs) -> None:
        """Reserve again what earlier sessions counted as spent for requests whose results are still to come."""
        share, prices = worker.budget_share, self._batch_prices.get(worker.target.name)
        if share is None:
            return
        for line in jobs.earlier_lines():
            if share.can_reserve(line.intent, prices):
                line.reservation = share.reopen(line.intent, prices)

    async def _ask_cached(
        self, worker: TargetWorker, state: ConversationState, number: int, key: str, settings: Settings
    ) -> TurnEnd | None:
        """Ask at once: a job's requests run together, so none can wait for the cache that another one fills."""
        if self._mode == "live":
            return await super()._ask_cached(worker, state, number, key, settings)
        return await self._ask(worker, state, number, key, settings)

    async def _ask(
        self, worker: TargetWorker, state: ConversationState, number: int, key: str, settings: Settings
    ) -> TurnEnd | None:
        jobs = self._jobs[worker.target.name]
        conversation = state.conversation
        place = (conversation.index, conversation.repeat, number, state.step)
        earlier = jobs.claim(place, key)
        if earlier is None and self._mode == "live":
            return await super()._ask(worker, state, number, key, settings)
        ask = state.question(worker.target, settings)
        if state.leaves_out_signatures:
            ask = worker.client.without_signatures(ask)
        retry_state, backoff_s = INITIAL_RETRY_STATE, 0.0
        while True:
            line, result = await self._result(worker, jobs, state, ask, number, key, settings, earlier)
            earlier = None
            attempt = state.noted(result.attempt)
            bare = worker.client.without_refused_signatures(ask, attempt)
            step = self._decide_line(worker, state, result, retry_state, asks_again=bare is not None)
            end = await self._store(
                worker, jobs, state, number, line, result._replace(attempt=attempt), step, backoff_s
            )
            if end is not None or isinstance(attempt.outcome, Reply):
                return end
            if not isinstance(step, SendAgain):
                assert isinstance(step, SuspendTarget)
                self._suspend(worker, step.reason, of_account=step.of_account)
                return None
            if self._mode == "live":
                return await super()._ask(worker, state, number, key, settings)
            retry_state, backoff_s = step.retry_state, step.wait_s
            if bare is not None:
                ask, state.leaves_out_signatures = bare, True
            if not await self._wait(backoff_s):
                return None

    async def _store(
        self,
        worker: TargetWorker,
        jobs: TargetJobs,
        state: ConversationState,
        number: int,
        line: JobLine,
        result: LineResult,
        step: Step | None,
        backoff_s: float,
    ) -> TurnEnd | None:
        """Store what came of a request; return how its turn ends, None if it goes on."""
        attempt = result.attempt
        try:
            prices = self._prices(worker, attempt)
            if worker.budget_share is not None and line.reservation is not None:
                worker.budget_share.settle(line.reservation, attempt, prices)
            fields = _outcome_fields(line, result, attempt, backoff_s) | price_fields(prices)
            outcome = Record("outcome", state.head(number), fields)
            end = state.end_of_step(_terminal(attempt, step))
            await self._journal.commit(*self._closing_records(outcome, state, number, end))
            jobs.stored(line)
        finally:
            _close(line.reservation)
        # What concerns a whole job is said once, and not for each of its requests.
        if not result.is_unmade and result.give_up is None and not (self._mode == "cancel" and end is None):
            self._listener.attempt_done(_call(worker, state, number), attempt, step)
        return end

    async def _result(
        self,
        worker: TargetWorker,
        jobs: TargetJobs,
        state: ConversationState,
        ask: Ask,
        number: int,
        key: str,
        settings: Settings,
        earlier: JobLine | None,
    ) -> tuple[JobLine, LineResult]:
        """Return the request and what came of it; raises `LimiterClosed`."""
        if earlier is not None:
            try:
                return earlier, await jobs.earlier_result(earlier)
            except BaseException:
                _close(earlier.reservation)
                raise
        if self._mode == "cancel":
            raise LimiterClosed("closed")
        size = state.token_bounds(settings)
        reservation = None
        if worker.budget_share is not None:
            reservation = await jobs.resting(worker.budget_share.reserve(size))
        try:
            await jobs.room()
            state.attempts += 1
            ident = {**state.head(number).fields, **state.attempt_fields(key, state.attempts)}
            line = JobLine(
                intent={"kind": "intent", **ident, **size},
                future=asyncio.get_running_loop().create_future(),
                reservation=reservation,
                reply_size=_RESULT_FRAME + _BYTES_PER_TOKEN * size.get("max_output_tokens", _USUAL_MAX_TOKENS),
            )
            try:
                request = worker.client.build_line(ask)
            except CannotCarry as limit:
                failure = Failure(kind="invalid_request", message=str(limit))
                return line, LineResult(Attempt(outcome=failure, cls="not_sent", started_at=self._system.clock.wall()))
            line.body, line.size, line.note = request.body, request.size, request.note
            self._listener.sending(_call(worker, state, number))
            return line, await jobs.result(line)
        except BaseException:
            _close(reservation)
            raise

    def _prices(self, worker: TargetWorker, attempt: Attempt) -> PriceTable | None:
        """Return the prices of an attempt in a batch job, of the model that answered."""
        asked = self._batch_prices.get(worker.target.name)
        outcome = attempt.outcome
        if not isinstance(outcome, Reply) or outcome.model_version is None:
            return asked
        served = worker.find_prices(outcome.model_version, None)  # the tier that a reply names is that of batches
        return asked if served is None else served.as_batch()

    def _decide_line(
        self,
        worker: TargetWorker,
        state: ConversationState,
        result: LineResult,
        retry_state: RetryState,
        *,
        asks_again: bool,
    ) -> Step | None:
        """Decide how the turn continues. None for a complete reply."""
        attempt = result.attempt
        if result.is_unmade or asks_again:
            return SendAgain(wait_s=0.0, retry_state=retry_state)
        if result.give_up is not None:
            return GiveUp(reason=result.give_up)
        now = self._system.clock.monotonic()
        worker.health.note(
            attempt,
            dialogue=state.conversation.index,
            sent_at=result.sent_at,
            is_probe=True,
            now=now,
            held_s=now,  # hours in a queue are no silence
        )
        step = next_step(
            attempt,
            retry_state,
            worker.health,
            max_attempts=self._rules.max_attempts,
            now=now,
            draw=self._system.random.random(),
        )
        if isinstance(step, SendAgain) and step.retry_state.throttled > retry_state.throttled:
            wait_s = min(_MAX_PAUSE_S, 2.0 ** min(step.retry_state.throttled, 10))
            return SendAgain(wait_s=wait_s, retry_state=step.retry_state)
        if isinstance(step, SuspendTarget):
            self._stop_admitting(worker, step.reason, of_account=step.of_account)
        return step


def _outcome_fields(line: JobLine, result: LineResult, attempt: Attempt, backoff_s: float) -> dict[str, Any]:
    """Return the fields of the `outcome` record of a line."""
    about = {name: value for name, value in line.intent.items() if name in ATTEMPT_FIELDS}
    note = "; ".join(dict.fromkeys(filter(None, (attempt.wire_note, line.note)))) or None
    record = outcome_fields(about, attempt._replace(wire_note=note), limiter_wait_s=0.0, retry_wait_s=backoff_s)
    if result.job is not None:
        record["job"] = result.job
    if result.job_s is not None:
        record["job_s"] = result.job_s
    return record


def _call(worker: TargetWorker, state: ConversationState, turn: int) -> Call:
    conversation = state.conversation
    return Call(
        worker.target.name,
        conversation.dialogue.id,
        conversation.repeat,
        turn,
        state.attempts,
        0.0,
        worker.in_flight,
        conversation.dialogue,
    )


def _close(reservation: Reservation | None) -> None:
    if reservation is not None:
        reservation.close()


def _terminal(attempt: Attempt, step: Step | None) -> TurnEnd | None:
    if isinstance(attempt.outcome, Reply):
        return TurnEnd(status=status_of(attempt.outcome), reply=attempt.outcome)
    if isinstance(step, GiveUp):
        return TurnEnd(status="error", reply=None, reason=step.reason, error_kind=attempt.outcome.kind)
    return None


def last_waves(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the number of the last wave of each target, from the `job` records of a run."""
    waves: dict[str, int] = {}
    for record in records:
        waves[record["target"]] = max(waves.get(record["target"], 0), record["wave"])
    return waves
