"""Real disks that take no more, and folders that are pulled away while a run is at work.

A small file system is mounted where an unprivileged user may do that; elsewhere a limit on the size of files says no at
the same place. Every single call that can fail, and what a power cut leaves, is played with a disk made of values:
`tests/journal/test_writer.py`, `test_virtual_runs.py`.
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
from tests.support.ledger_laws import every_bill_is_told, no_history_crosses, same_rows, statuses

pytestmark = pytest.mark.slow
Simulators = Callable[[Provider], Server]
NAMESPACE = ("unshare", "-rm")
"""A shell whose mounts nobody else sees, and which end with it."""


@dataclass(frozen=True, slots=True)
class Room:
    """How a disk becomes small, and large again; shell commands."""

    little: str
    more: str
    refusal: str
    shell: tuple[str, ...] = ("bash", "-c")


def of_a_mount(options: str) -> Room:
    """A file system of its own at `disk/`."""
    little = f"mount -t tmpfs -o {options} small disk"
    more = "mount -o remount,size=50m,nr_inodes=1000 disk"
    return Room(little, more, "No space left on device", (*NAMESPACE, "bash", "-c"))


LIMITED = Room("ulimit -Sf 100", "ulimit -Sf hard", "File too large")
"""No file may grow beyond 100 KiB."""


@cache
def may_mount() -> bool:
    """Whether this machine lets us mount something in a namespace of our own."""
    try:
        tried = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "small", "/mnt"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return tried.returncode == 0


ROOMS = {"size of a file": LIMITED, **({"size of the disk": of_a_mount("size=140k")} if may_mount() else {})}
"""What is used up."""


@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS.keys())
def test_a_full_disk_stops_the_run_and_with_room_it_ends_as_if_it_had_never_been_full(
    room: Room, tmp_path: Path, simulator: Simulators, command: Command
) -> None:
    provider = prepare(tmp_path, simulator)
    assert command("run", "d.jsonl", "-o", "calm").code == 0
    calm = cb.load(tmp_path / "calm").turns
    provider.ledger.entries.clear()

    codes = in_shell(
        room,
        tmp_path,
        f"{room.little}; cb run d.jsonl -o disk/out; (ulimit -Sf hard; cp -r disk/out full)",
        "cb resume disk/out; cb table disk/out",
        f"{room.more}; cb resume disk/out; cp -r disk/out done",
    )
    assert codes == [5, 5, 0, 0]
    said = (tmp_path / "said").read_text()
    assert f"cannot write: {room.refusal}\n  hint: free some space or repair the disk, then: convbatch resume" in said
    assert "Traceback" not in said
    full, turns = cb.load(tmp_path / "full").turns, cb.load(tmp_path / "done").turns
    assert set(statuses(full)) == {"ok", "pending"}
    again = every_bill_is_told(provider.ledger.entries, turns)
    assert no_history_crosses(provider.ledger.entries) == len(provider.ledger.entries)
    assert again <= 2 * 16, "more was lost than what was in flight when the disk was found full, twice"
    same_rows(calm, turns)


@pytest.mark.skipif(not may_mount(), reason="only a file system of its own runs out of names, and none may be mounted")
def test_a_disk_without_room_for_the_tables_leaves_a_whole_journal(
    tmp_path: Path, simulator: Simulators, command: Command
) -> None:
    """Of 8 inodes the folder, the journal, its lock, the dataset and `run.json` leave too few for the tables."""
    provider = prepare(tmp_path, simulator)
    room = of_a_mount("size=50m,nr_inodes=8")
    steps = f"{room.little}; cb run d.jsonl -o disk/out; {room.more}; cb resume disk/out; cp -r disk/out done"
    assert in_shell(room, tmp_path, steps) == [5, 0]
    said = (tmp_path / "said").read_text()
    assert ".parquet: cannot write: No space left on device" in said
    assert "the journal is complete: the next command that reads the run rebuilds the table" in said
    assert statuses(cb.load(tmp_path / "done").turns) == {"ok": 180}
    assert provider.ledger.billed == 180


@pytest.mark.skipif(
    not may_mount(), reason="the fast tests fail the first writes as well: tests/journal/test_run_folder.py"
)
def test_a_disk_that_is_full_before_the_start_is_left_as_it_was(tmp_path: Path, simulator: Simulators) -> None:
    provider = prepare(tmp_path, simulator)
    room = of_a_mount("size=8k")
    full = "head -c 8192 /dev/zero > disk/ballast"
    codes = in_shell(room, tmp_path, f"{room.little}; {full}; cb run d.jsonl -o disk/out; ls -A disk > left")
    assert codes == [5]
    assert "nothing was sent; free some space or name another folder with --out" in (tmp_path / "said").read_text()
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
    """Run lines in one shell; the exit codes of the commands `cb` in them. What they say goes to the file `said`."""
    command = f'cb() {{ "{sys.executable}" -m convbatch "$@" >> out 2>> said; echo $? >> codes; }}'
    done = subprocess.run(
        [*room.shell, "\n".join([command, *lines])], cwd=folder, env=environment(), capture_output=True, check=False
    )
    assert done.stderr == b""
    return [int(code) for code in (folder / "codes").read_text().split()]


# --- somebody else at the folder -------------------------------------------------------------------------------------


def at_work(folder: Path, provider: Provider, start: Start, meddle: Callable[[Path], object]) -> tuple[int, str]:
    """Meddle with the folder of a run in its middle; its exit code and what it said."""
    process = start("run", "d.jsonl", "-o", "out", "-j", "8")
    wait_until(lambda: provider.ledger.requests > 20)
    meddle(folder / "out")
    _, err = process.communicate(timeout=30)
    assert b"Traceback" not in err
    return process.returncode, err.decode()


@pytest.mark.parametrize("what", [".", "journal"])
def test_a_run_whose_folder_is_deleted_pays_for_no_more(
    what: str, tmp_path: Path, simulator: Simulators, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, latency_s=0.2)
    code, said = at_work(tmp_path, provider, start, lambda out: shutil.rmtree(out / what))
    assert code == 5
    assert "out/journal/000001.jsonl: cannot write: it was deleted during the run" in said
    assert provider.ledger.requests <= 20 + 2 * 8


def test_a_run_whose_folder_is_moved_goes_on_there(
    tmp_path: Path, simulator: Simulators, command: Command, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, latency_s=0.1)
    code, said = at_work(tmp_path, provider, start, lambda out: out.rename(tmp_path / "elsewhere"))
    assert code == 5
    assert "the run folder was moved or deleted: put it back, or use its new path" in said
    assert command("resume", "elsewhere").code == 0
    assert statuses(cb.load(tmp_path / "elsewhere").turns) == {"ok": 180}
    assert provider.ledger.billed == 180


def test_a_journal_that_somebody_shortened_is_not_a_finished_run(
    tmp_path: Path, simulator: Simulators, command: Command, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, latency_s=0.1)
    code, said = at_work(tmp_path, provider, start, lambda out: os.truncate(out / "journal" / "000001.jsonl", 3000))
    assert code == 3
    assert "turns are open; finish them with:\n  convbatch resume out" in said
    assert command("resume", "out").code in (0, 2)  # cut within a line it needs --salvage
    command("resume", "out", "--salvage")
    assert statuses(cb.load(tmp_path / "out").turns) == {"ok": 180}
