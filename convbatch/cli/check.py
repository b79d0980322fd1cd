"""`convbatch check`: judge stored replies again, by the run's own checks or by those of an edited dataset.

Requests are sent only to a judge that `--judge` names. Edited checks are stored in the run folder, beside the dataset,
so that every later reader judges by them. Verdicts are computed in `results/verdicts.py` and `checks/builtin.py`.
"""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import orjson

from convbatch.cli import show
from convbatch.cli.options import read_filters
from convbatch.cli.plan_text import be_verb, judge_lines, unused_judge_lines
from convbatch.config.loader import CONFIG_NAME
from convbatch.console.text import ignoring_broken_pipe, log_note
from convbatch.dataset.jsonl import encode_json_line
from convbatch.dataset.reader import Problems, Reader, count_of
from convbatch.dataset.snapshot import read_copy
from convbatch.dialogue import Dialogue
from convbatch.errors import ConvbatchError, InputError, JournalError, Place, Problem, SetupError
from convbatch.exit_codes import ExitCode, worst
from convbatch.journal.run_folder import RunFolder, find_run, shell_quote
from convbatch.results.cache import write_turns
from convbatch.results.filters import Matcher
from convbatch.results.gate_report import GateReport, check_outputs, failure_text, to_value, write_reports
from convbatch.results.judge_costs import judge_totals
from convbatch.results.missing_verdicts import MissingVerdicts, missing_verdicts
from convbatch.results.quality_gate import QualityGate, evaluate_gate, parse_pass_rate
from convbatch.results.run import RESULTS, Run
from convbatch.results.summary import TargetSummary
from convbatch.results.verdict_counts import VerdictCounts, count_verdicts, failed_checks
from convbatch.session.judge import prepare_judging
from convbatch.session.next_command import command_line, larger_budget, with_resume_line
from convbatch.session.options import CheckOptions, ResumeOptions, given_options, read_given
from convbatch.session.session import run_session
from convbatch.session.spec import SessionResult, SessionSpec

FAILURES_SHOWN = 100
PLACES_SHOWN = 20


def run_check(options: CheckOptions) -> ExitCode:
    """Judge the replies of a run again; print a line per target and every failed check.

    Returns:
        The exit code, the worst of: that of the judge's session; 3 with an open or failed turn, a verdict that the
        judge of the run did not give, or an undecided quality gate; 1 for a quality gate that failed; else 0.

    Raises:
        InputError: The edited dataset is not well formed, or not of the same dialogues.
        SetupError: There is nothing to judge.
    """
    check_outputs(options.out, parse_pass_rate(options.fail_under))  # before anything is sent
    if options.ask_again and options.judge is None:
        raise SetupError("--ask-again needs a judge to ask", hint="add --judge MODEL@GATEWAY")
    filters = read_filters(options)
    if filters and options.fail_under is not None:
        raise SetupError(f"--fail-under with {filters}", hint="a gate is of the whole run: leave out the filters")
    folder = RunFolder.open(find_run(options.run, RESULTS))
    # Prepared before the edited checks are stored: a judge that cannot be asked leaves the run folder as it was.
    spec = None if options.judge is None else prepare_judging(folder, options.judge, options)
    if options.datasets:
        store_edited_checks(folder, options.datasets)
    # The run folder stores the edited checks and the budget: the next command need not repeat them.
    again = replace(
        options,
        run=str(folder.path),
        datasets=(),
        max_cost=None,
        max_tokens_total=None,
        max_requests=None,
        config=options.config or (Path(CONFIG_NAME) if Path(CONFIG_NAME).exists() else None),
        env_file=options.env_file if spec is None else spec.credentials.env_file,
    )
    if spec is None:
        return _print_verdicts(folder, again)
    result = _run_judge(spec, command_line("check", again))
    code, interrupted = result.exit_code, result.reason == "interrupted"
    try:
        code = worst(code, _print_verdicts(folder, again, code))
    except (ConvbatchError, OSError) as error:  # calls were paid for: their result is printed in any case
        log_note(f"error: the verdicts cannot be shown: {error}")
        code = worst(code, ExitCode.INCOMPLETE)
    except KeyboardInterrupt:
        code, interrupted = worst(code, ExitCode.INTERRUPTED), True
    _log_what_is_open(result, again, interrupted=interrupted)
    return code


