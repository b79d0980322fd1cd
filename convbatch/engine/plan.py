"""Dialogues x targets x repeats → `Conversation`s; the key of a turn (`TurnKeys`) and its size bound (`TokenBound`).

Order is fixed: dialogues in file order, the repeats of a dialogue together, or in rounds; each target follows this
order on its own.
Nothing here waits, sends or reads a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from convbatch.config.gateways import Target
from convbatch.dialogue import Dialogue, Message, Part, Settings, ToolResult
from convbatch.engine.media_tokens import media_in, most_media_tokens
from convbatch.protocols.history_pieces import has_tools
from convbatch.protocols.wire import encode_json
from convbatch.reply import Reply
from convbatch.tools import DEFAULT_MAX_STEPS


class JudgedItem(NamedTuple):
    """The reply, or the dialogue, that a question to a judge is about."""

    target: str
    """Name of the target whose reply is judged."""
    turn: int | None
    """None = the whole dialogue."""
    asked: str
    """Digest of the question."""
    repairs: str | None = None
    """Digest of the question whose answer could not be read; None for a first question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One dialogue at one target, repeat k: the unit of the plan and of concurrency."""

    dialogue: Dialogue
    index: int
    """Position of the dialogue in the run's copy of the dataset, from 0."""
    target: Target
    repeat: int
    """From 1."""
    about: JudgedItem | None = None
    """Only for a question to a judge; `index` and `repeat` are then those of the judged conversation."""
    earlier: tuple[tuple[Message, Reply], ...] = ()
    """Exchanges before the first turn; the replies go back as they were received."""
    follow_up: Callable[[Reply], Conversation | None] | None = None
    """Takes the reply to the only turn; returns the conversation that must end before this one counts as finished."""


def conversations(dialogues: Iterable[tuple[int, Dialogue]], target: Target, repeats: int) -> Iterator[Conversation]:
    """Yield every conversation of one target in admission order, so that memory does not grow with the dataset."""
    for index, dialogue in dialogues:
        for repeat in range(1, repeats + 1):
            yield Conversation(dialogue=dialogue, index=index, target=target, repeat=repeat)


def conversations_in_rounds(
    read: Callable[[], Iterable[tuple[int, Dialogue]]], target: Target, repeats: int
) -> Iterator[Conversation]:
    """Yield every conversation of one target: all dialogues once before any is repeated.

    A cache is filled by a reply: it shows only in a repeat that is sent after the reply to the one before has come.

    Args:
        read: Returns the dialogues from the start, once for each round.
        target: Target of the conversations.
        repeats: Number of rounds.
    """
    for repeat in range(1, repeats + 1):
        for index, dialogue in read():
            yield Conversation(dialogue=dialogue, index=index, target=target, repeat=repeat)


class TurnKeys:
    """Running digest of one conversation: the key of a turn covers everything sent up to it.

    That is wire identity (protocol, base URL, model), system, tools, every message up to and including the turn's
    user message, and that turn's effective settings; not gateway names, API keys, limits or prices. Keys of the gateway
    that shape the request are part of the identity where they are set and change it.
    """

    def __init__(self, target: Target, dialogue: Dialogue) -> None:
        self._state = hashlib.blake2b(digest_size=16)
        self._settings: Settings | None = None
        self._encoded_settings = b""
        gateway = target.gateway
        identity: list[Any] = [gateway.protocol, gateway.base_url, gateway.api_version, target.model]
        shape = {"path": gateway.path} if gateway.path is not None else {}
        if gateway.anthropic_version is not None:
            shape["anthropic_version"] = gateway.anthropic_version
        if dialogue.system and gateway.system_role not in (None, "system"):
            shape["system_role"] = gateway.system_role
        if gateway.replay == "stored":
            shape["store"] = "true"  # a response that was not stored cannot be referred to
        if shape:
            identity.append(shape)
        self._seed_field = gateway.seed_field
        tools: list[Any] = [[dict(tool) for tool in dialogue.tools], dict(dialogue.tool_results)]
        if dialogue.max_steps != DEFAULT_MAX_STEPS:
            tools.append(dialogue.max_steps)
        self._feed([identity, dialogue.system, *tools])

    def add(self, message: Message) -> None:
        """Append a message of the history."""
        if message.raw is not None:
            self._feed([message.role, message.raw])
            return
        content: list[Any] = [[_part_values(part) for part in message.parts]]
        if message.calls:
            content.append([[call.name, call.arguments] for call in message.calls])
        if message.results:
            content.append([_result_values(result) for result in message.results])
        self._feed([message.role, *content])

    def key(self, settings: Settings) -> str:
        """Return the key of the turn whose user message was added last, 32 hex digits."""
        if settings is not self._settings:  # usually all turns share one object
            plain = settings.to_plain()
            if self._seed_field is not None and settings.seed is not None:
                plain["seed_field"] = self._seed_field
            self._settings, self._encoded_settings = settings, encode_json(plain)
        state = self._state.copy()
        state.update(self._encoded_settings)
        return state.hexdigest()

    def _feed(self, value: Any) -> None:
        encoded = encode_json(value)
        self._state.update(len(encoded).to_bytes(8, "big"))
        self._state.update(encoded)


