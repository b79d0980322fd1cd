"""Where two texts differ, for reasons of checks: what the eye cannot see is written as its code point and named.

Also the `normalize` option of checks, which ignores such differences. Nothing here decides whether a check passes.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

_SHOWN = 80
"""Longest text that is shown whole; of a longer one, this many characters around the difference."""
_MOST_SEARCHED = 200_000
"""Characters of a reply that are searched for a similar text."""
_ZERO_WIDTH = "\u00ad\u200b\u2060\ufeff"
_CONTROLS = {"\n": "LINE FEED", "\r": "CARRIAGE RETURN", "\t": "TAB"}
_LOOK_ALIKE = str.maketrans(
    "аеорсхуіѕјАВЕКМНОРСТХΑΒΕΖΗΙΚΜΝΟΡΤΥΧο‐‑‒–—−‘’“”′″。，：；！？（）",
    "aeopcxyisjABEKMHOPCTXABEZHIKMNOPTYXo------''\"\"'\".,:;!?()",
)


def normalized(text: str) -> str:
    """Return a text in NFKC, with each run of white space as one space and without zero-width spaces."""
    return _fold_space(unicodedata.normalize("NFKC", text.translate(_NO_ZERO_WIDTH)))


_NO_ZERO_WIDTH = dict.fromkeys(map(ord, _ZERO_WIDTH))


def _fold_space(text: str) -> str:
    inner = " ".join(text.split())
    return f"{' ' * text[:1].isspace()}{inner}{' ' * (text[-1:].isspace() and bool(inner))}"


def difference(found: str, wanted: str) -> str:
    """Describe two different texts as `"…", not "…"`, around the first difference, with a name for it."""
    at = first_difference(found, wanted)
    shown, expected = _around(found, at), _around(wanted, at)
    place = _place(found, wanted, at)
    clear = at == 0 and (shown + expected).isascii() and (found[:1] + wanted[:1]).isalnum()
    return f"{shown}, not {expected}" if clear and "only in" not in place else f"{shown}, not {expected}; {place}"


def _place(found: str, wanted: str, at: int) -> str:
    names = f"{_name_at(found, at)}, not {_name_at(wanted, at)}"
    return f"first difference at character {at + 1:,}: {names}{_apart(found, wanted)}"


def absence(text: str, wanted: str, *, ignore_case: bool = False) -> str | None:
    """Describe what a text contains in place of a text it lacks; None when it has nothing similar."""
    similar = _similar_part(text, wanted) if text.strip() and wanted.strip() else text
    if similar is None:
        length = _longest_start(text, wanted)
        if length < max(3, min(10, len(wanted) // 2)):
            return None
        start = text.find(wanted[:length])
        similar = text[start : start + len(wanted)]
    fold = _same_length_casefold if ignore_case else str
    at = first_difference(fold(similar), fold(wanted))
    expected = f", not {_around(wanted, at)}" if len(wanted) > _SHOWN else ""  # else the reason has it already
    return f"{_around(similar, at)}{expected}; {_place(similar, wanted, at)}"


def _same_length_casefold(text: str) -> str:
    return "".join(folded if len(folded := character.casefold()) == 1 else character for character in text)


def first_difference(found: str, wanted: str) -> int:
    """Return the index of the first character that differs; the length of the shorter text when it starts the other."""
    shorter = min(len(found), len(wanted))
    return next((index for index in range(shorter) if found[index] != wanted[index]), shorter)


def visible(text: str) -> str:
    """Return a text in quotes, with characters that cannot be seen as code points; long texts are cut."""
    return _around(text, 0)


def _around(text: str, at: int) -> str:
    if len(text) <= _SHOWN:
        return f'"{_escaped(text)}"'
    start = max(min(at - _SHOWN // 2, len(text) - _SHOWN), 0)
    end = start + _SHOWN
    return f'"{"…" if start else ""}{_escaped(text[start:end])}{"…" if end < len(text) else ""}"'


def _escaped(text: str) -> str:
    return "".join(
        f"<U+{ord(character):04X}>" if _is_hidden(character, text[index - 1 : index]) else character
        for index, character in enumerate(text)
    )


def _is_hidden(character: str, before: str) -> bool:
    """Whether a character cannot be seen, or cannot be told from a composed one."""
    if character == " ":
        return before == " "
    match unicodedata.category(character):
        case "Mn":
            return len(unicodedata.normalize("NFC", before + character)) < 2
        case category:
            return category in ("Cc", "Cf", "Cn", "Co", "Cs", "Zs", "Zl", "Zp")


def _name_at(text: str, at: int) -> str:
    """Name a character together with the marks that combine with it."""
    if at >= len(text):
        return "the end"
    end = at + 1
    while end < min(len(text), at + 4) and unicodedata.combining(text[end]):
        end += 1
    return " + ".join(map(_name, text[at:end]))


def _name(character: str) -> str:
    if character.isascii() and character.isprintable() and character != " ":
        return f'"{character}"'
    name = unicodedata.name(character, _CONTROLS.get(character, "without a name"))
    shown = f'"{character}" ' if unicodedata.category(character)[0] in "LNPS" else ""
    return f"{shown}U+{ord(character):04X} {name}"


class _Disregard(NamedTuple):
    """A difference that may be all there is between two texts."""

    words: str
    without: Callable[[str], str]
    """Removes the difference from a text."""


_DISREGARDS = (
    _Disregard(
        "the Unicode form: one is composed (NFC), the other decomposed (NFD)", lambda t: unicodedata.normalize("NFC", t)
    ),
    _Disregard("white space", lambda text: " ".join(text.split())),
    _Disregard("case", str.casefold),
    _Disregard("zero-width characters", lambda text: text.translate(_NO_ZERO_WIDTH)),
    _Disregard("Unicode compatibility forms such as full-width characters", lambda t: unicodedata.normalize("NFKC", t)),
    _Disregard("white space and Unicode forms", lambda text: normalized(text).strip()),
    _Disregard("case, white space and Unicode forms", lambda text: normalized(text).strip().casefold()),
)


def _apart(found: str, wanted: str) -> str:
    """Say what the texts differ in when they are equal otherwise."""
    if abs(len(found) - len(wanted)) > max(100, len(wanted)):
        return ""
    for one in _DISREGARDS:
        if one.without(found) == one.without(wanted):
            remedy = ' ("normalize": true ignores it)' if normalized(found) == normalized(wanted) else ""
            return f"; they differ only in {one.words}{remedy}"
    return ""


# Texts that look similar


_UNSEEN = re.compile("[\u00ad\u0300-\u036f\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")


def _look(text: str) -> str:
    """Reduce a text to what it looks like, without case and marks."""
    plain = unicodedata.normalize("NFKD", text.translate(_LOOK_ALIKE)).casefold()
    return plain if plain.isascii() else _UNSEEN.sub("", plain)


_look_of_character = functools.lru_cache(maxsize=4096)(_look)


def _similar_part(text: str, wanted: str) -> str | None:
    """Return the first part of a text that looks like another text, ignoring case, marks and white space."""
    text, goal = text[:_MOST_SEARCHED], " ".join(_look(wanted).split())
    if not goal or goal not in " ".join(_look(text).split()):
        return None
    looks: list[str] = []
    places: list[int] = []
    for index, character in enumerate(text):
        for part in _look_of_character(character):
            if part.isspace() and looks and looks[-1] == " ":
                continue
            looks.append(" " if part.isspace() else part)
            places.append(index)
    start = "".join(looks).find(goal)
    if start < 0:
        return None
    end = places[start + len(goal) - 1] + 1
    while end < len(text) and unicodedata.combining(text[end]):
        end += 1
    return text[places[start] : end]


def _longest_start(text: str, wanted: str) -> int:
    """Return the length of the longest start of `wanted` that the text contains."""
    low, high = 0, len(wanted)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if wanted[:middle] in text else (low, middle - 1)
    return low
