"""Two runs → two comparable sides, or the reason why they are not, and their other differences.

This module selects the targets of each run and decides what must be equal before numbers are compared: content of the
dialogues, history mode and checks. Settings may differ, because they are often what is compared; they are reported.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import orjson

from convbatch.checks.values import NEEDS_A_JUDGE
from convbatch.comparison.pair_stream import TableSide
from convbatch.comparison.pairing import CONVERSATION_COLUMNS, TURN_COLUMNS, ReasonKey
from convbatch.dialogue import NO_VARIANT, SETTING_NAMES, Settings, Variant
from convbatch.errors import SetupError
from convbatch.journal.manifest import ManifestGateway
from convbatch.journal.run_folder import find_run
from convbatch.pricing import NO_EXCHANGE_RATES, ExchangeRates, check_currency, exact, rate_text
from convbatch.results.conversations import dialogues_with_checks
from convbatch.results.missing_verdicts import missing_verdicts
from convbatch.results.parquet import read_rows
from convbatch.results.run import RESULTS, Run, load
from convbatch.results.served import served_counts, served_notes
from convbatch.results.target_names import named_target
from convbatch.results.wire_notes import is_history_cut
from convbatch.served_model import canonical_name

if TYPE_CHECKING:
    from convbatch.journal.run_folder import RunFolder

MAX_EXAMPLES = 3
"""How many dialogues a message names where many differ."""


class AnsweredBy(NamedTuple):
    """Replies of one side by the model that was asked and the one that answered."""

    asked: str
    served: str | None
    """None: the replies name no model."""
    replies: int
    as_asked: bool | None
    """None as `served`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModels:
    """Which models answered on each side."""

    base: Sequence[AnsweredBy] = ()
    candidate: Sequence[AnsweredBy] = ()

    @property
    def one_model(self) -> str | None:
        """The one model that gave every reply of both sides, although they asked for two; None otherwise."""
        shared = self._shared
        is_all = all(canonical_name(one.served or "") in shared for one in (*self.base, *self.candidate))
        return self._first_name(shared) if is_all and len(shared) == 1 and self._asked_differs else None

    @property
    def partly_one_model(self) -> str | None:
        """A model that gave some replies of both sides, although they asked for two."""
        return self._first_name(self._shared) if self._asked_differs and self.one_model is None else None

    def count(self, side: Sequence[AnsweredBy], model: str) -> tuple[int, int]:
        """Return how many replies of a side are of this model, and how many there are."""
        name = canonical_name(model)
        of_model = sum(one.replies for one in side if one.served and canonical_name(one.served) == name)
        return of_model, sum(one.replies for one in side)

    @property
    def _asked_differs(self) -> bool:
        base, candidate = ({canonical_name(one.asked) for one in side} for side in (self.base, self.candidate))
        return base.isdisjoint(candidate)

    @property
    def _shared(self) -> set[str]:
        base, candidate = (
            {canonical_name(one.served) for one in side if one.served} for side in (self.base, self.candidate)
        )
        return base & candidate

    def _first_name(self, names: set[str]) -> str | None:
        return next((one.served for one in self.base if one.served and canonical_name(one.served) in names), None)


NO_SERVED_MODELS = ServedModels()


class ChangedHistories(NamedTuple):
    """Replies of each side to a history from which the provider removed something: the model did not see all of it."""

    base: int = 0
    candidate: int = 0
    base_replies: int = 0
    candidate_replies: int = 0

    def __bool__(self) -> bool:
        return bool(self.base or self.candidate)


