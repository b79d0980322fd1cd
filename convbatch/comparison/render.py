"""Output of a comparison: a sentence and tables on the terminal, Markdown for a pull request, JSON, JUnit XML.

It decides wording and layout only. Every form begins with the verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any

from convbatch.comparison.compare import (
    MAX_LOST,
    Comparison,
    Flip,
    JudgedMetric,
)
from convbatch.comparison.metrics import MetricResult
from convbatch.comparison.records import flip_record, metric_record, slice_record
from convbatch.comparison.stats import Interval
from convbatch.console import tables
from convbatch.console.html import html_table
from convbatch.console.junit import JUnitCase, gate_outcome, junit_xml
from convbatch.console.markdown import md, md_row
from convbatch.console.text import printable
from convbatch.exit_codes import ExitCode
from convbatch.results.export import Content, Part, json_bytes

COMPARISON_PARTS: tuple[Part, ...] = ("value", "markdown", "junit", "page")
"""What a comparison can be written as; `-o` is checked against them before a run is read."""
FLIPS_SHOWN = 10
"""Number on a terminal; a Markdown page has room for more, JSON has all."""
FLIPS_WRITTEN = 30
SLICES_SHOWN = 15
REPLY_SHOWN, LINES_SHOWN = 400, 12
"""Characters and lines of a reply on a terminal or in a cell."""
_MIN_P = 0.001
_STYLES = {
    "regression": "bold red",
    "regression-within-margin": "bold yellow",
    "inconclusive": "bold yellow",
    "non-inferior": "bold green",
    "improved": "bold green",
}
_TESTS = {
    "mcnemar_midp": "McNemar mid-p",
    "sign_flip_midp": "sign-flip mid-p",
    "sign_test_midp": "sign test mid-p",
    "paired_t": "paired t",
    "ratio_of_totals_t": "t of the totals",
    "log_ratio_t": "t on log ratios",
}
SLICE_HEADINGS = ("slice", "metric", "dialogues", "base", "candidate", "change", "p, adjusted")


def to_terminal(comparison: Comparison, *, file: IO[str] | None = None) -> None:
    """Print a comparison, the verdict first."""
    console = tables.console(file)
    whole = not console.is_terminal  # whole lines for a pipe; on a terminal they are folded between words
    console.print(tables.single_line_text(sentence(comparison), _STYLES[comparison.verdict]), soft_wrap=whole)
    if warning := history_warning(comparison):
        console.print(tables.single_line_text(warning, "bold yellow"), soft_wrap=whole)
    for line in advice(comparison):
        console.print(tables.single_line_text(line), soft_wrap=whole)
    console.print()
    for line in facts(comparison):
        console.print(
            tables.single_line_text(line, "bold" if line.startswith("SIMULATED") else ""),
            soft_wrap=not console.is_terminal,
        )
    _print_table(console, metric_headings(comparison), metric_rows(comparison), left=(0, 6))
    for note in footnotes(comparison):
        console.print(tables.single_line_text(note), soft_wrap=whole)
    if slices := slice_rows(comparison):
        console.print()
        console.print(tables.single_line_text("Slices: exploratory, never a gate", "bold underline"))
        _print_table(console, SLICE_HEADINGS, slices, left=(0, 1))
    if comparison.flips:
        _print_flips(console, comparison.flips)


def to_html_summary(comparison: Comparison) -> str:
    """Return the verdict and a row per metric as HTML, for a notebook."""
    return html_table(sentence(comparison), metric_headings(comparison), metric_rows(comparison))


def comparison_content(comparison: Comparison) -> Content:
    """Return what a comparison can be written as: one object, a Markdown page, JUnit XML, or an HTML page."""

    def page() -> bytes:
        from convbatch.comparison.page import comparison_page

        return comparison_page(comparison)

    return {
        "value": lambda: to_value(comparison),
        "markdown": lambda: to_markdown(comparison),
        "junit": lambda: to_junit(comparison),
        "page": page,
    }


def to_json(comparison: Comparison) -> bytes:
    """Return the comparison as JSON."""
    return json_bytes(to_value(comparison))


def to_value(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as one JSON object; its keys are a contract."""
    pairs = comparison.pairs
    return {
        "verdict": comparison.verdict,
        "exit_code": comparison.exit_code,
        "gate": comparison.gate,
        "primary": comparison.primary,
        "base": comparison.base,
        "candidate": comparison.candidate,
        "alpha": comparison.rules.alpha,
        "strict": comparison.rules.strict,
        "currency": comparison.currency,
        "pairs": {
            "dialogues": len(pairs.whole),
            "turns": pairs.turns,
            "only_base": len(pairs.only_base),
            "only_candidate": len(pairs.only_candidate),
            "failed_base": pairs.failed_base,
            "failed_candidate": pairs.failed_candidate,
            "pending": len(pairs.pending),
            "without_verdict": len(comparison.without_verdict),
        },
        "metrics": [metric_record(one) for one in comparison.judged],
        "unavailable": dict(comparison.unavailable),
        "slices": [slice_record(one) for one in comparison.parts],
        "flipped": [flip_record(one) for one in comparison.flips],
        "first_divergence": [{"turn": turn, "dialogues": n} for turn, n in comparison.divergence().items()]
        if pairs.is_live
        else None,
        "served": {
            "base": [one._asdict() for one in comparison.served.base],
            "candidate": [one._asdict() for one in comparison.served.candidate],
            "one_model": comparison.served.one_model,
        },
        "histories_cut": {"base": comparison.changed.base, "candidate": comparison.changed.candidate},
        "warnings": list(filter(None, [history_warning(comparison)])),
        "summary": sentence(comparison),
        "notes": list(comparison.notes),
    }


