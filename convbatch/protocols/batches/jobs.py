"""The interface between convbatch and a batch API: values in, values out.

A job has many requests, each of which `WireProtocol.build_request` has built. It is made by one or more HTTP requests,
of which the last makes the job and is the only one that may cost anything; the caller journals it before it is sent.
From then on the job is polled, and its results are read line by line. Times, sockets, keys and what is sent again are
the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from convbatch.protocols.batches.descriptions import objects_under, read_object
from convbatch.protocols.batches.lines import ResultLine
from convbatch.protocols.wire import CannotCarry, Endpoint, MalformedReply, encode_json
from convbatch.reply import Failure

Step = Literal["upload", "create", "find", "poll", "results", "cancel"]
Phase = Literal["open", "ended", "failed"]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,50}")
_PLACE = re.compile(r"-(\d+)\Z")


class JobCall(NamedTuple):
    """One HTTP request without its key."""

    step: Step
    """`create` is the one that makes the job."""
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None
    has_key: bool = True
    """False for an address that stands for the key."""


class JobPlan(NamedTuple):
    """A job to be made."""

    name: str
    """Unique: by it, or by the ids of its lines, a job is found again whose creation was not answered."""
    model: str
    bodies: Sequence[Mapping[str, Any]]
    """Of the requests, in the order of the lines."""
    endpoint: Endpoint

    @property
    def line_ids(self) -> list[str]:
        """The ids of the lines, unique over all jobs."""
        return [f"{self.name}-{at}" for at in range(len(self.bodies))]


class JobLimits(NamedTuple):
    """What one job can hold."""

    lines: int
    size: int
    """Bytes of its input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as its provider describes it."""

    job_id: str
    name: str | None
    """As its creation said; None if the provider keeps no name."""
    phase: Phase
    """`open`: it has not ended. `ended`: it has results. `failed`: it has none, and `failure` says why."""
    state: str
    """The provider's word."""
    done: int | None = None
    """Lines that have ended; None if the provider does not say so before all have."""
    total: int | None = None
    created_at: float | None = None
    """Unix seconds."""
    results: tuple[str, ...] = ()
    """Ids of what holds its results."""
    failure: Failure | None = None
    may_be_paid: bool = False
    """Whether lines of a failed job may have been run: their replies are lost, and may be paid for."""


class JobPage(NamedTuple):
    """One page of the list of jobs."""

    jobs: tuple[Job, ...]
    next_page: str | None
    """For `find`; None after the last page."""


def page_after_last(body: bytes, job: Callable[[dict[str, Any]], Job]) -> JobPage:
    """Return a page of a list whose next one is asked for after its last job, as OpenAI and Anthropic do.

    Args:
        body: `data` and `has_more`.
        job: Reads one job.

    Raises:
        MalformedReply: It is no list of jobs.
    """
    listed = read_object(body, "a list of batches")
    if not isinstance(listed.get("data"), list):
        raise MalformedReply("no list of batches")
    jobs = tuple(map(job, objects_under(listed, "data")))
    return JobPage(jobs, jobs[-1].job_id if jobs and listed.get("has_more") is True else None)


class BatchApi(Protocol):
    """The batch API of a wire format: pure functions."""

    limits: JobLimits
    longest_h: int
    """Hours after which a job expires."""
    lists_jobs: bool
    """Whether `find` can be asked for."""
    has_whole_results: bool
    """Whether the answer to `results` is the result of the only line, which it does not name."""

    def begin(self, plan: JobPlan) -> JobCall:
        """Return the first request for making a job; raises `CannotCarry`."""
        ...

    def proceed(
        self, plan: JobPlan, call: JobCall, status: int, headers: Mapping[str, str], body: bytes
    ) -> JobCall | Job | Failure:
        """Return the next request for making a job, the job when it is made, or why it is not.

        Args:
            plan: The job to be made.
            call: The request that was answered.
            status: The HTTP status of the answer.
            headers: Of the answer, names in lower case.
            body: Of the answer.
        """
        ...

    def find(self, endpoint: Endpoint, page: str | None = None) -> JobCall:
        """Return the request for a page of the jobs, newest first."""
        ...

    def read_page(self, body: bytes) -> JobPage:
        """Read a page of the list; raises `MalformedReply`."""
        ...

    def poll(self, endpoint: Endpoint, job_id: str) -> JobCall:
        """Return the request for the description of a job."""
        ...

    def read_job(self, body: bytes) -> Job:
        """Read the description of a job; raises `MalformedReply`."""
        ...

    def cancel(self, endpoint: Endpoint, job_id: str) -> JobCall:
        """Return the request that cancels a job; the job is to be polled until it has ended."""
        ...

    def results(self, endpoint: Endpoint, job: Job) -> tuple[JobCall, ...]:
        """Return the requests for the results of a job that has ended: each is answered with lines."""
        ...

    def read_line(self, content: bytes) -> ResultLine:
        """Read one line of results; raises `MalformedReply`."""
        ...


def check_plan(plan: JobPlan) -> None:
    """Raise `CannotCarry` for a name or a request that no batch API takes."""
    if not _NAME.fullmatch(plan.name):
        raise CannotCarry(f"the name of a job is 1 to 50 of a-z A-Z 0-9 _ -, not {plan.name!r}")
    if any(body.get("stream") for body in plan.bodies):
        raise CannotCarry("a batch job cannot stream")


def unstreamed(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request body without the field that says that it is not to be streamed."""
    return {name: value for name, value in body.items() if name != "stream"}


def place_of(line_id: str, plan_name: str) -> int | None:
    """Return which line of a job has an id, from 0; None for an id that is not of this job."""
    found = _PLACE.search(line_id)
    return int(found[1]) if found is not None and line_id == f"{plan_name}-{int(found[1])}" else None


def split_lines(sizes: Sequence[int], limits: JobLimits) -> Iterator[range]:
    """Divide lines over jobs, in order: as many in each as fit.

    Args:
        sizes: Bytes of each line; one that is larger than a job may be gets a job of its own.
        limits: What a job can hold.
    """
    start = total = 0
    for at, size in enumerate(sizes):
        if at > start and (at - start >= limits.lines or total + size > limits.size):
            yield range(start, at)
            start, total = at, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))


def join_lines(lines: Sequence[Any]) -> bytes:
    """Encode values as the lines of a file."""
    return b"\n".join([*map(encode_json, lines), b""])
