"""Results as values: one reply, one failure, one HTTP attempt.

Counts are inclusive (cached and reasoning tokens are part of input and output) and None if the gateway did not send
them or they cannot be right. `protocols/` maps a wire format to these values; `engine/retry.py` decides on retries.

A value created for every turn is a `NamedTuple`, here and elsewhere: a frozen dataclass takes several times as long.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from convbatch.tools import ToolCall

HISTORY_CUT = "the provider removed"
"""Start of the note on a reply to a history from which the provider removed something."""

FinishReason = Literal["stop", "length", "content_filter", "tool_call", "error", "other"]
UsageSource = Literal["reported", "partial", "missing"]
Blocked = Literal["prompt", "output"]
Scope = Literal["minute", "day", "month"]
ErrorKind = Literal[
    "rate_limit", "quota", "overloaded", "server_error", "timeout", "connection", "auth", "permission", "not_found",
    "invalid_request", "context_length", "content_filter", "empty_response", "malformed_output", "stream_truncated",
    "bad_response",
]  # fmt: skip
AttemptClass = Literal["replied", "refused", "not_sent", "ambiguous", "timeout", "final", "abandoned"]
"""Whether an attempt was possibly paid. `replied`: a complete reply, paid. `refused`, `not_sent`, `final`: not paid.
`ambiguous`, `timeout` (our own), `abandoned` (a second Ctrl-C): sent and not fully answered, possibly paid."""
POSSIBLY_PAID: frozenset[str] = frozenset({"ambiguous", "timeout", "abandoned"})
RESULT_KINDS: frozenset[str] = frozenset({"context_length"})
"""Failures that are results: the dialogue no longer fits the model, however often it is asked."""

Status = Literal["pending", "skipped", "error", "blocked", "empty", "ok"]


class Usage(NamedTuple):
    """Token counts of one reply. None means that the gateway did not send the count, or an impossible one."""

    input_tokens: int | None = None
    """Including cached tokens, cache writes and tool-use prompt."""
    cached_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    output_tokens: int | None = None
    """Including reasoning."""
    reasoning_tokens: int | None = None
    total_tokens: int | None = None
    """As reported."""
    source: UsageSource = "missing"
    consistent: bool | None = None
    """Whether the counts agree; False if one was impossible, or input + output is not the total; None if that cannot be
    told, without a total or without both counts. Counts that do not agree have no cost."""
    cache_write_1h_input_tokens: int | None = None
    """Part of the cache writes, for one hour, which some providers bill at another price."""
    input_audio_tokens: int | None = None
    """Part of the input, cached or not."""
    cached_input_audio_tokens: int | None = None
    """Part of the cached tokens."""
    output_image_tokens: int | None = None
    """Part of the output."""
    output_audio_tokens: int | None = None
    """Part of the output."""
    has_uncounted_media: bool = False
    """Whether the output has media whose tokens the counts do not tell apart from those of text."""
    has_tools_billed_apart: bool = False
    """Whether a tool of the provider used tokens of another model, which the counts do not include."""

    @property
    def all_tokens(self) -> int | None:
        """Input and output tokens; None where the gateway did not count both, or its counts disagree."""
        if self.consistent is False or self.input_tokens is None:
            return None
        return self.total_tokens if self.output_tokens is None else self.input_tokens + self.output_tokens


NO_USAGE = Usage()


class MediaFile(NamedTuple):
    """A picture or sound of a reply, as it is kept."""

    path: str
    """Relative to the run folder."""
    mime_type: str | None = None
    """By its content; None if it is of no known type."""
    width: int | None = None
    height: int | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return the journal form; None is omitted."""
        return {name: value for name, value in zip(self._fields, self, strict=True) if value is not None}


