"""Calls of tools and their results in a history, as far as the wires agree: their ids, and values as text.

A call of the model goes back in its own turn. A scripted call has no turn, and may have no id, or one that a wire does
not take: it gets `call_1`, `call_2` …, the same in every request, because turns of a dialogue share their history.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from convbatch.dialogue import Message, ToolResult
from convbatch.protocols.wire import encode_json
from convbatch.tools import ToolCall

DUMMY_SIGNATURE = "skip_thought_signature_validator"
"""What Gemini takes as the signature of a call that no Gemini made.

https://ai.google.dev/gemini-api/docs/thought-signatures, read 2026-11-26.
"""
DUMMY_NOTE = "the signature of a call in the history is a dummy"
"""Note on replies to a history with such a signature: the quality may be lower."""
NameCalls = Callable[[Any, Sequence[str]], Any]
"""A model's turn, and an id for each of its calls in order → the turn whose calls all have an id."""


def with_call_ids(messages: Sequence[Message], allowed: re.Pattern[str], name_calls: NameCalls) -> tuple[Message, ...]:
    """Return the messages with an id for every call.

    Args:
        messages: The history.
        allowed: What the wire takes as the id of a call.
        name_calls: How the calls in a model's turn get an id where a gateway has sent none.
    """
    if not any(message.calls or message.results for message in messages):
        return tuple(messages)
    ids = _Ids(messages, allowed)
    named: list[Message] = []
    for message in messages:
        if message.results:
            before = named[-1] if named else Message(role="assistant", parts=())
            given = tuple(result.call for result in message.results)
            calls = before.calls if len(before.calls) == len(given) else ids.of_model(given)
            if before.raw is not None and calls != given:
                named[-1] = before._replace(raw=name_calls(before.raw, [call.id or "" for call in calls]))
            results = zip(message.results, calls, strict=True)
            message = message._replace(results=tuple(result._replace(call=call) for result, call in results))
        elif message.calls and message.raw is None:
            message = message._replace(calls=ids.of_script(message.calls))
        named.append(message)
    return tuple(named)


class _Ids:
    """The ids of the calls of a history."""

    def __init__(self, messages: Sequence[Message], allowed: re.Pattern[str]) -> None:
        self._allowed = allowed
        self._given = {call.id for message in messages for call in _calls(message)}
        self._used: set[str] = set()
        self._count = 0

    def of_model(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        """Return the model's calls; their ids go back as received."""
        return tuple(call._replace(id=self._next() if call.id is None else call.id) for call in calls)

    def of_script(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        """Return scripted calls; an id that is not allowed, or used before, is replaced."""
        named: list[ToolCall] = []
        for call in calls:
            is_good = call.id is not None and call.id not in self._used and self._allowed.fullmatch(call.id)
            known = call if is_good else call._replace(id=self._next())
            self._used.add(str(known.id))
            named.append(known)
        return tuple(named)

    def _next(self) -> str:
        while True:
            self._count += 1
            name = f"call_{self._count}"
            if not self._allowed.fullmatch(name):
                name = f"call{self._count:05}"
            if name not in self._given:
                return name


def _calls(message: Message) -> Iterator[ToolCall]:
    yield from message.calls
    yield from (result.call for result in message.results)


def value_text(value: Any) -> str:
    """Return a result as text: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json_text(value)


def result_text(result: ToolResult) -> str:
    """Return a result as text, for wires that have no other place for an error."""
    return json_text({"error": result.value}) if result.is_error else value_text(result.value)


def arguments_text(call: ToolCall) -> str:
    """Return arguments as the wires of OpenAI send them, in a text."""
    return value_text(call.arguments)


def json_text(value: Any) -> str:
    """Return compact JSON."""
    return encode_json(value).decode("utf-8")
