"""Tests of completion: what a shell is offered, by the protocol of each shell and in a real bash."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.cli.completion import WORDS, join_words, values_of
from convbatch.comparison.compare import METRICS, FailOn
from convbatch.config.gateways import HistoryMode
from convbatch.config.json_schema import SCHEMAS
from convbatch.config.loader import presets
from convbatch.reply import FinishReason
from convbatch.reporting.report import KEYS
from convbatch.results.columns import STATUSES, WIDE
from convbatch.results.listing import SORT_KEYS, STATES
from convbatch.simulator.gateways import GATEWAYS
from convbatch.simulator.limits import LimitModel
from tests.conftest import Command, environment
from tests.support.made_runs import DRIFT, GOOD, MadeRun, dialogue
from tests.support.tables import each


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs, of which one is named, and a config."""
    for name, target in (("20261121T233000Z-one", GOOD), ("20261122T233000Z-two", DRIFT)):
        MadeRun(tmp_path / "results" / name, [dialogue("d", "x")], targets=(target,)).write()
    manifest = tmp_path / "results" / "20261121T233000Z-one" / "run.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"name": "base"}))
    text = '[run]\nmodels = ["qwen-plus@company"]\n[gateways.company]\nprotocol = "openai"\nbase_url = "https://x.example/v1"\n'
    (tmp_path / "convbatch.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_bash(place: Path, *words: str) -> list[str]:
    """Return what bash is answered for these words, broken as bash breaks them; the last is completed."""
    done = subprocess.run(
        [sys.executable, "-m", "convbatch"],
        cwd=place,
        env=environment(
            _CONVBATCH_COMPLETE="complete_bash", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1)
        ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ini",), ["init"]),
        (("run", "d.jsonl", "-m", "x", "@", "dash"), ["@dashscope"]),
        (("diff", "base", ":", "sim-good", "@", "sim"), ["@simulator"]),
        (("run", "--history", "=", "l"), ["live", "last"]),
        (("nonsense", "x"), []),
    ],
)  # fmt: skip
def test_bash_is_offered_what_it_replaces(place: Path, words: tuple[str, ...], expected: list[str]) -> None:
    assert in_bash(place, "convbatch", *words) == expected


@each(
    ("kind", "typed", "expected"),
    [
        ("models", "qwen-", ["qwen-plus@company"]),
        ("models", "sim-g", [GOOD]),
        ("gateways", "comp", ["company"]),
        ("runs", "b", ["base"]),
        ("runs", "20261122", ["20261122T233000Z-two"]),
        ("sides", "base:", [f"base:{GOOD}"]),
        ("sides", "latest:", [f"latest:{DRIFT}"]),
        ("sort", "c", ["cost"]),
        ("schema", "", ["dataset", "config"]),
    ],
)
@pytest.mark.usefixtures("place")
def test_values_of_each_kind(kind: str, typed: str, expected: list[str]) -> None:
    assert values_of(kind, typed) == expected


def test_the_script_for_bash_completes_in_a_real_bash(place: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", _SHOW_SCRIPT], cwd=place, env=environment(), capture_output=True, text=True, check=True
    ).stdout
    program = place / "bin" / "convbatch"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m convbatch "$@"\n')
    program.chmod(0o755)
    script = f"""{shown}
    COMP_WORDS=(convbatch diff base : sim-g); COMP_CWORD=4
    _convbatch_completion convbatch; printf '%s\\n' "${{COMPREPLY[@]}}"
    complete -p convbatch
    """
    env = environment(PATH=f"{program.parent}:/usr/bin:/bin")
    done = subprocess.run(["bash", "-c", script], cwd=place, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [GOOD, "complete -o default -F _convbatch_completion convbatch"]


_SHOW_SCRIPT = (
    "from typer._completion_shared import get_completion_script as script\n"
    "print(script(prog_name='convbatch', complete_var='_CONVBATCH_COMPLETE', shell='bash'))"
)
"""What `--show-completion` prints where the shell that runs is bash; which one runs is not for a test to choose."""


@pytest.mark.parametrize(("shell", "expected"), [("zsh", '"base"'), ("fish", "base")])
def test_zsh_and_fish_are_offered_runs(place: Path, shell: str, expected: str) -> None:
    env = environment(
        _CONVBATCH_COMPLETE=f"complete_{shell}",
        _TYPER_COMPLETE_ARGS="convbatch show b",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    command = [sys.executable, "-m", "convbatch"]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=True)
    assert expected in done.stdout


def test_names_that_a_shell_would_have_to_quote_are_not_offered(place: Path) -> None:
    evil = ['x"; touch pwned; "', "$(touch pwned)", "a b", "it's", "`x`", "a\nb", "*", "|"]
    for number, name in enumerate(evil):
        folder = place / "results" / f"r{number}"
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"name": name, "targets": [{"name": name}]}))
        (place / "results" / name).mkdir()
        (place / "results" / name / "run.json").write_text("{}")
    offered = [*values_of("runs", ""), *values_of("models", ""), *values_of("sides", "latest:")]
    assert set(offered).isdisjoint(evil)
    assert {"latest", "base", "r0"} <= set(offered)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("content", ["", "{", "[]", '{"targets": 1, "name": 2}', '{"targets": [1, {}]}', "\x00"])
