"""Batch jobs while they run, as values: a job, its lines, and what earlier sessions left of them; and their records.

The order in which the records of a job are written is the whole protocol with a later session. `asked` comes with the
`intent` records of the lines, before anything is sent; `creating` before the one request that may cost anything; `made`
with the provider's id before the first poll. `ended`, `unmade` and `lost` come when every line has its outcome.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from convbatch.engine.budget import Reservation
from convbatch.reply import Attempt

JobState = Literal["asked", "creating", "made", "ended", "unmade", "lost"]
OPEN_STATES: frozenset[str] = frozenset({"asked", "creating", "made"})
_SLUG_CHARS = 20


class LineResult(NamedTuple):
    """What came of a line."""

    attempt: Attempt
    job: str | None = None
    """Name of its job; None if the request could not be built."""
    job_s: float | None = None
    """From the creation of the job to the reading of its results."""
    sent_at: float = 0.0
    """Monotonic seconds."""
    give_up: str | None = None
    """Why the turn is not asked again in this session; None: as after any other attempt."""
    is_unmade: bool = False
    """Whether the job was not made: nothing was asked, and the request goes into another job."""


@dataclass(slots=True, eq=False, kw_only=True)
class JobLine:
    """One request, from the moment it is waiting for a job."""

    intent: dict[str, Any]
    """Its `intent` record, once it has a job with `job` and `line`."""
    future: asyncio.Future[LineResult]
    body: Mapping[str, Any] | None = None
    """Of the request; None once its job is made."""
    size: int = 0
    """Bytes of the body."""
    reply_size: int = 0
    """Bytes that its result may have."""
    note: str | None = None
    reservation: Reservation | None = None
    is_claimed: bool = True
    """Whether a conversation waits for it; those of earlier sessions are claimed when their turn comes."""
    is_stored: bool = False

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Which request it is: dialogue, repeat, turn, step."""
        return place_of_intent(self.intent)


def place_of_intent(intent: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Return which request an `intent` record is of: dialogue, repeat, turn, step."""
    return intent["index"], intent["repeat"], intent["turn"], intent.get("step", 1)


@dataclass(slots=True, eq=False, kw_only=True)
class OpenJob:
    """A job that has not ended, or whose results are not stored."""

    name: str
    wave: int
    lines: list[JobLine]
    size: int
    """Number of its lines when it was asked for; of an earlier session's, some may be stored already."""
    asked_at: float
    """Unix seconds."""
    creating_at: float | None = None
    """Unix seconds of the latest creation that was sent; None before it."""
    state: JobState = "asked"
    job_id: str | None = None
    made_at: float | None = None
    """Unix seconds; None before it is made."""
    sent_at: float = 0.0
    """Monotonic seconds."""
    done: int | None = None
    """Lines that have ended, as the provider says."""
    word: str = ""
    """The provider's word for its state."""
    waits_for: str | None = None
    """Why it is not made yet."""
    polls_at: float | None = None
    """Monotonic seconds of the next poll."""
    left: int = 0
    """Lines whose outcome is not durable."""
    all_stored: asyncio.Event = field(default_factory=asyncio.Event)
    keeps_open: bool = False
    """Whether a result could not be stored: the job stays open for another session."""

    def stored(self, line: JobLine) -> None:
        """Count a line whose outcome is durable."""
        if not line.is_stored:
            line.is_stored = True
            self.left -= 1
            if self.left <= 0:
                self.all_stored.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierJob:
    """A job that an earlier session left open."""

    name: str
    target: str
    wave: int
    size: int
    asked_at: float
    creating_at: float | None
    state: JobState
    job_id: str | None
    made_at: float | None
    intents: Sequence[Mapping[str, Any]]
    """Of its lines that have no outcome, each with `job` and `line`."""


def job_record(job: OpenJob, target: str, state: JobState, **more: Any) -> dict[str, Any]:
    """Return the `job` record of a state."""
    record: dict[str, Any] = {
        "kind": "job",
        "job": job.name,
        "target": target,
        "wave": job.wave,
        "lines": job.size,
        "job_state": state,
    }
    if job.job_id is not None:
        record["job_id"] = job.job_id
    return {**record, **more}


def fold_jobs(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the records of each job that is open, by name, in order."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(record["job"], []).append(record)
    return {name: each for name, each in found.items() if each[-1]["job_state"] in OPEN_STATES}


def job_name(run: str, wave: int, draw: str) -> str:
    """Return a name for a job that no other one has: at most 50 of `a-z A-Z 0-9 - _`.

    Args:
        run: Name of the run.
        wave: Number of the wave.
        draw: 8 random hex digits: copies of a run folder have the same run and wave.
    """
    slug = re.sub(r"[^a-zA-Z0-9]+", "-", run).strip("-")
    if len(slug) > _SLUG_CHARS:
        slug = f"{slug[: _SLUG_CHARS - 7]}-{hashlib.sha256(run.encode()).hexdigest()[:6]}"
    return f"{slug or 'run'}-w{wave}-{draw}"
