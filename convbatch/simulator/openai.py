"""OpenAI's chat completions from the server's side, whole and streamed.

Strict where OpenAI is strict: unknown parameters, roles, types and ranges are refused with its codes.
Source: https://platform.openai.com/docs/api-reference/chat, read 2026-11-21.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from convbatch.simulator import media, openai_tools
from convbatch.simulator.replies import ParsedRequest, ReplayedTurn, SimulatedReply
from convbatch.simulator.schemas import strict_problem
from convbatch.simulator.wire import (
    ApiError,
    ErrorCause,
    LeftOver,
    ReplySpec,
    Route,
    WordedHint,
    as_list,
    as_object,
    encode,
    go_duration,
    in_pieces,
    log_probability,
    refuse,
    tokens_of,
    word_hint,
)

CREATED = 1_795_000_000
"""Fixed, so that replies are reproducible."""

_REFUSAL = "I can't help with that."
_ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
_MESSAGE = {
    "role", "content", "name", "refusal", "tool_calls", "tool_call_id", "function_call", "audio", "annotations",
    "reasoning_content", "reasoning", "reasoning_details", "extra_content",
}  # fmt: skip
"""OpenAI's own fields, and those that compatible vendors expect back."""
_EFFORTS = {"none", "minimal", "low", "medium", "high", "xhigh", "max"}
TIERS = ("auto", "default", "flex", "scale", "priority", "fast")


def _number(low: float, high: float) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _integer(low: int, high: int = 2**63 - 1) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _bool(value: object) -> bool:
    return isinstance(value, bool)


def _object_like(value: object) -> bool:
    return isinstance(value, dict)


def _any(value: object) -> bool:
    del value
    return True


def _stop(value: object) -> bool:
    items = as_list(value)
    return isinstance(value, str) or (
        items is not None and len(items) <= 4 and all(isinstance(item, str) for item in items)
    )


_PARAMETERS: dict[str, Callable[[object], bool]] = {
    "model": lambda value: isinstance(value, str),
    "messages": lambda value: isinstance(value, list),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "n": _integer(1, 1),
    "max_tokens": _integer(1),
    "max_completion_tokens": _integer(1),
    "stop": _stop,
    "seed": _integer(-(2**63)),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "logprobs": _bool,
    "top_logprobs": _integer(0, 20),
    "logit_bias": _object_like,
    "reasoning_effort": lambda value: value in _EFFORTS,
    "verbosity": lambda value: value in {"low", "medium", "high"},
    "response_format": _object_like,
    "stream": _bool,
    "stream_options": _object_like,
    "parallel_tool_calls": _bool,
    "metadata": _object_like,
    "store": _bool,
    "service_tier": lambda value: value in TIERS,
    **dict.fromkeys(
        (
            "tools", "tool_choice", "functions", "function_call", "modalities", "audio", "user",
            "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "prediction", "web_search_options",
        ),
        _any,
    ),
}  # fmt: skip

_ERRORS: dict[str, tuple[int, str, str, str | None]] = {
    "bad_request": (400, "Invalid request.", "invalid_request_error", "invalid_value"),
    "no_key": (
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY).",
        "invalid_request_error",
        None,
    ),
    "bad_key": (401, "Incorrect API key provided: sk-****. ", "invalid_request_error", "invalid_api_key"),
    "permission": (403, "You are not allowed to use this model.", "invalid_request_error", "permission_denied"),
    "no_model": (
        404,
        "The model `{model}` does not exist or you do not have access to it.",
        "invalid_request_error",
        "model_not_found",
    ),
    "no_channel": (503, "No available channel for model {model} under group default (distributor)", "new_api_error",
                   "model_not_found"),
    "no_path": (404, "Invalid URL", "invalid_request_error", None),
    "rate_limit": (429, "Rate limit reached for {model} in organization org-sim.", "requests", "rate_limit_exceeded"),
    "no_balance": (
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
        "insufficient_quota",
    ),
    "internal": (
        500,
        "The server had an error while processing your request. Sorry about that!",
        "server_error",
        None,
    ),
    "overloaded": (
        503,
        "The engine is currently overloaded, please try again later",
        "server_error",
        "engine_overloaded",
    ),
    "bad_gateway": (502, "Bad gateway.", "server_error", None),
    "deadline": (504, "The server timed out.", "server_error", "timeout"),
}  # fmt: skip
_FINISH = {
    "length": "length",
    "prompt_blocked": "content_filter",
    "malformed": "error",
    "unknown": "some_future_reason",
}
_DIMENSIONS = {
    "requests": ("requests", "requests per min (RPM)"),
    "tokens": ("tokens", "tokens per min (TPM)"),
    "day": ("requests", "requests per day (RPD)"),
}


