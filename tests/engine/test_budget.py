"""Costs and budgets of runs, compared with the ledgers of the servers that answered them."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import signal
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import convbatch as cb
from convbatch.dialogue import Settings
from convbatch.engine.budget import Budget, BudgetReached, BudgetShare, Reservation
from convbatch.engine.limiter import LimiterClosed
from convbatch.engine.runner import RunRules
from convbatch.pricing import ExchangeRates, Money, Period, PriceTable, TokenPrice, exact
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.wire import encode_json
from convbatch.reply import Attempt, Usage
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.ledger import Entry
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import Command, config_for, write_dataset
from tests.support.virtual_disk import Kill
from tests.support.virtual_run import KEY, Host, VirtualRun
from tests.support.virtual_run_laws import obeys

Plain = dict[str, Any]
PRICES = PriceTable(
    currency="USD",
    source="this test",
    periods=(
        Period(
            input=TokenPrice(base=Decimal("0.3"), steps=((60, Decimal("0.6")),)),
            output=TokenPrice(base=Decimal("2.5"), steps=((60, Decimal("3.5")),)),
        ),
    ),
)
LIMITED = RunRules(command_line=Settings(max_output_tokens=40), concurrency=64, max_attempts=8)


def usd(amount: object) -> Money:
    return Money(amount=Decimal(str(amount)), currency="USD")


def true_cost(entry: Entry, prices: PriceTable = PRICES) -> Decimal:
    """Return the cost of a request by the server's own token counts."""
    if not entry.billed:
        return Decimal(0)
    cost = prices.cost(Usage(input_tokens=entry.input_tokens, output_tokens=entry.output_tokens or 0), 0.0)
    assert cost is not None
    return cost


def dialogues(count: int) -> list[Plain]:
    return [
        {"id": f"d{d}", "turns": [{"user": f"question {t} of dialogue {d} 第{t}问 " * (1 + d % 4)} for t in range(3)]}
        for d in range(count)
    ]


FAULTS = (
    {"match": {"probability": 0.04}, "action": "reset", "when": "billed"},
    {"match": {"probability": 0.04}, "action": "reset", "when": "body"},
    {"match": {"probability": 0.04}, "action": "truncate", "bytes": 60},
    {"match": {"probability": 0.03}, "action": "error", "status": 502, "body": "html", "billed": True},
    {"match": {"probability": 0.03}, "action": "error", "kind": "overloaded"},
    {"match": {"probability": 0.02}, "action": "rate-limit", "hint": "retry-after", "seconds": 3},
)
"""Fault rules that apply to one request in five."""


def faulty_run(path: Path, seed: int, count: int = 25) -> VirtualRun:
    providers = [
        Provider(keys={KEY}, seed=seed, faults=FaultScript.of(list(FAULTS)), latency_s=(0.05, 0.5)) for _ in range(2)
    ]
    hosts = [
        Host(provider, name=name, wire=wire, models=["sim-good", "sim-think"], delay_s=0.1)
        for provider, name, wire in zip(providers, ("one", "two"), ("gemini", "openai"), strict=True)
    ]
    return VirtualRun(path, hosts, dialogues(count), seed=seed, rules=LIMITED, prices=PRICES)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
@pytest.mark.slow
def test_costs_equal_the_ledger_and_possibly_paid_attempts_stay_within_their_bound(seed: int, tmp_path: Path) -> None:
    virtual_run = faulty_run(tmp_path / "run", seed)
    chance = random.Random(seed)
    for _ in range(3):
        virtual_run.run_session(kill=Kill(after_s=chance.uniform(0.5, 6)))
    virtual_run.finish()
    story = obeys(virtual_run)
    run = cb.load(tmp_path / "run")
    rows = run.attempts.set_index(["dialogue_index", "target", "repeat", "turn", "attempt"])
    bound, unanswered_cost = Decimal(0), Decimal(0)
    replied = 0
    for one in story.attempts:
        cost = Decimal(0) if one.entry is None else true_cost(one.entry)
        row = rows.loc[(*one.intent.row, one.intent.plain["attempt"])]
        if one.cls == "replied":
            assert abs(exact(float(row["cost"])) - cost) < Decimal("1e-9")
            replied += 1
        elif row["possibly_paid"]:
            bound += exact(float(row["cost_bound"]))
            unanswered_cost += cost
            assert cost <= exact(float(row["cost_bound"]))
        else:
            assert cost == 0
    assert replied >= len(virtual_run.planned) / 2
    assert 0 < unanswered_cost <= bound
    table_cost = sum((exact(float(cost)) for cost in run.turns["cost"].dropna()), Decimal(0))
    ledger_cost = sum(map(true_cost, virtual_run.ledger()), Decimal(0))
    assert (
        table_cost
        <= ledger_cost
        <= table_cost
        + bound
        + sum((true_cost(one.entry) for one in story.attempts if one.cls == "replied" and one.entry), Decimal(0))
    )


