"""Sections on sending: how fast, with how much CPU time, against bare loops."""

from __future__ import annotations

import os
import sys

from benchmarks.bench import Bench, Row, cpu_of_turns, median, median_ratio, rate_of, span_of, wall_of
from benchmarks.clients import MeasuredRun, Work
from benchmarks.measure import ROOT, Server, environment, measured
from benchmarks.server import EVENTS

LATENCY_S = 0.2
LONG_MESSAGE_BYTES = 2048
OF_BARE = {64: 0.55}
OF_SYNCED = {64: 0.75, 512: 0.8}
"""Goals at a concurrency."""
MAKESPANS = {200: 1.04, 1000: 1.25}
"""Goals against the bare loop at a concurrency."""


def speed(bench: Bench) -> list[Row]:
    """Measure turns per second and CPU per turn at zero latency, against both bare loops."""
    rows: list[Row] = []
    dialogues, turns = bench.size.speed
    with Server(bench.cores.server) as server:
        _note_ceiling(bench, server)
        starting = bench.clients.convbatch(server, Work(1, 1, 64)).process.cpu_s
        for concurrency in bench.size.concurrencies:
            rows += _speed_rows(bench, server, Work(dialogues, turns, concurrency), starting)
    return rows


def _speed_rows(bench: Bench, server: Server, work: Work, starting: float) -> list[Row]:
    bare, us, synced = _alternated(bench, server, work)
    at = f"-j {work.concurrency}"
    loops = (
        ("(i) bare loop", bare, OF_BARE.get(work.concurrency)),
        ("(ii) + group fdatasync", synced, OF_SYNCED.get(work.concurrency)),
    )
    rows: list[Row] = []
    for against, loop, wanted in loops:
        ratio = median_ratio(us, loop, rate_of)
        rows.append(
            Row(
                what=f"turns/s, {at}",
                against=against,
                theirs=f"{median(loop, rate_of):,.0f}",
                ours=f"{median(us, rate_of):,.0f}",
                ratio=ratio,
                goal="" if wanted is None else f">= {wanted}",
                met=None if wanted is None else ratio >= wanted,
            )
        )
    rows += [
        Row(
            what=f"CPU s per 1,000 turns, {at}",
            against=against,
            theirs=f"{median(loop, cpu_of_turns):.3f}",
            ours=f"{median(us, cpu_of_turns):.3f}",
            ratio=median_ratio(us, loop, cpu_of_turns),
        )
        for against, loop, _ in loops
    ]

    def without_start(one: MeasuredRun) -> float:
        return (one.process.cpu_s - starting) / one.turns * 1000

    rows.append(
        Row(
            what=f"  the same, whole process minus a run of 1 dialogue, {at}",
            against="(ii), while sending",
            theirs=f"{median(synced, cpu_of_turns):.3f}",
            ours=f"{median(us, without_start):.3f}",
            ratio=median(us, without_start) / median(synced, cpu_of_turns),
        )
    )
    rows.append(
        Row(
            what=f"wall s from start to exit, {at}",
            against="(ii), whole process",
            theirs=f"{median(synced, wall_of):.2f}",
            ours=f"{median(us, wall_of):.2f}",
            ratio=median_ratio(us, synced, wall_of),
        )
    )
    busy = max(one.server_cpu_s / one.span_s for one in bare)
    bench.notes.append(f"{at}: the server's CPU was at most {busy:.0%} busy, under the bare loop")
    return rows


def _alternated(
    bench: Bench, server: Server, work: Work
) -> tuple[list[MeasuredRun], list[MeasuredRun], list[MeasuredRun]]:
    """Run the bare loop, convbatch and the synced loop in turn; return the runs of each."""
    bare: list[MeasuredRun] = []
    us: list[MeasuredRun] = []
    synced: list[MeasuredRun] = []
    for _ in bench.rounds():
        bare.append(bench.clients.bare(server, work, sync=False))
        us.append(bench.clients.convbatch(server, work))
        synced.append(bench.clients.bare(server, work, sync=True))
    return bare, us, synced


