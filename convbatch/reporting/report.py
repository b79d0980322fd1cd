"""Usage and cost of runs in groups: one pass over turns and attempts to the sections of a report.

The columns of the main table are a contract. Sums of money are decimal and never mix currencies without a rate; an
unknown value is not in the sum but counted. `render.py` writes sections; `results/` computes the values of a turn.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convbatch.console.text import shorten
from convbatch.dataset.reader import count_of
from convbatch.errors import SetupError, did_you_mean
from convbatch.journal.manifest import ManifestTarget
from convbatch.journal.run_folder import shell_quote
from convbatch.pricing import Money
from convbatch.reporting.aggregate import Sizes, turns_with_attempts
from convbatch.reporting.caching import CACHING, CacheTotals
from convbatch.reporting.latency import STREAMS, StreamTotals
from convbatch.reporting.runs import ReportedRun, Runs, load_runs
from convbatch.reporting.section import SHOWN_OF_A_NAME, Section
from convbatch.reporting.tool_calls import TOOL_CALLS, CallTotals, TurnCalls, calls_by_turn
from convbatch.reporting.usage_log import reconcile
from convbatch.results.aggregate import TOKENS, CountedAttempt, CountedTurn, ErrorGroup, GroupTotals
from convbatch.results.columns import STATUSES, TURNS, Column, Row, row_builder
from convbatch.results.filters import Filters, Matcher
from convbatch.results.judge_costs import JUDGES, JudgeTotal, judge_totals
from convbatch.results.parquet import Rows
from convbatch.results.run import Run
from convbatch.results.served import ServedCount, served_counts, served_notes

if TYPE_CHECKING:
    import pandas as pd


KEYS = ("model", "gateway", "variant", "target", "tag", "dialogue", "turn", "repeat")
"""The keys of `--by`."""
DEFAULT_BY = ("target",)

_MONEY = ("cost", "failed_cost", "spent", "reused_cost", "possibly_paid_bound")

USAGE: tuple[Column, ...] = (
    Column("turns", "Int64", "turns asked"),
    *(Column(name, "Int64", f"turns with status `{name}`") for name in STATUSES),
    Column("reused", "Int64", "turns with a reply reused from another run: only in the sum `reused_cost`"),
    Column("attempts", "Int64", "HTTP attempts, in all sessions"),
    Column("retries", "Int64", "attempts after the first of their turn"),
    Column("input_tokens", "Int64", "of replies received by this run; sum of the known counts, null if none is known"),
    Column("cached_input_tokens", "Int64", "part of input; as `input_tokens`"),
    Column("cache_write_input_tokens", "Int64", "part of input; as `input_tokens`"),
    Column("output_tokens", "Int64", "including reasoning; as `input_tokens`"),
    Column("reasoning_tokens", "Int64", "part of output; as `input_tokens`"),
    Column("tokens_unknown", "Int64", "replies whose input or output count is unknown: not in the sums"),
    Column("cost", "Float64", "of replies received by this run; null when none is known, or in several currencies"),
    Column("failed_cost", "Float64", "of failed attempts that reported usage; null as `cost`"),
    Column("spent", "Float64", "`cost` + `failed_cost`; null as `cost`"),
    Column("currency", "string", "of every amount of the row; null when none is known, or `spent` is in several"),
    Column("costs", "string", "`spent` as text, per currency: `0.12 USD + 3.40 CNY`"),
    Column("unpriced", "Int64", "replies this run received whose cost is unknown: not in `cost`"),
    Column("reused_cost", "Float64", "cost of the reused replies in their run; null as `cost`"),
    Column("failed_attempts_billed", "Int64", "attempts that reported usage without a reply that counts"),
    Column("possibly_paid", "Int64", "attempts that were sent and not fully answered"),
    Column("possibly_paid_bound", "Float64", "maximum cost of those with a known bound; null as `cost`"),
    Column("possibly_paid_unbounded", "Int64", "possibly paid attempts with neither a cost nor a bound"),
    Column("p50_latency_s", "Float64", "median latency of replies received by this run, nearest rank; null if none"),
    Column("p95_latency_s", "Float64", "as `p50_latency_s`"),
    Column("limiter_wait_s", "Float64", "seconds in the rate limiter, all attempts; null without a finished attempt"),
    Column("retry_wait_s", "Float64", "seconds of backoff, all attempts; null without a finished attempt"),
)  # fmt: skip
"""Columns of the main table, after `run` and the keys."""


class _FinishCount(NamedTuple):
    """Source of a row of the finish reasons."""

    finish_reason: str
    finish_reason_raw: str | None
    counts: Mapping[str, int]


class _ErrorCount(NamedTuple):
    """Source of a row of the errors."""

    error_kind: str
    group: ErrorGroup


class _TurnSizes(NamedTuple):
    """Source of a row of the input tokens by turn."""

    target: str
    turn: int
    sizes: Sizes


FINISH_REASONS: tuple[Column, ...] = (
    Column("finish_reason", "string", "`stop length content_filter tool_call error other`"),
    Column("finish_reason_raw", "string", "the gateway's own value; null without one"),
    Column("replies", "Int64", "complete replies received by this run that count", lambda f: f.counts["replies"]),
    Column("reused", "Int64", "replies reused from another run", lambda f: f.counts["reused"]),
)
"""Columns after `run` and the keys; filled from `_FinishCount`."""

ERRORS: tuple[Column, ...] = (
    Column("error_kind", "string", "as in `attempts`; `malformed_output`: generation failed; `lost`: killed"),
    Column("attempts", "Int64", "failed attempts of this kind, also of turns that were answered later",
        lambda e: e.group.attempts),
    Column("turns", "Int64", "turns with status `error` for this reason", lambda e: e.group.turns),
    Column("pending", "Int64", "turns with status `pending` and this last failure", lambda e: e.group.pending),
    Column("example", "string", "the first message, cut to 160 characters; null without one",
        lambda e: e.group.example, is_long=True),
)  # fmt: skip
"""Columns after `run` and the keys; filled from `_ErrorCount`."""

SERVED: tuple[Column, ...] = (
    Column("target", "string", "`model@gateway`"),
    Column("asked", "string", "the requested model"),
    Column("served", "string", "the model name in the replies; null without one"),
    Column("replies", "Int64", "complete replies, reused ones too"),
    Column("share", "Float64", "of the target's replies"),
    Column("served_as_asked", "boolean", "is it the requested model, its dated form or an alias? null without a name"),
)
"""Columns after `run`: which models answered."""

GROWTH: tuple[Column, ...] = (
    Column("target", "string", "`model@gateway`"),
    Column("turn", "Int64", "from 1"),
    Column("replies", "Int64", "replies received by this run", lambda t: t.sizes.replies),
    Column("input_tokens", "Int64", "sum of the known counts; null when none is known", lambda t: t.sizes.total),
    Column("mean_input_tokens", "Float64", "of the known counts; null when none is known", lambda t: t.sizes.mean),
    Column("median_input_tokens", "Float64", "as `mean_input_tokens`", lambda t: t.sizes.median),
    Column("tokens_unknown", "Int64", "replies whose input count is unknown: not in the three columns before",
        lambda t: t.sizes.unknown),
)  # fmt: skip
"""Columns after `run`: how the history that is sent grows from turn to turn; filled from `_TurnSizes`."""

_RUN = Column("run", "string", "name of the run; its path, where several have the same name")
_NUMBERS = {"turn", "repeat"}


def report(
    runs: Runs, by: str | Iterable[str] = DEFAULT_BY, *, config: str | Path | None = None, currency: str | None = None
) -> pd.DataFrame:
    """Return usage and cost in groups: the main table of `convbatch report`.

    >>> convbatch.report(both, by="target")[["target", "turns"]].values.tolist()
    [['sim-good@simulator', 40], ['sim-drift@simulator', 40]]

    Args:
        runs: One or several runs, as `Run`, path or name.
        by: Any of `model gateway target tag dialogue turn repeat`.
        config: Use the prices and rates of this config file instead of the run's own.
        currency: Convert all amounts into this currency by `[rates]`.

    Returns:
        One row per run and group; columns: `run`, the keys, `USAGE`. With `tag`, a dialogue is in the row of each
        of its tags.

    Raises:
        SetupError: An unknown key, the same run twice, or no rate to a currency.
        InputError: The config is wrong.
    """
    keys = grouping(by)
    data = _read_runs(load_runs(runs, config, currency), keys, Matcher(Filters()))
    return _usage(data, keys)


def sections(
    runs: Runs,
    by: str | Iterable[str] = DEFAULT_BY,
    *,
    config: str | Path | None = None,
    currency: str | None = None,
    bill: Path | None = None,
    bill_form: str | None = None,
    filters: Filters | None = None,
) -> list[Section]:
    """Return all sections of a report.

    Args:
        runs: As for `report`.
        by: As for `report`.
        config: As for `report`; also has the usage log forms, default: the config in the working directory.
        currency: As for `report`.
        bill: A gateway's usage log (CSV) to match with the journals.
        bill_form: Name of its form; None detects it.
        filters: Count only the turns that match. Judge calls are of whole runs: their section is left out, and a
            usage log cannot be matched.

    Raises:
        SetupError: As for `report`, the form of the usage log is unclear, or no turn matches the filters.
        InputError: The config or the usage log cannot be used.
    """
    keys = grouping(by)
    matcher = Matcher(filters or Filters())
    return sections_of(load_runs(runs, config, currency), keys, matcher, UsageLog(bill, bill_form, config))


class UsageLog(NamedTuple):
    """A gateway's usage log to match with the journals."""

    file: Path | None = None
    form: str | None = None
    """Name of its form; None detects it."""
    config: str | Path | None = None
    """With the forms; None = the config in the working directory."""


