"""Matching of usage log lines with calls, by request id, else by model, time and tokens; each at most once.

The rules and tolerances are in docs/audit.md. Pure: `usage_log.py` provides the lines and calls and shows the pairs.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import attrgetter
from typing import Any, NamedTuple

from convbatch.reporting.usage_log_reader import UsageLogLine

TOLERANCE_S = 60.0
"""Maximum time of a line before the start or after the end of its call: clocks differ, logs round."""
CLOSE_S = 2.0
"""Pairs this close in time are preferred if their counts differ."""
LOST_S = 600.0
"""Assumed maximum duration of a call whose end is unknown."""
TOKENS_FACTOR = 2
TOKENS_APART = 16
"""If both counts differ, a line and a call of one model and time match only within this factor and distance."""
LOOKED_AT = 32
"""Number of calls before and after a line that are considered if its counts match none exactly."""

SAME = "same"
DIFFER = "tokens differ"
NOT_COMPARED = "billed, tokens not known"
OTHER_MODEL = "billed as another model"
NOT_BILLED = "known, not billed"
UNKNOWN = "billed, unknown to us"
LOST_BILLED = "possibly paid: billed"
LOST_FREE = "possibly paid: not billed"
FAILED_BILLED = "failed: billed"
FAILED_FREE = "failed: not billed"
OUTSIDE = "outside the runs' time"
OUTCOMES = (
    SAME, DIFFER, NOT_COMPARED, OTHER_MODEL, UNKNOWN, NOT_BILLED, LOST_BILLED, LOST_FREE, FAILED_BILLED, FAILED_FREE,
    OUTSIDE,
)  # fmt: skip


class CallId(NamedTuple):
    """What identifies a call in all runs."""

    run: str
    dialogue: str
    target: str
    repeat: int
    turn: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One attempt that reached, or may have reached, the gateway."""

    ident: CallId
    kind: str
    """`replied`, `lost` (possibly paid) or `failed`."""
    model: str
    begins: float
    ends: float
    """Latest possible end."""
    request_id: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost: Decimal | None
    currency: str | None

    @property
    def is_counted(self) -> bool:
        """Whether both counts are known."""
        return self.input_tokens is not None and self.output_tokens is not None

    def is_near(self, line: UsageLogLine) -> bool:
        """Return whether the time of a line fits this call."""
        return self.begins - TOLERANCE_S <= line.at <= self.ends + TOLERANCE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedPair:
    """A line and its call, or one of them alone."""

    line: UsageLogLine | None = None
    call: Call | None = None
    joined_by: str | None = None
    outcome: str


def join_lines_and_calls(lines: Iterable[UsageLogLine], calls: Iterable[Call]) -> list[JoinedPair]:
    """Return every line and call once, matched if possible; independent of the order of the arguments."""
    join = _Join(lines, calls)
    join.by_request_id()
    for may_join in join.rounds():
        for step in (_by_equal_tokens, _by_one_count, _by_like_tokens, *_BY_TIME):
            join.take(step, may_join)
    return join.result()


_Matches = Iterator[tuple[UsageLogLine, Call]]
_Eligibility = tuple[Callable[[UsageLogLine], bool], Callable[[Call], bool]]


