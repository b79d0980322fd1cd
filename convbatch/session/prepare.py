"""From options to a `SessionSpec`: everything that can be wrong is found here, before the first request.

Configuration, keys, dataset and folder are read and checked, the fastest checks first; nothing is sent. How a session
is executed is `session.py`.
"""

from __future__ import annotations

import contextlib
import platform
import re
import shutil
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbatch._version import __version__
from convbatch.config.credentials import Credentials
from convbatch.config.gateways import (
    NO_OVERRIDES,
    Config,
    Overrides,
    Target,
    asked_gateways,
    target_from_manifest,
    target_to_manifest,
)
from convbatch.config.targets import parse_params, resolve_targets
from convbatch.console.text import log_note
from convbatch.dataset.reader import count_of
from convbatch.dialogue import MAX_REPEATS, HistoryMode, Settings
from convbatch.engine.runner import DEFAULT_MAX_ATTEMPTS, RunRules
from convbatch.errors import ConvbatchError, InputError, Place, SetupError, did_you_mean
from convbatch.journal.manifest import (
    Manifest,
    ManifestDataset,
    ManifestOptions,
    ManifestSource,
    ManifestTarget,
    PlannedRows,
    SimulatorSetup,
)
from convbatch.journal.run_folder import RunFolder, default_name, find_run, shell_quote
from convbatch.journal.run_names import check_run_name
from convbatch.results.quality_gate import parse_pass_rate
from convbatch.session.batch_checks import batch_issues, batch_mode, refuse_batch_options
from convbatch.session.cluster_options import cluster_spec, refuse_for_workers
from convbatch.session.cost_cap import resolve_caps
from convbatch.session.judge import judge_target, judge_to_manifest, wants_judge
from convbatch.session.media_checks import refuse_media, require_media
from convbatch.session.needed_settings import refuse_needed_unset
from convbatch.session.options import ResumeOptions, RunOptions, given_options, refuse_numbers
from convbatch.session.plan_notes import note_equal_variants, note_names
from convbatch.session.preflight import check_reachable
from convbatch.session.reopen import parse_kinds
from convbatch.session.run_caps import given_caps, with_caps
from convbatch.session.run_log import log_spec
from convbatch.session.spec import SessionSpec
from convbatch.session.tool_checks import tool_issues
from convbatch.session.trust import Trust, is_inside, remember_folder
from convbatch.session.unsupported import is_refused, merged, refuse_unsupported

if TYPE_CHECKING:
    from convbatch.config.gateways import Gateway
    from convbatch.dataset.selection import Selection
    from convbatch.dataset.snapshot import CopyReport
    from convbatch.pricing import Money

RESULTS = Path("results")
HISTORIES: tuple[HistoryMode, ...] = ("live", "script", "last")


