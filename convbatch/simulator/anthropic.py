"""Anthropic's Messages from the server's side, whole and streamed.

Strict where Anthropic is strict: required fields, unknown fields, empty content, sampling settings by API version, and
thinking blocks that are not as they were given or stand in another conversation. Prompt caching is counted as if every
prefix were long enough and still kept: with `cache_control`, a later turn reads what the turn before has written.
Sources: https://docs.anthropic.com/en/api/messages, its pages on extended thinking, prompt caching and errors, and the
types of anthropic 2.14.0, read 2026-11-26.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from convbatch.simulator import anthropic_tools, media
from convbatch.simulator.limits import Dimension
from convbatch.simulator.replies import ParsedRequest, ReplayedTurn, SimulatedReply, history_sha
from convbatch.simulator.schemas import anthropic_problem
from convbatch.simulator.tools import mark_of
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
    in_pieces,
    refuse,
    word_hint,
)

_NO_SAMPLING_SINCE = "2026-10-21"
_SAMPLING = ("temperature", "top_p", "top_k")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_THINKING_TYPES = ("adaptive", "between_tools", "disabled", "enabled")
_CAPABILITIES = ("batch", "citations", "code_execution", "image_input", "pdf_input", "structured_outputs")
_LEAST_BUDGET = 1024
_ANY_FIELDS = ("mcp_servers", "container", "context_management", "inference_geo", "speed", "diagnostics")
_USER_BLOCKS = frozenset({"text", "image", "document", "tool_result", "search_result"})
_MODEL_BLOCKS = frozenset(
    {"text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "web_search_tool_result"}
)
_EMPTY_MESSAGE = (
    "messages.{at}: all messages must have non-empty content except for the optional final assistant message"
)
_PREFILL = "This model does not support assistant message prefill. The conversation must end with a user message."
_BOUND = (
    "The block is bound to a different conversation. Remove the block, or set "
    '`thinking.block_binding.prefix_mismatch_behavior` to "drop_block". That setting requires the '
    "`thinking-binding-controls-2026-08-01` value in the `anthropic-beta` header."
)
_MISSING = (
    "Expected `thinking` or `redacted_thinking`, but found `text`. When `thinking` is enabled, a final `assistant` "
    "message must start with a thinking block (preceeding the lastmost set of `tool_use` and `tool_result` blocks)."
)
_REFUSAL = {"type": "refusal", "category": "cyber", "explanation": "The request could enable cyber harm."}
_LIMITED: dict[Dimension, tuple[str, ...]] = {"requests": ("requests",), "tokens": ("tokens", "input-tokens")}
_EVENT_TYPE = re.compile(rb'\{"type": ?"([a-z_]+)"')


def _number(low: float, high: float) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "Input should be a valid number"
        if value < low:
            return f"Input should be greater than or equal to {low:g}"
        return f"Input should be less than or equal to {high:g}" if value > high else None

    return check


def _is(name: str, *types: type) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        return None if isinstance(value, types) else f"Input should be a valid {name}"

    return check


def _integer(low: int) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return "Input should be a valid integer"
        return None if value >= low else f"Input should be greater than or equal to {low}"

    return check


def _stop(value: object) -> str | None:
    items = as_list(value)
    if items is None or not all(isinstance(item, str) for item in items):
        return "Input should be a valid list"
    return None if all(item.strip() for item in items) else "each stop sequence must contain non-whitespace"


def _cache(value: object) -> str | None:
    plain = as_object(value) or {}
    is_right = plain.get("type") == "ephemeral" and plain.get("ttl", "5m") in ("5m", "1h")
    return None if is_right else "Input should be {'type': 'ephemeral', 'ttl': '5m' or '1h'}"


def _output_config(value: object) -> str | None:
    plain = as_object(value)
    if plain is None or plain.keys() - {"effort", "format"}:
        return "Extra inputs are not permitted"
    if plain.get("effort", "high") not in _EFFORTS:
        return "effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'"
    form = as_object(plain.get("format")) or {"type": "json_schema", "schema": {}}
    is_schema = form.get("type") == "json_schema" and isinstance(form.get("schema"), dict)
    return None if is_schema else "format: Input should be {'type': 'json_schema', 'schema': ...}"


def _thinking(value: object) -> str | None:
    plain = as_object(value) or {}
    kind = plain.get("type")
    if kind not in _THINKING_TYPES:
        return "Input tag should be 'adaptive', 'between_tools', 'disabled' or 'enabled'"
    if kind == "enabled":
        budget = plain.get("budget_tokens")
        if not isinstance(budget, int):
            return "enabled.budget_tokens: Field required"
        if budget < _LEAST_BUDGET:
            return f"enabled.budget_tokens: Input should be greater than or equal to {_LEAST_BUDGET}"
    elif "budget_tokens" in plain:
        return f"{kind}.budget_tokens: Extra inputs are not permitted"
    if plain.get("display") not in (None, "summarized", "omitted") or (kind == "disabled" and "display" in plain):
        return f"{kind}.display: Input should be 'summarized' or 'omitted'"
    return None


def _tier(value: object) -> str | None:
    return None if value in ("auto", "standard_only") else "Input should be 'auto' or 'standard_only'"


def _any(value: object) -> None:
    del value


_PARAMETERS: dict[str, Callable[[object], str | None]] = {
    "model": _is("string", str),
    "max_tokens": _integer(1),
    "messages": _is("list", list),
    "system": _is("string", str, list),
    "temperature": _number(0, 1),
    "top_p": _number(0, 1),
    "top_k": _integer(0),
    "stop_sequences": _stop,
    "stream": _is("boolean", bool),
    "thinking": _thinking,
    "output_config": _output_config,
    "cache_control": _cache,
    "metadata": _is("dictionary", dict),
    "service_tier": _tier,
    "tools": _is("list", list),
    "tool_choice": _is("dictionary", dict),
    **dict.fromkeys(_ANY_FIELDS, _any),
}

_ERRORS: dict[str, tuple[int, str, str]] = {
    "bad_request": (400, "invalid_request_error", "Invalid request."),
    "no_key": (401, "authentication_error", "x-api-key header is required"),
    "bad_key": (401, "authentication_error", "invalid x-api-key"),
    "permission": (403, "permission_error", "Your API key does not have permission to use the specified resource."),
    "no_model": (404, "not_found_error", "model: {model}"),
    "no_channel": (404, "not_found_error", "model: {model}"),
    "no_path": (404, "not_found_error", "Not Found"),
    "rate_limit": (
        429,
        "rate_limit_error",
        "This request would exceed your organization's rate limit of {limit} {what} per {window}.",
    ),
    "no_balance": (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or "
        "purchase credits.",
    ),
    "internal": (500, "api_error", "Internal server error"),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "bad_gateway": (502, "api_error", "Bad gateway"),
    "deadline": (504, "timeout_error", "Request timed out."),
}
_FINISH = {
    "length": "max_tokens",
    "prompt_blocked": "refusal",
    "output_blocked": "refusal",
    "malformed": "malformed_response",
    "unknown": "some_future_reason",
    "nothing": None,
    "paused": "pause_turn",
}


class AnthropicWire:
    """See `wire.Wire`."""

    name = "anthropic"
    content_type = "application/json"
    counts_output_at_admission = False
    request_id_header: str | None = "request-id"
    usage_key = "usage"
    text_key = "text"

    def parse_request(self, route: Route, body: Any) -> ReplySpec:
        """See `wire.Wire`."""
        if not route.version:
            refuse("bad_request", "anthropic-version: header is required")
        fields = _parameters(body, route.version)
        system = _system(fields.get("system"))
        messages, replayed, turns = _messages(fields["messages"], system)
        thinking = as_object(fields.get("thinking")) or {}
        anthropic_tools.check_thinking(turns, thinking)
        cache = as_object(fields.get("cache_control"))
        parsed = ParsedRequest(
            model=fields["model"],
            system=system,
            messages=messages,
            replayed=replayed,
            max_output_tokens=fields["max_tokens"],
            temperature=fields.get("temperature"),
            stop=tuple(fields.get("stop_sequences", ())),
            thinking=thinking.get("type") != "disabled",
            show_thoughts=thinking.get("display", "summarized" if thinking.get("type") == "enabled" else "omitted")
            == "summarized",
            schema=_schema(as_object(fields.get("output_config")) or {}),
            declared=anthropic_tools.declared(fields.get("tools")),
            pauses=anthropic_tools.pauses_in(turns),
        )
        return ReplySpec(
            parsed=parsed,
            form="sse" if fields.get("stream") else "whole",
            cache_ttl=None if cache is None else cache.get("ttl", "5m"),
            marks_system=any("cache_control" in block for block in as_list(fields.get("system")) or ()),
            tier="standard",
        )

    def whole(self, reply_spec: ReplySpec, reply: SimulatedReply) -> dict[str, Any]:
        """See `wire.Wire`."""
        return {
            "id": f"msg_{reply.reply_id}",
            "type": "message",
            "role": "assistant",
            "model": reply_spec.parsed.model,
            "content": list(_blocks(reply_spec.parsed, reply)),
            "stop_reason": _FINISH.get(reply.finish, "tool_use" if reply.calls else "end_turn"),
            "stop_sequence": None,
            "stop_details": _REFUSAL if reply.finish in {"prompt_blocked", "output_blocked"} else None,
            "usage": _usage(reply_spec, reply),
        }

    def events(self, reply_spec: ReplySpec, reply: SimulatedReply) -> list[dict[str, Any]]:
        """See `wire.Wire`."""
        whole = self.whole(reply_spec, reply)
        usage: dict[str, Any] = whole["usage"]
        begun = {key: value for key, value in usage.items() if key != "output_tokens_details"}
        message = {**whole, "content": [], "stop_reason": None, "stop_details": None,
                   "usage": {**begun, "output_tokens": 1}}  # fmt: skip
        events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
        for index, block in enumerate(whole["content"]):
            events += _block_events(index, block)
            events += [{"type": "ping"}] if index == 0 else []
        delta = {key: whole[key] for key in ("stop_reason", "stop_sequence", "stop_details")}
        totals = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens",
                  "output_tokens_details")  # fmt: skip
        ended = {key: usage[key] for key in totals if key in usage}
        events.append({"type": "message_delta", "delta": delta, "usage": ended})
        return [*events, {"type": "message_stop"}]

    def frame(self, reply_spec: ReplySpec, events: list[bytes]) -> list[bytes]:
        """See `wire.Wire`."""
        del reply_spec
        return [b"event: " + _type_of(event) + b"\ndata: " + event + b"\n\n" for event in events]

    def api_error(self, route: Route | None, cause: ErrorCause, now: float) -> ApiError:
        """See `wire.Wire`."""
        del route
        status, type_, words = _ERRORS[cause.kind]
        hint, worded = cause.hint, WordedHint()
        if hint is not None:
            worded = word_hint(hint, ("retry-after",), now)
        what = "requests" if hint is None or hint.dimension != "tokens" else "input tokens"
        window = "day" if worded.per_day else "minute"
        limit = f"{60 if hint is None else hint.limit:,}"
        message = words.format(model=cause.model, what=what, window=window, limit=limit)
        message = message if cause.message is None else _anthropics_words(cause.message)
        body: dict[str, Any] = {"type": "error", "error": {"type": type_, "message": message + worded.text}}
        if cause.request_id is not None:
            body["request_id"] = cause.request_id
        return ApiError(status=cause.status or status, body=body, headers=dict(worded.headers))

    def stream_error(self, cause: ErrorCause) -> bytes:
        """See `wire.Wire`."""
        return b"data: " + encode(self.api_error(None, cause, 0.0).body) + b"\n\n"

    def limit_headers(self, left: LeftOver, now: float) -> dict[str, str]:
        """See `wire.Wire`; the limit on tokens is one of input tokens."""
        headers: dict[str, str] = {}
        for dimension, names in _LIMITED.items():
            for name in names if dimension in left.amounts else ():
                remaining, limit = left.amounts[dimension]
                full_at = datetime.fromtimestamp(now + left.until_full_s(dimension), UTC)
                headers[f"anthropic-ratelimit-{name}-limit"] = str(limit)
                headers[f"anthropic-ratelimit-{name}-remaining"] = str(remaining)
                headers[f"anthropic-ratelimit-{name}-reset"] = f"{full_at:%Y-%m-%dT%H:%M:%SZ}"
        return headers

    def list_models(self, models: tuple[str, ...], query: Mapping[str, str]) -> dict[str, Any]:
        """See `wire.Wire`."""
        size = int(query["limit"]) if query.get("limit", "").isdecimal() else 20
        start = models.index(query["after_id"]) + 1 if query.get("after_id") in models else 0
        page = models[start : start + max(1, min(size, 1000))]
        return {
            "data": [self.show_model(model) for model in page],
            "has_more": start + len(page) < len(models),
            "first_id": page[0] if page else None,
            "last_id": page[-1] if page else None,
        }

    def show_model(self, model: str) -> dict[str, Any]:
        """See `wire.Wire`."""
        return {
            "type": "model",
            "id": model,
            "display_name": f"Simulated {model}",
            "created_at": "2026-11-21T00:00:00Z",
            "lifecycle": "active",
            "max_input_tokens": 1_000_000,
            "max_tokens": 128_000,
            "capabilities": _capabilities(thinks=model == "sim-think"),
        }


ANTHROPIC = AnthropicWire()


def _capabilities(*, thinks: bool) -> dict[str, Any]:
    """Return what a model can do; every known capability is listed."""

    def supported(*names: str, of: tuple[str, ...]) -> dict[str, Any]:
        return {name: {"supported": name in names} for name in of}

    plain = supported("image_input", "pdf_input", "structured_outputs", of=_CAPABILITIES)
    efforts = supported(*(_EFFORTS if thinks else ()), of=_EFFORTS)
    types = supported("disabled", *(("adaptive", "enabled") if thinks else ()), of=_THINKING_TYPES)
    tools = supported(of=("code_execution", "web_search"))
    return {
        **plain,
        "context_management": {"supported": False},
        "effort": {"supported": thinks, **efforts},
        "server_tools": {"supported": False, **tools},
        "thinking": {"supported": thinks, "types": types},
    }


def _anthropics_words(message: str) -> str:
    """Return a message of the actor about signatures in Anthropic's words."""
    position = re.search(r"position (\d+)\.$", message)
    if position is None:
        return message
    at = f"messages.{int(position[1]) - 1}.content.0"
    if "missing" in message:
        return f"{at}.type: {_MISSING}"
    return f"{at}: Invalid `signature` in `thinking` block"


