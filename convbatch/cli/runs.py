"""`convbatch runs`: the run folders below a path, with date, dataset, targets, state, progress, passes and cost.

Every number is from `results/`; a folder that cannot be read is listed with the reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from convbatch.console import tables
from convbatch.console.markdown import md, md_row
from convbatch.console.text import log_note, printable, printable_json
from convbatch.errors import ConvbatchError, SetupError, nearest
from convbatch.exit_codes import ExitCode
from convbatch.journal.manifest import MANIFEST_NAME
from convbatch.journal.run_folder import RunFolder, list_runs, shell_quote
from convbatch.pricing import Money
from convbatch.results.export import Content, check_files, json_bytes, write_files
from convbatch.results.run import RESULTS, Run

if TYPE_CHECKING:
    from convbatch.results.summary import TargetSummary

_HEADINGS = ("run", "date (UTC)", "dataset", "targets", "state", "done", "passed", "cost")
_RIGHT = ("done", "passed", "cost")
_STYLES = {"finished": "green", "unreadable": "red"}
_EXAMPLE = Path("datasets/quickstart.jsonl")
_CONFIG = Path("convbatch.toml")  # `config.loader` has the name as well, but the read side does not import `config`


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRun:
    """A run folder with its sums over all targets."""

    path: Path
    created_at: str = ""
    datasets: tuple[str, ...] = ()
    """Paths of the files, as given to `run`."""
    targets: tuple[str, ...] = ()
    suspended: tuple[str, ...] = ()
    state: str = "unreadable"
    planned: int = 0
    done: int = 0
    """Turns that are not pending."""
    failed: int = 0
    judged: int = 0
    passed: int = 0
    """Conversations that passed all checks, of `judged`."""
    cost: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    """By currency; empty when unknown, as for the simulator."""
    error: str | None = None
    """Why the folder cannot be read."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; a part of the contract."""
        return {
            "run": self.path.name or self.path.resolve().name,
            "path": str(self.path),
            "created_at": self.created_at or None,
            "datasets": list(self.datasets),
            "targets": list(self.targets),
            "suspended": list(self.suspended),
            "state": self.state,
            "planned": None if self.error else self.planned,
            "done": None if self.error else self.done,
            "failed": None if self.error else self.failed,
            "judged": None if self.error else self.judged,
            "passed": self.passed if self.judged else None,
            "cost": {currency: float(amount) for currency, amount in self.cost.items()} or None,
            "error": self.error,
        }


def run_runs(place: Path | None, *, as_json: bool, out: Sequence[Path]) -> ExitCode:
    """List the runs below a path, default `results/`; say how to start one if there is none."""
    check_files(out, ("value", "markdown"))
    folders = list_runs(RESULTS) if place is None else find_runs(place)
    listed = [read_run(folder) for folder in folders]
    content = runs_content(listed, with_path=place is not None)
    write_files(content, out)
    if as_json:
        print(printable_json(json_bytes(content["value"]()).decode()), end="")  # noqa: T201  # the command's output
    elif listed and not out:
        print_runs(listed, with_path=place is not None)
    if not listed:
        log_note(_how_to_start(place))
    return ExitCode.OK


def find_runs(place: Path) -> list[RunFolder]:
    """Return all run folders at or below a path, oldest first; links are not followed, hidden folders not entered.

    Raises:
        SetupError: The path is no folder.
    """
    if not place.is_dir():
        what = f"{place} is a file, not a folder" if place.exists() else f"there is no folder {place}"
        beside = [path.name for path in place.parent.iterdir() if path.is_dir()] if place.parent.is_dir() else []
        close = nearest(place.name, beside)
        hint = "name a folder that has run folders in it or deeper"
        raise SetupError(what, hint=hint if close is None else f"did you mean {shell_quote(place.parent / close)}?")
    found: list[RunFolder] = []
    for root, folders, files in os.walk(place):
        if MANIFEST_NAME in files and "journal" in folders:
            found.append(RunFolder(path=Path(root)))
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return sorted(found, key=lambda folder: (folder.created_at(), str(folder.path)))


