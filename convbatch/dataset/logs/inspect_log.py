"""Logs of inspect_ai: `.eval` archives and JSON. A dialogue a sample and epoch, with the messages of the sample."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from convbatch.dataset.logs.call import Collector, LogCall, first_named, known, unix_time
from convbatch.dataset.logs.chat import is_said, read_messages, read_request
from convbatch.dataset.logs.entries import LogFile
from convbatch.errors import Issue

_NO_SAMPLES = "run without --no-log-samples"


def detect(record: Mapping[str, Any]) -> bool:
    """Whether a record is a log, its header or one of its samples."""
    return is_log(record) or is_sample(record)


def is_log(record: Mapping[str, Any]) -> bool:
    """Whether a record is a log or its header."""
    held = record.get("eval")
    return isinstance(held, dict) and "task" in held and "model" in held and ("version" in record or "plan" in record)


def is_sample(record: Mapping[str, Any]) -> bool:
    """Whether a record is a sample of a log."""
    return all(key in record for key in ("id", "epoch", "input", "messages"))


def read(files: Iterable[tuple[LogFile, Collector]]) -> None:
    """Read logs."""
    for file, collector in files:
        header: dict[str, Any] = {}
        for entry in file.entries():
            if entry.issue is not None:
                collector.problem(entry.issue, entry.line, entry.part)
            elif is_log(entry.value):
                header = entry.value
                _log(header, entry.line, entry.part, collector, is_archive=file.holder == "zip")
            elif is_sample(entry.value):
                _sample(entry.value, header, entry.line, entry.part, collector)
            else:
                hint = 'a log has "eval" and "samples"; a sample has "id", "epoch", "input" and "messages"'
                collector.problem(
                    Issue(what="neither a log of inspect_ai nor a sample of one", hint=hint), entry.line, entry.part
                )


def _log(log: dict[str, Any], line: int | None, part: str | None, collector: Collector, *, is_archive: bool) -> None:
    samples = log.get("samples")
    if isinstance(samples, list):
        for number, sample in enumerate(samples, 1):
            if isinstance(sample, dict) and is_sample(sample):
                _sample(sample, log, line, f"sample {number}", collector)
            else:
                collector.problem(
                    Issue(what="a sample of an unknown form", hint="export the log again"), line, f"sample {number}"
                )
    elif not is_archive:
        collector.without_content(_NO_SAMPLES)


_ATTACHMENT = re.compile(r"attachment://([0-9a-f]{32})")


def _attached(value: Any, held: Mapping[str, Any]) -> Any:
    """Put back long texts, which a log keeps once, beside the messages."""
    if isinstance(value, str):
        return (
            _ATTACHMENT.sub(lambda match: str(held.get(match[1], match[0])), value)
            if "attachment://" in value
            else value
        )
    if isinstance(value, list):
        return [_attached(item, held) for item in value]
    return {key: _attached(item, held) for key, item in value.items()} if isinstance(value, dict) else value


def _sample(
    sample: dict[str, Any], log: Mapping[str, Any], line: int | None, part: str | None, collector: Collector
) -> None:
    attachments = sample.get("attachments")
    held = attachments if isinstance(attachments, dict) else {}
    messages = read_messages(_attached(sample.get("messages"), held)) or []
    if not any(is_said(message) for message in messages):
        asked = read_request(_attached(sample.get("input"), held))
        messages = [] if asked is None else asked.messages
    if not any(is_said(message) for message in messages):
        collector.without_content(_NO_SAMPLES)
        return
    evaluated = log.get("eval")
    task = evaluated if isinstance(evaluated, dict) else {}
    ident, epoch = first_named(sample, "id") or "sample", sample.get("epoch")
    name = first_named(task, "task_display_name", "task")
    output = sample.get("output")
    model = (first_named(output, "model") if isinstance(output, dict) else None) or first_named(task, "model")
    target = sample.get("target")
    collector.call(
        LogCall(
            messages=messages,
            line=line,
            part=part,
            is_alone=True,
            model=model,
            ident=f"{ident}/{epoch}" if isinstance(epoch, int) and epoch > 1 else ident,
            time=unix_time(sample.get("started_at")),
            tags=(
                *([f"task:{name}"] if name else ()),
                *_scores(sample.get("scores")),
                *(["status:error"] if sample.get("error") else ()),
            ),
            meta=known(
                target=target,
                sample_metadata=sample.get("metadata"),
                run_id=first_named(task, "run_id"),
                asked_model=first_named(task, "model"),
            ),
            settings={},
            tools=_tools(sample.get("events")),
        )
    )


def _scores(scores: Any) -> list[str]:
    found: list[str] = []
    for name, score in scores.items() if isinstance(scores, dict) else ():
        value = score.get("value") if isinstance(score, dict) else score
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            found.append(f"score:{name}={value}")
    return found[:8]


def _tools(events: Any) -> Any:
    """Return the declarations of the first request that has any."""
    for event in events if isinstance(events, list) else ():
        if (
            isinstance(event, dict)
            and event.get("event") == "model"
            and isinstance(event.get("tools"), list)
            and event["tools"]
        ):
            rows = [tool for tool in event["tools"] if isinstance(tool, dict)]
            return [
                {key: tool[key] for key in ("name", "description", "parameters") if tool.get(key) is not None}
                for tool in rows
            ]
    return None
