"""Nothing that others wrote makes a reader crash, hang, or take damage for good: some hundred bent inputs each.

A million of them: `make fuzz`. What is done to inputs and what must hold is `tests/support/fuzz.py`.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.support.fuzz import READERS, WEIGHTS, Reader, attack, attacks, bent

FAST, SLOW = 120, 2_000
"""Inputs of one reader; those that cost more get fewer (`WEIGHTS`)."""
NAMED = [pytest.param(reader, id=reader.name) for reader in READERS]
SEED = 1 if os.environ.get("CI") else random.SystemRandom().randrange(10**9)
"""A gate must not depend on luck: with CI set it is the same every time; a developer's runs explore."""


def fallen(reader: Reader, inputs: int) -> list[str]:
    [(_, count, found)] = attacks([reader], round(inputs * WEIGHTS.get(reader.name, 1.0)), SEED)
    assert count >= 30
    return [str(one) for one in found]


@pytest.mark.parametrize("reader", NAMED)
def test_a_reader_stands_bent_input(reader: Reader) -> None:
    assert not fallen(reader, FAST)


@pytest.mark.slow
@pytest.mark.parametrize("reader", NAMED)
def test_a_reader_stands_thousands_of_bent_inputs(reader: Reader) -> None:
    assert not fallen(reader, SLOW)


def test_an_input_is_made_again_from_its_seed_and_number() -> None:
    seeds = READERS[0].seeds()
    first, second = (bent(seeds[0], random.Random("dataset:1:7"), seeds) for _ in range(2))
    assert first == second != seeds[0]


def test_a_reader_that_crashes_is_found_out_with_the_command_that_shows_it(tmp_path: Path) -> None:
    def brittle(data: bytes, rng: random.Random, folder: Path) -> None:
        del rng, folder
        data.decode("ascii")

    reader = Reader(name="hint", seeds=lambda: [b"x"], read=brittle)
    found = [one for number in range(200) if (one := attack(reader, 3, number, tmp_path, [b"x" * 9]))]
    assert found
    assert "UnicodeDecodeError" in str(found[0])
    assert f"python -m tests.support.fuzz --only hint --seed 3 --replay {found[0].number}" in str(found[0])
