"""The documentation agrees with the code: output of commands, options, links, fault rules and exit codes."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import typer.main

from convbatch.cli import main
from convbatch.config.loader import read_config
from convbatch.dataset import selection
from convbatch.engine.suspension import suspension
from convbatch.exit_codes import ExitCode
from convbatch.reply import AttemptClass, ErrorKind, Failure
from convbatch.simulator.fault_script import (
    ACTIONS,
    BODY_KINDS,
    BODY_MATCHERS,
    ERROR_KINDS,
    HEAD_MATCHERS,
    JOB_KINDS,
    LINE_KINDS,
    OPERATIONS,
    REPLY_KINDS,
    USAGE_KINDS,
    FaultScript,
)
from convbatch.simulator.ledger import Entry
from convbatch.simulator.replies import Actor
from tests.conftest import environment
from tests.support.tables import each

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh-CN.md")
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *(ROOT / folder / "README.md" for folder in ("configs", "datasets", "results", "benchmarks", "tests/bodies")),
    )
    if path.is_file()
)
COMPLETION = {"--install-completion", "--show-completion"}
OTHER_TOOLS = {"--group", "--extra", "--check", "--head", "--address", "--node-ip-address"}
"""Options of pip, uv, ray and other tools."""

_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def fences(page: str, language: str) -> list[str]:
    return [body for found, body in _FENCE.findall(text_of(page)) if found == language]


@functools.cache
def commands() -> dict[str, set[str]]:
    """Return the options of every command."""
    group = cast("Any", typer.main.get_command(main.app))
    return {
        name: {
            option for param in command.params for option in (*param.opts, *param.secondary_opts) if option[0] == "-"
        }
        for name, command in group.commands.items()
    }


# Commands and what they print


@dataclasses.dataclass
class Step:
    """A command of a console block and the lines shown below it."""

    command: str
    shown: list[str]


def steps(page: str) -> Iterator[Step]:
    for block in fences(page, "console"):
        step: Step | None = None
        for line in block.splitlines():
            if line.startswith("$ "):
                if step is not None:
                    yield step
                step = Step(line[2:], [])
            else:
                assert step is not None, f"{page}: output without a command: {line}"
                step.shown.append(line)
        if step is not None:
            yield step


def on_a_terminal(argv: list[str], cwd: Path) -> tuple[int, str]:
    """Run a command with stdout on a terminal of 80 columns; return its exit code, and stdout followed by stderr."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    env = environment(TERM="dumb", NO_COLOR="1", COLUMNS="80")
    with subprocess.Popen(
        argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE
    ) as process:
        os.close(theirs)
        output = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux raises when the other end is closed
                break
            if not piece:
                break
            output += piece
        os.close(ours)
        assert process.stderr is not None
        output += process.stderr.read()
    return process.returncode, output.decode().replace("\r\n", "\n")


def normalised(line: str) -> str:
    """Replace times, latencies, progress counts and column widths, which differ between runs."""
    line = re.sub(r"\d{8}T\d{6}Z", "TIME", line)
    line = re.sub(r"\b\d+\.\d\d\b", "0.00", line)
    line = re.sub(r"\b\d+ of (\d+) turns", r"N of \1 turns", line)
    return re.sub(r"\s+", " ", line).strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/run.md",
        "docs/cost.md",
        "docs/checks.md",
        "docs/start.md",
        "docs/tools.md",
        "docs/zh/quickstart.md",
    ],
)
def test_commands_of_a_page_print_its_output(page: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "datasets", tmp_path / "datasets")
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    page_steps = list(steps(page))
    assert page_steps
    code = 0
    for number, step in enumerate(page_steps):
        if step.command == "echo $?":
            assert step.shown == [str(code)]
            continue
        program, *args = shlex.split(step.command)
        assert program == "convbatch"
        code, output = on_a_terminal([sys.executable, "-m", "convbatch", *args], tmp_path)
        output = output.replace(f"{tmp_path}/", "")  # the pages shorten the paths of printed commands
        if page_steps[number + 1 : number + 2] == [] or page_steps[number + 1].command != "echo $?":
            assert code == 0, f"{step.command}\n{output}"
        lines = {normalised(line) for line in output.splitlines()}
        for line in step.shown:
            assert line == "…" or normalised(line) in lines, f"{step.command}: not printed: {line}\n{output}"


