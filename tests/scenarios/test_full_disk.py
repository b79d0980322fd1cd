"""Full disks, and run folders that are deleted or moved during a run, on a real file system.

A small file system is mounted if an unprivileged user may do so; otherwise a limit on the file size fails the same
calls. `tests/journal/test_writer.py` and `test_virtual_runs.py` test each call that can fail, and power cuts, with a
virtual disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import convbatch as cb
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import Command, Start, config_for, environment, wait_until, write_dataset
from tests.support.ledger_laws import check_bills, check_histories, same_rows, statuses

pytestmark = pytest.mark.slow
Simulators = Callable[[Provider], Server]
NAMESPACE = ("unshare", "-rm")
"""Starts a shell in its own mount namespace; its mounts end with it."""


@dataclass(frozen=True, slots=True)
class Room:
    """Shell commands that make a disk small and large again."""

    shrink: str
    grow: str
    refusal: str
    shell: tuple[str, ...] = ("bash", "-c")


def mounted(options: str) -> Room:
    """Return the commands for a separate file system at `disk/`."""
    shrink = f"mount -t tmpfs -o {options} small disk"
    grow = "mount -o remount,size=50m,nr_inodes=1000 disk"
    return Room(shrink, grow, "No space left on device", (*NAMESPACE, "bash", "-c"))


LIMITED = Room("ulimit -Sf 100", "ulimit -Sf hard", "File too large")
"""No file may grow beyond 100 KiB."""


@cache
def may_mount() -> bool:
    """Return whether this machine allows mounting in a new namespace."""
    try:
        tried = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "small", "/mnt"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return tried.returncode == 0


ROOMS = {"size of a file": LIMITED, **({"size of the disk": mounted("size=140k")} if may_mount() else {})}
"""Exhausted resources."""


@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS.keys())
def test_a_full_disk_stops_the_run_and_a_resume_with_space_ends_like_an_undisturbed_run(
    room: Room, tmp_path: Path, simulator: Simulators, command: Command
) -> None:
    provider = prepare(tmp_path, simulator)
    assert command("run", "d.jsonl", "-o", "calm").code == 0
    calm = cb.load(tmp_path / "calm").turns
    provider.ledger.entries.clear()

    codes = in_shell(
        room,
        tmp_path,
        f"{room.shrink}; cb run d.jsonl -o disk/out; (ulimit -Sf hard; cp -r disk/out full)",
        "cb resume disk/out; cb table disk/out",
        f"{room.grow}; cb resume disk/out; cp -r disk/out done",
    )
    assert codes == [5, 5, 0, 0]
    stderr = (tmp_path / "stderr").read_text()
    assert f"cannot write: {room.refusal}\n  hint: free some space or repair the disk, then: convbatch resume" in stderr
    assert "Traceback" not in stderr
    full, turns = cb.load(tmp_path / "full").turns, cb.load(tmp_path / "done").turns
    assert set(statuses(full)) == {"ok", "pending"}
    again = check_bills(provider.ledger.entries, turns)
    assert check_histories(provider.ledger.entries) == len(provider.ledger.entries)
    assert again <= 2 * 16, "more was lost than the requests in flight at the two disk-full errors"
    same_rows(calm, turns)


@pytest.mark.skipif(not may_mount(), reason="needs a separate file system with few inodes")
def test_a_disk_without_space_for_the_tables_leaves_a_complete_journal(
    tmp_path: Path, simulator: Simulators, command: Command
) -> None:
    """The folder, the journal, its lock, the dataset and `run.json` leave too few of 8 inodes for the tables."""
    provider = prepare(tmp_path, simulator)
    room = mounted("size=50m,nr_inodes=8")
    steps = f"{room.shrink}; cb run d.jsonl -o disk/out; {room.grow}; cb resume disk/out; cp -r disk/out done"
    assert in_shell(room, tmp_path, steps) == [5, 0]
    stderr = (tmp_path / "stderr").read_text()
    assert ".parquet: cannot write: No space left on device" in stderr
    assert "the next command that reads the run rebuilds the table from its journal" in stderr
    assert statuses(cb.load(tmp_path / "done").turns) == {"ok": 180}
    assert provider.ledger.billed == 180


@pytest.mark.skipif(not may_mount() or not Path("/dev/shm").is_dir(), reason="needs shared memory and a mount")
def test_a_machine_whose_only_disk_is_full_still_prints_the_closing_table(
    tmp_path: Path, simulator: Simulators
) -> None:
    prepare(tmp_path, simulator)
    room = mounted("size=140k")
    assert in_shell(room, tmp_path, f"{room.shrink}; export TMPDIR=$PWD/disk; cb run d.jsonl -o disk/out") == [5]
    assert "sim-good@at-gemini" in (tmp_path / "out").read_text()
    assert (
        f"turns are open; finish them with:\n  convbatch resume {tmp_path}/disk/out"
        in (tmp_path / "stderr").read_text()
    )


@pytest.mark.skipif(
    not may_mount(), reason="the fast tests fail the first writes as well: tests/journal/test_run_folder.py"
)
def test_a_disk_that_is_full_before_the_start_is_left_unchanged(tmp_path: Path, simulator: Simulators) -> None:
    provider = prepare(tmp_path, simulator)
    room = mounted("size=8k")
    full = "head -c 8192 /dev/zero > disk/ballast"
    codes = in_shell(room, tmp_path, f"{room.shrink}; {full}; cb run d.jsonl -o disk/out; ls -A disk > left")
    assert codes == [5]
    assert "nothing was sent; free some space or name another folder with --out" in (tmp_path / "stderr").read_text()
    assert (tmp_path / "left").read_text() == "ballast\n"
    assert provider.ledger.requests == 0


def prepare(folder: Path, simulator: Simulators, *, latency_s: float = 0.02) -> Provider:
    dataset = write_dataset(folder / "d.jsonl", 60, 3)
    provider = Provider(script=Script.load(dataset), latency_s=latency_s)
    models = '[run]\nmodels = ["sim-good@at-gemini"]\n'
    (folder / "convbatch.toml").write_text(config_for(simulator(provider).url, models=models))
    (folder / "disk").mkdir()
    return provider


def in_shell(room: Room, folder: Path, *lines: str) -> list[int]:
    """Run lines in one shell and return the exit codes of their `cb` commands; stderr goes to the file `stderr`."""
    command = f'cb() {{ "{sys.executable}" -m convbatch "$@" >> out 2>> stderr; echo $? >> codes; }}'
    env = environment(PYTHONDONTWRITEBYTECODE="1")  # a limit would cut off compiled modules as well
    done = subprocess.run(
        [*room.shell, "\n".join([command, *lines])], cwd=folder, env=env, capture_output=True, check=False
    )
    assert done.stderr == b""
    return [int(code) for code in (folder / "codes").read_text().split()]


# --- changes to the folder during a run ------------------------------------------------------------------------------


def change_during_run(
    folder: Path, provider: Provider, start: Start, change: Callable[[Path], object]
) -> tuple[int, str]:
    """Change the folder of a run while it is active; return its exit code and stderr."""
    process = start("run", "d.jsonl", "-o", "out", "-j", "8")
    wait_until(lambda: provider.ledger.requests > 20)
    change(folder / "out")
    _, err = process.communicate(timeout=30)
    assert b"Traceback" not in err
    return process.returncode, err.decode()


def delete(folder: Path) -> None:
    """Delete a folder in which the run may make a file meanwhile, as a user who repeats `rm -r`."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("what", [".", "journal"])
