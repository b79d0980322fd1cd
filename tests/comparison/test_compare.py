"""Tests of comparisons: hand-made frames, refused input, exit codes, output formats, and simulated runs."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convbatch as package
from convbatch.comparison import render, stats
from convbatch.comparison.compare import Comparison, ComparisonRules, FailOn, compare_frames
from convbatch.comparison.harm_bound import harm_bound
from convbatch.comparison.pairing import TURN_COLUMNS, ComparedTurn
from convbatch.errors import SetupError
from convbatch.pricing import Period, PriceTable, TokenPrice
from convbatch.reply import Usage
from convbatch.results.export import write_content
from tests.conftest import QUICKSTART, Command, environment, examples
from tests.support.junit import junit_cases
from tests.support.made_runs import DRIFT, GOOD, REAL, SEED_REPLY, MadeRun, dialogue
from tests.support.tables import each

Passes = Mapping[str, Sequence[bool | None]]
UNEVEN = (12, 18, 33, 38, 57, 58)
CONTRACT = {
    "metric", "base", "candidate", "difference", "ci95", "ci90", "p", "test", "b", "c", "verdict",
    "smallest_detectable", "dialogues_needed", "ci", "confidence", "harm_bound",
}  # fmt: skip


def row(name: str, turn: int = 1, passed: bool | None = None, **more: Any) -> dict[str, Any]:
    checks = {"checks_passed": None, "checks_failed": None}
    if passed is not None:
        checks = {"checks_passed": int(passed), "checks_failed": int(not passed)}
    return {"dialogue": name, "turn": turn, **checks, "reply": f"{name} {turn} {passed}", **more}


def side(passes: Passes, **more: Any) -> pd.DataFrame:
    """Build a frame with one row per turn from the results of its checks."""
    return pd.DataFrame([row(name, n, one, **more) for name, turns in passes.items() for n, one in enumerate(turns, 1)])


def table(b: int, c: int, both: int, neither: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Build base and candidate frames of one-turn dialogues with this 2 x 2 table."""
    kinds = [(True, False)] * b + [(False, True)] * c + [(True, True)] * both + [(False, False)] * neither
    base, candidate = (side({f"d{n}": [kind[place]] for n, kind in enumerate(kinds)}) for place in (0, 1))
    return base, candidate


def values(metric: str, base: Sequence[float | None], candidate: Sequence[float | None]) -> Comparison:
    """Compare one-turn dialogues with these values of a column."""
    column = {"latency": "latency_s"}.get(metric, metric)
    frames = [
        pd.DataFrame([{**row(f"d{n}"), column: value} for n, value in enumerate(numbers)])
        for numbers in (base, candidate)
    ]
    return compare_frames(*frames, rules=ComparisonRules(metric=metric))


def test_json_output_matches_the_example_of_the_contract() -> None:
    document = json.loads(render.to_json(compare_frames(*table(18, 7, 162, 13))))
    assert (document["verdict"], document["exit_code"], document["primary"]) == ("regression", 1, "dialogue_pass")
    assert document["pairs"] == {
        "dialogues": 200, "turns": 200, "only_base": 0, "only_candidate": 0, "failed_base": 0, "failed_candidate": 0,
        "pending": 0, "without_verdict": 0,
    }  # fmt: skip
    metric = document["metrics"][0]
    assert metric.keys() >= CONTRACT
    assert (metric["base"], metric["candidate"], metric["difference"]) == (0.9, 0.845, -0.055)
    assert metric["ci95"] == pytest.approx([-0.108008, -0.006450], abs=5e-7)
    assert metric["ci90"] == pytest.approx([-0.098704, -0.014630], abs=5e-7)
    assert (metric["p"], metric["test"]) == (pytest.approx(0.028959, abs=5e-7), "mcnemar_midp")
    assert (metric["b"], metric["c"]) == (18, 7)
    assert (metric["smallest_detectable"], metric["dialogues_needed"]) == (0.07, 322)


@each(
    ("b", "c", "n", "margin", "verdict"),
    [
        (18, 7, 200, None, "regression"),
        (7, 18, 200, None, "improved"),
        (0, 0, 200, None, "non-inferior"),
        (0, 0, 20, None, "inconclusive"),
        (18, 7, 200, 0.1, "regression"),
        (18, 7, 200, 0.11, "regression-within-margin"),
        (0, 0, 148, None, "inconclusive"),
        (0, 0, 149, None, "non-inferior"),
        (10, 8, 200, None, "inconclusive"),
        (10, 8, 200, 0.1, "non-inferior"),
        (1, 0, 1, None, "inconclusive"),
        (3, 0, 3, None, "inconclusive"),
        (30, 0, 30, None, "regression"),
    ],
)
def test_each_contingency_table_gets_the_expected_verdict(
    b: int, c: int, n: int, margin: float | None, verdict: str
) -> None:
    assert compare_frames(*table(b, c, n - b - c), rules=ComparisonRules(margin=margin)).verdict == verdict


@each(
    ("verdict", "plain", "regression", "inconclusive", "strict"),
    [
        ("regression", 1, 1, 1, 1),
        ("inconclusive", 3, 0, 1, 3),
        ("regression-within-margin", 0, 0, 0, 1),
        ("non-inferior", 0, 0, 0, 0),
        ("improved", 0, 0, 0, 0),
    ],
)
def test_each_verdict_has_its_exit_code(
    verdict: Any, plain: int, regression: int, inconclusive: int, strict: int
) -> None:
    assert ComparisonRules().exit_code(verdict) == plain
    assert ComparisonRules(fail_on="regression").exit_code(verdict) == regression
    assert ComparisonRules(fail_on="inconclusive").exit_code(verdict) == inconclusive
    assert ComparisonRules(strict=True).exit_code(verdict) == strict


@each(
    "wrong",
    [
        {"margin": 0.0}, {"margin": 1.0}, {"margin": -0.02}, {"margin": float("nan")}, {"alpha": 0.0}, {"alpha": 0.5},
        {"alpha": float("nan")}, {"metric": "tokens"}, {"fail_on": "never"}, {"margin": 1e-300}, {"alpha": 1e-300},
        {"alpha": 0.4999999},
    ],
)  # fmt: skip
def test_invalid_rules_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SetupError):
        ComparisonRules(**wrong)