def _print_verdicts(folder: RunFolder, again: CheckOptions, code: ExitCode = ExitCode.OK) -> ExitCode:
    """Write the tables of a run, print its verdicts, return the exit code.

    Args:
        folder: The run.
        again: The options; also for commands to print.
        code: Exit code of the judge's session; the result is the worst of it and that of the verdicts.
    """
    try:
        write_turns(folder)
    except JournalError:
        log_note("note: the run folder cannot be written; the verdicts are not stored")
    run = Run(folder)
    totals = run.summary()
    matcher = Matcher(read_filters(again))
    chosen = matcher.summary(run)
    matcher.require_match()
    counts = count_verdicts(run, matcher.filters)
    if not counts:
        if matcher.filters:
            raise SetupError(f"no turn that matches {matcher.filters} has a check", hint="leave out a filter")
        hint = "add checks to the dataset, then: convbatch check RUN --dataset FILE"
        raise SetupError(f"{shell_quote(folder.path)} has no checks to judge", hint=hint)
    missing = missing_verdicts(run)
    lacks_verdicts = _lacks_verdicts(run, missing)
    fail_under = parse_pass_rate(again.fail_under)
    gate = None if fail_under is None else evaluate_gate(totals, fail_under, lacks_verdicts=lacks_verdicts)
    code = worst(code, _exit_code(totals, gate, lacks_verdicts=lacks_verdicts))
    report = GateReport(
        command="check",
        run=run,
        totals=chosen,
        exit_code=code,
        fail_under=fail_under,
        lines=() if gate is None else gate.lines,
        filters=matcher.filters,
    )
    try:
        write_reports(report, again.out)
    finally:
        if again.as_json:
            show.print_json(to_value(report))
        else:
            with ignoring_broken_pipe():
                _print(report, counts)
    for note in _notes(totals, counts):
        log_note(note)
    _log_gate(again, run, totals, report.lines)
    _log_missing(run, missing, again)
    for note in show.state_notes(run):
        log_note(note)
    return code


def _run_judge(spec: SessionSpec, command: str) -> SessionResult:
    for line in judge_lines(spec):
        log_note(line)
    try:
        result = run_session(spec)
    except JournalError as error:
        # `resume` asks no judge that the run was not started with.
        raise with_resume_line(error, spec.folder.path, command) from error
    except KeyboardInterrupt:  # before the first request or after the last reply; in between the session handles it
        return SessionResult(exit_code=ExitCode.INTERRUPTED, reason="interrupted")
    if isinstance(result.error, JournalError):
        result = replace(result, error=with_resume_line(result.error, spec.folder.path, command))
    for line in () if result.error else unused_judge_lines(result):
        log_note(line)
    return result


def _log_what_is_open(result: SessionResult, again: CheckOptions, *, interrupted: bool) -> None:
    """Print what went wrong with the judge, how many questions are open, and the command that asks them."""
    for bug in result.bugs[:3]:
        log_note(bug)
        log_note("this is a bug in convbatch; the question stays open and what was received is kept")
    for problem in () if result.error is None else result.error.problems:
        log_note(f"error: {problem}")
    for target, reason in result.suspended.items():
        log_note(f"{target} is suspended: {reason}")
    if result.open_turns:
        whys = {
            "interrupted": "interrupted: ",
            "deadline": "deadline reached: ",
            "budget": f"budget reached ({result.budget}): ",
        }
        why = whys.get(result.reason, "")
        questions = f"{count_of(result.open_turns, 'question')} to the judge {be_verb(result.open_turns)} open"
        _log_next(f"{why}{questions}; continue with:", replace(again, **larger_budget(result)))
    elif interrupted:
        _log_next("interrupted; see the verdicts with:", again)


