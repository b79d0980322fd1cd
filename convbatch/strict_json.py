"""Strict JSON: what the standard library and orjson accept or change silently, and JSON does not allow.

All readers of JSON from outside refuse `NaN` and `Infinity` and report deep nesting as an error. Beyond that the rules
differ by source, so they are arguments: a gateway's body is kept as received, a dataset must survive a round trip.
Every error is a `ValueError`; what a user reads about it is worded by the caller.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import orjson

MAX_DEPTH = 256
"""Levels of arrays and objects in what users write."""
MAX_RECEIVED_DEPTH = 257
"""Levels in a gateway's body. Not the same number: stored bodies of earlier versions must still parse."""
# Digits become 0, all else NUL: nineteen zeros in a row are then an integer that may not fit 64 bits.
_DIGITS_TO_ZERO = bytes(48 if 48 <= byte <= 57 else 0 for byte in range(256))
_LONG_NUMBER = b"0" * 19


class StrictJsonError(ValueError):
    """JSON that a parser could read but that breaks a rule; a syntax error is a `json.JSONDecodeError`."""


class TooDeep(StrictJsonError):
    """Nesting beyond the limit, or beyond what the parser can follow."""

    def __init__(self) -> None:
        super().__init__("nested too deeply")


class NotANumber(StrictJsonError):
    """`NaN`, `Infinity` or `-Infinity`, in `word`."""

    def __init__(self, word: str) -> None:
        super().__init__(f"{word} is not JSON")
        self.word = word


class NumberTooLarge(StrictJsonError):
    """A number, in `digits`, that is not finite as a float, or an integer beyond 64 bits."""

    def __init__(self, digits: str, *, is_integer: bool) -> None:
        super().__init__(f"{digits[:60]} is too large")
        self.digits = digits
        self.is_integer = is_integer


class RepeatedKey(StrictJsonError):
    """A key that occurs more than once in one object, with all its values."""

    def __init__(self, key: str, values: list[Any]) -> None:
        super().__init__(f"the key {key!r} occurs more than once in one object")
        self.key = key
        self.values = values


def parse(text: str, *, finite: bool = False, int64: bool = False, unique_keys: bool = False) -> Any:
    """Parse one JSON value.

    Args:
        text: JSON; integers keep all their digits.
        finite: Refuse a float that becomes infinite, such as `1e999`.
        int64: Refuse an integer that fits neither a signed nor an unsigned 64-bit integer.
        unique_keys: Refuse an object with a repeated key; otherwise the last value counts.

    Raises:
        json.JSONDecodeError: A syntax error.
        StrictJsonError: A broken rule.
    """
    try:
        return json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite_float if finite else None,
            parse_int=_int64 if int64 else None,
            object_pairs_hook=_unique_keys if unique_keys else None,
        )
    except RecursionError:
        raise TooDeep from None


def parse_received(body: bytes) -> Any:
    """Parse a gateway's body as received: big integers and lone surrogates survive, a byte order mark is skipped.

    Raises:
        ValueError: Not JSON, not UTF-8, or nested deeper than `MAX_RECEIVED_DEPTH`.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "depth limit" in str(error):  # the other parser would recurse until the interpreter's limit
            raise TooDeep from None
        value = parse(body.decode("utf-8-sig"))
    else:
        if may_hold_big_integer(body):
            value = parse(body.decode("utf-8-sig"))  # orjson turns integers beyond 64 bits into floats
    refuse_deep(body, value, MAX_RECEIVED_DEPTH)
    return value


def may_hold_big_integer(text: bytes) -> bool:
    """Return whether a text has 19 digits in a row, without which no integer exceeds 64 bits."""
    return _LONG_NUMBER in text.translate(_DIGITS_TO_ZERO)


def refuse_deep(text: bytes, value: Any, levels: int = MAX_DEPTH) -> None:
    """Raise `TooDeep` for a value, parsed from `text`, that is nested deeper than `levels`."""
    # Cheap guards first: only a text with that many openers, and as many closers, can nest that deep.
    if len(text) > 2 * levels and text.count(b"[") + text.count(b"{") > levels and _is_deeper_than(value, levels):
        raise TooDeep


def _is_deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return any(isinstance(item, dict | list) for item in level)


def _children(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []


def _refuse_constant(word: str) -> NoReturn:
    raise NotANumber(word)


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise NumberTooLarge(digits, is_integer=False)
    return value


def _int64(digits: str) -> int:
    if len(digits) <= 20 and -(2**63) <= (value := int(digits)) < 2**64:
        return value
    raise NumberTooLarge(digits, is_integer=True)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keyed = dict(pairs)
    if len(keyed) == len(pairs):
        return keyed
    seen: set[str] = set()
    repeated = next(key for key, _ in pairs if key in seen or seen.add(key))
    raise RepeatedKey(repeated, [value for key, value in pairs if key == repeated])
