"""Sections on memory: of a run, and of `validate`."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.bench import Bench, Row
from benchmarks.clients import Work
from benchmarks.measure import Server

MIB = 2**20
BYTES_A_DIALOGUE = 16
SLACK = 0.10
HOUR_S = 3600.0
MOST_BYTES = 250_000_000
TURNS = 2


class _Peak(NamedTuple):
    what: str
    small: int
    large: int
    has_goal: bool = False


def memory(bench: Bench) -> list[Row]:
    """Measure peak memory of `run`, table included, small and large: the largest process, and all together."""
    few, many = bench.size.memory
    with Server(bench.cores.server) as server:
        small = bench.clients.convbatch(server, Work(few, TURNS, 64))
        large = bench.clients.convbatch(server, Work(many, TURNS, 64), longest_s=HOUR_S)
    process = large.process
    bench.notes.append(
        f"run of {many:,} dialogues x {TURNS} turns: {large.span_s:.0f} s of requests; {process.wall_s:.0f} s and"
        f" {process.cpu_s:.0f} CPU s in total; {process.ended - large.ended:.1f} s from the last reply to the exit"
    )
    before, after = small.process, large.process
    peaks = (
        _Peak("while sending, largest process", before.peak_at(small.ended), after.peak_at(large.ended)),
        _Peak("start to exit, largest process", before.peak_bytes, after.peak_bytes, has_goal=True),
        _Peak("start to exit, sum of processes", before.peak_sum_bytes, after.peak_sum_bytes),
    )
    return [
        Row(
            what=f"peak MB, run of {many:,} x {TURNS}, {peak.what}: "
            f"{(peak.large - peak.small) / (many - few):+.0f} B per dialogue",
            against=f"{few:,} dialogues",
            theirs=f"{peak.small / 1e6:.1f}",
            ours=f"{peak.large / 1e6:.1f}",
            ratio=peak.large / peak.small,
            goal="<= 1.15, 250 MB" if peak.has_goal else "",
            met=peak.large <= 1.15 * peak.small and peak.large <= MOST_BYTES if peak.has_goal else None,
        )
        for peak in peaks
    ]


def validate(bench: Bench) -> list[Row]:
    """Measure peak memory of `convbatch validate`, small and large."""
    few, many = bench.size.validate
    small, large = bench.clients.validate(few), bench.clients.validate(many)
    more = many - few
    allowed = small.peak_bytes * (1 + SLACK) + BYTES_A_DIALOGUE * more
    bench.notes.append(f"validate: {many / large.wall_s:,.0f} dialogues/s at {many:,}, startup included")
    return [
        Row(
            what=f"peak MiB, validate, {many:,} dialogues: {(large.peak_bytes - small.peak_bytes) / more:+.0f} B per"
            " dialogue",
            against=f"{few:,} dialogues",
            theirs=f"{small.peak_bytes / MIB:.1f}",
            ours=f"{large.peak_bytes / MIB:.1f}",
            ratio=large.peak_bytes / small.peak_bytes,
            goal=f"<= {allowed / small.peak_bytes:.2f}",
            met=large.peak_bytes <= allowed,
        )
    ]