class OpenAIWire:
    """See `wire.Wire`."""

    name = "openai"
    content_type = "application/json"
    counts_output_at_admission = True
    request_id_header: str | None = "x-request-id"
    usage_key = "usage"
    text_key = "content"

    def parse_request(self, route: Route, body: Any) -> ReplySpec:
        """See `wire.Wire`."""
        del route
        fields = _parameters(body)
        system, messages, replayed = _messages(fields["messages"], fields["model"])
        stop = fields.get("stop") or ()
        parsed = ParsedRequest(
            model=fields["model"],
            system=system,
            messages=messages,
            replayed=replayed,
            max_output_tokens=fields.get("max_completion_tokens", fields.get("max_tokens")),
            temperature=fields.get("temperature"),
            seed=fields.get("seed"),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            thinking=fields.get("reasoning_effort") != "none",
            schema=_schema(fields.get("response_format")),
            declared=openai_tools.declared(fields.get("tools")),
        )
        options = fields.get("stream_options") or {}
        return ReplySpec(
            parsed=parsed,
            form="sse" if fields.get("stream") else "whole",
            usage_in_stream=bool(options.get("include_usage")),
            logprobs=fields.get("top_logprobs", 0) if fields.get("logprobs") else None,
            tier=served_tier(fields.get("service_tier")),
        )

    def whole(self, reply_spec: ReplySpec, reply: SimulatedReply) -> dict[str, Any]:
        """See `wire.Wire`."""
        message: dict[str, Any] = {"role": "assistant", "content": _content(reply), "refusal": None, "annotations": []}
        if reply.finish == "output_blocked":
            message["refusal"] = _REFUSAL
        if reply.thought:
            message["reasoning_content"] = reply.thought
        if reply.signature is not None:
            message["extra_content"] = _signed(reply.signature)
        if reply.calls:
            message["tool_calls"] = openai_tools.call_plains(reply.calls, reply_spec.parsed.model)
        content = in_pieces(reply.text) if message["content"] else list[str]()
        choice = {
            "index": 0,
            "message": message,
            "logprobs": _logprobs(reply_spec, content, 0),
            "finish_reason": _finish(reply),
        }
        return {
            **_head(reply_spec, reply, "chat.completion"),
            "choices": [] if reply.finish == "nothing" else [choice],
            "usage": _usage(reply),
            "service_tier": reply_spec.tier,
            "system_fingerprint": None,
        }

    def events(self, reply_spec: ReplySpec, reply: SimulatedReply) -> list[dict[str, Any]]:
        """See `wire.Wire`."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": piece} for piece in in_pieces(reply.thought or "", 2)]
        deltas += [{"content": piece} for piece in in_pieces(reply.text)]
        if reply.finish == "output_blocked":
            deltas.append({"refusal": _REFUSAL})
        deltas += openai_tools.call_deltas(reply.calls, reply_spec.parsed.model)
        last: dict[str, Any] = {} if reply.signature is None else {"extra_content": _signed(reply.signature)}
        finishes = [None] * len(deltas) + [_finish(reply)]
        chunks: list[dict[str, Any]] = []
        if reply.finish != "nothing":
            place = 0
            for delta, finish in zip([*deltas, last], finishes, strict=True):
                text = delta.get("content")
                logprobs = _logprobs(reply_spec, [text], place) if text else None
                place += len(logprobs["content"]) if logprobs else 0
                choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
                chunks.append({**_head(reply_spec, reply, "chat.completion.chunk"), "choices": [choice]})
        for chunk in chunks:
            chunk["service_tier"] = reply_spec.tier
        if reply_spec.usage_in_stream:
            for chunk in chunks:
                chunk["usage"] = None
            chunks.append({**_head(reply_spec, reply, "chat.completion.chunk"), "choices": [], "usage": _usage(reply)})
        return chunks

    def frame(self, reply_spec: ReplySpec, events: list[bytes]) -> list[bytes]:
        """See `wire.Wire`."""
        del reply_spec
        return [*(b"data: " + event + b"\n\n" for event in events), b"data: [DONE]\n\n"]

    def api_error(self, route: Route | None, cause: ErrorCause, now: float) -> ApiError:
        """See `wire.Wire`."""
        del route
        status, words, type_, code = _ERRORS[cause.kind]
        message = cause.message or words.format(model=cause.model)
        error: dict[str, Any] = {"message": message, "type": type_, "param": cause.field, "code": code}
        worded = WordedHint()
        if cause.hint is not None:
            worded = word_hint(cause.hint, ("retry-after-ms", "retry-after", "text-try-again"), now)
            type_, what = _DIMENSIONS["day" if worded.per_day else cause.hint.dimension]
            error["type"] = type_
            error["message"] = f"{message[:-1]} on {what}: Limit {cause.hint.limit}.{worded.text}"
        if worded.retry_delay is not None:
            # As in Google's own OpenAI-compatible route.
            info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": worded.retry_delay}
            error["details"] = [info]
        return ApiError(status=cause.status or status, body={"error": error}, headers=dict(worded.headers))

    def stream_error(self, cause: ErrorCause) -> bytes:
        """See `wire.Wire`."""
        return b"data: " + encode(self.api_error(None, cause, 0.0).body) + b"\n\n"

    def limit_headers(self, left: LeftOver, now: float) -> dict[str, str]:
        """See `wire.Wire`."""
        del now
        headers: dict[str, str] = {}
        for dimension in ("requests", "tokens"):
            if dimension in left.amounts:
                remaining, limit = left.amounts[dimension]
                headers[f"x-ratelimit-limit-{dimension}"] = str(limit)
                headers[f"x-ratelimit-remaining-{dimension}"] = str(remaining)
                headers[f"x-ratelimit-reset-{dimension}"] = go_duration(left.until_full_s(dimension))
        return headers

    def list_models(self, models: tuple[str, ...], query: Mapping[str, str]) -> dict[str, Any]:
        """See `wire.Wire`."""
        del query
        return {"object": "list", "data": [self.show_model(model) for model in models]}

    def show_model(self, model: str) -> dict[str, Any]:
        """See `wire.Wire`."""
        return {"id": model, "object": "model", "created": CREATED, "owned_by": "simulator"}


OPENAI = OpenAIWire()


def _parameters(body: Any) -> dict[str, Any]:
    plain = as_object(body)
    if plain is None:
        refuse("bad_request", "We could not parse the JSON body of your request. Expected an object.")
    for name in plain:
        if name not in _PARAMETERS:
            refuse("bad_request", f"Unknown parameter: '{name}'.", field=name)
    fields = {name: value for name, value in plain.items() if value is not None}
    for name in ("model", "messages"):
        if name not in fields:
            refuse("bad_request", f"Missing required parameter: '{name}'.", field=name)
    for name, value in fields.items():
        if not _PARAMETERS[name](value):
            refuse("bad_request", f"Invalid value for '{name}': {encode(value)[:100].decode(errors='replace')}.",
                   field=name)  # fmt: skip
    _check_together(fields)
    return fields


def _check_together(fields: dict[str, Any]) -> None:
    """Refuse parameters that need each other, or exclude each other."""
    if "max_tokens" in fields and "max_completion_tokens" in fields:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        refuse("bad_request", message, field="max_tokens")
    if "top_logprobs" in fields and not fields.get("logprobs"):
        message = "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled."
        refuse("bad_request", message, field="top_logprobs")
    if "stream_options" in fields and not fields.get("stream"):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        refuse("bad_request", message, field="stream_options")


def served_tier(asked: str | None) -> str:
    """Return the tier that serves a request: what is asked for, by the name that the reply has for it."""
    return {"auto": "default", None: "default", "fast": "priority"}.get(asked, str(asked))


def strict_schema(form: Mapping[str, Any], parameter: str) -> Mapping[str, Any] | None:
    """Return the schema of a `json_schema` format, {} for `json_object`; refuses what strict mode refuses.

    Args:
        form: With the keys `name`, `schema` and `strict`, or of another type.
        parameter: The name of the format in messages.
    """
    if form.get("type") == "json_object":
        return {}
    if form.get("type") != "json_schema":
        return None
    schema = as_object(form.get("schema")) or {}
    if form.get("strict") and (wrong := strict_problem(schema)) is not None:
        message = f"Invalid schema for response_format '{form.get('name')}': {wrong}"
        refuse("bad_request", message, field=parameter)
    return schema


def _schema(value: Any) -> Mapping[str, Any] | None:
    form = as_object(value) or {}
    inner = as_object(form.get("json_schema")) or {}
    if form.get("type") == "json_schema" and not isinstance(inner.get("name"), str):
        refuse("bad_request", "Missing required parameter: 'response_format.json_schema.name'.",
               field="response_format.json_schema.name")  # fmt: skip
    return strict_schema({**inner, "type": form.get("type")}, "response_format")


def logprob_tokens(pieces: list[str], alternatives: int, place: int = 0) -> list[dict[str, Any]]:
    """Return the log probabilities of the tokens of a text, in the form of both of OpenAI's protocols."""
    return [
        {**_token(token, at), "top_logprobs": [_token(f"{token}{other or ''}", at) for other in range(alternatives)]}
        for at, token in enumerate((token for piece in pieces for token in tokens_of(piece)), place)
    ]


