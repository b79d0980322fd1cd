"""Tests of the command line: exit codes, every kind of bad input, signals, and closed streams.

Commands run in this process through Typer's runner; tests of signals and closed streams start a process of their own.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer import BadParameter, Exit
from typer.testing import CliRunner

import convbatch as cb
from convbatch.cli.main import app, guarded
from convbatch.cli.options import parse_share
from convbatch.exit_codes import ExitCode, worst
from convbatch.journal.run_folder import RunFolder
from convbatch.session.durations import parse_seconds
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server, serve_in_thread
from tests.conftest import Finished, Start, environment, wait_until, write_dataset
from tests.support.canary import CANARY_ENV
from tests.support.ledger_laws import statuses
from tests.support.tables import each

SLOW = pytest.mark.slow
CANARY = "sk-canary-4711-do-not-show"


@dataclass(frozen=True, slots=True)
class Sim:
    """Simulator that all tests share; each test compares the ledger before and after."""

    provider: Provider
    url: str


@pytest.fixture(scope="module")
def shared() -> Iterator[Sim]:
    provider = Provider()
    with serve_in_thread(provider) as server:
        yield Sim(provider, server.url)


@pytest.fixture
def sim(shared: Sim) -> Iterator[Sim]:
    yield shared
    shared.provider.faults = FaultScript()


Cli = Callable[..., Finished]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return a function that runs `convbatch ARGS` in an empty folder, without keys and options of the environment."""
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)

    def run(*args: str | Path, **env: str) -> Finished:
        done = CliRunner().invoke(app, [*map(str, args)], env={"COLUMNS": "120", **env})
        return Finished(done.exit_code, done.stdout, done.stderr)

    return run


def gateway(url: str, **keys: Any) -> str:
    """Return a configuration with one gateway `here` and one target."""
    values = {"protocol": "gemini", "base_url": url, "auth": "x-goog-api-key", "key_env": CANARY_ENV, **keys}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    return "\n".join(["[gateways.here]", *lines, "[run]", 'models = ["sim-good@here"]', ""])


def line(**keys: Any) -> str:
    return json.dumps({"id": "a", "turns": [{"user": "hi", "assistant": "ho"}], **keys}) + "\n"


def listing(folder: Path) -> dict[str, int]:
    """Return every path below a folder with its size."""
    return {str(path.relative_to(folder)): path.lstat().st_size for path in sorted(folder.rglob("*"))}


# --- bad input: what, where, how to fix it; exit 2, nothing sent, nothing created -------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """One invalid input and the message it must cause."""

    data: str | bytes | None = field(default_factory=line)
    """Content of the dataset; None = there is no such file."""
    name: str = "d.jsonl"
    config: str | None = None
    """`URL` is replaced with the address of the simulator; None = one gateway that works."""
    args: tuple[str, ...] = ()
    expected: tuple[str, ...]
    """Texts that the message must contain."""


TWO = line(id="a") + line(id="b")
GZIPPED = gzip.compress(TWO.encode())
UNSCRIPTED = json.dumps({"id": "a", "turns": [{"user": "1"}, {"user": "2"}]}) + "\n"

