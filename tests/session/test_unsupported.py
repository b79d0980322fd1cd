"""Settings that cannot be sent: one attempt names all of them, of all targets, and each once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convbatch.cli.main import app

OPEN: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}}
CONFIG = """
[gateways.a]
protocol = "anthropic"
base_url = "http://127.0.0.1:9"
auth = "none"
[gateways.a.models."*".settings]
temperature = 1
[gateways.r]
protocol = "responses"
base_url = "http://127.0.0.1:9/v1"
auth = "none"
"""
DIALOGUE = {
    "id": "d",
    "settings": {"response_schema": OPEN, "cache": "1h"},
    "turns": [{"user": "Hi?", "settings": {"logprobs": 2, "stop": ["x"]}}, {"user": "And?", "settings": {"top_k": 3}}],
}


def refusals(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str, **dialogue: Any) -> list[str]:
    monkeypatch.chdir(folder)
    Path("convbatch.toml").write_text(CONFIG)
    Path("d.jsonl").write_text(json.dumps({**DIALOGUE, **dialogue}))
    done = CliRunner().invoke(app, ["run", "d.jsonl", "-m", "claude-opus-5-5@a", "-m", "gpt-5.5@r", *words])
    assert done.exit_code == 2, done.output
    assert not Path("results").exists()
    return [line for line in done.output.splitlines() if line.startswith("error: ")]


def test_one_attempt_names_all_that_targets_and_dialogues_ask_for_and_cannot_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = refusals(tmp_path, monkeypatch, "--seed", "7")
    text = "\n".join(found)
    at_a = "\n".join(line for line in found if "claude-opus-5-5@a" in line)
    at_r = "\n".join(line for line in found if "gpt-5.5@r" in line)
    for word in ("temperature 1", "logprobs (", "seed (", "top_k", "minimum at #/properties/a"):
        assert at_a.count(word) == 1, word
    for word in ("seed (", "stop (", "top_k (", "cache '1h': OpenAI caches by itself", "optional properties 'a'"):
        assert at_r.count(word) == 1, word
    assert text.index("error: claude-opus-5-5@a: ") < text.index("error: dialogue 'd', turn 1, at gpt-5.5@r")


def test_a_setting_that_is_only_named_as_the_way_out_is_checked_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"top_k": 3, "extra": {"stream": True}}
    found = refusals(tmp_path, monkeypatch, settings=settings, turns=[{"user": "Hi?"}])
    assert any("top_k (" in line and "use extra" in line and "extra may not set" in line for line in found), found
