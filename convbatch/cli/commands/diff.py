"""`diff`: its parameters, and one call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convbatch.cli.options import completing


def diff(
    base: Annotated[str, typer.Argument(metavar="A", help="A run, or RUN:target.", autocompletion=completing("sides"))],
    candidate: Annotated[
        str, typer.Argument(metavar="B", help="A run, or RUN:target.", autocompletion=completing("sides"))
    ],
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="GLOB", help="Only this dialogue (globs allowed)."),
    ] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Only dialogues with this tag.")
    ] = None,
    turns: Annotated[list[int] | None, typer.Option("--turn", min=1, metavar="N", help="Only this turn.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also the replies that did not change.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[
        list[Path] | None,
        typer.Option("-o", "--out", help="Write FILE.html, .md or .json instead; repeatable."),
    ] = None,
) -> None:
    """Print the replies that changed from A to B, word by word; no statistics. Exit 0 whether or not any changed.

    Example: convbatch diff latest:sim-good@simulator latest:sim-drift@simulator
    """
    from convbatch.cli.diff import DiffRequest, run_diff

    raise typer.Exit(
        run_diff(
            DiffRequest(
                base=base,
                candidate=candidate,
                ids=tuple(ids or ()),
                tags=tuple(tags or ()),
                turns=tuple(turns or ()),
                everything=everything,
                as_json=json,
                out=tuple(out or ()),
            )
        )
    )
