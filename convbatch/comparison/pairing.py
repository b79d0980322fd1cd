"""Rows of two sides → paired dialogues and turns, and the turn at which their conversations diverge.

A pair is (dialogue, turn); every repeat (and target, where several are compared) is one more sample of it. What is
measured on the pairs is `metrics.py`; whether two runs may be paired, `inputs.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

FAILED = frozenset({"error", "skipped"})
TURN_COLUMNS = (
    "dialogue", "target", "repeat", "turn", "tags", "status", "user", "reply", "tool_calls", "input_tokens",
    "output_tokens", "cost", "currency", "latency_s", "checks_passed", "checks_failed", "score",
    "checks_without_verdict",
)  # fmt: skip
"""Columns read from `turns`, in this order."""
CONVERSATION_COLUMNS = (
    "dialogue",
    "target",
    "repeat",
    "status",
    "checks_passed",
    "checks_failed",
    "score",
    "dialogue_pass",
    "checks_without_verdict",
)
"""Columns read from `conversations`, in this order."""
ReasonKey = tuple[str, int, int | None]
"""Target, repeat and turn of failed checks; turn None = the dialogue's own checks."""
SampleKey = tuple[str, int]
"""Target ("" where each side has only one) and repeat: one sample of a dialogue."""


class ComparedTurn(NamedTuple):
    """The compared columns of a row of `turns`, in the order of `TURN_COLUMNS`."""

    dialogue: str
    target: str
    repeat: int
    turn: int
    tags: Sequence[str]
    status: str
    user: str | None
    reply: str | None
    tool_calls: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost: float | None
    currency: str | None
    latency_s: float | None
    checks_passed: int | None
    checks_failed: int | None
    score: float | None
    checks_without_verdict: int | None = None

    @property
    def passed(self) -> bool | None:
        """Value of `turn_pass`: None without checks, while the turn is pending, and where it depends on a judge."""
        return _passed(self)

    @property
    def visible_reply(self) -> tuple[str | None, str | None, bool]:
        """What the next turn of a live conversation sees of this one: reply, tool calls, whether it failed."""
        return (self.reply, self.tool_calls, self.status in FAILED)


class ComparedConversation(NamedTuple):
    """The compared columns of a row of `conversations`, in the order of `CONVERSATION_COLUMNS`."""

    dialogue: str
    target: str
    repeat: int
    status: str
    checks_passed: int | None
    checks_failed: int | None
    score: float | None
    dialogue_pass: bool | None
    checks_without_verdict: int | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the dialogue's own checks pass; None without any, and where it depends on a judge."""
        return _passed(self)


def _passed(row: ComparedTurn | ComparedConversation) -> bool | None:
    """Return whether the checks of a row pass: a failed one decides, else one without a verdict leaves it open."""
    if row.status == "pending" or not (row.checks_passed or 0) + (row.checks_failed or 0):
        return None
    if row.checks_failed or row.status in FAILED:
        return False
    return None if row.checks_without_verdict else True


