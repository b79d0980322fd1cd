"""The Anthropic protocol, Messages, `POST {base}/v1/messages`.

Usage: `input_tokens` excludes what was read from the cache and written to it, so input = input + cache reads + cache
writes; where a gateway's total proves that its input includes them, nothing is added. `output_tokens` includes
thinking. There is no total: it is computed. Counts of a stream are running totals: a later 0 replaces no count.

A model's turn goes back into the history with all its blocks as received (thinking, signatures, tool calls); only
empty text blocks are omitted, which the API refuses. `max_tokens` is required, so a request without a limit has
`default_max_tokens`.

A stream is merged into one complete message, which the same function parses. `message_stop` or a stop reason ends it.

Not here: the place of the key.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from convbatch.dialogue import NO_SETTINGS, Message, Settings
from convbatch.protocols.anthropic_stream import whole_message, with_block, with_delta, with_end, with_fields
from convbatch.protocols.anthropic_tools import CALL_IDS, call_message, name_calls, result_message, results_first
from convbatch.protocols.anthropic_turn import AnthropicTurn, blocks_of, sendable
from convbatch.protocols.body_fields import (
    FLAG,
    GEMINI_FIELDS,
    LIST_OF_OBJECTS,
    LIST_OF_TEXTS,
    MODEL,
    NUMBER,
    OBJECT,
    STREAMING,
    SYSTEM,
    TEXT,
    TURNS,
    BodyFields,
)
from convbatch.protocols.decoding import (
    DONE,
    count_under,
    decode_arguments,
    details_under,
    read_event,
    read_reply,
    signed_count,
    usage_of,
    word,
)
from convbatch.protocols.encoding import (
    JSON_HEADERS,
    STREAM_HEADERS,
    merge_extra,
    path_url,
    put_system_into_user,
    set_seed,
)
from convbatch.protocols.error_bodies import claims_error
from convbatch.protocols.error_mapping import classify_error, empty_response, error_in_body, stream_truncated
from convbatch.protocols.finish_reasons import finish_reason_of, is_finish
from convbatch.protocols.history_pieces import has_tools
from convbatch.protocols.media_parts import has_media, media_parts
from convbatch.protocols.model_settings import (
    UNKNOWN_MODEL,
    default_max_tokens,
    effort_of,
    refuse_settings,
    settings_of_model,
)
from convbatch.protocols.schema_subset import ANTHROPIC, refuse_schema, split_strict
from convbatch.protocols.sse import SseEvent
from convbatch.protocols.tool_declarations import declare
from convbatch.protocols.tool_history import with_call_ids
from convbatch.protocols.wire import (
    Ask,
    Draft,
    Endpoint,
    MalformedReply,
    ProtocolConfig,
    TurnFormat,
    WireRequest,
)
from convbatch.reply import HISTORY_CUT, NO_USAGE, Failure, FinishReason, Reply, Usage
from convbatch.tools import ToolCall

ANTHROPIC_VERSION = "2023-06-01"
"""Default of `anthropic_version`."""
_NO_SAMPLING_SINCE = "2026-10-21"
"""Since this version, `temperature`, `top_p` and `top_k` are refused for every model."""

# https://docs.anthropic.com/en/api/messages and the types of anthropic 2.14.0, read 2026-11-26.
_SAME_NAME = ("temperature", "top_p", "top_k", "service_tier")
_REFUSED = {
    "safety": "only the gemini protocol has it",
    "logprobs": "not part of Messages",
}
_NO_SEED = "not part of Messages; name the field of a server that knows it in seed_field"
_THINKS = frozenset({"enabled", "adaptive"})
_NO_EFFORTS = frozenset({"none", "minimal"})
_ONLY_OPENAI = "remove it, only the openai protocol has it"
_FIELDS = BodyFields(
    article="an Anthropic",
    built={"messages": TURNS, "system": SYSTEM, "model": MODEL, "stream": STREAMING},
    kinds={
        **dict.fromkeys(("max_tokens", "temperature", "top_p", "top_k"), NUMBER),
        **dict.fromkeys(("thinking", "output_config", "cache_control", "tool_choice", "metadata"), OBJECT),
        **dict.fromkeys(("service_tier", "container", "speed", "inference_geo"), TEXT),
        **dict.fromkeys(("thinking.type", "thinking.display", "output_config.effort"), TEXT),
        **dict.fromkeys(("output_config.format", "thinking.block_binding"), OBJECT),
        "thinking.budget_tokens": NUMBER,
        "tool_choice.disable_parallel_tool_use": FLAG,
        "stop_sequences": LIST_OF_TEXTS,
        **dict.fromkeys(("tools", "mcp_servers"), LIST_OF_OBJECTS),
    },
    settings={
        **{name: name for name in _SAME_NAME},
        "max_tokens": "max_output_tokens",
        "stop_sequences": "stop",
        "thinking.budget_tokens": "thinking_budget",
        "thinking.display": "include_thoughts",
        "output_config.effort": "reasoning_effort",
        "output_config.format": "response_schema",
        "cache_control": "cache",
    },
    foreign={
        **dict.fromkeys(("contents", "input", "prompt"), TURNS),
        **dict.fromkeys(("systemInstruction", "instructions"), SYSTEM),
        "stream_options": STREAMING,
        **dict.fromkeys(("max_completion_tokens", "max_output_tokens", "max_tokens_to_sample"), "max_tokens"),
        "stop": "stop_sequences",
        **dict.fromkeys(("reasoning_effort", "reasoning"), "output_config.effort"),
        **dict.fromkeys(("thinkingConfig", "thinking_budget"), "thinking.budget_tokens"),
        "thinking_level": "output_config.effort",
        "include_thoughts": "thinking.display",
        "cache": "cache_control",
        **dict.fromkeys(
            ("response_format", "responseSchema", "responseJsonSchema", "response_schema"),
            "output_config.format",
        ),
        "generationConfig": "its fields stand side by side here: temperature, top_p, max_tokens",
        **dict.fromkeys(("n", "candidateCount"), "use --repeats to ask several times"),
        "functions": "tools",
        "toolConfig": "tool_choice",
        **GEMINI_FIELDS,
        **dict.fromkeys(("presence_penalty", "frequency_penalty", "logit_bias"), _ONLY_OPENAI),
    },
)

_REPLY_KEYS = frozenset({"content", "stop_reason", "usage"})
_TEXT_BLOCKS = frozenset({None, "text", "output_text"})
_MEDIA_BLOCKS = frozenset({"image", "audio", "video"})
_FOREIGN = {
    "choices": 'an OpenAI chat answer on the Anthropic wire: protocol = "openai"?',
    "candidates": 'a Gemini answer on the Anthropic wire: protocol = "gemini"?',
    "output": 'a Responses answer on the Anthropic wire: protocol = "responses"?',
}
# The first name is Anthropic's; gateways that translate send the names of chat completions, or fill in both.
_INPUT_KEYS = ("input_tokens", "prompt_tokens")
_OUTPUT_KEYS = ("output_tokens", "completion_tokens")
_READ_KEYS = ("cache_read_input_tokens", "cached_tokens", "prompt_cache_hit_tokens")
_WRITTEN_KEYS = ("cache_creation_input_tokens", "cache_write_input_tokens")
_THINKING_KEYS = ("thinking_tokens", "reasoning_tokens")
_MODELS_PER_PAGE = 1000


class Anthropic:
    """`WireProtocol` for Messages; stateless."""

    name = "anthropic"
    turns: TurnFormat = AnthropicTurn()
    config = ProtocolConfig(
        auth="x-api-key",
        tpm_counts="uncached_input",
        keys=("anthropic_version",),
        requires_max_tokens=True,
        endpoints=("/messages", "/chat/completions", "/completions", "/responses"),
    )

    def build_request(self, ask: Ask, endpoint: Endpoint) -> WireRequest:
        """Build the request for a question; raises `CannotCarry`."""
        in_user = bool(ask.system) and endpoint.system_role == "user"
        messages = put_system_into_user(ask.messages, ask.system or "") if in_user else ask.messages
        pieces = ask.pieces_of(messages)
        encoded: Any = None if pieces is None or pieces.any(_joins) else pieces.encoded(_plain_messages)
        if encoded is None:
            messages = with_call_ids(messages, CALL_IDS, name_calls)
            encoded = results_first([_message(message) for message in messages])
        body: dict[str, Any] = {
            "model": ask.model,
            "max_tokens": ask.settings.max_output_tokens or default_max_tokens(self.name, ask.model),
            "messages": encoded,
            "stream": ask.stream,
        }
        if ask.system and not in_user:
            body["system"] = _system(ask.system, ask.settings)
        if ask.tools:
            body["tools"] = declare("anthropic", ask.tools)
        body = _applied(body, ask, endpoint)
        return WireRequest(
            method="POST",
            url=route_url(endpoint.base_url, "messages")
            if endpoint.path is None
            else path_url(endpoint.base_url, endpoint.path, ask.model),
            headers=_headers(endpoint.anthropic_version, ask.stream),
            json=body,
        )

    def parse_response(self, body: bytes) -> Reply:
        """Parse a complete reply.

        Raises:
            MalformedReply: The body is not a message.
            ErrorInBody: The body is an error, or has neither content nor a stop reason.
        """
        return _reply(read_reply(body))

    def parse_event(self, draft: Draft, event: SseEvent) -> Draft:
        """Add one event to a draft; raises `ErrorInBody` with the partial text, `MalformedReply`."""
        if event.data.strip() == DONE:
            return Draft(state={**draft.state, "done": True})
        values = read_event(event)
        if values is None:
            return draft if _is_finished(draft.state) else Draft(state={**draft.state, "cut": True})
        state = draft.state
        for value in values:
            state = _with_event(state, value, event.event)
        return draft if state is draft.state else Draft(state=state)

    def finish(self, draft: Draft) -> Reply:
        """Build the reply at the end of a stream; raises `ErrorInBody` or `MalformedReply` if it is incomplete."""
        state = draft.state
        if not _is_finished(state) or state.get("cut"):
            raise stream_truncated(_partial_text(state), _partial_usage(state))
        return _reply(whole_message(state))

    def classify_error(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """Parse an error response; never raises."""
        return classify_error(status, headers, body)

    def build_models_request(self, endpoint: Endpoint) -> WireRequest:
        """Build the request for the first page of models: 1000, the maximum."""
        url = f"{route_url(endpoint.base_url, 'models')}?limit={_MODELS_PER_PAGE}"
        return WireRequest(method="GET", url=url, headers=version_header(endpoint.anthropic_version))

    def parse_models(self, body: bytes) -> tuple[str, ...]:
        """Parse the ids of the list; also the forms of other APIs; raises `MalformedReply`."""
        value = read_reply(body)
        listed = value.get("data") or value.get("models") if isinstance(value, dict) else value
        if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
            raise MalformedReply("no list of models")
        names = (word(item.get("id")) or word(item.get("name")) for item in listed)
        return tuple(name.removeprefix("models/") for name in names if name)


# Requests


def _joins(message: Message) -> bool:
    """Whether a message may change another one: with calls of tools or their results, also as received."""
    return has_tools(message) or (isinstance(message.raw, dict) and message.raw.get("role") == "user")


def _plain_messages(message: Message) -> list[Any]:
    return [_message(message)]


def _message(message: Message) -> Any:
    if message.raw is not None:
        return sendable(message.raw)
    if message.results:
        return result_message(message.results)
    if has_media(message.parts):
        return {"role": "user", "content": media_parts("anthropic", message.parts)}
    if message.calls:
        return call_message(message)
    if len(message.parts) == 1:
        return {"role": message.role, "content": message.parts[0].text or ""}
    return {"role": message.role, "content": [{"type": "text", "text": part.text or ""} for part in message.parts]}


def _system(text: str, settings: Settings) -> Any:
    """Return the system text; with caching as a marked block, which other dialogues with the same text can read."""
    cache = _cache_control(settings)
    return text if cache is None else [{"type": "text", "text": text, "cache_control": cache}]


def _cache_control(settings: Settings) -> dict[str, str] | None:
    if settings.cache not in ("auto", "1h"):
        return None
    return {"type": "ephemeral", **({"ttl": "1h"} if settings.cache == "1h" else {})}


def _applied(body: dict[str, Any], ask: Ask, endpoint: Endpoint) -> dict[str, Any]:
    settings = ask.settings
    if settings is NO_SETTINGS:
        return body
    refused = _REFUSED if endpoint.seed_field is not None else {**_REFUSED, "seed": _NO_SEED}
    thinking = _thinking(ask.model, settings)
    others = _refusals(ask.model, settings, endpoint, thinking, body["max_tokens"])
    refuse_settings(settings, refused, "anthropic", ask.model, others)
    body |= {name: value for name in _SAME_NAME if (value := getattr(settings, name)) is not None}
    if settings.stop:
        body["stop_sequences"] = list(settings.stop)
    if thinking:
        body["thinking"] = thinking
    if output := _output_config(settings):
        body["output_config"] = output
    if (cache := _cache_control(settings)) is not None:
        body["cache_control"] = cache
    if settings.seed is not None:
        set_seed(body, settings.seed, endpoint.seed_field)
    return merge_extra(body, settings.extra, _FIELDS) if settings.extra else body


def _refusals(
    model: str, settings: Settings, endpoint: Endpoint, thinking: Mapping[str, Any], max_tokens: int
) -> Iterator[str]:
    """Yield the settings that Messages refuses for every model, or beside each other."""
    version = endpoint.anthropic_version or ANTHROPIC_VERSION
    temperature, budget, effort = settings.temperature, settings.thinking_budget or 0, effort_of(settings)
    if version >= _NO_SAMPLING_SINCE:
        for name in ("temperature", "top_p", "top_k"):
            if getattr(settings, name) is not None:
                yield f"{name} (refused with anthropic_version {version}; {ANTHROPIC_VERSION} takes it)"
    elif temperature is not None and temperature > 1:
        yield f"temperature {temperature:g} (Anthropic takes 0 to 1)"
    elif temperature not in (None, 1) and thinking.get("type") in _THINKS and _is_unknown(model):
        yield f"temperature {temperature:g} (Anthropic takes only 1 while a model thinks)"
    if effort in _NO_EFFORTS and _is_unknown(model):
        yield f"reasoning_effort {effort!r} (Anthropic takes low, medium, high, xhigh, max; thinking_budget 0 = off)"
    if budget >= max_tokens:
        yield (
            f"thinking_budget {budget} (must be less than max_output_tokens, which is {max_tokens} and holds for "
            "thinking and text together)"
        )
    if any(not text.strip() for text in settings.stop or ()):
        yield "stop (Anthropic takes no text of white space alone)"
    if settings.include_thoughts and "display" not in thinking:
        yield f"include_thoughts ({model} does not think unless thinking_budget or reasoning_effort asks for it)"


def _is_unknown(model: str) -> bool:
    return settings_of_model("anthropic", model) is UNKNOWN_MODEL


def _thinking(model: str, settings: Settings) -> dict[str, Any]:
    """Return the field `thinking`; empty where the model's default applies."""
    family, budget = settings_of_model("anthropic", model), settings.thinking_budget
    # Without a budget, an effort is the only setting that can ask a model to think which does not by itself.
    by_effort = family.always_thinks is False and family.budget == () and effort_of(settings) is not None
    if budget == 0:
        return {"type": "disabled"}
    thinking: dict[str, Any] = {}
    if budget is not None and budget > 0:
        thinking = {"type": "enabled", "budget_tokens": budget}
    elif budget is not None or by_effort:
        thinking = {"type": "adaptive"}
    if settings.include_thoughts is None or (not thinking and family.always_thinks is False):
        return thinking
    return {"type": "adaptive", **thinking, "display": "summarized" if settings.include_thoughts else "omitted"}


