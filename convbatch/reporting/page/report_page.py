"""The page of `convbatch report -o report.html`: the sections of a report, the failures by cause, and transcripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convbatch.console.html import Markup, element
from convbatch.reporting.page.causes import Causes
from convbatch.reporting.page.document import html_page
from convbatch.reporting.page.overview import headline, how_it_was_made, target_totals, totals_table
from convbatch.reporting.page.tables import Table, table
from convbatch.reporting.page.transcript_data import PageLimits, TranscriptData
from convbatch.reporting.page.viewer import section, viewer
from convbatch.reporting.render import table_views
from convbatch.reporting.runs import ReportedRun
from convbatch.reporting.section import Section
from convbatch.results.filters import Matcher
from convbatch.results.transcripts import transcripts


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
    causes, data = Causes(), TranscriptData(read, limits=limits)
    for dialogue, columns in transcripts(read, None, matcher):
        matching = [column for column in columns if column.matches]
        if matching:
            causes.add(dialogue, matching)
            data.add(dialogue, matching)
    packed, kept = data.pack()
    totals = target_totals(runs, matcher)
    failures = list(causes.sections()) or [element("p", "Nothing failed.")]
    title = "Report: " + ", ".join(reported.label for reported in runs)
    parts = (
        element("header", element("h1", title), *headline(totals)),
        element(
            "main",
            section("summary", "Summary", [totals_table(totals), *_sections(sections)]),
            section("failures", "Failures by cause", failures),
            viewer(data.seen - len(kept)),
            section("made", "How it was made", how_it_was_made(runs)),
        ),
    )
    return html_page(title, parts, packed)


def _sections(sections: Sequence[Section]) -> Iterator[Markup]:
    """Yield the tables of the report, each folded."""
    for view in table_views(sections):
        content = Table(view.headings, view.numeric, view.rows)
        notes = [element("p", line, class_="note") for note in view.notes for line in note.splitlines()]
        yield element("details", element("summary", view.title), table(content, view.title), *notes)
