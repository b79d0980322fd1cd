"""HTML from text: elements whose content is escaped, and a small table for notebooks.

`element` is the only way from text to `Markup`: what is not `Markup` is text, and is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import islice

from convbatch.console.text import printable, printable_lines, shorten

ROWS_SHOWN = 50
SHOWN_OF_A_TEXT = 500
"""Characters."""
_EMPTY_TAGS = frozenset({"br", "col", "hr", "input", "meta"})


class Markup(str):
    """HTML that can be put into a page as it is."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str | bool | None) -> Markup:
    """Return an element.

    Args:
        tag: Its name.
        *children: `Markup`, or text, which is escaped; control and direction characters become visible.
        **attributes: By name, with `_` for `-` and one at the end for a keyword of Python; None and False are left
            out, True has no value.
    """
    named = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    inner = "".join(_attribute(name, value) for name, value in named)
    if tag in _EMPTY_TAGS:
        return Markup(f"<{tag}{inner}>")
    return Markup(f"<{tag}{inner}>{joined(children)}</{tag}>")


def joined(children: Iterable[str]) -> Markup:
    """Return several parts of a page as one."""
    return Markup("".join(part if isinstance(part, Markup) else escape(printable_lines(part)) for part in children))


def _attribute(name: str, value: str | bool | None) -> str:
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(printable(value))}"'


def html_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Return a title and a table.

    Args:
        title: One line above the table.
        headings: Names of the columns.
        rows: Cells as text; those after the first `ROWS_SHOWN` are counted only.
        left: How many columns, from the first, are text; the others are figures.
    """

    def cells(tag: str, texts: Sequence[str]) -> str:
        sides = ("left" if index < left else "right" for index in range(len(texts)))
        each = zip(sides, texts, strict=True)
        return "".join(f'<{tag} style="text-align: {side}">{_text(text)}</{tag}>' for side, text in each)

    rest = iter(rows)
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in islice(rest, ROWS_SHOWN))
    left_out = sum(1 for _ in rest)
    more = f"<p>… and {left_out:,} more</p>" if left_out else ""
    return (
        f"<div><p>{_text(title)}</p><table><thead><tr>{cells('th', headings)}</tr></thead>"
        f"<tbody>{body}</tbody></table>{more}</div>"
    )


def _text(text: str) -> str:
    return escape(printable(shorten(text, SHOWN_OF_A_TEXT)))
