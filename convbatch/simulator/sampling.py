"""How `sim-large`, `sim-small` and `sim-reason` sample: knowledge, choice of words, temperature.

What a model knows and how it writes depends on its identity alone, so it is the same at every server; a sample also
depends on the seed of the server, the history, and how often that history was sent. At temperature 0 every sample is
the most likely reply; a request with a seed gets the same reply at every server.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from convbatch.simulator.draws import draw, normal

_HARDNESS, _OWN_KNOWLEDGE, _WORD_TASTE = 3.0, 2.0, 1.1
_QUANTISED_LOSS, _QUANTISED_SHIFT, _QUANTISED_TASTE = 0.5, 1.0, 0.6
_WRONG_ANSWERS = 8
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_HAN = re.compile("[\u4e00-\u9fff]")

_ENGLISH = (
    "The", ("quiet", "old", "pale", "narrow", "distant", "amber", "restless", "frozen", "hollow", "silver", "slow",
            "crooked", "bright", "hidden"),
    ("harbour", "orchard", "lantern", "river", "clock", "staircase", "garden", "train", "kettle", "lighthouse",
     "violin", "market", "owl", "bridge"),
    ("waits", "sleeps", "listens", "drifts", "glows", "hums", "leans", "turns", "breathes", "wanders"),
    ("under", "beside", "beyond", "above", "behind", "near"), "the",
    ("winter moon", "empty station", "green hill", "last window", "salt wind", "stone wall", "morning fog",
     "paper boats", "wooden pier", "evening rain"),
)  # fmt: skip
_CHINESE = (
    ("安静的", "古老的", "苍白的", "狭窄的", "遥远的", "温暖的", "潮湿的", "银色的", "缓慢的", "明亮的", "沉默的"),
    ("港口", "果园", "灯笼", "河流", "钟楼", "石阶", "花园", "列车", "茶壶", "灯塔", "渔船", "集市"),
    ("在月光下", "在雨后", "在山坡上", "在窗外", "在晨雾里", "在石墙边", "在木桥旁", "在黄昏中"),
    ("等待", "沉睡", "倾听", "飘荡", "发光", "低语", "醒来", "徘徊"),
)
_CLOSINGS = ("", "Does that help?", "Let me know if you need more.", "Ask me for details.", "I hope this helps.")
_CHINESE_CLOSINGS = ("", "希望对您有帮助。", "需要的话可以继续问我。", "还有其他问题吗？", "供您参考。")


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """What distinguishes a simulated model from another."""

    level: float
    """Log odds of knowing a question of average difficulty."""
    obedience: float
    """Share of the instructions and facts that it follows."""
    sentences: tuple[float, ...]
    """Chances that a text has one sentence, two, and so on."""
    groups_digits: bool = False
    """Whether it writes 12,345 for 12345."""
    reasoning: int | None = None
    """Median of its reasoning tokens; None: it does not reason."""


CHARACTERS = {
    "sim-large": Character(level=3.2, obedience=0.99, sentences=(0.55, 0.35, 0.1)),
    "sim-small": Character(level=-2.0, obedience=0.93, sentences=(0.15, 0.4, 0.45), groups_digits=True),
    "sim-reason": Character(level=4.5, obedience=0.99, sentences=(0.7, 0.2, 0.1), reasoning=90),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A model that is about to sample one reply."""

    character: Character
    identity: str
    """What the model knows and prefers is drawn for this name."""
    noise: tuple[object, ...]
    """What this sample depends on, besides the model."""
    temperature: float
    quantised: bool = False

    def recall(self, question: str, truth: str) -> str:
        """Return the number that a question asks for, or a wrong one where the model does not know it."""
        if not (number := _NUMBER.search(truth)):
            return truth
        odds = self.character.level - _HARDNESS * normal("hard", question)
        odds += _OWN_KNOWLEDGE * normal("knows", self.identity, question)
        if self.quantised:
            odds += _QUANTISED_SHIFT * normal("quantised", self.identity, question) - _QUANTISED_LOSS
        if self._chance("knows") < self._at_temperature(odds):
            return truth[: number.start()] + self._written(number[0]) + truth[number.end() :]
        ranks = [1 / (1 + rank) for rank in range(_WRONG_ANSWERS)]
        wrong = _near_miss(number[0], "wrong", self.identity, question, self._pick(ranks, "wrong"))
        return truth[: number.start()] + self._written(wrong) + truth[number.end() :]

    def follows(self) -> bool:
        """Return whether the model follows an instruction or finds a fact that it can see."""
        odds = math.log(self.character.obedience / (1 - self.character.obedience))
        return self._chance("follows") < self._at_temperature(odds)

    def prose(self, prompt: str) -> str:
        """Return a short text in the language of the prompt; each model has its own words for each prompt."""
        is_chinese = _HAN.search(prompt) is not None
        count = 1 + self._pick(self.character.sentences, "sentences")
        parts = _CHINESE if is_chinese else _ENGLISH
        texts = [self._sentence(parts, prompt, at) for at in range(count)]
        return "".join(f"{''.join(words)}。" for words in texts) if is_chinese else " ".join(
            f"{' '.join(words)}." for words in texts
        )  # fmt: skip

    def with_closing(self, text: str, prompt: str) -> str:
        """Return a reply with one of the phrases with which the model likes to end."""
        is_chinese = _HAN.search(text) is not None
        closing = self._word(_CHINESE_CLOSINGS if is_chinese else _CLOSINGS, "closing", prompt)
        return f"{text}{'' if is_chinese or not closing else ' '}{closing}"

    def reasoning_tokens(self, prompt: str) -> int | None:
        """Return how long the model reasons, None for one that does not; some questions take longer than others."""
        if self.character.reasoning is None:
            return None
        effort = 0.5 * normal("effort", self.identity, prompt)
        if self.temperature > 0:
            effort += 0.4 * normal("sample", self.identity, *self.noise, "effort")
        return round(self.character.reasoning * math.exp(effort))

    def _sentence(self, parts: Sequence[str | tuple[str, ...]], prompt: str, at: int) -> list[str]:
        return [
            part if isinstance(part, str) else self._word(part, prompt, at, place) for place, part in enumerate(parts)
        ]

    def _word(self, words: Sequence[str], *about: object) -> str:
        weights: list[float] = []
        for word in words:
            taste = _WORD_TASTE * normal("taste", self.identity, word, *about)
            if self.quantised:
                taste += _QUANTISED_TASTE * normal("quantised", self.identity, word, *about)
            weights.append(math.exp(taste))
        return words[self._pick(weights, *about)]

    def _pick(self, weights: Sequence[float], *about: object) -> int:
        """Return an index, drawn by weight at the temperature."""
        if self.temperature <= 0:
            return max(range(len(weights)), key=weights.__getitem__)
        sharpened = [weight ** (1 / self.temperature) for weight in weights]
        rest = self._chance("pick", *about) * sum(sharpened)
        for at, weight in enumerate(sharpened):
            rest -= weight
            if rest < 0:
                return at
        return len(weights) - 1

    def _chance(self, *about: object) -> float:
        return draw("sample", self.identity, *self.noise, *about)

    def _at_temperature(self, odds: float) -> float:
        """Return the probability of an event with these log odds; at temperature 0 it is certain or impossible."""
        if self.temperature <= 0:
            return float(odds > 0)
        return 1 / (1 + math.exp(min(max(-odds / self.temperature, -700.0), 700.0)))

    def _written(self, number: str) -> str:
        whole, dot, decimals = number.replace(",", "").partition(".")
        return f"{int(whole):,}{dot}{decimals}" if self.character.groups_digits and len(whole) > 4 else number


def _near_miss(number: str, *about: object) -> str:
    """Return a wrong number of the same form, 2 % to 40 % away."""
    digits = number.replace(",", "")
    decimals = len(digits.partition(".")[2])
    factor = 1 + (0.02 + 0.38 * draw("size", *about)) * (1 if draw("sign", *about) < 0.5 else -1)
    wrong = f"{float(digits) * factor:.{decimals}f}"
    return wrong if float(wrong) != float(digits) else f"{float(digits) + 1:.{decimals}f}"


def lost_fact(prompt: str) -> str:
    """Return what a model says that does not see a fact, in the language of the prompt."""
    return "在我们的对话里没有找到这个信息。" if _HAN.search(prompt) else "I cannot find that in our conversation."
