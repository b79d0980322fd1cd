"""Pictures of where the time of a run goes, for docs/performance.md: `python -m benchmarks.flame sending OUT.svg`.

Needs `pip install py-spy`, which samples the process from outside. A box is a function, as wide as its share of the
samples, below it is what it calls; boxes below 0.3 % are left out. The colour is the package that the code is of.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from benchmarks.clients import CONFIG
from benchmarks.dialogues import KEY, MODEL, write_dataset
from benchmarks.measure import Cores, Failed, Server, bound_to, environment, workplace

WIDTH, ROW, LEGEND = 1200, 16, 44
SMALLEST = 0.003
MOST_BYTES = 200_000
CHARACTER = 6.3
"""Width of one, about."""
COLOURS = {
    "convbatch": "#7fb2e5",
    "aiohttp": "#f2b26b",
    "asyncio": "#9fce8c",
    "typer": "#d9a3d6",
    "pandas": "#e58f8f",
    "other": "#dedede",
}
_PACKAGES = {
    **dict.fromkeys(("aiohttp", "yarl", "multidict", "aiosignal", "frozenlist", "attr"), "aiohttp"),
    **dict.fromkeys(("asyncio", "uvloop", "selectors"), "asyncio"),
    **dict.fromkeys(("typer", "rich", "click", "pydantic"), "typer"),
    **dict.fromkeys(("pandas", "pyarrow", "numpy"), "pandas"),
    "convbatch": "convbatch",
}
_NAMES = {
    "convbatch": "convbatch",
    "aiohttp": "aiohttp and its libraries",
    "asyncio": "event loop",
    "typer": "command line",
    "pandas": "pandas and pyarrow",
    "other": "others",
}
WORKS = {"sending": (4000, 5, 0), "long": (40, 100, 2048), "start": (10, 5, 0), "whole": (8000, 5, 0)}
"""Dialogues, turns, bytes of a message; of `start` only what comes before the first request is drawn, of `sending` and
`long` only the session."""


@dataclass(slots=True)
class Box:
    """A function on one path of calls, and the samples in it."""

    name: str
    samples: int = 0
    below: dict[str, Box] = field(default_factory=dict[str, "Box"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flame", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("work", choices=list(WORKS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--py-spy", default="py-spy", help="the program [%(default)s]")
    args = parser.parse_args()
    py_spy: str = args.py_spy
    if shutil.which(py_spy) is None:
        parser.exit(1, f"error: no {py_spy}; install it with: pip install py-spy\n")
    try:
        stacks = _sampled(args.work, py_spy)
    except Failed as failed:
        parser.exit(1, f"error: {failed}\n")
    picture = drawn(stacks)
    if len(picture) > MOST_BYTES:
        parser.exit(1, f"error: the picture has {len(picture):,} bytes, more than {MOST_BYTES:,}\n")
    args.out.write_text(picture, encoding="utf-8")
    for package, share in own_shares(stacks):
        print(f"{share:6.1%}  {_NAMES[package]}")


def _sampled(work: str, py_spy: str) -> Counter[tuple[str, ...]]:
    dialogues, turns, size = WORKS[work]
    cores = Cores.choose()
    stacks: Counter[tuple[str, ...]] = Counter()
    with workplace(None) as folder:
        dataset, config, raw = folder / "d.jsonl", folder / "bench.toml", folder / "raw.txt"
        write_dataset(dataset, dialogues, turns, size)
        for number in range(8 if work == "start" else 1):
            with Server(cores.server, reply_bytes=size) as server:
                server.expected = dialogues * turns
                config.write_text(CONFIG.format(url=server.url), encoding="utf-8")
                command = [sys.executable, "-m", "convbatch", "run", str(dataset), "-m", f"{MODEL}@bench"]
                command += ["-c", str(config), "-o", str(folder / f"run{number}"), "-j", "64"]
                record = [py_spy, "record", "--rate", "1000" if work == "start" else "400", "--format", "raw"]
                with bound_to(cores.client):
                    done = subprocess.run(
                        [*record, "--output", str(raw), "--", *command],
                        cwd=folder,
                        env=environment(BENCH_KEY=KEY),
                        capture_output=True,
                        text=True,
                        check=False,
                    )
            if not raw.exists():
                raise Failed(f"py-spy: {done.stderr[-1000:]}")
            for line in raw.read_text(encoding="utf-8").splitlines():
                stack, _, count = line.rpartition(" ")
                stacks[tuple(_names(stack))] += int(count)
    kept: Counter[tuple[str, ...]] = Counter()
    for stack, count in stacks.items():
        trimmed = {"start": _before_the_first_request, "whole": _from_main}.get(work, _in_session)(stack)
        if trimmed:
            kept[trimmed] += count
    return kept


def _names(stack: str) -> list[str]:
    """Return `function (file)` of each frame; those of importing modules only where it is the innermost."""
    matches = [re.fullmatch(r"(.*) \((.*?)(?::\d+)?\)", frame) for frame in stack.split(";")]
    names = [f"{match[1]} ({match[2]})" for match in matches if match is not None]
    return [name for name in names[:-1] if "importlib" not in name] + [
        "import" if "importlib" in name else name for name in names[-1:]
    ]


def _from_main(stack: tuple[str, ...]) -> tuple[str, ...]:
    """Return a stack from the command on, or that of another thread."""
    begins = next(
        (at for at, name in enumerate(stack) if re.match(r"_run \(convbatch/cli/run|.*run \(threading", name)), 0
    )
    return stack[begins:]


def _before_the_first_request(stack: tuple[str, ...]) -> tuple[str, ...]:
    """Return a stack from `main` on, if it is before the loop of the engine runs; else nothing."""
    begins = next((at for at, name in enumerate(stack) if name.startswith("main (convbatch/cli")), None)
    after = r"_work \(|_run_all \(|_closing_table|write_turns|_close \(|_run_judge"
    return () if begins is None or re.search(after, ";".join(stack)) else stack[begins:]


def _in_session(stack: tuple[str, ...]) -> tuple[str, ...]:
    """Return a stack from the event loop or the thread's function on; nothing before and after the session."""
    first = r"(\w+\.)?run \((asyncio/runners|threading)"  # newer releases of py-spy name the class, too
    begins = next((at for at, name in enumerate(stack) if re.match(first, name)), None)
    return () if begins is None else stack[begins:]


