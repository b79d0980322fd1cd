"""Learn from earlier runs: replies of a target → `TargetProfile`, and replies that another run may reuse.

It reads run folders and nothing else. The estimate is made in `estimator.py`.
"""

from __future__ import annotations

import contextlib
import heapq
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convbatch.config.gateways import Target
from convbatch.dataset.reader import count_of
from convbatch.dataset.sample import length_of, tags_of
from convbatch.dataset.snapshot import read_copy
from convbatch.dialogue import Dialogue, Message, effective_settings, text_part
from convbatch.engine.plan import replies_at_once
from convbatch.errors import ConvbatchError
from convbatch.estimation.estimator import (
    EMPTY_TEXT,
    FEW_DIALOGUES,
    ObservedTurn,
    ReusedReply,
    ReuseLookup,
    TargetProfile,
    TextSize,
    default_profile,
    fit_profile,
    profile_for_other_model,
    size_of,
    size_of_media,
)
from convbatch.journal.manifest import Manifest, ManifestTarget
from convbatch.journal.records import kept_body
from convbatch.journal.run_folder import RunFolder, list_runs, shell_quote
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.reading import read_answer
from convbatch.protocols.replay import as_configured
from convbatch.reply import Reply, reply_from_plain, status_of

if TYPE_CHECKING:
    from convbatch.journal.index import Archive, TurnHistory

NEWEST = 20
"""Number of runs that are searched for replies of the same target."""
ENOUGH_TURNS = 20_000
"""Turns read from a run; more do not improve the profile. A larger run gives a stratified sample of about as many."""
MOST_COMPARED = 100_000
"""Planned dialogues that are looked for in earlier runs, which bounds the memory."""
MOST_STRATA = 4096
"""Dialogues of further combinations of tags count as one stratum, which bounds the memory."""
ROUGH = "rough estimate"
"""How the source of a profile begins that was not learned from the planned dialogues."""