def prepare_run(options: RunOptions, *, handle_signals: bool = True, notes: bool = True) -> SessionSpec:
    """Prepare a new run: create its folder and copy the dataset into it; nothing is sent.

    Raises:
        SetupError: Names, limits, keys or folders that cannot be used.
        InputError: A dataset or configuration that cannot be read.
        JournalError: The first files cannot be written; the folder is removed.
    """
    log = log_spec(options, run_folder=options.folder)
    cluster = cluster_spec(options)
    checked = _check_options(options)
    refuse_for_workers(cluster, checked.targets, checked.rules)
    if not checked.is_refused:  # else the run is refused, once the dataset is checked as well
        check_reachable(checked.all_targets, checked.rules.concurrency, checked.credentials)
    if notes and options.name is not None:
        note_names(options.name, options.folder, RESULTS)
    if notes:
        note_equal_variants(checked.targets)
    with _dataset(options, checked, notes=notes) as (copy, manifest, cap):
        folder = _new_folder(options, datetime.fromisoformat(manifest.created_at))
        with folder.creating():
            with copy.open("rb") as source, folder.replacing(folder.dataset.name) as kept:
                shutil.copyfileobj(source, kept, 1 << 20)
            folder.adopt_media(copy.parent / folder.media.name)
            origin = remember_folder(folder, checked.all_targets, reuse=manifest.options.reuse)
            manifest = replace(manifest, run=folder.name, origin=origin)
            folder.write_manifest(manifest)
    return SessionSpec(
        folder=folder,
        manifest=manifest,
        targets=checked.targets,
        credentials=checked.credentials,
        rules=checked.rules,
        reuse=checked.reuse,
        max_cost=cap,
        max_tokens=manifest.options.max_tokens_total,
        max_requests=manifest.options.max_requests,
        progress=options.progress and not options.follow,
        follow=options.follow,
        cluster=cluster,
        notes=notes,
        handle_signals=handle_signals,
        log=log,
        options=options,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """A planned run: checked like a real one, but without a folder."""

    dataset: Path
    """The selected dialogues, as a run would copy them; deleted when the dry run ends."""
    manifest: Manifest
    """Content that `run.json` would have."""
    targets: tuple[Target, ...]
    rules: RunRules
    reuse: RunFolder | None
    max_cost: Money | None
    max_tokens: int | None = None
    max_requests: int | None = None
    missing_keys: tuple[str, ...]
    """Environment variables that a run would need and that are not set."""


@contextlib.contextmanager
def prepare_dry_run(options: RunOptions) -> Generator[DryRun]:
    """Prepare a run without creating its folder or resolving host names; keys may be missing.

    Raises:
        SetupError: As `prepare_run`, also for a variable whose value cannot be a key.
        InputError: As `prepare_run`.
    """
    checked = _check_options(options)
    credentials = checked.credentials
    gateways = asked_gateways(checked.all_targets)
    missing = credentials.missing(gateways)
    credentials.require_variables(gateways, except_for=missing)  # key commands are not run
    for gateway in gateways:
        credentials.proxy(gateway)  # raises for an unusable proxy
    with _dataset(options, checked) as (copy, manifest, cap):
        yield DryRun(
            dataset=copy,
            manifest=manifest,
            targets=checked.targets,
            rules=checked.rules,
            reuse=checked.reuse,
            max_cost=cap,
            max_tokens=manifest.options.max_tokens_total,
            max_requests=manifest.options.max_requests,
            missing_keys=missing,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _CheckedOptions:
    """Options and configuration after all checks."""

    config: Config
    targets: tuple[Target, ...]
    credentials: Credentials
    rules: RunRules
    selection: Selection
    reuse: RunFolder | None
    fail_under: str | None
    judge: Target | None
    is_refused: bool
    """Whether a target cannot carry the settings of all dialogues; reported with those of the dataset."""

    @property
    def all_targets(self) -> tuple[Target, ...]:
        """The targets, and the judge if there is one."""
        return self.targets if self.judge is None else (*self.targets, self.judge)


def _check_options(options: RunOptions) -> _CheckedOptions:
    from convbatch.dataset.selection import Selection

    refuse_numbers(options)
    check_run_name(options.name, options.note)
    config = _load_config(options.config) if options.in_code is None else options.in_code.load(options.config)
    overrides = Overrides(
        rpm=options.rpm,
        tpm=options.tpm,
        rpd=options.rpd,
        attempt_timeout_s=options.attempt_timeout_s,
        stream=options.stream,
        unset=options.unset,
    )
    targets = resolve_targets(options.models, options.gateways, config, overrides, options.variants)
    judge = None
    if options.judge is not None:
        judge = judge_target(options.judge, config, NO_OVERRIDES, options.judge_max_output_tokens)
    gateways = asked_gateways((*targets, *([] if judge is None else [judge])))
    credentials = Credentials.load(gateways, env_file=options.env_file, configured=config.env_file)
    command_line = _command_line(options)
    _refuse_overridden_variants(targets, command_line)
    rules = RunRules(
        history=_parse_history(options.history or config.run.history or "live"),
        repeats=options.repeats or config.run.repeats or 1,
        in_rounds=options.in_rounds,
        batch="batch" if options.batch else None,
        batch_window=options.batch_window,
        concurrency=options.concurrency or config.run.concurrency or (1 if options.follow else None),
        max_attempts=options.max_attempts or config.run.max_attempts or DEFAULT_MAX_ATTEMPTS,
        command_line=command_line,
        deadline_s=options.deadline_s,
    )
    if options.batch or options.batch_window is not None:
        refuse_batch_options(options, targets)
    if rules.repeats > MAX_REPEATS:
        raise SetupError(f"{rules.repeats} repeats of every dialogue", hint=f"at most {MAX_REPEATS:,} are possible")
    reuse = None if options.reuse is None else _open_reusable(options.reuse)
    selection = Selection(
        ids=options.ids,
        tags=options.tags,
        limit=options.limit,
        sample=options.sample,
        shuffle=options.shuffle,
        seed=options.seed or 0,
        **({} if options.only_failed is None else _failed_in(options.only_failed)),
    )
    return _CheckedOptions(
        config=config,
        targets=targets,
        credentials=credentials,
        rules=rules,
        selection=selection,
        reuse=reuse,
        fail_under=parse_pass_rate(options.fail_under),
        judge=judge,
        is_refused=is_refused(targets, command_line),
    )


def prepare_resume(options: ResumeOptions, *, handle_signals: bool = True) -> SessionSpec:
    """Prepare to continue an existing run: everything except keys comes from its folder.

    Raises:
        SetupError: The run does not exist, keys are missing, or `run.json` cannot be used.
    """
    cluster = cluster_spec(options)
    folder = RunFolder.open(find_run(options.run, RESULTS))
    manifest = folder.read_manifest()
    targets, rules = _previous_options(options, manifest)
    refuse_for_workers(cluster, targets, rules)
    judges = [target_from_manifest(judge) for judge in manifest.judges]
    judges = judges[-1:] if wants_judge(manifest) else []
    folder.refuse_lost_journal(manifest)
    _refuse_another_dataset(folder, manifest)
    require_media(folder.path, folder.dataset)
    trust = Trust.in_folder(folder, manifest)
    trust.require_endpoints(folder, (*targets, *judges))
    gateways = asked_gateways((*targets, *judges))
    credentials = _credentials_to_resume(folder, gateways, options.env_file)
    # Of a finished run a command would print a key that nobody needs; if a turn is open after all, it is run then.
    check_reachable((*targets, *judges), rules.concurrency, credentials, run_commands=manifest.state != "finished")
    manifest = with_caps(manifest, options)
    billed = manifest if judges else replace(manifest, judges=())  # an unused judge needs no cap
    cap = resolve_caps(manifest.options, billed, targets, rules.command_line, folder.dataset)
    return SessionSpec(
        folder=folder,
        manifest=manifest,
        targets=targets,
        credentials=credentials,
        rules=rules,
        resumed=True,
        cluster=cluster,
        salvage=options.salvage,
        retry_failed=parse_kinds(options.retry_failed),
        reuse=_previously_reused(trust, manifest),
        max_cost=cap,
        max_tokens=manifest.options.max_tokens_total,
        max_requests=manifest.options.max_requests,
        progress=options.progress,
        handle_signals=handle_signals,
        log=log_spec(options),
        options=options,
        made_here=trust.origin is not None,
    )


def _credentials_to_resume(folder: RunFolder, gateways: Sequence[Gateway], env_file: Path | None) -> Credentials:
    """Return the keys; only where one is missing, the config in the working directory is asked for its `env_file`.

    Not a config that came with the run folder: its file could also name a proxy.
    """
    credentials = Credentials.load(gateways, env_file=env_file)
    if env_file is not None or not credentials.missing(gateways) or is_inside(folder):
        return credentials
    return Credentials.load(gateways, configured=_load_config(None).env_file)


def _previous_options(options: ResumeOptions, manifest: Manifest) -> tuple[tuple[Target, ...], RunRules]:
    """Return targets and rules from `run.json`, with the options that may change on a resume."""
    overrides = Overrides(
        rpm=options.rpm, tpm=options.tpm, rpd=options.rpd, attempt_timeout_s=options.attempt_timeout_s
    )
    rules = RunRules(
        history=manifest.history,
        repeats=manifest.repeats,
        in_rounds=manifest.options.in_rounds,
        batch=batch_mode(options, manifest),
        batch_window=manifest.options.batch_window,
        concurrency=options.concurrency or manifest.options.concurrency,
        max_attempts=options.max_attempts or manifest.options.max_attempts or DEFAULT_MAX_ATTEMPTS,
        command_line=manifest.settings,
        retry_errors=options.retry_errors and not options.retry_failed,
        deadline_s=options.deadline_s,
    )
    return tuple(overrides.of_target(target_from_manifest(one)) for one in manifest.targets), rules


def _refuse_another_dataset(folder: RunFolder, manifest: Manifest) -> None:
    """Refuse a changed copy of the dataset: replies are stored by dialogue and turn number and would not fit it."""
    from convbatch.dataset.snapshot import copy_digest

    if copy_digest(folder.dataset) != manifest.dataset.sha256:
        raise SetupError(
            "the run's copy of its dataset is not the one it started with",
            place=Place(path=str(folder.dataset)),
            hint="restore it from a copy; for a changed dataset: "
            f"convbatch run NEW.jsonl --reuse {shell_quote(folder.path)}",
        )


def _open_reusable(text: str) -> RunFolder:
    folder = RunFolder.open(find_run(text, RESULTS))
    folder.refuse_lost_journal(folder.read_manifest())
    return folder


def _failed_in(text: str) -> dict[str, Any]:
    """Return the fields of a `Selection` of the dialogues that failed in a run."""
    from convbatch.results.failed import failed_dialogues

    folder = RunFolder.open(find_run(text, RESULTS))
    failed = failed_dialogues(folder)
    if not failed:
        raise SetupError(
            f"--only-failed: no dialogue of {shell_quote(folder.path)} failed a check or a turn",
            hint=f"turns without a result are continued by: convbatch resume {shell_quote(folder.path)}",
        )
    return {"failed": failed, "failed_in": str(folder.path)}


def _previously_reused(trust: Trust, manifest: Manifest) -> RunFolder | None:
    """Return the run whose replies this one reuses; None if it is gone: replies reused so far are stored here."""
    path = trust.reusable(manifest)
    if path is None and manifest.options.reuse is not None:
        log_note(
            f"note: no more replies of {manifest.options.reuse} are reused: only run.json says so, and this run "
            "folder was created elsewhere"
        )
    try:
        return None if path is None else RunFolder.open(Path(path))
    except SetupError:
        return None


def changed_sources(folder: RunFolder, manifest: Manifest) -> list[str]:
    """Return the original dataset files that changed since this run copied them, except deleted ones.

    In a folder that was created elsewhere their paths are those of another machine, and may name anything on this one.
    """
    from convbatch.dataset.snapshot import fingerprint_source

    changed: list[str] = []
    if Trust.in_folder(folder, manifest).origin is None:
        return changed
    for source in manifest.dataset.sources:
        path = Path(source.path)
        with contextlib.suppress(OSError):  # deleted or unreadable: the run has its own copy
            if path.is_file() and fingerprint_source(path).sha256 != source.sha256:
                changed.append(source.path)
    return changed


def _load_config(path: Path | None) -> Config:
    from convbatch.config.loader import load_config

    return load_config(path)


def _parse_history(text: str) -> HistoryMode:
    for mode in HISTORIES:
        if text == mode:
            return mode
    raise SetupError(f"unknown history mode {text!r}", hint=did_you_mean(text, HISTORIES))


def _command_line(options: RunOptions) -> Settings:
    from convbatch.dataset.schema import issues_of

    named = {name: getattr(options, name) for name in _SETTINGS if getattr(options, name) is not None}
    for issue in issues_of(
        {"turns": [{"user": "?"}], "settings": named}
    ):  # the same rules as for settings in a dataset
        raise SetupError(_as_option(issue.what), found=issue.found, hint=_as_option(issue.hint or ""))
    extra = parse_params(options.params)
    return Settings(
        temperature=options.temperature,
        max_output_tokens=options.max_output_tokens,
        seed=options.seed,
        thinking_budget=options.thinking_budget,
        reasoning_effort=options.reasoning_effort,
        extra=extra or None,
    )


def _refuse_overridden_variants(targets: Iterable[Target], command_line: Settings) -> None:
    """Refuse a setting of the command line that a variant sets, too: the variants would be alike in it.

    Raises:
        SetupError: There is one.
    """
    given = command_line.to_plain().keys() - {"extra"}
    for variant in (target.variant for target in targets if target.variant is not None):
        if both := sorted(given & variant.settings.to_plain().keys()):
            option = f"--{both[0].replace('_', '-')}"
            raise SetupError(
                f"{option} overrides {both[0]} of the variant {variant.name!r}",
                hint=f"drop {option}, or remove {both[0]} from [variants.{variant.name}.settings]",
            )


_SETTINGS = ("temperature", "max_output_tokens", "seed", "thinking_budget", "reasoning_effort")


def _as_option(text: str) -> str:
    """Rewrite a message about a dataset's setting to name the option instead."""
    return re.sub(r'"(?:settings\.)?(\w+)":?', lambda name: "--" + name[1].replace("_", "-"), text)


def _refuse_settings(copy: Path, checked: _CheckedOptions) -> None:
    """Refuse all settings that cannot be sent, and all that are needed and never sent, in one error."""
    targets, rules = checked.targets, checked.rules
    errors: list[ConvbatchError] = []
    try:
        refuse_unsupported(copy, targets, rules.command_line)
    except (InputError, SetupError) as error:
        errors.append(error)
    try:
        refuse_needed_unset(checked.config, targets, rules, copy)
    except InputError as error:
        errors.append(error)
    if (error := merged(errors)) is not None:
        raise error


@contextlib.contextmanager
def _dataset(
    options: RunOptions, checked: _CheckedOptions, *, notes: bool = True
) -> Generator[tuple[Path, Manifest, Money | None]]:
    """Yield the checked dialogues in a temporary file, the manifest without the run's name, and the cap."""
    from convbatch.dataset.snapshot import write_copy
    from convbatch.session.progress import ReadingBar

    _refuse_occupied(options.folder)
    with tempfile.TemporaryDirectory(prefix="convbatch-") as aside:
        copy = Path(aside) / "dataset.jsonl.gz"
        media = refuse_media(checked.targets, checked.rules.history, Path(aside))
        with ReadingBar(enabled=options.progress) as bar:
            report = write_copy(
                options.sources,
                checked.selection,
                copy,
                checked.rules.history,
                refuse=lambda kept, as_read: chain(
                    media(kept, as_read),
                    tool_issues(kept, checked.targets),
                    batch_issues(kept) if options.batch else (),
                ),
                on_progress=bar.show,
            )
            _refuse_settings(copy, checked)
        for note in report.notes if notes else ():
            log_note(note)
        caps = given_caps(options, checked.config.run)
        _refuse_gate(checked.fail_under, report, has_judge=checked.judge is not None)
        manifest = _manifest(options, checked, report, datetime.now(UTC), caps)
        yield (
            copy,
            manifest,
            resolve_caps(manifest.options, manifest, checked.targets, checked.rules.command_line, copy),
        )


def _refuse_gate(fail_under: str | None, report: CopyReport, *, has_judge: bool) -> None:
    """Refuse a quality gate that cannot be decided, before anything is paid."""
    if fail_under is None:
        return
    if not report.checks:
        raise SetupError("--fail-under: the selected dialogues have no checks", hint="see docs/checks.md")
    if report.judges_needed and not has_judge:
        raise SetupError(
            f"--fail-under: there is no judge for {count_of(report.judges_needed, 'llm_rubric check')}",
            hint="add --judge MODEL@GATEWAY, or evaluate the gate later: convbatch check RUN --judge ...",
        )


def _refuse_occupied(out: Path | None) -> None:
    # Checked first, because a large dataset takes a minute to validate.
    try:
        free = out is None or not out.exists() or (out.is_dir() and not any(out.iterdir()))
    except OSError:  # a name that is too long, or an unreadable folder
        free = False
    if out is not None and not free:
        RunFolder.create(out)  # raises the error that describes the problem


def _new_folder(options: RunOptions, started: datetime) -> RunFolder:
    if options.folder is not None:
        return RunFolder.create(options.folder)
    stem = options.datasets[0].name.split(".")[0] if options.in_memory is None else options.in_memory.name
    return RunFolder.create_in(RESULTS, default_name(started.timestamp(), stem))


def _manifest(
    options: RunOptions, checked: _CheckedOptions, report: CopyReport, started: datetime, caps: Mapping[str, Any]
) -> Manifest:
    """Return the manifest without the run's name and origin."""
    # When they are needed another run may be `latest`, and another config may be in the working directory.
    found = replace(
        options,
        models=tuple(target.name for target in checked.targets),
        gateways=(),
        config=None if checked.config.path is None else Path(checked.config.path),
        only_failed=checked.selection.failed_in,
    )
    config, targets, rules, reuse = checked.config, checked.targets, checked.rules, checked.reuse
    per_target = report.asked_turns * rules.repeats
    return Manifest(
        name=options.name,
        note=options.note,
        convbatch=__version__,
        python=platform.python_version(),
        created_at=started.isoformat(timespec="seconds").replace("+00:00", "Z"),
        config=config.path,
        dataset=ManifestDataset(
            sources=tuple(ManifestSource(path=s.path, size=s.size, sha256=s.sha256) for s in report.sources),
            sha256=report.sha256,
            dialogues=report.dialogues,
            asked_turns=report.asked_turns,
            selection=checked.selection.to_plain(),
        ),
        history=rules.history,
        repeats=rules.repeats,
        settings=rules.command_line,
        options=ManifestOptions(
            concurrency=rules.concurrency,
            max_attempts=rules.max_attempts,
            in_rounds=rules.in_rounds,
            batch=rules.batch == "batch",
            batch_window=rules.batch_window,
            reuse=None if reuse is None else str(reuse.path.resolve()),
            **caps,
            fail_under=checked.fail_under,
            judge=None if checked.judge is None else checked.judge.name,
            given=given_options(found),
        ),
        targets=_priced(config, targets, rules, started),
        judges=() if checked.judge is None else (judge_to_manifest(checked.judge, config, started),),
        rates=config.exchange_rates,
        planned=PlannedRows(rows=per_target * len(targets), per_target=per_target),
        simulator=SimulatorSetup(seed=0) if any(target.simulated for target in targets) else None,
        checks=report.checks,
        judges_needed=report.judges_needed,
        preferences=report.preferences,
        python_checks=tuple(report.python_checks),
    )


def _priced(
    config: Config, targets: Sequence[Target], rules: RunRules, started: datetime
) -> tuple[ManifestTarget, ...]:
    from convbatch.config.list_prices import price_table

    priced: list[ManifestTarget] = []
    for target in targets:
        prices = price_table(target, config, started.date(), rules.command_line)
        batch = None
        if rules.batch is not None and prices is not None:
            batch = config.batch_prices_of(target) or prices.as_batch()
        priced.append(target_to_manifest(target, prices, config.served_prices_of(target, prices), batch_prices=batch))
    return tuple(priced)
