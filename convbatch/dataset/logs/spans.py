"""Spans of requests to models: OpenTelemetry's GenAI names in all their versions, OpenInference (Phoenix), Langfuse.

A span's messages are in its attributes, in its events, or in log records of the same span, which may be in another
file; so spans and records are kept on disk until all files are read.
"""

from __future__ import annotations

import ast
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

import orjson

from convbatch.dataset.logs.call import (
    AGENT,
    CALL,
    TRACE,
    Collector,
    LogCall,
    Message,
    as_dict,
    as_list,
    first_named,
    known,
    named,
)
from convbatch.dataset.logs.chat import (
    is_said,
    read_json,
    read_messages,
    read_reply,
    read_request,
    settings_of,
    system_text,
)
from convbatch.dataset.logs.entries import Entry, LogFile
from convbatch.dataset.logs.packing import pack
from convbatch.dataset.logs.span import LogRecord, Span, SpanEvent, is_export, numbered, read_spans
from convbatch.errors import Issue

CAPTURE = (
    "set OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true (TRACELOOP_TRACE_CONTENT=true) in the traced program; "
    "if the messages are in log records, name their file too"
)
"""How the messages get into spans."""
_HIDDEN = "unset OPENINFERENCE_HIDE_INPUTS and OPENINFERENCE_HIDE_OUTPUTS in the traced program"
_SHAPE = 'a span has "attributes" and a "span_id", or stands in "resourceSpans" (OTLP JSON)'
_SESSIONS = (
    "gen_ai.conversation.id",
    "session.id",
    "langfuse.session.id",
    "langfuse.trace.session_id",
    "traceloop.association.properties.session_id",
    "traceloop.association.properties.conversation_id",
    "traceloop.association.properties.thread_id",
    "traceloop.association.properties.chat_id",
)
_OTHER_OPERATIONS = ("embeddings", "execute_tool", "create_agent", "rerank")
_OTHER_KINDS = ("EMBEDDING", "RETRIEVER", "RERANKER", "TOOL", "GUARDRAIL", "EVALUATOR")


def read_traces(files: Iterable[tuple[LogFile, Collector]]) -> None:
    """Read spans and log records of all files; calls go to the collector of the file that has the span."""
    with closing(sqlite3.connect("", isolation_level=None)) as held:
        held.execute("PRAGMA journal_mode = OFF")  # the database ends with the command
        held.execute("CREATE TABLE spans (file INTEGER, line INTEGER, part TEXT, trace TEXT, span TEXT, json BLOB)")
        held.execute("CREATE TABLE records (trace TEXT, span TEXT, json BLOB)")
        held.execute("BEGIN")
        collectors: list[Collector] = []
        for number, (file, collector) in enumerate(files):
            collectors.append(collector)
            for entry in file.entries():
                _keep(held, number, entry, collector)
        held.execute("CREATE INDEX by_span ON records (span)")
        has_records = held.execute("SELECT 1 FROM records LIMIT 1").fetchone() is not None
        rows = held.execute("SELECT file, line, part, json FROM spans ORDER BY rowid")
        for number, line, part, packed in rows:
            span = _unpacked(orjson.loads(packed))
            _read(span, _records(held, span) if has_records else (), line, part, collectors[number])


def _keep(held: sqlite3.Connection, number: int, entry: Entry, collector: Collector) -> None:
    if entry.issue is not None:
        collector.problem(entry.issue, entry.line, entry.part)
        return
    if not is_export(entry.value) and not any(
        isinstance(entry.value.get(key), list) for key in ("data", "spans", "batches")
    ):
        found = "keys " + ", ".join(map(str, list(entry.value)[:12]))
        collector.problem(
            Issue(what="neither a span nor a log record", found=found, hint=_SHAPE), entry.line, entry.part
        )
        return
    for one in read_spans(entry.value):
        if isinstance(one, LogRecord):
            if one.event.name.startswith("gen_ai."):
                event = [one.event.name, one.event.attributes, one.event.body]
                held.execute("INSERT INTO records VALUES (?, ?, ?)", (one.trace, one.span, pack(event)))
            continue
        session = _session(one.attributes)
        if one.trace is not None and session is not None:
            collector.trace(one.trace, session=session)
        if _level(one) is None:
            if any(key.startswith(("gen_ai.", "llm.", "openinference.")) for key in one.attributes):
                collector.other("spans that ask no model")
            continue
        place = (number, entry.line, entry.part, one.trace, one.ident)
        held.execute("INSERT INTO spans VALUES (?, ?, ?, ?, ?, ?)", (*place, pack(_to_plain(one))))


