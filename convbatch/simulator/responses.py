"""OpenAI's Responses from the server's side, whole and streamed; `stored_responses.py` keeps them.

Strict where OpenAI is strict: unknown parameters, items and parts, the pairs of reasoning and what follows it, and
encrypted reasoning that is not what was given. Sources: https://platform.openai.com/docs/api-reference/responses and
the types of openai 3.57.0, read 2026-11-26.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import orjson

from convbatch.simulator import media, responses_tools
from convbatch.simulator.openai import CREATED, OPENAI, TIERS, logprob_tokens, served_tier, strict_schema
from convbatch.simulator.replies import ParsedRequest, ReplayedTurn, SimulatedReply
from convbatch.simulator.tools import mark_of
from convbatch.simulator.wire import (
    ApiError,
    Background,
    ErrorCause,
    LeftOver,
    ReplySpec,
    Route,
    as_list,
    as_object,
    encode,
    in_pieces,
    refuse,
    tokens_of,
)

_REFUSAL = "I can't help with that."
_PAIRED = "r"
"""Start of a message's id, after `msg_`, if the message came with reasoning."""
_LEAST_OUTPUT = 16
_ROLES = ("assistant", "system", "developer", "user")
_EFFORTS = {"none", "minimal", "low", "medium", "high", "xhigh", "max"}
_INCLUDED = {
    "reasoning.encrypted_content", "message.output_text.logprobs", "message.input_image.image_url",
    "file_search_call.results", "web_search_call.action.sources", "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
}  # fmt: skip
_OTHER_ITEMS = {
    "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "image_generation_call",
    "web_search_call", "file_search_call", "code_interpreter_call", "mcp_call", "compaction",
}  # fmt: skip
_MESSAGE = {"type", "role", "content", "id", "status", "phase"}
_REASONING = {"type", "id", "summary", "content", "encrypted_content", "status"}
_PARTS = {
    "assistant": ("output_text", "refusal"),
    "other": ("input_text", "input_image", "input_file", "input_audio"),
}
_MOVED = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "functions": "tools",
}
_UNSUPPORTED = {"stop", "seed", "n", "top_k", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs"}
_CODES = (
    ("Unsupported parameter", "unsupported_parameter"),
    ("Unknown parameter", "unknown_parameter"),
    ("Missing required parameter", "missing_required_parameter"),
    ("Previous response with id", "previous_response_not_found"),
    ("The encrypted content", "invalid_encrypted_content"),
)
_LOGPROBS = "message.output_text.logprobs"
_WINDOWS_S = {"soonest": None, "2h": 7200.0, "8h": 28_800.0}
_EVENT_TYPE = re.compile(rb'\{"type": ?"([a-z_.]+)"')


def _number(low: float, high: float) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _integer(low: int, high: int = 2**63 - 1) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is(*types: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, types)


def _any(value: object) -> bool:
    del value
    return True


def _include(value: object) -> bool:
    items = as_list(value)
    return items is not None and all(item in _INCLUDED for item in items)


def _reasoning(value: object) -> bool:
    asked = as_object(value)
    if asked is None or asked.keys() - {"effort", "summary", "context", "mode", "generate_summary"}:
        return False
    summary = asked.get("summary") in {None, "auto", "concise", "detailed"}
    return summary and (asked.get("effort") is None or asked["effort"] in _EFFORTS)


def _text_options(value: object) -> bool:
    asked = as_object(value)
    if asked is None or asked.keys() - {"format", "verbosity"}:
        return False
    form = as_object(asked.get("format")) or {"type": "text"}
    if form.get("type") != "json_schema":
        return form.get("type") in {"text", "json_object"}
    return isinstance(form.get("schema"), dict) and re.fullmatch(r"[\w-]{1,64}", str(form.get("name"))) is not None


_PARAMETERS: dict[str, Callable[[object], bool]] = {
    "model": _is(str),
    "input": _is(str, list),
    "instructions": _is(str),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "max_output_tokens": _integer(1),
    "top_logprobs": _integer(0, 20),
    "reasoning": _reasoning,
    "text": _text_options,
    "include": _include,
    "stream": _is(bool),
    "stream_options": _is(dict),
    "store": _is(bool),
    "metadata": _is(dict),
    "parallel_tool_calls": _is(bool),
    "service_tier": lambda value: value in (*TIERS, "ultrafast"),
    "truncation": lambda value: value in {"auto", "disabled"},
    "previous_response_id": _is(str),
    "background": _is(bool),
    "background_options": _is(dict),
    **dict.fromkeys(
        (
            "tools", "tool_choice", "max_tool_calls", "user", "safety_identifier", "prompt_cache_key",
            "prompt_cache_retention", "prompt_cache_options", "prompt", "conversation", "context_management",
            "moderation",
        ),
        _any,
    ),
}  # fmt: skip


class ResponsesWire:
    """See `wire.Wire`."""

    name = "responses"
    content_type = "application/json"
    counts_output_at_admission = True
    request_id_header: str | None = "x-request-id"
    usage_key = "usage"
    text_key = "text"

    def parse_request(self, route: Route, body: Any) -> ReplySpec:
        """See `wire.Wire`."""
        del route
        fields = _parameters(body)
        reader = _Reader()
        reader.read(fields["input"])
        responses_tools.check_pairs(reader.calls, reader.outputs)
        reasoning = as_object(fields.get("reasoning")) or {}
        parsed = ParsedRequest(
            model=fields["model"],
            system=fields.get("instructions", "") + "".join(reader.system),
            messages=tuple(reader.messages),
            replayed=tuple(reader.replayed),
            draws="apart",
            max_output_tokens=fields.get("max_output_tokens"),
            temperature=fields.get("temperature"),
            thinking=reasoning.get("effort") != "none",
            show_thoughts=reasoning.get("summary") is not None,
            schema=strict_schema(as_object((fields.get("text") or {}).get("format")) or {}, "text.format.schema"),
            declared=responses_tools.declared(fields.get("tools")),
        )
        wants_logprobs = _LOGPROBS in fields.get("include", ())
        return ReplySpec(
            parsed=parsed,
            form="sse" if fields.get("stream") else "whole",
            logprobs=fields.get("top_logprobs", 0) if wants_logprobs else None,
            tier=served_tier(fields.get("service_tier")),
            stored_input=_as_items(fields["input"]) if fields.get("store", True) else None,
            previous_id=fields.get("previous_response_id"),
            background=_background(fields),
        )

    def whole(self, reply_spec: ReplySpec, reply: SimulatedReply) -> dict[str, Any]:
        """See `wire.Wire`."""
        status, reason = _STATUS.get(reply.finish, ("completed", None))
        return {
            **_head(reply_spec, reply, status),
            "error": _ERROR if status == "failed" else None,
            "incomplete_details": None if reason is None else {"reason": reason},
            "output": list(_items(reply_spec, reply)),
            "usage": _usage(reply),
            **({"tool_usage": {"image_gen": _IMAGE_USAGE}} if reply.picture else {}),
        }

    def events(self, reply_spec: ReplySpec, reply: SimulatedReply) -> list[dict[str, Any]]:
        """See `wire.Wire`."""
        whole = self.whole(reply_spec, reply)
        begun = {**_head(reply_spec, reply, "in_progress"), "error": None, "incomplete_details": None,
                 "output": [], "usage": None}  # fmt: skip
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
        ]
        for index, item in enumerate(whole["output"]):
            events += _item_events(index, item)
        events.append({"type": f"response.{whole['status']}", "response": whole})
        return [{"type": event["type"], "sequence_number": number, **event} for number, event in enumerate(events)]

    def frame(self, reply_spec: ReplySpec, events: list[bytes]) -> list[bytes]:
        """See `wire.Wire`."""
        del reply_spec
        return [b"event: " + _type_of(event) + b"\ndata: " + event + b"\n\n" for event in events]

    def api_error(self, route: Route | None, cause: ErrorCause, now: float) -> ApiError:
        """See `wire.Wire`; the format is that of chat completions."""
        original = OPENAI.api_error(route, cause, now)
        error = original.body["error"]
        code = next((code for words, code in _CODES if error["message"].startswith(words)), error["code"])
        return replace(original, body={"error": {**error, "code": code}})

    def stream_error(self, cause: ErrorCause) -> bytes:
        """See `wire.Wire`."""
        return b"data: " + encode(self.api_error(None, cause, 0.0).body) + b"\n\n"

    def limit_headers(self, left: LeftOver, now: float) -> dict[str, str]:
        """See `wire.Wire`."""
        return OPENAI.limit_headers(left, now)

    def list_models(self, models: tuple[str, ...], query: Mapping[str, str]) -> dict[str, Any]:
        """See `wire.Wire`."""
        return OPENAI.list_models(models, query)

    def show_model(self, model: str) -> dict[str, Any]:
        """See `wire.Wire`."""
        return OPENAI.show_model(model)


