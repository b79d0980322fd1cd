"""Whole runs in virtual time, with all faults drawn from a seed; a failing seed can be repeated exactly.

For one seed: `python -m pytest tests/scenarios/test_virtual_runs.py -k seed-17`; for many more: `make torture`.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from convbatch.engine.http_values import NoResponse, OutgoingRequest, Transport
from convbatch.engine.transport import AiohttpTransport
from convbatch.results.run import load
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import environment
from tests.support.ledger_laws import same_rows
from tests.support.virtual_disk import Kill, Power
from tests.support.virtual_run import KEY, Host, Sent, VirtualRun, VirtualTransport
from tests.support.virtual_run_laws import Story, obeys
from tests.support.virtual_run_mix import check_seed, dialogues, disturbed, prepare
from tests.support.virtual_time import run

Plain = dict[str, Any]


@pytest.mark.parametrize("seed", range(4), ids=lambda seed: f"seed-{seed}")
def test_a_run_with_random_faults_obeys_all_laws(tmp_path: Path, seed: int):
    check_seed(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 110), ids=lambda seed: f"seed-{seed}")
def test_a_hundred_more_runs_with_random_faults_obey_all_laws(tmp_path: Path, seed: int):
    check_seed(tmp_path, seed)


@pytest.mark.slow
def test_an_interrupted_run_has_the_table_of_an_undisturbed_run(tmp_path: Path):
    (tmp_path / "calm").mkdir()
    calm, _ = prepare(tmp_path / "calm", 17, faulty=False)
    calm.finish(most=1)
    virtual_run, _ = prepare(tmp_path, 17, faulty=False)
    # The third session first waits for the minute whose tokens the second one used.
    for kill in (Kill(after_s=1.0), Kill(in_write=20), Kill(after_s=70.0)):
        virtual_run.run_session(kill=kill)
    virtual_run.finish()
    assert all(ended.killed and ended.in_flight for ended in virtual_run.ended[:3])
    same_rows(load(calm.path).turns, load(virtual_run.path).turns)


# Each seed tears the write at another place.
@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 6), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("write", range(1, 14))
def test_a_kill_within_any_write_loses_no_acknowledged_record(tmp_path: Path, write: int, seeds: range):
    made = dialogues(random.Random(1), 2, 2)
    for seed in seeds:
        provider = Provider(script=Script.of(made), keys={KEY}, latency_s=(0.1, 0.4))
        virtual_run = VirtualRun(tmp_path / f"{seed}" / "run", [Host(provider)], made, seed=seed)
        virtual_run.run_session(kill=Kill(in_write=write))
        assert virtual_run.ended[0].killed == (write <= 12)  # a whole run has 12 writes
        virtual_run.finish()
        story = obeys(virtual_run, faultless=True)
        assert set(story.states.values()) <= {"ok", "replied"}


@pytest.mark.parametrize("write", range(2, 8))
def test_no_turn_stays_skipped_after_a_turn_that_was_repaired_before_a_kill(tmp_path: Path, write: int):
    made = dialogues(random.Random(1), 1, 3)
    refusal = {"match": {"count": 1}, "action": "error", "kind": "bad_request"}
    provider = Provider(script=Script.of(made), keys={KEY}, faults=FaultScript.of([refusal]))
    virtual_run = VirtualRun(tmp_path / "run", [Host(provider)], made, seed=write)
    virtual_run.run_session()
    assert list(Story(virtual_run).states.values()) == ["error", "skipped", "skipped"]
    virtual_run.run_session(kill=Kill(in_write=write))
    assert virtual_run.ended[1].killed
    virtual_run.finish()
    assert set(obeys(virtual_run).states.values()) <= {"ok", "replied"}


def digest(virtual_run: VirtualRun) -> str:
    """Return a digest of the journal, of all ledgers, and of all times of requests and answers."""
    journal = b"".join(path.read_bytes() for path in sorted((virtual_run.path / "journal").glob("*.jsonl")))
    return hashlib.sha256(journal + repr((virtual_run.sent, virtual_run.ledger())).encode()).hexdigest()


@pytest.mark.slow
def test_a_seed_repeats_exactly_in_another_process(tmp_path: Path):
    seed = 46  # has a power cut, a kill, a signal, a cancelled session and faults to the end
    program = (
        "import sys; from pathlib import Path; from tests.scenarios.test_virtual_runs import digest, disturbed;"
        f"print(digest(disturbed(Path(sys.argv[1]), {seed})))"
    )
    (tmp_path / "other").mkdir()
    other = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "other"],
        env=environment(PYTHONHASHSEED="7"),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=True,
    )
    assert digest(disturbed(tmp_path, seed)) == other.stdout.decode().strip()


@pytest.mark.slow
def test_torture_runs_the_given_seeds(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.torture", "--first", "3", "-j", "2"],
        env=environment(SEEDS="4"),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"4 seeds from 3: 0 failed; ")


# -- the virtual network returns the same results as real sockets


QUESTION = b'{"contents":[{"role":"user","parts":[{"text":"hello"}]}]}'

NETWORK_RULES: dict[str, Plain] = {
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


def provider_with(rule: Plain) -> Provider:
    return Provider(faults=FaultScript.of([{"match": {"count": 1}, **rule}]), keys={KEY})


async def results_of(transport: Transport, base: str) -> list[Any]:
    """Return the results of two requests in a row."""
    results: list[Any] = []
    url = f"{base}/v1beta/models/sim-echo:generateContent"
    headers = {"content-type": "application/json", "x-goog-api-key": KEY}
    for _ in range(2):
        outgoing = OutgoingRequest(method="POST", url=url, headers=headers, body=QUESTION, timeout_s=0.3)
        try:
            answer = await transport.send(outgoing)
        except NoResponse as gone:
            results.append((gone.kind, gone.sent, gone.own_timeout, gone.certificate, gone.status))
        else:
            results.append((answer.status, answer.body))
    return results


@pytest.mark.parametrize("rule", NETWORK_RULES.values(), ids=NETWORK_RULES)
async def test_the_virtual_network_gives_the_same_results_as_real_sockets(rule: Plain, by_session: bool):
    async with Server(provider_with(rule)) as server:
        real = AiohttpTransport(by_session=by_session)
        over_sockets = await results_of(real, server.url)
        await real.close()
    log: list[Sent] = []

    async def over_virtual_network() -> list[Any]:
        loop = asyncio.get_running_loop()
        host = Host(provider_with(rule), delay_s=0.01)
        return await results_of(VirtualTransport(host, Power(loop), random.Random(1), 1, log), "https://north.test")

    with ThreadPoolExecutor(1) as pool:  # its own loop, in its own thread
        assert await asyncio.wrap_future(pool.submit(run, over_virtual_network())) == over_sockets
    assert [sent.status for sent in log] == [
        result[0] if isinstance(result[0], int) else None for result in over_sockets
    ]
