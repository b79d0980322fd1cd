"""`convbatch audit --plan` against simulated gateways: from the question to the answer, within the budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convbatch.auditing.plan import probe_file
from convbatch.simulator import FaultScript, Provider, Script
from convbatch.simulator.server import Server
from tests.conftest import Command

pytestmark = pytest.mark.slow

SCRIPT = Script.load(probe_file("en"))
ANOTHER_MODEL = FaultScript.of([{"action": "cheat", "model": "sim-small"}])
INPUT, OUTPUT = 1e-6, 4e-6
"""USD a token."""


@pytest.fixture
def providers(simulator: Callable[[Provider], Server], tmp_path: Path) -> list[Provider]:
    """Two gateways that claim one model, the second of which serves another one; and their configuration."""
    names = {"claude-opus-4-8": "sim-large"}
    both = [
        Provider(seed=1, script=SCRIPT, aliases=names),
        Provider(seed=2, script=SCRIPT, aliases=names, faults=ANOTHER_MODEL),
    ]
    lines: list[str] = []
    for name, protocol, path, provider in zip(
        ("source", "reseller"), ("anthropic", "openai"), ("", "/v1"), both, strict=True
    ):
        url = simulator(provider).url
        lines += [f"[gateways.{name}]", f'protocol = "{protocol}"', f'base_url = "{url}{path}"', 'auth = "none"']
        lines += ['currency = "USD"', f"[prices.{name}]", '"*" = { input = 1, output = 4 }']
    (tmp_path / "convbatch.toml").write_text("\n".join(lines))
    return both


def spent(providers: list[Provider]) -> float:
    calls = [call for provider in providers for call in provider.ledger.entries if call.billed]
    return sum((call.input_tokens or 0) * INPUT + (call.output_tokens or 0) * OUTPUT for call in calls)


def plan(convbatch: Command, *options: str, model: str = "sim-large") -> tuple[int, dict[str, Any], str]:
    base = ("audit", "--plan", "-m", model, "-g", "source", "-g", "reseller", "--reference", "source", "--json")
    done = convbatch(*base, *options)
    return done.code, json.loads(done.out), done.err


def verdicts(value: dict[str, Any]) -> dict[str, str]:
    return {one["question"]: one["verdict"] for one in value["pairs"][0]["questions"]}


def test_another_model_under_the_name_is_found_and_the_run_can_be_judged_again(
    convbatch: Command, providers: list[Provider], tmp_path: Path
) -> None:
    code, value, notes = plan(convbatch, "--repeats", "3", "-o", "a.html")
    assert (code, value["verdict"]) == (1, "different")
    assert verdicts(value)["knowledge_border"] == "different"
    assert value["summary"].startswith("DIFFERENT: sim-large@reseller is not like sim-large@source: it ")
    assert "expected cost: " in notes
    (folder,) = (tmp_path / "results").iterdir()
    assert folder.name.endswith("-audit")
    assert f"convbatch audit {folder} --reference source" in notes
    again = convbatch("audit", folder, "--reference", "source", "--json")
    assert json.loads(again.out) == value
    arrivals = [[entry.arrived_at for entry in provider.ledger.entries] for provider in providers]
    assert all(min(other) < sorted(one)[len(one) // 4] for one in arrivals for other in arrivals), "interleaved"


def test_the_cost_stays_within_the_budget_also_across_resume(
    convbatch: Command, providers: list[Provider], tmp_path: Path
) -> None:
    code, value, notes = plan(convbatch, "--budget", "0.02USD", "-o", "run")
    assert code == 4, "a reached budget is more severe than any verdict"
    assert value["exit_code"] == 4
    assert "note: 2 repeats of each probe, not 16" in notes
    assert 0 < spent(providers) <= 0.02
    assert convbatch("resume", "run").code == 4
    assert spent(providers) <= 0.02
    assert convbatch("resume", "run", "--max-cost", "1USD").code == 0
    assert convbatch("audit", "run").code in (1, 3)


def test_probes_are_asked_with_live_history_whatever_runs_of_the_config_do(
    convbatch: Command, providers: list[Provider], tmp_path: Path
) -> None:
    with (tmp_path / "convbatch.toml").open("a") as config:
        config.write('\n[run]\nhistory = "last"\n')
    code, _, _ = plan(convbatch, "--budget", "0.02USD", "-o", "run")
    assert code == 4
    assert json.loads((tmp_path / "run" / "run.json").read_bytes())["history"] == "live"
    assert providers[0].ledger.entries


def test_models_that_take_no_temperature_are_asked_without_one(convbatch: Command, providers: list[Provider]) -> None:
    code, value, notes = plan(convbatch, "--repeats", "2", model="claude-opus-4-8")
    assert code == 1
    assert "note: no temperature at claude-opus-4-8@source: every target is asked without one" in notes
    assert verdicts(value)["distribution"] == "different", "their replies are drawn all the same"
