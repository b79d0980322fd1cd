"""What the sections share: sizes, rows of the table, rounds, medians."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clients import Clients, MeasuredRun
from benchmarks.measure import Cores, raise_priority, sync_time_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table: a figure and its baseline."""

    what: str
    against: str
    theirs: str
    ours: str
    ratio: float
    goal: str = ""
    met: bool | None = None

    def cells(self) -> tuple[str, ...]:
        verdict = "" if self.met is None else "met" if self.met else "MISSED"
        return (self.what, self.against, self.theirs, self.ours, f"{self.ratio:.2f}", self.goal, verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Sizes of the measurements."""

    speed: tuple[int, int] = (1000, 5)
    concurrencies: tuple[int, ...] = (64, 512)
    whole: tuple[int, int] = (8000, 5)
    workers: tuple[int, int] = (4000, 5)
    streams: tuple[int, int] = (400, 5)
    long: tuple[int, int] = (40, 100)
    makespan: tuple[int, int] = (2000, 5)
    makespan_at: tuple[int, ...] = (200, 400, 1000)
    starts: int = 15
    start: tuple[int, ...] = (10, 10_000)
    """Dialogues."""
    memory: tuple[int, int] = (10_000, 1_000_000)
    validate: tuple[int, int] = (100_000, 1_000_000)
    reading: tuple[int, int] = (60_000, 5)
    peers: tuple[int, int] = (200, 5)
    rounds: int = 7
    budget_s: float = 75.0
    """Time limit for the rounds of one section; there are always at least three."""
    helps: int = 15
    providers: int = 2000
    quotas: tuple[int, ...] = (20, 100, 600, 3000)
    gates: int = 1000
    pages: int = 2000
    audits: int = 200
    ranks: int = 2000
    preferences: int = 300


FULL = Size()
QUICK = Size(
    speed=(100, 5),
    concurrencies=(64,),
    whole=(100, 5),
    workers=(100, 5),
    streams=(50, 5),
    long=(4, 30),
    makespan=(200, 5),
    makespan_at=(200,),
    starts=1,
    start=(10,),
    memory=(1_000, 5_000),
    validate=(10_000, 50_000),
    reading=(600, 5),
    peers=(20, 3),
    rounds=1,
    budget_s=20.0,
    helps=1,
    providers=200,
    quotas=(100,),
    gates=20,
    pages=100,
    audits=5,
    ranks=10,
    preferences=4,
)


class Bench:
    """State shared by the sections."""

    def __init__(self, folder: Path, size: Size, datasets: Sequence[Path] = ()) -> None:
        self.size = size
        self.datasets = datasets
        self.refused = False
        self.peers = Path(sys.executable)
        self.folder = folder
        self.cores = Cores.choose()
        self.clients = Clients(folder, self.cores)
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self._load = os.getloadavg()[0]
        self._has_priority = raise_priority()

    def print_progress(self, text: str) -> None:
        print(f"benchmarks: {text} ...", file=sys.stderr, flush=True)

    def rounds(self) -> Iterator[int]:
        """Yield round numbers until there are enough or the time is up."""
        begun = time.perf_counter()
        for number in range(self.size.rounds):
            if number >= 3 and time.perf_counter() - begun > self.size.budget_s:
                self.notes.append(f"only {number} rounds of a section within {self.size.budget_s:.0f} s")
                return
            yield number

    def report(self, *, quick: bool, took_s: float) -> str:
        head = ("what", "against", "baseline", "convbatch", "ratio", "goal", "")
        table = table_text([head, *(row.cells() for row in self.rows)])
        sync_us = sync_time_s(self.folder) * 1e6
        lines = [
            *(["QUICK: counts are too small for meaningful figures", ""] if quick else []),
            table,
            "",
            f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {self.cores}",
            f"load average at the start {self._load:.1f} (0 on an idle machine), "
            + ("measured processes have a raised priority" if self._has_priority else "no raised priority (not root)")
            + f"; took {took_s:.0f} s",
            f"journals in {self.folder.parent}, append 4 KiB + fdatasync: {sync_us:.0f} µs (median)",
            *self.notes,
        ]
        return "\n".join(lines)


def rate_of(one: MeasuredRun) -> float:
    return one.rate


def cpu_of_turns(one: MeasuredRun) -> float:
    return one.cpu_per_1000


def span_of(one: MeasuredRun) -> float:
    return one.span_s


def wall_of(one: MeasuredRun) -> float:
    return one.process.wall_s


def median(runs: Sequence[MeasuredRun], figure: Callable[[MeasuredRun], float]) -> float:
    return statistics.median(map(figure, runs))


def median_ratio(
    us: Sequence[MeasuredRun], them: Sequence[MeasuredRun], figure: Callable[[MeasuredRun], float]
) -> float:
    return statistics.median(figure(one) / figure(other) for one, other in zip(us, them, strict=True))


def table_text(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numbers = {2, 3, 4}
    lines = [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
