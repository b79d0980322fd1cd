"""What is wrong with a line that is not TOML: how to mend it, where the parser has only `Invalid value` to say."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_TEXT = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'")
_WORDS = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}
_ABSENT = ("none", "null", "nil")
_USUAL = 'write texts in quotes: key = "value"; tables are [gateways.NAME]'


def toml_hint(line: str, reason: str) -> str:
    """Return how to mend a line that the parser refuses for this reason."""
    if "overwrite" in reason or "twice" in reason or "Cannot declare" in reason:
        return "this key or table is already above: keep one of the two"
    bare = _TEXT.sub(lambda match: '"' + " " * (len(match[0]) - 2) + '"', line).rstrip(" \t\r")
    return next((hint for look in _LOOKS if (hint := look(bare, line)) is not None), _USUAL)


def _odd_character(bare: str, _line: str) -> str | None:
    code, _, _comment = bare.partition("#")
    for at, char in enumerate(code):
        if char.isascii():
            continue
        name = f"U+{ord(char):04X} ({unicodedata.name(char, 'invisible').lower()}) at character {at + 1}"
        if char in "“”„‟«»「」＂‘’‚`´":
            return f'{name}: write the plain double quote "'
        if unicodedata.category(char) in ("Zs", "Zl", "Zp", "Cf"):
            return f"{name}: {'remove it' if unicodedata.category(char) == 'Cf' else 'use a plain space'}"
        plain = {"：": "=", "、": ",", "【": "[", "】": "]"}.get(char, unicodedata.normalize("NFKC", char))
        if len(plain) == 1 and plain.isascii() and not plain.isalpha():
            return f"{name}: write {plain}"
    return None


def _comment(bare: str, _line: str) -> str | None:
    mark = re.match(r"\s*(//|--|;|/\*|%)", bare) or re.search(r"\s(//|;|/\*)", bare)
    return None if mark is None else f"a comment starts with #, not with {mark[1]}"


def _colon(bare: str, _line: str) -> str | None:
    key = re.match(r"\s*([\w.-]+)\s*:\s*(.*)", bare)
    if key is None:
        return None
    return f"TOML is no YAML: write {key[1]} = …" if key[2] else f"TOML is no YAML: write [{key[1]}] for a table"


def _value(bare: str, line: str) -> str | None:
    key = re.match(r"\s*(?P<key>[\w.\"-]+)\s*=\s*(?P<value>[^#]*)", bare)
    if key is None:
        return None
    name, value = key["key"], key["value"].strip()
    word = value.rstrip(",;")
    if value != word:
        return f"drop the {value[len(word)]} at the end of the line"
    if word.lower() in _WORDS:
        return f"write {name} = {_WORDS[word.lower()]}"
    if word.lower() in _ABSENT:
        return f"leave {name} out: TOML has no {word}"
    if word.startswith("`") or re.fullmatch(r"[A-Za-z][^\"'\[\]{}=,]*", word):
        return f'put the text in double quotes: {name} = "…"'  # without the text, which may be a key
    if re.fullmatch(r"0\d{1,6}", word):
        return f"write {name} = {int(word)}, or put it in quotes as a text"
    if re.fullmatch(r"\d+,\d+", word):
        return f"write {name} = {word.replace(',', '.')}"
    if re.search(r"\"[^\"]*\\(?![btnfr\"\\uU]|u[\da-fA-F]{4}|U[\da-fA-F]{8})|\"[^\"]*\\[uU](?![\da-fA-F]{4})", line):
        return "double the backslash, use / in paths, or put the text in single quotes: 'C:\\Users'"
    if word.count('"') % 2 or word.count("'") % 2:
        return "the text has no closing quote on this line"
    return f"write {name} = VALUE: there is none" if not word else None


def _table(bare: str, _line: str) -> str | None:
    name = re.match(r"\s*(\[{1,2})([^\[\]]*)(\]*)\s*(.*)", bare)
    if name is not None and len(name[1]) > len(name[3]):
        return f"the ] is missing: write {name[1]}{name[2].strip()}{']' * len(name[1])}"
    if bare.lstrip().startswith("{"):
        return "TOML is no JSON: write [TABLE], and below it key = value"
    return None


_LOOKS: tuple[Callable[[str, str], str | None], ...] = (_odd_character, _comment, _colon, _value, _table)
