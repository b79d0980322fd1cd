"""Caps on the tokens and requests of runs, compared with the ledgers of the servers that answered them."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convbatch as cb
from convbatch.counts import count_hint, parse_count, read_count
from convbatch.engine.budget import Budget, BudgetReached, Count, Reservation
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.ledger import Entry
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import Command, config_for, write_dataset
from tests.engine.test_budget import FAULTS, collect_finished, faulty_run, spent, usd
from tests.support.virtual_disk import Kill
from tests.support.virtual_run_laws import obeys

Plain = dict[str, Any]
LIMIT = ("--max-output-tokens", "50")


def tokens(entries: Sequence[Entry]) -> int:
    """Return the tokens that were billed, by the server's own count."""
    return sum((one.input_tokens or 0) + (one.output_tokens or 0) for one in entries if one.billed)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 10))])
def test_no_cap_is_exceeded_despite_faults_kills_and_interruptions(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    virtual_run = faulty_run(tmp_path / "run", seed, count=30)
    caps: Plain = {"max_tokens": chance.choice([6_000, 15_000, 40_000]), "max_requests": chance.choice([60, 100, 200])}
    if chance.random() < 0.5:
        caps["max_cost"] = usd(chance.choice(["0.01", "0.02"]))
    virtual_run.run_session(kill=Kill(after_s=chance.uniform(0.3, 5)), **caps)
    virtual_run.run_session(signals=[(chance.uniform(0.3, 5), signal.SIGINT)], **caps)
    virtual_run.run_session(kill=Kill(in_write=chance.randint(1, 80)), **caps)
    result = virtual_run.run_session(gap_s=60, **caps)
    assert result is not None
    assert (result.exit_code, result.reason) == (4, "budget")
    assert tokens(virtual_run.ledger()) <= caps["max_tokens"]
    assert len(virtual_run.ledger()) <= caps["max_requests"]
    assert "max_cost" not in caps or spent(virtual_run) <= caps["max_cost"].amount
    virtual_run.finish()
    obeys(virtual_run)


def test_a_run_uses_every_request_of_its_cap_and_counts_retries(tmp_path: Path) -> None:
    virtual_run = faulty_run(tmp_path / "run", 3, count=30)
    result = virtual_run.run_session(max_requests=100)
    assert result is not None
    assert (result.exit_code, len(virtual_run.ledger())) == (4, 100)
    again = virtual_run.run_session(max_requests=100)
    assert again is not None
    assert (again.exit_code, len(virtual_run.ledger())) == (4, 100), "a resume sends nothing more"
    assert {len(virtual_run.ledger()) for _ in [virtual_run.run_session(max_requests=130)]} == {130}
    assert len(cb.load(tmp_path / "run").attempts) == 130


@given(
    caps=st.tuples(st.integers(1, 60), st.integers(1, 40), st.integers(1, 9)),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["reserve", "settle", "refuse", "cancel", "forget"]), st.integers(1, 20), st.integers(0, 20)
        )
    ),
)
def test_caps_together_are_never_exceeded_and_leave_no_caller_waiting_forever(
    caps: tuple[int, int, int], steps: list[tuple[str, int, int]]
) -> None:
    async def main() -> None:
        budget = Budget(usd(caps[0]), Count(caps[1], "tokens"), Count(caps[2], "requests"))
        waiting: list[asyncio.Task[Reservation]] = []
        held: list[Reservation] = []
        reached = False
        for step, number, other in steps:
            if step == "reserve":
                waiting.append(asyncio.create_task(budget.reserve((number, other, 1))))
            elif step == "cancel" and waiting:
                waiting.pop(number % len(waiting)).cancel()
            elif held:
                reservation = held.pop(number % len(held))
                if step == "settle":
                    reservation.settle((Fraction(reservation.amounts[0]) / 2, None, other % 2))
                elif step == "forget":
                    reservation.is_sent = True
                reservation.close()
            reached = await collect_finished(waiting, held) or reached
            for at, account in enumerate(budget.accounts):
                assert account.spent + sum(one.amounts[at] for one in held) <= caps[at]
            assert not waiting or held, "a caller waits although no reservation is held"
            assert not (reached and waiting)
        budget.close()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(main())


