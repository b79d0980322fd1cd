"""What a plan will cost before anything is sent: calls, tokens and money, low, expected, high and at most.

Arithmetic only. It walks every dialogue as the runner will, counts the growing history, and knows of a target what
`TargetProfile` says: learned from an earlier run's replies, or guessed. Where replies are found is `history.py`; what
of it is shown is `cli/dry_run.py`. How far it is off is measured in docs/cost.md.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple

from convbatch.config.gateways import Target
from convbatch.dialogue import (
    NO_SETTINGS,
    Dialogue,
    HistoryMode,
    Message,
    Settings,
    Turn,
    effective_settings,
    text_part,
)
from convbatch.engine.plan import TokenBound, TurnKeys, max_output_bound
from convbatch.pricing import MILLION, Period, PriceTable, exact

SCENARIOS = ("low", "expected", "high")
_HIGH = SCENARIOS.index("high")
MIN_SPREAD = 0.1
"""Low and high are at least 10 % away from what is expected, however alike the replies were."""
MIN_SAMPLES = 10
"""Replies at one place of a dialogue that make a mean of their own."""
FEW_DIALOGUES = 5
"""Fewer say nothing about how much dialogues differ."""

_WIDE = re.compile(
    "[\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)


class TextSize(NamedTuple):
    """How much text there is, in what a count of tokens is made of; of several texts the sum."""

    other: float = 0.0
    """Four characters each, of all scripts but the wide ones."""
    wide: float = 0.0
    """Characters of Chinese, Japanese and Korean."""
    messages: float = 0.0
    requests: float = 0.0
    """1 for what is sent, 0 for a text: some gateways put words of their own in front of every request."""

    def plus(self, text: TextSize) -> TextSize:
        """Both together."""
        return TextSize(
            self.other + text.other,
            self.wide + text.wide,
            self.messages + text.messages,
            self.requests + text.requests,
        )

    def times(self, factor: float) -> TextSize:
        """So much of it."""
        return TextSize(self.other * factor, self.wide * factor, self.messages * factor, self.requests * factor)


EMPTY_TEXT = TextSize()
_ONE_MESSAGE = TextSize(messages=1)
_ONE_REQUEST = TextSize(requests=1)


def size_of(text: str) -> TextSize:
    """One message with this text."""
    wide = 0 if text.isascii() else len(_WIDE.findall(text))
    return TextSize((len(text) - wide) / 4, wide, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedReply:
    """A reply not yet given."""

    text: TextSize
    """What of it comes back in the history."""
    output_tokens: float
    """With reasoning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetProfile:
    """How a target counts and answers."""

    weights: TextSize
    """Tokens for each part of a `TextSize`."""
    replies: Mapping[int, ExpectedReply]
    """By turn number; 0 stands for all other turns. Empty: nothing is known of its replies."""
    ends: float = 0.0
    """The share of turns after which a live dialogue goes no further (blocked, empty, failed)."""
    text_spread: tuple[float, float]
    """Factors from expected to low and to high, for the tokens of a text."""
    reply_spread: tuple[float, float]
    """The same for the length of replies."""
    reasoning_tokens: float = 0.0
    """In the high scenario each reply has so many tokens more, which do not come back: nobody heard it think yet."""
    source: str
    """Where this is known from."""
    learned: bool

    def tokens(self, text: TextSize) -> float:
        """Tokens of a text."""
        return _dot(self.weights, text)

    def reply_to(self, number: int, turn: Turn) -> ExpectedReply:
        """The reply to a turn: as long as others were at this place; else the scripted one, else `DEFAULT_REPLY`."""
        known = self.replies.get(number) or self.replies.get(0)
        if known is not None:
            return known
        text = DEFAULT_REPLY if turn.assistant is None else size_of(turn.assistant)
        return ExpectedReply(text=text, output_tokens=self.tokens(_without_framing(text)))


DEFAULT_SPREAD = 0.25, 4.0
"""The spread of replies nobody has heard."""
DEFAULT_REASONING_TOKENS = 1000.0
"""What a model may think before a reply, if nobody knows whether it thinks."""
DEFAULT_WEIGHTS = TextSize(1.0, 0.8, 4.0, 0.0)
"""Tokens a model counts for the parts of a text, as a rule."""
DEFAULT_REPLY = TextSize(400, 0, 1)
"""A reply of which nothing is known: 400 tokens, where models write 100 to 1,600."""


def _without_framing(text: TextSize) -> TextSize:
    """Its words alone, without what frames a message."""
    return TextSize(text.other, text.wide)


