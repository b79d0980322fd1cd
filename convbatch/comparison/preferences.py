"""`prefer`: the answers of a judge to `preference_plan.py` → which targets it prefers, and how far it can be believed.

A target wins a comparison where the judge names it in both orders; where the two answers differ it is a tie. Output is
`preference_render.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from convbatch.checks.llm_rubric import UnreadableAnswer
from convbatch.checks.pairwise import read_choice
from convbatch.comparison.bradley_terry import Fitted, fit
from convbatch.comparison.compare import MARGIN, MAX_LOST, ComparisonRules
from convbatch.comparison.metrics import DialogueValue, TestLevels, measure_values
from convbatch.comparison.preference_plan import IDENTICAL, META, NO_REPLY, PreferencePlan, Settled
from convbatch.comparison.rank import better_of, group_letters, simultaneous_interval
from convbatch.comparison.stats import Interval, cluster_mean, t_quantile
from convbatch.errors import SetupError, did_you_mean
from convbatch.exit_codes import ExitCode, GateResult, gate_result
from convbatch.journal.index import Archive, TurnHistory
from convbatch.journal.manifest import ManifestTarget
from convbatch.reply import is_open
from convbatch.results.conversations import stored_conversations
from convbatch.results.run import Run
from convbatch.served_model import canonical_name

if TYPE_CHECKING:
    import pandas as pd

BIAS_LEVEL = 0.05
SIMILAR = 0.9
"""Replies are of similar length if the shorter one has at least this share of the longer one's characters."""
NOT_ANSWERED = "the judge has not answered"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceRules:
    """Rules of a result.

    Raises:
        SetupError: Alpha is out of range.
    """

    alpha: float = 0.05
    """Chance of any false claim, over all pairs together."""
    fail_if_beaten: str | None = None
    """A target; `exit_code` is 1 if another one is proven to be preferred."""

    def __post_init__(self) -> None:
        ComparisonRules(alpha=self.alpha)


