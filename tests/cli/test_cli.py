"""The command as people type it: exit codes, every kind of bad input, and a terminal that is gone.

Commands run in this process through Typer's runner; what needs a process of its own (signals, closed streams) gets one.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
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
from typer.testing import CliRunner

import convbatch as cb
from convbatch.cli.main import app
from convbatch.exit_codes import ExitCode, worst
from convbatch.journal.run_folder import RunFolder
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server, serve_in_thread
from tests.conftest import Finished, Start, environment, wait_until, write_dataset
from tests.support.canary import CANARY_ENV
from tests.support.ledger_laws import statuses

SLOW = pytest.mark.slow
CANARY = "sk-canary-4711-do-not-show"


@dataclass(frozen=True, slots=True)
class Sim:
    """A simulator all tests share; each test looks at what it added to the ledger."""

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
    """`convbatch ARGS` in an empty folder, without keys and options of the person who runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)

    def run(*args: str | Path, **env: str) -> Finished:
        done = CliRunner().invoke(app, [*map(str, args)], env={"COLUMNS": "120", **env})
        return Finished(done.exit_code, done.stdout, done.stderr)

    return run


def gateway(url: str, **keys: Any) -> str:
    """A configuration with one gateway `here` and one target."""
    values = {"protocol": "gemini", "base_url": url, "auth": "x-goog-api-key", "key_env": CANARY_ENV, **keys}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    return "\n".join(["[gateways.here]", *lines, "[run]", 'models = ["sim-good@here"]', ""])


def line(**keys: Any) -> str:
    return json.dumps({"id": "a", "turns": [{"user": "hi", "assistant": "ho"}], **keys}) + "\n"


def listing(folder: Path) -> dict[str, int]:
    """Every path below a folder, with its size."""
    return {str(path.relative_to(folder)): path.lstat().st_size for path in sorted(folder.rglob("*"))}


# --- bad input: what, where, how to mend; exit 2, nothing sent, nothing created ----- --------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """One line of the issue's table."""

    data: str | bytes | None = field(default_factory=line)
    """Content of the dataset; None = there is no such file."""
    name: str = "d.jsonl"
    config: str | None = None
    """`URL` stands for the simulator; None = one gateway that works."""
    args: tuple[str, ...] = ()
    says: tuple[str, ...]
    """All of this stands in the message."""


TWO = line(id="a") + line(id="b")
GZIPPED = gzip.compress(TWO.encode())
UNSCRIPTED = json.dumps({"id": "a", "turns": [{"user": "1"}, {"user": "2"}]}) + "\n"

