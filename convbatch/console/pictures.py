"""Pictures in terminals that can show them: the protocols of kitty and of iTerm2, and sixel.

Which terminal it is, its environment says; inside tmux and screen no picture is shown. Sixel needs a decoder and a
palette: it is there with the extra `pictures`.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping
from typing import Literal

Protocol = Literal["kitty", "iterm2", "sixel"]
_ITERM2 = ("iTerm.app", "WezTerm", "mintty", "vscode", "WarpTerminal")
_KITTY = ("ghostty", "kitty")
_SIXEL = ("contour", "foot", "mlterm", "yaft")
_LARGEST = 5_000_000
_MOST_PIXELS = 20_000_000
"""Of a picture that is decoded: a few bytes may stand for gigabytes of them."""
_SIXEL_SIZE = (960, 240)
"""Pixels, at most: about 12 lines."""
_CHUNK = 4_096


def picture_protocol(environment: Mapping[str, str]) -> Protocol | None:
    """Return how the terminal with this environment shows pictures; None if it does not."""
    if environment.get("TMUX") or environment.get("STY"):
        return None
    program, terminal = environment.get("TERM_PROGRAM", ""), environment.get("TERM", "")
    if environment.get("KITTY_WINDOW_ID") or program in _KITTY or terminal == "xterm-kitty":
        return "kitty"
    if program in _ITERM2 or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return "sixel" if terminal.partition("-")[0] in _SIXEL or "sixel" in terminal else None


def picture_text(content: bytes, protocol: Protocol) -> str | None:
    """Return the escape sequence that shows a picture, a few lines high; None if the terminal does not take it."""
    if len(content) > _LARGEST or (protocol == "kitty" and not content.startswith(b"\x89PNG")):
        return None
    if protocol == "sixel":
        return _sixels(content)
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


def _sixels(content: bytes) -> str | None:
    """Return a picture as sixels; None without the libraries, and for a broken or too large one."""
    try:
        from PIL import Image
        from textual_image._sixel import image_to_sixels
    except ImportError:
        return None
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > _MOST_PIXELS:
                return None
            image.thumbnail(_SIXEL_SIZE)
            return image_to_sixels(image) + "\n"
    except Exception:  # noqa: BLE001  # a broken picture makes the decoder raise anything; its name is printed all the same
        return None