def test_broken_files_offer_nothing_and_never_fail(content: str) -> None:
    Path("results/20261121T233000Z-one/run.json").write_text(content)
    Path("convbatch.toml").write_text(content)
    for kind in ("runs", "sides", "models", "gateways"):
        assert values_of(kind, "zz") == []
        values_of(kind, "latest:")
        values_of(kind, "m@")


def test_every_preset_is_offered(place: Path) -> None:
    assert set(values_of("gateways", "")) == {*presets(), "company"}
    assert f"x@{'google'}" in values_of("models", "x@")


def test_the_words_are_those_that_the_options_take() -> None:
    assert WORDS["history"] == get_args(HistoryMode)
    assert WORDS["status"] == STATUSES
    assert WORDS["finish_reason"] == get_args(FinishReason)
    assert set(WORDS["wide"]) == set(WIDE)
    assert WORDS["by"] == KEYS
    assert set(WORDS["metric"]) == set(METRICS)
    assert set(WORDS["fail_on"]) == set(get_args(FailOn))
    assert WORDS["state"] == STATES
    assert WORDS["sort"] == SORT_KEYS
    assert WORDS["schema"] == tuple(SCHEMAS)
    assert set(WORDS["limit_model"]) == set(get_args(LimitModel))
    assert set(WORDS["server"]) == set(GATEWAYS)


@each(
    ("words", "place", "expected"),
    [
        (["c", "run", "-m", "a", "@", "b"], 5, (["c", "run", "-m", "a@b"], 3, "a@")),
        (["c", "run", "-m", "a", "@"], 4, (["c", "run", "-m", "a@"], 3, "a@")),
        (["c", "diff", "r", ":", "m", "@", "g", "x"], 6, (["c", "diff", "r:m@g", "x"], 2, "r:m@")),
        (["c", "diff", "r", ":", "m", "y", "x"], 6, (["c", "diff", "r:m", "y", "x"], 4, "")),
        (["c", ""], 1, (["c", ""], 1, "")),
        (["c", "run", "--a", "=", "b"], 4, (["c", "run", "--a=b"], 2, "--a=")),
    ],
)
def test_words_that_bash_broke_are_joined(words: list[str], place: int, expected: tuple[list[str], int, str]) -> None:
    assert join_words(words, place) == expected


@given(st.lists(st.sampled_from(["a", "@", ":", "=", "", "b", "::"]), min_size=1, max_size=8), st.data())
def test_joining_keeps_every_character_and_the_word_that_is_typed(words: list[str], data: st.DataObject) -> None:
    words = ["convbatch", *words]
    place = data.draw(st.integers(0, len(words) - 1))
    joined, now, typed = join_words(words, place)
    assert "".join(joined) == "".join(words)
    assert joined[now].startswith(typed)


def test_completion_imports_nothing_large(place: Path) -> None:
    code = (
        "import sys\n"
        "from convbatch.cli.completion import values_of\n"
        "print(len(values_of('models', 'x@')), len(values_of('sides', 'base:')))\n"
        "print(*[name for name in ('pandas', 'pyarrow', 'aiohttp', 'pydantic', 'rich', 'convbatch.config.loader')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[1:] == [""]


def test_help_names_the_options_that_install_it(convbatch: Command) -> None:
    told = convbatch("--help").out
    assert "--install-completion" in told
    assert "--show-completion" in told