BAD: dict[str, Bad] = {
    # the dataset
    "missing": Bad(data=None, says=("d.jsonl: no such file", "hint:")),
    "empty": Bad(data="", says=("d.jsonl: the file is empty", "hint: one JSON dialogue a line")),
    "only blank lines": Bad(data="\n \n", says=("d.jsonl: no dialogue: every line is blank", "hint:")),
    "binary": Bad(data=b"\x89PNG\r\n\x1a\n\0\0", says=("d.jsonl: is a binary file", "found:", "JSON lines in UTF-8")),
    "other encoding": Bad(data='{"id":"é"}\n'.encode("latin-1"), says=("d.jsonl:1: not UTF-8", "iconv")),
    "truncated": Bad(data=TWO[:-20], says=("d.jsonl:2: the line ends in the middle", "copy the file again")),
    "truncated gzip": Bad(name="d.jsonl.gz", data=GZIPPED[:-20], says=("d.jsonl.gz", "truncated", "copy or download")),
    "damaged gzip": Bad(name="d.jsonl.gz", data=GZIPPED[:-8] + b"\0" * 8, says=("d.jsonl.gz", "damaged", "hint:")),
    "duplicate id": Bad(data=line() * 2, says=('d.jsonl:2: id "a" is used twice', "first used at d.jsonl:1", "rename")),
    "mixed formats": Bad(
        data=line() + '{"messages": [{"role": "user", "content": "hi"}]}\n',
        says=("d.jsonl:2:", 'this line is OpenAI ("messages"), the file canonical', "file of their own"),
    ),
    "unknown key": Bad(data=line(sytem="x"), says=('d.jsonl:1: unknown key "sytem"', "did you mean 'system'")),
    "unknown part": Bad(
        data='{"turns": [{"user": [{"txt": "hi"}]}]}\n', says=("d.jsonl:1: turn 1:", '"txt"', "did you mean 'text'")
    ),
    "unknown check": Bad(
        data='{"turns": [{"user": "hi", "checks": [{"contain": "x"}]}]}\n',
        says=("d.jsonl:1: turn 1: check 1", '"contain"', "did you mean 'contains'"),
    ),
    "every bad line": Bad(data="{}\n" + line() + "[]\n", says=("d.jsonl:1:", "d.jsonl:3: not a JSON object")),
    "tools": Bad(data=line(tools=[{"name": "f"}]), says=("d.jsonl:1: the dialogue has tools", "found: f", "--id")),
    "media": Bad(
        data=json.dumps({"turns": [{"user": [{"image": "d.jsonl"}]}]}) + "\n",
        says=("d.jsonl:1: turn 1: the message has image", "hint:"),
    ),
    "no such id": Bad(args=("--id", "b"), says=('no dialogue has the id "b"', "ids are like 'a'")),
    "no such tag": Bad(args=("--tag", "b"), says=('no dialogue has the tag "b"', "no dialogue has tags")),
    # what is asked
    "unknown history": Bad(args=("--history", "scrip"), says=("unknown history mode 'scrip'", "did you mean 'script'")),
    "script without replies": Bad(
        data=UNSCRIPTED,
        args=("--history", "script"),
        says=("1 turn in 1 dialogue without", "d.jsonl:1: turn 1", "--history live"),
    ),
    "unknown gateway": Bad(args=("-m", "m@gogle"), says=("unknown gateway 'gogle'", "did you mean 'google'")),
    "unused gateway": Bad(args=("-m", "m@google", "-g", "here"), says=("-g here is unused", "drop -g here")),
    "gateway without model": Bad(args=("-g", "here"), says=("-g here is unused", "add -m MODEL")),
    "model without gateway": Bad(args=("-m", "gpt"), says=("'gpt' has no gateway", "-m gpt@GATEWAY")),
    "target twice": Bad(args=("-m", "a@here", "-m", "a@here"), says=("a@here is given 2 times", "--repeats")),
    "parameter too large": Bad(args=("-p", 'x={"a": 1e999}'), says=("-p x starts like JSON but does not", "hint:")),
    "temperature not a number": Bad(args=("--temperature", "nan"), says=("--temperature", "finite", "hint:")),
    "temperature negative": Bad(args=("--temperature", "-1"), says=("--temperature", "0", "hint:")),
    "seed too large": Bad(args=("--seed", "9" * 25), says=("--seed", "hint:")),
    "parameter without value": Bad(args=("-p", "seed"), says=("-p 'seed' is not PATH=VALUE", "a.b=value")),
    "parameter over a built field": Bad(args=("-p", "contents=1"), says=("may not set 'contents'", "hint:")),
    "deadline": Bad(args=("--deadline", "soon"), says=("--deadline needs a duration", "found: 'soon'", "90s")),
    # config, keys, addresses
    "config missing": Bad(args=("-c", "x.toml"), says=("x.toml: the config file cannot be read", "hint:")),
    "config no TOML": Bad(config="[gateways\n", says=("convbatch.toml:1: not TOML", "hint:")),
    "config without models": Bad(config="[run]\nrepeats = 1\n", says=("convbatch.toml: no models", "-m MODEL@GATEWAY")),
    "unknown config key": Bad(
        config='[gateways.here]\nrmp = 3\nprotocol = "gemini"\nbase_url = "URL"\nauth = "none"\n',
        says=("convbatch.toml:2: unknown key 'rmp'", "did you mean 'rpm'"),
    ),
    "unknown protocol": Bad(
        config=gateway("URL", protocol="gemni"),
        says=("convbatch.toml:2: unknown protocol 'gemni'", "did you mean 'gemini'"),
    ),
    "unknown auth": Bad(
        config=gateway("URL", auth="berer", key_env="K"),
        says=("convbatch.toml:4: unknown auth scheme 'berer'", "did you mean 'bearer'"),
    ),
    "missing key": Bad(
        config=gateway("URL", auth="bearer", key_env="HERE_API_KEY"),
        says=("variable HERE_API_KEY is not set", "convbatch.toml:5", "export HERE_API_KEY=", "--env-file"),
    ),
    "literal key": Bad(
        config=gateway("URL", auth="bearer", key_env=CANARY),
        says=("convbatch.toml:5: 'key_env' contains a key", "NAME"),
    ),
    "literal key in the address": Bad(
        config=gateway(f"URL?key={CANARY}"),
        says=("convbatch.toml:3: 'base_url' contains a key", "environment variable"),
    ),
    "wrong URL": Bad(config=gateway("htp:/x"), says=("convbatch.toml:3: base_url is not a URL", "https://HOST/PATH")),
    "no such host": Bad(
        config=gateway("https://nope.invalid"), says=("'nope.invalid' cannot be found", "here", "check base_url")
    ),
    "no such proxy": Bad(
        config=gateway("https://h.example", proxy="http://nope.invalid:3128"),
        says=("the proxy 'nope.invalid' cannot be found", "h.example", "check `proxy` of the gateway"),
    ),
    "plain http elsewhere": Bad(
        config=gateway("http://192.0.2.1"),
        says=("convbatch.toml:3: plain http to 192.0.2.1", "https://", "allow_http = true"),
    ),
    "env file missing": Bad(args=("--env-file", "x.env"), says=("x.env: the env file cannot be read", "KEY=VALUE")),
    # folders
    "out is a file": Bad(args=("-o", "d.jsonl"), says=("cannot create the run folder d.jsonl", "in the way", "--out")),
    "out below a file": Bad(args=("-o", "d.jsonl/x"), says=("cannot create the run folder d.jsonl/x", "--out DIR")),
    "out is occupied": Bad(args=("-o", "full"), says=("the folder full is not empty", "absent or empty folder")),
    "reuse of nothing": Bad(args=("--reuse", "x"), says=("there is no run 'x'", "convbatch runs")),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_bad_input_says_what_where_and_how_to_mend_and_sends_nothing(
    bad: Bad, cli: Cli, sim: Sim, tmp_path: Path
) -> None:
    if bad.data is not None:
        (tmp_path / bad.name).write_bytes(bad.data if isinstance(bad.data, bytes) else bad.data.encode())
    (tmp_path / "convbatch.toml").write_text((bad.config or gateway("URL")).replace("URL", sim.url))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "of").touch()
    before, asked = listing(tmp_path), sim.provider.ledger.requests
    done = cli("run", bad.name, *bad.args)
    assert done.code == 2, done.err
    assert done.err.startswith("error: ")
    for part in bad.says:
        assert part in done.err
    assert CANARY not in done.err + done.out
    assert "Traceback" not in done.err
    assert (sim.provider.ledger.requests, listing(tmp_path), done.out) == (asked, before, "")


