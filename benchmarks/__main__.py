"""`python -m benchmarks`: one table, every figure as a ratio to a baseline measured in the same run.

Clients alternate (A, B, C, A, B, C ...), each ratio is taken within a round, and the table shows medians over the
rounds, because the load of the machine varies. README.md in this folder defines the figures.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy import accuracy
from benchmarks.alarms import alarms
from benchmarks.cheats import HEAD, HONEST, cheat_rates
from benchmarks.clients import Clients, MeasuredRun, Work
from benchmarks.measure import (
    ROOT,
    Cores,
    Failed,
    Server,
    environment,
    measured,
    raise_priority,
    sync_time_s,
    workplace,
)
from benchmarks.pages import TURNS, opened_pages
from benchmarks.quotas import played, quotas, steady
from benchmarks.server import EVENTS
from benchmarks.worlds import ALPHA, MARGINS, GateRates, gate_rates

MIB = 2**20
BYTES_A_DIALOGUE = 16
SLACK = 0.10
POINT = 0.01
LATENCY_S = 0.2


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
    streams: tuple[int, int] = (400, 5)
    makespan: tuple[int, int, int] = (2000, 5, 400)
    memory: tuple[int, int] = (10_000, 100_000)
    validate: tuple[int, int] = (100_000, 1_000_000)
    rounds: int = 7
    budget_s: float = 75.0
    """Time limit for the rounds of one section; there are always at least three."""
    helps: int = 15
    providers: int = 2000
    quotas: tuple[int, ...] = (20, 100, 600, 3000)
    gates: int = 1000
    pages: int = 2000
    audits: int = 200


FULL = Size()
QUICK = Size(
    speed=(200, 5),
    streams=(100, 5),
    makespan=(400, 5, 200),
    memory=(1_000, 10_000),
    validate=(10_000, 100_000),
    rounds=3,
    budget_s=20.0,
    helps=5,
    providers=200,
    quotas=(100,),
    gates=20,
    pages=100,
    audits=5,
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("-q", "--quick", action="store_true", help="small counts: a smoke test, not a measurement")
    parser.add_argument("-f", "--folder", type=Path, help="folder for journals [the temporary folder]")
    parser.add_argument(
        "-s", "--section", choices=list(SECTIONS), action="append", help="only this section (repeatable)"
    )
    parser.add_argument("--refused", action="store_true", help="`gates`: try the methods that are not used as well")
    parser.add_argument("datasets", nargs="*", type=Path, help="for `estimate`: files of dialogues [the quickstart]")
    args = parser.parse_args()
    begun = time.perf_counter()
    with workplace(args.folder) as folder:
        bench = Bench(folder, QUICK if args.quick else FULL, [path.resolve() for path in args.datasets])
        bench.refused = args.refused
        try:
            for name in args.section or SECTIONS:
                bench.print_progress(name)
                bench.rows += SECTIONS[name](bench)
        except Failed as failed:
            print(f"error: {failed}", file=sys.stderr)
            return 1
        print(bench.report(quick=args.quick, took_s=time.perf_counter() - begun))
    return 0


class Bench:
    """State shared by the sections."""

    def __init__(self, folder: Path, size: Size, datasets: Sequence[Path] = ()) -> None:
        self.size = size
        self.datasets = datasets
        self.refused = False
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
        table = _table([head, *(row.cells() for row in self.rows)])
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


# --- sections --------------------------------------------------------------------------------------------------------


def speed(bench: Bench) -> list[Row]:
    """Measure turns per second and CPU per turn at zero latency, against both bare loops."""
    rows: list[Row] = []
    dialogues, turns = bench.size.speed
    with Server(bench.cores.server) as server:
        _note_ceiling(bench, server)
        starting = bench.clients.convbatch(server, Work(1, 1, 64)).process.cpu_s
        for concurrency, goal in ((64, 0.4), (512, 0.5)):
            work = Work(dialogues, turns, concurrency)
            rows += _speed_rows(bench, server, work, goal, starting)
    return rows


def _speed_rows(bench: Bench, server: Server, work: Work, goal: float, starting: float) -> list[Row]:
    runs: dict[str, list[MeasuredRun]] = {"i": [], "ii": [], "us": []}
    for _ in bench.rounds():
        runs["i"].append(bench.clients.bare(server, work, sync=False))
        runs["us"].append(bench.clients.convbatch(server, work))
        runs["ii"].append(bench.clients.bare(server, work, sync=True))
    us, bare, synced = runs["us"], runs["i"], runs["ii"]
    at = f"-j {work.concurrency}"
    loops = (("(i) bare loop", bare, None), ("(ii) + group fdatasync", synced, goal))
    rows: list[Row] = []
    for against, loop, wanted in loops:
        ratio = _median_ratio(us, loop, _rate)
        rows.append(
            Row(
                what=f"turns/s, {at}",
                against=against,
                theirs=f"{_median(loop, _rate):,.0f}",
                ours=f"{_median(us, _rate):,.0f}",
                ratio=ratio,
                goal="" if wanted is None else f">= {wanted}",
                met=None if wanted is None else ratio >= wanted,
            )
        )
    rows += [
        Row(
            what=f"CPU s per 1,000 turns, {at}",
            against=against,
            theirs=f"{_median(loop, _cpu):.3f}",
            ours=f"{_median(us, _cpu):.3f}",
            ratio=_median_ratio(us, loop, _cpu),
        )
        for against, loop, _ in loops
    ]

    def whole(one: MeasuredRun) -> float:
        return (one.process.cpu_s - starting) / one.turns * 1000

    rows.append(
        Row(
            what=f"  the same, whole process minus a run of 1 dialogue, {at}",
            against="(ii), while sending",
            theirs=f"{_median(synced, _cpu):.3f}",
            ours=f"{_median(us, whole):.3f}",
            ratio=_median(us, whole) / _median(synced, _cpu),
        )
    )
    rows.append(
        Row(
            what=f"wall s from start to exit, {at}",
            against="(ii), whole process",
            theirs=f"{_median(synced, _wall):.2f}",
            ours=f"{_median(us, _wall):.2f}",
            ratio=_median_ratio(us, synced, _wall),
        )
    )
    busy = max(one.server_cpu_s / one.span_s for one in bare)
    bench.notes.append(f"{at}: the server's CPU was at most {busy:.0%} busy, under the bare loop")
    return rows


def streams(bench: Bench) -> list[Row]:
    """Measure turns per second of streamed replies, against bare loops that read the same streams."""
    dialogues, turns = bench.size.streams
    work = Work(dialogues, turns, 64, stream=True)
    runs: dict[str, list[MeasuredRun]] = {"i": [], "ii": [], "us": []}
    with Server(bench.cores.server) as server:
        for _ in bench.rounds():
            runs["i"].append(bench.clients.bare(server, work, sync=False))
            runs["us"].append(bench.clients.convbatch(server, work))
            runs["ii"].append(bench.clients.bare(server, work, sync=True))
    us = runs["us"]
    rows: list[Row] = []
    for against, loop in (("(i) bare SSE loop", runs["i"]), ("(ii) + group fdatasync", runs["ii"])):
        ratio = _median_ratio(us, loop, _rate)
        rows.append(
            Row(
                what=f"streamed turns/s, {EVENTS} events, -j {work.concurrency}",
                against=against,
                theirs=f"{_median(loop, _rate):,.0f}",
                ours=f"{_median(us, _rate):,.0f}",
                ratio=ratio,
                goal=">= 0.6",
                met=ratio >= 0.6,
            )
        )
        rows.append(
            Row(
                what="CPU s per 1,000 streamed turns",
                against=against,
                theirs=f"{_median(loop, _cpu):.3f}",
                ours=f"{_median(us, _cpu):.3f}",
                ratio=_median_ratio(us, loop, _cpu),
            )
        )
    busy = max(one.server_cpu_s / one.span_s for one in runs["i"])
    bench.notes.append(f"streams: the server's CPU was at most {busy:.0%} busy, under the bare loop")
    return rows


def makespan(bench: Bench) -> list[Row]:
    """Measure first request to last synced reply, against turns x latency / concurrency."""
    dialogues, turns, concurrency = bench.size.makespan
    work = Work(dialogues, turns, concurrency)
    ideal = work.requests * LATENCY_S / concurrency
    us: list[MeasuredRun] = []
    bare: list[MeasuredRun] = []
    with Server(bench.cores.server, LATENCY_S) as server:
        for _ in range(3):
            us.append(bench.clients.convbatch(server, work))
            bare.append(bench.clients.bare(server, work, sync=True))
    what = f"makespan s, {dialogues:,} x {turns} at {LATENCY_S * 1000:.0f} ms, -j {concurrency}"
    ratio = _median(us, _span) / ideal
    busy = _median(us, _cpu) / 1000 * work.requests
    bench.notes.append(
        f"makespan: the ideal needs {work.requests / ideal:,.0f} turns/s, which takes {busy / ideal:.0%} of a CPU"
        " at this run's CPU time per turn"
    )
    return [
        Row(
            what=what,
            against="ideal",
            theirs=f"{ideal:.2f}",
            ours=f"{_median(us, _span):.2f}",
            ratio=ratio,
            goal="<= 1.10",
            met=ratio <= 1.10,
        ),
        Row(
            what=what,
            against="(ii) + group fdatasync",
            theirs=f"{_median(bare, _span):.2f}",
            ours=f"{_median(us, _span):.2f}",
            ratio=_median_ratio(us, bare, _span),
        ),
    ]


def memory(bench: Bench) -> list[Row]:
    """Measure peak memory of `run` with one turn per dialogue, small and large."""
    few, many = bench.size.memory
    rows: list[Row] = []
    with Server(bench.cores.server) as server:
        small = bench.clients.convbatch(server, Work(few, 1, 64))
        large = bench.clients.convbatch(server, Work(many, 1, 64))
    rows.append(
        _growth("run, while sending", few, many, small.process.peak_at(small.ended), large.process.peak_at(large.ended))
    )
    rows.append(_growth("run, whole process", few, many, small.process.peak_bytes, large.process.peak_bytes))
    bench.notes.append(
        f"run of {many:,} dialogues x 1 turn: {large.span_s:.0f} s of requests, {large.process.wall_s:.0f} s in total"
    )
    return rows


def validate(bench: Bench) -> list[Row]:
    """Measure peak memory of `convbatch validate`, small and large."""
    few, many = bench.size.validate
    small, large = bench.clients.validate(few), bench.clients.validate(many)
    bench.notes.append(f"validate: {many / large.wall_s:,.0f} dialogues/s at {many:,}, startup included")
    return [_growth("validate", few, many, small.peak_bytes, large.peak_bytes)]


def _growth(what: str, few: int, many: int, small: int, large: int) -> Row:
    more = many - few
    allowed = small * (1 + SLACK) + BYTES_A_DIALOGUE * more
    return Row(
        what=f"peak MiB, {what}, {many:,} dialogues: {(large - small) / more:+.0f} B per dialogue",
        against=f"{few:,} dialogues",
        theirs=f"{small / MIB:.1f}",
        ours=f"{large / MIB:.1f}",
        ratio=large / small,
        goal=f"<= {allowed / small:.2f}",
        met=large <= allowed,
    )


def show_help(bench: Bench) -> list[Row]:
    """Measure `--help` against a Typer app with as many commands."""
    commands = _count_commands(bench)
    ours = [sys.executable, "-m", "convbatch", "--help"]
    bare = [sys.executable, str(ROOT / "benchmarks" / "bare_typer.py"), str(commands), "--help"]
    best = {"ours": float("inf"), "bare": float("inf")}
    for _ in range(bench.size.helps + 1):
        for name, command in (("ours", ours), ("bare", bare)):
            one = measured(command, ROOT, bench.cores.client, environment(), watch=False)
            best[name] = min(best[name], one.wall_s)
    ratio = best["ours"] / best["bare"]
    return [
        Row(
            what="--help, s (fastest of many)",
            against=f"bare Typer, {commands} commands",
            theirs=f"{best['bare']:.3f}",
            ours=f"{best['ours']:.3f}",
            ratio=ratio,
            goal="<= 1.3",
            met=ratio <= 1.3,
        )
    ]


def estimate(bench: Bench) -> list[Row]:
    """Compare the estimates of `run --dry-run` with the simulator's ledger."""
    return [
        Row(
            what=f"{off.figure}, {off.dataset}, {off.target}, learned from {off.learned}",
            against="the ledger",
            theirs=_count(off.real),
            ours=f"{_count(off.expected)} ({_count(off.low)} to {_count(off.high)})",
            ratio=off.ratio,
        )
        for off in accuracy(bench.datasets, bench.folder)
    ]


