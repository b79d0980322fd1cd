"""`compare`: whether the candidate got worse. Paired rows → metrics, verdicts, slices and flipped turns.

The rules of the verdict are here and nowhere else; they apply to harm (a lower rate or score, more tokens, cost or
time). Pairing is `pairing.py`, measuring a metric `metrics.py`, output `render.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from convbatch.comparison import stats
from convbatch.comparison.inputs import (
    NO_CHANGED_HISTORIES,
    NO_SERVED_MODELS,
    RECORDED_COSTS,
    ChangedHistories,
    CostOptions,
    SelectedRun,
    ServedModels,
    load_inputs,
)
from convbatch.comparison.measurements import Measurements, Values, of_one_turn
from convbatch.comparison.metrics import (
    METRICS,
    PASS_METRICS,
    RATIO_METRICS,
    Coverage,
    MetricResult,
    TestLevels,
)
from convbatch.comparison.pair_stream import PairCounts, PairStream, load_side
from convbatch.comparison.pairing import (
    CONVERSATION_COLUMNS,
    TURN_COLUMNS,
    ComparedTurn,
    Pair,
    ReasonKey,
    SampleKey,
    mean,
)
from convbatch.comparison.records import flat, flip_record, metric_record, slice_record, turn_record
from convbatch.errors import SetupError, did_you_mean, named_by_keyword
from convbatch.exit_codes import ExitCode, GateResult, gate_result

if TYPE_CHECKING:
    import pandas as pd

    from convbatch.results.run import Run

ComparisonVerdict = Literal["regression", "regression-within-margin", "inconclusive", "non-inferior", "improved"]
FailOn = Literal["regression", "inconclusive"]
RunReference: TypeAlias = "Run | str | Path | tuple[Run | str | Path, str]"

MAX_LOST = 0.05
"""Largest share of unmatched or pending dialogues; above it every verdict is inconclusive."""
MARGIN, RATIO_MARGIN = 0.02, 0.05
MIN_MARGIN = MIN_ALPHA = 1e-6
MAX_ALPHA = 0.4
"""Limits of margin and alpha: beyond them floating-point arithmetic is too inexact."""
MIN_SLICE_SIZE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRules:
    """Rules of a comparison: metric, margin, alpha, and what fails.

    Raises:
        SetupError: The metric or `fail_on` is unknown, or margin or alpha is out of range.
    """

    metric: str | None = None
    """The primary metric; None = the first available of `dialogue_pass`, `turn_pass`, `score`."""
    margin: float | None = None
    """Accepted harm in the unit of the primary metric; None = 0.02, for ratios 0.05."""
    alpha: float = 0.05
    fail_on: FailOn | None = None
    strict: bool = False
    """Whether a regression within the margin fails too."""

    def __post_init__(self) -> None:
        if self.metric is not None and self.metric not in METRICS:
            raise SetupError(f"unknown metric {self.metric!r}", hint=did_you_mean(self.metric, METRICS))
        for name, value in (("margin", self.margin), ("alpha", self.alpha)):
            if value is not None and not isinstance(value, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]  # from Python
                raise SetupError(f"--{name} must be a number", found=repr(value), hint=f"write --{name} 0.05")
        if self.margin is not None and not MIN_MARGIN <= self.margin < 1:
            raise SetupError(
                f"--margin must be between {MIN_MARGIN:f} and 1, not {self.margin:g}",
                hint="0.02 accepts a pass rate that is 2 points lower",
            )
        if not MIN_ALPHA <= self.alpha <= MAX_ALPHA:
            raise SetupError(
                f"--alpha must be between {MIN_ALPHA:f} and {MAX_ALPHA}, not {self.alpha:g}", hint="0.05 is usual"
            )
        if self.fail_on not in (None, "regression", "inconclusive"):
            raise SetupError(
                f"unknown --fail-on {self.fail_on!r}", hint=did_you_mean(self.fail_on, ("regression", "inconclusive"))
            )

    def margin_of(self, metric: str, primary: str) -> float:
        """Return a metric's margin: `margin` applies to all of the primary metric's kind, the default to the others."""
        is_ratio = metric in RATIO_METRICS
        if self.margin is not None and is_ratio == (primary in RATIO_METRICS):
            return self.margin
        return RATIO_MARGIN if is_ratio else MARGIN

    def exit_code(self, verdict: ComparisonVerdict) -> ExitCode:
        """Return the exit code for a verdict of the primary metric."""
        if verdict == "regression" or (verdict == "regression-within-margin" and self.strict):
            return ExitCode.FAILED
        if verdict == "inconclusive":
            codes = {None: ExitCode.INCOMPLETE, "regression": ExitCode.OK, "inconclusive": ExitCode.FAILED}
            return codes[self.fail_on]
        return ExitCode.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedMetric:
    """A metric with its verdict."""

    result: MetricResult
    margin: float
    p_adjusted: float | None
    """Holm-adjusted over all metrics but the primary one, whose p is not adjusted."""
    verdict: ComparisonVerdict
    coverage: Coverage

    @property
    def is_open(self) -> bool:
        """Whether too many dialogues have the metric on one side only."""
        return self.coverage.lost > MAX_LOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A metric over some of the dialogues or turns: exploratory, never a gate."""

    slice: str
    """`tag NAME`, `turn N` or `target NAME`."""
    result: MetricResult
    p_adjusted: float | None
    """Adjusted by Benjamini and Hochberg over all slices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A turn, or a dialogue's own checks, with different pass rates on the two sides."""

    dialogue: str
    turn: int | None
    """None for the dialogue's own checks."""
    change: Literal["harmful", "improved"]
    base_pass: float
    candidate_pass: float
    """As `base_pass`: share of the repeats that passed."""
    strictly_paired: bool
    base_status: str
    candidate_status: str
    user: str | None
    base_reply: str | None
    candidate_reply: str | None
    base_reason: str | None
    """Reasons of the failed checks; None when all passed."""
    candidate_reason: str | None
    score_change: float | None = None
    """Candidate minus base, means over the repeats; None without a score on both sides."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of a comparison.

    >>> comparison = convbatch.compare((both, "sim-good@simulator"), (both, "sim-drift@simulator"))
    >>> comparison.primary, int(comparison.exit_code)
    ('dialogue_pass', 1)

    Attributes:
        verdict: Verdict of the primary metric.
        primary: The metric that gates.
        base: The base run, with its target.
        candidate: As `base`.
        pairs: Paired and unpaired dialogues.
        judged: Every available metric, the primary one first.
        unavailable: Reason by name of each metric that is not available.
        notes: Facts that limit how the numbers can be read.
    """

    base: str
    candidate: str
    rules: ComparisonRules
    primary: str
    verdict: ComparisonVerdict
    pairs: PairCounts
    judged: Sequence[JudgedMetric]
    parts: Sequence[Slice]
    flips: Sequence[Flip]
    unavailable: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: Sequence[str] = ()
    served: ServedModels = NO_SERVED_MODELS
    """Which models answered."""
    changed: ChangedHistories = NO_CHANGED_HISTORIES
    """Replies to histories from which the provider removed something."""
    allow_mismatch: bool = False
    currency: str | None = None
    """Of every cost; None without any, and where the sides are in different currencies."""
    selected: tuple[SelectedRun, SelectedRun] | None = None
    """Base and candidate, to read their transcripts; None for frames."""
    without_verdict: Sequence[str] = ()
    """Paired dialogues that lack the primary metric on a side because a check has no verdict."""
    diverged: Mapping[int | None, int] = field(default_factory=dict[int | None, int])
    """As `divergence` returns it."""
    stream: PairStream | None = None
    """Reads the pairs again; None without any."""

    def __repr__(self) -> str:
        from convbatch.comparison.render import sentence

        return f"<convbatch.Comparison {self.base} against {self.candidate}: {sentence(self)}>"

    def _repr_html_(self) -> str:
        """Return the verdict and a row per metric, for notebooks."""
        from convbatch.comparison.render import to_html_summary

        return to_html_summary(self)

    @property
    def is_void(self) -> bool:
        """Whether nothing is concluded because one model served both sides under two names."""
        return self.served.one_model is not None and not self.allow_mismatch

    @property
    def exit_code(self) -> ExitCode:
        """Exit code of the command: 0, 1 or 3."""
        return self.rules.exit_code(self.verdict)

    @property
    def gate(self) -> GateResult:
        """What the exit code says of a release."""
        return gate_result(self.exit_code)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row per metric, the primary one first: columns as in `--json`, intervals as `ci95_low`, `ci95_high`."""
        return _frame(flat(metric_record(one)) for one in self.judged)

    @cached_property
    def slices(self) -> pd.DataFrame:
        """One row per tag, turn number or target; exploratory, `p_adjusted` by Benjamini and Hochberg."""
        return _frame(flat(slice_record(one)) for one in self.parts)

    @cached_property
    def flipped(self) -> pd.DataFrame:
        """One row per flipped turn, harmful first; columns: the fields of `Flip`."""
        import pandas as pd

        return pd.DataFrame([flip_record(one) for one in self.flips], columns=list(Flip.__slots__)).convert_dtypes()

    @cached_property
    def turns(self) -> pd.DataFrame:
        """One row per paired turn, averaged over repeats."""
        pairs = (one for one in self.stream or () if not one.pending)
        return _frame(turn_record(one, turn) for one in pairs for turn in one.turns)

    def divergence(self) -> dict[int | None, int]:
        """Count dialogues by the turn of their first differing reply; None for those without one."""
        return {turn: self.diverged[turn] for turn in sorted(self.diverged, key=lambda turn: (turn is None, turn))}


def compare(
    base: RunReference,
    candidate: RunReference,
    *,
    metric: str | None = None,
    margin: float | None = None,
    alpha: float = 0.05,
    strict: bool = False,
    fail_on: FailOn | None = None,
    allow_mismatch: bool = False,
    currency: str | None = None,
    config: str | Path | None = None,
) -> Comparison:
    """Compare two runs, dialogue by dialogue.

    >>> convbatch.compare((both, "sim-good@simulator"), (both, "sim-drift@simulator")).verdict
    'regression'

    Args:
        base: A run, its path or name, `RUN:target`, or a pair of run and target.
        candidate: As `base`.
        metric: The metric that gates; None = the first available of `dialogue_pass`, `turn_pass`, `score`.
        margin: Accepted harm; None = 0.02, for ratios 0.05.
        alpha: Significance level of the gate.
        strict: A regression within the margin fails too.
        fail_on: Which verdicts `exit_code` counts as failed: None = regression 1, inconclusive 3.
        allow_mismatch: Compare although dialogues, history or checks differ, or one model served both sides.
        currency: Convert costs into this currency by `[rates]`; None = where the sides differ, into one of theirs.
        config: Use the prices and rates of this config file instead of those of the runs.

    Returns:
        The verdict and the frames behind it.

    Raises:
        SetupError: They cannot be compared, or not on this metric.
    """
    with named_by_keyword(_KEYWORDS):
        rules = ComparisonRules(metric=metric, margin=margin, alpha=alpha, strict=strict, fail_on=fail_on)
        costs = CostOptions(currency=currency, config=None if config is None else Path(config))
        return compare_runs(base, candidate, rules, allow_mismatch=allow_mismatch, costs=costs)


_KEYWORDS = {f"--{name.replace('_', '-')}": name for name in inspect.signature(compare).parameters}
"""Keyword argument of `compare` by option of the command."""


def compare_runs(
    base: RunReference,
    candidate: RunReference,
    rules: ComparisonRules,
    *,
    allow_mismatch: bool = False,
    costs: CostOptions = RECORDED_COSTS,
) -> Comparison:
    """Compare two runs as `compare` does, with the options as `ComparisonRules` and `CostOptions`."""
    matched = load_inputs(base, candidate, allow_mismatch=allow_mismatch, costs=costs)
    stream = PairStream(*matched.sides, history=matched.history)
    compared = _compare_pairs(
        stream, rules, names=matched.names, is_void=matched.served.one_model is not None and not allow_mismatch
    )
    return replace(
        compared,
        notes=(*matched.notes, *compared.notes),
        served=matched.served,
        changed=matched.changed,
        allow_mismatch=matched.allow_mismatch,
        currency=matched.currency,
        selected=matched.selected,
    )


def compare_frames(
    base_turns: pd.DataFrame,
    candidate_turns: pd.DataFrame,
    *,
    base_conversations: pd.DataFrame | None = None,
    candidate_conversations: pd.DataFrame | None = None,
    history: tuple[str, str] = ("script", "script"),
    rules: ComparisonRules | None = None,
) -> Comparison:
    """Compare frames with (some of) the columns of `run.turns` and `run.conversations`; nothing is refused.

    Args:
        base_turns: `dialogue` and `turn` are required; absent columns are unknown.
        candidate_turns: As `base_turns`.
        base_conversations: For `dialogue_pass`; if None, a dialogue passes when its turns do.
        candidate_conversations: As `base_conversations`.
        history: History mode of each side.
        rules: Metric, margin, alpha.
    """
    base, candidate = (
        load_side(_rows(turns, TURN_COLUMNS), None if whole is None else _rows(whole, CONVERSATION_COLUMNS))
        for turns, whole in ((base_turns, base_conversations), (candidate_turns, candidate_conversations))
    )
    stream = PairStream(base, candidate, history=history)
    return _compare_pairs(stream, rules or ComparisonRules(), names=("base", "candidate"))


_DEFAULTS: Mapping[str, Any] = {"repeat": 1, "target": "", "status": "ok", "tags": ()}


def _rows(frame: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    known = frame.astype(object).where(frame.notna(), None)
    cells = [known[name] if name in known.columns else [_DEFAULTS.get(name)] * len(frame) for name in columns]
    return zip(*cells, strict=True)


def _compare_pairs(
    stream: PairStream, rules: ComparisonRules, *, names: tuple[str, str], is_void: bool = False
) -> Comparison:
    measured = Measurements(sliced=PASS_METRICS if rules.metric is None else (rules.metric,))
    flips: list[Flip] = []
    for one in stream:
        if measured.add(one):
            flips += _flips(one)
    pairs = measured.counts(stream)
    if not pairs.whole and not pairs.pending:
        raise SetupError("the runs have no dialogue in common", hint="both runs must be of the same dataset")
    results = {
        name: result for name, values in measured.values.items() if (result := _measure(name, values, rules, name))
    }
    primary = _primary(rules, results, measured)
    if primary not in results:  # everything is pending
        judged: Sequence[JudgedMetric] = ()
    else:
        judged = _judge(_at_final_margins(results, primary, rules, measured), primary, rules, measured, pairs)
    if is_void:
        judged = [replace(one, verdict="inconclusive") for one in judged]
    return Comparison(
        base=names[0],
        candidate=names[1],
        rules=rules,
        primary=primary,
        verdict=judged[0].verdict if judged else "inconclusive",
        pairs=pairs,
        judged=judged,
        parts=_slices(primary, measured, rules) if judged else (),
        flips=sorted(flips, key=_by_severity),
        unavailable={name: measured.why_not(name) for name in METRICS if name not in results},
        notes=tuple(_notes(pairs, judged, measured)),
        without_verdict=measured.lacking.get(primary, ()),
        diverged=measured.divergence,
        stream=stream,
    )


def _measure(
    metric: str, values: Values, rules: ComparisonRules, primary: str, *, of_a_turn: bool = False
) -> MetricResult | None:
    scale = TestLevels(alpha=rules.alpha, margin=rules.margin_of(metric, primary))
    return values.measure(metric, scale, of_a_turn=of_a_turn)


def _at_final_margins(
    results: Mapping[str, MetricResult], primary: str, rules: ComparisonRules, measured: Measurements
) -> dict[str, MetricResult]:
    """Measure again where the choice of the primary metric has changed the margin."""
    final = {
        name: one
        if rules.margin_of(name, name) == rules.margin_of(name, primary)
        else _measure(name, measured.values[name], rules, primary)
        for name, one in results.items()
    }
    return {name: one for name, one in final.items() if one is not None}


def _primary(rules: ComparisonRules, results: Mapping[str, MetricResult], measured: Measurements) -> str:
    if not measured.whole:
        return rules.metric or PASS_METRICS[0]
    wanted = [rules.metric] if rules.metric else PASS_METRICS
    for name in wanted:
        if name in results:
            return name
    usable = ", ".join(name for name in METRICS if name in results)
    raise SetupError(
        f"{wanted[0]} cannot be compared: {measured.why_not(wanted[0])}",
        hint=f"choose another metric: --metric with one of {usable}" if usable else "nothing can be compared",
    )


# --- verdicts --------------------------------------------------------------------------------------------------------


def _judge(
    results: Mapping[str, MetricResult],
    primary: str,
    rules: ComparisonRules,
    measured: Measurements,
    pairs: PairCounts,
) -> list[JudgedMetric]:
    others = [name for name in results if name != primary]
    tested = [name for name in others if results[name].p is not None]
    adjusted = dict(zip(tested, stats.holm([results[name].p or 0.0 for name in tested]), strict=True))
    judged: list[JudgedMetric] = []
    for name in (primary, *others):
        one, margin = results[name], rules.margin_of(name, primary)
        p = one.p if name == primary else adjusted.get(name)
        verdict = decide_verdict(one, p, alpha=rules.alpha, margin=margin)
        metric = JudgedMetric(
            result=one, margin=margin, p_adjusted=p, verdict=verdict, coverage=measured.coverage(name)
        )
        judged.append(replace(metric, verdict="inconclusive") if metric.is_open or pairs.lost > MAX_LOST else metric)
    return judged


def decide_verdict(result: MetricResult, p: float | None, *, alpha: float, margin: float) -> ComparisonVerdict:
    """Decide the verdict of a metric. What passes a gate, also an improvement, has a bound on harm within the margin.

    Args:
        result: The metric, with its intervals at `alpha`.
        p: Its p, adjusted where several metrics are tested.
        alpha: Significance level of the gate.
        margin: Accepted harm.
    """
    if result.ci is None or result.harm_bound is None or p is None:
        return "inconclusive"
    least, most = result.harms(result.ci)
    within = result.harm_bound <= margin
    if least > 0 and p <= alpha:
        return "regression-within-margin" if within else "regression"
    if not within:
        return "inconclusive"
    return "improved" if most < 0 and p <= alpha else "non-inferior"


# --- slices ----------------------------------------------------------------------------------------------------------


def _slices(primary: str, measured: Measurements, rules: ComparisonRules) -> list[Slice]:
    results = [(f"tag {tag}", _measure(primary, part, rules, primary)) for tag, part in measured.of_tags(primary)]
    for target, part in measured.of_targets(primary):
        results.append((f"target {target}", _measure(primary, part, rules, primary)))
    of_a_turn = of_one_turn(primary)
    for number, part in measured.of_turns(of_a_turn):
        results.append((f"turn {number}", _measure(of_a_turn, part, rules, primary, of_a_turn=True)))
    shown = [(name, one) for name, one in results if one is not None and one.dialogues >= MIN_SLICE_SIZE]
    tested = [name for name, one in shown if one.p is not None]
    adjusted = stats.benjamini_hochberg([one.p for _, one in shown if one.p is not None])
    of_name = dict(zip(tested, adjusted, strict=True))
    return [Slice(slice=name, result=one, p_adjusted=of_name.get(name)) for name, one in shown]


def _flips(pair: Pair) -> Iterator[Flip]:
    reasons = pair.base.reasons, pair.candidate.reasons
    for turn in pair.turns:
        flip = _flip(pair.dialogue, turn.number, turn.base, turn.candidate, turn.strictly, reasons)
        if flip is not None:
            yield flip
    conversations = pair.base.conversations, pair.candidate.conversations
    flip = _flip(pair.dialogue, None, *conversations, all(turn.strictly for turn in pair.turns), reasons)
    if flip is not None:
        yield flip


def _by_severity(flip: Flip) -> tuple[bool, float, bool, float]:
    """Sort key: harmful before improved, then the largest change of the pass rate, strictly paired, of the score."""
    size = abs(flip.candidate_pass - flip.base_pass)
    return flip.change != "harmful", -size, not flip.strictly_paired, -abs(flip.score_change or 0.0)


def _flip(
    dialogue: str,
    turn: int | None,
    base: Mapping[SampleKey, Any],
    candidate: Mapping[SampleKey, Any],
    strictly: bool,
    reasons: tuple[Mapping[ReasonKey, str], Mapping[ReasonKey, str]],
) -> Flip | None:
    first, second = (mean(sample.passed for sample in samples.values()) for samples in (base, candidate))
    if first is None or second is None or first == second:
        return None
    shown = next(
        (sample for sample in base if sample in candidate and base[sample].passed != candidate[sample].passed), None
    )
    one, other = (next(iter(samples.values())) if shown is None else samples[shown] for samples in (base, candidate))
    scores = [mean(sample.score for sample in samples.values()) for samples in (base, candidate)]
    texts = [one.reply, other.reply, one.user] if isinstance(one, ComparedTurn) else [None, None, None]
    return Flip(
        dialogue=dialogue,
        turn=turn,
        change="harmful" if second < first else "improved",
        base_pass=first,
        candidate_pass=second,
        strictly_paired=strictly,
        base_status=one.status,
        candidate_status=other.status,
        user=texts[2],
        base_reply=texts[0],
        candidate_reply=texts[1],
        base_reason=reasons[0].get((one.target, one.repeat, turn)),
        candidate_reason=reasons[1].get((other.target, other.repeat, turn)),
        score_change=None if scores[0] is None or scores[1] is None else scores[1] - scores[0],
    )


def _notes(pairs: PairCounts, judged: Sequence[JudgedMetric], measured: Measurements) -> Iterator[str]:
    if pairs.lost > MAX_LOST:
        yield (
            f"{100 * pairs.lost:.0f} % of the dialogues are unmatched or pending: nothing is concluded from the rest "
            "(`convbatch resume` finishes a run)"
        )
    for one in judged:
        missing = len(pairs.whole) - one.result.dialogues
        if one.is_open:
            lacking = measured.lacking.get(one.result.metric, ())
            also = f", or lack a verdict ({len(lacking):,})" if lacking else ""
            yield (
                f"{one.result.metric}: {one.coverage.uneven:,} of {one.coverage.either_side:,} dialogues have it on "
                f"one side only, wholly or in part{also}: nothing is concluded from the rest"
            )
        elif missing:
            yield f"{one.result.metric} is missing on one side or both in {missing} of {len(pairs.whole)} dialogues"
        if one.result.draws is not None:
            yield f"{one.result.metric}: p is from {one.result.draws:,} random sign flips with a fixed seed"


def _frame(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(records)).convert_dtypes()
