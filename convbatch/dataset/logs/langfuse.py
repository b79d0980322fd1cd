"""Exports of Langfuse: traces and observations, from its pages or its API, as JSON, JSON lines or CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from convbatch.dataset.logs.call import CALL, TRACE, Collector, LogCall, first_named, known, unix_time
from convbatch.dataset.logs.chat import is_said, read_json, read_reply, read_request, settings_of
from convbatch.dataset.logs.entries import LogFile
from convbatch.errors import Issue

_KINDS = ("GENERATION", "SPAN", "EVENT", "AGENT", "TOOL", "CHAIN", "RETRIEVER", "EVALUATOR", "EMBEDDING", "GUARDRAIL")
_TRACE_KEYS = (
    "sessionId",
    "session_id",
    "userId",
    "user_id",
    "observations",
    "htmlPath",
    "bookmarked",
    "projectId",
    "release",
)
_NO_CONTENT = (
    "export with input and output (API: fields=core,basic,io), and trace without LANGFUSE_MASK or capture_input=False"
)


def detect(record: Mapping[str, Any]) -> bool:
    """Whether a record is a trace or an observation of Langfuse, or a page of them."""
    rows = record.get("data")
    if isinstance(rows, list) and rows and isinstance(rows[0], dict) and "meta" in record:
        return detect(rows[0])
    if _is_observation(record):
        return True
    has_texts = "input" in record and "output" in record and "id" in record
    return has_texts and sum(key in record for key in _TRACE_KEYS) > 1


def _is_observation(record: Mapping[str, Any]) -> bool:
    return record.get("type") in _KINDS and ("traceId" in record or "trace_id" in record)


def read(files: Iterable[tuple[LogFile, Collector]]) -> None:
    """Read exports."""
    for file, collector in files:
        for entry in file.entries():
            if entry.issue is not None:
                collector.problem(entry.issue, entry.line, entry.part)
                continue
            for row in _rows(entry.value):
                if not detect(row):
                    hint = (
                        'an observation has "type" and "traceId"; a trace has "id", "input", "output" and "sessionId"'
                    )
                    found = "keys " + ", ".join(map(str, list(row)[:12]))
                    issue = Issue(what="neither a trace nor an observation of Langfuse", found=found, hint=hint)
                    collector.problem(issue, entry.line, entry.part)
                elif _is_observation(row):
                    _observation(row, entry.line, entry.part, collector, None)
                else:
                    _trace(row, entry.line, entry.part, collector)


def _rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    rows = record.get("data")
    if isinstance(rows, list) and "meta" in record:
        yield from (row for row in rows if isinstance(row, dict))
    else:
        yield record


def _either(row: Mapping[str, Any], *names: str) -> Any:
    """Return the first value of camelCase or snake_case keys that is set."""
    return next((row[name] for name in names if row.get(name) not in (None, "", "null")), None)


def _tags(row: Mapping[str, Any]) -> tuple[str, ...]:
    tags = read_json(_either(row, "tags", "traceTags", "trace_tags"))
    found = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    environment = _either(row, "environment")
    return (
        *found,
        *([f"environment:{environment}"] if isinstance(environment, str) and environment != "default" else ()),
    )


def _meta(row: Mapping[str, Any]) -> dict[str, Any]:
    user = first_named(dict(row), "userId", "user_id")
    return known(
        user_id=user,
        name=first_named(dict(row), "traceName", "trace_name", "name"),
        release=first_named(dict(row), "release"),
    )


def _trace(row: dict[str, Any], line: int | None, part: str | None, collector: Collector) -> None:
    trace = first_named(row, "id")
    session = first_named(row, "sessionId", "session_id")
    if trace is not None:
        collector.trace(trace, session=session, tags=_tags(row), **_meta(row))
    observations = read_json(row.get("observations"))
    inner = [one for one in observations if isinstance(one, dict)] if isinstance(observations, list) else []
    for one in inner:
        _observation({"traceId": trace, **one}, line, part, collector, session)
    asked, reply = read_request(row.get("input")), read_reply(row.get("output"))
    if asked is None or not any(is_said(message) for message in asked.messages):
        if not inner and row.get("input") in (None, "", "null"):
            collector.without_content(_NO_CONTENT)
        return
    collector.call(
        LogCall(
            messages=asked.messages,
            reply=reply,
            line=line,
            part=part,
            level=TRACE,
            session=session,
            trace=trace,
            ident=trace,
            record=trace,
            time=unix_time(_either(row, "timestamp", "createdAt", "created_at")),
            tools=asked.tools,
            settings=dict(asked.settings),
            tags=_tags(row),
            meta=_meta(row),
        )
    )


def _observation(
    row: dict[str, Any], line: int | None, part: str | None, collector: Collector, session: str | None
) -> None:
    if row.get("type") != "GENERATION":
        collector.other("observations that are no generations")
        return
    asked = read_request(row.get("input"))
    if asked is None or not any(is_said(message) for message in asked.messages):
        collector.without_content(_NO_CONTENT)
        return
    trace = first_named(row, "traceId", "trace_id")
    has_failed = row.get("level") == "ERROR"
    model = first_named(row, "model", "providedModelName", "provided_model_name") or (
        asked.model if isinstance(asked.model, str) else None
    )
    collector.call(
        LogCall(
            messages=asked.messages,
            reply=read_reply(row.get("output")),
            line=line,
            part=part,
            level=CALL,
            session=first_named(row, "sessionId", "session_id") or session,
            trace=trace,
            ident=trace or first_named(row, "id"),
            record=first_named(row, "id"),
            time=unix_time(_either(row, "startTime", "start_time")),
            model=model,
            tools=asked.tools or read_json(_either(row, "toolDefinitions", "tool_definitions")),
            settings=settings_of(_either(row, "modelParameters", "model_parameters")) or dict(asked.settings),
            tags=(*_tags(row), *(["status:error"] if has_failed else ())),
            meta=_meta(row) | known(observation_id=first_named(row, "id")),
        )
    )
