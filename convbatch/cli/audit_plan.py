"""The run of `convbatch audit --plan`: what cannot work, and what it should cost, is said before the first call."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from convbatch.auditing.plan import LEAST_REPEATS, REPEATS, earlier_targets, judged_names, probe_dataset
from convbatch.cli.dry_run import Outlook, cost_outlook
from convbatch.cli.run import run_for
from convbatch.comparison.inputs import split_run_and_target
from convbatch.config.loader import load_config
from convbatch.config.targets import resolve_targets
from convbatch.console.text import log_note
from convbatch.dialogue import NO_VARIANT, Settings
from convbatch.errors import ConvbatchError
from convbatch.exit_codes import ExitCode
from convbatch.journal.run_folder import RunFolder, shell_quote
from convbatch.session.next_command import read_line
from convbatch.session.options import RunOptions, absolute
from convbatch.session.prepare import prepare_dry_run
from convbatch.session.unsupported import unsupported_setting

if TYPE_CHECKING:
    from convbatch.cli.audit import JudgedWith, PlanRequest
    from convbatch.config.gateways import Target


def run_plan(plan: PlanRequest, judged: JudgedWith) -> tuple[ExitCode, list[str]]:
    """Run the probes; return the exit code of the run, and what to judge: the run, or two targets of it.

    Raises:
        ConvbatchError: It cannot work; nothing was sent.
    """
    with _with_budget_named():
        options = _options(plan, judged)
        options, names, outlook = _priced(options, plan, judged)
        log_note(f"audit: probes in {plan.language}, {options.repeats} repeats of each")
        code, folder = run_for(
            options,
            before=[f"  {line}" for line in outlook.lines],
            after=lambda folder: _judge_line(folder, names, judged),
            prints_table=judged.prints_table,
        )
    return code, [f"{folder}:{name}" for name in names] or [str(folder)]


def _options(plan: PlanRequest, judged: JudgedWith) -> RunOptions:
    """Return the run: with the temperatures that all of its targets take."""
    targets = resolve_targets(plan.models, plan.gateways, load_config(judged.config), variants=(NO_VARIANT,))
    without_zero, without_any = _refusing(targets, 0.0), _refusing(targets, 1.0)
    if without_any:
        log_note(f"note: no temperature at {', '.join(without_any)}: every target is asked without one")
    elif without_zero:
        log_note(f"note: no temperature of 0 at {', '.join(without_zero)}: no target is asked at 0")
    return RunOptions(
        datasets=(),
        in_memory=probe_dataset(
            plan.language,
            plan.datasets,
            takes_zero=not without_zero,
            max_output_tokens=plan.max_output_tokens,
        ),
        models=plan.models,
        gateways=plan.gateways,
        variants=(NO_VARIANT,),
        config=judged.config,
        env_file=plan.env_file,
        repeats=plan.repeats or REPEATS,
        history="live",  # whatever `[run] history` is: probes are judged by what a model makes of its own words
        in_rounds=True,
        max_cost=plan.budget,
        concurrency=plan.concurrency,
        rpm=plan.rpm,
        out=judged.folder,
        unset=("temperature",) if without_any else (),
        progress=True,
    )


def _refusing(targets: Sequence[Target], temperature: float) -> list[str]:
    """Return the targets that do not take this temperature, by their model or their configuration."""
    asked = Settings(temperature=temperature)
    return [
        target.name
        for target in targets
        if "temperature" in target.gateway.unset or unsupported_setting(target, asked) is not None
    ]


def _priced(options: RunOptions, plan: PlanRequest, judged: JudgedWith) -> tuple[RunOptions, tuple[str, ...], Outlook]:
    """Return the run with as many repeats as its budget should pay for, and its outlook."""
    with prepare_dry_run(options) as planned:
        names = judged_names(planned.manifest.targets, earlier_targets(judged.runs), reference=judged.reference)
        outlook = cost_outlook(planned)
    if plan.repeats is not None or outlook.share is None or outlook.share >= 1:
        return options, names, outlook
    repeats = max(LEAST_REPEATS, int(REPEATS * outlook.share))
    log_note(f"note: {repeats} repeats of each probe, not {REPEATS}: the budget may not pay for more")
    fewer = dataclasses.replace(options, repeats=repeats)
    with prepare_dry_run(fewer) as planned:
        return fewer, names, cost_outlook(planned)


def _judge_line(folder: RunFolder, names: Sequence[str], judged: JudgedWith) -> str:
    """Return the command that judges the run of a plan again."""
    options = [] if judged.reference is None else ["--reference", shell_quote(Path(judged.reference))]
    if not names:
        return read_line("audit", folder, *map(_absolute_run, judged.runs), *options)
    path = absolute(folder.path)
    return " ".join(["convbatch audit", *(shell_quote(Path(f"{path}:{name}")) for name in names), *options])


def _absolute_run(text: str) -> str:
    """Return a run, or `RUN:target`, as it can be named in any directory."""
    run, target = split_run_and_target(text)
    path = absolute(run.path)
    return shell_quote(path if target is None else Path(f"{path}:{target}"))


@contextmanager
def _with_budget_named() -> Generator[None]:
    """Rewrite the errors of this block: what a run calls `--max-cost` is `--budget` here."""
    try:
        yield
    except ConvbatchError as error:
        raise type(error).of(
            [
                dataclasses.replace(
                    one,
                    what=one.what.replace("--max-cost", "--budget"),
                    hint=one.hint and one.hint.replace("--max-cost", "--budget"),
                )
                for one in error.problems
            ]
        ) from error
