"""Cost of token counts by a price table. Pure.

Money is `Decimal` from the table to the total. An unknown count, price or exchange rate makes the result None, never 0.
`config/list_prices.py` finds the prices; `results/` adds the costs to rows.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from convbatch.errors import SetupError
from convbatch.reply import Usage

MILLION = Decimal(1_000_000)
CURRENCY = re.compile(r"[A-Z]{3}")
NOT_CURRENCIES = {"RMB": "CNY", "YUAN": "CNY", "CNH": "CNY", "YEN": "JPY", "EURO": "EUR", "NTD": "TWD", "STG": "GBP"}
"""Names that people write for a currency, with its ISO 4217 code."""
BATCH_SHARE = Decimal("0.5")
"""Price of a reply of a batch job as a share of the usual one: the same at OpenAI, Google and Anthropic, also for
cached tokens and cache writes (their price pages, read 2026-11-26)."""
RATES = (
    "input", "output", "cached_input", "cache_write_input", "cache_write_1h_input", "input_audio", "cached_input_audio",
    "output_image", "output_audio",
)  # fmt: skip
"""The prices of a `Period`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """An amount in one currency."""

    amount: Decimal
    currency: str

    def __str__(self) -> str:
        return f"{display_amount(self.amount)} {self.currency}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrice:
    """A price per million tokens, in steps: a request with input above a boundary pays that step for all its tokens."""

    base: Decimal
    steps: tuple[tuple[int, Decimal], ...] = ()
    """(boundary in input tokens, price above it), in ascending order."""

    def at(self, input_tokens: int) -> Decimal:
        """Return the price for a request with this many input tokens."""
        place = bisect.bisect_left(self.steps, input_tokens, key=lambda step: step[0])
        return self.base if place == 0 else self.steps[place - 1][1]

    def times(self, factor: Decimal) -> TokenPrice:
        """Return the price with every step multiplied by a factor."""
        return TokenPrice(base=self.base * factor, steps=tuple((above, price * factor) for above, price in self.steps))

    def ceiling(self, input_tokens: int) -> Decimal:
        """Return the highest price for a request with at most this many input tokens."""
        return max(self.base, *(price for above, price in self.steps if above < input_tokens), Decimal(0))


