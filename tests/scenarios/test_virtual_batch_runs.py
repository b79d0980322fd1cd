"""Batch runs in virtual time: kills at each write, jobs that fail in every way, creations without an answer."""

from __future__ import annotations

import contextlib
import random
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from convbatch.dialogue import Settings
from convbatch.engine.runner import RunRules
from convbatch.errors import JournalDamaged
from convbatch.pricing import Money, Period, PriceTable, TokenPrice
from convbatch.results.run import load
from convbatch.simulator import FaultScript, JobLimits, JobTimes, Provider
from convbatch.simulator.ledger import Entry
from convbatch.simulator.replies import Script
from tests.support.ledger_laws import check_bills, check_histories, possibly_paid, statuses
from tests.support.virtual_disk import Kill
from tests.support.virtual_run import KEY, Host, VirtualRun
from tests.support.virtual_run_mix import dialogues

WIRES = ("anthropic", "gemini", "openai", "responses")
EACH_WIRE = ("anthropic", "gemini", *(pytest.param(wire, marks=pytest.mark.slow) for wire in ("openai", "responses")))
RULES = RunRules(batch="batch")


def prepare(
    folder: Path,
    wire: str,
    *rules: Mapping[str, Any],
    count: int = 3,
    turns: int = 2,
    seed: int = 0,
    times: JobTimes | None = None,
    limits: JobLimits | None = None,
    prices: PriceTable | None = None,
    run_rules: RunRules = RULES,
    models: tuple[str, ...] = ("sim-good",),
) -> VirtualRun:
    made = dialogues(random.Random(seed), count, turns, scripted=0.0)
    provider = Provider(
        script=Script.of(made),
        keys={KEY},
        faults=FaultScript.of(rules, source="test"),
        job_times=times or JobTimes(validate_s=20, run_s=600, finish_s=20, cancel_s=30),
        job_limits=limits,
    )
    folder.mkdir(parents=True, exist_ok=True)
    host = Host(provider, name=wire, wire=wire, models=models)
    # The simulator names its own address in answers to uploads.
    host.targets = tuple(
        replace(
            target, gateway=replace(target.gateway, base_url="http://localhost" + ("/v1" if wire != "gemini" else ""))
        )
        for target in host.targets
    )
    return VirtualRun(folder / "run", [host], made, seed=seed, rules=run_rules, prices=prices)


def job_lines(virtual_run: VirtualRun) -> list[Entry]:
    return [entry for entry in virtual_run.ledger() if entry.operation in ("generate", "line") and entry.batch]


def jobs(virtual_run: VirtualRun) -> int:
    """Return how many jobs exist at the provider, answered or not."""
    return len({entry.batch for entry in virtual_run.ledger() if entry.operation == "create" and entry.batch})


def check(virtual_run: VirtualRun, *, with_live: bool = False) -> Any:
    """Check the table against the ledger, with or without what was asked live; return it."""
    turns = load(virtual_run.path).turns
    entries = job_lines(virtual_run)
    if with_live:
        entries = [entry for entry in virtual_run.ledger() if entry.operation in ("generate", "line")]
    check_bills(entries, turns)
    assert check_histories(entries) == len(entries)
    return turns


def errors(turns: Any) -> str:
    return "\n".join(turns["error_message"].dropna())


@pytest.mark.parametrize("wire", WIRES)
def test_a_wave_is_one_job_for_each_turn(tmp_path: Path, wire: str) -> None:
    virtual_run = prepare(tmp_path, wire, count=5, turns=3)
    virtual_run.finish(most=1)
    assert statuses(check(virtual_run)) == {"ok": 15}
    assert sorted(Counter(entry.batch for entry in job_lines(virtual_run)).values()) == [5, 5, 5]
    assert virtual_run.now < 3 * (640 + 62)


