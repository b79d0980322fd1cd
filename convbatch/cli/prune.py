"""`convbatch runs --prune`: which runs would be deleted, the question, and deleting them.

Replies were paid for, so that nothing is deleted without a rule that names it, and a yes.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbatch.cli.runs import Cell, RunsRequest, print_runs, selected_runs
from convbatch.cli.show import print_json
from convbatch.console.text import columns_of, log_note, printable_lines
from convbatch.console.wrapping import wrapped
from convbatch.dataset.reader import count_of
from convbatch.errors import Problem, SetupError
from convbatch.exit_codes import ExitCode
from convbatch.journal.removal import remove_run, size_of
from convbatch.journal.run_folder import RunFolder, shell_quote
from convbatch.pricing import Money
from convbatch.results.listing import ListedRun, RunQuery

_RULES = "--older-than 30d, --keep N, or --target, --dataset, --status, --since, --name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What to delete, and what stays although the rules name it."""

    deleted: tuple[ListedRun, ...] = ()
    sizes: Mapping[Path, int]
    """Bytes, by path of the run."""
    kept: Mapping[Path, str]
    """Why a run that the rules name stays."""
    notes: tuple[str, ...] = ()
    """Which runs were made with those that are deleted."""


def run_prune(request: RunsRequest, *, keep: int | None, dry_run: bool, yes: bool) -> ExitCode:
    """Delete the runs that the rules name, after a yes.

    Raises:
        SetupError: No rule, no answer, or a run that could not be deleted.
    """
    query = request.query()
    if keep is None and not query.is_filter:
        raise SetupError("--prune without a rule would delete every run", hint=f"say which: {_RULES}")
    if request.out:
        raise SetupError("--prune writes no file", hint="leave -o out; --json prints what is deleted")
    if request.as_json and not (dry_run or yes):
        raise SetupError("--prune --json asks no question", hint="add --dry-run or --yes")
    _, everything = selected_runs(request.place, RunQuery())
    pruning = plan(everything, query, keep)
    if not request.as_json:
        _print_plan(pruning, with_path=request.place is not None, dry_run=dry_run)
    if not pruning.deleted or dry_run:
        if request.as_json:
            print_json(_to_json(pruning, (), dry_run=dry_run))
        return ExitCode.OK
    if not yes and not _is_confirmed(pruning):
        log_note("nothing was deleted")
        return ExitCode.OK
    done, problems = _delete(pruning.deleted)
    if request.as_json:
        print_json(_to_json(pruning, done, dry_run=False))
    log_note(f"{count_of(len(done), 'run')} deleted, {_size_text(sum(pruning.sizes[run.path] for run in done))} freed")
    if problems:
        raise SetupError.of(problems)
    return ExitCode.OK


def plan(everything: Sequence[ListedRun], query: RunQuery, keep: int | None) -> Pruning:
    """Decide what is deleted.

    Args:
        everything: All runs, also those that the rules do not name: they may need one that is named.
        query: Which runs the rules name.
        keep: Of those, the newest that stay.
    """
    named = sorted(query.select(everything), key=lambda run: run.created_at)
    if keep is not None:
        named = named[: max(len(named) - keep, 0)]
    users = _users(everything)
    kept = {run.path: why for run in named if (why := _reason_to_stay(run)) is not None}
    while True:  # what stays may need what was to be deleted
        gone = {run.path for run in named if run.path not in kept}
        needed = {run.path: user for run in named if run.path in gone for user in _open_users(run, users, gone)}
        if not needed:
            break
        for path, user in needed.items():
            kept[path] = f"{shell_quote(user.path)} is not finished and takes replies from it"
    deleted = tuple(run for run in named if run.path in gone)
    notes = tuple(
        f"{shell_quote(run.path)} is named by {shell_quote(user.path)} (--reuse, --only-failed), which has a copy"
        for run in deleted
        for user in users.get(run.path.resolve(), ())
        if user.path not in gone
    )
    sizes = {run.path: size_of(RunFolder(path=run.path)) for run in deleted}
    return Pruning(deleted=deleted, sizes=sizes, kept=kept, notes=notes)


