"""Runs drawn from a seed: dialogues, targets, faults of servers, network, disk and clocks, and the laws to check.

Each run has 20 dialogues of 3 turns at two gateways; the same seed repeats exactly. Of ten seeds six have faults of all
kinds (one of them servers that misreport usage), three are only interrupted and must end like an undisturbed run, and
one has a healthy target beside a dead and a slow one, which must not slow it down.
"""

from __future__ import annotations

import errno
import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbatch.config.gateways import Limits, RateLimit
from convbatch.dialogue import HistoryMode
from convbatch.engine.runner import RunRules
from convbatch.errors import JournalDamaged
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.gateways import GatewayName
from convbatch.simulator.limits import ServerLimits as ServerLimits
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from tests.support.virtual_disk import Call, Kill, Trouble
from tests.support.virtual_run import KEY, Host, Shift, VirtualRun
from tests.support.virtual_run_laws import Story, obeys

Plain = dict[str, Any]
DIALOGUES, TURNS = 20, 3


def dialogues(chance: random.Random, count: int, turns: int, *, scripted: float = 0.5) -> list[Plain]:
    """Return small dialogues whose texts name their dialogue and turn; a share of the replies is scripted."""
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


# -- faults of a server

HINTS = (
    "retry-info", "retry-after", "retry-after-ms", "retry-after-date", "text", "text-try-again", "reset-headers",
    "garbage", "past-date", "negative", "none", "per-day", "year-9999",
)  # fmt: skip

ODD_BODIES = (
    "NaN", '{"candidates":NaN}', '{"candidates":' + "[" * 1_000_000, '"\\ud800"', "null", "0", "\x00", "{}{}",
)  # fmt: skip

FAULTS: tuple[Callable[[random.Random], Plain], ...] = (
    lambda c: {"action": "rate-limit", "hint": c.choice(HINTS[:6]), "seconds": round(c.uniform(0.2, 90), 2)},
    lambda c: {"action": "rate-limit", "hint": c.choice(HINTS[6:10])},
    lambda c: {"action": "rate-limit", "hint": c.choice(HINTS[10:])},
    lambda c: {"action": "error", "kind": c.choice(["internal", "overloaded", "deadline"])},
    lambda c: {"action": "error", "kind": c.choice(["permission", "bad_request"])},
    lambda c: {"action": "error", "kind": c.choice(["bad_key", "no_model", "no_balance"])},
    lambda c: {"action": "error", "status": 503, "body": "text", "retry_after": c.choice(["7", "40", "soon"])},
    lambda c: {"action": "error", "status": c.choice([408, 502, 504, 520]), "body": "html", "billed": c.random() < 0.5},
    lambda c: {"action": "error", "status": 500, "body": c.choice(["html", "text", "empty"]), "billed": True},
    lambda c: {"action": "reset", "when": c.choice(["arrival", "read", "billed", "body"])},
    lambda c: {"action": "silence", "when": c.choice(["read", "billed", "body"]), "seconds": c.choice([5.0, 900.0])},
    lambda c: {"action": "truncate", "framing": c.choice(["length", "chunked", "close"]), "bytes": c.randrange(400)},
    lambda c: {"action": "delay", "seconds": c.choice([3.0, 15.0, 40.0])},
    lambda c: {"action": "drip", "bytes": c.choice([8, 40]), "seconds": c.choice([0.5, 1.0])},
    lambda c: {"action": "close-after", "seconds": c.uniform(0, 2)},
    lambda c: {"action": "reply", "kind": c.choice(["prompt-blocked", "output-blocked", "empty", "thoughts-only"])},
    lambda c: {"action": "reply", "kind": c.choice(["no-candidates", "malformed-call", "unknown-finish", "length"])},
    lambda c: {"action": "broken", "kind": c.choice(["empty", "empty-object", "array", "html", "cut-json"])},
    lambda c: {"action": "broken", "kind": c.choice(["not-utf8", "text", "twice", "surrogates"])},
    lambda c: {"action": "body", "text": c.choice(ODD_BODIES)},
    lambda c: {"action": "redirect"},
    lambda c: {"action": "no-channel"},
    lambda c: {"action": "endless-headers"},
    lambda c: {"action": c.choice(["endless-body", "gzip-bomb"])},
    lambda c: {"action": "refuse", "seconds": c.uniform(1, 40)},
)  # fmt: skip
"""Each rule gets its own share of requests and its own count."""