class EarlierRuns:
    """The runs that a plan may be estimated from.

    Args:
        results: Folder of all runs.
        dataset: The planned dialogues.
        dialogues: How many they are.
    """

    def __init__(self, results: Path, dataset: Path, dialogues: int) -> None:
        self._results = results
        self._dataset = dataset
        self._dialogues = dialogues

    def profile(self, target: Target, reuse: RunFolder | None) -> TargetProfile:
        """Return the profile of a target, learned from the reused run, else from the best evidence of all runs.

        That is the run with the most dialogues of the plan, of equal ones that with the most dialogues, of equal ones
        the newest; as long as they have too few dialogues of the plan, the next ones that have some are added. Without
        any such dialogue, runs of other dialogues are used, until they have enough.

        Args:
            target: The target.
            reuse: If given, only this run is searched; where it lacks the target, its most similar target is used.
        """
        if reuse is not None:
            found = self._from_reused(target, reuse)
        else:
            runs: list[_Evidence] = []
            for evidence in self._by_evidence(target):
                if runs and self._common(runs) and not self._common([evidence]):
                    break  # the mean of the plan's own dialogues is not mixed with that of others
                runs.append(evidence)
                if len(_dialogues_of(runs) & self._planned or _dialogues_of(runs)) >= FEW_DIALOGUES:
                    break
            found = self._fit(runs, "")
        missing = "no earlier run" if reuse is None else f"no reply in {shell_quote(reuse.path)}"
        return found or default_profile(f"{ROUGH}: {missing} to learn from")

    def _from_reused(self, target: Target, folder: RunFolder) -> TargetProfile | None:
        try:
            models = {known.name: known.model for known in folder.read_manifest().targets}
            for name, model in sorted(models.items(), key=lambda one: (one[0] != target.name, one[1] != target.model)):
                origin = "" if name == target.name else f" of {name}"
                origin += "" if model == target.model else ", another model"
                found = self._fit([_Evidence(folder, list(_observed_turns(folder, name)))], origin)
                if found is not None:
                    return found if model == target.model else profile_for_other_model(found)
        except (ConvbatchError, OSError):
            pass  # an unreadable run teaches nothing; `--reuse` of it is refused elsewhere
        return None

    def _fit(self, runs: Sequence[_Evidence], origin: str) -> TargetProfile | None:
        observed = [one for run in runs for one in run.observed]
        count = sum(one.output_tokens is not None for one in observed)
        common = self._common(runs)
        where = " and ".join(shell_quote(run.folder.path) for run in runs)
        what = f"{'1 reply' if count == 1 else f'{count:,} replies'}{origin}"
        source = f"learned from {where} ({what}, {common:,} of {count_of(self._dialogues, 'dialogue')})"
        few = len(_dialogues_of(runs))
        is_other = common < min(FEW_DIALOGUES, self._dialogues)
        if few < FEW_DIALOGUES:
            source = f"{ROUGH}: only {count_of(few, 'dialogue')} to learn from; {source}"
        elif is_other:
            source = f"{ROUGH}: {'mostly ' if common else ''}from other dialogues; {source}"
        return fit_profile(observed, source, self._dialogues, is_rough=is_other)

    def _common(self, runs: Sequence[_Evidence]) -> int:
        """Return how many dialogues of the plan have counted replies in these runs."""
        return len(_dialogues_of(runs) & self._planned)

    def _by_evidence(self, target: Target) -> Iterator[_Evidence]:
        """Yield the runs with replies of a target, the best evidence first; reads no more journals than necessary."""
        heap: list[tuple[int, int, int, _Evidence | None]] = []
        folders = list(reversed(list_runs(self._results)[-NEWEST:]))
        for age, folder in enumerate(folders):
            with contextlib.suppress(ConvbatchError, OSError):
                manifest = folder.read_manifest()
                if target.name in manifest.target_names:
                    most = manifest.dataset.dialogues  # replaced by the true numbers once it is the best
                    heap.append((-min(most, self._dialogues), -most, age, None))
        heapq.heapify(heap)
        while heap:
            _, _, age, evidence = heapq.heappop(heap)
            if evidence is not None:
                yield evidence
                continue
            with contextlib.suppress(ConvbatchError, OSError):  # an unreadable run teaches nothing
                evidence = _Evidence(folders[age], list(_observed_turns(folders[age], target.name)))
                dialogues = _dialogues_of([evidence])
                if dialogues:
                    heapq.heappush(heap, (-len(dialogues & self._planned), -len(dialogues), age, evidence))

    @cached_property
    def _planned(self) -> frozenset[int]:
        return frozenset(_identity(dialogue) for _, dialogue in islice(read_copy(self._dataset), MOST_COMPARED))


class _Evidence(NamedTuple):
    """What one run shows of a target."""

    folder: RunFolder
    observed: list[ObservedTurn]


def _dialogues_of(runs: Iterable[_Evidence]) -> set[int]:
    """Return the dialogues with counted replies."""
    return {one.dialogue for run in runs for one in run.observed if one.output_tokens is not None}


def _identity(dialogue: Dialogue) -> int:
    """Return a number for a dialogue: equal where its id and everything that is asked are equal."""
    return hash((dialogue.id, dialogue.system, *(turn.user_text for turn in dialogue.turns)))


