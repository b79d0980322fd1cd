"""Durations as people write them on the command line; what looks like one of another form is named in the hint."""

from __future__ import annotations

import math
import re
import unicodedata

from convbatch.errors import SetupError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_seconds(text: str | None, option: str, examples: str = "90s, 15m or 2h") -> float | None:
    """Return the seconds of a duration as people write it: 90s, 50ms, 1.5m, 2h.

    Args:
        text: The duration; None is none.
        option: Where it was given.
        examples: What a message offers in place of a text that is no duration.

    Raises:
        SetupError: Not a positive duration, or a number without its unit.
    """
    if text is None:
        return None
    match = _DURATION.fullmatch(text)
    if match is not None and not match[2]:
        raise SetupError(
            f"{option} {match[1]}: no unit", hint=f"write {match[1]}s for seconds, {match[1]}ms or {match[1]}m"
        )
    value = float(match[1]) * _UNITS.get(match[2], math.nan) if match else math.nan
    if not (math.isfinite(value) and value > 0):
        hint = _clock_hint(text)
        if hint is None:
            plain = _plain_duration(text)
            hint = f"write {examples}" if plain is None or plain == text.strip() else f"did you mean {plain}?"
        above_0 = "" if value is math.nan or value else " above 0"
        raise SetupError(f"{option} needs a duration{above_0}", found=repr(text), hint=hint)
    return value


_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*")
_CHINESE_UNITS = {
    "毫秒": "ms",
    "秒钟": "s",
    "秒": "s",
    "分钟": "m",
    "分": "m",
    "小时": "h",
    "时": "h",
    "天": "d",
    "日": "d",
}
_SPOKEN_UNITS = {"hour": "h", "hr": "h", "minute": "m", "min": "m", "second": "s", "sec": "s", "day": "d"}


def _clock_hint(text: str) -> str | None:
    """Return what to write in place of `1:30` or `01:30:00`; None for another form."""
    parts = unicodedata.normalize("NFKC", text).strip().split(":")
    if not 2 <= len(parts) <= 3 or not all(re.fullmatch(r"\d{1,4}", part) for part in parts):
        return None
    first, second, *third = map(int, parts)
    if third:
        return f"a duration has one unit: write {first * 3600 + second * 60 + third[0]}s"
    return f"a duration has one unit: write {first * 60 + second}m for hours and minutes, or {first * 60 + second}s"


def _plain_duration(text: str) -> str | None:
    """Return a duration of another form as `parse_seconds` reads it: 90m for `1h30m`; None for no duration."""
    plain = unicodedata.normalize("NFKC", text).strip().lower().replace(",", ".")
    for spoken, unit in _CHINESE_UNITS.items():
        plain = plain.replace(spoken, unit)
    plain = re.sub(r"([a-z]{3,}?|hr)s?\b", lambda match: _SPOKEN_UNITS.get(match[1], match[0]), plain)
    parts = re.fullmatch(r"(\d+)\s*([dhm])\s*(\d+)\s*([hms]?)", plain)
    if parts is None:
        match = _DURATION.fullmatch(plain)
        return plain.replace(" ", "") if match is not None and match[2] in _UNITS else None
    smaller = {"d": "h", "h": "m", "m": "s"}[parts[2]]
    if parts[4] not in ("", smaller):
        return None
    return f"{int(parts[1]) * round(_UNITS[parts[2]] / _UNITS[smaller]) + int(parts[3])}{smaller}"