def _token(token: str, place: int) -> dict[str, Any]:
    return {"token": token, "logprob": log_probability(token, place), "bytes": list(token.encode("utf-8", "replace"))}


def _logprobs(reply_spec: ReplySpec, pieces: list[str], place: int) -> dict[str, Any] | None:
    if reply_spec.logprobs is None:
        return None
    return {"content": logprob_tokens(pieces, reply_spec.logprobs, place), "refusal": None}


def _messages(value: Any, model: str) -> tuple[str, tuple[tuple[str, str], ...], tuple[ReplayedTurn, ...]]:
    items: list[Any] = as_list(value) or []
    if not items:
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array."
        refuse("bad_request", message, field="messages")
    system: list[str] = []
    messages: list[tuple[str, str]] = []
    replayed: list[ReplayedTurn] = []
    read = [_message(item, f"messages[{at}]") for at, item in enumerate(items)]
    openai_tools.check_order(read, model)
    for at, message in enumerate(read):
        text = _text(message, f"messages[{at}].content")
        if message["role"] in {"system", "developer"}:
            system.append(text)
        elif message["role"] == "assistant":
            replayed.append(_replayed(message, len(messages), text))
            messages.append(("model", text + openai_tools.mark(message)))
        elif message["role"] == "tool":
            before = messages.pop()[1] if messages and messages[-1][0] == "tool" else ""
            messages.append(("tool", before + text))
        else:
            messages.append(("user", text))
    return "".join(system), tuple(messages), tuple(replayed)