# --- run folders that cannot be used ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished_run(shared: Sim, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of eight turns, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    write_dataset(folder / "d.jsonl", 4, 2)
    (folder / "convbatch.toml").write_text(gateway(shared.url))
    cb.run(folder / "d.jsonl", config=folder / "convbatch.toml", out=folder / "out")
    return folder / "out"


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


Ruin = Callable[[Path], object]
RUINED: dict[str, tuple[Ruin, str, tuple[str, ...]]] = {
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
        ("out/journal/000001.jsonl:5: ", "checksum", "convbatch resume out --salvage"),
    ),
}


@pytest.mark.parametrize(("ruin", "command", "says"), RUINED.values(), ids=RUINED.keys())
def test_a_folder_that_cannot_be_used_says_where_and_how_to_mend(
    ruin: Ruin, command: str, says: tuple[str, ...], cli: Cli, sim: Sim, finished_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "out")
    ruin(tmp_path / "out")
    asked = sim.provider.ledger.requests
    done = cli(command, "out")
    assert (done.code, sim.provider.ledger.requests, done.out) == (2, asked, ""), done.err
    assert "error: " in done.err
    assert "Traceback" not in done.err
    for part in says:
        assert part in done.err


def test_a_folder_in_use_is_refused_at_once(cli: Cli, sim: Sim, finished_run: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished_run, tmp_path / "out")
    hold = RunFolder.open(out).take_lock()
    asked, before = sim.provider.ledger.requests, listing(out)
    done = cli("resume", "out")
    hold.release()
    assert (done.code, sim.provider.ledger.requests, listing(out)) == (2, asked, before)
    assert f"the run folder out is in use by another process (pid {os.getpid()})" in done.err
    assert "wait until it ends" in done.err


