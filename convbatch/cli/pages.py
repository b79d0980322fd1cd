"""Pages for a browser: which file `--open` writes, and opening it."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path

from convbatch.console.text import log_note


def with_page(files: Sequence[Path], default: Path) -> tuple[list[Path], Path]:
    """Return the files to write, an HTML page among them, and that page; if none is named, it is the default one."""
    page = next((path for path in files if path.suffix.lower() == ".html"), None)
    return ([*files], page) if page is not None else ([*files, default], default)


def open_page(page: Path) -> None:
    """Open a page in the browser; say where it is if there is none."""
    address = page.resolve().as_uri()
    try:
        is_open = webbrowser.open(address)
    except (webbrowser.Error, OSError):
        is_open = False
    log_note(f"opened {page}" if is_open else f"no browser found; the page is {address}")