def default_profile(source: str) -> TargetProfile:
    """What is assumed of a target that nobody has heard yet."""
    return TargetProfile(
        weights=DEFAULT_WEIGHTS,
        replies={},
        text_spread=(0.6, 1.7),
        reply_spread=DEFAULT_SPREAD,
        reasoning_tokens=DEFAULT_REASONING_TOKENS,
        source=source,
        learned=False,
    )


def profile_for_other_model(profile: TargetProfile) -> TargetProfile:
    """The same where only another model was heard: words are counted alike, but nobody knows how this one answers."""
    return replace(
        profile, text_spread=(0.75, 1.4), reply_spread=DEFAULT_SPREAD, reasoning_tokens=DEFAULT_REASONING_TOKENS
    )


# --- learning --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedTurn:
    """A turn of an earlier run that came to an end."""

    dialogue: int
    turn: int
    sent: TextSize
    """The whole request."""
    reply: TextSize
    input_tokens: int | None = None
    output_tokens: int | None = None
    """None: not reported, or no reply at all."""
    ended: bool = False
    """A live dialogue went no further."""


def fit_profile(observed: Sequence[ObservedTurn], source: str, dialogues: int) -> TargetProfile | None:
    """Fit a profile to observed turns; None when no reply reports its token counts.

    Args:
        observed: Turns of one target.
        source: Where they are from, for people.
        dialogues: How many are to be estimated: few of them may be unlike the mean of many.
    """
    given = [(one.dialogue, one.sent, one.input_tokens) for one in observed if one.input_tokens is not None]
    taken = [one for one in observed if one.output_tokens is not None]
    if not given or not taken:
        return None
    weights = _fit_weights([(sent, tokens) for _, sent, tokens in given])
    replies = _replies(taken)
    counted = [(dialogue, _dot(weights, sent), tokens) for dialogue, sent, tokens in given]
    spoken = [(one.dialogue, _reply_at(replies, one.turn).output_tokens, one.output_tokens or 0) for one in taken]
    return TargetProfile(
        weights=weights,
        replies=replies,
        ends=sum(one.ended for one in observed) / len(observed),
        text_spread=_spread(counted, dialogues),
        reply_spread=_spread(spoken, dialogues),
        source=source,
        learned=True,
    )


def _replies(taken: Sequence[ObservedTurn]) -> dict[int, ExpectedReply]:
    """Mean replies: of each turn number that has enough of them, and under 0 of the others, or else of all."""
    by_turn: dict[int, list[ObservedTurn]] = {}
    for one in taken:
        by_turn.setdefault(one.turn, []).append(one)
    means = {turn: _mean(some) for turn, some in by_turn.items() if len(some) >= MIN_SAMPLES}
    rest = [one for turn, some in by_turn.items() if turn not in means for one in some]
    means[0] = _mean(rest if len(rest) >= MIN_SAMPLES else taken)
    return means


def _reply_at(replies: Mapping[int, ExpectedReply], turn: int) -> ExpectedReply:
    return replies.get(turn) or replies[0]


def _mean(some: Sequence[ObservedTurn]) -> ExpectedReply:
    text = functools.reduce(TextSize.plus, (one.reply for one in some))
    return ExpectedReply(
        text=text.times(1 / len(some)), output_tokens=sum(one.output_tokens or 0 for one in some) / len(some)
    )


def _spread(pairs: Iterable[tuple[int, float, float]], dialogues: int) -> tuple[float, float]:
    """Factors to low and high: two standard errors of a sum over so many dialogues, from (dialogue, told, real)."""
    told: dict[int, float] = {}
    error: dict[int, float] = {}
    for dialogue, expected, real in pairs:
        told[dialogue] = told.get(dialogue, 0.0) + expected
        error[dialogue] = error.get(dialogue, 0.0) + real - expected
    count, total = len(told), sum(told.values())
    if total <= 0:
        return 1 - MIN_SPREAD, 1 + MIN_SPREAD
    deviation = math.sqrt(sum(e * e for e in error.values()) * count / max(1, count - 1)) / total * math.sqrt(count)
    if count < FEW_DIALOGUES:
        deviation = max(deviation, 0.5)
    band = max(MIN_SPREAD, 2 * deviation * math.sqrt(1 / count + 1 / max(1, dialogues)))
    return min(1 - MIN_SPREAD, 1 / (1 + band)), 1 + band


_PRIOR = 1e-3
"""Relative strength with which weights that the replies do not distinguish are drawn to the default ones."""


