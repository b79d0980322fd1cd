"""A small gateway on loopback for tests of keys: it keeps the headers it receives, and answers as it is told to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]
"""Status and body: text, or a value that is sent as JSON."""


@dataclass
class Received:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass
class GatewayServer:
    """The requests so far, and the function that answers them."""

    answer: Callable[[Received], Answer]
    url: str = ""
    requests: list[Received] = field(default_factory=list)

    def sent(self, header: str) -> list[str | None]:
        """Return the values of a header in all requests, in order."""
        return [request.headers.get(header) for request in self.requests]


def completion(text: str = "hello") -> dict[str, Any]:
    """Return a chat completion with this text."""
    return {
        "id": "c1",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    }


@contextlib.contextmanager
def serve_gateway(answer: Callable[[Received], Answer]) -> Generator[GatewayServer]:
    """Serve on a free port for the time of the block."""
    gateway = GatewayServer(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            received = Received(self.command, self.path, dict(self.headers.items()), body)
            gateway.requests.append(received)
            status, value = gateway.answer(received)
            content = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(value, str) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        gateway.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield gateway
        finally:
            server.shutdown()
            thread.join()
