"""What the records of a run say it cost: each attempt known exactly, bounded, or not at all.

The one place that decides it, for the tables and for a budget that goes on where an earlier session stopped. What a
count of tokens costs is `pricing.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from convbatch.archive import Transcript, TurnHistory
from convbatch.pricing import PriceTable
from convbatch.reply import POSSIBLY_PAID, Usage, billed_usage


def prices_of(target: Mapping[str, Any]) -> PriceTable | None:
    """The prices a target of `run.json` was asked at; None when nobody named one, or before there were any."""
    plain = target.get("prices")
    return None if plain is None else PriceTable.from_plain(plain)


def cost_of(prices: PriceTable | None, outcome: Mapping[str, Any] | None) -> Decimal | None:
    """What an attempt cost by the tokens it reported, complete or not; None when that cannot be told."""
    if prices is None or outcome is None or outcome.get("started_at") is None:
        return None
    error = outcome.get("error", {})
    usage = outcome.get("reply", error).get("usage")
    if usage is None:
        return None
    return prices.cost(billed_usage(outcome["class"], error.get("kind"), Usage(**usage)), outcome["started_at"])


def bound_of(prices: PriceTable | None, intent: Mapping[str, Any] | None) -> Decimal | None:
    """The most an attempt can have cost; None when nothing says how much it may have written."""
    if prices is None or intent is None or "most_input_tokens" not in intent or "max_output_tokens" not in intent:
        return None
    return prices.ceiling(intent["most_input_tokens"], intent["max_output_tokens"])


def intent_of(past: TurnHistory, attempt: int) -> dict[str, Any] | None:
    """The record written before an attempt left; None where it was lost."""
    return next((intent for intent in past.intents if intent["attempt"] == attempt), None)


def most_spent(transcript: Transcript, prices: PriceTable) -> Iterator[Decimal | None]:
    """For each attempt that was or may have been paid: what it cost, else the most it can have cost, else None."""
    for past in transcript.turns.values():
        for outcome in past.outcomes:
            if outcome["attempt"] == 0:
                continue  # taken over from another run
            cost = cost_of(prices, outcome)
            if cost is None and (outcome["class"] == "replied" or outcome["class"] in POSSIBLY_PAID):
                yield bound_of(prices, intent_of(past, outcome["attempt"]))
            elif cost is not None:
                yield cost
        for intent in past.open_intents:
            yield bound_of(prices, intent)