@pytest.mark.parametrize(
    ("wire", "power"),
    [
        ("gemini", False),
        *(pytest.param(wire, False, marks=pytest.mark.slow) for wire in WIRES if wire != "gemini"),
        *(pytest.param(wire, True, marks=pytest.mark.slow) for wire in WIRES),
    ],
)
def test_a_kill_within_any_write_makes_no_job_twice(tmp_path: Path, wire: str, power: bool) -> None:
    killed = 0
    for write in range(1, 24, 1 + (wire == "gemini")):
        virtual_run = prepare(tmp_path / str(write), wire, count=2, seed=write)
        virtual_run.run_session(kill=Kill(in_write=write, power=power))
        killed += virtual_run.ended[0].killed
        with contextlib.suppress(JournalDamaged):  # a power cut may keep any of the records that were not synced
            virtual_run.finish()
        virtual_run.run_session(salvage=power)
        turns = check(virtual_run)
        assert statuses(turns) == {"ok": 4}, write
        assert (jobs(virtual_run), len(job_lines(virtual_run)), possibly_paid(turns)) == (2, 4, 0), write
    assert killed >= 6


# --- creations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", EACH_WIRE)
def test_a_job_whose_creation_was_not_answered_is_found_and_not_made_again(tmp_path: Path, wire: str) -> None:
    cut = {"match": {"operation": "create", "count": 1}, "action": "reset", "when": "billed"}
    virtual_run = prepare(tmp_path, wire, cut)
    virtual_run.finish(most=1)
    turns = check(virtual_run)
    assert (statuses(turns), jobs(virtual_run), len(job_lines(virtual_run))) == ({"ok": 6}, 2, 6)
    assert possibly_paid(turns) == 0


@pytest.mark.parametrize("wire", EACH_WIRE)
@pytest.mark.parametrize("after_s", [0.2, 0.6, 1.0, 1.5])
def test_a_session_that_is_killed_in_a_creation_without_an_answer_looks_for_the_job(
    tmp_path: Path, wire: str, after_s: float
) -> None:
    cut = {"match": {"operation": "create", "count": 1}, "action": "silence", "when": "billed"}
    virtual_run = prepare(tmp_path, wire, cut)
    virtual_run.run_session(kill=Kill(after_s=after_s))
    virtual_run.finish()
    turns = check(virtual_run)
    assert (statuses(turns), jobs(virtual_run), len(job_lines(virtual_run))) == ({"ok": 6}, 2, 6)


@pytest.mark.parametrize("wire", EACH_WIRE)
def test_two_jobs_of_one_size_whose_creations_were_not_answered_are_told_apart(tmp_path: Path, wire: str) -> None:
    cut = {"match": {"operation": "create", "count": 2}, "action": "silence", "when": "billed"}
    virtual_run = prepare(tmp_path, wire, cut, count=4, turns=1, models=("sim-good", "sim-think"))
    virtual_run.run_session(kill=Kill(after_s=30.0))
    virtual_run.finish()
    turns = load(virtual_run.path).turns
    assert (statuses(turns), jobs(virtual_run), len(job_lines(virtual_run))) == ({"ok": 8}, 2, 8)
    assert possibly_paid(turns) == 0


@pytest.mark.parametrize("wire", EACH_WIRE)
def test_a_full_disk_at_any_moment_makes_no_job_twice(tmp_path: Path, wire: str) -> None:
    stopped = 0
    for room in range(200, 9000, 700):
        virtual_run = prepare(tmp_path / str(room), wire, count=2)
        virtual_run.run_session(room=room)
        stopped += virtual_run.ended[0].broken is not None
        virtual_run.finish()
        turns = check(virtual_run)
        assert (statuses(turns), jobs(virtual_run), len(job_lines(virtual_run))) == ({"ok": 4}, 2, 4), room
        assert possibly_paid(turns) == 0, room
    assert stopped >= 5


