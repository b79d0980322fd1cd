"""Pictures, sound and film of a run folder as data of a page, within limits.

What a page leaves out it names, with its size, so that it can be found in the run folder.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from convbatch.errors import SetupError
from convbatch.journal.media_store import STORED, read_media
from convbatch.media import type_of_path
from convbatch.results.run import Run

MOST_BYTES, MOST_FILE_BYTES = 6 * 2**20, 2 * 2**20
"""Of all media on a page, and of one of them."""
_SHOWN = {
    "image/png": "image/png",
    "image/jpeg": "image/jpeg",
    "image/gif": "image/gif",
    "image/webp": "image/webp",
    "image/bmp": "image/bmp",
    "image/avif": "image/avif",
    "audio/wav": "audio/wav",
    "audio/mp3": "audio/mpeg",
    "audio/ogg": "audio/ogg",
    "audio/flac": "audio/flac",
    "audio/aac": "audio/aac",
    "audio/mp4": "audio/mp4",
    "audio/webm": "audio/webm",
    "video/mp4": "video/mp4",
    "video/webm": "video/webm",
}
"""Types that a browser shows without running anything, with its name of them; SVG is not among them."""


@dataclass
class PageMedia:
    """The media of the dialogues on a page."""

    contents: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """By path: `type` and `data` (base64), or `left`: why the page does not have it."""
    room: int = MOST_BYTES
    left_out: int = 0
    """Number of files that did not fit."""

    def add(self, run: Run, path: str) -> None:
        """Take a file, if there is room for it."""
        kind = type_of_path(path)
        if path in self.contents or STORED.fullmatch(path) is None:
            return
        if kind is None or kind.mime_type not in _SHOWN:
            self.contents[path] = {"left": f"not shown here; it is in {run.path}"}
            return
        try:
            content = read_media(run.path, path)
        except SetupError:
            self.contents[path] = {"left": f"is not in {run.path}"}
            return
        if len(content) > min(MOST_FILE_BYTES, self.room):
            self.left_out += 1
            size = f"{len(content) / 2**20:.1f} MiB"
            self.contents[path] = {"left": f"left out, {size}: a page has room for less; it is in {run.path}"}
            return
        self.room -= len(content)
        self.contents[path] = {"type": _SHOWN[kind.mime_type], "data": base64.b64encode(content).decode()}
