"""The events of a stream of Messages, added to a message that grows, and that message as it would have come whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.protocols.decoding import decode_arguments, signed_count
from convbatch.protocols.growing import is_text, settled, with_items, with_text
from convbatch.protocols.wire import MalformedReply

_PROMPT_COUNTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_WHOLE_VALUES = frozenset({"signature", "data", "type"})
"""Fields of a delta that replace the value of the block; texts are joined."""


def with_fields(message: Mapping[str, Any], fields: Any) -> dict[str, Any]:
    """Return a message with more fields; null changes nothing, and a count of 0 no other count."""
    grown = dict(message)
    for key, value in fields.items() if isinstance(fields, dict) else ():
        if key == "usage" and isinstance(value, dict):
            grown[key] = _with_counts(grown.get(key), value)
        elif value is not None or key not in grown:
            grown[key] = value
    return grown


def _with_counts(old: Any, new: Mapping[str, Any]) -> dict[str, Any]:
    """Return counts with later ones; a 0 replaces one only beside other counts of the prompt, which it belongs to."""
    counts: dict[str, Any] = dict(old) if isinstance(old, dict) else {}
    if any(signed_count(new.get(name)) for name in _PROMPT_COUNTS):
        counts |= {name: 0 for name in _PROMPT_COUNTS if new.get(name) == 0}
    for name, count in new.items():
        if isinstance(count, dict):
            counts[name] = _with_counts(counts.get(name), count)
        elif count or counts.get(name) is None:
            counts[name] = count
    return counts


def with_end(state: Mapping[str, Any], event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state with the fields of a `message_delta`; its 0 of output counts if nothing was written."""
    fields = {key: item for key, item in event.items() if key not in ("type", "delta")}
    message = with_fields(with_fields(state.get("message") or {}, event.get("delta")), fields)
    usage = fields.get("usage")
    if isinstance(usage, dict) and usage.get("output_tokens") == 0 and not whole_message(state)["content"]:
        message["usage"] = {**message["usage"], "output_tokens": 0}  # the start announces 1 for every reply
    return {**state, "message": message}


def with_block(state: Mapping[str, Any], index: Any, block: Any) -> Mapping[str, Any]:
    """Return the state with one more block."""
    if not isinstance(block, dict):
        raise MalformedReply("a content block that is not an object")
    return {**state, "blocks": [*state.get("blocks", ()), [index, block]]}


def with_delta(state: Mapping[str, Any], index: Any, delta: Any) -> Mapping[str, Any]:
    """Return the state with a delta in the newest block of its index, or in a new one if none can take it."""
    if not isinstance(delta, dict):
        raise MalformedReply("a delta that is not an object")
    blocks: list[Any] = list(state.get("blocks", ()))
    at = next((at for at in reversed(range(len(blocks))) if blocks[at][0] == index), None)
    kind = _kind_of_delta(delta)
    if at is None or (kind is not None and blocks[at][1].get("type") not in (*_takers(kind), None)):
        blocks.append([index, {"type": kind or "text"}])
        at = len(blocks) - 1
    blocks[at] = [index, _grown_block(blocks[at][1], delta)]
    return {**state, "blocks": blocks}


def _kind_of_delta(delta: Mapping[str, Any]) -> str | None:
    """Return the type of block that a delta needs; None if any will do."""
    kinds = {"text": "text", "thinking": "thinking", "partial_json": "tool_use"}
    return next((kind for key, kind in kinds.items() if key in delta), None)


def _takers(kind: str) -> tuple[str, ...]:
    return ("tool_use", "server_tool_use", "mcp_tool_use") if kind == "tool_use" else (kind,)


def _grown_block(block: Mapping[str, Any], delta: Mapping[str, Any]) -> dict[str, Any]:
    grown = dict(block)
    for key, value in delta.items():
        if key == "citation":
            grown["citations"] = with_items(grown.get("citations"), (value,))
        elif key in _WHOLE_VALUES or not isinstance(value, str):
            if key != "type":
                grown[key] = value
        else:
            known = grown.get(key)
            grown[key] = with_text(known if is_text(known) else None, value)
    return grown


def whole_message(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the message that a stream delivered, as it would have come whole."""
    message: dict[str, Any] = dict(state.get("message") or {})
    blocks = [_settled_block(block) for _, block in state.get("blocks", ())]
    if blocks:
        message["content"] = blocks
    else:
        message.setdefault("content", [])
    return message


def _settled_block(block: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = settled(dict(block))
    written = plain.pop("partial_json", None)
    if isinstance(written, str) and written:
        plain["input"] = decode_arguments(written)
    return plain
