"""A text that matches a regular expression, for schemas with `pattern`.

Covers what patterns of schemas consist of: literals, classes, groups, alternatives, repeats. Anything else, such as
look-around and back-references, is left out, and the text then need not match.
"""

from __future__ import annotations

import re
from re import _parser  # pyright: ignore[reportAttributeAccessIssue]  # the parsed form has no public name
from typing import Any

_CATEGORIES = {"CATEGORY_DIGIT": "0", "CATEGORY_WORD": "a", "CATEGORY_SPACE": " ", "CATEGORY_NOT_DIGIT": "a",
               "CATEGORY_NOT_WORD": "-", "CATEGORY_NOT_SPACE": "a"}  # fmt: skip
_PRINTABLE = [chr(code) for code in range(32, 127)]


def example(pattern: str) -> str:
    """Return a short text that matches a pattern; "" for one that is no regular expression."""
    try:
        return _text(_parser.parse(pattern))
    except re.error:
        return ""


def _text(tokens: Any) -> str:
    return "".join(_piece(str(name), argument) for name, argument in tokens)


def _piece(name: str, argument: Any) -> str:
    match name:
        case "LITERAL":
            return chr(argument)
        case "NOT_LITERAL":
            return next(letter for letter in _PRINTABLE if ord(letter) != argument)
        case "ANY":
            return "a"
        case "IN":
            return _member(argument)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, _, repeated = argument
            return _text(repeated) * least
        case "SUBPATTERN":
            return _text(argument[3])
        case "BRANCH":
            return _text(argument[1][0])
        case "CATEGORY":
            return _CATEGORIES.get(str(argument), "")
        case _:
            return ""


def _member(items: Any) -> str:
    """Return one character of a class; for a negated one, a printable character outside it."""
    inside = "".join(_set(str(name), argument) for name, argument in items)
    if str(items[0][0]) != "NEGATE":
        return inside[:1]
    return next((letter for letter in _PRINTABLE[33:] if letter not in inside), "")


def _set(name: str, argument: Any) -> str:
    if name == "RANGE":
        low, high = argument
        return "".join(map(chr, range(low, min(high, low + 127) + 1)))
    if name == "CATEGORY":
        category = _CATEGORIES.get(str(argument), "")
        return (
            category if "NOT" in str(argument) else "".join(letter for letter in _PRINTABLE if _alike(letter, category))
        )
    return chr(argument) if name == "LITERAL" else ""


def _alike(letter: str, example_: str) -> bool:
    if example_ == "0":
        return letter.isdigit()
    return letter.isspace() if example_ == " " else letter.isalnum() or letter == "_"
