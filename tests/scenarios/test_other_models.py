"""Runs whose gateways answer with another model than the asked one, through real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convbatch.results.run import load
from tests.conftest import Command
from tests.support.field_answers import CASES, AnswerServer, serve_answers, write_dialogues

COUNTS = {"prompt_tokens": 100_000, "completion_tokens": 100_000, "total_tokens": 200_000}
LIST_PRICES = 'protocol = "openai"\nauth = "none"\nlist_prices = true\n'
# USD for COUNTS at the list prices of genai-prices.
PRO, LITE, GPT_4O = 1.125, 0.05, 1.25


def answer(model: str) -> dict[str, Any]:
    case = CASES["served-other"]
    body = {**case["answers"][0]["body"], "model": model, "usage": COUNTS}
    return {**case, "answers": [{"status": 200, "body": body}]}


@pytest.fixture
def server() -> Iterator[AnswerServer]:
    names = {"rerouted": "gemini-2.5-flash-lite", "lost": "nobody-knows-it", "azure": "gpt-4o-2024-08-06"}
    with serve_answers({name: answer(model) for name, model in names.items()}) as server:
        yield server


def write_config(folder: Path, server: AnswerServer) -> None:
    tables = [f'[gateways.{name}]\n{LIST_PRICES}base_url = "{server.url}/{name}/v1"\n' for name in server.cases]
    text = "".join(tables) + 'aliases = { prod = "gpt-4o" }\n'  # of the last gateway
    (folder / "convbatch.toml").write_text(text, "utf-8")


def test_list_prices_are_those_of_the_model_that_answered(
    server: AnswerServer, convbatch: Command, tmp_path: Path
) -> None:
    write_config(tmp_path, server)
    models = ("gemini-2.5-pro@rerouted", "gemini-2.5-pro@lost", "prod@azure")
    options = [option for model in models for option in ("-m", model)]
    done = convbatch("run", write_dialogues(tmp_path, {}), "-o", "run", *options)
    assert done.code == 0, done.err
    assert "1 of 1 replies was served by gemini-2.5-flash-lite, not by gemini-2.5-pro" in done.out
    rows = {row["gateway"]: row for row in load(tmp_path / "run").turns.to_dict("records")}
    assert [rows[name]["cost"] for name in server.cases] == pytest.approx([LITE, PRO, GPT_4O])
    assert [rows[name]["served_as_asked"] for name in server.cases] == [False, False, True]
    sources = [rows[name]["price_source"] for name in server.cases]
    assert "google/gemini-2.5-flash-lite" in sources[0]
    assert sources[0].endswith(", as served")
    assert sources[1].endswith("; served by nobody-knows-it, priced as gemini-2.5-pro")


def test_a_budget_counts_what_the_model_that_answered_costs_over_sessions(
    server: AnswerServer, convbatch: Command, tmp_path: Path
) -> None:
    write_config(tmp_path, server)
    data = write_dialogues(tmp_path, {"dialogues": 4})
    limits = ("-j", "1", "--max-output-tokens", "100")
    done = convbatch(
        "run", data, "-m", "gemini-2.5-pro@rerouted", "-o", "run", *limits, "--max-cost", f"{1.2 * LITE}USD"
    )
    # The next two calls are reserved when the first is settled; at the price of the asked model none would be left.
    assert (done.code, len(server.requests["rerouted"])) == (4, 3), done.err
    assert "0.15 USD of 0.06 USD spent" in done.err
    done = convbatch("resume", "run", "-j", "1", "--max-cost", f"{3.2 * LITE}USD")
    assert (done.code, len(server.requests["rerouted"])) == (0, 4), done.err
