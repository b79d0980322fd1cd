"""What a person sees before and after a sitting: the plan, the closing table, the exact next command, the exit code.

The sitting itself is `session/session.py`. The plan and all notes go to stderr, the closing table to stdout.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from convbatch.checks.builtin import missing_checks
from convbatch.config.gateways import Target, in_flight
from convbatch.console.text import drop_output, say
from convbatch.dataset.reader import count_of
from convbatch.errors import ConvbatchError, JournalError
from convbatch.exit_codes import ExitCode, worst
from convbatch.journal.run_folder import RunFolder, typed
from convbatch.results.quality_gate import gate_of
from convbatch.session.judge import judge_not_asked, judging_after
from convbatch.session.prepare import ResumeOptions, RunOptions, changed_sources, for_resume, for_run
from convbatch.session.session import Ending, Sitting, play

if TYPE_CHECKING:
    from convbatch.config.gateways import Limits
    from convbatch.engine.runner import Rules
    from convbatch.pricing import Money
    from convbatch.results.run import Run

REASONS_SHOWN = 3
_GATE = {True: ExitCode.OK, False: ExitCode.FAILED, None: ExitCode.INCOMPLETE}


def start(options: RunOptions) -> ExitCode:
    """`convbatch run`: the exit code."""
    sitting = for_run(options)
    _say([*plan_lines(sitting, options), f"  folder: {_shown(sitting.folder)}"])
    return _finish(sitting)


def go_on(options: ResumeOptions) -> ExitCode:
    """`convbatch resume`: the exit code."""
    sitting = for_resume(options)
    head = f"resuming {_shown(sitting.folder)}: {count_of(sitting.meta['planned']['rows'], 'row')} in all"
    _say([head, *_way_lines(sitting, options.from_environment)])
    for path in changed_sources(sitting.meta):
        _say(
            [
                f"note: {path} has changed since this run copied it; the run goes on with its copy",
                f"      for the new content: convbatch run {typed(Path(path))} --reuse {_shown(sitting.folder)}",
            ]
        )
    return _finish(sitting)


def _finish(sitting: Sitting) -> ExitCode:
    """Play a sitting and its judge, print what came of it; return the exit code.

    Once `play` has returned, replies may have been paid for: whatever goes wrong from then on is printed beside the
    tables and never instead of them.
    """
    try:
        ending = play(sitting)
    except JournalError as error:  # nothing was sent
        _complain(error)
        return ExitCode.JOURNAL
    except KeyboardInterrupt:  # before the first request or after the last reply: between them it is the runner's
        _say(["interrupted; what is open can be finished with:", f"  convbatch resume {_shown(sitting.folder)}"])
        return ExitCode.INTERRUPTED
    judging = _judged(sitting, ending)
    endings = [ending] if judging is None else [ending, judging]
    for bug in [bug for one in endings for bug in one.bugs][:3]:
        _say([bug, "this is a bug in convbatch; the dialogue stays pending and what was received is kept"])
    if ending.error is not None:
        _complain(ending.error)
    with _no_hangup() if endings[-1].reason == "interrupted" else nullcontext():
        code, left = _closing_table(sitting)
    # The sitting counts the rows it came to see; one that was stopped early has not come to see all that are finished,
    # and of a journal that somebody else has shortened it does not know.
    left = left or Left(ending.open_turns, 0)
    _say(_last_words(sitting, endings, left))
    return worst(*(one.exit_code for one in endings), code, ExitCode.INCOMPLETE if left.open else ExitCode.OK)


def _judged(sitting: Sitting, ending: Ending) -> Ending | None:
    """Ask the judge of a run about its replies; None where there is none to ask."""
    try:
        judging = judging_after(sitting, ending)
        if judging is None:
            return None
        _say(judge_lines(judging))
        judged = play(judging)
    except KeyboardInterrupt:
        return Ending(exit_code=ExitCode.INTERRUPTED, reason="interrupted")
    except ConvbatchError as error:
        judged = judge_not_asked(error)
    if judged.error is not None:
        _say(judge_error_lines(sitting, judged.error))
    else:
        _say(unasked_lines(judged))
    return judged


def judge_error_lines(sitting: Sitting, error: ConvbatchError) -> list[str]:
    """What kept the judge of a run from being asked about all its replies."""
    judge = sitting.meta["options"].get("judge")
    return [f"note: the judge {judge} could not be asked; the replies are kept", *_complaints(error)]


def unasked_lines(ending: Ending) -> list[str]:
    """What is said where a judge was named for nothing."""
    return [] if ending.rows else ["note: the judge has nothing to judge: no reply that came has an llm_rubric check"]


def judge_lines(judging: Sitting) -> list[str]:
    """Who is asked for an opinion, and where."""
    judge = judging.targets[0]
    lines = [f"asking the judge {judge.name} about replies with an llm_rubric", f"  {_target_line(judge, judging)}"]
    if judging.max_cost is not None:
        lines.append(f"  at most {judging.max_cost} in all, what the run has spent included")
    return lines


@contextmanager
def _no_hangup() -> Generator[None]:
    """A terminal that closes says so twice; the second time shall not cost the table."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before or signal.SIG_DFL)


