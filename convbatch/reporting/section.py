"""A part of a report: one frame, its title, and what a reader must know to read it right.

How sections look in a terminal, Markdown or JSON is `render.py`; what is in them is made by whoever found it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table of a report."""

    key: str
    """Its name in JSON, a word of the contract."""
    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()
    """Sentences that stand below it: what is not known, not comparable, not included."""
