"""Strike secrets and personal data out of a dialogue, by placeholders such as `<email-1>`, `<key-1>` and `<card-1>`.

The same value has the same placeholder everywhere in one dialogue (texts, ids, tags, `meta`, calls and their results),
and another dialogue numbers anew, so that nobody can be followed from one to the next. What is found is decided by
shape only: names, addresses, birthdays, IP addresses and national phone numbers without a usual form stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from convbatch.errors import Problem
from convbatch.redaction import KEY_SHAPE


class _Kind(NamedTuple):
    """One kind of value."""

    name: str
    pattern: re.Pattern[str]
    needs: tuple[str, ...] = ()
    """A text without any of these has none, which is cheap to see."""
    is_one: Callable[[str], bool] = lambda _text: True
    same: Callable[[str], str] = lambda text: text
    """What two ways of writing one value have in common."""


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def _is_card(text: str) -> bool:
    digits = _digits(text)
    if not 13 <= len(digits) <= 19 or digits[0] not in "23456" or len(set(digits)) < 2:
        return False
    doubled = (int(digit) * (1 + at % 2) for at, digit in enumerate(reversed(digits)))
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    plain = text.replace(" ", "").upper()
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1


def _is_chinese_id(text: str) -> bool:
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(digit) * weight for digit, weight in zip(text[:17], weights, strict=True))
    return "10X98765432"[total % 11] == text[17].upper()


def _is_phone(text: str) -> bool:
    return 8 <= len(_digits(text)) <= 15


def _is_long(text: str) -> bool:
    """Whether a word after "password" and the like is a secret: prose has no digits in its words."""
    return len(text) >= 6


_AT = r"(?:@|%40|\\u0040|&#64;|&commat;)"
_START, _END = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
_SECRET_NAME = (
    r"(?:pass(?:word|wd|phrase)|passwd|pwd|secret|(?:api|access|private|account)[_ -]?key"
    r"|token|credentials?|signature|sig|密码|口令|密钥)"
)

_KINDS = (
    _Kind(
        "key",
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)", re.DOTALL
        ),
        ("PRIVATE KEY",),
    ),
    _Kind("password", re.compile(r"(?<=://)[^\s/@:]{0,256}:[^\s/@]{1,256}(?=@)"), ("://",)),
    _Kind(
        "key",
        re.compile(
            _START + r"(?:github_pat_\w{16,}|gh[pousr]_[A-Za-z0-9]{16,}|gl(?:pat|ptt|rt)-[\w-]{16,}"
            r"|xox[abeprs]-[\w-]{8,}|xapp-[\w-]{8,}"
            r"|npm_[A-Za-z0-9]{16,}|pypi-[\w-]{16,}|SG\.[\w-]{10,}\.[\w-]{10,}|(?:sk|rk|pk)_(?:live|test)_\w{8,}|whsec_\w{8,}"
            r"|A(?:KIA|SIA|ROA|IDA)[A-Z0-9]{12,}|r8_\w{16,}|dop_v1_\w{16,}|AGE-SECRET-KEY-\w+|lsv2_\w{16,}|nvapi-[\w-]{16,}"
            r"|(?:pk|sk)-lf-[\w-]{8,}|GOCSPX-[\w-]{10,}|ya29\.[\w.-]{8,}|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)"
        ),
    ),
    _Kind(
        "key",
        re.compile(r"(?i:" + _START + r"(?:Bearer|Basic))\s+(?=[^\s\"']*\d)([\w.+/=~-]{12,})"),
        ("earer", "asic", "EARER", "ASIC"),
    ),
    _Kind("key", re.compile(KEY_SHAPE.pattern.replace(r"|(?:Bearer|Basic)\s+\S{8,}", ""))),
    _Kind(
        "secret",
        re.compile(
            r"(?i)" + _SECRET_NAME + r"[\"'\\]{0,3}\s{0,3}(?:[:=：]|是)\s{0,3}[\"'\\]{0,3}"
            r"((?![<{$])[^\s\"'\\,;，。；<>&]{6,512})"
        ),
        is_one=_is_long,
    ),
    _Kind(
        "secret",
        re.compile(r"(?i)" + _SECRET_NAME + r"\s+(?:is|was)\s+[\"']?(?=[^\s\"',;]*\d)([^\s\"',;<>]{6,512})"),
        is_one=_is_long,
    ),
    _Kind(
        "email",
        re.compile(
            r"(?<![A-Za-z0-9._%+'-])[A-Za-z0-9._%+'-]+" + _AT + r"(?:[A-Za-z0-9-]+\.)+"
            r"(?:[A-Za-z]{2,63}|xn--[A-Za-z0-9-]+)"
        ),
        ("@", "40", "64;", "&commat"),
        same=lambda text: re.sub(_AT, "@", text).casefold(),
    ),
    _Kind("email", re.compile(r"(?<![\w.+-])[\w.+-]+@(?:[\w-]+\.)+[^\W\d_]{2,63}"), ("@",), same=str.casefold),
    _Kind(
        "iban",
        re.compile(_START + r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?" + _END),
        is_one=_is_iban,
        same=lambda text: text.replace(" ", ""),
    ),
    _Kind(
        "id",
        re.compile(_START + r"[1-9]\d{5}(?:19|20)\d{2}[01]\d[0-3]\d{4}[\dXx]" + _END),
        is_one=_is_chinese_id,
        same=str.upper,
    ),
    _Kind("card", re.compile(_START + r"\d(?:[ -]?\d){12,18}" + _END), is_one=_is_card, same=_digits),
    _Kind("id", re.compile(_START + r"(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}" + _END)),
    _Kind(
        "phone",
        re.compile(r"(?<![\w+])(?:\+|00)[1-9]\d{0,3}(?:[ .()/-]{0,2}\d){6,13}" + _END),
        ("+", "00"),
        _is_phone,
        _digits,
    ),
    _Kind("phone", re.compile(_START + r"1[3-9]\d(?:[ -]?\d{4}){2}" + _END), same=_digits),
    _Kind("phone", re.compile(r"(?<![\w-])(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}(?![\w-])"), same=_digits),
)
KINDS = tuple(dict.fromkeys(kind.name for kind in _KINDS))
"""Names in placeholders."""


class StrikeOut:
    """Strikes values out of one dialogue."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}

    def value(self, value: Any) -> Any:
        """Return a JSON value with every text and key struck; inline media content stays as it is."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, Mapping):
            is_media = "mime_type" in value and "data" in value
            return {
                self.text(key): item if is_media and key == "data" else self.value(item) for key, item in value.items()
            }
        if isinstance(value, int) and not isinstance(value, bool) and _is_card(str(value)):
            return self._placeholder("card", str(value))
        return value

    def text(self, text: str) -> str:
        """Return a text with everything of the known kinds replaced."""
        if text.startswith("data:") and ";base64," in text[:200]:
            return text
        for kind in _KINDS:
            if not kind.needs or any(needle in text for needle in kind.needs):
                text = kind.pattern.sub(lambda match, kind=kind: self._struck(kind, match), text)
        return text

    def _struck(self, kind: _Kind, match: re.Match[str]) -> str:
        group = 1 if match.re.groups else 0
        found = match[group]
        if not kind.is_one(found):
            return match[0]
        start, end = match.start(group) - match.start(), match.end(group) - match.start()
        return match[0][:start] + self._placeholder(kind.name, kind.same(found)) + match[0][end:]

    def _placeholder(self, kind: str, value: str) -> str:
        known = self._known.get((kind, value))
        if known is None:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            known = self._known[kind, value] = f"<{kind}-{self._counts[kind]}>"
        return known

    def problem(self, problem: Problem) -> Problem:
        """Return a problem with its texts struck; its place names a file of this machine."""
        what, found, hint = (
            None if text is None else self.text(text) for text in (problem.what, problem.found, problem.hint)
        )
        return replace(problem, what=what or "", found=found, hint=hint)

    @property
    def counts(self) -> dict[str, int]:
        """How many values of each kind were found."""
        return dict(self._counts)
