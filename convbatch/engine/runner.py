"""Run conversations turn by turn; the only owner of tasks and cancellation.

The rate limiter decides when a request is sent, `retry.py` whether it is sent again, the protocol what a response means
and the journal what is stored: this file puts them in order. A reply is durable before anything that follows from it.
"""

from __future__ import annotations

import asyncio
import base64
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple, Protocol

from convbatch.config.gateways import Limits, Target
from convbatch.dialogue import NO_SETTINGS, HistoryMode, Message, Settings, Turn, effective_settings, text_part
from convbatch.engine.budget import Budget, BudgetReached, Reservation
from convbatch.engine.client import Client, NotSentCancelled
from convbatch.engine.limiter import LimiterClosed, LimiterStalled, Permit, RateLimiter
from convbatch.engine.plan import Conversation, TokenBound, TurnKeys, max_output_bound, text_bytes
from convbatch.engine.retry import (
    INITIAL_RETRY_STATE,
    GiveUp,
    RetryState,
    SendAgain,
    SuspendTarget,
    TargetHealth,
    next_step,
    signal,
)
from convbatch.errors import ConvbatchError, JournalError, SetupError
from convbatch.journal.records import kept_body
from convbatch.journal.writer import Journal
from convbatch.pricing import PriceTable
from convbatch.protocols.replay import WITHOUT_SIGNATURES
from convbatch.protocols.wire import Ask, CannotCarry
from convbatch.reply import (
    NO_USAGE,
    RESULT_KINDS,
    Attempt,
    Failure,
    Reply,
    Status,
    Usage,
    billed_usage,
    failure_to_plain,
    is_open,
    reply_from_plain,
    reply_to_plain,
    status_of,
)
from convbatch.system import System

DEFAULT_MAX_ATTEMPTS = 5
StopReason = Literal["finished", "interrupted", "deadline", "budget"]
YIELD_EVERY = 64
"""Number of finished conversations that a worker skips before it yields to the event loop."""
FRAME_TOKENS = 4
"""The most tokens that a message counts in addition to its text: its role and delimiters."""
STARTED_AT_ONCE = 8
"""Tasks started between two yields: hundreds would open hundreds of connections before the first request is sent."""


class PastTurn(Protocol):
    """One turn in earlier sessions (`journal.index.TurnHistory`)."""

    status: Status | None
    attempts: int

    @property
    def error_kind(self) -> str | None:
        """Kind of the latest failure; None without one, and where there is a reply."""
        ...

    @property
    def kept(self) -> Mapping[str, Any] | None:
        """The `outcome` record of the reply that counts, if there is one."""
        ...

    def finished(self, key: str) -> bool:
        """Return whether the turn with exactly this key has a terminal state."""
        ...

    def unread_answers(self, key: str) -> Iterable[Mapping[str, Any]]:
        """Return the `outcome` records of answers to this question in which no reply was found, newest first."""
        ...


Past = Callable[[Conversation], Mapping[int, PastTurn]]
"""Look-up of a conversation's turns in earlier sessions, by turn number."""


class ReplySource(Protocol):
    """Another run whose replies may be reused (`journal.index.Archive`)."""

    def turn_by_key(self, key: str, repeat: int) -> Any:
        """Return a finished turn with this key, or None."""
        ...


