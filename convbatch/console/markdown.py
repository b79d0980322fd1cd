"""Markdown: text from outside in a cell or a line, and the rows of a table."""

from __future__ import annotations

import re
from collections.abc import Sequence

from convbatch.console.text import shorten

SHOWN_OF_A_CELL = 2_000
"""Characters of a cell or line."""
_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]<>|#~&"})
_BREAK = "\u200b"
"""A zero-width space: between the parts of an address it prevents a link."""
_ADDRESSES = re.compile(
    r"(?<=:/)(?=/)"  # any scheme://
    r"|(?<=\bwww)(?=\.)|(?<=\bmailto)(?=:)|(?<=\bxmpp)(?=:)"
    r"|(?<=[\w.+-]@)(?=[\w-]+\.\w)"  # mail addresses
    r"|(?<![\w@]@)(?<=@)(?=\w)|(?<=#)(?=\w)",  # where GitHub would notify a person or link to an issue
    re.IGNORECASE,
)


def md(text: str) -> str:
    """Escape text for a Markdown cell or line: no markup, and addresses, `@name` and `#7` become no links."""
    broken = _ADDRESSES.sub(_BREAK, shorten(text, SHOWN_OF_A_CELL))
    return broken.translate(_SPECIAL).replace(_BREAK, "&#8203;")


def md_row(cells: Sequence[str]) -> str:
    """Return a line of a Markdown table; the cells are Markdown already."""
    return "| " + " | ".join(cells) + " |"
