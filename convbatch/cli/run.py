"""`convbatch run` and `resume`: print the plan, run the session and its judge, print closing table and next command.

The session itself is `session/session.py`. The plan and all notes go to stderr, the closing table to stdout.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convbatch.cli.cancel import open_job_lines
from convbatch.cli.finished import finished_result
from convbatch.cli.live_tables import TableMaker, is_worth_it, table_maker
from convbatch.cli.plan_text import be_verb, endpoint_lines, judge_lines, plan_lines, unused_judge_lines
from convbatch.cli.watch import Watch, finish_watched, listening
from convbatch.console.text import drop_output, log_note
from convbatch.dataset.reader import count_of
from convbatch.engine.suspension import NEW_RUN
from convbatch.errors import ConvbatchError, JournalError, NotEnoughMemory, SetupError, naming_memory_errors
from convbatch.exit_codes import ExitCode, worst
from convbatch.journal.manifest import MANIFEST_NAME
from convbatch.journal.run_folder import RunFolder, find_run, shell_quote
from convbatch.reply import is_open
from convbatch.results.quality_gate import QualityGate, evaluate_gate
from convbatch.session.judge import judge_not_asked, prepare_judging_after, wants_judge
from convbatch.session.next_command import (
    ask_again_line,
    command_line,
    larger_budget,
    read_line,
    rerun_line,
    resume_line,
    run_line,
    with_resume_line,
)
from convbatch.session.options import ResumeOptions, RunOptions, absolute, given_options, read_given
from convbatch.session.prepare import RESULTS, changed_sources, prepare_resume, prepare_run
from convbatch.session.session import run_session
from convbatch.session.spec import SessionResult, SessionSpec

if TYPE_CHECKING:
    from convbatch.results.run import Run
    from convbatch.results.summary import TargetSummary

REASONS_SHOWN = 3
BUGS_SHOWN = 3
REBUILT = "the next command that reads the run rebuilds the table from its journal"
_GATE = {True: ExitCode.OK, False: ExitCode.FAILED, None: ExitCode.INCOMPLETE}


def run(options: RunOptions) -> ExitCode:
    """Prepare and run a new run; return the exit code."""
    with listening(options) as watch:
        return _run(options, watch)


def _run(options: RunOptions, watch: Watch | None) -> ExitCode:
    if options.currency is not None:
        raise SetupError(
            "--currency is an option of a --dry-run",
            hint=f"costs of a run are converted by: convbatch report RUN --currency {options.currency}; a budget has "
            f"its own currency: --max-cost 5{options.currency}",
        )
    if options.follow and options.as_json:
        raise SetupError(
            "--follow and --json both print on stdout", hint="leave one out, or write the result: -o run.json"
        )
    _check_outputs(options.reports, options.fail_under, run_folder=options.folder)
    try:
        spec = prepare_run(options)
    except ConvbatchError as error:
        if options.folder is None:
            raise
        keys = {name: value for name, value in given_options(options).items() if name == "env_file"}
        raise _with_given(error, options.folder, keys) from error
    _log_lines([*plan_lines(spec, options), f"  folder: {_display_folder(spec.folder)}"])
    if spec.has_caps:
        from convbatch.cli.dry_run import budget_warning

        _log_lines(budget_warning(spec))
    return finish_watched(spec, watch, lambda watched: _finish_and_write(watched, options))


def run_for(
    options: RunOptions, *, before: Sequence[str], after: Callable[[RunFolder], str], prints_table: bool
) -> tuple[ExitCode, Path]:
    """Prepare and run a new run for another command; return the exit code and the run folder.

    Args:
        options: The run.
        before: Further lines of its plan.
        after: Returns the command that reads the run.
        prints_table: Print the closing table.
    """
    spec = prepare_run(options)
    _log_lines([*plan_lines(spec, options), *before, f"  folder: {_display_folder(spec.folder)}"])
    return _finish(spec, as_json=not prints_table, next_line=after(spec.folder)), spec.folder.path


def _check_outputs(reports: Sequence[Path], fail_under: str | None, *, run_folder: Path | None = None) -> None:
    """Refuse files of `-o` that could not be written, before anything is sent."""
    if reports:
        from convbatch.results.gate_report import check_outputs

        check_outputs(reports, fail_under, run_folder=run_folder)


def _finish_and_write(spec: SessionSpec, options: RunOptions | ResumeOptions) -> ExitCode:
    code = _finish(spec, as_json=options.as_json)
    return worst(code, _write_result(spec, options, code)) if options.as_json or options.reports else code


def _write_result(spec: SessionSpec, options: RunOptions | ResumeOptions, code: ExitCode) -> ExitCode:
    """Write and print the result of a run with its exit code; a failure cannot undo the run."""
    from convbatch.cli.show import print_json
    from convbatch.results.gate_report import GateReport, to_value, write_reports
    from convbatch.results.run import load

    try:
        run = load(spec.folder.path)
        totals = run.summary()
        fail_under = spec.manifest.options.fail_under
        lines = [] if fail_under is None else _evaluate_gate(run, totals, fail_under).lines
        command = "resume" if spec.resumed else "run"
        report = GateReport(command=command, run=run, totals=totals, exit_code=code, fail_under=fail_under, lines=lines)
        try:
            write_reports(report, options.reports)
        finally:
            if options.as_json:
                print_json(to_value(report))
    except (ConvbatchError, OSError) as error:
        _log_lines([f"error: the result could not be written: {error}"])
        return ExitCode.JOURNAL
    return ExitCode.OK


def _evaluate_gate(run: Run, totals: Sequence[TargetSummary], fail_under: str) -> QualityGate:
    from convbatch.results.missing_verdicts import missing_verdicts

    missing = None if run.manifest.current_judge is None else missing_verdicts(run)
    lacks_verdicts = missing is not None and bool(missing.open or missing.refused)
    return evaluate_gate(totals, fail_under, lacks_verdicts=lacks_verdicts)


def resume(options: ResumeOptions) -> ExitCode:
    """Prepare and run another session of a run; return the exit code."""
    with listening(options) as watch:
        return _resume(options, watch)


def _resume(options: ResumeOptions, watch: Watch | None) -> ExitCode:
    path = find_run(options.run, RESULTS)
    try:
        spec = prepare_resume(options)
    except ConvbatchError as error:
        raise _with_given(error, path, given_options(options)) from error
    _check_outputs(options.reports, spec.manifest.options.fail_under)
    does = "cancelling the batch jobs of" if options.cancels else "resuming"
    head = f"{does} {_display_folder(spec.folder)}: {count_of(spec.manifest.planned.rows, 'row')}"
    _log_lines([head, *endpoint_lines(spec, options.from_environment)])
    for path in (changed := changed_sources(spec.folder, spec.manifest)):
        _log_lines([f"note: {path} has changed since this run copied it; the run continues with its copy"])
    if changed:
        _log_lines([f"      for the new content: {rerun_line(spec)}"])
    return finish_watched(spec, watch, lambda watched: _finish_and_write(watched, options))


def _with_given(error: ConvbatchError, path: Path, given: Mapping[str, Any]) -> ConvbatchError:
    """Return an error from before the session whose hint has a `resume` command with the options that were given."""
    return with_resume_line(error, path, command_line("resume", read_given(ResumeOptions, given, run=str(path))))


def _finish(spec: SessionSpec, *, as_json: bool, next_line: str | None = None) -> ExitCode:
    """Run a session and then its judge, print the results, return the exit code; `as_json`: without the closing table.

    `next_line` is the command that reads the run; None: the one that shows its replies.

    Once `run_session` has returned, replies may have been paid for: a later error is printed in addition to the tables,
    never instead of them.
    """
    with table_maker(spec.folder) as tables:
        return _finish_with(spec, tables, as_json=as_json, next_line=next_line)


def _finish_with(spec: SessionSpec, tables: TableMaker, *, as_json: bool, next_line: str | None) -> ExitCode:
    try:
        with naming_memory_errors():
            result = finished_result(spec) or _run_with_tables(spec, tables)
    except JournalError as error:  # nothing was sent
        _log_error(_with_options(spec, error))
        return ExitCode.JOURNAL
    except NotEnoughMemory as error:
        result = SessionResult(exit_code=ExitCode.INCOMPLETE, reason="memory", error=error)
    except ConvbatchError as error:  # nothing was sent
        raise _with_options(spec, error) from error
    except KeyboardInterrupt:  # before the first request or after the last reply; in between the session handles it
        result = SessionResult(exit_code=ExitCode.INTERRUPTED, reason="interrupted")
    judge_result = _run_judge(spec, result)
    results = [result] if judge_result is None else [result, judge_result]
    for bug in [bug for each in results for bug in each.bugs][:BUGS_SHOWN]:
        _log_lines([bug, "this is a bug in convbatch; the dialogue stays pending and what was received is kept"])
    if _is_gone(spec.folder):
        _log_lines(_lines_without_folder(spec, results))
        return worst(*(each.exit_code for each in results), ExitCode.JOURNAL)
    if result.error is not None:
        _log_error(_with_options(spec, result.error))
    # A closing terminal sends SIGHUP twice, and the second one must not cost the closing table.
    with _ignoring(signal.SIGHUP) if results[-1].reason == "interrupted" else nullcontext():
        code, remaining = _closing_table(spec, tables, as_json=as_json)
    # The table counts better than the session: a session that stopped early has not seen every finished row, and does
    # not notice when another program shortens the journal.
    if remaining is None:
        judged = judge_result is not None and judge_result.error is None
        remaining = Remaining(result.open_turns, unjudged=wants_judge(spec.manifest) and not judged)
    with _ignoring(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        _log_lines(_closing_lines(spec, results, remaining, next_line))
    is_open = remaining.open or remaining.unjudged
    if remaining.without_verdict and code != ExitCode.FAILED:  # a gate that failed did so whatever they are
        is_open = True
    return worst(*(each.exit_code for each in results), code, ExitCode.INCOMPLETE if is_open else ExitCode.OK)


def _run_with_tables(spec: SessionSpec, tables: TableMaker) -> SessionResult:
    if is_worth_it(spec):
        tables.start()
    return run_session(spec)


def _run_judge(spec: SessionSpec, result: SessionResult) -> SessionResult | None:
    """Ask the judge of a run about its replies; return None if there is nothing to ask or no judge."""
    if spec.rules.batch == "cancel":
        return None
    try:
        with naming_memory_errors():
            judge_spec = prepare_judging_after(spec, result)
            if judge_spec is None:
                return None
            _log_lines(judge_lines(judge_spec))
            judged = run_session(judge_spec)
    except KeyboardInterrupt:
        return SessionResult(exit_code=ExitCode.INTERRUPTED, reason="interrupted")
    except ConvbatchError as error:
        judged = judge_not_asked(error)
    if judged.error is not None:
        _log_lines(judge_error_lines(spec, judged.error))
    else:
        _log_lines(unused_judge_lines(judged))
    return judged


def judge_error_lines(spec: SessionSpec, error: ConvbatchError) -> list[str]:
    """Return the reason why the judge of a run was not asked about all its replies."""
    judge = spec.manifest.options.judge
    return [f"note: the judge {judge} could not be asked; the replies are kept", *_error_lines(error)]


@contextmanager
def _ignoring(*numbers: signal.Signals) -> Generator[None]:
    """Ignore these signals."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


