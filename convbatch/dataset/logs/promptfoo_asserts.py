"""Assertions of promptfoo as checks; what has no equal check is kept beside the dialogue."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from convbatch.checks.builtin import is_number

Check = dict[str, Any]


class Read(NamedTuple):
    """What became of assertions."""

    checks: list[Check]
    kept: list[Any]
    """Those without an equal check, as they were."""


def _texts(value: Any) -> list[str] | None:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, list) or not value or not all(isinstance(one, str | int | float) for one in value):
        return None
    return [str(one) for one in value]


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value) else None


def _pattern(value: Any) -> str | None:
    try:
        re.compile(value if isinstance(value, str) else "(")
    except (re.error, RecursionError, OverflowError):
        return None
    return value or None


_KINDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "equals": ("equals", _text),
    "contains": ("contains", _text),
    "icontains": ("icontains", _text),
    "starts-with": ("starts_with", _text),
    "contains-any": ("contains_any", _texts),
    "contains-all": ("contains_all", _texts),
    "regex": ("regex", _pattern),
    "llm-rubric": ("llm_rubric", _text),
}


def read_asserts(values: Any) -> Read:
    """Return the checks that assertions stand for."""
    checks: list[Check] = []
    kept: list[Any] = []
    for value in values if isinstance(values, list) else []:
        check = _check(value) if isinstance(value, dict) else None
        if check is None:
            kept.append(value)
        else:
            checks.append(check)
    return Read(checks, kept)


def _check(value: dict[str, Any]) -> Check | None:
    kind = value.get("type")
    if not isinstance(kind, str) or any(key in value for key in ("transform", "contextTransform", "rubricPrompt")):
        return None
    negated, plain = ("not_", kind[4:]) if kind.startswith("not-") else ("", kind)
    weight = value.get("weight")
    more = (
        {"weight": weight} if isinstance(weight, int | float) and is_number(weight) and 0 <= weight <= 1_000_000 else {}
    )
    more |= {"name": value["metric"]} if isinstance(value.get("metric"), str) and value["metric"].strip() else {}
    held = value.get("value")
    if isinstance(held, str) and held.startswith("file://"):
        return None
    if plain == "is-json" and held is None:
        return {f"{negated}is_json": True, **more}
    threshold = value.get("threshold")
    if (
        plain == "latency"
        and isinstance(threshold, int | float)
        and is_number(threshold)
        and threshold > 0
        and not negated
    ):
        return {"latency": threshold / 1_000, **more}
    if plain not in _KINDS:
        return None
    name, read = _KINDS[plain]
    argument = read(held)
    return None if argument is None else {f"{negated}{name}": argument, **more}


_CELL = re.compile(r"((?:not-)?[a-z][a-z-]*)(?:\(([\d.]+)\))?:\s*(.*)", re.DOTALL)


def read_cells(cells: Sequence[str]) -> Read:
    """Return the checks in cells of `__expected` columns: `contains: a`, a text alone is `equals`."""
    values: list[Any] = []
    for cell in cells:
        match = _CELL.fullmatch(cell.strip())
        kind = "" if match is None else match[1]
        if match is not None and (kind.removeprefix("not-") in _KINDS or kind in _OTHERS):
            values.append({"type": kind, "value": match[3]})
        elif cell.strip() in ("is-json", "not-is-json"):
            values.append({"type": cell.strip()})
        elif cell.strip():
            values.append({"type": "equals", "value": cell})
    return read_asserts(values)


_OTHERS = (
    "fn",
    "eval",
    "grade",
    "similar",
    "javascript",
    "python",
    "file",
    "webhook",
    "levenshtein",
    "latency",
    "cost",
)
