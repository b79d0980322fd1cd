"""Text from gateways in a Markdown page: no markup, no links, no megabytes."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from convbatch.console.markdown import SHOWN_OF_A_CELL, md
from tests.support.tables import each

# What GitHub turns into a link, a mention or a reference without any markup.
LINKS = re.compile(
    r"[a-z][a-z0-9+.-]*://|\bwww\.|\b(?:mailto|xmpp):|[\w.+-]@[\w-]+\.\w|(?<![\w@])@\w|#\w", re.IGNORECASE
)
ENTITY = "&#8203;"


@each(
    ("text", "written"),
    [
        ("see https://evil.example/a", f"see https:/{ENTITY}/evil.example/a"),
        ("HTTP://x ftp://y", f"HTTP:/{ENTITY}/x ftp:/{ENTITY}/y"),
        ("www.evil.example", f"www{ENTITY}.evil.example"),
        ("me@evil.example or mailto:me", f"me@{ENTITY}evil.example or mailto{ENTITY}:me"),
        ("@user, #7", f"@{ENTITY}user, \\#{ENTITY}7"),
        ("gemini-2.5-flash@google", "gemini-2.5-flash@google"),
        ("ratio 1:2, a//b, 3.5", "ratio 1:2, a//b, 3.5"),
        (ENTITY, f"\\&\\#{ENTITY}8203;"),
    ],
)
def test_addresses_become_no_links(text: str, written: str) -> None:
    assert md(text) == written


@given(
    st.lists(st.sampled_from(["http", "://", "www.", "mailto:", "@", "#", "a", ".", "b", " ", "/", ":"])).map("".join)
)
def test_no_address_is_left_in_any_text(text: str) -> None:
    shown = md(text).replace(ENTITY, "\u200b").replace("\\", "")
    assert LINKS.search(shown) is None, shown


def test_a_cell_of_megabytes_is_cut() -> None:
    assert md("x" * 10_000_000) == "x" * SHOWN_OF_A_CELL + "… (10,000,000 characters)"
