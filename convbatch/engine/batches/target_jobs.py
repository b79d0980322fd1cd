"""The batch jobs of one target: requests wait for a wave, a wave becomes jobs, and each job is watched to its end.

A wave is complete when no conversation can go on without a result: every one waits for a job, or for a place in one.
A job is made at the first moment at which its name, its lines and its creation are in the journal. How one request is
sent is `talk.py`; what its result means for a turn is `runner.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from convbatch.engine.batches.creation import Creation, Unmade, Untraceable
from convbatch.engine.batches.reading import OF_ACCOUNT, ResultReader, excerpt, line_id, lost_result
from convbatch.engine.batches.talk import FIRST_POLL_S, MAX_WAIT_S, JobTalk, Refusal
from convbatch.engine.batches.values import (
    EarlierJob,
    JobLine,
    JobState,
    LineResult,
    OpenJob,
    job_name,
    job_record,
)
from convbatch.engine.limiter import LimiterClosed
from convbatch.engine.worker import TargetWorker
from convbatch.journal.writer import Journal
from convbatch.protocols.batches import batch_api
from convbatch.protocols.batches.jobs import Job, JobLimits, JobPlan
from convbatch.protocols.wire import CannotCarry, MalformedReply
from convbatch.reply import Attempt, AttemptClass, Failure
from convbatch.system import System

T = TypeVar("T")

MOST_LINES = 10_000
MOST_BYTES = 20_000_000
MOST_RESULT_BYTES = 192 * 2**20
"""Of a job, as far as the limits on output tell: its results are read as a whole."""
MOST_WAITING_BYTES = 64 * 2**20
"""Of requests whose job is not made yet: beyond it no more are built."""
_MADE_AT_ONCE = 16
"""Jobs of one request each."""
MISSES = 3
"""Polls in a row that find no job, after which it is lost."""


class TargetJobs:
    """The queue of requests and the jobs of one target in one session."""

    def __init__(
        self,
        worker: TargetWorker,
        *,
        run: str,
        journal: Journal,
        system: System,
        note: Callable[[str], None],
        suspend: Callable[[str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        known: set[str],
        first_wave: int = 1,
        window: str | None = None,
    ) -> None:
        """Start without jobs.

        Args:
            worker: The target.
            run: Name of the run, for the names of jobs.
            journal: Gets the records of jobs.
            system: Clock and randomness.
            note: Shows a note to the user.
            suspend: Sends no more requests of this target, for a reason.
            spawn: Starts a task whose errors end the session.
            known: Ids of the jobs of all targets, to which those of this one are added.
            first_wave: Number of the next wave.
            window: Within which responses are asked for one by one, in place of jobs.
        """
        self._worker = worker
        self._run = run
        self._journal = journal
        self._system = system
        self._note = note
        self._suspend = suspend
        self._known = known
        self._spawn = spawn
        self.wave = first_wave - 1
        """Number of the latest wave."""
        self.talk = JobTalk(worker.client, system, timeout_s=worker.target.gateway.attempt_timeout_s)
        self._api = batch_api(worker.target.gateway.protocol, window)
        endpoint, name = worker.client.batch_endpoint, worker.target.name
        self._creation = Creation(self._api, self.talk, endpoint, journal, system, name, known)
        self._reader = ResultReader(self._api, self.talk, worker.client, system.clock)
        self._queue: list[JobLine] = []
        self._queued_bytes = self._queued_reply_bytes = 0
        self._waiting_bytes = 0
        self._room: deque[asyncio.Future[None]] = deque()
        self._runnable = 0
        self._is_single = self._api.limits.lines == 1
        self._making = asyncio.Semaphore(_MADE_AT_ONCE if self._is_single else 1)
        self._most_lines = MOST_LINES
        self._is_full = False
        self._job_ended = asyncio.Event()
        self._open: dict[str, OpenJob] = {}
        self._earlier: dict[tuple[int, int, int, int], JobLine] = {}
        self._unasked: set[str] = set()
        """Jobs of earlier sessions of which it is not known whether they have ended."""
        self._earlier_conversations: set[tuple[int, int]] = set()
        self._is_cancelling = False
        self._fed = asyncio.Event()
        self._fed_all = False
        self._is_closed = False

    # -- what conversations do

    def begin(self) -> None:
        """Count something that may add a request: no wave is complete before it rests."""
        self._runnable += 1

    def rest(self) -> None:
        """Count something that waits, or has ended: it adds no request now."""
        self._runnable -= 1
        if self._runnable == 0 and self._queue:
            self._flush()

    async def resting(self, wait: Awaitable[T]) -> T:
        """Wait for something that a wave need not wait for."""
        self.rest()
        try:
            return await wait
        finally:
            self.begin()

    async def room(self) -> None:
        """Wait until another request may be built; raises `LimiterClosed`."""
        self._refuse_closed()
        if self._waiting_bytes > MOST_WAITING_BYTES:
            place = asyncio.get_running_loop().create_future()
            self._room.append(place)
            self.rest()
            await place

    async def result(self, line: JobLine) -> LineResult:
        """Put a request into the next job, and return what comes of it; raises `LimiterClosed`."""
        self._refuse_closed()
        if self._queue and not self._fits(line):
            self._flush()
        self._queue.append(line)
        self._queued_bytes += line.size
        self._queued_reply_bytes += line.reply_size
        self._waiting_bytes += line.size
        self.rest()
        return await line.future  # `_resolve` has called `begin`

    def claim(self, place: tuple[int, int, int, int], key: str) -> JobLine | None:
        """Return the line of an earlier session that asks exactly this; None if there is none."""
        line = self._earlier.get(place)
        if line is None or line.is_claimed or line.intent.get("key") != key:
            return None
        line.is_claimed = True
        return line

    async def earlier_result(self, line: JobLine) -> LineResult:
        """Return what comes of a line of an earlier session; raises `LimiterClosed`."""
        if line.future.done():
            return line.future.result()
        self.rest()
        return await line.future

    def has_earlier(self, index: int, repeat: int) -> bool:
        """Return whether a conversation has a request in a job of an earlier session."""
        return (index, repeat) in self._earlier_conversations

    def stored(self, line: JobLine) -> None:
        """Count a line whose outcome is durable."""
        if (job := self._open.get(str(line.intent.get("job")))) is not None:
            job.stored(line)

    def fed(self, *, all_of_plan: bool) -> None:
        """Note that no more conversations begin in this session."""
        self._fed_all = all_of_plan
        self._fed.set()

    def earlier_lines(self) -> Iterable[JobLine]:
        """Return the lines of jobs of earlier sessions."""
        return self._earlier.values()

    # -- the session

    def restore(self, jobs: Sequence[EarlierJob], *, cancel: bool = False) -> None:
        """Take up the jobs that earlier sessions left open, and cancel them if that is asked for."""
        loop = asyncio.get_running_loop()
        self._is_cancelling = cancel
        for earlier in jobs:
            job = OpenJob(
                name=earlier.name,
                wave=earlier.wave,
                lines=[
                    JobLine(intent=dict(intent), future=loop.create_future(), is_claimed=False)
                    for intent in earlier.intents
                ],
                size=earlier.size,
                asked_at=earlier.asked_at,
                creating_at=earlier.creating_at,
                state=earlier.state,
                job_id=earlier.job_id,
                made_at=earlier.made_at,
                left=len(earlier.intents),
            )
            self._open_job(job)
            self._unasked.add(job.name)
            self.begin()  # a wave waits for the results that are there already
            self._earlier |= {line.place: line for line in job.lines}
            self._earlier_conversations |= {line.place[:2] for line in job.lines}
            self._spawn(self._take_up(job, cancel=cancel))

    def close(self) -> None:
        """Take no more requests; the jobs that are made go on."""
        self._is_closed = True
        self._job_ended.set()
        waiting, self._queue = self._queue, []
        for line in waiting:
            self._refuse(line)
        while self._room:
            place = self._room.popleft()
            if not place.done():
                self._runnable += 1
                place.set_exception(LimiterClosed("closed"))

    def detach(self) -> None:
        """Wait for nothing any more: the jobs go on at the provider, and another session reads their results."""
        self.close()
        self.talk.detached.set()
        for job in self._open.values():
            if job.state == "made":
                self._leave(job)

    @property
    def open_jobs(self) -> list[OpenJob]:
        """The jobs that have not ended, and those whose results are not stored yet."""
        return list(self._open.values())

    def status(self, now: float) -> str | None:
        """Return what the target waits for, as a few words; None while it builds requests."""
        made = [job for job in self._open.values() if job.state == "made"]
        if not self._open:
            return None
        if not made:
            why = next((job.waits_for for job in self._open.values() if job.waits_for is not None), "being made")
            return f"wave {self.wave}: the batch job is {why}"
        total = sum(job.size for job in made)
        if self._is_single:
            return f"{total} {'response' if total == 1 else 'responses'} in the background"
        known = [job.done for job in made if job.done is not None]
        done = f", {sum(known)} of {total} requests done" if known else f" of {total} requests"
        jobs = "batch job" if len(made) == 1 else f"{len(made)} batch jobs"
        polls = min((job.polls_at for job in made if job.polls_at is not None), default=now)
        word = f" ({made[0].word})" if len(made) == 1 and made[0].word else ""
        return f"wave {max(job.wave for job in made)}: {jobs}{word}{done}; asked again in {max(0.0, polls - now):.0f} s"

    # -- waves

    def _fits(self, line: JobLine) -> bool:
        limits = self._limits
        return (
            len(self._queue) < limits.lines
            and self._queued_bytes + line.size <= limits.size
            and self._queued_reply_bytes + line.reply_size <= MOST_RESULT_BYTES
        )

    @property
    def _limits(self) -> JobLimits:
        most = self._api.limits
        return JobLimits(lines=min(most.lines, self._most_lines), size=min(most.size, MOST_BYTES))

    def _flush(self) -> None:
        lines, self._queue = self._queue, []
        self._queued_bytes = self._queued_reply_bytes = 0
        self.wave += 1
        self._spawn(self._make(lines, self.wave))

    async def _make(self, lines: list[JobLine], wave: int) -> None:
        async with self._making:
            most = self._limits.lines  # it may be lower by now
            for start in range(0, len(lines), most):
                await self._make_job(lines[start : start + most], wave)

    async def _wait_for_space(self) -> None:
        """After a job was more than is allowed at once beside others, wait until one of those has ended."""
        while self._is_full and not self._is_closed and any(job.state == "made" for job in self._open.values()):
            self._job_ended.clear()
            await self._job_ended.wait()
        self._is_full = False

    async def _make_job(self, lines: list[JobLine], wave: int) -> None:
        await self._wait_for_space()
        if self._is_closed or self._worker.suspended is not None:
            for line in lines:
                self._refuse(line)
            return
        name = job_name(self._run, wave, f"{self._system.random.getrandbits(32):08x}")
        bodies = [line.body or {} for line in lines]
        plan = JobPlan(name, self._worker.target.model, bodies, self._worker.client.batch_endpoint)
        try:
            self._api.begin(plan)
        except CannotCarry as limit:
            failure = Failure(kind="invalid_request", message=str(limit))
            attempt = Attempt(outcome=failure, cls="not_sent", started_at=self._system.clock.wall())
            for line in lines:
                self._resolve(line, LineResult(attempt))
            return
        for at, line in enumerate(lines):
            line.intent |= {"job": name, "line": at}
            if line.reservation is not None:
                line.reservation.is_sent = True
        now = self._system.clock.wall()
        job = OpenJob(name=name, wave=wave, lines=lines, size=len(lines), asked_at=now, left=len(lines))
        job.sent_at = self._system.clock.monotonic()
        self._open_job(job)
        # The job's record comes first, and no await between: there is no intent of a job that is not known.
        self._journal.append(job_record(job, self._worker.target.name, "asked"))
        await self._journal.commit(*[line.intent for line in lines])
        made = await self._creation.make(plan, job, others_open=lambda: len(self._open) > 1)
        for line in lines:
            line.body = None
        self._free(sum(line.size for line in lines))
        await self._go_on(job, made)

    async def _go_on(self, job: OpenJob, made: Job | Unmade | Untraceable | None) -> None:
        if made is None:
            self._leave(job)
        elif isinstance(made, Untraceable):
            await self._lose(job, "connection", made.why)
        elif isinstance(made, Job):
            await self._is_made(job, made)
            self._spawn(self._watch(job, wait_s=FIRST_POLL_S))
        else:
            if made.refusal is not None and not made.refusal.passes:
                self._suspend(_refused(made.refusal))
            if made.is_too_large:
                self._most_lines = max(1, min(self._most_lines, job.size) // 2)
            await self._give_back(job, made)

    async def _is_made(self, job: OpenJob, made: Job) -> None:
        job.job_id, job.made_at = made.job_id, self._system.clock.wall()
        self._known.add(made.job_id)
        job.word = _words(made.state)
        await self._journal.commit(job_record(job, self._worker.target.name, "made"))
        job.state = "made"
        if self.talk.detached.is_set():
            self._leave(job)
        elif not self._is_single:
            self._note(
                f"{self._worker.target.name}: wave {job.wave}: batch job {job.name} made for {_requests(job.size)}"
            )

    async def _give_back(self, job: OpenJob, unmade: Unmade) -> None:
        """Let the requests of a job that was not made go into another one."""
        failure = Failure(kind="connection", message=f"batch job {job.name} was not made: {unmade.why}", retryable=True)
        if unmade.refusal is not None:
            failure = unmade.refusal.failure
        attempt = Attempt(outcome=failure, cls="not_sent", started_at=job.asked_at)
        self._deliver(job, {}, LineResult(attempt, job.name, is_unmade=True))
        await self._end(job, "unmade")

    # -- jobs

    async def _take_up(self, job: OpenJob, *, cancel: bool) -> None:
        """Go on with a job of an earlier session."""
        try:
            await self._resume_job(job, cancel=cancel)
        finally:
            self._asked_about(job)

    def _asked_about(self, job: OpenJob) -> None:
        """Note that it is known whether a job of an earlier session has ended."""
        if job.name in self._unasked:
            self._unasked.discard(job.name)
            self.rest()

    async def _resume_job(self, job: OpenJob, *, cancel: bool) -> None:
        if job.state == "asked":
            await self._give_back(job, Unmade("the session before ended too early"))
            return
        if job.state == "creating":
            made = await self._creation.find(job)
            if made is None:
                self._leave(job)
                return
            if isinstance(made, Unmade):
                await self._give_back(job, made)
                return
            if isinstance(made, Untraceable):
                await self._lose(job, "connection", made.why)
                return
            await self._is_made(job, made)
        assert job.job_id is not None
        if cancel:
            await self.talk.until_answered(self._api.cancel(self._worker.client.batch_endpoint, job.job_id))
        await self._watch(job, wait_s=0.0)

    async def _watch(self, job: OpenJob, *, wait_s: float) -> None:
        """Poll a job until it has ended, and store its results."""
        misses = 0
        while True:
            job.polls_at = self._system.clock.monotonic() + wait_s
            if not await self.talk.pause(wait_s):
                return
            wait_s = min(MAX_WAIT_S, max(FIRST_POLL_S, 2 * wait_s))
            state = await self._poll(job)
            if state is None:
                return
            misses = misses + 1 if isinstance(state, Refusal) else 0
            if isinstance(state, Refusal):
                if state.failure.kind in OF_ACCOUNT:
                    self._cannot_follow(job, state)
                    return
                if misses >= MISSES:
                    await self._lose(job, "not_found", f"it is no longer there ({excerpt(state.failure.message)})")
                    return
            elif state.phase != "open":
                await (self._fail if state.phase == "failed" else self._collect)(job, state)
                return

    async def _poll(self, job: OpenJob) -> Job | Refusal | None:
        """Return a job as it is now, or why it cannot be read; None once the session is detached."""
        assert job.job_id is not None
        answer = await self.talk.until_answered(self._api.poll(self._worker.client.batch_endpoint, job.job_id))
        if answer is None or isinstance(answer, Refusal):
            return answer
        try:
            state = self._api.read_job(answer.body)
        except MalformedReply as malformed:
            failure = Failure(kind="bad_response", message=f"its description cannot be read: {malformed}")
            return Refusal(failure, "ambiguous", answer.status, answer.body)
        if state.phase == "open":
            self._asked_about(job)
        job.done, job.word = state.done, _words(state.state)
        return state

    def _cannot_follow(self, job: OpenJob, refusal: Refusal) -> None:
        """Stop following a job that may not be asked about; another session goes on with it."""
        job.keeps_open = True
        self._leave(job)
        self._suspend(f"batch job {job.name} cannot be asked about ({excerpt(refusal.failure.message)}): then resume")

    async def _fail(self, job: OpenJob, state: Job) -> None:
        failure = state.failure or Failure(kind="server_error", message="the batch job failed", retryable=True)
        failure = self._worker.client.redacted(failure)
        if state.may_be_paid:
            await self._lose(job, failure.kind, failure.message)
            return
        if failure.kind == "rate_limit":
            self._is_full = len(self._open) > 1
            if not self._is_full:  # it alone is more than is allowed at once
                self._most_lines = max(1, min(self._most_lines, job.size) // 2)
        cls: AttemptClass = "refused" if failure.retryable else "final"
        attempt = Attempt(outcome=failure, cls=cls, started_at=job.made_at or job.asked_at)
        self._note(f"{self._worker.target.name}: batch job {job.name} failed, unpaid: {excerpt(failure.message)}")
        self._deliver(job, {}, LineResult(attempt, job.name, sent_at=job.sent_at))
        await self._end(job, "ended")

    async def _lose(self, job: OpenJob, kind: Any, why: str) -> None:
        """Give up a job whose results cannot be read, and which may be paid."""
        message = f"the results of batch job {job.name} are lost: {why}"
        self._note(f"{self._worker.target.name}: {message}; its turns are listed as possibly paid")
        self._deliver(job, {}, lost_result(job, kind, message))
        await self._end(job, "lost")

    async def _collect(self, job: OpenJob, state: Job) -> None:
        """Store the results of a job that has ended."""
        results = await self._reader.read(job, state)
        if results is None:
            return
        if isinstance(results, Refusal):
            self._cannot_follow(job, results)
            return
        self._say_ended(job, len(results.found), results.unread)
        if results.is_cancelled and not self._is_cancelling:
            self._suspend(f"batch job {job.name} was cancelled; what had been run is kept: resume asks the rest")
        self._deliver(job, results.found, results.rest)
        await self._end(job, "ended" if results.unread is None else "lost")

    def _say_ended(self, job: OpenJob, results: int, unread: str | None) -> None:
        missing = len(job.lines) - results
        more = f", {missing} without a result: possibly paid" if missing else ""
        why = "" if unread is None else f" ({unread})"
        took = self._system.clock.wall() - (job.made_at or job.asked_at)
        if missing or unread is not None or not self._is_single:
            self._note(
                f"{self._worker.target.name}: wave {job.wave}: batch job {job.name} has ended after {took:.0f} s"
                f"{more}{why}"
            )

    def _deliver(self, job: OpenJob, results: dict[str, LineResult], rest: LineResult) -> None:
        for line in job.lines:
            self._resolve(line, results.get(line_id(job, line), rest))

    async def _end(self, job: OpenJob, state: JobState) -> None:
        """Close a job in the journal once the outcomes of all its lines are durable."""
        self._asked_about(job)
        await self._fed_or_detached()
        surplus = [line for line in job.lines if not line.is_claimed]  # no conversation asks these any more
        for line in surplus:
            job.keeps_open = job.keeps_open or not self._fed_all
            job.stored(line)
        if surplus and self._fed_all:
            self._note(
                f"{self._worker.target.name}: {_requests(len(surplus))} of batch job {job.name} asked for what has a "
                "result by now; possibly paid"
            )
        if job.left > 0:
            await job.all_stored.wait()
        del self._open[job.name]
        self._job_ended.set()
        if not job.keeps_open:
            await self._journal.commit(job_record(job, self._worker.target.name, state))

    async def _fed_or_detached(self) -> None:
        if any(not line.is_claimed for line in self._open_lines()):
            await self._fed.wait()

    def _open_lines(self) -> Iterable[JobLine]:
        return (line for job in self._open.values() for line in job.lines)

    def _open_job(self, job: OpenJob) -> None:
        self._open[job.name] = job
        self._worker.in_flight += len(job.lines)

    # -- waiting conversations

    def _resolve(self, line: JobLine, result: LineResult) -> None:
        if not line.future.done():
            self._worker.in_flight -= line.intent.get("job") is not None
            self._runnable += line.is_claimed
            line.future.set_result(result)

    def _refuse(self, line: JobLine) -> None:
        if not line.future.done():
            self._worker.in_flight -= line.intent.get("job") is not None
            self._runnable += line.is_claimed
            line.future.set_exception(LimiterClosed("closed"))
            line.future.exception()  # nobody may wait for it

    def _leave(self, job: OpenJob) -> None:
        """Stop waiting for a job: its lines stay without an outcome, for another session."""
        job.keeps_open = True
        for line in job.lines:
            self._refuse(line)
            job.stored(line)

    def _refuse_closed(self) -> None:
        if self._is_closed or self._worker.suspended is not None:
            raise LimiterClosed("closed")

    def _free(self, size: int) -> None:
        self._waiting_bytes -= size
        while self._room and self._waiting_bytes <= MOST_WAITING_BYTES:
            place = self._room.popleft()
            if not place.done():
                self._runnable += 1
                place.set_result(None)
                return  # it will add its own bytes first


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count:,} requests"


def _words(state: str) -> str:
    return state.lower().replace("_", " ")


def _refused(refusal: Refusal) -> str:
    said = excerpt(refusal.failure.message)
    kind = refusal.failure.kind
    if kind in ("auth", "permission"):
        return f"the key may not make batch jobs ({said}): correct the key, then resume"
    if kind == "quota":
        return f"no balance for a batch job ({said}): top up, then resume"
    where = "the model, or a batch API, is not there" if kind == "not_found" else "the batch job is refused"
    return f"{where} ({said}): resume with --no-batch asks live, at the full price"
