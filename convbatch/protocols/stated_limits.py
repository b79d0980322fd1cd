"""The limits that a gateway states with a response: in headers of any response, in the text or details of a refusal.

Only limits over a minute or less are returned: those of a day are not a matter of pace. `counted_by` says what a
refusal was about. Headers with a prefix of their own, such as those of an upstream that a proxy passes on, are not
read: its quota is shared with others.

Sources (read 2026-11-27): https://platform.openai.com/docs/guides/rate-limits (x-ratelimit-limit-requests, -tokens),
https://docs.anthropic.com/en/api/rate-limits (anthropic-ratelimit-requests-limit, -input-tokens-limit),
https://console.groq.com/docs/rate-limits (the same names as OpenAI's, but requests a day: the reset shows it),
https://docs.mistral.ai, https://inference-docs.cerebras.ai (x-ratelimit-limit-tokens-minute),
https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers (RateLimit-Policy, also as `x-ratelimit-limit`),
https://ai.google.dev/gemini-api/docs/rate-limits (quotaId, quotaValue).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from convbatch.lazy_regex import lazy_regex
from convbatch.protocols.retry_after import duration_s
from convbatch.reply import StatedLimit, StatedLimits

Dimension = Literal["requests", "tokens", "concurrency"]
"""What a gateway counts."""


_LONGEST_WINDOW_S = 60.0
_LONGEST_RESET_S = 70.0
"""A minute's limit is never reset later than this; a longer reset belongs to a day."""
_UNITS_S = {"sec": 1.0, "min": 60.0, "hou": 3600.0, "day": 86_400.0}
_OF_A_DIMENSION = lazy_regex(
    r"x-ratelimit-limit-(?P<a>requests?|req|tokens?|input-tokens)(?:-(?P<unit>second|minute|hour|day))?"
    r"|anthropic-ratelimit-(?P<b>requests|tokens|input-tokens)-limit"
)
_POLICY_NAMES = frozenset({"ratelimit-policy", "ratelimit-limit", "x-ratelimit-limit", "x-ratelimit-policy"})
_POLICY = lazy_regex(r"(?:\bq\s{0,3}=\s{0,3}|(?<![\w.=]))(\d{1,9})\s{0,3};[^,]{0,80}?\bw\s{0,3}=\s{0,3}(\d{1,6})")
_COUNT = lazy_regex(r"[1-9]\d{0,9}", re.ASCII)
_TEXT_LIMIT = 20_000

# "on tokens per min (TPM): Limit 30000, Used …", "on requests per min. Limit: 3 / min", "limit of 50,000 input tokens
# per minute"
_WORDED = lazy_regex(
    r"\bon (?P<a>requests|tokens) per (?P<unit_a>sec|min|hour|day)\w{0,4}\s?(?:\([A-Z]{2,5}\))?[:.]?"
    r"\s?Limit:? (?P<count_a>\d[\d,]{0,12})"
    r"|\blimit of (?P<count_b>\d[\d,]{0,12}) (?:input )?(?P<b>requests|tokens) per (?P<unit_b>sec|min|hour|day)",
    re.IGNORECASE,
)
_GOOGLE = lazy_regex(
    r'"quotaId"\s{0,4}:\s{0,4}"(?P<id>[\w-]{1,120}PerMinute[\w-]{0,120})"[^{}]{0,400}(?:\{[^{}]{0,400}\}[^{}]{0,200})?'
    r'"quotaValue"\s{0,4}:\s{0,4}"?(?P<count>\d{1,9})'
)
_CONCURRENCY = lazy_regex(r"concurren|simultaneous|in parallel|并发|同时", re.IGNORECASE)
_REQUESTS = lazy_regex(
    r"requests? per|_requests\b|RequestsPer|(?<![A-Za-z])RP[MS](?![A-Za-z])|每分钟请求|请求次数", re.IGNORECASE
)
_TOKENS = lazy_regex(
    r"tokens?[ /_]?(?:per|/|limit|quota|rate|count)|TokensPer|(?<![A-Za-z])[IO]?TPM(?![A-Za-z])|token.{0,6}限",
    re.IGNORECASE,
)


