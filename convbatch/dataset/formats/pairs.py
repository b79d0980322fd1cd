"""Pairs of a question and its reply: a list of `{"user", "bot"}`, `{"human", "assistant"}` … or of lists of two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convbatch.dataset.formats.builder import DatasetFormat, DialogueBuilder
from convbatch.dataset.formats.messages import CONVERSATION_KEYS, has_question_turns, is_pairs, read_pairs, tag_with

_KEYS = (*CONVERSATION_KEYS, "pairs", "turns")


def _key(line: Mapping[str, Any]) -> str | None:
    return next((key for key, value in line.items() if key.casefold() in _KEYS and is_pairs(value)), None)


def _detect(line: Mapping[str, Any]) -> bool:
    if "turns" in line:
        return has_question_turns(line)
    sharegpt = next((key for key in ("conversations", "conversation") if key in line), None)
    return _key(line) is not None and (sharegpt is None or is_pairs(line[sharegpt]))


def _read(rest: dict[str, Any], builder: DialogueBuilder) -> None:
    key = _key(rest)
    builder.system(rest.pop("system", None))
    read_pairs(rest.pop(key) if key is not None else [], builder)
    tag_with(rest, ("category", "task"), builder)


FORMAT = DatasetFormat(
    name="pairs",
    label='pairs ("history" of questions and replies)',
    markers=("history", "pairs"),
    id_keys=("id", "dialogue_id", "conversation_id", "question_id"),
    detect=_detect,
    read=_read,
    rank=45,
)
