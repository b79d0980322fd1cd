"""The page of `convbatch compare -o compare.html`: the verdict in plain words, the turns that flipped, transcripts.

Words and order are those of `render.py`; the parts that a report has too are from `reporting/page`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from convbatch.comparison.compare import Comparison, Flip
from convbatch.comparison.inputs import SelectedRun
from convbatch.comparison.metrics import MetricResult
from convbatch.comparison.render import (
    SLICE_HEADINGS,
    advice,
    facts,
    flip_title,
    flips_title,
    footnotes,
    history_warning,
    metric_headings,
    metric_rows,
    sentence,
    slice_rows,
)
from convbatch.console.html import Markup, element
from convbatch.console.text import shorten
from convbatch.errors import SetupError
from convbatch.reporting.charts.changes import Change, change_figures
from convbatch.reporting.charts.figure import Figure
from convbatch.reporting.charts.figures import chart_figures
from convbatch.reporting.page.causes import CAUSES_TITLE, Causes, Place
from convbatch.reporting.page.charts import charts
from convbatch.reporting.page.document import html_page
from convbatch.reporting.page.overview import (
    TargetTotals,
    cards,
    how_it_was_made,
    pass_intervals,
    target_totals,
    totals_table,
    warnings,
)
from convbatch.reporting.page.report_page import source_line
from convbatch.reporting.page.tables import Table, counted, table
from convbatch.reporting.page.transcript_data import PageColumn, PageLimits, TranscriptData
from convbatch.reporting.page.viewer import jump_list, section, viewer
from convbatch.reporting.runs import ReportedRun, load_runs
from convbatch.results.filters import EVERYTHING, Matcher
from convbatch.results.several import target_names
from convbatch.results.transcripts import transcripts

FLIPS_OPEN, FLIPS_SHOWN = 5, 200
"""Flipped turns that are not folded, and at most; the transcripts have all."""
_TEXT_SHOWN = 600
"""Characters of a reply in the list of flipped turns."""
_ROLES = ("base", "candidate")
_PLAIN = {
    "regression": "The candidate is worse than the base.",
    "regression-within-margin": "The candidate is a little worse than the base, within the accepted margin.",
    "inconclusive": "It cannot be told whether the candidate is worse than the base.",
    "non-inferior": "The candidate is as good as the base, within the accepted margin.",
    "improved": "The candidate is better than the base.",
}
_METRICS = {
    "dialogue_pass": "the share of dialogues that pass",
    "turn_pass": "the share of turns that pass",
    "input_tokens": "the number of input tokens",
    "output_tokens": "the number of output tokens",
}
"""Names of metrics in a sentence, where they are not words themselves."""


def comparison_page(comparison: Comparison, limits: PageLimits | None = None) -> bytes:
    """Return a comparison as a page.

    Args:
        comparison: Of two runs.
        limits: The most that the page has.

    Raises:
        SetupError: It is of frames, which have no transcripts.
    """
    if comparison.selected is None:
        raise SetupError("a comparison of frames has no page", hint="compare two runs")
    reported, places = _open_runs(comparison.selected)
    runs = [one.run for one in reported]
    columns = _columns(comparison.selected, reported, places)
    flips = _flips_by_dialogue(comparison.flips)
    causes, data = Causes(), TranscriptData(runs, columns, limits)
    for dialogue, replies in transcripts(runs, None, Matcher(EVERYTHING)):
        if chosen := data.select(replies):
            causes.add(dialogue, chosen)
            data.add(dialogue, chosen, flips.get(dialogue.id, {}))
    first = comparison.flips[0] if comparison.flips else None
    packed = data.pack(None if first is None else Place(first.dialogue, first.turn).link)
    totals = _chosen_totals(reported, columns)
    names = [("flipped", "Flipped turns"), ("metrics", "Metrics"), ("charts", "Charts"), ("failures", CAUSES_TITLE),
             ("transcripts", "Transcripts"), ("made", "How it was made")]  # fmt: skip
    head = (
        source_line(runs),
        element("h1", f"Comparison: {comparison.base} against {comparison.candidate}"),
        _verdict(comparison),
        *_notes(comparison),
        *warnings(totals),
        cards(totals, [column.role for column in columns]),
        jump_list(names),
    )
    content = (
        section("flipped", flips_title(comparison.flips), _flip_list(comparison.flips)),
        section("metrics", "Metrics", _metrics(comparison, totals)),
        section("charts", "Charts", charts([*_forest_plots(comparison), *_side_charts(reported, totals)])),
        section("failures", CAUSES_TITLE, causes.sections()),
        viewer(packed, "convbatch compare RUN:target RUN:target -o compare.html"),
        section("made", "How it was made", how_it_was_made(reported)),
    )
    title = f"{comparison.verdict}: {comparison.base} against {comparison.candidate}"
    return html_page(title, (element("header", *head), element("main", *content)), packed.packed)


# --- runs and columns ------------------------------------------------------------------------------------------------


def _open_runs(selected: Sequence[SelectedRun]) -> tuple[list[ReportedRun], list[int]]:
    """Return the runs, one of both sides once, and the place of each side's run."""
    base, candidate = (side.run for side in selected)
    is_one = base.path.resolve() == candidate.path.resolve()
    return load_runs([base] if is_one else [base, candidate], None, None), [0, 0 if is_one else 1]


