"""The Gemini protocol, `models/{model}:generateContent`: builds requests, parses complete and streamed replies.

A model's turn goes back into the history exactly as received, with thoughts, signatures and unknown keys; only a
missing `role` is added, because the API would treat such a turn as the user's. A turn without parts is sent unchanged:
the gateway decides whether it accepts that, and omitting the turn would change the dialogue. Calls that no model made
need a signature as well, and get a dummy.

A stream is merged into one complete body, which the same function parses. Adjacent text deltas become one part if both
have only text and the same thought flag; signed parts are never merged.

Not here: the place of the key, token counting requests (some gateways bill them).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn
from urllib.parse import quote

from convbatch.dialogue import NO_SETTINGS, Message, Settings
from convbatch.protocols.body_fields import (
    FLAG,
    MODEL,
    OBJECT,
    PROTO_LIST_OF_OBJECTS,
    PROTO_LIST_OF_TEXTS,
    PROTO_NUMBER,
    STREAMING,
    SYSTEM,
    TEXT,
    TEXT_OR_NUMBER,
    TURNS,
    BodyFields,
)
from convbatch.protocols.decoding import (
    first_of,
    mean_logprob,
    raw_word,
    read_event,
    read_reply,
    word,
)
from convbatch.protocols.encoding import (
    JSON_HEADERS,
    PATH_SAFE,
    STREAM_HEADERS,
    merge_extra,
    path_url,
    put_system_into_user,
    refuse_cache_control,
    set_seed,
)
from convbatch.protocols.error_bodies import claims_error
from convbatch.protocols.error_mapping import classify_error, empty_response, error_in_body, stream_truncated
from convbatch.protocols.finish_reasons import finish_reason_of, is_finish
from convbatch.protocols.gemini_tools import (
    call_parts,
    dummy_note,
    has_dummy,
    refuse_json_beside_tools,
    results_content,
)
from convbatch.protocols.gemini_turn import GeminiTurn
from convbatch.protocols.gemini_usage import read_usage
from convbatch.protocols.growing import BATCH, Growing, is_text, merged, settled, with_lists, with_text
from convbatch.protocols.media_parts import has_media, media_parts
from convbatch.protocols.model_settings import refuse_settings, settings_of_model
from convbatch.protocols.schema_subset import GEMINI, refuse_schema, split_strict
from convbatch.protocols.sse import SseEvent
from convbatch.protocols.tool_declarations import declare
from convbatch.protocols.wire import (
    Ask,
    CannotCarry,
    Draft,
    Endpoint,
    MalformedReply,
    ProtocolConfig,
    TurnFormat,
    WireRequest,
)
from convbatch.reply import NO_USAGE, Failure, FinishReason, Reply, Usage
from convbatch.tools import ToolCall

# Setting → field of `generationConfig`. https://ai.google.dev/api/generate-content#GenerationConfig, read 2026-11-21.
_CONFIG_FIELDS = (
    ("temperature", "temperature"),
    ("top_p", "topP"),
    ("top_k", "topK"),
    ("max_output_tokens", "maxOutputTokens"),
)
_OBJECTS = (
    "responseSchema",
    "responseJsonSchema",
    "imageConfig",
    "speechConfig",
    "thinkingConfig",
    "translationConfig",
)
_NUMBERS = (
    *("temperature", "topP", "topK", "maxOutputTokens", "candidateCount", "seed"),
    *("presencePenalty", "frequencyPenalty", "logprobs"),
)
_ONLY_OPENAI = (
    *("user", "metadata", "logit_bias", "parallel_tool_calls", "verbosity", "prediction", "web_search_options"),
    *("prompt_cache_key", "prompt_cache_retention", "safety_identifier", "function_call"),
)
_FIELDS = BodyFields(
    article="a Gemini",
    built={"contents": TURNS},
    kinds={
        **dict.fromkeys(("toolConfig", "generationConfig"), OBJECT),
        "systemInstruction": OBJECT._replace(example=""".parts='[{"text": "…"}]'"""),
        **dict.fromkeys(("tools", "safetySettings"), PROTO_LIST_OF_OBJECTS),
        "cachedContent": TEXT,
        "serviceTier": TEXT_OR_NUMBER,
        "store": FLAG,
        **dict.fromkeys((f"generationConfig.{name}" for name in _NUMBERS), PROTO_NUMBER),
        **dict.fromkeys((f"generationConfig.{name}" for name in _OBJECTS), OBJECT),
        "generationConfig.stopSequences": PROTO_LIST_OF_TEXTS,
        "generationConfig.responseModalities": PROTO_LIST_OF_TEXTS,
        "generationConfig.responseMimeType": TEXT,
        "generationConfig.responseLogprobs": FLAG,
        "generationConfig.mediaResolution": TEXT_OR_NUMBER,
        "generationConfig.thinkingConfig.thinkingBudget": PROTO_NUMBER,
        "generationConfig.thinkingConfig.thinkingLevel": TEXT_OR_NUMBER,
        "generationConfig.thinkingConfig.includeThoughts": FLAG,
    },
    settings={
        **{f"generationConfig.{field}": name for name, field in _CONFIG_FIELDS},
        "generationConfig.seed": "seed",
        "generationConfig.stopSequences": "stop",
        "generationConfig.responseJsonSchema": "response_schema",
        "generationConfig.logprobs": "logprobs",
        "generationConfig.thinkingConfig.thinkingBudget": "thinking_budget",
        "generationConfig.thinkingConfig.thinkingLevel": "thinking_level",
        "generationConfig.thinkingConfig.includeThoughts": "include_thoughts",
        "safetySettings": "safety",
        "serviceTier": "service_tier",
    },
    foreign={
        **dict.fromkeys(("messages", "input", "prompt"), TURNS),
        **dict.fromkeys(("system", "instructions"), SYSTEM),
        **dict.fromkeys(("stream", "stream_options"), STREAMING),
        **dict.fromkeys(("max_tokens", "max_completion_tokens"), "generationConfig.maxOutputTokens"),
        **dict.fromkeys(("reasoning_effort", "thinking", "reasoning"), "generationConfig.thinkingConfig.thinkingLevel"),
        "model": MODEL,
        "n": "generationConfig.candidateCount",
        "stop": "generationConfig.stopSequences",
        "response_format": "generationConfig.responseMimeType",
        "modalities": "generationConfig.responseModalities",
        "top_logprobs": "generationConfig.logprobs",
        "tool_choice": "toolConfig",
        "functions": "tools",
        **dict.fromkeys(_ONLY_OPENAI, "remove it, only the openai protocol has it"),
    },
    single=frozenset({"generationConfig.candidateCount"}),
    exact=False,
)
"""https://ai.google.dev/api/generate-content, read 2026-11-26."""
_LEVELS = frozenset({"minimal", "low", "medium", "high", "xhigh"})

