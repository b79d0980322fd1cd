"""The process that owns a run on several workers: it leases conversations, admits requests and writes the journal.

It has the rate limiters, the budget, the plan and the folder's lock of a run in one process, and sends nothing itself.
A worker that is lost gets no further permit, so what it may have sent is in the journal; its conversations are leased
again with all that is known of them, and its replies that were not delivered are read from its spool.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from convbatch.cluster import spool
from convbatch.cluster.crew import Crew, NoWorkers, WorkerLost, WorkerUnavailable
from convbatch.cluster.links import Leased, Link, Ticket, report_to, state_of
from convbatch.cluster.messages import (
    Abandon,
    Asked,
    Attempted,
    Bug,
    Bye,
    Cancelled,
    Durable,
    EncodedRecord,
    Ended,
    Finish,
    Found,
    Granted,
    JournalFailed,
    Lease,
    Note,
    Records,
    Refunded,
    Refused,
    Released,
    Reported,
    ReusableTurn,
    RowDone,
    Sending,
    Settled,
    Spent,
    Stated,
    Stop,
    Stopped,
    StoredMedia,
    Suspend,
    Suspended,
    Wanted,
    Work,
    pack,
    unpack,
)
from convbatch.cluster.worker import LINGER_S, Hiring, Setup
from convbatch.engine.budget import BudgetReached
from convbatch.engine.conversation import ConversationState
from convbatch.engine.limiter import LimiterClosed, LimiterStalled
from convbatch.engine.runner import Runner, StopReason
from convbatch.engine.turn_records import restore_media
from convbatch.errors import ConvbatchError, JournalError, JournalReplaced, SetupError
from convbatch.journal.media_store import read_media

if TYPE_CHECKING:
    from convbatch.engine.plan import Conversation
    from convbatch.engine.worker import TargetWorker

HOLD_S = 5.0
"""How long a worker without news keeps a call."""
GRACE_S = 20.0
"""How long a worker may be unreachable before it is given up."""
_HAS_MEDIA = b'"media":[{'
"""In the record of a reply with media; inside of a text, quotes are escaped."""
_RETRY_S = 0.5
_GOODBYE_S = 20.0
_ABANDON_S = 10.0
_MOST_HIRED = 10
"""Replacements for each worker, so that one that always dies does not go on for ever."""


class Coordinator(Runner):
    """Has the place of the runner in a session whose conversations run on workers.

    Args:
        crew: Starts workers.
        setup: What each worker is started with.
        options: As for `Runner`.
    """

    def __init__(self, *, crew: Crew, setup: Setup, **options: Any) -> None:
        super().__init__(**options)
        self._crew = crew
        self._setup = setup
        self._by_name = {worker.target.name: worker for worker in self.workers}
        self._links: list[Link] = []
        self._requeued: dict[str, deque[Leased]] = {name: deque() for name in self._by_name}
        self._open: dict[str, int] = dict.fromkeys(self._by_name, 0)
        """Leases of each target that have not ended."""
        self._changed = asyncio.Event()
        self._numbers = iter(range(1, 1 << 62))
        self._error: ConvbatchError | None = None
        self._is_finishing = False
        self._admitted: list[tuple[Link, Asked]] = []
        """Requests whose intents are not written yet."""
        self._replacing: set[asyncio.Task[None]] = set()
        self._syncing: set[asyncio.Task[None]] = set()

    async def run(self, plans: Mapping[str, Iterator[Conversation]]) -> None:
        """Lease each target's conversations until all are done or suspended, or `stop` is called.

        Raises:
            ConvbatchError: As `Runner.run`.
        """
        timer: asyncio.TimerHandle | None = None
        if self._rules.deadline_s is not None:
            timer = asyncio.get_running_loop().call_later(self._rules.deadline_s, self.stop, "deadline")
        try:
            distributing = [
                asyncio.create_task(self._distribute(worker, plans[worker.target.name])) for worker in self.workers
            ]
            for ended in await asyncio.gather(*distributing, return_exceptions=True):
                if isinstance(ended, ConvbatchError):
                    self._fail(ended)
                elif isinstance(ended, BaseException):
                    raise ended
            await self._say_goodbye()
        finally:
            if timer is not None:
                timer.cancel()
            await self._end_all()
        if self._error is not None:
            raise self._error
        if self._replaced is not None:
            raise self._replaced

    def stop(self, reason: StopReason) -> None:
        """Admit no more requests; those in flight finish and are stored."""
        super().stop(reason)
        self._tell(Stop(reason))
        self._changed.set()

    def abandon(self) -> None:
        """Let the workers cancel what is in flight; what they do not tell of in time is possibly paid all the same."""
        super().abandon()
        self._tell(Abandon())
        asyncio.get_running_loop().call_later(_ABANDON_S, self._give_up_leases)

    def _give_up_leases(self) -> None:
        for link in self._links:
            self._end(link)
        for name in self._open:
            self._open[name] = 0
        self._changed.set()

    def _tell(self, message: Any) -> None:
        for link in self._links:
            if not link.has_ended:
                link.outgoing.put(message)

    def _fail(self, error: ConvbatchError) -> None:
        """Stop because of an error that is raised at the end."""
        if self._error is None:
            self._error = error
            if isinstance(error, JournalError):
                self._tell(JournalFailed(str(error)))
            self.stop("journal")

    # Workers.

    async def start(self) -> None:
        """Start the workers; raises SetupError before anything is sent."""
        numbers = range(1, self._crew.size + 1)
        hired = await asyncio.gather(*(self._hire(number, 1) for number in numbers), return_exceptions=True)
        failed = [one for one in hired if isinstance(one, BaseException)]
        for one in failed:
            if not self._links or not isinstance(one, WorkerLost):
                await self._end_all()
                if isinstance(one, WorkerLost):
                    raise SetupError("no worker could be started", found=str(one)) from None
                raise one
        for one in failed:
            self._listener.note(f"a worker could not be started: {one}")

    async def _hire(self, number: int, incarnation: int) -> None:
        remote = await self._crew.hire(pack(Hiring(self._setup, number, incarnation)))
        link = Link(number, incarnation, remote)
        link.free = {name: 2 * self._places(worker) for name, worker in self._by_name.items()}
        for worker in self.workers:
            if worker.suspended is not None:
                link.outgoing.put(Suspend(worker.target.name, worker.suspended, of_account=False))
        if self._stopping.is_set():
            link.outgoing.put(Stop(self.reason))
        elif self._is_finishing:
            link.outgoing.put(Finish())
        self._links.append(link)
        link.tasks = [
            asyncio.create_task(self._attend(link, work)) for work in (self._exchange(link), self._give(link))
        ]
        self._changed.set()

    def _places(self, worker: TargetWorker) -> int:
        return -(-worker.places // self._crew.size)

    async def _attend(self, link: Link, work: Coroutine[Any, Any, None]) -> None:
        """Talk to a worker until it has ended."""
        try:
            await work
        except WorkerLost as lost:
            self._lose(link, str(lost))
        except Exception as error:  # noqa: BLE001  # a bug must not end the other workers, whose requests may be paid
            self.bugs.append(traceback.format_exc())
            self._lose(link, f"internal error: {error!r}")

    async def _exchange(self, link: Link) -> None:
        while not link.has_ended:
            reply = await self._call(link, lambda payload: link.remote.exchange(payload, HOLD_S))
            self._take(link, link.incoming.accept(reply))

    async def _give(self, link: Link) -> None:
        """Deliver what must not wait until the worker has something to say."""
        while not link.has_ended:
            await link.outgoing.wait(HOLD_S, LINGER_S)
            if link.outgoing.has_new and not link.has_ended:
                await self._call(link, link.remote.give)

    async def _call(self, link: Link, call: Any) -> list[Any]:
        """Call a worker with what it was not sent yet; return its batches."""
        clock = self._system.clock
        since: float | None = None
        while True:
            batches = link.outgoing.take()
            payload = pack((clock.monotonic(), link.incoming.last, batches))
            try:
                acknowledged, theirs = unpack(await call(payload))
            except WorkerUnavailable as error:
                now = clock.monotonic()
                since = now if since is None else since
                if link.has_ended or now - since > GRACE_S:
                    raise WorkerLost(str(error)) from None
                await clock.sleep(_RETRY_S)
                link.outgoing.send_again()
                continue
            link.outgoing.acknowledged(acknowledged, batches[-1][0] if batches else 0)
            return theirs

    def _lose(self, link: Link, why: str) -> None:
        """Give a worker up, and lease its conversations again."""
        if link.has_ended:
            return
        self._end(link)
        self._read_spool(link)
        in_flight = sum(ticket.permit is not None for ticket in link.tickets.values())
        self._close_tickets(link)
        name = f"worker {link.number} ({link.remote.place})"
        self._listener.note(
            f"{name} was lost: {why}; {len(link.leases)} of its dialogues go on elsewhere, "
            f"{in_flight} requests in flight count as possibly paid"
        )
        for leased in link.leases.values():
            leased.position = 0
            target = leased.conversation.target.name
            self._open[target] -= 1
            self._requeued[target].append(leased)
        link.leases.clear()
        if not self._stopping.is_set() and not self._is_finishing:
            task = asyncio.create_task(self._replace(link))
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)
        self._changed.set()

    async def _replace(self, link: Link) -> None:
        incarnation = link.incarnation + 1
        why = "it was started too often"
        if incarnation <= _MOST_HIRED:
            try:
                await self._hire(link.number, incarnation)
            except (WorkerLost, ConvbatchError) as error:
                why = str(error)
            else:
                return
        self._listener.note(f"worker {link.number} is not started again: {why}")
        if all(other.has_ended for other in self._links):
            self._fail(NoWorkers("all workers are lost", found=why, hint="resume the run, with or without --workers"))
            self._changed.set()

    def _end(self, link: Link) -> None:
        link.has_ended = True
        link.remote.kill()

    async def _end_all(self) -> None:
        replacing = list(self._replacing)
        for task in replacing:
            task.cancel()
        await asyncio.gather(*replacing, return_exceptions=True)
        for link in self._links:
            self._end(link)
            self._close_tickets(link)
            for task in link.tasks:
                task.cancel()
        await asyncio.gather(*(task for link in self._links for task in link.tasks), return_exceptions=True)
        spool.remove_folder(self._setup.folder / spool.FOLDER)

    def _close_tickets(self, link: Link) -> None:
        for ticket in list(link.tickets):
            self._release(link, ticket)

    def _read_spool(self, link: Link) -> None:
        """Write the replies that a lost worker had received and not delivered."""
        path = self._setup.folder / spool.FOLDER / f"{link.number:04}-{link.incarnation:04}.jsonl"
        leases = {
            (one.conversation.index, one.conversation.target.name, one.conversation.repeat): one
            for one in link.leases.values()
        }
        try:
            for group in spool.groups(path):
                first = group[0]
                leased = leases.get((first["index"], first["target"], first["repeat"]))
                if leased is None or first["kind"] != "outcome" or leased.has_outcome(first):
                    continue
                self._write([(leased, [EncodedRecord.of(record) for record in group])])
            self._sync_soon(link, 0, [], lambda: spool.remove(path))
        except FileNotFoundError:
            return  # on another machine
        except OSError as error:
            self._listener.note(f"the spool of a lost worker cannot be read: {error}")
        except JournalError as error:
            self._fail(error)

    async def _say_goodbye(self) -> None:
        self._is_finishing = True
        self._tell(Finish())
        deadline = asyncio.get_running_loop().time() + _GOODBYE_S
        while any(not link.has_ended for link in self._links) or self._syncing:
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left_s)
            except TimeoutError:
                break

    # Conversations.

    async def _distribute(self, worker: TargetWorker, plan: Iterator[Conversation]) -> None:
        """Lease a target's conversations, each to the worker that has the fewest, until none is left or open."""
        name = worker.target.name
        waiting = self._next_leased(worker, plan)
        while True:
            link = self._freest(name)
            may_lease = not self._stopping.is_set() and worker.suspended is None
            if link is not None and may_lease and (leased := await anext(waiting)) is not None:
                self._lease(link, name, leased)
                continue
            if self._open[name] == 0 and (link is not None or not may_lease or self._error is not None):
                return  # with a free worker, nothing is left
            self._changed.clear()
            await self._changed.wait()

    async def _next_leased(self, worker: TargetWorker, plan: Iterator[Conversation]) -> AsyncIterator[Leased | None]:
        """Yield what to lease next, or None while nothing is."""
        requeued = self._requeued[worker.target.name]
        passed = 0
        while True:
            if requeued:
                leased = requeued.popleft()
                leased.past = leased.known_past() if leased.records else leased.past
                leased.records.clear()
                yield leased
                continue
            conversation = next(plan, None)
            if conversation is None:
                yield None
                continue
            past = {} if self._past is None else self._past(conversation)
            if past and self._is_settled(worker, conversation, past):
                passed += 1
                if passed % 64 == 0:
                    await asyncio.sleep(0)
                continue
            yield Leased(next(self._numbers), conversation, past)

    def _is_settled(self, worker: TargetWorker, conversation: Conversation, past: Mapping[int, Any]) -> bool:
        """Count the rows of a conversation that earlier sessions have finished; return whether they have."""
        state = ConversationState(conversation, self._rules.history, lambda _: past)
        settled = state.settled(retry_errors=self._rules.retry_errors)
        if settled is None:
            return False
        restore_media(worker.client, state.replies_with_media())
        for end in settled:
            self._count(worker, end, before=True)
        return True

    def _freest(self, target: str) -> Link | None:
        free = [link for link in self._links if not link.has_ended and link.free[target] > 0]
        return max(free, key=lambda link: link.free[target], default=None)

    def _lease(self, link: Link, target: str, leased: Leased) -> None:
        link.free[target] -= 1
        link.leases[leased.number] = leased
        self._open[target] += 1
        conversation = leased.conversation
        lease = Lease(leased.number, conversation.dialogue, conversation.index, conversation.repeat, leased.past)
        link.outgoing.put(Work(target, [lease]))

    # Messages of workers.

    def _take(self, link: Link, messages: list[Any]) -> None:
        groups = [message for message in messages if isinstance(message, Records)]
        if groups:
            try:
                self._write([(link.leases.get(group.lease), group.records) for group in groups])
            except JournalError as error:
                self._fail(error)
            else:
                tickets = [group.ticket for group in groups if group.ticket is not None]
                self._sync_soon(link, groups[-1].number, tickets)
        for message in messages:
            if not isinstance(message, Records):
                self._on(link, message)

    def _write(self, groups: list[tuple[Leased | None, list[EncodedRecord]]], *, before_sending: bool = False) -> None:
        """Write records of conversations in one piece."""
        at = self._system.clock.wall()
        encoded = [record.at(at) for _, records in groups for record in records]
        self._journal.append_encoded(encoded, before_sending=before_sending)
        for leased, records in groups:
            if leased is not None:
                leased.records += records
                self._keep_media(leased, records)

    def _keep_media(self, leased: Leased, records: list[EncodedRecord]) -> None:
        """Write the media of replies that a worker on another machine received into the run folder."""
        with_media = [record.decoded() for record in records if _HAS_MEDIA in record.fields]
        if with_media:
            restore_media(self._by_name[leased.conversation.target.name].client, with_media)

    def _sync_soon(self, link: Link, number: int, tickets: list[int], then: Any = None) -> None:
        task = asyncio.create_task(self._sync(link, number, tickets, then))
        self._syncing.add(task)
        task.add_done_callback(self._synced)

    def _synced(self, task: asyncio.Task[None]) -> None:
        self._syncing.discard(task)
        self._changed.set()

    async def _sync(self, link: Link, number: int, tickets: list[int], then: Any) -> None:
        """Make records durable, then give their places in flight away and tell the worker."""
        try:
            await self._journal.commit()
        except JournalError as error:
            self._fail(error)
            return
        for ticket in tickets:
            self._release(link, ticket)
        if number:
            link.outgoing.put(Durable(number))
        if then is not None:
            then()

    def _on(self, link: Link, message: Any) -> None:  # noqa: C901  # one case a message
        match message:
            case Asked():
                ticket = Ticket(self._by_name[message.target], message.lease)
                link.tickets[message.ticket] = ticket
                ticket.task = asyncio.create_task(self._admit_ticket(link, message, ticket))
            case Cancelled():
                if (waiting := link.tickets.get(message.ticket)) is not None and waiting.permit is None:
                    assert waiting.task is not None
                    waiting.task.cancel()
            case RowDone():
                self._count_row(link, message)
            case Ended():
                self._end_lease(link, message.lease)
            case Released():
                self._release(link, message.ticket)
            case Settled() | Refunded() | Reported() | Spent():
                if (ticket := link.tickets.get(message.ticket)) is not None and ticket.permit is not None:
                    report_to(ticket, ticket.permit, message)
            case Stated():
                limiter = self._by_name[message.target].limiter
                limiter.use_stated(message.requests, message.tokens, may_lower=message.may_lower)
            case Suspended():
                self._suspend(self._by_name[message.target], message.reason, of_account=message.of_account)
                for other in self._links:
                    if other is not link and not other.has_ended:
                        other.outgoing.put(Suspend(message.target, message.reason, message.of_account))
                self._changed.set()
            case Sending():
                self._listener.sending(message.call)
            case Wanted():
                link.outgoing.put(Found(message.number, self._found(message.what)))
            case Attempted():
                self._listener.attempt_done(message.call, message.attempt, message.step)
            case Note():
                self._listener.note(message.text)
            case Bug():
                self.bugs.append(message.text)
            case Stopped():
                if not self._stopping.is_set():
                    self.stop(message.reason)
            case Bye():
                self._close_tickets(link)
                self._end(link)
                self._changed.set()
            case _:
                raise AssertionError(message)

    def _count_row(self, link: Link, row: RowDone) -> None:
        """Count a row once, also if its conversation was leased again; the last worker decides whether it is closed."""
        leased = link.leases[row.lease]
        target = leased.conversation.target.name
        worker = self._by_name[target]
        leased.position += 1
        if leased.position <= len(leased.rows):
            worker.closed += row.is_closed - leased.rows[leased.position - 1]
            leased.rows[leased.position - 1] = row.is_closed
            return
        leased.rows.append(row.is_closed)
        worker.counts[row.status] += 1
        worker.closed += row.is_closed
        self._listener.turn_done(target, row.status, before=row.before)

    def _end_lease(self, link: Link, number: int) -> None:
        leased = link.leases.pop(number)
        target = leased.conversation.target.name
        link.free[target] += 1
        self._open[target] -= 1
        self._listener.conversation_done(target, leased.conversation.dialogue.id, leased.conversation.repeat)
        self._changed.set()

    def _found(self, what: ReusableTurn | StoredMedia) -> Any:
        """Return what a worker needs of the run of `--reuse` or of the run folder; None if it is not there."""
        if isinstance(what, ReusableTurn):
            return None if self._reuse is None else self._reuse[1].turn_by_key(what.key, what.repeat)
        try:
            return read_media(self._setup.folder, what.path)
        except SetupError:
            return None  # the request will say so

    # Admission.

    async def _admit_ticket(self, link: Link, asked: Asked, ticket: Ticket) -> None:
        """Admit a request, write its intent, and grant it to the worker; or refuse it."""
        worker = ticket.target
        try:
            if worker.suspended is not None:
                raise LimiterClosed(worker.suspended)
            if worker.budget_share is not None:
                ticket.reservation = await worker.budget_share.reserve(asked.size)
            ticket.permit = await worker.admit_alone(asked.tokens)
        except asyncio.CancelledError:
            self._refuse(link, asked.ticket, "closed", "cancelled")
            return
        except (BudgetReached, LimiterStalled, LimiterClosed) as refused:
            is_stalled = isinstance(refused, LimiterStalled)
            why = "budget" if isinstance(refused, BudgetReached) else "stalled" if is_stalled else "closed"
            self._refuse(link, asked.ticket, why, str(refused))
            if isinstance(refused, BudgetReached):
                self._stop_after(refused)
            return
        self._admitted.append((link, asked))
        if len(self._admitted) == 1:  # the others of this round of the event loop share its write
            asyncio.get_running_loop().call_soon(self._grant)

    def _grant(self) -> None:
        """Write the intents of the requests that were admitted, and grant them."""
        admitted = [(link, asked) for link, asked in self._admitted if asked.ticket in link.tickets]
        self._admitted.clear()
        try:
            intents = [(link.leases.get(asked.lease), [asked.intent]) for link, asked in admitted]
            self._write(intents, before_sending=True)
        except JournalError as error:
            for link, asked in admitted:
                self._refuse(link, asked.ticket, "closed", str(error))
            if isinstance(error, JournalReplaced):
                self._stop_after(error)
            else:
                self._fail(error)
            return
        now = self._system.clock.monotonic()
        for link, asked in admitted:
            ticket = link.tickets[asked.ticket]
            assert ticket.permit is not None
            if ticket.reservation is not None:
                ticket.reservation.is_sent = True
            state = state_of(ticket.target.limiter)
            link.outgoing.put(Granted(asked.ticket, now, ticket.permit.is_probe, ticket.permit.in_flight, state))

    def _refuse(self, link: Link, ticket: int, why: Any, text: str) -> None:
        self._release(link, ticket)
        link.outgoing.put(Refused(ticket, why, text))

    def _release(self, link: Link, number: int) -> None:
        """Close a ticket: its reservation, and its place in flight."""
        ticket = link.tickets.pop(number, None)
        if ticket is None:
            return
        if ticket.permit is None and ticket.task is not None and ticket.task is not asyncio.current_task():
            ticket.task.cancel()
        if ticket.reservation is not None:
            ticket.reservation.close()
        if ticket.permit is not None:
            ticket.target.release(ticket.permit)
