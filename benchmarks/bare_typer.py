"""The baseline of `--help`: a Typer app with as many commands as convbatch and nothing else.

`python bare_typer.py COUNT --help`
"""

from __future__ import annotations

import sys

import typer

app = typer.Typer(add_completion=False)


def _command() -> None:
    """One line about what this command does."""


if __name__ == "__main__":
    for position in range(int(sys.argv.pop(1))):
        app.command(name=f"command{position}")(_command)
    app()
