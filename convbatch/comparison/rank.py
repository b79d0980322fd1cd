"""`rank`: any number of targets on the same dialogues, and which differences between them are proven.

Every pair of targets is compared as `compare` compares it, at a level divided by the number of pairs (Bonferroni): all
intervals hold at once, and what is proven here is a regression for `compare` of the same two. Output is
`rank_render.py`.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from convbatch.comparison.compare import MARGIN, MAX_LOST, ComparisonRules, RunReference
from convbatch.comparison.entries import Entry, check_gate, chosen_entries, pair_notes
from convbatch.comparison.harm_bound import harm_bound
from convbatch.comparison.inputs import RECORDED_COSTS, ComparisonInputs, CostOptions, load_inputs
from convbatch.comparison.measurements import Measurements, measure_stream
from convbatch.comparison.metrics import METRICS, PASS_METRICS, DialogueValue, MetricResult, TestLevels
from convbatch.comparison.pair_stream import LoadedSide, MergedSides, PairCounts, PairStream, SideDialogues
from convbatch.comparison.stats import Interval, cluster_mean, t_quantile
from convbatch.errors import SetupError, did_you_mean, named_by_keyword
from convbatch.exit_codes import ExitCode, GateResult, gate_result
from convbatch.results.parquet import count_rows

if TYPE_CHECKING:
    import pandas as pd

    from convbatch.results.run import Run

_Paired = tuple[Measurements, PairCounts]
"""What is known of the dialogues of two sides."""
_MOST_ROWS_IN_MEMORY = 100_000
"""Tables of more turns than these are read anew for every pair of targets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRules:
    """Rules of a ranking.

    Raises:
        SetupError: The metric is none to rank by, or alpha is out of range.
    """

    metric: str | None = None
    """None = the first of `dialogue_pass`, `turn_pass`, `score` that every pair of targets has."""
    alpha: float = 0.05
    """Chance of any false claim, over all pairs together."""
    fail_if_beaten: str | None = None
    """A target; `exit_code` is 1 if another one is proven better."""

    def __post_init__(self) -> None:
        ComparisonRules(alpha=self.alpha)
        if self.metric is not None and self.metric not in METRICS:
            raise SetupError(f"unknown metric {self.metric!r}", hint=did_you_mean(self.metric, PASS_METRICS))
        if self.metric is not None and self.metric not in PASS_METRICS:
            raise SetupError(
                f"targets are not ranked by {self.metric}",
                hint=f"--metric with one of {', '.join(PASS_METRICS)}; cost and latency are shown beside it",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two targets; the second is the candidate of `compare`."""

    first: str
    second: str
    result: MetricResult | None
    """As `compare` measures it, at the level of one pair; None: not measured."""
    ci: Interval | None
    """Of the difference, second minus first; the intervals of all pairs hold at once."""
    p_adjusted: float | None
    """p times the number of pairs, at most 1."""
    dialogues: int
    """Compared dialogues."""
    better: str | None
    """The target that is proven better; None: the two are not told apart."""
    why_open: str = ""
    """Why nothing is concluded from the numbers; empty where they decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A target in the ranking."""

    name: str
    run: str
    target: str
    dialogues: int
    """Common dialogues with the metric, the same at every target."""
    estimate: float
    """Pass rate or mean score over them, 0 to 1."""
    ci: Interval
    """Simultaneous interval over all targets."""
    groups: str
    """Letters; two targets that share one are not told apart."""
    better_than: Sequence[str]
    worse_than: Sequence[str]
    """Proven differences, as `better_than`."""
    cost: float | None
    """Mean of a dialogue; None if it is unknown in any of the common dialogues, or currencies differ."""
    latency_s: float | None
    """Geometric mean over dialogues of the mean seconds of a turn."""
    on_cost_front: bool | None
    """Whether no other target has an estimate as good at a lower cost, or a better one at the same; None: unknown."""
    on_latency_front: bool | None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Result of a ranking.

    >>> convbatch.rank(both)
    <convbatch.Ranking of 2 targets: sim-good@simulator is the best of 2 targets by dialogue_pass, ...>

    Attributes:
        standings: The targets, the best estimate first.
        differences: Every pair, in the order of the standings.
        left_out: Dialogues that some target lacks, by reason.
        notes: Facts that limit how the numbers can be read.
    """

    rules: RankRules
    metric: str
    standings: Sequence[Standing]
    differences: Sequence[Difference]
    left_out: Mapping[str, int]
    notes: Sequence[str]
    currency: str | None
    selected: Sequence[tuple[Run, str]]
    """Run and target of each, as named by the caller."""

    def __repr__(self) -> str:
        from convbatch.comparison.rank_render import sentence

        return f"<convbatch.Ranking of {len(self.standings)} targets: {sentence(self)}>"

    def _repr_html_(self) -> str:
        """Return a row per target, for notebooks."""
        from convbatch.comparison.rank_render import to_html_summary

        return to_html_summary(self)

    @property
    def proven(self) -> Sequence[Difference]:
        """The proven differences."""
        return [one for one in self.differences if one.better is not None]

    @property
    def exit_code(self) -> ExitCode:
        """Exit code of the command: without `fail_if_beaten` 0; else 1 if it is beaten, 3 if a pair of it is open."""
        name = self.rules.fail_if_beaten
        mine = [one for one in self.differences if name in (one.first, one.second)] if name else []
        if any(one.better not in (None, name) for one in mine):
            return ExitCode.FAILED
        return ExitCode.INCOMPLETE if any(one.why_open for one in mine) else ExitCode.OK

    @property
    def gate(self) -> GateResult:
        """What the exit code says of a release."""
        return gate_result(self.exit_code)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per target, as in `--json`."""
        import pandas as pd

        from convbatch.comparison.rank_render import standing_record

        return pd.DataFrame([standing_record(one) for one in self.standings]).convert_dtypes()

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """One row per pair of targets, as in `--json`."""
        import pandas as pd

        from convbatch.comparison.rank_render import difference_record

        return pd.DataFrame([difference_record(one) for one in self.differences]).convert_dtypes()


def rank(
    *runs: RunReference,
    metric: str | None = None,
    alpha: float = 0.05,
    fail_if_beaten: str | None = None,
    allow_mismatch: bool = False,
    currency: str | None = None,
    config: str | Path | None = None,
) -> Ranking:
    """Rank the targets of runs on the dialogues that all of them have.

    >>> [standing.target for standing in convbatch.rank(both).standings]
    ['sim-good@simulator', 'sim-drift@simulator']

    Args:
        runs: Runs, their paths or names (all their targets), `RUN:target`, or pairs of run and target.
        metric: `dialogue_pass`, `turn_pass` or `score`; None = the first that is available.
        alpha: Chance of any false claim, over all pairs together.
        fail_if_beaten: A target; `exit_code` is 1 if another one is proven better.
        allow_mismatch: Rank although dialogues, history or checks differ, or one model served two targets.
        currency: Convert costs into this currency by `[rates]`.
        config: Use the prices and rates of this config file instead of those of the runs.

    Raises:
        SetupError: There are fewer than two targets, or they cannot be compared.
    """
    with named_by_keyword(_KEYWORDS):
        rules = RankRules(metric=metric, alpha=alpha, fail_if_beaten=fail_if_beaten)
        costs = CostOptions(currency=currency, config=None if config is None else Path(config))
        return rank_runs(runs, rules, allow_mismatch=allow_mismatch, costs=costs)


_KEYWORDS = {f"--{name.replace('_', '-')}": name for name in inspect.signature(rank).parameters}


def rank_runs(
    runs: Sequence[RunReference],
    rules: RankRules,
    *,
    allow_mismatch: bool = False,
    costs: CostOptions = RECORDED_COSTS,
) -> Ranking:
    """Rank as `rank` does, with the options as `RankRules` and `CostOptions`."""
    entries = chosen_entries(runs, "a ranking")
    check_gate(rules.fail_if_beaten, entries)
    costs = _one_currency(entries, costs, allow_mismatch=allow_mismatch)
    own = [load_inputs(one.reference, one.reference, allow_mismatch=True, costs=costs) for one in entries]
    sides = _sides(own)
    places = list(itertools.combinations(range(len(entries)), 2))
    matched = {
        (a, b): load_inputs(entries[a].reference, entries[b].reference, allow_mismatch=allow_mismatch, costs=costs)
        for a, b in places
    }
    paired = {
        (a, b): measure_stream(PairStream(sides[a], sides[b], history=matched[a, b].history), PASS_METRICS)
        for a, b in places
    }
    metric = _metric(rules, paired, entries)
    values = _common_values(metric, sides, [one.history[0] for one in own])
    if not values[0]:
        raise SetupError(
            f"no dialogue is finished with {metric} at every target",
            hint="`convbatch resume` finishes a run; `convbatch show RUN --failed` shows what is missing",
        )
    differences = [
        _difference(metric, entries, at, matched[at], paired[at], rules.alpha / len(places), len(places))
        for at in places
    ]
    currencies = {one.currency for one in own} - {None}
    alone = [measure_stream(PairStream(side, side, history=("live", "live")), ("cost", "latency")) for side in sides]
    standings = _standings(entries, values, differences, alone, rules.alpha, has_costs=len(currencies) == 1)
    order = {one.name: number for number, one in enumerate(standings)}
    notes = dict.fromkeys(_notes(entries, matched, paired, metric))
    if len(currencies) > 1:
        notes["costs are in several currencies, without a rate between them: --currency names one"] = None
    return Ranking(
        rules=rules,
        metric=metric,
        standings=standings,
        differences=sorted(differences, key=lambda one: sorted((order[one.first], order[one.second]))),
        left_out=_left_out(alone, values, metric),
        notes=tuple(notes),
        currency=next(iter(currencies)) if len(currencies) == 1 else None,
        selected=[one.reference for one in entries],
    )


# --- targets ---------------------------------------------------------------------------------------------------------


def _one_currency(entries: Sequence[Entry], costs: CostOptions, *, allow_mismatch: bool) -> CostOptions:
    """Choose the first target's currency where rates lead to it from all; else leave the costs as they are."""
    if costs.currency is not None:
        return costs
    used = [load_inputs(one.reference, one.reference, allow_mismatch=True, costs=costs).currency for one in entries]
    known = list(dict.fromkeys(one for one in used if one is not None))
    for currency in known if len(known) > 1 else ():
        chosen = CostOptions(currency=currency, config=costs.config)
        try:
            for one in entries:
                load_inputs(one.reference, one.reference, allow_mismatch=True, costs=chosen)
        except SetupError:
            continue
        return chosen
    return costs


def _sides(inputs: Sequence[ComparisonInputs]) -> Sequence[SideDialogues]:
    """Return the sides, in memory where they are small: each is read many times."""
    sides = [one.sides[0] for one in inputs]
    files = {selected.run.turns_path for one in inputs for selected in one.selected or ()}
    if sum(map(count_rows, files)) > _MOST_ROWS_IN_MEMORY:
        return sides
    return [LoadedSide(dict(side)) for side in sides]


# --- numbers ---------------------------------------------------------------------------------------------------------


_HOW_TO_CHECK = (
    "add checks to the dataset, then: convbatch check RUN --dataset FILE; the judge's: --judge MODEL@GATEWAY"
)


def _metric(rules: RankRules, paired: Mapping[tuple[int, int], _Paired], entries: Sequence[Entry]) -> str:
    for at, (_, counts) in paired.items():
        if not counts.whole and not counts.pending:
            names = " and ".join(entries[place].name for place in at)
            raise SetupError(f"{names} have no dialogue in common", hint="all runs must be of the same dataset")
    wanted = [rules.metric] if rules.metric else PASS_METRICS
    usable = [name for name in PASS_METRICS if all(one.values[name].has_any() for one, _ in paired.values())]
    if chosen := [name for name in wanted if name in usable]:
        return chosen[0]
    at, measured = next((at, one) for at, (one, _) in paired.items() if not one.values[wanted[0]].has_any())
    names = " and ".join(entries[place].name for place in at)
    if not measured.whole:
        raise SetupError(f"{names}: no dialogue is finished at both", hint="`convbatch resume` finishes a run")
    raise SetupError(
        f"{wanted[0]} cannot be ranked: {names}: {measured.why_not(wanted[0])}",
        hint=f"--metric with one of {', '.join(usable)}" if usable else _HOW_TO_CHECK,
    )


def _common_values(
    metric: str, sides: Sequence[SideDialogues], histories: Sequence[str]
) -> list[dict[str, DialogueValue]]:
    """Return each target's value of the dialogues that have one at every target.

    A target is paired with all others as if they were its repeats, so that a turn which failed counts as it does for
    `compare`.
    """
    found: list[dict[str, DialogueValue]] = []
    for number, side in enumerate(sides):
        others = MergedSides([one for other, one in enumerate(sides) if other != number])
        stream = PairStream(side, others, history=(histories[number], histories[number]))
        found.append(measure_stream(stream, (metric,))[0].by_dialogue(metric))
    common = set.intersection(*(set(one) for one in found))
    return [{name: value for name, value in one.items() if name in common} for one in found]


def simultaneous_interval(values: Sequence[DialogueValue], level: float) -> Interval:
    """Return a two-sided interval of a mean of values between 0 and 1, valid for any number of dialogues.

    Args:
        values: Sums (`base`) over `size` values of each dialogue.
        level: Error probability of the interval, already divided by the number of targets.

    Source: as `harm_bound`, from both sides; for single passes and fails it is Clopper and Pearson's.
    """
    sizes = [one.size for one in values]
    sums = [min(one.base, one.size) for one in values]
    high = harm_bound(sums, sizes, alpha=level / 2)
    low = 1 - harm_bound([size - one for one, size in zip(sums, sizes, strict=True)], sizes, alpha=level / 2)
    return Interval(max(0.0, low), min(1.0, high))


def pair_interval(result: MetricResult, values: Sequence[DialogueValue], level: float, pairs: int) -> Interval | None:
    """Return the interval of a difference that holds together with those of all other pairs.

    For one pair it is that of `compare`. With a small level, t with G - 1 degrees is too short where dialogues are of
    uneven size: it is then taken of as many equal dialogues as the uneven ones are worth, (sum n)^2 / sum n^2.

    Args:
        result: Measured at `level`.
        values: Of the dialogues behind it.
        level: Alpha divided by the number of pairs.
        pairs: That number.

    Source: Kish 1965, Survey Sampling, section 11.7, for that number; the use of it here is ours
        (`benchmarks/ranks.py`).
    """
    if result.ci is None or result.b is not None or pairs == 1:
        return result.ci
    total = math.fsum(one.size for one in values)
    worth = total**2 / math.fsum(one.size**2 for one in values)
    found = cluster_mean([one.candidate - one.base for one in values], [one.size for one in values])
    if found.se is None or worth > len(values) - 1e-9:
        return result.ci
    if worth <= 1.0 + 1e-9:
        return Interval(-1.0, 1.0)
    half = t_quantile(1 - level / 2, worth - 1) * found.se * math.sqrt(worth / (worth - 1))
    low, high = found.estimate - half, found.estimate + half
    return Interval(max(-1.0, min(result.ci.low, low)), min(1.0, max(result.ci.high, high)))


def better_of(ci: Interval | None, p_adjusted: float, alpha: float) -> int | None:
    """Return which side is proven better, 0 or 1; None if neither: the interval and p must agree, as in `compare`."""
    if ci is None or p_adjusted > alpha:
        return None
    return 1 if ci.low > 0 else 0 if ci.high < 0 else None


def _difference(
    metric: str,
    entries: Sequence[Entry],
    at: tuple[int, int],
    matched: ComparisonInputs,
    paired: _Paired,
    level: float,
    tests: int,
) -> Difference:
    names = [entries[place].name for place in at]
    measured, counts = paired
    result = measured.values[metric].measure(metric, TestLevels(alpha=level, margin=MARGIN))
    why = ""
    if result is None:
        why = measured.why_not(metric)
    elif counts.lost > MAX_LOST:
        why = f"{100 * counts.lost:.0f} % of the dialogues are unmatched or pending"
    elif (covered := measured.coverage(metric)).lost > MAX_LOST:
        some = f"{covered.uneven:,} of {covered.either_side:,} dialogues"
        why = f"{some} have {metric} on one side only or lack a verdict"
    elif matched.served.one_model is not None and not matched.allow_mismatch:
        why = f"one model, {matched.served.one_model}, served both"
    p = None if result is None or result.p is None else min(1.0, result.p * tests)
    values = list(measured.by_dialogue(metric).values())
    ends = None if result is None else pair_interval(result, values, level, tests)
    side = None if why or p is None else better_of(ends, p, level * tests)
    return Difference(
        first=names[0],
        second=names[1],
        result=result,
        ci=ends,
        p_adjusted=p,
        dialogues=0 if result is None else result.dialogues,
        better=None if side is None else names[side],
        why_open=why,
    )


def _standings(
    entries: Sequence[Entry],
    values: Sequence[Mapping[str, DialogueValue]],
    differences: Sequence[Difference],
    alone: Sequence[_Paired],
    alpha: float,
    *,
    has_costs: bool,
) -> list[Standing]:
    common = set(values[0])
    estimates = [math.fsum(v.base for v in one.values()) / math.fsum(v.size for v in one.values()) for one in values]
    costs = [_cost(one, common) if has_costs else None for one, _ in alone]
    times = [_latency(one, common) for one, _ in alone]
    order = sorted(range(len(entries)), key=lambda n: (-round(estimates[n], 12), entries[n].name))
    letters = group_letters([entries[n].name for n in order], differences)
    fronts = [_front(estimates, amounts) for amounts in (costs, times)]
    return [
        Standing(
            name=(name := entries[n].name),
            run=entries[n].run.name,
            target=entries[n].target,
            dialogues=len(common),
            estimate=estimates[n],
            ci=simultaneous_interval([values[n][key] for key in sorted(common)], alpha / len(entries)),
            groups=letters[name],
            better_than=[_other(one, name) for one in differences if one.better == name],
            worse_than=[one.better for one in differences if one.better == _other(one, name) and one.better],
            cost=costs[n],
            latency_s=times[n],
            on_cost_front=fronts[0][n],
            on_latency_front=fronts[1][n],
        )
        for n in order
    ]


def _other(one: Difference, name: str) -> str:
    """Return the other target of a pair; an empty text where this one is not in it."""
    return one.second if name == one.first else one.first if name == one.second else ""


class Compared(Protocol):
    """Two targets, and which of them is proven better."""

    @property
    def first(self) -> str:
        """One target."""
        ...

    @property
    def second(self) -> str:
        """The other."""
        ...

    @property
    def better(self) -> str | None:
        """The one that is proven better."""
        ...


def group_letters(names: Sequence[str], differences: Sequence[Compared]) -> dict[str, str]:
    """Return letters for each target, such that two share one exactly where they are not told apart.

    The groups are the maximal sets of targets of which no two are told apart; a target can be in several.
    """
    apart = {frozenset((one.first, one.second)) for one in differences if one.better is not None}
    near = {a: {b for b in names if b != a and frozenset((a, b)) not in apart} for a in names}
    groups = sorted(_cliques(set(), set(names), set(), near), key=lambda one: sorted(map(names.index, one)))
    return {name: " ".join(_letter(n) for n, group in enumerate(groups) if name in group) for name in names}


def _cliques(
    chosen: set[str], open_ones: set[str], done: set[str], near: Mapping[str, set[str]]
) -> Iterator[frozenset[str]]:
    """Yield the maximal sets of mutual neighbours, by the algorithm of Bron and Kerbosch (1973) with a pivot."""
    if not open_ones and not done:
        yield frozenset(chosen)
        return
    pivot = max(open_ones | done, key=lambda name: len(near[name] & open_ones))
    for name in sorted(open_ones - near[pivot]):
        yield from _cliques(chosen | {name}, open_ones & near[name], done & near[name], near)
        open_ones = open_ones - {name}
        done = done | {name}


def _letter(number: int) -> str:
    more, last = divmod(number, 26)
    return (_letter(more - 1) if more else "") + chr(ord("A") + last)


def _cost(measured: Measurements, common: set[str]) -> float | None:
    found = measured.by_dialogue("cost")
    known = [found[name].base for name in common if name in found]
    return math.fsum(known) / len(known) if len(known) == len(common) else None


def _latency(measured: Measurements, common: set[str]) -> float | None:
    found = measured.by_dialogue("latency")
    known = [math.log(found[name].base) for name in common if name in found]
    return math.exp(math.fsum(known) / len(known)) if known else None


def _front(estimates: Sequence[float], amounts: Sequence[float | None]) -> list[bool | None]:
    """Return by target whether no other has a higher estimate for at most its amount, or as high for less."""
    known = [(e, a) for e, a in zip(estimates, amounts, strict=True) if a is not None]
    return [
        None if mine is None else not any(e >= estimate and a <= mine and (e > estimate or a < mine) for e, a in known)
        for estimate, mine in zip(estimates, amounts, strict=True)
    ]


# --- what limits the numbers -----------------------------------------------------------------------------------------


def _left_out(alone: Sequence[_Paired], values: Sequence[Mapping[str, Any]], metric: str) -> dict[str, int]:
    present = [{*counts.whole, *counts.pending} for _, counts in alone]
    pending = {name for _, counts in alone for name in counts.pending}
    everywhere, anywhere = set.intersection(*present), set.union(*present)
    counts = {
        "not at every target": len(anywhere - everywhere),
        "pending at some target": len(everywhere & pending),
        f"without {metric} at some target": len(everywhere - pending - set(values[0])),
    }
    return {why: count for why, count in counts.items() if count}


def _notes(
    entries: Sequence[Entry],
    matched: Mapping[tuple[int, int], ComparisonInputs],
    paired: Mapping[tuple[int, int], _Paired],
    metric: str,
) -> Iterator[str]:
    simulated: dict[str, None] = {}
    pairs: dict[str, list[tuple[str, str]]] = {}
    for (a, b), inputs in matched.items():
        names = entries[a].name, entries[b].name
        for note in inputs.notes:
            if note.startswith("SIMULATED"):
                simulated |= dict.fromkeys(note.partition(": ")[2].split(", "))
            else:
                pairs.setdefault(note, []).append(names)
        changed = inputs.changed
        if changed:
            removed = changed.base + changed.candidate
            note = f"WARNING: the provider removed parts of the history in {removed:,} replies"
            pairs.setdefault(note, []).append(names)
        lacking = len(paired[a, b][0].lacking[metric])
        if lacking:
            pairs.setdefault(f"{lacking:,} dialogues lack a verdict of a judge", []).append(names)
    yield from pair_notes(pairs)
    if simulated:
        yield "SIMULATED, no model was asked: " + ", ".join(simulated)
