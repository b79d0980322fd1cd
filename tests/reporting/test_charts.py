"""Charts: their numbers are those of the report, what is unknown stays unknown, and their SVG is safe and small."""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.pricing import Period, PriceTable, TokenPrice
from convbatch.reply import Usage
from convbatch.reporting.charts.changes import Change, plan_changes
from convbatch.reporting.charts.course import RunCourse, Span
from convbatch.reporting.charts.drawing import draw, fill_spec, label, read_spec, rebuild
from convbatch.reporting.charts.figure import FigurePlan
from convbatch.reporting.charts.figures import BLUE, GREEN, PURPLE, VERMILLION, PassInterval, plan_figures
from convbatch.reporting.report import report, sections
from convbatch.reporting.runs import load_runs
from convbatch.results.filters import EVERYTHING, Matcher
from convbatch.results.run import Run, load
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import Command, config_for
from tests.support.made_runs import REAL, SEED_REPLY, MadeRun, dialogue

QUICKSTART = Path(__file__).parents[2] / "datasets" / "quickstart.jsonl"
LARGEST = 20_000
"""Bytes of a chart."""
PRICES = PriceTable(
    currency="USD",
    source="by hand",
    periods=(
        Period(
            input=TokenPrice(base=Decimal(2)),
            cached_input=TokenPrice(base=Decimal("0.5")),
            output=TokenPrice(base=Decimal(8)),
        ),
    ),
)


def plans(*runs: Run, rates: Sequence[PassInterval] = ()) -> dict[str, FigurePlan]:
    found = plan_figures(load_runs(runs, None, None), Matcher(EVERYTHING), rates)
    return {plan.name: plan for plan in found}


def by_target(plan: FigurePlan) -> Mapping[Any, Mapping[str, Any]]:
    return {row[0]: dict(zip(plan.columns, row, strict=True)) for row in plan.rows}


def total(plan: FigurePlan, place: int) -> float:
    return sum(cell for row in plan.rows if isinstance(cell := row[place], int | float))


def replied(made: MadeRun, index: int, **usage: Any) -> None:
    counts = Usage(**usage)._replace(source="reported", consistent=True)
    made.replied(made.ident(index, 1), SEED_REPLY._replace(usage=counts))


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_the_cost_is_split_by_kind_of_token_and_adds_up_to_what_was_spent(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue(str(n), "x") for n in range(3)], prices={REAL: PRICES})
    replied(made, 0, input_tokens=100, cached_input_tokens=40, output_tokens=50, reasoning_tokens=30)
    replied(made, 1, input_tokens=10, output_tokens=5)  # no word about reasoning
    replied(made, 2, input_tokens=10)  # no cost
    run = load(made.write().path)
    plan = plans(run)["cost"]
    row = by_target(plan)[REAL]
    assert {name: pytest.approx(value) for name, value in row.items() if name.endswith("(USD)") and value} == {
        "input (USD)": 140e-6,
        "cached input (USD)": 20e-6,
        "output (USD)": 200e-6,
        "reasoning (USD)": 240e-6,
        "spent (USD)": report(run)["spent"][0],
    }
    assert row["failed attempts (USD)"] is None
    assert plan.note == (
        "Not included: 1 reply without a known cost. Of 1 reply the reasoning tokens are unknown: they count as output."
    )


@given(
    st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6) | st.none()
)  # fmt: skip
def test_the_parts_of_a_cost_add_up_to_it(plain: int, cached: int, output: int, reasoning: int | None) -> None:
    thought = None if reasoning is None else min(reasoning, output)
    usage = Usage(
        input_tokens=plain + cached, cached_input_tokens=cached, output_tokens=output, reasoning_tokens=thought
    )
    parts = PRICES.cost_parts(usage, 0.0)
    assert parts is not None
    assert sum(part for part in parts if part is not None) == PRICES.cost(usage, 0.0)
    assert (parts.reasoning is None) == (thought is None)
    assert all(part is None or part >= 0 for part in parts)


