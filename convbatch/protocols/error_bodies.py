"""Find the error in a decoded body, in any of the shapes that gateways use, and read its parts.

Keys are compared without case, `_` and `-`, so that `Message`, `error_msg` and `errorMsg` are found alike. What a code
or a text means is `error_mapping.py`'s decision. Inside a 200 a body must be an error beyond doubt (`claims_error`):
replies have similar keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from convbatch.protocols.error_codes import Vendor, plain
from convbatch.protocols.wire import encode_json
from convbatch.reply import Blocked

_MESSAGE_CHARS = 2000
_SCANNED_CHARS = 8000
_MESSAGE_KEYS = (
    "message", "msg", "errormessage", "errormsg", "errmsg", "errordescription", "statusmsg", "statusmessage", "detail",
    "description", "reason", "faultstring", "title", "details",
)  # fmt: skip
_CODE_KEYS = ("code", "errorcode", "errcode", "errno", "statuscode", "retcode", "ret", "subcode", "httpcode")
_BARE_KEYS = frozenset(
    {"message", "msg", "detail", "requestid", "traceid", "timestamp", "path", "hint", "documentationurl", "title"}
)
"""Keys that may stand beside a lone message in a 200 that is an error."""
_ERROR_KEYS = frozenset(
    {"error", "errors", "fault", "base_resp", "BaseResp", "header", "Response", "ResponseMetadata", "Error"}
    | {"ErrorMsg", "detail"}
)
"""Keys under which an error object stands."""
_SUCCESS = frozenset(
    {"", "0", "200", "ok", "success", "succeed", "succeeded", "successful", "成功", "none", "null", "20000"}
)
_FAILED = frozenset({"error", "errors", "fail", "failed", "failure"})
_ECHOED = re.compile(
    # Quoted addresses, and the values of a request that Pydantic quotes: a dialogue may speak of quotas and filters.
    r"https?://[^\s\"'<>()]+|input_value=.*?(?=,\s*input_type=|\Z)"
    r"|[\"']input[\"']\s*:.*?(?=[\"'](?:ctx|url)[\"']\s*:|\{[\"']type[\"']\s*:\s*[\"']\w+[\"'],\s*[\"']loc[\"']|\Z)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetails:
    """The content of an error object of any shape."""

    message: str
    scanned: str
    """The message with quoted upstream texts, without quoted values of the request; searched for patterns and hints."""
    code: str | int | None = None
    names: tuple[str, ...] = ()
    """Codes that are words, as received, the most specific first; the type is last."""
    number: tuple[Vendor, int] | None = None
    """A numeric code of a known vendor."""
    inner_status: int | None = None
    quota_ids: str = ""
    refused: Blocked | None = None
    """The side that a list of filter results names as refused."""
    param: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The names in the form in which tables compare them."""
        return tuple(plain(name) for name in self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    error: Mapping[str, Any]
    vendor: Vendor | None = None


def find_error(value: Any) -> ErrorDetails | None:
    """Find the error object in a decoded body; None when there is none."""
    return _find(value, depth=0)


def protocol_of_error(value: Any) -> str | None:
    """Return the protocol whose providers word their errors so; None for other bodies.

    Chat completions and Responses have the same errors, which many gateways use on every route.
    """
    body: Any = value[0] if isinstance(value, list) and value else value
    if not isinstance(body, dict):
        return None
    error = body.get("error")
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    if body.get("type") == "error":
        return "anthropic"
    if isinstance(error.get("code"), int) and isinstance(status := error.get("status"), str) and status.isupper():
        return "gemini"
    return "openai" if isinstance(error.get("type"), str) and "code" in error else None


def claims_error(value: Any) -> bool:
    """Whether a success body or an event is an error object beyond doubt."""
    if isinstance(value, list):
        value = value[0] if value else None
    if not isinstance(value, dict):
        return False
    has_content = bool(value.get("choices") or value.get("candidates") or _is_output(value))
    if has_content and _ERROR_KEYS.isdisjoint(value):
        return False  # the usual reply, or a part of one
    if has_content or "choices" in value or "candidates" in value or "output" in value:
        if any(_states_failure(found.error) for found in _wrapped(value)):
            return True
        if has_content:
            return False
    elif next(_wrapped(value), None) is not None:
        return True
    if value.get("need_clear_history") is True and not value.get("result"):
        return True
    return _is_flat_error(value)


def _is_output(value: Mapping[str, Any]) -> bool:
    """Whether a body has the output items of a response that did not fail, or the blocks of an ended message."""
    if value.get("stop_reason") and value.get("content") and value.get("type") != "error":
        return True
    output = value.get("output")
    return isinstance(output, list) and bool(output) and value.get("status") != "failed"


def _find(value: Any, depth: int) -> ErrorDetails | None:
    if isinstance(value, list):
        value = value[0] if value else None
    if not isinstance(value, dict):
        return None
    found = list(_wrapped(value))
    chosen = next((each for each in found if _states_failure(each.error)), found[0] if found else None)
    chosen = chosen or _flat(value)
    if chosen is None:
        return None
    details = _read(chosen, value)
    return details if depth else _with_quoted(details)


def _wrapped(value: Mapping[str, Any]) -> Iterator[_Found]:
    """Yield the error objects that have a key or a shape of their own; an empty object is none."""
    yield from _under_error(value)
    errors = value.get("errors")
    if isinstance(errors, dict) and errors:
        yield _Found(error=errors)
    if isinstance(errors, list) and isinstance(first := _first(errors), dict):
        yield _Found(error=first, vendor="cloudflare")
    for name, vendor in _NUMBERED_OBJECTS.items():
        inner = value.get(name)
        if isinstance(inner, dict) and _is_failure_code(_code(inner)):
            yield _Found(error=inner, vendor=vendor)
    for holder in (value.get("Response"), value.get("ResponseMetadata"), value):
        for name in ("Error", "ErrorMsg"):
            inner = holder.get(name) if isinstance(holder, dict) else None
            if isinstance(inner, dict) and inner:
                yield _Found(error=inner)
    yield from _under_detail(value.get("detail"))


def _under_error(value: Mapping[str, Any]) -> Iterator[_Found]:
    error = value.get("error") or value.get("fault")
    vendor: Vendor | None = None
    if isinstance(error, list):
        error, vendor = _first(error), "cloudflare"
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    if isinstance(error, dict) and error:
        yield _Found(error=error, vendor=vendor or _vendor_of_wrapped(error))
    elif isinstance(error, str) and error:
        yield _Found(error=_with_text(value, error))


def _under_detail(detail: Any) -> Iterator[_Found]:
    if isinstance(detail, dict) and detail:
        text = detail.get("error")
        yield _Found(error=_with_text(detail, text) if isinstance(text, str) and text else detail)


_NUMBERED_OBJECTS: Mapping[str, Vendor] = {"base_resp": "minimax", "BaseResp": "minimax", "header": "spark"}


def _first(items: list[Any]) -> Any:
    item = items[0] if items else None
    return {"message": item} if isinstance(item, str) and item else item


def _with_text(value: Mapping[str, Any], error: str) -> Mapping[str, Any]:
    """Return a body whose `error` is a text, with that text and the message beside it as the message."""
    beside = value.get("message") or value.get("detail") or value.get("error_description")
    text = error if not isinstance(beside, str) or beside == error else f"{error}: {beside}"
    return {**{key: item for key, item in value.items() if key != "error"}, "message": text}


def _flat(value: Mapping[str, Any]) -> _Found | None:
    """Return the body itself as the error object, if it has a message."""
    named = _plain_keys(value)
    if not any(named.get(key) for key in _MESSAGE_KEYS):
        return None
    return _Found(error=value, vendor=_vendor_of_flat(value))


def _is_flat_error(value: Mapping[str, Any]) -> bool:
    named = _plain_keys(value)
    text = next((named[key] for key in _MESSAGE_KEYS if named.get(key)), None)
    if not isinstance(text, str):
        return isinstance(text, list) and _is_validation(text)
    if named.get("object") == "error" or named.get("success") is False or named.get("error") is True:
        return True
    status = named.get("status")
    failed = isinstance(status, str) and status.lower() in _FAILED
    if failed or _http_status(status) is not None or _is_failure_code(_code(value)):
        return True
    # A type is a code only beside a plain message: `{"type": "message"}` begins a reply of another wire.
    if isinstance(named.get("type"), str) and named["type"] and isinstance(named.get("message"), str):
        return True
    return named.keys() <= _BARE_KEYS


def _is_validation(items: list[Any]) -> bool:
    """Whether a list is FastAPI's: one object for each invalid field."""
    return bool(items) and all(isinstance(item, dict) and "msg" in item for item in items)


def _states_failure(error: Mapping[str, Any]) -> bool:
    """Whether an error object says something: gateways put an empty one beside a complete reply."""
    named = _plain_keys(error)
    text = next((_as_text(named[key]) for key in _MESSAGE_KEYS if named.get(key)), "")
    code = _code(error)
    return _is_failure_code(code) or (text.strip().lower() not in _SUCCESS)


def _is_failure_code(code: Any) -> bool:
    if isinstance(code, str):
        return code.strip().lower() not in _SUCCESS
    return isinstance(code, int) and not isinstance(code, bool) and code not in (0, 200, 20000)


def _code(error: Mapping[str, Any]) -> Any:
    """Return the first code of an object that is a string or a number; None if there is none."""
    named = _plain_keys(error)
    return next((named[key] for key in _CODE_KEYS if _is_code(named.get(key)) and named[key] != ""), None)


def _vendor_of_wrapped(error: Mapping[str, Any]) -> Vendor | None:
    """Return whose number a code inside `error` is."""
    number = _number(error.get("code"))
    if number is None:
        return None
    # Hunyuan has four digits as well, with a type and an id of its own.
    if 1000 <= number < 1400 and error.get("type") != "invalid_request_error" and "id" not in error:
        return "zhipu"
    return "spark" if 10_000 <= number < 11_300 else None


def _vendor_of_flat(value: Mapping[str, Any]) -> Vendor | None:
    if "error_code" in value:
        return "baidu"
    number = _number(value.get("code"))
    if number is None:
        return None
    if "sid" in value or 10_000 <= number < 11_300:
        return "spark"
    if 1000 <= number < 1400 and "success" in value:
        return "zhipu"
    return "siliconflow" if 20_000 < number < 60_000 else None


def _read(found: _Found, body: Mapping[str, Any]) -> ErrorDetails:
    error, named = found.error, _plain_keys(found.error)
    details = list(_objects(named.get("details")))
    metadata = named.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    reported = _reported(named, details)
    stated = [*_told_apart(reported, body), *_nested_codes(named), named.get("errortype"), named.get("type")]
    names = [item for item in stated if isinstance(item, str) and item and item.lower() not in _FAILED]
    message = next((text for key in _MESSAGE_KEYS if (text := _as_text(named.get(key)))), "") or _as_text(dict(error))
    scanned = message if not metadata.get("raw") else f"{message} {_as_text(metadata['raw'])}"
    code = next((item for item in reported if item != ""), next(iter(reported), None))
    number = _number(_code(error))
    return ErrorDetails(
        message=_with_provider(message, metadata)[:_MESSAGE_CHARS],
        scanned=_ECHOED.sub(" ", scanned[: 4 * _SCANNED_CHARS])[:_SCANNED_CHARS],
        code=code if code is not None else (names[-1] if names else None),
        names=tuple(item.rpartition("#")[2] for item in names),  # AWS puts a namespace before `#`
        number=None if found.vendor is None or number is None else (found.vendor, number),
        inner_status=_inner_status(named),
        quota_ids=" ".join(_quota_ids(details)),
        refused=_refused_side(named, metadata, body),
        param=named.get("param") if isinstance(named.get("param"), str) else None,
    )


def _reported(named: Mapping[str, Any], details: list[Mapping[str, Any]]) -> list[str | int]:
    """Return the codes of an error, the most specific first: Google's reason and status, then codes."""
    reason = next((d["reason"] for d in details if isinstance(d.get("reason"), str)), None)
    status = named.get("status")
    stated = [reason, status if isinstance(status, str) and status.lower() not in _FAILED else None]
    stated += [named.get(key) for key in _CODE_KEYS]
    stated += [detail.get("error_code") for detail in details]  # Anthropic
    return [item for item in stated if isinstance(item, str | int) and not isinstance(item, bool)]


def _told_apart(codes: list[str | int], body: Mapping[str, Any]) -> list[Any]:
    """Return the codes of an error without one that OpenRouter gives to every invalid request, and its own type.

    Its Responses (an error beside `metadata`) has `invalid_prompt` also for a long context and an unknown model.
    Source: https://openrouter.ai/docs/api/reference/responses/error-handling, read 2026-11-27.
    """
    if body.get("object") == "response" or not ("metadata" in body or "error_type" in body):
        return list(codes)
    return [body.get("error_type"), *(code for code in codes if code != "invalid_prompt")]


def _nested_codes(named: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the codes of objects inside an error: Azure's inner error."""
    inner = named.get("innererror")
    if isinstance(inner, dict):
        yield inner.get("code")


def _refused_side(named: Mapping[str, Any], metadata: Mapping[str, Any], body: Mapping[str, Any]) -> Blocked | None:
    """Return which side was refused, from a list of filter results in or beside the error."""
    if metadata.get("flagged_input") is not None or metadata.get("reasons"):
        return "prompt"  # OpenRouter
    for listed in (body.get("contentFilter"), body.get("content_filter")):  # Zhipu
        roles = [item.get("role") for item in _objects(listed)]
        if roles:
            return "output" if roles[0] == "assistant" else "prompt"
    if body.get("need_clear_history") is True or body.get("input_sensitive") is True:
        return "prompt"  # Baidu, MiniMax
    if body.get("output_sensitive") is True:
        return "output"
    inner = named.get("innererror")
    for holder in (named, _plain_keys(inner) if isinstance(inner, dict) else {}):  # Azure
        results = holder.get("contentfilterresult") or holder.get("contentfilterresults")
        verdicts = list(results.values()) if isinstance(results, dict) else []
        if any(verdict.get("filtered") is True for verdict in _objects(verdicts)):
            return "prompt"
    return None


def _with_quoted(error: ErrorDetails) -> ErrorDetails:
    """Add what an upstream error says that is quoted as JSON inside the message."""
    start = error.scanned.find("{")
    if start < 0:
        return error
    try:
        quoted, _ = json.JSONDecoder(strict=False).raw_decode(error.scanned, start)
    except (ValueError, RecursionError):
        return error
    inner = _find(quoted, depth=1) if isinstance(quoted, dict) else None
    if inner is None:
        return error
    return replace(
        error,
        names=error.names + inner.names,
        number=error.number or inner.number,
        quota_ids=error.quota_ids or inner.quota_ids,
        refused=error.refused or inner.refused,
    )


def _plain_keys(value: Mapping[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for key, item in value.items():
        named.setdefault(plain(key), item)
    return named


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


def _number(code: Any) -> int | None:
    if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) <= 9:
        return int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _inner_status(named: Mapping[str, Any]) -> int | None:
    """Return the HTTP status that an error object names; a list of invalid fields is FastAPI's 422."""
    stated = (_http_status(named.get(key)) for key in ("code", "httpcode", "statuscode", "errorcode", "status"))
    detail = named.get("detail")
    validation = 422 if isinstance(detail, list) and _is_validation(detail) else None
    return next((status for status in stated if status is not None), validation)


def _http_status(code: Any) -> int | None:
    number = _number(code)
    return number if number is not None and 400 <= number < 600 else None


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