class Listener(Protocol):
    """Receiver of durable results and notes; called on the event loop, must not block."""

    def turn_done(self, target: str, status: Status, *, before: bool) -> None:
        """Record that a row reached a terminal state; `before`: in an earlier session."""
        ...

    def note(self, text: str) -> None:
        """Show a note to the user."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRules:
    """Options that apply to all targets of a run."""

    history: HistoryMode = "live"
    repeats: int = 1
    concurrency: int | None = None
    """`-j`; None = the limit of each gateway."""
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    command_line: Settings = NO_SETTINGS
    retry_errors: bool = True
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetShare:
    """A target's access to the budget of the run."""

    budget: Budget
    prices: PriceTable
    factor: Decimal
    """Exchange rate from price currency to budget currency."""

    async def reserve(self, size: Mapping[str, int]) -> Reservation:
        """Reserve the worst case of a call; raises `BudgetReached`."""
        worst = self.prices.ceiling(size["most_input_tokens"], size["max_output_tokens"])
        return await self.budget.reserve(worst * self.factor)

    def settle(self, reservation: Reservation, attempt: Attempt, as_served: PriceTable | None = None) -> None:
        """Settle the cost of the attempt: zero if it was certainly not paid, the worst case if that is unknown.

        Args:
            reservation: The worst case, at the prices of the asked model.
            attempt: The call.
            as_served: Prices of the model that answered, in the same currency; None = those of the asked one.
        """
        kind = attempt.outcome.kind if isinstance(attempt.outcome, Failure) else None
        cost = (as_served or self.prices).cost(
            billed_usage(attempt.cls, kind, attempt.outcome.usage), attempt.started_at
        )
        if cost is None and attempt.cls in ("refused", "not_sent", "final"):
            cost = Decimal(0)
        reservation.settle(None if cost is None else cost * self.factor)


@dataclass(slots=True, kw_only=True)
class TargetWorker:
    """Everything one target needs; targets share only journal and budget, and a rate limiter if they share a quota."""

    target: Target
    client: Client
    limiter: RateLimiter
    health: TargetHealth
    places: int
    """Most requests in flight."""
    own_places: asyncio.Semaphore | None = None
    """Set only if targets share a rate limiter: keeps one of them from taking all places."""
    budget_share: BudgetShare | None = None
    """Set only if the run has a budget."""
    find_prices: Callable[[str], PriceTable | None] = lambda served: None
    """Prices of a reply by the model name in it; None = those of the asked model."""
    suspended: str | None = None
    """Reason of the suspension."""
    counts: Counter[Status] = field(default_factory=Counter)
    closed: int = 0
    """Number of rows that have a result."""

    def prices_as_served(self, outcome: Reply | Failure) -> PriceTable | None:
        """Return the prices of the model that answered; None if those of the asked model apply."""
        served = outcome.model_version if isinstance(outcome, Reply) else None
        return self.find_prices(served) if served else None

    async def admit(self, tokens: int) -> Permit:
        """Wait for admission; raises `LimiterClosed`."""
        if self.own_places is None:
            return await self.limiter.admit(tokens)
        await self.own_places.acquire()
        try:
            return await self.limiter.admit(tokens)
        except BaseException:
            self.own_places.release()
            raise

    def release(self, permit: Permit) -> None:
        """Return a place in flight."""
        permit.release()
        if self.own_places is not None:
            self.own_places.release()


class TurnEnd(NamedTuple):
    """Terminal state of a turn, with its reply if there is one."""

    status: Status
    reply: Reply | None
    reason: str | None = None
    error_kind: str | None = None
    """Of a turn that a failure ended."""


