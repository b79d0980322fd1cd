"""A run at the prices of a config as it stands now: for runs whose prices nobody had named, or that were wrong.

Without it a run's own prices hold, as they were on its day. What comes of it is `report.py`.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from convbatch.config.gateways import Config, Target, target_from_plain
from convbatch.config.list_prices import price_table
from convbatch.dialogue import Settings
from convbatch.pricing import ExchangeRates
from convbatch.results.run import Run


def reprice(run: Run, config: Config) -> tuple[Run, ExchangeRates]:
    """The run at the config's prices, and the config's exchange rates."""
    today = datetime.datetime.now(datetime.UTC).date()
    command_line = Settings.from_plain(run.meta.get("settings", {}))
    prices = {
        target["name"]: price_table(_with_current_prices(target, config), config, today, command_line)
        for target in (*run.meta["targets"], *(run.meta.get("judges") or ()))
    }
    return run.at_prices(prices), config.exchange_rates


_BILLING = ("currency", "list_prices", "price_multiplier")


def _with_current_prices(plain: Mapping[str, Any], config: Config) -> Target:
    """The target as it was asked, with what the config now says of its gateway's bills."""
    target = target_from_plain(plain)
    table = config.gateways.get(target.gateway.name)
    if table is None:
        return target
    now = table.for_model(target.model)
    billing = {name: getattr(now, name) for name in _BILLING}
    return dataclasses.replace(target, gateway=dataclasses.replace(target.gateway, **billing))
