"""Map error responses to `Failure`, in the same way for all protocols.

The same way, because gateways respond in any format on any route: an OpenAI error on a Gemini path, Google's array
around an error, a vLLM error without its wrapper, a proxy's web page. Codes and texts take precedence over the HTTP
status, because gateways remap statuses; error types that new-api forks rename are ignored. `engine/retry.py` decides
whether to send again: `retryable` only means that another attempt may succeed.

Order: quota or billing (by code, text, a daily window); a code or text with one meaning; the status. The source of
each group of codes is beside it (all read 2026-11-21).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from convbatch.protocols.decoding import body_excerpt
from convbatch.protocols.retry_after import retry_after_s
from convbatch.protocols.wire import ErrorInBody, MalformedReply, decode_json, encode_json
from convbatch.reply import NO_USAGE, ErrorKind, Failure, Scope, Usage

_QUOTA_CODES = frozenset(
    {
        # https://platform.openai.com/docs/guides/error-codes
        "insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded", "organization_usage_limit_exceeded", "billing_hard_limit_reached",
        "billing_not_active",
        # https://github.com/QuantumNous/new-api types/error.go, https://github.com/songquanpeng/one-api
        "insufficient_user_quota", "pre_consume_token_quota_failed", "insufficient_token_quota",
        # https://docs.anthropic.com/en/api/errors
        "billing_error", "enforced_spend_limit_reached", "contract_spend_limit_reached",
        # https://www.alibabacloud.com/help/en/model-studio/error-code
        "arrearage", "allocationquota.freetieronly", "prepaidbilloverdue", "postpaidbilloverdue",
        # google.rpc.ErrorInfo reasons, https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto
        "billing_disabled",
        "insufficient_balance",
    }
)  # fmt: skip

_CODE_KINDS: Mapping[str, ErrorKind] = {
    # https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto and api/error_reason.proto
    "unauthenticated": "auth", "permission_denied": "permission", "failed_precondition": "permission",
    "not_found": "not_found", "resource_exhausted": "rate_limit", "unavailable": "overloaded",
    "deadline_exceeded": "timeout", "cancelled": "connection", "api_key_invalid": "auth", "api_key_expired": "auth",
    "service_disabled": "permission", "api_key_service_blocked": "permission",
    # https://platform.openai.com/docs/guides/error-codes; the types are also Anthropic's
    "invalid_api_key": "auth", "authentication_error": "auth", "permission_error": "permission",
    "model_not_found": "not_found", "not_found_error": "not_found", "context_length_exceeded": "context_length",
    "rate_limit_exceeded": "rate_limit", "slow_down": "rate_limit", "rate_limit_error": "rate_limit",
    "too_many_requests": "rate_limit", "engine_overloaded": "overloaded", "overloaded_error": "overloaded",
    "engine_overloaded_error": "overloaded", "server_overloaded": "overloaded", "timeout_error": "timeout",
    "content_filter": "content_filter", "content_policy_violation": "content_filter",
    "responsibleaipolicyviolation": "content_filter", "request_too_large": "invalid_request",
    # new-api: the first channel failed and there was no other, so it is an error of the gateway, not a wrong name
    "get_channel_failed": "server_error", "prompt_blocked": "content_filter", "empty_response": "empty_response",
    "sensitive_words_detected": "content_filter", "api_not_implemented": "not_found",
    # https://www.alibabacloud.com/help/en/model-studio/error-code
    "throttling": "rate_limit", "limit_requests": "rate_limit", "limit_burst_rate": "rate_limit",
    "datainspectionfailed": "content_filter", "data_inspection_failed": "content_filter", "invalidapikey": "auth",
    "modelnotfound": "not_found", "accessdenied": "permission", "model.accessdenied": "permission",
    # llama.cpp tools/server
    "exceed_context_size_error": "context_length",
}  # fmt: skip

_BODY_STATUS: Mapping[str, int] = {
    # The HTTP status that an error inside a 200 stands for; beside a real status these codes add nothing.
    "invalid_argument": 400, "invalid_request_error": 400, "aborted": 409, "internal": 500, "unknown": 500,
    "internal_error": 500, "internal_server_error": 500, "server_error": 500, "api_error": 500, "unimplemented": 501,
    "do_request_failed": 500, "service_unavailable": 503,
}  # fmt: skip

_STATUS_KINDS: Mapping[int, ErrorKind] = {
    401: "auth", 402: "quota", 403: "permission", 404: "not_found", 408: "timeout", 410: "not_found",
    429: "rate_limit", 451: "permission", 499: "connection", 501: "not_found", 503: "overloaded", 504: "timeout",
    522: "timeout", 524: "timeout", 529: "overloaded",
}  # fmt: skip

_MAY_PASS: frozenset[ErrorKind] = frozenset({"rate_limit", "overloaded", "server_error", "timeout", "empty_response"})
"""Kinds for which another attempt may succeed; all others are final, whatever `x-should-retry` says."""
_BUSY: frozenset[ErrorKind] = frozenset({"overloaded", "server_error", "timeout"})

_QUOTA_TEXT = re.compile(
    r"额度不足|余额不足|额度已用[尽完]|已欠费|quota is not enough|insufficient[ _](?:balance|credits?|funds)"
    r"|credit balance is too low|credits are depleted|spend(?:ing)?[ _](?:limit|cap)|free tier of the model has been",
    re.IGNORECASE,
)
_NO_CHANNEL_TEXT = re.compile(r"无可用渠道|no available channels?\b", re.IGNORECASE)
_KEY_TEXT = re.compile(
    r"api key (?:not valid|expired)|(?:incorrect|invalid) api[ _-]?key|无效的令牌|令牌已过期", re.IGNORECASE
)
_LENGTH_TEXT = re.compile(
    r"(?:maximum|max|available) context (?:length|size|window)|exceeds? the (?:model's )?context"
    r"|input token count.{0,40}exceeds|prompt is too long|input length should be|input is too long"
    r"|上下文.{0,4}(?:过长|超)|输入.{0,6}过长",
    re.IGNORECASE,
)
_FILTER_TEXT = re.compile(r"inappropriate content|content management policy|request blocked by", re.IGNORECASE)
_DAY_TEXT = re.compile(r"per[ _-]?day|\brpd\b|每天|每日", re.IGNORECASE)
_MINUTE_TEXT = re.compile(r"per[ _-]?min|\b[rt]pm\b|分钟内|每分钟", re.IGNORECASE)
_MESSAGE_CHARS = 2000
_SCANNED_CHARS = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class _ErrorDetails:
    """The content of an error object of any format."""

    message: str
    scanned: str
    """The message with quoted upstream texts; searched for patterns and hints."""
    code: str | int | None
    words: tuple[str, ...]
    """Codes in lower case, the most specific first; the type is last."""
    inner_status: int | None
    quota_ids: str
    flagged: bool


def classify_error(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Parse a response with a status other than 200 (or a 200 that is known to be a failure). Never raises.

    Args:
        status: The HTTP status.
        headers: Names in lower case; without `date`, dates in hints are ignored.
        body: As received: JSON, a web page, text or nothing.
    """
    value = _json_or_none(body)
    error = _find_error(value)
    if error is None:
        return _unstructured(status, headers, body)
    return _failure(error, error.inner_status or status, headers, value)


