"""The top of a report page: what came out, target by target, and how the runs were made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson

from convbatch.console.html import Markup, element, joined
from convbatch.console.tables import NONE, number_text
from convbatch.dataset.reader import count_of
from convbatch.journal.manifest import Manifest, ManifestTarget
from convbatch.journal.run_folder import shell_quote
from convbatch.pricing import display_amount
from convbatch.reporting.page.tables import Table, table
from convbatch.reporting.runs import ReportedRun
from convbatch.results.filters import Matcher
from convbatch.results.several import target_names
from convbatch.results.summary import TargetSummary

_Z95 = 1.959963984540054
_HEADINGS = ("target", "passed", "ok", "blocked", "empty", "failed", "open", "input tokens", "output tokens", "spent",
             "p50 s", "p95 s")  # fmt: skip
_RARE = ("blocked", "empty", "open")
"""Columns that are left out where every cell is 0."""


class PassRate(NamedTuple):
    """The share of dialogues that passed at one target."""

    name: str
    passed: int
    judged: int
    low: float
    high: float
    """Ends of the 95 % interval."""
    undecided: int = 0

    @property
    def rate(self) -> float:
        """The share."""
        return self.passed / self.judged

    @property
    def sentence(self) -> str:
        """The share in words."""
        share = f"{self.passed:,} of {count_of(self.judged, 'dialogue')} passed"
        open_ones = f"; {self.undecided:,} neither passed nor failed" if self.undecided else ""
        return f"{share}: {self.rate:.0%} (95 % interval {self.low:.0%} to {self.high:.0%}){open_ones}"


class TargetTotals(NamedTuple):
    """One target of a run."""

    name: str
    """With its run, where there are several."""
    run: ReportedRun
    total: TargetSummary

    @property
    def pass_rate(self) -> PassRate | None:
        """None without a judged dialogue; repeats of a dialogue count as one for the interval."""
        total, repeats = self.total, self.run.run.manifest.repeats
        if not total.judged:
            return None
        low, high = wilson_interval(total.passed / total.judged, max(1, total.judged // repeats))
        return PassRate(self.name, total.passed, total.judged, low, high, total.undecided)

    @property
    def spent(self) -> str:
        """What was spent, with its currency; a dash if nothing is known."""
        total = self.total
        if total.spent is None or total.currency is None:
            return NONE
        amounts = self.run.converted({total.currency: total.spent}).items()
        missing = " + ?" if total.unpriced else ""
        return " + ".join(f"{display_amount(amount)} {currency}" for currency, amount in amounts) + missing


def wilson_interval(rate: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share.

    Args:
        rate: The share, 0 to 1.
        count: Of what it is the share; at least 1.

    Source: Wilson 1927, Journal of the American Statistical Association 22:209.
    """
    spread = _Z95 * _Z95 / count
    centre = (rate + spread / 2) / (1 + spread)
    half = _Z95 * math.sqrt(rate * (1 - rate) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def target_totals(runs: Sequence[ReportedRun], matcher: Matcher) -> list[TargetTotals]:
    """Sum up every target of every run, in order."""
    names = target_names([reported.run for reported in runs])
    return [
        TargetTotals(name, reported, total)
        for reported, of_run in zip(runs, names, strict=True)
        for name, total in zip(of_run, matcher.summary(reported.run), strict=True)
    ]


def headline(totals: Sequence[TargetTotals]) -> Iterator[Markup]:
    """Yield what a reader must know first: who passed, what is simulated, and what is missing."""
    simulated = [one.name for one in totals if one.total.simulated]
    if simulated:
        yield element("p", f"SIMULATED, no model was asked: {', '.join(simulated)}", class_="warning")
    rated = [element("li", element("b", one.name), " ", rate.sentence) for one in totals if (rate := one.pass_rate)]
    if rated:
        yield element("ul", *rated, class_="verdicts")
    else:
        replies = sum(one.total.ok + one.total.blocked + one.total.empty for one in totals)
        turns = sum(one.total.turns for one in totals)
        yield element("p", f"{replies:,} of {count_of(turns, 'turn')} have a reply. No dialogue has a verdict.")
    for one in totals:
        if one.total.open:
            what = f"{one.name}: incomplete, {count_of(one.total.open, 'turn')} without a result: "
            resume = f"convbatch resume {shell_quote(one.run.run.path)}"
            yield element("p", what, element("code", resume), class_="warning")
        for note in one.total.served_notes:
            yield element("p", note, class_="warning")
    for reported in {id(one.run): one.run for one in totals}.values():
        yield from _damage(reported)


def _damage(reported: ReportedRun) -> Iterator[Markup]:
    for target, reason in reported.run.suspended.items():
        yield element("p", f"{target} is suspended: {reason}", class_="warning")
    if reported.run.damaged_places:
        what = f"{reported.label}: {count_of(reported.run.damaged_places, 'damaged place')} of the journal left out"
        yield element("p", what, class_="warning")


def totals_table(totals: Sequence[TargetTotals]) -> Markup:
    """Return a row per target."""
    rows = [_cells(one) for one in totals]
    kept = [n for n, name in enumerate(_HEADINGS) if name not in _RARE or any(row[n] != "0" for row in rows)]
    headings, numeric = [_HEADINGS[n] for n in kept], [n > 0 for n in kept]
    return table(Table(headings=headings, numeric=numeric, rows=[[row[n] for n in kept] for row in rows]), "By target")


def _cells(one: TargetTotals) -> list[str]:
    total = one.total
    passed = f"{total.passed:,}/{total.judged:,}" if total.judged or total.undecided else NONE
    counts = (total.ok, total.blocked, total.empty, total.error + total.skipped, total.open)
    tokens = (total.input_tokens, total.output_tokens)
    times = (total.p50_latency_s, total.p95_latency_s)
    return [one.name, passed, *map(number_text, (*counts, *tokens)), one.spent, *map(number_text, times)]


def how_it_was_made(runs: Sequence[ReportedRun]) -> Iterator[Markup]:
    """Yield a list of facts for every run: what was asked, of whom, with which settings and at which prices."""
    for reported in runs:
        yield element("h3", reported.label)
        facts = ((name, value) for name, value in _facts(reported) if value)
        yield element("dl", *(joined((element("dt", name), element("dd", value))) for name, value in facts))


def _facts(reported: ReportedRun) -> Iterator[tuple[str, str]]:
    manifest = reported.run.manifest
    dataset = manifest.dataset
    yield "state", reported.run.folder.state(manifest)
    yield "created", manifest.created_at
    yield "convbatch", f"{manifest.convbatch} on Python {manifest.python or '?'}" if manifest.convbatch else ""
    for source in dataset.sources:
        yield "dataset", f"{source.path} (SHA-256 {source.sha256})"
    size = f"{dataset.dialogues:,}, {count_of(dataset.asked_turns, 'asked turn')}"
    yield "dialogues", f"{size}; copy: SHA-256 {dataset.sha256 or 'unknown'}"
    yield "selection", _json({name: value for name, value in dataset.selection.items() if value})
    yield "history", manifest.history
    yield "repeats", str(manifest.repeats)
    yield "settings", _json(manifest.settings.to_plain())
    yield "limits and retries", _options(manifest)
    for target in manifest.targets:
        yield target.name, _target_facts(target)
    for judge in manifest.judges:
        yield "judge", f"{judge.name}: {_target_facts(judge)}"


def _options(manifest: Manifest) -> str:
    names = ("concurrency", "max_attempts", "max_cost", "reuse", "fail_under")
    return _json({name: value for name in names if (value := getattr(manifest.options, name)) is not None})


def _target_facts(target: ManifestTarget) -> str:
    gateway = target.gateway
    parts = [f"{gateway.protocol} at {gateway.base_url}"]
    if settings := gateway.settings.to_plain():
        parts.append(f"settings {_json(settings)}")
    if target.prices is not None:
        parts.append(f"prices in {target.prices.currency}: {target.prices.source}")
    elif not target.simulated:
        parts.append("no prices")
    return "; ".join(parts)


def _json(value: dict[str, object]) -> str:
    return orjson.dumps(value).decode() if value else ""
