"""`convbatch audit`: run folders and a bill to one judged audit."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convbatch.auditing.bills import money
from convbatch.auditing.finding import Finding
from convbatch.auditing.judge import Audit, judge
from convbatch.auditing.monitor import monitor as judge_days
from convbatch.auditing.reading import AuditInputs, load_pairs
from convbatch.auditing.replies import LIMIT
from convbatch.errors import SetupError, named_by_keyword
from convbatch.reporting.usage_log import JoinedLog, join_usage_log
from convbatch.reporting.usage_log_matching import OUTSIDE, JoinedPair
from convbatch.results.run import Run

MANY_UNANSWERED = 0.05
"""Share of replies without a text from which a note says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """A gateway's usage log, and how to read it."""

    path: Path
    form: str | None = None
    config: Path | None = None


def audit(
    *runs: str | Path | Run,
    reference: str | None = None,
    alpha: float = 0.05,
    bill: str | Path | None = None,
    bill_form: str | None = None,
    config: str | Path | None = None,
    monitor: bool = False,
) -> Audit:
    """Judge whether targets that claim one model are one model; nothing is sent.

    >>> twice = [convbatch.run(dataset, models="sim-good@simulator") for _ in range(2)]
    >>> [pair.verdict for pair in convbatch.audit(*twice).pairs]
    ['inconclusive']

    Args:
        runs: Runs, their paths or names, or `RUN:target`. One target in several runs is compared with its earliest run.
        reference: Gateway or target to trust; None = the first.
        alpha: Probability of any wrong `different` in the audit, at most.
        bill: A gateway's usage log (CSV), to test its counts.
        bill_form: Format of the usage log; None = the one that fits.
        config: Where formats of usage logs are defined; None = `convbatch.toml` in the working directory.
        monitor: The runs are days of one target: `alpha` holds for all days together, however often this is asked.

    Returns:
        The verdict, and for each pair of targets the questions with their findings and evidence.

    Raises:
        SetupError: There is no such run or side, or nothing to compare.
        InputError: The bill or the config cannot be read.
    """
    with named_by_keyword(_KEYWORDS):
        check_options(alpha=alpha, bill=bill, bill_form=bill_form, reference=reference, monitor=monitor)
        if monitor:
            return monitor_runs(runs, alpha=alpha)[0]
        formats = None if config is None else Path(config)
        log = None if bill is None else Bill(path=Path(bill), form=bill_form, config=formats)
        return audit_runs(runs, reference=reference, alpha=alpha, bill=log)[0]


_KEYWORDS = {f"--{name.replace('_', '-')}": name for name in inspect.signature(audit).parameters}
"""Keyword argument of `audit` by option of the command."""


def check_options(
    *, alpha: float, bill: object | None, bill_form: str | None, reference: str | None, monitor: bool
) -> None:
    """Refuse options that cannot work, before a run is read.

    Raises:
        SetupError: They cannot.
    """
    if not 0 < alpha < 0.5:
        raise SetupError("--alpha must be between 0 and 0.5", found=f"{alpha:g}")
    if bill is None and bill_form is not None:
        raise SetupError("--bill-form without --bill", hint="name the usage log: --bill FILE.csv")
    if monitor and (reference is not None or bill is not None):
        hint = "name the runs of one target; the earliest is the last good one"
        raise SetupError("--monitor cannot be combined with --reference or --bill", hint=hint)


def audit_runs(
    runs: Sequence[str | Path | Run], *, reference: str | None = None, alpha: float = 0.05, bill: Bill | None = None
) -> tuple[Audit, list[Run]]:
    """Judge whether targets that claim one model are one model.

    Args:
        runs: Runs, paths, names, or `RUN:target`.
        reference: Gateway or target to trust; None: the first.
        alpha: Probability of any wrong `different`, at most.
        bill: The usage log of one of the gateways.

    Returns:
        The audit, and the runs it is of.

    Raises:
        SetupError: There is no such run or side, or nothing to pair.
        InputError: The bill cannot be read.
    """
    inputs = load_pairs(runs, reference=reference)
    findings = {} if bill is None else _billed(inputs, bill)
    pairs = [dataclasses.replace(pair, money=findings.get(pair.candidate.name)) for pair in inputs.pairs]
    notes = [*inputs.notes, *_disjoint_notes(inputs), *_unanswered_notes(inputs)]
    if bill is not None and not findings:
        notes.append(f"{bill.path.name} is the bill of no candidate: not compared")
    return judge(pairs, alpha=alpha, notes=notes), inputs.runs


