"""The examples in the docstrings of all public names run, against the built-in simulator."""

from __future__ import annotations

import asyncio
import doctest
import inspect
from pathlib import Path
from typing import Any

import pytest

import convbatch
from tests.support.tables import each

WITHOUT = {"__version__", "JournalError", "JournalDamaged"}
"""Public names that need no example: a text, and errors of a disk."""
CAPITAL = {
    "id": "capital",
    "turns": [
        {"user": "What is the capital of France?", "assistant": "Paris.", "checks": [{"contains": "Paris"}]},
        {"user": "How many people live there?", "assistant": "About two million."},
    ],
}
FINDER = doctest.DocTestFinder(exclude_empty=True)


def examples(name: str) -> list[doctest.DocTest]:
    return [test for test in FINDER.find(getattr(convbatch, name), name, module=False) if test.examples]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the examples can use: `dataset`, a `run` of it, and `both`, a run of two targets on 40 dialogues."""
    folder = tmp_path_factory.mktemp("docstrings")
    dataset = convbatch.Dataset([CAPITAL])
    many = convbatch.Dataset(
        [{"turns": [{"user": f"{n} + 1?", "assistant": f"{n + 1}.", "checks": [{"number": n + 1}]}]} for n in range(40)]
    )
    run = convbatch.run(dataset, models="sim-good@simulator", out=folder / "run")
    both = convbatch.run(many, models=["sim-good@simulator", "sim-drift@simulator"], out=folder / "both")
    public = {name: getattr(convbatch, name) for name in convbatch.__all__ if name[0].isupper()}
    return {
        **public,
        "asyncio": asyncio,
        "Path": Path,
        "convbatch": convbatch,
        "dataset": dataset,
        "run": run,
        "both": both,
    }


@each("name", sorted({*convbatch.__all__} - WITHOUT))
def test_every_public_name_has_an_example(name: str) -> None:
    assert examples(name), f"convbatch.{name} has no example"


@pytest.mark.parametrize("name", sorted({*convbatch.__all__} - WITHOUT))
def test_the_examples_of_a_public_name_print_what_they_show(
    name: str, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []
    for test in examples(name):
        test.globs = dict(names)
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        runner.run(test, out=printed.append)
    assert printed == [], "".join(printed)


def test_docstrings_of_functions_survive_their_decorators() -> None:
    for name in ("run", "replay", "stream_replay"):
        assert "dataset:" in (inspect.getdoc(getattr(convbatch, name)) or "")
