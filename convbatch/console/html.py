"""A small HTML table for notebooks; all text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from convbatch.console.text import printable


def html_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Return a title and a table.

    Args:
        title: One line above the table.
        headings: Names of the columns.
        rows: Cells as text.
        left: How many columns, from the first, are text; the others are figures.
    """

    def cells(tag: str, texts: Sequence[str]) -> str:
        sides = ("left" if index < left else "right" for index in range(len(texts)))
        each = zip(sides, texts, strict=True)
        return "".join(f'<{tag} style="text-align: {side}">{_text(text)}</{tag}>' for side, text in each)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f"<div><p>{_text(title)}</p><table><thead><tr>{cells('th', headings)}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _text(text: str) -> str:
    return escape(printable(text))
