"""`prefer`: the replies of targets → questions for a judge, as the dataset of an ordinary run.

Each comparison of two replies is two questions, one in each order. What needs no question is settled here: identical
replies are a tie, a reply beats a turn that failed. The dataset holds it all, so that the run which asks the judge can
be read without the runs that it is about. What becomes of the answers is `preferences.py`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from convbatch.checks.llm_rubric import scene_to_plain
from convbatch.checks.pairwise import SYSTEM, are_alike, pair_question
from convbatch.checks.values import COMPARES_TARGETS, parse_check
from convbatch.comparison.compare import RunReference
from convbatch.comparison.entries import Entry, chosen_entries, pair_notes
from convbatch.comparison.inputs import load_inputs
from convbatch.dataset.in_memory import InMemoryDataset, in_memory_dataset
from convbatch.errors import SetupError
from convbatch.journal.index import Archive
from convbatch.journal.manifest import ManifestTarget
from convbatch.results.conversations import StoredConversation, stored_conversations
from convbatch.results.judge_scenes import scene
from convbatch.results.verdicts import JUDGED, ConversationResult
from convbatch.served_model import canonical_name

META = "prefer"
"""Key of `meta` in the dialogues that ask a judge."""
NAME = "prefer"
"""In the name of the run folder."""
MOST_TARGETS = 20
IDENTICAL, NO_REPLY, PENDING, PICTURES, ONE_SIDE = (
    "identical replies",
    "a turn failed",
    "a turn is pending",
    "pictures in the replies",
    "at one target only",
)


class Settled(NamedTuple):
    """A comparison that needs no question."""

    dialogue: str
    turn: int | None
    repeat: int
    check: str
    first: str
    second: str
    score: float | None
    """1: the first target is better, 0: the second, 0.5: a tie; None: it is left out."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePlan:
    """What a judge is to be asked, and what needs no question."""

    targets: tuple[str, ...]
    dataset: InMemoryDataset | None
    """None: there is nothing to ask."""
    questions: int
    head: Mapping[str, Any]
    """Targets, runs, notes, and the settled comparisons, as JSON; in `meta` of the first question."""
    notes: tuple[str, ...]

    @property
    def settled(self) -> Sequence[Settled]:
        """The comparisons that need no question."""
        return [Settled(*one) for one in self.head["settled"]]

    @property
    def counts(self) -> dict[str, int]:
        """Comparisons that need no question, by reason."""
        found: dict[str, int] = {}
        for one in self.settled:
            found[one.why] = found.get(one.why, 0) + 1
        return found


class _Side(NamedTuple):
    """What one target did where a comparison is asked for."""

    state: str
    """`pending`, `failed` or `judged`."""
    plain: Mapping[str, Any]
    """The scene, if it is judged."""
    length: int
    """Characters that the target wrote."""


class _Item(NamedTuple):
    dialogue: str
    turn: int | None
    repeat: int
    check: str
    rubric: str


