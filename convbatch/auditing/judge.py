"""All questions about all pairs, judged together: Holm over everything asked, a verdict for each pair and for all.

Pure. A pair is `different` if any question is, `consistent` only if every question that could be asked is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from convbatch.auditing.counts import contradictory_counts, input_counts, output_counts, reasoning_tokens, served_name
from convbatch.auditing.finding import (
    DRAWS,
    QUESTIONS,
    AuditVerdict,
    Finding,
    Question,
    Rules,
    decide,
    percent,
    untested,
)
from convbatch.auditing.probes import knowledge_border, obedience, tools
from convbatch.auditing.replay import replay
from convbatch.auditing.replies import Side, without_copies, without_withheld
from convbatch.auditing.texts import distribution
from convbatch.comparison.stats import holm
from convbatch.exit_codes import ExitCode, worst

_ASK: Mapping[Question, Callable[[Side, Side, Rules], Finding | None]] = {
    "served_name": served_name,
    "input_counts": input_counts,
    "output_counts": output_counts,
    "reasoning_tokens": reasoning_tokens,
    "replay": replay,
    "distribution": distribution,
    "knowledge_border": knowledge_border,
    "obedience": obedience,
    "tools": tools,
}
"""`money` needs more than replies and is asked where bills are read."""
_ABOUT_COPIES: frozenset[Question] = frozenset({"served_name", "input_counts", "replay"})
"""Facts, and the question whether repeats are copies: these see all replies."""
WITHHELD, UNANSWERED = 0.02, 0.05
"""Difference of shares of withheld replies, share of unanswered dialogues, above which no pair is `consistent`."""
_EXIT_CODES: Mapping[AuditVerdict, ExitCode] = {
    "different": ExitCode.FAILED,
    "inconclusive": ExitCode.INCOMPLETE,
    "consistent": ExitCode.OK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What is compared."""

    reference: Side
    candidate: Side
    money: Finding | None = None
    """What the bill says, where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedQuestion:
    """A question with its verdict."""

    finding: Finding
    p_holm: float | None
    verdict: AuditVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPair:
    """A pair with the verdicts on all questions that had data."""

    reference: str
    candidate: str
    verdict: AuditVerdict
    questions: Sequence[JudgedQuestion]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The result of an audit.

    >>> twice = [convbatch.run(dataset, models="sim-good@simulator") for _ in range(2)]
    >>> int(convbatch.audit(*twice).exit_code)
    3
    """

    alpha: float
    pairs: Sequence[JudgedPair]
    notes: Sequence[str] = ()
    run_code: ExitCode = ExitCode.OK
    """Of the run that a plan made."""

    @property
    def verdict(self) -> AuditVerdict:
        """`different` if any pair is, `consistent` only if all are."""
        return worst_verdict([pair.verdict for pair in self.pairs])

    @property
    def exit_code(self) -> ExitCode:
        """0 consistent, 1 different, 3 inconclusive, as `compare`; a reached budget of its run wins."""
        return worst(self.run_code, _EXIT_CODES[self.verdict])


def worst_verdict(verdicts: Sequence[AuditVerdict]) -> AuditVerdict:
    """Return the verdict on several things together; without any, nothing is known."""
    if "different" in verdicts:
        return "different"
    return "consistent" if verdicts and set(verdicts) == {"consistent"} else "inconclusive"


ABOUT_REPLIES: frozenset[Question] = frozenset({"distribution", "knowledge_border"})
"""Questions about what a model says: names and counts are what a gateway says about itself."""


def pair_verdict(questions: Sequence[JudgedQuestion]) -> AuditVerdict:
    """Return the verdict on a pair: never `consistent` by what a gateway says about itself alone."""
    verdict = worst_verdict([one.verdict for one in questions])
    asked = {one.finding.question for one in questions}
    return "inconclusive" if verdict == "consistent" and asked.isdisjoint(ABOUT_REPLIES) else verdict