@each("alpha", [1e-6, 0.001, 0.2, 0.4])
def test_another_alpha_reports_the_interval_that_decides_the_verdict(alpha: float) -> None:
    comparison = compare_frames(*table(18, 7, 162, 13), rules=ComparisonRules(alpha=alpha, margin=0.3))
    metric = json.loads(render.to_json(comparison))["metrics"][0]
    assert metric["confidence"] == pytest.approx(1 - alpha)
    assert metric["ci"] == pytest.approx(stats.tango_interval(18, 7, 200, level=1 - alpha))
    assert metric["ci95"] == pytest.approx([-0.108008, -0.006450], abs=5e-7)
    harms = [1.0] * 18 + [-1.0] * 7 + [0.0] * 175
    assert metric["harm_bound"] == pytest.approx(harm_bound(harms, [1.0] * 200, alpha=alpha))
    assert metric["verdict"] == ("non-inferior" if alpha < 0.028959 else "regression-within-margin")
    percent = f"{100 * (1 - alpha):.7g} %"
    assert f"{percent} interval {metric['ci'][0] * 100:+.1f} to {metric['ci'][1] * 100:+.1f}" in _summary(comparison)
    assert f"at most {metric['harm_bound'] * 100:.3g} points worse, one-sided {percent}" in _summary(comparison)
    assert f"| {percent} interval |" in render.to_markdown(comparison)
    assert comparison.metrics.to_dict("list")["ci_low"][0] == pytest.approx(metric["ci"][0])


def _summary(comparison: Comparison) -> str:
    return json.loads(render.to_json(comparison))["summary"]


def test_means_equal_up_to_rounding_count_as_equal() -> None:
    comparison = values("score", [0.3, 0.2, 0.7], [0.1 + 0.2, 0.2, 0.7])
    assert (comparison.judged[0].result.worse, comparison.judged[0].result.better) == (0, 0)
    comparison = values("score", [0.5, 0.5, 0.5], [0.6, 0.7, 0.2])  # +0.1 + 0.2 - 0.3 is 5e-17
    assert json.loads(render.to_json(comparison))["metrics"][0]["dialogues_needed"] is None


def test_a_very_wide_interval_is_printed_in_a_short_sentence() -> None:
    comparison = values("latency", [1.0, 1.0], [1.0, 1e9])
    assert len(render.sentence(comparison)) < 200
    assert json.loads(render.to_json(comparison))["metrics"][0]["dialogues_for_margin"] > 0


def test_the_number_of_dialogues_needed_is_capped() -> None:
    comparison = values("output_tokens", [1, 2, 3], [10**15, 1, 1])
    assert json.loads(render.to_json(comparison))["metrics"][0]["dialogues_for_margin"] == stats.MAX_DIALOGUES


def test_a_given_margin_applies_to_metrics_of_the_primary_kind() -> None:
    assert ComparisonRules(margin=0.1).margin_of("score", "dialogue_pass") == 0.1
    assert ComparisonRules(margin=0.1).margin_of("cost", "dialogue_pass") == 0.05
    assert ComparisonRules(margin=0.1).margin_of("cost", "latency") == 0.1
    assert ComparisonRules(margin=0.1).margin_of("turn_pass", "latency") == 0.02


def test_turn_pass_is_clustered_by_dialogue_and_not_tested_by_mcnemar() -> None:
    base = side({"a": [True, True, True], "b": [True], "c": [True, True], "d": [False, True]})
    candidate = side({"a": [False, False, True], "b": [True], "c": [True, False], "d": [True, True]})
    judged = compare_frames(base, candidate).judged
    turn_pass = next(one.result for one in judged if one.result.metric == "turn_pass")
    assert (turn_pass.base, turn_pass.candidate, turn_pass.difference) == (7 / 8, 5 / 8, -2 / 8)
    # e = d - mean n: -2 + 0.75, 0 + 0.25, -1 + 0.5, 1 + 0.5; se^2 = 4/3 x (1.5625 + 0.0625 + 0.25 + 2.25) / 64
    half = 3.182446305284263 * (4 / 3 * 4.125 / 64) ** 0.5
    assert turn_pass.ci95 == pytest.approx((max(-1.0, -0.25 - half), -0.25 + half), abs=1e-6)
    # The sum is -2 - 1 + 1 = -2. Of the 8 signed sums of 2, 1, 1 two have absolute value 4 and four have 2.
    assert (turn_pass.test, turn_pass.p) == ("sign_flip_midp", pytest.approx((2 + 4 / 2) / 8))


def test_repeats_are_averaged_and_their_interval_follows_their_spread() -> None:
    base = pd.concat([side({f"d{n}": [True] for n in range(6)}, repeat=k) for k in (1, 2)])
    candidate = pd.concat([side({f"d{n}": [n < 4 or (n == 4 and k == 1)] for n in range(6)}, repeat=k) for k in (1, 2)])
    one = compare_frames(base, candidate).judged[0].result
    assert (one.metric, one.test, one.b) == ("dialogue_pass", "sign_flip_midp", None)
    assert one.difference == pytest.approx(-1.5 / 6)
    spread = (sum((d + 0.25) ** 2 for d in (0, 0, 0, 0, -0.5, -1)) / 5 / 6) ** 0.5
    assert one.ci95 == pytest.approx((-0.25 - 2.5705818 * spread, -0.25 + 2.5705818 * spread), abs=1e-6)
    assert one.p == pytest.approx(2 / 4 / 2)


def test_repeats_that_all_agree_still_have_an_interval() -> None:
    base = pd.concat([side({f"d{n}": [True] for n in range(10)}, repeat=k) for k in (1, 2)])
    same = compare_frames(base, base)
    assert same.verdict == "inconclusive"
    assert same.judged[0].result.ci95 == pytest.approx((-0.2775328, 0.2775328), abs=1e-6)  # z^2 / (10 + z^2)
    worse = compare_frames(base, pd.concat([side({f"d{n}": [False] for n in range(10)}, repeat=k) for k in (1, 2)]))
    assert worse.verdict == "regression"
    low, high = worse.judged[0].result.ci95 or (0, 0)
    assert low == -1
    assert -1 < high < 0


