"""The messages of a growing history, each encoded once: a request costs what its turn adds, not the whole dialogue.

Only for histories whose messages do not depend on each other on the wire: without calls of tools, without media, and
without the system text in a user message. `encoded` says so with None, and the history is built anew, as for any
`Ask` without pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

import orjson

from convbatch.dialogue import Message


class HistoryPieces:
    """What is known of the messages of one conversation, all of which are for one wire and one endpoint."""

    __slots__ = ("_first", "_is_exact", "_joined", "_messages", "_size", "_tested")

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._messages: Sequence[Message] = ()
        self._tested: dict[Callable[[Message], bool], tuple[int, bool]] = {}
        self._joined = bytearray()
        self._size = 0
        self._first: Any = None
        self._is_exact = True

    def follow(self, messages: Sequence[Message]) -> None:
        """Set the messages of the next request; those before are forgotten unless these begin with the same objects."""
        known = self._messages
        if len(messages) < len(known) or not all(map(is_, known, messages)):
            self._forget()
        self._messages = messages

    def any(self, test: Callable[[Message], bool]) -> bool:
        """Return whether a message passes a test, which is asked once for each; it must be a function of a module."""
        count, found = self._tested.get(test, (0, False))
        if count < len(self._messages):
            found = found or any(map(test, self._messages[count:]))
            self._tested[test] = (len(self._messages), found)
        return found

    def encoded(self, items_of: Callable[[Message], Sequence[Any]], first: Any = None) -> orjson.Fragment | None:
        """Return the messages as a JSON array; None if orjson cannot write one of them exactly.

        Args:
            items_of: The items of a message on the wire, always by the same function.
            first: An item before those of the messages.
        """
        if first != self._first:
            self._joined, self._size, self._first = bytearray(), 0, first
        items = [item for message in self._messages[self._size :] for item in items_of(message)]
        if first is not None and not self._size:
            items.insert(0, first)
        self._size = len(self._messages)
        try:
            for item in items:
                if self._joined:
                    self._joined += b","
                self._joined += orjson.dumps(item)
        except TypeError:
            self._is_exact = False
        return orjson.Fragment(b"[%b]" % self._joined) if self._is_exact else None


def has_tools(message: Message) -> bool:
    """Whether a message has calls of tools, or their results."""
    return bool(message.calls or message.results)