NO_CHANGED_HISTORIES = ChangedHistories()


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedRun:
    """A run and the selected targets."""

    run: Run
    targets: tuple[str, ...]
    rates: ExchangeRates = NO_EXCHANGE_RATES

    @property
    def name(self) -> str:
        """The name of the run, with its target if only one is selected."""
        return f"{self.run.name}:{self.targets[0]}" if len(self.targets) == 1 else self.run.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonInputs:
    """Two comparable sides."""

    names: tuple[str, str]
    """Run and target of each side."""
    sides: tuple[TableSide, TableSide]
    history: tuple[str, str]
    notes: Sequence[str]
    """Differences of the sides that do not prevent the comparison."""
    served: ServedModels = NO_SERVED_MODELS
    changed: ChangedHistories = NO_CHANGED_HISTORIES
    allow_mismatch: bool = False
    currency: str | None = None
    """Of every cost; None without any, and where the sides bill in different currencies."""
    selected: tuple[SelectedRun, SelectedRun] | None = None
    """Base and candidate; None for frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostOptions:
    """Prices, exchange rates and currency of the costs."""

    currency: str | None = None
    """None: one of the currencies that the sides bill in."""
    config: Path | None = None
    """Its prices and rates are used instead of those of the runs."""


RECORDED_COSTS = CostOptions()


def load_inputs(
    base: Any, candidate: Any, *, allow_mismatch: bool, costs: CostOptions = RECORDED_COSTS
) -> ComparisonInputs:
    """Find both runs and check that they can be compared.

    Args:
        base: A `Run`, a path or name, `RUN:target`, or a pair of run and target.
        candidate: As `base`.
        allow_mismatch: Report differences of content, history or checks instead of raising.
        costs: Prices and currency of the costs.

    Raises:
        SetupError: There is no such run or target, several targets have different names, there is a mismatch, or no
            rate to the currency that `costs` names.
    """
    first, second = (_at_prices(one, costs.config) for one in select_sides(base, candidate))
    differences = list(_mismatches(first.run, second.run))
    if differences and not allow_mismatch:
        raise SetupError(
            "these runs cannot be compared: " + "; ".join(differences),
            hint="compare runs of the same dataset and history, or use --allow-mismatch to compare what they share",
        )
    conversion = _convert_costs(first, second, costs.currency)
    answered = _answered_by(first), _answered_by(second)
    served = ServedModels(base=answered[0].counts, candidate=answered[1].counts)
    notes = (
        *(f"allowed: {one}" for one in differences),
        *_served_notes(served, answered, allow_mismatch=allow_mismatch),
        *_other_differences(first, second),
        *conversion.notes,
    )
    return ComparisonInputs(
        names=(first.name, second.name),
        sides=(_side(first, conversion), _side(second, conversion)),
        history=(first.run.manifest.history, second.run.manifest.history),
        notes=notes,
        served=served,
        changed=_changed_histories(first, second),
        allow_mismatch=allow_mismatch,
        currency=conversion.currency,
        selected=(first, second),
    )


def select_sides(base: Any, candidate: Any) -> tuple[SelectedRun, SelectedRun]:
    """Find the run and the targets of each side.

    Raises:
        SetupError: There is no such run or target, or several targets have different names.
    """
    first, second = select_run(base), select_run(candidate)
    if len(first.targets) + len(second.targets) > 2 and set(first.targets) != set(second.targets):
        crowded = first if len(first.targets) > 1 else second
        raise SetupError(
            "the runs have several targets, and different ones: "
            f"{', '.join(first.targets)} against {', '.join(second.targets)}",
            hint=f"name one target of each run, e.g. {crowded.run.name}:{crowded.targets[0]}",
        )
    return first, second


def select_run(one: Any) -> SelectedRun:
    """Find a run and its chosen targets; raises `SetupError` where there is none."""
    if not isinstance(one, str | Path | Run) and not (isinstance(one, tuple) and len(cast("Any", one)) == 2):
        hint = "a run, its path or name, RUN:target, or a pair of run and target"
        raise SetupError("one side of the comparison is no run", found=repr(one), hint=hint)
    if isinstance(one, tuple):
        run, target = cast("Any", one)
        return _of_target(run if isinstance(run, Run) else load(run), target)
    if isinstance(one, Run):
        return SelectedRun(run=one, targets=one.targets)
    run, target = split_run_and_target(str(one))
    return SelectedRun(run=run, targets=run.targets) if target is None else _of_target(run, target)


def split_run_and_target(text: str) -> tuple[Run, str | None]:
    """Split `RUN:target` at the first colon after a valid run; a text that is a run as a whole is not split."""
    try:
        return load(text), None
    except SetupError as error:
        parts = text.split(":")
        for end in range(1, len(parts)):
            before = ":".join(parts[:end])
            try:
                find_run(before, RESULTS)
            except SetupError as of_part:
                error = of_part if end == 1 else error
            else:
                return load(before), ":".join(parts[end:])
        raise error from None


def _of_target(run: Run, target: str) -> SelectedRun:
    return SelectedRun(run=run, targets=(named_target(run, target).name,))


def _side(chosen: SelectedRun, conversion: _Conversion) -> TableSide:
    wanted = set(chosen.targets)

    def turns() -> Iterator[Sequence[Any]]:
        rows = read_rows(chosen.run.turns_path, TURN_COLUMNS)
        return (conversion.row(row) for row in rows if row[1] in wanted)

    def conversations() -> Iterator[Sequence[Any]]:
        return (row for row in chosen.run.judged_conversation_rows(CONVERSATION_COLUMNS).rows if row[1] in wanted)

    def reasons() -> Iterator[tuple[str, ReasonKey, str]]:
        names = ("dialogue", "target", "repeat", "turn", "check", "passed", "reason")
        for dialogue, target, repeat, turn, check, passed, reason in read_rows(chosen.run.verdicts_path, names):
            if passed is False and target in wanted:
                yield dialogue, (target, repeat, turn), f"{check}: {reason}"

    return TableSide(turns=turns, conversations=conversations, reasons=reasons, has_targets=len(wanted) > 1)


# --- costs in one currency -------------------------------------------------------------------------------------------

_COST, _CURRENCY = TURN_COLUMNS.index("cost"), TURN_COLUMNS.index("currency")


def _at_prices(chosen: SelectedRun, config: Path | None) -> SelectedRun:
    if config is None:
        return replace(chosen, rates=chosen.run.manifest.rates)
    from convbatch.config.loader import load_config
    from convbatch.reporting.runs import reprice

    run, rates = reprice(chosen.run, load_config(config))
    return replace(chosen, run=run, rates=rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conversion:
    """What makes the costs of both sides amounts of one currency."""

    currency: str | None = None
    """None: costs stay as they are, in several currencies or unknown."""
    factors: Mapping[str, Fraction]
    """By currency of a cost."""
    notes: tuple[str, ...] = ()

    def row(self, row: Sequence[Any]) -> Sequence[Any]:
        """Return a row of `TURN_COLUMNS` with its cost converted."""
        cost, currency = row[_COST], row[_CURRENCY]
        if cost is None or currency == self.currency or currency not in self.factors:
            return row
        converted = list(row)
        converted[_COST], converted[_CURRENCY] = float(Fraction(exact(cost)) * self.factors[currency]), self.currency
        return converted


def _convert_costs(base: SelectedRun, candidate: SelectedRun, wanted: str | None) -> _Conversion:
    """Find one rate for each currency of both sides, so that a rate that changed between them is no difference."""
    found = list(dict.fromkeys([*_currencies(base), *_currencies(candidate)]))
    check_currency(wanted)
    if not found or (wanted is None and len(found) == 1):
        return _Conversion(currency=found[0] if found else wanted, factors={})
    rates = base.rates, candidate.rates
    for currency in [wanted] if wanted else found:
        factors = {one: _factor(rates, one, currency) for one in found}
        known = {one: factor for one, factor in factors.items() if factor is not None}
        if len(known) == len(found):
            notes = (note for one in found if one != currency for note in _rate_notes(rates, one, currency))
            return _Conversion(currency=currency, factors=known, notes=tuple(notes))
    if wanted is not None:
        missing = [one for one in found if _factor(rates, one, wanted) is None]
        raise SetupError(
            f"there is no exchange rate from {' or '.join(missing)} to {wanted}", hint=_rate_hint(missing, wanted)
        )
    hint = _rate_hint(found[1:], found[0])
    return _Conversion(factors={}, notes=(f"costs are in {' and '.join(found)}, without a rate between them: {hint}",))


def _currencies(chosen: SelectedRun) -> list[str]:
    known = {one.name: one.prices for one in chosen.run.manifest.targets}
    return [prices.currency for name in chosen.targets if (prices := known[name]) is not None]


def _factor(rates: tuple[ExchangeRates, ExchangeRates], one: str, other: str) -> Fraction | None:
    """Return the factor by the rates of the base, else by those of the candidate."""
    return next((factor for each in rates if (factor := each.factor(one, other)) is not None), None)


def _rate_notes(rates: tuple[ExchangeRates, ExchangeRates], one: str, other: str) -> Iterator[str]:
    first, second = (each.factor(one, other) for each in rates)
    used = first if first is not None else second
    if used is not None:
        yield f"costs in {other}: {rate_text(one, other, used)} by [rates]"
    if first is not None and second is not None and first != second:
        yield f"the candidate's run has another rate, {rate_text(one, other, second)}; that of the base is used"


def _rate_hint(currencies: Sequence[str], other: str) -> str:
    lines = [f'"{one}/{other}" = <{other} for 1 {one}>' for one in currencies]
    return f"below [rates] in convbatch.toml write {', '.join(lines)}; then add -c convbatch.toml"


# --- what must be equal ----------------------------------------------------------------------------------------------


def _mismatches(base: Run, candidate: Run) -> Iterator[str]:
    if base.path == candidate.path:
        return
    if base.manifest.history != candidate.manifest.history:
        yield f"history {base.manifest.history} against {candidate.manifest.history}"
    judges = [_judge_name(run) for run in (base, candidate) if _asks_a_judge(run)]
    if len(set(judges)) > 1:
        yield f"judged by {judges[0] or 'no judge'} against {judges[1] or 'no judge'}"
    if _same_copy(base, candidate):
        return
    first, second = _digests(base.folder), _digests(candidate.folder)
    both = first.keys() & second.keys()
    for place, what in ((0, "different content"), (1, "different checks")):
        different = sorted(name for name in both if first[name][place] != second[name][place])
        if different:
            yield f"{len(different):,} of {len(both):,} shared dialogues have {what} ({_list_names(different)})"


def _judge_name(run: Run) -> str | None:
    judge = run.manifest.current_judge
    return None if judge is None else judge.name


def _asks_a_judge(run: Run) -> bool:
    """Return whether a current check needs a judge; edited checks may, even if the original ones did not."""
    kinds = read_rows(run.verdicts_path, ("kind",))
    return any(kind.removeprefix("not_") == NEEDS_A_JUDGE for (kind,) in kinds)


def _same_copy(base: Run, candidate: Run) -> bool:
    """Return whether both runs certainly have the same dialogues and checks."""
    first, second = (run.manifest.dataset.sha256 for run in (base, candidate))
    edited = base.folder.checks.exists() or candidate.folder.checks.exists()
    return first is not None and first == second and not edited


def _digests(folder: RunFolder) -> dict[str, tuple[int, int, int]]:
    """Return hashes of content, checks and settings by dialogue, so that memory does not grow with the texts."""
    digests: dict[str, tuple[int, int, int]] = {}
    for _, dialogue, judged_by in dialogues_with_checks(folder):
        plain = dialogue.to_plain()
        checks = [judged_by.checks, *(turn.checks for turn in judged_by.turns)]
        for turn in (plain, *plain["turns"]):
            turn.pop("checks", None)
        settings = {n: own for n, one in enumerate((plain, *plain["turns"])) if (own := one.pop("settings", None))}
        for name in ("tags", "meta"):
            plain.pop(name, None)
        digests[dialogue.id] = (_digest(plain), _digest(checks), _digest(settings))
    return digests


def _digest(value: Any) -> int:
    return hash(orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS))


def _list_names(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_EXAMPLES]) + (", …" if len(names) > MAX_EXAMPLES else "")


# --- who answered ----------------------------------------------------------------------------------------------------


class _Answered(NamedTuple):
    counts: tuple[AnsweredBy, ...]
    notes: tuple[str, ...]
    """On replies of models that were not asked."""


def _answered_by(chosen: SelectedRun) -> _Answered:
    names = ("target", "finish_reason", "model_version")
    replies: defaultdict[str, Counter[str | None]] = defaultdict(Counter)
    for target, finish_reason, served in read_rows(chosen.run.turns_path, names):
        if finish_reason is not None and target in chosen.targets:
            replies[target][served] += 1
    recorded = [one for one in chosen.run.manifest.targets if one.name in replies]
    counted = [(one, served_counts(one, replies[one.name])) for one in recorded]
    return _Answered(
        tuple(AnsweredBy(one.model, n.served, n.replies, n.as_asked) for one, counts in counted for n in counts),
        tuple(note for one, counts in counted for note in served_notes(one, counts)),
    )


def _changed_histories(base: SelectedRun, candidate: SelectedRun) -> ChangedHistories:
    """Count the replies to histories that a provider cut, of all on each side."""
    counts: list[tuple[int, int]] = []
    for chosen in (base, candidate):
        rows = read_rows(chosen.run.turns_path, ("target", "finish_reason", "wire_note"))
        notes = [note for target, finish, note in rows if finish is not None and target in chosen.targets]
        counts.append((sum(map(is_history_cut, notes)), len(notes)))
    return ChangedHistories(counts[0][0], counts[1][0], counts[0][1], counts[1][1])


def _served_notes(
    served: ServedModels, answered: tuple[_Answered, _Answered], *, allow_mismatch: bool
) -> Iterator[str]:
    if served.one_model is not None:
        what = f"both sides were served by one model, {served.one_model}, under two names"
        yield f"allowed: {what}" if allow_mismatch else f"{what}: nothing is concluded (--allow-mismatch compares them)"
    elif served.partly_one_model is not None:
        model = served.partly_one_model
        base, candidate = (
            f"{count:,} of {total:,} replies"
            for count, total in (served.count(side, model) for side in (served.base, served.candidate))
        )
        yield f"one model, {model}, served {base} of the base and {candidate} of the candidate"
    for side, one in zip(("base", "candidate"), answered, strict=True):
        yield from (f"{side}: {note}" for note in one.notes)


# --- what may differ -------------------------------------------------------------------------------------------------


def _other_differences(base: SelectedRun, candidate: SelectedRun) -> Iterator[str]:
    first, second = base.run, candidate.run
    if first.path == second.path and base.targets == candidate.targets:
        yield "both sides are the same run and target, compared with itself"
    yield from _differing("", first.manifest.settings, second.manifest.settings)
    if first.manifest.repeats != second.manifest.repeats:
        yield f"repeats: {first.manifest.repeats} against {second.manifest.repeats}; each side is averaged"
    for one, other in zip(sorted(base.targets), sorted(candidate.targets), strict=True):
        left_gateway, right_gateway = _gateway(first, one), _gateway(second, other)
        yield from _differing_variants(_variant(first, one), _variant(second, other))
        yield from _differing("gateway ", left_gateway.settings, right_gateway.settings)
        yield from _differing_keys(left_gateway, right_gateway)
    if not _same_copy(first, second) and first.path != second.path:
        left, right = _digests(first.folder), _digests(second.folder)
        different = sorted(name for name in left.keys() & right.keys() if left[name][2] != right[name][2])
        if different:
            whose = ("dialogues have", "their") if len(different) > 1 else ("dialogue has", "its")
            yield f"{len(different):,} {whose[0]} different settings of {whose[1]} own ({_list_names(different)})"
    for side, chosen in (("base", base), ("candidate", candidate)):
        for note in missing_verdicts(chosen.run).notes(chosen.targets):
            yield f"{side}: {note}"
        simulated = [target for target in chosen.targets if target.endswith("@simulator")]
        if chosen.run.damaged_places:
            yield f"{side}: {chosen.run.damaged_places} damaged places in the journal are left out"
        if simulated:
            yield f"SIMULATED {side}, no model was asked: {', '.join(simulated)}"


def _gateway(run: Run, target: str) -> ManifestGateway:
    return next(known.gateway for known in run.manifest.targets if known.name == target)


def _variant(run: Run, target: str) -> Variant | None:
    return next(known.variant for known in run.manifest.targets if known.name == target)


def _differing_variants(base: Variant | None, candidate: Variant | None) -> Iterator[str]:
    """Yield in what the dialogues are worded differently: that is what is compared, and no mismatch."""
    first, second = (Variant(name=NO_VARIANT) if one is None else one for one in (base, candidate))
    parts = [name for name in ("system", "prefix", "suffix") if getattr(first, name) != getattr(second, name)]
    if parts:
        yield f"variant {first.name} against {second.name}: another {' and '.join(parts)}"
    yield from _differing("variant ", first.settings, second.settings)


def _differing_keys(base: ManifestGateway, candidate: ManifestGateway) -> Iterator[str]:
    """Yield the keys that change what a model sees, which part of a reply is judged, or what a latency is."""
    if set(base.unset) != set(candidate.unset):
        yield f"gateway key unset: {_display_setting(base.unset)} against {_display_setting(candidate.unset)}"
    for key in ("stream", "system_role", "replay", "thinking_tags"):
        first, second = base.other.get(key), candidate.other.get(key)
        if first != second:
            yield f"gateway key {key}: {_display_setting(first)} against {_display_setting(second)}"


def _differing(where: str, base: Settings, candidate: Settings) -> Iterator[str]:
    for name in SETTING_NAMES:
        first, second = getattr(base, name), getattr(candidate, name)
        if first != second:
            yield f"{where}setting {name}: {_display_setting(first)} against {_display_setting(second)}"


def _display_setting(value: Any) -> str:
    return "not set" if value is None else orjson.dumps(value).decode()