BAD: dict[str, Bad] = {
    # the dataset
    "missing": Bad(data=None, expected=("d.jsonl: no such file", "hint:")),
    "empty": Bad(data="", expected=("d.jsonl: the file is empty", "hint: one JSON dialogue a line")),
    "only blank lines": Bad(data="\n \n", expected=("d.jsonl: no dialogue: every line is blank", "hint:")),
    "binary": Bad(
        data=b"\x89PNG\r\n\x1a\n\0\0", expected=("d.jsonl: is a binary file", "found:", "JSON lines in UTF-8")
    ),
    "other encoding": Bad(data='{"id":"é"}\n'.encode("latin-1"), expected=("d.jsonl:1: not UTF-8", "iconv")),
    "truncated": Bad(data=TWO[:-20], expected=("d.jsonl:2: the line ends in the middle", "copy the file again")),
    "truncated gzip": Bad(
        name="d.jsonl.gz", data=GZIPPED[:-20], expected=("d.jsonl.gz", "truncated", "copy or download")
    ),
    "damaged gzip": Bad(name="d.jsonl.gz", data=GZIPPED[:-8] + b"\0" * 8, expected=("d.jsonl.gz", "damaged", "hint:")),
    "duplicate id": Bad(
        data=line() * 2, expected=('d.jsonl:2: id "a" is used twice', "first used at d.jsonl:1", "rename")
    ),
    "mixed formats": Bad(
        data=line() + '{"messages": [{"role": "user", "content": "hi"}]}\n',
        expected=("d.jsonl:2:", 'this line is OpenAI ("messages"), the file canonical', "file of their own"),
    ),
    "unknown key": Bad(data=line(sytem="x"), expected=('d.jsonl:1: unknown key "sytem"', "did you mean 'system'")),
    "unknown part": Bad(
        data='{"turns": [{"user": [{"txt": "hi"}]}]}\n', expected=("d.jsonl:1: turn 1:", '"txt"', "did you mean 'text'")
    ),
    "unknown check": Bad(
        data='{"turns": [{"user": "hi", "checks": [{"contain": "x"}]}]}\n',
        expected=("d.jsonl:1: turn 1: check 1", '"contain"', "did you mean 'contains'"),
    ),
    "every bad line": Bad(data="{}\n" + line() + "[]\n", expected=("d.jsonl:1:", "d.jsonl:3: not a JSON object")),
    "media": Bad(
        data=json.dumps({"turns": [{"user": [{"image": "d.jsonl"}]}]}) + "\n",
        expected=("d.jsonl:1: turn 1: image holds document (text/plain)", "hint:"),
    ),
    "no such id": Bad(args=("--id", "b"), expected=('no dialogue has the id "b"', "ids are like 'a'")),
    "no such tag": Bad(args=("--tag", "b"), expected=('no dialogue has the tag "b"', "no dialogue has tags")),
    # options of the request
    "unknown history": Bad(
        args=("--history", "scrip"), expected=("unknown history mode 'scrip'", "did you mean 'script'")
    ),
    "script without replies": Bad(
        data=UNSCRIPTED,
        args=("--history", "script"),
        expected=("1 turn in 1 dialogue without", "d.jsonl:1: turn 1", "--history live"),
    ),
    "unknown gateway": Bad(args=("-m", "m@gogle"), expected=("unknown gateway 'gogle'", "did you mean 'google'")),
    "unused gateway": Bad(args=("-m", "m@google", "-g", "here"), expected=("-g here is unused", "drop -g here")),
    "gateway without model": Bad(args=("-g", "here"), expected=("-g here is unused", "add -m MODEL")),
    "judge without gateway": Bad(
        args=("-m", "sim-good@simulator", "--judge", "gpt"),
        expected=("'gpt' has no gateway", "write --judge gpt@GATEWAY;"),
    ),
    "model without gateway": Bad(args=("-m", "gpt"), expected=("'gpt' has no gateway", "-m gpt@GATEWAY")),
    "target twice": Bad(args=("-m", "a@here", "-m", "a@here"), expected=("a@here is given 2 times", "--repeats")),
    "parameter too large": Bad(args=("-p", 'x={"a": 1e999}'), expected=("-p x starts like JSON but does not", "hint:")),
    "temperature not a number": Bad(args=("--temperature", "nan"), expected=("--temperature", "finite", "hint:")),
    "temperature negative": Bad(args=("--temperature", "-1"), expected=("--temperature", "0", "hint:")),
    "seed too large": Bad(args=("--seed", "9" * 25), expected=("--seed", "hint:")),
    "parameter without value": Bad(args=("-p", "seed"), expected=("-p 'seed' is not PATH=VALUE", "a.b=value")),
    "parameter over a built field": Bad(args=("-p", "contents=1"), expected=("may not set 'contents'", "hint:")),
    "deadline": Bad(args=("--deadline", "soon"), expected=("--deadline needs a duration", "found: 'soon'", "90s")),
    # config, keys, addresses
    "config missing": Bad(args=("-c", "x.toml"), expected=("x.toml: the config file cannot be read", "hint:")),
    "config no TOML": Bad(config="[gateways\n", expected=("convbatch.toml:1: not TOML", "hint:")),
    "config without models": Bad(
        config="[run]\nrepeats = 1\n", expected=("convbatch.toml: no models", "-m MODEL@GATEWAY")
    ),
    "unknown config key": Bad(
        config='[gateways.here]\nrmp = 3\nprotocol = "gemini"\nbase_url = "URL"\nauth = "none"\n',
        expected=("convbatch.toml:2: unknown key 'rmp'", "did you mean 'rpm'"),
    ),
    "unknown protocol": Bad(
        config=gateway("URL", protocol="gemni"),
        expected=("convbatch.toml:2: unknown protocol 'gemni'", "did you mean 'gemini'"),
    ),
    "unknown auth": Bad(
        config=gateway("URL", auth="berer", key_env="K"),
        expected=("convbatch.toml:4: unknown auth scheme 'berer'", "did you mean 'bearer'"),
    ),
    "missing key": Bad(
        config=gateway("URL", auth="bearer", key_env="HERE_API_KEY"),
        expected=("variable HERE_API_KEY is not set", "convbatch.toml:5", "export HERE_API_KEY=", "--env-file"),
    ),
    "literal key": Bad(
        config=gateway("URL", auth="bearer", key_env=CANARY),
        expected=("convbatch.toml:5: 'key_env' contains a key", "NAME"),
    ),
    "literal key in the address": Bad(
        config=gateway(f"URL?key={CANARY}"),
        expected=("convbatch.toml:3: 'base_url' contains a key", "environment variable"),
    ),
    "wrong URL": Bad(
        config=gateway("htp:/x"), expected=("convbatch.toml:3: base_url is not a URL", "https://HOST/PATH")
    ),
    "no such host": Bad(
        config=gateway("https://nope.invalid"), expected=("'nope.invalid' cannot be found", "here", "check base_url")
    ),
    "no such proxy": Bad(
        config=gateway("https://h.example", proxy="http://nope.invalid:3128"),
        expected=("the proxy 'nope.invalid' cannot be found", "h.example", "check `proxy` of the gateway"),
    ),
    "plain http elsewhere": Bad(
        config=gateway("http://192.0.2.1"),
        expected=("convbatch.toml:3: plain http to 192.0.2.1", "https://", "allow_http = true"),
    ),
    "env file missing": Bad(args=("--env-file", "x.env"), expected=("x.env: the env file cannot be read", "KEY=VALUE")),
    # folders
    "out is a file": Bad(
        args=("-o", "d.jsonl"), expected=("cannot create the run folder d.jsonl", "in the way", "--out")
    ),
    "out below a file": Bad(args=("-o", "d.jsonl/x"), expected=("cannot create the run folder d.jsonl/x", "--out DIR")),
    "out is occupied": Bad(args=("-o", "full"), expected=("the folder full is not empty", "absent or empty folder")),
    "reuse of nothing": Bad(args=("--reuse", "x"), expected=("there is no run 'x'", "convbatch runs")),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_bad_input_is_an_error_with_place_and_hint_and_sends_nothing(
    bad: Bad, cli: Cli, sim: Sim, tmp_path: Path
) -> None:
    if bad.data is not None:
        (tmp_path / bad.name).write_bytes(bad.data if isinstance(bad.data, bytes) else bad.data.encode())
    (tmp_path / "convbatch.toml").write_text((bad.config or gateway("URL")).replace("URL", sim.url))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "of").touch()
    before, sent_before = listing(tmp_path), sim.provider.ledger.requests
    done = cli("run", bad.name, *bad.args)
    assert done.code == 2, done.err
    assert done.err.startswith("error: ")
    for part in bad.expected:
        assert part in done.err
    assert CANARY not in done.err + done.out
    assert "Traceback" not in done.err
    assert (sim.provider.ledger.requests, listing(tmp_path), done.out) == (sent_before, before, "")


