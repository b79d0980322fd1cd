"""Sections on starting: `--help`, and the time until the first request."""

from __future__ import annotations

import statistics
import sys

from benchmarks.bench import Bench, Row
from benchmarks.clients import MeasuredRun, Work
from benchmarks.measure import ROOT, Server, environment, measured

TURNS = 5


def show_help(bench: Bench) -> list[Row]:
    """Measure `--help` against a Typer app with as many commands."""
    commands = _count_commands(bench)
    ours = [sys.executable, "-m", "convbatch", "--help"]
    bare = [sys.executable, str(ROOT / "benchmarks" / "bare_typer.py"), str(commands), "--help"]
    wall: dict[str, list[float]] = {"ours": [], "bare": []}
    cpu: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(bench.size.helps + 1):
        for name, command in (("ours", ours), ("bare", bare)):
            one = measured(command, ROOT, bench.cores.client, environment(), watch=False)
            wall[name].append(one.wall_s)
            cpu[name].append(one.cpu_s)
    rows: list[Row] = []
    for what, times, goal in (("wall s", wall, 1.2), ("CPU s", cpu, None)):
        ratio = min(times["ours"]) / min(times["bare"])
        rows.append(
            Row(
                what=f"--help, {what} (fastest of many)",
                against=f"bare Typer, {commands} commands",
                theirs=f"{min(times['bare']):.3f}",
                ours=f"{min(times['ours']):.3f}",
                ratio=ratio,
                goal="" if goal is None else f"<= {goal}",
                met=None if goal is None else ratio <= goal,
            )
        )
    return rows


def _count_commands(bench: Bench) -> int:
    count = "from convbatch.cli.main import app; print(len(app.registered_commands))"
    return int(measured([sys.executable, "-c", count], ROOT, bench.cores.client, environment(), watch=False).stdout)


def start(bench: Bench) -> list[Row]:
    """Measure from the start of the process to the first request that the server sees, against the bare loop."""
    return [
        row for number, dialogues in enumerate(bench.size.start) for row in _start_rows(bench, dialogues, number == 0)
    ]


def _start_rows(bench: Bench, dialogues: int, is_goal: bool) -> list[Row]:
    bare: list[tuple[float, float | None]] = []
    us: list[tuple[float, float | None]] = []
    for _ in range(bench.size.starts if is_goal else min(3, bench.size.starts)):
        bare.append(_first_request(bench, dialogues, is_bare=True))
        us.append(_first_request(bench, dialogues, is_bare=False))
    rows: list[Row] = []
    for place, what in enumerate(("wall s", "CPU s")):
        pairs = [(one[place], other[place]) for one, other in zip(us, bare, strict=True)]
        known = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs]
        if not known:  # CPU time up to a moment: only where the kernel tells it
            continue
        ratio = statistics.median(ours / theirs for ours, theirs in known)
        rows.append(
            Row(
                what=f"start to first request, {what}, {dialogues:,} x {TURNS}",
                against="(i) bare loop",
                theirs=f"{statistics.median(theirs for _, theirs in known):.3f}",
                ours=f"{statistics.median(ours for ours, _ in known):.3f}",
                ratio=ratio,
                goal="<= 2" if is_goal else "",
                met=ratio <= 2 if is_goal else None,
            )
        )
    return rows


def _first_request(bench: Bench, dialogues: int, *, is_bare: bool) -> tuple[float, float | None]:
    """Return seconds and CPU seconds from the start of a client to the first request that its server sees."""
    work = Work(dialogues, TURNS, 64)
    bench.clients.dataset(dialogues, TURNS)
    with Server(bench.cores.server) as server:
        run: MeasuredRun = (
            bench.clients.bare(server, work, sync=False) if is_bare else bench.clients.convbatch(server, work)
        )
    began, first = run.process.began, server.first_request_at
    return first - began, run.process.cpu_between(began, first)