def compare(bench: Bench) -> list[Row]:
    """Measure false alarms and coverage of `compare` on simulated data with known effects."""
    providers = bench.size.providers
    rows: list[Row] = []
    for one in alarms(providers):
        place = f"{one.metric}, {one.dialogues} dialogues" + (f" x {one.repeats}" if one.repeats > 1 else "")
        liberal = one.alarms - 0.05
        rows.append(
            Row(
                what=f"false alarms, {place}",
                against="nominal" if one.turn_alarms is None else f"McNemar over turns {one.turn_alarms:.1%}",
                theirs="5.0%",
                ours=f"{one.alarms:.1%}",
                ratio=one.alarms / 0.05,
                goal="<= 6%",
                met=liberal <= POINT,
            )
        )
        rows += [
            Row(
                what=f"{what}, {place}",
                against="nominal",
                theirs="95.0%",
                ours=f"{share:.1%}",
                ratio=share / 0.95,
                goal=">= 94%",
                met=share >= 0.95 - POINT,
            )
            for what, share in (("coverage of intervals", one.coverage), ("coverage of harm bounds", one.bound))
        ]
    error = (0.05 * 0.95 / providers) ** 0.5
    bench.notes.append(f"compare: {providers:,} data sets per figure, standard error {error:.2%}")
    return rows


