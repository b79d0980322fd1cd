"""Prompt caching: which share of the input was cached, turn by turn, and what that saved."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from convbatch.pricing import exact
from convbatch.results.aggregate import CountedTurn
from convbatch.results.columns import Column


class CacheTotals:
    """The replies of one target to one turn that this run received."""

    def __init__(self) -> None:
        self.replies = 0
        self.input_tokens = 0
        """Of replies whose cached tokens are known."""
        self.cached: int | None = None
        self.written: int | None = None
        self.saved: dict[str, Decimal] = {}
        """By currency."""
        self.unpriced = 0
        """Replies with cached or written tokens whose saving is unknown."""

    def add(self, turn: CountedTurn) -> None:
        """Count a reply."""
        self.replies += 1
        cached, written = turn.cached_input_tokens, turn.cache_write_input_tokens
        if cached is not None and turn.input_tokens is not None:
            self.cached = (self.cached or 0) + cached
            self.input_tokens += turn.input_tokens
        if written is not None:
            self.written = (self.written or 0) + written
        if not (cached or written):
            return
        if turn.cache_saving is None or turn.currency is None:
            self.unpriced += 1
        else:
            self.saved[turn.currency] = self.saved.get(turn.currency, Decimal(0)) + exact(turn.cache_saving)

    @property
    def share(self) -> float | None:
        """Cached share of the input; None without a known count."""
        return self.cached / self.input_tokens if self.cached is not None and self.input_tokens else None


def _amount(source: tuple[str, int, CacheTotals]) -> float | None:
    saved = source[2].saved
    return float(next(iter(saved.values()))) if len(saved) == 1 else None


def _currency(source: tuple[str, int, CacheTotals]) -> str | None:
    saved = source[2].saved
    return next(iter(saved)) if len(saved) == 1 else None


def _row(name: str) -> Any:
    return lambda source: getattr(source[2], name)


CACHING: tuple[Column, ...] = (
    Column("target", "string", "`model@gateway`", lambda source: source[0]),
    Column("turn", "Int64", "from 1", lambda source: source[1]),
    Column("replies", "Int64", "replies received by this run", _row("replies")),
    Column("cached_input_tokens", "Int64", "sum of the known counts; null when none is known", _row("cached")),
    Column("cached_share", "Float64", "of the input of replies whose cached tokens are known; null when none is",
        _row("share")),
    Column("cache_write_input_tokens", "Int64", "sum of the known counts; null when none is known", _row("written")),
    Column("saved", "Float64", "against the same input without caching; negative when writes cost more; null when it "
        "is unknown, or in several currencies", _amount),
    Column("currency", "string", "of `saved`", _currency),
    Column("unpriced", "Int64", "replies with cached or written tokens whose saving is unknown: not in `saved`",
        _row("unpriced")),
)  # fmt: skip
"""Columns of the section `caching` after `run`; filled from (target, turn, `CacheTotals`)."""