@pytest.mark.parametrize("language", ["console", "python", "json"])
def test_both_readmes_have_the_same_code_blocks(language: str) -> None:
    english, chinese = (fences(page, language) for page in READMES)
    assert english == chinese
    assert english


def test_the_chinese_page_of_cost_has_the_output_of_the_english_one() -> None:
    assert fences("docs/zh/cost.md", "console") == fences("docs/cost.md", "console")


def test_the_chinese_page_of_gateways_lists_the_same_presets() -> None:
    def presets(page: str) -> list[str]:
        rows = re.findall(r"^\| `[\w-]+` \| (?:gemini|openai|anthropic|responses) \|.*$", text_of(page), re.MULTILINE)
        return [" ".join(re.findall(r"`[^`]*`", row)) for row in rows]

    assert presets("docs/zh/gateways.md") == presets("docs/gateways.md")
    assert len(presets("docs/gateways.md")) > 20


def test_the_messages_that_the_chinese_quick_start_explains_exist() -> None:
    table = text_of("docs/zh/quickstart.md").split("\n## 常见报错\n")[1]
    pieces = [
        piece.strip() for message in re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE) for piece in message.split("…")
    ]
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "convbatch").rglob("*.py"))
    assert len(pieces) > 6
    assert [piece for piece in pieces if piece not in source] == []


def test_the_chinese_page_of_audit_lists_the_same_findings() -> None:
    def names(page: str) -> list[str]:
        return re.findall(r"^\| (`.*?`) \|", text_of(page).split("\n## ", 1)[1], re.MULTILINE)

    english, chinese = (
        [name.replace("、", ", ") for name in names(page)] for page in ("docs/audit.md", "docs/zh/audit.md")
    )
    assert set(chinese) <= set(english)
    assert {"`same`", "`input_counts`", "`known, not billed`"} <= set(chinese)


def test_both_readmes_start_with_the_same_two_commands() -> None:
    two = [
        "pip install . && convbatch run datasets/quickstart.jsonl\n",
        "pip install '.[test]' && python -m pytest\n",
    ]
    assert [fences(page, "sh")[:2] for page in READMES] == [two, two]


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "datasets", tmp_path / "datasets")
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    (code,) = fences("README.md", "python")
    (chinese,) = fences("docs/zh/quickstart.md", "python")
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{chinese}"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "sim-drift@simulator" in done.stdout


