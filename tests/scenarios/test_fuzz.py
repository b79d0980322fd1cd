"""External data never makes a reader crash, hang, or accept damage: some hundred mutated inputs each.

`make fuzz` runs a million of them. `tests/support/fuzz.py` defines the mutations and the laws.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.support.fuzz import READERS, WEIGHTS, Reader, attack, attacks, mutated

FAST, SLOW = 80, 2_000
"""Inputs per reader; slow readers get fewer (`WEIGHTS`)."""
READER_PARAMS = [pytest.param(reader, id=reader.name) for reader in READERS]
SEED = 1 if os.environ.get("CI") else random.SystemRandom().randrange(10**9)
"""CI must be reproducible: with CI set the seed is fixed; local runs explore."""


def findings_of(reader: Reader, inputs: int) -> list[str]:
    [(_, count, found)] = attacks([reader], round(inputs * WEIGHTS.get(reader.name, 1.0)), SEED)
    assert count >= 20
    return [str(one) for one in found]


@pytest.mark.parametrize("reader", READER_PARAMS)
def test_a_reader_handles_mutated_input(reader: Reader) -> None:
    assert not findings_of(reader, FAST)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READER_PARAMS)
def test_a_reader_handles_thousands_of_mutated_inputs(reader: Reader) -> None:
    assert not findings_of(reader, SLOW)


def test_an_input_is_reproduced_from_its_seed_and_number() -> None:
    seeds = READERS[0].seeds()
    first, second = (mutated(seeds[0], random.Random("dataset:1:7"), seeds) for _ in range(2))
    assert first == second != seeds[0]


def test_a_crashing_reader_is_reported_with_the_command_that_reproduces_it(tmp_path: Path) -> None:
    def brittle(data: bytes, rng: random.Random, folder: Path) -> None:
        del rng, folder
        data.decode("ascii")

    reader = Reader(name="hint", seeds=lambda: [b"x"], read=brittle)
    found = [one for number in range(200) if (one := attack(reader, 3, number, tmp_path, [b"x" * 9]))]
    assert found
    assert "UnicodeDecodeError" in str(found[0])
    assert f"python -m tests.support.fuzz --only hint --seed 3 --replay {found[0].number}" in str(found[0])
