"""Large whole numbers as people write them: 2M, 500k, 1_000_000."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from convbatch.errors import SetupError

_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}
_MEANT = {**_FACTORS, "thousand": 10**3, "million": 10**6, "mio": 10**6, "billion": 10**9, "万": 10**4, "w": 10**4,
          "亿": 10**8}  # fmt: skip
_COUNT = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)([kmbg]?)")
_OTHER_FORM = re.compile(r"(\d[\d.,]*)(e\d{1,2})?([a-z万亿]*)")
MOST = 10**15
_HINT = "write 2M, 500k or 1_000_000"


def read_count(text: str) -> int | None:
    """Return the number of a text such as 2M, 1.5M, 500k or 1_000_000; None unless it is whole, and at least 1."""
    match = _COUNT.fullmatch(re.sub(r"(?<=\d)[_,](?=\d{3}(?!\d))", "", text.strip().lower()))
    if match is None:
        return None
    value = Decimal(match[1]) * _FACTORS[match[2]]
    return int(value) if value == value.to_integral_value() and 1 <= value <= MOST else None


def parse_count(text: str, option: str) -> int:
    """Return the number of an option's value.

    Raises:
        SetupError: It is none, or is not whole and at least 1.
    """
    count = read_count(text)
    if count is None and re.fullmatch(r"\d+", text.strip()) and int(text.strip()[:40]) > MOST:
        raise SetupError(f"{option} is too large", found=text[:40], hint=f"at most {MOST:,}; leave it out for no cap")
    if count is None:
        raise SetupError(f"{option} needs a whole number of at least 1", found=repr(text), hint=count_hint(text))
    return count


def count_hint(text: str) -> str:
    """Return what to write for a number in another form, such as `2 million`, `20万` or `1e6`."""
    plain = re.sub(r"[\s_']|(?:tokens?|requests?|calls?|tok)$", "", unicodedata.normalize("NFKC", text).strip().lower())
    match = _OTHER_FORM.fullmatch(plain)
    if match is None or (unit := _MEANT.get(match[3] if match[3] in _MEANT else match[3].removesuffix("s"))) is None:
        return _HINT
    number = match[1].replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", match[1]) else match[1]
    number = number.replace(",", ".")
    if number.count(".") > 1:
        return _HINT
    value = Decimal(number + (match[2] or "")) * unit
    return f"did you mean {int(value)}?" if 1 <= value <= MOST and value == value.to_integral_value() else _HINT