USAGE_FAULTS: tuple[Callable[[random.Random], Plain], ...] = (
    lambda c: {"action": "usage", "kind": c.choice(["missing", "partial", "negative", "huge"])},
    lambda c: {"action": "usage", "kind": c.choice(["zero", "text", "nan", "inconsistent"])},
    lambda c: {"action": "broken", "kind": "error-object"},
)  # fmt: skip
"""After these faults the real usage and bill are unknown to the client."""


def rules(chance: random.Random, *, false_usage: bool = False) -> list[Plain]:
    """Draw up to four faults, each for a share of the requests and a limited number of times."""
    drawn: list[Plain] = []
    if false_usage:
        drawn.append({"match": {"probability": 0.2}, **chance.choice(USAGE_FAULTS)(chance)})
    for _ in range(chance.choice([0, 1, 2, 4])):
        match: Plain = {"probability": chance.choice([0.05, 0.2, 0.6]), "count": chance.choice([1, 3, 10, 40])}
        if chance.random() < 0.2:
            match["after_s"] = chance.uniform(0, 10)
        rule = chance.choice(FAULTS)(chance)
        if rule["action"] in {"endless-body", "gzip-bomb"}:
            match["count"] = 1  # 64 MiB take long
        if rule["action"] == "refuse" or rule.get("when") == "arrival":
            match = {"every": chance.randint(5, 40), "count": match["count"]}
        if rule.get("kind") in {"surrogates", "length"}:
            # Only in the last turn: strict servers always reject a history with lone surrogates, or with a text that
            # was cut after it was signed.
            match["turn"] = TURNS
        drawn.append({"match": match, **rule})
    return drawn


LIMITS: tuple[tuple[Limits, ServerLimits | None], ...] = (
    (Limits(), None),
    (Limits(), ServerLimits(rpm=60, model="fixed")),
    (Limits(), ServerLimits(rpm=90, model="bucket")),
    (Limits(rpm=60), ServerLimits(rpm=60, model="sliding")),
    (Limits(rates=(RateLimit(count=15, window_s=10.0),)), ServerLimits(rpm=90, model="quantised")),
    (Limits(rpm=240, tpm=3000, concurrency=5), None),
)

UNREACHABLE_REASONS = ("refused", "refused", "dns", "connect timeout", "no tls")


def gateway_of(share: float) -> GatewayName | None:
    """Return what stands in front of a provider, for a number in [0, 1): in seven of ten runs nothing."""
    if share >= 0.3:
        return None
    return "new-api" if share < 0.15 else "litellm"


def host(
    chance: random.Random,
    name: str,
    wire: str,
    script: Script,
    *,
    faulty: bool,
    false_usage: bool = False,
    least_s: float = 0.01,
) -> Host:
    """Return a gateway with its provider."""
    limits, server = chance.choice(LIMITS)
    fast = chance.uniform(least_s, 0.5)
    provider = Provider(
        seed=chance.randrange(1000),
        script=script,
        keys={KEY},
        limits=server,
        faults=FaultScript.of(rules(chance, false_usage=false_usage)) if faulty else None,
        latency_s=(fast, fast * chance.choice([1, 3, 10])),
        gateway=gateway_of(chance.random()),
    )
    return Host(
        provider,
        name=name,
        wire=wire,
        models=chance.choice([["sim-good"], ["sim-good"], ["sim-signed"], ["sim-think"]]),
        limits=limits,
        delay_s=chance.choice([0.01, 0.3, 0.99]),
        unreachable=chance.choice([0.0, 0.0, 0.05, 0.3]) if faulty else 0.0,
        why=chance.choice(UNREACHABLE_REASONS),
        stale=chance.choice([0.0, 0.0, 0.1]) if faulty else 0.0,
        attempt_timeout_s=20.0,
    )


def misreports_usage(seed: int) -> bool:
    """Return whether the servers of this seed misreport usage and bills; the laws about them do not apply then."""
    return seed % 10 == 5


