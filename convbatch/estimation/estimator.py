"""Estimate calls, tokens and cost of a plan before anything is sent: low, expected, high and upper bound.

Arithmetic only. It walks every dialogue as the runner will and counts the growing history; a `TargetProfile` describes
the target, learned from an earlier run's replies or from defaults. Replies are found in `history.py`, output is
`cli/dry_run.py`. The accuracy is measured in docs/cost.md.
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
from convbatch.dataset.tool_script import ToolScript, is_order_dependent
from convbatch.dialogue import (
    NO_SETTINGS,
    Dialogue,
    HistoryMode,
    Message,
    Part,
    Settings,
    Turn,
    effective_settings,
    scripted_messages,
    text_part,
)
from convbatch.engine.media_tokens import media_in, usual_media_tokens
from convbatch.engine.plan import TokenBound, TurnKeys, max_output_bound, replies_at_once, texts_of_calls
from convbatch.pricing import MILLION, Period, PriceTable, exact
from convbatch.reply import Reply

SCENARIOS = ("low", "expected", "high")
_HIGH = SCENARIOS.index("high")
MIN_SPREAD = 0.1
"""Low and high are at least 10 % away from the expected value, however similar the replies were."""
MIN_SAMPLES = 10
"""Replies at one turn number that are enough for a mean of their own."""
FEW_DIALOGUES = 5
"""With fewer dialogues their variation is not known: the estimate is as wide as one without any."""

_WIDE = re.compile(
    "[\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)


class TextSize(NamedTuple):
    """Size of one or several texts, in the units that determine token counts."""

    other: float = 0.0
    """Groups of four characters, of all scripts but the wide ones."""
    wide: float = 0.0
    """Characters of Chinese, Japanese and Korean."""
    messages: float = 0.0
    requests: float = 0.0
    """1 for a request, 0 for a text: some gateways add hidden text to every request."""

    def plus(self, text: TextSize) -> TextSize:
        """Return the sum of both."""
        return TextSize(
            self.other + text.other,
            self.wide + text.wide,
            self.messages + text.messages,
            self.requests + text.requests,
        )

    def times(self, factor: float) -> TextSize:
        """Return a multiple."""
        return TextSize(self.other * factor, self.wide * factor, self.messages * factor, self.requests * factor)


EMPTY_TEXT = TextSize()
_ONE_MESSAGE = TextSize(messages=1)
_EXPECTED_STEPS = 2
"""Requests that a turn with tools is expected to make: calls, then the answer."""
_ONE_REQUEST = TextSize(requests=1)


def size_of(text: str) -> TextSize:
    """Return the size of one message with this text."""
    wide = 0 if text.isascii() else len(_WIDE.findall(text))
    return TextSize((len(text) - wide) / 4, wide, 1)


def size_of_media(parts: Iterable[Part]) -> TextSize:
    """Return the size of media as that of a text with as many tokens."""
    return TextSize(usual_media_tokens(parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedReply:
    """A predicted reply."""

    text: TextSize
    """The part that is sent back in the history."""
    output_tokens: float
    """Including reasoning tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetProfile:
    """How a target counts tokens and how long its replies are."""

    weights: TextSize
    """Tokens for each part of a `TextSize`."""
    replies: Mapping[int, ExpectedReply]
    """By turn number; 0 for all other turns. Empty when nothing is known about its replies."""
    ends: float = 0.0
    """Share of turns after which a live dialogue ends (blocked, empty, failed)."""
    text_spread: tuple[float, float]
    """Factors from expected to low and high, for the tokens of a text."""
    reply_spread: tuple[float, float]
    """The same for the length of replies."""
    reasoning_tokens: float = 0.0
    """Extra tokens of each reply in the high scenario, not sent back: whether the model reasons is unknown."""
    source: str
    """Origin of the profile, for messages."""
    learned: bool

    def tokens(self, text: TextSize) -> float:
        """Return the tokens of a text."""
        return _dot(self.weights, text)

    def reply_to(self, number: int, turn: Turn) -> ExpectedReply:
        """Predict the reply to a turn: the mean of others at this turn, else the scripted one, else `DEFAULT_REPLY`."""
        known = self.replies.get(number) or self.replies.get(0)
        if known is not None:
            return known
        text = DEFAULT_REPLY if turn.assistant is None else size_of(turn.assistant)
        return ExpectedReply(text=text, output_tokens=self.tokens(_without_framing(text)))