def _output_config(settings: Settings) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if (effort := effort_of(settings)) is not None:
        config["effort"] = effort
    if settings.response_schema is not None:
        schema, _ = split_strict(settings.response_schema)
        refuse_schema(schema, ANTHROPIC)
        config["format"] = {"type": "json_schema", "schema": schema}
    return config


@functools.lru_cache(maxsize=1024)
def route_url(base_url: str, route: str) -> str:
    """Return the URL of a route; `/v1` is not added when the base URL already ends with it."""
    return f"{base_url.rstrip('/').removesuffix('/v1')}/v1/{route}"


@functools.lru_cache(maxsize=64)
def _headers(version: str | None, stream: bool) -> Mapping[str, str]:
    own = STREAM_HEADERS if stream else JSON_HEADERS
    return MappingProxyType({**own, **version_header(version)})


def version_header(version: str | None) -> Mapping[str, str]:
    """Return the header that every request has."""
    return {"anthropic-version": version or ANTHROPIC_VERSION}


# Replies


def _reply(whole: Any) -> Reply:
    if not isinstance(whole, dict):
        if carried := error_in_body(whole):
            raise carried
        raise MalformedReply(f"a JSON {type(whole).__name__} instead of a reply")
    if claims_error(whole) and (carried := error_in_body(whole, text=_text(whole), usage=_usage(whole.get("usage")))):
        raise carried
    raw = word(whole.get("stop_reason"))
    if whole.get("content") is None and not is_finish(raw):
        _raise_without_content(whole)
    blocks = _blocks(whole)
    if not blocks and not is_finish(raw):
        raise empty_response(_usage(whole.get("usage"), was_read=True))
    text, thought = _text(whole), _thought(blocks)
    calls = tuple(_tool_call(block) for block in blocks if block.get("type") == "tool_use")
    has_media = any(word(block.get("type")) in _MEDIA_BLOCKS for block in blocks)
    finish: FinishReason = finish_reason_of(raw)
    if _is_refusal(whole.get("stop_details")):
        finish = "content_filter"
    elif calls and (finish == "stop" or not is_finish(raw)):
        finish = "tool_call"
    has_output = bool(text or thought or calls or has_media)
    usage = _usage(
        whole.get("usage"),
        was_read=finish != "content_filter" or has_output,
        has_output=has_output,
        has_media=has_media,
    )
    return Reply(
        text=None if not text and (calls or has_media) else text,
        finish_reason=finish,
        finish_reason_raw=raw,
        thought=thought,
        tool_calls=calls,
        blocked="output" if finish == "content_filter" else None,
        usage=usage,
        model_version=word(whole.get("model")),
        response_id=word(whole.get("id")),
        has_media=has_media,
        is_paused=raw == "pause_turn",
        service_tier=_service_tier(whole.get("usage")),
        history_note=_history_note(whole.get("input_transformations")),
        finish_note=_finish_note(whole.get("stop_details")),
        raw_turn=_raw_turn(whole.get("content"), blocks),
    )