def test_commands_in_hints_can_be_typed_as_they_stand(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "a run")
    write_dataset(tmp_path / "d.jsonl", 1, 1)
    assert "convbatch resume 'a run';" in cli("run", "d.jsonl", "-o", "a run").err
    flip(tmp_path / "a run", line=5)
    assert "convbatch resume 'a run' --salvage" in cli("resume", "a run").err


def test_salvage_asks_only_the_turns_of_damaged_lines_again(
    cli: Cli, sim: Sim, finished_run: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished_run, tmp_path / "out")
    lines = (out / "journal" / "000001.jsonl").read_bytes().splitlines()
    reply = next(number for number, raw in enumerate(lines, 1) if json.loads(raw).get("class") == "replied")
    damaged = json.loads(lines[reply - 1])
    flip(out, line=reply)
    asked = sim.provider.ledger.requests
    done = cli("resume", "out", "--salvage")
    turns = cb.load(out).turns
    assert done.code == 0, done.err
    assert "1 damaged place set aside" in done.err
    again = turns[(turns["attempts"] > 1) | (turns["possibly_paid"] > 0)]
    assert sim.provider.ledger.requests == asked + 1  # the simulator answers as before, so what follows still stands
    assert sorted(set(again["dialogue"])) == [damaged["dialogue"]]
    assert statuses(turns) == {"ok": 8}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("command", ["table", "resume"])
def test_somebody_elses_run_is_named_as_such(command: str, cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished_run, tmp_path / "results" / "out")
    out.chmod(0)
    try:
        done, listed = cli(command, "out"), cli("runs")
    finally:
        out.chmod(0o700)
    assert (done.code, listed.code) == (2, 0)
    assert "results/out may not be read" in done.err
    assert "ask its owner" in done.err
    assert "unreadable" in listed.out


# --- a terminal that is gone: what was paid for is kept, and the exit code still says what happened ------------------


def shell(command: str, folder: Path, **env: str) -> Finished:
    """A shell line in which `convbatch` is this package."""
    line = f'convbatch() {{ "{sys.executable}" -m convbatch "$@"; }}; {command}'
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment(**env), capture_output=True, timeout=60, check=False
    )
    return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def asked(tmp_path: Path, sim: Sim) -> Path:
    """A folder with a dataset of eight turns and a configuration for the simulator."""
    write_dataset(tmp_path / "d.jsonl", 4, 2)
    (tmp_path / "convbatch.toml").write_text(gateway(sim.url))
    return tmp_path


@pytest.mark.parametrize(
    "gone",
    [
        "<&- >&- 2>&-",
        pytest.param(">/dev/full 2>/dev/full", marks=SLOW),
        pytest.param(">&-", marks=SLOW),
        pytest.param("2>&-", marks=SLOW),
        pytest.param(">/dev/full", marks=SLOW),
    ],
)
def test_a_run_ends_well_when_nobody_can_read_what_it_says(gone: str, asked: Path) -> None:
    done = shell(f"convbatch run d.jsonl -o out {gone}", asked)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert statuses(cb.load(asked / "out").turns) == {"ok": 8}