RESPONSES = ResponsesWire()

_STATUS = {
    "length": ("incomplete", "max_output_tokens"),
    "prompt_blocked": ("incomplete", "content_filter"),
    "malformed": ("failed", None),
    "unknown": ("incomplete", "some_future_reason"),
}
_ERROR = {"code": "server_error", "message": "The model failed to generate a response."}


def _parameters(body: Any) -> dict[str, Any]:
    plain = as_object(body)
    if plain is None:
        refuse("bad_request", "We could not parse the JSON body of your request. Expected an object.")
    _refuse_foreign(plain)
    fields = {name: value for name, value in plain.items() if value is not None}
    for name in ("model", "input"):
        if name not in fields:
            refuse("bad_request", f"Missing required parameter: '{name}'.", field=name)
    for name, value in fields.items():
        if not _PARAMETERS[name](value):
            found = encode(value)[:100].decode(errors="replace")
            refuse("bad_request", f"Invalid value for '{name}': {found}.", field=name)
    if "stream_options" in fields and not fields.get("stream"):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        refuse("bad_request", message, field="stream_options")
    return _within_bounds(fields)


def _refuse_foreign(plain: dict[str, Any]) -> None:
    for name in plain:
        if name in _MOVED:
            moved = f"In the Responses API, this parameter has moved to '{_MOVED[name]}'."
            refuse("bad_request", f"Unsupported parameter: '{name}'. {moved}", field=name)
        if name in _UNSUPPORTED:
            refuse("bad_request", f"Unsupported parameter: '{name}' is not supported with this API.", field=name)
        if name not in _PARAMETERS:
            refuse("bad_request", f"Unknown parameter: '{name}'.", field=name)