def error_in_body(
    value: Any, *, text: str | None = None, usage: Usage = NO_USAGE, finish_reason_raw: str | None = None
) -> ErrorInBody | None:
    """Return the error in a success body or an event, as an exception to raise; None when there is none.

    Args:
        value: The decoded body, event, or choice.
        text: The part of the reply received so far.
        usage: The usage reported so far.
        finish_reason_raw: The gateway's own finish reason beside the error.
    """
    error = _find_error(value) if _claims_error(value) else None
    if error is None:
        return None
    status = error.inner_status or next((_BODY_STATUS[word] for word in error.words if word in _BODY_STATUS), None)
    failure = _failure(error, status, {}, value, text=text, usage=usage, finish_reason_raw=finish_reason_raw)
    return ErrorInBody(failure, status=status)


def empty_response(usage: Usage) -> ErrorInBody:
    """Build the error for a 200 with neither a candidate nor a block reason."""
    message = "the gateway answered 200 with neither a candidate nor a block reason"
    return ErrorInBody(Failure(kind="empty_response", message=message, retryable=True, usage=usage))


def stream_truncated(text: str | None, usage: Usage) -> ErrorInBody:
    """Build the error for a stream that ended, or became invalid, before a finish reason."""
    message = "the stream ended before a finish reason" if text else "the stream ended before any text"
    return ErrorInBody(Failure(kind="stream_truncated", message=message, retryable=True, usage=usage, text=text))