async def test_the_larger_caps_are_those_that_ended_the_run() -> None:
    budget = Budget(usd(10), Count(1000, "tokens"), Count(3, "requests"))
    for _ in range(3):
        (await budget.reserve((1, 100, 1))).settle((1, 100, 1))
    with pytest.raises(BudgetReached, match="the budget of 3 requests is reached"):
        await budget.reserve((1, 100, 1))
    assert budget.larger == (Count(6, "requests"),)
    assert str(budget) == "3 of 3 requests"
    assert budget.short == "3.00 of 10.00 USD, 300 of 1,000 tokens, 3 of 3 requests"


def _config(url: str) -> str:
    return config_for(url, models='[run]\nmodels = ["sim-good@at-gemini"]\n\n')


def test_caps_hold_over_real_sockets_at_concurrency_64_and_the_printed_command_continues(
    convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path
) -> None:
    provider = Provider(latency_s=0.02, faults=FaultScript.of(list(FAULTS[:4])))
    write_dataset(tmp_path / "d.jsonl", 40, 3, scripted=False)
    (tmp_path / "convbatch.toml").write_text(_config(simulator(provider).url))
    run = convbatch(
        "run", "d.jsonl", "-o", "out", "-j", "64", *LIMIT, "--max-requests", "40", "--max-tokens-total", "1M"
    )
    assert run.code == 4, run.err
    assert len(provider.ledger.entries) == 40
    assert "token cap 1,000,000" in run.err
    assert "request cap 40" in run.err
    assert "budget reached (40 of 40 requests" in run.err
    assert f"convbatch resume {tmp_path / 'out'} --max-requests 80" in run.err
    assert orjson.loads((tmp_path / "out" / "run.json").read_bytes())["options"]["max_tokens_total"] == 1_000_000
    again = convbatch("resume", "out", "--max-requests", "1k", "--max-tokens-total", "5_000")
    assert again.code == 4, again.err
    assert 3_000 < tokens(provider.ledger.entries) <= 5_000
    assert f"convbatch resume {tmp_path / 'out'} --max-tokens-total 10000" in again.err
    before = len(provider.ledger.entries)
    assert convbatch("resume", "out").code == 4
    assert len(provider.ledger.entries) == before
    assert convbatch("resume", "out", "--max-tokens-total", "2M").code in (0, 3)
    assert len(provider.ledger.entries) > 100


