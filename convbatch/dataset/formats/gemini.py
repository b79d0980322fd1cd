"""The Gemini format: a request body with `contents`, in a line of its own or as the `request` of a batch line."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from convbatch.dataset.formats.builder import (
    DatasetFormat,
    DialogueBuilder,
    has_key,
    role_of,
    take_list,
)
from convbatch.dataset.recorded_calls import RecordedResult, google_schema
from convbatch.dataset.side_keys import read_message_keys, read_side_keys
from convbatch.dataset.side_media import address
from convbatch.errors import did_you_mean
from convbatch.media import kind_named


def _detect(line: Mapping[str, Any]) -> bool:
    return "contents" in line or has_key(line.get("request"), "contents")


_SETTINGS = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "maxOutputTokens": "max_output_tokens",
    "stopSequences": "stop",
    "seed": "seed",
}
_EXTRA = ("toolConfig", "cachedContent", "serviceTier", "store", "labels", "continuationToken")


def _camel(key: str) -> str:
    head, *tail = key.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in tail)


def _camel_keys(plain: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Rename known snake_case keys to camelCase: Google's SDKs write one, its REST reference the other."""
    return {(camel if (camel := _camel(key)) in known else key): value for key, value in plain.items()}


_BODY = ("contents", "systemInstruction", "generationConfig", "safetySettings", "tools", *_EXTRA)
_CONFIG = (*_SETTINGS, "thinkingConfig", "responseMimeType", "responseSchema", "responseJsonSchema")
_DATA = ("inlineData", "fileData", "mediaResolution")
_PART = ("text", *_DATA, "thought", "thoughtSignature", "functionCall", "functionResponse")


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    if "contents" in rest:
        body = _camel_keys(rest, _BODY)
        rest.clear()
    else:
        body = _camel_keys(rest.pop("request"), _BODY)
    _read_system(body.pop("systemInstruction", None), builder)
    for content in take_list(body, "contents", builder):
        if isinstance(content, dict):
            _read_content(content, builder)
        else:
            hint = '{"role": "user", "parts": [{"text": "…"}]}'
            builder.issue("a message must be an object", place=builder.place, found=content, hint=hint)
            builder.refused("unknown")
    _read_config(body.pop("generationConfig", None), builder)
    _read_safety(body.pop("safetySettings", None), builder)
    _read_tools(body.pop("tools", None), builder)
    for key in _EXTRA:
        builder.extra(key, body.pop(key, None))
    read_side_keys(body, builder)
    builder.keep(body)


def _read_system(instruction: Any, builder: DialogueBuilder) -> None:
    if isinstance(instruction, dict):
        parts = instruction.get("parts")
        parts = parts if isinstance(parts, list) else [parts]
        values = [part.get("text") if isinstance(part, dict) else part for part in parts]
        texts = [value for value in values if isinstance(value, str)]
        builder.system("\n".join(texts) if len(texts) == len(values) else instruction)
    else:
        builder.system(instruction)


def _read_content(content: Mapping[str, Any], builder: DialogueBuilder) -> None:
    role = content.get("role", "user")
    parts = content.get("parts", [])
    parts = parts if isinstance(parts, list) else [parts]
    read = [_camel_keys(part, _PART) for part in parts if isinstance(part, dict)]
    if role not in ("user", "model", "function"):
        _refuse_role(role, content, builder)
        return
    if len(read) != len(parts):
        hint = '"parts": [{"text": "…"}]'
        builder.issue("a part must be an object", place=builder.place, found=content, hint=hint)
        builder.refused("assistant" if role == "model" else "user")
        return
    if role == "model":
        _read_model(read, builder)
    else:
        _read_user(read, builder)
    read_message_keys(content, ("role", "parts"), builder)


def _refuse_role(role: Any, content: Any, builder: DialogueBuilder) -> None:
    kind = role_of(role)
    hints = {
        "user": 'in this form: "user"',
        "assistant": 'in this form: "model"',
        "system": 'in this form system text stands beside "contents": "systemInstruction": {"parts": [{"text": "…"}]}',
    }
    hint = did_you_mean(str(role), ("user", "model")) if kind is None else hints[kind]
    builder.unsupported(role, content, hint=hint)
    builder.refused("unknown" if kind is None or kind == "system" else kind)


def _read_model(parts: list[dict[str, Any]], builder: DialogueBuilder) -> None:
    calls = [part for part in parts if isinstance(part.get("functionCall"), dict)]
    text = _reply([part for part in parts if part not in calls], builder)
    if text.strip() or not calls:
        builder.reply(text)
    if calls:
        builder.calls(calls)


def _read_user(parts: list[dict[str, Any]], builder: DialogueBuilder) -> None:
    results = [part for part in parts if isinstance(part.get("functionResponse"), dict)]
    for part in results:
        builder.call_result(_result(part["functionResponse"], builder))
    rest = [part for part in parts if part not in results]
    if rest or not results:
        builder.user(_user(rest, builder))


def _result(answer: Mapping[str, Any], builder: DialogueBuilder) -> RecordedResult:
    """Read a function's response; of one with a single `output` or `error` the value is the result."""
    value = answer.get("response", {})
    is_error = has_key(value, "error") and len(value) == 1
    if is_error:
        value = value["error"]
    elif has_key(value, "output") and len(value) == 1 and not isinstance(value["output"], dict):
        value = value["output"]
    inner = answer.get("parts")
    parts = [_camel_keys(part, _PART) for part in inner if isinstance(part, dict)] if isinstance(inner, list) else []
    media = _user(parts, builder, place=builder.place) if parts else []
    return RecordedResult(value, answer.get("id"), answer.get("name"), is_error, tuple(media))


