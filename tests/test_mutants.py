"""The tests are tested: each patch in `mutants/` puts one bug in, and one of the tests it names must fail for it.

A patch begins with what its bug is and a line `Caught-by:` with the tests. `make mutants` tries them all.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import environment

ROOT = Path(__file__).parent.parent
PATCHES = sorted((ROOT / "tests" / "mutants").glob("*.patch"))
TESTS_FAILED = 1


def apply(patch: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    # A folder inside a repository would make git look for the files there.
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    command = ["git", "apply", *more, str(patch)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def named(patch: Path) -> list[str]:
    found = re.search(r"^Caught-by: (.+)$", patch.read_text("utf-8"), re.MULTILINE)
    assert found, f"{patch.name} does not say which tests catch it"
    return found[1].split()


def test_there_are_enough_bugs_to_try() -> None:
    assert len(PATCHES) >= 25


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_patch_fits_the_code_and_names_tests_that_exist(patch: Path) -> None:
    fits = apply(patch, ROOT, "--check")
    assert fits.returncode == 0, f"the code has changed: make the same bug in it again\n{fits.stderr}"
    for test in named(patch):
        path, _, name = test.partition("::")
        assert name in (ROOT / path).read_text("utf-8"), f"{patch.name}: no {test}"


@pytest.mark.slow
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_deliberate_bug_is_caught(patch: Path) -> None:
    # Not below pytest's own folder: what is left there is searched for the canary key, which the copied tests hold.
    with tempfile.TemporaryDirectory() as aside:
        try_tests_on(patch, Path(aside))


def try_tests_on(patch: Path, folder: Path) -> None:
    for part in ("convbatch", "tests", "datasets", "configs", "docs"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, folder)
    applied = apply(patch, folder)
    assert applied.returncode == 0, applied.stderr
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *named(patch)]
    env = {**environment(CI="true"), "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == TESTS_FAILED, f"nobody noticed: {patch.read_text('utf-8')}\n{done.stdout[-2000:]}"