def _to_plain(span: Span) -> list[Any]:
    events = [[event.name, event.attributes, event.body] for event in span.events]
    plain = [span.name, span.trace, span.ident, span.time, span.attributes, events, span.has_failed, span.resource]
    return plain


def _unpacked(plain: list[Any]) -> Span:
    name, trace, ident, time, attributes, events, has_failed, resource = plain
    return Span(
        name=name,
        trace=trace,
        ident=ident,
        time=time,
        attributes=attributes,
        events=tuple(SpanEvent(name=n, attributes=a, body=b) for n, a, b in events),
        has_failed=has_failed,
        resource=resource,
    )


def _records(held: sqlite3.Connection, span: Span) -> tuple[SpanEvent, ...]:
    if span.ident is None:
        return ()
    query = "SELECT json FROM records WHERE span = ? AND trace IS ? ORDER BY rowid"
    rows = held.execute(query, (span.ident, span.trace))
    read = (orjson.loads(row[0]) for row in rows)
    return tuple(SpanEvent(name=name, attributes=attributes, body=body) for name, attributes, body in read)


def _session(attributes: Mapping[str, Any]) -> str | None:
    return first_named(dict(attributes), *_SESSIONS)


def _level(span: Span) -> int | None:
    """Return the level of a span that asks a model or runs an agent; None for others."""
    attributes = span.attributes
    operation, kind = attributes.get("gen_ai.operation.name"), attributes.get("openinference.span.kind")
    kind = kind.upper() if isinstance(kind, str) else None
    observed = str(attributes.get("langfuse.observation.type") or "").lower()
    if operation in _OTHER_OPERATIONS or kind in _OTHER_KINDS:
        return None
    if operation in ("invoke_agent", "invoke_workflow"):
        return AGENT
    if operation is not None or kind == "LLM" or observed == "generation":
        return CALL
    if kind in ("AGENT", "CHAIN") or observed in ("agent", "chain", "span"):
        return TRACE
    if any(
        key.startswith(("gen_ai.prompt", "gen_ai.input.messages", "gen_ai.request.model", "llm.input_messages"))
        for key in attributes
    ):
        return CALL
    is_told = any(event.name.startswith("gen_ai.") for event in span.events)
    return CALL if is_told or "llm.request.type" in attributes else None


# One span


def _read(span: Span, records: tuple[SpanEvent, ...], line: int | None, part: str | None, collector: Collector) -> None:
    level = _level(span)
    if level is not None and (issue := _cut_off((span.attributes, *(event.attributes for event in span.events)))):
        collector.problem(issue, line, part)
        return
    messages, reply, tools, settings = _content(span, records)
    if level is None or not any(is_said(message) for message in messages):
        if level == CALL:
            is_inference = "openinference.span.kind" in span.attributes
            collector.without_content(_HIDDEN if is_inference else CAPTURE)
        return
    if level == TRACE and (reply is None or span.has_failed):
        return
    attributes = span.attributes
    model = first_named(
        attributes,
        "gen_ai.response.model",
        "gen_ai.request.model",
        "llm.model_name",
        "llm.request.model",
        "langfuse.observation.model.name",
        "langfuse.observation.model",
    )
    provider = first_named(attributes, "gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system")
    environment = first_named(
        attributes, "deployment.environment.name", "deployment.environment", "langfuse.environment"
    )
    environment = environment or first_named(span.resource, "deployment.environment.name", "deployment.environment")
    recorded = read_json(attributes.get("tag.tags", attributes.get("langfuse.trace.tags")))
    tags = [tag for tag in recorded if isinstance(tag, str)] if isinstance(recorded, list) else []
    collector.call(
        LogCall(
            messages=messages,
            reply=None if reply is None or not is_said(reply) else reply,
            line=line,
            part=part,
            level=level,
            session=_session(attributes),
            trace=span.trace,
            ident=span.trace or span.ident,
            record=None if span.ident is None else f"{span.trace} {span.ident}",
            time=span.time,
            model=model,
            tools=tools,
            settings=settings,
            tags=(
                *tags,
                *([f"environment:{environment}"] if environment else []),
                *(["status:error"] if span.has_failed else []),
            ),
            meta=known(
                provider=provider,
                user_id=first_named(attributes, "user.id", "enduser.id", "langfuse.user.id", "langfuse.trace.user_id"),
                request_id=first_named(attributes, "gen_ai.response.id"),
                service=_service(span),
                agent=first_named(attributes, "gen_ai.agent.name"),
            ),
        )
    )


