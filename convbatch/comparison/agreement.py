"""`judge-check`: how far a judge agrees with people, and people with each other, beyond chance.

The dialogue is the unit: intervals weight whole dialogues at random. As `harm_bound.py` does, each end of an interval
sees one more dialogue of the largest size, in which everything disagrees (low end) or agrees (high end): agreement
that is perfect in few dialogues is no proof of perfect agreement. Output is `agreement_render.py`.
"""

from __future__ import annotations

import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from convbatch.comparison.inputs import split_run_and_target
from convbatch.comparison.labels import (
    TEMPLATE_COLUMNS,
    ItemKey,
    Label,
    Labels,
    Verdict,
    judged_items,
    read_labels,
    template_rows,
)
from convbatch.comparison.stats import Interval
from convbatch.errors import SetupError, named_by_keyword
from convbatch.exit_codes import ExitCode, GateResult, gate_result
from convbatch.results.parquet import read_rows
from convbatch.results.run import Run

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DRAWS = 4_000
"""Random weightings behind an interval, with a fixed seed."""
TRUSTED, WEAK = 0.6, 0.4
"""Limits of kappa in words: from 0.6 on agreement is substantial, below 0.4 it is weak (Landis and Koch 1977)."""


class Rated(NamedTuple):
    """One value of each of two raters, 0 to 1, in a dialogue."""

    dialogue: str
    one: float
    other: float


class Estimate(NamedTuple):
    """A share or kappa with its 95 % interval; the estimate is None where it is 0 / 0."""

    value: float | None
    ci: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """How far two raters agree."""

    items: int
    dialogues: int
    accuracy: Estimate
    """Share of equal values; for scores of those on the same side of 0.5."""
    kappa: Estimate
    """Cohen's kappa; for scores with quadratic weights."""
    mean_difference: float | None = None
    """Of scores: judge minus people; None for labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMeasures:
    """How well the judge finds one class of people's labels."""

    name: str
    """`fail` or `pass`."""
    people: int
    judge: int
    both: int
    precision: Estimate
    """Share of the judge's verdicts of this class that people share."""
    recall: Estimate
    """Share of people's labels of this class that the judge shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """An item on which the judge and people differ."""

    key: ItemKey
    people: float
    judge: float
    people_reason: str
    judge_reason: str
    place: str
    """`file:line` of the first label."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    r"""Result of `judge-check`.

    >>> polite = Dataset([{"id": "a", "turns": [{"user": "Hi", "checks": [{"llm_rubric": "Says 'Hello'."}]}]}])
    >>> judged = convbatch.run(polite, models="sim-good@simulator", judge="sim-judge@simulator")
    >>> _ = Path("labels.csv").write_text("dialogue,turn,label\na,1,pass\n")
    >>> convbatch.judge_check(judged, "labels.csv").judges
    ['sim-judge@simulator']

    Attributes:
        judges: The judges that were asked.
        is_score: Whether labels are scores.
        overall: Judge against people; of several people their majority, of scores their mean.
        people: People against each other, every two on an item; None with one person.
        by_rater: Judge against each person, by name.
        by_check: Judge against people, by check, where there are several.
        by_tag: The same, by tag.
        without_verdict: Labelled items without a verdict of the judge.
        tied: Labelled items without a majority.
    """

    run: str
    file: str
    judges: Sequence[str]
    is_score: bool
    overall: Measures
    classes: Sequence[ClassMeasures]
    people: Measures | None
    by_rater: Mapping[str, Measures]
    by_check: Mapping[str, Measures]
    by_tag: Mapping[str, Measures]
    disagreements: Sequence[Disagreement]
    without_verdict: Sequence[ItemKey]
    tied: Sequence[ItemKey]
    labels: int
    unfilled: int
    fail_under: float | None
    source: Run

    def __repr__(self) -> str:
        from convbatch.comparison.agreement_render import sentence

        return f"<convbatch.Agreement of {self.run}: {sentence(self)}>"

    @property
    def exit_code(self) -> ExitCode:
        """0 without `fail_under`, or where all of kappa's interval reaches it; 1 where none does; 3 in between."""
        if self.fail_under is None:
            return ExitCode.OK
        ends = self.overall.kappa.ci
        if ends is None or ends.low < self.fail_under <= ends.high:
            return ExitCode.INCOMPLETE
        return ExitCode.OK if ends.low >= self.fail_under else ExitCode.FAILED

    @property
    def gate(self) -> GateResult:
        """What the exit code says."""
        return gate_result(self.exit_code)

    @cached_property
    def differing(self) -> pd.DataFrame:
        """One row per item on which the judge and people differ."""
        import pandas as pd

        from convbatch.comparison.agreement_render import disagreement_record

        return pd.DataFrame([disagreement_record(one) for one in self.disagreements]).convert_dtypes()


