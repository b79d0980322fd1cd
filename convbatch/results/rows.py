"""Journal and dataset of a run folder → the sources of table rows, made one conversation at a time.

A source is what the functions of a table's columns (`columns.py`) read. Nothing here knows which columns there are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, TypeVar

import orjson

from convbatch.checks.builtin import CheckRunner
from convbatch.journal.index import Archive, TurnHistory
from convbatch.journal.manifest import Manifest, ManifestTarget
from convbatch.journal.run_folder import RunFolder
from convbatch.reply import POSSIBLY_PAID, Usage, billed_usage
from convbatch.results.conversations import (
    ConversationId,
    StoredConversation,
    gateway_of,
    judges_by_name,
    stored_conversations,
)
from convbatch.results.costs import attempt_cost, attempt_cost_bound, cache_saving, find_intent, price_source, prices_of
from convbatch.results.verdicts import CheckOutcome, VerdictTotals, dialogue_pass, evaluate_checks, sum_verdicts
from convbatch.served_model import served_as_asked

N = TypeVar("N", int, float, Decimal)
WORST_FIRST = ("pending", "error", "blocked", "empty", "skipped", "ok")
"""Order in which one turn's status decides its conversation's; `skipped` comes after its causes."""


class TurnCosts(NamedTuple):
    """Costs of one turn in the currency of its prices; a field is None as the column of its name is null."""

    cost: float | None = None
    currency: str | None = None
    price_source: str | None = None
    cache_saving: float | None = None
    failed_cost: float | None = None
    possibly_paid_bound: float | None = None
    possibly_paid_unbounded: int = 0


class TurnError(NamedTuple):
    """Why a turn has no reply, or its last attempt none."""

    kind: str | None = None
    message: str | None = None


class AskedTurn(NamedTuple):
    """Source of a row of `turns`."""

    id: ConversationId
    turn: int
    tags: Sequence[str]
    user: str
    past: TurnHistory
    reply: Mapping[str, Any]
    """The complete reply as journaled; empty without one."""
    usage: Mapping[str, Any]
    last: Mapping[str, Any]
    """Record of the reply, or of the last finished attempt; empty without one."""
    served_as_asked: bool | None
    """None where the reply names no model."""
    costs: TurnCosts
    error: TurnError
    verdicts: VerdictTotals
    """Of the checks on this turn."""


class CheckVerdict(NamedTuple):
    """Source of a row of `verdicts`."""

    id: ConversationId
    outcome: CheckOutcome

    @property
    def judge(self) -> str | None:
        """Name of the judge that was asked."""
        return None if self.outcome.judge_call is None else self.outcome.judge_call.judge

    @property
    def judge_reply(self) -> str | None:
        """Text of the judge's answer."""
        kept = None if self.outcome.judge_call is None else self.outcome.judge_call.history.kept
        return None if kept is None else kept["reply"].get("text")


class AttemptCost(NamedTuple):
    """Cost of one attempt, or its upper bound."""

    is_possibly_paid: bool
    cost: Decimal | None
    bound: Decimal | None


class AttemptRecord(NamedTuple):
    """Source of a row of `attempts`: an `outcome` record, or an `intent` record that has none."""

    id: ConversationId
    turn: int | None
    judged: str | None
    record: Mapping[str, Any]
    reply: Mapping[str, Any]
    failure: Mapping[str, Any]
    usage: Usage
    costs: AttemptCost
    currency: str | None
    started_at: float | None
    is_kept: bool
    """Whether the turn's reply is made of its answer."""


class StoredVerdict(NamedTuple):
    """A row of `verdicts.parquet`, as far as sums need it."""

    turn: int | None
    passed: bool | None
    score: float | None
    weight: float


