"""Patterns from datasets, searched for in replies: two texts from outside, and neither may stop a run.

`regex` knows what Python's own `re` knows, and a time limit. What it writes out when it compiles is bounded before.
"""

from __future__ import annotations

import functools
import re
import warnings
from typing import Any

SEARCH_LIMIT_S = 1.0
"""Of computing, as `regex` counts it: a busy machine does not change a verdict."""
MAX_UNROLLED = 100_000
"""The library writes `(?:ab){50}` out fifty times when it compiles it."""
MAX_PATTERN_CHARS = 20_000
_SHOWN = 80


class CheckError(Exception):
    """The check itself could not be carried out; its words become the verdict's `error`."""


class CheckTimeout(CheckError):
    """It took too long."""


def quote_excerpt(text: str) -> str:
    """A text in a reason: one line, quoted, cut."""
    flat = " ".join(text[: 4 * _SHOWN].split())
    cut = flat if len(flat) <= _SHOWN and len(text) <= 4 * _SHOWN else flat[: _SHOWN - 1].rstrip() + "…"
    return f'"{cut}"'


@functools.lru_cache(maxsize=512)
def compile_pattern(pattern: str) -> Any:
    """The pattern, ready to search."""
    import regex

    return regex.compile(pattern, regex.VERSION0)


def search(pattern: str, text: str) -> Any:
    """The first match, or None.

    Raises:
        OutOfTime: It took too long.
    """
    try:
        return compile_pattern(pattern).search(text, timeout=SEARCH_LIMIT_S)
    except TimeoutError:
        raise CheckTimeout(
            f"the pattern {quote_excerpt(pattern)} took longer than {SEARCH_LIMIT_S:g} s on {len(text):,} characters"
        ) from None


def pattern_problem(pattern: str) -> str | None:
    """Why this cannot be searched for; None when it can."""
    import regex

    if len(pattern) > MAX_PATTERN_CHARS:
        return f"longer than {MAX_PATTERN_CHARS:,} characters"
    if _unrolled_size(pattern) > MAX_UNROLLED:
        return f"nested counts multiply to more than {MAX_UNROLLED:,}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # re's views on the look of a set
            re.compile(
                pattern
            )  # what only `regex` knows (recursion, above all) is not Python's, and can eat all memory
        compile_pattern(pattern)
    except (re.error, regex.error, RecursionError, OverflowError, ValueError, IndexError, KeyError) as error:
        return str(error) or type(error).__name__
    return None


def _unrolled_size(pattern: str) -> int:
    """About how many atoms a pattern is when its counts are written out; generous, and never far too low."""
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
