"""The page of `convbatch prefer -o prefer.html`: targets, pairs, biases of the judge, and every comparison.

Words are those of `preference_render.py`; the parts that a report has too are from `reporting/page`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from convbatch.comparison.preference_render import (
    BIAS_HEADINGS,
    PAIR_HEADINGS,
    SHARE_NOTE,
    SIMILAR_NOTE,
    TARGET_HEADINGS,
    bias_rows,
    facts,
    oriented,
    pair_cells,
    sentence,
    target_cells,
)
from convbatch.comparison.preferences import Preferences
from convbatch.comparison.rank_render import GROUPS_NOTE
from convbatch.comparison.stats import Interval
from convbatch.console.html import Markup, element
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
from convbatch.results.transcripts import transcripts

MOST_COMPARISONS = 1_000
"""On the page; the run folder has all."""
_PAIRS_DRAWN = 30


def preference_page(found: Preferences, limits: PageLimits | None = None) -> bytes:
    """Return a result as a page, with the questions and answers of the judge.

    Args:
        found: The result.
        limits: The most that the page has.
    """
    reported = [] if found.run is None else load_runs([found.run], None, None)
    runs = [one.run for one in reported]
    columns = [PageColumn(0, n, name, "judge") for run in runs for n, name in enumerate(run.targets)]
    data = TranscriptData(runs, columns, limits)
    for dialogue, replies in transcripts(runs, None, Matcher(EVERYTHING)) if runs else ():
        if chosen := data.select(replies):
            data.add(dialogue, chosen, {})
    packed = data.pack()
    sections = [("targets", "Targets"), ("pairs", "Pairs"), ("biases", "Biases of the judge"),
                ("comparisons", "Comparisons"),
                *([("transcripts", "Transcripts"), ("made", "How it was made")] if reported else [])]  # fmt: skip
    head = [*([source_line(runs)] if reported else []),
            element("h1", f"Preferences between {len(found.targets)} targets"), _result(found),
            jump_list(sections)]  # fmt: skip
    content = [
        section("targets", "Targets", _targets(found)),
        section("pairs", "Pairs", _pairs(found)),
        section("biases", "Biases of the judge", _biases(found)),
        section("comparisons", "Comparisons", _comparisons(found)),
    ]
    if reported:
        content.append(viewer(packed, "convbatch prefer RUN -o prefer.html"))
        content.append(section("made", "How it was made", how_it_was_made(reported)))
    return html_page(sentence(found), (element("header", *head), element("main", *content)), packed.packed)


def _result(found: Preferences) -> Markup:
    style = "improved" if found.proven else "inconclusive"
    parts = [element("p", f"{sentence(found)}.", class_="plain")]
    parts += [element("p", line, class_="note") for line in facts(found)]
    return element("section", *parts, class_=f"verdict-box {style}", aria_label="Result")


def _targets(found: Preferences) -> Iterator[Markup]:
    rows = [target_cells(one) for one in found.targets]
    numeric = [n not in (0, 6) for n in range(len(TARGET_HEADINGS))]
    yield table(Table(TARGET_HEADINGS, numeric, rows), "Targets, the most preferred first")
    yield element("p", SHARE_NOTE, class_="note")
    yield element("p", GROUPS_NOTE, class_="note")
    if found.targets[0].share is not None:
        bars = [(f"{one.name} ({one.groups})", one.share, one.ci) for one in found.targets]
        note = "Overlapping intervals do not decide a pair: the pairs do."
        yield from charts([_shares(found, "preference", "Preference of each target", bars, note)])


def _pairs(found: Preferences) -> Iterator[Markup]:
    rows = [pair_cells(found, one) for one in found.pairs]
    numeric = [n not in (0, 1, 8) for n in range(len(PAIR_HEADINGS))]
    yield table(Table(PAIR_HEADINGS, numeric, rows), "Every pair of targets")
    yield element("p", SIMILAR_NOTE, class_="note")
    pairs = [oriented(found, pair) for pair in found.pairs]
    bars = [(f"{one.first} over {one.second}", one.share, one.ci) for one in pairs[:_PAIRS_DRAWN]]
    note = None if len(pairs) <= _PAIRS_DRAWN else f"The first {_PAIRS_DRAWN} of {len(pairs):,}."
    if any(share is not None for _, share, _ in bars):
        yield from charts([_shares(found, "pairs", "Preference in each pair", bars, note)])


def _biases(found: Preferences) -> Iterator[Markup]:
    yield table(Table(BIAS_HEADINGS, [n > 0 for n in range(len(BIAS_HEADINGS))], bias_rows(found)), "What it favours")


def _comparisons(found: Preferences) -> Iterator[Markup]:
    headings = ("dialogue", "turn", "first", "second", "first in front", "second in front", "result", "reason")
    shown = found.comparisons[:MOST_COMPARISONS]
    rows = [
        [
            one.dialogue,
            "dialogue" if one.turn is None else str(one.turn),
            one.first,
            one.second,
            one.choices[0] or "–",
            one.choices[1] or "–",
            {1.0: one.first, 0.0: one.second, 0.5: "tie"}.get(-1.0 if one.score is None else one.score, "no verdict"),
            one.why or one.reasons[0],
        ]
        for one in shown
    ]
    yield table(Table(headings, [n == 1 for n in range(len(headings))], rows), "What the judge named")
    if len(found.comparisons) > len(shown):
        yield element("p", f"The first {len(shown):,} of {len(found.comparisons):,}.", class_="note")


def _shares(
    found: Preferences,
    name: str,
    title: str,
    bars: Iterable[tuple[str, float | None, Interval | None]],
    note: str | None,
) -> Figure:
    """Draw shares of wins with their intervals; those without are left out."""
    shown = [(of, value, ci) for of, value, ci in bars if value is not None and ci is not None]
    settings = {
        "values": [
            {
                "row": number,
                "label": label(of, 48),
                "value": 100 * value,
                "low": 100 * ci.low,
                "high": 100 * ci.high,
                "margin": None,
                "text": f"{100 * value:.1f} %",
            }
            for number, (of, value, ci) in enumerate(shown)
        ],
        "reference": [{"at": 50}],
        "domain": [0, 100],
        "format": "~r",
        "title": f"share of wins (%) with {100 * (1 - found.rules.alpha):.4g} % intervals, all at once",
    }
    rows: list[tuple[Cell, ...]] = [(of, 100 * value, 100 * ci.low, 100 * ci.high) for of, value, ci in shown]
    columns = ("of", "share of wins (%)", "interval from", "to")
    return FigurePlan(name, title, Chart("intervals", settings), columns, rows, note).drawn()