@pytest.mark.parametrize("wire", EACH_WIRE)
def test_a_creation_that_did_not_arrive_is_sent_again_once_the_provider_lists_no_such_job(
    tmp_path: Path, wire: str
) -> None:
    cut = {"match": {"operation": "create", "count": 1}, "action": "reset", "when": "read"}
    virtual_run = prepare(tmp_path, wire, cut)
    virtual_run.finish(most=1)
    turns = check(virtual_run)
    assert (statuses(turns), jobs(virtual_run), possibly_paid(turns)) == ({"ok": 6}, 2, 0)
    assert set(turns["attempts"]) == {1, 2}


@pytest.mark.parametrize("wire", EACH_WIRE)
def test_a_creation_that_is_refused_for_now_is_repeated_after_the_wait_that_is_asked_for(
    tmp_path: Path, wire: str
) -> None:
    refusal = {"match": {"operation": "create", "count": 3}, "action": "rate-limit", "seconds": 100}
    virtual_run = prepare(tmp_path, wire, refusal)
    virtual_run.finish(most=1)
    assert (statuses(check(virtual_run)), jobs(virtual_run)) == ({"ok": 6}, 2)
    assert virtual_run.now > 300


@pytest.mark.parametrize("wire", ["gemini", "openai"])
def test_a_job_with_more_tokens_than_may_wait_at_once_becomes_smaller_ones(tmp_path: Path, wire: str) -> None:
    rules = replace(RULES, command_line=Settings(max_output_tokens=100))
    limits = JobLimits(enqueued_tokens=300)  # two requests
    virtual_run = prepare(tmp_path, wire, count=8, turns=1, limits=limits, run_rules=rules)
    virtual_run.run_session()
    turns = check(virtual_run)
    assert statuses(turns) == {"ok": 8}, errors(turns)
    assert len({entry.batch for entry in job_lines(virtual_run)}) == 4
    assert jobs(virtual_run) <= 16
    assert possibly_paid(turns) == 0


@pytest.mark.parametrize("wire", EACH_WIRE)
def test_a_refused_key_suspends_the_target_before_anything_is_paid(tmp_path: Path, wire: str) -> None:
    rules = [{"match": {"operation": name}, "action": "error", "kind": "bad_key"} for name in ("create", "upload")]
    virtual_run = prepare(tmp_path, wire, *rules)
    result = virtual_run.run_session()
    assert result is not None
    assert result.exit_code == 3
    assert "correct the key, then resume" in str(result.suspended)
    turns = check(virtual_run)
    assert (statuses(turns), possibly_paid(turns), job_lines(virtual_run)) == ({"pending": 6}, 0, [])
    virtual_run.hosts[0].provider.faults = FaultScript()
    virtual_run.finish(most=1)


# --- jobs that do not end well ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["anthropic", "openai", "responses"])
def test_what_an_expired_job_did_not_run_goes_into_the_next_one(tmp_path: Path, wire: str) -> None:
    virtual_run = prepare(tmp_path, wire, {"match": {"count": 1}, "action": "job", "kind": "expire"}, count=6, turns=1)
    virtual_run.finish(most=1)
    turns = check(virtual_run)
    assert (statuses(turns), jobs(virtual_run), len(job_lines(virtual_run))) == ({"ok": 6}, 2, 6)
    assert possibly_paid(turns) == 0


@pytest.mark.parametrize(
    ("wire", "kind"),
    [
        ("gemini", "expire"),
        ("openai", "lose"),
        ("anthropic", "vanish"),
        *(pytest.param(wire, kind, marks=pytest.mark.slow) for wire in WIRES for kind in ("vanish", "lose")),
    ],
)
def test_the_turns_of_a_job_whose_results_are_lost_are_possibly_paid_and_not_asked_again_at_once(
    tmp_path: Path, wire: str, kind: str
) -> None:
    rule = {"match": {"count": 1}, "action": "job", "kind": kind}
    virtual_run = prepare(tmp_path, wire, rule, count=4, turns=2)
    result = virtual_run.run_session()
    assert result is not None
    assert result.exit_code == 3
    turns = check(virtual_run)
    assert (statuses(turns), possibly_paid(turns)) == ({"error": 4, "skipped": 4}, 4)
    assert "batch job run-w1-" in errors(turns)
    assert jobs(virtual_run) == 1
    virtual_run.finish(most=1)
    assert statuses(check(virtual_run)) == {"ok": 8}


