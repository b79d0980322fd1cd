"""Parse how long a gateway asks to wait, in all known forms, to seconds or None.

Forms are tried in a fixed order, independent of the protocol (gateways forward each other's forms), and the first
valid one is used: `retry-after-ms`, `retry-after`, a number of seconds or Google's `RetryInfo` in the body, a duration
in the message, a date in the message, the reset header of a dimension that is used up, the headers of an upstream that
the body quotes (OpenRouter) or that have a prefix (LiteLLM). Zero, negative, past and invalid values are ignored. A
hint is never shortened, not even a date in the year 9999: the rate limiter decides how to handle a long wait. There is
no clock here: dates are relative to the `date` header of the response, and ignored without one.

A date in a message often has no zone. In a Chinese text it is read as Beijing time (what Zhipu means), else as UTC,
which is not earlier than the time that a vendor east of Greenwich means.

Sources (read 2026-11-21): https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3 (Retry-After),
https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto (RetryInfo),
https://platform.openai.com/docs/guides/rate-limits (x-ratelimit-*, durations such as "6m0s"),
https://docs.anthropic.com/en/api/rate-limits (anthropic-ratelimit-*, RFC 3339),
https://openrouter.ai/docs/api-reference/limits (x-ratelimit-reset, milliseconds since 1970; error.metadata.headers),
https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers (RateLimit, in its versions 06 and 09).
"""

from __future__ import annotations

import email.utils
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

from convbatch.lazy_regex import lazy_regex

_UNIT_S: dict[str, float] = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0,
    "毫秒": 1e-3, "秒钟": 1.0, "秒": 1.0, "分钟": 60.0, "分": 60.0, "小时": 3600.0, "天": 86400.0,
}  # fmt: skip
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_GO_UNIT = r"ns|us|µs|μs|ms|s|m|h|d"
_GO_DURATION = lazy_regex(rf"(?:{_NUMBER}(?:{_GO_UNIT}))+", re.ASCII)
_GO_STEP = lazy_regex(rf"({_NUMBER})({_GO_UNIT})")
_PLAIN_NUMBER = lazy_regex(rf"{_NUMBER}", re.ASCII)