def test_a_run_outlives_the_reader_of_its_notes(asked: Path) -> None:
    done = shell("convbatch run d.jsonl -o out 2>&1 | head -1; exit ${PIPESTATUS[0]}", asked)
    assert done.code == 0
    assert statuses(cb.load(asked / "out").turns) == {"ok": 8}


def test_a_reader_that_leaves_early_does_not_hide_an_incomplete_run(asked: Path, sim: Sim) -> None:
    sim.provider.faults = FaultScript.of([{"action": "error", "kind": "bad_request"}], source="test")
    done = shell("convbatch run d.jsonl -o out | true; exit ${PIPESTATUS[0]}", asked)
    assert done.code == 3
    assert "convbatch resume out" in done.err


@pytest.mark.parametrize("command", ["table .", pytest.param("show .", marks=SLOW), pytest.param("runs", marks=SLOW)])
def test_reading_commands_end_quietly_when_their_reader_leaves(command: str, finished_run: Path) -> None:
    done = shell(f"convbatch {command} | true; exit ${{PIPESTATUS[0]}}", finished_run)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(
    "command", ["table .", pytest.param("validate ../d.jsonl", marks=SLOW), pytest.param("--help", marks=SLOW)]
)
def test_output_that_finds_no_room_is_said_and_is_no_bug(command: str, finished_run: Path) -> None:
    done = shell(f"convbatch {command} >/dev/full", finished_run)
    assert done.code == 2
    assert done.err.startswith(f"error: cannot write the output: {os.strerror(errno.ENOSPC)}")


@pytest.mark.parametrize("encoding", ["gbk", pytest.param("ascii", marks=SLOW)])
def test_characters_a_locale_cannot_write_are_escaped(encoding: str, asked: Path, cli: Cli) -> None:
    (asked / "d.jsonl").write_text(line(turns=[{"user": "中文 🙂", "assistant": "好 🙂"}]))
    assert cli("run", "d.jsonl", "-o", "out").code == 0
    done = shell("convbatch table out | iconv -f gbk -t utf-8", asked, PYTHONIOENCODING=encoding)
    assert "\\U0001f642" in done.out
    assert ("中文" in done.out) == (encoding == "gbk")


# --- signals ------------------------------------------------------------------------ --------------------------------


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
def test_the_second_signal_abandons_what_is_in_flight(
    args: tuple[str, ...],
    signals: tuple[signal.Signals, ...],
    asked: Path,
    simulator: Callable[[Provider], Server],
    start: Start,
) -> None:
    provider = Provider(latency_s=60)
    (asked / "convbatch.toml").write_text(gateway(simulator(provider).url))
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
    assert b"convbatch resume out" in err


@pytest.mark.parametrize("number", [TERM, pytest.param(INT, marks=SLOW)], ids=["TERM", "Ctrl-C"])
def test_a_signal_before_the_first_request_leaves_nothing_behind(
    number: signal.Signals, asked: Path, start: Start
) -> None:
    with (asked / "d.jsonl").open("w") as file:
        file.writelines(f'{{"turns": [{{"user": "{number}"}}]}}\n' for number in range(150_000))
    scratch = asked / "tmp"
    scratch.mkdir()
    process = start("run", "d.jsonl", "-o", "out", TMPDIR=str(scratch))
    wait_until(lambda: any(path.stat().st_size for path in scratch.glob("*/*")))
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == b"convbatch: interrupted\n"
    assert (list(scratch.iterdir()), (asked / "out").exists()) == ([], False)


@SLOW
def test_nohup_is_respected(asked: Path, simulator: Callable[[Provider], Server], start: Start) -> None:
    provider = Provider(latency_s=0.3)
    (asked / "convbatch.toml").write_text(gateway(simulator(provider).url))
    process = start("run", "d.jsonl", "-o", "out", under=("nohup",))
    wait_until(lambda: provider.in_flight == 4)
    process.send_signal(HUP)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert statuses(cb.load(asked / "out").turns) == {"ok": 8}


