"""`convbatch runs`: the run folders below a path, with date, dataset, targets, state, progress, passes and cost.

Every number is from `results/listing.py`; deleting runs is `prune.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from convbatch.console import tables
from convbatch.console.markdown import md, md_row
from convbatch.console.text import log_note, printable, printable_json
from convbatch.errors import SetupError, did_you_mean
from convbatch.exit_codes import ExitCode
from convbatch.journal.run_folder import list_runs, shell_quote
from convbatch.pricing import Money
from convbatch.results.export import Content, check_files, json_bytes, write_files
from convbatch.results.listing import SORT_KEYS, STATES, ListedRun, RunQuery, find_runs, read_run
from convbatch.results.run import RESULTS
from convbatch.session.durations import parse_seconds

_STYLES = {"finished": "green", "unreadable": "red"}
_EXAMPLE_TIMES = "7d, 12h or 2026-11-01"
_EXAMPLE = Path("datasets/quickstart.jsonl")
_CONFIG = Path("convbatch.toml")  # `config.loader` has the name as well, but the read side does not import `config`


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsRequest:
    """The options of `convbatch runs`, as typed."""

    place: Path | None = None
    targets: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    since: str | None = None
    older_than: str | None = None
    sort: str = "time"
    is_reversed: bool = False
    as_json: bool = False
    out: tuple[Path, ...] = ()
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def query(self) -> RunQuery:
        """Return which runs are asked for, and in which order.

        Raises:
            SetupError: An unknown state or key, or a time that is none.
        """
        for state in self.states:
            if state not in STATES:
                raise SetupError(f"--status {state!r} is no state of a run", hint=did_you_mean(state, STATES))
        if self.sort not in SORT_KEYS:
            raise SetupError(f"--sort {self.sort!r}: runs have no such key", hint=did_you_mean(self.sort, SORT_KEYS))
        return RunQuery(
            targets=self.targets,
            datasets=self.datasets,
            states=self.states,
            names=self.names,
            since=_moment(self.since, "--since", self.now),
            before=_moment(self.older_than, "--older-than", self.now),
            sort=self.sort,  # pyright: ignore[reportArgumentType]  # one of SORT_KEYS
            is_reversed=self.is_reversed,
        )


def _moment(text: str | None, option: str, now: datetime) -> datetime | None:
    """Return the time that `7d`, `2026-11-01` or `2026-11-01T08:00` stands for; without an offset it is UTC."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if re.match(r"\s*\d{4}-", text):
        raise SetupError(f"{option} {text}: no such day", hint="write 2026-11-01, 2026-11-01T08:00 (UTC), or 30d")
    try:
        return now - timedelta(seconds=parse_seconds(text, option, _EXAMPLE_TIMES) or 0)
    except OverflowError:
        raise SetupError(f"{option} {text}: before the first year", hint="write 30d") from None


def run_runs(request: RunsRequest) -> ExitCode:
    """List the runs below a path, default `results/`; say how to start one if there is none."""
    check_files(request.out, ("value", "markdown"))
    everything, listed = selected_runs(request.place, request.query())
    with_path = request.place is not None
    content = runs_content(listed, with_path=with_path)
    write_files(content, request.out)
    if request.as_json:
        print(printable_json(json_bytes(content["value"]()).decode()), end="")  # noqa: T201  # the command's output
    elif listed and not request.out:
        print_runs(listed, with_path=with_path)
    if not listed:
        log_note(how_to_start(request.place) if not everything else f"none of {everything:,} runs fits these options")
    return ExitCode.OK


def selected_runs(place: Path | None, query: RunQuery) -> tuple[int, list[ListedRun]]:
    """Return how many runs there are, and those that are asked for."""
    folders = list_runs(RESULTS) if place is None else find_runs(place)
    return len(folders), query.select(map(read_run, folders))


def runs_content(listed: Sequence[ListedRun], *, with_path: bool) -> Content:
    """Return the list as what it can be written as: one JSON object, or a Markdown page."""
    return {
        "value": lambda: {"runs": [run.to_json() for run in listed]},
        "markdown": lambda: _to_markdown(listed, with_path=with_path),
    }


