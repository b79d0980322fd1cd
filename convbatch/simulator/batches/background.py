"""OpenAI's background responses from the server's side: a response that is made later, and polled by its id.

Each creation makes a response of its own, also of the same request. Without `store: true` it is kept for some minutes
only. Sources: https://developers.openai.com/api/docs/guides/background, and the types of openai 3.57.0, read
2026-11-27. What becomes of a response that misses its window, and how much the windows discount, is not on these pages.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from convbatch.simulator.batches.jobs import HALF_PRICE, Job, JobMark, Line, LineRequest
from convbatch.simulator.batches.store import JobRequest, JobStore, Served, made_lines, model_in
from convbatch.simulator.stored_responses import StoredResponses
from convbatch.simulator.wire import Background, ReplySpec, as_object, encode, refuse

_PREFIX = "resp_"
_POLLED_S = 600.0
"""How long a response is kept that is not stored."""
_LONGEST_S = 86_400.0
_STATUS = {"waiting": "queued", "running": "in_progress", "finishing": "in_progress", "cancelling": "in_progress"}


class BackgroundResponses:
    """See `store.JobService`; responses are created as any others, by `create`."""

    def __init__(self, store: JobStore, stored: StoredResponses) -> None:
        """Serve the background responses of a store; `stored` has all other responses."""
        self._store = store
        self._stored = stored

    def serve(self, request: JobRequest) -> Served:
        """See `store.JobService`."""
        if request.route.operation == "cancel" and request.item in self._stored and self._is_foreground(request):
            refuse("bad_request", "Cannot cancel a synchronous response.")
        unknown = f"Response with id '{request.item}' not found."
        job = self._store.jobs.find(request.item, request.key, request.at, otherwise=unknown)
        if self._is_gone(job, request.at):
            refuse("no_path", unknown)
        if request.route.operation == "delete":
            self._store.jobs.forget(job)
            deleted = {"id": job.job_id, "object": "response", "deleted": True}
            return Served(content=encode(deleted), job_id=job.job_id, model=job.model)
        if request.route.operation == "cancel" and not job.has_ended(request.at):
            job.request_cancel(request.at - job.times.cancel_s)  # at once
            self._store.jobs.find(request.item, request.key, request.at, otherwise=unknown)
        return self._show(job, request.at)

    def model_of(self, request: JobRequest) -> str | None:
        """See `store.JobService`."""
        return model_in(request.body, "model")

    def create(self, spec: ReplySpec, background: Background, request: JobRequest) -> Served:
        """Take up a response that is to be made."""
        job_id = self._store.new_id(_PREFIX)
        mark = JobMark(
            job_id=job_id,
            price=HALF_PRICE if background.is_discounted else 1.0,
            reply_id=job_id.removeprefix(_PREFIX),
        )
        asked = LineRequest(route=request.route, key=request.key, body=request.body, mark=mark)
        window_s = self._store.times.window_s or background.window_s or _LONGEST_S
        job = Job(
            job_id=job_id,
            key=request.key,
            model=spec.parsed.model,
            created_at=request.at,
            times=self._store.times,
            window_s=window_s if background.is_discounted else _LONGEST_S,
            lines=[Line(name=job_id, request=asked)],
            given={"head": _head(spec, job_id, request.at), "is_stored": background.is_stored},
            fault=request.fault,
        )
        self._store.jobs.add(job)
        return self._show(job, request.at)

    def _is_foreground(self, request: JobRequest) -> bool:
        return not self._store.jobs.has(request.item)

    def _is_gone(self, job: Job, now: float) -> bool:
        """Return whether a response that is not stored is no longer kept, or was lost."""
        kept_s = math.inf if job.given["is_stored"] else self._store.times.keep_s or _POLLED_S
        return now >= job.ending[0] + (0.0 if job.kind == "lose" else kept_s)

    def _show(self, job: Job, now: float) -> Served:
        return Served(
            content=encode(_described(job, now)),
            job_id=job.job_id,
            model=job.model,
            delivers=made_lines(job.lines) if job.has_ended(now) else (),
        )


def _head(spec: ReplySpec, job_id: str, now: float) -> dict[str, Any]:
    """Return what is known of a response before it is made."""
    parsed = spec.parsed
    return {
        "id": job_id, "object": "response", "created_at": int(now), "background": True, "model": parsed.model,
        "status": "queued", "error": None, "incomplete_details": None, "instructions": parsed.system or None,
        "max_output_tokens": parsed.max_output_tokens, "output": [], "usage": None, "parallel_tool_calls": True,
        "previous_response_id": spec.previous_id, "service_tier": "auto", "temperature": parsed.temperature,
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "truncation": "disabled", "metadata": {}, "store": spec.stored_input is not None,
    }  # fmt: skip


def _described(job: Job, now: float) -> dict[str, Any] | orjson.Fragment:
    head, line, phase = job.given["head"], job.lines[0], job.phase(now)
    if not job.has_ended(now):
        return {**head, "status": _STATUS[phase]}
    if phase == "cancelled" or line.end == "cancelled":
        return {**head, "status": "cancelled"}
    if phase != "done" or line.made is None or line.end != "made":
        message = "The response could not be completed within its completion window."
        return {**head, "status": "failed", "error": {"code": "server_error", "message": message}}
    if line.made.succeeded:
        return _completed(line.made.answer.content, job)
    refused = as_object(orjson.loads(line.made.answer.content).get("error")) or {}
    error = {"code": refused.get("code") or "server_error", "message": refused.get("message", "")}
    return {**head, "status": "failed", "error": error}


def _completed(content: bytes, job: Job) -> orjson.Fragment:
    """Return a response as it was made; its bytes may hold what no JSON encoder writes."""
    begin = encode({"background": True, "completed_at": int(job.ending[0])})
    return orjson.Fragment(begin[:-1] + b"," + content.lstrip()[1:])
