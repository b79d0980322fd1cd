"""The tokens that a turn counts against a limit of tokens a minute: estimated before it is sent, counted after it."""

from __future__ import annotations

from collections.abc import Iterable

from convbatch.config.gateways import Limits
from convbatch.dialogue import Message, Settings
from convbatch.engine.conversation import ConversationState
from convbatch.engine.plan import text_bytes
from convbatch.reply import Usage

FRAME_TOKENS = 4
"""The most tokens that a message counts in addition to its text: its role and delimiters."""


def estimated_tokens(limits: Limits, state: ConversationState, settings: Settings) -> int:
    """Estimate the tokens that a turn counts against the limit, from the usage of the previous turn if it is known."""
    if limits.tpm is None:
        return 0
    known = state.measured
    if known is not None and known.input_tokens is not None and known.output_tokens is not None:
        # The previous reply was counted as output; as a message of the history it has a frame of its own.
        tokens = known.input_tokens + known.output_tokens + FRAME_TOKENS + _rough_tokens(state.history[-1:])
    else:
        tokens = _rough_tokens(state.history) + _rough_text(state.conversation.dialogue.system or "")
    if limits.tpm_counts == "input+max_output":
        tokens += settings.max_output_tokens or _usual_output(known)
    return tokens


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


_USUAL_OUTPUT = 512
"""Reserved for a first reply without a limit on output; replaced by the reported usage."""


def _usual_output(known: Usage | None) -> int:
    return _USUAL_OUTPUT if known is None or known.output_tokens is None else known.output_tokens


def _rough_tokens(messages: Iterable[Message]) -> int:
    return sum(FRAME_TOKENS + _rough_text(message.text) for message in messages)


def _rough_text(text: str) -> int:
    # Three UTF-8 bytes a token: about one token a Chinese character, a third more than English needs.
    return text_bytes(text) // 3 + 1
