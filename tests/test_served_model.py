"""Which served names are the asked model."""

from __future__ import annotations

import datetime

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from convbatch.served_model import Aliases, ServedMatch, match_served, served_as_asked
from tests.conftest import examples
from tests.support.tables import each

CASES: list[tuple[str, str, ServedMatch]] = [
    ("gpt-4o", "gpt-4o", "same"),
    ("gpt-4o", "GPT-4o", "same"),
    ("gpt-4o", "gpt-4o-2024-08-06", "dated"),
    ("openai/gpt-4o", "gpt-4o-2024-08-06", "dated"),
    ("openai/gpt-4o:free", "azure/gpt-4o", "same"),
    ("gpt-4o:extended", "openai/gpt-4o", "same"),
    ("gpt-4o", "gpt-4o-mini", "other"),
    ("gpt-4o", "gpt-4o-mini-2024-07-18", "other"),
    ("gpt-4o-mini", "gpt-4o-2024-08-06", "other"),
    ("gpt-4o-2024-08-06", "gpt-4o-2024-11-20", "other"),
    ("gpt-4o-2024-08-06", "gpt-4o", "other"),
    ("gpt-4", "gpt-4-0613", "dated"),
    ("gpt-4", "gpt-4-1-2025-04-14", "other"),
    ("gpt-4", "gpt-4.1-2025-04-14", "other"),
    ("gpt-4", "gpt-4-32k-0613", "other"),
    ("gpt-4", "gpt-4-1106-preview", "other"),
    ("gpt-35-turbo", "gpt-3.5-turbo-0125", "dated"),
    ("gpt-5", "gpt-5.1-2025-11-13", "other"),
    ("gpt-5-chat-latest", "gpt-5-chat", "latest"),
    ("gpt-5-chat-latest", "gpt-5.1-chat", "other"),
    ("chat-latest", "gpt-5.6-sol", "other"),
    ("o1", "o1-2024-12-17", "dated"),
    ("o1", "o1-preview-2024-09-12", "other"),
    ("o3", "o3-mini-2025-01-31", "other"),
    ("ft:gpt-4o-mini-2024-07-18:org::id", "ft:gpt-4o-mini-2024-07-18:org::id", "same"),
    ("gemini-2.5-flash", "models/gemini-2.5-flash", "same"),
    ("gemini-2.5-flash", "publishers/google/models/gemini-2.5-flash", "same"),
    ("gemini-2.5-flash", "gemini-2.5-flash-001", "dated"),
    ("gemini-2.5-flash", "gemini-2.5-flash-preview-05-20", "dated"),
    ("gemini-2.5-flash", "gemini-2.5-flash-preview-09-2025", "dated"),
    ("gemini-1.5-pro", "gemini-1.5-pro@002", "dated"),
    ("gemini-2.5-flash", "gemini-2.5-flash-lite", "other"),
    ("gemini-2.5-flash", "gemini-2.5-flash-lite-preview-06-17", "other"),
    ("gemini-2.5-flash", "gemini-2.5-flash-preview-tts", "other"),
    ("gemini-2.5-flash", "gemini-2.5-flash-image-preview", "other"),
    ("gemini-2.5-pro", "gemini-3.8-flash", "other"),
    ("gemini-2.5-pro-preview-03-25", "gemini-2.5-pro-preview-05-06", "other"),
    ("gemini-flash-latest", "gemini-3.8-flash", "latest"),
    ("gemini-flash-latest", "gemini-2.5-flash-preview-09-2025", "latest"),
    ("gemini-flash-latest", "gemini-3.5-flash-lite", "other"),
    ("gemini-flash-lite-latest", "gemini-3.5-flash-lite", "latest"),
    ("gemini-flash-latest", "gemini-flash-latest", "same"),
    ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929", "dated"),
    ("anthropic/claude-sonnet-4.5", "anthropic/claude-4.5-sonnet-20250929", "dated"),
    ("claude-sonnet-4-5", "claude-sonnet-4-5@20250929", "dated"),
    ("claude-3-5-sonnet", "us.anthropic.claude-3-5-sonnet-20241022-v2:0", "dated"),
    ("claude-sonnet-4-0", "claude-sonnet-4-20250514", "dated"),
    ("anthropic/claude-3.7-sonnet:thinking", "anthropic/claude-3-7-sonnet-20250219", "dated"),
    ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022", "latest"),
    ("claude-3-5-sonnet-latest", "claude-3-7-sonnet-20250219", "other"),
    ("claude-3-5-sonnet", "claude-3-5-haiku-20241022", "other"),
    ("claude-opus-4", "claude-opus-4-20250514", "dated"),
    ("claude-opus-4", "claude-opus-4-1-20250805", "other"),
    ("claude-sonnet-4", "claude-sonnet-4-5", "other"),
    ("deepseek-chat", "deepseek-reasoner", "other"),
    ("deepseek-ai/DeepSeek-V3", "DeepSeek-V3-0324", "dated"),
    ("Pro/deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-R1", "same"),
    ("accounts/fireworks/models/llama-v3p1-8b-instruct", "llama-v3p1-8b-instruct", "same"),
    ("@cf/meta/llama-3-8b", "llama-3-8b", "same"),
    ("x-ai/grok-4", "x-ai/grok-4-07-09", "dated"),
    ("mistral-large-latest", "mistral-large-2411", "latest"),
    ("mistral-large-latest", "mistral-medium-2505", "other"),
    ("command-r", "command-r-08-2024", "dated"),
    ("command-r", "command-r-plus-08-2024", "other"),
    ("qwen-plus", "qwen-plus-2025-07-28", "dated"),
    ("qwen-plus-latest", "qwen-plus-2025-07-28", "latest"),
    ("qwen-plus", "qwen-turbo", "other"),
    ("doubao-1.5-pro-32k", "doubao-1-5-pro-32k-250115", "dated"),
    ("glm-4", "glm-4-flash", "other"),
    ("llama3.1:8b", "llama3.1:8b", "same"),
    ("llama3.1", "llama3.1:latest", "same"),
    ("llama3.1:8b", "llama3.1:70b", "other"),
    ("qwen3-8b", "/models/Qwen3-8B-Q4_K_M.gguf", "dated"),
    ("qwen3-8b", "C:\\models\\Qwen3-8B.Q4_K_M.gguf", "dated"),
    ("qwen3-8b", "Qwen3-8B-UD-Q4_K_XL-00001-of-00002.gguf", "dated"),
    ("Qwen3-8B-Q4_K_M.gguf", "Qwen3-8B-Q8_0.gguf", "other"),
    ("qwen3-8b", "Qwen3-14B-Q4_K_M.gguf", "other"),
    ("qwen3-8b", "qwen3-8b-fp8", "other"),
    ("openrouter/auto", "openai/gpt-4o", "other"),
    ("my-deployment", "gpt-4o-2024-08-06", "other"),
    ("sim-good", "sim-good", "same"),
]


