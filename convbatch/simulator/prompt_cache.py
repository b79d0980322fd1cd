"""The prompt cache of a provider: which prefixes of prompts were written, and from when they can be read.

A prefix is the system text and the first messages. It is written at each point that a request marks, and readable once
the reply to that request has begun.
"""

from __future__ import annotations

from convbatch.simulator.replies import ParsedRequest, count_tokens, history_sha


class PromptCache:
    """Written prefixes of all models; entries never expire, since no simulation lasts for five minutes."""

    def __init__(self) -> None:
        self._readable_from: dict[tuple[str, str], float] = {}

    def use(self, parsed: ParsedRequest, *, marks_system: bool, now: float, reply_at: float) -> tuple[int, int]:
        """Read the longest known prefix of a prompt and write what it marks.

        Args:
            parsed: The request; its end is always marked.
            marks_system: Whether the end of its system text is marked too.
            now: When it is read.
            reply_at: When its reply begins.

        Returns:
            Tokens that were read, and tokens that were written.
        """
        system, messages = parsed.system, parsed.messages
        sizes = [count_tokens(system), *(count_tokens(text) for _, text in messages)]
        names = [(parsed.model, history_sha(system, messages[:length])) for length in range(len(messages) + 1)]
        known = [length for length, name in enumerate(names) if self._readable_from.get(name, now + 1) <= now]
        read = sum(sizes[: known[-1] + 1]) if known else 0
        for name in (names[-1], *(names[:1] if marks_system and system else [])):
            self._readable_from.setdefault(name, reply_at)
        return read, sum(sizes) - read
