"""Custom checks: functions of installed packages, found by entry point and called within a time limit."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard

from convbatch.checks.safe_regex import CheckError, CheckTimeout, time_limit_s
from convbatch.checks.values import CheckInput, Finding

GROUP = "convbatch.checks"
"""The entry-point group of `python` checks."""
CALL_LIMIT_S = 30.0


@functools.cache
def _entry_points() -> Mapping[str, Any]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=GROUP)}


def is_installed(name: str) -> bool:
    """Whether an installed package provides this `python` check."""
    return name in _entry_points()


def missing_checks(names: Iterable[str]) -> list[str]:
    """Return a note for each `python` check that no installed package provides."""
    return [
        f"note: no installed package provides the check {name!r} (entry points {GROUP}); its verdicts will be errors"
        for name in names
        if not is_installed(name)
    ]


@functools.cache
def _load_check(name: str) -> Callable[[CheckInput], Any]:
    if not is_installed(name):
        known = ", ".join(sorted(_entry_points())) or "none"
        raise CheckError(f"no installed package provides {name!r} (entry points of {GROUP}: {known})")
    check = _entry_points()[name].load()
    if not callable(check):
        raise CheckError(f"the entry point {name!r} is not a function")
    return check


def evaluate_custom(argument: str, check_input: CheckInput) -> Finding:
    """Call the check of this name with the reply."""
    return _as_finding(_within_limit(_load_check(argument), check_input, argument), argument)


def _within_limit(check: Callable[[CheckInput], Any], check_input: CheckInput, name: str) -> Any:
    """Call the check in a thread of its own, which is abandoned when it exceeds the time limit."""
    limit = time_limit_s(CALL_LIMIT_S)
    answers: list[Any] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            answers.append(_plain(check(check_input)))
        except BaseException as error:  # noqa: BLE001  # `sys.exit()` in a check is an error of the check, too
            errors.append(error)

    thread = threading.Thread(target=call, name=f"check {name}", daemon=True)
    # Stdout is for data; output of a check must not get into it.
    with contextlib.redirect_stdout(sys.stderr):
        thread.start()
        thread.join(limit)
    if errors:
        raise CheckError(f"{type(errors[0]).__name__}: {errors[0]}")
    if not answers:
        raise CheckTimeout(f"{name!r} took longer than {limit:g} s")
    return answers[0]


def _plain(answer: Any) -> Any:
    """Convert numpy scalars to Python values, inside a tuple too."""
    if isinstance(answer, tuple):
        return tuple(map(_plain, answer))
    return answer.item() if type(answer).__module__ == "numpy" and hasattr(answer, "item") else answer


def _as_finding(answer: Any, name: str) -> Finding:
    """Convert a bool, a score from 0 to 1 (only 1 passes), or a pair of one of them and a reason."""
    value, reason = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    if isinstance(value, bool):
        return Finding(value, _reason_text(reason) or f"{name} returned {value}")
    if _is_score(value):
        return Finding(bool(value == 1), _reason_text(reason) or f"{name} returned {value:g}", float(value))
    raise CheckError(
        f"{name!r} must return True, False, a score from 0 to 1, or one of these and a reason, not {answer!r}"
    )


def _is_score(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value <= 1


def _reason_text(reason: Any) -> str:
    return "" if reason is None else " ".join(str(reason).split())[:500]
