"""Honest pairs and cheats for the table of `docs/audit.md`: two sides made by one model, or by one that cheats.

A model has, for each prompt, its own openings, words and lengths, and knows each border question with its own
probability. A world draws a model and the replies of both sides; a cheat changes those of the candidate.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from convbatch.auditing.judge import Pair, judge
from convbatch.auditing.replies import BORDER, CANARY, FACT, LIMIT, TEMPERATURE, AuditedReply, Side

WORDS = ["the", "answer", "depends", "on", "what", "you", "mean", "by", "it", "today", "number", "river", "city"]
MORE_WORDS = ["year", "because", "most", "people", "would", "say", "that", "this", "is", "not", "quite", "true", "and"]
OPENINGS = ["Sure. ", "Well, ", "In short: ", "I think ", "As far as I know, ", "The ", "It is ", "Good question. "]
SEED = 17
_CHOICE = np.array([*WORDS, *MORE_WORDS])
DRAWS = 499
Chance = np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is asked: the shipped probes, with this many repeats."""

    border: int = 72
    behaviour: int = 50
    repeats: int = 16


@dataclass(frozen=True, slots=True)
class Model:
    """What a model says and knows."""

    seed: tuple[int, ...]
    skill: float = 0.9
    """Mean probability of knowing the answer to a border question."""

    @functools.cache  # noqa: B019  # worlds are few and short-lived
    def opening_chances(self, prompt: int) -> np.ndarray:
        return np.random.default_rng([*self.seed, prompt]).dirichlet([0.5] * len(OPENINGS))

    @functools.cache  # noqa: B019  # as above
    def knows(self, question: int) -> float:
        """Return the probability of the right answer to a question: mostly near 0 or 1."""
        return float(np.random.default_rng([*self.seed, 7, question]).beta(2 * self.skill, 2 * (1 - self.skill)))

    @functools.cache  # noqa: B019  # as above
    def length(self, prompt: int) -> float:
        return float(np.random.default_rng([*self.seed, 8, prompt]).uniform(1.5, 4.0))

    def text(self, prompt: int, chance: Chance, heat: float = 1.0) -> str:
        chances = self.opening_chances(prompt) ** (1 / max(heat, 0.05))
        opening = OPENINGS[chance.choice(len(OPENINGS), p=chances / chances.sum())]
        count = max(2, int(np.exp(chance.normal(self.length(prompt), 0.3))))
        return opening + " ".join(_CHOICE[chance.integers(len(_CHOICE), size=count)]) + "."


def tokens(text: str) -> int:
    return sum(1 + hashlib.blake2b(word.encode()).digest()[0] % 2 for word in text.split()) + 1


def dialogues(size: Size) -> Iterator[tuple[str, str]]:
    """Yield name and tag of each probe."""
    yield from ((f"border-{n}", BORDER) for n in range(size.border))
    tags = (CANARY, FACT, LIMIT, TEMPERATURE)
    yield from ((f"{tags[n % 4]}-{n}", tags[n % 4]) for n in range(size.behaviour))


