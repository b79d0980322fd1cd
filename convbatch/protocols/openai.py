"""The OpenAI protocol, `chat/completions`, of OpenAI and the many compatible servers.

Usage: `completion_tokens` includes reasoning and `prompt_tokens` includes cached tokens. A few vendors exclude
reasoning, or what was read from a cache and written to it; they are added where the reported total proves that.

A model's turn goes back into the history as received (with `tool_calls`, `reasoning_content`, `reasoning_details` and
unknown keys: DeepSeek and OpenRouter require theirs, others ignore them), except for what the API refuses as input: an
empty `tool_calls` list is omitted, an `audio` object is reduced to its id, and a missing `role` is added.

A stream is merged into one complete body, which the same function parses. `[DONE]` or a finish reason ends it.

Not here: the place of the key; this protocol has no `api_version`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from convbatch.dialogue import NO_SETTINGS, Message
from convbatch.protocols.body_fields import (
    FLAG,
    FLAG_OR_NUMBER,
    GEMINI_FIELDS,
    LIST_OF_OBJECTS,
    LIST_OF_TEXTS,
    MODEL,
    NUMBER,
    OBJECT,
    STREAMING,
    SYSTEM,
    TEXT,
    TEXT_OR_LIST,
    TEXT_OR_NUMBER,
    TEXT_OR_OBJECT,
    TURNS,
    BodyFields,
)
from convbatch.protocols.decoding import (
    DONE,
    count_under,
    decode_arguments,
    details_under,
    first_of,
    mean_logprob,
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
    refuse_cache_control,
    set_seed,
)
from convbatch.protocols.error_bodies import claims_error
from convbatch.protocols.error_mapping import classify_error, empty_response, error_in_body, stream_truncated
from convbatch.protocols.finish_reasons import deciding_word, finish_reason_of, is_finish
from convbatch.protocols.growing import BATCH, merged, settled
from convbatch.protocols.history_pieces import has_tools
from convbatch.protocols.media_parts import has_media, media_parts
from convbatch.protocols.model_settings import effort_of, refuse_settings
from convbatch.protocols.openai_stream import ChatMerge, without_call_indexes
from convbatch.protocols.openai_tools import (
    call_ids,
    call_message,
    dummy_note,
    is_gemini,
    name_calls,
    result_messages,
)
from convbatch.protocols.openai_turn import OpenAITurn
from convbatch.protocols.schema_subset import named_schema
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
from convbatch.reply import NO_USAGE, Failure, FinishReason, Reply, Usage
from convbatch.tools import ToolCall

MAX_OUTPUT_TOKENS_FIELD = "max_tokens"
"""Default: deprecated at OpenAI, but the only name that most compatible servers know."""

# Settings whose field has the same name. https://platform.openai.com/docs/api-reference/chat/create, read 2026-11-21.
_SAME_NAME = ("temperature", "top_p", "service_tier")
_REFUSED = {
    "top_k": 'not part of chat completions; for a server that knows it, use extra = {"top_k": ...}',
    "thinking_budget": 'use reasoning_effort, or a field of the server in extra, e.g. {"thinking_budget": ...}',
    "include_thoughts": "use a field of the server in extra",
    "safety": "only the gemini protocol has it",
}
# Fields of requests, also of servers that are compatible with OpenAI's; read 2026-11-26 at the page above. `thinking`,
# `reasoning`, `top_k` and others have no row: some servers know them.
_FIELDS = BodyFields(
    article="an OpenAI chat",
    built={"messages": TURNS, "model": MODEL, "stream": STREAMING, "stream_options": STREAMING},
    kinds={
        **dict.fromkeys(("temperature", "top_p", "frequency_penalty", "presence_penalty"), NUMBER),
        **dict.fromkeys(("max_tokens", "max_completion_tokens", "seed", "top_logprobs", "n"), NUMBER),
        **dict.fromkeys(("user", "verbosity", "safety_identifier", "prompt_cache_key", "service_tier"), TEXT),
        **dict.fromkeys(("parallel_tool_calls", "store"), FLAG),
        **dict.fromkeys(("metadata", "logit_bias", "audio", "prediction", "web_search_options"), OBJECT),
        **dict.fromkeys(("tools", "functions"), LIST_OF_OBJECTS),
        **dict.fromkeys(("tool_choice", "function_call"), TEXT_OR_OBJECT),
        "modalities": LIST_OF_TEXTS,
        "stop": TEXT_OR_LIST,
        "logprobs": FLAG_OR_NUMBER,
        "reasoning_effort": TEXT_OR_NUMBER,
        "response_format": OBJECT._replace(example=".type=json_object"),
    },
    settings={
        **{name: name for name in ("temperature", "top_p", "stop", "seed", "service_tier", "reasoning_effort")},
        **dict.fromkeys(("max_tokens", "max_completion_tokens"), "max_output_tokens"),
        "response_format": "response_schema",
        "top_logprobs": "logprobs",
    },
    foreign={
        **dict.fromkeys(("contents", "input", "prompt"), TURNS),
        **dict.fromkeys(("system", "systemInstruction", "instructions"), SYSTEM),
        **dict.fromkeys(("max_output_tokens", "max_tokens_to_sample"), "max_tokens"),
        **dict.fromkeys(("responseMimeType", "responseSchema", "responseJsonSchema"), "response_format"),
        "stop_sequences": "stop",
        "candidateCount": "n",
        "responseModalities": "modalities",
        "responseLogprobs": "logprobs",
        "toolConfig": "tool_choice",
        "generationConfig": "its fields stand side by side here: temperature, top_p, max_tokens",
        **GEMINI_FIELDS,
    },
    single=frozenset({"n"}),
)

_REPLY_KEYS = frozenset({"choices", "usage"})
# Counts under the names of OpenAI's two APIs, DeepSeek, Kimi, Anthropic (as LiteLLM and others pass them on) and
# new-api; read 2026-11-26.
_INPUT_KEYS = ("prompt_tokens", "input_tokens")
_OUTPUT_KEYS = ("completion_tokens", "output_tokens")
_CACHED_KEYS = ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens", "cache_read_tokens")
_WRITTEN_KEYS = (
    "cache_write_tokens",
    "cache_creation_tokens",
    "cached_creation_tokens",
    "cache_creation_input_tokens",
    "cache_write_input_tokens",
)
_REASONING_KEYS = ("reasoning_tokens", "thinking_tokens")
_OTHER_FINISH_KEYS = ("finishReason", "finish_details", "stop_reason", "done_reason")
_THOUGHT_PARTS = frozenset({"thinking", "reasoning"})
_TEXT_PARTS = frozenset({"text", "output_text"})
_MEDIA_PARTS = frozenset({"image_url", "output_image", "audio", "output_audio", "file"})


class OpenAI:
    """`WireProtocol` for chat completions; stateless."""

    name = "openai"
    turns: TurnFormat = OpenAITurn()
    config = ProtocolConfig(
        auth="bearer",
        tpm_counts="input+max_output",
        keys=("max_output_tokens_field",),
        system_roles=("system", "developer", "user"),
        # The last two belong to other APIs of the same hosts.
        endpoints=("/chat/completions", "/completions", "/responses", "/messages"),
    )

    def build_request(self, ask: Ask, endpoint: Endpoint) -> WireRequest:
        """Build the request for a question; raises `CannotCarry`."""
        asked, role = ask.messages, endpoint.system_role or "system"
        if ask.system and role == "user":
            asked = put_system_into_user(asked, ask.system)
        pieces = ask.pieces_of(asked)
        system = {"role": role, "content": ask.system} if ask.system and role != "user" else None
        is_google = is_gemini(ask.model)
        messages: Any = None
        if pieces is not None and not pieces.any(has_tools):
            messages = pieces.encoded(_plain_messages, system)
        if messages is None:
            asked = with_call_ids(asked, call_ids(ask.model), name_calls)
            messages = [item for message in asked for item in _messages(message, is_google)]
            if system is not None:
                messages.insert(0, system)
        # `stream` always: some servers stream unless it is false.
        body: dict[str, Any] = {"model": ask.model, "messages": messages, "stream": ask.stream}
        if ask.stream:
            body["stream_options"] = {"include_usage": True}
        if ask.tools:
            body["tools"] = declare("openai", ask.tools)
        body = _applied(body, ask, endpoint)
        return WireRequest(
            method="POST",
            url=_url(endpoint.base_url, "chat/completions")
            if endpoint.path is None
            else path_url(endpoint.base_url, endpoint.path, ask.model),
            headers=STREAM_HEADERS if ask.stream else JSON_HEADERS,
            json=body,
            note=dummy_note(asked) if is_google else None,
        )

    def parse_response(self, body: bytes) -> Reply:
        """Parse a complete reply.

        Raises:
            MalformedReply: The body is not a reply.
            ErrorInBody: The body or its choice has an error, or there is no choice.
        """
        return _reply(read_reply(body))

    def parse_event(self, draft: Draft, event: SseEvent) -> Draft:
        """Add one event to a draft; raises `ErrorInBody` with the partial text, `MalformedReply`."""
        if event.data.strip() == DONE:
            return Draft(state={**draft.state, "done": True})
        values = read_event(event)
        if values is None:
            return (
                draft
                if _is_finished(draft, merged(draft.state, ChatMerge))
                else Draft(state={**draft.state, "cut": True})
            )
        return _folded(draft, values)

    def finish(self, draft: Draft) -> Reply:
        """Build the reply at the end of a stream; raises `ErrorInBody` or `MalformedReply` if it is incomplete."""
        if not draft.state.keys() & {"whole", "new"}:
            raise stream_truncated(None, NO_USAGE)
        whole = settled(merged(draft.state, ChatMerge))
        if draft.state.get("cut") or (whole.get("choices") and not _is_finished(draft, whole)):
            raise stream_truncated(_partial_text(whole), _partial_usage(whole))
        return _reply(without_call_indexes(whole))

    def classify_error(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """Parse an error response; never raises."""
        return classify_error(status, headers, body)

    def build_models_request(self, endpoint: Endpoint) -> WireRequest:
        """Build the request for all models; this route has no pages."""
        return WireRequest(method="GET", url=_url(endpoint.base_url, "models"), headers={})

    def parse_models(self, body: bytes) -> tuple[str, ...]:
        """Parse the ids of the list, which some servers send without the enclosing object; raises `MalformedReply`."""
        value = read_reply(body)
        listed = value.get("data") if isinstance(value, dict) else value
        if not isinstance(listed, list):
            raise MalformedReply("no list of models")
        return tuple(name for name in map(_model_name, listed) if name)


def _plain_messages(message: Message) -> list[Any]:
    """Return a message without calls of tools in the form of the wire."""
    return _messages(message, is_google=False)


def _messages(message: Message, is_google: bool) -> list[Any]:
    """Return a message in the form of the wire, the results of tools as one message each."""
    if message.raw is not None:
        return [_replayed(message.raw)]
    if message.results:
        return result_messages(message.results)
    if has_media(message.parts):
        return [{"role": "user", "content": media_parts("openai", message.parts)}]
    content: Any = [{"type": "text", "text": part.text or ""} for part in message.parts]
    if len(message.parts) == 1:
        content = message.parts[0].text or ""
    if message.calls:
        return [call_message(content or None, message.calls, is_google=is_google)]
    return [{"role": message.role, "content": content}]


def _replayed(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    audio = raw.get("audio")
    if raw.get("role") and raw.get("tool_calls") != [] and not audio:
        return raw
    message: dict[str, Any] = {
        "role": "assistant",
        **{key: value for key, value in raw.items() if key != "role" or value},
    }
    if message.get("tool_calls") == []:
        del message["tool_calls"]
    if isinstance(audio, dict) and "id" in audio:
        message["audio"] = {"id": audio["id"]}
    return message


def _applied(body: dict[str, Any], ask: Ask, endpoint: Endpoint) -> dict[str, Any]:
    settings = ask.settings
    if settings is NO_SETTINGS:
        return body
    refuse_settings(settings, _REFUSED, "openai", ask.model)
    refuse_cache_control(settings, "OpenAI")
    body |= {name: value for name in _SAME_NAME if (value := getattr(settings, name)) is not None}
    if (effort := effort_of(settings)) is not None:
        body["reasoning_effort"] = effort
    if settings.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": settings.logprobs}
    if settings.max_output_tokens is not None:
        body[endpoint.max_output_tokens_field or MAX_OUTPUT_TOKENS_FIELD] = settings.max_output_tokens
    if settings.stop:
        body["stop"] = list(settings.stop)
    if settings.response_schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": named_schema(settings.response_schema)}
    if settings.seed is not None:
        set_seed(body, settings.seed, endpoint.seed_field)
    return merge_extra(body, settings.extra, _FIELDS) if settings.extra else body


@functools.lru_cache(maxsize=1024)
def _url(base_url: str, route: str) -> str:
    return f"{base_url.rstrip('/')}/{route}"


def _model_name(listed: Any) -> str | None:
    if not isinstance(listed, dict):
        raise MalformedReply("a list of models that contains no objects")
    return word(listed.get("id")) or word(listed.get("name"))


def _reply(whole: Any) -> Reply:
    if not isinstance(whole, dict):
        if carried := error_in_body(whole):
            raise carried
        raise MalformedReply(f"a JSON {type(whole).__name__} instead of a reply")
    choice = _choice(whole)
    if choice is None:
        _raise_without_choice(whole)
    _raise_carried(whole, choice)
    message = choice.get("message")
    text, thought, calls, has_media = _read_message(message)
    has_output = bool(text or thought or calls or has_media)
    raw = _finish_word(choice)
    refused = bool(message) and bool(message.get("refusal"))
    finish: FinishReason = finish_reason_of(raw)
    if refused:
        finish = "content_filter"
    elif calls and (not is_finish(raw) or finish == "stop"):
        finish = "tool_call"
    return Reply(
        text=None if not text and (calls or has_media or refused) else text,
        finish_reason=finish,
        finish_reason_raw=raw,
        thought=thought,
        tool_calls=calls,
        blocked="output" if finish == "content_filter" else None,
        usage=_usage(
            _sent_usage(whole, choice),
            was_read=finish != "content_filter" or has_output,
            has_output=has_output,
            has_media=has_media,
        ),
        model_version=word(whole.get("model")),
        response_id=word(whole.get("id")),
        has_media=has_media,
        service_tier=word(whole.get("service_tier")),
        mean_logprob=_mean_logprob(choice),
        raw_turn=message,
    )


def _mean_logprob(choice: Mapping[str, Any]) -> float | None:
    logprobs = choice.get("logprobs")
    return mean_logprob(logprobs.get("content"), "logprob") if isinstance(logprobs, dict) else None


def _choice(whole: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the choice to read; None also when it has neither content nor finish reason."""
    choices = whole.get("choices")
    if not choices:
        return None
    if not isinstance(choices, list):
        raise MalformedReply("choices is not a list")
    choice = first_of(choices, "choices")
    silent = choice.get("message") is None and not is_finish(choice.get("finish_reason")) and not choice.get("error")
    return None if silent else choice


