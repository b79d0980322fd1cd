"""Tests of `init`: what it writes works at once, and nothing that is there is changed."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from convbatch.cli.init import STARTER
from tests.conftest import Command, environment
from tests.support.canary import CANARY_ENV

FILES = [str(path) for path in STARTER]


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["a b", "deep/عربي", "-dash", "é" * 120])
def test_any_folder_can_be_named(name: str, convbatch: Command, tmp_path: Path) -> None:
    done = convbatch("init", "--", name)
    assert done.code == 0, done.err
    assert files_in(tmp_path / name) == sorted(FILES)


@pytest.mark.slow
def test_the_printed_commands_run_as_printed(convbatch: Command, tmp_path: Path) -> None:
    name = 'it\'s "x" 🦊'
    done = convbatch("init", name)
    assert done.code == 0, done.err
    assert files_in(tmp_path / name) == sorted(FILES)
    lines = [line for line in done.out.splitlines() if line.startswith("  ")]
    assert len(lines) == 5
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "convbatch").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m convbatch "$@"\n')
    (bin_folder / "convbatch").chmod(0o755)
    env = environment(PATH=f"{bin_folder}:{os.environ['PATH']}")
    script = "\n".join(["set -e", *lines])
    ran = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "4 of 10 turns changed" in ran.stdout


def test_a_second_init_changes_nothing_and_says_so(convbatch: Command, tmp_path: Path) -> None:
    convbatch("init")
    (tmp_path / "dialogues.jsonl").write_text("mine")
    (tmp_path / "convbatch.toml").unlink()
    done = convbatch("init")
    assert done.code == 0
    assert [line.split()[:2] for line in done.out.splitlines()[:4]] == [
        ["wrote", "convbatch.toml"], ["left", "dialogues.jsonl"], ["left", ".gitignore"],
        ["left", ".github/workflows/dialogues.yml"],
    ]  # fmt: skip
    assert (tmp_path / "dialogues.jsonl").read_text() == "mine"
    assert "next:" not in convbatch("init").out


def test_a_link_that_leads_nowhere_is_left_alone(convbatch: Command, tmp_path: Path) -> None:
    (tmp_path / "convbatch.toml").symlink_to(tmp_path / "gone" / "x")
    done = convbatch("init", "--no-ci")
    assert done.out.count("wrote") == 2
    assert "  cd " not in done.out
    assert "left  convbatch.toml" in done.out
    assert not (tmp_path / ".github").exists()


def test_a_file_in_the_way_is_named_and_the_others_are_written(convbatch: Command, tmp_path: Path) -> None:
    (tmp_path / ".github").write_text("x")
    done = convbatch("init")
    assert done.code == 2
    assert "cannot write .github/workflows/dialogues.yml: .github is in the way" in done.err
    assert done.out.count("wrote") == 3
    (tmp_path / "file").write_text("x")
    done = convbatch("init", "file")
    assert "file is in the way" in done.err
    assert (done.code, (tmp_path / "file").read_text()) == (2, "x")
    assert "hint: name another folder" in convbatch("init", "/dev/null/no").err
    assert "hint: name another folder" in convbatch("init", "/proc/no").err


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "convbatch", "init", "new"],
        cwd=tmp_path,
        env=environment(PYTHONDONTWRITEBYTECODE="1"),  # the limit would cut off compiled modules as well
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700)),
    )
    assert done.returncode == 2
    assert "cannot write new/convbatch.toml: File too large" in done.stderr
    assert files_in(tmp_path / "new") == [".gitignore"]


def test_the_workflow_runs_the_commands_it_has(convbatch: Command, tmp_path: Path) -> None:
    convbatch("init")
    workflow = (tmp_path / ".github/workflows/dialogues.yml").read_text()
    commands = [shlex.split(line) for line in re.findall(r"convbatch ((?:run|validate|diff|compare) .*)", workflow)]
    assert [words[0] for words in commands] == ["validate", "run", "diff", "compare"]
    assert convbatch("run", "dialogues.jsonl", "-o", "base", "--no-progress").code == 0
    for words in commands:
        done = convbatch(*(word for word in words if word not in ("||", "code=$?")))
        assert done.code == 0, done.err
    assert json.loads((tmp_path / "candidate" / "run.json").read_text())["note"] == "$GITHUB_SHA"


def test_no_file_has_a_key_or_a_name_of_this_machine(convbatch: Command, tmp_path: Path) -> None:
    convbatch("init")
    text = "\n".join((tmp_path / name).read_text() for name in FILES)
    assert CANARY_ENV not in text
    assert str(tmp_path) not in text
    assert re.findall(r"sk-\w+|AIza\w+", text) == []
