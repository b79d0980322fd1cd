"""Journal and dataset of a run folder → the rows of its tables, made one dialogue at a time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson

from convbatch.checks.builtin import CheckRunner
from convbatch.journal.index import Archive, TurnHistory
from convbatch.journal.run_folder import RunFolder
from convbatch.pricing import PriceTable
from convbatch.reply import POSSIBLY_PAID, USAGE_COUNTS, Usage, billed_usage
from convbatch.results.columns import CONVERSATIONS, STATUSES, TURNS, VERDICTS, WORST_FIRST, Row
from convbatch.results.conversations import gateway_of, judges_by_name, stored_conversations
from convbatch.results.costs import attempt_cost, attempt_cost_bound, find_intent, target_prices
from convbatch.results.parquet import BATCH_ROWS, Arrow, arrow_table, read_rows, verdicts_beside
from convbatch.results.verdicts import CheckOutcome, dialogue_pass, evaluate_checks, sum_verdicts

N = TypeVar("N", int, float, Decimal)
_SHORT = tuple(column.name for column in TURNS if not column.is_long)


def turn_rows(
    folder: RunFolder, meta: Mapping[str, Any], archive: Archive, given: list[Row], verdict_file: Arrow
) -> Iterator[Row]:
    """The rows of `turns`; those of `verdicts` go to their file meanwhile, the last of them stay in `given`."""
    check_runner = CheckRunner()
    for stored in stored_conversations(folder, meta, archive):
        dialogue = stored.dialogue
        verdicts = {
            turn: list(many) for turn, many in groupby(evaluate_checks(stored.result, check_runner), attrgetter("turn"))
        }
        given += (_verdict_row(stored.head, one) for many in verdicts.values() for one in many)
        if len(given) >= BATCH_ROWS:
            verdict_file.write_table(arrow_table(VERDICTS, given))
            given.clear()
        for number, past in stored.asked.items():
            yield (
                *stored.head,
                number,
                list(dialogue.tags),
                *_turn_cells(past, dialogue.turns[number - 1].user_text, stored.prices),
                *sum_verdicts(
                    (one.verdict.passed, one.verdict.score, one.check.weight) for one in verdicts.get(number, ())
                ),
            )


def _verdict_row(head: Row, outcome: CheckOutcome) -> Row:
    check, judge_call = outcome.check, outcome.judge_call
    kept = None if judge_call is None else judge_call.history.kept
    answer = None if kept is None else kept["reply"].get("text")
    judge = None if judge_call is None else judge_call.judge
    return (*head, outcome.turn, check.name, check.kind, check.weight, *outcome.verdict, judge, answer)


def _turn_cells(past: TurnHistory, user: str, prices: PriceTable | None) -> Row:
    """`status` to `reused_from`."""
    reply: Mapping[str, Any] = past.kept["reply"] if past.kept else {}
    usage: Mapping[str, Any] = reply.get("usage", {})
    mine = [outcome for outcome in past.outcomes if outcome.get("key") == past.key]
    last: Mapping[str, Any] = past.kept or (mine[-1] if mine else {})
    return (
        past.status or "pending",
        user,
        reply.get("text"),
        reply.get("thought"),
        to_json(reply["tool_calls"]) if reply.get("tool_calls") else None,
        1 if reply else None,
        reply.get("finish_reason"),
        reply.get("finish_reason_raw"),
        reply.get("blocked"),
        *(usage.get(name) for name in USAGE_COUNTS),
        usage.get("source"),
        usage.get("consistent"),
        *_costs(prices, past),
        reply.get("model_version"),
        reply.get("response_id"),
        last.get("request_id"),
        last.get("http_status"),
        past.attempts,
        past.possibly_paid,
        sum_known(_waited_s(outcome, "limiter_wait_s") for outcome in past.outcomes),
        sum_known(_waited_s(outcome, "retry_wait_s") for outcome in past.outcomes),
        last.get("latency_s"),
        last.get("ttft_s"),
        _to_datetime(last.get("started_at")),
        *_error_cells(past, reply),
        past.reused_from,
    )


def _cost(prices: PriceTable | None, record: Mapping[str, Any] | None) -> tuple[float | None, str | None, str | None]:
    """`cost`, `currency` and `price_source`.

    A float carries 15 digits of a decimal there and back (`pricing.exact`), so sums are made without its errors.
    """
    cost = attempt_cost(prices, record)
    if cost is None or prices is None or record is None:
        return None, None, None
    return float(cost), prices.currency, prices.source_at(record["started_at"])


def _costs(prices: PriceTable | None, past: TurnHistory) -> Row:
    """`cost` to `possibly_paid_bound`."""
    cost, currency, source = _cost(prices, past.kept)
    if prices is None:
        return None, None, None, None, None
    bills = [_attempt_cost(attempt, past, prices) for attempt in _attempt_records(past) if attempt is not past.kept]
    failed = _float(sum_known(bill.cost for bill in bills))
    unknown = [bill.bound for bill in bills if bill.is_possibly_paid and bill.cost is None]
    bound = None
    if past.possibly_paid and None not in unknown:
        bound = float(sum_known(unknown) or 0)
    if currency is None and (failed is not None or bound is not None):
        currency = prices.currency
    return cost, currency, source, failed, bound


class _AttemptCost(NamedTuple):
    """What one attempt cost, or can have cost."""

    is_possibly_paid: bool
    cost: Decimal | None
    bound: Decimal | None


def _attempt_cost(attempt: Mapping[str, Any], past: TurnHistory, prices: PriceTable | None) -> _AttemptCost:
    if attempt["kind"] == "intent":
        possibly_paid = past.in_flight_from is None or attempt["seq"] < past.in_flight_from
    else:
        possibly_paid = attempt["class"] in POSSIBLY_PAID
    cost = attempt_cost(prices, attempt)
    bound = (
        attempt_cost_bound(prices, find_intent(past, attempt["attempt"])) if possibly_paid and cost is None else None
    )
    return _AttemptCost(possibly_paid, cost, bound)


def _attempt_records(past: TurnHistory) -> list[dict[str, Any]]:
    """Every attempt this run made for a turn: its `outcome` record, or the `intent` record that has none."""
    made = [outcome for outcome in past.outcomes if outcome["attempt"]]
    waiting = {intent["attempt"]: intent for intent in past.open_intents}
    return sorted([*made, *waiting.values()], key=itemgetter("attempt", "seq"))


def _float(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


def _error_cells(past: TurnHistory, reply: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """`error_kind` and `error_message`."""
    if past.status == "skipped":
        return None, past.reason
    if past.status not in (None, "error"):
        return None, None
    if reply:
        return "malformed_output", past.reason or f"the generation broke: {reply.get('finish_reason_raw')}"
    if past.last_failure is not None:
        failure = past.last_failure["error"]
        return failure["kind"], failure["message"]
    return None, past.reason


def attempt_rows(folder: RunFolder, meta: Mapping[str, Any], archive: Archive) -> Iterator[Row]:
    """Read the rows of `attempts`."""
    judges = {name: (judge, target_prices(judge)) for name, judge in judges_by_name(meta, archive).items()}
    for stored in stored_conversations(folder, meta, archive):
        for number, past in stored.turns.items():
            for attempt in _attempt_records(past):
                yield (*stored.head, number, *_attempt_cells(attempt, past, stored.prices, None))
        run, dialogue, index, *_, repeat = stored.head
        for judge_call in stored.judge_calls:
            judge, prices = judges[judge_call.judge]
            head = (run, dialogue, index, judge_call.judge, judge["model"], gateway_of(judge), repeat)
            for attempt in _attempt_records(judge_call.history):
                yield (*head, judge_call.turn, *_attempt_cells(attempt, judge_call.history, prices, judge_call.target))


def _attempt_cells(attempt: Mapping[str, Any], past: TurnHistory, prices: PriceTable | None, judged: str | None) -> Row:
    """`attempt` to `request_id`, of an `outcome` record or of an `intent` that has none."""
    reply: Mapping[str, Any] = attempt.get("reply", {})
    failure: Mapping[str, Any] = attempt.get("error", {})
    usage = Usage(**(reply or failure).get("usage", {}))
    usage = billed_usage(attempt.get("class", ""), failure.get("kind"), usage)
    bill = _attempt_cost(attempt, past, prices)
    return (
        attempt["attempt"],
        attempt.get("role", "model"),
        judged,
        attempt.get("class"),
        bill.is_possibly_paid,
        attempt.get("http_status"),
        reply.get("finish_reason"),
        failure.get("kind"),
        failure.get("message"),
        failure.get("text"),
        *(getattr(usage, name) for name in USAGE_COUNTS),
        _float(bill.cost),
        _float(bill.bound),
        None if prices is None or (bill.cost is None and bill.bound is None) else prices.currency,
        _waited_s(attempt, "limiter_wait_s"),
        _waited_s(attempt, "retry_wait_s"),
        attempt.get("latency_s"),
        attempt.get("ttft_s"),
        _to_datetime(attempt["at"] if attempt["kind"] == "intent" else attempt.get("started_at")),
        attempt.get("request_id"),
    )


def _waited_s(record: Mapping[str, Any], name: str) -> float | None:
    """A wait of a finished attempt: the journal leaves out those of no time at all. Null for a lost or reused one."""
    return record.get(name, 0.0) if record["kind"] == "outcome" and record["attempt"] else None


def to_json(value: Any) -> str:
    """Encode a value as compact JSON."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # integers beyond 64 bits, half surrogate pairs
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def sum_known(values: Iterable[N | None]) -> N | None:
    """Add up the known values; None when none is known."""
    total = None
    for value in values:
        if value is not None:
            total = value if total is None else total + value
    return total