def _columns(
    selected: Sequence[SelectedRun], reported: Sequence[ReportedRun], places: Sequence[int]
) -> list[PageColumn]:
    """Return the targets of both sides, those of the base first; one that is on both sides once."""
    names = target_names([one.run for one in reported])
    found: dict[tuple[int, int], PageColumn] = {}
    for side, place, role in zip(selected, places, _ROLES, strict=True):
        for target in side.targets:
            number = side.run.targets.index(target)
            known = found.get((place, number))
            both = role if known is None else f"{known.role} and {role}"
            found[place, number] = PageColumn(place, number, names[place][number], both)
    return list(found.values())


def _chosen_totals(reported: Sequence[ReportedRun], columns: Sequence[PageColumn]) -> list[TargetTotals]:
    totals = {one.name: one for one in target_totals(reported, Matcher(EVERYTHING))}
    return [totals[column.name] for column in columns]


# --- the verdict -----------------------------------------------------------------------------------------------------


def _verdict(comparison: Comparison) -> Markup:
    """Return the verdict: a word, a plain sentence, the numbers behind it, and what the gate says."""
    harmful = [flip for flip in comparison.flips if flip.change == "harmful"]
    parts = [
        element("p", comparison.verdict.replace("-", " "), class_="word"),
        element("p", _PLAIN[comparison.verdict], class_="plain"),
        element("p", _numbers(comparison)),
    ]
    if harmful:
        worst = Place(harmful[0].dialogue, harmful[0].turn)
        parts.append(element("p", "Worst regressed turn: ", element("a", str(worst), href=worst.link)))
    parts.append(element("p", f"Gate: {comparison.gate}, exit code {comparison.exit_code:d}.", class_="note"))
    return element("section", *parts, class_=f"verdict-box {comparison.verdict}", aria_label="Verdict")


def _numbers(comparison: Comparison) -> str:
    """Return the sentence of the terminal with words for the metric, and how many dialogues and turns changed."""
    _, _, text = sentence(comparison).partition(": ")
    name = comparison.primary
    text = text.replace(name, _METRICS.get(name, name), 1)
    counts: list[str] = []
    if comparison.judged:
        result = comparison.judged[0].result
        counts.append(
            f"{result.worse:,} of {counted(result.dialogues, 'dialogue')} got worse, {result.better:,} better"
        )
    if comparison.flips:
        worse = sum(flip.change == "harmful" for flip in comparison.flips)
        counts.append(f"{counted(worse, 'turn')} flipped to worse, {len(comparison.flips) - worse:,} to better")
    return ". ".join([f"{text[:1].upper()}{text[1:]}", *counts]) + "."


def _notes(comparison: Comparison) -> Iterator[Markup]:
    if warning := history_warning(comparison):
        yield element("p", warning, class_="warning")
    for line in advice(comparison):
        yield element("p", line, class_="advice")


# --- flipped turns ---------------------------------------------------------------------------------------------------


def _flips_by_dialogue(flips: Iterable[Flip]) -> Mapping[str, dict[int | None, str]]:
    found: dict[str, dict[int | None, str]] = {}
    for flip in flips:
        found.setdefault(flip.dialogue, {})[flip.turn] = "worse" if flip.change == "harmful" else "better"
    return found


