"""Dataset and journal of a run folder → every conversation of its plan, whether or not anything was sent.

What a transcript is, is `journal/index.py`; what becomes of a conversation is for others to say: `run.py` makes rows of
it, `session/judge.py` questions.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from convbatch.dataset.snapshot import read_copy
from convbatch.dialogue import Dialogue
from convbatch.errors import Place, SetupError
from convbatch.journal.index import Archive, JudgeCall, Transcript, TurnHistory
from convbatch.journal.manifest import Manifest, ManifestTarget
from convbatch.journal.run_folder import RunFolder, shell_quote
from convbatch.results.verdicts import ConversationResult


class ConversationId(NamedTuple):
    """Which conversation a row is about: the first columns of every table."""

    run: str
    dialogue: str
    dialogue_index: int
    target: str
    model: str
    gateway: str
    variant: str | None
    repeat: int


class StoredConversation(NamedTuple):
    """One dialogue at one target, repeat k, as a run folder holds it."""

    dialogue: Dialogue
    target: ManifestTarget
    id: ConversationId
    turns: Mapping[int, TurnHistory]
    """By turn number; those without a record are absent."""
    asked: Mapping[int, TurnHistory]
    """Every turn that is asked, in order."""
    judge_calls: tuple[JudgeCall, ...]
    """Calls to all judges about it."""
    result: ConversationResult
    """The same conversation as the input of its checks."""


def stored_conversations(folder: RunFolder, manifest: Manifest, archive: Archive) -> Iterator[StoredConversation]:
    """Read every conversation of the plan, ordered by dialogue index, target name and repeat."""
    stored = StoredDialogues(folder, manifest, archive)
    for index, dialogue, judged_by, found in _dialogues_with_transcripts(folder, archive):
        yield from stored.conversations(index, dialogue, judged_by, found)


class StoredDialogues:
    """Makes the conversations of a dialogue from its transcripts."""

    def __init__(self, folder: RunFolder, manifest: Manifest, archive: Archive) -> None:
        self._run = manifest.run or folder.name
        self._manifest = manifest
        self._archive = archive
        self._targets = [(one, gateway_of(one)) for one in sorted(manifest.targets, key=attrgetter("name"))]

    def conversations(
        self, index: int, dialogue: Dialogue, judged_by: Dialogue, found: Mapping[tuple[str, int], Transcript]
    ) -> Iterator[StoredConversation]:
        """Yield every conversation of a dialogue, ordered by target name and repeat.

        Args:
            index: Of the dialogue.
            dialogue: It.
            judged_by: The same with its current checks.
            found: Transcripts by target and repeat.
        """
        manifest, archive = self._manifest, self._archive
        judge = manifest.current_judge
        for target, gateway in self._targets:
            name = target.name
            variant = None if target.variant is None else target.variant.name
            asked_dialogue = target.asked(dialogue)
            for repeat in range(1, manifest.repeats + 1):
                turns = found[name, repeat].turns if (name, repeat) in found else {}
                asked = {n: turns.get(n) or TurnHistory(turn=n) for n in dialogue.asked(manifest.history)}
                judge_calls = archive.judge_calls(index, name, repeat) if archive.has_judge_calls else []
                result = ConversationResult(
                    dialogue=target.asked(judged_by),
                    target=name,
                    repeat=repeat,
                    turns=asked,
                    history=manifest.history,
                    recorded=target,
                    rates=manifest.rates,
                    judge_calls={
                        (one.turn, one.question): one for one in judge_calls if judge and one.judge == judge.name
                    },
                )
                key = ConversationId(self._run, dialogue.id, index, name, target.model, gateway, variant, repeat)
                yield StoredConversation(asked_dialogue, target, key, turns, asked, tuple(judge_calls), result)


def judges_by_name(manifest: Manifest, archive: Archive) -> dict[str, ManifestTarget]:
    """Return the judges of `run.json` by name.

    Raises:
        SetupError: The journal has calls to another judge, whose prices are unknown.
    """
    named = {judge.name: judge for judge in manifest.judges}
    lost = [name for name in archive.judges() if name not in named]
    if lost:
        raise SetupError(
            f"run.json is not as convbatch wrote it: it does not name the judge {lost[0]}, which is in the journal",
            place=Place(path=str(archive.folder.path / "run.json")),
            hint="restore run.json from a copy, or name the judge again: "
            f"convbatch check {shell_quote(archive.folder.path)} --judge {shlex.quote(lost[0])}",
        )
    return named


def gateway_of(target: ManifestTarget) -> str:
    """Return the value of the column `gateway` for a target."""
    return "simulator" if target.simulated else target.gateway.name


def dialogues_with_checks(folder: RunFolder) -> Iterator[tuple[int, Dialogue, Dialogue]]:
    """Yield the index, the dialogue, and the dialogue with its current checks."""
    if not folder.checks.exists():
        for index, dialogue in read_copy(folder.dataset):
            yield index, dialogue, dialogue
        return
    edited = read_copy(folder.checks)
    for index, dialogue in read_copy(folder.dataset):
        _, judged_by = next(edited, (index, dialogue))
        yield index, dialogue, judged_by


def _dialogues_with_transcripts(
    folder: RunFolder, archive: Archive
) -> Iterator[tuple[int, Dialogue, Dialogue, Mapping[tuple[str, int], Transcript]]]:
    """Yield as `dialogues_with_checks`, with the transcripts of each dialogue by target and repeat."""
    journaled = groupby(archive.transcripts(), key=lambda transcript: transcript.index)
    due = next(journaled, None)
    for index, dialogue, judged_by in dialogues_with_checks(folder):
        found: dict[tuple[str, int], Transcript] = {}
        if due is not None and due[0] == index:
            found = {(transcript.target, transcript.repeat): transcript for transcript in due[1]}
            due = next(journaled, None)
        yield index, dialogue, judged_by, found
