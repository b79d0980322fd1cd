"""kill -9 at any moment, again and again: real processes, real sockets, a real disk, and the ledger as the judge.

CI kills 60 times; `KILLS=200 python -m pytest -n0 -m slow tests/scenarios/test_kills.py` does so more often. The same
with every single call of the journal as the moment, and with power cuts, is played in virtual time:
`test_virtual_runs.py`.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import convbatch as cb
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.ledger import Entry, read_ledger
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server, serve_in_thread
from tests.conftest import Command, Start, config_for, wait_until, write_dataset
from tests.support.ledger_laws import every_bill_is_told, no_history_crosses, possibly_paid, same_rows, statuses

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "60"))
WIRES = ("gemini", "openai")
IN_FLIGHT = 32
"""Of both targets."""
FAULTS: list[Mapping[str, Any]] = [
    {"match": {"every": 41}, "action": "rate-limit", "seconds": 0.2},
    {"match": {"every": 23}, "action": "error", "kind": "overloaded"},
    {"match": {"every": 29}, "action": "reset", "when": "billed"},
    {"match": {"every": 31}, "action": "truncate"},
    {"match": {"every": 37}, "action": "reset", "when": "read"},
]


@dataclass(slots=True)
class Kills:
    """Somebody who starts the command and kills it, at moments drawn from a seed."""

    folder: Path
    start: Start
    chance: random.Random
    provider: Provider | None = None
    """Where the gateway lives in this process."""
    done: int = 0
    caught: int = 0
    """Kills while the gateway was answering."""

    def begin(self) -> subprocess.Popen[bytes]:
        """Begin the run, or go on with it where there is one."""
        begun = (self.folder / "out" / "run.json").exists()
        return self.start("resume", "out") if begun else self.start("run", "d.jsonl", "-o", "out")

    def kill(self, victim: subprocess.Popen[bytes], within_s: float) -> None:
        """Kill it after a while."""
        time.sleep(self.chance.uniform(0, within_s))
        self.caught += self.provider is not None and self.provider.in_flight > 0
        victim.kill()
        _, err = victim.communicate()
        assert victim.returncode == -9, f"the run ended before it was killed: {err.decode()}"
        self.done += 1


def configure(folder: Path, url: str, *, models: str = "") -> None:
    named = ", ".join(f'"sim-good@at-{wire}"' for wire in WIRES)
    text = f"[run]\nmodels = [{named}]\n{models}"
    (folder / "convbatch.toml").write_text(config_for(url, wires=WIRES, models=text))


def calm_table(folder: Path, command: Command) -> Any:
    """The table of a run of the same dataset that nobody disturbs."""
    with serve_in_thread(Provider(script=Script.load(folder / "d.jsonl"))) as server:
        configure(folder, server.url)
        done = command("run", "d.jsonl", "-o", "calm", timeout=200)
    assert done.code == 0, done.err
    return cb.load(folder / "calm").turns


def hold_all_laws(
    folder: Path, command: Command, calm: Any, entries: Callable[[], Iterable[Entry]], kills: int
) -> None:
    """Finish the run; it must end as the calm one, and account for every bill."""
    codes: list[int] = []
    while 0 not in codes:
        codes.append(command("resume", "out", timeout=200).code)
        assert set(codes) <= {0, 3}, codes
        assert len(codes) < 5, codes
    turns = cb.load(folder / "out").turns
    same_rows(calm, turns)
    ledger = list(entries())
    again = every_bill_is_told(ledger, turns)
    assert no_history_crosses(ledger) == len(ledger)
    billed, rows = sum(entry.billed for entry in ledger), len(turns)
    ambiguous = sum(cls == "ambiguous" for cls in cb.load(folder / "out").attempts["class"].dropna())
    assert billed == rows + again <= rows + ambiguous + kills * IN_FLIGHT
    told = possibly_paid(turns)
    print(f"\n{kills} kills: {rows} rows, {billed} billed, {again} of them again, {told} told as possibly paid")  # noqa: T201


def with_requests_in_flight(kills: Kills, provider: Provider) -> None:
    begun = provider.ledger.requests
    victim = kills.begin()
    wait_until(lambda: provider.ledger.requests > begun)
    kills.kill(victim, 0.25)


def while_starting(kills: Kills, provider: Provider) -> None:
    """In its first 300 ms the command imports, reads its configuration and copies the dataset."""
    kills.kill(kills.begin(), 0.3)


def while_recovering(kills: Kills, provider: Provider) -> None:
    """From the moment the folder is locked: the journal is read and mended, then it goes on."""
    victim = kills.begin()
    pid = f"{victim.pid}\n".encode()
    wait_until(lambda: _content(kills.folder / "out" / "journal" / "lock") == pid)
    kills.kill(victim, 0.06)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


Moment = Callable[[Kills, Provider], None]
LOOPS: dict[str, tuple[tuple[Moment, ...], int, list[Mapping[str, Any]]]] = {
    "requests in flight": ((with_requests_in_flight,), KILLS // 3, []),
    "starting and recovering": ((while_starting, while_recovering, with_requests_in_flight), KILLS // 3, []),
    "a gateway in trouble": ((with_requests_in_flight, while_recovering), KILLS // 4, FAULTS),
}


@pytest.mark.parametrize(("moments", "kills", "faults"), LOOPS.values(), ids=LOOPS.keys())
def test_a_run_killed_again_and_again_ends_as_one_that_was_left_alone(
    moments: tuple[Moment, ...],
    kills: int,
    faults: list[Mapping[str, Any]],
    tmp_path: Path,
    simulator: Callable[[Provider], Server],
    command: Command,
    start: Start,
) -> None:
    dataset = write_dataset(tmp_path / "d.jsonl", 8 * kills, 3)
    calm = calm_table(tmp_path, command)
    provider = Provider(script=Script.load(dataset), faults=FaultScript.of(faults), latency_s=(0.1, 0.5))
    configure(tmp_path, simulator(provider).url)
    killer = Kills(tmp_path, start, random.Random(20261122), provider)
    while killer.done < kills:
        moments[killer.done % len(moments)](killer, provider)
    assert killer.caught >= kills // 5
    provider.faults = FaultScript()
    hold_all_laws(tmp_path, command, calm, lambda: provider.ledger.entries, kills)


def test_a_gateway_that_dies_with_the_run_is_accounted_for_as_well(
    tmp_path: Path, command: Command, start: Start
) -> None:
    """Both are killed within milliseconds of each other, in either order; each life of the gateway has its ledger."""
    kills = max(KILLS // 12, 1)
    write_dataset(tmp_path / "d.jsonl", 12 * kills, 3)
    calm = calm_table(tmp_path, command)
    killer = Kills(tmp_path, start, random.Random(7))
    lives: list[Path] = []
    port = "0"

    def gateway() -> subprocess.Popen[bytes]:
        nonlocal port
        lives.append(tmp_path / f"ledger-{len(lives)}.jsonl")
        server = start("simulate", "--port", port, "--script", "d.jsonl", "--latency", "150ms", "--ledger", lives[-1])
        assert server.stdout is not None
        port = server.stdout.readline().decode().strip().rpartition(":")[2]
        configure(tmp_path, f"http://127.0.0.1:{port}")
        return server

    while killer.done < kills:
        server = gateway()
        run = killer.begin()
        wait_until(lambda: lives[-1].stat().st_size > 0)
        time.sleep(killer.chance.uniform(0.1, 0.3))
        if killer.chance.random() < 0.5:
            server.kill()
            killer.kill(run, 0.02)
        else:
            killer.kill(run, 0.02)
            server.kill()
        server.communicate()
    gateway()
    hold_all_laws(tmp_path, command, calm, lambda: (e for life in lives for e in read_ledger(life)), kills)


def test_a_budget_holds_however_often_the_run_is_killed(
    tmp_path: Path, simulator: Callable[[Provider], Server], command: Command, start: Start
) -> None:
    """What may have been paid is taken at its worst, so kills make the budget smaller, never the bill larger."""
    kills = 5  # many more, and what may have been paid leaves nothing of the budget to be killed for
    dataset = write_dataset(tmp_path / "d.jsonl", 100, 3)
    provider = Provider(script=Script.load(dataset), faults=FaultScript.of(FAULTS), latency_s=(0.05, 0.3))
    price = "".join(f'[prices.at-{wire}."*"]\ncurrency = "USD"\ninput = 1\noutput = 1\n' for wire in WIRES)
    options = 'max_cost = "0.02USD"\n[run.settings]\nmax_output_tokens = 20\n'
    configure(tmp_path, simulator(provider).url, models=options + price)
    killer = Kills(tmp_path, start, random.Random(3), provider)
    while killer.done < kills:
        with_requests_in_flight(killer, provider)
    assert command("resume", "out", timeout=200).code == 4
    spent = sum(entry.input_tokens or 0 for entry in provider.ledger.entries if entry.billed)
    spent += sum(entry.output_tokens or 0 for entry in provider.ledger.entries if entry.billed)
    assert Decimal("0.005") < Decimal(spent) / 1_000_000 <= Decimal("0.02")
    turns = cb.load(tmp_path / "out").turns
    every_bill_is_told(provider.ledger.entries, turns)
    assert statuses(turns)["pending"] > 0
