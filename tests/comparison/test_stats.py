"""Tests of the statistics against published values, closed forms, properties, and independent calculations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.comparison import stats
from convbatch.comparison.stats import Mean
from tests.support.tables import each

NEAR = 1e-6
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
"""Student 1908: hours of sleep gained, one drug against the other."""
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
"""Darwin's maize, crossed against self-fertilised, from Fisher 1935."""
FAMILY = [
    0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0
]  # fmt: skip
"""Benjamini and Hochberg 1995, section 4."""

tables = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200)).filter(any)
ps = st.lists(st.floats(0, 1), min_size=1, max_size=12)
differences = st.lists(st.integers(-5, 5), min_size=1, max_size=12)
totals = st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 1000)), min_size=2, max_size=30)


def test_statistics_match_the_example_of_the_contract() -> None:
    assert stats.mcnemar_midp(18, 7) == pytest.approx(0.028959, abs=5e-7)
    low, high = stats.tango_interval(18, 7, 200, level=0.95)
    assert (low, high) == (pytest.approx(-0.108008, abs=5e-7), pytest.approx(-0.006450, abs=5e-7))
    assert stats.smallest_of_pairs(200, 25 / 200, alpha=0.05) == pytest.approx(0.07, abs=1e-12)
    assert stats.pairs_needed(-0.055, 25 / 200, alpha=0.05) == 322


def test_airway_data_give_the_published_interval_and_mid_p() -> None:
    # Fagerland, Lydersen, Laake 2014, Statistics in Medicine 33:2850 (data of Bentur 2009): -0.286, Tango -0.517 to
    # -0.026, mid-p 0.039.
    low, high = stats.tango_interval(7, 1, 21, level=0.95)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)
    assert stats.mcnemar_midp(1, 7) == 10 / 256


def test_an_even_split_has_the_published_mid_p() -> None:
    # Fagerland 2013, section on the mid-p test: 1 - P(this split) / 2 where both counts are equal.
    assert stats.mcnemar_midp(1, 1) == 1 - 2 / 4 / 2
    assert stats.mcnemar_midp(5, 5) == pytest.approx(1 - math.comb(10, 5) / 2**10 / 2, abs=1e-12)
    assert stats.mcnemar_midp(0, 0) == 1


@each(("b", "c", "n"), [(18, 7, 200), (7, 1, 21), (0, 3, 10), (5, 5, 10), (1, 0, 44), (40, 20, 160)])
@each("level", [0.8, 0.95, 0.99])
def test_the_score_at_each_tango_limit_equals_the_normal_quantile(b: int, c: int, n: int, level: float) -> None:
    for sign, limit in zip((1, -1), stats.tango_interval(b, c, n, level=level), strict=True):
        lost = _constrained_maximum(b, c, n, limit)
        score = (c - b - n * limit) / math.sqrt(n * (2 * lost + limit - limit * limit))
        assert score == pytest.approx(sign * stats._z(0.5 + level / 2), abs=1e-4)  # pyright: ignore[reportPrivateUsage]  # the quantile