_AS_JSON = ("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions")


def _cut_off(attributes: Iterable[Mapping[str, Any]]) -> Issue | None:
    """Return what is wrong with messages that cannot be read, such as those that a limit of the SDK has cut off."""
    for held in attributes:
        for name in _AS_JSON:
            value = held.get(name)
            if isinstance(value, str) and value.lstrip().startswith(("[", "{")) and isinstance(read_json(value), str):
                hint = (
                    "was it cut off? raise OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT in the traced program, "
                    "and leave this span out here"
                )
                return Issue(what=f"{name} is not JSON that can be read", found=f"…{value[-60:]}", hint=hint)
    return None


def _service(span: Span) -> str | None:
    name = first_named(span.resource, "service.name")
    return None if name is None or name.startswith("unknown_service") else name


_Content = tuple[list[Message], Message | None, Any, dict[str, Any]]


def _content(span: Span, records: tuple[SpanEvent, ...]) -> _Content:
    """Return messages, reply, tools and settings from the place that has them, the newest form first."""
    attributes = span.attributes
    tools = read_json(attributes.get("gen_ai.tool.definitions", attributes.get("gen_ai.request.tools")))
    tools = tools or [
        {**row, "parameters": read_json(row.get("parameters"))}
        for row in numbered(attributes, "llm.request.functions")
        if isinstance(row, dict)
    ]
    settings = settings_of(
        {
            key.removeprefix("gen_ai.request."): value
            for key, value in attributes.items()
            if key.startswith("gen_ai.request.")
        }
    )
    for event in (None, *span.events, *records):
        held = attributes if event is None else event.attributes
        if event is not None and isinstance(event.body, dict):
            held = {**held, **event.body}
        messages = read_messages(read_json(held.get("gen_ai.input.messages"))) or []
        reply = read_reply(read_json(held.get("gen_ai.output.messages")))
        if any(is_said(message) for message in messages):
            return _with_system(messages, held.get("gen_ai.system_instructions")), reply, tools, settings
    for prefix, answer in (("gen_ai.prompt", "gen_ai.completion"), ("llm.prompts", "llm.completions")):
        if rows := numbered(attributes, prefix):
            replies = numbered(attributes, answer)
            return _rows(rows), read_reply(replies[:1]) if replies else None, tools, settings
    told = _told((*span.events, *records))
    if told[0]:
        return *told, tools, settings
    if any(key.startswith(("llm.", "input.value")) for key in attributes):
        return _inference(attributes)
    for prompt, completion in (
        ("gen_ai.prompt", "gen_ai.completion"),
        ("langfuse.observation.input", "langfuse.observation.output"),
    ):
        asked = read_request(attributes.get(prompt))
        if asked is not None:
            found = (
                settings or settings_of(attributes.get("langfuse.observation.model.parameters")) or dict(asked.settings)
            )
            return asked.messages, read_reply(attributes.get(completion)), tools or asked.tools, found
    return [], None, tools, settings


def _with_system(messages: list[Message], instructions: Any) -> list[Message]:
    text = system_text(instructions)
    return messages if text is None else [{"role": "system", "content": text}, *messages]


def _rows(rows: list[Any]) -> list[Message]:
    return read_messages([row for row in rows if isinstance(row, dict) and row.get("role")]) or []


_EVENT_ROLES = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.tool.message": "tool",
    "gen_ai.assistant.message": "assistant",
}


def _told(events: Iterable[SpanEvent]) -> tuple[list[Message], Message | None]:
    """Return what the events of the first conventions say, one for each message."""
    messages: list[Message] = []
    reply: Message | None = None
    for event in events:
        held: Any = event.body if isinstance(event.body, dict) else event.attributes
        inner = read_json(held.get("event_body", held.get("gen_ai.event.content")))
        held = inner if isinstance(inner, dict) else held
        if event.name in _EVENT_ROLES:
            message = {"role": _EVENT_ROLES[event.name], **held}
            message["content"] = (
                read_json(held["content"])
                if isinstance(held.get("content"), str) and held["content"].startswith('[{"type"')
                else held.get("content")
            )
            message["tool_calls"] = read_json(held.get("tool_calls"))
            if event.name == "gen_ai.tool.message":
                message["tool_call_id"] = held.get("tool_call_id", held.get("id"))
            messages += read_messages([message]) or []
        elif event.name == "gen_ai.choice" and reply is None:
            inner = read_json(held.get("message", held))
            reply = read_reply({"role": "assistant", **inner} if isinstance(inner, dict) else inner)
        elif event.name == "gen_ai.content.prompt":
            asked = read_request(held.get("gen_ai.prompt"))
            messages += [] if asked is None else asked.messages
        elif event.name == "gen_ai.content.completion" and reply is None:
            reply = read_reply(held.get("gen_ai.completion"))
    return messages if any(is_said(message) for message in messages) else [], reply


