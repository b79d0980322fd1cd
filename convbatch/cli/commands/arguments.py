"""Parameters that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convbatch.cli.options import completing

RunArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        help="Run folders, their names under results/, or `latest`.",
        autocompletion=completing("runs"),
    ),
]
OtherConfig = Annotated[
    Path | None, typer.Option("-c", "--config", help="Use prices and rates of this file instead of the runs' own.")
]
ToCurrency = Annotated[str | None, typer.Option("--currency", metavar="CNY", help="Convert every amount by [rates].")]
RunArgument = Annotated[
    str,
    typer.Argument(
        help="A run folder, its name under results/, or `latest`.", metavar="RUN", autocompletion=completing("runs")
    ),
]
