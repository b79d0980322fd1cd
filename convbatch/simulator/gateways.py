"""Gateways in front of the provider: how new-api, LiteLLM and OpenRouter change requests, replies and errors.

A gateway is a `Wire` around each wire that it serves. What it changes is what its source, its documentation, or a run
of it in front of this simulator shows; anything else passes through as the provider sends it. Sources: new-api as
described in its repository, 2026-08; LiteLLM 1.110.2, run on 2026-11-27; https://openrouter.ai/docs (errors, streaming,
usage accounting, reasoning tokens), read 2026-11-27.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, cast, get_args

from convbatch.simulator.replies import SimulatedReply
from convbatch.simulator.wire import (
    ApiError,
    ErrorCause,
    Kind,
    LeftOver,
    ReplySpec,
    Route,
    Wire,
    as_list,
    as_object,
    encode,
)

GatewayName = Literal["new-api", "litellm", "openrouter"]
GATEWAYS: tuple[GatewayName, ...] = get_args(GatewayName)
Body = dict[str, Any]


class Gateway(Protocol):
    """What a gateway does with each wire; every method has the wire behind it as its first argument."""

    wires: tuple[str, ...]

    def request(self, wire: Wire, body: Any) -> Any:
        """Return the body of a request as the provider receives it."""
        ...

    def whole(self, wire: Wire, body: Body) -> Body:
        """Return a reply as the client receives it."""
        ...

    def events(self, wire: Wire, events: list[Body]) -> list[Body]:
        """Return the events of a stream as the client receives them."""
        ...

    def frame(self, wire: Wire, reply_spec: ReplySpec, events: list[bytes]) -> list[bytes]:
        """Return encoded events as pieces of a body."""
        ...

    def error(self, wire: Wire, original: ApiError, cause: ErrorCause) -> ApiError:
        """Return an error as the client receives it."""
        ...

    def stream_error(self, wire: Wire, original: ApiError, cause: ErrorCause) -> bytes:
        """Return the piece of a body that ends a stream with an error."""
        ...

    def headers(self, wire: Wire, sequence: int, model: str | None) -> dict[str, str]:
        """Return the headers that identify a response."""
        ...


@dataclass(frozen=True, slots=True)
class WireBehindGateway:
    """A wire as a gateway serves it: see `wire.Wire`."""

    inner: Wire
    gateway: Gateway

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)  # constants of the wire, and the list of its models

    def parse_request(self, route: Route, body: Any) -> ReplySpec:
        """See `wire.Wire`."""
        return self.inner.parse_request(route, self.gateway.request(self.inner, body))

    def whole(self, reply_spec: ReplySpec, reply: SimulatedReply) -> Body:
        """See `wire.Wire`."""
        return self.gateway.whole(self.inner, self.inner.whole(reply_spec, reply))

    def events(self, reply_spec: ReplySpec, reply: SimulatedReply) -> list[Body]:
        """See `wire.Wire`."""
        return self.gateway.events(self.inner, self.inner.events(reply_spec, reply))

    def frame(self, reply_spec: ReplySpec, events: list[bytes]) -> list[bytes]:
        """See `wire.Wire`."""
        return self.gateway.frame(self.inner, reply_spec, events)

    def api_error(self, route: Route | None, cause: ErrorCause, now: float) -> ApiError:
        """See `wire.Wire`."""
        return self.gateway.error(self.inner, self.inner.api_error(route, cause, now), cause)

    def stream_error(self, cause: ErrorCause) -> bytes:
        """See `wire.Wire`."""
        return self.gateway.stream_error(self.inner, self.inner.api_error(None, cause, 0.0), cause)

    def limit_headers(self, left: LeftOver, now: float) -> dict[str, str]:
        """See `wire.Wire`; none of these gateways passes the limits of its upstream on under their own names."""
        del left, now
        return {}


def behind(name: GatewayName, wire: Wire) -> Wire | None:
    """Return a wire as a gateway serves it; None if it does not."""
    gateway = _GATEWAYS[name]
    return cast("Wire", WireBehindGateway(wire, gateway)) if wire.name in gateway.wires else None


def gateway_headers(name: GatewayName, wire: Wire, sequence: int, model: str | None) -> dict[str, str]:
    """Return the headers by which a gateway identifies a response."""
    return _GATEWAYS[name].headers(wire, sequence, model)


@dataclass(frozen=True, slots=True)
class _MistakenWire:
    """Reads requests of one wire and answers in another, as a server that is asked in a wrong protocol."""

    asked: Wire
    answered: Wire

    def __getattr__(self, name: str) -> Any:
        return getattr(self.answered, name)

    def parse_request(self, route: Route, body: Any) -> ReplySpec:
        """See `wire.Wire`."""
        return replace(self.asked.parse_request(route, body), tier="default")


def mistaken(asked: Wire, answered: Wire) -> Wire:
    """Return a wire that reads requests of one wire and answers in another."""
    return cast("Wire", _MistakenWire(asked, answered))


def _in_order(body: Mapping[str, Any], *names: str) -> Body:
    """Return an object with some keys first, in this order, as one that was written from a fixed structure."""
    return {**{name: body[name] for name in names if name in body}, **body}


def _without_nulls(body: Mapping[str, Any]) -> Body:
    return {name: value for name, value in body.items() if value is not None}


def _message_in(body: Any) -> str:
    first = cast("list[Any]", body)[0] if isinstance(body, list) else body
    return str(first["error"]["message"])


class _Passing:
    """Passes everything on unchanged."""

    wires: tuple[str, ...] = ("gemini", "openai", "responses", "anthropic")

    def request(self, wire: Wire, body: Any) -> Any:
        """See `Gateway`."""
        del wire
        return body

    def whole(self, wire: Wire, body: Body) -> Body:
        """See `Gateway`."""
        del wire
        return body

    def events(self, wire: Wire, events: list[Body]) -> list[Body]:
        """See `Gateway`."""
        del wire
        return events

    def frame(self, wire: Wire, reply_spec: ReplySpec, events: list[bytes]) -> list[bytes]:
        """See `Gateway`."""
        return wire.frame(reply_spec, events)

    def stream_error(self, wire: Wire, original: ApiError, cause: ErrorCause) -> bytes:
        """See `Gateway`."""
        del wire, cause
        return b"data: " + encode(original.body) + b"\n\n"


# --- new-api ---------------------------------------------------------------------------------------------------------

_DROPPED = ("serviceTier", "service_tier", "store", "labels")
"""Fields of Gemini's requests that are not in the structure into which new-api reads them."""
_NEW_API_OWN: dict[Kind, tuple[int, str, str]] = {
    "no_key": (401, "未提供令牌", ""),
    "bad_key": (401, "无效的令牌", ""),
    "no_balance": (403, "用户额度不足, 剩余额度: ¥0.000000", "insufficient_user_quota"),
    "no_channel": (503, "分组 default 下模型 {model} 无可用渠道（distributor）", "model_not_found"),
    "no_model": (503, "分组 default 下模型 {model} 无可用渠道（distributor）", "model_not_found"),
}
"""Failures that it detects itself, before the relay: in OpenAI's shape on every route."""


