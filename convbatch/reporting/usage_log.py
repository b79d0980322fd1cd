"""A gateway's usage log compared with the journal, as sections of a report.

`usage_log_reader.py` reads the log, `usage_log_matching.py` matches its lines with calls.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from convbatch.config.usage_log_form import UsageLogForm
from convbatch.dataset.reader import count_of
from convbatch.errors import Place, SetupError, did_you_mean
from convbatch.journal.index import Archive
from convbatch.journal.manifest import ManifestTarget
from convbatch.pricing import exact, output_of
from convbatch.reply import POSSIBLY_PAID, USAGE_COUNTS, Usage
from convbatch.reporting.section import Section
from convbatch.reporting.usage_log_matching import (
    FAILED_FREE,
    LOST_S,
    OUTCOMES,
    OUTSIDE,
    SAME,
    TOLERANCE_S,
    UNKNOWN,
    Call,
    CallId,
    JoinedPair,
    group_by,
    join_lines_and_calls,
    line_order,
)
from convbatch.reporting.usage_log_reader import UsageLog, read_usage_log
from convbatch.results.columns import ATTEMPTS, Column, row_builder
from convbatch.results.parquet import Rows

if TYPE_CHECKING:
    from convbatch.results.run import Run

UNLISTED_OUTCOMES = frozenset((SAME, FAILED_FREE, OUTSIDE))
"""Outcomes that are as expected, or that do not belong to these runs: counted in the totals, not listed."""


class _OutcomeSum:
    """Source of a row of the totals: all pairs with the same outcome."""

    def __init__(self, outcome: str, pairs: Iterable[_ComparedPair]) -> None:
        self.outcome = outcome
        self.pairs = list(pairs)

    def of_lines(self, name: str) -> Any:
        """Return the sum of a value of the lines."""
        return _sum(getattr(pair.line, name) for pair in self.pairs if pair.line is not None)

    def of_calls(self, name: str) -> Any:
        """Return the sum of a value of the calls."""
        return _sum(getattr(pair.call, name) for pair in self.pairs if pair.call is not None)

    def of_pairs(self, name: str) -> Any:
        """Return the sum of an amount."""
        return _sum(getattr(pair, name) for pair in self.pairs)

    @property
    def currency(self) -> str | None:
        """Currency of the amounts; None without any."""
        return next((pair.currency for pair in self.pairs if pair.currency is not None), None)


class _ComparedPair:
    """Source of a row of the lines: a line and its call, or one of them, with amounts in the currency of the log."""

    def __init__(self, pair: JoinedPair, currency: str | None) -> None:
        self.line, self.call = pair.line, pair.call
        self.outcome, self.joined_by = pair.outcome, pair.joined_by
        self.cost = self.call.cost if self.call is not None and self.call.currency == currency else None
        self.billed = None if self.line is None else self.line.amount
        self.difference = _minus(self.billed, self.cost)
        self.currency = currency if self.cost is not None or self.billed is not None else None

    def of_line(self, name: str) -> Any:
        """Return a value of the line; None without a line."""
        return None if self.line is None else getattr(self.line, name)

    def of_call(self, name: str) -> Any:
        """Return a value of the call; None without a call."""
        return None if self.call is None else getattr(self.call, name)

    def of_id(self, name: str) -> Any:
        """Return what identifies the call; None without a call."""
        return None if self.call is None else getattr(self.call.ident, name)

    @property
    def at(self) -> float:
        """Time of the line, else the start of the call."""
        return self.of_call("begins") if self.line is None else self.line.at

    def apart(self, name: str) -> Any:
        """Return a count of the line minus that of the call."""
        return _minus(self.of_line(name), self.of_call(name))


USAGE_LOG_TOTALS: tuple[Column, ...] = (
    Column("outcome", "string", "result of the matching"),
    Column("lines", "Int64", "lines of the usage log", lambda s: sum(pair.line is not None for pair in s.pairs)),
    Column("calls", "Int64", "calls of the runs", lambda s: sum(pair.call is not None for pair in s.pairs)),
    Column("input_tokens", "Int64", "ours, of calls whose count is known; null when none is",
        lambda s: s.of_calls("input_tokens")),
    Column("billed_input", "Int64", "of the lines; null when none has it", lambda s: s.of_lines("input_tokens")),
    Column("output_tokens", "Int64", "ours, as above", lambda s: s.of_calls("output_tokens")),
    Column("billed_output", "Int64", "of the lines, as above", lambda s: s.of_lines("output_tokens")),
    Column("cost", "Float64", "ours, of calls with a price in the log's currency; null when none has one",
        lambda s: _float(s.of_pairs("cost"))),
    Column("billed", "Float64", "amounts of the lines; null when none has one", lambda s: _float(s.of_pairs("billed"))),
    Column("difference", "Float64", "amount minus cost, of calls with both; null when none has both",
        lambda s: _float(s.of_pairs("difference"))),
    Column("currency", "string", "of the three; null when unknown"),
)  # fmt: skip
"""Filled from `_OutcomeSum`."""

USAGE_LOG_LINES: tuple[Column, ...] = (
    Column("outcome", "string", "as in the totals"),
    Column("joined_by", "string", "`request id`, `time and tokens` or `time`; null for an unmatched line or call"),
    Column("line", "Int64", "of the file; null for a call without a line", lambda p: p.of_line("line")),
    Column("time", "timestamp[us, UTC]", "of the line, else of the call's start",
        lambda p: datetime.fromtimestamp(p.at, UTC)),
    Column("model", "string", "as billed, else as asked",
        lambda p: p.of_call("model") if p.line is None else p.line.model),
    Column("request_id", "string", "of the line, else of the call",
        lambda p: p.of_line("request_id") or p.of_call("request_id")),
    Column("run", "string", "null for a line without a call, like all columns up to `attempt`",
        lambda p: p.of_id("run")),
    Column("dialogue", "string", "of the call", lambda p: p.of_id("dialogue")),
    Column("target", "string", "of the call", lambda p: p.of_id("target")),
    Column("repeat", "Int64", "of the call", lambda p: p.of_id("repeat")),
    Column("turn", "Int64", "of the call", lambda p: p.of_id("turn")),
    Column("attempt", "Int64", "of the call", lambda p: p.of_id("attempt")),
    Column("input_tokens", "Int64", "ours; null when unknown", lambda p: p.of_call("input_tokens")),
    Column("billed_input", "Int64", "of the line", lambda p: p.of_line("input_tokens")),
    Column("input_difference", "Int64", "billed minus ours", lambda p: p.apart("input_tokens")),
    Column("output_tokens", "Int64", "ours, reasoning included", lambda p: p.of_call("output_tokens")),
    Column("billed_output", "Int64", "of the line", lambda p: p.of_line("output_tokens")),
    Column("output_difference", "Int64", "billed minus ours", lambda p: p.apart("output_tokens")),
    Column("cost", "Float64", "ours, in the log's currency; null without a price in it", lambda p: _float(p.cost)),
    Column("billed", "Float64", "amount of the line", lambda p: _float(p.billed)),
    Column("difference", "Float64", "amount minus cost", lambda p: _float(p.difference)),
    Column("currency", "string", "of the three"),
)  # fmt: skip
"""Filled from `_ComparedPair`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedLog:
    """A usage log with the calls of runs that its lines belong to."""

    usage_log: UsageLog
    gateways: frozenset[str]
    """Whose log it is."""
    calls: Sequence[Call]
    pairs: Sequence[JoinedPair]
    """Every line and every call once."""
    currency: str | None