def limits(bench: Bench) -> list[Row]:
    """Measure how much of a hidden quota is used from the second minute on, and how many requests are refused."""
    rows: list[Row] = []
    for quota in quotas(bench.size.quotas):
        usage = steady(played(quota))
        share = usage.passed / (quota.per_minute * (quota.minutes - 1))
        rows.append(
            Row(
                what=f"requests/min, {quota}",
                against="the quota",
                theirs=f"{quota.per_minute:,}",
                ours=f"{share * quota.per_minute:,.1f}, {usage.refused_share:.1%} refused",
                ratio=share,
                goal=">= 0.9, <= 5%",
                met=share >= 0.9 and usage.refused_share <= 0.05,
            )
        )
    bench.notes.append("limits: ten minutes in virtual time, replies after 50 ms, -j 16, without the first minute")
    return rows


def gates(bench: Bench) -> list[Row]:
    """Measure bounds on harm, false passes and false regressions of `compare` where few dialogues break."""
    cells: dict[tuple[str, str], list[GateRates]] = {}
    for one in gate_rates(bench.size.gates, refused=bench.refused):
        cells.setdefault((one.world.name, one.metric), []).append(one)
    rows: list[Row] = []
    for (world, metric), sizes in cells.items():
        place = f"{metric}, {world}"
        rows.append(_bound_row(place, sizes))
        if sizes[0].harm == 0:
            alarms = max(one.regressions for one in sizes)
            what = f"false regressions, {place}"
            rows.append(_share_row(what, "nominal", ALPHA, alarms, "<= 5%", alarms <= ALPHA + POINT / 2))
            rows += [_pass_row("earned", place, one, n) for one in sizes for n in range(len(MARGINS))]
        else:
            for n in (n for n, margin in enumerate(MARGINS) if sizes[0].harm >= margin - 1e-9):
                rows.append(_pass_row("false", place, max(sizes, key=lambda one: one.passes[n]), n))
    for name in {name: None for one in cells.values() for name in one[0].refused}:
        worst = min((one for sizes in cells.values() for one in sizes), key=lambda one: one.refused[name])
        missed = sum(one.refused[name] < 0.95 - POINT for sizes in cells.values() for one in sizes)
        bench.notes.append(
            f"gates: refused bound ({name}) holds below 94% in {missed} of {sum(map(len, cells.values()))} cases, "
            f"at worst {worst.refused[name]:.1%}: {worst.metric}, {worst.dialogues} dialogues, {worst.world.name}"
        )
    count = bench.size.gates
    error = (ALPHA * (1 - ALPHA) / count) ** 0.5
    bench.notes.append(
        f"gates: {count:,} data sets per number of dialogues below 100, else {count // 2:,}; standard error at 95%: "
        f"{error:.1%}, {error * 2**0.5:.1%}"
    )
    return rows


