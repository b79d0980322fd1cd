"""Whole runs in virtual time, with whatever may go wrong drawn from a seed; a failing seed plays again exactly.

To look at one: `python -m pytest tests/test_played_runs.py -k 'seed-17'`.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from convbatch.config import Limits, Rate
from convbatch.dialogue import HistoryMode
from convbatch.gateway import AiohttpTransport, NoAnswer, Sending, Transport
from convbatch.runner import Rules
from convbatch.simulator.faults import FaultScript
from convbatch.simulator.limits import Limits as ServerLimits
from convbatch.simulator.script import Script
from convbatch.simulator.server import Server
from convbatch.simulator.virtual import run
from convbatch.simulator.world import World
from convbatch.tables import load
from tests.conftest import environment
from tests.ledger_laws import same_rows
from tests.played import KEY, Host, Kill, Played, PlayedTransport, Power, Sent
from tests.played_laws import Story, no_window_is_overfull, obeys

Plain = dict[str, Any]


def dialogues(chance: random.Random, count: int, turns: int, *, scripted: float = 0.5) -> list[Plain]:
    """Small dialogues whose every text names its dialogue and turn; a share of the replies is scripted."""
    made: list[Plain] = []
    for d in range(count):
        plain: Plain = {"id": f"d{d:03}", "turns": []}
        if chance.random() < 0.3:
            plain["system"] = f"You are number {d}."
        for t in range(1, turns + 1):
            turn: Plain = {"user": f"question {t} of dialogue {d}, 第{t}问"}
            if chance.random() < scripted:
                turn["assistant"] = f"answer {t} of dialogue {d}"
                turn["ask"] = t > 1 or chance.random() < 0.9
            plain["turns"].append(turn)
        made.append(plain)
    return made


HINTS = (
    "retry-info", "retry-after", "retry-after-ms", "retry-after-date", "text", "text-try-again", "reset-headers",
    "garbage", "past-date", "negative", "none", "per-day", "year-9999",
)  # fmt: skip

FAULTS: tuple[Callable[[random.Random], Plain], ...] = (
    lambda c: {"action": "rate-limit", "hint": c.choice(HINTS[:6]), "seconds": round(c.uniform(0.2, 90), 2)},
    lambda c: {"action": "rate-limit", "hint": c.choice(HINTS[6:10])},
    lambda c: {"action": "rate-limit", "hint": c.choice(HINTS[10:])},
    lambda c: {"action": "error", "kind": c.choice(["internal", "overloaded", "deadline"])},
    lambda c: {"action": "error", "kind": c.choice(["permission", "bad_request"])},
    lambda c: {"action": "error", "status": 503, "body": "text", "retry_after": c.choice(["7", "40", "soon"])},
    lambda c: {"action": "error", "status": c.choice([408, 502, 504, 520]), "body": "html", "billed": c.random() < 0.5},
    lambda c: {"action": "error", "status": 500, "body": c.choice(["html", "text", "empty"]), "billed": True},
    lambda c: {"action": "reset", "when": c.choice(["read", "billed", "body"])},
    lambda c: {"action": "silence", "when": c.choice(["read", "billed", "body"]), "seconds": c.choice([5.0, 900.0])},
    lambda c: {"action": "truncate", "framing": c.choice(["length", "chunked", "close"]), "bytes": c.randrange(90)},
    lambda c: {"action": "delay", "seconds": c.choice([3.0, 15.0, 40.0])},
    lambda c: {"action": "drip", "bytes": 40, "seconds": 0.5},
    lambda c: {"action": "reply", "kind": c.choice(["prompt-blocked", "output-blocked", "empty", "thoughts-only"])},
    lambda c: {"action": "reply", "kind": c.choice(["no-candidates", "malformed-call", "unknown-finish"])},
    lambda c: {"action": "broken", "kind": c.choice(["empty", "empty-object", "array", "html", "cut-json"])},
    lambda c: {"action": "broken", "kind": c.choice(["not-utf8", "text"])},
    lambda c: {"action": "redirect"},
    lambda c: {"action": "no-channel"},
)  # fmt: skip
"""What may go wrong at a server, each rule with its own share of requests and its own end."""

EVENTS: tuple[Callable[[random.Random], Plain], ...] = (
    lambda c: {"kill": Kill(after_s=10 ** c.uniform(-1, 2))},
    lambda c: {"kill": Kill(after_s=c.uniform(0, 10))},
    lambda c: {"kill": Kill(in_write=c.randint(1, 150))},
    lambda c: {"signals": [(c.uniform(0, 20), signal.SIGINT)]},
    lambda c: {"signals": [(at := c.uniform(0, 20), signal.SIGINT), (at + c.uniform(0, 2), signal.SIGINT)]},
    lambda c: {"signals": [(c.uniform(0, 20), c.choice([signal.SIGTERM, signal.SIGHUP]))]},
    lambda c: {"deadline_s": c.uniform(0.1, 20)},
    lambda c: {"cancel_after_s": c.uniform(0, 20)},
    lambda c: {},
)  # fmt: skip
"""How a sitting may end before its time."""


HISTORIES: tuple[HistoryMode, ...] = ("live", "live", "live", "script", "last")


def rules(chance: random.Random) -> list[Plain]:
    """Up to four faults, each for a share of the requests and at most some times."""
    drawn: list[Plain] = []
    for _ in range(chance.choice([0, 1, 2, 4])):
        match: Plain = {"probability": chance.choice([0.05, 0.2, 0.6]), "count": chance.choice([1, 3, 10, 40])}
        if chance.random() < 0.2:
            match["after_s"] = chance.uniform(0, 10)
        drawn.append({"match": match, **chance.choice(FAULTS)(chance)})
    return drawn


LIMITS: tuple[tuple[Limits, ServerLimits | None], ...] = (
    (Limits(), None),
    (Limits(), ServerLimits(rpm=20, model="fixed")),
    (Limits(), ServerLimits(rpm=30, model="bucket")),
    (Limits(rpm=30), ServerLimits(rpm=30, model="sliding")),
    (Limits(rates=(Rate(count=5, window_s=10.0),)), ServerLimits(rpm=30, model="quantised")),
    (Limits(rpm=120, tpm=1500, concurrency=5), None),
)


def host(chance: random.Random, name: str, wire: str, script: Script, *, faulty: bool) -> Host:
    limits, server = chance.choice(LIMITS)
    fast = chance.uniform(0.01, 0.5)
    world = World(
        seed=chance.randrange(1000),
        script=script,
        keys={KEY},
        limits=server,
        faults=FaultScript.of(rules(chance)) if faulty else None,
        latency_s=(fast, fast * chance.choice([1, 3, 10])),
        gateway=chance.random() < 0.3,
    )
    return Host(
        world,
        name=name,
        wire=wire,
        models=chance.choice([["sim-good"], ["sim-good"], ["sim-signed"], ["sim-think", "sim-good"]]),
        limits=limits,
        delay_s=chance.choice([0.01, 0.3, 0.99]),
        unreachable=chance.choice([0.0, 0.0, 0.05, 0.3]) if faulty else 0.0,
        stale=chance.choice([0.0, 0.0, 0.1]) if faulty else 0.0,
        attempt_timeout_s=20.0,
    )


def stage(path: Path, seed: int, *, faulty: bool = True) -> tuple[Played, random.Random]:
    """A run that is about to begin, everything in it drawn from the seed."""
    chance = random.Random(f"stage {seed}")
    history = chance.choice(HISTORIES)
    made = dialogues(chance, 8, 3, scripted=0.5 if history == "live" else 1.0)
    script = Script.of(made)
    wires = {"north": "gemini", "south": "openai"}
    played = Played(
        path / "run",
        [host(chance, name, wire, script, faulty=faulty) for name, wire in wires.items()],
        made,
        seed=seed,
        rules=Rules(
            history=history,
            repeats=chance.choice([1, 1, 1, 2]),
            concurrency=chance.choice([None, 2, 8]),
            max_attempts=chance.choice([5, 5, 2]),
        ),
        sync_s=chance.choice([0.0, 0.01, 0.2]),
    )
    return played, chance


def disturbed(path: Path, seed: int) -> Played:
    """A run with faults and up to five interruptions, then in peace to its end."""
    played, chance = stage(path, seed)
    for _ in range(chance.randrange(6)):
        played.sit(gap_s=chance.uniform(2, 60), **chance.choice(EVENTS)(chance))
    for one in played.hosts:
        one.world.faults = FaultScript()
        one.unreachable = one.stale = 0.0
    played.finish()
    return played


def hold_limits(played: Played) -> None:
    """The request limits each client was told, at its server."""
    for target in played.targets:
        limits = target.gateway.limits
        sent = [s for s in played.sent if s.host == target.gateway.name and s.entry and s.entry.model == target.model]
        for count, window_s in [(limits.rpm, 60.0), *((rate.count, rate.window_s) for rate in limits.rates)]:
            if count is not None:
                no_window_is_overfull(sent, count, window_s)


@pytest.mark.parametrize("seed", range(30), ids=lambda seed: f"seed-{seed}")
def test_a_run_obeys_all_laws_whatever_happens_to_it(tmp_path: Path, seed: int):
    played = disturbed(tmp_path, seed)
    obeys(played)
    hold_limits(played)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30, 230), ids=lambda seed: f"seed-{seed}")
def test_two_hundred_more_runs_obey_all_laws(tmp_path: Path, seed: int):
    played = disturbed(tmp_path, seed)
    obeys(played)
    hold_limits(played)


@pytest.mark.parametrize("seed", range(6), ids=lambda seed: f"seed-{seed}")
def test_an_interrupted_run_ends_as_an_undisturbed_one(tmp_path: Path, seed: int):
    (tmp_path / "calm").mkdir()
    calm, _ = stage(tmp_path / "calm", seed, faulty=False)
    calm.finish(most=1)
    expected = obeys(calm, faultless=True)
    played, chance = stage(tmp_path, seed, faulty=False)
    for _ in range(4):
        played.sit(gap_s=chance.uniform(2, 60), **chance.choice(EVENTS)(chance))
    played.finish()
    assert obeys(played, faultless=True).ending_rows() == expected.ending_rows()


def test_the_table_of_an_interrupted_run_is_that_of_an_undisturbed_one(tmp_path: Path):
    (tmp_path / "calm").mkdir()
    calm, _ = stage(tmp_path / "calm", 1, faulty=False)
    calm.finish(most=1)
    played, _ = stage(tmp_path, 1, faulty=False)
    # The third sits out the minute whose tokens the second had used.
    for kill in (Kill(after_s=1.0), Kill(in_write=20), Kill(after_s=70.0)):
        played.sit(kill=kill)
    played.finish()
    assert all(sat.killed and sat.in_flight for sat in played.sat[:3])
    same_rows(load(calm.path).turns, load(played.path).turns)


@pytest.mark.parametrize("write", range(1, 14))
def test_a_kill_within_any_write_loses_nothing_that_was_acknowledged(tmp_path: Path, write: int):
    made = dialogues(random.Random(1), 2, 2)
    for seed in range(4):  # each tears the write at another place
        world = World(script=Script.of(made), keys={KEY}, latency_s=(0.1, 0.4))
        played = Played(tmp_path / f"{seed}" / "run", [Host(world)], made, seed=seed)
        played.sit(kill=Kill(in_write=write))
        assert played.sat[0].killed == (write <= 12)  # a whole run is that many writes
        played.finish()
        story = obeys(played, faultless=True)
        assert set(story.states.values()) <= {"ok", "replied"}


@pytest.mark.parametrize("write", range(2, 8))
def test_no_turn_stays_skipped_behind_one_that_was_mended_before_a_kill(tmp_path: Path, write: int):
    made = dialogues(random.Random(1), 1, 3)
    refusal = {"match": {"count": 1}, "action": "error", "kind": "bad_request"}
    world = World(script=Script.of(made), keys={KEY}, faults=FaultScript.of([refusal]))
    played = Played(tmp_path / "run", [Host(world)], made, seed=write)
    played.sit()
    assert list(Story(played).states.values()) == ["error", "skipped", "skipped"]
    played.sit(kill=Kill(in_write=write))
    assert played.sat[1].killed
    played.finish()
    assert set(obeys(played).states.values()) <= {"ok", "replied"}


def digest(played: Played) -> str:
    """Of the journal's bytes, of all ledgers, and of when everything was sent and heard."""
    journal = b"".join(path.read_bytes() for path in sorted((played.path / "journal").glob("*.jsonl")))
    return hashlib.sha256(journal + repr((played.sent, played.ledger())).encode()).hexdigest()