# In texts every repetition is bounded, so that a hostile message cannot take seconds.
_STATED = r"(?<![0-9.])[0-9]{1,12}(?:\.[0-9]{1,12})?"
_NEXT = r"[0-9]{1,12}(?:\.[0-9]{1,12})?"
_ENGLISH_UNIT = (
    r"(?:milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![A-Za-z])"
    r"|(?:ms|s|m|h|d)(?=[0-9])"
)
_ENGLISH = lazy_regex(
    r"(?:retry|try\s+again|retrying|wait|resets?|available|another\s+request)[\s_-]+(?:again\s+)?(?:(?:in|after|for)\s+)?(?:about\s+|another\s+)?"
    rf"((?:{_NEXT}\s?(?:{_ENGLISH_UNIT}),?\s?(?:and\s)?){{1,5}})",
    re.IGNORECASE,
)
_WORDED = lazy_regex(rf"(?:{_NEXT}\s?(?:{_ENGLISH_UNIT}),?\s?(?:and\s)?){{1,5}}", re.IGNORECASE)
_ENGLISH_STEP = lazy_regex(rf"({_NEXT})\s?({_ENGLISH_UNIT})", re.IGNORECASE)
_CHINESE_UNIT = "毫秒|秒钟|秒|分钟|分|小时|天"
_CHINESE_STEPS = rf"\s?(?:{_CHINESE_UNIT})\s?(?:{_NEXT}\s?(?:{_CHINESE_UNIT})\s?){{0,4}}"
_CHINESE = lazy_regex(rf"({_STATED}{_CHINESE_STEPS})(?:之?后|以后)|(?:等待|稍等|等)\s?({_NEXT}{_CHINESE_STEPS})")
_CHINESE_STEP = lazy_regex(rf"({_NEXT})\s?({_CHINESE_UNIT})")
# A quoted upstream body, or a header's name in prose: `"retryDelay": "12s"`, `Retry-After: 5`.
_QUOTED = lazy_regex(
    rf"(?:retry[-_]?delay|retry[-_ ]after)[\\\"']{{0,4}}\s?[:=]\s?[\\\"']{{0,4}}({_NEXT})"
    rf"(?:\s?({_ENGLISH_UNIT})|(?!\s?[0-9A-Za-z-]|\.[0-9]))",
    re.IGNORECASE,
)
# A date in a sentence counts only beside a word that says that something ends or begins again then.
_MOMENT = lazy_regex(
    r"(?<!\d)(\d{4})(?:-|/|年)(\d{1,2})(?:-|/|月)(\d{1,2})日?"
    r"(?:(?:T|\s|\sat\s|,\s)\s?(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d{1,9})?)?"
    r"\s?(Z\b|UTC\b|GMT\b|[+-]\d{2}:?\d{2}(?!\d)|)(?![0-9A-Za-z_:])|(?![0-9A-Za-z_:]|\s?\d|\sat\s\d|,\s\d))",
    re.IGNORECASE,
)
_HTTP_DATE = lazy_regex(r"(?:[A-Z][a-z]{2}, )?\d{1,2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} (?:GMT|UTC|[+-]\d{4})")
_CLOCK = lazy_regex(r"(?<![\d:-])(\d{1,2}):(\d{2})(?::(\d{2}))?\s?([ap]m)?\s?(?:UTC|GMT|Z)\b", re.IGNORECASE)
_BEFORE_MOMENT = lazy_regex(
    # not the end of a plan or of a key, which a refusal may mention
    r"(?:reset|again|retry|available|regain|restor|recover|resum|refresh|until|unblock|lift|重置|恢复|刷新|解除|等到"
    r"|(?<!plan )(?<!subscription )(?<!key )(?<!token )(?:renew|expires?))"
    r"[^.;。；]{0,40}$",
    re.IGNORECASE,
)
_AFTER_MOMENT = lazy_regex(
    r"^\s?(?:时|点)?(?:之?后|以后)?.{0,6}(?:重置|恢复|刷新|解除|解封|再试|重试|更新)|^\s?(?:之?后|以后)"
)
_CHINESE_CHARACTER = lazy_regex("[\u4e00-\u9fff]")
_BEIJING = timezone(timedelta(hours=8))
_ASKED_SECONDS = ("retry_after", "retry_after_seconds", "retryAfter", "retryAfterSeconds", "retry_after_s")
_RATE_LIMIT_PARAMETER = lazy_regex(r"\b(r|t|remaining|reset)\s?=\s?(\d{1,12})\b", re.IGNORECASE)
_TEXT_LIMIT = 8_000
_EPOCH_MS = 1e11
_EPOCH_S = 1e9


def retry_after_s(headers: Mapping[str, str], body: Any, message: str) -> float | None:
    """Return the wait that a response asks for.

    Args:
        headers: Names in lower case; dates are relative to `date`.
        body: The decoded JSON body, None when there is none.
        message: The error text, searched for a sentence such as "retry in 12.5s".

    Returns:
        Seconds > 0, or None without a valid hint.
    """
    sources = (
        lambda: _milliseconds(headers.get("retry-after-ms")),
        lambda: _retry_after(headers.get("retry-after"), headers),
        lambda: _asked_in_body(body),
        lambda: _retry_info(body),
        lambda: _sentence(message),
        lambda: _moment(message, headers),
        lambda: _exhausted(headers),
        lambda: _quoted_headers(body, headers),
        lambda: _passed_on(headers),
    )
    for source in sources:
        seconds = _sane(source())
        if seconds is not None:
            return seconds
    return None


def duration_s(text: str) -> float | None:
    """Parse a Go duration ("6m0s", "1.2s", "12ms") or a plain number of seconds; None for anything else."""
    text = text.strip()
    if _PLAIN_NUMBER.fullmatch(text):
        return float(text)
    if not _GO_DURATION.fullmatch(text):
        return None
    return _sum(_GO_STEP.findall(text))


def _sane(seconds: float | None) -> float | None:
    return seconds if seconds is not None and math.isfinite(seconds) and seconds > 0 else None


def _sum(steps: list[tuple[str, str]]) -> float:
    return sum(float(number) * _unit_s(unit) for number, unit in steps)


def _unit_s(unit: str) -> float:
    unit = unit.lower()
    if unit in _UNIT_S:
        return _UNIT_S[unit]
    return _UNIT_S["ms" if unit.startswith(("ms", "mil")) else unit[0]]


def _milliseconds(value: str | None) -> float | None:
    text = "" if value is None else value.strip()  # strip removes more kinds of white space than float
    return float(text) / 1000 if _PLAIN_NUMBER.fullmatch(text) else None