FLIPS: Mapping[str, Any] = {
    "dialogue_pass": lambda n, k: {"passed": n > 0 or k == 1},
    "turn_pass": lambda n, k: {"passed": n > 0 or k == 1},
    "score": lambda n, k: {"passed": None, "score": 0.4 if n == 0 and k == 2 else 0.9},
}


@each("metric", [*FLIPS])
@each("improves", [True, False])
def test_one_flip_in_ten_dialogues_earns_no_verdict(metric: str, improves: bool) -> None:
    cells = [(n, k) for n in range(10) for k in (1, 2)]
    flipped = pd.DataFrame([row(f"d{n}", repeat=k, **FLIPS[metric](n, k)) for n, k in cells])
    whole = pd.DataFrame([row(f"d{n}", repeat=k, **FLIPS[metric](9, k)) for n, k in cells])
    sides = (flipped, whole) if improves else (whole, flipped)
    comparison = compare_frames(*sides, rules=ComparisonRules(metric=metric))
    assert (comparison.verdict, comparison.exit_code) == ("inconclusive", 3)
    assert (comparison.judged[0].result.harm_bound or 0) > 0.2


def test_a_small_gain_in_few_dialogues_does_not_outweigh_harm_that_did_not_show() -> None:
    few, many = (values("score", [0.8] * n, [0.84 + k % 2 / 50 for k in range(n)]) for n in (20, 100))
    assert (few.verdict, many.verdict) == ("inconclusive", "improved")


def test_the_verdict_says_how_much_harm_remains_possible() -> None:
    quiet = render.advice(compare_frames(*table(0, 0, 20)))
    assert quiet[0] == "No dialogue of 20 got worse: up to 13.9 points of harm remain possible (one-sided 95 %)."
    assert quiet[2].endswith("non-inferior within 2 points takes about 149 dialogues of which none differs.")
    noisy = render.advice(compare_frames(*table(2, 2, 16)))
    assert noisy[0] == "Up to 22.1 points of harm remain possible (one-sided 95 %)."
    assert noisy[2].endswith("takes about 3,240 dialogues.")


def test_few_scores_use_sign_flips_and_many_use_the_paired_t_test() -> None:
    chance = random.Random(5)
    for count, test in ((12, "sign_flip_midp"), (40, "paired_t")):
        base = [chance.random() for _ in range(count)]
        found = values("score", base, [min(1.0, one + chance.gauss(0.05, 0.1)) for one in base]).judged[0]
        assert found.result.test == test
        assert found.result.ci95 is not None


def test_a_failed_turn_counts_as_score_0_and_not_passed() -> None:
    base = pd.DataFrame([row("a", passed=True, score=0.9), row("b", passed=True, score=0.8)])
    candidate = pd.DataFrame([row("a", passed=False, status="error", score=None), row("b", passed=True, score=0.8)])
    results = {one.result.metric: one.result for one in compare_frames(base, candidate).judged}
    assert (results["score"].base, results["score"].candidate) == pytest.approx((0.85, 0.4))
    assert results["dialogue_pass"].b == 1


def test_a_dialogue_with_a_failed_turn_fails_even_if_its_checks_pass() -> None:
    base = side({"a": [True, None], "b": [True, None]})
    candidate = pd.DataFrame([row("a", 1, True), row("a", 2, None, status="error"), row("b", 1, True), row("b", 2)])
    comparison = compare_frames(base, candidate)
    assert comparison.judged[0].result.b == 1
    assert (comparison.pairs.failed_base, comparison.pairs.failed_candidate) == (0, 1)


def test_tokens_are_compared_by_their_totals() -> None:
    comparison = values("output_tokens", [100, 110, 120], [120, 115, 140])
    result = comparison.judged[0].result
    assert (result.base, result.candidate, result.ratio) == (330, 375, pytest.approx(375 / 330))
    # Variances of the means 110 and 125: 200 / 6 and 350 / 6, covariance 200 / 6; t(2, 0.975).
    t2 = 4.302652729911275**2
    a, b, c = 110**2 - t2 * 200 / 6, 110 * 125 - t2 * 200 / 6, 125**2 - t2 * 350 / 6
    root = (b * b - a * c) ** 0.5
    assert result.ci95 == pytest.approx(((b - root) / a, (b + root) / a), abs=1e-9)
    assert json.loads(render.to_json(comparison))["metrics"][0]["ratio"] == pytest.approx(375 / 330)


def test_a_constant_increase_of_tokens_without_spread_is_a_regression() -> None:
    base = [100 + n for n in range(12)]
    found = values("input_tokens", base, [one + 10 for one in base])
    assert (found.verdict, found.judged[0].result.test) == ("regression", "sign_flip_midp")
    assert found.judged[0].result.p == pytest.approx(2**-12)


def test_more_tokens_are_a_regression_and_fewer_are_an_improvement() -> None:
    base = [100 + n for n in range(40)]
    more = [one * (1.3 + n % 3 / 50) for n, one in enumerate(base)]
    assert values("output_tokens", base, more).verdict == "regression"
    assert values("output_tokens", more, base).verdict == "improved"
    near = [one * (1 + (n % 3 - 1) / 100) for n, one in enumerate(base)]
    assert values("output_tokens", base, near).verdict == "non-inferior"


def test_a_turn_without_a_token_count_on_one_side_is_left_out_of_both_totals() -> None:
    base = pd.DataFrame([row("a", 1, output_tokens=10), row("a", 2, output_tokens=20), row("b", output_tokens=7)])
    candidate = pd.DataFrame([row("a", 1, output_tokens=12), row("a", 2), row("b", output_tokens=8)])
    result = compare_frames(base, candidate, rules=ComparisonRules(metric="output_tokens")).judged[0].result
    assert (result.base, result.candidate) == (17, 20)


def test_latency_is_compared_by_the_ratio_of_each_dialogue() -> None:
    result = values("latency", [1.0, 4.0, 2.0], [2.0, 4.0, 4.0]).judged[0].result
    assert (result.base, result.candidate) == (pytest.approx(2.0), pytest.approx(2.0 * 4 ** (1 / 3)))
    assert (result.ratio, result.test) == (pytest.approx(4 ** (1 / 3)), "log_ratio_t")


RATIOS = ("input_tokens", "output_tokens", "cost", "latency")


