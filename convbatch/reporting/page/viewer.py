"""The part of a page in which the script shows transcripts: filters, the list of dialogues, and one dialogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from convbatch.console.html import Markup, element
from convbatch.reporting.page.tables import counted
from convbatch.reporting.page.transcript_data import PackedTranscripts

_FILTERS = ("Outcome", "Flipped", "Status", "Finish reason", "Error kind", "Check", "Tag", "Target")
_KEYS = (
    ("/", "search"),
    ("j k", "next, previous dialogue"),
    ("n p", "next, previous turn"),
    ("f", "next failure"),
    ("Esc", "leave a field"),
)


def section(name: str, title: str, content: Iterable[Markup]) -> Markup:
    """Return a section of a page."""
    heading = f"section-{name}"
    return element("section", element("h2", title, id=heading), *content, aria_labelledby=heading)


def jump_list(sections: Iterable[tuple[str, str]]) -> Markup:
    """Return links to sections by their names and titles."""
    links = [element("li", element("a", title, href=f"#section-{name}")) for name, title in sections]
    return element("nav", element("ul", *links), class_="jump", aria_label="Sections")


def viewer(data: PackedTranscripts, narrower: str) -> Markup:
    """Return the section that the script fills.

    Args:
        data: What the page has, and what it leaves out.
        narrower: A command that makes a page of other dialogues.
    """
    keys = [element("span", *(element("kbd", key) for key in name.split()), f" {what}") for name, what in _KEYS]
    panes = element(
        "div",
        element(
            "nav",
            element("ol", id="dialogues"),
            element("button", "Show more", type="button", id="more", hidden=True),
            aria_label="Dialogues",
            tabindex="0",
            id="list",
        ),
        element("article", id="dialogue", aria_label="Transcript", tabindex="-1"),
        class_="panes",
    )
    found = element("p", id="found", role="status")
    content = [*_notes(data, narrower), _form(), element("p", *keys, class_="keys"), found, panes]
    return section("transcripts", "Transcripts", content)


def _form() -> Markup:
    controls = [
        element("label", name, element("select", element("option", "all", value=""), aria_label=name, id=_id(name)))
        for name in _FILTERS
    ]
    search = element("input", type="search", id="filter-text", aria_label="Search text", autocomplete="off")
    mark = element("input", type="checkbox", id="mark-words", checked=True)
    return element(
        "form",
        element("label", "Text", search),
        *controls,
        element("label", mark, "Mark differing words", class_="check"),
        element("button", "Clear filters", type="reset"),
        id="filters",
        role="search",
        aria_label="Filter dialogues",
    )


def _notes(data: PackedTranscripts, narrower: str) -> Iterator[Markup]:
    yield element("noscript", element("p", "Transcripts need JavaScript; the rest of the page does not."))
    left_out = data.seen - data.kept
    if left_out:
        yield element(
            "p",
            f"This page has {data.kept:,} of {counted(data.seen, 'dialogue')}, those that failed first; it has no "
            f"room for {counted(left_out, 'more dialogue')}: ",
            element("code", narrower),
            " makes a page of fewer, ",
            element("code", "convbatch show RUN DIALOGUE"),
            " prints one.",
            class_="warning",
            id="left-out",
        )
    if data.media_left_out:
        files = counted(data.media_left_out, "large file")
        yield element("p", f"{files} of pictures or sound left out.", class_="note")


def _id(name: str) -> str:
    return "filter-" + name.lower().replace(" ", "-")