class NewApi(_Passing):
    """new-api, as DMXAPI runs it: errors of its own, request ids in the texts, fields lost on the way."""

    def request(self, wire: Wire, body: Any) -> Any:
        """See `Gateway`; `: PING` comments are left out: the operator may switch them on, ten seconds apart."""
        plain = as_object(body)
        if wire.name != "gemini" or plain is None:
            return body
        return {name: value for name, value in plain.items() if name not in _DROPPED}

    def error(self, wire: Wire, original: ApiError, cause: ErrorCause) -> ApiError:
        """See `Gateway`; details and upstream headers are lost, unless a fault script asks for a form of hint."""
        suffix = "" if cause.gateway_id is None else f" (request id: {cause.gateway_id})"
        if cause.kind in _NEW_API_OWN:
            status, message, code = _NEW_API_OWN[cause.kind]
            error = {"message": message.format(model=cause.model) + suffix, "type": "new_api_error", "param": "",
                     "code": code}  # fmt: skip
            return ApiError(status=cause.status or status, body={"error": error})
        headers = original.headers if cause.hint is not None and cause.hint.form is not None else {}
        message = _message_in(original.body) + suffix
        if cause.kind == "no_path":
            error = {"message": message, "type": "invalid_request_error", "param": "", "code": ""}
            return ApiError(status=404, body={"error": error})
        if wire.name == "anthropic":
            plain = {"type": "upstream_error", "message": message}
            return ApiError(status=original.status, body={"type": "error", "error": plain}, headers=headers)
        error = {"message": message, "type": "upstream_error", "param": "", "code": original.status}
        return ApiError(status=original.status, body={"error": error}, headers=headers)

    def headers(self, wire: Wire, sequence: int, model: str | None) -> dict[str, str]:
        """See `Gateway`."""
        del wire, model
        return {"x-oneapi-request-id": new_api_id(sequence)}