def _within_bounds(fields: dict[str, Any]) -> dict[str, Any]:
    if fields.get("max_output_tokens", _LEAST_OUTPUT) < _LEAST_OUTPUT:
        expected = f"Expected a value >= {_LEAST_OUTPUT}, but got {fields['max_output_tokens']} instead."
        message = f"Invalid 'max_output_tokens': integer below minimum value. {expected}"
        refuse("bad_request", message, field="max_output_tokens")
    return fields


def _background(fields: dict[str, Any]) -> Background | None:
    """Return how a response is made later; refuses the windows with what they exclude."""
    options = as_object(fields.get("background_options")) or {}
    if options.keys() - {"completion_window", "continuation_id"}:
        refuse("bad_request", "Unknown parameter in 'background_options'.", field="background_options")
    window = options.get("completion_window", "soonest")
    where = "background_options.completion_window"
    if not isinstance(window, str) or window not in _WINDOWS_S:
        message = f"Invalid value: '{window}'. Supported values are: 'soonest', '2h', and '8h'."
        refuse("bad_request", message, field=where)
    if not fields.get("background"):
        if options:
            refuse("bad_request", "'background_options' requires 'background' to be true.", field="background_options")
        return None
    is_discounted = window != "soonest"
    if is_discounted and fields.get("service_tier") not in (None, "auto", "default"):
        refuse("bad_request", f"completion_window '{window}' requires the default service tier.", field=where)
    if fields.get("stream"):  # the API streams a response that is due soonest; the simulator streams none of them
        refuse("bad_request", "Background responses cannot be streamed here.", field="stream")
    is_stored = fields.get("store") is True
    return Background(is_discounted=is_discounted, window_s=_WINDOWS_S[window], is_stored=is_stored)


