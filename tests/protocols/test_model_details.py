"""What lists of models say of each model, in the forms of several providers."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from convbatch.protocols.model_details import model_details
from tests.support.tables import each

YES, NO = {"supported": True}, {"supported": False}
CLAUDE = {
    "type": "model",
    "id": "claude-opus-5-5",
    "max_input_tokens": 1_000_000,
    "max_tokens": 128_000,
    "lifecycle": "deprecated",
    "retires_at": "2027-05-01T00:00:00Z",
    "capabilities": {
        "batch": YES,
        "citations": NO,
        "effort": {"supported": True, "low": YES, "high": YES, "max": NO},
        "thinking": {"supported": True, "types": {"adaptive": YES, "enabled": NO}},
        "image_input": YES,
    },
}


@each(
    ("listed", "said"),
    [
        (
            {"data": [CLAUDE]},
            {
                "claude-opus-5-5": "input 1,000,000 · output 128,000 · batch, effort (low, high), thinking (adaptive), "
                "image_input · deprecated until 2027-05-01"
            },
        ),
        (
            {
                "models": [
                    {
                        "name": "models/gemini-3.8-flash",
                        "inputTokenLimit": 1048576,
                        "outputTokenLimit": 65536,
                        "supportedGenerationMethods": ["generateContent", "batchGenerateContent"],
                        "thinking": True,
                    }
                ]
            },
            {"gemini-3.8-flash": "input 1,048,576 · output 65,536 · generateContent, batchGenerateContent, thinking"},
        ),
        (
            {"data": [{"id": "a/b", "name": "A: B", "context_length": 9, "supported_parameters": ["seed", 3]}]},
            {"a/b": "input 9 · seed"},
        ),
        ([{"id": "m", "max_model_len": 8192}], {"m": "input 8,192"}),
        ({"data": [{"id": "gpt-5", "object": "model", "owned_by": "openai"}]}, {}),
        ({"data": [{"id": "m", "lifecycle": "active", "max_tokens": True}]}, {}),
    ],
)
def test_limits_and_capabilities_are_read_from_every_form(listed: Any, said: dict[str, str]) -> None:
    found = model_details(json.dumps(listed).encode())
    assert {name: str(details) for name, details in found.items()} == said


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "models", "id", "name", "capabilities", "supported", "lifecycle", "retires_at"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(value=VALUES)
def test_no_list_however_odd_is_an_error(value: Any) -> None:
    model_details(json.dumps(value).encode())
    model_details(json.dumps({"data": [value]}).encode()[:-1])
