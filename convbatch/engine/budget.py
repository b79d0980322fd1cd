"""A cap on what a run may cost: the worst case of each call is set aside before it leaves, and settled after.

So the cap is never passed, whatever is in flight, as long as gateways keep to `max_output_tokens` and to the prices
that were named. What a call can cost is `pricing.py`; who asks is `runner.py`. It knows neither clock nor journal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from decimal import ROUND_UP, Context, Decimal

from convbatch.engine.limiter import LimiterClosed
from convbatch.pricing import Money

_ROUNDED_UP = Context(prec=2, rounding=ROUND_UP)


class BudgetReached(LimiterClosed):
    """The next call might pass the cap, and nothing in flight can make room for it any more."""


class Reservation:
    """Money set aside for one call."""

    __slots__ = ("_budget", "amount", "is_sent")

    def __init__(self, budget: Budget, amount: Decimal) -> None:
        self._budget = budget
        self.amount = amount
        self.is_sent = False
        """From here on it may be paid, and is spent in full unless somebody knows better."""

    def settle(self, cost: Decimal | None) -> None:
        """What the call really cost; None (unknown) = all that was set aside. A second time does nothing."""
        self._budget.settled(self.amount, self.amount if cost is None else cost)
        self.amount = Decimal(0)
        self.is_sent = False

    def close(self) -> None:
        """Settle what nobody has settled: in full when it was sent, else for nothing."""
        if self.amount:
            self.settle(None if self.is_sent else Decimal(0))


class Budget:
    """The cap, what is spent, and what is set aside; callers are served in the order of their coming.

    Args:
        cap: All that may be spent.
        spent: What earlier sessions spent, or may have spent, in the currency of the cap.
    """

    def __init__(self, cap: Money, spent: Decimal = Decimal(0)) -> None:
        self.cap = cap
        self.spent = spent
        """Including what may have been paid without an answer, at its worst."""
        self.lacked: Decimal | None = None
        """What the first call that was not let through might have cost."""
        self._reserved = Decimal(0)
        self._queue: deque[tuple[Decimal, asyncio.Future[None]]] = deque()
        self._closed: LimiterClosed | None = None

    async def reserve(self, amount: Decimal) -> Reservation:
        """Wait until this much can be spent without passing the cap.

        Raises:
            BudgetReached: It cannot, and nothing is in flight that may turn out cheaper than feared.
            GateClosed: `close` was called, before or meanwhile.
        """
        if self._closed is not None:
            raise self._closed
        if self._queue or not self._fits(amount):
            await self._wait_in_queue(amount)
        else:
            self._reserved += amount
        return Reservation(self, amount)

    def settled(self, reserved: Decimal, cost: Decimal) -> None:
        """Exchange what was set aside for what was spent."""
        self._reserved -= reserved
        self.spent += cost
        self._serve()

    def close(self) -> None:
        """Serve nobody any more."""
        self._end(LimiterClosed("closed"))

    @property
    def larger(self) -> Money:
        """A cap with which the run would go on: twice as much, or as much as the next call needs at least."""
        least = _ROUNDED_UP.plus(self.spent + (self.lacked or 0))
        return Money(amount=max(2 * self.cap.amount, least), currency=self.cap.currency)

    def __str__(self) -> str:
        spent = Money(amount=self.spent, currency=self.cap.currency)
        return f"{spent} of {self.cap} spent"

    def _fits(self, amount: Decimal) -> bool:
        return self.spent + self._reserved + amount <= self.cap.amount

    async def _wait_in_queue(self, amount: Decimal) -> None:
        place = asyncio.get_running_loop().create_future()
        self._queue.append((amount, place))
        self._serve()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.settled(amount, Decimal(0))  # it was served and cancelled in the same breath
            else:
                self._queue.remove((amount, place))
                self._serve()
            raise

    def _serve(self) -> None:
        while self._queue and self._fits(self._queue[0][0]):
            amount, place = self._queue.popleft()
            self._reserved += amount
            place.set_result(None)
        if self._queue and not self._reserved:
            self.lacked = self._queue[0][0]
            self._end(BudgetReached(f"the budget of {self.cap} is reached"))

    def _end(self, why: LimiterClosed) -> None:
        if self._closed is None:
            self._closed = why
        while self._queue:
            self._queue.popleft()[1].set_exception(self._closed)