def _to_datetime(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


CONVERSATION_KEY = ("dialogue_index", "target", "repeat")


def verdict_groups(path: Path) -> Generator[list[Row], tuple[int, str, int]]:
    """Send a conversation's key, in the table's order; get its verdicts as (turn, passed, score, weight)."""
    names = (*CONVERSATION_KEY, "turn", "passed", "score", "weight")
    groups = groupby(read_rows(verdicts_beside(path), names), key=itemgetter(0, 1, 2))
    due = next(groups, None)
    found: list[Row] = []
    while True:
        wanted = yield found
        found = []
        if due is not None and due[0] == wanted:
            found = [row[3:] for row in due[1]]
            due = next(groups, None)


def conversation_rows(path: Path, history: str) -> Iterator[Row]:
    """Read the rows of `conversations` from the two table files."""
    key = itemgetter(*(_SHORT.index(name) for name in CONVERSATION_KEY))
    verdicts = verdict_groups(path)
    next(verdicts)
    for conversation, rows in groupby(read_rows(path, _SHORT), key=key):
        cells = dict(zip(_SHORT, zip(*rows, strict=True), strict=True))
        given = verdicts.send(conversation)
        yield (
            *(cells[column.name][0] for column in CONVERSATIONS[:8]),
            history,
            *_statuses(cells["status"]),
            *(
                sum_known(cells[name])
                for name in ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
            ),
            sum(map(is_uncounted, cells["finish_reason"], cells["input_tokens"], cells["output_tokens"])),
            sum(cells["attempts"]),
            sum(cells["possibly_paid"]),
            sum(source is not None for source in cells["reused_from"]),
            *(sum_known(cells[name]) for name in ("latency_s", "limiter_wait_s", "retry_wait_s")),
            [response for response in cells["response_id"] if response is not None],
            *sum_verdicts(row[1:] for row in given if row[0] is None),
            dialogue_pass(cells["status"], [row[1] for row in given]),
        )


def _statuses(statuses: Sequence[str]) -> Row:
    """`status` to `pending` of a conversation."""
    counts = Counter(statuses)
    worst = next(status for status in WORST_FIRST if counts[status])
    return (worst, len(statuses), *(counts[status] for status in STATUSES))


def is_uncounted(finish_reason: str | None, given: int | None, taken: int | None) -> bool:
    """A reply came, and it is not known what it used."""
    return finish_reason is not None and (given is None or taken is None)
