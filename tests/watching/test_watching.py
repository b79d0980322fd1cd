"""Tests of watching real runs: in a browser until the report, and what happens when a process is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import Start, config_for, wait_until
from tests.support.browser import OpenPage, chromium

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture
def prepared(tmp_path: Path, simulator: Callable[[Provider], Server]) -> Path:
    """A folder with a config and dialogues that take about two seconds."""
    turns = [{"user": f"{n} {HOSTILE}", "assistant": HOSTILE, "checks": [{"contains": "img"}]} for n in range(3)]
    lines = [json.dumps({"id": f"{HOSTILE}{n}", "turns": turns}) for n in range(20)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    server = simulator(Provider(latency_s=0.15, script=Script.load(tmp_path / "d.jsonl")))
    (tmp_path / "convbatch.toml").write_text(config_for(server.url))
    return tmp_path


def watched_run(start: Start, out: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a run with --watch; return its process and the address of its page."""
    models = ("-m", "sim-good@at-gemini", "-m", "no-such@at-gemini")
    process = start("run", "d.jsonl", *models, "-o", out, "-j", "2", "--watch", "--no-progress")
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(rb"watch it: (http://\S+)", line):
            return process, found[1].decode()
    raise AssertionError("no address")


def state_at(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}state", timeout=10) as answer:
        return json.load(answer)


def page_of(process: subprocess.Popen[bytes]) -> int:
    """Return the process that serves the page of a run."""
    [pid] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(pid)


@pytest.mark.slow
def test_a_browser_sees_the_progress_and_then_the_report(prepared: Path, start: Start) -> None:
    with chromium() as browser:
        view = OpenPage(browser.new_page())
        page, problems = view.page, view.problems
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        process, address = watched_run(start, "r")
        page.goto(address)
        moves = "seen => document.getElementById('bar').value > seen"
        page.wait_for_function(moves, arg=0)
        page.wait_for_function(moves, arg=page.evaluate("() => document.getElementById('bar').value"))
        page.wait_for_selector("#errors li")
        assert "no-such@at-gemini" in page.inner_text("#errors")
        assert "suspended" in page.inner_text("#targets")
        assert view.violations() == []
        page.wait_for_url(f"{address}report*", timeout=30_000)
        page.wait_for_selector("html[data-ready]", state="attached", timeout=20_000)
        assert "no-such@at-gemini: incomplete" in page.inner_text("body")
        assert problems == []
    out, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "sim-good@at-gemini" in out.decode()
    assert re.search(r"page at http://127.0.0.1:\d+ is gone; to look again: convbatch view \S+/r\n", err.decode())


@pytest.mark.slow
def test_the_run_outlives_its_page_and_the_page_not_the_run(prepared: Path, start: Start) -> None:
    process, address = watched_run(start, "a")
    wait_until(lambda: state_at(address)["done"] > 0)
    os.kill(page_of(process), signal.SIGKILL)
    assert process.stderr is not None
    assert any(b"the page of --watch has ended; the run goes on" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "finish them with" in err.decode()

    process, address = watched_run(start, "b")
    wait_until(lambda: state_at(address)["done"] > 0)
    page = page_of(process)
    process.kill()
    wait_until(lambda: state_at(address)["state"] == "killed")
    viewer = start("view", prepared / "b")
    assert viewer.stdout is not None
    address = viewer.stdout.readline().decode().strip()
    wait_until(lambda: state_at(address)["state"] == "killed")
    viewer.send_signal(signal.SIGINT)
    assert viewer.wait(10) == 0
    wait_until(lambda: not Path(f"/proc/{page}").exists())
