"""Gemini's batches from the server's side: `:batchGenerateContent`, `/batches` and `/files`.

Creation is not idempotent: the same request twice makes two jobs. A job is described as an operation, its counts are
strings, and its results come in the order of the input, inside the operation or as a file. A batch that expires has no
results at all. Sources: https://ai.google.dev/api/batch-mode, the guide on batch mode, and what google-genai 3.6.1
sends and reads, 2026-11-26. What is billed of an expired batch is not on these pages: here, what was made by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from convbatch.simulator.batches.files import StoredFile, lines_of
from convbatch.simulator.batches.jobs import DAY_S, Job, JobMark, Line, LineRequest, Phase, count_lines, shown_limit
from convbatch.simulator.batches.store import (
    JobRequest,
    JobStore,
    Served,
    body_of,
    ends,
    made_lines,
    rfc3339,
    word_lines,
)
from convbatch.simulator.gemini import GEMINI
from convbatch.simulator.wire import ErrorCause, Hint, RefusedRequest, Route, as_list, as_object, encode, refuse

_STATE: Mapping[Phase, str] = {
    "waiting": "PENDING", "running": "RUNNING", "finishing": "RUNNING", "cancelling": "RUNNING", "done": "SUCCEEDED",
    "failed": "FAILED", "expired": "EXPIRED", "cancelled": "CANCELLED",
}  # fmt: skip
_ERRORS: Mapping[Phase, tuple[int, str]] = {
    "failed": (13, "The batch failed."),
    "expired": (4, "The batch has expired."),
    "cancelled": (1, "The batch was cancelled."),
}
_RPC_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 429: 8, 500: 13, 502: 14, 503: 14, 504: 4}
"""Errors of lines and operations are `google.rpc.Status`, whose code is not that of HTTP. They come without details:
google-genai takes only strings there."""
_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1beta.GenerateContentBatch"
_WINDOW_S = 48 * 3600.0
_FILES_KEPT_S = 2 * DAY_S
_MOST_JOBS = 100
_MOST_INLINE = 20 * 2**20
_MOST_IN_FILE = 2 * 2**30
_UNREADABLE = "Invalid JSON payload received. Could not parse the request body."
_NOT_FOUND = "Requested entity was not found."


class GeminiJobs:
    """See `store.JobService`."""

    def __init__(self, store: JobStore) -> None:
        """Serve the jobs and files of a store."""
        self._store = store

    def serve(self, request: JobRequest) -> Served:
        """See `store.JobService`."""
        match request.route.operation:
            case "create":
                return self._show(self._create(request), request)
            case "list":
                return self._list(request)
            case "cancel":
                job = self._job(request)
                job.request_cancel(request.at)
                return Served(content=encode({}), job_id=job.job_id, model=job.model)
            case "delete":
                job = self._job(request)
                self._store.jobs.forget(job)
                return Served(content=encode({}), job_id=job.job_id, model=job.model)
            case "poll":
                return self._show(self._job(request), request)
            case _:
                return self._serve_file(request)

    def model_of(self, request: JobRequest) -> str | None:
        """See `store.JobService`."""
        return request.route.model

    def _serve_file(self, request: JobRequest) -> Served:
        if request.route.operation == "upload":
            return self._upload(request)
        if request.route.operation == "list_files":
            files = self._store.files.of_key(request.key, request.at)
            return Served(content=encode({"files": [_described(file, request) for file in files]}))
        file = self._store.files.find(request.item, request.key, request.at, otherwise=_NOT_FOUND)
        if request.route.operation == "delete_file":
            self._store.files.forget(file)
            return Served(content=encode({}))
        if request.route.operation == "results":
            headers = {"content-type": file.content_type}
            return Served(content=file.content, headers=headers, job_id=file.job_id, delivers=file.made)
        return Served(content=encode(_described(file, request)))

    def _upload(self, request: JobRequest) -> Served:
        """Take a resumable upload: its start, then pieces at the address that the start was answered with."""
        headers, upload = request.headers, request.query.get("upload_id")
        commands = {word.strip() for word in headers.get("x-goog-upload-command", "").split(",")}
        if upload is None:
            return self._begin_upload(request, commands)
        file = self._store.files.begun(upload)
        if file is None or "upload" not in commands:
            refuse("bad_request", "Upload is not active, or the upload command is missing.")
        if headers.get("x-goog-upload-offset") != str(len(file.content)):
            refuse("bad_request", f"Upload offset does not match: {len(file.content)} bytes were received.")
        file.content += request.body
        if "finalize" not in commands:
            return Served(content=b"", headers={"x-goog-upload-status": "active"})
        if file.size is not None and file.size != len(file.content):
            refuse("bad_request", f"Upload has {len(file.content)} bytes, {file.size} were announced.")
        file.is_whole = True
        described = {"file": _described(file, request)}
        return Served(content=encode(described), headers={"x-goog-upload-status": "final"})

    def _begin_upload(self, request: JobRequest, commands: set[str]) -> Served:
        headers = request.headers
        if headers.get("x-goog-upload-protocol") != "resumable" or "start" not in commands:
            refuse("bad_request", "Only resumable uploads are served here; the first command must be 'start'.")
        plain = as_object(request.object(_UNREADABLE).get("file")) if request.body else {}
        described = {_camel(name): value for name, value in (plain or {}).items()}
        size = headers.get("x-goog-upload-header-content-length", "")
        content_type = headers.get("x-goog-upload-header-content-type") or described.get("mimeType") or "text/plain"
        file = self._store.files.add(
            StoredFile(
                file_id=str(described.get("name") or self._store.new_id("files/")),
                key=request.key,
                name=str(described.get("displayName") or headers.get("x-goog-upload-file-name", "")),
                purpose="",
                content_type=str(content_type),
                created_at=request.at,
                expires_at=request.at + (self._store.times.keep_s or _FILES_KEPT_S),
                size=int(size) if size.isdecimal() else None,
                is_whole=False,
            )
        )
        address = f"{request.base_url}/upload/{request.route.version}/files?upload_id={file.file_id}"
        return Served(content=b"", headers={"x-goog-upload-url": address, "x-goog-upload-status": "active"})

    def _create(self, request: JobRequest) -> Job:
        if len(request.body) > (self._store.limits.size or _MOST_INLINE):
            refuse("bad_request", f"Request payload size exceeds the limit: {_MOST_INLINE} bytes.")
        batch = _fields(request.object(_UNREADABLE), "", {"batch"}).get("batch", {})
        known = {"displayName", "inputConfig", "priority", "webhookConfig", "name", "model"}
        fields = _fields(batch, "batch", known)
        source = _fields(fields.get("inputConfig", {}), "batch.input_config", {"requests", "fileName"})
        if len(source) != 1:
            refuse("bad_request", "Exactly one of requests and file_name must be set.", field="batch.input_config")
        job_id, model = self._store.new_id("batches/"), request.route.model or ""
        if "fileName" in source:
            lines, problems = self._lines_of_file(str(source["fileName"]), request, job_id)
        else:
            lines, problems = self._inline_lines(source["requests"], request, job_id), list[dict[str, Any]]()
        tokens = self._check_quota(request, model, lines)
        job = Job(
            job_id=job_id,
            key=request.key,
            model=model,
            created_at=request.at,
            times=self._store.times,
            window_s=self._store.times.window_s or _WINDOW_S,
            lines=lines,
            problems=problems,
            given={**fields, "in_file": "fileName" in source},
            fault=request.fault,
            tokens=tokens,
        )
        self._store.jobs.add(job)
        return job

    def _check_quota(self, request: JobRequest, model: str, lines: list[Line]) -> int:
        """Return the tokens of the lines; refuses too many jobs at once, and too many tokens."""
        limit, tokens = self._store.limits.enqueued_tokens, self._store.tokens_of(lines)
        most = self._store.limits.jobs or _MOST_JOBS
        too_many = len(self._store.jobs.open_of(request.key, request.at)) >= most
        if too_many or (limit is not None and self._store.enqueued(request.key, model, request.at) + tokens > limit):
            hint = Hint(seconds=0, form="none", dimension="requests" if too_many else "tokens", limit=limit or most)
            raise RefusedRequest(ErrorCause(kind="rate_limit", model=model, hint=hint))
        return tokens

    def _inline_lines(self, requests: Any, request: JobRequest, job_id: str) -> list[Line]:
        items = as_list(_fields(requests, "batch.input_config.requests", {"requests"}).get("requests"))
        if not items:
            refuse("bad_request", "* BatchGenerateContentRequest.batch.input_config: no requests\n")
        lines: list[Line] = []
        for at, item in enumerate(items):
            where = f"batch.input_config.requests.requests[{at}]"
            fields = _fields(item, where, {"request", "metadata"})
            asked = as_object(fields.get("request"))
            if asked is None:
                refuse("bad_request", f"* {where}.request: request is not specified\n", field=where)
            metadata = as_object(fields.get("metadata"))
            line = _line(asked, str((metadata or {}).get("key", at)), request, job_id)
            line.metadata = metadata
            lines.append(line)
        return lines

    def _lines_of_file(self, name: str, request: JobRequest, job_id: str) -> tuple[list[Line], list[dict[str, Any]]]:
        file = self._store.files.find(name, request.key, request.at, otherwise=f"File {name} was not found.")
        lines: list[Line] = []
        if len(file.content) > (self._store.limits.size or _MOST_IN_FILE):
            return [], [{"message": "The input file is too large."}]
        for number, content in lines_of(file.content):
            try:
                plain = as_object(orjson.loads(content)) or {}
            except orjson.JSONDecodeError:
                plain = {}
            asked = as_object(plain.get("request"))
            if asked is None or not isinstance(plain.get("key", ""), str):
                return [], [{"message": f"Failed to parse line {number} of the input file."}]
            lines.append(_line(asked, plain.get("key", ""), request, job_id))
        return lines, [] if lines else [{"message": "The input file has no requests."}]

    def _job(self, request: JobRequest) -> Job:
        return self._store.jobs.find(request.item, request.key, request.at, otherwise=_NOT_FOUND)

    def _list(self, request: JobRequest) -> Served:
        self._store.jobs.advance(request.at)
        jobs = [job for job in self._store.jobs.of_key(request.key) if job.job_id.startswith("batches/")]
        token = request.query.get("pageToken", "")
        start = int(token) if token.isdecimal() else 0
        end = start + shown_limit(request.query, "pageSize", 50, 1000)
        listed: dict[str, Any] = {"operations": [self._describe(job, request.at) for job in jobs[start:end]]}
        if end < len(jobs):
            listed["nextPageToken"] = str(end)
        return Served(content=encode(listed))

    def _show(self, job: Job, request: JobRequest) -> Served:
        described = self._describe(job, request.at)
        has_results = "response" in described and not job.given["in_file"]
        delivers = made_lines(job.lines) if has_results else ()
        return Served(content=encode(described), job_id=job.job_id, model=job.model, delivers=delivers)

    def _describe(self, job: Job, now: float) -> dict[str, Any]:
        ended_at, phase = ends(job, now), job.phase(now)
        if phase == "cancelled" and all(line.end == "made" for line in job.lines):
            phase = "done"  # cancelling is best effort
        output = self._output(job, now) if phase == "done" else None
        metadata: dict[str, Any] = {
            "@type": _TYPE,
            "model": f"models/{job.model}",
            "displayName": job.given.get("displayName", ""),
            "inputConfig": job.given["inputConfig"] if job.given["in_file"] else {},
            "createTime": rfc3339(job.created_at),
            "updateTime": rfc3339(now if ended_at is None else ended_at),
            "batchStats": _stats(job),
            "state": f"BATCH_STATE_{_STATE[phase]}",
            "name": job.job_id,
        }
        if ended_at is not None:
            metadata["endTime"] = rfc3339(ended_at)
        described: dict[str, Any] = {"name": job.job_id, "metadata": metadata}
        if output is not None:
            metadata["output"] = output
            return {**described, "done": True, "response": {"@type": f"{_TYPE}Output", **output}}
        if ended_at is None:
            return described
        code, message = _ERRORS[phase]
        problem = next(iter(job.problems), None)
        error = {"code": code, "message": message} if problem is None else {"code": 3, **problem}
        return {**described, "done": True, "error": error}

    def _output(self, job: Job, now: float) -> dict[str, Any]:
        """Return the results, or the name of their file; the file is written at the first look."""
        if not job.given["in_file"]:
            if job.kind == "lose":
                return {}
            worded = [orjson.Fragment(content) for content in word_lines(job.lines, _inline_result, cuts=False)]
            return {"inlinedResponses": {"inlinedResponses": worded}}
        file_id = f"files/batch-{job.job_id.removeprefix('batches/')}"
        if not self._store.files.has(file_id):
            ended_at = job.ending[0]
            kept_s = 0.0 if job.kind == "lose" else self._store.times.keep_s or _FILES_KEPT_S
            content = b"\n".join([*word_lines(job.lines, _file_result), b""])
            self._store.files.add(
                StoredFile(
                    file_id=file_id,
                    key=job.key,
                    name=f"{job.job_id} output",
                    purpose="",
                    created_at=ended_at,
                    expires_at=ended_at + kept_s,
                    content=content,
                    job_id=job.job_id,
                    made=made_lines(job.lines),
                )
            )
        return {"responsesFile": file_id}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)


def _fields(value: Any, where: str, known: set[str]) -> dict[str, Any]:
    """Return an object with its keys in camelCase; refuses an unknown key as protobuf's parser does."""
    plain = as_object(value)
    if plain is None:
        refuse("bad_request", f"Invalid value at '{where}': expected an object.", field=where)
    for name in plain:
        if _camel(name) not in known:
            at = f" at '{where}'" if where else ""
            refuse("bad_request", f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.',
                   field=where)  # fmt: skip
    return {_camel(name): item for name, item in plain.items() if item is not None}