# --- run folders that cannot be used ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished_run(shared: Sim, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of eight turns; tests copy it."""
    folder = tmp_path_factory.mktemp("finished")
    write_dataset(folder / "d.jsonl", 4, 2)
    (folder / "convbatch.toml").write_text(gateway(shared.url))
    cb.run(folder / "d.jsonl", config=folder / "convbatch.toml", out=folder / "out")
    return folder / "out"


def copied(run: Path, out: Path) -> Path:
    """Copy a run and put its config beside it: a copied folder does not decide where keys go."""
    out.parent.mkdir(exist_ok=True)
    shutil.copy(run.parent / "convbatch.toml", out.parent)
    return shutil.copytree(run, out)


def flip(folder: Path, *, line: int, at: int = 40) -> None:
    """Damage one byte of a journal line, numbered from 1."""
    path = folder / "journal" / "000001.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = bytearray(lines[line - 1])
    damaged[at] ^= 1
    lines[line - 1] = bytes(damaged)
    path.write_bytes(b"".join(lines))


def other_dataset(folder: Path) -> None:
    lines = gzip.decompress((folder / "dataset.jsonl.gz").read_bytes())
    (folder / "dataset.jsonl.gz").write_bytes(gzip.compress(lines.replace(b"question", b"Question")))


def edit_meta(folder: Path, **changes: Any) -> None:
    meta = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**meta, **changes}))


def edit_price(folder: Path, price: str) -> None:
    targets = json.loads((folder / "run.json").read_text())["targets"]
    prices = {"currency": "USD", "source": "a hand", "periods": [{"input": price, "output": "1"}]}
    edit_meta(folder, targets=[{**target, "prices": prices} for target in targets])


Damage = Callable[[Path], object]
DAMAGED: dict[str, tuple[Damage, str, tuple[str, ...]]] = {
    "no run.json": (lambda f: (f / "run.json").unlink(), "resume", ("out is not a run folder", "convbatch runs")),
    "run.json garbage": (
        lambda f: (f / "run.json").write_text("x"),
        "resume",
        ("out/run.json: cannot read", "restore run.json"),
    ),
    "run.json empty object": (
        lambda f: (f / "run.json").write_text("{}"),
        "resume",
        ("out/run.json:", "'targets' is missing", "restore run.json"),
    ),
    "run.json empty object, read": (lambda f: (f / "run.json").write_text("{}"), "table", ("'targets' is missing",)),
    "run.json of another shape": (
        lambda f: edit_meta(f, targets=[{"name": "a"}]),
        "resume",
        ("out/run.json: run.json is not as convbatch wrote it: 'targets'", "restore run.json"),
    ),
    "run.json with other prices": (
        lambda f: edit_price(f, "0.3 USD"),
        "report",
        ("out/run.json: run.json is not as convbatch wrote it: 'targets'", "restore run.json"),
    ),
    "run.json with a negative price": (lambda f: edit_price(f, "-1"), "resume", ("'targets' is missing or wrong",)),
    "run.json with another rate": (
        lambda f: edit_meta(f, rates={"USD/CNY": "seven"}),
        "report",
        ("'rates' is missing or wrong",),
    ),
    "run.json from the future": (lambda f: edit_meta(f, v=99), "resume", ("version 99", "upgrade convbatch")),
    "no dataset": (
        lambda f: (f / "dataset.jsonl.gz").unlink(),
        "resume",
        ("out/dataset.jsonl.gz", "cannot be read", "--reuse"),
    ),
    "dataset damaged": (
        lambda f: (f / "dataset.jsonl.gz").write_bytes(b"x"),
        "resume",
        ("out/dataset.jsonl.gz", "cannot be read", "--reuse"),
    ),
    "another dataset": (other_dataset, "resume", ("out/dataset.jsonl.gz: ", "is not the one", "--reuse out")),
    "no journal": (
        lambda f: (f / "journal" / "000001.jsonl").unlink(),
        "resume",
        ("out/journal: the journal of this run is gone", "finished", "restore"),
    ),
    "journal damaged": (
        lambda f: flip(f, line=5),
        "resume",
        ("out/journal/000001.jsonl:5: ", "checksum", "/out --salvage"),
    ),
}


