"""Output of evalscope: predictions and reviews as JSON lines. Its reports hold figures and no texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from convbatch.dataset.logs.call import Collector, LogCall, first_named, known
from convbatch.dataset.logs.chat import is_said, read_messages, read_reply, read_request
from convbatch.dataset.logs.entries import LogFile
from convbatch.errors import Issue

_REPORT = "a report has no texts: name predictions/MODEL/*.jsonl or reviews/MODEL/*.jsonl of the same output folder"


def detect(record: Mapping[str, Any]) -> bool:
    """Whether a record is a prediction, a review or a report."""
    return _is_row(record) or is_report(record)


def _is_row(record: Mapping[str, Any]) -> bool:
    if "index" not in record:
        return False
    return "model_output" in record or "sample_score" in record or ("raw_input" in record and "choices" in record)


def is_report(record: Mapping[str, Any]) -> bool:
    """Whether a record is a report, which has no texts."""
    return "dataset_name" in record and "model_name" in record and "metrics" in record


def read(files: Iterable[tuple[LogFile, Collector]]) -> None:
    """Read predictions and reviews."""
    for file, collector in files:
        model = file.path.parent.name if file.path.parent.parent.name in ("predictions", "reviews") else None
        for entry in file.entries():
            if entry.issue is not None:
                collector.problem(entry.issue, entry.line, entry.part)
            elif is_report(entry.value):
                collector.problem(Issue(what="a report of evalscope", hint=_REPORT), entry.line, entry.part)
            elif _is_row(entry.value):
                _row(entry.value, model, file.path.name.partition(".")[0], entry.line, collector)
            else:
                hint = 'a prediction has "index", "messages" and "model_output"; a review has "sample_score"'
                collector.problem(
                    Issue(what="neither a prediction nor a review of evalscope", hint=hint), entry.line, entry.part
                )


def _row(row: dict[str, Any], folder_model: str | None, name: str, line: int | None, collector: Collector) -> None:
    messages = read_messages(row.get("messages")) or []
    output = row.get("model_output")
    if not messages and (asked := read_request(row.get("raw_input"))) is not None:  # versions before 1.0
        messages = asked.messages
    reply = None
    if messages and messages[-1]["role"] == "user":
        reply = read_reply(output) or read_reply(row)
    if not any(is_said(message) for message in messages):
        collector.without_content(_REPORT)
        return
    model = (
        first_named(row, "model")
        or (first_named(output, "model") if isinstance(output, dict) else None)
        or folder_model
    )
    score = row.get("sample_score")
    held = row.get("metadata") or (score.get("sample_metadata") if isinstance(score, dict) else None)
    collector.call(
        LogCall(
            messages=messages,
            reply=reply,
            line=line,
            is_alone=True,
            model=model,
            ident=f"{name}/{row.get('index')}",
            tags=(f"dataset:{name}", *_scores(score)),
            meta=known(target=row.get("target"), sample_metadata=held),
        )
    )


def _scores(sample_score: Any) -> list[str]:
    score = sample_score.get("score") if isinstance(sample_score, dict) else None
    values = score.get("value") if isinstance(score, dict) else None
    found = (
        [f"score:{name}={value}" for name, value in values.items() if isinstance(value, int | float)]
        if isinstance(values, dict)
        else []
    )
    main = score.get("main_score_name") if isinstance(score, dict) else None
    return [one for one in found if main is None or one.startswith(f"score:{main}=")][:8]
