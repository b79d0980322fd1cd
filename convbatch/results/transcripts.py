"""Transcripts of runs: each dialogue with what the targets replied, the verdicts, and the words for both.

The one reader behind `show` and the report page, which decide layout only: order and words are the same in both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, NamedTuple

from convbatch.console import tables
from convbatch.console.text import printable
from convbatch.dataset.snapshot import read_copy
from convbatch.dataset.tool_script import NoResult, ToolScript
from convbatch.dialogue import Dialogue, ToolResult, Turn
from convbatch.errors import SetupError, nearest
from convbatch.pricing import display_amount, exact
from convbatch.results.cache import read_with_verdicts
from convbatch.results.filters import Filters, Matcher
from convbatch.results.run import Run
from convbatch.results.several import Codec, DialogueReader, Only, matched_dialogues, target_names
from convbatch.tools import ToolCall

_NAMES_KEPT = 10_000
"""Enough for a suggestion."""
_FAILED = frozenset({"error", "pending"})


class TurnRow(NamedTuple):
    """The columns of a row of `turns` that a transcript shows."""

    dialogue_index: int
    target: str
    repeat: int
    turn: int
    user: str
    status: str
    reply: str | None
    thought: str | None
    tool_calls: str | None
    steps: int | None
    media: str | None
    finish_reason: str | None
    finish_reason_raw: str | None
    input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    cost: float | None
    currency: str | None
    latency_s: float | None
    attempts: int
    possibly_paid: int
    error_kind: str | None
    error_message: str | None
    reused_from: str | None


class TranscriptVerdict(NamedTuple):
    """The columns of a verdict that a transcript shows."""

    turn: int | None
    check: str
    kind: str
    passed: bool | None
    reason: str


class CallResult(NamedTuple):
    """What a call of a tool got."""

    line: str
    media: Sequence[str]
    """Paths."""


class TranscriptColumn(NamedTuple):
    """The replies of one target in one repeat of a dialogue, and the verdicts on them."""

    order: tuple[int, int, int]
    """Places of its run and of its target, and its repeat."""
    target: str
    name: str
    turns: dict[int, TurnRow]
    verdicts: Sequence[TranscriptVerdict]
    matches: bool
    """Whether any turn matches the filters."""
    results: Mapping[int, Sequence[CallResult | None]] = {}
    """By turn, of its calls in order; None: not sent, or not known."""

    def has_failed(self, filters: Filters) -> bool:
        """Return whether a check failed, or a turn is `error` or `pending`; by check, only whether that one failed."""
        if not filters.check and any(turn_row.status in _FAILED for turn_row in self.turns.values()):
            return True
        failed = (verdict for verdict in self.verdicts if verdict.passed is False)
        return any(filters.wants_check(verdict.check, verdict.kind) for verdict in failed)

    def verdicts_on(self, turn: int | None) -> list[TranscriptVerdict]:
        """Return the verdicts on a turn; None: on the whole dialogue."""
        return [verdict for verdict in self.verdicts if verdict.turn == turn]

    def to_plain(self) -> list[Any]:
        """Return it as a JSON value."""
        turns, verdicts = map(list, self.turns.values()), map(list, self.verdicts)
        results = [[turn, [one and [*one] for one in of_turn]] for turn, of_turn in self.results.items()]
        return [self.order, self.target, self.name, [*turns], [*verdicts], self.matches, results]

    @classmethod
    def from_plain(cls, plain: list[Any]) -> TranscriptColumn:
        """Read what `to_plain` returned."""
        order, target, name, rows, verdicts, matches, answers = plain
        turns = [TurnRow(*row) for row in rows]
        by_turn = {turn.turn: turn for turn in turns}
        results = {turn: [one and CallResult(*one) for one in of_turn] for turn, of_turn in answers}
        of_checks = [TranscriptVerdict(*verdict) for verdict in verdicts]
        return cls(tuple(order), target, name, by_turn, of_checks, matches, results)


def transcripts(
    runs: Sequence[Run], dialogue_id: str | None, matcher: Matcher
) -> Iterator[tuple[Dialogue, list[TranscriptColumn]]]:
    """Yield each dialogue, or the named one, with the replies to it in all runs."""
    names = target_names(runs)
    if dialogue_id is not None:
        yield _one_transcript(runs, dialogue_id, names, matcher)
        return
    codec = Codec[list[TranscriptColumn]](
        lambda columns: [column.to_plain() for column in columns],
        lambda plain: [TranscriptColumn.from_plain(column) for column in plain],
    )
    readers = [
        DialogueReader(partial(_columns, run, number, names[number], matcher), codec) for number, run in enumerate(runs)
    ]
    of_scripts = Codec(Dialogue.to_plain, Dialogue.from_plain)
    scripts = [DialogueReader(partial(read_copy, run.folder.dataset), of_scripts) for run in runs]
    for _, indexes in matched_dialogues(runs):
        first = next(number for number, index in enumerate(indexes) if index is not None)
        dialogue = scripts[first].find(indexes[first])
        found = [reader.find(index) or [] for reader, index in zip(readers, indexes, strict=True)]
        if dialogue is not None:
            yield dialogue, sorted(chain.from_iterable(found), key=attrgetter("order"))


def _one_transcript(
    runs: Sequence[Run], dialogue_id: str, names: Sequence[Sequence[str]], matcher: Matcher
) -> tuple[Dialogue, list[TranscriptColumn]]:
    """Return the named dialogue with the replies to it in all runs; reads only its rows."""
    found = _places_of(runs, dialogue_id)
    columns: list[TranscriptColumn] = []
    for number, (run, place) in enumerate(zip(runs, found, strict=True)):
        if place is not None:
            only = ("dialogue_index", place[0])
            columns += chain.from_iterable(each for _, each in _columns(run, number, names[number], matcher, only))
    dialogue = next(place[1] for place in found if place is not None)
    return dialogue, sorted(columns, key=attrgetter("order"))


def _columns(
    run: Run, place: int, names: Sequence[str], matcher: Matcher, only: Only = None
) -> Iterator[tuple[int, list[TranscriptColumn]]]:
    """Yield the replies of a run to each dialogue, in table order."""
    mask = matcher.mask(run, only=only)
    scripts = _Scripts(run)
    conversations = read_with_verdicts(run.turns_path, TurnRow._fields, TranscriptVerdict._fields, only=only)
    for index, group in groupby(conversations, key=lambda pair: pair[0][0][0]):
        columns: list[TranscriptColumn] = []
        for rows, verdicts in group:
            turns = [TurnRow(*row) for row in rows]
            target, repeat = turns[0].target, turns[0].repeat
            number = run.targets.index(target)
            columns.append(
                TranscriptColumn(
                    order=(place, number, repeat),
                    target=target,
                    name=names[number] if repeat == 1 else f"{names[number]} (repeat {repeat})",
                    turns={turn.turn: turn for turn in turns},
                    verdicts=[TranscriptVerdict(*verdict) for verdict in verdicts],
                    matches=any([does for _, does in zip(turns, mask, strict=False)]),
                    results=scripts.results(index, turns),
                )
            )
        yield index, columns


class _Scripts:
    """Reads the results that calls got from the dialogues of a run, asked for in order."""

    def __init__(self, run: Run) -> None:
        self._copy = read_copy(run.folder.dataset)
        self._last: tuple[int, Dialogue] | None = None

    def results(self, index: int, turns: Sequence[TurnRow]) -> Mapping[int, Sequence[CallResult | None]]:
        """Return the results of the calls of a conversation, by turn."""
        if all(turn.tool_calls is None for turn in turns):
            return {}
        if self._last is None or self._last[0] != index:
            self._last = next((pair for pair in self._copy if pair[0] == index), None)
        return {} if self._last is None else dict(_call_results(self._last[1], turns))


def _call_results(dialogue: Dialogue, turns: Sequence[TurnRow]) -> Iterator[tuple[int, list[CallResult | None]]]:
    """Yield the results of each turn's calls, by the rule of the run; none behind a step that cannot be told."""
    script = ToolScript(dialogue)
    for turn in turns:
        calls = [ToolCall(**call) for call in json.loads(turn.tool_calls or "[]")]
        results: list[CallResult | None] = []
        try:
            results += [_call_result(script.answer([call])[0]) for call in calls[: _answered(turn, len(calls))]]
        except NoResult:  # an earlier step is lost
            return
        yield turn.turn, [*results, *([None] * (len(calls) - len(results)))]
        if turn.finish_reason == "tool_call" and len(calls) > (turn.steps or 1) > 1:
            return


