"""Tables on a terminal of any width and in a pipe: what is never broken, and what is never lost."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from convbatch.console import tables
from convbatch.console.grid import INDENT, WHOLE_WORD, wrap
from tests.support.terminal import Terminal

names = st.text("abAB今天-@.,0129€", min_size=1, max_size=40)
words = st.lists(st.text("abc今天19,.", min_size=1, max_size=30), min_size=1, max_size=12).map(" ".join)
HEADINGS = ("name", ("count", "right"), "currency", "text")


def screen(rows: Sequence[Sequence[str]], columns: int) -> Terminal:
    file = Terminal()
    with patch.dict(os.environ, {"COLUMNS": str(columns), "TERM": "xterm"}):
        tables.console(file).print(filled(rows))
    return file


def filled(rows: Sequence[Sequence[str]]) -> object:
    grid = tables.make_table(*HEADINGS, stack=(0, 2), prose=(3,))
    for row in rows:
        grid.add_row(*row)
    return grid


@settings(max_examples=40)
@given(st.lists(st.tuples(names, names, names, words), min_size=1, max_size=4), st.integers(20, 160))
def test_no_name_and_no_number_is_broken_or_cut_at_any_width(rows: list[tuple[str, ...]], columns: int) -> None:
    file = screen(rows, columns)
    shown = "\n".join(file.lines)
    for *whole, prose in rows:
        assert all(cell in shown for cell in whole)
        for word in prose.split():
            assert all(part.plain in shown for part in wrap(Text(word), 1))
    longest = max(cell_len(item) for *whole, prose in rows for item in (*whole, *prose.split()))
    assert file.width <= max(columns, longest + len(" currency ") + 2 * INDENT)


@settings(max_examples=40)
@given(st.lists(st.tuples(names, names, names, words), min_size=1, max_size=4))
def test_a_pipe_gets_one_line_per_row_as_wide_as_it_needs(rows: list[tuple[str, ...]]) -> None:
    file = io.StringIO()
    with patch.dict(os.environ, {"COLUMNS": "20"}):
        tables.console(file).print(filled(rows))
    lines = file.getvalue().splitlines()
    assert lines[0].split() == ["name", "count", "currency", "text"]
    assert [line.split() for line in lines[1:]] == [" ".join(row).split() for row in rows]


@given(words, st.integers(1, 100))
def test_wrapping_keeps_every_character_and_every_word_of_usual_length(text: str, width: int) -> None:
    lines = [part.plain for part in wrap(Text(text), width)]
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(cell_len(line) <= max(width, WHOLE_WORD) for line in lines)


def test_marks_stay_with_their_characters() -> None:
    assert [line.plain for line in wrap(Text("好手艺。他说“不行”，don’t"), 6)] == [
        "好手",
        "艺。他",
        "说“不",
        "行”，",
        "don’t",
    ]


def test_names_move_above_their_row_and_then_rows_become_blocks() -> None:
    rows = [("gemini-3.1-flash-lite-preview@dmxapi-com-gemini", "12,345", "CNY", "今天是26日 and more text")]
    assert screen(rows, 100).lines == [
        "name                                              count  currency  text",
        "gemini-3.1-flash-lite-preview@dmxapi-com-gemini  12,345  CNY       今天是26日 and more text",
    ]
    assert screen(rows, 50).lines == [
        "   count  currency  text",
        "gemini-3.1-flash-lite-preview@dmxapi-com-gemini",
        "  12,345  CNY       今天是26日 and more text",
    ]
    assert screen(rows, 30).lines == [
        "gemini-3.1-flash-lite-preview@dmxapi-com-gemini",
        "    CNY",
        "  count 12,345",
        "  text",
        "    今天是26日 and more text",
    ]


@settings(max_examples=20)
@given(st.integers(20, 160))
def test_a_list_of_names_breaks_between_the_names_only(columns: int) -> None:
    listed = ("qwen max latest@lab", "通义千问 大模型 最新版@al (suspended)", "sim-good@fast")
    file = Terminal()
    grid = tables.make_table("run", "targets", ("cost", "right"), stack=(0, 1), lists=(1,))
    grid.add_row("r1", ", ".join(listed), "4,409,229.00 CNY\n0.00000000008531 USD")
    with patch.dict(os.environ, {"COLUMNS": str(columns), "TERM": "xterm"}):
        tables.console(file).print(grid)
    for whole in (*listed, "4,409,229.00 CNY", "0.00000000008531 USD"):
        assert any(whole in line for line in file.lines)
