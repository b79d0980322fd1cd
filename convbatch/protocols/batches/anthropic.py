"""Anthropic's message batches: the requests in the creation itself, and one file of results.

A batch has no name: it is found again by the ids of its lines, which are in its results, and until then by the time of
its creation and the number of its requests. Requests that failed, expired or were cancelled are not billed.
Sources: https://docs.anthropic.com/en/api/creating-message-batches, the guide on batch processing, and the types of
anthropic 2.14.0, read 2026-11-26.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from convbatch.protocols.anthropic import Anthropic, route_url, version_header
from convbatch.protocols.batches.descriptions import (
    number_under,
    object_under,
    read_object,
    required_id,
    text_under,
    time_under,
)
from convbatch.protocols.batches.jobs import (
    Job,
    JobCall,
    JobLimits,
    JobPage,
    JobPlan,
    check_plan,
    page_after_last,
    unstreamed,
)
from convbatch.protocols.batches.lines import (
    CANCELLED,
    EXPIRED,
    ResultLine,
    answered_line,
    decode_line,
    unrun_line,
)
from convbatch.protocols.encoding import JSON_HEADERS
from convbatch.protocols.error_mapping import classify_error
from convbatch.protocols.wire import CannotCarry, Endpoint, MalformedReply, encode_json
from convbatch.reply import Failure

_STATUSES: Mapping[str | None, int] = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "timeout_error": 504,
    "overloaded_error": 529,
}  # fmt: skip
_NOT_RUN = {"expired": EXPIRED, "canceled": CANCELLED}
_COUNTS = ("succeeded", "errored", "canceled", "expired")
_PROTOCOL = Anthropic()


class AnthropicBatches:
    """See `jobs.BatchApi`."""

    limits = JobLimits(lines=100_000, size=256_000_000)
    longest_h = 24
    lists_jobs = True
    has_whole_results = False

    def begin(self, plan: JobPlan) -> JobCall:
        """See `jobs.BatchApi`."""
        check_plan(plan)
        if any(body.get("max_tokens") == 0 for body in plan.bodies):
            raise CannotCarry("a batch job takes no request with max_tokens 0")
        requests = [
            {"custom_id": line_id, "params": unstreamed(body)}
            for line_id, body in zip(plan.line_ids, plan.bodies, strict=True)
        ]
        headers = {**JSON_HEADERS, **version_header(plan.endpoint.anthropic_version)}
        return JobCall("create", "POST", _route(plan.endpoint), headers, encode_json({"requests": requests}))

    def proceed(
        self, plan: JobPlan, call: JobCall, status: int, headers: Mapping[str, str], body: bytes
    ) -> JobCall | Job | Failure:
        """See `jobs.BatchApi`."""
        if not 200 <= status < 300:
            return classify_error(status, headers, body)
        try:
            return self.read_job(body)
        except MalformedReply as malformed:
            return Failure(kind="bad_response", message=f"unreadable answer: {malformed}", retryable=malformed.cut)

    def find(self, endpoint: Endpoint, page: str | None = None) -> JobCall:
        """See `jobs.BatchApi`."""
        query = urlencode({"limit": 100, **({} if page is None else {"after_id": page})})
        return JobCall("find", "GET", f"{_route(endpoint)}?{query}", version_header(endpoint.anthropic_version))

    def read_page(self, body: bytes) -> JobPage:
        """See `jobs.BatchApi`."""
        return page_after_last(body, _job)

    def poll(self, endpoint: Endpoint, job_id: str) -> JobCall:
        """See `jobs.BatchApi`."""
        return JobCall("poll", "GET", _route(endpoint, job_id), version_header(endpoint.anthropic_version))

    def read_job(self, body: bytes) -> Job:
        """See `jobs.BatchApi`."""
        return _job(read_object(body, "a batch"))

    def cancel(self, endpoint: Endpoint, job_id: str) -> JobCall:
        """See `jobs.BatchApi`."""
        headers = version_header(endpoint.anthropic_version)
        return JobCall("cancel", "POST", _route(endpoint, job_id, "cancel"), headers)

    def results(self, endpoint: Endpoint, job: Job) -> tuple[JobCall, ...]:
        """See `jobs.BatchApi`; the address is built here, because a key goes with it."""
        headers = version_header(endpoint.anthropic_version)
        return tuple(JobCall("results", "GET", _route(endpoint, name, "results"), headers) for name in job.results)

    def read_line(self, content: bytes) -> ResultLine:
        """See `jobs.BatchApi`."""
        line, odd = decode_line(content)
        line_id = required_id(line, "custom_id", "a line of results")
        result = object_under(line, "result")
        kind = required_id(result, "type", "a result")
        if kind in _NOT_RUN:
            return unrun_line(line_id, _NOT_RUN[kind])
        if kind == "succeeded":
            return answered_line(_PROTOCOL, line_id, 200, result.get("message"), odd=odd)
        error = object_under(result, "error")
        status = _STATUSES.get(text_under(object_under(error, "error"), "type"), 500)
        request_id = text_under(error, "request_id")
        return answered_line(_PROTOCOL, line_id, status, error, odd=odd, is_free=True, request_id=request_id)


def _route(endpoint: Endpoint, *parts: str) -> str:
    return "/".join([route_url(endpoint.base_url, "messages/batches"), *(quote(part, safe="") for part in parts)])


def _job(plain: dict[str, Any]) -> Job:
    job_id = required_id(plain, "id", "a batch")
    state = required_id(plain, "processing_status", "a batch")
    counts = object_under(plain, "request_counts")
    done = sum(number_under(counts, name) or 0 for name in _COUNTS)
    is_gone = state == "ended" and text_under(plain, "results_url") is None
    gone = "the results of the batch are no longer available" if is_gone else None
    return Job(
        job_id=job_id,
        name=None,
        phase="failed" if is_gone else "ended" if state == "ended" else "open",
        state=state,
        done=done if state == "ended" else None,
        total=done + (number_under(counts, "processing") or 0),
        created_at=time_under(plain, "created_at"),
        results=(job_id,) if state == "ended" and not is_gone else (),
        failure=None if gone is None else Failure(kind="not_found", message=gone, code="archived"),
        may_be_paid=is_gone,
    )