def _reply(parts: list[dict[str, Any]], builder: DialogueBuilder) -> str:
    # Thoughts and signatures are valid only for the model and route that created them; elsewhere they are refused.
    visible = [part for part in parts if not part.get("thought")]
    for part in visible:
        if not isinstance(part.get("text", ""), str) or set(part) - {"text", "thoughtSignature", "thought"}:
            builder.refuse_part(part, builder.place)
    return "".join(part["text"] for part in visible if isinstance(part.get("text"), str))


def _user(parts: list[dict[str, Any]], builder: DialogueBuilder, *, place: str | None = None) -> Any:
    canonical: list[dict[str, Any]] = []
    for part in parts:
        if set(part) == {"text"}:
            canonical.append({"text": part["text"]})
        elif (medium := _medium(part)) is not None:
            canonical.append(medium)
        else:
            builder.refuse_part(part, place or builder.next_place)
    return canonical[0]["text"] if len(canonical) == 1 and "text" in canonical[0] else canonical


def _medium(part: dict[str, Any]) -> dict[str, Any] | None:
    """Return the canonical part of `inlineData` or `fileData`; None for another part."""
    level = part.get("mediaResolution", {})
    named = (
        _RESOLUTION.fullmatch(str(level.get("level"))) if isinstance(level, dict) and set(level) == {"level"} else None
    )
    if level and named is None:
        return None
    detail = {} if named is None else {"detail": named[1].lower()}
    left = set(part) - {"mediaResolution"}
    if left == {"inlineData"} and isinstance(part["inlineData"], dict):
        inline = _camel_keys(part["inlineData"], ("mimeType", "data"))
        return {"data": _standard(inline.get("data")), "mime_type": inline.get("mimeType"), **detail}
    if left == {"fileData"} and isinstance(part["fileData"], dict):
        file = _camel_keys(part["fileData"], ("mimeType", "fileUri"))
        mime_type = file.get("mimeType")
        kind = kind_named(mime_type) if isinstance(mime_type, str) else "document"
        return {**address(kind, str(file.get("fileUri")), mime_type), **detail}
    return None


_RESOLUTION = re.compile(r"MEDIA_RESOLUTION_(LOW|MEDIUM|HIGH|ULTRA_HIGH)")


def _standard(data: Any) -> Any:
    """Return base64 in the standard alphabet; Google's SDK writes the other one."""
    return data.translate(str.maketrans("-_", "+/")) if isinstance(data, str) else data


def _read_config(config: Any, builder: DialogueBuilder) -> None:
    if config is None:
        return
    if not isinstance(config, dict):
        builder.issue('"generationConfig" must be an object', found=config, hint='e.g. {"temperature": 0}')
        return
    config = {key: value for key, value in _camel_keys(config, _CONFIG).items() if value is not None}
    for key, name in _SETTINGS.items():
        builder.setting(name, config.pop(key, None))
    thinking = config.get("thinkingConfig")
    if isinstance(thinking, dict):
        left = _camel_keys(thinking, ("thinkingBudget", "thinkingLevel"))
        builder.setting("thinking_budget", left.pop("thinkingBudget", None))
        builder.setting("thinking_level", left.pop("thinkingLevel", None))
        config["thinkingConfig"] = left
    if "responseJsonSchema" in config and config.get("responseMimeType") == "application/json":
        builder.setting("response_schema", config.pop("responseJsonSchema"))
        del config["responseMimeType"]
    builder.extra("generationConfig", {key: value for key, value in config.items() if value != {}})


def _read_safety(settings: Any, builder: DialogueBuilder) -> None:
    if not settings:
        return
    rows: list[Any] = settings if isinstance(settings, list) else [settings]
    if not all(has_key(row, "category") and set(row) == {"category", "threshold"} for row in rows):
        builder.issue("safetySettings of an unknown form", found=settings, hint='[{"category": "…", "threshold": "…"}]')
        return
    builder.setting("safety", {row["category"]: row["threshold"] for row in rows})


def _read_tools(tools: Any, builder: DialogueBuilder) -> None:
    if not tools:
        return
    if not isinstance(tools, list):
        builder.declare(tools)
        return
    rows = [_camel_keys(row, ("functionDeclarations",)) if isinstance(row, dict) else {} for row in tools]
    if not any("functionDeclarations" in row for row in rows):
        builder.extra("tools", tools)  # server-side tools (search, code execution) are sent unchanged
        return
    if not all(set(row) == {"functionDeclarations"} and isinstance(row["functionDeclarations"], list) for row in rows):
        builder.issue(
            "function declarations mixed with other tools",
            found=tools,
            hint='put the functions into the canonical "tools" and the rest into "settings": {"extra": …}',
        )
        return
    functions: list[Any] = [function for row in rows for function in row["functionDeclarations"]]
    builder.declare([_function(function) if isinstance(function, dict) else function for function in functions])


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    if function.get("parameters") is None:
        return dict(function)
    return {**function, "parameters": google_schema(function["parameters"])}


FORMAT = DatasetFormat(
    name="gemini",
    label='Gemini ("contents")',
    markers=("contents", "request"),
    id_keys=("key", "id"),
    detect=_detect,
    read=_read,
    rank=30,
)
