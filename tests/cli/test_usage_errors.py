"""Tests of what the command line says to a mistake in it: what to type instead; and of `--help`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner

from convbatch.cli.main import app
from convbatch.cli.options import body_of
from convbatch.cli.usage_errors import number_problem, odd_dash, unknown_option
from tests.support.tables import each

COMMANDS: dict[str, Any] = getattr(get_command(app), "commands")  # noqa: B009  # a group has them
ELSEWHERE = {option: [name] for name, each_one in COMMANDS.items() for p in each_one.params for option in p.opts}


def own(command: str) -> list[str]:
    return [option for param in COMMANDS[command].params for option in param.opts]


def flat(text: str) -> str:
    return re.sub(r"[\s│]", "", text)


@each(
    ("command", "typed", "value", "answer"),
    [
        ("run", "--timeout", "30", "--attempt-timeout 30s (one request"),
        ("run", "--timeout", "30", "--deadline 30s (the whole run"),
        ("show", "--timeout", "30", "--attempt-timeout is an option of `check`"),
        ("run", "--max-workers", "3", "--concurrency 3"),
        ("run", "--max-concurrency", None, "--concurrency"),
        ("run", "--api-key", "sk-1", "under [gateways.NAME] names the variable"),
        ("run", "--base-url", "http://x", "base_url = "),
        ("run", "--temp", "0.5", "--temperature 0.5"),
        ("run", "--top-p", "0.9", "top_p = … under [run.settings]"),
        ("run", "--allow-http", None, "under [gateways.NAME]"),
        ("run", "--models", None, "--model (MODEL@GATEWAY"),
        ("run", "--max-tokens", "5", "--max-output-tokens 5"),
        ("run", "--system", "Hi", '"system": "…" in each dialogue'),
        ("run", "--output", "x", "--out"),
        ("report", "--format", "csv", "-o FILE.json"),
        ("compare", "--threshold", "0.02", "--margin 0.02"),
        ("run", "--wide", "reply", "an option of `table`"),
        ("run", "--concurency", "3", "--concurrency 3"),
        ("run", "--Limit", "3", "--limit 3"),
        ("run", "--m", None, "did you mean -m?"),
        ("run", "-H", "a: b", "headers = "),
        ("run", "--xyzzy", None, "-h lists the options"),
    ],
)
def test_an_option_of_another_tool_is_answered_with_ours(
    command: str, typed: str, value: str | None, answer: str
) -> None:
    told = unknown_option(typed, value, own(command), ELSEWHERE)
    assert answer in told
    assert value is None or "sk-" not in told, "it may be a key"


@each("command", COMMANDS)
def test_every_option_in_an_answer_exists(command: str) -> None:
    from convbatch.cli.usage_errors import _MEANINGS  # pyright: ignore[reportPrivateUsage]

    for meaning in _MEANINGS:
        assert set(meaning.ours) <= set(ELSEWHERE), meaning
        for name in meaning.names.split():
            told = unknown_option(f"--{name}", None, own(command), ELSEWHERE)
            meant = re.findall(r"did you mean (--[a-z-]+)(?:.*? or (--[a-z-]+))?", told)
            assert {option for pair in meant for option in pair if option} <= set(own(command)), (name, told)


@each(
    ("typed", "answer"),
    [
        ("many", "write a whole number of at least 1, e.g. -j 16"),
        ("0", "0 is too small: it takes a whole number of at least 1, e.g. -j 16"),
        ("1.5", "write -j 1 or -j 2"),
        ("1,000", "write -j 1000"),
        ("10k", "write -j 10000"),
        ("１０", "write -j 10"),
        ("=4", "write -j 4"),
        ("unlimited", "leave it out for the default"),
    ],
)
def test_a_number_that_is_not_taken_is_answered_with_one_that_is(typed: str, answer: str) -> None:
    assert answer in number_problem(["-j", "--concurrency"], typed, whole=True, least=1)


@given(st.text() | st.from_regex(r"[+-]?[0-9０-９]{0,4}[.,kK%]?[0-9]{0,4}", fullmatch=True), st.booleans())
def test_a_number_in_an_answer_is_taken(typed: str, whole: bool) -> None:
    told = number_problem(["-j", "--concurrency"], typed, whole=whole, least=1, most=64)
    for value in re.findall(r"-j (\S+)(?: or|$)", told):
        assert (int(value) if whole else float(value)) >= 1


@each(
    ("typed", "answer"),
    [
        ("－－limit", "write --limit"),
        ("—limit", "write --limit"),
        ("–n", "write -n"),
        ("-limit", "write --limit"),
        ("-m=a@openai", "write -m a@openai"),
        ("-n5", None),
        ("-", None),
        ("", None),
        ("——", None),
        ("a=b", None),
    ],
)
def test_dashes_that_are_no_hyphens_are_named(typed: str, answer: str | None) -> None:
    told = odd_dash(typed, own("run"))
    assert told is None if answer is None else told is not None and answer in told


def test_the_answer_is_in_the_error_of_the_command() -> None:
    def said(*args: str, **env: str) -> str:
        done = CliRunner().invoke(app, args, env={"COLUMNS": "200", **env})
        assert done.exit_code == 2
        return done.stderr

    assert "No such option --timeout: did you mean --attempt-timeout 30s" in said("run", "d.jsonl", "--timeout=30")
    assert "--attempt-timeout 30s" in said("run", "d.jsonl", "-timeout", "30")
    assert "write --temperature 0.5" in said("run", "d.jsonl", "--temperature", "0,5")
    assert "e.g. -j 16, found in CONVBATCH_CONCURRENCY" in said("run", "d.jsonl", CONVBATCH_CONCURRENCY="many")
    assert "write --raw d 1 or --raw d 2" in said("show", "r", "--raw", "d", "1.5")
    assert "write --limit" in said("run", "d.jsonl", "—limit", "3")
    assert "'-1' is not a share: write 0.02 or 2%" in said("rank", "r", "--alpha", "-1")
    assert "'x' is not a whole number: write a whole number of at least 1" in said("diff", "a", "b", "--turn", "x")
    assert "0 is too small: it takes a whole number of at least 1" in said(
        "diff", "a", "b", *("--turn", "1") * 2, "--turn=0"
    )
    assert "Missing argument 'DATASET'. Example: convbatch run datasets/quick" in said("run", "-m", "")
    assert f"{Path.home()}/no.toml" in said("run", "d.jsonl", "--config=~/no.toml")
    assert f"{Path.home()}/no.jsonl" in said("validate", "~/no.jsonl")
    assert f"'{Path.home()}/no-run'" in said("report", "~/no-run")


@each("columns", ["80", "200"])
@pytest.mark.slow
def test_help_prints_what_is_declared_and_no_type_beside_a_flag(columns: str) -> None:
    for name, command in {"": get_command(app), **COMMANDS}.items():
        declared = [command.callback.__doc__ if name else app.info.help, *_help_texts(name)]
        printed = CliRunner().invoke(app, [*filter(None, [name]), "--help"], env={"COLUMNS": columns}).stdout
        for text in filter(None, declared):
            for paragraph in text.split("\n\n"):
                assert flat(paragraph) in flat(printed), (name, paragraph)
        assert "<bool>" not in printed


def _help_texts(name: str) -> list[str | None]:
    """Return the help of a command's parameters as it is declared, before anything is escaped."""
    from typer.utils import get_params_from_function

    if not name:
        return ["Print the version and exit."]
    function = next(each_one.callback for each_one in app.registered_commands if _name_of(each_one) == name)
    assert function is not None
    parameters = get_params_from_function(body_of(function)).values()
    return [parameter.default.help for parameter in parameters if _has_help(parameter)]


def _name_of(registered: Any) -> str:
    return registered.name or registered.callback.__name__


def _has_help(parameter: Any) -> bool:
    return getattr(parameter.default, "help", None) is not None
