"""What `plain.py` recognizes is what `forms.py` accepts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from convbatch.dataset.forms import SettingsForm, shape_errors
from convbatch.dataset.plain import is_plain_dialogue, is_plain_settings
from tests.conftest import examples

DATASETS = Path(__file__).parents[2] / "datasets"
TEXTS = st.sampled_from(["Hello", "今天", "\x1d a", "\u2028\U0001f600"])
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([2**63 - 1, 2**63, -(2**63) - 1, 2**70, 1e400, -0.0]),
    st.floats(width=16),
    st.sampled_from(["", " ", "\x1c", "\u2028", "\x85", "\u200b", "\ud800", "a\ud800"]),
    st.text(max_size=3),
    st.lists(TEXTS, max_size=2),
    st.dictionaries(TEXTS, st.booleans(), max_size=2),
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2) | st.integers(0, 2),
        "top_p": st.floats(0, 1),
        "max_output_tokens": st.integers(1, 2**62),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "reasoning_effort": TEXTS,
        "thinking_level": TEXTS,
    },
)
CHECKS = st.lists(st.dictionaries(TEXTS, ODD, max_size=2), max_size=2)
TURN = st.fixed_dictionaries(
    {"user": TEXTS}, optional={"assistant": TEXTS, "ask": st.booleans(), "checks": CHECKS, "settings": SETTINGS}
)
PLAIN = st.fixed_dictionaries(
    {"turns": st.lists(TURN, min_size=1, max_size=2)},
    optional={
        "id": TEXTS,
        "system": TEXTS,
        "tags": st.lists(TEXTS, max_size=2),
        "checks": CHECKS,
        "settings": SETTINGS,
        "meta": st.dictionaries(TEXTS, ODD, max_size=2),
    },
)
KEYS = (
    "turns",
    "user",
    "assistant",
    "ask",
    "checks",
    "settings",
    "id",
    "system",
    "tags",
    "meta",
    "top_p",
    "top_k",
    "x",
)


@st.composite
def spoilt(draw: st.DrawFn, plain: st.SearchStrategy[Any]) -> Any:
    """A plain value with up to two changes at any depth."""
    value = draw(plain)
    for _ in range(draw(st.integers(0, 2))):
        inner = value
        while draw(st.booleans()) and isinstance(inner, (dict, list)) and inner:
            place = draw(st.sampled_from(sorted(inner, key=repr))) if isinstance(inner, dict) else 0
            if not isinstance(inner[place], (dict, list)):
                break
            inner = inner[place]
        if isinstance(inner, list):
            inner.append(draw(ODD))
        elif draw(st.booleans()) and inner:
            inner[draw(st.sampled_from(sorted(inner, key=repr)))] = draw(ODD)
        else:
            inner[draw(st.sampled_from(KEYS))] = draw(ODD)
    return value


_SETTINGS: TypeAdapter[Any] = TypeAdapter(SettingsForm)


@settings(max_examples=examples(2000))
@given(spoilt(PLAIN))
def test_a_plain_dialogue_has_no_error_of_types_or_keys(value: dict[str, Any]) -> None:
    if is_plain_dialogue(value):
        assert shape_errors(value) == []


@settings(max_examples=examples(2000))
@given(spoilt(SETTINGS))
def test_plain_settings_have_no_error_of_types_or_keys(value: dict[str, Any]) -> None:
    if is_plain_settings(value):
        _SETTINGS.validate_python(value)


@settings(max_examples=examples(400))
@given(PLAIN)
def test_usual_dialogues_are_plain(value: dict[str, Any]) -> None:
    assert is_plain_dialogue(value)


def test_the_quickstart_is_plain() -> None:
    lines = (DATASETS / "quickstart.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(is_plain_dialogue(json.loads(line)) for line in lines)


def test_what_only_pydantic_can_decide_is_not_plain() -> None:
    for value in (
        {},
        {"turns": []},
        {"turns": [{}]},
        {"turns": [{"user": "a"}], "tools": []},
        {"turns": [{"user": [{}]}]},
    ):
        assert not is_plain_dialogue(value), value
