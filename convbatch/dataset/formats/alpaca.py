"""The Alpaca format: `instruction`, `input` and `output`, with earlier exchanges in `history`.

Dolly names the `input` `context`. Relatives name the last question `query`, `prompt` or `question` and have a
`history` too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import DatasetFormat, DialogueBuilder
from convbatch.dataset.formats.messages import as_text, find_key, is_messages, read_exchange, read_messages, read_pairs

_QUESTIONS = ("instruction", "query", "prompt", "question")
_REPLIES = ("output", "response", "answer", "completion")


def _detect(line: Mapping[str, Any]) -> bool:
    if find_key(line, ("conversations", "conversation", "conv")) is not None:
        return False
    return "instruction" in line or ("history" in line and any(isinstance(line.get(key), str) for key in _QUESTIONS))


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    builder.system(rest.pop("system", None))
    history = rest.pop("history", None) or []
    if is_messages(history):
        read_messages(history, builder)
    else:
        read_pairs(history, builder)
    question = rest.pop(next(key for key in _QUESTIONS if key in rest))
    more = rest.pop("input" if "input" in rest else "context", None)
    if more not in (None, ""):
        text = as_text(more)
        if text is None or not isinstance(question, str):
            builder.issue('"input" must be text', found=more, hint='a string, which follows "instruction"')
        else:
            question = f"{question}\n{text}" if question.strip() else text
    replied = next((key for key in _REPLIES if key in rest), None)
    read_exchange(question, None if replied is None else rest.pop(replied), builder)


FORMAT = DatasetFormat(
    name="alpaca",
    label='Alpaca ("instruction")',
    markers=("instruction", "history"),
    id_keys=("id",),
    detect=_detect,
    read=_read,
    rank=44,
)