def _line(asked: dict[str, Any], name: str, request: JobRequest, job_id: str) -> Line:
    """Return one request; one that names a model goes to it."""
    model = str(asked.get("model") or request.route.model).removeprefix("models/")
    route = Route(wire=GEMINI, operation="generate", model=model, version=request.route.version)
    body = encode({key: value for key, value in asked.items() if key != "model"})
    mark = JobMark(job_id=job_id)
    return Line(name=name, request=LineRequest(route=route, key=request.key, body=body, mark=mark))


def _result_of(line: Line) -> dict[str, Any]:
    if line.end != "made" or line.made is None:
        code, message = _ERRORS["expired" if line.end == "expired" else "cancelled"]
        return {"error": {"code": code, "message": message}}
    if line.made.succeeded:
        return {"response": body_of(line.made)}
    error = as_object(orjson.loads(line.made.answer.content)["error"]) or {}
    code = _RPC_CODES.get(line.made.answer.status or 500, 2)
    return {"error": {"code": code, "message": error.get("message", "")}}


def _inline_result(line: Line, name: str) -> dict[str, Any]:
    if line.made is not None and line.made.kind == "garbled":
        return {}
    metadata = line.metadata if name == line.name else {"key": name}
    return {**_result_of(line), **({} if metadata is None else {"metadata": metadata})}


def _file_result(line: Line, name: str) -> dict[str, Any]:
    return {"key": name, **_result_of(line)}


def _stats(job: Job) -> dict[str, str]:
    """Return the counts, as strings; those that are zero are omitted."""
    counts = count_lines(job)
    stats = {
        "requestCount": len(job.lines),
        "successfulRequestCount": counts["succeeded"],
        "failedRequestCount": counts["failed"] + counts["expired"] + counts["cancelled"],
        "pendingRequestCount": counts["open"],
    }
    return {name: str(count) for name, count in stats.items() if count}


def _described(file: StoredFile, request: JobRequest) -> dict[str, Any]:
    return {
        "name": file.file_id,
        "displayName": file.name,
        "mimeType": file.content_type,
        "sizeBytes": str(len(file.content)),
        "createTime": rfc3339(file.created_at),
        "updateTime": rfc3339(file.created_at),
        "expirationTime": rfc3339(file.expires_at),
        "uri": f"{request.base_url}/v1beta/{file.file_id}",
        "downloadUri": f"{request.base_url}/v1beta/{file.file_id}:download?alt=media",
        "state": "ACTIVE",
        "source": "UPLOADED",
    }
