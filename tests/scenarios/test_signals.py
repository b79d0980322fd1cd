"""Signals at random times: the exit code reports every interruption, and a resume continues from there.

`tests/cli/test_cli.py` and `test_resume.py` test the meaning of a first and a second signal.
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
from tests.support.ledger_laws import check_bills, check_histories, possibly_paid, statuses

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
    **provider_options: Any,
) -> Provider:
    dataset = write_dataset(folder / "d.jsonl", dialogues, 2)
    made = Provider(script=Script.load(dataset), faults=FaultScript.of(faults or []), **provider_options)
    models = '[run]\nmodels = ["sim-good@at-gemini"]\n'
    (folder / "convbatch.toml").write_text(config_for(simulator(made).url, models=models))
    return made


def state(folder: Path) -> str:
    return json.loads((folder / "out" / "run.json").read_bytes())["state"]


def stderr_of(process: subprocess.Popen[bytes], *, within_s: float) -> str:
    """Wait for the process to end and return its stderr."""
    _, err = process.communicate(timeout=within_s)
    text = err.decode()
    # Tracebacks of Python's startup are allowed, as long as our first lines (`__init__.py`) load its own modules.
    assert str(PACKAGE) not in text.replace(str(PACKAGE / "__init__.py"), ""), text
    return text


def test_bursts_of_ctrl_c_at_random_times_lose_no_reply(
    tmp_path: Path, simulator: Simulators, command: Command, start: Start
) -> None:
    """One to three signals, milliseconds apart, during start, run and shutdown."""
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
        text = stderr_of(process, within_s=20)
        is_python_start = process.returncode == 1 and "KeyboardInterrupt" in text and str(PACKAGE) not in text
        codes.append(-INT if is_python_start else process.returncode)  # Python exits with 1 before it has started
    assert set(codes) <= {130, -INT}, codes
    assert codes.count(130) >= BURSTS // 2  # every second process has sent a request when the signals come
    assert command("resume", "out", timeout=200).code == 0
    turns = cb.load(tmp_path / "out").turns
    assert statuses(turns) == {"ok": 20 * BURSTS}
    check_bills(provider.ledger.entries, turns)
    assert check_histories(provider.ledger.entries) == len(provider.ledger.entries)


def test_ctrl_c_during_imports_ends_the_command_without_output(tmp_path: Path, start: Start) -> None:
    (tmp_path / "typer.py").write_text("import pathlib, time\npathlib.Path('loading').touch()\ntime.sleep(60)\n")
    process = start("--help", PYTHONPATH=f"{tmp_path}:{PACKAGE.parent}")
    wait_until((tmp_path / "loading").exists)
    process.send_signal(INT)
    assert stderr_of(process, within_s=5) == ""
    assert process.returncode == -INT


def is_pending(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Whether a signal still waits for the process: the system merges it with one of its kind that comes meanwhile."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:  # it has ended, or there is no /proc
        return False
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


@pytest.mark.parametrize("gap_s", [0.0, 0.3], ids=["at once", "slowly"])
def test_the_third_ctrl_c_ends_the_command_at_once(
    gap_s: float, tmp_path: Path, simulator: Simulators, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, latency_s=60)
    process = start("run", "d.jsonl", "-o", "out")
    wait_until(lambda: provider.in_flight == 4)
    for _ in range(3):
        process.send_signal(INT)
        wait_until(lambda: not is_pending(process, INT))
        time.sleep(gap_s)
    stderr_of(process, within_s=5)
    assert process.returncode in (130, -INT)  # a shell shows 130 for both; the last one may come when Python ends
    assert possibly_paid(cb.load(tmp_path / "out").turns) == 4


WAITS: dict[str, Mapping[str, Any]] = {
    "rate limit wait": {"action": "rate-limit", "seconds": 600},
    "backoff": {"action": "error", "kind": "overloaded", "retry_after": "600"},
    "unreachable gateway": {"action": "reset", "when": "arrival"},
}


@pytest.mark.parametrize("fault", WAITS.values(), ids=WAITS.keys())
@pytest.mark.parametrize("number", [INT, signal.SIGTERM], ids=["Ctrl-C", "TERM"])
def test_a_run_that_only_waits_ends_at_once_on_a_signal(
    number: signal.Signals, fault: Mapping[str, Any], tmp_path: Path, simulator: Simulators, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, faults=[fault])
    process = start("run", "d.jsonl", "-o", "out", "--max-attempts", "50")
    wait_until(lambda: provider.ledger.requests >= 4 and provider.in_flight == 0)
    time.sleep(0.3)
    process.send_signal(number)
    text = stderr_of(process, within_s=3)
    assert process.returncode == 130
    assert "interrupted: " in text
    assert text.endswith(f"finish them with:\n  convbatch resume {tmp_path}/out\n")
    assert state(tmp_path) == "interrupted"


def test_sigterm_ends_the_run_within_25_seconds(tmp_path: Path, simulator: Simulators, start: Start) -> None:
    provider = prepare(tmp_path, simulator, latency_s=60)
    process = start("run", "d.jsonl", "-o", "out")
    wait_until(lambda: provider.in_flight == 4)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    stderr_of(process, within_s=40)
    assert 24 < time.monotonic() - begun < 32
    assert process.returncode == 130
    assert possibly_paid(cb.load(tmp_path / "out").turns) == 4


def suspend(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Suspend the process, as closing a laptop does."""
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)


