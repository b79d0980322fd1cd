"""Exit codes of the command line, and which one wins when several apply.

Every command ends with one of these; no other file defines a code or an order of codes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

GateResult = Literal["passed", "failed", "undecided"]


class ExitCode(IntEnum):
    """Exit code of a command. Members are listed from the least to the most severe."""

    OK = 0
    """The command is complete."""
    SETUP = 2
    """The input or the setup is wrong; nothing was sent."""
    FAILED = 1
    """A quality gate failed: `--fail-under`, or a regression."""
    INCOMPLETE = 3
    """A turn has no result (pending or failed), a comparison is inconclusive, a probe failed, or a deadline passed."""
    BUDGET = 4
    """`--max-cost` is reached."""
    INTERRUPTED = 130
    """Ctrl-C, SIGTERM or a closed terminal."""
    JOURNAL = 5
    """The journal or a table of the run folder could not be written."""
    BUG = 70
    """An error in convbatch itself."""


_SEVERITY = {code: rank for rank, code in enumerate(ExitCode)}


def worst(*codes: ExitCode) -> ExitCode:
    """Return the most severe of the codes; `ExitCode.OK` without any."""
    return max(codes, key=_SEVERITY.__getitem__, default=ExitCode.OK)


def gate_result(code: ExitCode) -> GateResult:
    """Return what an exit code says of a release; every other code than 0 and 1 leaves it undecided."""
    if code == ExitCode.OK:
        return "passed"
    return "failed" if code == ExitCode.FAILED else "undecided"