@each("metric", RATIOS)
def test_the_same_ratio_in_all_dialogues_is_tested_by_its_sign(metric: str) -> None:
    base = [100.0 + 7 * n for n in range(50)]
    twice = values(metric, base, [2 * one for one in base])
    result = twice.judged[0].result
    assert (twice.verdict, result.ratio, result.test) == ("regression", pytest.approx(2), "sign_test_midp")
    assert (result.ci95, result.p) == (pytest.approx((2, 2)), pytest.approx(0.5**50))
    assert values(metric, base, [one / 2 for one in base]).verdict == "improved"
    same = values(metric, base, base)
    assert (same.verdict, same.judged[0].result.ci95, same.judged[0].result.p) == ("non-inferior", (1, 1), 1)
    assert same.judged[0].result.harm_bound == 0
    near = values(metric, base, [one * 1.01 for one in base])
    assert near.verdict == "regression-within-margin"


@each("metric", RATIOS)
@each("factor", [1.0, 2.0, 0.5])
def test_a_ratio_in_too_few_dialogues_for_the_sign_test_is_inconclusive(metric: str, factor: float) -> None:
    base = [100.0 + 7 * n for n in range(5)]
    assert values(metric, base, [one * factor for one in base]).verdict != "inconclusive"
    few = values(metric, base[:4], [one * factor for one in base[:4]])
    assert (few.verdict, few.exit_code, few.judged[0].result.ci) == ("inconclusive", 3, None)
    assert render.advice(few) == ["All dialogues have the same ratio: the sign test needs 5 of them at alpha 0.05."]


def test_dialogues_without_cost_on_both_sides_do_not_count_for_the_sign_test() -> None:
    assert values("cost", [0.0] * 9 + [1.0], [0.0] * 9 + [2.0]).verdict == "inconclusive"


def priced_run(path: Path, currency: str, price: int, **rates: str) -> MadeRun:
    """Make a run of two dialogues with 1 million input tokens each; a rate is written `USD_CNY="7"`."""
    period = Period(input=TokenPrice(base=Decimal(price)), output=TokenPrice(base=Decimal(0)))
    made = MadeRun(
        path,
        [dialogue(f"d{n}", "x") for n in range(6)],
        prices={REAL: PriceTable(currency=currency, source="by hand", periods=(period,))},
        rates={pair.replace("_", "/"): rate for pair, rate in rates.items()},
    )
    for index in range(6):
        usage = Usage(input_tokens=1_000_000 + index, output_tokens=1, source="reported")
        made.replied(made.ident(index, 1), SEED_REPLY._replace(usage=usage))
    return made


def test_costs_in_two_currencies_are_compared_by_one_rate(tmp_path: Path) -> None:
    dollars = priced_run(tmp_path / "usd", "USD", 1).write().path
    yuan = priced_run(tmp_path / "cny", "CNY", 7, USD_CNY="7").write().path
    newer = priced_run(tmp_path / "newer", "USD", 1, USD_CNY="8").write().path
    for base, candidate, currency, total in ((dollars, yuan, "USD", 6), (yuan, dollars, "CNY", 42)):
        result = package.compare(base, candidate, metric="cost")
        assert (result.currency, result.judged[0].result.ratio) == (currency, 1.0)
        assert result.judged[0].result.base == pytest.approx(total, rel=1e-4)
        assert f"costs in {currency}: 1 USD = 7 CNY by [rates]" in result.notes
    result = package.compare(yuan, newer, metric="cost")
    assert result.judged[0].result.ratio == 1.0
    assert "the candidate's run has another rate, 1 USD = 8 CNY; that of the base is used" in result.notes
    assert package.compare(dollars, dollars, metric="cost").currency == "USD"
    assert "cost (CNY)" in render.to_markdown(package.compare(yuan, dollars, metric="cost"))


def test_costs_without_a_rate_name_the_line_of_the_config_that_converts_them(tmp_path: Path) -> None:
    dollars = priced_run(tmp_path / "usd", "USD", 1).write().path
    yuan = priced_run(tmp_path / "cny", "CNY", 7).write().path
    with pytest.raises(SetupError, match="cost cannot be compared: the sides are in different currencies: CNY, USD"):
        package.compare(dollars, yuan, metric="cost")
    result = package.compare(dollars, yuan, metric="input_tokens")
    assert any('"CNY/USD" = <USD for 1 CNY>; then add -c convbatch.toml' in note for note in result.notes)
    with pytest.raises(SetupError, match="no exchange rate from USD to CNY"):
        package.compare(dollars, yuan, currency="CNY")
    with pytest.raises(SetupError, match="'RMB2' is not a currency"):
        package.compare(dollars, yuan, currency="RMB2")
    config = tmp_path / "edited.toml"
    config.write_text(f'[rates]\n"USD/CNY" = 7\n[prices.google."{REAL.partition("@")[0]}"]\ninput = 2\noutput = 0\n')
    result = package.compare(dollars, yuan, currency="CNY", config=config, metric="cost")
    assert result.judged[0].result.ratio == 1.0  # the config has the same price for both, in the gateway's currency
    assert result.judged[0].result.base == pytest.approx(2 * 6 * 7, rel=1e-4)


def test_costs_in_two_currencies_are_not_compared() -> None:
    base = pd.DataFrame([row("a", cost=1.0, currency="USD", output_tokens=1)])
    candidate = pd.DataFrame([row("a", cost=7.0, currency="CNY", output_tokens=1)])
    comparison = compare_frames(base, candidate, rules=ComparisonRules(metric="output_tokens"))
    assert comparison.unavailable["cost"] == "the sides are in different currencies: CNY, USD"


def test_the_primary_metric_decides_and_other_p_values_are_holm_adjusted() -> None:
    chance = random.Random(1)
    base = pd.DataFrame([row(f"d{n}", passed=True, output_tokens=100, input_tokens=50) for n in range(30)])
    candidate = base.assign(
        output_tokens=[100 + chance.randint(0, 3) for _ in range(30)],
        input_tokens=[50 + chance.randint(-1, 2) for _ in range(30)],
    )
    by_metric = {one.result.metric: one for one in compare_frames(base, candidate).judged}
    assert next(iter(by_metric)) == "dialogue_pass"
    raw = {name: one.result.p or 1.0 for name, one in by_metric.items() if name != "dialogue_pass"}
    smallest = min(raw, key=lambda name: raw[name])
    assert by_metric[smallest].p_adjusted == pytest.approx(min(1.0, raw[smallest] * len(raw)))


