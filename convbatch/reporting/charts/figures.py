"""Figures of a report: pass rates, cost, time, tokens, how replies end, and the course of each run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from convbatch.reporting.charts.chart_data import PARTS, RunFigures, TargetFigures, read_figures
from convbatch.reporting.charts.drawing import Chart, label
from convbatch.reporting.charts.figure import Cell, Figure, FigurePlan, one_line
from convbatch.results.several import target_names

if TYPE_CHECKING:
    from convbatch.reporting.charts.course import Course
    from convbatch.reporting.runs import ReportedRun
    from convbatch.results.aggregate import Latencies, LatencySteps
    from convbatch.results.filters import Matcher

__all__ = ["Figure", "PassInterval", "chart_figures"]

ROWS_DRAWN = 16
"""Rows of a chart; the table has all."""
LINES_DRAWN = 6
BARS_DRAWN = 40
_NAME = 34
"""Columns of a name, so that the numbers beside it have room."""
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#008F68", "#B5609A"
"""Okabe and Ito's colours, the last two a little darker: 3:1 on white and on near black."""
_PART_NAMES = {"input": "input", "cached_input": "cached input", "output": "output", "reasoning": "reasoning",
               "failed": "failed attempts"}  # fmt: skip
_PART_COLORS = [BLUE, BLUE, VERMILLION, VERMILLION, "currentColor"]
_PART_FILLS = [BLUE, f"{BLUE}33", VERMILLION, f"{VERMILLION}33", "none"]
"""Parts of input and of output have an outline in their colour, and little of it inside."""
_SHARES = (0.05, 0.25, 0.50, 0.75, 0.95)
_SHARE_NAMES = ("p05", "p25", "p50", "p75", "p95")
_MARKS = 8
"""Points of a line that have a mark."""
_TICKS = 10
"""The most turns that an axis names."""


class PassInterval(NamedTuple):
    """The pass rate of a target with its interval, as the page computes it."""

    name: str
    """The target, with its run where there are several."""
    passed: int
    judged: int
    low: float
    """Ends of the 95 % interval, 0 to 1."""
    high: float
    undecided: int = 0


def chart_figures(
    runs: Sequence[ReportedRun], matcher: Matcher, pass_rates: Sequence[PassInterval] = ()
) -> list[Figure]:
    """Return the figures of a report; one without any number is left out.

    Args:
        runs: As `load_runs` returns them.
        matcher: Which turns count; the course of a run is of all its attempts.
        pass_rates: Of the targets with judged dialogues.
    """
    return [plan.drawn() for plan in plan_figures(runs, matcher, pass_rates)]


def plan_figures(
    runs: Sequence[ReportedRun], matcher: Matcher, pass_rates: Sequence[PassInterval] = ()
) -> Iterator[FigurePlan]:
    """Yield the figures of `chart_figures` before they are drawn."""
    read = list(read_figures(runs, target_names([reported.run for reported in runs]), matcher))
    targets = [target for run in read for target in run.targets]
    yield from _pass_rates(pass_rates)
    yield from _costs(read)
    yield from _times("latency", "Time to the whole reply", list(_latencies(targets)), _untimed(targets))
    yield from _times("ttft", "Time to the first text of streamed replies", list(_first_texts(targets)), None)
    yield from _growth(targets)
    yield from _finish_reasons(targets)
    yield from _errors(targets)
    for number, run in enumerate(read, 1):
        yield from _course(run, number, len(read))


def _pass_rates(rates: Sequence[PassInterval]) -> Iterator[FigurePlan]:
    columns = ("target", "passed", "judged", "undecided", "pass rate", "95 % interval from", "to")
    rows: list[tuple[Cell, ...]] = [
        (one.name, one.passed, one.judged, one.undecided, one.passed / one.judged, one.low, one.high)
        for one in rates
        if one.judged
    ]
    values = [
        {
            "row": number,
            "label": label(one.name, _NAME),
            "value": one.passed / one.judged,
            "low": one.low,
            "high": one.high,
            "text": f"{one.passed / one.judged:.1%} ({one.low:.1%} to {one.high:.1%})",
        }
        for number, one in enumerate(one for one in rates if one.judged)
    ]
    settings = {
        "values": values[:ROWS_DRAWN],
        "reference": [],
        "domain": [0, 1],
        "format": "~%",
        "title": "dialogues that passed, with 95 % interval",
    }
    if rows:
        yield FigurePlan(
            "pass-rates", "Pass rates", Chart("intervals", settings), columns, rows, _left_out(len(rows), ROWS_DRAWN)
        )


