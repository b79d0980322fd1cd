"""Tables of cases: one test for all rows of a table, where a row is checked faster than pytest starts a test."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest


def each(names: str | tuple[str, ...], rows: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Call a test with every row of a table; it fails with all rows that fail.

    Takes what `pytest.mark.parametrize` takes, which makes a test of each row: 3 ms each, in two processes. A test must
    not change what its fixtures give it, because all rows share them.
    """
    table = [_values(names, row) for row in rows]
    assert table, "a table without rows proves nothing"
    named = (names,) if isinstance(names, str) else names

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def with_each_row(**fixtures: Any) -> None:
            failures = [
                failure
                for values in table
                if (failure := _failure(test, dict(zip(named, values, strict=True)), fixtures)) is not None
            ]
            if failures:
                raise BaseExceptionGroup(f"{len(failures)} of {len(table)} rows failed", failures)

        signature = inspect.signature(test)
        kept = [value for name, value in signature.parameters.items() if name not in named]
        setattr(with_each_row, "__signature__", signature.replace(parameters=kept))  # noqa: B010  # read by pytest
        return with_each_row

    return decorate


def _values(names: str | tuple[str, ...], row: Any) -> tuple[Any, ...]:
    if isinstance(row, type(pytest.param())):
        return tuple(row.values)
    return (row,) if isinstance(names, str) else tuple(row)


def _failure(test: Callable[..., None], row: dict[str, Any], fixtures: dict[str, Any]) -> BaseException | None:
    """Return why a row fails, with the row as its note, or None."""
    try:
        test(**row, **fixtures)
    except (Exception, pytest.fail.Exception) as failure:  # noqa: BLE001  # reported with those of the other rows
        failure.add_note(f"row: {row!r}")
        return failure
    return None
