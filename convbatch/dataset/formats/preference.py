"""The preference format of OpenAI fine-tuning: `input` with `messages`, and `preferred_output`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import DatasetFormat, DialogueBuilder, has_key, take_list
from convbatch.dataset.formats.messages import read_messages


def _detect(line: Mapping[str, Any]) -> bool:
    return has_key(line.get("input"), "messages")


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    body = dict(rest.pop("input"))
    messages = take_list(body, "messages", builder)
    preferred = take_list(rest, "preferred_output", builder) if "preferred_output" in rest else []
    read_messages([*messages, *preferred], builder, **body)


FORMAT = DatasetFormat(
    name="preference",
    label='OpenAI preferences ("input" with "messages")',
    markers=("preferred_output",),
    id_keys=("id",),
    detect=_detect,
    read=_read,
    rank=63,
)