def judge_check(run: Run | str | Path, labels: str | Path, *, fail_under: float | None = None) -> Agreement:
    r"""Tell how far the judge of a run agrees with people's labels.

    >>> polite = Dataset([{"id": "a", "turns": [{"user": "Hi", "checks": [{"llm_rubric": "Says 'Hello'."}]}]}])
    >>> judged = convbatch.run(polite, models="sim-good@simulator", judge="sim-judge@simulator")
    >>> _ = Path("labels.csv").write_text("dialogue,turn,label\na,1,pass\n")
    >>> convbatch.judge_check(judged, "labels.csv")
    <convbatch.Agreement ...>

    Args:
        run: A run with `llm_rubric` checks, its path or name, or `RUN:target`.
        labels: CSV, XLSX or JSON lines: dialogue, label, and where needed target, repeat, turn, check, rater, reason.
        fail_under: Kappa that must be reached, for `exit_code`.

    Raises:
        SetupError: The run has no verdicts of a judge.
        InputError: The labels have problems; all are named with their line.
    """
    with named_by_keyword(_KEYWORDS):
        if fail_under is not None and not 0 <= fail_under <= 1:
            raise SetupError(f"--fail-under must be a kappa from 0 to 1, not {fail_under:g}", hint="0.6 is usual")
        return check_judge(run, Path(labels), fail_under=fail_under)


_KEYWORDS = {f"--{name.replace('_', '-')}": name for name in inspect.signature(judge_check).parameters}


def chosen_items(reference: Run | str | Path) -> tuple[Run, dict[ItemKey, Verdict]]:
    """Return a run and the judge's verdicts of its chosen targets."""
    run, target = (reference, None) if isinstance(reference, Run) else split_run_and_target(str(reference))
    items = judged_items(run)
    return run, {key: one for key, one in items.items() if target in (None, key.target)}


def template_frame(run: Run, items: Mapping[ItemKey, Verdict], size: int, seed: int) -> pd.DataFrame:
    """Return the rows of `template_rows`."""
    import pandas as pd

    return pd.DataFrame(template_rows(run, items, size, seed), columns=list(TEMPLATE_COLUMNS))


def check_judge(reference: Run | str | Path, path: Path, *, fail_under: float | None = None) -> Agreement:
    """Do what `judge_check` does, with errors in terms of the command."""
    run, items = chosen_items(reference)
    found = read_labels(path, items)
    by_item: dict[ItemKey, list[Label]] = {}
    for label in found.labels:
        by_item.setdefault(label.key, []).append(label)
    people = {key: _consensus([one.value for one in labels], found) for key, labels in by_item.items()}
    judged = {key: value for key in by_item if (value := _judged(items[key], found)) is not None}
    if not judged:
        raise SetupError(
            "no labelled item has a verdict of the judge", hint="`convbatch check RUN --judge MODEL@GATEWAY` asks it"
        )
    rated = {key: Rated(key.dialogue, judged[key], value) for key, value in people.items()
             if value is not None and key in judged}  # fmt: skip
    if not rated:
        raise SetupError("people have no majority on any judged item", hint="label with an odd number of people")
    raters = list(dict.fromkeys(one.rater for one in found.labels))
    tags = _tags(run)
    checks = sorted({key.check for key in rated})
    names = sorted({tag for key in rated for tag in tags.get(key.dialogue, ())})
    return Agreement(
        run=run.name,
        file=str(path),
        judges=sorted({one.judge for key in judged if (one := items[key]).judge is not None}),
        is_score=found.is_score,
        overall=measures(rated.values(), is_score=found.is_score),
        classes=() if found.is_score else _classes(list(rated.values())),
        people=_among_people(by_item, found) if len(raters) > 1 else None,
        by_rater={
            rater or "(unnamed)": measures(own, is_score=found.is_score)
            for rater in (raters if len(raters) > 1 else ())
            if (
                own := [
                    Rated(one.key.dialogue, judged[one.key], one.value)
                    for one in found.labels
                    if one.rater == rater and one.key in judged
                ]
            )
        },
        by_check={
            name: measures([one for key, one in rated.items() if key.check == name], is_score=found.is_score)
            for name in (checks if len(checks) > 1 else ())
        },
        by_tag={
            name: measures(
                [one for key, one in rated.items() if name in tags.get(key.dialogue, ())], is_score=found.is_score
            )
            for name in names
        },
        disagreements=_disagreements(rated, by_item, items, found),
        without_verdict=[key for key in by_item if key not in judged],
        tied=[key for key, value in people.items() if value is None],
        labels=len(found.labels),
        unfilled=found.unfilled,
        fail_under=fail_under,
        source=run,
    )


def _consensus(values: Sequence[float], found: Labels) -> float | None:
    """Return the mean of scores, the majority of labels; None where there is none."""
    mean = sum(values) / len(values)
    return mean if found.is_score else None if mean == 0.5 else float(mean > 0.5)


def _judged(verdict: Verdict, found: Labels) -> float | None:
    if found.is_score:
        return verdict.score
    return None if verdict.passed is None else float(verdict.passed)


def _tags(run: Run) -> dict[str, tuple[str, ...]]:
    return {name: tuple(tags or ()) for name, tags in read_rows(run.turns_path, ("dialogue", "tags"))}


