"""`run --batch`: the table of a live run at half the price, whatever happens to the process and to its jobs."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

import convbatch as cb
from convbatch.simulator import FaultScript, JobLimits, JobTimes, Provider
from convbatch.simulator.ledger import Entry
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import Command, Finished, Start, config_for, wait_until, write_dataset
from tests.engine.test_run_caps import tokens
from tests.support.ledger_laws import check_histories, possibly_paid, same_rows, statuses

Simulators = Callable[[Provider], Server]
WIRES = ("anthropic", "gemini", "openai", "responses")
KEY = {"anthropic": "x-api-key", "gemini": "x-goog-api-key", "openai": "bearer", "responses": "bearer"}
FAST = JobTimes(validate_s=0.01, run_s=0.2, finish_s=0.01, cancel_s=0.02)
RUN = ("run", "d.jsonl", "-o", "out", "--batch")


def configure(folder: Path, url: str, wires: Sequence[str], *, more: str = "", **keys: Any) -> None:
    tables = [config_for(url, wires=(wire,), batches=True, **({"auth": KEY[wire]} | keys)) for wire in wires]
    prices = [f'[prices.at-{wire}."*"]\ncurrency = "USD"\ninput = 2.0\noutput = 8.0' for wire in wires]
    models = ", ".join(f'"sim-good@at-{wire}"' for wire in wires)
    settings = "[run.settings]\nmax_output_tokens = 200"
    text = "\n\n".join([*tables, *prices, f"[run]\nmodels = [{models}]", settings, more])
    (folder / "convbatch.toml").write_text(text.replace("/v1", "") if wires == ("anthropic",) else text)


def prepare(
    folder: Path,
    simulator: Simulators,
    *,
    wires: Sequence[str] = ("openai",),
    dialogues: int = 6,
    turns: int = 2,
    rules: Iterable[Mapping[str, Any]] = (),
    times: JobTimes = FAST,
    limits: JobLimits | None = None,
    **keys: Any,
) -> Provider:
    dataset = write_dataset(folder / "d.jsonl", dialogues, turns)
    provider = Provider(
        script=Script.load(dataset), job_times=times, job_limits=limits, faults=FaultScript.of(rules, source="test")
    )
    configure(folder, simulator(provider).url, wires, **keys)
    return provider


def made(entries: Iterable[Entry]) -> list[Entry]:
    """Return the creations of jobs that succeeded."""
    return [entry for entry in entries if entry.operation == "create" and entry.status == 200]


def lines(entries: Iterable[Entry]) -> list[Entry]:
    """Return the requests that were run."""
    return [entry for entry in entries if entry.operation in ("generate", "line") and entry.batch is not None]


def live_turns(folder: Path, convbatch: Command) -> Any:
    done = convbatch("run", "d.jsonl", "-o", "live")
    assert done.code == 0, done.err
    return cb.load(folder / "live").turns


def finished(convbatch: Command) -> Finished:
    done = convbatch("resume", "out")
    for _ in range(3):
        if done.code != 0:
            done = convbatch("resume", "out")
    assert done.code == 0, done.err
    return done


def check_like_live(folder: Path, convbatch: Command, provider: Provider) -> Any:
    """Check the table against a live run of the same dataset, and its cost; return the table."""
    turns = cb.load(folder / "out").turns
    entries = lines(provider.ledger.entries)
    live = live_turns(folder, convbatch)
    other = ["cost", "price_source", "possibly_paid_bound", "service_tier"]
    same_rows(live.drop(columns=other), turns.drop(columns=other))
    assert list(turns["cost"] * 2) == pytest.approx(list(live["cost"]))
    assert all(source.endswith(", batch") for source in turns["price_source"])
    assert all(entry.price == 0.5 for entry in entries if entry.billed)
    return turns


def wait_for_requests(provider: Provider, count: int, process: subprocess.Popen[bytes]) -> None:
    begun = len(provider.ledger.entries)
    wait_until(lambda: len(provider.ledger.entries) >= begun + count or process.poll() is not None)


# --- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("wire", WIRES)
def test_a_batch_run_that_is_killed_again_and_again_ends_like_a_live_one(
    wire: str, tmp_path: Path, simulator: Simulators, convbatch: Command, start: Start
) -> None:
    provider = prepare(tmp_path, simulator, wires=(wire,), dialogues=200, turns=4)
    chance = random.Random(wire)
    kills = 0
    while True:
        victim = start(*(RUN if not (tmp_path / "out" / "run.json").exists() else ("resume", "out")))
        # Within a creation, between it and the first poll, and while results are stored.
        wait_for_requests(provider, chance.randrange(1, 4), victim)
        time.sleep(chance.choice((0.0, 0.02, 0.4, 1.1)))
        victim.kill()
        victim.communicate()
        kills += 1
        if victim.returncode == 0 or kills == 12:
            break
    if victim.returncode != 0:
        finished(convbatch)
    entries = list(provider.ledger.entries)
    turns = check_like_live(tmp_path, convbatch, provider)
    assert statuses(turns) == {"ok": 800}
    assert possibly_paid(turns) == 0
    assert len(lines(entries)) == 800
    assert check_histories(lines(entries)) == 800
    assert len(made(entries)) == len({entry.batch for entry in lines(entries)})
    print(f"\n{wire}: {kills} kills, {len(made(entries))} jobs")  # noqa: T201


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_batch_run_at_four_wires_has_the_table_of_a_live_run_at_half_the_price(
    tmp_path: Path, simulator: Simulators, convbatch: Command
) -> None:
    provider = prepare(tmp_path, simulator, wires=("gemini", "openai", "responses"), dialogues=4)
    done = convbatch(*RUN)
    assert done.code == 0, done.err
    assert "wave 2: batch job" in done.err
    assert len(made(provider.ledger.entries)) == 6
    turns = check_like_live(tmp_path, convbatch, provider)
    assert list(turns["latency_s"].dropna()) == []
    attempts = cb.load(tmp_path / "out").attempts
    assert len(set(attempts["job"])) == 6
    assert all(0.2 < job_s < 30 for job_s in attempts["job_s"])
    assert list(cb.load(tmp_path / "live").attempts["job"].dropna()) == []


REFUSED = {
    "streams": (["--stream"], {}, "is asked for streams, and batch jobs do not stream"),
    "turns as they come": (["--follow"], {}, "--follow prints turns as they come"),
    "limits": (["--rpm", "5", "-j", "2"], {}, "--rpm has no effect on batch jobs"),
    "a gateway without": ([], {"batches": False}, "is not known to have batches"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_batch_jobs_cannot_do_is_refused_before_anything_is_sent(
    tmp_path: Path, simulator: Simulators, convbatch: Command, name: str
) -> None:
    options, keys, why = REFUSED[name]
    provider = prepare(tmp_path, simulator)
    config = tmp_path / "convbatch.toml"
    if keys:
        config.write_text(config.read_text().replace("batches = true\n", ""))
    done = convbatch(*RUN, *options)
    assert done.code == 2
    assert why in done.err
    assert provider.ledger.requests == 0
    assert not (tmp_path / "out").exists()


def test_a_dialogue_with_tools_is_refused_with_its_place(
    tmp_path: Path, simulator: Simulators, convbatch: Command
) -> None:
    provider = prepare(tmp_path, simulator)
    tool = {"name": "f", "description": "f", "parameters": {"type": "object", "properties": {}}}
    line = {"id": "t", "tools": [tool], "turns": [{"user": "hello"}]}
    (tmp_path / "d.jsonl").write_text(json.dumps(line) + "\n")
    done = convbatch(*RUN)
    assert (done.code, provider.ledger.requests) == (2, 0)
    assert "d.jsonl:1" in done.err
    assert "each call of a tool would take a batch job of its own" in done.err


def test_no_batch_is_refused_for_a_run_without_batch_jobs(
    tmp_path: Path, simulator: Simulators, convbatch: Command
) -> None:
    prepare(tmp_path, simulator, dialogues=1, turns=1)
    assert convbatch("run", "d.jsonl", "-o", "out").code == 0
    done = convbatch("resume", "out", "--no-batch")
    assert done.code == 2
    assert "this run has no batch jobs" in done.err
    done = convbatch("cancel", "out")
    assert (done.code, "no open batch job" in done.err) == (0, True)


@pytest.mark.slow
def test_an_interrupted_batch_run_names_its_open_job_and_how_to_cancel_it(
    tmp_path: Path, simulator: Simulators, convbatch: Command, start: Start
) -> None:
    slow = JobTimes(validate_s=0.01, run_s=60, finish_s=0.01, cancel_s=0.05)
    provider = prepare(tmp_path, simulator, times=slow)
    victim = start(*RUN)
    wait_until(lambda: any(entry.operation == "poll" for entry in provider.ledger.entries))
    victim.send_signal(signal.SIGINT)
    _, err = victim.communicate(timeout=10)
    said = err.decode()
    assert victim.returncode == 130
    assert "batch jobs go on at the provider" in said
    assert "1 batch job with 6 requests still open at the provider" in said
    assert f"convbatch resume {tmp_path}/out" in said
    assert f"convbatch cancel {tmp_path}/out" in said
    done = convbatch("cancel", "out")
    assert done.code == 3, done.err
    turns = cb.load(tmp_path / "out").turns
    assert possibly_paid(turns) == 0
    assert statuses(turns)["pending"] == 12 - len(lines(provider.ledger.entries))
    done = convbatch("cancel", "out")
    assert (done.code, "no open batch job" in done.err) == (0, True)
    done = convbatch("resume", "out", "--no-batch")
    assert (done.code, statuses(cb.load(tmp_path / "out").turns)) == (0, {"ok": 12})
    assert len(made(provider.ledger.entries)) == 1


def test_prices_of_batch_jobs_can_be_given(tmp_path: Path, simulator: Simulators, convbatch: Command) -> None:
    prepare(tmp_path, simulator, dialogues=1, turns=1)
    config = tmp_path / "convbatch.toml"
    config.write_text(config.read_text().replace("output = 8.0", "output = 8.0\nbatch = { output = 6.0 }"))
    assert convbatch(*RUN).code == 0
    row = cb.load(tmp_path / "out").turns.iloc[0]
    assert float(row["cost"]) == pytest.approx((row["input_tokens"] * 1.0 + row["output_tokens"] * 6.0) / 1e6)
    config.write_text(config.read_text().replace("output = 6.0", "outputs = 6.0"))
    done = convbatch("run", "d.jsonl", "-o", "other", "--batch")
    assert done.code == 2
    assert "unknown key 'outputs'" in done.err


@pytest.mark.parametrize(
    "wire", ["openai", *(pytest.param(wire, marks=pytest.mark.slow) for wire in WIRES if wire != "openai")]
)
def test_caps_hold_in_a_batch_run_and_resume_continues_it(
    wire: str, tmp_path: Path, simulator: Simulators, convbatch: Command
) -> None:
    provider = prepare(tmp_path, simulator, wires=(wire,), dialogues=4)
    done = convbatch(*RUN, "--max-requests", "3", "--max-tokens-total", "1M")
    assert (done.code, len(lines(provider.ledger.entries))) == (4, 3), done.err
    assert f"convbatch resume {tmp_path / 'out'} --max-requests 6" in done.err
    assert convbatch("resume", "out").code == 4
    assert len(lines(provider.ledger.entries)) == 3, "a resume below the cap sends nothing more"
    done = convbatch("resume", "out", "--max-requests", "1k", "--max-tokens-total", "450")
    assert done.code == 4, done.err
    assert "of 450 tokens" in done.err
    assert 3 < len(lines(provider.ledger.entries)) < 8
    assert tokens(lines(provider.ledger.entries)) <= 450
    done = convbatch("resume", "out", "--max-tokens-total", "1M")
    assert done.code == 0, done.err
    assert len(lines(provider.ledger.entries)) == 8
    turns = check_like_live(tmp_path, convbatch, provider)
    assert (statuses(turns), possibly_paid(turns)) == ({"ok": 8}, 0)


def test_a_dry_run_counts_waves_and_half_the_price(tmp_path: Path, simulator: Simulators, convbatch: Command) -> None:
    provider = prepare(tmp_path, simulator, turns=3)
    live = json.loads(convbatch("run", "d.jsonl", "--dry-run", "--json").out)
    done = convbatch("run", "d.jsonl", "--batch", "--dry-run", "--json")
    batch = json.loads(done.out)
    assert batch["totals"][0]["expected"]["cost"] == pytest.approx(live["totals"][0]["expected"]["cost"] / 2)
    assert any(note.startswith("3 waves of batch jobs") and "72 h in all" in note for note in batch["notes"])
    assert provider.ledger.requests == 0


def test_a_report_prices_a_batch_run_again_at_the_batch_price(
    tmp_path: Path, simulator: Simulators, convbatch: Command
) -> None:
    prepare(tmp_path, simulator, dialogues=2, turns=1)
    assert convbatch(*RUN).code == 0
    config = tmp_path / "convbatch.toml"
    before = json.loads(convbatch("report", "out", "--json").out)
    config.write_text(config.read_text().replace("input = 2.0\noutput = 8.0", "input = 20.0\noutput = 80.0"))
    after = json.loads(convbatch("report", "out", "-c", "convbatch.toml", "--json").out)
    costs = [costs_in(report) for report in (before, after)]
    assert costs[0]
    assert costs[1] == pytest.approx([10 * cost for cost in costs[0]])


def costs_in(report: Any) -> list[float]:
    """Return every value of a key `cost`, in order."""
    if isinstance(report, list):
        return [cost for item in cast("list[Any]", report) for cost in costs_in(item)]
    if not isinstance(report, dict):
        return []
    found: list[float] = []
    for name, value in cast("dict[str, Any]", report).items():
        found += [value] if name == "cost" and isinstance(value, float) else costs_in(value)
    return found
