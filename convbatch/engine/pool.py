"""The members of a pool: which of them sends a request.

Each member is a `TargetWorker` of its own, with its limiter, its health and its key. A request goes to the least loaded
member that can send it now; when none can, the caller waits in the queues of all, and the first that admits it sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from convbatch.engine.limiter import LimiterClosed, LimiterStalled, Permit, Tokens

if TYPE_CHECKING:
    from convbatch.engine.worker import TargetWorker

TokensAt = Callable[["TargetWorker"], Tokens]
"""The tokens of a request, or their estimate, at one member."""


class Admission(NamedTuple):
    """Who sends a request, and the permission to send it now."""

    sender: TargetWorker
    """The target's worker, or the member of its pool."""
    permit: Permit

    def refund(self) -> None:
        """Return everything of a request that is not sent after all."""
        self.permit.refund(never_left=True)
        self.sender.release(self.permit)


async def admit_to_pool(
    members: Sequence[TargetWorker], tokens: TokensAt, failed: TargetWorker | None = None
) -> Admission:
    """Wait until a member may send.

    Args:
        members: Those that are not suspended, at least one.
        tokens: As for `RateLimiter.admit`.
        failed: The member that failed with this request just now: it gets it again only while all others are held up.

    Raises:
        MemberStalled: The gateway of a member asked for a wait of more than a day; the others may go on.
        LimiterClosed: All of them are closed.
    """
    # A broken member fails at once, so it is always the least loaded.
    others = [member for member in members if member is not failed and not member.limiter.is_held_up]
    by_load = sorted(others or members, key=load)
    for member in by_load:
        if member.limiter.is_free(tokens(member)):
            return Admission(member, await member.admit_alone(tokens(member)))
    return await _first_to_admit(by_load, tokens)


def load(worker: TargetWorker) -> float:
    """Return how much of what a member may have in flight is in use; more than 1 if callers wait."""
    limiter = worker.limiter
    return (limiter.in_flight + limiter.waiting) / limiter.places


class MemberStalled(Exception):  # becomes a suspension at once
    """One member's gateway asked for a wait of more than a day."""

    def __init__(self, sender: TargetWorker, why: str) -> None:
        super().__init__(why)
        self.sender = sender


async def _first_to_admit(members: Sequence[TargetWorker], tokens: TokensAt) -> Admission:
    waits: dict[asyncio.Future[Permit], TargetWorker] = {
        asyncio.ensure_future(member.admit_alone(tokens(member))): member for member in members
    }
    pending = set(waits)
    admitted: list[Admission] = []
    try:
        while not admitted:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            admitted = [Admission(waits[wait], wait.result()) for wait in done if wait.exception() is None]
            if not admitted:
                _raise_first(done, waits, is_last=not pending)
        return admitted.pop(0)
    finally:
        await _give_up(pending)
        admitted += [Admission(waits[wait], wait.result()) for wait in pending if _is_admitted(wait)]
        for spare in admitted:
            spare.refund()


def _raise_first(
    done: Iterable[asyncio.Future[Permit]], waits: Mapping[asyncio.Future[Permit], TargetWorker], *, is_last: bool
) -> None:
    """Raise why a member does not admit; a closed one only if no other is left."""
    for wait in done:
        error = wait.exception()
        if isinstance(error, LimiterStalled):
            raise MemberStalled(waits[wait], str(error))
        if error is not None and (is_last or not isinstance(error, LimiterClosed)):
            raise error


async def _give_up(waits: Iterable[asyncio.Future[Permit]]) -> None:
    """Cancel waits and let them end; one that was admitted at the same moment keeps its permit."""
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)


def _is_admitted(wait: asyncio.Future[Permit]) -> bool:
    return not wait.cancelled() and wait.exception() is None
