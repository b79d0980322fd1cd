"""The course of a batch job, the same for all providers: its lines, how far it is at a time, and how it ends.

Pure. Nothing happens by itself: `advance` makes the replies that are due by a time, in an order of its own. A line is
made, and billed, before its job ends; what is not made by then is expired or cancelled, and free. How a provider words
all this, and which of it can be fetched, is decided by the module named after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from convbatch.simulator.draws import draw
from convbatch.simulator.fault_script import Rule
from convbatch.simulator.http import Answer
from convbatch.simulator.wire import Route, refuse

Phase = Literal["waiting", "running", "finishing", "cancelling", "done", "failed", "expired", "cancelled"]
LineEnd = Literal["made", "expired", "cancelled"]

DAY_S = 86_400.0
HALF_PRICE = 0.5
_END_BY_RULE: Mapping[str | None, LineEnd] = {"expired": "expired", "cancelled": "cancelled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTimes:
    """How long a job takes, in seconds; tests shorten the windows."""

    validate_s: float = 0.05
    """Until its lines are read."""
    run_s: float = 0.5
    """From then until the last line is made."""
    finish_s: float = 0.05
    """From then until it can be fetched."""
    cancel_s: float = 0.05
    """From a request to cancel until it ends; lines that are due within this time are still made."""
    window_s: float | None = None
    """From creation until it expires; None: as long as at the provider."""
    keep_s: float | None = None
    """How long its results can be fetched; None: as long as at the provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """What one job may hold, and one key; None: as much as at the provider."""

    lines: int | None = None
    size: int | None = None
    """Bytes of its input."""
    jobs: int | None = None
    """Jobs of a key that have not ended."""
    enqueued_tokens: int | None = None
    """Tokens of the lines, of all jobs of a key and model that have not ended; without a value there is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMark:
    """What marks a reply as one of a job."""

    job_id: str
    price: float = HALF_PRICE
    """As a share of the usual price."""
    reply_id: str | None = None
    """The id of the reply; None: as of any other reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRequest:
    """The generation request of a line."""

    route: Route
    key: str
    body: bytes
    mark: JobMark


@dataclass(slots=True, kw_only=True)
class MadeLine:
    """What came of a line."""

    answer: Answer
    """Its status and body; ended when the reply is delivered."""
    fault: Rule | None = None
    """A rule with the action `line`."""
    tokens: tuple[int, int, int] = (0, 0, 0)
    """Input, output, reasoning."""

    @property
    def succeeded(self) -> bool:
        """Whether there is a reply."""
        return self.answer.status == 200

    @property
    def kind(self) -> str | None:
        """The option `kind` of the action `line`."""
        return None if self.fault is None else str(self.fault.options["kind"])


MakeLine = Callable[[LineRequest, float], MadeLine]


@dataclass(slots=True, kw_only=True)
class Line:
    """One request of a job."""

    name: str
    """Its id in the job, given by the client."""
    request: LineRequest
    metadata: Mapping[str, Any] | None = None
    """What comes back with its result."""
    due_at: float = math.inf
    made: MadeLine | None = None
    end: LineEnd | None = None