def audit(bench: Bench) -> list[Row]:
    """Measure false alarms of `audit` between honest gateways, and how often it finds cheats."""
    worlds = bench.size.audits
    rates = cheat_rates(worlds)
    rows = [
        Row(
            what=f"{'false alarms' if one.name in HONEST else 'found'}: {one.name}",
            against="`consistent`",
            theirs=f"{one.share('consistent'):.1%}",
            ours=f"{one.share('different'):.1%}",
            ratio=one.share("different"),
            goal="<= 5%" if one.name in HONEST else "",
            met=one.share("different") <= ALPHA + POINT if one.name in HONEST else None,
        )
        for one in rates
    ]
    error = (ALPHA * (1 - ALPHA) / worlds) ** 0.5
    bench.notes.append(f"audit: {worlds:,} worlds a row, standard error of 5% {error:.1%}; for docs/audit.md:")
    bench.notes += ["", HEAD, *(one.markdown() for one in rates)]
    return rows


def _bound_row(place: str, sizes: Sequence[GateRates]) -> Row:
    worst = min(sizes, key=lambda one: one.held)
    against = f"90% interval, worst of {sizes[0].dialogues} to {sizes[-1].dialogues}"
    by_t = min(one.refused["t"] for one in sizes)
    met = worst.held >= 0.95 - POINT
    return _share_row(f"harm bounds that hold, {place}", against, by_t, worst.held, ">= 94%", met)


