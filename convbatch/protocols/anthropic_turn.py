"""The assistant message of Anthropic's Messages, as it goes back into the history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.protocols.decoding import word

_TEXT_BLOCKS = frozenset({None, "text", "output_text"})
_THINKING = frozenset({"thinking", "redacted_thinking"})
_SAID: Mapping[str, tuple[str, ...]] = {
    "text": ("type", "text"),
    "tool_use": ("type", "id", "name", "input"),
    "image": ("type", "source"),
}
"""Blocks that the model said or did, and the fields that the API needs of them; other blocks stay whole."""


class AnthropicTurn:
    """`TurnFormat` of Messages; stateless. A turn is `{"role": "assistant", "content": [...]}`."""

    def skip_text(self, turn: Any, count: int) -> Any:
        """Return the message without the first characters of its visible text; blocks left empty are omitted."""
        content = turn.get("content") if isinstance(turn, dict) else None
        if isinstance(content, str):
            return {**turn, "content": content[count:]}
        if not isinstance(content, list):
            return turn
        blocks: list[Any] = []
        for block in content:
            text = _text_of(block)
            if text is None:
                blocks.append(block)
                continue
            kept, count = text[count:], max(0, count - len(text))
            if kept or not text:
                blocks.append({**block, "text": kept})
        return {**turn, "content": blocks}

    def only_content(self, turn: Any) -> Any:
        """Return the message with nothing but role, text, media and tool calls: no thinking, no citations."""
        content = turn.get("content") if isinstance(turn, dict) else None
        if not isinstance(content, list):
            return turn
        said = [_bare(block) for block in content if not _is_thinking(block)]
        return {"role": "assistant", "content": [block for block in said if _text_of(block) != ""]}

    def without_signatures(self, turn: Any) -> Any:
        """Return the message without thinking, whose signature is part of it; the same turn if it has none."""
        content = turn.get("content") if isinstance(turn, dict) else None
        if not isinstance(content, list) or not any(map(_is_thinking, content)):
            return turn
        return {**turn, "content": [block for block in content if not _is_thinking(block)]}


def sendable(turn: Any) -> Any:
    """Return the message as the API takes it: text blocks with their type, and no empty ones beside others.

    Arguments that are no JSON object go back inside one, as the API asks for.
    """
    content = turn.get("content") if isinstance(turn, dict) else None
    if not isinstance(content, list):
        return turn
    if all(_is_sendable(block) for block in content if isinstance(block, dict)):
        return turn
    kept = [_typed(block) for block in content]
    return {**turn, "content": [block for block in kept if _text_of(block) != ""] or kept}


def _is_sendable(block: Mapping[str, Any]) -> bool:
    return _text_of(block) != "" and "type" in block and not _has_broken_input(block)


def _has_broken_input(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_use" and not isinstance(block.get("input"), dict)


def _typed(block: Any) -> Any:
    if _has_broken_input(block):
        broken = block.get("input")
        return {**block, "input": {} if broken is None else {"INVALID_JSON": broken}}
    return block if _text_of(block) is None else {"type": "text", **block}


def blocks_of(content: Any) -> list[Mapping[str, Any]] | None:
    """Return the blocks of a content, which may be a text; empty for null, None if it is neither."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        return None
    blocks: list[Any] = [
        {"type": "text", "text": block} if isinstance(block, str) else block for block in content if block is not None
    ]
    return blocks if all(isinstance(block, dict) for block in blocks) else None


def _text_of(block: Any) -> str | None:
    """Return the visible text of a block; None for a block of another kind."""
    is_text = isinstance(block, dict) and word(block.get("type")) in _TEXT_BLOCKS and isinstance(block.get("text"), str)
    return block["text"] if is_text else None


def _is_thinking(block: Any) -> bool:
    return isinstance(block, dict) and word(block.get("type")) in _THINKING


def _bare(block: Any) -> Any:
    keys = _SAID.get(str(block.get("type"))) if isinstance(block, dict) else None
    return block if keys is None else {key: block[key] for key in keys if key in block}