def test_unknown_counts_and_times_are_left_out_and_named(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue(str(n), "x") for n in range(2)])
    replied(made, 0, input_tokens=12)
    replied(made, 1)
    found = plans(load(made.write().path))
    assert "cost" not in found
    assert "ttft" not in found
    assert found["growth"].rows == [(REAL, 1, 2, 12.0, 12.0, 1)]
    assert found["growth"].note == "Not included: 1 reply without a count of input tokens."
    assert found["latency"].rows == [(REAL, "all", 2, 0.5, 0.5, 0.5, 0.5, 0.5)]


def test_the_course_shows_flight_waits_pauses_and_retries_at_their_time() -> None:
    course = RunCourse([{"at": 100.0}], [{"at": 110.0, "reason": "finished"}])
    course.spans.append(Span(101.0, 101.0, 101.0, 103.0, failed=True, is_retry=False, pause_s=2.0))
    course.spans.append(Span(104.0, 105.0, 107.0, 109.0, failed=False, is_retry=True, pause_s=0.0))
    found = course.course(bins=10)
    assert found.bin_s == 1.0
    assert [round(value, 9) for value in found.in_flight] == [0, 1, 1, 0, 0, 0, 0, 1, 1, 0]
    assert [round(value, 9) for value in found.limiter] == [0, 0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert [round(value, 9) for value in found.backoff] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert [round(value, 9) for value in found.paused_s] == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert found.failed == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert found.retries == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]


def test_the_time_between_two_sessions_is_left_out() -> None:
    course = RunCourse([{"at": 0.0}, {"at": 1000.0}], [{"at": 1004.0, "reason": "finished"}])
    course.spans.append(Span(1.0, 1.0, 1.0, 4.0, failed=False, is_retry=False, pause_s=0.0))  # then killed
    course.spans.append(Span(3.0, 3.0, 3.0, None, failed=False, is_retry=False, pause_s=0.0))
    course.spans.append(Span(1000.0, 1000.0, 1001.0, 1004.0, failed=False, is_retry=False, pause_s=0.0))
    found = course.course(bins=8)
    assert [session.reason for session in found.sessions] == [None, "finished"]
    assert found.seconds == 8.0
    assert [round(value, 9) for value in found.in_flight] == [0, 1, 1, 1, 0, 1, 1, 1]
    assert found.begins(4) == 1000.0
    assert found.unended == 1


SPANS = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)).map(sorted), min_size=1, max_size=20)


@given(SPANS, st.integers(1, 80))
def test_bins_hold_all_time_in_flight(intervals: list[list[float]], bins: int) -> None:
    course = RunCourse([{"at": 0.0}], [{"at": 101.0, "reason": "finished"}])
    course.spans.extend(Span(a, a, a, b, failed=False, is_retry=False, pause_s=0.0) for a, b in intervals)
    found = course.course(bins)
    assert sum(found.in_flight) * found.bin_s == pytest.approx(sum(b - a for a, b in intervals), abs=1e-6)
    assert max(found.in_flight) <= len(intervals) + 1e-9


# --- labels ----------------------------------------------------------------------------------------------------------


@given(st.text(max_size=60), st.integers(2, 40))
def test_a_label_fits(text: str, columns: int) -> None:
    shown = label(text, columns)
    assert sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in shown) <= columns
    assert "\n" not in shown


def test_labels_of_names_that_begin_alike_differ() -> None:
    names = [f"20261127-212941-quickstart:{model}@simulator" for model in ("sim-good", "sim-drift")]
    assert [label(name, 34) for name in names] == [
        "20261127-212941-…im-good@simulator",
        "20261127-212941-…m-drift@simulator",
    ]


def growth_of(folder: Path, turns: int) -> FigurePlan:
    """Return the chart of tokens over so many turns."""
    made = MadeRun(folder, [dialogue("d", *("u" for _ in range(turns)))])
    for turn in range(1, turns + 1):
        made.replied(made.ident(0, turn))
    return plans(load(made.write().path))["growth"]


