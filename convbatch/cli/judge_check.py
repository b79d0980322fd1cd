"""`convbatch judge-check`: options → the agreement of a judge with people, or a template of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convbatch.exit_codes import ExitCode


def run_judge_check(
    run: str, labels: Path | None, *, fail_under: float | None, json: bool, out: Sequence[Path]
) -> ExitCode:
    """Compare, write the files, print, and return the exit code."""
    from convbatch.comparison import agreement_render
    from convbatch.comparison.agreement import check_judge
    from convbatch.console.text import ignoring_broken_pipe, printable_json
    from convbatch.errors import SetupError
    from convbatch.results.export import check_files, write_files

    if labels is None:
        raise SetupError(
            "judge-check needs people's labels", hint=f"convbatch judge-check {run} --template labels.csv makes a file"
        )
    check_files(out, agreement_render.AGREEMENT_PARTS)
    found = check_judge(run, labels, fail_under=fail_under)
    try:
        write_files(agreement_render.agreement_content(found), out)
    finally:
        with ignoring_broken_pipe():
            if json:
                print(printable_json(agreement_render.to_json(found).decode()), end="")  # noqa: T201
            else:
                agreement_render.to_terminal(found)
    return found.exit_code


def write_template(run: str, labels: Path | None, path: Path, *, size: int, seed: int) -> ExitCode:
    """Write replies to label; an existing file, which may have labels, is never replaced."""
    from convbatch.comparison.agreement import chosen_items, template_frame
    from convbatch.console.text import log_note
    from convbatch.errors import SetupError
    from convbatch.results.export import check_files, write_table

    if labels is not None:
        raise SetupError("--template writes a file to label: name no labels", hint=f"leave out {labels}")
    if path.suffix.lower() not in (".csv", ".xlsx"):
        raise SetupError(f"a template is .csv or .xlsx, not {path.name}", hint="--template labels.csv")
    if path.exists():
        raise SetupError(f"{path} exists, and may have labels", hint="name another file, or remove it")
    check_files([path], ("rows", "sheets"))
    chosen, items = chosen_items(run)
    rows = template_frame(chosen, items, size, seed)
    write_table(rows, path, name="labels")
    log_note(f"{len(rows):,} rows in {path}: fill label with pass or fail; then convbatch judge-check {run} {path}")
    return ExitCode.OK