def _constrained_maximum(b: int, c: int, n: int, difference: float) -> float:
    """Return the loss probability with the maximum likelihood for a fixed difference, by golden-section search."""

    def log_likelihood(lost: float) -> float:
        cells = ((b, lost), (c, lost + difference), (n - b - c, 1 - 2 * lost - difference))
        return sum(count * math.log(max(chance, 1e-300)) for count, chance in cells if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(200):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if log_likelihood(left) > log_likelihood(right) else (left, high)
    return (low + high) / 2


@pytest.mark.parametrize("pairs", [1, 8, 200])
def test_the_interval_without_discordant_pairs_matches_the_closed_form(pairs: int) -> None:
    z2 = 1.959963984540054**2
    low, high = stats.tango_interval(0, 0, pairs, level=0.95)
    assert (-low, high) == (pytest.approx(z2 / (pairs + z2), abs=NEAR), pytest.approx(z2 / (pairs + z2), abs=NEAR))


@pytest.mark.parametrize(("b", "c", "n"), [(1, 1, 1), (0, 0, 0), (-1, 0, 5)])
def test_impossible_tables_are_refused(b: int, c: int, n: int) -> None:
    with pytest.raises(ValueError, match="discordant"):
        stats.tango_interval(b, c, n, level=0.95)


@given(tables)
def test_swapping_the_sides_negates_the_interval_and_keeps_the_p_value(table: tuple[int, int, int]) -> None:
    b, c, same = table
    low, high = stats.tango_interval(b, c, b + c + same, level=0.95)
    back_low, back_high = stats.tango_interval(c, b, b + c + same, level=0.95)
    assert (low, high) == (pytest.approx(-back_high, abs=1e-9), pytest.approx(-back_low, abs=1e-9))
    assert stats.mcnemar_midp(b, c) == stats.mcnemar_midp(c, b)


@given(tables)
def test_an_interval_contains_its_estimate_and_the_interval_of_a_lower_level(table: tuple[int, int, int]) -> None:
    b, c, same = table
    n = b + c + same
    wide, narrow = stats.tango_interval(b, c, n, level=0.95), stats.tango_interval(b, c, n, level=0.9)
    assert -1 <= wide.low <= narrow.low <= (c - b) / n <= narrow.high <= wide.high <= 1
    assert wide.low < wide.high


@given(st.integers(0, 30), st.integers(0, 30))
def test_one_more_loss_never_raises_the_upper_limit(b: int, c: int) -> None:
    few, more = stats.tango_interval(b, c, 100, level=0.95), stats.tango_interval(b + 1, c, 100, level=0.95)
    assert more.high <= few.high + 1e-9


def test_the_paired_t_test_matches_the_sleep_data_of_student() -> None:
    # R, ?sleep: paired t = 4.0621, p = 0.002833, 95 % 0.7001142 to 2.4598858.
    mean = stats.paired_mean(SLEEP)
    interval = mean.interval(0.95)
    assert interval is not None
    assert mean.estimate == pytest.approx(1.58, abs=1e-12)
    assert mean.p() == pytest.approx(0.00283289, abs=1e-7)
    assert tuple(interval) == (pytest.approx(0.7001142, abs=1e-6), pytest.approx(2.4598858, abs=1e-6))


def test_the_standard_error_of_a_clustered_mean_matches_the_sandwich_estimator() -> None:
    clusters: list[list[float]] = [[1, 0, -1], [0], [0, 0, -1, -1], [1, 1], [0, -1]]
    rows = list(itertools.chain.from_iterable(clusters))
    mean = math.fsum(rows) / len(rows)
    # (X'X)^-1 (sum of s_g s_g') (X'X)^-1 with X = 1, and the factor G / (G - 1) * (N - 1) / (N - 1).
    scores = [math.fsum(value - mean for value in cluster) for cluster in clusters]
    se = math.sqrt(5 / 4 * math.fsum(score**2 for score in scores)) / len(rows)
    found = stats.cluster_mean([math.fsum(cluster) for cluster in clusters], [len(cluster) for cluster in clusters])
    assert (found.estimate, found.se, found.dialogues) == (pytest.approx(mean), pytest.approx(se), 5)


def test_the_sign_flip_p_value_matches_the_maize_count_of_fisher() -> None:
    # Fisher 1935, section 21: of 32768 totals 835 exceed 314 and 28 equal it; the other side has as many.
    assert stats.sign_flip_midp(MAIZE) == (pytest.approx(2 * (835 + 28 / 2) / 32768, abs=1e-12), None)


@given(differences)
def test_the_sign_flip_p_value_matches_full_enumeration(values: list[int]) -> None:
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in _all_signs(len(values))]
    observed = abs(sum(values))
    by_hand = sum((one > observed) + (one == observed) / 2 for one in sums) / len(sums)
    assert stats.sign_flip_midp(values).p == pytest.approx(by_hand if any(values) else 1.0, abs=1e-9)