class Remaining(NamedTuple):
    """Number of turns that a `resume` would ask."""

    open: int
    behind_errors: int = 0
    """Skipped because an earlier turn failed."""
    unjudged: bool = False
    """A reply has an `llm_rubric`, and the run's judge has not answered about it."""
    without_verdict: int = 0
    """Checks to which the run's judge has given an answer that is no verdict."""


def _closing_table(spec: SessionSpec, tables: TableMaker, *, as_json: bool) -> tuple[ExitCode, Remaining | None]:
    """Write `turns.parquet` and print a table with a row per target; return the exit code of that and what remains."""
    code, remaining = ExitCode.OK, None
    try:
        with naming_memory_errors():
            from convbatch.results.cache import is_fresh, write_turns
            from convbatch.results.run import load

            tables.finish()
            try:
                if not is_fresh(spec.folder):
                    write_turns(spec.folder)
            except JournalError as error:
                _log_error(_with_options(spec, error))
                _log_lines([REBUILT])
                code = worst(code, ExitCode.JOURNAL)
            run = load(spec.folder.path)
            totals = run.summary()
            remaining, notes = _remaining(run, totals, has_judge=wants_judge(spec.manifest))
            _print_closing_table(run, () if as_json else totals)
            _log_lines(notes)
            fail_under = spec.manifest.options.fail_under
            if fail_under is not None:
                quality_gate = _evaluate_gate(run, totals, fail_under)
                _log_lines(quality_gate.lines)
                code = worst(code, _GATE[quality_gate.passed])
            if any(total.error for total in totals):
                _log_lines(_failure_lines(run))
                if any(total.skipped for total in totals):
                    remaining = remaining._replace(behind_errors=_count_behind_errors(run))
    except KeyboardInterrupt:
        _log_lines(["interrupted while the table was written", REBUILT])
        code = worst(code, ExitCode.INTERRUPTED)
    except OSError as error:  # no space for the table, not even for a temporary one
        _log_lines([f"the closing table could not be made: {error.strerror}"])
        code = worst(code, ExitCode.JOURNAL)
    except ConvbatchError as error:  # another program changed the folder meanwhile, or memory is used up
        _log_error(error)
        code = worst(code, ExitCode.JOURNAL)
    return code, remaining


