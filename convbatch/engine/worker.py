"""What one target needs while its conversations run: client, rate limiter, health, budget and counts."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from convbatch.config.gateways import Target
from convbatch.engine.budget import BudgetShare
from convbatch.engine.cache_warmup import CacheWarmup
from convbatch.engine.client import Client
from convbatch.engine.limiter import Permit, RateLimiter, Tokens
from convbatch.engine.pool import Admission, TokensAt, admit_to_pool
from convbatch.engine.retry import TargetHealth
from convbatch.engine.turn_tokens import TokenEstimates
from convbatch.pricing import PriceTable
from convbatch.reply import Failure, Reply, Status


@dataclass(slots=True, kw_only=True)
class TargetWorker:
    """Everything one target needs; targets share only journal and budget, and a rate limiter if they share a quota."""

    target: Target
    client: Client
    limiter: RateLimiter
    health: TargetHealth
    token_estimates: TokenEstimates
    """Shared with the targets that share the limiter."""
    places: int
    """Most requests in flight."""
    own_places: asyncio.Semaphore | None = None
    """Set only if targets share a rate limiter: keeps one of them from taking all places."""
    budget_share: BudgetShare | None = None
    """Set only if the run has a budget."""
    find_prices: Callable[[str | None, str | None], PriceTable | None] = lambda served, tier: None
    """Prices of a reply by the model name and the service tier in it; None = those of the asked model."""
    warmup: CacheWarmup = field(default_factory=CacheWarmup)
    suspended: str | None = None
    """Reason of the suspension."""
    is_announced: bool = False
    """Whether the user was told about the suspension."""
    counts: Counter[Status] = field(default_factory=Counter)
    closed: int = 0
    """Number of rows that have a result."""
    in_flight: int = 0
    """Requests in flight."""
    members: tuple[TargetWorker, ...] = ()
    """Of a pool: who sends its requests. Its own `client` and `limiter` are those of the first member, to read with."""

    @property
    def senders(self) -> tuple[TargetWorker, ...]:
        """The members of a pool, else the worker itself."""
        return self.members or (self,)

    @property
    def needs_new_key(self) -> bool:
        """Whether a key that may still send was refused or has expired."""
        if not self.members:
            return self.client.needs_new_key
        return any(member.suspended is None and member.client.needs_new_key for member in self.members)

    def prices_as_served(self, outcome: Reply | Failure) -> PriceTable | None:
        """Return the prices of the model that answered; None if those of the asked model apply."""
        if not isinstance(outcome, Reply) or (outcome.model_version is None and outcome.service_tier is None):
            return None
        return self.find_prices(outcome.model_version, outcome.service_tier)

    def obstacle(self) -> tuple[str, float | None] | None:
        """Return what requests wait for, as `RateLimiter.obstacle`; of a pool what ends first."""
        found = [sender.limiter.obstacle() for sender in self.senders if sender.suspended is None]
        known = [one for one in found if one is not None]
        if len(known) < len(found) or not known:
            return None
        return min(known, key=lambda one: math.inf if one[1] is None else one[1])

    def why_waiting(self) -> str | None:
        """Return the same for people."""
        live = [sender for sender in self.senders if sender.suspended is None]
        reasons = [(sender.target.gateway.name, sender.limiter.why_waiting()) for sender in live]
        if len(self.senders) == 1:
            return reasons[0][1] if reasons else None
        return "; ".join(f"{name}: {why}" for name, why in reasons if why is not None) or None

    async def admit(self, tokens: TokensAt, failed: TargetWorker | None = None) -> Admission:
        """Wait for admission, at the least loaded member of a pool; raises `LimiterClosed`, of a pool `MemberStalled`.

        Args:
            tokens: What the request counts against the token limit of its sender.
            failed: Who failed with this request just now; another member is preferred.
        """
        if not self.members:
            return Admission(self, await self.admit_alone(tokens(self)))
        assert self.own_places is not None
        await self.own_places.acquire()
        try:
            live = [member for member in self.members if member.suspended is None]
            admission = await admit_to_pool(live or self.members, tokens, failed)
        except BaseException:
            self.own_places.release()
            raise
        self.in_flight += 1
        return admission

    async def admit_alone(self, tokens: Tokens) -> Permit:
        """Wait for admission by the worker's own limiter; raises `LimiterClosed`."""
        if self.own_places is None:
            permit = await self.limiter.admit(tokens)
        else:
            await self.own_places.acquire()
            try:
                permit = await self.limiter.admit(tokens)
            except BaseException:
                self.own_places.release()
                raise
        self.in_flight += 1
        return permit

    def release(self, permit: Permit) -> None:
        """Return a place in flight that `admit_alone` gave."""
        permit.release()
        self._leave()

    def release_admission(self, admission: Admission) -> None:
        """Return a place in flight that `admit` gave."""
        admission.sender.release(admission.permit)
        if self.members:
            self._leave()

    def _leave(self) -> None:
        self.in_flight -= 1
        if self.own_places is not None:
            self.own_places.release()
