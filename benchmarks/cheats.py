"""Honest pairs and cheats for the table of `docs/audit.md`: two sides made by one model, or by one that cheats.

A model has, for each prompt, its own openings, words and lengths, and knows each border question with its own
probability. A world draws a model and the replies of both sides; a cheat changes those of the candidate.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

import numpy as np

from convbatch.auditing.finding import AuditVerdict
from convbatch.auditing.judge import Pair, judge
from convbatch.auditing.replies import BORDER, CANARY, FACT, LIMIT, TEMPERATURE, AuditedReply, Side

WORDS = ["the", "answer", "depends", "on", "what", "you", "mean", "by", "it", "today", "number", "river", "city"]
MORE_WORDS = ["year", "because", "most", "people", "would", "say", "that", "this", "is", "not", "quite", "true", "and"]
OPENINGS = ["Sure. ", "Well, ", "In short: ", "I think ", "As far as I know, ", "The ", "It is ", "Good question. "]
SEED = 17
_CHOICE = np.array([*WORDS, *MORE_WORDS])
DRAWS = 499
_KEPT = 4_096
"""Prompts whose probabilities are kept: those of all models of a world."""
_KINDS = (CANARY, FACT, TEMPERATURE, LIMIT, CANARY, FACT, TEMPERATURE)
"""Behaviour probes, about as many of each kind as the shipped ones."""
Chance = np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is asked: the shipped probes, with this many repeats."""

    border: int = 72
    behaviour: int = 50
    repeats: int = 16


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a server draws words: a temperature, and the share of the probability that it draws from."""

    heat: float = 1.0
    top_p: float = 1.0

    def changed(self, chances: np.ndarray) -> np.ndarray:
        """Return the probabilities that are drawn from."""
        heated = chances ** (1 / max(self.heat, 0.05))
        heated = heated / heated.sum()
        if self.top_p < 1:
            order = np.argsort(-heated)
            before = np.cumsum(heated[order]) - heated[order]
            heated[order[before >= self.top_p]] = 0.0
        return heated / heated.sum()


@dataclass(frozen=True, slots=True)
class Model:
    """What a model says and knows; one that is `close` to another says and knows almost the same."""

    seed: tuple[int, ...]
    skill: float = 0.9
    """Mean probability of knowing the answer to a border question."""
    forgets: float = 0.0
    """Share of the border questions whose answer it has forgotten, unlike the model it is close to."""
    apart: float = 0.0
    """How unlike its words are those of the model it is close to, from 0 to 1."""

    @functools.lru_cache(maxsize=_KEPT)  # noqa: B019  # bounded, so few models are kept alive
    def chances(self, prompt: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the probabilities of the openings and of the words."""
        openings, words = self._own(prompt, 0)
        others = self._own(prompt, 1)
        mixed = [(1 - self.apart) * one + self.apart * two for one, two in zip((openings, words), others, strict=True)]
        return mixed[0], mixed[1]

    def _own(self, prompt: int, branch: int) -> tuple[np.ndarray, np.ndarray]:
        chance = np.random.default_rng([*self.seed, prompt, branch])
        return chance.dirichlet([0.5] * len(OPENINGS)), chance.dirichlet([1.0] * len(_CHOICE))

    @functools.lru_cache(maxsize=_KEPT)  # noqa: B019  # as above
    def knows(self, question: int) -> float:
        """Return the probability of the right answer to a question: mostly near 0 or 1."""
        chance = np.random.default_rng([*self.seed, 7, question])
        known = float(chance.beta(2 * self.skill, 2 * (1 - self.skill)))
        return known * float(chance.random() >= self.forgets)

    @functools.lru_cache(maxsize=_KEPT)  # noqa: B019  # as above
    def length(self, prompt: int) -> float:
        return float(np.random.default_rng([*self.seed, 8, prompt]).uniform(1.5, 4.0))

    @functools.lru_cache(maxsize=_KEPT)  # noqa: B019  # as above
    def drawn_from(self, prompt: int, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
        """Return the cumulated probabilities of the openings and of the words."""
        openings, words = (sampling.changed(chances).cumsum() for chances in self.chances(prompt))
        return openings, words

    def text(self, prompt: int, chance: Chance, sampling: Sampling = Sampling()) -> str:
        openings, words = self.drawn_from(prompt, sampling)
        opening = OPENINGS[min(int(np.searchsorted(openings, chance.random())), len(OPENINGS) - 1)]
        count = max(2, int(np.exp(chance.normal(self.length(prompt), 0.3))))
        places = np.minimum(np.searchsorted(words, chance.random(count)), len(_CHOICE) - 1)
        return opening + " ".join(_CHOICE[places].tolist()) + "."


@functools.cache
def _pieces(word: str) -> int:
    return 1 + hashlib.blake2b(word.encode()).digest()[0] % 2


def tokens(text: str) -> int:
    return sum(map(_pieces, text.split())) + 1


@dataclass(frozen=True, slots=True)
class Probe:
    """One turn of a probe."""

    name: str
    tag: str
    turn: int = 1

    @property
    def is_late(self) -> bool:
        """Whether the conversation is long when it is asked: planted facts, and a second turn."""
        return self.tag == FACT or self.turn > 1


def probes(size: Size) -> Iterator[Probe]:
    """Yield the turns of each probe; half of the canaries have two."""
    yield from (Probe(f"border-{n}", BORDER) for n in range(size.border))
    for n in range(size.behaviour):
        tag = _KINDS[n % len(_KINDS)]
        yield Probe(f"{tag}-{n}", tag)
        if tag == CANARY and n % 2:
            yield Probe(f"{tag}-{n}", tag, 2)


def replies(model: Model, size: Size, chance: Chance, sampling: Sampling = Sampling()) -> list[AuditedReply]:
    """Return the replies of a model, probe by probe."""
    return [
        reply(model, prompt, probe, chance, repeat, sampling)
        for prompt, probe in enumerate(probes(size))
        for repeat in range(1, size.repeats + 1)
    ]


def reply(
    model: Model, prompt: int, probe: Probe, chance: Chance, repeat: int, sampling: Sampling = Sampling()
) -> AuditedReply:
    if probe.tag == BORDER:
        passed = bool(chance.random() < sampling.changed(np.array([(p := model.knows(prompt)), 1 - p]))[0])
        text = str(1000 + prompt if passed else chance.integers(900, 2100))
    else:
        passed = None if probe.tag == TEMPERATURE else bool(chance.random() < 0.98)
        text = model.text(prompt, chance, sampling)
    return AuditedReply(
        dialogue=probe.name,
        turn=probe.turn,
        repeat=repeat,
        prompt=f"{probe.name}-{probe.turn}".encode(),
        user=f"probe {probe.name}",
        is_fixed=probe.turn == 1,
        text=text,
        served="m",
        match="same",
        input_tokens=20 + prompt,
        output_tokens=tokens(text),
        finish_reason="length" if probe.tag == LIMIT else "stop",
        max_output_tokens=256 if probe.tag == LIMIT else 1024,
        temperature=1.0,
        tags=frozenset([probe.tag]),
        passed=passed,
    )


# --- cheats: the candidate's replies, as the model would have given them, to what the gateway returns

Cheat = Callable[[list[AuditedReply], "Model", Size, Chance], list[AuditedReply]]


def another(model: Model) -> Model:
    """Return a weaker model of another family."""
    return Model((*model.seed, 99), skill=0.4)


def close(forgets: float, apart: float) -> Callable[[Model], Model]:
    """Return the maker of a model that is close to a model: a fine-tune, a relative, a quantised one."""
    return lambda model: dataclasses.replace(model, forgets=forgets, apart=apart)


def swapped(share: float, to: Callable[[Model], Model] = another, *, only_late: bool = False) -> Cheat:
    """Reply from another model, in a share of the replies; with `only_late`, in long conversations."""

    def cheat(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
        other = to(model)
        late = [probe.is_late for probe in probes(size) for _ in range(size.repeats)]
        asked = [(prompt, probe) for prompt, probe in enumerate(probes(size)) for _ in range(size.repeats)]
        return [
            reply(other, prompt, probe, chance, here.repeat)
            if (is_late or not only_late) and chance.random() < share
            else here
            for here, (prompt, probe), is_late in zip(honest, asked, late, strict=True)
        ]

    return cheat


def sampled(sampling: Sampling) -> Cheat:
    """Draw all words in another way, whatever was asked."""

    def cheat(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
        return replies(model, size, chance, sampling)

    return cheat


def tails(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
    """Continue a reply with another model after its first 60 characters."""
    other = replies(another(model), size, chance)
    return [
        dataclasses.replace(here, text=(text := (here.text or "")[:60] + (there.text or "")[60:]),
                            output_tokens=tokens(text))
        for here, there in zip(honest, other, strict=True)
    ]  # fmt: skip


def advertised(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
    """Add a line to one reply in ten."""
    return [
        dataclasses.replace(one, text=(text := f"{one.text} Powered by us."), output_tokens=tokens(text))
        if chance.random() < 0.1 and BORDER not in one.tags
        else one
        for one in honest
    ]


def cached(share: float) -> Cheat:
    def cheat(honest: list[AuditedReply], model: Model, size: Size, chance: Chance) -> list[AuditedReply]:
        first = {one.place: one for one in honest if one.repeat == 1}
        return [
            dataclasses.replace(first[one.place], repeat=one.repeat) if chance.random() < share else one
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
    "the same model": honest,
    "the same model, dated name, another end token": other_end_token,
    "the same model, no counts": without_counts,
}
CHEATS: dict[str, Cheat] = {
    "another model": swapped(1.0),
    "10 % swapped": swapped(0.10),
    "5 % swapped": swapped(0.05),
    "long conversations swapped": swapped(1.0, only_late=True),
    "a close model: 15 % forgotten": swapped(1.0, close(0.15, 0.3)),
    "half a close model": swapped(0.5, close(0.15, 0.3)),
    "10 % a close model": swapped(0.1, close(0.15, 0.3)),
    "quantised: 1 in 8 facts lost": swapped(1.0, close(0.125, 0.0)),
    "quantised lightly: 1 in 40 facts lost": swapped(1.0, close(0.025, 0.05)),
    "another model after 60 characters": tails,
    "a line added to 10 % of long replies": advertised,
    "temperature 0.3 instead of 1": sampled(Sampling(heat=0.3)),
    "temperature 0.7 instead of 1": sampled(Sampling(heat=0.7)),
    "top_p 0.8 instead of 1": sampled(Sampling(top_p=0.8)),
    "all repeats replayed": cached(1.0),
    "20 % replayed": cached(0.2),
    "10 % replayed": cached(0.1),
    "output counts + 8 %": inflated(1.08),
    "output counts + 30 %": inflated(1.30),
    "hidden system prompt": hidden_system,
    "long replies cut, says `stop`": truncated,
    "system prompt dropped": fails(CANARY, 1.0),
    "half the facts lost": fails(FACT, 0.5),
    "another name": renamed,
}
VERDICTS: tuple[AuditVerdict, ...] = ("different", "inconclusive", "consistent")


@dataclass(slots=True, kw_only=True)
class CheatRates:
    """How worlds of one kind were judged."""

    name: str
    worlds: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    found_by: Counter[str] = field(default_factory=Counter)
    """Worlds in which a question was `different`."""

    def share(self, verdict: AuditVerdict) -> float:
        return self.verdicts[verdict] / self.worlds

    def markdown(self) -> str:
        """Return a row of the table of docs/audit.md: questions that found it in a tenth of the worlds or more."""
        by = [f"`{name}`" for name, count in self.found_by.most_common(3) if count >= self.worlds / 10]
        shares = [f"{self.share(verdict):.1%}".replace(".0%", "%").replace("%", " %") for verdict in VERDICTS]
        return f"| {self.name} | {' | '.join(shares)} | {', '.join(by)} |"


HEAD = "| candidate | `different` | `inconclusive` | `consistent` | found by |\n|---|---|---|---|---|"


def cheat_rates(worlds: int, size: Size = Size(), names: Sequence[str] = ()) -> list[CheatRates]:
    """Return the rates of every honest pair and every cheat; worlds are simulated on all cores."""
    chosen = [name for name in HONEST | CHEATS if not names or name in names]
    found = {name: CheatRates(name=name) for name in chosen}
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small products; the worlds share the cores
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        for judged in pool.map(functools.partial(judged_world, size=size, names=chosen), range(worlds)):
            for name, (verdict, questions) in judged.items():
                found[name].worlds += 1
                found[name].verdicts[verdict] += 1
                found[name].found_by.update(questions)
    return list(found.values())


def judged_world(world: int, size: Size, names: Sequence[str]) -> dict[str, tuple[AuditVerdict, list[str]]]:
    """Return by cheat the verdict on one model and its cheating copy, and the questions that are `different`."""
    model = Model((SEED, world))
    drawn = np.random.default_rng([SEED, world, *b"replies"]).spawn(2)  # streams that no model has
    sides = [replies(model, size, chance) for chance in drawn]
    found: dict[str, tuple[AuditVerdict, list[str]]] = {}
    for name in names:
        chance = np.random.default_rng([SEED, world, *name.encode()])
        changed = (HONEST | CHEATS)[name](sides[1], model, size, chance)
        pair = Pair(
            reference=Side(name="reference", replies=sides[0]), candidate=Side(name="candidate", replies=changed)
        )
        judged = judge([pair], draws=DRAWS, seed=world).pairs[0]
        found[name] = judged.verdict, [one.finding.question for one in judged.questions if one.verdict == "different"]
    return found
