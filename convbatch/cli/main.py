"""The commands: parse, call one function, print; and the process around them: streams, signals, exit codes.

Heavy modules (pandas, pyarrow, aiohttp, pydantic) are imported inside the command that needs them, so that `--help` is
as fast as that of a bare Typer app.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec, TextIO, TypeVar, cast

import typer

from convbatch.cli.commands.arguments import RunArgument, RunArguments
from convbatch.cli.commands.audit import audit
from convbatch.cli.commands.compare import compare
from convbatch.cli.commands.diff import diff
from convbatch.cli.commands.prefer import prefer
from convbatch.cli.commands.ranking import judge_check, rank
from convbatch.cli.commands.report import report
from convbatch.cli.commands.runs import runs
from convbatch.cli.commands.simulate import simulate
from convbatch.cli.commands.start import init, schema
from convbatch.cli.options import (
    App,
    Command,
    Commands,
    completing,
    read_filters,
    takes,
    takes_filters,
)
from convbatch.errors import (
    ConvbatchError,
    NotEnoughMemory,
    SetupError,
    is_out_of_memory,
    one_cause_once,
)
from convbatch.exit_codes import ExitCode

if TYPE_CHECKING:
    from convbatch.results.run import Run
    from convbatch.session.options import (
        CancelOptions,
        CheckOptions,
        DoctorOptions,
        FilterOptions,
        ResumeOptions,
        RunOptions,
    )

P = ParamSpec("P")
R = TypeVar("R")

TERMINATION_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SampleBy(StrEnum):
    """What the dialogues of a stratum have in common."""

    TAG = "tag"
    LENGTH = "length"


app = App(
    name="convbatch",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its locals would show keys
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help=(
        "Replay scripted multi-turn dialogues against language models and collect the replies.\n\n"
        "Try it without a key, against the built-in simulator:\n\n"
        "    convbatch run datasets/quickstart.jsonl\n\n"
        "then look at the replies: convbatch table latest --wide reply"
    ),
)


def main() -> None:
    """Run the command line and exit with its code; called by `__main__.py`."""
    _repair_std_streams()
    _install_signal_handlers()
    try:
        if "_CONVBATCH_COMPLETE" in os.environ:
            from convbatch.cli.completion import whole_words_for_bash

            with whole_words_for_bash():
                app(prog_name="convbatch")
        app()
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)  # a second Ctrl-C while the first one was being handled
    except SystemExit as end:
        for number in TERMINATION_SIGNALS:  # everything is printed: a late signal must not change the exit code
            signal.signal(number, signal.SIG_IGN)
        # Small outputs are flushed only now, and Python would turn a failure here into an exit code of its own.
        try:
            sys.stdout.flush()
        except OSError as error:
            sys.exit(end.code or _report_error(error))
        raise
    except Exception as error:  # noqa: BLE001  # outside every command: help and usage
        sys.exit(_report_error(error))


def _repair_std_streams() -> None:
    """Make the three standard streams usable; must be called before any file is opened.

    A closed stream (`>&-`) becomes /dev/null: otherwise the next file opened, perhaps the journal, would get its number
    and receive the output. A character that the locale cannot encode (GBK, ASCII) is escaped instead of raising.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115  # for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    from convbatch.console.text import RedactingStream

    sys.stderr = cast("TextIO", RedactingStream(sys.stderr))


def _install_signal_handlers() -> None:
    """Make SIGTERM and SIGHUP end the program as Ctrl-C does, so that temporary files are removed.

    While requests are in flight the session has its own handlers. A signal that is ignored (`nohup`) stays ignored.
    """
    for number in TERMINATION_SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn exceptions into exit codes: `ConvbatchError` without a traceback, a bug with one and exit 70."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            _log_text(_INTERRUPTED)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except Exception as error:  # noqa: BLE001  # the edge of the process: an unexpected exception is a bug
            raise typer.Exit(_report_error(error)) from None

    return run


_DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


