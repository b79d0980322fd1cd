"""The project files are consistent with each other, and none depends on one machine."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import convbatch
from tests.support.tables import each

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "convbatch"
PUBLIC_INDEX = {"pypi.org", "files.pythonhosted.org"}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pyproject() -> dict[str, Any]:
    return tomllib.loads(text_of("pyproject.toml"))


def modules() -> list[str]:
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@functools.cache
def syntax_tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_bytes())


# ARCHITECTURE.md


def test_every_name_in_the_architecture_exists() -> None:
    words = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text_of("ARCHITECTURE.md"), flags=re.DOTALL))
    places = {place.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for place in modules()}
    written = {"pyproject.toml", "tool.importlinter", "make lint", "run.json"}
    names = {name for word in words if word not in places | written for name in re.findall(r"\w+", word)}
    source = "\n".join((PACKAGE / name).read_text(encoding="utf-8") for name in modules())
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", source)] == []


def test_every_module_has_a_docstring() -> None:
    undocumented = [name for name in modules() if not ast.get_docstring(syntax_tree(name))]
    assert undocumented == []


# Version and tools


def test_the_changelog_has_an_entry_for_this_version() -> None:
    assert re.search(rf"^## \[{re.escape(convbatch.__version__)}\]", text_of("CHANGELOG.md"), re.MULTILINE)


def test_every_make_target_in_the_pages_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):.*## ", text_of("Makefile"), re.MULTILINE))
    named = set(re.findall(r"`?\bmake ([a-z]+)\b", "".join(re.findall(r"`[^`]*`", text_of("CONTRIBUTING.md")))))
    assert named
    assert named - targets == set()


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    starts = re.findall(r'^from_readme "(.*)"$', text_of(".ci/run"), re.MULTILINE)
    found = [next(line for line in text_of("README.md").splitlines() if start in line) for start in starts]
    assert found == [
        "pip install . && convbatch run datasets/quickstart.jsonl",
        "pip install '.[test]' && python -m pytest",
    ]


def test_hooks_use_the_linter_of_the_project() -> None:
    (ruff,) = (tool for tool in pyproject()["dependency-groups"]["lint"] if tool.startswith("ruff"))
    hooks = text_of(".pre-commit-config.yaml")
    assert hooks.count(f'"{ruff}"') == hooks.count("ruff==") > 0


def test_the_lock_file_has_all_requirements_and_uses_the_public_index() -> None:
    lock = tomllib.loads(text_of("uv.lock"))
    (own,) = (package for package in lock["package"] if package["name"] == "convbatch")
    project = pyproject()["project"]
    requirements = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        requirements += extra
    locked = {one["name"] for one in own["metadata"]["requires-dist"]}
    assert locked == {re.split(r"[^\w-]", one)[0] for one in requirements}
    assert {urlsplit(url).hostname for url in re.findall(r'"(\w+://[^"]*)"', text_of("uv.lock"))} == PUBLIC_INDEX


def third_party_imports() -> dict[str, str]:
    """Return third-party top-level modules that the package imports at run time, each with a file that imports it."""
    found: dict[str, str] = {}
    for name in modules():
        nodes = list(ast.walk(syntax_tree(name)))
        only_typing = {
            id(inner)
            for node in nodes
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in nodes:
            if id(node) in only_typing:
                continue
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            found |= {module.split(".")[0]: name for module in imported}
    return {module: name for module, name in found.items() if module not in {*sys.stdlib_module_names, "convbatch"}}


@pytest.mark.slow
def test_every_imported_package_is_declared() -> None:
    project = pyproject()["project"]
    extras = [one for name, extra in project["optional-dependencies"].items() if name != "test" for one in extra]
    declared = {re.split(r"[^\w-]", one)[0] for one in (*project["dependencies"], *extras)}
    files = (importlib.metadata.distribution(name).read_text("RECORD") or "" for name in declared)
    provided = {re.split("[/,]", line)[0].removesuffix(".py") for text in files for line in text.splitlines()}
    imports = third_party_imports()
    assert {"aiohttp", "pandas", "rich"} <= imports.keys()
    assert {module: name for module, name in imports.items() if module not in provided} == {}


@each("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/simulator.md"])
def test_every_file_named_in_a_page_exists(page: str) -> None:
    named = set(re.findall(r"`((?:convbatch|tests|docs|configs|datasets|benchmarks)/[\w./-]*)`", text_of(page)))
    assert [name for name in sorted(named) if "NAME" not in name and not (ROOT / name).exists()] == []


# No machine-specific files


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_contains_a_machine_specific_path() -> None:
    """A home folder or the path of a checkout in a committed file does not exist on other machines."""
    place = re.compile(rb"(?<![\w.~])/(?:root|home/\w+|Users/\w+|work|tmp/\w+)/[\w.-]")
    found = [str(path.relative_to(ROOT)) for path in tracked() if place.search(path.read_bytes())]
    assert found == []


def test_results_are_not_committed() -> None:
    assert [path.name for path in tracked() if ROOT / "results" in path.parents] == ["README.md"]
