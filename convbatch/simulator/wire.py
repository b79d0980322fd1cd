"""What all wires share: the interface `Wire`, error causes, and the forms of a retry hint.

The wire formats themselves are the modules named after them, written from the providers' pages. They share nothing with
`convbatch/protocols`: the simulator is the independent witness. Gateways in front of the provider are `gateways.py`.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Protocol, cast

import orjson

from convbatch.simulator.draws import draw
from convbatch.simulator.limits import Dimension
from convbatch.simulator.replies import ParsedRequest, SimulatedReply

Form = Literal["whole", "sse", "array"]
JobOperation = Literal[
    "create", "poll", "list", "cancel", "delete", "results", "upload", "list_files", "get_file", "delete_file",
]  # fmt: skip
"""What is done with batch jobs, their files, and background responses."""
Operation = Literal["generate", "models", "model"] | JobOperation
Kind = Literal[
    "bad_request", "no_key", "bad_key", "permission", "no_model", "no_path", "rate_limit", "no_balance", "no_channel",
    "internal", "overloaded", "bad_gateway", "deadline",
]  # fmt: skip
HintForm = Literal[
    "retry-info", "retry-after", "retry-after-ms", "retry-after-date", "text", "text-try-again", "reset-headers",
    "garbage", "past-date", "negative", "year-9999", "per-day", "none",
]  # fmt: skip

_TOKEN = re.compile(r".{1,4}", re.DOTALL)
_YEAR_9999 = "Fri, 31 Dec 9999 23:59:59 GMT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """How long to wait, and the form of the hint; without a form, the usual ones of the wire."""

    seconds: float
    form: HintForm | None = None
    dimension: Dimension = "requests"
    limit: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCause:
    """Why a request gets no reply; each wire has its own error format for it."""

    kind: Kind
    message: str | None = None
    """Replaces the wire's usual message."""
    field: str | None = None
    model: str | None = None
    hint: Hint | None = None
    status: int | None = None
    """Replaces the usual status of the kind."""
    request_id: str | None = None
    """Of the provider, for wires that repeat it in the body."""
    gateway_id: str | None = None
    """Of the gateway in front of the provider, if it repeats it in the body."""


class RefusedRequest(Exception):  # control flow: carries the cause out of nested checks
    """A request that gets an error instead of a reply."""

    def __init__(self, cause: ErrorCause) -> None:
        super().__init__(cause.message or cause.kind)
        self.cause = cause


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiError:
    """An error reply before it is encoded."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What is known from method and path, before the body is read."""

    wire: Wire
    operation: Operation
    model: str | None = None
    form: Form = "whole"
    version: str = "v1"
    item: str | None = None
    """The id of a job, file or response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """A response that is made later."""

    is_discounted: bool
    window_s: float | None
    """How long it may take; None: as soon as possible."""
    is_stored: bool
    """Whether it is kept for good, not only for some minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplySpec:
    """A valid generate request."""

    parsed: ParsedRequest
    form: Form
    usage_in_stream: bool = True
    cache_ttl: str | None = None
    """How long the prompt is cached, where a request asks for that."""
    marks_system: bool = False
    """Whether the system text is to be cached by itself, for other prompts that begin with it."""
    cached: tuple[int, int] = (0, 0)
    """Tokens of the prompt that were read from the cache, and written to it; set by the provider."""
    logprobs: int | None = None
    """How many alternatives of each token are asked for, besides its own log probability; None: nothing."""
    tier: str | None = None
    """The service tier that is asked for, and then the one that serves the reply; set by the provider."""
    stored_input: Sequence[Any] | None = None
    """The whole history of a response that is to be kept; None: it is not kept."""
    previous_id: str | None = None
    """The kept response that the request goes on from."""
    background: Background | None = None

    @property
    def budgeted_output(self) -> int:
        """Output tokens that some servers reserve at admission."""
        return self.parsed.max_output_tokens or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOver:
    """What is left of the limits of a key at a model."""

    amounts: Mapping[Dimension, tuple[int, int]]
    """What could be taken now, and the limit."""
    window_s: float

    def until_full_s(self, dimension: Dimension) -> float:
        """Return how long it takes until the whole limit is available."""
        left, limit = self.amounts[dimension]
        return round(self.window_s * (1 - left / limit), 3)


class Wire(Protocol):
    """One wire format, from the server's side."""

    name: str
    content_type: str
    counts_output_at_admission: bool
    request_id_header: str | None
    usage_key: str
    text_key: str
    """Key whose string value is the visible text, in whole replies and events."""

    def parse_request(self, route: Route, body: Any) -> ReplySpec:
        """Validate a decoded body as strictly as the real server; raises `RefusedRequest`."""
        ...

    def whole(self, reply_spec: ReplySpec, reply: SimulatedReply) -> dict[str, Any]:
        """Return the reply as one object."""
        ...

    def events(self, reply_spec: ReplySpec, reply: SimulatedReply) -> list[dict[str, Any]]:
        """Return the same reply as stream events."""
        ...

    def frame(self, reply_spec: ReplySpec, events: list[bytes]) -> list[bytes]:
        """Return encoded events as pieces of a body."""
        ...

    def api_error(self, route: Route | None, cause: ErrorCause, now: float) -> ApiError:
        """Return the error in the provider's format."""
        ...

    def stream_error(self, cause: ErrorCause) -> bytes:
        """Return the piece of a body that ends a stream with an error."""
        ...

    def limit_headers(self, left: LeftOver, now: float) -> dict[str, str]:
        """Return the headers that name the limits of a key and what is left of them; {} if there are none."""
        ...

    def list_models(self, models: tuple[str, ...], query: Mapping[str, str]) -> dict[str, Any]:
        """Return the model list, or one page of it."""
        ...

    def show_model(self, model: str) -> dict[str, Any]:
        """Return one model of the list."""
        ...


