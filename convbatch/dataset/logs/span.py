"""Spans in any form of export: OTLP JSON, the SDK's `to_json`, flat rows of Phoenix; one value for all of them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from convbatch.dataset.logs.call import as_dict, first_named, unix_time


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanEvent:
    """An event of a span, or a log record that names it."""

    name: str
    attributes: dict[str, Any]
    body: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span with plain attributes under dotted names."""

    name: str | None
    trace: str | None
    ident: str | None
    time: float | None
    attributes: dict[str, Any]
    events: tuple[SpanEvent, ...] = ()
    has_failed: bool = False
    resource: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """A log record that belongs to a span."""

    trace: str | None
    span: str | None
    event: SpanEvent


def read_spans(record: dict[str, Any]) -> Iterator[Span | LogRecord]:
    """Yield the spans and log records in one line or object of an export; nothing for other objects."""
    for key, scopes, items in (
        ("resourceSpans", "scopeSpans", "spans"),
        ("resource_spans", "scope_spans", "spans"),
        ("resourceLogs", "scopeLogs", "logRecords"),
        ("resource_logs", "scope_logs", "log_records"),
    ):
        for group in _dicts(record.get(key)):
            held = group.get("resource")
            resource = _attributes(held.get("attributes")) if isinstance(held, dict) else {}
            for scope in _dicts(group.get(scopes) or group.get("instrumentationLibrarySpans")):
                for item in _dicts(scope.get(items)):
                    yield _log_record(item) if "og" in items else _span(item, resource)
    for key in ("batches", "data", "spans"):
        held = record.get(key)
        if isinstance(held, list) and "attributes" not in record:
            for item in _dicts(held):
                yield from read_spans(item)
    if is_span(record):
        yield _span(record, {})
    elif is_log_record(record):
        yield _log_record(record)


def is_export(record: Mapping[str, Any]) -> bool:
    """Whether an object is an export of spans or log records, or one of them."""
    keys = ("resourceSpans", "resource_spans", "resourceLogs", "resource_logs")
    return any(key in record for key in keys) or is_span(record) or is_log_record(record)


def is_span(record: Mapping[str, Any]) -> bool:
    """Whether an object is a span of any export."""
    has_id = "context" in record or any(key in record for key in ("spanId", "span_id", "context.span_id"))
    has_attributes = "attributes" in record or any(key.startswith(_FLAT) for key in record)
    return has_id and has_attributes and not is_log_record(record)


_FLAT = ("attributes.", "gen_ai.", "llm.", "openinference.")