class ConversationTurns:
    """Source of a row of `conversations`: its rows of `turns`, column by column, and its verdicts."""

    def __init__(self, cells: Mapping[str, Sequence[Any]], verdicts: Sequence[StoredVerdict], history: str) -> None:
        self.cells = cells
        self.id = ConversationId(*(cells[name][0] for name in ConversationId._fields))
        self.tags: Sequence[str] = cells["tags"][0]
        self.history = history
        self.statuses = Counter[str](cells["status"])
        self.verdicts = sum_verdicts(verdict[1:] for verdict in verdicts if verdict.turn is None)
        """Of the checks on the whole dialogue."""
        self.dialogue_pass = dialogue_pass(cells["status"], [verdict.passed for verdict in verdicts])

    @property
    def tokens_unknown(self) -> int:
        """Turns with a reply whose input or output count is unknown."""
        return sum(map(is_uncounted, *(self.cells[n] for n in ("finish_reason", "input_tokens", "output_tokens"))))

    def known(self, name: str) -> list[Any]:
        """Return the values of a column that are not null."""
        return [value for value in self.cells[name] if value is not None]


def judged_conversations(
    conversations: Iterable[StoredConversation],
) -> Iterator[tuple[Iterator[AskedTurn], list[CheckVerdict]]]:
    """Yield of each conversation the sources of its turns, and of its verdicts."""
    check_runner = CheckRunner()
    for stored in conversations:
        outcomes = list(evaluate_checks(stored.result, check_runner))
        yield _asked_turns(stored, outcomes), [CheckVerdict(stored.id, outcome) for outcome in outcomes]


def _asked_turns(stored: StoredConversation, outcomes: Iterable[CheckOutcome]) -> Iterator[AskedTurn]:
    by_turn = {turn: list(group) for turn, group in groupby(outcomes, attrgetter("turn"))}
    for number, past in stored.asked.items():
        reply = past.reply
        mine = [outcome for outcome in past.outcomes if outcome.get("key") == past.key]
        yield AskedTurn(
            id=stored.id,
            turn=number,
            tags=stored.dialogue.tags,
            user=stored.dialogue.turns[number - 1].user_text,
            past=past,
            reply=reply,
            usage=reply.get("usage", {}),
            last=past.kept or (mine[-1] if mine else {}),
            served_as_asked=served_as_asked(
                stored.target.model, reply.get("model_version"), stored.target.gateway.aliases
            ),
            costs=_turn_costs(stored.target, past),
            error=_turn_error(past, reply),
            verdicts=sum_verdicts(
                (outcome.verdict.passed, outcome.verdict.score, outcome.check.weight)
                for outcome in by_turn.get(number, ())
            ),
        )


def _turn_costs(target: ManifestTarget, past: TurnHistory) -> TurnCosts:
    """Sum up exactly; a float carries 15 digits of a decimal there and back (`pricing.exact`)."""
    prices = target.prices if past.kept is None else prices_of(target, past.kept) or target.prices
    if prices is None:
        return TurnCosts(possibly_paid_unbounded=past.possibly_paid)
    costs = [attempt_cost(target, record) for record in past.replied]
    cost = None if None in costs else sum_known(costs)
    source = None if cost is None or past.kept is None else price_source(target, past.kept)
    others = [_attempt_cost(record, past, target) for record in _attempt_records(past) if not _is_kept(record, past)]
    failed = sum_known(other.cost for other in others)
    bounds = [other.bound for other in others if other.is_possibly_paid and other.cost is None]
    bound = None if None in bounds else sum_known(bounds)
    return TurnCosts(
        cost=to_float(cost),
        currency=None if cost is None and failed is None and bound is None else prices.currency,
        price_source=source,
        cache_saving=to_float(sum_known(cache_saving(target, record) for record in past.replied)),
        failed_cost=to_float(failed),
        possibly_paid_bound=to_float(bound),
        possibly_paid_unbounded=bounds.count(None),
    )


def _is_kept(record: Mapping[str, Any], past: TurnHistory) -> bool:
    return any(record is kept for kept in past.replied)


def _attempt_cost(attempt: Mapping[str, Any], past: TurnHistory, target: ManifestTarget) -> AttemptCost:
    if attempt["kind"] == "intent":
        possibly_paid = past.in_flight_from is None or attempt["seq"] < past.in_flight_from
    else:
        possibly_paid = attempt["class"] in POSSIBLY_PAID
    cost = attempt_cost(target, attempt)
    bound = None
    if possibly_paid and cost is None:
        bound = attempt_cost_bound(target, find_intent(past, attempt["attempt"]))
    return AttemptCost(possibly_paid, cost, bound)


