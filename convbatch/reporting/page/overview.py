"""The top of a page: what came out, target by target, and how the runs were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import orjson

from convbatch.console.html import Markup, element, joined
from convbatch.console.tables import NONE, number_text
from convbatch.console.text import shorten
from convbatch.journal.manifest import Manifest, ManifestTarget
from convbatch.journal.run_folder import shell_quote
from convbatch.pricing import display_amount
from convbatch.reporting.charts.figures import PassInterval
from convbatch.reporting.page.pass_rate import PassRate, share_text
from convbatch.reporting.page.tables import Table, counted, table
from convbatch.reporting.runs import ReportedRun
from convbatch.reporting.section import SHOWN_OF_A_NAME
from convbatch.results.filters import Matcher
from convbatch.results.several import target_names
from convbatch.results.summary import TargetSummary

CARDS_SHOWN = 12
"""Targets with a card; the table has all."""
_NAMES_SHOWN = 5
_HEADINGS = ("target", "passed", "ok", "blocked", "empty", "failed", "skipped", "open", "input tokens", "output tokens",
             "spent", "latency p50 s", "p95 s", "TTFT p50 s", "p95 s ", "finish reasons", "answered by")  # fmt: skip
_RARE = ("blocked", "empty", "skipped", "open", "TTFT p50 s", "p95 s ")
"""Columns that are left out where every cell is 0 or unknown."""
_TEXTS = ("target", "finish reasons", "answered by")


class TargetTotals(NamedTuple):
    """One target of a run."""

    name: str
    """With its run, where there are several."""
    run: ReportedRun
    total: TargetSummary

    @property
    def pass_rate(self) -> PassRate | None:
        """None without a judged dialogue."""
        total = self.total
        if not total.judged:
            return None
        repeats = self.run.run.manifest.repeats
        return PassRate.of(total.passed, total.judged, undecided=total.undecided, repeats=repeats)

    @property
    def spent(self) -> str:
        """What was spent, with its currency; a dash if nothing is known."""
        total = self.total
        if total.spent is None or total.currency is None:
            return NONE
        amounts = self.run.converted({total.currency: total.spent}).items()
        missing = " + ?" if total.unpriced else ""
        return " + ".join(f"{display_amount(amount)} {currency}" for currency, amount in amounts) + missing

    @property
    def finish_reasons(self) -> str:
        """The finish reasons with their numbers of replies."""
        return _counts_text(self.total.finish)

    @property
    def answered_by(self) -> str:
        """The model names in the replies."""
        names = {one.served or "no name": one.replies for one in self.total.served}
        return _counts_text(names) if len(names) > 1 else shorten(next(iter(names), ""), SHOWN_OF_A_NAME)

    @property
    def figures(self) -> Iterator[tuple[str, str]]:
        """The cost, tokens and times, with what each is."""
        total = self.total
        yield "cost", "no price known" if self.spent == NONE else self.spent
        if total.input_tokens is not None or total.output_tokens is not None:
            yield "tokens", f"{number_text(total.input_tokens)} in, {number_text(total.output_tokens)} out"
        for name, p50, p95 in (
            ("latency", total.p50_latency_s, total.p95_latency_s),
            ("first text", total.p50_ttft_s, total.p95_ttft_s),
        ):
            if p50 is not None:
                yield name, f"p50 {number_text(p50)} s, p95 {number_text(p95)} s"
        if total.finish:
            yield "finish", self.finish_reasons


def _counts_text(counts: Mapping[str, int]) -> str:
    shown = [f"{shorten(name, SHOWN_OF_A_NAME)} {count:,}" for name, count in list(counts.items())[:_NAMES_SHOWN]]
    left = len(counts) - len(shown)
    return ", ".join(shown) + (f", and {left:,} more" if left > 0 else "")


def target_totals(runs: Sequence[ReportedRun], matcher: Matcher) -> list[TargetTotals]:
    """Sum up every target of every run, in order."""
    names = target_names([reported.run for reported in runs])
    return [
        TargetTotals(name, reported, total)
        for reported, of_run in zip(runs, names, strict=True)
        for name, total in zip(of_run, matcher.summary(reported.run), strict=True)
    ]


def pass_intervals(totals: Sequence[TargetTotals]) -> list[PassInterval]:
    """Return the pass rates for a chart."""
    rates = [(one.name, rate) for one in totals if (rate := one.pass_rate) is not None]
    return [PassInterval(name, one.passed, one.judged, one.low, one.high, one.undecided) for name, one in rates]


def warnings(totals: Sequence[TargetTotals]) -> Iterator[Markup]:
    """Yield what limits the figures: what is simulated, what is missing, and which other model answered."""
    simulated = [one.name for one in totals if one.total.simulated]
    if simulated:
        yield _warning(f"SIMULATED, no model was asked: {', '.join(simulated)}")
    for one in totals:
        total = one.total
        if total.open:
            resume = element("code", f"convbatch resume {shell_quote(one.run.run.path)}")
            yield _warning(f"{one.name}: incomplete, {counted(total.open, 'turn')} without a result: ", resume)
        if total.possibly_paid:
            yield _warning(f"{one.name}: {counted(total.possibly_paid, 'call')} possibly paid without an answer")
        yield from map(_warning, total.served_notes)
    for reported in {id(one.run): one.run for one in totals}.values():
        for target, reason in reported.run.suspended.items():
            yield _warning(f"{reported.label}: {target} is suspended: {reason}")
        if reported.run.damaged_places:
            places = counted(reported.run.damaged_places, "damaged place")
            yield _warning(f"{reported.label}: {places} of the journal left out")


def _warning(*parts: str) -> Markup:
    return element("p", *parts, class_="warning")


def cards(totals: Sequence[TargetTotals], roles: Sequence[str] = ()) -> Markup:
    """Return a card for each target: the pass rate with its interval, cost, tokens and times.

    Args:
        totals: The targets, in order.
        roles: Of each in a comparison: base, candidate.
    """
    shown = [_card(one, roles[n] if n < len(roles) else "") for n, one in enumerate(totals[:CARDS_SHOWN])]
    left = len(totals) - len(shown)
    note = f"… and {counted(left, 'more target')} in the table below"
    more = [element("p", note, class_="note")] if left > 0 else []
    return element("div", *shown, *more, class_="cards")


def _card(one: TargetTotals, role: str) -> Markup:
    total = one.total
    heading = element("h2", *([element("span", role, class_="role"), " "] if role else []), one.name)
    if (rate := one.pass_rate) is not None:
        head = [element("p", share_text(rate.rate), " ", element("small", "passed"), class_="big"), rate.bar(),
                element("p", rate.sentence)]  # fmt: skip
    else:
        replies = total.ok + total.blocked + total.empty
        head = [
            element("p", f"{replies:,} of {total.turns:,} ", element("small", "turns have a reply"), class_="big"),
            element("p", "No dialogue has a verdict."),
        ]
    figures = [element("div", element("dt", name), element("dd", value)) for name, value in one.figures]
    return element("section", heading, *head, element("dl", *figures, class_="figures"), class_="card")


def totals_table(totals: Sequence[TargetTotals]) -> Markup:
    """Return a row per target."""
    rows = [_cells(one) for one in totals]
    empty = ("0", NONE, "")
    kept = [n for n, name in enumerate(_HEADINGS) if name not in _RARE or any(row[n] not in empty for row in rows)]
    headings, numeric = [_HEADINGS[n].strip() for n in kept], [_HEADINGS[n] not in _TEXTS for n in kept]
    return table(Table(headings=headings, numeric=numeric, rows=[[row[n] for n in kept] for row in rows]), "By target")


def _cells(one: TargetTotals) -> list[str]:
    total = one.total
    passed = f"{total.passed:,}/{total.judged:,}" if total.judged or total.undecided else NONE
    counts = (total.ok, total.blocked, total.empty, total.error, total.skipped, total.open)
    tokens = (total.input_tokens, total.output_tokens)
    times = (total.p50_latency_s, total.p95_latency_s, total.p50_ttft_s, total.p95_ttft_s)
    texts = (one.finish_reasons, one.answered_by)
    return [one.name, passed, *map(number_text, (*counts, *tokens)), one.spent, *map(number_text, times), *texts]


def how_it_was_made(runs: Sequence[ReportedRun]) -> Iterator[Markup]:
    """Yield a list of facts for every run: what was asked, of whom, with which settings and at which prices."""
    for reported in runs:
        yield element("h3", reported.label)
        facts = ((name, value) for name, value in _facts(reported) if value)
        yield element("dl", *(joined((element("dt", name), element("dd", value))) for name, value in facts))


def _facts(reported: ReportedRun) -> Iterator[tuple[str, str]]:
    manifest = reported.run.manifest
    dataset = manifest.dataset
    yield "run folder", str(reported.run.path)
    yield "name", manifest.name or ""
    yield "note", manifest.note or ""
    yield "state", reported.run.folder.state(manifest)
    yield "created", manifest.created_at
    yield "convbatch", f"{manifest.convbatch} on Python {manifest.python or '?'}" if manifest.convbatch else ""
    for source in dataset.sources:
        yield "dataset", f"{source.path} (SHA-256 {source.sha256})"
    size = f"{dataset.dialogues:,}, {counted(dataset.asked_turns, 'asked turn')}"
    yield "dialogues", f"{size}; the run's copy: SHA-256 {dataset.sha256 or 'unknown'}"
    yield "selection", _json({name: value for name, value in dataset.selection.items() if value})
    yield "history", manifest.history
    yield "repeats", str(manifest.repeats)
    yield "checks", number_text(manifest.checks)
    yield "settings", _json(manifest.settings.to_plain()) or "as in the dataset and the configuration"
    yield "limits and retries", _options(manifest)
    yield "configuration", manifest.config or ""
    for target in manifest.targets:
        yield target.name, _target_facts(target)
    for judge in manifest.judges:
        yield "judge", f"{judge.name}: {_target_facts(judge)}"
    rates = manifest.rates.to_plain()
    yield "exchange rates", _json(dict(rates)) if rates else ""


def _options(manifest: Manifest) -> str:
    names = ("concurrency", "max_attempts", "max_cost", "max_tokens_total", "max_requests", "reuse", "fail_under")
    return _json({name: value for name in names if (value := getattr(manifest.options, name)) is not None})


def _target_facts(target: ManifestTarget) -> str:
    worded = {} if target.variant is None else target.variant.to_plain()
    variant = [f"variant {_json(worded)}"] if worded else []
    if target.simulated:
        return "; ".join(["built-in simulator", *variant])
    gateway = target.gateway
    parts = [f"{gateway.protocol} at {gateway.base_url}", *variant]
    if settings := gateway.settings.to_plain():
        parts.append(f"settings {_json(settings)}")
    if target.prices is None:
        parts.append("no prices")
    else:
        parts.append(f"prices in {target.prices.currency}: {target.prices.source}")
    return "; ".join(parts)


def _json(value: dict[str, object]) -> str:
    return orjson.dumps(value).decode() if value else ""
