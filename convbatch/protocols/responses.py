"""The Responses protocol of OpenAI, `POST {base}/responses`.

Stateless by default: every request has `store: false` and the whole history. A model's turn is its list of output items
and goes back in place, with ids, `phase` and encrypted reasoning as received, except for reasoning that the API
refuses: at the end of a turn, or without its content. The system text is `instructions`, unless `system_role` says
otherwise. With `replay = "stored"` a request has `store: true`, and in place of what came before the id of the last
response; `instructions` are sent each time, because they are not part of what is kept.

Usage: `input_tokens` includes cached tokens and cache writes, `output_tokens` includes reasoning. Generated images are
counted and billed apart (`tool_usage`), at prices of a model that the reply does not name: such a reply has no cost.

A stream ends with an event that has the whole response, which is parsed as if it had come alone. Where its `output` is
empty, the items of `response.output_item.done` take its place; deltas are the partial text of a stream that broke off.

Not here: the place of the key, background responses.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from convbatch.dialogue import NO_SETTINGS, Message, Settings
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
    TEXT_OR_OBJECT,
    TURNS,
    BodyFields,
)
from convbatch.protocols.decoding import (
    DONE,
    count_under,
    decode_arguments,
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
from convbatch.protocols.error_codes import REFUSAL_CODES, plain
from convbatch.protocols.error_mapping import classify_error, empty_response, error_in_body, stream_truncated
from convbatch.protocols.finish_reasons import finish_reason_of, is_finish
from convbatch.protocols.growing import settled, with_text
from convbatch.protocols.history_pieces import has_tools
from convbatch.protocols.media_parts import has_media, media_parts
from convbatch.protocols.model_settings import UNKNOWN_MODEL, effort_of, refuse_settings, settings_of_model
from convbatch.protocols.openai import OpenAI
from convbatch.protocols.responses_stored import NOT_STORED, NOTHING_STORED, last_stored
from convbatch.protocols.responses_tools import CALL_IDS, call_items, name_calls, result_items
from convbatch.protocols.responses_turn import ResponsesTurn, is_message, sendable, text_messages, texts_of
from convbatch.protocols.schema_subset import named_schema
from convbatch.protocols.sse import SseEvent
from convbatch.protocols.tool_declarations import declare
from convbatch.protocols.tool_history import with_call_ids
from convbatch.protocols.wire import (
    Ask,
    Draft,
    Endpoint,
    ErrorInBody,
    MalformedReply,
    ProtocolConfig,
    TurnFormat,
    WireRequest,
)
from convbatch.reply import HISTORY_CUT, NO_USAGE, Failure, FinishReason, Reply, Usage
from convbatch.tools import ToolCall

# https://platform.openai.com/docs/api-reference/responses/create and openai 3.57.0 types/responses, read 2026-11-26.
_SAME_NAME = ("temperature", "top_p", "max_output_tokens", "service_tier")
_REFUSED = {
    "top_k": 'not part of Responses; for a server that knows it, use extra = {"top_k": ...}',
    "stop": 'not part of Responses; use protocol = "openai"',
    "thinking_budget": "use reasoning_effort",
    "safety": "only the gemini protocol has it",
}
_LEAST_OUTPUT = 16
_NO_SEED = 'not part of Responses; use protocol = "openai", or name the field of a server that knows it in seed_field'
_WHOLE_HISTORY = 'each request contains the whole history; replay = "stored" for this gateway sends an id instead'
_ONLY_CHAT = 'remove it, or use protocol = "openai"'
_FIELDS = BodyFields(
    article="a Responses",
    built={
        "input": TURNS,
        "instructions": SYSTEM,
        "model": MODEL,
        "stream": STREAMING,
        "stream_options": STREAMING,
        "include": "encrypted reasoning is always asked for, log probabilities with the setting logprobs",
        **dict.fromkeys(("store", "previous_response_id", "conversation"), _WHOLE_HISTORY),
        "background": "background responses are not supported",
    },
    kinds={
        **dict.fromkeys(("temperature", "top_p", "max_output_tokens", "top_logprobs", "max_tool_calls"), NUMBER),
        **dict.fromkeys(("user", "safety_identifier", "prompt_cache_key", "service_tier", "truncation"), TEXT),
        **dict.fromkeys(("metadata", "reasoning", "text", "text.format"), OBJECT),
        **dict.fromkeys(("tools", "context_management"), LIST_OF_OBJECTS),
        **dict.fromkeys(("reasoning.effort", "reasoning.summary", "reasoning.context", "text.verbosity"), TEXT),
        "parallel_tool_calls": FLAG,
        "tool_choice": TEXT_OR_OBJECT,
        "modalities": LIST_OF_TEXTS,
    },
    settings={
        **{name: name for name in ("temperature", "top_p", "max_output_tokens", "service_tier")},
        "reasoning.effort": "reasoning_effort",
        "reasoning.summary": "include_thoughts",
        "text.format": "response_schema",
        "top_logprobs": "logprobs",
    },
    foreign={
        **dict.fromkeys(("contents", "messages"), TURNS),
        **dict.fromkeys(("system", "systemInstruction"), SYSTEM),
        **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_tokens_to_sample"), "max_output_tokens"),
        **dict.fromkeys(("response_format", "responseSchema", "responseJsonSchema"), "text.format"),
        **dict.fromkeys(("reasoning_effort", "thinkingConfig"), "reasoning.effort"),
        **dict.fromkeys(("n", "candidateCount"), "use --repeats to ask several times"),
        **dict.fromkeys(("presence_penalty", "frequency_penalty", "logit_bias", "functions"), _ONLY_CHAT),
        "toolConfig": "tool_choice",
        "verbosity": "text.verbosity",
        "generationConfig": "its fields stand side by side here: temperature, top_p, max_output_tokens",
        **GEMINI_FIELDS,
    },
)
_ENCRYPTED = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"
_NEVER_REASONS = re.compile(r"(?:.*/)?(?:gpt-[34]|chatgpt-|gpt-5(?:\.\d+)?-chat)", re.IGNORECASE)
"""OpenAI refuses `include: ["reasoning.encrypted_content"]` for models that do not reason."""

_REPLY_KEYS = frozenset({"output", "output_text", "incomplete_details", "usage"})
_UNFINISHED = frozenset({"queued", "in_progress"})
_MEDIA_PARTS = frozenset({"output_image", "output_audio"})
_CALLS: Mapping[str, str] = {"function_call": "arguments", "custom_tool_call": "input"}
"""Item of a tool call → its field with the arguments."""
# The first name is OpenAI's; gateways that translate send the names of chat completions, or fill in both.
_INPUT_KEYS = ("input_tokens", "prompt_tokens")
_OUTPUT_KEYS = ("output_tokens", "completion_tokens")
_INPUT_DETAILS = ("input_tokens_details", "prompt_tokens_details")
_OUTPUT_DETAILS = ("output_tokens_details", "completion_tokens_details")

_BEGIN_EVENTS = frozenset({"response.created", "response.in_progress", "response.queued"})
_END_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled",
                         "response.done"})  # fmt: skip
_ERROR_EVENTS = frozenset({"error", "response.error"})
_OPENAI = OpenAI()


class Responses:
    """`WireProtocol` for Responses."""

    name = "responses"
    turns: TurnFormat = ResponsesTurn()
    config = ProtocolConfig(
        auth="bearer",
        tpm_counts="input+max_output",
        system_roles=("system", "developer", "user"),
        replays=("exact", "content", "stored"),
        endpoints=("/responses", "/chat/completions", "/completions", "/messages"),
    )

    def build_request(self, ask: Ask, endpoint: Endpoint) -> WireRequest:
        """Build the request for a question; raises `CannotCarry`."""
        messages, role = ask.messages, endpoint.system_role
        if ask.system and role == "user":
            messages = put_system_into_user(messages, ask.system)
        is_stored = endpoint.replay == "stored"
        previous = last_stored(messages) if is_stored else NOTHING_STORED
        pieces = None if is_stored else ask.pieces_of(messages)
        first = {"role": role, "content": ask.system} if ask.system and role == "developer" else None
        items: Any = None if pieces is None or pieces.any(has_tools) else pieces.encoded(_items, first)
        if items is None:
            messages = with_call_ids(previous.messages or messages, CALL_IDS, name_calls)[previous.size :]
            items = [item for message in messages for item in _items(message)]
            if first is not None and previous.id is None:
                items.insert(0, first)
        body: dict[str, Any] = {"model": ask.model, "input": items, "stream": ask.stream, "store": is_stored}
        if previous.id is not None:
            body["previous_response_id"] = previous.id
        if ask.system and role not in ("user", "developer"):
            body["instructions"] = ask.system
        if ask.tools:
            body["tools"] = declare("responses", ask.tools)
        body = _applied(body, ask, endpoint)
        return WireRequest(
            method="POST",
            url=_url(endpoint.base_url)
            if endpoint.path is None
            else path_url(endpoint.base_url, endpoint.path, ask.model),
            headers=STREAM_HEADERS if ask.stream else JSON_HEADERS,
            json=body,
            note=NOT_STORED if is_stored and any(message.raw is not None for message in messages) else None,
        )

    def parse_response(self, body: bytes) -> Reply:
        """Parse a complete reply.

        Raises:
            MalformedReply: The body is not a response.
            ErrorInBody: The response failed, is not finished, or has no output.
        """
        return _reply(read_reply(body))

    def parse_event(self, draft: Draft, event: SseEvent) -> Draft:
        """Add one event to a draft; raises `ErrorInBody` with the partial text, `MalformedReply`."""
        if event.data.strip() == DONE:
            return Draft(state={**draft.state, "done": True})
        values = read_event(event)
        if values is None:
            return draft if draft.state.get("final") else Draft(state={**draft.state, "cut": True})
        state = draft.state
        for value in values:
            state = _with_event(state, value, event.event)
        return draft if state is draft.state else Draft(state=state)

    def finish(self, draft: Draft) -> Reply:
        """Build the reply at the end of a stream; raises `ErrorInBody` or `MalformedReply` if it is incomplete."""
        state = draft.state
        final: Mapping[str, Any] | None = state.get("final")
        if final is None and not _all_arrived(state):
            raise stream_truncated(_partial_text(state), _partial_usage(state))
        # Without its last event nothing but the items says how the response ended.
        whole = {**(state.get("response") or {}), "status": None} if final is None else dict(final)
        if not whole.get("output"):
            whole["output"] = _arrived_items(state)
        return _reply(whole, partial=_partial_text(state))

    def classify_error(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """Parse an error response; never raises."""
        return classify_error(status, headers, body)

    def build_models_request(self, endpoint: Endpoint) -> WireRequest:
        """Build the request for all models; the route is that of chat completions."""
        return _OPENAI.build_models_request(endpoint)

    def parse_models(self, body: bytes) -> tuple[str, ...]:
        """Parse the ids of the list; raises `MalformedReply`."""
        return _OPENAI.parse_models(body)


def _items(message: Message) -> list[Any]:
    """Return the input items of a message."""
    if message.raw is not None:
        return sendable(message.raw)
    if message.results:
        return result_items(message.results)
    if has_media(message.parts):
        return [{"role": "user", "content": media_parts("responses", message.parts)}]
    calls = call_items(message.calls)
    if len(message.parts) == 1:
        return [{"role": message.role, "content": message.parts[0].text or ""}, *calls]
    if not message.parts and calls:
        return calls
    kind = "input_text" if message.role == "user" else "output_text"
    content = [{"type": kind, "text": part.text or ""} for part in message.parts]
    return [{"role": message.role, "content": content}, *calls]


def _applied(body: dict[str, Any], ask: Ask, endpoint: Endpoint) -> dict[str, Any]:
    settings = ask.settings
    include = [] if body["store"] or _NEVER_REASONS.match(ask.model) else [_ENCRYPTED]
    if settings is not NO_SETTINGS:
        _refuse(settings, ask.model, endpoint)
        body |= {name: value for name in _SAME_NAME if (value := getattr(settings, name)) is not None}
        body |= _nested(settings)
        if settings.logprobs is not None:
            include.append(_LOGPROBS)
            body["top_logprobs"] = settings.logprobs
        if settings.seed is not None:
            set_seed(body, settings.seed, endpoint.seed_field)
    if include:
        body["include"] = include
    return merge_extra(body, settings.extra, _FIELDS) if settings.extra else body


def _refuse(settings: Settings, model: str, endpoint: Endpoint) -> None:
    refused = _REFUSED if endpoint.seed_field is not None else {**_REFUSED, "seed": _NO_SEED}
    refuse_settings(settings, refused, "responses", model, _too_short(settings, model))
    refuse_cache_control(settings, "OpenAI")


def _too_short(settings: Settings, model: str) -> list[str]:
    """Return the limit on output if OpenAI refuses it as too small; other servers may take any."""
    most = settings.max_output_tokens
    if most is None or most >= _LEAST_OUTPUT or settings_of_model("responses", model) is UNKNOWN_MODEL:
        return []
    return [f"max_output_tokens {most} (Responses takes {_LEAST_OUTPUT} or more)"]


def _nested(settings: Settings) -> dict[str, Any]:
    """Return the settings that are inside an object."""
    fields: dict[str, Any] = {}
    reasoning: dict[str, Any] = {}
    if (effort := effort_of(settings)) is not None:
        reasoning["effort"] = effort
    if settings.include_thoughts:
        reasoning["summary"] = "auto"
    if reasoning:
        fields["reasoning"] = reasoning
    if settings.response_schema is not None:
        fields["text"] = {"format": {"type": "json_schema", **named_schema(settings.response_schema)}}
    return fields


@functools.lru_cache(maxsize=1024)
def _url(base_url: str) -> str:
    return f"{base_url.rstrip('/')}/responses"


def _reply(whole: Any, *, partial: str | None = None) -> Reply:
    """Build the reply of a complete response; `partial` is the text that a stream delivered."""
    if not isinstance(whole, dict):
        if carried := error_in_body(whole):
            raise carried
        raise MalformedReply(f"a JSON {type(whole).__name__} instead of a reply")
    output = _output(whole)
    text = _text(output or [])
    status = word(whole.get("status"))
    if status == "failed" or claims_error(whole):
        _raise_failed(whole, text or partial)
    if output is None:
        _raise_without_output(whole)
    if status in _UNFINISHED and not _is_complete(whole, output):
        raise _unfinished(str(status), text or partial)
    return _read(whole, output, text)


def _read(whole: Mapping[str, Any], output: list[Any], text: str | None) -> Reply:
    calls = tuple(_tool_call(item) for item in output if word(item.get("type")) in _CALLS)
    thought, has_media = _thought(output), any(map(_has_media, output))
    refused = any(map(_is_refusal, output))
    raw = _finish_word(whole, output)
    finish: FinishReason = finish_reason_of(raw)
    if refused:
        finish = "content_filter"
    elif calls and (finish == "stop" or not is_finish(raw)):
        finish = "tool_call"
    has_output = bool(text or thought or calls or has_media)
    was_read = finish != "content_filter" or has_output
    billed = _billing_note(whole.get("tool_usage"), output)
    is_counted = bool(text or thought or calls) or (has_media and billed is None)
    usage = _usage(whole.get("usage"), was_read=was_read, has_output=is_counted, has_media=has_media)
    return Reply(
        text=None if not text and (calls or has_media or refused) else text,
        finish_reason=finish,
        finish_reason_raw=raw,
        thought=thought,
        tool_calls=calls,
        blocked="output" if finish == "content_filter" else None,
        usage=usage._replace(has_tools_billed_apart=billed is not None),
        model_version=word(whole.get("model")),
        response_id=word(whole.get("id")),
        has_media=has_media,
        service_tier=word(whole.get("service_tier")),
        mean_logprob=_mean_logprob(output),
        history_note=_history_note(whole.get("input_transformations")),
        billing_note=billed,
        raw_turn=output,
    )


def _output(whole: Mapping[str, Any]) -> list[Any] | None:
    """Return the output items; None if the body has none."""
    if "output" not in whole:
        return None
    output = whole["output"]
    if output is None:
        return []
    if not isinstance(output, list) or not all(isinstance(item, dict | None) for item in output):
        raise MalformedReply("an output that is not a list of items")
    output = [item for item in output if item is not None]
    for item in output:
        if is_message(item) and not isinstance(item.get("content"), str | list | None):
            raise MalformedReply(f"a message whose content is a JSON {type(item['content']).__name__}")
    return output


def _text(output: list[Any]) -> str | None:
    """Return the visible text; None without any message."""
    messages = text_messages(output)
    return "".join(text for message in messages for text in texts_of(message)) if messages else None


def _thought(output: list[Any]) -> str | None:
    """Return the summaries of the reasoning, or the reasoning itself where a model shows it."""
    paragraphs: list[str] = []
    for item in output:
        if item.get("type") == "reasoning":
            summary = _part_texts(item.get("summary"))
            paragraphs += summary if any(summary) else ["".join(_part_texts(item.get("content")))]
    return "\n\n".join(filter(None, paragraphs)) or None


def _part_texts(parts: Any) -> list[str]:
    """Return the texts of parts; some gateways send texts in place of parts, or of the whole list."""
    listed = parts if isinstance(parts, list) else [parts]
    return [word(part.get("text") if isinstance(part, dict) else part) or "" for part in listed]


def _tool_call(item: Mapping[str, Any]) -> ToolCall:
    arguments = item.get(_CALLS[item["type"]])
    if item["type"] == "function_call":
        arguments = decode_arguments(arguments)
    call_id = word(item.get("call_id")) or word(item.get("id"))
    return ToolCall(id=call_id, name=word(item.get("name")) or "", arguments=arguments)


def _has_media(item: Mapping[str, Any]) -> bool:
    if item.get("type") == "image_generation_call":
        return bool(item.get("result"))
    return any(word(part.get("type")) in _MEDIA_PARTS for part in _objects(item.get("content")))


def _is_refusal(item: Mapping[str, Any]) -> bool:
    if is_message(item):
        parts = _objects(item.get("content"))
        return bool(word(item.get("refusal"))) or any(
            part.get("type") == "refusal" and part.get("refusal") for part in parts
        )
    error = item.get("error")  # of an image that was not generated
    return isinstance(error, dict) and plain(str(error.get("code"))) in REFUSAL_CODES


def _finish_word(whole: Mapping[str, Any], output: list[Any]) -> str | None:
    """Return the reason of an incomplete response, else its status, else that of its last message."""
    details = whole.get("incomplete_details")
    reason = word(details.get("reason")) if isinstance(details, dict) else None
    own = [word(item.get("status")) for item in output if is_message(item)]
    return reason or word(whole.get("status")) or (own[-1] if own else None)


def _is_complete(whole: Mapping[str, Any], output: list[Any]) -> bool:
    """Whether all messages of a response are complete, which its status does not say."""
    messages = [item for item in output if is_message(item)]
    done = bool(messages) and all(message.get("status") == "completed" for message in messages)
    return done and not whole.get("background")


def _mean_logprob(output: list[Any]) -> float | None:
    tokens: list[Any] = []
    for message in text_messages(output):
        for part in _objects(message.get("content")):
            listed = part.get("logprobs")
            tokens += listed if isinstance(listed, list) else []
    return mean_logprob(tokens, "logprob")


def _history_note(transformations: Any) -> str | None:
    """Return what the provider removed from the history before the model saw it."""
    removed = list(_objects(transformations))
    if not removed:
        return None
    reasons = ", ".join(dict.fromkeys(str(entry.get("reason") or "no reason given") for entry in removed))
    items = "1 reasoning item" if len(removed) == 1 else f"{len(removed)} reasoning items"
    return f"{HISTORY_CUT} {items} from the history ({reasons})"


def _billing_note(tool_usage: Any, output: list[Any]) -> str | None:
    """Return what generated images cost beside the counts; None without them."""
    counts = tool_usage.get("image_gen") if isinstance(tool_usage, dict) else None
    names = ("input_tokens", "output_tokens")
    given, taken = (signed_count(counts.get(name)) if isinstance(counts, dict) else None for name in names)
    if not (given or taken or any(item.get("type") == "image_generation_call" for item in _objects(output))):
        return None
    tokens = "unknown" if given is None or taken is None else f"{given} input and {taken} output tokens"
    return f"generated images are billed apart ({tokens}), so the cost is unknown"


def _raise_failed(whole: Mapping[str, Any], text: str | None) -> NoReturn:
    usage = _partial(_usage(whole.get("usage")))
    carried = error_in_body(whole, text=text, usage=usage)
    if carried is None:
        message = "the response failed without an error object"
        raise ErrorInBody(Failure(kind="server_error", message=message, retryable=True, usage=usage, text=text,
                                  finish_reason_raw="failed"))  # fmt: skip
    if carried.failure.finish_reason_raw is None:
        status = word(whole.get("status"))
        raise ErrorInBody(replace(carried.failure, finish_reason_raw=status), status=carried.status)
    raise carried


def _raise_without_output(whole: Mapping[str, Any]) -> NoReturn:
    if carried := error_in_body(whole):
        raise carried
    if "choices" in whole:
        raise MalformedReply('an OpenAI chat answer on the Responses wire: protocol = "openai"?')
    if _REPLY_KEYS.isdisjoint(whole):
        raise MalformedReply(f"a JSON object that is not a reply (keys: {', '.join(list(whole)[:8]) or 'none'})")
    raise empty_response(_usage(whole.get("usage"), was_read=True))


def _unfinished(status: str, text: str | None) -> ErrorInBody:
    message = f"the response is {status!r}, and not finished: background responses are not supported"
    return ErrorInBody(
        Failure(kind="bad_response", message=message, finish_reason_raw=status, should_retry=False, text=text)
    )


def _usage(counts: Any, *, was_read: bool = False, has_output: bool = False, has_media: bool = False) -> Usage:
    if not isinstance(counts, dict) or not counts:
        return NO_USAGE
    given, taken = _details(counts, _INPUT_DETAILS), _details(counts, _OUTPUT_DETAILS)
    sent = Usage(
        input_tokens=count_under(counts, _INPUT_KEYS),
        cached_input_tokens=signed_count(given.get("cached_tokens")),
        cache_write_input_tokens=signed_count(given.get("cache_write_tokens")),
        output_tokens=count_under(counts, _OUTPUT_KEYS),
        reasoning_tokens=signed_count(taken.get("reasoning_tokens")),
        total_tokens=signed_count(counts.get("total_tokens")),
        has_uncounted_media=has_media,
    )
    return usage_of(sent, was_read=was_read, has_output=has_output)


def _details(counts: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the details under one of the names that has a count; gateways fill in the others with zeros."""
    known = [details for name in names if isinstance(details := counts.get(name), dict)]
    return next((details for details in known if any(details.values())), known[0] if known else {})


