"""Release gates as the pages have them: 200 played dialogues, the shell recipe and the workflow, run as they stand.

The version to release is `my-model-next` at the preset `google`, as in the pages; a config file leads that preset to a
simulator, which knows the name as an alias. Of the workflow only `gh` is a stand-in, for there is no network.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import convbatch as package
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import Finished, environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "docs" / "examples" / "release-gate.yml"
MANY, FEW = 200, 20
CONFIG = """
[gateways.google]
base_url = "{url}"

[run.settings]
max_output_tokens = 256

[prices.google."my-model-next"]
input = 1
output = 4
"""
GH = """#!/usr/bin/env bash
set -euo pipefail
case "$1 $2" in
  "release download") cp "$RELEASES/$3/${5:?}" . ;;
  "pr comment") cp "$5" "$RELEASES/comment-on-$3.md" ;;
  *) exit 64 ;;
esac
"""
"""What the workflow asks of GitHub, with a folder for the releases."""


def write_dialogues(path: Path, count: int) -> Path:
    """Sums, asked twice, with checks that hold for what is scripted."""
    lines: list[dict[str, Any]] = []
    for n in range(count):
        asked = [(f"What is {n} and {more}?", n + more) for more in (1_000, 2_000)]
        turns = [{"user": user, "assistant": f"It is {total}.", "checks": [{"number": total}]} for user, total in asked]
        lines.append({"id": f"sum-{n:03}", "tags": ["even" if n % 2 == 0 else "odd"], "turns": turns})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH: `convbatch` as an installed package brings it, and `gh`."""
    folder = tmp_path_factory.mktemp("bin")
    for name, text in (("convbatch", f'#!/bin/sh\nexec {sys.executable} -m convbatch "$@"\n'), ("gh", GH)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def bash(tmp_path: Path, commands: Path) -> Callable[..., Finished]:
    """A script run by bash in the test's folder."""

    def run(script: str, *options: str, **env: str) -> Finished:
        known = environment(GEMINI_API_KEY="no-key-but-long-enough", RELEASES=str(tmp_path / "releases"), **env)
        known["PATH"] = f"{commands}:{known['PATH']}"
        done = subprocess.run(
            ["bash", *options, "-c", script], cwd=tmp_path, env=known, capture_output=True, text=True, check=False
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred dialogues, played by `sim-good` (twice) and by `sim-drift`."""
    folder = tmp_path_factory.mktemp("played")
    write_dialogues(folder / "my.jsonl", MANY)
    for name, model in (("base", "sim-good"), ("again", "sim-good"), ("drift", "sim-drift")):
        _play(folder, model, name)
    return folder


def _play(folder: Path, model: str, name: str) -> None:
    asked = ("run", "my.jsonl", "-m", f"{model}@simulator", "--history", "script", "-o", name, "--no-progress")
    subprocess.run([sys.executable, "-m", "convbatch", *asked], cwd=folder, env=environment(), check=True)


Play = Callable[[str, Path], Server]


@pytest.fixture
def next_version(tmp_path: Path, simulator: Callable[[Provider], Server]) -> Play:
    """`my-model-next` at `google`, played by a simulated model; and its dataset."""

    def start(model: str, dataset: Path) -> Server:
        shutil.copy(dataset, tmp_path / "my.jsonl")
        server = simulator(Provider(script=Script.load(tmp_path / "my.jsonl"), aliases={"my-model-next": model}))
        (tmp_path / "convbatch.toml").write_text(CONFIG.format(url=server.url))
        return server

    return start


# 200 dialogues


def test_two_hundred_played_dialogues_against_a_second_playing_are_non_inferior(played: Path) -> None:
    for candidate in ("base", "again"):
        told = package.compare(played / "base", played / candidate)
        assert (told.verdict, told.exit_code, told.primary) == ("non-inferior", 0, "dialogue_pass")
        assert (len(told.pairs.whole), told.pairs.turns) == (MANY, 2 * MANY)
        assert len(told.flips) == 0


def test_two_hundred_played_dialogues_of_the_drifting_model_are_a_regression_with_its_turns_listed(
    played: Path,
) -> None:
    told = package.compare(played / "base", played / "drift")
    assert (told.verdict, told.exit_code) == ("regression", 1)
    rows: list[dict[str, Any]] = package.load(played / "drift").turns.to_dict("records")
    spoiled = {(row["dialogue"], row["turn"]) for row in rows if row["checks_failed"]}
    assert {(flip.dialogue, flip.turn) for flip in told.flips} == spoiled
    assert {flip.change for flip in told.flips} == {"harmful"}
    first = told.judged[0].result
    assert (first.b, first.c) == (len({dialogue for dialogue, _ in spoiled}), 0)
    assert MANY / 5 < first.worse < MANY / 2


# The shell recipe


def recipe() -> str:
    page = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    [found] = [block for block in re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S) if "case $?" in block]
    return found


@pytest.mark.parametrize(("model", "said", "code"), [("sim-good", "release", 0), ("sim-drift", "blocked", 1)])
def test_the_shell_recipe_lets_pass_and_blocks_by_exit_code_alone(
    model: str, said: str, code: int, played: Path, next_version: Play, bash: Callable[..., Finished], tmp_path: Path
) -> None:
    shutil.copytree(played / "base", tmp_path / "base")
    server = next_version(model, played / "my.jsonl")
    done = bash(recipe())
    assert done.code == code, done.err
    assert done.out.splitlines()[-1].startswith(said)
    assert len(server.provider.ledger.entries) == 2 * MANY
    assert json.loads((tmp_path / "compare.json").read_text())["exit_code"] == code
    assert {"compare.md", "compare.xml"} <= {path.name for path in tmp_path.iterdir()}


def test_the_shell_recipe_never_judges_the_candidate_of_an_earlier_time(
    played: Path, next_version: Play, bash: Callable[..., Finished], tmp_path: Path
) -> None:
    shutil.copytree(played / "base", tmp_path / "base")
    shutil.copytree(played / "again", tmp_path / "candidate")
    next_version("sim-drift", played / "my.jsonl")
    done = bash(recipe())
    assert (done.code, done.out.splitlines()[-1]) == (2, "the candidate did not run")
    assert "candidate" in done.err


def test_the_shell_recipe_does_not_release_what_cannot_be_told_or_compared(
    next_version: Play, bash: Callable[..., Finished], tmp_path: Path
) -> None:
    next_version("sim-good", write_dialogues(tmp_path / "few.jsonl", FEW))
    _play(tmp_path, "sim-good", "base")
    done = bash(recipe())
    assert (done.code, done.out.splitlines()[-1]) == (1, "not enough dialogues to tell: ask a person")
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(tmp_path / "candidate")
    assert bash(recipe()).out.splitlines()[-1] == "not comparable"


# The workflow


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the workflow, as far as it runs something or asks for a condition."""

    run: str
    condition: str


def steps() -> list[Step]:
    """Read as plain text: a step is an item of `steps:`, its keys stand at one depth."""
    _, _, text = WORKFLOW.read_text(encoding="utf-8").partition("\n    steps:\n")
    found: list[Step] = []
    for item in re.split(r"^      - ", text, flags=re.M)[1:]:
        keys = dict(re.findall(r"^([\w-]+): (.*)$", item.replace("\n        ", "\n"), re.M))
        assert keys.get("run") != "|", "this reader knows commands of one line"
        found.append(Step(run=keys.get("run", ""), condition=keys.get("if", "success()")))
    return found


def run_workflow(bash: Callable[..., Finished], folder: Path) -> bool:
    """Every step in order, as GitHub runs them: `bash -e`, and after a failure only those that always run."""
    succeeded = True
    for step in steps():
        due = succeeded or "always()" in step.condition
        due = due and all((folder / name).exists() for name in re.findall(r"hashFiles\('(.+?)'\)", step.condition))
        if due and step.run and step.run != "pip install .":  # what is installed there is on PATH here
            done = bash(step.run.replace("${{ github.event.pull_request.number }}", "7"), "-e")
            succeeded = succeeded and done.code == 0
    return succeeded


@pytest.mark.parametrize(("model", "verdict"), [("sim-good", "NON-INFERIOR"), ("sim-drift", "REGRESSION")])
def test_the_workflow_compares_comments_and_stops_only_a_regression(
    model: str, verdict: str, played: Path, next_version: Play, bash: Callable[..., Finished], tmp_path: Path
) -> None:
    (tmp_path / "releases" / "base-run").mkdir(parents=True)
    with tarfile.open(tmp_path / "releases" / "base-run" / "base.tar.gz", "w:gz") as archive:
        archive.add(played / "base", "base")
    next_version(model, played / "my.jsonl")
    assert run_workflow(bash, tmp_path) is (model == "sim-good")
    comment = (tmp_path / "releases" / "comment-on-7.md").read_text(encoding="utf-8")
    assert comment.startswith(f"## {verdict}: ")
    assert {path.name for path in tmp_path.glob("compare.*")} == {"compare.md", "compare.xml", "compare.json"}


def test_the_workflow_s_steps_are_all_seen() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    assert [bool(step.run) for step in steps()].count(True) == len(re.findall(r"\brun:", text))
    assert len(steps()) == text.count("\n      - ")
