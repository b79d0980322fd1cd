"""What the records of a run say it cost: each attempt known exactly, bounded, or not at all.

The one place that decides it, for the tables and for a budget that goes on where an earlier session stopped. What a
count of tokens costs is `pricing.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from convbatch.journal.index import TurnHistory
from convbatch.pricing import PriceTable
from convbatch.reply import POSSIBLY_PAID, Usage, billed_usage


def target_prices(target: Mapping[str, Any]) -> PriceTable | None:
    """The prices a target of `run.json` was asked at; None when nobody named one, or before there were any."""
    plain = target.get("prices")
    return None if plain is None else PriceTable.from_plain(plain)


def attempt_cost(prices: PriceTable | None, outcome: Mapping[str, Any] | None) -> Decimal | None:
    """What an attempt cost by the tokens it reported, complete or not; None when that cannot be told."""
    if prices is None or outcome is None or outcome.get("started_at") is None:
        return None
    error = outcome.get("error", {})
    usage = outcome.get("reply", error).get("usage")
    if usage is None:
        return None
    return prices.cost(billed_usage(outcome["class"], error.get("kind"), Usage(**usage)), outcome["started_at"])


def attempt_cost_bound(prices: PriceTable | None, intent: Mapping[str, Any] | None) -> Decimal | None:
    """The most an attempt can have cost; None when nothing says how much it may have written."""
    if prices is None or intent is None or "most_input_tokens" not in intent or "max_output_tokens" not in intent:
        return None
    return prices.ceiling(intent["most_input_tokens"], intent["max_output_tokens"])


def find_intent(past: TurnHistory, attempt: int) -> dict[str, Any] | None:
    """The record written before an attempt left; None where it was lost."""
    return next((intent for intent in past.intents if intent["attempt"] == attempt), None)


class AttemptSpending(NamedTuple):
    """What one attempt cost that was or may have been paid."""

    cost: Decimal | None
    bound: Decimal | None = None
    """Where the cost is not known: the most it can have been; None when that is not known either."""


def paid_attempts(past: TurnHistory, prices: PriceTable | None) -> Iterator[AttemptSpending]:
    """Every attempt that was or may have been paid by this run."""
    for outcome in past.outcomes:
        if outcome["attempt"] == 0:
            continue  # taken over from another run
        cost = attempt_cost(prices, outcome)
        if cost is not None:
            yield AttemptSpending(cost)
        elif outcome["class"] == "replied" or outcome["class"] in POSSIBLY_PAID:
            yield AttemptSpending(None, attempt_cost_bound(prices, find_intent(past, outcome["attempt"])))
    for intent in past.open_intents:
        yield AttemptSpending(None, attempt_cost_bound(prices, intent))
