"""Sums of turns and attempts: what was received, failed, waited and paid.

The one aggregator of the closing table (`summary.py`, a group a target) and the report (any groups). Unknown values are
left out of a sum and counted. Money is decimal, by currency.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from convbatch.pricing import exact
from convbatch.reply import is_open

TOKENS = ("input_tokens", "cached_input_tokens", "cache_write_input_tokens", "output_tokens", "reasoning_tokens")
_LATENCY_STEP = math.log(1.01)


class CountedTurn(NamedTuple):
    """A row of `turns`, as far as sums need it."""

    dialogue_index: int
    target: str
    repeat: int
    turn: int
    dialogue: str
    model: str
    gateway: str
    variant: str | None
    tags: list[str]
    status: str
    finish_reason: str | None
    finish_reason_raw: str | None
    input_tokens: int | None
    cached_input_tokens: int | None
    cache_write_input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    steps: int | None
    cost: float | None
    currency: str | None
    cache_saving: float | None
    failed_cost: float | None
    possibly_paid_bound: float | None
    possibly_paid_unbounded: int
    attempts: int
    possibly_paid: int
    model_version: str | None
    latency_s: float | None
    started_at: datetime | None
    error_kind: str | None
    error_message: str | None
    reused_from: str | None
    ttft_s: float | None
    chunks: int | None
    itl_p50_s: float | None

    @property
    def is_received(self) -> bool:
        """Whether this run itself received the final reply."""
        return self.finish_reason is not None and self.reused_from is None


class CountedAttempt(NamedTuple):
    """A row of `attempts`, as far as sums need it."""

    dialogue_index: int
    target: str
    repeat: int
    turn: int
    kept: bool
    possibly_paid: bool
    finish_reason: str | None
    error_kind: str | None
    error_message: str | None
    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int | None
    cost: float | None
    cost_bound: float | None
    currency: str | None
    limiter_wait_s: float | None
    retry_wait_s: float | None
    started_at: datetime | None

    @property
    def is_counted(self) -> bool:
        """Whether its answer reported usage."""
        return any(count is not None for count in (self.input_tokens, self.output_tokens, self.total_tokens))


class Latencies:
    """Latencies with exact percentiles, 8 bytes each."""

    def __init__(self) -> None:
        self._values = array("d")

    def __len__(self) -> int:
        """Return the number of replies."""
        return len(self._values)

    def add(self, latency_s: float) -> None:
        """Count one reply."""
        self._values.append(latency_s)

    def percentile(self, share: float) -> float | None:
        """Nearest rank; None without a reply."""
        if not self._values:
            return None
        return sorted(self._values)[math.ceil(share * len(self._values)) - 1]


class LatencySteps:
    """Latencies counted in steps of 1 %, in memory that does not grow; percentiles are right within 0.5 %."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        """Return the number of replies."""
        return self._counts.total()

    def add(self, latency_s: float) -> None:
        """Count one reply."""
        self._counts[math.floor(math.log(max(latency_s, 1e-6)) / _LATENCY_STEP)] += 1

    def percentile(self, share: float) -> float | None:
        """Nearest rank; None without a reply."""
        due = math.ceil(share * self._counts.total())
        for step, count in sorted(self._counts.items()):
            due -= count
            if due <= 0:
                return math.exp((step + 0.5) * _LATENCY_STEP)
        return None


def _kind_of(attempt: CountedAttempt) -> str | None:
    """Error kind of an attempt without a final reply; None where it may still get one."""
    if attempt.error_kind is not None:
        return attempt.error_kind
    if attempt.finish_reason is not None:  # a step of an unfinished turn, or a generation that failed
        return "malformed_output" if attempt.finish_reason == "error" else None
    return "lost" if attempt.possibly_paid else None


@dataclass(slots=True)
class ErrorGroup:
    """One kind of error in one group."""

    attempts: int = 0
    turns: int = 0
    pending: int = 0
    example: str | None = None

    def remember(self, message: str | None) -> None:
        """Keep the first message as the example."""
        if self.example is None and message:
            self.example = " ".join(message.split())[:160]


class GroupTotals:
    """The sums of one group.

    Attributes:
        counts: Turns by status and the counts of turns, attempts and replies, by column name of the report.
        tokens: Of replies this run received, by `TOKENS`; a name without any known count is absent.
        money: By kind of cost, then by currency; `spent` = `cost` + `failed_cost`.
        waits: Seconds, by column name; absent without a finished attempt.
        finish: Replies by finish reason, ours and the gateway's own.
        served: Replies, reused ones too, by the model name in them; None without one.
        errors: By error kind.
        passes: Conversations with checks by whether they passed; None = undecided.
        latencies: Of replies this run received.
        ttfts: Times to the first text, of streamed replies this run received.
    """

    def __init__(self, latencies: Latencies | LatencySteps | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.money: defaultdict[str, dict[str, Decimal]] = defaultdict(dict)
        self.waits: dict[str, float] = {}
        self.finish: defaultdict[tuple[str, str | None], Counter[str]] = defaultdict(Counter)
        self.served: Counter[str | None] = Counter()
        self.errors: defaultdict[str, ErrorGroup] = defaultdict(ErrorGroup)
        self.passes: Counter[bool | None] = Counter()
        self.latencies = Latencies() if latencies is None else latencies
        self.ttfts = type(self.latencies)()

    def add_conversation(self, passed: bool | None) -> None:
        """Count a conversation that has checks."""
        self.passes[passed] += 1

    def add(
        self,
        turn: CountedTurn,
        attempts: Sequence[CountedAttempt] | None = None,
        *,
        times: int = 1,
    ) -> None:
        """Count a turn.

        Args:
            turn: Its row.
            attempts: Its attempts, to be counted one by one; None: count only the sums that its row has of them.
            times: Number of such turns; more than one only without attempts.
        """
        self.counts[turn.status] += times
        self.counts["turns"] += times
        self.counts["open"] += times * is_open(turn.status, turn.error_kind)
        self.counts["attempts"] += times * turn.attempts
        self.counts["further_steps"] += 0 if turn.reused_from is not None else times * ((turn.steps or 1) - 1)
        self.counts["retries"] += times * max(0, turn.attempts - (turn.steps or 1))
        self.counts["possibly_paid"] += times * turn.possibly_paid
        if turn.reused_from is not None:
            self.counts["reused"] += times
            self._pay("reused_cost", turn.cost, turn.currency, times)
        elif turn.is_received:
            self._add_reply(turn, times)
        if turn.finish_reason is not None:
            whose = "reused" if turn.reused_from is not None else "replies"
            self.finish[turn.finish_reason, turn.finish_reason_raw][whose] += times
            self.served[turn.model_version] += times
        if turn.error_kind is not None:
            self._add_end(turn, attempts or (), times)
        if attempts is None:
            self._add_attempt_sums(turn, times)
        else:
            for attempt in attempts:
                self._add_attempt(attempt)

    def _add_end(self, turn: CountedTurn, attempts: Sequence[CountedAttempt], times: int) -> None:
        """Count the error of a turn that failed or is pending after a failure."""
        group = self.errors[str(turn.error_kind)]
        group.turns += times * (turn.status == "error")
        group.pending += times * (turn.status == "pending")
        group.attempts += any(attempt.kept for attempt in attempts)
        group.remember(turn.error_message)

    def _add_reply(self, turn: CountedTurn, times: int) -> None:
        self.counts["received"] += times
        self.counts["tokens_unknown"] += times * (turn.input_tokens is None or turn.output_tokens is None)
        for name in TOKENS:
            count = getattr(turn, name)
            if count is not None:
                self.tokens[name] += times * count
        self.counts["unpriced"] += times * (turn.cost is None)
        self._pay("cost", turn.cost, turn.currency, times)
        if turn.latency_s is not None:
            self.latencies.add(turn.latency_s)
        if turn.ttft_s is not None:
            self.ttfts.add(turn.ttft_s)

    def _add_attempt_sums(self, turn: CountedTurn, times: int) -> None:
        self._pay("failed_cost", turn.failed_cost, turn.currency, times)
        self._pay("possibly_paid_bound", turn.possibly_paid_bound, turn.currency, times)
        self.counts["possibly_paid_unbounded"] += times * turn.possibly_paid_unbounded

    def _add_attempt(self, attempt: CountedAttempt) -> None:
        for name in ("limiter_wait_s", "retry_wait_s"):
            if getattr(attempt, name) is not None:
                self.waits[name] = self.waits.get(name, 0.0) + getattr(attempt, name)
        if attempt.kept:
            return
        kind = _kind_of(attempt)
        if kind is not None:
            self.errors[kind].attempts += 1
            self.errors[kind].remember(attempt.error_message)
        if attempt.is_counted:
            self.counts["failed_attempts_billed"] += 1
            self.counts["failed_unpriced"] += attempt.cost is None
            self._pay("failed_cost", attempt.cost, attempt.currency)
        if attempt.possibly_paid and attempt.cost is None:
            self.counts["possibly_paid_unknown"] += 1
            self.counts["possibly_paid_unbounded"] += attempt.cost_bound is None
            self._pay("possibly_paid_bound", attempt.cost_bound, attempt.currency)

    def _pay(self, name: str, amount: float | None, currency: str | None, times: int = 1) -> None:
        if amount is not None and currency is not None:
            for amounts in (self.money[name], *([self.money["spent"]] if name in ("cost", "failed_cost") else [])):
                amounts[currency] = amounts.get(currency, Decimal(0)) + times * exact(amount)
