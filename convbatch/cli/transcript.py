"""Print transcripts: the script, the replies of each target side by side, and under each reply its verdicts.

Only layout is decided here: replies and verdicts come from `results/`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, groupby
from operator import attrgetter
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from convbatch.console import tables
from convbatch.console.pictures import picture_protocol, picture_text
from convbatch.console.text import printable
from convbatch.dataset.snapshot import read_copy
from convbatch.dialogue import Dialogue, Turn
from convbatch.errors import SetupError, did_you_mean, nearest
from convbatch.journal.media_store import read_media
from convbatch.pricing import display_amount, exact
from convbatch.results.cache import read_with_verdicts
from convbatch.results.filters import Filters, Matcher
from convbatch.results.run import Run, load
from convbatch.results.several import Codec, DialogueReader, Only, matched_dialogues, target_names

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from convbatch.console.transcript_layout import Piece

_BETWEEN = " · "
_NAMES_KEPT = 10_000
"""Enough for a suggestion."""
_FAILED = frozenset({"error", "pending"})


def split_dialogue(arguments: Sequence[str]) -> tuple[Sequence[str], str | None]:
    """Return the runs of `RUN... [DIALOGUE]`, and the dialogue: the last argument, unless only a run has its name.

    Raises:
        SetupError: The last argument names neither.
    """
    *names, last = arguments
    if not names:
        return arguments, None
    if any(dialogue.id == last for _, dialogue in read_copy(load(names[0]).folder.dataset)):
        return names, last
    try:
        load(last)
    except SetupError:
        return names, last  # the error names the nearest dialogue
    return arguments, None


def print_transcript(
    runs: Sequence[Run],
    dialogue_id: str | None = None,
    matcher: Matcher | None = None,
    *,
    failed: bool = False,
    target: str | None = None,
    file: IO[str] | None = None,
) -> int:
    """Print transcripts, dialogue by dialogue, the targets side by side if the terminal is wide enough.

    Args:
        runs: The runs; their dialogues are matched by id.
        dialogue_id: Only this dialogue.
        matcher: Only conversations with a turn that matches.
        failed: Only conversations with a failed check, or a turn that is `error` or `pending`; with a filter by check,
            only those that failed this check.
        target: Only this target.
        file: Where to print; default stdout.

    Returns:
        The number of dialogues printed.

    Raises:
        SetupError: No such dialogue or target in these runs.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.targets))
    if target is not None and target not in known:
        raise SetupError(f"no target {target!r} in this run", hint=did_you_mean(target, known))
    matcher = matcher or Matcher(Filters())
    console = tables.console(file)
    printed = 0
    for dialogue, columns in _transcripts(runs, dialogue_id, matcher):
        chosen = [
            column
            for column in columns
            if column.matches and target in (None, column.target) and (not failed or column.has_failed(matcher.filters))
        ]
        if chosen:
            _print_dialogue(console, dialogue, chosen)
            _print_pictures(console, runs, chosen)
            printed += 1
    return printed


class _TurnRow(NamedTuple):
    """The columns of a row that a transcript shows."""

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


class _Verdict(NamedTuple):
    """The columns of a verdict that a transcript shows."""

    turn: int | None
    check: str
    kind: str
    passed: bool | None
    reason: str


class _TranscriptColumn(NamedTuple):
    """The replies of one target in one repeat of a dialogue, and the verdicts on them."""

    order: tuple[int, int, int]
    """Places of its run and of its target, and its repeat."""
    target: str
    name: str
    turns: dict[int, _TurnRow]
    verdicts: Sequence[_Verdict]
    matches: bool
    """Whether any turn matches the filters."""

    def has_failed(self, filters: Filters) -> bool:
        if not filters.check and any(turn_row.status in _FAILED for turn_row in self.turns.values()):
            return True
        failed = (verdict for verdict in self.verdicts if verdict.passed is False)
        return any(filters.wants_check(verdict.check, verdict.kind) for verdict in failed)

    def verdicts_on(self, turn: int | None) -> list[_Verdict]:
        return [verdict for verdict in self.verdicts if verdict.turn == turn]

    def to_plain(self) -> list[Any]:
        """Return it as a JSON value."""
        turns, verdicts = map(list, self.turns.values()), map(list, self.verdicts)
        return [self.order, self.target, self.name, [*turns], [*verdicts], self.matches]

    @classmethod
    def from_plain(cls, plain: list[Any]) -> _TranscriptColumn:
        """Read what `to_plain` returned."""
        order, target, name, rows, verdicts, matches = plain
        turns = [_TurnRow(*row) for row in rows]
        by_turn = {turn.turn: turn for turn in turns}
        return cls(tuple(order), target, name, by_turn, [_Verdict(*verdict) for verdict in verdicts], matches)


