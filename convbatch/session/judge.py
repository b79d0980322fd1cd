"""From `--judge` to a `SessionSpec` that asks it: who judges, with which key, at what price; nothing is sent.

How a sitting is played is `session.py`, what a judge is asked `judge_questions.py`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from convbatch.config.gateways import Config, Overrides, Target, target_from_plain, target_to_plain
from convbatch.config.targets import resolve_targets
from convbatch.dialogue import NO_SETTINGS
from convbatch.engine.runner import RunRules
from convbatch.errors import ConvbatchError, SetupError
from convbatch.exit_codes import ExitCode, worst
from convbatch.session.cost_cap import resolve_cap
from convbatch.session.options import JudgeOptions
from convbatch.session.preflight import check_reachable
from convbatch.session.session import SessionResult, SessionSpec

if TYPE_CHECKING:
    from convbatch.journal.run_folder import RunFolder

_READ = ("targets", "history", "repeats", "planned", "options", "dataset", "rates", "judges")


def judge_target(name: str, config: Config, overrides: Overrides) -> Target:
    """The judge of this name.

    Raises:
        SetupError: No such gateway, or none is named.
    """
    return resolve_targets((name,), (), config, overrides)[0]


def judge_to_plain(judge: Target, config: Config, day: datetime) -> dict[str, Any]:
    """A judge as `run.json` names it, with its prices."""
    from convbatch.config.list_prices import price_table

    return target_to_plain(judge, price_table(judge, config, day.date(), NO_SETTINGS))


@contextmanager
def reading_run_json(folder: RunFolder) -> Generator[None]:
    """While targets are read from `run.json`: it is a file, and files are edited.

    Raises:
        SetupError: Something in them is missing or wrong.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SetupError(
            f"the run.json of {folder.path} is not as convbatch wrote it",
            found=f"{type(error).__name__}: {error}"[:200],
            hint="restore run.json from a copy, or run the dataset again with --reuse of an intact run",
        ) from None


def prepare_judging(folder: RunFolder, options: JudgeOptions) -> SessionSpec:
    """A sitting that asks this judge about what a run has received; from now on its opinion counts.

    Raises:
        SetupError: A judge that cannot be asked, or a `run.json` that cannot be used.
        InputError: A configuration that cannot be read.
    """
    from convbatch.config.credentials import with_env_file
    from convbatch.config.loader import load_config

    meta = folder.read_meta(*_READ)
    with reading_run_json(folder):
        for plain in (*meta["targets"], *(meta.get("judges") or ())):
            target_from_plain(plain)
    config = load_config(options.config)
    judge = judge_target(options.judge, config, Overrides(rpm=options.rpm, tpm=options.tpm))
    plain = judge_to_plain(judge, config, datetime.now(UTC))
    others = {one["name"]: one for one in meta.get("judges") or ()}
    former = others.pop(judge.name, None)
    if former is not None and former.get("prices") is not None:
        plain["prices"] = former["prices"]  # as a run's own: what was paid stays what it was; `report -c` reprices
    max_cost = meta["options"].get("max_cost") if options.max_cost is None else options.max_cost
    rates = {**config.exchange_rates.to_plain(), **(meta.get("rates") or {})}
    meta = {
        **meta,
        "judges": [*others.values(), plain],
        "rates": rates,
        "options": {**meta["options"], "max_cost": max_cost},
    }
    spec = SessionSpec(
        folder=folder,
        meta=meta,
        targets=(judge,),
        env=with_env_file(os.environ, options.env_file),
        rules=RunRules(concurrency=options.concurrency or config.run.concurrency),
        resumed=True,
        judging=True,
        progress=options.progress,
    )
    return _check_ready(spec)


def prepare_judging_after(spec: SessionSpec, result: SessionResult) -> SessionSpec | None:
    """What follows a run, or its resume, that has a judge; None without one, and where the run was stopped before.

    Raises:
        SetupError: As `prepare_judging`.
    """
    if result.reason not in ("finished", "incomplete") or not wants_judge(spec.meta):
        return None
    meta = spec.folder.read_meta(*_READ)
    rules = RunRules(concurrency=spec.rules.concurrency, max_attempts=spec.rules.max_attempts)
    judge = target_from_plain(meta["judges"][-1])
    return _check_ready(
        dataclasses.replace(
            spec,
            meta=meta,
            targets=(judge,),
            rules=rules,
            resumed=True,
            salvage=False,
            judging=True,
            reuse=None,
        )
    )


def judge_not_asked(error: ConvbatchError) -> SessionResult:
    """How judging ended when the judge could not be asked after the replies of its run had arrived."""
    return SessionResult(exit_code=worst(ExitCode.INCOMPLETE, error.exit_code), reason="error", error=error)


def wants_judge(meta: Mapping[str, Any]) -> bool:
    """Was the run itself begun with a judge?"""
    return bool(meta["options"].get("judge") and meta.get("judges"))


def _check_ready(spec: SessionSpec) -> SessionSpec:
    """The sitting, once it is sure that its judge can be asked within the budget."""
    check_reachable(spec.targets, spec.rules.concurrency, spec.env)
    cap = resolve_cap(
        spec.meta["options"].get("max_cost"),
        {**spec.meta, "targets": [one for one in spec.meta["targets"] if one.get("prices") is not None]},
        spec.targets,
        NO_SETTINGS,
        None,
    )
    return dataclasses.replace(spec, max_cost=cap)
