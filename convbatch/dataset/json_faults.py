"""What is wrong with a text that is not JSON: the fault behind the parser's words, where it is, how to mend it.

The parser says where it stopped; the fault is often the character before, or one that only looks right. Nothing here
knows files or dialogues.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in a text."""

    what: str
    position: int
    """Index in the text."""
    hint: str


def fault_of(text: str, error: json.JSONDecodeError) -> Fault | None:
    """Return the fault behind a syntax error; None when the parser's own words are the best there are."""
    return next((fault for look in _LOOKS if (fault := look(text, error)) is not None), None)


def _comment(text: str, error: json.JSONDecodeError) -> Fault | None:
    if not text.startswith(("//", "/*", "#"), error.pos):
        return None
    return Fault("JSON has no comments: one starts", error.pos, "remove the comment")


def _trailing_comma(text: str, error: json.JSONDecodeError) -> Fault | None:
    at = error.pos
    if at < len(text) and text[at] in "]}":
        at = len(text[:at].rstrip()) - 1
    if at < 0 or text[at : at + 1] != ",":
        return None
    after = text[at + 1 :].lstrip()
    if error.msg == "Extra data":
        hint = "drop the comma at the end of the line" if not after else "put each object on a line of its own"
        return Fault("a comma after the end of the object", at, hint)
    if after[:1] in ("]", "}"):
        return Fault("trailing comma", at, f"drop the comma before {after[0]}")
    if error.msg.startswith(("Expecting value", "Expecting property name")) and at == error.pos:
        return Fault("a comma where a value or a key should be", at, "drop the comma")
    return None


_QUOTES = "“”„‟«»〝〞＂"
_CLOSING = re.compile(rf"[{_QUOTES}](?=\s*[,:}}\]])")
_SINGLE_QUOTES = "'‘’‚‛`´＇"
_ESCAPE_HINT = r"double each backslash that is meant as such (\\), or use / in paths"


def _single_quotes(text: str, error: json.JSONDecodeError) -> Fault | None:
    if text[error.pos : error.pos + 1] != "'":
        return None
    hint = 'write " around keys and texts; a Python dict becomes JSON with json.dumps(…)'
    return Fault("JSON needs double quotes: '", error.pos, hint)


def _odd_character(text: str, error: json.JSONDecodeError) -> Fault | None:
    at = error.pos
    if at >= len(text) or error.msg.startswith("Unterminated string"):
        closing = _CLOSING.search(text, text.rfind('"') + 1)  # its end may be a quote that only looks right
        at = len(text) if closing is None else closing.start()
    if at >= len(text) or text[at].isascii():
        return None
    char = text[at]
    code = f"U+{ord(char):04X}"
    name = unicodedata.name(char, "").lower()
    plain = unicodedata.normalize("NFKC", char)
    if char in _QUOTES or char in _SINGLE_QUOTES:
        return Fault(f"{code} ({name}) is not '\"': found", at, 'write the plain double quote " around keys and texts')
    if unicodedata.category(char) in ("Zs", "Zl", "Zp", "Cf"):
        hint = "remove it" if unicodedata.category(char) == "Cf" else "use a plain space"
        return Fault(f"{code} ({name or 'invisible'}) outside of a text", at, hint)
    if char in _LOOKALIKES or plain in ":,{}[]":
        return Fault(f"{name.replace('fullwidth', 'full-width')} {code}", at, f"write {_LOOKALIKES.get(char, plain)}")
    return None


_LOOKALIKES = {
    "、": ",",
    "，": ",",
    "：": ":",
    "﹕": ":",
    "∶": ":",
    "﹐": ",",
    "؛": ",",
    "،": ",",
    "【": "[",
    "】": "]",
}


def _backslash(text: str, error: json.JSONDecodeError) -> Fault | None:
    if not error.msg.startswith("Invalid \\"):
        return None
    at = text.rfind("\\", 0, error.pos + 2)
    shown = text[at : at + 2]
    return Fault(f"a backslash that starts no escape of JSON ({shown})", at, _ESCAPE_HINT)


def _control_character(text: str, error: json.JSONDecodeError) -> Fault | None:
    if not error.msg.startswith("Invalid control character") or error.pos >= len(text):
        return None
    char = text[error.pos]
    escaped = json.dumps(char)[1:-1]
    named = {"\n": "a line break", "\t": "a tab", "\r": "a carriage return"}.get(char, "a control character")
    return Fault(f"{named} (U+{ord(char):04X}) inside a text", error.pos, f"write it as {escaped}")


