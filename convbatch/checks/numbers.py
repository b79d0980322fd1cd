"""The last number written in a reply, in the notations that models use."""

from __future__ import annotations

from decimal import Decimal

from convbatch.checks.safe_regex import SEARCH_LIMIT_S, CheckTimeout, compile_pattern

_PLAIN_NUMBER = str.maketrans("０１２３４５６７８９＋－−﹣", "0123456789+---")
_NUMBER = (
    r"(?:(?<![\w)\]])[+-]|(?<=负)-?|)"  # a sign follows no word character: in 3-5 and A-1047 it is a dash
    r"(?:(?:\d{1,3}(?:[,'’_\u00a0\u2009\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\d.])\.\d+)"
    r"(?:[eE][+-]?\d{1,6}(?![\w.]))?"
)
_WIDE_MARK = r"(?<=[０-９])[，．](?=[０-９])"


def last_number(text: str) -> Decimal | None:
    """Return the last number written in digits; None when there is none.

    Commas, apostrophes, underscores or narrow spaces may separate thousands, digits may be full-width, and 负 is a
    minus sign. A comma that is not followed by three digits separates two numbers.

    Raises:
        CheckTimeout: The search took longer than `SEARCH_LIMIT_S`.
    """
    found = None
    narrow = compile_pattern(_WIDE_MARK).sub(lambda mark: "," if mark[0] == "，" else ".", text)
    narrow = narrow.translate(_PLAIN_NUMBER)
    try:
        for match in compile_pattern(_NUMBER).finditer(narrow, timeout=SEARCH_LIMIT_S):
            found = match
    except TimeoutError:
        raise CheckTimeout(f"no number was found within {SEARCH_LIMIT_S:g} s in {len(text):,} characters") from None
    if found is None:
        return None
    value = Decimal("".join(sign for sign in found[0] if sign in "+-.eE" or sign.isdecimal()))
    return -value if narrow[: found.start()].endswith("负") and not found[0].startswith("-") else value
