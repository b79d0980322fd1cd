"""Tests of what the page of a run shows: the closing table's numbers, and the run folder as it was."""

from __future__ import annotations

import asyncio
import http.client
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from convbatch.journal.run_folder import RunFolder
from convbatch.pricing import Period, PriceTable, TokenPrice
from convbatch.reply import Failure, Usage
from convbatch.results.run import load
from convbatch.watching.server import WatchServer, listen
from convbatch.watching.watched_run import SETTLE_S, WatchedRun
from tests.conftest import Command
from tests.support.made_runs import GOOD, REAL, MadeRun, append, dialogue

HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[2J"
CHECKED: dict[str, Any] = {
    "turns": [{"user": "x", "checks": [{"contains": "2025"}]}, {"user": "y", "checks": [{"contains": "no"}]}]
}
USD = PriceTable(
    currency="USD",
    source="by hand",
    periods=(Period(input=TokenPrice(base=Decimal(1)), output=TokenPrice(base=Decimal(2))),),
)
BUSY = Failure(kind="rate_limit", message="slow down", retry_after_s=30.0)


def made_run(path: Path, **more: Any) -> MadeRun:
    """Make a run with a turn in every state, and one request that is not answered yet."""
    dialogues = [dialogue("a", "1", "2"), dialogue(HOSTILE, "1", "2"), dialogue("c", "1")]
    made = MadeRun(path, dialogues, targets=(REAL, GOOD), prices={REAL: USD}, state="running", **more)
    broken = Failure(
        kind="connection", message=HOSTILE, usage=Usage(input_tokens=10, output_tokens=5, source="reported")
    )
    made.failed(made.ident(0, 1), BUSY, cls="refused", http_status=429)
    made.replied(made.ident(0, 1), attempt=2)
    made.failed(made.ident(1, 1), broken, cls="ambiguous")
    made.turn(made.ident(1, 1), "error")
    made.turn(made.ident(1, 2), "skipped", reason="an earlier turn failed")
    made.replied(made.ident(0, 1, GOOD))
    made.intent(made.ident(2, 1))
    return made


def without_stop(folder: RunFolder) -> RunFolder:
    """Leave the journal as a session that goes on, or was killed, leaves it."""
    journal = folder.segments()[-1]
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    return folder


def watched(folder: RunFolder) -> WatchedRun:
    run = WatchedRun(folder)
    while not run.is_current:
        run.refresh()
    return run


def listing(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in [folder, *folder.rglob("*")])


def test_the_counts_are_those_of_the_closing_table(tmp_path: Path) -> None:
    folder = without_stop(made_run(tmp_path / "r").write())
    state = watched(folder).to_state()
    for shown, total in zip(state["targets"], load(folder.path).summary(), strict=True):
        closed = {name: getattr(total, name) for name in ("ok", "error", "skipped") if getattr(total, name)}
        assert shown["statuses"] == closed
        assert shown["attempts"] == total.attempts - shown["in_flight"]
        assert shown["spent"] == (None if total.spent is None else f"{total.spent.normalize():f} USD")
    real = state["targets"][0]
    assert (state["done"], state["planned"], real["in_flight"]) == (4, 10, 1)
    assert (real["refusals"], real["asked_wait_s"]) == (1, 30.0)
    assert state["spent"] == "0.000426 USD"


async def test_a_row_that_is_asked_again_is_open_again(tmp_path: Path) -> None:
    made = made_run(tmp_path / "r")
    folder = await asyncio.to_thread(made.write)
    run = watched(folder)
    made.records.clear()
    made.replied(made.ident(1, 1), attempt=2)
    await append(folder, made.records)
    while not run.is_current or run.to_state()["session"] < 2:
        run.refresh()
    real = run.to_state()["targets"][0]
    assert real["statuses"] == {"ok": 2, "skipped": 1}
    assert (real["in_flight"], run.to_state()["lost"]) == (0, 1)  # the former session's request: possibly paid


def test_texts_from_outside_are_made_visible(tmp_path: Path) -> None:
    state = watched(made_run(tmp_path / "r").write()).to_state()
    [error] = state["errors"]
    assert "\\u202e\\x1b[2J" in error["dialogue"]
    assert not {"\u202e", "\x1b"} & set(json.dumps(state, ensure_ascii=False))


def test_passed_dialogues_are_counted_without_touching_the_folder(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "r", [dialogue("a", **CHECKED), dialogue("b", **CHECKED)], checks=4, state="running")
    for index, turn in ((0, 1), (0, 2), (1, 1)):
        made.replied(made.ident(index, turn))
    folder = made.write()
    before = listing(folder.path)
    run = watched(folder)
    run.update_passes()
    [target] = run.to_state()["targets"]
    assert (target["judged"], target["passed"]) == (1, 0)
    assert listing(folder.path) == before


def test_states_of_a_run(tmp_path: Path) -> None:
    now = [0.0]
    made = MadeRun(tmp_path / "r", [dialogue("a", "1")], state="finished")
    made.replied(made.ident(0, 1))
    run = WatchedRun(made.write(), clock=lambda: now[0], is_held=True)
    run.refresh()
    assert run.state == "running"  # its process says when it ends
    run.is_held = False
    for wait_s, state in ((0.0, "running"), (SETTLE_S - 0.1, "running"), (0.2, "finished")):
        now[0] += wait_s
        run.refresh()
        assert run.state == state
    killed = watched(without_stop(run.folder))
    killed.settle()
    assert killed.state == "killed"


# --- over HTTP -------------------------------------------------------------------------------------------------------


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(method, path, skip_host="Host" in named)
    for name, value in named.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


async def test_the_server_shows_the_run_and_refuses_everybody_else(tmp_path: Path) -> None:
    folder = await asyncio.to_thread(made_run(tmp_path / "r").write)
    listening = listen(0)
    port = listening.getsockname()[1]
    server = WatchServer(WatchedRun(folder), listening, "secret")

    async def status(*args: str, **headers: str) -> int:
        return (await asyncio.to_thread(ask, port, *args, **headers))[0]

    async with server.serving():
        code, page, headers = await asyncio.to_thread(ask, port, "/secret/")
        assert (code, b"<script" in page) == (200, True)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert (headers["Referrer-Policy"], headers["Cache-Control"]) == ("no-referrer", "no-store")
        code, body, _ = await asyncio.to_thread(ask, port, "/secret/state")
        assert (code, json.loads(body)["planned"]) == (200, 10)
        assert await status("/secret") == 308
        assert await status("/secret/other") == 404
        assert await status("/wrong/state") == 404
        assert await status("/secret/state", "POST") == 405
        assert await status("/secret/state", Host="evil.example") == 403
        assert await status("/secret/state", Origin="http://evil.example") == 403


def test_a_port_that_is_taken_and_options_that_do_not_fit_are_refused(convbatch: Command, quickstart_run: str) -> None:
    with listen(0) as taken:
        port = str(taken.getsockname()[1])
        done = convbatch("view", quickstart_run, "--port", port)
        assert (done.code, f"cannot listen on port {port}" in done.err) == (2, True)
        done = convbatch("run", "d.jsonl", "--watch", "--port", port)
        assert (done.code, "cannot listen" in done.err) == (2, True)
    assert "--port is the port of --watch" in convbatch("run", "d.jsonl", "--port", "5000").err
    assert "nothing to watch" in convbatch("run", "d.jsonl", "--watch", "--dry-run").err


@pytest.fixture
def quickstart_run(tmp_path: Path) -> str:
    return str(made_run(tmp_path / "r").write().path)
