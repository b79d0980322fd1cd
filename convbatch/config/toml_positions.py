"""Find the line of a key in a TOML file, because the parser of the standard library keeps no line numbers.

Only for text that has been parsed before: invalid TOML is not detected.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from convbatch.lazy_regex import lazy_regex

KeyPath = tuple[str, ...]

_NAME = r"(?:[A-Za-z0-9_-]+|\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*')"
_KEY_LINE = lazy_regex(rf"\s*(?P<key>{_NAME}(?:\s*\.\s*{_NAME})*)\s*=(?P<value>.*)")
_TABLE_LINE = lazy_regex(rf"\s*\[\[?\s*(?P<key>{_NAME}(?:\s*\.\s*{_NAME})*)\s*\]\]?\s*(?:#.*)?")
_ITEM = "\0"
_STRINGS = lazy_regex(r'"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*', re.DOTALL)


@dataclass(slots=True)
class TomlPositions:
    """Finds the line of a key or table in TOML text that has been parsed before.

    It reads line by line: `[table]` headers and `key =` at the start of a line, with dotted and quoted names. The
    inside of a value of several lines is skipped, and a key in an inline table has the line of its table. A table of a
    list is found by the path of the list and `item(index)`, the first one by the path alone too.
    """

    _found: dict[KeyPath, int]
    _last_items: dict[KeyPath, int]
    _text: list[str]
    _is_read: bool

    def __init__(self, text: str) -> None:
        self._found, self._last_items = {}, {}
        self._text = text.split("\n")
        self._is_read = False

    def _read(self) -> None:
        """Find all keys; only when a line is asked for, because of the shipped presets none is."""
        self._is_read = True
        text = "\n".join(self._text)
        table: KeyPath = ()
        value = _Value(())
        # Strings and comments are replaced by spaces first (newlines stay), so that characters in them do not count.
        for number, (line, bare) in enumerate(zip(self._text, _blanked(text), strict=True), 1):
            if value.depth > 0:
                self._note_items(value, bare, number)
            elif "[" in bare and (header := _TABLE_LINE.fullmatch(line.rstrip("\r"))):
                table = self._table(_path_of(header["key"]), is_item=bare.lstrip().startswith("[["))
                self._note(table, number)
            elif (entry := _KEY_LINE.match(line)) and "=" in bare:
                value = _Value((*table, *_path_of(entry["key"])))
                self._note(value.path, number)
                self._note_items(value, bare, number)

    def _table(self, names: KeyPath, *, is_item: bool) -> KeyPath:
        """Return the path of a header; a name of a list stands for its last table, or with `is_item` for a new one."""
        path: KeyPath = ()
        for number, name in enumerate(names, 1):
            path = (*path, name)
            if is_item and number == len(names):
                self._last_items[path] = self._last_items.get(path, -1) + 1
            if path in self._last_items:
                path = (*path, item(self._last_items[path]))
        return path

    def _note_items(self, value: _Value, bare: str, number: int) -> None:
        for index in value.read(bare):
            self._note((*value.path, item(index)), number)

    def _note(self, path: KeyPath, number: int) -> None:
        for one in (path, without_items(path)):
            for length in range(1, len(one) + 1):
                self._found.setdefault(one[:length], number)

    def of(self, path: KeyPath, *, containing: str | None = None) -> int | None:
        """Return the line of a key, else of its table; with `containing`, the first line from there with that text."""
        if not self._is_read:
            self._read()
        line = next((self._found[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._found), None)
        if line is None or containing is None:
            return line
        later = range(line, len(self._text) + 1)
        return next((number for number in later if containing in self._text[number - 1]), line)


def item(index: int) -> str:
    """Return the name in a path of a table in a list; no key is written like this."""
    return f"{_ITEM}{index}"


def without_items(path: KeyPath) -> KeyPath:
    """Return a path without its places in lists."""
    return tuple(name for name in path if not name.startswith(_ITEM))


@dataclass(slots=True)
class _Value:
    """Value of a key that may go on over several lines."""

    path: KeyPath
    depth: int = 0
    """Brackets that are open at its end so far."""
    _is_list: bool | None = None
    _items: int = 0

    def read(self, bare: str) -> Iterator[int]:
        """Read a line of it without strings; yield the index of each table of a list that starts there."""
        for sign in bare:
            if sign in "[{":
                if self._is_list is None:
                    self._is_list = sign == "["
                if sign == "{" and self._is_list and self.depth == 1:
                    yield self._items
                    self._items += 1
                self.depth += 1
            elif sign in "]}":
                self.depth -= 1


def _blanked(text: str) -> list[str]:
    return _STRINGS.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text).split("\n")


def _path_of(key: str) -> KeyPath:
    names: list[str] = []
    inner: Any = tomllib.loads(f"{key} = 0")
    while isinstance(inner, dict):
        name, inner = next(iter(cast(dict[str, Any], inner).items()))
        names.append(name)
    return tuple(names)
