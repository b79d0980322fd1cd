"""Find the line of a key in a TOML file, because the parser of the standard library keeps no line numbers.

Only for text that has been parsed before: invalid TOML is not detected.
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
    """Finds the line of a key or table in TOML text that has been parsed before.

    It reads line by line: `[table]` headers and `key =` at the start of a line, with dotted and quoted names. The
    inside of a value of several lines is skipped, and a key in an inline table has the line of its table.
    """

    _found: dict[KeyPath, int]
    _text: list[str]

    def __init__(self, text: str) -> None:
        self._found = {}
        self._text = text.split("\n")
        table: KeyPath = ()
        open_ = 0
        # Strings and comments are replaced by spaces first (newlines stay), so that characters in them do not count.
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
        """Return the line of a key, else of its table; with `containing`, the first line from there with that text."""
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
