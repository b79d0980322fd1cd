"""Text and lists that grow piece by piece inside an immutable draft, in time proportional to what is added.

`text + piece` copies the whole text for every piece of a stream, which is quadratic. Here, a longer value shares its
pieces with the shorter one: pieces are only ever appended, and each value knows how many of them are its own. A shorter
value that grows again gets pieces of its own. `settled` turns drafts into plain JSON values, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class Growing(Generic[T]):
    """An immutable list with cheap appending."""

    __slots__ = ("_count", "_items")

    def __init__(self, items: list[T]) -> None:
        """Args: items: The first ones; the list belongs to the new value."""
        self._items = items
        self._count = len(items)

    @property
    def items(self) -> list[T]:
        """A new list of all items."""
        return self._items[: self._count]

    def settled(self) -> Any:
        """Return the plain JSON value."""
        return [settled(item) for item in self.items]

    def extended(self, items: Iterable[T]) -> Any:
        """Return a value with more items; this one does not change."""
        shared = self._items if len(self._items) == self._count else self.items
        shared.extend(items)
        return type(self)(shared)


class GrowingText(Growing[str]):
    """An immutable text with cheap appending."""

    __slots__ = ()

    def settled(self) -> str:
        """Return the text."""
        return "".join(self.items)


BATCH = 16
"""How many chunks of a stream a draft keeps before they are merged: merging copies what it changes."""


def is_text(value: Any) -> bool:
    """Whether a value of a draft is a text, or null."""
    return value is None or isinstance(value, str | GrowingText)


def with_text(text: Any, more: str) -> Any:
    """Return a text of a draft with more text; None is an empty one."""
    if isinstance(text, GrowingText):
        return text.extended((more,))
    return GrowingText([text, more]) if text else more


def with_items(items: Any, more: Iterable[Any]) -> Growing[Any]:
    """Return a list of a draft with more items; None is an empty one."""
    if isinstance(items, Growing):
        return items.extended(more)
    return Growing([*(items if isinstance(items, list) else ()), *more])


def with_lists(old: Any, new: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object of a draft with the fields of another; lists are joined, as for the tokens of each chunk."""
    grown: dict[str, Any] = dict(old) if isinstance(old, dict) else {}
    for key, value in new.items():
        if value is not None:
            grown[key] = with_items(grown.get(key), value) if isinstance(value, list) else value
    return grown


def settled(value: Any) -> Any:
    """Return a value of a draft as plain JSON."""
    if isinstance(value, Growing):
        return value.settled()
    if isinstance(value, dict):
        return {key: settled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [settled(item) for item in value]
    return value


class Merge(Protocol):
    """Adds the chunks of a stream to a copy of a body."""

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Add a chunk."""
        ...

    def done(self) -> dict[str, Any]:
        """Return the body."""
        ...


def merged(state: Mapping[str, Any], begin: Callable[[Mapping[str, Any]], Merge]) -> Mapping[str, Any]:
    """Return the body so far of a draft with `whole` and `new` chunks; its texts and lists are still those of a draft.

    Args:
        state: Of the draft.
        begin: Makes a merge that begins with a body.
    """
    whole: Mapping[str, Any] = state.get("whole") or {}
    new: tuple[Any, ...] = state.get("new", ())
    if not new:
        return whole
    merge = begin(whole)
    for chunk in new:
        merge.add(chunk)
    return merge.done()