def _parameters(body: Any, version: str) -> dict[str, Any]:
    plain = as_object(body)
    if plain is None:
        refuse("bad_request", "Input should be a valid dictionary")
    for name in ("model", "max_tokens", "messages"):
        if plain.get(name) is None:
            refuse("bad_request", f"{name}: Field required", field=name)
    for name, value in plain.items():
        if name not in _PARAMETERS:
            refuse("bad_request", f"{name}: Extra inputs are not permitted", field=name)
        if value is not None and (wrong := _PARAMETERS[name](value)) is not None:
            refuse("bad_request", f"{name}: {wrong}", field=name)
    fields = {name: value for name, value in plain.items() if value is not None}
    _check_sampling(fields, version)
    return fields


def _check_sampling(fields: dict[str, Any], version: str) -> None:
    thinking = as_object(fields.get("thinking")) or {}
    if version >= _NO_SAMPLING_SINCE and (name := next((name for name in _SAMPLING if name in fields), None)):
        refuse("bad_request", f"{name}: this parameter is not supported with anthropic-version {version}", field=name)
    if thinking.get("type") in ("enabled", "adaptive") and fields.get("temperature", 1) != 1:
        refuse("bad_request", "`temperature` may only be set to 1 when thinking is enabled or in adaptive mode.")
    if thinking.get("budget_tokens", 0) >= fields["max_tokens"]:
        refuse("bad_request", "`max_tokens` must be greater than `thinking.budget_tokens`.")