def _answered(turn: TurnRow, calls: int) -> int:
    """Return how many of a turn's calls got a result for sure: a turn can end with calls that got none."""
    if turn.finish_reason != "tool_call":
        return calls
    steps = turn.steps or 1
    return calls - 1 if calls == steps else 0


def _call_result(result: ToolResult) -> CallResult:
    value = result.value if isinstance(result.value, str) else json.dumps(result.value, ensure_ascii=False)
    media = [part.path or part.uri or "" for part in result.media]
    return CallResult(f"result of {result.call.name}: {'error ' if result.is_error else ''}{value}", media)


def _places_of(runs: Sequence[Run], dialogue_id: str) -> list[tuple[int, Dialogue] | None]:
    """Return the dialogue and its index in each run, None where a run lacks it.

    Raises:
        SetupError: No run has it.
    """
    names: list[str] = []
    places = [_place_of(run, dialogue_id, names) for run in runs]
    if any(place is not None for place in places):
        return places
    close = nearest(dialogue_id, names)
    examples = "in this run: " + ", ".join(map(printable, names[:5])) + (", …" if len(names) > 5 else "")
    hint = examples if close is None else f"did you mean {close!r}? {examples}"
    raise SetupError(f"no dialogue {dialogue_id!r} in this run, and no run of this name", hint=hint)