def stated_limits(headers: Mapping[str, str], message: str = "", body: bytes | None = None) -> StatedLimits | None:
    """Return the limits that a response states; None if it states none.

    Args:
        headers: Of the response, names in any case.
        message: The error text of a refusal.
        body: The body of a refusal.
    """
    requests, tokens = _in_headers(headers)
    if message or body:
        worded_requests, worded_tokens = _in_refusal(message, body or b"")
        requests, tokens = worded_requests or requests, worded_tokens or tokens
    return StatedLimits(requests, tokens) if requests or tokens else None


def counted_by(message: str) -> Dimension:
    """Return what a refusal of a rate limit is about; requests, if it does not say."""
    text = message[:_TEXT_LIMIT]
    if _CONCURRENCY.search(text):
        return "concurrency"
    if _TOKENS.search(text) and not _REQUESTS.search(text):
        return "tokens"
    return "requests"


def _in_headers(headers: Mapping[str, str]) -> tuple[StatedLimit | None, StatedLimit | None]:
    requests: StatedLimit | None = None
    tokens: StatedLimit | None = None
    for name, value in headers.items():
        name = name.lower()
        if "ratelimit" not in name:
            continue
        if name in _POLICY_NAMES:
            requests = _slower(requests, *_policies(value))
        elif (found := _OF_A_DIMENSION.fullmatch(name)) is not None:
            limit = _limit(found, value, headers)
            if "token" in (found["a"] or found["b"]):
                tokens = _slower(tokens, limit)
            else:
                requests = _slower(requests, limit)
    return requests, tokens


def _limit(found: re.Match[str], value: str, headers: Mapping[str, str]) -> StatedLimit | None:
    if not _COUNT.fullmatch(value.strip()):
        return None  # Azure sends -1 and 0 for unknown
    if found["unit"]:
        return _of_window(int(value), _UNITS_S[found["unit"][:3]])
    reset = found[0].replace("-limit", "-reset", 1)
    reset_s = duration_s(next((value for name, value in headers.items() if name.lower() == reset), ""))
    return None if reset_s is not None and reset_s > _LONGEST_RESET_S else StatedLimit(int(value), 60.0)


def _policies(value: str) -> list[StatedLimit | None]:
    return [_of_window(int(count), float(window)) for count, window in _POLICY.findall(value[:1000])]


def _in_refusal(message: str, body: bytes) -> tuple[StatedLimit | None, StatedLimit | None]:
    requests: StatedLimit | None = None
    tokens: StatedLimit | None = None
    for found in _WORDED.finditer(message[:_TEXT_LIMIT]):
        side = "a" if found["a"] else "b"
        limit = _of_window(int(found[f"count_{side}"].replace(",", "")), _UNITS_S[found[f"unit_{side}"][:3].lower()])
        if found[side].lower() == "tokens":
            tokens = _slower(tokens, limit)
        else:
            requests = _slower(requests, limit)
    for found in _GOOGLE.finditer(body[:_TEXT_LIMIT].decode("utf-8", "replace")):
        limit = _of_window(int(found["count"]), 60.0)
        if "Token" in found["id"]:
            tokens = _slower(tokens, limit)
        else:
            requests = _slower(requests, limit)
    return requests, tokens


def _of_window(count: int, window_s: float) -> StatedLimit | None:
    return StatedLimit(count, window_s) if count >= 1 and 1.0 <= window_s <= _LONGEST_WINDOW_S else None


def _slower(*limits: StatedLimit | None) -> StatedLimit | None:
    known = [limit for limit in limits if limit is not None]
    return min(known, key=lambda limit: limit.most / limit.window_s, default=None)
