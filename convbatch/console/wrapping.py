"""Where lines are broken and cut: between words, never within a number, a name or a command. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise, takewhile

from convbatch.console.status_block import cell_width
from convbatch.lazy_regex import lazy_regex

_WIDE = "\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6"
_OPENING, _CLOSING = "（「『【《〈〔“‘", "、。，．！？；：）」』】》〉〕”’…"
WORD = lazy_regex(rf"[{_OPENING}]*(?:[^\s{_WIDE}]+(?:(?<=\d) %[^\s{_WIDE}]*)?|[{_WIDE}])[{_CLOSING}]*\s*|\S\s*|\s+")
"""A word with the blanks after it; `5 %` is one. Chinese, Japanese and Korean text may break after every character, but
no line begins with a closing mark or ends with an opening one."""
_NUMBER = lazy_regex(r"\W*\d[\d.,:/-]*")
_COMMAND = lazy_regex(r"\s*(next: )?convbatch [a-z]")
_QUOTED = lazy_regex(r"`[^`]*`|(?<=: )convbatch [a-z][^;(]*[^;( ]")
"""Commands within a line."""
_GLUE = "\ue000"


def breaks(
    text: str, width: int, whole: int, words: re.Pattern[str] = WORD, measure: Callable[[str], int] = cell_width
) -> Iterator[int]:
    """Yield the places at which lines after the first begin.

    Args:
        text: One line.
        width: Room, in cells.
        whole: Longest word that is never broken.
        words: What it is broken between.
        measure: Returns the cells of a text.
    """
    used = 0
    for match in words.finditer(text):
        needed = measure(match[0].rstrip())
        if used and used + needed > width:
            yield match.start()
            used = 0
        if needed > max(width, whole):
            for place, char in enumerate(match[0], match.start()):
                if used + measure(char) > width and used:
                    yield place
                    used = 0
                used += measure(char)
        else:
            used += measure(match[0])


def cut(text: str, cells: int) -> str:
    """Return the beginning of a line and `…`: cut never within a number, and within a word only if that is long."""
    if cell_width(text) <= cells:
        return text
    ends = accumulate(map(cell_width, text))
    most = sum(1 for _ in takewhile(lambda end: end < cells, ends))
    at = most
    while at > 0 and text[at - 1 : at + 1].isascii() and not any(char.isspace() for char in text[at - 1 : at + 1]):
        at -= 1
    if at < most // 2 and not _NUMBER.fullmatch(text, at, most + 1):
        at = most
    return f"{text[:at].rstrip()}…"


def wrapped(text: str, columns: int | None) -> str:
    """Wrap the lines of a note between words; a command stays on one line, so that it can be copied.

    Args:
        text: Lines that are safe for a terminal.
        columns: Width of the terminal; None leaves the text as it is.
    """
    if columns is None or len(text) < columns // 2 or text.startswith("Traceback "):
        return text
    return "\n".join(line if _COMMAND.match(line) else _wrapped_line(line, columns) for line in text.split("\n"))


def _wrapped_line(line: str, columns: int) -> str:
    if cell_width(line) <= columns:
        return line
    body = line.lstrip()
    indent = " " * (len(line) - len(body))
    glued = _QUOTED.sub(lambda quoted: quoted[0].replace(" ", _GLUE), body)
    first, *_ = _lines(glued, columns - len(indent))
    later = _lines(glued[len(first) :].lstrip(), columns - len(indent) - 2)
    lines = [f"{indent}{first.rstrip()}", *(f"{indent}  {part.rstrip()}" for part in later if part)]
    return "\n".join(lines).replace(_GLUE, " ")


def _lines(text: str, width: int) -> list[str]:
    places = [0, *breaks(text, max(1, width), len(text)), len(text)]
    return [text[begin:end] for begin, end in pairwise(places)]