_INTERRUPTED = "convbatch: interrupted"


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether Ctrl-C caused an exception: Python 3.11 and C extensions wrap it if it comes during an import."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def _report_error(error: Exception) -> ExitCode:
    """Print what went wrong; return the exit code."""
    if _is_interrupt(error):
        _log_text(_INTERRUPTED)
        return ExitCode.INTERRUPTED
    if is_out_of_memory(error):
        error = NotEnoughMemory(error)
    if isinstance(error, ConvbatchError):
        for problem in one_cause_once(error.problems):
            _log_text(f"error: {problem}")
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        _drop_output()  # the reader of our output has exited (`convbatch table … | head`): not an error
        return ExitCode.OK
    if isinstance(error, OSError) and error.errno in _DISK_FULL_ERRNOS and error.filename is None:
        _drop_output()
        _log_text(
            f"error: cannot write the output: {error.strerror}\n  hint: free some space, or send the output elsewhere"
        )
        return ExitCode.SETUP
    import traceback

    _log_text("".join(traceback.format_exception(error)).rstrip())
    _log_text("convbatch: this is a bug in convbatch; what was received is in the run folder")
    return ExitCode.BUG


def _log_text(text: str) -> None:
    from convbatch.console.text import log_note

    log_note(text)


def _drop_output() -> None:
    from convbatch.console.text import drop_output

    drop_output()


Datasets = Annotated[
    list[Path], typer.Argument(help="JSONL files of dialogues, plain or .gz.", metavar="DATASET", readable=False)
]


def _version(value: bool) -> None:
    if value:
        from convbatch._version import __version__

        print(f"convbatch {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


app.command(cls=Command)(guarded(init))


@app.command(name="run", cls=Command)
@guarded
@takes("RunOptions")
def run_command(options: RunOptions) -> ExitCode:
    """Replay dialogues, turn by turn, against one or more models.

    Example: convbatch run datasets/quickstart.jsonl -m gemini-3.5-flash-lite -g google -g dmxapi --rpm 60
    """
    if options.dry_run:
        if options.watch:
            raise SetupError("--watch with --dry-run: there is nothing to watch", hint="leave one out")
        from convbatch.cli.dry_run import print_dry_run

        return print_dry_run(options)
    from convbatch.cli.run import run

    return run(options)


@app.command(name="resume", cls=Command)
@guarded
@takes("ResumeOptions")
def resume_command(options: ResumeOptions) -> ExitCode:
    """Finish an interrupted or partly failed run; nothing finished is asked again.

    Example: convbatch resume latest
    """
    from convbatch.cli.run import resume

    return resume(options)


@app.command(name="cancel", cls=Command)
@guarded
@takes("CancelOptions")
def cancel_command(options: CancelOptions) -> ExitCode:
    """Cancel the open batch jobs of a run, and keep what had been run by then; `resume` asks the rest.

    Example: convbatch cancel latest
    """
    from convbatch.cli.cancel import cancel

    return cancel(options)


@app.command(cls=Command)
@guarded
def validate(
    dataset: Datasets,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object: counts and every problem.")] = False,
) -> None:
    """Check dataset files; print every problem with its place and a fix. Exit 2 if there is any.

    Example: convbatch validate datasets/quickstart.jsonl
    """
    from convbatch.cli.validate import run_validate

    raise typer.Exit(run_validate(dataset, as_json=json))


@app.command(cls=Command)
@guarded
def convert(
    source: Annotated[
        list[Path],
        typer.Argument(metavar="IN", help="Files of dialogues in any known format, or logs.", readable=False),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="NAME.jsonl or NAME.jsonl.gz; must not exist.")],
    from_format: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Format of IN; default: detected. Of logs: otel | langfuse | phoenix | litellm | newapi | promptfoo | "
            "inspect-log | evalscope.",
        ),
    ] = None,
    redact: Annotated[
        bool, typer.Option("--redact", help="Strike out keys, passwords, e-mail addresses, phone and card numbers.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Of logs: write what can be read, list the rest, exit 3.")
    ] = False,
    reference: Annotated[
        bool, typer.Option("--reference", help="Use MT-Bench reference answers as scripted replies.")
    ] = False,
    reference_answers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Answers by question_id (choices with turns) as scripted replies."),
    ] = None,
) -> None:
    """Convert dialogues of another format (OpenAI, Gemini, ShareGPT …), or logs, to the canonical format.

    Example: convbatch convert spans.jsonl cases.jsonl --redact
    """
    from convbatch.cli.convert import run_convert

    raise typer.Exit(
        run_convert(
            source,
            out,
            from_format=from_format,
            redact=redact,
            partial=partial,
            reference=reference,
            reference_answers=reference_answers,
        )
    )