@pytest.mark.parametrize(("turns", "ticks"), [(1, [1]), (2, [1, 2]), (100, [*range(1, 101, 10)])])
def test_the_axis_has_each_turn_once(turns: int, ticks: list[int], tmp_path: Path) -> None:
    assert growth_of(tmp_path / "run", turns).chart.settings["ticks"] == ticks


@pytest.mark.slow
def test_every_turn_of_the_axis_is_drawn(tmp_path: Path) -> None:
    svg = draw(growth_of(tmp_path / "run", 8).chart, "tokens")
    assert svg is not None
    assert re.findall(r">([1-8])</text>", svg.partition(">turn<")[0]) == list("12345678")


def test_a_long_name_is_cut_in_the_chart_and_whole_in_the_table() -> None:
    name = "很长的目标名称" * 9 + "@gateway"
    [plan] = plan_changes([Change(name, 0.1, None, None, 0.05, True)], 0.95, "c", "")
    [value] = plan.chart.settings["values"]
    assert value["label"] == "很长的目标名称很…的目标名称@gateway"
    assert plan.rows == [(name, 10.0, None, None, 5.0, "")]
    assert value["low"] is None
    assert "interval unknown" in value["text"]


def test_the_margin_of_a_rate_lies_below_no_change_and_that_of_a_ratio_above() -> None:
    changes = [Change("pass", -0.05, -0.1, 0.0, 0.02, False), Change("cost", 0.1, 0.0, 9.0, 0.05, True)]
    rate, ratio = plan_changes(changes, 0.95, "c", "")
    assert rate.chart.settings["values"][0]["margin"] == -2.0
    assert ratio.chart.settings["values"][0]["margin"] == 5.0
    reach = ratio.chart.settings["domain"][1]
    assert ratio.chart.settings["values"][0]["high"] == reach < 900
    assert "cut at the edge" in str(ratio.note)
    assert ratio.rows[0][3] == 900.0


# --- specs and drawings ----------------------------------------------------------------------------------------------


def test_a_spec_takes_every_value_it_names_and_no_text_of_a_value_is_a_name() -> None:
    assert fill_spec({"a": ["$x", "y"], "b": "$z"}, {"x": {"c": "$z"}, "z": None}) == {
        "a": [{"c": "$z"}, "y"],
        "b": None,
    }
    with pytest.raises(KeyError):
        fill_spec(read_spec("counts"), {})


def test_only_listed_elements_and_attributes_of_a_drawing_are_kept() -> None:
    drawn = rebuild(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9">'
        '<style>*{}</style><script>x</script><a xlink:href="https://x"><text fill="red">in</text></a><image href="x"/>'
        '<g onclick="x" style="x"><path d="M0.123,1L2,3" fill="url(https://x)" stroke="#123456" onload="x"/></g></svg>',
        'a "title" <',
    )
    assert drawn == (
        '<svg viewBox="0 0 9 9" aria-label="a &quot;title&quot; &lt;" width="100%" class="chart" role="img" '
        'font-family="sans-serif" font-size="12px" fill="none"><path d="M0.1,1L2,3" stroke="#123456"/></svg>'
    )


