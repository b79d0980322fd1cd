"""Run conversations turn by turn; the only owner of tasks and cancellation.

The rate limiter decides when a request is sent, `retry.py` whether it is sent again, the protocol what a response means
and the journal what is stored: this file puts them in order. A reply is durable before anything that follows from it.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from convbatch.dialogue import NO_SETTINGS, HistoryMode, Settings, Turn, effective_settings
from convbatch.engine.budget import BudgetReached, Reservation
from convbatch.engine.call import Call
from convbatch.engine.conversation import ConversationState, Past, TurnEnd
from convbatch.engine.http_values import NotSentCancelled, SentCancelled
from convbatch.engine.limiter import LimiterClosed, LimiterStalled, Permit, Tokens
from convbatch.engine.listener import Listener, ReplySource
from convbatch.engine.plan import Conversation
from convbatch.engine.pool import Admission, MemberStalled, TokensAt
from convbatch.engine.retry import (
    INITIAL_RETRY_STATE,
    GiveUp,
    RetryState,
    SendAgain,
    Step,
    SuspendTarget,
    next_step,
    signal,
)
from convbatch.engine.turn_records import (
    ATTEMPT_FIELDS,
    READ_AGAIN_FIELDS,
    REUSED_FIELDS,
    Intent,
    body_fields,
    kept_reply,
    outcome_fields,
    price_fields,
    restore_media,
)
from convbatch.engine.turn_tokens import counted_tokens
from convbatch.engine.worker import TargetWorker
from convbatch.errors import ConvbatchError, JournalError, JournalReplaced, SetupError, is_out_of_memory
from convbatch.journal.records import Record, RecordHead, kept_body
from convbatch.journal.writer import Journal
from convbatch.protocols.stated_limits import counted_by
from convbatch.protocols.wire import Ask, CannotCarry
from convbatch.reply import (
    Attempt,
    Failure,
    Reply,
    is_open,
    reply_to_plain,
    status_of,
)
from convbatch.system import System

DEFAULT_MAX_ATTEMPTS = 5
StopReason = Literal["finished", "interrupted", "deadline", "budget", "memory", "journal"]
YIELD_EVERY = 64
"""Number of finished conversations that a worker skips before it yields to the event loop."""
STARTED_AT_ONCE = 8
"""Tasks started between two yields: hundreds would open hundreds of connections before the first request is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRules:
    """Options that apply to all targets of a run."""

    history: HistoryMode = "live"
    repeats: int = 1
    in_rounds: bool = False
    """All dialogues once before any is repeated."""
    batch: Literal["batch", "live", "cancel"] | None = None
    """Ask by batch jobs; or wait for open ones and ask the rest live; or cancel open ones. None = as `live`."""
    batch_window: str | None = None
    """Within which OpenAI makes each response by itself, in place of batch jobs."""
    concurrency: int | None = None
    """`-j`; None = the limit of each gateway."""
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    command_line: Settings = NO_SETTINGS
    retry_errors: bool = True
    deadline_s: float | None = None


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
        self._senders = tuple(sender for worker in self._workers for sender in worker.senders)
        self._rules = rules
        self._journal = journal
        self._system = system
        self._listener = listener
        self._past = past
        self._reuse = reuse
        self._stopping = asyncio.Event()
        self._usual_settings: dict[tuple[str, int], Settings] = {}
        """By target and repeat, of turns whose dialogue has none: one object, which is recognized by its identity."""
        self._tasks: list[asyncio.Task[None]] = []
        self.reason: StopReason = "finished"
        self._replaced: JournalReplaced | None = None
        self.bugs: list[str] = []
        """Tracebacks of internal errors, at most one per conversation; a run with any exits with 70."""

    @property
    def workers(self) -> tuple[TargetWorker, ...]:
        """The workers, with their counts and suspensions so far."""
        return self._workers

    @property
    def on_stop(self) -> str:
        """What the first Ctrl-C does, in words."""
        return "stopping: what is in flight is finished and kept; Ctrl-C again abandons it"

    @property
    def on_abandon(self) -> str:
        """What the second Ctrl-C does, in words."""
        return "abandoning what is in flight; it is listed as possibly paid"

    def waits_for(self, worker: TargetWorker) -> tuple[tuple[str, float | None] | None, str | None]:
        """Return what a target waits for: kind and seconds, and in words."""
        return worker.obstacle(), worker.why_waiting()

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
        if self._replaced is not None:  # after what was in flight is written
            raise self._replaced

    def stop(self, reason: StopReason) -> None:
        """Admit no more requests; those in flight finish and are stored."""
        if self.reason == "finished" or reason == "interrupted":
            self.reason = reason
        self._stopping.set()
        for worker in self._workers:
            for sender in worker.senders:
                sender.limiter.close()
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
                self._listener.conversation_done(worker.target.name, conversation.dialogue.id, conversation.repeat)
            except (JournalReplaced, BudgetReached) as end:
                self._stop_after(end)
                return
            except ConvbatchError:
                raise
            except LimiterStalled as stalled:
                self._suspend(worker, str(stalled))
                return
            except LimiterClosed:
                return
            except Exception as error:  # noqa: BLE001  # outermost frame of a conversation: a bug must not end the others, which may be paid
                if is_out_of_memory(error):
                    self._listener.note("there is not enough memory: what is in flight is finished, no more is sent")
                    self.stop("memory")
                    return
                self.bugs.append(traceback.format_exc())
                self._listener.note(f"internal error in dialogue {conversation.dialogue.id!r}; it stays pending")
            if passed % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    def _stop_after(self, end: JournalReplaced | BudgetReached) -> None:
        """Send no more; what is in flight is finished and stored."""
        if isinstance(end, JournalReplaced):
            self._replaced = end
        self.stop("journal" if isinstance(end, JournalReplaced) else "budget")

    async def _run_conversation(self, worker: TargetWorker, conversation: Conversation) -> None:
        state = ConversationState(conversation, self._rules.history, self._past)
        settled = state.settled(retry_errors=self._rules.retry_errors)
        if settled is not None:
            restore_media(worker.client, state.replies_with_media())
            for end in settled:
                self._count(worker, end, before=True)
            return
        for number, turn in state.turns():
            if number not in state.asked:
                continue
            settings = self._settings(worker, conversation, turn)
            key = state.keys.key(settings)
            past_end = end = self._past_end(worker, state, number, key)
            if end is None and (number in state.past or self._reuse is not None or state.ended is not None):
                end = await self._without_asking(worker, state, number, key)
            if end is None:
                end = await self._ask_steps(worker, state, number, key, settings)
            if end is None:
                return
            state.advance(number, end)
            follow_up = state.follow_up(end)
            if follow_up is None:
                self._count(worker, end, before=past_end is not None)
            else:
                await self._run_conversation(worker, follow_up)  # counts in place of this one

    def _settings(self, worker: TargetWorker, conversation: Conversation, turn: Turn) -> Settings:
        if turn.settings is not NO_SETTINGS or conversation.dialogue.settings is not NO_SETTINGS:
            return self._effective_settings(worker, conversation, turn)
        usual = (worker.target.name, conversation.repeat)
        settings = self._usual_settings.get(usual)
        if settings is None:
            settings = self._effective_settings(worker, conversation, turn)
            settings = self._usual_settings[usual] = NO_SETTINGS if settings == NO_SETTINGS else settings
        return settings

    def _effective_settings(self, worker: TargetWorker, conversation: Conversation, turn: Turn) -> Settings:
        return effective_settings(
            command_line=self._rules.command_line,
            turn=turn.settings,
            dialogue=conversation.dialogue.settings,
            target=worker.target.gateway.settings,
            repeat=conversation.repeat,
            unset=worker.target.gateway.unset,
        )

    def _past_end(self, worker: TargetWorker, state: ConversationState, number: int, key: str) -> TurnEnd | None:
        """Return the terminal state from an earlier session, if it has exactly this key."""
        past = state.past.get(number)
        if past is None or past.key != key:
            return None
        state.restore_steps(kept_reply(worker.client, record) for record in past.steps)
        if not past.finished(key) or past.status is None:
            return None
        if self._rules.retry_errors and is_open(past.status, past.error_kind):
            return None
        if past.status == "skipped" and state.ended is None:
            return None  # the failed turn before it was sent again and succeeded
        reply = None if past.kept is None else kept_reply(worker.client, past.kept)
        return TurnEnd(status=past.status, reply=reply, reason=past.reason, error_kind=past.error_kind)

    async def _read_stored(
        self, worker: TargetWorker, state: ConversationState, number: int, key: str
    ) -> TurnEnd | None:
        """Read answers of earlier sessions by today's rules: a reply found in one was paid, and is not bought again.

        Returns:
            None without a reply, and if the turn goes on from it with another step.
        """
        past = state.past.get(number)
        if past is None or state.ended is not None or past.status not in (None, "error"):
            return None
        for stored in past.unread_answers(key):
            if stored.get("step", 1) != state.step:
                continue
            (reply, note), body = worker.client.read_unread(stored["http_status"], kept_body(stored))
            if not isinstance(reply, Reply) or status_of(reply) == "error":
                continue
            fields = {
                **state.attempt_fields(key, stored["attempt"]),
                "class": "replied",
                **{field: stored[field] for field in READ_AGAIN_FIELDS if field in stored},
                "reply": reply_to_plain(reply),
                **price_fields(worker.prices_as_served(reply)),
                **body_fields(body),
                "wire_note": "; ".join(filter(None, (note, "read again from the journal"))),
                "read_again": True,
            }
            outcome = Record("outcome", state.head(number), fields)
            end = state.end_of_step(TurnEnd(status=status_of(reply), reply=reply))
            await self._journal.commit(*self._closing_records(outcome, state, number, end))
            return end
        return None

    async def _reuse_reply(
        self, worker: TargetWorker, state: ConversationState, number: int, key: str
    ) -> TurnEnd | None:
        if self._reuse is None or state.ended is not None or state.step > 1:
            return None
        if (past := state.past.get(number)) is not None and past.is_reopened:
            return None
        name, archive = self._reuse
        found = archive.turn_by_key(key, state.conversation.repeat)
        if found is None:
            return None
        replies = [kept_reply(worker.client, kept) for kept in found.replied]
        end = state.take_over(replies)
        if end is None:
            return None
        reused_from = str(found.kept.get("reused_from", name))
        for step, (kept, reply) in enumerate(zip(found.replied, replies, strict=True), 1):
            fields: dict[str, Any] = {
                **state.attempt_fields(key, 0, step=step),
                "class": "replied",
                **{field: kept[field] for field in REUSED_FIELDS if field in kept},
                "reused_from": reused_from,
            }
            if worker.target.gateway.thinking_tags is not None or reply.media:
                fields["reply"] = reply_to_plain(reply)  # the other run may have read the body otherwise
            outcome = Record("outcome", state.head(number), fields)
            ends = end if step == len(replies) else None
            await self._journal.commit(*self._closing_records(outcome, state, number, ends, reused_from=reused_from))
        return end

    async def _without_asking(
        self, worker: TargetWorker, state: ConversationState, number: int, key: str
    ) -> TurnEnd | None:
        """Return how a turn ends with a reply of an earlier session or another run, or because the dialogue ended."""
        end = await self._read_stored(worker, state, number, key)
        end = end or await self._reuse_reply(worker, state, number, key)
        if end is None and state.ended is not None:
            end = await self._skip(worker, state, number, key)
        return end

    async def _skip(self, worker: TargetWorker, state: ConversationState, number: int, key: str) -> TurnEnd:
        end = TurnEnd(status="skipped", reply=None, reason=state.ended)
        await self._journal.commit(self._turn_record(state.head(number), key, end))
        return end

    async def _ask_steps(
        self, worker: TargetWorker, state: ConversationState, number: int, key: str, settings: Settings
    ) -> TurnEnd | None:
        """Ask step by step until the turn has a terminal state; None if it stays pending."""
        while True:
            step = state.step
            end = None
            if number in state.past:
                end = await self._read_stored(worker, state, number, key)
            if end is None and state.step == step:
                if settings.cache in ("auto", "1h") and state.conversation.dialogue.system:
                    end = await self._ask_cached(worker, state, number, key, settings)
                else:
                    end = await self._ask(worker, state, number, key, settings)
            if end is not None or state.step == step:
                return end

    async def _ask_cached(
        self, worker: TargetWorker, state: ConversationState, number: int, key: str, settings: Settings
    ) -> TurnEnd | None:
        """Send the turn as `_ask`; with prompt caching, after the first reply to another turn with this system text."""
        system = state.conversation.dialogue.system
        assert system is not None
        async with worker.warmup.turn(system) as first:
            step = state.step
            end = await self._ask(worker, state, number, key, settings)
            if state.step > step or (end is not None and end.reply is not None):
                first.replied()
            return end

    async def _ask(
        self, worker: TargetWorker, state: ConversationState, number: int, key: str, settings: Settings
    ) -> TurnEnd | None:
        """Send a step until it has an answer or no attempt is left.

        Returns:
            How the turn ended; None if it goes on with the next step, or stays pending (stopped or suspended).
        """
        ask = state.question(worker.target, settings, in_pieces=True)
        if state.leaves_out_signatures:
            ask = worker.client.without_signatures(ask)
        size = state.token_bounds(settings)
        retry_state = INITIAL_RETRY_STATE
        backoff_s = 0.0
        failed: TargetWorker | None = None
        while True:
            admitted = await self._admit(worker, size, partial(_tokens_to_reserve, state, settings), failed)
            if admitted is None:
                return None
            reservation, admission = admitted
            sender, permit = admission
            try:
                state.attempts += 1
                head, fields = state.head(number), state.attempt_fields(key, state.attempts)
                member = {} if sender is worker else {"gateway": sender.target.gateway.name}
                if reservation is not None:
                    reservation.is_sent = True
                call = _call(worker, state, number, permit)
                self._listener.sending(call)
                intent = Record("intent", head, {**fields, **size, **member})
                on_text, is_resent = self._listener.on_text(call), retry_state.ambiguous > 0
                attempt = state.noted(await self._send(sender, ask, intent, on_text, permit, is_resent=is_resent))
                bare = sender.client.without_refused_signatures(ask, attempt)
                prices = worker.prices_as_served(attempt.outcome)
                if worker.budget_share is not None and reservation is not None:
                    worker.budget_share.settle(reservation, attempt, prices)
                step = self._decide(sender, state, attempt, permit, retry_state, settings, asks_again=bare is not None)
                fields = outcome_fields(fields, attempt, limiter_wait_s=permit.waited_s, retry_wait_s=backoff_s)
                fields |= member
                outcome = Record("outcome", head, fields | price_fields(prices) if prices is not None else fields)
                end = state.end_of_step(_terminal(attempt, step))
                # The place in flight is released only after the reply is durable.
                await self._journal.commit(*self._closing_records(outcome, state, number, end))
            finally:
                _close(reservation)
                worker.release_admission(admission)
            self._listener.attempt_done(call, attempt, step)
            if end is not None or isinstance(attempt.outcome, Reply):
                return end
            if isinstance(step, SendAgain):
                retry_state, backoff_s = step.retry_state, step.wait_s
                if bare is not None:
                    ask, state.leaves_out_signatures = bare, True
            failed = sender
            if not await self._goes_on(worker, sender, step):
                return None

    async def _goes_on(self, worker: TargetWorker, sender: TargetWorker, step: Step | None) -> bool:
        """Wait out a backoff, or suspend who sent; return whether the turn is sent again, perhaps by another member."""
        if isinstance(step, SendAgain):
            return await self._wait(step.wait_s)
        assert isinstance(step, SuspendTarget)
        self._suspend(sender, step.reason, of_account=step.of_account)
        return worker.suspended is None

    async def _admit(
        self, worker: TargetWorker, size: Mapping[str, int], tokens: TokensAt, failed: TargetWorker | None
    ) -> tuple[Reservation | None, Admission] | None:
        """Reserve the cost of a request and wait for admission, with a valid key; None if the target is suspended."""
        while worker.suspended is None and (not worker.needs_new_key or await self._has_keys(worker)):
            reservation = None if worker.budget_share is None else await worker.budget_share.reserve(size)
            try:
                admission = await worker.admit(tokens, failed)
            except MemberStalled as stalled:
                _close(reservation)
                self._suspend(stalled.sender, str(stalled))
                continue
            except BaseException:
                _close(reservation)
                raise
            sender = admission.sender
            if sender.suspended is None and worker.suspended is None and not sender.client.needs_new_key:
                return reservation, admission
            # suspended, or the key was refused or expired, during the wait
            admission.permit.refund(never_left=True)
            _close(reservation)
            worker.release_admission(admission)
        return None

    async def _has_keys(self, worker: TargetWorker) -> bool:
        """Renew keys that were refused or have expired; return whether anyone can send."""
        for sender in worker.senders:
            if sender.suspended is None and sender.client.needs_new_key:
                await self._renew_key(sender)
        return worker.suspended is None

    async def _send(
        self,
        worker: TargetWorker,
        ask: Ask,
        intent: Record,
        on_text: Callable[[str], None] | None,
        permit: Permit,
        *,
        is_resent: bool,
    ) -> Attempt:
        # The rate was acquired just before, so the request is sent in this round of the event loop or the next one. An
        # intent that is written earlier would mark a request as possibly paid that was only waiting.
        writing = Intent(self._journal, intent)
        started, begun = self._system.clock.wall(), self._system.clock.monotonic()
        try:
            attempt = await worker.client.attempt(ask, on_text, writing, is_resent=is_resent)
        except CannotCarry as limit:
            writing.write()
            permit.refund()
            failure = Failure(kind="invalid_request", message=str(limit))
            attempt = Attempt(outcome=failure, cls="not_sent", started_at=started)
        except asyncio.CancelledError as cancelled:
            writing.write()
            self._journal.append(self._cancelled_record(cancelled, intent, started, begun, permit))
            raise
        return attempt

    def _cancelled_record(
        self, cancelled: asyncio.CancelledError, intent: Record, started: float, begun: float, permit: Permit
    ) -> Record:
        """Return the `outcome` record of a request that was cancelled: with the reply, if all of it has arrived."""
        about = {name: value for name, value in intent.fields.items() if name in ATTEMPT_FIELDS}
        member = {name: value for name, value in intent.fields.items() if name == "gateway"}
        if isinstance(cancelled, SentCancelled) and cancelled.attempt is not None:
            waited_s = permit.waited_s
            fields = outcome_fields(about, cancelled.attempt, limiter_wait_s=waited_s, retry_wait_s=0.0)
            return Record("outcome", intent.head, fields | member)
        fields = {
            **about,
            "class": "not_sent" if isinstance(cancelled, NotSentCancelled) else "abandoned",
            "started_at": started,
            "latency_s": self._system.clock.monotonic() - begun,
            "error": {"kind": "connection", "message": "abandoned on request"},
        }
        return Record("outcome", intent.head, fields | member)

    def _decide(
        self,
        worker: TargetWorker,
        state: ConversationState,
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
            if worker.limiter.counts_tokens:
                worker.token_estimates.learn(state, attempt.outcome.usage)
            permit.settle(counted_tokens(worker.target.gateway.limits, attempt.outcome.usage, settings))
        elif attempt.cls in ("refused", "not_sent", "final"):
            permit.refund(never_left=attempt.cls == "not_sent")
        if isinstance(step, SuspendTarget):
            # before the report: it ends the doubt, and would admit other turns before this record is durable
            self._stop_admitting(worker, step.reason, of_account=step.of_account)
        if attempt.stated_limits is not None:
            is_refused = isinstance(attempt.outcome, Failure)
            worker.limiter.use_stated(*attempt.stated_limits, may_lower=is_refused)
        if isinstance(attempt.outcome, Reply):
            worker.limiter.report("replied", permit)
        else:
            failure, signalled = attempt.outcome, signal(attempt, step)
            counted = counted_by(failure.message) if signalled == "throttled" else "requests"
            worker.limiter.report(signalled, permit, retry_after_s=failure.retry_after_s, counted=counted)
        return step

    def _closing_records(
        self,
        outcome: Record,
        state: ConversationState,
        number: int,
        end: TurnEnd | None,
        *,
        reused_from: str | None = None,
    ) -> list[Record]:
        """Return an `outcome` record with what follows from it: the end of the turn, or that it goes on."""
        if end is not None:
            key = outcome.fields["key"]
            return [outcome, self._turn_record(outcome.head, key, end, reused_from=reused_from)]
        if outcome.fields["class"] == "replied":
            outcome.fields["continues"] = True
        return [outcome]

    def _turn_record(self, head: RecordHead, key: str, end: TurnEnd, *, reused_from: str | None = None) -> Record:
        fields: dict[str, Any] = {"key": key, "status": end.status}
        if end.reason is not None:
            fields["reason"] = end.reason
        if reused_from is not None:
            fields["reused_from"] = reused_from
        return Record("turn", head, fields)

    def _count(self, worker: TargetWorker, end: TurnEnd, *, before: bool = False) -> None:
        worker.counts[end.status] += 1
        worker.closed += not is_open(end.status, end.error_kind)
        self._listener.turn_done(worker.target.name, end.status, before=before)

    def _suspend(self, worker: TargetWorker, reason: str, *, of_account: bool = True) -> None:
        """Send no more requests of a target in this session, and tell the user once."""
        self._stop_admitting(worker, reason, of_account=of_account)
        if not worker.is_announced:
            for other in self._senders:
                if other.limiter is worker.limiter and other.suspended is not None:
                    other.is_announced = True
            self._listener.note(f"{worker.target.name} is suspended: {worker.suspended}")

    def _stop_admitting(self, worker: TargetWorker, reason: str, *, of_account: bool) -> None:
        """Admit no more requests of a target, and of those under another gateway name that the reason concerns.

        Targets that share a limiter have the same host, key and model; their addresses and protocols may differ.
        """
        gateway = worker.target.gateway
        sharing = [other for other in self._senders if other.limiter is worker.limiter]
        for other in sharing:
            alike = (
                other.target.gateway.protocol == gateway.protocol and other.target.gateway.endpoint == gateway.endpoint
            )
            if other.suspended is None and (of_account or alike):
                other.suspended = reason
        if all(other.suspended is not None for other in sharing):
            worker.limiter.close()
        for pool in self._workers:
            if pool.members and all(member.suspended is not None for member in pool.members):
                pool.suspended = pool.suspended or f"no member is left: {pool.members[-1].suspended}"

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


def _tokens_to_reserve(state: ConversationState, settings: Settings, worker: TargetWorker) -> Tokens:
    return lambda: worker.token_estimates.estimate(state, settings, limit=worker.limiter.tpm)


def _call(worker: TargetWorker, state: ConversationState, turn: int, permit: Permit) -> Call:
    conversation = state.conversation
    return Call(
        worker.target.name,
        conversation.dialogue.id,
        conversation.repeat,
        turn if conversation.about is None else conversation.about.turn or 0,
        state.attempts,
        permit.waited_s,
        worker.in_flight,
        conversation.dialogue,
    )


def _close(reservation: Reservation | None) -> None:
    if reservation is not None:
        reservation.close()


def _terminal(attempt: Attempt, step: SendAgain | GiveUp | SuspendTarget | None) -> TurnEnd | None:
    if isinstance(attempt.outcome, Reply):
        return TurnEnd(status=status_of(attempt.outcome), reply=attempt.outcome)
    if isinstance(step, GiveUp):
        return TurnEnd(status="error", reply=None, reason=step.reason, error_kind=attempt.outcome.kind)
    return None


def _first(group: BaseExceptionGroup[ConvbatchError]) -> ConvbatchError:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
