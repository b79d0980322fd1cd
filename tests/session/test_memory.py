"""Missing memory is reported as what it is: not as a bug, and not as a result."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest
import typer

from convbatch.cli.main import guarded
from convbatch.engine.http_values import HttpResponse, OutgoingRequest
from convbatch.errors import is_out_of_memory
from convbatch.exit_codes import ExitCode
from convbatch.session.options import RunOptions
from convbatch.session.prepare import prepare_run
from convbatch.session.session import run_session_async
from tests.conftest import write_dataset
from tests.support.tables import each

EXHAUSTED: tuple[Exception, ...] = (
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("can't start new thread"),
    ImportError("libarrow.so.2600: failed to map segment from shared object"),
    sqlite3.OperationalError("out of memory"),
    pa.ArrowMemoryError("malloc of size 9 failed"),
    pa.ArrowException("Unknown error: Failed to launch worker thread: Resource temporarily unavailable"),
    ExceptionGroup("several", [ValueError("other"), MemoryError()]),
)


@each("error", EXHAUSTED)
def test_missing_memory_is_told_from_a_bug(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    @guarded
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == ExitCode.SETUP
    printed = capsys.readouterr().err
    assert "error: there is not enough memory for this" in printed
    assert "bug" not in printed


@each(
    "error", [ValueError("out of memory"), OSError(errno.ENOSPC, "full"), RuntimeError("no"), ImportError("no module")]
)
def test_other_errors_are_not_missing_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


class Exhausted:
    """A transport that has no memory for the second answer."""

    def __init__(self) -> None:
        self.sent = 0

    async def send(self, outgoing: OutgoingRequest) -> HttpResponse:
        self.sent += 1
        if self.sent > 1:
            raise MemoryError
        body = b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}'
        return HttpResponse(200, {}, body)

    async def close(self) -> None:
        pass


def test_a_session_without_memory_sends_no_more_and_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(Path("d.jsonl"), 20, 1)
    Path("convbatch.toml").write_text(
        '[gateways.g]\nprotocol = "openai"\nbase_url = "http://127.0.0.1:9/v1"\nauth = "none"\n'
    )
    spec = prepare_run(
        RunOptions(datasets=(Path("d.jsonl"),), models=("m@g",), out=(Path("out"),), concurrency=1, progress=False)
    )
    transport = Exhausted()
    result = asyncio.run(run_session_async(spec, connect=lambda gateway: transport))
    assert (result.exit_code, result.reason, result.bugs) == (ExitCode.INCOMPLETE, "memory", ())
    assert (transport.sent, result.open_turns) == (2, 19)
    assert spec.folder.read_manifest().state == "incomplete"
