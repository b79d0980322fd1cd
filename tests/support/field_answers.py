"""A server that sends recorded answers byte for byte, and a run against many of them at a time.

Each case of `tests/field_answers/index.json` is a gateway of its own, so that one run has one target a case. The folder
holds what real gateways were reported to send, with what must come out; `index.json` has the files, the wire, the
answer that each request gets (`serve`), the dialogues that are asked (`run`) and the expected row (`expect`).
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

ANSWERS = Path(__file__).parent.parent / "field_answers"
CASES: dict[str, dict[str, Any]] = {
    name: case
    for index in sorted(ANSWERS.glob("*.json"))
    for name, case in json.loads(index.read_text("utf-8")).items()
}
"""Of all index files; a case may have `answers` (`status`, `headers`, `body`) in place of `files`."""
MODEL = "asked-model"


class AnswerServer(ThreadingTCPServer):
    """Serves `/NAME/...` with the files of case NAME; keeps the time and body of every request."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, cases: Mapping[str, dict[str, Any]], folder: Path = ANSWERS) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.cases = cases
        self.folder = folder
        self.requests: dict[str, list[tuple[float, dict[str, Any]]]] = defaultdict(list)
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Base URL without a path."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, name: str, body: dict[str, Any]) -> tuple[bytes, bool]:
        """Record a request; return the bytes to send, and whether to close the connection after them."""
        case = self.cases[name]
        serve = case.get("serve", {})
        with self.lock:
            before = len(self.requests[name])
            self.requests[name].append((time.monotonic(), body))
        second = _gets_second(serve.get("file2_when", ""), before, body)
        answer = case["answers"][second] if "answers" in case else (self.folder / case["files"][second]).read_bytes()
        return answer if isinstance(answer, bytes) else _built(answer), bool(serve.get("close"))


class _Connection(BaseRequestHandler):
    def handle(self) -> None:
        received = b""
        server = self.server
        assert isinstance(server, AnswerServer)
        while True:
            while b"\r\n\r\n" not in received:
                chunk = self.request.recv(65536)
                if not chunk:
                    return
                received += chunk
            head, _, received = received.partition(b"\r\n\r\n")
            length = int((re.search(rb"(?i)content-length: *(\d+)", head) or [b"", b"0"])[1])
            while len(received) < length:
                received += self.request.recv(65536)
            body, received = received[:length], received[length:]
            name = head.split()[1].decode().split("/")[1]
            answer, close = server.answer(name, json.loads(body) if body else {})
            self.request.sendall(answer)
            if close:
                return


def _built(answer: Mapping[str, Any]) -> bytes:
    """Return the bytes of an answer given as status, headers and body: text, or JSON."""
    body: Any = answer["body"]
    content = body.encode() if isinstance(body, str) else json.dumps(body, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", **answer.get("headers", {}), "Content-Length": str(len(content))}
    lines = [f"HTTP/1.1 {answer['status']} Status", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + content


def _gets_second(when: str, before: int, body: Mapping[str, Any]) -> bool:
    kind, _, argument = when.partition(":")
    messages: list[Any] = body.get("messages") or body.get("contents") or []
    match kind:
        case "request_after":
            return before >= int(argument)
        case "turn":
            return sum(message.get("role") == "user" for message in messages) >= int(argument)
        case "stream_false":
            return body.get("stream") is False
        case "no_system":
            return not any(message.get("role") == "system" for message in messages) and "systemInstruction" not in body
        case "holds":
            return argument in json.dumps(body)
        case "replays":
            return any(argument in message for message in messages if message.get("role") == "assistant")
        case _:
            return False


@contextlib.contextmanager
def serve_answers(cases: Mapping[str, dict[str, Any]], folder: Path = ANSWERS) -> Generator[AnswerServer]:
    """Serve the cases on loopback for the time of the block."""
    with AnswerServer(cases, folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def write_config(folder: Path, server: AnswerServer, names: Iterable[str], more: str = "") -> Path:
    """Write a config with one gateway a case; `more` is added to each gateway's table."""
    tables: list[str] = []
    for name in names:
        wire = server.cases[name]["wire"]
        base_url = f"{server.url}/{name}" + ("" if wire == "gemini" else "/v1")
        tables += [
            f'[gateways."{name}"]\nprotocol = "{wire}"\nbase_url = "{base_url}"',
            f'auth = "none"\ncurrency = "USD"\n{more}',
            f'[prices."{name}"."*"]\ninput = 1\ncached_input = 0.1\noutput = 10\n',
        ]
    path = folder / "convbatch.toml"
    path.write_text("\n".join(tables), "utf-8")
    return path


def write_dialogues(folder: Path, shape: Mapping[str, Any]) -> Path:
    """Write the dialogues of a case's `run`: how many, of how many turns, with a system text or not."""
    turns = [
        {"user": f"Question {n}?", "checks": [{"not_icontains": "fuse"}]} for n in range(1, shape.get("turns", 1) + 1)
    ]
    system = {"system": "Answer briefly."} if shape.get("system") else {}
    path = folder / "dialogues.jsonl"
    lines = [json.dumps({"id": f"d{n}", **system, "turns": turns}) for n in range(shape.get("dialogues", 1))]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path