@pytest.mark.parametrize(("damage", "command", "expected"), DAMAGED.values(), ids=DAMAGED.keys())
def test_an_unusable_run_folder_is_an_error_with_place_and_hint(
    damage: Damage, command: str, expected: tuple[str, ...], cli: Cli, sim: Sim, finished_run: Path, tmp_path: Path
) -> None:
    copied(finished_run, tmp_path / "out")
    damage(tmp_path / "out")
    sent_before = sim.provider.ledger.requests
    done = cli(command, "out")
    assert (done.code, sim.provider.ledger.requests, done.out) == (2, sent_before, ""), done.err
    assert "error: " in done.err
    assert "Traceback" not in done.err
    for part in expected:
        assert part in done.err


def test_a_folder_in_use_is_refused_at_once(cli: Cli, sim: Sim, finished_run: Path, tmp_path: Path) -> None:
    out = copied(finished_run, tmp_path / "out")
    hold = RunFolder.open(out).take_lock()
    sent_before, before = sim.provider.ledger.requests, listing(out)
    done = cli("resume", "out")
    hold.release()
    assert (done.code, sim.provider.ledger.requests, listing(out)) == (2, sent_before, before)
    assert f"the run folder out is in use by another process (pid {os.getpid()})" in done.err
    assert "wait until it ends" in done.err


def test_commands_in_hints_are_quoted_for_the_shell(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    copied(finished_run, tmp_path / "a run")
    write_dataset(tmp_path / "d.jsonl", 1, 1)
    assert f"convbatch resume '{tmp_path}/a run';" in cli("run", "d.jsonl", "-o", "a run").err
    flip(tmp_path / "a run", line=5)
    assert f"convbatch resume '{tmp_path}/a run' --salvage" in cli("resume", "a run").err


def test_salvage_repeats_only_the_turns_of_damaged_lines(
    cli: Cli, sim: Sim, finished_run: Path, tmp_path: Path
) -> None:
    out = copied(finished_run, tmp_path / "out")
    lines = (out / "journal" / "000001.jsonl").read_bytes().splitlines()
    reply = next(number for number, raw in enumerate(lines, 1) if json.loads(raw).get("class") == "replied")
    damaged = json.loads(lines[reply - 1])
    flip(out, line=reply)
    sent_before = sim.provider.ledger.requests
    done = cli("resume", "out", "--salvage")
    turns = cb.load(out).turns
    assert done.code == 0, done.err
    assert "1 damaged place set aside" in done.err
    again = turns[(turns["attempts"] > 1) | (turns["possibly_paid"] > 0)]
    assert sim.provider.ledger.requests == sent_before + 1  # the reply is the same again, so later turns stay valid
    assert sorted(set(again["dialogue"])) == [damaged["dialogue"]]
    assert statuses(turns) == {"ok": 8}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("command", ["table", "resume"])
def test_a_run_without_read_permission_is_an_error_and_is_listed_as_unreadable(
    command: str, cli: Cli, finished_run: Path, tmp_path: Path
) -> None:
    out = copied(finished_run, tmp_path / "results" / "out")
    out.chmod(0)
    try:
        done, listed = cli(command, "out"), cli("runs")
    finally:
        out.chmod(0o700)
    assert (done.code, listed.code) == (2, 0)
    assert "results/out may not be read" in done.err
    assert "ask its owner" in done.err
    assert "unreadable" in listed.out


# --- closed or full output streams: replies are kept and the exit code is right ---------------------------------------


def shell(command: str, folder: Path, **env: str) -> Finished:
    """Run a shell line in which `convbatch` is this package."""
    line = f'convbatch() {{ "{sys.executable}" -m convbatch "$@"; }}; {command}'
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment(**env), capture_output=True, timeout=60, check=False
    )
    return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def workdir(tmp_path: Path, sim: Sim) -> Path:
    """Return a folder with a dataset of eight turns and a configuration for the simulator."""
    write_dataset(tmp_path / "d.jsonl", 4, 2)
    (tmp_path / "convbatch.toml").write_text(gateway(sim.url))
    return tmp_path


@pytest.mark.parametrize(
    "redirection",
    [
        "<&- >&- 2>&-",
        pytest.param(">/dev/full 2>/dev/full", marks=SLOW),
        pytest.param(">&-", marks=SLOW),
        pytest.param("2>&-", marks=SLOW),
        pytest.param(">/dev/full", marks=SLOW),
    ],
)
@pytest.mark.slow
def test_a_run_succeeds_with_closed_or_full_output_streams(redirection: str, workdir: Path) -> None:
    done = shell(f"convbatch run d.jsonl -o out {redirection}", workdir)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert statuses(cb.load(workdir / "out").turns) == {"ok": 8}


