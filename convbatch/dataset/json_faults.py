"""What is wrong with a text that is not JSON: the fault behind the parser's words, where it is, how to mend it.

The parser says where it stopped; the fault is often the character before, or one that only looks right. Nothing here
knows files or dialogues.
"""

from __future__ import annotations

import contextlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from convbatch.lazy_regex import lazy_regex


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
    starts = ("//", "/*", "#", "--", "<!--", *(() if text[: error.pos].strip() else (";", "%")))
    if not text.startswith(starts, error.pos):
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


_QUOTES = "“”„‟«»〝〞＂「」『』″"
_CLOSING = lazy_regex(rf"[{_QUOTES}](?=\s*[,:}}\]])")
_SINGLE_QUOTES = "'‘’‚‛`´＇′"
_ESCAPE_HINT = r"double each backslash that is meant as such (\\), or use / in paths"


def _single_quotes(text: str, error: json.JSONDecodeError) -> Fault | None:
    char = text[error.pos : error.pos + 1]
    if not char or char not in "'`" or text.startswith("```", error.pos):
        return None
    hint = 'write " around keys and texts; a Python dict becomes JSON with json.dumps(…)'
    return Fault(f"JSON needs double quotes: {char}", error.pos, hint if char == "'" else hint.split(";")[0])


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
    plain = _LOOKALIKES.get(char, plain)
    if len(plain) == 1 and plain.isascii() and not plain.isalpha():
        return Fault(f"{name.replace('fullwidth', 'full-width')} {code}", at, f"write {plain}")
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
    "；": ",",
    "【": "[",
    "】": "]",
    "〔": "[",
    "〕": "]",
    "−": "-",
    "–": "-",
}


def _backslash(text: str, error: json.JSONDecodeError) -> Fault | None:
    if not error.msg.startswith("Invalid \\"):
        return None
    at = text.rfind("\\", 0, error.pos + 2)
    shown = text[at : at + 2]
    if shown == r"\'":
        return Fault(rf"a backslash that starts no escape of JSON ({shown})", at, "drop it: ' needs none in JSON")
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


_NUMBER = lazy_regex(r"[+-]?\.?\d[\w.%:/-]{0,40}(?![\w.%:/-])")
_START_OF_NUMBER = lazy_regex(r"[+-]?[\w.-]*\Z")
_NUMBER_CHARS = 40
_JSON_NUMBER = lazy_regex(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")


def _number(text: str, error: json.JSONDecodeError) -> Fault | None:
    """Return the fault in a number of another language, such as 0x10, .5, +1, 1_000, or 0,5."""
    near = max(0, error.pos - _NUMBER_CHARS)  # a search back over a long line takes quadratic time
    if error.msg.startswith("Expecting property name"):
        whole, fraction = (
            re.search(r"[:\[,]\s*(-?\d+),\Z", text[near : error.pos]),
            re.compile(r"\d+").match(text, error.pos),
        )
        if fraction is None:
            return None
        if whole is None:
            return Fault("a key without quotes", error.pos, f'write "{fraction[0]}"')
        return Fault("a decimal comma", error.pos - 1, f"write {whole[1]}.{fraction[0]}")
    before = _START_OF_NUMBER.search(text[near : error.pos])
    found = None if before is None else _NUMBER.match(text, near + before.start())
    if found is None or _JSON_NUMBER.fullmatch(found[0]) or error.msg.startswith("Expecting ':'"):
        return None
    plain = _plain_number(found[0])
    hint = "put it in quotes as a text, or write a plain number" if plain is None else f"write {plain}"
    if re.match(r"[+-]?0\d", found[0]):
        return Fault("a number with a leading zero", found.start(), f"{hint}, or put it in quotes as a text")
    return Fault(f"a number that JSON does not have ({found[0]})", found.start(), hint)


def _plain_number(word: str) -> str | None:
    """Return a number of another language as JSON writes it; None for what is no number there either."""
    plain = word.removeprefix("+").replace("_", "")
    if re.fullmatch(r"-?0[xXoObB][\da-fA-F]+", plain):
        with contextlib.suppress(ValueError):
            return str(int(plain, 0))
    plain = re.sub(r"^(-?)\.", r"\g<1>0.", re.sub(r"\.(?=$|[eE])", ".0", plain))
    plain = re.sub(r"^(-?)0+(?=\d)", r"\1", plain)
    return plain if _JSON_NUMBER.fullmatch(plain) else None


_ELLIPSIS = lazy_regex(r"\.{2,}|…")
_PREFIX = lazy_regex(r"[^{\[\"]{1,80}(?=\[?\{\s*[\"'])")


def _stray_text(text: str, error: json.JSONDecodeError) -> Fault | None:
    """Return what else stands where a value should: a code fence, a prefix of the line, a text without quotes."""
    if not error.msg.startswith("Expecting value"):
        return None
    rest = text[error.pos :]
    if not text[: error.pos].strip():
        if rest.startswith("```"):
            return Fault("a code fence of Markdown", error.pos, "remove the line")
        if _PREFIX.match(rest):
            return Fault("text before the object", error.pos, "remove what is before it")
        return None
    if _ELLIPSIS.match(rest):
        return Fault("… is not JSON", error.pos, "remove it, or write out what it stands for")
    word = re.match(r"\w[^\"',:{}\[\]\r\n]*", rest)
    if word is None:
        return None
    if re.match(r"[a-zA-Z]{1,2}[\"']", rest):
        return Fault(f"a prefix before a quote ({word[0]})", error.pos, "remove it: JSON has plain texts only")
    return Fault("a text without quotes", error.pos, f"write {json.dumps(word[0].strip()[:40], ensure_ascii=False)}")


def _no_comma(text: str, at: int) -> Fault:
    """Return what stands where a comma or the end should be."""
    char = text[at]
    if char in "]}:":
        other = "}" if char == "]" else "]"
        hint = f"a {other} or a comma is missing before it" if char != ":" else "a comma is missing before the key"
        return Fault(f"{char} where a comma or the end should be", at, hint)
    if char == ";":
        return Fault("; where a comma should be", at, "write ,")
    if char == "+":
        return Fault("JSON cannot join texts with +", at, "write them as one text")
    if char == '"' and text.endswith('""', 0, at):
        return Fault("three quotes in a row", at - 2, r'write one ", and \" inside a text')
    return Fault("a comma is missing", at, "put a comma between two values")


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
        return _no_comma(text, error.pos)
    if error.msg.startswith("Expecting ':' delimiter") and char:
        if sign := re.match(r"=>|=|->|,", text[error.pos :]):
            return Fault(f"{sign[0]} where a colon should be", error.pos, "write :")
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
    _number,
    _stray_text,
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


_SPACE = lazy_regex(r"[ \t\r\n]*")


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
