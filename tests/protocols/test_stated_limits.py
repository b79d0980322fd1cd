from __future__ import annotations

from typing import Any

import pytest

from convbatch.protocols.stated_limits import counted_by, stated_limits
from tests.support.tables import each

GEMINI = (
    b'{"error":{"code":429,"details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{'
    b'"quotaMetric":"generativelanguage.googleapis.com/generate_content_free_tier_requests",'
    b'"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier",'
    b'"quotaDimensions":{"location":"global","model":"gemini-2.5-pro"},"quotaValue":"5"}]}]}}'
)


@each(
    ("headers", "requests", "tokens"),
    [
        pytest.param(
            {"X-RateLimit-Limit-Requests": "100", "x-ratelimit-limit-tokens": "30000"}, (100, 60), (30000, 60)
        ),
        pytest.param({"x-ratelimit-limit-requests": "60", "x-ratelimit-reset-requests": "1s"}, (60, 60), None),
        # Groq: requests a day under the names of OpenAI
        pytest.param({"x-ratelimit-limit-requests": "1000", "x-ratelimit-reset-requests": "1m26.4s"}, None, None),
        pytest.param({"x-ratelimit-limit-requests": "-1", "x-ratelimit-limit-tokens": "0"}, None, None),  # Azure
        pytest.param({"x-ratelimit-limit-requests": "unlimited"}, None, None),
        pytest.param(
            {"anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-input-tokens-limit": "40000"},
            (50, 60),
            (40000, 60),
        ),
        pytest.param({"anthropic-ratelimit-output-tokens-limit": "8000"}, None, None),
        pytest.param({"x-ratelimit-limit-req-minute": "30", "x-ratelimit-limit-tokens-minute": "9"}, (30, 60), (9, 60)),
        pytest.param({"x-ratelimit-limit-requests-day": "14400"}, None, None),
        pytest.param({"x-ratelimit-limit-requests-second": "5"}, (5, 1), None),
        pytest.param({"ratelimit-policy": '"default";q=100;w=60'}, (100, 60), None),
        pytest.param({"x-ratelimit-limit": '100, 10;w=1, 100;w=60;name="b"'}, (100, 60), None),
        pytest.param({"ratelimit-policy": '"day";q=5000;w=86400'}, None, None),
        pytest.param({"x-ratelimit-limit": "100"}, None, None),  # of an unknown window
        pytest.param({"llm_provider-x-ratelimit-limit-requests": "3"}, None, None),  # of an upstream
        pytest.param({"content-type": "application/json"}, None, None),
    ],
)
def test_limits_in_headers(headers: dict[str, str], requests: Any, tokens: Any):
    found = stated_limits(headers)
    assert (None, None) if found is None else tuple(found) == (requests, tokens)
    assert found is not None or (requests, tokens) == (None, None)


@each(
    ("message", "requests", "tokens"),
    [
        pytest.param(
            "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29000,"
            " Requested 2000. Please try again in 2s.",
            None,
            (30000, 60),
        ),
        pytest.param(
            "Rate limit reached for default-gpt-3.5-turbo in organization X on requests per min. Limit: 3 / min.",
            (3, 60),
            None,
        ),
        pytest.param("Rate limit reached on requests per day (RPD): Limit 200, Used 200, Requested 1.", None, None),
        pytest.param(
            "This request would exceed your organization's rate limit of 50,000 input tokens per minute",
            None,
            (50000, 60),
        ),
        pytest.param("Too many requests", None, None),
    ],
)
def test_limits_in_the_text_of_a_refusal(message: str, requests: Any, tokens: Any):
    found = stated_limits({}, message)
    assert (found or (None, None)) == (requests, tokens)


def test_the_quota_in_a_refusal_of_google():
    found = stated_limits({}, "Quota exceeded", GEMINI)
    assert found is not None
    assert found.requests == (5, 60.0)


@each(
    ("message", "counted"),
    [
        pytest.param("Too Many Requests", "requests"),
        pytest.param("Rate limit reached on tokens per min (TPM): Limit 30000", "tokens"),
        pytest.param(
            "Quota exceeded for metric: g/generate_content_free_tier_input_token_count, limit: 250000", "tokens"
        ),
        pytest.param("触发TPM限流,请稍后重试", "tokens"),
        pytest.param("Rate limit reached on requests per min (RPM)", "requests"),
        pytest.param("当前分组并发过高", "concurrency"),
        pytest.param("Number of concurrent connections has exceeded your rate limit", "concurrency"),
    ],
)
def test_what_a_refusal_counts(message: str, counted: str):
    assert counted_by(message) == counted