class Reply(NamedTuple):
    """A complete reply with any finish reason; a refusal is a reply."""

    text: str | None
    """Visible text; "" means empty content, None means no content."""
    finish_reason: FinishReason
    finish_reason_raw: str | None
    thought: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    blocked: Blocked | None = None
    usage: Usage = NO_USAGE
    model_version: str | None = None
    response_id: str | None = None
    has_media: bool = False
    media: tuple[MediaFile, ...] = ()
    """Its media, once they are kept."""
    is_paused: bool = False
    """Whether the provider stopped in the middle of the turn, which goes on when the history is sent back."""
    service_tier: str | None = None
    """The tier that served the reply, in the provider's words; it decides the price."""
    mean_logprob: float | None = None
    """Mean log probability of the tokens of the visible text, if they were asked for."""
    history_note: str | None = None
    """What the provider says it changed in the history that was sent; part of the attempt's `wire_note`."""
    finish_note: str | None = None
    """Why a model refused, as the provider explains it; part of the attempt's `wire_note`."""
    billing_note: str | None = None
    """What is billed beside the counts; part of the attempt's `wire_note`."""
    raw_turn: Any = None
    """The model's turn as received (Gemini `content`, OpenAI and Anthropic `message`, the `output` of Responses), to be
    replayed unchanged in the history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """No usable reply. Data, not an exception: an error of a gateway is a result."""

    kind: ErrorKind
    message: str
    code: str | int | None = None
    retryable: bool = False
    """Whether the protocol says that a retry may help; `engine/retry.py` decides."""
    retry_after_s: float | None = None
    scope: Scope | None = None
    """The quota window, if known."""
    finish_reason_raw: str | None = None
    usage: Usage = NO_USAGE
    """Usage reported by a failed attempt."""
    should_retry: bool | None = None
    """The gateway's `x-should-retry` header."""
    structured: bool = False
    """Whether the body was a JSON error object; for 5xx this separates refused from ambiguous."""
    text: str | None = None
    """Partial text of a broken reply."""
    blocked: Blocked | None = None
    """Of kind `content_filter`: what was refused, the prompt or the output."""
    no_model: bool = False
    """Whether the body shows that no model was asked (a web page): nothing was paid, whatever the status."""


class StatedLimit(NamedTuple):
    """At most so many in a window."""

    most: int
    window_s: float


class StatedLimits(NamedTuple):
    """Limits that a response states; None where it states none."""

    requests: StatedLimit | None = None
    tokens: StatedLimit | None = None


class Attempt(NamedTuple):
    """One HTTP attempt for one turn, with a `Reply` or a `Failure`."""

    outcome: Reply | Failure
    cls: AttemptClass
    http_status: int | None = None
    request_id: str | None = None
    started_at: float = 0.0
    """Unix seconds UTC."""
    latency_s: float | None = None
    """From sending the request to the last byte of the response."""
    ttft_s: float | None = None
    """Streams only: from sending the request to the first thought or text that is not empty."""
    chunks: int | None = None
    """Streams only: events with thought or text."""
    itl_p50_s: float | None = None
    """Streams only: median of the times between two chunks; None with less than two."""
    itl_p95_s: float | None = None
    body: bytes | None = None
    """The response body as received (redacted); None without one."""
    key_in_body: bool = False
    """Whether the body contains the key's value and was left unchanged (short keys, auth "none")."""
    wire_note: str | None = None
    """What was odd about an answer that was read all the same; None if nothing was."""
    renews_key: bool = False
    """Whether the key was refused and the gateway's key command prints another one before the next attempt."""
    stated_limits: StatedLimits | None = None
    """Limits over at most a minute that the response states."""


def billed_usage(cls: str, kind: str | None, usage: Usage) -> Usage:
    """Return the usage that is billed; unknown if a reply broke off, since its counts are running totals.

    Args:
        cls: The attempt's class.
        kind: The failure's kind; None for a complete reply.
        usage: The reported usage.
    """
    broke_off = cls in POSSIBLY_PAID and kind != "empty_response" and usage.source == "partial"
    return NO_USAGE if broke_off else usage


def status_of(reply: Reply) -> Status:
    """Return the row status of a complete reply: the first that applies of error, blocked, empty, ok."""
    if reply.finish_reason == "error":
        return "error"
    if reply.finish_reason == "content_filter":
        return "blocked"
    if not (reply.text or reply.tool_calls or reply.has_media):
        return "empty"
    return "ok"


def is_open(status: str | None, error_kind: str | None) -> bool:
    """Return whether a row still lacks a result: it is pending, or failed in a way that another attempt may mend.

    Args:
        status: Its status; None = pending.
        error_kind: Kind of the failure that ended it; None if a reply did.
    """
    return status in (None, "pending") or (status == "error" and error_kind not in RESULT_KINDS)


def usage_to_plain(usage: Usage) -> dict[str, Any]:
    """Return the journal form; None is omitted."""
    plain: dict[str, Any] = {"source": usage.source}
    for name, value in zip(_IN_PLAIN, _values_in_plain(usage), strict=True):
        if value is not None:
            plain[name] = value
    if usage.has_uncounted_media or usage.has_tools_billed_apart:
        plain |= {name: True for name in PRICE_FLAGS if getattr(usage, name)}
    return plain


