"""What a worker has in place of the session's rate limiter, journal, listener and budget: it asks the coordinator.

A request is admitted together with its intent: the coordinator writes the intent into the journal before it grants the
permit, so a worker that is lost can have sent nothing that the journal does not know.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from fractions import Fraction

from convbatch.cluster.channel import Outgoing
from convbatch.cluster.messages import (
    Asked,
    Attempted,
    Cancelled,
    EncodedRecord,
    Granted,
    LimiterState,
    Note,
    Records,
    Refunded,
    Refused,
    Released,
    Reported,
    Sending,
    Settled,
    Spent,
    Stated,
)
from convbatch.cluster.spool import Spool
from convbatch.engine.budget import BudgetReached, BudgetShare
from convbatch.engine.call import Call
from convbatch.engine.conversation import ConversationState
from convbatch.engine.limiter import LimiterClosed, LimiterStalled, Tokens
from convbatch.engine.retry import Step
from convbatch.engine.throttling import Dimension, Signal
from convbatch.engine.turn_records import ATTEMPT_FIELDS
from convbatch.errors import JournalError
from convbatch.journal.records import Record
from convbatch.pricing import PriceTable
from convbatch.reply import Attempt, Failure, Reply, Status
from convbatch.system import Clock

_OFFSET_SPAN_S = 300.0


@dataclass(slots=True)
class Question:
    """The request that a conversation asks next; its task's context holds it while it is asked."""

    lease: int
    state: ConversationState | None = None
    number: int = 0
    key: str = ""
    size: Mapping[str, int] = field(default_factory=dict[str, int])
    permit: RemotePermit | None = None
    reservation: RemoteReservation | None = None

    def intent(self) -> Record:
        """Return the record that the runner writes before it sends the next attempt."""
        assert self.state is not None
        fields = self.state.attempt_fields(self.key, self.state.attempts + 1)
        return Record("intent", self.state.head(self.number), {**fields, **self.size})


current: ContextVar[Question] = ContextVar("current")


class CoordinatorClock:
    """How much of a message's age is known: the clocks of two machines have no common zero.

    The smallest difference between arrival and sending is that of the clocks and of the fastest message, so the age is
    known up to the time of the fastest message. It is taken over some minutes, because clocks drift.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._before = self._least = math.inf
        self._since = -math.inf

    def heard(self, sent: float) -> None:
        """Record that a message has arrived now, by the time at which it was sent."""
        now = self._clock.monotonic()
        if now - self._since > _OFFSET_SPAN_S:
            self._before, self._least, self._since = self._least, math.inf, now
        self._least = min(self._least, now - sent)

    def age_s(self, at: float) -> float:
        """Return the seconds since a moment of the coordinator's clock."""
        return self._clock.monotonic() - at - min(self._least, self._before)


class RemotePermit:
    """Permission to send one request now; has what `Permit` has."""

    def __init__(
        self, limiter: RemoteLimiter, ticket: int, granted: Granted, waiting: _Waiting, waited_s: float
    ) -> None:
        self._limiter = limiter
        self._held = True
        self._waiting = waiting
        self.ticket = ticket
        self.in_flight = granted.in_flight
        self.is_probe = granted.is_probe
        self.sent_at = limiter.clock.monotonic()
        self.waited_s = waited_s
        self.is_sent = False

    def settle(self, tokens: int | None) -> None:
        """Replace the estimate by the tokens used."""
        if tokens is not None:
            self._limiter.outgoing.put(Settled(self.ticket, tokens))

    def refund(self, *, never_left: bool = False) -> None:
        """Return the tokens of a refused request."""
        self._limiter.outgoing.put(Refunded(self.ticket, never_left))

    def release(self) -> None:
        """Return the place in flight; the intent of a request that was not sent gets an outcome that says so."""
        if not self._held:
            return
        self._held = False
        self._limiter.in_flight -= 1
        if not self.is_sent:
            self._limiter.unsent(self.ticket, self._waiting)
        self._limiter.outgoing.put(Released(self.ticket, self.is_sent))


@dataclass(slots=True)
class _Waiting:
    answer: asyncio.Future[Granted]
    question: Question
    intent: Record


