"""Paired dialogues → one metric: its estimate, intervals, test and detectable change.

Only this module decides which numbers of a dialogue make a metric, which test it gets and which direction is harm. The
arithmetic is `stats.py`, the rules of a verdict `compare.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal, NamedTuple

from convbatch.comparison import stats
from convbatch.comparison.harm_bound import dialogues_for_margin, harm_bound
from convbatch.comparison.pairing import FAILED, ComparedTurn, Pair, PairedTurn, SampleKey, mean
from convbatch.comparison.stats import Interval, Mean

PASS_METRICS = ("dialogue_pass", "turn_pass", "score")
RATIO_METRICS = ("input_tokens", "output_tokens", "cost", "latency")
METRICS = (*PASS_METRICS, *RATIO_METRICS)
FEW = 20
"""Scores of fewer dialogues get the sign-flip test, because a t distribution is not justified yet."""

_NOTHING = 1e-12

Test = Literal["mcnemar_midp", "sign_flip_midp", "sign_test_midp", "paired_t", "ratio_of_totals_t", "log_ratio_t"]


class DialogueValue(NamedTuple):
    """The metric of one dialogue: sums over `size` paired values."""

    base: float
    candidate: float
    size: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """One metric over paired dialogues. Intervals are for `ratio` where there is one, else for `difference`."""

    metric: str
    dialogues: int
    """Number of dialogues that have the metric on both sides."""
    base: float
    """A rate, a mean score or a total; for latency the geometric mean of the dialogues' means, in seconds."""
    candidate: float
    difference: float
    """Candidate minus base."""
    ratio: float | None
    """Candidate divided by base; None for rates and scores."""
    ci95: Interval | None
    ci90: Interval | None
    ci: Interval | None
    """Two-sided interval at `confidence`, which decides regressions and improvements."""
    confidence: float
    """1 - alpha."""
    harm_bound: float | None
    """Upper bound of the harm, one-sided at `confidence`, which decides `non-inferior`. Rates and scores have a bound
    that holds for few dialogues and may lie beyond the end of `ci90`; None where the data give no interval."""
    p: float | None
    test: Test
    draws: int | None
    """Number of random draws behind p; None where it is exact or from a formula."""
    b: int | None
    """Dialogues that only the base passed; None where a dialogue is not a single pass or fail."""
    c: int | None
    worse: int
    """Dialogues in which the candidate did worse."""
    better: int
    smallest_detectable: float | None
    """Smallest change that this many dialogues detect with power 0.8; for ratios a share of the base."""
    dialogues_needed: int | None
    """Dialogues needed to detect a change as large as the observed one."""
    dialogues_for_margin: int | None
    """Dialogues needed to call a candidate that equals the base non-inferior."""

    @property
    def is_ratio(self) -> bool:
        """Whether it is judged by its ratio."""
        return self.ratio is not None

    def harm(self, limit: float) -> float:
        """Return the harm of a limit of an interval: above 0 = the candidate is worse; a share for ratios."""
        return limit - 1.0 if self.is_ratio else -limit

    def harms(self, interval: Interval) -> tuple[float, float]:
        """Return the least and the greatest harm in an interval."""
        low, high = sorted(map(self.harm, interval))
        return low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class TestLevels:
    """Alpha and margin of a metric."""

    alpha: float
    margin: float
    """A difference for rates and scores, a share for ratios."""

    @property
    def confidence(self) -> float:
        """Confidence of the interval that decides the verdict."""
        return 1 - self.alpha


def measure_values(
    metric: str, values: Sequence[DialogueValue], scale: TestLevels, *, passes_or_fails: bool = False
) -> MetricResult | None:
    """Measure a metric from its value in each dialogue.

    Args:
        metric: One of `METRICS`.
        values: One value per dialogue.
        scale: Alpha and margin.
        passes_or_fails: Whether every value is a single pass or fail.

    Returns:
        None without values, or for a ratio with a total of 0.
    """
    if not values:
        return None
    if metric in RATIO_METRICS:
        return _ratio(metric, values, scale)
    return _pass_or_fail(metric, values, scale) if passes_or_fails else _difference(metric, values, scale)


class Coverage(NamedTuple):
    """Number of dialogues that have a metric."""

    either_side: int
    """Dialogues that have it on at least one side."""
    uneven: int
    """Those of them with fewer values on one side, or none: failures may have selected what both sides share."""

    @property
    def lost(self) -> float:
        """Share of the dialogues of which some values cannot be compared."""
        return self.uneven / max(1, self.either_side)


