"""A target watched over days: each run against all earlier ones, by a test that may be looked at every day. Pure.

While nothing changes, the replies of a day and of the days before are exchangeable. So a p from drawing anew which of
them are today's says nothing about the p of earlier days, and products of e-values made of them exceed 1 / alpha at any
time with probability alpha at most. A mixture over the day from which a change may show keeps old quiet days from
hiding it.

Source: Vovk and Wang 2021, Annals of Statistics 49:1736 (calibration); Ville 1939 (the bound); Vovk, Gammerman, Shafer
2005, Algorithmic Learning in a Random World, chapter 7 (independent p in an exchangeable sequence).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from convbatch.auditing.finding import DRAWS, Finding, Question, Rules
from convbatch.auditing.judge import Audit, JudgedPair, JudgedQuestion, Pair, ask_all, pair_verdict
from convbatch.auditing.replies import Side

_FACTS: frozenset[Question] = frozenset({"served_name", "input_counts"})
"""Questions that chance has no part in: a day without a finding is no evidence for either."""


def e_value(p: float) -> float:
    """Return the e-value of a p: its mean over all p is at most 1.

    A p of 0 is a fact, with infinite evidence. The mean of k p^(k - 1) over k from 0 to 1.
    """
    if p <= 0:
        return math.inf
    if p > 1 - 1e-4:
        return 0.5
    log = math.log(p)
    return (1 - p + p * log) / (p * log * log)


class EProcess:
    """The evidence against `nothing has changed`, day by day."""

    def __init__(self) -> None:
        self._days = 0
        self._started: list[float] = []
        """By the day from which a change is looked for: weight times product of the e-values since."""
        self.most = 1.0
        """The largest evidence so far: it is at least x with probability 1 / x at most, if nothing has changed."""

    def add(self, p: float) -> None:
        """Take a day's p; on the first day of a share of the evidence it starts anew."""
        self._days += 1
        e = e_value(p)
        self._started = [product * e for product in (*self._started, 1 / (self._days * (self._days + 1)))]
        self.most = max(self.most, sum(self._started) + 1 / (self._days + 1))


def monitor(days: Sequence[Side], *, alpha: float = 0.05, draws: int = DRAWS, seed: int = 0) -> Audit:
    """Compare each day with all earlier ones; decide on the evidence of all days.

    Args:
        days: The replies of one target, at least two days; the first one is the last good one.
        alpha: Probability of a wrong `different` on any day, ever, at most.
        draws: Random permutations of a test.
        seed: Of the draws.

    Returns:
        One pair, the first against the last day. The adjusted p of a question is the number of questions asked over
        the largest evidence.
    """
    rules = Rules(alpha=alpha, draws=draws, seed=seed)
    processes: dict[Question, EProcess] = {}
    last: dict[Question, Finding] = {}
    alarms: dict[Question, Finding] = {}
    for number, day in enumerate(days[1:], 1):
        earlier = [reply for one in days[:number] for reply in one.replies]
        reference = dataclasses.replace(days[0], replies=earlier)
        last = {one.question: one for one in ask_all(Pair(reference=reference, candidate=day), rules)}
        for question, finding in last.items():
            process = processes.setdefault(question, EProcess())
            before = process.most
            if finding.p is not None and not (finding.p == 1 and question in _FACTS):
                process.add(finding.p if finding.is_noticeable else 1.0)
            if process.most > before and process.most >= rules.questions / alpha:
                alarms[question] = finding
    judged = [_judged(one, processes[one.question], rules) for one in (last | alarms).values()]
    return Audit(
        alpha=alpha,
        pairs=[
            JudgedPair(
                reference=days[0].name,
                candidate=days[-1].name,
                verdict=pair_verdict(judged),
                questions=judged,
            )
        ],
        notes=[f"runs after the first: {len(days) - 1}, each against all before it; p holds however often one looks"],
    )


def _judged(finding: Finding, process: EProcess, rules: Rules) -> JudgedQuestion:
    p = min(1.0, rules.questions / process.most)
    if p <= rules.alpha:
        return JudgedQuestion(finding=finding, p_holm=p, verdict="different")
    is_quiet = finding.p is not None and (finding.p > rules.alpha or not finding.is_noticeable)
    verdict = "consistent" if is_quiet and finding.rules_out_the_limit else "inconclusive"
    return JudgedQuestion(finding=finding, p_holm=p if finding.p is not None else None, verdict=verdict)
