"""What a new run notes before it starts: names that will not find it, variants that say the same."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from convbatch.console.text import log_note
from convbatch.journal.run_folder import list_runs, shell_quote
from convbatch.journal.run_names import names_of

if TYPE_CHECKING:
    from convbatch.config.gateways import Target


def note_names(name: str, folder: Path | None, results: Path) -> None:
    """Note that a name will not find the new run, because another one has it already or nobody looks for it there."""
    if folder is not None and folder.absolute().parent.resolve() != results.absolute().resolve():
        log_note(
            f"note: names are looked up in {results}/: where a RUN is given, name the folder {shell_quote(folder)}"
        )
        return
    others = [folder for folder in list_runs(results) if name in names_of(folder)]
    if others:
        newest = shell_quote(others[-1].path)
        log_note(f"note: {newest} has the name {name!r} too: where a RUN is given, name the folder")


def note_equal_variants(targets: Sequence[Target]) -> None:
    """Note that two variants say the same, so that the same requests are asked and paid twice."""
    variants = {target.variant.name: target.variant for target in targets if target.variant is not None}
    for one, other in itertools.combinations(variants.values(), 2):
        if replace(one, name=other.name) == other:
            log_note(f"note: the variants {one.name} and {other.name} are the same wording, and each of them is paid")
