"""`python -m tests.support.torture`: play many seeds and hold every law against each; what `make torture` does.

A failing seed is printed with its law and with the command that plays it again, exactly, in one process.
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

from tests.support.virtual_run_mix import judge

REPLAY = "python -m tests.support.torture --seeds 1 --first {} --trace"
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one seed."""

    seed: int
    requests: int = 0
    turns: int = 0
    sessions: int = 0
    runs: int = 0
    broken: str | None = None
    """The traceback of what it broke."""


def play(seed: int) -> Outcome:
    """One seed, in a folder that is gone afterwards."""
    place = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None  # files, but not the disk's wear
    with tempfile.TemporaryDirectory(prefix="torture-", dir=place) as folder:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # signals are answered there
                judged = judge(Path(folder), seed)
        except Exception:  # noqa: BLE001  # whatever it is, the next seed is played
            return Outcome(seed, broken=traceback.format_exc())
        return Outcome(seed, judged.requests, judged.turns, judged.sessions, len(judged.virtual_runs))


def outcomes(first: int, seeds: int, processes: int) -> Iterator[Outcome]:
    """All seeds, in order."""
    wanted = range(first, first + seeds)
    if processes == 1:
        yield from map(play, wanted)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(play, wanted, chunksize=4)


def say(text: str) -> None:
    """One line, at once."""
    print(text, flush=True)  # noqa: T201  # a program of its own


def main() -> int:
    """Exit code 1 when any seed broke a law."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.torture", description=__doc__)
    parser.add_argument("--seeds", type=int, default=int(os.environ.get("SEEDS", "10000")), help="how many")
    parser.add_argument("--first", type=int, default=int(os.environ.get("FIRST", "1000")), help="the first of them")
    parser.add_argument("-j", "--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--trace", action="store_true", help="show the whole traceback of a failing seed")
    asked = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under `nohup` a run would ignore it, and the law about it would fail
    began = told = time.monotonic()
    requests = turns = sessions = runs = 0
    failed: list[int] = []
    processes = min(asked.processes, asked.seeds)
    for number, outcome in enumerate(outcomes(asked.first, asked.seeds, processes), 1):
        requests, turns = requests + outcome.requests, turns + outcome.turns
        sessions, runs = sessions + outcome.sessions, runs + outcome.runs
        if outcome.broken is not None:
            failed.append(outcome.seed)
            law = outcome.broken if asked.trace else outcome.broken.strip().splitlines()[-1][:300]
            say(f"seed {outcome.seed}: {law}\n  again: {REPLAY.format(outcome.seed)}")
        if time.monotonic() - told > 30:
            told = time.monotonic()
            say(f"{number} of {asked.seeds} seeds, {len(failed)} failed")
    minutes = (time.monotonic() - began) / 60
    say(
        f"{asked.seeds} seeds from {asked.first}: {len(failed)} failed; {runs} runs in {sessions} sittings, {turns} "
        f"turns, {requests} requests in {minutes:.1f} min: {runs / minutes:,.0f} runs, {turns / minutes:,.0f} turns "
        f"and {requests / minutes:,.0f} requests a minute in {processes} process(es)"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
