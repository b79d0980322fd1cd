"""The verdicts of a run by target: counts, the mean score, and every failed check with its reason.

The mean score is that of `compare`: a dialogue is the unit, whatever its number of turns and checks.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from convbatch.results.filters import EVERYTHING, Filters, Matcher
from convbatch.results.rows import StoredVerdict
from convbatch.results.run import Run
from convbatch.results.verdicts import sum_verdicts


class FailedCheck(NamedTuple):
    """A check that failed, in the order of the table."""

    dialogue: str
    turn: int | None
    """None: a check on the whole dialogue."""
    target: str
    repeat: int
    check: str
    reason: str


@dataclass(slots=True)
class VerdictCounts:
    """Counts of the verdicts of one target."""

    passed: int = 0
    failed: int = 0
    open: int = 0
    errors: int = 0
    score: float | None = None
    """Mean over dialogues of the mean over their turns and, as one more value, their own checks; None without any."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why there is no verdict."""


def count_verdicts(run: Run, filters: Filters = EVERYTHING) -> dict[str, VerdictCounts]:
    """Count the verdicts of every target that has any."""
    counts: dict[str, VerdictCounts] = {}
    for target, passed, reason, error in Matcher(filters).verdicts(run, ("target", "passed", "reason", "error")):
        count = counts.setdefault(target, VerdictCounts())
        if passed is None:
            count.open += 1
            count.reasons["a turn is pending" if reason.endswith(" is pending") else error or reason] += 1
            continue
        count.passed += passed
        count.failed += not passed
        count.errors += error is not None
    for target, score in mean_scores(run, filters).items():
        if target in counts:
            counts[target].score = score
    return counts


def failed_checks(run: Run, filters: Filters = EVERYTHING) -> Iterator[FailedCheck]:
    """Yield every failed check."""
    for passed, *row in Matcher(filters).verdicts(run, ("passed", *FailedCheck._fields)):
        if passed is False:
            yield FailedCheck(*row)


def mean_scores(run: Run, filters: Filters = EVERYTHING) -> dict[str, float]:
    """Return the mean score of each target that has one; dialogues with a pending turn are left out."""
    scores: defaultdict[str, list[float]] = defaultdict(list)
    conversations = Matcher(filters).conversations(run, StoredVerdict._fields)
    for (_, target), repeats in groupby(conversations, key=lambda pair: pair[0][0][:2]):
        by_scope: defaultdict[int | None, list[float]] = defaultdict(list)
        is_pending = False
        for turns, rows in repeats:
            is_pending |= any(turn.status == "pending" for turn in turns)
            verdicts = [StoredVerdict(*row) for row in rows]
            for turn, some in groupby(verdicts, key=itemgetter(0)):
                score = sum_verdicts((one.passed, one.score, one.weight) for one in some).score
                by_scope[turn].extend([] if score is None else [score])
        if not is_pending and any(by_scope.values()):
            scores[target].append(_mean(_mean(found) for found in by_scope.values() if found))
    return {target: _mean(values) for target, values in scores.items()}


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known)
