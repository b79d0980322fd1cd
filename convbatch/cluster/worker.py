"""One worker: it runs conversations that the coordinator leases to it, with clients of its own.

It is the same runner as in one process. What it must share with the others (rate limits, journal, budget, suspensions)
it gets from the coordinator by `exchange` and `give`, which are all that a transport must carry.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol, cast

from convbatch.cluster.channel import Batch, Incoming, Outgoing
from convbatch.cluster.lookups import BroughtMedia, Lookups, ReusedReplies
from convbatch.cluster.messages import (
    Abandon,
    Bug,
    Bye,
    Durable,
    Ended,
    Finish,
    Found,
    Granted,
    JournalFailed,
    Lease,
    LimiterState,
    Refused,
    RowDone,
    Stop,
    Stopped,
    Suspend,
    Suspended,
    Work,
    pack,
    unpack,
)
from convbatch.cluster.remote import (
    CoordinatorClock,
    Question,
    RemoteJournal,
    RemoteLimiter,
    RemoteListener,
    RemoteShare,
    current,
)
from convbatch.cluster.spool import FOLDER, Spool
from convbatch.engine.plan import Conversation
from convbatch.engine.runner import Runner, RunRules, StopReason
from convbatch.errors import ConvbatchError
from convbatch.journal.media_store import MediaStore
from convbatch.reply import is_open
from convbatch.system import System

if TYPE_CHECKING:
    from convbatch.config.gateways import Target
    from convbatch.dialogue import Settings
    from convbatch.engine.budget import BudgetShare, Reservation
    from convbatch.engine.conversation import ConversationState, TurnEnd
    from convbatch.engine.limiter import RateLimiter
    from convbatch.engine.pool import Admission, TokensAt
    from convbatch.engine.worker import TargetWorker
    from convbatch.journal.writer import Journal

LINGER_S = 0.004
"""How long a batch waits for further messages."""


class Setup(Protocol):
    """What a session gives to its workers (`session.cluster_setup`); it can be pickled."""

    @property
    def rules(self) -> RunRules:
        """Options that apply to all targets."""
        ...

    @property
    def tells_all(self) -> bool:
        """Whether the session has a log."""
        ...

    @property
    def folder(self) -> Path:
        """The run folder, which is on the machine of the coordinator."""
        ...

    @property
    def reuse(self) -> str | None:
        """Name of the run whose replies are reused."""
        ...

    async def targets(
        self, stack: AsyncExitStack, system: System, limiter: LimiterOf, media: MediaStore
    ) -> list[tuple[TargetWorker, BudgetShare | None]]:
        """Build what each target needs, with a rate limiter from `limiter`, and media from `media`."""
        ...


class LimiterOf(Protocol):
    """Returns the rate limiter of targets that share one, named by the first of them."""

    def __call__(self, target: Target, *, state: LimiterState, jitter_s: float) -> RateLimiter:
        """Return the limiter."""
        ...


@dataclass(frozen=True, slots=True)
class Hiring:
    """What a worker is started with."""

    setup: Setup
    number: int
    """Of the worker, from 1."""
    incarnation: int
    """How often a worker of this number was started, from 1."""


def _spool(hiring: Hiring) -> Spool | None:
    """Open the worker's spool; None where the disk refuses: it is a second copy, and the worker goes on without."""
    try:
        return Spool(hiring.setup.folder / FOLDER / f"{hiring.number:04}-{hiring.incarnation:04}.jsonl")
    except OSError:
        return None


class Leases:
    """The conversations of one target that wait at this worker."""

    def __init__(self) -> None:
        self._ready: deque[tuple[int, Conversation, Mapping[int, Any]]] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def add(self, number: int, conversation: Conversation, past: Mapping[int, Any]) -> None:
        """Add a conversation."""
        self._ready.append((number, conversation, past))
        self._wake()

    def close(self) -> None:
        """End `next` for all that wait."""
        self._closed = True
        while self._waiting:
            self._wake()

    async def next(self) -> tuple[int, Conversation, Mapping[int, Any]] | None:
        """Return the next conversation; None if there are no more."""
        while not self._ready:
            if self._closed:
                return None
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        return self._ready.popleft()

    def drain(self) -> list[int]:
        """Return the numbers of all that wait, and forget them."""
        numbers = [number for number, _, _ in self._ready]
        self._ready.clear()
        return numbers

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


