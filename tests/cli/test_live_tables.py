"""Tables that a second process makes while the run goes: the same as those made at its end, or none at all.

Whatever happens to that process or to the run, no draft stays and the journal is not touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import convbatch as cb
from convbatch.cli.live_tables import TableMaker, table_maker
from convbatch.journal.run_folder import RunFolder
from convbatch.reply import Failure
from convbatch.results.cache import is_fresh, write_turns
from convbatch.results.live_tables import FREE_BYTES, GAVE_UP, MADE, drafts
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import Command, Start, config_for, environment, wait_until, write_dataset
from tests.support.ledger_laws import check_bills, check_histories, same_rows, statuses
from tests.support.made_runs import DRIFT, GOOD, MadeRun, dialogue

Simulators = Callable[[Provider], Server]
ROOT = Path(cb.__file__).parent.parent


def made_run(path: Path, dialogues: int = 400) -> RunFolder:
    """Return a finished run with replies, retries, failures, skipped and pending turns, and checks."""
    checked = [{"user": "x", "checks": [{"contains": "2025"}, {"not_contains": "2025"}]}, {"user": "y"}]
    made = MadeRun(path, [dialogue(f"d{n}", turns=checked) for n in range(dialogues)], [GOOD, DRIFT], checks=2)
    lost = Failure(kind="overloaded", message="busy")
    order = [*range(1, dialogues, 2), *range(0, dialogues, 2)]  # as they end in a run: not in the order of the tables
    for index in order:
        for target in (GOOD, DRIFT):
            first, second = made.ident(index, 1, target), made.ident(index, 2, target)
            if index % 7 == 0:
                made.failed(first, lost, cls="refused")
                made.replied(first, attempt=2)
                made.replied(second)
            elif index % 11 == 0:
                made.failed(first, Failure(kind="context_length", message="too long"), cls="final")
                made.turn(first, "error")
                made.turn(second, "skipped", reason="turn 1 failed")
            elif index % 13 == 0:
                made.replied(first)
                made.intent(second)
            elif index % 17:
                made.replied(first)
                made.replied(second)
    return made.write()


def emptied(whole: RunFolder, path: Path) -> tuple[RunFolder, bytes]:
    """Return a copy of a run folder as it is when its run begins, and the journal that it will have."""
    shutil.copytree(whole.path, path)
    for table in path.glob("*.parquet"):
        table.unlink()
    manifest = path / "run.json"
    manifest.write_text(manifest.read_text().replace('"state": "finished"', '"state": "running"'))
    (segment,) = RunFolder.open(path).segments()
    journal = segment.read_bytes()
    segment.write_bytes(b"")
    return RunFolder.open(path), journal


def grow(folder: RunFolder, piece: bytes) -> None:
    with (folder.journal / "000001.jsonl").open("ab") as file:
        file.write(piece)


def has_begun(folder: RunFolder, maker: TableMaker) -> bool:
    assert maker.pid is not None
    return all(path.exists() for path in drafts(folder, maker.pid))


def files(folder: RunFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()} - {"journal", "dataset.jsonl.gz", "run.json"}


def test_tables_made_meanwhile_are_those_made_at_the_end(tmp_path: Path) -> None:
    whole = made_run(tmp_path / "r")
    write_turns(whole)
    folder, journal = emptied(whole, tmp_path / "grown" / "r")
    with table_maker(folder) as maker:
        maker.start()
        wait_until(lambda: has_begun(folder, maker))
        step = len(journal) // 6 + 1
        for start in range(0, len(journal), step):
            grow(folder, journal[start : start + step])
            time.sleep(0.2)
        assert not folder.turns.exists(), "the tables had their names before the journal was closed"
        maker.finish()
    assert is_fresh(folder)
    assert files(folder) == {"turns.parquet", "verdicts.parquet"}
    for name in ("turns.parquet", "verdicts.parquet"):
        one, other = pq.read_table(folder.path / name), pq.read_table(whole.path / name)
        assert one.num_rows > 0
        assert one.equals(other)
    assert cb.load(folder.path).damaged_places == cb.load(whole.path).damaged_places == 0
    assert (folder.journal / "000001.jsonl").read_bytes() == journal


def kill(maker: TableMaker) -> None:
    assert maker.pid is not None
    os.kill(maker.pid, signal.SIGKILL)


@pytest.mark.parametrize("when", ["before the end", "at the end"])
def test_a_process_that_is_killed_leaves_nothing_and_the_tables_are_made_without_it(tmp_path: Path, when: str) -> None:
    whole = made_run(tmp_path / "r", 40)
    folder, journal = emptied(whole, tmp_path / "grown" / "r")
    with table_maker(folder) as maker:
        maker.start()
        wait_until(lambda: has_begun(folder, maker))
        grow(folder, journal)
        if when == "at the end":
            assert maker.pid is not None
            os.kill(maker.pid, signal.SIGSTOP)
        kill(maker)
        maker.finish()
        assert not is_fresh(folder)
    assert files(folder) == set()
    write_turns(folder)
    assert is_fresh(folder)


def test_signals_of_the_terminal_do_not_reach_it(tmp_path: Path) -> None:
    folder, journal = emptied(made_run(tmp_path / "r", 40), tmp_path / "grown" / "r")
    with table_maker(folder) as maker:
        maker.start()
        assert maker.pid is not None
        assert os.getpgid(maker.pid) != os.getpgid(0)
        wait_until(lambda: has_begun(folder, maker))
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.kill(maker.pid, number)
        grow(folder, journal)
        maker.finish()
    assert is_fresh(folder)


def test_it_ends_with_the_run_and_takes_its_drafts_along(tmp_path: Path) -> None:
    folder, journal = emptied(made_run(tmp_path / "r", 40), tmp_path / "grown" / "r")
    code = (
        "import sys, time; from pathlib import Path; from convbatch.cli.live_tables import TableMaker;"
        "from convbatch.journal.run_folder import RunFolder;"
        "maker = TableMaker(RunFolder.open(Path(sys.argv[1]))); maker.start(); print(maker.pid, flush=True);"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)], env=environment(), cwd=ROOT, stdout=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        wait_until(lambda: all(path.exists() for path in drafts(folder, pid)))
        grow(folder, journal)
        run.kill()
        wait_until(lambda: not is_running(pid))
    assert files(folder) == set()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_drafts_of_processes_that_were_killed_with_their_runs_are_removed(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "r", 4)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended, subprocess.Popen([sys.executable, "-c", ""]) as zombie:
        ended.wait()
        wait_until(lambda: not is_running(zombie.pid))  # in a container nobody may ever wait for it
        dead = (*drafts(folder, ended.pid), *drafts(folder, zombie.pid))
        living = drafts(folder, os.getpid())
        for path in (*dead, *living):
            path.write_bytes(b"PAR1")
        with table_maker(folder):  # also where there is nothing left to make
            assert not any(path.exists() for path in dead)
            assert all(path.exists() for path in living), "another process was writing them"


def damaged(folder: RunFolder, journal: bytes) -> None:
    grow(folder, journal.replace(b'"turn":2', b'"turn":3', 1))


def cut(folder: RunFolder, journal: bytes) -> None:
    """Cut the end off that `run.json` names."""
    manifest = folder.path / "run.json"
    lines = journal.splitlines(keepends=True)
    end = {"seq": len(lines) - 1, "crc": int(lines[-1][lines[-1].rfind(b":") + 1 : -2])}
    text = manifest.read_text().replace(
        '"config"', f'"journal": {{"seq": {end["seq"]}, "crc": {end["crc"]}}}, "config"'
    )
    manifest.write_text(text)
    grow(folder, b"".join(lines[:-3]))


def torn(folder: RunFolder, journal: bytes) -> None:
    grow(folder, journal[:-5])


def with_other_checks(folder: RunFolder, journal: bytes) -> None:
    grow(folder, journal)
    shutil.copy(folder.dataset, folder.checks)


def with_another_target(folder: RunFolder, journal: bytes) -> None:
    grow(folder, journal)
    manifest = folder.path / "run.json"
    manifest.write_text(manifest.read_text().replace(DRIFT, "sim-other@simulator"))


@pytest.mark.parametrize("change", [damaged, cut, torn, with_other_checks, with_another_target])
def test_it_gives_up_on_what_it_did_not_expect(change: Callable[[RunFolder, bytes], None], tmp_path: Path) -> None:
    folder, journal = emptied(made_run(tmp_path / "r", 40), tmp_path / "grown" / "r")
    with table_maker(folder) as maker:
        maker.start()
        wait_until(lambda: has_begun(folder, maker))
        change(folder, journal)
        maker.finish()
    assert files(folder) - {"checks.jsonl.gz"} == set()


def test_its_exit_codes_differ() -> None:
    assert MADE != GAVE_UP
    assert FREE_BYTES >= 256 * 2**20


# --- whole runs ------------------------------------------------------------------------------------------------------


def prepare(folder: Path, simulator: Simulators, dialogues: int) -> Provider:
    dataset = write_dataset(folder / "d.jsonl", dialogues, 2)
    made = Provider(script=Script.load(dataset))
    models = '[run]\nmodels = ["sim-good@at-gemini"]\n'
    (folder / "convbatch.toml").write_text(config_for(simulator(made).url, models=models))
    return made


def table_process(run: subprocess.Popen[bytes]) -> int | None:
    """Return the process that makes the tables of a run."""
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    return next((int(pid) for pid in children if b"live_tables" in Path(f"/proc/{pid}/cmdline").read_bytes()), None)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["nobody", "the tables", "the run", "the terminal"])
def test_a_large_run_ends_like_any_other(
    victim: str, tmp_path: Path, simulator: Simulators, command: Command, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, 2_600)
    folder = tmp_path / "out"
    run = start("run", "d.jsonl", "-o", "out", "-j", "64", "--no-progress")
    wait_until(lambda: provider.ledger.requests > 1_500, seconds=60)
    pid = table_process(run)
    assert pid is not None
    match victim:
        case "the tables":
            os.kill(pid, signal.SIGKILL)
        case "the run":
            run.kill()
        case "the terminal":
            run.send_signal(signal.SIGINT)
        case _:
            pass
    run.communicate(timeout=300)
    wait_until(lambda: not is_running(pid))
    if victim in ("the run", "the terminal"):
        assert not list(folder.glob(".*.new"))
        assert command("resume", "out", timeout=300).code == 0
    assert not list(folder.glob(".*.new"))
    loaded = cb.load(folder)
    assert is_fresh(loaded.folder)
    assert statuses(loaded.turns) == {"ok": 5_200}
    check_histories(provider.ledger.entries)
    check_bills(provider.ledger.entries, loaded.turns)
    made = loaded.turns
    write_turns(loaded.folder)
    same_rows(made, cb.load(folder).turns)