def _log_next(line: str, options: CheckOptions) -> None:
    log_note(line)
    log_note(f"  {command_line('check', options)}")


def _lacks_verdicts(run: Run, missing: MissingVerdicts) -> bool:
    """Return whether a judge has left verdicts open; without a judge nobody expects them."""
    return run.manifest.current_judge is not None and bool(missing.open or missing.refused)


def _log_missing(run: Run, missing: MissingVerdicts, again: CheckOptions) -> None:
    """Print the command that asks the judge of the run about the verdicts that it has not given."""
    judge = run.manifest.current_judge
    if judge is None:
        return
    asking = replace(again, judge=judge.name)
    if missing.refused:
        checks = count_of(missing.refused.total(), "check")
        _log_next(f"{checks} without a verdict; to ask the judge again (paid again):", replace(asking, ask_again=True))
    elif missing.open and again.judge is None:
        _log_next(f"{count_of(missing.open.total(), 'check')} without a verdict; to ask the judge:", asking)


def _exit_code(totals: Sequence[TargetSummary], gate: QualityGate | None, *, lacks_verdicts: bool) -> ExitCode:
    if any(total.open for total in totals) or (gate is not None and gate.passed is None):
        return ExitCode.INCOMPLETE
    if gate is not None and not gate.passed:
        return ExitCode.FAILED  # whatever the missing verdicts are
    return ExitCode.INCOMPLETE if lacks_verdicts else ExitCode.OK


def _log_gate(options: CheckOptions, run: Run, totals: Sequence[TargetSummary], lines: Sequence[str]) -> None:
    for line in lines:
        log_note(line)
    if any(total.open for total in totals):
        resume = read_given(ResumeOptions, given_options(options), run=str(run.path))
        command = command_line("resume", replace(resume, out=(), as_json=False))
        log_note(f"the run is incomplete: a turn is pending or failed; it is continued by: {command}")


# Edited checks


def store_edited_checks(folder: RunFolder, datasets: Sequence[Path]) -> None:
    """Store the checks of an edited dataset in the run folder; its dialogues must otherwise be the same.

    Raises:
        InputError: The files are not well formed, or a dialogue of the run is missing or differs in them.
        JournalError: The folder cannot be written.
    """
    with closing(sqlite3.connect("", isolation_level=None)) as edited:  # moves to a temporary file when it is large
        _store(edited, datasets)
        differing = Problems()
        count = 0
        with folder.replacing(folder.checks.name) as file, gzip.GzipFile("", "wb", 1, file, mtime=0) as copy:
            for _, dialogue in read_copy(folder.dataset):
                line, problem = _counterpart(edited, dialogue)
                copy.write(line)
                if problem is not None:
                    count += 1
                    if count <= PLACES_SHOWN:
                        differing.add(problem)
            if count:
                raise InputError.of([*differing.kept, _refusal(count)])


def _refusal(count: int) -> Problem:
    return Problem(
        what=f"{count_of(count, 'dialogue')} of the run differ from the edited dataset; its checks are not used",
        hint="only checks and scripted replies may differ; for other changes: convbatch run NEW.jsonl --reuse RUN",
    )


def _store(edited: sqlite3.Connection, datasets: Sequence[Path]) -> None:
    edited.execute("CREATE TABLE dialogues (id BLOB PRIMARY KEY, path TEXT, number INTEGER, line BLOB)")
    edited.execute("BEGIN")
    problems = Problems()
    for item in Reader(datasets):
        if isinstance(item, Problem):
            problems.add(item)
        else:
            row = (
                encode_json_line(item.dialogue.id),
                item.place.path,
                item.place.line,
                encode_json_line(item.dialogue.to_plain()),
            )
            edited.execute("INSERT OR REPLACE INTO dialogues VALUES (?, ?, ?, ?)", row)
    problems.raise_any()
    edited.execute("COMMIT")


