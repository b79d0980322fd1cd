"""Google's generateContent from the server's side: whole, as SSE and as a JSON array.

Strict where Google is strict (unknown fields, roles, empty contents, types); reads camelCase and snake_case, answers
in camelCase. Source: https://ai.google.dev/api/generate-content, read 2026-11-21.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Any

from convbatch.simulator import gemini_tools, media
from convbatch.simulator.replies import ParsedRequest, ReplayedTurn, SimulatedReply
from convbatch.simulator.schemas import google_problem
from convbatch.simulator.wire import (
    ApiError,
    ErrorCause,
    LeftOver,
    ReplySpec,
    Route,
    WordedHint,
    as_list,
    as_object,
    encode,
    in_pieces,
    log_probability,
    refuse,
    tokens_of,
    word_hint,
)

_TOP = {
    "model", "contents", "systemInstruction", "generationConfig", "safetySettings", "tools", "toolConfig",
    "cachedContent", "serviceTier", "store", "labels",
}  # fmt: skip
_DATA = {
    "text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult",
    "toolCall", "toolResponse",
}  # fmt: skip
_PART = _DATA | {"thought", "thoughtSignature", "videoMetadata", "mediaResolution", "partMetadata"}
_CATEGORIES = {
    f"HARM_CATEGORY_{name}"
    for name in ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT", "CIVIC_INTEGRITY", "JAILBREAK")
}
_THRESHOLDS = {"BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF"}
_SCHEMA_KEYWORDS = {
    "type", "format", "title", "description", "nullable", "enum", "items", "minItems", "maxItems", "properties",
    "required", "minProperties", "maxProperties", "minimum", "maximum", "minLength", "maxLength", "pattern", "example",
    "anyOf", "propertyOrdering", "default", "additionalProperties", "defs", "ref",
}  # fmt: skip
_TIERS = ("unspecified", "flex", "standard", "priority")
_LEVELS = {"minimal", "low", "medium", "high", "xhigh"}


def _number(low: float, high: float) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _integer(low: int, high: int = 2**31 - 1) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _strings(most: int) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        items = as_list(value)
        return items is not None and len(items) <= most and all(isinstance(item, str) and item for item in items)

    return check


def _anything(value: object) -> bool:
    del value
    return True


_CONFIG: dict[str, tuple[str, Callable[[object], bool]]] = {
    "temperature": ("TYPE_FLOAT", _number(0, 2)),
    "topP": ("TYPE_FLOAT", _number(0, 1)),
    "topK": ("TYPE_INT32", _integer(1)),
    "maxOutputTokens": ("TYPE_INT32", _integer(1)),
    "stopSequences": ("TYPE_STRING", _strings(5)),
    "candidateCount": ("TYPE_INT32", _integer(1, 1)),
    "seed": ("TYPE_INT32", _integer(-(2**31))),
    "presencePenalty": ("TYPE_FLOAT", _number(-2, 2)),
    "frequencyPenalty": ("TYPE_FLOAT", _number(-2, 2)),
    "responseLogprobs": ("TYPE_BOOL", lambda value: isinstance(value, bool)),
    "logprobs": ("TYPE_INT32", _integer(0, 20)),
    "responseMimeType": ("TYPE_STRING", lambda value: value in {"text/plain", "application/json", "text/x.enum"}),
    "responseSchema": ("Schema", lambda value: isinstance(value, dict)),
    "responseJsonSchema": ("Schema", lambda value: isinstance(value, dict)),
    "responseModalities": ("TYPE_ENUM", _strings(5)),
    "thinkingConfig": ("ThinkingConfig", lambda value: isinstance(value, dict)),
    "mediaResolution": ("TYPE_ENUM", _anything),
    "speechConfig": ("SpeechConfig", _anything),
    "imageConfig": ("ImageConfig", _anything),
    "audioTranscriptionConfig": ("AudioTranscriptionConfig", _anything),
    "enableEnhancedCivicAnswers": ("TYPE_BOOL", _anything),
}
_THINKING: dict[str, tuple[str, Callable[[object], bool]]] = {
    "thinkingBudget": ("TYPE_INT32", _integer(-1)),
    "thinkingLevel": ("TYPE_ENUM", lambda value: isinstance(value, str) and value.lower() in _LEVELS),
    "includeThoughts": ("TYPE_BOOL", lambda value: isinstance(value, bool)),
}

_STATUS: dict[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_ERRORS: dict[str, tuple[int, str]] = {
    "bad_request": (400, "Request contains an invalid argument."),
    "no_key": (
        403,
        "Method doesn't allow unregistered callers (callers without established identity). "
        "Please use API Key or other form of API consumer identity to call this API.",
    ),
    "bad_key": (400, "API key not valid. Please pass a valid API key."),
    "permission": (403, "The caller does not have permission"),
    "no_model": (
        404,
        "models/{model} is not found for API version {version}, or is not supported for generateContent. "
        "Call ListModels to see the list of available models and their supported methods.",
    ),
    "no_channel": (404, "models/{model} is not found for API version {version}."),
    "no_path": (404, "The requested URL was not found on this server."),
    "rate_limit": (429, "You exceeded your current quota, please check your plan and billing details."),
    "no_balance": (
        429,
        "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing.",
    ),
    "internal": (500, "An internal error has occurred. Please retry or report the issue."),
    "overloaded": (503, "The model is overloaded. Please try again later."),
    "bad_gateway": (502, "Bad gateway."),
    "deadline": (504, "Deadline expired before operation could complete."),
}
_FINISH = {"length": "MAX_TOKENS", "output_blocked": "SAFETY", "malformed": "MALFORMED_FUNCTION_CALL",
           "unknown": "SOME_FUTURE_REASON"}  # fmt: skip
_QUOTAS = {
    "requests": ("generate_content_requests", "GenerateRequestsPerMinutePerProjectPerModel"),
    "tokens": ("generate_content_input_token_count", "GenerateContentInputTokensPerModelPerMinute"),
    "day": ("generate_content_requests", "GenerateRequestsPerDayPerProjectPerModel"),
}
_DANGER = [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}]


class GeminiWire:
    """See `wire.Wire`."""

    name = "gemini"
    content_type = "application/json; charset=UTF-8"
    counts_output_at_admission = False
    request_id_header: str | None = None
    usage_key = "usageMetadata"
    text_key = "text"

    def parse_request(self, route: Route, body: Any) -> ReplySpec:
        """See `wire.Wire`."""
        fields = _object(body, "", _TOP)
        config = _checked(fields.get("generationConfig", {}), "generation_config", _CONFIG)
        thinking = _checked(config.get("thinkingConfig", {}), "generation_config.thinking_config", _THINKING)
        if "thinkingBudget" in thinking and "thinkingLevel" in thinking:
            refuse("bad_request", "You can only set only one of thinking budget and thinking level.")
        _check_safety(fields.get("safetySettings", []))
        messages, replayed = _contents(fields.get("contents"), route.model or "")
        schema = _schema(config)
        parsed = ParsedRequest(
            model=route.model or "",
            system=_system(fields.get("systemInstruction")),
            messages=messages,
            replayed=replayed,
            draws="counted",
            max_output_tokens=config.get("maxOutputTokens"),
            temperature=config.get("temperature"),
            seed=config.get("seed"),
            stop=tuple(config.get("stopSequences", ())),
            thinking=thinking.get("thinkingBudget") != 0,
            show_thoughts=bool(thinking.get("includeThoughts", False)),
            schema=schema,
            is_bare=config.get("responseMimeType") == "text/x.enum",
            declared=gemini_tools.declared(fields.get("tools"), config, route.model or ""),
        )
        return ReplySpec(
            parsed=parsed,
            form=route.form,
            logprobs=config.get("logprobs", 0) if config.get("responseLogprobs") else None,
            tier=_tier(fields.get("serviceTier")),
        )

    def whole(self, reply_spec: ReplySpec, reply: SimulatedReply) -> dict[str, Any]:
        """See `wire.Wire`."""
        reply = gemini_tools.sayable(reply)
        body: dict[str, Any] = {}
        if reply.finish == "prompt_blocked":
            body["promptFeedback"] = {"blockReason": "SAFETY", "safetyRatings": _DANGER}
        elif reply.finish != "nothing":
            body["candidates"] = [_candidate(reply_spec, reply, _parts(reply_spec, reply))]
        body[self.usage_key] = _usage(reply_spec, reply)
        if reply_spec.parsed.model == "sim-seed":
            # The reply on the page came through a gateway, which writes null where Google omits a field.
            body["candidates"][0]["safetyRatings"] = None
            body = {"candidates": body["candidates"], "promptFeedback": {"safetyRatings": None}, **body}
        return _named(body, reply_spec, reply)

    def events(self, reply_spec: ReplySpec, reply: SimulatedReply) -> list[dict[str, Any]]:
        """See `wire.Wire`."""
        reply = gemini_tools.sayable(reply)
        if reply.finish in {"prompt_blocked", "nothing"}:
            return [self.whole(reply_spec, reply)]
        parts: list[dict[str, Any]] = [{"text": piece, "thought": True} for piece in in_pieces(reply.thought or "", 2)]
        parts += _draft_picture(reply)
        parts += [{"text": piece} for piece in in_pieces(reply.text)]
        parts += _picture(reply)
        parts += gemini_tools.call_parts(reply.calls, reply_spec.parsed.model)
        events = [{"candidates": [{"content": {"parts": [part], "role": "model"}, "index": 0}]} for part in parts]
        last: dict[str, Any] = {"text": ""}
        if reply.signature is not None:
            last["thoughtSignature"] = reply.signature
        # As at Google, the last event has finishReason and usage, and a part with empty text.
        ending = {"candidates": [_candidate(reply_spec, reply, [last] if parts or reply.signature else [])]}
        ending[self.usage_key] = _usage(reply_spec, reply)  # pyright: ignore[reportArgumentType]  # a JSON object of mixed values
        return [_named(event, reply_spec, reply) for event in [*events, ending]]

    def frame(self, reply_spec: ReplySpec, events: list[bytes]) -> list[bytes]:
        """See `wire.Wire`."""
        if reply_spec.form == "sse":
            return [b"data: " + event + b"\r\n\r\n" for event in events]
        pieces = [(b"[" if at == 0 else b",\r\n") + event for at, event in enumerate(events)]
        return [*pieces, b"]"]

    def api_error(self, route: Route | None, cause: ErrorCause, now: float) -> ApiError:
        """See `wire.Wire`."""
        status, words = _ERRORS[cause.kind]
        status = cause.status or status
        version = route.version if route else "v1beta"
        message = cause.message or words.format(model=cause.model, version=version)
        worded = WordedHint()
        if cause.hint is not None:
            worded = word_hint(cause.hint, ("retry-info", "text"), now)
            message += worded.text
        error: dict[str, Any] = {"code": status, "message": message, "status": _STATUS.get(status, "UNKNOWN")}
        if details := _details(cause, worded):
            error["details"] = details
        body: Any = {"error": error}
        return ApiError(
            status=status, body=[body] if route and route.form == "array" else body, headers=dict(worded.headers)
        )

    def stream_error(self, cause: ErrorCause) -> bytes:
        """See `wire.Wire`."""
        return b"data: " + encode(self.api_error(None, cause, 0.0).body) + b"\n\n"

    def limit_headers(self, left: LeftOver, now: float) -> dict[str, str]:
        """See `wire.Wire`; Google sends none."""
        del left, now
        return {}

    def list_models(self, models: tuple[str, ...], query: Mapping[str, str]) -> dict[str, Any]:
        """See `wire.Wire`."""
        size = int(query["pageSize"]) if query.get("pageSize", "").isdecimal() else 50
        start = int(query["pageToken"]) if query.get("pageToken", "").isdecimal() else 0
        end = start + max(1, min(size, 1000))
        page: dict[str, Any] = {"models": [self.show_model(model) for model in models[start:end]]}
        if end < len(models):
            page["nextPageToken"] = str(end)
        return page

    def show_model(self, model: str) -> dict[str, Any]:
        """See `wire.Wire`."""
        return {
            "name": f"models/{model}",
            "version": "001",
            "displayName": f"Simulated {model}",
            "inputTokenLimit": 1_048_576,
            "outputTokenLimit": 65_536,
            "supportedGenerationMethods": ["generateContent"],
            "temperature": 1,
            "topP": 0.95,
            "topK": 64,
            "maxTemperature": 2,
            "thinking": model == "sim-think",
        }


GEMINI = GeminiWire()


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _object(value: Any, where: str, known: set[str]) -> dict[str, Any]:
    """Return a JSON object with camelCase keys; an unknown key is refused as by protobuf's parser."""
    plain = as_object(value)
    if plain is None:
        refuse("bad_request", f"Invalid value at '{where or 'request'}': expected an object.", field=where)
    fields: dict[str, Any] = {}
    for key, item in plain.items():
        name = key if key in known else _camel(key)
        at = f" at '{where}'" if where else ""
        if name not in known:
            refuse("bad_request", f'Invalid JSON payload received. Unknown name "{key}"{at}: Cannot find field.',
                   field=where)  # fmt: skip
        if item is not None:
            fields[name] = item
    return fields


