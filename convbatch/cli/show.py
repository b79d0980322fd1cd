"""Print runs: the closing table, rows, and the targets side by side.

Only layout is decided here: every number comes from `results/`. External text passes `printable` before it reaches a
terminal. A table that goes to a pipe or a file is plain CSV instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, compress, islice
from typing import IO, TYPE_CHECKING, Any

from convbatch.console import tables
from convbatch.console.text import ignoring_broken_pipe, printable, printable_json
from convbatch.console.wrapping import cut
from convbatch.dataset.reader import count_of
from convbatch.journal.run_folder import shell_quote
from convbatch.pricing import display_amount, exact
from convbatch.results.columns import TURNS, WIDE_KEYS
from convbatch.results.export import csv_lines, json_bytes
from convbatch.results.filters import Matcher
from convbatch.results.parquet import Rows, read_rows
from convbatch.results.run import Run
from convbatch.results.several import run_labels
from convbatch.results.summary import TargetSummary
from convbatch.results.wide import Cell, wide_cells, wide_columns, wide_rows
from convbatch.session.options import absolute

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

CHUNK_ROWS = 200
"""Rows laid out together; later chunks keep the widths of the first, so that memory does not grow with the table."""
WIDE_CELL_LINES = 4
WIDE_CELL_WIDTH = 20
"""A cell has room for this, or its table is laid out as blocks."""
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
    """Return the run's name and note, and notes on damage in the journal and on suspended targets."""
    notes = [] if run.caption is None else [f"run {run.caption}"]
    notes += [f"note: {target} is suspended: {reason}" for target, reason in run.suspended.items()]
    if run.damaged_places:
        what = f"note: {run.damaged_places} damaged places in the journal are left out"
        notes.insert(0, f"{what}: convbatch resume {shell_quote(absolute(run.path))} --salvage")
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


def table_rows(runs: Sequence[Run], matcher: Matcher) -> Rows:
    """Return the rows of runs that match, run by run."""
    return Rows(
        columns=TURNS, rows=chain.from_iterable(compress(run.turn_rows().rows, matcher.mask(run)) for run in runs)
    )


def print_table(runs: Sequence[Run], matcher: Matcher, *, file: IO[str] | None = None) -> None:
    """Print the rows of runs: the most important columns on a terminal, all columns as CSV elsewhere."""
    if not _is_terminal(file):
        _print_csv(table_rows(runs, matcher), file)
        return
    console = tables.console(file)
    for label, run in zip(run_labels(runs), runs, strict=True):
        if len(runs) > 1:
            tables.print_note(console, label, "bold")
        hidden = {"repeat"} if run.manifest.repeats == 1 else set[str]()
        if console.width < 100:
            hidden.add("latency_s")
        names = [name for name in (*_COLUMNS, "reply") if name not in hidden]
        rows = compress(read_rows(run.turns_path, (*names, "error_message")), matcher.mask(run))
        _print_in_chunks(console, names, (_with_reason(row) for row in rows))


def print_wide(
    runs: Sequence[Run], value: str = "reply", matcher: Matcher | None = None, *, file: IO[str] | None = None
) -> None:
    """Print the targets side by side: a few lines per cell on a terminal, whole cells as CSV elsewhere.

    Raises:
        SetupError: `value` is not a column of the wide table.
    """
    columns = wide_columns(runs, value)
    if not _is_terminal(file):
        _print_csv(wide_rows(runs, value, matcher), file)
        return
    console = tables.console(file)
    names = range(len(WIDE_KEYS))
    targets = range(len(WIDE_KEYS), len(columns))
    room = WIDE_CELL_LINES * max(WIDE_CELL_WIDTH, (console.width - 34) // len(targets))
    rows = wide_cells(runs, value, matcher)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        headings = [column.name for column in columns]
        grid = tables.make_table(*headings, lines=True, stack=names, prose=targets, whole_words=False)
        for keys, cells in chunk:
            grid.add_row(*map(tables.single_line_text, map(_plain, keys)), *(_wide_cell(cell, room) for cell in cells))
        console.print(grid)


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
        f"{total.attempts:,} attempt{'' if total.attempts == 1 else 's'}"
        if total.attempts > answered - total.reused + total.further_steps
        else "",
        f"{total.further_steps:,} further step{'' if total.further_steps == 1 else 's'} of turns with tools or pauses"
        if total.further_steps
        else "",
        _possibly_paid(total) if total.possibly_paid else "",
        f"{total.tokens_unknown:,} without token counts" if total.tokens_unknown else "",
        f"{count_of(total.undecided, 'dialogue')} neither passed nor failed" if total.undecided else "",
        f"{total.reasoning_tokens:,} of the output tokens are reasoning" if total.reasoning_tokens else "",
        f"{total.unpriced:,} without a cost (see `convbatch report`)" if _lacks_price(total) else "",
    ]
    if any(notes):
        yield f"{total.target}: " + ", ".join(filter(None, notes))
    yield from total.served_notes


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
            grid.add_row(*map(tables.single_line_text, (*cells, cut(printable(reply), room))))
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


def _wide_cell(cell: Cell | None, room: int) -> Text:
    """Return a cell of the wide table; the status of the row if there is no value."""
    if cell is None or cell.value is None:
        if cell is None or cell.status is None or cell.status == "ok":
            return tables.single_line_text(tables.NONE)
        return tables.single_line_text(f"({cell.status})", tables.STATUS_STYLES[cell.status])
    if isinstance(cell.value, bool):
        return tables.single_line_text("passed" if cell.value else "failed", "green" if cell.value else "red")
    if cell.currency is not None:
        return tables.single_line_text(f"{display_amount(exact(cell.value))} {cell.currency}")
    return tables.single_line_text(cut(printable(_plain(cell.value)[:REPLY_READ]), room))


def _plain(cell: Any) -> str:
    return cell if isinstance(cell, str) else tables.number_text(cell)