def _transcripts(
    runs: Sequence[Run], dialogue_id: str | None, matcher: Matcher
) -> Iterator[tuple[Dialogue, list[_TranscriptColumn]]]:
    """Yield each dialogue, or the named one, with the replies to it in all runs."""
    names = target_names(runs)
    if dialogue_id is not None:
        yield _one_transcript(runs, dialogue_id, names, matcher)
        return
    codec = Codec[list[_TranscriptColumn]](
        lambda columns: [column.to_plain() for column in columns],
        lambda plain: [_TranscriptColumn.from_plain(column) for column in plain],
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
) -> tuple[Dialogue, list[_TranscriptColumn]]:
    """Return the named dialogue with the replies to it in all runs; reads only its rows."""
    found = _places_of(runs, dialogue_id)
    columns: list[_TranscriptColumn] = []
    for number, (run, place) in enumerate(zip(runs, found, strict=True)):
        if place is not None:
            only = ("dialogue_index", place[0])
            columns += chain.from_iterable(each for _, each in _columns(run, number, names[number], matcher, only))
    dialogue = next(place[1] for place in found if place is not None)
    return dialogue, sorted(columns, key=attrgetter("order"))


def _columns(
    run: Run, place: int, names: Sequence[str], matcher: Matcher, only: Only = None
) -> Iterator[tuple[int, list[_TranscriptColumn]]]:
    """Yield the replies of a run to each dialogue, in table order."""
    mask = matcher.mask(run, only=only)
    conversations = read_with_verdicts(run.turns_path, _TurnRow._fields, _Verdict._fields, only=only)
    for index, group in groupby(conversations, key=lambda pair: pair[0][0][0]):
        columns: list[_TranscriptColumn] = []
        for rows, verdicts in group:
            turns = [_TurnRow(*row) for row in rows]
            target, repeat = turns[0].target, turns[0].repeat
            number = run.targets.index(target)
            columns.append(
                _TranscriptColumn(
                    order=(place, number, repeat),
                    target=target,
                    name=names[number] if repeat == 1 else f"{names[number]} (repeat {repeat})",
                    turns={turn.turn: turn for turn in turns},
                    verdicts=[_Verdict(*verdict) for verdict in verdicts],
                    matches=any([does for _, does in zip(turns, mask, strict=False)]),
                )
            )
        yield index, columns


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


def _print_dialogue(console: Console, dialogue: Dialogue, columns: Sequence[_TranscriptColumn]) -> None:
    from rich.text import Text

    lines = Text("\n", no_wrap=True, overflow="ignore").join(_lines(dialogue, columns, console.width))
    console.print(lines, soft_wrap=True)
    console.print()


def _print_pictures(console: Console, runs: Sequence[Run], columns: Sequence[_TranscriptColumn]) -> None:
    """Print the pictures of the replies, where the terminal shows pictures."""
    protocol = picture_protocol(os.environ) if console.is_terminal else None
    if protocol is None:
        return
    for column in columns:
        for turn_row in column.turns.values():
            for path in json.loads(turn_row.media or "[]"):
                with contextlib.suppress(SetupError):  # lost: its name stands above
                    content = read_media(runs[column.order[0]].folder.path, path)
                    if (shown := picture_text(content, protocol)) is not None:
                        console.print(tables.single_line_text(f"{turn_row.turn} {column.name} {path}", "dim"))
                        console.file.write(shown)


