"""Find the prices of a target: in the config's own tables, else in the provider's price list.

List prices are the data that genai-prices ships; its updater is never started, so nothing is fetched. A gateway without
price keys has no price: a wrong price is worse than none. Computing costs is `pricing.py`.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from convbatch.config.gateways import Config, Target
from convbatch.dialogue import NO_SETTINGS, Settings, effective_settings
from convbatch.errors import SetupError
from convbatch.pricing import STANDARD_TIERS, Period, PriceTable, TokenPrice

LIST_CURRENCY = "USD"
_LIST = "genai-prices"
_LONGEST_NAME = 200
# Names of routers for a model with other generation settings at another price, which the list does not have.
_RESELLERS_SUFFIX = re.compile(r"-(?:no)?thinking(?:-\d+)?$|-(?:minimal|low|medium|high|xhigh)$")
_TIER_KEYS = ("service_tier", "serviceTier")
# Our prices of other tokens than plain text → the list's. Those of pictures and video in the input and of searches are
# not used.
_LIST_KEYS: Mapping[str, str] = {
    "cached_input": "cache_read_mtok",
    "cache_write_input": "cache_write_mtok",
    "cache_write_1h_input": "cache_write_1h_mtok",
    "input_audio": "input_audio_mtok",
    "cached_input_audio": "cache_audio_read_mtok",
    "output_image": "output_image_mtok",
    "output_audio": "output_audio_mtok",
}


def price_table(
    target: Target, config: Config, today: datetime.date, command_line: Settings = NO_SETTINGS
) -> PriceTable | None:
    """Return the prices of a target, or None when they are unknown.

    Args:
        target: The model and its gateway.
        config: Provides `[prices]`.
        today: The day of the look-up, for the source.
        command_line: Settings; `service_tier`, or `-p service_tier=...`, selects a tier with its own prices.
    """
    own = config.prices_of(target)
    if own is not None:
        return own
    if target.members:
        return _common_prices(target, config, today, command_line)
    return _billed_list_price(target, today, _requested_tier(target, command_line))


def _common_prices(target: Target, config: Config, today: datetime.date, command_line: Settings) -> PriceTable | None:
    """Return the prices that all members of a pool bill; None if one of them has none.

    Raises:
        SetupError: They bill different prices.
    """
    members = target.asked_targets
    first, *others = found = [price_table(member, config, today, command_line) for member in members]
    if first is None or None in others:
        return None
    for member, other in zip(members[1:], others, strict=True):
        if other is not None and (other.currency, other.periods) != (first.currency, first.periods):
            pool = config.pools.get(target.gateway.name)
            names = f"{members[0].gateway.name} and {member.gateway.name}"
            raise SetupError(
                f"the members of the pool {target.gateway.name!r} bill {target.model} at different prices",
                place=None if pool is None else pool.place,
                found=f"{members[0].gateway.name}: {first.source}; {member.gateway.name}: {other.source}",
                hint=f"ask {names} as two targets, or give the pool prices of its own: "
                f"[prices.{target.gateway.name}.MODEL]",
            )
    return found[0]


def served_price_table(
    target: Target,
    asked: PriceTable | None,
    served: str,
    today: datetime.date,
    command_line: Settings = NO_SETTINGS,
    *,
    tier: str | None = None,
) -> PriceTable | None:
    """Return the list prices of the model and tier that answered, where they apply and differ from those asked for.

    Args:
        target: The asked model and its gateway.
        asked: Its prices; `[prices]` apply whatever model answers.
        served: The model name in the reply.
        today: As for `price_table`.
        command_line: As for `price_table`.
        tier: The service tier in the reply; None where it names none, then the requested one applies.

    Returns:
        None where the prices of the asked model apply; a table without prices where the list has none for the tier.
    """
    target = target.asked_targets[0]  # members of a pool bill alike
    is_own = asked is not None and not asked.source.startswith(_LIST)
    if is_own or len(served) > _LONGEST_NAME or _RESELLERS_SUFFIX.search(target.model):
        return None
    requested = _requested_tier(target, command_line)
    is_other_tier = tier is not None and _price_class(tier) != _price_class(requested)
    if served == target.model and not is_other_tier:
        return None
    billed_tier = tier if is_other_tier else requested
    for name in dict.fromkeys((served, served.rpartition("/")[2])):
        listed = _billed_list_price(dataclasses.replace(target, model=name), today, billed_tier)
        if listed is not None and asked is not None and listed.periods == asked.periods:
            return None
        if listed is not None:
            return dataclasses.replace(listed, source=f"{listed.source}, as served")
    if asked is None or not is_other_tier:
        return None
    return PriceTable(currency=asked.currency, source=f"no list price for service tier {tier}", periods=())


def _price_class(tier: str | None) -> str:
    return "" if tier is None or tier.lower() in STANDARD_TIERS else tier.lower()


def _requested_tier(target: Target, command_line: Settings) -> str | None:
    gateway = target.gateway
    return _tier_of(effective_settings(command_line=command_line, target=gateway.settings, unset=gateway.unset))


def _billed_list_price(target: Target, today: datetime.date, tier: str | None) -> PriceTable | None:
    """Return what the gateway bills by the provider's list; None if it does not, or the model is not in the list."""
    gateway = target.gateway
    if gateway.price_multiplier is not None:
        listed = None if _RESELLERS_SUFFIX.search(target.model) else list_price(target, today, tier)
        currency = gateway.currency or LIST_CURRENCY
        if listed is None:
            return None
        return PriceTable(
            currency=currency,
            source=f"{listed.source} x {gateway.price_multiplier} {currency}",
            periods=tuple(period.times(gateway.price_multiplier) for period in listed.periods),
        )
    if gateway.list_prices and gateway.currency in (None, LIST_CURRENCY):
        return list_price(target, today, tier)
    return None


