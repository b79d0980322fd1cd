"""`convbatch prefer`: ask a judge about the replies of targets, or read its answers; print and write the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convbatch.exit_codes import ExitCode

if TYPE_CHECKING:
    from convbatch.comparison.preference_plan import PreferencePlan
    from convbatch.comparison.preferences import PreferenceRules, Preferences
    from convbatch.session.options import RunOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferOptions:
    """What the command line asks for."""

    judge: str | None
    rubric: str | None
    alpha: float
    fail_if_beaten: str | None
    allow_mismatch: bool
    config: Path | None
    env_file: Path | None
    max_cost: str | None
    max_tokens_total: str | None
    max_requests: str | None
    judge_max_output_tokens: int | None
    concurrency: int | None
    rpm: int | None
    reuse: str | None
    dry_run: bool
    progress: bool
    as_json: bool
    out: tuple[Path, ...]

    @property
    def of_a_judge(self) -> tuple[str, ...]:
        """Options that were given and need `--judge`."""
        given = {
            "--rubric": self.rubric,
            "--max-cost": self.max_cost,
            "--max-tokens-total": self.max_tokens_total,
            "--max-requests": self.max_requests,
            "--judge-max-output-tokens": self.judge_max_output_tokens,
            "-j": self.concurrency,
            "--rpm": self.rpm,
            "--reuse": self.reuse,
            "--dry-run": self.dry_run or None,
            "--env-file": self.env_file,
            "-c": self.config,
            "--allow-mismatch": self.allow_mismatch or None,
        }
        return tuple(name for name, value in given.items() if value is not None)


def run_prefer(runs: Sequence[str], options: PreferOptions) -> ExitCode:
    """Ask the judge or read its answers, write the files, print, and return the exit code."""
    from convbatch.comparison.preference_render import PREFERENCE_PARTS
    from convbatch.comparison.preferences import PreferenceRules
    from convbatch.errors import SetupError
    from convbatch.preferring import read_asked
    from convbatch.results.export import check_files

    files = [path for path in options.out if path.suffix.lower() in _SUFFIXES]
    folders = [path for path in options.out if path not in files]
    check_files(files, PREFERENCE_PARTS)
    rules = PreferenceRules(alpha=options.alpha, fail_if_beaten=options.fail_if_beaten)
    if len(folders) > 1:
        raise SetupError(
            f"-o names {len(folders)} run folders: {', '.join(map(str, folders))}",
            hint=f"name one; files of the result end in {', '.join(_SUFFIXES)}",
        )
    if options.judge is not None:
        return _ask(runs, options, rules, files, folders)
    if unused := (*options.of_a_judge, *(("-o FOLDER",) if folders else ())):
        raise SetupError(f"{unused[0]} needs a judge to ask", hint="add --judge MODEL@GATEWAY")
    return _show(read_asked(runs, rules), options, files)


_SUFFIXES = (".html", ".json", ".md")
"""Files among the paths of -o; another path is the folder of the judge's run."""


def _ask(
    runs: Sequence[str],
    options: PreferOptions,
    rules: PreferenceRules,
    files: Sequence[Path],
    folders: Sequence[Path],
) -> ExitCode:
    from convbatch.cli.run import run_for
    from convbatch.comparison.preference_plan import preference_plan
    from convbatch.comparison.preferences import check_beaten, read_preferences, settled_preferences
    from convbatch.console.text import log_note
    from convbatch.errors import SetupError
    from convbatch.exit_codes import worst
    from convbatch.preferring import asking_options, refuse_asked
    from convbatch.results.run import load
    from convbatch.session.next_command import read_line

    assert options.judge is not None
    refuse_asked(runs)
    plan = preference_plan(runs, rubric=options.rubric, allow_mismatch=options.allow_mismatch)
    check_beaten(rules, plan.targets)
    if plan.dataset is None:
        log_note("nothing to ask: no comparison needs the judge")
        return _show(settled_preferences(plan, rules), options, files)
    asking = asking_options(
        plan,
        options.judge,
        max_output_tokens=options.judge_max_output_tokens,
        config=options.config,
        env_file=options.env_file,
        max_cost=options.max_cost,
        max_tokens_total=options.max_tokens_total,
        max_requests=options.max_requests,
        concurrency=options.concurrency,
        rpm=options.rpm,
        reuse=options.reuse,
        out=tuple(folders),
        progress=options.progress,
    )
    if options.dry_run:
        if any(path.suffix.lower() == ".html" for path in files):
            raise SetupError("a dry run is not written as HTML", hint="name a .json or .md file, or leave it out")
        return _dry_run(plan, asking, files, as_json=options.as_json)
    code, folder = run_for(
        asking,
        before=[f"  {line}" for line in _plan_lines(plan)],
        after=lambda folder: read_line("prefer", folder),
        prints_table=False,
    )
    return worst(code, _show(read_preferences(load(folder), rules), options, files))


def _plan_lines(plan: PreferencePlan) -> list[str]:
    from convbatch.comparison.preferences import SETTLED_WORDS
    from convbatch.dataset.reader import count_of

    lines = [
        f"{count_of(plan.questions // 2, 'comparison')} of two replies, each asked in both orders; "
        f"{len(plan.targets)} targets"
    ]
    lines += [f"not asked: {n:,}: {SETTLED_WORDS.get(why, f'left out: {why}')}" for why, n in plan.counts.items()]
    return lines


def _dry_run(plan: PreferencePlan, asking: RunOptions, files: Sequence[Path], *, as_json: bool) -> ExitCode:
    from dataclasses import replace

    from convbatch.cli.dry_run import print_dry_run
    from convbatch.console.text import log_note

    for line in _plan_lines(plan):
        log_note(line)
    return print_dry_run(replace(asking, out=(*asking.out, *files), as_json=as_json))


def _show(found: Preferences, options: PreferOptions, files: Sequence[Path]) -> ExitCode:
    from convbatch.comparison import preference_render
    from convbatch.console.text import ignoring_broken_pipe, printable_json
    from convbatch.results.export import write_files

    try:
        write_files(preference_render.preference_content(found), files)
    finally:
        with ignoring_broken_pipe():
            if options.as_json:
                print(printable_json(preference_render.to_json(found).decode()), end="")  # noqa: T201
            else:
                preference_render.to_terminal(found)
    return found.exit_code
