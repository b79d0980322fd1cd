"""Runs on worker processes: the same tables as in one process, and every law of money when workers are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import convbatch as cb
from convbatch.session.options import ResumeOptions, RunOptions
from convbatch.session.prepare import prepare_resume, prepare_run
from convbatch.session.session import run_session_async
from convbatch.session.spec import SessionResult, SessionSpec
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import config_for, write_dataset
from tests.support.ledger_laws import check_bills, check_histories, max_in_any_window, same_rows, statuses
from tests.support.process_crew import ProcessCrew

Simulators = Callable[[Provider], Server]


def prepared(
    folder: Path, server: Server, *, out: str = "out", dialogues: int = 12, turns: int = 3, **more: Any
) -> SessionSpec:
    """Prepare a run of `sim-good`."""
    config = folder / "convbatch.toml"
    config.write_text(config_for(server.url))
    options = RunOptions(
        datasets=(more.pop("dataset", None) or write_dataset(folder / "d.jsonl", dialogues, turns),),
        models=more.pop("models", ("sim-good@at-gemini",)),
        config=config,
        out=(folder / out,),
        progress=False,
        **more,
    )
    return prepare_run(options, handle_signals=False, notes=False)


def resumed(folder: Path, out: str = "out") -> SessionSpec:
    """Prepare a resume."""
    spec = prepare_resume(ResumeOptions(run=str(folder / out), progress=False), handle_signals=False)
    return replace(spec, notes=False)


Meanwhile = Callable[[ProcessCrew], Awaitable[None]]


def run_on(
    spec: SessionSpec, workers: int, meanwhile: Meanwhile | None = None, *, elsewhere: Path | None = None
) -> SessionResult:
    """Run a session on worker processes, and something else at the same time."""

    async def session() -> SessionResult:
        crew = ProcessCrew(workers, elsewhere=elsewhere)
        other = None if meanwhile is None else asyncio.create_task(meanwhile(crew))  # pyright: ignore[reportArgumentType]
        try:
            return await run_session_async(spec, crew=crew)
        finally:
            if other is not None:
                other.cancel()
                await asyncio.gather(other, return_exceptions=True)

    return asyncio.run(session())


async def until(claim: Callable[[], bool]) -> None:
    while not claim():  # noqa: ASYNC110  # the ledger is another thread's
        await asyncio.sleep(0.01)


def turns_of(folder: Path, out: str = "out") -> Any:
    return cb.load(folder / out).turns


def test_two_workers_give_the_table_of_one_process(tmp_path: Path, simulator: Simulators):
    provider = Provider()
    server = simulator(provider)
    result = run_on(prepared(tmp_path, server), 2)
    assert (result.exit_code, result.open_turns, result.bugs) == (0, 0, ())
    assert check_histories(provider.ledger.entries) == provider.ledger.billed == 36
    assert asyncio.run(run_session_async(prepared(tmp_path, server, out="alone"))).exit_code == 0
    same_rows(turns_of(tmp_path), turns_of(tmp_path, "alone"))
    assert not (tmp_path / "out" / "spool").exists()


def test_a_killed_worker_is_replaced_and_nothing_received_is_lost(tmp_path: Path, simulator: Simulators):
    provider = Provider(latency_s=0.05)

    async def kill(crew: ProcessCrew) -> None:
        await until(lambda: len(crew.workers) == 2 and provider.ledger.billed >= 20)
        crew.workers[0].process.kill()

    result = run_on(prepared(tmp_path, simulator(provider), dialogues=20), 2, kill)
    assert (result.exit_code, result.open_turns, result.bugs) == (0, 0, ())
    turns = turns_of(tmp_path)
    assert statuses(turns)["ok"] == 60
    check_histories(provider.ledger.entries)
    check_bills(provider.ledger.entries, turns)


@pytest.mark.slow
def test_a_worker_that_cannot_be_reached_for_a_while_goes_on(tmp_path: Path, simulator: Simulators):
    provider = Provider(latency_s=0.05)

    async def cut_off(crew: ProcessCrew) -> None:
        await until(lambda: len(crew.workers) == 2 and provider.ledger.billed >= 20)
        crew.workers[0].unreachable = True
        await asyncio.sleep(1.2)
        crew.workers[0].unreachable = False

    result = run_on(prepared(tmp_path, simulator(provider), dialogues=20), 2, cut_off)
    assert (result.exit_code, result.open_turns, result.bugs) == (0, 0, ())
    turns = turns_of(tmp_path)
    assert provider.ledger.billed == 60 == statuses(turns)["ok"]
    assert int(turns["possibly_paid"].sum()) == 0


@pytest.mark.slow
def test_one_rate_is_kept_by_all_workers(tmp_path: Path, simulator: Simulators):
    provider = Provider()
    spec = prepared(tmp_path, simulator(provider), dialogues=10)
    limits = replace(spec.targets[0].gateway.limits, rpm=600, jitter_s=1.0)
    gateway = replace(spec.targets[0].gateway, limits=limits)
    spec = replace(spec, targets=(replace(spec.targets[0], gateway=gateway),))
    result = run_on(spec, 2)
    assert result.exit_code == 0
    times = sorted(entry.arrived_at for entry in provider.ledger.entries)
    assert max_in_any_window(provider.ledger.entries, 1.0) <= 12
    assert (len(times) - 1) / (times[-1] - times[0]) > 0.9 * 600 / 61


@pytest.mark.slow
def test_a_target_that_refuses_its_key_is_suspended_once_for_all_workers(tmp_path: Path, simulator: Simulators):
    provider = Provider(faults=FaultScript.of([{"action": "error", "kind": "bad_key"}]))
    result = run_on(prepared(tmp_path, simulator(provider)), 2)
    assert result.exit_code == 3
    assert list(result.suspended) == ["sim-good@at-gemini"]
    assert provider.ledger.billed == 0
    assert statuses(turns_of(tmp_path))["pending"] == 36


@pytest.mark.slow
def test_resume_with_workers_and_without_asks_only_what_is_open(tmp_path: Path, simulator: Simulators):
    provider = Provider(latency_s=0.1)
    server = simulator(provider)
    first = run_on(replace_rules(prepared(tmp_path, server, dialogues=40), deadline_s=0.3), 2)
    assert first.exit_code == 3
    assert 0 < first.open_turns < 120
    second = run_on(replace_rules(resumed(tmp_path), deadline_s=0.3), 3)
    assert second.open_turns < first.open_turns
    assert asyncio.run(run_session_async(resumed(tmp_path))).exit_code == 0
    turns = turns_of(tmp_path)
    assert statuses(turns)["ok"] == 120 == provider.ledger.billed
    check_bills(provider.ledger.entries, turns)


def replace_rules(spec: SessionSpec, **rules: Any) -> SessionSpec:
    return replace(spec, rules=replace(spec.rules, **rules))


@pytest.mark.slow
def test_four_workers_use_a_rate_and_never_more(tmp_path: Path, simulator: Simulators):
    def limited(name: str) -> tuple[Provider, SessionSpec]:
        provider = Provider(latency_s=0.2)
        spec = prepared(tmp_path, simulator(provider), dialogues=900, turns=1, out=name)
        gateway = replace(spec.targets[0].gateway, limits=replace(spec.targets[0].gateway.limits, rpm=600))
        return provider, replace(spec, targets=(replace(spec.targets[0], gateway=gateway),))

    def per_minute(provider: Provider) -> float:
        times = sorted(entry.arrived_at for entry in provider.ledger.entries)
        return (len(times) - 1) / (times[-1] - times[0]) * 60

    (of_four, four), (of_one, one) = limited("four"), limited("one")
    with ThreadPoolExecutor(1) as thread:  # on a busy machine, one process does not use all of the rate either
        alone = thread.submit(asyncio.run, run_session_async(one))
        assert run_on(four, 4).exit_code == 0
        assert alone.result().exit_code == 0
    assert max_in_any_window(of_four.ledger.entries, 60.0) <= 600
    assert per_minute(of_four) >= min(0.97 * 600, 0.98 * per_minute(of_one))


@pytest.mark.parametrize("workers", [1, 2])
def test_records_are_those_of_one_process(tmp_path: Path, simulator: Simulators, workers: int):
    run_on(prepared(tmp_path, simulator(Provider()), dialogues=3, turns=2), workers)
    lines = (tmp_path / "out" / "journal" / "000001.jsonl").read_bytes().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["seq"] for record in records] == list(range(len(records)))
    kinds = [record["kind"] for record in records]
    assert kinds[0] == "run"
    assert kinds[-1] == "stop"
    assert sorted(kinds[1:-1]) == ["intent"] * 6 + ["outcome"] * 6 + ["turn"] * 6


@pytest.mark.slow
def test_a_budget_is_kept_by_all_workers(tmp_path: Path, simulator: Simulators):
    provider = Provider(latency_s=0.02)
    config = tmp_path / "convbatch.toml"
    prices = '[prices.at-gemini.sim-good]\ncurrency = "USD"\ninput = 1000\noutput = 1000\n'
    options = RunOptions(
        datasets=(write_dataset(tmp_path / "d.jsonl", 30, 3),),
        models=("sim-good@at-gemini",),
        config=config,
        out=(tmp_path / "out",),
        progress=False,
        max_cost="3USD",
        max_output_tokens=50,
    )
    config.write_text(config_for(simulator(provider).url, models=prices))
    result = run_on(prepare_run(options, handle_signals=False, notes=False), 2)
    assert result.exit_code == 4, result
    billed: list[Any] = [entry for entry in provider.ledger.entries if entry.billed]
    paid = sum(entry.input_tokens + entry.output_tokens for entry in billed)
    assert 1.5 < paid * 1000 / 1e6 <= 3
    turns = turns_of(tmp_path)
    assert statuses(turns)["ok"] == provider.ledger.billed
    assert int(turns["possibly_paid"].sum()) == 0


@pytest.mark.slow
def test_caps_on_tokens_and_requests_are_kept_by_all_workers(tmp_path: Path, simulator: Simulators):
    provider = Provider(latency_s=0.02)
    server = simulator(provider)
    result = run_on(prepared(tmp_path, server, dialogues=30, max_requests="40"), 2)
    assert (result.exit_code, len(provider.ledger.entries)) == (4, 40), result
    result = run_on(resumed(tmp_path), 2)
    assert (result.exit_code, len(provider.ledger.entries)) == (4, 40), result
    more: dict[str, Any] = {"max_tokens_total": "4k", "max_output_tokens": 50}
    result = run_on(prepared(tmp_path, server, out="tokens", dialogues=30, **more), 2)
    assert result.exit_code == 4, result
    counted: list[Any] = provider.ledger.entries[40:]
    assert 2_000 < sum(entry.input_tokens + entry.output_tokens for entry in counted if entry.billed) <= 4_000


@pytest.mark.slow
def test_turns_are_opened_again_for_all_workers(tmp_path: Path, simulator: Simulators):
    blocked = {"match": {"turn": 2}, "action": "reply", "kind": "output-blocked"}
    provider = Provider(faults=FaultScript.of([blocked]))
    run_on(prepared(tmp_path, simulator(provider), dialogues=6), 2)
    assert statuses(turns_of(tmp_path)) == {"ok": 6, "blocked": 6, "skipped": 6}
    provider.faults = FaultScript()
    result = run_on(replace(resumed(tmp_path), retry_failed=frozenset({"blocked"})), 2)
    assert result.exit_code == 0, result
    assert statuses(turns_of(tmp_path)) == {"ok": 18}
    assert len(provider.ledger.entries) == 12 + 12


@pytest.mark.slow
def test_what_is_in_flight_is_abandoned_and_told(tmp_path: Path, simulator: Simulators):
    provider = Provider(latency_s=30.0)
    spec = prepared(tmp_path, simulator(provider), dialogues=20)

    async def session() -> SessionResult:
        crew = ProcessCrew(2)
        task = asyncio.create_task(run_session_async(replace(spec, handle_signals=True), crew=crew))
        await until(lambda: len(provider.ledger.entries) >= 8)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.3)
        return await task

    result = asyncio.run(session())
    assert result.exit_code == 130
    turns = turns_of(tmp_path)
    sent = len(provider.ledger.entries)
    assert int(turns["possibly_paid"].sum()) == sent
    assert set(turns["status"]) == {"pending"}
