"""Tests of the lines of a transcript, at every width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from convbatch.console.transcript_layout import INDENT, Piece, beside, labelled, title_line

NAMES = ("sim-good@lab", "projects/x/locations/us-central1/models/gemini-9-flash@dmxapi-com", "通义千问 大模型@al")
FACTS = ("ok", "stop", "6,538 in, 1,171 out", "1,234,567.89 CNY", "0.0000012 USD", "12.5 s")
REPLY = "The total of order 2026-11-27/000123456789 is 1,234,567.89 CNY. 我更愿意用中文回答这个问题。"


def cell(name: str) -> list[Piece]:
    facts = Piece(Text(" · ".join(FACTS)), between=" · ")
    return [Piece(Text(name), is_whole=True), Piece(Text(REPLY)), facts]


@given(width=st.integers(30, 300), names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4))
def test_no_width_breaks_a_name_or_a_fact(width: int, names: list[str]) -> None:
    lines = [line.plain for line in beside([cell(name) for name in names], width)]
    for words in (*names, *FACTS):
        assert any(words in line for line in lines)
    too_wide = [line for line in lines if cell_len(line) > width]
    assert [line for line in too_wide if line.strip() not in NAMES] == []
    assert all(line.startswith(" " * INDENT) for line in lines)


@pytest.mark.parametrize(
    ("width", "line"), [(20, "dates-zh [date] ────"), (16, "dates-zh [date]"), (8, "dates-zh [date]")]
)
def test_a_title_is_never_cut(width: int, line: str) -> None:
    assert title_line(Text("dates-zh [date]"), width).plain == line


def test_a_text_is_wrapped_beside_its_label() -> None:
    lines = [line.plain for line in labelled(Text("1 user"), Text("How many metres\n\n  are 2.5 kilometres?"), 22)]
    assert lines == ["1 user    How many", "          metres", "", "            are 2.5", "          kilometres?"]
