"""`stream_replay`: each turn once, as soon as it is durable; leaving the loop stops the run and loses nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import convbatch as cb
from convbatch.results.columns import TURNS
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import serve_in_thread
from tests.conftest import environment
from tests.support.canary import CANARY_ENV
from tests.support.ledger_laws import statuses


@dataclass(frozen=True, slots=True)
class Sim:
    provider: Provider
    gateway: cb.Gateway


@pytest.fixture(scope="module")
def sim() -> Iterator[Sim]:
    provider = Provider()
    with serve_in_thread(provider) as server:
        yield Sim(provider, cb.Gateway(server.url, protocol="gemini", key_env=CANARY_ENV, name="here"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checked(dialogues: int, turns: int) -> cb.Dataset:
    """Return dialogues in which every turn has a check, and every dialogue one of its own."""
    return cb.Dataset(
        [
            {
                "id": f"d{number}",
                "tags": ["even"] if number % 2 == 0 else [],
                "checks": [{"contains": "Turn 1"}],
                "turns": [
                    {"user": f"question {turn}", "checks": [{"contains": f'Turn {turn}: you said "question {turn}"'}]}
                    for turn in range(1, turns + 1)
                ],
            }
            for number in range(dialogues)
        ]
    )


def place(turn: cb.TurnResult) -> tuple[Any, ...]:
    return turn.dialogue_index, turn.target, turn.repeat, turn.turn


def lines(run: cb.Run) -> list[bytes]:
    return [line for path in run.folder.segments() for line in path.read_bytes().splitlines()]


def ended(run: cb.Run) -> int:
    """Count the turns that have a record of their end in the journal."""
    return sum(json.loads(line)["kind"] == "turn" for line in lines(run))


def test_a_result_has_the_columns_of_turns_in_order() -> None:
    assert [field.name for field in fields(cb.TurnResult)] == [column.name for column in TURNS]


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dialogues=st.integers(1, 6), turns=st.integers(1, 4), repeats=st.integers(1, 3), targets=st.integers(1, 3))
def test_streamed_results_are_those_of_the_tables(
    sim: Sim, dialogues: int, turns: int, repeats: int, targets: int
) -> None:
    async def stream() -> tuple[list[cb.TurnResult], cb.Run]:
        models = [cb.Target(name, sim.gateway) for name in ("sim-good", "sim-drift")[: min(targets, 2)]]
        more = [cb.Target("sim-good", sim.gateway, cb.Variant(name="v", system="Be brief."))] if targets > 2 else []
        stream = cb.stream_replay(checked(dialogues, turns), models=[*models, *more], variants="none", repeats=repeats)
        return [turn async for turn in stream], stream.run

    streamed, run = asyncio.run(stream())
    assert len(streamed) == dialogues * turns * repeats * targets
    assert sorted(streamed, key=place) == sorted(run.results(), key=place)
    for target in run.targets:
        for repeat in range(1, repeats + 1):
            for index in range(dialogues):
                numbers = [t.turn for t in streamed if place(t)[:3] == (index, target, repeat)]
                assert numbers == sorted(numbers), "the turns of a conversation come in order"


async def test_a_turn_is_given_only_when_its_end_is_in_the_journal(sim: Sim) -> None:
    stream = cb.stream_replay(checked(4, 2), models=cb.Target("sim-good", sim.gateway))
    with pytest.raises(RuntimeError, match="has not begun"):
        _ = stream.run
    given = 0
    async for turn in stream:
        given += 1
        assert ended(stream.run) >= given
        assert (turn.status, turn.passed, turn.tags) == ("ok", True, ("even",) if turn.dialogue_index % 2 == 0 else ())
    assert given == 8


async def test_the_run_does_not_wait_for_a_slow_reader(sim: Sim) -> None:
    stream = cb.stream_replay(checked(10, 2), models=cb.Target("sim-good", sim.gateway))
    given = 0
    async for _ in stream:
        given += 1
        if given == 1:
            while ended(stream.run) < 20:  # noqa: ASYNC110  # the run, in another thread, ends meanwhile
                await asyncio.sleep(0.01)
    assert given == 20


@pytest.fixture
def slow_sim() -> Iterator[Sim]:
    provider = Provider(latency_s=0.3)
    with serve_in_thread(provider) as server:
        yield Sim(provider, cb.Gateway(server.url, protocol="gemini", key_env=CANARY_ENV, name="here"))


async def in_flight(sim: Sim, number: int) -> None:
    async with asyncio.timeout(20):
        while sim.provider.in_flight < number:  # noqa: ASYNC110  # the simulator lives in another thread
            await asyncio.sleep(0.005)


def check_stopped(run: cb.Run, sim: Sim) -> None:
    """Check that nothing that was received is lost or in doubt, and that the command finishes the run."""
    assert run.folder.state(run.manifest) == "interrupted"
    counts = statuses(run.turns)
    assert set(counts) == {"ok", "pending"}
    assert counts["ok"] == sim.provider.ledger.requests == ended(run)
    assert set(run.turns["possibly_paid"]) == {0}
    command = [sys.executable, "-m", "convbatch", "resume", str(run.path), "--no-progress"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert statuses(cb.load(run.path).turns) == {"ok": 12}
    assert sim.provider.ledger.requests == 12, "no turn is paid twice"


async def test_break_finishes_what_is_in_flight_and_the_run_can_be_resumed(slow_sim: Sim) -> None:
    async with cb.stream_replay(checked(6, 2), models=cb.Target("sim-good", slow_sim.gateway), concurrency=2) as stream:
        async for _ in stream:
            await in_flight(slow_sim, 2)
            break
    check_stopped(stream.run, slow_sim)


@pytest.mark.slow
async def test_an_error_in_the_loop_stops_the_run(slow_sim: Sim) -> None:
    stream = cb.stream_replay(checked(6, 2), models=cb.Target("sim-good", slow_sim.gateway), concurrency=2)

    async def read() -> None:
        async for _ in stream:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await read()
    await stream.aclose()
    check_stopped(stream.run, slow_sim)
    with pytest.raises(RuntimeError, match="read once"):
        _ = [turn async for turn in stream]


@pytest.mark.slow
async def test_cancelling_the_reader_waits_for_what_is_in_flight(slow_sim: Sim) -> None:
    stream = cb.stream_replay(checked(6, 2), models=cb.Target("sim-good", slow_sim.gateway), concurrency=2)

    async def read() -> None:
        async for _ in stream:
            pass

    task = asyncio.create_task(read())
    await in_flight(slow_sim, 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    check_stopped(stream.run, slow_sim)


async def test_a_second_cancellation_abandons_what_is_in_flight() -> None:
    provider = Provider(latency_s=60)
    with serve_in_thread(provider) as server:
        sim = Sim(provider, cb.Gateway(server.url, protocol="gemini", key_env=CANARY_ENV, name="here"))
        stream = cb.stream_replay(checked(6, 2), models=cb.Target("sim-good", sim.gateway), concurrency=2)

        async def read() -> None:
            async for _ in stream:
                pass

        task = asyncio.create_task(read())
        await in_flight(sim, 1)  # an unknown limit is approached from one request
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await stream.aclose()
    assert set(stream.run.attempts["class"]) == {"abandoned"}
    assert sum(stream.run.turns["possibly_paid"]) == 1


@pytest.mark.slow
def test_a_program_that_ends_after_break_loses_no_reply(slow_sim: Sim, folder: Path) -> None:
    checked(6, 2).save(folder / "d.jsonl")
    code = f"""
import asyncio, convbatch as cb
gateway = cb.Gateway({slow_sim.gateway.base_url!r}, protocol="gemini", key_env={CANARY_ENV!r}, name="here")
async def main():
    async for turn in cb.stream_replay("d.jsonl", models=cb.Target("sim-good", gateway), concurrency=2, out="out"):
        break
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    check_stopped(cb.load("out"), slow_sim)


async def test_errors_come_before_the_first_turn_and_leave_no_folder(folder: Path) -> None:
    with pytest.raises(cb.SetupError, match="models="):
        _ = [turn async for turn in cb.stream_replay(["d.jsonl"], models="sim-good")]
    assert not (folder / "results").exists()


async def test_a_journal_that_is_damaged_while_it_is_read_is_an_error(slow_sim: Sim) -> None:
    stream = cb.stream_replay(checked(6, 2), models=cb.Target("sim-good", slow_sim.gateway), concurrency=2)

    async def read() -> None:
        async for _ in stream:
            (segment,) = stream.run.folder.segments()
            with segment.open("ab") as file:
                file.write(b"not a record\n")

    with pytest.raises(cb.ConvbatchError, match="journal"):
        await read()