def sections_of(
    reported_runs: Sequence[ReportedRun], keys: Sequence[str], matcher: Matcher, log: UsageLog | None = None
) -> list[Section]:
    """Return all sections of a report as `sections` does, of runs that are open."""
    if matcher.filters and log is not None and log.file is not None:
        raise SetupError(f"--bill with {matcher.filters}", hint="a usage log is of whole runs: leave out the filters")
    loaded = [reported.run for reported in reported_runs]
    billed = [] if log is None or log.file is None else _billed(loaded, log.file, log.form, log.config)
    data = _read_runs(reported_runs, keys, matcher)
    notes = (*_filter_note(matcher), *_notes(data, keys), *_audit_notes(reported_runs))
    return [
        Section(key="usage", title="Usage and cost", frame=_usage(data, keys), notes=notes),
        Section(key="totals", title="Total", frame=_totals(data)),
        Section(key="finish_reasons", title="Finish reasons", frame=_finish_reasons(data, keys)),
        Section(key="errors", title="Errors", frame=_errors(data, keys)),
        *_served(data),
        Section(key="growth", title="Input tokens by turn", frame=_growth(data)),
        *_caching(data),
        *_streams(data),
        *_tool_calls(data),
        *([] if matcher.filters else _judges(reported_runs)),
        *billed,
    ]


