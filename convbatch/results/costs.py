"""Costs of attempts by their journal records: known exactly, bounded, or unknown.

The one place that decides this, for the tables and for a budget that continues from an earlier session. What a number
of tokens costs is `pricing.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from convbatch.journal.index import TurnHistory
from convbatch.journal.manifest import ManifestTarget
from convbatch.pricing import CostParts, PriceTable, priced_name
from convbatch.reply import POSSIBLY_PAID, Usage, billed_usage
from convbatch.served_model import match_served


def prices_of(target: ManifestTarget, outcome: Mapping[str, Any]) -> PriceTable | None:
    """Return the prices of an attempt: of the model that served its reply where they are known, else of the asked one.

    The session that received the reply looked them up and stored them in its record, so they do not change later.
    An attempt by a batch job has them in its record in any case.
    """
    if "job" in outcome:
        return _batch_prices_of(target, outcome)
    reply = outcome.get("reply", {})
    for served in (priced_name(_served_name(outcome), reply.get("service_tier")), _served_name(outcome)):
        if served is not None and served in target.served_prices:
            return target.served_prices[served]
    return PriceTable.from_plain(outcome["prices"]) if "prices" in outcome else target.prices


def _batch_prices_of(target: ManifestTarget, outcome: Mapping[str, Any]) -> PriceTable | None:
    if "prices" in outcome and not target.is_repriced:
        return PriceTable.from_plain(outcome["prices"])
    served = _served_name(outcome)
    if served is None or served == target.model or served not in target.served_prices:
        return target.batch_prices
    prices = target.served_prices[served]
    return None if prices is None else prices.as_batch()


def price_source(target: ManifestTarget, outcome: Mapping[str, Any]) -> str | None:
    """Return the source of an attempt's prices; names the served model if another one was priced, None if unpriced."""
    prices, served = prices_of(target, outcome), _served_name(outcome)
    if prices is None:
        return None
    source = prices.source_at(outcome["started_at"])
    if "job" in outcome or prices is not target.prices or not served:
        return source
    is_known = match_served(target.model, served, target.gateway.aliases) in ("same", "dated", "alias")
    return source if is_known else f"{source}; served by {served}, priced as {target.model}"


def _served_name(outcome: Mapping[str, Any]) -> str | None:
    return outcome.get("reply", {}).get("model_version")


def attempt_cost(target: ManifestTarget | None, outcome: Mapping[str, Any] | None) -> Decimal | None:
    """Return the cost of an attempt by the usage it reported, complete or not; None when it is unknown."""
    if target is None or outcome is None or outcome.get("started_at") is None:
        return None
    prices = prices_of(target, outcome)
    if prices is None:
        return None
    error = outcome.get("error", {})
    usage = outcome.get("reply", error).get("usage")
    if usage is None:
        return None
    return prices.cost(billed_usage(outcome["class"], error.get("kind"), Usage(**usage)), outcome["started_at"])


def reply_cost_parts(target: ManifestTarget, outcome: Mapping[str, Any]) -> CostParts | None:
    """Return the cost of a reply by kind of token; None when its cost is unknown."""
    prices, usage = prices_of(target, outcome), outcome.get("reply", {}).get("usage")
    if prices is None or usage is None or outcome.get("started_at") is None:
        return None
    return prices.cost_parts(billed_usage(outcome["class"], None, Usage(**usage)), outcome["started_at"])


def cache_saving(target: ManifestTarget, outcome: Mapping[str, Any]) -> Decimal | None:
    """Return what prompt caching saved of the cost of a reply; None when its cost is unknown, or nothing was cached."""
    prices, usage = prices_of(target, outcome), outcome.get("reply", {}).get("usage")
    if prices is None or usage is None or outcome.get("started_at") is None:
        return None
    return prices.cache_saving(Usage(**usage), outcome["started_at"])


def attempt_cost_bound(target: ManifestTarget | None, intent: Mapping[str, Any] | None) -> Decimal | None:
    """Return the upper bound of an attempt's cost; None without a price or a limit on its tokens."""
    if target is None or intent is None:
        return None
    prices = target.batch_prices if "job" in intent else target.prices
    if prices is None or "most_input_tokens" not in intent or "max_output_tokens" not in intent:
        return None
    return prices.ceiling(intent["most_input_tokens"], intent["max_output_tokens"])


def find_intent(past: TurnHistory, attempt: int) -> dict[str, Any] | None:
    """Return the record written before an attempt was sent; None where it is lost."""
    return next((intent for intent in past.intents if intent["attempt"] == attempt), None)


class AttemptSpending(NamedTuple):
    """Cost of one attempt that was or may have been paid."""

    cost: Decimal | None
    bound: Decimal | None = None
    """Upper bound where the cost is unknown; None when there is no bound either."""


def paid_attempts(past: TurnHistory, target: ManifestTarget | None) -> Iterator[AttemptSpending]:
    """Yield every attempt that this run paid or may have paid; without a target, no cost is known."""
    for outcome in past.outcomes:
        if outcome["attempt"] == 0:
            continue  # reused from another run
        cost = attempt_cost(target, outcome)
        if cost is not None:
            yield AttemptSpending(cost)
        elif outcome["class"] == "replied" or outcome["class"] in POSSIBLY_PAID:
            yield AttemptSpending(None, attempt_cost_bound(target, find_intent(past, outcome["attempt"])))
    for intent in past.open_intents:
        yield AttemptSpending(None, attempt_cost_bound(target, intent))


def used_tokens(past: TurnHistory) -> Iterator[tuple[int | None, bool]]:
    """Yield the tokens of every attempt that was or may have been paid, and whether they are only an upper bound.

    None where there is no bound.
    """
    for outcome in _made(past):
        error = outcome.get("error", {})
        usage = Usage(**outcome.get("reply", error).get("usage") or {})
        tokens = billed_usage(outcome["class"], error.get("kind"), usage).all_tokens
        if tokens is not None:
            yield tokens, False
        elif outcome["class"] == "replied" or outcome["class"] in POSSIBLY_PAID:
            yield _token_bound(find_intent(past, outcome["attempt"])), True
    for intent in past.open_intents:
        yield _token_bound(intent), True


def sent_attempts(past: TurnHistory) -> Iterator[tuple[int, bool]]:
    """Yield 1 for every attempt that this run sent, and whether that is not certain."""
    for outcome in _made(past):
        if outcome["class"] != "not_sent":
            yield 1, False
    for _ in past.open_intents:
        yield 1, True


def _made(past: TurnHistory) -> Iterator[Mapping[str, Any]]:
    return (outcome for outcome in past.outcomes if outcome["attempt"])  # 0: reused from another run


def _token_bound(intent: Mapping[str, Any] | None) -> int | None:
    if intent is None or "most_input_tokens" not in intent or "max_output_tokens" not in intent:
        return None
    return intent["most_input_tokens"] + intent["max_output_tokens"]
