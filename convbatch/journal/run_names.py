"""Names that people give to runs, `--name`: what may be one, and which run it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from convbatch.console.text import printable, shell_word
from convbatch.errors import SetupError

if TYPE_CHECKING:
    from convbatch.journal.run_folder import RunFolder

LATEST = "latest"
"""Stands for the newest run."""
MOST_OF_A_NAME, MOST_OF_A_NOTE = 200, 2_000
"""Characters."""


def check_run_name(name: object, note: object) -> None:
    """Refuse what cannot be the `--name` or the `--note` of a run; None is none.

    Raises:
        SetupError: It is blank, too long, not one printable line, or a name that means something else.
    """
    _check_line(name, "--name", MOST_OF_A_NAME)
    _check_line(note, "--note", MOST_OF_A_NOTE)
    if not isinstance(name, str):
        return
    if name != name.strip():
        raise SetupError("--name begins or ends with a space", found=repr(name), hint=f"write {name.strip()!r}")
    if name[0] in "-~":
        raise SetupError(f"--name begins with {name[0]!r}", found=repr(name), hint="begin it with a letter or digit")
    if name == LATEST:
        raise SetupError(f"--name {LATEST}: {LATEST} is the newest run", hint="choose another name")


def _check_line(text: object, option: str, most: int) -> None:
    if text is None:
        return
    if not isinstance(text, str):  # from Python
        raise SetupError(f"{option} is not a text", found=repr(text), hint="leave it out for none")
    if not text.strip():
        raise SetupError(f"{option} is blank", hint="leave it out for none")
    if len(text) > most:
        raise SetupError(f"{option} has {len(text):,} characters", hint=f"at most {most:,} are possible")
    if printable(text) != text:
        hint = "write one line without control characters and marks of direction"
        raise SetupError(f"{option} has a character that cannot be shown", found=printable(text), hint=hint)


def names_of(folder: RunFolder) -> list[str]:
    """Return the names by which a run under `results/` is found."""
    given = folder.given_name()
    return [folder.name] if given is None else [folder.name, given]


def named_run(text: str, runs: Sequence[RunFolder]) -> RunFolder | None:
    """Return the run with this `--name`; None if there is none.

    Raises:
        SetupError: Several have it.
    """
    named = [folder for folder in runs if folder.given_name() == text]
    if len(named) > 1:
        paths = [shell_word(str(folder.path)) for folder in named]
        raise SetupError(
            f"{len(named)} runs have the name {text!r}: {', '.join(paths)}",
            hint=f"name the folder of one, e.g. the newest: {paths[-1]}",
        )
    return named[0] if named else None
