"""Chatbot Arena rows: `conversation_a` and `conversation_b` answer the same questions; side a is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import DatasetFormat, DialogueBuilder
from convbatch.dataset.formats.messages import read_messages


def _detect(line: Mapping[str, Any]) -> bool:
    return "conversation_a" in line


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    read_messages(rest.pop("conversation_a"), builder)


FORMAT = DatasetFormat(
    name="arena",
    label='Chatbot Arena ("conversation_a")',
    markers=("conversation_a",),
    id_keys=("question_id", "id"),
    detect=_detect,
    read=_read,
    rank=55,
)
