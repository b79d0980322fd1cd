"""Settings that a model refuses, by the table of families."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.dialogue import NO_SETTINGS, Settings
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.model_settings import UNKNOWN_MODEL, refused_by_model, settings_of_model
from tests.support.tables import each


@each(
    ("protocol", "model", "given", "refused"),
    [
        (
            "gemini",
            "gemini-2.5-pro",
            {"thinking_budget": 0},
            ["thinking_budget 0 (gemini-2.5-pro takes 128 to 32768, -1"],
        ),
        ("gemini", "gemini-2.5-pro", {"thinking_budget": -1}, []),
        (
            "gemini",
            "gemini-2.5-pro",
            {"reasoning_effort": "low"},
            ["reasoning_effort 'low' (gemini-2.5-pro takes thinking_b"],
        ),
        ("gemini", "models/gemini-2.5-flash", {"thinking_budget": 0}, []),
        (
            "gemini",
            "gemini-2.5-flash-lite-06-17",
            {"thinking_budget": 256},
            ["takes 512 to 24576, 0 = off, -1 = the model"],
        ),
        ("gemini", "gemini-2.5-flash-image", {"thinking_budget": 7}, []),
        (
            "gemini",
            "Gemini-3.8-Flash",
            {"thinking_level": "MINIMAL"},
            ["thinking_level 'MINIMAL' (Gemini-3.8-Flash takes low, m"],
        ),
        ("gemini", "gemini-3.8-flash", {"thinking_level": "HIGH"}, []),
        ("gemini", "gemini-3.8-flash", {"reasoning_effort": "none"}, []),
        ("openai", "gpt-5", {"reasoning_effort": "none"}, ["takes minimal, low, medium, high"]),
        ("openai", "gpt-5-mini", {"temperature": 0}, ["temperature 0 (gpt-5-mini takes only 1)"]),
        ("openai", "gpt-5-mini", {"temperature": 3}, ["temperature 3 (gpt-5-mini takes only 1)"]),
        ("openai", "gpt-5-mini", {"temperature": 1}, []),
        ("openai", "gpt-5.1", {"temperature": 0, "top_p": 0.5}, []),
        (
            "responses",
            "gpt-5.1",
            {"temperature": 0, "top_p": 0.5, "thinking_level": "high"},
            [
                "temperature 0 (gpt-5.1 takes only 1 while it thinks)",
                "top_p 0.5 (gpt-5.1 does not take it while it thinks)",
            ],
        ),
        ("openai", "o4-mini-2025-04-16", {"stop": ("a",)}, ["stop (o4-mini-2025-04-16 takes none)"]),
        (
            "openai",
            "gpt-4o-mini",
            {"reasoning_effort": "low", "temperature": 0},
            ["'low' (gpt-4o-mini does not take it)"],
        ),
        ("responses", "gpt-4.1", {"thinking_level": "low"}, ["thinking_level 'low' (gpt-4.1 does not take it)"]),
        ("anthropic", "claude-3-5-haiku-20241022", {"thinking_budget": 2000}, ["20241022 takes only 0 = off)"]),
        ("anthropic", "claude-opus-5-5", {"thinking_budget": 0}, ["does not take it; use reasoning_effort: low, med"]),
        ("openai", "gpt-4.1", {"stop": tuple("abcde")}, ["stop with 5 texts (gpt-4.1 takes 4)"]),
        ("openai", "llama", {"stop": tuple("abcde"), "temperature": 3}, []),
        ("gemini", "gemini-2.5-flash", {"stop": tuple("abcde"), "temperature": 2}, []),
        (
            "gemini",
            "gemini-2.5-flash",
            {"stop": tuple("abcdef"), "temperature": 2.1},
            ["stop with 6 texts (gemini-2.5-flash takes 5)", "temperature 2.1 (gemini-2.5-flash takes 0 to 2)"],
        ),
        (
            "anthropic",
            "claude-haiku-4-5",
            {"temperature": 0.5, "top_p": 0.5},
            ["top_p 0.5 (claude-haiku-4-5 takes temperature or top_p, not both)"],
        ),
        ("anthropic", "claude-sonnet-4-6", {"temperature": 0.5, "top_p": 0.5}, []),
        ("openai", "gpt-5-chat-latest", {"temperature": 0}, []),
        ("anthropic", "claude-opus-4-8", {"temperature": 1}, ["temperature 1 (claude-opus-4-8 does not take it)"]),
        (
            "anthropic",
            "claude-opus-4-8",
            {"thinking_budget": 2000},
            ["takes only 0 = off; use reasoning_effort: low, med"],
        ),
        ("anthropic", "claude-sonnet-4-5-20250929", {"thinking_budget": 1023}, ["takes 1024 to 128000, 0 = off"]),
        (
            "anthropic",
            "claude-sonnet-4-6",
            {"thinking_budget": 2000, "top_k": 4},
            ["top_k 4 (claude-sonnet-4-6 does not"],
        ),
        ("anthropic", "claude-sonnet-4-6", {"reasoning_effort": "low", "temperature": 0}, []),
        (
            "anthropic",
            "claude-haiku-4-5",
            {"reasoning_effort": "low"},
            ["reasoning_effort 'low' (claude-haiku-4-5 takes think"],
        ),
    ],
)
def test_a_model_refuses_what_its_family_does_not_take(
    protocol: str, model: str, given: dict[str, Any], refused: list[str]
) -> None:
    found = refused_by_model(protocol, model, Settings(**given))
    assert len(found) == len(refused)
    assert all(part in line for part, line in zip(refused, found, strict=True)), found


def test_the_longest_glob_decides() -> None:
    assert settings_of_model("gemini", "gemini-2.5-flash-lite").budget == (512, 24576)
    assert settings_of_model("gemini", "gemini-2.5-flash").budget == (0, 24576)


@given(
    model=st.text(max_size=20).map("x-{}".format),
    settings=st.builds(
        Settings,
        temperature=st.none() | st.floats(0, 2),
        thinking_budget=st.none() | st.integers(-1, 10**6),
        reasoning_effort=st.none() | st.text(min_size=1, max_size=6),
    ),
)
def test_an_unknown_model_takes_every_setting(model: str, settings: Settings) -> None:
    for protocol in PROTOCOLS:
        assert settings_of_model(protocol, model) is UNKNOWN_MODEL
        assert refused_by_model(protocol, model, settings) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_settings_nothing_is_refused(protocol: str) -> None:
    for model in ("gemini-2.5-pro", "gpt-5", "claude-opus-5-5"):
        assert refused_by_model(protocol, model, NO_SETTINGS) == []