def _system(value: Any) -> str:
    if isinstance(value, list):
        return "".join(_text(block, f"system.{at}") for at, block in enumerate(as_list(value) or ()))
    return value or ""


def _messages(
    value: Any, system: str
) -> tuple[tuple[tuple[str, str], ...], tuple[ReplayedTurn, ...], list[anthropic_tools.Turn]]:
    items: list[Any] = as_list(value) or []
    if not items:
        refuse("bad_request", "messages: at least one message is required", field="messages")
    messages: list[tuple[str, str]] = []
    replayed: list[ReplayedTurn] = []
    turns: list[anthropic_tools.Turn] = []
    for at, item in enumerate(items):
        message = _message(as_object(item), at)
        blocks = _content(message, at)
        role = "model" if message["role"] == "assistant" else "user"
        anthropic_tools.add_turn(turns, message["role"], blocks)
        mark = functools.partial(_media_mark, where=f"messages.{at}.content.tool_result")
        if results := anthropic_tools.results_text(blocks, mark):
            messages.append(("tool", results))
        blocks = [block for block in blocks if block["type"] != "tool_result"]
        if not blocks:
            continue
        text = "".join(_text(block, f"messages.{at}.content.{n}") for n, block in enumerate(blocks))
        if role == "model":
            prefix = history_sha(system, messages)
            signature = _signature_of(blocks, prefix, f"messages.{at}")
            if messages and messages[-1][0] == "model":
                text, signature = messages.pop()[1] + text, replayed.pop().signature or signature
            replayed.append(ReplayedTurn(index=len(messages), text=text, signature=signature, in_place=True))
        elif messages and messages[-1][0] == "user":
            text = messages.pop()[1] + text  # neighbours of the same role are one message
        messages.append((role, text))
    if messages[0][0] != "user":
        refuse("bad_request", 'messages: first message must use the "user" role', field="messages")
    if messages[-1][0] == "model" and not anthropic_tools.is_paused(turns[-1][1]):
        refuse("bad_request", _PREFILL, field="messages")
    anthropic_tools.check_order(turns)
    return tuple(messages), tuple(replayed), turns


