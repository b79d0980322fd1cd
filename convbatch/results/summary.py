"""The closing table of a run: one row per target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import repeat
from pathlib import Path

from convbatch.journal.manifest import ManifestTarget
from convbatch.results.aggregate import CountedTurn, GroupTotals, LatencySteps
from convbatch.results.cache import read_conversations, verdicts_beside
from convbatch.results.columns import STATUSES, Row
from convbatch.results.parquet import count_rows, read_rows
from convbatch.results.served import ServedCount, served_counts, served_notes
from convbatch.results.verdicts import dialogue_pass

_COUNTS = ("turns", "open", *STATUSES, "tokens_unknown", "attempts", "further_steps",
           "possibly_paid", "reused", "unpriced")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSummary:
    """Sums of one target's turns.

    Tokens, latencies and costs are of replies this run received itself, without reused ones.
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
    open: int
    """Turns without a result, which `resume` asks: pending ones, and failed ones that another attempt may mend."""
    input_tokens: int | None
    """Sum of the known counts; None when none is known."""
    output_tokens: int | None
    reasoning_tokens: int | None
    tokens_unknown: int
    """Replies whose input or output count is unknown, so not in the sums."""
    attempts: int
    further_steps: int
    """Model calls of replies beyond the first one of each turn."""
    possibly_paid: int
    reused: int
    p50_latency_s: float | None
    """Nearest rank, within 0.5 % (`aggregate.LatencySteps`)."""
    p95_latency_s: float | None
    spent: Decimal | None
    """Known cost of received replies and failed attempts; None when none is known."""
    currency: str | None
    """Currency of `spent` and `at_most`."""
    unpriced: int
    """Received replies whose cost is unknown, so not in `spent`."""
    at_most: Decimal | None
    """Upper bound of the possibly paid attempts' cost, beyond `spent`; None when any of them has no bound."""
    judged: int
    """Conversations that passed or failed: those with checks that are all judged."""
    passed: int
    undecided: int
    """Conversations with checks that neither passed nor failed yet."""
    served_notes: tuple[str, ...] = ()
    """Which other models answered, with counts."""
    served: tuple[ServedCount, ...] = ()
    """Replies by the model name in them, reused ones too."""
    finish: Mapping[str, int] = field(default_factory=dict[str, int])
    """Replies by finish reason, reused ones too; the most frequent first."""
    p50_ttft_s: float | None = None
    """Time to the first text of streamed replies, as `p50_latency_s`; None without a streamed one."""
    p95_ttft_s: float | None = None


def summarise(
    turns: Path, targets: Sequence[ManifestTarget], mask: Iterable[bool] | None = None
) -> list[TargetSummary]:
    """Sum up a `turns.parquet` and its `verdicts.parquet` by target, in the order of `targets`.

    Args:
        turns: The `turns.parquet`.
        targets: The targets of the run.
        mask: Whether each row of it counts; a conversation counts if one of its rows does. None: all.
    """
    sums = _EqualTurns({target.name: GroupTotals(LatencySteps()) for target in targets})
    if mask is None and not count_rows(verdicts_beside(turns)):
        for row in read_rows(turns, _FIELDS):
            sums.add(row)
    else:
        counts = repeat(True) if mask is None else iter(mask)
        for rows, verdicts in read_conversations(turns, _FIELDS):
            chosen = [row for row, does_count in zip(rows, counts, strict=False) if does_count]
            for row in chosen:
                sums.add(row)
            if verdicts and chosen:
                statuses = [row[_STATUS] for row in rows]
                passed = dialogue_pass(statuses, [verdict.passed for verdict in verdicts])
                sums.totals[rows[0][_TARGET]].add_conversation(passed)
    sums.flush()
    return [_summary(target, sums.totals[target.name]) for target in targets]


_OWN = {"dialogue_index": 0, "repeat": 1, "turn": 1, "dialogue": "", "tags": [], "started_at": None, "latency_s": None,
        "ttft_s": None, "chunks": None, "itl_p50_s": None}  # fmt: skip
"""Values of a turn that no sum here needs, or that are counted by themselves; most turns differ in nothing else."""
_SHARED = [name for name in CountedTurn._fields if name not in _OWN]
_FIELDS = (*_SHARED, "latency_s", "ttft_s", "dialogue_index", "repeat")
_KIND = slice(len(_SHARED))
_TARGET, _STATUS, _LATENCY, _TTFT = map(_FIELDS.index, ("target", "status", "latency_s", "ttft_s"))
_FINISH, _REUSED = map(_FIELDS.index, ("finish_reason", "reused_from"))
_MOST_KINDS = 50_000
"""Held at once."""


class _EqualTurns:
    """Counts equal turns first and adds each kind once, which is faster than turn by turn."""

    def __init__(self, totals: Mapping[str, GroupTotals]) -> None:
        self.totals = totals
        self._kinds: Counter[Row] = Counter()

    def add(self, row: Row) -> None:
        """Count a row with the columns `_FIELDS`."""
        self._kinds[row[_KIND]] += 1
        if row[_FINISH] is not None and row[_REUSED] is None:
            group = self.totals[row[_TARGET]]
            if row[_LATENCY] is not None:
                group.latencies.add(row[_LATENCY])
            if row[_TTFT] is not None:
                group.ttfts.add(row[_TTFT])
        if len(self._kinds) >= _MOST_KINDS:
            self.flush()

    def flush(self) -> None:
        """Add what was counted to the totals."""
        for kind, times in self._kinds.items():
            turn = CountedTurn(**_OWN, **dict(zip(_SHARED, kind, strict=True)))
            self.totals[turn.target].add(turn, times=times)
        self._kinds.clear()


def _summary(target: ManifestTarget, totals: GroupTotals) -> TargetSummary:
    """Return a target's row; a target has one currency, that of its prices."""
    currency = next((currency for amounts in totals.money.values() for currency in amounts), None)
    counts, money = totals.counts, totals.money
    served = tuple(served_counts(target, totals.served))
    return TargetSummary(
        target=target.name,
        simulated=target.simulated,
        **{name: counts[name] for name in _COUNTS},
        input_tokens=totals.tokens.get("input_tokens"),
        output_tokens=totals.tokens.get("output_tokens"),
        reasoning_tokens=totals.tokens.get("reasoning_tokens"),
        p50_latency_s=totals.latencies.percentile(0.50),
        p95_latency_s=totals.latencies.percentile(0.95),
        spent=money["spent"].get(currency or ""),
        currency=currency,
        at_most=None if counts["possibly_paid_unbounded"] else sum(money["possibly_paid_bound"].values(), Decimal(0)),
        judged=totals.passes[True] + totals.passes[False],
        passed=totals.passes[True],
        undecided=totals.passes[None],
        served_notes=tuple(served_notes(target, served)),
        served=served,
        finish=_finish_counts(totals),
        p50_ttft_s=totals.ttfts.percentile(0.50),
        p95_ttft_s=totals.ttfts.percentile(0.95),
    )


def _finish_counts(totals: GroupTotals) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for (reason, _), replies in totals.finish.items():
        counts[reason] += replies.total()
    return dict(counts.most_common())