def _finish_word(choice: Mapping[str, Any]) -> str | None:
    """Return the finish reason in the gateway's words; under another name only where it has none of its own."""
    own = deciding_word(choice.get(name) for name in ("finish_reason", "native_finish_reason"))
    if is_finish(own):
        return own
    # vLLM's `stop_reason` may also be the text or the token that ended the reply.
    other = deciding_word(choice.get(name) for name in _OTHER_FINISH_KEYS)
    return own if finish_reason_of(other) == "other" else other


def _raise_carried(whole: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
    for holder in (whole, {"error": choice.get("error"), "choices": [choice]}):
        if claims_error(holder) and (
            carried := error_in_body(
                holder,
                text=_partial_text({"choices": [choice]}),
                usage=_usage(whole.get("usage")),
                finish_reason_raw=_finish_word(choice),
            )
        ):
            raise carried


def _raise_without_choice(whole: Mapping[str, Any]) -> NoReturn:
    if carried := error_in_body(whole):
        raise carried
    if _REPLY_KEYS.isdisjoint(whole):
        raise MalformedReply(f"a JSON object that is not a reply (keys: {', '.join(list(whole)[:8]) or 'none'})")
    raise empty_response(_usage(whole.get("usage"), was_read=True))


def _read_message(message: Any) -> tuple[str | None, str | None, tuple[ToolCall, ...], bool]:
    """Return visible text, thought and tool calls of an assistant message, and whether it has media."""
    if message is None:
        return None, None, (), False
    if not isinstance(message, dict):
        raise MalformedReply("a choice whose message is not an object")
    thought = word(message.get("reasoning_content")) or word(message.get("reasoning"))
    has_media = bool(message.get("audio")) or bool(message.get("images"))
    content = message.get("content")
    if isinstance(content, list):
        content, inner_thought, inner_media = _read_parts(content)
        thought, has_media = thought or inner_thought, has_media or inner_media
    elif not isinstance(content, str | None):
        raise MalformedReply(f"a message whose content is a JSON {type(content).__name__}")
    return content, thought, _tool_calls(message), has_media


def _read_parts(parts: list[Any]) -> tuple[str, str | None, bool]:
    texts: list[str] = []
    thoughts: list[str] = []
    has_media = False
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, dict):
            raise MalformedReply("a message whose content contains no parts")
        kind = word(part.get("type"))
        if kind in _THOUGHT_PARTS:
            thoughts.append(_thinking_text(part))
        elif isinstance(part.get("text"), str) and (kind is None or kind in _TEXT_PARTS):
            texts.append(part["text"])
        elif kind in _MEDIA_PARTS:
            has_media = True
    return "".join(texts), "".join(thoughts) or None, has_media