def preference_plan(
    runs: Sequence[RunReference], *, rubric: str | None = None, allow_mismatch: bool = False
) -> PreferencePlan:
    """Plan the questions about the replies of all targets of runs, each with each.

    Args:
        runs: As for `rank`.
        rubric: Compare whole dialogues by it, instead of the `prefer` checks of the dataset.
        allow_mismatch: Compare although dialogues, history or checks differ.

    Raises:
        SetupError: There are fewer than two targets, they cannot be compared, or nothing says by which rubric.
    """
    if rubric is not None and not rubric.strip():
        raise SetupError("--rubric is empty", hint='say what makes a reply better: --rubric "Answers more precisely."')
    entries = chosen_entries(runs, "a preference", most=MOST_TARGETS)
    notes = tuple(_notes(entries, allow_mismatch=allow_mismatch))
    items = _items(entries, rubric)
    if not items:
        raise SetupError(
            "these runs have no prefer check",
            hint='add --rubric "What makes a reply better.", or {"prefer": {"rubric": "…"}} to turns or dialogues '
            "of the dataset, then: convbatch check RUN --dataset FILE",
        )
    names = [one.name for one in entries]
    settled: list[Settled] = []
    questions: list[dict[str, Any]] = []
    for item, sides in items.items():
        for a, b in itertools.combinations(names, 2):
            if a not in sides and b not in sides:
                continue
            where = (*item[:4], a, b)
            outcome = _outcome(sides.get(a), sides.get(b))
            if outcome is not None:
                settled.append(Settled(*where, *outcome))
            else:
                questions += _questions(len(questions) // 2 + 1, item, (a, b), (sides[a], sides[b]))
    head: dict[str, Any] = {
        "targets": names,
        "from": [[str(one.run.path.resolve()), one.target] for one in entries],
        "models": [canonical_name(_recorded(one).model) for one in entries],
        "simulated": [one.name for one in entries if _recorded(one).simulated],
        "rubrics": list(dict.fromkeys(item.rubric for item in items)),
        "notes": list(notes),
        "settled": [list(one) for one in settled],
    }
    dataset = None
    if questions:
        questions[0]["meta"][META]["head"] = head
        made = in_memory_dataset(questions)
        assert made is not None
        dataset = dataclasses.replace(made, name=NAME)
    return PreferencePlan(targets=tuple(names), dataset=dataset, questions=len(questions), head=head, notes=notes)


def _notes(entries: Sequence[Entry], *, allow_mismatch: bool) -> Iterator[str]:
    """Yield how the targets differ beside their models; raises `SetupError` where they cannot be compared."""
    pairs: dict[str, list[tuple[str, str]]] = {}
    for a, b in itertools.combinations(entries, 2):
        for note in load_inputs(a.reference, b.reference, allow_mismatch=allow_mismatch).notes:
            if not note.startswith("SIMULATED"):
                pairs.setdefault(note, []).append((a.name, b.name))
    yield from pair_notes(pairs)


def _recorded(entry: Entry) -> ManifestTarget:
    return next(one for one in entry.run.manifest.targets if one.name == entry.target)


def _items(entries: Sequence[Entry], rubric: str | None) -> dict[_Item, dict[str, _Side]]:
    """Return what each target did, by what is compared."""
    found: dict[_Item, dict[str, _Side]] = {}
    by_run: dict[str, list[Entry]] = {}
    for entry in entries:
        by_run.setdefault(str(entry.run.path.resolve()), []).append(entry)
    for own in by_run.values():
        names = {entry.target: entry.name for entry in own}
        run = own[0].run
        with Archive(run.folder) as archive:
            for stored in stored_conversations(run.folder, run.manifest, archive):
                if (name := names.get(stored.result.target)) is None:
                    continue
                for item in _asked_of(stored, rubric):
                    found.setdefault(item, {})[name] = _side(stored.result, item.turn)
    return found


def _asked_of(stored: StoredConversation, rubric: str | None) -> Iterator[_Item]:
    result = stored.result
    scopes = [(number, result.dialogue.turns[number - 1].checks) for number in result.turns]
    name = stored.dialogue.id
    if rubric is not None:
        if result.turns:
            yield _Item(name, None, result.repeat, COMPARES_TARGETS, rubric)
        return
    for number, checks in (*scopes, (None, result.dialogue.checks)):
        for check in map(parse_check, checks):
            if check.plain_kind == COMPARES_TARGETS:
                yield _Item(name, number, result.repeat, check.name, check.argument["rubric"])


def _side(result: ConversationResult, turn: int | None) -> _Side:
    statuses = [past.status or "pending" for n, past in result.turns.items() if turn in (None, n)]
    if "pending" in statuses:
        return _Side("pending", {}, 0)
    if any(status not in JUDGED for status in statuses):
        return _Side("failed", {}, 0)
    shown = scene(result, turn)
    plain = scene_to_plain(shown)
    said = [shown.reply] if turn is not None else [one.assistant for one in shown.conversation]
    return _Side("judged", plain, sum(len(text or "") for text in said))


def _outcome(a: _Side | None, b: _Side | None) -> tuple[float | None, str] | None:
    """Return the score and why of a comparison that needs no question."""
    if a is None or b is None:
        return None, ONE_SIDE
    if "pending" in (a.state, b.state):
        return None, PENDING
    if "failed" in (a.state, b.state):
        return 0.5 + 0.5 * ((b.state == "failed") - (a.state == "failed")), NO_REPLY
    if are_alike(a.plain, b.plain):
        return 0.5, IDENTICAL
    return (None, PICTURES) if "pictures" in a.plain or "pictures" in b.plain else None


def _questions(
    number: int, item: _Item, names: tuple[str, str], sides: tuple[_Side, _Side]
) -> Iterator[dict[str, Any]]:
    """Yield the two dialogues that ask about a comparison, one in each order."""
    for order, (a, b) in (("a", (0, 1)), ("b", (1, 0))):
        asked = pair_question(item.rubric, sides[a].plain, sides[b].plain)
        about = {
            "number": number,
            **dict(zip(("dialogue", "turn", "repeat", "check"), item[:4], strict=True)),
            "A": names[a],
            "B": names[b],
            "length": {"A": sides[a].length, "B": sides[b].length},
        }
        yield {
            "id": f"{number}{order} {item.dialogue}",
            "system": SYSTEM,
            "turns": [{"user": asked.text}],
            "meta": {META: about},
        }