def to_markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown, e.g. for a comment on a pull request."""
    parts = [f"## {md(printable(sentence(comparison)))}"]
    parts += [f"**{md(warning)}**"] if (warning := history_warning(comparison)) else []
    parts += [md(line) for line in advice(comparison)]
    parts.append("\n".join(f"- {md(printable(line))}" for line in facts(comparison)))
    if comparison.judged:
        parts.append(_md_table(metric_headings(comparison), metric_rows(comparison), left=(0, 6)))
    parts.append("\n".join(f"- {md(printable(note))}" for note in footnotes(comparison)))
    if slices := slice_rows(comparison):
        parts += ["### Slices: exploratory, never a gate", _md_table(SLICE_HEADINGS, slices, left=(0, 1))]
    if comparison.flips:
        parts.append(f"### {flips_title(comparison.flips)}")
        parts += [_md_flip(flip) for flip in comparison.flips[:FLIPS_WRITTEN]]
        if len(comparison.flips) > FLIPS_WRITTEN:
            parts.append(f"… and {len(comparison.flips) - FLIPS_WRITTEN:,} more")
    return "\n\n".join(part for part in parts if part) + "\n"


def to_junit(comparison: Comparison) -> bytes:
    """Return the comparison as JUnit XML: the verdict as the first test case, then one for every dialogue.

    The first case fails exactly when the exit code is 1, and is an error when it is 3. A dialogue that got worse fails
    only where the first case fails, and is output (`system-out`) elsewhere: whatever reads the file agrees with the
    exit code. One that is pending, unmatched or without a verdict is skipped.
    """
    result = {"verdict": comparison.verdict, "primary": comparison.primary, "exit_code": str(int(comparison.exit_code))}
    return junit_xml(
        f"convbatch compare {comparison.base} {comparison.candidate}",
        [_verdict_case(comparison), *_dialogue_cases(comparison)],
        {**result, "summary": sentence(comparison)},
    )


def _verdict_case(comparison: Comparison) -> JUnitCase:
    lines = [sentence(comparison), history_warning(comparison), *advice(comparison), *facts(comparison)]
    lines += footnotes(comparison)
    return JUnitCase(
        classname="convbatch compare",
        name=f"verdict: {comparison.primary}",
        outcome=gate_outcome(comparison.exit_code),
        message=sentence(comparison),
        text="\n".join(filter(None, lines)),
    )


def _dialogue_cases(comparison: Comparison) -> Iterator[JUnitCase]:
    flips: dict[str, list[Flip]] = {}
    for flip in comparison.flips:
        if flip.change == "harmful":
            flips.setdefault(flip.dialogue, []).append(flip)
    pairs = comparison.pairs
    left_out = {name: "a check without a verdict" for name in comparison.without_verdict if name not in flips}
    names = [name for name in pairs.whole if name not in left_out]
    left_out |= {name: "pending" for name in pairs.pending}
    left_out |= {name: "only in the base" for name in pairs.only_base}
    left_out |= {name: "only in the candidate" for name in pairs.only_candidate}
    gate_failed = comparison.exit_code == ExitCode.FAILED
    for name in names:
        worse = flips.get(name, ())
        yield JUnitCase(
            classname=comparison.candidate,
            name=name,
            outcome="failure" if worse and gate_failed else "passed",
            message="; ".join(map(flip_title, worse)),
            text="\n\n".join(map(_flip_text, worse)),
        )
    for name, why in left_out.items():
        yield JUnitCase(classname=comparison.candidate, name=name, outcome="skipped", message=why)


# --- words -----------------------------------------------------------------------------------------------------------


def sentence(comparison: Comparison) -> str:
    """Return the verdict as one sentence."""
    head = comparison.verdict.upper().replace("-WITHIN-MARGIN", " WITHIN MARGIN")
    if not comparison.judged:
        return f"{head}: no dialogue is finished on both sides"
    if comparison.notes and comparison.verdict == "inconclusive" and _lost(comparison):
        return f"{head}: {_lost(comparison)}"
    one = comparison.judged[0]
    result, name = one.result, one.result.metric
    match comparison.verdict:
        case "regression" | "regression-within-margin":
            within = f", but stays within {_within(one)}" if comparison.verdict != "regression" else ""
            return f"{head}: {name} got worse, {_change(result)}{within}"
        case "improved":
            return f"{head}: {name} got better, {_change(result)}"
        case "non-inferior":
            return f"{head}: {name} did not get worse by more than {_within(one)}, {_change(result)}"
        case _:
            return f"{head}: {_dialogues(result.dialogues)} cannot tell whether {name} got worse, {_change(result)}"


def history_warning(comparison: Comparison) -> str:
    """Return a warning if a model did not see what was sent; else an empty text."""
    changed = comparison.changed
    if not changed:
        return ""
    sides = (("base", changed.base, changed.base_replies), ("candidate", changed.candidate, changed.candidate_replies))
    counts = ", ".join(f"{count:,} of {total:,} replies of the {side}" for side, count, total in sides)
    return f"WARNING: the model did not see what was sent: the provider removed parts of the history in {counts}"


def _lost(comparison: Comparison) -> str:
    """Return why nothing is concluded although there are numbers; else an empty text."""
    if comparison.pairs.lost <= MAX_LOST and not comparison.judged[0].is_open and not comparison.is_void:
        return ""
    return next(note for note in comparison.notes if "nothing is concluded" in note)


def advice(comparison: Comparison) -> list[str]:
    """Return what an inconclusive comparison leaves possible, could have detected, and how many dialogues it needs."""
    if comparison.verdict != "inconclusive" or not comparison.judged or _lost(comparison):
        return []
    one = comparison.judged[0]
    result = one.result
    if result.test == "sign_test_midp":
        return [
            f"All dialogues have the same ratio: the sign test needs {result.dialogues_for_margin} of them at alpha "
            f"{comparison.rules.alpha:g}."
        ]
    if result.dialogues_for_margin is None:
        return ["One dialogue has no spread: compare more dialogues."]
    lines = [*_possible_harm(one)]
    n = result.dialogues
    smallest = "no difference at all"
    if result.smallest_detectable is not None:
        smallest = f"a difference of {_size(result, result.smallest_detectable)}"
    lines.append(f"With {_dialogues(n)} {smallest} can be found (power 0.8).")
    lines.append(
        f"To call an equally good candidate non-inferior within {_margin(one)} takes about "
        f"{_dialogues(result.dialogues_for_margin)}{_if_quiet(result)}."
    )
    if result.dialogues_needed is not None and result.dialogues_needed > n:
        lines.append(f"To find a difference as large as the observed one takes about {result.dialogues_needed:,}.")
    return lines


def _possible_harm(one: JudgedMetric) -> Iterator[str]:
    """Yield how much harm remains possible, where that is more than the margin."""
    result = one.result
    if result.harm_bound is None or result.harm_bound <= one.margin:
        return
    where = f"no dialogue of {result.dialogues:,} got worse: up" if not result.worse else "Up"
    line = (
        f"{where} to {_size(result, result.harm_bound)} of harm remain possible "
        f"(one-sided {_percent(result.confidence)})."
    )
    yield line[0].upper() + line[1:]


def _if_quiet(result: MetricResult) -> str:
    return "" if result.worse or result.better or result.is_ratio else " of which none differs"


def _change(result: MetricResult) -> str:
    """Return `from 90.0 % to 84.5 % (-5.5 points; 95 % interval -10.8 to -0.6; p = 0.029)`."""
    p = "" if result.p is None else f"; p {_p(result.p)}" if result.p < _MIN_P else f"; p = {_p(result.p)}"
    interval = (
        "interval unknown"
        if result.ci is None
        else f"{_percent(result.confidence)} interval {_interval(result, result.ci)}"
    )
    return (
        f"from {_value(result, result.base)} to {_value(result, result.candidate)} "
        f"({_difference(result)}; {interval}{p})"
    )


def _margin(one: JudgedMetric) -> str:
    return _size(one.result, one.margin)


def _within(one: JudgedMetric) -> str:
    """Return `the margin of 2 points (at most 1.6 points worse, one-sided 95 %)`, the basis of such a verdict."""
    result = one.result
    bound = _size(result, max(0.0, result.harm_bound or 0.0))
    return f"the margin of {_margin(one)} (at most {bound} worse, one-sided {_percent(result.confidence)})"


def _dialogues(count: int) -> str:
    return _count(count, "dialogue")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _percent(share: float) -> str:
    return f"{share * 100:.7g} %"


def _size(result: MetricResult, size: float) -> str:
    """Format a size without sign, in the metric's unit."""
    if result.is_ratio:
        return f"{size * 100:.3g} %"
    return f"{size:.3g}" if result.metric == "score" else f"{size * 100:.3g} points"


