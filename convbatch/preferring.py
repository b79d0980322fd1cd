"""`prefer`: the questions of a `PreferencePlan` → an ordinary run of the judge, and what it says.

The judge is the run's only target, so its calls have the limiter, retries, cost cap and journal of any run, `resume`
continues them, and `--reuse` takes answers from an earlier run of this kind.
"""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from convbatch.comparison.compare import RunReference
from convbatch.comparison.preference_plan import PreferencePlan, preference_plan
from convbatch.comparison.preferences import (
    PreferenceRules,
    Preferences,
    check_beaten,
    is_preference_run,
    read_preferences,
    settled_preferences,
)
from convbatch.config.gateways import NO_OVERRIDES
from convbatch.dialogue import NO_VARIANT
from convbatch.errors import SetupError, named_by_keyword
from convbatch.journal.run_folder import find_run
from convbatch.results.run import RESULTS, Run, load
from convbatch.session.judge import judge_target
from convbatch.session.options import RunOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPOILING = ("stop", "response_schema")
"""Settings under `[run.settings]` that are meant for the replies of a run and would spoil a judge's answers."""


def asking_options(plan: PreferencePlan, judge: str, *, max_output_tokens: int | None, **others: object) -> RunOptions:
    """Return the run that asks the judge.

    Args:
        plan: With questions.
        judge: `model@gateway`.
        max_output_tokens: The judge's output limit; None: as for `llm_rubric` checks.
        others: Further options of the run.

    Raises:
        SetupError: The judge is unknown, or a setting of it cannot be sent.
    """
    from convbatch.config.loader import load_config

    options = RunOptions(  # `[run] variants`, `repeats` and `history` are those of the replies, not of the questions
        datasets=(),
        in_memory=plan.dataset,
        models=(judge,),
        variants=(NO_VARIANT,),
        repeats=1,
        history="live",
        **others,  # pyright: ignore[reportArgumentType]  # the callers' own parameters
    )
    config = load_config(options.config)
    target = judge_target(judge, config, NO_OVERRIDES, max_output_tokens)
    given = config.run.settings.to_plain()
    own = target.gateway.settings.to_plain()
    unset = tuple(name for name in _SPOILING if name in given and name not in own)
    return replace(options, max_output_tokens=target.gateway.settings.max_output_tokens, unset=unset)


def read_asked(runs: Sequence[RunReference], rules: PreferenceRules) -> Preferences:
    """Return what the judge of an earlier `prefer` said.

    Raises:
        SetupError: It is not one run, or asked no judge.
    """
    if len(runs) != 1 or isinstance(runs[0], tuple):
        raise SetupError("no judge is named", hint="convbatch prefer RUN --judge MODEL@GATEWAY")
    one = runs[0]
    try:
        run = one if isinstance(one, Run) else load(find_run(str(one), RESULTS))
    except SetupError:
        if ":" not in str(one):
            raise
        raise SetupError("no judge is named", hint=f"convbatch prefer {one} --judge MODEL@GATEWAY") from None
    return read_preferences(run, rules)


def refuse_asked(runs: Sequence[RunReference]) -> None:
    """Refuse a judge for a run that has asked one.

    Raises:
        SetupError: One of the runs is such a run.
    """
    from convbatch.comparison.inputs import select_run

    for one in runs:
        run = select_run(one).run
        if is_preference_run(run):
            raise SetupError(
                f"run {run.name} has asked a judge already",
                hint=f"its result: convbatch prefer {run.path}; open questions: convbatch resume {run.path}",
            )


def prefer(
    *runs: RunReference,
    judge: str | None = None,
    rubric: str | None = None,
    alpha: float = 0.05,
    fail_if_beaten: str | None = None,
    allow_mismatch: bool = False,
    config: str | Path | None = None,
    env_file: str | Path | None = None,
    max_cost: str | None = None,
    max_tokens_total: str | int | None = None,
    max_requests: str | int | None = None,
    judge_max_output_tokens: int | None = None,
    concurrency: int | None = None,
    rpm: int | None = None,
    reuse: str | None = None,
    out: str | Path | None = None,
    progress: bool = False,
) -> Preferences:
    """Ask a judge which target's replies it prefers, or read what it said.

    >>> found = convbatch.prefer(both, judge="sim-judge-long@simulator", rubric="The reply is polite.")
    >>> found.longer.value  # of this judge, which prefers long replies
    1.0
    >>> convbatch.prefer(found.run).position  # nothing is asked again
    Share(value=0.5, ...)

    Args:
        runs: Runs to compare, as for `rank`; without `judge` one run that has asked a judge.
        judge: `model@gateway`. Every comparison is two paid calls.
        rubric: Compare whole dialogues by it, instead of the `prefer` checks of the dataset.
        alpha: Chance of any false claim, over all pairs of targets together.
        fail_if_beaten: A target; `exit_code` is 1 if another one is proven to be preferred.
        allow_mismatch: Compare although dialogues, history or checks differ.
        config: Config file with the judge's gateway.
        env_file: File with keys.
        max_cost: Cost cap, such as `2USD`.
        max_tokens_total: Cap on the judge's input and output tokens, such as `2M`.
        max_requests: Cap on requests to the judge.
        judge_max_output_tokens: Output limit of the judge.
        concurrency: Questions in flight.
        rpm: Requests per minute.
        reuse: Earlier run of `prefer`, whose answers to the same questions are taken.
        out: Folder of the judge's run; default a new one under `results/`.
        progress: Show status lines and notes on stderr.

    Raises:
        SetupError: The targets cannot be compared, or the judge cannot be asked; nothing was sent.
    """
    from convbatch.results.cache import write_turns
    from convbatch.session.prepare import prepare_run
    from convbatch.session.session import run_session

    with named_by_keyword(_KEYWORDS):
        rules = PreferenceRules(alpha=alpha, fail_if_beaten=fail_if_beaten)
        if judge is None:
            return read_asked(runs, rules)
        _refuse_running_loop()
        refuse_asked(runs)
        plan = preference_plan(runs, rubric=rubric, allow_mismatch=allow_mismatch)
        check_beaten(rules, plan.targets)
        if plan.dataset is None:
            return settled_preferences(plan, rules)
        options = asking_options(
            plan,
            judge,
            max_output_tokens=judge_max_output_tokens,
            config=None if config is None else Path(config),
            env_file=None if env_file is None else Path(env_file),
            max_cost=max_cost,
            max_tokens_total=None if max_tokens_total is None else str(max_tokens_total),
            max_requests=None if max_requests is None else str(max_requests),
            concurrency=concurrency,
            rpm=rpm,
            reuse=reuse,
            out=() if out is None else (Path(out),),
            progress=progress,
        )
        spec = prepare_run(options, handle_signals=False, notes=progress)
    result = run_session(spec)
    write_turns(spec.folder)
    if result.bugs:
        raise RuntimeError(f"a bug in convbatch; the received answers are in {spec.folder.path}\n{result.bugs[0]}")
    if result.error is not None:
        raise result.error
    return read_preferences(load(spec.folder.path), rules)


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("an event loop is running (a notebook?): use `await asyncio.to_thread(convbatch.prefer, ...)`")


_KEYWORDS = {f"--{name.replace('_', '-')}": name for name in inspect.signature(prefer).parameters}
