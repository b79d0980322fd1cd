"""The tokens that a turn counts against a limit of tokens a minute: estimated before it is sent, counted after it.

`TokenEstimates` learns how its estimates relate to what the gateway counts: some gateways add a hidden text to every
prompt, and no text has the same number of tokens for every model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from convbatch.config.gateways import Limits
from convbatch.dialogue import Message, Settings
from convbatch.engine.media_tokens import media_in, usual_media_tokens
from convbatch.engine.plan import text_bytes
from convbatch.reply import Usage

if TYPE_CHECKING:
    from convbatch.engine.conversation import ConversationState

FRAME_TOKENS = 4
"""The most tokens that a message counts in addition to its text: its role and delimiters."""
_MEMORY = 0.98
"""Weight of a reply relative to the next one."""
_PAIRS_OF_A_LINE = 3
_FIRST_SHARE = 8
"""Before the first reply, a turn reserves at least this part of the limit: so few are sent without any knowledge."""
_USUAL_OUTPUT = 512
"""Reserved for the output of a first reply without a limit on it."""


class Line:
    """A straight line through pairs of an estimate and the true value; recent pairs count more."""

    def __init__(self) -> None:
        self.pairs = 0
        self._weight = self._x = self._y = self._xx = self._xy = self._deviation = 0.0

    def add(self, estimate: float, true: float) -> None:
        """Learn from one pair."""
        if self.pairs < _PAIRS_OF_A_LINE:
            self._deviation = 0.05 * true
        else:
            self._deviation += 0.2 * (abs(true - self._on_line(estimate)) - self._deviation)
        self.pairs += 1
        self._weight = _MEMORY * self._weight + 1.0
        self._x = _MEMORY * self._x + estimate
        self._y = _MEMORY * self._y + true
        self._xx = _MEMORY * self._xx + estimate * estimate
        self._xy = _MEMORY * self._xy + estimate * true

    def corrected(self, estimate: float) -> float:
        """Return the value to expect, rather too large than too small; the estimate itself before the first pair."""
        return estimate if self.pairs == 0 else max(1.0, self._on_line(estimate) + self._deviation)

    def _on_line(self, estimate: float) -> float:
        x, y = self._x / self._weight, self._y / self._weight
        spread = self._xx / self._weight - x * x
        if self.pairs < _PAIRS_OF_A_LINE or spread <= (0.05 * x) ** 2 + 1.0:
            # Too alike to separate a constant from a ratio: the larger of both.
            return max(y + estimate - x, y * estimate / max(x, 1.0))
        slope = (self._xy / self._weight - x * y) / spread
        return y + min(max(slope, 0.1), 10.0) * (estimate - x)


class TokenEstimates:
    """Estimates for the turns of one rate limiter, corrected by its replies."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._first = Line()
        """For turns without an earlier reply: the whole prompt is estimated from its text."""
        self._next = Line()
        """For turns after a reply with usage: only the new messages are estimated."""
        self._output = Line()

    def estimate(self, state: ConversationState, settings: Settings, *, limit: int | None = None) -> int:
        """Return the tokens to reserve for the next turn of a conversation.

        Args:
            state: The conversation, with the question.
            settings: Of the turn.
            limit: The limit of tokens a minute, if it is known.
        """
        rough, is_first = _rough_input(state)
        line = self._first if is_first else self._next
        tokens = line.corrected(rough)
        if is_first and line.pairs == 0 and limit is not None:
            tokens = max(tokens, limit / _FIRST_SHARE)
        if self._limits.tpm_counts == "input+max_output":
            tokens += settings.max_output_tokens or self._usual_output(state.measured)
        return round(tokens)

    def learn(self, state: ConversationState, usage: Usage) -> None:
        """Learn from the usage of the reply to the turn that `estimate` was asked for."""
        if usage.input_tokens is not None:
            rough, is_first = _rough_input(state)
            (self._first if is_first else self._next).add(rough, usage.input_tokens)
        if usage.output_tokens is not None:
            self._output.add(1.0, usage.output_tokens)

    def _usual_output(self, known: Usage | None) -> float:
        if known is not None and known.output_tokens is not None:
            return known.output_tokens
        return self._output.corrected(1.0) if self._output.pairs else _USUAL_OUTPUT


def counted_tokens(limits: Limits, usage: Usage, settings: Settings) -> int | None:
    """Return the tokens that a reply counted against the limit; None if the gateway did not report them."""
    if usage.input_tokens is None:
        return None
    if limits.tpm_counts == "uncached_input":
        return usage.input_tokens - (usage.cached_input_tokens or 0)
    if limits.tpm_counts == "input+max_output":
        output = settings.max_output_tokens or usage.output_tokens
        return None if output is None else usage.input_tokens + output
    return usage.input_tokens


def _rough_input(state: ConversationState) -> tuple[float, bool]:
    """Return an estimate of a prompt's tokens, and whether no usage of an earlier reply was known for it."""
    known = state.measured
    if known is not None and known.input_tokens is not None and known.output_tokens is not None:
        # The previous reply was counted as output; as a message of the history it has a frame of its own.
        return known.input_tokens + known.output_tokens + FRAME_TOKENS + _rough_tokens(state.history[-1:]), False
    return _rough_tokens(state.history) + _rough_text(state.conversation.dialogue.system or ""), True


def _rough_tokens(messages: Iterable[Message]) -> int:
    return sum(FRAME_TOKENS + _rough_text(message.text) + usual_media_tokens(media_in(message)) for message in messages)


def _rough_text(text: str) -> int:
    # Three UTF-8 bytes a token: about one token a Chinese character, a third more than English needs.
    return text_bytes(text) // 3 + 1
