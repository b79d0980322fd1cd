"""Signals at moments nobody chooses: whatever they cut short, the exit code says so and a resume goes on from there.

What a single signal means, and a second one, is in `tests/cli/test_cli.py` and `test_resume.py`.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import convbatch as cb
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import Command, Start, config_for, environment, wait_until, write_dataset
from tests.support.ledger_laws import every_bill_is_told, no_history_crosses, possibly_paid, statuses

pytestmark = pytest.mark.slow
Simulators = Callable[[Provider], Server]
INT = signal.SIGINT
PACKAGE = Path(cb.__file__).parent
BURSTS = int(os.environ.get("KILLS", "60")) // 5


def prepare(
    folder: Path,
    simulator: Simulators,
    *,
    dialogues: int = 4,
    faults: list[Mapping[str, Any]] | None = None,
    **world: Any,
) -> Provider:
    dataset = write_dataset(folder / "d.jsonl", dialogues, 2)
    made = Provider(script=Script.load(dataset), faults=FaultScript.of(faults or []), **world)
    models = '[run]\nmodels = ["sim-good@at-gemini"]\n'
    (folder / "convbatch.toml").write_text(config_for(simulator(made).url, models=models))
    return made


def state(folder: Path) -> str:
    return json.loads((folder / "out" / "run.json").read_bytes())["state"]


def ended(process: subprocess.Popen[bytes], *, within_s: float) -> str:
    """What it said until it ended."""
    _, err = process.communicate(timeout=within_s)
    said = err.decode()
    assert str(PACKAGE) not in said, said  # Python's own start, before any line of ours, is not ours to mend
    return said


def test_bursts_of_ctrl_c_at_any_moment_lose_nothing(
    tmp_path: Path, simulator: Simulators, command: Command, start: Start
) -> None:
    """While it starts, while it runs, while it closes; one to three of them, milliseconds apart."""
    provider = prepare(tmp_path, simulator, dialogues=10 * BURSTS, latency_s=0.2)
    chance = random.Random(4711)
    codes: list[int] = []
    for number in range(BURSTS):
        begun, asked = (tmp_path / "out" / "run.json").exists(), provider.ledger.requests
        process = start("resume", "out") if begun else start("run", "d.jsonl", "-o", "out")
        if number % 2 == 0:
            wait_until(lambda asked=asked: provider.ledger.requests > asked)
        time.sleep(chance.uniform(0, 0.5 if number % 2 == 0 else 1.0))
        for _ in range(chance.randint(1, 3)):
            process.send_signal(INT)
            time.sleep(chance.uniform(0, 0.15))
        ended(process, within_s=20)
        codes.append(process.returncode)
    assert set(codes) <= {130, -INT}, codes
    assert codes.count(130) > BURSTS // 2
    assert command("resume", "out", timeout=200).code == 0
    turns = cb.load(tmp_path / "out").turns
    assert statuses(turns) == {"ok": 20 * BURSTS}
    every_bill_is_told(provider.ledger.entries, turns)
    assert no_history_crosses(provider.ledger.entries) == len(provider.ledger.entries)


def test_ctrl_c_while_libraries_are_loaded_ends_it_without_a_word(tmp_path: Path, start: Start) -> None:
    (tmp_path / "typer.py").write_text("import pathlib, time\npathlib.Path('loading').touch()\ntime.sleep(60)\n")
    process = start("--help", PYTHONPATH=f"{tmp_path}:{PACKAGE.parent}")
    wait_until((tmp_path / "loading").exists)
    process.send_signal(INT)
    assert ended(process, within_s=5) == ""
    assert process.returncode == -INT


@pytest.mark.parametrize("gap_s", [0.0, 0.3], ids=["at once", "slowly"])
def test_the_third_ctrl_c_ends_it_as_any_program(
    gap_s: float, tmp_path: Path, simulator: Simulators, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, latency_s=60)
    process = start("run", "d.jsonl", "-o", "out")
    wait_until(lambda: provider.in_flight == 4)
    for _ in range(3):
        process.send_signal(INT)
        time.sleep(gap_s)
    ended(process, within_s=5)
    assert process.returncode == 130
    assert possibly_paid(cb.load(tmp_path / "out").turns) == 4


WAITS: dict[str, Mapping[str, Any]] = {
    "in a 429 pause": {"action": "rate-limit", "seconds": 600},
    "before another try": {"action": "error", "kind": "overloaded", "retry_after": "600"},
    "for a gateway that is gone": {"action": "reset", "when": "arrival"},
}


@pytest.mark.parametrize("trouble", WAITS.values(), ids=WAITS.keys())
@pytest.mark.parametrize("number", [INT, signal.SIGTERM], ids=["Ctrl-C", "TERM"])
def test_whoever_only_waits_ends_at_once(
    number: signal.Signals, trouble: Mapping[str, Any], tmp_path: Path, simulator: Simulators, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, faults=[trouble])
    process = start("run", "d.jsonl", "-o", "out", "--max-attempts", "50")
    wait_until(lambda: provider.ledger.requests >= 4 and provider.in_flight == 0)
    time.sleep(0.3)
    process.send_signal(number)
    said = ended(process, within_s=3)
    assert process.returncode == 130
    assert "interrupted: " in said
    assert said.endswith("finish them with:\n  convbatch resume out\n")
    assert state(tmp_path) == "interrupted"


def test_a_polite_end_takes_25_seconds_at_most(tmp_path: Path, simulator: Simulators, start: Start) -> None:
    provider = prepare(tmp_path, simulator, latency_s=60)
    process = start("run", "d.jsonl", "-o", "out")
    wait_until(lambda: provider.in_flight == 4)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    ended(process, within_s=40)
    assert 24 < time.monotonic() - begun < 32
    assert process.returncode == 130
    assert possibly_paid(cb.load(tmp_path / "out").turns) == 4


def suspended(process: subprocess.Popen[bytes], seconds: float) -> None:
    """A laptop that is closed and opened again."""
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)


def test_a_suspended_run_goes_on_as_if_nothing_had_been(tmp_path: Path, simulator: Simulators, start: Start) -> None:
    provider = prepare(tmp_path, simulator, dialogues=60, latency_s=0.2)
    process = start("run", "d.jsonl", "-o", "out")
    wait_until(lambda: provider.ledger.requests > 30)
    suspended(process, 3)
    ended(process, within_s=20)
    assert process.returncode == 0
    turns = cb.load(tmp_path / "out").turns
    assert (statuses(turns), set(turns["attempts"]), provider.ledger.billed) == ({"ok": 120}, {1}, 120)


def test_replies_a_suspended_run_gave_up_waiting_for_are_told_as_possibly_paid(
    tmp_path: Path, simulator: Simulators, command: Command, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, dialogues=60, latency_s=0.3)
    process = start("run", "d.jsonl", "-o", "out", "--attempt-timeout", "1s")
    wait_until(lambda: provider.ledger.requests > 30)
    suspended(process, 2.5)
    ended(process, within_s=90)  # so many timeouts at once look like a dead gateway: the next probe leaves after 30 s
    assert process.returncode in (0, 3)
    every_bill_is_told(provider.ledger.entries, cb.load(tmp_path / "out").turns)
    assert command("resume", "out").code == 0
    turns = cb.load(tmp_path / "out").turns
    every_bill_is_told(provider.ledger.entries, turns)
    assert statuses(turns) == {"ok": 120}


class Terminal:
    """The command in a terminal of its own, as its foreground job."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.shown = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "convbatch", *args],
            cwd=folder,
            env=environment(TERM="xterm"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # no thread of ours holds a lock
        )
        os.close(theirs)

    def look(self) -> bytes:
        """Everything shown so far."""
        os.set_blocking(self.ours, False)
        try:
            while piece := os.read(self.ours, 65536):
                self.shown += piece
        except OSError:  # nothing new, or the other end is closed
            pass
        return self.shown

    def end(self) -> int:
        """Look on until it has ended; the exit code."""
        wait_until(lambda: bool(self.look()) and self.process.poll() is not None)
        self.look()
        return self.process.returncode


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_in_a_terminal_stops_under_its_progress_bar(presses: int, tmp_path: Path, simulator: Simulators) -> None:
    provider = prepare(tmp_path, simulator, dialogues=60, latency_s=0.5 if presses == 1 else 20)
    terminal = Terminal(tmp_path, "run", "d.jsonl", "-o", "out", "-j", "8")
    wait_until(lambda: provider.in_flight >= 4 and b"turn/s" in terminal.look())
    time.sleep(0.1)
    in_flight = provider.in_flight
    for _ in range(presses):
        os.write(terminal.ours, b"\x03")
        time.sleep(0.2)
    assert terminal.end() == 130
    text = terminal.shown.decode()
    assert "stopping: what is in flight is finished and kept; Ctrl-C again abandons it" in text
    assert ("abandoning what is in flight" in text) == (presses == 2)
    assert text.endswith("convbatch resume out\r\n")
    assert possibly_paid(cb.load(tmp_path / "out").turns) == (0 if presses == 1 else in_flight)


def test_a_terminal_that_is_closed_ends_the_run_in_good_order(tmp_path: Path, simulator: Simulators) -> None:
    provider = prepare(tmp_path, simulator, dialogues=60, latency_s=0.5)
    terminal = Terminal(tmp_path, "run", "d.jsonl", "-o", "out", "-j", "8")
    wait_until(lambda: provider.ledger.requests > 16)
    os.close(terminal.ours)
    assert terminal.process.wait(timeout=20) == 130
    assert state(tmp_path) == "interrupted"
    turns = cb.load(tmp_path / "out").turns
    assert statuses(turns)["ok"] == provider.ledger.billed > 16
    assert possibly_paid(turns) == 0