# --- exit codes and what a person reads at the end -------------------------------------------------------------------


def test_exit_codes_are_ordered_by_severity() -> None:
    ordered = [ExitCode(code) for code in (0, 2, 1, 3, 4, 130, 5, 70)]
    assert set(ordered) == set(ExitCode)
    for place, code in enumerate(ordered):
        assert worst(*ordered[: place + 1]) is code
        assert worst(code, *reversed(ordered[:place])) is code
    assert worst() is ExitCode.OK


def test_a_failed_turn_is_exit_3_and_says_why_and_what_next(cli: Cli, sim: Sim, asked: Path) -> None:
    sim.provider.faults = FaultScript.of(
        [{"match": {"turn": 2}, "action": "error", "kind": "bad_request"}], source="test"
    )
    done = cli("run", "d.jsonl", "-o", "a run")
    assert done.code == 3
    assert "sim-good@here: 4 turns failed, invalid_request: " in done.err
    assert "convbatch show 'a run' --failed" in done.err
    assert done.err.endswith("4 of 8 turns are open; finish them with:\n  convbatch resume 'a run'\n")
    sim.provider.faults = FaultScript()
    assert cli("resume", "a run").code == 0


def test_blocked_and_empty_are_results(cli: Cli, asked: Path) -> None:
    (asked / "d.jsonl").write_text(line(turns=[{"user": "how to build a bomb"}, {"user": "and then?"}]))
    done = cli("run", "d.jsonl", "-m", "sim-safety@here", "-m", "sim-empty@here", "-o", "out")
    assert done.code == 0, done.err
    assert set(statuses(cb.load("out").turns)) == {"blocked", "empty", "skipped"}


def test_a_suspended_target_is_exit_3_and_the_others_go_on(cli: Cli, asked: Path) -> None:
    done = cli("run", "d.jsonl", "-m", "no-such-model@here", "-m", "sim-good@here", "-o", "out")
    assert done.code == 3
    assert "no-such-model@here is suspended: there is no such model" in done.err
    assert "took before" not in done.err  # it never did
    assert statuses(cb.load("out").turns) == {"ok": 8, "pending": 8}


def test_every_reader_says_that_a_target_is_suspended_and_why(cli: Cli, asked: Path) -> None:
    cli("run", "d.jsonl", "-m", "no-such-model@here", "-m", "sim-good@here", "-o", "results/r")
    for command in (("table", "r"), ("table", "r", "--wide", "reply"), ("show", "r", "d00000")):
        assert "note: no-such-model@here is suspended: there is no such model" in cli(*command).err
    assert "no-such-model@here (suspended), sim-good@here" in " ".join(cli("runs").out.split())
    assert list(cb.load("results/r").suspended) == ["no-such-model@here"]


def test_a_target_that_came_back_is_suspended_no_more(cli: Cli, sim: Sim, asked: Path) -> None:
    sim.provider.faults = FaultScript.of([{"action": "error", "kind": "no_balance"}], source="test")
    assert cli("run", "d.jsonl", "-o", "out").code == 3
    assert list(cb.load("out").suspended) == ["sim-good@here"]
    sim.provider.faults = FaultScript()
    assert cli("resume", "out").code == 0
    assert cb.load("out").suspended == {}
    assert "parked" not in cli("table", "out").err


def test_what_was_skipped_behind_a_failed_turn_is_said_to_be_asked_as_well(cli: Cli, sim: Sim, asked: Path) -> None:
    rule = {"match": {"turn": 1}, "action": "error", "kind": "bad_request"}
    sim.provider.faults = FaultScript.of([rule], source="test")
    done = cli("run", "d.jsonl", "-n", "1", "-o", "out")
    assert "\n1 of 2 turns is open and 1 more skipped behind failed ones; finish them with:" in done.err
    sim.provider.faults = FaultScript()
    assert cli("resume", "out").code == 0
    assert statuses(cb.load("out").turns) == {"ok": 2}


