"""A list of messages under another name: `conv`, `CONVERSATION`, `dialogue`, `history` …, in any case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import DatasetFormat, DialogueBuilder
from convbatch.dataset.formats.messages import CONVERSATION_KEYS, is_messages, read_messages, tag_with

_KEYS = (*CONVERSATION_KEYS, "chat", "messages")


def _key(line: Mapping[str, Any]) -> str | None:
    return next((key for key, value in line.items() if key.casefold() in _KEYS and is_messages(value)), None)


def _detect(line: Mapping[str, Any]) -> bool:
    return _key(line) is not None


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    key = _key(rest)
    builder.system(rest.pop("system", None))
    read_messages(rest.pop(key) if key is not None else [], builder, tools=rest.pop("tools", None))
    tag_with(rest, ("category", "task", "axis"), builder)


FORMAT = DatasetFormat(
    name="conversation",
    label='conversation (a list of messages as "conv", "CONVERSATION", "dialogue" …)',
    markers=("conv", "dialogue", "conversation"),
    id_keys=("QUESTION_ID", "question_id", "id", "conversation_id", "dialogue_id", "conv_id"),
    detect=_detect,
    read=_read,
    rank=60,
)
