"""Read a reply that comes in a shape other than the wire's own: inside a wrapper, or as another API writes it.

Only for bodies in which the protocol found no reply, so that its own shape always comes first. Other shapes are turned
into a chat completion, and that is parsed. Such a reply has no raw turn to replay: what is replayed is its text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from convbatch.protocols.anthropic import Anthropic
from convbatch.protocols.decoding import word
from convbatch.protocols.gemini import Gemini
from convbatch.protocols.openai import OpenAI
from convbatch.protocols.responses import Responses
from convbatch.protocols.sse import SseEvent
from convbatch.protocols.wire import Draft, ErrorInBody, MalformedReply, WireProtocol, decode_json, encode_json
from convbatch.reply import Reply

_WRAPPERS = ("data", "result", "response", "body", "output", "completion")
_NO_ERROR = frozenset({None, "", 0, 200, "0", "200", "success", "SUCCESS", "Success", "ok", "OK"})
# The text of a reply at its top: text-generation-inference, Ollama, Baidu, older APIs of Anthropic and Cohere.
_PLAIN_KEYS = ("generated_text", "response", "result", "completion", "output_text", "answer", "text")
_END_KEYS = ("finish_reason", "stop_reason", "done_reason", "stopReason")
_TEXT_KEYS = ("text", "content", "output_text", "value", "answer", "response", "message")
_OPENAI = OpenAI()
_GEMINI = Gemini()
_RESPONSES = Responses()
_ANTHROPIC = Anthropic()
_ITEMS = frozenset({"message", "reasoning", "function_call"})
_WIRE_NAMES = {"gemini": "Gemini", "openai": "OpenAI chat", "responses": "Responses", "anthropic": "Anthropic"}
_MAX_WRAPPERS = 3
_ON_WIRE = " wire: protocol = "


def read_shape(protocol: WireProtocol, value: Any) -> tuple[Reply, str] | None:
    """Read a decoded body in another shape.

    Returns:
        The reply and what its shape was; None if there is no complete reply in a known shape.
    """
    notes: list[str] = []
    inner, usage = value, None
    for _ in range(_MAX_WRAPPERS):
        unwrapped = _unwrapped(inner)
        if unwrapped is None:
            break
        usage = usage or inner.get("usage") if isinstance(inner, dict) else usage
        inner, where = unwrapped
        notes.append(where)
    if not isinstance(inner, dict) or inner.get("error"):
        return None
    if usage and not inner.get("usage"):
        inner = {**inner, "usage": usage}
    read = _read(protocol, inner)
    if read is None or not _has_content(read[0]):
        return None
    reply, note = read
    notes += [note] if note else []
    return (reply, "; ".join(notes)) if notes else None


def read_stream_shape(protocol: WireProtocol, values: Iterable[Any]) -> tuple[Reply, str] | None:
    """Read the decoded events of a stream of another API; None if it is not complete, or not known."""
    values = [value for value in values if isinstance(value, dict)]
    if any(str(value.get("type")).startswith("response.") for value in values):
        if protocol.name != "responses":
            return _folded(_RESPONSES, values, _foreign(_RESPONSES, protocol))
        final = values[-1].get("response")
        return read_shape(protocol, final) if isinstance(final, dict) else None
    if protocol.name != "anthropic" and any(value.get("type") == "message_start" for value in values):
        return _folded(_ANTHROPIC, values, _foreign(_ANTHROPIC, protocol))
    if values and values[-1].get("done") is True:
        pieces = [value.get("message", {"content": value.get("response")}) for value in values]
        texts = [word(piece.get("content")) or "" for piece in _objects(pieces)]
        return read_shape(protocol, {**values[-1], "message": _assistant("".join(texts))})
    if protocol.name != "gemini" and any("candidates" in value for value in values):
        return _folded(_GEMINI, values, _foreign(_GEMINI, protocol))
    if protocol.name != "openai" and any("choices" in value for value in values):
        return _folded(_OPENAI, values, _foreign(_OPENAI, protocol))
    return None


def _foreign(read: WireProtocol, protocol: WireProtocol) -> str:
    """Return the note on an answer of another protocol, which is probably the right one for the gateway."""
    name = _WIRE_NAMES[read.name]
    article = "an" if name[0] in "AO" else "a"
    wire = _WIRE_NAMES.get(protocol.name, protocol.name)
    return f'{article} {name} answer on the {wire}{_ON_WIRE}"{read.name}"?'


def other_wire(note: str | None) -> str | None:
    """Return the part of a note that says that a reply came in the shape of another protocol; None without one."""
    return next((part for part in (note or "").split("; ") if _ON_WIRE in part), None)


def _folded(protocol: WireProtocol, values: list[dict[str, Any]], note: str) -> tuple[Reply, str] | None:
    draft = Draft()
    try:
        for value in values:
            draft = protocol.parse_event(draft, SseEvent(event="", data=encode_json(value).decode("utf-8")))
        return protocol.finish(draft)._replace(raw_turn=None), note
    except (MalformedReply, ErrorInBody):
        return None


def _unwrapped(value: Any) -> tuple[Any, str] | None:
    """Return what a wrapper contains, and where; None if the value is none."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        return value[0], "the reply is inside an array"
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        return _decoded(value, "the reply is JSON inside a JSON string")
    if not isinstance(value, dict) or any(name in value for name in ("choices", "candidates")):
        return None
    if value.get("error") or value.get("success") is False or not _is_no_error(value.get("code")):
        return None
    for name in _WRAPPERS:
        inner = value.get(name)
        if isinstance(inner, str) and inner.lstrip()[:1] == "{":
            return _decoded(inner, f"the reply is JSON inside {name!r}")
        if isinstance(inner, dict) and any(
            key in inner for key in ("choices", "candidates", "output", "stop_reason", *_WRAPPERS)
        ):
            return inner, f"the reply is inside {name!r}"
        if isinstance(inner, dict) and name == "output" and isinstance(inner.get("text"), str):
            return {"choices": [inner]}, "a reply in the shape of DashScope"
    return None