def _value(result: MetricResult, value: float) -> str:
    if result.metric == "latency":
        return f"{value:.3g} s"
    if result.metric == "score":
        return f"{value:.3f}"
    if result.metric == "cost":
        return f"{value:.6g}"
    return f"{value:,.0f}" if result.is_ratio else f"{value * 100:.1f} %"


def _difference(result: MetricResult) -> str:
    if result.ratio is not None:
        return f"{_share(result.ratio - 1)} %"
    return f"{result.difference:+.3f}" if result.metric == "score" else f"{result.difference * 100:+.1f} points"


def _share(change: float) -> str:
    """Format a change in per cent, in exponential form when very large: an interval can have any width."""
    return f"{change * 100:+.1f}" if change < 1000 else f"{change * 100:+.1e}"


def _interval(result: MetricResult, interval: Interval) -> str:
    if result.is_ratio:
        return " to ".join(_share(limit - 1) for limit in interval)
    if result.metric == "score":
        return " to ".join(f"{limit:+.3f}" for limit in interval)
    return " to ".join(f"{limit * 100:+.1f}" for limit in interval)


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= _MIN_P else f"< {_MIN_P}"


# --- tables ----------------------------------------------------------------------------------------------------------


def metric_headings(comparison: Comparison) -> tuple[str, ...]:
    """Return the headings of `metric_rows`."""
    interval = f"{_percent(1 - comparison.rules.alpha)} interval"
    return ("metric", "base", "candidate", "change", interval, "p", "verdict")


