"""The closing table of a run: one row per target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from convbatch.pricing import exact
from convbatch.results.cache import read_conversations
from convbatch.results.columns import STATUSES, Row
from convbatch.results.rows import is_uncounted, sum_known
from convbatch.results.verdicts import dialogue_pass

_LATENCY_STEP = math.log(1.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSummary:
    """What became of one target's turns.

    Tokens and latencies are of the replies this run received itself: reused ones are not its spend.
    """

    target: str
    simulated: bool
    turns: int
    ok: int
    blocked: int
    empty: int
    error: int
    skipped: int
    pending: int
    input_tokens: int | None
    """Sum of the known counts; None when none is known."""
    output_tokens: int | None
    reasoning_tokens: int | None
    tokens_unknown: int
    """Replies whose input or output count is unknown, so missing in the sums."""
    attempts: int
    possibly_paid: int
    reused: int
    p50_latency_s: float | None
    """Nearest rank, within 0.5 %: latencies are counted in steps of 1 %, so that memory does not grow with the run."""
    p95_latency_s: float | None
    spent: Decimal | None
    """What the replies received and the failed attempts cost, as far as it is known; None when nothing is."""
    currency: str | None
    """Of `spent` and `at_most`."""
    unpriced: int
    """Replies received whose cost is unknown, so missing in `spent`."""
    at_most: Decimal | None
    """What the possibly paid attempts can have cost beyond `spent`; None when that is unknown of any."""
    judged: int
    """Conversations that passed or failed: those with checks, and all of them judged."""
    passed: int
    undecided: int
    """Conversations with checks that neither passed nor failed yet."""


class _TargetCounts:
    """One target's row of the closing table, turn by turn, in memory that does not grow with the turns."""

    READS = (
        "target", "status", "finish_reason", "input_tokens", "output_tokens", "reasoning_tokens", "attempts",
        "possibly_paid", "latency_s", "reused_from", "dialogue_index", "repeat", "cost", "currency", "failed_cost",
        "possibly_paid_bound",
    )  # fmt: skip

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._tokens: dict[str, int | None] = {"input_tokens": None, "output_tokens": None, "reasoning_tokens": None}
        self._latencies: Counter[int] = Counter()
        self._spent: Decimal | None = None
        self._at_most: Decimal | None = Decimal(0)
        self._currency: str | None = None
        self._passes: Counter[bool | None] = Counter()

    def add_conversation(self, passed: bool | None) -> None:
        """Count a conversation that has checks."""
        self._passes[passed] += 1

    def add(self, row: Row) -> None:
        """Count a turn; `row` has the columns `READS`."""
        _, status, finish_reason, given, taken, reasoning, attempts, possibly_paid, latency_s, reused_from, *more = row
        cost, currency, failed_cost, bound = more[2:]
        self._counts.update((status, "turns"))
        self._counts["attempts"] += attempts
        self._counts["possibly_paid"] += possibly_paid
        self._currency = currency or self._currency
        self._spend(failed_cost)
        if possibly_paid:
            self._at_most = None if self._at_most is None or bound is None else self._at_most + exact(bound)
        if reused_from is not None:
            self._counts["reused"] += 1
        elif finish_reason is not None:
            self._spend(cost)
            self._counts["unpriced"] += cost is None
            self._counts["tokens_unknown"] += is_uncounted(finish_reason, given, taken)
            for name, count in zip(self._tokens, (given, taken, reasoning), strict=True):
                self._tokens[name] = sum_known((self._tokens[name], count))
            if latency_s is not None:
                self._latencies[math.floor(math.log(max(latency_s, 1e-6)) / _LATENCY_STEP)] += 1

    def _spend(self, cost: float | None) -> None:
        if cost is not None:
            self._spent = (self._spent or Decimal(0)) + exact(cost)

    def close(self, target: Mapping[str, Any]) -> TargetSummary:
        """What was counted."""
        counted = ("turns", *STATUSES, "tokens_unknown", "attempts", "possibly_paid", "reused", "unpriced")
        return TargetSummary(
            target=target["name"],
            simulated=target["simulated"],
            p50_latency_s=self._latency(0.50),
            p95_latency_s=self._latency(0.95),
            spent=self._spent,
            currency=self._currency,
            at_most=self._at_most,
            judged=self._passes[True] + self._passes[False],
            passed=self._passes[True],
            undecided=self._passes[None],
            **self._tokens,
            **{name: self._counts[name] for name in counted},
        )

    def _latency(self, share: float) -> float | None:
        due = math.ceil(share * self._latencies.total())
        for step, count in sorted(self._latencies.items()):
            due -= count
            if due <= 0:
                return math.exp((step + 0.5) * _LATENCY_STEP)
        return None


def summarise(path: Path, meta: Mapping[str, Any]) -> list[TargetSummary]:
    """Sum up a `turns.parquet` by target."""
    tallies = {target["name"]: _TargetCounts() for target in meta["targets"]}
    for rows, verdicts in read_conversations(path, _TargetCounts.READS):
        mine = tallies[rows[0][0]]
        for row in rows:
            mine.add(row)
        if verdicts:
            mine.add_conversation(dialogue_pass([row[1] for row in rows], [verdict.passed for verdict in verdicts]))
    return [tallies[target["name"]].close(target) for target in meta["targets"]]
