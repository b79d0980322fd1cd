"""Redaction of secrets (keys and proxy passwords), by value and by shape.

Every log, exception, journal and report passes a `Redactor`. It knows values, not where they come from
(`config/credentials.py`). `looks_like_key` and `display` are for values that are not registered as secrets, such as a
key pasted into a file.
"""

from __future__ import annotations

import base64
import functools
import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self

SHORTEST_IN_BODY = 12
"""Shorter values are not replaced in reply bodies: a key `ollama` must not change replies."""
_SHORTEST_PART = 4
"""Shorter values are found as whole words only: a key `x` must not redact every x of a log."""
_SHORTEST_BASE64 = 6
_SHORTEST_CUT = 6
"""Minimum length of a truncated key: many keys begin with the same few letters."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret value, and the name that is shown instead."""

    name: str
    value: str = field(repr=False)


class Redactor:
    """Replaces secrets by `[redacted:NAME]`, also as encoded in JSON, URLs, HTML, base64 and hex.

    It finds whole values only: redact before you truncate.
    """

    def __init__(self, secrets: Iterable[Secret] = (), *, rewrite_bodies: bool = True) -> None:
        """Args: secrets: The secrets. rewrite_bodies: False only reports hits in bodies (gateways with auth "none")."""
        self._shared = _Shared(_Known.of(secrets))
        self._rewrite_bodies = rewrite_bodies

    def marking(self) -> Redactor:
        """Return a redactor that only reports hits in bodies, for gateways with auth "none"; shares all secrets."""
        marking = Redactor(rewrite_bodies=False)
        marking._shared = self._shared
        return marking

    def add(self, secret: Secret) -> None:
        """Redact this secret, too, from now on; may be called from another thread."""
        self._shared.known = _Known.of((*self._shared.known.secrets, secret))

    def text(self, text: str) -> str:
        """Return a text for a log, an error, a header or a report, without secrets."""
        known = self._shared.known
        if not known.secrets:
            return text
        plain = text.encode("utf-8", "surrogatepass")
        return known.text.replace(plain).decode("utf-8", "surrogatepass") if known.text.hits(plain) else text

    def body(self, body: bytes) -> tuple[bytes, bool]:
        """Return a reply body without keys, and whether a value was found and left in it.

        Called for every reply: without a hit it costs a few substring searches and copies nothing.
        """
        known = self._shared.known
        left = bool(known.short) and any(value in body for value in known.short)
        body = self._without_cut_key(body)
        if known.body.hits(body):
            if self._rewrite_bodies:
                return known.body.replace(body), left
            return body, True
        return body, left

    def _without_cut_key(self, body: bytes) -> bytes:
        """Return a truncated body without the beginning of a key at its end."""
        for secret in self._shared.known.secrets if self._rewrite_bodies else ():
            value = _utf8(secret.value)
            begins = body.rfind(value[:_SHORTEST_CUT], -len(value)) if len(value) >= SHORTEST_IN_BODY else -1
            if begins >= 0 and value.startswith(body[begins:]):
                return body[:begins] + f"[redacted:{secret.name}]".encode()
        return body


class _Known(NamedTuple):
    """Secrets, and the searches for them."""

    secrets: tuple[Secret, ...]
    short: tuple[bytes, ...]
    """Values that are not replaced in bodies."""
    text: _Search
    body: _Search

    @classmethod
    def of(cls, secrets: Iterable[Secret]) -> Self:
        # Longest first: if one value is a prefix of another, the longer one is meant.
        ordered = tuple(sorted({s for s in secrets if s.value}, key=lambda s: (-len(s.value), s.name)))
        long = [s for s in ordered if len(s.value) >= SHORTEST_IN_BODY]
        short = tuple(s.value.encode() for s in ordered if len(s.value) < SHORTEST_IN_BODY)
        text = _Search(ordered)
        return cls(ordered, short, text, text if len(long) == len(ordered) else _Search(long))


@dataclass(slots=True)
class _Shared:
    """What a redactor knows, shared with its marking copies; replaced as a whole."""

    known: _Known


