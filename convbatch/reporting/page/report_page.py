"""The page of `convbatch report -o report.html`: the sections of a report, the failures by cause, and transcripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convbatch.console.html import Markup, element
from convbatch.reporting.charts.figures import chart_figures
from convbatch.reporting.page.causes import CAUSES_TITLE, Causes
from convbatch.reporting.page.charts import charts
from convbatch.reporting.page.document import html_page
from convbatch.reporting.page.overview import (
    cards,
    how_it_was_made,
    pass_intervals,
    target_totals,
    totals_table,
    warnings,
)
from convbatch.reporting.page.tables import Table, table
from convbatch.reporting.page.transcript_data import PageLimits, TranscriptData, page_columns
from convbatch.reporting.page.viewer import jump_list, section, viewer
from convbatch.reporting.render import TableView, table_views
from convbatch.reporting.runs import ReportedRun
from convbatch.reporting.section import Section
from convbatch.results.filters import Matcher
from convbatch.results.run import Run
from convbatch.results.transcripts import transcripts

_NARROWER = "convbatch report RUN --tag TAG -o tag.html"
_OPEN = ("errors", "served")
"""Sections that are not folded."""


def report_page(
    runs: Sequence[ReportedRun], sections: Sequence[Section], matcher: Matcher, limits: PageLimits | None = None
) -> bytes:
    """Return a report as a page.

    Args:
        runs: As `load_runs` returns them.
        sections: The report's sections on these runs.
        matcher: Which turns count; transcripts are of conversations that have such a turn.
        limits: The most that the page has.
    """
    read = [reported.run for reported in runs]
    causes, data = Causes(), TranscriptData(read, page_columns(read), limits)
    for dialogue, columns in transcripts(read, None, matcher):
        if matching := data.select(columns):
            causes.add(dialogue, matching)
            data.add(dialogue, matching)
    packed = data.pack()
    totals = target_totals(runs, matcher)
    title = "Report: " + ", ".join(reported.label for reported in runs)
    names = [("summary", "Summary"), ("charts", "Charts"), ("failures", CAUSES_TITLE),
             ("transcripts", "Transcripts"), ("made", "How it was made")]  # fmt: skip
    head = (source_line(read), element("h1", title), *warnings(totals), cards(totals), jump_list(names))
    content = (
        section("summary", "Summary", [totals_table(totals), *section_tables(sections)]),
        section("charts", "Charts", charts(chart_figures(runs, matcher, pass_intervals(totals)))),
        section("failures", CAUSES_TITLE, causes.sections()),
        viewer(packed, _NARROWER),
        section("made", "How it was made", how_it_was_made(runs)),
    )
    return html_page(title, (element("header", *head), element("main", *content)), packed.packed)


def source_line(runs: Sequence[Run]) -> Markup:
    """Return a line with the datasets of the runs and when they began."""
    files = dict.fromkeys(source.path.rpartition("/")[2] for run in runs for source in run.manifest.dataset.sources)
    days = dict.fromkeys(run.manifest.created_at[:16].replace("T", " ") + " UTC" for run in runs)
    return element("p", " · ".join(("convbatch", *files, *days)), class_="source")


def section_tables(sections: Sequence[Section]) -> Iterator[Markup]:
    """Yield the tables of a report; most are folded."""
    for view in table_views(sections):
        yield element(
            "details", element("summary", view.title), *_table_with_notes(view), open=view.key in _OPEN, class_="fold"
        )


def _table_with_notes(view: TableView) -> Iterator[Markup]:
    if view.rows:
        yield table(Table(view.headings, view.numeric, view.rows), view.title)
    for note in view.notes:
        for line in note.splitlines():
            yield element("p", line, class_="note")
