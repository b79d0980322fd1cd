"""Minimal clients of the simulator's batch APIs, in process and in virtual time; `test_sdk_batches.py` has the SDKs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from convbatch.simulator import Answer, Provider, Request

JOB_KEY = "k-batch-0001"
END_S = 48 * 3600.0
"""When every job has ended, and no result is gone."""
Ends = dict[str, list[str]]
"""How the lines of a job ended, by their names: `ok`, `error`, `expired` or `cancelled`, as often as each is there."""


class Client:
    """Requests of one key; the time is set by the test."""

    key_header = "authorization"

    def __init__(self, provider: Provider, *, key: str = JOB_KEY) -> None:
        self.provider = provider
        self.now = 0.0
        self._key = key

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        sent = {"host": "any", self.key_header: self._key, **self.own_headers(), **(headers or {})}
        answer = self.provider.handle(Request.of(method, f"http://any{path}", sent, content), self.now)
        if answer.status is None:
            answer.lost(self.now)
        else:
            answer.delivered(self.now)
        return answer

    def own_headers(self) -> dict[str, str]:
        return {}

    def get(self, path: str) -> Any:
        answer = self.send("GET", path)
        assert answer.status == 200, answer.content
        return json.loads(answer.content)


class Batches(Protocol):
    """What the tests do with a job at any provider."""

    provider: Provider
    now: float

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer: ...
    def create(self, texts: Sequence[str], **options: Any) -> Answer: ...
    def created(self, texts: Sequence[str], **options: Any) -> str: ...
    def state(self, job: str) -> str: ...
    def cancel(self, job: str) -> Answer: ...
    def ends(self, job: str) -> Ends: ...
    def listed(self) -> list[str]: ...


def names(texts: Sequence[str]) -> list[str]:
    return [f"line-{at}" for at in range(len(texts))]


def json_lines(content: bytes) -> list[Any]:
    return [json.loads(line) for line in content.split(b"\n") if line]


class OpenAIClient(Client):
    """Chat completions by file; `state` is the status."""

    def upload(self, content: bytes, purpose: str = "batch") -> Answer:
        parts = [f'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n'.encode()]
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
        form = b"".join([*parts, head, content, b"\r\n--b--\r\n"])
        return self.send("POST", "/v1/files", form, {"content-type": "multipart/form-data; boundary=b"})

    def create_from(self, content: bytes, **fields: Any) -> Answer:
        file = json.loads(self.upload(content).content)["id"]
        asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h", **fields}
        return self.send("POST", "/v1/batches", asked)

    def create(self, texts: Sequence[str], **options: Any) -> Answer:
        lines = [self.line(name, text, **options) for name, text in zip(names(texts), texts, strict=True)]
        return self.create_from(b"\n".join(json.dumps(line).encode() for line in lines))

    def line(self, name: str, text: str, **options: Any) -> dict[str, Any]:
        body = {"model": "sim-good", "messages": [{"role": "user", "content": text}], **options}
        return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}

    def created(self, texts: Sequence[str], **options: Any) -> str:
        return str(json.loads(self.create(texts, **options).content)["id"])

    def state(self, job: str) -> str:
        return str(self.get(f"/v1/batches/{job}")["status"])

    def cancel(self, job: str) -> Answer:
        return self.send("POST", f"/v1/batches/{job}/cancel")

    def lines(self, job: str) -> list[Any]:
        found = self.get(f"/v1/batches/{job}")
        files = [found[name] for name in ("output_file_id", "error_file_id") if found[name]]
        contents = [self.send("GET", f"/v1/files/{file}/content") for file in files]
        return [line for answer in contents for line in json_lines(answer.content if answer.status == 200 else b"")]

    def ends(self, job: str) -> Ends:
        ends: Ends = {}
        for line in self.lines(job):
            error, response = line["error"], line["response"]
            end = "" if error is None else error["code"].removeprefix("batch_")
            ends.setdefault(line["custom_id"], []).append(end or ("ok" if response["status_code"] == 200 else "error"))
        return ends

    def listed(self) -> list[str]:
        return [job["id"] for job in self.get("/v1/batches")["data"]]


class AnthropicClient(Client):
    """Messages; `state` is the processing status."""

    key_header = "x-api-key"

    def own_headers(self) -> dict[str, str]:
        return {"anthropic-version": "2023-06-01"}

    def create(self, texts: Sequence[str], **options: Any) -> Answer:
        requests = [self.line(name, text, **options) for name, text in zip(names(texts), texts, strict=True)]
        return self.send("POST", "/v1/messages/batches", {"requests": requests})

    def line(self, name: str, text: str, **options: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": text}]
        return {"custom_id": name, "params": {"model": "sim-good", "max_tokens": 99, "messages": messages, **options}}

    def created(self, texts: Sequence[str], **options: Any) -> str:
        return str(json.loads(self.create(texts, **options).content)["id"])

    def state(self, job: str) -> str:
        return str(self.get(f"/v1/messages/batches/{job}")["processing_status"])

    def cancel(self, job: str) -> Answer:
        return self.send("POST", f"/v1/messages/batches/{job}/cancel")

    def ends(self, job: str) -> Ends:
        answer = self.send("GET", f"/v1/messages/batches/{job}/results")
        ends: Ends = {}
        for line in json_lines(answer.content if answer.status == 200 else b""):
            kind = line["result"]["type"]
            end = {"succeeded": "ok", "errored": "error", "canceled": "cancelled"}.get(kind, kind)
            ends.setdefault(line["custom_id"], []).append(str(end))
        return ends

    def listed(self) -> list[str]:
        return [job["id"] for job in self.get("/v1/messages/batches")["data"]]


class GeminiClient(Client):
    """Inline requests, or those of a file; `state` is that of the operation, without its prefix."""

    key_header = "x-goog-api-key"

    def __init__(self, provider: Provider, *, key: str = JOB_KEY, in_file: bool = False) -> None:
        super().__init__(provider, key=key)
        self._in_file = in_file

    def create(self, texts: Sequence[str], **options: Any) -> Answer:
        asked = [{"contents": [{"parts": [{"text": text}]}], **options} for text in texts]
        if self._in_file:
            lines = [{"key": name, "request": request} for name, request in zip(names(texts), asked, strict=True)]
            source = {"fileName": self.upload(b"\n".join(json.dumps(line).encode() for line in lines))}
        else:
            inline = [{"request": r, "metadata": {"key": n}} for n, r in zip(names(texts), asked, strict=True)]
            source = {"requests": {"requests": inline}}
        return self.create_from({"displayName": "d", "inputConfig": source})

    def create_from(self, batch: Any) -> Answer:
        return self.send("POST", "/v1beta/models/sim-good:batchGenerateContent", {"batch": batch})

    def upload(self, content: bytes) -> str:
        begin = {"x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}
        address = self.send("POST", "/upload/v1beta/files", {"file": {}}, begin).headers["x-goog-upload-url"]
        piece = {"x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "0"}
        answer = self.send("POST", address.removeprefix("http://any"), content, piece)
        return str(json.loads(answer.content)["file"]["name"])

    def created(self, texts: Sequence[str], **options: Any) -> str:
        return str(json.loads(self.create(texts, **options).content)["name"])

    def state(self, job: str) -> str:
        return str(self.get(f"/v1beta/{job}")["metadata"]["state"]).removeprefix("BATCH_STATE_")

    def cancel(self, job: str) -> Answer:
        return self.send("POST", f"/v1beta/{job}:cancel")

    def results(self, job: str) -> list[tuple[str, Any]]:
        output = self.get(f"/v1beta/{job}").get("response", {})
        if "responsesFile" in output:
            answer = self.send("GET", f"/v1beta/{output['responsesFile']}:download?alt=media")
            return [(line["key"], line) for line in json_lines(answer.content if answer.status == 200 else b"")]
        inline = output.get("inlinedResponses", {}).get("inlinedResponses", [])
        return [(item.get("metadata", {}).get("key", ""), item) for item in inline]

    def ends(self, job: str) -> Ends:
        ends: Ends = {}
        for name, result in self.results(job):
            code = result.get("error", {}).get("code")
            end = "ok" if code is None else {1: "cancelled", 4: "expired"}.get(code, "error")
            ends.setdefault(name, []).append(str(end))
        return ends

    def listed(self) -> list[str]:
        return [job["name"] for job in self.get("/v1beta/batches").get("operations", [])]
