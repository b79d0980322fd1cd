"""Count the verdicts that a run lacks because a judge has still to answer, or has answered without a verdict.

Checks of a pending turn are not counted: its reply is missing, not a verdict about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from convbatch.checks.values import NEEDS_A_JUDGE
from convbatch.dataset.reader import count_of
from convbatch.results.parquet import read_rows
from convbatch.results.run import Run


class MissingVerdicts(NamedTuple):
    """Numbers of checks, by target and reason."""

    open: Counter[tuple[str, str]]
    """The judge was not asked, or has not answered: it may be asked."""
    refused: Counter[tuple[str, str]]
    """The judge has answered, and its answer is no verdict: it is asked again only on request."""

    def notes(self, targets: Collection[str]) -> Iterator[str]:
        """Yield a line for each of these targets and each reason of a missing verdict, the most frequent ones first."""
        for (target, why), count in (self.open + self.refused).most_common():
            if target in targets:
                yield f"{target}: {count_of(count, 'check')} without a verdict: {why}"


def missing_verdicts(run: Run) -> MissingVerdicts:
    """Count the missing verdicts of a run."""
    found = MissingVerdicts(Counter(), Counter())
    for target, kind, passed, reason, error in read_rows(
        run.verdicts_path, ("target", "kind", "passed", "reason", "error")
    ):
        if passed is not None or not kind.endswith(NEEDS_A_JUDGE):
            continue
        if error is not None:
            found.refused[target, error] += 1
        elif not reason.endswith(" is pending"):
            found.open[target, reason] += 1
    return found
