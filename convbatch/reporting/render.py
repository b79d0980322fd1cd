"""Output of a report: sections on the terminal, as Markdown and as JSON; `results/export.py` writes the files.

It decides layout only. On the terminal and in Markdown the wide main table is split into narrow ones without empty
columns; files for programs have every column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from convbatch.console import tables
from convbatch.console.markdown import md, md_row
from convbatch.console.text import printable, shorten
from convbatch.pricing import display_amount, exact
from convbatch.reporting.blocks import print_bill, print_bill_lines
from convbatch.reporting.section import Section
from convbatch.results.columns import Column, unit_of
from convbatch.results.export import Content, Part, json_bytes
from convbatch.results.xlsx import Sheet

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

_TOTAL = "total"
MAIN_KEY, TOTALS_KEY = "usage", "totals"
REPORT_PARTS: tuple[Part, ...] = ("rows", "sheets", "value", "markdown", "page")
"""What a report can be written as; `-o` is checked against them before a run is read."""
ROWS_SHOWN = 200
"""Maximum rows of a table on a terminal."""
ROWS_PIPED = 1_000
"""Maximum rows on a stdout that is not a terminal: laying out a hundred thousand takes many minutes."""
SHOWN_OF_A_CELL = 300
"""Characters."""
_BOLD = ("SIMULATED",)
"""Notes with this prefix are printed in bold."""


class _ViewColumn(NamedTuple):
    """A column of the main table on the terminal and in Markdown."""

    column: str
    heading: str
    always: bool = False
    """Whether to show the column even if it is empty or 0 in every row."""


_MAIN_VIEWS: tuple[tuple[str, tuple[_ViewColumn, ...]], ...] = (
    (
        "Turns",
        (
            _ViewColumn("ok", "ok", True),
            _ViewColumn("blocked", "blocked"),
            _ViewColumn("empty", "empty"),
            _ViewColumn("error", "failed", True),
            _ViewColumn("skipped", "skipped"),
            _ViewColumn("pending", "pending"),
            _ViewColumn("reused", "reused"),
            _ViewColumn("attempts", "attempts", True),
            _ViewColumn("retries", "retries"),
        ),
    ),
    (
        "Tokens",
        (
            _ViewColumn("input_tokens", "input", True),
            _ViewColumn("cached_input_tokens", "cached"),
            _ViewColumn("cache_write_input_tokens", "cache write"),
            _ViewColumn("output_tokens", "output", True),
            _ViewColumn("reasoning_tokens", "reasoning"),
            _ViewColumn("tokens_unknown", "no counts"),
        ),
    ),
    (
        "Cost",
        (
            _ViewColumn("costs", "spent", True),
            _ViewColumn("failed_cost", "of it failed"),
            _ViewColumn("unpriced", "no cost"),
            _ViewColumn("reused_cost", "reused"),
            _ViewColumn("possibly_paid", "possibly paid"),
            _ViewColumn("possibly_paid_bound", "at most"),
            _ViewColumn("possibly_paid_unbounded", "no bound"),
        ),
    ),
    (
        "Time",
        (
            _ViewColumn("p50_latency_s", "p50 s", True),
            _ViewColumn("p95_latency_s", "p95 s", True),
            _ViewColumn("limiter_wait_s", "limiter wait s"),
            _ViewColumn("retry_wait_s", "retry wait s"),
        ),
    ),
)
_NOTED = "Cost"
"""The view that has the notes below it."""
_FIRST_OF_MAIN = "turns"
_HEADINGS = {
    "input_tokens": "input",
    "mean_input_tokens": "mean",
    "median_input_tokens": "median",
    "cached_input_tokens": "cached",
    "cached_share": "share",
    "cache_write_input_tokens": "written",
    "p50_ttft_first_s": "ttft turn 1 s",
    "p95_ttft_first_s": "p95",
    "p50_ttft_later_s": "ttft later s",
    "p95_ttft_later_s": "p95",
    "p50_itl_s": "itl s",
    "output_tokens_per_s": "tokens/s",
}
_PROSE = ("example", "examples", "detail")
"""Columns of text that wraps between words."""
_BLOCKS: Mapping[str, Callable[[Console, Sequence[Mapping[str, Any]]], None]] = {
    "bill": print_bill,
    "bill_lines": print_bill_lines,
}
"""Sections that are blocks on a terminal instead of a table."""
_RIGHT = ("costs",)
"""Text columns that contain amounts."""
_QUIET = (
    "reused", "pending", "tokens_unknown", "unpriced", "undeclared", "not_json", "schema_errors", "unchecked",
)  # fmt: skip
"""Columns of other sections that are omitted if they are empty."""


_IN_CELLS = {"caching": ("currency",)}
"""Columns by section that are not shown because amounts have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableView:
    """A table as texts."""

    key: str
    """Of its section."""
    title: str
    headings: Sequence[str]
    numeric: Sequence[bool]
    rows: Sequence[Sequence[str]]
    records: Sequence[Mapping[str, Any]]
    """The rows as plain values."""
    notes: Sequence[str] = ()

    @property
    def stack(self) -> Sequence[int]:
        """The columns of names, which may move to a line above their row; at least the first."""
        names = [number for number, (right, name) in enumerate(zip(self.numeric, self.headings, strict=True))
                 if not right and name not in _PROSE]  # fmt: skip
        return names or (0,)

    @property
    def has_run_headings(self) -> bool:
        """Whether the name of a run is always on a line above its rows: runs come first, and have long names."""
        return self.headings[0] == "run" and len(self.headings) > 1 and not self.numeric[1]


