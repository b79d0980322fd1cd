"""Messages in order and exactly once over calls that may fail, be repeated or overtake each other.

Each side numbers its batches and keeps them until the other has acknowledged them; a batch that does not follow the
last one is ignored, and comes again. Nothing here knows what a message says.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from convbatch.cluster.messages import pack, unpack

Batch = tuple[int, bytes]


class Outgoing:
    """Messages of one side, until the other has acknowledged them."""

    def __init__(self) -> None:
        self._messages: list[Any] = []
        self._batches: deque[Batch] = deque()
        self._numbered = 0
        self._sent = 0
        self._waiting = asyncio.Event()

    def put(self, message: Any) -> None:
        """Add a message to the next batch."""
        self._messages.append(message)
        self._waiting.set()

    @property
    def has_new(self) -> bool:
        """Whether there are messages that were not sent yet."""
        return bool(self._messages) or self._sent < self._numbered

    @property
    def has_unacknowledged(self) -> bool:
        """Whether batches were sent that may not have arrived."""
        return bool(self._batches)

    async def wait(self, seconds: float, linger_s: float) -> None:
        """Return when there is a message to send, a little later so that others join it; at last after `seconds`."""
        if not self.has_new:
            try:
                await asyncio.wait_for(self._waiting.wait(), seconds)
            except TimeoutError:
                return
        await asyncio.sleep(linger_s)

    def take(self, *, also_sent: bool = False) -> list[Batch]:
        """Return the batches that were not sent yet, or all that are not acknowledged."""
        if self._messages:
            self._numbered += 1
            self._batches.append((self._numbered, pack(self._messages)))
            self._messages = []
        self._waiting.clear()
        taken = [batch for batch in self._batches if also_sent or batch[0] > self._sent]
        self._sent = self._numbered
        return taken

    def acknowledged(self, number: int, sent: int) -> None:
        """Forget batches that have arrived; send again what did not, of those up to `sent`."""
        while self._batches and self._batches[0][0] <= number:
            self._batches.popleft()
        if number < sent:
            self._sent = min(self._sent, number)
            self._waiting.set()

    def send_again(self) -> None:
        """Send all batches again that are not acknowledged."""
        self._sent = self._batches[0][0] - 1 if self._batches else self._numbered


class Incoming:
    """The other side's batches, each accepted once and in order."""

    def __init__(self) -> None:
        self.last = 0
        """Number of the last batch that was accepted."""

    def accept(self, batches: list[Batch]) -> list[Any]:
        """Return the messages of the batches that follow the last one."""
        messages: list[Any] = []
        for number, data in batches:
            if number == self.last + 1:
                self.last = number
                messages += unpack(data)
        return messages
