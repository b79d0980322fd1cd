"""`convbatch audit`: judge runs that are there, print the audit, write its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convbatch.auditing.audit import Bill, audit_runs
from convbatch.auditing.render import AUDIT_PARTS, audit_content, to_json, to_terminal
from convbatch.console.text import ignoring_broken_pipe, printable_json
from convbatch.errors import SetupError
from convbatch.exit_codes import ExitCode
from convbatch.results.export import check_files, write_files


def run_audit(
    runs: Sequence[str],
    *,
    reference: str | None,
    alpha: float,
    bill: Path | None,
    bill_form: str | None,
    config: Path | None,
    as_json: bool,
    out: Sequence[Path],
) -> ExitCode:
    """Judge runs, print the audit and return its exit code."""
    check_files(out, AUDIT_PARTS)
    if not 0 < alpha < 0.5:
        raise SetupError("--alpha must be between 0 and 0.5", found=f"{alpha:g}")
    if bill is None and bill_form is not None:
        raise SetupError("--bill-form without --bill", hint="name the usage log: --bill FILE.csv")
    found = audit_runs(
        runs,
        reference=reference,
        alpha=alpha,
        bill=None if bill is None else Bill(path=bill, form=bill_form, config=config),
    )
    try:
        write_files(audit_content(found), out)
    finally:
        with ignoring_broken_pipe():
            if as_json:
                print(printable_json(to_json(found).decode()), end="")  # noqa: T201
            else:
                to_terminal(found)
    return found.exit_code