def _observed_turns(folder: RunFolder, target: str) -> Iterator[ObservedTurn]:
    """Yield the finished turns of one target, in the order of the dataset."""
    from convbatch.journal.index import Archive

    manifest = folder.read_manifest()
    recorded = next(one for one in manifest.targets if one.name == target)
    share = ENOUGH_TURNS / max(1, manifest.planned.rows // len(manifest.targets))
    with Archive(folder) as archive:
        for index, dialogue in stratified(read_copy(folder.dataset), share):
            for repeat in range(1, manifest.repeats + 1):
                turns = archive.transcript(index, target, repeat).turns
                if turns:
                    yield from _observed_in(recorded.asked(dialogue), turns, manifest, recorded)


def stratified(dialogues: Iterable[tuple[int, Dialogue]], share: float) -> Iterator[tuple[int, Dialogue]]:
    """Yield this share of the dialogues of each set of tags and each length, spread evenly, at least one of each.

    Texts of one length differ by less than a factor of two.
    """
    seen: Counter[tuple[tuple[str, ...], int]] = Counter()
    for index, dialogue in dialogues:
        key = (tags_of(dialogue), length_of(dialogue).bit_length())
        if key not in seen and len(seen) >= MOST_STRATA:
            key = ((), 0)
        before = seen[key]
        seen[key] += 1
        if share >= 1 or before == 0 or int((before + 1) * share) > int(before * share):
            yield index, dialogue


def _observed_in(
    dialogue: Dialogue, turns: dict[int, TurnHistory], manifest: Manifest, target: ManifestTarget
) -> Iterator[ObservedTurn]:
    history = manifest.history
    history_text = EMPTY_TEXT if dialogue.system is None else size_of(dialogue.system)
    asked = dialogue.asked(history)
    for number, turn in enumerate(dialogue.turns, 1):
        history_text = history_text.plus(size_of(turn.user_text)).plus(size_of_media(turn.user))
        past = turns.get(number)
        if number in asked and past is not None and past.status not in (None, "skipped"):
            settings = effective_settings(
                command_line=manifest.settings,
                turn=turn.settings,
                dialogue=dialogue.settings,
                target=target.gateway.settings,
                unset=target.gateway.unset,
            )
            sent = history_text._replace(requests=1)
            yield _observe(_identity(dialogue), past, sent, replies_at_once(settings) or 1, live=history == "live")
        own = history == "live" and number in asked
        reply = _text_of(past) if own else turn.assistant
        if reply is not None:
            history_text = history_text.plus(size_of(reply))
        elif own:
            return  # without a reply, later turns were not asked


def _observe(dialogue: int, past: TurnHistory, sent: TextSize, replies: int, *, live: bool) -> ObservedTurn:
    usage = past.reply.get("usage", {}) if not past.steps else {}  # sums of several requests are no measure of one
    output_tokens = usage.get("output_tokens")
    return ObservedTurn(
        dialogue=dialogue,
        turn=past.turn,
        sent=sent,
        reply=size_of(_text_of(past) or ""),
        input_tokens=usage.get("input_tokens"),
        output_tokens=None if output_tokens is None else output_tokens / replies,
        ended=live and past.status != "ok",
    )


def _text_of(past: TurnHistory | None) -> str | None:
    return None if past is None or past.kept is None else past.kept["reply"].get("text")


# --- reused replies --------------------------------------------------------------------------------------------------


@contextmanager
def open_reused_replies(reuse: RunFolder | None) -> Generator[Callable[[Target], ReuseLookup | None]]:
    """Open another run's replies and return a lookup by target that finds the same replies as `engine/runner.py`."""
    if reuse is None:
        yield lambda _: None
        return
    from convbatch.journal.index import Archive

    with Archive(reuse, by_key=True) as archive:
        yield lambda target: _reuse_lookup(archive, target)


def _reuse_lookup(archive: Archive, target: Target) -> ReuseLookup:
    protocol, endpoint = PROTOCOLS[target.gateway.protocol], target.gateway.endpoint

    def look_up(key: str, repeat: int) -> ReusedReply | None:
        found = archive.turn_by_key(key, repeat)
        if found is None or found.kept is None:
            return None
        *steps, reply = map(read, found.replied)
        return ReusedReply(
            message=Message(role="assistant", parts=(text_part(reply.text or ""),), raw=reply.raw_turn),
            ends=status_of(reply) != "ok" or reply.finish_reason == "tool_call",
            has_calls=any(one.tool_calls for one in (*steps, reply)),
            steps=tuple(steps),
        )

    def read(outcome: Mapping[str, Any]) -> Reply:
        again = read_answer(protocol, outcome.get("http_status", 200), {}, kept_body(outcome)).outcome
        reply = as_configured(again, protocol, endpoint)
        return reply if isinstance(reply, Reply) else reply_from_plain(outcome["reply"])

    return look_up
