"""What the targets of a session share: limits by host, key and model, and a connection only by the same way."""

from __future__ import annotations

from pathlib import Path

from convbatch import load
from tests.conftest import Command, write_dataset
from tests.support.gateway_server import Answer, Received, completion, serve_gateway

CONFIG = """[gateways.direct]
protocol = "openai"
base_url = "{url}/v1"
key_env = "CANARY_KEY"
[gateways.proxied]
protocol = "openai"
base_url = "{url}/v1"
key_env = "CANARY_KEY"
proxy = "http://127.0.0.1:9"
"""


def hello(_: Received) -> Answer:
    return 200, completion("hello")


def test_gateways_with_one_host_and_key_keep_their_own_proxies(convbatch: Command, tmp_path: Path) -> None:
    write_dataset(tmp_path / "d.jsonl", 1, 1)
    with serve_gateway(hello) as gateway:
        (tmp_path / "convbatch.toml").write_text(CONFIG.format(url=gateway.url))
        flags = ("--max-attempts", "1", "--deadline", "20s")
        done = convbatch("run", "d.jsonl", "-m", "m@direct", "-m", "m@proxied", "-o", "out", *flags)
        assert len(gateway.requests) == 1
    rows = load(tmp_path / "out").turns.set_index("gateway")["status"]
    assert rows.to_dict() == {"direct": "ok", "proxied": "error"}
    assert "connection refused 127.0.0.1:9 (the proxy)" in done.err