class RemoteLimiter:
    """A rate limiter that is at the coordinator; has what the runner uses of `RateLimiter`."""

    def __init__(
        self,
        *,
        target: str,
        outgoing: Outgoing,
        journal: RemoteJournal,
        clock: Clock,
        coordinator: CoordinatorClock,
        state: LimiterState,
        tickets: Callable[[], int],
        most_age_s: float,
    ) -> None:
        self.target = target
        self.outgoing = outgoing
        self.clock = clock
        self.in_flight = 0
        self.state = state
        self._journal = journal
        self._coordinator = coordinator
        self._tickets = tickets
        self._most_age_s = most_age_s
        self._waiting: dict[int, _Waiting] = {}
        self._closed: LimiterClosed | None = None
        self._settled = asyncio.Event()
        self._settled.set()

    @property
    def tpm(self) -> int | None:
        """Limit of tokens a minute."""
        return self.state.tpm

    @property
    def counts_tokens(self) -> bool:
        """Whether `admit` needs an estimate."""
        return self.state.counts_tokens

    def held_s(self) -> float:
        """Return the seconds so far in which nothing could be sent."""
        return self.state.held_s

    async def admit(self, tokens: Tokens = 0) -> RemotePermit:
        """Wait until the coordinator admits the current question; a grant that took too long is given back.

        Raises:
            LimiterClosed: As `RateLimiter.admit`.
            BudgetReached: The request could exceed the budget.
        """
        question = current.get()
        entered = self.clock.monotonic()
        while True:
            ticket, waiting = await self._ask(question, tokens)
            granted = waiting.answer.result()
            permit = RemotePermit(self, ticket, granted, waiting, self.clock.monotonic() - entered)
            self.in_flight += 1
            if self._coordinator.age_s(granted.at) <= self._most_age_s:
                question.permit = permit
                if question.reservation is not None:
                    question.reservation.ticket = ticket
                return permit
            permit.refund(never_left=True)
            permit.release()

    async def _ask(self, question: Question, tokens: Tokens) -> tuple[int, _Waiting]:
        self._raise_if_closed()
        amount = 0
        if self.counts_tokens:
            amount = tokens if isinstance(tokens, int) else tokens()
        ticket = self._tickets()
        intent = question.intent()
        waiting = _Waiting(asyncio.get_running_loop().create_future(), question, intent)
        self._waiting[ticket] = waiting
        self._settled.clear()
        self.outgoing.put(
            Asked(ticket, self.target, question.lease, EncodedRecord.of(intent), amount, dict(question.size))
        )
        try:
            await waiting.answer
        except asyncio.CancelledError:
            if waiting.answer.done() and not waiting.answer.cancelled() and waiting.answer.exception() is None:
                self._give_back(ticket, waiting)  # granted and cancelled in the same round of the event loop
            else:
                self.outgoing.put(Cancelled(ticket))
            raise
        return ticket, waiting

    def _give_back(self, ticket: int, waiting: _Waiting) -> None:
        self.unsent(ticket, waiting)
        self.outgoing.put(Refunded(ticket, never_left=True))
        self.outgoing.put(Released(ticket, is_sent=False))

    def answered(self, answer: Granted | Refused) -> None:
        """Take the coordinator's answer to a question."""
        waiting = self._waiting.pop(answer.ticket)
        if not self._waiting:
            self._settled.set()
        if isinstance(answer, Granted):
            self.state = answer.state
            if waiting.answer.done():  # cancelled
                self._give_back(answer.ticket, waiting)
            else:
                waiting.answer.set_result(answer)
        elif not waiting.answer.done():
            kind = {"closed": LimiterClosed, "stalled": LimiterStalled, "budget": BudgetReached}[answer.why]
            waiting.answer.set_exception(kind(answer.text))

    async def settle(self) -> None:
        """Wait until every question has an answer."""
        await self._settled.wait()

    def unsent(self, ticket: int, waiting: _Waiting) -> None:
        """Write that the request of an intent, which the coordinator has written, was not sent; number on after it."""
        question = waiting.question
        assert question.state is not None
        head, fields = waiting.intent.head, waiting.intent.fields
        question.state.attempts = max(question.state.attempts, fields["attempt"])
        outcome = {
            **{name: fields[name] for name in ATTEMPT_FIELDS if name in fields},
            "class": "not_sent",
            "started_at": self._journal.wall(),
            "error": {"kind": "connection", "message": "not sent: it was no longer wanted when it was admitted"},
        }
        self._journal.append(Record("outcome", head, outcome), lease=question.lease, ticket=ticket)

    def report(
        self,
        signal: Signal,
        permit: RemotePermit,
        *,
        retry_after_s: float | None = None,
        counted: Dimension = "requests",
    ) -> None:
        """Record the result of a request."""
        self.outgoing.put(Reported(permit.ticket, signal, retry_after_s, counted))

    def use_stated(
        self, requests: tuple[int, float] | None, tokens: tuple[int, float] | None, *, may_lower: bool = True
    ) -> None:
        """Keep limits that the gateway states."""
        if requests is not None or tokens is not None:
            self.outgoing.put(Stated(self.target, requests, tokens, may_lower))

    def close(self) -> None:
        """Reject all waiting and future callers."""
        if self._closed is None:
            self._closed = LimiterClosed("the rate limiter is closed")
            for ticket, waiting in self._waiting.items():
                if not waiting.answer.done():
                    waiting.answer.set_exception(LimiterClosed("the rate limiter is closed"))
                    self.outgoing.put(Cancelled(ticket))

    def _raise_if_closed(self) -> None:
        if self._closed is not None:
            raise LimiterClosed(*self._closed.args)


