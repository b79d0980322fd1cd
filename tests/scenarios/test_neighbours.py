"""Several processes at one run folder or gateway, and runs with little memory or few open files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import convbatch as cb
from convbatch.simulator.ledger import Ledger
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import Command, Start, config_for, environment, wait_until, write_dataset
from tests.support.ledger_laws import check_bills, check_histories, statuses

pytestmark = pytest.mark.slow
Simulators = Callable[[Provider], Server]
MODELS = '[run]\nmodels = ["sim-good@at-gemini"]\n'
DIALOGUES = 20_000 if int(os.environ.get("KILLS", "60")) >= 200 else 4_000


def prepare(folder: Path, simulator: Simulators, *, dialogues: int, latency_s: float) -> Provider:
    dataset = write_dataset(folder / "d.jsonl", dialogues, 3)
    provider = Provider(script=Script.load(dataset), latency_s=latency_s)
    (folder / "convbatch.toml").write_text(config_for(simulator(provider).url, models=MODELS))
    return provider


def results_of(processes: list[subprocess.Popen[bytes]]) -> list[tuple[int, str]]:
    """Return exit codes and stderr."""
    errors = [process.communicate(timeout=60)[1].decode() for process in processes]
    assert not [text for text in errors if "Traceback" in text]
    return list(zip((process.returncode for process in processes), errors, strict=True))


@pytest.mark.parametrize("beginning", ["run", "resume"])
def test_one_of_eight_processes_at_a_folder_runs_and_seven_are_refused(
    beginning: str, tmp_path: Path, simulator: Simulators, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, dialogues=40, latency_s=1.0)
    if beginning == "resume":
        victim = start("run", "d.jsonl", "-o", "out")
        wait_until(lambda: provider.ledger.requests > 30)
        victim.kill()
        victim.communicate()
    args = ("resume", "out") if beginning == "resume" else ("run", "d.jsonl", "-o", "out")
    ended = sorted(results_of([start(*args) for _ in range(8)]))
    assert [code for code, _ in ended] == [0] + [2] * 7
    for _, errors in ended[1:]:
        assert "is in use by another process" in errors or "is not empty" in errors or "is in the way" in errors
    turns = cb.load(tmp_path / "out").turns
    assert statuses(turns) == {"ok": 120}
    check_bills(provider.ledger.entries, turns)
    if beginning == "run":
        assert provider.ledger.billed == 120


def test_eight_runs_at_one_gateway_do_not_disturb_each_other(
    tmp_path: Path, simulator: Simulators, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, dialogues=20, latency_s=0.02)
    ended = results_of([start("run", "d.jsonl") for _ in range(8)])
    assert [code for code, _ in ended] == [0] * 8
    folders = list((tmp_path / "results").iterdir())
    assert len(folders) == 8
    for folder in folders:
        turns = cb.load(folder).turns
        assert (statuses(turns), set(turns["attempts"])) == ({"ok": 60}, {1})
    assert provider.ledger.billed == 8 * 60
    assert check_histories(provider.ledger.entries) == 8 * 60


def test_eight_readers_can_read_a_run_while_it_is_written(tmp_path: Path, simulator: Simulators, start: Start) -> None:
    provider = prepare(tmp_path, simulator, dialogues=300, latency_s=0.2)
    writer = start("run", "d.jsonl", "-o", "out")
    wait_until(lambda: provider.ledger.requests > 30)
    commands = [("table", "out"), ("show", "out"), ("report", "out"), ("table", "out", "--wide", "reply")]
    readers = [start(*command) for command in commands * 2]
    assert writer.poll() is None, "the run ended before the readers began"
    assert [code for code, _ in results_of(readers)] == [0] * 8
    assert [code for code, _ in results_of([writer])] == [0]
    turns = cb.load(tmp_path / "out").turns
    assert (statuses(turns), set(turns["attempts"]), provider.ledger.billed) == ({"ok": 900}, {1}, 900)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce a limit on the data size")
@pytest.mark.parametrize(("dialogues", "reply_chars"), [(DIALOGUES, 20), (100, 300_000)], ids=["many", "large replies"])
def test_400_mb_of_memory_are_sufficient(
    dialogues: int, reply_chars: int, tmp_path: Path, simulator: Simulators
) -> None:
    """64 requests in flight; the kernel enforces the limit on the run, its table, and a report."""
    with (tmp_path / "d.jsonl").open("w") as file:
        for number in range(dialogues):
            reply = f"{number} ".ljust(reply_chars, "x")
            file.write(f'{{"turns": [{{"user": "question {number}", "assistant": "{reply}"}}]}}\n')
    script = Script.load(tmp_path / "d.jsonl")
    provider = Provider(script=script, latency_s=0.02, ledger=Ledger(history=False, keep=False))
    (tmp_path / "convbatch.toml").write_text(config_for(simulator(provider).url, models=MODELS))
    cb_ = f'"{sys.executable}" -m convbatch'
    steps = f"ulimit -d 409600; {cb_} run d.jsonl -o out -j 64 && {cb_} resume out && {cb_} report out"
    done = subprocess.run(
        ["bash", "-c", steps], cwd=tmp_path, env=environment(), capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert provider.ledger.billed == dialogues


def test_64_open_files_are_sufficient_or_the_error_says_how_many_are_needed(
    tmp_path: Path, simulator: Simulators, command: Command
) -> None:
    """Readers need far fewer; a run reports before it starts how many its connections need."""
    provider = prepare(tmp_path, simulator, dialogues=4, latency_s=0)
    assert command("run", "d.jsonl", "-o", "out").code == 0
    asked = provider.ledger.requests
    steps = 'ulimit -n 64; for a in "run d.jsonl -j 64 -o no" "table out" "show out" "report out"; do cb $a; done'
    line = f'cb() {{ "{sys.executable}" -m convbatch "$@" >/dev/null; echo $?; }}; {steps}'
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment(), capture_output=True, check=False)
    assert done.stdout.split() == [b"2", b"0", b"0", b"0"]
    assert b"need 128 open files; this process may open 64\n  hint: lower -j" in done.stderr
    assert (provider.ledger.requests, (tmp_path / "no").exists()) == (asked, False)