def join_usage_log(
    runs: Sequence[Run], path: Path, forms: Mapping[str, UsageLogForm], form: str | None = None
) -> JoinedLog:
    """Read a usage log and match its lines with the calls of runs; arguments and errors as `reconcile`."""
    usage_log = read_usage_log(path, forms, form)
    runs = list({run.path.resolve(): run for run in runs}.values())  # count the calls of a run given twice once
    gateways = _gateways(runs, usage_log)
    calls = [call for run in runs for call in _calls(run, gateways)]
    spans = [span for run in runs for span in _spans(run, calls)]
    ours = {call.request_id for call in calls} - {None}
    inside = [
        line
        for line in usage_log.lines
        if line.request_id in ours or any(begins <= line.at <= ends for begins, ends in spans)
    ]
    inside_numbers = {line.line for line in inside}
    pairs = sorted(join_lines_and_calls(inside, calls), key=_order)
    pairs += [JoinedPair(line=line, outcome=OUTSIDE) for line in usage_log.lines if line.line not in inside_numbers]
    currency = usage_log.form.currency or _currency_of(runs, gateways)
    return JoinedLog(usage_log=usage_log, gateways=gateways, calls=calls, pairs=pairs, currency=currency)


def reconcile(
    runs: Sequence[Run], path: Path, forms: Mapping[str, UsageLogForm], form: str | None = None
) -> list[Section]:
    """Compare a usage log with the journals of runs.

    Args:
        runs: The runs whose calls should be in the log.
        path: The log, CSV.
        forms: Known forms (`Config.usage_logs`).
        form: Name of the log's form; None detects it.

    Returns:
        Totals by outcome, and every line or call with a difference.

    Raises:
        InputError: The log cannot be used.
        SetupError: The form or the gateway of the log is unclear.
    """
    joined = join_usage_log(runs, path, forms, form)
    compared = [_ComparedPair(pair, joined.currency) for pair in joined.pairs]
    listed = (pair for pair in compared if pair.outcome not in UNLISTED_OUTCOMES)
    sections = ((USAGE_LOG_TOTALS, _totals(compared)), (USAGE_LOG_LINES, listed))
    totals, lines = (Rows(columns=columns, rows=map(row_builder(columns), rows)).frame() for columns, rows in sections)
    notes = tuple(_notes(joined.usage_log, joined.gateways, joined.pairs, joined.calls, joined.currency))
    title = f"Bill {path.name}"
    return [
        Section(key="bill", title=title, frame=totals, notes=notes),
        Section(key="bill_lines", title=f"{title}: differences", frame=lines),
    ]