class _Join:
    """The pairs so far, and the lines and calls that are left."""

    def __init__(self, lines: Iterable[UsageLogLine], calls: Iterable[Call]) -> None:
        # Sorted by content, so that the order in a file has no effect.
        self._lines = dict.fromkeys(sorted(lines, key=line_order))
        self._calls = dict.fromkeys(sorted(calls, key=lambda call: (call.begins, call.ident)))
        self._pairs: list[JoinedPair] = []
        self._ids_meet = False

    def by_request_id(self) -> None:
        """Join lines and calls with the same id; of several lines, the most similar one."""
        named = group_by(self._calls, attrgetter("request_id"))
        found: list[tuple[UsageLogLine, Call]] = []
        for line in self._lines:
            found += [(line, call) for call in named.get(line.request_id, ())] if line.request_id else []
        found.sort(key=lambda pair: (pair[0].model != pair[1].model, _token_distance(*pair), _seconds_apart(*pair)))
        self._ids_meet = bool(found)
        self._join(iter(found), "request id")

    def rounds(self) -> list[_Eligibility]:
        """Return which lines may be joined with which calls without a common id.

        If some ids matched, both sides use the same ids: a line with another id belongs to another call.
        """
        if not self._ids_meet:
            return [(_any, _any)]
        return [(_has_id, _has_no_id), (_has_no_id, _any)]

    def take(self, step: _Step, may_join: _Eligibility) -> None:
        """Join the matches of a step among the lines and calls that are left."""
        of_lines, of_calls = may_join
        lines = [line for line in self._lines if of_lines(line) and step.takes_line(line)]
        calls = [call for call in self._calls if of_calls(call) and step.takes_call(call)]
        if lines and calls:
            self._join(step.find(lines, calls), step.name)

    def result(self) -> list[JoinedPair]:
        """Return the pairs, and the unmatched lines and calls."""
        alone = [JoinedPair(line=line, outcome=UNKNOWN) for line in self._lines]
        alone += [JoinedPair(call=call, outcome=_ALONE[call.kind]) for call in self._calls]
        return [*self._pairs, *alone]

    def _join(self, found: _Matches, name: str) -> None:
        for line, call in found:
            if line in self._lines and call in self._calls:
                del self._lines[line], self._calls[call]
                self._pairs.append(JoinedPair(line=line, call=call, joined_by=name, outcome=_outcome(line, call)))


_ALONE = {"replied": NOT_BILLED, "lost": LOST_FREE, "failed": FAILED_FREE}


def _outcome(line: UsageLogLine, call: Call) -> str:
    if call.kind != "replied":
        return LOST_BILLED if call.kind == "lost" else FAILED_BILLED
    if line.model != call.model:
        return OTHER_MODEL
    counts = ((line.input_tokens, call.input_tokens), (line.output_tokens, call.output_tokens))
    if any(billed != ours for billed, ours in counts if billed is not None and ours is not None):
        return DIFFER
    return NOT_COMPARED if any(None in both for both in counts) else SAME


def _any(_: object) -> bool:
    return True


def _has_id(one: UsageLogLine | Call) -> bool:
    return one.request_id is not None


def _has_no_id(one: UsageLogLine | Call) -> bool:
    return one.request_id is None


def _is_counted(line: UsageLogLine) -> bool:
    return line.input_tokens is not None and line.output_tokens is not None


@dataclass(frozen=True, slots=True)
class _Step:
    """One way to match the lines and calls that are left."""

    name: str
    takes_line: Callable[[UsageLogLine], bool]
    takes_call: Callable[[Call], bool]
    find: Callable[[Sequence[UsageLogLine], Sequence[Call]], _Matches]


def _in_time(key: Callable[[UsageLogLine | Call], Any]) -> Callable[[Sequence[UsageLogLine], Sequence[Call]], _Matches]:
    """Match as many lines and calls with equal keys as possible: each line with the call whose time ends first."""

    def find(lines: Sequence[UsageLogLine], calls: Sequence[Call]) -> _Matches:
        groups = group_by(calls, key)
        for value, mine in group_by(lines, key).items():
            waiting = list(reversed(groups.get(value, [])))  # by begin; the next one last
            open_calls: list[tuple[float, int, Call]] = []
            for number, line in enumerate(mine):
                while waiting and waiting[-1].begins - TOLERANCE_S <= line.at:
                    call = waiting.pop()
                    heapq.heappush(open_calls, (call.ends, len(waiting), call))
                while open_calls and open_calls[0][0] + TOLERANCE_S < line.at:
                    heapq.heappop(open_calls)
                if open_calls:
                    yield mine[number], heapq.heappop(open_calls)[2]

    return find


