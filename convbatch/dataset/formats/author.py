"""The Vertex tuning format of PaLM: `messages` of `author` and `content`, with the system text in `context`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import DatasetFormat, DialogueBuilder, has_key
from convbatch.dataset.formats.messages import is_messages, read_messages


def _detect(line: Mapping[str, Any]) -> bool:
    messages: Any = line.get("messages")
    return is_messages(messages) and has_key(messages[0], "author") and "role" not in messages[0]


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    builder.system(rest.pop("context", None))
    examples = rest.pop("examples", None)
    if examples:
        hint = 'write them as turns with "ask": false in the canonical format'
        builder.issue('"examples" are part of the question and have no canonical form', found=examples, hint=hint)
    read_messages(rest.pop("messages"), builder)


FORMAT = DatasetFormat(
    name="author",
    label='Vertex tuning of PaLM ("messages" of "author")',
    markers=("messages",),
    id_keys=("id",),
    detect=_detect,
    read=_read,
    rank=35,
)