def _message(item: Any, where: str) -> dict[str, Any]:
    message = as_object(item)
    if message is None:
        refuse("bad_request", f"Invalid type for '{where}': expected an object.", field=where)
    for name in message:
        if name not in _MESSAGE:
            refuse("bad_request", f"Unknown parameter: '{where}.{name}'.", field=f"{where}.{name}")
    if str(message.get("role")) not in _ROLES:
        supported = "'system', 'assistant', 'user', 'function', 'tool', and 'developer'"
        found = encode(message.get("role")).decode().strip('"')
        refuse("bad_request", f"Invalid value: '{found}'. Supported values are: {supported}.", field=f"{where}.role")
    return message


def _text(message: dict[str, Any], where: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and message["role"] == "assistant":
        if not any(message.get(name) for name in ("tool_calls", "function_call", "refusal", "audio")):
            refuse("bad_request", f"Invalid value for '{where}': expected a string, got null.", field=where)
        return message.get("refusal") or ""
    parts = as_list(content)
    if not parts:
        refuse("bad_request", f"Invalid type for '{where}': expected a string or an array of parts.", field=where)
    return "".join(_part_text(part, f"{where}[{at}]") for at, part in enumerate(parts))


def _part_text(item: Any, where: str) -> str:
    part = as_object(item)
    if part is None or part.get("type") not in {"text", "image_url", "input_audio", "file", "refusal"}:
        refuse("bad_request", f"Invalid value for '{where}': not a content part.", field=where)
    if part["type"] != "text":
        return _media_mark(part, where)
    if not isinstance(part.get("text"), str):
        refuse("bad_request", f"Invalid type for '{where}.text': expected a string.", field=f"{where}.text")
    return part["text"]


def _media_mark(part: dict[str, Any], where: str) -> str:
    """Return what stands for a picture, sound or file."""
    kind = part["type"]
    given = as_object(part.get(kind)) or {}
    try:
        if kind == "image_url":
            mark = media.mark_of(media.seen_in_url("openai", given.get("url")))
            return media.in_detail(mark, given.get("detail"), media.OPENAI_DETAILS)
        if kind == "input_audio":
            return media.seen("openai", f"audio/{given.get('format')}", given.get("data")).mark
        if kind == "file" and "file_data" in given:
            if not given.get("filename"):
                raise media.WrongMedia("Missing required parameter: filename")
            return media.mark_of(media.seen_in_url("openai", given["file_data"]))
    except media.WrongMedia as wrong:
        refuse("bad_request", f"Invalid value for '{where}': {wrong}", field=where)
    return f"<part {hashlib.sha256(encode(part)).hexdigest()[:8]}>"


def _signed(signature: str) -> dict[str, Any]:
    return {"google": {"thought_signature": signature}}


def _replayed(message: dict[str, Any], index: int, text: str) -> ReplayedTurn:
    google = as_object((as_object(message.get("extra_content")) or {}).get("google")) or {}
    signature = google.get("thought_signature")
    return ReplayedTurn(
        index=index, text=text, signature=signature if isinstance(signature, str) else None, in_place=True
    )


def _head(reply_spec: ReplySpec, reply: SimulatedReply, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{reply.reply_id}", "object": kind, "created": CREATED, "model": reply_spec.parsed.model}


def _content(reply: SimulatedReply) -> str | None:
    is_silent = reply.finish in {"prompt_blocked", "output_blocked"} or (reply.calls and not reply.text)
    return None if is_silent else reply.text


def _finish(reply: SimulatedReply) -> str:
    return _FINISH.get(reply.finish, "tool_calls" if reply.calls else "stop")


def _usage(reply: SimulatedReply) -> dict[str, Any]:
    """Return usage as OpenAI does: the completion count includes reasoning."""
    usage: dict[str, Any] = {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    }
    if reply.reasoning_tokens is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": reply.reasoning_tokens, "audio_tokens": 0}
    return usage