@app.command(cls=Command)
@guarded
def expand(
    template: Annotated[
        Path, typer.Argument(metavar="TEMPLATE", help="Dialogues with {{name}} in their texts.", readable=False)
    ],
    rows: Annotated[
        Path, typer.Argument(metavar="ROWS", help="CSV or JSON lines; a column for each name.", readable=False)
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="NAME.jsonl or NAME.jsonl.gz; must not exist.")],
) -> None:
    """Write each dialogue of TEMPLATE once for every row of ROWS, with {{name}} replaced by the column of that name.

    Example: convbatch expand template.jsonl cities.csv out.jsonl
    """
    from convbatch.dataset.expand import expand as fill

    expanded = fill(template, rows, out)
    for note in expanded.notes:
        _log_text(note)
    _log_text(f"{expanded.dialogues} dialogue{'' if expanded.dialogues == 1 else 's'} written to {out}")


@app.command(cls=Command)
@guarded
def sample(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A file of dialogues in any known format.", readable=False)
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="NAME.jsonl or NAME.jsonl.gz; must not exist.")],
    size: Annotated[int, typer.Option("-n", "--size", help="Dialogues to draw.", min=1)],
    seed: Annotated[int, typer.Option("--seed", help="The same seed draws the same dialogues.")] = 1,
    by: Annotated[
        list[SampleBy] | None,
        typer.Option(
            "--by", help="`tag`: every combination of tags keeps its share. `length`: short and long dialogues do."
        ),
    ] = None,
) -> None:
    """Draw a random sample of IN, in its order and in the canonical format; with --by a stratified one.

    Example: convbatch sample dialogues.jsonl hundred.jsonl -n 100 --seed 1 --by tag --by length
    """
    from convbatch.dataset.sample import sample as draw

    strata = by or []
    drawn = draw(source, out, size=size, seed=seed, by_tag=SampleBy.TAG in strata, by_length=SampleBy.LENGTH in strata)
    for note in drawn.notes():
        _log_text(note)
    _log_text(f"{drawn.size} of {drawn.total} dialogues written to {out}")


app.command(cls=Command)(guarded(schema))


def _load_run(run: str) -> Run:
    from convbatch.cli.show import state_notes
    from convbatch.results.run import load

    loaded = load(run)
    for note in state_notes(loaded):
        _log_text(note)
    return loaded


@app.command(cls=Command)
@guarded
@takes_filters
def table(
    runs: RunArguments,
    wide: Annotated[
        str | None,
        typer.Option(
            "--wide",
            metavar="VALUE",
            autocompletion=completing("wide"),
            help="One column per target: reply | finish_reason | output_tokens | cost | passed | score.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write FILE.csv, .xlsx, .parquet or .json instead.")
    ] = None,
    *,
    filters: FilterOptions,
) -> None:
    """Print the rows of runs, or with --wide the targets side by side, dialogues matched by id.

    Example: convbatch table latest --wide reply
    """
    from convbatch.cli import show
    from convbatch.results.filters import Matcher
    from convbatch.results.wide import wide_rows

    matcher = Matcher(read_filters(filters))
    loaded = [_load_run(run) for run in runs]
    if out is not None:
        from convbatch.results.export import write_table

        rows = show.table_rows(loaded, matcher) if wide is None else wide_rows(loaded, wide, matcher)
        row_count = None if matcher.filters or wide else sum(run.manifest.planned.rows for run in loaded)
        table_name = "turns" if wide is None else wide
        write_table(replace(rows, rows=matcher.checked(rows.rows)), out, name=table_name, row_count=row_count)
    elif wide is None:
        show.print_table(loaded, matcher)
    else:
        show.print_wide(loaded, wide, matcher)
    matcher.require_match()