def _partial(usage: Usage) -> Usage:
    """Return the usage of an incomplete reply: its counts are running totals, so the source is at most `partial`."""
    return usage if usage.source == "missing" else usage._replace(source="partial")


def _with_event(state: Mapping[str, Any], value: Any, name: str) -> Mapping[str, Any]:
    """Return the state of a stream with one more event.

    Its keys: `response` (as created), `final` (as ended), `items` (by `output_index`), `arrived` (keys of complete
    items), `texts` (joined deltas by item), `done`, `cut`.
    """
    if not isinstance(value, dict):
        raise MalformedReply(f"a JSON {type(value).__name__} in the stream")
    kind = word(value.get("type")) or name
    if kind in _ERROR_EVENTS or (not kind.startswith("response.") and claims_error(value)):
        raise error_in_body(value, text=_partial_text(state), usage=_partial_usage(state)) or stream_truncated(
            _partial_text(state), _partial_usage(state)
        )
    response = value.get("response")
    if kind in _BEGIN_EVENTS or kind in _END_EVENTS:
        response = response if isinstance(response, dict) else {}
        if kind in _BEGIN_EVENTS:
            return {**state, "response": response}
        return {**state, "final": _ended(kind, response, value)}
    if kind in ("response.output_item.added", "response.output_item.done"):
        return _with_item(state, value, is_done=kind.endswith("done"))
    if kind == "response.output_text.delta":
        return _with_delta(state, value, value.get("delta"))
    if isinstance(value.get("output"), list) and not kind.startswith("response."):
        return {**state, "final": value}  # a response that is not streamed
    if "choices" in value:
        raise MalformedReply('an OpenAI chat stream on the Responses wire: protocol = "openai"?')
    return state


