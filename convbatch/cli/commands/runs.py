"""`runs`: its parameters, and one call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convbatch.cli.options import completing

_WHICH, _DELETE = "Which runs", "Delete"


def runs(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="List all run folders at or below PATH instead of those in results/."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="GLOB",
            help="Only runs of this target, model or gateway.",
            rich_help_panel=_WHICH,
            autocompletion=completing("models"),
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", metavar="GLOB", help="Only runs of this dataset.", rich_help_panel=_WHICH),
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status",
            metavar="STATE",
            help="Only runs that are running, finished, interrupted, incomplete or unreadable.",
            rich_help_panel=_WHICH,
            autocompletion=completing("state"),
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="GLOB", help="Only runs whose name or folder fits.", rich_help_panel=_WHICH),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="Only runs from then on: 7d, 12h or 2026-11-01.", rich_help_panel=_WHICH
        ),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="TIME", help="Only runs from before: 30d.", rich_help_panel=_WHICH),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            metavar="KEY",
            help="time | cost | turns | failures; the largest is last.",
            autocompletion=completing("sort"),
        ),
    ] = "time",
    is_reversed: Annotated[bool, typer.Option("--reverse", help="The largest, or newest, first.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[list[Path] | None, typer.Option("-o", "--out", help="Write FILE.json or FILE.md instead.")] = None,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Delete the runs that these options name, after a yes.", rich_help_panel=_DELETE),
    ] = False,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=0, metavar="N", help="Of these, keep the newest N.", rich_help_panel=_DELETE),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what --prune would delete.", rich_help_panel=_DELETE)
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.", rich_help_panel=_DELETE)] = False,
) -> None:
    """List run folders: name, date, dataset, targets, state, done of planned, passed, cost. With --prune delete some.

    Example: convbatch runs --target 'gemini-*' --since 7d --sort cost

    or, for old runs: convbatch runs --prune --older-than 30d --keep 5
    """
    from convbatch.cli.runs import RunsRequest, run_runs
    from convbatch.errors import SetupError

    request = RunsRequest(
        place=path,
        targets=tuple(target or ()),
        datasets=tuple(dataset or ()),
        states=tuple(status or ()),
        names=tuple(name or ()),
        since=since,
        older_than=older_than,
        sort=sort,
        is_reversed=is_reversed,
        as_json=json,
        out=tuple(out or ()),
    )
    if prune:
        from convbatch.cli.prune import run_prune

        raise typer.Exit(run_prune(request, keep=keep, dry_run=dry_run, yes=yes))
    alone = [
        option for option, given in (("--keep", keep is not None), ("--dry-run", dry_run), ("--yes", yes)) if given
    ]
    if alone:
        raise SetupError(f"{alone[0]} without --prune has no effect", hint="add --prune, or leave it out")
    raise typer.Exit(run_runs(request))