@pytest.mark.slow  # closed streams and a closed pipe are in the fast suite
def test_a_run_continues_when_the_reader_of_stderr_exits(workdir: Path) -> None:
    done = shell("convbatch run d.jsonl -o out 2>&1 | head -1; exit ${PIPESTATUS[0]}", workdir)
    assert done.code == 0
    assert statuses(cb.load(workdir / "out").turns) == {"ok": 8}


@pytest.mark.slow
def test_a_closed_pipe_does_not_hide_an_incomplete_run(workdir: Path, sim: Sim) -> None:
    sim.provider.faults = FaultScript.of([{"action": "error", "kind": "bad_request"}], source="test")
    done = shell("convbatch run d.jsonl -o out | true; exit ${PIPESTATUS[0]}", workdir)
    assert done.code == 3
    assert f"convbatch resume {workdir}/out" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["| true", ">/dev/full"])
def test_lost_output_does_not_hide_a_failed_quality_gate(lost: str, workdir: Path) -> None:
    (workdir / "d.jsonl").write_text(line(turns=[{"user": "Hi", "checks": [{"equals": "something else"}]}]))
    done = shell(f"convbatch run d.jsonl -o out --fail-under 1 {lost}; exit ${{PIPESTATUS[0]}}", workdir)
    assert done.code == 1
    assert "gate: sim-good@here passed 0 of 1 dialogue, less than --fail-under 1" in done.err


@pytest.mark.parametrize("command", ["table", pytest.param("show", marks=SLOW), pytest.param("runs", marks=SLOW)])
def test_reading_commands_end_quietly_when_the_pipe_is_closed(command: str, finished_run: Path) -> None:
    done = shell(f"convbatch {command} . | true; exit ${{PIPESTATUS[0]}}", finished_run)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(
    "command", ["table .", pytest.param("validate ../d.jsonl", marks=SLOW), pytest.param("--help", marks=SLOW)]
)
def test_output_to_a_full_device_is_an_error_and_not_a_crash(command: str, finished_run: Path) -> None:
    done = shell(f"convbatch {command} >/dev/full", finished_run)
    assert done.code == 2
    assert done.err.startswith(f"error: cannot write the output: {os.strerror(errno.ENOSPC)}")


@pytest.mark.parametrize("encoding", ["gbk", pytest.param("ascii", marks=SLOW)])
@pytest.mark.slow
def test_characters_a_locale_cannot_write_are_escaped(encoding: str, workdir: Path, cli: Cli) -> None:
    (workdir / "d.jsonl").write_text(line(turns=[{"user": "中文 🙂", "assistant": "好 🙂"}]))
    assert cli("run", "d.jsonl", "-o", "out").code == 0
    done = shell("convbatch table out | iconv -f gbk -t utf-8", workdir, PYTHONIOENCODING=encoding)
    assert "\\U0001f642" in done.out
    assert ("中文" in done.out) == (encoding == "gbk")


# --- signals ----------------------------------------------------------------------------------------------------------


INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "signals"),
    [
        pytest.param((), (TERM, TERM), id="TERM twice", marks=SLOW),
        pytest.param((), (HUP, HUP, INT), id="HUP twice is a closing terminal"),
        pytest.param((), (TERM, INT), id="TERM, then Ctrl-C", marks=SLOW),
        pytest.param(("--deadline", "300ms"), (INT, INT), id="Ctrl-C twice after the deadline"),
    ],
)
def test_the_second_signal_abandons_requests_in_flight(
    args: tuple[str, ...],
    signals: tuple[signal.Signals, ...],
    workdir: Path,
    simulator: Callable[[Provider], Server],
    start: Start,
) -> None:
    provider = Provider(latency_s=60)
    (workdir / "convbatch.toml").write_text(gateway(simulator(provider).url))
    process = start("run", "d.jsonl", "-o", "out", *args)
    wait_until(lambda: provider.in_flight == 4)
    time.sleep(0.4 if args else 0.1)
    for number in signals:
        assert process.poll() is None
        process.send_signal(number)
        time.sleep(0.1)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert err.count(b"abandoning what is in flight") == 1
    assert b"4 possibly paid" in out
    assert f"convbatch resume {workdir}/out" in err.decode()


@pytest.mark.parametrize("number", [TERM, pytest.param(INT, marks=SLOW)], ids=["TERM", "Ctrl-C"])
def test_a_signal_before_the_first_request_leaves_no_files(number: signal.Signals, workdir: Path, start: Start) -> None:
    with (workdir / "d.jsonl").open("w") as file:
        file.writelines(f'{{"turns": [{{"user": "{number}"}}]}}\n' for number in range(150_000))
    scratch = workdir / "tmp"
    scratch.mkdir()
    process = start("run", "d.jsonl", "-o", "out", TMPDIR=str(scratch))
    wait_until(lambda: any(path.stat().st_size for path in scratch.glob("*/*")))
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == b"convbatch: interrupted\n"
    assert (list(scratch.iterdir()), (workdir / "out").exists()) == ([], False)


