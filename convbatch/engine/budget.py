"""Caps on a run: the worst case of each call is reserved before it is sent, and settled afterwards.

A run may have several caps: on its cost, its tokens and its requests. A call reserves its share of all of them at once,
so calls cannot wait for each other. No cap is ever exceeded, whatever is in flight, as long as gateways respect
`max_output_tokens` and the configured prices. Amounts of money are fractions: a division by an exchange rate has no
exact decimal, and sums of rounded ones do not return to 0. The cost of a call is `pricing.py`; the caller is
`runner.py`. Nothing here uses a clock or the journal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_UP, Context, Decimal
from fractions import Fraction
from typing import Literal, NamedTuple

from convbatch.engine.limiter import LimiterClosed
from convbatch.pricing import Money, PriceTable, display_amount, to_decimal
from convbatch.reply import Attempt, Failure, Usage, billed_usage

_ROUNDED_UP = Context(prec=2, rounding=ROUND_UP)
CapKind = Literal["cost", "tokens", "requests"]
Amounts = Sequence[Fraction | int]
"""One amount for each cap of a budget, in their order."""


class Count(NamedTuple):
    """A cap on something that is counted."""

    amount: int
    unit: Literal["tokens", "requests"]

    def __str__(self) -> str:
        return f"{self.amount:,} {self.unit}"


Cap = Money | Count


class BudgetReached(LimiterClosed):
    """The next call could exceed a cap, and no call in flight can free enough of it."""


class Reservation:
    """What is reserved for one call."""

    __slots__ = ("_budget", "_is_open", "amounts", "is_sent")

    def __init__(self, budget: Budget, amounts: Amounts) -> None:
        self._budget = budget
        self._is_open = True
        self.amounts = amounts
        self.is_sent = False
        """The call may be paid from now on; its full amounts are spent unless `settle` sets lower ones."""

    def settle(self, spent: Sequence[Fraction | int | None] | None) -> None:
        """Replace the reservation by what was spent; None (unknown) = the full amount. A second call has no effect."""
        if self._is_open:
            self._is_open = False
            self._budget.settled(self.amounts, (None,) * len(self.amounts) if spent is None else spent)
            self.amounts = (0,) * len(self.amounts)
            self.is_sent = False

    def close(self) -> None:
        """Settle if that has not happened: in full if the call was sent, else at zero."""
        self.settle(None if self.is_sent else (0,) * len(self.amounts))


class Account:
    """One cap, what is spent of it, and what is reserved."""

    def __init__(self, cap: Cap) -> None:
        self.cap = cap
        self.kind: CapKind = "cost" if isinstance(cap, Money) else cap.unit
        self.spent: Fraction | int = 0
        """Includes the worst case of calls of which this is unknown."""
        self.assumed: Fraction | int = 0
        """The part of `spent` that is such a worst case."""
        self.lacked: Fraction | int | None = None
        """Worst case of the first call that this cap refused."""
        self.reserved: Fraction | int = 0
        self._most = Fraction(cap.amount) if isinstance(cap, Money) else cap.amount

    def fits(self, amount: Fraction | int) -> bool:
        """Return whether this amount can be reserved."""
        return self.spent + self.reserved + amount <= self._most

    def spend(self, amount: Fraction | int, *, is_assumed: bool) -> None:
        """Add what a call spent, or its worst case where that is unknown."""
        self.spent += amount
        self.assumed += amount if is_assumed else 0

    @property
    def larger(self) -> Cap:
        """A cap that lets the run continue: twice this one, or more if the next call needs it."""
        least = self.spent + (self.lacked or 0)
        if isinstance(self.cap, Money):
            rounded = _ROUNDED_UP.plus(to_decimal(Fraction(least)))
            return Money(amount=max(2 * self.cap.amount, rounded), currency=self.cap.currency)
        return Count(max(2 * self.cap.amount, int(_ROUNDED_UP.plus(Decimal(int(least))))), self.cap.unit)

    @property
    def short(self) -> str:
        """Amount spent and cap, as a few words."""
        spent = (
            f"{int(self.spent):,}" if isinstance(self.cap, Count) else display_amount(to_decimal(_exact(self.spent)))
        )
        return f"{'at most ' if self.assumed else ''}{spent} of {self.cap}"

    def __str__(self) -> str:
        if isinstance(self.cap, Count):
            if not self.assumed:
                return f"{self.spent:,} of {self.cap}"
            whose = "count" if self.kind == "tokens" else "sending"
            return f"{self.spent:,} of {self.cap}, {self.assumed:,} of them assumed for calls whose {whose} is unknown"
        spent = Money(amount=to_decimal(_exact(self.spent)), currency=self.cap.currency)
        if not self.assumed:
            return f"{spent} of {self.cap} spent"
        assumed = Money(amount=to_decimal(_exact(self.assumed)), currency=self.cap.currency)
        return f"{spent} of {self.cap} spent, {assumed} of it assumed for calls whose cost is unknown"


def _exact(amount: Fraction | int) -> Fraction:
    return amount if isinstance(amount, Fraction) else Fraction(amount)


class Budget:
    """The caps of a run; callers are served first come, first served.

    Args:
        caps: One or several, each of another kind. All amounts are in their order, money in the currency of its cap.
    """

    def __init__(self, *caps: Cap) -> None:
        self.accounts = tuple(map(Account, caps))
        self._in_flight = 0
        """Reservations that are not settled. A free call reserves 0, so the amount cannot tell whether one is open."""
        self._queue: deque[tuple[Amounts, asyncio.Future[None]]] = deque()
        self._closed: LimiterClosed | None = None

    async def reserve(self, amounts: Amounts) -> Reservation:
        """Wait until these amounts can be reserved without exceeding a cap.

        Raises:
            BudgetReached: An amount does not fit, and nothing in flight can free more.
            LimiterClosed: `close` was called, before or during the wait.
        """
        if self._closed is not None:
            raise self._closed
        if self._queue or not self._fits(amounts):
            await self._wait_in_queue(amounts)
        else:
            self._hold(amounts)
        return Reservation(self, amounts)

    def reopen(self, amounts: Amounts) -> Reservation:
        """Reserve the worst case of a call of an earlier session, which was counted as spent: it may be answered."""
        for account, amount in zip(self.accounts, amounts, strict=True):
            account.spend(-amount, is_assumed=True)
        self._hold(amounts)
        reservation = Reservation(self, amounts)
        reservation.is_sent = True
        return reservation

    def settled(self, reserved: Amounts, spent: Sequence[Fraction | int | None]) -> None:
        """Replace reserved amounts by those spent; None (unknown) = the full amount."""
        self._in_flight -= 1
        for account, held, paid in zip(self.accounts, reserved, spent, strict=True):
            account.reserved -= held
            account.spend(held if paid is None else paid, is_assumed=paid is None)
        self._serve()

    def close(self) -> None:
        """Reject all waiting and future reservations."""
        self._end(LimiterClosed("closed"))

    @property
    def cost(self) -> Money | None:
        """The cap on the cost, if there is one."""
        return next((account.cap for account in self.accounts if isinstance(account.cap, Money)), None)

    @property
    def larger(self) -> tuple[Cap, ...]:
        """Caps that let the run continue, in place of those that ended it."""
        return tuple(account.larger for account in self.accounts if account.lacked is not None)

    @property
    def short(self) -> str:
        """Amount spent and cap, of each cap, as a few words."""
        return ", ".join(account.short for account in self.accounts)

    def __str__(self) -> str:
        reached = [account for account in self.accounts if account.lacked is not None]
        return "; ".join(map(str, reached or self.accounts))

    def _fits(self, amounts: Amounts) -> bool:
        return all(account.fits(amount) for account, amount in zip(self.accounts, amounts, strict=True))

    def _hold(self, amounts: Amounts) -> None:
        for account, amount in zip(self.accounts, amounts, strict=True):
            account.reserved += amount
        self._in_flight += 1

    async def _wait_in_queue(self, amounts: Amounts) -> None:
        place = asyncio.get_running_loop().create_future()
        self._queue.append((amounts, place))
        self._serve()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.settled(amounts, (0,) * len(amounts))  # served and cancelled in the same round of the event loop
            else:
                self._queue.remove((amounts, place))
                self._serve()
            raise

    def _serve(self) -> None:
        while self._queue and self._fits(self._queue[0][0]):
            amounts, place = self._queue.popleft()
            self._hold(amounts)
            place.set_result(None)
        if self._queue and not self._in_flight:
            for account, amount in zip(self.accounts, self._queue[0][0], strict=True):
                account.lacked = None if account.fits(amount) else amount
            reached = " and ".join(str(account.cap) for account in self.accounts if account.lacked is not None)
            self._end(BudgetReached(f"the budget of {reached} is reached"))

    def _end(self, why: LimiterClosed) -> None:
        if self._closed is None:
            self._closed = why
        while self._queue:
            self._queue.popleft()[1].set_exception(self._closed)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetShare:
    """A target's access to the budget of the run."""

    budget: Budget
    prices: PriceTable | None
    """None where the cost has no cap."""
    factor: Fraction = Fraction(1)
    """Exchange rate from price currency to budget currency."""

    async def reserve(self, size: Mapping[str, int]) -> Reservation:
        """Reserve the worst case of a call; raises `BudgetReached`."""
        return await self.budget.reserve(self._worst(size, self.prices))

    def can_reserve(self, size: Mapping[str, int], prices: PriceTable | None) -> bool:
        """Return whether a call of this size at these prices has a worst case."""
        kinds = {account.kind for account in self.budget.accounts}
        is_limited = "most_input_tokens" in size and "max_output_tokens" in size
        return (kinds == {"requests"} or is_limited) and ("cost" not in kinds or prices is not None)

    def reopen(self, size: Mapping[str, int], prices: PriceTable | None) -> Reservation:
        """Reserve the worst case of a call of an earlier session at these prices, as `Budget.reopen`."""
        return self.budget.reopen(self._worst(size, prices))

    def settle(self, reservation: Reservation, attempt: Attempt, as_served: PriceTable | None = None) -> None:
        """Settle what the attempt spent: zero if it was certainly not paid, the worst case if that is unknown.

        Args:
            reservation: The worst case, at the prices of the asked model.
            attempt: The call.
            as_served: Prices of the model that answered, in the same currency; None = those of the asked one.
        """
        kind = attempt.outcome.kind if isinstance(attempt.outcome, Failure) else None
        usage = billed_usage(attempt.cls, kind, attempt.outcome.usage)
        spent = [self._spent(account.kind, attempt, usage, as_served) for account in self.budget.accounts]
        reservation.settle(spent)

    def _worst(self, size: Mapping[str, int], prices: PriceTable | None) -> Amounts:
        amounts: list[Fraction | int] = []
        for account in self.budget.accounts:
            if account.kind == "requests":
                amounts.append(1)
                continue
            given, taken = size["most_input_tokens"], size["max_output_tokens"]
            if account.kind == "tokens":
                amounts.append(given + taken)
            else:
                assert prices is not None  # a cap on the cost without prices is refused
                amounts.append(Fraction(prices.ceiling(given, taken)) * self.factor)
        return amounts

    def _spent(
        self, kind: CapKind, attempt: Attempt, usage: Usage, as_served: PriceTable | None
    ) -> Fraction | int | None:
        if kind == "requests":
            return 0 if attempt.cls == "not_sent" else 1
        unpaid = 0 if attempt.cls in ("refused", "not_sent", "final") else None
        if kind == "tokens":
            return unpaid if usage.all_tokens is None else usage.all_tokens
        prices = as_served or self.prices
        assert prices is not None
        cost = prices.cost(usage, attempt.started_at)
        return unpaid if cost is None else Fraction(cost) * self.factor
