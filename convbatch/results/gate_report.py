"""The result of `check` and `run` as files: one JSON object, a Markdown page, and with a quality gate JUnit XML.

All of them are made from one `GateReport`, whose verdict is that of the exit code. How the gate is decided is
`quality_gate.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from convbatch.console.junit import CaseOutcome, JUnitCase, gate_outcome, junit_xml
from convbatch.console.markdown import md, md_row
from convbatch.console.tables import NONE
from convbatch.console.text import printable
from convbatch.dataset.reader import count_of
from convbatch.errors import SetupError
from convbatch.exit_codes import ExitCode, GateResult, gate_result
from convbatch.results.export import Content, Part, check_files, write_files
from convbatch.results.filters import EVERYTHING, Filters
from convbatch.results.quality_gate import falls_short
from convbatch.results.run import Run
from convbatch.results.summary import TargetSummary
from convbatch.results.verdict_counts import FailedCheck, VerdictCounts, count_verdicts, failed_checks

GATE_PARTS: tuple[Part, ...] = ("value", "markdown", "junit")
FAILURES_WRITTEN = 100
"""Number of failed checks on a Markdown page; JSON has all."""
_CONVERSATION = ("dialogue", "target", "repeat", "status", "dialogue_pass")
_HEADINGS = ("target", "turns", "failed or open", "dialogues passed", "checks passed", "failed", "no verdict", "score")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """The result of a command on a run."""

    command: str
    """`run`, `resume` or `check`."""
    run: Run
    totals: Sequence[TargetSummary]
    exit_code: ExitCode
    fail_under: str | None
    """None: there is no gate."""
    lines: Sequence[str]
    """What the gate decided, as printed."""
    filters: Filters = EVERYTHING
    """What `totals` and the verdicts are of; the exit code is of the whole run."""

    @property
    def gate(self) -> GateResult | None:
        """What the exit code says of a release; None without a gate."""
        return None if self.fail_under is None else gate_result(self.exit_code)

    @property
    def summary(self) -> str:
        """The result as one sentence."""
        if self.fail_under is None:
            only = f"; only what matches {self.filters}" if self.filters else ""
            return f"no gate, exit code {self.exit_code:d}{only}"
        return f"gate {self.gate}, exit code {self.exit_code:d} (--fail-under {self.fail_under})"


def check_outputs(paths: Sequence[Path], fail_under: str | None, *, run_folder: Path | None = None) -> None:
    """Refuse files that could not be written, before anything is sent.

    Raises:
        SetupError: JUnit without a gate, or as `check_files`.
    """
    for path in paths:
        if path.suffix.lower() == ".xml" and fail_under is None:
            raise SetupError(
                f"{path}: JUnit needs a gate to report", hint="add --fail-under 0.95, or name a .json or .md file"
            )
    check_files(paths, GATE_PARTS, run_folder=run_folder)


def write_reports(report: GateReport, paths: Iterable[Path]) -> None:
    """Write a report to each of these files.

    Raises:
        SetupError: As `write_files`.
    """
    write_files(gate_content(report), paths)


def gate_content(report: GateReport) -> Content:
    """Return what a report can be written as."""
    return {
        "value": lambda: to_value(report),
        "markdown": lambda: to_markdown(report),
        "junit": lambda: to_junit(report),
    }


def to_value(report: GateReport) -> dict[str, Any]:
    """Return the report as one JSON object; its keys are a contract."""
    counts = count_verdicts(report.run, report.filters)
    return {
        "gate": report.gate,
        "exit_code": int(report.exit_code),
        "fail_under": report.fail_under,
        "summary": report.summary,
        "reasons": list(report.lines),
        "run": report.run.name,
        "path": str(report.run.path),
        "targets": [_target_value(total, counts.get(total.target)) for total in report.totals],
        "failed": [check._asdict() for check in failed_checks(report.run, report.filters)],
    }


def _target_value(total: TargetSummary, counts: VerdictCounts | None) -> dict[str, Any]:
    value = {name: _to_json_value(cell) for name, cell in asdict(total).items()}
    value["served"] = [one._asdict() for one in total.served]
    rate = total.passed / total.judged if total.judged else None
    checks = {
        "pass_rate": rate,
        "checks_passed": counts.passed if counts else None,
        "checks_failed": counts.failed if counts else None,
        "checks_without_verdict": counts.open if counts else None,
        "score": None if counts is None or counts.score is None else round(counts.score, 12),
    }
    return value | checks


def _to_json_value(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else list(value) if isinstance(value, tuple) else value


def to_markdown(report: GateReport) -> str:
    """Return the report as Markdown, e.g. for a comment on a pull request."""
    counts = count_verdicts(report.run, report.filters)
    head = "NO GATE" if report.gate is None else report.gate.upper()
    simulated = [total.target for total in report.totals if total.simulated]
    facts = [*report.lines, f"run: {report.run.name}"]
    facts += [f"SIMULATED, no model was asked: {', '.join(simulated)}"] if simulated else []
    rows = [_md_cells(total, counts.get(total.target, VerdictCounts())) for total in report.totals]
    table = [md_row(_HEADINGS), md_row(["---", *["---:"] * (len(_HEADINGS) - 1)])]
    parts = [
        f"## {head}: {md(printable(report.summary))}",
        "\n".join(f"- {md(printable(line))}" for line in facts),
        "\n".join([*table, *(md_row([md(printable(cell)) for cell in row]) for row in rows)]),
        "\n".join(_md_failures(report, sum(one.failed for one in counts.values()))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _md_cells(total: TargetSummary, counts: VerdictCounts) -> list[str]:
    return [
        total.target,
        f"{total.turns:,}",
        f"{total.error + total.skipped + total.pending:,}",
        f"{total.passed:,}/{total.judged:,}" if total.judged or total.undecided else NONE,
        f"{counts.passed:,}",
        f"{counts.failed:,}",
        f"{counts.open:,}",
        NONE if counts.score is None else f"{counts.score:.3f}",
    ]


def _md_failures(report: GateReport, failed: int) -> Iterator[str]:
    if not failed:
        return
    yield f"### Failed: {count_of(failed, 'check')}\n"
    for _, check in zip(range(FAILURES_WRITTEN), failed_checks(report.run, report.filters), strict=False):
        yield f"- {md(printable(failure_text(check, report.run)))}"
    if failed > FAILURES_WRITTEN:
        yield f"- … and {failed - FAILURES_WRITTEN:,} more"


def failure_text(check: FailedCheck, run: Run) -> str:
    """Return a failed check as one line."""
    where = "dialogue" if check.turn is None else f"turn {check.turn}"
    which = f" repeat {check.repeat}" if run.manifest.repeats > 1 else ""
    return f"{check.dialogue}, {where}, {check.target}{which}: {check.check}: {check.reason}"


def to_junit(report: GateReport) -> bytes:
    """Return the report as JUnit XML: the verdict as the first test case, then one for every conversation with checks.

    The first case fails exactly when the exit code is 1, and is an error when it is 3. A conversation that did not pass
    fails only where its target falls short of the gate, and is output (`system-out`) elsewhere.
    """
    facts = {"gate": str(report.gate), "exit_code": str(int(report.exit_code)), "summary": report.summary}
    verdict = JUnitCase(
        classname=f"convbatch {report.command}",
        name=f"verdict: --fail-under {report.fail_under}",
        outcome=gate_outcome(report.exit_code),
        message="; ".join(report.lines) or report.summary,
        text="\n".join([report.summary, *report.lines]),
    )
    name = f"convbatch {report.command} {report.run.name}"
    return junit_xml(name, [verdict, *_conversation_cases(report)], facts)


def _conversation_cases(report: GateReport) -> Iterator[JUnitCase]:
    run, fail_under = report.run, report.fail_under
    short = {one.target for one in report.totals if fail_under is not None and falls_short(one, fail_under)}
    failing = short if report.gate == "failed" else set[str]()
    texts: dict[tuple[str, str, int], list[str]] = {}
    for check in failed_checks(run):
        key = (check.dialogue, check.target, check.repeat)
        texts.setdefault(key, []).append(printable(failure_text(check, run)))
    rows = run.conversation_rows()
    at = {column.name: place for place, column in enumerate(rows.columns)}
    for row in rows.rows:
        dialogue, target, repeat, status, passed = (row[at[name]] for name in _CONVERSATION)
        text = "\n".join(texts.get((dialogue, target, repeat), ())) or ("" if passed else f"a turn is {status}")
        if passed is None:
            text = "pending" if status == "pending" else "no checks, or one without a verdict"
        yield JUnitCase(
            classname=target,
            name=dialogue if run.manifest.repeats == 1 else f"{dialogue} repeat {repeat}",
            outcome=_conversation_outcome(passed, is_failing=target in failing),
            message=text.split("\n")[0],
            text="" if passed is None else text,
        )


def _conversation_outcome(passed: bool | None, *, is_failing: bool) -> CaseOutcome:
    if passed is None:
        return "skipped"
    return "failure" if is_failing and not passed else "passed"