DEFAULT_TEXT_SPREAD = 0.6, 1.7
"""Spread of the tokens of a text, as an unknown target counts them."""
DEFAULT_SPREAD = 0.25, 4.0
"""Spread of replies of an unknown target."""
DEFAULT_REASONING_TOKENS = 1000.0
"""Reasoning tokens assumed where it is unknown whether a model reasons."""
DEFAULT_WEIGHTS = TextSize(1.0, 0.8, 4.0, 0.0)
"""Usual tokens per unit of a `TextSize`."""
DEFAULT_REPLY = TextSize(400, 0, 1)
"""An unknown reply: 400 tokens, where models write 100 to 1,600."""


def _without_framing(text: TextSize) -> TextSize:
    """Return the text alone, without the overhead of a message."""
    return TextSize(text.other, text.wide)


def default_profile(source: str) -> TargetProfile:
    """Return the assumptions about a target without earlier replies."""
    return TargetProfile(
        weights=DEFAULT_WEIGHTS,
        replies={},
        text_spread=DEFAULT_TEXT_SPREAD,
        reply_spread=DEFAULT_SPREAD,
        reasoning_tokens=DEFAULT_REASONING_TOKENS,
        source=source,
        learned=False,
    )


def profile_for_other_model(profile: TargetProfile) -> TargetProfile:
    """Adapt a profile learned from another model: tokens count alike, but the replies of this one are unknown."""
    return replace(
        profile, text_spread=(0.75, 1.4), reply_spread=DEFAULT_SPREAD, reasoning_tokens=DEFAULT_REASONING_TOKENS
    )


# --- learning --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedTurn:
    """A finished turn of an earlier run."""

    dialogue: int
    turn: int
    sent: TextSize
    """Size of the whole request."""
    reply: TextSize
    input_tokens: int | None = None
    output_tokens: float | None = None
    """Of one reply where several were asked for at once; None where it was not reported, or without a reply."""
    ended: bool = False
    """Whether a live dialogue ended here."""


def fit_profile(
    observed: Sequence[ObservedTurn], source: str, dialogues: int, *, is_rough: bool = False
) -> TargetProfile | None:
    """Fit a profile to observed turns; None when no reply reported its counts.

    Args:
        observed: Turns of one target.
        source: Their origin, for messages.
        dialogues: Number of dialogues to estimate: a few of them can differ more from the mean than many.
        is_rough: Whether the turns are of other dialogues: the estimate is as wide as one without any.
    """
    requests = [(one.dialogue, one.sent, one.input_tokens) for one in observed if one.input_tokens is not None]
    replied = [one for one in observed if one.output_tokens is not None]
    if not requests or not replied:
        return None
    weights = _fit_weights([(sent, tokens) for _, sent, tokens in requests])
    replies = _replies(replied)
    inputs = [(dialogue, _dot(weights, sent), tokens) for dialogue, sent, tokens in requests]
    outputs = [(one.dialogue, _reply_at(replies, one.turn).output_tokens, one.output_tokens or 0) for one in replied]
    few = is_rough or len({one.dialogue for one in replied}) < FEW_DIALOGUES
    return TargetProfile(
        weights=weights,
        replies=replies,
        ends=sum(one.ended for one in observed) / len(observed),
        text_spread=_wider(_spread(inputs, dialogues), DEFAULT_TEXT_SPREAD if few else None),
        reply_spread=_wider(_spread(outputs, dialogues), DEFAULT_SPREAD if few else None),
        source=source,
        learned=True,
    )


def _wider(spread: tuple[float, float], other: tuple[float, float] | None) -> tuple[float, float]:
    return spread if other is None else (min(spread[0], other[0]), max(spread[1], other[1]))


def _replies(replied: Sequence[ObservedTurn]) -> dict[int, ExpectedReply]:
    """Return mean replies of each turn number with enough of them, and under 0 of the others or, if few, of all."""
    by_turn: dict[int, list[ObservedTurn]] = {}
    for one in replied:
        by_turn.setdefault(one.turn, []).append(one)
    means = {turn: _mean(some) for turn, some in by_turn.items() if len(some) >= MIN_SAMPLES}
    rest = [one for turn, some in by_turn.items() if turn not in means for one in some]
    means[0] = _mean(rest if len(rest) >= MIN_SAMPLES else replied)
    return means


