"""Configs of promptfoo: each prompt with the variables of each test, tests of one `conversationId` as one dialogue.

Files that a config names are read below its folder only. Code (JavaScript, Python) is never run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbatch.dataset.csv_lines import CsvLines
from convbatch.dataset.jsonl import JsonArray, JsonLines, RefusedValue, open_regular
from convbatch.dataset.logs.call import Collector, LogCall, Message, first_named, known
from convbatch.dataset.logs.chat import read_json, read_messages
from convbatch.dataset.logs.promptfoo_asserts import read_asserts, read_cells
from convbatch.dataset.logs.promptfoo_template import TemplateRefused, render
from convbatch.errors import Issue

_MOST_BYTES = 4 * 2**20
_MOST_CASES = 100_000
_CODE = (".js", ".cjs", ".mjs", ".ts", ".py", ".rb", ".go", ".sh", ".exe")
_QUESTIONS = ("question", "prompt", "input", "query", "message", "user", "text", "user_input", "user_message")


def is_config(record: Mapping[str, Any]) -> bool:
    """Whether a record is a config."""
    return "prompts" in record and any(
        key in record for key in ("tests", "providers", "scenarios", "defaultTest", "targets")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    text: str
    label: str | None = None
    is_yaml: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Test:
    variables: Mapping[str, Any]
    asserts: list[Any]
    cells: tuple[str, ...] = ()
    conversation: str | None = None
    description: str | None = None
    line: int | None = None


class _Refused(Exception):  # caught where the config is read
    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.issue = Issue(what=what, hint=hint)


def read_config(config: dict[str, Any], path: Path, collector: Collector) -> None:
    """Read the dialogues of a config."""
    folder = path.parent
    try:
        prompts = list(_prompts(config.get("prompts"), folder))
        tests = list(itertools.islice(_tests(config, folder), _MOST_CASES + 1))
    except _Refused as refusal:
        collector.problem(refusal.issue)
        return
    if len(tests) * max(1, len(prompts)) > _MOST_CASES:
        hint = "convert it in parts"
        collector.problem(Issue(what=f"more than {_MOST_CASES:,} pairs of a prompt and a test", hint=hint))
        return
    if not prompts or not tests:
        missing = "prompts" if not prompts else "tests"
        collector.problem(Issue(what=f"a config without {missing}", hint="dialogues are made of its prompts and tests"))
        return
    for number, prompt in enumerate(prompts, 1):
        name = None if len(prompts) == 1 else prompt.label or f"prompt-{number}"
        _dialogues(prompt, name, tests, collector)


def read_test_rows(rows: Sequence[tuple[int | None, dict[str, Any]]], collector: Collector) -> None:
    """Read a table of tests without its config: the question is the only variable, or the one with a usual name."""
    columns = [key for key in rows[0][1] if not key.startswith("__") and not key.startswith("(column")]
    names = [key for key in columns if key.lower() in _QUESTIONS]
    if len(columns) != 1 and len(names) != 1:
        told = ", ".join(columns) or "(none)"
        what = f"a table of tests with the variables {told}, and without the prompt that they are put into"
        collector.problem(Issue(what=what, hint="convert the config that names it (promptfooconfig.yaml)"), rows[0][0])
        return
    name = names[0] if len(columns) != 1 else columns[0]
    _dialogues(
        _Prompt(text="{{ " + name + " }}{# _conversation #}"),
        None,
        [_row_test(row, line) for line, row in rows],
        collector,
        only=name,
    )


def _row_test(row: dict[str, Any], line: int | None) -> _Test:
    cells = tuple(str(value) for key, value in row.items() if key.startswith("__expected") and value)
    metadata = {key.removeprefix("__metadata:"): value for key, value in row.items() if key.startswith("__metadata:")}
    return _Test(
        variables={key: value for key, value in row.items() if not key.startswith(("__", "(column"))},
        asserts=[],
        cells=cells,
        conversation=first_named(metadata, "conversationId"),
        description=first_named(row, "__description"),
        line=line,
    )


# Dialogues


def _dialogues(
    prompt: _Prompt, name: str | None, tests: Sequence[_Test], collector: Collector, *, only: str | None = None
) -> None:
    """Add a dialogue for each conversation, and for each test that is none of one."""
    has_conversations = "_conversation" in prompt.text
    groups: dict[str, list[tuple[int, _Test]]] = {}
    for number, test in enumerate(tests, 1):
        own = test.conversation if has_conversations else None
        groups.setdefault(f"test-{number}" if own is None else f"conversation {own}", []).append((number, test))
    for group in groups.values():
        first_number, first = group[0]
        messages: list[Message] = []
        kept: list[Any] = []
        for number, test in group:
            try:
                own = _rendered(prompt, test, only)
            except TemplateRefused as refused:
                hint = "dialogues are made of prompts with variables, loops over lists and conditions"
                collector.problem(
                    Issue(what=str(refused), hint=hint), test.line, None if test.line else f"test {number}"
                )
                continue
            checks, without = read_asserts(test.asserts)
            more, also_without = read_cells(test.cells)
            kept += [*without, *also_without]
            if checks or more:
                own[-1]["checks"] = [*checks, *more]
            # No reply is recorded between the tests of a conversation.
            messages += own if not messages else [{"role": "assistant", "content": ""}, own[-1]]
        if not messages:
            continue
        ident = (first.conversation if has_conversations else None) or first.description or f"test-{first_number}"
        collector.call(
            LogCall(
                messages=messages,
                line=first.line,
                part=None if first.line else f"test {first_number}",
                is_alone=True,
                ident=ident if name is None else f"{name}/{ident}",
                tags=(f"prompt:{name}",) if name else (),
                meta=known(description=first.description, **{"assert": kept}),
            )
        )


def _rendered(prompt: _Prompt, test: _Test, only: str | None) -> list[Message]:
    """Return the messages of a prompt with the variables of a test; only the last one is asked."""
    if only is not None:
        return [{"role": "user", "content": str(test.variables.get(only, ""))}]
    is_json = prompt.text.lstrip().startswith(("[", "{")) and not prompt.text.lstrip().startswith(("{{", "{%", "{#"))
    text = render(prompt.text, {**test.variables, "_conversation": []}, in_json=is_json)
    value = read_json(_without_trailing_commas(text) if is_json else text)
    if prompt.is_yaml and isinstance(value, str):
        value = _yaml_list(value)
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    messages = read_messages(value) if isinstance(value, list) else None
    messages = messages or [{"role": "user", "content": text}]
    if messages[-1]["role"] != "user":
        raise TemplateRefused("a prompt that does not end with a message of the user")
    return [{**message, "ask": False} if message["role"] == "user" else message for message in messages[:-1]] + [
        messages[-1]
    ]


def _without_trailing_commas(text: str) -> str:
    """Remove a comma before a closing bracket, which a loop without rounds leaves; not inside texts."""
    found: list[str] = []
    in_text = is_escaped = False
    for character in text:
        if not in_text and character in "]}":
            while found and found[-1].isspace():
                found.pop()
            if found and found[-1] == ",":
                found.pop()
        found.append(character)
        if in_text and not is_escaped and character == "\\":
            is_escaped = True
            continue
        if character == '"' and not is_escaped:
            in_text = not in_text
        is_escaped = False
    return "".join(found)


def _yaml_list(text: str) -> Any:
    from convbatch.dataset.logs.yaml_file import parse_yaml

    value = parse_yaml(text)
    if isinstance(value, Issue):
        raise TemplateRefused(f"a prompt that is {value.what}")
    return value


# Prompts


def _prompts(value: Any, folder: Path) -> Iterator[_Prompt]:
    if isinstance(value, dict):  # the file of each prompt with its label
        value = [{"id": key, "label": label} for key, label in value.items()]
    for one in value if isinstance(value, list) else [value]:
        label, text = None, one
        if isinstance(one, dict):
            label = first_named(one, "label")
            text = one.get("raw", one.get("prompt", one.get("id")))
        if not isinstance(text, str):
            raise _Refused("a prompt that is no text and no file", "prompts: ['text', 'file://prompt.txt']")
        is_file = text.startswith("file://") or (
            text.endswith((".txt", ".json", ".yaml", ".yml", *_CODE)) and "\n" not in text
        )
        yield from _prompt_files(text, label, folder) if is_file else [_Prompt(text=text, label=label)]


def _prompt_files(text: str, label: str | None, folder: Path) -> Iterator[_Prompt]:
    named = text.removeprefix("file://")
    paths = (
        sorted(folder.glob(named))[:1_000]
        if "*" in named and ".." not in named and not named.startswith("/")
        else [folder / named]
    )
    if not paths:
        raise _Refused(f"no file fits {text}", "name the file of the prompt")
    for path in paths:
        held = _read_text(path, folder)
        own = label or (path.stem if len(paths) > 1 else None)
        if path.suffix in (".txt", "", ".md", ".j2"):
            pieces = [piece.strip("\n") for piece in held.split("\n---\n")]
            yield from (_Prompt(text=piece, label=own) for piece in pieces if piece.strip())
        else:
            yield _Prompt(text=held, label=own, is_yaml=path.suffix in (".yaml", ".yml"))


def _below(path: Path, folder: Path) -> Path:
    """Return a path, if it is below the folder of the config also after links are followed."""
    if path.suffix in _CODE or ":" in path.name:
        raise _Refused(
            f"{path.name} is code, which is never run", "write what it returns into a file, and name that file"
        )
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise _Refused(f"{path} is not below the folder of the config", "copy it there, and name the copy")
    except (OSError, RuntimeError, ValueError):
        raise _Refused(f"{path} cannot be read", "name a readable file") from None
    return path


def _read_text(path: Path, folder: Path) -> str:
    try:
        with open_regular(_below(path, folder)) as raw:
            content = raw.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise _Refused(f"{path.name} has more than {_MOST_BYTES // 2**20} MiB", "is this the right file?")
        return content.decode("utf-8-sig")
    except RefusedValue as refusal:
        raise _Refused(f"{path}: {refusal.issue.what}", refusal.issue.hint or "name a readable file") from None
    except UnicodeDecodeError:
        raise _Refused(f"{path} is not UTF-8", "save it as UTF-8") from None


# Tests


def _tests(config: Mapping[str, Any], folder: Path) -> Iterator[_Test]:
    default = config.get("defaultTest")
    default = default if isinstance(default, dict) else {}
    for one in _test_values(config.get("tests"), folder):
        yield from [one] if isinstance(one, _Test) else _expanded(default, one, folder)
    for scenario in config.get("scenarios") or ():
        rows = scenario.get("config") if isinstance(scenario, dict) else None
        held = scenario.get("tests") if isinstance(scenario, dict) else None
        for row in rows if isinstance(rows, list) else ():
            for one in _test_values(held or [{}], folder):
                if isinstance(one, dict) and isinstance(row, dict):
                    yield from _expanded(_merged(default, row), one, folder)


def _test_values(value: Any, folder: Path) -> Iterator[dict[str, Any] | _Test]:
    for one in value if isinstance(value, list) else [] if value is None else [value]:
        if isinstance(one, str):
            yield from _test_file(folder / one.removeprefix("file://"), folder)
        elif isinstance(one, dict) and isinstance(one.get("path"), str) and "vars" not in one:
            yield from _test_file(folder / one["path"].removeprefix("file://"), folder)
        elif isinstance(one, dict):
            yield one
        else:
            raise _Refused("a test that is no object and no file", "tests: [{vars: {question: Hello}}]")


def _test_file(path: Path, folder: Path) -> Iterator[dict[str, Any] | _Test]:
    suffix = _below(path, folder).suffix.lower()
    if suffix in (".yaml", ".yml"):
        value = _yaml_list(_read_text(path, folder))
        yield from _test_values(value if isinstance(value, list) else [value], folder)
        return
    if suffix not in (".csv", ".tsv", ".json", ".jsonl"):
        raise _Refused(f"tests of another kind: {path.name}", "tests are read from CSV, JSON, JSON lines and YAML")
    lines = CsvLines(path) if suffix in (".csv", ".tsv") else JsonLines(path) if suffix == ".jsonl" else JsonArray(path)
    for line in lines:
        if line.issue is not None:
            where = path.name if line.number is None else f"{path.name}:{line.number}"
            raise _Refused(f"{where}: {line.issue.what}", line.issue.hint or "mend it there")
        yield _row_test(line.value, None) if suffix in (".csv", ".tsv") else line.value


def _merged(default: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, Any]:
    both = {**default, **test}
    for key in ("vars", "metadata"):
        one, other = default.get(key), test.get(key)
        both[key] = {**(one if isinstance(one, dict) else {}), **(other if isinstance(other, dict) else {})}
    both["assert"] = [*(default.get("assert") or ()), *(test.get("assert") or ())]
    return both


def _expanded(default: Mapping[str, Any], test: Mapping[str, Any], folder: Path) -> Iterator[_Test]:
    """Yield a test for each combination of the values in lists, as promptfoo does."""
    both = _merged(default, test)
    values = {name: _variable(value, folder) for name, value in both["vars"].items()}
    lists = {
        name: value
        for name, value in values.items()
        if isinstance(value, list) and all(isinstance(v, str | int | float) for v in value)
    }
    for chosen in itertools.product(*lists.values()) if lists else [()]:
        variables = values | dict(zip(lists, chosen, strict=True))
        yield _Test(
            variables=variables,
            asserts=[_filled(one, variables) for one in both["assert"]],
            conversation=first_named(both["metadata"], "conversationId"),
            description=first_named(dict(both), "description"),
        )


def _variable(value: Any, folder: Path) -> Any:
    if isinstance(value, str) and value.startswith("file://"):
        return _read_text(folder / value.removeprefix("file://"), folder)
    return value


def _filled(value: Any, variables: Mapping[str, Any]) -> Any:
    """Return an assertion with the variables in its value."""
    if not isinstance(value, dict) or not isinstance(value.get("value"), str):
        return value
    try:
        return {**value, "value": render(value["value"], variables)}
    except TemplateRefused:
        return value
