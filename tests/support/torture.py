"""`python -m tests.support.torture`: run many seeds and check every law for each; used by `make torture`.

A failing seed is printed with its law and with the command that repeats it exactly, in one process.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.support.virtual_run_mix import check_seed

REPLAY = "python -m tests.support.torture --seeds 1 --first {} --trace"
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one seed."""

    seed: int
    requests: int = 0
    turns: int = 0
    sessions: int = 0
    runs: int = 0
    broken: str | None = None
    """Traceback of the broken law."""


def run_seed(seed: int) -> Outcome:
    """Run one seed in a temporary folder."""
    parent = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None  # real files, without wearing the disk
    with tempfile.TemporaryDirectory(prefix="torture-", dir=parent) as folder:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # the signal handlers print there
                result = check_seed(Path(folder), seed)
        except Exception:  # noqa: BLE001  # any failure is recorded and the next seed runs
            return Outcome(seed, broken=traceback.format_exc())
        return Outcome(seed, result.requests, result.turns, result.sessions, len(result.virtual_runs))


def outcomes(first: int, seeds: int, processes: int) -> Iterator[Outcome]:
    """Yield the outcomes of all seeds, in order."""
    wanted = range(first, first + seeds)
    if processes == 1:
        yield from map(run_seed, wanted)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(run_seed, wanted, chunksize=4)


def print_line(text: str) -> None:
    """Print one line without buffering."""
    print(text, flush=True)  # noqa: T201  # this module is a program


def main() -> int:
    """Run the seeds of the command line; return exit code 1 when any seed broke a law."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.torture", description=__doc__)
    parser.add_argument("--seeds", type=int, default=int(os.environ.get("SEEDS", "10000")), help="number of seeds")
    parser.add_argument("--first", type=int, default=int(os.environ.get("FIRST", "1000")), help="the first seed")
    parser.add_argument("-j", "--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--trace", action="store_true", help="show the whole traceback of a failing seed")
    args = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under `nohup` a run would ignore SIGHUP and break its law
    began = last_report = time.monotonic()
    requests = turns = sessions = runs = 0
    failed: list[int] = []
    processes = min(args.processes, args.seeds)
    for number, outcome in enumerate(outcomes(args.first, args.seeds, processes), 1):
        requests, turns = requests + outcome.requests, turns + outcome.turns
        sessions, runs = sessions + outcome.sessions, runs + outcome.runs
        if outcome.broken is not None:
            failed.append(outcome.seed)
            law = outcome.broken if args.trace else outcome.broken.strip().splitlines()[-1][:300]
            print_line(f"seed {outcome.seed}: {law}\n  again: {REPLAY.format(outcome.seed)}")
        if time.monotonic() - last_report > 30:
            last_report = time.monotonic()
            print_line(f"{number} of {args.seeds} seeds, {len(failed)} failed")
    minutes = (time.monotonic() - began) / 60
    print_line(
        f"{args.seeds} seeds from {args.first}: {len(failed)} failed; {runs} runs in {sessions} sessions, {turns} "
        f"turns, {requests} requests in {minutes:.1f} min: {runs / minutes:,.0f} runs, {turns / minutes:,.0f} turns "
        f"and {requests / minutes:,.0f} requests a minute in {processes} process(es)"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
