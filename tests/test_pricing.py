"""Costs compared with hand-computed values and with genai-prices."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.config.gateways import Config
from convbatch.config.list_prices import price_table, served_price_table
from convbatch.config.loader import read_config
from convbatch.config.targets import resolve_targets
from convbatch.errors import InputError
from convbatch.pricing import ExchangeRates, Money, Period, PriceTable, TokenPrice, display_amount, exact
from convbatch.reply import Usage
from tests.support.tables import each

TODAY = datetime.date(2026, 11, 22)
NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC).timestamp()
FILE = Path("convbatch.toml")


def config(text: str) -> Config:
    return read_config(text, FILE)


def priced(model: str, text: str = "") -> PriceTable | None:
    read = config(text)
    (target,) = resolve_targets([model], [], read)
    return price_table(target, read, TODAY)


def cost(model: str, usage: Usage, text: str = "") -> Money | None:
    table = priced(model, text)
    amount = None if table is None else table.cost(usage, NOW)
    return None if table is None or amount is None else Money(amount=amount, currency=table.currency)


def usd(amount: str) -> Money:
    return Money(amount=Decimal(amount), currency="USD")


def cny(amount: str) -> Money:
    return Money(amount=Decimal(amount), currency="CNY")


BY_TABLE = """
[prices.dmxapi."gemini-2.5-*"]
input = 2.0
cached_input = 0.5
cache_write_input = 2.5
output = 8.0
"""
BY_MULTIPLIER = "[gateways.dmxapi]\nprice_multiplier = 5\n"
CLAUDE = """
[gateways.claude]
protocol = "openai"
base_url = "https://api.anthropic.com/v1"
auth = "none"
list_prices = true
"""

HAND_COMPUTED = [
    # 22 x 0.30 + 192 x 2.50 (178 of them reasoning, billed as output)
    ("the seed reply at list prices", "gemini-2.5-flash@google",
     Usage(input_tokens=22, output_tokens=192, reasoning_tokens=178, total_tokens=214), "", usd("0.0004866")),
    # 200,000 x 1.25 + 1,000 x 10
    ("at the boundary of a tier", "gemini-2.5-pro@google",
     Usage(input_tokens=200_000, output_tokens=1_000), "", usd("0.26")),
    # 200,001 x 2.50 + 1,000 x 15
    ("one token above the boundary of a tier", "gemini-2.5-pro@google",
     Usage(input_tokens=200_001, output_tokens=1_000), "", usd("0.5150025")),
    # 2,000 x 0.30 + 8,000 x 0.03 + 100 x 2.50
    ("cached input at its own price, counted once", "gemini-2.5-flash@google",
     Usage(input_tokens=10_000, cached_input_tokens=8_000, output_tokens=100), "", usd("0.00109")),
    # 1,000 x 1.25 + 500 x 10 (400 of them reasoning)
    ("an OpenAI reply with reasoning", "gpt-5@openai",
     Usage(input_tokens=1_000, output_tokens=500, reasoning_tokens=400), "", usd("0.00625")),
    # 1,000 x 2 + 3,000 x 0.5 + 6,000 x 2.5 + 200 x 8
    ("cache reads and writes", "gemini-2.5-pro@dmxapi",
     Usage(input_tokens=10_000, cached_input_tokens=3_000, cache_write_input_tokens=6_000, output_tokens=200),
     BY_TABLE, cny("0.0201")),
    ("yuan by [prices]", "gemini-2.5-flash@dmxapi",
     Usage(input_tokens=1_000_000, output_tokens=500_000), BY_TABLE, cny("6")),
    # 5 x (22 x 0.30 + 192 x 2.50)
    ("yuan by multiplier", "gemini-2.5-flash@dmxapi",
     Usage(input_tokens=22, output_tokens=192), BY_MULTIPLIER, cny("0.002433")),
    ("[prices] before the multiplier", "gemini-2.5-flash@dmxapi",
     Usage(input_tokens=500_000, output_tokens=0), BY_TABLE + BY_MULTIPLIER, cny("1")),
    ("[prices] before the list", "gemini-2.5-flash@google", Usage(input_tokens=500_000, output_tokens=0),
     '[prices.google."*"]\ninput = 7\noutput = 9\n', usd("3.5")),
    ("a blocked prompt: all of the total is input", "gemini-2.5-flash@google",
     Usage(input_tokens=1_000, total_tokens=1_000), "", usd("0.0003")),
    ("a price of 0 is a price", "llama@local", Usage(input_tokens=9, output_tokens=9),
     '[prices.local."*"]\ninput = 0\noutput = 0\ncurrency = "USD"\n', usd("0")),
    # 1,000 x 2 + 200 x 12 + 1,120 x 120
    ("an image at its own price", "gemini-3-pro-image@google",
     Usage(input_tokens=1_000, output_tokens=1_320, output_image_tokens=1_120), "", usd("0.1388")),
    ("an image of a model without a price for it", "gemini-2.5-flash@google",
     Usage(input_tokens=1_000, output_tokens=1_320, output_image_tokens=1_120), "", None),
    ("no image of a model without a price for it", "gemini-2.5-flash@google",
     Usage(input_tokens=1_000_000, output_tokens=0, output_image_tokens=0), "", usd("0.3")),
    ("an image that is not counted apart from text", "gemini-3-pro-image@google",
     Usage(input_tokens=1_000, output_tokens=1_320, has_uncounted_media=True), "", None),
    # 1,000 x 2 + 1,320 x 8
    ("an image billed as text, as the config says", "gemini-2.5-flash@dmxapi",
     Usage(input_tokens=1_000, output_tokens=1_320, has_uncounted_media=True), BY_TABLE + "output_image = 8\n",
     cny("0.01256")),
    # 5 x (1,000 x 2 + 200 x 12 + 1,120 x 120)
    ("an image by multiplier", "gemini-3-pro-image@dmxapi",
     Usage(input_tokens=1_000, output_tokens=1_320, output_image_tokens=1_120), BY_MULTIPLIER, cny("0.694")),
    # 60 x 2.5 + 200 x 32 + 20 x 10 + 70 x 64
    ("sound at its own prices", "gpt-audio@openai",
     Usage(input_tokens=260, input_audio_tokens=200, output_tokens=90, output_audio_tokens=70), "", usd("0.01123")),
    # 40 x 0.3 + 160 x 1 + 20 x 0.03 + 40 x 0.1 + 5 x 2.5
    ("cached sound at its own price", "gemini-2.5-flash@google",
     Usage(input_tokens=260, input_audio_tokens=200, cached_input_tokens=60, cached_input_audio_tokens=40,
           output_tokens=5), "", usd("0.0001891")),
    ("cached tokens of which it is not known how many are sound", "gemini-2.5-flash@google",
     Usage(input_tokens=260, input_audio_tokens=200, cached_input_tokens=60, output_tokens=5), "", None),
    ("sound in a reply without its price", "gemini-2.5-flash@google",
     Usage(input_tokens=20, output_tokens=5, output_audio_tokens=5), "", None),
    # 20 x 2 + 5 x 8 + 5 x 100
    ("sound in a reply at the price of the config", "gemini-2.5-flash@dmxapi",
     Usage(input_tokens=20, output_tokens=10, output_audio_tokens=5), BY_TABLE + "output_audio = 100\n",
     cny("0.00058")),
    ("sound in a message as other input, as the config says", "gemini-2.5-flash@dmxapi",
     Usage(input_tokens=20, input_audio_tokens=20, output_tokens=0), BY_TABLE, cny("0.00004")),
    ("images of another model, billed apart", "gpt-5.4@openai",
     Usage(input_tokens=20, output_tokens=10, has_tools_billed_apart=True), "", None),
    # 1,000 x 0.1 + 2,000 x 0.01 + 3,000 x 0.125 + 4,000 x 0.2 + 100 x 0.5
    ("cache writes for an hour at their own price", "claude-haiku-5-5@claude",
     Usage(input_tokens=10_000, cached_input_tokens=2_000, cache_write_input_tokens=7_000,
           cache_write_1h_input_tokens=4_000, output_tokens=100), CLAUDE, usd("0.001345")),
    # five times as much above 100,000: 100,001 x 0.5 + 100 x 2.5
    ("above the boundary of 100,000", "claude-haiku-5-5@claude",
     Usage(input_tokens=100_001, output_tokens=100), CLAUDE, usd("0.0502505")),
    # input twice, output one and a half times as much above 272,000: 272,001 x 5 + 1,000 x 22.5
    ("above the boundary of 272,000", "gpt-5.4@openai",
     Usage(input_tokens=272_001, output_tokens=1_000), "", usd("1.382505")),
    ("an hour's cache writes without their price", "gemini-2.5-pro@dmxapi",
     Usage(input_tokens=10, cache_write_input_tokens=5, cache_write_1h_input_tokens=5, output_tokens=1),
     BY_TABLE, None),
    # 10 x 7 + 1 x 9
    ("an hour's cache writes as other input", "gemini-2.5-flash@google",
     Usage(input_tokens=10, cache_write_input_tokens=5, cache_write_1h_input_tokens=5, output_tokens=1),
     '[prices.google."*"]\ninput = 7\noutput = 9\n', usd("0.000079")),
    ("counts that contradict each other", "gemini-2.5-flash@google",
     Usage(input_tokens=22, output_tokens=192, total_tokens=220, consistent=False), "", None),
    ("a total that would hide the contradiction", "gemini-2.5-flash@google",
     Usage(input_tokens=21, total_tokens=31, consistent=False), "", None),
    ("a reseller has no list price", "gemini-2.5-flash@dmxapi", Usage(input_tokens=9, output_tokens=9), "", None),
    ("a router's suffix has no list price despite a multiplier", "gemini-2.5-pro-thinking-512@dmxapi",
     Usage(input_tokens=9, output_tokens=9), BY_MULTIPLIER, None),
    ("another base URL has no list price", "gemini-2.5-flash@google", Usage(input_tokens=9, output_tokens=9),
     '[gateways.google]\nbase_url = "https://relay.example"\n', None),
    ("a model without a list price", "gemini-nothing-like-it@google", Usage(input_tokens=9, output_tokens=9), "", None),
    ("a service tier without a list price", "gemini-2.5-flash@google", Usage(input_tokens=9, output_tokens=9),
     '[gateways.google.models."*".settings.extra]\nserviceTier = "moon"\n', None),
    ("an unknown count", "gemini-2.5-flash@google", Usage(input_tokens=9), "", None),
    ("more cached than input tokens", "gemini-2.5-flash@google",
     Usage(input_tokens=9, cached_input_tokens=10, output_tokens=1), "", None),
]  # fmt: skip


@each(
    ("model", "usage", "text", "expected"),
    [case[1:] for case in HAND_COMPUTED],
)
def test_the_cost_of_a_reply_equals_the_hand_computed_cost(
    model: str, usage: Usage, text: str, expected: Money | None
) -> None:
    assert cost(model, usage, text) == expected


@each(
    ("model", "served", "text", "expected"),
    [
        ("gemini-2.5-pro@google", "gemini-3.8-flash", "", "google/gemini-3.8-flash"),
        ("gemini-2.5-pro@google", "models/gemini-3.8-flash", "", "google/gemini-3.8-flash"),
        ("prod@openai", "gpt-4o-2024-08-06", "", "openai/gpt-4o"),
        ("gemini-2.5-pro@dmxapi", "gemini-3.8-flash", BY_MULTIPLIER, "google/gemini-3.8-flash"),
        ("gpt-4o@openai", "gpt-4o-2024-08-06", "", None),  # the same price
        ("gemini-2.5-pro@google", "gemini-nothing-like-it", "", None),
        ("gemini-2.5-pro@google", "x" * 10_000, "", None),
        ("gemini-2.5-pro@dmxapi", "gemini-3.8-flash", "", None),  # a reseller without a multiplier
        ("gemini-2.5-pro@dmxapi", "gemini-3.8-flash", BY_TABLE, None),  # its own price
        ("gemini-2.5-pro-thinking-512@dmxapi", "gemini-2.5-pro", BY_MULTIPLIER, None),
    ],
)
def test_the_list_price_of_the_model_that_answered_applies_where_it_differs(
    model: str, served: str, text: str, expected: str | None
) -> None:
    read = config(text)
    (target,) = resolve_targets([model], [], read)
    table = served_price_table(target, priced(model, text), served, TODAY)
    assert (None if table is None else table.source.split(", ")[1]) == expected
    assert table is None or table.source.endswith(", as served")


FLEX = '[gateways.openai.models."*".settings]\nservice_tier = "flex"\n'


@each(
    ("model", "text", "tier", "expected"),
    [
        # 1,000,000 x 1.25 + 1,000,000 x 10, half of it for flex, twice as much for priority
        ("gpt-5@openai", "", None, "11.25"),
        ("gpt-5@openai", "", "default", "11.25"),
        ("gpt-5@openai", "", "flex", "5.625"),
        ("gpt-5@openai-responses", "", "flex", "5.625"),
        ("gpt-5@openai", "", "priority", "22.5"),
        ("gpt-5@openai", FLEX, None, "5.625"),
        ("gpt-5@openai", FLEX, "flex", "5.625"),
        ("gpt-5@openai", FLEX, "default", "11.25"),  # no capacity at the cheap tier
        ("gpt-5@openai", "", "moon", None),
        ("gpt-5@openai", '[prices.openai."*"]\ninput = 1\noutput = 1\n', "priority", "2"),
        # 1,000,000 x 0.3 + 1,000,000 x 2.5, half of it
        ("gemini-2.5-flash@google", "", "flex", "1.4"),
        ("gemini-2.5-flash@dmxapi", "", "flex", None),
    ],
)
def test_the_tier_that_served_a_reply_decides_its_price(
    model: str, text: str, tier: str | None, expected: str | None
) -> None:
    read = config(text)
    (target,) = resolve_targets([model], [], read)
    asked = priced(model, text)
    table = served_price_table(target, asked, target.model, TODAY, tier=tier) or asked
    million = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    paid = None if table is None else table.cost(million, 1_795_000_000.0)
    assert paid == (None if expected is None else Decimal(expected))


def test_prices_that_name_a_model_exactly_apply_to_its_replies() -> None:
    read = config(
        '[prices.dmxapi."*"]\ninput = 1\noutput = 1\n[prices.dmxapi.b]\ninput = 2\noutput = 2\n'
        '[prices.dmxapi.c]\ninput = 3\noutput = 3\ncurrency = "USD"\n'
    )
    (target,) = resolve_targets(["a@dmxapi"], [], read)
    assert list(read.served_prices_of(target, price_table(target, read, TODAY))) == ["b"]


@given(
    model=st.sampled_from(
        [
            ("gemini-2.5-pro", "google", "google"),
            ("gemini-3-flash-preview", "google", "google"),
            ("gemini-3-pro-image", "google", "google"),
            ("gpt-5.4", "openai", "openai"),
            ("claude-haiku-5-5", "claude", "anthropic"),
        ]
    ),
    counts=st.tuples(st.integers(0, 400_000), st.integers(0, 400_000), st.integers(0, 400_000)),
    hour=st.floats(0, 1),
    output_tokens=st.integers(0, 100_000),
    image=st.floats(0, 1),
)
def test_costs_at_list_prices_equal_those_of_genai_prices(
    model: tuple[str, str, str], counts: tuple[int, int, int], hour: float, output_tokens: int, image: float
) -> None:
    from genai_prices import Usage as TheirUsage
    from genai_prices import calc_price

    name, gateway, provider = model
    fresh, cached, written = counts
    written = written if gateway == "claude" else 0  # the list has no price for other models' writes
    written_1h, images = int(written * hour), int(output_tokens * image) if "image" in name else 0
    theirs = calc_price(
        TheirUsage(
            input_tokens=fresh + cached + written,
            cache_read_tokens=cached,
            cache_write_tokens=written,
            cache_write_1h_tokens=written_1h,
            output_tokens=output_tokens,
            output_image_tokens=images,
        ),
        name,
        provider_id=provider,
        genai_request_timestamp=datetime.datetime.fromtimestamp(NOW, datetime.UTC),
    )
    usage = Usage(
        input_tokens=fresh + cached + written,
        cached_input_tokens=cached,
        cache_write_input_tokens=written,
        cache_write_1h_input_tokens=written_1h,
        output_tokens=output_tokens,
        output_image_tokens=images,
    )
    ours = cost(f"{name}@{gateway}", usage, CLAUDE)
    assert ours is not None
    assert ours.amount == theirs.total_price


rates = st.builds(
    lambda base, steps: TokenPrice(base=exact(base), steps=tuple(sorted({a: exact(p) for a, p in steps}.items()))),
    st.floats(0, 100),
    st.lists(st.tuples(st.integers(1, 300_000), st.floats(0, 100)), max_size=3),
)
periods = st.builds(
    Period,
    input=rates,
    output=rates,
    cached_input=st.none() | rates,
    cache_write_input=st.none() | rates,
    cache_write_1h_input=st.none() | rates,
    output_image=st.none() | rates,
    output_audio=st.none() | rates,
    valid_from=st.none() | st.dates(datetime.date(2026, 1, 1), datetime.date(2026, 12, 31)),
    daily=st.none() | st.tuples(st.times(), st.times()),
)
tables = st.builds(
    PriceTable,
    currency=st.sampled_from(["USD", "CNY"]),
    source=st.text(max_size=5),
    periods=st.lists(periods, min_size=1, max_size=3).map(tuple),
)
sizes = st.integers(0, 400_000)


@given(tables)
def test_a_price_table_round_trips_through_plain_values(table: PriceTable) -> None:
    assert PriceTable.from_plain(table.to_plain()) == table


@given(
    table=tables,
    given_tokens=st.tuples(sizes, sizes, sizes, sizes),
    taken=st.tuples(sizes, sizes, sizes),
    has_media=st.booleans(),
    room=sizes,
)
def test_no_request_costs_more_than_the_ceiling(
    table: PriceTable, given_tokens: tuple[int, int, int, int], taken: tuple[int, int, int], has_media: bool, room: int
) -> None:
    fresh, cached, written, hourly = given_tokens
    _, images, audio = taken
    usage = Usage(
        input_tokens=fresh + cached + written + hourly,
        cached_input_tokens=cached,
        cache_write_input_tokens=written + hourly,
        cache_write_1h_input_tokens=hourly,
        output_tokens=sum(taken),
        output_image_tokens=images,
        output_audio_tokens=audio,
        has_uncounted_media=has_media,
    )
    found = table.cost(usage, NOW)
    assert found is None or found <= table.ceiling(sum(given_tokens) + room, sum(taken) + room)


def test_the_cost_of_cached_input_includes_cached_sound() -> None:
    table = priced("m@dmxapi", "[prices.dmxapi.m]\ninput = 1\ncached_input = 0.1\ninput_audio = 10\noutput = 2\n"
                   "cached_input_audio = 0.5\n")  # fmt: skip
    usage = Usage(input_tokens=100, cached_input_tokens=40, input_audio_tokens=50, cached_input_audio_tokens=30,
                  output_tokens=7, reasoning_tokens=5)  # fmt: skip
    assert table is not None
    parts = table.cost_parts(usage, NOW)
    assert parts is not None
    assert [part and part * 1_000_000 for part in parts] == [40 * 1 + 20 * 10, 10 * exact(0.1) + 30 * exact(0.5), 4, 10]
    assert sum(part for part in parts if part is not None) == table.cost(usage, NOW)


def test_the_latest_valid_price_applies() -> None:
    table = priced(
        "m@dmxapi",
        """
        [[prices.dmxapi.m]]
        input = 3
        output = 3
        valid_from = 2026-11-22
        [[prices.dmxapi.m]]
        input = 1
        output = 1
        """,
    )
    assert table is not None
    used = Usage(input_tokens=1_000_000, output_tokens=0)
    assert [table.cost(used, NOW - 1), table.cost(used, NOW)] == [1, 3]
    sources = [source.rpartition(":")[2] for source in (table.source_at(NOW - 1), table.source_at(NOW))]
    assert sources == ["6", "2, valid from 2026-11-22"]


def test_daily_price_periods_may_cross_midnight() -> None:
    night = Period(
        input=TokenPrice(base=Decimal(1)),
        output=TokenPrice(base=Decimal(1)),
        daily=(datetime.time(22), datetime.time(6)),
    )
    day = datetime.datetime(2026, 1, 1, 12)  # noqa: DTZ001  # UTC by definition here
    assert [night.holds(day.replace(hour=hour)) for hour in (21, 22, 0, 5, 6)] == [False, True, True, True, False]


def test_a_rate_applies_in_both_directions_and_missing_rates_give_none() -> None:
    exchange_rates = ExchangeRates({("USD", "CNY"): Decimal("7.1")})
    assert exchange_rates.convert(usd("2"), "CNY") == cny("14.2")
    assert exchange_rates.convert(cny("14.2"), "USD") == usd("2")
    assert exchange_rates.convert(usd("2"), "EUR") is None
    assert ExchangeRates.from_plain(exchange_rates.to_plain()) == exchange_rates


@given(st.decimals(0, 10**6, places=9))
def test_a_cost_is_read_back_exactly_from_a_float_column(amount: Decimal) -> None:
    assert exact(float(amount)) == amount


@each(
    ("amount", "text"),
    [
        ("0", "0.00"),
        ("1234.5", "1,234.50"),
        ("1.23456", "1.2346"),
        ("0.0004866", "0.0004866"),
        ("0.05", "0.05"),
        ("1", "1.00"),
        ("0.00001", "0.00001"),
    ],
)
def test_amounts_are_rounded_but_small_ones_never_to_zero(amount: str, text: str) -> None:
    assert display_amount(Decimal(amount)) == text


WRONG = [
    ("unknown key", "[prices.google.m]\ninput = 1\noutput = 1\nouptut = 2\n", 4, "unknown key 'ouptut'"),
    ("negative", "[prices.google.m]\ninput = -1\noutput = 1\n", 2, "0 or more"),
    ("text", '[prices.google.m]\ninput = "0.3"\noutput = 1\n', 2, "0 or more"),
    ("true", "[prices.google.m]\ninput = true\noutput = 1\n", 2, "0 or more"),
    ("no output", "[prices.google.m]\ninput = 1\n", 1, "has no output"),
    ("no currency", "[prices.local.m]\ninput = 1\noutput = 1\n", 1, "has no currency"),
    ("currency", '[prices.google.m]\ninput = 1\noutput = 1\ncurrency = "yuan"\n', 4, "no currency code"),
    ("gateway", "[prices.gogle.m]\ninput = 1\noutput = 1\n", 1, "unknown gateway 'gogle'"),
    ("no glob", "[prices.google]\ninput = 1\noutput = 1\n", 2, "must be a table"),
    ("tier", "[prices.google.m]\ninput = 1\noutput = 1\ntiers = [{ input = 2 }]\n", 4, "above which it applies"),
    ("empty tier", "[prices.google.m]\ninput = 1\noutput = 1\ntiers = [{ above = 5 }]\n", 4, "changes no price"),
    ("tier without base", "[prices.google.m]\ninput = 1\noutput = 1\ntiers = [{ above = 5, cached_input = 2 }]\n", 4,
     "its table does not"),
    ("day", '[prices.google.m]\ninput = 1\noutput = 1\nvalid_from = "soon"\n', 4, "must be a day"),
    ("same day", "[[prices.google.m]]\ninput = 1\noutput = 1\n[[prices.google.m]]\ninput = 2\noutput = 1\n", 1,
     "apply from the same day"),
    ("rate of one", "[rates]\nUSD = 7\n", 2, "not a pair of currencies"),
    ("rate of 0", '[rates]\n"USD/CNY" = 0\n', 2, "more than 0"),
    ("rate twice", '[rates]\n"USD/CNY" = 7\n"CNY/USD" = 0.14\n', 3, "in both directions"),
    ("multiplier alone", "[gateways.local]\nprice_multiplier = 2\n", 2, "without currency"),
    ("list in yuan", "[gateways.dmxapi]\nlist_prices = true\n", 2, "list prices are in USD"),
]  # fmt: skip


@each(("text", "line", "what"), [case[1:] for case in WRONG])
def test_an_invalid_price_is_reported_with_its_line(text: str, line: int, what: str) -> None:
    with pytest.raises(InputError) as caught:
        config(text)
    problem = caught.value.problems[0]
    assert what in problem.what
    assert problem.place is not None
    assert (problem.place.path, problem.place.line) == ("convbatch.toml", line)
    assert problem.hint
