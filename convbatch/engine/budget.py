"""A cap on the cost of a run: the worst case of each call is reserved before it is sent, and settled afterwards.

The cap is never exceeded, whatever is in flight, as long as gateways respect `max_output_tokens` and the configured
prices. Amounts are fractions: a division by an exchange rate has no exact decimal, and sums of rounded ones do not
return to 0. The cost of a call is `pricing.py`; the caller is `runner.py`. Nothing here uses a clock or the journal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_UP, Context, Decimal
from fractions import Fraction

from convbatch.engine.limiter import LimiterClosed
from convbatch.pricing import Money, PriceTable, display_amount, to_decimal
from convbatch.reply import Attempt, Failure, billed_usage

_ROUNDED_UP = Context(prec=2, rounding=ROUND_UP)


class BudgetReached(LimiterClosed):
    """The next call could exceed the cap, and no call in flight can free enough of it."""


class Reservation:
    """Money reserved for one call."""

    __slots__ = ("_budget", "_is_open", "amount", "is_sent")

    def __init__(self, budget: Budget, amount: Fraction) -> None:
        self._budget = budget
        self._is_open = True
        self.amount = amount
        self.is_sent = False
        """The call may be paid from now on; its full amount is spent unless `settle` sets a lower cost."""

    def settle(self, cost: Fraction | None) -> None:
        """Replace the reservation by the cost; None (unknown) = the full amount. A second call has no effect."""
        if self._is_open:
            self._is_open = False
            self._budget.settled(self.amount, cost)
            self.amount = Fraction(0)
            self.is_sent = False

    def close(self) -> None:
        """Settle if that has not happened: in full if the call was sent, else at zero."""
        self.settle(None if self.is_sent else Fraction(0))


class Budget:
    """The cap, the amount spent, and the amount reserved; callers are served first come, first served.

    Args:
        cap: The most that may be spent; all amounts are in its currency.
    """

    def __init__(self, cap: Money) -> None:
        self.cap = cap
        self.spent = Fraction(0)
        """Includes the worst case of calls whose cost is unknown."""
        self.assumed = Fraction(0)
        """The part of `spent` that is such a worst case."""
        self.lacked: Fraction | None = None
        """Worst-case cost of the first call that was refused."""
        self._cap = Fraction(cap.amount)
        self._reserved = Fraction(0)
        self._in_flight = 0
        """Reservations that are not settled. A free call reserves 0, so the amount cannot tell whether one is open."""
        self._queue: deque[tuple[Fraction, asyncio.Future[None]]] = deque()
        self._closed: LimiterClosed | None = None

    async def reserve(self, amount: Fraction) -> Reservation:
        """Wait until this amount can be reserved without exceeding the cap.

        Raises:
            BudgetReached: The amount does not fit, and nothing in flight can free more.
            LimiterClosed: `close` was called, before or during the wait.
        """
        if self._closed is not None:
            raise self._closed
        if self._queue or not self._fits(amount):
            await self._wait_in_queue(amount)
        else:
            self._hold(amount)
        return Reservation(self, amount)

    def reopen(self, amount: Fraction) -> Reservation:
        """Reserve the worst case of a call of an earlier session, which was counted as spent: it may be answered."""
        self.spend(-amount, is_assumed=True)
        self._hold(amount)
        reservation = Reservation(self, amount)
        reservation.is_sent = True
        return reservation

    def spend(self, amount: Fraction, *, is_assumed: bool) -> None:
        """Add the cost of a call, or its worst case where the cost is unknown."""
        self.spent += amount
        self.assumed += amount if is_assumed else 0

    def settled(self, reserved: Fraction, cost: Fraction | None) -> None:
        """Replace a reserved amount by the amount spent; None (unknown) = the full amount."""
        self._in_flight -= 1
        self._reserved -= reserved
        self.spend(reserved if cost is None else cost, is_assumed=cost is None)
        self._serve()

    def close(self) -> None:
        """Reject all waiting and future reservations."""
        self._end(LimiterClosed("closed"))

    @property
    def larger(self) -> Money:
        """A cap that lets the run continue: twice this one, or more if the next call needs it."""
        least = _ROUNDED_UP.plus(to_decimal(self.spent + (self.lacked or 0)))
        return Money(amount=max(2 * self.cap.amount, least), currency=self.cap.currency)

    @property
    def short(self) -> str:
        """Amount spent and cap, as a few words."""
        at_most = "at most " if self.assumed else ""
        return f"{at_most}{display_amount(to_decimal(self.spent))} of {self.cap}"

    def __str__(self) -> str:
        spent = Money(amount=to_decimal(self.spent), currency=self.cap.currency)
        if not self.assumed:
            return f"{spent} of {self.cap} spent"
        assumed = Money(amount=to_decimal(self.assumed), currency=self.cap.currency)
        return f"{spent} of {self.cap} spent, {assumed} of it assumed for calls whose cost is unknown"

    def _fits(self, amount: Fraction) -> bool:
        return self.spent + self._reserved + amount <= self._cap

    def _hold(self, amount: Fraction) -> None:
        self._reserved += amount
        self._in_flight += 1

    async def _wait_in_queue(self, amount: Fraction) -> None:
        place = asyncio.get_running_loop().create_future()
        self._queue.append((amount, place))
        self._serve()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.settled(amount, Fraction(0))  # served and cancelled in the same round of the event loop
            else:
                self._queue.remove((amount, place))
                self._serve()
            raise

    def _serve(self) -> None:
        while self._queue and self._fits(self._queue[0][0]):
            amount, place = self._queue.popleft()
            self._hold(amount)
            place.set_result(None)
        if self._queue and not self._in_flight:
            self.lacked = self._queue[0][0]
            self._end(BudgetReached(f"the budget of {self.cap} is reached"))

    def _end(self, why: LimiterClosed) -> None:
        if self._closed is None:
            self._closed = why
        while self._queue:
            self._queue.popleft()[1].set_exception(self._closed)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetShare:
    """A target's access to the budget of the run."""

    budget: Budget
    prices: PriceTable
    factor: Fraction
    """Exchange rate from price currency to budget currency."""

    async def reserve(self, size: Mapping[str, int]) -> Reservation:
        """Reserve the worst case of a call; raises `BudgetReached`."""
        worst = self.prices.ceiling(size["most_input_tokens"], size["max_output_tokens"])
        return await self.budget.reserve(Fraction(worst) * self.factor)

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
        reservation.settle(None if cost is None else Fraction(cost) * self.factor)
