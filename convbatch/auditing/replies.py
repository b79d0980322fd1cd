"""What an audit knows of the replies of one side, as plain values, and how they are grouped. Pure.

`reading.py` makes them from run folders, `benchmarks` from simulated worlds. No question reads a run itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from convbatch.served_model import ServedMatch

BORDER, CANARY, FACT, LIMIT, TEMPERATURE = "border", "canary", "fact", "limit", "temperature"
"""Tags of the probes."""
PROBES = frozenset({BORDER, CANARY, FACT, LIMIT, TEMPERATURE})

K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedReply:
    """One complete reply."""

    dialogue: str
    turn: int = 1
    repeat: int = 1
    run: str = ""
    prompt: bytes = b""
    """Digest of the request without its seed: equal for the same question with the same settings."""
    user: str = ""
    has_system: bool = False
    """Whether the prompt has a system text."""
    is_fixed: bool = True
    """Whether the prompt holds no live reply, so that it is the same on every side."""
    text: str | None = None
    finish_reason: str | None = "stop"
    served: str | None = None
    match: ServedMatch | None = None
    """How `served` compares with the asked model; None where the reply names none."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    """Including reasoning."""
    reasoning_tokens: int | None = None
    counts_agree: bool | None = None
    max_output_tokens: int | None = None
    """The requested limit."""
    temperature: float | None = None
    """None: the gateway's default."""
    seed: int | None = None
    tags: frozenset[str] = frozenset()
    passed: bool | None = None
    """Whether all checks on the turn passed; None without a check that has a verdict."""
    calls_are_valid: bool | None = None
    """Whether all its tool calls fit their declarations; None without a call."""
    fits_schema: bool | None = None
    """Whether it is what its `response_schema` asks for; None without one."""
    is_withheld: bool = False
    """Whether it is blocked, or complete and empty: what the model would have said is not known."""
    is_history_cut: bool = False
    """Whether the provider says that the model did not see all that was sent."""

    @property
    def conversation(self) -> tuple[str, str, int]:
        """Run, dialogue and repeat: replies of one conversation are not independent."""
        return self.run, self.dialogue, self.repeat

    @property
    def place(self) -> tuple[str, int]:
        """Dialogue and turn."""
        return self.dialogue, self.turn

    @property
    def visible_tokens(self) -> int | None:
        """Output without reasoning; reasoning that is not reported counts as none."""
        return None if self.output_tokens is None else self.output_tokens - (self.reasoning_tokens or 0)

    @property
    def is_sampled(self) -> bool:
        """Whether it was asked at a temperature that is known to be above 0."""
        return bool(self.temperature)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The replies of one target, or of one target in one run."""

    name: str
    replies: Sequence[AuditedReply] = field(default_factory=tuple)
    protocol: str = ""
    unanswered: frozenset[str] = frozenset()
    """Dialogues that were asked and have no complete reply."""


def group(
    side: Side, key: Callable[[AuditedReply], K], keep: Callable[[AuditedReply], bool]
) -> dict[K, list[AuditedReply]]:
    """Return the replies to keep, by key, in order."""
    found: dict[K, list[AuditedReply]] = {}
    for reply in side.replies:
        if keep(reply):
            found.setdefault(key(reply), []).append(reply)
    return found


@dataclass(frozen=True, slots=True)
class Both:
    """Replies of both sides to one prompt, or to one dialogue."""

    reference: Sequence[AuditedReply]
    candidate: Sequence[AuditedReply]


def pair_up(
    reference: Side, candidate: Side, key: Callable[[AuditedReply], K], keep: Callable[[AuditedReply], bool]
) -> dict[K, Both]:
    """Return what both sides have replies to, by key, in the order of the reference."""
    ours, theirs = group(reference, key, keep), group(candidate, key, keep)
    return {name: Both(replies, theirs[name]) for name, replies in ours.items() if name in theirs}


def by_prompt(reply: AuditedReply) -> bytes:
    """Key of replies to the same prompt."""
    return reply.prompt


def by_dialogue(reply: AuditedReply) -> str:
    """Key of replies in the same dialogue."""
    return reply.dialogue


def by_place(reply: AuditedReply) -> tuple[str, int]:
    """Key of replies to the same turn, whatever the model said before."""
    return reply.place


def conversation_means(replies: Iterable[AuditedReply], value: Callable[[AuditedReply], float | None]) -> list[float]:
    """Return the mean of a value over each conversation that has it."""
    found: dict[tuple[str, str, int], list[float]] = {}
    for reply in replies:
        if (known := value(reply)) is not None:
            found.setdefault(reply.conversation, []).append(known)
    return [sum(values) / len(values) for values in found.values()]


def repeats_in_order(replies: Iterable[AuditedReply]) -> Iterator[tuple[AuditedReply, AuditedReply]]:
    """Yield pairs of replies to one prompt in repeats k and k + 1 of one run."""
    series: dict[tuple[str, str, int], dict[int, AuditedReply]] = {}
    for reply in replies:
        series.setdefault((reply.run, *reply.place), {})[reply.repeat] = reply
    for those in series.values():
        yield from ((those[k], those[k + 1]) for k in those if k + 1 in those)


def conversations(replies: Iterable[AuditedReply]) -> int:
    """Count the conversations that these replies belong to."""
    return len({reply.conversation for reply in replies})


def without_withheld(side: Side) -> Side:
    """Return a side without replies that its platform withheld."""
    return replace(side, replies=[reply for reply in side.replies if not reply.is_withheld])


FROZEN = 0.9
"""Share of identical repeats from which a side is taken to give the same reply again and not to draw a new one."""
FROZEN_PAIRS = 10
LONG_TEXT = 40
"""Bytes of UTF-8: two replies of this length that are drawn anew are hardly ever identical."""


_SCRIPTED = frozenset({BORDER, CANARY, FACT, LIMIT})
"""Probes to which a good reply is always the same one."""


def without_copies(sides: Sequence[Side]) -> list[Side]:
    """Return sides whose repeats are independent replies: only the first ones, where no side draws a new one.

    At temperature 0, and from a seed, a model gives the same reply again: eight copies of one reply are one reply, and
    two honest servers may each have another one. Replies at temperature 0 are looked at apart from all others.
    """
    kinds = [is_cold for is_cold in (True, False) if all(_is_frozen(side, is_cold) for side in sides)]
    if not kinds:
        return list(sides)
    found: list[Side] = []
    for side in sides:
        least: dict[tuple[str, int], int] = {}
        for reply in side.replies:
            least[reply.place] = min(reply.repeat, least.get(reply.place, reply.repeat))
        kept = [one for one in side.replies if (one.temperature == 0) not in kinds or one.repeat == least[one.place]]
        found.append(replace(side, replies=kept))
    return found


def _is_frozen(side: Side, is_cold: bool) -> bool:
    fixed = group(
        side,
        by_prompt,
        lambda one: (
            one.is_fixed
            and one.text is not None
            and (one.temperature == 0) == is_cold
            and (is_cold or one.tags.isdisjoint(_SCRIPTED))
        ),
    )
    alike = [
        one.text == other.text
        for replies in fixed.values()
        for one, other in repeats_in_order(replies)
        if is_cold or len((one.text or "").encode(errors="replace")) >= LONG_TEXT
    ]
    return len(alike) >= (1 if is_cold else FROZEN_PAIRS) and sum(alike) >= FROZEN * len(alike)
