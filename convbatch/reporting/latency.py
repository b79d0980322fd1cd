"""Times of streamed replies: how long until the first text, and how fast it comes.

The first turn of a dialogue is counted apart: later ones have a longer history, which may be in the provider's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convbatch.results.aggregate import CountedTurn, Latencies
from convbatch.results.columns import Column


class StreamTotals:
    """The streamed replies of one target that this run received."""

    def __init__(self) -> None:
        self.replies = 0
        self.first_ttft = Latencies()
        self.later_ttft = Latencies()
        self.gaps = Latencies()
        self._tokens = 0
        self._seconds = 0.0

    def add(self, turn: CountedTurn) -> None:
        """Count a reply."""
        self.replies += 1
        if turn.ttft_s is not None:
            (self.first_ttft if turn.turn == 1 else self.later_ttft).add(turn.ttft_s)
        if turn.itl_p50_s is not None:
            self.gaps.add(turn.itl_p50_s)
        if turn.output_tokens is not None and turn.latency_s is not None:
            self._tokens += turn.output_tokens
            self._seconds += turn.latency_s

    @property
    def output_tokens_per_s(self) -> float | None:
        """Output tokens by the time of their replies; None without a count, or without time."""
        return self._tokens / self._seconds if self._seconds > 0 else None


def _of(value: Callable[[StreamTotals], Any]) -> Callable[[Any], Any]:
    return lambda source: value(source[1])


STREAMS: tuple[Column, ...] = (
    Column("target", "string", "`model@gateway`", lambda source: source[0]),
    Column("replies", "Int64", "streamed replies received by this run", _of(lambda s: s.replies)),
    Column("p50_ttft_first_s", "Float64", "median time to the first text of turn 1; null without one",
        _of(lambda s: s.first_ttft.percentile(0.50))),
    Column("p95_ttft_first_s", "Float64", "as `p50_ttft_first_s`", _of(lambda s: s.first_ttft.percentile(0.95))),
    Column("p50_ttft_later_s", "Float64", "median time to the first text of later turns; null without one",
        _of(lambda s: s.later_ttft.percentile(0.50))),
    Column("p95_ttft_later_s", "Float64", "as `p50_ttft_later_s`", _of(lambda s: s.later_ttft.percentile(0.95))),
    Column("p50_itl_s", "Float64", "median of the replies' `itl_p50_s`; null without one",
        _of(lambda s: s.gaps.percentile(0.50))),
    Column("output_tokens_per_s", "Float64", "output tokens, reasoning included, by the latency of their replies; "
        "null when no count is known", _of(lambda s: s.output_tokens_per_s)),
)  # fmt: skip
"""Columns of the section `streams` after `run`; filled from (target, `StreamTotals`)."""
