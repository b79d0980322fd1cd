"""A run in rounds asks all dialogues once before it repeats any, so that what a cache answers shows in the repeats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from convbatch.cli.run import run_for
from convbatch.exit_codes import ExitCode
from convbatch.journal.manifest import ManifestOptions
from convbatch.journal.run_folder import RunFolder
from convbatch.session.options import RunOptions
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import config_for


@pytest.mark.parametrize(("in_rounds", "order"), [(True, "abcabc"), (False, "aabbcc")], ids=["rounds", "together"])
def test_all_dialogues_are_asked_once_before_any_is_repeated(
    simulator: Callable[[Provider], Server],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_rounds: bool,
    order: str,
) -> None:
    provider = Provider()
    (tmp_path / "convbatch.toml").write_text(config_for(simulator(provider).url, rpm=60000))
    lines = [json.dumps({"id": name, "turns": [{"user": name}]}) for name in "abc"]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    options = RunOptions(
        datasets=(Path("d.jsonl"),),
        models=("sim-good@at-gemini",),
        repeats=2,
        concurrency=1,
        in_rounds=in_rounds,
        out=(Path("r"),),
    )
    code, path = run_for(options, before=[], after=lambda folder: "", prints_table=False)
    assert code == ExitCode.OK
    assert "".join(entry.history[-1][1] for entry in provider.ledger.entries if entry.history) == order
    stored = RunFolder.open(path).read_manifest().options
    assert stored.in_rounds is in_rounds
    assert ManifestOptions.from_json(stored.to_json()) == stored
