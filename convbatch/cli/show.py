"""Print runs: the closing table, rows, targets side by side, transcripts, the list of runs.

Only layout is decided here: every number comes from `results/`. External text passes `printable` before it reaches a
terminal. A table that goes to a pipe or a file is plain CSV instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby, islice
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from convbatch.console import tables
from convbatch.console.text import ignoring_broken_pipe, printable, printable_json
from convbatch.dataset.reader import count_of
from convbatch.dataset.snapshot import read_copy
from convbatch.dialogue import Dialogue
from convbatch.errors import SetupError, did_you_mean, nearest
from convbatch.pricing import display_amount, exact
from convbatch.results.export import csv_lines, json_bytes
from convbatch.results.parquet import Rows, read_rows, side_by_side
from convbatch.results.run import Run
from convbatch.results.summary import TargetSummary

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

CHUNK_ROWS = 200
"""Rows laid out together; later chunks keep the widths of the first, so that memory does not grow with the table."""
WIDE_CELL_LINES = 4
SIDE_BY_SIDE_WIDTH = 36
"""Columns narrower than this are stacked."""
_STYLES = {
    "ok": "green",
    "blocked": "yellow",
    "empty": "yellow",
    "error": "red",
    "pending": "magenta",
    "skipped": "dim",
}
_FAILED = frozenset({"error", "pending"})
_COLUMNS = ("dialogue", "target", "repeat", "turn", "status", "finish_reason", "output_tokens", "latency_s")
"""Columns before the reply."""
_NAMES = 2
"""How many of them are names, which move above their rows if the reply would get too little room."""
_NUMBERS = ("repeat", "turn", "output_tokens", "latency_s")
_HEADINGS = {"finish_reason": "finish", "output_tokens": "out", "latency_s": "s", "repeat": "rep"}
REPLY_WIDTH = 30
REPLY_READ = 2_000
"""Characters of a reply that are laid out; the rest would be cut off anyway."""


def state_notes(run: Run) -> list[str]:
    """Return notes on damage in the journal and on suspended targets."""
    notes = [f"note: {target} is suspended: {reason}" for target, reason in run.suspended.items()]
    if run.damaged_places:
        what = f"note: {run.damaged_places} damaged places in the journal are left out"
        notes.insert(0, f"{what}; `convbatch resume --salvage`")
    return notes


def print_summary(summaries: Sequence[TargetSummary], *, file: IO[str] | None = None) -> None:
    """Print the closing table, a row per target, and notes below it.

    Args:
        summaries: From `Run.summary`.
        file: Where to print; default stdout.
    """
    console = tables.console(file)
    table = tables.make_table("target", *((name, "right") for name in _SUMMARY))
    priced = any(total.spent is not None or not total.simulated for total in summaries)
    currencies = {total.currency for total in summaries if total.currency is not None}
    if priced:  # the simulator costs nothing: a column of dashes would be noise
        table.add_column(
            tables.single_line_text(currencies.copy().pop() if len(currencies) == 1 else "cost", "bold"),
            justify="right",
        )
    judged = any(total.judged or total.undecided for total in summaries)
    if judged:
        table.add_column(tables.single_line_text("passed", "bold"), justify="right")
    for total in summaries:
        cells: list[RenderableType] = [tables.number_text(cell(total)) for cell in _SUMMARY.values()]
        if priced:
            cells.append(_spent(total, len(currencies) > 1))
        if judged:
            cells.append(tables.single_line_text(f"{total.passed:,}/{total.judged:,}"))
        table.add_row(tables.single_line_text(total.target), *cells)
    console.print(table)
    for note in chain.from_iterable(map(_notes, summaries)):
        tables.print_note(console, note)
    simulated = [total.target for total in summaries if total.simulated]
    if simulated:
        tables.print_note(console, f"SIMULATED, no model was asked: {', '.join(simulated)}", "bold")


def print_figures(headings: Sequence[str], rows: Sequence[Sequence[str]], *, file: IO[str] | None = None) -> None:
    """Print a table whose first two columns are text and whose other columns are figures."""
    grid = tables.make_table(*headings[:2], *((name, "right") for name in headings[2:]))
    for row in rows:
        grid.add_row(*map(tables.single_line_text, row))
    tables.console(file).print(grid)


def print_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    with ignoring_broken_pipe():
        print(printable_json(json_bytes(value).decode()), end="")  # noqa: T201  # the command's output


def print_lines(texts: Sequence[str], *, file: IO[str] | None = None) -> None:
    """Print lines, wrapped between words on a terminal."""
    console = tables.console(file)
    for text in texts:
        tables.print_note(console, text)


def print_table(run: Run, *, file: IO[str] | None = None) -> None:
    """Print the rows of a run: the most important columns on a terminal, all columns as CSV elsewhere."""
    if not _is_terminal(file):
        _print_csv(run.turn_rows(), file)
        return
    console = tables.console(file)
    hidden = {"repeat"} if run.manifest.repeats == 1 else set[str]()
    if console.width < 100:
        hidden.add("latency_s")
    names = [name for name in (*_COLUMNS, "reply") if name not in hidden]
    rows = read_rows(run.turns_path, (*names, "error_message"))
    _print_in_chunks(console, names, (_with_reason(row) for row in rows))


def print_wide(run: Run, value: str = "reply", *, file: IO[str] | None = None) -> None:
    """Print the targets side by side: a few lines per cell on a terminal, whole cells as CSV elsewhere.

    Raises:
        SetupError: `value` is not a column of the wide table.
    """
    rows = run.wide_rows(value)
    if not _is_terminal(file):
        _print_csv(rows, file)
        return
    console = tables.console(file)
    room = WIDE_CELL_LINES * max(8, (console.width - 34) // len(run.targets))
    paired = zip(rows.rows, side_by_side(run.turns_path, "status", run.targets), strict=True)
    while chunk := list(islice(paired, CHUNK_ROWS)):
        names = range(len(rows.columns) - len(run.targets))
        targets = range(len(names), len(rows.columns))
        headings = [column.name for column in rows.columns]
        grid = tables.make_table(*headings, lines=True, stack=names, prose=targets, whole_words=False)
        for row, statuses in chunk:
            grid.add_row(*(_wide_cell(cell, status, room) for cell, status in zip(row, statuses, strict=True)))
        console.print(grid)


def print_transcript(
    run: Run,
    dialogue_id: str | None = None,
    *,
    failed: bool = False,
    target: str | None = None,
    file: IO[str] | None = None,
) -> int:
    """Print transcripts, dialogue by dialogue, the targets side by side if the terminal is wide enough.

    Args:
        run: The run.
        dialogue_id: Only this dialogue.
        failed: Only conversations with a turn that is `error` or `pending`.
        target: Only this target.
        file: Where to print; default stdout.

    Returns:
        The number of dialogues printed.

    Raises:
        SetupError: No such dialogue or target in this run.
    """
    if target is not None and target not in run.targets:
        raise SetupError(f"no target {target!r} in this run", hint=did_you_mean(target, run.targets))
    console = tables.console(file)
    printed = 0
    for dialogue, columns in _transcripts(run, dialogue_id):
        chosen = [column for column in columns if target in (None, column.target) and (not failed or column.has_failed)]
        if chosen:
            _print_dialogue(console, dialogue, chosen, run.targets)
            printed += 1
    return printed


_SUMMARY: dict[str, Callable[[TargetSummary], float | None]] = {
    "ok": lambda total: total.ok,
    "blocked": lambda total: total.blocked,
    "empty": lambda total: total.empty,
    "failed": lambda total: total.error,
    "input": lambda total: total.input_tokens,
    "output": lambda total: total.output_tokens,
    "p50 s": lambda total: total.p50_latency_s,
    "p95 s": lambda total: total.p95_latency_s,
}


def _lacks_price(total: TargetSummary) -> bool:
    """Whether costs are missing; for the simulator only if some of its replies have a price."""
    return bool(total.unpriced) and (total.spent is not None or not total.simulated)


def _spent(total: TargetSummary, with_currency: bool) -> str:
    if total.spent is None:
        return tables.NONE
    return display_amount(total.spent) + (f" {total.currency}" if with_currency else "")


def _possibly_paid(total: TargetSummary) -> str:
    if total.at_most is None or total.currency is None:
        return f"{total.possibly_paid:,} possibly paid"
    return f"{total.possibly_paid:,} possibly paid (at most {display_amount(total.at_most)} {total.currency} more)"


def _notes(total: TargetSummary) -> Iterator[str]:
    answered = total.turns - total.skipped - total.pending
    unfit = total.error + total.pending - total.open
    notes = [
        f"{total.pending:,} pending" if total.pending else "",
        f"{unfit:,} failed for good: the dialogue no longer fits the model" if unfit else "",
        f"{total.skipped:,} skipped" if total.skipped else "",
        f"{total.reused:,} reused" if total.reused else "",
        f"{total.attempts:,} attempts" if total.attempts > answered - total.reused else "",
        _possibly_paid(total) if total.possibly_paid else "",
        f"{total.tokens_unknown:,} without token counts" if total.tokens_unknown else "",
        f"{count_of(total.undecided, 'dialogue')} neither passed nor failed" if total.undecided else "",
        f"{total.reasoning_tokens:,} of the output tokens are reasoning" if total.reasoning_tokens else "",
        f"{total.unpriced:,} without a cost (see `convbatch report`)" if _lacks_price(total) else "",
    ]
    if any(notes):
        yield f"{total.target}: " + ", ".join(filter(None, notes))
    yield from total.served_notes


class _TurnRow(NamedTuple):
    """The columns of a row that a transcript shows."""

    dialogue_index: int
    target: str
    repeat: int
    turn: int
    status: str
    reply: str | None
    thought: str | None
    tool_calls: str | None
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


class _TranscriptColumn(NamedTuple):
    """The replies of one target in one repeat of a dialogue."""

    target: str
    repeat: int
    turns: dict[int, _TurnRow]

    @property
    def has_failed(self) -> bool:
        return any(turn_row.status in _FAILED for turn_row in self.turns.values())


def _transcripts(run: Run, dialogue_id: str | None) -> Iterator[tuple[Dialogue, list[_TranscriptColumn]]]:
    """Yield each dialogue, or the named one, with the replies to it."""
    wanted = None if dialogue_id is None else _index_of(run, dialogue_id)
    only = None if wanted is None else ("dialogue_index", wanted)
    rows = (_TurnRow(*row) for row in read_rows(run.turns_path, _TurnRow._fields, only=only))
    by_dialogue = groupby(rows, key=lambda row: row.dialogue_index)
    due = next(by_dialogue, None)
    for index, dialogue in read_copy(run.folder.dataset):
        if due is None:
            return
        if due[0] == index:
            groups = groupby(due[1], key=lambda row: (row.target, row.repeat))
            yield dialogue, [_TranscriptColumn(*key, {row.turn: row for row in group}) for key, group in groups]
            due = next(by_dialogue, None)


def _index_of(run: Run, dialogue_id: str) -> int:
    names: list[str] = []
    for index, dialogue in read_copy(run.folder.dataset):
        if dialogue.id == dialogue_id:
            return index
        if len(names) < 10_000:  # enough for a suggestion
            names.append(dialogue.id)
    close = nearest(dialogue_id, names)
    examples = "in this run: " + ", ".join(map(printable, names[:5])) + (", …" if len(names) > 5 else "")
    hint = examples if close is None else f"did you mean {close!r}? {examples}"
    raise SetupError(f"no dialogue {dialogue_id!r} in this run", hint=hint)


def _print_dialogue(
    console: Console, dialogue: Dialogue, columns: Sequence[_TranscriptColumn], targets: Sequence[str]
) -> None:
    from rich.rule import Rule

    columns = sorted(columns, key=lambda column: (targets.index(column.target), column.repeat))
    title = dialogue.id + (f"  [{', '.join(dialogue.tags)}]" if dialogue.tags else "")
    console.print(Rule(tables.single_line_text(title, "bold"), align="left", characters="─"))
    if dialogue.system is not None:
        console.print(_line("system", dialogue.system, "dim"))
    for number, turn in enumerate(dialogue.turns, 1):
        media = "".join(f" <{part.kind}>" for part in turn.user if part.kind != "text")
        console.print(_line(f"{number} user", turn.user_text + media, "bold"))
        if turn.assistant is not None:
            console.print(_line("  script" if turn.ask else "  given", turn.assistant, "dim"))
        _print_replies(console, [(column, column.turns[number]) for column in columns if number in column.turns])
    console.print()


def _print_replies(console: Console, replies: Sequence[tuple[_TranscriptColumn, _TurnRow]]) -> None:
    if not replies:
        return
    width = (console.width - 2) // len(replies) - 2
    if len(replies) == 1 or width < SIDE_BY_SIDE_WIDTH:
        for column, turn_row in replies:
            console.print(_indented(_reply(column, turn_row)))
        return
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in replies:
        grid.add_column(width=width, overflow="fold")
    grid.add_row(*(_reply(column, turn_row) for column, turn_row in replies))
    console.print(_indented(grid))


def _reply(column: _TranscriptColumn, turn_row: _TurnRow) -> Text:
    from rich.text import Text

    name = column.target if column.repeat == 1 else f"{column.target} (repeat {column.repeat})"
    parts = [tables.single_line_text(name, "cyan")]
    if turn_row.thought:
        parts.append(tables.single_line_text(f"(thought: {len(turn_row.thought):,} characters)", "dim"))
    if turn_row.reply is not None:
        parts.append(tables.multiline_text(turn_row.reply))
    if turn_row.tool_calls is not None:
        parts.append(tables.single_line_text(f"calls {turn_row.tool_calls}"))
    parts.append(tables.single_line_text(_facts(turn_row), _STYLES[turn_row.status]))
    return Text("\n").join(parts)


def _facts(turn_row: _TurnRow) -> str:
    """Return the line below a reply: status, reason, tokens, cost, time."""
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
        f"{turn_row.attempts} attempts" if turn_row.attempts > 1 else None,
        f"{turn_row.possibly_paid} possibly paid" if turn_row.possibly_paid else None,
        None if turn_row.reused_from is None else f"reused from {turn_row.reused_from}",
    ]
    return " · ".join(fact for fact in facts if fact)


def _print_in_chunks(console: Console, names: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
    """Print a table of one-line rows; the last column gets the remaining width and is cut to it."""
    titles = [_HEADINGS.get(name, name) for name in names]
    widths: list[int] = []
    stacked = False
    while chunk := [[*map(_plain, cells), _plain(reply)[:REPLY_READ]] for *cells, reply in islice(rows, CHUNK_ROWS)]:
        grid = tables.make_table(
            *((title, "right" if name in _NUMBERS else "left") for title, name in zip(titles, names, strict=True)),
            stack=range(_NAMES),
            above=_NAMES if stacked else 0,
        )
        if not widths:
            *widths, reply_width = _widths([titles, *chunk])
            stacked = sum(widths) + len(widths) + min(reply_width, REPLY_WIDTH) > console.width
            grid.above = _NAMES if stacked else 0
        else:
            grid.show_header = False
        beside = widths[_NAMES:] if stacked else widths
        room = max(REPLY_WIDTH, console.width - sum(beside) - 2 * len(beside) - 2 * stacked)
        for column, width in zip(grid.columns, widths, strict=False):
            column.min_width = width
        for *cells, reply in chunk:
            cut = tables.single_line_text(reply)
            cut.truncate(room, overflow="ellipsis")
            grid.add_row(*map(tables.single_line_text, cells), cut)
        console.print(grid)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the widths of the columns."""
    from rich.cells import cell_len

    return [max(map(cell_len, map(printable, column))) for column in zip(*rows, strict=True)]