USAGE_COUNTS = (
    "input_tokens", "cached_input_tokens", "cache_write_input_tokens", "output_tokens", "reasoning_tokens",
    "total_tokens",
)  # fmt: skip
PRICED_PARTS = (
    "cache_write_1h_input_tokens", "input_audio_tokens", "cached_input_audio_tokens", "output_image_tokens",
    "output_audio_tokens",
)  # fmt: skip
"""Counts that only prices need; they are in the journal and not in the tables."""
PRICE_FLAGS = ("has_uncounted_media", "has_tools_billed_apart")
"""What makes a cost unknown though the counts are known."""
_IN_PLAIN = (*USAGE_COUNTS, *PRICED_PARTS, "consistent")
_values_in_plain = operator.attrgetter(*_IN_PLAIN)


def reply_to_plain(reply: Reply) -> dict[str, Any]:
    """Return the journal form without `raw_turn`, which is parsed again from the stored body; None is omitted."""
    plain: dict[str, Any] = {"finish_reason": reply.finish_reason, "usage": usage_to_plain(reply.usage)}
    for name, value in zip(_TEXTS_IN_PLAIN, _texts_in_plain(reply), strict=True):
        if value is not None:
            plain[name] = value
    if reply.tool_calls:
        plain["tool_calls"] = [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in reply.tool_calls]
    if reply.has_media:
        plain["has_media"] = True
    if reply.is_paused:
        plain["is_paused"] = True
    if reply.media:
        plain["media"] = [one.to_plain() for one in reply.media]
    if reply.service_tier is not None:
        plain["service_tier"] = reply.service_tier
    if reply.mean_logprob is not None:
        plain["mean_logprob"] = reply.mean_logprob
    return plain


_TEXTS_IN_PLAIN = ("text", "thought", "finish_reason_raw", "blocked", "model_version", "response_id")
_texts_in_plain = operator.attrgetter(*_TEXTS_IN_PLAIN)


def reply_from_plain(plain: Mapping[str, Any]) -> Reply:
    """Build a reply from the result of `reply_to_plain`; `raw_turn` is None."""
    return Reply(
        text=plain.get("text"),
        finish_reason=plain["finish_reason"],
        finish_reason_raw=plain.get("finish_reason_raw"),
        thought=plain.get("thought"),
        tool_calls=tuple(ToolCall(**call) for call in plain.get("tool_calls", ())),
        blocked=plain.get("blocked"),
        usage=Usage(**plain["usage"]),
        model_version=plain.get("model_version"),
        response_id=plain.get("response_id"),
        has_media=plain.get("has_media", False),
        media=tuple(MediaFile(**one) for one in plain.get("media", ())),
        is_paused=plain.get("is_paused", False),
        service_tier=plain.get("service_tier"),
        mean_logprob=plain.get("mean_logprob"),
    )


def whole_reply(steps: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the reply of a turn from the plain replies of its steps, in order: at least one.

    Thoughts and tool calls are those of all steps, counts are sums, all else is the last step's.
    """
    if len(steps) == 1:
        return steps[0]
    whole = {**steps[-1], "usage": _sum_usage([step["usage"] for step in steps])}
    if thoughts := [step["thought"] for step in steps if step.get("thought")]:
        whole["thought"] = "\n\n".join(thoughts)
    if calls := [call for step in steps for call in step.get("tool_calls", ())]:
        whole["tool_calls"] = calls
    if media := [one for step in steps for one in step.get("media", ())]:
        whole["media"] = media
    return whole


def _sum_usage(usages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up plain counts; a count that one reply lacks is unknown."""
    sources = {usage["source"] for usage in usages}
    total: dict[str, Any] = {"source": sources.pop() if len(sources) == 1 else "partial"}
    for name in (*USAGE_COUNTS, *PRICED_PARTS):
        if all(name in usage for usage in usages):
            total[name] = sum(usage[name] for usage in usages)
    agree = [usage.get("consistent") for usage in usages]
    if None not in agree or False in agree:
        total["consistent"] = all(agree)
    total |= {name: True for name in PRICE_FLAGS if any(usage.get(name) for usage in usages)}
    return total


def failure_to_plain(failure: Failure) -> dict[str, Any]:
    """Return the journal form; None, false and empty values are omitted."""
    plain: dict[str, Any] = {"kind": failure.kind, "message": failure.message}
    for name in ("code", "retry_after_s", "scope", "finish_reason_raw", "should_retry", "text", "blocked"):
        value = getattr(failure, name)
        if value is not None:
            plain[name] = value
    for name in ("retryable", "structured", "no_model"):
        if getattr(failure, name):
            plain[name] = True
    if failure.usage.source != "missing":
        plain["usage"] = usage_to_plain(failure.usage)
    return plain


def failure_from_plain(plain: Mapping[str, Any]) -> Failure:
    """Build a failure from the result of `failure_to_plain`."""
    values = dict(plain)
    if "usage" in values:
        values["usage"] = Usage(**values["usage"])
    return Failure(**values)