def _flip_list(flips: Sequence[Flip]) -> Iterator[Markup]:
    """Yield the flipped turns, the worst first; those after the first few are folded."""
    if not flips:
        yield element("p", "No turn flipped from passed to failed or back.")
        return
    harmful = [flip for flip in flips if flip.change == "harmful"][:FLIPS_SHOWN]
    better = [flip for flip in flips if flip.change != "harmful"][:FLIPS_SHOWN]
    if harmful:
        yield element("ol", *map(_flip, harmful[:FLIPS_OPEN]), class_="flips")
    if rest := harmful[FLIPS_OPEN:]:
        yield _folded(f"{counted(len(rest), 'more turn')} that got worse", rest)
    if better:
        yield _folded(f"{counted(len(better), 'turn')} that got better", better)
    if left := len(flips) - len(harmful) - len(better):
        yield element("p", f"… and {left:,} more: filter the transcripts by Flipped", class_="note")


def _folded(title: str, flips: Sequence[Flip]) -> Markup:
    return element("details", element("summary", title), element("ol", *map(_flip, flips), class_="flips"))


def _flip(flip: Flip) -> Markup:
    place = Place(flip.dialogue, flip.turn)
    link = element("a", str(place), href=place.link)
    change = flip_title(flip).rpartition(": ")[2]
    head = element("h3", link, " ", element("span", change, class_=f"badge {flip.change}"))
    asked = [] if flip.user is None else [element("p", shorten(flip.user, _TEXT_SHOWN), class_="asked", dir="auto")]
    sides = element("div", *(_flip_side(flip, role) for role in _ROLES), class_="replies")
    return element("li", head, *asked, sides)


def _flip_side(flip: Flip, role: str) -> Markup:
    status, reply, reason = (getattr(flip, f"{role}_{name}") for name in ("status", "reply", "reason"))
    parts = [element("h4", role)]
    if reply:
        parts.append(element("div", shorten(reply, _TEXT_SHOWN), class_="text", dir="auto"))
    elif flip.turn is not None:
        parts.append(element("p", f"({status})", class_="facts"))
    if reason:
        parts.append(element("p", f"failed: {shorten(reason, _TEXT_SHOWN)}", class_="verdict failed", dir="auto"))
    elif status not in ("error", "skipped", "pending"):
        parts.append(element("p", "passed", class_="verdict passed"))
    return element("div", *parts, class_="reply")


# --- charts and tables -----------------------------------------------------------------------------------------------


def _forest_plots(comparison: Comparison) -> list[Figure]:
    judged = [_change(one.result.metric, one.result, one.margin, one.verdict) for one in comparison.judged]
    return change_figures(judged, 1 - comparison.rules.alpha)


def _slice_plots(comparison: Comparison) -> list[Figure]:
    changed = [_change(one.slice, one.result) for one in comparison.parts if one.result.worse or one.result.better]
    return change_figures(changed, 1 - comparison.rules.alpha, "slices", " by slice, exploratory")


def _change(name: str, result: MetricResult, margin: float | None = None, verdict: str = "") -> Change:
    low, high = (None, None) if result.ci is None else result.ci
    if result.ratio is None:
        return Change(name, result.difference, low, high, margin, False, verdict)
    low, high = (None if end is None else end - 1 for end in (low, high))
    return Change(name, result.ratio - 1, low, high, margin, True, verdict)


def _side_charts(reported: Sequence[ReportedRun], totals: Sequence[TargetTotals]) -> list[Figure]:
    """Return the charts of a report, where they have no target that is not compared."""
    if len(totals) < sum(len(one.run.targets) for one in reported):
        return []
    return chart_figures(reported, Matcher(EVERYTHING), pass_intervals(totals))


def _metrics(comparison: Comparison, totals: Sequence[TargetTotals]) -> Iterator[Markup]:
    if comparison.judged:
        headings = metric_headings(comparison)
        numeric = [0 < n < len(headings) - 1 for n in range(len(headings))]
        yield table(Table(headings, numeric, metric_rows(comparison)), "Base against candidate")
    for note in footnotes(comparison):
        yield element("p", note, class_="note")
    yield totals_table(totals)
    if slices := slice_rows(comparison):
        numeric = [n > 1 for n in range(len(SLICE_HEADINGS))]
        title = "Slices: exploratory, never a gate"
        content = table(Table(SLICE_HEADINGS, numeric, slices), title)
        yield element("details", element("summary", title), content, *charts(_slice_plots(comparison)))
    lines = [element("li", " ".join(line.split())) for line in facts(comparison)]
    yield element("details", element("summary", "What was compared"), element("ul", *lines))
