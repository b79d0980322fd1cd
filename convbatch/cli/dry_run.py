"""`run --dry-run`: print the plan, its calls, tokens and cost, and the shortest time that the limits allow.

Nothing is sent or stored; everything goes to stdout. Estimates come from `estimation/estimator.py`, the behaviour of a
target in earlier runs from `estimation/history.py`.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from convbatch.cli import show
from convbatch.cli.plan_text import plan_lines
from convbatch.config.gateways import Limits, Target, merge_limits
from convbatch.console.markdown import md, md_row
from convbatch.console.text import printable
from convbatch.dataset.reader import count_of
from convbatch.dataset.snapshot import read_copy
from convbatch.engine.quota import derated_rate
from convbatch.errors import SetupError
from convbatch.estimation.estimator import Estimate, Estimator, Figures
from convbatch.estimation.history import ROUGH, EarlierRuns, open_reused_replies
from convbatch.exit_codes import ExitCode
from convbatch.journal.manifest import ManifestTarget
from convbatch.pricing import ExchangeRates, Money, PriceTable, check_currency, display_amount, rate_text, to_decimal
from convbatch.protocols.batches import batch_api
from convbatch.results.export import Content, check_files, write_files
from convbatch.session.cost_cap import price_config_example
from convbatch.session.options import RunOptions
from convbatch.session.prepare import RESULTS, DryRun, prepare_dry_run
from convbatch.session.run_caps import forecast_lines

if TYPE_CHECKING:
    from convbatch.session.spec import SessionSpec

MOST_FORECAST = 5_000
"""Dialogues of a run whose budget is compared with an estimate before it starts."""
BUDGET_MARGIN = 1.3
"""How many times its expected cost a plan may cost: a budget that is reached leaves some dialogues without replies."""
_MINUTE_S = 60.0
_HEADINGS = ("target", "", "calls", "input tokens", "output tokens", "cost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Estimate for one target, and its source."""

    target: Target
    recorded: ManifestTarget
    """The target's entry in `run.json`, with its prices."""
    estimate: Estimate
    source: str

    @property
    def prices(self) -> PriceTable | None:
        """The target's prices; None if unknown."""
        return self.recorded.prices

    @property
    def unpriced(self) -> bool:
        """Whether the cost is unknown."""
        return self.estimate.expected.cost is None


def print_dry_run(options: RunOptions) -> ExitCode:
    """Print the plan and forecast of a run, and write it to the files of `-o`; return the exit code."""
    for path in options.reports:
        if path.suffix.lower() == ".xml":
            raise SetupError(f"{path}: a dry run decides no gate", hint="name a .json or .md file, or leave it out")
    check_files(options.reports, ("value", "markdown"))
    check_currency(options.currency)
    with prepare_dry_run(options) as plan:
        forecasts = forecast_targets(plan)
        before = [*plan_lines(plan, options), *_before_a_run(plan, forecasts)]
        totals = _totals(plan, forecasts, options.currency)
        below = [*_sums(forecasts, totals, options.currency), *_budget(plan, forecasts), *_notes(plan, forecasts)]
        rows = [row for one in forecasts for row in _rows(one)]
        content: Content = {
            "value": lambda: _to_value(plan, forecasts, totals, [*before, *below]),
            "markdown": lambda: _to_markdown(before, rows, below),
        }
        write_files(content, options.reports)
        if options.as_json:
            show.print_json(content["value"]())
            return ExitCode.OK
        show.print_lines(["dry run: nothing is sent and no folder is made", *before])
        show.print_figures(_HEADINGS, rows)
        show.print_lines(below)
    return ExitCode.OK


