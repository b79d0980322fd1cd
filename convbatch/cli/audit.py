"""`convbatch audit`: with --plan run the shipped probes first; judge runs, print the audit, write its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convbatch.auditing.audit import Bill, audit_runs, check_options, monitor_runs
from convbatch.auditing.judge import Audit
from convbatch.auditing.render import AUDIT_PARTS, audit_content, to_json, to_terminal
from convbatch.console.text import ignoring_broken_pipe, log_note, printable_json
from convbatch.errors import SetupError
from convbatch.exit_codes import ExitCode
from convbatch.journal.run_folder import shell_quote
from convbatch.results.export import check_files, write_files
from convbatch.results.run import Run
from convbatch.session.options import REPORT_SUFFIXES, absolute

_SUFFIXES = (*REPORT_SUFFIXES, ".html")
"""Files among the paths of -o of a plan; another path is the run folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """The run of `--plan`."""

    models: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    budget: str | None = None
    repeats: int | None = None
    language: str = "en"
    datasets: tuple[Path, ...] = ()
    """Own dialogues to mix in."""
    max_output_tokens: int | None = None
    concurrency: int | None = None
    rpm: int | None = None
    env_file: Path | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """Options that were given and need `--plan`."""
        names = {"models": "-m", "gateways": "-g", "datasets": "--with"}
        fields = dataclasses.fields(self)
        changed = [field.name for field in fields if getattr(self, field.name) != field.default]
        return tuple(names.get(name, f"--{name.replace('_', '-')}") for name in changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedWith:
    """What the run of a plan is judged with."""

    runs: tuple[str, ...] = ()
    """Earlier runs."""
    reference: str | None = None
    config: Path | None = None
    folder: tuple[Path, ...] = ()
    """Of the run, if it was named."""
    prints_table: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRequest:
    """What the command line asks for."""

    runs: tuple[str, ...]
    reference: str | None
    alpha: float
    bill: Path | None
    bill_form: str | None
    config: Path | None
    monitor: bool
    as_json: bool
    out: tuple[Path, ...]
    plan: PlanRequest | None
    unplanned: tuple[str, ...]
    """Options of a plan that were given without `--plan`."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files to write; with a plan, another path is the run folder."""
        if self.plan is None:
            return self.out
        return tuple(path for path in self.out if path.suffix.lower() in _SUFFIXES)

    @property
    def judged_with(self) -> JudgedWith:
        """What the run of a plan is judged with."""
        return JudgedWith(
            runs=self.runs,
            reference=self.reference,
            config=self.config,
            folder=tuple(path for path in self.out if path not in self.files),
            prints_table=not self.as_json,
        )


def run_audit(request: AuditRequest) -> ExitCode:
    """Run the plan, judge, print the audit; return the worse exit code of run and audit."""
    _check(request)
    code, runs = ExitCode.OK, list(request.runs)
    if request.plan is not None:
        from convbatch.cli.audit_plan import run_plan

        code, planned = run_plan(request.plan, request.judged_with)
        if code in (ExitCode.BUG, ExitCode.JOURNAL, ExitCode.INTERRUPTED):
            return code
        runs += planned
    found, loaded = _judge(request, runs)
    _log_states(loaded)
    if code == ExitCode.INCOMPLETE and found.exit_code == ExitCode.FAILED:
        code = ExitCode.OK  # what was received differs, whatever the rest would say
    found = dataclasses.replace(found, run_code=code)
    try:
        write_files(audit_content(found, loaded), request.files)
    finally:
        with ignoring_broken_pipe():
            if request.as_json:
                print(printable_json(to_json(found).decode()), end="")  # noqa: T201
            else:
                to_terminal(found)
    return found.exit_code


def _log_states(runs: Sequence[Run]) -> None:
    """Print what is missing in runs: damage, suspended targets, open turns."""
    from convbatch.cli.show import state_notes

    for run in runs:
        for note in state_notes(run):
            log_note(note)
        if run.manifest.state != "finished":
            log_note(f"note: {run.name} has open turns: convbatch resume {shell_quote(absolute(run.path))}")


def _check(request: AuditRequest) -> None:
    """Refuse what cannot work, before anything is sent or read."""
    if request.plan is None and request.unplanned:
        raise SetupError(f"{', '.join(request.unplanned)}: only with --plan", hint="add --plan, or leave them out")
    if request.plan is None and not request.runs:
        raise SetupError(
            "no run to audit", hint="name one, such as `latest`, or run the probes: --plan -m MODEL -g A -g B"
        )
    if request.plan is not None and not request.plan.models:
        raise SetupError("--plan needs a model at two gateways", hint="-m MODEL -g A -g B, or -m MODEL@A -m MODEL@B")
    check_options(
        alpha=request.alpha,
        bill=request.bill,
        bill_form=request.bill_form,
        reference=request.reference,
        monitor=request.monitor,
    )
    if request.monitor and request.plan is not None:
        hint = "plan the run of a day, then watch all days: convbatch audit GOOD MONDAY TUESDAY --monitor"
        raise SetupError("--monitor cannot be combined with --plan", hint=hint)
    check_files(request.files, AUDIT_PARTS)


def _judge(request: AuditRequest, runs: Sequence[str]) -> tuple[Audit, list[Run]]:
    if request.monitor:
        return monitor_runs(runs, alpha=request.alpha)
    bill = None if request.bill is None else Bill(path=request.bill, form=request.bill_form, config=request.config)
    return audit_runs(runs, reference=request.reference, alpha=request.alpha, bill=bill)