class _Search:
    """Search for secrets in all their encodings: cheap tests first, then one regular expression."""

    def __init__(self, secrets: Iterable[Secret]) -> None:
        self._names: dict[str, bytes] = {}
        self._patterns: list[bytes] = []
        needles: dict[bytes, None] = {}
        alphabet: dict[str, None] = {}
        longest = 0
        for number, secret in enumerate(secrets):
            cores = (*_base64_cores(secret.value), *_hex_forms(secret.value))
            needles.update(dict.fromkeys((_utf8(secret.value), *cores)))
            alphabet.update(dict.fromkeys(secret.value))
            longest = max(longest, len(secret.value))
            self._names[f"s{number}"] = f"[redacted:{secret.name}]".encode()
            forms = b"|".join((_any_escaping(secret.value), *map(re.escape, cores)))
            self._patterns.append(b"(?P<s%d>%s)" % (number, forms))
        self._needles = tuple(needles)
        self._escapes = _escapes_of(alphabet)
        self._reach = longest * _LONGEST_ESCAPE

    @functools.cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        """The whole expression: compiling it takes milliseconds, and most processes never have a hit."""
        return re.compile(b"|".join(self._patterns) or b"(?!)")

    def hits(self, body: bytes) -> bool:
        for needle in self._needles:
            if needle in body:
                # A value of one to three characters counts only as a whole word, which the expression checks.
                return len(needle) >= _SHORTEST_PART or self._pattern.search(body) is not None
        return any(sign in body and self._hits_near(body, escape) for sign, escape in self._escapes)

    def _hits_near(self, body: bytes, escape: re.Pattern[bytes]) -> bool:
        """Search near each escaped character of a secret only: the expression costs 100 ns per byte."""
        done = 0
        for match in escape.finditer(body):
            if match.end() + self._reach <= done:
                continue
            start, done = max(0, match.start() - self._reach), match.end() + 16 * self._reach
            if self._pattern.search(body, start, done):
                return True
        return False

    def replace(self, body: bytes) -> bytes:
        return self._pattern.sub(lambda match: self._names[match.lastgroup or ""], body)


_LONGEST_ESCAPE = 12
"""Maximum bytes of one escaped character."""
_Escape = tuple[bytes, re.Pattern[bytes]]


def _escapes_of(alphabet: Iterable[str]) -> tuple[_Escape, ...]:
    r"""Return a marker and an expression for each way of escaping; without a match a text has no escaped secret.

    Only escapes of these characters count: Gemini writes every `<` and `'` as \u00.., and prose has many percent signs.
    Each expression starts with fixed text, which makes its search fast.
    """
    chars = list(alphabet)
    rests = {
        b"%": [_digits(_utf8(char)[:1].hex()) for char in chars],
        b"\\u00": [_digits(f"{ord(char):02x}") for char in chars if ord(char) < 0x100],
        b"\\u": [_digits(_utf16(char)[:2].hex()) for char in chars if ord(char) >= 0x100],
        b"&#": [_decimal_or_hex(ord(char)) for char in chars],
        b"&": [html.escape(char)[1:].encode() for char in chars if html.escape(char) != char],
        b"\\": [re.escape(char.encode()) for char in chars if _is_sign(char)],
        b"+": [b"" for char in chars if char == " "],
    }
    return tuple(
        (sign.rstrip(b"#"), re.compile(re.escape(sign) + b"(?:" + b"|".join(rest) + b")"))
        for sign, rest in rests.items()
        if rest
    )


def _any_escaping(value: str) -> bytes:
    """Return an expression for the value with any of its characters escaped in any usual way."""
    pattern = b"".join(_character(char) for char in value)
    if len(value) < _SHORTEST_PART:
        return rb"(?<![A-Za-z0-9_])" + pattern + rb"(?![A-Za-z0-9_])"
    return pattern


@functools.cache
def _character(char: str) -> bytes:
    return b"(?:" + b"|".join((re.escape(_utf8(char)), *_escaped(char))) + b")"