def _ended(kind: str, response: Mapping[str, Any], event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the response of the last event; some gateways put status and usage beside it."""
    ended = dict(response)
    status = kind.rpartition(".")[2]
    if word(ended.get("status")) in (None, *_UNFINISHED):
        ended["status"] = status
    if not ended.get("usage") and isinstance(event.get("usage"), dict):
        ended["usage"] = event["usage"]
    return ended


def _with_item(state: Mapping[str, Any], event: Mapping[str, Any], *, is_done: bool) -> Mapping[str, Any]:
    item = event.get("item")
    if not isinstance(item, dict):
        return state
    key = _key(event, item.get("id"))
    arrived: list[str] = state.get("arrived", [])
    if key in arrived and not is_done:
        return state
    items = {**state.get("items", {}), key: item}
    return {**state, "items": items, "arrived": [*arrived, key] if is_done else arrived}


def _with_delta(state: Mapping[str, Any], event: Mapping[str, Any], delta: Any) -> Mapping[str, Any]:
    if not isinstance(delta, str) or not delta:
        return state
    texts: Mapping[str, Any] = state.get("texts", {})
    key = _key(event, event.get("item_id"))
    return {**state, "texts": {**texts, key: with_text(texts.get(key), delta)}}


def _key(event: Mapping[str, Any], item_id: Any) -> str:
    """Return what identifies an item in the stream, so that keys sort in the order of the output."""
    index = event.get("output_index")
    if isinstance(index, int) and not isinstance(index, bool):
        return f"{index:09}"
    return f"{0:09} {word(item_id) or ''}"


def _all_arrived(state: Mapping[str, Any]) -> bool:
    """Whether a stream without its last event is complete all the same: it says so, and no item is unfinished."""
    items, texts, arrived = state.get("items", {}), state.get("texts", {}), set(state.get("arrived", ()))
    is_whole = bool(items or texts) and arrived.issuperset(items) and (not items or arrived.issuperset(texts))
    return bool(state.get("done")) and is_whole and not state.get("cut")


def _arrived_items(state: Mapping[str, Any]) -> list[Any]:
    """Return the items that a stream delivered; of those that are not complete, the text of their deltas."""
    items: Mapping[str, Any] = state.get("items") or {}
    texts: Mapping[str, str] = settled(state.get("texts") or {})
    arrived = set(state.get("arrived", ()))
    built: list[Any] = []
    for key in sorted({*items, *texts}):
        item = items.get(key, {})
        if key in arrived:
            built.append(item)
        elif key in texts:
            content = [{"type": "output_text", "text": texts[key], "annotations": []}]
            built.append({"type": "message", "role": "assistant", **item, "content": content})
    return built


def _partial_text(state: Mapping[str, Any]) -> str | None:
    return _text(_arrived_items(state)) or None


def _partial_usage(state: Mapping[str, Any]) -> Usage:
    return _partial(_usage((state.get("response") or {}).get("usage")))


def _objects(values: Iterable[Any] | Any) -> Iterator[Mapping[str, Any]]:
    return (value for value in values if isinstance(value, dict)) if isinstance(values, list) else iter(())