def test_a_stopped_process_continues_without_extra_attempts(
    tmp_path: Path, simulator: Simulators, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, dialogues=60, latency_s=0.2)
    process = start("run", "d.jsonl", "-o", "out")
    wait_until(lambda: provider.ledger.requests > 30)
    suspend(process, 3)
    stderr_of(process, within_s=20)
    assert process.returncode == 0
    turns = cb.load(tmp_path / "out").turns
    assert (statuses(turns), set(turns["attempts"]), provider.ledger.billed) == ({"ok": 120}, {1}, 120)


def test_replies_that_timed_out_while_the_process_was_stopped_are_possibly_paid(
    tmp_path: Path, simulator: Simulators, command: Command, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, dialogues=60, latency_s=0.3)
    process = start("run", "d.jsonl", "-o", "out", "--attempt-timeout", "1s")
    wait_until(lambda: provider.ledger.requests > 30)
    suspend(process, 2.5)
    stderr_of(process, within_s=90)  # many timeouts at once look like a dead gateway: the next probe is sent after 30 s
    assert process.returncode in (0, 3)
    check_bills(provider.ledger.entries, cb.load(tmp_path / "out").turns)
    assert command("resume", "out").code == 0
    turns = cb.load(tmp_path / "out").turns
    check_bills(provider.ledger.entries, turns)
    assert statuses(turns) == {"ok": 120}


class Terminal:
    """The command as the foreground job of its own terminal."""

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
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # safe: no other thread holds a lock
        )
        os.close(theirs)

    def look(self) -> bytes:
        """Return everything shown so far."""
        os.set_blocking(self.ours, False)
        try:
            while piece := os.read(self.ours, 65536):
                self.shown += piece
        except OSError:  # no new output, or the other end is closed
            pass
        return self.shown

    def end(self) -> int:
        """Read output until the process ends; return the exit code."""
        wait_until(lambda: bool(self.look()) and self.process.poll() is not None)
        self.look()
        return self.process.returncode


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_in_a_terminal_stops_the_run_and_its_progress_bar(
    presses: int, tmp_path: Path, simulator: Simulators
) -> None:
    provider = prepare(tmp_path, simulator, dialogues=60, latency_s=0.5 if presses == 1 else 20)
    terminal = Terminal(tmp_path, "run", "d.jsonl", "-o", "out", "-j", "8")
    wait_until(lambda: provider.in_flight >= 4 and b"in flight" in terminal.look())
    time.sleep(0.1)
    in_flight = provider.in_flight
    for _ in range(presses):
        os.write(terminal.ours, b"\x03")
        time.sleep(0.2)
    assert terminal.end() == 130
    text = terminal.shown.decode()
    assert "stopping: what is in flight is finished and kept; Ctrl-C again abandons it" in text
    assert ("abandoning what is in flight" in text) == (presses == 2)
    assert text.replace("\r\n", "").endswith(f"convbatch resume {tmp_path}/out")
    assert possibly_paid(cb.load(tmp_path / "out").turns) == (0 if presses == 1 else in_flight)


def test_closing_the_terminal_interrupts_the_run_cleanly(tmp_path: Path, simulator: Simulators) -> None:
    provider = prepare(tmp_path, simulator, dialogues=60, latency_s=0.5)
    terminal = Terminal(tmp_path, "run", "d.jsonl", "-o", "out", "-j", "8")
    wait_until(lambda: provider.ledger.requests > 16)
    os.close(terminal.ours)
    assert terminal.process.wait(timeout=20) == 130
    assert state(tmp_path) == "interrupted"
    turns = cb.load(tmp_path / "out").turns
    assert statuses(turns)["ok"] == provider.ledger.billed > 16
    assert possibly_paid(turns) == 0
