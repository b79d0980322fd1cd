"""Tests of the tests: each mutant of `mutants/mutants.toml` introduces one bug, and its listed tests must fail.

`make mutants` runs all of them, each in a copy of the project.
"""

from __future__ import annotations

import ast
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import environment
from tests.mutants import Edit, Mutant, apply, edited, read_mutants
from tests.support.tables import each

TESTS = next(folder for folder in Path(__file__).parents if folder.name == "tests")
ROOT = TESTS.parent
TEXTS = {path.relative_to(ROOT): path.read_text("utf-8") for path in TESTS.rglob("test_*.py")}
MUTANTS = read_mutants()
TESTS_FAILED = 1

SOURCE = """\
LIMIT = 3

class Box:
    def put(self, thing, *, twice=False):
        if self.full:  # a comment
            raise Full("no room")
        self.things.append(thing)
        match thing:
            case "big": self.left -= 2
            case _: self.left -= 1
        return self.store(thing, sync=True)
"""


def located(test: str) -> str:
    """Return the path of a test anywhere below tests/."""
    found = [path for path, text in TEXTS.items() if f"def {test}(" in text]
    assert len(found) == 1, f"{len(found)} files with a test named {test}"
    return f"{found[0]}::{test}"


@functools.cache
def syntax(path: Path) -> str:
    return ast.dump(ast.parse(path.read_text("utf-8")))


def test_there_are_at_least_30_mutants() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30


@each("mutant", MUTANTS)
def test_a_mutant_changes_the_code_and_names_existing_tests(mutant: Mutant) -> None:
    for path, source in apply(mutant, ROOT).items():
        changed = ast.parse(source)
        compile(changed, path, "exec")
        assert ast.dump(changed) != syntax(path), "it changes nothing"
    assert mutant.tests
    assert all(map(located, mutant.tests))


@each(
    ("function", "replace", "by", "expected"),
    [
        ("Box.put", "self.full", "False", "if False:"),
        ("Box.put", "self.things.append( thing )", "", "        pass\n        match"),
        ("Box.put", "self.things.append(thing)", "a = 1\nb = 2", "        a = 1\n        b = 2\n        match"),
        ("Box.put", "raise Full(...)", "return", "            return\n"),
        ("Box.put", "if self.full: ...", "", "        pass\n        self.things"),
        ("Box.put", "sync=...", "sync=False", "self.store(thing, sync=False)"),
        ("Box.put", "case _: ...", "case _: pass", "            case _:\n                pass"),
        ("Box.put", None, "return thing", "twice=False):\n        return thing\n"),
        ("LIMIT", None, "4", "LIMIT = 4\n"),
        ("LIMIT", "3", "5", "LIMIT = 5\n"),
    ],
)
def test_an_edit_replaces_the_named_code(function: str, replace: str | None, by: str, expected: str) -> None:
    assert expected in edited(SOURCE, Edit(function=f"m:{function}", replace=replace, by=by))


@each(
    ("function", "replace"),
    [("Box.put", "self.empty"), ("Box.put", "thing"), ("Box.take", "thing"), ("Box", "thing"), ("MISSING", "3")],
)
def test_an_edit_without_exactly_one_match_is_an_error(function: str, replace: str) -> None:
    with pytest.raises(LookupError):
        edited(SOURCE, Edit(function=f"m:{function}", replace=replace, by="None"))


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fails_its_tests(mutant: Mutant) -> None:
    # Not in pytest's folder, which is searched for the canary key: the copied tests contain it.
    with tempfile.TemporaryDirectory() as aside:
        check_that_tests_fail(mutant, Path(aside))


def check_that_tests_fail(mutant: Mutant, folder: Path) -> None:
    for part in ("convbatch", "tests", "datasets", "configs", "docs"):
        shutil.copytree(ROOT / part, folder / part)  # with the compiled files: Python trusts those of unchanged sources
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, folder)
    for path, source in apply(mutant, folder).items():
        path.write_text(source, "utf-8")
    env = {**environment(CI="true"), "PYTHONPATH": str(folder)}
    for test in mutant.tests:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider"]
        command += ["--hypothesis-profile=to fail", located(test)]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == TESTS_FAILED, f"{test} did not fail: {mutant}\n{done.stdout[-2000:]}"