_WORDS = {"None": "null", "True": "true", "False": "false", "undefined": "null", "nil": "null", "NULL": "null"}


def _word(text: str, error: json.JSONDecodeError) -> Fault | None:
    word = re.compile(r"[A-Za-z_]\w*").match(text, error.pos)
    if word is None:
        return None
    if error.msg.startswith("Expecting value") and word[0] in _WORDS:
        return Fault(f"{word[0]} is not JSON", error.pos, f"write {_WORDS[word[0]]}")
    if error.msg.startswith("Expecting property name"):
        return Fault("a key without quotes", error.pos, f'write "{word[0]}"')
    if error.msg.startswith("Expecting ',' delimiter") and text[: error.pos].rstrip().endswith('"'):
        what = "text after a closing quote (is it a quote inside a text, without its backslash?)"
        return Fault(what, error.pos, r"write \" inside a text")
    return None


def _missing_mark(text: str, error: json.JSONDecodeError) -> Fault | None:
    char = text[error.pos : error.pos + 1]
    if error.msg == "Extra data":
        if char == "{":
            return Fault("a second object on the line", error.pos, "put each object on a line of its own")
        if char in "]}" and char:
            return Fault(f"a {char} too many", error.pos, "drop it, or add what it should close")
        if text[:1] in ("{", "["):
            return Fault(f"{char} after the end of the JSON", error.pos, "drop what follows the closing bracket")
    if error.msg.startswith("Expecting value") and char in ("}", "]"):
        return Fault(f"{char} where a value should be", error.pos, "a value or a bracket is missing before it")
    if error.msg.startswith("Expecting ',' delimiter") and char:
        if char in "]}:":
            other = "}" if char == "]" else "]"
            hint = f"a {other} or a comma is missing before it" if char != ":" else "a comma is missing before the key"
            return Fault(f"{char} where a comma or the end should be", error.pos, hint)
        if char.isdigit() and text[error.pos - 1] in "0-":
            return Fault("a number with a leading zero", error.pos - 1, "write it without, or in quotes as a text")
        return Fault("a comma is missing", error.pos, "put a comma between two values")
    if error.msg.startswith("Expecting ':' delimiter") and char:
        return Fault("a colon is missing after the key", error.pos, 'write "key": value')
    return None


_LOOKS: tuple[Callable[[str, json.JSONDecodeError], Fault | None], ...] = (
    _comment,
    _trailing_comma,
    _single_quotes,
    _odd_character,
    _backslash,
    _control_character,
    _word,
    _missing_mark,
)

# Documents: an array, or objects one after another, over several lines.


@dataclass(frozen=True, slots=True)
class Piece:
    """One item of a document, or the error that ends it."""

    number: int
    """Of the item, from 1."""
    start: int
    """Index of its first character."""
    end: int
    error: json.JSONDecodeError | None = None


_SPACE = re.compile(r"[ \t\r\n]*")


def pieces(text: str) -> Iterator[Piece]:
    """Split a document into its items: of an array, or of several values without one; stop at the first error.

    Raises:
        RecursionError: An item is nested too deeply for the parser.
    """
    decoder = json.JSONDecoder()
    in_array = text.lstrip().startswith("[")
    at = _after_space(text, 0)
    if in_array:
        at = _after_space(text, at + 1)
    number = 0
    while at < len(text) and not (in_array and number == 0 and text[at] == "]"):
        number += 1
        try:
            end = decoder.raw_decode(text, at)[1]
        except json.JSONDecodeError as error:
            yield Piece(number, at, at, error)
            return
        yield Piece(number, at, end)
        at = _after_space(text, end)
        if in_array:
            if text[at : at + 1] == "]":
                break
            if text[at : at + 1] != ",":
                yield Piece(number + 1, at, at, json.JSONDecodeError("Expecting ',' delimiter", text, at))
                return
            at = _after_space(text, at + 1)
    if in_array:
        if text[at : at + 1] != "]":
            yield Piece(number + 1, at, at, json.JSONDecodeError("Expecting value", text, at))
        elif (rest := _after_space(text, at + 1)) < len(text):
            yield Piece(number + 1, rest, rest, json.JSONDecodeError("Extra data", text, rest))


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()