def to_terminal(sections: Sequence[Section], *, file: IO[str] | None = None) -> None:
    """Print a report on a terminal."""
    console = tables.console(file)
    most = ROWS_SHOWN if console.is_terminal else ROWS_PIPED
    for view in table_views(sections):
        console.print(tables.single_line_text(view.title, "bold underline"))
        if (print_blocks := _BLOCKS.get(view.key)) is not None:
            print_blocks(console, view.records[:most])
            left = len(view.records) - most
        else:
            shown = _first_rows(view.rows, most)
            _print_grid(console, view, shown)
            left = len(view.rows) - len(shown)
        if left > 0:
            tables.print_note(console, f"… and {left:,} more rows: -o report.md, .json or .csv")
        for note in view.notes:
            for line in note.splitlines():
                tables.print_note(console, line, "bold" if note.startswith(_BOLD) else "")
        console.print()


def _print_grid(console: Console, view: TableView, rows: Sequence[Sequence[str]]) -> None:
    grid = tables.make_table(
        *((name, "right" if right else "left") for name, right in zip(view.headings, view.numeric, strict=True)),
        stack=view.stack,
        above=1 if view.has_run_headings else 0,
        prose=[number for number, name in enumerate(view.headings) if name in _PROSE],
    )
    for row in rows:
        grid.add_row(*map(tables.single_line_text, row))
    console.print(grid)


def report_content(sections: Sequence[Section], by: Sequence[str], page: Callable[[], bytes]) -> Content:
    """Return what a report can be written as: its main table, a workbook, one object, a Markdown or an HTML page."""
    return {
        "rows": lambda: sections[0].frame,
        "sheets": lambda: _sheets(sections),
        "value": lambda: to_value(sections, by),
        "markdown": lambda: to_markdown(sections),
        "page": page,
    }


def _sheets(sections: Sequence[Section]) -> list[Sheet]:
    """Return a sheet for each section that says anything."""
    return [
        Sheet(name=section.title, table=section.frame, notes=section.notes)
        for section in sections
        if len(section.frame) or section.notes
    ]


def to_json(sections: Sequence[Section], by: Sequence[str]) -> bytes:
    """Return the report as JSON."""
    return json_bytes(to_value(sections, by))


def to_value(sections: Sequence[Section], by: Sequence[str]) -> dict[str, Any]:
    """Return the report as one JSON object: `runs`, `by`, and each section by its key."""
    main = sections[0].frame
    content: dict[str, Any] = {"runs": list(dict.fromkeys(main["run"])), "by": list(by)}
    for section in sections:
        content[section.key] = {"title": section.title, "notes": list(section.notes), "rows": _records(section.frame)}
    return content


def to_markdown(sections: Sequence[Section]) -> str:
    """Return the report as a Markdown page."""
    parts = ["# Report"]
    for view in table_views(sections):
        parts.append(f"## {view.title}")
        lines = [md_row(view.headings), md_row(["---:" if right else "---" for right in view.numeric])]
        parts.append("\n".join([*lines, *(md_row([md(cell) for cell in row]) for row in view.rows)]))
        parts += [_md_note(note) for note in view.notes]
    return "\n\n".join(parts) + "\n"


