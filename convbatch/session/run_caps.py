"""The caps of a run: `--max-cost`, `--max-tokens-total` and `--max-requests`, from options to one `Budget`.

What a cap on the cost needs is checked in `cost_cap.py`; how caps are enforced is `engine/budget.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

from convbatch.counts import parse_count
from convbatch.errors import SetupError

if TYPE_CHECKING:
    from convbatch.config.gateways import RunTable, Target
    from convbatch.engine.budget import Budget, BudgetShare, Cap, CapKind
    from convbatch.journal.index import Archive, TurnHistory
    from convbatch.journal.manifest import Manifest, ManifestOptions, ManifestTarget
    from convbatch.session.options import LimitOptions
    from convbatch.session.spec import SessionSpec

CAPS = {"max_cost": "--max-cost", "max_tokens_total": "--max-tokens-total", "max_requests": "--max-requests"}
"""Options by field of `LimitOptions` and of `ManifestOptions`."""
_FIELD_OF_UNIT = {"tokens": "max_tokens_total", "requests": "max_requests"}


class CountCaps(Protocol):
    """A session or a dry run, with its caps on what is counted."""

    @property
    def max_tokens(self) -> int | None:
        """Of the whole run."""
        ...

    @property
    def max_requests(self) -> int | None:
        """Of the whole run."""
        ...


def given_caps(options: LimitOptions, above: ManifestOptions | RunTable) -> dict[str, Any]:
    """Return the caps by field: as the options say, else as the run or its config does.

    Raises:
        SetupError: A number of tokens or requests cannot be read.
    """
    return {
        "max_cost": above.max_cost if options.max_cost is None else options.max_cost,
        "max_tokens_total": _count(options.max_tokens_total, "max_tokens_total", above.max_tokens_total),
        "max_requests": _count(options.max_requests, "max_requests", above.max_requests),
    }


def with_caps(manifest: Manifest, options: LimitOptions) -> Manifest:
    """Return the manifest with the caps that an option changes; raises `SetupError`."""
    return replace(manifest, options=replace(manifest.options, **given_caps(options, manifest.options)))


def _count(text: str | None, field: str, otherwise: int | None) -> int | None:
    return otherwise if text is None else parse_count(text, CAPS[field])


def caps_of(spec: SessionSpec) -> list[Cap]:
    """Return the caps of a session's run."""
    from convbatch.engine.budget import Count

    caps: list[Cap] = [] if spec.max_cost is None else [spec.max_cost]
    if spec.max_tokens is not None:
        caps.append(Count(spec.max_tokens, "tokens"))
    if spec.max_requests is not None:
        caps.append(Count(spec.max_requests, "requests"))
    return caps


def cap_lines(spec: CountCaps) -> list[str]:
    """Return the lines of a plan about caps on tokens and requests."""
    lines: list[str] = []
    if spec.max_tokens is not None:
        lines.append(f"  token cap {spec.max_tokens:,}: the most tokens of a request are reserved before it is sent")
    if spec.max_requests is not None:
        lines.append(f"  request cap {spec.max_requests:,}: retries and a judge's questions count")
    return lines


def larger_options(caps: tuple[Cap, ...]) -> dict[str, str]:
    """Return options that let a run continue which these caps ended, by field."""
    from convbatch.engine.budget import Count

    larger: dict[str, str] = {}
    for cap in caps:
        if isinstance(cap, Count):
            larger[_FIELD_OF_UNIT[cap.unit]] = str(cap.amount)
        else:
            larger["max_cost"] = f"{cap.amount:f}{cap.currency}"
    return larger


