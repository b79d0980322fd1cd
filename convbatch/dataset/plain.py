"""Recognize usual dialogues and settings, which are valid for sure, without pydantic.

Importing pydantic takes as long as the rest of a command's start. What is not recognized here may still be valid:
`forms.py` decides. A property test holds the two to each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, cast

_LARGEST_SEED = 2**63


def is_plain_dialogue(value: Mapping[str, Any]) -> bool:
    """Return whether the keys and types of a dialogue are usual ones, and right."""
    if type(value) is not dict or not value.get("turns"):
        return False
    return all(key in _DIALOGUE and _DIALOGUE[key](item) for key, item in value.items())


def is_plain_settings(value: Any) -> bool:
    """Return whether settings have only usual keys, with right values."""
    if type(value) is not dict:
        return False
    settings = cast(dict[str, Any], value)
    return all(key in _SETTINGS and _SETTINGS[key](item) for key, item in settings.items())


def _is_turn(value: Any) -> bool:
    if type(value) is not dict or "user" not in value:
        return False
    turn = cast(dict[str, Any], value)
    return all(key in _TURN and _TURN[key](item) for key, item in turn.items())


def _is_text(value: Any) -> bool:
    """Return whether a value is text that is not blank and has no half of a surrogate pair."""
    if type(value) is not str or not value.strip():
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_turns(value: Any) -> bool:
    return type(value) is list and all(map(_is_turn, cast(list[Any], value)))


def _are_texts(value: Any) -> bool:
    return type(value) is list and all(map(_is_text, cast(list[Any], value)))


def _is_object(value: Any) -> bool:
    return type(value) is dict and all(map(_is_text, cast(dict[Any, Any], value)))


def _are_objects(value: Any) -> bool:
    return type(value) is list and all(map(_is_object, cast(list[Any], value)))


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_temperature(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < _LARGEST_SEED and isfinite(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value < _LARGEST_SEED


def _is_seed(value: Any) -> bool:
    return type(value) is int and -_LARGEST_SEED <= value < _LARGEST_SEED


_SETTINGS = {
    "temperature": _is_temperature,
    "top_p": lambda value: _is_temperature(value) and value <= 1,
    "max_output_tokens": _is_count,
    "seed": _is_seed,
    "reasoning_effort": _is_text,
    "thinking_level": _is_text,
}
_TURN = {
    "user": _is_text,
    "assistant": _is_text,
    "ask": _is_bool,
    "checks": _are_objects,
    "settings": is_plain_settings,
}
_DIALOGUE = {
    "turns": _are_turns,
    "id": _is_text,
    "system": _is_text,
    "tags": _are_texts,
    "checks": _are_objects,
    "settings": is_plain_settings,
    "meta": _is_object,
}
