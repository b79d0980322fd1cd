"""Tools on Anthropic's wire, from the server's side: declarations, the order of calls and results, paused turns.

Source: https://docs.anthropic.com/en/docs/agents-and-tools/tool-use, read 2026-11-27.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from convbatch.simulator.tools import Call
from convbatch.simulator.wire import as_list, as_object, encode, in_pieces, refuse

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ID = re.compile(r"[A-Za-z0-9_-]+")
_PROPERTY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NOT_AT_ROOT = ("oneOf", "allOf", "anyOf")
_RESULT_BLOCKS = ("text", "image", "document", "search_result", "tool_reference")
_UNANSWERED = (
    "messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after: {ids}. Each `tool_use` "
    "block must have a corresponding `tool_result` block in the next message."
)
_ALONE = (
    "messages.{at}.content.{n}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` block "
    "must have a corresponding `tool_use` block in the previous message."
)

Turn = tuple[str, list[dict[str, Any]]]
"""Role and blocks."""


def declared(tools: Any) -> tuple[dict[str, Any], ...]:
    """Return the declared tools of the user; tools of the server are not checked."""
    functions: list[dict[str, Any]] = []
    for at, item in enumerate(as_list(tools) or ()):
        tool = as_object(item) or {}
        if tool.get("type", "custom") != "custom":
            continue
        functions.append(_tool(tool, f"tools.{at}.custom"))
    names = [function["name"] for function in functions]
    if len(set(names)) != len(names):
        refuse("bad_request", "tools: Tool names must be unique.")
    return tuple(functions)


def _tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    name, schema = tool.get("name"), as_object(tool.get("input_schema"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        refuse("bad_request", f"{where}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
    if schema is None:
        refuse("bad_request", f"{where}.input_schema: Field required")
    if schema.get("type") != "object":
        problem = "Field required" if "type" not in schema else "Input should be 'object'"
        refuse("bad_request", f"{where}.input_schema.type: {problem}")
    if any(keyword in schema for keyword in _NOT_AT_ROOT):
        message = "input_schema does not support oneOf, allOf, or anyOf at the top level"
        refuse("bad_request", f"{where}.input_schema: {message}")
    if not all(_PROPERTY.fullmatch(key) for key in as_object(schema.get("properties")) or {}):
        message = "Property keys should match pattern '^[a-zA-Z0-9_.-]{1,64}$'"
        refuse("bad_request", f"{where}.input_schema.properties: {message}")
    return {"name": name, "parameters": schema}


def check_order(turns: Sequence[Turn]) -> None:
    """Refuse calls whose results are not first in the next message, and results without calls."""
    seen: set[str] = set()
    waiting: list[str] = []
    for at, (role, blocks) in enumerate(turns):
        if role == "user":
            _check_results(blocks, waiting, at)
            waiting = []
            continue
        waiting = [_checked_call(block, f"messages.{at}.content.{n}", seen) for n, block in enumerate(blocks)
                   if block["type"] == "tool_use"]  # fmt: skip
    if waiting:
        refuse("bad_request", _UNANSWERED.format(at=len(turns) - 1, ids=", ".join(waiting)))


def _checked_call(block: Mapping[str, Any], where: str, seen: set[str]) -> str:
    for name in ("id", "name", "input"):
        if name not in block:
            refuse("bad_request", f"{where}.tool_use.{name}: Field required")
    if not isinstance(block["id"], str) or not _ID.fullmatch(block["id"]):
        refuse("bad_request", f"{where}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
    if not isinstance(block["input"], dict):
        refuse("bad_request", f"{where}.tool_use.input: Input should be a valid dictionary")
    if block["id"] in seen:
        refuse("bad_request", f"{where}: `tool_use` ids must be unique")
    seen.add(block["id"])
    return block["id"]


def _check_results(blocks: Sequence[Mapping[str, Any]], waiting: Sequence[str], at: int) -> None:
    results = 0
    for block in blocks:
        if block["type"] != "tool_result":
            break
        results += 1
    first = [block.get("tool_use_id") for block in blocks[:results]]
    missing = [call_id for call_id in waiting if call_id not in first]
    if missing:
        refuse("bad_request", _UNANSWERED.format(at=at - 1, ids=", ".join(missing)))
    for n, block in enumerate(blocks):
        if block["type"] != "tool_result":
            continue
        if block.get("tool_use_id") not in waiting:
            refuse("bad_request", _ALONE.format(at=at, n=n, id=block.get("tool_use_id")))
        if first.count(block["tool_use_id"]) > 1 or n >= results:
            message = "each tool_use must have a single result. Found multiple `tool_result` blocks with id"
            refuse("bad_request", f"messages.{at}.content.{n}: {message}: {block['tool_use_id']}")
        for number, part in enumerate(as_list(block.get("content")) or ()):
            if (as_object(part) or {}).get("type") not in _RESULT_BLOCKS:
                where = f"messages.{at}.content.{n}.tool_result.content.{number}"
                tags = ", ".join(f"'{kind}'" for kind in _RESULT_BLOCKS)
                refuse("bad_request", f"{where}: Input tag does not match any of the expected tags: {tags}")


def check_thinking(turns: Sequence[Turn], thinking: Mapping[str, Any]) -> None:
    """Refuse a last step that does not start with its thinking, where the request enables it."""
    if thinking.get("type") != "enabled":
        return
    at = max((at for at, (role, _) in enumerate(turns) if role == "assistant"), default=None)
    if at is None or at + 1 >= len(turns) or turns[at + 1][1][0]["type"] != "tool_result":
        return
    kind = turns[at][1][0]["type"]
    if kind not in ("thinking", "redacted_thinking"):
        refuse("bad_request", f"messages.{at}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
               f"`{kind}`. When `thinking` is enabled, a final `assistant` message must start with a thinking block "
               "(preceeding the lastmost set of `tool_use` and `tool_result` blocks).")  # fmt: skip


def add_turn(turns: list[Turn], role: str, blocks: list[dict[str, Any]]) -> None:
    """Add a message; neighbours of the same role are one message."""
    if turns and turns[-1][0] == role:
        turns[-1] = (role, [*turns[-1][1], *blocks])
    else:
        turns.append((role, blocks))


def results_text(blocks: Sequence[Mapping[str, Any]], mark: Callable[[dict[str, Any]], str]) -> str | None:
    """Return the text of the results in a message, with marks for their media; None without any."""
    results = [_result_text(block, mark) for block in blocks if block["type"] == "tool_result"]
    return "".join(results) or " " if results else None


def _result_text(block: Mapping[str, Any], mark: Callable[[dict[str, Any]], str]) -> str:
    content = block.get("content") or ""
    if isinstance(content, str):
        return content
    parts = [as_object(part) or {} for part in as_list(content) or ()]
    return "".join(part.get("text") or mark(part) for part in parts)


def is_paused(blocks: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a message of the model ends in its middle, with a call of a tool of the server."""
    return bool(blocks) and blocks[-1]["type"] == "server_tool_use"


