"""Repeated kill -9 at random times: real processes, sockets and disk, checked against the ledger.

CI kills 48 times; `KILLS=200 python -m pytest -n0 -m slow tests/scenarios/test_kills.py` does so more often.
`test_virtual_runs.py` tests kills at each call of the journal, and power cuts, in virtual time.
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
from tests.support.ledger_laws import check_bills, check_histories, possibly_paid, same_rows, statuses

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "48"))
WIRES = ("gemini", "openai")
IN_FLIGHT = 32
"""Requests in flight at both targets together."""
FAULTS: list[Mapping[str, Any]] = [
    {"match": {"every": 41}, "action": "rate-limit", "seconds": 0.2},
    {"match": {"every": 23}, "action": "error", "kind": "overloaded"},
    {"match": {"every": 29}, "action": "reset", "when": "billed"},
    {"match": {"every": 31}, "action": "truncate"},
    {"match": {"every": 37}, "action": "reset", "when": "read"},
]


@dataclass(slots=True)
class Kills:
    """Starts the command and kills it at times drawn from a seed."""

    folder: Path
    start: Start
    chance: random.Random
    provider: Provider | None = None
    """Set when the gateway runs in this process."""
    done: int = 0
    while_answering: int = 0
    """Kills while the gateway was answering."""

    def begin(self) -> subprocess.Popen[bytes]:
        """Start the run, or resume it if it exists."""
        begun = (self.folder / "out" / "run.json").exists()
        return self.start("resume", "out") if begun else self.start("run", "d.jsonl", "-o", "out")

    def kill(self, victim: subprocess.Popen[bytes], within_s: float) -> None:
        """Kill the process after a random time."""
        time.sleep(self.chance.uniform(0, within_s))
        self.while_answering += self.provider is not None and self.provider.in_flight > 0
        victim.kill()
        _, err = victim.communicate()
        assert victim.returncode == -9, f"the run ended before it was killed: {err.decode()}"
        self.done += 1


def configure(folder: Path, url: str, *, models: str = "") -> None:
    named = ", ".join(f'"sim-good@at-{wire}"' for wire in WIRES)
    text = f"[run]\nmodels = [{named}]\n{models}"
    (folder / "convbatch.toml").write_text(config_for(url, wires=WIRES, models=text))


def calm_table(folder: Path, command: Command) -> Any:
    """Return the table of an undisturbed run of the same dataset."""
    with serve_in_thread(Provider(script=Script.load(folder / "d.jsonl"))) as server:
        configure(folder, server.url)
        done = command("run", "d.jsonl", "-o", "calm", timeout=200)
    assert done.code == 0, done.err
    return cb.load(folder / "calm").turns


def finish_and_check(
    folder: Path, command: Command, calm: Any, entries: Callable[[], Iterable[Entry]], kills: int
) -> None:
    """Finish the run; check that it ends like the undisturbed one and reports every billed request."""
    codes: list[int] = []
    while 0 not in codes:
        codes.append(command("resume", "out", timeout=200).code)
        assert set(codes) <= {0, 3}, codes
        assert len(codes) < 5, codes
    turns = cb.load(folder / "out").turns
    same_rows(calm, turns)
    ledger = list(entries())
    again = check_bills(ledger, turns)
    assert check_histories(ledger) == len(ledger)
    billed, rows = sum(entry.billed for entry in ledger), len(turns)
    ambiguous = sum(cls == "ambiguous" for cls in cb.load(folder / "out").attempts["class"].dropna())
    assert billed == rows + again <= rows + ambiguous + kills * IN_FLIGHT
    unsure = possibly_paid(turns)
    print(f"\n{kills} kills: {rows} rows, {billed} billed, {again} of them again, {unsure} possibly paid")  # noqa: T201


def with_requests_in_flight(kills: Kills, provider: Provider) -> None:
    begun = provider.ledger.requests
    victim = kills.begin()
    wait_until(lambda: provider.ledger.requests > begun)
    kills.kill(victim, 0.25)


def while_starting(kills: Kills, provider: Provider) -> None:
    """Kill in the first 300 ms, in which the command imports, reads its configuration and copies the dataset."""
    kills.kill(kills.begin(), 0.3)


def while_recovering(kills: Kills, provider: Provider) -> None:
    """Kill after the folder is locked, while the journal is read and repaired."""
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
    "a failing gateway": ((with_requests_in_flight, while_recovering), KILLS // 4, FAULTS),
}


@pytest.mark.parametrize(("moments", "kills", "faults"), LOOPS.values(), ids=LOOPS.keys())
def test_a_run_killed_repeatedly_ends_like_an_undisturbed_run(
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
    assert killer.while_answering >= kills // 5
    provider.faults = FaultScript()
    finish_and_check(tmp_path, command, calm, lambda: provider.ledger.entries, kills)


def test_bills_of_a_gateway_killed_with_the_run_are_reported(tmp_path: Path, command: Command, start: Start) -> None:
    """Both are killed within milliseconds, in either order; each process of the gateway has its own ledger."""
    kills = max(KILLS // 12, 1)
    write_dataset(tmp_path / "d.jsonl", 12 * kills, 3)
    calm = calm_table(tmp_path, command)
    killer = Kills(tmp_path, start, random.Random(7))
    ledgers: list[Path] = []
    port = "0"

    def gateway() -> subprocess.Popen[bytes]:
        nonlocal port
        ledgers.append(tmp_path / f"ledger-{len(ledgers)}.jsonl")
        server = start("simulate", "--port", port, "--script", "d.jsonl", "--latency", "150ms", "--ledger", ledgers[-1])
        assert server.stdout is not None
        port = server.stdout.readline().decode().strip().rpartition(":")[2]
        configure(tmp_path, f"http://127.0.0.1:{port}")
        return server

    while killer.done < kills:
        server = gateway()
        run = killer.begin()
        wait_until(lambda: ledgers[-1].stat().st_size > 0)
        time.sleep(killer.chance.uniform(0.1, 0.3))
        if killer.chance.random() < 0.5:
            server.kill()
            killer.kill(run, 0.02)
        else:
            killer.kill(run, 0.02)
            server.kill()
        server.communicate()
    gateway()
    finish_and_check(tmp_path, command, calm, lambda: (e for life in ledgers for e in read_ledger(life)), kills)


def test_a_budget_holds_across_repeated_kills(
    tmp_path: Path, simulator: Callable[[Provider], Server], command: Command, start: Start
) -> None:
    """Possibly paid requests count at their upper bound, so kills reduce the budget and never increase the bill."""
    kills = 5  # with many more, possibly paid requests use up the budget before the last kill
    dataset = write_dataset(tmp_path / "d.jsonl", 100, 3)
    faults = FaultScript.of([fault for fault in FAULTS if fault["action"] != "rate-limit"])  # it states 60/min
    provider = Provider(script=Script.load(dataset), faults=faults, latency_s=(0.05, 0.3))
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
    check_bills(provider.ledger.entries, turns)
    assert statuses(turns)["pending"] > 0
