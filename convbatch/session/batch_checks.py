"""What cannot be asked by batch jobs: it is refused before the first request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from convbatch.config.gateways import Target
from convbatch.dialogue import Dialogue
from convbatch.errors import Issue, Problem, SetupError
from convbatch.journal.manifest import Manifest
from convbatch.protocols.batches import BATCH_APIS
from convbatch.session.options import ResumeOptions, RunOptions

WINDOWS = ("2h", "8h")
_WITHOUT_EFFECT = {"concurrency": "-j", "rpm": "--rpm", "tpm": "--tpm", "rpd": "--rpd"}


def refuse_batch_options(options: RunOptions, targets: Sequence[Target]) -> None:
    """Refuse options and targets that do not go with `--batch`, all in one error.

    Raises:
        SetupError: There are some.
    """
    problems: list[Problem] = []
    if options.follow:
        problems.append(Problem(what="--follow prints turns as they come, and those of a batch job come together",
                                hint="leave --follow or --batch out"))  # fmt: skip
    for name, written in _WITHOUT_EFFECT.items():
        if getattr(options, name) is not None:
            problems.append(Problem(what=f"{written} has no effect on batch jobs, whose limits the provider sets",
                                    hint=f"leave {written} or --batch out"))  # fmt: skip
    if options.batch_window is not None:
        problems += _window_problems(options, targets)
    problems += [problem for target in targets if (problem := _problem_of(target)) is not None]
    if problems:
        raise SetupError.of(problems)


def _window_problems(options: RunOptions, targets: Sequence[Target]) -> Iterator[Problem]:
    if not options.batch:
        yield Problem(what="--batch-window is an option of --batch", hint="add --batch")
    if options.batch_window not in WINDOWS:
        yield Problem(
            what="--batch-window must be 2h or 8h",
            found=repr(options.batch_window),
            hint="leave it out for batch jobs, which take at most 24 h",
        )
    for target in targets:
        if target.gateway.protocol != "responses":
            yield Problem(
                what=f"--batch-window: {target.name} speaks {target.gateway.protocol}, and only responses has windows",
                hint="leave --batch-window out, or ask through -g openai-responses",
            )


def _problem_of(target: Target) -> Problem | None:
    gateway = target.gateway
    if target.members:
        return Problem(
            what=f"--batch: {target.name} is a pool, and a batch job belongs to one key",
            hint=f"ask one of its members: {', '.join(one.name for one in target.asked_targets)}",
        )
    if gateway.protocol not in BATCH_APIS:
        return Problem(
            what=f"--batch: {target.name} speaks {gateway.protocol}, which has no batch API",
            hint="ask this target in a separate run without --batch",
        )
    if not gateway.batches:
        return Problem(
            what=f"--batch: the gateway {gateway.name!r} is not known to have batches",
            hint=f"if it has the batch API of its protocol ({gateway.protocol}), write batches = true below "
            f"[gateways.{gateway.name}]; else ask this target in a separate run",
        )
    if gateway.stream:
        return Problem(
            what=f"--batch: {target.name} is asked for streams, and batch jobs do not stream",
            hint="leave out --stream, or `stream` in the config",
        )
    return None


def batch_issues(dialogue: Dialogue) -> Iterator[Issue]:
    """Yield what a dialogue has that batch jobs do not do."""
    if dialogue.tools:
        yield Issue(
            what="tools: each call of a tool would take a batch job of its own",
            hint="ask this dialogue in a separate run without --batch",
        )


def batch_mode(options: ResumeOptions, manifest: Manifest) -> Literal["batch", "live", "cancel"] | None:
    """Return how a run goes on: as it began, unless `--no-batch` was given.

    Raises:
        SetupError: The run was not started with `--batch`.
    """
    if options.cancels:
        return "cancel"
    if manifest.options.batch:
        return "batch" if options.batch else "live"
    if not options.batch:
        raise SetupError("--no-batch: this run has no batch jobs", hint="leave the option out")
    return None
