"""Regular expressions that are compiled when they are first used.

Compiling takes longer than importing the module around it, and most tables of expressions (words of errors, notations
of numbers) are for cases that a run may never see.
"""

from __future__ import annotations

import re
from typing import Any, AnyStr, cast


class _LazyRegex:
    def __init__(self, pattern: Any, flags: int) -> None:
        self._source = pattern, flags

    def __getattr__(self, name: str) -> Any:
        value = getattr(re.compile(*self._source), name)
        setattr(self, name, value)  # so that the next use costs no more than that of a compiled one
        return value


def lazy_regex(pattern: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """Return what has the methods and attributes of a compiled pattern; a mistake in it is found at the first use."""
    return cast("re.Pattern[AnyStr]", _LazyRegex(pattern, flags))
