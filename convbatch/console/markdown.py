"""Markdown: text from outside in a cell or a line, and the rows of a table."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]<>|#~&"})
_MENTIONS = re.compile(r"((?<![\w@])@|\\#)(?=\w)")
"""Where GitHub would notify a person or link to an issue; a zero-width space after it prevents that."""


def md(text: str) -> str:
    """Escape text for a Markdown cell or line; `@name` and `#7` in a reply notify nobody and link to nothing."""
    return _MENTIONS.sub(r"\1&#8203;", text.translate(_SPECIAL))


def md_row(cells: Sequence[str]) -> str:
    """Return a line of a Markdown table; the cells are Markdown already."""
    return "| " + " | ".join(cells) + " |"
