"""Where a key stands in a TOML file: the standard parser keeps no line numbers, so they are found again in the text.

Only for text that has been parsed already: what is wrong with TOML is not seen here.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any, cast

KeyPath = tuple[str, ...]

_NAME = r"(?:[A-Za-z0-9_-]+|\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*')"
_KEY_LINE = re.compile(rf"\s*(?P<key>{_NAME}(?:\s*\.\s*{_NAME})*)\s*=(?P<value>.*)")
_TABLE_LINE = re.compile(rf"\s*\[\[?\s*(?P<key>{_NAME}(?:\s*\.\s*{_NAME})*)\s*\]\]?\s*(?:#.*)?")
_STRINGS = re.compile(r'"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*', re.DOTALL)


@dataclass(slots=True)
class TomlPositions:
    """Finds the line of a key or table again in TOML text that has already been parsed.

    It reads line by line: `[table]` headers and `key =` at the beginning of a line, dotted and quoted names included.
    What stands inside a value of several lines is skipped, and a key inside an inline table has its table's line.
    """

    _found: dict[KeyPath, int]
    _text: list[str]

    def __init__(self, text: str) -> None:
        self._found = {}
        self._text = text.split("\n")
        table: KeyPath = ()
        open_ = 0
        # Strings and comments are blanked out first (line ends stay), so that brackets and signs in them do not count.
        for number, (line, bare) in enumerate(zip(self._text, _blanked(text), strict=True), 1):
            if open_ > 0:
                open_ += _depth(bare)
                continue
            if "[" in bare and (header := _TABLE_LINE.fullmatch(line.rstrip("\r"))):
                table = _path_of(header["key"])
                self._note(table, number)
            elif (entry := _KEY_LINE.match(line)) and "=" in bare:
                self._note((*table, *_path_of(entry["key"])), number)
                open_ = max(0, _depth(bare))

    def _note(self, path: KeyPath, number: int) -> None:
        for length in range(1, len(path) + 1):
            self._found.setdefault(path[:length], number)

    def of(self, path: KeyPath, *, containing: str | None = None) -> int | None:
        """The line of a key, else of its table; with `containing`, the first line from there that has it."""
        line = next((self._found[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._found), None)
        if line is None or containing is None:
            return line
        later = range(line, len(self._text) + 1)
        return next((number for number in later if containing in self._text[number - 1]), line)


def _blanked(text: str) -> list[str]:
    return _STRINGS.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text).split("\n")


def _depth(bare: str) -> int:
    return sum(bare.count(sign) for sign in "[{") - sum(bare.count(sign) for sign in "]}")


def _path_of(key: str) -> KeyPath:
    names: list[str] = []
    inner: Any = tomllib.loads(f"{key} = 0")
    while isinstance(inner, dict):
        name, inner = next(iter(cast(dict[str, Any], inner).items()))
        names.append(name)
    return tuple(names)
