"""`Gateway`, `Target` and a configuration that are built in code: the same keys and checks as in a config file."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import convbatch as cb
from convbatch.config.loader import read_config
from convbatch.config.validators import GATEWAY_KEYS
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server, serve_in_thread
from tests.conftest import environment, write_dataset
from tests.support.canary import CANARY, CANARY_ENV
from tests.support.ledger_laws import statuses
from tests.support.tables import each


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve_in_thread(Provider()) as server:
        yield server


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "d.jsonl", 2, 2)
    return tmp_path


def test_a_gateway_has_every_key_of_its_table() -> None:
    fields = {field.name for field in dataclasses.fields(cb.Gateway)}
    assert fields == {*GATEWAY_KEYS, "models", "name", "prices"}


def test_a_gateway_in_code_is_the_one_of_the_file(server: Server) -> None:
    gateway = cb.Gateway(
        server.url, protocol="gemini", name="here", key_env=CANARY_ENV, rpm=6000, rate=["100/10s"], currency="CNY",
        models={"sim-*": {"concurrency": 3, "settings": cb.Settings(temperature=0.5)}},
        prices={"sim-good": {"input": 1, "output": 2}},
    )  # fmt: skip
    toml = f"""
[gateways.here]
protocol = "gemini"
base_url = "{server.url}"
key_env = "{CANARY_ENV}"
rpm = 6000
rate = ["100/10s"]
currency = "CNY"
[gateways.here.models."sim-*"]
concurrency = 3
settings = {{ temperature = 0.5 }}
[prices.here.sim-good]
input = 1
output = 2
"""
    Path("file.toml").write_text(toml)
    of_code = cb.run("d.jsonl", models=cb.Target("sim-good", gateway), out="code")
    of_file = cb.run("d.jsonl", models="sim-good@here", config="file.toml", out="file")
    (in_code,), (in_file,) = of_code.meta["targets"], of_file.meta["targets"]
    for one in (in_code, in_file):
        one["gateway"].pop("key_origin", None)
        one["prices"] = {key: value for key, value in (one["prices"] or {}).items() if key != "source"}
    assert in_code == in_file
    assert statuses(of_code.turns) == {"ok": 4}
    assert of_code.turns["cost"].notna().to_numpy().all()
    assert read_config(toml, Path("x.toml")).gateways["here"].values["rpm"] == 6000


def test_a_run_of_gateways_in_code_is_resumed_by_the_command_and_holds_no_key(server: Server) -> None:
    gateway = cb.Gateway(server.url, protocol="gemini", key_env=CANARY_ENV, name="here")
    run = cb.run("d.jsonl", models=[cb.Target("no-such", gateway), cb.Target("sim-good", gateway)], out="out")
    assert statuses(run.turns) == {"ok": 4, "pending": 4}
    command = [sys.executable, "-m", "convbatch", "resume", "out", "--no-progress"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "no-such@here" in done.stderr + done.stdout
    for file in Path("out").rglob("*"):
        assert file.is_dir() or CANARY.encode() not in file.read_bytes(), file


def test_targets_names_gateways_and_variants_can_be_mixed(server: Server) -> None:
    here = cb.Gateway(server.url, protocol="gemini", key_env=CANARY_ENV, name="here")
    terse = cb.Variant(name="terse", system="Be terse.")
    models = [cb.Target("sim-good", here, terse), "sim-drift@simulator"]
    run = cb.run("d.jsonl", models=models, variants=["none", terse])
    assert run.targets == (
        "sim-good@here#terse",
        "sim-drift@simulator",
        "sim-drift@simulator#terse",
    )
    assert cb.run("d.jsonl", models="sim-good", gateways=[here, "simulator"]).targets == (
        "sim-good@here",
        "sim-good@simulator",
    )


def test_a_config_may_be_a_mapping_and_takes_the_place_of_the_file(server: Server) -> None:
    Path("convbatch.toml").write_text("not toml")
    here = {"protocol": "gemini", "base_url": server.url, "key_env": CANARY_ENV}
    run = cb.run("d.jsonl", config={"gateways": {"here": here}, "run": {"models": ("sim-good@here",), "repeats": 2}})
    assert statuses(run.turns) == {"ok": 8}
    with pytest.raises(cb.SetupError, match="config= has no models to ask, and there is no models="):
        cb.run("d.jsonl", config={"gateways": {"here": here}})
    with pytest.raises(cb.InputError, match=r"config=: gateways\.here\.rpm: rpm must be"):
        cb.run("d.jsonl", models="sim-good@here", config={"gateways": {"here": {**here, "rpm": 0}}})


def test_a_gateway_in_code_replaces_one_of_the_config_with_its_prices(server: Server) -> None:
    other = 'protocol = "gemini"\nbase_url = "https://other.example"\nkey_env = "OTHER"\nrpm = 1\n'
    Path("convbatch.toml").write_text(
        f'[gateways.here]\n{other}[prices.here."*"]\ncurrency = "USD"\ninput = 1\noutput = 2\n'
    )
    here = cb.Gateway(server.url, protocol="gemini", key_env=CANARY_ENV, name="here")
    run = cb.run("d.jsonl", models=cb.Target("sim-good", here))
    assert statuses(run.turns) == {"ok": 4}
    assert run.turns["cost"].isna().to_numpy().all()


@each(
    ("given", "message"),
    [
        ({"base_url": "http://h.example/v1", "protocol": "openai"}, 'Gateway("h.example"): base_url: plain http'),
        ({"base_url": "https://h.example/v1", "protocol": "opnai"}, 'Gateway("h.example"): protocol: unknown protocol'),
        ({"base_url": "https://h.example/v1"}, "has no protocol"),
        ({"base_url": "https://h.example", "protocol": "gemini", "rpm": 1.5}, "rpm must be a whole number"),
        ({"base_url": "https://h.example", "protocol": "gemini", "key_env": CANARY}, "this looks like a key itself"),
        ({"base_url": "https://h.example", "protocol": "gemini", "prices": {"*": {"inptu": 1}}}, "prices.*"),
        ({"protocol": "openai"}, "a Gateway needs an address"),
    ],
)
def test_a_wrong_gateway_is_refused_where_it_is_built(given: dict[str, Any], message: str) -> None:
    with pytest.raises(cb.ConvbatchError) as raised:
        cb.Gateway(**given)
    assert message in str(raised.value)
    assert CANARY not in str(raised.value)


def test_two_different_gateways_of_one_name_are_refused() -> None:
    one, other = (cb.Gateway("https://h.example/v1", protocol="openai", key_env="K", rpm=rpm) for rpm in (1, 2))
    with pytest.raises(cb.SetupError, match=r"two different Gateways have the name 'h\.example'"):
        cb.run("d.jsonl", models=[cb.Target("a", one), cb.Target("b", other)])


def test_a_judge_may_be_a_target(server: Server) -> None:
    here = cb.Gateway(server.url, protocol="gemini", key_env=CANARY_ENV, name="here")
    dataset = cb.Dataset([{"turns": [{"user": "Hi", "checks": [{"llm_rubric": "Is it polite?"}]}]}])
    run = cb.run(dataset, models="sim-good@simulator", judge=cb.Target("sim-good", here))
    assert list(run.verdicts["judge"]) == ["sim-good@here"]
    assert json.loads((run.path / "run.json").read_text())["judges"][0]["name"] == "sim-good@here"