def test_slices_by_tag_and_turn_are_exploratory_and_adjusted() -> None:
    base, candidate = table(18, 7, 175)
    tags = [["x", "y"] if n < 40 else ["y"] for n in range(200)]
    comparison = compare_frames(base.assign(tags=tags), candidate.assign(tags=tags))
    found = json.loads(render.to_json(comparison))["slices"]
    assert [one["slice"] for one in found] == ["tag x", "tag y"]
    assert all(one["exploratory"] for one in found)
    assert found[1]["b"] == 18
    two = compare_frames(side({"a": [True, True], "b": [True, False]}), side({"a": [True, False], "b": [True, False]}))
    assert [(one.slice, one.result.metric, one.result.test) for one in two.parts] == [
        ("turn 1", "turn_pass", "mcnemar_midp"),
        ("turn 2", "turn_pass", "mcnemar_midp"),
    ]


def test_flipped_turns_list_harmful_ones_first_with_both_replies() -> None:
    base = side({"a": [False, True], "b": [True, True]}, user="why?")
    candidate = side({"a": [True, True], "b": [True, False]}, user="why?")
    flipped = compare_frames(base, candidate).flipped
    assert list(flipped["change"]) == ["harmful", "improved"]
    assert list(flipped[["dialogue", "turn"]].itertuples(index=False, name=None)) == [("b", 2), ("a", 1)]
    assert (flipped["base_reply"][0], flipped["candidate_reply"][0]) == ("b 2 True", "b 2 False")


def test_live_histories_are_strictly_paired_up_to_the_first_reply_that_differs() -> None:
    base = side({"a": [True, True, True], "b": [True, True]})
    candidate = side({"a": [True, False, True], "b": [True, True]})
    comparison = compare_frames(base, candidate, history=("live", "live"))
    assert comparison.divergence() == {2: 1, None: 1}
    assert list(comparison.turns["strictly_paired"]) == [True, True, False, True, True]
    assert list(compare_frames(base, candidate).turns["strictly_paired"]) == [True] * 5


@each("metric", ["dialogue_pass", "turn_pass", "score", "output_tokens", "cost", "latency"])
@pytest.mark.slow
def test_a_metric_known_on_one_side_only_in_over_5_percent_of_dialogues_is_inconclusive(metric: str) -> None:
    def comparison_with_unknown(count: int) -> Comparison:
        base, candidate = (
            pd.DataFrame(
                [
                    row(f"d{n}", passed=passed, score=1 - cost, output_tokens=10 * cost, cost=cost, latency_s=cost)
                    for n in range(100)
                    for cost in [least + n % 3 / 9]
                ]
            )
            for passed, least in ((True, 0.2), (False, 0.4))
        )
        unknown = pd.DataFrame([row(f"d{n}") for n in range(count)])
        return compare_frames(base, pd.concat([unknown, candidate.iloc[count:]]), rules=ComparisonRules(metric=metric))

    few, many = comparison_with_unknown(5), comparison_with_unknown(6)
    assert (few.verdict, few.exit_code, few.judged[0].coverage) == ("regression", 1, (100, 5))
    assert (many.verdict, many.exit_code) == ("inconclusive", 3)
    assert json.loads(render.to_json(many))["metrics"][0]["uneven"] == 6
    assert f"{metric}: 6 of 100 dialogues have it on one side only" in render.sentence(many)


@each(
    ("checks_passed", "checks_failed", "without", "passed"),
    [(1, 0, 1, None), (0, 1, 1, False), (None, None, 1, None), (1, 0, 0, True), (1, 0, None, True)],
)
def test_a_check_without_a_verdict_leaves_its_turn_open_unless_another_failed(
    checks_passed: int | None, checks_failed: int | None, without: int | None, passed: bool | None
) -> None:
    given = {"checks_passed": checks_passed, "checks_failed": checks_failed, "checks_without_verdict": without}
    cells: Any = {**dict.fromkeys(TURN_COLUMNS), "status": "ok", **given}
    assert ComparedTurn(**cells).passed is passed


def test_dialogues_without_a_verdict_are_counted_and_never_taken_for_failed_or_equal() -> None:
    def comparison_with_unjudged(count: int) -> Comparison:
        judged = [row(f"d{n}", passed=True, checks_without_verdict=0) for n in range(count, 100)]
        frame = pd.DataFrame([row(f"d{n}", passed=True, checks_without_verdict=1) for n in range(count)] + judged)
        return compare_frames(frame, frame, rules=ComparisonRules(margin=0.5))

    few, many = comparison_with_unjudged(5), comparison_with_unjudged(6)
    assert (few.verdict, few.judged[0].result.dialogues, few.judged[0].result.base) == ("non-inferior", 95, 1.0)
    assert json.loads(render.to_json(few))["pairs"]["without_verdict"] == 5
    assert (many.verdict, many.exit_code) == ("inconclusive", 3)
    assert "6 of 100 dialogues have it on one side only, wholly or in part, or lack a verdict (6)" in render.sentence(
        many
    )
    cases = ElementTree.fromstring(render.to_junit(many)).findall(".//testcase/skipped")
    assert [case.get("message") for case in cases] == ["a check without a verdict"] * 6


def test_a_turn_that_failed_on_one_side_makes_the_tokens_of_its_dialogue_uneven() -> None:
    base = pd.DataFrame([row("a", 1, output_tokens=10), row("a", 2, output_tokens=20), row("b", output_tokens=7)])
    candidate = pd.DataFrame([row("a", 1, output_tokens=12), row("a", 2, status="error"), row("b", output_tokens=8)])
    judged = compare_frames(base, candidate, rules=ComparisonRules(metric="output_tokens")).judged[0]
    assert (judged.coverage.uneven, judged.coverage.either_side, judged.verdict) == (1, 2, "inconclusive")


def test_a_metric_with_total_0_is_unavailable() -> None:
    base = pd.DataFrame([row("a", passed=True, output_tokens=0)])
    assert "total is 0" in compare_frames(base, base).unavailable["output_tokens"]


def test_runs_with_different_history_modes_have_no_strictly_paired_turn() -> None:
    base = side({"a": [True, True], "b": [True, True]})
    page = render.to_markdown(compare_frames(base, base, history=("live", "script")))
    assert "no turn is strictly paired" in page
    assert "every turn is strictly paired" not in page