def test_a_seed_plays_again_exactly_in_any_process(tmp_path: Path):
    seed = 19  # one with a kill, a signal and cancelled sittings
    program = (
        "import sys; from pathlib import Path; from tests.test_played_runs import digest, disturbed;"
        f"print(digest(disturbed(Path(sys.argv[1]), {seed})))"
    )
    (tmp_path / "other").mkdir()
    other = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "other"],
        env=environment(PYTHONHASHSEED="7"),
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        check=True,
    )
    assert digest(disturbed(tmp_path, seed)) == other.stdout.decode().strip()


# -- the harness itself: its network tells the client what real sockets would


QUESTION = b'{"contents":[{"role":"user","parts":[{"text":"hello"}]}]}'

TOLD_ALIKE: dict[str, Plain] = {
    "whole": {"action": "delay", "seconds": 0.01},
    "429": {"action": "rate-limit", "hint": "retry-info"},
    "html": {"action": "error", "kind": "bad_gateway", "body": "html"},
    "empty": {"action": "error", "body": "empty"},
    "redirect": {"action": "redirect"},
    "reset on arrival": {"action": "reset", "when": "arrival"},
    "reset when read": {"action": "reset", "when": "read"},
    "reset when billed": {"action": "reset", "when": "billed"},
    "reset in the body": {"action": "reset", "when": "body"},
    "silence": {"action": "silence", "when": "billed"},
    "silence in the body": {"action": "silence", "when": "body"},
    "closed after silence": {"action": "silence", "when": "read", "seconds": 0.05},
    "cut length": {"action": "truncate", "framing": "length"},
    "cut chunks": {"action": "truncate", "framing": "chunked"},
    "cut close": {"action": "truncate", "framing": "close"},
    "cut at 0": {"action": "truncate", "framing": "close", "bytes": 0},
    "drip": {"action": "drip", "bytes": 200, "seconds": 0.01},
    "too late": {"action": "delay", "seconds": 9.0},
    "closed when idle for long": {"action": "close-after", "seconds": 9.0},
    "refused": {"action": "refuse", "seconds": 9.0},
    "endless headers": {"action": "endless-headers"},
    "broken": {"action": "broken", "kind": "cut-json"},
}


