"""A span and its OTLP form in JSON.

Source: the OTLP specification (JSON encoding: ids in hexadecimal digits, 64-bit integers as strings) and the file
exporter's format, one request a line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from convbatch._version import __version__

Kind = Literal["internal", "client"]
_KINDS: Mapping[Kind, int] = {"internal": 1, "client": 3}
_ERROR = 2


def trace_id(*names: object) -> str:
    """Return 32 hex digits made of names: the same names have the same id, so that a second export changes nothing."""
    return _digest(names, 16)


def span_id(*names: object) -> str:
    """Return 16 hex digits made of names."""
    return _digest(names, 8)


def _digest(names: Sequence[object], size: int) -> str:
    return hashlib.blake2b("\0".join(map(str, names)).encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened during a span."""

    name: str
    at: float
    """Unix seconds."""
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One operation; attributes that are None are left out."""

    trace: str
    id: str
    parent: str | None = None
    name: str
    kind: Kind
    begins: float
    """Unix seconds."""
    ends: float
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    events: Sequence[Event] = ()
    error: str | None = None
    """Why it failed; None if it did not."""

    def to_json(self) -> dict[str, Any]:
        """Return the OTLP form."""
        parent = {} if self.parent is None else {"parentSpanId": self.parent}
        status = {} if self.error is None else {"status": {"code": _ERROR, "message": self.error}}
        return {
            "traceId": self.trace,
            "spanId": self.id,
            **parent,
            "name": self.name,
            "kind": _KINDS[self.kind],
            "startTimeUnixNano": _nanoseconds(self.begins),
            "endTimeUnixNano": _nanoseconds(max(self.begins, self.ends)),
            "attributes": _attributes(self.attributes),
            **({"events": [_event(event) for event in self.events]} if self.events else {}),
            **status,
        }


def _event(event: Event) -> dict[str, Any]:
    return {
        "timeUnixNano": _nanoseconds(event.at),
        "name": event.name,
        "attributes": _attributes(event.attributes),
    }


def request_of(spans: Iterable[Span], resource: Mapping[str, Any]) -> dict[str, Any]:
    """Return an export request with these spans: what a line of a file holds, and what is posted to an endpoint."""
    scope = {"name": "convbatch", "version": __version__}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [{"scope": scope, "spans": [span.to_json() for span in spans]}],
            }
        ]
    }


def _nanoseconds(seconds: float) -> str:
    return str(round(seconds * 1e6) * 1000)  # times are known to the microsecond


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items() if value is not None]


def _value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list() | tuple():
            return {"arrayValue": {"values": [_value(one) for one in value]}}
        case _:
            return {"stringValue": str(value)}