def whole(bench: Bench) -> list[Row]:
    """Measure CPU and wall time of the whole process, from its start to its exit, against the bare loop's."""
    dialogues, turns = bench.size.whole
    work = Work(dialogues, turns, 64)
    bare: list[MeasuredRun] = []
    us: list[MeasuredRun] = []
    with Server(bench.cores.server) as server:
        for _ in bench.rounds():
            bare.append(bench.clients.bare(server, work, sync=False))
            us.append(bench.clients.convbatch(server, work))

    def cpu(one: MeasuredRun) -> float:
        return one.process.cpu_s / one.turns * 1000

    ratio = median_ratio(us, bare, cpu)
    what = f"{dialogues:,} x {turns}, -j {work.concurrency}, start to exit"
    return [
        Row(
            what=f"CPU s per 1,000 turns, {what}",
            against="(i) bare loop",
            theirs=f"{median(bare, cpu):.3f}",
            ours=f"{median(us, cpu):.3f}",
            ratio=ratio,
            goal="<= 1.8",
            met=ratio <= 1.8,
        ),
        Row(
            what=f"wall s, {what}",
            against="(i) bare loop",
            theirs=f"{median(bare, wall_of):.2f}",
            ours=f"{median(us, wall_of):.2f}",
            ratio=median_ratio(us, bare, wall_of),
        ),
    ]


def workers(bench: Bench) -> list[Row]:
    """Measure turns per second and CPU per turn on two workers against one process, on all cores, without latency."""
    dialogues, turns = bench.size.workers
    work = Work(dialogues, turns, 256)
    alone: list[MeasuredRun] = []
    two: list[MeasuredRun] = []
    with Server(None) as server:
        for number in bench.rounds():
            if number >= 3:
                break
            alone.append(bench.clients.convbatch(server, work, pinned=False))
            two.append(bench.clients.convbatch(server, work, pinned=False, workers=2))
    cores = os.cpu_count() or 1
    if cores < 5:
        bench.notes.append(f"workers: two workers, coordinator, Ray and the server share {cores} CPUs and could use 5")
    busy = max(one.server_cpu_s / one.span_s for one in two)
    bench.notes.append(f"workers: the server's CPU was at most {busy:.0%} busy")
    ratio = median_ratio(two, alone, rate_of)
    what = f"{dialogues:,} x {turns}, -j {work.concurrency}"
    return [
        Row(
            what=f"turns/s, 2 workers, {what}",
            against="one process",
            theirs=f"{median(alone, rate_of):,.0f}",
            ours=f"{median(two, rate_of):,.0f}",
            ratio=ratio,
            goal=">= 1.6",
            met=ratio >= 1.6,
        ),
        Row(
            what=f"CPU s per 1,000 turns, 2 workers, {what}",
            against="one process",
            theirs=f"{median(alone, cpu_of_turns):.3f}",
            ours=f"{median(two, cpu_of_turns):.3f}",
            ratio=median_ratio(two, alone, cpu_of_turns),
        ),
        Row(
            what=f"wall s from start to exit, 2 workers, {what}",
            against="one process",
            theirs=f"{median(alone, wall_of):.2f}",
            ours=f"{median(two, wall_of):.2f}",
            ratio=median_ratio(two, alone, wall_of),
        ),
    ]


def long(bench: Bench) -> list[Row]:
    """Measure CPU a turn in long dialogues with long messages, against a loop that encodes its history each turn."""
    dialogues, turns = bench.size.long
    work = Work(dialogues, turns, 16, message_bytes=LONG_MESSAGE_BYTES)
    bare: list[MeasuredRun] = []
    us: list[MeasuredRun] = []
    with Server(bench.cores.server, reply_bytes=LONG_MESSAGE_BYTES) as server:
        for _ in bench.rounds():
            bare.append(bench.clients.bare(server, work, sync=False))
            us.append(bench.clients.convbatch(server, work))
    ratio = median_ratio(us, bare, cpu_of_turns)
    what = f"{dialogues} x {turns} turns, messages of 2 KB, -j {work.concurrency}"
    return [
        Row(
            what=f"CPU s per 1,000 turns, {what}",
            against="(i) bare loop",
            theirs=f"{median(bare, cpu_of_turns):.3f}",
            ours=f"{median(us, cpu_of_turns):.3f}",
            ratio=ratio,
            goal="<= 1.0",
            met=ratio <= 1.0,
        ),
        Row(
            what=f"turns/s, {what}",
            against="(i) bare loop",
            theirs=f"{median(bare, rate_of):,.0f}",
            ours=f"{median(us, rate_of):,.0f}",
            ratio=median_ratio(us, bare, rate_of),
        ),
    ]