def test_too_many_unmatched_or_pending_dialogues_are_inconclusive() -> None:
    base, candidate = table(30, 0, 70)
    assert compare_frames(base, candidate.iloc[5:]).verdict == "regression"
    lost = compare_frames(base, candidate.iloc[6:])
    assert (lost.verdict, lost.exit_code, len(lost.pairs.only_base)) == ("inconclusive", 3, 6)
    pending = candidate.assign(status=["pending" if n < 6 else "ok" for n in range(100)])
    comparison = compare_frames(base, pending)
    assert (comparison.verdict, len(comparison.pairs.pending)) == ("inconclusive", 6)
    assert "unmatched or pending" in render.sentence(comparison)


def test_a_run_without_a_finished_turn_is_inconclusive() -> None:
    base, _ = table(1, 1, 8)
    comparison = compare_frames(base, base.assign(status="pending"))
    assert (comparison.verdict, comparison.exit_code, comparison.judged) == ("inconclusive", 3, ())
    for form in (render.to_json, render.to_junit, render.to_markdown):
        assert "inconclusive" in _text(form(comparison)).lower()


def _text(content: str | bytes) -> str:
    return content if isinstance(content, str) else content.decode()


def test_a_comparison_without_checks_is_refused_and_names_other_metrics() -> None:
    base = pd.DataFrame([row("a", output_tokens=3)])
    with pytest.raises(SetupError, match="no dialogue has checks") as caught:
        compare_frames(base, base)
    assert "output_tokens" in str(caught.value)
    with pytest.raises(SetupError, match="cost cannot be compared"):
        compare_frames(base, base, rules=ComparisonRules(metric="cost"))


def test_runs_without_a_dialogue_in_common_are_refused() -> None:
    with pytest.raises(SetupError, match="no dialogue in common"):
        compare_frames(side({"a": [True]}), side({"b": [True]}))


def test_a_single_dialogue_is_inconclusive() -> None:
    comparison = compare_frames(side({"a": [True]}), side({"a": [False]}))
    assert comparison.verdict == "inconclusive"
    assert "1 dialogue, 1 turn paired" in render.to_markdown(comparison)
    low, high = comparison.judged[0].result.ci95 or (0, 0)
    assert low < 0 < high


@settings(max_examples=examples(40))  # each example makes whole comparisons
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=3), min_size=1, max_size=12))
def test_a_side_compared_with_itself_shows_no_difference(passes: list[list[bool]]) -> None:
    frame = side({f"d{n}": turns for n, turns in enumerate(passes)}).assign(output_tokens=7, score=0.5)
    comparison = compare_frames(frame, frame)
    assert comparison.verdict in ("inconclusive", "non-inferior")
    for one in comparison.judged:
        assert one.result.difference == 0
        assert one.result.p in (None, 1.0)
        assert one.result.ci95 in (None, (1, 1)) or one.result.harms(one.result.ci95)[0] < 0
    assert len(comparison.flips) == 0


@settings(max_examples=examples(40))
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=15))
def test_swapping_the_sides_negates_the_difference(kinds: list[tuple[bool, bool]]) -> None:
    base, candidate = (side({f"d{n}": [kind[place]] for n, kind in enumerate(kinds)}) for place in (0, 1))
    forward, backward = (
        compare_frames(base, candidate).judged[0].result,
        compare_frames(candidate, base).judged[0].result,
    )
    assert forward.difference == pytest.approx(-backward.difference)
    assert (forward.b, forward.c, forward.p) == (backward.c, backward.b, backward.p)


# --- output formats ---------------------------------------------------------------------------------------------------


@pytest.fixture
def comparison() -> Comparison:
    """Return a comparison with flips, hostile texts and an unmatched dialogue."""
    hostile = "x\x1b[31m\x00 <b>|`"
    base = side({"a|b": [True, True], "c": [True, False], "d": [True]}, user=hostile)
    candidate = side({"a|b": [True, False], "c": [True, True]}, user=hostile).assign(reply=hostile)
    return compare_frames(base, candidate, history=("live", "live"))


@pytest.mark.parametrize("fail_on", [None, "regression", "inconclusive"])
def test_junit_has_a_case_for_every_dialogue_and_fails_those_that_got_worse_only_with_the_gate(
    comparison: Comparison, fail_on: FailOn | None
) -> None:
    comparison = replace(comparison, rules=ComparisonRules(fail_on=fail_on))
    verdict, *dialogues = junit_cases(render.to_junit(comparison))
    code = {None: 3, "regression": 0, "inconclusive": 1}[fail_on]
    assert (comparison.exit_code, verdict.result) == (code, {0: "passed", 1: "failure", 3: "error"}[code])
    worse = "failure" if code == 1 else "passed"
    assert {case.name: case.result for case in dialogues} == {"a|b": worse, "c": "passed", "d": "skipped"}
    assert "turn 2: worse" in dialogues[0].text
    assert "\\x1b[31m" in dialogues[0].text
    if code == 1:
        assert "turn 2: worse" in dialogues[0].message


@pytest.mark.parametrize(
    ("frames", "rules", "gate"),
    [
        (table(18, 7, 162, 13), ComparisonRules(), "failed"),
        (table(5, 0, 595), ComparisonRules(), "passed"),  # a regression within the margin
        (table(5, 0, 595), ComparisonRules(strict=True), "failed"),
        (table(0, 0, 200), ComparisonRules(), "passed"),
        (table(1, 0, 20), ComparisonRules(), "undecided"),
        (table(1, 0, 20), ComparisonRules(fail_on="inconclusive"), "failed"),
        (table(1, 0, 20), ComparisonRules(fail_on="regression"), "passed"),
    ],
    ids=["regression", "within-margin", "strict", "non-inferior", "inconclusive", "fail-on-both", "fail-on-regression"],
)
def test_all_outputs_of_a_comparison_agree_with_its_exit_code(
    frames: tuple[pd.DataFrame, pd.DataFrame], rules: ComparisonRules, gate: str
) -> None:
    comparison = compare_frames(*frames, rules=rules)
    code = {"passed": 0, "failed": 1, "undecided": 3}[gate]
    document = json.loads(render.to_json(comparison))
    assert (document["exit_code"], document["gate"], comparison.exit_code) == (code, gate, code)
    assert f"gate       {gate}, exit code {code}" in render.to_markdown(comparison)
    verdict, *dialogues = junit_cases(render.to_junit(comparison))
    assert verdict.result == {0: "passed", 1: "failure", 3: "error"}[code]
    assert {case.result for case in dialogues} == ({"passed", "failure"} if code == 1 else {"passed"})


