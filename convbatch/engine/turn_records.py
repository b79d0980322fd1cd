"""Fields of the records that a run writes to the journal for each call."""

from __future__ import annotations

import base64
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from convbatch.engine.client import Client
from convbatch.errors import JournalError
from convbatch.journal.records import Record, kept_body
from convbatch.journal.writer import Journal
from convbatch.pricing import PriceTable
from convbatch.reply import Attempt, Reply, failure_to_plain, reply_from_plain, reply_to_plain

ATTEMPT_FIELDS = ("key", "attempt", "role", "step")
"""What identifies an attempt at a turn."""
STREAM_FIELDS = ("ttft_s", "chunks", "itl_p50_s", "itl_p95_s")
_ANSWER_FIELDS = ("http_status", "request_id", "started_at", "latency_s", *STREAM_FIELDS, "key_in_body")
REUSED_FIELDS = (*_ANSWER_FIELDS, "reply", "body", "body_b64", "wire_note", "prices")
READ_AGAIN_FIELDS = (*_ANSWER_FIELDS, "limiter_wait_s", "retry_wait_s", "job", "job_s")


_PLAIN_FIELDS = ("http_status", "request_id", "latency_s", *STREAM_FIELDS, "wire_note")
_plain_values = operator.attrgetter(*_PLAIN_FIELDS)


def price_fields(prices: PriceTable | None) -> dict[str, Any]:
    """Return the field of the prices that apply to a reply, if they are not those of the asked model."""
    return {} if prices is None else {"prices": prices.to_plain()}


def kept_reply(client: Client, record: Mapping[str, Any]) -> Reply:
    """Return a stored reply with its raw turn, read again from the stored body."""
    again = client.read_again(record.get("http_status", 200), kept_body(record))
    return again if isinstance(again, Reply) else reply_from_plain(record["reply"])


def restore_media(client: Client, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the files of stored replies again that are gone, from the bodies in their `outcome` records."""
    for record in records:
        if not client.has_media(record["reply"]["media"]):
            kept_reply(client, record)


def outcome_fields(
    fields: Mapping[str, Any], attempt: Attempt, *, limiter_wait_s: float, retry_wait_s: float
) -> dict[str, Any]:
    """Return the fields of the `outcome` record of an attempt, after those that identify it."""
    record: dict[str, Any] = {**fields, "class": attempt.cls, "started_at": attempt.started_at}
    for name, value in zip(_PLAIN_FIELDS, _plain_values(attempt), strict=True):
        if value is not None:
            record[name] = value
    if limiter_wait_s:
        record["limiter_wait_s"] = limiter_wait_s
    if retry_wait_s:
        record["retry_wait_s"] = retry_wait_s
    if attempt.key_in_body:
        record["key_in_body"] = True
    if isinstance(attempt.outcome, Reply):
        record["reply"] = reply_to_plain(attempt.outcome)
    else:
        record["error"] = failure_to_plain(attempt.outcome)
    if attempt.body is not None:
        record.update(body_fields(attempt.body))
    return record


def body_fields(body: bytes) -> dict[str, str]:
    """Return the field that keeps a body byte for byte (`journal.records.kept_body` reads it)."""
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"body_b64": base64.b64encode(body).decode("ascii")}


class Intent:
    """The `intent` record of a request, which is written once."""

    __slots__ = ("_journal", "_record", "is_written")

    def __init__(self, journal: Journal, record: Record) -> None:
        self._journal = journal
        self._record = record
        self.is_written = False

    def write(self) -> None:
        """Write it now, unless it is written."""
        if not self.is_written:
            self.is_written = True
            self._journal.append(self._record)

    def write_then(self, send: Callable[[], None], refuse: Callable[[JournalError], None]) -> None:
        """Write it with others in this round of the event loop, then call `send`."""
        self.is_written = True
        self._journal.append_then(self._record, send, refuse)
