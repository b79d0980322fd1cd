"""Gemini's batch API: an uploaded file of requests, a job, a file of results.

Creation is not idempotent; the job is found again by its display name. Results are read from a file rather than from
the description of the job, so that polls and lists stay small. A job that expired or was cancelled has no results, and
it is not said whether what was run is billed. Errors of lines have codes of gRPC, not of HTTP.
Sources: https://ai.google.dev/api/batch-mode, the guide on batch mode, and google-genai 3.6.1, read 2026-11-26.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from convbatch.protocols.batches.descriptions import (
    number_under,
    object_under,
    objects_under,
    read_object,
    required_id,
    text_under,
    time_under,
)
from convbatch.protocols.batches.jobs import Job, JobCall, JobLimits, JobPage, JobPlan, Phase, check_plan, join_lines
from convbatch.protocols.batches.lines import ResultLine, answered_line, decode_line
from convbatch.protocols.encoding import JSON_HEADERS, PATH_SAFE
from convbatch.protocols.error_mapping import classify_error
from convbatch.protocols.gemini import Gemini, root_url
from convbatch.protocols.wire import Endpoint, MalformedReply, encode_json
from convbatch.reply import Failure

_PHASES: Mapping[str, Phase] = {
    "SUCCEEDED": "ended", "PARTIALLY_SUCCEEDED": "ended", "FAILED": "failed", "CANCELLED": "failed",
    "EXPIRED": "failed",
}  # fmt: skip
_STATUSES: Mapping[int, tuple[int, str]] = {
    1: (499, "CANCELLED"), 2: (500, "UNKNOWN"), 3: (400, "INVALID_ARGUMENT"), 4: (504, "DEADLINE_EXCEEDED"),
    5: (404, "NOT_FOUND"), 6: (409, "ALREADY_EXISTS"), 7: (403, "PERMISSION_DENIED"), 8: (429, "RESOURCE_EXHAUSTED"),
    9: (400, "FAILED_PRECONDITION"), 10: (409, "ABORTED"), 11: (400, "OUT_OF_RANGE"), 12: (501, "UNIMPLEMENTED"),
    13: (500, "INTERNAL"), 14: (503, "UNAVAILABLE"), 16: (401, "UNAUTHENTICATED"),
}  # fmt: skip
"""HTTP status and name of the codes of gRPC: https://cloud.google.com/apis/design/errors, read 2026-11-27."""
_UPLOAD = {"X-Goog-Upload-Protocol": "resumable"}
_FINISH = {**_UPLOAD, "X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
_JSON_LINES = "application/jsonl"
_PROTOCOL = Gemini()


class GeminiBatches:
    """See `jobs.BatchApi`."""

    limits = JobLimits(lines=50_000, size=2_000_000_000)  # the API states no number of lines
    longest_h = 48
    lists_jobs = True
    has_whole_results = False

    def begin(self, plan: JobPlan) -> JobCall:
        """See `jobs.BatchApi`: the start of the upload."""
        check_plan(plan)
        size = len(_lines(plan))
        headers = {
            **JSON_HEADERS,
            **_UPLOAD,
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(size),
            "X-Goog-Upload-Header-Content-Type": _JSON_LINES,
        }
        described = {"file": {"displayName": f"{plan.name}.jsonl", "mimeType": _JSON_LINES}}
        return JobCall("upload", "POST", _upload_url(plan.endpoint), headers, encode_json(described))

    def proceed(
        self, plan: JobPlan, call: JobCall, status: int, headers: Mapping[str, str], body: bytes
    ) -> JobCall | Job | Failure:
        """See `jobs.BatchApi`."""
        if not 200 <= status < 300:
            return classify_error(status, headers, body)
        try:
            if call.step == "create":
                return self.read_job(body)
            if call.has_key:
                return _second_upload(plan, headers)
            file = object_under(read_object(body, "a file"), "file")
            return _creation(plan, required_id(file, "name", "a file"))
        except MalformedReply as malformed:
            return Failure(kind="bad_response", message=f"unreadable answer: {malformed}", retryable=malformed.cut)

    def find(self, endpoint: Endpoint, page: str | None = None) -> JobCall:
        """See `jobs.BatchApi`."""
        query = urlencode({"pageSize": 100, **({} if page is None else {"pageToken": page})})
        return JobCall("find", "GET", f"{_route(endpoint, 'batches')}?{query}", {})

    def read_page(self, body: bytes) -> JobPage:
        """See `jobs.BatchApi`; an empty list has no field at all."""
        listed = read_object(body, "a list of batches")
        jobs = tuple(map(_job, objects_under(listed, "operations")))
        return JobPage(jobs, text_under(listed, "nextPageToken"))

    def poll(self, endpoint: Endpoint, job_id: str) -> JobCall:
        """See `jobs.BatchApi`."""
        return JobCall("poll", "GET", _route(endpoint, job_id), {})

    def read_job(self, body: bytes) -> Job:
        """See `jobs.BatchApi`."""
        return _job(read_object(body, "an operation"))

    def cancel(self, endpoint: Endpoint, job_id: str) -> JobCall:
        """See `jobs.BatchApi`."""
        return JobCall("cancel", "POST", f"{_route(endpoint, job_id)}:cancel", {})

    def results(self, endpoint: Endpoint, job: Job) -> tuple[JobCall, ...]:
        """See `jobs.BatchApi`."""
        urls = (f"{_route(endpoint, name)}:download?alt=media" for name in job.results)
        return tuple(JobCall("results", "GET", url, {}) for url in urls)

    def read_line(self, content: bytes) -> ResultLine:
        """See `jobs.BatchApi`."""
        line, odd = decode_line(content)
        line_id = required_id(line, "key", "a line of results")
        if "response" in line:
            return answered_line(_PROTOCOL, line_id, 200, line["response"], odd=odd)
        error = object_under(line, "error")
        code = number_under(error, "code") or 2
        status, name = (code, None) if code >= 400 else _STATUSES.get(code, (500, "UNKNOWN"))
        error = {**error, "code": status, **({} if name is None else {"status": name})}
        return answered_line(_PROTOCOL, line_id, status, {"error": error}, odd=odd)


def _route(endpoint: Endpoint, name: str) -> str:
    return f"{root_url(endpoint.base_url, endpoint.api_version)}/{quote(name, safe=PATH_SAFE)}"


def _upload_url(endpoint: Endpoint) -> str:
    """Return the address of uploads, which has `/upload` before the version."""
    root, _, version = root_url(endpoint.base_url, endpoint.api_version).rpartition("/")
    return f"{root}/upload/{version}/files"


def _lines(plan: JobPlan) -> bytes:
    pairs = zip(plan.line_ids, plan.bodies, strict=True)
    return join_lines([{"key": line_id, "request": body} for line_id, body in pairs])


def _second_upload(plan: JobPlan, headers: Mapping[str, str]) -> JobCall:
    """Return the request that sends the file, to the address that the first one was answered with.

    Raises:
        MalformedReply: There is no address, or one of another server: the dialogues go nowhere else.
    """
    url = headers.get("x-goog-upload-url", "")
    own, given = urlsplit(plan.endpoint.base_url), urlsplit(url)
    if (given.scheme, given.netloc) != (own.scheme, own.netloc):
        raise MalformedReply(f"an upload address of another server ({given.netloc[:100]!r})" if url else "no address")
    return JobCall("upload", "POST", url, {**_FINISH, "Content-Type": _JSON_LINES}, _lines(plan), has_key=False)


def _creation(plan: JobPlan, file_name: str) -> JobCall:
    model = plan.model if plan.model.startswith("tunedModels/") else f"models/{plan.model.removeprefix('models/')}"
    batch = {"displayName": plan.name, "inputConfig": {"fileName": file_name}}
    url = f"{_route(plan.endpoint, model)}:batchGenerateContent"
    return JobCall("create", "POST", url, JSON_HEADERS, encode_json({"batch": batch}))


def _job(plain: dict[str, Any]) -> Job:
    metadata = object_under(plain, "metadata")
    state = (text_under(metadata, "state") or "").removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_")
    if not state and not plain.get("done"):
        raise MalformedReply("an operation without a state")
    phase = _PHASES.get(state, "failed" if "error" in plain else "ended" if plain.get("done") else "open")
    results = _results_of(plain, metadata) if phase == "ended" else None
    failure = _failure(plain, state, phase, has_results=results is not None)
    stats = object_under(metadata, "batchStats")
    total = number_under(stats, "requestCount")
    return Job(
        job_id=required_id(plain, "name", "an operation"),
        name=text_under(metadata, "displayName"),
        phase="failed" if failure is not None else phase,
        state=state,
        done=None if total is None else total - (number_under(stats, "pendingRequestCount") or 0),
        total=total,
        created_at=time_under(metadata, "createTime"),
        results=(results,) if results is not None else (),
        failure=failure,
        may_be_paid=failure is not None and state != "FAILED",
    )


def _results_of(plain: dict[str, Any], metadata: dict[str, Any]) -> str | None:
    """Return the name of the file of results; None if there is none."""
    places = (object_under(plain, "response"), *(object_under(metadata, name) for name in ("output", "outputInfo")))
    return next((name for place in places if (name := text_under(place, "responsesFile"))), None)


def _failure(plain: dict[str, Any], state: str, phase: Phase, *, has_results: bool) -> Failure | None:
    """Return why a job has no results; None if it has, or may still get some."""
    if phase == "open" or has_results:
        return None
    error = object_under(plain, "error")
    message = text_under(error, "message") or ("the job has no results" if phase == "ended" else f"the job is {state}")
    kinds = {"EXPIRED": "timeout", "CANCELLED": "connection", "FAILED": "server_error"}
    is_input = number_under(error, "code") in (3, 5, 9)
    return Failure(
        kind="invalid_request" if is_input else kinds.get(state, "not_found"),  # pyright: ignore[reportArgumentType]  # all are kinds
        message=message,
        code=state,
        retryable=not is_input,
        structured=True,
    )