def replies(model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
    found: list[AuditedReply] = []
    for prompt, (name, tag) in enumerate(dialogues(size)):
        obeys = 0.98 if tag != TEMPERATURE else None
        for repeat in range(1, size.repeats + 1):
            found.append(reply(model, prompt, (name, tag), chance, repeat, obeys))
    return found


def reply(
    model: Model, prompt: int, probe: tuple[str, str], chance: Chance, repeat: int, obeys: float | None
) -> AuditedReply:
    name, tag = probe
    if tag == BORDER:
        passed = bool(chance.random() < model.knows(prompt))
        text = str(1000 + prompt if passed else chance.integers(900, 2100))
    else:
        passed = None if obeys is None else bool(chance.random() < obeys)
        text = model.text(prompt, chance)
    return AuditedReply(
        dialogue=name,
        repeat=repeat,
        prompt=name.encode(),
        user=f"probe {name}",
        text=text,
        served="m",
        match="same",
        input_tokens=20 + prompt,
        output_tokens=tokens(text),
        finish_reason="length" if tag == LIMIT else "stop",
        max_output_tokens=256 if tag == LIMIT else 1024,
        temperature=1.0,
        tags=frozenset([tag]),
        passed=passed,
    )


# --- cheats: the candidate's replies, as the model would have given them, to what the gateway returns

Cheat = Callable[[list[AuditedReply], "Model", Size, Chance], list[AuditedReply]]


def swapped(share: float) -> Cheat:
    def cheat(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
        other = replies(Model((*model.seed, 99), skill=0.4), size, chance)
        return [there if chance.random() < share else here for here, there in zip(honest, other, strict=True)]

    return cheat


def quantised(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
    """Forget the answers to one border question in eight; the texts stay."""
    lost = {f"border-{n}" for n in range(size.border) if np.random.default_rng([*model.seed, 5, n]).random() < 0.125}
    return [
        dataclasses.replace(one, passed=False, text=str(chance.integers(900, 2100))) if one.dialogue in lost else one
        for one in honest
    ]


def cached(share: float) -> Cheat:
    def cheat(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
        first = {one.dialogue: one for one in honest if one.repeat == 1}
        return [
            dataclasses.replace(first[one.dialogue], repeat=one.repeat) if chance.random() < share else one
            for one in honest
        ]

    return cheat


def inflated(factor: float) -> Cheat:
    def cheat(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
        return [dataclasses.replace(one, output_tokens=round((one.output_tokens or 0) * factor)) for one in honest]

    return cheat


def hidden_system(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
    return [dataclasses.replace(one, input_tokens=(one.input_tokens or 0) + 30) for one in honest]


def truncated(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
    """Cut long replies and say `stop`."""
    return [
        dataclasses.replace(one, text=(one.text or "")[:80].rstrip(".") + " th", finish_reason="stop")
        if len(one.text or "") > 80 or one.finish_reason == "length"
        else one
        for one in honest
    ]


def fails(tag: str, share: float) -> Cheat:
    def cheat(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
        return [
            dataclasses.replace(one, passed=False) if tag in one.tags and chance.random() < share else one
            for one in honest
        ]

    return cheat


def cold(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
    """Ignore the temperature: at about 0.3 instead of 1."""
    at = {name: prompt for prompt, (name, _) in enumerate(dialogues(size))}
    return [
        one
        if BORDER in one.tags
        else dataclasses.replace(
            one, text=(text := model.text(at[one.dialogue], chance, 0.3)), output_tokens=tokens(text)
        )
        for one in honest
    ]


def renamed(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
    return [dataclasses.replace(one, served="n", match="other") for one in honest]


def honest(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
    return honest


def without_counts(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
    return [dataclasses.replace(one, input_tokens=None, output_tokens=None) for one in honest]


def other_end_token(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
    return [
        dataclasses.replace(one, output_tokens=(one.output_tokens or 0) - 1, served="m-2026-01-05", match="dated")
        for one in honest
    ]


HONEST: dict[str, Cheat] = {
    "honest": honest, "honest, no counts": without_counts, "honest, dated name, end token not counted": other_end_token
}  # fmt: skip
CHEATS: dict[str, Cheat] = {
    "another model": swapped(1.0),
    "10 % swapped": swapped(0.10),
    "5 % swapped": swapped(0.05),
    "quantised (1 in 8 facts lost)": quantised,
    "replayed (all)": cached(1.0),
    "replayed (20 %)": cached(0.2),
    "output counts + 8 %": inflated(1.08),
    "output counts + 30 %": inflated(1.30),
    "hidden system prompt": hidden_system,
    "truncated, says stop": truncated,
    "system prompt dropped": fails(CANARY, 1.0),
    "history shortened (half the facts)": fails(FACT, 0.5),
    "temperature ignored": cold,
    "another name": renamed,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheatRates:
    """How worlds of one kind were judged."""

    name: str
    worlds: int
    verdicts: Counter[str]
    found_by: Counter[str]
    """Worlds in which a question was `different`."""

    def share(self, verdict: str) -> float:
        return self.verdicts[verdict] / self.worlds


def cheat_rates(worlds: int, size: Size = Size(), names: Sequence[str] = ()) -> Iterator[CheatRates]:
    """Yield the rates of every honest pair and every cheat."""
    for name, cheat in (HONEST | CHEATS).items():
        if names and name not in names:
            continue
        verdicts, found_by = Counter[str](), Counter[str]()
        for world in range(worlds):
            chance = np.random.default_rng([SEED, world, len(name)])
            model = Model((SEED, world))
            sides = [replies(model, size, chance) for _ in range(2)]
            reference = Side(name="reference", replies=sides[0])
            candidate = Side(name="candidate", replies=cheat(sides[1], model, size, chance))
            pair = judge([Pair(reference=reference, candidate=candidate)], draws=DRAWS, seed=world).pairs[0]
            verdicts[pair.verdict] += 1
            found_by.update(one.finding.question for one in pair.questions if one.verdict == "different")
        yield CheatRates(name=name, worlds=worlds, verdicts=verdicts, found_by=found_by)