class LeasedRunner(Runner):
    """Runs leased conversations; what it decides on its own, it tells the coordinator."""

    def __init__(
        self, *, outgoing: Outgoing, reused: tuple[str, ReusedReplies] | None, media: BroughtMedia, **options: Any
    ) -> None:
        super().__init__(past=self._past_of, reuse=reused, **options)
        self._outgoing = outgoing
        self._reused = reused
        self._media = media
        self._pasts: dict[int, Mapping[int, Any]] = {}
        self._told = 0

    def _past_of(self, conversation: Conversation) -> Mapping[int, Any]:
        return self._pasts.get(current.get().lease, {})

    async def _work(self, worker: TargetWorker, plan: Iterator[Conversation]) -> None:
        leases = cast("Leases", plan)
        while (leased := await leases.next()) is not None:
            number, conversation, past = leased
            current.set(Question(number))
            if past:
                self._pasts[number] = past
            try:
                await self._media.bring(conversation.dialogue)
                await super()._work(worker, iter((conversation,)))
            finally:
                self._pasts.pop(number, None)
                while self._told < len(self.bugs):
                    self._told += 1
                    self._outgoing.put(Bug(self.bugs[self._told - 1]))
                self._outgoing.put(Ended(number))
            if self._stopping.is_set() or worker.suspended is not None:
                for open_lease in leases.drain():
                    self._outgoing.put(Ended(open_lease))
                return

    async def _reuse_reply(
        self, worker: TargetWorker, state: ConversationState, number: int, key: str
    ) -> TurnEnd | None:
        if self._reused is not None and state.ended is None and state.step == 1:
            await self._reused[1].look_up(key, state.conversation.repeat)
        return await super()._reuse_reply(worker, state, number, key)

    async def _ask(
        self, worker: TargetWorker, state: ConversationState, number: int, key: str, settings: Settings
    ) -> TurnEnd | None:
        question = current.get()
        question.state, question.number, question.key = state, number, key
        return await super()._ask(worker, state, number, key, settings)

    async def _admit(
        self, worker: TargetWorker, size: Mapping[str, int], tokens: TokensAt, failed: TargetWorker | None
    ) -> tuple[Reservation | None, Admission] | None:
        current.get().size = size
        return await super()._admit(worker, size, tokens, failed)

    def _count(self, worker: TargetWorker, end: TurnEnd, *, before: bool = False) -> None:
        super()._count(worker, end, before=before)
        self._outgoing.put(RowDone(current.get().lease, end.status, not is_open(end.status, end.error_kind), before))

    def _suspend(self, worker: TargetWorker, reason: str, *, of_account: bool = True) -> None:
        self._stop_admitting(worker, reason, of_account=of_account)
        self._outgoing.put(Suspended(worker.target.name, worker.suspended or reason, of_account))

    def suspend(self, target: str, reason: str, *, of_account: bool) -> None:
        """Send no more requests of a target, because another worker found out."""
        for worker in self.workers:
            if worker.target.name == target:
                self._stop_admitting(worker, reason, of_account=of_account)

    def stop(self, reason: StopReason) -> None:
        """As `Runner.stop`; tell the coordinator if this worker has decided it."""
        is_first = not self._stopping.is_set()
        super().stop(reason)
        if is_first:
            self._outgoing.put(Stopped(reason))


