"""Keys of a gateway that say how a request is built, checked against the plan before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convbatch.cli.plan_text import plan_lines
from convbatch.errors import ConvbatchError
from convbatch.journal.manifest import Manifest
from convbatch.session.options import RunOptions
from convbatch.session.prepare import prepare_dry_run

GATEWAY = """[gateways.lab]
protocol = "openai"
base_url = "http://127.0.0.1:9/v1"
auth = "none"
currency = "USD"
[prices.lab."*"]
input = 1
output = 1
[gateways.lab.models."m*"]
"""
"""The line that follows it is line 10."""
JSON_SCHEMA = {"type": "object"}


def options_of(folder: Path, table: str, dialogue: dict[str, Any], **more: Any) -> RunOptions:
    config, dataset = folder / "lab.toml", folder / "d.jsonl"
    config.write_text(GATEWAY + table, "utf-8")
    dataset.write_text(json.dumps({"id": "d", **dialogue}) + "\n", "utf-8")
    return RunOptions(datasets=(dataset,), config=config, models=("m1@lab",), progress=False, **more)


def plan_of(options: RunOptions) -> tuple[Manifest, str]:
    with prepare_dry_run(options) as plan:
        return plan.manifest, "\n".join(plan_lines(plan, options))


def test_a_setting_that_is_never_sent_is_in_the_plan_and_in_run_json(tmp_path: Path) -> None:
    dialogue = {"turns": [{"user": "Hi", "settings": {"temperature": 1, "top_k": 3}}]}
    table = 'unset = ["temperature", "top_k"]\nreplay = "content"\nthinking_tags = "<think>"\nsystem_role = "user"'
    manifest, text = plan_of(options_of(tmp_path, table, dialogue))
    assert (
        "m1@lab: never sends temperature, top_k (unset), system_role user, replay content, thinking_tags <thi" in text
    )
    assert Manifest.from_json(manifest.to_json()).targets[0].gateway.unset == ("temperature", "top_k")


SEED = {"turns": [{"user": "Hi"}], "settings": {"seed": 1}}
NEEDED = [
    ("seed", {"turns": [{"user": "Hi"}]}, {"seed": 1}, "--seed asks for it"),
    ("seed", SEED, {"repeats": 2}, "2 repeats are told apart by the seed of dialogue 'd', turn 1"),
    ("response_schema",
     {"turns": [{"user": "Hi", "settings": {"response_schema": JSON_SCHEMA}, "checks": [{"is_json": True}]}]}, {},
     "the check 'is_json' of dialogue 'd', turn 1 expects the JSON"),
    ("max_output_tokens", {"turns": [{"user": "Hi"}], "settings": {"max_output_tokens": 9},
     "checks": [{"output_tokens": 9}]}, {}, "the check 'output_tokens'"),
    ("max_output_tokens", {"turns": [{"user": "Hi", "checks": [{"finish_reason": "length"}]}]},
     {"max_output_tokens": 5}, "the check 'finish_reason'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "dialogue", "more", "why"), NEEDED)
def test_unset_of_a_needed_setting_is_refused_at_its_line(
    tmp_path: Path, name: str, dialogue: dict[str, Any], more: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConvbatchError) as caught:
        plan_of(options_of(tmp_path, f'rpm = 5\nunset = ["{name}"]', dialogue, **more))
    error = str(caught.value)
    assert f"lab.toml:11: unset of '{name}' at m1@lab: {why}" in error
    assert "hint: remove it from `unset`" in error


@pytest.mark.parametrize(
    ("name", "dialogue"),
    [
        ("seed", SEED),
        ("max_output_tokens", {"turns": [{"user": "Hi", "checks": [{"output_tokens": 9}]}]}),
        ("response_schema", {"turns": [{"user": "Hi", "checks": [{"is_json": True}]}]}),
    ],
)
def test_unset_of_a_setting_that_nothing_needs_is_accepted(tmp_path: Path, name: str, dialogue: dict[str, Any]) -> None:
    plan_of(options_of(tmp_path, f'unset = ["{name}"]', dialogue))


def test_a_cost_cap_needs_the_limit_that_unset_removes(tmp_path: Path) -> None:
    dialogue = {"turns": [{"user": "Hi"}], "settings": {"max_output_tokens": 9}}
    plan_of(options_of(tmp_path, "unset = []", dialogue, max_cost="1"))
    with pytest.raises(ConvbatchError, match="remove max_output_tokens from `unset` of the gateway 'lab'"):
        plan_of(options_of(tmp_path, 'unset = ["max_output_tokens"]', dialogue, max_cost="1"))