@pytest.mark.parametrize("wire", EACH_WIRE)
def test_a_job_that_fails_unpaid_is_made_again(tmp_path: Path, wire: str) -> None:
    virtual_run = prepare(tmp_path, wire, {"match": {"count": 1}, "action": "job", "kind": "fail"})
    virtual_run.run_session()
    turns = check(virtual_run)
    assert possibly_paid(turns) == 0
    if set(turns["status"]) != {"ok"}:
        assert "error" in set(turns["status"])
        virtual_run.finish()
    assert len(job_lines(virtual_run)) == 6


@pytest.mark.parametrize("wire", EACH_WIRE)
@pytest.mark.parametrize("kind", ["missing", "garbled", "twice", "stray"])
def test_a_result_that_is_missing_is_asked_once_more_and_one_that_comes_twice_counts_once(
    tmp_path: Path, wire: str, kind: str
) -> None:
    rule = {"match": {"operation": "line", "count": 1}, "action": "line", "kind": kind}
    virtual_run = prepare(tmp_path, wire, rule, count=4, turns=1)
    virtual_run.finish(most=1)
    turns = check(virtual_run)
    assert statuses(turns) == {"ok": 4}
    lost = kind in ("missing", "garbled")
    assert (len(job_lines(virtual_run)), possibly_paid(turns)) == (4 + lost, int(lost))


@pytest.mark.parametrize("wire", EACH_WIRE)
def test_a_line_that_fails_is_asked_again_in_the_next_wave(tmp_path: Path, wire: str) -> None:
    rule = {"match": {"operation": "line", "count": 2}, "action": "error", "kind": "overloaded"}
    virtual_run = prepare(tmp_path, wire, rule, count=4, turns=2)
    virtual_run.finish(most=1)
    turns = check(virtual_run)
    assert (statuses(turns), jobs(virtual_run)) == ({"ok": 8}, 3)
    assert possibly_paid(turns) == 0


@pytest.mark.parametrize("wire", EACH_WIRE)
def test_polls_and_results_are_repeated_until_they_are_answered(tmp_path: Path, wire: str) -> None:
    rules = [
        {"match": {"operation": "poll", "nth": "2-5"}, "action": "error", "kind": "overloaded"},
        {"match": {"operation": "poll", "nth": "6-7"}, "action": "reset", "when": "read"},
        {"match": {"operation": "results", "count": 2}, "action": "truncate"},
        {"match": {"operation": "results", "nth": 3}, "action": "rate-limit", "seconds": 7},
    ]
    virtual_run = prepare(tmp_path, wire, *rules)
    virtual_run.finish(most=1)
    turns = check(virtual_run)
    assert (statuses(turns), jobs(virtual_run), len(job_lines(virtual_run))) == ({"ok": 6}, 2, 6)


# --- stopping, cancelling, going live --------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", EACH_WIRE)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_job_at_the_provider_and_resume_fetches_its_results(
    tmp_path: Path, wire: str, number: signal.Signals
) -> None:
    virtual_run = prepare(tmp_path, wire)
    result = virtual_run.run_session(signals=[(100.0, number)])
    assert result is not None
    assert (result.exit_code, virtual_run.now) == (130, pytest.approx(100.0, abs=5))
    assert possibly_paid(load(virtual_run.path).turns) == 3  # not answered yet
    virtual_run.finish(most=1)
    turns = check(virtual_run)
    assert (statuses(turns), jobs(virtual_run), possibly_paid(turns)) == ({"ok": 6}, 2, 0)