def _filter_note(matcher: Matcher) -> Iterator[str]:
    if matcher.filters:
        tally = matcher.tally
        what = f"Only {count_of(tally.matched, 'turn')} of {tally.seen:,}: {matcher.filters}."
        yield f"{what} Judge calls are left out."


def _audit_notes(reported_runs: Sequence[ReportedRun]) -> Iterator[str]:
    """Yield where `convbatch audit` has something to compare: a model at several gateways."""
    found: dict[str, dict[str, None]] = {}
    for reported in reported_runs:
        for target in reported.run.manifest.targets:
            found.setdefault(target.model, {})[target.gateway.name] = None
    runs = " ".join(shell_quote(reported.run.path) for reported in reported_runs)
    for model, gateways in found.items():
        if len(gateways) > 1:
            yield f"{model} at {', '.join(gateways)}: whether it is one model is tested by: convbatch audit {runs}"


def _served(data: _ReportData) -> Iterator[Section]:
    """Yield the section on who answered, if any reply names its model otherwise than the request did."""
    rows: list[Row] = []
    notes: list[str] = []
    differs = False
    for reported in data.runs:
        for target in reported.run.manifest.targets:
            counts = served_counts(target, data.targets[reported.label, target.name].served)
            total = sum(count.replies for count in counts)
            differs = differs or any(count.served not in (None, target.model) for count in counts)
            notes += [f"{reported.label}: {note}" for note in served_notes(target, counts)]
            notes += _alias_hint(reported, target, counts)
            rows += [
                (
                    reported.label,
                    target.name,
                    target.model,
                    _short_name(count.served),
                    count.replies,
                    count.replies / total,
                    count.as_asked,
                )
                for count in counts
            ]
    if differs:
        frame = Rows(columns=[_RUN, *SERVED], rows=iter(rows)).frame()
        yield Section(key="served", title="Who answered", frame=frame, notes=tuple(notes))


