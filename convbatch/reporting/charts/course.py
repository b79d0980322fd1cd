"""The course of a run: how many requests were in flight or waited, what failed, and where it was stopped and resumed.

Time is that of the sessions with requests, one after the other: the time between them is left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from convbatch.reporting.aggregate import TurnAttempt

BINS = 60


class Session(NamedTuple):
    """A part of a run between its start, or a resume, and its stop."""

    start: float
    """Unix seconds, as `end`."""
    end: float
    reason: str | None
    """Why it ended; None: it was killed, or still runs."""


class Span(NamedTuple):
    """What one attempt took, in Unix seconds: it backed off, waited in the limiter, and was in flight."""

    backoff_from: float
    waited_from: float
    sent_at: float
    ended_at: float | None
    """None: lost, so nobody saw its end."""
    failed: bool
    is_retry: bool
    pause_s: float
    """For how long the server asked to wait; 0 if it did not."""


@dataclass(frozen=True, slots=True)
class Course:
    """A run in bins of equal length."""

    sessions: Sequence[Session]
    bin_s: float
    in_flight: Sequence[float]
    """Mean number of requests, as the two that follow."""
    limiter: Sequence[float]
    backoff: Sequence[float]
    failed: Sequence[int]
    """Number of attempts that ended without a reply."""
    retries: Sequence[int]
    """Number of attempts sent after a failure."""
    paused_s: Sequence[float]
    """Seconds within a wait that a server asked for."""
    unended: int = 0
    """Lost attempts: in no sum of requests in flight."""

    @property
    def seconds(self) -> float:
        """Length of all sessions."""
        return sum(session.end - session.start for session in self.sessions)

    def begins(self, number: int) -> float:
        """Return the Unix time at which a bin begins."""
        left = number * self.bin_s
        for session in self.sessions:
            length = session.end - session.start
            if left < length:
                break
            left -= length
        else:
            return self.sessions[-1].end
        return session.start + left


@dataclass(slots=True)
class RunCourse:
    """Collects the attempts of a run."""

    runs: Sequence[Mapping[str, Any]]
    """The `run` records of its journal."""
    stops: Sequence[Mapping[str, Any]]
    spans: list[Span] = field(default_factory=list[Span])

    def add(self, attempts: Iterable[TurnAttempt]) -> None:
        """Add the attempts of a turn, in their order."""
        failed = False
        for attempt in attempts:
            span = _span(attempt, is_retry=failed)
            if span is not None:
                self.spans.append(span)
                failed = span.failed or span.ended_at is None

    def course(self, bins: int = BINS) -> Course:
        """Return the course of all attempts that were added."""
        sessions = list(_sessions(self.runs, self.stops, self.spans))
        clock = _Clock(sessions, bins)
        pauses = _union((span.ended_at, span.ended_at + span.pause_s) for span in self.spans
                        if span.ended_at is not None and span.pause_s > 0)  # fmt: skip
        return Course(
            sessions=sessions,
            bin_s=clock.bin_s,
            in_flight=clock.means((span.sent_at, span.ended_at) for span in self.spans if span.ended_at is not None),
            limiter=clock.means((span.waited_from, span.sent_at) for span in self.spans),
            backoff=clock.means((span.backoff_from, span.waited_from) for span in self.spans),
            failed=clock.counts(span.ended_at for span in self.spans if span.failed and span.ended_at is not None),
            retries=clock.counts(span.sent_at for span in self.spans if span.is_retry),
            paused_s=[mean * clock.bin_s for mean in clock.means(pauses)],
            unended=sum(span.ended_at is None for span in self.spans),
        )


def _span(attempt: TurnAttempt, *, is_retry: bool) -> Span | None:
    counted, record = attempt.counted, attempt.source.record
    if attempt.source.started_at is None:
        return None
    sent_at = attempt.source.started_at
    waited_from = sent_at - (counted.limiter_wait_s or 0.0)
    latency_s = record.get("latency_s")
    return Span(
        backoff_from=waited_from - (counted.retry_wait_s or 0.0),
        waited_from=waited_from,
        sent_at=sent_at,
        ended_at=None if latency_s is None else sent_at + latency_s,
        failed=counted.finish_reason is None and latency_s is not None,
        is_retry=is_retry,
        pause_s=attempt.source.failure.get("retry_after_s") or 0.0,
    )


def _sessions(
    runs: Sequence[Mapping[str, Any]], stops: Sequence[Mapping[str, Any]], spans: Sequence[Span]
) -> Iterator[Session]:
    """Yield the sessions with attempts; one that was killed ends with the last thing known of it."""
    starts = [run["at"] for run in runs]
    last: dict[int, float] = {}
    for span in spans:
        number = max(0, bisect_right(starts, span.sent_at) - 1)
        last[number] = max(last.get(number, 0.0), span.ended_at or span.sent_at)
    for number, known in sorted(last.items()):
        start = starts[number] if starts else known
        following = starts[number + 1] if number + 1 < len(starts) else float("inf")
        stop = next((stop for stop in stops if start <= stop["at"] <= following), None)
        end = known if stop is None else max(stop["at"], known)
        yield Session(start, max(start, min(end, following)), None if stop is None else str(stop["reason"]))


class _Clock:
    """Puts times into bins of the sessions' time."""

    def __init__(self, sessions: Sequence[Session], bins: int) -> None:
        self._starts = [session.start for session in sessions]
        self._lengths = [session.end - session.start for session in sessions]
        self._before = [sum(self._lengths[:number]) for number in range(len(sessions))]
        total = sum(self._lengths)
        self.bins = bins if total > 0 else 0
        self.bin_s = total / bins

    def _place(self, moment: float) -> float:
        """Return the number of bins before a moment."""
        number = max(0, bisect_right(self._starts, moment) - 1)
        within = min(max(0.0, moment - self._starts[number]), self._lengths[number])
        return (self._before[number] + within) / self.bin_s

    def means(self, intervals: Iterable[tuple[float, float]]) -> list[float]:
        """Return for each bin how many intervals it is in, on average."""
        partial, whole = [0.0] * (self.bins + 1), [0] * (self.bins + 1)
        for begin, end in intervals if self.bins else ():
            first, last = self._place(begin), self._place(end)
            one, other = int(first), int(last)
            if one == other:
                partial[one] += last - first
            else:
                partial[one] += one + 1 - first
                partial[other] += last - other
                whole[one + 1] += 1
                whole[other] -= 1
        found: list[float] = []
        running = 0
        for number in range(self.bins):
            running += whole[number]
            found.append(max(0.0, partial[number] + running))
        return found

    def counts(self, moments: Iterable[float]) -> list[int]:
        """Return for each bin how many moments are in it."""
        found = [0] * self.bins
        for moment in moments if self.bins else ():
            found[min(int(self._place(moment)), self.bins - 1)] += 1
        return found


def _union(intervals: Iterable[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yield intervals that cover the same time and do not overlap."""
    begin = end = None
    for start, stop in sorted(intervals):
        if begin is None or end is None or start > end:
            if begin is not None and end is not None:
                yield begin, end
            begin, end = start, stop
        else:
            end = max(end, stop)
    if begin is not None and end is not None:
        yield begin, end