def _all_signs(count: int) -> list[tuple[int, ...]]:
    return list(itertools.product((-1, 1), repeat=count))


@given(st.integers(0, 25), st.integers(0, 25))
def test_sign_flips_of_single_turns_equal_mcnemar(b: int, c: int) -> None:
    assert stats.sign_flip_midp([-1.0] * b + [1.0] * c).p == pytest.approx(stats.mcnemar_midp(b, c), abs=1e-9)


@given(differences, st.sampled_from([1 / 3, 0.1, 7.0]))
def test_the_sign_flip_p_value_does_not_depend_on_the_unit(values: list[int], unit: float) -> None:
    assert stats.sign_flip_midp([value * unit for value in values]).p == pytest.approx(
        stats.sign_flip_midp(values).p, abs=1e-9
    )


def test_sampled_sign_flips_are_close_to_the_t_test_and_reproducible() -> None:
    values = [math.sin(n) + 0.25 for n in range(60)]
    first = stats.sign_flip_midp(values)
    assert first.draws == stats.DRAWS
    assert first == stats.sign_flip_midp(values)
    assert first.p == pytest.approx(stats.paired_mean(values).p(), abs=0.01)


def test_rates_on_a_grid_are_counted_exactly_for_many_dialogues() -> None:
    values = [(-2, -1, 0, 0, 1)[n % 5] / 3 for n in range(500)]
    assert stats.sign_flip_midp(values).draws is None


@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.0, 0.0]])
def test_no_difference_has_p_value_1(values: list[float]) -> None:
    assert stats.sign_flip_midp(values) == (1.0, None)


@each("values", [[0.25], [0.1] * 7, [0.0] * 5, [1 / 3] * 300])
def test_equal_values_have_no_standard_error_interval_or_p_value(values: list[float]) -> None:
    mean = stats.paired_mean(values)
    assert (mean.se, mean.interval(0.95), mean.p()) == (None, None, None)
    assert (stats.mean_needed(mean, alpha=0.05), stats.smallest_of_mean(mean, alpha=0.05)) == (None, None)
    assert stats.mean_for_margin(mean, 0.02, alpha=0.05) is None


def test_residuals_at_a_limit_of_a_ratio_have_the_p_value_of_its_level() -> None:
    base, candidate = [100.0, 220.0, 150.0, 310.0, 90.0], [130.0, 240.0, 160.0, 330.0, 125.0]
    found = stats.ratio_of_totals(base, candidate)
    assert found.estimate == pytest.approx(985 / 870)
    for level in (0.9, 0.95):
        for limit in found.interval(level) or ():
            residuals = [c - limit * b for b, c in zip(base, candidate, strict=True)]
            assert stats.paired_mean(residuals).p() == pytest.approx(1 - level, abs=1e-9)


def test_a_ratio_over_an_uneven_base_may_have_no_interval() -> None:
    assert stats.ratio_of_totals([1, 1, 1000], [1, 2, 1500]).interval(0.95) is None


@given(totals)
def test_the_inverse_ratio_has_the_inverse_interval(pairs: list[tuple[int, int]]) -> None:
    base, candidate = [b for b, _ in pairs], [c for _, c in pairs]
    there, back = (
        stats.ratio_of_totals(base, candidate).interval(0.95),
        stats.ratio_of_totals(candidate, base).interval(0.95),
    )
    if there and back and there.low > 0 and back.low > 0:
        assert (there.low * back.high, there.high * back.low) == pytest.approx((1, 1), rel=1e-6)
    logs, inverse = stats.mean_log_ratio(base, candidate), stats.mean_log_ratio(candidate, base)
    assert logs.estimate == pytest.approx(-inverse.estimate, abs=1e-9)
    assert logs.se == pytest.approx(inverse.se, abs=1e-9)