# OpenInference


def _inference(attributes: Mapping[str, Any]) -> _Content:
    asked = read_request(_literal(attributes.get("input.value")))
    settings = settings_of(attributes.get("llm.invocation_parameters"))
    rows = _list(attributes, "llm.input_messages")
    messages = [message for row in rows if (message := _inference_message(row)) is not None]
    outputs = [
        message for row in _list(attributes, "llm.output_messages") if (message := _inference_message(row)) is not None
    ]
    reply = read_reply([{**message} for message in outputs]) or read_reply(_literal(attributes.get("output.value")))
    tools = [read_json(_unprefixed(row, "tool").get("json_schema")) for row in _list(attributes, "llm.tools")]
    tools = [tool for tool in tools if isinstance(tool, dict)]
    if not any(is_said(message) for message in messages):
        found = [] if asked is None else asked.messages
        return (
            found,
            reply,
            tools or (asked.tools if asked else None),
            settings or dict(asked.settings if asked else {}),
        )
    # The request itself has the text of a message as it was sent, where the attributes flatten its parts.
    if asked is not None and len(asked.messages) == len(messages):
        messages = asked.messages
    return messages, reply, tools or (None if asked is None else asked.tools), settings


def _list(attributes: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    held = _literal(attributes.get(name))
    rows = held if isinstance(held, list) else numbered(attributes, name)
    return [row for row in rows if isinstance(row, dict)]


_LITERAL_BYTES = 2**20


def _literal(value: Any) -> Any:
    """Return the value in a cell of a frame's CSV, where lists and objects are written as Python literals."""
    read = read_json(value)
    if not isinstance(read, str) or not read.startswith(("[{'", "{'", '[{"', "['")) or len(read) > _LITERAL_BYTES:
        return read
    try:
        return ast.literal_eval(read)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return read


def _unprefixed(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the keys `message.role` or `{"message": {"role"}}` as `role`."""
    inner = row.get(prefix)
    plain = dict(inner) if isinstance(inner, dict) else {}
    return plain | {key.removeprefix(f"{prefix}."): value for key, value in row.items() if key.startswith(f"{prefix}.")}


def _inference_message(row: Mapping[str, Any]) -> Message | None:
    plain = {key: value for key, value in _unprefixed(row, "message").items() if value is not None}
    role = named(plain.get("role"))
    if role is None:
        return None
    contents = [part for part in as_list(plain.get("contents")) if isinstance(part, dict)]
    parts = [_unprefixed(part, "message_content") for part in contents]
    within = [part for part, plain_part in zip(contents, parts, strict=True) if plain_part.get("type") == "tool_use"]
    calls: list[Any] = []
    for call in as_list(plain.get("tool_calls")) or within:
        inner = _unprefixed(call, "tool_call") if isinstance(call, dict) else {}
        function = as_dict(inner.get("function"))
        name = inner.get("function.name", function.get("name"))
        arguments = inner.get("function.arguments", function.get("arguments"))
        calls.append({"id": inner.get("id"), "type": "function", "function": {"name": name, "arguments": arguments}})
    content: Any = plain.get("content")
    if content is None:
        content = [read for part in parts if (read := _inference_part(part)) is not None] or None
    message: Message = {"role": role, "content": content, "tool_calls": calls or None}
    message |= {key: plain[key] for key in ("tool_call_id", "name") if plain.get(key)}
    read = read_messages([message])
    return read[0] if read else None


def _inference_part(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a part of a message; None for thoughts, for calls, which are read elsewhere, and for empty ones."""
    kind, image = part.get("type", "text"), part.get("image")
    if kind in ("reasoning", "tool_use", "fallback") or (kind == "text" and part.get("text") is None):
        return None
    if kind == "image":
        inner = _unprefixed(image, "image") if isinstance(image, dict) else {}
        url = part.get("image.image.url", inner.get("url"))
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "text", "text": part.get("text")} if kind == "text" else dict(part)