def _fit_weights(counted: Sequence[tuple[TextSize, int]]) -> TextSize:
    """Fit the weights to the reported counts: non-negative least squares, then scaled so that the sum is met exactly.

    Each request is weighted by the inverse of its size, so that a long one counts no more than several short ones.
    """
    import numpy as np
    from scipy.optimize import nnls

    sizes = np.array([sent for sent, _ in counted])
    tokens = np.array([tokens for _, tokens in counted], dtype=float)
    defaults = np.array(DEFAULT_WEIGHTS)
    scale = 1 / np.sqrt(np.maximum(1.0, sizes @ defaults))
    rows = sizes * scale[:, np.newaxis]
    prior = np.sqrt(_PRIOR * (rows**2).sum(axis=0))
    fitted, _ = nnls(np.vstack([rows, np.diag(prior)]), np.concatenate([tokens * scale, prior * defaults]))
    weights = TextSize(*map(float, fitted))
    predicted = sum(_dot(weights, sent) for sent, _ in counted)
    return weights.times(float(tokens.sum()) / predicted) if predicted > 0 else DEFAULT_WEIGHTS


def _dot(weights: TextSize, text: TextSize) -> float:
    return (
        weights.other * text.other
        + weights.wide * text.wide
        + weights.messages * text.messages
        + weights.requests * text.requests
    )