def world_with(rule: Plain) -> World:
    return World(faults=FaultScript.of([{"match": {"count": 1}, **rule}]), keys={KEY})


async def told(transport: Transport, base: str) -> list[Any]:
    """What a client is told of two questions in a row."""
    heard: list[Any] = []
    url = f"{base}/v1beta/models/sim-echo:generateContent"
    headers = {"content-type": "application/json", "x-goog-api-key": KEY}
    for _ in range(2):
        sending = Sending(method="POST", url=url, headers=headers, body=QUESTION, timeout_s=0.3)
        try:
            answer = await transport.send(sending)
        except NoAnswer as gone:
            heard.append((gone.kind, gone.sent, gone.own_timeout, gone.certificate, gone.status))
        else:
            heard.append((answer.status, answer.body))
    return heard


@pytest.mark.parametrize("rule", TOLD_ALIKE.values(), ids=TOLD_ALIKE)
async def test_the_played_network_tells_the_same_as_real_sockets(rule: Plain):
    async with Server(world_with(rule)) as server:
        real = AiohttpTransport()
        over_sockets = await told(real, server.url)
        await real.close()
    log: list[Sent] = []

    async def play() -> list[Any]:
        loop = asyncio.get_running_loop()
        played = Host(world_with(rule), delay_s=0.01)
        return await told(PlayedTransport(played, Power(loop), random.Random(1), 1, log), "https://north.test")

    with ThreadPoolExecutor(1) as aside:  # a loop of its own, in a thread of its own
        assert await asyncio.wrap_future(aside.submit(run, play())) == over_sockets
    assert [sent.status for sent in log] == [told[0] if isinstance(told[0], int) else None for told in over_sockets]