def test_markdown_starts_with_the_verdict_and_escapes_text_in_its_tables(comparison: Comparison) -> None:
    page = render.to_markdown(comparison)
    assert page.startswith("## INCONCLUSIVE: ")
    assert "<b>" not in page
    assert "\x1b" not in page
    widths = [line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("|")]
    assert set(widths) <= {4, 8}


def test_the_terminal_shows_the_verdict_first_and_no_control_characters(
    comparison: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    render.to_terminal(comparison)
    out = capsys.readouterr().out
    assert out.startswith("INCONCLUSIVE: ")
    assert "\x1b" not in out
    assert "Flipped: 1 to worse, 1 to better" in out


def test_multi_line_replies_are_shown_side_by_side_without_mentions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = pd.DataFrame([row("a", passed=True, reply="one\ntwo"), row("b", passed=True)])
    code = "@property\ndef a(self): # see #12\n\treturn 'x@y' &#64;all" + "\n" * 30 + "end"
    candidate = pd.DataFrame([row("a", passed=False, reply=code), row("b", passed=True)])
    comparison = compare_frames(base, candidate)
    page = render.to_markdown(comparison)
    assert "| reply | one<br>two | @&#8203;property<br>def a(self): \\# see \\#&#8203;12<br>" in page
    assert r"x@y' \&\#&#8203;64;all" in page
    render.to_terminal(comparison)
    printed_lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    start = next(n for n, line in enumerate(printed_lines) if line.startswith("one"))
    assert printed_lines[start].endswith("@property")
    assert printed_lines[start + 1].startswith("two")
    assert "def a(self)" in printed_lines[start + 1]
    assert len([line for line in printed_lines[start:] if not line.strip()]) < render.LINES_SHOWN


def test_sentences_are_wrapped_between_words_on_a_terminal_and_not_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = compare_frames(*table(1, 0, 27))
    sentence = render.sentence(comparison)
    render.to_terminal(comparison)
    assert capsys.readouterr().out.splitlines()[0].rstrip() == sentence
    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "80"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    render.to_terminal(comparison)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in capsys.readouterr().out.splitlines()]
    assert len(lines[0]) <= 80
    assert f"{lines[0]} {lines[1]}" == sentence


def test_an_unknown_file_suffix_is_refused(comparison: Comparison, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="format"):
        write_content(render.comparison_content(comparison), tmp_path / "x.csv")


# --- runs -------------------------------------------------------------------------------------------------------------

Make = Callable[..., MadeRun]


