"""`--shuffle`: the selected dialogues in a random order that a seed decides."""

from __future__ import annotations

from pathlib import Path

import convbatch as cb
from tests.conftest import Command, write_dataset


def order(folder: Path) -> list[str]:
    return cb.load(folder).conversations["dialogue"].tolist()


def test_a_seed_decides_the_order_of_a_run(convbatch: Command, tmp_path: Path):
    write_dataset(tmp_path / "d.jsonl", 12, 1)
    for name, options in {
        "plain": [],
        "one": ["--shuffle", "1"],
        "same": ["--shuffle", "1"],
        "two": ["--shuffle", "2"],
    }.items():
        done = convbatch("run", "d.jsonl", "-m", "sim-good@simulator", *options, "-o", name)
        assert done.code == 0, done.err
    plain, one, same, two = (order(tmp_path / name) for name in ("plain", "one", "same", "two"))
    assert one == same
    assert len({tuple(plain), tuple(one), tuple(two)}) == 3
    assert sorted(one) == sorted(two) == plain
    assert cb.load(tmp_path / "one").meta["dataset"]["selection"] == {"shuffle": 1}


def test_the_limit_applies_before_the_order(convbatch: Command, tmp_path: Path):
    write_dataset(tmp_path / "d.jsonl", 12, 1)
    done = convbatch("run", "d.jsonl", "-m", "sim-good@simulator", "-n", "5", "--shuffle", "3", "-o", "run")
    assert done.code == 0, done.err
    assert sorted(order(tmp_path / "run")) == [f"d{number:05}" for number in range(5)]


def test_a_seed_below_0_is_refused(convbatch: Command, tmp_path: Path):
    write_dataset(tmp_path / "d.jsonl", 2, 1)
    done = convbatch("run", "d.jsonl", "--shuffle", "-1")
    assert done.code == 2