def judge(
    pairs: Sequence[Pair], *, alpha: float = 0.05, draws: int = DRAWS, seed: int = 0, notes: Sequence[str] = ()
) -> Audit:
    """Ask every question about every pair and decide all of them together.

    Args:
        pairs: At least one.
        alpha: Probability of any wrong `different` in the whole audit, at most.
        draws: Random permutations of a test.
        seed: Of the draws; the same data and seed give the same audit.
        notes: What a reader must know beside the verdicts.
    """
    questions = len(QUESTIONS) * len(pairs)
    least = math.ceil(2 * questions / alpha)  # with fewer, no p could be small enough for all pairs together
    rules = Rules(alpha=alpha, questions=questions, draws=max(draws, least), seed=seed)
    asked = [ask_all(pair, rules) for pair in pairs]
    tested = [one for findings in asked for one in findings if one.p is not None]
    adjusted = dict(zip(map(id, tested), holm([one.p or 0.0 for one in tested]), strict=True))
    judged = [
        [
            JudgedQuestion(finding=one, p_holm=(p := adjusted.get(id(one))), verdict=decide(one, p, alpha=alpha))
            for one in findings
        ]
        for findings in asked
    ]
    return Audit(
        alpha=alpha,
        pairs=[
            JudgedPair(
                reference=pair.reference.name,
                candidate=pair.candidate.name,
                verdict=pair_verdict(questions),
                questions=questions,
            )
            for pair, questions in zip(pairs, judged, strict=True)
        ],
        notes=[*notes, *_silent_notes(pairs), *_copy_notes(pairs), *_scope_notes(pairs)],
    )


def ask_all(pair: Pair, rules: Rules) -> list[Finding]:
    """Return what every question finds that has data."""
    sides = without_withheld(pair.reference), without_withheld(pair.candidate)
    reference, candidate = without_copies(sides)
    found = {
        name: ask(*sides, rules) if name in _ABOUT_COPIES else ask(reference, candidate, rules)
        for name, ask in _ASK.items()
    }
    if (why := _withheld(pair)) is not None:
        found["obedience"] = _left_open(found["obedience"], why)
    money = pair.money or contradictory_counts(pair.candidate)
    return [one for one in (*found.values(), money) if one is not None]


def _withheld(pair: Pair) -> str | None:
    """Return that one side gave clearly fewer replies than the other: nothing is known of those that are missing.

    A platform may filter what a model says, and a run may be incomplete: neither is another model. But a gateway that
    fails where it would be found must not be `consistent`.
    """
    sides = pair.reference, pair.candidate
    held = [
        sum(reply.is_withheld for reply in side.replies) / len(side.replies) if side.replies else 0.0 for side in sides
    ]
    if abs(held[1] - held[0]) > WITHHELD:
        shares = ", ".join(f"{percent(share)} at {side.name}" for share, side in zip(held, sides, strict=True))
        return f"blocked or empty replies, left out: {shares}"
    answered = [{reply.dialogue for reply in side.replies} for side in sides]
    for side, other in ((pair.candidate, answered[0]), (pair.reference, answered[1])):
        missing = side.unanswered & other
        if len(missing) > UNANSWERED * len(other):
            return f"{side.name} has no reply in {len(missing):,} of {len(other):,} dialogues: convbatch resume"
    return None


def _left_open(found: Finding | None, why: str) -> Finding:
    """Return an answer that cannot be `consistent`, with the reason."""
    if found is None:
        return untested("obedience", why)
    return replace(found, detail=f"{found.detail}; {why}", open=f"{found.open}; {why}" if found.open else why)


def _scope_notes(pairs: Sequence[Pair]) -> Iterator[str]:
    """Yield how long prompts and replies were: longer ones may be served by another model, or be cut."""
    replies = [reply for pair in pairs for reply in pair.reference.replies]
    most = [max((count or 0 for count in counts), default=0) for counts in (
        (reply.input_tokens for reply in replies), (reply.output_tokens for reply in replies)
    )]  # fmt: skip
    if all(most):
        yield (
            f"nothing is known of prompts of more than {most[0]:,} tokens or replies of more than {most[1]:,}: "
            "the longest at the reference"
        )


def _silent_notes(pairs: Sequence[Pair]) -> Iterator[str]:
    silent = [side.name for pair in pairs for side in (pair.reference, pair.candidate) if not side.replies]
    yield from (f"{name}: no complete reply" for name in dict.fromkeys(silent))


def _copy_notes(pairs: Sequence[Pair]) -> Iterator[str]:
    for pair in pairs:
        sides = pair.reference, pair.candidate
        if any(len(one.replies) < len(side.replies) for one, side in zip(without_copies(sides), sides, strict=True)):
            names = f"{pair.candidate.name} and {pair.reference.name}"
            yield f"{names}: repeats that are copies at both sides (temperature 0, or a seed) count once"