def _message(message: dict[str, Any] | None, at: int) -> dict[str, Any]:
    if message is None:
        refuse("bad_request", f"messages.{at}: Input should be a valid dictionary")
    for name in message.keys() - {"role", "content"}:
        refuse("bad_request", f"messages.{at}.{name}: Extra inputs are not permitted")
    if message.get("role") not in ("user", "assistant"):
        refuse("bad_request", f"messages.{at}.role: Input should be 'user' or 'assistant'")
    return message


def _content(message: dict[str, Any], at: int) -> list[dict[str, Any]]:
    """Return the blocks of a message; refuses what the API refuses."""
    content = message.get("content")
    blocks: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else as_list(content) or []
    if not blocks or content == "":
        refuse("bad_request", _EMPTY_MESSAGE.format(at=at))
    known = _MODEL_BLOCKS if message["role"] == "assistant" else _USER_BLOCKS
    for n, item in enumerate(blocks):
        block = as_object(item) or {}
        if block.get("type") not in known:
            tags = ", ".join(f"'{kind}'" for kind in sorted(known))
            found = encode(block.get("type")).decode().strip('"')
            wrong = f"Input tag '{found}' found using 'type' does not match any of the expected tags: {tags}"
            refuse("bad_request", f"messages.{at}.content.{n}: {wrong}")
        if block["type"] == "text" and block.get("text") == "":
            refuse("bad_request", "messages: text content blocks must be non-empty")
    return blocks