def _part_values(part: Part) -> list[Any]:
    # The path of media in a run folder is their digest.
    values: list[Any] = [part.kind, part.text, part.path, part.data, part.mime_type]
    values += [] if part.uri is None else [part.uri]
    return values if part.detail is None else [*values, {"detail": part.detail}]


def _result_values(result: ToolResult) -> list[Any]:
    media = [_part_values(part) for part in result.media]
    return [result.call.name, result.value, result.is_error, *([media] if media else [])]


class TokenBound:
    """Upper bound on the tokens of a conversation's next request, and so on what it can cost.

    No text has more tokens than UTF-8 bytes. If the gateway reported a larger count, that count is used: it includes
    what the gateway puts in front of the messages.
    """

    def __init__(self, dialogue: Dialogue) -> None:
        self._bytes = text_bytes(dialogue.system or "") + _FRAME
        if dialogue.tools:
            self._bytes += len(encode_json([dict(tool) for tool in dialogue.tools])) + _TOOLS_FRAME
        self._counted: int | None = None
        self._since = 0

    def add(self, text: str) -> None:
        """Add the text of a message in the history."""
        size = _FRAME + text_bytes(text)
        self._bytes += size
        self._since += size

    def add_message(self, message: Message) -> None:
        """Add all that a message has: text, calls, results, media."""
        if len(message.parts) == 1 and (part := message.parts[0]).kind == "text" and not has_tools(message):
            self.add(part.text or "")
            return
        self.add(message.text)
        for text in texts_of_calls(message):
            self.add(text)
        self.add_tokens(most_media_tokens(media_in(message)))

    def add_tokens(self, tokens: int) -> None:
        """Add tokens that are no text."""
        self._bytes += tokens
        self._since += tokens

    def counted(self, tokens: int) -> None:
        """Set the gateway's count for everything added so far."""
        self._counted, self._since = tokens, _FRAME  # the reply becomes a message, with a frame of its own

    def max_input(self, settings: Settings) -> int:
        """Return the bound for a request that contains everything added so far."""
        schema = 0 if settings.response_schema is None else text_bytes(str(settings.response_schema))
        by_count = 0 if self._counted is None else self._counted + self._since
        return max(self._bytes, by_count) + schema


def texts_of_calls(message: Message) -> list[str]:
    """Return each call and each result of a message as text: the name, and the arguments or the value."""
    named = [(call.name, call.arguments) for call in message.calls]
    named += [(result.call.name, result.value) for result in message.results]
    return [name + (value if isinstance(value, str) else encode_json(value).decode()) for name, value in named]


def max_output_bound(settings: Settings) -> int | None:
    """Return the most output tokens of a request; None if they are not limited, or if it asks for several replies."""
    limit = settings.max_output_tokens
    return limit if limit is not None and replies_at_once(settings) == 1 else None


def replies_at_once(settings: Settings) -> int | None:
    """Return how many replies a request asks for: each is billed, and the limit on output applies to each.

    Returns:
        None if a field of the body asks for them without a whole number of at least 1.
    """
    extra = settings.extra or {}
    inner = extra.get("generationConfig", {})
    asked = [found[name] for found in (extra, inner) if isinstance(found, dict) for name in _SEVERAL if name in found]
    known = [count for count in asked if isinstance(count, int) and not isinstance(count, bool) and count >= 1]
    return max(known, default=1) if len(known) == len(asked) else None


_SEVERAL = ("n", "candidateCount", "candidate_count")
"""Body fields that ask for several replies at once."""
_FRAME = 16
"""Tokens that may surround a message to mark its role."""
_TOOLS_FRAME = 2048
"""Tokens of the instructions on tools that a provider adds itself."""


def text_bytes(text: str) -> int:
    """Return the length in UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