@pytest.mark.parametrize("after_s", [0.05, 0.3, 0.6, 0.9, 1.2, 1.8])
@pytest.mark.parametrize("again_s", [None, 0.05])
def test_a_signal_while_a_job_is_made_neither_loses_nor_repeats_it(
    tmp_path: Path, after_s: float, again_s: float | None
) -> None:
    for wire in ("gemini", "anthropic"):
        virtual_run = prepare(tmp_path / wire, wire)
        signals = [(after_s, signal.SIGINT)]
        signals += [] if again_s is None else [(after_s + again_s, signal.SIGINT)]
        result = virtual_run.run_session(signals=signals)
        assert result is not None
        assert virtual_run.now < 60
        virtual_run.finish()
        turns = check(virtual_run)
        assert (statuses(turns), jobs(virtual_run), len(job_lines(virtual_run))) == ({"ok": 6}, 2, 6)
        assert possibly_paid(turns) == 0


@pytest.mark.parametrize("wire", EACH_WIRE)
def test_cancelling_keeps_what_had_been_run_and_says_what_may_be_paid(tmp_path: Path, wire: str) -> None:
    virtual_run = prepare(tmp_path, wire, count=10, turns=1)
    virtual_run.run_session(signals=[(300.0, signal.SIGINT)])
    result = virtual_run.run_session(batch="cancel")
    assert result is not None
    assert result.exit_code == 3
    turns = check(virtual_run)
    ran = len(job_lines(virtual_run))
    assert 0 < ran < 10
    if wire == "gemini":  # nothing of a cancelled job can be fetched
        assert (statuses(turns), possibly_paid(turns)) == ({"error": 10}, 10)
    else:
        assert (statuses(turns), possibly_paid(turns)) == ({"ok": ran, "pending": 10 - ran}, 0)
    virtual_run.finish(most=1)
    assert statuses(check(virtual_run)) == {"ok": 10}


@pytest.mark.parametrize("wire", EACH_WIRE)
def test_a_run_that_goes_on_live_first_takes_the_results_of_its_open_job(tmp_path: Path, wire: str) -> None:
    virtual_run = prepare(tmp_path, wire, count=4, turns=3)
    virtual_run.run_session(signals=[(100.0, signal.SIGINT)])
    result = virtual_run.run_session(batch="live")
    assert result is not None
    assert result.exit_code == 0
    turns = load(virtual_run.path).turns
    assert (statuses(turns), jobs(virtual_run), len(job_lines(virtual_run))) == ({"ok": 12}, 1, 4)
    assert virtual_run.hosts[0].provider.ledger.billed == 12


# --- money -----------------------------------------------------------------------------------------------------------


def prices(share: str) -> PriceTable:
    period = Period(
        input=TokenPrice(base=Decimal(100) * Decimal(share)), output=TokenPrice(base=Decimal(1000) * Decimal(share))
    )
    return PriceTable(currency="USD", source="test", periods=(period,))


@pytest.mark.parametrize("wire", ["anthropic", "openai"])
def test_a_wave_that_does_not_fit_the_budget_is_made_smaller_and_the_cap_holds(tmp_path: Path, wire: str) -> None:
    rules = replace(RULES, command_line=Settings(max_output_tokens=100))
    virtual_run = prepare(tmp_path, wire, count=12, turns=2, prices=prices("1"), run_rules=rules)
    targets = tuple(replace(target, batch_prices=prices("0.5")) for target in virtual_run.manifest.targets)
    virtual_run.manifest = replace(virtual_run.manifest, targets=targets)
    cap = Money(amount=Decimal("0.2"), currency="USD")
    result = virtual_run.run_session(max_cost=cap)
    assert result is not None
    assert (result.exit_code, result.reason) == (4, "budget")
    turns = check(virtual_run)
    assert 0 < statuses(turns)["ok"] < 24
    assert possibly_paid(turns) == 0
    assert 0.1 < turns["cost"].sum() <= 0.2
    assert jobs(virtual_run) >= 2
    more = virtual_run.run_session(max_cost=Money(amount=Decimal("5"), currency="USD"))
    assert more is not None
    assert more.exit_code == 0


