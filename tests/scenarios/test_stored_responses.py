"""Dialogues that go on from a response which the provider keeps, by its id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

import convbatch as cb
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import Command, Start, config_for, wait_until, write_dataset
from tests.support.ledger_laws import check_histories, statuses

Simulators = Callable[[Provider], Server]
STORED = 'replay = "stored"\n'
MODEL = "sim-signed@at-responses"


def prepare(folder: Path, simulator: Simulators, key: str = STORED, *, latency_s: float = 0) -> Provider:
    dataset = write_dataset(folder / "d.jsonl", 6, 4)
    provider = Provider(script=Script.load(dataset), latency_s=latency_s)
    text = config_for(simulator(provider).url, wires=("responses",))
    (folder / "convbatch.toml").write_text(text.replace("[gateways.at-responses]\n", f"[gateways.at-responses]\n{key}"))
    return provider


def table(folder: Path, name: str) -> list[tuple[Any, ...]]:
    turns = cb.load(folder / name).turns.sort_values(["dialogue_index", "turn"])
    return list(turns[["dialogue", "turn", "status", "reply"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("stream", [(), ("--stream",)], ids=["whole", "streamed"])
def test_the_model_sees_the_same_history_by_id_as_in_full(
    tmp_path: Path, simulator: Simulators, convbatch: Command, stream: tuple[str, ...]
) -> None:
    provider = prepare(tmp_path, simulator)
    run = convbatch("run", "d.jsonl", "-m", MODEL, "-o", "out", *stream)
    assert run.code == 0, run.err
    assert "the provider keeps every turn" in run.err + run.out
    assert check_histories(provider.ledger.entries) == provider.ledger.requests == 24

    plain = prepare(tmp_path, simulator, "")
    assert convbatch("run", "d.jsonl", "-m", MODEL, "-o", "plain", *stream).code == 0
    assert table(tmp_path, "out") == table(tmp_path, "plain")
    seen = [sorted(str(entry.history_sha) for entry in each.ledger.entries) for each in (provider, plain)]
    assert seen[0] == seen[1]


@pytest.mark.slow
def test_a_killed_run_goes_on_from_the_ids_in_its_journal(
    tmp_path: Path, simulator: Simulators, convbatch: Command, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, latency_s=0.05)
    victim = start("run", "d.jsonl", "-m", MODEL, "-o", "out", "-j", "2")
    wait_until(lambda: provider.ledger.requests > 8)
    victim.kill()
    victim.communicate()
    assert statuses(cb.load(tmp_path / "out").turns)["pending"] > 0

    done = convbatch("resume", "out")
    assert done.code == 0, done.err
    assert statuses(cb.load(tmp_path / "out").turns) == {"ok": 24}
    assert check_histories(provider.ledger.entries) == provider.ledger.requests


def test_an_id_that_the_provider_no_longer_has_is_an_error_with_the_way_out(
    tmp_path: Path, simulator: Simulators, convbatch: Command
) -> None:
    provider = prepare(tmp_path, simulator)
    lines = [orjson.loads(line) for line in (tmp_path / "d.jsonl").read_bytes().splitlines()]
    short = [{**line, "turns": line["turns"][:2]} for line in lines]
    (tmp_path / "short.jsonl").write_bytes(b"\n".join(map(orjson.dumps, short)))
    assert convbatch("run", "short.jsonl", "-m", MODEL, "-o", "short").code == 0

    provider.responses.forget()
    convbatch("run", "d.jsonl", "-m", MODEL, "-o", "out", "--reuse", "short")
    turns = cb.load(tmp_path / "out").turns
    assert statuses(turns[turns["turn"] <= 2]) == {"ok": 12}
    failed = turns[turns["status"] == "error"]
    assert len(failed) > 0
    for message in failed["error_message"]:
        assert "Previous response with id" in message
        assert "A new run asks its dialogues from their first turn" in message


def test_a_stored_run_takes_no_reply_that_was_not_stored(
    tmp_path: Path, simulator: Simulators, convbatch: Command
) -> None:
    prepare(tmp_path, simulator, "")
    assert convbatch("run", "d.jsonl", "-m", MODEL, "-o", "plain").code == 0
    provider = prepare(tmp_path, simulator)
    done = convbatch("run", "d.jsonl", "-m", MODEL, "-o", "out", "--reuse", "plain")
    assert (done.code, provider.ledger.requests) == (0, 24)


def test_other_protocols_refuse_the_key(tmp_path: Path, simulator: Simulators, convbatch: Command) -> None:
    prepare(tmp_path, simulator)
    config = tmp_path / "convbatch.toml"
    config.write_text(config.read_text().replace('protocol = "responses"', 'protocol = "openai"'))
    refused = convbatch("run", "d.jsonl", "-m", MODEL)
    assert refused.code == 2
    assert "replay 'stored' does not apply to the protocol 'openai'" in refused.err