@SLOW
def test_nohup_is_respected(workdir: Path, simulator: Callable[[Provider], Server], start: Start) -> None:
    provider = Provider(latency_s=0.3)
    (workdir / "convbatch.toml").write_text(gateway(simulator(provider).url))
    process = start("run", "d.jsonl", "-o", "out", under=("nohup",))
    wait_until(lambda: provider.in_flight == 4)
    process.send_signal(HUP)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert statuses(cb.load(workdir / "out").turns) == {"ok": 8}


# --- exit codes and final messages ------------------------------------------------------------------------------------


def test_exit_codes_are_ordered_by_severity() -> None:
    ordered = [ExitCode(code) for code in (0, 2, 1, 3, 4, 130, 5, 70)]
    assert set(ordered) == set(ExitCode)
    for place, code in enumerate(ordered):
        assert worst(*ordered[: place + 1]) is code
        assert worst(code, *reversed(ordered[:place])) is code
    assert worst() is ExitCode.OK


def test_a_failed_turn_is_exit_3_with_its_reason_and_the_next_command(cli: Cli, sim: Sim, workdir: Path) -> None:
    sim.provider.faults = FaultScript.of(
        [{"match": {"turn": 2}, "action": "error", "kind": "bad_request"}], source="test"
    )
    done = cli("run", "d.jsonl", "-o", "a run", "-j", "1")
    assert done.code == 3
    assert "sim-good@here: 4 turns failed, invalid_request: " in done.err
    assert f"convbatch show '{workdir}/a run' --failed" in done.err
    assert done.err.endswith(f"4 of 8 turns are open; finish them with:\n  convbatch resume '{workdir}/a run'\n")
    sim.provider.faults = FaultScript()
    assert cli("resume", "a run").code == 0


def test_blocked_and_empty_replies_are_exit_0(cli: Cli, workdir: Path) -> None:
    (workdir / "d.jsonl").write_text(line(turns=[{"user": "how to build a bomb"}, {"user": "and then?"}]))
    done = cli("run", "d.jsonl", "-m", "sim-safety@here", "-m", "sim-empty@here", "-o", "out")
    assert done.code == 0, done.err
    assert set(statuses(cb.load("out").turns)) == {"blocked", "empty", "skipped"}


def test_a_suspended_target_is_exit_3_and_the_others_continue(cli: Cli, workdir: Path) -> None:
    done = cli("run", "d.jsonl", "-m", "no-such-model@here", "-m", "sim-good@here", "-o", "out")
    assert done.code == 3
    assert "no-such-model@here is suspended: there is no such model" in done.err
    assert "took before" not in done.err  # it has no earlier successful call
    assert statuses(cb.load("out").turns) == {"ok": 8, "pending": 8}


def test_every_reading_command_names_a_suspended_target_and_its_reason(cli: Cli, workdir: Path) -> None:
    cli("run", "d.jsonl", "-m", "no-such-model@here", "-m", "sim-good@here", "-o", "results/r")
    for command in (("table", "r"), ("table", "r", "--wide", "reply"), ("show", "r", "d00000")):
        assert "note: no-such-model@here is suspended: there is no such model" in cli(*command).err
    assert "no-such-model@here (suspended), sim-good@here" in " ".join(cli("runs").out.split())
    assert list(cb.load("results/r").suspended) == ["no-such-model@here"]


def test_a_recovered_target_is_no_longer_suspended(cli: Cli, sim: Sim, workdir: Path) -> None:
    sim.provider.faults = FaultScript.of([{"action": "error", "kind": "no_balance"}], source="test")
    assert cli("run", "d.jsonl", "-o", "out").code == 3
    assert list(cb.load("out").suspended) == ["sim-good@here"]
    sim.provider.faults = FaultScript()
    assert cli("resume", "out").code == 0
    assert cb.load("out").suspended == {}
    assert "suspended" not in cli("table", "out").err


def test_turns_skipped_behind_a_failed_turn_are_named_and_resumed(cli: Cli, sim: Sim, workdir: Path) -> None:
    rule = {"match": {"turn": 1}, "action": "error", "kind": "bad_request"}
    sim.provider.faults = FaultScript.of([rule], source="test")
    done = cli("run", "d.jsonl", "-n", "1", "-o", "out")
    assert "\n1 of 2 turns is open and 1 more skipped behind failed ones; finish them with:" in done.err
    sim.provider.faults = FaultScript()
    assert cli("resume", "out").code == 0
    assert statuses(cb.load("out").turns) == {"ok": 2}


def test_a_deadline_is_exit_3_and_loses_nothing(cli: Cli, sim: Sim, workdir: Path) -> None:
    write_dataset(workdir / "long.jsonl", 200, 5)
    (workdir / "convbatch.toml").write_text(gateway(sim.url, rpm=600))
    done = cli("run", "long.jsonl", "-o", "out", "--deadline", "300ms")
    assert done.code == 3
    assert "deadline reached: " in done.err
    counts = statuses(cb.load("out").turns)
    assert set(counts) == {"ok", "pending"}
    assert sum(counts.values()) == 1000