def refuse(kind: Kind, message: str | None = None, *, field: str | None = None, model: str | None = None) -> NoReturn:
    """Raise `RefusedRequest`."""
    raise RefusedRequest(ErrorCause(kind=kind, message=message, field=field, model=model))


def encode(plain: object) -> bytes:
    """Encode as JSON."""
    return orjson.dumps(plain)


def encode_oddly(plain: object) -> bytes:
    """Encode as JSON, including what orjson refuses: NaN, lone surrogates, integers beyond 64 bits."""
    return json.dumps(plain, ensure_ascii=True).encode()


def as_object(value: object) -> dict[str, Any] | None:
    """Return the value if it is a JSON object, else None."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def as_list(value: object) -> list[Any] | None:
    """Return the value if it is a JSON array, else None."""
    return cast("list[Any]", value) if isinstance(value, list) else None


def tokens_of(piece: str) -> list[str]:
    """Split a piece of a text into tokens for log probabilities."""
    return _TOKEN.findall(piece)


def log_probability(token: str, place: int) -> float:
    """Return the log probability of a token at a place, or of an alternative to it."""
    return round(-0.01 - 2 * draw("logprob", token, place), 6)


def in_pieces(text: str, most: int = 6) -> list[str]:
    """Split a text as a stream would: into at most `most` pieces, none for an empty text."""
    size = max(1, -(-len(text) // most))
    return [text[at : at + size] for at in range(0, len(text), size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WordedHint:
    """A retry hint in the forms of a wire."""

    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    """Appended to the message."""
    retry_delay: str | None = None
    """Value of google.rpc.RetryInfo."""
    per_day: bool = False


def word_hint(hint: Hint, usual: Iterable[HintForm], now: float) -> WordedHint:
    """Write a hint in its own form, else in the `usual` forms of a wire."""
    headers: dict[str, str] = {}
    text = ""
    delay: str | None = None
    forms = (hint.form,) if hint.form is not None else tuple(usual)
    for form in forms:
        worded = _HINT_FORMS[form](hint.seconds, now)
        headers.update(worded.headers)
        text += worded.text
        delay = worded.retry_delay or delay
    return WordedHint(
        headers=headers, text=text, retry_delay=delay, per_day="per-day" in forms or hint.dimension == "day"
    )


def _with_headers(**headers: str) -> WordedHint:
    return WordedHint(headers={name.replace("_", "-"): value for name, value in headers.items()})


def go_duration(seconds: float) -> str:
    """Return a duration in the format of OpenAI's headers: `6m0s`, `1.2s`, `12ms`."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"


def _seconds(seconds: float) -> str:
    return f"{seconds:.9f}".rstrip("0").rstrip(".")


_HINT_FORMS = {
    "retry-info": lambda s, now: WordedHint(retry_delay=f"{_seconds(s)}s"),
    "retry-after": lambda s, now: _with_headers(retry_after=_seconds(s)),
    "retry-after-ms": lambda s, now: _with_headers(retry_after_ms=_seconds(s * 1000)),
    "retry-after-date": lambda s, now: _with_headers(
        retry_after=email.utils.formatdate(-(-(now + s) // 1), usegmt=True)
    ),
    "text": lambda s, now: WordedHint(text=f" Please retry in {_seconds(s)}s."),
    "text-try-again": lambda s, now: WordedHint(text=f" Please try again in {_seconds(s)}s."),
    "reset-headers": lambda s, now: _with_headers(
        x_ratelimit_limit_requests="60",
        x_ratelimit_remaining_requests="0",
        x_ratelimit_reset_requests=go_duration(s),
        x_ratelimit_limit_tokens="30000",
        x_ratelimit_remaining_tokens="29000",
        x_ratelimit_reset_tokens="2ms",
    ),
    "garbage": lambda s, now: WordedHint(
        headers={"retry-after": "soon", "retry-after-ms": "NaN"},
        text=" Please retry in a moment.",
        retry_delay="banana",
    ),
    "past-date": lambda s, now: _with_headers(retry_after=email.utils.formatdate(now - 3600, usegmt=True)),
    "negative": lambda s, now: WordedHint(
        headers={"retry-after": f"-{_seconds(s)}"}, retry_delay=f"-{_seconds(s)}s"
    ),
    "year-9999": lambda s, now: _with_headers(retry_after=_YEAR_9999),
    "per-day": lambda s, now: WordedHint(text=f" Please retry in {_seconds(s)}s.", retry_delay=f"{_seconds(s)}s"),
    "none": lambda s, now: WordedHint(),
}  # fmt: skip
