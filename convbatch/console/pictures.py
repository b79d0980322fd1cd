"""Pictures in terminals that can show them: the protocols of kitty and of iTerm2.

Which terminal it is, its environment says; inside tmux and screen no picture is shown. Sixel is left out: it needs a
decoder and a palette.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Literal

Protocol = Literal["kitty", "iterm2"]
_ITERM2 = ("iTerm.app", "WezTerm", "mintty", "vscode", "WarpTerminal")
_KITTY = ("ghostty", "kitty")
_LARGEST = 5_000_000
_CHUNK = 4_096


def picture_protocol(environment: Mapping[str, str]) -> Protocol | None:
    """Return how the terminal with this environment shows pictures; None if it does not."""
    if environment.get("TMUX") or environment.get("STY"):
        return None
    program = environment.get("TERM_PROGRAM", "")
    if environment.get("KITTY_WINDOW_ID") or program in _KITTY or environment.get("TERM") == "xterm-kitty":
        return "kitty"
    return "iterm2" if program in _ITERM2 or environment.get("LC_TERMINAL") == "iTerm2" else None


def picture_text(content: bytes, protocol: Protocol) -> str | None:
    """Return the escape sequence that shows a picture, a few lines high; None if the terminal does not take it."""
    if len(content) > _LARGEST or (protocol == "kitty" and not content.startswith(b"\x89PNG")):
        return None
    encoded = base64.b64encode(content).decode("ascii")
    if protocol == "iterm2":
        return f"\x1b]1337;File=inline=1;size={len(content)};height=12:{encoded}\a\n"
    pieces = [encoded[at : at + _CHUNK] for at in range(0, len(encoded), _CHUNK)]
    heads = ["a=T,f=100,r=12,", *[""] * (len(pieces) - 1)]
    return (
        "".join(
            f"\x1b_G{head}m={int(at + 1 < len(pieces))};{piece}\x1b\\"
            for at, (head, piece) in enumerate(zip(heads, pieces, strict=True))
        )
        + "\n"
    )