def prepare(path: Path, seed: int, *, faulty: bool = True) -> tuple[VirtualRun, random.Random]:
    """Prepare a run with everything drawn from the seed."""
    chance = random.Random(f"stage {seed}")
    history = chance.choice(HISTORIES)
    made = dialogues(chance, DIALOGUES, TURNS, scripted=0.5 if history == "live" else 1.0)
    script = Script.of(made)
    wires = {"north": "gemini", "south": "openai"}
    virtual_run = VirtualRun(
        path / "run",
        [
            host(chance, name, wire, script, faulty=faulty, false_usage=misreports_usage(seed))
            for name, wire in wires.items()
        ],
        made,
        seed=seed,
        rules=RunRules(
            history=history,
            repeats=chance.choice([1, 1, 1, 1, 2]),
            concurrency=chance.choice([None, 2, 8]),
            max_attempts=chance.choice([5, 5, 2]),
        ),
        sync_s=chance.choice([0.0, 0.01, 0.2]),
    )
    return virtual_run, chance


HISTORIES: tuple[HistoryMode, ...] = ("live", "live", "live", "script", "last")

# -- interruptions and disasters of a session


def _signals(*at: tuple[float, signal.Signals]) -> Plain:
    return {"signals": list(at)}


EVENTS: tuple[Callable[[random.Random], Plain], ...] = (
    lambda c: {"kill": Kill(after_s=10 ** c.uniform(-1, 2))},
    lambda c: {"kill": Kill(after_s=c.uniform(0, 10))},
    lambda c: {"kill": Kill(in_write=c.randint(1, 300))},
    lambda c: {"kill": Kill(in_call=c.randint(1, 400))},
    lambda c: {"kill": Kill(in_call=c.randint(1, 15))},  # while it opens the folder
    lambda c: _signals((c.uniform(0, 20), signal.SIGINT)),
    lambda c: _signals((at := c.uniform(0, 20), signal.SIGINT), (at + c.uniform(0, 2), signal.SIGINT)),
    lambda c: _signals((c.uniform(0, 20), c.choice([signal.SIGTERM, signal.SIGHUP]))),
    lambda c: {"deadline_s": c.uniform(0.1, 20)},
    lambda c: {"cancel_after_s": c.uniform(0, 20)},
    lambda c: {"short": 0.3},
    lambda c: {},
)  # fmt: skip

CALLS: tuple[Call, ...] = ("open", "write", "write", "sync", "replace", "sync_folder")
CODES = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISASTERS: tuple[Callable[[random.Random], Plain], ...] = (
    lambda c: {"kill": Kill(after_s=10 ** c.uniform(-1, 2), power=True)},
    lambda c: {"kill": Kill(in_call=c.randint(1, 400), power=True)},
    lambda c: {"kill": Kill(in_call=c.randint(1, 15), power=True)},
    lambda c: {"trouble": Trouble(call=c.choice(CALLS), nth=c.randint(1, 60), code=c.choice(CODES), lasting=False)},
    lambda c: {"trouble": Trouble(call=c.choice(CALLS), nth=c.randint(1, 60), code=c.choice(CODES))},
    lambda c: {"room": c.randint(0, 60_000), "short": 0.1},
    lambda c: {"shifts": [Shift(c.uniform(0, 20), c.choice(["jump", "nap", "stop"]), c.choice([60, 3600, 9 * 3600]))]},
    lambda c: {"shifts": [Shift(c.uniform(0, 20), "jump", c.choice([-10, -3600, -86_400]))]},
)  # fmt: skip


def run_session_with(virtual_run: VirtualRun, chance: random.Random, event: Plain) -> None:
    """Run a session; with --salvage if a power cut damaged the journal."""
    gap_s = chance.uniform(2, 60)
    try:
        virtual_run.run_session(gap_s=gap_s, **event)
    except JournalDamaged:
        assert any(ended.power_cut for ended in virtual_run.ended), "the journal is damaged without a power cut"
        virtual_run.run_session(gap_s=gap_s, salvage=True)


def finish(virtual_run: VirtualRun) -> None:
    """Finish the run without further faults."""
    for one in virtual_run.hosts:
        one.provider.faults = FaultScript()
        one.unreachable = one.stale = 0.0
    run_session_with(virtual_run, random.Random(0), {})
    virtual_run.finish()


def disturbed(path: Path, seed: int) -> VirtualRun:
    """Run with faults and up to five interruptions or disasters, then finish without faults."""
    virtual_run, chance = prepare(path, seed)
    for _ in range(chance.randrange(6)):
        run_session_with(virtual_run, chance, chance.choice([*EVENTS, *DISASTERS])(chance))
    finish(virtual_run)
    return virtual_run