class Runner:
    """Runs the open turns of a plan in one session; can be stopped, and never loses a received reply."""

    def __init__(
        self,
        *,
        workers: Iterable[TargetWorker],
        rules: RunRules,
        journal: Journal,
        system: System,
        listener: Listener,
        past: Past | None = None,
        reuse: tuple[str, ReplySource] | None = None,
    ) -> None:
        self._workers = tuple(workers)
        self._rules = rules
        self._journal = journal
        self._system = system
        self._listener = listener
        self._past = past
        self._reuse = reuse
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.reason: StopReason = "finished"
        self.bugs: list[str] = []
        """Tracebacks of internal errors, at most one per conversation; a run with any exits with 70."""

    @property
    def workers(self) -> tuple[TargetWorker, ...]:
        """The workers, with their counts and suspensions so far."""
        return self._workers

    async def run(self, plans: Mapping[str, Iterator[Conversation]]) -> None:
        """Run each target's conversations until all are done or suspended, or `stop` is called.

        Raises:
            JournalError: The journal could not be written; records committed before remain valid.
            InputError: The run's copy of the dataset cannot be read to its end.
        """
        timer: asyncio.TimerHandle | None = None
        if self._rules.deadline_s is not None:
            timer = asyncio.get_running_loop().call_later(self._rules.deadline_s, self.stop, "deadline")
        try:
            async with asyncio.TaskGroup() as group:
                for worker in self._workers:
                    group.create_task(self._start(worker, plans[worker.target.name], group))
        except BaseExceptionGroup as failures:
            # JournalError first: it may have caused the others.
            for kind in (JournalError, ConvbatchError):
                known, _ = failures.split(kind)
                if known is not None:
                    raise _first(known) from None
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def stop(self, reason: StopReason) -> None:
        """Admit no more requests; those in flight finish and are stored."""
        if self.reason == "finished" or reason == "interrupted":
            self.reason = reason
        self._stopping.set()
        for worker in self._workers:
            worker.limiter.close()
            if worker.budget_share is not None:
                worker.budget_share.budget.close()

    def abandon(self) -> None:
        """Cancel the requests in flight; they are journaled as possibly paid."""
        self.stop("interrupted")
        for task in self._tasks:
            task.cancel()

    async def _start(self, worker: TargetWorker, plan: Iterator[Conversation], group: asyncio.TaskGroup) -> None:
        # Twice as many conversations as places in flight, so that one is always ready when a place becomes free.
        for number in range(1, 2 * worker.places + 1):
            self._tasks.append(group.create_task(self._work(worker, plan)))
            if number % STARTED_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _work(self, worker: TargetWorker, plan: Iterator[Conversation]) -> None:
        for passed, conversation in enumerate(plan):
            if self._stopping.is_set() or worker.suspended is not None:
                return
            try:
                await self._run_conversation(worker, conversation)
            except ConvbatchError:
                raise
            except BudgetReached:
                self.stop("budget")
                return
            except LimiterStalled as stalled:
                self._suspend(worker, str(stalled))
                return
            except LimiterClosed:
                return
            except Exception:  # noqa: BLE001  # outermost frame of a conversation: a bug must not end the others, which may be paid
                self.bugs.append(traceback.format_exc())
                self._listener.note(f"internal error in dialogue {conversation.dialogue.id!r}; it stays pending")
            if passed % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    async def _run_conversation(self, worker: TargetWorker, conversation: Conversation) -> None:
        state = _ConversationState(conversation, self._rules, self._past)
        settled = state.settled(retry_errors=self._rules.retry_errors)
        if settled is not None:
            for end in settled:
                self._count(worker, end, before=True)
            return
        for number, turn in state.turns():
            if number not in state.asked:
                continue
            settings = self._settings(worker, conversation, turn)
            key = state.keys.key(settings)
            end = self._past_end(worker, state, number, key)
            end = end or await self._read_stored(worker, state, number, key)
            end = end or await self._reuse_reply(worker, state, number, key)
            if end is None and state.ended is not None:
                end = await self._skip(worker, state, number, key)
            if end is None:
                end = await self._ask(worker, state, number, key, settings)
            if end is None:
                return
            state.advance(number, end)

    def _settings(self, worker: TargetWorker, conversation: Conversation, turn: Turn) -> Settings:
        return effective_settings(
            command_line=self._rules.command_line,
            turn=turn.settings,
            dialogue=conversation.dialogue.settings,
            target=worker.target.gateway.settings,
            repeat=conversation.repeat,
            unset=worker.target.gateway.unset,
        )

    def _past_end(self, worker: TargetWorker, state: _ConversationState, number: int, key: str) -> TurnEnd | None:
        """Return the terminal state from an earlier session, if it has exactly this key."""
        past = state.past.get(number)
        if past is None or not past.finished(key) or past.status is None:
            return None
        if self._rules.retry_errors and is_open(past.status, past.error_kind):
            return None
        if past.status == "skipped" and state.ended is None:
            return None  # the failed turn before it was sent again and succeeded
        reply = None if past.kept is None else _kept_reply(worker.client, past.kept)
        end = TurnEnd(status=past.status, reply=reply, error_kind=past.error_kind)
        self._count(worker, end, before=True)
        return end

    async def _read_stored(
        self, worker: TargetWorker, state: _ConversationState, number: int, key: str
    ) -> TurnEnd | None:
        """Read answers of earlier sessions by today's rules: a reply found in one was paid, and is not bought again."""
        past = state.past.get(number)
        if past is None or state.ended is not None or past.status not in (None, "error"):
            return None
        for stored in past.unread_answers(key):
            (reply, note), body = worker.client.read_unread(stored["http_status"], kept_body(stored))
            if not isinstance(reply, Reply) or status_of(reply) == "error":
                continue
            end = TurnEnd(status=status_of(reply), reply=reply)
            outcome = {
                **state.ident(number),
                "key": key,
                "attempt": stored["attempt"],
                "role": state.role,
                "class": "replied",
                **{field: stored[field] for field in _READ_AGAIN_FIELDS if field in stored},
                "reply": reply_to_plain(reply),
                **_price_fields(worker.prices_as_served(reply)),
                **_body_fields(body),
                "wire_note": "; ".join(filter(None, (note, "read again from the journal"))),
                "read_again": True,
            }
            await self._journal.commit({"kind": "outcome", **outcome}, self._turn_record(state, number, key, end))
            self._count(worker, end)
            return end
        return None

    async def _reuse_reply(
        self, worker: TargetWorker, state: _ConversationState, number: int, key: str
    ) -> TurnEnd | None:
        if self._reuse is None or state.ended is not None:
            return None
        name, archive = self._reuse
        found = archive.turn_by_key(key, state.conversation.repeat)
        if found is None:
            return None
        kept = found.kept
        reused_from = str(kept.get("reused_from", name))
        outcome = {
            **state.ident(number),
            "key": key,
            "attempt": 0,
            "role": "model",
            "class": "replied",
            **{field: kept[field] for field in _REUSED_FIELDS if field in kept},
            "reused_from": reused_from,
        }
        reply = _kept_reply(worker.client, kept)
        if worker.target.gateway.thinking_tags is not None:
            outcome["reply"] = reply_to_plain(reply)  # the other run may have read the same body with other tags
        end = TurnEnd(status=status_of(reply), reply=reply)
        await self._journal.commit(
            {"kind": "outcome", **outcome},
            self._turn_record(state, number, key, end, reused_from=reused_from),
        )
        self._count(worker, end)
        return end

    async def _skip(self, worker: TargetWorker, state: _ConversationState, number: int, key: str) -> TurnEnd:
        end = TurnEnd(status="skipped", reply=None, reason=state.ended)
        await self._journal.commit(self._turn_record(state, number, key, end))
        self._count(worker, end)
        return end

    async def _ask(
        self, worker: TargetWorker, state: _ConversationState, number: int, key: str, settings: Settings
    ) -> TurnEnd | None:
        """Send the turn until it has a terminal state; None if it stays pending (stopped or suspended)."""
        ask = state.question(worker, settings)
        size = state.token_bounds(settings)
        retry_state = INITIAL_RETRY_STATE
        past = state.past.get(number)
        attempts = past.attempts if past is not None else 0
        backoff_s = 0.0
        while True:
            admitted = await self._admit(worker, size, _reserve(worker.target.gateway.limits, state, settings))
            if admitted is None:
                return None
            reservation, permit = admitted
            try:
                attempts += 1
                ident = {**state.ident(number), "key": key, "attempt": attempts, "role": state.role}
                if reservation is not None:
                    reservation.is_sent = True
                attempt = state.noted(await self._send(worker, ask, ident, size, permit))
                bare = worker.client.without_refused_signatures(ask, attempt)
                prices = worker.prices_as_served(attempt.outcome)
                if worker.budget_share is not None and reservation is not None:
                    worker.budget_share.settle(reservation, attempt, prices)
                step = self._decide(worker, state, attempt, permit, retry_state, settings, asks_again=bare is not None)
                end = _terminal(attempt, step)
                records = [_outcome_record(ident, attempt, limiter_wait_s=permit.waited_s, retry_wait_s=backoff_s)]
                records[0] |= _price_fields(prices)
                if end is not None:
                    records.append(self._turn_record(state, number, key, end))
                # The place in flight is released only after the reply is durable.
                await self._journal.commit(*records)
            finally:
                _close(reservation)
                worker.release(permit)
            if end is not None:
                self._count(worker, end)
                return end
            if not isinstance(step, SendAgain):
                assert isinstance(step, SuspendTarget)
                self._suspend(worker, step.reason)
                return None
            retry_state, backoff_s = step.retry_state, step.wait_s
            if bare is not None:
                ask, state.leaves_out_signatures = bare, True
            if not await self._wait(backoff_s):
                return None

    async def _admit(
        self, worker: TargetWorker, size: Mapping[str, int], tokens: int
    ) -> tuple[Reservation | None, Permit] | None:
        """Reserve the cost of a request and wait for admission, with a valid key; None if there is no key."""
        while not worker.client.needs_new_key or await self._renew_key(worker):
            reservation = None if worker.budget_share is None else await worker.budget_share.reserve(size)
            try:
                permit = await worker.admit(tokens)
            except BaseException:
                _close(reservation)
                raise
            if not worker.client.needs_new_key:
                return reservation, permit
            permit.refund(never_left=True)  # the key was refused or expired during the wait
            _close(reservation)
            worker.release(permit)
        return None

    async def _send(
        self, worker: TargetWorker, ask: Ask, ident: dict[str, Any], size: Mapping[str, int], permit: Permit
    ) -> Attempt:
        # No await between here and the send: the rate was acquired just before, and an earlier intent would mark a
        # request as possibly paid that was only waiting.
        self._journal.append({"kind": "intent", **ident, **size})
        started, begun = self._system.clock.wall(), self._system.clock.monotonic()
        try:
            attempt = await worker.client.attempt(ask)
        except CannotCarry as limit:
            permit.refund()
            failure = Failure(kind="invalid_request", message=str(limit))
            attempt = Attempt(outcome=failure, cls="not_sent", started_at=started)
        except asyncio.CancelledError as cancelled:
            sent = not isinstance(cancelled, NotSentCancelled)
            self._journal.append(
                {
                    "kind": "outcome",
                    **ident,
                    "class": "abandoned" if sent else "not_sent",
                    "started_at": started,
                    "latency_s": self._system.clock.monotonic() - begun,
                    "error": {"kind": "connection", "message": "abandoned on request"},
                }
            )
            raise
        return attempt

    def _decide(
        self,
        worker: TargetWorker,
        state: _ConversationState,
        attempt: Attempt,
        permit: Permit,
        retry_state: RetryState,
        settings: Settings,
        *,
        asks_again: bool = False,
    ) -> SendAgain | GiveUp | SuspendTarget | None:
        """Decide how the turn continues, and update health, permit and limiter. None for a complete reply."""
        if attempt.renews_key or asks_again:
            # A refusal of an old token, or of this history, says nothing about the account; nothing was paid.
            permit.refund()
            worker.limiter.report("answered", permit)
            return SendAgain(wait_s=0.0, retry_state=retry_state)
        now = self._system.clock.monotonic()
        worker.health.note(
            attempt,
            dialogue=state.conversation.index,
            sent_at=permit.sent_at,
            is_probe=permit.is_probe,
            now=now,
            held_s=worker.limiter.held_s(),
        )
        step = next_step(
            attempt,
            retry_state,
            worker.health,
            max_attempts=self._rules.max_attempts,
            now=now,
            draw=self._system.random.random(),
        )
        if isinstance(attempt.outcome, Reply):
            permit.settle(_counted(worker.target.gateway.limits, attempt.outcome.usage, settings))
        elif attempt.cls in ("refused", "not_sent", "final"):
            permit.refund(never_left=attempt.cls == "not_sent")
        if isinstance(step, SuspendTarget):
            # before the report: it ends the doubt, and would admit other turns before this record is durable
            worker.limiter.close()
        hint = None if isinstance(attempt.outcome, Reply) else attempt.outcome.retry_after_s
        worker.limiter.report(signal(attempt, step), permit, retry_after_s=hint)
        return step

    def _turn_record(
        self, state: _ConversationState, number: int, key: str, end: TurnEnd, *, reused_from: str | None = None
    ) -> dict[str, Any]:
        record: dict[str, Any] = {"kind": "turn", **state.ident(number), "key": key, "status": end.status}
        if end.reason is not None:
            record["reason"] = end.reason
        if reused_from is not None:
            record["reused_from"] = reused_from
        return record

    def _count(self, worker: TargetWorker, end: TurnEnd, *, before: bool = False) -> None:
        worker.counts[end.status] += 1
        worker.closed += not is_open(end.status, end.error_kind)
        self._listener.turn_done(worker.target.name, end.status, before=before)

    def _suspend(self, worker: TargetWorker, reason: str) -> None:
        if worker.suspended is None:
            worker.limiter.close()
            for other in self._workers:
                if other.limiter is worker.limiter:  # the same host, key and model under the name of another gateway
                    other.suspended = reason
            self._listener.note(f"{worker.target.name} is suspended: {reason}")

    async def _renew_key(self, worker: TargetWorker) -> bool:
        """Fetch a new key; if that fails, suspend the target and return False."""
        try:
            await worker.client.renew_key()
        except SetupError as error:
            problem = error.problems[0]
            found = " ".join((problem.found or "no output on stderr").split())
            self._suspend(worker, f"no key: {problem.what} ({found}): mend the command, then resume")
            return False
        return True

    async def _wait(self, seconds: float) -> bool:
        """Wait out a backoff; return False if the run was stopped during it."""
        if seconds <= 0:
            return not self._stopping.is_set()
        sleep = asyncio.ensure_future(self._system.clock.sleep(seconds))
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((sleep, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            stop.cancel()
        return not self._stopping.is_set()


class _ConversationState:
    """State of a running conversation: its history, its keys, and its turns in earlier sessions."""

    def __init__(self, conversation: Conversation, rules: RunRules, past: Past | None) -> None:
        self.conversation = conversation
        self.asked = frozenset(conversation.dialogue.asked(rules.history))
        self.history: list[Message] = []
        self.keys = TurnKeys(conversation.target, conversation.dialogue)
        self.ended: str | None = None
        """Why the dialogue was ended early."""
        self.past: Mapping[int, PastTurn] = {}
        self.leaves_out_signatures = False
        """Whether the gateway refused signatures of this conversation; its keys stay those of turns as received."""
        self.measured: Usage | None = None
        """Usage of the latest reply."""
        self._token_bound = TokenBound(conversation.dialogue.system)
        self._live = rules.history == "live"
        if past is not None:
            self.past = past(conversation)

    @property
    def role(self) -> str:
        """Role of the calls in the journal."""
        return "model" if self.conversation.about is None else "judge"

    def settled(self, *, retry_errors: bool) -> list[TurnEnd] | None:
        """Return how the rows ended if all are terminal, else None; None for a judge: its question may have changed."""
        if self.conversation.about is not None:
            return None
        ends: list[TurnEnd] = []
        ended = False
        for number in sorted(self.asked):
            past = self.past.get(number)
            if past is None or past.status is None or (retry_errors and is_open(past.status, past.error_kind)):
                return None
            if past.status == "skipped" and not ended:
                return None  # a session resent the failed turn before it, and was killed before this one
            ended = ended or past.status != "ok"
            ends.append(TurnEnd(status=past.status, reply=None, error_kind=past.error_kind))
        return ends

    def turns(self) -> Iterator[tuple[int, Turn]]:
        """Yield every turn after adding its user message to the history; a scripted reply is added after it."""
        for number, turn in enumerate(self.conversation.dialogue.turns, 1):
            self._add(Message(role="user", parts=turn.user))
            yield number, turn
            is_scripted = not self._live or number not in self.asked
            if is_scripted and turn.assistant is not None:
                self._add(Message(role="assistant", parts=(text_part(turn.assistant),)))

    def advance(self, number: int, end: TurnEnd) -> None:
        """Add a reply to the history, or end the dialogue: no turn is sent after a failed one."""
        if end.reply is not None:
            self.measured = end.reply.usage
        if self._live and self.ended is None:
            self._advance_live(number, end)
        self._count(end.reply)

    def _advance_live(self, number: int, end: TurnEnd) -> None:
        if end.status != "ok" or end.reply is None:
            why = f" ({end.error_kind})" if end.error_kind in RESULT_KINDS else ""
            self.ended = f"turn {number} ended {end.status}{why}"
        elif end.reply.finish_reason == "tool_call":
            self.ended = f"turn {number} ended in a tool call without a scripted result"
        else:
            text = (text_part(end.reply.text or ""),)
            self._add(Message(role="assistant", parts=text, raw=end.reply.raw_turn))
            gateway = self.conversation.target.gateway
            if gateway.thinking_tags is not None and gateway.replay == "exact":
                self._token_bound.add(end.reply.thought or "")  # goes back in the text that `raw_turn` keeps

    def _count(self, reply: Reply | None) -> None:
        """Update the token bound from reported usage; outside live mode only the input count applies."""
        usage = NO_USAGE if reply is None else reply.usage
        output = usage.output_tokens if self._live else 0
        if usage.input_tokens is not None and output is not None:
            self._token_bound.counted(usage.input_tokens + output)

    def question(self, worker: TargetWorker, settings: Settings) -> Ask:
        """Return the question whose user message was added last."""
        ask = Ask(
            model=worker.target.model,
            messages=tuple(self.history),
            system=self.conversation.dialogue.system,
            settings=settings,
        )
        return worker.client.without_signatures(ask) if self.leaves_out_signatures else ask

    def noted(self, attempt: Attempt) -> Attempt:
        """Return an attempt with what is odd about the history that it was sent with."""
        if not self.leaves_out_signatures:
            return attempt
        return attempt._replace(wire_note="; ".join(filter(None, (attempt.wire_note, WITHOUT_SIGNATURES))))

    def ident(self, number: int) -> dict[str, Any]:
        """Return the fields that identify a turn in a record; `journal/index.py` reads them fastest in this order."""
        conversation, about = self.conversation, self.conversation.about
        ident = {
            "index": conversation.index,
            "dialogue": conversation.dialogue.id,
            "target": conversation.target.name,
            "repeat": conversation.repeat,
            "turn": number,
        }
        if about is not None:
            ident |= {"turn": about.turn, "role": self.role, "of": about.target, "asked": about.asked}
        return ident

    def token_bounds(self, settings: Settings) -> dict[str, int]:
        """Return the most tokens of the next request, and of its reply if that is limited."""
        size = {"most_input_tokens": self._token_bound.max_input(settings)}
        limit = max_output_bound(settings)
        if limit is not None:
            size["max_output_tokens"] = limit
        return size

    def _add(self, message: Message) -> None:
        self.history.append(message)
        self.keys.add(message)
        self._token_bound.add(message.text)


_ANSWER_FIELDS = ("http_status", "request_id", "started_at", "latency_s", "ttft_s", "key_in_body")
_REUSED_FIELDS = (*_ANSWER_FIELDS, "reply", "body", "body_b64", "wire_note", "prices")
_READ_AGAIN_FIELDS = (*_ANSWER_FIELDS, "limiter_wait_s", "retry_wait_s")


def _price_fields(prices: PriceTable | None) -> dict[str, Any]:
    return {} if prices is None else {"prices": prices.to_plain()}


def _close(reservation: Reservation | None) -> None:
    if reservation is not None:
        reservation.close()


def _terminal(attempt: Attempt, step: SendAgain | GiveUp | SuspendTarget | None) -> TurnEnd | None:
    if isinstance(attempt.outcome, Reply):
        return TurnEnd(status=status_of(attempt.outcome), reply=attempt.outcome)
    if isinstance(step, GiveUp):
        return TurnEnd(status="error", reply=None, reason=step.reason, error_kind=attempt.outcome.kind)
    return None


def _kept_reply(client: Client, record: Mapping[str, Any]) -> Reply:
    """Return a stored reply with its raw turn, read again from the stored body."""
    again = client.read_again(record.get("http_status", 200), kept_body(record))
    return again if isinstance(again, Reply) else reply_from_plain(record["reply"])


def _outcome_record(
    ident: Mapping[str, Any], attempt: Attempt, *, limiter_wait_s: float, retry_wait_s: float
) -> dict[str, Any]:
    record: dict[str, Any] = {"kind": "outcome", **ident, "class": attempt.cls, "started_at": attempt.started_at}
    for name in ("http_status", "request_id", "latency_s", "ttft_s", "wire_note"):
        value = getattr(attempt, name)
        if value is not None:
            record[name] = value
    if limiter_wait_s:
        record["limiter_wait_s"] = limiter_wait_s
    if retry_wait_s:
        record["retry_wait_s"] = retry_wait_s
    if attempt.key_in_body:
        record["key_in_body"] = True
    if isinstance(attempt.outcome, Reply):
        record["reply"] = reply_to_plain(attempt.outcome)
    else:
        record["error"] = failure_to_plain(attempt.outcome)
    if attempt.body is not None:
        record |= _body_fields(attempt.body)
    return record


def _body_fields(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"body_b64": base64.b64encode(body).decode("ascii")}


def _reserve(limits: Limits, state: _ConversationState, settings: Settings) -> int:
    """Estimate the tokens that a turn counts against the limit, from the usage of the previous turn if it is known."""
    if limits.tpm is None:
        return 0
    known = state.measured
    if known is not None and known.input_tokens is not None and known.output_tokens is not None:
        # The previous reply was counted as output; as a message of the history it has a frame of its own.
        tokens = known.input_tokens + known.output_tokens + FRAME_TOKENS + _rough_tokens(state.history[-1:])
    else:
        tokens = _rough_tokens(state.history) + _rough_text(state.conversation.dialogue.system or "")
    if limits.tpm_counts == "input+max_output":
        tokens += settings.max_output_tokens or _usual_output(known)
    return tokens


def _counted(limits: Limits, usage: Usage, settings: Settings) -> int | None:
    """Return the tokens that a reply counted against the limit; None if the gateway did not report them."""
    if usage.input_tokens is None:
        return None
    if limits.tpm_counts == "uncached_input":
        return usage.input_tokens - (usage.cached_input_tokens or 0)
    if limits.tpm_counts == "input+max_output":
        output = settings.max_output_tokens or usage.output_tokens
        return None if output is None else usage.input_tokens + output
    return usage.input_tokens


_USUAL_OUTPUT = 512
"""Reserved for a first reply without a limit on output; replaced by the reported usage."""


def _usual_output(known: Usage | None) -> int:
    return _USUAL_OUTPUT if known is None or known.output_tokens is None else known.output_tokens


def _rough_tokens(messages: Iterable[Message]) -> int:
    return sum(FRAME_TOKENS + _rough_text(message.text) for message in messages)


def _rough_text(text: str) -> int:
    # Three UTF-8 bytes a token: about one token a Chinese character, a third more than English needs.
    return text_bytes(text) // 3 + 1


def _first(group: BaseExceptionGroup[ConvbatchError]) -> ConvbatchError:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