def metric_rows(comparison: Comparison) -> list[list[str]]:
    """Return a row per metric, the primary one first."""
    unit = "" if comparison.currency is None else f" ({comparison.currency})"
    return [_metric_cells(one, unit if one.result.metric == "cost" else "") for one in comparison.judged]


def _metric_cells(one: JudgedMetric, unit: str) -> list[str]:
    result = one.result
    return [
        result.metric + unit,
        _value(result, result.base),
        _value(result, result.candidate),
        _difference(result).replace("points", "pt"),
        tables.NONE if result.ci is None else _interval(result, result.ci),
        tables.NONE if one.p_adjusted is None else _p(one.p_adjusted),
        one.verdict,
    ]


def slice_rows(comparison: Comparison) -> list[list[str]]:
    """Return the slices with the smallest p; those without any difference are left out."""
    moved = [one for one in comparison.parts if one.result.worse or one.result.better]
    rows = sorted(moved, key=lambda one: (one.p_adjusted is None, one.p_adjusted))[:SLICES_SHOWN]
    return [
        [
            one.slice,
            one.result.metric,
            f"{one.result.dialogues:,}",
            _value(one.result, one.result.base),
            _value(one.result, one.result.candidate),
            _difference(one.result).replace("points", "pt"),
            tables.NONE if one.p_adjusted is None else _p(one.p_adjusted),
        ]
        for one in rows
    ]


