"""Conversations with tools between a protocol and the simulator, in this process and without a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from convbatch.dialogue import Message, ToolResult, text_part
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.sse import SseParser
from convbatch.protocols.wire import Ask, Draft, Endpoint, WireProtocol, encode_json
from convbatch.reply import Reply
from convbatch.simulator.http import Request
from convbatch.simulator.provider import Provider
from convbatch.tools import ToolCall

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TIME: dict[str, Any] = {"name": "get_time"}
TOOLS: tuple[Mapping[str, Any], ...] = (WEATHER, TIME)


class Refused(Exception):
    """The simulator has refused a request; the message is the provider's."""


class Talk(NamedTuple):
    """One conversation over one wire."""

    provider: Provider
    wire: str
    model: str = "sim-good"
    stream: bool = False
    tools: tuple[Mapping[str, Any], ...] = TOOLS

    @property
    def protocol(self) -> WireProtocol:
        return PROTOCOLS[self.wire]

    def ask(self, messages: Sequence[Message]) -> Reply:
        """Send a history and return the reply; raises `Refused`."""
        ask = Ask(model=self.model, messages=tuple(messages), tools=self.tools, stream=self.stream)
        return self.send(self.body(ask), ask)

    def body(self, ask: Ask) -> Any:
        return self.protocol.build_request(ask, self._endpoint).json

    def send(self, body: Any, ask: Ask) -> Reply:
        """Send a body and return the reply; raises `Refused`."""
        request = self.protocol.build_request(ask, self._endpoint)
        sent = Request.of("POST", request.url, request.headers, encode_json(body))
        answer = self.provider.handle(sent, 0.0)
        answer.delivered(0.0)
        if answer.status != 200:
            raise Refused(str(orjson.loads(answer.content)))
        return self._streamed(answer.content) if self.stream else self.protocol.parse_response(answer.content)

    def _streamed(self, content: bytes) -> Reply:
        parser, draft = SseParser(), Draft()
        for event in [*parser.feed(content), *parser.close()]:
            draft = self.protocol.parse_event(draft, event)
        return self.protocol.finish(draft)

    @property
    def _endpoint(self) -> Endpoint:
        return Endpoint(base_url="http://h/v1" if self.wire in ("openai", "responses") else "http://h")

    def hold(self, text: str, results: Mapping[str, Any], *, most: int = 8) -> list[Reply]:
        """Ask a question, answer the calls by their names, and return the replies of all steps."""
        history = [user(text)]
        replies: list[Reply] = []
        while len(replies) < most:
            reply = self.ask(history)
            replies.append(reply)
            if not reply.tool_calls and not reply.is_paused:
                break
            history.append(Message(role="assistant", parts=(), raw=reply.raw_turn))
            if reply.tool_calls:
                history.append(answered(reply.tool_calls, results))
        return replies


def user(text: str) -> Message:
    return Message(role="user", parts=(text_part(text),))


def answered(calls: Sequence[ToolCall], results: Mapping[str, Any]) -> Message:
    """Return the results of the calls of one step."""
    return Message(role="tool", parts=(), results=tuple(ToolResult(call, results.get(call.name)) for call in calls))


def scripted(*calls: ToolCall) -> tuple[Message, Message]:
    """Return a scripted step: calls that no model made, and their results."""
    results = tuple(ToolResult(call, f"result of {call.name}") for call in calls)
    return Message(role="assistant", parts=(), calls=calls), Message(role="tool", parts=(), results=results)
