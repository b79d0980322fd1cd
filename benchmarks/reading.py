"""Section on reading: what commands on a large finished run take, against a loop that parses its journal.

`python -m benchmarks.reading JOURNAL` is that loop: it reads each line of the journal and parses it with orjson.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from pathlib import Path

import orjson

from benchmarks.bench import Bench, Row
from benchmarks.clients import Work
from benchmarks.dialogues import KEY
from benchmarks.measure import Failed, Measured, Server, environment, measured

MOST_ROUNDS = 3
LONGEST_S = 1800.0


def reading(bench: Bench) -> list[Row]:
    """Measure `resume`, `table`, `report` and `compare` of a finished run, CPU and wall, against the bare reader."""
    dialogues, turns = bench.size.reading
    run, copy = bench.folder / "finished", bench.folder / "finished-copy"
    with Server(bench.cores.server) as server:
        bench.clients.convbatch(server, Work(dialogues, turns, 64), keep=run, longest_s=LONGEST_S)
    shutil.copytree(run, copy)
    ours = [sys.executable, "-m", "convbatch"]
    commands = {
        "the bare reader": [sys.executable, "-m", "benchmarks.reading", str(run / "journal")],
        "resume": [*ours, "resume", str(run)],
        "table -o turns.csv": [*ours, "table", str(run), "-o", str(bench.folder / "turns.csv")],
        "report": [*ours, "report", str(run)],
        "compare": [*ours, "compare", str(run), str(copy), "--metric", "output_tokens", "--allow-mismatch"],
    }
    found: dict[str, list[Measured]] = {name: [] for name in commands}
    for number in bench.rounds():
        if number >= MOST_ROUNDS:
            break
        for name, command in commands.items():
            found[name].append(
                measured(
                    command,
                    bench.folder,
                    bench.cores.client,
                    environment(BENCH_KEY=KEY),
                    longest_s=LONGEST_S,
                )
            )
            (bench.folder / "turns.csv").unlink(missing_ok=True)
    parsed = {int(one.stdout) for one in found["the bare reader"]}
    if min(parsed) < dialogues * turns:
        raise Failed(f"the journal of {dialogues * turns} turns has {parsed} lines")
    shutil.rmtree(run)
    shutil.rmtree(copy)
    bare = found.pop("the bare reader")
    return [row for name, runs in found.items() for row in _rows(name, dialogues * turns, runs, bare)]


def _rows(name: str, turns: int, us: list[Measured], bare: list[Measured]) -> list[Row]:
    rows: list[Row] = []
    for unit, get in (("CPU s", _cpu), ("wall s", _wall)):
        ratio = statistics.median(get(one) / get(other) for one, other in zip(us, bare, strict=True))
        rows.append(
            Row(
                what=f"{name}, {turns:,} turns, {unit}, peak {max(one.peak_bytes for one in us) / 1e6:.0f} MB",
                against="reads and parses the journal",
                theirs=f"{statistics.median(map(get, bare)):.2f}",
                ours=f"{statistics.median(map(get, us)):.2f}",
                ratio=ratio,
                goal="<= 2" if name == "resume" else "",
                met=ratio <= 2 if name == "resume" else None,
            )
        )
    return rows


def _cpu(one: Measured) -> float:
    return one.cpu_s


def _wall(one: Measured) -> float:
    return one.wall_s


def main() -> None:
    lines = 0
    for segment in sorted(Path(sys.argv[1]).glob("*.jsonl")):
        with segment.open("rb") as file:
            for line in file:
                orjson.loads(line)
                lines += 1
    print(lines)


if __name__ == "__main__":
    main()
