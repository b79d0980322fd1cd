"""Search for patterns of datasets in replies. Both are untrusted input, and neither may stop a run.

The library `regex` accepts the syntax of Python's `re` and has a time limit; the size of a compiled pattern is bounded
before it is compiled.
"""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Generator
from contextvars import ContextVar
from typing import Any

SEARCH_LIMIT_S = 1.0
"""CPU time, as measured by `regex`, so that the load of the machine does not change a verdict."""
MAX_UNROLLED = 100_000
"""Most atoms of a pattern with its counts expanded: `regex` compiles `(?:ab){50}` to fifty copies."""
MAX_PATTERN_CHARS = 20_000
_SHOWN = 80


class CheckError(Exception):
    """A check could not be evaluated; the message becomes the verdict's `error`."""


class CheckTimeout(CheckError):
    """A check exceeded its time limit."""


_TIME_LIMIT_S: ContextVar[float | None] = ContextVar("time limit of the check", default=None)


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Generator[None]:
    """Evaluate a check under its own time limit; None: the default of its kind."""
    token = _TIME_LIMIT_S.set(seconds)
    try:
        yield
    finally:
        _TIME_LIMIT_S.reset(token)


def time_limit_s(default: float) -> float:
    """Return the time limit of the check that is being evaluated."""
    limit = _TIME_LIMIT_S.get()
    return default if limit is None else limit


def quote_excerpt(text: str) -> str:
    """Return a text for a message: one line, quoted, truncated."""
    flat = " ".join(text[: 4 * _SHOWN].split())
    cut = flat if len(flat) <= _SHOWN and len(text) <= 4 * _SHOWN else flat[: _SHOWN - 1].rstrip() + "…"
    return f'"{cut}"'


@functools.lru_cache(maxsize=512)
def compile_pattern(pattern: str) -> Any:
    """Compile a pattern; cached."""
    import regex

    return regex.compile(pattern, regex.VERSION0)


def search(pattern: str, text: str) -> Any:
    """Return the first match, or None.

    Raises:
        CheckTimeout: The search took longer than the check's time limit, by default `SEARCH_LIMIT_S`.
    """
    limit = time_limit_s(SEARCH_LIMIT_S)
    try:
        return compile_pattern(pattern).search(text, timeout=limit)
    except TimeoutError:
        raise CheckTimeout(
            f"the pattern {quote_excerpt(pattern)} took longer than {limit:g} s on {len(text):,} characters"
        ) from None


def pattern_problem(pattern: str) -> str | None:
    """Return why a pattern is not accepted; None when it is."""
    import regex

    if len(pattern) > MAX_PATTERN_CHARS:
        return f"longer than {MAX_PATTERN_CHARS:,} characters"
    if _unrolled_size(pattern) > MAX_UNROLLED:
        return f"nested counts multiply to more than {MAX_UNROLLED:,}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `re` warns about unusual character sets
            # Refuses syntax that only `regex` has; its recursion, for example, can use all memory.
            re.compile(pattern)
        compile_pattern(pattern)
    except (re.error, regex.error, RecursionError, OverflowError, ValueError, IndexError, KeyError) as error:
        return str(error) or type(error).__name__
    return None


def _unrolled_size(pattern: str) -> int:
    """Estimate the number of atoms of a pattern with its counts expanded; rather too high than too low."""
    import regex

    sums, last = [0], 0
    for token in regex.finditer(r"(?s)\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d+)(?:,\d*)?\}|.", pattern):
        match token[0][0]:
            case "(":
                sums.append(0)
                last = 0
            case ")" if len(sums) > 1:
                last = sums.pop()
                sums[-1] += last
            case "{" if token[1] is not None:
                times = min(int(token[1][:9]), 10**9)
                sums[-1] += last * max(times - 1, 0)
                last *= max(times, 1)
            case _:
                last = 1
                sums[-1] += 1
    return sum(sums)