class _Sealed(NamedTuple):
    """A reasoning item of a history."""

    item_id: str
    signature: str | None


@dataclass(slots=True)
class _Reader:
    """Reads input items in order, and checks the pairs of reasoning and what follows it."""

    system: list[str] = field(default_factory=list[str])
    messages: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    replayed: list[ReplayedTurn] = field(default_factory=list[ReplayedTurn])
    calls: list[str] = field(default_factory=list[str])
    outputs: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """Each with the number of calls before it."""
    pending: _Sealed | None = None
    last_reasoning: str | None = None

    def read(self, value: Any) -> None:
        """Read the whole input; raises `RefusedRequest`."""
        items = _as_items(value)
        if not items:
            refuse("bad_request", "Invalid 'input': empty array. Expected a non-empty array.", field="input")
        for at, item in enumerate(items):
            self._read_item(as_object(item), f"input[{at}]")
        if self.pending is not None:
            _refuse_alone(self.pending.item_id)

    def _read_item(self, item: dict[str, Any] | None, where: str) -> None:
        if item is None:
            refuse("bad_request", f"Invalid type for '{where}': expected an object.", field=where)
        kind = item.get("type", "message")
        if kind == "reasoning":
            _refuse_unknown(item, _REASONING, where)
            self.pending = _unsealed(item)
            self.last_reasoning = self.pending.item_id
        elif kind == "message":
            _refuse_unknown(item, _MESSAGE, where)
            self._read_message(item, where)
        elif kind in ("function_call", "function_call_output"):
            self._read_tool(item, str(kind), where)
        elif kind == "image_generation_call":
            self._check_pending(is_models=True)
            self._add_model(_drawn_mark(item, where))
            self.pending = None
        elif kind in _OTHER_ITEMS:
            self._check_pending(is_models=not str(kind).endswith("_output"))
            self.pending = None
        else:
            refuse("bad_request", f"Invalid value: '{kind}'. Supported values are: 'message', 'reasoning' and others.",
                   field=f"{where}.type")  # fmt: skip

    def _read_message(self, message: dict[str, Any], where: str) -> None:
        role = message.get("role")
        if str(role) not in _ROLES:
            supported = "'assistant', 'system', 'developer', and 'user'"
            refuse("bad_request", f"Invalid value: '{role}'. Supported values are: {supported}.", field=f"{where}.role")
        text = _text(message, where)
        self._check_pending(is_models=role == "assistant")
        if role == "assistant":
            self._check_partner(message)
            self._add_model(text)
        elif role == "user":
            self.messages.append(("user", text))
        else:
            self.system.append(text)
        self.pending = None

    def _read_tool(self, item: dict[str, Any], kind: str, where: str) -> None:
        if kind == "function_call":
            _refuse_unknown(item, responses_tools.CALL_KEYS, where)
            self._check_call_partner(str(item.get("id", "")))
            self.calls.append(responses_tools.check_call(item, where))
            self._add_model(mark_of(item["call_id"], item["name"], item["arguments"]))
        else:
            self._check_pending(is_models=False)
            _refuse_unknown(item, responses_tools.OUTPUT_KEYS, where)
            self.outputs.append((responses_tools.check_output(item, where), len(self.calls)))
            mark = functools.partial(_media_mark, where=f"{where}.output")
            before = self.messages.pop()[1] if self.messages and self.messages[-1][0] == "tool" else ""
            self.messages.append(("tool", before + responses_tools.output_text(item, mark)))
        self.pending = None

    def _check_call_partner(self, item_id: str) -> None:
        partner = f"rs_{item_id.removeprefix(f'fc_{_PAIRED}')[:-1]}"
        if item_id.startswith(f"fc_{_PAIRED}") and partner != self.last_reasoning:
            message = f"Item '{item_id}' of type 'function_call' was provided without its required 'reasoning' item"
            refuse("bad_request", f"{message}: '{partner}'.", field="input")

    def _add_model(self, text: str) -> None:
        if self.messages and self.messages[-1][0] == "model":
            text = self.messages.pop()[1] + text
            if self.replayed:
                self.replayed.pop()
        signature = None if self.pending is None else self.pending.signature
        self.replayed.append(ReplayedTurn(index=len(self.messages), text=text, signature=signature, in_place=True))
        self.messages.append(("model", text))

    def _check_pending(self, *, is_models: bool) -> None:
        if self.pending is not None and not is_models:
            _refuse_alone(self.pending.item_id)

    def _check_partner(self, message: dict[str, Any]) -> None:
        item_id = str(message.get("id", ""))
        if not item_id.startswith(f"msg_{_PAIRED}"):
            return
        partner = f"rs_{item_id.removeprefix(f'msg_{_PAIRED}')}"
        if self.pending is None or self.pending.item_id != partner:
            message_ = f"Item '{item_id}' of type 'message' was provided without its required 'reasoning' item"
            refuse("bad_request", f"{message_}: '{partner}'.", field="input")