def compare(base: Any, candidate: Any, **more: Any) -> Comparison:
    return package.compare(base, candidate, metric="output_tokens", **more)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes a run of six one-turn dialogues with these output tokens."""

    def run(
        name: str, tokens: Sequence[int] = (10, 20, 30, 40, 50, 60), targets: Sequence[str] = (REAL,), **more: Any
    ) -> MadeRun:
        changed = more.pop("dialogues", {})
        scripts = [dialogue(f"d{n}", "hello", **changed) for n in range(6)]
        made = MadeRun(tmp_path / name, scripts, targets=targets, **more)
        for target in targets:
            for n, count in enumerate(tokens):
                usage = Usage(input_tokens=5, output_tokens=count, source="reported")
                made.replied(made.ident(n, 1, target), SEED_REPLY._replace(usage=usage))
        made.write()
        return made

    return run


def test_one_target_on_each_side_is_paired_regardless_of_names(make: Make, convbatch: Command) -> None:
    make("a")
    make("b", UNEVEN, targets=["qwen-plus@dmxapi"])
    done = convbatch("compare", "a", "b", "--metric", "output_tokens", "--json")
    document = json.loads(done.out)
    assert (done.code, document["base"], document["candidate"]) == (3, f"a:{REAL}", "b:qwen-plus@dmxapi")
    assert document["metrics"][0]["ratio"] == pytest.approx(216 / 210)


def test_several_targets_need_the_same_names_or_a_choice_of_one(make: Make) -> None:
    many, one = make("a", targets=[GOOD, DRIFT]).path, make("b").path
    with pytest.raises(SetupError, match="several targets") as caught:
        compare(many, one)
    assert f"a:{GOOD}" in str(caught.value)
    assert compare(f"{many}:{GOOD}", one).pairs.turns == 6
    assert compare(f"{many}:{GOOD}", (many, DRIFT)).base == f"a:{GOOD}"
    assert [part.slice for part in compare(many, many).parts] == [f"target {DRIFT}", f"target {GOOD}"]


def test_an_unknown_target_is_refused_with_the_known_ones(make: Make) -> None:
    path = make("a").path
    with pytest.raises(SetupError, match="did you mean") as caught:
        compare(f"{path}:gemini-2.5-flsh@google", path)
    assert REAL in str(caught.value)


def test_a_colon_in_a_run_name_does_not_start_a_target(make: Make) -> None:
    path = make("a:b").path
    assert compare(path, f"{path}:{REAL}").pairs.turns == 6
    with pytest.raises(SetupError, match="nowhere"):
        compare("nowhere:x", path)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"dialogues": {"system": "Be brief."}}, "different content"),
        ({"dialogues": {"checks": [{"contains": "x"}]}}, "different checks"),
        ({"history": "script"}, "history live against script"),
    ],
    ids=["content", "checks", "history"],
)
def test_runs_with_different_inputs_are_refused_unless_allowed(make: Make, more: dict[str, Any], what: str) -> None:
    base, candidate = make("a").path, make("b", **more).path
    with pytest.raises(SetupError, match=what) as caught:
        compare(base, candidate)
    assert "use allow_mismatch= to compare" in str(caught.value)
    assert any(what in note for note in compare(base, candidate, allow_mismatch=True).notes)


def test_different_tags_are_allowed_and_different_settings_are_noted(make: Make) -> None:
    base, candidate = make("a"), make("b", dialogues={"tags": ["new"], "settings": {"temperature": 0.5}})
    comparison = compare(base.path, candidate.path)
    assert any("different settings" in note for note in comparison.notes)


def test_keys_that_change_what_a_model_sees_are_noted(make: Make) -> None:
    base, candidate = make("a"), make("b")
    manifest = json.loads((candidate.path / "run.json").read_text("utf-8"))
    manifest["targets"][0]["gateway"] |= {"replay": "content", "unset": ["seed"], "path": "v2/chat"}
    (candidate.path / "run.json").write_text(json.dumps(manifest), "utf-8")
    notes = compare(base.path, candidate.path).notes
    assert [note for note in notes if note.startswith("gateway key")] == [
        'gateway key unset: [] against ["seed"]', 'gateway key replay: not set against "content"',
    ]  # fmt: skip


def test_a_different_number_of_turns_is_not_noted_as_different_settings(make: Make) -> None:
    base, candidate = make("a"), make("b", dialogues={"turns": [{"user": "hello"}, {"user": "and?"}]})
    comparison = compare(base.path, candidate.path, allow_mismatch=True)
    assert any("different content" in note for note in comparison.notes)
    assert not any("settings" in note for note in comparison.notes)


@pytest.mark.slow
def test_an_unfinished_run_is_inconclusive(make: Make, convbatch: Command) -> None:
    make("a")
    make("b", [10, 20, 30, 40])
    done = convbatch("compare", "a", "b", "--metric", "output_tokens")
    assert done.code == 3
    assert "pending" in done.out


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--margin", "2"), ("--alpha", "0.7"), ("--metric", "quality"), ("-o", "x.csv")])
def test_invalid_options_exit_with_2(make: Make, convbatch: Command, options: Sequence[str]) -> None:
    make("a")
    done = convbatch("compare", "a", "a", *options)
    assert done.code == 2
    assert "error" in done.err.lower()


@pytest.mark.slow
def test_output_files_are_written_in_addition_to_stdout(make: Make, convbatch: Command, tmp_path: Path) -> None:
    make("a")
    make("b", UNEVEN)
    outs = [part for name in ("x.md", "x.json", "x.xml", "x.html") for part in ("-o", name)]
    done = convbatch("compare", "a", "b", "--metric", "output_tokens", "--fail-on", "regression", *outs)
    assert done.code == 0
    assert done.out.startswith("INCONCLUSIVE")
    assert json.loads((tmp_path / "x.json").read_text())["exit_code"] == 0
    assert ElementTree.parse(tmp_path / "x.xml").getroot()[0].get("tests") == "7"  # the verdict and six dialogues
    assert (tmp_path / "x.md").read_text().startswith("## INCONCLUSIVE")
    assert (tmp_path / "x.html").read_text().startswith("<!DOCTYPE html>")


def test_a_comparison_from_python_has_frames(make: Make) -> None:
    base, candidate = make("a"), make("b", UNEVEN)
    comparison = compare(package.load(base.path), (candidate.path, REAL))
    assert comparison.verdict == "inconclusive"
    first: dict[str, Any] = comparison.metrics.to_dict("records")[0]
    assert first["metric"] == "output_tokens"
    assert first["ci95_low"] < first["ratio"] < first["ci95_high"]
    assert len(comparison.turns) == 6
    assert list(comparison.flipped.columns)[:3] == ["dialogue", "turn", "change"]
    assert len(comparison.slices) == 0


@pytest.mark.slow
def test_the_drifting_model_is_a_regression_and_the_good_model_is_not(convbatch: Command, tmp_path: Path) -> None:
    assert convbatch("run", QUICKSTART, "--no-progress", "-o", "q").code == 0
    done = convbatch("compare", f"q:{GOOD}", f"q:{DRIFT}", "--json", "-o", "x.xml")
    document = json.loads(done.out)
    assert (done.code, document["verdict"], document["primary"]) == (1, "regression", "dialogue_pass")
    run = package.load(tmp_path / "q")
    drifted = run.turns[(run.turns["target"] == DRIFT) & (run.turns["checks_failed"] > 0)]
    flipped = {(one["dialogue"], one["turn"]) for one in document["flipped"] if one["turn"] is not None}
    assert flipped == set(zip(drifted["dialogue"], drifted["turn"], strict=True))
    assert all(one["change"] == "harmful" and one["candidate_reason"] for one in document["flipped"])
    failing = run.conversations[(run.conversations["target"] == DRIFT) & (run.conversations["dialogue_pass"] == False)]  # noqa: E712
    assert document["metrics"][0]["b"] == len(failing)
    itself = package.compare((run, GOOD), (run, GOOD))
    assert (itself.verdict, itself.exit_code) == ("inconclusive", 3)
    assert package.compare((run, GOOD), (run, GOOD), fail_on="regression").exit_code == 0


def test_two_hundred_dialogues_compared_with_themselves_are_non_inferior() -> None:
    base, _ = table(0, 0, 200)
    assert (compare_frames(base, base).verdict, compare_frames(base, base).exit_code) == ("non-inferior", 0)


@pytest.mark.slow
def test_checks_edited_after_the_run_count_as_different_checks(make: Make, convbatch: Command, tmp_path: Path) -> None:
    base = make("a", dialogues={"checks": [{"contains": "2025"}]})
    candidate = make("b", dialogues={"checks": [{"contains": "2025"}]})
    assert package.compare(base.path, candidate.path).primary == "dialogue_pass"
    edited = tmp_path / "edited.jsonl"
    scripts = [dialogue(f"d{n}", "hello", checks=[{"contains": "no such text"}]).to_plain() for n in range(6)]
    edited.write_text("\n".join(map(json.dumps, scripts)))
    assert convbatch("check", "b", "--dataset", edited).code == 0
    with pytest.raises(SetupError, match="different checks"):
        package.compare(base.path, candidate.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code"),
    [("compare out:sim-good@simulator out:sim-drift@simulator", 1), ("check out --fail-under 1", 1)],
    ids=["compare", "check"],
)
def test_a_closed_pipe_does_not_change_the_exit_code_of_a_verdict(
    command: str, code: int, convbatch: Command, tmp_path: Path
) -> None:
    assert convbatch("run", QUICKSTART, "-o", "out").code == 0
    line = f"{sys.executable} -m convbatch {command} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
