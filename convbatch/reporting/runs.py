"""Runs of a report: opened, labelled, and with the prices and exchange rates of the config that is given."""

from __future__ import annotations

import dataclasses
import datetime
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from convbatch.errors import SetupError
from convbatch.journal.index import Archive
from convbatch.journal.manifest import ManifestTarget
from convbatch.journal.run_folder import shell_quote
from convbatch.pricing import ExchangeRates, Money, PriceTable, check_currency, priced_name
from convbatch.results.aggregate import GroupTotals
from convbatch.results.parquet import read_rows
from convbatch.results.run import Run, load
from convbatch.results.several import run_labels
from convbatch.served_model import Aliases

if TYPE_CHECKING:
    from convbatch.config.gateways import Config, Gateway, Target

Runs: TypeAlias = Run | str | Path | Iterable[Run | str | Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRun:
    """A run with the options of the report."""

    label: str
    run: Run
    exchange_rates: ExchangeRates
    currency: str | None
    """Amounts are converted into it; None keeps their currency."""
    config: str
    """Config file to which prices can be added."""

    def converted(self, amounts: Mapping[str, Decimal]) -> dict[str, Decimal]:
        """Return amounts by currency, converted into `currency` if it is set."""
        if self.currency is None:
            return dict(amounts)
        found = (self.exchange_rates.convert(Money(amount=amounts[c], currency=c), self.currency) for c in amounts)
        known = [money.amount for money in found if money is not None]
        return {self.currency: sum(known, Decimal(0))} if known else {}

    def refuse_missing_rates(self, total: GroupTotals) -> None:
        """Refuse missing exchange rates.

        Raises:
            SetupError: A rate is missing; lists all missing ones.
        """
        found = sorted({currency for amounts in total.money.values() for currency in amounts})
        missing = [c for c in found if self.currency and not self.converted({c: Decimal(1)})]
        if missing:
            lines = [f'"{currency}/{self.currency}" = <{self.currency} for 1 {currency}>' for currency in missing]
            raise SetupError(
                f"{self.label} has no exchange rate from {' or '.join(missing)} to {self.currency}",
                hint=f"below [rates] in convbatch.toml write {', '.join(lines)}; then add -c convbatch.toml",
            )


def load_runs(runs: Runs, config: str | Path | None, currency: str | None) -> list[ReportedRun]:
    """Open the runs of a report, with unique labels, current prices if a config is given, and the wanted currency.

    Raises:
        SetupError: No run, one run twice, no such run, or no currency of that name.
    """
    check_currency(currency)
    several = [runs] if isinstance(runs, Run | str | Path) else list(runs)
    loaded = [run if isinstance(run, Run) else load(run) for run in several]
    if not loaded:
        raise SetupError("no run to report", hint="name one or more, such as `latest`")
    labels = run_labels(loaded)
    priced = _at_prices(loaded, config)
    return [
        ReportedRun(
            label=label,
            run=run,
            exchange_rates=rates,
            currency=currency,
            config=shell_quote(Path(config or run.manifest.config or "convbatch.toml")),
        )
        for label, (run, rates) in zip(labels, priced, strict=True)
    ]


def _at_prices(runs: Sequence[Run], config: str | Path | None) -> list[tuple[Run, ExchangeRates]]:
    if config is None:
        return [(run, run.manifest.rates) for run in runs]
    from convbatch.config.loader import load_config

    prices = load_config(Path(config))
    return [reprice(run, prices) for run in runs]


def reprice(run: Run, config: Config) -> tuple[Run, ExchangeRates]:
    """Return the run with the config's current prices and aliases, and the config's exchange rates.

    A run keeps the prices of its day; this is for runs whose prices were missing or wrong.
    """
    from convbatch.config.list_prices import price_table, served_price_table

    today = datetime.datetime.now(datetime.UTC).date()
    manifest = run.manifest
    names = _served_names(run)
    prices: dict[str, PriceTable | None] = {}
    batch: dict[str, PriceTable | None] = {}
    served: dict[str, dict[str, PriceTable | None]] = {}
    aliases: dict[str, Aliases] = {}
    for recorded in (*manifest.targets, *manifest.judges):
        target = _with_current_billing(recorded, config)
        aliases[recorded.name] = target.gateway.aliases
        asked = prices[recorded.name] = price_table(target, config, today, manifest.settings)
        batch[recorded.name] = config.batch_prices_of(target)
        exact = config.served_prices_of(target, asked)
        served[recorded.name] = exact | {
            key: served_price_table(target, asked, name or target.model, today, manifest.settings, tier=tier) or asked
            for name, tier in names[recorded.name]
            if name not in exact and (key := priced_name(name, tier)) is not None
        }
    return run.at_prices(prices, served, aliases, batch), config.exchange_rates


def _served_names(run: Run) -> Mapping[str, set[tuple[str | None, str | None]]]:
    """Return the model names and service tiers in the replies of every target and judge."""
    names: defaultdict[str, set[tuple[str | None, str | None]]] = defaultdict(set)
    for target, served, tier in read_rows(run.turns_path, ("target", "model_version", "service_tier")):
        names[target].add((served, None if tier == "batch" else tier))  # a reply of a batch job costs its share of this
    if run.manifest.judges:
        with Archive(run.folder) as archive:
            for judge_call in archive.all_judge_calls():
                replies = (outcome.get("reply", {}) for outcome in judge_call.history.outcomes)
                names[judge_call.judge].update(
                    (reply.get("model_version"), reply.get("service_tier")) for reply in replies
                )
    return names


_BILLING = ("currency", "list_prices", "price_multiplier", "aliases")


def _with_current_billing(asked: ManifestTarget, config: Config) -> Target:
    """Return the target of the run with the billing keys and aliases that its gateway has in the config."""
    from convbatch.config.gateways import target_from_manifest

    target = target_from_manifest(asked)
    gateway, *members = (_billed_as_now(gateway, target.model, config) for gateway in (target.gateway, *target.members))
    return dataclasses.replace(target, gateway=gateway, members=tuple(members))


def _billed_as_now(gateway: Gateway, model: str, config: Config) -> Gateway:
    table = config.gateways.get(gateway.name)
    if table is None:
        return gateway
    now = table.for_model(model)
    return dataclasses.replace(gateway, **{name: getattr(now, name) for name in _BILLING})
