"""Release gates as documented: 200 simulated dialogues, the shell recipe and the workflow, run unchanged.

The version to release is `my-model-next` at the preset `google`, as in the documentation; a config file points that
preset to a simulator, which has the name as an alias. Only `gh` and `pip` of the workflow are replaced, for there is no
network.
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
from tests.support.junit import junit_cases

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
"""A replacement of GitHub's command with the subcommands of the workflow; releases are in a folder."""
PIP = """#!/usr/bin/env bash
[ "$*" = "install convbatch" ] && touch "$RELEASES/installed"
"""
"""A replacement of pip that accepts this package only, which is on PATH already."""


def write_dialogues(path: Path, count: int) -> Path:
    """Write dialogues of two sums, with checks that the scripted replies pass."""
    lines: list[dict[str, Any]] = []
    for n in range(count):
        asked = [(f"What is {n} and {more}?", n + more) for more in (1_000, 2_000)]
        turns = [{"user": user, "assistant": f"It is {total}.", "checks": [{"number": total}]} for user, total in asked]
        lines.append({"id": f"sum-{n:03}", "tags": ["even" if n % 2 == 0 else "odd"], "turns": turns})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder for PATH with `convbatch`, as installed by the package, `gh` and `pip`."""
    folder = tmp_path_factory.mktemp("bin")
    for name, text in (
        ("convbatch", f'#!/bin/sh\nexec {sys.executable} -m convbatch "$@"\n'),
        ("gh", GH),
        ("pip", PIP),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def bash(tmp_path: Path, commands: Path) -> Callable[..., Finished]:
    """Run a script with bash in the test's folder."""

    def run(script: str, *options: str, **env: str) -> Finished:
        known = environment(GEMINI_API_KEY="no-key-but-long-enough", RELEASES=str(tmp_path / "releases"), **env)
        known["PATH"] = f"{commands}:{known['PATH']}"
        done = subprocess.run(
            ["bash", *options, "-c", script], cwd=tmp_path, env=known, capture_output=True, text=True, check=False
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make runs of 200 dialogues with `sim-good` (twice) and `sim-drift`."""
    folder = tmp_path_factory.mktemp("runs")
    write_dialogues(folder / "my.jsonl", MANY)
    for name, model in (("base", "sim-good"), ("again", "sim-good"), ("drift", "sim-drift")):
        _run_model(folder, model, name)
    return folder


def _run_model(folder: Path, model: str, name: str) -> None:
    asked = ("run", "my.jsonl", "-m", f"{model}@simulator", "--history", "script", "-o", name, "--no-progress")
    subprocess.run([sys.executable, "-m", "convbatch", *asked], cwd=folder, env=environment(), check=True)


StartVersion = Callable[[str, Path], Server]


@pytest.fixture
def next_version(tmp_path: Path, simulator: Callable[[Provider], Server]) -> StartVersion:
    """Start `my-model-next` at `google` as a simulated model, with its dataset."""

    def start(model: str, dataset: Path) -> Server:
        shutil.copy(dataset, tmp_path / "my.jsonl")
        server = simulator(Provider(script=Script.load(tmp_path / "my.jsonl"), aliases={"my-model-next": model}))
        (tmp_path / "convbatch.toml").write_text(CONFIG.format(url=server.url))
        return server

    return start


# 200 dialogues


def test_a_second_run_of_the_same_model_is_non_inferior(runs: Path) -> None:
    for candidate in ("base", "again"):
        result = package.compare(runs / "base", runs / candidate)
        assert (result.verdict, result.exit_code, result.primary) == ("non-inferior", 0, "dialogue_pass")
        assert (len(result.pairs.whole), result.pairs.turns) == (MANY, 2 * MANY)
        assert len(result.flips) == 0


def test_a_run_of_the_drifting_model_is_a_regression_with_its_turns_listed(
    runs: Path,
) -> None:
    result = package.compare(runs / "base", runs / "drift")
    assert (result.verdict, result.exit_code) == ("regression", 1)
    rows: list[dict[str, Any]] = package.load(runs / "drift").turns.to_dict("records")
    spoiled = {(row["dialogue"], row["turn"]) for row in rows if row["checks_failed"]}
    assert {(flip.dialogue, flip.turn) for flip in result.flips} == spoiled
    assert {flip.change for flip in result.flips} == {"harmful"}
    first = result.judged[0].result
    assert (first.b, first.c) == (len({dialogue for dialogue, _ in spoiled}), 0)
    assert MANY / 5 < first.worse < MANY / 2


# The shell recipe


def recipe() -> str:
    page = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    [found] = [block for block in re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S) if "case $?" in block]
    return found


@pytest.mark.parametrize(("model", "output", "code"), [("sim-good", "release", 0), ("sim-drift", "blocked", 1)])
def test_the_shell_recipe_releases_or_blocks_by_exit_code(
    model: str,
    output: str,
    code: int,
    runs: Path,
    next_version: StartVersion,
    bash: Callable[..., Finished],
    tmp_path: Path,
) -> None:
    shutil.copytree(runs / "base", tmp_path / "base")
    server = next_version(model, runs / "my.jsonl")
    done = bash(recipe())
    assert done.code == code, done.err
    assert done.out.splitlines()[-1].startswith(output)
    assert len(server.provider.ledger.entries) == 2 * MANY
    assert json.loads((tmp_path / "compare.json").read_text())["exit_code"] == code
    assert {"compare.md", "compare.xml"} <= {path.name for path in tmp_path.iterdir()}


def test_the_shell_recipe_never_compares_an_old_candidate(
    runs: Path, next_version: StartVersion, bash: Callable[..., Finished], tmp_path: Path
) -> None:
    shutil.copytree(runs / "base", tmp_path / "base")
    shutil.copytree(runs / "again", tmp_path / "candidate")
    next_version("sim-drift", runs / "my.jsonl")
    done = bash(recipe())
    assert (done.code, done.out.splitlines()[-1]) == (2, "the candidate did not run")
    assert "candidate" in done.err


def test_the_shell_recipe_does_not_release_an_inconclusive_or_incomparable_candidate(
    next_version: StartVersion, bash: Callable[..., Finished], tmp_path: Path
) -> None:
    next_version("sim-good", write_dialogues(tmp_path / "few.jsonl", FEW))
    _run_model(tmp_path, "sim-good", "base")
    done = bash(recipe())
    assert (done.code, done.out.splitlines()[-1]) == (1, "not enough dialogues to tell: ask a person")
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(tmp_path / "candidate")
    assert bash(recipe()).out.splitlines()[-1] == "not comparable"


# The workflow


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the workflow: its command and its condition."""

    run: str
    condition: str


def steps() -> list[Step]:
    """Parse the workflow as plain text: a step is an item of `steps:`, its keys have one depth."""
    _, _, text = WORKFLOW.read_text(encoding="utf-8").partition("\n    steps:\n")
    found: list[Step] = []
    for item in re.split(r"^      - ", text, flags=re.M)[1:]:
        keys = dict(re.findall(r"^([\w-]+): (.*)$", item.replace("\n        ", "\n"), re.M))
        assert keys.get("run") != "|", "this parser supports one-line commands only"
        found.append(Step(run=keys.get("run", ""), condition=keys.get("if", "success()")))
    return found


def run_workflow(bash: Callable[..., Finished], folder: Path) -> bool:
    """Run the steps as GitHub does: with `bash -e`, and after a failure only those with `always()`."""
    succeeded = True
    for step in steps():
        due = succeeded or "always()" in step.condition
        due = due and all((folder / name).exists() for name in re.findall(r"hashFiles\('(.+?)'\)", step.condition))
        if due and step.run:
            done = bash(step.run.replace("${{ github.event.pull_request.number }}", "7"), "-e")
            succeeded = succeeded and done.code == 0
    return succeeded


@pytest.mark.parametrize(("model", "verdict"), [("sim-good", "NON-INFERIOR"), ("sim-drift", "REGRESSION")])
def test_the_workflow_comments_and_fails_only_for_a_regression(
    model: str, verdict: str, runs: Path, next_version: StartVersion, bash: Callable[..., Finished], tmp_path: Path
) -> None:
    (tmp_path / "releases" / "base-run").mkdir(parents=True)
    with tarfile.open(tmp_path / "releases" / "base-run" / "base.tar.gz", "w:gz") as archive:
        archive.add(runs / "base", "base")
    next_version(model, runs / "my.jsonl")
    assert run_workflow(bash, tmp_path) is (model == "sim-good")
    comment = (tmp_path / "releases" / "comment-on-7.md").read_text(encoding="utf-8")
    assert comment.startswith(f"## {verdict}: ")
    assert (tmp_path / "releases" / "installed").exists()
    first = junit_cases((tmp_path / "compare.xml").read_bytes())[0]
    assert first.result == ("passed" if model == "sim-good" else "failure")
    assert {path.name for path in tmp_path.glob("compare.*")} == {"compare.md", "compare.xml", "compare.json"}


def test_all_steps_of_the_workflow_are_parsed() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    assert [bool(step.run) for step in steps()].count(True) == len(re.findall(r"\brun:", text))
    assert len(steps()) == text.count("\n      - ")
