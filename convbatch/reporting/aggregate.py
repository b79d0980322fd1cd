"""The turns and attempts of a run, told together and summed up: what was received, failed, waited and paid.

One pass in the order of the tables; a sum leaves out what is not known, and counts it. Money is decimal, by currency.
Which groups there are and what the sums are called is `report.py`.
"""

from __future__ import annotations

import math
import statistics
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from convbatch.pricing import exact
from convbatch.results.columns import ATTEMPTS, Row
from convbatch.results.parquet import read_rows
from convbatch.results.run import Run

TOKENS = ("input_tokens", "cached_input_tokens", "cache_write_input_tokens", "output_tokens", "reasoning_tokens")


class ReportedTurn(NamedTuple):
    """A row of `turns`, as far as a report needs it."""

    dialogue_index: int
    target: str
    repeat: int
    turn: int
    dialogue: str
    model: str
    gateway: str
    tags: list[str]
    status: str
    finish_reason: str | None
    finish_reason_raw: str | None
    input_tokens: int | None
    cached_input_tokens: int | None
    cache_write_input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    cost: float | None
    currency: str | None
    attempts: int
    possibly_paid: int
    latency_s: float | None
    started_at: datetime | None
    error_kind: str | None
    error_message: str | None
    reused_from: str | None

    @property
    def is_received(self) -> bool:
        """Did this run itself receive a reply that counts?"""
        return self.finish_reason is not None and self.reused_from is None


class ReportedAttempt(NamedTuple):
    """A row of `attempts`, likewise."""

    dialogue_index: int
    target: str
    repeat: int
    turn: int
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
        """Did its answer report what it used?"""
        return any(count is not None for count in (self.input_tokens, self.output_tokens, self.total_tokens))


_PLACE = itemgetter(0, 1, 2, 3)
_COLUMNS = [column.name for column in ATTEMPTS]
_ROLE = _COLUMNS.index("role")
_ATTEMPT_CELLS = itemgetter(*(_COLUMNS.index(name) for name in ReportedAttempt._fields))


def turns_with_attempts(run: Run) -> Iterator[tuple[ReportedTurn, list[ReportedAttempt], ReportedAttempt | None]]:
    """Every turn with its attempts, and which of them gave the reply that counts."""
    mine = (row for row in run.attempt_rows().rows if row[_ROLE] == "model")
    attempts = groupby((ReportedAttempt(*_ATTEMPT_CELLS(row)) for row in mine), key=_PLACE)
    due = next(attempts, None)
    for row in read_rows(run.turns_path, ReportedTurn._fields):
        turn = ReportedTurn(*row)
        while due is not None and due[0] < _PLACE(turn):
            due = next(attempts, None)
        made: list[ReportedAttempt] = []
        if due is not None and due[0] == _PLACE(turn):
            made = list(due[1])
            due = next(attempts, None)
        yield turn, made, _find_kept(turn, made)


def _find_kept(turn: ReportedTurn, attempts: Sequence[ReportedAttempt]) -> ReportedAttempt | None:
    if not turn.is_received:
        return None
    replied = (one for one in reversed(attempts) if one.finish_reason is not None and one.started_at == turn.started_at)
    return next(replied, None)


def _kind_of(one: ReportedAttempt) -> str | None:
    """What was wrong with an attempt that gave no reply that counts; None for one that may still be answered."""
    if one.error_kind is not None:
        return one.error_kind
    if one.finish_reason is not None:
        return "malformed_output"  # only a generation that broke is asked again
    return "lost" if one.possibly_paid else None


@dataclass(slots=True)
class _ErrorGroup:
    """One kind of error in one group."""

    attempts: int = 0
    turns: int = 0
    pending: int = 0
    example: str | None = None

    def remember(self, message: str | None) -> None:
        """Keep the first message."""
        if self.example is None and message:
            self.example = " ".join(message.split())[:160]


