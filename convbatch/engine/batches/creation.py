"""Make a batch job exactly once: the upload, the creation, and what to do when the creation is not answered.

No batch API makes a creation idempotent. So it is in the journal before it is sent, and a job whose creation was not
answered is looked for: by its name, or, where the provider keeps no names, among the jobs of that time and size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from convbatch.engine.batches.talk import FIRST_POLL_S, MAX_WAIT_S, Answered, JobTalk, Refusal
from convbatch.engine.batches.values import OpenJob, job_record
from convbatch.journal.writer import Journal
from convbatch.protocols.batches.jobs import BatchApi, Job, JobCall, JobPlan
from convbatch.protocols.wire import Endpoint, MalformedReply
from convbatch.reply import AttemptClass, Failure
from convbatch.system import System

LISTED_AFTER_S = 10.0
"""A job that is not listed this long after its creation was sent does not exist."""
CLOCKS_DIFFER_S = 120.0
REFUSALS_BEFORE_SMALLER = 5
"""Refusals for too much at once, while no other job is open, after which the job is made smaller."""
_MAX_PAGES = 100


class Unmade(NamedTuple):
    """A job does not exist, and nothing was paid."""

    why: str
    refusal: Refusal | None = None
    is_too_large: bool = False


class Untraceable(NamedTuple):
    """A job may exist, and cannot be looked for."""

    why: str


class _Unsure(NamedTuple):
    """The creation was sent and not answered."""


class _NotListed(NamedTuple):
    """No job in the list is this one."""


class Creation:
    """Makes the jobs of one target."""

    def __init__(
        self,
        api: BatchApi,
        talk: JobTalk,
        endpoint: Endpoint,
        journal: Journal,
        system: System,
        target: str,
        known: set[str],
    ) -> None:
        self._api = api
        self._talk = talk
        self._endpoint = endpoint
        self._journal = journal
        self._clock = system.clock
        self._target = target
        self._known = known

    async def make(
        self, plan: JobPlan, job: OpenJob, *, others_open: Callable[[], bool]
    ) -> Job | Unmade | Untraceable | None:
        """Make a job, after waits if the provider asks for them; None if that is open when the session ends.

        Args:
            plan: The job.
            job: Its state; its record `asked` is durable.
            others_open: Whether another job of this target is open: its end may make room for this one.
        """
        wait_s = FIRST_POLL_S
        refused = 0
        call = self._api.begin(plan)
        while True:
            made, call = await self._try(plan, job, call)
            if isinstance(made, _Unsure):
                return await self.find(job)
            if isinstance(made, Job):
                return made
            if made.refusal is None or not made.refusal.passes:
                return made
            refused += made.refusal.failure.kind == "rate_limit" and not others_open()
            if refused >= REFUSALS_BEFORE_SMALLER and job.size > 1:
                return made._replace(is_too_large=True)
            wait_s = max(wait_s, made.refusal.failure.retry_after_s or 0.0)
            job.waits_for = f"refused for now ({made.why}); tried again within {wait_s:.0f} s"
            if not await self._talk.pause(wait_s):
                return Unmade("the session ended")
            wait_s = min(MAX_WAIT_S, 2 * wait_s)

    async def _try(self, plan: JobPlan, job: OpenJob, call: JobCall) -> tuple[Job | Unmade | _Unsure, JobCall]:
        """Send the requests from this one on; return also the one to begin with again: what was uploaded stays."""
        first = self._api.begin(plan)
        while True:
            if self._talk.detached.is_set():
                return Unmade("the session ended"), call
            is_creation = call.step == "create"
            if is_creation:
                job.state, job.creating_at = "creating", self._clock.wall()
                await self._journal.commit(job_record(job, self._target, "creating"))
            answer = await self._talk.once(call)
            if isinstance(answer, Refusal):
                if is_creation and answer.cls in ("ambiguous", "timeout"):
                    return _Unsure(), call
                return Unmade(answer.failure.message, answer), call if is_creation else first
            step = self._api.proceed(plan, call, answer.status, answer.headers, answer.body)
            if isinstance(step, Failure):
                if is_creation:
                    return _Unsure(), call  # a success that cannot be read
                cls: AttemptClass = "ambiguous" if step.retryable else "final"  # an upload costs nothing
                return Unmade(step.message, Refusal(step, cls, answer.status, answer.body)), first
            if isinstance(step, Job):
                return step, call
            call = step

    async def find(self, job: OpenJob) -> Job | Unmade | Untraceable | None:
        """Look for a job whose creation may have been answered; None once the session is detached."""
        if not self._api.lists_jobs:
            return Untraceable("its creation was not answered, and the provider does not list what was made")
        now = self._clock.wall()
        sent_at = min(now, job.creating_at or job.asked_at)  # the clock may have been set back
        until = max(sent_at + LISTED_AFTER_S, now + FIRST_POLL_S)
        wait_s = FIRST_POLL_S
        others: set[str] = set()  # not known to all: one may be the job of another creation without an answer
        while True:
            found = await self._look(job, others)
            if not isinstance(found, _NotListed):
                return found
            if self._clock.wall() >= until:
                return Unmade("its creation was not answered, and the provider does not list it")
            if not await self._talk.pause(wait_s):
                return None
            wait_s = min(MAX_WAIT_S, 2 * wait_s)

    async def _look(self, job: OpenJob, others: set[str]) -> Job | Unmade | _NotListed | None:
        """Look for a job once; ids of jobs that turn out to be others' are added to `others`."""
        listed = await self._listed(job)
        if listed is None or isinstance(listed, Unmade):
            return listed
        for found in listed:
            if found.name == job.name:
                return found
        for found in listed:
            if found.name is None and found.job_id not in self._known | others:
                if (own := await self._is_own(job, found)) is None:
                    return None
                if own:
                    return found
                others.add(found.job_id)
        return _NotListed()

    async def _listed(self, job: OpenJob) -> list[Job] | Unmade | None:
        """Return the jobs that may be this one: of its name, or without a name and of its time and size."""
        found: list[Job] = []
        page: str | None = None
        for _ in range(_MAX_PAGES):
            answer = await self._talk.until_answered(self._api.find(self._endpoint, page))
            if answer is None:
                return None
            if isinstance(answer, Refusal):
                return None if answer.failure.kind in ("auth", "permission") else Unmade(answer.failure.message, answer)
            try:
                listed = self._api.read_page(answer.body)
            except MalformedReply:
                break
            found += [one for one in listed.jobs if self._may_be(job, one)]
            page = listed.next_page
            oldest = min((one.created_at for one in listed.jobs if one.created_at is not None), default=None)
            if page is None or (oldest is not None and oldest < job.asked_at - CLOCKS_DIFFER_S):
                break
        return found

    def _may_be(self, job: OpenJob, one: Job) -> bool:
        if one.name is not None:
            return one.name == job.name
        is_of_time = one.created_at is None or one.created_at >= job.asked_at - CLOCKS_DIFFER_S
        return is_of_time and one.total in (None, job.size)

    async def _is_own(self, job: OpenJob, found: Job) -> bool | None:
        """Wait for the end of a job without a name, and return whether its lines are those of this one."""
        wait_s = FIRST_POLL_S
        while found.phase == "open":
            if not await self._talk.pause(wait_s):
                return None
            wait_s = min(MAX_WAIT_S, 2 * wait_s)
            answer = await self._talk.until_answered(self._api.poll(self._endpoint, found.job_id))
            if answer is None:
                return None
            if isinstance(answer, Refusal):
                return False
            try:
                found = self._api.read_job(answer.body)
            except MalformedReply:
                continue
        for call in self._api.results(self._endpoint, found):
            answer = await self._talk.until_answered(call)
            if answer is None:
                return None
            if isinstance(answer, Answered):
                return any(self._is_line_of(job, line) for line in answer.body.split(b"\n") if line.strip())
        return False

    def _is_line_of(self, job: OpenJob, line: bytes) -> bool:
        try:
            return self._api.read_line(line).line_id.rpartition("-")[0] == job.name
        except MalformedReply:
            return False