# --- gateways and calls


def _gateways(runs: Sequence[Run], usage_log: UsageLog) -> frozenset[str]:
    """Return the gateways of the log: those of its form, else all gateways of the runs if they have one host."""
    hosts: dict[str, str] = {}
    for target in _targets(runs):
        for gateway in target.members or (target.gateway,):
            hosts[gateway.name] = urlsplit(gateway.base_url).netloc or gateway.name
    named = frozenset(usage_log.form.gateways) & hosts.keys()
    where = f"[bills.{usage_log.form.name}]"
    if usage_log.form.gateways and not named:
        hint = f"{did_you_mean(usage_log.form.gateways[0], hosts)}; or name another form with --bill-form"
        what = f"none of the given runs sent a request to the gateway of {where}"
        raise SetupError(
            what, place=Place(path=str(usage_log.path)), found=", ".join(usage_log.form.gateways), hint=hint
        )
    if not usage_log.form.gateways and len(set(hosts.values())) > 1:
        names = ", ".join(sorted(hosts))
        hint = f'name the gateway in the config: {where} gateway = "{min(hosts)}"'
        what = f"cannot tell which gateway this bill is from: the runs use {names}"
        raise SetupError(what, place=Place(path=str(usage_log.path)), hint=hint)
    return named or frozenset(hosts)


def _targets(runs: Iterable[Run]) -> Iterator[ManifestTarget]:
    """Yield the targets and judges of the runs: judge calls are in a usage log, too."""
    return (target for run in runs for target in (*run.manifest.targets, *run.manifest.judges))


def _currency_of(runs: Sequence[Run], gateways: frozenset[str]) -> str | None:
    """Return the currency in which the gateways bill, else that of their prices; None if there are several."""
    billed = [target for target in _targets(runs) if target.gateway.name in gateways]
    currencies = {target.gateway.currency for target in billed} - {None}
    currencies = currencies or {target.prices.currency for target in billed if target.prices is not None}
    return currencies.pop() if len(currencies) == 1 else None


_NAMES = tuple(column.name for column in ATTEMPTS)


def _calls(run: Run, gateways: frozenset[str]) -> Iterator[Call]:
    """Yield the attempts of a run at these gateways, except those that were not sent."""
    targets = {one.name for one in _targets([run]) if one.gateway.name in gateways}
    pools = {one.name for one in _targets([run]) if one.members}
    for row in run.attempt_rows().rows:
        cells = dict(zip(_NAMES, row, strict=True))
        is_here = cells["gateway"] in gateways if cells["target"] in pools else cells["target"] in targets
        if is_here and cells["class"] != "not_sent" and cells["started_at"] is not None:
            yield _call(cells)


def _call(cells: Mapping[str, Any]) -> Call:
    kind = "replied" if cells["class"] == "replied" else "failed"
    if cells["class"] is None or cells["class"] in POSSIBLY_PAID:
        kind = "lost"
    begins = cells["started_at"].timestamp()
    took = cells["latency_s"] or 0.0
    return Call(
        ident=CallId(*(cells[name] for name in CallId._fields)),
        kind=kind,
        model=cells["model"],
        begins=begins,
        ends=begins + (max(took, LOST_S) if kind == "lost" else took),
        request_id=cells["request_id"],
        input_tokens=cells["input_tokens"],
        output_tokens=output_of(Usage(**{name: cells[name] for name in USAGE_COUNTS})),
        cost=None if cells["cost"] is None else exact(cells["cost"]),
        currency=cells["currency"] if cells["cost"] is not None else None,
    )


