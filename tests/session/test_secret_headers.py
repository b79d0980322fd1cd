"""Secret headers in a whole run: sent with each request, stored and shown nowhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.conftest import Command, write_dataset
from tests.support.canary import CANARY, CANARY_ENV, find_leaks
from tests.support.gateway_server import Answer, Received, completion, serve_gateway

CONFIG = """[gateways.front]
protocol = "openai"
base_url = "{url}/v1"
auth = "none"
[gateways.front.secret_headers]
"Helicone-Auth" = {{ env = "CANARY_KEY", prefix = "Bearer " }}
X-Team = "TEAM_KEY"
"""


def echo(request: Received) -> Answer:
    """Answer with the secret that was received."""
    return 200, completion(f"you sent {request.headers.get('Helicone-Auth')}")


def test_secret_headers_are_sent_and_never_stored_or_shown(convbatch: Command, tmp_path: Path) -> None:
    write_dataset(tmp_path / "d.jsonl", 2, 1)
    with serve_gateway(echo) as gateway:
        (tmp_path / "convbatch.toml").write_text(CONFIG.format(url=gateway.url))
        missing = convbatch("run", "d.jsonl", "-m", "m@front", "-o", "out")
        assert missing.code == 2
        assert "the environment variable TEAM_KEY is not set" in missing.err
        assert "in convbatch.toml:7" in missing.err
        assert gateway.requests == []
        assert not (tmp_path / "out").exists()

        log = ("--log", "run.log", "--log-bodies")
        done = convbatch(
            "run", "d.jsonl", "-m", "m@front", "-o", "out", "-n", "1", *log, TEAM_KEY=" team-secret-1234\n"
        )
        assert done.code == 0, done.err
        logged = (tmp_path / "run.log").read_text()
        assert f"POST {gateway.url}/v1/chat/completions" in logged
        assert "X-Team: [redacted:TEAM_KEY]" in logged
        assert '"messages":[' in logged
        assert [line.split()[1] for line in logged.splitlines()] == ["begin", "send", "request", "answer", "end"]
        assert not [secret for secret in (CANARY, "team-secret-1234") if secret in logged]
        assert "m@front: secret header Helicone-Auth from CANARY_KEY, secret header X-Team from TEAM_KEY" in done.err
        assert gateway.sent("Helicone-Auth") == [f"Bearer {CANARY}"]
        assert gateway.sent("X-Team") == ["team-secret-1234"]
        assert gateway.sent("Authorization") == [None]
        described = json.loads((tmp_path / "out" / "run.json").read_text())["targets"][0]["gateway"]["secret_headers"]
        assert described["X-Team"]["env"] == "TEAM_KEY"
        assert f"you sent Bearer [redacted:{CANARY_ENV}]" in convbatch("show", "out").out
        assert not list(find_leaks(tmp_path / "out"))

        again = convbatch("resume", "out")
        assert again.code == 2
        assert "TEAM_KEY" in again.err

        shutil.copytree(tmp_path / "out", tmp_path / "sent")
        meta = json.loads((tmp_path / "sent" / "run.json").read_text())
        meta["targets"][0]["gateway"]["base_url"] = "https://gateway.invalid/v1"
        (tmp_path / "sent" / "run.json").write_text(json.dumps(meta))
        foreign = convbatch("resume", "sent", TEAM_KEY="team-secret-1234")
        assert foreign.code == 2
        assert "refusing to send CANARY_KEY and TEAM_KEY to https://gateway.invalid" in foreign.err