def _lines(dialogue: Dialogue, columns: Sequence[_TranscriptColumn], width: int) -> Iterator[Text]:
    """Yield the lines of a dialogue: its script, and below each turn what the targets replied."""
    from convbatch.console.transcript_layout import beside, labelled, title_line

    def line(label: str, text: str, style: str) -> Iterator[Text]:
        return labelled(tables.single_line_text(label, "dim"), tables.multiline_text(text, style), width)

    def replies(number: int, user: str | None) -> Iterator[Text]:
        cells = [_reply(column, column.turns[number], user) for column in columns if number in column.turns]
        return beside(cells, width) if cells else iter(())

    title = dialogue.id + (f"  [{', '.join(dialogue.tags)}]" if dialogue.tags else "")
    yield title_line(tables.single_line_text(title, "bold"), width)
    if dialogue.system is not None:
        yield from line("system", dialogue.system, "dim")
    for number, turn in enumerate(dialogue.turns, 1):
        media = "".join(f" <{part.path or part.uri}>" for part in turn.user if part.kind != "text")
        yield from line(f"{number} user", turn.user_text + media, "bold")
        for label, text in _scripted(turn):
            yield from line(label, text, "dim")
        yield from replies(number, turn.user_text)
    asked = {number for column in columns for number in column.turns}
    for number in sorted(asked - set(range(len(dialogue.turns) + 1))):  # the dialogue is longer in another run
        yield from replies(number, None)
    whole = [(column, verdicts) for column in columns if (verdicts := column.verdicts_on(None))]
    if whole:
        yield from line("dialogue", "", "dim")
        yield from beside([[_name(column), *_verdict_lines(verdicts)] for column, verdicts in whole], width)


def _scripted(turn: Turn) -> Iterator[tuple[str, str]]:
    """Yield the scripted calls of a turn with their results, and its scripted reply."""
    label = "  script" if turn.ask else "  given"
    for result in (result for step in turn.tool_calls for result in step):
        arguments, value = (json.dumps(one, ensure_ascii=False) for one in (result.call.arguments, result.value))
        yield label, f"calls {result.call.name} {arguments}: {'error ' if result.is_error else ''}{value}"
    if turn.assistant is not None:
        yield label, turn.assistant


def _reply(column: _TranscriptColumn, turn_row: _TurnRow, user: str | None) -> list[Piece]:
    from convbatch.console.transcript_layout import Piece

    texts: list[Text] = []
    if turn_row.user != user:
        texts.append(tables.multiline_text(f"turn {turn_row.turn} of this run: {turn_row.user}", "bold"))
    if turn_row.thought:
        texts.append(tables.single_line_text(f"(thought: {len(turn_row.thought):,} characters)", "dim"))
    for call in json.loads(turn_row.tool_calls or "[]"):
        arguments = call["arguments"]
        said = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        texts.append(tables.single_line_text(f"calls {call['name']} {said}", "cyan"))
    if turn_row.reply is not None:
        texts.append(tables.multiline_text(turn_row.reply))
    texts += [tables.single_line_text(path, "cyan") for path in json.loads(turn_row.media or "[]")]
    facts = tables.single_line_text(_BETWEEN.join(_facts(turn_row)), tables.STATUS_STYLES[turn_row.status])
    verdicts = _verdict_lines(column.verdicts_on(turn_row.turn))
    return [_name(column), *map(Piece, texts), Piece(facts, between=_BETWEEN), *verdicts]


def _verdict_lines(verdicts: Sequence[_Verdict]) -> Iterator[Piece]:
    """Yield one quiet line for all passed checks, and one with the reason for each other check."""
    from convbatch.console.transcript_layout import Piece

    passed = [verdict.check for verdict in verdicts if verdict.passed]
    if passed:
        yield Piece(tables.single_line_text(f"passed: {', '.join(passed)}", "dim"))
    for verdict in verdicts:
        if verdict.passed is False:
            yield Piece(tables.single_line_text(f"failed: {verdict.check}: {verdict.reason}", "red"))
        elif verdict.passed is None:
            yield Piece(tables.single_line_text(f"no verdict: {verdict.check}: {verdict.reason}", "yellow"))


def _name(column: _TranscriptColumn) -> Piece:
    from convbatch.console.transcript_layout import Piece

    return Piece(tables.single_line_text(column.name, "cyan"), is_whole=True)


def _facts(turn_row: _TurnRow) -> list[str]:
    """Return what the line below a reply says: status, reason, tokens, cost, time."""
    reason = turn_row.finish_reason
    if reason is not None and turn_row.finish_reason_raw not in (None, reason, reason.upper()):
        reason = f"{reason} ({turn_row.finish_reason_raw})"
    input_tokens, output_tokens = tables.number_text(turn_row.input_tokens), tables.number_text(turn_row.output_tokens)
    thinking = f" ({turn_row.reasoning_tokens:,} reasoning)" if turn_row.reasoning_tokens else ""
    facts = [
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
    return [fact for fact in facts if fact]