def _retry_after(value: str | None, headers: Mapping[str, str]) -> float | None:
    """Read a number of seconds, a duration in words, or a date; of doubled values the longest."""
    if value is None:
        return None
    value = value.strip().strip('"')
    dates = _HTTP_DATE.findall(value)
    if len(dates) > 1:
        return _longest([_until(date, headers) for date in dates])
    seconds = _stated_duration(value)
    if seconds is None:
        seconds = _until(value, headers)
    elif seconds >= _EPOCH_S:  # a moment, where a wait belongs
        now = _date(headers.get("date", ""))
        seconds = None if now is None else (seconds / 1000 if seconds >= _EPOCH_MS else seconds) - now
    if seconds is not None or "," not in value:
        return seconds
    return _longest([_stated_duration(part) for part in value.split(",")])


def _longest(waits: list[float | None]) -> float | None:
    """Return the longest wait; None when one of them is not readable."""
    known = [wait for wait in waits if wait is not None]
    return max(known) if known and len(known) == len(waits) else None


def _stated_duration(text: str) -> float | None:
    """Parse a Go duration, a plain number, or a number with a unit in words: "30 seconds"."""
    text = text.strip()
    seconds = duration_s(text)
    if seconds is None and len(text) <= 80 and _WORDED.fullmatch(text):
        return _sum(_ENGLISH_STEP.findall(text))
    return seconds


def _until(value: str, headers: Mapping[str, str]) -> float | None:
    """Return seconds from the `date` header to a date in HTTP or RFC 3339 format."""
    then, now = _date(value), _date(headers.get("date", ""))
    return None if then is None or now is None else then - now


def _date(text: str) -> float | None:
    text = text.strip()
    for read in (email.utils.parsedate_to_datetime, datetime.fromisoformat):
        try:
            when = read(text)
            if when.tzinfo is None:
                when = when.replace(tzinfo=UTC)
            return when.timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):  # parsedate raises different exceptions
            continue
    return None


def _retry_info(body: Any) -> float | None:
    for detail in _details(body):
        if "retryDelay" in detail:
            seconds = _proto_duration(detail["retryDelay"])
            if seconds is not None:
                return seconds
    return None


def _asked_in_body(body: Any) -> float | None:
    """Return the seconds in a field of the error, or of its metadata, that is named after the header."""
    for holder in _error_objects(body):
        for key in _ASKED_SECONDS:
            value = holder.get(key)
            seconds = duration_s(value) if isinstance(value, str) else _number(value)
            if _sane(seconds) is not None:
                return seconds
    return None


