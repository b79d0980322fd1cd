"""The question about money: does the gateway's bill say what its replies said? Pure, from joined lines and calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set

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
from convbatch.reporting.usage_log_reader import UsageLogLine

BILLED_MORE = 0.005
"""Relative difference of billed tokens that rounding may explain."""
WRONG_LINES = 0.05
"""Share of wrong lines that `money` rules out."""
_WRONG = (OTHER_MODEL, FAILED_BILLED)
"""Outcomes of lines that should not be there at all."""
SAME_TIME_S = 1.0
"""Seconds between two lines with the same counts that are one call billed twice, where lines have no request id."""


def money(pairs: Sequence[JoinedPair]) -> Finding | None:
    """Compare the lines of a bill with the counts of the replies they belong to.

    What a bill says is a fact: tokens that differ by more than rounding, calls billed twice, refused calls, and lines
    for another model are `different`. Other lines without a call may be other use of the key: they are left open.
    Replies that were not billed are told and are nobody's loss.

    Args:
        pairs: Lines and calls of one target.
    """
    outcomes = Counter(pair.outcome for pair in pairs)
    compared = [pair for pair in pairs if pair.outcome in (SAME, DIFFER)]
    twice = _billed_twice(pairs)
    strange = outcomes[UNKNOWN] - twice
    wrong = sum(outcomes[one] for one in _WRONG) + twice
    told = ", ".join(f"{one}: {count:,}" for one, count in outcomes.most_common())
    told += f" (billed twice: {twice:,})" if twice else ""
    if not compared and not wrong:
        return untested("money", f"no line of the bill could be compared; {told}") if pairs else None
    billed, ours = (sum(_tokens(pair)[side] for pair in compared) for side in (0, 1))
    more = billed / ours - 1 if ours else 0.0
    lines = len(compared) + wrong
    is_more = abs(more) > BILLED_MORE
    effect = more if is_more or not wrong else wrong / lines
    differ = outcomes[DIFFER] if outcomes[DIFFER] > WRONG_LINES * lines else 0
    return Finding(
        question="money",
        detail=f"billed {signed_percent(more)} tokens (calls: {len(compared):,}); {told}",
        measure="relative difference of billed tokens" if is_more or not wrong else "share of lines that are wrong",
        effect=effect,
        interval=Interval(effect - exact_limit(lines), effect + exact_limit(lines)),
        p=0.0 if is_more or wrong else 1.0,
        limit=WRONG_LINES,
        power=1 - (1 - WRONG_LINES) ** lines,
        needed=f"{replies_for(WRONG_LINES)} billed calls" if exact_limit(lines) >= WRONG_LINES else None,
        open=_left_open(outcomes[NOT_BILLED], strange, differ),
    )


def _left_open(unbilled: int, strange: int, differ: int) -> str | None:
    reasons = [
        f"{differ:,} lines differ, although little in all" if differ else None,
        f"{unbilled:,} replies are not in the bill" if unbilled else None,
        f"{strange:,} lines have no call: was the key used elsewhere at that time?" if strange else None,
    ]
    return "; ".join(filter(None, reasons)) or None


def _billed_twice(pairs: Sequence[JoinedPair]) -> int:
    """Count the lines without a call that repeat the line of a call: its request id, or its counts and its time."""
    ids: set[str] = set()
    times: dict[tuple[int | None, int | None], list[float]] = {}
    for pair in pairs:
        if pair.call is not None and (line := pair.line) is not None:
            ids |= {line.request_id} if line.request_id else set()
            times.setdefault((line.input_tokens, line.output_tokens), []).append(line.at)
    return sum(pair.outcome == UNKNOWN and _repeats(pair.line, ids, times) for pair in pairs)


def _repeats(
    line: UsageLogLine | None, ids: Set[str], times: Mapping[tuple[int | None, int | None], Sequence[float]]
) -> bool:
    if line is None:
        return False
    if line.request_id:
        return line.request_id in ids
    known = times.get((line.input_tokens, line.output_tokens), ())
    return any(abs(line.at - at) <= SAME_TIME_S for at in known)


def _tokens(pair: JoinedPair) -> tuple[int, int]:
    """Return billed and counted tokens of a line and its call, both counts of which are known."""
    line, call = pair.line, pair.call
    if line is None or call is None:
        return 0, 0
    both = (line.input_tokens, line.output_tokens, call.input_tokens, call.output_tokens)
    counts = [count or 0 for count in both]
    return counts[0] + counts[1], counts[2] + counts[3]
