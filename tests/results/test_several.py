"""Tests of reading several runs in step."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from convbatch.results.several import Codec, DialogueReader


@given(
    values=st.dictionaries(st.integers(0, 30), st.text()),
    asked=st.lists(st.integers(0, 32) | st.none(), max_size=60),
)
def test_dialogues_are_found_in_any_order_with_at_most_two_passes(
    values: dict[int, str], asked: list[int | None]
) -> None:
    passes = 0

    def read() -> Iterator[tuple[int, tuple[str]]]:
        nonlocal passes
        passes += 1
        yield from ((index, (values[index],)) for index in sorted(values))

    reader = DialogueReader(read, Codec[tuple[str]](list, lambda plain: (plain[0],)))
    for index in asked:
        expected = None if index is None or index not in values else (values[index],)
        assert reader.find(index) == expected
    assert passes <= 2
    known = [index for index in asked if index is not None]
    if known == sorted(set(known)):
        assert passes == 1, "dialogues in the order of the run need no second pass"
