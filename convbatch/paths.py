"""Paths as users type them."""

from __future__ import annotations

import os
from pathlib import Path


def expand_home(path: str | Path) -> Path:
    """Return a path with the `~` at its beginning replaced by the home it names; unchanged where that is unknown."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # that of Path raises without a home
