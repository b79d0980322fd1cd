"""Draw a random sample of a dataset: simple, or stratified by tags, spread over the lengths, or both.

A stratum is every dialogue with the same set of tags. Its share of the sample is proportional (largest remainder), and
at least one dialogue when the sample has room for one of each. By length, every n-th dialogue of a stratum is drawn in
the order of length, from a random start. The same file, size and seed give the same sample.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from convbatch.dataset.jsonl import encode_json_line
from convbatch.dataset.media_files import media_issues
from convbatch.dataset.reader import Located, Problems, Reader, count_of
from convbatch.dataset.selection import MOVED, new_dataset
from convbatch.dialogue import Dialogue
from convbatch.errors import Problem

_STRATA_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Stratum:
    """A group of dialogues, and how many of them the sample has."""

    tags: tuple[str, ...]
    total: int
    drawn: int

    def __str__(self) -> str:
        return f"{self.drawn} of {self.total}: {', '.join(self.tags) or 'no tags'}"


@dataclass(frozen=True, slots=True)
class Sample:
    """What was drawn; `strata` is empty for a simple random sample."""

    size: int
    total: int
    asked: int
    strata: Sequence[Stratum]

    def notes(self) -> Iterator[str]:
        """Yield lines for the user: what each stratum gave, and whether the file is smaller than the sample."""
        for stratum in self.strata[:_STRATA_SHOWN]:
            yield str(stratum)
        if (more := self.strata[_STRATA_SHOWN:]) != self.strata[:0]:
            drawn, total = sum(one.drawn for one in more), sum(one.total for one in more)
            yield f"{drawn} of {total}: {len(more)} more combinations of tags"
        without = sum(not stratum.drawn for stratum in self.strata)
        if without:
            drawn = count_of(self.size, "dialogue")
            yield f"note: {drawn} cannot have one of each of {len(self.strata)} combinations of tags"
        if self.size < self.asked:
            total = count_of(self.total, "dialogue")
            yield f"note: the file has {total}, fewer than the {self.asked} requested: all are drawn"


def sample(src: Path, dst: Path, *, size: int, seed: int, by_tag: bool = False, by_length: bool = False) -> Sample:
    """Write a random sample of a dataset in the canonical format, in the order of the file.

    Args:
        src: A file in any known format.
        dst: `NAME.jsonl` or `NAME.jsonl.gz`; must not exist. Complete or absent.
        size: Dialogues to draw; all of them when the file has fewer.
        seed: Selects the sample.
        by_tag: Give every set of tags its share.
        by_length: Give short and long dialogues their share.

    Raises:
        InputError: `src` has problems; nothing is written.
        SetupError: `dst` exists or cannot be written.
    """
    with new_dataset(dst) as out:
        read = (item.dialogue for item in _dialogues(src))
        kept, strata = draw(read, size=size, seed=seed, by_tag=by_tag, by_length=by_length)
        problems = Problems()
        for number, item in enumerate(_dialogues(src)):
            if number in kept:
                moved = media_issues(item.dialogue, dst.parent)
                problems.extend(item.problem(dataclasses.replace(issue, hint=MOVED)) for issue in moved)
                out.write(encode_json_line(item.dialogue.to_plain()))
        problems.raise_any()
    drawn, total = (sum(getattr(stratum, of) for stratum in strata) for of in ("drawn", "total"))
    return Sample(drawn, total, size, sorted(strata, key=lambda stratum: -stratum.total) if by_tag else [])


def draw(
    dialogues: Iterable[Dialogue], *, size: int, seed: int, by_tag: bool = False, by_length: bool = False
) -> tuple[set[int], list[Stratum]]:
    """Draw a sample: return the positions of its dialogues, from 0, and the strata.

    Args:
        dialogues: All dialogues, read once.
        size: As in `sample`.
        seed: As in `sample`.
        by_tag: As in `sample`; otherwise there is one stratum.
        by_length: As in `sample`.
    """
    dice = random.Random(seed)  # a sample, not a secret
    members: dict[tuple[str, ...], list[int]] = {}
    lengths: list[int] = []
    for number, dialogue in enumerate(dialogues):
        members.setdefault(tags_of(dialogue) if by_tag else (), []).append(number)
        lengths.append(length_of(dialogue) if by_length else 0)
    if size < len(members):  # else the first strata of the file would win every tie
        members = dict(dice.sample(list(members.items()), len(members)))
    totals = [len(numbers) for numbers in members.values()]
    drawn = allocate(totals, size)
    kept: set[int] = set()
    for numbers, count in zip(members.values(), drawn, strict=True):
        if by_length:
            kept.update(_every_nth(sorted(numbers, key=lengths.__getitem__), count, dice))
        else:
            kept.update(dice.sample(numbers, count))
    return kept, [Stratum(tags, *counts) for tags, *counts in zip(members, totals, drawn, strict=True)]


def tags_of(dialogue: Dialogue) -> tuple[str, ...]:
    """Return the tags of a dialogue as a set in a fixed order."""
    return tuple(sorted(set(dialogue.tags)))


def length_of(dialogue: Dialogue) -> int:
    """Return the number of characters of all texts in a dialogue."""
    turns = sum(len(turn.user_text) + len(turn.assistant or "") for turn in dialogue.turns)
    return len(dialogue.system or "") + turns


def _every_nth(ordered: Sequence[int], count: int, dice: random.Random) -> Iterator[int]:
    start = dice.random()
    return (ordered[int((start + place) * len(ordered) / count)] for place in range(count))


def _dialogues(src: Path) -> Iterator[Located]:
    problems = Problems()
    for item in Reader([src], documents=True):
        if isinstance(item, Problem):
            problems.add(item)
        else:
            yield item
    problems.raise_any()


def allocate(totals: Sequence[int], size: int) -> list[int]:
    """Distribute a sample over strata: proportional by largest remainder, at least one each if `size` allows it.

    Args:
        totals: Members of each stratum, at least one.
        size: Members of the sample.

    Returns:
        Members to draw from each stratum; the sum is `size`, or everything when there are fewer.
    """
    size = min(size, sum(totals))
    if not size:
        return [0 for _ in totals]
    shares = [Fraction(size * total, sum(totals)) for total in totals]
    least = 1 if size >= len(totals) else 0
    counts = [max(least, int(share)) for share in shares]
    left = size - sum(counts)
    # Each stratum short of its share lacks less than one, so there are more of them than members left to give.
    short = sorted(range(len(totals)), key=lambda index: (counts[index] - shares[index], index))
    for index in short[: max(0, left)]:
        counts[index] += 1
    # The strata raised to one may have taken too much: it comes from those that are furthest above their share.
    above = [(shares[index] - counts[index], index) for index in range(len(totals)) if counts[index] > 1]
    heapq.heapify(above)
    for _ in range(-left):
        difference, index = heapq.heappop(above)
        counts[index] -= 1
        if counts[index] > 1:
            heapq.heappush(above, (difference + 1, index))
    return counts