def _reason_to_stay(run: ListedRun) -> str | None:
    if run.path.is_symlink():
        return "it is a link, and what it leads to is not deleted"
    if run.error is not None:
        return f"it cannot be read: {run.error}"
    return "it is in progress" if run.state == "running" else None


def _open_users(
    run: ListedRun, users: Mapping[Path, Sequence[ListedRun]], gone: Collection[Path]
) -> Iterator[ListedRun]:
    """Yield the unfinished runs that name this one and stay."""
    for user in users.get(run.path.resolve(), ()):
        if user.state != "finished" and user.path not in gone:
            yield user


def _users(everything: Sequence[ListedRun]) -> dict[Path, list[ListedRun]]:
    """Return the runs that name another one, by the path of that one."""
    users: dict[Path, list[ListedRun]] = {}
    for run in everything:
        for path in dict.fromkeys(run.takes_from):
            users.setdefault(Path(path).resolve(), []).append(run)
    return users


def _print_plan(pruning: Pruning, *, with_path: bool, dry_run: bool) -> None:
    size: Cell = lambda run: _size_text(pruning.sizes[run.path])  # noqa: E731  # a cell, beside its heading
    if pruning.deleted:
        print_runs(pruning.deleted, with_path=with_path, more=[("size", size)])
    for path, why in pruning.kept.items():
        log_note(f"note: {shell_quote(path)} stays: {why}")
    for note in pruning.notes:
        log_note(f"note: {note}")
    if not pruning.deleted:
        log_note("no run to delete")
        return
    log_note(f"{'would delete' if dry_run else 'to delete'}: {_what(pruning)}")


def _what(pruning: Pruning) -> str:
    total = sum(pruning.sizes.values())
    return f"{count_of(len(pruning.deleted), 'run')}, {_size_text(total)}, {_paid_text(pruning.deleted)}"


def _paid_text(runs: Sequence[ListedRun]) -> str:
    """Return what the replies cost, as far as it is known."""
    amounts: dict[str, Any] = {}
    for run in runs:
        for currency, amount in run.cost.items():
            amounts[currency] = amounts.get(currency, 0) + amount
    paid = " + ".join(str(Money(amount=amounts[currency], currency=currency)) for currency in sorted(amounts))
    turns = count_of(sum(run.done for run in runs), "turn")
    return f"with the replies of {turns}" + (f", which cost {paid}: to have them again is to pay again" if paid else "")


def _is_confirmed(pruning: Pruning) -> bool:
    question = f"delete {count_of(len(pruning.deleted), 'run')} for good? [y/N] "
    try:
        sys.stderr.write(wrapped(printable_lines(question), columns_of(sys.stderr)))
        sys.stderr.flush()
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        log_note("nothing was deleted")
        raise
    if not answer:
        sys.stderr.write("\n")
        raise SetupError("no answer; nothing was deleted", hint="add --yes where nobody can answer, or --dry-run")
    return answer.strip().lower() in ("y", "yes")


def _delete(runs: Sequence[ListedRun]) -> tuple[list[ListedRun], list[Problem]]:
    done: list[ListedRun] = []
    problems: list[Problem] = []
    for run in reversed(runs):  # a run is made with older ones: what is interrupted here leaves those
        try:
            remove_run(RunFolder(path=run.path))
        except SetupError as error:
            problems += error.problems
        else:
            done.append(run)
    return done[::-1], problems


def _to_json(pruning: Pruning, done: Sequence[ListedRun], *, dry_run: bool) -> dict[str, Any]:
    shown = pruning.deleted if dry_run else done
    return {
        "dry_run": dry_run,
        "deleted": [{**run.to_json(), "bytes": pruning.sizes[run.path]} for run in shown],
        "kept": [{"path": str(path), "reason": why} for path, why in pruning.kept.items()],
        "notes": list(pruning.notes),
    }


def _size_text(size: int) -> str:
    for unit, bytes_of in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= bytes_of:
            return f"{size / bytes_of:.1f} {unit}"
    return f"{size} B"
