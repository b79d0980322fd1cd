"""Stop anywhere, resume, end where an undisturbed run ends: nothing is lost, nothing is paid twice in silence."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import convbatch as cb
from convbatch.simulator.script import Script
from convbatch.simulator.server import Server
from convbatch.simulator.world import World
from tests.conftest import Command, config_for, environment, write_dataset
from tests.ledger_laws import billed_turns, no_history_crosses, possibly_paid, same_rows, statuses

Simulators = Callable[[World], Server]


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the command and leave it running; what still runs when the test ends is ended."""
    with ExitStack() as stack:

        def begin(*args: str) -> subprocess.Popen[bytes]:
            victim = subprocess.Popen(
                [sys.executable, "-m", "convbatch", *args],
                cwd=tmp_path,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            stack.enter_context(victim)  # closes its pipe and waits
            stack.callback(victim.kill)
            return victim

        yield begin


def prepare(
    folder: Path, simulator: Simulators, *, dialogues: int, turns: int, latency_s: float, wires: tuple[str, ...]
) -> World:
    dataset = write_dataset(folder / "d.jsonl", dialogues, turns)
    world = World(script=Script.load(dataset), latency_s=latency_s)
    url = simulator(world).url
    models = ", ".join(f'"sim-good@at-{wire}"' for wire in wires)
    (folder / "convbatch.toml").write_text(config_for(url, wires=wires, models=f"[run]\nmodels = [{models}]\n"))
    return world


def wait_until(claim: Callable[[], bool], *, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if claim():
            return True
        time.sleep(0.002)
    return False


def test_resume_of_a_finished_run_asks_nothing(tmp_path: Path, simulator: Simulators, convbatch: Command) -> None:
    world = prepare(tmp_path, simulator, dialogues=4, turns=3, latency_s=0, wires=("gemini",))
    assert convbatch("run", "d.jsonl", "-o", "out").code == 0
    asked = world.ledger.requests
    done = convbatch("resume", "out")
    assert (done.code, world.ledger.requests) == (0, asked)


def test_a_killed_run_goes_on_inside_its_dialogues(
    tmp_path: Path, simulator: Simulators, convbatch: Command, start: Start
) -> None:
    world = prepare(tmp_path, simulator, dialogues=40, turns=4, latency_s=0.05, wires=("gemini", "openai"))
    victim = start("run", "d.jsonl", "-o", "out", "-j", "8")
    assert wait_until(lambda: world.ledger.requests > 60)
    in_flight = world.in_flight
    victim.kill()
    victim.communicate()
    assert in_flight > 0
    before = cb.load(tmp_path / "out")
    assert statuses(before.turns)["pending"] > 0
    assert possibly_paid(before.turns) >= 1

    done = convbatch("resume", tmp_path / "out")
    after = cb.load(tmp_path / "out").turns
    assert done.code == 0, done.err
    assert statuses(after) == {"ok": 320}
    assert world.ledger.billed <= 320 + 16
    assert possibly_paid(after) >= world.ledger.billed - 320
    assert no_history_crosses(world.ledger.entries) == world.ledger.requests


def test_first_interrupt_finishes_what_is_in_flight(
    tmp_path: Path, simulator: Simulators, convbatch: Command, start: Start
) -> None:
    world = prepare(tmp_path, simulator, dialogues=60, turns=3, latency_s=0.2, wires=("gemini",))
    victim = start("run", "d.jsonl", "-o", "out", "-j", "8")
    assert wait_until(lambda: world.ledger.requests > 12)
    victim.send_signal(signal.SIGINT)
    _, err = victim.communicate(timeout=20)
    turns = cb.load(tmp_path / "out").turns
    assert victim.returncode == 130
    assert b"convbatch resume out" in err
    assert statuses(turns)["ok"] == world.ledger.billed
    assert possibly_paid(turns) == 0
    assert convbatch("resume", "out").code == 0
    assert world.ledger.billed == 180


def test_second_interrupt_abandons_and_says_possibly_paid(tmp_path: Path, simulator: Simulators, start: Start) -> None:
    world = prepare(tmp_path, simulator, dialogues=20, turns=2, latency_s=20, wires=("gemini",))
    victim = start("run", "d.jsonl", "-o", "out", "-j", "16")
    assert wait_until(lambda: world.in_flight > 0)
    time.sleep(0.2)
    asked = world.in_flight
    victim.send_signal(signal.SIGINT)
    time.sleep(0.3)
    victim.send_signal(signal.SIGINT)
    _, err = victim.communicate(timeout=10)
    assert victim.returncode == 130
    assert b"possibly paid" in err
    assert possibly_paid(cb.load(tmp_path / "out").turns) == asked


def test_a_second_process_is_refused_at_once(
    tmp_path: Path, simulator: Simulators, convbatch: Command, start: Start
) -> None:
    world = prepare(tmp_path, simulator, dialogues=20, turns=2, latency_s=0.5, wires=("gemini",))
    first = start("run", "d.jsonl", "-o", "out", "-j", "2")
    try:
        assert wait_until(lambda: world.ledger.requests > 0)
        second = convbatch("resume", "out")
        assert second.code == 2
        assert "in use by another process" in second.err
    finally:
        first.kill()
        first.communicate()


def test_errors_are_reopened_by_resume_and_left_with_no_retry_errors(
    tmp_path: Path, simulator: Simulators, convbatch: Command
) -> None:
    from convbatch.simulator.faults import FaultScript

    world = prepare(tmp_path, simulator, dialogues=6, turns=3, latency_s=0, wires=("gemini",))
    broken = {"match": {"turn": 2}, "action": "error", "kind": "bad_request"}
    world.faults = FaultScript.of([broken], source="test")
    assert convbatch("run", "d.jsonl", "-o", "out").code == 3
    assert statuses(cb.load(tmp_path / "out").turns) == {"ok": 6, "error": 6, "skipped": 6}
    world.faults = FaultScript()
    assert convbatch("resume", "out", "--no-retry-errors").code == 3
    assert convbatch("resume", "out").code == 0
    assert statuses(cb.load(tmp_path / "out").turns) == {"ok": 18}
    assert world.ledger.billed == 18


@pytest.mark.slow
def test_fifty_kills_end_where_an_undisturbed_run_ends(
    tmp_path: Path, simulator: Simulators, convbatch: Command, start: Start
) -> None:
    world = prepare(tmp_path, simulator, dialogues=1200, turns=3, latency_s=0.05, wires=("gemini", "openai"))
    rows = 1200 * 3 * 2
    assert convbatch("run", "d.jsonl", "-o", "calm", timeout=200).code == 0
    calm = cb.load(tmp_path / "calm").turns
    assert (world.ledger.billed, statuses(calm)) == (rows, {"ok": rows})
    world.ledger.entries.clear()

    chance = random.Random(20261122)
    billed_before = world.ledger.billed
    caught = 0
    for kill in range(50):
        begun = world.ledger.requests
        args = ("resume", "out") if kill else ("run", "d.jsonl", "-o", "out")
        victim = start(*args)
        assert wait_until(lambda begun=begun: world.ledger.requests > begun)
        time.sleep(chance.uniform(0.0, 0.25))
        caught += world.in_flight > 0
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        assert victim.returncode == -signal.SIGKILL, "the run ended before it was killed"
    assert caught >= 40

    done = convbatch("resume", "out", timeout=200)
    assert done.code == 0, done.err
    turns = cb.load(tmp_path / "out").turns
    same_rows(calm, turns)
    billed = world.ledger.billed - billed_before
    assert billed <= rows + 50 * 32
    paid_again = sum(times - 1 for times in billed_turns(world.ledger.entries).values())
    assert paid_again == billed - rows
    assert possibly_paid(turns) >= paid_again
    assert no_history_crosses(world.ledger.entries) == len(world.ledger.entries)
    print(f"\n50 kills, {caught} with calls in flight: {rows} rows, {billed} billed, {paid_again} paid again")  # noqa: T201


if os.name != "posix":
    raise RuntimeError("these tests send POSIX signals")