def spent(virtual_run: VirtualRun) -> Decimal:
    return sum(map(true_cost, virtual_run.ledger()), Decimal(0))


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_a_budget_is_never_exceeded_despite_faults_and_interruptions(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    virtual_run = faulty_run(tmp_path / "run", seed, count=30)
    cap = usd(chance.choice(["0.004", "0.01", "0.02"]))
    virtual_run.run_session(kill=Kill(after_s=chance.uniform(0.3, 5)), max_cost=cap)
    virtual_run.run_session(signals=[(chance.uniform(0.3, 5), signal.SIGINT)], max_cost=cap)
    virtual_run.run_session(kill=Kill(in_write=chance.randint(1, 80)), max_cost=cap)
    result = virtual_run.run_session(gap_s=60, max_cost=cap)
    assert result is not None
    assert (result.exit_code, result.reason) == (4, "budget")
    assert spent(virtual_run) <= cap.amount
    virtual_run.finish()
    obeys(virtual_run)


def test_a_run_stops_only_when_less_than_one_request_is_left_of_its_budget(tmp_path: Path) -> None:
    provider = Provider(keys={KEY}, latency_s=(0.05, 0.3))
    virtual_run = VirtualRun(tmp_path / "run", [Host(provider)], dialogues(200), rules=LIMITED, prices=PRICES)
    result = virtual_run.run_session(max_cost=usd("0.01"))
    assert result is not None
    assert result.exit_code == 4
    worst = PRICES.ceiling(400, 40)
    assert Decimal("0.01") - worst < spent(virtual_run) <= Decimal("0.01")


def test_a_sufficient_budget_costs_no_time(tmp_path: Path) -> None:
    ends: list[float] = []
    for name, cap in (("free", None), ("capped", usd(5))):
        provider = Provider(keys={KEY}, latency_s=(0.05, 0.3))
        virtual_run = VirtualRun(tmp_path / name, [Host(provider)], dialogues(40), rules=LIMITED, prices=PRICES)
        result = virtual_run.run_session(max_cost=cap)
        assert result is not None
        assert result.exit_code == 0
        ends.append(virtual_run.now)
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_a_resume_with_a_larger_budget_continues_where_the_smaller_one_stopped(tmp_path: Path) -> None:
    provider = Provider(keys={KEY}, latency_s=(0.05, 0.3))
    virtual_run = VirtualRun(tmp_path / "run", [Host(provider)], dialogues(60), rules=LIMITED, prices=PRICES)
    virtual_run.run_session(max_cost=usd("0.004"))
    before = len(virtual_run.ledger())
    again = virtual_run.run_session(max_cost=usd("0.004"))
    assert again is not None
    assert (again.exit_code, len(virtual_run.ledger())) == (4, before)
    result = virtual_run.run_session(max_cost=usd(1))
    assert result is not None
    assert result.exit_code == 0
    obeys(virtual_run, faultless=True)


def test_costs_in_another_currency_are_converted_to_the_currency_of_the_budget(tmp_path: Path) -> None:
    provider = Provider(keys={KEY}, latency_s=(0.05, 0.3))
    yuan = PriceTable(currency="CNY", source="this test", periods=PRICES.periods)
    virtual_run = VirtualRun(tmp_path / "run", [Host(provider)], dialogues(60), rules=LIMITED, prices=yuan)
    rates = ExchangeRates({("USD", "CNY"): Decimal("7.13")})  # 1 / 7.13 has no exact decimal
    virtual_run.manifest = dataclasses.replace(virtual_run.manifest, rates=rates)
    result = virtual_run.run_session(max_cost=usd("0.001"))
    assert result is not None
    assert result.exit_code == 4
    in_yuan = sum((true_cost(entry, yuan) for entry in virtual_run.ledger()), Decimal(0))
    assert Decimal("0.0035") < in_yuan <= Decimal("0.00713")


def test_a_budget_added_after_requests_of_unknown_cost_is_refused_and_not_stored(tmp_path: Path) -> None:
    provider = Provider(keys={KEY}, latency_s=(0.5, 0.9))
    virtual_run = VirtualRun(
        tmp_path / "run", [Host(provider)], dialogues(10), rules=RunRules(concurrency=8), prices=PRICES
    )
    virtual_run.run_session(signals=[(0.3, signal.SIGINT), (0.4, signal.SIGINT)])
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(cb.ConvbatchError, match="their cost is unknown"):
        virtual_run.run_session(max_cost=usd(5))
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    virtual_run.finish()


Step = tuple[str, int]


async def collect_finished(waiting: list[asyncio.Task[Reservation]], held: list[Reservation]) -> bool:
    """Move finished reservations from `waiting` to `held`; return whether a caller got `BudgetReached`."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reached = False
    for task in [task for task in waiting if task.done()]:
        waiting.remove(task)
        if isinstance(task.exception(), BudgetReached):
            reached = True
        else:
            held.append(task.result())
    return reached


USD_PER_STEP = st.sampled_from([Fraction(1), 1 / Fraction("7.13"), Fraction(1, 3), Fraction(0)])
"""What a step of 1 costs: in the currency of the cap, in two others whose rates have no exact decimal, and nothing."""


@given(
    cap=st.integers(1, 60),
    factor=USD_PER_STEP,
    steps=st.lists(st.tuples(st.sampled_from(["reserve", "settle", "refuse", "cancel", "forget"]), st.integers(1, 20))),
)
def test_no_sequence_of_calls_exceeds_the_cap_or_leaves_a_caller_waiting_forever(
    cap: int, factor: Fraction, steps: list[Step]
) -> None:
    async def main() -> None:
        budget = Budget(usd(cap))
        waiting: list[asyncio.Task[Reservation]] = []
        held: list[Reservation] = []
        reached = False
        for step, number in steps:
            if step == "reserve":
                waiting.append(asyncio.create_task(budget.reserve((number * factor,))))
            elif step == "cancel" and waiting:
                waiting.pop(number % len(waiting)).cancel()
            elif held:
                reservation = held.pop(number % len(held))
                if step == "settle":
                    reservation.settle((Fraction(reservation.amounts[0]) * number / 20,))
                elif step == "forget":
                    reservation.is_sent = True
                reservation.close()
            reached = await collect_finished(waiting, held) or reached
            assert budget.accounts[0].spent + sum(one.amounts[0] for one in held) <= cap
            assert not waiting or held, "a caller waits although no reservation is held"
            assert not (reached and waiting)
        budget.close()
        for task in waiting:
            with pytest.raises(LimiterClosed):
                await task

    asyncio.run(main())


@given(
    rate=st.decimals("0.001", "2000", places=4),
    sizes=st.lists(st.tuples(st.integers(1, 9_000), st.integers(0, 100)), min_size=1, max_size=8),
)
def test_a_settled_budget_is_idle_and_ends_every_wait_in_any_currency(
    rate: Decimal, sizes: list[tuple[int, int]]
) -> None:
    async def main() -> None:
        factor = ExchangeRates({("EUR", "USD"): rate}).factor("USD", "EUR")
        assert factor is not None
        share = BudgetShare(budget=Budget(Money(amount=Decimal(10_000), currency="EUR")), prices=PRICES, factor=factor)
        held = [await share.reserve({"most_input_tokens": size, "max_output_tokens": 9}) for size, _ in sizes]
        late = asyncio.create_task(share.budget.reserve((Fraction(10_001),)))
        for reservation, (_, percent) in zip(held, sizes, strict=True):
            assert not late.done()
            reservation.settle((Fraction(reservation.amounts[0]) * percent / 100,))
        with pytest.raises(BudgetReached):
            await asyncio.wait_for(late, 1)

    asyncio.run(main())


PRICED = '[prices.at-gemini."*"]\ncurrency = "USD"\ninput = 0.3\noutput = 2.5\n'


@pytest.mark.slow
def test_max_cost_holds_over_real_sockets_at_concurrency_64(
    convbatch: Command, simulator: Callable[[Provider], Server], tmp_path: Path
) -> None:
    provider = Provider(latency_s=0.02, faults=FaultScript.of(list(FAULTS[:4])))
    write_dataset(tmp_path / "d.jsonl", 60, 3, scripted=False)
    (tmp_path / "convbatch.toml").write_text(
        config_for(simulator(provider).url, models='[run]\nmodels = ["sim-good@at-gemini"]\n\n') + PRICED
    )
    run = convbatch("run", "d.jsonl", "-o", "out", "-j", "64", "--max-output-tokens", "50", "--max-cost", "0.006USD")
    assert run.code == 4, run.err
    table = PriceTable(
        currency="USD",
        source="",
        periods=(Period(input=TokenPrice(base=Decimal("0.3")), output=TokenPrice(base=Decimal("2.5"))),),
    )
    cost = sum((true_cost(entry, table) for entry in provider.ledger.entries), Decimal(0))
    assert Decimal("0.002") < cost <= Decimal("0.006")
    assert "budget reached" in run.err
    assert f"convbatch resume {tmp_path / 'out'} --max-cost 0.012USD" in run.err
    requests = len(provider.ledger.entries)
    again = convbatch("resume", "out")
    assert (again.code, len(provider.ledger.entries)) == (4, requests)
    pending = cb.load(tmp_path / "out").turns["status"].isin(["pending", "error"]).sum()
    assert f"{pending} of 180 turns are open" in again.err
    assert convbatch("resume", "out", "--max-cost", "1USD").code in (0, 3)


async def test_what_a_budget_assumes_is_not_shown_as_spent() -> None:
    budget = Budget(usd(10))
    (await budget.reserve((Fraction(2),))).settle((Fraction(1),))
    assert str(budget) == "1.00 USD of 10.00 USD spent"
    (await budget.reserve((Fraction(3),))).settle(None)
    assert str(budget) == "4.00 USD of 10.00 USD spent, 3.00 USD of it assumed for calls whose cost is unknown"


@pytest.mark.parametrize(
    ("counts", "spent"),
    [
        # 50 x 0.3 + 10 x 2.5
        ({"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}, "40"),
        # the worst case: 100 x 0.6 + 20 x 3.5
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, "130"),
        ({"prompt_tokens": 50, "completion_tokens": 0, "total_tokens": 50}, "130"),
        ({"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 90}, "130"),
        ({"prompt_tokens": 50, "completion_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 11}}, "130"),
        ({"prompt_tokens": 50, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 51}}, "130"),
    ],
)
def test_a_reply_with_impossible_counts_is_settled_at_the_worst_case(counts: Plain, spent: str) -> None:
    body = encode_json({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": counts})
    attempt = Attempt(outcome=PROTOCOLS["openai"].parse_response(body), cls="replied")

    async def settled() -> Fraction | int:
        share = BudgetShare(budget=Budget(usd(1)), prices=PRICES, factor=Fraction(1))
        reservation = await share.reserve({"most_input_tokens": 100, "max_output_tokens": 20})
        share.settle(reservation, attempt)
        return share.budget.accounts[0].spent

    assert asyncio.run(settled()) == Fraction(int(spent), 1_000_000)


REFUSED = [
    ("no money", ["--max-cost", "much"], "", "needs an amount of money"),
    ("an empty text", ["--max-cost", ""], "PRICE", "needs an amount of money"),
    ("nothing", ["--max-cost", "0USD"], "", "needs an amount of money"),
    ("no currency code", ["--max-cost", "5RMB"], "PRICE", "did you mean 5.00CNY?"),
    ("no price", ["--max-cost", "5USD"], "", "needs a price for sim-good@simulator"),
    ("no limit on output", ["--max-cost", "5USD"], "PRICE", "set no max_output_tokens"),
    ("several replies", ["--max-cost", "5", "--max-output-tokens", "9", "-p", "generationConfig.candidateCount=3"],
     "PRICE", "only one reply is read, and all are billed"),
    ("a currency that no price uses", ["--max-cost", "5EUR", "--max-output-tokens", "9"], "PRICE", "is in EUR"),
    ("two currencies, none named", ["--max-cost", "5", "--max-output-tokens", "9", "-m", "sim-drift@simulator"],
     "TWO", "names no currency"),
    ("one of two without a rate", ["--max-cost", "5USD", "--max-output-tokens", "9", "-m", "sim-drift@simulator"],
     "TWO", "bills CNY"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "prices", "what"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED])
def test_a_budget_that_cannot_be_guaranteed_is_refused_before_any_request(
    options: list[str], prices: str, what: str, convbatch: Command, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "d.jsonl", 2, 2)
    good = '[prices.simulator.sim-good]\ncurrency = "USD"\ninput = 1\noutput = 1\n'
    drift = '[prices.simulator.sim-drift]\ncurrency = "CNY"\ninput = 1\noutput = 1\n'
    (tmp_path / "c.toml").write_text({"": "", "PRICE": good, "TWO": good + drift}[prices])
    done = convbatch("run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@simulator", "-o", "out", *options)
    assert done.code == 2
    assert what in done.err
    assert "hint: " in done.err
    assert not (tmp_path / "out").exists()


def test_a_budget_of_the_config_holds_for_the_run_and_its_resume(convbatch: Command, tmp_path: Path) -> None:
    write_dataset(tmp_path / "d.jsonl", 10, 2)
    (tmp_path / "convbatch.toml").write_text(
        '[run]\nmodels = ["sim-good@simulator"]\nmax_cost = "0.00005USD"\n[run.settings]\nmax_output_tokens = 9\n'
        '[prices.simulator."*"]\ncurrency = "USD"\ninput = 0.5\noutput = 1\n'
    )
    done = convbatch("run", "d.jsonl", "-o", "small", "--max-cost", "0.0000001")
    assert done.code == 4
    resume = done.err.rstrip().rpartition("convbatch ")[2].split()  # the printed command
    assert convbatch(*resume).code == 4
    assert "ok" in cb.load(tmp_path / "small").turns["status"].tolist()
    assert convbatch("run", "d.jsonl", "-o", "out").code == 4
    assert convbatch("resume", "out").code == 4
    assert convbatch("resume", "out", "--max-cost", "1").code == 0