class Worker:
    """A worker without its transport: `start` it once, then `exchange` and `give`."""

    def __init__(self, *, system: System | None = None) -> None:
        self._system = system or System()
        self._outgoing = Outgoing()
        self._incoming = Incoming()
        self._lookups = Lookups(self._outgoing)
        self._coordinator = CoordinatorClock(self._system.clock)
        self._stack = AsyncExitStack()
        self._limiters: dict[str, RemoteLimiter] = {}
        self._by_ticket: dict[int, RemoteLimiter] = {}
        self._tickets = itertools.count(1)
        self._leases: dict[str, Leases] = {}
        self._targets: dict[str, Target] = {}
        self._running: asyncio.Task[None] | None = None

    async def start(self, payload: bytes) -> None:
        """Build what the targets need, and wait for conversations.

        Args:
            payload: A packed `Hiring`.
        """
        hiring: Hiring = unpack(payload)
        setup = hiring.setup
        folder = setup.folder
        if not (folder / "run.json").exists():  # on another machine
            folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="convbatch-worker-")))
        media = MediaStore(folder, disk=self._system.disk)
        self._journal = RemoteJournal(self._outgoing, self._system.clock, _spool(hiring))
        built = await setup.targets(self._stack, self._system, self._limiter, media)
        workers: list[TargetWorker] = []
        for worker, share in built:
            if share is not None:
                worker.budget_share = cast("BudgetShare", RemoteShare(share, self._outgoing))
            workers.append(worker)
            self._targets[worker.target.name] = worker.target
            self._leases[worker.target.name] = Leases()
        self._runner = LeasedRunner(
            outgoing=self._outgoing,
            reused=None if setup.reuse is None else (setup.reuse, ReusedReplies(self._lookups)),
            media=BroughtMedia(self._lookups, media),
            workers=workers,
            rules=setup.rules,
            journal=cast("Journal", self._journal),
            system=self._system,
            listener=RemoteListener(self._outgoing, tells_all=setup.tells_all),
        )
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def exchange(self, payload: bytes, hold_s: float) -> bytes:
        """Take messages; return this worker's own, as soon as there are any, else after `hold_s`."""
        self._take(payload)
        if not self._outgoing.has_unacknowledged:
            await self._outgoing.wait(hold_s, LINGER_S)
        return pack((self._incoming.last, self._outgoing.take(also_sent=True)))

    async def give(self, payload: bytes) -> bytes:
        """Take messages at once."""
        self._take(payload)
        return pack((self._incoming.last, []))

    def _take(self, payload: bytes) -> None:
        sent, acknowledged, batches = cast("tuple[float, int, list[Batch]]", unpack(payload))
        self._coordinator.heard(sent)
        self._outgoing.acknowledged(acknowledged, 0)
        for message in self._incoming.accept(batches):
            self._on(message)

    def _limiter(self, target: Target, *, state: LimiterState, jitter_s: float) -> RateLimiter:
        limiter = RemoteLimiter(
            target=target.name,
            outgoing=self._outgoing,
            journal=self._journal,
            clock=self._system.clock,
            coordinator=self._coordinator,
            state=state,
            tickets=lambda: self._ticket(target.name),
            most_age_s=jitter_s / 2,
        )
        self._limiters[target.name] = limiter
        return cast("RateLimiter", limiter)

    def _ticket(self, limiter: str) -> int:
        ticket = next(self._tickets)
        self._by_ticket[ticket] = self._limiters[limiter]
        return ticket

    async def _run(self) -> None:
        is_complete = True
        try:
            await self._runner.run(cast("Mapping[str, Iterator[Conversation]]", self._leases))
        except ConvbatchError:
            is_complete = False  # of the journal, which the coordinator knows
        except BaseExceptionGroup as group:
            is_complete = False
            self._outgoing.put(Bug("".join(map(repr, group.exceptions))))
        for leases in self._leases.values():
            for number in leases.drain():
                self._outgoing.put(Ended(number))
        for limiter in self._limiters.values():
            await limiter.settle()
        await self._stack.aclose()
        self._journal.close(is_complete=is_complete)
        self._outgoing.put(Bye())

    def _on(self, message: Any) -> None:
        match message:
            case Granted() | Refused():
                self._by_ticket.pop(message.ticket).answered(message)
            case Found():
                self._lookups.found(message)
            case Durable():
                self._journal.durable(message.number)
            case Work():
                self._add_work(message)
            case Stop():
                self._runner.stop(message.reason)
                self._close_leases()
            case Abandon():
                self._runner.abandon()
                self._close_leases()
            case Suspend():
                self._runner.suspend(message.target, message.reason, of_account=message.of_account)
            case JournalFailed():
                self._journal.failed(message.text)
                self._runner.stop("journal")
                self._close_leases()
            case Finish():
                self._close_leases()
            case _:
                raise AssertionError(message)

    def _close_leases(self) -> None:
        for leases in self._leases.values():
            leases.close()

    def _add_work(self, work: Work) -> None:
        for lease in work.leases:
            self._leases[work.target].add(lease.number, self._conversation(work.target, lease), lease.past)

    def _conversation(self, target: str, lease: Lease) -> Conversation:
        return Conversation(
            dialogue=lease.dialogue, index=lease.place, target=self._targets[target], repeat=lease.repeat
        )
