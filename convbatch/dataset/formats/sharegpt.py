"""The ShareGPT format and its variants: `conversations` of `from` and `value`, or of `role` and `content`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import (
    CALL_ROLES,
    RESULT_ROLES,
    DatasetFormat,
    DialogueBuilder,
    role_of,
    take_list,
)
from convbatch.dataset.jsonl import RefusedValue, parse_value
from convbatch.dataset.recorded_calls import RecordedResult
from convbatch.dataset.side_keys import read_message_keys


def _detect(line: Mapping[str, Any]) -> bool:
    return "conversations" in line or "conversation" in line


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    builder.system(rest.pop("system", None))
    builder.declare(rest.pop("tools", None))
    key = "conversations" if "conversations" in rest else "conversation"
    for message in take_list(rest, key, builder):
        if not isinstance(message, dict):
            builder.issue("a message must be an object", place=builder.place, found=message, hint=_EXAMPLE)
            builder.refused("unknown")
            continue
        role = message.get("from", message.get("role"))
        text = message.get("value", message.get("content"))
        _add_message(builder, role, text, message)


_EXAMPLE = '{"from": "human", "value": "…"}'


def _add_message(builder: DialogueBuilder, role: Any, text: Any, message: Mapping[str, Any]) -> None:
    kind = role_of(role)
    if role in CALL_ROLES:
        builder.calls(text)
        return
    if role in RESULT_ROLES:
        _add_results(builder, text)
        return
    if kind is None:
        builder.unsupported("" if role is None else role, message)
        return
    if not isinstance(text, str):
        builder.issue("a message without text", place=builder.place, found=message, hint=_EXAMPLE)
        builder.refused("unknown" if kind == "system" else kind)
        return
    if kind == "user":
        builder.user(text)
    elif kind == "assistant":
        builder.reply(text)
    else:
        builder.system(text)
    read_message_keys(message, ("from", "role", "value", "content"), builder)


def _add_results(builder: DialogueBuilder, text: Any) -> None:
    """Add an observation: the result of one call, or a list with one for each of several calls."""
    waiting = builder.waiting_calls
    values = _json_list(text) if waiting > 1 else None
    for value in values if values is not None and len(values) == waiting else [text]:
        builder.call_result(RecordedResult(value))


def _json_list(text: Any) -> list[Any] | None:
    try:
        value = parse_value(text.encode()) if isinstance(text, str) else text
    except RefusedValue:
        return None
    return value if isinstance(value, list) else None


FORMAT = DatasetFormat(
    name="sharegpt",
    label='ShareGPT ("conversations")',
    markers=("conversations", "conversation"),
    id_keys=("id", "conversation_id", "conversation_hash"),
    detect=_detect,
    read=_read,
    rank=50,
)