def new_api_id(sequence: int) -> str:
    """Return the request id of new-api: the time, then random digits."""
    return f"20261122000000{sequence:022d}"


# --- LiteLLM ---------------------------------------------------------------------------------------------------------

_LITELLM_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_denied_error", 404: "not_found_error",
    429: "throttling_error",
}  # fmt: skip
_LITELLM_CLASSES = {
    400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError",
    429: "RateLimitError", 500: "InternalServerError", 502: "BadGatewayError", 503: "ServiceUnavailableError",
    504: "Timeout",
}  # fmt: skip
_ANTHROPIC_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip
_ROUTES = {
    "openai": "/chat/completions", "responses": "/responses", "anthropic": "anthropic_messages",
    "gemini": "agenerate_content",
}  # fmt: skip
_PROVIDERS = {"openai": "OpenAI", "responses": "OpenAI", "anthropic": "Anthropic", "gemini": "Gemini"}
_NOT_LISTED = (
    "{route}: Invalid model name passed in model={model}. Call `/v1/models` to view available models for your key."
)
_FAILED = "\n\nLiteLLM: model group '{model}' failed with the error above. No fallback was attempted."
_NULL_COUNTS = ("audio_tokens", "cached_tokens_details", "image_tokens", "text_tokens", "video_tokens")


