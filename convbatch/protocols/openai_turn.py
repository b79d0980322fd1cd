"""The assistant message of a chat completion, as it goes back into the history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.protocols.decoding import word
from convbatch.protocols.openai_tools import DUMMY

_TEXT_PARTS = frozenset({None, "text", "output_text"})
_THOUGHT_PARTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
# Of a message, a part or a call: Google's compatible route, OpenRouter, LiteLLM, and servers in front of Claude.
_SIGNED = frozenset(
    {
        "extra_content", "reasoning_details", "thinking_blocks", "provider_specific_fields", "reasoning_signature",
        "signature", "thought_signature", "thought_signatures", "thoughtSignature", "encrypted_content",
    }
)  # fmt: skip
_CALL_KEYS = ("id", "type", "function", "custom")


class OpenAITurn:
    """`TurnFormat` of chat completions; stateless."""

    def skip_text(self, turn: Any, count: int) -> Any:
        """Return the message without the first characters of its text; empty parts are omitted."""
        if not isinstance(turn, dict):
            return turn
        content = turn.get("content")
        if isinstance(content, str):
            return {**turn, "content": content[count:]}
        if not isinstance(content, list):
            return turn
        parts: list[Any] = []
        for part in content:
            text = _text_of(part)
            if text is None:
                parts.append(part)
                continue
            kept, count = text[count:], max(0, count - len(text))
            if kept or not text:
                parts.append(kept if isinstance(part, str) else {**part, "text": kept})
        return {**turn, "content": parts}

    def only_content(self, turn: Any) -> Any:
        """Return the message with nothing but role, text, media and tool calls.

        A list with only text parts becomes a string, which every server takes; so does the transcript of an audio
        reply, whose id is valid only for a while.
        """
        if not isinstance(turn, dict):
            return turn
        audio = turn.get("audio")
        content = _content_of(turn.get("content"))
        if not content and isinstance(audio, dict) and isinstance(audio.get("transcript"), str):
            content = audio["transcript"]
        message: dict[str, Any] = {"role": turn.get("role") or "assistant", "content": content}
        calls = turn.get("tool_calls")
        if isinstance(calls, list) and calls:
            message["tool_calls"] = [_bare_call(call) for call in calls]
        elif turn.get("function_call"):
            message["function_call"] = turn["function_call"]
        if content is None and message.keys() <= {"role", "content"}:
            message["content"] = ""
        return message

    def without_signatures(self, turn: Any) -> Any:
        """Return the message without signed fields, and without thoughts whose signature is part of them."""
        if not isinstance(turn, dict):
            return turn
        bare = _unsigned(turn)
        if isinstance(content := turn.get("content"), list):
            bare["content"] = [_unsigned(part) for part in content if not _is_signed_thought(part)]
        if isinstance(calls := turn.get("tool_calls"), list):
            bare["tool_calls"] = [_unsigned_call(call) for call in calls]
        return bare


def _unsigned(fields: Any) -> Any:
    if not isinstance(fields, dict):
        return fields
    return {key: value for key, value in fields.items() if key not in _SIGNED}


def _is_signed_thought(part: Any) -> bool:
    return _is_thought(part) and (part["type"] == "redacted_thinking" or not _SIGNED.isdisjoint(part))


def _is_thought(part: Any) -> bool:
    return isinstance(part, dict) and word(part.get("type")) in _THOUGHT_PARTS


def _text_of(part: Any) -> str | None:
    """Return the visible text of a part; None for a part of another kind."""
    if isinstance(part, str):
        return part
    is_text = isinstance(part, dict) and word(part.get("type")) in _TEXT_PARTS and isinstance(part.get("text"), str)
    return part["text"] if is_text else None


def _content_of(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    kept: list[Any] = []
    for part in content:
        text = _text_of(part)
        if text is not None:
            kept.append({"type": "text", "text": text})
        elif isinstance(part, dict) and not _is_thought(part):
            kept.append(part)
    if all(part.get("type") == "text" for part in kept):
        return "".join(part["text"] for part in kept)
    return kept


def _bare_call(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    return {**{key: call[key] for key in _CALL_KEYS if key in call}, **_dummy(call)}


def _unsigned_call(call: Any) -> Any:
    return {**_unsigned(call), **_dummy(call)} if isinstance(call, dict) else call


def _dummy(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dummy in place of the signature of a call, which Google's compatible route demands."""
    extra = call.get("extra_content")
    return {"extra_content": DUMMY} if isinstance(extra, dict) and "google" in extra else {}
