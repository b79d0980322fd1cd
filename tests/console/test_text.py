"""Text from gateways is printed as it is, with control characters escaped."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from convbatch.console.text import printable, printable_lines
from convbatch.console.wrapping import cut, wrapped
from tests.support.tables import each


@each(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x9b2J", "\\x9b2J"),
        ("user\u202egnp.exe", "user\\u202egnp.exe"),
        ("a\u2066b\u2069\u200f\u061c", "a\\u2066b\\u2069\\u200f\\u061c"),
        ("a\u2028b\ufeff\u200b\xad", "a\\u2028b\\ufeff\\u200b\\xad"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("明天是2025年12月27日。 👩‍👩‍👧 עברית é \\x1b", "明天是2025年12月27日。 👩‍👩‍👧 עברית é \\x1b"),
    ],
)
def test_control_and_direction_characters_are_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_keep_line_feeds_and_tabs_only() -> None:
    assert printable_lines("a\n\tb\r\x1bc\x0b") == "a\n\tb\\r\\x1bc\\x0b"


@given(st.text(st.characters(exclude_categories=[])))
def test_output_never_moves_the_cursor_or_breaks_an_encoder(text: str) -> None:
    for shown in (printable(text), printable_lines(text).replace("\n", "").replace("\t", "")):
        shown.encode("utf-8")
        assert not [char for char in shown if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
        assert not [char for char in shown if unicodedata.bidirectional(char) in BIDI]
        assert printable(shown) == shown


BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@each(
    ("text", "shown"),
    [
        ("a@lab: gemini at http://127.0.0.1:18001, up to 4", "a@lab: gemini at\n  http://127.0.0.1:18001, up\n  to 4"),
        ("  hint: `convbatch runs PATH` lists the runs", "  hint: `convbatch runs PATH`\n    lists the runs"),
        ("put it back, then: convbatch resume results/a-b", "put it back, then:\n  convbatch resume results/a-b"),
        ("  convbatch resume results/2026 --env-file keys.env", "  convbatch resume results/2026 --env-file keys.env"),
        ("分组下模型不存在，请联系管理员开通后再试。", "分组下模型不存在，请联系管理员\n  开通后再试。"),
    ],
)
def test_a_note_wraps_between_words_and_a_command_stays_whole(text: str, shown: str) -> None:
    assert wrapped(text, 30) == shown
    assert wrapped(text, None) == text


@each(
    ("text", "cells", "shown"),
    [
        ("it costs 1,234,567.89 CNY", 25, "it costs 1,234,567.89 CNY"),
        ("it costs 1,234,567.89 CNY", 16, "it costs…"),
        ("1,234,567.89 CNY", 8, "…"),
        ("2.5 kilometres in half an hour", 24, "2.5 kilometres in half…"),
        ("a" * 40, 10, "a" * 9 + "…"),
        ("明天是2025年12月27日。", 10, "明天是…"),
        ("明天是2025年12月27日。", 11, "明天是2025…"),
        ("明天是几号", 6, "明天…"),
    ],
)
def test_a_text_is_cut_between_words(text: str, cells: int, shown: str) -> None:
    assert cut(text, cells) == shown