def _text(block: dict[str, Any], where: str) -> str:
    """Return the text of a block; other blocks are a mark that depends on their content, thinking is nothing."""
    if block.get("type") in ("thinking", "redacted_thinking"):
        return ""
    if block.get("type") == "tool_use":
        return mark_of(block.get("id"), block.get("name"), block.get("input"))
    if block.get("type") != "text":
        return _media_mark(block, where)
    if not isinstance(block.get("text"), str):
        refuse("bad_request", f"{where}.text: Input should be a valid string")
    return block["text"]


def _media_mark(block: dict[str, Any], where: str) -> str:
    """Return what stands for a picture or document; another block is a mark that depends on its content."""
    source = as_object(block.get("source")) or {}
    kind = str(block.get("type"))
    try:
        match source.get("type"):
            case "base64" if kind == "image" or source.get("media_type") == "application/pdf":
                return media.seen("anthropic", source.get("media_type"), source.get("data")).mark
            case "text" if kind == "document" and isinstance(text := source.get("data"), str) and text:
                return media.Seen("document", "text/plain", text.encode()).mark
            case "url":
                return media.address_mark(kind, str(source.get("url")))
            case "base64":
                raise media.WrongMedia(f"Input should be 'application/pdf', not {source.get('media_type')}")
            case _:
                return f"<block {hashlib.sha256(encode(block)).hexdigest()[:8]}>"
    except media.WrongMedia as wrong:
        refuse("bad_request", f"{where}.{kind}.source: {wrong}")