# --- estimating ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a number of requests comes to."""

    calls: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    cost: Decimal | None = Decimal(0)
    """None: no price is known."""

    def plus(self, other: Figures) -> Figures:
        """Both together; an unknown cost makes the sum unknown."""
        cost = None if self.cost is None or other.cost is None else self.cost + other.cost
        return Figures(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=cost,
        )

    def times(self, factor: float) -> Figures:
        """So much of it."""
        if factor == 1:
            return self
        return Figures(
            calls=self.calls * factor,
            input_tokens=self.input_tokens * factor,
            output_tokens=self.output_tokens * factor,
            cost=None if self.cost is None else self.cost * exact(factor),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What one target will do with the plan, or with a part of it."""

    low: Figures = Figures()
    expected: Figures = Figures()
    high: Figures = Figures()
    upper_bound: Figures | None = Figures()
    """Every request at its worst; None where nothing limits a reply."""
    reused: int = 0
    """Turns that are taken over from another run and not sent."""

    def plus(self, other: Estimate) -> Estimate:
        """Both together."""
        return Estimate(
            low=self.low.plus(other.low),
            expected=self.expected.plus(other.expected),
            high=self.high.plus(other.high),
            upper_bound=None
            if self.upper_bound is None or other.upper_bound is None
            else self.upper_bound.plus(other.upper_bound),
            reused=self.reused + other.reused,
        )


EMPTY_ESTIMATE = Estimate()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusedReply:
    """A reply another run has already: nothing is sent for its turn."""

    message: Message
    """As it goes back into the history."""
    ends: bool
    """A live dialogue goes no further behind it."""


ReuseLookup = Callable[[str, int], ReusedReply | None]
"""(key, repeat) → the reply that can be taken over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """One target with what is known of it."""

    target: Target
    profile: TargetProfile
    prices: PriceTable | None
    at: float
    """Unix seconds: prices of this moment hold."""
    history: HistoryMode = "live"
    repeats: int = 1
    command_line: Settings = NO_SETTINGS
    reusable: ReuseLookup | None = None

    def period(self) -> Period | None:
        """The prices that hold; None when nobody named one."""
        return None if self.prices is None else self.prices.period(self.at)

    def all_of(self, dialogues: Iterable[Dialogue]) -> Estimate:
        """The estimate of these dialogues, each with all its repeats."""
        return functools.reduce(Estimate.plus, map(self.one, dialogues), EMPTY_ESTIMATE)

    def one(self, dialogue: Dialogue) -> Estimate:
        """The estimate of one dialogue."""
        if self.reusable is not None:
            walks = (_EstimateWalk(self, dialogue, repeat).walked() for repeat in range(1, self.repeats + 1))
            return functools.reduce(Estimate.plus, walks)
        once = _EstimateWalk(self, dialogue, 1).walked()
        return functools.reduce(Estimate.plus, [once] * self.repeats)


class _EstimateWalk:
    """One dialogue played on paper, request by request, in every scenario at once."""

    def __init__(self, estimator: Estimator, dialogue: Dialogue, repeat: int) -> None:
        self._given = estimator
        self._dialogue = dialogue
        self._repeat = repeat
        self._live = estimator.history == "live"
        self._asked = frozenset(dialogue.asked(estimator.history))
        self._period = estimator.period()
        self._history_text = EMPTY_TEXT if dialogue.system is None else size_of(dialogue.system)
        self._answered = [EMPTY_TEXT] * len(SCENARIOS)
        """Live replies not known yet, by scenario."""
        self._token_bound = TokenBound(dialogue.system)
        self._keys = None if estimator.reusable is None else TurnKeys(estimator.target, dialogue)
        """None as soon as the history holds a reply that nobody knows yet."""
        self._goes_on = 1.0
        """How likely the dialogue comes this far."""

    def walked(self) -> Estimate:
        """The whole dialogue."""
        total = EMPTY_ESTIMATE
        for number, turn in enumerate(self._dialogue.turns, 1):
            self._add(Message(role="user", parts=turn.user))
            if number in self._asked:
                settings = self._settings(turn)
                taken = self._taken(settings)
                if taken is None:
                    total = total.plus(self._ask(number, turn, settings))
                else:
                    total = replace(total, reused=total.reused + 1)
                    if self._live and taken.ends:
                        return total
                    if self._live:
                        self._add(taken.message)
            if turn.assistant is not None and not (self._live and number in self._asked):
                self._add(Message(role="assistant", parts=(text_part(turn.assistant),)))
        return total

    def _settings(self, turn: Turn) -> Settings:
        return effective_settings(
            command_line=self._given.command_line,
            turn=turn.settings,
            dialogue=self._dialogue.settings,
            target=self._given.target.gateway.settings,
            repeat=self._repeat,
        )

    def _add(self, message: Message) -> None:
        self._history_text = self._history_text.plus(size_of(message.text))
        self._token_bound.add(message.text)
        if self._keys is not None:
            self._keys.add(message)

    def _taken(self, settings: Settings) -> ReusedReply | None:
        if self._keys is None or self._given.reusable is None:
            return None
        return self._given.reusable(self._keys.key(settings), self._repeat)

    def _ask(self, number: int, turn: Turn, settings: Settings) -> Estimate:
        reply = self._given.profile.reply_to(number, turn)
        requests = [self._request(scenario, reply, settings) for scenario in range(len(SCENARIOS))]
        low, expected, high = _in_order(requests)
        most = self._upper_bound(settings, high)
        if self._live:
            self._history_text = self._history_text.plus(_ONE_MESSAGE)
            self._keys = None
        sure = max(0.0, 2 * self._goes_on - 1)  # as far below what is expected as all turns are above it
        estimate = Estimate(low=low.times(sure), expected=expected.times(self._goes_on), high=high, upper_bound=most)
        if self._live:
            self._goes_on *= 1 - self._given.profile.ends
        return estimate

    def _request(self, scenario: int, reply: ExpectedReply, settings: Settings) -> Figures:
        profile = self._given.profile
        text_factor = (profile.text_spread[0], 1.0, profile.text_spread[1])[scenario]
        factor = (profile.reply_spread[0], 1.0, profile.reply_spread[1])[scenario]
        sent = self._history_text.plus(self._answered[scenario]).plus(_ONE_REQUEST)
        given = profile.tokens(sent) * text_factor
        limit = settings.max_output_tokens
        if limit is not None and reply.output_tokens * factor > limit:
            factor = limit / reply.output_tokens
        taken = reply.output_tokens * factor + (profile.reasoning_tokens if scenario == _HIGH else 0.0)
        if limit is not None:
            taken = min(taken, limit)
        if self._live:
            words = _without_framing(reply.text).times(factor)
            self._answered[scenario] = self._answered[scenario].plus(words)
        cost = None if self._period is None else _cost(self._period, given, taken)
        return Figures(calls=1, input_tokens=given, output_tokens=taken, cost=cost)

    def _upper_bound(self, settings: Settings, high: Figures) -> Figures | None:
        limit = max_output_bound(settings)
        if limit is None:
            return None
        given = max(self._token_bound.max_input(settings), math.ceil(high.input_tokens))
        if self._live:
            self._token_bound.counted(given + limit)
        cost = None
        if self._given.prices is not None and high.cost is not None:
            cost = max(self._given.prices.ceiling(given, limit), high.cost)
        return Figures(calls=1, input_tokens=given, output_tokens=limit, cost=cost)


def _cost(period: Period, given: float, taken: float) -> Decimal:
    """Of a request of this mean size; all its input at the full price."""
    size = math.ceil(given)
    total = exact(round(given, 3)) * period.input.at(size) + exact(round(taken, 3)) * period.output.at(size)
    return total / MILLION


def _in_order(requests: Sequence[Figures]) -> tuple[Figures, Figures, Figures]:
    """Low, expected, high; where a larger request costs less, as behind a tier that is cheaper, by what is expected."""
    low, expected, high = requests
    if expected.cost is None or low.cost is None or high.cost is None:
        return low, expected, high
    if low.cost > expected.cost:
        low = replace(low, cost=expected.cost)
    if high.cost < expected.cost:
        high = replace(high, cost=expected.cost)
    return low, expected, high