@pytest.mark.slow
def test_an_interrupt_takes_precedence_over_a_deadline(
    workdir: Path, simulator: Callable[[Provider], Server], start: Start
) -> None:
    provider = Provider(latency_s=0.7)
    (workdir / "convbatch.toml").write_text(gateway(simulator(provider).url))
    process = start("run", "d.jsonl", "-o", "out", "--deadline", "200ms")
    wait_until(lambda: provider.in_flight == 4)
    time.sleep(0.3)
    process.send_signal(INT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"interrupted: 4 of 8 turns are open" in err
    assert statuses(cb.load(workdir / "out").turns) == {"ok": 4, "pending": 4}


@pytest.mark.slow
def test_a_journal_at_the_file_size_limit_is_exit_5_and_a_resume_finishes(workdir: Path, cli: Cli) -> None:
    write_dataset(workdir / "d.jsonl", 20, 5)
    done = shell("ulimit -f 60; convbatch run d.jsonl -o out", workdir)
    assert done.code == 5
    assert "out/journal/000001.jsonl: cannot write: File too large" in done.err
    assert "hint: free some space" in done.err
    assert f"convbatch resume {workdir}/out" in done.err
    received = statuses(cb.load("out").turns)["ok"]
    assert received > 0
    assert cli("resume", "out").code == 0
    turns = cb.load("out").turns
    assert statuses(turns) == {"ok": 100}
    # Every repeated attempt is counted as possibly paid.
    assert list(turns["attempts"] - 1) == list(turns["possibly_paid"])


def test_a_table_that_cannot_be_written_is_exit_5_and_is_still_printed(
    cli: Cli, finished_run: Path, tmp_path: Path
) -> None:
    out = copied(finished_run, tmp_path / "out")
    (out / "turns.parquet").unlink()
    (out / "turns.parquet" / "in the way").mkdir(parents=True)
    done = cli("resume", "out")
    assert done.code == 5, done.err
    assert "out/turns.parquet: cannot write: Is a directory" in done.err
    assert "the next command that reads the run rebuilds the table from its journal" in done.err
    assert "sim-good@here   8" in done.out
    assert cli("table", "out").out.count("\n") == 9


def test_environment_variables_replace_options_and_are_named_in_the_plan(cli: Cli, workdir: Path) -> None:
    done = cli(
        "run", "d.jsonl", CONVBATCH_MODEL="sim-good@here,sim-drift@here", CONVBATCH_LIMIT="1", CONVBATCH_OUT="out"
    )
    assert done.code == 0
    assert "1 dialogue, 2 turns x 2 targets = 4 rows" in done.err
    assert "CONVBATCH_MODEL=sim-good@here,sim-drift@here" in done.err
    assert "CONVBATCH_RPM=6000" in cli("resume", "out", CONVBATCH_RPM="6000").err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RPM", "x"),
        ("CONCURRENCY", "0"),
        ("HISTORY", "scrip"),
        ("MAX_COST", "5"),
        ("DEADLINE", "soon"),
        ("MODEL", "gpt"),
    ],
)
def test_a_bad_value_in_a_variable_is_refused_with_the_name_of_the_variable(
    cli: Cli, workdir: Path, name: str, value: str
) -> None:
    done = cli("run", "d.jsonl", **{f"CONVBATCH_{name}": value})
    assert done.code == 2
    assert f"CONVBATCH_{name}" in done.err


def test_an_option_takes_precedence_over_its_variable(cli: Cli, workdir: Path) -> None:
    assert "1 dialogue," in cli("run", "d.jsonl", "-n", "1", CONVBATCH_LIMIT="2").err


@pytest.mark.slow
def test_a_run_raises_the_limit_of_open_files_or_does_not_start(workdir: Path) -> None:
    done = shell("ulimit -Sn 40; convbatch run d.jsonl -j 50 -o out", workdir)
    assert done.code == 0, done.err
    refused = shell("ulimit -n 100; convbatch run d.jsonl -j 50 -o other", workdir)
    assert refused.code == 2
    assert "need 114 open files; this process may open 100" in refused.err
    assert "lower -j" in refused.err
    assert not (workdir / "other").exists()


def test_runs_started_in_the_same_second_get_separate_folders(cli: Cli, workdir: Path) -> None:
    codes = [cli("run", "d.jsonl", "-n", "1", "--no-progress").code for _ in range(4)]
    assert codes == [0] * 4
    assert len(list((workdir / "results").iterdir())) == 4


@pytest.mark.parametrize("where", ["out", "./out/", "."])
def test_a_moved_run_folder_can_be_resumed(where: str, cli: Cli, sim: Sim, workdir: Path) -> None:
    sim.provider.faults = FaultScript.of(
        [{"match": {"turn": 2}, "action": "error", "kind": "bad_request"}], source="test"
    )
    assert cli("run", "d.jsonl", "-o", "first", "-j", "1").code == 3
    sim.provider.faults = FaultScript()
    (workdir / "elsewhere").mkdir()
    (workdir / "first").rename(workdir / "elsewhere" / "out")
    (workdir / "d.jsonl").unlink()
    os.chdir(workdir / "elsewhere" / "out" if where == "." else workdir / "elsewhere")
    assert cli("resume", where).code == 0
    assert statuses(cb.load(where).turns) == {"ok": 8}


