"""OpenAI's batch API, for chat completions and for responses: a file of requests, a batch, one or two files of results.

The batch is found again by its metadata. What is wrong with the file is reported by a batch that fails, for which
nothing is billed. A batch that expired or was cancelled delivers what was run, and bills that.
Sources: https://platform.openai.com/docs/api-reference/batch and the types of openai 3.57.0, read 2026-11-26.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from convbatch.protocols.batches.descriptions import (
    number_under,
    object_under,
    objects_under,
    read_object,
    required_id,
    text_under,
)
from convbatch.protocols.batches.jobs import (
    Job,
    JobCall,
    JobLimits,
    JobPage,
    JobPlan,
    Phase,
    check_plan,
    join_lines,
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
from convbatch.protocols.openai import OpenAI
from convbatch.protocols.responses import Responses
from convbatch.protocols.wire import Endpoint, MalformedReply, WireProtocol, encode_json
from convbatch.reply import Failure

NAME_KEY = "convbatch_job"
"""Key of the metadata with the name of a job."""
_PHASES: Mapping[str, Phase] = {
    "validating": "open", "in_progress": "open", "finalizing": "open", "cancelling": "open", "completed": "ended",
    "expired": "ended", "cancelled": "ended", "failed": "failed",
}  # fmt: skip
_TOO_MANY_TOKENS = "token_limit_exceeded"
_PROTOCOLS: Mapping[str, WireProtocol] = {"openai": OpenAI(), "responses": Responses()}


class OpenAIBatches:
    """See `jobs.BatchApi`."""

    limits = JobLimits(lines=50_000, size=200_000_000)
    longest_h = 24
    lists_jobs = True
    has_whole_results = False

    def __init__(self, protocol: str, url: str) -> None:
        """Build the API for the requests of a protocol, which lines name by a `url`."""
        self._protocol = _PROTOCOLS[protocol]
        self._url = url

    def begin(self, plan: JobPlan) -> JobCall:
        """See `jobs.BatchApi`: the upload of the requests."""
        check_plan(plan)
        lines = [
            {"custom_id": line_id, "method": "POST", "url": self._url, "body": unstreamed(body)}
            for line_id, body in zip(plan.line_ids, plan.bodies, strict=True)
        ]
        content_type, form = _form(f"{plan.name}.jsonl", join_lines(lines))
        return JobCall("upload", "POST", _route(plan.endpoint, "files"), {"Content-Type": content_type}, form)

    def proceed(
        self, plan: JobPlan, call: JobCall, status: int, headers: Mapping[str, str], body: bytes
    ) -> JobCall | Job | Failure:
        """See `jobs.BatchApi`."""
        if not 200 <= status < 300:
            return classify_error(status, headers, body)
        try:
            if call.step == "create":
                return self.read_job(body)
            file_id = required_id(read_object(body, "a file"), "id", "a file")
        except MalformedReply as malformed:
            return Failure(kind="bad_response", message=f"unreadable answer: {malformed}", retryable=malformed.cut)
        asked = {
            "input_file_id": file_id,
            "endpoint": self._url,
            "completion_window": "24h",
            "metadata": {NAME_KEY: plan.name},
        }
        return JobCall("create", "POST", _route(plan.endpoint, "batches"), JSON_HEADERS, encode_json(asked))

    def find(self, endpoint: Endpoint, page: str | None = None) -> JobCall:
        """See `jobs.BatchApi`."""
        query = urlencode({"limit": 100, **({} if page is None else {"after": page})})
        return JobCall("find", "GET", f"{_route(endpoint, 'batches')}?{query}", {})

    def read_page(self, body: bytes) -> JobPage:
        """See `jobs.BatchApi`."""
        return page_after_last(body, _job)

    def poll(self, endpoint: Endpoint, job_id: str) -> JobCall:
        """See `jobs.BatchApi`."""
        return JobCall("poll", "GET", _route(endpoint, "batches", job_id), {})

    def read_job(self, body: bytes) -> Job:
        """See `jobs.BatchApi`."""
        return _job(read_object(body, "a batch"))

    def cancel(self, endpoint: Endpoint, job_id: str) -> JobCall:
        """See `jobs.BatchApi`."""
        return JobCall("cancel", "POST", _route(endpoint, "batches", job_id, "cancel"), {})

    def results(self, endpoint: Endpoint, job: Job) -> tuple[JobCall, ...]:
        """See `jobs.BatchApi`: the files of replies and of failures, of which there may be one, two or none."""
        return tuple(JobCall("results", "GET", _route(endpoint, "files", name, "content"), {}) for name in job.results)

    def read_line(self, content: bytes) -> ResultLine:
        """See `jobs.BatchApi`."""
        line, odd = decode_line(content)
        line_id = required_id(line, "custom_id", "a line of results")
        response, error = object_under(line, "response"), object_under(line, "error")
        code = text_under(error, "code")
        if not response and code in (EXPIRED, CANCELLED):
            return unrun_line(line_id, code)
        status = number_under(response, "status_code") or (500 if error else 200)
        value: Any = response.get("body", {"error": error})
        request_id = text_under(response, "request_id")
        return answered_line(self._protocol, line_id, status, value, odd=odd, request_id=request_id)


def _route(endpoint: Endpoint, *parts: str) -> str:
    return "/".join([endpoint.base_url.rstrip("/"), *(quote(part, safe="") for part in parts)])


def _form(file_name: str, content: bytes) -> tuple[str, bytes]:
    """Return the content type and the bytes of a form that uploads a file for a batch."""
    boundary = hashlib.sha256(content).hexdigest()
    purpose = f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file_name}"\r\n'
    kind = "Content-Type: application/jsonl\r\n\r\n"
    form = b"".join([(purpose + head + kind).encode(), content, f"\r\n--{boundary}--\r\n".encode()])
    return f"multipart/form-data; boundary={boundary}", form


def _job(plain: dict[str, Any]) -> Job:
    state = required_id(plain, "status", "a batch")
    counts = object_under(plain, "request_counts")
    completed, failed = number_under(counts, "completed"), number_under(counts, "failed")
    created_at = number_under(plain, "created_at")
    phase = _PHASES.get(state, "open")
    files = (text_under(plain, "output_file_id"), text_under(plain, "error_file_id"))
    return Job(
        job_id=required_id(plain, "id", "a batch"),
        name=text_under(object_under(plain, "metadata"), NAME_KEY),
        phase=phase,
        state=state,
        done=None if completed is None or failed is None else completed + failed,
        total=number_under(counts, "total"),
        created_at=None if created_at is None else float(created_at),
        results=tuple(name for name in files if name is not None) if phase == "ended" else (),
        failure=_failure(plain) if phase == "failed" else None,
    )


def _failure(plain: dict[str, Any]) -> Failure:
    """Return why a batch failed; more enqueued tokens than are allowed is a matter of time."""
    problems = objects_under(object_under(plain, "errors"), "data")
    first = problems[0] if problems else {}
    code, line = text_under(first, "code"), number_under(first, "line")
    message = text_under(first, "message") or "the batch failed, and does not say why"
    where = "" if line is None else f" (line {line} of the input)"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    is_limit = code == _TOO_MANY_TOKENS
    return Failure(
        kind="rate_limit" if is_limit else "invalid_request" if problems else "server_error",
        message=f"{message}{where}{more}",
        code=code,
        retryable=is_limit or not problems,
        structured=True,
    )
