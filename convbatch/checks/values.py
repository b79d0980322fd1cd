"""The values of checks: what a check gets, what a kind is, and the finding and the verdict that come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from convbatch.dialogue import Dialogue
from convbatch.pricing import NO_EXCHANGE_RATES, ExchangeRates, Money
from convbatch.reply import MediaFile

NEEDS_A_JUDGE = "llm_rubric"
"""The only kind that another model evaluates: `llm_rubric.py`."""
COMPARES_TARGETS = "prefer"
"""The only kind that is about the replies of two targets: it has no verdict in a run, `convbatch prefer` asks it."""
MODIFIERS = ("weight", "name", "normalize", "time_limit")
"""Keys of a check beside its kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalledTool:
    """A tool call in a reply."""

    name: str
    arguments: Any
    """The parsed value; the raw string when it is not JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckInput:
    """The input of a check: one reply, or all replies of a dialogue. `python` checks receive it.

    >>> def mentions_paris(given: CheckInput) -> bool:
    ...     return "Paris" in given.replies[-1]

    For a whole dialogue, counts are sums, and None when one of them is unknown.
    """

    dialogue: Dialogue
    """The script: its id, tags, `meta`, and turns with their scripted replies."""
    target: str
    repeat: int
    turn: int | None
    """From 1; None for a whole dialogue."""
    user: str
    """The user message; the last one of a dialogue."""
    replies: tuple[str, ...]
    """The text of one turn, or of all asked turns. `""` for a blocked or empty reply."""
    status: str
    """`ok`, `blocked` or `empty`; the status of the last turn of a dialogue."""
    assistant: str | None = None
    """The scripted reply to compare with; None without one, and for a whole dialogue."""
    finish_reason: str | None = None
    """The finish reason of the last turn of a dialogue."""
    tool_calls: tuple[CalledTool, ...] = ()
    media: tuple[MediaFile, ...] = ()
    """Pictures and sound in the replies."""
    output_tokens: int | None = None
    latency_s: float | None = None
    cost: Money | None = None
    rates: ExchangeRates = field(default=NO_EXCHANGE_RATES, repr=False)

    @property
    def reply(self) -> str:
        """The reply; the last one of a dialogue."""
        return self.replies[-1]

    @property
    def text(self) -> str:
        """All replies, joined by newlines."""
        return "\n".join(self.replies)


class Finding(NamedTuple):
    """The result of a kind before `not_` inverts it."""

    holds: bool
    reason: str
    """A statement of fact that is valid whether the check passed or failed."""
    score: float | None = None
    """From 0 to 1; None when the result is only true or false."""


class Verdict(NamedTuple):
    """The result of a check."""

    passed: bool | None
    """None: not evaluated."""
    score: float | None
    """From 0 to 1; None when not evaluated."""
    reason: str
    error: str | None = None
    """Why there is no verdict that could be read, without details. With `passed` False the check counts as failed, with
    None a judge gave no verdict; a verdict that may still come has none."""


class Check(NamedTuple):
    """A parsed check of a dataset."""

    name: str
    """The name in the dataset; by default the kind."""
    kind: str
    """Includes the prefix `not_`."""
    argument: Any
    weight: float
    normalize: bool = False
    """Whether to compare normalized texts: `differences.normalized`."""
    time_limit_s: float | None = None
    """None: the default of the kind."""

    @property
    def plain_kind(self) -> str:
        """The kind without `not_`."""
        return self.kind.removeprefix("not_")


class CheckSite(NamedTuple):
    """The place of a check in its dialogue, as far as an argument can depend on it."""

    has_reference: bool
    """Whether the turn has a scripted reply."""
    tools: tuple[str, ...]
    """Names of the tools that the dialogue declares."""


class CheckKind(NamedTuple):
    """A kind of check; everything that the dataset, the tables and the documentation need to know about it."""

    name: str
    argument: Callable[[Any], str | None]
    """Returns None for a valid argument, else a description of valid ones."""
    evaluate: Callable[[Any, CheckInput], Finding]
    doc: str
    """When the check passes, as in docs/checks.md."""
    site_problem: Callable[[str, Any, CheckSite], tuple[str, str] | None] | None = None
    """Takes the key in the dataset, the argument and the site; returns a problem with its hint when they do not fit."""
    compares_text: bool = False
    """Whether the kind looks for texts, so that `normalize` applies to it."""
    has_time_limit: bool = False
    """Whether the work depends on the argument, so that `time_limit` applies; the others take a bounded time."""


def parse_check(check: Mapping[str, Any]) -> Check:
    """Parse a check of a dataset; trusts that it is well formed."""
    kind = next(key for key in check if key not in MODIFIERS)
    return Check(
        name=check.get("name", kind),
        kind=kind,
        argument=check[kind],
        weight=float(check.get("weight", 1.0)),
        normalize=check.get("normalize", False),
        time_limit_s=check.get("time_limit"),
    )


def to_verdict(check: Check, finding: Finding) -> Verdict:
    """Build the verdict of a check from a finding, inverted under `not_`."""
    return _plain_verdict(finding) if check.kind == check.plain_kind else _negated_verdict(finding)


def _plain_verdict(finding: Finding) -> Verdict:
    score = float(finding.holds) if finding.score is None else finding.score
    return Verdict(finding.holds, score, finding.reason)


def _negated_verdict(finding: Finding) -> Verdict:
    score = float(not finding.holds) if finding.score is None else 1.0 - finding.score
    return Verdict(not finding.holds, score, finding.reason)


def error_verdict(why: str) -> Verdict:
    """Build the verdict of a check that could not be evaluated; it counts as failed."""
    why = " ".join(why.split())[:500]
    return Verdict(False, 0.0, f"the check could not be carried out: {why}", why)
