"""Errors that a user can fix.

Every message has three parts: what, where (`Place`), how to fix it (`hint`). An error of a gateway is not an exception
but a result in the tables, a `Failure` (see `reply.py`). A traceback on the terminal is a bug in convbatch.

    ConvbatchError            exit code 2 unless noted (`exit_codes.py`)
    ├─ InputError             a user's file is wrong; carries one or many `Problem`s
    ├─ SetupError             a missing key, an unknown name, an invalid option, a folder in use
    ├─ JournalError           the journal could not be written: exit 5
    └─ JournalDamaged         the journal is damaged and cannot be used without `--salvage`
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from convbatch.exit_codes import ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a problem is: `path:line: field`, as far as known."""

    path: str
    line: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        text = self.path if self.line is None else f"{self.path}:{self.line}"
        return text if self.field is None else f"{text}: {self.field}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem, its place, and how to fix it."""

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
    """A problem found by code that knows the value but not its file."""

    what: str
    field: str | None = None
    found: str | None = None
    hint: str | None = None

    def at(self, path: str, line: int | None = None) -> Problem:
        """Return the problem with its place."""
        return Problem(
            what=self.what, place=Place(path=path, line=line, field=self.field), found=self.found, hint=self.hint
        )


class ConvbatchError(Exception):
    """Base of all errors that the command line prints without a traceback."""

    exit_code = ExitCode.SETUP

    def __init__(
        self, what: str, *, place: Place | None = None, found: str | None = None, hint: str | None = None
    ) -> None:
        self.problems: tuple[Problem, ...] = (Problem(what=what, place=place, found=found, hint=hint),)
        super().__init__(str(self.problems[0]))

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> Self:
        """Bundle several problems; `problems` must not be empty."""
        error = cls(problems[0].what, place=problems[0].place, found=problems[0].found, hint=problems[0].hint)
        error.problems = tuple(problems)
        error.args = ("\n".join(str(problem) for problem in problems),)
        return error


class InputError(ConvbatchError):
    """A user's file cannot be used; contains every problem found, not only the first."""


class SetupError(ConvbatchError):
    """The command cannot start: a missing key, an unknown name, a folder in use."""


class JournalError(ConvbatchError):
    """The journal could not be written (disk full, I/O error): the run stops, synced records are kept."""

    exit_code = ExitCode.JOURNAL


class JournalDamaged(ConvbatchError):
    """The journal is damaged before its end; `resume --salvage` sets the damage aside."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to `name`, None without a close one."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint with the closest known name, and all known names."""
    names = sorted(known)
    close = nearest(name, names)
    listed = "known: " + ", ".join(names)
    return listed if close is None else f"did you mean {close!r}? {listed}"