def _checked(value: Any, where: str, table: dict[str, tuple[str, Callable[[object], bool]]]) -> dict[str, Any]:
    fields = _object(value, where, set(table))
    for name, item in fields.items():
        type_, holds = table[name]
        if not holds(item):
            field = f"{where}.{_snake(name)}"
            refuse("bad_request", f"Invalid value at '{field}' ({type_}), {encode(item).decode()}", field=field)
    return fields


def _check_safety(value: Any) -> None:
    for at, item in enumerate(as_list(value) or ()):
        where = f"safety_settings[{at}]"
        fields = _object(item, where, {"category", "threshold", "method"})
        if fields.get("category") not in _CATEGORIES or fields.get("threshold") not in _THRESHOLDS:
            refuse("bad_request", f"Invalid value at '{where}' (TYPE_ENUM), {encode(item).decode()}", field=where)


def _tier(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value.lower() in _TIERS):
        return {None: None, "unspecified": "standard"}.get(value, str(value).lower())
    refuse("bad_request", f"Invalid value at 'service_tier' (TYPE_ENUM), {encode(value).decode()}",
           field="service_tier")  # fmt: skip


def _schema(config: dict[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema of a reply, {} for JSON of any form; an OpenAPI schema may have the API's own keywords only."""
    if "responseSchema" in config and "responseJsonSchema" in config:
        refuse("bad_request", "Only one of response_schema and response_json_schema may be set.",
               field="generation_config")  # fmt: skip
    plain = config.get("responseSchema")
    if plain is not None:
        return _openapi(plain, "generation_config.response_schema")
    schema = config.get("responseJsonSchema")
    if schema is not None and (wrong := google_problem(schema)) is not None:
        refuse("bad_request", wrong, field="generation_config.response_json_schema")
    return {} if schema is None and config.get("responseMimeType") == "application/json" else schema


def _openapi(value: Any, where: str) -> dict[str, Any]:
    """Return an OpenAPI schema as JSON Schema; refuses an unknown keyword as protobuf's parser does."""
    fields = _object(value, where, _SCHEMA_KEYWORDS)
    schema: dict[str, Any] = {**fields, **({"type": fields["type"].lower()} if "type" in fields else {})}
    if "properties" in fields:
        parts = as_object(fields["properties"]) or {}
        schema["properties"] = {name: _openapi(part, f"{where}.properties[0].value") for name, part in parts.items()}
    if "items" in fields:
        schema["items"] = _openapi(fields["items"], f"{where}.items")
    if "anyOf" in fields:
        parts = as_list(fields["anyOf"]) or ()
        schema["anyOf"] = [_openapi(part, f"{where}.any_of[{at}]") for at, part in enumerate(parts)]
    counts = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
    return {**schema, **{key: int(schema[key]) for key in counts if key in schema}}  # int64: digits in a string, too


def _system(value: Any) -> str:
    if value is None:
        return ""
    content = _object(value, "system_instruction", {"role", "parts"})
    return "".join(_text_of(part) for part in _part_list(content, "system_instruction"))


def _contents(value: Any, model: str) -> tuple[tuple[tuple[str, str], ...], tuple[ReplayedTurn, ...]]:
    contents = as_list(value)
    if not contents:
        refuse("bad_request", "* GenerateContentRequest.contents: contents is not specified\n", field="contents")
    read: list[gemini_tools.Content] = []
    turns: list[tuple[str, list[dict[str, Any]]]] = []
    for at, item in enumerate(contents):
        where = f"contents[{at}]"
        content = _object(item, where, {"role", "parts"})
        role = content.get("role", "user")
        if str(role) not in {"user", "model", "function"}:
            refuse("bad_request", "Please use a valid role: user, model.", field=where)
        parts = _part_list(content, where)
        _check_pictures(role, parts, where)
        read.append((role, list(parts)))
        has_results = any("functionResponse" in part for part in parts)
        if role == "model" and turns and turns[-1][0] == "model":
            turns[-1][1].extend(parts)
        else:
            turns.append(("model" if role == "model" else "tool" if has_results else "user", parts))
    if turns[-1][0] == "model":
        refuse("bad_request", "Please ensure that multiturn requests end with a user turn.", field="contents")
    gemini_tools.check_order(read, model)
    messages = tuple((role, "".join(_text_of(part) for part in parts)) for role, parts in turns)
    return messages, tuple(
        _replayed(at, messages[at][1], parts) for at, (role, parts) in enumerate(turns) if role == "model"
    )


def _part_list(content: dict[str, Any], where: str) -> list[dict[str, Any]]:
    parts = as_list(content.get("parts"))
    if not parts:
        refuse("bad_request", f"* GenerateContentRequest.{where}.parts: contents.parts must not be empty.\n",
               field=where)  # fmt: skip
    return [_part(part, f"{where}.parts[{at}]") for at, part in enumerate(parts)]


def _part(value: Any, where: str) -> dict[str, Any]:
    part = _object(value, where, _PART)
    kinds = _DATA & part.keys()
    if len(kinds) != 1:
        message = f"* GenerateContentRequest.{where}.data: required oneof field 'data' must have one initialized field"
        refuse("bad_request", message, field=where)
    if not isinstance(part.get("text", ""), str):
        refuse("bad_request", f"Invalid value at '{where}.text' (TYPE_STRING), {encode(part['text']).decode()}",
               field=f"{where}.text")  # fmt: skip
    signature = part.get("thoughtSignature")
    if signature is not None and not _is_base64(signature):
        refuse("bad_request", f'Invalid value at \'{where}.thought_signature\' (TYPE_BYTES), Base64 decoding failed',
               field=where)  # fmt: skip
    return part


def _is_base64(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        b64decode(value, altchars=b"-_" if "-" in value or "_" in value else None, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _text_of(part: dict[str, Any]) -> str:
    """Return the visible text; any other part adds a mark, so that histories with other parts differ."""
    if part.get("thought"):
        return ""
    if "text" in part:
        return part["text"]
    if "functionResponse" in part:
        return gemini_tools.result_text(part["functionResponse"], _media_mark)
    if "functionCall" in part:
        return gemini_tools.call_mark(part["functionCall"])
    if "inlineData" in part or "fileData" in part:
        return _media_mark(part)
    return f"<part {hashlib.sha256(encode(part)).hexdigest()[:8]}>"


def _media_mark(part: dict[str, Any]) -> str:
    name = next((name for name in ("inlineData", "fileData") if name in part), "")
    if not name:
        return f"<part {hashlib.sha256(encode(part)).hexdigest()[:8]}>"
    blob = {_camel(key): value for key, value in (as_object(part[name]) or {}).items()}
    level = (as_object(part.get("mediaResolution")) or {}).get("level")
    try:
        if name == "fileData":
            mark = media.address_mark(media.kind_of(str(blob.get("mimeType", ""))), str(blob.get("fileUri")))
        else:
            mark = media.seen("gemini", blob.get("mimeType"), blob.get("data")).mark
        return media.in_detail(mark, level, media.GEMINI_DETAILS)
    except media.WrongMedia as wrong:
        refuse("bad_request", f"{wrong}", field=name)


def _replayed(index: int, text: str, parts: list[dict[str, Any]]) -> ReplayedTurn:
    signed = [at for at, part in enumerate(parts) if "thoughtSignature" in part and "functionCall" not in part]
    if not signed:
        return ReplayedTurn(index=index, text=text, signature=None, in_place=True)
    last = parts[signed[-1]]
    in_place = signed == [len(parts) - 1] and last.get("text") == ""
    # A bytes field may come back in the URL-safe alphabet: google-genai decodes and re-encodes it.
    signature = last["thoughtSignature"].translate(str.maketrans("-_", "+/"))
    return ReplayedTurn(index=index, text=text, signature=signature, in_place=in_place)


def _parts(reply_spec: ReplySpec, reply: SimulatedReply) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    if reply.thought:
        parts.append({"text": reply.thought, "thought": True})
    parts += _draft_picture(reply)
    if reply.text:
        parts.append({"text": reply.text})
    parts += _picture(reply)
    parts += gemini_tools.call_parts(reply.calls, reply_spec.parsed.model)
    if reply.signature is not None:
        parts.append({"text": "", "thoughtSignature": reply.signature})
    return parts


def _picture(reply: SimulatedReply) -> list[dict[str, Any]]:
    if reply.picture is None:
        return []
    blob = {"mimeType": "image/png", "data": b64encode(reply.picture).decode()}
    return [{"inlineData": blob, "thoughtSignature": media.signature_of(reply.picture)}]


def _draft_picture(reply: SimulatedReply) -> list[dict[str, Any]]:
    """Return a picture that the model made while it thought, which is not its answer."""
    if reply.picture is None:
        return []
    draft = media.drawing(reply.picture)
    return [{"inlineData": {"mimeType": "image/png", "data": b64encode(draft).decode()}, "thought": True}]


def _check_pictures(role: str, parts: list[dict[str, Any]], where: str) -> None:
    """Refuse a picture of the model that came back without the signature that it was given."""
    for at, part in enumerate(parts):
        blob = as_object(part.get("inlineData"))
        if role != "model" or blob is None or part.get("thought"):
            continue
        given = part.get("thoughtSignature")
        if given is None:
            refuse("bad_request", f"Image part is missing a thought_signature in content position {where}, "
                   f"part position {at + 1}.", field=where)  # fmt: skip
        content = media.decoded(blob.get("data"))
        if given.translate(str.maketrans("-_", "+/")) != media.signature_of(content):
            refuse("bad_request", f"Corrupted thought signature, position {where}, part {at + 1}.", field=where)


def _candidate(reply_spec: ReplySpec, reply: SimulatedReply, parts: list[dict[str, Any]]) -> dict[str, Any]:
    candidate: dict[str, Any] = {}
    if reply.finish != "output_blocked":
        candidate["content"] = {"parts": parts, "role": "model"} if parts else {"role": "model"}
    candidate["finishReason"] = _FINISH.get(reply.finish, "STOP")
    candidate["index"] = 0
    if reply.finish == "output_blocked":
        candidate["safetyRatings"] = _DANGER
    elif reply_spec.logprobs is not None and reply.text:
        candidate |= _logprobs(reply.text, reply_spec.logprobs)
    return candidate


def _logprobs(text: str, alternatives: int) -> dict[str, Any]:
    tokens = [token for piece in in_pieces(text) for token in tokens_of(piece)]
    chosen = [_token(token, at) for at, token in enumerate(tokens)]
    result: dict[str, Any] = {"chosenCandidates": chosen}
    if alternatives:
        result["topCandidates"] = [
            {"candidates": [_token(f"{token}{other or ''}", at) for other in range(alternatives)]}
            for at, token in enumerate(tokens)
        ]
    mean = sum(token["logProbability"] for token in chosen) / len(chosen)
    return {"avgLogprobs": mean, "logprobsResult": result}


def _token(token: str, place: int) -> dict[str, Any]:
    number = int.from_bytes(hashlib.sha256(token.encode("utf-8", "replace")).digest()[:2])
    return {"token": token, "tokenId": number, "logProbability": log_probability(token, place)}


def _usage(reply_spec: ReplySpec, reply: SimulatedReply) -> dict[str, Any]:
    """Return usage as Google does: zero counts are omitted, the candidates' count excludes thoughts."""
    usage: dict[str, Any] = {"promptTokenCount": reply.input_tokens}
    if shown := reply.visible_tokens + reply.picture_tokens:
        usage["candidatesTokenCount"] = shown
    if reply.picture_tokens:
        usage["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": reply.picture_tokens}]
    usage["totalTokenCount"] = reply.input_tokens + reply.output_tokens
    if reply.reasoning_tokens is not None:
        usage["thoughtsTokenCount"] = reply.reasoning_tokens
    usage["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": reply.input_tokens}]
    if reply_spec.tier is not None:
        usage["serviceTier"] = reply_spec.tier
    return usage


def _named(body: dict[str, Any], reply_spec: ReplySpec, reply: SimulatedReply) -> dict[str, Any]:
    body["modelVersion"] = "gemini-2.5-flash" if reply_spec.parsed.model == "sim-seed" else reply_spec.parsed.model
    body["responseId"] = reply.reply_id
    return body


def _details(cause: ErrorCause, worded: WordedHint) -> list[dict[str, Any]]:
    details: list[dict[str, Any]] = []
    if cause.kind == "bad_key":
        details.append(
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
                "metadata": {"service": "generativelanguage.googleapis.com"},
            }
        )
    if cause.kind == "bad_request" and cause.field:
        violation = {"field": cause.field, "description": cause.message}
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]})
    if cause.hint is not None and (worded.retry_delay or worded.per_day):
        metric, quota = _QUOTAS["day" if worded.per_day else cause.hint.dimension]
        violation = {
            "quotaMetric": f"generativelanguage.googleapis.com/{metric}",
            "quotaId": quota,
            "quotaDimensions": {"location": "global", "model": cause.model or ""},
            "quotaValue": str(cause.hint.limit),
        }
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
    if worded.retry_delay is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": worded.retry_delay})
    return details
