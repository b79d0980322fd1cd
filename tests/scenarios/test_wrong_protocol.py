"""Gateways whose protocol does not fit their address, and models that exist only streamed or only on Responses."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import convbatch as cb
from convbatch.cli.main import app
from convbatch.protocols import PROTOCOLS
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server

Simulator = Callable[[Provider], Server]
PAIRS = list(itertools.permutations(PROTOCOLS, 2))
"""The protocol that is asked, and the one that answers."""


def write_config(folder: Path, servers: dict[str, Server], pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Write a gateway for each pair, and return the options that ask all of them."""
    tables: list[str] = []
    for asked, answering in pairs:
        base = servers[answering].url + ("" if asked == "gemini" else "/v1")
        tables.append(f'[gateways.{asked}-{answering}]\nprotocol = "{asked}"\nbase_url = "{base}"\nauth = "none"\n')
    (folder / "convbatch.toml").write_text("\n".join(tables))
    (folder / "d.jsonl").write_text(json.dumps({"id": "d", "turns": [{"user": "Hi?"}, {"user": "And?"}]}))
    return [word for asked, answering in pairs for word in ("-m", f"sim-good@{asked}-{answering}")]


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    monkeypatch.chdir(folder)
    return CliRunner().invoke(app, ["run", "d.jsonl", "-o", "r", "--no-progress", "--deadline", "20s", *words])


@pytest.mark.parametrize("stream", [(), ("--stream",)], ids=["whole", "streamed"])
@pytest.mark.slow
def test_a_reply_of_another_protocol_is_read_and_the_protocol_named_at_once(
    tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, stream: tuple[str, ...]
) -> None:
    servers = {wire: simulator(Provider(answers_as=wire)) for wire in PROTOCOLS}
    done = run(tmp_path, monkeypatch, *write_config(tmp_path, servers, PAIRS), *stream)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    for asked, answering in PAIRS:
        named = rf'sim-good@{asked}-{answering}: an? [\w ]+ answer on the [\w ]+ wire: protocol = "{answering}"\?'
        assert len(re.findall(named, said)) == 1, (asked, answering)
    turns: Any = cb.load("r").turns
    assert set(turns["status"]) == {"ok"}
    assert turns["output_tokens"].notna().all()


def test_a_path_that_only_another_protocol_has_names_it(
    tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = {wire: simulator(Provider(wires=(wire,))) for wire in PROTOCOLS}
    done = run(tmp_path, monkeypatch, *write_config(tmp_path, servers, PAIRS))
    assert done.exit_code == 3, done.output
    suspended = cb.load("r").suspended
    assert len(suspended) == len(PAIRS)
    for asked, answering in PAIRS:
        why = suspended[f"sim-good@{asked}-{answering}"]
        assert why.startswith("the gateway has no such path")
        assert re.search(rf'protocol = (?:"\w+" or )?"{answering}"', why), why
    assert all(len(server.provider.ledger.entries) == 3 for server in servers.values()), "one request of each target"


def test_a_model_that_exists_only_streamed_or_only_on_responses_names_the_way_out(
    tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = {"any": simulator(Provider())}
    write_config(tmp_path, servers, [("openai", "any"), ("anthropic", "any"), ("responses", "any")])
    targets = ["sim-streamed@openai-any", "sim-streamed@anthropic-any", "sim-responses@openai-any"]
    (tmp_path / "d.jsonl").write_text(
        "".join(json.dumps({"id": f"d{n}", "turns": [{"user": f"Hi {n}?"}]}) + "\n" for n in range(12))
    )
    run(tmp_path, monkeypatch, "-j", "1", *(word for target in targets for word in ("-m", target)))
    why = cb.load("r").suspended
    assert set(why) == set(targets)
    assert all("use --stream, or set stream = true" in why[target] for target in targets[:2])
    assert 'protocol = "responses" (-g openai-responses' in why[targets[2]]


def test_one_dialogue_is_enough_to_name_the_way_out(
    tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, {"any": simulator(Provider())}, [("openai", "any")])
    done = run(tmp_path, monkeypatch, "-m", "sim-streamed@openai-any")
    assert done.exit_code == 3
    said = " ".join(done.output.split())
    assert "only supports stream mode" in said
    assert "hint: it answers only streamed requests: use --stream, or set stream = true for this model" in said
