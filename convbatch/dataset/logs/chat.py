"""Messages of any wire or tool as those of OpenAI's chat API.

Read are lists of messages, request and response bodies (chat completions, Responses, Anthropic, Gemini), the parts of
OpenTelemetry, LangChain's messages, and each of them as JSON text. `None` means that a value is none of these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from convbatch.dataset.formats.builder import role_of
from convbatch.dataset.jsonl import RefusedValue, parse_value
from convbatch.dataset.logs.call import Message, as_dict


class Asked(NamedTuple):
    """A request."""

    messages: list[Message]
    tools: Any = None
    settings: Mapping[str, Any] = {}
    model: Any = None


SETTINGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "topP": "top_p",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "maxOutputTokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "seed": "seed",
    "stop": "stop",
    "stop_sequences": "stop",
    "stopSequences": "stop",
    "reasoning_effort": "reasoning_effort",
    "response_format": "response_format",
    "tool_choice": "tool_choice",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
"""Names of settings in logs → in OpenAI's chat API."""
_NUMBERS = ("temperature", "top_p", "max_tokens", "seed", "presence_penalty", "frequency_penalty")
_UNSET = {"presence_penalty": 0, "frequency_penalty": 0}
"""Values that are logged where nothing was set."""
_ROLES = {"human": "user", "ai": "assistant", "model": "assistant", "AIMessageChunk": "assistant", "function": "tool"}


def read_json(value: Any) -> Any:
    """Return the value in a JSON text; any other value unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return parse_value(value.encode("utf-8", "surrogatepass"))
    except RefusedValue:
        return value


def settings_of(values: Any) -> dict[str, Any]:
    """Return the known settings in an object, by their names in OpenAI's chat API."""
    values = read_json(values)
    found: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        name = SETTINGS.get(key)
        if name is None or value in (None, "", [], {}) or name in found or value == _UNSET.get(name, ...):
            continue
        if name in _NUMBERS:
            value = _number(value)
            if value is None or (name in ("max_tokens", "seed") and not isinstance(value, int)):
                continue
        found[name] = value
    return found


def _number(value: Any) -> int | float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, int | float) or value != value or value in (float("inf"), float("-inf")):
        return None
    return int(value) if float(value).is_integer() else value


def read_request(value: Any) -> Asked | None:
    """Return the messages of a request with what stands beside them."""
    value = read_json(value)
    if isinstance(value, str):
        return Asked([{"role": "user", "content": value}]) if value.strip() else None
    if isinstance(value, list):
        messages = read_messages(value)
        return None if not messages else Asked(messages)
    if not isinstance(value, dict):
        return None
    return _read_body(value)


def _read_body(body: dict[str, Any]) -> Asked | None:
    if isinstance(body.get("kwargs"), dict) and (inner := _read_body(body["kwargs"])) is not None:
        return inner  # a traced function
    asked: Sequence[Any] | None = None
    if "contents" in body:
        asked = _gemini(body["contents"])
        system = body.get("systemInstruction", body.get("system_instruction"))
    else:
        system = body.get("system", body.get("instructions"))
        keys = ("messages", "input", "prompt", "prompts", "chat_history", "question", "query")
        held = next((body[key] for key in keys if body.get(key)), None)
        held = read_json(held)
        if isinstance(held, str):
            asked = [{"role": "user", "content": held}]
        elif isinstance(held, list):
            asked = read_messages(held)
        elif "role" in body:
            asked = read_messages([body])
    if not asked:
        return None
    messages = list(asked)
    if (text := _text(system)) and not any(message["role"] in ("system", "developer") for message in messages[:1]):
        messages.insert(0, {"role": "system", "content": text})
    config = body.get("generationConfig", body.get("generation_config"))
    tools = body.get("tools") or body.get("functions")
    return Asked(messages, tools, settings_of(body) | settings_of(config), body.get("model"))


