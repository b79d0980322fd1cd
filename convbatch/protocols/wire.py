"""The one interface between the tool and a wire format: plain values in, plain values out.

Nothing under `protocols/` knows a socket, a clock, aiohttp, a key's source or a gateway by name. Where the key goes is
the gateway's choice (`auth`), not the protocol's, so a `WireRequest` leaves here without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import orjson

from convbatch.dialogue import NO_SETTINGS, Message, Settings
from convbatch.protocols.sse import SseEvent
from convbatch.reply import Failure, Reply

MAX_JSON_DEPTH = 256
# Digits become 0, all else NUL: nineteen zeros in a row are then an integer that may not fit 64 bits.
_DIGITS_TO_ZERO = bytes(48 if 48 <= byte <= 57 else 0 for byte in range(256))
_LONG_NUMBER = b"0" * 19


class MalformedReply(Exception):  # a name from the contract, not an error a user mends
    """A success body that is no reply: HTML, cut JSON, too deep, or an object of another kind."""

    cut = False
    """True where the body began as JSON and stopped before its end, or was empty: the same request may well succeed."""


class CutReply(MalformedReply):
    """A success body that stopped before its end."""

    cut = True


class CannotCarry(Exception):  # the wire's limit, reported as an input error by whoever plans
    """The wire has no way to carry a part or a setting; dropping it silently would make a comparison lie."""


class ErrorInBody(Exception):  # control flow inside the protocols
    """A 200 that holds a failure: an error object, nothing at all, or a stream that broke.

    `failure.structured` is true only when the body says which failure it is (an inner HTTP code or a known word): such
    a failure counts as that code, any other 200 is ambiguous. `status` is the inner HTTP code where there is one.
    """

    def __init__(self, failure: Failure, *, status: int | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to ask, as far as a protocol needs to know it."""

    base_url: str
    api_version: str | None = None
    max_output_tokens_field: str | None = None


class Ask(NamedTuple):
    """One question: the model, the whole history, the settings."""

    model: str
    messages: tuple[Message, ...]
    """Ends with the user message that is asked now."""
    system: str | None = None
    settings: Settings = NO_SETTINGS
    stream: bool = False


class WireRequest(NamedTuple):
    """One HTTP request without its key; `json` None means a GET without a body."""

    method: str
    url: str
    headers: Mapping[str, str]
    json: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A streamed reply as far as it has come; `state` is the protocol's own and is never changed in place."""

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
    endpoints: tuple[str, ...]
    """Ends of request URLs; a base URL that ends with one of them is a mistake."""


class WireProtocol(Protocol):
    """One wire format: five pure functions for replies, two for the list of models."""

    name: str
    """The value of `protocol` in a gateway's table."""
    config: ProtocolConfig

    def build_request(self, ask: Ask, endpoint: Endpoint) -> WireRequest:
        """Word a question; raises `CannotCarry`."""
        ...

    def parse_response(self, body: bytes) -> Reply:
        """Read a whole success body; raises `MalformedReply` or `ErrorInBody`."""
        ...

    def parse_event(self, draft: Draft, event: SseEvent) -> Draft:
        """Fold one event of a stream; raises `ErrorInBody`, `MalformedReply`."""
        ...

    def finish(self, draft: Draft) -> Reply:
        """Close a stream; raises `ErrorInBody` when it broke before its end, the partial text in the failure."""
        ...

    def classify_error(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """Read an error answer; header names are lower case. Never raises."""
        ...

    def build_models_request(self, endpoint: Endpoint) -> WireRequest:
        """Ask for the list of models."""
        ...

    def parse_models(self, body: bytes) -> tuple[str, ...]:
        """Model names as one would give them to `-m`; raises `MalformedReply`."""
        ...


def decode_json(body: bytes) -> Any:
    """JSON as received: big integers and lone surrogates survive.

    Raises:
        MalformedReply: Not JSON, not UTF-8, or nested deeper than `MAX_JSON_DEPTH`.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = _decode_slowly(body)
    else:
        if _LONG_NUMBER in body.translate(_DIGITS_TO_ZERO):
            value = _decode_slowly(body)  # orjson turns integers beyond 64 bits into floats
    # Cheap guard first: only a body with that many openers can nest that deep.
    if body.count(b"[") + body.count(b"{") > MAX_JSON_DEPTH and _deeper_than(value, MAX_JSON_DEPTH):
        raise MalformedReply(f"JSON nested deeper than {MAX_JSON_DEPTH} levels")
    return value


def encode_json(value: Any) -> bytes:
    """Compact UTF-8 JSON; the slow path keeps what orjson refuses (big integers, lone surrogates)."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def _decode_slowly(body: bytes) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise MalformedReply(f"not JSON: {str(error)[:200]}") from None


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        nested: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                nested.extend(item.values())
            elif isinstance(item, list):
                nested.extend(item)
        if not nested:
            return False
        level = nested
    return any(isinstance(item, dict | list) for item in level)