def _most_similar(
    *keys: Callable[[UsageLogLine | Call], Any],
) -> Callable[[Sequence[UsageLogLine], Sequence[Call]], _Matches]:
    """Match lines and calls with any equal key that are close in time, the most similar pairs first."""

    def find(lines: Sequence[UsageLogLine], calls: Sequence[Call]) -> _Matches:
        ended = sorted(calls, key=attrgetter("ends"))
        groups = [(key, group_by(ended, key)) for key in keys]
        found: list[tuple[tuple[bool, int, float], UsageLogLine, Call]] = []
        for line in lines:
            for key, those in groups:
                near = _around(those.get(key(line), []), line)
                found += [(_dissimilarity(line, call), line, call) for call in near]
        found.sort(key=lambda one: one[0])
        return ((line, call) for _, line, call in found)

    return find


def _around(calls: Sequence[Call], line: UsageLogLine) -> Iterator[Call]:
    """Yield the calls that ended closest to a line and may be its own."""
    middle = bisect.bisect_left(calls, line.at, key=attrgetter("ends"))
    for call in calls[max(0, middle - LOOKED_AT) : middle + LOOKED_AT]:
        if call.is_near(line) and _is_alike(line, call):
            yield call


_by_equal_tokens = _Step(
    "time and tokens",
    _is_counted,
    attrgetter("is_counted"),
    _in_time(attrgetter("model", "input_tokens", "output_tokens")),
)
_by_one_count = _Step(
    "time and tokens",
    _is_counted,
    attrgetter("is_counted"),
    _most_similar(attrgetter("model", "input_tokens"), attrgetter("model", "output_tokens")),
)
_by_like_tokens = _Step("time and tokens", _is_counted, attrgetter("is_counted"), _most_similar(attrgetter("model")))
_BY_TIME = (
    _Step("time", _any, lambda call: call.kind == "replied" and not call.is_counted, _in_time(attrgetter("model"))),
    _Step(
        "time", lambda line: not _is_counted(line), lambda call: call.kind == "replied", _in_time(attrgetter("model"))
    ),
    _Step("time", _any, lambda call: call.kind == "lost" and not call.is_counted, _in_time(attrgetter("model"))),
    _Step("time", _any, lambda call: call.kind == "failed" and not call.is_counted, _in_time(attrgetter("model"))),
)


def _is_alike(line: UsageLogLine, call: Call) -> bool:
    """Return whether one count is equal, or both are close."""
    counts = ((line.input_tokens or 0, call.input_tokens or 0), (line.output_tokens or 0, call.output_tokens or 0))
    if any(billed == ours for billed, ours in counts):
        return True
    return all(max(both) <= TOKENS_FACTOR * min(both) + TOKENS_APART for both in counts)


def _token_distance(line: UsageLogLine, call: Call) -> int:
    """Return the difference in tokens, of the counts that are known on both sides."""
    counts = ((line.input_tokens, call.input_tokens), (line.output_tokens, call.output_tokens))
    return sum(abs(billed - ours) for billed, ours in counts if billed is not None and ours is not None)


def _seconds_apart(line: UsageLogLine, call: Call) -> float:
    return max(call.begins - line.at, line.at - call.ends, 0.0)


def _dissimilarity(line: UsageLogLine, call: Call) -> tuple[bool, int, float]:
    seconds = _seconds_apart(line, call)
    return (seconds > CLOSE_S, _token_distance(line, call), seconds)


def line_order(line: UsageLogLine) -> tuple[Any, ...]:
    """Return a sort key: content first, line number last."""
    counts = tuple(-1 if count is None else count for count in (line.input_tokens, line.output_tokens))
    return (line.at, line.model, line.request_id or "", *counts, line.amount or Decimal(0), line.line)


def group_by(them: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """Group items by a key, in their order."""
    groups: dict[Any, list[Any]] = {}
    for one in them:
        groups.setdefault(key(one), []).append(one)
    return groups