def read_messages(values: Any) -> list[Message] | None:
    """Return a list of messages of any tool; None if one of them is no message."""
    values = read_json(values)
    if not isinstance(values, list):
        return None
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]  # a batch of one, as LangChain logs it
    if values and all(isinstance(text, str) for text in values):
        inner = [read_json(text) for text in values]
        if any(isinstance(one, str) for one in inner):
            return [{"role": "user", "content": "\n".join(values)}] if len(values) == 1 else None
        values = inner
    found: list[Message] = []
    for value in values:
        read = _read_message(read_json(value))
        if read is None:
            return None
        found += read
    return _answered(found)


def _answered(messages: list[Message]) -> list[Message]:
    """Give results without id and name, as some instrumentations of Google's SDK write them, those of the calls."""
    waiting: list[Any] = []
    for message in messages:
        if message.get("tool_calls"):
            waiting = list(message["tool_calls"])
        elif message.get("role") != "tool":
            waiting = []
        elif waiting:
            call = as_dict(waiting.pop(0))
            if not message.get("tool_call_id") and not message.get("name") and call:
                message |= {"tool_call_id": call.get("id"), "name": as_dict(call.get("function")).get("name")}
    return messages


def _read_message(value: Any) -> list[Message] | None:
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("message"), dict) and "role" not in value:
        return _read_message(value["message"])
    if isinstance(value.get("kwargs"), dict) and isinstance(value.get("id"), list):  # LangChain's serialised form
        kind = str(value["id"][-1]) if value["id"] else ""
        role = {"HumanMessage": "user", "AIMessage": "assistant", "SystemMessage": "system", "ToolMessage": "tool"}
        return _read_message({"role": role.get(kind), **value["kwargs"]})
    kind, role = value.get("type"), value.get("role")
    if kind == "function_call":
        call = {"name": value.get("name"), "arguments": value.get("arguments")}
        return [_calls([{"id": value.get("call_id"), "type": "function", "function": call}], None)]
    if kind == "function_call_output":
        return [{"role": "tool", "tool_call_id": value.get("call_id"), "content": value.get("output")}]
    if kind == "reasoning" and role is None:
        return []
    if role is None and isinstance(kind, str) and kind in ("human", "ai", "system", "tool", "user", "assistant"):
        role = kind
    if not isinstance(role, str):
        return None
    role = _ROLES.get(role, role)
    if isinstance(value.get("parts"), list):
        return _parts_message(role, value["parts"], value)
    return [_plain_message(role, value)]


_LEFT_OUT = (
    "id", "source", "internal", "perf_metrics", "metadata", "model", "annotations", "audio", "refusal", "status",
    "type", "function_call", "name", "response_metadata", "usage_metadata", "additional_kwargs", "invalid_tool_calls",
    "example", "lc_direct_tool_output", "finish_reason", "reasoning_content", "provider_specific_fields",
    "thinking_blocks", "images", "index", "logprobs", "phase", "reasoning", "reasoning_details", "created_at",
    "tool_call_id", "timestamp", "stop_reason", "artifact", "citations", "cache_control", "prefix", "function",
)  # fmt: skip
"""Keys of messages in logs that are no part of what was said."""


def _plain_message(role: str, value: Mapping[str, Any]) -> Message:
    message: Message = {"role": role, "content": _content(value.get("content"))}
    if role == "tool":
        message |= {
            key: value[key] for key in ("tool_call_id", "error", "is_error") if value.get(key) not in (None, "")
        }
        name = value.get("name") or value.get("function")
        return message | ({"name": name} if isinstance(name, str) and name else {})
    calls = value.get("tool_calls")
    extra = value.get("additional_kwargs")
    if not calls and isinstance(extra, dict):
        calls = extra.get("tool_calls")
    if not calls and isinstance(value.get("function_call"), dict):
        calls = [value["function_call"]]
    if isinstance(calls, list) and calls:
        return _calls([_call(call) for call in calls], message["content"])
    if message["content"] is None and isinstance(value.get("refusal"), str):
        message["content"] = value["refusal"]
    known = {"role", "content", "tool_calls", "parts", "parsed", *_LEFT_OUT}
    return message | {key: held for key, held in value.items() if key not in known and held not in (None, "", [], {})}


