"""What `audit --plan` runs: the shipped probes, own dialogues mixed in, in an order that any budget may cut.

Also whether the targets of a plan can be judged at all, which must be known before the first call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from convbatch.auditing.replies import LIMIT, PROBES
from convbatch.comparison.inputs import split_run_and_target
from convbatch.dataset.in_memory import InMemoryDataset, in_memory_dataset
from convbatch.dataset.reader import Reader
from convbatch.dialogue import Dialogue
from convbatch.errors import Problem, SetupError, did_you_mean
from convbatch.journal.manifest import ManifestTarget
from convbatch.served_model import canonical_name

REPEATS = 16
"""Enough for the power that docs/audit.md states: rare routing takes many answers to each question."""
LEAST_REPEATS = 2
"""With one, no distance between replies of one side is known."""
FILES = {"en": "audit.jsonl", "zh": "audit.zh.jsonl"}
NAME = "audit"
"""In the name of the run folder."""


def probe_file(language: str) -> Path:
    """Return the shipped probes of a language: beside this file, in a checkout in `datasets/`.

    Raises:
        SetupError: There are none in this language, or they are not installed.
    """
    if language not in FILES:
        raise SetupError(f"no probes in {language!r}", hint=did_you_mean(language, FILES))
    here = Path(__file__).parent
    for folder in (here / "data", here.parent.parent / "datasets"):
        if (folder / FILES[language]).is_file():
            return folder / FILES[language]
    raise SetupError(f"the probes {FILES[language]} are not installed", hint="reinstall convbatch")


def probe_dataset(
    language: str, own: Sequence[Path] = (), *, takes_zero: bool = True, max_output_tokens: int | None = None
) -> InMemoryDataset:
    """Return the probes and own dialogues, each kind spread evenly, so that any part is like the whole.

    Args:
        language: Of the probes.
        own: Files of own dialogues.
        takes_zero: Whether all targets take a temperature of 0; else the probes that ask for it are left out.
        max_output_tokens: Limit of the probes that do not test limits; None: their own.

    Raises:
        SetupError: A file cannot be read or has problems, or an id is there twice.
    """
    probes = [
        _with_limit(probe, max_output_tokens)
        for probe in _dialogues(probe_file(language))
        if takes_zero or probe.settings.temperature != 0
    ]
    seen = {probe.id: "a probe" for probe in probes}
    mixed = list(probes)
    for path in own:
        for dialogue in _dialogues(path):
            if (other := seen.setdefault(dialogue.id, str(path))) != str(path):
                raise SetupError(f"{path}: the id {dialogue.id!r} is also that of {other}", hint="rename the dialogue")
            mixed.append(dialogue)
    kinds: dict[str, list[dict[str, Any]]] = {}
    for dialogue in mixed:
        tags = [tag for tag in dialogue.tags if tag in PROBES]
        kinds.setdefault(tags[0] if tags else "", []).append(dialogue.to_plain())
    spread = [(n / len(those), one) for those in kinds.values() for n, one in enumerate(those)]
    dataset = in_memory_dataset([one for _, one in sorted(spread, key=lambda each: each[0])])
    assert dataset is not None
    return dataclasses.replace(dataset, name=NAME)


def _with_limit(probe: Dialogue, most: int | None) -> Dialogue:
    if most is None or LIMIT in probe.tags:
        return probe
    return dataclasses.replace(probe, settings=dataclasses.replace(probe.settings, max_output_tokens=most))


def _dialogues(path: Path) -> Iterator[Dialogue]:
    """Yield the dialogues of a file.

    Raises:
        SetupError: The file cannot be read, has problems, or has media, whose paths are relative to it.
    """
    items = list(Reader([path]))
    if problems := [item for item in items if isinstance(item, Problem)]:
        raise SetupError.of(problems)
    for item in items:
        assert not isinstance(item, Problem)
        if any(part.path is not None for turn in item.dialogue.turns for part in turn.user):
            hint = "run these dialogues on their own, and audit both runs together"
            raise SetupError(f"{path}: {item.dialogue.id} has media: it cannot be mixed with the probes", hint=hint)
        yield item.dialogue


def earlier_targets(runs: Sequence[str]) -> list[ManifestTarget]:
    """Return the targets of the runs that are judged together with the one that is planned."""
    found: list[ManifestTarget] = []
    for text in runs:
        run, name = split_run_and_target(text)
        found += [target for target in run.manifest.targets if name in (None, target.name)]
    return found


def judged_names(
    planned: Sequence[ManifestTarget], earlier: Sequence[ManifestTarget] = (), *, reference: str | None = None
) -> tuple[str, ...]:
    """Return the targets to name when the planned run is judged: none, unless two models are taken for one.

    Args:
        planned: The targets of the plan.
        earlier: The targets of the runs that are judged with it.
        reference: The gateway or target to trust.

    Raises:
        SetupError: A target would be asked and could not be compared, or the reference is none of the targets.
    """
    models = [canonical_name(target.model) for target in (*planned, *earlier)]
    names = [target.name for target in planned]
    alone = [name for name, model in zip(names, models[: len(names)], strict=True) if models.count(model) == 1]
    takes_both_for_one = len(planned) == 2 and not earlier and len(alone) == 2
    if alone and not takes_both_for_one:
        raise SetupError(
            f"nothing to compare {', '.join(alone)} with: no other target claims the model",
            hint="ask the model at two gateways (-m MODEL -g A -g B), or name an earlier run of the same target: "
            "convbatch audit --plan -m MODEL -g A RUN",
        )
    known = {name for target in (*planned, *earlier) for name in (target.gateway.name, target.name)}
    if reference is not None and reference not in known:
        raise SetupError(f"--reference {reference}: no target has this name", hint=did_you_mean(reference, known))
    return tuple(names) if takes_both_for_one else ()
