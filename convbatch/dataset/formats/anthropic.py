"""The batch format of Anthropic: `params` with `messages`; text, inline images and documents, and tool calls are read.

Plain `messages` with a `system` text beside them are read as OpenAI's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import DatasetFormat, DialogueBuilder, has_key
from convbatch.dataset.formats.messages import read_messages

_NOT_REPLAYED = ("model", "stream", "metadata")


def _detect(line: Mapping[str, Any]) -> bool:
    return has_key(line.get("params"), "messages")


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    body = dict(rest.pop("params"))
    builder.system(_system(body.pop("system", None)))
    messages = body.pop("messages")
    if isinstance(messages, list):
        messages = [_message(message) if isinstance(message, dict) else message for message in messages]
    read_messages(messages, builder)
    for key, name in (
        ("max_tokens", "max_output_tokens"),
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("top_k", "top_k"),
        ("stop_sequences", "stop"),
    ):
        builder.setting(name, body.pop(key, None))
    _read_thinking(body.pop("thinking", None), builder)
    builder.declare(body.pop("tools", None))
    for key in [key for key in body if key not in _NOT_REPLAYED]:
        builder.extra(key, body.pop(key))
    builder.keep(body)


def _system(system: Any) -> Any:
    if isinstance(system, list) and all(has_key(block, "text") for block in system):
        return "\n".join(str(block["text"]) for block in system)
    return system


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return dict(message)
    shown = [block for block in content if not _is_thought(block)] if message.get("role") == "assistant" else content
    return {**message, "content": [_block(block) for block in shown]}


def _is_thought(block: Any) -> bool:
    # Valid only for the model that created it.
    return isinstance(block, dict) and block.get("type") in ("thinking", "redacted_thinking")


def _block(block: Any) -> Any:
    if isinstance(block, dict) and block.get("type") == "tool_result" and isinstance(block.get("content"), list):
        return {**block, "content": [_block(inner) for inner in block["content"]]}
    if not isinstance(block, dict) or not isinstance(block.get("source"), dict):
        return (
            {key: value for key, value in block.items() if key != "cache_control"} if isinstance(block, dict) else block
        )
    return {"type": block.get("type"), "source": block["source"]}


def _read_thinking(thinking: Any, builder: DialogueBuilder) -> None:
    if thinking is None:
        return
    if has_key(thinking, "budget_tokens"):
        builder.setting("thinking_budget", thinking["budget_tokens"])
    elif isinstance(thinking, dict) and thinking.get("type") == "disabled":
        builder.setting("thinking_budget", 0)
    else:
        builder.extra("thinking", thinking)


FORMAT = DatasetFormat(
    name="anthropic",
    label='Anthropic batch ("params" with "messages")',
    markers=("params",),
    id_keys=("custom_id", "id"),
    detect=_detect,
    read=_read,
    rank=52,
)
