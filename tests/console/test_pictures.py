"""Pictures in terminals: the bytes come back from the escape sequences, and only terminals that take them get any."""

from __future__ import annotations

import base64
import re
import struct
import zlib

import pytest

from convbatch.console.pictures import picture_protocol, picture_text
from tests.support.made_media import JPEG, png

TERMINALS: list[tuple[dict[str, str], str | None]] = [
    ({}, None),
    ({"TERM": "xterm-256color"}, None),
    ({"TERM": "xterm-kitty"}, "kitty"),
    ({"KITTY_WINDOW_ID": "1"}, "kitty"),
    ({"KITTY_WINDOW_ID": "1", "TMUX": "/tmp/x"}, None),
    ({"TERM_PROGRAM": "ghostty"}, "kitty"),
    ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
    ({"LC_TERMINAL": "iTerm2"}, "iterm2"),
    ({"TERM_PROGRAM": "Apple_Terminal"}, None),
    ({"TERM": "foot"}, "sixel"),
    ({"TERM": "mlterm-256color"}, "sixel"),
    ({"TERM": "foot", "STY": "1.pts"}, None),
]


@pytest.mark.parametrize(("environment", "protocol"), TERMINALS)
def test_the_environment_tells_how_a_terminal_shows_pictures(environment: dict[str, str], protocol: str | None) -> None:
    assert picture_protocol(environment) == protocol


def test_the_sequences_carry_the_whole_picture() -> None:
    content = png() + bytes(range(256)) * 40
    shown = picture_text(content, "kitty") or ""
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", shown)
    assert [head for head, _ in pieces] == ["a=T,f=100,r=12,m=1", *["m=1"] * (len(pieces) - 2), "m=0"]
    assert base64.b64decode("".join(piece for _, piece in pieces)) == content
    assert all(len(piece) <= 4096 for _, piece in pieces)
    head, encoded = (picture_text(content, "iterm2") or "").rstrip("\a\n").split(":")
    assert head == f"\x1b]1337;File=inline=1;size={len(content)};height=12"
    assert base64.b64decode(encoded) == content


def test_what_a_terminal_does_not_take_stays_a_line() -> None:
    assert picture_text(JPEG, "kitty") is None
    assert picture_text(JPEG, "iterm2") is not None
    assert picture_text(b"\x89PNG" + bytes(5_000_000), "iterm2") is None


def test_sixels_have_the_size_and_the_colours_of_the_picture() -> None:
    shown = picture_text(png(40, 30), "sixel") or ""
    assert shown.startswith('\x1bP0;0;0q"1;1;40;30#0;2;')
    assert shown.endswith("\x1b\\\n")
    assert shown.isascii()
    assert (picture_text(png(1200, 900), "sixel") or "").startswith('\x1bP0;0;0q"1;1;320;240#')


def test_a_picture_that_cannot_be_decoded_stays_a_line() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    huge = png()[:12] + header + struct.pack(">I", zlib.crc32(header)) + png()[33:]
    for content in (b"", b"\x89PNG\r\n", png()[:45], huge):
        assert picture_text(content, "sixel") is None