def interrupted(path: Path, seed: int, times: int = 4) -> VirtualRun:
    """Run with faultless servers and several interruptions."""
    virtual_run, chance = prepare(path, seed, faulty=False)
    for _ in range(times):
        virtual_run.run_session(gap_s=chance.uniform(2, 60), **chance.choice(EVENTS)(chance))
    virtual_run.finish()
    return virtual_run


# -- laws


@dataclass(frozen=True, slots=True)
class SeedResult:
    """Result of a seed that broke no law."""

    virtual_runs: Sequence[VirtualRun]

    @property
    def requests(self) -> int:
        """Return the number of requests sent."""
        return sum(len(virtual_run.sent) for virtual_run in self.virtual_runs)

    @property
    def sessions(self) -> int:
        """Return the number of sessions, killed ones included."""
        return sum(len(virtual_run.ended) for virtual_run in self.virtual_runs)

    @property
    def turns(self) -> int:
        """Return the number of rows of all tables."""
        return sum(len(virtual_run.planned) for virtual_run in self.virtual_runs)


def check_seed(path: Path, seed: int) -> SeedResult:
    """Run a seed and check every law.

    Raises:
        AssertionError: A law is broken.
    """
    match seed % 10:
        case 0:
            return SeedResult(check_healthy_target(path, seed))
        case 1 | 4 | 7:
            return SeedResult(check_interrupted_run(path, seed))
        case _:
            virtual_run = disturbed(path, seed)
            obeys(virtual_run, honest_usage=not misreports_usage(seed), honest_bills=not misreports_usage(seed))
            return SeedResult([virtual_run])


def calm_run(path: Path, seed: int) -> tuple[VirtualRun, Story]:
    """Run the seed undisturbed."""
    (path / "calm").mkdir()
    calm, _ = prepare(path / "calm", seed, faulty=False)
    calm.finish(most=1)
    return calm, obeys(calm, faultless=True)


def check_interrupted_run(path: Path, seed: int) -> list[VirtualRun]:
    """Check the law: an interrupted run ends like an undisturbed one, for any number of interruptions."""
    calm, expected = calm_run(path, seed)
    virtual_run = interrupted(path, seed, times=1 + seed % 7)
    found = obeys(virtual_run, faultless=True)
    assert found.ending_rows() == expected.ending_rows(), "the interrupted run ended differently"
    return [calm, virtual_run]


def check_healthy_target(path: Path, seed: int) -> list[VirtualRun]:
    """Check the law: beside a dead and a slow target a healthy one takes at most 5 % longer than alone."""
    alone, beside = (_healthy(path / name, seed, troubled=name == "beside") for name in ("alone", "beside"))
    times = [max(sent.resolved_at or 0.0 for sent in each.sent if sent.host == "north") for each in (alone, beside)]
    assert times[1] <= 1.05 * times[0], f"alone {times[0]} s, beside a dead and a slow target {times[1]} s"
    return [alone, beside]


def _healthy(path: Path, seed: int, *, troubled: bool) -> VirtualRun:
    path.mkdir()
    chance = random.Random(f"healthy {seed}")
    made = dialogues(chance, DIALOGUES, TURNS)
    script = Script.of(made)
    healthy = host(chance, "north", "gemini", script, faulty=False, least_s=0.2)
    # Answer times depend only on the histories; network delays would be drawn differently in the two runs.
    healthy.delay_s = 0.01
    slow = Provider(keys={KEY}, latency_s=chance.choice([5.0, 15.0]))
    dead = Provider(keys={KEY}, faults=FaultScript.of([{"action": chance.choice(["error", "reset", "silence"])}]))
    others = [
        Host(slow, name="south", wire="openai", attempt_timeout_s=20.0),
        Host(dead, name="east", unreachable=chance.choice([0.0, 1.0]), attempt_timeout_s=20.0),
    ]
    virtual_run = VirtualRun(
        path / "run", [healthy, *(others if troubled else [])], made, seed=seed, rules=RunRules(concurrency=8)
    )
    virtual_run.run_session(deadline_s=3600)
    story = obeys(virtual_run, finished=False)
    mine = [row for row in virtual_run.planned if row[1] == healthy.targets[0].name]
    assert all(story.states.get(row) in {"ok", "replied"} for row in mine), "the healthy target did not finish"
    return virtual_run
