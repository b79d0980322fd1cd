"""Limits as servers see them: whole runs with four ways of counting, in virtual time, and one over real sockets.

For each way of counting, the server's ledger must show no window above the configured limit, and nearly all of the
limit used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import convbatch as cb
from convbatch.config.gateways import Limits, RateLimit
from convbatch.engine.runner import RunRules
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.ledger import Entry
from convbatch.simulator.limits import LimitModel
from convbatch.simulator.limits import ServerLimits as ServerLimits
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import config_for, write_dataset
from tests.support.ledger_laws import max_in_any_window
from tests.support.virtual_disk import Kill
from tests.support.virtual_run import KEY, Host, Sent, VirtualRun
from tests.support.virtual_run_laws import no_request_is_sent_during_an_announced_wait, no_window_exceeds, obeys

Plain = dict[str, Any]
EVERY_MODEL: tuple[LimitModel, ...] = ("fixed", "sliding", "bucket", "quantised")
WITHOUT_SUB_WINDOWS = EVERY_MODEL[:3]
"""A gateway that counts sub-windows of a minute needs a `rate` in the configuration."""


def made(count: int, turns: int = 3, words: int = 4) -> list[Plain]:
    return [
        {"id": f"d{d}", "turns": [{"user": f"question {t} of dialogue {d} " * words} for t in range(1, turns + 1)]}
        for d in range(count)
    ]


def saturated(
    path: Path, limits: Limits, server: ServerLimits | None, dialogues: Sequence[Plain], **more: Any
) -> VirtualRun:
    """Prepare a run that always has more to send than allowed; one-way delays vary by the largest allowed jitter."""
    hidden = more.pop("hidden_system", "")
    faults = more.pop("faults", None)
    provider = Provider(keys={KEY}, limits=server, latency_s=(0.2, 2.0), faults=faults, hidden_system=hidden)
    hosts = [Host(provider, limits=limits, delay_s=0.999, attempt_timeout_s=600, **more)]
    return VirtualRun(path / "run", hosts, dialogues, rules=RunRules(concurrency=60), sync_s=0.005)


def refused(virtual_run: VirtualRun) -> int:
    return sum(entry.status == 429 for entry in virtual_run.ledger())


def mean_per_window(sent: Sequence[Sent], window_s: float = 60.0) -> float:
    """Return the average number of arrivals per window over the whole run."""
    arrivals = sorted(one.arrived_at for one in sent if one.arrived_at is not None)
    return (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]) * window_s


# -- requests


@pytest.mark.parametrize("model", WITHOUT_SUB_WINDOWS)
@pytest.mark.parametrize("rpm", [5, 20, 60, pytest.param(240, marks=pytest.mark.slow)])
def test_rpm_is_never_exceeded_and_nearly_used_up(tmp_path: Path, rpm: int, model: LimitModel):
    virtual_run = saturated(
        tmp_path, Limits(rpm=rpm), ServerLimits(rpm=rpm, model=model), made(rpm if rpm < 100 else 200)
    )
    virtual_run.finish(most=1)
    no_window_exceeds(virtual_run.sent, rpm, 60.0)
    assert refused(virtual_run) == 0
    assert mean_per_window(virtual_run.sent) >= 0.95 * rpm
    obeys(virtual_run, faultless=True)


@pytest.mark.parametrize("rpm", [60, 240])
@pytest.mark.slow
def test_configured_sub_windows_of_a_minute_are_never_exceeded(tmp_path: Path, rpm: int):
    rate = RateLimit(count=rpm // 6, window_s=10.0)
    limits = Limits(rpm=rpm, rates=(rate,))
    virtual_run = saturated(tmp_path, limits, ServerLimits(rpm=rpm, model="quantised"), made(rpm * 2 // 3))
    virtual_run.finish(most=1)
    no_window_exceeds(virtual_run.sent, rpm, 60.0)
    no_window_exceeds(virtual_run.sent, rate.count, rate.window_s)
    assert refused(virtual_run) == 0
    assert (
        mean_per_window(virtual_run.sent, 10.0) >= 0.95 * rate.count * 10 / 11
    )  # a second of jitter in each sub-window


@pytest.mark.parametrize("rpm", [20, 60])
def test_unknown_sub_windows_cost_waits_but_no_turn(tmp_path: Path, rpm: int):
    virtual_run = saturated(tmp_path, Limits(rpm=rpm), ServerLimits(rpm=rpm, model="quantised"), made(rpm))
    virtual_run.finish(most=1)
    no_window_exceeds(virtual_run.sent, rpm, 60.0)
    obeys(virtual_run)
    assert sum(entry.billed for entry in virtual_run.ledger()) == len(virtual_run.planned)


@pytest.mark.slow
def test_several_limits_hold_at_once(tmp_path: Path):
    limits = Limits(rpm=100, rates=(RateLimit(count=30, window_s=10.0), RateLimit(count=7, window_s=1.0)))
    virtual_run = saturated(tmp_path, limits, None, made(100))
    virtual_run.finish(most=1)
    for count, window_s in ((100, 60.0), (30, 10.0), (7, 1.0)):
        no_window_exceeds(virtual_run.sent, count, window_s)
    assert mean_per_window(virtual_run.sent) >= 0.95 * 100


def test_two_names_of_one_quota_owner_share_its_limit(tmp_path: Path):
    virtual_run = saturated(
        tmp_path, Limits(rpm=60), ServerLimits(rpm=60, model="fixed"), made(30), also_named=("northern",)
    )
    virtual_run.finish(most=1)
    assert {target.name for target in virtual_run.targets} == {"sim-good@north", "sim-good@northern"}
    no_window_exceeds(virtual_run.sent, 60, 60.0)
    assert refused(virtual_run) == 0
    assert mean_per_window(virtual_run.sent) >= 0.95 * 60


# -- servers with unknown limits, and the waits they announce


@pytest.mark.parametrize("model", EVERY_MODEL)
def test_an_unknown_limit_is_learned_and_every_announced_wait_is_kept(tmp_path: Path, model: LimitModel):
    virtual_run = saturated(tmp_path, Limits(), ServerLimits(rpm=40, model=model), made(40))
    virtual_run.finish(most=1)
    story = obeys(virtual_run)  # its laws include: no arrival during an announced wait
    assert refused(virtual_run) > 0
    assert any(sent.asks_to_wait_s for sent in virtual_run.sent)
    assert sum(entry.billed for entry in virtual_run.ledger()) == len(story.states)
    assert mean_per_window(virtual_run.sent) >= 0.7 * 40


@pytest.mark.parametrize("hint", ["retry-info", "retry-after", "retry-after-date", "text", "reset-headers"])
def test_many_hints_pause_the_rate_limiter_once(tmp_path: Path, hint: str):
    storm = {"match": {"after_s": 3, "before_s": 5}, "action": "rate-limit", "hint": hint, "seconds": 45}
    faults = FaultScript.of([storm])
    virtual_run = saturated(tmp_path, Limits(rpm=1200), None, made(60), faults=faults)
    virtual_run.finish(most=1)
    no_request_is_sent_during_an_announced_wait(obeys(virtual_run))
    refusals = [sent.resolved_at for sent in virtual_run.sent if sent.status == 429 and sent.resolved_at is not None]
    assert len(refusals) > 3
    sent = sorted(one.left_at for one in virtual_run.sent)
    gaps = [latter - former for former, latter in pairwise(sent) if latter - former > 5]
    assert len(gaps) == 1, "one wait, not one per 429 response"
    assert gaps[0] <= 45 + max(refusals) - min(refusals) + 2


# -- tokens and days


def max_tokens(entries: Sequence[Entry], window_s: float) -> int:
    """Return the largest number of input tokens admitted in any window."""
    admitted = [(entry.arrived_at, entry.input_tokens or 0) for entry in entries if entry.billed]
    most = begin = total = 0
    for at, tokens in admitted:
        total += tokens
        while admitted[begin][0] <= at - window_s:
            total -= admitted[begin][1]
            begin += 1
        most = max(most, total)
    return most


@pytest.mark.parametrize("model", WITHOUT_SUB_WINDOWS)
def test_tpm_is_never_exceeded_and_nearly_used_up(tmp_path: Path, model: LimitModel):
    tpm = 6_000
    virtual_run = saturated(tmp_path, Limits(tpm=tpm), ServerLimits(tpm=tpm, model=model), made(60, words=12))
    virtual_run.finish(most=1)
    entries = virtual_run.ledger()
    assert refused(virtual_run) == 0
    assert max_tokens(entries, 60.0) <= tpm
    in_blocks: Counter[int] = Counter()  # tokens are free again after a window and a second of jitter
    for entry in entries:
        in_blocks[int((entry.arrived_at - entries[0].arrived_at) // 61)] += entry.input_tokens or 0
    *full, _ = sorted(in_blocks)
    assert len(full) >= 5
    assert sum(in_blocks[block] for block in full) / len(full) >= 0.95 * tpm
    obeys(virtual_run, faultless=True)


def test_token_overhead_of_messages_is_reserved(tmp_path: Path):
    brief = [{"id": f"d{d}", "turns": [{"user": f"{d} {t}"} for t in range(6)]} for d in range(40)]
    virtual_run = saturated(tmp_path, Limits(tpm=3000), None, brief)
    virtual_run.finish(most=1)
    assert max_tokens(virtual_run.ledger(), 60.0) <= 3000


def test_hidden_tokens_are_learned_from_the_first_reply_on(tmp_path: Path):
    tpm = 20_000
    virtual_run = saturated(tmp_path, Limits(tpm=tpm), None, made(120, turns=2), hidden_system="a hidden rule " * 60)
    virtual_run.finish(most=1)
    assert max_tokens(virtual_run.ledger(), 60.0) <= 1.02 * tpm
    entries = virtual_run.ledger()
    begun = entries[0].arrived_at
    assert sum(entry.input_tokens or 0 for entry in entries if entry.arrived_at < begun + 3 * 61) >= 0.95 * 3 * tpm


@pytest.mark.parametrize(
    ("limits", "set_by_s"),
    [
        pytest.param(Limits(rpm=60), -3600.0, id="requests, back"),
        pytest.param(Limits(tpm=3000), -3600.0, id="tokens, back"),
        pytest.param(Limits(rpm=60, tpm=3000), -86_400.0 * 365, id="both, back a year"),
        pytest.param(Limits(rpm=60, tpm=3000), 3600.0, id="both, forward"),
    ],
)
def test_a_clock_set_between_sessions_costs_at_most_a_window(tmp_path: Path, limits: Limits, set_by_s: float):
    virtual_run = saturated(tmp_path, limits, None, made(40))
    virtual_run.run_session(kill=Kill(after_s=30.0))
    virtual_run.clock_off_s += set_by_s
    virtual_run.run_session(kill=Kill(after_s=65.0), gap_s=1.0)
    resumed_at, first = virtual_run.ended[1].began, min(one.left_at for one in virtual_run.sent if one.session == 2)
    assert first - resumed_at <= 61.5


def test_a_clock_set_back_does_not_lengthen_an_announced_wait(tmp_path: Path):
    faults = FaultScript.of([{"match": {"nth": 5}, "action": "rate-limit", "hint": "retry-info", "seconds": 40}])
    virtual_run = saturated(tmp_path, Limits(rpm=600), None, made(10), faults=faults)
    virtual_run.run_session(kill=Kill(after_s=10.0), gap_s=1.0)
    virtual_run.clock_off_s -= 3600.0
    virtual_run.run_session(kill=Kill(after_s=60.0), gap_s=1.0)
    first = min(one.left_at for one in virtual_run.sent if one.session == 2)
    assert first - virtual_run.ended[1].began <= 41.0


def test_rpd_is_never_exceeded_across_kills_and_resumes(tmp_path: Path):
    rpd = 40
    limits = Limits(rpd=rpd, rpm=240)
    virtual_run = saturated(tmp_path, limits, None, made(30))
    for kill in (Kill(after_s=1.5), Kill(after_s=3.0), Kill(in_write=20)):
        virtual_run.run_session(kill=kill)
    virtual_run.finish(most=1)
    days: dict[int, int] = {}
    for entry in virtual_run.ledger():
        day = int(entry.arrived_at // 86_400)
        days[day] = days.get(day, 0) + 1
    assert max(days.values()) == rpd
    assert len(days) >= 3
    obeys(virtual_run, faultless=True)


@pytest.mark.parametrize("rpm", [2, 5, 20])
def test_rpm_is_never_exceeded_across_kills_and_quick_resumes(tmp_path: Path, rpm: int):
    virtual_run = saturated(tmp_path, Limits(rpm=rpm), ServerLimits(rpm=rpm, model="sliding"), made(8))
    for kill in range(6):
        virtual_run.run_session(kill=Kill(after_s=20.0 + kill), gap_s=1.0)
    virtual_run.finish(most=1)
    no_window_exceeds(virtual_run.sent, rpm, 60.0)
    assert refused(virtual_run) == 0
    obeys(virtual_run, faultless=True)


def test_tokens_of_a_killed_session_still_count(tmp_path: Path):
    virtual_run = saturated(tmp_path, Limits(tpm=3000), ServerLimits(tpm=3000, model="sliding"), made(12))
    for _ in range(3):
        virtual_run.run_session(kill=Kill(after_s=10.0), gap_s=1.0)
    virtual_run.finish(most=1)
    assert refused(virtual_run) == 0
    assert max_tokens(virtual_run.ledger(), 60.0) <= 3000


def test_an_announced_wait_is_kept_by_the_next_session(tmp_path: Path):
    faults = FaultScript.of([{"match": {"nth": 5}, "action": "rate-limit", "hint": "retry-info", "seconds": 300}])
    virtual_run = saturated(tmp_path, Limits(rpm=600), None, made(10), faults=faults)
    virtual_run.run_session(kill=Kill(after_s=30.0), gap_s=1.0)
    virtual_run.finish(most=1)
    (resolved_at,) = [
        sent.resolved_at for sent in virtual_run.sent if sent.status == 429 and sent.resolved_at is not None
    ]
    assert not [sent for sent in virtual_run.sent if resolved_at < sent.left_at < resolved_at + 300]
    assert any(sent.left_at > resolved_at for sent in virtual_run.sent)


# -- the same over real sockets, with short windows


@pytest.mark.slow
def test_small_windows_hold_over_real_http(tmp_path: Path, simulator: Callable[[Provider], Server]):
    dataset = write_dataset(tmp_path / "d.jsonl", 8, 2)
    provider = Provider(script=Script.load(dataset), limits=ServerLimits(rpm=10, window_s=1.0, model="sliding"))
    config = tmp_path / "convbatch.toml"
    config.write_text(config_for(simulator(provider).url, rate=["10/1s"], jitter=0.25))
    run = cb.run(dataset, models="sim-good@at-gemini", config=config, out=tmp_path / "out")
    assert set(run.turns["status"]) == {"ok"}
    assert [entry.status for entry in provider.ledger.entries] == [200] * 16
    assert max_in_any_window(provider.ledger.entries, 1.0) <= 10
    times = [entry.arrived_at for entry in provider.ledger.entries]
    assert 15 / (times[-1] - times[0]) >= 0.9 * 10 / 1.25
