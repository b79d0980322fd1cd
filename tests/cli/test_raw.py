"""`show --raw`: the request of a turn as it was sent, and what came back."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Command, write_dataset
from tests.support.canary import CANARY
from tests.support.gateway_server import Answer, Received, completion, serve_gateway

CONFIG = '[gateways.g]\nprotocol = "openai"\nbase_url = "{url}/v1"\nauth = "bearer"\nkey_env = "CANARY_KEY"\n'
REFUSED = {"error": {"message": "no third turn", "type": "invalid_request_error"}}


def test_the_request_of_a_turn_is_the_one_that_was_logged(convbatch: Command, tmp_path: Path) -> None:
    write_dataset(tmp_path / "d.jsonl", 1, 3)

    def answer(_: Received) -> Answer:
        number = len(gateway.requests)
        return (400, REFUSED) if number == 3 else (200, completion(f"reply {number}"))

    with serve_gateway(answer) as gateway:
        (tmp_path / "convbatch.toml").write_text(CONFIG.format(url=gateway.url))
        options = ("--temperature", "0.5", "--no-progress", "--log", "log", "--log-bodies")
        convbatch("run", "d.jsonl", "-m", "m@g", "-o", "out", *options)
    lines = (tmp_path / "log").read_text().splitlines()
    sent = [json.loads(line[line.index("{") :]) for line in lines if " request " in line]
    assert [len(request["messages"]) for request in sent] == [1, 3, 5]
    for turn, (request, expected) in enumerate(
        zip(sent, ("reply 1", "reply 2", "attempt 1: HTTP 400, final"), strict=True), 1
    ):
        done = convbatch("show", "out", "--raw", "d00000", str(turn))
        _, address, rest = done.out.split("\n", 2)
        assert address == f"POST {gateway.url}/v1/chat/completions"
        printed, end = json.JSONDecoder().raw_decode(rest)
        assert printed == request
        assert expected in rest[end:]
        assert CANARY not in done.out
    missing = convbatch("show", "out", "--raw", "d0000", "1")
    assert (missing.code, "did you mean 'd00000'?" in missing.err) == (2, True), missing.err
    assert "its turns are 1 to 3" in convbatch("show", "out", "--raw", "d00000", "4").err
