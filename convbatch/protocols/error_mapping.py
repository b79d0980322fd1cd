"""Map error responses to `Failure`, in the same way for all protocols.

The same way, because gateways respond in any format on any route: an OpenAI error on a Gemini path, Google's array
around an error, a vLLM error without its wrapper, a proxy's web page. Codes and texts take precedence over the HTTP
status, because gateways remap statuses; error types that new-api forks rename are ignored. `engine/retry.py` decides
whether to send again: `retryable` only means that another attempt may succeed.

Order: quota by code; a refusal by code; quota by text; a code with one meaning; a refusal, then the other causes by
text; a code that only names a class; the status. The tables are `error_codes.py` and
`error_words.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from convbatch.protocols.decoding import body_excerpt
from convbatch.protocols.error_bodies import ErrorDetails, claims_error, find_error
from convbatch.protocols.error_codes import (
    BODY_STATUS,
    CODE_KINDS,
    GENERIC_KINDS,
    LONG_WINDOW_NUMBERS,
    NUMBER_KINDS,
    OUTPUT_NUMBERS,
    QUOTA_CODES,
    REFUSAL_CODE_FORMS,
    REFUSAL_CODES,
    plain,
)
from convbatch.protocols.error_words import (
    ADVICE_TEXT,
    BUSY_TEXT,
    DAY_TEXT,
    KEY_TEXT,
    LENGTH_TEXT,
    MINUTE_TEXT,
    MONTH_TEXT,
    NO_CHANNEL_TEXT,
    NO_MODEL_TEXT,
    NOT_A_LENGTH_TEXT,
    NOT_A_QUOTA_TEXT,
    NOT_A_REFUSAL_TEXT,
    NOT_NOW_TEXT,
    OTHER_OBJECT_TEXT,
    OUTPUT_SIDE_TEXT,
    PATH_TEXT,
    PROMPT_SIDE_TEXT,
    QUOTA_TEXT,
    RATE_TEXT,
    REFUSAL_TEXT,
    TOO_MUCH_ASKED,
    WEAK_QUOTA_TEXT,
)
from convbatch.protocols.retry_after import retry_after_s
from convbatch.protocols.wire import ErrorInBody, MalformedReply, decode_json
from convbatch.reply import NO_USAGE, USAGE_COUNTS, Blocked, ErrorKind, Failure, Scope, Usage

_STATUS_KINDS: Mapping[int, ErrorKind] = {
    401: "auth", 402: "quota", 403: "permission", 404: "not_found", 405: "not_found", 408: "timeout", 410: "not_found",
    429: "rate_limit", 451: "permission", 499: "connection", 501: "not_found", 503: "overloaded", 504: "timeout",
    522: "timeout", 524: "timeout", 529: "overloaded",
}  # fmt: skip

_MAY_PASS: frozenset[ErrorKind] = frozenset({"rate_limit", "overloaded", "server_error", "timeout", "empty_response"})
"""Kinds for which another attempt may succeed; all others are final, whatever `x-should-retry` says."""
_BUSY: frozenset[ErrorKind] = frozenset({"overloaded", "server_error", "timeout"})
_NO_REFUSAL_STATUS = frozenset({401, 402, 404, 405, 429})
_KEY_STATUS = frozenset({None, 400, 401, 403, 500})
_LENGTH_STATUS = frozenset({None, 400, 413, 422, 500})
_MODEL_STATUS = frozenset({None, 400, 403, 404, 422, 500, 503})
_RATE_STATUS = frozenset({None, 400, 403, 500, 502, 503})
_PATH_STATUS = frozenset({None, 404, 405})
_WORD_CHARS = 100


def classify_error(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Parse a response with a status other than 200 (or a 200 that is known to be a failure). Never raises.

    Args:
        status: The HTTP status.
        headers: Names in lower case; without `date`, dates in hints are ignored.
        body: As received: JSON, a web page, text or nothing.
    """
    value = _json_or_none(body)
    error = find_error(value)
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
        usage: The usage reported so far; counts of zero beside an error without text mean that nothing was generated.
        finish_reason_raw: The gateway's own finish reason beside the error.
    """
    error = find_error(value) if claims_error(value) else None
    if error is None:
        return None
    if not text and not any(getattr(usage, name) for name in USAGE_COUNTS):
        usage = NO_USAGE
    status = error.inner_status or next((BODY_STATUS[word] for word in error.words if word in BODY_STATUS), None)
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


def _failure(
    error: ErrorDetails,
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
    kind = _kind_by_words(error, status, hint, scope) or _kind_by_status(status or 500)
    kind = _kind(kind, status, scope, hint)
    refused = kind == "content_filter"
    should_retry = _should_retry(headers)
    return Failure(
        kind=kind,
        message=error.message,
        code=error.code,
        retryable=_retryable(kind, status, should_retry),
        retry_after_s=hint if kind in _MAY_PASS or kind == "quota" else None,
        scope=scope if kind in ("rate_limit", "quota") else None,
        finish_reason_raw=_refusal_word(error) if refused and finish_reason_raw is None else finish_reason_raw,
        usage=usage,
        should_retry=should_retry,
        structured=is_json,
        text=text,
        blocked=_refused_side(error, text) if refused else None,
        no_model=kind == "not_found" and _is_path(error, status, is_json),
    )


def _unstructured(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    message = body_excerpt(body) or f"HTTP {status} without a body"
    # The words of a page are a proxy's: "content blocked" is then not a refusal of the dialogue.
    scanned = "" if body.lstrip()[:1] == b"<" else message
    return _failure(ErrorDetails(message=message, scanned=scanned), status, headers, None, is_json=False)


def _kind(kind: ErrorKind, status: int | None, scope: Scope | None, hint: float | None) -> ErrorKind:
    if status == 429 and kind in _BUSY:
        return "rate_limit"
    # Waiting for a daily window without a reset time is pointless, so this is a quota error.
    return "quota" if kind == "rate_limit" and scope in ("day", "month") and hint is None else kind


def _kind_by_words(
    error: ErrorDetails, status: int | None, hint: float | None, scope: Scope | None
) -> ErrorKind | None:
    """Determine the kind from codes and texts alone; the order is the module's."""
    if "PerDay" in error.quota_ids or any(form in QUOTA_CODES for form in _forms(error.words)):
        return "quota"
    by_number = NUMBER_KINDS.get(error.number) if error.number is not None else None
    if _is_refusal_number(error) or error.refused is not None or any(map(_is_refusal_code, error.words)):
        return "content_filter"
    if QUOTA_TEXT.search(error.scanned) and not NOT_A_QUOTA_TEXT.search(error.scanned):
        return "quota"
    if by_number not in (None, "invalid_request"):
        return by_number
    kind = _kind_by_code(error) or _kind_by_text(error, status)
    if kind is None and (status or 400) < 500:
        kind = _kind_of_quota(error, status, hint, scope)
    return kind or by_number or next((GENERIC_KINDS[word] for word in error.words if word in GENERIC_KINDS), None)