@given(totals, st.integers(2, 50))
def test_a_ratio_does_not_depend_on_the_unit(pairs: list[tuple[int, int]], unit: int) -> None:
    base, candidate = [b for b, _ in pairs], [c for _, c in pairs]
    one = stats.ratio_of_totals(base, candidate)
    other = stats.ratio_of_totals([b * unit for b in base], [c * unit for c in candidate])
    assert (one.estimate, one.has_spread) == (pytest.approx(other.estimate, abs=1e-9), other.has_spread)
    assert one.excess.se == pytest.approx(other.excess.se, abs=1e-9)


def test_a_ratio_over_a_zero_total_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        stats.ratio_of_totals([0, 0], [1, 2])


def test_adjusted_p_values_match_the_example_of_benjamini_and_hochberg() -> None:
    assert sum(p <= 0.05 for p in stats.benjamini_hochberg(FAMILY)) == 4
    assert sum(p <= 0.05 for p in stats.holm(FAMILY)) == 3
    # By hand: 15 x 0.0001, 14 x 0.0004, 13 x 0.0019; 15 x 0.0095 / 4.
    assert stats.holm(FAMILY)[:3] == pytest.approx([0.0015, 0.0056, 0.0247], abs=1e-12)
    assert stats.benjamini_hochberg(FAMILY)[3] == pytest.approx(0.035625, abs=1e-12)


@given(ps)
def test_adjusted_p_values_are_not_smaller_and_keep_their_order(found: list[float]) -> None:
    for adjust in (stats.holm, stats.benjamini_hochberg):
        adjusted = adjust(found)
        assert all(p <= q + 1e-12 <= 1 + 1e-9 for p, q in zip(found, adjusted, strict=True))
        assert _in_order(adjusted, by=found)
    assert all(b <= h + 1e-12 for b, h in zip(stats.benjamini_hochberg(found), stats.holm(found), strict=True))


def _in_order(values: Sequence[float], *, by: Sequence[float]) -> bool:
    ranked = [value for _, value in sorted(zip(by, values, strict=True))]
    return all(one <= other + 1e-12 for one, other in itertools.pairwise(ranked))


@given(st.integers(1, 60), st.floats(0, 0.5), st.integers(20, 2000))
def test_larger_differences_need_fewer_pairs(steps: int, discordant: float, pairs: int) -> None:
    small, large = (stats.pairs_needed(n / 100, discordant, alpha=0.05) for n in (steps, steps + 1))
    assert small is not None
    assert large is not None
    assert large <= small
    found = stats.smallest_of_pairs(pairs, discordant, alpha=0.05)
    assert found is not None
    assert (stats.pairs_needed(found, discordant, alpha=0.05) or 0) <= pairs
    if found > 1 / pairs:
        assert (stats.pairs_needed(found - 1 / pairs, discordant, alpha=0.05) or 0) > pairs


@each(("alpha", "needed"), [(0.05, 5), (0.0625, 4), (0.4, 2), (1e-6, 20)])
def test_the_sign_test_reaches_alpha_from_its_smallest_number_on(alpha: float, needed: int) -> None:
    assert stats.sign_test_minimum(alpha=alpha) == needed
    assert stats.mcnemar_midp(0, needed) <= alpha < stats.mcnemar_midp(0, needed - 1)


def test_power_figures_are_none_for_too_few_pairs_or_no_difference() -> None:
    assert stats.smallest_of_pairs(2, 0.0, alpha=0.05) is None
    assert stats.pairs_needed(0.0, 0.1, alpha=0.05) is None


def test_dialogues_for_a_margin_match_the_textbook_formula() -> None:
    # s = 0.5, d = 0.1: (1.959964 + 0.841621)^2 x 25 = 196.2; margin 0.1: (1.644854 + 0.841621)^2 x 25 = 154.6
    mean = Mean(estimate=0.1, se=0.05, dialogues=100)
    assert stats.mean_needed(mean, alpha=0.05) == 197
    assert stats.mean_for_margin(mean, 0.1, alpha=0.05) == 155
    # t(0.975, 99) + t(0.8, 99) = 1.984217 + 0.845267
    assert stats.smallest_of_mean(mean, alpha=0.05) == pytest.approx(2.829484 * 0.05, abs=1e-6)