def _claims_error(value: Any) -> bool:
    """Whether a success body is an error object; stricter than for an error status: replies have similar keys."""
    if isinstance(value, list):
        return bool(value) and _claims_error(value[0])
    if not isinstance(value, dict):
        return False
    if value.get("error"):
        return True
    if "choices" in value or "candidates" in value:
        return False
    coded = value.get("code") or value.get("type") or value.get("object") == "error" or value.get("success") is False
    return bool(coded) and isinstance(value.get("message"), str)


def _failure(
    error: _ErrorDetails,
    status: int | None,
    headers: Mapping[str, str],
    value: Any,
    *,
    text: str | None = None,
    usage: Usage = NO_USAGE,
    finish_reason_raw: str | None = None,
    is_json: bool = True,
) -> Failure:
    """Build a failure; `status` is None for an error in a 200 without one, which is then a server error by default."""
    hint = retry_after_s(headers, value, error.scanned)
    scope = _scope(error)
    kind_by_words = _kind_by_words(error, status)
    kind = _kind(kind_by_words or _kind_by_status(status or 500), status, scope, hint)
    if kind == "content_filter" and finish_reason_raw is None:
        finish_reason_raw = None if error.code is None else str(error.code)
    should_retry = _should_retry(headers)
    return Failure(
        kind=kind,
        message=error.message,
        code=error.code,
        retryable=_retryable(kind, status, should_retry),
        retry_after_s=hint if kind in _MAY_PASS or kind == "quota" else None,
        scope=scope if kind in ("rate_limit", "quota") else None,
        finish_reason_raw=finish_reason_raw,
        usage=usage,
        should_retry=should_retry,
        structured=is_json and (status is not None or kind_by_words is not None),
        text=text,
    )


