"""Every form of a retry hint is parsed to a number of seconds."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convbatch.protocols.retry_after import duration_s, retry_after_s
from tests.conftest import examples
from tests.support.tables import each

NOW = {"date": "Sat, 21 Nov 2026 23:30:00 GMT"}
NOW_S = 1795303800


def retry_info(delay: Any) -> dict[str, Any]:
    return {"error": {"details": [{"@type": "…Help"}, {"@type": "…RetryInfo", "retryDelay": delay}]}}


@each(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1200"}, 1.2),
        ({"retry-after-ms": "0.5"}, 0.0005),
        ({"retry-after-ms": "soon"}, None),
        ({"retry-after": "120"}, 120.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "12s"}, 12.0),
        ({"retry-after": "30 seconds"}, 30.0),
        ({"retry-after": "1 minute"}, 60.0),
        ({"retry-after": "1 minute and 30 secs"}, 90.0),
        ({"retry-after": '"30"'}, 30.0),
        ({"retry-after": "30, 30"}, 30.0),
        ({"retry-after": "5,5"}, 5.0),
        ({"retry-after": "5, 20 seconds"}, 20.0),
        ({"retry-after": "5, never"}, None),
        ({**NOW, "retry-after": "Sat, 21 Nov 2026 23:30:34 GMT, Sat, 21 Nov 2026 23:30:40 GMT"}, 40.0),
        ({**NOW, "retry-after": "Sat, 21 Nov 2026 23:30:34 GMT"}, 34.0),
        ({**NOW, "retry-after": "Saturday, 21-Nov-26 23:30:34 GMT"}, 34.0),
        ({**NOW, "retry-after": "Sat Nov 21 23:30:34 2026"}, 34.0),
        ({**NOW, "retry-after": "Sun, 22 Nov 2026 07:30:34 +0800"}, 34.0),
        ({**NOW, "retry-after": "2026-11-21T23:31:00Z"}, 60.0),
        ({**NOW, "retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 251606996999.0),
        ({**NOW, "retry-after": "Sat, 21 Nov 2026 23:29:00 GMT"}, None),
        ({**NOW, "retry-after": "Sat, 99 Nov 2026 23:29:00 GMT"}, None),
        ({"retry-after": "Sat, 21 Nov 2026 23:30:34 GMT"}, None),
        ({"retry-after": "Sat, 21 Nov 2026 23:30:34 GMT", "date": "today"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e3"}, None),
        ({"retry-after": "1_000"}, None),
        ({"retry-after": "１２"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "999999999"}, 999999999.0),
        ({**NOW, "retry-after": str(NOW_S + 34)}, 34.0),
        ({**NOW, "retry-after": f"{NOW_S + 34}000"}, 34.0),
        ({**NOW, "retry-after": str(NOW_S - 34)}, None),
        ({"retry-after": str(NOW_S)}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_retry_after_headers_are_parsed(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, None, "") == seconds


@each(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "12ms"}, 0.012),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7.5"}, 7.5),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset-after": "2.5"}, 2.5),
        ({"x-ratelimit-remaining-tokens": "1", "x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"x-ratelimit-remaining-tokens": "-1", "x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"x-ratelimit-remaining-tokens": "0"}, None),
        ({"x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "later"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1m30s",
                "x-ratelimit-remaining-audio": "5",
                "x-ratelimit-reset-audio": "1h",
            },
            90.0,
        ),
        (
            {
                **NOW,
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2026-11-21T23:30:17Z",
            },
            17.0,
        ),
        ({**NOW, "x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{NOW_S + 5}000"}, 5.0),
        ({**NOW, "x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{NOW_S + 5}"}, 5.0),
        ({**NOW, "x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{NOW_S - 5}"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{NOW_S + 5}"}, None),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "3"}, 3.0),
        ({"ratelimit": '"default";r=0;t=30'}, 30.0),
        ({"ratelimit": '"default";r=5;t=30'}, None),
        ({"ratelimit": '"minute";r=0;t=30, "day";r=5;t=9000'}, 30.0),
        ({"ratelimit": '"minute";r=0;t=30,"day";r=0;t=9000'}, 9000.0),
        ({"ratelimit": "limit=100, remaining=0, reset=30"}, 30.0),
        ({"ratelimit": "limit=100, remaining=1, reset=30"}, None),
        ({"ratelimit": "later"}, None),
    ],
)
def test_reset_headers_count_only_for_exhausted_limits(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, None, "") == (None if seconds is None else pytest.approx(seconds))


@each(
    ("delay", "seconds"),
    [
        ("12s", 12.0),
        ("0.5s", 0.5),
        ("48.805646254s", 48.805646254),
        ({"seconds": 3, "nanos": 500000000}, 3.5),
        ({"seconds": "3"}, 3.0),
        (7, 7.0),
        ("0s", None),
        ("-3s", None),
        ("soon", None),
        ({"seconds": "x"}, None),
        ({"seconds": 10**400}, None),
        (True, None),
        (None, None),
        ([], None),
        (float("nan"), None),
    ],
)
def test_retry_info_is_read(delay: Any, seconds: float | None) -> None:
    assert retry_after_s({}, retry_info(delay), "") == seconds
    assert retry_after_s({}, [retry_info(delay)], "") == seconds


@each("body", [None, [], {}, "text", {"error": "text"}, {"error": {"details": "x"}}, {"error": {"details": [1, None]}}])
def test_a_body_without_details_has_no_hint(body: Any) -> None:
    assert retry_after_s({}, body, "") is None


@each(
    ("message", "seconds"),
    [
        ("Quota exceeded.\nPlease retry in 12.482s. (request id: 2026)", 12.482),
        ("Please try again in 1.2s.", 1.2),
        ("Please try again in 12ms. Visit https://x", 0.012),
        ("Please try again in 1m2s", 62.0),
        ("Please try again in 7m12.5s.", 432.5),
        ("try again in 6m0s", 360.0),
        ("RETRY IN 2h3m4.5s", 7384.5),
        ("retry after 5 seconds", 5.0),
        ("Retry-After 5 minutes", 300.0),
        ("Please wait 30 seconds before", 30.0),
        ("try again in 1 minute and 30 seconds", 90.0),
        ("try again in 1 hour, 2 minutes", 3720.0),
        ("the limit resets in 45 sec", 45.0),
        ("You can make another request in 8 seconds", 8.0),
        ("available again in 2 minutes", 120.0),
        ("Retry-After: 7", 7.0),
        ("retry_after=3", 3.0),
        ('upstream said {"retryDelay": "12s"}', 12.0),
        ('upstream said {\\"retryDelay\\": \\"3.5s\\"}', 3.5),
        ("请在12秒后重试", 12.0),
        ("请 5 分钟后再试", 300.0),
        ("请等待 1 分 30 秒", 90.0),
        ("500毫秒之后重试", 0.5),
        ("您已达到请求数限制：1分钟内最多请求60次", None),
        ("try again in 3 months", None),
        ("retry in 20 requests", None),
        ("retry after 2026-01-01", None),
        ("Retry-After: 2026-01-01", None),
        ("Please try again later.", None),
        ("retry in 0s", None),
        ("limit: 10, model: gemini-2.5-flash", None),
        ("", None),
    ],
)
def test_a_sentence_in_the_message_is_read(message: str, seconds: float | None) -> None:
    assert retry_after_s({}, None, message) == (None if seconds is None else pytest.approx(seconds))


@each(
    ("message", "seconds"),
    [
        ("usage limit exceeded, 5-hour usage limit reached, resets at 2026-11-21T23:31:00Z (2056)", 60.0),
        ("Your limit will reset at 2026-11-21 23:31:00", 60.0),
        ("Your limit will reset at 2026-11-21 23:31", 60.0),
        ("available again at 2026-11-22 07:31:00 +0800 CST", 60.0),
        ("limit resets on 2026-11-22", 1800.0),
        ("You will regain access on 2026-11-22 at 00:00 UTC.", 1800.0),
        ("Try again after Sat, 21 Nov 2026 23:31:00 GMT", 60.0),
        ("Free quota used (30 requests / 5h). Resets at 23:45 UTC.", 900.0),
        ("Resets at 1:30 AM UTC", 7200.0),
        ("已达到 5 小时的使用上限。您的限额将在 2026-11-22 07:31:00 重置。", 60.0),
        ("您的限额将于2026-11-22 07:31:00重置", 60.0),
        ("请于 2026年11月22日 07:31 后重试", 60.0),
        ("2026/11/22 07:31:00 恢复使用", 60.0),
        ("将于 2026-11-21T23:31:00Z 恢复", 60.0),
        ("Your limit will reset at 2026-11-21 23:29:00", None),
        ("Your limit was set on 2026-11-22 07:31:00", None),
        ("Model gpt-x-2026-11-22 is rate limited, try again later", None),
        ("try again in version 2027-99-99", None),
        ("Rate limit exceeded. Your plan renews on 2027-01-01.", None),
        ("Rate limit exceeded. Your key expires on 2027-01-01.", None),
        ("Resets at 25:00 UTC", None),
        ("Resets at 23:45", None),
    ],
)
def test_a_date_in_the_message_counts_from_the_date_of_the_response(message: str, seconds: float | None) -> None:
    assert retry_after_s(NOW, None, message) == (None if seconds is None else pytest.approx(seconds))
    assert retry_after_s({}, None, message) is None


@each(
    ("headers", "body", "seconds"),
    [
        (NOW, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{NOW_S + 5}000"}, 5.0),
        (NOW, {"X-RateLimit-Remaining": 0, "X-RateLimit-Reset": (NOW_S + 5) * 1000}, 5.0),
        ({}, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{NOW_S + 5}000", "Date": NOW["date"]}, 5.0),
        ({}, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{NOW_S + 5}000"}, None),
        ({}, {"Retry-After": "7"}, 7.0),
        (NOW, {"X-RateLimit-Remaining": "3", "X-RateLimit-Reset": f"{NOW_S + 5}000"}, None),
        ({}, ["Retry-After: 7"], None),
    ],
)
def test_headers_that_openrouter_quotes_are_read(headers: dict[str, str], body: Any, seconds: float | None) -> None:
    error = {"error": {"message": "m", "code": 429, "metadata": {"headers": body, "provider_name": None}}}
    assert retry_after_s(headers, error, "") == (None if seconds is None else pytest.approx(seconds))


@each(
    ("body", "seconds"),
    [
        ({"error": {"retry_after": 3}}, 3.0),
        ({"error": {"message": "m"}, "retry_after": "2.5"}, 2.5),
        ({"error": {"metadata": {"retry_after_seconds": 12}}}, 12.0),
        ({"retryAfterSeconds": 0}, None),
        ({"retry_after": None}, None),
        ({"retry_after": True}, None),
    ],
)
def test_seconds_in_the_body_are_read(body: Any, seconds: float | None) -> None:
    assert retry_after_s({}, body, "") == seconds


def test_the_first_form_with_a_hint_is_used() -> None:
    headers = {
        "retry-after-ms": "1200",
        "retry-after": "2",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "5s",
    }
    body, message = retry_info("3s"), "retry in 4s"
    waits: list[float | None] = []
    for gone in (None, "retry-after-ms", "retry-after"):
        headers.pop(gone or "", None)
        waits.append(retry_after_s(headers, body, message))
    waits += [retry_after_s(headers, None, message), retry_after_s(headers, None, "")]
    assert waits == [1.2, 2.0, 3.0, 4.0, 5.0]


def test_a_form_without_a_hint_falls_back_to_the_next() -> None:
    assert retry_after_s({"retry-after-ms": "0", "retry-after": "never"}, retry_info("?"), "retry in 4s") == 4.0


@each(
    ("text", "seconds"),
    [("6m0s", 360.0), ("1.5µs", 1.5e-6), ("1h1m", 3660.0), ("3", 3.0), ("3 s", None), ("s", None), ("-1s", None)],
)
def test_durations_are_read(text: str, seconds: float | None) -> None:
    assert duration_s(text) == (None if seconds is None else pytest.approx(seconds))


@each(
    "message",
    [
        "retry " * 9000,
        "retry in " + "1s " * 9000,
        "1秒" * 9000,
        "1" * 20000,
        "wait 1m" * 9000,
        "等1分 " * 9000,
        "retry-after" * 9000,
        "resets at 2026-11-22 " * 900,
        "resets 2026-11-22T11:11" * 900,
        "0:00 " * 2000,
    ],
)
def test_a_hostile_message_is_parsed_quickly(message: str) -> None:
    begun = time.perf_counter()
    retry_after_s({**NOW, "retry-after": message[:8000], "ratelimit": message}, retry_info(message[:8000]), message)
    assert time.perf_counter() - begun < 0.5


HEADERS = st.dictionaries(
    st.sampled_from(
        ["retry-after", "retry-after-ms", "date", "x-ratelimit-remaining", "x-ratelimit-reset", "ratelimit"]
    ),
    st.text(max_size=20) | st.sampled_from(["0", "1e9", "99999999999", NOW["date"], "1 second, 2", '"d";r=0;t=1']),
)
BODIES = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["error", "details", "retryDelay", "seconds", "metadata", "headers", "retry_after"]),
            inner,
            max_size=2,
        )
    ),
)


@given(
    HEADERS,
    BODIES,
    st.text(alphabet='0123456789.smhd retryafin:秒后="', max_size=40)
    | st.from_regex(r"resets at \d{4}-\d{1,2}-\d{1,2}( \d{1,2}:\d{2})?[+-]?\d{0,4}", fullmatch=True),
)
@example({"retry-after-ms": "0\x1f"}, None, "")
@settings(max_examples=examples(400), deadline=None)
def test_a_hint_is_a_finite_wait_or_none(headers: dict[str, str], body: Any, message: str) -> None:
    seconds = retry_after_s(headers, body, message)
    assert seconds is None or 0 < seconds < float("inf")
