from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.engine.turn_tokens import Line
from tests.conftest import examples


@settings(max_examples=30, deadline=None)
@given(hidden=st.integers(0, 5000), ratio=st.floats(0.3, 3.0), noise=st.floats(0.0, 0.15), seed=st.integers(0, 2**32))
def test_estimates_are_at_most_two_percent_too_small_in_sum_after_the_first_replies(
    hidden: int, ratio: float, noise: float, seed: int
):
    rng = random.Random(seed)
    line = Line()
    reserved = counted = 0.0
    for number in range(60):
        rough = rng.randint(5, 2000)
        true = hidden + ratio * rough * (1 + noise * rng.uniform(-1, 1))
        if number >= 8:
            reserved += line.corrected(rough)
            counted += true
        line.add(rough, true)
    assert 0.98 * counted <= reserved <= 1.35 * counted


@settings(max_examples=examples(60), deadline=None)
@given(hidden=st.integers(0, 5000), ratio=st.floats(1.0, 3.0), rough=st.integers(5, 2000), other=st.integers(5, 2000))
def test_after_one_reply_neither_a_constant_nor_a_ratio_is_reserved_too_small(
    hidden: int, ratio: float, rough: int, other: int
):
    constant, proportional = Line(), Line()
    constant.add(rough, hidden + rough)
    proportional.add(rough, ratio * rough)
    assert constant.corrected(other) >= 0.98 * (hidden + other)
    assert proportional.corrected(other) >= 0.98 * ratio * other


def test_without_a_reply_the_estimate_stands():
    assert Line().corrected(120.0) == 120.0