def _says_more(blocks: Sequence[Mapping[str, Any]]) -> bool:
    return any(block["type"] != "tool_result" for block in blocks)


def pauses_in(turns: Sequence[Turn]) -> int:
    """Return how often the model has paused in the current turn."""
    last = max((at for at, (role, blocks) in enumerate(turns) if role == "user" and _says_more(blocks)), default=0)
    return sum(block["type"] == "server_tool_use" for _, blocks in turns[last + 1 :] for block in blocks)


def paused_block(reply_id: str) -> dict[str, Any]:
    """Return the block at which a reply pauses."""
    return {"type": "server_tool_use", "id": f"srvtoolu_{reply_id}", "name": "web_search", "input": {"query": "sim"}}


def call_blocks(calls: Sequence[Call]) -> Iterator[dict[str, Any]]:
    """Yield the calls of a step as blocks; arguments that are not JSON are a text, as some gateways pass them on."""
    for call in calls:
        made = {} if call.id is None else {"id": f"toolu_{call.id}"}
        yield {"type": "tool_use", **made, "name": call.name, "input": call.arguments}


def call_events(index: int, block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of one call, whose arguments come in pieces."""
    written = block["input"]
    text = written if isinstance(written, str) else encode(written).decode()
    yield {"type": "content_block_start", "index": index, "content_block": {**block, "input": {}}}
    for piece in ["", *in_pieces(text, 3)]:
        delta = {"type": "input_json_delta", "partial_json": piece}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}