def open_budget(spec: SessionSpec, past: Archive | None) -> Budget | None:
    """Return the budget of the run, reduced by what earlier sessions spent; None without a cap.

    Raises:
        SetupError: An earlier call may have been paid, and there is no upper bound on what it spent.
    """
    caps = caps_of(spec)
    if not caps:
        return None
    from convbatch.engine.budget import Budget

    budget = Budget(*caps)
    if past is None:
        return budget
    unbounded: Counter[CapKind] = Counter()
    for target, history in _all_turns(spec.manifest, past):  # once for all caps: it reads the journal
        for account in budget.accounts:
            for amount, is_assumed in _spent_before(spec, account.cap, target, history):
                if amount is None:
                    unbounded[account.kind] += 1
                else:
                    account.spend(amount, is_assumed=is_assumed)
    for kind, count in unbounded.items():
        _refuse_unbounded(kind, count)
    return budget


def _refuse_unbounded(kind: CapKind, count: int) -> None:
    option, what = ("--max-cost", "cost is") if kind == "cost" else ("--max-tokens-total", "tokens are")
    raise SetupError(
        f"{count} earlier calls of this run may have been paid, and their {what} unknown",
        hint=f"a budget must be set when a run starts; continue without {option}, or start a new run with --reuse "
        "of this one",
    )


def _spent_before(
    spec: SessionSpec, cap: Cap, target: ManifestTarget | None, history: TurnHistory
) -> Iterator[tuple[Fraction | int | None, bool]]:
    """Yield what each earlier attempt spent of a cap, and whether that is its worst case; None = without bound."""
    from convbatch.engine.budget import Count
    from convbatch.results.costs import paid_attempts, sent_attempts, used_tokens

    if isinstance(cap, Count):
        yield from sent_attempts(history) if cap.unit == "requests" else used_tokens(history)
        return
    prices = None if target is None else target.prices
    if prices is None and target is not None and target.simulated:
        return
    factor = None if prices is None else spec.manifest.rates.factor(prices.currency, cap.currency)
    for attempt in paid_attempts(history, target):
        cost = attempt.bound if attempt.cost is None else attempt.cost
        yield None if cost is None or factor is None else Fraction(cost) * factor, attempt.cost is None


def _all_turns(manifest: Manifest, past: Archive) -> Iterator[tuple[ManifestTarget | None, TurnHistory]]:
    """Yield every turn and judge call of the run, each with its target's or judge's entry in `run.json`."""
    targets = {target.name: target for target in manifest.targets}
    judges = {judge.name: judge for judge in manifest.judges}
    for transcript in past.transcripts():
        for history in transcript.turns.values():
            yield targets.get(transcript.target), history
    for judge_call in past.all_judge_calls():
        yield judges.get(judge_call.judge), judge_call.history


def budget_share(spec: SessionSpec, target: Target, budget: Budget) -> BudgetShare:
    """Return a target's access to the budget."""
    from convbatch.engine.budget import BudgetShare

    if budget.cost is None:
        return BudgetShare(budget=budget, prices=None)
    recorded = next(one for one in spec.work.recorded_targets(spec.manifest) if one.name == target.name)
    prices = recorded.batch_prices if spec.rules.batch == "batch" else recorded.prices
    assert prices is not None, target.name  # resolve_cap refuses a budget without prices
    factor = spec.manifest.rates.factor(prices.currency, budget.cost.currency)
    assert factor is not None, target.name  # and one without exchange rates
    return BudgetShare(budget=budget, prices=prices, factor=factor)


def forecast_lines(plan: CountCaps, expected: Mapping[str, float], high: Mapping[str, float]) -> list[str]:
    """Return a line for each cap on tokens or requests that an estimate exceeds.

    Args:
        plan: The plan.
        expected: Estimated `tokens` and `requests`.
        high: The same, at most.
    """
    lines: list[str] = []
    for name, cap in (("tokens", plan.max_tokens), ("requests", plan.max_requests)):
        if cap is None or high[name] <= cap:
            continue
        if expected[name] > cap:
            lines.append(f"the budget of {cap:,} {name} is too small: {Decimal(round(expected[name])):,} expected")
        else:
            lines.append(f"the budget of {cap:,} {name} may be too small: up to {Decimal(round(high[name])):,}")
    return lines