def _decoded(text: str, note: str) -> tuple[Any, str] | None:
    try:
        return decode_json(text.encode("utf-8", "surrogatepass")), note
    except MalformedReply:
        return None


def _is_no_error(code: Any) -> bool:
    return not isinstance(code, dict | list) and code in _NO_ERROR


def _has_content(reply: Reply) -> bool:
    is_ended = bool(reply.finish_reason_raw) or bool(reply.text)
    return is_ended and bool(
        reply.text or reply.tool_calls or reply.has_media or reply.blocked or reply.finish_reason_raw
    )


def _read(protocol: WireProtocol, value: dict[str, Any]) -> tuple[Reply, str | None] | None:
    shape = _shape_of(value)
    try:
        if shape is None:
            foreign = _as_completion(value)
            if foreign is None:
                return None
            whole, note = foreign
            return _OPENAI.parse_response(encode_json(whole))._replace(raw_turn=None), note
        read, whole, note = shape
        reply = read.parse_response(encode_json(whole))
    except (MalformedReply, ErrorInBody):
        return None
    if read.name == protocol.name:
        return reply, note
    return reply._replace(raw_turn=None), "; ".join(filter(None, [_foreign(read, protocol), note]))


def _shape_of(value: dict[str, Any]) -> tuple[WireProtocol, dict[str, Any], str | None] | None:
    """Return the protocol whose reply a body is, the body in its usual form, and what the form was."""
    if "candidates" in value or "promptFeedback" in value:
        return _GEMINI, value, None
    if "choices" in value:
        whole, note = _usual_choices(value)
        return _OPENAI, {**whole, "usage": _usage_of(whole.get("usage"))}, note
    if (output := _usual_output(value)) is not None:
        return _RESPONSES, *output
    if (message := _usual_message(value)) is not None:
        return _ANTHROPIC, *message
    return None