def _alias_hint(reported: ReportedRun, target: ManifestTarget, counts: Sequence[ServedCount]) -> Iterator[str]:
    """Yield the config line for a target all of whose replies have one other name, such as a deployment."""
    if len(counts) == 1 and counts[0].match == "other" and len(str(counts[0].served)) <= SHOWN_OF_A_NAME:
        asked, served = (json.dumps(str(name), ensure_ascii=False) for name in (target.model, counts[0].served))
        yield (
            f"If this is the same model: aliases = {{ {asked} = {served} }} in "
            f"[gateways.{_toml_key(target.gateway.name)}] of {reported.config}, then report with -c {reported.config}"
        )


def _short_name(name: str | None) -> str | None:
    return None if name is None else shorten(name, SHOWN_OF_A_NAME)


def _judges(reported_runs: Sequence[ReportedRun]) -> Iterator[Section]:
    """Yield the section on judge calls, which are billed but are not usage of the models."""
    totals = [(reported, total) for reported in reported_runs for total in judge_totals(reported.run)]
    if totals:
        columns = [Column("run", "string", "name of the run"), *JUDGES]
        frame = Rows(columns=columns, rows=(_judge_cells(reported, total) for reported, total in totals)).frame()
        notes = [f"{reported.label}: {note}" for reported, total in totals for note in total.served_notes]
        yield Section(
            key="judges", title="Judges", frame=frame, notes=("Not in the sums above, but on the same bill.", *notes)
        )


def _judge_cells(reported: ReportedRun, total: JudgeTotal) -> Row:
    cells = total._asdict()
    for name in ("cost", "at_most"):
        amount = cells[name]
        if amount is not None and total.currency is not None:
            amounts = reported.converted({total.currency: amount})
            cells["currency"] = next(iter(amounts), total.currency)
            amount = amounts.get(cells["currency"])
        cells[name] = None if amount is None else float(amount)
    return (reported.label, *(cells[column.name] for column in JUDGES))


def _billed(runs: Sequence[Run], bill: Path, form: str | None, config: str | Path | None) -> list[Section]:
    from convbatch.config.loader import load_config

    return reconcile(runs, bill, load_config(None if config is None else Path(config)).usage_logs, form)


def grouping(by: str | Iterable[str]) -> tuple[str, ...]:
    """Return the keys of `--by`, which may be comma-separated and repeated; each once.

    Raises:
        SetupError: An unknown key.
    """
    given = [by] if isinstance(by, str) else list(by)
    words = [word.strip() for text in given for word in text.split(",") if word.strip()]
    for word in words:
        if word not in KEYS:
            raise SetupError(f"a report cannot be grouped by {word!r}", hint=did_you_mean(word, KEYS))
    return tuple(dict.fromkeys(words))


# From rows to totals


@dataclass(slots=True, kw_only=True)
class _ReportData:
    """All totals, from one pass over each run."""

    runs: Sequence[ReportedRun]
    groups: dict[tuple[Any, ...], GroupTotals] = field(default_factory=dict)
    """By run label and the values of the keys."""
    totals: dict[str, GroupTotals] = field(default_factory=dict)
    """By run label."""
    targets: dict[tuple[str, str], GroupTotals] = field(default_factory=dict)
    """By run label and target."""
    sizes: dict[tuple[str, str, int], Sizes] = field(default_factory=dict)
    """By run label, target and turn."""
    caching: dict[tuple[str, str, int], CacheTotals] = field(default_factory=dict)
    """By run label, target and turn."""
    streams: dict[tuple[str, str], StreamTotals] = field(default_factory=dict)
    """By run label and target; only of targets with a streamed reply."""
    calls: dict[tuple[str, str], CallTotals] = field(default_factory=dict)
    """By run label and target; only of targets with a reply in a dialogue with tools."""

    def add(self, label: str, turn: CountedTurn, attempts: Sequence[CountedAttempt], calls: TurnCalls | None) -> None:
        """Count a turn in everything but the requested groups."""
        if calls is not None:
            self.calls.setdefault((label, turn.target), CallTotals()).add(calls)
        self.totals[label].add(turn, attempts)
        self.targets[label, turn.target].add(turn, attempts)
        if turn.is_received:
            self.sizes.setdefault((label, turn.target, turn.turn), Sizes()).add(turn.input_tokens)
            self.caching.setdefault((label, turn.target, turn.turn), CacheTotals()).add(turn)
            if turn.chunks is not None:
                self.streams.setdefault((label, turn.target), StreamTotals()).add(turn)