def test_help_imports_no_large_library() -> None:
    code = (
        "import sys\n"
        "from convbatch.cli.main import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "large = ('pandas', 'numpy', 'pyarrow', 'aiohttp', 'aiolimiter', 'tqdm', 'uvloop', 'sqlite3')\n"
        "ours = [name for name in sys.modules if name.startswith('convbatch.')]\n"
        "print('LOADED', *[name for name in large if name in sys.modules], *sorted(ours))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    modules = ("arguments", "audit", "compare", "diff", "prefer", "ranking", "report", "runs", "simulate", "start")
    commands = "cli.commands", *(f"cli.commands.{name}" for name in modules)
    loaded = "cli", *commands, "cli.conversion", "cli.main", "cli.options", "errors", "exit_codes"
    assert done.stdout.splitlines()[-1] == " ".join(["LOADED", *(f"convbatch.{name}" for name in loaded)])


# Names


def option_mentions() -> list[tuple[str, str]]:
    return sorted({(page, option) for page in PAGES for option in _OPTION.findall(text_of(page))})


def test_every_option_in_the_pages_exists() -> None:
    known = set[str]().union(*commands().values(), {"--help", "--version", *COMPLETION}, OTHER_TOOLS)
    assert [(page, option) for page, option in option_mentions() if option not in known] == []


def test_every_option_is_documented() -> None:
    mentioned = {option for _, option in option_mentions()}
    known = {option for options in commands().values() for option in options if option.startswith("--")}
    assert known - mentioned - {"--help"} == set()


def test_the_documented_list_of_commands_equals_help() -> None:
    listed = re.findall(r"^\| `convbatch ([\w-]+)", text_of("docs/README.md"), re.MULTILINE)
    assert listed == list(commands())


def quoted_commands() -> list[tuple[str, str]]:
    """Return every `convbatch …` command of a page, in code blocks and inline."""
    found: list[tuple[str, str]] = []
    for page in PAGES:
        text = text_of(page)
        for language in ("sh", "console"):
            for block in fences(page, language):
                found += [(page, line) for line in re.findall(r"^(?:\$ )?(convbatch .*)$", block, re.MULTILINE)]
        found += [(page, line) for line in re.findall(r"`(convbatch [^`\n]+)`", _FENCE.sub("", text))]
    return found


@each(("page", "line"), quoted_commands())
def test_a_quoted_command_has_only_existing_options(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    known = {**commands(), **{name: set[str]() for name in ("--version", "--help", "COMMAND", *COMPLETION)}}
    assert words[0] in known, page
    used = {word.split("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)}
    assert used - known[words[0]] - {"--help"} == set(), page


@each("page", PAGES)
def test_every_link_has_an_existing_target(page: str) -> None:
    for link in _LINK.findall(_FENCE.sub("", text_of(page))):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = ROOT / page if not path else (ROOT / page).parent / path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, link


def test_documented_exit_codes_equal_the_enum() -> None:
    for page in (*READMES, "docs/run.md"):
        assert {int(code) for code in re.findall(r"^\| (\d+) \|", text_of(page), re.MULTILINE)} == set(ExitCode), page


# Examples


@each("page", [page for page in PAGES if fences(page, "toml")])
def test_a_quoted_configuration_is_valid(page: str) -> None:
    for block in fences(page, "toml"):
        assert read_config(block, Path(page)).gateways


@pytest.mark.parametrize(
    "page", [*READMES, "docs/dataset.md", "docs/checks.md", "docs/tools.md", "docs/zh/quickstart.md"]
)
def test_a_quoted_dialogue_is_valid(page: str, tmp_path: Path) -> None:
    dialogues = [json.loads(block) for block in fences(page, "json") if '"turns"' in block]
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps(dialogue) + "\n" for dialogue in dialogues))
    assert len(selection.load_dialogues([file])) == len(dialogues) > 0


# The simulator's page


def simulator_rows(first: str) -> set[str]:
    """Return the names in the first column of the table whose first heading is `first`."""
    table = text_of("docs/simulator.md").split(f"\n| {first} |", 1)[1].split("\n\n", 1)[0]
    return {name for row in table.splitlines()[2:] for name in re.findall(r"`([\w-]+)`", row.split("|")[1])}


def test_the_fault_rules_of_the_page_are_valid() -> None:
    (block,) = (block for block in fences("docs/simulator.md", "json") if '"action"' in block)
    rules = [json.loads(line) for line in block.splitlines()]
    assert len(FaultScript.of(rules).rules) == len(rules)


def test_the_page_lists_every_model_matcher_and_ledger_field() -> None:
    assert simulator_rows("model") == set(Actor().models)
    assert simulator_rows("matcher") == {*HEAD_MATCHERS, *BODY_MATCHERS}
    assert simulator_rows("field") == {field.name for field in dataclasses.fields(Entry)}


def test_the_page_lists_every_action_with_its_options() -> None:
    text = text_of("docs/simulator.md")
    listed: dict[str, set[str]] = {}
    names: list[str] = []
    for action, options in re.findall(r"^\| ((?:`[\w-]+`(?:, )?)*) ?\| ([^|]*)\|.*\|$", text, re.MULTILINE):
        found = re.findall(r"`([\w-]+)`", action)
        names = found or names
        for name in names:
            listed.setdefault(name, set()).update(re.findall(r"`(\w+)`", options))
    documented = {name: options for name, options in listed.items() if name in ACTIONS}
    assert documented == {name: set(options) for name, options in ACTIONS.items()}


def test_the_page_lists_every_kind() -> None:
    text = text_of("docs/simulator.md")
    kinds = (*REPLY_KINDS, *USAGE_KINDS, *BODY_KINDS, *ERROR_KINDS, *JOB_KINDS, *LINE_KINDS, *OPERATIONS)
    assert [kind for kind in kinds if f"`{kind}`" not in text] == []


def test_the_page_of_errors_explains_every_kind_class_and_suspension() -> None:
    page = text_of("docs/errors.md")
    for kind in get_args(ErrorKind):
        assert f"| [`{kind}`](#{kind}) |" in page
        assert f"\n### {kind}\n" in page
    assert set(re.findall(r"^### (\w+)$", page, re.MULTILINE)) == set(get_args(ErrorKind))
    for cls in get_args(AttemptClass):
        assert f"| `{cls}` |" in page
    suspensions = page.split("\n## Suspended targets\n")[1]
    for kind in get_args(ErrorKind):
        failure = Failure(kind=kind, message="m", no_model=kind == "bad_response")
        assert f"| {suspension(failure, None, None).partition(' (m)')[0]} |" in suspensions