def _place_of(run: Run, dialogue_id: str, names: list[str]) -> tuple[int, Dialogue] | None:
    for index, dialogue in read_copy(run.folder.dataset):
        if dialogue.id == dialogue_id:
            return index, dialogue
        if len(names) < _NAMES_KEPT:
            names.append(dialogue.id)
    return None


def scripted(turn: Turn) -> Iterator[tuple[str, str]]:
    """Yield the scripted calls of a turn with their results, and its scripted reply."""
    label = "  script" if turn.ask else "  given"
    for result in (result for step in turn.tool_calls for result in step):
        arguments, value = (json.dumps(one, ensure_ascii=False) for one in (result.call.arguments, result.value))
        yield label, f"calls {result.call.name} {arguments}: {'error ' if result.is_error else ''}{value}"
    if turn.assistant is not None:
        yield label, turn.assistant


def call_lines(turn_row: TurnRow) -> list[str]:
    """Return a line for each tool call of a reply."""
    lines: list[str] = []
    for call in json.loads(turn_row.tool_calls or "[]"):
        arguments = call["arguments"]
        said = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        lines.append(f"calls {call['name']} {said}")
    return lines


def verdict_lines(verdicts: Sequence[TranscriptVerdict]) -> Iterator[tuple[bool | None, str]]:
    """Yield one line for all passed checks, and one with the reason for each other check; with what it says."""
    passed = [verdict.check for verdict in verdicts if verdict.passed]
    if passed:
        yield True, f"passed: {', '.join(passed)}"
    for verdict in verdicts:
        if verdict.passed is not True:
            what = "no verdict" if verdict.passed is None else "failed"
            yield verdict.passed, f"{what}: {verdict.check}: {verdict.reason}"


def facts(turn_row: TurnRow) -> list[str]:
    """Return what the line below a reply says: status, reason, tokens, cost, time."""
    reason = turn_row.finish_reason
    if reason is not None and turn_row.finish_reason_raw not in (None, reason, reason.upper()):
        reason = f"{reason} ({turn_row.finish_reason_raw})"
    input_tokens, output_tokens = tables.number_text(turn_row.input_tokens), tables.number_text(turn_row.output_tokens)
    thinking = f" ({turn_row.reasoning_tokens:,} reasoning)" if turn_row.reasoning_tokens else ""
    found = [
        turn_row.status,
        reason,
        ": ".join(part for part in (turn_row.error_kind, turn_row.error_message) if part is not None),
        None if reason is None else f"{input_tokens} in, {output_tokens} out{thinking}",
        None if turn_row.cost is None else f"{display_amount(exact(turn_row.cost))} {turn_row.currency}",
        None if turn_row.latency_s is None else f"{tables.number_text(turn_row.latency_s)} s",
        f"{turn_row.steps} steps" if (turn_row.steps or 1) > 1 else None,
        f"{turn_row.attempts} attempts" if turn_row.attempts > (turn_row.steps or 1) else None,
        f"{turn_row.possibly_paid} possibly paid" if turn_row.possibly_paid else None,
        None if turn_row.reused_from is None else f"reused from {turn_row.reused_from}",
    ]
    return [fact for fact in found if fact]