def is_log_record(record: Mapping[str, Any]) -> bool:
    """Whether an object is a log record of a span."""
    return "body" in record and any(key in record for key in ("span_id", "spanId", "event_name", "eventName"))


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    yield from (item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def _span(item: dict[str, Any], resource: dict[str, Any]) -> Span:
    context = as_dict(item.get("context"))
    attributes = _attributes(item.get("attributes"))
    for key, value in item.items():
        if key.startswith("attributes."):
            attributes |= _flat(value, key.removeprefix("attributes."))
        elif key.startswith(_FLAT):
            attributes |= _flat(value, key)
    kind = item.get("span_kind")
    if isinstance(kind, str) and kind.isupper() and "openinference.span.kind" not in attributes:
        attributes["openinference.span.kind"] = kind
    status = item.get("status")
    code = status.get("status_code", status.get("code")) if isinstance(status, dict) else item.get("status_code")
    held = item.get("resource")
    own = _attributes(held.get("attributes")) if isinstance(held, dict) else {}
    return Span(
        name=first_named(item, "name"),
        trace=_id(first_named(context, "trace_id", "traceId") or first_named(item, *_TRACE)),
        ident=_id(first_named(context, "span_id", "spanId") or first_named(item, *_SPAN)),
        time=next((t for key in _TIMES if (t := unix_time(item.get(key))) is not None), None),
        attributes={key: value for key, value in attributes.items() if value is not None},
        events=tuple(_event(event) for event in _dicts(item.get("events"))),
        has_failed=str(code) in ("ERROR", "2", "STATUS_CODE_ERROR", "StatusCode.ERROR"),
        resource=own or resource,
    )


_TRACE = ("trace_id", "traceId", "context.trace_id")
_SPAN = ("span_id", "spanId", "context.span_id")
_TIMES = ("startTimeUnixNano", "start_time_unix_nano", "start_time", "startTime", "timestamp", "start_timestamp")


def _event(event: dict[str, Any]) -> SpanEvent:
    return SpanEvent(
        name=str(event.get("name") or event.get("event_name") or ""),
        attributes=_attributes(event.get("attributes")),
        body=_any_value(event.get("body")),
    )


def _log_record(item: dict[str, Any]) -> LogRecord:
    attributes = _attributes(item.get("attributes"))
    name = first_named(item, "event_name", "eventName") or first_named(attributes, "event.name") or ""
    event = SpanEvent(name=name, attributes=attributes, body=_any_value(item.get("body")))
    return LogRecord(trace=_id(first_named(item, *_TRACE)), span=_id(first_named(item, *_SPAN)), event=event)


def _id(text: str | None) -> str | None:
    """Return an id in hexadecimal digits: protobuf writes it in base64, the Python SDK with `0x`."""
    if text is None or re.fullmatch(r"[0-9a-fA-F]{16}|[0-9a-fA-F]{32}", text):
        return text
    if re.fullmatch(r"0x[0-9a-fA-F]+", text):
        return text[2:]
    if len(text) in (12, 24) and text.endswith("="):
        try:
            return base64.b64decode(text, validate=True).hex()
        except (ValueError, binascii.Error):
            return text
    return text


_VALUES = ("stringValue", "boolValue", "intValue", "doubleValue", "arrayValue", "kvlistValue", "bytesValue")
_SNAKE = {
    "string_value": "stringValue",
    "bool_value": "boolValue",
    "int_value": "intValue",
    "double_value": "doubleValue",
    "array_value": "arrayValue",
    "kvlist_value": "kvlistValue",
    "bytes_value": "bytesValue",
}


def _any_value(value: Any) -> Any:
    """Return the plain value of OTLP's `AnyValue`; a plain value unchanged."""
    if not isinstance(value, dict) or len(value) != 1:
        return value
    [(key, held)] = value.items()
    key = _SNAKE.get(key, key)
    if key not in _VALUES:
        return value
    if key == "intValue":
        return int(held) if re.fullmatch(r"-?\d{1,18}", str(held)) else held
    if key == "arrayValue":
        return (
            [_any_value(item) for item in (held or {}).get("values") or ()] if isinstance(held, dict | None) else held
        )
    if key == "kvlistValue":
        return _pairs(held.get("values")) if isinstance(held, dict) else held
    return held


def _pairs(values: Any) -> dict[str, Any]:
    return {str(pair.get("key")): _any_value(pair.get("value")) for pair in _dicts(values)}


def _attributes(value: Any) -> dict[str, Any]:
    """Return attributes under dotted names, from OTLP's list of pairs or an object, flat or nested."""
    if isinstance(value, list):
        return _pairs(value)
    return _flat(value, "") if isinstance(value, dict) else {}


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value or any(not isinstance(key, str) for key in value):
        return {prefix: value} if prefix else {}
    found: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}.{key}" if prefix else key
        # Nested objects are attributes of dotted names only below known names: others are values.
        nested = isinstance(item, dict) and name.split(".")[0] in (
            "gen_ai",
            "llm",
            "openinference",
            "session",
            "input",
            "output",
        )
        found |= _flat(item, name) if nested else {name: item}
    return found


def numbered(attributes: Mapping[str, Any], prefix: str) -> list[Any]:
    """Return the objects that attributes such as `PREFIX.0.role` and `PREFIX.0.tool_calls.1.name` stand for."""
    tree: dict[str, Any] = {}
    for key, value in attributes.items():
        if key.startswith(f"{prefix}."):
            _place(tree, key[len(prefix) + 1 :].split("."), value)
    return _as_list(tree)


def _place(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for step in path[:-1][:12]:
        inner = tree.setdefault(step, {})
        if not isinstance(inner, dict):
            return
        tree = inner
    tree[path[-1]] = value


def _as_list(tree: Any) -> list[Any]:
    numbers = sorted((key for key in tree if key.isdecimal() and len(key) < 7), key=int)
    return [_with_lists(tree[key]) for key in numbers]


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(isinstance(key, str) and key.isdecimal() for key in value):
        return _as_list(value)
    return {key: _with_lists(item) for key, item in value.items()}