def table_views(sections: Sequence[Section]) -> Iterator[TableView]:
    """Yield the tables of a report for people: the main table as narrow ones, without columns that are empty."""
    totals = next((section.frame for section in sections if section.key == TOTALS_KEY), None)
    for section in sections:
        if section.key == MAIN_KEY:
            yield from _main_views(section, totals)
        elif section.key != TOTALS_KEY and (len(section.frame) or section.notes):
            rows = _records(section.frame)
            names = [str(name) for name in section.frame.columns]
            if len({row.get("run") for row in rows}) == 1 and len(names) > 1:
                names = [name for name in names if name != "run"]
            names = [name for name in names if name not in _QUIET or any(row[name] for row in rows)]
            names = [name for name in names if name not in _IN_CELLS.get(section.key, ())]
            headings = [_HEADINGS.get(name, name.replace("_", " ")) for name in names]
            yield _table_view(section.key, section.title, names, headings, rows, section.notes)


def _main_views(section: Section, totals: pd.DataFrame | None) -> Iterator[TableView]:
    names = [str(name) for name in section.frame.columns]
    keys = names[: names.index(_FIRST_OF_MAIN)]
    rows = _records(section.frame)
    of_run = {} if totals is None else {row["run"]: row for row in _records(totals)}
    if len(of_run) < len(rows):
        rows = list(_with_totals(rows, of_run, keys))
    shown_keys = keys if len(of_run) > 1 or len(keys) == 1 else keys[1:]
    for title, columns in _MAIN_VIEWS:
        kept = [shown for shown in columns if shown.always or any(row[shown.column] for row in rows)]
        yield _table_view(
            section.key,
            title,
            [*shown_keys, *(shown.column for shown in kept)],
            [*shown_keys, *(shown.heading for shown in kept)],
            rows,
            section.notes if title == _NOTED else (),
        )


def _first_rows(rows: Sequence[Sequence[str]], most: int) -> Sequence[Sequence[str]]:
    """Return the first rows, and every total."""
    return [*rows[:most], *(row for row in rows[most:] if _TOTAL in row[:2])]


def _with_totals(
    rows: Sequence[Mapping[str, Any]], of_run: Mapping[str, Mapping[str, Any]], keys: Sequence[str]
) -> Iterator[Mapping[str, Any]]:
    """Each run's groups and below them its total."""
    for run, total in of_run.items():
        yield from (row for row in rows if row["run"] == run)
        yield {**dict.fromkeys(keys, ""), **({keys[1]: _TOTAL} if len(keys) > 1 else {}), **total}


def _table_view(
    key: str,
    title: str,
    columns: Sequence[str],
    headings: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> TableView:
    return TableView(
        key=key,
        title=title,
        headings=headings,
        numeric=[column in _RIGHT or all(_is_number(row[column]) for row in rows) for column in columns],
        rows=[[_cell(column, row) for column in columns] for row in rows],
        records=rows,
        notes=notes,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | None) or value in ("", _TOTAL)


def _cell(column: str, row: Mapping[str, Any]) -> str:
    value = row[column]
    if isinstance(value, str):
        return shorten(printable(value), SHOWN_OF_A_CELL)
    if isinstance(value, float) and unit_of(Column(column, "Float64", "")) == "money":
        currency = None if row.get("costs") else row.get("currency")  # `costs` includes the currency
        return display_amount(exact(value)) + (f" {currency}" if currency else "")
    if column == "cached_share" and value is not None:
        return f"{value:.0%}"
    if column == "valid_calls" and value is not None:
        return f"{value:.1%}"
    if isinstance(value, list):
        return shorten(printable(", ".join(map(str, value))), SHOWN_OF_A_CELL)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return tables.number_text(value)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows with plain values; null is None."""
    import pyarrow as pa

    return pa.Table.from_pandas(frame, preserve_index=False).to_pylist()


def _md_note(note: str) -> str:
    first, *lines = note.splitlines()
    if not lines:
        return f"- {md(printable(first))}"
    fence = "`" * (1 + max(2, *map(len, re.findall("`+", note)), 0))
    code = "\n".join([fence, *map(printable, lines), fence])
    return f"- {md(printable(first))}\n\n{code}"