def _drawn_mark(item: dict[str, Any], where: str) -> str:
    """Return what stands for a picture that the model has drawn; refuses one that is not as it was given."""
    try:
        return media.seen("responses", f"image/{item.get('output_format', 'png')}", item.get("result")).mark
    except media.WrongMedia as wrong:
        refuse("bad_request", f"Invalid value for '{where}': {wrong}", field=where)


def _as_items(value: Any) -> list[Any]:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _refuse_alone(item_id: str) -> None:
    message = f"Item '{item_id}' of type 'reasoning' was provided without its required following item."
    refuse("bad_request", message, field="input")


def _refuse_unknown(item: dict[str, Any], known: set[str], where: str) -> None:
    for name in item:
        if name not in known:
            refuse("bad_request", f"Unknown parameter: '{where}.{name}'.", field=f"{where}.{name}")


def _text(message: dict[str, Any], where: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = as_list(content)
    if parts is None:
        refuse("bad_request", f"Invalid type for '{where}.content': expected a string or an array of parts.",
               field=f"{where}.content")  # fmt: skip
    kinds = _PARTS["assistant" if message["role"] == "assistant" else "other"]
    return "".join(_part_text(part, kinds, f"{where}.content[{at}]") for at, part in enumerate(parts))


def _part_text(item: Any, kinds: tuple[str, ...], where: str) -> str:
    part = as_object(item) or {}
    kind = part.get("type")
    if kind not in kinds:
        supported = ", ".join(f"'{kind}'" for kind in kinds)
        refuse("bad_request", f"Invalid value: '{kind}'. Supported values are: {supported}.", field=f"{where}.type")
    if kind not in {"input_text", "output_text"}:
        return part.get("refusal") or _media_mark(part, where)
    if not isinstance(part.get("text"), str):
        refuse("bad_request", f"Invalid type for '{where}.text': expected a string.", field=f"{where}.text")
    return part["text"]


def _media_mark(part: dict[str, Any], where: str) -> str:
    """Return what stands for a picture, sound or file."""
    try:
        if "image_url" in part:
            mark = media.mark_of(media.seen_in_url("responses", part["image_url"]))
            return media.in_detail(mark, part.get("detail"), media.OPENAI_DETAILS)
        if "input_audio" in part:
            given = as_object(part["input_audio"]) or {}
            return media.seen("responses", f"audio/{given.get('format')}", given.get("data")).mark
        if "file_data" in part:
            return media.mark_of(media.seen_in_url("responses", part["file_data"]))
        if "file_url" in part:
            return media.address_mark("document", str(part["file_url"]))
    except media.WrongMedia as wrong:
        refuse("bad_request", f"Invalid value for '{where}': {wrong}", field=where)
    return f"<part {hashlib.sha256(encode(part)).hexdigest()[:8]}>"


def _sealed(item_id: str, signature: str | None) -> str:
    """Return the encrypted content of a reasoning item."""
    content = orjson.dumps([item_id, signature])
    return base64.b64encode(_digest(content) + content).decode()


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, key=b"simulator", digest_size=12).digest()


