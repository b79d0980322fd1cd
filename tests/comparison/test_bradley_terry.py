"""Strengths by Bradley and Terry: closed forms, laws, and targets that always win."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.comparison.bradley_terry import PRIOR, fit, mean_shares, solve
from convbatch.comparison.harm_bound import harm_bound
from tests.conftest import examples

SCORES = st.sampled_from([0.0, 0.5, 1.0])


@st.composite
def tables(draw: st.DrawFn) -> np.ndarray:
    """Wins of two to four targets in two to eight dialogues."""
    count, dialogues = draw(st.integers(2, 4)), draw(st.integers(2, 8))
    wins = np.zeros((dialogues, count, count))
    for at in range(dialogues):
        for a in range(count):
            for b in range(a):
                wins[at, a, b] = draw(SCORES)
                wins[at, b, a] = 1 - wins[at, a, b]
    return wins


def test_two_targets_have_the_odds_of_their_wins() -> None:
    wins = np.array([[[0.0, 30.0], [10.0, 0.0]]])
    strengths = solve(wins)[0]
    odds = (30 + PRIOR / 2) / (10 + PRIOR / 2)
    assert strengths[0] - strengths[1] == pytest.approx(np.log(odds), abs=1e-5)
    assert mean_shares(strengths[None])[0][0] == pytest.approx(odds / (1 + odds), abs=1e-5)


def test_the_strengths_of_exact_chances_are_found_again() -> None:
    true = np.array([1.2, 0.1, -0.4, -0.9])
    chances = 1 / (1 + np.exp(true[None, :] - true[:, None]))
    found = solve(1e7 * (chances - np.eye(4) / 2)[None])[0]
    assert found == pytest.approx(true - true.mean(), abs=1e-5)


@settings(max_examples=examples(100))
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_targets_does_not_matter(wins: np.ndarray, chance: object) -> None:
    order = list(range(wins.shape[1]))
    chance.shuffle(order)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # hypothesis's Random
    plain = fit(wins, 0.05, draws=200)
    moved = fit(wins[:, order][:, :, order], 0.05, draws=200)
    for place, n in enumerate(order):
        assert moved[place].share == pytest.approx(plain[n].share, abs=1e-5)
        assert tuple(moved[place].ci) == pytest.approx(tuple(plain[n].ci), abs=1e-5)
        assert moved[place].is_bounded == plain[n].is_bounded


@settings(max_examples=examples(100))
@given(tables())
def test_swapping_all_wins_and_losses_mirrors_the_shares(wins: np.ndarray) -> None:
    plain, mirrored = fit(wins, 0.05, draws=200), fit(wins.transpose(0, 2, 1), 0.05, draws=200)
    for one, other in zip(plain, mirrored, strict=True):
        assert one.share == pytest.approx(1 - other.share, abs=1e-5)
        assert (one.ci.low, one.ci.high) == pytest.approx((1 - other.ci.high, 1 - other.ci.low), abs=1e-5)


def test_ties_alone_leave_all_targets_equal() -> None:
    wins = np.full((20, 3, 3), 0.5)
    wins[:, range(3), range(3)] = 0
    for one in fit(wins, 0.05, draws=200):
        assert (one.strength, one.share) == pytest.approx((0.0, 0.5), abs=1e-9)
        assert one.ci.low < 0.5 < one.ci.high
        assert one.is_bounded == (True, True)


def test_a_target_that_always_wins_has_no_upper_limit_and_one_that_always_loses_no_lower() -> None:
    wins = np.zeros((12, 3, 3))
    wins[:, 0, 1] = wins[:, 0, 2] = 1
    wins[:, 1, 2] = wins[:, 2, 1] = 0.5
    best, one, other = fit(wins, 0.05, draws=400)
    assert best.is_bounded == (True, False), "nobody has scored against it"
    assert best.ci.high == 1.0
    assert one.is_bounded == other.is_bounded == (False, True)
    assert 0.2 < one.share < 0.3
    assert np.isfinite([best.strength, one.strength, other.strength]).all()


def test_two_targets_have_nearly_the_interval_of_their_pair() -> None:
    scores = [1.0] * 14 + [0.0] * 5 + [0.5] * 6
    wins = np.array([[[0.0, score], [1 - score, 0.0]] for score in scores])
    ci = fit(wins, 0.05, draws=20_000)[0].ci
    sizes = [1.0] * len(scores)
    assert ci.high == pytest.approx(harm_bound(scores, sizes, alpha=0.025), abs=0.01)
    assert ci.low == pytest.approx(1 - harm_bound([1 - score for score in scores], sizes, alpha=0.025), abs=0.01)
