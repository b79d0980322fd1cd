"""What the batch APIs of all providers share: requests and answers as values, ids, limits, and lines of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import orjson

from convbatch.simulator.batches.files import Files
from convbatch.simulator.batches.jobs import Job, JobLimits, Jobs, JobTimes, Line, MadeLine, MakeLine
from convbatch.simulator.draws import digest
from convbatch.simulator.fault_script import Rule
from convbatch.simulator.wire import RefusedRequest, Route, encode, refuse

JSON_LINES = "application/jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A request about jobs, files or background responses."""

    route: Route
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    at: float
    fault: Rule | None = None
    """A rule with the action `job`, for a creation."""

    @property
    def item(self) -> str:
        """The id in the path."""
        return self.route.item or ""

    @property
    def base_url(self) -> str:
        """Address of the server, as the client has it."""
        return f"http://{self.headers.get('host', 'localhost')}"

    def object(self, unreadable: str) -> dict[str, Any]:
        """Return the body as a JSON object; refuses any other."""
        try:
            plain = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            refuse("bad_request", unreadable)
        if not isinstance(plain, dict):
            refuse("bad_request", unreadable)
        return plain  # pyright: ignore[reportUnknownVariableType]  # its keys are checked by the provider


@dataclass(slots=True, kw_only=True)
class Served:
    """What a request is answered with."""

    content: bytes
    headers: dict[str, str] = field(default_factory=dict[str, str])
    """Besides the usual ones of the wire."""
    job_id: str | None = None
    model: str | None = None
    delivers: Sequence[MadeLine] = ()
    """The lines whose results are in the content."""


class JobService(Protocol):
    """The batch API of one provider, or its background responses."""

    def serve(self, request: JobRequest) -> Served:
        """Answer a request; raises `RefusedRequest`."""
        ...

    def model_of(self, request: JobRequest) -> str | None:
        """Return the model that a creation names; None if that cannot be read."""
        ...


class JobStore:
    """The jobs and files of a simulated provider, and the rules for all of them."""

    def __init__(self, make: MakeLine, *, times: JobTimes, limits: JobLimits, seed: int) -> None:
        """Start without any jobs; `make` answers a line."""
        self.jobs = Jobs(make)
        self.files = Files()
        self.times = times
        self.limits = limits
        self._seed = seed
        self._ids = 0

    def new_id(self, prefix: str) -> str:
        """Return an id that was not given before."""
        self._ids += 1
        return f"{prefix}{digest(self._seed, 'job', self._ids).hex()}"

    def enqueued(self, key: str, model: str | None, now: float) -> int:
        """Return the tokens of a key's jobs for a model that have not ended."""
        return sum(job.tokens for job in self.jobs.open_of(key, now) if job.model == model)

    def tokens_of(self, lines: Sequence[Line]) -> int:
        """Return the tokens of all lines, if their number is limited; unreadable lines have none."""
        return 0 if self.limits.enqueued_tokens is None else sum(_tokens(line) for line in lines)


def model_in(content: bytes, *path: str | int) -> str | None:
    """Return the name at a path of JSON, e.g. `"body", "model"`; None if there is none."""
    try:
        plain: Any = orjson.loads(content)
        for step in path:
            plain = plain[step]
    except (ValueError, TypeError, LookupError):
        return None
    return plain if isinstance(plain, str) else None


def _tokens(line: Line) -> int:
    try:
        spec = line.request.route.wire.parse_request(line.request.route, orjson.loads(line.request.body))
    except RefusedRequest:
        return 0
    return spec.parsed.input_tokens + spec.budgeted_output


def word_lines(lines: Sequence[Line], word: Callable[[Line, str], Any], *, cuts: bool = True) -> list[bytes]:
    """Return results, one for each line of a job unless a rule of the fault script says otherwise.

    Args:
        lines: The lines, in the order of the results.
        word: Gives the result of a line under a name.
        cuts: Whether a result may be cut in the middle: one that is a line of a file.
    """
    worded: list[bytes] = []
    for line in lines:
        kind = None if line.made is None else line.made.kind
        content = encode(word(line, line.name))
        if kind == "stray":
            worded.append(encode(word(line, f"stray-{line.name}")))
        if kind == "garbled" and cuts:
            content = content[: len(content) // 2]
        worded += [] if kind == "missing" else [content] * (2 if kind == "twice" else 1)
    return worded


def body_of(made: MadeLine) -> orjson.Fragment:
    """Return the body of a line's answer, byte for byte as a single request would get it."""
    return orjson.Fragment(made.answer.content)


def made_lines(lines: Sequence[Line]) -> list[MadeLine]:
    """Return what was made, without the lines that have been left out of the results."""
    return [line.made for line in lines if line.made is not None and line.made.kind != "missing"]


def rfc3339(seconds: float | None) -> str | None:
    """Return a time as RFC 3339 with microseconds."""
    return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def ends(job: Job, now: float) -> float | None:
    """Return when a job ended; None before."""
    return job.ending[0] if job.has_ended(now) else None
