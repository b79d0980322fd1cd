"""Settings of a run over the wires that carry them: a schema, log probabilities, and the service tier that is paid."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import convbatch as cb
from convbatch.protocols import PROTOCOLS
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import config_for

Simulator = Callable[[Provider], Server]
SCHEMA = {
    "type": "object",
    "properties": {
        "answer": {"type": "string"},
        "sure": {"type": "boolean"},
        "steps": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["answer", "sure", "steps"],
    "additionalProperties": False,
}
MODEL = "gemini-3.5-flash-lite"
"""Has list prices, and half of them for flex."""


def run(folder: Path, server: Server, wires: tuple[str, ...], settings: dict[str, Any], **options: Any) -> Any:
    config = folder / "convbatch.toml"
    config.write_text(config_for(server.url, wires=wires, list_prices=True))
    dataset = folder / "d.jsonl"
    turns = [{"user": "Hi?"}, {"user": "And?"}]
    dataset.write_text(json.dumps({"id": "d", "settings": settings, "turns": turns}))
    model = options.pop("model", "sim-good")
    models = [f"{model}@at-{wire}" for wire in wires]
    return cb.run(dataset, models=models, config=config, out=folder / "out", **options).turns


@pytest.mark.parametrize(
    "stream", [pytest.param(False, marks=pytest.mark.slow, id="whole"), pytest.param(True, id="streamed")]
)
def test_a_schema_is_obeyed_over_every_wire_and_log_probabilities_come_where_they_exist(
    tmp_path: Path, simulator: Simulator, stream: bool
) -> None:
    server = simulator(Provider())
    turns = run(tmp_path, server, tuple(PROTOCOLS), {"response_schema": SCHEMA}, stream=stream)
    assert set(turns["status"]) == {"ok"}
    assert len(turns) == 8
    for reply in turns["reply"]:
        jsonschema.validate(json.loads(reply), SCHEMA)
    (tmp_path / "with").mkdir()
    with_logprobs = tuple(wire for wire in PROTOCOLS if wire != "anthropic")
    means = run(tmp_path / "with", server, with_logprobs, {"logprobs": 2}, stream=stream)["mean_logprob"]
    assert len(means) == 6
    assert len({round(mean, 6) for mean in means}) == 2, "one mean for each turn, on all wires"
    assert all(math.isfinite(mean) and mean < 0 for mean in means)


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        pytest.param("flex", "flex", marks=pytest.mark.slow),
        pytest.param("default", "flex", marks=pytest.mark.slow),
        ("flex", "default"),
    ],
)
def test_the_tier_that_served_decides_the_price(tmp_path: Path, simulator: Simulator, asked: str, served: str) -> None:
    wires = ("gemini", "openai", "responses")
    server = simulator(Provider(aliases={MODEL: "sim-good"}, served_tier=served))
    asked_here = "standard" if asked == "default" else asked
    paid = run(tmp_path, server, ("gemini",), {"service_tier": asked_here}, model=MODEL)
    (tmp_path / "openai").mkdir()
    other = run(tmp_path / "openai", server, wires[1:], {"service_tier": asked}, model=MODEL)
    prices = Decimal("0.3"), Decimal("2.5")  # of a million tokens, by the list
    for turns in (paid, other):
        for row in turns.itertuples():
            assert row.service_tier == served
            list_price = (row.input_tokens * prices[0] + row.output_tokens * prices[1]) / 1_000_000
            assert Decimal(str(row.cost)) == list_price / (2 if served == "flex" else 1)


def test_a_tier_without_a_list_price_has_no_cost(tmp_path: Path, simulator: Simulator) -> None:
    server = simulator(Provider(aliases={"claude-sonnet-5": "sim-good"}, served_tier="priority"))
    turns = run(tmp_path, server, ("anthropic",), {"service_tier": "auto"}, model="claude-sonnet-5")
    assert set(turns["service_tier"]) == {"priority"}
    assert turns["cost"].isna().all()
