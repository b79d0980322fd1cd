"""Fold a stream event by event, as long as it is one that the provider documents.

It gives up, and `reading.py` looks closer at the whole body, where an event is no JSON or a whole completion, the
protocol raises, or nothing is in the reply. Events may be folded while they arrive, and again from a stored body.
"""

from __future__ import annotations

from typing import Any

from convbatch.protocols.decoding import read_event
from convbatch.protocols.sse import SseEvent
from convbatch.protocols.stream_text import NOTHING, AddedText, added_text
from convbatch.protocols.wire import Draft, ErrorInBody, MalformedReply, WireProtocol
from convbatch.reply import Reply

_BATCH = 16


class StreamFold:
    """One stream."""

    def __init__(self, protocol: WireProtocol) -> None:
        self._protocol = protocol
        self._draft: Draft | None = Draft()
        self._batch: list[Any] = []
        """Decoded data of unnamed events that are not yet in the draft."""

    def add(self, event: SseEvent) -> AddedText:
        """Fold the next event; return what it adds to the reply, also after the fold was given up."""
        values = read_event(event)
        if values is None:
            self._draft = None
            return NOTHING
        if self._draft is not None:
            self._fold(event, values)
        if len(values) == 1:
            return added_text(values[0])
        added = [added_text(value) for value in values]
        return AddedText("".join(one.text for one in added), "".join(one.thought for one in added))

    def _fold(self, event: SseEvent, values: list[Any]) -> None:
        """Add an event to the draft; unnamed ones several at a time, which is faster."""
        for value in values:
            if is_whole(value):
                self._draft = None
                return
        if event.event or not values:
            self._end_batch()
            self._parse(event)
            return
        self._batch += values
        if len(self._batch) >= _BATCH:
            self._end_batch()

    def _end_batch(self) -> None:
        if self._batch:
            event = SseEvent(event="", data="")
            event.decoded, self._batch = self._batch, []
            self._parse(event)

    def _parse(self, event: SseEvent) -> None:
        if self._draft is not None:
            try:
                self._draft = self._protocol.parse_event(self._draft, event)
            except (ErrorInBody, MalformedReply):
                self._draft = None

    def reply(self) -> Reply | None:
        """Return the reply at the end of the stream; None if the fold was given up, or does not end as one."""
        self._end_batch()
        if self._draft is None:
            return None
        try:
            reply = self._protocol.finish(self._draft)
        except (ErrorInBody, MalformedReply):
            return None
        return None if is_hollow(reply) else reply


def is_hollow(reply: Reply) -> bool:
    """Whether a reply ended by itself without any content: perhaps the content is elsewhere in the body."""
    return not (reply.text or reply.thought or reply.tool_calls or reply.has_media or reply.blocked)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole chat completion rather than a piece of a stream."""
    choices = value.get("choices") if isinstance(value, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, dict) and bool(first.get("message")) and bool(first.get("finish_reason"))