def test_a_job_that_is_open_at_the_end_of_a_session_is_counted_at_its_worst_cost_once(tmp_path: Path) -> None:
    rules = replace(RULES, command_line=Settings(max_output_tokens=100))
    virtual_run = prepare(tmp_path, "openai", count=4, turns=2, prices=prices("1"), run_rules=rules)
    targets = tuple(replace(target, batch_prices=prices("0.5")) for target in virtual_run.manifest.targets)
    virtual_run.manifest = replace(virtual_run.manifest, targets=targets)
    cap = Money(amount=Decimal("2"), currency="USD")
    for _ in range(3):
        result = virtual_run.run_session(max_cost=cap, signals=[(100.0, signal.SIGINT)])
        assert result is not None
        assert "assumed" in str(result.budget)
    result = virtual_run.run_session(max_cost=cap)
    assert result is not None
    assert (result.exit_code, statuses(check(virtual_run))) == (0, {"ok": 8})
    assert "assumed" not in str(result.budget)


# --- background responses --------------------------------------------------------------------------------------------

WINDOW = replace(RULES, batch_window="8h")


def test_background_responses_are_asked_one_by_one_and_stored_once(tmp_path: Path) -> None:
    virtual_run = prepare(tmp_path, "responses", count=20, turns=3, run_rules=WINDOW)
    virtual_run.finish(most=1)
    turns = check(virtual_run)
    assert (statuses(turns), jobs(virtual_run), possibly_paid(turns)) == ({"ok": 60}, 60, 0)
    assert all(entry.price == 0.5 for entry in job_lines(virtual_run) if entry.billed)


@pytest.mark.parametrize("after_s", [0.3, 1.0, 300.0, 650.0, 800.0])
def test_a_killed_session_goes_on_with_its_background_responses(tmp_path: Path, after_s: float) -> None:
    virtual_run = prepare(tmp_path, "responses", count=6, turns=2, run_rules=WINDOW)
    virtual_run.run_session(kill=Kill(after_s=after_s))
    virtual_run.finish()
    turns = check(virtual_run)
    assert statuses(turns) == {"ok": 12}
    assert jobs(virtual_run) <= 12 + possibly_paid(turns)


def test_a_background_response_whose_creation_was_not_answered_is_possibly_paid(tmp_path: Path) -> None:
    cut = {"match": {"operation": "create", "count": 1}, "action": "reset", "when": "billed"}
    virtual_run = prepare(tmp_path, "responses", cut, count=3, turns=1, run_rules=WINDOW)
    virtual_run.run_session()
    turns = check(virtual_run)
    assert (statuses(turns), possibly_paid(turns)) == ({"ok": 2, "error": 1}, 1)
    assert "does not list what was made" in errors(turns)
    virtual_run.finish(most=1)
    assert (statuses(check(virtual_run)), jobs(virtual_run)) == ({"ok": 3}, 4)


def test_cancelled_background_responses_may_be_paid(tmp_path: Path) -> None:
    virtual_run = prepare(tmp_path, "responses", count=4, turns=1, run_rules=WINDOW)
    virtual_run.run_session(signals=[(100.0, signal.SIGINT)])
    virtual_run.run_session(batch="cancel")
    turns = check(virtual_run)
    assert set(turns["status"]) <= {"ok", "error", "pending"}
    virtual_run.finish(most=1)
    assert statuses(check(virtual_run)) == {"ok": 4}


# --- everything at once ----------------------------------------------------------------------------------------------