def _forms(words: tuple[str, ...]) -> Iterator[str]:
    """Yield each code, then its dotted beginnings: `Throttling.RateQuota` is also `Throttling`."""
    for word in words:
        yield word
        while "." in word:
            word = word.rpartition(".")[0]
            yield word


def _is_refusal_number(error: ErrorDetails) -> bool:
    return error.number is not None and NUMBER_KINDS.get(error.number) == "content_filter"


def _is_refusal_code(word: str) -> bool:
    forms = [*_forms((word,)), word.rpartition(".")[2]]
    return any(form in REFUSAL_CODES or REFUSAL_CODE_FORMS.fullmatch(form) for form in forms)


def _kind_by_code(error: ErrorDetails) -> ErrorKind | None:
    for form in _forms(error.words):
        if form in CODE_KINDS:
            return CODE_KINDS[form]
        if form.startswith("channel:"):
            return "server_error"  # an error of the gateway's own accounts
    return None


def _kind_by_text(error: ErrorDetails, status: int | None) -> ErrorKind | None:
    text = error.scanned
    if NO_CHANNEL_TEXT.search(text):
        return "not_found"
    if status in _LENGTH_STATUS and _is_too_long(text):
        return "context_length"
    if status not in _NO_REFUSAL_STATUS and REFUSAL_TEXT.search(text) and not NOT_A_REFUSAL_TEXT.search(text):
        return "content_filter"
    if status in _KEY_STATUS and KEY_TEXT.search(text):
        return "auth"
    if status in _RATE_STATUS and RATE_TEXT.search(text):
        return "rate_limit"
    if status in (None, 503) and BUSY_TEXT.search(text):
        return "overloaded"
    if status in (500, 503) and NOT_NOW_TEXT.search(text):
        return None
    if status in _PATH_STATUS and PATH_TEXT.search(text):
        return "not_found"
    if status in _MODEL_STATUS and NO_MODEL_TEXT.search(text):
        return "not_found"
    return "invalid_request" if status in (400, 404) and OTHER_OBJECT_TEXT.search(text) else None


