"""The content of a Gemini candidate, as it goes back into the history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.protocols.tool_history import DUMMY_SIGNATURE

# What a part can hold that the model said or did; both spellings of the API. Everything else describes it: `thought`,
# `thoughtSignature`, `partMetadata` …
_SAID = frozenset(
    {
        "text", "inlineData", "inline_data", "fileData", "file_data", "functionCall", "function_call",
        "functionResponse", "function_response", "executableCode", "executable_code", "codeExecutionResult",
        "code_execution_result", "videoMetadata", "video_metadata",
    }
)  # fmt: skip

_SIGNED = frozenset({"thoughtSignature", "thought_signature"})
_CALLS = frozenset({"functionCall", "function_call"})


class GeminiTurn:
    """`TurnFormat` of generateContent; stateless."""

    def skip_text(self, turn: Any, count: int) -> Any:
        """Return the content without the first characters of its visible text; parts left empty are omitted."""
        parts = _parts_of(turn)
        if parts is None:
            return turn
        kept: list[Any] = []
        for part in parts:
            text = None if not isinstance(part, dict) or part.get("thought") else part.get("text")
            if not isinstance(text, str):
                kept.append(part)
                continue
            rest, count = text[count:], max(0, count - len(text))
            if rest or not text or part.keys() - {"text"}:
                kept.append({**part, "text": rest})
        return {**turn, "parts": kept}

    def only_content(self, turn: Any) -> Any:
        """Return the content with nothing but role, text, media and calls: no thoughts, no signatures.

        The signature of a call becomes a dummy, which the API takes: it refuses a call without one.
        """
        parts = _parts_of(turn)
        if parts is None:
            return turn
        said = [
            {key: value for key, value in part.items() if key in _SAID} | _dummy(part)
            for part in parts
            if isinstance(part, dict) and not part.get("thought")
        ]
        whole = [part for part in said if part and part != {"text": ""}]
        return {"role": turn.get("role") or "model", "parts": whole or [{"text": ""}]}

    def without_signatures(self, turn: Any) -> Any:
        """Return the content without signatures; a part that only carried one is omitted.

        The signature of a call becomes a dummy.
        """
        parts = _parts_of(turn)
        if parts is None:
            return turn
        bare: list[Any] = []
        for part in parts:
            if not isinstance(part, dict) or _SIGNED.isdisjoint(part):
                bare.append(part)
                continue
            rest = {key: value for key, value in part.items() if key not in _SIGNED} | _dummy(part)
            if rest and rest != {"text": ""}:
                bare.append(rest)
        return {**turn, "parts": bare or [{"text": ""}]}


def _dummy(part: Mapping[str, Any]) -> dict[str, Any]:
    is_signed_call = not _SIGNED.isdisjoint(part) and not _CALLS.isdisjoint(part)
    return {"thoughtSignature": DUMMY_SIGNATURE} if is_signed_call else {}


def _parts_of(turn: Any) -> list[Any] | None:
    parts = turn.get("parts") if isinstance(turn, dict) else None
    return parts if isinstance(parts, list) else None