def _escaped(char: str) -> list[bytes]:
    """Return expressions for a character as escaped in URLs, JSON (also nested JSON), HTML and source code."""
    pairs = [_utf16(char)[at : at + 2].hex() for at in range(0, len(_utf16(char)), 2)]
    forms = [
        b"".join(b"%" + _digits(f"{byte:02x}") for byte in _utf8(char)),
        b"".join(rb"\\+u" + _digits(pair) for pair in pairs),
        b"&#" + _decimal_or_hex(ord(char)),
    ]
    if html.escape(char) != char:
        forms.append(re.escape(html.escape(char).encode()))
    if _is_sign(char):
        forms.append(rb"\\+" + re.escape(char.encode()))
    if char == " ":
        forms.append(rb"\+")
    return forms


def _utf8(char: str) -> bytes:
    return char.encode("utf-8", "surrogatepass")


def _utf16(char: str) -> bytes:
    return char.encode("utf-16-be", "surrogatepass")


def _is_sign(char: str) -> bool:
    """Return whether a backslash may escape this character; common characters of keys are excluded, for speed."""
    return char.isascii() and not char.isalnum() and char not in "-_."


def _decimal_or_hex(code: int) -> bytes:
    return b"(?:0*%d|[xX]0*%s);" % (code, _digits(f"{code:x}"))


def _digits(text: str) -> bytes:
    return "".join(f"[{char}{char.upper()}]" if char.isalpha() else char for char in text).encode()


def _base64_cores(value: str) -> tuple[bytes, ...]:
    """Return the base64 of the value at each of the three possible offsets (as in `user:KEY`)."""
    cores: dict[bytes, None] = {}
    plain = _utf8(value)
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + plain)
        core = encoded[(0, 2, 3)[offset] : (offset + len(plain)) * 8 // 6]
        if len(core) >= _SHORTEST_BASE64:
            cores[core] = None
            cores[core.translate(bytes.maketrans(b"+/", b"-_"))] = None
    return tuple(cores)


def _hex_forms(value: str) -> tuple[bytes, ...]:
    """Return the value in hex; nothing for a very short one, which would match any number."""
    digits = _utf8(value).hex()
    return (digits.encode(), digits.upper().encode()) if len(value) >= _SHORTEST_PART else ()


_watched: dict[Secret, None] = {}
_sink: Redactor = Redactor()


def watch(secrets: Iterable[Secret]) -> None:
    """Register secrets that `redact` removes from now on, in the whole process."""
    global _sink  # a process has one stderr
    _watched.update(dict.fromkeys(secrets))
    _sink = Redactor(_watched)


def redact(text: str) -> str:
    """Return a text for the terminal or a log without registered secrets."""
    return _sink.text(text)


KEY_SHAPE = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-[\w*-]{8,}|AIza[\w-]{16,}|AQ\.[\w-]{20,}|ya29\.[\w.-]{8,}|(?:gsk|hf|ghp|xai|pk|rk)[-_][A-Za-z0-9]{16,}"
    r"|AKIA[A-Z0-9]{12,}|eyJ[\w-]{10,}\.[\w-]{10,}|(?:Bearer|Basic)\s+\S{8,})"
)
"""The shapes of well-known kinds of API keys."""
_OPAQUE = re.compile(r"(?=\S*\d)(?=\S*[A-Za-z])[\w+/=-]{20,}")


def looks_like_key(text: str) -> bool:
    """Return whether a text contains something with the shape of a well-known kind of API key."""
    return KEY_SHAPE.search(text) is not None


_USER_OF_URL = re.compile(r"(?<=://)[^\s/@]+@")
_OPAQUE_WORD = re.compile(r"(?<![\w/+=-])(?=[\w+=-]*\d)(?=[\w+=-]*[A-Za-z])[\w+=-]{24,}(?![\w/])")


def hide_key_shapes(text: str) -> str:
    """Return a text of another program without what looks like a key or another long random word."""
    return _OPAQUE_WORD.sub("(hidden)", KEY_SHAPE.sub("(hidden)", _USER_OF_URL.sub("(hidden)@", text)))


def display(value: object) -> str:
    """Return a value for a message: short, and hidden if it may be a secret."""
    if isinstance(value, str):
        if looks_like_key(value) or _OPAQUE.fullmatch(value.strip()):
            return "(not shown: it may be a key)"
        return repr(value) if len(value) <= 80 else repr(value[:77] + "...")
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    return str(value).lower() if isinstance(value, bool) else str(value)