class CostParts(NamedTuple):
    """The cost of a reply by kind of token; the parts add up to it."""

    input: Decimal
    """Of input that was not cached, cache writes included."""
    cached_input: Decimal
    output: Decimal
    """Without reasoning; with it, where its tokens are unknown."""
    reasoning: Decimal | None
    """None: unknown, part of `output`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Prices valid from a day on, or in some hours of each day."""

    input: TokenPrice
    output: TokenPrice
    cached_input: TokenPrice | None = None
    """None: cached tokens are billed as other input."""
    cache_write_input: TokenPrice | None = None
    """None: as other input."""
    cache_write_1h_input: TokenPrice | None = None
    """Cache writes kept for one hour. None: as other input, unknown beside a price of cache writes."""
    input_audio: TokenPrice | None = None
    """None: as other input."""
    cached_input_audio: TokenPrice | None = None
    """None: as other cached tokens."""
    output_image: TokenPrice | None = None
    """None: unknown."""
    output_audio: TokenPrice | None = None
    """None: unknown."""
    valid_from: date | None = None
    """UTC; None means always."""
    daily: tuple[time, time] | None = None
    """UTC, from and until; may cross midnight. None means all day."""
    source: str | None = None
    """Origin of these prices; None: that of the table."""

    def holds(self, moment: datetime) -> bool:
        """Return whether the prices are valid at this moment (UTC)."""
        if self.valid_from is not None and moment.date() < self.valid_from:
            return False
        if self.daily is None:
            return True
        begins, ends = self.daily
        now = moment.time()
        return begins <= now < ends if begins <= ends else (now >= begins or now < ends)

    def cost(self, counts: Usage) -> Decimal | None:
        """Return the cost of these counts; None if a count or price is unknown, or counts contradict each other."""
        given, taken = counts.input_tokens, output_of(counts)
        if given is None or taken is None or counts.consistent is False or counts.has_tools_billed_apart:
            return None
        priced = (*self._input_parts(counts, given), *self._output_parts(counts, taken))
        total = Decimal(0)
        for tokens, rate in priced:
            if tokens < 0 or (rate is None and tokens):
                return None
            if rate is not None:
                total += tokens * rate.at(given)
        if counts.has_uncounted_media and not self.output == self.output_image == (self.output_audio or self.output):
            return None
        return total / MILLION

    def cache_saving(self, counts: Usage) -> Decimal | None:
        """Return the cost of the input without caching minus its cost; None as `cost`, and without cached tokens."""
        given = counts.input_tokens
        if given is None or not (counts.cached_input_tokens or counts.cache_write_input_tokens):
            return None
        parts = list(self._input_parts(counts, given))
        if self.cost(counts) is None:
            return None
        audio = counts.input_audio_tokens or 0
        paid = sum((tokens * rate.at(given) for tokens, rate in parts if rate is not None), Decimal(0))
        uncached = (given - audio) * self.input.at(given) + audio * (self.input_audio or self.input).at(given)
        return (uncached - paid) / MILLION

    def cost_parts(self, counts: Usage) -> CostParts | None:
        """Return the cost by kind of token; None as `cost`."""
        total, given = self.cost(counts), counts.input_tokens
        if total is None or given is None:
            return None
        whole, cached = (
            sum((tokens * rate.at(given) for tokens, rate in parts if rate is not None), Decimal(0)) / MILLION
            for parts in (self._input_parts(counts, given), self._cached_parts(counts))
        )
        output = total - whole
        reasoning = None
        if counts.reasoning_tokens is not None:
            reasoning = min(counts.reasoning_tokens * self.output.at(given) / MILLION, output)
        return CostParts(whole - cached, cached, output - (reasoning or 0), reasoning)

    def _input_parts(self, counts: Usage, given: int) -> Iterator[tuple[int, TokenPrice | None]]:
        """Yield the input tokens of each price; None where the price is unknown."""
        cached = counts.cached_input_tokens or 0
        written, hourly = counts.cache_write_input_tokens or 0, counts.cache_write_1h_input_tokens or 0
        audio, _ = self._audio_parts(counts)
        yield given - cached - written - audio, self.input
        yield audio, self.input_audio or self.input
        yield from self._cached_parts(counts)
        yield written - hourly, self.cache_write_input or self.input
        yield hourly, self.cache_write_1h_input or (None if self.cache_write_input else self.input)

    def _cached_parts(self, counts: Usage) -> Iterator[tuple[int, TokenPrice | None]]:
        _, audio = self._audio_parts(counts)
        yield (counts.cached_input_tokens or 0) - audio, self.cached_input or self.input
        yield audio, self.cached_input_audio or self.cached_input or self.input

    def _audio_parts(self, counts: Usage) -> tuple[int, int]:
        """Return the audio tokens of the input that were not cached, and those that were; negative if unknown."""
        audio, cached = counts.input_audio_tokens or 0, counts.cached_input_audio_tokens
        if self.input_audio is None and self.cached_input_audio is None:
            return 0, 0
        if cached is None:
            cached = -1 if audio and counts.cached_input_tokens else 0
        return audio - cached, cached

    def _output_parts(self, counts: Usage, taken: int) -> Iterator[tuple[int, TokenPrice | None]]:
        images, audio = counts.output_image_tokens or 0, counts.output_audio_tokens or 0
        yield taken - images - audio, self.output
        yield images, self.output_image
        yield audio, self.output_audio

    def ceiling(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Return the maximum cost of a request of at most this size, however its tokens are classified.

        Sound in the input counts at the price of other input: its tokens are bounded by its bytes, several times too
        high.
        """
        given = (self.input, self.cached_input, self.cache_write_input, self.cache_write_1h_input)
        total = input_tokens * max(rate.ceiling(input_tokens) for rate in given if rate is not None)
        taken = (self.output, self.output_image, self.output_audio)
        total += output_tokens * max(rate.ceiling(input_tokens) for rate in taken if rate is not None)
        return total / MILLION

    def dearest_output(self, input_tokens: int) -> Decimal:
        """Return the highest price of output for a request with this many input tokens."""
        taken = (self.output, self.output_image, self.output_audio)
        return max(rate.at(input_tokens) for rate in taken if rate is not None)

    def times(self, factor: Decimal) -> Period:
        """Return the period with every price multiplied by a factor."""
        rates = {name: getattr(self, name) for name in RATES}
        return replace(self, **{name: rate.times(factor) for name, rate in rates.items() if rate is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTable:
    """Token prices of one target; stored in `run.json`, so that the costs of a run do not change later."""

    currency: str
    source: str
    """Origin and date of the prices."""
    periods: tuple[Period, ...]
    """The last valid one applies; without one, the tokens have no price."""

    def period(self, at: float) -> Period | None:
        """Return the prices at a moment (Unix seconds), None without valid ones."""
        moment = datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
        return next((period for period in reversed(self.periods) if period.holds(moment)), None)

    def cost(self, counts: Usage, at: float) -> Decimal | None:
        """Return the cost of a reply in `currency`.

        Args:
            counts: Usage as reported by the gateway.
            at: Time of the request, Unix seconds.

        Returns:
            None if a count is missing or contradicts another, or no price was valid at the time.
        """
        period = self.period(at)
        return None if period is None else period.cost(counts)

    def cost_parts(self, counts: Usage, at: float) -> CostParts | None:
        """Return the cost of a reply by kind of token, in `currency`; None as `cost`."""
        period = self.period(at)
        return None if period is None else period.cost_parts(counts)

    def cache_saving(self, counts: Usage, at: float) -> Decimal | None:
        """Return what prompt caching saved of the cost of a reply, in `currency`; negative if writes cost more."""
        period = self.period(at)
        return None if period is None else period.cache_saving(counts)

    def ceiling(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Return the maximum cost of a request of at most this size at any time, in `currency`."""
        return max((period.ceiling(input_tokens, output_tokens) for period in self.periods), default=Decimal(0))

    def source_at(self, at: float) -> str:
        """Return the source of the prices of that moment, with their first day if they have one."""
        period = self.period(at)
        if period is None:
            return self.source
        source = period.source or self.source
        return source if period.valid_from is None else f"{source}, valid from {period.valid_from}"

    def as_batch(self) -> PriceTable:
        """Return the prices of the same tokens in a batch job: half of these."""
        periods = (
            replace(period.times(BATCH_SHARE), source=None if period.source is None else batch_source(period.source))
            for period in self.periods
        )
        return replace(self, source=batch_source(self.source), periods=tuple(periods))

    def to_plain(self) -> dict[str, Any]:
        """Return the JSON form; prices are strings, which keep every digit."""
        return {
            "currency": self.currency,
            "source": self.source,
            "periods": [_period_to_plain(period) for period in self.periods],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> PriceTable:
        """Read the result of `to_plain`; trusts its input."""
        periods = tuple(_period_from_plain(period) for period in plain["periods"])
        return cls(currency=plain["currency"], source=plain["source"], periods=periods)


def batch_source(source: str) -> str:
    """Return the source of batch prices that come from these prices."""
    return f"{source}, batch"


def is_price_table(plain: Any) -> bool:
    """Return whether a value is valid output of `PriceTable.to_plain`; the file may have been edited."""
    try:
        table = PriceTable.from_plain(plain)
        rates = [rate for period in table.periods for name in RATES if (rate := getattr(period, name)) is not None]
        prices = [price for rate in rates for price in (rate.base, *(price for _, price in rate.steps))]
        return all(_is_price(price) for price in prices) and table.to_plain() == plain
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return False


def is_exchange_rates(plain: Any) -> bool:
    """Return whether a value is valid output of `ExchangeRates.to_plain`."""
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
    """Return the output tokens; total minus input if only those are known, as for a blocked prompt."""
    if counts.output_tokens is not None or counts.input_tokens is None or counts.total_tokens is None:
        return counts.output_tokens
    if counts.consistent is False:
        return None
    rest = counts.total_tokens - counts.input_tokens
    return rest if rest >= 0 else None


@dataclass(frozen=True, slots=True)
class ExchangeRates:
    """Exchange rates from the config: `("USD", "CNY") → 7.1` means that 1 USD is 7.1 CNY."""

    rates: Mapping[tuple[str, str], Decimal]

    def factor(self, one: str, other: str) -> Fraction | None:
        """Return the exact factor from one currency to another; None without a rate between the two."""
        if one == other:
            return Fraction(1)
        if (rate := self.rates.get((one, other))) is not None:
            return Fraction(rate)
        inverse = self.rates.get((other, one))
        return None if inverse is None else 1 / Fraction(inverse)

    def convert(self, money: Money, currency: str) -> Money | None:
        """Return an amount in another currency, rounded once; None without a rate between the two."""
        if money.currency == currency:
            return money
        factor = self.factor(money.currency, currency)
        if factor is None:
            return None
        return Money(amount=to_decimal(Fraction(money.amount) * factor), currency=currency)

    def to_plain(self) -> dict[str, str]:
        """Return the JSON form: `{"USD/CNY": "7.1"}`."""
        return {f"{one}/{other}": str(rate) for (one, other), rate in self.rates.items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, str] | None) -> ExchangeRates:
        """Read the result of `to_plain`; trusts its input."""
        return cls({(pair[:3], pair[4:]): Decimal(rate) for pair, rate in (plain or {}).items()})


STANDARD_TIERS = frozenset({"auto", "default", "standard", "standard_only", "on_demand", "unspecified"})
"""Service tiers at the ordinary price, in the words of several providers."""


def priced_name(model: str | None, tier: str | None) -> str | None:
    """Return the name that the prices of a reply are found by: the model that answered, and an uncommon tier."""
    if tier is None or tier.lower() in STANDARD_TIERS:
        return model
    return f"{model or ''} ({tier.lower()})"


NO_EXCHANGE_RATES = ExchangeRates({})


def rate_text(one: str, other: str, factor: Fraction) -> str:
    """Return a rate as `1 USD = 7.1 CNY`, in the direction in which it is at least 1."""
    if factor < 1:
        one, other, factor = other, one, 1 / factor
    return f"1 {one} = {to_decimal(factor):.6g} {other}"


def check_currency(text: str | None) -> None:
    """Check a currency that a user named; None is none.

    Raises:
        SetupError: Not three capital letters, or another name of a currency.
    """
    if (code := NOT_CURRENCIES.get((text or "").upper())) is not None:
        raise SetupError(f"--currency: {text} is no currency code", hint=f"did you mean {code}?")
    if text is not None and not CURRENCY.fullmatch(text):
        is_code = CURRENCY.fullmatch(text.strip().upper()) is not None
        usual = "write its three capital letters, such as USD or CNY"
        hint = f"did you mean {text.strip().upper()}?" if is_code else usual
        raise SetupError(f"{text!r} is not a currency", hint=hint)


def exact(value: float) -> Decimal:
    """Return a number as it is written: the float 0.3 is the price 0.3. Also restores a cost from a float column."""
    return Decimal(repr(float(value))) if isinstance(value, float) else Decimal(value)


def to_decimal(amount: Fraction) -> Decimal:
    """Return the nearest decimal of 28 digits: for display and storage, not for a decision."""
    return Decimal(amount.numerator) / amount.denominator


def display_amount(amount: Decimal) -> str:
    """Format an amount: cents, or four significant digits for smaller ones."""
    places = 2 if amount == 0 or abs(amount) >= 10 else max(4, 3 - amount.adjusted())
    whole, _, rest = f"{amount:,.{places}f}".partition(".")
    return f"{whole}.{rest.rstrip('0').ljust(2, '0')}"


_MONEY = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]{3})?\s*")


def parse_money(text: str) -> tuple[Decimal, str | None] | None:
    """Return amount and currency of `5USD`, `0.5 cny` or a bare `5`; None for anything else."""
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


def _period_to_plain(period: Period) -> dict[str, Any]:
    rates = {name: getattr(period, name) for name in RATES}
    plain: dict[str, Any] = {name: _token_price_to_plain(rate) for name, rate in rates.items() if rate is not None}
    if period.valid_from is not None:
        plain["valid_from"] = period.valid_from.isoformat()
    if period.daily is not None:
        plain["daily"] = [moment.isoformat() for moment in period.daily]
    if period.source is not None:
        plain["source"] = period.source
    return plain


def _period_from_plain(plain: Mapping[str, Any]) -> Period:
    rates = {name: _token_price_from_plain(plain[name]) for name in RATES if name in plain}
    begins = date.fromisoformat(plain["valid_from"]) if "valid_from" in plain else None
    daily = tuple(time.fromisoformat(moment) for moment in plain.get("daily", ()))
    return Period(**rates, valid_from=begins, daily=(daily[0], daily[1]) if daily else None, source=plain.get("source"))
