"""The part of a page in which the script shows transcripts: filters, the list of dialogues, and one dialogue."""

from __future__ import annotations

from collections.abc import Iterable

from convbatch.console.html import Markup, element
from convbatch.dataset.reader import count_of

_FILTERS = ("Outcome", "Status", "Finish reason", "Error kind", "Check", "Tag", "Target")
_KEYS = (
    ("/", "search"),
    ("j, k", "next, previous dialogue"),
    ("n, p", "next, previous turn"),
    ("f", "next failure"),
)


def section(name: str, title: str, content: Iterable[Markup]) -> Markup:
    """Return a section of a page; its id cannot be a dialogue's address."""
    heading = f"section-{name}"
    return element("section", element("h2", title, id=heading), *content, aria_labelledby=heading)


def viewer(left_out: int) -> Markup:
    """Return the section that the script fills.

    Args:
        left_out: Dialogues for which the page had no room.
    """
    notes = [element("noscript", element("p", "Transcripts need JavaScript; everything else does not."))]
    if left_out:
        what = f"This page has no room for {count_of(left_out, 'more dialogue')}; those that failed are here first. "
        narrower = "convbatch report RUN --tag TAG -o tag.html"
        notes.append(element("p", what, element("code", narrower), " or ", element("code", "convbatch show"),
                             " has the others.", class_="warning"))  # fmt: skip
    keys = [element("span", element("kbd", key), f" {what}") for key, what in _KEYS]
    controls = [
        element("label", name, element("select", element("option", "all", value=""), aria_label=name, id=_id(name)))
        for name in _FILTERS
    ]
    search = element("input", type="search", id="filter-text", aria_label="Search text", autocomplete="off")
    mark = element("input", type="checkbox", id="mark-words", checked=True)
    form = element(
        "form",
        element("label", "Text", search),
        *controls,
        element("label", mark, "mark differing words", class_="check"),
        element("button", "Clear filters", type="reset"),
        id="filters",
        role="search",
        aria_label="Filter dialogues",
    )
    more = element("button", "Show more", type="button", id="more", hidden=True)
    panes = element(
        "div",
        element("nav", element("ol", id="dialogues"), more, aria_label="Dialogues", tabindex="0"),
        element("article", id="dialogue", aria_label="Transcript", tabindex="-1"),
        class_="panes",
    )
    found = element("p", id="found", role="status")
    return section("transcripts", "Transcripts", [*notes, form, found, element("p", *keys, class_="keys"), panes])


def _id(name: str) -> str:
    return "filter-" + name.lower().replace(" ", "-")
