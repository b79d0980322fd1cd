"""Tool calls of each target: which share names a declared tool with arguments that fit its parameters.

Only dialogues that declare tools count. The share of a vendor's invalid calls is a known sign of a bad deployment.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from convbatch.checks.safe_regex import CheckError, CheckTimeout
from convbatch.checks.tool_calls import call_flaw
from convbatch.checks.values import CalledTool
from convbatch.dataset.snapshot import read_copy
from convbatch.errors import InputError
from convbatch.results.columns import Column
from convbatch.results.parquet import read_rows
from convbatch.results.run import Run

_SHOWN = 160


class TurnCalls(NamedTuple):
    """The calls of one reply of a dialogue that declares tools."""

    tools: Sequence[Mapping[str, Any]]
    calls: Sequence[CalledTool]


def calls_by_turn(run: Run) -> Iterator[TurnCalls | None]:
    """Yield the calls of every turn in table order; None without a reply, and of a dialogue without tools."""
    dialogues = _with_tools(run)
    due = next(dialogues, None)
    if due is None:
        yield from repeat(None)
    for index, finish_reason, text in read_rows(run.turns_path, ("dialogue_index", "finish_reason", "tool_calls")):
        while due is not None and due[0] < index:
            due = next(dialogues, None)
        if due is None or due[0] != index or finish_reason is None:
            yield None
        else:
            calls = [] if text is None else json.loads(text)
            yield TurnCalls(due[1], [CalledTool(name=call["name"], arguments=call["arguments"]) for call in calls])


def _with_tools(run: Run) -> Iterator[tuple[int, Sequence[Mapping[str, Any]]]]:
    try:
        for index, dialogue in read_copy(run.folder.dataset, with_key="tools"):
            if dialogue.tools:
                yield index, dialogue.tools
    except InputError:
        return  # the sums of a run are readable without its dataset


class CallTotals:
    """The tool calls of one target."""

    def __init__(self) -> None:
        self.replies = 0
        self.calls = 0
        self.flaws: Counter[str] = Counter()
        """By kind, as in `CallFlaw`; `unchecked`: the check could not be carried out."""
        self.example: str | None = None

    def add(self, turn: TurnCalls) -> None:
        """Count the calls of a reply."""
        self.replies += 1
        for call in turn.calls:
            self.calls += 1
            try:
                flaw = call_flaw(call, turn.tools)
            except (CheckError, CheckTimeout):
                self.flaws["unchecked"] += 1
                continue
            if flaw is not None:
                self.flaws[flaw.kind] += 1
                self.example = self.example or " ".join(flaw.reason.split())[:_SHOWN]

    @property
    def share(self) -> float | None:
        """Share of valid calls among those that could be checked; None without any."""
        checked = self.calls - self.flaws["unchecked"]
        return 1 - (self.flaws.total() - self.flaws["unchecked"]) / checked if checked else None


def _of(value: Callable[[CallTotals], Any]) -> Callable[[Any], Any]:
    return lambda source: value(source[1])


TOOL_CALLS: tuple[Column, ...] = (
    Column("target", "string", "`model@gateway`", lambda source: source[0]),
    Column("replies", "Int64", "complete replies in dialogues with tools, reused ones too", _of(lambda c: c.replies)),
    Column("calls", "Int64", "tool calls in them", _of(lambda c: c.calls)),
    Column("valid_calls", "Float64", "share of calls that name a declared tool and fit its parameters; null without "
        "a call", _of(lambda c: c.share)),
    Column("undeclared", "Int64", "calls of a tool that the dialogue does not declare",
        _of(lambda c: c.flaws["undeclared"])),
    Column("not_json", "Int64", "calls whose arguments are no JSON object", _of(lambda c: c.flaws["not_json"])),
    Column("schema_errors", "Int64", "calls whose arguments do not fit the declared parameters",
        _of(lambda c: c.flaws["schema_errors"])),
    Column("unchecked", "Int64", "calls whose check took too long: not in the share",
        _of(lambda c: c.flaws["unchecked"])),
    Column("example", "string", "why the first call that is not valid is not; null without one",
        _of(lambda c: c.example), is_long=True),
)  # fmt: skip
"""Columns of the section `tool_calls` after `run`; filled from (target, `CallTotals`)."""
