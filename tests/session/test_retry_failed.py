"""`resume --retry-failed KIND`: which turns are asked again, what is paid, and what a kill in the middle leaves."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convbatch as cb
from convbatch.dialogue import Settings
from convbatch.engine.runner import RunRules
from convbatch.errors import SetupError
from convbatch.session.reopen import KINDS, parse_kinds
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import Command, Start, config_for, wait_until, write_dataset
from tests.engine.test_budget import PRICES, dialogues
from tests.support import virtual_run_laws as laws
from tests.support.ledger_laws import statuses, turn_of_entry
from tests.support.virtual_disk import Kill
from tests.support.virtual_run import KEY, Host, VirtualRun

Plain = dict[str, Any]
WIRES = ("gemini", "openai")
BLOCKED = {"action": "reply", "kind": "output-blocked"}
EMPTY = {"action": "reply", "kind": "empty"}
BAD_REQUEST = {"action": "error", "kind": "bad_request"}
TOO_LONG = {
    "action": "body",
    "status": 400,
    "text": '{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "The input token count (5000) exceeds '
    'the maximum number of tokens allowed (4096)."}}',
}
BAD_GATEWAY = {"action": "error", "status": 502, "body": "html", "billed": True}


def faults(*rules: dict[str, Any]) -> FaultScript:
    return FaultScript.of(list(rules))


class Lab:
    """A run of 4 dialogues with 3 turns each, of which the second is bad; further sessions by `resume`."""

    def __init__(
        self,
        folder: Path,
        convbatch: Command,
        simulator: Callable[[Provider], Server],
        fault: dict[str, Any],
        *options: str,
    ) -> None:
        self._convbatch = convbatch
        self.out = folder / "out"
        self.provider = Provider(faults=faults({"match": {"turn": 2, **fault.pop("match", {})}, **fault}))
        write_dataset(folder / "d.jsonl", 4, 3, scripted=False)
        (folder / "convbatch.toml").write_text(
            config_for(simulator(self.provider).url, models='[run]\nmodels = ["sim-good@at-gemini"]\n\n')
        )
        self.begun = convbatch("run", "d.jsonl", "-o", "out", *options)

    def resume(self, *options: str) -> Any:
        """Resume the run with a gateway that has become good."""
        self.provider.faults = FaultScript()
        return self._convbatch("resume", "out", *options)

    @property
    def statuses(self) -> list[str]:
        return cb.load(self.out).turns["status"].tolist()

    @property
    def sent(self) -> int:
        return len(self.provider.ledger.entries)


@pytest.mark.parametrize(
    ("fault", "kind", "status", "paid"),
    [
        (BLOCKED, "blocked", "blocked", "4 had a reply, which was paid"),
        (EMPTY, "empty", "empty", "4 had a reply, which was paid"),
        (TOO_LONG, "context_length", "error", None),
        (TOO_LONG, "any", "error", None),
        (BAD_GATEWAY, "server_error", "error", "4 may have been paid"),
    ],
    ids=["blocked", "empty", "context_length", "any", "server_error"],
)
def test_turns_of_a_kind_are_asked_again_with_those_behind_them(
    fault: dict[str, Any],
    kind: str,
    status: str,
    paid: str | None,
    convbatch: Command,
    simulator: Callable[[Provider], Server],
    tmp_path: Path,
) -> None:
    lab = Lab(tmp_path, convbatch, simulator, dict(fault))
    assert lab.statuses == ["ok", status, "skipped"] * 4, lab.begun.err
    before, old = lab.sent, cb.load(lab.out).attempts
    done = lab.resume("--retry-failed", kind)
    assert done.code == 0, done.err
    assert lab.statuses == ["ok"] * 12
    assert lab.sent == before + 8, "4 turns, and 4 behind them"
    text = " ".join(done.err.split())
    assert "asked again: 4 " in text
    assert "4 turns skipped behind them" in text
    assert (paid or "asked again") in text
    assert ("paid in addition" in text) == (paid is not None)
    run = cb.load(lab.out)
    assert len(run.attempts) == len(old) + 8, "the former outcomes stay in the attempts"
    assert len(run.turns) == 12


def test_other_failures_are_left_alone_and_a_kind_that_did_not_occur_sends_nothing(
    convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path
) -> None:
    lab = Lab(tmp_path, convbatch, simulator, dict(BAD_GATEWAY))
    before = lab.sent
    done = lab.resume("--retry-failed", "timeout,blocked")
    assert (done.code, lab.sent) == (3, before), "the other turns are still open"
    assert "no turn of this run failed with blocked or timeout; there are: 4 server_error" in " ".join(done.err.split())
    assert lab.resume("--retry-failed", "server-error").code == 0
    assert lab.statuses == ["ok"] * 12
    done = lab.resume("--retry-failed", "any")
    assert (done.code, lab.sent) == (0, before + 8)
    assert "no turn of this run failed with any" in done.err


def test_an_unknown_kind_is_refused_with_the_nearest(
    convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path
) -> None:
    lab = Lab(tmp_path, convbatch, simulator, dict(BLOCKED))
    before = lab.sent
    done = lab.resume("--retry-failed", "time-outs")
    text = " ".join(done.err.split())
    assert (done.code, lab.sent) == (2, before)
    assert "unknown kind 'time-outs'" in text
    assert "did you mean 'timeout'?" in text
    assert "rate_limit" in text


def test_a_turn_that_is_blocked_again_ends_its_dialogue_again(
    convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path
) -> None:
    lab = Lab(tmp_path, convbatch, simulator, dict(BLOCKED))
    before = lab.sent
    done = convbatch("resume", "out", "--retry-failed", "blocked")
    assert done.code == 0, done.err
    assert lab.statuses == ["ok", "blocked", "skipped"] * 4
    assert lab.sent == before + 4
    assert convbatch("resume", "out").code == 0
    assert lab.sent == before + 4


def test_both_replies_are_in_the_bill(
    convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path
) -> None:
    lab = Lab(tmp_path, convbatch, simulator, dict(BLOCKED))
    with (tmp_path / "convbatch.toml").open("a") as config:
        config.write('[prices.at-gemini."*"]\ncurrency = "USD"\ninput = 1\noutput = 10\n')
    run = convbatch("run", "d.jsonl", "-o", "priced")
    assert run.code == 0, run.err
    begun = lab.sent - 8
    lab.provider.faults = FaultScript()
    assert convbatch("resume", "priced", "--retry-failed", "blocked").code == 0
    entries = lab.provider.ledger.entries[begun:]
    bill = sum((e.input_tokens or 0) + 10 * (e.output_tokens or 0) for e in entries if e.billed) / 1e6
    turns = cb.load(tmp_path / "priced").turns
    failed = [float(cost) for cost in turns["failed_cost"].fillna(0)]
    assert abs(sum(map(float, turns["cost"].dropna())) + sum(failed) - bill) < 1e-9
    assert sum(cost > 0 for cost in failed) == 4


def test_a_reply_that_another_run_gave_is_not_taken_over_again(
    convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path
) -> None:
    lab = Lab(tmp_path, convbatch, simulator, dict(BLOCKED))
    assert convbatch("run", "d.jsonl", "-o", "second", "--reuse", "out").code == 0
    before = lab.sent
    lab.provider.faults = FaultScript()
    assert convbatch("resume", "second", "--retry-failed", "blocked").code == 0
    assert lab.sent == before + 8
    assert cb.load(tmp_path / "second").turns["status"].tolist() == ["ok"] * 12


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 40))])
def test_a_kill_in_the_middle_leaves_a_run_that_resume_finishes(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    rules = [
        {"match": {"probability": 0.2}, **BLOCKED},
        {"match": {"probability": 0.1}, **EMPTY},
        {"match": {"probability": 0.1}, **BAD_REQUEST},
    ]
    provider = Provider(keys={KEY}, seed=seed, faults=faults(*rules), latency_s=(0.05, 0.5))
    virtual_run = VirtualRun(
        tmp_path / "run",
        [Host(provider)],
        dialogues(20),
        seed=seed,
        rules=RunRules(command_line=Settings(max_output_tokens=40), concurrency=8),
        prices=PRICES,
    )
    virtual_run.run_session(retry_errors=False)
    first = cb.load(tmp_path / "run").turns["status"].tolist()
    assert {"blocked", "empty", "error", "skipped"} <= set(first)
    provider.faults = FaultScript()
    kinds = chance.choice([["blocked"], ["blocked", "empty"], ["any"], ["any", "blocked", "empty"]])
    kill = Kill(in_write=chance.randint(1, 12)) if chance.random() < 0.5 else Kill(after_s=chance.uniform(0.01, 2))
    virtual_run.run_session(kill=kill, retry_failed=kinds, retry_errors=False)
    middle = cb.load(tmp_path / "run")
    assert len(middle.turns) == len(virtual_run.planned)
    rows: list[Plain] = middle.turns.to_dict("records")
    pending = [row for row in rows if row["status"] == "pending"]
    assert all(pd.isna(row["reply"]) and pd.isna(row["cost"]) for row in pending), "an open turn shows its former reply"
    virtual_run.run_session(gap_s=60, retry_failed=kinds, retry_errors=False)
    virtual_run.finish()
    story = laws.Story(virtual_run)
    laws.every_answer_is_journaled_once(story)
    laws.durable_records_are_kept(story)
    laws.every_billed_request_is_journaled(story)
    laws.token_counts_equal_the_ledger(story)
    laws.conversations_are_sequential(story)
    run = cb.load(tmp_path / "run")
    statuses = run.turns["status"].tolist()
    assert len(statuses) == len(virtual_run.planned)
    assert "error" not in statuses
    for kind in {"blocked", "empty"} & set(kinds):
        assert kind not in statuses
    ended: set[int] = set()
    for index, status in zip(run.turns["dialogue_index"], statuses, strict=True):
        assert (status == "skipped") == (index in ended), "a turn is skipped behind one that is not ok, and only there"
        ended |= {index} if status != "ok" else set()
    assert len(run.attempts) >= len(provider.ledger.entries)


@pytest.mark.slow
def test_real_kills_in_the_middle_lose_no_reply_and_pay_nothing_unsaid(
    simulator: Callable[[Provider], Server], start: Start, command: Command, tmp_path: Path
) -> None:
    rules = [
        {"match": {"turn": 2, "probability": 0.5}, **BLOCKED},
        {"match": {"turn": 1, "probability": 0.1}, **EMPTY},
    ]
    dataset = write_dataset(tmp_path / "d.jsonl", 30, 3)
    provider = Provider(script=Script.load(dataset), faults=faults(*rules), latency_s=(0.01, 0.08))
    models = ", ".join(f'"sim-good@at-{wire}"' for wire in WIRES)
    prices = "".join(f'[prices.at-{wire}."*"]\ncurrency = "USD"\ninput = 1\noutput = 10\n' for wire in WIRES)
    text = f"[run]\nmodels = [{models}]\n[run.settings]\nmax_output_tokens = 40\n{prices}"
    (tmp_path / "convbatch.toml").write_text(config_for(simulator(provider).url, wires=WIRES, models=text))
    assert command("run", "d.jsonl", "-o", "out").code == 0
    begun = len(provider.ledger.entries)
    before: Any = cb.load(tmp_path / "out").turns
    failed = before["status"].isin(["blocked", "empty"])
    assert failed.sum() > 10
    provider.faults = FaultScript()
    chance = random.Random(7)
    options = ("--retry-failed", "blocked,empty", "--no-retry-errors", "-j", "8")
    kills = 0
    for kills in range(1, 6):
        sent = len(provider.ledger.entries)
        # The first session opens the failed turns again; the later ones are sometimes plain.
        victim = start("resume", "out", *(options if kills % 3 else ("-j", "8")))
        wait_until(lambda: len(provider.ledger.entries) > sent or victim.poll() is not None)  # noqa: B023
        time.sleep(chance.uniform(0, 0.08))
        victim.kill()
        victim.communicate()
        if victim.returncode != -9:
            break
        assert len(cb.load(tmp_path / "out").turns) == len(before)
    assert kills > 2
    assert command("resume", "out").code == 0
    assert command("resume", "out", *options).code == 0
    run: Any = cb.load(tmp_path / "out")
    assert statuses(run.turns) == {"ok": 180}
    kept = before[before["status"] == "ok"]
    after = run.turns.loc[kept.index]
    assert (kept["response_id"] == after["response_id"]).all(), "an answered turn is not asked again"
    entries = provider.ledger.entries
    bills = Counter(turn_of_entry(entry) for entry in entries if entry.billed)
    for row, was in zip(run.turns.itertuples(), before["status"], strict=True):
        place = (row.gateway.removeprefix("at-"), row.dialogue_index, row.turn)
        said = 1 + (was in ("blocked", "empty")) + row.possibly_paid
        assert 1 <= bills[place] <= said, (place, bills[place], said)
        assert row.reply == f"answer {row.turn} of dialogue {row.dialogue_index}"
    assert len(entries) - begun <= 180 + 16 * kills
    paid = sum((e.input_tokens or 0) + 10 * (e.output_tokens or 0) for e in entries if e.billed) / 1e6
    costs = sum(float(cost) for name in ("cost", "failed_cost") for cost in run.turns[name].dropna())
    unsure = sum(float(cost) for cost in run.turns["possibly_paid_bound"].dropna())
    assert costs <= paid + 1e-9
    assert paid <= costs + unsure + 1e-9


@given(st.lists(st.sampled_from(KINDS), min_size=1), st.booleans())
def test_kinds_are_read_by_commas_and_repetition(kinds: list[str], dashes: bool) -> None:
    texts = [kind.replace("_", "-") if dashes else kind.upper() for kind in kinds]
    assert parse_kinds(texts) == parse_kinds([",".join(texts)]) == frozenset(kinds)


@given(st.text(max_size=8).filter(lambda text: not set(text.lower().replace("-", "_").split(",")) & set(KINDS)))
def test_any_other_kind_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match="unknown kind"):
        parse_kinds([text])


def test_the_journal_says_what_was_opened_again(
    convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path
) -> None:
    lab = Lab(tmp_path, convbatch, simulator, dict(BLOCKED))
    assert lab.resume("--retry-failed", "blocked").code == 0
    lines = (lab.out / "journal" / "000001.jsonl").read_bytes().splitlines()
    reopened = [record for record in map(orjson.loads, lines) if "reopens" in record]
    assert [record["reopens"] for record in reopened] == ["blocked", "skipped"] * 4
    assert {record["status"] for record in reopened} == {"pending"}
