"""Request logs of new-api and one-api with the bodies of requests and replies.

Their own log has no texts. Builds and proxies that keep the bodies write them beside the log's columns, under one of a
few names, which are read here; a streamed reply is put together from its events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from convbatch.dataset.logs.call import Collector, LogCall, Message, as_dict, as_list, first_named, known, unix_time
from convbatch.dataset.logs.chat import is_said, read_json, read_reply, read_request
from convbatch.dataset.logs.entries import LogFile
from convbatch.errors import Issue

_COLUMNS = ("model_name", "token_name", "quota", "channel", "channel_id", "use_time", "prompt_tokens", "username")
_REQUESTS = ("request_body", "request_content", "request", "prompt_content", "messages", "prompt", "input")
_REPLIES = ("response_body", "response_content", "response", "completion_content", "completion", "output", "reply")
_SESSIONS = ("session_id", "conversation_id", "chat_id")
_NO_CONTENT = (
    "new-api's own log has no texts: log the bodies at the gateway (columns request_body and response_body), or trace "
    "the client with OpenTelemetry"
)
_CONSUMED, _FAILED = 2, 5


def detect(record: Mapping[str, Any]) -> bool:
    """Whether a record is a row of the log, or a page of rows."""
    page = record.get("data")
    page = page.get("items", page.get("logs")) if isinstance(page, dict) else page
    if isinstance(page, list) and page and isinstance(page[0], dict):
        record = page[0]
    return "model_name" in record and sum(key in record for key in _COLUMNS) > 3


def read(files: Iterable[tuple[LogFile, Collector]]) -> None:
    """Read logs."""
    for file, collector in files:
        for entry in file.entries():
            if entry.issue is not None:
                collector.problem(entry.issue, entry.line, entry.part)
                continue
            page = entry.value.get("data")
            page = page.get("items", page.get("logs")) if isinstance(page, dict) else page
            for row in page if isinstance(page, list) else [entry.value]:
                if isinstance(row, dict) and "model_name" in row:
                    _read(row, entry.line, entry.part, collector)
                else:
                    hint = 'a row has "model_name", "token_name" and "quota"'
                    collector.problem(Issue(what="no row of a log of new-api", hint=hint), entry.line, entry.part)


def _read(row: dict[str, Any], line: int | None, part: str | None, collector: Collector) -> None:
    kind = str(row.get("type") or _CONSUMED)
    if kind not in (str(_CONSUMED), str(_FAILED)):
        collector.other("rows that are no requests")
        return
    other = read_json(row.get("other"))
    held = (other if isinstance(other, dict) else {}) | {
        key: value for key, value in row.items() if value not in (None, "")
    }
    asked = read_request(next((held[key] for key in _REQUESTS if held.get(key)), None))
    if asked is None or not any(is_said(message) for message in asked.messages):
        collector.without_content(_NO_CONTENT)
        return
    answer = next((held[key] for key in _REPLIES if held.get(key)), None)
    has_failed = kind == str(_FAILED)
    collector.call(
        LogCall(
            messages=asked.messages,
            reply=None if has_failed else _reply(answer),
            line=line,
            part=part,
            session=first_named(held, *_SESSIONS),
            ident=first_named(held, "request_id", "id"),
            time=unix_time(row.get("created_at")),
            model=first_named(row, "model_name"),
            tools=asked.tools,
            settings=dict(asked.settings),
            tags=("status:error",) if has_failed else (),
            meta=known(
                user_id=first_named(row, "username", "user_id"),
                token=first_named(row, "token_name"),
                channel=first_named(row, "channel_name", "channel", "channel_id"),
                group=first_named(row, "group"),
            ),
        )
    )


def _reply(answer: Any) -> Message | None:
    if isinstance(answer, str) and answer.lstrip().startswith("data:"):
        return _streamed(answer)
    return read_reply(answer)


def _streamed(text: str) -> Message | None:
    """Put the reply of a chat stream together from its events."""
    said: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    for line in text.splitlines():
        chunk = read_json(line.partition("data:")[2].strip()) if line.startswith("data:") else None
        delta = as_dict(as_dict(next(iter(as_list(as_dict(chunk).get("choices"))), None)).get("delta"))
        said.append(str(delta.get("content") or ""))
        for number, piece in enumerate(map(as_dict, as_list(delta.get("tool_calls")))):
            at: Any = piece.get("index")
            begun = {"type": "function", "function": {"name": "", "arguments": ""}}
            call = calls.setdefault(at if isinstance(at, int) else number, begun)
            function = as_dict(piece.get("function"))
            if piece.get("id"):
                call["id"] = piece["id"]
            call["function"]["name"] += str(function.get("name") or "")
            call["function"]["arguments"] += str(function.get("arguments") or "")
    content = "".join(said)
    if calls:
        return {"role": "assistant", "content": content or None, "tool_calls": list(calls.values())}
    return {"role": "assistant", "content": content} if content.strip() else None
