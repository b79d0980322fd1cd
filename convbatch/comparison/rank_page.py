"""The page of `convbatch rank -o rank.html`: the ranking, charts of it and of every difference, transcripts.

Words are those of `rank_render.py`; the parts that a report has too are from `reporting/page`.
"""

from __future__ import annotations

from collections.abc import Iterator

from convbatch.comparison.rank import Ranking
from convbatch.comparison.rank_render import (
    FRONT_NOTE,
    GROUPS_NOTE,
    difference_cells,
    difference_headings,
    difference_result,
    facts,
    oriented,
    sentence,
    standing_cells,
    standing_headings,
    value_text,
)
from convbatch.console.html import Markup, element
from convbatch.reporting.charts.changes import Change, change_figures
from convbatch.reporting.charts.drawing import Chart, label
from convbatch.reporting.charts.figure import Cell, Figure, FigurePlan
from convbatch.reporting.page.charts import charts
from convbatch.reporting.page.document import html_page
from convbatch.reporting.page.overview import how_it_was_made
from convbatch.reporting.page.report_page import source_line
from convbatch.reporting.page.tables import Table, table
from convbatch.reporting.page.transcript_data import PageColumn, PageLimits, TranscriptData
from convbatch.reporting.page.viewer import jump_list, section, viewer
from convbatch.reporting.runs import load_runs
from convbatch.results.filters import EVERYTHING, Matcher
from convbatch.results.run import Run
from convbatch.results.transcripts import transcripts


def ranking_page(ranking: Ranking, limits: PageLimits | None = None) -> bytes:
    """Return a ranking as a page.

    Args:
        ranking: Of two targets or more.
        limits: The most that the page has.
    """
    found: dict[str, Run] = {str(run.path.resolve()): run for run, _ in ranking.selected}
    reported = load_runs(list(found.values()), None, None)
    runs = [one.run for one in reported]
    names = {(one.run, one.target): one.name for one in ranking.standings}
    columns = [
        PageColumn(
            place := list(found).index(str(run.path.resolve())),
            runs[place].targets.index(target),
            names[run.name, target],
            f"rank {1 + [one.name for one in ranking.standings].index(names[run.name, target])}",
        )
        for run, target in ranking.selected
    ]
    data = TranscriptData(runs, columns, limits)
    for dialogue, replies in transcripts(runs, None, Matcher(EVERYTHING)):
        if chosen := data.select(replies):
            data.add(dialogue, chosen, {})
    packed = data.pack()
    sections = [("ranking", "Ranking"), ("differences", "Differences"), ("transcripts", "Transcripts"),
                ("made", "How it was made")]  # fmt: skip
    head = (source_line(runs), element("h1", f"Ranking of {len(ranking.standings)} targets"), _result(ranking),
            jump_list(sections))  # fmt: skip
    content = (
        section("ranking", "Ranking", _standings(ranking)),
        section("differences", "Differences", _differences(ranking)),
        viewer(packed, "convbatch rank RUN:target RUN:target -o rank.html"),
        section("made", "How it was made", how_it_was_made(reported)),
    )
    return html_page(sentence(ranking), (element("header", *head), element("main", *content)), packed.packed)


def _result(ranking: Ranking) -> Markup:
    style = "improved" if ranking.proven else "inconclusive"
    parts = [element("p", f"{sentence(ranking)}.", class_="plain")]
    parts += [element("p", line, class_="note") for line in facts(ranking)]
    return element("section", *parts, class_=f"verdict-box {style}", aria_label="Result")


def _standings(ranking: Ranking) -> Iterator[Markup]:
    headings = standing_headings(ranking)
    rows = [standing_cells(ranking, one) for one in ranking.standings]
    yield table(Table(headings, [n not in (0, 3, 6) for n in range(len(headings))], rows), "Targets, the best first")
    yield element("p", GROUPS_NOTE, class_="note")
    yield element("p", FRONT_NOTE, class_="note")
    yield from charts([_standing_figure(ranking)])


def _differences(ranking: Ranking) -> Iterator[Markup]:
    headings = difference_headings(ranking)
    rows = [difference_cells(ranking, one) for one in ranking.differences]
    yield table(Table(headings, [n in (2, 3, 4) for n in range(len(headings))], rows), "Every pair of targets")
    changes: list[Change] = []
    for one in ranking.differences:
        if one.result is None:
            continue
        first, second, sign = oriented(ranking, one)
        ends = (None, None) if one.ci is None else sorted(sign * end for end in one.ci)
        name = f"{second} against {first}"
        verdict = difference_result(one).partition(":")[0]
        changes.append(Change(name, sign * one.result.difference, ends[0], ends[1], None, False, verdict))
    yield from charts(change_figures(changes, 1 - ranking.rules.alpha, "pairs", " between targets, all at once"))


def _standing_figure(ranking: Ranking) -> Figure:
    is_score = ranking.metric == "score"
    unit = "mean score" if is_score else "passed (%)"
    factor = 1 if is_score else 100
    share = f"{100 * (1 - ranking.rules.alpha):.4g} % intervals, all at once"
    rows: list[tuple[Cell, ...]] = [
        (one.name, factor * one.estimate, factor * one.ci.low, factor * one.ci.high) for one in ranking.standings
    ]
    settings = {
        "values": [
            {
                "row": number,
                "label": label(f"{one.name} ({one.groups})", 36),
                "value": factor * one.estimate,
                "low": factor * one.ci.low,
                "high": factor * one.ci.high,
                "margin": None,
                "text": value_text(ranking, one.estimate),
            }
            for number, one in enumerate(ranking.standings)
        ],
        "reference": [],
        "domain": [0, factor],
        "format": "~r",
        "title": f"{unit} with {share}",
    }
    columns = ("target", unit, "interval from", "to")
    note = "Overlapping intervals do not decide a pair: the differences do."
    return FigurePlan("ranking", "Quality of each target", Chart("intervals", settings), columns, rows, note).drawn()
