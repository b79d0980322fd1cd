"""Task-oriented dialogues: `turns` of `speaker` and `utterance` (SGD, MultiWOZ), or `messages` of `usr` and `sys`.

`turns` of `role` and `content` are read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import DatasetFormat, DialogueBuilder
from convbatch.dataset.formats.messages import is_messages, read_messages


def _detect(line: Mapping[str, Any]) -> bool:
    turns: Any = line.get("turns")
    if is_messages(turns):
        return "user" not in turns[0]
    messages: Any = line.get("messages")
    if not is_messages(messages):
        return False
    roles = [message.get("role") for message in messages if isinstance(message, dict)]
    return all(role in ("usr", "sys") for role in roles) and "usr" in roles and "sys" in roles


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    key = "turns" if is_messages(rest.get("turns")) else "messages"
    builder.system(rest.pop("system", None))
    read_messages(rest.pop(key), builder, tools=rest.pop("tools", None))


FORMAT = DatasetFormat(
    name="speakers",
    label='speakers ("turns" of "speaker" and "utterance")',
    markers=("turns",),
    id_keys=("dialogue_id", "id", "dialog_id"),
    detect=_detect,
    read=_read,
    rank=15,
)
