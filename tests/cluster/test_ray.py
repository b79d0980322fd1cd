"""Runs on Ray itself: processes killed, nodes removed, the command killed; nothing of a key or process is left.

The quota is kept by the command (decision 030), so killing what keeps the quota is killing the command. Each test
starts a cluster, which takes some seconds, so these are slow proofs; `CLUSTER_KILLS=7` lengthens them (a worker is
started ten times at most). The workers' laws are tested faster in `test_coordinator.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import convbatch as cb
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import Command, Start, config_for, environment, wait_until, write_dataset
from tests.support.canary import find_key
from tests.support.ledger_laws import check_bills, check_histories, same_rows, statuses

pytestmark = pytest.mark.slow

Simulators = Callable[[Provider], Server]
KILLS = int(os.environ.get("CLUSTER_KILLS", "3"))
DIALOGUES, TURNS = 60, 4
ROWS = DIALOGUES * TURNS
_ROOT = Path(__file__).parents[2]


def prepare(folder: Path, server: Server, *, dialogues: int = DIALOGUES) -> list[str | Path]:
    """Write what a run needs; return its arguments."""
    (folder / "convbatch.toml").write_text(config_for(server.url))
    dataset = write_dataset(folder / "d.jsonl", dialogues, TURNS)
    return ["run", dataset, "-m", "sim-good@at-gemini", "--no-progress", "-o", folder / "out"]


def processes(name: str) -> list[int]:
    """Return the processes of this user whose command begins so, oldest first."""
    found: list[tuple[int, int]] = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                started = int((path / "stat").read_text().rpartition(")")[2].split()[19])
            except OSError:
                continue
            if command.startswith(name):
                found.append((started, int(path.name)))
    return [pid for _, pid in sorted(found)]


def workers_of(parent: int) -> list[int]:
    """Return the workers below a process."""
    return [pid for pid in processes("ray::RayWorker") if parent in ancestors(pid)]


def ancestors(pid: int) -> Iterator[int]:
    """Yield the processes above one."""
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return
        yield pid


def is_there(pid: int) -> bool:
    """Return whether a process has not ended."""
    return Path(f"/proc/{pid}").exists()


def below(parent: int) -> list[int]:
    """Return all processes below one."""
    return [pid for pid in processes("") if parent in ancestors(pid)]


def check(folder: Path, provider: Provider, *, rows: int = ROWS) -> Any:
    """Check every law of the finished run; return its table."""
    turns = cb.load(folder / "out").turns
    assert statuses(turns)["ok"] == rows
    check_histories(provider.ledger.entries)
    check_bills(provider.ledger.entries, turns)
    return turns


def test_a_run_on_two_workers_leaves_no_process_no_file_and_no_key(
    tmp_path: Path, simulator: Simulators, start: Start, command: Command
):
    provider = Provider(latency_s=0.1)
    server = simulator(provider)
    arguments = prepare(tmp_path, server)
    (tmp_path / "aiohttp.py").write_text("raise SystemExit('imported from the working directory')")
    process = start(*arguments, "--workers", "2", PYTHONSAFEPATH="1")
    wait_until(lambda: provider.ledger.billed > ROWS // 3, seconds=240)
    parts = below(process.pid)
    assert len(parts) > 4
    folders = [*Path("/tmp").glob(f"convbatch-ray-{process.pid}-*")]
    assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if find_key(path.read_bytes()) is not None] == []
    listening = listeners(parts)
    assert listening, "Ray's processes listen"
    assert {address for address in listening if not is_loopback(address)} == set()
    assert process.wait(240) == 0
    wait_until(lambda: not any(map(is_there, parts)), seconds=30)
    assert not [*Path("/tmp").glob(f"convbatch-ray-{process.pid}-*")]
    turns = check(tmp_path, provider)
    alone = command(*[*arguments[:-1], tmp_path / "alone"], PYTHONSAFEPATH="1")
    assert alone.code == 0
    same_rows(turns, cb.load(tmp_path / "alone").turns)


def listeners(pids: list[int]) -> set[str]:
    """Return the local addresses, in hex, on which these processes accept TCP connections."""
    sockets: set[str] = set()
    for pid in pids:
        try:
            sockets |= {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
    found: set[str] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


def is_loopback(address: str) -> bool:
    return address in ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def test_nobody_without_the_token_of_a_private_cluster_connects_to_it(
    tmp_path: Path, simulator: Simulators, start: Start
):
    provider = Provider(latency_s=600.0)
    process = start(*prepare(tmp_path, simulator(provider), dialogues=2), "--workers", "1")
    wait_until(lambda: len(provider.ledger.entries) > 0, seconds=240)
    commands = [(Path(f"/proc/{pid}/cmdline").read_text().split("\0"), pid) for pid in below(process.pid)]
    address, pid = next(
        (one.partition("=")[2], pid) for parts, pid in commands for one in parts if one.startswith("--gcs-address=")
    )
    assert address.startswith("127.0.0.1:")
    code = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print('connected')"
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    plain = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
    own = plain | {name: value for name, _, value in (line.partition("=") for line in lines) if name.startswith("RAY_")}
    other = {**own, "RAY_AUTH_TOKEN": "0" * 64}
    done = [
        subprocess.run([sys.executable, "-c", code, address], env=env, capture_output=True, text=True, check=False)
        for env in (own, other)
    ]
    assert done[0].stdout == "connected\n", done[0].stderr
    assert "ConnectionError" in done[1].stderr
    assert not done[1].stdout
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    assert any(b"stopping" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


def test_killed_workers_are_replaced(tmp_path: Path, simulator: Simulators, start: Start):
    provider = Provider(latency_s=0.3)
    process = start(*prepare(tmp_path, simulator(provider), dialogues=KILLS * DIALOGUES), "--workers", "2")
    wait_until(lambda: provider.ledger.billed > 20, seconds=240)
    killed: set[int] = set()
    for _ in range(KILLS):
        wait_until(lambda: len(set(workers_of(process.pid)) - killed) > 0, seconds=120)
        victim = next(pid for pid in workers_of(process.pid) if pid not in killed)
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)
        billed = provider.ledger.billed
        wait_until(
            lambda billed=billed: provider.ledger.billed > billed + 20 or process.poll() is not None, seconds=120
        )
    assert process.wait(240) == 0
    check(tmp_path, provider, rows=KILLS * ROWS)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[str, Callable[[str], int]]]:
    """Start a cluster of two nodes; give its address, and what tells it to add or remove one."""
    with (tmp_path / "nodes.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.ray_nodes"], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log, text=True,
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address, (tmp_path / "nodes.log").read_text()

    def tell(order: str) -> int:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{order}\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    with process:
        yield address, tell
        process.stdin.close()
        process.wait(60)


def test_removed_nodes_cost_no_reply(
    tmp_path: Path, simulator: Simulators, start: Start, nodes: tuple[str, Callable[[str], int]]
):
    address, tell = nodes
    provider = Provider(latency_s=0.3)
    process = start(
        *prepare(tmp_path, simulator(provider), dialogues=KILLS * DIALOGUES), "--workers", "2", "--on", "ray",
        RAY_ADDRESS=address, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    )  # fmt: skip
    assert process.stdout is not None
    wait_until(lambda: provider.ledger.billed > 20, seconds=240)
    for _ in range(KILLS):
        tell("add")
        tell("remove")
        billed = provider.ledger.billed
        wait_until(
            lambda billed=billed: provider.ledger.billed > billed + 20 or process.poll() is not None, seconds=120
        )
    assert process.wait(240) == 0
    assert b"aylet" not in process.stdout.read(), "what Ray's nodes report is not for the user"
    check(tmp_path, provider, rows=KILLS * ROWS)


def test_a_killed_command_is_resumed_with_nothing_lost(
    tmp_path: Path, simulator: Simulators, start: Start, command: Command
):
    provider = Provider(latency_s=0.2)
    arguments = prepare(tmp_path, simulator(provider), dialogues=KILLS * DIALOGUES)
    left: list[int] = []
    for kill in range(KILLS):
        begin = arguments if kill == 0 else ["resume", tmp_path / "out", "--no-progress"]
        billed = provider.ledger.billed
        process = start(*begin, "--workers", "2")
        wait_until(lambda billed=billed: provider.ledger.billed > billed + 30, seconds=240)
        parts = below(process.pid)
        working = workers_of(process.pid)
        process.kill()
        process.wait()
        wait_until(lambda working=working: not any(map(is_there, working)), seconds=20)
        left += parts
    resumed = command("resume", tmp_path / "out", "--no-progress")
    assert resumed.code == 0, resumed.err
    check(tmp_path, provider, rows=KILLS * ROWS)
    assert not (tmp_path / "out" / "spool").exists()
    wait_until(lambda: not any(map(is_there, left)), seconds=90)  # two of Ray's own look for their parent for a minute


def test_ctrl_c_keeps_what_is_in_flight(tmp_path: Path, simulator: Simulators, start: Start, command: Command):
    provider = Provider(latency_s=0.3)
    process = start(*prepare(tmp_path, simulator(provider)), "--workers", "2")
    wait_until(lambda: provider.ledger.billed > 20, seconds=240)
    parts = below(process.pid)
    group = os.getpgid(process.pid)
    for pid in (process.pid, *parts):
        if os.getpgid(pid) == group:  # a terminal sends it to all of these
            os.kill(pid, signal.SIGINT)
    assert process.wait(60) == 130
    wait_until(lambda: not any(map(is_there, parts)), seconds=30)
    turns: Any = cb.load(tmp_path / "out").turns
    assert statuses(turns)["ok"] == provider.ledger.billed
    assert turns["possibly_paid"].eq(0).all()
    assert command("resume", tmp_path / "out", "--no-progress").code == 0
    assert provider.ledger.billed == ROWS