def test_a_run_whose_folder_is_deleted_stops_sending_requests(
    what: str, tmp_path: Path, simulator: Simulators, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, latency_s=0.2)
    code, stderr = change_during_run(tmp_path, provider, start, lambda out: delete(out / what))
    assert code == 5
    assert "out/journal/000001.jsonl: cannot write: it was moved or deleted during the run" in stderr
    assert provider.ledger.requests <= 20 + 2 * 8
    assert ("start anew with:\n  convbatch run" in stderr) == (what == ".")
    assert (f"convbatch resume {tmp_path}/out" in stderr) == (what != "."), "a path that is gone cannot be resumed"


def test_a_run_whose_folder_is_moved_can_be_resumed_there(
    tmp_path: Path, simulator: Simulators, command: Command, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, latency_s=0.1)
    code, stderr = change_during_run(tmp_path, provider, start, lambda out: out.rename(tmp_path / "elsewhere"))
    assert code == 5
    assert "the run folder was moved or deleted: put it back, or use its new path" in stderr
    assert command("resume", "elsewhere").code == 0
    assert statuses(cb.load(tmp_path / "elsewhere").turns) == {"ok": 180}
    assert provider.ledger.billed == 180


def test_a_truncated_journal_is_not_a_finished_run(
    tmp_path: Path, simulator: Simulators, command: Command, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, latency_s=0.1)
    code, stderr = change_during_run(
        tmp_path, provider, start, lambda out: os.truncate(out / "journal" / "000001.jsonl", 3000)
    )
    assert code == 5
    assert "another program changed this file during the run" in stderr
    assert command("resume", "out").code in (0, 2)  # cut within a line it needs --salvage
    command("resume", "out", "--salvage")
    assert statuses(cb.load(tmp_path / "out").turns) == {"ok": 180}