class LiteLlm(_Passing):
    """LiteLLM's proxy. Its Messages are those of a model behind another API: usage is reduced to two counts."""

    def whole(self, wire: Wire, body: Body) -> Body:
        """See `Gateway`; bodies are written anew, with other orders of keys."""
        match wire.name:
            case "openai":
                return self._chat(body)
            case "responses":
                return self._response(body)
            case "anthropic":
                usage = _two_counts(body["usage"])
                order = ("id", "type", "role", "model", "stop_sequence", "usage", "content", "stop_reason")
                return _in_order({**body, "usage": usage}, *order)
            case _:
                return body

    def events(self, wire: Wire, events: list[Body]) -> list[Body]:
        """See `Gateway`; nulls are left out, and the usage of Messages is zero until the end."""
        match wire.name:
            case "openai":
                return [self._chunk(event) for event in events]
            case "responses":
                model = events[0]["response"]["model"]
                return [self._response_event(event, model) for event in events]
            case "anthropic":
                return [_message_event(event) for event in events if event["type"] != "ping"]
            case _:
                return events

    def frame(self, wire: Wire, reply_spec: ReplySpec, events: list[bytes]) -> list[bytes]:
        """See `Gateway`; events of Messages have blanks after commas and colons."""
        if wire.name == "anthropic":
            events = [json.dumps(json.loads(event), ensure_ascii=False).encode() for event in events]
        return wire.frame(reply_spec, events)

    def error(self, wire: Wire, original: ApiError, cause: ErrorCause) -> ApiError:
        """See `Gateway`; upstream headers have a prefix, and its body or message is quoted in the text."""
        status, message, type_ = self._own(wire, cause) or self._relayed(wire, original, cause)
        headers = {f"llm_provider-{name}": value for name, value in original.headers.items()}
        if wire.name == "anthropic":
            plain: Body = {"type": _ANTHROPIC_TYPES.get(status, "api_error"), "message": message}
            return ApiError(status=status, body={"type": "error", "error": plain}, headers=headers)
        error: Body = {
            "message": message,
            "type": type_,
            "param": cause.field if status == 400 else None,
            "code": str(status),
        }
        if cause.kind == "no_model":
            error["provider_specific_fields"] = {"error": message}
        return ApiError(status=status, body={"error": error}, headers=headers)

    def stream_error(self, wire: Wire, original: ApiError, cause: ErrorCause) -> bytes:
        """See `Gateway`; errors of Messages and Gemini pass through as they are."""
        if wire.name == "openai":
            message = f"litellm.APIConnectionError: APIConnectionError: OpenAIException - {_message_in(original.body)}"
            error = {"message": message, "type": "internal_server_error", "param": None, "code": "500"}
            return f"data: {json.dumps({'error': error})}\n\ndata: [DONE]\n\n".encode()
        if wire.name == "responses":
            return _failed_response(original)
        return super().stream_error(wire, original, cause)

    def headers(self, wire: Wire, sequence: int, model: str | None) -> dict[str, str]:
        """See `Gateway`."""
        call = hashlib.sha256(str(sequence).encode()).hexdigest()
        headers = {
            "x-litellm-call-id": f"{call[:8]}-{call[8:12]}-4{call[13:16]}-8{call[17:20]}-{call[20:32]}",
            "x-litellm-version": "1.110.2",
            "x-litellm-key-spend": "0.0",
        }
        if model is not None:
            headers["x-litellm-model-group"] = model
        if wire.request_id_header is not None:
            headers["request-id"] = headers[f"llm_provider-{wire.request_id_header}"] = f"req_{sequence:012d}"
        return headers

    def _chat(self, body: Body) -> Body:
        choices = [
            {
                **_in_order(
                    {key: value for key, value in choice.items() if key != "logprobs"}, "finish_reason", "index"
                ),
                "message": _in_order(choice["message"], "content", "role", "reasoning_content"),
                "provider_specific_fields": {},
                "logprobs": choice["logprobs"],
            }
            for choice in body["choices"]
        ]
        usage = _in_order(body["usage"], "completion_tokens", "prompt_tokens", "total_tokens")
        return _in_order({**body, "choices": choices, "usage": usage}, "id", "created", "model", "object")

    def _chunk(self, event: Body) -> Body:
        choices: list[Body] = [
            _in_order({**_without_nulls(choice), "delta": _without_nulls(choice["delta"])}, "finish_reason")
            for choice in event["choices"]
        ]
        return _in_order(_without_nulls({**event, "choices": choices}), "id", "created", "model", "object")

    def _response(self, body: Body) -> Body:
        ordered = dict(sorted(body.items(), key=lambda item: (item[0] not in _FIRST, item[0])))
        usage = as_object(body.get("usage"))
        if usage is not None:
            details = {**dict.fromkeys(_NULL_COUNTS), **usage["input_tokens_details"]}
            ordered["usage"] = {**usage, "input_tokens_details": dict(sorted(details.items()))}
        sealed = base64.urlsafe_b64encode(hashlib.sha512(body["id"].encode()).digest() * 4).decode()
        return {**ordered, "id": f"resp_{sealed}"}

    def _response_event(self, event: Body, model: str) -> Body:
        inner = as_object(event.get("response"))
        changed = event if inner is None else {**event, "response": _without_nulls(self._response(inner))}
        return {**changed, "model": model}

    def _own(self, wire: Wire, cause: ErrorCause) -> tuple[int, str, str] | None:
        match cause.kind:
            case "no_model" | "no_channel":
                message = _NOT_LISTED.format(route=_ROUTES[wire.name], model=cause.model)
                return 400, message, "invalid_request_error"
            case "no_key":
                return 401, "Authentication Error, No api key passed in.", "auth_error"
            case "bad_key":
                return 401, "Authentication Error, Invalid API key provided.", "token_not_found_in_db"
            case "no_balance":
                message = "Budget has been exceeded! Key=sk-...1234 Current cost: 1.02, Max budget: 1.0"
                return 422, message, "budget_exceeded"
            case _:
                return None

    def _relayed(self, wire: Wire, original: ApiError, cause: ErrorCause) -> tuple[int, str, str]:
        provider = _PROVIDERS[wire.name]
        status = 500 if wire.name == "gemini" and original.status == 503 else original.status
        name = _LITELLM_CLASSES.get(status, "InternalServerError")
        # A chat completion's error is quoted by its message, any other as its whole body.
        quoted = _message_in(original.body) if wire.name == "openai" else encode(original.body).decode()
        again = f"{name}: " if provider == "OpenAI" and name != "BadRequestError" else ""
        again = f"litellm.{name}: " if provider == "Gemini" and status in (429, 503) else again
        message = f"litellm.{name}: {again}{provider}Exception - {quoted}"
        failed = _FAILED.format(model=cause.model)
        return status, message + failed, _LITELLM_TYPES.get(status, "internal_server_error")