# --- cost ------------------------------------------------------------------------------------------------------------


def _costs(read: Sequence[RunFigures]) -> Iterator[FigurePlan]:
    """Yield a figure for each currency."""
    spent = [
        (target, run.reported.converted(target.totals.money["spent"]), run) for run in read for target in run.targets
    ]
    currencies = sorted({currency for _, amounts, _ in spent for currency in amounts})
    for currency in currencies:
        rows = [_cost_row(run, target, currency) for target, amounts, run in spent if currency in amounts]
        name = "cost" if len(currencies) == 1 else f"cost-{currency}"
        unpriced = sum(target.totals.counts["unpriced"] for target, _, _ in spent)
        unknown = sum(target.reasoning_unknown for target, _, _ in spent)
        note = one_line(
            _left_out(len(rows), ROWS_DRAWN),
            f"Not included: {_replies(unpriced)} without a known cost." if unpriced else None,
            f"Of {_replies(unknown)} the reasoning tokens are unknown: they count as output." if unknown else None,
        )
        columns = ("target", *(f"{part} ({currency})" for part in _PART_NAMES.values()), f"spent ({currency})")
        yield FigurePlan(name, "Cost by target", _cost_chart(rows[:ROWS_DRAWN], currency), columns, rows, note)


def _cost_row(run: RunFigures, target: TargetFigures, currency: str) -> tuple[Cell, ...]:
    def amount(amounts: dict[str, Decimal]) -> float | None:
        found = run.reported.converted(amounts).get(currency)
        return None if found is None else float(found)

    parts = [{money: value for (kind, money), value in target.parts.items() if kind == part} for part in PARTS]
    money = target.totals.money
    return (target.name, *map(amount, parts), amount(money["failed_cost"]), amount(money["spent"]))


def _cost_chart(rows: Sequence[tuple[Cell, ...]], currency: str) -> Chart:
    names = list(_PART_NAMES.values())
    values: list[dict[str, Any]] = []
    drawn: set[str] = set()
    for number, (name, *parts, spent) in enumerate(rows):
        values.append({"row": number, "label": label(str(name), _NAME), "text": f"{spent:.4g} {currency}"})
        start = 0.0
        for part, amount in zip(names, parts, strict=True):
            if isinstance(amount, float) and amount > 0:
                values.append({"row": number, "part": part, "start": start, "end": start + amount})
                start += amount
                drawn.add(part)
    kept = [place for place, name in enumerate(names) if name in drawn]
    return Chart(
        "stacked",
        {
            "values": values,
            "title": f"spent ({currency})",
            "parts": [names[place] for place in kept],
            "colors": [_PART_COLORS[place] for place in kept],
            "fills": [_PART_FILLS[place] for place in kept],
        },
    )


# --- time ------------------------------------------------------------------------------------------------------------


class _Times(NamedTuple):
    name: str
    kind: str
    """Which replies of the target; empty for all."""
    latencies: Latencies | LatencySteps


def _latencies(targets: Sequence[TargetFigures]) -> Iterator[_Times]:
    return (_Times(target.name, "", target.totals.latencies) for target in targets)


def _first_texts(targets: Sequence[TargetFigures]) -> Iterator[_Times]:
    for target in targets:
        yield _Times(target.name, "turn 1", target.streams.first_ttft)
        yield _Times(target.name, "later turns", target.streams.later_ttft)


def _untimed(targets: Sequence[TargetFigures]) -> str | None:
    count = sum(target.untimed for target in targets)
    return f"Not included: {_replies(count)} without a known time." if count else None