def _remaining(run: Run, totals: Sequence[TargetSummary], *, has_judge: bool) -> tuple[Remaining, list[str]]:
    """Count what is open, and return notes on the verdicts that the run's judge, if it has one, did not give."""
    from convbatch.results.missing_verdicts import missing_verdicts

    remaining = Remaining(sum(total.open for total in totals))
    if not has_judge:
        return remaining, []
    missing = missing_verdicts(run)
    remaining = remaining._replace(unjudged=bool(missing.open), without_verdict=missing.refused.total())
    return remaining, [f"note: {note}" for note in missing.notes(run.targets)]


def _print_closing_table(run: Run, totals: Sequence[TargetSummary]) -> None:
    """Print the table on stdout, if it has rows; a closed or full stdout does not change the result of the run."""
    if not totals:
        return
    from convbatch.cli import show
    from convbatch.results.judge_costs import judge_totals

    lines = [str(total) for total in judge_totals(run)]
    reuse = run.manifest.options.reuse
    if reuse is not None and not any(total.reused or total.pending for total in totals):
        lines.append(f"nothing was reused from {Path(reuse).name}: it has no reply to an identical request")
    try:
        show.print_summary(totals)
        show.print_lines(lines)
    except OSError as error:
        drop_output()
        if not isinstance(error, BrokenPipeError):
            _log_lines([f"the closing table could not be printed: {error.strerror}"])