def _usual_choices(value: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return a completion with its first choice in the usual form, and what the form was."""
    choices = value["choices"]
    first: Any = choices if isinstance(choices, dict) else choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return value, None
    message, note = _message_of(first)
    if isinstance(choices, dict):
        note = note or "choices is one object instead of a list"
    return ({**value, "choices": [{**first, "message": message}]}, note) if note else (value, None)


def _message_of(choice: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    message = choice.get("message")
    if isinstance(message, str):
        return _assistant(message), "the message is a text"
    if isinstance(message, dict) and message:
        content, note = _content_of(message.get("content"))
        return ({**message, "content": content}, note) if note else (message, None)
    if not choice.get("finish_reason"):
        return {}, None  # a piece of a stream has the same two forms
    delta = choice.get("delta")
    if isinstance(delta, dict) and delta:
        content, note = _content_of(delta.get("content"))
        return {
            "role": "assistant",
            **delta,
            "content": content,
        }, f"delta in place of message{f', {note}' if note else ''}"
    if isinstance(choice.get("text"), str):
        return _assistant(choice["text"]), "text in place of message"
    return {}, None


def _content_of(content: Any) -> tuple[Any, str | None]:
    """Return a content as text if it is neither text nor a list of parts."""
    if content is None or isinstance(content, str | list):
        return content, None
    if not isinstance(content, dict):
        return encode_json(content).decode("utf-8"), f"the content is a JSON {type(content).__name__}"
    if isinstance(parts := content.get("parts"), list):
        texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
        return "".join(texts), "the content is a JSON object with parts"
    texts = [content[key] for key in _TEXT_KEYS if isinstance(content.get(key), str)]
    if len(texts) == 1:
        return texts[0], "the content is a JSON object; its text was read"
    return encode_json(content).decode("utf-8"), "the content is a JSON object, read as JSON text"


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _usual_output(value: dict[str, Any]) -> tuple[dict[str, Any], str | None] | None:
    """Return a response with a list of items as its output, and what the form was; None if it is not a response."""
    if value.get("status", "completed") not in ("completed", "incomplete"):
        return None
    output, text, note = value.get("output"), value.get("output_text"), None
    if isinstance(output, dict) and word(output.get("type")) in _ITEMS:
        output, note = [output], "output is one item instead of a list"
    elif isinstance(output, str) and output and value.get("object") == "response":
        output, note = [_assistant(output)], "output is a text"
    if isinstance(output, list) and output:
        items = [item for one in output for item in (one if isinstance(one, list) else [one]) if item is not None]
        note = note or ("a list inside the output" if any(isinstance(one, list) for one in output) else None)
        usual = [(one, part) for item in items for one, part in _usual_items(item)]
        whole = {"status": "completed", **value, "output": [item for item, _ in usual]}
        return whole, note or next((part for _, part in usual if part), None)
    if isinstance(text, str) and text and (value.get("status") or value.get("usage")):
        return {"status": "completed", **value, "output": [_assistant(text)]}, "the reply is the text 'output_text'"
    return None


def _usual_items(item: Any) -> list[tuple[Any, str | None]]:
    """Return what an output item stands for in the usual form, each with what the form was."""
    if isinstance(item, str):
        return [(_assistant(item), "an item is a text")]
    if not isinstance(item, dict) or item.get("type", "message") != "message":
        return [(item, None)]
    calls = [
        {"type": "function_call", "call_id": call.get("id"), **function}
        for call in _objects(item.get("tool_calls"))
        if isinstance(function := call.get("function"), dict)
    ]
    return [_usual_item(item), *((call, "tool calls inside a message") for call in calls)]


def _usual_item(item: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    content = item.get("content")
    if content is None and isinstance(item.get("text"), str):
        return {**item, "content": item["text"]}, "text in place of content"
    if content is None and isinstance(item.get("parts"), list):
        content = {"parts": item["parts"]}
    if isinstance(content, list) and any(isinstance(part.get("text"), dict) for part in _objects(content)):
        texts = [_content_of(part.get("text"))[0] for part in _objects(content)]
        return {**item, "content": "".join(text for text in texts if isinstance(text, str))}, "a text is a JSON object"
    content, note = _content_of(content)
    return ({**item, "content": content}, note) if note else (item, None)


def _usual_message(value: dict[str, Any]) -> tuple[dict[str, Any], str | None] | None:
    """Return a message of Anthropic with a list of blocks as its content, and what the form was; None if it is none."""
    content, is_message = value.get("content"), value.get("type") == "message" or "stop_reason" in value
    if not is_message or not content or value.get("role", "assistant") != "assistant":
        return None
    if isinstance(content, str | list):
        return value, "the content is a text" if isinstance(content, str) else None
    if isinstance(content, dict) and ("type" in content or "text" in content):
        return {**value, "content": [content]}, "content is one block instead of a list"
    text, note = _content_of(content)
    return {**value, "content": text}, note


def _as_completion(value: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
    """Return the chat completion that a body of another API stands for, and the API's name."""
    message = value.get("message")
    if isinstance(output := value.get("output"), dict) and isinstance(output.get("message"), dict):
        message, value = output["message"], {"finish_reason": value.get("stopReason"), "usage": _converse_usage(value)}
    if isinstance(message, dict) and message.get("role") == "assistant" and value.get("done", True) is True:
        content, _ = _content_of(message.get("content"))
        reason = value.get("done_reason") or value.get("finish_reason")
        usage = value.get("usage") or {
            "prompt_tokens": value.get("prompt_eval_count"),
            "completion_tokens": value.get("eval_count"),
        }
        return _completion(value, {**message, "content": content}, reason, usage), "a message without choices"
    return _of_plain_text(value)


def _converse_usage(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the counts of Bedrock's Converse under the names of chat completions."""
    counts = value.get("usage")
    if not isinstance(counts, dict):
        return None
    return {"prompt_tokens": counts.get("inputTokens"), "completion_tokens": counts.get("outputTokens")}


def _of_plain_text(value: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """Return the chat completion of a body with a text at its top that is a reply: it has ended, and nothing failed."""
    name = next((name for name in _PLAIN_KEYS if isinstance(value.get(name), str) and value[name]), None)
    reason = next((value[key] for key in _END_KEYS if value.get(key)), None)
    has_ended = reason or value.get("done") is True or value.get("is_end") is True or value.get("usage")
    if name is None or not (has_ended or name == "generated_text"):
        return None
    if value.get("done") is False or value.get("is_end") is False or value.get("success") is False:
        return None
    if not _is_no_error(value.get("code")) or value.get("error_code") or value.get("error_msg"):
        return None
    return _completion(value, _assistant(value[name]), reason, value.get("usage")), f"the reply is the text {name!r}"


def _completion(value: Mapping[str, Any], message: dict[str, Any], reason: Any, usage: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"id": value.get("id"), "model": value.get("model"), "choices": [choice], "usage": usage}


def _usage_of(counts: Any) -> dict[str, Any] | None:
    """Return counts under the names of chat completions."""
    if not isinstance(counts, dict) or "input_tokens" not in counts:
        return counts if isinstance(counts, dict) else None
    cached, written = counts.get("cache_read_input_tokens"), counts.get("cache_creation_input_tokens")
    prompt = counts["input_tokens"]
    details = counts.get("input_tokens_details")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": counts.get("output_tokens"),
        "total_tokens": counts.get("total_tokens"),
        "prompt_tokens_details": details
        if isinstance(details, dict)
        else {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": counts.get("output_tokens_details"),
    }


def _objects(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