class Left(NamedTuple):
    """What a `resume` would ask."""

    open: int
    behind_errors: int
    """Skipped because an earlier turn failed."""


def _closing_table(sitting: Sitting) -> tuple[ExitCode, Left | None]:
    """Write `turns.parquet` and print the table a target; the exit code of that, and what is left to ask."""
    from convbatch.cli import show
    from convbatch.results.judge_costs import judge_totals
    from convbatch.results.run import load, write_turns

    code, left = ExitCode.OK, None
    try:
        try:
            write_turns(sitting.folder)
        except JournalError as error:
            _complain(error)
            _say(["the journal is whole: any reader rebuilds the table from it"])
            code = worst(code, ExitCode.JOURNAL)
        run = load(sitting.folder.path)
        totals = run.summary()
        left = Left(sum(total.pending + total.error for total in totals), 0)
        show.summary(totals)
        show.lines([str(total) for total in judge_totals(run)])
        fail_under = sitting.meta["options"].get("fail_under")
        if fail_under is not None:
            gate = gate_of(totals, fail_under)
            _say(gate.lines)
            code = worst(code, _GATE[gate.passed])
        if any(total.error for total in totals):
            _say(_failure_lines(run))
            if any(total.skipped for total in totals):
                left = left._replace(behind_errors=_behind_errors(run))
    except KeyboardInterrupt:
        _say(["interrupted while the table was written; the journal is whole: any reader rebuilds the table from it"])
        code = worst(code, ExitCode.INTERRUPTED)
    except OSError as error:
        drop_output()
        if not isinstance(error, BrokenPipeError):
            _say([f"the closing table could not be printed: {error.strerror}"])
    except ConvbatchError as error:  # somebody else was at the folder meanwhile
        _complain(error)
        code = worst(code, ExitCode.JOURNAL)
    return code, left


def _failure_lines(run: Run) -> list[str]:
    """Why turns failed, the commonest reasons first, each in the words of one of its turns."""
    from convbatch.results.run import read_rows

    counts: Counter[tuple[str, str]] = Counter()
    words: dict[tuple[str, str], str] = {}
    for status, target, kind, text in read_rows(run.turns_path, ("status", "target", "error_kind", "error_message")):
        if status == "error":
            counts[target, kind] += 1
            words.setdefault((target, kind), " ".join((text or "").split())[:160])
    common = [(target, kind, count) for (target, kind), count in counts.most_common(REASONS_SHOWN)]
    lines = [f"{target}: {count_of(n, 'turn')} failed, {kind}: {words[target, kind]}" for target, kind, n in common]
    return [*lines, f"see them all: convbatch show {_shown(run.folder)} --failed"]


def _behind_errors(run: Run) -> int:
    """Turns skipped behind a failed one: they are not open, but `resume` asks them, too."""
    from convbatch.results.run import read_rows

    rows = read_rows(run.turns_path, ("status", "error_message"))
    return sum(status == "skipped" and (reason or "").endswith(" ended error") for status, reason in rows)