def _to_value(
    plan: DryRun, forecasts: Sequence[Forecast], totals: Sequence[_Total], notes: Sequence[str]
) -> dict[str, Any]:
    """Return the forecast as one JSON object; its keys are a contract."""
    return {
        "dialogues": plan.manifest.dataset.dialogues,
        "turns": plan.manifest.dataset.asked_turns,
        "rows": plan.manifest.planned.rows,
        "history": plan.manifest.history,
        "repeats": plan.manifest.repeats,
        "targets": [_target_value(one) for one in forecasts],
        "totals": [_total_value(total) for total in totals],
        "max_cost": None if plan.max_cost is None else str(plan.max_cost),
        "max_tokens_total": plan.max_tokens,
        "max_requests": plan.max_requests,
        "missing_keys": list(plan.missing_keys),
        "notes": [note.strip() for note in notes],
    }


def _target_value(one: Forecast) -> dict[str, Any]:
    return {
        "target": one.target.name,
        "simulated": one.target.simulated,
        "currency": None if one.prices is None else one.prices.currency,
        "source": one.source,
        "reused": one.estimate.reused,
        **_estimate_value(one.estimate),
    }


def _total_value(total: _Total) -> dict[str, Any]:
    rates = {"rates": list(total.rates)}
    return {"currency": total.currency, "targets": total.targets, **rates, **_estimate_value(total.estimate)}


def _estimate_value(estimate: Estimate) -> dict[str, Any]:
    return {name: _figures_value(getattr(estimate, name)) for name in ("low", "expected", "high", "upper_bound")}


