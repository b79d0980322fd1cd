"""Tests of the bound on harm against Clopper-Pearson, random weights, closed forms and laws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.comparison.harm_bound import dialogues_for_margin, harm_bound
from tests.support.tables import each

harms = st.lists(st.sampled_from([-1.0, -2 / 3, -1 / 3, 0.0, 1 / 3, 2 / 3, 1.0]), min_size=1, max_size=30)


def bound(values: Sequence[float], alpha: float = 0.05) -> float:
    return harm_bound(values, [1.0] * len(values), alpha=alpha)


@each(
    ("broken", "dialogues"),
    [(0, 1), (1, 2), (0, 2), (1, 3), (3, 20), (19, 20), (4, 150), (20, 10_000)],
)
@each("alpha", [1e-6, 0.05, 0.4])
def test_dialogues_that_break_or_not_have_the_bound_of_clopper_and_pearson(
    broken: int, dialogues: int, alpha: float
) -> None:
    from scipy.special import betaincinv

    exact = float(betaincinv(broken + 1, dialogues - broken, 1 - alpha))
    found = bound([1.0] * broken + [0.0] * (dialogues - broken), alpha)
    assert found == pytest.approx(exact, rel=1e-6, abs=1e-10)


@each("harm", [-1.0, -0.25, 0.0, 0.5, 1.0])
@each("dialogues", [1, 2, 40])
def test_equal_harms_have_the_closed_form(harm: float, dialogues: int) -> None:
    assert bound([harm] * dialogues) == pytest.approx(1 - (1 - harm) * 0.05 ** (1 / dialogues), abs=1e-9)


@each(
    ("values", "sizes"),
    [
        ([0.3, -2.0, 0.0, 1.5, 0.0], [1, 4, 2, 12, 1]),
        ([0.0] * 200 + [-1.0] * 5, [1.0] * 205),
        ([0.0] * 900 + [1.0] * 2 + [-1.0] * 40, [1.0] * 942),
        ([0.0] * 60 + [1 / 3] * 8 + [-1 / 3] * 30, [2.0] * 98),
        ([math.sin(n) for n in range(60)], [1.0] * 60),
        ([-0.042] * 400, [1.0] * 400),
    ],
)
@each("alpha", [0.05, 0.3])
def test_random_weights_exceed_the_bound_with_probability_alpha(
    values: Sequence[float], sizes: Sequence[float], alpha: float
) -> None:
    found = harm_bound(values, sizes, alpha=alpha)
    worst = max(sizes)
    distinct, counts = np.unique(np.append(values, worst) - found * np.append(sizes, worst), return_counts=True)
    weights = np.random.default_rng(1).gamma(counts, size=(20_000, len(counts)))
    exceeds = float((weights @ distinct > 0).mean())
    assert exceeds == pytest.approx(alpha, abs=4.5 * math.sqrt(alpha * (1 - alpha) / 20_000))


@given(harms, st.integers(0, 29))
def test_more_harm_never_lowers_the_bound(values: list[float], place: int) -> None:
    before = bound(values)
    place %= len(values)
    worse = [*values[:place], min(1.0, values[place] + 1 / 3), *values[place + 1 :]]
    assert max(-1, sum(values) / len(values)) - 1e-9 <= before <= bound(worse) + 1e-9 <= 1 + 2e-9


@given(harms, st.sampled_from([0.5, 3.0, 7.0]))
def test_the_bound_does_not_depend_on_order_or_on_the_unit_of_size(values: list[float], unit: float) -> None:
    found = bound(values)
    assert bound(values[::-1]) == pytest.approx(found, abs=1e-9)
    sizes = [unit] * len(values)
    assert harm_bound([unit * one for one in values], sizes, alpha=0.05) == pytest.approx(found, abs=1e-9)


@given(harms)
def test_a_lower_alpha_never_lowers_the_bound(values: list[float]) -> None:
    assert bound(values, 0.2) <= bound(values, 0.05) + 1e-9 <= bound(values, 1e-6) + 2e-9


def test_a_long_dialogue_may_break_as_a_whole() -> None:
    # Product of 1 / (1 + t n / (12 (1 - t))) over the sizes is alpha.
    found = harm_bound([0.0] * 40, [1.0, 2.0, 4.0, 12.0] * 10, alpha=0.05)
    odds = found / (1 - found)
    assert 10 * sum(math.log1p(odds * size / 12) for size in (1, 2, 4, 12)) == pytest.approx(-math.log(0.05))
    assert found > bound([0.0] * 40)


def test_many_distinct_harms_have_almost_the_bound_of_few() -> None:
    few, many = (bound([0.3 * math.sin(2 * math.pi * n / count) for n in range(count)]) for count in (990, 1010))
    assert many == pytest.approx(few * 99 / 101, rel=0.02)


@each(("margin", "needed"), [(0.02, 149), (0.05, 59), (0.1, 29)])
def test_the_number_of_quiet_dialogues_for_a_margin_is_exact(margin: float, needed: int) -> None:
    assert dialogues_for_margin(0.0, [3.0] * 7, margin, alpha=0.05) == needed
    assert bound([0.0] * needed) <= margin < bound([0.0] * (needed - 1))
    # Sizes as in a dataset of this number of dialogues: their bound is the margin.
    uneven = dialogues_for_margin(0.0, [1.0, 4.0], margin, alpha=0.05)
    uneven += uneven % 2
    assert harm_bound([0.0] * uneven, [1.0, 4.0] * (uneven // 2), alpha=0.05) == pytest.approx(margin, rel=0.05)


def test_noise_adds_the_textbook_number_to_the_quiet_one() -> None:
    # (1.644854 + 0.841621)^2 x 0.125 / 0.02^2 = 1932.05; ln(0.05) / ln(0.98) = 148.28
    assert dialogues_for_margin(0.125, [1.0], 0.02, alpha=0.05) == 2081