def _among_people(by_item: Mapping[ItemKey, Sequence[Label]], found: Labels) -> Measures | None:
    # Both orders, because people are interchangeable: neither is the first rater.
    pairs = [
        Rated(key.dialogue, one.value, other.value)
        for key, labels in by_item.items()
        for one, other in itertools.permutations(labels, 2)
    ]
    return measures(pairs, is_score=found.is_score, count=len(pairs) // 2) if pairs else None


def _disagreements(
    rated: Mapping[ItemKey, Rated],
    by_item: Mapping[ItemKey, Sequence[Label]],
    items: Mapping[ItemKey, Verdict],
    found: Labels,
) -> list[Disagreement]:
    differing = [
        Disagreement(
            key=key,
            people=one.other,
            judge=one.one,
            people_reason="; ".join(label.reason for label in by_item[key] if label.reason),
            judge_reason=items[key].reason,
            place=by_item[key][0].place,
        )
        for key, one in rated.items()
        if abs(one.one - one.other) > (0.25 if found.is_score else 0)
    ]
    return sorted(differing, key=lambda one: -abs(one.people - one.judge))


# --- numbers ---------------------------------------------------------------------------------------------------------


def measures(rated: Iterable[Rated], *, is_score: bool, count: int | None = None) -> Measures:
    """Measure how far two raters agree.

    Args:
        rated: Their values.
        is_score: Whether these are scores.
        count: Number of items; None = as many as values.
    """
    values = list(rated)
    sums = _sums(values)
    sides = [Rated(one.dialogue, float(one.one >= 0.5), float(one.other >= 0.5)) for one in values]
    return Measures(
        items=len(values) if count is None else count,
        dialogues=len(sums),
        accuracy=_estimate(_sums(sides), _accuracy),
        kappa=_estimate(sums, _kappa),
        mean_difference=sum(one.one - one.other for one in values) / len(values) if is_score else None,
    )


def _classes(rated: Sequence[Rated]) -> list[ClassMeasures]:
    counts = Counter((one.one, one.other) for one in rated)
    classes: list[ClassMeasures] = []
    for name, value in (("fail", 0.0), ("pass", 1.0)):
        of_class = _sums([Rated(one.dialogue, float(one.one == value), float(one.other == value)) for one in rated])
        classes.append(
            ClassMeasures(
                name=name,
                people=counts[0.0, value] + counts[1.0, value],
                judge=counts[value, 0.0] + counts[value, 1.0],
                both=counts[value, value],
                precision=_estimate(of_class, _precision),
                recall=_estimate(of_class, _recall),
            )
        )
    return classes


def _sums(rated: Sequence[Rated]) -> Floats:
    """Return a row per dialogue: number of values, sums of x, y, x x, y y and x y."""
    import numpy as np

    rows: dict[str, list[float]] = {}
    for name, x, y in rated:
        row = rows.setdefault(name, [0.0] * 6)
        for place, term in enumerate((1.0, x, y, x * x, y * y, x * y)):
            row[place] += term
    return np.array([rows[name] for name in sorted(rows)])


def _estimate(sums: Floats, measure: Callable[[Floats], Floats]) -> Estimate:
    """Return a measure over all dialogues with its interval, which has none with fewer than two dialogues."""
    import numpy as np

    value = float(measure(sums.sum(axis=0)[None, :])[0])
    if len(sums) < 2:
        return Estimate(None if np.isnan(value) else value, None)
    weights = np.random.default_rng(0).standard_exponential((DRAWS, len(sums) + 1))
    half = float(sums[:, 0].max()) / 2
    ends: list[float] = []
    # Half of the additional dialogue passes for the one rater and fails for the other, and the other way round; or
    # both raters pass one half and fail the other.
    for both, share in ((0.0, 0.025), (half, 0.975)):
        more = np.vstack([sums, [2 * half, half, half, half, half, both]])
        drawn = measure(weights @ more)
        ends.append(float(np.nanquantile(drawn, share)))
    if np.isnan(value):
        return Estimate(None, None)
    return Estimate(value, Interval(min(ends[0], value), max(ends[1], value)))


def _accuracy(sums: Floats) -> Floats:
    n, x, y, _, _, xy = sums.T
    return (n - x - y + 2 * xy) / n


def _kappa(sums: Floats) -> Floats:
    """Return kappa with quadratic weights; for two classes it is Cohen's.

    Source: Cohen 1968, Psychological Bulletin 70:213; that it needs means, variances and the covariance only:
        Fleiss and Cohen 1973, Educational and Psychological Measurement 33:613.
    """
    import numpy as np

    n, x, y, xx, yy, xy = sums.T
    mean_x, mean_y = x / n, y / n
    apart = xx / n + yy / n - 2 * mean_x * mean_y
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(apart > 1e-12, 2 * (xy / n - mean_x * mean_y) / apart, np.nan)


def _precision(sums: Floats) -> Floats:
    return _share(sums.T[5], sums.T[1])


def _recall(sums: Floats) -> Floats:
    return _share(sums.T[5], sums.T[2])


def _share(part: Floats, whole: Floats) -> Floats:
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)