def _times(name: str, title: str, times: Sequence[_Times], note: str | None) -> Iterator[FigurePlan]:
    columns = ("target", "turns", "replies", *(f"{share} (s)" for share in _SHARE_NAMES))
    known = [(one, [one.latencies.percentile(share) for share in _SHARES]) for one in times if len(one.latencies)]
    rows: list[tuple[Cell, ...]] = [
        (one.name, one.kind or "all", len(one.latencies), *quantiles) for one, quantiles in known
    ]
    if not rows:
        return
    drawn = known[:ROWS_DRAWN]
    values = [
        {
            "row": number,
            "label": label(one.name, _NAME - len(one.kind) - 3) + (f" · {one.kind}" if one.kind else ""),
            "text": f"p50 {_seconds(quantiles[2])}, p95 {_seconds(quantiles[4])}",
            **dict(zip(_SHARE_NAMES, quantiles, strict=True)),
        }
        for number, (one, quantiles) in enumerate(drawn)
    ]
    least = min(quantiles[0] or 0.0 for _, quantiles in drawn)
    most = max(quantiles[-1] or 0.0 for _, quantiles in drawn)
    is_log = least > 0 and most / least > 20
    settings = {
        "values": values,
        "scale": "log" if is_log else "linear",
        "domain": [least / 1.2 if is_log else 0, most * 1.2 or 1],
        "title": "seconds: line p5 to p95, bar p25 to p75, tick p50" + (" (log scale)" if is_log else ""),
    }
    note = one_line(_left_out(len(rows), ROWS_DRAWN), note)
    yield FigurePlan(name, title, Chart("quantiles", settings), columns, rows, note)


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g} s"


# --- tokens by turn --------------------------------------------------------------------------------------------------


def _growth(targets: Sequence[TargetFigures]) -> Iterator[FigurePlan]:
    columns = ("target", "turn", "replies", "median input tokens", "mean input tokens", "replies without a count")
    rows: list[tuple[Cell, ...]] = [
        (target.name, turn, sizes.replies, sizes.median, sizes.mean, sizes.unknown)
        for target in targets
        for turn, sizes in sorted(target.sizes.items())
    ]
    unknown = sum(sizes.unknown for target in targets for sizes in target.sizes.values())
    known = [target for target in targets if any(sizes.known for sizes in target.sizes.values())]
    if not known:
        return
    note = one_line(
        _left_out(len(known), LINES_DRAWN),
        f"Not included: {_replies(unknown)} without a count of input tokens." if unknown else None,
    )
    chart = _growth_chart(known[:LINES_DRAWN])
    yield FigurePlan("growth", "Input tokens by turn", chart, columns, rows, note)


