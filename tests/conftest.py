"""Shared fixtures: the simulator on a loopback port, the command in this process or its own, and no network access."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
import typer.testing
from hypothesis import Phase, settings
from typer.testing import CliRunner

from convbatch.cli.main import app
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server, serve_in_thread
from tests.support.canary import CANARY, CANARY_ENV, find_key, find_leaks

QUICKSTART = Path(__file__).parent.parent / "datasets" / "quickstart.jsonl"
LOOPBACK = ("127.", "::1", "localhost")


def _refuse_the_network(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = str(args[1][0])
        if not host.startswith(LOOPBACK):
            raise AssertionError(f"a test tried to reach {host}")


sys.addaudithook(_refuse_the_network)

# Without compiled files, collection and each command that a test starts take three times as long.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell that starts the tests in the background has Ctrl-C ignored, for them and for each command they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Typer rebuilds the command line for every `CliRunner.invoke`, which takes longer than most commands.
setattr(typer.testing, "_get_command", functools.cache(typer.main.get_command))  # noqa: B010  # private API, used by tests only

# CI must be reproducible: with CI set, properties use the same examples every time; local runs explore.
# No deadline per example: timing depends on the load of the machine.
for name, number in {"fast": 15, "full": 100}.items():
    settings.register_profile(name, max_examples=number, derandomize=bool(os.environ.get("CI")), deadline=None)
# For tests that must fail, on mutants: the first failing example will do, however large.
settings.register_profile("to fail", parent=settings.get_profile("full"), phases=(Phase.explicit, Phase.generate))


def examples(full: int) -> int:
    """Return the number of examples of a property: all of `full` under `-m slow`, less in the fast suite."""
    return full * settings().max_examples // 100


def _is_fast(config: pytest.Config) -> bool:
    return config.option.markexpr == "not slow"


def pytest_configure(config: pytest.Config) -> None:
    """Choose the number of examples and the folder of temporary files, unless the caller does."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` ignores it, and a run then rightly ignores it, too
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("fast" if _is_fast(config) else "full")
    if _is_fast(config) and not config.getoption("basetemp") and _has_room_in_memory():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return one process more than there are cores for the fast suite, whose tests wait for sockets and processes."""
    return len(os.sched_getaffinity(0)) + 1 if _is_fast(config) and hasattr(os, "sched_getaffinity") else None


MEMORY = Path("/dev/shm")


def _has_room_in_memory() -> bool:
    """Whether the fast suite's folders fit into memory, where a sync costs nothing; the slow suite's are on a disk."""
    return MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 * 2**30


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark every property as slow too, so that it also runs with all its examples."""
    if not _is_fast(item.config) and getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        item.add_marker("slow")


# The collected suite is a large heap, and Python traverses all of it on every full collection.
gc.set_threshold(20_000, 20, 20)

# Every run has this key, in this process and in the processes it starts. Its traces are searched for: in files at the
# end of the session, in stdout and stderr of every command at once, in what a test printed or raised with its report.
os.environ[CANARY_ENV] = CANARY


@pytest.fixture(scope="session", autouse=True)
def _own_state_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]  # by pytest
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_key_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]  # by pytest
    yield
    found = list(find_leaks(tmp_path_factory.getbasetemp()))
    assert not found, "a key was found in:\n" + "\n".join(found)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    texts = [text for _, text in report.sections] + [report.longreprtext]
    if report.outcome != "failed" and (name := find_key("\n".join(texts).encode("utf-8", "replace"))) is not None:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} printed the canary key, as {name}"
    return report


@dataclass(frozen=True, slots=True)
class Finished:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


Command = Callable[..., Finished]


def environment(**more: str) -> dict[str, str]:
    """Return an environment without the developer's keys, proxies and options, and with the canary."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("CONVBATCH_") and not k.endswith(("_KEY", "_PROXY", "_proxy"))
    }
    return {**kept, CANARY_ENV: CANARY, "PYTHONPATH": str(Path(__file__).parent.parent), "COLUMNS": "120", **more}


@pytest.fixture(params=[False, True], ids=["on connections", "by session"])
def by_session(request: pytest.FixtureRequest) -> bool:
    """Both ways of `AiohttpTransport` to send a request."""
    return request.param


@pytest.fixture
def convbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command in this process, in an empty folder, as `convbatch("run", "d.jsonl", KEY="…")`; fast.

    Tests of processes, signals, streams or exit codes of the interpreter use `command`.
    """
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)

    def run(*args: str | Path, cwd: Path = tmp_path, **env: str) -> Finished:
        with contextlib.chdir(cwd):
            done = CliRunner().invoke(app, [*map(str, args)], env={"COLUMNS": "120", **env})
        assert find_key(f"{done.stdout}\n{done.stderr}".encode()) is None, f"convbatch {args} printed the canary key"
        return Finished(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run the command as a user does: in its own process, in an empty folder."""

    def run(*args: str | Path, cwd: Path = tmp_path, timeout: float = 60, **env: str) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "convbatch", *map(str, args)],
            cwd=cwd,
            env=environment(**env),
            capture_output=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert find_key(done.stdout + b"\n" + done.stderr) is None, f"convbatch {args} printed the canary key"
        return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the command in the background; processes still running at the end of the test are killed."""
    with ExitStack() as stack:
        former = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also when the tests run under nohup
        stack.callback(signal.signal, signal.SIGHUP, former)

        def begin(
            *args: str | Path, under: tuple[str, ...] = (), cwd: Path = tmp_path, **env: str
        ) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [*under, sys.executable, "-m", "convbatch", *map(str, args)],
                cwd=cwd,
                env=environment(**env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            stack.enter_context(process)  # closes its pipes and waits
            stack.callback(process.kill)
            return process

        yield begin


def wait_until(claim: Callable[[], bool], *, seconds: float = 20) -> None:
    """Poll until the condition holds; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "the condition did not hold in time"
        time.sleep(0.002)


@pytest.fixture
def simulator() -> Iterator[Callable[[Provider], Server]]:
    """Start simulators that stop at the end of the test."""
    with ExitStack() as stack:
        yield lambda provider: stack.enter_context(serve_in_thread(provider))


def config_for(url: str, *, wires: tuple[str, ...] = ("gemini",), models: str = "", **keys: Any) -> str:
    """Return a configuration with a gateway `at-<wire>` at this simulator for each wire."""
    tables: list[str] = []
    for wire in wires:
        # Another host name: the same host, key and model would be one quota owner with one rate limiter for both.
        base = f"{url.replace('127.0.0.1', 'localhost')}/v1" if wire != "gemini" else url
        own = {"auth": "x-goog-api-key" if wire == "gemini" else "bearer", "key_env": CANARY_ENV}
        values: dict[str, Any] = {"protocol": wire, "base_url": base, **own, **keys}
        if values["auth"] == "none":
            del values["key_env"]
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        tables.append("\n".join([f"[gateways.at-{wire}]", *lines]))
    return "\n\n".join([*tables, models])


def write_dataset(path: Path, dialogues: int, turns: int, *, scripted: bool = True) -> Path:
    """Write small dialogues whose texts name their dialogue and turn, so that mixed-up histories are detected."""
    with path.open("w", encoding="utf-8") as file:
        for d in range(dialogues):
            lines: list[dict[str, Any]] = []
            for t in range(1, turns + 1):
                turn: dict[str, Any] = {"user": f"question {t} of dialogue {d}"}
                if scripted:
                    turn["assistant"] = f"answer {t} of dialogue {d}"
                lines.append(turn)
            file.write(json.dumps({"id": f"d{d:05}", "turns": lines}) + "\n")
    return path
