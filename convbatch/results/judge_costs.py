"""Usage and cost of a run's judges, separate from the models' own calls and never part of their sums.

The judges' answers are in `run.verdicts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from convbatch.dataset.reader import count_of
from convbatch.journal.index import Archive, JudgeCall
from convbatch.journal.manifest import ManifestTarget
from convbatch.pricing import Money
from convbatch.results.columns import Column
from convbatch.results.conversations import judges_by_name
from convbatch.results.costs import paid_attempts, prices_of
from convbatch.results.run import Run
from convbatch.results.served import served_counts, served_notes
from convbatch.results.verdicts import read_judge_answer

JUDGES: tuple[Column, ...] = (
    Column("judge", "string", "`model@gateway`"),
    Column("questions", "Int64", "distinct questions"),
    Column("answered", "Int64", "of them"),
    Column("repairs", "Int64", "questions for the form of an answer that could not be read"),
    Column("without_verdict", "Int64", "answered questions that have no verdict even so"),
    Column("attempts", "Int64", "HTTP attempts, in all sessions"),
    Column("possibly_paid", "Int64", "attempts that were sent and not fully answered"),
    Column("input_tokens", "Int64", "sum of the known counts of its answers; null when none is known"),
    Column("output_tokens", "Int64", "as above"),
    Column("cost", "Float64", "of attempts whose cost is known; null when none is"),
    Column("at_most", "Float64", "upper bound of the others' cost; null when any of them has no bound"),
    Column("currency", "string", "of both; null when both are"),
)


class JudgeTotal(NamedTuple):
    """A judge's calls in one run; fields as `JUDGES`."""

    judge: str
    is_simulated: bool
    questions: int
    answered: int
    repairs: int
    without_verdict: int
    attempts: int
    possibly_paid: int
    input_tokens: int | None
    output_tokens: int | None
    cost: Decimal | None
    at_most: Decimal | None
    currency: str | None
    served_notes: tuple[str, ...] = ()
    """Which other models answered, with counts."""

    def __str__(self) -> str:
        name = f"judge {self.judge}{' (SIMULATED)' if self.is_simulated else ''}"
        questions = count_of(self.questions, "question")
        parts = [f"{name}: {questions}, {self.answered:,} answered"]
        if self.without_verdict:
            parts.append(f"{self.without_verdict:,} without a verdict")
        if self.repairs:
            parts.append(f"{count_of(self.repairs, 'repair question')}")
        parts.append(f"{self.attempts:,} attempts")
        if self.input_tokens is not None or self.output_tokens is not None:
            parts.append(f"{self.input_tokens or 0:,} input and {self.output_tokens or 0:,} output tokens")
        if self.cost is not None and self.currency is not None:
            parts.append(str(Money(amount=self.cost, currency=self.currency)))
        if self.possibly_paid:
            parts.append(f"{self.possibly_paid:,} possibly paid")
        return "; ".join([", ".join(parts), *self.served_notes])


def judge_totals(run: Run) -> list[JudgeTotal]:
    """Return the sums of every judge of a run, in the order they were first named."""
    if not run.manifest.judges:
        return []
    with Archive(run.folder) as archive:
        sums = {name: _JudgeSums(judge) for name, judge in judges_by_name(run.manifest, archive).items()}
        for calls in archive.judge_calls_by_conversation():
            of_turn = {(call.judge, call.turn, call.question): call for call in calls}
            for call in calls:
                sums[call.judge].add(call, of_turn)
    return [one.total() for one in sums.values()]


class _JudgeSums:
    def __init__(self, judge: ManifestTarget) -> None:
        self._judge = judge
        self._currency = None if judge.prices is None else judge.prices.currency
        self._served: Counter[str | None] = Counter()
        self._questions = self._answered = self._attempts = self._possibly_paid = 0
        self._repairs = self._without_verdict = 0
        self._tokens: dict[str, int | None] = {"input_tokens": None, "output_tokens": None}
        self._cost: Decimal | None = None
        self._at_most: Decimal | None = Decimal(0)

    def add(self, call: JudgeCall, of_turn: Mapping[tuple[str, int | None, str], JudgeCall]) -> None:
        """Count a call; `of_turn` has all calls about its conversation."""
        history = call.history
        if call.repairs is None:
            answer = read_judge_answer(lambda digest: of_turn.get((call.judge, call.turn, digest)), call.question)
            self._questions += 1
            self._answered += history.kept is not None
            self._without_verdict += answer.no_verdict is not None
        self._repairs += call.repairs is not None
        if history.kept is not None:
            self._served[history.kept["reply"].get("model_version")] += 1
        self._attempts += history.attempts
        self._possibly_paid += history.possibly_paid
        for outcome in history.outcomes:
            served = prices_of(self._judge, outcome)
            if self._currency is None and served is not None:
                self._currency = served.currency
            for name, count in outcome.get("reply", {}).get("usage", {}).items():
                if name in self._tokens:
                    self._tokens[name] = (self._tokens[name] or 0) + count
        for one in paid_attempts(history, self._judge):
            if one.cost is not None:
                self._cost = (self._cost or Decimal(0)) + one.cost
            else:
                self._at_most = None if self._at_most is None or one.bound is None else self._at_most + one.bound

    def total(self) -> JudgeTotal:
        return JudgeTotal(
            judge=self._judge.name,
            is_simulated=self._judge.simulated,
            questions=self._questions,
            answered=self._answered,
            repairs=self._repairs,
            without_verdict=self._without_verdict,
            attempts=self._attempts,
            possibly_paid=self._possibly_paid,
            input_tokens=self._tokens["input_tokens"],
            output_tokens=self._tokens["output_tokens"],
            cost=self._cost,
            at_most=self._at_most if self._judge.prices is not None else None,
            currency=self._currency,
            served_notes=tuple(served_notes(self._judge, served_counts(self._judge, self._served))),
        )
