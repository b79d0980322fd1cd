"""What `report` says about prompt caching, on a run over Anthropic's wire, and the saving of one reply by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

import convbatch as cb
from convbatch.pricing import Period, TokenPrice
from convbatch.reply import Usage
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import Command, config_for
from tests.support.tables import each

PRICES = Period(
    input=TokenPrice(base=Decimal(5)),
    output=TokenPrice(base=Decimal(25)),
    cached_input=TokenPrice(base=Decimal("0.5")),
    cache_write_input=TokenPrice(base=Decimal("6.25")),
    cache_write_1h_input=TokenPrice(base=Decimal(10)),
)


@each(
    ("counts", "saved"),
    [
        # 800,000 x (5 - 0.5)
        ({"cached_input_tokens": 800_000}, "3.6"),
        # 800,000 x (5 - 6.25)
        ({"cache_write_input_tokens": 800_000}, "-1"),
        # 100,000 x (5 - 0.5) + 300,000 x (5 - 6.25) + 200,000 x (5 - 10)
        (
            {
                "cached_input_tokens": 100_000,
                "cache_write_input_tokens": 500_000,
                "cache_write_1h_input_tokens": 200_000,
            },
            "-0.925",
        ),
        ({"cached_input_tokens": 0}, None),
        ({}, None),
        ({"cached_input_tokens": 10, "consistent": False}, None),
    ],
)
def test_the_saving_is_the_cost_without_caching_minus_the_cost(counts: dict[str, int], saved: str | None) -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=10, **counts)
    assert PRICES.cache_saving(usage) == (None if saved is None else Decimal(saved))


def test_cached_shares_and_savings_are_reported_turn_by_turn(
    simulator: Callable[[Provider], Server], convbatch: Command, tmp_path: Path
) -> None:
    server = simulator(Provider())
    prices = (
        '[prices.at-anthropic."*"]\ncurrency = "USD"\ninput = 5\noutput = 25\ncached_input = 0.5\n'
        'cache_write_input = 6.25\n\n[run.settings]\ncache = "auto"\n'
    )
    (tmp_path / "convbatch.toml").write_text(config_for(server.url, wires=("anthropic",), models=prices))
    turns = [{"user": "hello " * 400}, {"user": "and?"}, {"user": "bye"}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"id": n, "turns": turns}) + "\n" for n in "abc"))
    done = convbatch("run", "d.jsonl", "-m", "sim-good@at-anthropic", "-o", "r")
    assert done.code == 0, done.err

    table = cb.load(tmp_path / "r").turns
    again = json.loads(convbatch("report", "r", "--json").out)["caching"]["rows"]
    assert [row["turn"] for row in again] == [1, 2, 3]
    assert again[0]["cached_share"] == 0
    assert again[1]["cached_share"] > 0.8
    for row in again:
        of_turn = table[table["turn"] == row["turn"]]
        assert row["saved"] == pytest.approx(of_turn["cache_saving"].sum())
    full = table["input_tokens"].sum() * 5e-6 + table["output_tokens"].sum() * 25e-6
    assert table["cost"].sum() + table["cache_saving"].sum() == pytest.approx(full)
    shown = convbatch("report", "r").out
    assert "Prompt caching" in shown
    assert "USD" in shown.partition("Prompt caching")[2]
