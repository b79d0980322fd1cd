"""`init` and `schema`: their parameters, and the one call of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convbatch.cli.options import completing


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Folder to write into; default: this one.", show_default=False)
    ] = Path(),
    ci: Annotated[bool, typer.Option("--ci/--no-ci", help="Write a workflow for GitHub Actions as well.")] = True,
) -> None:
    """Write a commented configuration, a small dataset and a CI workflow; a file that is there stays as it is.

    What it writes asks the built-in simulator: no key is needed.

    Example: convbatch init my-evaluation
    """
    from convbatch.cli.init import run_init

    raise typer.Exit(run_init(folder, ci=ci))


def schema(
    what: Annotated[
        str, typer.Argument(metavar="dataset|config", help="Of which file.", autocompletion=completing("schema"))
    ],
) -> None:
    """Print the JSON Schema of a file: for completion in editors, and for programs that write such files.

    Example: convbatch schema config > convbatch.schema.json
    """
    from convbatch.cli.schema import run_schema

    raise typer.Exit(run_schema(what))
