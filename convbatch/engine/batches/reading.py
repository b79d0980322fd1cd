"""Read the results of a job that has ended into what each of its requests came to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from convbatch.engine.batches.talk import Answered, JobTalk, Refusal
from convbatch.engine.batches.values import JobLine, LineResult, OpenJob
from convbatch.engine.client import Client
from convbatch.protocols.batches.jobs import BatchApi, Job
from convbatch.protocols.batches.lines import CANCELLED, ResultLine, match_lines
from convbatch.protocols.wire import MalformedReply
from convbatch.reply import Attempt, ErrorKind, Failure
from convbatch.system import Clock

OF_ACCOUNT: frozenset[ErrorKind] = frozenset({"auth", "permission", "quota"})
"""Refusals that say nothing about the job: with another key, or later, it can be asked about."""
_YIELD_EVERY = 64
_EXCERPT_CHARS = 160


class JobResults(NamedTuple):
    """What the requests of a job came to."""

    found: dict[str, LineResult]
    """By line id."""
    rest: LineResult
    """Of each request without a result."""
    unread: str | None
    """Why a part of the results cannot be fetched; None if nothing is lost."""
    is_cancelled: bool
    """Whether requests were not run because the job was cancelled."""


class ResultReader:
    """Reads the results of the jobs of one target."""

    def __init__(self, api: BatchApi, talk: JobTalk, client: Client, clock: Clock) -> None:
        self._api = api
        self._talk = talk
        self._client = client
        self._clock = clock

    async def read(self, job: OpenJob, state: Job) -> JobResults | Refusal | None:
        """Return the results, why they may not be asked for now, or None once the session is detached."""
        lines: list[ResultLine] = []
        unread: str | None = None
        for call in self._api.results(self._client.batch_endpoint, state):
            answer = await self._talk.until_answered(call)
            if answer is None or (isinstance(answer, Refusal) and answer.failure.kind in OF_ACCOUNT):
                return answer
            if isinstance(answer, Answered):
                lines += self._lines(job, answer.body)
            else:
                unread = excerpt(answer.failure.message)
        matched = match_lines([line_id(job, line) for line in job.lines], lines)
        at = job.made_at or job.asked_at
        job_s = max(0.0, self._clock.wall() - at)
        found: dict[str, LineResult] = {}
        for number, (name, line) in enumerate(matched.found.items(), 1):
            found[name] = LineResult(self._client.read_result(line, at), job.name, job_s, job.sent_at)
            if number % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        rest = lost_result(job, "not_found", f"results of batch job {job.name} cannot be fetched: {unread}")
        if unread is None:
            what = f"batch job {job.name} has no readable result for this request"
            failure = Failure(kind="bad_response", message=what)
            attempt = Attempt(outcome=failure, cls="ambiguous", started_at=at)
            rest = LineResult(attempt, job.name, job_s, job.sent_at)
        return JobResults(found, rest, unread, any(map(_was_cancelled, matched.found.values())))

    def _lines(self, job: OpenJob, content: bytes) -> Iterator[ResultLine]:
        is_whole = self._api.has_whole_results
        for line in [content] if is_whole else content.split(b"\n"):
            if line.strip():
                try:
                    read = self._api.read_line(line)
                except MalformedReply:
                    continue  # whichever request it is of has no result
                yield read._replace(line_id=f"{job.name}-0") if is_whole else read


def line_id(job: OpenJob, line: JobLine) -> str:
    """Return the id of a line in its job."""
    return f"{job.name}-{line.intent['line']}"


def lost_result(job: OpenJob, kind: ErrorKind, message: str) -> LineResult:
    """Return the result of a request that may have been run and paid, and whose reply cannot be had."""
    failure = Failure(kind=kind, message=message, code="batch_lost")
    attempt = Attempt(outcome=failure, cls="timeout", started_at=job.made_at or job.asked_at)
    return LineResult(attempt, job.name, sent_at=job.sent_at, give_up=f"{message}; possibly paid")


def excerpt(text: str) -> str:
    """Return the start of a message as one line."""
    plain = " ".join(text.split())
    return plain if len(plain) <= _EXCERPT_CHARS else f"{plain[: _EXCERPT_CHARS - 1]}…"


def _was_cancelled(line: ResultLine) -> bool:
    return isinstance(line.outcome, Failure) and line.outcome.code == CANCELLED
