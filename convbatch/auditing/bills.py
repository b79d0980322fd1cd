"""The question about money: does the gateway's bill say what its replies said? Pure, from joined lines and calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from convbatch.auditing.finding import Finding, exact_limit, replies_for, signed_percent, untested
from convbatch.comparison.stats import Interval
from convbatch.reporting.usage_log_matching import (
    DIFFER,
    FAILED_BILLED,
    NOT_BILLED,
    OTHER_MODEL,
    SAME,
    UNKNOWN,
    JoinedPair,
)

BILLED_MORE = 0.005
"""Relative difference of billed tokens that rounding may explain."""
WRONG_LINES = 0.05
"""Share of wrong lines that `money` rules out."""
_WRONG = (OTHER_MODEL, UNKNOWN, FAILED_BILLED)
"""Lines that should not be there at all."""


def money(pairs: Sequence[JoinedPair]) -> Finding | None:
    """Compare the lines of a bill with the counts of the replies they belong to.

    What a bill says is a fact: tokens that differ by more than rounding, lines without a call, and lines for another
    model are `different`. Replies that were not billed are told and are nobody's loss.

    Args:
        pairs: Lines and calls of one target.
    """
    outcomes = Counter(pair.outcome for pair in pairs)
    compared = [pair for pair in pairs if pair.outcome in (SAME, DIFFER)]
    wrong = sum(outcomes[one] for one in _WRONG)
    told = ", ".join(f"{one}: {count:,}" for one, count in outcomes.most_common())
    if not compared and not wrong:
        return untested("money", f"no line of the bill could be compared; {told}") if pairs else None
    billed, ours = (sum(_tokens(pair)[side] for pair in compared) for side in (0, 1))
    more = billed / ours - 1 if ours else 0.0
    lines = len(compared) + wrong
    is_more = abs(more) > BILLED_MORE
    share = wrong / lines
    return Finding(
        question="money",
        detail=f"billed {signed_percent(more)} tokens (calls: {len(compared):,}); {told}",
        measure="relative difference of billed tokens" if is_more or not wrong else "share of lines that are wrong",
        effect=more if is_more or not wrong else share,
        interval=Interval(-exact_limit(lines), exact_limit(lines)),
        p=0.0 if is_more or wrong else 1.0,
        limit=WRONG_LINES,
        power=1 - (1 - WRONG_LINES) ** lines,
        needed=f"{replies_for(WRONG_LINES)} billed calls" if exact_limit(lines) >= WRONG_LINES else None,
        open=f"{outcomes[NOT_BILLED]:,} replies are not in the bill" if outcomes[NOT_BILLED] else None,
    )


def _tokens(pair: JoinedPair) -> tuple[int, int]:
    """Return billed and counted tokens of a line and its call, both counts of which are known."""
    line, call = pair.line, pair.call
    if line is None or call is None:
        return 0, 0
    both = (line.input_tokens, line.output_tokens, call.input_tokens, call.output_tokens)
    counts = [count or 0 for count in both]
    return counts[0] + counts[1], counts[2] + counts[3]