def values_on_either_side(metric: str, pair: Pair, value: DialogueValue | None) -> tuple[bool, bool]:
    """Return whether a side of a dialogue has a metric, and whether it has more values than both share.

    Args:
        metric: One of `METRICS`.
        pair: The dialogue.
        value: What both share.
    """
    most = 1 if metric in ("dialogue_pass", "score", "latency") else len(pair.turns)
    if value is not None and value.size >= most:
        return True, False
    larger = max(_size(metric, side) for side in pair.alone)
    return larger > 0, larger > (value.size if value else 0.0)


def reason_without(metric: str, currencies: Set[str | None], *, has_values: bool) -> str:
    """Explain why there is no result of a metric.

    Args:
        metric: One of `METRICS`.
        currencies: Of all turns.
        has_values: Whether a dialogue has the metric on both sides.
    """
    if metric in PASS_METRICS:
        return "no dialogue has checks with a verdict on both sides"
    if has_values:
        return "one side's total is 0, so there is no ratio"
    if metric == "cost":
        known = sorted(one for one in currencies if one is not None)
        if len(known) > 1:
            return "the sides are in different currencies: " + ", ".join(known)
        return "no turn has a price and all its token counts on both sides"
    return f"no turn has {'a latency' if metric == 'latency' else 'a count'} on both sides"


# --- values of one dialogue ------------------------------------------------------------------------------------------


def _size(metric: str, pair: Pair) -> float:
    value = value_of(metric, pair)
    return value.size if value else 0.0


def value_of(metric: str, pair: Pair, turn: PairedTurn | None = None) -> DialogueValue | None:
    """Return the value of a dialogue, or of one of its turns; None where one side or both do not have the metric."""
    turns = pair.turns if turn is None else [turn]
    match metric:
        case "dialogue_pass":
            return _both(pair.base.dialogue_pass(), pair.candidate.dialogue_pass())
        case "turn_pass":
            return _total(turns, lambda t: t.passed)
        case "score":
            return _score(pair, turns, whole=turn is None)
        case "latency":
            total = _total(turns, lambda t: t.latency_s or None)  # 0 has no logarithm: nothing was measured
            return total and DialogueValue(total.base / total.size, total.candidate / total.size)
        case "cost":
            currencies = {t.currency for one in turns for samples in one[1:3] for t in samples.values()} - {None}
            return None if len(currencies) > 1 else _total(turns, lambda t: t.cost)
        case _:
            return _total(turns, lambda t: getattr(t, metric))


def _total(turns: Iterable[PairedTurn], value: Callable[[ComparedTurn], float | None]) -> DialogueValue | None:
    """Sum the turns that have the value on both sides, each averaged over its samples."""
    base = candidate = 0.0
    size = 0
    for turn in turns:
        first, second = mean(map(value, turn.base.values())), mean(map(value, turn.candidate.values()))
        if first is not None and second is not None:
            base, candidate, size = base + first, candidate + second, size + 1
    return DialogueValue(base, candidate, size) if size else None


def _score(pair: Pair, turns: Sequence[PairedTurn], *, whole: bool) -> DialogueValue | None:
    """Return the mean score of a dialogue over its scored turns and, as one more value, its own checks."""
    base, candidate = [], []
    for turn in turns:
        scored = any(t.score is not None for t in (*turn.base.values(), *turn.candidate.values()))
        first, second = (_scores(samples, scored) for samples in (turn.base, turn.candidate))
        if first is not None and second is not None:
            base.append(first)
            candidate.append(second)
    if whole:
        own = [mean(c.score for c in side.conversations.values()) for side in (pair.base, pair.candidate)]
        if own[0] is not None and own[1] is not None:
            base.append(own[0])
            candidate.append(own[1])
    return _both(mean(base), mean(candidate))


def _scores(samples: Mapping[SampleKey, ComparedTurn], scored: bool) -> float | None:
    # A turn that failed has no reply to score: where the other side has a score, it counts as 0.
    return mean(0.0 if t.score is None and scored and t.status in FAILED else t.score for t in samples.values())


def _both(base: float | None, candidate: float | None) -> DialogueValue | None:
    return None if base is None or candidate is None else DialogueValue(base, candidate)


# --- results over all dialogues --------------------------------------------------------------------------------------