def _growth_chart(targets: Sequence[TargetFigures]) -> Chart:
    values: list[dict[str, Any]] = []
    for number, target in enumerate(targets):
        points = [(turn, sizes.median) for turn, sizes in sorted(target.sizes.items()) if sizes.median is not None]
        step = -(-len(points) // _MARKS)
        values += [
            {"line": str(number), "x": turn, "y": median, "marked": place % step == 0 or place == len(points) - 1}
            for place, (turn, median) in enumerate(points)
        ]
    first, last = (chosen(value["x"] for value in values) for chosen in (min, max))
    return Chart(
        "lines",
        {
            "values": values,
            "domain": [first, last] if last > first else [first - 1, first + 1],
            "ticks": list(range(first, last + 1, -(-(last - first + 1) // _TICKS))),
            "x_title": "turn",
            "y_title": "input tokens (median)",
            "lines": [str(number) for number in range(len(targets))],
            "labels": [label(target.name, 46) for target in targets],
            "colors": [BLUE, VERMILLION, GREEN, PURPLE, BLUE, VERMILLION][: len(targets)],
            "dashes": [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [3, 5], [10, 4]][: len(targets)],
            "shapes": ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"][: len(targets)],
        },
    )


# --- how replies end -------------------------------------------------------------------------------------------------


def _finish_reasons(targets: Sequence[TargetFigures]) -> Iterator[FigurePlan]:
    groups: list[tuple[str, dict[str, int]]] = []
    for target in targets:
        counts: dict[str, int] = {}
        for (reason, _), found in target.totals.finish.items():
            counts[reason] = counts.get(reason, 0) + found.total()
        groups.append((target.name, counts))
    columns = ("target", "finish reason", "replies", "share")
    yield from _counted("finish-reasons", "Finish reasons", BLUE, groups, columns, "replies", "reply")


def _errors(targets: Sequence[TargetFigures]) -> Iterator[FigurePlan]:
    groups = [(one.name, {kind: group.attempts for kind, group in one.totals.errors.items()}) for one in targets]
    columns = ("target", "error", "failed attempts", "share")
    yield from _counted(
        "errors", "Failed attempts by error", VERMILLION, groups, columns, "failed attempts", "failed attempt"
    )


def _counted(
    name: str,
    title: str,
    color: str,
    groups: Sequence[tuple[str, dict[str, int]]],
    columns: tuple[str, ...],
    what: str,
    one: str,
) -> Iterator[FigurePlan]:
    """Yield a figure with a bar for each count of `what` (plural) or `one`; targets without any are left out."""
    rows: list[tuple[Cell, ...]] = []
    values: list[dict[str, Any]] = []
    for target, counts in groups:
        total = sum(counts.values())
        if not total:
            continue
        values.append({"label": label(target, _NAME + 6), "text": f"{total:,} {what if total != 1 else one}"})
        for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            rows.append((target, word, count, count / total))
            values.append({"label": label(word, _NAME), "count": count, "text": f"{count:,} ({count / total:.1%})"})
    if not rows:
        return
    drawn = [{"row": number, **value} for number, value in enumerate(values[:BARS_DRAWN])]
    most = max(value.get("count", 0) for value in drawn)
    chart = Chart("counts", {"values": drawn, "domain": [0, most or 1], "color": color})
    yield FigurePlan(name, title, chart, columns, rows, _left_out(len(values), BARS_DRAWN))


# --- the course of a run ---------------------------------------------------------------------------------------------

_SERIES = ("requests in flight (mean)", "waiting in the rate limiter (mean)", "backing off after a failure (mean)",
           "failed attempts", "retries sent", "seconds in a pause asked for by a server")  # fmt: skip


def _course(run: RunFigures, number: int, runs: int) -> Iterator[FigurePlan]:
    course = run.course
    if not course.seconds:
        return
    series = (course.in_flight, course.limiter, course.backoff, course.failed, course.retries, course.paused_s)
    columns = ("from (UTC)", *_SERIES)
    rows: list[tuple[Cell, ...]] = [
        (_utc(course.begins(place)), *cells) for place, cells in enumerate(zip(*series, strict=True))
    ]
    shown = [place for place, values in enumerate(series) if place == 0 or any(values)]
    note = one_line(
        f"Each row is {course.bin_s:.3g} s.",
        _session_note(course),
        f"{course.unended:,} attempts were lost: when they ended is unknown." if course.unended else None,
        None
        if len(shown) == len(series)
        else f"None: {', '.join(_SERIES[n] for n in range(len(series)) if n not in shown)}.",
    )
    title = "Course of the run" if runs == 1 else f"Course of {run.reported.label}"
    name = "course" if runs == 1 else f"course-{number}"
    yield FigurePlan(name, title, _course_chart(course, [(n, series[n]) for n in shown]), columns, rows, note)


def _session_note(course: Course) -> str | None:
    if len(course.sessions) == 1 and course.sessions[0].reason == "finished":
        return None
    texts = [
        f"{'started' if number == 0 else 'resumed'} {_utc(session.start)}, "
        f"{'ended without a stop' if session.reason is None else session.reason} {_utc(session.end)}"
        for number, session in enumerate(course.sessions)
    ]
    return f"Sessions: {'; '.join(texts[:8])}{'; …' if len(texts) > 8 else ''}."


def _course_chart(course: Course, series: Sequence[tuple[int, Sequence[float]]]) -> Chart:
    unit, unit_s = next((u for u in (("h", 3600), ("min", 60)) if course.seconds > 3 * u[1]), ("s", 1))
    end = course.seconds / unit_s
    values: list[dict[str, Any]] = []
    for number, counts in series:
        points = [*counts, counts[-1]]
        values += [
            {"series": str(number), "time": round(end * place / len(counts), 5), "value": round(value, 3)}
            for place, value in enumerate(points)
        ]
        passed = 0.0
        for session in course.sessions[:-1]:
            passed += session.end - session.start
            values.append({"series": str(number), "time": passed / unit_s, "resumed": True})
    resumed = " (line: stopped and resumed)" if len(course.sessions) > 1 else ""
    return Chart(
        "timeline",
        {
            "values": values,
            "series": [str(number) for number, _ in series],
            "labels": list(_SERIES),
            "domain": [0, end],
            "title": f"running time ({unit}){resumed}",
        },
    )


def _utc(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _replies(count: int) -> str:
    return f"{count:,} reply" if count == 1 else f"{count:,} replies"


def _left_out(count: int, drawn: int) -> str | None:
    return f"The first {drawn} of {count:,} are drawn; the table has all." if count > drawn else None