def _failure_lines(run: Run) -> list[str]:
    """Return why turns failed, the most frequent reasons first, each with a message and a hint."""
    from convbatch.engine.suspension import way_out
    from convbatch.results.parquet import read_rows

    counts: Counter[tuple[str, str]] = Counter()
    messages: dict[tuple[str, str], str] = {}
    for status, target, kind, text in read_rows(run.turns_path, ("status", "target", "error_kind", "error_message")):
        if status == "error":
            counts[target, kind] += 1
            messages.setdefault((target, kind), " ".join((text or "").split()))
    lines: list[str] = []
    for (target, kind), count in counts.most_common(REASONS_SHOWN):
        message = messages[target, kind]
        lines.append(f"{target}: {count_of(count, 'turn')} failed, {kind}: {message[:160]}")
        if kind == "invalid_request" and (change := way_out(message)) is not None:
            lines.append(f"  hint: {change}")
    return [*lines, f"see them all: {read_line('show', run.folder, '--failed')}"]


def _count_behind_errors(run: Run) -> int:
    """Count turns skipped behind a failed one: they are not open, but `resume` asks them as well."""
    from convbatch.results.parquet import read_rows

    columns = ("dialogue_index", "target", "repeat", "status", "error_kind")
    failed: tuple[int, str, int] | None = None
    behind = 0
    for index, target, repeat, status, kind in read_rows(run.turns_path, columns):
        conversation = (index, target, repeat)
        if status == "error" and is_open(status, kind):
            failed = conversation
        behind += status == "skipped" and conversation == failed
    return behind