def test_the_questions_of_a_judge_count(convbatch: Command, tmp_path: Path) -> None:
    lines = [
        {"id": f"d{d}", "turns": [{"user": f"question {d}", "checks": [{"llm_rubric": "is it good?"}]}]}
        for d in range(6)
    ]
    (tmp_path / "d.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    options = ("-m", "sim-good@simulator", "--judge", "sim-judge@simulator", "-o", "out")
    run = convbatch("run", "d.jsonl", *options, "--max-requests", "9")
    assert run.code == 4, run.err
    assert "9 of 9 requests" in run.err
    assert len(cb.load(tmp_path / "out").attempts) == 9
    assert convbatch("resume", "out", "--max-requests", "12").code == 0
    assert len(cb.load(tmp_path / "out").attempts) == 12


def test_caps_of_the_config_hold_and_the_command_line_is_above_them(convbatch: Command, tmp_path: Path) -> None:
    write_dataset(tmp_path / "d.jsonl", 10, 2)
    (tmp_path / "convbatch.toml").write_text(
        '[run]\nmodels = ["sim-good@simulator"]\nmax_requests = 5\nmax_tokens_total = "1.5M"\n'
        "[run.settings]\nmax_output_tokens = 9\n"
    )
    assert convbatch("run", "d.jsonl", "-o", "out").code == 4
    assert len(cb.load(tmp_path / "out").attempts) == 5
    assert convbatch("run", "d.jsonl", "-o", "more", "--max-requests", "20").code == 0


def test_python_takes_numbers_and_texts(tmp_path: Path) -> None:
    dataset = [{"turns": [{"user": "hi"}]}, {"turns": [{"user": "ho"}]}]
    run = cb.run(dataset, models=["sim-good@simulator"], out=tmp_path / "out", max_requests=1, max_tokens_total=None)
    assert len(run.attempts) == 1
    with pytest.raises(cb.ConvbatchError, match="max_requests= needs a whole number"):
        cb.run(dataset, models=["sim-good@simulator"], out=tmp_path / "not", max_requests="many")


REFUSED = [
    ("words", ["--max-requests", "many"], "--max-requests needs a whole number of at least 1", "write 2M, 500k or"),
    ("zero", ["--max-requests", "0"], "--max-requests needs a whole number", "write 2M"),
    ("a negative number", ["--max-tokens-total=-5"], "--max-tokens-total needs a whole number", "write 2M"),
    ("a fraction", ["--max-requests", "1.5"], "--max-requests needs a whole number", "write 2M"),
    (
        "a word for millions",
        ["--max-tokens-total", "2 million tokens"],
        "needs a whole number",
        "did you mean 2000000?",
    ),
    ("Chinese", ["--max-tokens-total", "20万"], "needs a whole number", "did you mean 200000?"),
    ("an exponent", ["--max-tokens-total", "1e6"], "needs a whole number", "did you mean 1000000?"),
    (
        "no limit on output",
        ["--max-tokens-total", "2M"],
        "needs the most tokens for every call",
        "--max-output-tokens N",
    ),
    ("another name for tokens", ["--token-budget", "5"], "token-budget", "--max-tokens-total"),
    ("another name for requests", ["--max-calls", "5"], "max-calls", "--max-requests 5"),
]


@pytest.mark.parametrize(("options", "what", "hint"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_cap_that_cannot_be_read_or_guaranteed_is_refused_before_any_request(
    options: list[str], what: str, hint: str, convbatch: Command, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "d.jsonl", 2, 2)
    done = convbatch("run", "d.jsonl", "-m", "sim-good@simulator", "-o", "out", *options)
    assert done.code == 2
    assert what in " ".join(done.err.split())
    assert hint in " ".join(done.err.split())
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_which_cap_is_too_small(convbatch: Command, tmp_path: Path) -> None:
    write_dataset(tmp_path / "d.jsonl", 10, 2)
    options = ("-m", "sim-good@simulator", *LIMIT, "--max-requests", "5", "--max-tokens-total", "100")
    done = convbatch("run", "d.jsonl", "--dry-run", *options)
    assert "the budget of 5 requests is too small: 20 expected" in done.out
    assert "the budget of 100 tokens is too small" in done.out
    value = orjson.loads(convbatch("run", "d.jsonl", "--dry-run", "--json", *options).out)
    assert (value["max_tokens_total"], value["max_requests"]) == (100, 5)


@given(st.integers(1, 10**12))
def test_a_number_is_read_in_every_way_it_may_be_written(count: int) -> None:
    assert read_count(str(count)) == read_count(f"{count:,}") == read_count(f"{count:_}") == count
    for unit, factor in (("k", 10**3), ("M", 10**6), ("B", 10**9)):
        assert count % factor or read_count(f"{count // factor}{unit}") == count
    assert parse_count(f" {count} ", "--max-requests") == count


@given(st.text(max_size=12))
def test_any_other_text_is_refused_with_what_to_write(text: str) -> None:
    assert read_count(text) is not None or count_hint(text).startswith(("write ", "did you mean "))
