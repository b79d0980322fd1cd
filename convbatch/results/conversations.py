"""Dataset and journal of a run folder → every conversation of its plan, whether or not anything was ever sent.

What a transcript is, is `journal/index.py`; what becomes of a conversation is for others to say: `run.py` makes rows of
it, `session/judge.py` questions.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from convbatch.dataset.snapshot import read_copy
from convbatch.dialogue import Dialogue
from convbatch.errors import Place, SetupError
from convbatch.journal.index import Archive, JudgeCall, Transcript, TurnHistory
from convbatch.journal.run_folder import RunFolder, shell_quote
from convbatch.pricing import ExchangeRates, PriceTable
from convbatch.results.costs import target_prices
from convbatch.results.verdicts import ConversationResult


class ConversationId(NamedTuple):
    """Which conversation a row is about: the columns that all tables begin with."""

    run: str
    dialogue: str
    dialogue_index: int
    target: str
    model: str
    gateway: str
    repeat: int


class StoredConversation(NamedTuple):
    """One dialogue at one target, repeat k, as a run folder keeps it."""

    dialogue: Dialogue
    prices: PriceTable | None
    id: ConversationId
    turns: Mapping[int, TurnHistory]
    """By turn number; those without a record are absent."""
    asked: Mapping[int, TurnHistory]
    """Of every turn that is asked, in order."""
    judge_calls: tuple[JudgeCall, ...]
    """Of all judges that were ever asked about it."""
    result: ConversationResult
    """The same, as checks look at it."""


def stored_conversations(folder: RunFolder, meta: Mapping[str, Any], archive: Archive) -> Iterator[StoredConversation]:
    """Every conversation of the plan by (dialogue index, target name, repeat)."""
    run = str(meta.get("run", folder.name))
    targets = sorted(meta["targets"], key=itemgetter("name"))
    prices = {target["name"]: target_prices(target) for target in targets}
    rates = ExchangeRates.from_plain(meta.get("rates", {}))
    judge = current_judge(meta)
    for index, dialogue, judged_by, found in _dialogues_with_transcripts(folder, archive):
        for target in targets:
            name, gateway = target["name"], gateway_of(target)
            for repeat in range(1, meta["repeats"] + 1):
                turns = found[name, repeat].turns if (name, repeat) in found else {}
                asked = {n: turns.get(n) or TurnHistory(turn=n) for n in dialogue.asked(meta["history"])}
                judge_calls = archive.judge_calls(index, name, repeat) if archive.has_judge_calls else []
                result = ConversationResult(
                    dialogue=judged_by,
                    target=name,
                    repeat=repeat,
                    turns=asked,
                    history=meta["history"],
                    prices=prices[name],
                    rates=rates,
                    judge_calls={(one.turn, one.question): one for one in judge_calls if one.judge == judge},
                )
                key = ConversationId(run, dialogue.id, index, name, target["model"], gateway, repeat)
                yield StoredConversation(dialogue, prices[name], key, turns, asked, tuple(judge_calls), result)


def current_judge(meta: Mapping[str, Any]) -> str | None:
    """Whose opinion counts: the judge that was named last; None where there was never one."""
    judges = meta.get("judges") or ()
    return judges[-1]["name"] if judges else None


def judges_by_name(meta: Mapping[str, Any], archive: Archive) -> dict[str, Mapping[str, Any]]:
    """The judges of `run.json` by name.

    Raises:
        SetupError: The journal has opinions of another one; nothing would say what those cost.
    """
    named = {judge["name"]: judge for judge in meta.get("judges") or ()}
    lost = [name for name in archive.judges() if name not in named]
    if lost:
        raise SetupError(
            f"run.json is not as convbatch wrote it: it does not name the judge {lost[0]}, whom the journal knows",
            place=Place(path=str(archive.folder.path / "run.json")),
            hint="restore run.json from a copy, or name the judge again: "
            f"convbatch check {shell_quote(archive.folder.path)} --judge {shlex.quote(lost[0])}",
        )
    return named


def gateway_of(target: Mapping[str, Any]) -> str:
    """What the column `gateway` says of a target of `run.json`."""
    return "simulator" if target["simulated"] else target["gateway"]["name"]


def dialogues_with_checks(folder: RunFolder) -> Iterator[tuple[int, Dialogue, Dialogue]]:
    """Index and dialogue, and the dialogue with the checks that hold."""
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
    """As `dialogues_with_checks`, with what was journaled of each by target and repeat."""
    journaled = groupby(archive.transcripts(), key=lambda transcript: transcript.index)
    due = next(journaled, None)
    for index, dialogue, judged_by in dialogues_with_checks(folder):
        found: dict[tuple[str, int], Transcript] = {}
        if due is not None and due[0] == index:
            found = {(transcript.target, transcript.repeat): transcript for transcript in due[1]}
            due = next(journaled, None)
        yield index, dialogue, judged_by, found