def _counterpart(edited: sqlite3.Connection, dialogue: Dialogue) -> tuple[bytes, Problem | None]:
    """Return the line of the same dialogue in the edited dataset, or the problem that prevents its use."""
    query = "SELECT path, number, line FROM dialogues WHERE id = ?"
    row = edited.execute(query, (encode_json_line(dialogue.id),)).fetchone()
    if row is None:
        hint = 'dialogues are matched by "id"; without one a dialogue is called FILE:LINE'
        return b"", Problem(what=f"no dialogue has the id {dialogue.id!r}", hint=hint)
    path, number, line = row
    difference = _difference(dialogue, Dialogue.from_plain(orjson.loads(line)))
    if difference is None:
        return line, None
    return b"", Problem(what=f"dialogue {dialogue.id!r}: {difference}", place=Place(path=path, line=number))


def _difference(asked: Dialogue, edited: Dialogue) -> str | None:
    """Return the first difference in what is asked; checks, scripted replies, tags and the like may change."""
    if asked.system != edited.system:
        return "the system text differs"
    if asked.tools != edited.tools:
        return '"tools" differ'
    if asked.tool_results != edited.tool_results:
        return '"tool_results" differ'
    if len(asked.turns) != len(edited.turns):
        return f"{count_of(len(asked.turns), 'turn')} in the run, {len(edited.turns)} here"
    for number, (before, after) in enumerate(zip(asked.turns, edited.turns, strict=True), 1):
        if before.user != after.user:
            return f'turn {number}: "user" differs'
        if before.ask != after.ask:
            return f'turn {number}: "ask" was {str(before.ask).lower()}'
    return None


# Output


def _print(report: GateReport, counts: dict[str, VerdictCounts]) -> None:
    headings = ("target", "dialogues passed", "checks passed", "failed", "no verdict", "score")
    rows: list[tuple[str, ...]] = []
    for total in report.totals:
        count = counts.get(total.target, VerdictCounts())
        share = f" ({100 * total.passed / total.judged:.1f} %)" if total.judged else ""
        score = "–" if count.score is None else f"{count.score:.3f}"
        figures = (f"{count.passed:,}", f"{count.failed:,}", f"{count.open:,}", score)
        rows.append((total.target, f"{total.passed:,}/{total.judged:,}{share}", *figures))
    show.print_figures(headings, rows)
    if report.filters:
        show.print_lines([f"only what matches {report.filters}; the exit code is of the whole run"])
    show.print_lines([str(total) for total in judge_totals(report.run)])
    show.print_lines(list(_failures(report, sum(count.failed for count in counts.values()))))


def _failures(report: GateReport, failed: int) -> Iterator[str]:
    """Yield a line per failed check, in the order of the table, with its reason."""
    run = report.run
    for shown, check in enumerate(failed_checks(run, report.filters)):
        if shown == FAILURES_SHOWN:
            yield f"and {failed - shown:,} more: the frame `verdicts` of convbatch.load({str(run.path)!r})"
            return
        yield f"failed: {failure_text(check, run)}"


def _notes(totals: Sequence[TargetSummary], counts: dict[str, VerdictCounts]) -> Iterator[str]:
    for target, count in counts.items():
        for reason, number in count.reasons.items():
            yield f"note: {target}: {count_of(number, 'check')} without a verdict: {reason}"
        if count.errors:
            verb = "counts" if count.errors == 1 else "count"
            yield f"note: {target}: {count_of(count.errors, 'check')} could not run and {verb} as failed"
    simulated = [total.target for total in totals if total.simulated]
    if simulated:
        yield f"SIMULATED, no model was asked: {', '.join(simulated)}"
