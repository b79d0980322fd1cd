"""Types and ranges of the fields of journal records, checked for every record that is read.

A checksum shows that a line is unchanged, not that convbatch wrote it: run folders are passed around. What the records
mean is `index.py`; unknown fields are kept unchecked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from convbatch.pricing import is_price_table
from convbatch.reply import PRICE_FLAGS, PRICED_PARTS, USAGE_COUNTS, Status

Predicate = Callable[[Any], bool]

_COUNT_LIMIT = 2**63
_LATEST_S = 253_402_300_000.0
"""The end of the year 9999, the last one of `datetime`."""
_KEY = re.compile(r"[0-9a-f]{32}")
_JOB_ID = re.compile(r"[!-~]{1,500}")
JOB_STATES = ("asked", "creating", "made", "ended", "unmade", "lost")
"""What the records of a batch job say, in this order; the last three end it."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_null(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _COUNT_LIMIT


def _is_whole(value: Any) -> bool:
    return type(value) is int  # of any size: gateways may report any number


def _is_moment(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < _LATEST_S


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def _is_job_id(value: Any) -> bool:
    return isinstance(value, str) and _JOB_ID.fullmatch(value) is not None


def _is_status(value: Any) -> bool:
    return value in get_args(Status)


def _is_suspended(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(why, str) for why in value.values())


def _are_gaps(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(gap, list) and len(gap) == 2 and all(map(_is_count, gap)) for gap in value
    )


def _are_calls(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(call, dict) and call.keys() == _CALL_KEYS for call in value)


def _fits(fields: Mapping[str, Predicate], needed: tuple[str, ...] = (), *, only: bool = False) -> Predicate:
    """Return a predicate for objects whose known fields are right; with `only`, other fields are refused."""

    def is_right(value: Any) -> bool:
        return isinstance(value, dict) and _wrong_field(value, fields, needed, only=only) is None

    return is_right


def _wrong_field(
    value: Mapping[str, Any], fields: Mapping[str, Predicate], needed: tuple[str, ...], *, only: bool
) -> str | None:
    for name in needed:
        if name not in value:
            return name
    for name, content in value.items():
        is_right = fields.get(name)
        if (is_right is None and only) or (is_right is not None and not is_right(content)):
            return name
    return None


_CALL_KEYS = {"id", "name", "arguments"}
_is_usage = _fits(
    {
        **dict.fromkeys((*USAGE_COUNTS, *PRICED_PARTS), _is_whole),
        **dict.fromkeys(("consistent", *PRICE_FLAGS), _is_flag),
        "source": _is_text,
    },
    only=True,
)
_is_media_file = _fits(
    {**dict.fromkeys(("path", "mime_type"), _is_text), **dict.fromkeys(("width", "height"), _is_whole)},
    ("path",),
    only=True,
)
_is_reply = _fits(
    {
        **dict.fromkeys(
            ("finish_reason", "text", "thought", "finish_reason_raw", "blocked", "model_version", "response_id"),
            _is_text,
        ),
        "service_tier": _is_text,
        "mean_logprob": _is_finite,
        "usage": _is_usage,
        "tool_calls": _are_calls,
        **dict.fromkeys(("has_media", "is_paused"), _is_flag),
        "media": lambda files: isinstance(files, list) and all(map(_is_media_file, files)),
    },
    ("finish_reason", "usage"),
)
_is_failure = _fits(
    {
        **dict.fromkeys(("kind", "message", "scope", "finish_reason_raw", "text", "blocked"), _is_text),
        **dict.fromkeys(("should_retry", "retryable", "structured", "no_model"), _is_flag),
        "code": lambda code: isinstance(code, str | int),
        "retry_after_s": _is_finite,
        "usage": _is_usage,
    },
    ("kind", "message"),
    only=True,
)
_FIELDS: Mapping[str, Predicate] = {
    **dict.fromkeys(("seq", "index", "repeat", "attempt", "session", "http_status", "chunks"), _is_count),
    "turn": lambda turn: turn is None or _is_count(turn),  # None: a judge is asked about a whole dialogue
    **dict.fromkeys(("most_input_tokens", "max_output_tokens", "line", "lines", "wave"), _is_count),
    **dict.fromkeys(
        (
            "kind",
            "dialogue",
            "target",
            "role",
            "class",
            "body",
            "body_b64",
            "of",
            "asked",
            "repairs",
            "wire_note",
            "gateway",
            "job",
        ),
        _is_text,
    ),
    **dict.fromkeys(("request_id", "reason", "reused_from"), _is_text_or_null),
    **dict.fromkeys(("at", "started_at"), _is_moment),
    **dict.fromkeys(("latency_s", "ttft_s", "itl_p50_s", "itl_p95_s"), _is_finite),
    **dict.fromkeys(("limiter_wait_s", "retry_wait_s"), _is_finite),
    "step": lambda step: _is_count(step) and step > 0,
    "key": _is_key,
    "job_state": lambda state: state in JOB_STATES,
    "job_id": _is_job_id,
    "job_s": _is_finite,
    **dict.fromkeys(("key_in_body", "read_again", "continues"), _is_flag),
    "status": _is_status,
    "reply": _is_reply,
    "error": _is_failure,
    "parked": _is_suspended,
    "prices": is_price_table,
    "accepted_gaps": _are_gaps,
}
_HEAD = ("seq", "kind", "at")
_OF_TURN = (*_HEAD, "index", "dialogue", "target", "repeat", "turn")
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "intent": (*_OF_TURN, "attempt"),
    "outcome": (*_OF_TURN, "attempt", "class"),
    "turn": (*_OF_TURN, "status"),
    "job": (*_HEAD, "job", "target", "wave", "lines", "job_state"),
}


def wrong_field(record: Any) -> str | None:
    """Return the first field of a record that is missing or wrong; None when all are right."""
    if not isinstance(record, dict):
        return "the whole record"
    kind = record.get("kind")
    needed = _NEEDED.get(kind, _HEAD) if isinstance(kind, str) else ("kind",)
    wrong = _wrong_field(record, _FIELDS, needed, only=False)
    if wrong is None and kind == "outcome":
        answer = "reply" if record["class"] == "replied" else "error"
        wrong = None if answer in record else answer
    if wrong is None and kind == "job" and record["job_state"] == "made" and "job_id" not in record:
        wrong = "job_id"
    if wrong is None and kind == "intent" and "job" in record and "line" not in record:
        wrong = "line"
    if wrong is None and kind in _NEEDED and kind != "job":
        wrong = _wrong_about(record)
    return wrong


def _wrong_about(record: Mapping[str, Any]) -> str | None:
    """Check that a judge's record names the judged target and the question, and a model's record a turn."""
    if "of" in record:
        return None if "asked" in record else "asked"
    return "turn" if record["turn"] is None else None