def monitor_runs(runs: Sequence[str | Path | Run], *, alpha: float = 0.05) -> tuple[Audit, list[Run]]:
    """Judge whether one target has changed since the first of these runs, however often this is asked.

    Args:
        runs: Runs of one target, `RUN:target` where a run has several; the earliest is the last good one.
        alpha: Probability of a false alarm on any day, at most.

    Returns:
        As `audit_runs`.

    Raises:
        SetupError: There is no such run, or they are not runs of one target.
    """
    inputs = load_pairs(runs)
    names = {target for those in inputs.groups.values() for _, target in those}
    if len(names) > 1:
        hint = f"name one of them in each run: {inputs.runs[0].name}:{min(names)}"
        raise SetupError(f"--monitor watches one target, not {len(names)}: {', '.join(sorted(names))}", hint=hint)
    days = [inputs.pairs[0].reference, *(pair.candidate for pair in inputs.pairs)]
    found = judge_days(days, alpha=alpha)
    notes = [*inputs.notes, *_disjoint_notes(inputs), *_unanswered_notes(inputs), *found.notes]
    return dataclasses.replace(found, notes=notes), inputs.runs


def _disjoint_notes(inputs: AuditInputs) -> Iterator[str]:
    """Yield which sides were not asked the same."""
    for pair in inputs.pairs:
        asked, other = ({reply.prompt for reply in side.replies} for side in (pair.reference, pair.candidate))
        if asked and other and asked.isdisjoint(other):
            yield (
                f"{pair.candidate.name} and {pair.reference.name} have no prompt in common: "
                "replay the same dialogues with the same settings at both"
            )


def _unanswered_notes(inputs: AuditInputs) -> Iterator[str]:
    """Yield which sides often reasoned up to the limit: a reply without a text answers no question."""
    sides = {side.name: side for pair in inputs.pairs for side in (pair.reference, pair.candidate)}
    for name, side in sides.items():
        replies = [reply for reply in side.replies if LIMIT not in reply.tags]
        cut = sum(reply.finish_reason == "length" and not reply.text for reply in replies)
        if cut > MANY_UNANSWERED * len(replies):
            yield (
                f"{name}: {cut:,} of {len(replies):,} replies reached their limit before any text, probably by "
                "reasoning; raise it, for the probes by --plan --max-output-tokens 8192"
            )


def _billed(inputs: AuditInputs, bill: Bill) -> Mapping[str, Finding]:
    """Return what the bill says about each side whose gateway it is from."""
    from convbatch.config.loader import load_config

    joined = join_usage_log(inputs.runs, bill.path, load_config(bill.config).usage_logs, bill.form)
    found = {name: _of_side(joined, those) for name, those in inputs.groups.items()}
    return {name: finding for name, finding in found.items() if finding is not None}


def _of_side(joined: JoinedLog, those: Sequence[tuple[Run, str]]) -> Finding | None:
    """Return what the bill says about the calls of one side, and about lines without a call for its model."""
    calls = {(run.name, target) for run, target in those}
    if not any((call.ident.run, call.ident.target) in calls for call in joined.calls):
        return None
    models = {target.rpartition("@")[0] for _, target in those}

    def belongs(pair: JoinedPair) -> bool:
        if pair.call is not None:
            return (pair.call.ident.run, pair.call.ident.target) in calls
        return pair.outcome != OUTSIDE and pair.line is not None and pair.line.model in models

    return money(list(filter(belongs, joined.pairs)))