@dataclass(slots=True, kw_only=True)
class Job:
    """A job, from its creation on."""

    job_id: str
    key: str
    model: str | None
    created_at: float
    times: JobTimes
    window_s: float
    lines: Sequence[Line]
    problems: Sequence[Mapping[str, Any]] = ()
    """What is wrong with its input, in the provider's words; a job with problems fails."""
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What its creation said that comes back in its description."""
    fault: Rule | None = None
    """A rule with the action `job`."""
    tokens: int = 0
    """Of all lines; counted only where the number of enqueued tokens is limited."""
    cancel_at: float | None = None

    def __post_init__(self) -> None:
        order = sorted(range(len(self.lines)), key=lambda at: draw("line", self.job_id, at))
        for rank, at in enumerate(order, 1):
            self.lines[at].due_at = self.started_at + self.times.run_s * rank / len(order)
        self.lines = tuple(self.lines)

    @property
    def kind(self) -> str | None:
        """The option `kind` of the action `job`."""
        return None if self.fault is None else str(self.fault.options["kind"])

    @property
    def started_at(self) -> float:
        """When its lines have been read."""
        return self.created_at + self.times.validate_s

    @property
    def expires_at(self) -> float:
        """When it ends at the latest."""
        return self.created_at + self.window_s

    @property
    def worked_at(self) -> float:
        """When its last line is due."""
        return math.inf if self.kind == "stall" else self.started_at + self.times.run_s

    @property
    def stop(self) -> tuple[float, LineEnd]:
        """When no more lines are made, and what becomes of the others."""
        stops: list[tuple[float, LineEnd]] = [(self.expires_at, "expired")]
        if self.fault is not None and self.kind in ("expire", "cancel"):
            half_way = self.started_at + self.times.run_s * self.fault.options["share"]
            stops.append((half_way, "expired" if self.kind == "expire" else "cancelled"))
        if self.cancel_at is not None:
            stops.append((self.cancel_at + self.times.cancel_s, "cancelled"))
        return min(stops)

    @property
    def fails(self) -> bool:
        """Whether its input is refused."""
        return bool(self.problems) or self.kind == "fail"

    @property
    def ending(self) -> tuple[float, Phase]:
        """When and how it ends, as far as is known now."""
        stop_at, how = self.stop
        done_at = self.worked_at + self.times.finish_s
        if self.fails and self.started_at <= stop_at:
            return self.started_at, "failed"
        if done_at <= stop_at:
            return done_at, "done"
        return stop_at, "expired" if how == "expired" else "cancelled"

    def phase(self, now: float) -> Phase:
        """Return how far it is."""
        ended_at, how = self.ending
        if now >= ended_at:
            return how
        if self.cancel_at is not None:
            return "cancelling"
        if now < self.started_at:
            return "waiting"
        return "running" if now < self.worked_at else "finishing"

    def has_ended(self, now: float) -> bool:
        """Return whether it has ended."""
        return now >= self.ending[0]

    def advance(self, make: MakeLine, now: float) -> None:
        """Make the lines that are due."""
        if self.fails:
            return
        stop_at, how = self.stop
        most = min(now, stop_at)
        due = [] if self.kind == "stall" else [line for line in self.lines if line.end is None and line.due_at <= most]
        for line in sorted(due, key=lambda line: line.due_at):
            line.made = make(line.request, line.due_at)
            line.end = _END_BY_RULE.get(line.made.kind, "made")
        if now >= stop_at:
            for line in self.lines:
                line.end = line.end or how

    def request_cancel(self, now: float) -> None:
        """Stop it soon; a second request changes nothing."""
        if self.cancel_at is None:
            self.cancel_at = now

    def made_in_order(self) -> list[Line]:
        """Return the lines in the order in which they came to an end, not that of the input."""
        return sorted(self.lines, key=lambda line: (line.end != "made", line.due_at))


def count_lines(job: Job) -> dict[str, int]:
    """Return how many lines have succeeded, failed, expired, been cancelled, or have not ended."""
    counts: dict[str, int] = {"succeeded": 0, "failed": 0, "expired": 0, "cancelled": 0, "open": 0}
    for line in job.lines:
        if line.end == "made" and line.made is not None:
            counts["succeeded" if line.made.succeeded else "failed"] += 1
        else:
            counts[line.end or "open"] += 1
    return counts


class Jobs:
    """The jobs of one provider, newest last; each is seen by its own key only."""

    def __init__(self, make: MakeLine) -> None:
        """Start without any; `make` answers a line."""
        self._make = make
        self._jobs: dict[str, Job] = {}

    def add(self, job: Job) -> None:
        """Take up a job."""
        self._jobs[job.job_id] = job

    def advance(self, now: float) -> None:
        """Make the lines of all jobs that are due."""
        for job in self._jobs.values():
            job.advance(self._make, now)

    def find(self, job_id: str, key: str, now: float, *, otherwise: str) -> Job:
        """Return a job as it is now; refuses an unknown one, one of another key, and one that has vanished."""
        job = self._jobs.get(job_id)
        if job is None or job.key != key or job.kind == "vanish":
            refuse("no_path", otherwise)
        job.advance(self._make, now)
        return job

    def has(self, job_id: str) -> bool:
        """Return whether there is a job with this id, of any key."""
        return job_id in self._jobs

    def model_of(self, job_id: str) -> str | None:
        """Return the model of a job; None for an unknown one."""
        job = self._jobs.get(job_id)
        return None if job is None else job.model

    def of_key(self, key: str) -> list[Job]:
        """Return the jobs of a key, newest first."""
        return [job for job in reversed(self._jobs.values()) if job.key == key and job.kind != "vanish"]

    def forget(self, job: Job) -> None:
        """Delete a job; what was made is billed all the same."""
        del self._jobs[job.job_id]

    def open_of(self, key: str, now: float) -> list[Job]:
        """Return the jobs of a key that have not ended."""
        return [job for job in self._jobs.values() if job.key == key and not job.has_ended(now)]


def page(jobs: Sequence[Job], *, after: str | None, limit: int) -> tuple[Sequence[Job], bool]:
    """Return the jobs after one with an id, and whether there are more."""
    ids = [job.job_id for job in jobs]
    start = ids.index(after) + 1 if after in ids else 0
    return jobs[start : start + limit], start + limit < len(jobs)


def shown_limit(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    """Return how many entries of a list are asked for."""
    asked = query.get(name, "")
    return max(1, min(int(asked), most)) if asked.isdecimal() else default