def _spans(run: Run, calls: Iterable[Call]) -> list[tuple[float, float]]:
    """Return the time from the first to the last call of each session; others may use the key between sessions."""
    with Archive(run.folder) as archive:
        starts = [record["at"] for record in archive.runs]
    sessions: defaultdict[int, list[Call]] = defaultdict(list)
    for call in calls:
        if call.ident.run == run.name:
            sessions[max(0, bisect.bisect_right(starts, call.begins) - 1)].append(call)
    return [
        (min(call.begins for call in those) - TOLERANCE_S, max(call.ends for call in those) + TOLERANCE_S)
        for those in sessions.values()
    ]


# --- rows and notes


def _order(pair: JoinedPair) -> tuple[Any, ...]:
    at = pair.line.at if pair.line is not None else pair.call.begins if pair.call is not None else 0.0
    return (OUTCOMES.index(pair.outcome), at, () if pair.line is None else line_order(pair.line))


def _totals(pairs: Iterable[_ComparedPair]) -> Iterator[_OutcomeSum]:
    """Yield the sums, in the order of `OUTCOMES`; calls and lines that agree are counted even where there are none."""
    groups = group_by(pairs, attrgetter("outcome"))
    for outcome in OUTCOMES:
        if outcome in groups or outcome == SAME:
            yield _OutcomeSum(outcome, groups.get(outcome, ()))


def _minus(one: Any, other: Any) -> Any:
    return None if one is None or other is None else one - other


def _float(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


def _sum(values: Iterable[Any]) -> Any:
    known = [value for value in values if value is not None]
    return sum(known[1:], known[0]) if known else None


def _notes(
    usage_log: UsageLog,
    gateways: frozenset[str],
    pairs: Sequence[JoinedPair],
    calls: Sequence[Call],
    currency: str | None,
) -> Iterator[str]:
    form = usage_log.form
    names = ", ".join(sorted(gateways))
    yield f"{count_of(len(usage_log.lines), 'line')} of {names}, read as {form.name!r} ({usage_log.encoding})" + (
        f"; {count_of(usage_log.left_out, 'other line')} excluded by `only`" if usage_log.left_out else ""
    )
    if usage_log.has_local_times:
        yield f"times without an offset are read as {form.time_zone} (`time_zone` in [bills.{form.name}])"
    yield from _joining_notes(pairs, calls)
    yield from _money_notes(usage_log, calls, currency)


def _joining_notes(pairs: Sequence[JoinedPair], calls: Sequence[Call]) -> Iterator[str]:
    ways = Counter(pair.joined_by for pair in pairs if pair.joined_by is not None)
    if ways["time and tokens"]:
        count = count_of(ways["time and tokens"], "line")
        yield f"{count} without a matching request id: matched by model, time (within {TOLERANCE_S:g} s) and tokens"
    if ways["time"]:
        yield f"{count_of(ways['time'], 'line')} matched by model and time only: a token count is unknown"
    outside = sum(pair.outcome == OUTSIDE for pair in pairs)
    if outside:
        where = "outside the time of these runs, from other runs or other programs with this key: not compared"
        yield f"{count_of(outside, 'line')} {where}"
    asked = {call.model for call in calls}
    others = Counter(pair.line.model for pair in pairs if pair.outcome == UNKNOWN and pair.line is not None)
    strange = {model: count for model, count in others.items() if model not in asked}
    if strange:
        listed = ", ".join(sorted(strange))
        count = count_of(sum(strange.values()), "line")
        yield f"{count} with outcome `{UNKNOWN}` for models that these runs did not use: {listed}"


def _money_notes(usage_log: UsageLog, calls: Sequence[Call], currency: str | None) -> Iterator[str]:
    if all(line.amount is None for line in usage_log.lines):
        return
    if currency is None:
        yield f"the currency of the amounts is unknown: set `currency` in [bills.{usage_log.form.name}]"
        return
    replied = [call for call in calls if call.kind == "replied"]
    without = [call for call in replied if call.cost is None or call.currency != currency]
    if without:
        target = without[0].ident.target
        model, _, gateway = target.rpartition("@")
        hint = f'set one under [prices.{gateway}."{model}"] in the config, for later runs'
        yield f"{len(without)} of {len(replied)} calls have no price in {currency}: {hint}"
