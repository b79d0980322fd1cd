"""The ten commands of docs/start.md, from an empty folder to a ranked page, run as they are printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import environment

START = Path(__file__).parents[2] / "docs" / "start.md"
TARGETS = {
    f"{model}@{gateway}#{variant}"
    for model in ("sim-good", "sim-drift", "sim-large")
    for gateway in ("simulator", "reseller")
    for variant in ("terse", "friendly")
}


def commands() -> list[str]:
    section = START.read_text(encoding="utf-8").partition("## From an empty folder to a ranked page")[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return block[1].splitlines()


@pytest.mark.slow
def test_two_prompts_three_models_and_two_gateways_in_ten_commands(tmp_path: Path) -> None:
    lines = commands()
    assert len(lines) <= 10
    bin_folder, empty = tmp_path / "bin", tmp_path / "empty"
    bin_folder.mkdir()
    empty.mkdir()
    (bin_folder / "convbatch").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m convbatch "$@"\n')
    (bin_folder / "convbatch").chmod(0o755)
    env = environment(PATH=f"{bin_folder}:{os.environ['PATH']}")
    script = "\n".join(["set -e", *lines, "convbatch rank gate --json > rank.json"])
    ran = subprocess.run(["bash", "-c", script], cwd=empty, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    page = (empty / "shop" / "rank.html").read_text(encoding="utf-8")
    assert all(name in page for name in TARGETS)
    ranking = json.loads((empty / "shop" / "rank.json").read_text(encoding="utf-8"))
    assert {one["name"] for one in ranking["targets"]} == TARGETS
    wordings = [note for note in ranking["notes"] if "another system" in note]
    assert len(wordings) == 2  # not one for each of 36 pairs
    assert " -0.0 " not in ran.stdout