class GroupTotals:
    """The sums of one group."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.money: defaultdict[str, dict[str, Decimal]] = defaultdict(dict)
        self.waits: dict[str, float] = {}
        self.finish: defaultdict[tuple[str, str | None], Counter[str]] = defaultdict(Counter)
        """By finish reason, in our word and the gateway's."""
        self.errors: defaultdict[str, _ErrorGroup] = defaultdict(_ErrorGroup)
        self._latencies = array("d")

    def add(self, turn: ReportedTurn, attempts: Iterable[ReportedAttempt], kept: ReportedAttempt | None) -> None:
        """Count a turn."""
        self.counts.update((turn.status, "turns"))
        self.counts["attempts"] += turn.attempts
        self.counts["retries"] += max(0, turn.attempts - 1)
        self.counts["possibly_paid"] += turn.possibly_paid
        if turn.reused_from is not None:
            self.counts["reused"] += 1
            self._pay("reused_cost", turn.cost, turn.currency)
        elif turn.is_received:
            self._add_reply(turn)
        if turn.finish_reason is not None:
            whose = "reused" if turn.reused_from is not None else "replies"
            self.finish[turn.finish_reason, turn.finish_reason_raw][whose] += 1
        if turn.error_kind is not None:
            self._add_end(turn, kept)
        for one in attempts:
            self._add_attempt(one, one is kept)

    def _add_end(self, turn: ReportedTurn, kept: ReportedAttempt | None) -> None:
        """A turn that has failed, or has yet to be answered after a failure."""
        trouble = self.errors[str(turn.error_kind)]
        trouble.turns += turn.status == "error"
        trouble.pending += turn.status == "pending"
        trouble.attempts += kept is not None
        trouble.remember(turn.error_message)

    def _add_reply(self, turn: ReportedTurn) -> None:
        self.counts["received"] += 1
        self.counts["tokens_unknown"] += turn.input_tokens is None or turn.output_tokens is None
        for name in TOKENS:
            count = getattr(turn, name)
            if count is not None:
                self.tokens[name] += count
        self.counts["unpriced"] += turn.cost is None
        self._pay("cost", turn.cost, turn.currency)
        if turn.latency_s is not None:
            self._latencies.append(turn.latency_s)

    def _add_attempt(self, one: ReportedAttempt, is_kept: bool) -> None:
        for name in ("limiter_wait_s", "retry_wait_s"):
            if getattr(one, name) is not None:
                self.waits[name] = self.waits.get(name, 0.0) + getattr(one, name)
        if is_kept:
            return
        kind = _kind_of(one)
        if kind is not None:
            self.errors[kind].attempts += 1
            self.errors[kind].remember(one.error_message)
        if one.is_counted:
            self.counts["failed_attempts_billed"] += 1
            self.counts["failed_unpriced"] += one.cost is None
            self._pay("failed_cost", one.cost, one.currency)
        if one.possibly_paid and one.cost is None:
            self.counts["possibly_paid_unknown"] += 1
            self.counts["possibly_paid_unbounded"] += one.cost_bound is None
            self._pay("possibly_paid_bound", one.cost_bound, one.currency)

    def _pay(self, name: str, amount: float | None, currency: str | None) -> None:
        if amount is not None and currency is not None:
            for amounts in (self.money[name], *([self.money["spent"]] if name in ("cost", "failed_cost") else [])):
                amounts[currency] = amounts.get(currency, Decimal(0)) + exact(amount)

    def latency(self, share: float) -> float | None:
        """Nearest rank."""
        if not self._latencies:
            return None
        return sorted(self._latencies)[math.ceil(share * len(self._latencies)) - 1]


class Sizes:
    """Input tokens of one target's replies to one turn of its dialogues."""

    def __init__(self) -> None:
        self.known = array("q")
        self.unknown = 0

    def add(self, input_tokens: int | None) -> None:
        """Count a reply."""
        if input_tokens is None:
            self.unknown += 1
        else:
            self.known.append(input_tokens)

    def cells(self) -> Row:
        """`replies` to `tokens_unknown` of `GROWTH`."""
        if not self.known:
            return self.unknown, None, None, None, self.unknown
        total, middle = sum(self.known), statistics.median(self.known)
        return len(self.known) + self.unknown, total, total / len(self.known), float(middle), self.unknown
