"""A key command in whole runs: one run of the command for many refusals, and nothing sent without a key."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import convbatch as cb
from tests.conftest import Command, write_dataset
from tests.support.gateway_server import Answer, GatewayServer, Received, completion, serve_gateway

SCRIPT = "echo run >> {folder}/runs; n=$(wc -l < {folder}/runs | tr -d ' '); {more}; echo token-number-$n"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def configure(folder: Path, gateway: GatewayServer, more: str = "true", name: str = "convbatch.toml") -> None:
    """Write a config whose command prints `token-number-N` at its N-th run."""
    command = json.dumps(["/bin/sh", "-c", SCRIPT.format(folder=folder, more=more)])
    (folder / name).write_text(
        f'[gateways.short]\nprotocol = "openai"\nbase_url = "{gateway.url}/v1"\nkey_command = {command}\n'
    )
    write_dataset(folder / "d.jsonl", 12, 1)


def accepting(*numbers: int, first: int = 0) -> Callable[[Received], Answer]:
    """Accept the first requests, then only these tokens; answers with the token."""
    lock = threading.Lock()
    seen = [0]

    def answer(request: Received) -> Answer:
        with lock:
            seen[0] += 1
            early = seen[0] <= first
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if early or token in [f"token-number-{number}" for number in numbers]:
            return 200, completion(f"you sent {token}")
        return 401, {"error": {"message": f"expired: {token}", "code": "invalid_api_key"}}

    return answer


def reopen(folder: Path) -> None:
    """Make a finished run one that was killed before its first reply was stored."""
    for segment in (folder / "journal").glob("*.jsonl"):
        segment.write_bytes(segment.read_bytes().partition(b"\n")[0] + b"\n")
    meta = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**meta, "state": "running", "journal": None}))


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text().splitlines())


def test_an_expired_token_is_replaced_once_and_no_turn_is_lost(convbatch: Command, tmp_path: Path) -> None:
    with serve_gateway(accepting(2, first=4)) as gateway:
        configure(tmp_path, gateway)
        done = convbatch("run", "d.jsonl", "-m", "m@short", "-o", "out", "-j", "4")
        assert done.code == 0, done.err
        assert "m@short: key from the command /bin/sh -c" in done.err
    turns = cb.load(tmp_path / "out").turns
    assert set(turns["status"]) == {"ok"}
    assert set(turns["possibly_paid"]) == {0}
    assert runs(tmp_path) == 2
    assert "you sent [redacted:key_command]" in convbatch("show", "out").out
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"token-number-" not in path.read_bytes().replace(b"echo token-number-$n", b"")


def test_a_fresh_token_that_is_refused_is_a_wrong_key(convbatch: Command, tmp_path: Path) -> None:
    with serve_gateway(accepting()) as gateway:
        configure(tmp_path, gateway)
        done = convbatch("run", "d.jsonl", "-m", "m@short", "-o", "out", "-j", "1")
        assert done.code == 3
        assert "m@short is suspended: the key is refused (expired: [redacted:key_command])" in done.err
        assert gateway.sent("Authorization") == ["Bearer token-number-1", "Bearer token-number-2"]
        assert runs(tmp_path) == 2


def test_a_command_that_fails_later_suspends_the_target(convbatch: Command, tmp_path: Path) -> None:
    with serve_gateway(accepting(first=2)) as gateway:
        configure(tmp_path, gateway, more='[ $n -lt 2 ] || { echo "login again" >&2; exit 9; }')
        done = convbatch("run", "d.jsonl", "-m", "m@short", "-o", "out", "-j", "1")
        assert done.code == 3
        assert "m@short is suspended: no key: the key_command of convbatch.toml:4 failed with exit code 9" in done.err
        assert "login again" in done.err
        assert sorted(cb.load(tmp_path / "out").turns["status"].value_counts().to_dict().items()) == [
            ("ok", 2), ("pending", 10),
        ]  # fmt: skip


@pytest.mark.parametrize("more", ['echo "login first" >&2; exit 1', "echo 'login first' >&2; exit 0"])
def test_nothing_is_sent_without_a_key(convbatch: Command, tmp_path: Path, more: str) -> None:
    with serve_gateway(accepting(1)) as gateway:
        configure(tmp_path, gateway, more=more)
        for command in (("run", "d.jsonl", "-m", "m@short", "-o", "out"), ("doctor", "-g", "short", "-m", "m")):
            done = convbatch(*command)
            assert done.code == 2
            assert "login first" in done.err + done.out
        assert convbatch("run", "d.jsonl", "-m", "m@short", "--dry-run").code == 0
        assert gateway.requests == []
        assert runs(tmp_path) == 2, "a dry run does not run it"
    assert not (tmp_path / "out").exists()


def test_a_run_folder_cannot_start_a_program(convbatch: Command, tmp_path: Path) -> None:
    with serve_gateway(accepting(1, 2, 3, first=1)) as gateway:
        configure(tmp_path, gateway, name="other.toml")
        assert convbatch("run", "d.jsonl", "-c", "other.toml", "-m", "m@short", "-o", "out", "-n", "1").code == 0
        (tmp_path / "runs").unlink()
        assert convbatch("resume", "out").code == 0
        assert not (tmp_path / "runs").exists(), "nothing is open, so nobody needs a key"
        reopen(tmp_path / "out")
        assert convbatch("resume", "out").code == 0, "started here with this command"
        before = runs(tmp_path)

        meta = json.loads((tmp_path / "out" / "run.json").read_text())
        for name, change in {
            "another command": {"key_command": ["/bin/sh", "-c", f"touch {tmp_path}/owned; echo token-number-1"]},
            "another host": {"base_url": gateway.url.replace("127.0.0.1", "localhost") + "/v1"},
        }.items():
            shutil.copytree(tmp_path / "out", tmp_path / name)
            meta["targets"][0]["gateway"] |= change
            (tmp_path / name / "run.json").write_text(json.dumps(meta))  # it names the record of `out`
            done = convbatch("resume", name)
            assert done.code == 2, name
            assert "a run folder cannot start a program; refusing to send the output of `/bin/sh" in done.err
            assert "key_command = [...]" in done.err
        assert not (tmp_path / "owned").exists()
        assert runs(tmp_path) == before

        shutil.rmtree(tmp_path / "state")
        assert convbatch("resume", "out").code == 2
        shutil.move(tmp_path / "other.toml", tmp_path / "convbatch.toml")
        assert convbatch("resume", "out").code == 0, "convbatch.toml has the command for this endpoint"