def _figures_value(figures: Figures | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    cost = None if figures.cost is None else float(figures.cost)
    counts = {name: round(getattr(figures, name)) for name in ("calls", "input_tokens", "output_tokens")}
    return {**counts, "cost": cost}


def _to_markdown(before: Sequence[str], rows: Sequence[Sequence[str]], below: Sequence[str]) -> str:
    table = [md_row(_HEADINGS), md_row(["---", "---", *["---:"] * (len(_HEADINGS) - 2)])]
    table += [md_row([md(printable(cell)) for cell in row]) for row in rows]
    facts, notes = ("\n".join(f"- {md(printable(line.strip()))}" for line in some) for some in (before, below))
    head = "## Dry run: nothing is sent"
    return "\n\n".join(part for part in (head, facts, "\n".join(table), notes) if part) + "\n"


def budget_warning(spec: SessionSpec) -> list[str]:
    """Return a line if the budget of a run that is about to start may be too small; nothing where that takes long."""
    if not spec.has_caps or spec.manifest.dataset.dialogues > MOST_FORECAST:
        return []
    plan = DryRun(
        dataset=spec.folder.dataset,
        manifest=spec.manifest,
        targets=spec.targets,
        rules=spec.rules,
        reuse=spec.reuse,
        max_cost=spec.max_cost,
        max_tokens=spec.max_tokens,
        max_requests=spec.max_requests,
        missing_keys=(),
    )
    return [f"note: {line}; --dry-run shows the estimate" for line in _budget(plan, forecast_targets(plan))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a run should cost."""

    lines: Sequence[str]
    share: float | None
    """How much of the run its budget should pay for, with a margin; None without a budget or a cost."""


def cost_outlook(plan: DryRun) -> Outlook:
    """Return what a run should cost, in words, and how much of it its budget should pay for."""
    forecasts = forecast_targets(plan)
    figures = functools.reduce(Figures.plus, (one.estimate.expected for one in forecasts))
    tokens = f"{round(figures.input_tokens, -3):,.0f} input and {round(figures.output_tokens, -3):,.0f} output tokens"
    lines = [f"expected: {figures.calls:,.0f} calls, about {tokens}"]
    for total in _totals(plan, forecasts, None):
        low, expected, high = (
            _amount(one) for one in (total.estimate.low, total.estimate.expected, total.estimate.high)
        )
        lines.append(f"expected cost: {expected} {total.currency} ({low} to {high})")
    unpriced = [one.target.name for one in forecasts if one.unpriced and not one.target.simulated]
    lines += [f"cost unknown, no price: {', '.join(unpriced)}"] if unpriced else []
    if any(one.source.startswith(ROUGH) for one in forecasts):
        lines.append(
            "a rough estimate, without an earlier run to learn from: a model that reasons costs several times more"
        )
    lines += _budget(plan, forecasts)
    if plan.max_cost is None:
        return Outlook(lines=lines, share=None)
    costs = ((one.prices, one.estimate.expected) for one in forecasts)
    most = _in_one_currency(costs, plan.max_cost.currency, plan.manifest.rates)
    return Outlook(lines=lines, share=float(plan.max_cost.amount / most) / BUDGET_MARGIN if most else None)


def forecast_targets(plan: DryRun) -> list[Forecast]:
    """Return the forecast of every target, in the order of the plan."""
    found: list[Forecast] = []
    earlier = EarlierRuns(RESULTS, plan.dataset, plan.manifest.dataset.dialogues)
    with open_reused_replies(plan.reuse) as reusable:
        for target, recorded in zip(plan.targets, plan.manifest.targets, strict=True):
            if plan.rules.batch == "batch":
                recorded = replace(recorded, prices=recorded.batch_prices)
            profile = earlier.profile(target, plan.reuse)
            estimator = Estimator(
                target=target,
                profile=profile,
                prices=recorded.prices,
                at=time.time(),
                history=plan.rules.history,
                repeats=plan.rules.repeats,
                command_line=plan.rules.command_line,
                reusable=reusable(target),
            )
            estimate = estimator.all_of(target.asked(dialogue) for _, dialogue in read_copy(plan.dataset))
            found.append(Forecast(target=target, recorded=recorded, estimate=estimate, source=profile.source))
    return found


def _before_a_run(plan: DryRun, forecasts: Sequence[Forecast]) -> list[str]:
    """Return lines on missing keys and on the shortest time that the limits allow."""
    lines = [f"  no key yet: {name} is not set; a run needs it" for name in plan.missing_keys]
    if plan.rules.batch == "batch":
        return [*lines, _batch_time(plan)]
    owners: dict[tuple[str, str, str], list[Forecast]] = {}
    for one in forecasts:
        owners.setdefault(one.target.quota_owner, []).append(one)
    for shared in owners.values():
        names = ", ".join(one.target.name for one in shared)
        limits = merge_limits(one.target.gateway.limits for one in shared)
        expected = functools.reduce(Figures.plus, (one.estimate.expected for one in shared))
        span = shortest(limits, expected)
        lines += [] if span is None else [f"  {names}: {span}"]
    return lines


def _batch_time(plan: DryRun) -> str:
    """Return how long the waves of a batch run may take."""
    waves = max((len(dialogue.asked(plan.rules.history)) for _, dialogue in read_copy(plan.dataset)), default=0)
    window = plan.rules.batch_window
    hours = max(batch_api(target.gateway.protocol, window).longest_h for target in plan.targets)
    if window is not None:
        return f"  each response within {window}: at worst {waves * hours} h for {count_of(waves, 'turn')}"
    return (
        f"  {count_of(waves, 'wave')} of batch jobs, one after another: often less than an hour each, at worst "
        f"{hours} h each, {waves * hours} h in all"
    )


def shortest(limits: Limits, figures: Figures) -> str | None:
    """Return the shortest time the limits allow and the limit that decides it; None if it is below a second."""
    rates = [(rate.count, rate.window_s) for rate in limits.rates]
    found: list[tuple[float, str]] = []
    if limits.rpm is not None:
        rates.append((limits.rpm, _MINUTE_S))
    if rates:
        burst, per_second = derated_rate(rates, limits.jitter_s)
        found.append(((figures.calls - burst) / per_second, "the request rate"))
    if limits.tpm is not None:
        tokens = figures.input_tokens + (figures.output_tokens if limits.tpm_counts == "input+max_output" else 0)
        found.append(((tokens / limits.tpm - 1) * _MINUTE_S, f"tpm {limits.tpm:,}"))
    if limits.rpd is not None:
        days = math.ceil(figures.calls / limits.rpd)
        if days > 1:
            return f"at least {days} quota days, by rpd {limits.rpd:,}"
    seconds, why = max(found, default=(0.0, ""))
    return f"at least {_span(seconds)}, by {why}" if seconds >= 1 else None


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _rows(one: Forecast) -> Iterable[Sequence[str]]:
    estimate = one.estimate
    rows = [("low", estimate.low), ("expected", estimate.expected), ("high", estimate.high)]
    if estimate.upper_bound is not None:
        rows.append(("at most", estimate.upper_bound))
    for number, (label, figures) in enumerate(rows):
        counts = (figures.calls, figures.input_tokens, figures.output_tokens)
        name = one.target.name if number == 0 else ""
        yield (name, label, *(f"{round(count):,}" for count in counts), _cost(one.prices, figures.cost))


def _cost(prices: PriceTable | None, cost: Decimal | None) -> str:
    return "–" if prices is None or cost is None else str(Money(amount=cost, currency=prices.currency))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Total:
    """Sum over the targets of a currency, or over all of them in one currency."""

    currency: str
    targets: int
    estimate: Estimate
    rates: tuple[str, ...] = ()
    """Exchange rates that it needs; none where every target bills in this currency."""


def _totals(plan: DryRun, forecasts: Sequence[Forecast], wanted: str | None) -> list[_Total]:
    """Return the sum of each currency and, where `[rates]` converts them all, the sum in one.

    Args:
        plan: The plan, with its rates and its budget.
        forecasts: The forecasts of its targets.
        wanted: The currency of the sum; None: that of the budget, else one of those that are billed.

    Raises:
        SetupError: No rate to the currency that is wanted.
    """
    priced: dict[str, list[Forecast]] = {}
    for one in forecasts:
        if one.prices is not None and not one.unpriced:
            priced.setdefault(one.prices.currency, []).append(one)
    totals = [
        _Total(currency=currency, targets=len(some), estimate=_sum_of(one.estimate for one in some))
        for currency, some in priced.items()
    ]
    if len(totals) < 2 and (wanted is None or wanted in priced or not totals):
        return totals
    choices = [plan.max_cost.currency] if plan.max_cost is not None else list(priced)
    for currency in choices if wanted is None else [wanted]:
        factors = {total.currency: plan.manifest.rates.factor(total.currency, currency) for total in totals}
        if None not in factors.values():
            return [*totals, _one_total(totals, currency, factors)]
        if wanted is not None:
            missing = next(other for other, factor in factors.items() if factor is None)
            hint = f'add it to the config: [rates] "{missing}/{wanted}" = ...'
            raise SetupError(f"--currency {wanted}: no rate from {missing}", hint=hint)
    return totals


def _one_total(totals: Sequence[_Total], currency: str, factors: Mapping[str, Fraction | None]) -> _Total:
    """Return the sum of all totals in one currency."""
    return _Total(
        currency=currency,
        targets=sum(total.targets for total in totals),
        estimate=_sum_of(_converted(total.estimate, factors[total.currency] or Fraction(1)) for total in totals),
        rates=tuple(
            rate_text(other, currency, factor)
            for other, factor in factors.items()
            if factor is not None and other != currency
        ),
    )


def _sum_of(estimates: Iterable[Estimate]) -> Estimate:
    return functools.reduce(Estimate.plus, estimates)


def _converted(estimate: Estimate, factor: Fraction) -> Estimate:
    """Return an estimate with its costs in another currency."""

    def convert(figures: Figures) -> Figures:
        cost = None if figures.cost is None else to_decimal(Fraction(figures.cost) * factor)
        return replace(figures, cost=cost)

    return replace(
        estimate,
        low=convert(estimate.low),
        expected=convert(estimate.expected),
        high=convert(estimate.high),
        upper_bound=None if estimate.upper_bound is None else convert(estimate.upper_bound),
    )


def _sums(forecasts: Sequence[Forecast], totals: Sequence[_Total], wanted: str | None) -> list[str]:
    """Return a line per currency with the sum over its targets, if there are several targets or one is wanted."""
    if len(forecasts) == 1 and wanted is None:
        return []
    lines = [_sum_line(total) for total in totals]
    without = sum(one.unpriced for one in forecasts)
    if without and totals:
        lines.append(f"{without} of {count_of(len(forecasts), 'target')} without a price: not in these sums")
    return lines


def _sum_line(one: _Total) -> str:
    total = one.estimate
    parts = [f"low {_amount(total.low)}", f"expected {_amount(total.expected)}", f"high {_amount(total.high)}"]
    if total.upper_bound is not None:
        parts.append(f"at most {_amount(total.upper_bound)}")
    head = (
        f"total in {one.currency} by [rates] ({', '.join(one.rates)})"
        if one.rates
        else (f"total billed in {one.currency}")
    )
    return f"{head}: {', '.join(parts)}"


def _amount(figures: Figures) -> str:
    return "–" if figures.cost is None else display_amount(figures.cost)


def _budget(plan: DryRun, forecasts: Sequence[Forecast]) -> list[str]:
    """Return a line for each cap that may be too small."""
    expected, high = (
        {"tokens": one.input_tokens + one.output_tokens, "requests": one.calls}
        for one in (
            functools.reduce(Figures.plus, (getattr(one.estimate, name) for one in forecasts))
            for name in ("expected", "high")
        )
    )
    return [*_cost_budget(plan, forecasts), *forecast_lines(plan, expected, high)]


def _cost_budget(plan: DryRun, forecasts: Sequence[Forecast]) -> list[str]:
    """Return a line if the cap may be too small. A cap implies exchange rates between all currencies of the run."""
    cap = plan.max_cost
    if cap is None:
        return []
    exchange_rates = plan.manifest.rates
    expected = _in_one_currency(
        ((one.prices, one.estimate.expected) for one in forecasts), cap.currency, exchange_rates
    )
    high = _in_one_currency(((one.prices, one.estimate.high) for one in forecasts), cap.currency, exchange_rates)
    if expected is None or high is None or high <= cap.amount:
        return []
    if expected > cap.amount:
        return [f"the budget of {cap} is too small: {Money(amount=expected, currency=cap.currency)} expected"]
    return [f"the budget of {cap} may be too small: up to {Money(amount=high, currency=cap.currency)}"]


def _in_one_currency(
    some: Iterable[tuple[PriceTable | None, Figures]], currency: str, exchange_rates: ExchangeRates
) -> Decimal | None:
    total = Decimal(0)
    for prices, figures in some:
        if prices is None or figures.cost is None:
            return None
        money = exchange_rates.convert(Money(amount=figures.cost, currency=prices.currency), currency)
        if money is None:
            return None
        total += money.amount
    return total


def _notes(plan: DryRun, forecasts: Sequence[Forecast]) -> list[str]:
    """Return what a reader must know to interpret the figures."""
    by_source: dict[str, list[str]] = {}
    for one in forecasts:
        by_source.setdefault(one.source, []).append(one.target.name)
    lines = [f"{', '.join(names)}: {source}" for source, names in by_source.items()]
    for one in forecasts:
        if one.estimate.reused and plan.reuse is not None:
            reused = count_of(one.estimate.reused, "turn")
            lines.append(f"{one.target.name}: {reused} reused from {plan.reuse.name}, not in the figures")
    lines += [_price_line(one) for one in forecasts if one.unpriced and not one.target.simulated]
    judge = plan.manifest.options.judge
    if judge is not None:
        most = plan.manifest.judges_needed * plan.manifest.repeats * len(forecasts)
        lines.append(f"judge {judge}: at most {count_of(most, 'question')}, not in these figures")
    if any(one.prices is not None for one in forecasts):
        lines.append("input is counted at full price; cached input costs less")
    if any(one.estimate.with_tools for one in forecasts):
        lines.append('a turn with tools: 1 call in low, 2 in expected, max_steps in high; there is no "at most"')
    elif any(one.estimate.upper_bound is None for one in forecasts):
        lines.append('no "at most" without a limit on replies: set --max-output-tokens N or max_output_tokens')
    return lines


def _price_line(one: Forecast) -> str:
    name = one.target.name
    if one.prices is not None:
        return f"{name}: no price of {one.prices.source} is valid now"
    example = price_config_example(one.recorded)
    return f"{name}: no known price; add one to the config, above its tables: {example}"
