"""Texts of a conversation in the message form of OpenTelemetry's conventions; only with `--text`.

What is not in the tables is left out: results of tools, and the steps between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from convbatch.dialogue import Dialogue, HistoryMode


def system_instructions(dialogue: Dialogue) -> str | None:
    """Return `gen_ai.system_instructions`; None without a system text."""
    return None if dialogue.system is None else _json([_text(dialogue.system)])


def input_messages(dialogue: Dialogue, history: HistoryMode, rows: Mapping[int, Mapping[str, Any]], turn: int) -> str:
    """Return `gen_ai.input.messages`: the turns before this one with their replies, and its user message.

    Args:
        dialogue: The script.
        history: Where the replies in the history are from.
        rows: Rows of `turns` by turn number: `user`, `reply`, `tool_calls`.
        turn: Number of the turn.
    """
    messages: list[dict[str, Any]] = []
    for number, script in enumerate(dialogue.turns[:turn], 1):
        row = rows.get(number)
        messages.append({"role": "user", "parts": [_text(script.user_text if row is None else row["user"])]})
        if number == turn:
            break
        if history == "live" and row is not None:
            messages.append({"role": "assistant", "parts": _reply_parts(row)})
        elif script.assistant is not None:
            messages.append({"role": "assistant", "parts": [_text(script.assistant)]})
    return _json(messages)


def output_messages(row: Mapping[str, Any]) -> str:
    """Return `gen_ai.output.messages`: the reply with its calls of tools."""
    return _json([{"role": "assistant", "parts": _reply_parts(row), "finish_reason": row["finish_reason"]}])


def _reply_parts(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls: Sequence[Mapping[str, Any]] = orjson.loads(row["tool_calls"]) if row["tool_calls"] else ()
    text = [_text(row["reply"])] if row["reply"] else []
    return [*text, *({"type": "tool_call", **call} for call in calls)]


def _text(content: str) -> dict[str, str]:
    return {"type": "text", "content": content}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