def _reply_at(replies: Mapping[int, ExpectedReply], turn: int) -> ExpectedReply:
    return replies.get(turn) or replies[0]


def _mean(some: Sequence[ObservedTurn]) -> ExpectedReply:
    text = functools.reduce(TextSize.plus, (one.reply for one in some))
    return ExpectedReply(
        text=text.times(1 / len(some)), output_tokens=sum(one.output_tokens or 0 for one in some) / len(some)
    )


def _spread(pairs: Iterable[tuple[int, float, float]], dialogues: int) -> tuple[float, float]:
    """Return factors to low and high, two standard errors of a sum, from (dialogue, predicted, actual) values.

    Args:
        pairs: Values of observed turns.
        dialogues: Number of dialogues in the sum.
    """
    predicted: dict[int, float] = {}
    error: dict[int, float] = {}
    for dialogue, expected, actual in pairs:
        predicted[dialogue] = predicted.get(dialogue, 0.0) + expected
        error[dialogue] = error.get(dialogue, 0.0) + actual - expected
    count, total = len(predicted), sum(predicted.values())
    if total <= 0:
        return 1 - MIN_SPREAD, 1 + MIN_SPREAD
    deviation = math.sqrt(sum(e * e for e in error.values()) * count / max(1, count - 1)) / total * math.sqrt(count)
    band = max(MIN_SPREAD, 2 * deviation * math.sqrt(1 / count + 1 / max(1, dialogues)))
    return min(1 - MIN_SPREAD, 1 / (1 + band)), 1 + band


_PRIOR = 1e-3
"""Relative strength of the pull towards the default weights, for weights that the replies do not distinguish."""
_LEAST = 1e-6
"""Keeps the default weight of what no request had, such as Chinese text."""


def _fit_weights(counted: Sequence[tuple[TextSize, int]]) -> TextSize:
    """Fit the weights to the reported counts by non-negative least squares, then scale them to the exact sum.

    Each request is weighted by the inverse of its size, so that a long one counts no more than several short ones.
    """
    import numpy as np
    from scipy.optimize import nnls

    sizes = np.array([sent for sent, _ in counted])
    tokens = np.array([tokens for _, tokens in counted], dtype=float)
    defaults = np.array(DEFAULT_WEIGHTS)
    scale = 1 / np.sqrt(np.maximum(1.0, sizes @ defaults))
    rows = sizes * scale[:, np.newaxis]
    prior = np.sqrt(_PRIOR * np.maximum(_LEAST, (rows**2).sum(axis=0)))
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
    """Totals of a number of requests."""

    calls: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    cost: Decimal | None = Decimal(0)
    """None where no price is known."""

    def plus(self, other: Figures) -> Figures:
        """Return the sum of both; an unknown cost makes the sum unknown."""
        cost = None if self.cost is None or other.cost is None else self.cost + other.cost
        return Figures(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=cost,
        )

    def times(self, factor: float) -> Figures:
        """Return a multiple."""
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
    """Estimate for one target over the plan or a part of it."""

    low: Figures = Figures()
    expected: Figures = Figures()
    high: Figures = Figures()
    upper_bound: Figures | None = Figures()
    """Every request at its maximum; None where nothing limits a reply."""
    reused: int = 0
    """Turns whose replies are reused from another run and not requested."""
    with_tools: int = 0
    """Requested turns that may take several calls."""

    def plus(self, other: Estimate) -> Estimate:
        """Return the sum of both."""
        return Estimate(
            low=self.low.plus(other.low),
            expected=self.expected.plus(other.expected),
            high=self.high.plus(other.high),
            upper_bound=None
            if self.upper_bound is None or other.upper_bound is None
            else self.upper_bound.plus(other.upper_bound),
            reused=self.reused + other.reused,
            with_tools=self.with_tools + other.with_tools,
        )