def _thinking_text(part: Mapping[str, Any]) -> str:
    """Return the text of a thinking part: Mistral nests parts under `thinking`, others have it beside `type`."""
    inner = part.get("thinking") or part.get("text") or part.get("reasoning")
    if isinstance(inner, list):
        return "".join(item["text"] for item in inner if isinstance(item, dict) and isinstance(item.get("text"), str))
    return inner if isinstance(inner, str) else ""


def _tool_calls(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    listed = message.get("tool_calls")
    if not listed:
        old = message.get("function_call")
        return (_tool_call(None, old),) if isinstance(old, dict) else ()
    if not isinstance(listed, list) or not all(isinstance(call, dict) for call in listed):
        raise MalformedReply("a message whose tool_calls is not a list of calls")
    return tuple(_tool_call(call.get("id"), call.get("function") or call.get("custom")) for call in listed)


def _tool_call(call_id: Any, function: Any) -> ToolCall:
    if not isinstance(function, dict):
        raise MalformedReply("a tool call without its function")
    arguments = decode_arguments(function.get("arguments", function.get("input")))
    return ToolCall(id=word(call_id), name=word(function.get("name")) or "", arguments=arguments)


def _sent_usage(whole: Mapping[str, Any], choice: Mapping[str, Any]) -> Any:
    """Return the usage object; Kimi's streams have it in the choice."""
    return whole.get("usage") or choice.get("usage")


def _usage(counts: Any, *, was_read: bool = False, has_output: bool = False, has_media: bool = False) -> Usage:
    if not isinstance(counts, dict) or not counts:
        return NO_USAGE
    prompt, output = count_under(counts, _INPUT_KEYS), count_under(counts, _OUTPUT_KEYS)
    total = signed_count(counts.get("total_tokens"))
    input_details = details_under(counts, "prompt_tokens_details", "input_tokens_details")
    output_details = details_under(counts, "completion_tokens_details", "output_tokens_details")
    cached = _part((input_details, "cached_tokens"), *((counts, name) for name in _CACHED_KEYS))
    written, written_1h = _written(counts, input_details)
    reasoning = _part(*((holder, name) for holder in (output_details, counts) for name in _REASONING_KEYS))
    if prompt is not None and output is not None and min(prompt, output) >= 0:
        apart = max(cached or 0, 0) + max(written or 0, 0)
        beside = max(reasoning or 0, 0)
        missing = (total or 0) - prompt - output
        if beside and missing in (beside, beside + apart):
            output, missing = output + beside, missing - beside
        # Anthropic's own form has no total, and its input excludes what was read from the cache or written to it.
        if apart and (missing == apart or (total is None and "prompt_tokens" not in counts)):
            prompt += apart
    images, audio = (_part((output_details, name)) for name in ("image_tokens", "audio_tokens"))
    sent = Usage(
        input_tokens=prompt,
        cached_input_tokens=cached,
        cache_write_input_tokens=written,
        cache_write_1h_input_tokens=written_1h,
        output_tokens=output,
        reasoning_tokens=reasoning,
        total_tokens=total,
        input_audio_tokens=_part((input_details, "audio_tokens")),
        output_image_tokens=images,
        output_audio_tokens=audio,
        has_uncounted_media=has_media and not (images or audio),
    )
    return usage_of(sent, was_read=was_read, has_output=has_output)


def _written(counts: Mapping[str, Any], details: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the cache writes, and the part of them that is kept for one hour."""
    apart = details_under(counts, "cache_creation") or details_under(details, "cache_creation_token_details")
    five_minutes = _part((apart, "ephemeral_5m_input_tokens"), (counts, "claude_cache_creation_5_m_tokens"))
    hour = _part((apart, "ephemeral_1h_input_tokens"), (counts, "claude_cache_creation_1_h_tokens"))
    written = _part(*((holder, name) for holder in (details, counts) for name in _WRITTEN_KEYS))
    if written is None and not (five_minutes is None and hour is None):
        written = (five_minutes or 0) + (hour or 0)
    return written, hour


def _part(*places: tuple[Mapping[str, Any], str]) -> int | None:
    """Return the count at the first place that has a value; it may be negative."""
    return next((signed_count(holder[name]) for holder, name in places if holder.get(name) is not None), None)


def _folded(draft: Draft, chunks: Iterable[Any]) -> Draft:
    """Add chunks to a draft; its state has `whole` (the body so far), `new` chunks, `done` and `cut`."""
    state = dict(draft.state)
    for chunk in chunks:
        if not isinstance(chunk, dict):
            raise MalformedReply(f"a JSON {type(chunk).__name__} in the stream")
        new = state["new"] = (*state.get("new", ()), chunk)
        if (may_fail := _may_fail(chunk)) or len(new) == BATCH:
            state["whole"] = merged(state, ChatMerge)
            del state["new"]
            if may_fail:
                _raise_in_stream(settled(state["whole"]), chunk)
    return Draft(state=state)


def _may_fail(chunk: Mapping[str, Any]) -> bool:
    """Whether a chunk may have an error, beside its choices or in one."""
    choices = chunk.get("choices")
    return claims_error(chunk) or (
        isinstance(choices, list) and any(isinstance(choice, dict) and choice.get("error") for choice in choices)
    )


def _raise_in_stream(whole: Mapping[str, Any], chunk: Mapping[str, Any]) -> None:
    choices = whole.get("choices") or [{}]
    for holder in (chunk, choices[0]) if choices[0].get("error") else (chunk,):
        if claims_error(holder) and (
            carried := error_in_body(
                holder,
                text=_partial_text(whole),
                usage=_partial_usage(whole),
                finish_reason_raw=_finish_word(choices[0]),
            )
        ):
            raise carried


def _is_finished(draft: Draft, whole: Mapping[str, Any]) -> bool:
    choices = whole.get("choices")
    return bool(draft.state.get("done")) or bool(choices and is_finish(choices[0].get("finish_reason")))


def _partial_text(whole: Mapping[str, Any]) -> str | None:
    choices = whole.get("choices")
    message = choices[0].get("message") if choices else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        content = _read_parts(content)[0]
    return content if isinstance(content, str) else None


def _partial_usage(whole: Mapping[str, Any]) -> Usage:
    """Usage of an incomplete stream: its counts are running totals, so the source is at most `partial`."""
    usage = _usage(whole.get("usage"))
    return usage if usage.source == "missing" else usage._replace(source="partial")