Cell = Callable[[ListedRun], str]


def _columns(listed: Sequence[ListedRun], with_path: bool, more: Sequence[tuple[str, Cell]]) -> dict[str, Cell]:
    """Return the columns; name and note only where a run has one."""
    return {
        "run": lambda run: printable(str(run.path) if with_path else run.path.name),
        **({"name": lambda run: printable(run.name or tables.NONE)} if any(run.name for run in listed) else {}),
        "date (UTC)": lambda run: (
            re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d).*", r"\1 \2", printable(run.created_at)) or tables.NONE
        ),
        "dataset": _dataset_cell,
        "targets": _targets_cell,
        "state": lambda run: run.state + (f", {run.failed:,} failed" if run.failed else ""),
        "done": lambda run: tables.NONE if run.error else f"{run.done:,}/{run.planned:,}",
        "passed": lambda run: f"{run.passed:,}/{run.judged:,}" if run.judged else tables.NONE,
        "cost": cost_text,
        **dict(more),
        **({"note": lambda run: printable(run.note or tables.NONE)} if any(run.note for run in listed) else {}),
    }


def _dataset_cell(run: ListedRun) -> str:
    names = [Path(path).name for path in run.datasets]
    return printable(names[0] + (f" +{len(names) - 1}" if len(names) > 1 else "")) if names else tables.NONE


def _targets_cell(run: ListedRun) -> str:
    targets = [f"{name} (suspended)" if name in run.suspended else name for name in run.targets]
    return printable(run.error or ", ".join(targets))


def cost_text(run: ListedRun) -> str:
    """Return what a run cost, a line for each currency."""
    return "\n".join(str(Money(amount=run.cost[currency], currency=currency)) for currency in run.cost) or tables.NONE


_RIGHT = frozenset({"done", "passed", "cost", "size"})


def print_runs(
    listed: Sequence[ListedRun],
    *,
    with_path: bool = False,
    more: Sequence[tuple[str, Cell]] = (),
    file: IO[str] | None = None,
) -> None:
    """Print a row per run; paths instead of names where the runs are not all in one folder.

    Args:
        listed: The runs.
        with_path: Whether the paths are printed.
        more: Headings and cells of further columns.
        file: Where to print; default stdout.
    """
    columns = _columns(listed, with_path, more)
    places = {name: place for place, name in enumerate(columns)}
    grid = tables.make_table(
        *((name, "right" if name in _RIGHT else "left") for name in columns),
        stack=[places[name] for name in ("run", "name", "targets", "dataset") if name in places],
        lists=(places["targets"],),
        prose=[places["note"]] if "note" in places else (),
    )
    for run in listed:
        style = _STYLES.get(run.state, "yellow")
        cells = ((name, cell(run)) for name, cell in columns.items())
        grid.add_row(*(tables.multiline_text(cell, style if name == "state" else "") for name, cell in cells))
    tables.console(file).print(grid)


def _to_markdown(listed: Sequence[ListedRun], *, with_path: bool) -> str:
    columns = _columns(listed, with_path, ())
    lines = [md_row(list(columns)), md_row(["---:" if name in _RIGHT else "---" for name in columns])]
    lines += [md_row([md(cell(run).replace("\n", ", ")) for cell in columns.values()]) for run in listed]
    return "\n".join(["# Runs", "", *lines]) + "\n"


def how_to_start(place: Path | None) -> str:
    """Return what to say where there is no run."""
    where = f"{RESULTS}/ here ({Path.cwd()})" if place is None else shell_quote(place)
    dataset = str(_EXAMPLE) if _EXAMPLE.exists() else "DATASET.jsonl"
    without_key = "" if _CONFIG.exists() else " (the built-in simulator answers: no key needed)"
    elsewhere = "\nlist the runs of another folder: convbatch runs PATH" if place is None else ""
    return f"there is no run in {where}\nstart one: convbatch run {dataset}{without_key}{elsewhere}"