def facts(comparison: Comparison) -> Iterator[str]:
    """Yield what was compared, one fact a line, and what limits it."""
    pairs = comparison.pairs
    yield f"base       {comparison.base}"
    yield f"candidate  {comparison.candidate}"
    parts = [f"{_dialogues(len(pairs.whole))}, {_count(pairs.turns, 'turn')} paired"]
    for count, what in (
        (len(pairs.only_base), "only in the base"),
        (len(pairs.only_candidate), "only in the candidate"),
        (len(pairs.pending), "pending"),
        (len(comparison.without_verdict), "without a verdict"),
    ):
        parts += [f"{count:,} {what}"] if count else []
    if pairs.failed_base or pairs.failed_candidate:
        parts.append(f"failed turns: {pairs.failed_base:,} base, {pairs.failed_candidate:,} candidate")
    yield "pairs      " + "; ".join(parts)
    yield f"gate       {comparison.gate}, exit code {comparison.exit_code:d}"
    yield from comparison.notes


def footnotes(comparison: Comparison) -> Iterator[str]:
    """Yield how the metrics were tested, what could not be compared, and where conversations diverge."""
    if comparison.judged:
        result = comparison.judged[0].result
        test = f"{comparison.primary} decides at alpha {comparison.rules.alpha:g}; {_TESTS[result.test]}"
        if result.b is not None:
            test += f": {result.b:,} base-only, {result.c:,} candidate-only passes"
        yield test + ("; other p-values Holm-adjusted" if len(comparison.judged) > 1 else "")
    if comparison.unavailable:
        yield "not compared: " + "; ".join(f"{name} ({why})" for name, why in comparison.unavailable.items())
    if not comparison.judged:
        return
    if not comparison.pairs.same_history:
        yield "the history modes of the sides differ: no turn is strictly paired"
    elif not comparison.pairs.is_live:
        return
    elif comparison.divergence().keys() == {None}:
        yield "live history: no reply differs, so every turn is strictly paired"
    else:
        counts = [
            f"at turn {turn} in {_dialogues(count)}" if turn else f"never in {_dialogues(count)}"
            for turn, count in comparison.divergence().items()
        ]
        yield (
            f"live history: replies first differ {', '.join(counts)}; later turns have different histories and are "
            "not strictly paired"
        )


def _print_table(console: Any, headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int]) -> None:
    if not rows:
        return
    grid = tables.make_table(*((name, "left" if n in left else "right") for n, name in enumerate(headings)))
    for name, column in zip(headings, grid.columns, strict=True):
        column.no_wrap = name != SLICE_HEADINGS[0]  # only names of tags and targets, which may be long, are folded
    for row in rows:
        grid.add_row(*(tables.single_line_text(cell, _STYLES.get(cell, "")) for cell in row))
    console.print(grid)