@pytest.mark.parametrize("change", ["edited", "deleted", "a folder", "unreadable"])
def test_resume_uses_its_copy_when_the_dataset_is_changed_or_removed(change: str, cli: Cli, workdir: Path) -> None:
    assert cli("run", "d.jsonl", "-o", "out", "-p", "nonsense=1").code == 3
    source = workdir / "d.jsonl"
    match change:
        case "edited":
            source.write_text(line())
        case "unreadable":
            source.chmod(0)
        case _:
            source.unlink()
    if change == "a folder":
        source.mkdir()
    done = cli("resume", "out", "--no-retry-errors")
    assert done.code == 3
    assert ("note: d.jsonl has changed" in done.err) == (change == "edited")
    assert (f"convbatch run {workdir}/d.jsonl -m sim-good@here" in done.err) == (change == "edited")


def test_no_key_appears_in_output_or_files(cli: Cli, sim: Sim, workdir: Path) -> None:
    """Use a gateway that takes the key as a query parameter, refuses it, and quotes it in its message."""
    (workdir / "convbatch.toml").write_text(gateway(sim.url, auth="query:key", key_env="HERE_KEY"))
    body = {"error": {"code": 400, "message": f"refused {CANARY}", "status": "INVALID_ARGUMENT"}}
    sim.provider.faults = FaultScript.of([{"action": "body", "status": 400, "text": json.dumps(body)}], source="test")
    done = cli("run", "d.jsonl", "-o", "out", HERE_KEY=CANARY)
    seen = [cli(*command) for command in (("table", "out"), ("show", "out"), ("runs",))]
    seen.append(cli("doctor", "-g", "here", "-m", "sim-good", HERE_KEY=CANARY))
    assert done.code == 3
    assert "[redacted:HERE_KEY]" in seen[0].out
    assert CANARY not in "".join(text for f in (done, *seen) for text in (f.out, f.err))
    for path in (workdir / "out").rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes()
    assert not cb.load("out").turns.map(lambda cell: CANARY in str(cell)).any(axis=None)


def test_a_short_key_is_redacted_in_messages(cli: Cli, sim: Sim, workdir: Path) -> None:
    (workdir / "convbatch.toml").write_text(gateway(sim.url, auth="bearer", key_env="HERE_KEY"))
    body = {"error": {"code": 401, "message": "no such key: sk9short7", "status": "UNAUTHENTICATED"}}
    sim.provider.faults = FaultScript.of([{"action": "body", "status": 401, "text": json.dumps(body)}], source="test")
    done = cli("run", "d.jsonl", "-o", "out", HERE_KEY="sk9short7")
    assert "sim-good@here is suspended: the key is refused (no such key: [redacted:HERE_KEY])" in done.err
    assert "sk9short7" not in "".join((done.out, done.err, cli("table", "out").out, cli("show", "out").out))


@each(
    ("text", "share"),
    [("0.02", 0.02), ("2%", 0.02), (" .5 % ", 0.005), ("5", 5.0), ("2 %%", None), ("-1%", None), ("", None)],
)
def test_a_share_is_read_as_a_number_or_in_percent(text: str, share: float | None) -> None:
    if share is None:
        with pytest.raises(BadParameter, match=r"write 0\.02 or 2%"):
            parse_share(text)
    else:
        assert parse_share(text) == share


@each(
    ("command", "ours"),
    [
        ("eval", "`convbatch run`"),
        ("ls", "`convbatch runs`"),
        ("cat", "`convbatch show`"),
        ("cmp", "`convbatch compare`"),
        ("quickstart", "`convbatch init`"),
    ],
)
def test_a_command_of_another_tool_is_answered_with_ours(command: str, ours: str) -> None:
    done = CliRunner().invoke(app, [command])
    assert done.exit_code == 2
    assert f"No such command '{command}': did you mean {ours}?" in done.stderr


@each(
    ("text", "hint"),
    [
        ("1:30", "write 90m for hours and minutes, or 90s"),
        ("01:30:00", "write 5400s"),
        ("2小时", "did you mean 2h?"),
        ("30 秒", "did you mean 30s?"),
        ("1h30m", "did you mean 90m?"),
        ("soon", "write 90s, 15m or 2h"),
    ],
)
def test_a_duration_in_another_form_is_answered_with_ours(text: str, hint: str) -> None:
    with pytest.raises(cb.ConvbatchError, match=re.escape(hint)):
        parse_seconds(text, "--deadline")


@each(("text", "seconds"), [("50ms", 0.05), ("5s", 5), ("1.5m", 90), (" 2 h ", 7200)])
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert parse_seconds(text, "--deadline") == pytest.approx(seconds)
    bare = text.strip(" msh")
    with pytest.raises(
        cb.ConvbatchError, match=f"--deadline {re.escape(bare)}: no unit\n  hint: write {re.escape(bare)}s for"
    ):
        parse_seconds(bare, "--deadline")


def test_an_interrupt_wrapped_by_an_import_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    @guarded
    def command() -> None:
        raise RuntimeError("Error calling __set_name__ on 'Field' instance") from KeyboardInterrupt()

    with pytest.raises(Exit) as ended:
        command()
    assert ended.value.exit_code == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "convbatch: interrupted\n"
