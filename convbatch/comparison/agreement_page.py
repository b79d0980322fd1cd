"""The page of `convbatch judge-check -o agreement.html`: verdict, tables, what differs, transcripts."""

from __future__ import annotations

from collections.abc import Iterator

from convbatch.comparison.agreement import TRUSTED, Agreement
from convbatch.comparison.agreement_render import (
    DISAGREEMENTS_WRITTEN,
    all_tables,
    disagreement_lines,
    disagreements_title,
    facts,
    sentence,
)
from convbatch.console.html import Markup, element
from convbatch.reporting.page.causes import Place
from convbatch.reporting.page.document import html_page
from convbatch.reporting.page.overview import how_it_was_made
from convbatch.reporting.page.report_page import source_line
from convbatch.reporting.page.tables import Table, table
from convbatch.reporting.page.transcript_data import PageColumn, PageLimits, TranscriptData
from convbatch.reporting.page.viewer import jump_list, section, viewer
from convbatch.reporting.runs import load_runs
from convbatch.results.filters import EVERYTHING, Matcher
from convbatch.results.transcripts import transcripts


def agreement_page(found: Agreement, limits: PageLimits | None = None) -> bytes:
    """Return the agreement of a judge with people as a page.

    Args:
        found: Of a run.
        limits: The most that the page has.
    """
    reported = load_runs([found.source], None, None)
    runs = [one.run for one in reported]
    columns = [PageColumn(0, number, name, "") for number, name in enumerate(runs[0].targets)]
    data = TranscriptData(runs, columns, limits)
    for dialogue, replies in transcripts(runs, None, Matcher(EVERYTHING)):
        if chosen := data.select(replies):
            data.add(dialogue, chosen, {})
    packed = data.pack()
    names = [("agreement", "Agreement"), ("differing", "What differs"), ("transcripts", "Transcripts"),
             ("made", "How it was made")]  # fmt: skip
    head = (source_line(runs), element("h1", f"Judge and people: {found.run}"), _verdict(found), jump_list(names))
    content = (
        section("agreement", "Agreement", _tables(found)),
        section("differing", disagreements_title(found), _differing(found)),
        viewer(packed, "convbatch judge-check RUN LABELS.csv -o agreement.html"),
        section("made", "How it was made", how_it_was_made(reported)),
    )
    return html_page(sentence(found), (element("header", *head), element("main", *content)), packed.packed)


def _verdict(found: Agreement) -> Markup:
    word, _, text = sentence(found).partition(": ")
    ends = found.overall.kappa.ci
    style = "improved" if ends is not None and ends.low >= TRUSTED else "inconclusive"
    style = "regression" if word.startswith("NOT") else style
    parts = [element("p", word.lower(), class_="word"), element("p", f"{text[:1].upper()}{text[1:]}.", class_="plain")]
    parts += [element("p", line, class_="note") for line in facts(found)]
    return element("section", *parts, class_=f"verdict-box {style}", aria_label="Verdict")


def _tables(found: Agreement) -> Iterator[Markup]:
    for one in all_tables(found):
        headings = [name or "who" for name in one.headings]
        yield table(Table(headings, [n not in one.left for n in range(len(headings))], one.rows), one.title)


def _differing(found: Agreement) -> Iterator[Markup]:
    if not found.disagreements:
        yield element("p", "Judge and people agree on every item.")
        return
    items: list[Markup] = []
    for one in found.disagreements[:DISAGREEMENTS_WRITTEN]:
        head, people, judge = disagreement_lines(found, one)
        link = element("a", head, href=Place(one.key.dialogue, one.key.turn).link)
        items.append(element("li", link, element("p", people, dir="auto"), element("p", judge, dir="auto")))
    yield element("ul", *items)
    if (left := len(found.disagreements) - DISAGREEMENTS_WRITTEN) > 0:
        yield element("p", f"… and {left:,} more: -o agreement.json", class_="note")