def _call(call: Any) -> Any:
    """Return a call as OpenAI's chat API writes it; inspect_ai and LangChain have plain keys `function` and `args`."""
    if not isinstance(call, dict) or isinstance(call.get("function"), dict):
        return call
    name = call.get("function", call.get("name"))
    arguments = call.get("arguments", call.get("args", call.get("input")))
    return {"id": call.get("id"), "type": "function", "function": {"name": name, "arguments": arguments}}


def _calls(calls: list[Any], content: Any) -> Message:
    for call in calls:
        if isinstance(call, dict) and call.get("id") in (None, ""):
            call.pop("id", None)
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _content(content: Any) -> Any:
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return [_part(part) for part in content if part.get("type") not in ("reasoning", "thinking")]
    return content


def _part(part: dict[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text")}
    if kind == "text":
        return {"type": "text", "text": part.get("text", part.get("content"))}
    if kind == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
    if kind == "image" and isinstance(part.get("image"), str):  # inspect_ai
        return {"type": "image_url", "image_url": {"url": part["image"]}}
    return {key: value for key, value in part.items() if value is not None}


class _Parts(NamedTuple):
    """What the parts of a message are."""

    content: list[dict[str, Any]]
    calls: list[Any]
    results: list[Message]


def _parts_message(role: str, parts: Sequence[Any], value: Mapping[str, Any]) -> list[Message] | None:
    """Return a message of OpenTelemetry's parts, or of Gemini's: the results of calls are messages of their own."""
    read = _Parts([], [], [])
    for part in parts:
        if isinstance(part, str):
            read.content.append({"type": "text", "text": part})
        elif isinstance(part, dict):
            _sort_part(part, read)
        else:
            return None
    content, calls, results = read
    if calls:
        said: Any = "".join(str(part.get("text") or "") for part in content) or None
        return [*results, _calls(calls, said)]
    if results and not content:
        return results
    texts = [part["text"] for part in content if part.get("type") == "text"]
    plain: Any = content
    if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
        plain = "".join(texts) if role in ("assistant", "tool") or len(texts) == 1 else content
    if role != "tool":
        return [*results, {"role": role, "content": plain}]
    named = {key: value[key] for key in ("name", "tool_call_id") if isinstance(value.get(key), str)}
    return [*results, {"role": "tool", "content": plain, **named}]


def _sort_part(part: dict[str, Any], read: _Parts) -> None:
    kind = part.get("type")
    call = as_dict(part.get("functionCall", part.get("function_call")))
    answer = as_dict(part.get("functionResponse", part.get("function_response")))
    if kind == "tool_call":
        read.calls.append(_call(part))
    elif kind == "tool_call_response":
        held = part.get("response", part.get("result"))
        read.results.append({"role": "tool", "tool_call_id": part.get("id"), "content": held})
    elif kind in ("reasoning", "thinking") or part.get("thought") is True:
        return
    elif call:
        read.calls.append(_call({"id": call.get("id"), "name": call.get("name"), "arguments": call.get("args")}))
    elif answer:
        read.results.append({"role": "tool", "name": answer.get("name"), "content": answer.get("response")})
    else:
        read.content.append(_said(part))


def _said(part: Mapping[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    inline = part.get("inlineData", part.get("inline_data"))
    if kind == "text" or (kind is None and isinstance(part.get("text"), str)):
        return {"type": "text", "text": part.get("content", part.get("text"))}
    if isinstance(inline, dict):
        part = {"mime_type": inline.get("mimeType", inline.get("mime_type")), "content": inline.get("data")}
        kind = "blob"
    if kind == "blob" and isinstance(part.get("content", part.get("data")), str):
        mime_type = part.get("mime_type") or ""
        url = f"data:{mime_type};base64,{part.get('content', part.get('data'))}"
        return {"type": _media_kind(part, mime_type), _media_kind(part, mime_type): {"url": url}}
    if kind == "uri" and isinstance(part.get("uri"), str):
        name = _media_kind(part, part.get("mime_type") or "")
        return {"type": name, name: {"url": part["uri"]}}
    return dict(part)


def _media_kind(part: Mapping[str, Any], mime_type: str) -> str:
    modality = str(part.get("modality") or mime_type.partition("/")[0])
    return f"{modality}_url" if modality in ("image", "audio", "video") else "image_url"


def _gemini(contents: Any) -> list[Message] | None:
    contents = read_json(contents)
    if isinstance(contents, str):
        return [{"role": "user", "content": contents}]
    contents = [contents] if isinstance(contents, dict) else contents
    if not isinstance(contents, list):
        return None
    named = [{"role": "user", **one} if isinstance(one, dict) and not one.get("role") else one for one in contents]
    return read_messages(named)


def _text(value: Any) -> str | None:
    """Return a system text: a string, a list of texts or of parts, or an object of parts."""
    value = read_json(value)
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return _text(value.get("parts", value.get("content", value.get("text"))))
    if isinstance(value, list):
        texts = [_text(part) for part in value]
        return "\n".join(text for text in texts if text)
    return None


def system_text(value: Any) -> str | None:
    """Return a system text that stands beside the messages; None without one."""
    return _text(value) or None


def read_reply(value: Any) -> Message | None:
    """Return the reply in a response body, a message or a text; None without one."""
    value = read_json(value)
    if isinstance(value, str):
        return {"role": "assistant", "content": value} if value.strip() else None
    if isinstance(value, list):
        return _last_reply(read_messages(value))
    if not isinstance(value, dict):
        return None
    choices = value.get("choices", value.get("generations", value.get("candidates")))
    if isinstance(choices, list) and choices:
        return _choice(choices[0])
    if isinstance(value.get("output"), list):  # Responses
        return _last_reply(read_messages(value["output"]))
    if isinstance(value.get("messages"), list) and "role" not in value:
        return _last_reply(read_messages(value["messages"]))
    if "role" in value or "parts" in value or value.get("type") in ("ai", "assistant", "message"):
        return _last_reply(read_messages([{"role": "assistant", **value}]))
    for key in ("output", "completion", "response", "answer", "content", "text", "result"):
        if isinstance(value.get(key), str) and value[key].strip():
            return {"role": "assistant", "content": value[key]}
    return None


def _choice(choice: Any) -> Message | None:
    choice = choice[0] if isinstance(choice, list) and choice else choice
    if not isinstance(choice, dict):
        return None
    held = choice.get("message", choice.get("content"))
    if isinstance(held, str):
        held = {"content": held}
    if isinstance(held, dict):
        return _last_reply(read_messages([{"role": "assistant", **held}]))
    text = choice.get("text")
    return {"role": "assistant", "content": text} if isinstance(text, str) and text.strip() else None


def _last_reply(messages: list[Message] | None) -> Message | None:
    """Return one message of the model from the last ones: their texts, or their calls."""
    if not messages:
        return None
    end: list[Message] = []
    for message in reversed(messages):
        if role_of(message["role"]) != "assistant":
            break
        end.insert(0, message)
    if not end:
        return None
    calls = [call for message in end for call in message.get("tool_calls") or ()]
    if calls:
        return {"role": "assistant", "content": end[0].get("content"), "tool_calls": calls}
    return end[-1]


def is_said(message: Message) -> bool:
    """Whether a message has any content: a log without content has messages of roles only."""
    return message.get("content") not in (None, "", [], {}) or bool(message.get("tool_calls"))


def plain_json(value: Any) -> str:
    """Return a value as JSON whose text depends only on the value."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)
