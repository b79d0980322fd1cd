"""Interrupted and resumed runs end like an undisturbed run: no reply is lost, and repeated payments are reported."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import convbatch as cb
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import Command, Start, config_for, wait_until, write_dataset
from tests.support.ledger_laws import check_histories, possibly_paid, statuses

Simulators = Callable[[Provider], Server]


def prepare(
    folder: Path, simulator: Simulators, *, dialogues: int, turns: int, latency_s: float, wires: tuple[str, ...]
) -> Provider:
    dataset = write_dataset(folder / "d.jsonl", dialogues, turns)
    provider = Provider(script=Script.load(dataset), latency_s=latency_s)
    url = simulator(provider).url
    models = ", ".join(f'"sim-good@at-{wire}"' for wire in wires)
    (folder / "convbatch.toml").write_text(config_for(url, wires=wires, models=f"[run]\nmodels = [{models}]\n"))
    return provider


def test_resume_of_a_finished_run_sends_no_request(tmp_path: Path, simulator: Simulators, convbatch: Command) -> None:
    provider = prepare(tmp_path, simulator, dialogues=4, turns=3, latency_s=0, wires=("gemini",))
    assert convbatch("run", "d.jsonl", "-o", "out").code == 0
    asked = provider.ledger.requests
    done = convbatch("resume", "out")
    assert (done.code, provider.ledger.requests) == (0, asked)


def test_a_killed_run_continues_inside_its_dialogues(
    tmp_path: Path, simulator: Simulators, convbatch: Command, start: Start
) -> None:
    provider = prepare(
        tmp_path, simulator, dialogues=20, turns=4, latency_s=0.05, wires=("gemini", "openai", "responses")
    )
    victim = start("run", "d.jsonl", "-o", "out", "-j", "8")
    wait_until(lambda: provider.ledger.requests > 60)
    in_flight = provider.in_flight
    victim.kill()
    victim.communicate()
    assert in_flight > 0
    before = cb.load(tmp_path / "out")
    assert statuses(before.turns)["pending"] > 0
    assert possibly_paid(before.turns) >= 1

    done = convbatch("resume", tmp_path / "out")
    after = cb.load(tmp_path / "out").turns
    assert done.code == 0, done.err
    assert statuses(after) == {"ok": 240}
    assert provider.ledger.billed <= 240 + 24
    assert possibly_paid(after) >= provider.ledger.billed - 240
    assert check_histories(provider.ledger.entries) == provider.ledger.requests


@pytest.mark.slow
def test_the_first_interrupt_finishes_requests_in_flight(
    tmp_path: Path, simulator: Simulators, convbatch: Command, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, dialogues=60, turns=3, latency_s=0.2, wires=("gemini",))
    victim = start("run", "d.jsonl", "-o", "out", "-j", "8")
    wait_until(lambda: provider.ledger.requests > 12)
    victim.send_signal(signal.SIGINT)
    _, err = victim.communicate(timeout=20)
    turns = cb.load(tmp_path / "out").turns
    assert victim.returncode == 130
    assert f"convbatch resume {tmp_path}/out" in err.decode()
    assert statuses(turns)["ok"] == provider.ledger.billed
    assert possibly_paid(turns) == 0
    assert convbatch("resume", "out").code == 0
    assert provider.ledger.billed == 180


def test_the_second_interrupt_abandons_requests_in_flight_as_possibly_paid(
    tmp_path: Path, simulator: Simulators, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, dialogues=20, turns=2, latency_s=20, wires=("gemini",))
    victim = start("run", "d.jsonl", "-o", "out", "-j", "16")
    wait_until(lambda: provider.in_flight > 0)
    time.sleep(0.2)
    asked = provider.in_flight
    victim.send_signal(signal.SIGINT)
    time.sleep(0.3)
    victim.send_signal(signal.SIGINT)
    _, err = victim.communicate(timeout=10)
    assert victim.returncode == 130
    assert b"possibly paid" in err
    assert possibly_paid(cb.load(tmp_path / "out").turns) == asked


@pytest.mark.slow
def test_a_second_process_is_refused_at_once(
    tmp_path: Path, simulator: Simulators, convbatch: Command, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, dialogues=20, turns=2, latency_s=0.5, wires=("gemini",))
    first = start("run", "d.jsonl", "-o", "out", "-j", "2")
    try:
        wait_until(lambda: provider.ledger.requests > 0)
        second = convbatch("resume", "out")
        assert second.code == 2
        assert "in use by another process" in second.err
    finally:
        first.kill()
        first.communicate()


def test_resume_repeats_errors_unless_no_retry_errors_is_given(
    tmp_path: Path, simulator: Simulators, convbatch: Command
) -> None:
    from convbatch.simulator.fault_script import FaultScript

    provider = prepare(tmp_path, simulator, dialogues=6, turns=3, latency_s=0, wires=("gemini",))
    broken = {"match": {"turn": 2}, "action": "error", "kind": "bad_request"}
    provider.faults = FaultScript.of([broken], source="test")
    assert convbatch("run", "d.jsonl", "-o", "out", "-j", "1").code == 3
    assert statuses(cb.load(tmp_path / "out").turns) == {"ok": 6, "error": 6, "skipped": 6}
    provider.faults = FaultScript()
    assert convbatch("resume", "out", "--no-retry-errors").code == 3
    assert convbatch("resume", "out").code == 0
    assert statuses(cb.load(tmp_path / "out").turns) == {"ok": 18}
    assert provider.ledger.billed == 18


if os.name != "posix":
    raise RuntimeError("these tests send POSIX signals")
