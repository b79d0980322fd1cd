"""Tests of printed commands: pasted into bash they give the same options; none is forgotten when one is added."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from convbatch.cli.options import takes
from convbatch.console.text import printable_lines
from convbatch.exit_codes import ExitCode
from convbatch.session.next_command import command_line
from convbatch.session.options import (
    OptionSpec,
    ResumeOptions,
    RunOptions,
    given_options,
    option_fields,
    read_given,
)
from tests.conftest import Command, write_dataset

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4) | st.sampled_from(
    ["-m", "--json", "$HOME", "it's", 'a "b"', "a\nb", "日本", "\u202e", "a\\", "`id`", "!!", "*"]
)
PATHS = TEXTS.filter(bool).map(lambda text: Path("/r") / text.replace("/", ":"))


def values_of(field: dataclasses.Field[Any], spec: OptionSpec) -> st.SearchStrategy[Any]:
    kinds = get_args(field.type) or (field.type,)
    if spec.names_run:
        return PATHS.map(str)
    if Path in kinds:
        one: Any = PATHS
    elif int in kinds:
        one = st.integers(min_value=spec.min or 0, max_value=10**12)
    elif float in kinds:
        one = st.floats(min_value=0.001, max_value=1e9)
    elif bool in kinds:
        return st.booleans()
    else:
        one = TEXTS
    return st.lists(one, min_size=1, max_size=2).map(tuple) if get_origin(field.type) is tuple else one


def options_of(kind: Any) -> st.SearchStrategy[Any]:
    needed = {f.name: values_of(f, spec) for f, spec in option_fields(kind) if f.default is dataclasses.MISSING}
    other = {f.name: values_of(f, spec) for f, spec in option_fields(kind) if f.name not in needed}
    return st.fixed_dictionaries(needed, optional=other).map(lambda values: kind(**values))


def pasted(line: str, kind: Any) -> Any:
    """Return the options that a command parses from a line pasted into bash."""
    assert printable_lines(line) == line
    words = subprocess.run(["bash", "-c", f'printf "%s\\0" {line}'], capture_output=True, check=True).stdout
    program, _, *args = words.decode().split("\0")[:-1]
    assert program == "convbatch"
    read: list[Any] = []
    app = typer.Typer()

    @app.command()
    @takes(kind)
    def probe(options: Any) -> ExitCode:  # pyright: ignore[reportUnusedFunction]  # registered as the command
        read.append(options)
        return ExitCode.OK

    done = CliRunner().invoke(app, args, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return read[0]


def plain(options: Any) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field, _ in option_fields(options)}


@settings(max_examples=8)
@given(st.sampled_from(["run", "resume"]).flatmap(lambda name: st.tuples(
    st.just(name), options_of(RunOptions if name == "run" else ResumeOptions)
)))  # fmt: skip
def test_a_printed_command_pasted_into_bash_has_every_option(case: tuple[str, Any]) -> None:
    name, options = case
    assert plain(pasted(command_line(name, options), type(options))) == plain(options)


@settings(max_examples=20)
@given(options_of(RunOptions), options_of(ResumeOptions))
def test_given_options_survive_the_run_folder(run: RunOptions, resume: ResumeOptions) -> None:
    for options in (run, resume):
        stored = json.loads(json.dumps(given_options(options)))
        read = read_given(type(options), stored, **({"run": resume.run} if options is resume else {}))
        left_out = {field.name: field.default for field, spec in option_fields(options) if not spec.is_repeated}
        assert plain(read) == plain(options) | left_out


def test_values_of_another_type_are_left_out() -> None:
    hostile = {"datasets": ["d.jsonl"], "models": "m", "limit": "5", "seed": True, "config": 7, "tags": [1], "new": 1}
    assert plain(read_given(RunOptions, hostile)) == plain(RunOptions(datasets=(Path("d.jsonl"),)))


def test_the_command_for_a_changed_dataset_plans_the_same_run(convbatch: Command, tmp_path: Path) -> None:
    write_dataset(tmp_path / "d.jsonl", 6, 1)
    asked = "-m sim-good@simulator --sample 3 --seed 7 -j 2 --max-attempts 2 --deadline 1h --temperature 0.5 --json"
    assert convbatch("run", "d.jsonl", *asked.split(), "-o", "r 1", "-o", "$x.json").code == 0
    write_dataset(tmp_path / "d.jsonl", 7, 1)
    resumed = convbatch("resume", "r 1", "--deadline", "2h", "-v")
    line = next(line for line in resumed.err.splitlines() if "for the new content" in line).partition(": ")[2]
    assert plain(pasted(line, RunOptions)) == plain(
        RunOptions(
            datasets=(tmp_path / "d.jsonl",),
            models=("sim-good@simulator",),
            sample=3,
            seed=7,
            concurrency=2,
            max_attempts=2,
            deadline_s=7200.0,
            temperature=0.5,
            as_json=True,
            verbose=True,
            out=(tmp_path / "$x.json",),
            reuse=str(tmp_path / "r 1"),
        )
    )
