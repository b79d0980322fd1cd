"""A section of a report: one frame, its title, and notes.

`render.py` writes sections to a terminal, Markdown or JSON; `report.py` and `usage_log.py` make them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


SHOWN_OF_A_NAME = 200
"""Characters of a finish reason or name: a gateway may send megabytes; journal and `turns.parquet` keep all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table of a report."""

    key: str
    """Its name in JSON; part of the contract."""
    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()
    """Sentences below the table: what is unknown, not comparable or not included."""