class RemoteJournal:
    """A journal that the coordinator writes; has what the runner uses of `Journal`."""

    def __init__(self, outgoing: Outgoing, clock: Clock, spool: Spool | None) -> None:
        self._outgoing = outgoing
        self._clock = clock
        self._spool = spool
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._last = 0
        self._failed: str | None = None

    def wall(self) -> float:
        """Return Unix seconds."""
        return self._clock.wall()

    def append(self, record: Record, *, lease: int | None = None, ticket: int | None = None) -> None:
        """Hand a record over; of an intent, which the coordinator wrote with the grant, note that it is used."""
        if record.kind == "intent":
            question = current.get()
            assert question.permit is not None
            question.permit.is_sent = True
            return
        self._hand_over((record,), current.get().lease if lease is None else lease, ticket)

    def append_then(self, record: Record, then: Callable[[], None], refuse: Callable[[JournalError], None]) -> None:
        """Note that an intent is used, as `append`, and call `then`; nothing is refused, it is in the journal."""
        self.append(record)
        then()

    async def commit(self, *records: Record) -> None:
        """Hand records over and return when they are durable; raises `JournalError`."""
        if self._failed is not None:
            raise JournalError(self._failed)
        question = current.get()
        ticket = None if question.permit is None else question.permit.ticket
        number = self._hand_over(records, question.lease, ticket)
        waiter = self._waiting[number] = asyncio.get_running_loop().create_future()
        await waiter

    def _hand_over(self, records: tuple[Record, ...], lease: int, ticket: int | None) -> int:
        number = self._last = next(self._numbers)
        encoded = [EncodedRecord.of(record) for record in records]
        if self._spool is not None:
            try:
                self._spool.write(number, self._clock.wall(), encoded)
            except OSError:
                self._spool = None  # it is a second copy: without it the worker goes on
        self._outgoing.put(Records(number, lease, ticket, encoded))
        return number

    def durable(self, number: int) -> None:
        """Wake those whose records are durable."""
        for waiting in [one for one in self._waiting if one <= number]:
            waiter = self._waiting.pop(waiting)
            if not waiter.done():
                waiter.set_result(None)
        if number == self._last and self._spool is not None:
            self._spool.all_durable()

    def failed(self, text: str) -> None:
        """Fail all that wait."""
        self._failed = text
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(JournalError(text))
        self._waiting.clear()

    def close(self, *, is_complete: bool) -> None:
        """Remove the spool if nothing of it is missing in the journal."""
        if self._spool is not None and is_complete:
            self._spool.remove()


class RemoteReservation:
    """What the coordinator reserves with the permit; has what `Reservation` has."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self.ticket: int | None = None
        self.is_sent = False

    def settle(self, spent: Sequence[Fraction | int | None] | None) -> None:
        """Replace the reservation by what was spent; what is not settled is so with the release of the permit."""
        if self.ticket is not None:
            self._outgoing.put(Spent(self.ticket, spent))

    def close(self) -> None:
        """Do nothing: the coordinator closes the reservation with the permit."""


class NoBudget:
    """Stands for the budget, which is at the coordinator."""

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class RemoteShare:
    """Access to the budget at the coordinator; has what `BudgetShare` has."""

    share: BudgetShare
    outgoing: Outgoing
    budget: NoBudget = NoBudget()  # noqa: RUF009  # it has no state

    async def reserve(self, size: Mapping[str, int]) -> RemoteReservation:
        """Return what is reserved once the permit is granted."""
        reservation = current.get().reservation = RemoteReservation(self.outgoing)
        return reservation

    def settle(self, reservation: RemoteReservation, attempt: Attempt, as_served: PriceTable | None = None) -> None:
        """Settle what the attempt spent, as `BudgetShare` computes it."""
        self.share.settle(reservation, attempt, as_served)  # pyright: ignore[reportArgumentType]  # it calls `settle` alone


class RemoteListener:
    """Tells the coordinator what it shows to the user: failures, notes, and all of it if there is a log."""

    def __init__(self, outgoing: Outgoing, *, tells_all: bool) -> None:
        self._outgoing = outgoing
        self._tells_all = tells_all
        self._has_trouble: set[str] = set()

    def turn_done(self, target: str, status: Status, *, before: bool) -> None:
        """Do nothing: the runner tells it with the conversation."""

    def sending(self, call: Call) -> None:
        """Tell of a request that is sent next, for the log."""
        if self._tells_all:
            self._outgoing.put(Sending(_bare(call)))

    def attempt_done(self, call: Call, attempt: Attempt, step: Step | None) -> None:
        """Tell of a failure, and of the reply after it."""
        is_reply = isinstance(attempt.outcome, Reply)
        if self._tells_all or not is_reply or call.target in self._has_trouble or attempt.wire_note is not None:
            self._outgoing.put(Attempted(_bare(call), attempt._replace(body=None), step))
        if isinstance(attempt.outcome, Failure):
            self._has_trouble.add(call.target)
        else:
            self._has_trouble.discard(call.target)

    def on_text(self, call: Call) -> None:
        """Return None: texts are not shown as they arrive."""

    def conversation_done(self, target: str, dialogue: str, repeat: int) -> None:
        """Do nothing: the runner tells it."""

    def note(self, text: str) -> None:
        """Show a note to the user."""
        self._outgoing.put(Note(text))


def _bare(call: Call) -> Call:
    """Return a call without its script, which only `--follow` needs."""
    return call._replace(script=None)  # pyright: ignore[reportArgumentType]
