"""Which target of a run a user means: by its whole name, or by a part of it that only one target has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from convbatch.errors import SetupError, did_you_mean

if TYPE_CHECKING:
    from convbatch.journal.manifest import ManifestTarget
    from convbatch.results.run import Run


def named_target(run: Run, text: str) -> ManifestTarget:
    """Return the target that a text names.

    Args:
        run: Its run.
        text: `model@gateway#variant` or, if only one target has it, a part: the model, `@gateway`, `#variant`, or two
            of them.

    Raises:
        SetupError: No target has this name, or several have this part of one.
    """
    targets = run.manifest.targets
    exact = next((target for target in targets if target.name == text), None)
    if exact is not None:
        return exact
    found = [target for target in targets if text in _parts(target)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(target.name for target in found)
        hint = f"name one of them: {found[0].name}"
        raise SetupError(f"run {run.name} has {len(found)} targets {text!r}", found=names, hint=hint)
    raise SetupError(f"run {run.name} has no target {text!r}", hint=did_you_mean(text, _names(targets)))


def target_in(runs: Sequence[Run], text: str) -> str:
    """Return the name of the target that a text names in the first of these runs that has one; raises as above."""
    for run in runs[:-1]:
        with contextlib.suppress(SetupError):
            return named_target(run, text).name
    return named_target(runs[-1], text).name


def _parts(target: ManifestTarget) -> Iterator[str]:
    place = f"@{target.gateway.name}"
    wordings = ("",) if target.variant is None else ("", f"#{target.variant.name}")
    for model in (target.model, ""):
        for gateway in (place, ""):
            yield from (model + gateway + wording for wording in wordings if model or gateway or wording)


def _names(targets: Sequence[ManifestTarget]) -> list[str]:
    return [target.name for target in targets]
