"""OpenAI's files and batches from the server's side: `/v1/files` and `/v1/batches`.

What is wrong with an input file is found after the batch was made: the batch fails, with a list of errors. Results come
in two files, of replies and of failures, and not in the order of the input; either may be absent.
Sources: https://platform.openai.com/docs/api-reference/batch, the guide on batches, and the types of openai 3.57.0,
read 2026-11-26. How a batch refuses to be cancelled is not on these pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from convbatch.simulator.batches.files import StoredFile, lines_of, read_form
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
    word_lines,
)
from convbatch.simulator.openai import OPENAI
from convbatch.simulator.responses import RESPONSES
from convbatch.simulator.wire import Route, as_object, encode, refuse

_ENDPOINTS = {"/v1/chat/completions": OPENAI, "/v1/responses": RESPONSES}
_OTHER_ENDPOINTS = (
    "/v1/embeddings", "/v1/completions", "/v1/moderations", "/v1/images/generations", "/v1/images/edits", "/v1/videos",
)  # fmt: skip
_STATUS: Mapping[Phase, str] = {
    "waiting": "validating", "running": "in_progress", "finishing": "finalizing", "cancelling": "cancelling",
    "done": "completed", "failed": "failed", "expired": "expired", "cancelled": "cancelled",
}  # fmt: skip
_ENDS: tuple[Phase, ...] = ("done", "failed", "expired", "cancelled")
_CREATE = {"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"}
_MOST_LINES = 50_000
_MOST_BYTES = 200 * 2**20
_FILES_KEPT_S = 30 * DAY_S
_LEAST_KEPT_S, _MOST_KEPT_S = 3600, 2_592_000
_UNREADABLE = "We could not parse the JSON body of your request."
_EXPIRED = {
    "code": "batch_expired",
    "message": "This request could not be executed before the completion window expired.",
}
_CANCELLED = {"code": "batch_cancelled", "message": "This request was not executed: the batch was cancelled."}


class OpenAIJobs:
    """See `store.JobService`."""

    def __init__(self, store: JobStore) -> None:
        """Serve the jobs and files of a store."""
        self._store = store

    def serve(self, request: JobRequest) -> Served:
        """See `store.JobService`."""
        match request.route.operation:
            case "upload":
                return _plain(_described(self._upload(request)))
            case "list_files":
                files = self._store.files.of_key(request.key, request.at)
                return _plain({"object": "list", "data": [_described(file) for file in files], "has_more": False})
            case "get_file":
                return _plain(_described(self._file(request)))
            case "delete_file":
                file = self._file(request)
                self._store.files.forget(file)
                return _plain({"id": file.file_id, "object": "file", "deleted": True})
            case "results":
                file = self._file(request)
                headers = {"content-type": "application/octet-stream"}
                return Served(content=file.content, headers=headers, job_id=file.job_id, delivers=file.made)
            case "create":
                return self._show(self._create(request), request)
            case "list":
                return self._list(request)
            case "cancel":
                return self._show(self._cancel(request), request)
            case _:
                return self._show(self._job(request), request)

    def model_of(self, request: JobRequest) -> str | None:
        """See `store.JobService`; a creation names a file, whose first line names the model."""
        file_id = model_in(request.body, "input_file_id")
        file = None if file_id is None else self._store.files.get(file_id)
        return None if file is None else model_in(file.content.partition(b"\n")[0], "body", "model")

    def _upload(self, request: JobRequest) -> StoredFile:
        form = read_form(request.headers.get("content-type", ""), request.body)
        if form is None:
            refuse("bad_request", "Could not parse multipart form")
        for name in ("purpose", "file"):
            if name not in {**form.fields, **form.files}:
                refuse("bad_request", f"Missing required parameter: '{name}'.", field=name)
        if form.fields["purpose"] not in ("batch", "user_data", "fine-tune", "vision", "evals", "assistants"):
            refuse("bad_request", f"'{form.fields['purpose']}' is not a valid value for 'purpose'.", field="purpose")
        name, content = form.files["file"]
        kept_s = self._kept_s(form.fields.get("expires_after[anchor]"), form.fields.get("expires_after[seconds]"))
        return self._store.files.add(
            StoredFile(
                file_id=self._store.new_id("file-"),
                key=request.key,
                name=name,
                purpose=form.fields["purpose"],
                created_at=request.at,
                expires_at=request.at + kept_s,
                content=content,
            )
        )

    def _kept_s(self, anchor: Any, seconds: Any) -> float:
        if anchor is None and seconds is None:
            return self._store.times.keep_s or _FILES_KEPT_S
        kept = int(seconds) if str(seconds).isdecimal() else 0
        if anchor != "created_at" or not _LEAST_KEPT_S <= kept <= _MOST_KEPT_S:
            refuse("bad_request", f"Invalid expires_after: {anchor} + {seconds}.", field="expires_after")
        return kept

    def _file(self, request: JobRequest) -> StoredFile:
        unknown = f"No such File object: {request.item}"
        if self._store.files.find(request.item, request.key, request.at, otherwise=unknown).purpose == "batch_output":
            self._store.jobs.advance(request.at)
        return self._store.files.find(request.item, request.key, request.at, otherwise=unknown)

    def _create(self, request: JobRequest) -> Job:
        fields = request.object(_UNREADABLE)
        _check_creation(fields)
        file_id = str(fields["input_file_id"])
        unknown = f"No such File object: {file_id}"
        file = self._store.files.find(file_id, request.key, request.at, otherwise=unknown)
        if file.purpose != "batch":
            message = f"Expected file to have purpose 'batch' but got '{file.purpose}'."
            refuse("bad_request", message, field="input_file_id")
        job_id = self._store.new_id("batch_")
        lines, problems = self._read(file, str(fields["endpoint"]), request.key, job_id)
        job = Job(
            job_id=job_id,
            key=request.key,
            model=_model_of(lines),
            created_at=request.at,
            times=self._store.times,
            window_s=self._store.times.window_s or DAY_S,
            lines=lines,
            problems=problems or self._too_many_tokens(request, lines),
            given=fields,
            fault=request.fault,
            tokens=self._store.tokens_of(lines),
        )
        self._store.jobs.add(job)
        return job

    def _read(self, file: StoredFile, endpoint: str, key: str, job_id: str) -> tuple[list[Line], list[dict[str, Any]]]:
        reader = _InputReader(endpoint, key, job_id)
        limits = self._store.limits
        if len(file.content) > (limits.size or _MOST_BYTES):
            return [], [_problem("file_too_large", "The input file is too large for a batch.", None)]
        found = lines_of(file.content)
        if not found:
            return [], [_problem("empty_file", "The input file is empty.", None)]
        if len(found) > (most := limits.lines or _MOST_LINES):
            message = f"The batch contains {len(found)} requests; at most {most} are allowed."
            return [], [_problem("too_many_tasks", message, None)]
        for number, line in found:
            reader.read(number, line)
        return reader.lines, reader.problems

    def _too_many_tokens(self, request: JobRequest, lines: list[Line]) -> list[dict[str, Any]]:
        limit, model = self._store.limits.enqueued_tokens, _model_of(lines)
        if limit is None:
            return []
        enqueued = self._store.enqueued(request.key, model, request.at) + self._store.tokens_of(lines)
        message = (
            f"Enqueued token limit reached for {model} in organization org-sim. Limit: {limit:,} enqueued tokens. "
            "Please try again once some in_progress batches have been completed."
        )
        return [] if enqueued <= limit else [_problem("token_limit_exceeded", message, None)]

    def _job(self, request: JobRequest) -> Job:
        unknown = f"No batch found with id '{request.item}'."
        return self._store.jobs.find(request.item, request.key, request.at, otherwise=unknown)

    def _cancel(self, request: JobRequest) -> Job:
        job = self._job(request)
        if job.has_ended(request.at) and job.phase(request.at) != "cancelled":
            refuse("bad_request", f"Cannot cancel a batch with status '{_STATUS[job.phase(request.at)]}'.")
        job.request_cancel(request.at)
        return job

    def _list(self, request: JobRequest) -> Served:
        self._store.jobs.advance(request.at)
        jobs = [job for job in self._store.jobs.of_key(request.key) if job.job_id.startswith("batch_")]
        limit = shown_limit(request.query, "limit", 20, 100)
        shown, more = page(jobs, after=request.query.get("after"), limit=limit)
        listed = {
            "object": "list",
            "data": [self._describe(job, request.at) for job in shown],
            "first_id": shown[0].job_id if shown else None,
            "last_id": shown[-1].job_id if shown else None,
            "has_more": more,
        }
        return _plain(listed)

    def _show(self, job: Job, request: JobRequest) -> Served:
        served = _plain(self._describe(job, request.at))
        served.job_id, served.model = job.job_id, job.model
        return served

    def _describe(self, job: Job, now: float) -> dict[str, Any]:
        counts, phase = count_lines(job), job.phase(now)
        outputs = self._outputs(job, now)
        reached = _times(job, now)
        return {
            "id": job.job_id,
            "object": "batch",
            "endpoint": job.given["endpoint"],
            "model": job.model,
            "errors": {"object": "list", "data": list(_problems(job))} if phase == "failed" else None,
            "input_file_id": job.given["input_file_id"],
            "completion_window": job.given["completion_window"],
            "status": _STATUS[phase],
            "output_file_id": outputs.get("output"),
            "error_file_id": outputs.get("error"),
            "created_at": int(job.created_at),
            "expires_at": int(job.expires_at),
            **{name: None if at is None else int(at) for name, at in reached.items()},
            "request_counts": {
                "total": 0 if phase in ("waiting", "failed") else len(job.lines),
                "completed": counts["succeeded"],
                "failed": counts["failed"],
            },
            "usage": _usage(job),
            "metadata": job.given.get("metadata"),
        }

    def _outputs(self, job: Job, now: float) -> dict[str, str]:
        """Return the ids of the files of an ended batch; they are written at the first look."""
        ended_at = ends(job, now)
        if ended_at is None or job.phase(now) == "failed":
            return {}
        lines = job.made_in_order()
        good = [line for line in lines if _has_reply(line)]
        bad = [line for line in lines if not _has_reply(line)]
        after = as_object(job.given.get("output_expires_after")) or {}
        kept_s = self._kept_s(after.get("anchor"), after.get("seconds"))
        ids: dict[str, str] = {}
        for name, some in (("output", good), ("error", bad)):
            if some:
                ids[name] = f"file-{name}-{job.job_id}"
                self._write(ids[name], job, some, ended_at, 0.0 if job.kind == "lose" else kept_s)
        return ids

    def _write(self, file_id: str, job: Job, lines: list[Line], ended_at: float, kept_s: float) -> None:
        if self._store.files.has(file_id):
            return
        content = b"\n".join(word_lines(lines, _result))
        self._store.files.add(
            StoredFile(
                file_id=file_id,
                key=job.key,
                name=f"{job.job_id}_{file_id.split('-')[1]}.jsonl",
                purpose="batch_output",
                created_at=ended_at,
                expires_at=ended_at + kept_s,
                content=content + b"\n",
                job_id=job.job_id,
                made=made_lines(lines),
            )
        )


class _InputReader:
    """Reads the lines of an input file, and collects what is wrong with them."""

    def __init__(self, endpoint: str, key: str, job_id: str) -> None:
        self.lines: list[Line] = []
        self.problems: list[dict[str, Any]] = []
        self._route = Route(wire=_ENDPOINTS[endpoint], operation="generate")
        self._endpoint = endpoint
        self._key = key
        self._mark = JobMark(job_id=job_id)
        self._names: set[str] = set()
        self._model: str | None = None

    def read(self, number: int, content: bytes) -> None:
        """Read one line."""
        try:
            plain = as_object(orjson.loads(content))
        except orjson.JSONDecodeError:
            plain = None
        if plain is None:
            self.problems.append(_problem("invalid_json_line", "This line is not parseable as valid JSON.", number))
            return
        wrong = next(self._wrongs(plain), None)
        if wrong is not None:
            code, message, name = wrong
            self.problems.append(_problem(code, message, number, name))
            return
        self._names.add(plain["custom_id"])
        request = LineRequest(route=self._route, key=self._key, body=encode(plain["body"]), mark=self._mark)
        self.lines.append(Line(name=plain["custom_id"], request=request))

    def _wrongs(self, plain: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
        for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
            if not isinstance(plain.get(name), kind) or plain[name] == "":
                yield "missing_required_parameter", f"Missing required parameter: '{name}'.", name
        if plain["custom_id"] in self._names:
            message = f"The custom_id '{plain['custom_id']}' is used by another request of this batch."
            yield "duplicate_custom_id", message, "custom_id"
        if plain["method"] != "POST":
            yield "invalid_method", "Invalid method: only 'POST' is supported.", "method"
        if plain["url"] != self._endpoint:
            message = f"The URL '{plain['url']}' does not match the batch endpoint '{self._endpoint}'."
            yield "url_mismatch", message, "url"
        model = plain["body"].get("model")
        self._model = self._model or model
        if model != self._model:
            message = f"The model '{model}' does not match the model '{self._model}' of the first request."
            yield "model_mismatch", message, "body.model"


def _check_creation(fields: dict[str, Any]) -> None:
    for name in fields:
        if name not in _CREATE:
            refuse("bad_request", f"Unknown parameter: '{name}'.", field=name)
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not isinstance(fields.get(name), str):
            refuse("bad_request", f"Missing required parameter: '{name}'.", field=name)
    if fields["completion_window"] != "24h":
        message = f"Invalid value: '{fields['completion_window']}'. Value must be '24h'."
        refuse("bad_request", message, field="completion_window")
    if fields["endpoint"] not in _ENDPOINTS:
        known = ", ".join(f"'{endpoint}'" for endpoint in (*_ENDPOINTS, *_OTHER_ENDPOINTS))
        message = f"Invalid value: '{fields['endpoint']}'. Supported values are: {known}."
        refuse("bad_request", message, field="endpoint")
    metadata: Any = fields.get("metadata") or {}
    pairs: Mapping[str, Any] = as_object(metadata) or {}
    if not isinstance(metadata, dict) or len(pairs) > 16:
        refuse("bad_request", "Invalid 'metadata': at most 16 pairs are allowed.", field="metadata")
    for name, value in pairs.items():
        if len(name) > 64 or not isinstance(value, str) or len(value) > 512:
            message = f"Invalid 'metadata.{name[:64]}': at most 64 characters a key, 512 a value, which is a string."
            refuse("bad_request", message, field="metadata")


def _problem(code: str, message: str, line: int | None, parameter: str | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": parameter, "line": line}


def _problems(job: Job) -> Iterator[Mapping[str, Any]]:
    yield from job.problems
    if job.kind == "fail":
        yield _problem("batch_failed", "The batch failed because of an internal error.", None)


def _model_of(lines: list[Line]) -> str | None:
    return model_in(lines[0].request.body, "model") if lines else None


def _has_reply(line: Line) -> bool:
    return line.end == "made" and line.made is not None and line.made.succeeded


def _times(job: Job, now: float) -> dict[str, float | None]:
    """Return when the batch reached each status, None if it has not."""
    ended_at, how = job.ending
    start = job.started_at if job.started_at < ended_at or how == "done" else None
    finish = job.worked_at if how == "done" else None
    reached: dict[str, float | None] = {
        "in_progress_at": start, "finalizing_at": finish, "cancelling_at": job.cancel_at,
        **{f"{_STATUS[end]}_at": ended_at if how == end else None for end in _ENDS},
    }  # fmt: skip
    return {name: at if at is not None and at <= now else None for name, at in reached.items()}


def _usage(job: Job) -> dict[str, Any]:
    made = [line.made.tokens for line in job.lines if line.made is not None]
    totals = [sum(counts[at] for counts in made) for at in range(3)]
    return {
        "input_tokens": totals[0],
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": totals[1],
        "output_tokens_details": {"reasoning_tokens": totals[2]},
        "total_tokens": totals[0] + totals[1],
    }


def _result(line: Line, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"id": f"batch_req_{line.request.mark.job_id[6:]}_{name}", "custom_id": name}
    if line.end != "made" or line.made is None:
        return {**found, "response": None, "error": _EXPIRED if line.end == "expired" else _CANCELLED}
    answer = line.made.answer
    response = {
        "status_code": answer.status,
        "request_id": answer.headers.get("x-request-id"),
        "body": body_of(line.made),
    }
    return {**found, "response": response, "error": None}


def _plain(plain: object) -> Served:
    return Served(content=encode(plain))


def _described(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": len(file.content),
        "created_at": int(file.created_at),
        "expires_at": int(file.expires_at),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
