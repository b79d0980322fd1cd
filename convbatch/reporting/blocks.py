"""The bill on a terminal: blocks that a person can read at 80 columns, from the frames of its sections.

Which lines there are is decided by `usage_log.py`; Markdown and JSON have all columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING, Any

from convbatch.console import tables
from convbatch.pricing import display_amount, exact
from convbatch.reporting.usage_log_matching import OUTSIDE

if TYPE_CHECKING:
    from rich.console import Console

Record = Mapping[str, Any]
"""A row of a frame with plain values; null is None."""


def print_bill(console: Console, rows: Sequence[Record]) -> None:
    """Print what was billed and what we counted, by outcome: money first, then tokens."""
    currency = next((row["currency"] for row in rows if row["currency"]), None)
    inside = [row for row in rows if row["outcome"] != OUTSIDE]
    total: Record = {"outcome": "total", **{name: _sum(inside, name) for name in _SUMMED}}
    shown = [*inside, *([total] if len(inside) > 1 else []), *(row for row in rows if row["outcome"] == OUTSIDE)]
    amounts = ["billed", "cost", "difference"] if currency else []
    unit = f" {currency}" if currency else ""
    grid = tables.make_table(
        "outcome", ("lines", "right"), ("calls", "right"),
        *((f"{name}{unit}", "right") for name in ("billed", "ours", "difference") if amounts),
    )  # fmt: skip
    for row in shown:
        cells = [tables.number_text(row[name]) for name in ("lines", "calls")]
        grid.add_row(tables.single_line_text(row["outcome"]), *cells, *(_amount(row[name]) for name in amounts))
    console.print(grid)
    console.print()
    tables.print_note(console, "Tokens", "bold")
    grid = tables.make_table(
        "outcome",
        ("input billed", "right"),
        ("input ours", "right"),
        ("output billed", "right"),
        ("output ours", "right"),
    )
    for row in shown:
        cells = [tables.number_text(row[name]) for name in _TOKENS]
        grid.add_row(tables.single_line_text(row["outcome"]), *cells)
    console.print(grid)


_TOKENS = ("billed_input", "input_tokens", "billed_output", "output_tokens")
_SUMMED = ("lines", "calls", *_TOKENS, "billed", "cost", "difference")


def print_bill_lines(console: Console, rows: Sequence[Record]) -> None:
    """Print a block per line or call with a difference, below its outcome."""
    for outcome, group in groupby(rows, key=lambda row: row["outcome"]):
        tables.print_note(console, outcome, "bold")
        for row in group:
            for number, text in enumerate(_bill_line(row)):
                tables.print_note(console, text, indent=4 if number else 2)


def _bill_line(row: Record) -> Iterator[str]:
    line = "no line" if row["line"] is None else f"line {row['line']:,}"
    request = None if row["request_id"] is None else f"request id {row['request_id']}"
    joined = None if row["joined_by"] is None else f"matched by {row['joined_by']}"
    yield ", ".join(filter(None, [line, f"{row['time']:%Y-%m-%d %H:%M:%S} UTC", row["model"], request, joined]))
    if row["run"] is None:
        yield "no call"
    else:
        again = [f"{name} {row[name]}" for name in ("repeat", "attempt") if row[name] != 1]
        yield ", ".join([f"{row['run']}: {row['dialogue']}", f"turn {row['turn']}", row["target"], *again])
    yield from _compared("input", row["billed_input"], row["input_tokens"], _count)
    yield from _compared("output", row["billed_output"], row["output_tokens"], _count)
    yield from _compared("amount", row["billed"], row["cost"], lambda amount: f"{_amount(amount)} {row['currency']}")


def _compared(what: str, billed: float | None, ours: float | None, display: Callable[[float], str]) -> Iterator[str]:
    """Yield both values and their difference; nothing if neither is known."""
    if billed is None and ours is None:
        return
    texts = [f"{side} {tables.NONE if value is None else display(value)}" for side, value in
             (("billed", billed), ("ours", ours))]  # fmt: skip
    apart = None if billed is None or ours is None else exact(billed) - exact(ours)
    sign = "+" if apart and apart > 0 else ""
    difference = f", difference {sign}{display(float(apart))}" if apart else ""
    yield f"{what}: {', '.join(texts)}{difference}"


def _count(value: float) -> str:
    return tables.number_text(int(value))


def _amount(value: float | None) -> str:
    return tables.NONE if value is None else display_amount(exact(value))


def _sum(rows: Sequence[Record], name: str) -> float | int | None:
    """Return the sum of the known values; None if none is known."""
    known = [row[name] for row in rows if row[name] is not None]
    if not known:
        return None
    return float(sum(map(exact, known), Decimal(0))) if isinstance(known[0], float) else sum(known)