@app.command(cls=Command)
@guarded
@takes("CheckOptions")
def check(options: CheckOptions) -> ExitCode:
    """Judge stored replies again. Nothing is sent except to a --judge; all other panels are options for its calls.

    Example: convbatch check latest --dataset my-edited.jsonl --fail-under 0.95
    """
    from convbatch.cli.check import run_check

    return run_check(options)


@app.command(name="show", cls=Command)
@guarded
@takes_filters
def show_command(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... [DIALOGUE]",
            help="Runs side by side; last, one dialogue's id, if wanted.",
            autocompletion=completing("runs"),
        ),
    ],
    failed: Annotated[
        bool, typer.Option("--failed", help="Only where a check failed, or a turn is an error or pending.")
    ] = False,
    target: Annotated[str | None, typer.Option("--target", help="Only this target.")] = None,
    raw: Annotated[
        tuple[str, int] | None,
        typer.Option("--raw", metavar="DIALOGUE TURN", help="Print a turn's request and each answer to it."),
    ] = None,
    *,
    filters: FilterOptions,
) -> None:
    """Print transcripts, the targets side by side, each reply with the verdicts of its checks.

    A filter chooses the conversations that have a turn which matches.

    Example: convbatch show latest dates-zh
    """
    if raw is not None:
        from convbatch.cli.raw import print_raw

        for run in runs:
            print_raw(_load_run(run), *raw, target=target)
        return
    from convbatch.cli.transcript import print_transcript, split_dialogue
    from convbatch.results.filters import Matcher

    matcher = Matcher(read_filters(filters))
    names, dialogue = split_dialogue(runs)
    loaded = [_load_run(name) for name in names]
    if not print_transcript(loaded, dialogue, matcher, failed=failed, target=target):
        matcher.require_match()
        _log_text("nothing to show: no turn is an error or pending, and no check failed")


app.command(cls=Command)(guarded(report))


@app.command(name="export-otel", cls=Command)
@guarded
def export_otel(
    run: RunArgument,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write OTLP JSON, a request a line; - = stdout.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="URL", help="Post to this OTLP/HTTP endpoint, e.g. http://127.0.0.1:4318."),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="With prompts, replies and reasons of verdicts.")] = False,
) -> ExitCode:
    """Export a run as OpenTelemetry spans: a trace a dialogue, a span a turn.

    Example: convbatch export-otel latest -o spans.jsonl
    """
    from convbatch.cli.export_otel import run_export

    raise typer.Exit(run_export(run, out, endpoint, with_text=text))


app.command(cls=Command)(guarded(compare))


app.command(cls=Command)(guarded(diff))


app.command(cls=Command)(guarded(rank))
app.command(cls=Command)(guarded(prefer))


app.command(name="judge-check", cls=Command)(guarded(judge_check))


@app.command(cls=Command)
@guarded
def view(
    run: RunArgument,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 = any free one.")] = 0,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> ExitCode:
    """Show a run on a page of this machine until Ctrl-C: live while it goes on, then its report. The run is only read.

    Example: convbatch view latest --open
    """
    from convbatch.cli.watch import run_view

    raise typer.Exit(run_view(run, port=port, open_it=open_it))


app.command(cls=Command)(guarded(audit))


app.command(cls=Command)(guarded(runs))


@app.command(cls=Command)
@guarded
@takes("DoctorOptions")
def doctor(options: DoctorOptions) -> ExitCode:
    """Check configuration and keys, list a gateway's models; with -m ask for at most 16 tokens.

    Example: convbatch doctor -g google
    """
    from convbatch.cli.doctor import run_doctor

    return run_doctor(options)


app.command(cls=Command)(guarded(simulate))
