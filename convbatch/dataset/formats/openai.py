"""The OpenAI chat format: `messages` in a line of their own or inside the `body` of a batch request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from convbatch.dataset.formats.builder import (
    CALL_ROLES,
    RESULT_ROLES,
    DatasetFormat,
    DialogueBuilder,
    has_key,
    recorded_schema,
    role_of,
    take_list,
)
from convbatch.dataset.recorded_calls import RecordedResult
from convbatch.dataset.side_keys import read_message_keys, read_side_keys
from convbatch.dataset.side_media import media_item, source_item
from convbatch.media import MediaKind


def _detect(line: Mapping[str, Any]) -> bool:
    return "messages" in line or has_key(line.get("body"), "messages")


_SETTINGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "seed": "seed",
    "reasoning_effort": "reasoning_effort",
}
_EXTRA = (
    "audio",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "modalities",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "response_format",
    "safety_identifier",
    "service_tier",
    "tool_choice",
    "top_k",
    "top_logprobs",
    "verbosity",
    "web_search_options",
)
"""Fields beside `messages` that go to `settings.extra`; in the body of a batch request all unknown fields do."""
_IN_BODY = ("functions", "function_call", "instructions", "system_prompt", "stop_sequences", "thinking", "images")
"""Fields of a batch request that are read as beside plain `messages`."""
_NOT_REPLAYED = ("model", "stream", "stream_options")


def read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    """Move `messages` and the settings beside them into a builder."""
    body, is_request = rest, False
    if "messages" not in rest:
        body, is_request = dict(rest.pop("body")), True
        for key in ("method", "url"):
            rest.pop(key, None)
    builder.system(body.pop("system", None))
    for message in take_list(body, "messages", builder):
        if isinstance(message, dict):
            _read_message(message, builder)
        else:
            hint = '{"role": "user", "content": "…"}'
            builder.issue("a message must be an object", place=builder.place, found=message, hint=hint)
            builder.refused("unknown")
    builder.declare(body.pop("tools", None))
    if is_request:
        read_side_keys({key: body.pop(key) for key in _IN_BODY if key in body}, builder)
    _read_settings(body, builder, is_request=is_request)
    if is_request:
        builder.keep(body)


_MESSAGE_KEYS = ("role", "from", "content", "value", "parts", "refusal", "tool_calls", "function_call")
_RESULT_KEYS = (*_MESSAGE_KEYS, "tool_call_id", "name", "tool_name", "function", "error", "is_error")


def _read_message(message: Mapping[str, Any], builder: DialogueBuilder) -> None:
    role = message.get("role", message.get("from"))
    kind = role_of(role)
    content = message.get("content", message.get("value", message.get("parts")))
    if role in CALL_ROLES:
        builder.calls(message.get("tool_calls") or content)
    elif role in RESULT_ROLES:
        _read_result(message, content, builder)
    elif kind is None:
        builder.unsupported(role or "", message)
    elif kind == "user":
        _read_user(message, content, builder)
    elif calls := _calls(message, content):
        _read_calls(message, content, calls, builder)
    else:
        _read_text(message, content, kind, builder)


def _read_user(message: Mapping[str, Any], content: Any, builder: DialogueBuilder) -> None:
    results = [part for part in content if _is_result(part)] if isinstance(content, list) else []
    for part in results:
        inner = part.get("toolResult", part)
        is_error = inner.get("is_error") is True or inner.get("status") == "error"
        ident = inner.get("tool_use_id", inner.get("toolUseId"))
        builder.call_result(_result(inner.get("content"), builder, ident=ident, is_error=is_error))
    if results:
        content = [part for part in content if not _is_result(part)]
    if content or not results:
        builder.user(_parts(content, builder))
    read_message_keys(message, _MESSAGE_KEYS, builder)


def _read_calls(message: Mapping[str, Any], content: Any, calls: list[Any], builder: DialogueBuilder) -> None:
    rest = [part for part in content if not _is_call(part)] if isinstance(content, list) else content
    text = _text(rest, builder)
    if text and text.strip():
        builder.reply(text)
    elif text is None and rest not in (None, []):
        builder.issue("a message without text", place=builder.place, found=message, hint='"content" is text')
    builder.calls(calls)
    read_message_keys(message, _MESSAGE_KEYS, builder)


def _read_text(
    message: Mapping[str, Any], content: Any, kind: Literal["assistant", "system"], builder: DialogueBuilder
) -> None:
    text = _text(content if content is not None else message.get("refusal"), builder)
    if text is None:
        hint = '"content" of a reply or system message is text'
        builder.issue("a message without text", place=builder.place, found=message, hint=hint)
        builder.refused("assistant" if kind == "assistant" else "unknown")
        return
    if kind == "assistant":
        builder.reply(text)
    else:
        builder.system(text)
    read_message_keys(message, _MESSAGE_KEYS, builder)


def _read_result(message: Mapping[str, Any], content: Any, builder: DialogueBuilder) -> None:
    name = next((message[key] for key in ("name", "tool_name", "function") if message.get(key)), None)
    error = message.get("error")
    is_error = message.get("is_error") is True or bool(error)
    value = error if error and content in (None, "") else content
    builder.call_result(_result(value, builder, ident=message.get("tool_call_id"), name=name, is_error=is_error))
    read_message_keys(message, _RESULT_KEYS, builder)


def _result(
    content: Any, builder: DialogueBuilder, *, ident: Any = None, name: Any = None, is_error: bool = False
) -> RecordedResult:
    """Read the content of a result: a value as it is, parts as their texts and media."""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content) or not content:
        return RecordedResult("" if content is None else content, ident, name, is_error)
    if len(content) == 1 and "json" in content[0]:
        return RecordedResult(content[0]["json"], ident, name, is_error)  # Bedrock
    if not all("type" in part or set(part) == {"text"} for part in content):
        return RecordedResult(content, ident, name, is_error)  # a list of objects
    parts = [_part(part, builder, place=builder.place) for part in content]
    texts = [str(part["text"]) for part in parts if "text" in part]
    return RecordedResult("\n".join(texts), ident, name, is_error, tuple(part for part in parts if "text" not in part))


def _calls(message: Mapping[str, Any], content: Any) -> list[Any]:
    """Return the calls of a message, as OpenAI, Anthropic and Bedrock write them."""
    calls = message.get("tool_calls") or []
    calls = list(calls) if isinstance(calls, list) else [calls]
    calls += [message["function_call"]] if message.get("function_call") else []
    return calls + [part for part in content if _is_call(part)] if isinstance(content, list) else calls


def _is_call(part: Any) -> bool:
    return isinstance(part, dict) and (part.get("type") == "tool_use" or "toolUse" in part)


def _is_result(part: Any) -> bool:
    return isinstance(part, dict) and (part.get("type") == "tool_result" or isinstance(part.get("toolResult"), dict))


_THOUGHTS = ("thinking", "redacted_thinking", "reasoning")


def _text(content: Any, builder: DialogueBuilder) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return None
    visible = [part for part in content if part.get("type") not in _THOUGHTS]
    if len(visible) < len(content):
        builder.leave_out("thinking")  # valid only for the model and route that created it
    texts = [part.get("text", part.get("refusal")) for part in visible]
    return "".join(texts) if texts and all(isinstance(text, str) for text in texts) else None


def _parts(content: Any, builder: DialogueBuilder) -> Any:
    if not isinstance(content, list):
        return content
    parts = [_part(part, builder) for part in content]
    return parts[0]["text"] if len(parts) == 1 and "text" in parts[0] else parts


def _part(part: Any, builder: DialogueBuilder, *, place: str | None = None) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" or (kind is None and isinstance(part, dict) and set(part) == {"text"}):
        return {"text": part.get("text")}
    if kind == "input_audio" and has_key(part.get("input_audio"), "data"):
        audio = part["input_audio"]
        return {"data": audio["data"], "mime_type": f"audio/{audio.get('format', 'wav')}"}
    if isinstance(kind, str) and kind in _MEDIA_PARTS and (item := _media_part(kind, part)) is not None:
        return item
    source: Any = None
    if kind == "image_url":
        source = part["image_url"].get("url") if has_key(part.get("image_url"), "url") else part.get("image_url")
    elif kind == "file" and has_key(part.get("file"), "file_data"):
        source = part["file"]["file_data"]
    if isinstance(source, str) and (inline := _DATA_URL.fullmatch(source)):
        return {"data": inline[2], "mime_type": inline[1]}
    builder.refuse_part(part, place or builder.next_place)
    return {"text": "…"}


_MEDIA_PARTS: Mapping[str, MediaKind] = {
    "image": "image",
    "image_url": "image",
    "audio": "audio",
    "audio_url": "audio",
    "video": "video",
    "video_url": "video",
    "document": "document",
    "file": "document",
}


def _media_part(kind: str, part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a part in the form of OpenAI, Anthropic or open models; None for an unknown form."""
    value = part.get(kind)
    if kind in ("image", "document") and isinstance(part.get("source"), dict):
        return source_item(_MEDIA_PARTS[kind], part["source"])
    if kind == "file":
        value = None if not isinstance(value, dict) else value.get("file_data") or value.get("file_url")
    item = media_item(_MEDIA_PARTS[kind], value)
    if item is not None and kind == "image_url" and isinstance(value, dict) and value.get("detail") is not None:
        return {**item, "detail": value["detail"]}
    return item


_DATA_URL = re.compile(r"data:([^;,]+);base64,(.*)", re.DOTALL)


def _read_settings(body: dict[str, Any], builder: DialogueBuilder, *, is_request: bool) -> None:
    for key, name in _SETTINGS.items():
        builder.setting(name, body.pop(key, None))
    stop = body.pop("stop", None)
    builder.setting("stop", [stop] if isinstance(stop, str) else stop)
    if not is_request and not isinstance(body.get("audio", {}), dict):
        read_side_keys({"audio": body.pop("audio")}, builder)  # recordings, not the form of the reply
    wanted = body.get("response_format")
    if has_key(wanted, "json_schema") and has_key(wanted["json_schema"], "schema"):
        builder.setting("response_schema", recorded_schema(wanted["json_schema"]))
        body["response_format"] = None
    for key in list(body):
        if key in _EXTRA or (is_request and key not in _NOT_REPLAYED):
            builder.extra(key, body.pop(key))


FORMAT = DatasetFormat(
    name="openai",
    label='OpenAI ("messages")',
    markers=("messages", "body"),
    id_keys=("custom_id", "id", "prompt_id"),
    detect=_detect,
    read=read,
    rank=40,
)
