"""promptfoo: configs (YAML or JSON), tables of tests (CSV), and results (JSON, JSON lines, YAML, CSV)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from convbatch.dataset.logs.call import Collector, LogCall, Message, as_dict, first_named, known, unix_time
from convbatch.dataset.logs.chat import is_said, read_json, read_messages, read_reply, settings_of
from convbatch.dataset.logs.entries import Entry, LogFile
from convbatch.dataset.logs.promptfoo_asserts import Check, read_asserts
from convbatch.dataset.logs.promptfoo_config import is_config, read_config, read_test_rows
from convbatch.errors import Issue

_RESULT_COLUMN = re.compile(r"\[(.+?)\] .*", re.DOTALL)
_FIGURES = ("Description", "Status", "Score", "Named Scores", "Grader Reason", "Comment", "_conversation")


def detect(record: Mapping[str, Any]) -> bool:
    """Whether a record is a config, results, a result, or a row of tests or results."""
    return is_config(record) or is_results(record) or is_result(record) or is_test_row(record) or is_result_row(record)


def is_results(record: Mapping[str, Any]) -> bool:
    """Whether a record is the results of an evaluation."""
    held = record.get("results")
    return isinstance(held, dict) and isinstance(held.get("results"), list)


def is_result(record: Mapping[str, Any]) -> bool:
    """Whether a record is one result."""
    prompt = record.get("prompt")
    return (
        isinstance(prompt, dict)
        and "raw" in prompt
        and ("testCase" in record or "vars" in record)
        and "provider" in record
    )


def is_test_row(record: Mapping[str, Any]) -> bool:
    """Whether a record is a row of a table of tests."""
    return any(key.startswith(("__expected", "__metadata:", "__description", "__threshold")) for key in record)


def is_result_row(record: Mapping[str, Any]) -> bool:
    """Whether a record is a row of a table of results."""
    return any(_RESULT_COLUMN.fullmatch(key) for key in record) and all(
        isinstance(value, str) for value in record.values()
    )


def read(files: Iterable[tuple[LogFile, Collector]]) -> None:
    """Read files of promptfoo."""
    for file, collector in files:
        rows: list[tuple[int | None, dict[str, Any]]] = []
        for entry in file.entries():
            if entry.issue is not None:
                collector.problem(entry.issue, entry.line, entry.part)
            elif is_config(entry.value):
                read_config(entry.value, file.path, collector)
            elif is_test_row(entry.value):
                rows.append((entry.line, entry.value))
            elif is_result_row(entry.value):
                _result_row(entry.value, entry.line, collector)
            else:
                _results(entry, collector)
        if rows:
            read_test_rows(rows, collector)


def _results(entry: Entry, collector: Collector) -> None:
    value = entry.value
    evaluation = first_named(value, "evalId")
    if is_result(value):
        _result(value, evaluation, entry.line, entry.part, collector)
        return
    if not is_results(value):
        found = "keys " + ", ".join(map(str, list(value)[:12]))
        hint = "a config has prompts: and tests:, results have results:"
        collector.problem(Issue(what="nothing of promptfoo", found=found, hint=hint), entry.line, entry.part)
        return
    for number, one in enumerate(value["results"]["results"], 1):
        if isinstance(one, dict) and is_result(one):
            _result(one, evaluation, entry.line, f"result {number}", collector)
        else:
            issue = Issue(what="a result of an unknown form", hint="promptfoo eval -o results.json")
            collector.problem(issue, entry.line, f"result {number}")


def chat_of(text: str) -> list[Message] | None:
    """Return the messages of a rendered prompt: a JSON list of messages, else one message of the user."""
    value = read_json(text)
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    if isinstance(value, list) and (messages := read_messages(value)):
        return messages
    return [{"role": "user", "content": text}] if text.strip() else None


def with_checks(messages: list[Message], checks: list[Check]) -> list[Message]:
    """Return messages with checks on the reply to the last one."""
    return (
        [*messages[:-1], {**messages[-1], "checks": checks}] if checks and messages[-1]["role"] == "user" else messages
    )


def _result(
    result: dict[str, Any], evaluation: str | None, line: int | None, part: str | None, collector: Collector
) -> None:
    prompt, test = result["prompt"], result.get("testCase")
    test = test if isinstance(test, dict) else {}
    messages = chat_of(prompt["raw"]) if isinstance(prompt["raw"], str) else read_messages(prompt["raw"])
    if not messages or not any(is_said(message) for message in messages):
        collector.without_content(
            "results have the prompts: promptfoo eval -o results.json, without PROMPTFOO_STRIP_PROMPT_TEXT"
        )
        return
    provider = result["provider"]
    model = first_named(provider, "id", "label") if isinstance(provider, dict) else provider
    response = result.get("response")
    output = response.get("output") if isinstance(response, dict) else response
    checks, kept = read_asserts(test.get("assert"))
    metadata = as_dict(test.get("metadata"))
    conversation = first_named(metadata, "conversationId")
    passed = result.get("success")
    numbers = f"{result.get('promptIdx', 0)}/{result.get('testIdx', line or part)}"
    label = first_named(prompt, "label")
    ident = conversation or f"{evaluation or 'eval'}/{numbers}"
    collector.call(
        LogCall(
            messages=with_checks(messages, checks),
            reply=_output(output),
            line=line,
            part=part,
            session=None if conversation is None else f"{conversation}/{model}/{result.get('promptIdx', 0)}",
            is_alone=conversation is None,
            has_history=True,
            ident=ident,
            time=unix_time(result.get("timestamp")),
            model=model if isinstance(model, str) else None,
            settings=settings_of(prompt.get("config")),
            tags=(
                *([f"prompt:{label}"] if label and len(label) <= 60 and "\n" not in label else ()),
                *(["result:pass" if passed else "result:fail"] if isinstance(passed, bool) else ()),
                *(["status:error"] if result.get("error") and output is None else ()),
            ),
            meta=known(
                evaluation=evaluation,
                description=first_named(test, "description"),
                vars=result.get("vars"),
                **{"assert": kept},
            ),
        )
    )


def _output(output: Any) -> Message | None:
    if isinstance(output, dict | list) and (reply := read_reply(output)) is not None:
        return reply
    if isinstance(output, str):
        calls = read_json(output)
        if isinstance(calls, list) and calls and all(isinstance(one, dict) and "function" in one for one in calls):
            return {"role": "assistant", "content": None, "tool_calls": calls}
        return {"role": "assistant", "content": output} if output.strip() else None
    return None if output is None else {"role": "assistant", "content": str(output)}


_AROUND = (
    "what prompts say around the variable, of which a table of results has only the value; "
    "promptfoo export eval EVAL -o results.json has all"
)


def _result_row(row: dict[str, str], line: int | None, collector: Collector) -> None:
    names = [key for key in row if _RESULT_COLUMN.fullmatch(key)]
    inputs = [
        key
        for key in row
        if key not in names and key not in _FIGURES and not key.startswith("(column") and row[key].strip()
    ]
    if len(inputs) != 1:
        hint = "only the JSON results have the prompts: promptfoo export eval EVAL -o results.json"
        what = f"a table of results with {len(inputs)} variables, and without the prompt they were put into"
        collector.problem(Issue(what=what, hint=hint), line)
        return
    for name in names:
        match = _RESULT_COLUMN.fullmatch(name)
        if not re.search(rf"\] *\{{\{{\s*{re.escape(inputs[0])}\s*\}}\}}\s*$", name):
            collector.other(_AROUND)
        collector.call(
            LogCall(
                messages=[{"role": "user", "content": row[inputs[0]]}],
                reply=_output(row[name]),
                line=line,
                is_alone=True,
                model=None if match is None else match[1],
                ident=row.get("Description") or None,
                tags=_status_beside(row, name),
            )
        )


def _status_beside(row: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return the tag of a reply's own status: each column of replies is followed by its columns of figures."""
    keys = list(row)
    after = "".join(keys[keys.index(name) + 1 :][:1])
    is_figure = after == "Status" or after.startswith("(column")  # the name of a second one is taken
    status = row[after].lower() if is_figure else ""
    if status == "error":
        return "result:fail", "status:error"  # as in the JSON results
    return (f"result:{status}",) if status in ("pass", "fail") else ()