def _error_objects(body: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the error, its metadata, and the body around it."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return
    error = body.get("error")
    if isinstance(error, dict):
        yield error
        if isinstance(error.get("metadata"), dict):
            yield error["metadata"]
    yield body


def _quoted_headers(body: Any, headers: Mapping[str, str]) -> float | None:
    """Return the wait that the headers of an upstream ask for, which OpenRouter puts into `metadata.headers`."""
    for holder in _error_objects(body):
        quoted = holder.get("headers")
        if isinstance(quoted, dict):
            named = {str(name).lower(): str(value) for name, value in quoted.items()}
            named["date"] = headers.get("date", named.get("date", ""))
            waits = (_milliseconds(named.get("retry-after-ms")), _retry_after(named.get("retry-after"), named))
            found = next((wait for wait in waits if _sane(wait) is not None), None)
            return _exhausted(named) if found is None else found
    return None


def _passed_on(headers: Mapping[str, str]) -> float | None:
    """Return the wait that the upstream of LiteLLM asks for: its headers come with a prefix."""
    prefix = "llm_provider-"
    named = {name.removeprefix(prefix): value for name, value in headers.items() if name.startswith(prefix)}
    wait = _sane(_milliseconds(named.get("retry-after-ms")))
    return _retry_after(named.get("retry-after"), named) if wait is None else wait


def _details(body: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error", body) if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    if isinstance(details, dict):
        details = [details]
    if isinstance(details, list):
        yield from (detail for detail in details if isinstance(detail, dict))


def _proto_duration(value: Any) -> float | None:
    """Parse a `google.protobuf.Duration`: "12s" in JSON, or the object that some gateways send."""
    if isinstance(value, str):
        return duration_s(value)
    if isinstance(value, dict):
        seconds, nanos = (_number(value.get(key, 0)) for key in ("seconds", "nanos"))
        return None if seconds is None or nanos is None else seconds + nanos / 1e9
    return _number(value)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _sentence(message: str) -> float | None:
    message = message[:_TEXT_LIMIT]
    if found := _ENGLISH.search(message):
        return _sum(_ENGLISH_STEP.findall(found[1]))
    if found := _CHINESE.search(message):
        return _sum(_CHINESE_STEP.findall(found[1] or found[2]))
    if found := _QUOTED.search(message):
        return _sum([(found[1], found[2] or "s")])
    return None


def _moment(message: str, headers: Mapping[str, str]) -> float | None:
    """Return seconds to a date or a time of day (UTC) that a sentence names as the end of a limit."""
    now = _date(headers.get("date", ""))
    message = message[:_TEXT_LIMIT]
    if now is None or not any(character.isdigit() for character in message):
        return None
    for found in _MOMENT.finditer(message):
        if _ends_a_limit(message, found):
            zone = _BEIJING if _CHINESE_CHARACTER.search(message) else UTC
            then = _moment_s(found, zone)
            return None if then is None else then - now
    for found in _HTTP_DATE.finditer(message):
        if _ends_a_limit(message, found):
            return _until(found[0], headers)
    for found in _CLOCK.finditer(message):
        if _ends_a_limit(message, found):
            return _next_time_of_day(found, now)
    return None


def _ends_a_limit(message: str, found: re.Match[str]) -> bool:
    before, after = message[max(0, found.start() - 60) : found.start()], message[found.end() : found.end() + 20]
    return bool(_BEFORE_MOMENT.search(before) or _AFTER_MOMENT.search(after))


def _moment_s(found: re.Match[str], zone: tzinfo) -> float | None:
    """Return Unix seconds of a date with or without time; its own zone counts, else `zone`."""
    year, month, day, hour, minute, second, stated = found.groups()
    if stated:
        zone = UTC if stated.upper() in ("Z", "UTC", "GMT") else _offset(stated)
    try:
        when = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=zone
        )
        return when.timestamp()
    except (ValueError, OverflowError):
        return None


def _offset(stated: str) -> tzinfo:
    sign = -1 if stated[0] == "-" else 1
    minutes = sign * (int(stated[1:3]) * 60 + int(stated[-2:]))
    return timezone(timedelta(minutes=minutes)) if abs(minutes) < 24 * 60 else UTC


def _next_time_of_day(found: re.Match[str], now: float) -> float | None:
    hour, minute, second = int(found[1]), int(found[2]), int(found[3] or 0)
    half = (found[4] or "").lower()
    if half:
        hour = hour % 12 + (12 if half == "pm" else 0)
    if hour > 23 or minute > 59 or second > 59:
        return None
    return (hour * 3600 + minute * 60 + second - now) % 86400


def _exhausted(headers: Mapping[str, str]) -> float | None:
    """Return the longest reset of all dimensions whose remaining count is exactly 0 (Azure sends -1 for unknown)."""
    waits: list[float] = []
    for name, value in headers.items():
        reset = _reset_name(name)
        if reset is None or _number(value) != 0:
            continue
        wait = _sane(_reset_s(headers.get(reset, headers.get(f"{reset}-after")), headers))
        if wait is not None:
            waits.append(wait)
    waits += _exhausted_policies(headers.get("ratelimit", ""))
    return max(waits, default=None)


def _exhausted_policies(value: str) -> Iterator[float]:
    """Yield the resets of used-up policies in a `RateLimit` field: `"default";r=0;t=30`, `remaining=0, reset=30`."""
    value = value[:_TEXT_LIMIT]
    for item in [value] if "remaining" in value.lower() else value.split(","):
        stated = {name.lower(): int(number) for name, number in _RATE_LIMIT_PARAMETER.findall(item)}
        remaining, reset = stated.get("r", stated.get("remaining")), stated.get("t", stated.get("reset"))
        if remaining == 0 and reset:
            yield float(reset)


def _reset_name(remaining: str) -> str | None:
    """Return the name of the reset header that belongs to a `remaining` header."""
    if "ratelimit" not in remaining or "remaining" not in remaining:
        return None
    return remaining.replace("remaining", "reset")


def _reset_s(value: str | None, headers: Mapping[str, str]) -> float | None:
    if value is None:
        return None
    seconds = duration_s(value)
    if seconds is None:
        return _until(value, headers)
    if seconds < _EPOCH_S or not _PLAIN_NUMBER.fullmatch(value.strip()):
        return seconds
    now = _date(headers.get("date", ""))
    return None if now is None else seconds / (1000 if seconds > _EPOCH_MS else 1) - now
