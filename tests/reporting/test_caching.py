"""What `report` says about prompt caching, on a run over Anthropic's wire, and the saving of one reply by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

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
def test_the_saving_is_the_cost_without_caching_minus_the_cost(counts: dict[str, Any], saved: str | None) -> None:
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
    system = "Answer as a shop assistant. " * 50
    lines = [
        {"id": name, "system": system, "turns": [{"user": name}, {"user": "and?"}, {"user": "bye"}]} for name in "abc"
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = convbatch("run", "d.jsonl", "-m", "sim-good@at-anthropic", "-o", "r")
    assert done.code == 0, done.err

    table: Any = cb.load(tmp_path / "r").turns
    again = json.loads(convbatch("report", "r", "--json").out)["caching"]["rows"]
    assert [row["turn"] for row in again] == [1, 2, 3]
    assert 0.6 < again[0]["cached_share"] < 2 / 3  # the first dialogue wrote what the others read
    assert again[1]["cached_share"] > 0.9
    for row in again:
        of_turn = table[table["turn"] == row["turn"]]
        assert row["saved"] == pytest.approx(of_turn["cache_saving"].sum())
    sums = {name: float(table[name].sum()) for name in ("input_tokens", "output_tokens", "cost", "cache_saving")}
    without_caching = sums["input_tokens"] * 5e-6 + sums["output_tokens"] * 25e-6
    assert sums["cost"] + sums["cache_saving"] == pytest.approx(without_caching)
    shown = convbatch("report", "r").out
    assert "Prompt caching" in shown
    assert "USD" in shown.partition("Prompt caching")[2]
