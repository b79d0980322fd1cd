"""Text from gateways is printed as it is, with control characters escaped."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from convbatch.console.text import printable, printable_lines
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