def _pass_or_fail(metric: str, values: Sequence[DialogueValue], scale: TestLevels) -> MetricResult:
    """Measure single passes and fails: McNemar's mid-p and Tango's interval."""
    n = len(values)
    ones = [1.0] * n
    b = sum(value.base > value.candidate for value in values)
    c = sum(value.base < value.candidate for value in values)
    discordant = (b + c) / n

    def interval(level: float) -> Interval:
        return stats.tango_interval(b, c, n, level=level)

    return MetricResult(
        metric=metric,
        dialogues=n,
        base=sum(value.base for value in values) / n,
        candidate=sum(value.candidate for value in values) / n,
        difference=(c - b) / n,
        ratio=None,
        ci95=interval(0.95),
        ci90=interval(0.9),
        ci=interval(scale.confidence),
        confidence=scale.confidence,
        harm_bound=harm_bound([value.base - value.candidate for value in values], ones, alpha=scale.alpha),
        p=stats.mcnemar_midp(b, c),
        test="mcnemar_midp",
        draws=None,
        b=b,
        c=c,
        worse=b,
        better=c,
        smallest_detectable=stats.smallest_of_pairs(n, discordant, alpha=scale.alpha),
        dialogues_needed=stats.pairs_needed((c - b) / n, discordant, alpha=scale.alpha),
        dialogues_for_margin=dialogues_for_margin(discordant, ones, scale.margin, alpha=scale.alpha),
    )


def _difference(metric: str, values: Sequence[DialogueValue], scale: TestLevels) -> MetricResult:
    """Measure rates over several samples or turns, and scores: the mean difference over dialogues."""
    sums = [_beyond_rounding(value.candidate - value.base) for value in values]
    sizes = [value.size for value in values]
    total = math.fsum(sizes)
    estimate = stats.cluster_mean(sums, sizes)
    p, test, draws = _test(metric, sums, estimate)

    def interval(level: float) -> Interval | None:
        found = estimate.interval(level) or _of_equal(estimate, level)
        return found and Interval(max(-1.0, found.low), min(1.0, found.high))

    n = len(values)
    smallest = stats.smallest_of_mean(estimate, alpha=scale.alpha)
    if estimate.se is None and abs(estimate.estimate) < _NOTHING:  # as where no dialogue differs
        smallest = stats.smallest_of_pairs(n, 0.0, alpha=scale.alpha)
    variance = estimate.estimate**2 if estimate.se is None else n * estimate.se**2
    return MetricResult(
        metric=metric,
        dialogues=n,
        base=math.fsum(value.base for value in values) / total,
        candidate=math.fsum(value.candidate for value in values) / total,
        difference=estimate.estimate,
        ratio=None,
        ci95=interval(0.95),
        ci90=interval(0.9),
        ci=interval(scale.confidence),
        confidence=scale.confidence,
        harm_bound=harm_bound([-one for one in sums], sizes, alpha=scale.alpha),
        p=p,
        test=test,
        draws=draws,
        b=None,
        c=None,
        worse=sum(one < 0 for one in sums),
        better=sum(one > 0 for one in sums),
        smallest_detectable=smallest,
        dialogues_needed=stats.mean_needed(estimate, alpha=scale.alpha),
        dialogues_for_margin=dialogues_for_margin(variance, sizes, scale.margin, alpha=scale.alpha),
    )


def _beyond_rounding(difference: float) -> float:
    """Return a difference, with rounding errors of equal means set to 0."""
    return 0.0 if abs(difference) < _NOTHING else difference


def _test(metric: str, sums: Sequence[float], estimate: Mean) -> tuple[float | None, Test, int | None]:
    if metric == "score" and len(sums) >= FEW and estimate.se is not None:
        return estimate.p(), "paired_t", None
    flipped = stats.sign_flip_midp(sums)
    return flipped.p, "sign_flip_midp", flipped.draws


def _of_equal(estimate: Mean, level: float) -> Interval | None:
    """Return an interval where all dialogues give the same value, so that no standard error can be estimated.

    Values are between 0 and 1, so Tango's interval for as many dialogues that all changed (or all did not) holds after
    scaling by the size of the change.
    """
    if estimate.dialogues < 2:
        return None
    moved = abs(estimate.estimate)
    n = estimate.dialogues
    if moved < _NOTHING:
        return stats.tango_interval(0, 0, n, level=level)
    low, high = stats.tango_interval(
        n if estimate.estimate < 0 else 0, n if estimate.estimate > 0 else 0, n, level=level
    )
    return Interval(moved * low, moved * high)


