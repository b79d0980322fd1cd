"""What the coordinator knows of a worker: its conversations, its requests, its messages that are on their way."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convbatch.cluster.channel import Incoming, Outgoing
from convbatch.cluster.crew import Remote
from convbatch.cluster.messages import EncodedRecord, LimiterState, Refunded, Reported, Settled, Spent
from convbatch.journal.index import TurnHistory

if TYPE_CHECKING:
    from convbatch.engine.budget import Reservation
    from convbatch.engine.limiter import Permit, RateLimiter
    from convbatch.engine.plan import Conversation
    from convbatch.engine.worker import TargetWorker


@dataclass(slots=True)
class Leased:
    """A conversation and what is known of it in this session."""

    number: int
    conversation: Conversation
    past: Mapping[int, Any]
    records: list[EncodedRecord] = field(default_factory=list[EncodedRecord])
    """Those in the journal."""
    rows: list[bool] = field(default_factory=list[bool])
    """Whether each row that was counted is closed."""
    position: int = 0
    """Rows that its present worker has told of."""

    def known_past(self) -> Mapping[int, Any]:
        """Return its turns as a new session would find them."""
        turns: dict[int, TurnHistory] = copy.deepcopy(dict(self.past))
        for record in self.records:
            fields = record.decoded()
            turn = fields["turn"]
            if turn not in turns:
                turns[turn] = TurnHistory(turn=turn)
            turns[turn].add(fields)
        return dict(sorted(turns.items()))

    def has_outcome(self, record: Mapping[str, Any]) -> bool:
        """Return whether the journal has the outcome of this attempt; all steps of a reused reply have the number 0."""
        wanted = _attempt(record)
        return any(
            _attempt(known) == wanted for known in (one.decoded() for one in self.records if one.kind == "outcome")
        )


def _attempt(record: Mapping[str, Any]) -> tuple[int, int, int]:
    return record["turn"], record["attempt"], record.get("step", 1)


@dataclass(slots=True)
class Ticket:
    """A request of a worker that waits, or is in flight."""

    target: TargetWorker
    lease: int
    task: asyncio.Task[None] | None = None
    permit: Permit | None = None
    reservation: Reservation | None = None


@dataclass(slots=True)
class Link:
    """A worker as the coordinator sees it."""

    number: int
    incarnation: int
    remote: Remote
    outgoing: Outgoing = field(default_factory=Outgoing)
    incoming: Incoming = field(default_factory=Incoming)
    free: dict[str, int] = field(default_factory=dict[str, int])
    """How many more conversations of each target it takes."""
    leases: dict[int, Leased] = field(default_factory=dict[int, Leased])
    tickets: dict[int, Ticket] = field(default_factory=dict[int, Ticket])
    has_ended: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])


def report_to(ticket: Ticket, permit: Permit, message: Settled | Refunded | Reported | Spent) -> None:
    """Pass on what a worker says of a request in flight."""
    match message:
        case Settled():
            permit.settle(message.tokens)
        case Refunded():
            permit.refund(never_left=message.never_left)
            if message.never_left and ticket.reservation is not None:
                ticket.reservation.is_sent = False
        case Reported():
            ticket.target.limiter.report(
                message.signal, permit, retry_after_s=message.retry_after_s, counted=message.counted
            )
        case Spent():
            if ticket.reservation is not None:
                ticket.reservation.settle(message.amounts)


def state_of(limiter: RateLimiter) -> LimiterState:
    """Return what a worker must know of a rate limiter."""
    return LimiterState(limiter.counts_tokens, limiter.tpm, limiter.held_s())
