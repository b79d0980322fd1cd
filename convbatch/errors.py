"""What can go wrong that a user can mend.

Every message has three parts: what, where (`Place`), how to mend (`hint`). What a gateway does wrong is not here:
that is a result and lives in the tables as a `Failure` (see `reply.py`). A traceback on the terminal means our own bug.

    ConvbatchError            exit code 2 unless noted (`exit_codes.py`)
    ├─ InputError             a file the user gave is wrong; carries one or many `Problem`s
    ├─ SetupError             a missing key, an unknown name, an option that cannot work, a folder in use
    ├─ JournalError           the journal could not be written: exit 5
    └─ JournalDamaged         the journal cannot be trusted without `--salvage`
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from convbatch.exit_codes import ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a problem is: `path:line: field`, each part as far as it is known."""

    path: str
    line: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        text = self.path if self.line is None else f"{self.path}:{self.line}"
        return text if self.field is None else f"{text}: {self.field}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, and how to mend it."""

    what: str
    place: Place | None = None
    found: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        head = self.what if self.place is None else f"{self.place}: {self.what}"
        lines = [head]
        if self.found is not None:
            lines.append(f"  found: {self.found}")
        if self.hint is not None:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """A problem seen by code that knows the value but not the file it came from."""

    what: str
    field: str | None = None
    found: str | None = None
    hint: str | None = None

    def at(self, path: str, line: int | None = None) -> Problem:
        """The same problem with its place."""
        return Problem(
            what=self.what, place=Place(path=path, line=line, field=self.field), found=self.found, hint=self.hint
        )


class ConvbatchError(Exception):
    """Root of everything the command line prints without a traceback."""

    exit_code = ExitCode.SETUP

    def __init__(
        self, what: str, *, place: Place | None = None, found: str | None = None, hint: str | None = None
    ) -> None:
        self.problems: tuple[Problem, ...] = (Problem(what=what, place=place, found=found, hint=hint),)
        super().__init__(str(self.problems[0]))

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> Self:
        """Bundle all that is wrong; `problems` must not be empty."""
        error = cls(problems[0].what, place=problems[0].place, found=problems[0].found, hint=problems[0].hint)
        error.problems = tuple(problems)
        error.args = ("\n".join(str(problem) for problem in problems),)
        return error


class InputError(ConvbatchError):
    """A file the user gave cannot be used; holds every problem found, not only the first."""


class SetupError(ConvbatchError):
    """The command cannot start as it was asked: a missing key, an unknown name, a folder in use."""


class JournalError(ConvbatchError):
    """The journal could not be written (disk full, I/O error): the run stops, what was synced stands."""

    exit_code = ExitCode.JOURNAL


class JournalDamaged(ConvbatchError):
    """The journal has damage in its middle; `resume --salvage` sets it aside."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint: the nearest known name, and all of them."""
    names = sorted(known)
    close = nearest(name, names)
    listed = "known: " + ", ".join(names)
    return listed if close is None else f"did you mean {close!r}? {listed}"