def _ratio(metric: str, values: Sequence[DialogueValue], scale: TestLevels) -> MetricResult | None:
    """Measure tokens and cost by their totals, latency by the ratio of each dialogue."""
    base, candidate = [value.base for value in values], [value.candidate for value in values]
    if math.fsum(base) <= 0 or math.fsum(candidate) <= 0:
        return None
    found = _of_times(base, candidate, scale) if metric == "latency" else _of_totals(base, candidate, scale)
    one_sided = found.interval(1 - 2 * scale.alpha)
    return MetricResult(
        metric=metric,
        dialogues=len(values),
        base=found.base,
        candidate=found.candidate,
        difference=found.candidate - found.base,
        ratio=found.ratio,
        ci95=found.interval(0.95),
        ci90=found.interval(0.9),
        ci=found.interval(scale.confidence),
        confidence=scale.confidence,
        harm_bound=one_sided and one_sided.high - 1.0,
        p=found.p,
        test=found.test,
        draws=found.draws,
        b=None,
        c=None,
        worse=sum(value.candidate > value.base for value in values),
        better=sum(value.candidate < value.base for value in values),
        smallest_detectable=found.smallest,
        dialogues_needed=found.needed,
        dialogues_for_margin=found.for_margin,
    )


class _Compared(NamedTuple):
    """Ratio of the two sides, from totals or from times."""

    base: float
    candidate: float
    ratio: float
    interval: Callable[[float], Interval | None]
    p: float | None
    test: Test
    draws: int | None
    smallest: float | None
    needed: int | None
    for_margin: int | None


def _of_totals(base: Sequence[float], candidate: Sequence[float], scale: TestLevels) -> _Compared:
    ratio = stats.ratio_of_totals(base, candidate)
    if not ratio.has_spread:
        totals = math.fsum(base), math.fsum(candidate)
        return _of_equal_ratios(*totals, ratio.estimate, _count_moved(base, candidate), scale)
    excess = ratio.excess
    p, draws = excess.p(), None
    test: Test = "ratio_of_totals_t"
    if excess.se is None:
        # Every dialogue has the same excess, as from a longer hidden prompt: t has no spread, but the signs count.
        flipped = stats.sign_flip_midp([c - b for b, c in zip(base, candidate, strict=True)])
        p, test, draws = flipped.p, "sign_flip_midp", flipped.draws
    return _Compared(
        base=math.fsum(base),
        candidate=math.fsum(candidate),
        ratio=ratio.estimate,
        interval=ratio.interval,
        p=p,
        test=test,
        draws=draws,
        smallest=stats.smallest_of_mean(excess, alpha=scale.alpha),
        needed=stats.mean_needed(excess, alpha=scale.alpha),
        for_margin=stats.mean_for_margin(excess, scale.margin, alpha=scale.alpha),
    )


def _of_times(base: Sequence[float], candidate: Sequence[float], scale: TestLevels) -> _Compared:
    logs = stats.mean_log_ratio(base, candidate)
    first, second = (math.exp(math.fsum(map(math.log, side)) / len(side)) for side in (base, candidate))
    if logs.se is None:
        return _of_equal_ratios(first, second, math.exp(logs.estimate), _count_moved(base, candidate), scale)

    def interval(level: float) -> Interval | None:
        found = logs.interval(level)
        return found and Interval(_exp(found.low), _exp(found.high))

    smallest = stats.smallest_of_mean(logs, alpha=scale.alpha)
    return _Compared(
        base=first,
        candidate=second,
        ratio=math.exp(logs.estimate),
        interval=interval,
        p=logs.p(),
        test="log_ratio_t",
        draws=None,
        smallest=None if smallest is None else _exp(smallest) - 1,
        needed=stats.mean_needed(logs, alpha=scale.alpha),
        for_margin=stats.mean_for_margin(logs, math.log1p(scale.margin), alpha=scale.alpha),
    )


def _count_moved(base: Sequence[float], candidate: Sequence[float]) -> int:
    """Count the dialogues whose ratio can be other than 1; those with 0 on both sides have none."""
    return sum(b > 0 or c > 0 for b, c in zip(base, candidate, strict=True))


def _of_equal_ratios(base: float, candidate: float, ratio: float, dialogues: int, scale: TestLevels) -> _Compared:
    """Compare sides whose ratio is the same in all dialogues: its interval is a point, and the signs are tested.

    With so few dialogues that the sign test cannot reach a level, there is no interval at that level.
    """
    equal = abs(ratio - 1) <= _NOTHING
    exact = 1.0 if equal else ratio

    def interval(level: float) -> Interval | None:
        return Interval(exact, exact) if dialogues >= stats.sign_test_minimum(alpha=1 - level) else None

    needed = stats.sign_test_minimum(alpha=scale.alpha)
    return _Compared(
        base=base,
        candidate=candidate,
        ratio=exact,
        interval=interval,
        p=1.0 if equal else stats.mcnemar_midp(0, dialogues),
        test="sign_test_midp",
        draws=None,
        smallest=None,
        needed=None if equal else needed,
        for_margin=needed,
    )


def _exp(value: float) -> float:
    """Return a finite exponential, as JSON needs: two dialogues can have an interval of any width."""
    return math.exp(min(max(value, -700.0), 700.0))
