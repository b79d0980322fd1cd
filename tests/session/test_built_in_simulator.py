"""`base_url = "simulator:"` is an address of every protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

import convbatch as package


@pytest.mark.parametrize("protocol", ["gemini", "openai", "responses", "anthropic"])
def test_a_gateway_of_any_protocol_can_be_the_simulator(protocol: str, tmp_path: Path) -> None:
    config, dialogues = tmp_path / "convbatch.toml", tmp_path / "d.jsonl"
    config.write_text(f'[gateways.lab]\nprotocol = "{protocol}"\nbase_url = "simulator:"\n')
    dialogues.write_text('{"id": "a", "turns": [{"user": "hi", "assistant": "Hello."}]}\n')
    run = package.run(dialogues, models=["sim-good@lab"], config=config, out=tmp_path / "run", max_output_tokens=64)
    assert list(run.turns["reply"]) == ["Hello."]
    assert list(run.turns["gateway"]) == ["simulator"]
