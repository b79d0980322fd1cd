"""The interface between convbatch and a wire format: plain values in, plain values out.

Nothing in `protocols/` uses sockets, clocks, aiohttp, keys or names of gateways. The place of the key in a request is
a property of the gateway (`auth`), so a `WireRequest` does not contain the key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import orjson

from convbatch.dialogue import NO_SETTINGS, Message, Settings
from convbatch.protocols.history_pieces import HistoryPieces
from convbatch.protocols.sse import SseEvent
from convbatch.reply import Failure, Reply
from convbatch.strict_json import MAX_DEPTH, TooDeep, parse_received

SystemRole = Literal["system", "developer", "user"]
Replay = Literal["exact", "content", "stored"]


class MalformedReply(Exception):  # internal; becomes a `Failure`
    """A success body that is not a reply: HTML, truncated JSON, too deep, or another kind of object."""

    cut = False
    """True when the body is truncated JSON or empty: the same request may succeed when it is sent again."""


class CutReply(MalformedReply):
    """A truncated success body."""

    cut = True


class CannotCarry(Exception):  # reported as an input error when the run is prepared
    """The wire format has no field for a part or a setting; dropping it would make comparisons wrong."""


class ErrorInBody(Exception):  # control flow inside the protocols
    """A response with status 200 that contains a failure: an error object, nothing, or an incomplete stream.

    `failure.structured` is true when the body is an error object: such a failure is treated as its inner code says, any
    other 200 is ambiguous. `status` is the inner HTTP code, if there is one.
    """

    def __init__(self, failure: Failure, *, status: int | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The part of a gateway that a protocol needs to build a request."""

    base_url: str
    api_version: str | None = None
    max_output_tokens_field: str | None = None
    path: str | None = None
    """Path of a generation below the base URL, with `{model}` for the model's name; None: the protocol's own."""
    seed_field: str | None = None
    """Field of the body that carries the seed; None: `seed`."""
    system_role: SystemRole | None = None
    """Role of the system text; `user`: it stands in front of the first user message."""
    replay: Replay | None = None
    """What of a model's turn goes back into the history; None: all of it, but not what stands in `thinking_tags`.

    `stored`: the id of the last response, which the provider keeps.
    """
    anthropic_version: str | None = None
    """Version of Anthropic's API; None: the protocol's own."""
    thinking_tags: str | None = None
    """The tags around thoughts in the text, as `thinking_tags.parse_thinking_tags` reads them."""


class Ask(NamedTuple):
    """One question: model, whole history, settings."""

    model: str
    messages: tuple[Message, ...]
    """The last one is the user message to answer, the results of tool calls, or a model's turn that is paused."""
    system: str | None = None
    settings: Settings = NO_SETTINGS
    stream: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()
    """Function declarations: `name`, and where given `description` and `parameters` (JSON Schema)."""
    pieces: HistoryPieces | None = None
    """What is encoded of `messages` already; None: they are encoded anew. With pieces, the `json` of a request is for
    orjson alone."""

    def pieces_of(self, messages: Sequence[Message]) -> HistoryPieces | None:
        """Return the pieces of the messages that a protocol sends; None if there are none, or if these are others."""
        if self.pieces is None or messages is not self.messages:
            return None
        self.pieces.follow(self.messages)
        return self.pieces


class WireRequest(NamedTuple):
    """One HTTP request without its key; `json` is None for a GET request without a body."""

    method: str
    url: str
    headers: Mapping[str, str]
    json: Any = None
    note: str | None = None
    """What the protocol put into the history that nobody said; part of the attempt's `wire_note`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A partial streamed reply; `state` is private to the protocol and never changed in place."""

    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolConfig:
    """How gateways of a protocol are configured: default values, keys and base URLs."""

    auth: str
    """Default of `auth`, the place of the key in a request."""
    tpm_counts: str
    """Default of `tpm_counts`, the tokens that count against a limit per minute."""
    api_version: str | None = None
    """Default of `api_version`; None: the protocol has no such key."""
    keys: tuple[str, ...] = ()
    """Configuration keys that have a meaning only in the protocols that list them."""
    system_roles: tuple[SystemRole, ...] = ("system", "user")
    """Values of `system_role` that the protocol can express."""
    replays: tuple[Replay, ...] = ("exact", "content")
    """Values of `replay` that the protocol can express."""
    requires_max_tokens: bool = False
    """Whether a request needs a limit on output, so that its gateways have one by default."""
    endpoints: tuple[str, ...]
    """Ends of request URLs; a base URL that ends with one of them is a mistake."""


class TurnFormat(Protocol):
    """How a model's turn of a wire format is cut down before it goes back; input of another shape is kept."""

    def skip_text(self, turn: Any, count: int) -> Any:
        """Return the turn without the first `count` characters of its visible text."""
        ...

    def only_content(self, turn: Any) -> Any:
        """Return the turn without reasoning, signatures and annotations."""
        ...

    def without_signatures(self, turn: Any) -> Any:
        """Return the turn without signatures and encrypted reasoning; the same turn if it has none."""
        ...


class WireProtocol(Protocol):
    """One wire format: five pure functions for replies, two for the list of models."""

    name: str
    """The value of `protocol` in a gateway's table."""
    config: ProtocolConfig
    turns: TurnFormat

    def build_request(self, ask: Ask, endpoint: Endpoint) -> WireRequest:
        """Build the request for a question; raises `CannotCarry`."""
        ...

    def parse_response(self, body: bytes) -> Reply:
        """Parse a complete success body; raises `MalformedReply` or `ErrorInBody`."""
        ...

    def parse_event(self, draft: Draft, event: SseEvent) -> Draft:
        """Add one event of a stream to a draft; raises `ErrorInBody`, `MalformedReply`."""
        ...

    def finish(self, draft: Draft) -> Reply:
        """Build the reply at the end of a stream; raises `ErrorInBody` with the partial text when it is incomplete."""
        ...

    def classify_error(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """Parse an error response; header names are lower case. Never raises."""
        ...

    def build_models_request(self, endpoint: Endpoint) -> WireRequest:
        """Build the request for the list of models."""
        ...

    def parse_models(self, body: bytes) -> tuple[str, ...]:
        """Parse the list of models to names for `-m`; raises `MalformedReply`."""
        ...


def decode_json(body: bytes) -> Any:
    """Decode JSON as received: big integers and lone surrogates survive.

    Raises:
        MalformedReply: Not JSON, not UTF-8, or nested too deeply.
    """
    try:
        return parse_received(body)
    except TooDeep:
        raise MalformedReply(f"JSON nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise MalformedReply(f"not JSON: {str(error)[:200]}") from None


def encode_json(value: Any) -> bytes:
    """Encode compact UTF-8 JSON; the slow path handles what orjson refuses (big integers, lone surrogates)."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii")
