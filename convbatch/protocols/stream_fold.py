"""Fold a stream event by event, as long as it is one that the provider documents.

It gives up, and `reading.py` looks closer at the whole body, where an event is no JSON or a whole completion, text
follows `[DONE]`, the protocol raises, or nothing is in the reply. Events may be folded while they arrive, and again
from a stored body.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from convbatch.protocols.decoding import read_data, read_quickly
from convbatch.protocols.sse import RawEvent, SseEvent
from convbatch.protocols.stream_text import added_text
from convbatch.protocols.text_run import TextRun
from convbatch.protocols.wire import Draft, ErrorInBody, MalformedReply, WireProtocol
from convbatch.reply import Reply

_BATCH = 16


class AddedTexts(NamedTuple):
    """What some events add to a reply."""

    chunks: int
    """How many of them add text or thought."""
    text: str
    thought: str


class StreamFold:
    """One stream."""

    def __init__(self, protocol: WireProtocol) -> None:
        self._protocol = protocol
        self._draft: Draft | None = Draft()
        self._run = TextRun()
        self._batch: list[Any] = []
        """Decoded data of unnamed events that are not yet in the draft."""
        self._is_done = False
        """Whether `[DONE]` has come."""

    def add(self, events: Iterable[RawEvent]) -> AddedTexts:
        """Fold the next events; return what they add to the reply, also after the fold was given up."""
        chunks = 0
        texts: list[str] = []
        thoughts: list[str] = []
        run = self._run
        for name, data in events:
            if name == run.name and (text := run.take(read_quickly(data))) is not None:
                (thoughts if run.is_thought else texts).append(text)
                chunks += text != ""
                continue
            self._end_run()
            values = read_data(data)
            if values is None:
                self._draft = None
                continue
            before = len(texts) + len(thoughts)
            for value in values:
                text, thought = added_text(value)
                if text:
                    texts.append(text)
                if thought:
                    thoughts.append(thought)
            has_text = len(texts) + len(thoughts) > before
            chunks += has_text
            if self._is_done and has_text:
                self._draft = None
            self._is_done = self._is_done or not values
            self._fold(name, data, values)
        return AddedTexts(chunks, "".join(texts), "".join(thoughts))

    def _fold(self, name: str, data: bytes, values: list[Any]) -> None:
        """Add an event to the draft, or begin to join others to it."""
        if self._draft is None:
            return
        if any(map(is_whole, values)):
            self._draft = None
        elif len(values) != 1 or not self._run.begin(name, values[0]):
            self._add(SseEvent(event=name, data=data.decode("utf-8", "surrogateescape")), values)

    def _add(self, event: SseEvent, values: list[Any]) -> None:
        """Add an event to the draft; unnamed ones several at a time, which is faster."""
        event.decoded = values
        if event.event or not values:
            self._end_batch()
            self._parse(event)
            return
        self._batch += values
        if len(self._batch) >= _BATCH:
            self._end_batch()

    def _end_run(self) -> None:
        if (joined := self._run.end()) is not None:
            self._add(SseEvent(event=joined[0], data=""), [joined[1]])

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
        self._end_run()
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