_PLAIN_KEYS = frozenset({"text", "thought"})
_REPLY_KEYS = frozenset({"candidates", "promptFeedback", "usageMetadata", "modelVersion", "responseId"})
_VERSION = re.compile(r"/v[0-9]+[a-z0-9]*$")
_MODELS_PER_PAGE = 1000


class Gemini:
    """`WireProtocol` for generateContent; stateless."""

    name = "gemini"
    turns: TurnFormat = GeminiTurn()
    config = ProtocolConfig(
        auth="x-goog-api-key",
        tpm_counts="input",
        api_version="v1beta",
        keys=("api_version",),
        endpoints=(":generateContent", ":streamGenerateContent"),
    )

    def build_request(self, ask: Ask, endpoint: Endpoint) -> WireRequest:
        """Build the request for a question; raises `CannotCarry`."""
        in_user = bool(ask.system) and endpoint.system_role == "user"
        messages = put_system_into_user(ask.messages, ask.system or "") if in_user else ask.messages
        pieces = ask.pieces_of(messages)
        contents = None if pieces is None else pieces.encoded(_contents)
        if contents is None:
            contents = [_content(message) for message in messages]
        body: dict[str, Any] = {"contents": contents}
        if ask.tools:
            body["tools"] = declare("gemini", ask.tools)
        if ask.system and not in_user:
            body["systemInstruction"] = {"parts": [{"text": ask.system}]}
        body = _applied(body, ask, endpoint.seed_field)
        refuse_json_beside_tools(body, ask.model)
        return WireRequest(
            method="POST",
            url=_generate_url(endpoint.base_url, endpoint.api_version, ask.model, ask.stream)
            if endpoint.path is None
            else _path_url(endpoint.base_url, endpoint.path, ask.model, ask.stream),
            headers=STREAM_HEADERS if ask.stream else JSON_HEADERS,
            json=body,
            note=dummy_note(messages) if pieces is None or pieces.any(has_dummy) else None,
        )

    def parse_response(self, body: bytes) -> Reply:
        """Parse a complete reply; also the array that streaming without `alt=sse` returns.

        Raises:
            MalformedReply: The body is not a reply.
            ErrorInBody: The body has an error, neither a candidate nor a block reason, or is an incomplete array.
        """
        value = read_reply(body)
        if isinstance(value, list):
            if not value:
                raise MalformedReply("an empty JSON array instead of a reply")
            return self.finish(_folded(Draft(), value))
        return _reply(value)

    def parse_event(self, draft: Draft, event: SseEvent) -> Draft:
        """Add one event to a draft; raises `ErrorInBody` with the partial text, `MalformedReply`."""
        values = read_event(event)
        if values is None:
            return draft if _is_finished(merged(draft.state, _Merge)) else Draft(state={**draft.state, "cut": True})
        return _folded(draft, values)

    def finish(self, draft: Draft) -> Reply:
        """Build the reply at the end of a stream; raises `ErrorInBody` or `MalformedReply` if it is incomplete."""
        if not draft.state.keys() & {"whole", "new"}:
            raise stream_truncated(None, NO_USAGE)
        whole = settled(merged(draft.state, _Merge))
        if draft.state.get("cut") or (whole.get("candidates") and not _is_finished(whole)):
            raise stream_truncated(_partial_text(whole), _partial_usage(whole))
        return _reply(whole)

    def classify_error(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """Parse an error response; never raises."""
        return classify_error(status, headers, body)

    def build_models_request(self, endpoint: Endpoint) -> WireRequest:
        """Build the request for the first page of models: 1000, the maximum."""
        url = f"{root_url(endpoint.base_url, endpoint.api_version)}/models?pageSize={_MODELS_PER_PAGE}"
        return WireRequest(method="GET", url=url, headers={})

    def parse_models(self, body: bytes) -> tuple[str, ...]:
        """Parse names without `models/`, only of models that generate; also the OpenAI form of some gateways."""
        value = read_reply(body)
        listed = value.get("models") or value.get("data") if isinstance(value, dict) else None
        if not isinstance(listed, list):
            raise MalformedReply("no list of models")
        return tuple(name for name in map(_model_name, listed) if name)


def _contents(message: Message) -> list[Any]:
    return [_content(message)]


def _content(message: Message) -> Any:
    raw = message.raw
    if raw is not None:
        return {"role": "model", **raw} if isinstance(raw, dict) and not raw.get("role") else raw
    if message.results:
        return results_content(message.results)
    if has_media(message.parts):
        return {"role": "user", "parts": media_parts("gemini", message.parts)}
    role = "user" if message.role == "user" else "model"
    parts: list[Any] = [{"text": part.text or ""} for part in message.parts]
    return {"role": role, "parts": [*parts, *call_parts(message.calls)]}


def _applied(body: dict[str, Any], ask: Ask, seed_field: str | None) -> dict[str, Any]:
    settings = ask.settings
    if settings is NO_SETTINGS:
        return body
    refuse_settings(settings, {}, "gemini", ask.model)
    refuse_cache_control(settings, "Gemini")
    if config := _generation_config(ask.model, settings, seed_field):
        body["generationConfig"] = config
    if settings.service_tier is not None:
        body["serviceTier"] = settings.service_tier
    if settings.safety:
        body["safetySettings"] = [{"category": c, "threshold": t} for c, t in settings.safety.items()]
    return merge_extra(body, settings.extra, _FIELDS) if settings.extra else body


def _generation_config(model: str, settings: Settings, seed_field: str | None) -> dict[str, Any]:
    config = {field: value for name, field in _CONFIG_FIELDS if (value := getattr(settings, name)) is not None}
    if settings.stop:
        config["stopSequences"] = list(settings.stop)
    if settings.response_schema is not None:
        schema, _ = split_strict(settings.response_schema)
        refuse_schema(schema, GEMINI)
        config |= {"responseMimeType": "application/json", "responseJsonSchema": schema}
    if settings.logprobs is not None:
        config |= {"responseLogprobs": True, "logprobs": settings.logprobs}
    if thinking := _thinking(model, settings):
        config["thinkingConfig"] = thinking
    if settings.seed is not None:
        set_seed(config, settings.seed, seed_field)
    return config


def _thinking(model: str, settings: Settings) -> dict[str, Any]:
    config: dict[str, Any] = {}
    level = _thinking_level(model, settings)
    if settings.thinking_budget is not None:
        if level is not None:
            raise CannotCarry(
                "Gemini takes thinking_budget (2.5 models) or thinking_level (3.x models), not both: unset one"
            )
        config["thinkingBudget"] = settings.thinking_budget
    if level is not None:
        config["thinkingLevel"] = level
    if settings.include_thoughts is not None:
        config["includeThoughts"] = settings.include_thoughts
    return config


def _thinking_level(model: str, settings: Settings) -> str | None:
    """Return the level as Gemini spells it; the least one for `none`, since no model with levels can stop thinking."""
    effort = settings.thinking_level if settings.reasoning_effort is None else settings.reasoning_effort
    if effort is None:
        return None
    if effort.lower() == "none":
        least = settings_of_model("gemini", model).efforts
        effort = least[0] if least else "minimal"
    return effort.upper() if effort.lower() in _LEVELS else effort


@functools.lru_cache(maxsize=1024)
def _generate_url(base_url: str, api_version: str | None, model: str, stream: bool) -> str:
    name = model if model.startswith("tunedModels/") else f"models/{model.removeprefix('models/')}"
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return f"{root_url(base_url, api_version)}/{quote(name, safe=PATH_SAFE)}:{method}"


def _path_url(base_url: str, path: str, model: str, stream: bool) -> str:
    """Return the URL of a configured path, which has no API version added; a stream asks for the other method."""
    url = path_url(base_url, path, model)
    return f"{url.replace(':generateContent', ':streamGenerateContent')}?alt=sse" if stream else url


def root_url(base_url: str, api_version: str | None) -> str:
    """Return the base URL with its API version, which is not added when the URL already ends with it."""
    base = base_url.rstrip("/")
    if _VERSION.search(base) and (api_version is None or base.endswith(f"/{api_version}")):
        return base
    return f"{base}/{api_version or 'v1beta'}"


def _model_name(listed: Any) -> str | None:
    if not isinstance(listed, dict):
        raise MalformedReply("a list of models that contains no objects")
    methods = listed.get("supportedGenerationMethods")
    if isinstance(methods, list) and methods and "generateContent" not in methods:
        return None
    name = word(listed.get("name")) or word(listed.get("id"))
    return None if name is None else name.removeprefix("models/")


def _reply(whole: Any) -> Reply:
    if not isinstance(whole, dict):
        raise MalformedReply(f"a JSON {type(whole).__name__} instead of a reply")
    candidate = _candidate(whole)
    if (
        candidate is not None
        and claims_error(whole)
        and (carried := error_in_body(whole, text=_partial_text(whole), usage=read_usage(whole.get("usageMetadata"))))
    ):
        raise carried
    block = _block_reason(whole, candidate)
    if candidate is None and block is None:
        _raise_without_candidate(whole)
    content = None if candidate is None else candidate.get("content")
    text, thought, calls, has_media = _read_content(content)
    has_output = bool(text or thought or calls or has_media)
    raw = block if block is not None else raw_word((candidate or {}).get("finishReason"))
    finish: FinishReason = "content_filter" if block is not None else finish_reason_of(raw)
    if calls and (not is_finish(raw) or finish == "stop"):
        finish = "tool_call"
    return Reply(
        text=text,
        finish_reason=finish,
        finish_reason_raw=raw,
        thought=thought,
        tool_calls=calls,
        blocked=None if finish != "content_filter" else "output" if block is None else "prompt",
        usage=read_usage(
            whole.get("usageMetadata"),
            was_read=finish != "content_filter" or has_output,
            has_output=has_output,
            has_media=has_media,
        ),
        model_version=word(whole.get("modelVersion")),
        response_id=word(whole.get("responseId")),
        has_media=has_media,
        service_tier=_service_tier(whole.get("usageMetadata")),
        mean_logprob=_mean_logprob(candidate or {}),
        raw_turn=content,
    )


def _service_tier(usage: Any) -> str | None:
    return word(usage.get("serviceTier")) if isinstance(usage, dict) else None


def _mean_logprob(candidate: Mapping[str, Any]) -> float | None:
    result = candidate.get("logprobsResult")
    return mean_logprob(result.get("chosenCandidates"), "logProbability") if isinstance(result, dict) else None


def _candidate(whole: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the candidate to read; None also when it has neither content nor finish reason."""
    candidates = whole.get("candidates")
    if not candidates:
        return None
    if not isinstance(candidates, list):
        raise MalformedReply("candidates is not a list")
    candidate = first_of(candidates, "candidates")
    return None if candidate.get("content") is None and not is_finish(candidate.get("finishReason")) else candidate


def _block_reason(whole: Mapping[str, Any], candidate: Mapping[str, Any] | None) -> str | None:
    feedback = whole.get("promptFeedback")
    reason = raw_word(feedback.get("blockReason")) if isinstance(feedback, dict) else None
    if not reason or (candidate is not None and reason.endswith("_UNSPECIFIED")):
        return None
    return reason


def _raise_without_candidate(whole: Mapping[str, Any]) -> NoReturn:
    if carried := error_in_body(whole):
        raise carried
    if _REPLY_KEYS.isdisjoint(whole):
        raise MalformedReply(f"a JSON object that is not a reply (keys: {', '.join(list(whole)[:8]) or 'none'})")
    raise empty_response(read_usage(whole.get("usageMetadata"), was_read=True))


def _read_content(content: Any) -> tuple[str | None, str | None, tuple[ToolCall, ...], bool]:
    """Return visible text, thought and tool calls of a candidate's content, and whether it has media."""
    if content is None:
        return None, None, (), False
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    has_media = False
    for part in _parts(content):
        is_thought = bool(part.get("thought"))
        if isinstance(text := part.get("text"), str):
            (thoughts if is_thought else texts).append(text)
        if isinstance(call := part.get("functionCall"), dict):
            calls.append(_tool_call(call))
        if not is_thought and (part.get("inlineData") or part.get("fileData")):
            has_media = True
    text = "".join(texts)
    # The call or the media are the reply; an empty text beside them is a remainder of streaming.
    visible = None if not text and (calls or has_media) else text
    return visible, "".join(thoughts) if thoughts else None, tuple(calls), has_media


def _parts(content: Any) -> list[Any]:
    if not isinstance(content, dict):
        raise MalformedReply("a candidate whose content is not an object")
    parts: Any = content.get("parts")
    if parts is None:
        return []
    if isinstance(parts, list):
        for part in parts:
            if not isinstance(part, dict):
                break
        else:
            return parts
    raise MalformedReply("a candidate whose content has no list of parts")


def _tool_call(call: Mapping[str, Any]) -> ToolCall:
    args = call.get("args")
    return ToolCall(id=word(call.get("id")), name=word(call.get("name")) or "", arguments={} if args is None else args)


def _folded(draft: Draft, chunks: Iterable[Any]) -> Draft:
    """Add chunks to a draft; its state is `whole` (the body so far, in the whole form), `new` chunks, and `cut`."""
    state = dict(draft.state)
    for chunk in chunks:
        if not isinstance(chunk, dict):
            raise MalformedReply(f"a JSON {type(chunk).__name__} in the stream")
        if claims_error(chunk):
            whole = settled(merged(state, _Merge))
            if carried := error_in_body(chunk, text=_partial_text(whole), usage=_partial_usage(whole)):
                raise carried
        new = state["new"] = (*state.get("new", ()), chunk)
        if len(new) == BATCH:
            state["whole"] = merged(state, _Merge)
            del state["new"]
    return Draft(state=state)


class _Merge:
    """Adds chunks to a copy of a body."""

    def __init__(self, whole: Mapping[str, Any]) -> None:
        self._whole = dict(whole)
        candidates = whole.get("candidates")
        self._candidate: dict[str, Any] = dict(candidates[0]) if candidates else {}
        self._has_candidate = bool(candidates)
        content = self._candidate.get("content")
        self._content: dict[str, Any] | None = None if content is None else dict(content)
        self._parts: _Parts = (self._content or {}).get("parts") or _Parts([])
        self._owned: dict[str, dict[str, Any]] = {}
        self._run: list[str] = []
        self._kind: Mapping[str, Any] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        for key, value in chunk.items():
            if key == "candidates":
                self._add_candidates(value)
            elif isinstance(value, dict):
                # Running totals and feedback: the last value of each field applies; nothing is added up.
                self._own(key).update(_non_null(value) if None in value.values() else value)
            elif value is not None and value != "":
                self._whole[key] = value

    def done(self) -> dict[str, Any]:
        """Return the body."""
        self._end_run()
        if self._content is not None:
            if "parts" in self._content:
                self._content["parts"] = self._parts
            self._candidate["content"] = self._content
        if self._has_candidate:
            self._whole["candidates"] = [self._candidate]
        return self._whole

    def _own(self, key: str) -> dict[str, Any]:
        """Return an object of the body as one that may be changed."""
        if key not in self._owned:
            old = self._whole.get(key)
            self._owned[key] = self._whole[key] = dict(old) if isinstance(old, dict) else {}
        elif self._whole[key] is not self._owned[key]:
            self._owned[key] = self._whole[key] = {}
        return self._owned[key]

    def _add_candidates(self, new: Any) -> None:
        if not isinstance(new, list | None):
            raise MalformedReply("candidates is not a list")
        self._whole.setdefault("candidates", [])
        for item in new or ():
            if not isinstance(item, dict):
                raise MalformedReply("candidates contains no objects")
            if item.get("index") not in (0, None):
                continue
            self._has_candidate = True
            for key, value in item.items():
                if key == "content" and value is not None:
                    self._candidate.setdefault(key, None)
                    self._add_content(value)
                elif key == "logprobsResult" and isinstance(value, dict):
                    self._candidate[key] = with_lists(self._candidate.get(key), value)
                elif value is not None:
                    self._candidate[key] = value

    def _add_content(self, new: Any) -> None:
        added = _parts(new)
        if self._content is None:
            self._content = {}
        for key, value in new.items():
            if key == "parts" and value is not None:
                self._content.setdefault(key, None)
            elif value is not None:
                self._content[key] = value
        for part in added:
            self._add_part(part)

    def _add_part(self, part: dict[str, Any]) -> None:
        """Add a part; texts in a row are joined before they are added."""
        is_plain = _is_plain(part)
        if is_plain and self._run and part.get("thought") == self._kind.get("thought"):
            self._run.append(part["text"])
        elif not (self._run and part == {"text": ""}):  # the usual last delta, without content
            self._end_run()
            if is_plain:
                self._run, self._kind = [part["text"]], part
            else:
                self._parts = self._parts.with_part(part)

    def _end_run(self) -> None:
        if self._run:
            self._parts = self._parts.with_part({**self._kind, "text": "".join(self._run)})
            self._run = []


class _Parts(Growing[dict[str, Any]]):
    """The parts of a draft; only the last one, which is kept apart, still grows."""

    __slots__ = ("_last",)

    def __init__(self, items: list[dict[str, Any]], last: dict[str, Any] | None = None) -> None:
        super().__init__(items)
        self._last = last

    def with_part(self, part: dict[str, Any]) -> _Parts:
        """Return the parts with another one, which becomes part of the last one if both are plain text."""
        last = self._last
        if last is None:
            return self._ending(part)
        if part == {"text": ""}:
            return self  # the usual last delta, without content
        if _is_plain(part) and _is_plain(last) and part.get("thought") == last.get("thought"):
            return self._ending({**last, "text": with_text(last["text"], part["text"])})
        return self._ending(part, last)

    def settled(self) -> list[Any]:
        """Return all parts."""
        return [*super().settled(), *([] if self._last is None else [settled(self._last)])]

    def _ending(self, last: dict[str, Any], *closed: dict[str, Any]) -> _Parts:
        grown: _Parts = self.extended(closed)
        grown._last = last
        return grown


def _is_plain(part: Mapping[str, Any]) -> bool:
    return part.get("text") is not None and is_text(part["text"]) and part.keys() <= _PLAIN_KEYS


def _non_null(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _is_finished(whole: Mapping[str, Any]) -> bool:
    candidates = whole.get("candidates")
    if candidates and is_finish(candidates[0].get("finishReason")):
        return True
    return _block_reason(whole, candidates[0] if candidates else None) is not None


def _partial_text(whole: Mapping[str, Any]) -> str | None:
    candidates = whole.get("candidates")
    return _read_content(candidates[0].get("content"))[0] if candidates else None


def _partial_usage(whole: Mapping[str, Any]) -> Usage:
    """Usage of an incomplete stream: its counts are running totals, so the source is at most `partial`."""
    usage = read_usage(whole.get("usageMetadata"))
    return usage if usage.source == "missing" else usage._replace(source="partial")
