"""Values of a draft that grow: the same as plain ones, never changed, and not copied for each piece."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.protocols.growing import GrowingText, settled, with_items, with_text


class Counted(list[str]):
    """A list that counts how often it is copied."""

    copies = 0

    def __getitem__(self, at: Any) -> Any:
        self.copies += isinstance(at, slice)
        return super().__getitem__(at)


def test_a_text_that_grows_is_copied_once_in_the_end():
    pieces = Counted(["a"])
    text: Any = GrowingText(pieces)
    for _ in range(1000):
        text = with_text(text, "b")
    assert pieces.copies == 0
    assert settled({"text": [text]}) == {"text": ["a" + "b" * 1000]}
    assert pieces.copies == 1


@given(st.lists(st.tuples(st.integers(0, 30), st.text(max_size=3)), max_size=30))
@settings(max_examples=60, deadline=None)
def test_every_value_keeps_its_content_whichever_of_them_grows(steps: list[tuple[int, str]]):
    texts: list[tuple[Any, str]] = [(None, "")]
    lists: list[tuple[Any, list[str]]] = [(None, [])]
    for at, more in steps:
        text, plain = texts[at % len(texts)]
        texts.append((with_text(text, more), plain + more))
        items, plain_items = lists[at % len(lists)]
        lists.append((with_items(items, (more,)), [*plain_items, more]))
    assert [settled(text) or "" for text, _ in texts] == [plain for _, plain in texts]
    assert [settled(items) or [] for items, _ in lists] == [plain for _, plain in lists]
