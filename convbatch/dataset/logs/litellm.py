"""Request logs of LiteLLM: spend logs of its database or API, and the payloads of its loggers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from convbatch.dataset.logs.call import Collector, LogCall, first_named, known, unix_time
from convbatch.dataset.logs.chat import is_said, plain_json, read_json, read_reply, read_request, settings_of
from convbatch.dataset.logs.entries import LogFile
from convbatch.errors import Issue

_KEYS = ("spend", "call_type", "litellm_call_id", "response_cost", "request_id", "custom_llm_provider", "startTime")
_NO_CONTENT = "set general_settings: store_prompts_in_spend_logs: true at the proxy (and turn_off_message_logging off)"
_REDACTED, _TRUNCATED = "redacted-by-litellm", "litellm_truncated"
_OTHER = (
    "embedding",
    "image",
    "speech",
    "transcription",
    "moderation",
    "rerank",
    "batch",
    "file",
    "search",
    "ocr",
    "video",
)


def detect(record: Mapping[str, Any]) -> bool:
    """Whether a record is a request, or a page of them."""
    rows = record.get("data")
    if isinstance(rows, list) and rows and isinstance(rows[0], dict):
        record = rows[0]
    return ("messages" in record or "proxy_server_request" in record or "response" in record) and sum(
        key in record for key in _KEYS
    ) > 2


def read(files: Iterable[tuple[LogFile, Collector]]) -> None:
    """Read logs."""
    for file, collector in files:
        for entry in file.entries():
            if entry.issue is not None:
                collector.problem(entry.issue, entry.line, entry.part)
                continue
            rows = entry.value.get("data")
            for row in rows if isinstance(rows, list) else [entry.value]:
                if isinstance(row, dict) and detect(row):
                    _read(row, entry.line, entry.part, collector)
                else:
                    hint = 'a request has "request_id", "call_type", "startTime", "messages" and "response"'
                    collector.problem(Issue(what="no request of LiteLLM", hint=hint), entry.line, entry.part)


def _read(row: dict[str, Any], line: int | None, part: str | None, collector: Collector) -> None:
    kind = str(row.get("call_type") or "")
    if any(word in kind for word in _OTHER):
        collector.other("requests that are no conversation")
        return
    body = read_json(row.get("proxy_server_request"))
    body = read_json(body.get("body", body)) if isinstance(body, dict) else body
    asked = read_request(body) or read_request(row.get("messages"))
    if asked is None or not any(is_said(message) for message in asked.messages):
        collector.without_content(_NO_CONTENT)
        return
    said = plain_json(asked.messages)
    if _REDACTED in said:
        collector.without_content(_NO_CONTENT)
        return
    if _TRUNCATED in said:
        hint = "raise MAX_STRING_LENGTH_PROMPT_IN_DB at the proxy, and leave this request out here"
        collector.problem(Issue(what="LiteLLM has cut off the messages of this request", hint=hint), line, part)
        return
    has_failed = row.get("status") == "failure"
    reply = None if has_failed else read_reply(row.get("response"))
    if reply is not None and any(word in plain_json(reply) for word in (_REDACTED, _TRUNCATED)):
        reply = None  # not what the model said
    tags = read_json(row.get("request_tags"))
    asked_settings = settings_of(row.get("model_parameters")) | dict(asked.settings)
    parameters = read_json(row.get("model_parameters"))
    tools = asked.tools or (parameters.get("tools") if isinstance(parameters, dict) else None)
    metadata = read_json(row.get("metadata"))
    alias = first_named(metadata, "user_api_key_alias") if isinstance(metadata, dict) else None
    collector.call(
        LogCall(
            messages=asked.messages,
            reply=reply,
            line=line,
            part=part,
            session=first_named(row, "session_id", "trace_id"),
            ident=first_named(row, "request_id", "id", "litellm_call_id"),
            record=first_named(row, "request_id", "id", "litellm_call_id"),
            time=unix_time(row.get("startTime", row.get("start_time"))),
            model=first_named(row, "model", "model_group"),
            tools=tools,
            settings=asked_settings,
            tags=(
                *([tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else ()),
                *(["status:error"] if has_failed else ()),
            ),
            meta=known(
                provider=first_named(row, "custom_llm_provider"),
                user_id=first_named(row, "end_user", "user"),
                key_alias=alias,
                request_id=first_named(row, "request_id", "id"),
            ),
        )
    )
