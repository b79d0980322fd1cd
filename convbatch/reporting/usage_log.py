"""A gateway's usage log compared with the journal, as sections of a report.

`usage_log_reader.py` reads the log, `usage_log_matching.py` matches its lines with calls.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    JoinedPair,
    group_by,
    join_lines_and_calls,
    line_order,
)
from convbatch.reporting.usage_log_reader import UsageLog, read_usage_log
from convbatch.results.columns import ATTEMPTS, Column, Row
from convbatch.results.parquet import Rows

if TYPE_CHECKING:
    from convbatch.results.run import Run

UNLISTED_OUTCOMES = frozenset((SAME, FAILED_FREE, OUTSIDE))
"""Outcomes that are as expected, or that do not belong to these runs: counted in the totals, not listed."""

USAGE_LOG_TOTALS: tuple[Column, ...] = (
    Column("outcome", "string", "result of the matching"),
    Column("lines", "Int64", "lines of the usage log"),
    Column("calls", "Int64", "calls of the runs"),
    Column("input_tokens", "Int64", "ours, of calls whose count is known; null when none is"),
    Column("billed_input", "Int64", "of the lines; null when none has it"),
    Column("output_tokens", "Int64", "ours, as above"),
    Column("billed_output", "Int64", "of the lines, as above"),
    Column("cost", "Float64", "ours, of calls with a price in the log's currency; null when none has one"),
    Column("billed", "Float64", "amounts of the lines; null when none has one"),
    Column("difference", "Float64", "amount minus cost, of calls with both; null when none has both"),
    Column("currency", "string", "of the three; null when unknown"),
)
USAGE_LOG_LINES: tuple[Column, ...] = (
    Column("outcome", "string", "as in the totals"),
    Column("joined_by", "string", "`request id`, `time and tokens` or `time`; null for an unmatched line or call"),
    Column("line", "Int64", "of the file; null for a call without a line"),
    Column("time", "timestamp[us, UTC]", "of the line, else of the call's start"),
    Column("model", "string", "as billed, else as asked"),
    Column("request_id", "string", "of the line, else of the call"),
    Column("run", "string", "null for a line without a call, like all columns up to `attempt`"),
    Column("dialogue", "string", "of the call"),
    Column("target", "string", "of the call"),
    Column("repeat", "Int64", "of the call"),
    Column("turn", "Int64", "of the call"),
    Column("attempt", "Int64", "of the call"),
    Column("input_tokens", "Int64", "ours; null when unknown"),
    Column("billed_input", "Int64", "of the line"),
    Column("input_difference", "Int64", "billed minus ours"),
    Column("output_tokens", "Int64", "ours, reasoning included"),
    Column("billed_output", "Int64", "of the line"),
    Column("output_difference", "Int64", "billed minus ours"),
    Column("cost", "Float64", "ours, in the log's currency; null without a price in it"),
    Column("billed", "Float64", "amount of the line"),
    Column("difference", "Float64", "amount minus cost"),
    Column("currency", "string", "of the three"),
)


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
    view = _PairRows(currency)
    totals = Rows(columns=USAGE_LOG_TOTALS, rows=view.totals(pairs)).frame()
    listed = Rows(
        columns=USAGE_LOG_LINES, rows=(view.line(pair) for pair in pairs if pair.outcome not in UNLISTED_OUTCOMES)
    ).frame()
    notes = tuple(_notes(usage_log, gateways, pairs, calls, currency))
    title = f"Bill {path.name}"
    return [
        Section(key="bill", title=title, frame=totals, notes=notes),
        Section(key="bill_lines", title=f"{title}: differences", frame=listed),
    ]


# --- gateways and calls


def _gateways(runs: Sequence[Run], usage_log: UsageLog) -> frozenset[str]:
    """Return the gateways of the log: those of its form, else all gateways of the runs if they have one host."""
    hosts: dict[str, str] = {}
    for target in _targets(runs):
        gateway = target.gateway
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
    targets = {target.name for target in _targets([run]) if target.gateway.name in gateways}
    for row in run.attempt_rows().rows:
        cells = dict(zip(_NAMES, row, strict=True))
        if cells["target"] in targets and cells["class"] != "not_sent" and cells["started_at"] is not None:
            yield _call(cells)


def _call(cells: Mapping[str, Any]) -> Call:
    kind = "replied" if cells["class"] == "replied" else "failed"
    if cells["class"] is None or cells["class"] in POSSIBLY_PAID:
        kind = "lost"
    begins = cells["started_at"].timestamp()
    took = cells["latency_s"] or 0.0
    return Call(
        ident=(*(cells[name] for name in ("run", "dialogue", "target", "repeat", "turn", "attempt")),),
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
        if call.ident[0] == run.name:
            sessions[max(0, bisect.bisect_right(starts, call.begins) - 1)].append(call)
    return [
        (min(call.begins for call in those) - TOLERANCE_S, max(call.ends for call in those) + TOLERANCE_S)
        for those in sessions.values()
    ]


# --- rows and notes


def _order(pair: JoinedPair) -> tuple[Any, ...]:
    at = pair.line.at if pair.line is not None else pair.call.begins if pair.call is not None else 0.0
    return (OUTCOMES.index(pair.outcome), at, () if pair.line is None else line_order(pair.line))


class _PairRows:
    """Builds rows from pairs; money in the currency of the log."""

    def __init__(self, currency: str | None) -> None:
        self._currency = currency

    def cost(self, call: Call | None) -> Decimal | None:
        """Return our cost of a call, if it is in the currency of the log."""
        return call.cost if call is not None and call.currency == self._currency else None

    def line(self, pair: JoinedPair) -> Row:
        """Return a row of `USAGE_LOG_LINES`."""
        line, call = pair.line, pair.call
        cost = self.cost(call)
        billed = None if line is None else line.amount
        given, taken = (None, None) if call is None else (call.input_tokens, call.output_tokens)
        billed_in, billed_out = (None, None) if line is None else (line.input_tokens, line.output_tokens)
        at = line.at if line is not None else call.begins if call is not None else 0.0
        return (
            pair.outcome,
            pair.joined_by,
            None if line is None else line.line,
            datetime.fromtimestamp(at, UTC),
            line.model if line is not None else call.model if call is not None else None,
            (line and line.request_id) or (call and call.request_id),
            *((None,) * 6 if call is None else call.ident),
            given,
            billed_in,
            _minus(billed_in, given),
            taken,
            billed_out,
            _minus(billed_out, taken),
            _float(cost),
            _float(billed),
            _float(_minus(billed, cost)),
            self._currency if cost is not None or billed is not None else None,
        )

    def totals(self, pairs: Iterable[JoinedPair]) -> Iterator[Row]:
        """Yield the rows of `USAGE_LOG_TOTALS`, in the order of `OUTCOMES`."""
        groups = group_by(pairs, attrgetter("outcome"))
        for outcome in OUTCOMES:
            mine: list[JoinedPair] = groups.get(outcome, [])
            if not mine and outcome != SAME:
                continue
            lines = [pair.line for pair in mine if pair.line is not None]
            calls = [pair.call for pair in mine if pair.call is not None]
            cost, billed = _sum(map(self.cost, calls)), _sum(line.amount for line in lines)
            apart = _sum(_minus(pair.line and pair.line.amount, self.cost(pair.call)) for pair in mine)
            yield (
                outcome,
                len(lines),
                len(calls),
                _sum(call.input_tokens for call in calls),
                _sum(line.input_tokens for line in lines),
                _sum(call.output_tokens for call in calls),
                _sum(line.output_tokens for line in lines),
                _float(cost),
                _float(billed),
                _float(apart),
                self._currency if cost is not None or billed is not None else None,
            )


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
        target = without[0].ident[2]
        model, _, gateway = target.rpartition("@")
        hint = f'set one under [prices.{gateway}."{model}"] in the config, for later runs'
        yield f"{len(without)} of {len(replied)} calls have no price in {currency}: {hint}"