def _md_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int]) -> str:
    lines = [md_row(headings), md_row(["---" if n in left else "---:" for n in range(len(headings))])]
    return "\n".join([*lines, *(md_row([md(printable(cell)) for cell in row]) for row in rows)])


# --- flipped turns ---------------------------------------------------------------------------------------------------


def flips_title(flips: Sequence[Flip]) -> str:
    """Return how many flips there are in each direction."""
    harmful = sum(flip.change == "harmful" for flip in flips)
    return f"Flipped: {harmful:,} to worse, {len(flips) - harmful:,} to better"


def flip_title(flip: Flip) -> str:
    """Return where a flip is, and its direction."""
    place = "the dialogue's own checks" if flip.turn is None else f"turn {flip.turn}"
    shares = (
        ""
        if {flip.base_pass, flip.candidate_pass} == {0.0, 1.0}
        else f", {flip.base_pass:.0%} → {flip.candidate_pass:.0%}"
    )
    loose = "" if flip.strictly_paired else ", not strictly paired"
    return f"{flip.dialogue} {place}: {'worse' if flip.change == 'harmful' else 'better'}{shares}{loose}"


def _print_flips(console: Any, flips: Sequence[Flip]) -> None:
    console.print()
    console.print(tables.single_line_text(flips_title(flips), "bold underline"))
    for flip in flips[:FLIPS_SHOWN]:
        console.print()
        console.print(tables.single_line_text(flip_title(flip), "red" if flip.change == "harmful" else "green"))
        if flip.user is not None:
            console.print(tables.single_line_text(f"  asked: {_truncate(flip.user)}", "dim"))
        grid = tables.make_table("base", "candidate")
        grid.expand = True
        for column in grid.columns:
            column.ratio = 1
        grid.add_row(*(tables.multiline_text(_reply_text(flip, side)) for side in _SIDES))
        if flip.base_reason or flip.candidate_reason:
            grid.add_row(*(tables.single_line_text(_failed(flip, side), "dim") for side in _SIDES))
        console.print(grid)
    if len(flips) > FLIPS_SHOWN:
        console.print()
        console.print(tables.single_line_text(f"… and {len(flips) - FLIPS_SHOWN:,} more: --json or -o compare.md"))


_SIDES = ("base", "candidate")


def _reply_text(flip: Flip, side: str) -> str:
    status, reply = (getattr(flip, f"{side}_{name}") for name in ("status", "reply"))
    return _truncate(reply) if reply else "" if flip.turn is None else f"({status})"


def _reason(flip: Flip, side: str) -> str:
    return _truncate(getattr(flip, f"{side}_reason") or "")


def _failed(flip: Flip, side: str) -> str:
    reason = _reason(flip, side)
    return f"failed: {reason}" if reason else ""


def _md_flip(flip: Flip) -> str:
    rows = [md_row(["", "base", "candidate"]), md_row(["---", "---", "---"])]
    rows.append(md_row(["reply", *(_md_lines(_reply_text(flip, side)) for side in _SIDES)]))
    if flip.base_reason or flip.candidate_reason:
        rows.append(md_row(["failed", *(md(printable(_reason(flip, side))) for side in _SIDES)]))
    lines = [f"**{md(printable(flip_title(flip)))}**"]
    if flip.user is not None:
        lines.append(f"asked: {md(printable(_truncate(flip.user)))}")
    return "\n\n".join([*lines, "\n".join(rows)])


def _md_lines(text: str) -> str:
    return "<br>".join(md(printable(line)) for line in text.split("\n"))


def _flip_text(flip: Flip) -> str:
    lines = [flip_title(flip)]
    if flip.user is not None:
        lines.append(f"asked: {flip.user}")
    for side in _SIDES:
        lines += [f"{side}: {part}" for part in (_reply_text(flip, side), _failed(flip, side)) if part]
    return "\n".join(lines)


def _truncate(text: str) -> str:
    cut = text if len(text) <= REPLY_SHOWN else text[: REPLY_SHOWN - 1] + "…"
    first = cut.split("\n", LINES_SHOWN)
    return cut if len(first) <= LINES_SHOWN else "\n".join(first[:LINES_SHOWN]) + "\n…"