def test_a_deadline_is_exit_3_and_loses_nothing(cli: Cli, sim: Sim, asked: Path) -> None:
    write_dataset(asked / "long.jsonl", 200, 5)
    (asked / "convbatch.toml").write_text(gateway(sim.url, rpm=600))
    done = cli("run", "long.jsonl", "-o", "out", "--deadline", "300ms")
    assert done.code == 3
    assert "deadline reached: " in done.err
    counts = statuses(cb.load("out").turns)
    assert set(counts) == {"ok", "pending"}
    assert sum(counts.values()) == 1000


@pytest.mark.slow
def test_interrupted_stands_before_a_deadline_and_incomplete(
    asked: Path, simulator: Callable[[Provider], Server], start: Start
) -> None:
    provider = Provider(latency_s=0.7)
    (asked / "convbatch.toml").write_text(gateway(simulator(provider).url))
    process = start("run", "d.jsonl", "-o", "out", "--deadline", "200ms")
    wait_until(lambda: provider.in_flight == 4)
    time.sleep(0.3)
    process.send_signal(INT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"interrupted: 4 of 8 turns are open" in err
    assert statuses(cb.load(asked / "out").turns) == {"ok": 4, "pending": 4}


def test_a_journal_that_finds_no_room_is_exit_5_and_resume_finishes(asked: Path, cli: Cli) -> None:
    write_dataset(asked / "d.jsonl", 40, 5)
    done = shell("ulimit -f 60; convbatch run d.jsonl -o out", asked)
    assert done.code == 5
    assert "out/journal/000001.jsonl: cannot write: File too large" in done.err
    assert "hint: free some space" in done.err
    assert "convbatch resume out" in done.err
    received = statuses(cb.load("out").turns)["ok"]
    assert received > 0
    assert cli("resume", "out").code == 0
    turns = cb.load("out").turns
    assert statuses(turns) == {"ok": 200}
    assert list(turns["attempts"] - 1) == list(turns["possibly_paid"])  # nothing was paid twice without saying so


def test_a_table_that_cannot_be_written_is_exit_5_and_is_printed_all_the_same(
    cli: Cli, finished_run: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished_run, tmp_path / "out")
    (out / "turns.parquet").unlink()
    (out / "turns.parquet" / "in the way").mkdir(parents=True)
    done = cli("resume", "out")
    assert done.code == 5, done.err
    assert "out/turns.parquet: cannot write: Is a directory" in done.err
    assert "the journal is complete: the next command that reads the run rebuilds the table" in done.err
    assert "sim-good@here  8" in done.out
    assert cli("table", "out").out.count("\n") == 9


def test_variables_stand_in_for_options_and_are_named_in_the_plan(cli: Cli, asked: Path) -> None:
    done = cli(
        "run", "d.jsonl", CONVBATCH_MODEL="sim-good@here,sim-drift@here", CONVBATCH_LIMIT="1", CONVBATCH_OUT="out"
    )
    assert done.code == 0
    assert "1 dialogue, 2 turns x 2 targets = 4 rows" in done.err
    assert "CONVBATCH_MODEL=sim-good@here,sim-drift@here" in done.err
    assert "CONVBATCH_RPM=6000" in cli("resume", "out", CONVBATCH_RPM="6000").err


def test_an_option_stands_before_its_variable(cli: Cli, asked: Path) -> None:
    assert "1 dialogue," in cli("run", "d.jsonl", "-n", "1", CONVBATCH_LIMIT="2").err


def test_connections_get_the_room_they_need_or_the_run_does_not_start(asked: Path) -> None:
    done = shell("ulimit -Sn 40; convbatch run d.jsonl -j 50 -o out", asked)
    assert done.code == 0, done.err
    asked_again = shell("ulimit -n 100; convbatch run d.jsonl -j 50 -o other", asked)
    assert asked_again.code == 2
    assert "need 114 open files; this process may open 100" in asked_again.err
    assert "lower -j" in asked_again.err
    assert not (asked / "other").exists()


def test_runs_begun_in_the_same_second_get_folders_of_their_own(cli: Cli, asked: Path) -> None:
    codes = [cli("run", "d.jsonl", "-n", "1", "--no-progress").code for _ in range(4)]
    assert codes == [0] * 4
    assert len(list((asked / "results").iterdir())) == 4


@pytest.mark.parametrize("rejoin", ["out", "./out/", "."])
def test_a_folder_that_was_moved_is_resumed_where_it_is(rejoin: str, cli: Cli, sim: Sim, asked: Path) -> None:
    sim.provider.faults = FaultScript.of(
        [{"match": {"turn": 2}, "action": "error", "kind": "bad_request"}], source="test"
    )
    assert cli("run", "d.jsonl", "-o", "first").code == 3
    sim.provider.faults = FaultScript()
    (asked / "elsewhere").mkdir()
    (asked / "first").rename(asked / "elsewhere" / "out")
    (asked / "d.jsonl").unlink()
    os.chdir(asked / "elsewhere" / "out" if rejoin == "." else asked / "elsewhere")
    assert cli("resume", rejoin).code == 0
    assert statuses(cb.load(rejoin).turns) == {"ok": 8}


@pytest.mark.parametrize("change", ["edited", "deleted", "a folder", "not ours to read"])
def test_resume_goes_on_with_its_copy_whatever_became_of_the_dataset(change: str, cli: Cli, asked: Path) -> None:
    assert cli("run", "d.jsonl", "-o", "out", "-p", "nonsense=1").code == 3
    source = asked / "d.jsonl"
    match change:
        case "edited":
            source.write_text(line())
        case "not ours to read":
            source.chmod(0)
        case _:
            source.unlink()
    if change == "a folder":
        source.mkdir()
    done = cli("resume", "out", "--no-retry-errors")
    assert done.code == 3
    assert ("note: d.jsonl has changed" in done.err) == (change == "edited")
    assert ("convbatch run d.jsonl --reuse out" in done.err) == (change == "edited")


def test_no_key_is_seen_anywhere(cli: Cli, sim: Sim, asked: Path) -> None:
    """The gateway refuses the key and says it; it comes as a query parameter and stands in the environment."""
    (asked / "convbatch.toml").write_text(gateway(sim.url, auth="query:key", key_env="HERE_KEY"))
    body = {"error": {"code": 400, "message": f"refused {CANARY}", "status": "INVALID_ARGUMENT"}}
    sim.provider.faults = FaultScript.of([{"action": "body", "status": 400, "text": json.dumps(body)}], source="test")
    done = cli("run", "d.jsonl", "-o", "out", HERE_KEY=CANARY)
    seen = [cli(*command) for command in (("table", "out"), ("show", "out"), ("runs",))]
    seen.append(cli("doctor", "-g", "here", "-m", "sim-good", HERE_KEY=CANARY))
    assert done.code == 3
    assert "[redacted:HERE_KEY]" in seen[0].out
    assert CANARY not in "".join(text for f in (done, *seen) for text in (f.out, f.err))
    for path in (asked / "out").rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes()
    assert not cb.load("out").turns.map(lambda cell: CANARY in str(cell)).any(axis=None)


def test_a_short_key_is_not_seen_in_messages_either(cli: Cli, sim: Sim, asked: Path) -> None:
    (asked / "convbatch.toml").write_text(gateway(sim.url, auth="bearer", key_env="HERE_KEY"))
    body = {"error": {"code": 401, "message": "no such key: sk9short7", "status": "UNAUTHENTICATED"}}
    sim.provider.faults = FaultScript.of([{"action": "body", "status": 401, "text": json.dumps(body)}], source="test")
    done = cli("run", "d.jsonl", "-o", "out", HERE_KEY="sk9short7")
    assert "sim-good@here is suspended: the key is refused (no such key: [redacted:HERE_KEY])" in done.err
    assert "sk9short7" not in "".join((done.out, done.err, cli("table", "out").out, cli("show", "out").out))