@pytest.mark.parametrize("color", [BLUE, VERMILLION, GREEN, PURPLE])
@pytest.mark.parametrize("background", ["#ffffff", "#111111"])
def test_colours_have_contrast_on_light_and_dark(color: str, background: str) -> None:
    lighter, darker = sorted(map(luminance, (color, background)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 3


def luminance(color: str) -> float:
    """Relative luminance, WCAG 2.2."""
    shares = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_without_the_library_a_figure_says_how_to_get_charts_and_keeps_its_table() -> None:
    program = (
        "import sys\n"
        "from convbatch.reporting.charts.changes import Change, change_figures\n"
        "print('vl_convert' in sys.modules); sys.modules['vl_convert'] = None\n"
        "[one] = change_figures([Change('m', 0.1, 0.0, 0.2, None, True)], 0.95)\n"
        "print(one.svg, len(one.rows), one.note)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\nNone 1 No chart: pip install 'convbatch[report]' draws them.\n"


HOSTILE = st.one_of(
    st.text(min_size=1, max_size=80),
    st.sampled_from(
        [
            '"><script>alert(1)</script>',
            "</text><style>*{}</style>",
            "' onload='alert(1)' x='",
            '<a href="https://x.example">y</a>',
            "url(https://x.example)",
            "]]><!-- &amp; &#0; %s $values datum.label",
            "\x00\x1b[31m\u202e\ud800\n",
        ]
    ),
)
_ELEMENTS = {"svg", "g", "path", "line", "text"}
_FORBIDDEN_NAMES = re.compile(r"style|on.*|href|src|xmlns:.*|id")


def hostile_plans(names: Sequence[str]) -> Iterator[FigurePlan]:
    yield from plan_changes([Change(name, -0.1, -0.3, 0.1, 0.02, False, name) for name in names], 0.95, "c", "")


def require_safe(svg: str) -> None:
    for node in ElementTree.fromstring(svg).iter():
        assert node.tag in _ELEMENTS
        for name, value in node.attrib.items():
            assert not _FORBIDDEN_NAMES.fullmatch(name)
            assert name == "aria-label" or ("url(" not in value and ":" not in value)
    assert len(svg.encode()) < LARGEST


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(st.lists(HOSTILE, min_size=1, max_size=6))
def test_no_label_gets_out_of_its_text(names: list[str]) -> None:
    for plan in hostile_plans(names):
        svg = draw(plan.chart, plan.title)
        assert svg is not None
        require_safe(svg)
        assert sum(node.tag == "text" for node in ElementTree.fromstring(svg).iter()) >= 2 * len(names)


@pytest.mark.slow
def test_figures_of_a_real_run_have_the_numbers_of_its_report(
    convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path
) -> None:
    provider = Provider(faults=FaultScript.of([{"match": {"nth": [7, 20]}, "action": "error", "kind": "overloaded"}]))
    config = config_for(simulator(provider).url, currency="USD", stream=True)
    prices = '[prices.at-gemini."*"]\ninput = 1\noutput = 2\n'
    (tmp_path / "convbatch.toml").write_text(config + prices)
    models = ("-m", "sim-good@at-gemini", "-m", "sim-drift@at-gemini")
    done = convbatch("run", QUICKSTART, "-n", "8", *models, "-o", "r", "--no-progress")
    assert done.code in (0, 3), done.err
    run = load(tmp_path / "r")
    tables: dict[str, list[dict[str, Any]]] = {one.key: list(one.frame.to_dict("records")) for one in sections(run)}  # pyright: ignore[reportAssignmentType]  # its keys are text
    found = plans(run, rates=[PassInterval("一个很长的名字" * 9, 1, 2, 0.1, 0.9)])
    for usage in tables["usage"]:
        target = usage["target"]
        assert by_target(found["cost"])[target]["spent (USD)"] == usage["spent"]
        assert by_target(found["latency"])[target]["p95 (s)"] == usage["p95_latency_s"]
        errors = {row["error_kind"]: row["attempts"] for row in tables["errors"] if row["target"] == target}
        assert {row[1]: row[2] for row in found["errors"].rows if row[0] == target} == errors
        growth = [row["median_input_tokens"] for row in tables["growth"] if row["target"] == target]
        assert [row[3] for row in found["growth"].rows if row[0] == target] == growth
    firsts = [row["p50_ttft_first_s"] for row in tables["streams"]]
    assert [row[5] for row in found["ttft"].rows if row[1] == "turn 1"] == firsts
    assert total(found["finish-reasons"], 2) == sum(row["replies"] for row in tables["finish_reasons"])
    assert total(found["course"], 4) == sum(row["attempts"] for row in tables["errors"])
    for plan in found.values():
        svg = draw(plan.chart, plan.title)
        assert svg is not None
        require_safe(svg)