EMPTY_ESTIMATE = Estimate()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusedReply:
    """A reply of another run, so that nothing is sent for its turn."""

    message: Message
    """The reply as a message of the history."""
    ends: bool
    """Whether a live dialogue ends after it."""
    has_calls: bool
    """Whether any of its steps calls a tool."""
    steps: tuple[Reply, ...] = ()
    """The replies before it, whose calls were answered from the script."""


ReuseLookup = Callable[[str, int], ReusedReply | None]
"""(key, repeat) → the reply that can be reused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """Estimates dialogues for one target."""

    target: Target
    profile: TargetProfile
    prices: PriceTable | None
    at: float
    """Moment whose prices apply, in unix seconds."""
    history: HistoryMode = "live"
    repeats: int = 1
    command_line: Settings = NO_SETTINGS
    reusable: ReuseLookup | None = None

    def period(self) -> Period | None:
        """Return the prices that apply; None without prices."""
        return None if self.prices is None else self.prices.period(self.at)

    def all_of(self, dialogues: Iterable[Dialogue]) -> Estimate:
        """Estimate these dialogues, each with all repeats."""
        return functools.reduce(Estimate.plus, map(self.one, dialogues), EMPTY_ESTIMATE)

    def one(self, dialogue: Dialogue) -> Estimate:
        """Estimate one dialogue with all repeats."""
        if self.reusable is not None:
            walks = (_EstimateWalk(self, dialogue, repeat).walked() for repeat in range(1, self.repeats + 1))
            return functools.reduce(Estimate.plus, walks)
        once = _EstimateWalk(self, dialogue, 1).walked()
        return functools.reduce(Estimate.plus, [once] * self.repeats)


class _EstimateWalk:
    """A simulated run of one dialogue, request by request, in all scenarios at once."""

    def __init__(self, estimator: Estimator, dialogue: Dialogue, repeat: int) -> None:
        self._estimator = estimator
        self._dialogue = dialogue
        self._repeat = repeat
        self._live = estimator.history == "live"
        self._asked = frozenset(dialogue.asked(estimator.history))
        self._period = estimator.period()
        self._history_text = EMPTY_TEXT if dialogue.system is None else size_of(dialogue.system)
        if estimator.target.gateway.system_role == "user":  # no message of its own
            self._history_text = _without_framing(self._history_text)
        self._answered = [EMPTY_TEXT] * len(SCENARIOS)
        """Predicted live replies, by scenario."""
        self._token_bound = TokenBound(dialogue)
        self._tool_script = ToolScript(dialogue)
        self._keys = None if estimator.reusable is None else TurnKeys(estimator.target, dialogue)
        """None once the history has a predicted reply, because its key is unknown."""
        self._reached = 1.0
        """Probability that the dialogue reaches this turn."""

    def walked(self) -> Estimate:
        """Return the estimate of the whole dialogue."""
        total = EMPTY_ESTIMATE
        for number, turn in enumerate(self._dialogue.turns, 1):
            is_asked = number in self._asked
            before, behind = scripted_messages(turn, self._estimator.history, is_asked=is_asked)
            for message in (Message(role="user", parts=turn.user), *before):
                self._add(message)
            if is_asked:
                settings = self._settings(turn)
                reused = self._reused(settings)
                if reused is None:
                    total = total.plus(self._ask(number, turn, settings))
                else:
                    total = replace(total, reused=total.reused + 1)
                    if self._live and reused.ends:
                        return total
                    if self._live:
                        self._add_reused(reused)
            for message in behind:
                self._add(message)
        return total

    def _add_reused(self, reused: ReusedReply) -> None:
        for step in reused.steps:
            results = self._tool_script.answer(step.tool_calls)
            self._add(Message(role="assistant", parts=(text_part(step.text or ""),), raw=step.raw_turn))
            if results:
                self._add(Message(role="tool", parts=(), results=results))
        self._add(reused.message)

    def _settings(self, turn: Turn) -> Settings:
        return effective_settings(
            command_line=self._estimator.command_line,
            turn=turn.settings,
            dialogue=self._dialogue.settings,
            target=self._estimator.target.gateway.settings,
            repeat=self._repeat,
            unset=self._estimator.target.gateway.unset,
        )

    def _add(self, message: Message) -> None:
        media = media_in(message)
        text = "".join([message.text, *texts_of_calls(message)])
        self._history_text = self._history_text.plus(size_of(text)).plus(size_of_media(media))
        self._token_bound.add_message(message)
        if self._keys is not None:
            self._keys.add(message)

    def _reused(self, settings: Settings) -> ReusedReply | None:
        if self._keys is None or self._estimator.reusable is None:
            return None
        found = self._estimator.reusable(self._keys.key(settings), self._repeat)
        is_uncertain = (
            found is not None and found.has_calls and is_order_dependent(self._dialogue, self._estimator.history)
        )
        return None if is_uncertain else found

    def _ask(self, number: int, turn: Turn, settings: Settings) -> Estimate:
        reply = self._estimator.profile.reply_to(number, turn)
        requests = [self._request(scenario, reply, settings) for scenario in range(len(SCENARIOS))]
        low, expected, high = _in_order(requests)
        if self._dialogue.tools:
            expected, high = expected.times(_EXPECTED_STEPS), high.times(max(_EXPECTED_STEPS, self._dialogue.max_steps))
        upper_bound = self._upper_bound(settings, high)
        if self._live:
            self._history_text = self._history_text.plus(_ONE_MESSAGE)
            self._keys = None
        certain = max(0.0, 2 * self._reached - 1)  # as far below the expected value as all turns are above it
        estimate = Estimate(
            low=low.times(certain),
            expected=expected.times(self._reached),
            high=high,
            upper_bound=upper_bound,
            with_tools=bool(self._dialogue.tools),
        )
        if self._live:
            self._reached *= 1 - self._estimator.profile.ends
        return estimate

    def _request(self, scenario: int, reply: ExpectedReply, settings: Settings) -> Figures:
        profile = self._estimator.profile
        text_factor = (profile.text_spread[0], 1.0, profile.text_spread[1])[scenario]
        factor = (profile.reply_spread[0], 1.0, profile.reply_spread[1])[scenario]
        sent = self._history_text.plus(self._answered[scenario]).plus(_ONE_REQUEST)
        input_tokens = profile.tokens(sent) * text_factor
        limit = settings.max_output_tokens
        if limit is not None and reply.output_tokens * factor > limit:
            factor = limit / reply.output_tokens
        output_tokens = reply.output_tokens * factor + (profile.reasoning_tokens if scenario == _HIGH else 0.0)
        if limit is not None:
            output_tokens = min(output_tokens, limit)
        output_tokens *= replies_at_once(settings) or 1  # only one of them is sent back
        if self._live:
            words = _without_framing(reply.text).times(factor)
            self._answered[scenario] = self._answered[scenario].plus(words)
        cost = None if self._period is None else _cost(self._period, input_tokens, output_tokens)
        return Figures(calls=1, input_tokens=input_tokens, output_tokens=output_tokens, cost=cost)

    def _upper_bound(self, settings: Settings, high: Figures) -> Figures | None:
        limit = max_output_bound(settings)
        if limit is None or self._dialogue.tools:
            return None  # a model may call a tool any number of times at once
        input_tokens = max(self._token_bound.max_input(settings), math.ceil(high.input_tokens))
        if self._live:
            self._token_bound.counted(input_tokens + limit)
        cost = None
        if self._estimator.prices is not None and high.cost is not None:
            cost = max(self._estimator.prices.ceiling(input_tokens, limit), high.cost)
        return Figures(calls=1, input_tokens=input_tokens, output_tokens=limit, cost=cost)


def _cost(period: Period, input_tokens: float, output_tokens: float) -> Decimal:
    """Return the cost of a request of this mean size: all input at the full price, all output at the highest price."""
    size = math.ceil(input_tokens)
    total = exact(round(input_tokens, 3)) * period.input.at(size)
    total += exact(round(output_tokens, 3)) * period.dearest_output(size)
    return total / MILLION


def _in_order(requests: Sequence[Figures]) -> tuple[Figures, Figures, Figures]:
    """Return low, expected and high, limited to the expected cost where a larger request is in a cheaper tier."""
    low, expected, high = requests
    if expected.cost is None or low.cost is None or high.cost is None:
        return low, expected, high
    if low.cost > expected.cost:
        low = replace(low, cost=expected.cost)
    if high.cost < expected.cost:
        high = replace(high, cost=expected.cost)
    return low, expected, high