def _unsealed(item: dict[str, Any]) -> _Sealed:
    """Return what a reasoning item contains; refuses one that is not as it was given."""
    item_id, encrypted = str(item.get("id")), item.get("encrypted_content")
    if not isinstance(encrypted, str):
        way_out = "Try again with `store` set to true, or remove this item from your input."
        message = f"Item with id '{item_id}' not found. Items are not persisted when `store` is set to false."
        refuse("no_path", f"{message} {way_out}", field="input")
    try:
        plain = base64.b64decode(encrypted, validate=True)
    except binascii.Error:
        plain = b""
    if not plain or plain[:12] != _digest(plain[12:]) or orjson.loads(plain[12:])[0] != item_id:
        message = f"The encrypted content {encrypted[:4]}...{encrypted[-4:]} could not be verified."
        refuse("bad_request", message, field="input")
    return _Sealed(item_id, orjson.loads(plain[12:])[1])


def _head(reply_spec: ReplySpec, reply: SimulatedReply, status: str) -> dict[str, Any]:
    parsed = reply_spec.parsed
    return {
        "id": f"resp_{reply.reply_id}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "instructions": parsed.system or None,
        "max_output_tokens": parsed.max_output_tokens,
        "model": parsed.model,
        "parallel_tool_calls": True,
        "previous_response_id": reply_spec.previous_id,
        "reasoning": {"effort": "medium" if parsed.thinking else "none", "summary": None},
        "service_tier": reply_spec.tier,
        "store": reply_spec.stored_input is not None,
        "temperature": 1.0 if parsed.temperature is None else parsed.temperature,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "metadata": {},
    }


def _items(reply_spec: ReplySpec, reply: SimulatedReply) -> Iterator[dict[str, Any]]:
    has_reasoning = bool(reply.thought or reply.reasoning_tokens or reply.signature)
    if has_reasoning:
        item_id = f"rs_{reply.reply_id}"
        summary = [{"type": "summary_text", "text": reply.thought}] if reply.thought else []
        encrypted = _sealed(item_id, reply.signature)
        yield {"id": item_id, "type": "reasoning", "summary": summary, "encrypted_content": encrypted}
    if reply.finish in {"nothing", "prompt_blocked", "malformed"} or (reply.finish == "length" and not reply.text):
        return
    if reply.finish == "output_blocked":
        part: dict[str, Any] = {"type": "refusal", "refusal": _REFUSAL}
    else:
        logprobs = _logprobs(reply_spec, in_pieces(reply.text), 0)
        part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": logprobs}
    if reply.picture is not None:
        yield {
            "id": f"ig_{reply.reply_id}", "type": "image_generation_call", "status": "completed",
            "result": base64.b64encode(reply.picture).decode(), "output_format": "png", "revised_prompt": "A picture.",
        }  # fmt: skip
    if reply.text or not (reply.calls or reply.picture):
        yield _message_item(reply, part, has_reasoning=has_reasoning)
    yield from responses_tools.call_items(reply.calls, f"fc_{_PAIRED if has_reasoning else '0'}{reply.reply_id}")