def _failed_response(original: ApiError) -> bytes:
    """Return the event by which a stream of Responses ends with an error."""
    inner = original.body["error"]
    error = {"code": inner["code"] or "server_error", "message": inner["message"]}
    failed = {"id": "resp_failed", "created_at": 1_795_000_000, "error": error, "object": "response", "output": [],
              "status": "failed"}  # fmt: skip
    return b"event: response.failed\ndata: " + encode({"type": "response.failed", "response": failed}) + b"\n\n"


_FIRST = frozenset({"created_at", "error", "id", "incomplete_details", "instructions", "metadata", "model", "object"})


def _two_counts(usage: Mapping[str, Any]) -> Body:
    inside = usage.get("cache_creation_input_tokens", 0) + usage.get("cache_read_input_tokens", 0)
    return {"input_tokens": usage["input_tokens"] + inside, "output_tokens": usage["output_tokens"]}


def _message_event(event: Body) -> Body:
    if event["type"] == "message_start":
        zeros = dict.fromkeys(
            ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"), 0
        )
        return {**event, "message": {**event["message"], "usage": zeros}}
    return {**event, "usage": _two_counts(event["usage"])} if event["type"] == "message_delta" else event


# --- OpenRouter ------------------------------------------------------------------------------------------------------

_COMMENT = b": OPENROUTER PROCESSING\n\n"
_COST = 0.000_001
"""US dollars that it reports for each token."""
_UPSTREAM_STATUS = {529: 502, 500: 502, 503: 502, 504: 408}
_WHILE_GENERATING: tuple[Kind, ...] = ("internal", "bad_gateway", "overloaded")
"""Failures of an upstream that has begun to answer: reported inside a response with status 200."""
_OPENROUTER_OWN: dict[Kind, tuple[int, str]] = {
    "no_key": (401, "No auth credentials found"),
    "bad_key": (401, "User not found."),
    "no_balance": (402, "Insufficient credits. Add more using https://openrouter.ai/settings/credits"),
    "no_model": (400, "{model} is not a valid model ID"),
    "no_channel": (503, "No endpoints found for {model}."),
}
_RESPONSES_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
_NATIVE = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}