def list_price(target: Target, today: datetime.date, tier: str | None = None) -> PriceTable | None:
    """Return the provider's list price in USD from genai-prices; None for an unknown model."""
    from importlib.metadata import version

    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    for where in _providers(target):
        try:
            provider, model = snapshot.find_provider_model(target.model, None, *where)
        except LookupError:
            continue
        periods = _periods(model, tier)
        if periods is None:
            return None
        source = f"{_LIST} {version('genai-prices')}, {provider.id}/{model.id}, {today}"
        return PriceTable(currency=LIST_CURRENCY, source=source, periods=periods)
    return None


def _providers(target: Target) -> list[tuple[str | None, str | None]]:
    """Return pairs of provider id and URL for the look-up: by address, else (for resellers) by the model's name."""
    return [(None, target.gateway.base_url), (None, None)]


def _tier_of(settings: Settings) -> str | None:
    extra = settings.extra or {}
    return settings.service_tier or next((str(extra[key]) for key in _TIER_KEYS if key in extra), None)


def _periods(model: Any, tier: str | None) -> tuple[Period, ...] | None:
    conditional = model.prices if isinstance(model.prices, list) else [None]
    periods: list[Period] = []
    for condition in conditional:
        prices = model.prices if condition is None else condition.prices
        rates = _of_tier(prices, model, tier)
        period = None if rates is None else _period(rates, None if condition is None else condition.constraint)
        if period is None:
            return None
        periods.append(period)
    return tuple(periods)


def _of_tier(prices: Any, model: Any, tier: str | None) -> Mapping[str, Any] | None:
    """Return the prices of a service tier; None when the list has none for it."""
    if tier is None or tier.lower() in STANDARD_TIERS:
        return vars(prices)
    conditions = [{"service_tier": tier.lower()}]
    if tier.lower() == "flex":
        conditions.append({"processing": "batch"})  # both are half price, and the list may have only one of them
    variants = [variant for wanted in conditions for variant in model.price_variants or () if variant.when == wanted]
    if not variants:
        return None
    return {**vars(prices), **{key: price for key, price in vars(variants[0].prices).items() if price is not None}}


def _period(rates: Mapping[str, Any], constraint: Any) -> Period | None:
    """Convert one row of the list; None when it has prices other than those of text tokens."""
    input_price, output_price = rates.get("input_mtok"), rates.get("output_mtok")
    if input_price is None or output_price is None or rates.get("output_reasoning_mtok") is not None:
        return None
    named: dict[str, Any] = {
        name: _rate(price) for name, key in _LIST_KEYS.items() if (price := rates.get(key)) is not None
    }
    begins = getattr(constraint, "start_date", None)
    daily = None
    if constraint is not None and begins is None:
        daily = (_utc(constraint.start_time), _utc(constraint.end_time))
    period = Period(input=_rate(input_price), output=_rate(output_price), valid_from=begins, daily=daily)
    return dataclasses.replace(period, **named)


def _rate(price: Any) -> TokenPrice:
    if isinstance(price, Decimal):
        return TokenPrice(base=price)
    return TokenPrice(base=price.base, steps=tuple((tier.start, tier.price) for tier in price.tiers))


def _utc(moment: datetime.time) -> datetime.time:
    if moment.tzinfo is None:
        return moment
    day = datetime.datetime.combine(datetime.date(1970, 1, 1), moment)
    return day.astimezone(datetime.UTC).time()