def _read_runs(reported_runs: Sequence[ReportedRun], keys: Sequence[str], matcher: Matcher) -> _ReportData:
    data = _ReportData(runs=reported_runs)
    for reported in reported_runs:
        groups: dict[tuple[Any, ...], GroupTotals] = {}
        data.totals[reported.label] = GroupTotals()
        for target in reported.run.targets:
            data.targets[reported.label, target] = GroupTotals()
        rows = zip(turns_with_attempts(reported.run), calls_by_turn(reported.run), strict=False)
        for (turn, attempts), calls in compress(rows, matcher.mask(reported.run)):
            data.add(reported.label, turn, attempts, calls)
            for group in _groups_of(turn, keys):
                groups.setdefault(group, GroupTotals()).add(turn, attempts)
        reported.refuse_missing_rates(data.totals[reported.label])
        ranks = _ranks(reported.run, keys, groups)
        for group in sorted(groups, key=lambda group: [rank[value] for rank, value in zip(ranks, group, strict=True)]):
            data.groups[reported.label, *group] = groups[group]
    matcher.require_match()
    return data


def _groups_of(turn: CountedTurn, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the groups of a turn: one per tag if grouped by tag, else one."""
    if "tag" not in keys:
        yield tuple(getattr(turn, key) for key in keys)
        return
    for tag in dict.fromkeys(turn.tags) or (None,):
        yield tuple(tag if key == "tag" else getattr(turn, key) for key in keys)


def _ranks(run: Run, keys: Sequence[str], groups: Iterable[tuple[Any, ...]]) -> list[dict[Any, int]]:
    """Return the sort order of the values of each key: targets as given, dialogues as in the dataset, others sorted."""
    asked: dict[str, Sequence[str | None]] = {
        "target": list(run.targets),
        "model": [target.model for target in run.manifest.targets],
        "variant": [None if t.variant is None else t.variant.name for t in run.manifest.targets],
        "gateway": ["simulator" if t.simulated else t.gateway.name for t in run.manifest.targets],
    }
    ranks: list[dict[Any, int]] = []
    for place, key in enumerate(keys):
        values = dict.fromkeys(group[place] for group in groups)
        if key in asked:
            ordered = dict.fromkeys(asked[key])
        else:
            ordered = values if key == "dialogue" else sorted(values, key=lambda value: (value is None, value or 0))
        ranks.append({value: number for number, value in enumerate(ordered)})
    return ranks


# From totals to frames


def _usage(data: _ReportData, keys: Sequence[str]) -> pd.DataFrame:
    of_label = {reported.label: reported for reported in data.runs}
    columns = [_RUN, *map(_key_column, keys), *USAGE]
    rows = ((*group, *_cells(totals, of_label[group[0]])) for group, totals in data.groups.items())
    return Rows(columns=columns, rows=rows).frame()


def _totals(data: _ReportData) -> pd.DataFrame:
    rows = ((reported.label, *_cells(data.totals[reported.label], reported)) for reported in data.runs)
    return Rows(columns=[_RUN, *USAGE], rows=rows).frame()


def _finish_reasons(data: _ReportData, keys: Sequence[str]) -> pd.DataFrame:
    row = row_builder(FINISH_REASONS)

    def rows() -> Iterator[Row]:
        for group, totals in data.groups.items():
            for (word, raw), counts in sorted(totals.finish.items(), key=lambda item: (-item[1].total(), str(item[0]))):
                yield (*group, *row(_FinishCount(word, _short_name(raw), counts)))

    return Rows(columns=[_RUN, *map(_key_column, keys), *FINISH_REASONS], rows=rows()).frame()


def _errors(data: _ReportData, keys: Sequence[str]) -> pd.DataFrame:
    row = row_builder(ERRORS)

    def rows() -> Iterator[Row]:
        for group, totals in data.groups.items():
            for error in sorted(totals.errors.items(), key=lambda item: (-item[1].attempts, item[0])):
                yield (*group, *row(_ErrorCount(*error)))

    return Rows(columns=[_RUN, *map(_key_column, keys), *ERRORS], rows=rows()).frame()


def _growth(data: _ReportData) -> pd.DataFrame:
    row = row_builder(GROWTH)
    places = {place: number for number, place in enumerate(data.targets)}
    found = sorted(data.sizes.items(), key=lambda item: (places[item[0][:2]], item[0][2]))
    rows = ((label, *row(_TurnSizes(target, turn, sizes))) for (label, target, turn), sizes in found)
    return Rows(columns=[_RUN, *GROWTH], rows=rows).frame()


def _caching(data: _ReportData) -> Iterator[Section]:
    """Yield the section on prompt caching, if any prompt was cached or written to a cache."""
    row = row_builder(CACHING)
    caching = {
        label_and_target[:2] for label_and_target, found in data.caching.items() if found.cached or found.written
    }
    places = {place: number for number, place in enumerate(data.targets)}
    shown = sorted((key for key in data.caching if key[:2] in caching), key=lambda key: (places[key[:2]], key[2]))
    if shown:
        rows = ((label, *row((target, turn, data.caching[label, target, turn]))) for label, target, turn in shown)
        frame = Rows(columns=[_RUN, *CACHING], rows=rows).frame()
        yield Section(key="caching", title="Prompt caching", frame=frame)


def _streams(data: _ReportData) -> Iterator[Section]:
    """Yield the section on streamed replies, if there are any."""
    row = row_builder(STREAMS)
    rows = [
        (label, *row((target, data.streams[label, target])))
        for label, target in data.targets
        if (label, target) in data.streams
    ]
    if rows:
        frame = Rows(columns=[_RUN, *STREAMS], rows=iter(rows)).frame()
        yield Section(key="streams", title="Streamed replies", frame=frame)


def _tool_calls(data: _ReportData) -> Iterator[Section]:
    """Yield the section on tool calls, if any dialogue declares tools."""
    row = row_builder(TOOL_CALLS)
    keys = [key for key in data.targets if key in data.calls]
    if keys:
        rows = ((label, *row((target, data.calls[label, target]))) for label, target in keys)
        frame = Rows(columns=[_RUN, *TOOL_CALLS], rows=rows).frame()
        yield Section(key="tool_calls", title="Tool calls", frame=frame)


def _key_column(key: str) -> Column:
    if key == "tag":
        return Column("tag", "string", "null for dialogues without one")
    return next(column for column in TURNS if column.name == key)


def _cells(totals: GroupTotals, reported: ReportedRun) -> Row:
    """Return the cells of the columns `USAGE`."""
    money = {name: reported.converted(totals.money[name]) for name in _MONEY}
    currency = _currency_of(money)
    cells: dict[str, Any] = {
        **{column.name: totals.counts[column.name] for column in USAGE if column.dtype == "Int64"},
        **{name: totals.tokens.get(name) for name in TOKENS},
        **{name: _amount(money[name], currency) for name in _MONEY},
        "currency": currency,
        "costs": _display_amounts(money["spent"]),
        "p50_latency_s": totals.latencies.percentile(0.50),
        "p95_latency_s": totals.latencies.percentile(0.95),
        "limiter_wait_s": totals.waits.get("limiter_wait_s"),
        "retry_wait_s": totals.waits.get("retry_wait_s"),
    }
    return tuple(cells[column.name] for column in USAGE)


def _currency_of(money: Mapping[str, Mapping[str, Decimal]]) -> str | None:
    """Return the single currency of what was spent, else of all other amounts; None if there are several."""
    found = set(money["spent"]) or {currency for amounts in money.values() for currency in amounts}
    return found.pop() if len(found) == 1 else None


def _amount(amounts: Mapping[str, Decimal], currency: str | None) -> float | None:
    """Return the sum if all of it is in this currency."""
    return float(amounts[currency]) if currency is not None and set(amounts) == {currency} else None


def _display_amounts(amounts: Mapping[str, Decimal]) -> str | None:
    if not amounts:
        return None
    return " + ".join(str(Money(amount=amounts[currency], currency=currency)) for currency in sorted(amounts))


# Notes


def _notes(data: _ReportData, keys: Sequence[str]) -> Iterator[str]:
    simulated = [target.name for reported in data.runs for target in reported.run.manifest.targets if target.simulated]
    if simulated:
        yield f"SIMULATED, no model was asked: {', '.join(dict.fromkeys(simulated))}"
    yield _what_is_spent(data)
    if "tag" in keys:
        yield "A dialogue with several tags is in the row of each tag, but only once in the totals."
    for reported, total in _each(data):
        if reported.run.caption is not None:
            yield f"{reported.label}: {reported.run.caption}"
        yield from _missing(reported)
        yield from _mixed(reported, sorted(reported.converted(total.money["spent"])))
        yield from _uncosted(reported, data)


def _what_is_spent(data: _ReportData) -> str:
    """Return the note on what the sums include and exclude."""
    counts: Counter[str] = Counter()
    for _, total in _each(data):
        counts.update(total.counts)
    left_out: list[str] = []
    if counts["reused"]:
        left_out.append(_count(counts["reused"], "reused reply", "reused replies"))
    if counts["possibly_paid_unknown"]:
        bounds = counts["possibly_paid_unbounded"]
        paid = _count(counts["possibly_paid_unknown"], "possibly paid attempt")
        left_out.append(f"{paid} that reported no usage" + (f", {bounds:,} of them without a bound" if bounds else ""))
    if counts["unpriced"]:
        left_out.append(f"{counts['unpriced']:,} of {_count(counts['received'], 'reply', 'replies')} without a cost")
    if counts["failed_unpriced"]:
        left_out.append(f"{_count(counts['failed_unpriced'], 'failed attempt')} without a cost")
    what = "`spent` is the cost of the replies that this run received and that count"
    if counts["failed_attempts_billed"]:
        what += f" and of {_count(counts['failed_attempts_billed'], 'failed attempt')} that reported usage"
    return f"{what}. Not included: {'; '.join(left_out)}." if left_out else f"{what}; nothing is left out."


def _missing(reported: ReportedRun) -> Iterator[str]:
    """Yield notes on damage and suspended targets."""
    run = reported.run
    if damaged := run.damaged_places:
        where = _count(damaged, "damaged place")
        what = f"{reported.label}: {where} in the journal left out; asked again by: "
        yield what + f"convbatch resume {shell_quote(run.path)} --salvage"
    for target, reason in run.suspended.items():
        yield f"{reported.label}: {target} is suspended: {reason}"


def _mixed(reported: ReportedRun, currencies: Sequence[str]) -> Iterator[str]:
    if len(currencies) < 2:
        return
    one, other = currencies[:2]
    unit = Money(amount=Decimal(1), currency=one)
    if reported.exchange_rates.convert(unit, other) is not None:
        yield f"{reported.label}: {one} and {other} are not added up; --currency {other} converts them by [rates]."
    else:
        yield (
            f"{reported.label}: {one} and {other} are not added up, because [rates] of the config has no "
            f'"{one}/{other}". With that rate: --currency {other} -c {reported.config}'
        )


def _each(data: _ReportData) -> Iterator[tuple[ReportedRun, GroupTotals]]:
    return ((reported, data.totals[reported.label]) for reported in data.runs)


def _uncosted(reported: ReportedRun, data: _ReportData) -> Iterator[str]:
    """Yield notes on replies without a cost: how many, why, and which prices to add to the config."""
    unpriced = unclear = 0
    lines: list[str] = []
    for target in reported.run.manifest.targets:
        counts = data.targets[reported.label, target.name].counts
        answers = counts["unpriced"] + counts["failed_unpriced"]
        if target.prices is not None:
            unclear += answers
        elif answers and not target.simulated:  # the simulator has no price
            unpriced += answers
            lines += _price_lines(target)
    if lines:
        yield "\n".join(
            [
                f"{reported.label}: {_count(unpriced, 'answer')} without a price. "
                f"To set a price, add to {reported.config}:",
                *lines,
                f"then: convbatch report {shell_quote(reported.run.path)} -c {reported.config}",
            ]
        )
    if unclear:
        yield (
            f"{reported.label}: {_count(unclear, 'answer')} without a cost although the target has a price: a token "
            "count is missing or contradicts another, or no price was valid at that time."
        )


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _price_lines(target: ManifestTarget) -> list[str]:
    billed_in = [] if target.gateway.currency else ['currency = "<USD, CNY, ...>"']
    return [
        f"[prices.{_toml_key(target.gateway.name)}.{json.dumps(target.model, ensure_ascii=False)}]",
        "input = <per million tokens>",  # not a number: one that is copied unread would be a wrong price
        "output = <per million tokens>",
        *billed_in,
    ]


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
