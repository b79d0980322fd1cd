"""`python -m benchmarks`: one table, every figure as a ratio to a baseline measured in the same run.

Clients alternate (A, B, C, A, B, C ...), each ratio is taken within a round, and the table shows medians over the
rounds, because the load of the machine varies. README.md in this folder defines the figures.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.accuracy import accuracy
from benchmarks.bench import FULL, QUICK, Bench, Row
from benchmarks.chances import audit, compare, gates, limits, prefer, rank
from benchmarks.measure import Failed, workplace
from benchmarks.pages import TURNS, opened_pages
from benchmarks.peers import DEFAULT_PYTHON, peers
from benchmarks.reading import reading
from benchmarks.sending import long, makespan, speed, streams, whole, workers
from benchmarks.sizes import memory, validate
from benchmarks.starting import show_help, start


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="sections, and about how long each takes on two cores: "
        + ", ".join(f"{name} {section.takes}" for name, section in SECTIONS.items()),
    )
    parser.add_argument("-q", "--quick", action="store_true", help="small counts: a smoke test, not a measurement")
    parser.add_argument("-f", "--folder", type=Path, help="folder for journals [the temporary folder]")
    parser.add_argument(
        "-s", "--section", choices=list(SECTIONS), action="append", help="only this section (repeatable)"
    )
    parser.add_argument("--refused", action="store_true", help="`gates`: try the methods that are not used as well")
    parser.add_argument(
        "--peers",
        type=Path,
        default=DEFAULT_PYTHON,
        metavar="PYTHON",
        help="`peers`: interpreter that has them [%(default)s]",
    )
    parser.add_argument("datasets", nargs="*", type=Path, help="for `estimate`: files of dialogues [the quickstart]")
    args = parser.parse_args()
    begun = time.perf_counter()
    with workplace(args.folder) as folder:
        bench = Bench(folder, QUICK if args.quick else FULL, [path.resolve() for path in args.datasets])
        bench.refused, bench.peers = args.refused, args.peers
        try:
            for name in args.section or SECTIONS:
                bench.print_progress(name)
                bench.rows += SECTIONS[name].measure(bench)
        except Failed as failed:
            print(f"error: {failed}", file=sys.stderr)
            return 1
        print(bench.report(quick=args.quick, took_s=time.perf_counter() - begun))
    return 0


# --- sections --------------------------------------------------------------------------------------------------------


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


class Section(NamedTuple):
    """What `-s NAME` runs."""

    measure: Callable[[Bench], list[Row]]
    takes: str
    """About how long with full sizes, on two cores."""


SECTIONS: dict[str, Section] = {
    "help": Section(show_help, "20 s"),
    "start": Section(start, "1 min"),
    "speed": Section(speed, "3 min"),
    "whole": Section(whole, "3 min"),
    "workers": Section(workers, "3 min"),
    "long": Section(long, "2 min"),
    "streams": Section(streams, "2 min"),
    "makespan": Section(makespan, "3 min"),
    "peers": Section(peers, "5 min"),
    "reading": Section(reading, "15 min"),
    "memory": Section(memory, "40 min"),
    "validate": Section(validate, "1 min"),
    "estimate": Section(estimate, "1 min"),
    "compare": Section(compare, "5 min"),
    "limits": Section(limits, "1 min"),
    "gates": Section(gates, "20 min"),
    "pages": Section(pages, "2 min"),
    "audit": Section(audit, "20 min"),
    "rank": Section(rank, "hours"),
    "prefer": Section(prefer, "15 min"),
}


if __name__ == "__main__":
    sys.exit(main())
