"""The runs on a command line → the targets that are ranked, each with a name that no other one has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convbatch.comparison.inputs import select_run
from convbatch.dataset.reader import count_of
from convbatch.errors import SetupError, did_you_mean

if TYPE_CHECKING:
    from convbatch.comparison.compare import RunReference
    from convbatch.results.run import Run

MOST_TARGETS = 40


@dataclass(frozen=True, slots=True)
class Entry:
    """A target of a run."""

    run: Run
    target: str
    name: str
    """The target; with its run where several runs have it."""

    @property
    def reference(self) -> tuple[Run, str]:
        """The target as `load_inputs` takes it."""
        return self.run, self.target


def chosen_entries(runs: Sequence[RunReference], what: str, *, most: int = MOST_TARGETS) -> list[Entry]:
    """Return the targets of runs.

    Args:
        runs: As for `rank`.
        what: What needs them, for messages.
        most: The most there may be.

    Raises:
        SetupError: There are fewer than two, or too many, or one is named twice.
    """
    found: dict[tuple[Path, str], tuple[Run, str]] = {}
    for selected in map(select_run, runs):
        for target in selected.targets:
            key = selected.run.path.resolve(), target
            if key in found:
                raise SetupError(f"{target} of run {selected.run.name} is named twice", hint="name each target once")
            found[key] = (selected.run, target)
    if len(found) < 2:
        only = next((f"{run.name}:{target}" for run, target in found.values()), "none")
        raise SetupError(
            f"{what} needs at least two targets, and there is {'only ' if found else ''}{only}",
            hint="name more runs, or a run of several targets; `convbatch runs` lists them",
        )
    if len(found) > most:
        verb = "ranked" if most == MOST_TARGETS else "compared in pairs"
        raise SetupError(f"at most {most} targets can be {verb}, not {len(found)}", hint="name RUN:target")
    targets = [target for _, target in found.values()]
    names = [run.name for run, _ in found.values()]
    entries: list[Entry] = []
    for run, target in found.values():
        name = target if targets.count(target) == 1 else f"{run.name}:{target}"
        if targets.count(target) > 1 and len({(n, t) for n, t in zip(names, targets, strict=True)}) < len(found):
            name = f"{run.path}:{target}"  # two runs of one name
        entries.append(Entry(run, target, name))
    return entries


def check_gate(fail_if_beaten: str | None, entries: Sequence[Entry]) -> None:
    """Refuse a gate of a target that is not ranked."""
    names = [one.name for one in entries]
    if fail_if_beaten is not None and fail_if_beaten not in names:
        raise SetupError(
            f"--fail-if-beaten names no ranked target: {fail_if_beaten!r}", hint=did_you_mean(fail_if_beaten, names)
        )


def pair_notes(pairs: Mapping[str, Sequence[tuple[str, str]]]) -> Iterator[str]:
    """Yield a line for each note about pairs of targets.

    Args:
        pairs: The names of base and candidate, for each pair that a note is about.
    """
    for note, named in pairs.items():
        base, candidate = named[0]
        others = f", and {count_of(len(named) - 1, 'more pair')}" if len(named) > 1 else ""
        yield f"{base} (base), {candidate} (candidate){others}: {note}"