def _is_too_long(text: str) -> bool:
    """Whether a text says that the dialogue does not fit, and not that a setting asks for too much."""
    if not LENGTH_TEXT.search(text) or NOT_A_LENGTH_TEXT.search(text):
        return False
    asked = TOO_MUCH_ASKED.search(text)
    return asked is None or int(asked[1]) < int(asked[2])


def _kind_of_quota(
    error: ErrorDetails, status: int | None, hint: float | None, scope: Scope | None
) -> ErrorKind | None:
    """Return what a weak text about a quota says: that it is used up, or that it is one of a minute."""
    text = error.scanned
    if not WEAK_QUOTA_TEXT.search(text) or RATE_TEXT.search(text) or NOT_A_QUOTA_TEXT.search(text):
        return None
    if scope == "minute":
        return "rate_limit" if status in _RATE_STATUS else None
    return None if hint is not None or plain("resource_exhausted") in error.words else "quota"


def _is_path(error: ErrorDetails, status: int | None, is_json: bool) -> bool:
    """Whether the path of a request does not exist, so that no model was asked."""
    if status not in _PATH_STATUS or NO_MODEL_TEXT.search(error.scanned):
        return False
    return not is_json or bool(PATH_TEXT.search(error.scanned))


def _refused_side(error: ErrorDetails, text: str | None) -> Blocked:
    """Return what was refused: by the code, else by the words, without the advice to change the prompt."""
    if error.number in OUTPUT_NUMBERS or any(word.startswith("output") for word in error.words):
        return "output"
    if error.refused is not None:
        return error.refused
    if error.param == "prompt" or any(word.startswith(("input", "prompt")) for word in error.words):
        return "prompt"
    said = ADVICE_TEXT.sub(" ", error.scanned)
    if PROMPT_SIDE_TEXT.search(said) or not (text or OUTPUT_SIDE_TEXT.search(said)):
        return "prompt"
    return "output"


def _refusal_word(error: ErrorDetails) -> str:
    """Return the gateway's own word for a refusal: its code, unless that only names a class of errors."""
    refusing = (name for name in error.names if _is_refusal_code(plain(name)))
    number = None if error.number is None or not _is_refusal_number(error) else str(error.number[1])
    telling = (name for name in error.names if not _is_generic(name))
    return next(refusing, None) or number or next(telling, None) or error.message[:_WORD_CHARS]


def _is_generic(code: str) -> bool:
    """Whether a code says nothing of the cause."""
    word = plain(code)
    known = word in GENERIC_KINDS or word in BODY_STATUS or word in ("none", "badrequest", "badresponsestatuscode")
    return known or word.isdigit() or " " in code.strip() or word.endswith("error")


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


def _scope(error: ErrorDetails) -> Scope | None:
    if error.number in LONG_WINDOW_NUMBERS:
        return "day"
    for where in (error.quota_ids, error.scanned):
        if MONTH_TEXT.search(where):
            return "month"
        if DAY_TEXT.search(where):
            return "day"
        if MINUTE_TEXT.search(where):
            return "minute"
    return None


def _json_or_none(body: bytes) -> Any:
    try:
        return decode_json(body)
    except MalformedReply:
        return None
