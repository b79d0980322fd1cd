"""Anthropic's message batches from the server's side: `/v1/messages/batches`.

The requests of a batch are checked one by one while it runs: a wrong one is an errored result, only the form of the
batch itself is refused at once. Counts stay 0, and there are no results, until the whole batch has ended.
Sources: https://docs.anthropic.com/en/api/creating-message-batches, the guide on batch processing, and the types of
anthropic 2.14.0, read 2026-11-26. The words of refusals are not on these pages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from convbatch.simulator.batches.jobs import (
    DAY_S,
    Job,
    JobMark,
    Line,
    LineRequest,
    Phase,
    count_lines,
    page,
    shown_limit,
)
from convbatch.simulator.batches.store import (
    JobRequest,
    JobStore,
    Served,
    body_of,
    ends,
    made_lines,
    model_in,
    rfc3339,
    word_lines,
)
from convbatch.simulator.wire import ErrorCause, RefusedRequest, as_list, as_object, encode, refuse

_STATUS: Mapping[Phase, str] = {
    "waiting": "in_progress", "running": "in_progress", "finishing": "in_progress", "cancelling": "canceling",
}  # fmt: skip
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MOST_LINES = 100_000
_MOST_BYTES = 256 * 2**20
_KEPT_S = 29 * DAY_S
_FAILED = {"type": "error", "error": {"type": "api_error", "message": "Internal server error"}, "request_id": None}


class AnthropicJobs:
    """See `store.JobService`."""

    def __init__(self, store: JobStore) -> None:
        """Serve the jobs of a store."""
        self._store = store

    def serve(self, request: JobRequest) -> Served:
        """See `store.JobService`."""
        if not request.route.version:
            refuse("bad_request", "anthropic-version: header is required")
        match request.route.operation:
            case "create":
                return self._show(self._create(request), request)
            case "list":
                return self._list(request)
            case "cancel":
                return self._show(self._cancel(request), request)
            case "delete":
                return self._delete(request)
            case "results":
                return self._results(request)
            case _:
                return self._show(self._job(request), request)

    def model_of(self, request: JobRequest) -> str | None:
        """See `store.JobService`; a batch may have several models, the first one counts."""
        return model_in(request.body, "requests", 0, "params", "model")

    def _create(self, request: JobRequest) -> Job:
        if len(request.body) > (self._store.limits.size or _MOST_BYTES):
            message = "Request exceeds the maximum size"
            raise RefusedRequest(ErrorCause(kind="bad_request", message=message, status=413))
        fields = request.object("The request body is not valid JSON")
        for name in fields:
            if name != "requests":
                refuse("bad_request", f"{name}: Extra inputs are not permitted", field=name)
        items = as_list(fields.get("requests"))
        if not items:
            refuse("bad_request", "requests: List should have at least 1 item after validation, not 0")
        if len(items) > (most := self._store.limits.lines or _MOST_LINES):
            refuse("bad_request", f"requests: List should have at most {most} items after validation, not {len(items)}")
        job_id = self._store.new_id("msgbatch_")
        lines = self._lines(items, request, job_id)
        job = Job(
            job_id=job_id,
            key=request.key,
            model=self.model_of(request),
            created_at=request.at,
            times=self._store.times,
            window_s=self._store.times.window_s or DAY_S,
            lines=lines,
            fault=request.fault,
        )
        self._store.jobs.add(job)
        return job

    def _lines(self, items: list[Any], request: JobRequest, job_id: str) -> list[Line]:
        lines: list[Line] = []
        names: set[str] = set()
        route = replace(request.route, operation="generate", item=None)
        for at, item in enumerate(items):
            plain = as_object(item) or {}
            name, params = plain.get("custom_id"), as_object(plain.get("params"))
            if not isinstance(name, str) or params is None:
                missing = "params" if isinstance(name, str) else "custom_id"
                refuse("bad_request", f"requests.{at}.{missing}: Field required")
            if plain.keys() - {"custom_id", "params"}:
                refuse("bad_request", f"requests.{at}: Extra inputs are not permitted")
            if not _CUSTOM_ID.fullmatch(name):
                pattern = f"^{_CUSTOM_ID.pattern}$"
                refuse("bad_request", f"requests.{at}.custom_id: String should match pattern '{pattern}'")
            if name in names:
                refuse("bad_request", f"requests.{at}.custom_id: Duplicate custom_id '{name}'; each must be unique")
            names.add(name)
            asked = LineRequest(route=route, key=request.key, body=encode(params), mark=JobMark(job_id=job_id))
            lines.append(Line(name=name, request=asked))
        return lines

    def _job(self, request: JobRequest) -> Job:
        unknown = f"Message batch with id '{request.item}' was not found."
        return self._store.jobs.find(request.item, request.key, request.at, otherwise=unknown)

    def _cancel(self, request: JobRequest) -> Job:
        job = self._job(request)
        if job.has_ended(request.at):
            refuse("bad_request", f"Batch {job.job_id} cannot be canceled: it has already ended.")
        job.request_cancel(request.at)
        return job

    def _delete(self, request: JobRequest) -> Served:
        job = self._job(request)
        if not job.has_ended(request.at):
            refuse("bad_request", f"Batch {job.job_id} cannot be deleted while it is in progress; cancel it first.")
        self._store.jobs.forget(job)
        return Served(content=encode({"id": job.job_id, "type": "message_batch_deleted"}), job_id=job.job_id)

    def _results(self, request: JobRequest) -> Served:
        job = self._job(request)
        if not job.has_ended(request.at):
            refuse("bad_request", f"Batch {job.job_id} has not finished processing; results are not available yet.")
        if self._archived_at(job, request.at) is not None:
            refuse("no_path", f"The results of batch {job.job_id} are no longer available.")
        lines = job.made_in_order()
        worded = word_lines(lines, _failed if job.phase(request.at) == "failed" else _result)
        return Served(
            content=b"\n".join([*worded, b""]),
            headers={"content-type": "application/x-jsonl"},
            job_id=job.job_id,
            model=job.model,
            delivers=made_lines(lines),
        )

    def _list(self, request: JobRequest) -> Served:
        self._store.jobs.advance(request.at)
        jobs = [job for job in self._store.jobs.of_key(request.key) if job.job_id.startswith("msgbatch_")]
        limit = shown_limit(request.query, "limit", 20, 1000)
        shown, more = page(jobs, after=request.query.get("after_id"), limit=limit)
        listed = {
            "data": [self._describe(job, request) for job in shown],
            "has_more": more,
            "first_id": shown[0].job_id if shown else None,
            "last_id": shown[-1].job_id if shown else None,
        }
        return Served(content=encode(listed))

    def _show(self, job: Job, request: JobRequest) -> Served:
        return Served(content=encode(self._describe(job, request)), job_id=job.job_id, model=job.model)

    def _archived_at(self, job: Job, now: float) -> float | None:
        """Return when the results became unavailable; None while they are not."""
        ended_at = ends(job, now)
        kept_s = 0.0 if job.kind == "lose" else self._store.times.keep_s or _KEPT_S
        return None if ended_at is None or now < ended_at + kept_s else ended_at + kept_s

    def _describe(self, job: Job, request: JobRequest) -> dict[str, Any]:
        now = request.at
        ended_at, archived_at = ends(job, now), self._archived_at(job, now)
        counts: dict[str, int] = {"succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        if ended_at is not None:
            found = count_lines(job)
            counts = {
                "succeeded": found["succeeded"],
                "errored": found["failed"] + found["open"],
                "canceled": found["cancelled"],
                "expired": found["expired"],
            }
        has_results = ended_at is not None and archived_at is None
        return {
            "id": job.job_id,
            "type": "message_batch",
            "processing_status": _STATUS.get(job.phase(now), "ended"),
            "request_counts": {"processing": 0 if ended_at is not None else len(job.lines), **counts},
            "ended_at": rfc3339(ended_at),
            "created_at": rfc3339(job.created_at),
            "expires_at": rfc3339(job.expires_at),
            "archived_at": rfc3339(archived_at),
            "cancel_initiated_at": rfc3339(job.cancel_at),
            "results_url": f"{request.base_url}/v1/messages/batches/{job.job_id}/results" if has_results else None,
        }


def _failed(line: Line, name: str) -> dict[str, Any]:
    del line
    return {"custom_id": name, "result": {"type": "errored", "error": _FAILED}}


def _result(line: Line, name: str) -> dict[str, Any]:
    if line.end != "made" or line.made is None:
        return {"custom_id": name, "result": {"type": "expired" if line.end == "expired" else "canceled"}}
    if line.made.succeeded:
        return {"custom_id": name, "result": {"type": "succeeded", "message": body_of(line.made)}}
    return {"custom_id": name, "result": {"type": "errored", "error": body_of(line.made)}}
