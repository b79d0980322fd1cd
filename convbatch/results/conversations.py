"""Dataset and journal of a run folder → every conversation of its plan, whether or not anything was ever sent.

What a transcript is, is `journal/index.py`; what becomes of a conversation is for others to say: `run.py` makes rows of
it, `session/judge_questions.py` questions.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from convbatch.dataset.selection import read_copy
from convbatch.dialogue import Dialogue
from convbatch.errors import Place, SetupError
from convbatch.journal.index import Archive, Opinion, Transcript, TurnHistory
from convbatch.journal.run_folder import RunFolder, typed
from convbatch.pricing import Exchange, PriceTable
from convbatch.results.costs import prices_of
from convbatch.results.verdicts import Played

Head = tuple[str, str, int, str, str, str, int]
"""`run dialogue dialogue_index target model gateway repeat`: the columns that all tables begin with."""


class Kept(NamedTuple):
    """One dialogue at one target, repeat k, as a run folder keeps it."""

    dialogue: Dialogue
    prices: PriceTable | None
    head: Head
    turns: Mapping[int, TurnHistory]
    """By turn number; those without a record are absent."""
    asked: Mapping[int, TurnHistory]
    """Of every turn that is asked, in order."""
    opinions: tuple[Opinion, ...]
    """Of all judges that were ever asked about it."""
    played: Played
    """The same, as checks look at it."""


def kept_conversations(folder: RunFolder, meta: Mapping[str, Any], archive: Archive) -> Iterator[Kept]:
    """Every conversation of the plan by (dialogue index, target name, repeat)."""
    run = str(meta.get("run", folder.name))
    targets = sorted(meta["targets"], key=itemgetter("name"))
    prices = {target["name"]: prices_of(target) for target in targets}
    rates = Exchange.from_plain(meta.get("rates", {}))
    judge = judge_of(meta)
    for index, dialogue, judged_by, found in _scripts_with_transcripts(folder, archive):
        for target in targets:
            name, gateway = target["name"], gateway_of(target)
            for repeat in range(1, meta["repeats"] + 1):
                turns = found[name, repeat].turns if (name, repeat) in found else {}
                asked = {n: turns.get(n) or TurnHistory(turn=n) for n in dialogue.asked(meta["history"])}
                opinions = archive.opinions(index, name, repeat) if archive.has_opinions else []
                played = Played(
                    dialogue=judged_by,
                    target=name,
                    repeat=repeat,
                    turns=asked,
                    history=meta["history"],
                    prices=prices[name],
                    rates=rates,
                    opinions={(one.turn, one.asked): one for one in opinions if one.judge == judge},
                )
                head = (run, dialogue.id, index, name, target["model"], gateway, repeat)
                yield Kept(dialogue, prices[name], head, turns, asked, tuple(opinions), played)


def judge_of(meta: Mapping[str, Any]) -> str | None:
    """Whose opinion counts: the judge that was named last; None where there was never one."""
    judges = meta.get("judges") or ()
    return judges[-1]["name"] if judges else None


def judges_of(meta: Mapping[str, Any], archive: Archive) -> dict[str, Mapping[str, Any]]:
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
            f"convbatch check {typed(archive.folder.path)} --judge {shlex.quote(lost[0])}",
        )
    return named


def gateway_of(target: Mapping[str, Any]) -> str:
    """What the column `gateway` says of a target of `run.json`."""
    return "simulator" if target["simulated"] else target["gateway"]["name"]


def scripts(folder: RunFolder) -> Iterator[tuple[int, Dialogue, Dialogue]]:
    """Index and dialogue, and the dialogue with the checks that hold."""
    if not folder.checks.exists():
        for index, dialogue in read_copy(folder.dataset):
            yield index, dialogue, dialogue
        return
    edited = read_copy(folder.checks)
    for index, dialogue in read_copy(folder.dataset):
        _, judged_by = next(edited, (index, dialogue))
        yield index, dialogue, judged_by


def _scripts_with_transcripts(
    folder: RunFolder, archive: Archive
) -> Iterator[tuple[int, Dialogue, Dialogue, Mapping[tuple[str, int], Transcript]]]:
    """As `scripts`, with what was journaled of each by target and repeat."""
    journaled = groupby(archive.transcripts(), key=lambda transcript: transcript.index)
    due = next(journaled, None)
    for index, dialogue, judged_by in scripts(folder):
        found: dict[tuple[str, int], Transcript] = {}
        if due is not None and due[0] == index:
            found = {(transcript.target, transcript.repeat): transcript for transcript in due[1]}
            due = next(journaled, None)
        yield index, dialogue, judged_by, found
