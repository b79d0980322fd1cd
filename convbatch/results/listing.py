"""Run folders in a list: the sums of each, which of them are asked for, and in which order.

A folder that cannot be read is in the list, with the reason. How a list is printed is `cli/runs.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from convbatch.errors import ConvbatchError, SetupError, nearest
from convbatch.journal.manifest import MANIFEST_NAME
from convbatch.journal.run_folder import RunFolder, shell_quote
from convbatch.results.run import Run

if TYPE_CHECKING:
    from convbatch.results.summary import TargetSummary

STATES = ("running", "finished", "interrupted", "incomplete", "unreadable")
SortKey = Literal["time", "cost", "turns", "failures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRun:
    """A run folder with its sums over all targets."""

    path: Path
    name: str | None = None
    """`--name`."""
    note: str | None = None
    """`--note`."""
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
    takes_from: tuple[str, ...] = ()
    """Paths of the runs that this one names: `--reuse`, `--only-failed`."""
    error: str | None = None
    """Why the folder cannot be read."""

    @property
    def folder_name(self) -> str:
        """Name of the folder, also for `.`."""
        return self.path.name or self.path.resolve().name

    @property
    def created(self) -> datetime | None:
        """When it was created; None if unknown."""
        try:
            created = datetime.fromisoformat(self.created_at)
        except ValueError:
            return None
        return created if created.tzinfo is not None else None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; a part of the contract."""
        return {
            "run": self.folder_name,
            "path": str(self.path),
            "name": self.name,
            "note": self.note,
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
        return ListedRun(path=folder.path, name=folder.given_name(), created_at=folder.created_at(), error=reason)
    manifest = run.manifest
    planned = sum(total.turns for total in totals)
    named = (manifest.options.reuse, manifest.options.given.get("only_failed"))
    return ListedRun(
        path=folder.path,
        name=manifest.name,
        note=manifest.note,
        created_at=manifest.created_at,
        datasets=tuple(source.path for source in manifest.dataset.sources),
        targets=run.targets,
        suspended=suspended,
        state=state,
        planned=planned,
        done=planned - sum(total.pending for total in totals),
        failed=sum(total.error for total in totals),
        judged=sum(total.judged for total in totals),
        passed=sum(total.passed for total in totals),
        cost=_spent_by_currency(totals),
        takes_from=tuple(path for path in named if isinstance(path, str)),
    )


def _spent_by_currency(totals: Sequence[TargetSummary]) -> dict[str, Decimal]:
    amounts: dict[str, Decimal] = {}
    for total in totals:
        if total.spent is not None and total.currency is not None:
            amounts[total.currency] = amounts.get(total.currency, Decimal(0)) + total.spent
    return {currency: amounts[currency] for currency in sorted(amounts)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """Which runs are listed, and in which order; an empty field asks for every run."""

    targets: tuple[str, ...] = ()
    """Globs: a `model@gateway`, a model or a gateway."""
    datasets: tuple[str, ...] = ()
    """Globs: the name of a file with or without its suffix, or its path."""
    states: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Globs: the `--name`, or the name of the folder."""
    since: datetime | None = None
    before: datetime | None = None
    sort: SortKey = "time"
    is_reversed: bool = False

    @property
    def is_filter(self) -> bool:
        """Whether it leaves any run out."""
        return bool(self.targets or self.datasets or self.states or self.names or self.since or self.before)

    def select(self, runs: Iterable[ListedRun]) -> list[ListedRun]:
        """Return the runs that are asked for, the largest or newest last; equal ones keep their order."""
        found = sorted(filter(self._matches, runs), key=_SORT_KEYS[self.sort])
        return found[::-1] if self.is_reversed else found

    def _matches(self, run: ListedRun) -> bool:
        created = run.created
        return (
            _any_fits(self.targets, (name for target in run.targets for name in _target_names(target)))
            and _any_fits(self.datasets, (name for path in run.datasets for name in _file_names(path)))
            and _any_fits(self.names, (name for name in (run.name, run.folder_name) if name is not None))
            and (not self.states or run.state in self.states)
            and (self.since is None or (created is not None and created >= self.since))
            and (self.before is None or (created is not None and created < self.before))
        )


def _by_cost(run: ListedRun) -> tuple[Any, ...]:
    """Unknown costs first, then currency by currency: amounts of two currencies cannot be compared."""
    return tuple((currency, run.cost[currency]) for currency in run.cost)


_SORT_KEYS = {
    "time": lambda run: run.created_at,
    "cost": _by_cost,
    "turns": lambda run: run.planned,
    "failures": lambda run: run.failed,
}
SORT_KEYS: tuple[str, ...] = tuple(_SORT_KEYS)


def _any_fits(globs: Sequence[str], names: Iterable[str]) -> bool:
    return not globs or any(fnmatchcase(name, glob) or name == glob for name in names for glob in globs)


def _target_names(target: str) -> tuple[str, ...]:
    model, _, gateway = target.rpartition("@")
    return target, model, gateway


def _file_names(path: str) -> tuple[str, ...]:
    name = Path(path).name
    return path, name, name.split(".")[0]
