"""What a log records of one request to a model, in one form for all logs.

Messages are those of OpenAI's chat API (`role`, `content`, `tool_calls`, `tool_call_id`), which `formats/openai.py`
reads. What a log does not say is None or absent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from convbatch.errors import Issue

Message = dict[str, Any]

CALL, AGENT, TRACE = 0, 1, 2
"""Levels of a record: a request to a model, the run of an agent around requests, a whole trace around both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCall:
    """One request and its reply."""

    messages: list[Message]
    reply: Message | None = None
    line: int | None = None
    """Of the file; None where the file has no lines."""
    part: str | None = None
    """Part of the file, such as the member of an archive, for messages."""
    level: int = CALL
    """Records of a higher level count only where their trace has none of a lower one."""
    session: str | None = None
    """Requests with the same one are of one conversation."""
    trace: str | None = None
    ident: str | None = None
    """Id of the request; of the dialogue where it has no session."""
    record: str | None = None
    """Id of the record, if the tool gave it one: what a log has twice under it, with the same texts, counts once."""
    time: float | None = None
    """Unix seconds of its start."""
    model: str | None = None
    """The model that served it, else the one that was asked."""
    tools: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    """By their names in OpenAI's chat API."""
    tags: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    is_alone: bool = False
    """Never joined with others: a sample of an evaluation."""
    has_history: bool = False
    """Its messages are all that the model saw, so that it does not continue the request before it."""


class Collector(Protocol):
    """Receives what a reader finds in a file."""

    def call(self, call: LogCall) -> None:
        """Add a request."""
        ...

    def trace(self, trace: str, *, session: str | None, tags: tuple[str, ...] = (), **meta: Any) -> None:
        """Add what holds for all requests of a trace."""
        ...

    def problem(self, issue: Issue, line: int | None = None, part: str | None = None) -> None:
        """Add a problem of the file."""
        ...

    def without_content(self, hint: str) -> None:
        """Count a request whose messages are not in the log; `hint` says how they get there."""
        ...

    def other(self, what: str) -> None:
        """Count a record that is no dialogue, such as a request for embeddings."""
        ...


def unix_time(value: Any) -> float | None:
    """Return a time as Unix seconds: ISO 8601, or a number of seconds, milliseconds, microseconds or nanoseconds."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, str) and not value.strip().lstrip("-").replace(".", "", 1).isdigit():
        try:
            read = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
            return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(number) or number <= 0:
        return None
    while number > 1e11:  # in seconds this would be the year 5138
        number /= 1_000
    return number


def named(value: Any) -> str | None:
    """Return an id or a name as text; None for anything that is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() or None if isinstance(value, str) else None


def first_named(record: dict[str, Any], *keys: str) -> str | None:
    """Return the first of the keys that holds an id or a name."""
    return next((found for key in keys if (found := named(record.get(key))) is not None), None)


def as_dict(value: Any) -> dict[str, Any]:
    """Return an object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return a list, or an empty one for anything else."""
    return value if isinstance(value, list) else []


def known(**values: Any) -> dict[str, Any]:
    """Return the values that a log says."""
    return {key: value for key, value in values.items() if value not in (None, "", [], {})}
