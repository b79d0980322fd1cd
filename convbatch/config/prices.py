"""Build price tables and exchange rates from the `[prices]` and `[rates]` tables of a config file.

Problems get their lines in `loader.py`; computing costs is `pricing.py`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

from convbatch.config.toml_positions import KeyPath, item, without_items
from convbatch.config.validators import MAX_AMOUNT, InvalidValue, amount, currency
from convbatch.errors import did_you_mean
from convbatch.pricing import CURRENCY, NOT_CURRENCIES, ExchangeRates, Period, PriceTable, TokenPrice

RATE_KEYS = (
    "input", "cached_input", "cache_write_input", "cache_write_1h_input", "input_audio", "cached_input_audio", "output",
    "output_image", "output_audio",
)  # fmt: skip
ROW_KEYS = (*RATE_KEYS, "tiers", "currency", "valid_from", "source", "batch")
BATCH_KEYS = (*RATE_KEYS, "tiers")
TIER_KEYS = ("above", *RATE_KEYS)

ReportInvalid = Callable[[KeyPath, InvalidValue], None]


def price_row(
    rows: Any, path: KeyPath, billed_in: str | None, place: Callable[[KeyPath], object], report: ReportInvalid
) -> PriceTable | None:
    """Build the price table of `[prices.GATEWAY."GLOB"]`, or of a list of such tables with `valid_from`.

    Args:
        rows: The parsed table, or a list of tables.
        path: The path of the table.
        billed_in: The gateway's currency.
        place: Returns the `file:line` of a path, for the source.
        report: Called with every problem.

    Returns:
        None when there is a problem.
    """
    tables = cast(list[Any], rows) if isinstance(rows, list) else [rows]
    if not tables or not all(isinstance(table, dict) for table in tables):
        report(path, InvalidValue(f"{_dotted(path)} must be a table", f"write [{_dotted(path)}]", found=rows))
        return None
    invalid_paths: list[KeyPath] = []

    def note(where: KeyPath, invalid: InvalidValue) -> None:
        invalid_paths.append(where)
        report(where, invalid)

    paths = [(*path, item(index)) if isinstance(rows, list) else path for index in range(len(tables))]
    sources = [_source(table, str(place(where))) for table, where in zip(tables, paths, strict=True)]
    periods = [_period(table, where, note) for table, where in zip(tables, paths, strict=True)]
    currencies = {_currency(table, where, billed_in, note) for table, where in zip(tables, paths, strict=True)}
    if len(currencies) > 1:
        note(
            path, InvalidValue("prices of one model in two currencies", "write the same currency in each of its tables")
        )
    _refuse_same_day(tables, path, note)
    if invalid_paths:
        return None
    found = [replace(period, source=source) for period, source in zip(periods, sources, strict=True) if period]
    if len(found) == 1:
        found = [replace(found[0], source=None)]
    found.sort(key=_first_day)
    return PriceTable(currency=str(currencies.pop()), source=", ".join(sources), periods=tuple(found))


def batch_price_row(rows: Any, path: KeyPath, table: PriceTable, report: ReportInvalid) -> PriceTable | None:
    """Build the prices in batch jobs: those of the key `batch`, else half of the others.

    Args:
        rows: As for `price_row`, which found no problem in them.
        path: As for `price_row`.
        table: What it returned.
        report: Called with every problem.

    Returns:
        None when there is a problem.
    """
    tables = cast(list[Any], rows) if isinstance(rows, list) else [rows]
    given = {_day(each, path, report): each.get("batch", {}) for each in tables}
    at = {_day(each, path, report): index for index, each in enumerate(tables)}
    halved = table.as_batch()
    periods: list[Period] = []
    sound = True
    for period in halved.periods:
        where = (*path, item(at[period.valid_from]), "batch") if isinstance(rows, list) else (*path, "batch")
        own = _batch_rates(given[period.valid_from], where, report)
        sound = sound and own is not None
        periods.append(replace(period, **(own or {})))
    return replace(halved, periods=tuple(periods)) if sound else None


def _batch_rates(table: Any, path: KeyPath, report: ReportInvalid) -> dict[str, TokenPrice] | None:
    """Return the prices that a table `batch` sets; None when there is a problem."""
    if not isinstance(table, dict):
        example = "write batch = { input = 0.15, output = 1.25 }"
        report(path, InvalidValue("batch must be a table", example, found=table))
        return None
    problems: list[KeyPath] = []

    def note(where: KeyPath, invalid: InvalidValue) -> None:
        problems.append(where)
        report(where, invalid)

    own = cast(dict[str, Any], table)
    _refuse_unknown(own, BATCH_KEYS, path, note)
    rates = {key: rate for key in RATE_KEYS if (rate := _price(own, key, path, note)) is not None}
    steps = _steps(own, path, note)
    if problems:
        return None
    return {key: TokenPrice(base=rate, steps=_steps_of(key, rate, steps)) for key, rate in rates.items()}


def build_exchange_rates(table: Any, report: ReportInvalid) -> ExchangeRates:
    """Build exchange rates from `[rates]`: `"USD/CNY" = 7.1` means that 1 USD is 7.1 CNY."""
    rates: dict[tuple[str, str], Decimal] = {}
    example = 'write "USD/CNY" = 7.1, for 1 USD = 7.1 CNY'
    if not isinstance(table, dict):
        report(("rates",), InvalidValue("rates must be a table", f"below [rates] {example}", found=table))
        return ExchangeRates({})
    for pair, value in cast(dict[str, Any], table).items():
        one, slash, other = pair.partition("/")
        if not slash or not CURRENCY.fullmatch(one) or not CURRENCY.fullmatch(other) or one == other:
            report(("rates", pair), InvalidValue(f"{pair!r} is not a pair of currencies", example))
            continue
        codes = [NOT_CURRENCIES.get(code, code) for code in (one, other)]
        if codes != [one, other]:
            what = f"{pair!r} has a name that is no currency code"
            report(("rates", pair), InvalidValue(what, f'did you mean "{"/".join(codes)}"?'))
            continue
        try:
            rate = amount(pair, value)
        except InvalidValue:
            rate = Decimal(0)
        if rate * MAX_AMOUNT < 1:
            what = f"the rate {pair} must be a number of more than 0 (from {1 / MAX_AMOUNT:g} to {MAX_AMOUNT:g})"
            report(("rates", pair), InvalidValue(what, example, found=value))
            continue
        if (other, one) in rates:
            report(("rates", pair), InvalidValue(f"{pair} is given twice, in both directions", "keep one of them"))
        rates[one, other] = rate
    return ExchangeRates(rates)


def _period(table: Mapping[str, Any], path: KeyPath, note: ReportInvalid) -> Period | None:
    _refuse_unknown(table, ROW_KEYS, path, note)
    rates = {key: rate for key in RATE_KEYS if (rate := _price(table, key, path, note)) is not None}
    for key in ("input", "output"):
        if key not in table:
            note(
                path, InvalidValue(f"{_dotted(path)} has no {key}", f"write {key} = 0.3, the price of a million tokens")
            )
    steps, day = _steps(table, path, note), _day(table, path, note)
    if "input" not in rates or "output" not in rates:
        return None
    stepped = {key: TokenPrice(base=rate, steps=_steps_of(key, rate, steps)) for key, rate in rates.items()}
    period = Period(input=stepped["input"], output=stepped["output"], valid_from=day)
    return replace(period, **stepped)


def _price(table: Mapping[str, Any], key: str, path: KeyPath, note: ReportInvalid) -> Decimal | None:
    if key not in table:
        return None
    try:
        return amount(key, table[key])
    except InvalidValue as invalid:
        note((*path, key), invalid)
        return None


def _steps(table: Mapping[str, Any], path: KeyPath, note: ReportInvalid) -> list[tuple[int, dict[str, Decimal]]]:
    example = "write tiers = [{ above = 200_000, input = 2.5, output = 15 }]"
    tiers = table.get("tiers", [])
    if not isinstance(tiers, list) or not all(isinstance(tier, dict) for tier in cast(list[Any], tiers)):
        note((*path, "tiers"), InvalidValue("tiers must be a list of tables", example, found=tiers))
        return []
    steps: list[tuple[int, dict[str, Decimal]]] = []
    for index, tier in enumerate(cast(list[dict[str, Any]], tiers)):
        where = (*path, "tiers", item(index))
        _refuse_unknown(tier, TIER_KEYS, where, note)
        above = tier.get("above")
        if not isinstance(above, int) or isinstance(above, bool) or above < 1:
            note(
                where,
                InvalidValue("a tier needs the number of input tokens above which it applies", example, found=above),
            )
            continue
        for key in RATE_KEYS:
            if key in tier and key not in table:
                note(
                    where,
                    InvalidValue(f"the tier above {above} prices {key}, and its table does not", f"add {key} there"),
                )
        prices = {key: price for key in RATE_KEYS if (price := _price(tier, key, where, note)) is not None}
        if not prices:
            note(where, InvalidValue(f"the tier above {above} changes no price", example))
        steps.append((above, prices))
    if len({above for above, _ in steps}) < len(steps):
        note((*path, "tiers"), InvalidValue("two tiers start at the same number of tokens", example))
    return sorted(steps, key=lambda step: step[0])


def _steps_of(
    key: str, base: Decimal, steps: Sequence[tuple[int, Mapping[str, Decimal]]]
) -> tuple[tuple[int, Decimal], ...]:
    """Return the steps of one price; a tier without it keeps the price of the tier below."""
    found: list[tuple[int, Decimal]] = []
    for above, prices in steps:
        before = found[-1][1] if found else base
        found.append((above, prices.get(key, before)))
    return tuple(found) if any(price != base for _, price in found) else ()


def _currency(table: Mapping[str, Any], path: KeyPath, billed_in: str | None, note: ReportInvalid) -> str | None:
    if "currency" not in table:
        if billed_in is None:
            note(
                path,
                InvalidValue(f"{_dotted(path)} has no currency, and neither has its gateway", 'write currency = "CNY"'),
            )
        return billed_in
    try:
        return currency("currency", table["currency"])
    except InvalidValue as invalid:
        note((*path, "currency"), invalid)
        return billed_in


def _day(table: Mapping[str, Any], path: KeyPath, note: ReportInvalid) -> datetime.date | None:
    value = table.get("valid_from")
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return datetime.date.fromisoformat(value)
    except ValueError:
        value = cast(object, value)
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value
    note(
        (*path, "valid_from"),
        InvalidValue("valid_from must be a day", "write valid_from = 2026-01-31", found=str(value)),
    )
    return None


def _refuse_same_day(tables: Sequence[Mapping[str, Any]], path: KeyPath, note: ReportInvalid) -> None:
    days = [str(table.get("valid_from")) for table in tables]
    if len(set(days)) < len(days):
        note(path, InvalidValue("two prices of one model apply from the same day", "give each table its valid_from"))


def _first_day(period: Period) -> datetime.date:
    return period.valid_from or datetime.date.min


def _source(table: Mapping[str, Any], place: str) -> str:
    given = table.get("source")
    return f"{place} ({given})" if isinstance(given, str) and given.strip() else place


def _refuse_unknown(table: Mapping[str, Any], known: Sequence[str], path: KeyPath, note: ReportInvalid) -> None:
    for key in table:
        if key not in known:
            note((*path, key), InvalidValue(f"unknown key {key!r} in [{_dotted(path)}]", did_you_mean(key, known)))


def _dotted(path: Sequence[str]) -> str:
    """Return the name of a table as in a header; a table of a list has the name of the list."""
    names = without_items(tuple(path))
    return ".".join(name if name.replace("-", "").replace("_", "").isalnum() else f'"{name}"' for name in names)