def read_run(folder: RunFolder) -> ListedRun:
    """Return the sums of a run; of one that cannot be read, the reason."""
    try:
        run = Run(folder)
        totals = run.summary()
        state = folder.state(run.manifest)
        if state == "incomplete" and not any(total.open for total in totals):
            state = "finished"
        suspended = tuple(run.suspended)
    except (ConvbatchError, OSError, KeyError) as error:
        reason = error.problems[0].what if isinstance(error, ConvbatchError) else str(error)
        return ListedRun(path=folder.path, created_at=folder.created_at(), error=reason)
    planned = sum(total.turns for total in totals)
    return ListedRun(
        path=folder.path,
        created_at=run.manifest.created_at,
        datasets=tuple(source.path for source in run.manifest.dataset.sources),
        targets=run.targets,
        suspended=suspended,
        state=state,
        planned=planned,
        done=planned - sum(total.pending for total in totals),
        failed=sum(total.error for total in totals),
        judged=sum(total.judged for total in totals),
        passed=sum(total.passed for total in totals),
        cost=_spent_by_currency(totals),
    )


def _spent_by_currency(totals: Sequence[TargetSummary]) -> dict[str, Decimal]:
    amounts: dict[str, Decimal] = {}
    for total in totals:
        if total.spent is not None and total.currency is not None:
            amounts[total.currency] = amounts.get(total.currency, Decimal(0)) + total.spent
    return {currency: amounts[currency] for currency in sorted(amounts)}


def runs_content(listed: Sequence[ListedRun], *, with_path: bool) -> Content:
    """Return the list as what it can be written as: one JSON object, or a Markdown page."""
    return {
        "value": lambda: {"runs": [run.to_json() for run in listed]},
        "markdown": lambda: _to_markdown(listed, with_path=with_path),
    }


def print_runs(listed: Sequence[ListedRun], *, with_path: bool = False, file: IO[str] | None = None) -> None:
    """Print a row per run; paths instead of names where the runs are not all in one folder."""
    grid = tables.make_table(
        *((name, "right" if name in _RIGHT else "left") for name in _HEADINGS),
        stack=(0, _HEADINGS.index("targets"), _HEADINGS.index("dataset")),
        lists=(_HEADINGS.index("targets"),),
    )
    for run in listed:
        style = _STYLES.get(run.state, "yellow")
        cells = zip(_HEADINGS, _cells(run, with_path), strict=True)
        grid.add_row(*(tables.multiline_text(cell, style if name == "state" else "") for name, cell in cells))
    tables.console(file).print(grid)


def _to_markdown(listed: Sequence[ListedRun], *, with_path: bool) -> str:
    lines = [md_row(_HEADINGS), md_row(["---:" if name in _RIGHT else "---" for name in _HEADINGS])]
    lines += [md_row([md(cell.replace("\n", ", ")) for cell in _cells(run, with_path)]) for run in listed]
    return "\n".join(["# Runs", "", *lines]) + "\n"


def _cells(run: ListedRun, with_path: bool) -> Iterator[str]:
    yield printable(str(run.path) if with_path else run.path.name)
    yield re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d).*", r"\1 \2", printable(run.created_at)) or tables.NONE
    names = [Path(path).name for path in run.datasets]
    yield printable(names[0] + (f" +{len(names) - 1}" if len(names) > 1 else "")) if names else tables.NONE
    targets = [f"{name} (suspended)" if name in run.suspended else name for name in run.targets]
    yield printable(run.error or ", ".join(targets))
    yield run.state + (f", {run.failed:,} failed" if run.failed else "")
    yield tables.NONE if run.error else f"{run.done:,}/{run.planned:,}"
    yield f"{run.passed:,}/{run.judged:,}" if run.judged else tables.NONE
    yield "\n".join(str(Money(amount=run.cost[currency], currency=currency)) for currency in run.cost) or tables.NONE


def _how_to_start(place: Path | None) -> str:
    where = f"{RESULTS}/ here ({Path.cwd()})" if place is None else shell_quote(place)
    dataset = str(_EXAMPLE) if _EXAMPLE.exists() else "DATASET.jsonl"
    without_key = "" if _CONFIG.exists() else " (the built-in simulator answers: no key needed)"
    elsewhere = "\nlist the runs of another folder: convbatch runs PATH" if place is None else ""
    return f"there is no run in {where}\nstart one: convbatch run {dataset}{without_key}{elsewhere}"