def _pass_row(kind: str, place: str, one: GateRates, margin: int) -> Row:
    what = f"{kind} passes, margin {MARGINS[margin]:g}, {one.dialogues} dialogues, {place}"
    ours, by_t = one.passes[margin], one.passes_by_t[margin]
    if kind == "earned":
        return _share_row(what, "by the 90% interval", by_t, ours)
    return _share_row(what, "by the 90% interval", by_t, ours, "<= 6%", ours <= ALPHA + POINT)


def _share_row(what: str, against: str, theirs: float, ours: float, goal: str = "", met: bool | None = None) -> Row:
    ratio = ours / theirs if theirs else float("nan")
    return Row(what=what, against=against, theirs=f"{theirs:.1%}", ours=f"{ours:.1%}", ratio=ratio, goal=goal, met=met)


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def pages(bench: Bench) -> list[Row]:
    """Measure how long a browser takes to open the page of a report."""
    found = opened_pages(bench.folder, bench.size.pages, bench.size.rounds)
    bench.notes.append(f"pages: {found.page_bytes / 1e6:.1f} MB, as plain HTML {found.plain_bytes / 1e6:.1f} MB")
    return [
        Row(
            what=f"report page of {bench.size.pages * TURNS:,} turns, s until it can be used",
            against="the same texts as plain HTML",
            theirs=f"{found.plain_s:.2f}",
            ours=f"{found.page_s:.2f}",
            ratio=found.page_s / found.plain_s,
            goal="< 3 s, 30 MB",
            met=found.page_s < 3 and found.page_bytes < 30e6,
        )
    ]


SECTIONS: dict[str, Callable[[Bench], list[Row]]] = {
    "help": show_help,
    "speed": speed,
    "streams": streams,
    "makespan": makespan,
    "memory": memory,
    "validate": validate,
    "estimate": estimate,
    "compare": compare,
    "limits": limits,
    "gates": gates,
    "pages": pages,
    "audit": audit,
}


def _count_commands(bench: Bench) -> int:
    count = "from convbatch.cli.main import app; print(len(app.registered_commands))"
    return int(measured([sys.executable, "-c", count], ROOT, bench.cores.client, environment(), watch=False).stdout)


def _note_ceiling(bench: Bench, server: Server) -> None:
    rates: list[float] = []
    for connections in (64, 512):
        requests = 20_000
        command = [sys.executable, "-m", "benchmarks.ceiling", str(server.port)]
        command += ["--connections", str(connections), "--requests", str(requests)]
        one = measured(command, ROOT, bench.cores.client, environment(), watch=False)
        rate, sent = one.stdout.split()
        rates.append(float(rate))
        server.expected += int(sent)
    bench.notes.append(
        f"the server answers at least {rates[0]:,.0f} requests/s over 64 connections, {rates[1]:,.0f} over 512"
        " (measured with a client that does not parse the replies)"
    )


# --- figures ---------------------------------------------------------------------------------------------------------


def _rate(one: MeasuredRun) -> float:
    return one.rate


def _cpu(one: MeasuredRun) -> float:
    return one.cpu_per_1000


def _span(one: MeasuredRun) -> float:
    return one.span_s


def _wall(one: MeasuredRun) -> float:
    return one.process.wall_s


def _median(runs: Sequence[MeasuredRun], figure: Callable[[MeasuredRun], float]) -> float:
    return statistics.median(map(figure, runs))


def _median_ratio(
    us: Sequence[MeasuredRun], them: Sequence[MeasuredRun], figure: Callable[[MeasuredRun], float]
) -> float:
    return statistics.median(figure(one) / figure(other) for one, other in zip(us, them, strict=True))


def _table(rows: Sequence[Sequence[str]]) -> str:
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


if __name__ == "__main__":
    sys.exit(main())
