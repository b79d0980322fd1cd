"""`convbatch export-otel`: spans of a run in a file, and at a real endpoint."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import convbatch as cb
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import serve_in_thread
from tests.conftest import Command, config_for
from tests.support.canary import CANARY

DIALOGUES = [
    {
        "id": "a",
        "system": "Be kind.",
        "turns": [{"user": "one", "checks": [{"contains": "Turn"}]}, {"user": "two"}],
    },
    {"id": "b", "turns": [{"user": "three", "assistant": "given", "ask": False}, {"user": "four"}]},
]
FAULTS = [{"match": {"nth": 1}, "action": "error", "kind": "overloaded"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> cb.Run:
    folder = tmp_path_factory.mktemp("otel")
    with serve_in_thread(Provider(keys={CANARY}, faults=FaultScript.of(FAULTS))) as server:
        (folder / "c.toml").write_text(config_for(server.url))
        return cb.run(
            DIALOGUES,
            models="sim-good@at-gemini",
            config=folder / "c.toml",
            concurrency=1,
            temperature=0.5,
            out=folder / "run",
        )


def spans_in(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        span
        for request in requests
        for resource in request["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: plain(one["value"]) for one in span["attributes"]}


def plain(value: dict[str, Any]) -> Any:
    (kind, content), *_ = value.items()
    match kind:
        case "intValue":
            return int(content)
        case "arrayValue":
            return [plain(one) for one in content["values"]]
        case _:
            return content


def test_a_file_has_a_trace_for_each_dialogue_and_a_span_for_each_turn(run: cb.Run, convbatch: Command, tmp_path: Path):
    done = convbatch("export-otel", run.path, "-o", "spans.jsonl")
    assert done.code == 0, done.err
    assert "5 spans in spans.jsonl; without prompts and replies" in done.err
    spans = spans_in([json.loads(line) for line in (tmp_path / "spans.jsonl").read_text().splitlines()])
    roots = [span for span in spans if "parentSpanId" not in span]
    assert [attributes(root)["convbatch.dialogue"] for root in roots] == ["a", "b"]
    turns = [span for span in spans if "parentSpanId" in span]
    for span in turns:
        root = next(root for root in roots if root["traceId"] == span["traceId"])
        assert span["parentSpanId"] == root["spanId"]
        assert int(root["startTimeUnixNano"]) <= int(span["startTimeUnixNano"])
        assert int(span["endTimeUnixNano"]) <= int(root["endTimeUnixNano"])
    rows = run.turns.to_dict("records")
    assert len(turns) == len(rows) == 3
    for span, row in zip(turns, rows, strict=True):
        found = attributes(span)
        assert span["name"] == "generate_content sim-good"
        assert found["gen_ai.usage.input_tokens"] == row["input_tokens"]
        assert found["gen_ai.usage.output_tokens"] == row["output_tokens"]
        assert found["gen_ai.response.finish_reasons"] == ["stop"]
        assert found["gen_ai.request.temperature"] == 0.5
        assert found["gen_ai.conversation.id"] == row["dialogue"]
        assert found["convbatch.turn"] == row["turn"]
    failed, verdict = (event for span in turns for event in span.get("events", ()))
    assert attributes(verdict) == {
        "gen_ai.evaluation.name": "contains",
        "gen_ai.evaluation.score.value": 1.0,
        "gen_ai.evaluation.score.label": "pass",
    }
    assert failed["name"] == "convbatch.failed_attempt"
    assert attributes(failed)["error.type"] == "overloaded"
    assert not {"kind.", "four", "Turn"} & set(json.dumps(spans).replace('"', " ").split())


def test_texts_are_exported_only_when_they_are_asked_for(run: cb.Run, convbatch: Command, tmp_path: Path):
    assert convbatch("export-otel", run.path, "-o", "spans.jsonl", "--text").code == 0
    spans = spans_in([json.loads(line) for line in (tmp_path / "spans.jsonl").read_text().splitlines()])
    second, last = (attributes(span) for span in spans if attributes(span).get("convbatch.turn") == 2)
    replies = run.turns["reply"].tolist()
    assert json.loads(second["gen_ai.system_instructions"]) == [{"type": "text", "content": "Be kind."}]
    sent = [
        (one["role"], one["parts"][0]["content"])
        for messages in (second["gen_ai.input.messages"], last["gen_ai.input.messages"])
        for one in json.loads(messages)
    ]
    assert sent == [
        ("user", "one"), ("assistant", replies[0]), ("user", "two"),
        ("user", "three"), ("assistant", "given"), ("user", "four"),
    ]  # fmt: skip
    (reply,) = json.loads(last["gen_ai.output.messages"])
    assert reply == {
        "role": "assistant", "parts": [{"type": "text", "content": replies[2]}], "finish_reason": "stop",
    }  # fmt: skip


Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def collector(*answers: Answer) -> Generator[tuple[str, list[tuple[dict[str, str], dict[str, Any]]]]]:
    """Serve an endpoint that gives these answers in order, the last one for ever; yield its URL and what it got."""
    got: list[tuple[dict[str, str], dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            got.append(({"path": self.path, **headers}, json.loads(body)))
            status, more, content = answers[min(len(got), len(answers)) - 1]
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_endpoint_gets_all_spans_with_its_headers_and_after_a_refusal_again(run: cb.Run, convbatch: Command):
    with collector((503, {"Retry-After": "0"}, b""), (200, {}, b"{}")) as (url, got):
        done = convbatch(
            "export-otel", run.path,
            OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_HEADERS="x-key=a%20secret, x-team=b",
        )  # fmt: skip
    assert done.code == 0, done.err
    assert f"5 spans sent to {url}/v1/traces" in done.err
    assert "secret" not in done.err + done.out
    (first, one), (second, other) = got
    assert first["path"] == "/v1/traces"
    assert (first["x-key"], first["x-team"], first["content-type"]) == ("a secret", "b", "application/json")
    assert one == other
    assert len(spans_in([other])) == 5
    assert second["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        ((400, {}, b"bad spans"), 3, "takes no more spans: HTTP 400: bad spans"),
        ((307, {"Location": "http://127.0.0.1:1/"}, b""), 3, "takes no more spans: HTTP 307"),
        ((200, {}, b'{"partialSuccess": {"rejectedSpans": "2"}}'), 3, "of which it rejected 2"),
        ((200, {}, b"\xff not json"), 0, "5 spans sent"),
        ((503, {"Retry-After": "0"}, b"busy"), 3, "HTTP 503: busy, 5 times"),
        ((503, {"Retry-After": "0"}, b"busy"), 3, "HTTP 503: busy; asking again in 0 s"),
    ],
)
def test_what_an_endpoint_says_decides(run: cb.Run, convbatch: Command, answer: Answer, code: int, message: str):
    with collector(answer) as (url, _):
        done = convbatch("export-otel", run.path, "--endpoint", url)
    assert done.code == code, done.err
    assert message in done.err


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ([], {}, "nowhere to export to"),
        (["-o", "a.jsonl", "--endpoint", "http://127.0.0.1:1"], {}, "two ways to export"),
        (["--endpoint", "collector:4318"], {}, "--endpoint is not an http URL"),
        (["--endpoint", "http://127.0.0.1:99999"], {}, "--endpoint is not an http URL"),
        (["--endpoint", "http://127.0.0.1:x"], {}, "--endpoint is not an http URL"),
        (["--endpoint", "http://me:hidden@127.0.0.1:1"], {}, "contains a user or a password"),
        (["--endpoint", "http://192.0.2.1"], {"OTEL_EXPORTER_OTLP_HEADERS": "a=b"}, "in plain text to another machine"),
        (["--endpoint", "http://127.0.0.1:1"], {"OTEL_EXPORTER_OTLP_HEADERS": "a"}, "is not a list of headers"),
        (["-o", "no/a.jsonl"], {}, "there is no folder no"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    run: cb.Run, convbatch: Command, arguments: list[str], environment: dict[str, str], message: str
):
    done = convbatch("export-otel", run.path, *arguments, **environment)
    assert done.code == 2
    assert message in done.err
    assert "hidden" not in done.err