class Compared(NamedTuple):
    """One comparison of two targets."""

    dialogue: str
    turn: int | None
    repeat: int
    check: str
    first: str
    second: str
    score: float | None
    """1: the first is better, 0: the second, 0.5: a tie; None: no verdict."""
    why: str = ""
    """Why it was not asked, or has no verdict."""
    choices: tuple[str | None, str | None] = (None, None)
    """What the judge named: with the first target in front, then with the second; None: no verdict."""
    reasons: tuple[str, str] = ("", "")
    lengths: tuple[int, int] | None = None
    """Characters of the first and the second target; None: not asked."""

    @property
    def differs(self) -> bool | None:
        """Whether the two orders gave different verdicts; None: not both did."""
        return None if None in self.choices else self.choices[0] != self.choices[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of something, with its 95 % interval by dialogues; both None where there is nothing to count."""

    value: float | None
    ci: Interval | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPreference:
    """Two targets."""

    first: str
    second: str
    wins: int
    ties: int
    losses: int
    """Of the first target."""
    left_out: int
    """Comparisons without a verdict."""
    dialogues: int
    share: float | None
    """Of the first target: wins, and half of the ties; None: no verdict."""
    ci: Interval | None
    """Of the share; the intervals of all pairs hold at once. None: no verdict, or too few to tell."""
    p_adjusted: float | None
    """p times the number of pairs, at most 1."""
    similar: Share
    """The same, of replies of similar length."""
    better: str | None
    """The target that is proven to be preferred; None: the two are not told apart."""
    why_open: str = ""
    """Why nothing is concluded from the numbers; empty where they decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferredTarget:
    """A target in the order of preference."""

    name: str
    share: float | None
    """Mean chance to win against another target, by Bradley and Terry; ties as half. None: no verdict at all."""
    ci: Interval | None
    """Of the share, simultaneous over all targets."""
    strength: float | None
    """Natural logarithm of the odds, against the mean of all; None: it has no lower or no upper limit."""
    groups: str
    wins: int
    ties: int
    losses: int
    better_than: Sequence[str]
    worse_than: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """Result of `prefer`.

    >>> convbatch.prefer(both, judge="sim-judge-long@simulator", rubric="The reply is polite.")
    <convbatch.Preferences of 2 targets: No preference between 2 targets is proven>

    Attributes:
        run: The run that asked the judge; None where no question was needed.
        targets: The most preferred first.
        pairs: Every pair, in the order of `targets`.
        position: Of the answers that name a reply: those that name the one in front.
        differing: Of the comparisons with two verdicts: those where they differ.
        longer: Of the comparisons that have a winner, of different length: those that the longer reply won.
        unasked: Comparisons without a question, by reason.
        without_verdict: Questions without a verdict, by reason.
        is_complete: Whether the judge has answered every question.
    """

    rules: PreferenceRules
    run: Run | None
    judge: str | None
    rubrics: Sequence[str]
    targets: Sequence[PreferredTarget]
    pairs: Sequence[PairPreference]
    position: Share
    differing: Share
    longer: Share
    comparisons: Sequence[Compared]
    unasked: Mapping[str, int]
    without_verdict: Mapping[str, int]
    questions: int
    is_complete: bool
    notes: Sequence[str]

    def __repr__(self) -> str:
        from convbatch.comparison.preference_render import sentence

        return f"<convbatch.Preferences of {len(self.targets)} targets: {sentence(self)}>"

    def _repr_html_(self) -> str:
        """Return a row per target, for notebooks."""
        from convbatch.comparison.preference_render import to_html_summary

        return to_html_summary(self)

    @property
    def proven(self) -> Sequence[PairPreference]:
        """The proven preferences."""
        return [one for one in self.pairs if one.better is not None]

    @property
    def exit_code(self) -> ExitCode:
        """0; 3 while the judge has not answered; with `fail_if_beaten` 1 if it is beaten, 3 if a pair of it is open."""
        name = self.rules.fail_if_beaten
        mine = [one for one in self.pairs if name in (one.first, one.second)] if name else []
        if any(one.better not in (None, name) for one in mine):
            return ExitCode.FAILED
        is_open = not self.is_complete or any(one.why_open for one in mine)
        return ExitCode.INCOMPLETE if is_open else ExitCode.OK

    @property
    def gate(self) -> GateResult:
        """What the exit code says of a release."""
        return gate_result(self.exit_code)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per target, as in `--json`."""
        return self._frame("target_record", self.targets)

    @cached_property
    def pair_table(self) -> pd.DataFrame:
        """One row per pair of targets, as in `--json`."""
        return self._frame("pair_record", self.pairs)

    @cached_property
    def comparison_table(self) -> pd.DataFrame:
        """One row per comparison of two replies."""
        return self._frame("comparison_record", self.comparisons)

    def _frame(self, record: str, rows: Sequence[Any]) -> pd.DataFrame:
        import pandas as pd

        from convbatch.comparison import preference_render

        return pd.DataFrame([getattr(preference_render, record)(one) for one in rows]).convert_dtypes()


def check_beaten(rules: PreferenceRules, names: Sequence[str]) -> None:
    """Refuse a gate of a target that is not compared.

    Raises:
        SetupError: It is not.
    """
    if rules.fail_if_beaten is not None and rules.fail_if_beaten not in names:
        hint = did_you_mean(rules.fail_if_beaten, names)
        raise SetupError(f"--fail-if-beaten names no compared target: {rules.fail_if_beaten!r}", hint=hint)


# --- reading ---------------------------------------------------------------------------------------------------------


def is_preference_run(run: Run) -> bool:
    """Whether a run asked a judge about preferences."""
    return any(source.path.startswith("prefer (") for source in run.manifest.dataset.sources)


def read_preferences(run: Run, rules: PreferenceRules) -> Preferences:
    """Read the answers in a run that asked a judge.

    Raises:
        SetupError: The run did, or the gate names none of its targets.
    """
    compared: dict[int, Compared] = {}
    head: Mapping[str, Any] | None = None
    reasons: list[str] = []
    with Archive(run.folder) as archive:
        for stored in stored_conversations(run.folder, run.manifest, archive):
            about = (stored.dialogue.meta or {}).get(META)
            if not isinstance(about, Mapping):
                break
            about = dict(about)
            head = about.get("head", head)
            answer = _read_answer(stored.dialogue.turns[0].user_text, stored.turns.get(1))
            if answer.winner is None:
                reasons.append(answer.why)
            _add(compared, about, answer)
    if head is None:
        raise SetupError(
            f"run {run.name} did not ask a judge which replies it prefers",
            hint="name the runs to compare and a judge: convbatch prefer RUN --judge MODEL@GATEWAY",
        )
    settled = [Settled(*one) for one in head["settled"]]
    found = summarise([*map(_combined, compared.values()), *map(_of_settled, settled)], head["targets"], rules)
    judges = ", ".join(run.targets)
    return replace(
        found,
        run=run,
        judge=judges,
        rubrics=head["rubrics"],
        without_verdict={why: reasons.count(why) for why in dict.fromkeys(reasons)},
        questions=2 * len(compared),
        is_complete=not any(why.startswith(NOT_ANSWERED) for why in reasons),
        notes=(*_notes(head, run.manifest.targets), *found.notes),
    )


def settled_preferences(plan: PreferencePlan, rules: PreferenceRules) -> Preferences:
    """Return the result of a plan without questions."""
    found = summarise(list(map(_of_settled, plan.settled)), plan.targets, rules)
    return replace(found, rubrics=plan.head["rubrics"], notes=(*_notes(plan.head, ()), *found.notes))


def _notes(head: Mapping[str, Any], judges: Iterable[ManifestTarget]) -> Iterator[str]:
    yield from head["notes"]
    models = {canonical_name(one.model) for one in judges}
    own = [target for target, model in zip(head["targets"], head["models"], strict=True) if model in models]
    if own:
        yield f"WARNING: the judge compares replies of its own model, which it may favour: {', '.join(own)}"
    simulated = [*head["simulated"], *(one.name for one in judges if one.simulated)]
    if simulated:
        yield "SIMULATED, no model was asked: " + ", ".join(dict.fromkeys(simulated))


class _Answer(NamedTuple):
    winner: str | None
    why: str
    """The reason of the judge, or why there is no verdict."""


def _read_answer(question: str, past: TurnHistory | None) -> _Answer:
    if past is None or is_open(past.status, past.error_kind):
        return _Answer(None, NOT_ANSWERED)
    reply = past.reply
    text = reply.get("text") or "" if past.status == "ok" else ""
    if not text.strip():
        return _Answer(None, f"the judge gave no answer: {past.error_kind or past.status}")
    try:
        choice = read_choice(text, orjson.loads(question)["id"], is_cut=reply.get("finish_reason") == "length")
    except UnreadableAnswer as error:
        return _Answer(None, f"the judge's answer could not be read: {error}")
    return _Answer(choice.winner, choice.reason)


def _add(compared: dict[int, Compared], about: Mapping[str, Any], answer: _Answer) -> None:
    """Add the answer to a question to its comparison; the first target is the one in front in the first order."""
    number = about["number"]
    named = answer.winner if answer.winner in (None, "tie") else about[answer.winner]
    one = compared.get(number)
    if one is None:
        names = about["A"], about["B"]
        lengths = about["length"]["A"], about["length"]["B"]
        where = (about["dialogue"], about["turn"], about["repeat"], about["check"])
        compared[number] = Compared(*where, *names, None, "", (named, None), (answer.why, ""), lengths)
    else:
        compared[number] = one._replace(choices=(one.choices[0], named), reasons=(one.reasons[0], answer.why))


def _combined(one: Compared) -> Compared:
    if None in one.choices:
        why = next(why for named, why in zip(one.choices, one.reasons, strict=True) if named is None)
        return one._replace(why=why)
    named = one.choices[0] if one.choices[0] == one.choices[1] else "tie"
    return one._replace(score=1.0 if named == one.first else 0.0 if named == one.second else 0.5)


def _of_settled(one: Settled) -> Compared:
    return Compared(*one)


# --- numbers ---------------------------------------------------------------------------------------------------------


def summarise(comparisons: Sequence[Compared], names: Sequence[str], rules: PreferenceRules) -> Preferences:
    """Return the result of comparisons.

    Args:
        comparisons: Of these targets.
        names: All targets.
        rules: Alpha and the gate.

    Raises:
        SetupError: The gate names no target.
    """
    check_beaten(rules, names)
    places = list(itertools.combinations(names, 2))
    by_pair: dict[tuple[str, str], list[Compared]] = {at: [] for at in places}
    for one in comparisons:
        by_pair[one.first, one.second].append(one)
    pairs = [_pair(at, own, rules.alpha, len(places)) for at, own in by_pair.items()]
    targets = _targets(comparisons, names, pairs, rules.alpha)
    order = [one.name for one in targets]
    asked = [one for one in comparisons if one.lengths is not None]
    found = Preferences(
        rules=rules,
        run=None,
        judge=None,
        rubrics=(),
        targets=targets,
        pairs=sorted(pairs, key=lambda one: sorted(map(order.index, (one.first, one.second)))),
        position=_share(
            (one.dialogue, float(named == in_front))
            for one in asked
            for named, in_front in zip(one.choices, (one.first, one.second), strict=True)
            if named not in (None, "tie")
        ),
        differing=_share((one.dialogue, float(one.differs)) for one in asked if one.differs is not None),
        longer=_share(
            (one.dialogue, float((one.score == 1) == (one.lengths[0] > one.lengths[1])))
            for one in asked
            if one.score in (0, 1) and one.lengths is not None and one.lengths[0] != one.lengths[1]
        ),
        comparisons=comparisons,
        unasked=_count(one.why for one in comparisons if one.lengths is None),
        without_verdict={},
        questions=0,
        is_complete=True,
        notes=(),
    )
    return replace(found, notes=tuple(_biases(found)))


def _count(whys: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for why in whys:
        found[why] = found.get(why, 0) + 1
    return found


def _biases(found: Preferences) -> Iterator[str]:
    front = found.position
    if front.ci is not None and not front.ci.low <= 0.5 <= front.ci.high:
        place = "first" if front.ci.low > 0.5 else "second"
        yield (
            f"WARNING: the judge favours the {place} place; both orders are asked, so it favours no target by this, "
            "but many of its answers say nothing"
        )
    length = found.longer
    if length.ci is not None and not length.ci.low <= 0.5 <= length.ci.high:
        which = "longer" if length.ci.low > 0.5 else "shorter"
        yield (
            f"WARNING: {which} replies win more often: they may be better here, or the judge prefers them; compare the "
            "shares among replies of similar length"
        )


def _values(rated: Iterable[tuple[str, float]]) -> dict[str, DialogueValue]:
    """Return sums and counts by dialogue."""
    found: dict[str, DialogueValue] = {}
    for name, value in rated:
        before = found.get(name, DialogueValue(0.0, 0.0, 0.0))
        found[name] = DialogueValue(before.base + value, 0.0, before.size + 1)
    return found


def _share(rated: Iterable[tuple[str, float]], level: float = BIAS_LEVEL) -> Share:
    values = list(_values(rated).values())
    if not values:
        return Share(value=None, ci=None, count=0)
    count = math.fsum(one.size for one in values)
    share = math.fsum(one.base for one in values) / count
    return Share(value=share, ci=simultaneous_interval(values, level), count=int(count))


def _pair(names: tuple[str, str], own: Sequence[Compared], alpha: float, tests: int) -> PairPreference:
    """Compare two targets as `rank` does: wins and losses are what each side alone passed, a tie is neither."""
    by_dialogue: dict[str, list[float]] = {}
    for one in own:
        if one.score is not None:
            by_dialogue.setdefault(one.dialogue, []).append(one.score)
    values = [DialogueValue(all_.count(0.0), all_.count(1.0), len(all_)) for all_ in by_dialogue.values()]
    is_single = all(value.size == 1 for value in values)
    levels = TestLevels(alpha=alpha / tests, margin=MARGIN)
    result = measure_values("turn_pass", values, levels, passes_or_fails=is_single)
    lost = 1 - sum(map(len, by_dialogue.values())) / len(own) if own else 1.0
    why = (
        ""
        if lost <= MAX_LOST
        else f"{100 * lost:.0f} % of the comparisons have no verdict"
        if own
        else "nothing to compare"
    )
    p = None if result is None or result.p is None else min(1.0, result.p * tests)
    ends = None if result is None else result.ci if is_single else difference_interval(values, levels.alpha)
    side = None if why or p is None else better_of(ends, p, alpha)
    scores = [score for all_ in by_dialogue.values() for score in all_]
    return PairPreference(
        first=names[0],
        second=names[1],
        wins=scores.count(1.0),
        ties=scores.count(0.5),
        losses=scores.count(0.0),
        left_out=len(own) - len(scores),
        dialogues=len(values),
        share=None if result is None else 0.5 + result.difference / 2,
        ci=None if ends is None else Interval(0.5 + ends.low / 2, 0.5 + ends.high / 2),
        p_adjusted=p,
        similar=_share((one.dialogue, one.score) for one in own if one.score is not None and _is_similar(one)),
        better=None if side is None else names[1 - side],
        why_open=why,
    )


def difference_interval(values: Sequence[DialogueValue], level: float) -> Interval:
    """Return an interval of wins minus losses, per comparison, from dialogues with several comparisons.

    A t interval by dialogues, after half a dialogue of mean size in which all is won and half of one in which all is
    lost were added: few dialogues that mostly agree look steadier than they are. t is taken of as many equal dialogues
    as the uneven ones are worth, (sum n)^2 / sum n^2.

    Args:
        values: Losses (`base`), wins (`candidate`) and comparisons of each dialogue.
        level: Error probability.

    Source: the added halves after Agresti and Coull 1998, American Statistician 52:119; Kish 1965, Survey Sampling,
        section 11.7, for the worth; the use of both here is ours (`python -m benchmarks -s prefer`).
    """
    half = math.fsum(one.size for one in values) / len(values) / 2
    sums = [*(one.candidate - one.base for one in values), half, -half]
    sizes = [*(one.size for one in values), half, half]
    plain = math.fsum(sums) / math.fsum(sizes[:-2])
    found = cluster_mean(sums, sizes)
    worth = math.fsum(sizes) ** 2 / math.fsum(size**2 for size in sizes)
    assert found.se is not None, "one half is won and one is lost"
    groups = len(sums)
    spread = found.se * math.sqrt((groups - 1) / groups * worth / (worth - 1))
    reach = t_quantile(1 - level / 2, worth - 1) * spread
    return Interval(
        max(-1.0, min(plain, found.estimate - reach)),
        min(1.0, max(plain, found.estimate + reach)),
    )


def _is_similar(one: Compared) -> bool:
    return one.lengths is not None and min(one.lengths) >= SIMILAR * max(one.lengths)


def win_table(comparisons: Iterable[Compared], names: Sequence[str]) -> Any:
    """Return wins by dialogue, target and other target, as `bradley_terry.fit` takes them."""
    import numpy as np

    known = [(one, one.score) for one in comparisons if one.score is not None]
    dialogues = {name: n for n, name in enumerate(dict.fromkeys(one.dialogue for one, _ in known))}
    place = {name: n for n, name in enumerate(names)}
    wins = np.zeros((len(dialogues), len(names), len(names)))
    for one, score in known:
        at, a, b = dialogues[one.dialogue], place[one.first], place[one.second]
        wins[at, a, b] += score
        wins[at, b, a] += 1 - score
    return wins


def _targets(
    comparisons: Sequence[Compared], names: Sequence[str], pairs: Sequence[PairPreference], alpha: float
) -> list[PreferredTarget]:
    shares = 1 if len(names) == 2 else len(names)  # of two targets the one share is the other's complement
    wins = win_table(comparisons, names)
    fitted: dict[str, Fitted] = dict(zip(names, fit(wins, alpha / shares), strict=True)) if len(wins) else {}
    order = sorted(names, key=lambda name: (-round(fitted[name].share, 9) if fitted else 0.0, name))
    letters = group_letters(order, pairs)
    found: list[PreferredTarget] = []
    for name in order:
        mine = [(one, one.first == name) for one in pairs if name in (one.first, one.second)]
        other = {id(one): one.second if is_first else one.first for one, is_first in mine}
        found.append(
            PreferredTarget(
                name=name,
                share=fitted[name].share if fitted else None,
                ci=fitted[name].ci if fitted else None,
                strength=fitted[name].strength if fitted and all(fitted[name].is_bounded) else None,
                groups=letters[name],
                wins=sum(one.wins if is_first else one.losses for one, is_first in mine),
                ties=sum(one.ties for one, _ in mine),
                losses=sum(one.losses if is_first else one.wins for one, is_first in mine),
                better_than=[other[id(one)] for one, _ in mine if one.better == name],
                worse_than=[other[id(one)] for one, _ in mine if one.better not in (None, name)],
            )
        )
    return found


SETTLED_WORDS = {IDENTICAL: "identical, a tie each", NO_REPLY: "a turn failed, the other target wins"}
"""What became of the comparisons without a question; all others are left out."""