class OpenRouter(_Passing):
    """OpenRouter: chat completions with its own fields, and Responses and Messages with its own errors."""

    wires: tuple[str, ...] = ("openai", "responses", "anthropic")

    def request(self, wire: Wire, body: Any) -> Any:
        """See `Gateway`; encrypted reasoning comes back in `reasoning_details`."""
        plain = as_object(body)
        messages = as_list(None if plain is None else plain.get("messages"))
        if wire.name != "openai" or plain is None or messages is None:
            return body
        changed: Body = {**plain, "messages": [_unpacked(message) for message in messages]}
        return {**changed, "stream_options": {"include_usage": True}} if plain.get("stream") else changed

    def whole(self, wire: Wire, body: Body) -> Body:
        """See `Gateway`."""
        if wire.name != "openai":
            return body
        choices = [_native({**choice, "message": _packed(choice["message"])}) for choice in body["choices"]]
        changed = {**body, "id": _generation(body), "provider": "Google AI Studio", "choices": choices}
        changed["usage"] = _with_cost(body["usage"])
        return _in_order(changed, "id", "provider", "model", "object", "created")

    def events(self, wire: Wire, events: list[Body]) -> list[Body]:
        """See `Gateway`; usage always comes, in a last event without choices."""
        if wire.name != "openai":
            return events
        changed = [self._chunk(event) for event in events]
        return [event for event in changed if event["choices"] or event.get("usage")]

    def frame(self, wire: Wire, reply_spec: ReplySpec, events: list[bytes]) -> list[bytes]:
        """See `Gateway`; comments keep the connection open before the first event."""
        frames = wire.frame(reply_spec, events)
        return [_COMMENT, _COMMENT, *frames[:2], _COMMENT, *frames[2:]]

    def error(self, wire: Wire, original: ApiError, cause: ErrorCause) -> ApiError:
        """See `Gateway`; an upstream error is quoted as a string in `metadata.raw`."""
        error: Body
        if cause.kind in _OPENROUTER_OWN:
            status, words = _OPENROUTER_OWN[cause.kind]
            error = {"message": words.format(model=cause.model), "code": status}
        elif cause.kind in ("bad_request", "permission", "no_path"):
            status, error = original.status, {"message": _message_in(original.body), "code": original.status}
        else:
            status = _UPSTREAM_STATUS.get(original.status, original.status)
            metadata = {"raw": encode(original.body).decode(), "provider_name": "Google AI Studio"}
            error = {"message": "Provider returned error", "code": status, "metadata": metadata}
        headers = {name: value for name, value in original.headers.items() if name == "retry-after"}
        if wire.name == "responses":
            code = _RESPONSES_CODES.get(status, "server_error")
            body: Body = {"error": {"code": code, "message": error["message"]}, "metadata": error.get("metadata")}
            return ApiError(status=status, body=body, headers=headers)
        if wire.name == "anthropic":
            plain = {"type": _ANTHROPIC_TYPES.get(status, "api_error"), "message": error["message"]}
            return ApiError(status=status, body={"type": "error", "error": plain}, headers=headers)
        body = {"error": error, "user_id": "user_2abc"}
        return ApiError(status=200 if cause.kind in _WHILE_GENERATING else status, body=body, headers=headers)

    def stream_error(self, wire: Wire, original: ApiError, cause: ErrorCause) -> bytes:
        """See `Gateway`; a chat completion's error comes beside a choice that ends with it."""
        if wire.name == "responses":
            return _failed_response(original)
        if wire.name == "anthropic":
            return super().stream_error(wire, original, cause)
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        event = {
            "id": "gen-broken", "object": "chat.completion.chunk", "created": 1_795_000_000,
            "model": cause.model or "m", "provider": "Google AI Studio",
            "error": {"code": "server_error", "message": "Provider disconnected unexpectedly"}, "choices": [choice],
        }  # fmt: skip
        return b"data: " + encode(event) + b"\n\n"

    def headers(self, wire: Wire, sequence: int, model: str | None) -> dict[str, str]:
        """See `Gateway`."""
        del wire, model
        return {"x-generation-id": f"gen-1795000000-{sequence:020d}"}

    def _chunk(self, event: Body) -> Body:
        choices = [_native({**choice, "delta": _packed(choice["delta"])}) for choice in event["choices"]]
        changed = {**event, "id": _generation(event), "provider": "Google AI Studio", "choices": choices}
        if usage := as_object(event.get("usage")):
            changed["usage"] = _with_cost(usage)
        else:
            changed.pop("usage", None)
        return _in_order(changed, "id", "provider", "model", "object", "created")


def _generation(body: Body) -> str:
    return f"gen-1795000000-{str(body['id']).removeprefix('chatcmpl-')}"


def _native(choice: Body) -> Body:
    """Add the upstream's own word for the end."""
    finish = choice["finish_reason"]
    return _in_order({**choice, "native_finish_reason": _NATIVE.get(finish, finish)}, "index")


def _packed(message: Body) -> Body:
    """Move reasoning and a signature of Gemini into OpenRouter's fields."""
    message = {name: value for name, value in message.items() if name != "annotations"}
    thought = message.pop("reasoning_content", None)
    signed = message.pop("extra_content", None)
    details: list[Body] = []
    if thought is not None:
        message["reasoning"] = thought
        details.append({"type": "reasoning.text", "text": thought, "format": "unknown", "index": 0})
    if signed is not None:
        data = signed["google"]["thought_signature"]
        details.append({"type": "reasoning.encrypted", "data": data, "format": "google-gemini-v1", "index": 0})
    return {**message, "reasoning_details": details} if details else message


def _unpacked(message: Any) -> Any:
    plain = as_object(message)
    details = as_list(None if plain is None else plain.get("reasoning_details")) or []
    kept = next((detail for detail in details if as_object(detail) and "data" in detail), None)
    if plain is None or kept is None:
        return message
    return {**plain, "extra_content": {"google": {"thought_signature": kept["data"]}}}


def _with_cost(usage: Mapping[str, Any]) -> Body:
    cost = round(usage["total_tokens"] * _COST, 9)
    return {**usage, "cost": cost, "is_byok": False, "cost_details": {"upstream_inference_cost": None}}


_GATEWAYS: dict[GatewayName, Gateway] = {"new-api": NewApi(), "litellm": LiteLlm(), "openrouter": OpenRouter()}