def _unstructured(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    message = body_excerpt(body) or f"HTTP {status} without a body"
    error = _ErrorDetails(
        message=message, scanned=message, code=None, words=(), inner_status=None, quota_ids="", flagged=False
    )
    return _failure(error, status, headers, None, is_json=False)


def _kind(kind: ErrorKind, status: int | None, scope: Scope | None, hint: float | None) -> ErrorKind:
    if status == 429 and kind in _BUSY:
        return "rate_limit"
    # Waiting for a daily window without a reset time is pointless, so this is a quota error.
    return "quota" if kind == "rate_limit" and scope == "day" and hint is None else kind


def _kind_by_words(error: _ErrorDetails, status: int | None) -> ErrorKind | None:
    """Determine the kind from codes and texts alone, quota and billing first."""
    if any(code in _QUOTA_CODES for code in error.words) or "PerDay" in error.quota_ids:
        return "quota"
    if _QUOTA_TEXT.search(error.scanned):
        return "quota"
    return _kind_by_code(error) or _kind_by_text(error, status)


def _kind_by_code(error: _ErrorDetails) -> ErrorKind | None:
    for code in error.words:
        if code in _CODE_KINDS:
            return _CODE_KINDS[code]
        if code.startswith("throttling."):
            return "rate_limit"
        if code.startswith("channel:"):
            return "server_error"  # an error of the gateway's own accounts
    return "content_filter" if error.flagged else None


def _kind_by_text(error: _ErrorDetails, status: int | None) -> ErrorKind | None:
    if _NO_CHANNEL_TEXT.search(error.scanned):
        return "not_found"
    if status in (None, 400, 413, 422, 500) and _LENGTH_TEXT.search(error.scanned):
        return "context_length"
    if status in (None, 400, 403) and _KEY_TEXT.search(error.scanned):
        return "auth"
    if status in (None, 400, 403) and _FILTER_TEXT.search(error.scanned):
        return "content_filter"
    return None


def _kind_by_status(status: int) -> ErrorKind:
    if status in _STATUS_KINDS:
        return _STATUS_KINDS[status]
    if 400 <= status < 500:
        return "invalid_request"
    return "server_error" if 500 <= status < 600 else "bad_response"


def _retryable(kind: ErrorKind, status: int | None, should_retry: bool | None) -> bool:
    conflict = status == 409 and kind == "invalid_request"  # the only 4xx that both SDKs retry
    if kind not in _MAY_PASS and not conflict:
        return False
    return True if should_retry is None else should_retry


def _should_retry(headers: Mapping[str, str]) -> bool | None:
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def _scope(error: _ErrorDetails) -> Scope | None:
    for where in (error.quota_ids, error.scanned):
        if _DAY_TEXT.search(where):
            return "day"
        if _MINUTE_TEXT.search(where):
            return "minute"
    return None


def _json_or_none(body: bytes) -> Any:
    try:
        return decode_json(body)
    except MalformedReply:
        return None


def _find_error(value: Any) -> _ErrorDetails | None:
    """Find the error object in a decoded body; None when there is none."""
    if isinstance(value, list):
        value = value[0] if value else None
    if not isinstance(value, dict):
        return None
    error: Any = value.get("error")
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    if isinstance(error, dict) and error:
        return _read_error(error)
    if isinstance(error, str) and error:
        return _read_error({**value, "message": error})
    errors = value.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        return _read_error(errors[0])
    named = next((name for name in ("message", "msg", "detail", "error_msg") if value.get(name)), None)
    return None if named is None else _read_error({**value, "message": _as_text(value[named])})


def _read_error(error: Mapping[str, Any]) -> _ErrorDetails:
    details = list(_objects(error.get("details")))
    reason = next((d["reason"] for d in details if isinstance(d.get("reason"), str)), None)
    metadata = error.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    status, code = error.get("status"), error.get("code")
    named = [reason, status if isinstance(status, str) else None, code if _is_code(code) else None]
    nested = [d.get("error_code") for d in details]
    words = [item for item in (*named, *nested, error.get("type")) if isinstance(item, str) and item]
    message = _as_text(error.get("message")) or _as_text(dict(error))
    scanned = message if not metadata.get("raw") else f"{message} {_as_text(metadata['raw'])}"
    reported = next((item for item in named if item is not None), None)
    return _ErrorDetails(
        message=_with_provider(message, metadata)[:_MESSAGE_CHARS],
        scanned=scanned[:_SCANNED_CHARS],
        code=reported if reported is not None else (words[-1] if words else None),
        words=tuple(item.lower() for item in words),
        inner_status=_http_status(code),
        quota_ids=" ".join(_quota_ids(details)),
        flagged=metadata.get("flagged_input") is not None,
    )


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    items = value if isinstance(value, list) else [value]
    yield from (item for item in items if isinstance(item, dict))


def _quota_ids(details: list[Mapping[str, Any]]) -> Iterator[str]:
    for detail in details:
        for violation in _objects(detail.get("violations")):
            if isinstance(violation.get("quotaId"), str):
                yield violation["quotaId"]


def _is_code(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _http_status(code: Any) -> int | None:
    if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) == 3:
        code = int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600 else None


def _with_provider(message: str, metadata: Mapping[str, Any]) -> str:
    """Add the upstream error from OpenRouter's `metadata`; its own message is only "Provider returned error"."""
    raw = " ".join(_as_text(metadata.get("raw")).split())[:300]
    upstream = ": ".join(part for part in (_as_text(metadata.get("provider_name")), raw) if part)
    return f"{message} ({upstream})" if upstream else message


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    return encode_json(value).decode("utf-8")
