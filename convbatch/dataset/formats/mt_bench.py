"""The MT-Bench format: `turns` of strings, or of `{"content": …}` as in Arena-Hard.

`category` becomes a tag, `reference` scripted replies if requested.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import DatasetFormat, DialogueBuilder, take_list
from convbatch.dataset.jsonl import display_json


def _detect(line: Mapping[str, Any]) -> bool:
    turns = line.get("turns")
    return isinstance(turns, list) and bool(turns) and isinstance(_text(turns[0]), str)


def _text(turn: Any) -> Any:
    return turn["content"] if isinstance(turn, dict) and turn.keys() == {"content"} else turn


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    answers: list[Any] = []
    turns = take_list(rest, "turns", builder)
    if builder.reference and rest.get("reference") is not None:
        if isinstance(rest["reference"], str | int | float):
            rest["reference"] = [rest["reference"]]
        answers = take_list(rest, "reference", builder)
        if len(answers) > len(turns):
            builder.issue("more reference answers than turns", found=answers, hint="one answer a turn, in order")
    for number, text in enumerate(map(_text, turns)):
        if not isinstance(text, str):
            builder.issue(
                "a turn that is not text among turns of text",
                place=f"turn {number + 1}",
                found=text,
                hint='either all turns are strings (MT-Bench), or all are objects {"user": "…"}',
            )
            builder.refused("unknown")
            continue
        builder.user(text)
        _read_answer(answers[number] if number < len(answers) else None, builder)
    category = rest.get("category")
    if isinstance(category, str):
        builder.tag(rest.pop("category"))


def _read_answer(answer: Any, builder: DialogueBuilder) -> None:
    if isinstance(answer, str | int | float) and not isinstance(answer, bool):
        builder.reply(answer if isinstance(answer, str) else display_json(answer))
        return
    if answer is not None:
        hint = "a reference answer is text or a number; null or an empty text where there is none"
        builder.issue("a reference answer that is not text", place=builder.place, found=answer, hint=hint)
    builder.reply("")


FORMAT = DatasetFormat(
    name="mtbench",
    label='MT-Bench ("turns" of strings)',
    markers=("turns",),
    id_keys=("question_id", "id"),
    detect=_detect,
    read=_read,
    rank=10,
)
