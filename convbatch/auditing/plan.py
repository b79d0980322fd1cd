"""The dataset of `audit --plan`: the shipped probes, own dialogues mixed in, in an order that any budget may cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from convbatch.auditing.replies import PROBES
from convbatch.dataset.in_memory import InMemoryDataset, in_memory_dataset
from convbatch.dataset.reader import Reader
from convbatch.errors import Problem, SetupError, did_you_mean

REPEATS = 16
"""Enough for the power that docs/audit.md states: rare routing takes many answers to each question."""
LEAST_REPEATS = 2
"""With one, no distance between replies of one side is known."""
FILES = {"en": "audit.jsonl", "zh": "audit.zh.jsonl"}


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


def probe_dataset(language: str, own: Sequence[Path] = ()) -> InMemoryDataset:
    """Return the probes and own dialogues, one kind after another in turn, so that any part has all kinds."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for path in (probe_file(language), *own):
        for plain in _dialogues(path):
            tags = [tag for tag in plain.get("tags", ()) if tag in PROBES]
            kinds.setdefault(tags[0] if tags else "", []).append(plain)
    rounds = itertools.zip_longest(*kinds.values())
    dataset = in_memory_dataset([one for those in rounds for one in those if one is not None])
    assert dataset is not None
    return dataset


def _dialogues(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the dialogues of a file as plain objects.

    Raises:
        SetupError: The file cannot be read, has problems, or has media, whose paths are relative to it.
    """
    reader = Reader([path])
    for item in reader:
        if isinstance(item, Problem):
            raise SetupError.of([item])
        dialogue = item.dialogue
        if any(part.path is not None for turn in dialogue.turns for part in turn.user):
            hint = "run these dialogues on their own, and audit both runs together"
            raise SetupError(f"{path}: {dialogue.id} has media: it cannot be mixed with the probes", hint=hint)
        yield dialogue.to_plain()