def _attempt_records(past: TurnHistory) -> list[dict[str, Any]]:
    """Every attempt this run made for a turn: its `outcome` record, or the `intent` record that has none."""
    made = [outcome for outcome in past.outcomes if outcome["attempt"]]
    waiting = {intent["attempt"]: intent for intent in past.open_intents}
    return sorted([*made, *waiting.values()], key=itemgetter("attempt", "seq"))


def _turn_error(past: TurnHistory, reply: Mapping[str, Any]) -> TurnError:
    if past.status in ("skipped", "ok"):
        return TurnError(None, past.reason)
    if past.status not in (None, "error"):
        return TurnError()
    if reply:
        return TurnError("malformed_output", past.reason or f"the generation failed: {reply.get('finish_reason_raw')}")
    if past.last_failure is not None:
        failure = past.last_failure["error"]
        return TurnError(failure["kind"], failure["message"])
    return TurnError(None, past.reason)


def attempts(folder: RunFolder, manifest: Manifest, archive: Archive) -> Iterator[AttemptRecord]:
    """Read every attempt in the order of the tables: a conversation's own first, then those of its judges."""
    judges = judges_by_name(manifest, archive)
    for stored in stored_conversations(folder, manifest, archive):
        yield from conversation_attempts(stored.id, stored.turns, stored.target)
        for judge_call in stored.judge_calls:
            judge = judges[judge_call.judge]
            judge_id = stored.id._replace(target=judge.name, model=judge.model, gateway=gateway_of(judge))
            for record in _attempt_records(judge_call.history):
                made = _attempt(judge_id, judge_call.turn, record, judge_call.history, judge)
                yield made._replace(judged=judge_call.target)


def conversation_attempts(
    conversation: ConversationId, turns: Mapping[int, TurnHistory], target: ManifestTarget
) -> Iterator[AttemptRecord]:
    """Read every attempt of a conversation's turns."""
    for number, past in turns.items():
        for record in _attempt_records(past):
            yield _attempt(conversation, number, record, past, target)


def _attempt(
    conversation: ConversationId,
    turn: int | None,
    record: Mapping[str, Any],
    past: TurnHistory,
    target: ManifestTarget,
) -> AttemptRecord:
    reply: Mapping[str, Any] = record.get("reply", {})
    failure: Mapping[str, Any] = record.get("error", {})
    usage = Usage(**(reply or failure).get("usage", {}))
    costs = _attempt_cost(record, past, target)
    prices = prices_of(target, record) or target.prices
    if "gateway" in record:  # of a pool
        conversation = conversation._replace(gateway=record["gateway"])
    return AttemptRecord(
        id=conversation,
        turn=turn,
        judged=None,
        record=record,
        reply=reply,
        failure=failure,
        usage=billed_usage(record.get("class", ""), failure.get("kind"), usage),
        costs=costs,
        currency=None if prices is None or (costs.cost is None and costs.bound is None) else prices.currency,
        started_at=record["at"] if record["kind"] == "intent" else record.get("started_at"),
        is_kept=_is_kept(record, past),
    )


def waited_s(record: Mapping[str, Any], name: str) -> float | None:
    """Return a wait of a finished attempt, which the journal omits when zero; None for a lost or reused one."""
    return record.get(name, 0.0) if record["kind"] == "outcome" and record["attempt"] else None


def worst_status(statuses: Mapping[str, int]) -> str:
    """Return a conversation's status from how often each status occurs."""
    return next(status for status in WORST_FIRST if statuses.get(status))


def is_uncounted(finish_reason: str | None, input_tokens: int | None, output_tokens: int | None) -> bool:
    """Return whether there is a reply whose input or output count is unknown."""
    return finish_reason is not None and (input_tokens is None or output_tokens is None)


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


def to_float(amount: Decimal | None) -> float | None:
    """Convert an amount; None stays None."""
    return None if amount is None else float(amount)


def to_datetime(seconds: float | None) -> datetime | None:
    """Convert seconds since 1970 to an aware time; None stays None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
