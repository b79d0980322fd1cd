"""`convbatch validate`: print every problem of a dataset as it is found, then counts.

`dataset/reader.py` finds the problems. One cause in many lines is printed a few times, then counted; --json lists all.
Without --json, memory does not grow with the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from convbatch.checks.custom import missing_checks
from convbatch.checks.values import parse_check
from convbatch.console.text import log_note, printable_json
from convbatch.dataset.reader import count_of
from convbatch.dataset.selection import DatasetScan, scan
from convbatch.dialogue import Dialogue
from convbatch.errors import Problem, one_cause_once
from convbatch.exit_codes import ExitCode
from convbatch.session.progress import ReadingBar


def run_validate(paths: Sequence[Path], *, as_json: bool) -> ExitCode:
    """Print the problems of dataset files.

    Args:
        paths: Dataset files.
        as_json: Problems and counts as one JSON object on stdout instead of text.

    Returns:
        The exit code: 2 with any problem, else 0.
    """
    listed: list[dict[str, Any]] = []
    named: set[str] = set()
    with ReadingBar() as bar:
        found = scan(paths, on_progress=bar.show)
        problems = _problems(found, named)
        if as_json:
            listed = [_plain(problem) for problem in problems]
        else:
            for problem in one_cause_once(problems):
                log_note(f"error: {problem}")
    notes = [*found.notes, *missing_checks(sorted(named))]
    for note in () if as_json else notes:
        log_note(note)
    counts = {"dialogues": found.dialogues, "turns": found.turns, "problems": found.problems}
    if not found.problems and not found.dialogues:
        counts["problems"] = 1
    if as_json:
        result = {"valid": not counts["problems"], **counts, "listed": listed, "notes": notes}
        print(printable_json(json.dumps(result, ensure_ascii=False)))  # noqa: T201
    elif not found.problems:
        print(f"{count_of(found.dialogues, 'dialogue')}, {count_of(found.turns, 'turn')} to ask: valid")  # noqa: T201
    else:
        log_note(f"{count_of(found.problems, 'problem')}; well-formed: {count_of(found.dialogues, 'dialogue')}")
    return ExitCode.SETUP if counts["problems"] else ExitCode.OK


def _problems(found: DatasetScan, named: set[str]) -> Iterator[Problem]:
    """Yield the problems; add the entry points that valid dialogues name to `named`."""
    for item in found:
        if isinstance(item, Problem):
            yield item
        else:
            named.update(_python_checks(item))


def _python_checks(dialogue: Dialogue) -> Iterator[str]:
    for checks in (dialogue.checks, *(turn.checks for turn in dialogue.turns)):
        for check in map(parse_check, checks):
            if check.plain_kind == "python":
                yield check.argument


def _plain(problem: Problem) -> dict[str, Any]:
    place = problem.place
    return {
        "path": None if place is None else place.path,
        "line": None if place is None else place.line,
        "field": None if place is None else place.field,
        "what": problem.what,
        "found": problem.found,
        "hint": problem.hint,
    }