TROUBLES: tuple[Mapping[str, Any], ...] = (
    {"match": {"operation": "create", "probability": 0.3}, "action": "reset", "when": "billed"},
    {"match": {"operation": "create", "probability": 0.3}, "action": "reset", "when": "read"},
    {"match": {"operation": "create", "probability": 0.3}, "action": "error", "kind": "overloaded"},
    {"match": {"operation": "create", "probability": 0.3}, "action": "error", "kind": "bad_gateway", "billed": True},
    {"match": {"operation": "upload", "probability": 0.3}, "action": "reset", "when": "read"},
    {"match": {"operation": "poll", "probability": 0.3}, "action": "error", "kind": "internal"},
    {"match": {"operation": "poll", "probability": 0.2}, "action": "truncate"},
    {"match": {"operation": "list", "probability": 0.3}, "action": "rate-limit", "seconds": 3},
    {"match": {"operation": "results", "probability": 0.3}, "action": "truncate"},
    {"match": {"operation": "results", "probability": 0.2}, "action": "error", "kind": "overloaded"},
    {"match": {"count": 1}, "action": "job", "kind": "expire"},
    {"match": {"count": 1}, "action": "job", "kind": "fail"},
    {"match": {"count": 1}, "action": "job", "kind": "lose"},
    {"match": {"count": 1}, "action": "job", "kind": "vanish"},
    {"match": {"operation": "line", "probability": 0.1}, "action": "line", "kind": "missing"},
    {"match": {"operation": "line", "probability": 0.1}, "action": "line", "kind": "garbled"},
    {"match": {"operation": "line", "probability": 0.1}, "action": "line", "kind": "twice"},
    {"match": {"operation": "line", "probability": 0.1}, "action": "line", "kind": "expired"},
    {"match": {"operation": "line", "probability": 0.1}, "action": "error", "kind": "overloaded"},
)


def check_batch_seed(folder: Path, seed: int) -> None:
    """Run sessions with faults, kills, signals and cancellations drawn from a seed, and check the laws."""
    chance = random.Random(f"batch-{seed}")
    wire = chance.choice(WIRES)
    rules = replace(RULES, batch_window="2h" if wire == "responses" and chance.random() < 0.4 else None)
    troubles = chance.sample(TROUBLES, chance.randrange(5))
    limits = JobLimits(enqueued_tokens=600) if chance.random() < 0.2 else None
    rules = replace(rules, command_line=Settings(max_output_tokens=100))
    virtual_run = prepare(
        folder, wire, *troubles, count=chance.randrange(1, 7), turns=chance.randrange(1, 4), seed=seed, limits=limits,
        run_rules=rules,
    )  # fmt: skip
    for _ in range(chance.randrange(1, 5)):
        what = chance.random()
        mode = chance.choices(("batch", "live", "cancel"), (8, 1, 1))[0] if virtual_run.ended else "batch"
        after_s = chance.choice((chance.uniform(0, 4), chance.uniform(0, 800), chance.uniform(0, 3000)))
        if what < 0.4:
            virtual_run.run_session(kill=Kill(after_s=after_s), batch=mode)
        elif what < 0.6:
            virtual_run.run_session(kill=Kill(in_write=chance.randrange(1, 40)), batch=mode)
        elif what < 0.8:
            numbers = [signal.SIGINT, signal.SIGINT][: chance.randrange(1, 3)]
            signals = [(after_s + 0.5 * at, number) for at, number in enumerate(numbers)]
            virtual_run.run_session(signals=signals, batch=mode)
        else:
            virtual_run.run_session(deadline_s=after_s, batch=mode)
        check(virtual_run, with_live=True)
    virtual_run.hosts[0].provider.faults = FaultScript()
    virtual_run.finish()
    turns = check(virtual_run, with_live=True)
    assert statuses(turns) == {"ok": len(virtual_run.planned)}


@pytest.mark.parametrize("seed", range(4), ids=lambda seed: f"seed-{seed}")
def test_a_batch_run_with_random_troubles_obeys_the_laws(tmp_path: Path, seed: int) -> None:
    check_batch_seed(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 80), ids=lambda seed: f"seed-{seed}")
def test_more_batch_runs_with_random_troubles_obey_the_laws(tmp_path: Path, seed: int) -> None:
    check_batch_seed(tmp_path, seed)
