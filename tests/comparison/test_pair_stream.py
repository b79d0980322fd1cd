"""Tests of the reading of two sides: order, dialogues without a counterpart, and how much is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import convbatch as package
from convbatch.comparison.compare import compare_frames
from convbatch.comparison.inputs import load_inputs
from convbatch.comparison.measurements import measure_stream
from convbatch.comparison.metrics import METRICS
from convbatch.comparison.pair_stream import LoadedSide, MergedSides, PairStream
from convbatch.comparison.pairing import Side

NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True)
LIVE = ("live", "live")


@dataclass
class CountedSide:
    """A side that knows how many dialogues of it were read so far."""

    order: Sequence[str]
    read: int = 0
    asked_for_names: int = 0
    sides: dict[str, Side] = field(default_factory=dict[str, Side])

    def __iter__(self) -> Iterator[tuple[str, Side]]:
        for name in self.order:
            self.read += 1
            yield name, self.sides.setdefault(name, Side())

    def names(self) -> Set[str]:
        self.asked_for_names += 1
        return set(self.order)


@given(base=NAMES, candidate=NAMES)
def test_what_both_have_is_paired_in_the_order_of_the_base_and_the_rest_is_named(
    base: list[str], candidate: list[str]
) -> None:
    first, second = CountedSide(base), CountedSide(candidate)
    stream = PairStream(first, second, history=LIVE)
    for _ in range(2):  # an iteration reads both sides anew
        pairs = list(stream)
        assert [one.dialogue for one in pairs] == [name for name in base if name in candidate]
        assert all(one.base is first.sides[one.dialogue] for one in pairs)
        assert all(one.candidate is second.sides[one.dialogue] for one in pairs)
        assert stream.only_base == [name for name in base if name not in candidate]
        assert stream.only_candidate == [name for name in candidate if name not in base]


@given(st.lists(st.integers(0, 2), max_size=40))
def test_sides_in_one_order_are_read_side_by_side(where: list[int]) -> None:
    """Each dialogue is on both sides (0), only in the base (1) or only in the candidate (2)."""
    first = CountedSide([f"d{n}" for n, side in enumerate(where) if side != 2])
    second = CountedSide([f"d{n}" for n, side in enumerate(where) if side != 1])
    for pair in PairStream(first, second, history=LIVE):
        place = second.order.index(pair.dialogue)
        assert second.read <= place + 2, "more of the candidate is read than the next dialogue"
    if set(where) == {0}:
        assert (first.asked_for_names, second.asked_for_names) == (0, 0), "names are read only where orders differ"


def _of(frame: Any, target: str) -> Any:
    return frame[frame["target"] == target]


@pytest.mark.parametrize("repeats", [1, 3])
def test_tables_that_are_streamed_give_the_numbers_of_frames_in_memory(
    tmp_path_factory: pytest.TempPathFactory, repeats: int
) -> None:
    dialogues = [
        {
            "id": f"d{n}",
            "tags": ["odd" if n % 2 else "even"],
            "turns": [{"user": f"{n}?", "checks": [{"contains": str(n % 3)}]}, {"user": "and?"}],
            "checks": [{"output_tokens": 40}] if n % 2 else [],
        }
        for n in range(12)
    ]
    folder = tmp_path_factory.mktemp("streamed")
    models = ["sim-good@simulator", "sim-drift@simulator"]
    run = package.run(dialogues, models=models, repeats=repeats, out=folder / "run", temperature=0.9)
    sides = [(run, name) for name in models]
    streamed = package.compare(*sides)
    turns, conversations = ([_of(one, name) for name in models] for one in (run.turns, run.conversations))
    loaded = compare_frames(
        turns[0].sample(frac=1, random_state=1), turns[1], history=LIVE,
        base_conversations=conversations[0], candidate_conversations=conversations[1],
    )  # fmt: skip
    assert {one.result.metric for one in streamed.judged} == {one.result.metric for one in loaded.judged}
    by_name = {one.result.metric: one.result for one in loaded.judged}
    for one in streamed.judged:
        for name in ("dialogues", "base", "candidate", "difference", "worse", "better"):
            assert getattr(one.result, name) == pytest.approx(getattr(by_name[one.result.metric], name)), name
    assert (streamed.pairs.turns, streamed.divergence()) == (loaded.pairs.turns, loaded.divergence())
    assert {one.slice: one.result.dialogues for one in streamed.parts} == {
        one.slice: one.result.dialogues for one in loaded.parts
    }
    assert len(streamed.turns) == streamed.pairs.turns


def test_a_side_read_anew_gives_the_numbers_of_one_in_memory(tmp_path: Path) -> None:
    dialogues = [{"id": f"d{n}", "turns": [{"user": f"{n}?", "checks": [{"contains": str(n % 3)}]}]} for n in range(12)]
    models = ["sim-good@simulator", "sim-drift@simulator", "sim-small@simulator"]
    run = package.run(dialogues, models=models, repeats=2, out=tmp_path / "run", temperature=0.9)
    streamed = [load_inputs((run, name), (run, name), allow_mismatch=True).sides[0] for name in models]
    loaded = [LoadedSide(dict(side)) for side in streamed]
    found = [
        measure_stream(PairStream(sides[0], other, history=LIVE), METRICS)
        for sides in (streamed, loaded)
        for other in (sides[1], MergedSides(sides[1:]))
    ]
    assert all(counts.whole for _, counts in found)
    for (one, counts), (other, other_counts) in zip(found[:2], found[2:], strict=True):
        assert counts == other_counts
        assert {name: list(values) for name, values in one.values.items()} == {
            name: list(values) for name, values in other.values.items()
        }
    assert any(value.size for value in found[0][0].values["turn_pass"] if value is not None)


@given(NAMES, NAMES, NAMES)
def test_merged_sides_have_the_dialogues_that_all_have(first: list[str], second: list[str], third: list[str]) -> None:
    sides = [CountedSide(order) for order in (first, second, third)]
    common = [name for name in first if name in second and name in third]
    assert [name for name, _ in MergedSides(sides)] == common
    assert MergedSides(sides).names() == set(common)