@each(("asked", "served", "expected"), CASES)
def test_a_served_name_is_compared_with_the_asked_one(asked: str, served: str, expected: ServedMatch) -> None:
    assert match_served(asked, served) == expected


@each(
    ("aliases", "asked", "served", "expected"),
    [
        ({"prod": ["gpt-4o-2024-08-06"]}, "prod", "gpt-4o-2024-08-06", True),
        ({"prod": ["gpt-4o"]}, "prod", "gpt-4o-2024-08-06", True),
        ({"prod": ["gpt-4o*"]}, "prod", "gpt-4o-mini", True),
        ({"prod": ["gpt-4o"]}, "prod", "gpt-4o-mini", False),
        ({"prod*": ["o3", "gpt-4o"]}, "Prod-east", "openai/gpt-4o", True),
        ({"prod": ["gpt-4o"]}, "test", "gpt-4o", False),
    ],
)
def test_an_alias_allows_another_name(aliases: Aliases, asked: str, served: str, expected: bool) -> None:
    assert served_as_asked(asked, served, aliases) is expected


def test_a_reply_without_a_model_name_is_undecided() -> None:
    assert served_as_asked("gpt-4o", None) is None
    assert served_as_asked("gpt-4o", "") is None


families = st.sampled_from(
    ["gpt-4o", "gpt-4o-mini", "gpt-4", "gpt-4-32k", "gpt-4.1", "gemini-2.5-flash", "gemini-2.5-flash-lite",
     "gemini-2.5-pro", "claude-sonnet-4-5", "claude-3-5-haiku", "deepseek-chat", "deepseek-reasoner", "llama3.1:8b",
     "o3", "o3-mini", "qwen3-8b", "qwen3-14b"]
)  # fmt: skip
prefixes = st.sampled_from(["", "models/", "openai/", "accounts/fireworks/models/", "publishers/google/models/"])
dates = st.dates(datetime.date(2020, 1, 1), datetime.date(2029, 12, 31))
date_forms = st.sampled_from(["-%Y-%m-%d", "-%Y%m%d", "-%y%m%d", "-%m%d", "-%m-%d", "-%m-%Y", "@%Y%m%d"])


few = settings(max_examples=examples(40))


@few
@given(st.text())
def test_every_name_is_served_as_itself(name: str) -> None:
    assert match_served(name, name) == "same"


@few
@given(families, prefixes, prefixes, dates, date_forms)
def test_a_prefix_and_a_date_do_not_make_another_model(
    name: str, asked_at: str, served_at: str, day: datetime.date, form: str
) -> None:
    dated = name + day.strftime(form)
    assert served_as_asked(asked_at + name.upper(), served_at + dated) is True
    assert served_as_asked(asked_at + dated, served_at + name) is False


@few
@given(families, families, prefixes, dates, date_forms)
def test_another_family_is_never_the_asked_model(
    asked: str, other: str, prefix: str, day: datetime.date, form: str
) -> None:
    assume(asked != other)
    assert served_as_asked(asked, prefix + other + day.strftime(form)) is False
    assert served_as_asked(asked, prefix + other) is False