def _raise_without_content(whole: Mapping[str, Any]) -> NoReturn:
    if carried := error_in_body(whole):
        raise carried
    for key, message in _FOREIGN.items():
        if key in whole:
            raise MalformedReply(message)
    if _REPLY_KEYS.isdisjoint(whole):
        raise MalformedReply(f"a JSON object that is not a reply (keys: {', '.join(list(whole)[:8]) or 'none'})")
    raise empty_response(_usage(whole.get("usage"), was_read=True))


def _blocks(whole: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    blocks = blocks_of(whole.get("content"))
    if blocks is None:
        raise MalformedReply(f"a message whose content is a JSON {type(whole['content']).__name__}, no list of blocks")
    return blocks


def _raw_turn(content: Any, blocks: list[Mapping[str, Any]]) -> Any:
    if content is None:
        return None
    is_usual = isinstance(content, str) or all(isinstance(block, dict) for block in content)
    return {"role": "assistant", "content": content if is_usual else blocks}


def _text(whole: Mapping[str, Any]) -> str | None:
    """Return the visible text; None if the message has no content at all."""
    blocks = blocks_of(whole.get("content"))
    if not blocks:
        return None if whole.get("content") is None else ""
    texts = (block.get("text") for block in blocks if word(block.get("type")) in _TEXT_BLOCKS)
    return "".join(text for text in texts if isinstance(text, str))


def _thought(blocks: list[Mapping[str, Any]]) -> str | None:
    """Return the thinking; "" if the provider omitted its text, None without any."""
    thoughts = [block.get("thinking") for block in blocks if block.get("type") == "thinking"]
    known = [thought for thought in thoughts if isinstance(thought, str)]
    return "\n\n".join(filter(None, known)) if known else None


def _tool_call(block: Mapping[str, Any]) -> ToolCall:
    arguments = decode_arguments(block.get("input"))
    return ToolCall(
        id=word(block.get("id")), name=word(block.get("name")) or "", arguments={} if arguments is None else arguments
    )


def _service_tier(counts: Any) -> str | None:
    return word(counts.get("service_tier")) if isinstance(counts, dict) else None


def _history_note(transformations: Any) -> str | None:
    """Return what the provider removed from the history before the model saw it."""
    removed = list(_objects(transformations))
    if not removed:
        return None
    reasons = ", ".join(dict.fromkeys(str(entry.get("reason") or "no reason given") for entry in removed))
    blocks = "1 thinking block" if len(removed) == 1 else f"{len(removed)} thinking blocks"
    return f"{HISTORY_CUT} {blocks} from the history ({reasons})"


def _is_refusal(details: Any) -> bool:
    return isinstance(details, dict) and details.get("type") == "refusal"


def _finish_note(details: Any) -> str | None:
    """Return why the model refused, as the provider explains it."""
    if not isinstance(details, dict) or details.get("type") not in (None, "refusal"):
        return None
    category, explanation = word(details.get("category")), word(details.get("explanation"))
    if category is None and explanation is None:
        return None
    return f"refused{'' if category is None else f' as {category}'}{'' if explanation is None else f': {explanation}'}"


def _objects(values: Any) -> Iterator[Mapping[str, Any]]:
    return (value for value in values if isinstance(value, dict)) if isinstance(values, list) else iter(())


# Usage


def _usage(counts: Any, *, was_read: bool = False, has_output: bool = False, has_media: bool = False) -> Usage:
    if not isinstance(counts, dict) or not counts:
        return NO_USAGE
    details = details_under(counts, "prompt_tokens_details", "input_tokens_details")
    taken = details_under(counts, "output_tokens_details", "completion_tokens_details")
    read = _part((counts, _READ_KEYS), (details, ("cached_tokens",)))
    written, written_1h = _written(counts)
    given, output = count_under(counts, _INPUT_KEYS), count_under(counts, _OUTPUT_KEYS)
    total = signed_count(counts.get("total_tokens")) or None
    if not _includes_cached(counts, given, output, total):
        given = _sum(given, read, written)
    sent = Usage(
        input_tokens=given,
        cached_input_tokens=read,
        cache_write_input_tokens=written,
        output_tokens=output,
        reasoning_tokens=_part((taken, _THINKING_KEYS), (counts, _THINKING_KEYS)),
        total_tokens=total,
        cache_write_1h_input_tokens=written_1h,
        has_uncounted_media=has_media,
    )
    usage = usage_of(sent, was_read=was_read, has_output=has_output)
    if usage.total_tokens is None and usage.input_tokens is not None and usage.output_tokens is not None:
        return usage._replace(total_tokens=usage.input_tokens + usage.output_tokens)
    return usage


def _includes_cached(counts: Mapping[str, Any], given: int | None, output: int | None, total: int | None) -> bool:
    """Whether the input includes cached tokens: it has the name of chat completions, or the total proves it."""
    prompt = signed_count(counts.get("prompt_tokens"))
    if prompt and signed_count(counts.get("input_tokens")) in (None, 0, prompt):
        return True
    return given is not None and output is not None and given + output == total


def _written(counts: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the cache writes, and the part of them that is kept for one hour."""
    apart = details_under(counts, "cache_creation")
    five_minutes = _part((apart, ("ephemeral_5m_input_tokens",)), (counts, ("claude_cache_creation_5_m_tokens",)))
    hour = _part((apart, ("ephemeral_1h_input_tokens",)), (counts, ("claude_cache_creation_1_h_tokens",)))
    written = _part((counts, _WRITTEN_KEYS))
    if not written and not (five_minutes is None and hour is None):
        written = _sum(five_minutes or 0, hour)
    return written, hour


def _part(*places: tuple[Mapping[str, Any], tuple[str, ...]]) -> int | None:
    """Return the count at the first place that has a value; it may be negative."""
    return next(
        (signed_count(holder[name]) for holder, names in places for name in names if holder.get(name) is not None), None
    )


def _sum(one: int | None, *others: int | None) -> int | None:
    """Return a sum; None if the first is unknown, and a negative summand if there is one, for `usage_of` to judge."""
    if one is None:
        return None
    known = [one, *(other for other in others if other is not None)]
    return min(known) if min(known) < 0 else sum(known)


# Streams


def _with_event(state: Mapping[str, Any], value: Any, name: str) -> Mapping[str, Any]:
    """Return the state of a stream with one more event.

    Its keys: `message` (all but the content), `blocks` (each `[index, block]`, in the order of their start), `done`,
    `cut`.
    """
    if not isinstance(value, dict):
        raise MalformedReply(f"a JSON {type(value).__name__} in the stream")
    kind = word(value.get("type")) or name
    if state.get("done") or (kind == "error" and _is_finished(state)):
        return state  # the message is complete, whatever follows it
    match kind:
        case "message_start":  # a second one begins anew: a gateway asked another upstream
            return {**state, "message": with_fields({}, value.get("message")), "blocks": []}
        case "content_block_start":
            return with_block(state, value.get("index"), value.get("content_block"))
        case "content_block_delta":
            return with_delta(state, value.get("index"), value.get("delta"))
        case "message_delta":
            return with_end(state, value)
        case "message_stop":
            return {**state, "done": True}
        case "message":
            return {**state, "message": value, "done": True}  # a message that is not streamed
        case "ping" | "content_block_stop":
            return state
        case _:
            _raise_foreign(state, value, kind)
            return state


def _raise_foreign(state: Mapping[str, Any], value: Mapping[str, Any], kind: str) -> None:
    """Raise for an event that is an error before the end, or of another API."""
    if kind == "error" or claims_error(value):
        if _is_finished(state):
            return  # the reply is complete
        text, usage = _partial_text(state), _partial_usage(state)
        raise error_in_body(value, text=text, usage=usage) or stream_truncated(text, usage)
    for key, message in _FOREIGN.items():
        if key in value:
            raise MalformedReply(message)


def _is_finished(state: Mapping[str, Any]) -> bool:
    return bool(state.get("done")) or is_finish((state.get("message") or {}).get("stop_reason"))


def _partial_text(state: Mapping[str, Any]) -> str | None:
    return _text(whole_message(state)) or None


def _partial_usage(state: Mapping[str, Any]) -> Usage:
    """Usage of an incomplete stream: its counts are running totals, so the source is at most `partial`."""
    usage = _usage((state.get("message") or {}).get("usage"))
    return usage if usage.source == "missing" else usage._replace(source="partial")
