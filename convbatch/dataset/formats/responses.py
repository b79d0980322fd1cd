"""The OpenAI Responses format: `input` with `instructions` or a `model`, or as the `body` of a batch line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import DatasetFormat, DialogueBuilder, has_key, recorded_schema
from convbatch.dataset.formats.messages import TARGETS, find_key, read_messages

_REQUEST = ("instructions", "model", "max_output_tokens", "previous_response_id")
_NOT_REPLAYED = ("model", "stream", "stream_options", "background", "metadata", "store")
_STORED = ("previous_response_id", "conversation", "prompt")


def _detect(line: Mapping[str, Any]) -> bool:
    if has_key(line.get("body"), "input"):
        return True
    if find_key(line, TARGETS) is not None:
        return False
    return isinstance(line.get("input"), str | list) and any(key in line for key in _REQUEST)


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    body, is_batch = rest, "input" not in rest
    if is_batch:
        body = dict(rest.pop("body"))
        if isinstance(rest.get("url"), str) and not re.search("responses|completions", rest["url"]):
            builder.issue("no request for a reply", found=rest["url"], hint="dialogues have /v1/responses as their url")
        for key in ("method", "url"):
            rest.pop(key, None)
    for key in _STORED:
        if body.get(key) is not None:
            hint = "write the earlier messages into the dialogue"
            builder.issue(f'"{key}" is stored at the provider and not in this line', found=body.pop(key), hint=hint)
    builder.system(body.pop("instructions", None))
    items = body.pop("input")
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    if isinstance(items, list):
        items = [_message(item) if isinstance(item, dict) else item for item in _without_reasoning(items, builder)]
    read_messages(items, builder)
    _read_settings(body, builder)
    if is_batch:
        for key in [key for key in body if key not in _NOT_REPLAYED]:
            builder.extra(key, body.pop(key))
        builder.keep(body)


def _without_reasoning(items: list[Any], builder: DialogueBuilder) -> list[Any]:
    """Leave out reasoning, which is valid only for the model and route that created it."""
    left = [item for item in items if not has_key(item, "type") or item["type"] != "reasoning"]
    if len(left) < len(items):
        builder.leave_out("reasoning")
    return left


def _message(item: Mapping[str, Any]) -> dict[str, Any]:
    if item.get("type") == "function_call":
        return {"role": "function_call", "content": {key: item.get(key) for key in ("call_id", "name", "arguments")}}
    if item.get("type") == "function_call_output":
        output: Any = item.get("output")
        content = [_part(part) for part in output] if isinstance(output, list) else output
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": content}
    if item.get("type", "message") != "message":
        return {"content": "", **item, "role": item["type"]}  # a tool step or a thought: named by the reader
    content = item.get("content")
    plain = {key: value for key, value in item.items() if key != "type"}
    if isinstance(content, list):
        plain["content"] = [_part(part) for part in content]
    return plain


def _part(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text")}
    if kind == "input_image":
        url = part.get("image_url")
        url = url if part.get("detail") is None else {"url": url, "detail": part["detail"]}
        return {"type": "image_url", "image_url": url}
    if kind == "input_file" and "file_data" in part:
        return {"type": "file", "file": {"file_data": part["file_data"]}}
    if kind == "input_file" and "file_url" in part:
        return {"type": "file", "file": {"file_url": part["file_url"]}}
    return part


def _read_settings(body: dict[str, Any], builder: DialogueBuilder) -> None:
    for name in ("temperature", "top_p", "max_output_tokens"):
        builder.setting(name, body.pop(name, None))
    reasoning = body.get("reasoning")
    if isinstance(reasoning, dict):
        builder.setting("reasoning_effort", reasoning.get("effort"))
        body["reasoning"] = {key: value for key, value in reasoning.items() if key != "effort"}
    tools = body.pop("tools", None) or []
    if not isinstance(tools, list) or all(has_key(tool, "name") and tool.get("type") == "function" for tool in tools):
        builder.declare(tools)
    elif tools:
        builder.extra("tools", tools)
    wanted = body.get("text")
    if has_key(wanted, "format") and has_key(wanted["format"], "schema"):
        builder.setting("response_schema", recorded_schema(wanted["format"]))
        body["text"] = {key: value for key, value in wanted.items() if key != "format"}
    for key in ("reasoning", "text", "tool_choice", "include", "truncation", "service_tier", "parallel_tool_calls"):
        builder.extra(key, body.pop(key, None))


FORMAT = DatasetFormat(
    name="responses",
    label='OpenAI Responses ("input" with "instructions" or "model")',
    markers=("input", "instructions"),
    id_keys=("custom_id", "id"),
    detect=_detect,
    read=_read,
    rank=65,
)