def _with_reason(row: Sequence[Any]) -> Sequence[Any]:
    """Return the row without its last cell, the error message, which replaces a missing reply."""
    *cells, reply, reason = row
    return [*cells, reason if reply is None and reason is not None else reply]


def _print_csv(rows: Rows, file: IO[str] | None) -> None:
    (file or sys.stdout).writelines(csv_lines(rows))


def _is_terminal(file: IO[str] | None) -> bool:
    return (file or sys.stdout).isatty()


def _line(label: str, text: str, style: str) -> Table:
    """Return a label with its text, which is wrapped beside it."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=9)
    grid.add_column(overflow="fold")
    grid.add_row(tables.single_line_text(label, "dim"), tables.multiline_text(text, style))
    return grid


def _indented(content: RenderableType) -> RenderableType:
    from rich.padding import Padding

    return Padding(content, (0, 0, 0, 2), expand=False)


def _wide_cell(cell: Any, status: Any, room: int) -> Text:
    """Return a cell of the wide table; the status of the row if there is no value."""
    if cell is None:
        return (
            tables.single_line_text(tables.NONE)
            if status is None
            else tables.single_line_text(f"({status})", _STYLES[status])
        )
    text = _plain(cell)
    return tables.single_line_text(text if len(text) <= room else text[: room - 1] + "…")


def _plain(cell: Any) -> str:
    return cell if isinstance(cell, str) else tables.number_text(cell)
