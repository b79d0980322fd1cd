"""The same dialogues over every wire: the same replies, counts and verdicts, whole and streamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import convbatch as cb
from convbatch.protocols import PROTOCOLS
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import config_for

QUICKSTART = Path(__file__).parents[2] / "datasets" / "quickstart.jsonl"
SAME = ("status", "reply", "finish_reason", "input_tokens", "output_tokens", "total_tokens", "checks_passed")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_quickstart_has_the_same_table_over_every_wire(
    tmp_path: Path, simulator: Callable[[Provider], Server], stream: bool
) -> None:
    server = simulator(Provider(script=Script.load(QUICKSTART)))
    config = tmp_path / "convbatch.toml"
    config.write_text(config_for(server.url, wires=tuple(PROTOCOLS)))
    models = [f"sim-drift@at-{wire}" for wire in PROTOCOLS]
    run = cb.run(QUICKSTART, models=models, config=config, out=tmp_path / "out", limit=6, stream=stream)
    tables = {target: rows(turns) for target, turns in run.turns.groupby("target")}
    assert set(tables) == set(models)
    first = tables[models[0]]
    assert len(first) > 10
    assert [target for target in models if tables[target] != first] == []


def rows(turns: Any) -> list[tuple[object, ...]]:
    keyed = turns.sort_values(["dialogue_index", "turn"])
    return list(keyed[["dialogue", "turn", *SAME]].astype(str).itertuples(index=False, name=None))