def makespan(bench: Bench) -> list[Row]:
    """Measure first request to last durable reply, against turns x latency / concurrency and the bare loop."""
    rows: list[Row] = []
    dialogues, turns = bench.size.makespan
    with Server(bench.cores.server, LATENCY_S) as server:
        for concurrency in bench.size.makespan_at:
            rows += _makespan_rows(bench, server, Work(dialogues, turns, concurrency))
    return rows


def _makespan_rows(bench: Bench, server: Server, work: Work) -> list[Row]:
    ideal = work.requests * LATENCY_S / work.concurrency
    bare: list[MeasuredRun] = []
    us: list[MeasuredRun] = []
    for number in bench.rounds():
        if number >= 3:
            break
        bare.append(bench.clients.bare(server, work, sync=False))
        us.append(bench.clients.convbatch(server, work))
    at = f"{work.dialogues:,} x {work.turns} at {LATENCY_S * 1000:.0f} ms, -j {work.concurrency}"
    busy = median(us, cpu_of_turns) / 1000 * work.requests
    bench.notes.append(
        f"makespan, -j {work.concurrency}: the ideal needs {work.requests / ideal:,.0f} turns/s, which takes"
        f" {busy / ideal:.0%} of a CPU at convbatch's CPU time per turn"
    )
    of_ideal, of_bare = median(us, span_of) / ideal, median_ratio(us, bare, span_of)
    wanted = MAKESPANS.get(work.concurrency)
    return [
        Row(
            what=f"makespan s, {at}",
            against="turns x latency / j",
            theirs=f"{ideal:.2f}",
            ours=f"{median(us, span_of):.2f}",
            ratio=of_ideal,
            goal="<= 1.10" if work.concurrency == 400 else "",
            met=of_ideal <= 1.10 if work.concurrency == 400 else None,
        ),
        Row(
            what=f"  (i) bare loop, {at}",
            against="turns x latency / j",
            theirs=f"{ideal:.2f}",
            ours=f"bare {median(bare, span_of):.2f}",
            ratio=median(bare, span_of) / ideal,
        ),
        Row(
            what=f"makespan s, {at}",
            against="(i) bare loop",
            theirs=f"{median(bare, span_of):.2f}",
            ours=f"{median(us, span_of):.2f}",
            ratio=of_bare,
            goal="" if wanted is None else f"<= {wanted:.2f}",
            met=None if wanted is None else of_bare <= wanted,
        ),
        Row(
            what=f"  CPU s per 1,000 turns, -j {work.concurrency}",
            against="(i) bare loop",
            theirs=f"{median(bare, cpu_of_turns):.3f}",
            ours=f"{median(us, cpu_of_turns):.3f}",
            ratio=median_ratio(us, bare, cpu_of_turns),
        ),
    ]


def streams(bench: Bench) -> list[Row]:
    """Measure turns per second of streamed replies, against bare loops that read the same streams."""
    dialogues, turns = bench.size.streams
    work = Work(dialogues, turns, 64, stream=True)
    with Server(bench.cores.server) as server:
        bare, us, synced = _alternated(bench, server, work)
    rows: list[Row] = []
    for against, loop in (("(i) bare SSE loop", bare), ("(ii) + group fdatasync", synced)):
        ratio = median_ratio(us, loop, rate_of)
        rows.append(
            Row(
                what=f"streamed turns/s, {EVENTS} events, -j {work.concurrency}",
                against=against,
                theirs=f"{median(loop, rate_of):,.0f}",
                ours=f"{median(us, rate_of):,.0f}",
                ratio=ratio,
                goal=">= 0.6",
                met=ratio >= 0.6,
            )
        )
        rows.append(
            Row(
                what="CPU s per 1,000 streamed turns",
                against=against,
                theirs=f"{median(loop, cpu_of_turns):.3f}",
                ours=f"{median(us, cpu_of_turns):.3f}",
                ratio=median_ratio(us, loop, cpu_of_turns),
            )
        )
    busy = max(one.server_cpu_s / one.span_s for one in bare)
    bench.notes.append(f"streams: the server's CPU was at most {busy:.0%} busy, under the bare loop")
    return rows


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