@dataclass(slots=True, kw_only=True)
class Side:
    """One side of a dialogue: all its samples."""

    turns: dict[int, dict[SampleKey, ComparedTurn]] = field(default_factory=dict[int, dict[SampleKey, ComparedTurn]])
    conversations: dict[SampleKey, ComparedConversation] = field(default_factory=dict[SampleKey, ComparedConversation])
    reasons: Mapping[ReasonKey, str] = field(default_factory=dict[ReasonKey, str])
    """Of failed checks."""

    def add_turn(self, turn: ComparedTurn, *, has_targets: bool) -> None:
        """Add a sample of a turn; with several targets each of them is a sample."""
        sample = (turn.target if has_targets else "", turn.repeat)
        self.turns.setdefault(turn.turn, {})[sample] = turn

    def add_conversation(self, conversation: ComparedConversation, *, has_targets: bool) -> None:
        """Add the dialogue's own checks of a sample."""
        self.conversations[conversation.target if has_targets else "", conversation.repeat] = conversation

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of the dialogue."""
        return next((tuple(turn.tags) for samples in self.turns.values() for turn in samples.values()), ())

    @property
    def failed_turns(self) -> int:
        """Number of turns that ended in an error or were skipped after one."""
        return sum(turn.status in FAILED for samples in self.turns.values() for turn in samples.values())

    @property
    def pending(self) -> bool:
        """Whether any turn is pending."""
        return any(turn.status == "pending" for samples in self.turns.values() for turn in samples.values())

    def lacks_verdict(self, metric: str) -> bool:
        """Return whether a sample has checks, but not this metric because one of them has no verdict."""
        own = list(self.conversations.items())
        turns = [(sample, turn) for samples in self.turns.values() for sample, turn in samples.items()]
        if metric == "dialogue_pass":
            open_samples = {sample for sample, row in (*own, *turns) if row.checks_without_verdict}
            return any(row.dialogue_pass is None and sample in open_samples for sample, row in own)
        rows = turns if metric == "turn_pass" else [*turns, *own]
        return any(row.checks_without_verdict and _value_of(metric, row) is None for _, row in rows)

    @property
    def samples(self) -> set[SampleKey]:
        """Keys of all samples."""
        return {sample for samples in self.turns.values() for sample in samples}

    def of_target(self, target: str) -> Side:
        """Return the samples of one target only."""
        turns = {
            n: {sample: turn for sample, turn in samples.items() if sample[0] == target}
            for n, samples in self.turns.items()
        }
        conversations = {sample: one for sample, one in self.conversations.items() if sample[0] == target}
        return Side(turns=turns, conversations=conversations)

    def dialogue_pass(self) -> float | None:
        """Return the share of samples in which the whole dialogue passed; None without checks."""
        return mean(conversation.dialogue_pass for conversation in self.conversations.values())


def _value_of(metric: str, row: ComparedTurn | ComparedConversation) -> float | None:
    return row.score if metric == "score" else row.passed


class PairedTurn(NamedTuple):
    """A turn with its samples on both sides."""

    number: int
    base: Mapping[SampleKey, ComparedTurn]
    candidate: Mapping[SampleKey, ComparedTurn]
    strictly: bool
    """Whether both sides were sent the same, history included."""


@dataclass(kw_only=True)
class Pair:
    """A dialogue that both sides have."""

    dialogue: str
    tags: tuple[str, ...]
    base: Side
    candidate: Side
    same_history: bool
    """False where the history modes differ, so that no turn is strictly paired."""
    is_live: bool

    @property
    def pending(self) -> bool:
        """Whether any turn is pending on either side."""
        return self.base.pending or self.candidate.pending

    @property
    def has_check_without_verdict(self) -> bool:
        """Whether any check of a turn or of the dialogue has no verdict."""
        return any(
            row.checks_without_verdict
            for side in (self.base, self.candidate)
            for samples in (*side.turns.values(), side.conversations)
            for row in samples.values()
        )

    def lacks_verdict(self, metric: str) -> bool:
        """Return whether a sample of either side has not this metric because a check has no verdict."""
        return self.base.lacks_verdict(metric) or self.candidate.lacks_verdict(metric)

    def of_target(self, target: str) -> Pair:
        """Return the same pair with one target only."""
        return replace(self, base=self.base.of_target(target), candidate=self.candidate.of_target(target))

    @cached_property
    def alone(self) -> tuple[Pair, Pair]:
        """Each side paired with itself over the turns both asked, to see what one side has and the other lacks."""
        base, candidate = (
            Side(turns={n: side.turns[n] for n in self._numbers}, conversations=side.conversations)
            for side in (self.base, self.candidate)
        )
        return replace(self, base=base, candidate=base), replace(self, base=candidate, candidate=candidate)

    @cached_property
    def diverges_at(self) -> int | None:
        """The first turn whose replies differ in any shared sample; None when none does."""
        for number in self._numbers:
            base, candidate = self.base.turns[number], self.candidate.turns[number]
            if any(
                base[sample].visible_reply != candidate[sample].visible_reply
                for sample in base.keys() & candidate.keys()
            ):
                return number
        return None

    @cached_property
    def turns(self) -> list[PairedTurn]:
        """The turns that both sides asked, in order."""
        last = math.inf
        if self.is_live:
            # Samples without a counterpart share no history: they diverge at the first turn.
            shared = self.base.samples == self.candidate.samples
            last = (self.diverges_at or math.inf) if shared else min(self._numbers, default=0)
        return [
            PairedTurn(n, self.base.turns[n], self.candidate.turns[n], self.same_history and n <= last)
            for n in self._numbers
        ]

    @property
    def _numbers(self) -> list[int]:
        return sorted(self.base.turns.keys() & self.candidate.turns.keys())


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the known values; None when none is known."""
    known = [float(value) for value in values if value is not None]
    if len(known) == 1:  # most dialogues are asked once
        return known[0]
    return math.fsum(known) / len(known) if known else None
