"""Token counts and a price table → money. Pure: it knows neither where prices come from nor what becomes of the sum.

Money is `Decimal` from the table to the total. What is not known (a count, a price, an exchange rate) makes the result
None, never 0. Where prices come from is `config/list_prices.py`; which costs stand in which row is `results/run.py`.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from convbatch.reply import Usage

MILLION = Decimal(1_000_000)
CURRENCY = re.compile(r"[A-Z]{3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """An amount of one currency."""

    amount: Decimal
    currency: str

    def __str__(self) -> str:
        return f"{display_amount(self.amount)} {self.currency}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrice:
    """A price per million tokens, in steps: a request whose input is above a boundary pays that step for all of it."""

    base: Decimal
    steps: tuple[tuple[int, Decimal], ...] = ()
    """(boundary in input tokens, price above it), boundaries ascending."""

    def at(self, input_tokens: int) -> Decimal:
        """The price for a request of this size."""
        place = bisect.bisect_left(self.steps, input_tokens, key=lambda step: step[0])
        return self.base if place == 0 else self.steps[place - 1][1]

    def times(self, factor: Decimal) -> TokenPrice:
        """Every step times a factor."""
        return TokenPrice(base=self.base * factor, steps=tuple((above, price * factor) for above, price in self.steps))

    def ceiling(self, input_tokens: int) -> Decimal:
        """The highest price for a request of at most this size."""
        return max(self.base, *(price for above, price in self.steps if above < input_tokens), Decimal(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Prices that hold from a day on, or in some hours of each day."""

    input: TokenPrice
    output: TokenPrice
    cached_input: TokenPrice | None = None
    """None: cached tokens are billed as any other input."""
    cache_write_input: TokenPrice | None = None
    """None: as any other input."""
    valid_from: date | None = None
    """UTC; None = always."""
    daily: tuple[time, time] | None = None
    """UTC, from and until; may cross midnight. None = all day."""

    def holds(self, moment: datetime) -> bool:
        """Does it hold at this moment (UTC)?"""
        if self.valid_from is not None and moment.date() < self.valid_from:
            return False
        if self.daily is None:
            return True
        begins, ends = self.daily
        now = moment.time()
        return begins <= now < ends if begins <= ends else (now >= begins or now < ends)

    def cost(self, counts: Usage) -> Decimal | None:
        """What these counts cost; None when a count that is billed is unknown or the parts exceed the whole."""
        given, taken = counts.input_tokens, output_of(counts)
        if given is None or taken is None:
            return None
        cached = counts.cached_input_tokens or 0
        written = counts.cache_write_input_tokens or 0
        fresh = given - cached - written
        if min(fresh, cached, written, taken) < 0:
            return None
        price = self.input.at(given)
        total = fresh * price + taken * self.output.at(given)
        total += cached * (price if self.cached_input is None else self.cached_input.at(given))
        total += written * (price if self.cache_write_input is None else self.cache_write_input.at(given))
        return total / MILLION

    def ceiling(self, input_tokens: int, output_tokens: int) -> Decimal:
        """The most a request of at most this size can cost, however its tokens are counted."""
        rates = [rate for rate in (self.input, self.cached_input, self.cache_write_input) if rate is not None]
        total = input_tokens * max(rate.ceiling(input_tokens) for rate in rates)
        return (total + output_tokens * self.output.ceiling(input_tokens)) / MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTable:
    """What one target's tokens cost; it stands in `run.json`, so that a run's costs never change by themselves."""

    currency: str
    source: str
    """Where the prices come from and of which day they are."""
    periods: tuple[Period, ...]
    """The last one that holds is taken; when none does, the tokens have no price."""

    def period(self, at: float) -> Period | None:
        """The prices at a moment (unix seconds)."""
        moment = datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
        return next((period for period in reversed(self.periods) if period.holds(moment)), None)

    def cost(self, counts: Usage, at: float) -> Decimal | None:
        """What a reply cost, in `currency`.

        Args:
            counts: What the gateway reported.
            at: When it was asked, unix seconds.

        Returns:
            None when a count is missing or contradicts another, or no price held at the time.
        """
        period = self.period(at)
        return None if period is None else period.cost(counts)

    def ceiling(self, input_tokens: int, output_tokens: int) -> Decimal:
        """The most a request of at most this size can cost at any time, in `currency`."""
        return max(period.ceiling(input_tokens, output_tokens) for period in self.periods)

    def source_at(self, at: float) -> str:
        """`source`, with the day the price of that moment holds from where there are several."""
        period = self.period(at)
        if period is None or period.valid_from is None:
            return self.source
        return f"{self.source}, valid from {period.valid_from}"

    def to_plain(self) -> dict[str, Any]:
        """JSON form; prices as texts, which keep every digit."""
        return {
            "currency": self.currency,
            "source": self.source,
            "periods": [_period_to_plain(period) for period in self.periods],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> PriceTable:
        """The reverse of `to_plain`; trusts its input."""
        periods = tuple(_period_from_plain(period) for period in plain["periods"])
        return cls(currency=plain["currency"], source=plain["source"], periods=periods)


def is_price_table(plain: Any) -> bool:
    """Is this what `PriceTable.to_plain` made? It stands in a file, and files are edited."""
    try:
        table = PriceTable.from_plain(plain)
        rates = [rate for period in table.periods for name in _RATES if (rate := getattr(period, name)) is not None]
        prices = [price for rate in rates for price in (rate.base, *(price for _, price in rate.steps))]
        return bool(prices) and all(_is_price(price) for price in prices) and table.to_plain() == plain
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return False


def is_exchange_rates(plain: Any) -> bool:
    """Is this what `Exchange.to_plain` made?"""
    try:
        exchange_rates = ExchangeRates.from_plain(plain)
        return (
            all(_is_price(rate) and rate > 0 for rate in exchange_rates.rates.values())
            and exchange_rates.to_plain() == plain
        )
    except (ArithmeticError, AttributeError, TypeError, ValueError):
        return False


def _is_price(price: Decimal) -> bool:
    return price.is_finite() and price >= 0


def output_of(counts: Usage) -> int | None:
    """Output tokens; where only input and a total were reported, as for a blocked prompt, what is left of the total."""
    if counts.output_tokens is not None or counts.input_tokens is None or counts.total_tokens is None:
        return counts.output_tokens
    rest = counts.total_tokens - counts.input_tokens
    return rest if rest >= 0 else None


@dataclass(frozen=True, slots=True)
class ExchangeRates:
    """Exchange rates the user gave: `("USD", "CNY") → 7.1` says that 1 USD is 7.1 CNY."""

    rates: Mapping[tuple[str, str], Decimal]

    def convert(self, money: Money, currency: str) -> Money | None:
        """The same amount in another currency, by a rate given for the two; None when none was."""
        if money.currency == currency:
            return money
        rate = self.rates.get((money.currency, currency))
        if rate is None:
            inverse = self.rates.get((currency, money.currency))
            if inverse is None:
                return None
            rate = 1 / inverse
        return Money(amount=money.amount * rate, currency=currency)

    def to_plain(self) -> dict[str, str]:
        """JSON form: `{"USD/CNY": "7.1"}`."""
        return {f"{one}/{other}": str(rate) for (one, other), rate in self.rates.items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, str] | None) -> ExchangeRates:
        """The reverse of `to_plain`; trusts its input."""
        return cls({(pair[:3], pair[4:]): Decimal(rate) for pair, rate in (plain or {}).items()})