class Planned(Protocol):
    """A sitting, or one that only stands on paper."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """What stands in `run.json`."""
        ...

    @property
    def targets(self) -> tuple[Target, ...]:
        """Who is asked."""
        ...

    @property
    def max_cost(self) -> Money | None:
        """The cap on what it may cost."""
        ...

    @property
    def rules(self) -> Rules:
        """How it is played."""
        ...


def plan_lines(planned: Planned, options: RunOptions) -> list[str]:
    """The plan as a person reads it before anything is sent."""
    meta = planned.meta
    dataset = meta["dataset"]
    repeats = f" x {meta['repeats']} repeats" if meta["repeats"] > 1 else ""
    asked = f"{count_of(dataset['dialogues'], 'dialogue')}, {count_of(dataset['asked_turns'], 'turn')}"
    targets = count_of(len(planned.targets), "target")
    rows = count_of(meta["planned"]["rows"], "row")
    lines = [f"{asked} x {targets}{repeats} = {rows}; history {meta['history']}"]
    lines += _way_lines(planned, options.from_environment)
    if meta["config"] is None and not options.models:
        lines.append("  no -m and no convbatch.toml: asking the built-in SIMULATOR, nothing is sent anywhere")
    if meta["checks"]:
        lines.append(f"  {count_of(meta['checks'], 'check')} to judge")
    if meta.get("judges_needed"):
        judge = meta["options"]["judge"]
        lines.append(
            f"  {meta['judges_needed']} of them are an llm_rubric"
            + (", and get no verdict without a --judge" if judge is None else f", for the judge {judge}")
        )
    lines += [f"  {note}" for note in missing_checks(meta.get("python_checks", ()))]
    return lines


def _way_lines(sitting: Planned, from_environment: Sequence[str]) -> list[str]:
    """Where requests go, under which limits, and what the environment had to say."""
    lines = [f"  {target.name}: {_target_line(target, sitting)}" for target in sitting.targets]
    for target in sitting.targets:
        if target.gateway.base_url.startswith("http://") and target.gateway.allow_http:
            lines.append(f"  {target.gateway.name}: plain http (allow_http), key and text travel unencrypted")
    if sitting.max_cost is not None:
        lines.append(f"  at most {sitting.max_cost} in all: the worst case of a call is set aside before it leaves")
    if from_environment:
        lines.append(f"  options from the environment: {', '.join(from_environment)}")
    return lines


def _target_line(target: Target, sitting: Planned) -> str:
    gateway = target.gateway
    parts = ["SIMULATED" if target.simulated else f"{gateway.protocol} at {gateway.base_url}"]
    parts.append(f"up to {in_flight(gateway.limits, sitting.rules.concurrency)} in flight")
    parts.append(_limits_text(gateway.limits) or "no rate configured (slow start)")
    return ", ".join(parts)


def _limits_text(limits: Limits) -> str:
    named = (("rpm", limits.rpm), ("tpm", limits.tpm), ("rpd", limits.rpd))
    parts = [f"{name} {value}" for name, value in named if value is not None]
    parts += [f"{rate.count}/{rate.window_s:g}s" for rate in limits.rates]
    return ", ".join(parts)


def _last_words(sitting: Sitting, endings: Sequence[Ending], left: Left) -> list[str]:
    shown = _shown(sitting.folder)
    ending = endings[-1]
    lines = [f"{target} is parked: {reason}" for one in endings for target, reason in one.parked.items()]
    lines.append(f"run folder: {shown}")
    questions = _open_questions(ending) if len(endings) > 1 else ""
    if left.open or questions:
        why = {"interrupted": "interrupted: ", "deadline": "deadline reached: "}.get(ending.reason, "")
        more = ""
        if ending.reason == "budget" and ending.larger_budget is not None:
            why = f"budget reached ({ending.budget}): "
            more = f" --max-cost {ending.larger_budget.amount:f}{ending.larger_budget.currency}"
        lines.append(f"{why}{_what_is_open(sitting, left, questions)}; finish them with:")
        lines.append(f"  convbatch resume {shown}{more}")
    else:
        several = len(sitting.targets) > 1
        lines.append(f"next: convbatch table {shown}{' --wide reply' if several else ''}")
    return lines


def _open_questions(judged: Ending) -> str:
    if judged.error is not None and not judged.rows:  # not asked, hence not counted
        return "the questions to the judge are open"
    count = judged.open_turns
    return f"{count_of(count, 'question')} to the judge {are(count)} open" if count else ""


def _what_is_open(sitting: Sitting, left: Left, questions: str) -> str:
    if not left.open:
        return questions
    also = f" and {left.behind_errors} more skipped behind failed ones" if left.behind_errors else ""
    rows = count_of(sitting.meta["planned"]["rows"], "turn")
    return f"{left.open} of {rows} {are(left.open)} open{also}" + (f", and {questions}" if questions else "")


def are(count: int) -> str:
    """The verb for so many."""
    return "is" if count == 1 else "are"


def _shown(folder: RunFolder) -> str:
    return typed(folder.path)


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        say(line)


def _complain(error: ConvbatchError) -> None:
    _say(_complaints(error))


def _complaints(error: ConvbatchError) -> list[str]:
    return [f"error: {problem}" for problem in error.problems]
