"""The page of `convbatch audit -o audit.html`: the verdict, a table and the evidence of each pair, transcripts.

Words are those of `render.py`; the parts that a report has too are from `reporting/page`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convbatch.auditing.finding import Evidence
from convbatch.auditing.judge import Audit, JudgedPair, JudgedQuestion
from convbatch.auditing.render import HEADINGS, VERDICTS, needed, question_rows, sentences
from convbatch.console.html import Markup, element
from convbatch.console.text import shorten
from convbatch.reporting.page.causes import Place
from convbatch.reporting.page.document import html_page
from convbatch.reporting.page.overview import how_it_was_made
from convbatch.reporting.page.report_page import source_line
from convbatch.reporting.page.tables import Table, table
from convbatch.reporting.page.transcript_data import PageColumn, PageLimits, TranscriptData
from convbatch.reporting.page.viewer import jump_list, section, viewer
from convbatch.reporting.runs import load_runs
from convbatch.results.filters import EVERYTHING, Matcher
from convbatch.results.run import Run
from convbatch.results.several import target_names
from convbatch.results.transcripts import transcripts

REPLY_SHOWN = 1_000
"""Characters of a reply among the evidence; the transcripts have all."""
_STYLES = {"different": "regression", "inconclusive": "inconclusive", "consistent": "non-inferior"}
"""Class of the box of a verdict, as on the page of a comparison."""
_PLAIN = {
    "different": "What the candidate serves is not what the reference serves.",
    "inconclusive": "It cannot be told whether both serve the same model.",
    "consistent": "Nothing differs, and each question could have found the effect that it names.",
}


def audit_page(audit: Audit, runs: Sequence[Run], limits: PageLimits | None = None) -> bytes:
    """Return an audit as a page.

    Args:
        audit: The result.
        runs: The runs it is of.
        limits: The most that the page has.
    """
    runs = list({run.path.resolve(): run for run in runs}.values())
    columns = [
        PageColumn(place, number, name)
        for place, names in enumerate(target_names(runs))
        for number, name in enumerate(names)
    ]
    data = TranscriptData(runs, columns, limits)
    for dialogue, replies in transcripts(runs, None, Matcher(EVERYTHING)):
        if chosen := data.select(replies):
            data.add(dialogue, chosen)
    packed = data.pack(None)
    names = [*((f"pair-{n}", _title(pair)) for n, pair in enumerate(audit.pairs)),
             ("transcripts", "Transcripts"), ("made", "How it was made")]  # fmt: skip
    head = (source_line(runs), element("h1", "Audit"), _verdict(audit), jump_list(names))
    content = (
        *(section(f"pair-{n}", _title(pair), _pair(pair)) for n, pair in enumerate(audit.pairs)),
        viewer(packed, "convbatch audit RUN:target RUN:target -o audit.html"),
        section("made", "How it was made", how_it_was_made(load_runs(runs, None, None))),
    )
    parts = (element("header", *head), element("main", *content))
    return html_page(f"{audit.verdict}: audit", parts, packed.packed)


def _title(pair: JudgedPair) -> str:
    return f"{pair.candidate} against {pair.reference}: {pair.verdict}"


def _verdict(audit: Audit) -> Markup:
    parts = [
        element("p", audit.verdict, class_="word"),
        element("p", _PLAIN[audit.verdict], class_="plain"),
        *(element("p", line) for line in sentences(audit)),
        *(element("p", note, class_="note") for note in audit.notes),
        element("p", f"Exit code {audit.exit_code:d}.", class_="note"),
    ]
    return element("section", *parts, class_=f"verdict-box {_STYLES[audit.verdict]}", aria_label="Verdict")


def _pair(pair: JudgedPair) -> Iterator[Markup]:
    if not pair.questions:
        yield element("p", "There is nothing to compare.")
        return
    figures = [False, False, *(True for _ in HEADINGS[2:])]
    yield table(Table(HEADINGS, figures, list(question_rows(pair))), "Questions and verdicts")
    for one in sorted(pair.questions, key=lambda one: VERDICTS.index(one.verdict)):
        yield from _question(one)


def _question(one: JudgedQuestion) -> Iterator[Markup]:
    finding = one.finding
    yield element("h3", f"{finding.question}: {one.verdict}")
    yield from (element("p", part) for part in finding.detail.split("; "))
    if finding.effect is not None and finding.measure:
        yield element("p", f"Effect: {finding.measure}.", class_="note")
    if (what := needed(one)) is not None:
        yield element("p", f"A decision would take: {what}.", class_="advice")
    if one.verdict == "different" and finding.evidence:
        yield element("ul", *map(_evidence, finding.evidence))


def _evidence(each: Evidence) -> Markup:
    place = Place(each.dialogue, each.turn)
    parts = [element("a", str(place), href=place.link), f": {shorten(each.prompt, REPLY_SHOWN)}"]
    for name, text in (("reference", each.reference), ("candidate", each.candidate)):
        if text is not None:
            parts.append(element("p", element("strong", f"{name}: "), shorten(text, REPLY_SHOWN) or "(empty)"))
    return element("li", *parts, *([element("p", each.note)] if each.note else []))
