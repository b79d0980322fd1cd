"""Prompt and completion: Hugging Face `prompt`/`completion` or `chosen`, `prompt` lists, `text_input`/`output`.

Each is a text or a list of messages; a list of texts is one user turn each. A text of the old Anthropic form, with
`Human:` and `Assistant:` at the start of paragraphs, is split at them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import DatasetFormat, DialogueBuilder
from convbatch.dataset.formats.messages import as_text, is_messages, read_messages, tag_with

_PROMPTS = ("prompt", "prompts", "text_input")
_REPLIES = ("completion", "chosen", "response", "output", "answer")


def _detect(line: Mapping[str, Any]) -> bool:
    return any(key in line for key in _PROMPTS) or "chosen" in line


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    asked = next((key for key in _PROMPTS if key in rest), None)
    prompt = None if asked is None else rest.pop(asked)
    replied = next((key for key in _REPLIES if rest.get(key) is not None), None)
    reply = None if replied is None else rest.pop(replied)
    builder.system(rest.pop("system", None))
    if isinstance(prompt, list) and all(isinstance(text, str) for text in prompt):
        _read_list(prompt, reply, rest, builder)
        return
    messages = [*_messages(prompt, "user"), *_messages(reply, "assistant")]
    if prompt is not None and isinstance(reply, list) and is_messages(reply) and reply[0].get("role") == "user":
        messages = _messages(reply, "assistant")  # the whole dialogue is repeated in `chosen`
    read_messages(messages, builder, tools=rest.pop("tools", None))
    tag_with(rest, ("category",), builder)


def _read_list(prompts: list[str], reply: Any, rest: dict[str, Any], builder: DialogueBuilder) -> None:
    replies = reply if isinstance(reply, list) else [reply]
    if reply is None and builder.reference and isinstance(rest.get("reference"), list):
        replies = rest.pop("reference")
    if len(replies) > len(prompts):
        builder.issue("more replies than prompts", found=replies, hint="one a prompt, in order")
    for number, text in enumerate(prompts):
        builder.user(text)
        builder.reply((as_text(replies[number]) or "") if number < len(replies) else "")
    tag_with(rest, ("category",), builder)


def _messages(value: Any, role: str) -> list[Any]:
    if value is None:
        return []
    value = as_text(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if isinstance(value, str):
        pieces = _SPEAKER.split(value)
        if len(pieces) == 1 or pieces[0].strip():
            return [{"role": role, "content": value}]
        said = [
            {"role": "user" if name == "Human" else "assistant", "content": text.strip()}
            for name, text in zip(pieces[1::2], pieces[2::2], strict=True)
        ]
        return [message for message in said if message["content"]]
    return value if isinstance(value, list) else [value]


_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")

FORMAT = DatasetFormat(
    name="prompt",
    label='prompt and completion ("prompt")',
    markers=("prompt", "completion", "chosen"),
    id_keys=("id", "prompt_id", "question_id"),
    detect=_detect,
    read=_read,
    rank=75,
)