def _closing_lines(
    spec: SessionSpec, results: Sequence[SessionResult], remaining: Remaining, next_line: str | None
) -> list[str]:
    folder = _display_folder(spec.folder)
    result = results[-1]
    lines = [f"{target} is suspended: {reason}" for each in results for target, reason in each.suspended.items()]
    lines += [f"{target} gave no reply: {why}" for each in results for target, why in each.unanswered.items()]
    lines += open_job_lines(spec)
    lines.append(f"run folder: {folder}")
    questions = _open_questions(results, remaining)
    if remaining.open or questions:
        why = {"interrupted": "interrupted: ", "deadline": "deadline reached: ", "memory": "no memory left: "}.get(
            result.reason, ""
        )
        larger = larger_budget(result)
        if larger:
            why = f"budget reached ({result.budget}): "
        open_text = f"{why}{_open_text(spec, remaining, questions)}"
        if _needs_new_run(spec, results[0]):
            lines.append(f"{open_text}; resume cannot finish them: correct what is named above, then start anew with:")
            lines.append(f"  {rerun_line(spec)}")
        else:
            lines += [
                f"{open_text}; finish them with:",
                f"  {resume_line(spec, larger)}",
                *([] if next_line is None else ["and then:", f"  {next_line}"]),
            ]
    elif remaining.without_verdict:
        checks = count_of(remaining.without_verdict, "check")
        lines.append(f"{checks} without a verdict; to ask the judge again (paid again):")
        lines.append(f"  {ask_again_line(spec)}")
    else:
        wide = ["--wide", "reply"] if len(spec.targets) > 1 else []
        lines.append(f"next: {next_line or read_line('table', spec.folder, *wide)}")
    return lines


def _is_gone(folder: RunFolder) -> bool:
    try:
        (folder.path / MANIFEST_NAME).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _lines_without_folder(spec: SessionSpec, results: Sequence[SessionResult]) -> list[str]:
    """Return what is left to say when the run folder was moved or deleted during the run."""
    error = results[0].error
    problems = () if error is None else error.problems
    what = [f"error: {replace(problem, hint=None)}" for problem in problems]
    done = results[0].rows - results[0].open_turns
    lost = f"if it was deleted, the replies to {count_of(done, 'turn')} are lost, though billed"
    again = run_line(spec)
    return [
        *(what or [f"error: {shell_quote(absolute(spec.folder.path))} is gone"]),
        "the run folder was moved or deleted: put it back, or use its new path with `convbatch resume`",
        *([lost] if again is None else [f"{lost}; start anew with:", f"  {again}"]),
    ]


def _needs_new_run(spec: SessionSpec, result: SessionResult) -> bool:
    """Return whether no target can be asked again in this run, because its address or a setting is wrong."""
    reasons = result.suspended.values()
    return len(reasons) == len(spec.targets) and all(f"then {NEW_RUN}" in reason for reason in reasons)


def _open_questions(results: Sequence[SessionResult], remaining: Remaining) -> str:
    """Return how many questions to the judge are open; without a number if no session counted them."""
    count = results[-1].open_turns if len(results) > 1 else 0
    if count:
        return f"{count_of(count, 'question')} to the judge {be_verb(count)} open"
    return "the questions to the judge are open" if remaining.unjudged else ""


def _open_text(spec: SessionSpec, remaining: Remaining, questions: str) -> str:
    if not remaining.open:
        return questions
    also = f" and {remaining.behind_errors} more skipped behind failed ones" if remaining.behind_errors else ""
    rows = count_of(spec.manifest.planned.rows, "turn")
    return f"{remaining.open} of {rows} {be_verb(remaining.open)} open{also}" + (
        f", and {questions}" if questions else ""
    )


def _with_options(spec: SessionSpec, error: ConvbatchError) -> ConvbatchError:
    """Return an error whose hint has the `resume` command with the options of this run."""
    return with_resume_line(error, spec.folder.path, resume_line(spec))


def _display_folder(folder: RunFolder) -> str:
    return shell_quote(folder.path)


def _log_lines(lines: Sequence[str]) -> None:
    for line in lines:
        log_note(line)


def _log_error(error: ConvbatchError) -> None:
    _log_lines(_error_lines(error))


def _error_lines(error: ConvbatchError) -> list[str]:
    return [f"error: {problem}" for problem in error.problems]
