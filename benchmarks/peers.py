"""Section on peers: the same dialogues against the same server, by convbatch, a bare loop, and programs from PyPI.

The peers are installed in a virtual environment of their own (`peers.txt`), because convbatch needs none of them.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.bench import Bench, Row
from benchmarks.clients import Work
from benchmarks.measure import ROOT, Failed, Measured, Server, environment, measured

DEFAULT_PYTHON = Path(".venv-peers/bin/python")
INSTALL = "python3 -m venv .venv-peers && .venv-peers/bin/pip install -r benchmarks/peers.txt"
LATENCIES_S = (0.0, 0.05)
CONCURRENCY = 64
MOST_ROUNDS = 3
LONGEST_S = 900.0


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that plays dialogues."""

    name: str
    distribution: str
    """On PyPI."""
    package: str
    """As it is imported."""
    module: str
    """In `peer_clients`."""
    keeps: str
    """What it leaves on the disk."""


PEERS = (
    Peer("openai SDK", "openai", "openai", "openai_sdk", "a line a reply, unsynced"),
    Peer("google-genai chats", "google-genai", "google.genai", "google_genai", "a line a reply, unsynced"),
    Peer("evalscope perf", "evalscope", "evalscope.perf", "evalscope", "SQLite, a commit per 1,000 replies"),
    Peer("inspect_ai", "inspect_ai", "inspect_ai", "inspect_ai", "a log per dialogue, synced at the end"),
)
KEEPS = {"bare": "a line a reply, unsynced", "convbatch": "a journal, each reply synced"}


class _Played(NamedTuple):
    """One run of one client."""

    turns: int
    first_at: float
    last_at: float
    process: Measured

    @property
    def rate(self) -> float:
        return self.turns / (self.last_at - self.first_at)

    @property
    def cpu_per_1000(self) -> float:
        cpu_s = self.process.cpu_between(self.first_at, self.last_at)
        return (self.process.cpu_s if cpu_s is None else cpu_s) / self.turns * 1000

    @property
    def wall_s(self) -> float:
        return self.process.wall_s


class _Figure(NamedTuple):
    name: str
    digits: int
    of: Callable[[_Played], float]


FIGURES = (
    _Figure("turns/s", 0, lambda one: one.rate),
    _Figure("CPU s per 1,000 turns", 3, lambda one: one.cpu_per_1000),
    _Figure("s from start to exit", 2, lambda one: one.wall_s),
)


def peers(bench: Bench) -> list[Row]:
    """Measure turns per second and CPU of each peer, each as a ratio to the bare loop of the same round.

    Raises:
        Failed: No peer is installed, or one did not send exactly the requests of the dialogues.
    """
    python = bench.peers if bench.peers.is_absolute() else ROOT / bench.peers
    installed = [peer for peer in PEERS if _is_installed(python, peer)]
    if not installed:
        raise Failed(
            f"{python} has none of the peers; install them with:\n  {INSTALL}\nor name an interpreter: --peers"
        )
    if missing := [peer.name for peer in PEERS if peer not in installed]:
        bench.notes.append(f"peers: {python} does not have {', '.join(missing)}; install them with: {INSTALL}")
    bench.notes.append(
        f"peers, -j {CONCURRENCY}: {_versions(python, installed)}; turns/s and CPU are from the first to the last"
        " request that the server sees"
    )
    rows: list[Row] = []
    for latency_s in LATENCIES_S:
        rows += _rows_at(bench, python, installed, latency_s)
    return rows


def _rows_at(bench: Bench, python: Path, installed: list[Peer], latency_s: float) -> list[Row]:
    dialogues, turns = bench.size.peers
    work = Work(dialogues, turns, CONCURRENCY)
    players: dict[str, Callable[[Server], Measured]] = {
        "bare": lambda server: bench.clients.bare(server, work, sync=False).process,
        "convbatch": lambda server: bench.clients.convbatch(server, work).process,
    }
    keeps = dict(KEEPS)
    for peer in installed:
        players[peer.name] = lambda server, peer=peer: _play(bench, python, peer, work, server)
        keeps[peer.name] = peer.keeps
    bench.clients.dataset(dialogues, turns)
    found: dict[str, list[_Played]] = {name: [] for name in players}
    for number in bench.rounds():
        if number >= MOST_ROUNDS:
            break
        for name, player in players.items():
            with Server(bench.cores.server, latency_s) as server:
                process = player(server)
            found[name].append(_Played(work.requests, server.first_request_at, server.last_request_at, process))
    at = f"{dialogues} x {turns} at {latency_s * 1000:.0f} ms"
    rows: list[Row] = []
    for figure in FIGURES:
        bare = [figure.of(one) for one in found["bare"]]
        for name, runs in found.items():
            if name == "bare":
                continue
            theirs = [figure.of(one) for one in runs]
            rows.append(
                Row(
                    what=f"{figure.name}, {at}: {name}" + (f" ({keeps[name]})" if figure is FIGURES[0] else ""),
                    against="bare loop" + (f" ({keeps['bare']})" if figure is FIGURES[0] else ""),
                    theirs=f"{statistics.median(bare):,.{figure.digits}f}",
                    ours=f"{statistics.median(theirs):,.{figure.digits}f}",
                    ratio=statistics.median(one / other for one, other in zip(theirs, bare, strict=True)),
                )
            )
    return rows


def _play(bench: Bench, python: Path, peer: Peer, work: Work, server: Server) -> Measured:
    out = bench.folder / f"peer-{peer.module}"
    command = [str(python), "-m", f"benchmarks.peer_clients.{peer.module}", server.url, str(out)]
    command += ["--dialogues", str(work.dialogues), "--turns", str(work.turns)]
    command += ["--concurrency", str(work.concurrency)]
    process = measured(command, bench.folder, bench.cores.client, environment(), longest_s=LONGEST_S)
    server.expected += work.requests
    kept = sum(path.stat().st_size for path in ([out] if out.is_file() else out.rglob("*")) if path.is_file())
    if not kept:
        raise Failed(f"{peer.name} left nothing in {out}")
    if out.is_file():
        out.unlink()
    else:
        shutil.rmtree(out)
    return process


def _is_installed(python: Path, peer: Peer) -> bool:
    return _prints(python, f"import importlib.util as u; print(u.find_spec({peer.package!r}) is not None)") == "True"


def _versions(python: Path, installed: list[Peer]) -> str:
    names = [peer.distribution for peer in installed]
    code = f"from importlib.metadata import version; print(*(n + ' ' + version(n) for n in {names}), sep=', ')"
    return _prints(python, code)


def _prints(python: Path, code: str) -> str:
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