NO_EXCHANGE_RATES = ExchangeRates({})


def exact(value: float) -> Decimal:
    """A number as it is written: the float 0.3 is the price 0.3. Also undoes a cost's way through a float column."""
    return Decimal(repr(float(value))) if isinstance(value, float) else Decimal(value)


def display_amount(amount: Decimal) -> str:
    """An amount for people: cents, or four significant digits of what is less."""
    places = 2 if amount == 0 or abs(amount) >= 10 else max(4, 3 - amount.adjusted())
    whole, _, rest = f"{amount:,.{places}f}".partition(".")
    return f"{whole}.{rest.rstrip('0').ljust(2, '0')}"


_MONEY = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]{3})?\s*")


def parse_money(text: str) -> tuple[Decimal, str | None] | None:
    """`5USD`, `0.5 cny` or a bare `5` → amount and currency; None when it is neither."""
    match = _MONEY.fullmatch(text)
    return None if match is None else (Decimal(match[1]), match[2].upper() if match[2] else None)


def _token_price_to_plain(rate: TokenPrice) -> Any:
    if not rate.steps:
        return str(rate.base)
    return {"base": str(rate.base), "steps": [[above, str(price)] for above, price in rate.steps]}


def _token_price_from_plain(plain: Any) -> TokenPrice:
    if isinstance(plain, str):
        return TokenPrice(base=Decimal(plain))
    steps = tuple((int(above), Decimal(price)) for above, price in plain["steps"])
    return TokenPrice(base=Decimal(plain["base"]), steps=steps)


_RATES = ("input", "output", "cached_input", "cache_write_input")


def _period_to_plain(period: Period) -> dict[str, Any]:
    rates = {name: getattr(period, name) for name in _RATES}
    plain: dict[str, Any] = {name: _token_price_to_plain(rate) for name, rate in rates.items() if rate is not None}
    if period.valid_from is not None:
        plain["valid_from"] = period.valid_from.isoformat()
    if period.daily is not None:
        plain["daily"] = [moment.isoformat() for moment in period.daily]
    return plain


def _period_from_plain(plain: Mapping[str, Any]) -> Period:
    rates = {name: _token_price_from_plain(plain[name]) for name in _RATES if name in plain}
    begins = date.fromisoformat(plain["valid_from"]) if "valid_from" in plain else None
    daily = tuple(time.fromisoformat(moment) for moment in plain.get("daily", ()))
    return Period(**rates, valid_from=begins, daily=(daily[0], daily[1]) if daily else None)
