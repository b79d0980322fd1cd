"""Tools that a target of a run does not take are refused before the first request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convbatch.simulator.provider import Provider
from tests.conftest import Command, config_for

SCHEMA = {"type": "object", "properties": {"code": {"type": "string", "pattern": "[A-Z]+"}}}


def test_tools_that_a_target_does_not_take_are_refused_with_the_dialogue(
    tmp_path: Path, convbatch: Command, simulator: Any
) -> None:
    provider = Provider()
    config = config_for(simulator(provider).url, wires=("gemini", "openai"))
    (tmp_path / "convbatch.toml").write_text(config)
    tools = [{"name": "look_up", "parameters": SCHEMA}]
    first = {"id": "one", "turns": [{"user": "Hi?"}], "tools": tools}
    beside = {"id": "two", "turns": [{"user": "Hi?"}], "tools": [{"name": "f"}],
              "settings": {"response_schema": {"type": "object", "additionalProperties": False}}}  # fmt: skip
    (tmp_path / "d.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(beside)}\n")

    targets = ("-m", "gemini-2.5-pro@at-gemini", "-m", "sim-good@at-openai", "-o", "r")
    declared, combined = (convbatch("run", "d.jsonl", "--id", name, *targets) for name in ("one", "two"))

    assert (declared.code, combined.code) == (2, 2)
    assert "d.jsonl:1: tools: Gemini does not take tool 'look_up': pattern at #/properties/code (gemini" in declared.err
    assert "'two', turn 1, at gemini-2.5-pro@at-gemini: response_schema beside tools" in combined.err
    assert "at-openai" not in declared.err + combined.err
    assert not provider.ledger.entries
    assert not (tmp_path / "r").exists()
