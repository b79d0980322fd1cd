"""A pool: one model through several keys or endpoints as one target."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import convbatch as cb
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.limits import ServerLimits
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import Command, Start, wait_until, write_dataset
from tests.support.canary import CANARY, CANARY_ENV

Simulators = Callable[[Provider], Server]


def config(*servers: Server, pool: str = 'gateways = ["one", "two"]', **keys: Any) -> str:
    tables: list[str] = []
    for name, server in zip(("one", "two", "three"), servers, strict=False):
        values = {
            "protocol": "openai",
            "base_url": f"{server.url}/v1",
            "auth": "bearer",
            "key_env": CANARY_ENV,
            **keys.get(name, {}),
        }
        tables.append(
            "\n".join([f"[gateways.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())])
        )
    return "\n\n".join([*tables, f"[pools.both]\n{pool}"])


def replies_at(server: Server) -> int:
    return sum(entry.status == 200 for entry in server.provider.ledger.entries)


def attempts_of(folder: Path) -> pd.DataFrame:
    return cb.load(folder).attempts


def test_a_pool_is_one_target_and_each_attempt_names_its_member(
    simulator: Simulators, convbatch: Command, tmp_path: Path
):
    servers = [simulator(Provider(keys={CANARY}, latency_s=0.01)) for _ in range(2)]
    (tmp_path / "c.toml").write_text(config(*servers))
    write_dataset(tmp_path / "d.jsonl", 12, 3)
    done = convbatch("run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@both", "-j", "4", "-o", "run")
    assert done.code == 0, done.err
    assert "a pool of one, two" in done.err
    run = cb.load(tmp_path / "run")
    assert set(run.turns["target"]) == {"sim-good@both"}
    assert set(run.turns["gateway"]) == {"both"}
    sent = Counter(attempts_of(tmp_path / "run")["gateway"])
    assert sent == {"one": replies_at(servers[0]), "two": replies_at(servers[1])}
    assert min(sent.values()) > 6, sent
    wanted = [f'Turn {turn}: you said "question {turn} of dialogue {d}".' for d in range(12) for turn in range(1, 4)]
    assert [reply.partition(" History")[0] for reply in run.turns["reply"]] == wanted


def test_the_limits_of_each_member_hold_and_add_up(simulator: Simulators, convbatch: Command, tmp_path: Path):
    servers = [simulator(Provider(keys={CANARY}, limits=ServerLimits(rpm=rps, window_s=1.0))) for rps in (5, 15)]
    rates: dict[str, Any] = {name: {"rate": [f"{rps}/1s"], "jitter": 0.2} for name, rps in (("one", 5), ("two", 15))}
    (tmp_path / "c.toml").write_text(config(*servers, **rates))
    write_dataset(tmp_path / "d.jsonl", 60, 1)
    done = convbatch("run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@both", "-j", "20", "-o", "run")
    assert done.code == 0, done.err
    sent = Counter(attempts_of(tmp_path / "run")["gateway"])
    assert sum(sent.values()) == 60
    assert 1.5 < sent["two"] / sent["one"] < 6, sent
    for server in servers:
        assert all(entry.status == 200 for entry in server.provider.ledger.entries)


BROKEN = [{"match": {}, "action": "error", "kind": "no_balance"}]


@pytest.mark.parametrize(
    "provider",
    [
        pytest.param(lambda: Provider(keys={CANARY}, faults=FaultScript.of(BROKEN)), id="no balance"),
        pytest.param(lambda: Provider(keys={"another-key-of-this-test"}), id="refused key"),
    ],
)
def test_a_member_that_is_refused_is_taken_out_and_the_others_go_on(
    simulator: Simulators, convbatch: Command, tmp_path: Path, provider: Callable[[], Provider]
):
    servers = [simulator(provider()), simulator(Provider(keys={CANARY}))]
    (tmp_path / "c.toml").write_text(config(*servers))
    write_dataset(tmp_path / "d.jsonl", 6, 2)
    done = convbatch("run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@both", "-j", "4", "-o", "run")
    assert done.code == 0, done.err
    assert "sim-good@one is suspended" in done.err
    assert set(cb.load(tmp_path / "run").turns["status"]) == {"ok"}
    assert replies_at(servers[1]) == 12


def test_a_pool_of_which_no_member_is_left_is_suspended(simulator: Simulators, convbatch: Command, tmp_path: Path):
    servers = [simulator(Provider(keys={"another-key-of-this-test"})) for _ in range(2)]
    (tmp_path / "c.toml").write_text(config(*servers))
    write_dataset(tmp_path / "d.jsonl", 6, 2)
    done = convbatch("run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@both", "-o", "run")
    assert done.code == 3, done.err
    assert "no member is left" in done.err
    assert set(cb.load(tmp_path / "run").turns["status"]) == {"pending"}


@pytest.mark.slow
def test_a_pool_is_resumed_after_a_kill_without_paying_twice(
    simulator: Simulators, start: Start, command: Command, tmp_path: Path
):
    servers = [simulator(Provider(keys={CANARY}, latency_s=0.02)) for _ in range(2)]
    (tmp_path / "c.toml").write_text(config(*servers))
    write_dataset(tmp_path / "d.jsonl", 40, 3)
    process = start("run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@both", "-j", "8", "-o", "run")
    wait_until(lambda: sum(map(replies_at, servers)) > 40)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (tmp_path / "c.toml").unlink()  # everything but the keys is in the folder
    done = command("resume", "run")
    assert done.code == 0, done.err
    run = cb.load(tmp_path / "run")
    assert set(run.turns["status"]) == {"ok"}
    lost = sum(run.attempts["possibly_paid"].tolist())
    assert sum(map(replies_at, servers)) <= 120 + lost
    assert lost <= 8


@pytest.mark.parametrize(
    ("pool", "keys", "message"),
    [
        ('gateways = ["one"]', {}, "a pool has at least two gateways"),
        ('gateways = ["one", "one"]', {}, "'one' is twice in gateways"),
        ('gateways = ["one", "tow"]', {}, "unknown gateway 'tow' in pools.both"),
        ('gateways = "one"', {}, "gateways must be a list of names"),
        ('members = ["one", "two"]', {}, 'did you mean gateways = ["NAME", "OTHER"]?'),
        ("", {}, "the pool 'both' has no gateways"),
        ('gateways = ["one", "two"]', {"two": {"protocol": "responses"}}, "do not send or bill sim-good alike"),
        ('gateways = ["one", "two"]', {"two": {"currency": "CNY"}}, "currency = not set at one, CNY at two"),
        ('gateways = ["one", "simulator"]', {}, "mixes the built-in simulator with a real gateway"),
    ],
)
def test_a_wrong_pool_is_refused_with_its_line(
    simulator: Simulators, convbatch: Command, tmp_path: Path, pool: str, keys: dict[str, Any], message: str
):
    server = simulator(Provider(keys={CANARY}))
    text = config(server, server, pool=pool, **keys)
    (tmp_path / "c.toml").write_text(text)
    write_dataset(tmp_path / "d.jsonl", 1, 1)
    done = convbatch("run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@both", "-o", "run")
    assert done.code == 2
    assert message in done.err
    assert f"c.toml:{len(text.splitlines())}" in done.err or f"c.toml:{len(text.splitlines()) - 1}" in done.err
    assert not (tmp_path / "run").exists()
    assert not server.provider.ledger.entries


def test_a_pool_has_a_name_of_its_own(convbatch: Command, tmp_path: Path):
    (tmp_path / "c.toml").write_text('[pools.google]\ngateways = ["openai", "deepseek"]\n')
    write_dataset(tmp_path / "d.jsonl", 1, 1)
    done = convbatch("run", "d.jsonl", "-c", "c.toml", "-m", "m@google")
    assert done.code == 2
    assert "c.toml:1: 'google' is the name of a gateway, too" in done.err


def test_members_that_bill_differently_are_refused(simulator: Simulators, convbatch: Command, tmp_path: Path):
    servers = [simulator(Provider(keys={CANARY})) for _ in range(2)]
    prices = "\n".join(
        f'[prices.{name}."sim-good"]\ncurrency = "USD"\ninput = {price}\noutput = 2\n'
        for name, price in (("one", 1), ("two", 3))
    )
    (tmp_path / "c.toml").write_text(f"{config(*servers)}\n\n{prices}")
    write_dataset(tmp_path / "d.jsonl", 1, 1)
    done = convbatch("run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@both")
    assert done.code == 2
    assert "the members of the pool 'both' bill sim-good at different prices" in done.err
    own = '[prices.both."sim-good"]\ncurrency = "USD"\ninput = 1\noutput = 2\n'
    (tmp_path / "c.toml").write_text(f"{config(*servers)}\n\n{prices}\n{own}")
    done = convbatch("run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@both", "-o", "run")
    assert done.code == 0, done.err
    turns = cb.load(tmp_path / "run").turns
    paid = (sum(turns["input_tokens"].tolist()) + 2 * sum(turns["output_tokens"].tolist())) / 10**6
    assert sum(turns["cost"].tolist()) == pytest.approx(paid)


def test_doctor_asks_each_member_of_a_pool(simulator: Simulators, convbatch: Command, tmp_path: Path):
    servers = [simulator(Provider(keys={CANARY})) for _ in range(2)]
    (tmp_path / "c.toml").write_text(config(*servers))
    done = convbatch("doctor", "-c", "c.toml", "-m", "sim-good@both")
    assert done.code == 0, done.err
    assert "sim-good@one: answered" in done.out
    assert "sim-good@two: answered" in done.out
    assert convbatch("doctor", "-c", "c.toml", "-g", "both").code == 0


def test_a_key_added_to_a_pool_changes_no_key_of_a_turn(simulator: Simulators, convbatch: Command, tmp_path: Path):
    server = simulator(Provider(keys={CANARY, "another-key-of-this-test"}))
    write_dataset(tmp_path / "d.jsonl", 4, 2)
    (tmp_path / "c.toml").write_text(config(server, server, two={"key_env": "OTHER_KEY"}))
    alone = convbatch("run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@one", "-o", "alone")
    assert alone.code == 0, alone.err
    done = convbatch(
        "run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@both", "-o", "run", "--reuse", "alone",
        OTHER_KEY="another-key-of-this-test",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert len(server.provider.ledger.entries) == 8


def test_the_daily_count_of_each_member_is_carried_over_a_resume(
    simulator: Simulators, convbatch: Command, tmp_path: Path
):
    write_dataset(tmp_path / "e.jsonl", 14, 1)
    servers = [simulator(Provider(keys={CANARY}, limits=ServerLimits(rpd=8), latency_s=0.2)) for _ in range(2)]
    (tmp_path / "c.toml").write_text(
        config(*servers, one={"rpd": 8, "concurrency": 1}, two={"rpd": 8, "concurrency": 1})
    )
    cut = convbatch("run", "e.jsonl", "-c", "c.toml", "-m", "sim-good@both", "--deadline", "1s", "-o", "run")
    assert cut.code == 3, cut.err
    assert 4 <= sum(map(replies_at, servers)) < 14
    done = convbatch("resume", "run", "--deadline", "20s")
    assert done.code == 0, done.err
    assert sum(map(replies_at, servers)) == 14
    assert all(entry.status == 200 for server in servers for entry in server.provider.ledger.entries)


def test_a_request_that_failed_is_sent_again_by_another_member(
    simulator: Simulators, convbatch: Command, tmp_path: Path
):
    lost = FaultScript.of([{"match": {}, "action": "broken", "kind": "cut-json"}])  # at once: always the least loaded
    servers = [simulator(Provider(keys={CANARY}, faults=lost)), simulator(Provider(keys={CANARY}, latency_s=0.02))]
    (tmp_path / "c.toml").write_text(config(*servers))
    write_dataset(tmp_path / "d.jsonl", 40, 1)
    done = convbatch("run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@both", "-j", "4", "-o", "run")
    run = cb.load(tmp_path / "run")
    assert done.code == 0, done.err
    assert set(run.turns["status"]) == {"ok"}
    sent_again = run.attempts[run.attempts["attempt"] > 1]
    assert set(sent_again["gateway"]) == {"two"}
    assert len(sent_again) >= 1