def _package_of(name: str) -> str:
    parts = re.split(r"[/.]", name.rpartition(" (")[2])
    return next((_PACKAGES[part] for part in reversed(parts) if part in _PACKAGES), "other")


def package_of(stack: tuple[str, ...]) -> str:
    """Return the package, a key of `COLOURS`, that the innermost code is of or that called the standard library."""
    return next((found for name in reversed(stack) if (found := _package_of(name)) != "other"), "other")


def own_shares(stacks: Counter[tuple[str, ...]]) -> list[tuple[str, float]]:
    """Return the share of the samples in the code of each package, largest first."""
    own: Counter[str] = Counter()
    for stack, count in stacks.items():
        own[package_of(stack)] += count
    return [(package, count / own.total()) for package, count in own.most_common()]


def drawn(stacks: Counter[tuple[str, ...]]) -> str:
    """Return the picture as SVG."""
    root = Box("all")
    for stack, count in stacks.items():
        box = root
        box.samples += count
        for name in stack:
            box = box.below.setdefault(name, Box(name))
            box.samples += count
    while len(root.below) == 1 and next(iter(root.below.values())).samples == root.samples:
        root = next(iter(root.below.values()))  # what is below every sample says nothing
    scale = WIDTH / root.samples
    boxes: list[str] = []
    depth = _draw(root, 0.0, 0, scale, boxes)
    height = LEGEND + (depth + 1) * ROW
    shares = [f"{_NAMES[package]} {share:.0%}" for package, share in own_shares(stacks) if share >= 0.005]
    legend = "".join(
        f'<tspan fill="{COLOURS[package]}">■</tspan> {escape(text)}   '
        for (package, _), text in zip(own_shares(stacks), shares, strict=False)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="monospace" font-size="10">'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        f'<text x="4" y="16" font-size="12">{root.samples:,} samples; the share of each, with what it calls of the '
        "standard library:</text>"
        f'<text x="4" y="34" font-size="12" xml:space="preserve">{legend}</text>' + "".join(boxes) + "</svg>\n"
    )


def _draw(box: Box, left: float, depth: int, scale: float, boxes: list[str]) -> int:
    """Draw a box and those below it; return the depth of the lowest."""
    width = box.samples * scale
    top = LEGEND + depth * ROW
    short = re.sub(r"\((?:.*site-packages/|.*/lib/python[\d.]+/|.*?(?=convbatch/))?(.*)\)", r"(\1)", box.name)
    label = short[: int((width - 4) / CHARACTER)]
    text = f'<text x="{left + 2:.1f}" y="{top + 11}">{escape(label)}</text>' if len(label) > 3 else ""
    title = f"<title>{escape(short)} {box.samples * scale / WIDTH:.1%}</title>"
    boxes.append(
        f'<g>{title}<rect x="{left:.1f}" y="{top}" width="{max(width - 0.4, 0.2):.1f}" height="{ROW - 1}" '
        f'fill="{COLOURS[_package_of(box.name)]}"/>{text}</g>'
    )
    lowest = depth
    for below in sorted(box.below.values(), key=lambda one: -one.samples):
        if below.samples * scale >= SMALLEST * WIDTH:
            lowest = max(lowest, _draw(below, left, depth + 1, scale, boxes))
        left += below.samples * scale
    return lowest


if __name__ == "__main__":
    main()
