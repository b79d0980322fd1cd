"""The sample format of inspect_ai: `input`, a text or messages, and `target`.

Other tools name the expected answer `ideal`, `expected` or `output`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import DatasetFormat, DialogueBuilder
from convbatch.dataset.formats.messages import TARGETS, as_text, is_messages, read_messages

_CHANGES = {
    "choices": "write the choices into the text of the question",
    "files": "save them beside the dataset and name them in parts of the user message",
    "sandbox": "there is no sandbox: remove it if the question does not need it",
    "setup": "there is no sandbox: remove it if the question does not need it",
}


def _detect(line: Mapping[str, Any]) -> bool:
    asked = line.get("input")
    return is_messages(asked) or (isinstance(asked, str) and any(key in line for key in TARGETS))


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    for key, hint in _CHANGES.items():
        if (value := rest.pop(key, None)) not in (None, [], {}):
            builder.issue(f'"{key}" changes the question and has no canonical form', found={key: value}, hint=hint)
    asked: Any = rest.pop("input")
    if isinstance(asked, str):
        builder.user(asked)
    else:
        read_messages(asked, builder, tools=rest.pop("tools", None))
        if not isinstance(asked[-1], dict) or asked[-1].get("role") != "user":
            return  # the last turn has its reply; the target stays in meta
    for key in TARGETS:
        if (text := as_text(rest.get(key))) is not None:
            del rest[key]
            builder.reply(text)
            break


FORMAT = DatasetFormat(
    name="inspect",
    label='inspect_ai ("input" and "target")',
    markers=("input", "target"),
    id_keys=("id",),
    detect=_detect,
    read=_read,
    rank=70,
)
