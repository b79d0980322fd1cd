"""The next command, as text that can be pasted into a shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import Field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbatch.journal.run_folder import shell_quote
from convbatch.session.options import OptionSpec, ResumeOptions, option_fields

if TYPE_CHECKING:
    from convbatch.journal.run_folder import RunFolder
    from convbatch.session.spec import SessionResult


def command_line(command: str, options: Any) -> str:
    """Return the command with every option that differs from its default, positional arguments first."""
    pairs = sorted(option_fields(options), key=lambda pair: bool(pair[1].names))
    words = [word for field, spec in pairs for word in _words(field, spec, getattr(options, field.name))]
    return " ".join(["convbatch", command, *words])


def resume_line(folder: RunFolder, max_cost: str | None = None) -> str:
    """Return the `resume` command of a run folder."""
    return command_line("resume", ResumeOptions(run=str(folder.path), max_cost=max_cost))


def larger_budget(result: SessionResult) -> str | None:
    """Return a budget that lets the next request through, as an option's value; None if the budget did not end it."""
    larger = result.larger_budget
    return None if larger is None else f"{larger.amount:f}{larger.currency}"


def _words(field: Field[Any], spec: OptionSpec, value: Any) -> Iterator[str]:
    if value == field.default:
        return
    for item in value if isinstance(value, tuple) else (value,):
        if not spec.names:
            yield shell_quote(Path(item))
        elif isinstance(item, bool):
            yield spec.names[0]
        else:
            yield f"{spec.names[0]} {shlex.quote(f'{item:g}s' if spec.seconds else str(item))}"