def _schema(config: dict[str, Any]) -> Mapping[str, Any] | None:
    form = as_object(config.get("format"))
    if form is None:
        return None
    if (wrong := anthropic_problem(form["schema"])) is not None:
        refuse("bad_request", f"output_config.format.schema: {wrong}", field="output_config")
    return form["schema"]


class _Seal(NamedTuple):
    """What the signature of a thinking block contains."""

    thinking: str
    prefix: str
    signature: str | None


def _sealed(seal: _Seal) -> str:
    content = orjson.dumps([hashlib.sha256(seal.thinking.encode()).hexdigest()[:16], seal.prefix, seal.signature])
    return base64.b64encode(_digest(content) + content).decode()


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, key=b"simulator", digest_size=12).digest()


def _signature_of(blocks: list[dict[str, Any]], prefix: str, where: str) -> str | None:
    """Return the signature inside the thinking of a message; refuses thinking that is not as it was given."""
    found: str | None = None
    for n, block in enumerate(blocks):
        if block["type"] != "thinking":
            continue
        at = f"{where}.content.{n}"
        if not isinstance(block.get("signature"), str) or not isinstance(block.get("thinking"), str):
            name = "signature" if not isinstance(block.get("signature"), str) else "thinking"
            refuse("bad_request", f"{at}.{name}: Field required")
        try:
            plain = base64.b64decode(block["signature"], validate=True)
        except binascii.Error:
            plain = b""
        known = plain[12:] if plain and plain[:12] == _digest(plain[12:]) else None
        if known is None:
            refuse("bad_request", f"{at}: Invalid `signature` in `thinking` block")
        thinking, bound_to, found = orjson.loads(known)
        if thinking != hashlib.sha256(block["thinking"].encode()).hexdigest()[:16]:
            refuse("bad_request", f"{at}: Invalid `signature` in `thinking` block")
        if bound_to != prefix:
            refuse("bad_request", f"{at}: Invalid `signature` in `thinking` block. {_BOUND}")
    return found


def _blocks(parsed: ParsedRequest, reply: SimulatedReply) -> Iterator[dict[str, Any]]:
    if reply.thought or reply.reasoning_tokens or reply.signature:
        seal = _Seal(reply.thought or "", history_sha(parsed.system, parsed.messages), reply.signature)
        yield {"type": "thinking", "thinking": seal.thinking, "signature": _sealed(seal)}
    if reply.finish in {"prompt_blocked", "output_blocked", "nothing", "malformed"}:
        return
    if reply.text:
        yield {"type": "text", "text": reply.text}
    yield from anthropic_tools.call_blocks(reply.calls)
    if reply.finish == "paused":
        yield anthropic_tools.paused_block(reply.reply_id)


def _block_events(index: int, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if block["type"] in ("tool_use", "server_tool_use"):
        yield from anthropic_tools.call_events(index, block)
        return
    is_text = block["type"] == "text"
    empty = {"type": "text", "text": ""} if is_text else {"type": "thinking", "thinking": "", "signature": ""}
    yield {"type": "content_block_start", "index": index, "content_block": empty}
    key = "text" if is_text else "thinking"
    for piece in in_pieces(block[key]):
        yield _delta(index, {"type": f"{key}_delta", key: piece})
    if not is_text:
        yield _delta(index, {"type": "signature_delta", "signature": block["signature"]})
    yield {"type": "content_block_stop", "index": index}


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _type_of(event: bytes) -> bytes:
    found = _EVENT_TYPE.match(event)
    return found[1] if found else b"message"


def _usage(reply_spec: ReplySpec, reply: SimulatedReply) -> dict[str, Any]:
    """Return usage as Anthropic does: the input excludes what was read from the cache and written to it."""
    read, written = reply_spec.cached
    is_hour = reply_spec.cache_ttl == "1h"
    usage: dict[str, Any] = {
        "input_tokens": reply.input_tokens - read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": 0 if is_hour else written,
            "ephemeral_1h_input_tokens": written if is_hour else 0,
        },
        "output_tokens": reply.output_tokens,
        "service_tier": reply_spec.tier,
    }
    if reply.reasoning_tokens is not None:
        usage["output_tokens_details"] = {"thinking_tokens": reply.reasoning_tokens}
    return usage