def _message_item(reply: SimulatedReply, part: dict[str, Any], *, has_reasoning: bool) -> dict[str, Any]:
    return {
        "id": f"msg_{_PAIRED if has_reasoning else '0'}{reply.reply_id}",
        "type": "message",
        "status": "incomplete" if reply.finish in {"length", "unknown"} else "completed",
        "role": "assistant",
        "content": [part],
        "phase": "commentary" if reply.calls else "final_answer",
    }


def _logprobs(reply_spec: ReplySpec, pieces: list[str], place: int) -> list[dict[str, Any]]:
    return [] if reply_spec.logprobs is None else logprob_tokens(pieces, reply_spec.logprobs, place)


def _item_events(index: int, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if item["type"] == "function_call":
        yield from responses_tools.call_events(index, item)
        return
    if item["type"] == "image_generation_call":
        yield {"type": "response.output_item.added", "output_index": index, "item": {**item, "result": None}}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
        return
    place = {"item_id": item["id"], "output_index": index}
    empty: dict[str, list[Any]] = {"summary": []} if item["type"] == "reasoning" else {"content": []}
    status = {} if item["type"] == "reasoning" else {"status": "in_progress"}
    yield {"type": "response.output_item.added", "output_index": index, "item": {**item, **empty, **status}}
    for at, part in enumerate(item.get("summary", ())):
        yield from _summary_events({**place, "summary_index": at}, part["text"])
    for at, part in enumerate(item.get("content", ())):
        yield from _part_events({**place, "content_index": at}, part)
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _summary_events(place: dict[str, Any], text: str) -> Iterator[dict[str, Any]]:
    name, part = "response.reasoning_summary", {"type": "summary_text", "text": text}
    yield {"type": f"{name}_part.added", **place, "part": {**part, "text": ""}}
    for piece in in_pieces(text, 2):
        yield {"type": f"{name}_text.delta", **place, "delta": piece, "obfuscation": "x"}
    yield {"type": f"{name}_text.done", **place, "text": text}
    yield {"type": f"{name}_part.done", **place, "part": part}


def _part_events(place: dict[str, Any], part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    key = "refusal" if part["type"] == "refusal" else "text"
    name = "response.refusal" if key == "refusal" else "response.output_text"
    logprobs: list[Any] = part.get("logprobs", [])
    empty = {**part, key: ""} if key == "refusal" else {**part, key: "", "logprobs": []}
    yield {"type": "response.content_part.added", **place, "part": empty}
    sent = 0
    for piece in in_pieces(part[key]):
        ended = sent + len(tokens_of(piece))
        extra = {} if key == "refusal" else {"logprobs": logprobs[sent:ended]}
        yield {"type": f"{name}.delta", **place, "delta": piece, **extra, "obfuscation": "x"}
        sent = ended
    yield {"type": f"{name}.done", **place, key: part[key], **({} if key == "refusal" else {"logprobs": logprobs})}
    yield {"type": "response.content_part.done", **place, "part": part}


def _type_of(event: bytes) -> bytes:
    found = _EVENT_TYPE.match(event)
    return found[1] if found else b"message"


_IMAGE_USAGE: Mapping[str, Any] = {
    "input_tokens": 50, "input_tokens_details": {"image_tokens": 40, "text_tokens": 10}, "total_tokens": 322,
    "output_tokens": 272, "output_tokens_details": {"image_tokens": 272, "text_tokens": 0},
}  # fmt: skip
"""What the tool that draws counts; billed beside the usage of the response."""


def _usage(reply: SimulatedReply) -> dict[str, Any]:
    return {
        "input_tokens": reply.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": reply.output_tokens,
        "output_tokens_details": {"reasoning_tokens": reply.reasoning_tokens or 0},
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }
