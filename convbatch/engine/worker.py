"""What one target needs while its conversations run: client, rate limiter, health, budget and counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from convbatch.config.gateways import Target
from convbatch.engine.budget import BudgetShare
from convbatch.engine.cache_warmup import CacheWarmup
from convbatch.engine.client import Client
from convbatch.engine.limiter import Permit, RateLimiter, Tokens
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

    def prices_as_served(self, outcome: Reply | Failure) -> PriceTable | None:
        """Return the prices of the model that answered; None if those of the asked model apply."""
        if not isinstance(outcome, Reply) or (outcome.model_version is None and outcome.service_tier is None):
            return None
        return self.find_prices(outcome.model_version, outcome.service_tier)

    async def admit(self, tokens: Tokens) -> Permit:
        """Wait for admission; raises `LimiterClosed`."""
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
        """Return a place in flight."""
        permit.release()
        self.in_flight -= 1
        if self.own_places is not None:
            self.own_places.release()
